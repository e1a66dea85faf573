"""A real browser: a video file is its camera, and the page names what happens in it.

Chromium plays a made scene in a loop as its camera, and the server's model is made for that scene, so that its answers
are certain. A small square in a corner, which the model does not see (it lies outside the crop), is as bright as the
motion's number says; the test reads it from the page's own video, so it knows to the frame when the browser saw what.

VIDACT_SCREENSHOTS names a folder for the pictures of the documentation.
"""

import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import CHROMIUM, NO_CHROMIUM, chromium, write_camera
from support.serving import MOTION_S, MOTIONS, PAUSE_S, Serving, colour_model, motion_model, motion_scene

from vidact.data.synthetic import write_video
from vidact.stream.web.limits import Fault

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=NO_CHROMIUM)

FPS, MARK = 15, 12  # of the scene; pixels of the square
LEVELS = [0, 60, 120, 180, 240]  # of the square: a pause, and one for each motion
TOKEN = "a-token-of-enough-characters"


@pytest.fixture(scope="module")
def scene() -> list[tuple[np.ndarray, int]]:
    return list(motion_scene(fps=FPS))


@pytest.fixture(scope="module")
def camera(scene: list[tuple[np.ndarray, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene as Chromium's camera takes it."""

    def marked() -> Iterator[np.ndarray]:
        for image, motion in scene:
            copy = image.copy()
            copy[:MARK, :MARK] = LEVELS[motion]
            yield copy

    return write_camera(tmp_path_factory.mktemp("browser") / "camera.y4m", marked(), FPS)


@pytest.fixture(scope="module")
def clip(scene: list[tuple[np.ndarray, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene as a file that the server plays."""
    path = tmp_path_factory.mktemp("played") / "scene.mp4"
    write_video(path, np.stack([image for image, _ in scene]), fps=FPS)
    return path


@pytest.fixture(scope="module")
def browser(camera: Path) -> Iterator[Any]:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)  # as Playwright itself waits for anything else
    with chromium(camera) as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """A page that may load nothing from elsewhere and complain of nothing."""
    contexts, complaints = [], []

    def open_it(address: str, **options: Any) -> Any:
        context = browser.new_context(permissions=["camera"], **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        ours = ("blob:", address.partition("#")[0])
        page.on("request", lambda request: request.url.startswith(ours) or complaints.append(request.url))
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not complaints


# What the browser sees and shows, with the browser's clock: [milliseconds, motion] and [milliseconds, labels].
WATCH = """(mark) => {
    const seen = [], shown = [], video = document.getElementById("video"), list = document.getElementById("now");
    const canvas = document.createElement("canvas"), paper = canvas.getContext("2d", { willReadFrequently: true });
    canvas.width = canvas.height = 1;
    const look = () => {
        if (video.videoWidth) {
            paper.drawImage(video, mark / 4, mark / 4, mark / 2, mark / 2, 0, 0, 1, 1);
            const motion = Math.round(paper.getImageData(0, 0, 1, 1).data[1] / 60);
            if (!seen.length || seen.at(-1)[1] !== motion) seen.push([performance.now(), motion]);
        }
        video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
    new MutationObserver(() => {
        const labels = [...list.querySelectorAll("li:not(.idle)")].map((item) => item.firstChild.textContent);
        if (!shown.length || shown.at(-1)[1].join() !== labels.join()) shown.push([performance.now(), labels]);
    }).observe(list, { childList: true, subtree: true, characterData: true });
    window.watched = { seen, shown };
}"""


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("VIDACT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / name)


def begins_seen(page: Any) -> list[tuple[float, str]]:
    """When the camera showed the begin of a motion, in the browser's milliseconds; of the first one it may be part."""
    return [(at, MOTIONS[motion - 1]) for at, motion in page.evaluate("window.watched.seen")[1:] if motion]


@pytest.mark.slow
def test_the_right_label_within_two_seconds(open_page: Any) -> None:
    from playwright.sync_api import expect

    with Serving(motion_model()) as served:
        page = open_page(f"http://localhost:{served.port}/", viewport={"width": 1280, "height": 900})
        page.locator("#start:enabled").wait_for()
        page.evaluate(WATCH, MARK)
        page.locator("#source").focus()  # the keyboard does for all of it
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        end = time.monotonic() + 60
        while len(begins_seen(page)) < 5:
            assert time.monotonic() < end, "the camera shows no motions"
            page.wait_for_timeout(100)
        page.wait_for_timeout(600)
        keep(page, "live_desktop.png")
        page.wait_for_timeout(1500)
        begins = begins_seen(page)[:5]
        shown = page.evaluate("window.watched.shown")
        delays = [min((when - at for when, labels in shown if when >= at and [label] == labels), default=np.inf)
                  for at, label in begins]  # fmt: skip
        print(f"from the camera's frame to the label: {', '.join(f'{delay:.0f} ms' for delay in delays)}")
        assert max(delays) < 2000, (begins, shown)
        for (since, label), (until, _) in itertools.pairwise(begins):
            others = {other for when, labels in shown if since + 1000 * MOTION_S < when < until for other in labels}
            assert others <= {label}  # and no wrong one
        listed = [name.text_content() for name in page.locator("#events .name").all()]
        assert {label for _, label in begins} == set(listed) == set(MOTIONS)
        assert re.fullmatch(r"\d+ %", page.locator("#events .sure").first.text_content())
        lasted = [text.text_content() for text in page.locator("#events .state").all()]
        closed = [float(text.removesuffix(" s")) for text in lasted if text != "now"][:-1]  # not the first of all
        assert closed == pytest.approx([MOTION_S] * len(closed), abs=1)
        assert float(page.locator("#fps").text_content()) > 3
        assert 0 < float(page.locator("#latency").text_content().removesuffix(" ms")) < 2000
        assert page.locator("#ahead i").count() == 6

        # Back in time, with the keyboard.
        for _ in range(2):
            page.locator("#closer").click()
        page.locator("#scroll:enabled").focus()  # once there is more than the timeline shows
        for _ in range(8):
            page.keyboard.press("ArrowLeft")
        title = page.locator("#scores-title")  # the page draws it when it comes to it, hence expect
        expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
        expect(title).to_have_text(re.compile(r"Scores at \d"))
        page.locator("#events button").last.press("Enter")  # an event leads to its place
        began = seconds(page.locator("#events .when").last.text_content().split(" ")[0])
        near = "|".join(re.escape(clock(began + step / 10)) for step in range(-5, 6))
        expect(title).to_have_text(re.compile(f"Scores at ({near})$"))
        page.locator("#live").click()
        expect(title).to_have_text("Scores now")
        with page.expect_download() as download:
            page.locator("#save").click()
        lines = Path(download.value.path()).read_text().split("\n")
        assert lines[0].strip() == "label,start_s,end_s,score"
        assert all(re.fullmatch(r'"[a-z ]+",\d+\.\d{3},(\d+\.\d{3})?,0\.\d{4}', line.strip()) for line in lines[1:-1])
        page.locator("#start").click()
        expect(page.locator("#start")).to_have_text("Start")
        expect(page.locator("#events .open")).to_have_count(0)


def seconds(text: str) -> float:
    minutes, rest = text.split(":")
    return 60 * int(minutes) + float(rest)


def clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


@pytest.mark.slow
def test_a_phone(clip: Path, open_page: Any) -> None:
    """A source of the server, in the dark, and with a finger."""
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
    with Serving(motion_model(), {"front door": str(clip)}) as served:
        page = open_page(f"http://localhost:{served.port}/", color_scheme="dark", **phone)
        page.locator("#start:enabled").wait_for()
        page.locator("#source").select_option("front door")
        page.locator("#start").tap()
        page.locator("#events li").nth(2).wait_for(timeout=60_000)
        page.wait_for_timeout(300)
        keep(page, "live_phone.png")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways
        assert page.evaluate("document.getElementById('picture').width") == 480
        small = page.evaluate(
            "[...document.querySelectorAll('button, select')].filter((one) => one.offsetHeight)"
            ".filter((one) => one.offsetHeight < 30).map((one) => one.id)"
        )
        assert not small  # large enough for a finger
        page.locator("#notice", has_text="front door has ended").wait_for(timeout=60_000)
        listed = [name.text_content() for name in page.locator("#events .name").all()]
        assert listed == MOTIONS[::-1]  # each once, the newest first
        whens = [text.text_content().split(" – ") for text in page.locator("#events .when").all()][::-1]
        for number, (begin, end) in enumerate(whens):
            began = number * (PAUSE_S + MOTION_S) + PAUSE_S
            assert seconds(begin) == pytest.approx(began, abs=0.8)
            assert seconds(end) == pytest.approx(began + MOTION_S, abs=0.8)


def test_the_token_is_asked_for_and_never_in_an_address(open_page: Any) -> None:
    with Serving(colour_model(), token=TOKEN) as served:
        page = open_page(f"http://localhost:{served.port}/")
        page.locator("#token").wait_for()
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.locator("#start:enabled").wait_for()
        again = open_page(f"http://localhost:{served.port}/#token={TOKEN}")
        again.locator("#start:enabled").wait_for()
        assert TOKEN not in again.url


def test_every_control_has_a_name(open_page: Any) -> None:
    with Serving(colour_model()) as served:
        page = open_page(f"http://localhost:{served.port}/")
        page.locator("#start:enabled").wait_for()
        for control in page.locator("button:visible, select:visible, input:visible, canvas:visible").all():
            snapshot = control.aria_snapshot()
            assert re.search(r'"[^"]+"', snapshot), snapshot


def test_a_server_that_was_restarted_is_found_again(open_page: Any) -> None:
    from playwright.sync_api import expect

    with Serving(colour_model()) as served:
        page = open_page(f"http://localhost:{served.port}/")
        page.locator("#start:enabled").wait_for()
        page.locator("#start").click()
        page.locator("#bars .value", has_text="%").first.wait_for()
        (session,) = served.hub.sessions
        served.hub.loop.call_soon_threadsafe(session.fail, Fault("test", "the server restarts", 1012))
        page.locator("#connection", has_text="not connected").wait_for()
        page.locator("#connection.good").wait_for()
        page.evaluate("document.getElementById('clock').textContent = ''")
        expect(page.locator("#clock")).to_have_text(re.compile(r"\d"))  # it goes on: a new answer is drawn


@pytest.mark.slow
def test_a_camera_sends_nothing_by_the_clock_of_a_lost_connection(
    open_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    with Serving(colour_model()) as served:
        page = open_page(f"http://localhost:{served.port}/")
        page.locator("#start:enabled").wait_for()
        page.locator("#start").click()
        expect(page.locator("#clock")).to_have_text(re.compile(r"[2-9]\.\d"))  # longer than a frame may lead its stream
        # Every camera frame that is sent meets a socket whose next stream was asked for but has not begun.
        page.evaluate("""() => {
            window.early = 0;
            window.WebSocket = class extends WebSocket {
                send(message) {
                    if (typeof message === "string" && JSON.parse(message).type === "start") {
                        this.addEventListener("message", ({ data }) => {
                            if (typeof data === "string" && JSON.parse(data).type === "started") this.begun = true;
                        });
                        setTimeout(() => super.send(message), 500);
                        return;
                    }
                    if (message instanceof Blob && !this.begun) window.early += 1;
                    super.send(message);
                }
            };
        }""")
        (session,) = served.hub.sessions
        served.hub.loop.call_soon_threadsafe(session.fail, Fault("test", "the server restarts", 1012))
        page.locator("#connection", has_text="not connected").wait_for()
        page.locator("#connection.good").wait_for()
        page.evaluate("document.getElementById('clock').textContent = ''")
        expect(page.locator("#clock")).to_have_text(re.compile(r"\d"))
        assert page.evaluate("window.early") == 0
