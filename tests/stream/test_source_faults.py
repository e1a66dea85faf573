"""Live sources when things go wrong: a camera gone and back, a stream cut, a silent server, corrupt pictures.

No camera is needed: a made one is put in its place. Servers are this test's own, on the loopback.
"""

import contextlib
import io
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vidact.stream import live
from vidact.stream.grabs import Grab, Source, SourceError
from vidact.stream.live import find_cameras
from vidact.stream.sources import open_source
from vidact.video.numbered import numbered_picture, read_number, write_numbered_video


def number(grab: Grab) -> int:
    return read_number(grab.image.transpose(2, 0, 1))


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@contextlib.contextmanager
def when(condition: Callable[[], object], action: Callable[[], None]) -> Iterator[None]:
    """Do something once another thread has come so far, while the block goes on looking."""

    def wait() -> None:
        until(condition)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


def watch(source: Source, enough: Callable[[Grab], object]) -> list[Grab]:
    """Take pictures until one is enough; their time goes forwards."""
    grabs: list[Grab] = []
    for grab in source:
        assert not grabs or (grab.seconds >= grabs[-1].seconds and grab.captured >= grabs[-1].captured)
        grabs.append(grab)
        if enough(grab):
            return grabs
    raise AssertionError(f"the source ended after {len(grabs)} pictures")


def descriptors() -> int:
    files = Path("/proc/self/fd")
    return len(os.listdir(files)) if files.exists() else 0


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """No thread and no descriptor outlives a test."""
    threads, files = threading.active_count(), descriptors()
    yield
    until(lambda: threading.active_count() <= threads and descriptors() <= files)


# -------------------------------------------------------------------------------------------------------------- cameras


class Desk:
    """Cameras that can be unplugged, that hang, and that give corrupt pictures."""

    def __init__(self, *plugged: int) -> None:
        self.plugged = set(plugged)
        self.goes_on = threading.Event()  # cleared: pictures stop coming
        self.goes_on.set()
        self.corrupt: set[int] = set()
        self.picture = 0
        self.attempts: list[float] = []
        self.open = 0

    def __call__(self, index: int) -> "Desk.Camera":
        self.attempts.append(time.monotonic())
        return Desk.Camera(self, index)

    class Camera:
        def __init__(self, desk: "Desk", index: int) -> None:
            self.desk, self.index, self.is_open = desk, index, index in desk.plugged
            desk.open += self.is_open

        def isOpened(self) -> bool:
            return self.is_open

        def grab(self) -> bool:
            assert self.is_open, "a camera was read that is closed"
            time.sleep(0.004)
            self.desk.goes_on.wait()
            self.desk.picture += 1
            return self.index in self.desk.plugged

        def retrieve(self) -> tuple[bool, np.ndarray | None]:
            if self.desk.picture in self.desk.corrupt:
                return False, None
            return True, numbered_picture(self.desk.picture)[:, :, ::-1].copy()

        def get(self, prop: int, /) -> float:
            return 250.0

        def release(self) -> None:
            self.desk.open -= self.is_open
            self.is_open = False


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(0)
    yield desk
    desk.goes_on.set()
    until(lambda: desk.open == 0)


def test_a_camera_gives_its_newest_picture(desk: Desk) -> None:
    began = time.monotonic()
    with open_source("0", capture=desk) as source:
        assert (source.name, source.is_live, source.fps) == ("camera 0", True, 250.0)
        first, *rest = watch(source, lambda grab: number(grab) >= 5)
        assert 0 <= first.seconds <= first.captured - began
        until(lambda: desk.picture > number([first, *rest][-1]) + 6)  # whoever is slow misses pictures
        now = desk.picture
        grab = next(source)
        assert np.array_equal(grab.image, numbered_picture(number(grab)))  # RGB
        assert number(grab) >= now - 1  # and sees the present: the picture before is being put down
        assert grab.dropped == number(grab) - number([first, *rest][-1]) - 1 > 3
        assert grab.seconds - first.seconds == pytest.approx(grab.captured - first.captured)
    assert list(source) == []
    until(lambda: desk.open == 0)
    taken = 1 + len(rest) + 1
    assert 0 <= desk.picture - taken - source.dropped <= 2  # one that was not taken yet, and one that came too late


def test_a_camera_gone_and_back(desk: Desk) -> None:
    events: list[str] = []
    with open_source(0, capture=desk, retry_s=0.02, on_event=events.append) as source:
        before = watch(source, lambda grab: number(grab) >= 3)[-1]
        desk.plugged.clear()
        until(lambda: len(events) >= 3)
        desk.plugged.add(0)
        after = watch(source, lambda grab: events[-1].startswith("camera 0 is back"))[-1]
    assert events[0] == "camera 0 is lost: it gives no more pictures; trying again in 0.02 s"
    assert events[1] == "camera 0 cannot be opened; trying again in 0.04 s"
    assert events[2] == "camera 0 cannot be opened; trying again in 0.08 s"
    assert re.fullmatch(r"camera 0 is back after \d+\.\d s", events[-1])
    assert after.seconds - before.seconds == pytest.approx(after.captured - before.captured)
    assert after.seconds - before.seconds > 0.02 + 0.04 + 0.08
    pauses = np.diff(desk.attempts[:4])
    assert pauses[0] >= 0.02
    assert pauses[1] >= 0.04
    assert pauses[2] >= 0.08


def test_pauses_begin_anew_after_a_picture(desk: Desk) -> None:
    events: list[str] = []
    with open_source(0, capture=desk, retry_s=0.01, on_event=events.append) as source:
        for count in (1, 2):
            desk.plugged.clear()
            until(lambda count=count: sum("trying again in 0.04 s" in text for text in events) == count)
            desk.plugged.add(0)
            watch(source, lambda grab: "is back" in events[-1])
    assert [text[-6:] for text in events if "is lost" in text] == ["0.01 s", "0.01 s"]


def test_a_camera_that_hangs_is_lost(desk: Desk) -> None:
    """Its reader cannot be stopped; it is left behind, and when it returns it lets go of the camera."""
    events: list[str] = []
    with open_source(0, capture=desk, timeout_s=0.1, retry_s=0.02, on_event=events.append) as source:
        watch(source, lambda grab: number(grab) >= 3)
        desk.goes_on.clear()
        with when(lambda: events, desk.goes_on.set):
            watch(source, lambda grab: events and "is back" in events[-1])
        until(lambda: desk.open == 1)
        watch(source, lambda grab: True)
    assert events[0] == "camera 0 is lost: it has given no picture for 0.1 s; trying again in 0.02 s"


def test_corrupt_pictures_are_passed_over_and_counted(desk: Desk) -> None:
    desk.corrupt = {3, 4, 6}
    with open_source(0, capture=desk) as source:
        grabs = watch(source, lambda grab: number(grab) >= 8)
    assert not {3, 4, 6} & {number(grab) for grab in grabs}
    assert source.skipped == 3


def test_a_camera_of_nothing_but_corrupt_pictures_is_lost(desk: Desk) -> None:
    events: list[str] = []
    desk.corrupt = set(range(10_000))
    with (
        open_source(0, capture=desk, timeout_s=0.05, retry_s=0.01, on_event=events.append) as source,
        when(lambda: events, desk.corrupt.clear),
    ):
        watch(source, lambda grab: True)
    assert "it has given no picture for 0.05 s" in events[0]


def test_no_such_camera_says_which_there_are() -> None:
    desk = Desk(0, 2)
    assert find_cameras(desk) == [0, 2]
    with pytest.raises(SourceError, match="camera 5 cannot be opened; those that can: 0, 2"):
        open_source("5", capture=desk)
    with pytest.raises(SourceError, match=r"camera 97 cannot be opened; there is none\. Plug one in, or use a file"):
        open_source("/dev/video97", capture=Desk())
    assert desk.open == 0


def test_a_camera_that_is_absent_at_first_is_waited_for() -> None:
    """At once, with pauses that double; what became of it is told to programs too."""
    desk, events, states = Desk(), [], []
    with open_source(
        0, capture=desk, retry_s=0.02, waits=True, on_event=events.append, on_state=lambda *told: states.append(told)
    ) as source:
        assert (source.name, source.is_live, source.fps) == ("camera 0", True, None)
        until(lambda: len(events) >= 3)
        desk.plugged.add(0)
        first = watch(source, lambda grab: True)[0]
        assert source.fps == 250
        desk.plugged.clear()
        until(lambda: "is lost" in events[-1])
        desk.plugged.add(0)
        watch(source, lambda grab: "is back" in events[-1])
    assert events[0] == "camera 0 cannot be opened; trying again in 0.02 s"
    assert events[1] == "camera 0 cannot be opened; trying again in 0.04 s"
    assert re.fullmatch(r"camera 0 is open after \d+\.\d s", next(text for text in events if "trying" not in text))
    assert first.seconds > 0.06
    assert [state for state, _ in states] == ["lost", "open", "lost", "open"]
    assert [why for _, why in states] == [
        "camera 0 cannot be opened",
        "",
        "camera 0 is lost: it gives no more pictures",
        "",
    ]


def test_states_of_a_camera_that_opens(desk: Desk) -> None:
    states: list[tuple[str, str]] = []
    with open_source(0, capture=desk, on_state=lambda *told: states.append(told)) as source:
        watch(source, lambda grab: number(grab) >= 3)
    assert states == [("open", "")]


@pytest.mark.parametrize("uri", ["nowhere.mp4", "ftp://host/a", ""])
def test_what_can_never_be_a_source_is_not_waited_for(uri: str) -> None:
    with pytest.raises((FileNotFoundError, SourceError)):
        open_source(uri, waits=True)


def test_a_camera_that_opens_at_once_is_no_line(desk: Desk) -> None:
    events: list[str] = []
    with open_source(0, capture=desk, waits=True, on_event=events.append) as source:
        watch(source, lambda grab: number(grab) >= 3)
    assert events == []


def test_closing_while_a_source_is_waited_for() -> None:
    source = open_source(0, capture=Desk(), retry_s=60, waits=True, on_event=lambda text: None)
    timer = threading.Timer(0.05, source.close)
    timer.start()
    assert list(source) == []
    timer.join()


def test_a_camera_that_is_away_for_days_is_no_line_every_30_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LONGEST_RETRY_S", 0.004)
    desk, events = Desk(), []
    with open_source(0, capture=desk, retry_s=0.001, waits=True, on_event=events.append):
        until(lambda: len(desk.attempts) > 30)
        assert [text.rpartition("in ")[2] for text in events] == ["0.001 s", "0.002 s", "0.004 s"]
        monkeypatch.setattr(live, "REPEAT_S", 0.02)
        until(lambda: len(events) > 5)
    assert "trying again in 0.004 s (reported once an hour)" in events[-1]


@pytest.mark.parametrize("moment", ["waiting", "hanging", "pausing"])
def test_closing_ends_the_iteration_at_once(moment: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CLOSE_S", 60.0)
    source = open_source(0, capture=desk, retry_s=60, on_event=lambda text: None)
    next(source)
    if moment == "hanging":
        desk.goes_on.clear()
    elif moment == "pausing":
        desk.plugged.clear()
    timer = threading.Timer(0.05, source.close)
    timer.start()
    for _ in source:
        pass
    assert desk.goes_on.is_set() == (moment != "hanging")  # it did not wait for the camera
    assert len(desk.attempts) == 1  # nor for the next attempt
    desk.goes_on.set()
    timer.join()
    assert desk.open == 0  # close() waited for the reader
    source.close()


def test_a_fault_of_the_listener_reaches_whoever_iterates(desk: Desk) -> None:
    def listener(text: str) -> None:
        raise RuntimeError("the disk is full")

    with open_source(0, capture=desk, on_event=listener) as source:
        desk.plugged.clear()
        with pytest.raises(RuntimeError, match="the disk is full"):
            list(source)


def test_without_a_listener_it_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with open_source(0, capture=desk, retry_s=0.01):
        desk.plugged.clear()
        until(lambda: "camera 0 is lost" in caplog.text)


# ------------------------------------------------------------------------------------------------------- HTTP


Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers the i-th request with the i-th answer, and any later one with the last."""

    answers: list[Answer]
    requests = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/live"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests leave without closing."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        answers = self.server.answers
        answer = answers[min(self.server.requests, len(answers) - 1)]
        self.server.requests += 1
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(_leaves_nothing: None) -> Iterator[Server]:
    server = Server()
    server.daemon_threads = False  # server_close() waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()


def sends(content: bytes, kind: str = "video/mp2t", with_length: bool = False, stalls: bool = False) -> Answer:
    """The content, and then the end; or, when it stalls, nothing."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        if with_length:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        if stalls:
            handler.wfile.flush()
            handler.server.stopping.wait()  # type: ignore[attr-defined]

    return answer


def stalls(handler: BaseHTTPRequestHandler) -> None:
    handler.server.stopping.wait()  # type: ignore[attr-defined]


def is_absent(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def motion_jpeg(numbers: range, corrupt: int | None = None, pause_s: float = 0.01) -> Answer:
    """What an IP camera sends, which knows no times."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        for i in numbers:
            file = io.BytesIO()
            Image.fromarray(numbered_picture(i)).save(file, "JPEG", quality=95)
            jpeg = file.getvalue() if i != corrupt else b"\xff\xd8\xff\xe0" + bytes(500)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            handler.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(pause_s)

    return answer


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("streams") / "stream.ts"
    write_numbered_video(path, 24, codec_options={"g": "4", "bf": "0", "preset": "veryfast"})
    return path.read_bytes()


def test_a_stream_that_is_cut_comes_back(server: Server, transport_stream: bytes) -> None:
    """Cut in the middle, absent, and back again; time goes on, the connection's own begins anew."""
    half = transport_stream[: len(transport_stream) // 2]
    server.answers = [sends(half), is_absent, sends(transport_stream, stalls=True)]
    events: list[str] = []
    with open_source(server.url, retry_s=0.05, on_event=events.append) as source:
        assert (source.name, source.is_live, source.fps) == (server.url, True, 25.0)
        first = next(source)
        watch(source, lambda grab: number(grab) >= 20)  # not in the first half; FFmpeg holds the last two back
    assert first.seconds < 0.5
    assert events[0] == f"{server.url} is lost: it was cut off; trying again in 0.05 s"
    assert re.fullmatch(f"{server.url} cannot be opened: .*404 Not Found.*; trying again in 0.1 s", events[1])
    assert re.fullmatch(rf"{server.url} is back after \d\.\d s", events[2])
    assert len(events) == 3


@pytest.mark.parametrize(
    "fault",
    [IndexError("list index out of range"), ValueError("wrong"), MemoryError()],
    ids=lambda one: type(one).__name__,
)
def test_a_stream_in_which_the_library_loses_its_way_comes_back(
    fault: Exception, server: Server, transport_stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV raises errors of its own where FFmpeg finds streams that were not announced."""
    opened = av.open
    faults = [fault]

    class Faulty:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def demux(self, *streams: Any) -> Iterator[Any]:
            for count, packet in enumerate(self._container.demux(*streams)):
                if count == 5 and faults:
                    raise faults.pop()
                yield packet

    monkeypatch.setattr(av, "open", lambda *arguments, **settings: Faulty(opened(*arguments, **settings)))
    server.answers = [sends(transport_stream, stalls=True), sends(transport_stream, stalls=True)]
    events: list[str] = []
    with open_source(server.url, retry_s=0.05, on_event=events.append) as source:
        watch(source, lambda grab: number(grab) >= 20)
    assert re.fullmatch(f"{server.url} is lost: {type(fault).__name__}; trying again in 0.05 s", events[0])
    assert re.fullmatch(rf"{server.url} is back after \d\.\d s", events[1])


@pytest.mark.parametrize("begin_s", [300, 0])
def test_a_jump_of_minutes_in_a_stream_is_told_and_fills_nothing(begin_s: int, server: Server, tmp_path: Path) -> None:
    """The clock of a camera is set forward or back while it sends: the seconds of its pictures go on."""
    parts = []
    for own_s in (300 - begin_s, begin_s):
        times_ms = [1000 * own_s + 40 * i for i in range(24)]
        write_numbered_video(tmp_path / "part.ts", 24, times_ms=times_ms, codec_options={"g": "4", "bf": "0"})
        parts.append((tmp_path / "part.ts").read_bytes())
    server.answers = [sends(b"".join(parts), stalls=True)]
    events: list[str] = []
    with open_source(server.url, on_event=events.append) as source:
        grabs = [next(source)]
        while not events:
            grabs.append(next(source))
    assert max(grab.seconds for grab in grabs) < 10
    sign = "+" if begin_s else "-"
    assert re.fullmatch(
        rf"{server.url}: its own clock jumps by \{sign}(29\d|30[01])\.\d s; its seconds go on", events[0]
    )


def test_a_stream_that_is_absent_at_first(server: Server, transport_stream: bytes) -> None:
    server.answers = [is_absent, is_absent, sends(transport_stream, stalls=True)]
    events: list[str] = []
    with open_source(server.url, retry_s=0.02, waits=True, on_event=events.append) as source:
        watch(source, lambda grab: number(grab) >= 20)
    assert re.fullmatch(f"{server.url} cannot be opened: .*404 Not Found.*; trying again in 0.02 s", events[0])
    assert re.fullmatch(rf"{server.url} is open after \d\.\d s", events[2])


def test_a_stream_that_stalls_is_lost(server: Server, transport_stream: bytes) -> None:
    half = transport_stream[: len(transport_stream) // 2]
    server.answers = [sends(half, stalls=True), sends(transport_stream, stalls=True)]
    events: list[str] = []
    with open_source(server.url, timeout_s=1, retry_s=0.02, on_event=events.append) as source:
        watch(source, lambda grab: number(grab) >= 20)
    assert events[0] == f"{server.url} is lost: it has sent nothing for 1 s; trying again in 0.02 s"
    assert "is back" in events[-1]


def test_a_motion_jpeg_camera_with_a_corrupt_picture(server: Server) -> None:
    server.answers = [motion_jpeg(range(30), corrupt=12)]
    with open_source(server.url, on_event=lambda text: None) as source:
        grabs = watch(source, lambda grab: number(grab) >= 25)
        assert source.skipped >= 1
    assert 12 not in [number(grab) for grab in grabs]
    lasted_s = grabs[-1].seconds - grabs[0].seconds  # 0.04 s a picture is what FFmpeg would say
    assert lasted_s == pytest.approx(grabs[-1].captured - grabs[0].captured)


def test_a_file_that_is_served_is_played_at_its_speed_and_ends(server: Server, tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mp4", 10, container_options={"movflags": "faststart"})
    server.answers = [sends((tmp_path / "a.mp4").read_bytes(), "video/mp4", with_length=True)]
    with open_source(f"{server.url}?token=secret") as source:
        assert source.name == f"{server.url}?…"
        begin = time.monotonic()
        grabs = list(source)
        assert time.monotonic() - begin > 0.3
    assert number(grabs[-1]) == 9
    assert len(grabs) + source.dropped == 10
    seconds = np.array([grab.seconds for grab in grabs])
    assert (seconds - seconds[0]) * 25 == pytest.approx([number(grab) - number(grabs[0]) for grab in grabs], abs=0.5)


def test_a_server_that_says_nothing_is_given_up(server: Server) -> None:
    server.answers = [stalls]
    with pytest.raises(SourceError, match=r"/live cannot be opened: it does not answer for 0\.2 s"):
        open_source(server.url, timeout_s=0.2)


def test_closing_while_a_stream_is_silent(server: Server, transport_stream: bytes) -> None:
    server.answers = [sends(transport_stream, stalls=True)]
    source = open_source(server.url, timeout_s=60, on_event=lambda text: None)
    watch(source, lambda grab: number(grab) >= 20)
    timer = threading.Timer(0.05, source.close)
    timer.start()
    for _ in source:
        pass
    assert source.name in {thread.name for thread in threading.enumerate()}  # the reader waits for the network still
    server.stopping.set()
    timer.join()


def test_a_playlist_opens_no_local_file(server: Server, tmp_path: Path, transport_stream: bytes) -> None:
    """What a stream's answer names is fetched over the network or not at all."""
    (tmp_path / "secret.ts").write_bytes(transport_stream)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    server.answers = [sends(playlist.encode(), "application/vnd.apple.mpegurl", with_length=True)]
    with pytest.raises(SourceError, match=r"cannot be opened|has no video"):
        open_source(f"{server.url}.m3u8", timeout_s=1)


def test_sound_alone_is_no_source(server: Server, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    server.answers = [sends((tmp_path / "a.wav").read_bytes(), "audio/wav", with_length=True)]
    with pytest.raises(SourceError, match="/live has no video that can be decoded"):
        open_source(server.url)


# ---------------------------------------------------------------------------------------------------------------- RTSP


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_refused_port_says_so_without_the_password(scheme: str, closed_port: int) -> None:
    url = f"{scheme}://me:secret@127.0.0.1:{closed_port}/live"
    with pytest.raises(SourceError) as error:
        open_source(url)
    assert str(error.value) == f"{scheme}://127.0.0.1:{closed_port}/live cannot be opened: Connection refused"
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_an_unknown_host_is_called_that() -> None:
    with pytest.raises(SourceError, match=r"cannot be opened: no host is known by the name 'camera\.invalid'"):
        open_source("rtsp://camera.invalid/live")


def nal_units(annex_b: bytes) -> list[bytes]:
    return [unit for unit in re.split(b"\x00\x00\x00?\x01", annex_b) if unit]


def serve_rtsp(listener: socket.socket, pictures: list[list[list[bytes]]], stopping: threading.Event) -> None:
    """An IP camera: each connection gets its list of pictures, each some NAL units, as RTP inside the RTSP stream."""
    for shown in pictures:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            while request := lines.readline().decode().strip():
                headers = {}
                while line := lines.readline().decode().strip():
                    key, _, value = line.partition(": ")
                    headers[key.lower()] = value
                method, extra, body = request.split()[0], "", ""
                if method == "OPTIONS":
                    extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    body = (
                        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                        "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
                    )
                    extra = "Content-Type: application/sdp\r\n"
                elif method == "SETUP":
                    assert "RTP/AVP/TCP" in headers["transport"]  # TCP is tried first
                    extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
                connection.sendall(
                    f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{extra}"
                    f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                if method == "PLAY":
                    break
            sequence = 0
            for i, units in enumerate(shown):
                for unit in units:
                    mark = 128 if unit is units[-1] else 0
                    stamp = (i * 3600).to_bytes(4, "big")
                    packet = bytes([128, 96 + mark]) + sequence.to_bytes(2, "big") + stamp + bytes(4) + unit
                    connection.sendall(b"$\x00" + len(packet).to_bytes(2, "big") + packet)
                    sequence += 1
                if stopping.wait(0.02):
                    return


def test_an_rtsp_camera_that_is_cut_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_numbered_video(
        path, 40, codec_options={"g": "4", "bf": "0", "preset": "veryfast", "x264-params": "repeat-headers=1"}
    )
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        to_annex_b = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", stream)
        pictures = [
            nal_units(bytes(out))
            for packet in container.demux(stream)
            if packet.size
            for out in to_annex_b.filter(packet)
        ]
    stopping, events = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_rtsp, args=(listener, [pictures[:30], pictures], stopping))
        thread.start()
        url = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
        with open_source(url, timeout_s=2, retry_s=0.02, on_event=events.append) as source:
            grabs = watch(source, lambda grab: number(grab) >= 35)
        stopping.set()
        thread.join()
    assert events[0] == f"{url} is lost: it was cut off; trying again in 0.02 s"
    assert "is back" in events[-1]
    assert len(grabs) + source.dropped > 40
    assert grabs[-1].seconds - grabs[0].seconds == pytest.approx(grabs[-1].captured - grabs[0].captured, abs=0.5)
