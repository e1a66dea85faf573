"""What a stream leaves behind: JSON lines of answers, a table of events, an annotated recording, a picture an event.

Everything is written as it happens, so that a run that is killed loses seconds and not hours:

    JSON lines, CSV   whole lines, each written out at once
    mp4               H.264 in fragments of two seconds: a killed run leaves a file that plays to its last fragment, and
                      a run that ends makes an ordinary mp4 of it, which every player can seek in
    pictures          whole or absent
"""

from __future__ import annotations

import codecs
import csv
import json
import queue
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from PIL import Image

from vidact.events import Detection
from vidact.files import make_folder, replacing

if TYPE_CHECKING:
    from vidact.stream.engine import StreamUpdate

TIME_BASE = Fraction(1, 90_000)  # seconds; the clock of MPEG
KEY_EVERY_S = 2.0  # between pictures that need no other, where a fragment begins
WAITING_FRAMES = 8  # between the stream and the encoder; then the stream waits


class _Writer:
    """Closed at the end of a ``with`` block."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _LineWriter(_Writer):
    """A text file of whole lines, made anew with its folder; ``-`` is standard output."""

    def __init__(self, path: Path | str) -> None:
        self.is_stdout = str(path) == "-"
        self.file: TextIO
        if self.is_stdout:
            self.file = sys.stdout
        else:
            make_folder(Path(path).parent)
            try:
                self.file = Path(path).open("w", encoding="utf-8", newline="")  # noqa: SIM115  (closed with the writer)
            except OSError as error:
                raise type(error)(f"{path} cannot be written ({error.strerror}); choose another name") from error

    def close(self) -> None:
        if not self.is_stdout:
            self.file.close()


class JsonLines(_LineWriter):
    """One JSON object an answer.

    ``{"source", "time", "seconds", "scores": {name: probability}, "opened": […], "events": […], "future": […] or null,
    "latency_ms", "dropped", "last"}``: ``time`` is the wall clock in UTC, ``scores`` begin with the background,
    ``opened`` and ``events`` hold ``{"label", "start_s", "end_s", "score"}``, ``future`` a mapping like ``scores`` for
    each token ahead.

    Args:
        path: a file, which is made anew, or ``-`` for standard output.
        classes: names of the K actions.
    """

    def __init__(self, path: Path | str, classes: Sequence[str]) -> None:
        super().__init__(path)
        self.names = ["background", *classes]
        # A terminal or pipe of another encoding gets \\uXXXX, which is JSON too.
        self.is_ascii = codecs.lookup(self.file.encoding or "utf-8").name != "utf-8"

    def write(self, update: StreamUpdate) -> None:
        line = {
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
        }
        self.file.write(json.dumps(line, ensure_ascii=self.is_ascii, allow_nan=False) + "\n")
        self.file.flush()

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
    """The events that ended, ``video,start_s,end_s,label,score``: an events.csv with scores."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerow(["video", "start_s", "end_s", "label", "score"])
        self.file.flush()

    def write(self, event: Detection) -> None:
        self.table.writerow(
            [event.video, f"{event.start_s:.4f}", f"{event.end_s:.4f}", event.label, f"{event.score:.4f}"]
        )
        self.file.flush()


class Snapshots(_Writer):
    """One JPEG an event: ``door_0012.25s_opening.jpg``."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        make_folder(self.folder)

    def write(self, source: str, event: Detection, image: np.ndarray) -> Path:
        """Keep ``image``, uint8 RGB (H, W, 3), under the name of the source, the event's second and its label."""
        path = self.folder / f"{file_name(source)}_{event.start_s:07.2f}s_{file_name(event.label)}.jpg"
        with replacing(path) as half:
            Image.fromarray(image).save(half, quality=92)
        return path

    def close(self) -> None:
        """Nothing is open between two pictures."""


def file_name(text: str) -> str:
    """A name without what a file system may refuse, at most 60 characters; letters of all scripts stay."""
    kept = "".join(character if character.isalnum() or character in "-_.()" else "_" for character in text)
    return kept.strip("._")[:60] or "_"


class Recorder(_Writer):
    """An mp4 of pictures with their seconds; a frame lasts until the next, however long that takes.

    The file is made with the first picture, whose size it has (less an odd row or column); pictures of another size,
    such as those of a phone that was turned, are fitted into it. A second in the recording is a second of the source:
    the first picture is shown from 0 on. The encoder works in a thread of its own; where it falls behind, ``write``
    waits.

    Args:
        path: an .mp4; one that is there is replaced.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{self.path.name}: recordings are mp4 files; choose a name that ends so")
        make_folder(self.path.parent)
        self.frames = 0
        self.has_failed = False  # the file ends before the last frame
        self._waiting: queue.Queue[tuple[float, np.ndarray] | None] = queue.Queue(WAITING_FRAMES)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._is_ended = False  # the encoder has seen the last picture

    def write(self, seconds: float, image: np.ndarray) -> None:
        """The next picture, uint8 RGB (H, W, 3), which may not be written to again.

        Raises what the encoder raised, such as OSError when the disk is full.
        """
        if self._thread is None:
            self._is_ended = False
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
            raise OSError(f"{self.path} cannot be recorded any further: {error}") from error

    def _encode(self) -> None:
        try:
            if (first := self._next()) is not None:
                self._encode_from(*first)
        except Exception as error:  # told by the next write, or by close
            self._error, self.has_failed = error, True
            while not self._is_ended:  # so that nobody waits for a full queue
                self._next()

    def _next(self) -> tuple[float, np.ndarray] | None:
        item = self._waiting.get()
        self._is_ended = item is None
        return item

    def _encode_from(self, seconds: float, image: np.ndarray) -> None:
        height, width = (max(2, side // 2 * 2) for side in image.shape[:2])  # H.264 in 4:2:0 takes even sides
        options = {"movflags": "hybrid_fragmented", "flush_packets": "1"}
        with av.open(str(self.path), "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=30)  # a guess for the rate control; frames carry their times
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # Without frames that look ahead the first one is shown at its own second.
            stream.options = {"preset": "veryfast", "crf": "23", "bf": "0", "forced-idr": "1"}
            stream.codec_context.time_base = TIME_BASE
            last, key = -1, -1
            item: tuple[float, np.ndarray] | None = (seconds, image)
            while item is not None:
                seconds, image = item
                frame = av.VideoFrame.from_ndarray(fit(image, width, height), format="rgb24")
                frame.pts = last = 0 if key < 0 else max(round(seconds / TIME_BASE), last + 1)
                frame.time_base = TIME_BASE
                if key < 0 or (last - key) * TIME_BASE >= KEY_EVERY_S:
                    frame.pict_type, key = PictureType.I, last
                container.mux(stream.encode(frame))
                item = self._next()
            container.mux(stream.encode(None))


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """``image`` (H, W, 3) as it is, less an odd row or column; one of another size is scaled, with black around it."""
    if (image.shape[0] // 2 * 2, image.shape[1] // 2 * 2) == (height, width):
        return np.ascontiguousarray(image[:height, :width])
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
    out = np.zeros((height, width, 3), dtype=np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    out[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return out
