"""The builders of vidact.models by what they build."""

from typing import get_type_hints

import vidact.models
from vidact.models.weights import is_builder


def builders_of(contract: type) -> set[str]:
    """The names of the functions that return networks of this class."""
    functions = {name: getattr(vidact.models, name) for name in vidact.models.__all__}
    return {
        name
        for name, function in functions.items()
        if is_builder(function) and issubclass(get_type_hints(function)["return"], contract)
    }
