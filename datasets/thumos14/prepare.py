"""Turn THUMOS'14's annotations, or published features of it, into our layout; README.md beside this file says more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from vidact.data.event_list import AMBIGUOUS, Event
from vidact.data.official_lists import read_event_json, write_events_dataset
from vidact.data.published_features import read_frame_folders, read_oadtr
from vidact.data.sequence_list import Sequence, write_sequences
from vidact.data.tables import read_text

CLASSES = [
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot",
    "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault",
    "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
]  # fmt: skip
COLUMNS = ["Background", *CLASSES, "Ambiguous"]  # the columns of the published frame labels
SIDES = {"val": "train", "test": "test"}  # training uses the official validation videos, because only they have times


def prepare(
    annotations: Path | None = None,
    from_testra: Path | None = None,
    from_oadtr: Path | None = None,
    out: Path = Path("data/thumos14"),
    videos: Path | None = None,
    streams: tuple[str, ...] = ("rgb_kinetics_resnet50", "flow_kinetics_bninception"),
    oadtr_features: str = "V3",
) -> None:
    """Write events.csv, videos.csv and classes.txt, and features/ if the source has features; name exactly one source.

    Args:
        annotations: the folder of the official txt files (below it, at any depth), or a JSON file in ActivityNet's
            layout.
        from_testra: a folder in the layout of LSTR and TeSTra: target_perframe/ and one folder per stream.
        from_oadtr: a folder with OadTR's thumos_{val,test}_anno.pickle and
            thumos_all_feature_{val,test}_<oadtr_features>.pickle.
        out: the folder to write.
        videos: with ``annotations``, the folder of the videos; videos without a file are left out.
        streams: with ``from_testra``, the folders of features to join along the values.
        oadtr_features: with ``from_oadtr``, the last part of the names of the feature files.
    """
    if sum(source is not None for source in (annotations, from_testra, from_oadtr)) != 1:
        raise ValueError("name one source: annotations, from_testra or from_oadtr")
    if annotations is not None:
        from_json = annotations.is_file()
        events, splits = _read_json(annotations) if from_json else _read_txt(annotations)
        write_events_dataset(out, events, splits, CLASSES, videos)
        if from_json and not any(event.label == AMBIGUOUS for event in events):
            print("the JSON file has no ambiguous segments: their frames count as background; the txt files have them")
        return
    notes: list[str] = []
    record: dict[str, Any]
    if from_testra is not None:
        names = sorted(path.stem for path in (from_testra / "target_perframe").glob("video_*.npy"))
        if not names:
            raise FileNotFoundError(f"{from_testra / 'target_perframe'} has no video_….npy; is it TeSTra's layout?")
        splits = {name: "test" if name.startswith("video_test") else "train" for name in names}
        rate = 4.0
        sequences = read_frame_folders(from_testra, streams, COLUMNS, splits, rate, notes=notes)
        record = {"origin": "testra", "streams": list(streams), "labels": "several a token"}
    else:
        assert from_oadtr is not None
        rate = 5.0
        sequences = _read_oadtr(from_oadtr, oadtr_features, rate, notes)
        record = {"origin": "oadtr", "streams": ["rgb", "flow"], "labels": "one a token", "features": oadtr_features}
    write_sequences(out, sequences, CLASSES, rate, record)
    for note in notes:
        print(note)
    print(f"{out}: features at {rate:g} tokens/s and their labels from {from_testra or from_oadtr}")


def _read_txt(folder: Path) -> tuple[list[Event], dict[str, str]]:
    """Read lines ``video start end`` of <class>_val.txt and <class>_test.txt."""
    events: list[Event] = []
    splits: dict[str, str] = {}
    for side, split in SIDES.items():
        for name in (*CLASSES, "Ambiguous"):
            paths = sorted(folder.rglob(f"{name}_{side}.txt"))
            if len(paths) != 1:
                raise FileNotFoundError(
                    f"{len(paths)} files {name}_{side}.txt below {folder}, where one is expected; give the folder into "
                    "which the two archives of temporal annotations were unpacked"
                )
            for number, line in enumerate(read_text(paths[0]).splitlines(), 1):
                cells = line.split()
                if not cells:
                    continue
                try:
                    video, start_s, end_s = cells[0], float(cells[1]), float(cells[2])
                except (IndexError, ValueError):
                    raise ValueError(f"{paths[0]} line {number} is {line!r}; 'video start end' is expected") from None
                events.append(Event(video, start_s, end_s, AMBIGUOUS if name == "Ambiguous" else name))
                splits[video] = split
    return _in_order(events, splits)


def _read_json(path: Path) -> tuple[list[Event], dict[str, str]]:
    events: list[Event] = []
    splits: dict[str, str] = {}
    for video, (subset, video_events) in read_event_json(path).items():
        split = {"validation": "train", "test": "test"}.get(subset.lower())
        if split is None:
            raise ValueError(f"{path}: {video} is of the subset {subset!r}; THUMOS'14 has Validation and Test")
        splits[video] = split
        for event in video_events:
            label = AMBIGUOUS if event.label.lower() == AMBIGUOUS else event.label
            events.append(Event(video, event.start_s, event.end_s, label))
    return _in_order(events, splits)


def _in_order(events: list[Event], splits: dict[str, str]) -> tuple[list[Event], dict[str, str]]:
    """Sort the videos by split, training first, and by name; sort the events by video and time."""
    videos = sorted(splits, key=lambda video: (splits[video] != "train", video))
    position = {video: i for i, video in enumerate(videos)}
    events = sorted(events, key=lambda event: (position[event.video], event.start_s, event.end_s, event.label))
    return events, {video: splits[video] for video in videos}


def _read_oadtr(folder: Path, version: str, rate: float, notes: list[str]) -> Iterator[Sequence]:
    for side, split in SIDES.items():
        features = folder / f"thumos_all_feature_{side}_{version}.pickle"
        labels = folder / f"thumos_{side}_anno.pickle"
        yield from read_oadtr(features, labels, split, COLUMNS, tokens_per_second=rate, notes=notes)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
