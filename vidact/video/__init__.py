"""Pixels in: frames of a file, which of them make a clip, and what becomes of their pixels."""

from vidact.video.decode import VideoError, open_video
from vidact.video.frames import Frames
from vidact.video.sample import ClipSampler, DenseSampler, LegacySampler, SegmentSampler, UniformSampler
from vidact.video.transform import Augment

__all__ = [
    "Augment",
    "ClipSampler",
    "DenseSampler",
    "Frames",
    "LegacySampler",
    "SegmentSampler",
    "UniformSampler",
    "VideoError",
    "open_video",
]
