"""``vidact stream`` as a service: four sources through an hour of mishaps, of which the idle time is left out.

The sources are servers of this test, and the service is a process that is killed and started again.
"""

import contextlib
import csv
import io
import itertools
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.streaming import Playlist, playlist, transport_streams

pytest.importorskip("resource")

COLOURS = {"grey": (110, 110, 110), "red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
FPS = 20
ROOM = 250_000  # bytes of a file: less than a recording of noise needs


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: it did not happen"
        time.sleep(0.02)


class Camera:
    """An HTTP camera that shows a colour, with noise where ``is_noisy``; it can be switched off and on."""

    def __init__(self, is_noisy: bool = False) -> None:
        self.colour, self.is_noisy = "grey", is_noisy
        self.port, self.connections = 0, set[socket.socket]()
        self.listener: socket.socket | None = None
        self.rng = np.random.default_rng(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/live"

    def switch_on(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._listen, args=(self.listener,), daemon=True).start()

    def switch_off(self) -> None:
        if self.listener is not None:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def picture(self) -> np.ndarray:
        noise = 25 * self.is_noisy
        image = np.full((120, 160, 3), COLOURS[self.colour], np.int16)
        return np.clip(image + self.rng.integers(-noise, noise + 1, image.shape), 0, 255).astype(np.uint8)

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self.connections.add(connection)
        with connection, contextlib.suppress(OSError, ValueError):
            connection.recv(4096)
            self.send(connection)
        self.connections.discard(connection)

    def send(self, connection: socket.socket) -> None:
        """Motion JPEG, which has no stamps."""
        head = "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        connection.sendall(head.encode())
        while True:
            file = io.BytesIO()
            Image.fromarray(self.picture()).save(file, "JPEG", quality=90)
            jpeg = file.getvalue()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            connection.sendall(head.encode() + jpeg + b"\r\n")
            time.sleep(1 / FPS)


class Sender(Camera):
    """A live MPEG-TS, whose stamps begin at 0 with every connection."""

    def send(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        out = io.BytesIO()
        container = av.open(out, "w", format="mpegts", options={"flush_packets": "1"})
        options = {"g": "5", "bf": "0", "preset": "ultrafast", "tune": "zerolatency"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in itertools.count():
            frame = av.VideoFrame.from_ndarray(self.picture(), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
            connection.sendall(out.getvalue())
            out.seek(0)
            out.truncate()
            time.sleep(1 / FPS)


class Packager:
    """Fills a playlist with what its camera shows, ten pictures a segment, until it is frozen."""

    def __init__(self, hls: Playlist) -> None:
        self.hls, self.colour, self.is_frozen = hls, "grey", False
        self.segments: list[bytes] = []
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return self.hls.url

    def _run(self) -> None:
        begin, kept = time.monotonic(), 5
        for count in itertools.count():
            while self.is_frozen and not self.is_over.is_set():
                time.sleep(0.02)
                begin = time.monotonic() - 0.4 * count
            picture = np.full((48, 64, 3), COLOURS[self.colour], np.uint8)
            self.segments += transport_streams([picture] * 10, begin_s=100 + 0.4 * count)
            first = max(0, len(self.segments) - kept)
            self.hls.show(self.segments[first:], first=first)
            if self.is_over.wait(max(0.0, begin + 0.4 * (count + 1) - time.monotonic())):
                return


class Service:
    """The process, and the JSON lines of all its lives."""

    def __init__(self, folder: Path, urls: list[str]) -> None:
        self.folder, self.urls = folder, urls
        self.lines: list[dict] = []
        self.told = ""
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def start(self) -> None:
        options = ["--events", self.folder / "events.csv", "--record", self.folder / "r.mp4", "--record-segment", "3s"]
        options += ["--snapshots", self.folder / "shots", "--jsonl", "-", "--no-window", "--checkpoint", "x"]
        sources = [word for url in self.urls for word in ("--source", url)]
        command = [sys.executable, "-m", "support.service", ROOM, *options, *sources]
        with (self.folder / "stderr.txt").open("ab") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=Path(__file__).parents[1],
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self.reader.start()

    def _read(self, pipe: io.BufferedReader) -> None:
        for line in pipe:
            self.lines.append(json.loads(line))

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.reader.join(10)
        return status

    def counts(self, what: str) -> dict[str, int]:
        """How many events have been opened, or have ended, by source."""
        found: dict[str, int] = defaultdict(int)
        for line in list(self.lines):
            found[line["source"]] += len(line.get(what, []))
        return found

    def states(self, url: str) -> list[str]:
        return [line["state"] for line in list(self.lines) if line["source"] == url and "state" in line]

    def answers(self, url: str) -> int:
        return sum(line["source"] == url and "scores" in line for line in list(self.lines))


@pytest.mark.slow
def test_four_sources_through_an_hour(tmp_path: Path) -> None:
    """Each colour that was shown while the service ran is told once, however its source and the service fared."""
    shown: dict[str, list[str]] = defaultdict(list)
    colours = itertools.cycle(["red", "green", "blue"])
    with playlist() as hls:
        door, yard, late, packager = Camera(is_noisy=True), Camera(), Sender(), Packager(hls)
        for camera in (door, yard, late):
            camera.switch_on()
        late.switch_off()  # it has an address, and nobody answers there
        packager.thread.start()
        until(lambda: len(packager.segments) >= 3, "the playlist")
        everybody = [door, yard, late, packager]
        service = Service(tmp_path, [source.url for source in everybody])

        def watched(sources: list) -> None:
            before = [service.answers(source.url) for source in sources]
            until(
                lambda: all(service.answers(s.url) > n + 3 for s, n in zip(sources, before, strict=True)),
                "answers",
                120,
            )

        def begin(sources: list) -> None:
            """Show a colour until it has been seen."""
            colour = next(colours)
            opened = service.counts("opened")
            for source in sources:
                source.colour = colour
                shown[source.url].append(colour)
            until(
                lambda: all(service.counts("opened")[s.url] == opened[s.url] + 1 for s in sources), f"{colour} is seen"
            )

        def ended(sources: list) -> None:
            until(
                lambda: all(service.counts("events")[s.url] == service.counts("opened")[s.url] for s in sources),
                "an end",
            )

        def finish(sources: list) -> None:
            for source in sources:
                source.colour = "grey"
            ended(sources)

        try:
            # The sender is away at first; the others are watched, and its state is told.
            service.start()
            watched([door, yard, packager])
            begin([door, yard, packager])
            finish([door, yard, packager])
            assert service.states(late.url) == ["lost"]
            late.switch_on()
            watched([late])
            assert service.states(late.url) == ["lost", "open"]
            # Two cameras die during their events, which are told while they are away.
            begin(everybody)
            yard.switch_off()
            late.switch_off()
            ended([yard, late])
            finish([door, packager])
            yard.colour = late.colour = "grey"
            yard.switch_on()
            late.switch_on()
            watched([yard, late])
            # The playlist freezes during an event; what it gives again with every connection is told to nobody.
            begin(everybody)
            packager.is_frozen = True
            finish([door, yard, late])
            ended([packager])
            fetched = len(hls.fetched)
            until(lambda: len(hls.fetched) > fetched + 8, "the playlist is opened again and again")
            assert service.states(packager.url)[-1] == "lost"
            packager.colour, packager.is_frozen = "grey", False
            watched([packager])
            # It is told to end in the middle of events, and started again by the same command.
            begin(everybody)
            assert service.end(signal.SIGTERM) == 1  # a recording found no room
            for source in everybody:
                source.colour = "grey"
            service.start()
            watched(everybody)
            begin(everybody)
            finish(everybody)
            # It is killed, and leaves half a row.
            service.end(signal.SIGKILL)
            with (tmp_path / "events.csv").open("ab") as file:
                file.write(f"{door.url},12.0000,13".encode())
            service.start()
            watched(everybody)
            begin(everybody)
            finish(everybody)
            assert service.end(signal.SIGTERM) == 1
        finally:
            service.process.kill()
            packager.is_over.set()
            packager.thread.join()
            for camera in (door, yard, late):
                camera.switch_off()
    with (tmp_path / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["end_s"]) > float(row["start_s"]) for row in rows)
    told = {url: [row["label"] for row in rows if row["video"] == url] for url in shown}
    assert told == shown
    lines = {
        url: [e["label"] for line in service.lines if line["source"] == url for e in line.get("events", [])]
        for url in shown
    }
    assert lines == shown
    assert len(list((tmp_path / "shots").glob("*.jpg"))) == len(rows)
    # The noise of one camera filled its recordings; those of the others are whole.
    said = (tmp_path / "stderr.txt").read_text()
    assert said.count("r-1") == said.count("cannot be recorded any further: File too large") == 3  # once in each life
    assert "ended in half a line, which is cut off" in said
    assert "Traceback" not in said
    recordings = list(tmp_path.glob("r-2*.mp4"))
    assert len(recordings) > 5
    for path in recordings:
        with contextlib.suppress(av.error.InvalidDataError), av.open(str(path)) as container:  # one was killed
            assert sum(1 for _ in container.decode(video=0)) > 0
