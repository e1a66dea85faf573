"""Turn HMDB51's official lists into clips.csv; README.md beside this file says what to download."""

from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.official_lists import ClipRow, find_videos, write_dataset
from vidact.data.tables import read_text

SIDES = {"1": "train", "2": "test"}  # code 0: the clip is not used in this split


def prepare(videos: Path, annotations: Path, split: int = 1, out: Path = Path("data/hmdb51")) -> None:
    """Write clips.csv, classes.txt and root.txt for one of the three official splits.

    Args:
        videos: the folder with the unpacked class archives, with or without class folders, .avi or converted.
        annotations: the folder with <class>_test_split?.txt.
        split: 1, 2 or 3.
        out: the folder to write.
    """
    if split not in (1, 2, 3):
        raise ValueError(f"split is {split}; HMDB51 has the official splits 1, 2 and 3")
    ending = f"_test_split{split}.txt"
    # Sorted by class name, not by file name: climb comes before climb_stairs.
    classes = sorted(path.name.removesuffix(ending) for path in annotations.glob(f"*{ending}"))
    if not classes:
        raise FileNotFoundError(f"{annotations} has no file *{ending}; give the folder test_train_splits.rar makes")
    videos_by_stem = find_videos(videos)
    rows, missing = [], []
    for label in classes:
        for line in read_text(annotations / f"{label}{ending}").splitlines():
            name, _, code = line.strip().rpartition(" ")
            if code not in SIDES:
                continue
            paths = videos_by_stem.get(Path(name.strip()).stem)
            if paths:
                rows.append(ClipRow(paths[0], label, SIDES[code]))
            else:
                missing.append(f"{label}/{name.strip()}")
    write_dataset(out, videos, rows, missing, classes)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
