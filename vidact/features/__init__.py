"""Features: a chunk of frames becomes one vector; files, training and streams use the same extractor."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidact.features.extractor import FeatureExtractor, FeatureStream
    from vidact.features.files import Extraction, extract_features
    from vidact.features.names import build_extractor, build_network, image_backbone
    from vidact.features.record import differences, other_features

__all__ = [
    "Extraction",
    "FeatureExtractor",
    "FeatureStream",
    "build_extractor",
    "build_network",
    "differences",
    "extract_features",
    "image_backbone",
    "other_features",
]

_HOMES = {
    "FeatureExtractor": "extractor",
    "FeatureStream": "extractor",
    "Extraction": "files",
    "extract_features": "files",
    "build_extractor": "names",
    "build_network": "names",
    "image_backbone": "names",
    "differences": "record",
    "other_features": "record",
}


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
