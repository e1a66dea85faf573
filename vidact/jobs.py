"""Work on many files: by several processes, a file at a time, whole or not at all, and never twice.

``run`` does the jobs, ``Folder`` records what is finished. A folder of results has a folder of notes: one JSON file for
each finished job, written after the files of the job have been moved to their place. A run that was killed leaves at
most files with a process number in their names, which the next run removes.
"""

from __future__ import annotations

import contextlib
import errno
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
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from vidact.files import disk_free, short_name, try_lock, write_json

UNREADABLE = "unreadable.json"  # the names of the files that could not be read, with the reasons
DISK_RESERVE = 32 * 2**20  # the number of bytes that a run leaves free
LONGEST_NAME = 255  # the number of bytes that a file's name may have

Job = TypeVar("Job", bound="Piece")
Result = TypeVar("Result")


class DiskFullError(OSError):
    """The error of a disk without room for the results."""


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------- processes


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts, and raise KeyboardInterrupt afterwards if it was pressed.

    A terminal sends SIGINT to every process of the group. The new process inherits the blocked signal, so that it
    prints no traceback while it imports its libraries; and a parent that was interrupted between the start and the
    first message would send an incomplete message.
    """
    interrupts: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    if os.name == "posix":
        resource_tracker.ensure_running()  # the tracker would unblock the signal if the first process started it
    if is_main and callable(handler):
        signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a signal that arrived meanwhile is handled here
        if is_main and callable(handler):
            signal.signal(signal.SIGINT, handler)
    if interrupts and callable(handler):
        handler(signal.SIGINT, None)


class _Held:
    """A process that starts while Ctrl-C is held back."""

    def start(self) -> None:
        with interrupts_held():
            super().start()  # type: ignore[misc]


class HeldSpawnProcess(_Held, SpawnProcess):
    pass


class HeldSpawnContext(SpawnContext):
    Process = HeldSpawnProcess


_CONTEXTS: dict[str, type[BaseContext]] = {"spawn": HeldSpawnContext}

if sys.platform != "win32":
    from multiprocessing.context import ForkContext, ForkProcess, ForkServerContext, ForkServerProcess

    class HeldForkProcess(_Held, ForkProcess):
        pass

    class HeldForkContext(ForkContext):
        Process = HeldForkProcess

    class HeldForkServerProcess(_Held, ForkServerProcess):
        pass

    class HeldForkServerContext(ForkServerContext):
        Process = HeldForkServerProcess

    _CONTEXTS |= {"fork": HeldForkContext, "forkserver": HeldForkServerContext}


def process_context(method: str | None = "spawn") -> BaseContext:
    """Return a multiprocessing context whose processes have Ctrl-C blocked from the start; only this one handles it.

    ``method`` is spawn, forkserver or fork; None is Python's default. A fork inherits threads and accelerators in an
    unknown state.
    """
    return _CONTEXTS[method or multiprocessing.get_start_method()]()


def end_with_parent() -> None:
    """End this process when its parent ends, also when the parent is killed."""

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


class Piece(Hashable, Protocol):
    """A job: one file to be made or read; ``label`` is its name in messages."""

    @property
    def label(self) -> str: ...


Progress = Callable[[float], None]  # a function to call with the finished share of a job, 0 to 1
Work = Callable[[Job, Progress], Result]


def run(
    start: Callable[[], Work[Job, Result]],
    jobs: Sequence[Job],
    workers: int = 1,
    meter: Meter | None = None,
) -> Generator[tuple[Job, Result]]:
    """Do each job once and yield it with its result, in the order in which they are finished.

    With one worker the work is done in this process; else ``workers`` processes of one thread each do one job at a
    time, and end with this process. An error in the work ends the run and is raised here; a worker that ends before
    its job is done raises ChildProcessError.

    Args:
        start: returns the work; called once in each process, so that what all jobs share is sent once. It is pickled,
            as are jobs and results, and a script that calls this needs ``if __name__ == "__main__":``.
        jobs: the jobs, in the order in which they are started.
        workers: the number of processes, at least 1.
        meter: displays the progress: it gets the start of the work and from time to time the share of each job.
    """
    refuse_workers(workers)
    if not jobs:
        return
    meter = meter or Meter({}, is_on=False)
    workers = min(workers, len(jobs))
    if workers == 1:
        work = start()
        for job in jobs:
            meter.begin()
            meter.move(job, 0.0)
            yield job, work(job, lambda share, job=job: meter.move(job, share))  # type: ignore[misc]
        return
    context = process_context()
    waiting = list(reversed(jobs))
    running: dict[Connection, Job] = {}
    processes: dict[Connection, Any] = {}

    def send_next(link: Connection) -> None:
        running[link] = waiting.pop()
        with contextlib.suppress(OSError):  # the process has ended, which receiving from the link reports below
            link.send(running[link])

    try:
        # Each process has a separate pipe, so that a process that is killed leaves no lock that others wait for.
        for _ in range(workers):
            parent_end, child_end = context.Pipe()
            process = context.Process(target=_serve, args=(child_end,), daemon=True)  # type: ignore[attr-defined]
            processes[parent_end] = process
            process.start()
            child_end.close()
        # ``start`` is sent through the pipe and is no argument of the process: arguments larger than a pipe holds would
        # block the parent forever where the process ends before it reads them.
        for parent_end in processes:
            with contextlib.suppress(OSError):
                parent_end.send(start)
            send_next(parent_end)
        while running:
            for link in multiprocessing.connection.wait(list(running)):
                assert isinstance(link, Connection)
                job = running[link]
                try:
                    message = link.recv()
                except (EOFError, OSError):
                    processes[link].join()
                    raise _ended(job, processes[link].exitcode) from None
                if isinstance(message, _Share):
                    meter.begin(message.at)
                    meter.move(job, message.part)
                    continue
                del running[link]
                if message.error is not None:
                    raise message.error
                if waiting:  # the next job is sent before the result is used, so that the process does not wait
                    send_next(link)
                yield job, message.result
    finally:
        for process in processes.values():
            if process.pid is not None:
                process.kill()
                process.join()


def _ended(job: Piece, status: int) -> ChildProcessError:
    """Return the error for a worker that has ended before its job was done."""
    if status >= 0:
        return ChildProcessError(
            f"the worker at {job.label} ended with status {status}; what it printed says why. A script that starts "
            'workers needs if __name__ == "__main__": around what it does'
        )
    return ChildProcessError(
        f"the worker at {job.label} was ended (status {status}), perhaps for want of memory: run the same command "
        "again with fewer workers, and it goes on from here"
    )


class _Share(NamedTuple):
    """The finished share of a job, and the time of it on the clock that all processes of a machine share."""

    part: float
    at: float


class _End(NamedTuple):
    """The result of a job, or the error that ends the run."""

    result: Any = None
    error: Exception | None = None


PROGRESS_EVERY_S = 0.5


def _serve(link: Connection) -> None:
    """Work in a separate process until the other end of the link is closed.

    Receives ``start`` and then jobs; sends shares and results.
    """
    end_with_parent()
    last_s = 0.0

    def send_progress(part: float) -> None:
        nonlocal last_s
        now = time.monotonic()
        if part == 0 or now - last_s > PROGRESS_EVERY_S:
            link.send(_Share(float(part), now))
            last_s = now

    try:
        import cv2
        import torch

        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        start: Callable[[], Callable[[Any, Progress], Any]] = link.recv()
        work = start()
    except EOFError:
        return
    except Exception as error:
        link.send(_End(error=_for_the_parent(error)))
        return
    while True:
        try:
            job = link.recv()
        except (EOFError, OSError):
            return
        try:
            send_progress(0.0)  # the work begins now; starting the process does not count as work
            message = _End(work(job, send_progress))
        except Exception as error:
            message = _End(error=_for_the_parent(error))
        try:
            link.send(message)
        except OSError:  # the parent process has ended
            return


def _for_the_parent(error: Exception) -> Exception:
    """Return the error as it can be sent to another process, with the place where it was raised."""
    trace = traceback.format_exc()
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        plain = next((kind for kind in (ValueError, ImportError, OSError) if isinstance(error, kind)), None)
        return plain(str(error)) if plain else RuntimeError(trace)
    copy.add_note(trace)
    return copy if isinstance(copy, Exception) else RuntimeError(trace)


# ---------------------------------------------------------------------------------------------- the folder of results


def parse_shard(shard: str) -> tuple[int, int]:
    """Return the part and the number of parts: ``"2/4"`` is (2, 4), the second of four parts."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard is {shard!r}; write i/n with i from 1 to n, such as 1/4 for the first of four parts")
    return int(match[1]), int(match[2])


def part_of(name: str, parts: int) -> int:
    """Return the part, from 1, that a job belongs to by its name: the same on every machine and in every list."""
    return 1 + int(hashlib.sha256(name.encode()).hexdigest(), 16) % parts


def source_state(path: Path) -> dict[str, int]:
    """Identify a source by its size and modification time, so that a changed source is read again.

    For a folder of images it is the sum of the sizes and the newest time of its files.
    """
    stats = [path.stat(), *(file.stat() for file in path.iterdir())] if path.is_dir() else [path.stat()]
    return {"size": sum(stat.st_size for stat in stats), "mtime_ns": max(stat.st_mtime_ns for stat in stats)}


@dataclass(frozen=True)
class Folder:
    """A folder of results: locked while a run writes to it, made with one set of settings, with notes of finished jobs.

    Args:
        out: the folder.
        notes: the folder in it that holds the lock and the settings.
        finished: the folder in ``notes`` with a note of each finished job.
        shard: "i/n" is the i-th of n parts, which n machines write to one folder; None where the jobs are not divided.
        option: the option that names another folder, for messages.
    """

    out: Path
    notes: str
    finished: str = "done"
    shard: str | None = None
    option: str = "--out"

    def includes(self, name: str) -> bool:
        """Return whether a job of this name belongs to the shard."""
        part, parts = parse_shard(self.shard or "1/1")
        return part_of(name, parts) == part

    def _for_shard(self, name: str) -> str:
        """Return this shard's name of a file that each shard has."""
        part, parts = parse_shard(self.shard or "1/1")
        return name if parts == 1 else f"{Path(name).stem}-{part}-of-{parts}{Path(name).suffix}"

    @contextlib.contextmanager
    def locked(self, files: Collection[Path] = ()) -> Iterator[None]:
        """Lock the folder, or the shard of it, for the block, and remove half-written files of a killed run.

        Raises ValueError where another run holds the lock. The lock ends with the process, however that ends. A full
        disk becomes a DiskFullError.

        Args:
            files: the files that the jobs write. Where several shards write to the folder, only half-written forms of
                these are removed, because another shard may be writing the others.
        """
        _, parts = parse_shard(self.shard or "1/1")
        folder = self.out / self.notes
        folder.mkdir(parents=True, exist_ok=True)
        # The lock of shard 1/1 keeps its name from earlier versions, so that their runs are refused as well.
        name = "lock-1-of-1" if parts == 1 and self.shard is not None else self._for_shard("lock")
        with (folder / name).open("w") as lock, full_disk_named(self.out):
            if not try_lock(lock.fileno()):
                if parts == 1:
                    raise ValueError(
                        f"another run is writing to {self.out}; wait for it, or choose another {self.option}"
                    )
                raise ValueError(
                    f"another run is writing shard {self.shard} of {self.out}; wait for it, or split the work with "
                    "--shard i/n"
                )
            whole = None if parts == 1 else {file.with_name(short_name(file.name)) for file in files}
            for half in self.out.rglob(".*"):
                match = re.fullmatch(r"\.\d+\.(.+)", half.name)
                if match and half.is_file() and (whole is None or half.with_name(match[1]) in whole):
                    half.unlink(missing_ok=True)
            yield

    def claim(self, settings: dict[str, Any]) -> None:
        """Write the settings into the folder; raise ValueError where it was made with others or holds other files."""
        path = self.out / self.notes / "settings.json"
        if path.exists():
            earlier_settings = json.loads(path.read_text(encoding="utf-8"))
            differ = [
                f"{name} {earlier_settings.get(name)!r} there, {settings.get(name)!r} asked"
                for name in {**earlier_settings, **settings}
                if earlier_settings.get(name) != settings.get(name)
            ]
            if differ:
                raise ValueError(
                    f"{self.out} was made with other settings: {'; '.join(differ)}. Choose another {self.option}"
                )
            return
        others = sorted(path.name for path in self.out.iterdir() if path.name != self.notes)
        if others:
            raise ValueError(
                f"{self.out} holds files that this command did not make ({others[0]}); choose a new or empty "
                f"{self.option}"
            )
        write_json(path, settings)

    def note_paths(self, name: str) -> list[Path]:
        """Return the path to which the note of a job is written, and then the other paths where a note may exist."""
        path = self.out / self.notes / self.finished / name
        names = dict.fromkeys([f"{path.name}.json", f"{short_name(path.name)}.json"])
        return [path.with_name(name) for name in names if len(os.fsencode(name)) <= LONGEST_NAME]

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the note of a finished job; None where the job is not finished or the note cannot be read."""
        for path in self.note_paths(name):
            try:
                note = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError):
                return None
            return note if isinstance(note, dict) else None
        return None

    def read_if_of(self, name: str, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the note of a job that was finished with this state of its source; None where there is none."""
        note = self.read(name)
        return note if note is not None and all(note.get(key) == value for key, value in state.items()) else None

    def finish(self, name: str, state: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
        """Write and return the note of a finished job, whose files are in place, with the state of its source."""
        note = {**state, **facts}
        write_json(self.note_paths(name)[0], note)
        return note

    def forget(self, name: str) -> None:
        """Remove the note of a job that is about to be done again."""
        for path in self.note_paths(name):
            path.unlink(missing_ok=True)

    def report_unreadable(self, reasons: Mapping[str, str]) -> Path:
        """Write the list of what could not be read, with the reasons, and return its path; an empty list is removed.

        Each shard has its own list: unreadable.json, or unreadable-i-of-n.json for the i-th of n parts. A list that
        would not change is not written again.
        """
        path = self.out / self._for_shard(UNREADABLE)
        if not reasons:
            path.unlink(missing_ok=True)
            return path
        try:
            is_unchanged = json.loads(path.read_text(encoding="utf-8")) == dict(reasons)
        except (OSError, ValueError):
            is_unchanged = False
        if not is_unchanged:
            write_json(path, dict(reasons))
        return path


# ---------------------------------------------------------------------------------------------- room on the disk


def require_room(out: Path, num_bytes: float) -> None:
    """Raise DiskFullError where ``num_bytes`` would not fit on the disk of ``out``."""
    free = disk_free(out)
    if num_bytes + DISK_RESERVE > free:
        raise DiskFullError(
            errno.ENOSPC,
            f"{out} needs about {size_text(num_bytes)} and its disk has {size_text(free)} free; nothing was written. "
            "Make room, choose another --out, or lower --short_side, --psnr or --fps",
        )


@contextlib.contextmanager
def full_disk_named(out: Path) -> Iterator[None]:
    """Turn any error that a full disk causes into a DiskFullError, whose text says what to do."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        # Muxers ignore the error of a write and fail later, so a disk without free space counts as the cause.
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
    """Return a number of bytes as text in the fitting unit, such as ``1.5 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def time_text(seconds: float) -> str:
    """Return a duration as text in the fitting unit, such as ``1.5 min``."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


class Meter:
    """The progress of a run, by bytes of its sources: one changing line on a terminal, a line every 30 s in a log.

    The remaining time is estimated from the work since ``begin``; the start of processes does not count.

    Args:
        sizes: the bytes of the source of each job.
        count: the total in ``unit``; None counts one for each job.
        is_on: whether anything is printed.
        unit: the name of the things that are counted.
    """

    TIMED_S = 3.0  # seconds of work before an estimate of the remaining time is printed

    def __init__(
        self, sizes: Mapping[Any, int], count: int | None = None, is_on: bool = True, unit: str = "videos"
    ) -> None:
        self.sizes = sizes
        self.total_bytes = max(sum(sizes.values()), 1)
        self.count, self.unit = len(sizes) if count is None else count, unit
        self.finished_bytes = self.finished = 0
        self.in_hand: dict[Hashable, float] = {}
        self.is_on, self.is_terminal = is_on and self.count > 0, sys.stderr.isatty()
        self.began: float | None = None
        self.printed = time.monotonic()

    def begin(self, at: float | None = None) -> None:
        """Set the start of the work: now, or ``at`` on the clock ``time.monotonic``. Only the first call counts."""
        if self.began is None:
            self.began = time.monotonic() if at is None else at

    def move(self, job: Hashable, share: float) -> None:
        """Record the finished share of a job, 0 to 1."""
        self.in_hand[job] = share * self.sizes.get(job, 0)
        if time.monotonic() - self.printed > (0.5 if self.is_terminal else 30):
            self._print("")

    def finish(self, job: Hashable, news: str = "", count: int = 1) -> None:
        """Record that a job is finished; ``news`` is printed at once."""
        self.in_hand.pop(job, None)
        self.finished_bytes += self.sizes.get(job, 0)
        self.finished += count
        is_last = self.finished >= self.count
        if news or is_last or time.monotonic() - self.printed > (0.2 if self.is_terminal else 30):
            self._print(news)

    def _print(self, news: str) -> None:
        if not self.is_on:
            return
        self.printed = time.monotonic()
        share = min((self.finished_bytes + sum(self.in_hand.values())) / self.total_bytes, 1.0)
        state = f"{self.finished}/{self.count} {self.unit} {share:4.0%}"
        worked_s = 0.0 if self.began is None else self.printed - self.began
        if self.finished < self.count and share and worked_s >= self.TIMED_S:
            state += f", {time_text(worked_s * (1 / share - 1))} left"
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            if news:
                print(f"\r{news:<{width}}", file=sys.stderr)
            filled = round(20 * share)
            line = f"{state} [{'#' * filled}{'.' * (20 - filled)}]"
            print(
                f"\r{line:<{width}}"[: width + 1],
                end="\n" if self.finished >= self.count else "",
                file=sys.stderr,
                flush=True,
            )
        else:
            print(f"{state}  {news}".rstrip(), file=sys.stderr, flush=True)
