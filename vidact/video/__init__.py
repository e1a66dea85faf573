"""Video input: reading the frames of a file, choosing those of a clip, and transforming their pixels."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

if TYPE_CHECKING:
    from vidact.video.clock import LONGEST_GAP_S, Chunker, Clock, Slot, refuse_gap, takes
    from vidact.video.decode import DECODERS, open_video
    from vidact.video.flow import flow_fields
    from vidact.video.frames import Frames
    from vidact.video.reader import VideoError, VideoReader
    from vidact.video.sample import (
        ClipSampler,
        DenseSampler,
        LegacySampler,
        SegmentSampler,
        UniformSampler,
        WindowSampler,
        expand,
    )
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
    "WindowSampler",
    "expand",
    "flow_fields",
    "from_record",
    "open_video",
    "refuse_gap",
    "takes",
    "test_transform",
    "train_transform",
]

_HOMES = {
    "LONGEST_GAP_S": "clock",
    "Chunker": "clock",
    "Clock": "clock",
    "Slot": "clock",
    "refuse_gap": "clock",
    "takes": "clock",
    "DECODERS": "decode",
    "open_video": "decode",
    "VideoError": "reader",
    "VideoReader": "reader",
    "flow_fields": "flow",
    "Frames": "frames",
    "ClipSampler": "sample",
    "DenseSampler": "sample",
    "LegacySampler": "sample",
    "SegmentSampler": "sample",
    "UniformSampler": "sample",
    "WindowSampler": "sample",
    "expand": "sample",
    "Augment": "transform",
    "ClipTransform": "transform",
    "from_record": "transform",
    "test_transform": "transform",
    "train_transform": "transform",
}

__getattr__, __dir__ = late_names(__name__, _HOMES)
