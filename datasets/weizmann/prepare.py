"""Write clips.csv for the Weizmann actions; README.md beside this file says what to download.

The folder of class folders needs no preparation. This script is for videos in one folder: the class is read from the
file name, ``<subject>_<class>.avi``.
"""

import re
from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.official_lists import ClipRow, find_videos, write_dataset

CLASSES = ["bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2"]


def prepare(videos: Path, out: Path = Path("data/weizmann")) -> None:
    """Write clips.csv (without a split), classes.txt and root.txt.

    Args:
        videos: the folder of the videos, with or without class folders.
        out: the folder to write.
    """
    rows, unknown = [], []
    for stem, paths in sorted(find_videos(videos).items()):
        label = stem.rpartition("_")[2]
        if label not in CLASSES:
            label = re.sub(r"\d$", "", label)  # one subject ran, skipped and walked twice: lena_run1, lena_run2
        if label in CLASSES:
            rows.append(ClipRow(paths[0], label))
        else:
            unknown.append(stem)
    write_dataset(out, videos, rows, unknown, CLASSES)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
