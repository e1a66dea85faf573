"""The search for videos: which files and folders below a folder are videos, and which are ignored.

A video is a file with a video's suffix, or a folder that holds only images. The images must be numbered, as frames are,
and no video may lie beside the folder or beside a folder above it, since such images are previews. Hidden files and
folders, and folders that a system or a program keeps for itself, hold no videos of the user.
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
    | {"adobe premiere pro video previews", "media cache files", "cacheclip", "render files", "bl_proxy"}  # editing
    | {"plex versions", "node_modules", "lightning_logs", "wandb"}
)
SMALL_COPIES = frozenset({("m4root", "sub"), ("xdroot", "sub")})  # Sony's: names of the folder above and of the folder
PREVIEWS = frozenset({"thumb", "thumbs", "thumbnail", "thumbnails", "thmbnl", "preview", "previews"})


def is_kept_by_program(name: str, above: str) -> bool:
    """Whether a folder of this name belongs to a file system or a program, and not to its user.

    Args:
        above: the name of the folder that it lies in.
    """
    plain = plain_name(name).lower()
    # the names of older Windows are ordinary words, which in lower case may name a class
    is_windows = name in ("RECYCLER", "RECYCLED") or re.fullmatch(r"FOUND\.\d{3}", name, re.IGNORECASE) is not None
    return is_windows or plain in KEPT_BY_PROGRAMS or (plain_name(above).lower(), plain) in SMALL_COPIES


def is_video_file(path: Path) -> bool:
    """Whether a path is a video by its suffix, whatever the file contains; folders are none."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, as those that macOS writes beside others' (``._a.mp4``)."""
    return name.startswith(".")


@dataclass
class Walk:
    """The videos below a folder, and what was ignored.

    ``videos`` and the other names are relative to ``root``, with slashes. Links are followed, except to a folder that
    holds the link. A video that is a broken link is also in ``lost``.

    Args:
        root: the folder.
        images_below: the least number of levels below ``root`` at which folders of images are videos too, 1 for those
            in ``root`` itself; None takes only files.
    """

    root: Path
    images_below: int | None = None
    videos: list[str] = field(default_factory=list, init=False)
    folders: dict[str, list[str]] = field(default_factory=dict, init=False)  # each folder's subfolders, sorted
    lost: list[str] = field(default_factory=list, init=False)
    hidden: int = field(default=0, init=False)
    of_programs: list[str] = field(default_factory=list, init=False)  # folders
    pictures: dict[str, str] = field(default_factory=dict, init=False)  # folders of images that are no videos, and why
    others: Counter[str] = field(default_factory=Counter, init=False)
    _files: set[str] = field(default_factory=set, init=False)  # the videos that are files

    def __post_init__(self) -> None:
        self._visit(self.root, (), [os.path.realpath(self.root)], is_beside=False)
        for name in (name for name in self.videos if name not in self._files):
            # below a folder named like previews there may be the clips of a class, unless other videos are files
            above, _, last = name.lower().rpartition("/")
            if last in PREVIEWS or (self._files and PREVIEWS & set(above.split("/"))):
                self.pictures[name] = "its name is that of previews"
        self.videos = sorted(name for name in self.videos if name not in self.pictures)

    def _visit(self, folder: Path, parts: tuple[str, ...], chain: list[str], is_beside: bool) -> None:
        """Add the videos of a folder and of those below it.

        ``chain`` are the real paths of this folder and those above it; ``is_beside`` is true where a video lies in one
        of those above it.
        """
        inner, num_files = [], len(self._files)
        is_store = (folder / STORE).is_file()  # a store of packed videos
        with os.scandir(folder) as scan:
            for entry in scan:
                suffix = os.path.splitext(entry.name)[1].lower()
                if is_hidden(entry.name):
                    self.hidden += 1
                elif _is_folder(entry, chain):
                    if is_kept_by_program(entry.name, folder.name):
                        self.of_programs.append("/".join((*parts, entry.name)))
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
            path, inner_parts = folder / name, (*parts, name)
            if below is None or len(inner_parts) < below or not holds_only_images(path):
                real = os.path.realpath(path) if path.is_symlink() else os.path.join(chain[-1], name)
                self._visit(path, inner_parts, [*chain, real], is_beside)
            elif why := "videos lie beside it" if is_beside else _why_no_frames(path):
                self.pictures["/".join(inner_parts)] = why
            else:
                self.videos.append("/".join(inner_parts))

    def below(self, folder: str) -> list[Path]:
        """Return the videos below a folder as paths, sorted."""
        start = f"{folder}/" if folder else ""
        return sorted(self.root / name for name in self.videos if name.startswith(start))

    def notes(self, of_files: bool = True) -> list[str]:
        """Return sentences on what was ignored; without ``of_files`` only on folders, since files of other kinds are
        usual beside videos.
        """
        sentences = []
        if self.hidden and of_files:
            hidden = counted(self.hidden, "hidden file or folder", "hidden files or folders")
            sentences.append(f"ignored {hidden} in {self.root}")
        if self.of_programs:
            sentences.append(
                f"ignored {counted(len(self.of_programs), 'folder')} in {self.root} that a system or a program keeps "
                f"for itself: {first_few(sorted(self.of_programs))}"
            )
        if self.pictures:
            reasons = [f"{name} ({why})" for name, why in sorted(self.pictures.items())]
            ignored = counted(len(reasons), "folder of images that is no clip", "folders of images that are no clips")
            sentences.append(f"ignored {ignored} in {self.root}: {first_few(reasons)}")
        if self.others and of_files:
            kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(self.others.items()))
            ignored = counted(self.others.total(), "file that is no video", "files that are not videos")
            sentences.append(f"ignored {ignored} in {self.root}: {kinds}")
        return sentences


def walk_videos(folder: Path, images_below: int | None = None, notes: list[str] | None = None) -> list[str]:
    """Return every video below a folder, relative to it, sorted; none where it is no folder. See ``Walk``.

    Sentences on folders that were ignored are added to ``notes``.
    """
    if not folder.is_dir():
        return []
    walk = Walk(folder, images_below)
    if notes is not None:
        notes += walk.notes(of_files=False)
    return walk.videos


def holds_only_images(folder: Path) -> bool:
    """Whether a folder holds images, and beside them neither videos nor folders of the user."""
    images, chain = False, [os.path.realpath(folder)]
    for entry in _entries(folder):
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in VIDEO_SUFFIXES or _is_folder(entry, chain):
            return False
        images = images or suffix in IMAGE_SUFFIXES
    return images


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, except hidden ones and those of programs."""
    with os.scandir(folder) as scan:
        for entry in scan:
            if not is_hidden(entry.name) and not is_kept_by_program(entry.name, folder.name):
                yield entry


def _why_no_frames(folder: Path) -> str:
    """Return why these images are not the frames of one video; empty where only the number in their names differs."""
    rows: dict[str, str] = {}  # from a name with 0 for each number to the first file of such a name
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
    """Whether an entry is a folder, or a link to one that holds none of ``chain``, the real paths of folders."""
    if not entry.is_symlink():
        return entry.is_dir()
    if not os.path.isdir(entry.path):  # also false for a link that leads to itself
        return False
    real = os.path.realpath(entry.path)
    return not any(os.path.commonpath([real, above]) == real for above in chain)


def relative_name(root: Path, path: Path) -> str:
    """Return the path below the root as it is on disk; for a path outside of the root, all of it."""
    for folder in (root, root.absolute()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.as_posix()


def video_id(path: str) -> str:
    """Return the path without a video's suffix, which names the video's features. Other dots belong to the name."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in VIDEO_SUFFIXES else path


def source_id(root: Path, path: Path) -> str:
    """Return the name of a clip's file in the data set, for instance in a folder of flow; clips cut from one file share
    it. A file outside of ``root`` is named by its whole path.
    """
    # the name is not made plain: extraction writes it as it is on disk
    return video_id(relative_name(root, path)).lstrip("/")


def plain_id(root: Path, path: Path) -> str:
    """Return a video's id, which is the same on every machine, however its file system writes accents."""
    return plain_path(video_id(relative_name(root, path)))


def refuse_odd_names(folder: Path, paths: Iterable[str | Path]) -> None:
    """Raise ValueError at the first path that is not UTF-8, the encoding of lists and reports."""
    for path in map(str, paths):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{path.encode(errors='surrogateescape')!r} in {folder} is no UTF-8 name, which lists and reports are "
                "written in; rename it"
            ) from None


PACKED_SUFFIX = ".packed"  # of one video of a store that ``vidact prepare pack`` made
STORE, SHARDS = "packed.json", "shards"  # the file that marks a folder as such a store, and the folder of its pixels
# The usual suffixes; then those of older cameras and programs, of bare streams of coded pictures, and of animations.
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
    """Whether a file is an image by its suffix; a name that begins with a dot is a program's own file."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
