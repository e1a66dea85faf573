"""vidact: from raw video to trained recognisers, online detectors and live answers."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["load", "open_video", "predict"]

if TYPE_CHECKING:
    from vidact.models.weights import load
    from vidact.prediction import predict
    from vidact.video.decode import open_video

_HOMES = {"load": "vidact.models.weights", "open_video": "vidact.video.decode", "predict": "vidact.prediction"}


def __getattr__(name: str) -> Any:
    """Resolve the few names a notebook needs when they are first used, so that ``import vidact`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vidact' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
