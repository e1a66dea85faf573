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
as ``vidact.names`` says: those that look the same are the same.

A folder of class folders needs no file at all: the folder's name is the class, everything below it with a video's
suffix is a clip, and so is a sub-folder that holds numbered images and nothing else; ``vidact.data.folders`` says what
is passed over. Top-level folders train, val (or valid,
validation) and test that hold class folders are the splits.

Times are in seconds.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import math
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from vidact.data.folders import PREVIEWS, Walk, is_video_file, walk_videos
from vidact.data.tables import read_lines, read_table, read_text
from vidact.files import replacing
from vidact.names import Finder, counted, first_few, is_there, look, notes_on_names, plain_name, plain_path, spelt
from vidact.video.decode import KNOWN_SUFFIXES, VIDEO_SUFFIXES

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
DEFAULT_FRACTIONS = (0.7, 0.15, 0.15)
AMBIGUOUS = "ambiguous"


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


class ClipRow(NamedTuple):
    """One row of clips.csv, with names instead of indices; a sequence of labels makes the file multi-label."""

    path: str
    label: str | Sequence[str]
    split: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    group: str | None = None


class _Found(NamedTuple):
    """A clip before classes, ids and splits are known; ``where`` names it in messages."""

    where: str
    path: Path
    labels: tuple[str, ...]
    start_s: float | None
    end_s: float | None
    split: str | None
    group: str | None = None


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
            f"empty_classes='allow'{_untrimmed(root)}"
        )
    if empty:
        notes.append(f"{len(empty)} of {len(classes)} classes have no clip: {first_few(empty)}")
    if len(classes) < 2 and not multi_label:
        raise ValueError(
            f"{root} has only one class, {classes[0]!r}; a classifier needs at least two to choose from"
            f"{_untrimmed(root)}"
        )

    refuse_odd_names(root, (clip.path for clip in found))
    ids = _unique_ids(root, found)
    apart = [held_out] if isinstance(held_out, str) else list(held_out or [])
    groups = _groups(root, found, group, table, notes)
    splits = _splits(root, found, groups, seed, fractions, apart, multi_label, notes)
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


def _read_clips_csv(table: Path, notes: list[str]) -> tuple[Path, list[_Found], list[str], bool]:
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
    found: list[_Found] = []
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
        start_s = _seconds(row.get("start_s", ""), where, "start_s")
        end_s = _seconds(row.get("end_s", ""), where, "end_s")
        if end_s is not None and (start_s or 0.0) >= end_s:
            raise ValueError(f"{where} starts at {start_s or 0.0:g} s and ends at {end_s:g} s; the start comes first")
        split = _split_of(row["split"], where) if "split" in row else None
        labels = tuple(plain_name(name) for name in names)
        group = _group_of(row, where)
        found.append(_Found(where, finder.find(row["path"]), labels, start_s, end_s, split, group))
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


def _group_of(row: Mapping[str, str], where: str) -> str | None:
    if "group" not in row:
        return None
    if not (group := plain_name(row["group"])):
        raise ValueError(f"{where} has no group; name one in every row, or leave the column out")
    return group


def _split_of(cell: str, where: str) -> str:
    split = SPLIT_FOLDERS.get(plain_name(cell).lower())
    if split is None:
        raise ValueError(f"{where}: the split is {cell!r}; it can be {', '.join(SPLITS)}")
    return split


def _without_missing(found: list[_Found], lost: set[Path], what: str, missing: str, notes: list[str]) -> list[_Found]:
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


def _walk_class_folders(root: Path, notes: list[str]) -> tuple[list[_Found], list[str], set[Path]]:
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
            + _untrimmed(root)
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
                found.append(_Found(str(video), video, (label,), None, None, split))
        others = [name for name in folders if name not in holding]
        if others:
            notes.append(f"took {first_few(holding)} of {root} for splits; {first_few(others)} without videos ignored")
    else:
        named = list(folders)
        for name in named:
            for video in folders[name]:
                found.append(_Found(str(video), video, (plain_name(name),), None, None, None))
    classes = sorted({plain_name(name) for name in named})
    if beside := [name for name in walk.videos if "/" not in name]:
        notes.append(f"ignored {counted(len(beside), 'video')} beside the folders in {root}: {first_few(beside)}")
    if previews:
        notes.append(
            f"ignored {counted(len(previews), 'folder')} in {root} of previews, without videos: {first_few(previews)}"
        )
    notes += walk.notes() + notes_on_names("classes", named)
    return found, classes, {root / name for name in walk.lost}


def _relative(root: Path, path: Path) -> str:
    """The path below the root as it is on disk; one outside of it in full."""
    for folder in (root, root.absolute()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.as_posix()


def video_id(path: str) -> str:
    """The path without a video's suffix: what its features are called. Other dots belong to the name."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in VIDEO_SUFFIXES else path


def source_id(root: Path, path: Path) -> str:
    """What a clip's file is called beside others of the data set, in a folder of flow for instance: clips cut from one
    file share it. A file outside of ``root`` is called by its whole path.
    """
    # by its name on disk, plain or not: extraction writes that one
    return video_id(_relative(root, path)).lstrip("/")


def _plain_id(root: Path, path: Path) -> str:
    """A video's id: the same on every machine, however its file system writes accents."""
    return plain_path(video_id(_relative(root, path)))


def _unique_ids(root: Path, found: list[_Found]) -> list[str]:
    seen: dict[str, _Found] = {}
    ids = []
    for clip in found:
        name = _plain_id(root, clip.path)
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


# --------------------------------------------------------------------------------------------------------------- splits


def _groups(root: Path, found: list[_Found], pattern: str | None, table: Path, notes: list[str]) -> list[str] | None:
    """The group of each clip, by the pattern or else by the column; None where neither tells it."""
    told = [clip.group for clip in found if clip.group is not None]
    if pattern is not None:
        if told:
            notes.append(f"the pattern group {pattern!r} replaces the column group of {table}")
        return groups_of(root, [clip.path for clip in found], pattern)
    if not told:
        return None
    of: dict[Path, str] = {}
    for clip, group in zip(found, told, strict=True):
        if of.setdefault(clip.path, group) != group:
            raise ValueError(
                f"{clip.where}: {clip.path} is of the group {of[clip.path]} in one row and of {group} in another; "
                "parts of one file belong together"
            )
    return told


def _splits(
    root: Path,
    found: list[_Found],
    groups: list[str] | None,
    seed: int,
    fractions: Sequence[float],
    held_out: list[str],
    multi_label: bool,
    notes: list[str],
) -> list[str]:
    """The split of each clip: held out, stated, or drawn."""
    stated = [clip.split for clip in found if clip.split is not None]
    if held_out and groups is None:
        raise ValueError(
            f"held_out={first_few(held_out)} names a group, so group must say how a path tells its group, or a column "
            "group of clips.csv must name it"
        )
    # Without groups the file is the group: two parts of one recording are no independent test.
    units = groups or [_plain_id(root, clip.path) for clip in found]
    held_out = [plain_name(name) for name in held_out]

    if stated and not held_out:
        if groups is not None:
            sides: dict[str, set[str]] = defaultdict(set)
            for unit, split in zip(units, stated, strict=True):
                sides[unit].add(split)
            torn = sorted(unit for unit, names in sides.items() if len(names) > 1)
            if torn:
                notes.append(f"the stated split puts {len(torn)} groups on two sides: {first_few(torn)}")
        return stated

    shares = tuple(fractions)
    if len(shares) != 3 or not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise ValueError(f"fractions are {shares}; give three shares train, val, test that sum to 1, train above 0")
    if held_out:
        if unknown := [name for name in held_out if name not in units]:
            raise ValueError(
                f"no clip is of the group {first_few(unknown)}; the groups are {first_few(sorted(set(units)), 50)}"
            )
        if len(set(held_out)) == len(set(units)):
            raise ValueError(f"held_out names all groups ({first_few(held_out)}), so that none is left to train on")
        if stated:
            notes.append(f"held_out={first_few(held_out)} replaces the split that the data state")
        shares = (shares[0], shares[1], 0.0)  # the held-out groups are the test split; val is carved from the others

    kinds: dict[str, set[str]] = defaultdict(set)
    for unit, clip in zip(units, found, strict=True):
        if unit not in held_out:
            kinds[unit].update(clip.labels)
    strata: dict[str, list[str]] = defaultdict(list)
    for unit, labels in kinds.items():
        # Groups of one class are drawn class by class, so that each split sees every class; others all together.
        strata[next(iter(labels)) if len(labels) == 1 and not multi_label else ""].append(unit)
    drawn = dict.fromkeys(held_out, "test")
    for members in strata.values():
        members.sort(key=lambda unit: hashlib.sha256(f"{seed}/{unit}".encode()).digest())
        names = [name for name, count in zip(SPLITS, _counts(len(members), shares), strict=True) for _ in range(count)]
        drawn |= dict(zip(members, names, strict=True))
    return [drawn[unit] for unit in units]


def _counts(number: int, shares: tuple[float, ...]) -> list[int]:
    """Split a number by shares: largest remainders first, and no wanted split stays empty if that can be."""
    shares_now = np.array(shares) / sum(shares)
    counts = np.floor(shares_now * number + 1e-9).astype(int)
    order = (0, 2, 1)  # train first, then test: a model can do without val
    for i in sorted(order, key=lambda i: (counts[i] - shares_now[i] * number, order.index(i)))[: number - counts.sum()]:
        counts[i] += 1
    for i in order:
        if shares_now[i] and not counts[i] and counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] += 1
    return [int(count) for count in counts]


def groups_of(root: Path, paths: list[Path], pattern: str) -> list[str]:
    """What the group of ``pattern`` matches in each path relative to the root."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group is {pattern!r}, which is no regular expression: {error}") from None
    if expression.groups != 1:
        raise ValueError(f"group is {pattern!r} with {expression.groups} groups; it needs exactly one, in parentheses")
    groups, strangers = [], []
    for path in paths:
        name = plain_path(_relative(root, path))
        match = expression.search(name)
        if match is None or match[1] is None:
            strangers.append(name)
        else:
            groups.append(plain_name(match[1]))
    if strangers:
        raise ValueError(
            f"group {pattern!r} matches no group in {len(strangers)} of {len(paths)} paths: {first_few(strangers)}"
        )
    return groups


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
    """Read an events.csv, in the order of its rows; what a stream writes with ``--events`` is one.

    ``notes`` gets sentences on columns that are ignored and on labels that look alike.
    """
    path = Path(path)
    table = read_table(path, (("video",), ("start_s",), ("end_s",), ("label",)))
    events = []
    for line, row in table.rows:
        where = f"{path} row {line}"
        if not row["video"] or not plain_name(row["label"]):
            raise ValueError(f"{where} has no {'label' if row['video'] else 'video'}")
        start_s, end_s = _seconds(row["start_s"], where, "start_s"), _seconds(row["end_s"], where, "end_s")
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
        split = _split_of(row["split"], f"{path} row {line}")
        if row["video"] in videos:
            raise ValueError(f"{path} row {line} names {row['video']} a second time")
        videos[row["video"]] = split
    if notes is not None:
        notes += table.notes
    return videos


def _untrimmed(root: Path) -> str:
    """What an error of a recogniser's folder says besides, where the folder is a detector's."""
    if is_table(root / "clips.csv") or not is_table(root / "events.csv"):
        return ""
    return f". {root} has an events.csv: untrimmed videos are for a detector, such as --config online/fir/miniroad"


def load_groups(path: str | Path) -> dict[str, str]:
    """Read the column ``group`` of a videos.csv; empty where it has none."""
    path = Path(path)
    table = read_table(path, (("video",), ("split",)), ("group",))
    found = {row["video"]: _group_of(row, f"{path} row {line}") for line, row in table.rows}
    return {video: group for video, group in found.items() if group is not None}


def rasterise(events: Iterable[Event], num_tokens: int, tokens_per_second: float, classes: Sequence[str]) -> Targets:
    """Turn the events of one video into labels of its tokens.

    Token k covers the seconds from k / r to (k + 1) / r; an event from s to e labels the tokens ⌊s·r⌋ … ⌈e·r⌉ − 1:
    every token it touches. Several labels may hold at once; a token without any is background, column 0; class i of
    ``classes`` (which does not name the background) is column 1 + i. An event labelled "ambiguous" (in any case),
    unless that is a class, marks its tokens in ``ignore`` and makes them neither background nor action.
    What lies beyond ``num_tokens`` is cut: an incomplete last chunk makes no token.
    """
    column = {name: 1 + i for i, name in enumerate(classes)}
    multi_hot = np.zeros((num_tokens, 1 + len(classes)), dtype=np.float32)
    ignore = np.zeros(num_tokens, dtype=bool)
    video: str | None = None
    for event in events:
        if video not in (None, event.video):
            raise ValueError(f"events of {video} and of {event.video} were given; a token belongs to one video")
        video = event.video
        # Rounding first: 0.29 s at 100 tokens/s is 28.999999999999996, yet token 29 is meant; so is token 1 by the
        # 0.333333 s that events.csv keeps of 1/3 s, at 3 tokens/s.
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
    """The inverse of ``rasterise``: each unbroken run of a class, or of ignored tokens, as one event; by their start.

    Two events of one class that touch come back as one.
    """
    events = []
    columns = [*zip(classes, targets.multi_hot[:, 1:].T > 0, strict=True), (AMBIGUOUS, targets.ignore)]
    for label, holds in columns:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
        for start, end in edges.reshape(-1, 2):
            events.append(Event(video, float(start) / tokens_per_second, float(end) / tokens_per_second, label))
    return sorted(events, key=lambda event: (event.start_s, event.end_s, event.label))


# -------------------------------------------------------------------------------------------------------------- reading


def load_classes(path: str | Path) -> list[str]:
    """Read a classes.txt."""
    path = Path(path)
    lines = read_lines(path)
    classes = [plain_name(line) for line in lines]
    if not classes:
        raise ValueError(f"{path} is empty; write one class name a line")
    if "" in classes:
        raise ValueError(f"{path} line {classes.index('') + 1} is empty; the line is the index, so no line may be")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        rows = [i for i, name in enumerate(classes) if name == twice[0]]
        said = f"rows {' and '.join(str(i + 1) for i in rows)}"
        if len({lines[i] for i in rows}) > 1:
            said += f" differ in what is not seen: {', '.join(spelt(lines[i]) for i in rows)}"
        raise ValueError(f"{path} names {first_few(twice)} more than once: {said}")
    return classes


def split_labels(cell: str) -> tuple[str, ...]:
    """The names in a label cell: ``a;b`` is two, ``a\\;b`` is one with a semicolon in it."""
    names = [""]
    for part in re.findall(r"\\[\\;]|.", cell, re.DOTALL):
        if part == ";":
            names.append("")
        else:
            names[-1] += part[-1]
    return tuple(name.strip() for name in names if plain_name(name))


def join_labels(names: Iterable[str]) -> str:
    """The inverse of ``split_labels``."""
    return ";".join(name.replace("\\", "\\\\").replace(";", "\\;") for name in names)


def _seconds(cell: str, where: str, column: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{where}: {column} is {cell!r}, which is no number of seconds from 0 on")
    return value


def _short(seconds: float) -> str:
    """At most a millisecond's digits: 2, 2.5, 0.033."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def closest(name: str, names: list[str]) -> str:
    near = [one for one in names if look(one) == look(name)] or difflib.get_close_matches(name, names, 1, 0.0)
    return f"the closest class is {near[0]!r}" if near else "there are no classes"


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
        lines.append([row.path, labels, *(_cell(getattr(row, name)) for name in optional)])
    if classes is not None:
        write_classes(root / "classes.txt", classes)
    _write_table(root / "clips.csv", lines)


def write_events_csv(path: str | Path, events: Iterable[Event]) -> None:
    rows = [[event.video, _cell(event.start_s), _cell(event.end_s), event.label] for event in events]
    _write_table(Path(path), [["video", "start_s", "end_s", "label"], *rows])


def write_videos_csv(path: str | Path, videos: Mapping[str, str]) -> None:
    _write_table(Path(path), [["video", "split"], *videos.items()])


def write_classes(path: str | Path, classes: Sequence[str]) -> None:
    write_text(Path(path), "".join(f"{name}\n" for name in classes))


def write_text(path: Path, text: str) -> None:
    """Write all of a file or nothing: a reader never sees half of it."""
    with replacing(path) as half:
        half.write_text(text, encoding="utf-8", newline="")


def _write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        for cell in map(str, row):
            if "\n" in cell or "\r" in cell:
                raise ValueError(f"{cell!r} has a line break, and a cell of {path} is one line; give it another name")
        writer.writerow(row)
    write_text(path, text.getvalue())


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(round(float(value), 6)) if isinstance(value, int | float) else str(value)


# ---------------------------------------------------------------------------------- what the scripts in datasets/ share


def find_videos(folder: str | Path) -> dict[str, list[str]]:
    """Every video file below a folder by its name without suffix: paths relative to the folder, sorted."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the one that holds the videos")
    found: dict[str, list[str]] = defaultdict(list)
    for path in walk_videos(folder):
        found[PurePosixPath(path).stem].append(path)
    return dict(found)


def is_table(path: Path) -> bool:
    """Whether a list is there. Raises where something of its name is there that cannot be read as one."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; it should be a table, or have another name")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link to {os.readlink(path)}, which does not exist; correct or remove it")
    return path.exists()


def refuse_odd_names(folder: Path, paths: Iterable[str | Path]) -> None:
    """Raise ValueError at the first path that is not UTF-8, which lists and reports are written in."""
    for path in map(str, paths):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{path.encode(errors='surrogateescape')!r} in {folder} is no UTF-8 name, which lists and reports are "
                "written in; rename it"
            ) from None


def write_dataset(
    out: str | Path, videos: str | Path, rows: Sequence[ClipRow], missing: Sequence[str], classes: Sequence[str]
) -> None:
    """Write clips.csv, classes.txt and root.txt for videos that stay where they are, list the missing, and say so.

    ``rows`` have paths relative to ``videos``; ``missing`` are names in the official lists without a file. All missing
    is an error.
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
    path = Path(path)
    try:
        database = json.loads(read_text(path))["database"]
        found = {}
        for video, entry in database.items():
            events = []
            for note in entry.get("annotations", ()):
                start_s, end_s = (float(seconds) for seconds in note["segment"])
                events.append(Event(video, start_s, end_s, str(note["label"]).strip()))
            found[video] = (str(entry["subset"]), events)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not in ActivityNet's layout (database → video → subset, annotations → label, segment): "
            f"{type(error).__name__} {error}"
        ) from None
    return found


def write_events_dataset(
    out: str | Path,
    events: Iterable[Event],
    splits: Mapping[str, str],
    classes: Sequence[str],
    videos: str | Path | None = None,
    file_names: Sequence[str] = ("{}",),
) -> None:
    """Write events.csv, videos.csv and classes.txt for untrimmed videos that stay where they are, and say so.

    Args:
        out: the folder to write.
        events: with the official names of the videos.
        splits: official name → split; videos that it does not list are left out with their events.
        classes: without background and ambiguous.
        videos: the folder of the files. Each video is then called by its path in that folder, and those without a file
            are left out and listed in missing.txt. None: the official name is the path.
        file_names: how a file without its suffix may be called, ``{}`` being the official name; the first is taken
            where ``videos`` is None.
    """
    out = Path(out)
    names = {video: file_names[0].format(video) for video in splits}
    missing: list[str] = []
    if videos is not None:
        found = find_videos(videos)
        paths = {video: [path for name in file_names for path in found.get(name.format(video), ())] for video in splits}
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
