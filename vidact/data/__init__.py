"""Data on disk to clips, or to features and labels, in batches.

The parts that only read lists need no Lightning; what loads batches is imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vidact.data.annotations import Clip, ClipList, Event, Targets, load_clips, load_events, rasterise
from vidact.data.sequence_list import Sequence, SequenceList, load_sequences

if TYPE_CHECKING:
    from vidact.data.clips import ClipData, ClipDataset
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

LATE = {
    "ClipData": "clips",
    "ClipDataset": "clips",
    "SequenceData": "sequences",
    "SequenceDataset": "sequences",
}


def __getattr__(name: str) -> Any:
    if name in LATE:
        return getattr(import_module(f"vidact.data.{LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
