"""Untrimmed videos as features and labels: read, checked, and assigned to the splits.

A root holds events.csv, videos.csv and classes.txt (see ``vidact.data.clip_list``); a folder of features holds
``<id>.npy``, float32 (T, D), for each video, and features.json, which records how they were made. The id of a video is
its path in videos.csv without the suffix. A video with a pause too long to be filled becomes several sequences, see
``vidact.data.takes``.

Shapes: T tokens, D features of a token, K classes (1 + K with the background).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np

from vidact import records
from vidact.data.clip_list import inverse_frequencies
from vidact.data.event_list import AMBIGUOUS, Event, load_events, load_groups, load_videos, rasterise
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.splits import SPLITS, groups_of
from vidact.data.tables import load_classes, write_classes
from vidact.data.takes import WHOLE, Take, read_takes, spans
from vidact.data.time_origin import TimeOrigin, check_origin, lead_of
from vidact.files import replacing, write_json
from vidact.text.names import Finder, counted, first_few, is_there, notes_on_names, plain_path, spelt
from vidact.video.folders import video_id

FEATURES = "features"  # the default folder of features, beside events.csv
RECORD = "features.json"
Takes = tuple[Take, ...]


@dataclass(frozen=True)
class Sequence:
    """One untrimmed video, or one take of it: a feature vector and labels for each token.

    ``features`` is (T, D) float32, usually memory-mapped; ``multi_hot`` is (T, 1 + K) float32 with the background
    first; ``ignore`` is (T,) bool. The labels were made from ``events``, which are cut at the end of the features and
    count seconds from the start of the sequence; the sequence starts at ``start_s`` in the video. ``video`` is the id
    of the video. The ``id`` of a take of a paused video ends with the start of the take: ``clip@612.5s``.

    A sequence starts half a token before the centre of its first token. Where tokens are windows that overlap or have
    gaps (the key ``grid`` of features.json), that is not the start of the video, and events may begin before it.
    """

    id: str
    split: str
    features: np.ndarray
    multi_hot: np.ndarray
    ignore: np.ndarray
    events: tuple[Event, ...] = ()
    start_s: float = 0.0
    video: str = ""

    def __len__(self) -> int:
        return len(self.multi_hot)

    @property
    def source(self) -> str:
        """The id of the video."""
        return self.video or self.id


@dataclass
class SequenceList:
    """Untrimmed videos with their class names; ``notes`` are sentences for the user on what was cut or left out.

    ``record`` is the content of features.json.
    """

    sequences: list[Sequence]
    classes: list[str]
    tokens_per_second: float
    record: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self.sequences)

    def __str__(self) -> str:
        counts = Counter(sequence.split for sequence in self)
        parts = ", ".join(f"{name} {counts[name]}" for name in SPLITS if counts[name])
        minutes = sum(len(sequence) for sequence in self) / self.tokens_per_second / 60
        return (
            f"{counted(len(self), 'video')} ({minutes:.0f} min) of {counted(len(self.classes), 'class', 'classes')} "
            f"at {self.tokens_per_second:g} tokens/s: {parts}"
        )

    @property
    def dim(self) -> int:
        """D, the number of values in each feature."""
        return self.sequences[0].features.shape[1]

    @property
    def num_bytes(self) -> int:
        """The number of bytes that all features take in memory."""
        return sum(sequence.features.nbytes for sequence in self)

    @property
    def digest(self) -> str:
        """A hexadecimal hash of ids, splits, labels and class names: equal when two runs used the same labels."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for sequence in self:
            digest.update(f"\n{sequence.id}\t{sequence.split}\t".encode())
            digest.update(np.packbits(sequence.multi_hot > 0).tobytes() + np.packbits(sequence.ignore).tobytes())
        return digest.hexdigest()[:16]

    def split(self, name: str) -> list[Sequence]:
        """Return the videos of "train", "val" or "test", possibly none. Raises ValueError for any other name."""
        if name not in SPLITS:
            raise ValueError(f"{name!r} is not a split; there are {', '.join(SPLITS)}")
        return [sequence for sequence in self if sequence.split == name]

    def class_weights(self) -> np.ndarray:
        """Return the ``inverse_frequencies`` (1 + K,) of the background and the classes among the training tokens.

        Tokens without a label (ambiguous ones) do not count; a token with several labels counts for each.
        """
        counts = np.zeros(1 + len(self.classes))
        for sequence in self.split("train"):
            counts += sequence.multi_hot[~sequence.ignore].sum(0, dtype=float)
        return inverse_frequencies(counts)

    def in_memory(self) -> SequenceList:
        """Return a copy whose features have all been read from disk."""
        return replace(self, sequences=[replace(s, features=np.array(s.features)) for s in self])


def load_sequences(
    root: str | Path,
    features: str | Path | None = None,
    tokens_per_second: float | None = None,
    val_fraction: float = 0.2,
    group: str | None = None,
    seed: int = 0,
    missing: Literal["raise", "skip"] = "raise",
    bad_events: Literal["raise", "allow"] = "raise",
    tolerance_s: float = 1.0,
    time_origin: TimeOrigin = "first_frame",
) -> SequenceList:
    """Read events.csv, videos.csv and the features of every video, and check all of them.

    Features stay on disk (memory-mapped). Where videos.csv names no split val, one is carved from the training videos,
    so that nothing is chosen on the test videos.

    Args:
        root: the folder of events.csv, videos.csv and classes.txt (without it the classes are the sorted labels).
        features: the folder of the features; default ``root``/features.
        tokens_per_second: refuse features of another rate. Required where the folder has no features.json.
        val_fraction: share of the training videos (or groups) that go to val. Whole videos are drawn by a hash of seed
            and name, such that, where possible, val has every class and train loses none. 0 carves nothing.
        group: regular expression with one group, searched in each id: videos with equal matches stay together. It
            replaces the column ``group`` of videos.csv, which names the groups without a pattern.
        seed: the seed of the carved split.
        missing: "raise" when a video has no features, or "skip" it and add a note to ``notes``.
        bad_events: "raise" when an event reaches beyond the end of the features by more than ``tolerance_s``, or
            overlaps another of its class; or "allow" it: the part beyond the end is cut, overlapping events are kept
            as they are, and ``notes`` name them.
        tolerance_s: how far, in seconds, an event may reach beyond the end to be cut without a note: annotators round,
            and an incomplete last chunk makes no token.
        time_origin: the moment from which seconds count, see ``SequenceData``. "file" needs the notes that extraction
            writes beside the features.
    """
    check_origin(time_origin)
    root = Path(root)
    folder = root / FEATURES if features is None else Path(features)
    for name, value, permitted in (
        ("missing", missing, ("raise", "skip")),
        ("bad_events", bad_events, ("raise", "allow")),
    ):
        if value not in permitted:
            raise ValueError(f"{name} is {value!r}; it can be {' or '.join(map(repr, permitted))}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}; it is a share of the training videos, from 0 to below 1")
    for name in ("events.csv", "videos.csv"):
        if not (root / name).exists():
            raise FileNotFoundError(
                f"{root / name} does not exist; a folder of untrimmed videos has events.csv "
                "(video,start_s,end_s,label), videos.csv (video,split) and classes.txt"
            )
    notes: list[str] = []
    splits = _read_splits(root / "videos.csv", notes)
    events = _read_events(root / "events.csv", splits, notes)
    if (root / "classes.txt").exists():
        classes = load_classes(root / "classes.txt")
    else:
        labels = {event.label for video_events in events.values() for event in video_events}
        classes = sorted(label for label in labels if label.lower() != AMBIGUOUS)
        notes.append(f"there is no classes.txt in {root}; the classes are the sorted labels: {first_few(classes)}")
    if not classes:
        raise ValueError(f"{root / 'events.csv'} has no event of any class")
    notes += [note for note in notes_on_names("classes", classes) if note not in notes]

    record, rate = read_record(folder, tokens_per_second)
    arrays, takes = _read_features(folder, list(splits), record, rate, missing, notes)
    if time_origin == "file":
        events = {video: _from_first_frame(events[video], lead_of(folder, video), notes) for video in arrays}
    if "dim" not in record:
        record["dim"] = next(iter(arrays.values())).shape[1]
    start_s = grid_start_s(record, folder / RECORD)
    ends_s = {
        video: spans(video_takes, len(arrays[video]), rate)[-1][2] + 2 * start_s for video, video_takes in takes.items()
    }
    checked = _check_events(root / "events.csv", {v: events[v] for v in arrays}, ends_s, bad_events, tolerance_s, notes)
    sequences = []
    for video, array in arrays.items():
        for id, begin_s, part, take_events in _by_takes(video, takes[video], array, checked[video], rate, start_s):
            targets = rasterise(take_events, len(part), rate, classes)
            sequences.append(Sequence(id, splits[video], part, *targets, tuple(take_events), begin_s, video))
    _note_takes(takes, checked, arrays, rate, notes)
    groups = _groups(root, list(arrays), group, notes)
    sequences = _carve_val(sequences, root, val_fraction, groups, seed, notes)
    result = SequenceList(sequences, classes, rate, record, notes)
    _note_labels(result, root)
    return result


def _read_splits(table: Path, notes: list[str]) -> dict[str, str]:
    """Return the split of each video, by its id."""
    videos = load_videos(table, notes)
    if not videos:
        raise ValueError(f"{table} is empty: it has a header and no videos")
    splits: dict[str, str] = {}
    for video, split in videos.items():
        if Path(video).is_absolute() or ".." in Path(video).parts:
            raise ValueError(f"{table}: the path {video} may leave its folder; write it relative and without '..'")
        name = plain_path(video_id(video))
        if name in splits:
            twins = [spelt(path) for path in videos if plain_path(video_id(path)) == name]
            raise ValueError(
                f"{table} has two videos with the id {name}; rename one, suffixes do not count: {' and '.join(twins)}"
            )
        splits[name] = split
    return splits


def _read_events(table: Path, splits: Mapping[str, str], notes: list[str]) -> dict[str, list[Event]]:
    """Return the events of each video of ``splits``, sorted by their start."""
    events: dict[str, list[Event]] = {video: [] for video in splits}
    unlisted: dict[str, None] = {}
    for event in load_events(table, notes):
        video = plain_path(video_id(event.video))
        if video in events:
            events[video].append(replace(event, video=video))
        else:
            unlisted[event.video] = None
    if unlisted:
        # Events written by a stream name the path that the stream was given, which may lie in another folder.
        paths_by_name = {PurePosixPath(video).name: video for video in splits}
        pairs = ((video, paths_by_name.get(PurePosixPath(plain_path(video_id(video))).name)) for video in unlisted)
        hints = (f"; {video!r} has the name of {path!r} in videos.csv; write that" for video, path in pairs if path)
        raise ValueError(
            f"{table} has events of {counted(len(unlisted), 'video')} that videos.csv does not name: "
            f"{first_few(list(unlisted))}. Add them to videos.csv with their split{next(hints, '')}"
        )
    return {video: sorted(video_events, key=lambda event: event.start_s) for video, video_events in events.items()}


# ------------------------------------------------------------------------------------------------------------- features


def read_record(folder: Path, tokens_per_second: float | None) -> tuple[dict[str, Any], float]:
    """Return the content of features.json and the rate. Raises ValueError where the rate is not ``tokens_per_second``.

    Without features.json the rate is ``tokens_per_second``; FileNotFoundError where that is None.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; extract the features into it, or name their folder with features=…"
        )
    path = folder / RECORD
    if not path.exists():
        if tokens_per_second is None:
            raise FileNotFoundError(
                f"{path} does not exist, so the number of features a second is unknown; extract the features with "
                "`vidact extract features`, or give tokens_per_second=… if you know it"
            )
        return {"tokens_per_second": float(tokens_per_second)}, float(tokens_per_second)
    record = records.parse(path.read_bytes(), path, "extract the features again")
    rate: Any = record.get("tokens_per_second") if isinstance(record, dict) else None
    if records.is_number(rate) and not rate > 0:
        raise ValueError(f"{path} says {rate:g} tokens per second; a rate is above 0")
    record = records.check(record, records.FEATURES, path)
    if rate is None:
        raise ValueError(f"{path} says no tokens_per_second (KeyError); extract the features again")
    rate = float(rate)
    if tokens_per_second is not None and abs(rate - tokens_per_second) > 1e-6 * rate:
        raise ValueError(
            f"{tokens_per_second:g} tokens per second were asked for and the features in {folder} have {rate:g} "
            f"({RECORD}); extract them again at the rate you want, or ask for theirs"
        )
    return record, rate


def grid_start_s(record: Mapping[str, Any], source: str | Path) -> float:
    """Return the second of the video at which token 0 begins, from the key ``grid`` of features.json; without it 0.

    ``grid`` has the stride from one window to the next and the length of a window, in frames, and the frames a second.
    Raises ValueError, naming the source, where they do not give the record's tokens per second.
    """
    if record.get("grid") is None:
        return 0.0
    from vidact.models.offline_decoding import Grid  # imported late, since PyTorch takes a second

    with records.blamed(source):
        return Grid.of_record(record).start_s


def _read_features(
    folder: Path, videos: list[str], record: dict[str, Any], rate: float, missing: str, notes: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, Takes]]:
    """Return the checked features of each video, memory-mapped, and its takes."""
    finder = Finder(folder)
    paths = {video: finder.find(f"{video}.npy") for video in videos}
    absent = [video for video in videos if not is_there(paths[video])]
    if absent:
        summary = f"{len(absent)} of {len(videos)} videos have no features in {folder}: {first_few(absent)}"
        elsewhere = {path.stem for path in folder.rglob("*.npy")}
        hint = "Extract them"
        if all(Path(video).name in elsewhere for video in absent):
            hint = (
                f"{_file(folder, absent[0])} is looked for and a file of that name lies elsewhere in the folder: "
                "features are called by the video's path in videos.csv; extract with the folder of videos.csv as the "
                "videos' folder"
            )
        if missing == "raise" or len(absent) == len(videos):
            raise FileNotFoundError(
                f"{summary}. {hint}" + ("" if len(absent) == len(videos) else ", or use missing='skip'")
            )
        notes.append(f"skipped: {summary}")
    arrays: dict[str, np.ndarray] = {}
    takes: dict[str, Takes] = {}
    dim, dim_source = record.get("dim"), f"{folder / RECORD} says"
    for video, path in paths.items():
        if not is_there(path):
            continue
        array = read_array(path)
        if array.dtype != np.float32 or array.ndim != 2 or len(array) == 0:
            raise ValueError(
                f"{path} holds {array.dtype} {array.shape}; features are float32 (tokens, values), at least one token"
            )
        if dim is not None and array.shape[1] != dim:
            raise ValueError(
                f"{path} has {array.shape[1]} values a token and {dim_source} {dim}: the features come from different "
                "backbones. Extract all with one"
            )
        if dim is None:
            dim, dim_source = array.shape[1], f"{path} has"
        check_finite(array, path, rate)
        arrays[video], takes[video] = array, read_takes(path, len(array))
    return arrays, takes


def _file(folder: Path, video: str) -> Path:
    return folder / f"{video}.npy"


def read_array(path: Path) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped; a pickle in it is refused."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no array of numbers in NumPy's format: {error}") from None


def check_finite(array: np.ndarray, path: Path | str, rate: float) -> None:
    """Raise ValueError for NaN and infinite features, naming the first token."""
    for first in range(0, len(array), 4096):
        block = array[first : first + 4096]
        if np.isfinite(block).all():
            continue
        row, column = (int(index) for index in np.argwhere(~np.isfinite(block))[0])
        raise ValueError(
            f"{path} has {block[row, column]} in token {first + row} ({(first + row) / rate:.2f} s), value {column}: "
            "features are finite numbers. Extract this video again"
        )


# ---------------------------------------------------------------------------------------------------------------- takes


def _from_first_frame(events: list[Event], lead_s: float, notes: list[str]) -> list[Event]:
    """Return the events in seconds since the first frame, which the file shows after ``lead_s``.

    Events that end before the first frame are left out.
    """
    later = [event for event in events if event.end_s > lead_s]
    if len(later) < len(events):
        notes.append(
            f"left out {counted(len(events) - len(later), 'event')} of {events[0].video}, which "
            f"{'ends' if len(events) - len(later) == 1 else 'end'} before the first picture is shown, at {lead_s:.2f} s"
        )
    return [replace(event, start_s=max(0.0, event.start_s - lead_s), end_s=event.end_s - lead_s) for event in later]


def _by_takes(
    video: str, takes: Takes, array: np.ndarray, events: list[Event], rate: float, grid_start: float
) -> Iterator[tuple[str, float, np.ndarray, list[Event]]]:
    """Yield for each take its id, its start in the video, its features, and its events in seconds since that start.

    The windows of the first and the last token reach ``grid_start`` seconds beyond the take.
    """
    for tokens, start_s, end_s in spans(takes, len(array), rate):
        begin_s, end_s = start_s + grid_start, end_s + 2 * grid_start
        take_events = [
            replace(event, start_s=max(event.start_s, start_s) - begin_s, end_s=min(event.end_s, end_s) - begin_s)
            for event in events
            if event.start_s < end_s and event.end_s > start_s
        ]
        yield video if takes == WHOLE else f"{video}@{start_s:g}s", begin_s, array[tokens], take_events


def _note_takes(
    takes: Mapping[str, Takes],
    events: Mapping[str, list[Event]],
    arrays: Mapping[str, np.ndarray],
    rate: float,
    notes: list[str],
) -> None:
    """Add notes on the videos that have several takes, and on the events that lie between takes."""
    paused = {video: video_takes for video, video_takes in takes.items() if video_takes != WHOLE}
    if not paused:
        return
    notes.append(
        f"{counted(len(paused), 'video pauses', 'videos pause')} for longer than is filled, and each of their "
        "takes is a sequence of its own: "
        f"{first_few([f'{video} ({len(video_takes)})' for video, video_takes in paused.items()])}"
    )
    missed = [
        f"{event.label} at {event.start_s:g}–{event.end_s:g} s of {video}"
        for video, video_takes in paused.items()
        for event in events[video]
        if not any(
            event.start_s < end_s and event.end_s > start_s
            for _, start_s, end_s in spans(video_takes, len(arrays[video]), rate)
        )
    ]
    if missed:
        notes.append(
            f"left out {counted(len(missed), 'event that lies', 'events that lie')} in a pause: {first_few(missed, 3)}"
        )


# --------------------------------------------------------------------------------------------------------------- labels


def _check_events(
    table: Path,
    events: Mapping[str, list[Event]],
    ends_s: Mapping[str, float],
    bad_events: str,
    tolerance_s: float,
    notes: list[str],
) -> dict[str, list[Event]]:
    """Return the events, cut at the end of their video's features; raise for or note those that cannot be right."""
    beyond, overlapping, outside = [], [], []
    checked: dict[str, list[Event]] = {}
    for video, video_events in events.items():
        end_s = ends_s[video]
        latest: dict[str, Event] = {}
        cut = []
        for event in video_events:
            description = f"{event.label} at {event.start_s:g}–{event.end_s:g} s of {video}"
            if event.end_s > end_s + tolerance_s:
                beyond.append(f"{description}, which ends at {end_s:g} s")
            previous = latest.get(event.label)
            # Times are written with six digits, so neighbours that touch may seem to overlap by one.
            if previous is not None and event.start_s < previous.end_s - 2e-6 and event.label.lower() != AMBIGUOUS:
                overlapping.append(f"{description} and the one at {previous.start_s:g}–{previous.end_s:g} s")
            if previous is None or event.end_s > previous.end_s:
                latest[event.label] = event
            if event.start_s >= end_s:
                outside.append(description)
            else:
                cut.append(replace(event, end_s=min(event.end_s, end_s)))
        checked[video] = cut
    if bad_events == "raise" and beyond:
        raise ValueError(
            f"{table}: {counted(len(beyond), 'event reaches', 'events reach')} beyond the end of their features: "
            f"{first_few(beyond, 3)}. Correct the times, extract the whole video, or cut them with bad_events='allow'"
        )
    if bad_events == "raise" and overlapping:
        raise ValueError(
            f"{table}: {counted(len(overlapping), 'event overlaps', 'events overlap')} another of their class: "
            f"{first_few(overlapping, 3)}. Join or part them, or keep them with bad_events='allow'"
        )
    if beyond:
        notes.append(
            f"cut {counted(len(beyond), 'event that reaches', 'events that reach')} beyond the end of their "
            f"features: {first_few(beyond, 3)}"
        )
    if outside:
        notes.append(
            f"left out {counted(len(outside), 'event that begins', 'events that begin')} after the last "
            f"feature: {first_few(outside, 3)}"
        )
    if overlapping:
        notes.append(
            f"{counted(len(overlapping), 'event overlaps', 'events overlap')} another of their class: "
            f"{first_few(overlapping, 3)}"
        )
    return checked


def _actions(sequence: Sequence) -> set[str]:
    return {event.label for event in sequence.events if event.label.lower() != AMBIGUOUS}


def _note_labels(sequences: SequenceList, root: Path) -> None:
    """Raise ValueError for a split without any event; add notes on classes and videos without events."""
    for split in SPLITS:
        part = sequences.split(split)
        if not part:
            continue
        present = set().union(*map(_actions, part))
        if not present:
            raise ValueError(
                f"{root}: none of the {counted(len(part), 'video')} of the split {split} has an event; label them, or "
                "take them out of videos.csv"
            )
        absent = [name for name in sequences.classes if name not in present]
        if absent:
            sequences.notes.append(
                f"split {split} has no event of {len(absent)} of {len(sequences.classes)} classes: {first_few(absent)}"
            )
    silent = [sequence.id for sequence in sequences if not _actions(sequence)]
    if silent:
        sequences.notes.append(
            f"{counted(len(silent), 'video has no event and is', 'videos have no event and are')} all background: "
            f"{first_few(silent)}"
        )


def _groups(root: Path, videos: list[str], pattern: str | None, notes: list[str]) -> dict[str, str]:
    """Return the group of each video: the pattern's match, else the column of videos.csv, else the video itself."""
    column = {plain_path(video_id(video)): group for video, group in load_groups(root / "videos.csv").items()}
    if pattern is None:
        return {video: column.get(video, video) for video in videos}
    if column:
        notes.append(f"the pattern group {pattern!r} replaces the column group of {root / 'videos.csv'}")
    return dict(zip(videos, groups_of(root, [root / video for video in videos], pattern), strict=True))


def _carve_val(
    sequences: list[Sequence], root: Path, fraction: float, groups: Mapping[str, str], seed: int, notes: list[str]
) -> list[Sequence]:
    """Move a share of the training videos to val where no video is in val."""
    train = [sequence for sequence in sequences if sequence.split == "train"]
    if not fraction or not train or any(sequence.split == "val" for sequence in sequences):
        return sequences
    names = [groups[sequence.source] for sequence in train]
    group_classes: dict[str, set[str]] = {}
    for name, sequence in zip(names, train, strict=True):
        group_classes.setdefault(name, set()).update(_actions(sequence))
    if len(group_classes) < 2:
        raise ValueError(
            f"{root} has one training {'video' if len(train) == 1 else 'group'}, so none can be kept for validation; "
            "name a video with the split val in videos.csv, or train without (val_fraction=0)"
        )
    drawn = _draw(group_classes, fraction, seed)
    carved = {sequence.id for name, sequence in zip(names, train, strict=True) if name in drawn}
    notes.append(
        f"{len(carved)} of {len(train)} training videos are kept for validation (val_fraction {fraction:g}, "
        f"seed {seed}): {first_few(sorted(carved))}"
    )
    return [replace(s, split="val") if s.id in carved else s for s in sequences]


def _draw(classes: Mapping[str, set[str]], fraction: float, seed: int) -> set[str]:
    """Draw the names of a share of the groups, given the classes in each.

    No class is drawn completely, so that the remaining groups keep it (unless every group would take one away). Where
    possible the drawn groups have every class.
    """
    order = sorted(classes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    count = min(max(1, round(fraction * len(order))), len(order) - 1)
    remaining = Counter(label for labels in classes.values() for label in labels)
    drawn: dict[str, None] = {}
    covered: set[str] = set()
    for only_new in (True, False):
        for name in order:
            is_spared = all(remaining[label] > 1 for label in classes[name])
            if len(drawn) < count and name not in drawn and is_spared and (classes[name] - covered or not only_new):
                drawn[name] = None
                covered |= classes[name]
                remaining.subtract(classes[name])
    return set(drawn) or {order[0]}


# -------------------------------------------------------------------------------------------------------------- writing


class Untrimmed(NamedTuple):
    """An untrimmed video to be written: features (T, D), events in seconds of the video, and the group of a split."""

    id: str
    split: str
    features: np.ndarray
    events: Iterable[Event] = ()
    group: str | None = None


def write_sequences(
    out: str | Path,
    sequences: Iterable[Sequence],
    classes: list[str],
    tokens_per_second: float,
    record: Mapping[str, Any],
) -> None:
    """Write sequences in our layout: features/<id>.npy, features.json, events.csv, videos.csv and classes.txt.

    ``sequences`` are read one at a time, so they need not fit into memory together; ``record`` is written to
    features.json with tokens_per_second and dim.
    """
    record = {**record, "tokens_per_second": tokens_per_second}
    start_s = grid_start_s(record, "the record of the features")

    def in_video(event: Event) -> Event:
        return replace(event, start_s=max(0.0, event.start_s + start_s), end_s=event.end_s + start_s)

    videos = (Untrimmed(s.id, s.split, s.features, map(in_video, s.events)) for s in sequences)
    write_folder(out, videos, classes, record)


def write_folder(out: str | Path, videos: Iterable[Untrimmed], classes: list[str], record: Mapping[str, Any]) -> None:
    """Write untrimmed videos in our layout, as ``write_sequences`` does; ``record`` has the tokens per second.

    videos.csv has the column ``group`` where each video names one.
    """
    out = Path(out)
    lists: list[Untrimmed] = []
    dim = 0
    for video in videos:
        with replacing(_file(out / FEATURES, video.id)) as half, open(half, "wb") as file:
            np.save(file, np.asarray(video.features, dtype=np.float32))
        dim = video.features.shape[1]
        lists.append(video._replace(features=np.empty((0, dim), np.float32)))
    write_json(out / FEATURES / RECORD, {**record, "dim": dim})
    write_lists(out, lists, classes)


def write_lists(out: str | Path, videos: list[Untrimmed], classes: list[str]) -> None:
    """Write events.csv, videos.csv and classes.txt; the features of ``videos`` are not used."""
    out = Path(out)
    groups = {video.id: video.group for video in videos if video.group is not None}
    write_classes(out / "classes.txt", classes)
    splits = {video.id: video.split for video in videos}
    write_videos_csv(out / "videos.csv", splits, groups if len(groups) == len(splits) else None)
    write_events_csv(out / "events.csv", (event for video in videos for event in video.events))
