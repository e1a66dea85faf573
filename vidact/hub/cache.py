"""The cache of downloaded files: its folder, who may write to it, and one process at a time for each file."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vidact.files import disk_free, try_lock

WAIT_S = 0.2  # from one check to the next whether another process has finished its download


def folder() -> Path:
    """Return the folder of downloaded weights: below ``VIDACT_HOME``, else the user's cache folder."""
    if home := os.environ.get("VIDACT_HOME"):
        return Path(home).expanduser() / "weights"
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "vidact" / "weights"
    except RuntimeError as error:  # raised for example in a container whose user has a number and no name
        raise OSError("the user has no home folder; VIDACT_HOME names the folder of downloaded weights") from error


def is_offline() -> bool:
    """Return whether downloads are forbidden, by ``VIDACT_OFFLINE`` or ``--offline``."""
    return os.environ.get("VIDACT_OFFLINE", "") not in ("", "0")


@contextlib.contextmanager
def writable(folder: Path, variable: str = "VIDACT_HOME") -> Iterator[None]:
    """Name the folder, and the variable that chooses another one, in errors of a full disk or missing rights."""
    elsewhere = f"{variable} chooses another folder for downloaded weights"
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(f"{error.strerror} in {folder}; {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or isinstance(
            error, PermissionError | NotADirectoryError | FileExistsError
        ):
            raise type(error)(
                f"the cache {folder} cannot be written ({error.strerror or error}); {elsewhere}"
            ) from error
        raise


def refuse_full(folder: Path, size: int) -> None:
    """Raise OSError where the disk of a folder, which may not exist, has less room than ``size`` bytes."""
    if (free := disk_free(folder)) < size:
        raise OSError(errno.ENOSPC, f"{size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")


@contextlib.contextmanager
def alone(lock: Path, name: str) -> Iterator[None]:
    """Run the block in one process at a time; others wait. The lock is a file, which is removed afterwards."""
    is_announced = False
    while True:
        file = lock.open("ab")
        try:
            # The process that had the lock may have removed the file between the opening and the locking of it.
            if try_lock(file.fileno()) and lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        except FileNotFoundError:  # removed between the two checks
            pass
        except BaseException:
            file.close()
            raise
        file.close()
        if not is_announced:
            say(f"{name}: another process is downloading it")
            is_announced = True
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        file.close()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
