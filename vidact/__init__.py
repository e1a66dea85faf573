"""vidact: from raw video to trained recognisers, online detectors and live answers."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

__version__ = "0.1.0"
__all__ = ["load", "open_video", "predict"]

if TYPE_CHECKING:
    from vidact.models.weights import load
    from vidact.prediction import predict
    from vidact.video.decode import open_video

_HOMES = {"load": "models.weights", "open_video": "video.decode", "predict": "prediction"}

# The few names that a notebook needs; ``import vidact`` stays quick.
__getattr__, __dir__ = late_names(__name__, _HOMES)
