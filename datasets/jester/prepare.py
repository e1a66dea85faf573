"""Turn Jester's lists into clips.csv; README.md beside this file says what to download."""

import os
from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.official_lists import ClipRow, write_dataset
from vidact.data.tables import read_cells, read_lines


def prepare(videos: Path, annotations: Path, out: Path = Path("data/jester")) -> None:
    """Write clips.csv, classes.txt and root.txt for the training and validation lists; test labels are not published.

    Args:
        videos: the folder of numbered frame folders.
        annotations: the folder with jester-v1-train.csv, jester-v1-validation.csv and jester-v1-labels.csv.
        out: the folder to write.
    """
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos} is not a folder; give the one that holds the numbered frame folders")
    classes = [line for line in read_lines(annotations / "jester-v1-labels.csv") if line]
    # Only the top level is listed: there are 148 092 frame folders with five million images in them.
    folders = {Path(name).stem: name for name in sorted(os.listdir(videos))}
    rows, missing = [], []
    for split, name in (("train", "train"), ("val", "validation")):
        for _, row in read_cells(annotations / f"jester-v1-{name}.csv", ";"):  # id;label, without a header
            if row[0] in folders:
                rows.append(ClipRow(folders[row[0]], row[1], split))
            else:
                missing.append(row[0])
    write_dataset(out, videos, rows, missing, classes)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
