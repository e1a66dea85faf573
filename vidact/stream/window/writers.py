"""The files that a stream writes: JSON lines of answers, a table of events, an annotated recording, a picture an event.

Everything is written as it happens, so that a run that is killed loses seconds and not hours:

    JSON lines, CSV   whole lines, each written out at once; half a line, which a killed process or a full disk leaves,
                      is cut off before the next one
    mp4               H.264 in fragments of two seconds: a killed run leaves a file that plays to its last fragment, and
                      a finished segment is an ordinary mp4, in which every player can seek
    pictures          whole or absent

Names may hold the date, ``%Y%m%d``, and change with it. A writer that cannot write raises OSError, which names the file
and leaves the writer as it was: lines wait until there is room, and a recording goes on with its next segment.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import io
import json
import logging
import math
import os
import queue
import re
import stat
import sys
import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from PIL import Image

from vidact.events import Detection
from vidact.files import make_folder, replacing, try_lock
from vidact.text.names import counted

if TYPE_CHECKING:
    from vidact.stream.engine import StreamUpdate

log = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 90_000)  # seconds; the clock of MPEG
KEY_EVERY_S = 2.0  # seconds from one key picture, which begins a fragment, to the next
MOST_WAITING = 16 * 2**20  # bytes of lines that wait for room on the disk
LONGEST_LINE = 2**20  # bytes of a line of an earlier run
WAITING_FRAMES = 8  # frames between the stream and the encoder; when there are more, the stream waits


class _Writer:
    """The base of the writers, which are closed at the end of a ``with`` block."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dated(path: Path | str, when: datetime | None = None) -> Path:
    """Return the path with ``%Y %m %d %H %M %S %j`` in it replaced by a time, by default now, in local time."""
    when = when or datetime.now()
    return Path(re.sub("%[YmdHMSj]", lambda match: when.strftime(match[0]), str(path)))


def has_date(path: Path | str) -> bool:
    """Whether ``dated`` changes the path."""
    return re.search("%[YmdHMSj]", str(path)) is not None


class _LineWriter(_Writer):
    """A writer of a text file of whole lines, whose folder is made; ``-`` is standard output.

    Args:
        path: the file; a name with a date is another file on another day.
        head: the first line of a file.
        appends: whether to append to a file of an earlier run; otherwise it is replaced, unless its name has a date.

    Raises OSError for a file that cannot be opened, FileExistsError for one with other contents that would be appended
    to. A disk that is full now may have room later, so that is no error yet: see ``write_line``.
    """

    def __init__(self, path: Path | str, head: str = "", appends: bool = False) -> None:
        self.path, self.head = path, head
        self.is_stdout = str(path) == "-"
        self._appends = appends or has_date(path)
        self._file: io.FileIO | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = self._lost = 0
        if self.is_stdout:
            return
        try:
            self._flush()
        except OSError as error:
            if not _may_pass(error):
                raise

    def write_line(self, line: str) -> None:
        """Write a line, and before it the lines that wait.

        Raises OSError when the disk is full; the line then waits, as one of at most 16 MB of lines, and is written with
        a later one or at the end. Raises BrokenPipeError when the reader of the lines has gone.
        """
        if self.is_stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        self._waiting.append(line.encode())
        self._waiting_bytes += len(self._waiting[-1])
        while self._waiting_bytes > MOST_WAITING:
            self._waiting_bytes -= len(self._waiting.popleft())
            self._lost += 1
        self._flush()

    def close(self) -> None:
        """Write the lines that wait; raises OSError, with the number of lost lines, where that fails."""
        if self.is_stdout:
            return
        try:
            self._flush()
        except OSError as error:
            lost = self._lost + len(self._waiting)
            reason = f"{error.strerror or error}; {counted(lost, 'line')} could not be written"
            raise type(error)(error.errno, reason) from error
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None
        if self._lost:
            raise OSError(f"{self.path}: {self._lost} lines could not be written, more than can wait")

    def check(self, first_line: str) -> str:
        """Return what is wrong with the first line of a file that is to be appended to; "" if nothing is."""
        raise NotImplementedError

    def is_whole(self, line: str) -> bool:
        """Whether a last line without its line break can only be a whole one."""
        raise NotImplementedError

    def _flush(self) -> None:
        name = dated(self.path)
        try:
            if self._file is None or self._file.name != str(name) or _has_moved(self._file):
                self._open(name)
            self._write_head()
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting_bytes -= len(self._waiting.popleft())
        except OSError as error:
            if error.errno is None or isinstance(error, BrokenPipeError):  # its message is complete
                raise
            if self._file is None and not _may_pass(error):
                raise type(error)(f"{name} cannot be written ({error.strerror}); choose another name") from error
            raise type(error)(error.errno, f"{name} cannot be written any further ({error.strerror})") from error

    def _open(self, name: Path) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        make_folder(name.parent)
        opened = io.FileIO(os.fspath(name), "ab")
        try:
            if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                if not try_lock(opened.fileno()):
                    raise in_use_error(name)
                if self._appends:
                    self._mend(name, opened)
                else:
                    os.truncate(opened.fileno(), 0)
            self._appends = True  # for when the file is opened again
        except BaseException:
            opened.close()
            raise
        self._file = opened

    def _write_head(self) -> None:
        """Write the head of an empty file, which another program may have emptied."""
        assert self._file is not None
        if self.head and not os.fstat(self._file.fileno()).st_size:
            self._write(self.head.encode())

    def _mend(self, name: Path, opened: io.FileIO) -> None:
        """Make an earlier run's file end in a whole line; raises FileExistsError for a file of other contents."""
        with name.open("rb") as file:
            first = file.readline(LONGEST_LINE)
            end = file.seek(0, os.SEEK_END)
            start = max(0, end - LONGEST_LINE)
            file.seek(start)
            tail = file.read().rstrip(b"\0")  # a power cut may leave a block of zeros
        if not tail:
            os.truncate(opened.fileno(), start)
            return
        whole = tail[: tail.rfind(b"\n") + 1]
        half = tail[len(whole) :]
        if not first.endswith(b"\n") and half:
            first = half
        line = first.decode("utf-8", "replace").removeprefix("\ufeff").strip("\r\n\0")
        is_half_head = not whole and bool(line) and self.head.startswith(line) and line != self.head.strip()
        if not is_half_head and line and (wrong := self.check(line)):
            raise FileExistsError(
                f"{name} is there already, and {wrong}. What a live source shows cannot be seen again, so nothing is "
                "overwritten: choose another name, or move it away"
            )
        if half and not is_half_head and self.is_whole(half.decode("utf-8", "replace")):
            os.truncate(opened.fileno(), start + len(tail))
            self._write_to(opened, b"\n")
            return
        os.truncate(opened.fileno(), start + len(whole))
        if half:
            excerpt = half.decode("utf-8", "replace")[:60]
            log.warning("%s ended in half a line, which is cut off: %r", name, excerpt)

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        self._write_to(self._file, line)

    def _write_to(self, file: io.FileIO, line: bytes) -> None:
        """Write the whole line or, where there is no room, nothing of it."""
        end = os.fstat(file.fileno()).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # a pipe cannot be cut
                os.truncate(file.fileno(), end)
            raise


def in_use_error(path: Path | str) -> OSError:
    """Return the error for a file that another process writes to."""
    return OSError(f"{path} is being written by another process; end that one, or choose another name")


def refuse_in_use(path: Path) -> None:
    """Raise OSError where another process writes to the file, which need not exist."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if path.is_file():
            with path.open("rb") as file:
                if not try_lock(file.fileno()):
                    raise in_use_error(path)


def _may_pass(error: OSError) -> bool:
    """Whether the cause of an error may pass, as that of a full disk."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EIO)


def _has_moved(file: io.FileIO) -> bool:
    """Whether another program moved the file away or deleted it, as programs that rotate logs do."""
    try:
        return not os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    except OSError:
        return True


class JsonLines(_LineWriter):
    """A writer of one JSON object for each answer.

    ``{"source", "time", "seconds", "scores": {name: probability}, "opened": […], "events": […], "future": […] or null,
    "latency_ms", "dropped", "last", "repeat", "provisional", "withdrawn"}``: ``time`` is the wall clock in UTC,
    ``scores`` begin with the background, ``opened`` and ``events`` hold ``{"label", "start_s", "end_s", "score"}``,
    ``future`` a mapping like ``scores`` for each token ahead. The last four are those of ``StreamUpdate``: a line with
    "repeat" has the seconds and scores of the answer before it, and one with "withdrawn" takes that answer back.

    A line ``{"source", "time", "state", "why"}`` records the state of a camera or stream: "open" when its first picture
    comes and whenever it is back, "lost" when it is lost or cannot be opened, "failed" when it has ended for good.

    Args:
        path: a file, or ``-`` for standard output.
        classes: names of the K actions.
        appends: whether to append to a file of an earlier run; otherwise it is replaced.
    """

    def __init__(self, path: Path | str, classes: Sequence[str], appends: bool = False) -> None:
        super().__init__(path, appends=appends)
        self.names = ["background", *classes]
        # A terminal or pipe of another encoding gets \\uXXXX, which is JSON too.
        encoding = (sys.stdout.encoding if self.is_stdout else None) or "utf-8"
        self.is_ascii = codecs.lookup(encoding).name != "utf-8"

    def write(self, update: StreamUpdate) -> None:
        """Write the line of an answer."""
        self._write_object(
            {
                "source": update.source,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "seconds": round(update.seconds, 4),
                "scores": self._named(update.scores),
                "opened": [_plain(event) for event in update.opened],
                "events": [_plain(event) for event in update.events],
                "future": None if update.future is None else [self._named(row) for row in update.future],
                "latency_ms": round(update.latency_ms, 1),
                "dropped": update.dropped,
                "last": update.is_last,
                "repeat": update.is_repeat,
                "provisional": update.is_provisional,
                "withdrawn": update.is_withdrawn,
            }
        )

    def write_state(self, source: str, state: str, why: str) -> None:
        """Write a line for the new state of a source."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write_object({"source": source, "time": time, "state": state, "why": why})

    def check(self, first_line: str) -> str:
        return "" if self.is_whole(first_line) else f"it begins with {first_line[:60]!r}, which is no line of answers"

    def is_whole(self, line: str) -> bool:
        try:
            content = json.loads(line)
        except ValueError:
            return False
        return isinstance(content, dict) and "source" in content

    def _write_object(self, content: dict[str, Any]) -> None:
        self.write_line(json.dumps(content, ensure_ascii=self.is_ascii, allow_nan=False) + "\n")

    def _named(self, scores: np.ndarray) -> dict[str, float]:
        return {name: round(float(score), 5) for name, score in zip(self.names, scores, strict=True)}


def _plain(event: Detection) -> dict[str, Any]:
    return {
        "label": event.label,
        "start_s": round(event.start_s, 4),
        "end_s": round(event.end_s, 4),
        "score": round(event.score, 5),
    }


class EventTable(_LineWriter):
    """A writer of the events that ended, ``video,start_s,end_s,label,score``: an events.csv with scores.

    Args:
        path: a file.
        appends: whether to append to a file of an earlier run; otherwise it is replaced.
    """

    COLUMNS = ("video", "start_s", "end_s", "label", "score")

    def __init__(self, path: Path | str, appends: bool = False) -> None:
        super().__init__(path, head=",".join(self.COLUMNS) + "\n", appends=appends)

    def write(self, event: Detection) -> None:
        """Write the row of an event."""
        row = io.StringIO()
        csv.writer(row, lineterminator="\n").writerow(
            [event.video, f"{event.start_s:.4f}", f"{event.end_s:.4f}", event.label, f"{event.score:.4f}"]
        )
        self.write_line(row.getvalue())

    def check(self, first_line: str) -> str:
        columns = next(csv.reader([first_line]))
        if tuple(columns) == self.COLUMNS:
            return ""
        return f"its columns are {','.join(columns)[:80]}, not {','.join(self.COLUMNS)}"

    def is_whole(self, line: str) -> bool:
        # The score has four decimals, so a row that was cut inside it has fewer.
        return re.search(r',-?\d+\.\d{4},-?\d+\.\d{4},(?:[^",]+|"(?:[^"]|"")*"),\d\.\d{4}$', line) is not None


class Snapshots(_Writer):
    """A writer of one JPEG for each event: ``door_0012.25s_opening.jpg``.

    Args:
        folder: the folder of the pictures; its name may hold the date.
        keeps: whether an earlier run's picture stays; the new one then gets a number: ``door_0012.25s_opening_2.jpg``.
    """

    def __init__(self, folder: Path | str, keeps: bool = False) -> None:
        self.folder, self.keeps = Path(folder), keeps
        make_folder(dated(folder))

    def write(self, source: str, event: Detection, image: np.ndarray) -> Path:
        """Write ``image``, uint8 RGB (H, W, 3), to a file named after the source, the event's second and its label."""
        name = f"{file_name(source)}_{event.start_s:07.2f}s_{file_name(event.label)}.jpg"
        path = dated(self.folder) / name
        if self.keeps:
            path = free_name(path)
        picture = io.BytesIO()  # Pillow ignores a disk that becomes full while it writes
        Image.fromarray(image).save(picture, "JPEG", quality=92)
        try:
            with replacing(path) as half:
                half.write_bytes(picture.getvalue())
        except OSError as error:
            raise type(error)(error.errno, f"{path} cannot be written ({error.strerror or error})") from error
        return path

    def close(self) -> None:
        """Do nothing: no file is open between two pictures."""


def free_name(path: Path) -> Path:
    """Return the path, with a number where there is such a file: ``a.mp4``, ``a_2.mp4``, …"""
    number, free = 1, path
    while free.exists() or free.is_symlink():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free


def file_name(text: str) -> str:
    """Return a name without characters that a file system may refuse, at most 60 long; letters of all scripts stay."""
    name = "".join(character if character.isalnum() or character in "-_.()" else "_" for character in text)
    return name.strip("._")[:60] or "_"


class Recorder(_Writer):
    """A writer of pictures with their seconds into one mp4 or several; a frame lasts until the next one.

    The file is made with the first picture, whose size it has (less an odd row or column); pictures of another size,
    such as those of a phone that was turned, are fitted into it. A second in the first file is a second of the source:
    its first picture is shown from 0 on. Later files, each of ``segment_s`` seconds, begin at 0 and are named after the
    time at which they begin: ``door.mp4``, ``door_20260131-180000.mp4``. So neither a file nor the encoder's record of
    it grows for days. The encoder works in a thread of its own; where it falls behind, ``write`` waits.

    A file that cannot be written, such as on a full disk, ends there; the next one is tried when it is due.

    Args:
        path: an .mp4; its name may hold the date: ``door-%Y%m%d-%H%M.mp4``.
        segment_s: the seconds of a file; None records one file.
        keeps: whether an existing file stays and the recording gets another name; otherwise the first file replaces it.
    """

    def __init__(self, path: Path | str, segment_s: float | None = None, keeps: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{self.path.name}: recordings are mp4 files; choose a name that ends so")
        if segment_s is not None and not 0 < segment_s < math.inf:
            raise ValueError(f"segment_s is {segment_s:g}; a file of a recording has seconds above 0")
        first = dated(self.path)
        make_folder(first.parent)
        if not keeps:
            refuse_in_use(first)
        self.segment_s, self.keeps = segment_s, keeps
        self.frames = 0
        self.files = 0  # the number of files that were begun
        self.first = self.newest = self.path  # the paths of the first and of the newest file
        self.has_failed = False  # whether a file ends before its last frame
        self._waiting: queue.Queue[tuple[float, np.ndarray] | None] = queue.Queue(WAITING_FRAMES)
        self._thread: threading.Thread | None = None
        self._item: tuple[float, np.ndarray] | None = None  # the newest that the encoder has taken
        self._error: Exception | None = None

    def write(self, seconds: float, image: np.ndarray) -> None:
        """Queue the next picture, uint8 RGB (H, W, 3), which may not be changed afterwards.

        Raises OSError, once for each file, where the file could not be written, as on a full disk.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._encode, name=f"vidact {self.path.name}", daemon=True)
            self._thread.start()
        self._raise()
        self._waiting.put((seconds, image))
        self.frames += 1

    def close(self) -> None:
        """Write what is waiting and finish the file."""
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join()
        self._thread = None
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            why = getattr(error, "strerror", None) or error
            raise OSError(f"{self.newest} cannot be recorded any further: {why}") from error

    def _encode(self) -> None:
        """Write one file after another until there are no more pictures; this runs in the thread."""
        item = self._take()
        while item is not None:
            first_s = item[0]
            try:
                self._encode_file(*item)
            except Exception as error:  # raised by the next write, or by close
                self._error, self.has_failed = error, True
                with contextlib.suppress(OSError):
                    if self.newest.is_file() and not self.newest.stat().st_size:
                        refuse_in_use(self.newest)
                        self.newest.unlink()  # an empty file is no recording
                while self._item is not None and not self._is_over(first_s, self._item[0]):
                    self._take()  # so that ``write`` does not wait for a full queue
            item = self._item

    def _take(self) -> tuple[float, np.ndarray] | None:
        self._item = self._waiting.get()
        return self._item

    def _is_over(self, first_s: float, seconds: float) -> bool:
        """Whether a picture belongs in the file after the one that began at ``first_s``."""
        return self.segment_s is not None and seconds - first_s >= self.segment_s

    def _next_path(self) -> Path:
        """Return the next file's path. Where nothing may be replaced, the file is made, to reserve it."""
        path = dated(self.path)
        if path == self.path and (self.files or (self.keeps and path.exists())):
            path = dated(path.with_name(f"{path.stem}_%Y%m%d-%H%M%S{path.suffix}"))
        self.newest = path
        make_folder(path.parent)
        while self.files or self.keeps:
            self.newest = free_name(path)
            with contextlib.suppress(FileExistsError):  # another process made it just now
                self.newest.open("xb").close()
                break
        self.files += 1
        if self.files == 1:
            self.first = self.newest
        return self.newest

    def _encode_file(self, seconds: float, image: np.ndarray) -> None:
        """Write a file from this picture on, until the queue ends or gives a picture that belongs in the next file."""
        first_s = seconds
        begin_s = seconds if self.files else 0.0
        path = self._next_path()
        height, width = (max(2, side // 2 * 2) for side in image.shape[:2])  # H.264 in 4:2:0 takes even sides
        options = {"movflags": "hybrid_fragmented", "flush_packets": "1"}
        with contextlib.ExitStack() as stack:
            held = stack.enter_context(path.open("ab"))
            if not try_lock(held.fileno()):
                raise in_use_error(path)
            container = stack.enter_context(av.open(str(path), "w", format="mp4", options=options))
            stream = container.add_stream("libx264", rate=30)  # a guess for the rate control; frames carry their times
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # Without B-frames the first frame is shown at its own second.
            stream.options = {"preset": "veryfast", "crf": "23", "bf": "0", "forced-idr": "1"}
            stream.codec_context.time_base = TIME_BASE
            last, key = -1, -1
            item: tuple[float, np.ndarray] | None = (seconds, image)
            while item is not None and not self._is_over(first_s, item[0]):
                seconds, image = item
                frame = av.VideoFrame.from_ndarray(fit(image, width, height), format="rgb24")
                frame.pts = last = 0 if key < 0 else max(round((seconds - begin_s) / TIME_BASE), last + 1)
                frame.time_base = TIME_BASE
                if key < 0 or (last - key) * TIME_BASE >= KEY_EVERY_S:
                    frame.pict_type, key = PictureType.I, last
                container.mux(stream.encode(frame))
                item = self._take()
            container.mux(stream.encode(None))


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return ``image`` (H, W, 3) less an odd row or column; one of another size is scaled, with black around it."""
    if (image.shape[0] // 2 * 2, image.shape[1] // 2 * 2) == (height, width):
        return np.ascontiguousarray(image[:height, :width])
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
    out = np.zeros((height, width, 3), dtype=np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    out[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return out
