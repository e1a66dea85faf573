"""Pixels in: frames of a file, which of them make a clip, and what becomes of their pixels."""

from vidact.video.clock import Chunker, Clock, Slot
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
from vidact.video.transform import Augment, ClipTransform, from_record, test_transform, train_transform

__all__ = [
    "DECODERS",
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
    "test_transform",
    "train_transform",
]
