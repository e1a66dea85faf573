"""Networks for other runtimes: ONNX and torch.export files, and how they run."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

if TYPE_CHECKING:
    from vidact.export.runtime import (
        OnnxClip,
        OnnxExtractor,
        OnnxFrameStep,
        OnnxOffline,
        OnnxStep,
        load_onnx,
        open_onnx,
    )
    from vidact.export.write import Exported, export

__all__ = [
    "Exported",
    "OnnxClip",
    "OnnxExtractor",
    "OnnxFrameStep",
    "OnnxOffline",
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
    "OnnxOffline": "runtime",
    "OnnxStep": "runtime",
    "load_onnx": "runtime",
    "open_onnx": "runtime",
}

__getattr__, __dir__ = late_names(__name__, _HOMES)
