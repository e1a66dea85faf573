"""Work on many files: by several processes, a file at a time, whole or not at all, and never twice.

A folder of results keeps its notes in ``.prepare``: one JSON file for each piece of work that is done, written after
the piece's own files have been moved to their place. A run that was killed leaves at most files with a process number
in their names, which the next run removes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from vidact.files import short_name, take, write_json

NOTES = ".prepare"
UNREADABLE = "unreadable.json"  # names and reasons of what could not be read
DISK_RESERVE = 32 * 2**20  # bytes that a run leaves free

Job = TypeVar("Job", bound="Piece")
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


def refuse_workers(workers: int) -> None:
    """Raise ValueError for a number of processes below 1."""
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process works")


class Piece(Protocol):
    """A job: one file to be made or read. ``label`` names it in messages."""

    @property
    def label(self) -> str: ...


Tell = Callable[[float], None]  # takes the share of a job that is done, 0 to 1
Work = Callable[[Job, Tell], Result]


def run(
    start: Callable[[], Work[Job, Result]],
    jobs: Sequence[Job],
    workers: int = 1,
    meter: Meter | None = None,
    on_share: Callable[[Job, float], None] | None = None,
) -> Generator[tuple[Job, Result]]:
    """Do each job once and yield it with its result, in the order in which they are finished.

    With one worker the work is done in this process; else ``workers`` processes of one thread each take a job at a
    time, and end with this one. What the work raises ends the run and is raised here, as is ChildProcessError where a
    worker is ended from outside.

    Args:
        start: makes the work, once in each process, so that what all jobs share is sent once. It is pickled, as jobs
            and results are, and a script that calls this needs ``if __name__ == "__main__":``.
        jobs: what is to be done, in this order.
        workers: processes, at least 1.
        meter: learns when the work began.
        on_share: called with a job and the share of it that is done, now and then.
    """
    refuse_workers(workers)
    meter = meter or Meter(0, 0, is_on=False)
    share = on_share or (lambda job, part: None)
    workers = min(workers, len(jobs))
    if workers <= 1:
        work = start() if jobs else None
        for job in jobs:
            assert work is not None
            meter.begin()
            share(job, 0.0)
            yield job, work(job, functools.partial(share, job))
        return
    context = process_context()
    waiting = list(reversed(jobs))
    in_hand: dict[Connection, Job] = {}
    processes: dict[Connection, Any] = {}
    try:
        # Each process has a pipe of its own, so that one which is killed leaves no lock behind that others wait for.
        for _ in range(workers):
            ours, theirs = context.Pipe()
            processes[ours] = context.Process(target=_serve, args=(theirs, start), daemon=True)  # type: ignore[attr-defined]
            processes[ours].start()
            theirs.close()
            in_hand[ours] = waiting.pop()
            ours.send(in_hand[ours])
        while in_hand:
            for link in multiprocessing.connection.wait(list(in_hand)):
                assert isinstance(link, Connection)
                job = in_hand[link]
                try:
                    message = link.recv()
                except (EOFError, OSError):
                    processes[link].join()
                    raise ChildProcessError(
                        f"the worker at {job.label} was ended (status {processes[link].exitcode}), perhaps for want of "
                        "memory: run the same command again with fewer workers, and it goes on from here"
                    ) from None
                if isinstance(message, _Share):
                    meter.begin(message.at)
                    share(job, message.part)
                    continue
                del in_hand[link]
                if message.error is not None:
                    raise message.error
                if waiting:  # before the result is dealt with, so that the process need not wait for that
                    in_hand[link] = waiting.pop()
                    link.send(in_hand[link])
                yield job, message.result
    finally:
        for process in processes.values():
            process.kill()
            process.join()


class _Share(NamedTuple):
    """The share of a job that is done, and when that was by the clock that all processes of a machine have."""

    part: float
    at: float


class _End(NamedTuple):
    """The result of a job, or the error that ends the run."""

    result: Any = None
    error: Exception | None = None


TELL_EVERY_S = 0.5


def _serve(link: Connection, start: Callable[[], Work[Job, Result]]) -> None:
    """Work in a process of its own: jobs in, shares and results out, until the other end of the link is gone."""
    end_with_parent()
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(0)
    last_s = 0.0

    def tell(part: float) -> None:
        nonlocal last_s
        now = time.monotonic()
        if part == 0 or now - last_s > TELL_EVERY_S:
            link.send(_Share(float(part), now))
            last_s = now

    try:
        work = start()
    except Exception as error:
        link.send(_End(error=_for_the_parent(error)))
        return
    while True:
        try:
            job = link.recv()
        except (EOFError, OSError):
            return
        try:
            tell(0.0)  # the work begins here: what came before was the start of the process
            message = _End(work(job, tell))
        except Exception as error:
            message = _End(error=_for_the_parent(error))
        try:
            link.send(message)
        except OSError:  # the process that started this one is gone
            return


def _for_the_parent(error: Exception) -> Exception:
    """Return the error as it can be sent to another process, with the place where it was raised."""
    place = traceback.format_exc()
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        plain = next((kind for kind in (ValueError, ImportError, OSError) if isinstance(error, kind)), None)
        return plain(str(error)) if plain else RuntimeError(place)
    copy.add_note(place)
    return copy if isinstance(copy, Exception) else RuntimeError(place)


# ---------------------------------------------------------------------------------------------- shards


def parse_shard(shard: str) -> tuple[int, int]:
    """Return the part and the number of parts: ``"2/4"`` is (2, 4), the second of four parts."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard is {shard!r}; write i/n with i from 1 to n, such as 1/4 for the first of four parts")
    return int(match[1]), int(match[2])


def part_of(name: str, parts: int) -> int:
    """Return the part, from 1, that a piece of work belongs to: the same on every machine and in every list."""
    return 1 + int(hashlib.sha256(name.encode()).hexdigest(), 16) % parts


def report_unreadable(out: Path, reasons: Mapping[str, str], shard: str = "1/1") -> Path:
    """Write the names that could not be read, with the reasons, and return the file; without any, the file is removed.

    Each shard has a file of its own: unreadable.json, or unreadable-i-of-n.json for the i-th of n parts.
    """
    part, parts = parse_shard(shard)
    path = out / (UNREADABLE if parts == 1 else f"unreadable-{part}-of-{parts}.json")
    if reasons:
        write_json(path, dict(reasons))
    else:
        path.unlink(missing_ok=True)
    return path


# ---------------------------------------------------------------------------------------------- the folder of results


@contextlib.contextmanager
def alone(out: Path, notes: str = NOTES, shard: str = "1/1", names: Collection[str] | None = None) -> Iterator[None]:
    """Refuse a second run on the same folder, or the same shard of it, and remove what a killed one left half-written.

    The lock falls with the process, however that ends.

    Args:
        out: the folder of results.
        notes: the folder in it where the lock lies.
        shard: "i/n" locks the i-th of n parts.
        names: the names of the files whose half-written forms are removed; None: all.
    """
    part, parts = parse_shard(shard)
    (out / notes).mkdir(parents=True, exist_ok=True)
    path = out / notes / ("lock" if parts == 1 and notes == NOTES else f"lock-{part}-of-{parts}")
    with path.open("w") as lock:
        if not take(lock.fileno()):
            if parts == 1:
                raise ValueError(f"another run is writing to {out}; wait for it, or choose another --out")
            raise ValueError(
                f"another run is writing shard {shard} of {out}; wait for it, or split the work with --shard i/n"
            )
        for half in out.rglob(".*"):
            match = re.fullmatch(r"\.\d+\.(.+)", half.name)
            if match and half.is_file() and (names is None or match[1] in names):
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
