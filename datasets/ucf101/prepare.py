"""Turn UCF101's official lists into clips.csv; README.md beside this file says what to download."""

from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.official_lists import ClipRow, find_videos, write_dataset
from vidact.data.tables import read_text


def prepare(videos: Path, annotations: Path, split: int = 1, out: Path = Path("data/ucf101")) -> None:
    """Write clips.csv, classes.txt and root.txt for one of the three official splits.

    Args:
        videos: the folder into which UCF101.rar was unpacked, with or without class folders, .avi or converted.
        annotations: the folder with classInd.txt, trainlist0?.txt and testlist0?.txt.
        split: 1, 2 or 3.
        out: the folder to write.
    """
    if split not in (1, 2, 3):
        raise ValueError(f"split is {split}; UCF101 has the official splits 1, 2 and 3")
    classes = [line.split()[1] for line in read_text(annotations / "classInd.txt").splitlines() if line.strip()]
    videos_by_stem = find_videos(videos)
    rows, missing = [], []
    for side in ("train", "test"):
        for line in read_text(annotations / f"{side}list{split:02d}.txt").splitlines():
            if not line.strip():
                continue
            name = line.split()[0]  # a line of a training list also has the class number, from 1
            paths = videos_by_stem.get(Path(name).stem)
            if paths:
                rows.append(ClipRow(paths[0], name.split("/")[0], side))
            else:
                missing.append(name)
    write_dataset(out, videos, rows, missing, classes)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
