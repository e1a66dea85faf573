"""The one on-disk format of annotations: the videos, their labels, and their splits.

``clips.csv``    ``path,label[,start_s,end_s][,split][,group]``: one trimmed clip a row. ``path`` is relative to its
                 folder (or to the folder that a ``root.txt`` beside it names) or absolute; a relative path never
                 leaves that folder. ``split`` is train, val or test. ``group`` is the person, or the source, that must
                 not be in two splits. Several labels in one cell are separated by ``;`` and make the data multi-label.
                 A header ``labels`` instead of ``label`` makes them multi-label even when no row has two; only under
                 it may a cell be empty. Inside a name, ``\\;`` is a semicolon and ``\\\\`` a backslash.
``classes.txt``  one class name a line; the line is the index. Without it the classes are the sorted labels.
``events.csv``   ``video,start_s,end_s,label``: one action in an untrimmed video a row.
``videos.csv``   ``video,split[,group]``: the split of each untrimmed video.

``vidact.data.tables`` defines how these files may be written; other columns in them are ignored. Names that look the
same are the same, as ``vidact.text.names`` defines.

A folder of class folders needs no list: the folder's name is the class, and every file below it with a video's suffix
is a clip, as is a sub-folder that holds only numbered images. ``vidact.video.folders`` defines which files are ignored.
Top-level folders train, val (or valid, validation) and test that hold class folders are the splits.

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


def inverse_frequencies(counts: np.ndarray) -> np.ndarray:
    """Return the weights, float32 (K,), with which classes of ``counts`` (K,) labels count the same.

    The weight of class c is N / (K' n_c) for N labels, K' of them distinct: the mean weight of a label is 1. A class
    without a label gets 0.
    """
    weights = np.zeros(len(counts), dtype=np.float32)
    present = counts > 0
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


class SingleClassError(ValueError):
    """An error of data whose clips all belong to one class."""


@dataclass(frozen=True)
class Clip:
    """A trimmed clip.

    ``id`` is the path relative to the root without the video suffix, and ``@start-end`` where the clip is a part of the
    file. ``label`` is a class index; for multi-label data a sorted tuple of them. ``start_s`` None is the beginning of
    the file, ``end_s`` None its end. ``group`` is the person, or the source, where a pattern or a column gives it.
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
    """Clips with their class names; ``notes`` are sentences for the user on what was ignored, skipped or absent."""

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
        """Return the clips of "train", "val" or "test"; possibly none."""
        if name not in SPLITS:
            raise ValueError(f"{name!r} is not a split; there are {', '.join(SPLITS)}")
        return [clip for clip in self if clip.split == name]

    def groups(self) -> list[str]:
        """Return the groups from the pattern or from the column of clips.csv, sorted: people, or source videos."""
        if not self.has_groups:
            raise ValueError(
                "these clips were loaded without a group pattern and without a column group, so they have no groups"
            )
        return sorted({clip.group for clip in self if clip.group is not None})

    @property
    def has_groups(self) -> bool:
        """Return whether any clip has a group."""
        return any(clip.group is not None for clip in self)

    def class_weights(self) -> np.ndarray:
        """Return the ``inverse_frequencies`` (K,) of the classes in the training split."""
        counts = np.zeros(len(self.classes))
        for clip in self:
            if clip.split == "train":
                counts[list(clip.labels)] += 1
        return inverse_frequencies(counts)

    @property
    def digest(self) -> str:
        """A hexadecimal hash of ids, labels, splits and class names: equal when two runs used the same list."""
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

    Where the data give no split, it is drawn by a hash of seed and name, class by class, the same on every machine.
    Clips of one file are always in one split.

    Args:
        root: the folder.
        group: regular expression with one group, searched in the path relative to the root (with its suffix);
            clips with equal matches are never in two splits, and whole groups are drawn. It replaces the column
            ``group`` of clips.csv, which gives the groups without a pattern.
        seed: the seed of the drawn split.
        fractions: shares of train, val and test in the drawn split, of clips or of groups; not used where the data
            give their split. When there are too few for all, train comes first, then test.
        held_out: one value of ``group``, such as a person, or several: these groups are the test split, all others
            are train (less the share of val in ``fractions``), whatever split the data give.
        missing: "raise" when clips.csv names a file that does not exist, or a class folder has a link to one, or
            "skip" it with a sentence in ``notes``.
        empty_classes: "raise" when a class has no clip, or "allow" it, for a part of a data set with all its classes.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give a folder of class folders, or one with a clips.csv")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give its folder")
    notes: list[str] = []
    table = root / "clips.csv"
    if is_table(table):
        root, candidates, classes, multi_label = _read_clips_csv(table, notes)
        lost = {path for path in {clip.path for clip in candidates} if not is_there(path)}
        problem = f"clips in {table} name a file that does not exist"
    else:
        candidates, classes, lost = _walk_class_folders(root, notes)
        multi_label = False
        problem = f"videos in {root} are links to a file that does not exist"
    candidates = _without_missing(candidates, lost, problem, missing, notes)

    index = {name: i for i, name in enumerate(classes)}
    counts = Counter(name for clip in candidates for name in clip.labels)
    empty = [name for name in classes if not counts[name]]
    if empty and empty_classes == "raise":
        reason = f"{table.with_name('classes.txt')} lists it, but no clip in clips.csv has this label"
        if not table.exists():
            reason = f"this class folder of {root} holds no video (suffixes {KNOWN_SUFFIXES})"
            reason += "".join(f"; {note}" for note in notes if "of images" in note)
        raise ValueError(
            f"empty class {first_few(empty)}: {reason}. Add a clip, remove the class, or allow it with "
            f"empty_classes='allow'{untrimmed_hint(root)}"
        )
    if empty:
        notes.append(f"{len(empty)} of {len(classes)} classes have no clip: {first_few(empty)}")
    if len(classes) < 2 and not multi_label:
        raise SingleClassError(
            f"{root} has only one class, {classes[0]!r}; a classifier needs at least two to choose from"
            f"{untrimmed_hint(root)}"
        )

    refuse_odd_names(root, (clip.path for clip in candidates))
    ids = _unique_ids(root, candidates)
    test_groups = [held_out] if isinstance(held_out, str) else list(held_out or [])
    groups = clip_groups(root, candidates, group, table, notes)
    splits = clip_splits(root, candidates, groups, seed, fractions, test_groups, multi_label, notes)
    group_of_each: list[str | None] = [None] * len(candidates) if groups is None else [*groups]
    clips = []
    for clip, name, split, clip_group in zip(candidates, ids, splits, group_of_each, strict=True):
        labels = tuple(sorted({index[label] for label in clip.labels}))
        label = labels if multi_label else labels[0]
        clips.append(Clip(name, clip.path, label, clip.start_s, clip.end_s, split, clip_group))
    result = ClipList(root, clips, classes, multi_label, notes, group)
    for split in SPLITS:
        part = result.split(split)
        present = {label for clip in part for label in clip.labels}
        absent = [name for i, name in enumerate(classes) if i not in present and counts[name]]
        if len(part) and absent:
            notes.append(f"split {split} has no clip of {len(absent)} of {len(classes)} classes: {first_few(absent)}")
    return result


def _read_clips_csv(table: Path, notes: list[str]) -> tuple[Path, list[Candidate], list[str], bool]:
    """Return the folder of the videos, the clips, the classes, and whether the data are multi-label."""
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
    candidates: list[Candidate] = []
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
        candidates.append(Candidate(where, finder.find(row["path"]), labels, start_s, end_s, split, group))
    multi_label = column == "labels" or any(len(clip.labels) > 1 for clip in candidates)

    listed = table.with_name("classes.txt")
    if not listed.exists():
        classes = sorted({label for clip in candidates for label in clip.labels})
        if not classes:
            raise ValueError(f"{table} has no label in any row")
        notes += notes_on_names("classes", spellings)
        return folder, candidates, classes, multi_label
    classes = load_classes(listed)
    notes += notes_on_names("classes", [*classes, *spellings])
    class_names = set(classes)
    for clip in candidates:
        for label in clip.labels:
            if label not in class_names:
                raise ValueError(f"{clip.where}: the label {label!r} is not in {listed}; {closest(label, classes)}")
    return folder, candidates, classes, multi_label


def _without_missing(
    candidates: list[Candidate], lost: set[Path], problem: str, missing: str, notes: list[str]
) -> list[Candidate]:
    """Leave out the clips whose file is in ``lost``, with a note, or raise FileNotFoundError."""
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing is {missing!r}; it can be 'raise' or 'skip'")
    absent = [clip for clip in candidates if clip.path in lost]
    if not absent:
        return candidates
    first = ", ".join(str(clip.path) for clip in absent[:5]) + (", …" if len(absent) > 5 else "")
    message = f"{len(absent)} of {len(candidates)} {problem}: {first}"
    if missing == "raise":
        raise FileNotFoundError(f"{message}. Correct the paths, or leave these clips out with missing='skip'")
    if len(absent) == len(candidates):
        raise FileNotFoundError(f"{message}. None is left")
    notes.append(f"skipped: {message}")
    return [clip for clip in candidates if clip.path not in lost]


def _walk_class_folders(root: Path, notes: list[str]) -> tuple[list[Candidate], list[str], set[Path]]:
    """Return the clips, the classes, and the videos that are links to no file."""
    walk = Walk(root, images_below=2)  # a folder of images inside a class folder is one clip
    folders = {name: walk.below(name) for name in walk.folders[""]}
    previews = [name for name, videos in folders.items() if not videos and name.lower() in PREVIEWS]
    folders = {name: videos for name, videos in folders.items() if name not in previews}
    holding = [name for name, videos in folders.items() if videos]
    if not holding:
        problem = "has neither a clips.csv nor class folders"
        if folders:
            problem = f"has no clips.csv, and every class folder ({first_few(list(folders))}) is without any video"
        raise ValueError(
            f"{root} {problem}. Put each class's videos into a folder with the class's name; a video is a file "
            f"ending in {KNOWN_SUFFIXES}, or a folder of numbered images inside the class's folder"
            + "".join(f"; {note}" for note in walk.notes())
            + untrimmed_hint(root)
        )
    candidates = []
    sides = [
        (split, name)
        for name in holding
        if (split := SPLIT_FOLDERS.get(plain_name(name).lower()))
        and not any(video.parent == root / name and is_video_file(video) for video in folders[name])
    ]
    not_splits = sorted(set(holding) - {side for _, side in sides})
    if not_splits and len({split for split, _ in sides}) > 1:
        raise ValueError(
            f"{root} has folders of splits ({first_few([side for _, side in sides])}) and others with videos "
            f"beside them ({first_few(not_splits)}); move the others away, or list the videos in a clips.csv"
        )
    if not not_splits:
        named = [name for _, side in sides for name in walk.folders[side]]
        for split, side in sides:
            for video in folders[side]:
                if video.parent == root / side:  # a folder of images
                    walk.pictures[f"{side}/{video.name}"] = "it is a class's folder, and each clip has a folder in it"
                    continue
                label = plain_name(video.relative_to(root / side).parts[0])
                candidates.append(Candidate(str(video), video, (label,), None, None, split))
        others = [name for name in folders if name not in holding]
        if others:
            notes.append(f"took {first_few(holding)} of {root} for splits; {first_few(others)} without videos ignored")
    else:
        named = list(folders)
        for name in named:
            for video in folders[name]:
                candidates.append(Candidate(str(video), video, (plain_name(name),), None, None, None))
    classes = sorted({plain_name(name) for name in named})
    if beside := [name for name in walk.videos if "/" not in name]:
        notes.append(f"ignored {counted(len(beside), 'video')} beside the folders in {root}: {first_few(beside)}")
    if previews:
        notes.append(
            f"ignored {counted(len(previews), 'folder')} in {root} of previews, without videos: {first_few(previews)}"
        )
    notes += walk.notes() + notes_on_names("classes", named)
    return candidates, classes, {root / name for name in walk.lost}


def _unique_ids(root: Path, candidates: list[Candidate]) -> list[str]:
    """Return the id of each clip. Raises ValueError where two would be the same."""
    clip_of: dict[str, Candidate] = {}
    ids = []
    for clip in candidates:
        name = plain_id(root, clip.path)
        if clip.start_s is not None or clip.end_s is not None:
            name += f"@{_short(clip.start_s or 0.0)}-{'end' if clip.end_s is None else _short(clip.end_s)}"
        if name in clip_of:
            first = clip_of[name]
            advice = "" if first.path != clip.path else "; a clip with several labels is one row with label a;b"
            paths = [str(first.path), str(clip.path)]
            if paths[0] != paths[1] and plain_path(paths[0]) == plain_path(paths[1]):
                advice = f": they differ in ways that are not visible, {' and '.join(spelt(path) for path in paths)}"
            raise ValueError(
                f"two videos with the same id {name!r}: {paths[0]} ({first.where}) and {paths[1]} ({clip.where}); "
                f"rename or remove one{advice}"
            )
        clip_of[name] = clip
        ids.append(name)
    return ids


def _short(seconds: float) -> str:
    """Format seconds with at most three decimals: 2, 2.5, 0.033."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
