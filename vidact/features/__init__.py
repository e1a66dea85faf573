"""Features: a chunk of frames becomes one vector; files, training and streams use the same extractor."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

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

__getattr__, __dir__ = late_names(__name__, _HOMES)
