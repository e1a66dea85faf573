"""``vidact prepare import``: features and labels in the layouts of other repositories become a folder for training."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidact.prepare.releases import EVENT_SETS, FRAME_SETS, OWN_RECIPE, OWN_SUBSETS, RELEASES, FrameSet, Windows
from vidact.text.names import counted

if TYPE_CHECKING:
    from vidact.data.timed_labels import TimedVideo
    from vidact.prepare.imports import Imported

OWN_FRAMES, OWN_EVENTS = "frames", "events"
SETS = (*FRAME_SETS, OWN_FRAMES, *EVENT_SETS, OWN_EVENTS)
OF_FRAMES = ("data", "split", "background", "lengths")
OF_EVENTS = (
    "annotations", "features", "release", "stride", "window", "missing", "misfit", "validation", "label", "classes",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``vidact prepare import``."""
    parser.add_argument(
        "--set",
        required=True,
        choices=SETS,
        help="the data set. frames: your own in MS-TCN's layout; events: your own in ActivityNet's",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--fps", type=float, help="frames a second of the labels, or of the features' videos")
    parser.add_argument("--every", type=int, help="use every n-th frame or feature (salads50: 2, else 1)")
    parser.add_argument("--axes", choices=["TD", "DT"], help="the axes of the files: TD is (features, values)")
    parser.add_argument(
        "--imported",
        type=Path,
        metavar="FEATURES",
        help="the features that an earlier import wrote: only the lists are written, for another split or label",
    )
    frames = parser.add_argument_group("labels of every frame: gtea, salads50, breakfast, frames")
    frames.add_argument("--data", type=Path, help="the folder with features, groundTruth, mapping.txt and splits")
    frames.add_argument("--split", help="the name of the split: 1 is train.split1.bundle and test.split1.bundle")
    frames.add_argument(
        "--background",
        nargs="*",
        metavar="CLASS",
        help="the classes that are no action (gtea: background; salads50: action_start action_end; breakfast: SIL); "
        "without a name, every class is an action",
    )
    frames.add_argument(
        "--lengths",
        choices=["raise", "cut"],
        help="the rule for labels that are longer or shorter than the features: an error (the default), or cut both",
    )
    events = parser.add_argument_group("events in seconds: thumos14, activitynet, epic100, events")
    events.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        help="a JSON file; epic100 also: its two CSV files",
    )
    events.add_argument("--features", type=Path, help="the folder of features: <video>.npy, v_<video>.npy or .npz")
    events.add_argument("--release", choices=list(RELEASES), help="the release of the features, hence their windows")
    events.add_argument("--stride", type=float, help="frames from one feature to the next")
    events.add_argument("--window", type=float, help="frames that a feature is computed from")
    events.add_argument("--missing", choices=["raise", "skip"], help="the rule for videos without features")
    events.add_argument(
        "--misfit",
        choices=["raise", "skip", "keep"],
        help="the rule for single videos whose features do not last as long as the video",
    )
    events.add_argument(
        "--validation",
        choices=["test", "val"],
        help="the split of the official validation videos of activitynet and epic100 (default test, as published)",
    )
    events.add_argument("--label", choices=["verb", "noun"], help="epic100: what names the events (default verb)")
    events.add_argument(
        "--classes", type=Path, help="a file with a class a line; epic100 with CSV: EPIC_100_verb_classes.csv"
    )


def run(options: argparse.Namespace) -> int:
    """Run ``vidact prepare import`` and print what was written and which command comes next."""
    is_frames = options.set in FRAME_SETS or options.set == OWN_FRAMES
    useless = [name for name in (OF_EVENTS if is_frames else OF_FRAMES) if getattr(options, name) is not None]
    if useless:
        layout = "labels of every frame" if is_frames else "events in seconds"
        raise ValueError(f"--{useless[0]} is of no use for {options.set}, which has {layout}")
    try:
        result = _frames(options) if is_frames else _events(options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{options.out} is incomplete; the same command writes it again") from None
    for note in result.notes:
        print(f"note: {note}")
    parts = ", ".join(f"{count} {name}" for name, count in result.splits.items() if count)
    print(
        f"{result.out}: {counted(result.events, 'event')} of {counted(len(result.classes), 'class', 'classes')} in "
        f"{parts} videos; {result.dim} values a feature, {result.tokens_per_second:g} features a second"
    )
    if not result.splits["val"]:
        print("training keeps a fifth of the training videos, or of their people, for validation (--data.val_fraction)")
    line = f"next: vidact train --config {result.recipe} --data.root {shlex.quote(str(result.out))}"
    if options.imported is not None:
        line += f" --data.features {shlex.quote(str(options.imported))}"
    chosen = EVENT_SETS.get(options.set)
    if chosen is not None and chosen.options and result.tokens_per_second == chosen.published_rate:
        line += f" {chosen.options}"
    print(line + (" --data.bad_events allow" if result.needs_allowance else ""))
    return 0


def _required(options: argparse.Namespace, *names: str) -> None:
    absent = [name for name in names if getattr(options, name) is None]
    if absent:
        raise ValueError(f"{options.set} needs {' and '.join(f'--{name}' for name in absent)}")


def _frames(options: argparse.Namespace) -> Imported:
    from vidact.prepare.imports import import_frames

    _required(options, "data")
    settings = FRAME_SETS.get(options.set)
    if settings is None:
        _required(options, "fps", "background")
        settings = FrameSet(options.fps, tuple(options.background))
    stated: dict[str, Any] = {name: getattr(options, name) for name in ("fps", "every")}
    stated["background"] = None if options.background is None else tuple(options.background)
    settings = replace(settings, **{name: value for name, value in stated.items() if value is not None})
    return import_frames(
        options.data,
        options.out,
        settings,
        options.split,
        options.axes or "DT",
        options.lengths or "raise",
        origin=options.set,
        imported=options.imported,
    )


def _events(options: argparse.Namespace) -> Imported:
    from vidact.prepare.imports import import_events

    _required(options, "annotations", "features")
    windows = _windows(options)
    chosen = EVENT_SETS.get(options.set)
    subsets = dict(chosen.subsets if chosen else OWN_SUBSETS)
    if options.validation is not None:
        if options.set in ("thumos14", OWN_EVENTS):
            raise ValueError(f"--validation is of no use for {options.set}, whose subsets are fixed")
        subsets |= {name: options.validation for name in ("validation", "val")}
    videos, classes = _annotated(options)
    result = import_events(
        videos,
        " and ".join(map(str, options.annotations)),
        options.features,
        options.out,
        windows,
        subsets,
        chosen.recipe if chosen else OWN_RECIPE,
        classes,
        options.missing or "raise",
        options.misfit or "raise",
        1 if options.every is None else options.every,
        origin=options.release or options.set,
        imported=options.imported,
    )
    if options.set == "thumos14" and not any(e.label.lower() == "ambiguous" for v in videos.values() for e in v.events):
        result.notes.append("the file has no ambiguous segments, so their time counts as background")
    return result


def _windows(options: argparse.Namespace) -> Windows:
    """Return where the features lie in time: those of a release, those that are stated, or the one with the other."""
    stated = {"stride": options.stride, "frames": options.window, "fps": options.fps, "axes": options.axes}
    stated = {name: value for name, value in stated.items() if value is not None}
    for name in ("stride", "frames", "fps"):
        if name in stated and not stated[name] > 0:
            option = "window" if name == "frames" else name
            raise ValueError(f"--{option} is {stated[name]:g}; it is a number above 0")
    if options.release is not None:
        return replace(RELEASES[options.release], **stated)
    if len(stated) < 4:
        raise ValueError(
            "the features of different releases lie differently in time, so name theirs: --release "
            f"{' or '.join(RELEASES)}; for others give --stride, --window, --fps and --axes"
        )
    return Windows(**stated)


def _annotated(options: argparse.Namespace) -> tuple[dict[str, TimedVideo], list[str] | None]:
    """Return the videos of the annotations, and the classes where a file names them."""
    from vidact.data.tables import load_classes
    from vidact.data.timed_labels import load_epic_classes, read_activitynet, read_epic

    is_csv = options.annotations[0].suffix.lower() == ".csv"
    if options.label is not None and not (options.set == "epic100" and is_csv):
        raise ValueError("--label is for the CSV files of epic100")
    if not is_csv:
        if len(options.annotations) > 1:
            raise ValueError(f"--annotations names {len(options.annotations)} files; a JSON file holds all videos")
        names = load_classes(options.classes) if options.classes else None
        return read_activitynet(options.annotations[0]), names
    if options.set != "epic100":
        raise ValueError(f"--annotations {options.annotations[0]}: {options.set} is read from a JSON file")
    if options.classes is None:
        raise ValueError("the CSV files of epic100 have numbers of classes; give --classes EPIC_100_verb_classes.csv")
    classes = load_epic_classes(options.classes)
    videos: dict[str, TimedVideo] = {}
    for path in options.annotations:
        subset = next((name for name in ("train", "validation") if name in path.stem.lower()), None)
        if subset is None:
            raise ValueError(f"{path} has neither train nor validation in its name, so its split is unknown")
        read = read_epic(path, options.label or "verb", classes, subset)
        if twice := [video for video in read if video in videos]:
            raise ValueError(f"{path} has {counted(len(twice), 'video')} of an earlier list: {', '.join(twice[:3])}")
        videos |= read
    return videos, [classes[number] for number in sorted(classes)]
