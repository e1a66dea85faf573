"""Events of untrimmed videos in the files of other repositories: ActivityNet's JSON and the CSV of EPIC-KITCHENS."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vidact.data.event_list import Event
from vidact.data.tables import read_table, read_text
from vidact.text.names import first_few, plain_name

SHAPE = "database → video → subset, annotations → label, segment"


class TimedVideo(NamedTuple):
    """A video of such a file: its subset, its events, and its length in seconds where the file states one."""

    subset: str
    events: list[Event]
    duration_s: float | None = None


def read_activitynet(path: str | Path) -> dict[str, TimedVideo]:
    """Read a JSON file in ActivityNet's layout.

    ``{"database": {video: {"subset": …, "duration": …, "annotations": [{"label": …, "segment": [start_s, end_s]}]}}}``;
    the duration may be absent. Raises ValueError for another layout, and for a video that is in it twice.
    """
    path = Path(path)
    text = read_text(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in content if names.count(name) > 1)
            spellings = "|".join(re.escape(json.dumps(twice, ensure_ascii=is_ascii)) for is_ascii in (True, False))
            keys = re.finditer(rf"(?:{spellings})\s*:", text)
            lines = [text.count("\n", 0, key.start()) + 1 for key in keys]
            raise ValueError(f"{twice!r} comes twice in one object (line {' and '.join(map(str, lines[:2]))})")
        return content

    video: str | None = None
    try:
        database = json.loads(text, object_pairs_hook=unique)["database"]
        videos = {}
        for video, entry in database.items():
            events = []
            for note in entry.get("annotations", ()):
                start_s, end_s = (float(seconds) for seconds in note["segment"])
                if not (math.isfinite(start_s) and math.isfinite(end_s)):
                    raise ValueError(f"a segment is {note['segment']}")
                events.append(Event(video, start_s, end_s, str(note["label"]).strip()))
            duration = entry.get("duration")
            videos[video] = TimedVideo(str(entry["subset"]), events, None if duration is None else float(duration))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        of = "" if video is None else f"{video}: "
        raise ValueError(
            f"{path} is not in ActivityNet's layout ({SHAPE}): {of}{type(error).__name__} {error}"
        ) from None
    return videos


def read_epic(path: str | Path, label: str, classes: Mapping[int, str], subset: str) -> dict[str, TimedVideo]:
    """Read a list of EPIC-KITCHENS-100, such as EPIC_100_train.csv.

    Args:
        path: the list.
        label: "verb" or "noun": the events are named by the class in the column ``verb_class`` or ``noun_class``.
        classes: the name of each class by its number.
        subset: the subset of the videos of this list.
    """
    path = Path(path)
    column = f"{label}_class"
    table = read_table(path, (("video_id",), ("start_timestamp",), ("stop_timestamp",), (column,)))
    videos: dict[str, TimedVideo] = {}
    for line, row in table.rows:
        where = f"{path} row {line}"
        if not (video := plain_name(row["video_id"])):
            raise ValueError(f"{where} has no video_id")
        cell = row[column]
        if not cell.isdigit() or int(cell) not in classes:
            raise ValueError(f"{where} has the {column} {cell!r}; the classes are {min(classes)} to {max(classes)}")
        start_s, end_s = (seconds_of_clock(row[name], where) for name in ("start_timestamp", "stop_timestamp"))
        videos.setdefault(video, TimedVideo(subset, [])).events.append(Event(video, start_s, end_s, classes[int(cell)]))
    if not videos:
        raise ValueError(f"{path} has no row below its header")
    return videos


def load_epic_classes(path: str | Path) -> dict[int, str]:
    """Read EPIC_100_verb_classes.csv or EPIC_100_noun_classes.csv: the name of each class by its number."""
    path = Path(path)
    table = read_table(path, (("id",), ("key", "name", "class_key")))
    names: dict[int, str] = {}
    for line, row in table.rows:
        key = next(row[name] for name in ("key", "name", "class_key") if name in row)
        if not row["id"].isdigit() or not key:
            raise ValueError(
                f"{path} row {line} has the id {row['id']!r} and the name {key!r}; a number and a name are expected"
            )
        if int(row["id"]) in names or key in names.values():
            raise ValueError(
                f"{path} row {line} names the class {row['id']} {key!r}, and one of the two was there before"
            )
        names[int(row["id"])] = key
    if not names:
        raise ValueError(f"{path} has no class")
    return names


def seconds_of_clock(text: str, where: str) -> float:
    """Return the seconds of a time such as 00:08:01.47."""
    match = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text.strip())
    if match is None:
        raise ValueError(f"{where} has the time {text!r}; hours:minutes:seconds are expected, such as 00:08:01.47")
    return 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3])


def unknown_subsets(videos: Mapping[str, TimedVideo], permitted: Mapping[str, str | None], source: str | Path) -> None:
    """Raise ValueError for a video of a subset that is not ``permitted``; they are compared in lower case."""
    wrong = {video: entry.subset for video, entry in videos.items() if entry.subset.lower() not in permitted}
    if wrong:
        video, subset = next(iter(wrong.items()))
        raise ValueError(
            f"{source}: {video} is of the subset {subset!r}; this data set has {first_few(list(permitted))} "
            f"({len(wrong)} of {len(videos)} videos are of others)"
        )
