"""Who may ask the server, how often they may guess, what a cookie is good for, and what a message may cost."""

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.serving import Client, Serving, frame, jpeg
from test_server import TOKEN, ask, metric, wait_for  # noqa: F401
from test_server import lines as lines
from websockets.exceptions import ConnectionClosed, InvalidStatus

from vidact.stream.web import limits as limits_module
from vidact.stream.web.access import Access
from vidact.stream.web.limits import Fault, Limits, decode_frame, jpeg_size
from vidact.stream.web.monitor import Faults, Metrics
from vidact.stream.web.server import make_app, make_server

QUICK = Limits(guess_s=0.01)  # a wrong token too many waits longer else
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def guess(port, way, number, host="127.0.0.1"):
    """One wrong token, by one of the ways there are; the status."""
    wrong = f"wrong-token-{number:05d}"
    if way == "login":
        return ask(port, "/login", "POST", wrong, host=host)[0]
    if way == "socket":
        try:
            Client(port, host=host, subprotocols=["vidact", f"vidact.token.{wrong}"])
        except InvalidStatus as error:
            return error.response.status_code
    if way == "cookie":
        return ask(port, "/metrics", headers={"Cookie": f"vidact_token={wrong}"}, host=host)[0]
    return ask(port, f"/{way}", headers={"Authorization": f"Bearer {wrong}"}, host=host)[0]


# ---- guessing


@pytest.mark.parametrize("way", ["state", "metrics", "login", "socket", "cookie"])
def test_guessing_is_slowed_down_whichever_way(way, lines):
    """After a few wrong tokens no further one is even compared; the right one passes all the while."""
    with Serving(token=TOKEN, limits=QUICK) as served:
        statuses = [guess(served.port, way, number) for number in range(30)]
        assert statuses.count(429 if way != "socket" else 403) >= 15
        assert statuses[0] != 429
        for path in ("/state", "/metrics"):
            assert ask(served.port, path, headers=BEARER)[0] == 200
        assert json.loads(ask(served.port, "/state", headers=BEARER)[2]) == {"authorised": True}
        assert ask(served.port, "/login", "POST", TOKEN)[0] == 204
        with served.client(subprotocols=["vidact", f"vidact.token.{TOKEN}"]) as client:
            assert client.hello
        text = ask(served.port, "/metrics", headers=BEARER)[2]
        assert float(re.search(r'vidact_faults_total\{kind="token"\} (\d+)', text)[1]) == 30
        assert len([line for line in lines() if "wrong token" in line]) == 1
        assert not [line for line in lines() if "wrong-token" in line]  # what was guessed may be nearly right


def test_one_limit_holds_for_all_ways():
    with Serving(token=TOKEN, limits=QUICK) as served:
        for number in range(30):
            guess(served.port, ("state", "metrics", "login", "cookie")[number % 4], number)
        for way in ("state", "metrics", "login", "cookie"):
            assert guess(served.port, way, 99) == 429


def test_who_brings_no_token_is_no_guesser():
    """A page that asks whether it has to log in, a scraper without a token: they are told so, however often."""
    with Serving(token=TOKEN, limits=QUICK) as served:
        for _ in range(60):
            assert ask(served.port, "/state")[0] == 200
        assert ask(served.port, "/metrics")[0] == 401
        assert guess(served.port, "login", 1) == 403


def test_those_behind_one_address_are_not_locked_out_by_a_guesser():
    """Whoever has logged in, or knows the token, is let in while somebody beside them guesses."""
    with Serving(token=TOKEN, limits=QUICK) as served:
        cookie = {"Cookie": ask(served.port, "/login", "POST", TOKEN)[1]["set-cookie"].split(";")[0]}
        over = threading.Event()

        def guesses():
            number = 0
            while not over.is_set():
                number += 1
                guess(served.port, "login", number)

        guessing = threading.Thread(target=guesses)
        guessing.start()
        try:
            for _ in range(5):
                assert ask(served.port, "/login", "POST", TOKEN)[0] == 204
                assert json.loads(ask(served.port, "/state", headers=cookie)[2]) == {"authorised": True}
                with served.client(additional_headers=cookie) as client:
                    assert client.hello
        finally:
            over.set()
            guessing.join()


class Asking:
    """A client that brings something in its Authorization header, as ``Access`` sees it."""

    def __init__(self, given, host):
        self.scope, self.cookies = {"server": ("127.0.0.1", 80)}, {}
        self.headers = {"authorization": f"Bearer {given}"}
        self.client = SimpleNamespace(host=host)


@pytest.mark.parametrize("hosts", [1, 400], ids=["one address", "many addresses"])
def test_one_limit_holds_for_all_connections_and_addresses_at_once(hosts):
    """However many guess at the same time, after a few of them one wrong token is answered in ``guess_s``."""

    async def guess_at_once():
        access = Access(TOKEN, Limits(guess_s=1000.0, connections=300), Faults(Metrics()))
        wrong = [
            asyncio.create_task(access.judge(Asking(f"wrong-{number}", f"10.0.{number % hosts // 200}.{number % 200}")))
            for number in range(400)
        ]
        for _ in range(20):
            await asyncio.sleep(0)
        answered = sum(task.done() for task in wrong)
        right = [await access.judge(Asking(TOKEN, host)) for host in ("10.0.0.0", "10.9.9.9")]
        waiting = 400 - answered
        for left in range(waiting - 1, -1, -1):  # who has waited longest goes first where there is no room
            assert access.make_room()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sum(not task.done() for task in wrong) == left
        assert not access.make_room()
        return answered, right, {await task for task in wrong}

    answered, right, verdicts = asyncio.run(guess_at_once())
    assert right == ["welcome", "welcome"]
    assert verdicts == {"wrong", "too many"}
    assert answered == 100  # no more wait than may be connected


def test_guesses_that_wait_are_answered_one_at_a_time():
    async def guess_at_once():
        access = Access(TOKEN, Limits(guess_s=0.05), Faults(Metrics()))
        began = time.monotonic()
        verdicts = await asyncio.gather(*(access.judge(Asking(f"wrong-{number}", "10.0.0.1")) for number in range(20)))
        return time.monotonic() - began, verdicts

    seconds, verdicts = asyncio.run(guess_at_once())
    assert verdicts.count("too many") == 10
    assert seconds >= 0.5  # what is slower passes too


def test_who_knows_the_token_is_let_in_while_guesses_fill_all_connections():
    with Serving(token=TOKEN, limits=Limits(guess_s=1000.0, connections=20)) as served, contextlib.ExitStack() as stack:
        for number in range(40):
            guesser = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            guesser.sendall(
                f"GET /state HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong-{number}\r\n\r\n".encode()
            )
            if number % 10 == 9:
                assert json.loads(ask(served.port, "/state", headers=BEARER)[2]) == {"authorised": True}
        assert ask(served.port, "/login", "POST", TOKEN)[0] == 204
        with served.client(subprotocols=["vidact", f"vidact.token.{TOKEN}"]) as client:
            assert client.hello


def test_behind_a_proxy_each_visitor_has_a_limit_of_their_own():
    with Serving(token=TOKEN, proxy=True, limits=QUICK) as served:
        for number in range(30):
            ask(served.port, "/login", "POST", f"wrong-{number}-token-xyz", {"X-Forwarded-For": "198.51.100.7"})
        mine = {"X-Forwarded-For": "198.51.100.7"}
        # what a client writes before the proxy's own entry changes nothing
        forged = {"X-Forwarded-For": "192.0.2.1, 198.51.100.7"}
        other = {"X-Forwarded-For": "198.51.100.8"}
        assert ask(served.port, "/login", "POST", "another-wrong-token", mine)[0] == 429
        assert ask(served.port, "/login", "POST", "another-wrong-token", forged)[0] == 429
        assert ask(served.port, "/login", "POST", "another-wrong-token", other)[0] == 403
    with Serving(token=TOKEN, limits=QUICK) as served:  # without --proxy whoever asks may write what they like there
        for number in range(30):
            told = {"X-Forwarded-For": f"198.51.100.{number}"}
            status = ask(served.port, "/login", "POST", f"wrong-{number}-token-xyz", told)[0]
        assert status == 429


# ---- cookies


def test_the_cookie_is_not_the_token():
    with Serving(token=TOKEN, limits=QUICK) as served:
        given = [ask(served.port, "/login", "POST", TOKEN)[1]["set-cookie"] for _ in range(2)]
        for cookie in given:
            assert TOKEN not in cookie
            assert cookie.startswith(f"vidact_{served.port}=")
            for word in ("HttpOnly", "SameSite=strict", "Path=/"):
                assert word in cookie
        values = [cookie.split(";")[0].partition("=")[2] for cookie in given]
        assert values[0] != values[1]
        assert all(len(value) >= 32 for value in values)
        cookie = {"Cookie": f"vidact_{served.port}={values[0]}"}
        assert json.loads(ask(served.port, "/state", headers=cookie)[2]) == {"authorised": True}
        assert (
            ask(served.port, "/metrics", headers={"Authorization": f"Bearer {values[0]}"})[0] == 401
        )  # for pages alone
        assert ask(served.port, "/login", "POST", values[0])[0] == 403


def test_two_servers_of_one_host_do_not_take_each_others_cookies():
    """A browser sends the cookies of a host to all of its ports."""
    with Serving(token=TOKEN, limits=QUICK) as one, Serving(token=TOKEN[::-1], limits=QUICK) as two:
        cookies = [
            ask(served.port, "/login", "POST", token)[1]["set-cookie"].split(";")[0]
            for served, token in ((one, TOKEN), (two, TOKEN[::-1]))
        ]
        both = {"Cookie": "; ".join(cookies)}
        for served in (one, two):
            assert json.loads(ask(served.port, "/state", headers=both)[2]) == {"authorised": True}
        assert json.loads(ask(one.port, "/state", headers={"Cookie": cookies[1]})[2]) == {"authorised": False}
        stolen = f"vidact_{one.port}={cookies[1].partition('=')[2]}"
        assert ask(one.port, "/metrics", headers={"Cookie": stolen})[0] == 401


def test_logging_out_ends_what_the_cookie_is_good_for():
    with Serving(token=TOKEN, limits=QUICK) as served:
        cookie = {"Cookie": ask(served.port, "/login", "POST", TOKEN)[1]["set-cookie"].split(";")[0]}
        status, headers, _ = ask(served.port, "/logout", "POST", headers=cookie)
        assert status == 204
        assert "Max-Age=0" in headers["set-cookie"]
        assert json.loads(ask(served.port, "/state", headers=cookie)[2]) == {"authorised": False}
        assert ask(served.port, "/logout", "POST", headers={"Origin": "https://evil.example"})[0] == 403


def test_a_new_server_knows_none_of_the_old_ones_cookies():
    with Serving(token=TOKEN, limits=QUICK) as served:
        cookie = ask(served.port, "/login", "POST", TOKEN)[1]["set-cookie"].split(";")[0]
    with Serving(token=TOKEN, limits=QUICK) as served:
        brought = {"Cookie": f"vidact_{served.port}={cookie.partition('=')[2]}"}
        assert json.loads(ask(served.port, "/state", headers=brought)[2]) == {"authorised": False}
        assert ask(served.port, "/login", "POST", TOKEN)[0] == 204


def test_a_cookie_of_before_is_taken_once_more():
    """It held the token itself; it gives a page its new one."""
    with Serving(token=TOKEN, limits=QUICK) as served:
        old = {"Cookie": f"vidact_token={TOKEN}"}
        status, headers, body = ask(served.port, "/state", headers=old)
        assert (status, json.loads(body)) == (200, {"authorised": True})
        cookies = headers["set-cookie"]
        assert f"vidact_{served.port}=" in cookies
        assert TOKEN not in cookies


def test_logins_are_kept_in_a_bounded_number():
    with Serving(token=TOKEN, limits=Limits(logins=4)) as served:
        cookies = [ask(served.port, "/login", "POST", TOKEN)[1]["set-cookie"].split(";")[0] for _ in range(6)]
        known = [json.loads(ask(served.port, "/state", headers={"Cookie": cookie})[2]) for cookie in cookies]
        assert [one["authorised"] for one in known] == [False, False, True, True, True, True]


def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_alone():
    origin = "https://watch.example"
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7", "Host": "watch.example", "Origin": origin}
    with Serving(token=TOKEN, proxy=True, limits=QUICK) as served:
        cookie = ask(served.port, "/login", "POST", TOKEN, told)[1]["set-cookie"]
        assert "Secure" in cookie
        with served.client(additional_headers={"Cookie": cookie.split(";")[0], "X-Forwarded-Proto": "https"}) as client:
            assert client.hello
        plain = {"X-Forwarded-Proto": "http", "Host": "watch.example", "Origin": "http://watch.example"}
        assert "Secure" not in ask(served.port, "/login", "POST", TOKEN, plain)[1]["set-cookie"]
    with Serving(token=TOKEN, limits=QUICK) as served:  # without --proxy a client's word for it counts nothing
        assert ask(served.port, "/login", "POST", TOKEN, told)[0] == 403


def test_a_proxy_needs_a_token():
    """Behind a proxy everybody's connection comes from this machine."""
    from support.serving import colour_model

    with pytest.raises(ValueError, match=r"--proxy lets in whoever the proxy lets in, .* give a token"):
        make_app(colour_model(), proxy=True)
    assert make_server(make_app(colour_model(), proxy=True, token=TOKEN))


# ---- what a message may cost


def with_segments(data, count, marker=0xE1, length=2):
    """A JPEG with so many segments more before its scan."""
    segment = bytes([0xFF, marker]) + struct.pack(">H", length) + bytes(length - 2)
    return data[:2] + count * segment + data[2:]


COSTLY = {
    "43,000 empty APP1": lambda: with_segments(jpeg("red"), 43_000),
    "43,000 empty APP14": lambda: with_segments(jpeg("red"), 43_000, 0xEE),
    "200,000 empty comments": lambda: with_segments(jpeg("red"), 200_000, 0xFE),
    "70 APP2 of an ICC profile": lambda: with_segments(jpeg("red"), 70, 0xE2, 14_000),
    "5,000 tables": lambda: with_segments(jpeg("red"), 5_000, 0xDB, 67),
    "1,000 restart intervals": lambda: with_segments(jpeg("red"), 1_000, 0xDD, 4),
    "a large header": lambda: with_segments(jpeg("red"), 15, 0xE1, 65_000),
    "fill bytes": lambda: jpeg("red")[:2] + b"\xff" * 900_000 + jpeg("red")[2:],
    "restart markers in the scan": lambda: jpeg("red")[:-2] + b"\xff\xd0" * 400_000 + b"\xff\xd9",
    "pictures behind the picture": lambda: jpeg("red") * 500,
    "a megabyte behind the picture": lambda: jpeg("red") + bytes(1_000_000),
    "arithmetic coding": lambda: jpeg("red").replace(b"\xff\xc0", b"\xff\xc9"),
    "twelve bits": lambda: jpeg("red").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    "five colours": lambda: jpeg("red").replace(b"\x00\x40\x03\x01", b"\x00\x40\x05\x01"),
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_a_frame_that_costs_more_than_it_shows_is_refused_before_it_is_read(name, monkeypatch):
    """No decoder and no library that parses files sees it."""
    monkeypatch.setattr(limits_module, "_decoded", lambda data: pytest.fail("parsed"))
    with pytest.raises(Fault):
        decode_frame(COSTLY[name](), Limits())


@pytest.mark.parametrize("options", [{}, {"quality": 98}, {"subsampling": 0}, {"optimize": True}, {"dpi": (72, 72)},
                                     {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}, {"comment": b"made by a camera"},
                                     {"icc_profile": bytes(3144)}, {"restart_marker_rows": 1}])  # fmt: skip
def test_what_browsers_and_cameras_write_is_read(options):
    assert decode_frame(jpeg("blue", (640, 480), **options), Limits()).shape == (480, 640, 3)


def test_looking_at_a_header_takes_few_steps():
    """So many segments as there may be, whatever the message holds."""
    steps = 0

    class Counted(bytes):
        def __getitem__(self, place):
            nonlocal steps
            steps += 1
            return super().__getitem__(place)

    for make in (lambda: with_segments(jpeg("red"), 43_000), lambda: with_segments(jpeg("red"), 200_000, 0xFE)):
        steps = 0
        with pytest.raises(Fault, match="segments"):
            jpeg_size(Counted(make()))
        assert steps < 1000


@pytest.mark.parametrize(
    "text",
    ["[" * 900, '{"type":' * 100, '{"type":"' + "x" * 5000 + '"}', '{"type":"alive","more":' + "9" * 3000 + "}"],
)
def test_a_long_or_deep_message_is_refused_before_it_is_parsed(text, lines):
    with Serving() as served, served.client() as bad:
        bad.socket.send(text)
        with pytest.raises(ConnectionClosed, match=r"a message of [\d,]+ characters, which says nothing"):
            bad.read("never")


def test_visitors_are_answered_beside_costly_frames(lines):
    """Four clients send the dearest megabyte there is; another visitor has its answers all the same."""
    data = with_segments(jpeg("red"), 43_000)
    over = threading.Event()

    def attack(served):
        while not over.is_set():
            with contextlib.suppress(Exception), served.client() as bad:
                bad.start()
                bad.socket.send(frame(0, data))
                bad.read("never", timeout=5)

    with Serving() as served, served.client() as good:
        good.start()
        threads = [threading.Thread(target=attack, args=[served]) for _ in range(4)]
        for thread in threads:
            thread.start()
        answers = good.play(jpeg("red"), 1.5)
        over.set()
        for thread in threads:
            thread.join()
    assert len(answers) >= 10  # of 15


def test_the_certificate_of_the_docs_names_the_host():
    """Browsers look at the alternative names alone."""
    text = (Path(__file__).parents[2] / "docs/live.md").read_text().replace("\\\n", " ")
    (command,) = (line for line in text.splitlines() if line.startswith("openssl req"))
    assert '-addext "subjectAltName=DNS:$(hostname),DNS:localhost,IP:127.0.0.1"' in command
