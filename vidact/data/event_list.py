"""Events of untrimmed videos: the reading of their lists, and their labels token by token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidact.data.splits import group_of, split_of
from vidact.data.tables import closest, is_table, read_table, seconds_of
from vidact.text.names import notes_on_names, plain_name

AMBIGUOUS = "ambiguous"


# --------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Event:
    """An action in an untrimmed video, from ``start_s`` to ``end_s``."""

    video: str
    start_s: float
    end_s: float
    label: str


class Targets(NamedTuple):
    """Labels of T tokens: ``multi_hot`` float32 (T, 1+K) with the background first, ``ignore`` bool (T,)."""

    multi_hot: np.ndarray
    ignore: np.ndarray


def load_events(path: str | Path, notes: list[str] | None = None) -> list[Event]:
    """Read an events.csv, in the order of its rows; a stream with ``--events`` writes such a file.

    ``notes`` gets sentences on columns that are ignored and on labels that look alike.
    """
    path = Path(path)
    table = read_table(path, (("video",), ("start_s",), ("end_s",), ("label",)))
    events = []
    for line, row in table.rows:
        where = f"{path} row {line}"
        if not row["video"] or not plain_name(row["label"]):
            raise ValueError(f"{where} has no {'label' if row['video'] else 'video'}")
        start_s, end_s = seconds_of(row["start_s"], where, "start_s"), seconds_of(row["end_s"], where, "end_s")
        if start_s is None or end_s is None:
            raise ValueError(f"{where} has no {'end_s' if start_s is not None else 'start_s'}")
        if start_s >= end_s:
            raise ValueError(f"{where} starts at {start_s:g} s and ends at {end_s:g} s; the start comes first")
        events.append(Event(row["video"], start_s, end_s, plain_name(row["label"])))
    if notes is not None:
        notes += table.notes + notes_on_names("classes", [row["label"] for _, row in table.rows])
    return events


def load_videos(path: str | Path, notes: list[str] | None = None) -> dict[str, str]:
    """Read a videos.csv: each untrimmed video's split. ``notes`` gets sentences on columns that are ignored."""
    path = Path(path)
    table = read_table(path, (("video",), ("split",)), ("group",))
    videos: dict[str, str] = {}
    for line, row in table.rows:
        if not row["video"]:
            raise ValueError(f"{path} row {line} has no video")
        split = split_of(row["split"], f"{path} row {line}")
        if row["video"] in videos:
            raise ValueError(f"{path} row {line} names {row['video']} a second time")
        videos[row["video"]] = split
    if notes is not None:
        notes += table.notes
    return videos


def untrimmed_hint(root: Path) -> str:
    """Return a hint for errors about a folder of clips where it has untrimmed videos; else an empty string."""
    if is_table(root / "clips.csv") or not is_table(root / "events.csv"):
        return ""
    return f". {root} has an events.csv: untrimmed videos are for a detector, such as --config online/fir/miniroad"


def load_groups(path: str | Path) -> dict[str, str]:
    """Read the column ``group`` of a videos.csv; empty where it has none."""
    path = Path(path)
    table = read_table(path, (("video",), ("split",)), ("group",))
    groups = {row["video"]: group_of(row, f"{path} row {line}") for line, row in table.rows}
    return {video: group for video, group in groups.items() if group is not None}


def rasterise(events: Iterable[Event], num_tokens: int, tokens_per_second: float, classes: Sequence[str]) -> Targets:
    """Turn the events of one video into labels of its tokens.

    Token k covers the seconds from k / r to (k + 1) / r; an event from s to e labels the tokens ⌊s·r⌋ … ⌈e·r⌉ − 1:
    every token it touches. Several labels may hold at once; a token without any is background, column 0; class i of
    ``classes`` (which does not name the background) is column 1 + i. An event labelled "ambiguous" (in any case),
    unless that is a class, marks its tokens in ``ignore`` and makes them neither background nor action.
    Events are cut at ``num_tokens``: an incomplete last chunk makes no token.
    """
    column = {name: 1 + i for i, name in enumerate(classes)}
    multi_hot = np.zeros((num_tokens, 1 + len(classes)), dtype=np.float32)
    ignore = np.zeros(num_tokens, dtype=bool)
    video: str | None = None
    for event in events:
        if video not in (None, event.video):
            raise ValueError(f"events of {video} and of {event.video} were given; a token belongs to one video")
        video = event.video
        # Without rounding, 0.29 s at 100 tokens/s would be 28.999999999999996 instead of token 29, and the 0.333333 s
        # that events.csv stores for 1/3 s would be 0.999999 at 3 tokens/s instead of token 1.
        tokens = slice(
            max(0, math.floor(round(event.start_s * tokens_per_second, 4))),
            max(0, math.ceil(round(event.end_s * tokens_per_second, 4))),
        )
        if event.label in column:
            multi_hot[tokens, column[event.label]] = 1
        elif event.label.lower() == AMBIGUOUS:
            ignore[tokens] = True
        else:
            raise ValueError(
                f"the event of {event.video} at {event.start_s:g} s has the label {event.label!r}, which is no class; "
                f"{closest(event.label, list(classes))}"
            )
    multi_hot[:, 0] = (multi_hot[:, 1:].sum(1) == 0) & ~ignore
    return Targets(multi_hot, ignore)


def events_of(targets: Targets, video: str, tokens_per_second: float, classes: Sequence[str]) -> list[Event]:
    """Invert ``rasterise``: return each unbroken run of a class, or of ignored tokens, as one event, sorted by start.

    Two events of one class that touch become one.
    """
    events = []
    columns = [*zip(classes, targets.multi_hot[:, 1:].T > 0, strict=True), (AMBIGUOUS, targets.ignore)]
    for label, holds in columns:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
        for start, end in edges.reshape(-1, 2):
            events.append(Event(video, float(start) / tokens_per_second, float(end) / tokens_per_second, label))
    return sorted(events, key=lambda event: (event.start_s, event.end_s, event.label))
