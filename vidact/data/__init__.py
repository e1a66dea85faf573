"""Data on disk to clips in batches.

The parts that only read lists need no Lightning; ``ClipDataset`` and ``ClipData`` are imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vidact.data.annotations import Clip, ClipList, Event, Targets, load_clips, load_events, rasterise

if TYPE_CHECKING:
    from vidact.data.clips import ClipData, ClipDataset

__all__ = [
    "Clip",
    "ClipData",
    "ClipDataset",
    "ClipList",
    "Event",
    "Targets",
    "load_clips",
    "load_events",
    "rasterise",
]


def __getattr__(name: str) -> Any:
    if name in ("ClipData", "ClipDataset"):
        return getattr(import_module("vidact.data.clips"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
