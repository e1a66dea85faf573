"""Turn the CSV files of Kinetics-400, 600 or 700 into clips.csv; README.md beside this file says what to download."""

from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli

from vidact.data.official_lists import ClipRow, find_videos, write_dataset
from vidact.data.splits import SPLIT_FOLDERS
from vidact.data.tables import load_classes, read_table
from vidact.text.names import plain_name

SPLITS = SPLIT_FOLDERS | {"validate": "val"}
COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def prepare(
    videos: Path,
    annotations: Path,
    out: Path = Path("data/kinetics400"),
    naming: Literal["times", "id", "whole"] = "times",
    classes: Path | None = None,
) -> None:
    """Write clips.csv, classes.txt and root.txt; the videos are searched in all sub-folders.

    Args:
        videos: the folder of the videos, with or without train, val and test folders and class folders.
        annotations: the folder of the official CSV files, or one of them; files without labels are left out.
        out: the folder to write.
        naming: "times" for trimmed files <id>_<start>_<end> with six digits each, "id" for trimmed files <id>, "whole"
            for whole YouTube videos <id>, of which training reads the times in the CSV.
        classes: text file with one class per line; default: the sorted labels of the CSV files.
    """
    videos_by_stem = find_videos(videos)
    rows: list[ClipRow] = []
    missing: list[str] = []
    labels: set[str] = set()
    tables = sorted(annotations.glob("*.csv")) if annotations.is_dir() else [annotations] * annotations.exists()
    if not tables:
        raise FileNotFoundError(f"{annotations} is neither a CSV file nor a folder with one")
    for path in tables:
        table = read_table(path, (), COLUMNS)
        absent = [name for name in COLUMNS if name not in table.header]
        if absent == ["label"] and annotations.is_dir():
            print(f"{path} has no labels and is left out")
            continue
        if absent:
            why = "its labels were not published: leave it out" if absent == ["label"] else "is it a Kinetics CSV?"
            raise ValueError(f"{path} has no column {', '.join(absent)}; {why}")
        for line, row in table.rows:
            label, split = plain_name(row["label"]), SPLITS.get(row["split"])
            if split is None:
                raise ValueError(f"{path} row {line}: the split {row['split']!r} is unknown")
            labels.add(label)
            start_s, end_s = float(row["time_start"]), float(row["time_end"])
            name = row["youtube_id"]
            if naming == "times":
                name = f"{name}_{int(start_s):06d}_{int(end_s):06d}"
            paths = videos_by_stem.get(name, [])
            if not paths:
                missing.append(name)
                continue
            # The same clip can be in several folders; the one in the folder of its split and class is used.
            places = {row["split"], split, label, label.replace(" ", "_")}
            best = max(paths, key=lambda path: len(places & set(Path(path).parts[:-1])))
            times = (start_s, end_s) if naming == "whole" else (None, None)
            rows.append(ClipRow(best, label, split, *times))
    write_dataset(out, videos, rows, missing, load_classes(classes) if classes else sorted(labels))


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
