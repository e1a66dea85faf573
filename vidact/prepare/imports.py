"""``vidact prepare import``: features and labels of other repositories become a folder that vidact trains on.

Two layouts are read: labels of every frame (MS-TCN's release of GTEA, 50Salads and Breakfast), and events in seconds
(ActivityNet's JSON, the lists of EPIC-KITCHENS-100) beside a folder of features. The result is features/<video>.npy
with features.json, events.csv, videos.csv and classes.txt. Nothing is guessed: the axes, the stride, the window and the
rate of features are those of a named release, or stated, and compared with the labels and the lengths of the videos.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vidact.data.event_list import AMBIGUOUS, Event
from vidact.data.frame_labels import events_of_labels, load_labels, load_mapping, load_split
from vidact.data.sequence_list import FEATURES, RECORD, Untrimmed, check_finite, read_array, write_folder, write_lists
from vidact.data.tables import closest
from vidact.data.timed_labels import TimedVideo, unknown_subsets
from vidact.files import disk_free
from vidact.jobs import size_text
from vidact.prepare.releases import OWN_RECIPE, Axes, FrameSet, Windows
from vidact.records import FASTEST, read_json
from vidact.records import FEATURES as FEATURE_KEYS
from vidact.text.names import Finder, counted, first_few, is_there, plain_name, spelt
from vidact.video.folders import video_id

Rule = Literal["raise", "skip", "keep"]
ARRAYS = (".npy", ".npz")
LEAST_MISFIT_S = 1.0  # lengths of features and of videos that differ by less fit: frames at the end make no feature
MISFIT_SHARE = 0.03  # and so do those that differ by less than this share of the video


@dataclass
class Imported:
    """The result: the folder, the numbers of videos and events, the recipe, and sentences on what was left out."""

    out: Path
    splits: dict[str, int]
    events: int
    classes: list[str]
    dim: int
    tokens_per_second: float
    recipe: str
    needs_allowance: bool = False  # events reach beyond the features or overlap, which training has to be told
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """A video that will be written: its features' file, and a function that returns them as (T, D)."""

    id: str
    split: str
    path: Path
    read: Callable[[], np.ndarray]
    events: list[Event]
    group: str | None = None


# ------------------------------------------------------------------------------------------------ labels of every frame


def import_frames(
    data: str | Path,
    out: str | Path,
    settings: FrameSet,
    split: str | None,
    axes: Axes = "DT",
    lengths: Literal["raise", "cut"] = "raise",
    origin: str = "frames",
    imported: str | Path | None = None,
) -> Imported:
    """Import a folder in MS-TCN's layout, see ``vidact.data.frame_labels``.

    A background class is no event. The features are every ``settings.every``-th of the file, and the events keep the
    exact frames of the labels, at which published scores compare.

    Args:
        data: the folder with features, groundTruth, mapping.txt and splits.
        out: the folder to write.
        settings: the facts about the data set.
        split: the name of the split, such as "1".
        axes: the axes of the files of features: "DT" is (values, frames), as released.
        lengths: whether features and labels of different lengths are an error, or both are "cut" at the end of the
            shorter one, as MS-TCN's code does. Above a second they are an error in any case.
        origin: what the record of the features names as their origin.
        imported: the features that an earlier import of the set wrote; only the lists are written then.
    """
    data, out = Path(data), Path(out)
    if settings.every < 1:
        raise ValueError(f"every is {settings.every}; 1 takes every frame, 2 every second one")
    if not 0 < settings.fps <= FASTEST:
        raise ValueError(f"fps is {settings.fps:g}; frames a second are more than 0, at most {FASTEST:g}")
    _refuse_missing_parts(data)
    _refuse_own_source(out, data / "features")
    mapping = data / "mapping.txt"
    names = load_mapping(mapping)
    for word in settings.background:
        if word not in names:
            raise ValueError(
                f"the background class {word!r} is not in {mapping}, which has {first_few(names, 20)}; name the "
                "classes that are no action as --background, or give --background without a name"
            )
    classes = [name for name in names if name not in settings.background]
    if not classes:
        raise ValueError(f"all classes of {mapping} are named as background; at least one is an action")
    splits = load_split(data / "splits", split, data / "groundTruth")
    finder, truth = Finder(data / "features"), Finder(data / "groundTruth")
    paths = {video: finder.find(f"{video}.npy") for video in splits}
    _refuse_absent(paths, data / "features")
    notes: list[str] = []
    sources: list[_Source] = []
    misfits: list[str] = []
    for video, path in paths.items():
        _refuse_odd_id(video, path)
        labels_path = truth.find(f"{video}.txt")
        labels = load_labels(labels_path, names, mapping)
        num_frames = _num_frames(path, axes, len(labels), labels_path)
        if num_frames != len(labels):
            misfits.append(_length_misfit(path, num_frames, labels_path, len(labels), settings.fps, lengths))
        used = min(num_frames, len(labels))
        events = events_of_labels(labels[:used], video, settings.fps, settings.background)
        sources.append(_Source(video, splits[video], path, _frames_reader(path, axes, used, settings.every), events))
    if misfits and lengths == "raise":
        more = f" ({len(misfits)} of {len(paths)} videos differ)" if len(misfits) > 1 else ""
        raise ValueError(
            f"{misfits[0]}{more}. Labels that are shifted by a frame look like this, so compare them with the video; "
            "--lengths cut drops what is left over at the end, as MS-TCN's code does"
        )
    if misfits:
        notes.append(f"cut {counted(len(misfits), 'video')} at the end of the shorter of features and labels")
    sources = _with_groups(sources, settings.group, notes)
    unlisted = sorted(p.stem for p in (data / "groundTruth").glob("*.txt") if plain_name(p.stem) not in splits)
    if unlisted:
        notes.append(f"{counted(len(unlisted), 'video')} with labels are in neither list: {first_few(unlisted)}")
    rate = settings.fps / settings.every
    record = {"origin": origin, "labels": "one a frame", "tokens_per_second": rate}
    return _write(out, sources, classes, record, settings.recipe, notes, imported)


def _refuse_missing_parts(data: Path) -> None:
    if not data.is_dir():
        raise FileNotFoundError(
            f"{data} is not a folder; give the one with features, groundTruth, mapping.txt and splits"
        )
    absent = [
        name
        for name in ("features", "groundTruth", "splits", "mapping.txt")
        if not ((data / name).is_file() if name == "mapping.txt" else (data / name).is_dir())
    ]
    if absent:
        inside = sorted(path.name for path in data.iterdir())
        nested = next((p.name for p in sorted(data.iterdir()) if (p / "groundTruth").is_dir()), None)
        hint = f"; {data / nested} has groundTruth: is it the folder?" if nested else ""
        raise FileNotFoundError(
            f"{data} has no {' and no '.join(absent)}; it has {first_few(inside, 10) or 'nothing'}{hint}"
        )


def _num_frames(path: Path, axes: Axes, num_labels: int, labels_path: Path) -> int:
    """Return the number of frames of features; raise ValueError where the other axis has it."""
    array = read_array(path)
    _refuse_no_matrix(array, path)
    along = array.shape[axes.index("T")]
    across = array.shape[axes.index("D")]
    if along != num_labels and across == num_labels:
        turned = axes[::-1]
        raise ValueError(
            f"{path} has the shape {array.shape} and {labels_path} has {num_labels} labels: the frames are on the "
            f"other axis than in {axes} ({_axes_text(axes)}); give --axes {turned}"
        )
    return along


def _axes_text(axes: str) -> str:
    return "(features, values)" if axes == "TD" else "(values, features)"


def _length_misfit(path: Path, frames: int, labels_path: Path, labels: int, fps: float, lengths: str) -> str:
    if abs(frames - labels) > fps and lengths == "cut":
        raise ValueError(
            f"{path} has features of {frames} frames and {labels_path} has {labels} labels, a difference of more than "
            "a second: they do not belong together"
        )
    if labels > frames:
        return (
            f"{labels_path} has {labels} labels and {path} has features of {frames} frames: there is no feature for "
            f"line {frames + 1}"
        )
    return (
        f"{labels_path} ends with line {labels} and {path} has features of {frames} frames: there is no label for the "
        f"last {counted(frames - labels, 'frame')}"
    )


def _frames_reader(path: Path, axes: Axes, used: int, every: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array = read_array(path)
        return np.asarray((array.T if axes == "DT" else array)[:used:every], dtype=np.float32)

    return read


def _with_groups(sources: list[_Source], pattern: str | None, notes: list[str]) -> list[_Source]:
    """Return the sources with the person of each; where a name has none, the video is a group by itself."""
    if pattern is None:
        return sources
    matches = {source.id: re.search(pattern, source.id) for source in sources}
    unnamed = [video for video, match in matches.items() if match is None]
    if len(unnamed) == len(sources):
        notes.append(f"no video name has a person ({pattern}), so validation videos are drawn one by one")
        return sources
    if unnamed:
        notes.append(f"{counted(len(unnamed), 'video name')} without a person ({pattern}): {first_few(unnamed)}")
    return [replace(s, group=match[1] if (match := matches[s.id]) else s.id) for s in sources]


# ---------------------------------------------------------------------------------------------------- events in seconds


def import_events(
    videos: Mapping[str, TimedVideo],
    source: str | Path,
    features: str | Path,
    out: str | Path,
    windows: Windows,
    subsets: Mapping[str, str | None],
    recipe: str = OWN_RECIPE,
    classes: Sequence[str] | None = None,
    missing: Rule = "raise",
    misfit: Rule = "raise",
    every: int = 1,
    origin: str = "events",
    imported: str | Path | None = None,
) -> Imported:
    """Import events in seconds with a folder of features.

    Args:
        videos: the videos with their events; events labelled "ambiguous" (in any case) are ambiguous stretches.
        source: the file of the events, for messages.
        features: the folder of the features: <video>.npy or v_<video>.npy, or .npz with the array ``feats``.
        out: the folder to write.
        windows: where the features lie in time.
        subsets: the split of the videos of each subset, in lower case; None leaves them out.
        recipe: the configuration that comes next.
        classes: the names of the actions in their order; None is the sorted labels.
        missing: what to do with a video without features: "raise" or "skip".
        misfit: what to do with a video whose features do not last as long as the video: "raise", "skip" or "keep". It
            does not apply where most videos are so: then stride, window or rate are wrong.
        every: take every n-th feature only.
        origin: what the record of the features names as their origin.
        imported: as in ``import_frames``.
    """
    out, folder = Path(out), Path(features)
    if every < 1:
        raise ValueError(f"every is {every}; 1 takes every feature, 2 every second one")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the one with the features, a file for each video")
    _refuse_own_source(out, folder)
    notes: list[str] = []
    videos = _by_plain_name(videos, source)
    unknown_subsets(videos, subsets, source)
    splits = {v: split for v, entry in videos.items() if (split := subsets[entry.subset.lower()]) is not None}
    if len(splits) < len(videos):
        left_out = [video for video in videos if video not in splits]
        notes.append(f"left out {counted(len(left_out), 'video')} of subsets without labels: {first_few(left_out, 3)}")
    if not splits:
        raise ValueError(f"{source} has no video of a subset with labels; it has {counted(len(videos), 'video')}")
    events = {video: _timed_events(video, videos[video].events, source, notes) for video in splits}
    names = _classes_of(events, classes, source)
    paths = _files_of(splits, folder)
    absent = [video for video in splits if video not in paths]
    if absent:
        summary = f"{len(absent)} of {counted(len(splits), 'video')} of {source} have no features in {folder}"
        if missing == "raise" or len(absent) == len(splits):
            inside = sorted(p.name for p in folder.iterdir() if p.suffix in ARRAYS)
            nested = sorted({p.parent.name for p in folder.glob("*/*") if p.suffix in ARRAYS})
            raise FileNotFoundError(
                f"{summary}: {first_few(absent)}. Looked for {absent[0]}.npy, v_{absent[0]}.npy and .npz; the folder "
                f"has {first_few(inside, 3) or 'no such files'}"
                + (f", its folder {nested[0]} has some" if nested and not inside else "")
                + ("" if len(absent) == len(splits) else ". Leave them out with --missing skip")
            )
        notes.append(f"left out: {summary}: {first_few(absent)}")
    names_of_files = {path.name for path in paths.values()}
    extra = sorted(p.stem for p in folder.iterdir() if p.suffix in ARRAYS and p.name not in names_of_files)
    if extra:
        notes.append(
            f"{counted(len(extra), 'file')} of features belong to no video that is imported: {first_few(extra, 3)}"
        )
    shapes = {path: _shape(path, windows) for path in paths.values()}
    _refuse_other_axis(shapes, windows)
    counts = {video: shapes[path][windows.axes.index("T")] for video, path in paths.items()}
    misfits = _misfits(counts, videos, windows, source)
    if misfits and misfit == "raise":
        raise ValueError(
            f"the features of {counted(len(misfits), 'video')} do not last as long as the video: "
            f"{first_few(list(misfits.values()), 3)}. Their events would be at wrong times: leave these videos out "
            "with --misfit skip, or keep them with --misfit keep"
        )
    if misfits:
        verb = "left out" if misfit == "skip" else "kept"
        notes.append(
            f"{verb} {counted(len(misfits), 'video')} whose features do not last as long: "
            f"{first_few(list(misfits.values()), 3)}"
        )
    used = [video for video in paths if not (misfit == "skip" and video in misfits)]
    windows_used = replace(windows, stride=windows.stride * every)
    sources = []
    for video in used:
        path = paths[video]
        _refuse_odd_id(video, path)
        sources.append(_Source(video, splits[video], path, _windows_reader(path, windows.axes, every), events[video]))
    rate = windows_used.fps / windows_used.stride
    record = {
        "origin": origin,
        "labels": "events",
        "tokens_per_second": rate,
        "grid": {"stride": windows_used.stride, "frames": windows_used.frames, "fps": windows_used.fps},
    }
    result = _write(out, sources, names, record, recipe, notes, imported)
    result.needs_allowance = _needs_allowance(sources, counts, windows)
    return result


def _by_plain_name(videos: Mapping[str, TimedVideo], source: str | Path) -> dict[str, TimedVideo]:
    """Return the videos by their plain names; ValueError where two have the same."""
    named: dict[str, TimedVideo] = {}
    for video, entry in videos.items():
        if (name := plain_name(video)) in named:
            raise ValueError(f"{source} has {spelt(video)} twice: its names differ only in what is not seen")
        named[name] = entry
    return named


def _timed_events(video: str, events: list[Event], source: str | Path, notes: list[str]) -> list[Event]:
    """Return the events sorted by start, ambiguous ones named so; those without length are left out with a note."""
    timed = []
    for event in events:
        label = plain_name(event.label)
        where = f"{source}: the event {label!r} of {video} from {event.start_s:g} s to {event.end_s:g} s"
        if not label:
            raise ValueError(f"{source}: an event of {video} at {event.start_s:g} s has no label")
        if event.start_s < 0 or event.end_s < event.start_s:
            raise ValueError(f"{where} does not end after it starts, or starts before the video; correct the file")
        if event.start_s == event.end_s:
            notes.append(f"left out an event without length: {label} at {event.start_s:g} s of {video}")
            continue
        timed.append(replace(event, video=video, label=AMBIGUOUS if label.lower() == AMBIGUOUS else label))
    return sorted(timed, key=lambda event: (event.start_s, event.end_s, event.label))


def _classes_of(events: Mapping[str, list[Event]], classes: Sequence[str] | None, source: str | Path) -> list[str]:
    labels = {event.label for video_events in events.values() for event in video_events} - {AMBIGUOUS}
    if not labels:
        raise ValueError(f"{source} has no event of any class")
    if classes is None:
        return sorted(labels)
    for video, video_events in events.items():
        for event in video_events:
            if event.label not in classes and event.label != AMBIGUOUS:
                raise ValueError(
                    f"{source}: {video} has an event of the unknown class {event.label!r}; "
                    f"{closest(event.label, list(classes))}"
                )
    return list(classes)


def _files_of(videos: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Return the file of features of each video that has one; ValueError where two files could be it."""
    finder = Finder(folder)
    paths: dict[str, Path] = {}
    for video in videos:
        candidates = [finder.find(f"{prefix}{video}{suffix}") for prefix in ("", "v_") for suffix in ARRAYS]
        present = [path for path in candidates if is_there(path)]
        if len(present) > 1:
            raise ValueError(f"{folder} has {' and '.join(p.name for p in present)} for {video}; remove one of them")
        if present:
            paths[video] = present[0]
    return paths


def _load(path: Path) -> np.ndarray:
    """Return the features in a file: a .npy, or the array ``feats`` (or the only one) of a .npz."""
    if path.suffix != ".npz":
        return read_array(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive)
            name = "feats" if "feats" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise ValueError(f"{path} holds {first_few(names)}; features are the array 'feats', or the only one")
            return archive[name]
    except (OSError, EOFError, ValueError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is no archive of arrays of numbers: {error}") from None


def _shape(path: Path, windows: Windows) -> tuple[int, ...]:
    """Return the shape of the features in a file; raise ValueError where it cannot be that of ``windows``."""
    array = _load(path)
    _refuse_no_matrix(array, path)
    values, count = array.shape[windows.axes.index("D")], array.shape[windows.axes.index("T")]
    if windows.dim is not None and values != windows.dim:
        if count == windows.dim:
            raise ValueError(
                f"{path} has the shape {array.shape}: its {windows.dim} values are on the other axis than in "
                f"{windows.axes} ({_axes_text(windows.axes)}); give --axes {windows.axes[::-1]}"
            )
        raise ValueError(
            f"{path} has the shape {array.shape}, and these features have {windows.dim} values: it is another release. "
            "State its --stride, --window, --fps and --axes instead"
        )
    return array.shape


def _refuse_other_axis(shapes: Mapping[Path, tuple[int, ...]], windows: Windows) -> None:
    """Raise ValueError where videos have different numbers of values, or these are on the other axis."""
    dims = {shape[windows.axes.index("D")] for shape in shapes.values()}
    if len(dims) == 1:
        return
    if len({shape[windows.axes.index("T")] for shape in shapes.values()}) == 1:
        path, shape = next(iter(shapes.items()))
        raise ValueError(
            f"all files have {shape[windows.axes.index('T')]} on the axis of time in {windows.axes} "
            f"({_axes_text(windows.axes)}), and different lengths on the other: {path} has the shape {shape}. Give "
            f"--axes {windows.axes[::-1]}"
        )
    axis = windows.axes.index("D")
    first, shape = next(iter(shapes.items()))
    second, its_shape = next((path, s) for path, s in shapes.items() if s[axis] != shape[axis])
    raise ValueError(f"{first} has the shape {shape} and {second} has {its_shape}: they come from different networks")


def _misfits(
    counts: Mapping[str, int], videos: Mapping[str, TimedVideo], windows: Windows, source: str | Path
) -> dict[str, str]:
    """Return a clause for each video whose features do not last as long as the video.

    Raises ValueError where most do not: then the stride, the window or the rate is wrong. A video whose length is not
    stated lasts at least until its last event.
    """
    misfits: dict[str, str] = {}
    judged = 0
    for video, count in counts.items():
        entry, span_s = videos[video], windows.span_s(count)
        stated = entry.duration_s
        length_s = stated if stated is not None else max((e.end_s for e in entry.events), default=0.0)
        if not length_s:
            continue
        judged += 1
        allowed_s = max(LEAST_MISFIT_S, 2 * windows.stride / windows.fps, MISFIT_SHARE * length_s)
        if span_s < length_s - allowed_s or (stated is not None and span_s > length_s + allowed_s):
            says = f"lasts {length_s:g} s" if stated is not None else f"has an event until {length_s:g} s"
            misfits[video] = f"{video} {says} and its {counted(count, 'feature')} {span_s:.1f} s"
    if 2 * len(misfits) <= judged:
        return misfits
    form = (
        f"a stride of {windows.stride:g} and a window of {windows.frames:g} frames at {windows.fps:g} frames a second"
    )
    lengths = {v: videos[v].duration_s for v in misfits}
    strides = [
        (length * windows.fps - windows.frames) / (counts[v] - 1)
        for v, length in lengths.items()
        if length is not None and counts[v] > 1
    ]
    if len(counts) > 2 and len(set(counts.values())) == 1:
        advice = (
            f"all videos have {next(iter(counts.values()))} features, so they were stretched to one length; use the "
            "features before that"
        )
    elif strides:
        advice = f"a stride of {statistics.median(strides):.3g} would fit at that rate"
    else:
        advice = "check --stride, --window and --fps"
    raise ValueError(
        f"the features do not fit {source}: with {form}, {first_few(list(misfits.values()), 2)} ({len(misfits)} of "
        f"{counted(judged, 'video')} differ); {advice}"
    )


def _windows_reader(path: Path, axes: Axes, every: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array = _load(path)
        return np.asarray((array.T if axes == "DT" else array)[::every], dtype=np.float32)

    return read


def _needs_allowance(sources: Sequence[_Source], counts: Mapping[str, int], windows: Windows) -> bool:
    """Return whether an event reaches beyond the features by more than a second, or overlaps one of its class."""
    for source in sources:
        ends: dict[str, float] = {}
        for event in source.events:
            if event.end_s > windows.span_s(counts[source.id]) + 1.0:
                return True
            if event.label != AMBIGUOUS and event.start_s < ends.get(event.label, 0.0) - 2e-6:
                return True
            ends[event.label] = max(event.end_s, ends.get(event.label, 0.0))
    return False


# --------------------------------------------------------------------------------------------------------------- both


def _refuse_no_matrix(array: np.ndarray, path: Path) -> None:
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        advice = "; average crops or maps first" if array.ndim > 2 else ""
        raise ValueError(
            f"{path} holds {array.dtype} {array.shape}; features are floating-point numbers on two axes, one of them "
            f"time{advice}"
        )


def _refuse_odd_id(video: str, path: Path) -> None:
    if "/" in video or "\\" in video or video in ("", ".", ".."):
        raise ValueError(f"{path}: {video!r} cannot name a video, because it is no name of a file")
    if video_id(video) != video:
        raise ValueError(f"{path}: {video!r} ends like a video file; name the video without the suffix")


def _refuse_absent(paths: Mapping[str, Path], folder: Path) -> None:
    absent = [video for video, path in paths.items() if not is_there(path)]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of {counted(len(paths), 'listed video')} have no features in {folder}: "
            f"{first_few([f'{video}.npy' for video in absent])}"
        )


def _write(
    out: Path,
    sources: list[_Source],
    classes: list[str],
    record: dict[str, Any],
    recipe: str,
    notes: list[str],
    imported: str | Path | None,
) -> Imported:
    """Write the folder, one video at a time, and return what it holds."""
    sources = sorted(sources, key=lambda source: (("train", "val", "test").index(source.split), source.id))
    if imported is not None:
        dim = _refuse_other_features(Path(imported), sources, record)
        no_features = np.empty((0, dim), np.float32)
        write_lists(out, [Untrimmed(s.id, s.split, no_features, s.events, s.group) for s in sources], classes)
        return _summary(out, sources, classes, dim, record["tokens_per_second"], recipe, notes)
    num_bytes = sum(source.path.stat().st_size for source in sources)
    _refuse_other_record(out / FEATURES / RECORD, record)
    if (free := disk_free(out)) < num_bytes:
        raise OSError(f"{out} has {size_text(free)} free, and the features need {size_text(num_bytes)}")
    rate = record["tokens_per_second"]
    dim = 0

    def videos() -> Iterator[Untrimmed]:
        nonlocal dim
        for source in sources:
            features = source.read()
            check_finite(features, source.path, rate)
            if dim and features.shape[1] != dim:
                raise ValueError(
                    f"{source.path} has {features.shape[1]} values a feature and {sources[0].path} has {dim}: they "
                    "come from different networks"
                )
            dim = features.shape[1]
            yield Untrimmed(source.id, source.split, features, source.events, source.group)

    write_folder(out, videos(), classes, record)
    return _summary(out, sources, classes, dim, rate, recipe, notes)


def _summary(
    out: Path, sources: list[_Source], classes: list[str], dim: int, rate: float, recipe: str, notes: list[str]
) -> Imported:
    splits = {name: sum(source.split == name for source in sources) for name in ("train", "val", "test")}
    events = sum(event.label != AMBIGUOUS for source in sources for event in source.events)
    ambiguous = sum(len(source.events) for source in sources) - events
    if ambiguous:
        notes.append(f"{counted(ambiguous, 'ambiguous stretch', 'ambiguous stretches')}: neither action nor background")
    return Imported(out, splits, events, classes, dim, rate, recipe, notes=notes)


def _refuse_own_source(out: Path, folder: Path) -> None:
    """Raise ValueError where the features would be written over those that are read."""
    target = out / FEATURES
    if target.exists() and target.samefile(folder):
        raise ValueError(f"{target} holds the features that are read, and would be overwritten; choose another --out")


def _refuse_other_features(folder: Path, sources: Sequence[_Source], record: Mapping[str, Any]) -> int:
    """Return the number of values of imported features; raise where their record differs or a video is not there."""
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"{folder / RECORD} does not exist; give the folder of features that an import wrote")
    _refuse_other_record(folder / RECORD, record)
    absent = [source.id for source in sources if not is_there(folder / f"{source.id}.npy")]
    if absent:
        raise FileNotFoundError(f"{folder} lacks {counted(len(absent), 'video')} of these lists: {first_few(absent)}")
    return int(read_json(folder / RECORD, FEATURE_KEYS, "import the features again")["dim"])


def _refuse_other_record(path: Path, record: Mapping[str, Any]) -> None:
    """Raise ValueError where a features.json describes other features."""
    if not path.exists():
        return
    earlier = read_json(path, FEATURE_KEYS, "choose another folder")
    different = [
        f"{key} {earlier.get(key)} there and {value} here" for key, value in record.items() if earlier.get(key) != value
    ]
    if different:
        raise ValueError(f"{path.parent} has other features: {'; '.join(different)}. Choose another folder")
