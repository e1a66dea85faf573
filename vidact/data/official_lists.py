"""Functions for the scripts in datasets/: they turn official lists into clips.csv or events.csv."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vidact.data.event_list import AMBIGUOUS, Event
from vidact.data.splits import SPLITS
from vidact.data.tables import (
    cell_text,
    closest,
    join_labels,
    write_classes,
    write_table,
    write_text,
)
from vidact.data.timed_labels import read_activitynet
from vidact.text.names import counted, first_few
from vidact.video.folders import walk_videos


class ClipRow(NamedTuple):
    """A row of clips.csv, with names instead of indices; a sequence of labels makes the file multi-label."""

    path: str
    label: str | Sequence[str]
    split: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    group: str | None = None


# -------------------------------------------------------------------------------------------------------------- writing


def write_clips_csv(root: str | Path, rows: Iterable[ClipRow], classes: Sequence[str] | None = None) -> None:
    """Write ``root``/clips.csv and, when ``classes`` are given, classes.txt; columns that no row uses are left out."""
    rows = list(rows)
    root = Path(root)
    multi_label = any(not isinstance(row.label, str) for row in rows)
    optional = [
        name for name in ("start_s", "end_s", "split", "group") if any(getattr(row, name) is not None for row in rows)
    ]
    lines: list[list[object]] = [["path", "labels" if multi_label else "label", *optional]]
    for row in rows:
        labels = join_labels([row.label] if isinstance(row.label, str) else row.label)
        lines.append([row.path, labels, *(cell_text(getattr(row, name)) for name in optional)])
    if classes is not None:
        write_classes(root / "classes.txt", classes)
    write_table(root / "clips.csv", lines)


def write_events_csv(path: str | Path, events: Iterable[Event]) -> None:
    """Write an events.csv in the order of ``events``."""
    rows = [[event.video, cell_text(event.start_s), cell_text(event.end_s), event.label] for event in events]
    write_table(Path(path), [["video", "start_s", "end_s", "label"], *rows])


def write_videos_csv(path: str | Path, videos: Mapping[str, str], groups: Mapping[str, str] | None = None) -> None:
    """Write a videos.csv: the split of each video, and where there are ``groups`` the column ``group``."""
    if groups is None:
        write_table(Path(path), [["video", "split"], *videos.items()])
    else:
        write_table(Path(path), [["video", "split", "group"], *((v, split, groups[v]) for v, split in videos.items())])


# ----------------------------------------------------------------------------------- shared by the scripts in datasets/


def find_videos(folder: str | Path) -> dict[str, list[str]]:
    """Return every video file below a folder: its name without suffix → its paths relative to the folder, sorted."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the one that holds the videos")
    paths: dict[str, list[str]] = defaultdict(list)
    for path in walk_videos(folder):
        paths[PurePosixPath(path).stem].append(path)
    return dict(paths)


def write_dataset(
    out: str | Path, videos: str | Path, rows: Sequence[ClipRow], missing: Sequence[str], classes: Sequence[str]
) -> None:
    """Write clips.csv, classes.txt and root.txt for videos that are not moved, list missing ones, and print a summary.

    ``rows`` have paths relative to ``videos``; ``missing`` are names in the official lists without a file. Raises
    FileNotFoundError where all are missing.
    """
    out, videos = Path(out), Path(videos).absolute()
    present: dict[str, str] = {}
    for row in rows:
        present |= dict.fromkeys([row.label] if isinstance(row.label, str) else row.label, row.path)
    for label in set(present).difference(classes):
        raise ValueError(f"{present[label]} has the unknown label {label!r}; {closest(label, list(classes))}")
    if not rows:
        raise FileNotFoundError(
            f"none of the {len(missing)} videos of the lists is in {videos}; looked for {first_few(missing)}. "
            "Give the folder into which the data set was unpacked"
        )
    write_clips_csv(out, rows, classes)
    write_text(out / "root.txt", f"{videos}\n")
    counts = Counter(row.split for row in rows)
    parts = ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name]) or str(len(rows))
    print(f"{out / 'clips.csv'}: {parts} clips of {len(classes)} classes in {videos}")
    empty = [name for name in classes if name not in present]
    if empty:
        print(
            f"{len(empty)} of {counted(len(classes), 'class has', 'classes have')} no video: "
            f"{first_few(empty)}; load with empty_classes='allow'"
        )
    if missing:
        write_text(out / "missing.txt", "".join(f"{name}\n" for name in missing))
        total = len(rows) + len(missing)
        print(f"{len(missing)} of {total} videos are missing: see {out / 'missing.txt'}", file=sys.stderr)
    else:
        (out / "missing.txt").unlink(missing_ok=True)


def read_event_json(path: str | Path) -> dict[str, tuple[str, list[Event]]]:
    """Read a JSON file in ActivityNet's layout: the subset and the events of each video.

    ``{"database": {video: {"subset": …, "annotations": [{"label": …, "segment": [start_s, end_s]}, …]}}}``.
    """
    return {video: (entry.subset, entry.events) for video, entry in read_activitynet(path).items()}


def write_events_dataset(
    out: str | Path,
    events: Iterable[Event],
    splits: Mapping[str, str],
    classes: Sequence[str],
    videos: str | Path | None = None,
    file_names: Sequence[str] = ("{}",),
) -> None:
    """Write events.csv, videos.csv and classes.txt for untrimmed videos that are not moved, and print a summary.

    Args:
        out: the folder to write.
        events: the events, with the official names of the videos.
        splits: official name → split; videos that it does not list are left out with their events.
        classes: the classes without background and ambiguous.
        videos: the folder of the files. Each video is then named by its path in that folder, and those without a file
            are left out and listed in missing.txt. None: videos are named by the first of ``file_names``.
        file_names: the possible names of a file without its suffix, where ``{}`` is the official name.
    """
    out = Path(out)
    names = {video: file_names[0].format(video) for video in splits}
    missing: list[str] = []
    if videos is not None:
        files = find_videos(videos)
        paths = {video: [path for name in file_names for path in files.get(name.format(video), ())] for video in splits}
        missing = [video for video in splits if not paths[video]]
        names = {video: paths[video][0] for video in splits if paths[video]}
        if not names:
            raise FileNotFoundError(
                f"none of the {len(missing)} videos of the lists is in {videos}; looked for {first_few(missing)}. "
                "Give the folder into which the data set was unpacked"
            )
    rows = [
        Event(names[event.video], event.start_s, event.end_s, event.label) for event in events if event.video in names
    ]
    for event in rows:
        if event.label not in classes and event.label != AMBIGUOUS:
            raise ValueError(
                f"{event.video} has an event with the unknown label {event.label!r}; "
                f"{closest(event.label, list(classes))}"
            )
        if not 0 <= event.start_s < event.end_s:
            raise ValueError(f"{event.video} has a {event.label} from {event.start_s:g} s to {event.end_s:g} s")
    write_classes(out / "classes.txt", classes)
    write_videos_csv(out / "videos.csv", {names[video]: split for video, split in splits.items() if video in names})
    write_events_csv(out / "events.csv", rows)
    ambiguous = sum(event.label == AMBIGUOUS for event in rows)
    counts = Counter(splits[video] for video in names)
    parts = ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name])
    print(
        f"{out / 'events.csv'}: {len(rows) - ambiguous} events of {len(classes)} classes and {ambiguous} ambiguous "
        f"ones in {parts} videos"
    )
    if missing:
        write_text(out / "missing.txt", "".join(f"{name}\n" for name in missing))
        print(
            f"{len(missing)} of {len(splits)} videos are missing and left out: see {out / 'missing.txt'}",
            file=sys.stderr,
        )
    else:
        (out / "missing.txt").unlink(missing_ok=True)
