"""Which files and folders below a folder are videos, and what is passed over.

A video is a file with a video's suffix, or a folder of images and nothing else: where no video lies beside it or beside
a folder that it lies in, since images there are previews, and where its images are numbered, since they are frames.
Hidden files and folders, and folders that a system or a program keeps for itself, hold no videos of anybody's.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vidact.text.names import counted, first_few, plain_name, plain_path

KEPT_BY_PROGRAMS = frozenset(
    {"@eadir", "@tmp", "@sharebin", "@sharesnap", "@synodrive", "#recycle", "#snapshot"}  # Synology
    | {"@recycle", "@recently-snapshot", "@__thumb", "@transcode"}  # QNAP
    | {"__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"}  # macOS
    | {"~snapshot", "trashbox"}  # NetApp, Buffalo
    | {"$recycle.bin", "$extend", "system volume information"}  # Windows
    | {"lost+found", "lost.dir", "__pycache__", "_gsdata_"}  # Unix, Android, Python, GoodSync
    | {"adobe premiere pro video previews", "media cache files", "cacheclip", "render files", "bl_proxy"}  # of editing
    | {"plex versions", "node_modules", "lightning_logs", "wandb"}
)
SMALL_COPIES = frozenset({("m4root", "sub"), ("xdroot", "sub")})  # Sony's, in a folder of that name
PREVIEWS = frozenset({"thumb", "thumbs", "thumbnail", "thumbnails", "thmbnl", "preview", "previews"})


def is_kept_by_program(name: str, above: str) -> bool:
    """Whether a folder of this name belongs to a file system or a program, and not to its user.

    Args:
        above: the name of the folder that it lies in.
    """
    plain = plain_name(name).lower()
    # those of older Windows are words, which in small letters may be a class
    is_windows = name in ("RECYCLER", "RECYCLED") or re.fullmatch(r"FOUND\.\d{3}", name, re.IGNORECASE) is not None
    return is_windows or plain in KEPT_BY_PROGRAMS or (plain_name(above).lower(), plain) in SMALL_COPIES


def is_video_file(path: Path) -> bool:
    """By its name, and whatever it holds: not a folder of images."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, as those are that macOS writes beside others' (``._a.mp4``)."""
    return name.startswith(".")


@dataclass
class Walk:
    """The videos below a folder, and what was passed over.

    ``videos`` and the other names are relative to ``root``, with slashes. A link is followed, also one that leads
    nowhere (``lost``), but not one to a folder that holds it.

    Args:
        root: the folder.
        images_below: folders of images are videos too if they lie at least so many levels below, 1 being the folder's
            own; None takes files alone.
    """

    root: Path
    images_below: int | None = None
    videos: list[str] = field(default_factory=list, init=False)
    folders: dict[str, list[str]] = field(default_factory=dict, init=False)  # of each folder those in it, sorted
    lost: list[str] = field(default_factory=list, init=False)
    hidden: int = field(default=0, init=False)
    kept: list[str] = field(default_factory=list, init=False)
    pictures: dict[str, str] = field(default_factory=dict, init=False)  # folders of images that are none, and why
    others: Counter[str] = field(default_factory=Counter, init=False)
    _files: set[str] = field(default_factory=set, init=False)  # the videos that are files

    def __post_init__(self) -> None:
        self._visit(self.root, (), [os.path.realpath(self.root)], is_beside=False)
        for name in (name for name in self.videos if name not in self._files):
            # below a folder of that name they may be the clips of a class, unless the set is one of files
            above, _, last = name.lower().rpartition("/")
            if last in PREVIEWS or (self._files and PREVIEWS & set(above.split("/"))):
                self.pictures[name] = "its name is that of previews"
        self.videos = sorted(name for name in self.videos if name not in self.pictures)

    def _visit(self, folder: Path, parts: tuple[str, ...], chain: list[str], is_beside: bool) -> None:
        """``chain`` are the real paths of the folders above, ``is_beside`` whether a video lies in one of them."""
        inner, num_files = [], len(self._files)
        is_store = (folder / STORE).is_file()  # of packed videos
        with os.scandir(folder) as scan:
            for entry in scan:
                suffix = os.path.splitext(entry.name)[1].lower()
                if is_hidden(entry.name):
                    self.hidden += 1
                elif _is_folder(entry, chain):
                    if is_kept_by_program(entry.name, folder.name):
                        self.kept.append("/".join((*parts, entry.name)))
                    elif not (is_store and entry.name == SHARDS):
                        inner.append(entry.name)
                elif suffix in VIDEO_SUFFIXES:
                    self.videos.append("/".join((*parts, entry.name)))
                    self._files.add(self.videos[-1])
                    if entry.is_symlink() and not os.path.exists(entry.path):
                        self.lost.append(self.videos[-1])
                else:
                    self.others[suffix] += 1
        self.folders["/".join(parts)] = sorted(inner)
        below = self.images_below
        if below is not None and len(parts) >= below - 1 and len(self._files) > num_files:
            is_beside = True
        for name in sorted(inner):
            path, here = folder / name, (*parts, name)
            if below is None or len(here) < below or not holds_only_images(path):
                real = os.path.realpath(path) if path.is_symlink() else os.path.join(chain[-1], name)
                self._visit(path, here, [*chain, real], is_beside)
            elif why := "videos lie beside it" if is_beside else _why_no_frames(path):
                self.pictures["/".join(here)] = why
            else:
                self.videos.append("/".join(here))

    def below(self, folder: str) -> list[Path]:
        """The videos below a folder, as paths, sorted."""
        start = f"{folder}/" if folder else ""
        return sorted(self.root / name for name in self.videos if name.startswith(start))

    def notes(self, of_files: bool = True) -> list[str]:
        """Sentences on what was passed over: folders, and files too, which lie in any place where nobody means them for
        videos.
        """
        said = []
        if self.hidden and of_files:
            hidden = counted(self.hidden, "hidden file or folder", "hidden files or folders")
            said.append(f"ignored {hidden} in {self.root}")
        if self.kept:
            said.append(
                f"ignored {counted(len(self.kept), 'folder')} in {self.root} that a system or a program keeps for "
                f"itself: {first_few(sorted(self.kept))}"
            )
        if self.pictures:
            shown = [f"{name} ({why})" for name, why in sorted(self.pictures.items())]
            ignored = counted(len(shown), "folder of images that is no clip", "folders of images that are no clips")
            said.append(f"ignored {ignored} in {self.root}: {first_few(shown)}")
        if self.others and of_files:
            kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(self.others.items()))
            ignored = counted(self.others.total(), "file that is no video", "files that are not videos")
            said.append(f"ignored {ignored} in {self.root}: {kinds}")
        return said


def walk_videos(folder: Path, images_below: int | None = None, notes: list[str] | None = None) -> list[str]:
    """Every video below a folder, relative to it, sorted; none where it is no folder. See ``Walk``.

    ``notes`` gets sentences on folders that were passed over.
    """
    if not folder.is_dir():
        return []
    walk = Walk(folder, images_below)
    if notes is not None:
        notes += walk.notes(of_files=False)
    return walk.videos


def holds_only_images(folder: Path) -> bool:
    """Is this a folder of images, with neither videos nor folders of its user's beside them?"""
    images, chain = False, [os.path.realpath(folder)]
    for entry in _entries(folder):
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in VIDEO_SUFFIXES or _is_folder(entry, chain):
            return False
        images = images or suffix in IMAGE_SUFFIXES
    return images


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, without what is hidden or a program's."""
    with os.scandir(folder) as scan:
        for entry in scan:
            if not is_hidden(entry.name) and not is_kept_by_program(entry.name, folder.name):
                yield entry


def _why_no_frames(folder: Path) -> str:
    """What says that these images are not the frames of one video; empty where they are numbered and differ in that."""
    rows: dict[str, str] = {}  # a name with its numbers left out: one that has it
    for name in sorted(entry.name for entry in _entries(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if not re.search(r"\d", stem):
            return f"{name!r} has no number"
        rows.setdefault(re.sub(r"\d+", "0", stem.lower()), name)
    if len(rows) > 1:
        first, second, *_ = rows.values()
        return f"{first!r} and {second!r} are of two rows of numbers"
    return ""


def _is_folder(entry: os.DirEntry[str], chain: list[str]) -> bool:
    """A folder, or a link to one that holds none of ``chain``, the real paths of the folders above."""
    if not entry.is_symlink():
        return entry.is_dir()
    if not os.path.isdir(entry.path):  # as where it leads to itself
        return False
    real = os.path.realpath(entry.path)
    return not any(os.path.commonpath([real, above]) == real for above in chain)


def relative_name(root: Path, path: Path) -> str:
    """The path below the root as it is on disk; one outside of it in full."""
    for folder in (root, root.absolute()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.as_posix()


def video_id(path: str) -> str:
    """The path without a video's suffix: what its features are called. Other dots belong to the name."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in VIDEO_SUFFIXES else path


def source_id(root: Path, path: Path) -> str:
    """What a clip's file is called beside others of the data set, in a folder of flow for instance: clips cut from one
    file share it. A file outside of ``root`` is called by its whole path.
    """
    # by its name on disk, plain or not: extraction writes that one
    return video_id(relative_name(root, path)).lstrip("/")


def plain_id(root: Path, path: Path) -> str:
    """A video's id: the same on every machine, however its file system writes accents."""
    return plain_path(video_id(relative_name(root, path)))


def refuse_odd_names(folder: Path, paths: Iterable[str | Path]) -> None:
    """Raise ValueError at the first path that is not UTF-8, which lists and reports are written in."""
    for path in map(str, paths):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{path.encode(errors='surrogateescape')!r} in {folder} is no UTF-8 name, which lists and reports are "
                "written in; rename it"
            ) from None


PACKED_SUFFIX = ".packed"  # one video of a store that ``vidact prepare pack`` made
STORE, SHARDS = "packed.json", "shards"  # what says that a folder is such a store, and where its pixels are
# The usual ones, and those of older cameras and programs, of bare streams of coded pictures, and of animations.
USUAL = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"),
    *(PACKED_SUFFIX, ".ts", ".vob", ".webm", ".wmv"),
)
OTHERS = (
    *(".264", ".265", ".3g2", ".apng", ".avc", ".divx", ".dv", ".f4v", ".h264", ".h265", ".hevc", ".ivf", ".m1v"),
    *(".m2v", ".mjpeg", ".mjpg", ".mod", ".mpe", ".mxf", ".nut", ".obu", ".ogm", ".qt", ".rm", ".rmvb", ".tod"),
    *(".xvid", ".y4m"),
)
VIDEO_SUFFIXES = frozenset(USUAL + OTHERS)
KNOWN_SUFFIXES = ", ".join(USUAL + OTHERS)  # for messages
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")


def is_image(file: Path) -> bool:
    """By its name; what begins with a dot is no picture but some program's note."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
