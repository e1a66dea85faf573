"""A published network by its name, in real processes: the commands of the README, a webcam, a page, and how they end.

The network has random weights in a file of the published layout, which lies in the cache; nothing is downloaded.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.browser import CHROMIUM, NO_CHROMIUM, chromium, write_camera
from support.networks import vary
from support.pages import commands
from support.published import movinet_tensors
from support.serving import Client
from torch import nn

import vidact
import vidact.models
from vidact import cli, hub
from vidact.video import open_video, test_transform

pytestmark = pytest.mark.slow

NAME = "movinet_a0_stream"
FRAMES, FPS = 280, 28  # of the video
RATE = 5  # frames a second that the network takes


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip.mp4, and a cache with a network whose answers differ from frame to frame."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(shared_data / "fixtures" / "mmaction2" / "demo.mp4", folder / "clip.mp4")
    torch.manual_seed(0)
    network = vidact.models.movinet_a0_stream(600)
    some = pictures(network, folder, range(0, FRAMES, 25))
    vary(network, some, some, std=3)
    nn.init.zeros_(network.fc.bias)
    (folder / "home" / "weights").mkdir(parents=True)
    torch.save(movinet_tensors(network, stream=True), folder / "home" / "weights" / NAME)
    return folder


def pictures(network: nn.Module, folder: Path, numbers: Any) -> torch.Tensor:
    """The network's input (1, T, C, H, W) for some frames of the video."""
    with open_video(folder / "clip.mp4") as video:
        return test_transform(network.input)(video.frames_at(list(numbers)).images)[0]


@pytest.fixture
def network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setenv("VIDACT_HOME", str(folder / "home"))
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    monkeypatch.chdir(folder)
    return vidact.load(NAME)


def nearest_frames(count: int) -> list[int]:
    """The frames nearest to the first instants of the network's rate."""
    return [int(np.abs(np.arange(FRAMES) / FPS - k / RATE).argmin()) for k in range(count)]


def line_of(command: str) -> list[str]:
    """The README's line of this command with the network's name."""
    (line,) = [line for line in commands("README.md") if line[0] == command and NAME in line]
    return line


def start(folder: Path, words: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "VIDACT_HOME": str(folder / "home"), "VIDACT_OFFLINE": "1", **variables}
    environment.pop("DISPLAY", None)
    return subprocess.Popen(
        [sys.executable, "-m", "vidact", *words], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@torch.inference_mode()
def by_hand(network: Any, clip: torch.Tensor) -> np.ndarray:
    """Probabilities (T, K) of each step; from the 51st frame on, the means fade."""
    state, answers = network.initial_state(1), []
    for frame in clip.unbind(1):
        state["frames"] = state["frames"].clamp(max=49)
        logits, state = network.step(frame, state)
        answers.append(logits[0].softmax(-1))
    return torch.stack(answers).numpy()


def scores_of(lines: list[dict[str, Any]]) -> np.ndarray:
    """Probabilities (T, K) of the answers among JSON lines."""
    for line in lines:
        assert list(line["scores"]) == ["background", *hub.class_names("kinetics600")]
        assert line["scores"]["background"] == 0
    return np.array([list(line["scores"].values())[1:] for line in lines])


# ---------------------------------------------------------------------------------------------- the README


def test_predict(network: nn.Module, folder: Path) -> None:
    """The five labels of the README's command are those of fifty frames, five a second, as a stream has them."""
    status, out, err = finish(start(folder, line_of("predict")))
    assert (status, err) == (0, "vidact predict: loading …\n")
    with torch.inference_mode():
        clip = pictures(network, folder, nearest_frames(50))
        scores = network(clip)[0].softmax(-1)
    head, *rows = out.splitlines()
    assert re.fullmatch(r"clip\.mp4  0\.00-9\.79 s, in \d+\.\d\d s", head)
    classes = hub.class_names("kinetics600")
    assert [row.split("%  ")[1] for row in rows] == [classes[i] for i in scores.topk(5).indices]
    assert [float(row.split("%")[0]) for row in rows] == pytest.approx(100 * scores.topk(5).values, abs=0.1)


def test_stream_of_a_file(network: nn.Module, folder: Path, tmp_path: Path) -> None:
    """Each answer is a step by hand over frames as far apart as those of ``predict``."""
    words = [word if word != "0" else "clip.mp4" for word in line_of("stream")]
    lines = tmp_path / "a.jsonl"
    for _ in range(2):  # a second run replaces the results of a file
        process = start(folder, [*words, "--no_window", "--fast", "--device=cpu", "--jsonl", str(lines)])
        status, out, err = finish(process)
        assert (status, err) == (0, "vidact stream: loading …\n")
        assert out.startswith("clip.mp4: 600 classes, 5 answers/s, on cpu; Ctrl-C ends\n")
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [answer["seconds"] for answer in answers] == pytest.approx(np.arange(51) / 5, abs=1e-3)
    expected = by_hand(network, pictures(network, folder, nearest_frames(51)))
    assert np.ptp(expected, axis=0).max() > 0.1  # or the comparison would prove nothing
    np.testing.assert_allclose(scores_of(answers), expected, atol=2e-4)
    assert "\n51 answers; " in out


def test_stream_of_an_exported_step(network: nn.Module, tmp_path: Path) -> None:
    """The ONNX file of the commands in docs/live.md gives the answers of the steps by hand, also where they fade."""
    export, stream = [line for line in commands("docs/live.md") if "movinet.onnx" in line]
    assert (export[0], stream[0]) == ("export", "stream")
    cli.main([word.replace("movinet.onnx", str(tmp_path / "movinet.onnx")) for word in export])
    words = [{"0": "clip.mp4", "movinet.onnx": str(tmp_path / "movinet.onnx")}.get(word, word) for word in stream]
    lines = tmp_path / "a.jsonl"
    cli.main([*words, "--no_window", "--fast", f"--jsonl={lines}"])
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    expected = by_hand(network, pictures(network, Path(), nearest_frames(51)))
    np.testing.assert_allclose(scores_of(answers), expected, atol=1e-3)


def test_stream_without_a_display_or_a_camera(folder: Path) -> None:
    status, out, err = finish(start(folder, line_of("stream")))
    assert (status, out) == (2, "")
    assert "there is no display here (DISPLAY is not set), so no window can be opened. Run with --no_window" in err
    if not any(Path("/dev").glob("video*")):
        status, out, err = finish(start(folder, [*line_of("stream"), "--no_window"]))
        assert (status, out) == (2, "")
        assert "camera 0 cannot be opened; there is none. Plug one in, or use a file or a URL" in err
        assert "Traceback" not in err


class Camera:
    """A camera as OpenCV shows it, of another rate than the file; picture n shows the scene of its time."""

    def __init__(self, images: np.ndarray, fps: float) -> None:
        self.images, self.fps, self.count, self.shown = images, fps, 0, []
        self.began_s = time.monotonic()

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self.count = max(self.count + 1, int((time.monotonic() - self.began_s) * self.fps))
        time.sleep(max(0.0, self.began_s + self.count / self.fps - time.monotonic()))
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        self.shown.append(self.count)
        return True, self.images[self.count % len(self.images)]

    def get(self, prop: int, /) -> float:
        return self.fps

    def release(self) -> None:
        pass


@pytest.mark.parametrize("fps", [3.0, 12.5, 60.0])
def test_a_webcam_of_another_rate(
    fps: float, network: nn.Module, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five answers a second of every camera; one that is slower shows a picture more than once."""
    with open_video(folder / "clip.mp4") as video:
        images = video.frames_at(list(range(0, FRAMES, 5))).images.permute(0, 2, 3, 1).flip(-1).numpy()
    camera = Camera(np.ascontiguousarray(images), fps)
    monkeypatch.setattr("vidact.stream.sources.opencv_capture", lambda index: camera)
    lines = tmp_path / "a.jsonl"
    cli.main([*line_of("stream"), "--no_window", "--device=cpu", "--seconds=4", f"--jsonl={lines}"])
    answers = [line for line in map(json.loads, lines.read_text().splitlines()) if "scores" in line]
    scores_of(answers)
    seconds = np.array([answer["seconds"] for answer in answers])
    assert len(np.unique(seconds)) >= 18
    np.testing.assert_allclose(np.diff(np.unique(seconds)), 0.2, atol=1e-3)
    if fps == 60:  # far fewer answers than pictures
        assert len(camera.shown) > 2 * len(answers)


# ---------------------------------------------------------------------------------------------- the page


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The README's server on a free port, with the video as a source."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(folder, [*line_of("serve"), f"--port={port}", "--device=cpu", "--source=clip.mp4"])
    try:
        end = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < end:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def test_serve(network: nn.Module, folder: Path, served: tuple[subprocess.Popen[str], int]) -> None:
    """A client gets the answers of the steps by hand; Ctrl-C ends the server."""
    process, port = served
    answers: list[dict[str, Any]] = []
    with Client(port) as client:
        assert client.hello["classes"] == list(hub.class_names("kinetics600"))
        client.start(0)
        while len(answers) < 20:
            answers.append(client.read("answer"))
    expected = by_hand(network, pictures(network, folder, nearest_frames(20)))
    np.testing.assert_allclose([answer["scores"][1:] for answer in answers], expected, atol=2e-3)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert status in (0, 130)
    assert f"http://localhost:{port}" in out
    assert "Traceback" not in err


@pytest.mark.skipif(not CHROMIUM, reason=NO_CHROMIUM)
def test_a_browser_shows_the_names(folder: Path, served: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    """The browser's own camera shows the video; the page names ten of the 600 actions."""
    with open_video(folder / "clip.mp4") as video:
        images = video.frames_at(list(range(0, FRAMES, 10))).images.permute(0, 2, 3, 1).numpy()
    height, width = images.shape[1] // 2 * 2, images.shape[2] // 2 * 2
    camera = write_camera(tmp_path / "camera.y4m", images[:, :height, :width], 3)
    _, port = served
    with chromium(camera) as browser:
        complaints: list[str] = []
        page = browser.new_context(permissions=["camera"]).new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://localhost:{port}/")
        page.locator("#start:enabled").wait_for(timeout=60_000)
        page.locator("#start").click()
        page.locator("#bars .value", has_text="%").first.wait_for(timeout=60_000)
        names = [text.strip() for text in page.locator("#bars li > :first-child").all_text_contents()]
    assert not complaints
    assert len(names) <= 11
    assert len(set(names) & set(hub.class_names("kinetics600"))) == len(names) - 1  # the other is the background
