"""The reading of data on disk into batches: of clips, or of features and labels."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

if TYPE_CHECKING:
    from vidact.data.clip_list import Clip, ClipList, load_clips
    from vidact.data.clips import ClipData, ClipDataset
    from vidact.data.event_list import Event, Targets, load_events, rasterise
    from vidact.data.sequence_list import Sequence, SequenceList, load_sequences
    from vidact.data.sequences import SequenceData, SequenceDataset

__all__ = [
    "Clip",
    "ClipData",
    "ClipDataset",
    "ClipList",
    "Event",
    "Sequence",
    "SequenceData",
    "SequenceDataset",
    "SequenceList",
    "Targets",
    "load_clips",
    "load_events",
    "load_sequences",
    "rasterise",
]

_HOMES = {
    "Clip": "clip_list",
    "ClipList": "clip_list",
    "load_clips": "clip_list",
    "Event": "event_list",
    "Targets": "event_list",
    "load_events": "event_list",
    "rasterise": "event_list",
    "Sequence": "sequence_list",
    "SequenceList": "sequence_list",
    "load_sequences": "sequence_list",
    "ClipData": "clips",
    "ClipDataset": "clips",
    "SequenceData": "sequences",
    "SequenceDataset": "sequences",
}

__getattr__, __dir__ = late_names(__name__, _HOMES)
