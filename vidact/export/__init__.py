"""Networks for other runtimes: ONNX and torch.export files, and how they run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidact.export.runtime import OnnxClip, OnnxExtractor, OnnxFrameStep, OnnxStep, load_onnx, open_onnx
    from vidact.export.write import Exported, export

__all__ = [
    "Exported",
    "OnnxClip",
    "OnnxExtractor",
    "OnnxFrameStep",
    "OnnxStep",
    "export",
    "load_onnx",
    "open_onnx",
]

_HOMES = {
    "Exported": "write",
    "export": "write",
    "OnnxClip": "runtime",
    "OnnxExtractor": "runtime",
    "OnnxFrameStep": "runtime",
    "OnnxStep": "runtime",
    "load_onnx": "runtime",
    "open_onnx": "runtime",
}


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
