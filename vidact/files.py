"""Files that are whole or absent: written beside their place and moved there when finished."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A path to write to; it becomes ``path`` when the block ends well, and vanishes when it raises.

    >>> with replacing("results.json") as half:
    ...     half.write_text("{}")
    """
    path = Path(path)
    with no_empty_folder(path.parent):
        make_folder(path.parent)
        half = path.with_name(f".{os.getpid()}.{short_name(path.name)}")  # keeps the suffix, which writers look at
        try:
            yield half
            os.replace(half, path)
        finally:
            half.unlink(missing_ok=True)


@contextmanager
def no_empty_folder(folder: Path | str) -> Iterator[None]:
    """Where the block raises, ``folder`` and those above it that were not there before go again if they are empty."""
    new = _missing(Path(folder))
    try:
        yield
    except BaseException:
        _remove_empty(new)
        raise


def try_to_write(folder: Path) -> None:
    """Raise OSError where ``folder`` is not there and cannot be made, or no file can be made in it; leaves no trace."""
    new = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.writable"
        probe.touch()
        probe.unlink()
    finally:
        _remove_empty(new)


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, the innermost first."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # one that holds something ends it
        for folder in folders:
            with suppress(FileNotFoundError):
                folder.rmdir()


def make_folder(folder: Path) -> None:
    """The folder and those above it, where they are not there yet; raises OSError with what stands in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = next((above for above in (folder, *folder.parents) if above.is_file()), None)
        why = f"{file} is a file" if file else error.strerror
        raise type(error)(f"the folder {folder} cannot be made ({why}); choose another place") from error


def short_name(name: str) -> str:
    """The name of a file where something may be added to it: file systems take 255 bytes, and titles come near that."""
    if len(os.fsencode(name)) <= 240:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + Path(name).suffix[-16:]


# Beyond this and a hundred times the file's own size, arrays are not unpacked.
MOST_BYTES = 1 << 30


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name: never a pickle, and none that is larger than its bytes, or that the file can be.

    Raises ValueError with what is wrong with which array.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            left = MOST_BYTES + 100 * path.stat().st_size
            for member in packed.infolist():
                with packed.open(member) as file:
                    told = _npy_bytes(file)
                if told != member.file_size:
                    raise ValueError(f"{member.filename} says that it has {told:,} bytes and has {member.file_size:,}")
                left -= told
                if left < 0:
                    raise ValueError(
                        f"{member.filename} would take {told:,} bytes, which such a small file cannot hold"
                    )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def _npy_bytes(file: Any) -> int:
    """How many bytes a .npy of this header has."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays are pickles, which are not opened")
    return file.tell() + math.prod(shape) * dtype.itemsize


def take(file: int) -> bool:
    """Whether an open file, by its descriptor, is now this opening's alone, until it is closed or the process ends.

    True as well where the system, such as Windows, or the file system has no such locks.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def write_json(path: Path | str, content: Any) -> None:
    """``content`` as readable JSON."""
    with replacing(path) as half:
        half.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
