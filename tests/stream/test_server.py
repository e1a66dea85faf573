"""The server answers whoever behaves, within the usual latency, whatever the others do."""

import asyncio
import contextlib
import datetime
import http.client
import io
import ipaddress
import json
import logging
import re
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.serving import COLOURS, Client, Serving, colour_model, frame, jpeg
from support.streaming import playlist, transport_streams
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vidact.commands.serve import log_lines, name_sources
from vidact.data.synthetic import write_video
from vidact.stream.sources import is_live_address
from vidact.stream.web import sessions
from vidact.stream.web.limits import Bucket, Fault, Limits, decode_frame
from vidact.stream.web.monitor import Faults, Metrics
from vidact.stream.web.server import FILES, PAGE, greeting, is_loopback, make_app, make_server, refuse_taken_port
from vidact.stream.web.sessions import Session

TOKEN = "a-token-of-enough-characters"
# Without a fault a latency is a few milliseconds; these are of a machine that does other things too.
USUAL_MS, LONGEST_MS = 1000, 5000


@pytest.fixture(scope="module")
def served():
    """One server for the tests that do it no harm, or should not."""
    with Serving(limits=Limits(sessions=8, request_s=1.5)) as serving:
        yield serving


@pytest.fixture
def lines(caplog, monkeypatch):
    """What the server has logged so far of warnings, one a fault, and of tracebacks; set up as the command does it."""
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    log_lines()
    ours = ("vidact", "uvicorn", "asyncio")
    yield lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith(ours)
    ]
    for name in ("vidact.stream", "vidact.stream.server", "vidact.stream.sources"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def forget(request):
    """Each test is the first to see a fault."""
    if "served" in request.fixturenames:
        request.getfixturevalue("served").hub.faults._recent.clear()


def ask(port, path="/", method="GET", body=None, headers=None, tls=None, host="127.0.0.1"):
    """One request: status, headers, body."""
    if tls:
        connection = http.client.HTTPSConnection(host, port, timeout=60, context=tls)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def metric(served, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", ask(served.port, "/metrics")[2], re.MULTILINE)[1])


def assert_usual(answers):
    """There are answers, within the usual latency."""
    latencies = [answer["latency_ms"] for answer in answers]
    assert latencies
    assert np.median(latencies) < USUAL_MS
    assert max(latencies) < LONGEST_MS


def wait_for(question, seconds=60.0):
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# ---- the page


def test_the_page_loads_nothing_from_outside(served):
    for path, (_, kind) in FILES.items():
        status, headers, body = ask(served.port, path)
        assert status == 200
        assert headers["content-type"] == kind
        assert "default-src 'none'" in headers["Content-Security-Policy".lower()]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        addresses = set(re.findall(r"https?://[\w.]+", body))
        assert addresses <= {"http://www.w3.org", "http://localhost"}  # a name space, and words for the user
    assert {path.name for path in PAGE.iterdir()} == {file for file, _ in FILES.values()}


def test_nothing_else_is_served(served):
    for path in ("/../server.py", "/page/index.html", "/%2e%2e/server.py", "/page.js/../../server.py", "/.env"):
        assert ask(served.port, path)[0] == 404


def test_every_element_that_the_script_names_is_in_the_page():
    page, script = (PAGE / "index.html").read_text(), (PAGE / "page.js").read_text()
    named = set(re.findall(r'\$\("([\w-]+)"\)', script))
    assert named
    assert named <= set(re.findall(r'id="([\w-]+)"', page))
    for kind in re.findall(r'send\(\{ type: "(\w+)"', script):
        assert kind in ("start", "stop", "end", "shown", "alive")


# ---- sessions


def test_a_browser_is_answered(served):
    with served.client() as client:
        hello = client.hello
        assert hello["classes"] == COLOURS
        assert hello["tokens_per_second"] == 10
        assert hello["future_seconds"] == [0.1, 0.2, 0.4]
        assert client.start()["source"] == "browser"
        client.play(jpeg("grey"), 0.6)
        greys = len(client.pushed)
        answers = client.play(jpeg("red"), 1.2)
        assert len(answers) >= 8
        for answer in answers:  # the first may still be of the grey
            assert np.argmax(answer["scores"]) == (answer["captured"] >= client.pushed[greys])
        seconds = [answer["seconds"] for answer in answers]
        np.testing.assert_allclose(np.diff(seconds), 0.1, atol=1e-3)
        opened = [event for answer in answers for event in answer["opened"]]
        assert [event["label"] for event in opened] == ["red"]
        # A machine that does other things sends later than it wants to; where the red begins, its frames say.
        grey_s, red_s = client.pushed[greys - 1 : greys + 1]
        assert grey_s - 0.1 <= opened[0]["start_s"] <= red_s + 0.1
        assert np.array(answers[-1]["future"]).shape == (3, 4)
        assert_usual(answers)
        answers = client.play(jpeg("grey"), 0.8)
        closed = [event for answer in answers for event in answer["closed"]]
        assert [event["label"] for event in closed] == ["red"]
        assert closed[0]["score"] > 0.6


def test_the_end_of_a_pushed_file_closes_its_events(served):
    with served.client() as client:
        client.start()
        client.play(jpeg("blue"), 0.6)
        client.other = []
        client.say(type="end")
        ended = client.read("ended")
        assert (ended["why"], ended["failed"]) == ("the browser's video has ended", False)
        assert [event["label"] for message in client.other for event in message.get("closed", [])] == ["blue"]
        client.start()  # and the session goes on
        assert client.play(jpeg("green"), 0.5)


def test_an_answer_names_the_capture_that_it_looked_at(served):
    with served.client() as client:
        client.start()
        answers = client.play(jpeg("red"), 0.6)
        assert answers
        gap = max(np.diff(client.pushed))
        for answer in answers:
            assert answer["captured"] in client.pushed
            assert abs(answer["captured"] - answer["seconds"]) <= 3 * gap  # some may have been dropped


def test_starting_again_begins_anew(served):
    with served.client() as client:
        client.start()
        client.play(jpeg("red"), 0.5)
        assert client.start()["stream"] == 2
        answers = client.play(jpeg("green"), 0.5)
        assert {answer["stream"] for answer in answers if answer["seconds"] < 0.05} == {2}
        client.say(type="stop")
        client.socket.send(frame(0.6, jpeg("green")))  # was on its way
        client.read("taken")
        wait_for(lambda: not served.hub.channels)


def test_sessions_share_one_batch():
    model = colour_model()
    with Serving(model) as served, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(3)]
        for client in clients:
            client.start()
        model.network.batches.clear()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for client, colour in zip(clients, COLOURS, strict=True):
                client.socket.send(frame(time.monotonic() - client.began, jpeg(colour)))
            time.sleep(0.05)
        for client, colour in zip(clients, COLOURS, strict=True):
            answer = [client.read("answer") for _ in range(5)][-1]
            assert answer["scores"][1 + COLOURS.index(colour)] > 0.9
        assert max(model.network.batches) > 1


def test_a_failing_network_ends_its_streams_and_is_built_again(lines):
    model = colour_model()
    with Serving(model) as served, served.client() as client:
        client.start()
        client.play(jpeg("red"), 0.3)
        model.network.failure = FloatingPointError("no")
        client.socket.send(frame(time.monotonic() - client.began, jpeg("red")))
        time.sleep(0.2)
        client.socket.send(frame(time.monotonic() - client.began, jpeg("red")))
        assert "the network failed" in client.read("ended")["why"]
        assert lines() == ["the network failed"]
        assert ask(served.port, "/healthz")[0] == 200
        model.network.failure = None
        client.start()
        assert client.play(jpeg("red"), 0.5)


# ---- sources named at start


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Half a second of grey, a second of green, half a second of grey."""
    tints = [(90, 90, 90)] * 10 + [(30, 200, 30)] * 20 + [(90, 90, 90)] * 10
    path = tmp_path_factory.mktemp("named") / "clip.mp4"
    write_video(path, np.array([np.full((48, 64, 3), tint, np.uint8) for tint in tints]), fps=20)
    return path


def test_a_named_source_is_shown_and_answered(clip):
    with Serving(sources={"corridor": str(clip)}) as served, served.client() as client:
        assert client.hello["sources"] == [{"name": "corridor"}]  # its address stays here
        client.start(0)
        picture = client.read("picture")
        (seconds,) = struct.unpack_from("<d", picture)
        assert 0 <= seconds < 2
        assert Image.open(io.BytesIO(picture[8:])).size == (64, 48)
        ended = client.read("ended")
        assert (ended["why"], ended["failed"]) == ("corridor has ended", False)
        answers = [message for message in client.other if message["type"] == "answer"]
        events = [event for answer in answers for event in answer["closed"]]
        assert [(event["label"], round(event["start_s"], 1), round(event["end_s"], 1)) for event in events] == [
            ("green", 0.5, 1.5)
        ]
        client.start(0)
        pictures = [client.read("picture")]
        with contextlib.suppress(TimeoutError):
            while True:
                pictures.append(client.read("picture", timeout=0.4))
        assert len(pictures) == 1  # the next one comes when the page has shown this one


def test_a_camera_is_opened_once_for_all_who_look(monkeypatch):
    import vidact.stream.web.sessions as module
    from vidact.stream.live import PushSource

    cameras = []

    def open_camera(address, **options):
        assert address == "0"
        cameras.append(PushSource("camera"))
        return cameras[-1]

    monkeypatch.setattr(module, "open_source", open_camera)
    with Serving(sources={"lobby": "0"}) as served:
        with served.client() as one, served.client() as two:
            one.start(0)
            two.start(0)
            wait_for(lambda: cameras and served.hub.engine._readers)
            for _ in range(8):
                cameras[0].push(np.full((48, 64, 3), (200, 30, 30), np.uint8))
                time.sleep(0.06)
            assert one.read("answer")["scores"][1] > 0.9
            assert two.read("answer")["scores"][1] > 0.9
            assert len(cameras) == 1
            assert metric(served, "vidact_streams") == 1
        wait_for(lambda: not served.hub.channels)
        assert next(iter(cameras[0]), None) is None  # closed


def test_a_source_that_cannot_be_opened_tells_the_client_no_address(tmp_path, lines):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"no video")
    with Serving(sources={"broken": str(secret)}) as served, served.client() as client:
        client.start(0)
        ended = client.read("ended")
        assert (ended["why"], ended["failed"]) == ("broken cannot be opened; the server's log says why", True)
        assert len(lines()) == 1
        assert "secret.mp4" in lines()[0]
        client.start()
        assert client.play(jpeg("red"), 0.5)


def test_sources_that_do_not_answer_hold_up_nobody(monkeypatch):
    import vidact.stream.web.sessions as module

    answer = threading.Event()

    def hang(address, **options):
        answer.wait(20)
        raise OSError("no answer")

    monkeypatch.setattr(module, "open_source", hang)
    with (
        Serving(sources={f"camera {n}": f"rtsp://10.0.0.{n}/" for n in range(14)}) as served,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(answer.set)
        for number in range(14):
            stack.enter_context(served.client()).start(number)
        with served.client() as good:
            good.start()
            assert_usual(good.play(jpeg("red"), 0.6))


@pytest.mark.parametrize(
    "source", ["/etc/passwd", "rtsp://10.0.0.1/x", "clip.mp4", 1, -1, 0.0, True, None, ["browser"], {"path": "x"}, "0"]
)
def test_clients_choose_among_the_named_sources_only(served, source, lines):
    with served.client() as client:
        client.say(type="start", source=source)
        with pytest.raises(ConnectionClosed) as closed:
            client.read("started")
        assert closed.value.rcvd.code == 1008
        assert "not named at start" in closed.value.rcvd.reason
    assert len(lines()) == 1


def test_names_of_sources_hold_no_secrets(tmp_path):
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "a=b.mp4").touch()
    assert name_sources(["0", "rtsp://me:secret@10.0.0.7:554/stream?key=1", str(tmp_path / "clip.mp4")]) == {
        "camera 0": "0",
        "10.0.0.7/stream": "rtsp://me:secret@10.0.0.7:554/stream?key=1",
        "clip.mp4": str(tmp_path / "clip.mp4"),
    }
    assert is_live_address("/dev/video0")  # one reader for all, as for any camera
    assert not is_live_address("7.mp4")
    assert name_sources(["lobby=rtsp://10.0.0.7/a=b"]) == {"lobby": "rtsp://10.0.0.7/a=b"}
    assert name_sources([str(tmp_path / "a=b.mp4")]) == {"a=b.mp4": str(tmp_path / "a=b.mp4")}
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4 does not exist; a source is a camera's number"):
        name_sources(["door=gone.mp4"])
    with pytest.raises(ValueError, match=r"ftp:// is not a kind of source; use rtsp://"):
        name_sources(["door=ftp://10.0.0.7/clip.mp4"])
    with pytest.raises(ValueError, match="two sources are called camera 0"):
        name_sources(["0", "0"])
    for nothing in ("", " ", "door="):  # a variable of a script that is not set
        with pytest.raises(ValueError, match="a source is empty; give a camera's number"):
            name_sources([nothing])


# ---- faults


def huge_jpeg():
    """A kilobyte that says it has 100 megapixels."""
    data = bytearray(jpeg("red"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 10_000, 10_000)
    return bytes(data)


def many_scans():
    data = jpeg("red")
    scan = data[data.index(b"\xff\xda") : -2]
    return data[:-2] + 5000 * scan + data[-2:]


FAULTS = {
    "100 megapixels": (lambda: frame(0, huge_jpeg()), "10000x10000 pixels; at most 1,000,000"),
    "a thousand scans": (lambda: frame(0, many_scans()), "many scans"),
    "progressive": (lambda: frame(0, jpeg("red", progressive=True)), "many scans"),
    "half a JPEG": (lambda: frame(0, jpeg("red", (256, 256))[:-300]), "a broken JPEG"),
    "a header": (lambda: frame(0, jpeg("red")[:200]), "not a JPEG"),
    "a PNG": (lambda: frame(0, png()), "not a JPEG"),
    "noise": (lambda: frame(0, np.random.default_rng(0).bytes(5000)), "not a JPEG"),
    "one pixel": (lambda: frame(0, jpeg("red", (1, 1))), "at least 16x16"),
    "no time": (lambda: frame(float("nan"), jpeg("red")), "a frame says nan s"),
    "the future": (lambda: frame(1e9, jpeg("red")), "can be"),
    "the past": (lambda: frame(-5, jpeg("red")), "can be"),
    "bytes": (lambda: b"x", "is no frame"),
    "no JSON": (lambda: "hello?", "says nothing"),
    "a list": (lambda: "[1, 2]", "says nothing"),
    "nested": (lambda: "[" * 100_000, "says nothing"),
    "no type": (lambda: '{"source": 1}', "says nothing"),
    "another type": (lambda: '{"type": "reboot"}', "no known type"),
    "2 MB": (lambda: frame(0, bytes(2 << 20)), ""),
}


def png():
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", FAULTS)
def test_garbage_closes_its_session_and_no_other(served, name, lines):
    make, words = FAULTS[name]
    with served.client() as good, served.client() as bad:
        good.start()
        bad.start()
        good.push(jpeg("red"))
        with contextlib.suppress(ConnectionClosed):  # of two megabytes, before all are sent
            bad.socket.send(make())
        with pytest.raises(ConnectionClosed) as closed:
            bad.read("never")
        if closed.value.rcvd is None:
            assert name == "2 MB"  # which was still being sent, so that the goodbye did not come through
        else:
            assert words in closed.value.rcvd.reason
            assert closed.value.rcvd.code == (1009 if name == "2 MB" else 1008)
        answers = good.play(jpeg("red"), 0.25)
        assert_usual(answers)
    wait_for(lambda: len(lines()) == 1)
    assert lines()[0].startswith("127.0.0.1: ")


def test_large_images_are_never_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    for data in (huge_jpeg(), many_scans(), jpeg("red", progressive=True)):
        with pytest.raises(Fault):
            decode_frame(data, Limits())


def test_whatever_the_bytes_are_a_frame_is_an_image_or_a_fault():
    random = np.random.default_rng(0)
    seeds = [jpeg("red"), jpeg("blue", subsampling=0), jpeg("grey", optimize=True)]
    images = faults = 0
    for _ in range(1500):
        data = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.integers(1, 6)):
            data[random.integers(2, len(data))] = random.integers(256)
        try:
            assert decode_frame(bytes(data[: random.integers(len(data) // 2, 2 * len(data))]), Limits()).ndim == 3
            images += 1
        except Fault:
            faults += 1
    assert images > 100
    assert faults > 100


def test_frames_are_decoded_as_they_are():
    image = decode_frame(jpeg("blue"), Limits())
    assert image.shape == (48, 64, 3)
    assert np.abs(image[5, 5].astype(int) - (30, 30, 200)).max() < 4
    file = io.BytesIO()
    Image.new("L", (64, 48), 77).save(file, "JPEG")
    assert (decode_frame(file.getvalue(), Limits()) == 77).all()


def test_a_client_that_floods_is_closed_and_the_others_are_answered(served, lines):
    floods = []
    over = threading.Event()

    def flood():
        data = jpeg("red", (640, 480))
        while not over.is_set():
            with served.client() as bad:
                bad.start()
                floods.append(send_until_closed(bad, lambda: frame(time.monotonic() - bad.began, data)))

    with served.client() as good:
        good.start()
        flooding = threading.Thread(target=flood)
        flooding.start()
        answers = good.play(jpeg("red"), 1.0)
        over.set()
        flooding.join()
    assert len(answers) >= 8
    assert_usual(answers)
    assert floods
    assert len(lines()) == 1  # though it may have come back
    assert "sends more than 30 frames a second" in lines()[0]


def send_until_closed(client, make, seconds=60):
    """How many messages a client gets rid of in that time."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            client.socket.send(make())
        except ConnectionClosed:
            return count
        count += 1
    raise AssertionError(f"not closed after {count} messages")


def test_a_client_that_chatters_is_closed(served, lines):
    with served.client() as bad:
        send_until_closed(bad, lambda: '{"type": "alive"}')
    assert lines() == ["127.0.0.1: sends more than 40 messages a second; closed"]


def test_a_client_that_starts_again_and_again_is_closed(served, lines):
    with served.client() as bad:
        send_until_closed(bad, lambda: '{"type": "start", "source": "browser"}')
    assert lines() == ["127.0.0.1: starts more than 1 streams a second; closed"]
    wait_for(lambda: not served.hub.channels)


RAW = {
    "pings": (b"\x89\x80\0\0\0\0" * 30_000, "sends too many pings or pieces of messages; closed"),
    "pieces": (b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 30_000, "sends too many pings or pieces"),
    "no text": (b"\x81\x81\0\0\0\0\xff", "sent what is no WebSocket message; closed"),
    "no frames": (b"\xff" * 100, "sent what is no WebSocket message; closed"),
}


@pytest.mark.parametrize("name", RAW)
def test_a_client_that_misuses_the_protocol_is_closed(served, name, lines):
    sent, words = RAW[name]
    with served.client() as good, served.client() as bad:
        good.start()
        bad.start()
        with contextlib.suppress(OSError):
            bad.socket.socket.sendall(sent)
        with pytest.raises(ConnectionClosed):
            bad.read("never")
        answers = good.play(jpeg("red"), 0.3)
        assert_usual(answers)
    wait_for(lambda: not served.hub.sessions)
    (line,) = lines()
    assert words in line


def test_connections_are_limited(lines):
    with Serving(limits=Limits(connections=10, request_s=0.6)) as served, contextlib.ExitStack() as stack:
        with served.client() as good:
            good.start()
            for _ in range(30):
                stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 60))
            answers = good.play(jpeg("green"), 0.4)
            assert_usual(answers)
            assert len(served.server.server_state.connections) <= 10
            wait_for(lambda: len(served.server.server_state.connections) == 1)  # those that said nothing have gone
            assert ask(served.port, "/healthz")[0] == 200
        assert lines() == ["127.0.0.1: 10 connections are open, and this server allows no more"]


def test_a_hundred_sockets(served, lines):
    with served.client() as good, contextlib.ExitStack() as stack:
        address, others = f"ws://127.0.0.1:{served.port}/live", []

        def open_them():
            for _ in range(100):
                others.append(stack.enter_context(connect(address, open_timeout=60, close_timeout=0.1)))

        good.start()
        opening = threading.Thread(target=open_them)
        opening.start()
        answers = good.play(jpeg("green"), 1.0)
        opening.join()
        assert_usual(answers)
        for other in others[:7]:
            assert json.loads(other.recv(timeout=60))["type"] == "hello"
        for other in others[7:]:
            with pytest.raises(ConnectionClosed, match="8 sessions are open, and this server allows no more"):
                other.recv(timeout=60)
            assert other.close_code == 1013
        assert metric(served, "vidact_sessions") == 8
        assert len(lines()) == 1  # 93 times the same is one line
    wait_for(lambda: not served.hub.sessions)


def test_a_client_that_leaves_without_closing(served, lines):
    gone = served.client()
    gone.start()
    gone.push(jpeg("red"))
    assert len(served.hub.channels) == 1
    raw = gone.socket.socket
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no farewell
    raw.shutdown(socket.SHUT_RD)
    raw.close()
    with served.client() as good:
        good.start()
        assert good.play(jpeg("red"), 0.4)
        wait_for(lambda: len(served.hub.sessions) == 1)
        wait_for(lambda: len(served.hub.channels) == 1)
    assert lines() == ["127.0.0.1: left without closing"]


def test_a_client_that_closes_is_no_fault(served, lines):
    for code in (1000, 1001):
        client = served.client()
        client.start()
        client.socket.close(code)
    client = served.client()
    client.start()
    client.socket.protocol.send_close(None)  # as socket.close() of a page does
    client.socket.socket.sendall(b"".join(client.socket.protocol.data_to_send()))
    wait_for(lambda: not served.hub.sessions)
    assert lines() == []


def test_a_client_that_says_nothing_is_closed(lines):
    with Serving(limits=Limits(idle_s=0.3)) as served, served.client() as client:
        with pytest.raises(ConnectionClosed):
            client.read("never")
        assert lines() == ["127.0.0.1: said nothing for 0.3 s; closed"]


class DeafSocket:
    """A client that takes nothing."""

    client = None

    async def send_text(self, text):
        await asyncio.Event().wait()

    send_bytes = send_text


@pytest.mark.parametrize(
    ("limits", "words"), [({"send_s": 0.1}, "took no message for 0.1 s"), ({"queue": 4}, "took none of 4 messages")]
)
def test_a_client_that_does_not_read_costs_a_bounded_queue(limits, words):
    async def listen():
        session = Session(DeafSocket(), SimpleNamespace(limits=Limits(**limits)))
        sending = asyncio.create_task(session.send())
        for number in range(10):
            session.post({"type": "answer", "number": number})
            await asyncio.sleep(0)
            assert len(session._texts) <= session.limits.queue
        done, _ = await asyncio.wait([sending, session.failed], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        sending.cancel()
        await done.pop()

    with pytest.raises(Fault, match=words):
        asyncio.run(listen())


def test_half_a_request_is_not_waited_for(served):
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        slow.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""


def test_half_a_body_is_not_waited_for(served, lines):
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(f"POST /login HTTP/1.1\r\nHost: localhost:{served.port}\r\nContent-Length: 100\r\n\r\nx".encode())
        slow.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""
    time.sleep(0.1)
    assert lines() == []


def test_what_is_no_request_is_one_line(served, lines):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", served.port)) as wrong:
            wrong.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
            wrong.settimeout(60)
            assert wrong.recv(100).startswith(b"HTTP/1.1 400")
    assert lines() == ["127.0.0.1: sent what is no HTTP request; closed"]


def test_a_fault_is_told_once_and_counted(lines):
    faults = Faults(Metrics())
    for _ in range(5):
        faults.log("flood", "10.0.0.1", "sends too much")
    faults.log("flood", "10.0.0.2", "sends too much")
    faults._recent["flood", "10.0.0.1"] = (time.monotonic() - 100, 4)
    faults.log("flood", "10.0.0.1", "sends too much")
    assert lines() == [
        "10.0.0.1: sends too much",
        "10.0.0.2: sends too much",
        "10.0.0.1: sends too much (and 4 times since it was last told)",
    ]
    assert 'vidact_faults_total{kind="flood"} 7' in faults.metrics.text()
    for number in range(3000):
        faults.log("flood", f"10.1.0.{number}", "x")
    assert len(faults._recent) <= Faults.KEPT


def test_a_bucket_fills_again(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vidact.stream.web.limits.time", SimpleNamespace(monotonic=lambda: now[0]))
    bucket = Bucket(50, 2)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] += 0.03
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] += 60
    assert [bucket.take() for _ in range(3)] == [True, True, False]


# ---- who may


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost", "null", "http://127.0.0.1.evil.example"]
)
def test_pages_of_others_may_not_connect(served, origin, lines):
    with pytest.raises(InvalidStatus, match="403"):
        served.client(origin=origin)
    assert len(lines()) == 1
    assert "tried to connect; refused" in lines()[0]


def test_our_own_page_may(served):
    with served.client(origin=f"http://127.0.0.1:{served.port}") as client:
        assert client.hello["type"] == "hello"
        assert client.socket.subprotocol == "vidact"


def test_an_allowed_origin_may():
    with (
        Serving(allow_origins=["https://page.example"]) as served,
        served.client(origin="https://page.example") as client,
    ):
        assert client.hello


@pytest.mark.parametrize("origin", ["https://page.example/", "page.example", "https://Page.example", "ftp://page"])
def test_what_no_browser_sends_is_no_origin(origin):
    with pytest.raises(
        ValueError, match=re.escape(repr(origin)) + r" is no origin.*nothing more: https://example\.org"
    ):
        make_app(colour_model(), allow_origins=["https://page.example:8443", origin])


def test_without_a_token_we_are_called_localhost_only(served, lines):
    """A page of another site may point its name at 127.0.0.1, and be of one origin with us."""
    assert ask(served.port, headers={"Host": f"evil.example:{served.port}"})[0] == 421
    assert ask(served.port, headers={"Host": f"localhost:{served.port}"})[0] == 200
    assert ask(served.port, headers={"Host": f"[::1]:{served.port}"})[0] == 200
    for host in ("[::1", "[", "", "localhost@evil.example", "127.0.0.1.evil.example"):
        assert ask(served.port, headers={"Host": host})[0] == 421
    there = f"evil.example:{served.port}"
    with (
        contextlib.closing(socket.create_connection(("127.0.0.1", served.port))) as raw,
        pytest.raises(InvalidStatus, match="403"),
    ):
        connect(f"ws://{there}/live", sock=raw, origin=f"http://{there}")
    assert len(lines()) == 1


def test_the_token_travels_in_a_cookie_a_subprotocol_or_a_header(lines):
    with Serving(token=TOKEN) as served:
        port = served.port
        with pytest.raises(InvalidStatus, match="403"):
            served.client()
        with pytest.raises(InvalidStatus, match="403"):
            served.client(additional_headers={"Cookie": f"vidact_{port}=wrong"})
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://127.0.0.1:{port}/live?token={TOKEN}")  # an address is logged
        assert lines() == ["127.0.0.1: tried to connect without the token; refused"]
        with served.client(subprotocols=["vidact", f"vidact.token.{TOKEN}"]) as client:
            assert client.socket.subprotocol == "vidact"
        assert json.loads(ask(port, "/state")[2]) == {"authorised": False}
        assert ask(port, "/login", "POST", "wrong")[0] == 403
        assert ask(port, "/login", "POST", "x" * 1000)[0] == 413
        assert ask(port, "/login", "POST", TOKEN, {"Origin": "https://evil.example"})[0] == 403
        status, headers, _ = ask(port, "/login", "POST", TOKEN)
        assert status == 204
        cookie = headers["set-cookie"]
        for word in ("HttpOnly", "SameSite=strict", "Path=/"):
            assert word in cookie
        assert "Secure" not in cookie
        brought = {"Cookie": cookie.split(";")[0]}
        assert json.loads(ask(port, "/state", headers=brought)[2]) == {"authorised": True}
        with served.client(additional_headers=brought, origin=f"http://127.0.0.1:{port}") as client:
            client.start()
            assert client.play(jpeg("red"), 0.4)
        assert ask(port, "/metrics")[0] == 401
        assert ask(port, "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert ask(port, "/healthz")[0] == 200
        assert ask(port, headers={"Host": "vidact.example"})[0] == 200
        assert 429 in [ask(port, "/login", "POST", "wrong")[0] for _ in range(12)]
        assert not [line for line in lines() if TOKEN in line]


def test_beyond_this_machine_a_token_is_asked_for(monkeypatch, capsys):
    import vidact.stream.web.server as module

    made = []
    monkeypatch.setattr(
        module, "make_app", lambda *given, **named: made.append(named["token"]) or make_app(*given, **named)
    )
    monkeypatch.setattr("uvicorn.Server.run", lambda self: None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    module.serve(colour_model(), host="127.0.0.1", port=port)
    module.serve(colour_model(), host="0.0.0.0", port=port)
    module.serve(colour_model(), host="0.0.0.0", port=port, token=TOKEN)
    assert made[0] is None
    assert len(made[1]) >= 32
    assert made[2] == TOKEN
    printed = capsys.readouterr().out
    assert made[1] in printed
    assert TOKEN not in printed  # which its owner knows, and others may read the log
    with pytest.raises(ValueError, match="has 5 characters; give 16 or more"):
        module.serve(colour_model(), host="0.0.0.0", port=port, token="short")
    with pytest.raises(ValueError, match="letters, digits and the signs"):
        module.serve(colour_model(), host="0.0.0.0", port=port, token="a token; Path=/elsewhere")
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 can be reached from other machines, and that needs a token"):
        make_server(make_app(colour_model()), "0.0.0.0")


def test_it_says_when_the_camera_will_not_work():
    model = colour_model()
    here = "\n".join(greeting(model, {"lobby": "0"}, "127.0.0.1", 8000, None, False))
    assert "http://localhost:8000/" in here
    assert "lobby" in here
    assert "HTTPS" not in here
    there = "\n".join(greeting(model, {}, "0.0.0.0", 8000, TOKEN, False))
    assert "only over HTTPS or on localhost" in there
    assert "--certfile" in there
    assert f"/#token={TOKEN}" in there  # after the #: no browser sends it
    secure = "\n".join(greeting(model, {}, "0.0.0.0", 8000, TOKEN, True))
    assert "https://" in secure
    assert "--certfile" not in secure


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.4", False), ("example.org", False), ("", False), ("127.0.0.1.example.org", False)],
)  # fmt: skip
def test_loopback(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 99999, r"--port is 99999; ports are 1 to 65535"),
        ("127.0.0.1", 0, r"--port is 0; ports are 1 to 65535"),
        ("198.51.100.1", 8000, r"--host is 198.51.100.1, which is not this machine's .*; give one of this machine"),
        ("no host", 8000, r"--host is no host, which is no address .* give one of this machine"),
    ],
)
def test_an_address_that_cannot_be_is_said_at_once(host, port, words):
    with pytest.raises(ValueError, match=words):
        refuse_taken_port(host, port)


def test_a_port_that_is_taken_is_said_at_once(served):
    with pytest.raises(OSError, match="choose another --port"):
        refuse_taken_port("127.0.0.1", served.port)


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """Self-signed, for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_https(certificate):
    tls = ssl.create_default_context(cafile=str(certificate[0]))
    with Serving(token=TOKEN, certfile=certificate[0], keyfile=certificate[1]) as served:
        assert ask(served.port, tls=tls)[0] == 200
        status, headers, _ = ask(served.port, "/login", "POST", TOKEN, tls=tls)
        assert status == 204
        assert "Secure" in headers["set-cookie"]
        brought = {"Cookie": headers["set-cookie"].split(";")[0]}
        origin = f"https://127.0.0.1:{served.port}"
        with Client(served.port, tls=tls, additional_headers=brought, origin=origin) as client:
            client.start()
            assert client.play(jpeg("red"), 0.4)
        with pytest.raises(InvalidStatus, match="403"):
            Client(served.port, tls=tls, additional_headers=brought, origin=origin.replace("https", "http"))


def test_a_wrong_certificate_is_said_before_anything_is_served(certificate, tmp_path):
    app = make_app(colour_model())
    with pytest.raises(ValueError, match="a keyfile alone makes no HTTPS"):
        make_server(app, keyfile=certificate[1])
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(ValueError, match=r"no\.pem make no certificate with its key"):
        make_server(app, certfile=tmp_path / "no.pem")
    with pytest.raises(ValueError, match=r"gone\.pem make no certificate"):
        make_server(app, certfile=tmp_path / "gone.pem")


# ---- figures


def test_metrics_and_health(served):
    before = metric(served, "vidact_frames_total")
    with served.client() as client:
        client.start()
        client.play(jpeg("red"), 0.6)
        assert metric(served, "vidact_sessions") == 1
        assert metric(served, "vidact_streams") == 1
    wait_for(lambda: not served.hub.sessions)
    status, headers, text = ask(served.port, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [\d.e+-]+', line), line
    assert metric(served, "vidact_frames_total") - before == pytest.approx(12, abs=3)
    assert metric(served, 'vidact_events_total{label="red"}') >= 1
    assert metric(served, "vidact_latency_seconds_count") == metric(served, "vidact_answers_total")
    assert metric(served, "vidact_sessions") == metric(served, "vidact_streams") == 0
    status, _, body = ask(served.port, "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_a_source_that_does_not_open_is_tried_again_and_said(lines):
    """While somebody looks: on the page, in /state, in the metrics and, with the address, in the log."""

    def state():
        return json.loads(ask(served.port, "/state")[2])["sources"]

    waiting = "lobby cannot be opened now, and is tried again with growing pauses; the server's log says why"
    with playlist() as hls, Serving(sources={"lobby": hls.url, "hall": "0"}) as served:
        assert state() == [{"name": name, "state": "closed", "why": ""} for name in ("lobby", "hall")]
        assert "vidact_source_up{" not in served.hub.metrics.text()
        with served.client() as one, served.client() as two:
            one.start(0)
            assert one.read("note")["why"] == waiting
            assert state()[0] == {"name": "lobby", "state": "lost", "why": waiting}
            assert metric(served, 'vidact_source_up{source="lobby"}') == 0
            two.start(0)  # who comes later learns it too
            assert two.read("note")["why"] == waiting
            assert any(f"{hls.url} cannot be opened" in line for line in lines())
            hls.show(transport_streams(range(40)))
            for client in (one, two):
                assert client.read("note")["why"] == "lobby is open"
                assert client.read("answer")
            assert state()[0] == {"name": "lobby", "state": "open", "why": ""}
            assert metric(served, 'vidact_source_up{source="lobby"}') == 1
        wait_for(lambda: not served.hub.channels)
        assert state()[0]["state"] == "closed"
        assert "hall" not in served.hub.metrics.text()


def test_a_camera_is_open_with_its_first_picture(monkeypatch):
    """Until then it is no more open than before anybody looked, however long the camera takes."""
    answers = threading.Event()
    real = sessions.open_source

    def slow(*args, **options):
        answers.wait(60)
        return real(*args, **options)

    monkeypatch.setattr(sessions, "open_source", slow)
    with playlist() as hls, Serving(sources={"lobby": hls.url}) as served, served.client() as client:
        hls.show(transport_streams(range(40)))
        client.start(0)
        wait_for(lambda: served.hub.channels)
        shown = json.loads(ask(served.port, "/state")[2])["sources"]
        answers.set()
        assert client.read("answer")
        assert [source["state"] for source in shown] == ["closed"]
        assert json.loads(ask(served.port, "/state")[2])["sources"][0]["state"] == "open"


def test_metrics_text():
    metrics = Metrics()
    metrics.add("vidact_events_total", label='say "hi"\n')
    for seconds in (0.001, 0.02, 0.02, 9):
        metrics.latency(seconds)
    text = metrics.text()
    assert r'vidact_events_total{label="say \"hi\"\n"} 1' in text
    assert 'vidact_latency_seconds_bucket{le="0.01"} 1' in text
    assert 'vidact_latency_seconds_bucket{le="0.025"} 3' in text
    assert 'vidact_latency_seconds_bucket{le="+Inf"} 4' in text
    assert "vidact_sessions 0" in text


def test_the_server_stops_with_clients_in_it():
    with Serving() as served:
        client = served.client()
        client.start()
        client.push(jpeg("red"))
    assert not served.hub.thread.is_alive()
    with pytest.raises(ConnectionClosed):
        client.read("never")
