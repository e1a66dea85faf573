"""The one on-disk format: which videos there are, what happens in them, and which split they belong to.

``clips.csv``    ``path,label[,start_s,end_s][,split][,group]``: one trimmed clip a row. ``path`` is relative to its
                 folder (or to the folder that a ``root.txt`` beside it names) or absolute; a relative path never
                 leaves that folder. ``split`` is train, val or test. ``group`` is the person, or the source, that must
                 not stand in two splits. Several labels in one cell are separated by ``;``: the data are then
                 multi-label. A header ``labels`` instead of ``label`` says so even when no row has two, and only there
                 may the cell be empty. Inside a name, ``\\;`` is a semicolon and ``\\\\`` a backslash.
``classes.txt``  one class name a line; the line is the index. Without it the classes are the sorted labels.
``events.csv``   ``video,start_s,end_s,label``: one action in an untrimmed video a row.
``videos.csv``   ``video,split[,group]``: the split of each untrimmed video.

``vidact.data.tables`` says how these files may be written, and other columns in them are ignored. Names are compared
as ``vidact.text.names`` says: those that look the same are the same.

A folder of class folders needs no file at all: the folder's name is the class, everything below it with a video's
suffix is a clip, and so is a sub-folder that holds numbered images and nothing else; ``vidact.video.folders`` says what
is passed over. Top-level folders train, val (or valid,
validation) and test that hold class folders are the splits.

Times are in seconds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vidact.data.event_list import untrimmed_hint
from vidact.data.splits import (
    DEFAULT_FRACTIONS,
    SPLIT_FOLDERS,
    SPLITS,
    Candidate,
    clip_groups,
    clip_splits,
    group_of,
    split_of,
)
from vidact.data.tables import (
    closest,
    is_table,
    load_classes,
    read_table,
    read_text,
    seconds_of,
    split_labels,
)
from vidact.text.names import Finder, counted, first_few, is_there, notes_on_names, plain_name, plain_path, spelt
from vidact.video.folders import (
    KNOWN_SUFFIXES,
    PREVIEWS,
    Walk,
    is_video_file,
    plain_id,
    refuse_odd_names,
)

# ---------------------------------------------------------------------------------------------------------------- clips


@dataclass(frozen=True)
class Clip:
    """One trimmed clip.

    ``id`` is the path relative to the root without the video suffix, and ``@start-end`` where the clip is a part of the
    file. ``label`` is a class index; for multi-label data a sorted tuple of them. ``start_s`` None is the beginning of
    the file, ``end_s`` None its end. ``group`` is the person, or the source, where a pattern or a column tells it.
    """

    id: str
    path: Path
    label: int | tuple[int, ...]
    start_s: float | None
    end_s: float | None
    split: str
    group: str | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        return self.label if isinstance(self.label, tuple) else (self.label,)


@dataclass
class ClipList:
    """Clips with their class names; ``notes`` are sentences for the user on what was ignored, skipped or thin."""

    root: Path
    clips: list[Clip]
    classes: list[str]
    multi_label: bool = False
    notes: list[str] = field(default_factory=list)
    group: str | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __str__(self) -> str:
        counts = Counter(clip.split for clip in self)
        parts = ", ".join(f"{name} {counts[name]}" for name in SPLITS if counts[name])
        return f"{counted(len(self), 'clip')} of {counted(len(self.classes), 'class', 'classes')}: {parts}"

    def split(self, name: str) -> list[Clip]:
        """The clips of "train", "val" or "test"; possibly none."""
        if name not in SPLITS:
            raise ValueError(f"{name!r} is not a split; there are {', '.join(SPLITS)}")
        return [clip for clip in self if clip.split == name]

    def groups(self) -> list[str]:
        """The groups that the pattern, or the column of clips.csv, tells, sorted: people, or source videos."""
        if not self.has_groups:
            raise ValueError(
                "these clips were loaded without a group pattern and without a column group, so they have no groups"
            )
        return sorted({clip.group for clip in self if clip.group is not None})

    @property
    def has_groups(self) -> bool:
        """Whether it is known which clips belong together."""
        return any(clip.group is not None for clip in self)

    def class_weights(self) -> np.ndarray:
        """Inverse frequencies of the classes in the training split, float32 (K,).

        The weight of class c is N / (K' n_c) for N labels, K' of them distinct: the mean weight of a training label is
        1. A class that no training clip has gets 0.
        """
        counts = np.zeros(len(self.classes))
        for clip in self:
            if clip.split == "train":
                counts[list(clip.labels)] += 1
        weights = np.zeros(len(self.classes), dtype=np.float32)
        present = counts > 0
        weights[present] = counts.sum() / (present.sum() * counts[present])
        return weights

    @property
    def digest(self) -> str:
        """Hexadecimal hash of ids, labels, splits and class names: equal when two runs used the same list."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for clip in self:
            digest.update(f"\n{clip.id}\t{clip.labels}\t{clip.split}".encode())
        return digest.hexdigest()[:16]


def load_clips(
    root: str | Path,
    group: str | None = None,
    seed: int = 0,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    held_out: str | Sequence[str] | None = None,
    missing: Literal["raise", "skip"] = "raise",
    empty_classes: Literal["raise", "allow"] = "raise",
) -> ClipList:
    """Read a folder with clips.csv, or a folder of class folders.

    Where the data state no split, it is drawn by a hash of seed and name, class by class: the same on every machine.
    Clips cut from one file always stay together.

    Args:
        root: the folder.
        group: regular expression with one group, searched in the path relative to the root (with its suffix);
            clips with equal matches never stand in two splits. Whole groups are then drawn. It replaces the column
            ``group`` of clips.csv, which says the same without a pattern.
        seed: of the drawn split.
        fractions: shares of train, val and test in the drawn split, of clips or of groups; not used where the data
            state their split. When there are too few for all, train comes first, then test.
        held_out: one value of ``group``, such as a person, or several: these groups are the test split, all others
            are train (less the share of val that ``fractions`` asks for), whatever split the data state.
        missing: "raise" when clips.csv names a file that does not exist, or a class folder has a link to one, or
            "skip" it and say so in ``notes``.
        empty_classes: "raise" when a class has no clip at all, or "allow" it: a part of a data set keeps
            all its classes.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give a folder of class folders, or one with a clips.csv")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give its folder")
    notes: list[str] = []
    table = root / "clips.csv"
    if is_table(table):
        root, found, classes, multi_label = _read_clips_csv(table, notes)
        lost = {path for path in {clip.path for clip in found} if not is_there(path)}
        what = f"clips in {table} name a file that does not exist"
    else:
        found, classes, lost = _walk_class_folders(root, notes)
        multi_label = False
        what = f"videos in {root} are links to a file that does not exist"
    found = _without_missing(found, lost, what, missing, notes)

    index = {name: i for i, name in enumerate(classes)}
    counts = Counter(name for clip in found for name in clip.labels)
    empty = [name for name in classes if not counts[name]]
    if empty and empty_classes == "raise":
        said = f"{table.with_name('classes.txt')} lists it, but no clip in clips.csv has this label"
        if not table.exists():
            said = f"this class folder of {root} holds no video (suffixes {KNOWN_SUFFIXES})"
            said += "".join(f"; {note}" for note in notes if "of images" in note)
        raise ValueError(
            f"empty class {first_few(empty)}: {said}. Add a clip, remove the class, or allow it with "
            f"empty_classes='allow'{untrimmed_hint(root)}"
        )
    if empty:
        notes.append(f"{len(empty)} of {len(classes)} classes have no clip: {first_few(empty)}")
    if len(classes) < 2 and not multi_label:
        raise ValueError(
            f"{root} has only one class, {classes[0]!r}; a classifier needs at least two to choose from"
            f"{untrimmed_hint(root)}"
        )

    refuse_odd_names(root, (clip.path for clip in found))
    ids = _unique_ids(root, found)
    apart = [held_out] if isinstance(held_out, str) else list(held_out or [])
    groups = clip_groups(root, found, group, table, notes)
    splits = clip_splits(root, found, groups, seed, fractions, apart, multi_label, notes)
    members: list[str | None] = [None] * len(found) if groups is None else [*groups]
    clips = []
    for clip, name, split, of in zip(found, ids, splits, members, strict=True):
        labels = tuple(sorted({index[label] for label in clip.labels}))
        label = labels if multi_label else labels[0]
        clips.append(Clip(name, clip.path, label, clip.start_s, clip.end_s, split, of))
    result = ClipList(root, clips, classes, multi_label, notes, group)
    for split in SPLITS:
        part = result.split(split)
        present = {label for clip in part for label in clip.labels}
        absent = [name for i, name in enumerate(classes) if i not in present and counts[name]]
        if len(part) and absent:
            notes.append(f"split {split} has no clip of {len(absent)} of {len(classes)} classes: {first_few(absent)}")
    return result


def _read_clips_csv(table: Path, notes: list[str]) -> tuple[Path, list[Candidate], list[str], bool]:
    read = read_table(table, (("path",), ("label", "labels")), ("start_s", "end_s", "split", "group"))
    notes += read.notes
    if not read.rows:
        raise ValueError(f"{table} is empty: it has a header and no clips")
    folder = table.parent
    if (elsewhere := folder / "root.txt").exists():
        folder = folder / read_text(elsewhere).strip()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{elsewhere} says that the videos are in {folder}, which is not a folder; correct it"
            )
    column = "labels" if "labels" in read.header else "label"
    finder = Finder(folder)
    found: list[Candidate] = []
    spellings: list[str] = []
    for line, row in read.rows:
        where = f"{table} row {line}"
        if not row["path"]:
            raise ValueError(f"{where} has no path")
        path = Path(row["path"])
        if not path.is_absolute() and ".." in path.parts:
            raise ValueError(f"{where}: the path {row['path']} may leave {folder}; write it without '..' or in full")
        names = split_labels(row[column])
        spellings += names
        if not names and column == "label":
            raise ValueError(f"{where} has no label; a clip without any is possible only under the header 'labels'")
        start_s = seconds_of(row.get("start_s", ""), where, "start_s")
        end_s = seconds_of(row.get("end_s", ""), where, "end_s")
        if end_s is not None and (start_s or 0.0) >= end_s:
            raise ValueError(f"{where} starts at {start_s or 0.0:g} s and ends at {end_s:g} s; the start comes first")
        split = split_of(row["split"], where) if "split" in row else None
        labels = tuple(plain_name(name) for name in names)
        group = group_of(row, where)
        found.append(Candidate(where, finder.find(row["path"]), labels, start_s, end_s, split, group))
    multi_label = column == "labels" or any(len(clip.labels) > 1 for clip in found)

    listed = table.with_name("classes.txt")
    if not listed.exists():
        classes = sorted({label for clip in found for label in clip.labels})
        if not classes:
            raise ValueError(f"{table} has no label in any row")
        notes += notes_on_names("classes", spellings)
        return folder, found, classes, multi_label
    classes = load_classes(listed)
    notes += notes_on_names("classes", [*classes, *spellings])
    known = set(classes)
    for clip in found:
        for label in clip.labels:
            if label not in known:
                raise ValueError(f"{clip.where}: the label {label!r} is not in {listed}; {closest(label, classes)}")
    return folder, found, classes, multi_label


def _without_missing(
    found: list[Candidate], lost: set[Path], what: str, missing: str, notes: list[str]
) -> list[Candidate]:
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing is {missing!r}; it can be 'raise' or 'skip'")
    absent = [clip for clip in found if clip.path in lost]
    if not absent:
        return found
    first = ", ".join(str(clip.path) for clip in absent[:5]) + (", …" if len(absent) > 5 else "")
    said = f"{len(absent)} of {len(found)} {what}: {first}"
    if missing == "raise":
        raise FileNotFoundError(f"{said}. Correct the paths, or leave these clips out with missing='skip'")
    if len(absent) == len(found):
        raise FileNotFoundError(f"{said}. None is left")
    notes.append(f"skipped: {said}")
    return [clip for clip in found if clip.path not in lost]


def _walk_class_folders(root: Path, notes: list[str]) -> tuple[list[Candidate], list[str], set[Path]]:
    """Videos, classes, and which of the videos are links that lead nowhere."""
    walk = Walk(root, images_below=2)  # a folder of images is a clip of its class's folder
    folders = {name: walk.below(name) for name in walk.folders[""]}
    previews = [name for name, videos in folders.items() if not videos and name.lower() in PREVIEWS]
    folders = {name: videos for name, videos in folders.items() if name not in previews}
    holding = [name for name, videos in folders.items() if videos]
    if not holding:
        what = "has neither a clips.csv nor class folders"
        if folders:
            what = f"has no clips.csv, and every class folder ({first_few(list(folders))}) is without any video"
        raise ValueError(
            f"{root} {what}. Put each class's videos into a folder with the class's name; a video is a file ending in "
            f"{KNOWN_SUFFIXES}, or a folder of numbered images inside the class's folder"
            + "".join(f"; {note}" for note in walk.notes())
            + untrimmed_hint(root)
        )
    found = []
    sides = [
        (split, name)
        for name in holding
        if (split := SPLIT_FOLDERS.get(plain_name(name).lower()))
        and not any(video.parent == root / name and is_video_file(video) for video in folders[name])
    ]
    strangers = sorted(set(holding) - {side for _, side in sides})
    if strangers and len({split for split, _ in sides}) > 1:
        raise ValueError(
            f"{root} has folders of splits ({first_few([side for _, side in sides])}) and others with videos "
            f"beside them ({first_few(strangers)}); move the others away, or say which video is what in a clips.csv"
        )
    if not strangers:
        named = [name for _, side in sides for name in walk.folders[side]]
        for split, side in sides:
            for video in folders[side]:
                if video.parent == root / side:  # a folder of images
                    walk.pictures[f"{side}/{video.name}"] = "it is a class's folder, and each clip has a folder in it"
                    continue
                label = plain_name(video.relative_to(root / side).parts[0])
                found.append(Candidate(str(video), video, (label,), None, None, split))
        others = [name for name in folders if name not in holding]
        if others:
            notes.append(f"took {first_few(holding)} of {root} for splits; {first_few(others)} without videos ignored")
    else:
        named = list(folders)
        for name in named:
            for video in folders[name]:
                found.append(Candidate(str(video), video, (plain_name(name),), None, None, None))
    classes = sorted({plain_name(name) for name in named})
    if beside := [name for name in walk.videos if "/" not in name]:
        notes.append(f"ignored {counted(len(beside), 'video')} beside the folders in {root}: {first_few(beside)}")
    if previews:
        notes.append(
            f"ignored {counted(len(previews), 'folder')} in {root} of previews, without videos: {first_few(previews)}"
        )
    notes += walk.notes() + notes_on_names("classes", named)
    return found, classes, {root / name for name in walk.lost}


def _unique_ids(root: Path, found: list[Candidate]) -> list[str]:
    seen: dict[str, Candidate] = {}
    ids = []
    for clip in found:
        name = plain_id(root, clip.path)
        if clip.start_s is not None or clip.end_s is not None:
            name += f"@{_short(clip.start_s or 0.0)}-{'end' if clip.end_s is None else _short(clip.end_s)}"
        if name in seen:
            first = seen[name]
            again = "" if first.path != clip.path else "; a clip with several labels is one row with label a;b"
            paths = [str(first.path), str(clip.path)]
            if paths[0] != paths[1] and plain_path(paths[0]) == plain_path(paths[1]):
                again = f": they differ in what is not seen, {' and '.join(spelt(path) for path in paths)}"
            raise ValueError(
                f"two videos with the same id {name!r}: {paths[0]} ({first.where}) and {paths[1]} ({clip.where}); "
                f"rename or remove one{again}"
            )
        seen[name] = clip
        ids.append(name)
    return ids


def _short(seconds: float) -> str:
    """At most a millisecond's digits: 2, 2.5, 0.033."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
