"""Labels of every frame, as segmentation's repositories store them: MS-TCN's layout of 50Salads, GTEA and Breakfast.

    mapping.txt                       a line for each class: number and name
    groundTruth/<video>.txt           a line for each frame: the name of its class
    splits/train.split1.bundle        a line for each training video: the name of its file of labels; test.split1.bundle
    features/<video>.npy              (D, T), a column for each frame

Files may begin with a byte order mark, and their lines may end as on any system. Every error names the file and line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from vidact.data.event_list import Event
from vidact.data.tables import closest, read_lines
from vidact.text.names import Finder, counted, first_few, is_there, plain_name, spelt

SUFFIX = ".txt"
SIDES = ("train", "test")


def load_mapping(path: Path) -> list[str]:
    """Return the names of a mapping.txt in the order of their numbers, which are 0, 1, 2, … in any order of lines."""
    names: dict[int, str] = {}
    lines: dict[str, int] = {}
    for line, text in enumerate(read_lines(path), 1):
        match = re.fullmatch(r"(\d+)[\s,]+(.+)", text)
        if match is None:
            raise ValueError(
                f"{path} line {line} is {text!r}; a number and the name of a class are expected: 0 background"
            )
        number, name = int(match[1]), plain_name(match[2])
        if number in names:
            raise ValueError(f"{path} line {line} gives the number {number} a second time, to {name}")
        if name in lines:
            raise ValueError(f"{path} line {line} names {spelt(name)} a second time, after line {lines[name]}")
        names[number], lines[name] = name, line
    if not names:
        raise ValueError(f"{path} is empty; it has a line for each class: its number and its name")
    if absent := sorted(set(range(len(names))) - set(names)):
        raise ValueError(
            f"{path} has {counted(len(names), 'class', 'classes')} and none has the number {absent[0]}; numbers count "
            "from 0 without a gap"
        )
    return [names[number] for number in range(len(names))]


def splits_in(folder: Path) -> list[str]:
    """Return the names of the splits of which ``folder`` has a list, such as "1"."""
    matches = (
        re.fullmatch(r"(?:train|test)\.split(.+)\.bundle", path.name) for path in sorted(folder.glob("*.bundle"))
    )
    return sorted({match[1] for match in matches if match}, key=lambda name: (len(name), name))


def load_split(folder: Path, split: str | None, labels: Path) -> dict[str, str]:
    """Return "train" or "test" for the videos of the two lists of a split.

    Args:
        folder: the folder of the lists.
        split: the name of the split, such as "1".
        labels: the folder of the labels, where every listed video has a file.
    """
    present = splits_in(folder)
    if split is None or split not in present:
        problem = "no split was named" if split is None else f"there is no split {split}"
        lists = f"{folder} has {first_few(present, 10)}; give one as --split" if present else (
            f"{folder} has no lists; a split 1 is train.split1.bundle and test.split1.bundle there"
        )  # fmt: skip
        raise FileNotFoundError(f"{problem}: {lists}")
    videos: dict[str, str] = {}
    places: dict[str, str] = {}
    finder = Finder(labels)
    for side in SIDES:
        path = folder / f"{side}.split{split}.bundle"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist; a split is a list of its training and one of its test videos"
            )
        names = read_lines(path)
        if not names:
            raise ValueError(f"{path} is empty; it has a line for each {side} video of the split")
        for line, text in enumerate(names, 1):
            where = f"{path} line {line}"
            # some releases write the path of the file of labels, or no suffix
            name = plain_name(re.split(r"[/\\]", text)[-1].removesuffix(SUFFIX))
            if not name:
                raise ValueError(f"{where} names no video")
            if name in places:
                raise ValueError(f"{where} names {name}, which {places[name]} names already")
            if not is_there(finder.find(name + SUFFIX)):
                raise FileNotFoundError(f"{where} names {name}, and {labels / (name + SUFFIX)} does not exist")
            videos[name], places[name] = side, where
    return videos


def load_labels(path: Path, classes: Sequence[str], mapping: Path) -> list[str]:
    """Return the class of every frame; ``mapping`` is the file that names the classes, for messages."""
    among = set(classes)
    labels = [plain_name(line) for line in read_lines(path)]
    if not labels:
        raise ValueError(f"{path} is empty; it has a line for each frame, the name of its class")
    for line, label in enumerate(labels, 1):
        if label in among:
            continue
        if not label:
            raise ValueError(f"{path} line {line} is empty; every frame has a class, the background among them")
        advice = "labels are names, not numbers" if label.isdigit() else closest(label, list(classes))
        raise ValueError(f"{path} line {line} has the label {label!r}, which {mapping} does not name; {advice}")
    return labels


def events_of_labels(labels: Sequence[str], video: str, fps: float, background: Sequence[str] = ()) -> list[Event]:
    """Return each unbroken run of a class as an event; frame i lasts from i / ``fps`` to (i + 1) / ``fps`` seconds.

    Runs of the classes in ``background`` are left out.
    """
    events, first = [], 0
    for label, run in itertools.groupby(labels):
        last = first + len(list(run))
        if label not in background:
            events.append(Event(video, first / fps, last / fps, label))
        first = last
    return events
