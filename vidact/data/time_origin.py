"""From where the seconds of labels count: from a video's first frame, or from where its file begins.

Players count from the file's begin. Where sound comes first and the first picture later, labels that were made in one
are later by that lead. Extraction notes each video's lead beside its features, for what reads features only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

from vidact.text.names import Finder

TimeOrigin = Literal["first_frame", "file"]

NOTES = ".extract"  # in a folder of features: what is known of finished videos


def check_origin(time_origin: str) -> None:
    """Raise ValueError for a word that is no time origin."""
    if time_origin not in get_args(TimeOrigin):
        permitted = " or ".join(map(repr, get_args(TimeOrigin)))
        raise ValueError(f"time_origin is {time_origin!r}; it can be {permitted}")


def note_path(features: Path, video: str) -> Path:
    """The note of a finished video in a folder of features."""
    return features / NOTES / "done" / f"{video}.json"


def lead_of(features: Path, video: str) -> float:
    """Seconds that the file of a video plays before its first picture; ValueError where the features do not say it."""
    # extraction writes the name as the video's file has it, and lists may write it otherwise
    note = Finder(features).find(note_path(Path(), video).as_posix())
    try:
        return float(json.loads(note.read_text(encoding="utf-8"))["lead_s"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"the features in {features} do not say when the first picture of {video} is shown; extract them again "
            "into another folder, or count from the first frame (time_origin='first_frame')"
        ) from None
