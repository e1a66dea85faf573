"""Set up FIR for training in a separate folder; README.md beside this file says what to download."""

import os
import shutil
from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.event_list import load_events, load_videos
from vidact.data.tables import load_classes


def prepare(source: Path, out: Path = Path("data/fir")) -> None:
    """Copy events.csv, videos.csv and classes.txt, and link the videos beside them.

    Args:
        source: a folder with the three lists and the folder videos. It is not changed, and may be read-only.
        out: the folder to write; extract features into it too.
    """
    lists = ("events.csv", "videos.csv", "classes.txt")
    events, splits = load_events(source / "events.csv"), load_videos(source / "videos.csv")
    classes = load_classes(source / "classes.txt")
    if source.resolve() == out.resolve():
        raise ValueError(f"source and out are both {out}; it is ready as it is: give it as data.root")
    absent = [video for video in splits if not (source / video).exists()]
    if absent:
        raise FileNotFoundError(f"{source} lacks {len(absent)} of {len(splits)} videos: {', '.join(absent[:5])}")
    out.mkdir(parents=True, exist_ok=True)
    for name in lists:
        shutil.copyfile(source / name, out / name)
    link = out / "videos"
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise FileExistsError(f"{link} exists and is no link; move it away, or name another folder with --out")
    os.symlink((source / "videos").resolve(), link)
    print(f"{out}: {len(events)} events of {len(classes)} classes in {len(splits)} videos")


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
