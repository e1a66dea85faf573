"""The videos of a set and the lists that name them: the files to prepare, and their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vidact.data.tables import Table, is_table, read_table, read_text
from vidact.text.names import Finder, is_there, plain_name
from vidact.video.folders import refuse_odd_names, walk_videos

TABLES = {"clips.csv": "path", "videos.csv": "video", "events.csv": "video"}  # lists, and the column of the videos
NOTES = ".prepare"  # the folder of notes inside a folder of results
COLUMNS = ("label", "labels", "start_s", "end_s", "split", "group")


# -------------------------------------------------------------------------------------------------------------- sources


@dataclass
class Sources:
    """The videos of a set.

    ``videos`` maps a path below ``folder``, as the lists write it, to the file. ``missing`` are paths that are listed,
    or links, and lead to no file. ``unlisted`` are videos of the folder that no list names. ``notes`` are sentences on
    what was passed over. ``groups`` has the group of each video where a list has that column.
    """

    root: Path
    folder: Path
    videos: dict[str, Path]
    missing: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)


def find_sources(root: Path) -> Sources:
    """Find the videos that a set's clips.csv or videos.csv names; without these, all below the folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the one that holds the videos, or their clips.csv")
    folder = root
    if (root / "clips.csv").exists() and (elsewhere := root / "root.txt").exists():
        folder = root / read_text(elsewhere).strip()
        if not folder.is_dir():
            raise FileNotFoundError(f"{elsewhere} says that the videos are in {folder}, which is not a folder")
    notes: list[str] = []
    # A folder of images inside a class folder is one video.
    names = walk_videos(folder, images_below=2, notes=notes)
    refuse_odd_names(folder, names)
    tables = [name for name in ("clips.csv", "videos.csv") if is_table(root / name)]
    if not tables:
        if not names:
            raise FileNotFoundError(f"{root} holds no video and no clips.csv; give the folder of the videos")
        return _sources(root, folder, names, notes=notes)
    listed: dict[str, None] = {}
    groups: dict[str, str] = {}
    for table in tables:
        read = read_lists(root / table)
        notes += read.notes
        for _, row in read.rows:
            path = PurePosixPath(row[TABLES[table]])
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(
                    f"{root / table} names {path}, which lies outside the folder; prepare needs paths below it"
                )
            listed[path.as_posix()] = None
            if row.get("group"):
                groups[path.as_posix()] = plain_name(row["group"])
    sources = _sources(root, folder, listed, [name for name in names if name not in listed], notes)
    sources.groups = groups
    return sources


def _sources(
    root: Path, folder: Path, names: Collection[str], unlisted: Sequence[str] = (), notes: Sequence[str] = ()
) -> Sources:
    finder = Finder(folder)
    paths = {name: finder.find(name) for name in names}
    videos = {name: path for name, path in paths.items() if is_there(path)}
    present = {path.relative_to(folder).as_posix() for path in videos.values()}
    return Sources(
        root,
        folder,
        videos,
        [name for name in names if name not in videos],
        [name for name in unlisted if name not in present],
        list(notes),
    )


def read_lists(table: Path) -> Table:
    """Read one of the lists in ``TABLES``."""
    return read_table(table, ((TABLES[table.name],),), COLUMNS)


def refuse_inside(sources: Sources, out: Path) -> None:
    """Raise where results would lie among the videos, and be read as some of them, or where ``out`` is a file."""
    if out.resolve() == sources.folder.resolve() or sources.folder.resolve() in out.resolve().parents:
        raise ValueError(f"--out {out} lies in the folder of the videos, {sources.folder}; choose one outside it")
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise NotADirectoryError(f"--out {out}: {file} is a file; name a folder")
