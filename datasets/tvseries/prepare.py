"""Turn TVSeries' ground-truth lists into our layout; README.md beside this file says how to get them."""

from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.event_list import Event
from vidact.data.official_lists import write_events_dataset
from vidact.data.tables import closest, read_text

# The classes are in the order of the published frame labels of OadTR and LSTR (IDN's order differs).
CLASSES = [
    "Pick something up", "Point", "Drink", "Stand up", "Run", "Sit down", "Read", "Smoke", "Drive car", "Open door",
    "Give something", "Use computer", "Write", "Go down stairway", "Close door", "Throw something", "Go up stairway",
    "Get in/out of car", "Hang up phone", "Eat", "Answer phone", "Dress up", "Clap", "Undress", "Kiss", "Fall/trip",
    "Wave", "Pour", "Punch", "Fire weapon",
]  # fmt: skip


def prepare(
    annotations: Path, out: Path = Path("data/tvseries"), videos: Path | None = None, official_val: bool = False
) -> None:
    """Write events.csv, videos.csv and classes.txt.

    Args:
        annotations: the folder of GT-train.txt, GT-val.txt and GT-test.txt (below it, at any depth).
        out: the folder to write.
        videos: the folder of the episodes, named 24_ep1 and so on; episodes without a file are left out.
        official_val: keep the official validation episodes for validation; otherwise they are used for training too, as
            in published figures, and a part of all training episodes chooses the checkpoint.
    """
    events: list[Event] = []
    splits: dict[str, str] = {}
    for side, split in (("train", "train"), ("val", "val" if official_val else "train"), ("test", "test")):
        paths = sorted(annotations.rglob(f"GT-{side}.txt"))
        if len(paths) != 1:
            raise FileNotFoundError(f"{len(paths)} files GT-{side}.txt below {annotations}, where one is expected")
        for number, line in enumerate(read_text(paths[0]).splitlines(), 1):
            cells = [cell.strip() for cell in line.split("\t")]
            if not any(cells):
                continue
            try:
                video, label, start_s, end_s = cells[0], cells[1], float(cells[2]), float(cells[3])
            except (IndexError, ValueError):
                if number == 1:
                    continue  # the first line may have column names
                raise ValueError(
                    f"{paths[0]} line {number} is {line!r}; episode, class, start and end in seconds are expected, "
                    "with tabs between them"
                ) from None
            if label not in CLASSES:
                raise ValueError(f"{paths[0]} line {number}: {label!r} is no class; {closest(label, CLASSES)}")
            if splits.setdefault(video, split) != split:
                raise ValueError(f"{paths[0]} line {number}: {video} is also in the list of {splits[video]}")
            events.append(Event(video, start_s, end_s, label))
    write_events_dataset(out, events, splits, CLASSES, videos)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
