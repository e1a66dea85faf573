"""Work on many files: by several processes, a file at a time, whole or not at all, and never twice.

A folder of results keeps its notes in ``.prepare``: one JSON file for each piece of work that is done, written after
the piece's own files have been moved to their place. A run that was killed leaves at most files with a process number
in their names, which the next run removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

import torch

from vidact.files import short_name, take, write_json

NOTES = ".prepare"
DISK_RESERVE = 32 * 2**20  # bytes that a run leaves free

Job = TypeVar("Job")
Result = TypeVar("Result")


class DiskFullError(OSError):
    """There is no room left for what was asked."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------- processes


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts, and raise KeyboardInterrupt afterwards if there was one.

    A terminal sends SIGINT to every process of the group. The new process inherits that the signal is blocked, so that
    one which is still importing its libraries prints no traceback of its own; and the parent, interrupted between the
    start and the first message, would leave it a message cut short.
    """
    held: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    if os.name == "posix":
        resource_tracker.ensure_running()  # the first process starts it, and it would leave the signal unblocked
    if is_main and callable(handler):
        signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a signal that waited is handled here
        if is_main and callable(handler):
            signal.signal(signal.SIGINT, handler)
    if held and callable(handler):
        handler(signal.SIGINT, None)


class _Held:
    def start(self) -> None:
        with interrupts_held():
            super().start()  # type: ignore[misc]


class HeldSpawnProcess(_Held, SpawnProcess):
    pass


class HeldSpawnContext(SpawnContext):
    Process = HeldSpawnProcess  # type: ignore[assignment]


_CONTEXTS: dict[str, type[BaseContext]] = {"spawn": HeldSpawnContext}

if sys.platform != "win32":
    from multiprocessing.context import ForkContext, ForkProcess, ForkServerContext, ForkServerProcess

    class HeldForkProcess(_Held, ForkProcess):
        pass

    class HeldForkContext(ForkContext):
        Process = HeldForkProcess  # type: ignore[assignment]

    class HeldForkServerProcess(_Held, ForkServerProcess):
        pass

    class HeldForkServerContext(ForkServerContext):
        Process = HeldForkServerProcess  # type: ignore[assignment]

    _CONTEXTS |= {"fork": HeldForkContext, "forkserver": HeldForkServerContext}


def process_context(method: str | None = "spawn") -> BaseContext:
    """A context of multiprocessing whose processes leave Ctrl-C to this one, from their first instant.

    ``method`` is spawn, forkserver or fork; None is Python's own choice. A fork inherits threads and accelerators in an
    unknown state.
    """
    return _CONTEXTS[method or multiprocessing.get_start_method()]()


def end_with_parent() -> None:
    """Let this process end when the one that started it ends, killed or not."""

    def wait_for_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def run(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 1, meter: Meter | None = None
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they are finished; what ``work`` raises ends the run and is raised here.

    With one worker the work is done here; else by ``workers`` processes of one thread each, which end with this one.
    ``work`` and jobs are pickled, so a script that calls this needs ``if __name__ == "__main__":``. ``meter`` learns
    when the work began.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process works")
    meter = meter or Meter(0, 0, is_on=False)
    if min(workers, len(jobs)) <= 1:
        meter.begin()
        for job in jobs:
            yield job, work(job)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=process_context(), initializer=_begin)
    waiting = list(reversed(jobs))
    doing: dict[Future[tuple[float, Result]], Job] = {}
    try:
        while waiting or doing:
            while waiting and len(doing) < 2 * workers:  # few in hand: an error should end the run soon
                job = waiting.pop()
                with interrupts_held():  # until the pool knows the process that it starts, which it has to end
                    doing[pool.submit(_timed, work, job)] = job
            for future in wait(doing, return_when=FIRST_COMPLETED).done:
                began, result = future.result()
                meter.begin(began)
                yield doing.pop(future), result
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker was ended from outside, perhaps for want of memory: run the same command again with fewer "
            "workers, and it goes on from here"
        ) from None
    finally:
        for process in list((pool._processes or {}).values()):
            if waiting or doing:
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _timed(work: Callable[[Job], Result], job: Job) -> tuple[float, Result]:
    """When the work on a job began, by the clock that all processes of a machine share, and its result."""
    began = time.monotonic()
    return began, work(job)


def _begin() -> None:
    """Prepare a worker for its first job."""
    end_with_parent()
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(0)


# ---------------------------------------------------------------------------------------------- the folder of results


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Refuse a second run on the same folder, and remove what a killed one left half-written.

    The lock falls with the process, however that ends.
    """
    notes = out / NOTES
    notes.mkdir(parents=True, exist_ok=True)
    with (notes / "lock").open("w") as lock:
        if not take(lock.fileno()):
            raise ValueError(f"another run is writing to {out}; wait for it, or choose another --out")
        for half in out.rglob(".*"):
            if re.match(r"\.\d+\.", half.name) and half.is_file():
                half.unlink(missing_ok=True)
        yield


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Write down what the folder is made with; refuse one that was made otherwise."""
    path = out / NOTES / "settings.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        differ = [
            f"{name} {there.get(name)!r} there, {settings.get(name)!r} asked"
            for name in {**there, **settings}
            if there.get(name) != settings.get(name)
        ]
        if differ:
            raise ValueError(f"{out} was made with other settings: {'; '.join(differ)}. Choose another --out")
        return
    strangers = [path.name for path in out.iterdir() if path.name != NOTES]
    if strangers:
        raise ValueError(
            f"{out} holds files that this command did not make ({sorted(strangers)[0]}); choose a new or empty --out"
        )
    write_json(path, settings)


def source_state(path: Path) -> dict[str, int]:
    """By what a source is known to be the one that was read; of a folder of images, all of its files."""
    stats = [path.stat(), *(file.stat() for file in path.iterdir())] if path.is_dir() else [path.stat()]
    return {"size": sum(stat.st_size for stat in stats), "mtime_ns": max(stat.st_mtime_ns for stat in stats)}


def _note_path(out: Path, name: str) -> Path:
    path = out / NOTES / "done" / name
    return path.with_name(f"{short_name(path.name)}.json")


def read_note(out: Path, name: str) -> dict[str, Any] | None:
    """What is noted of a finished piece of work; None when it is not finished, or the note cannot be read."""
    try:
        note = json.loads(_note_path(out, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def write_note(out: Path, name: str, note: dict[str, Any]) -> None:
    """Note that a piece of work is done; its files are in their place already."""
    write_json(_note_path(out, name), note)


def forget_note(out: Path, name: str) -> None:
    """The piece of work is about to be done anew."""
    _note_path(out, name).unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------- room on the disk


def disk_free(folder: Path) -> int:
    """Bytes that may be written below ``folder``, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_room(out: Path, num_bytes: float) -> None:
    """Raise DiskFullError where ``num_bytes`` would not fit."""
    free = disk_free(out)
    if num_bytes + DISK_RESERVE > free:
        raise DiskFullError(
            errno.ENOSPC,
            f"{out} needs about {size_text(num_bytes)} and its disk has {size_text(free)} free; nothing was written. "
            "Make room, choose another --out, or lower --short_side, --psnr or --fps",
        )


@contextlib.contextmanager
def full_disk_named(out: Path) -> Iterator[None]:
    """Turn whatever a full disk makes a library raise into one DiskFullError that says what to do."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        # muxers swallow the error of a write and stumble later: the free space says what it was
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or (
            not isinstance(error, FileNotFoundError) and out.exists() and disk_free(out) < 2**16
        )
        if not full:
            raise
        raise DiskFullError(
            errno.ENOSPC,
            f"the disk of {out} is full. What is finished there is whole and nothing is half-written; make room and "
            "run the same command again, and it goes on from here",
        ) from error


def size_text(num_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def time_text(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


class Meter:
    """How far a run is, by bytes of its sources: one moving line on a terminal, now and then a line in a log.

    The time that is left follows from the work that was done since ``begin``; the start of processes is none.

    Args:
        total_bytes: of all pieces of work.
        count: of what is counted in ``words``.
        is_on: whether anything is said at all.
    """

    TIMED_S = 3.0  # of work, before it says anything of the rest

    def __init__(self, total_bytes: int, count: int, is_on: bool = True, words: str = "videos") -> None:
        self.total, self.count, self.words = max(total_bytes, 1), count, words
        self.done_bytes = self.done = 0
        self.in_hand: dict[str, float] = {}
        self.is_on, self.is_terminal = is_on and count > 0, sys.stderr.isatty()
        self.began: float | None = None
        self.told = time.monotonic()

    def begin(self, at: float | None = None) -> None:
        """Work begins now, or began at a moment of ``time.monotonic``; the first call counts."""
        if self.began is None:
            self.began = time.monotonic() if at is None else at

    def move(self, piece: str, num_bytes: float) -> None:
        """So many bytes of a piece that is not finished are done."""
        self.in_hand[piece] = num_bytes
        if time.monotonic() - self.told > (0.5 if self.is_terminal else 30):
            self._tell("")

    def finish(self, num_bytes: int, count: int = 1, news: str = "", piece: str = "") -> None:
        """A piece of work is done, of so many bytes; ``news`` is what must be read of it."""
        self.in_hand.pop(piece, None)
        self.done_bytes += num_bytes
        self.done += count
        if news or self.done >= self.count or time.monotonic() - self.told > (0.2 if self.is_terminal else 30):
            self._tell(news)

    def _tell(self, news: str) -> None:
        if not self.is_on:
            return
        self.told = time.monotonic()
        share = min((self.done_bytes + sum(self.in_hand.values())) / self.total, 1.0)
        state = f"{self.done}/{self.count} {self.words} {share:4.0%}"
        worked_s = 0.0 if self.began is None else self.told - self.began
        if self.done < self.count and share and worked_s >= self.TIMED_S:
            state += f", {time_text(worked_s * (1 / share - 1))} left"
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            if news:
                print(f"\r{news:<{width}}", file=sys.stderr)
            filled = round(20 * share)
            line = f"{state} [{'#' * filled}{'.' * (20 - filled)}]"
            print(
                f"\r{line:<{width}}"[: width + 1],
                end="\n" if self.done >= self.count else "",
                file=sys.stderr,
                flush=True,
            )
        else:
            print(f"{state}  {news}".rstrip(), file=sys.stderr, flush=True)
