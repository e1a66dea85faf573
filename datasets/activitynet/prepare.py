"""Turn ActivityNet's JSON file into our layout; README.md beside this file says what to download."""

from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli

from vidact.data.official_lists import read_event_json, write_events_dataset
from vidact.data.tables import load_classes
from vidact.text.names import first_few


def prepare(
    annotations: Path,
    out: Path = Path("data/activitynet"),
    videos: Path | None = None,
    classes: Path | None = None,
    validation: Literal["test", "val"] = "test",
) -> None:
    """Write events.csv, videos.csv and classes.txt, without the official test videos, whose labels are not public.

    Args:
        annotations: activity_net.v1-3.min.json, or another file in its layout.
        out: the folder to write.
        videos: the folder of the videos, named v_<id> or <id>; videos without a file are left out.
        classes: text file with one class per line; default: the sorted labels.
        validation: the split of the official validation videos. Published figures use them, so the default is test.
    """
    sides = {"training": "train", "validation": validation, "testing": None}
    events, splits, empty = [], {}, []
    for video, (subset, video_events) in read_event_json(annotations).items():
        if subset not in sides:
            raise ValueError(f"{annotations}: {video} is of the subset {subset!r}; there are {', '.join(sides)}")
        split = sides[subset]
        if split is None:
            continue
        splits[video] = split
        events += [event for event in video_events if event.start_s < event.end_s]
        empty += [f"{video} {event.label}" for event in video_events if event.start_s >= event.end_s]
    names = load_classes(classes) if classes else sorted({event.label for event in events})
    write_events_dataset(out, events, splits, names, videos, ("v_{}", "{}"))
    if empty:
        print(f"{len(empty)} segments do not end after they start and are left out: {first_few(empty)}")


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
