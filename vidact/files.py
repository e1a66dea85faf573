"""Files that are whole or absent: written under another name in their folder and renamed when finished."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``path`` when the block succeeds, and is removed when the block raises.

    >>> with replacing("results.json") as half:
    ...     half.write_text("{}")
    """
    path = Path(path)
    with no_empty_folder(path.parent):
        make_folder(path.parent)
        # The number of the thread, which is that of the process in its main thread: threads may write the same file.
        # Writers choose a format by the suffix.
        half = path.with_name(f".{threading.get_native_id()}.{short_name(path.name)}")
        try:
            yield half
            os.replace(half, path)
        finally:
            half.unlink(missing_ok=True)


@contextmanager
def no_empty_folder(folder: Path | str) -> Iterator[None]:
    """Remove ``folder`` and its parents where the block raises, if they are empty and did not exist before it."""
    new = _missing(Path(folder))
    try:
        yield
    except BaseException:
        _remove_empty(new)
        raise


def try_to_write(folder: Path) -> None:
    """Raise OSError where ``folder`` cannot be made or no file can be made in it; leave nothing behind."""
    new = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.writable"
        probe.touch()
        probe.unlink()
    finally:
        _remove_empty(new)


def _missing(folder: Path) -> list[Path]:
    """Return the folder and those of its parents that do not exist, the innermost first."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # the first folder that is not empty ends the loop
        for folder in folders:
            with suppress(FileNotFoundError):
                folder.rmdir()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_free(folder: Path) -> int:
    """Return the number of bytes that may be written below ``folder``, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they do not exist. Raises OSError, which names a file in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = next((above for above in (folder, *folder.parents) if above.is_file()), None)
        why = f"{file} is a file" if file else error.strerror
        raise type(error)(f"the folder {folder} cannot be made ({why}); choose another place") from error


def short_name(name: str) -> str:
    """Shorten a file name over 240 bytes to a hash, since file systems allow 255 bytes and prefixes are added to it."""
    if len(os.fsencode(name)) <= 240:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + Path(name).suffix[-16:]


# Arrays of a file are unpacked up to this number of bytes plus a hundred times the size of the file.
MOST_BYTES = 1 << 30


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz by name, without opening pickles.

    Raises ValueError, which names the array, where its header does not fit its size or the arrays together are
    larger than a file of this size can hold.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            left = MOST_BYTES + 100 * path.stat().st_size
            for member in packed.infolist():
                with packed.open(member) as file:
                    num_bytes = _npy_bytes(file)
                if num_bytes != member.file_size:
                    raise ValueError(
                        f"{member.filename} says that it has {num_bytes:,} bytes and has {member.file_size:,}"
                    )
                left -= num_bytes
                if left < 0:
                    raise ValueError(
                        f"{member.filename} would take {num_bytes:,} bytes, which such a small file cannot hold"
                    )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def _npy_bytes(file: Any) -> int:
    """Return the number of bytes that a .npy file with this header has."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays are pickles, which are not opened")
    return file.tell() + math.prod(shape) * dtype.itemsize


def try_lock(file: int) -> bool:
    """Lock an open file, by its descriptor, until it is closed or the process ends; return whether that succeeded.

    Returns False where the file is locked already, and True where the system, such as Windows, or the file system has
    no such locks.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark a folder as being written to, for ``is_in_use``, until the block or the process ends.

    The mark is a lock on the folder itself, so no file is left behind; systems without such locks have no mark.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        yield
        return
    try:
        try_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def is_in_use(folder: Path) -> bool:
    """Return whether a process writes to a folder: by ``in_use``, or by a locked file called ``lock`` below it."""
    for path in (folder, *folder.glob("**/lock")):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            if not try_lock(descriptor):
                return True
        finally:
            os.close(descriptor)
    return False


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented JSON, completely or not at all."""
    with replacing(path) as half:
        half.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
