"""Pixels in: frames of a file, which of them make a clip, and what becomes of their pixels."""

from typing import TYPE_CHECKING, Any

from vidact.video.clock import LONGEST_GAP_S, Chunker, Clock, Slot, refuse_gap, takes
from vidact.video.decode import DECODERS, VideoError, VideoReader, open_video
from vidact.video.flow import flow_fields
from vidact.video.frames import Frames
from vidact.video.sample import (
    ClipSampler,
    DenseSampler,
    LegacySampler,
    SegmentSampler,
    UniformSampler,
    expand,
)

if TYPE_CHECKING:
    from vidact.video.transform import Augment, ClipTransform, from_record, test_transform, train_transform

__all__ = [
    "DECODERS",
    "LONGEST_GAP_S",
    "Augment",
    "Chunker",
    "ClipSampler",
    "ClipTransform",
    "Clock",
    "DenseSampler",
    "Frames",
    "LegacySampler",
    "SegmentSampler",
    "Slot",
    "UniformSampler",
    "VideoError",
    "VideoReader",
    "expand",
    "flow_fields",
    "from_record",
    "open_video",
    "refuse_gap",
    "takes",
    "test_transform",
    "train_transform",
]

_OF_TRANSFORM = ("Augment", "ClipTransform", "from_record", "test_transform", "train_transform")


def __getattr__(name: str) -> Any:
    """The transforms, once they are asked for: torchvision costs seconds that reading and preparing videos do not."""
    if name not in _OF_TRANSFORM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vidact.video import transform

    return getattr(transform, name)
