"""Turn the lists of Something-Something V1 or V2 into clips.csv; README.md beside this file says what to download."""

import json
import os
from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.official_lists import ClipRow, write_dataset
from vidact.data.tables import read_cells, read_lines, read_text


def prepare(videos: Path, annotations: Path, version: int = 2, out: Path | None = None) -> None:
    """Write clips.csv, classes.txt and root.txt for the training and validation lists; test labels are not published.

    Args:
        videos: V1: the folder of numbered frame folders; V2: the folder of numbered .webm files (or frame folders).
        annotations: the folder of the lists.
        version: 1 or 2.
        out: the folder to write; default data/something_v1 or data/something_v2.
    """
    if version not in (1, 2):
        raise ValueError(f"version is {version}; there are Something-Something 1 and 2")
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos} is not a folder; give the one that holds the numbered videos")
    classes, lists = (read_v1 if version == 1 else read_v2)(annotations)
    # Only the top level is listed: V1 has 108 499 frame folders with four million images in them.
    videos_by_stem = {Path(name).stem: name for name in sorted(os.listdir(videos))}
    rows, missing = [], []
    for split, labels in lists.items():
        for name, label in labels:
            if name in videos_by_stem:
                rows.append(ClipRow(videos_by_stem[name], label, split))
            else:
                missing.append(name)
    write_dataset(out or Path(f"data/something_v{version}"), videos, rows, missing, classes)


def read_v1(annotations: Path) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """Read lines ``id;label`` without a header, and the label file with one name per line."""
    stem = "something-something-v1"
    classes = [line for line in read_lines(annotations / f"{stem}-labels.csv") if line]
    lists = {}
    for split, name in (("train", "train"), ("val", "validation")):
        lists[split] = [(row[0], row[1]) for _, row in read_cells(annotations / f"{stem}-{name}.csv", ";")]
    return classes, lists


def read_v2(annotations: Path) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """Read entries with id and template; the label is the template without its brackets."""
    numbers: dict[str, str] = json.loads(read_text(_file(annotations, "labels")))
    lists = {}
    for split, name in (("train", "train"), ("val", "validation")):
        entries = json.loads(read_text(_file(annotations, name)))
        lists[split] = [(str(e["id"]), e["template"].replace("[", "").replace("]", "")) for e in entries]
    return sorted(numbers, key=lambda label: int(numbers[label])), lists


def _file(annotations: Path, name: str) -> Path:
    """Return the path of a list: the first release has files with long names, the present one with short names."""
    short = annotations / f"{name}.json"
    return short if short.exists() else annotations / f"something-something-v2-{name}.json"


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
