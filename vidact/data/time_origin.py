"""The time origin of labels: their seconds count from a video's first frame or from the start of its file.

Players count from the start of the file. Where the sound starts before the first picture, labels made in a player are
later by that lead. Extraction writes each video's lead beside its features, for code that reads only features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

from vidact.text.names import Finder

TimeOrigin = Literal["first_frame", "file"]

NOTES = ".extract"  # the folder, in a folder of features, with a note of each finished video


def check_origin(time_origin: str) -> None:
    """Raise ValueError for a text that is no time origin."""
    if time_origin not in get_args(TimeOrigin):
        permitted = " or ".join(map(repr, get_args(TimeOrigin)))
        raise ValueError(f"time_origin is {time_origin!r}; it can be {permitted}")


def note_path(features: Path, video: str) -> Path:
    """Return the path of the note of a finished video in a folder of features."""
    return features / NOTES / "done" / f"{video}.json"


def lead_of(features: Path, video: str) -> float:
    """Return the seconds that a video's file plays before its first picture; ValueError where no note has them."""
    # The note has the name of the video's file, which lists may spell differently.
    note = Finder(features).find(note_path(Path(), video).as_posix())
    try:
        return float(json.loads(note.read_text(encoding="utf-8"))["lead_s"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"the features in {features} do not say when the first picture of {video} is shown; extract them again "
            "into another folder, or count from the first frame (time_origin='first_frame')"
        ) from None
