"""The import of torchvision without PyTorch's compiler, whose import takes longer than that of all other packages.

``torchvision.ops`` imports one function of ``torch._dynamo.utils``, which it calls in an operator of object detection.
While torchvision is imported, a module with this function stands in for ``torch._dynamo.utils``; the function imports
the real module when it is called. ``vidact.models`` imports this file before any other, so its files write
``import torchvision`` as usual.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo.utils"


class _StandIn(ModuleType):
    """A module with ``is_compile_supported``; a request for another name imports the real module."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        return import_module(COMPILER).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(import_module(COMPILER), name)


def _import_torchvision() -> None:
    if "torchvision" in sys.modules or COMPILER in sys.modules:
        import_module("torchvision")
        return
    stand_in = sys.modules[COMPILER] = _StandIn(COMPILER)
    try:
        import_module("torchvision")
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


_import_torchvision()
