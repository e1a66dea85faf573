"""A window on the screen, in a process of its own.

OpenCV shows pictures through Qt, and Qt ends its process when there is no display; and where PyAV was imported before,
both bring an X11 library and the first window never opens (https://github.com/PyAV-Org/PyAV/issues/978). So this file
is also a program that imports neither vidact nor PyAV: it reads pictures from its standard input and prints ``ready``,
``shown`` after each of them, and ``closed`` when the user closes a window or presses q.
"""

from __future__ import annotations

import contextlib
import os
import queue
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO

import cv2
import numpy as np

HEADER = struct.Struct("<HII")  # the title's bytes, width, height; the title in UTF-8 and the RGB picture follow
MOST_SIDE = 1600  # pixels; a larger picture is shrunk before it is sent, since the window would shrink it
OPENS_WITHIN_S = 30.0
INSTEAD = (
    "Run with --no_window; --record out.mp4, --events events.csv, --jsonl answers.jsonl and --snapshots FOLDER keep "
    "what a window would show"
)


class Window:
    """The windows with the newest picture of each source. Showing never waits: a slow screen skips pictures.

    Args:
        on_close: called, from another thread, when the user closes a window or presses q.

    Raises OSError where no window can be opened.
    """

    def __init__(self, on_close: Callable[[], None] | None = None) -> None:
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise OSError(f"there is no display here (DISPLAY is not set), so no window can be opened. {INSTEAD}")
        self.is_closed = False
        self._on_close = on_close
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the window)
        # In a session of its own, the window's process does not get the terminal's Ctrl-C, which the stream handles.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self._is_ready = threading.Event()
        self._is_free = threading.Event()  # set while the last picture is on the screen
        self._listener = threading.Thread(target=self._read_states, name="vidact window", daemon=True)
        self._listener.start()
        if not self._is_ready.wait(OPENS_WITHIN_S) or self.is_closed:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            self.close()
            why = next((line for line in lines if "rror" in line or "could not connect" in line), "") or (
                lines[-1] if lines else f"nothing happened for {OPENS_WITHIN_S:g} s"
            )
            if "not implemented" in why:
                why = "this OpenCV has no windows (opencv-python-headless); install opencv-python instead"
            raise OSError(f"no window can be opened: {why}. {INSTEAD}")

    def show(self, title: str, image: np.ndarray) -> None:
        """Put the picture, uint8 RGB (H, W, 3), into the window of this title, unless the last is not shown yet."""
        if self.is_closed or not self._is_free.is_set():
            return
        self._is_free.clear()
        if (scale := MOST_SIDE / max(image.shape[:2])) < 1:
            size = (round(scale * image.shape[1]), round(scale * image.shape[0]))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        name = title.encode()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(HEADER.pack(len(name), image.shape[1], image.shape[0]) + name)
            self._process.stdin.write(np.ascontiguousarray(image).data)
            self._process.stdin.flush()
        except OSError:  # the process has ended
            self.is_closed = True

    def _read_states(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == b"closed":
                break
            self._is_free.set()
            self._is_ready.set()
        self.is_closed = True
        if self._is_ready.is_set() and self._on_close:
            self._on_close()
        self._is_ready.set()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ---- the program


def _read(pipe: BinaryIO, pictures: queue.SimpleQueue[tuple[str, np.ndarray] | None]) -> None:
    while len(head := pipe.read(HEADER.size)) == HEADER.size:
        length, width, height = HEADER.unpack(head)
        title = pipe.read(length).decode()
        body = pipe.read(width * height * 3)
        if len(body) < width * height * 3:
            break
        pictures.put((title, np.frombuffer(body, np.uint8).reshape(height, width, 3)))
    pictures.put(None)


def _show() -> None:
    """Show the pictures until their input ends, or the user closes a window or presses q or Escape."""
    cv2.namedWindow("vidact", cv2.WINDOW_NORMAL)  # ends the process where there is no display
    cv2.destroyAllWindows()
    pictures: queue.SimpleQueue[tuple[str, np.ndarray] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, pictures), daemon=True).start()
    titles: set[str] = set()
    print("ready", flush=True)
    while True:
        try:
            item = pictures.get(timeout=0.03)
        except queue.Empty:
            pass
        else:
            if item is None:
                return
            title, image = item
            if title not in titles:
                titles.add(title)
                cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
                cv2.resizeWindow(title, image.shape[1], image.shape[0])
            cv2.imshow(title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            print("shown", flush=True)
        if titles and (
            cv2.waitKey(1) & 0xFF in (ord("q"), 27)
            or any(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1 for title in titles)
        ):
            print("closed", flush=True)
            return


if __name__ == "__main__":
    _show()
    # The process ends without waiting for the reading thread, whose read may never end.
    sys.stdout.flush()
    os._exit(0)
