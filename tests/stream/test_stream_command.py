"""``vidact stream``: what a user types, what comes out, and how it ends."""

import ast
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageGrab, features
from support.playing import Live, Named, recording_model, steady, tiny_extractor

import vidact.models
from vidact import cli
from vidact.commands import extract
from vidact.commands import stream as command
from vidact.models.weights import save
from vidact.stream import load_model, open_source, run
from vidact.stream.window import player
from vidact.stream.window import process as window
from vidact.stream.window.process import Window
from vidact.stream.window.writers import EventTable, Snapshots
from vidact.training.config import find_config
from vidact.video import open_video
from vidact.video.numbered import write_numbered_video

CLASSES = ["прыжок", "b"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that always sees the first class, and is about 0.87 sure."""
    extractor = tiny_extractor()
    torch.manual_seed(0)
    network = vidact.models.miniroad_small(3, extractor.dim, embedding_dim=12, hidden_dim=8)
    with torch.no_grad():
        for parameter in list(network.parameters())[-2:]:  # the classifier's
            parameter.mul_(0.01)
        parameter.copy_(torch.tensor([0.0, 2.5, -1.0]))
    network.extractor_state = extractor.state()
    record = {"classes": CLASSES, "features": extractor.record(), "tokens_per_second": 4.0, "scores": "softmax"}
    return save(network, tmp_path_factory.mktemp("model") / "detector.safetensors", record | {"events": {"on": 0.6}})


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 25 fps."""
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    write_numbered_video(path, 75)
    return path


def stream(*args) -> int:
    return command.main([str(word) for word in ("--device", "cpu", "--no-window", *args)])


def table(path) -> list[tuple[str, float, float, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["video"], float(row["start_s"]), float(row["end_s"]), row["label"]) for row in rows]


def fails(args, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["stream", *map(str, args)])
    assert stopped.value.code == 2
    words = capsys.readouterr().err
    assert "Traceback" not in words
    return words


def plays(monkeypatch, *sources, **settings):
    """The command with these sources and a model whose answers are noise, or ``settings``."""
    waiting = list(sources)
    monkeypatch.setattr("vidact.stream.sources.open_source", lambda uri, **options: Closing(waiting.pop(0)))
    monkeypatch.setattr(command, "open_model", lambda *_, **__: recording_model(CLASSES, **settings))
    return [word for source in sources for word in ("--checkpoint", "x", "--source", source.name)]


class Closing:
    """A source of the test that a ``with`` block closes."""

    def __init__(self, source):
        self.source, self.name, self.is_live = source, source.name, source.is_live
        self.realtime = source.is_live

    def __iter__(self):
        return iter(self.source)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.source.close()


# ---- what comes out


def test_without_an_event_the_highest_score_is_named(checkpoint, video, capsys):
    args = ["--checkpoint", checkpoint, "--source", video, "--fast", "--threshold", "0.99"]
    stream(*args)
    figures, highest = capsys.readouterr().out.splitlines()[-2:]
    assert figures.startswith("12 answers; 0 events; ")
    with open_source(str(video)) as source:
        updates = list(run(source, load_model(checkpoint, device="cpu")))
    best = max(updates, key=lambda update: update.scores[1])
    assert highest == (
        f"the highest score was {best.scores[1]:.0%}, {CLASSES[0]} at {best.seconds:.2f} s; an event of it begins at "
        "99% (--threshold)"
    )


def test_a_file_and_all_it_leaves_behind(checkpoint, video, tmp_path, capsys):
    """The lines are the engine's answers, the table its events, the recording has every frame at its second."""
    files = ["--jsonl", tmp_path / "a.jsonl", "--events", tmp_path / "e.csv", "--record", tmp_path / "r.mp4"]
    files += ["--snapshots", tmp_path / "shots"]
    args = ["--checkpoint", checkpoint, "--source", video, "--device=cpu", "--no-window", "--fast", *files]
    cli.main(["stream", *map(str, args)])
    model = load_model(checkpoint, device="cpu")
    with open_source(str(video)) as source:
        updates = list(run(source, model))
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(updates) == 12
    for line, update in zip(lines, updates, strict=True):
        np.testing.assert_allclose(list(line["scores"].values()), update.scores, atol=1e-5)
        assert line["seconds"] == update.seconds
    assert list(lines[0]["scores"]) == ["background", *CLASSES]
    assert table(tmp_path / "e.csv") == [(str(video), 0, 3, "прыжок")]
    assert [path.name for path in (tmp_path / "shots").iterdir()] == ["clip_0000.00s_прыжок.jpg"]
    with open_video(video) as before, open_video(tmp_path / "r.mp4") as after:
        assert len(after) == len(before) == 75
        np.testing.assert_allclose(after.times_s, before.times_s - before.times_s[0], atol=1e-3)
        assert min(after.height, after.width) >= 240
    said = capsys.readouterr()
    assert re.search(r"0\.25 s  прыжок begins \(\d\d%\)", said.out)
    assert "прыжок was seen from 0.00 to 3.00 s" in said.out
    last = said.out.splitlines()[-2]
    assert last.startswith("12 answers; 1 event; 0 frames dropped; latency p50 ")
    assert "3.0 s of video" in last
    assert said.out.splitlines()[-1] == f"recorded: {tmp_path / 'r.mp4'}, 75 frames"
    assert said.err == ""


def test_standard_output_is_for_the_lines_alone(checkpoint, video, capsys):
    assert stream("--checkpoint", checkpoint, "--source", video, "--fast", "--jsonl", "-") == 0
    said = capsys.readouterr()
    assert [json.loads(line)["seconds"] for line in said.out.splitlines()] == [t / 4 for t in range(12)]
    assert "12 answers" in said.err


def test_the_threshold_is_the_users(checkpoint, video, tmp_path):
    common = ["--checkpoint", checkpoint, "--source", video, "--fast", "--events", tmp_path / "e.csv"]
    stream(*common, "--threshold", 0.99)
    assert table(tmp_path / "e.csv") == []
    stream(*common, "--threshold", 0.02)
    assert {label for *_, label in table(tmp_path / "e.csv")} == set(CLASSES)


def test_so_many_seconds_and_no_more(checkpoint, video, tmp_path, capsys):
    common = ["--checkpoint", checkpoint, "--source", video, "--fast", "--seconds", 1]
    stream(*common, "--events", tmp_path / "e.csv", "--record", tmp_path / "r.mp4")
    assert "\n4 answers; 1 event;" in capsys.readouterr().out
    assert table(tmp_path / "e.csv") == [(str(video), 0, 1, "прыжок")]
    with open_video(tmp_path / "r.mp4") as recorded:
        assert len(recorded) == 25


def test_several_sources(checkpoint, video, tmp_path, capsys):
    """Each has its name, its recording and its snapshots."""
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in paths:
        shutil.copy(video, path)
    sources = [word for path in paths for word in ("--source", path)]
    files = ["--record", tmp_path / "out" / "r.mp4", "--snapshots", tmp_path / "out", "--events", tmp_path / "e.csv"]
    assert stream("--checkpoint", checkpoint, *sources, "--fast", *files) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["1-a_0000.00s_прыжок.jpg", "2-b_0000.00s_прыжок.jpg", "r-1.mp4", "r-2.mp4"]
    assert sorted(name for name, *_ in table(tmp_path / "e.csv")) == [str(path) for path in paths]
    assert "24 answers; 2 events" in capsys.readouterr().out


def test_a_frame_shows_its_own_answer(monkeypatch, tmp_path):
    """A live source's frame is drawn when its answer has been given: the answer it brought is on it."""
    shown = []
    monkeypatch.setattr(player.Picture, "drawn", lambda self, image: shown.append(self._newest) or image)
    camera = Live()
    camera.show(*steady(0.6), None)
    stream(*plays(monkeypatch, camera), "--record", tmp_path / "r.mp4")
    # The fourth frame is the one that the network uses of the first token, of six slots at 24 fps.
    assert [update and update.seconds for update in shown] == [None] * 3 + [0.0] * 6 + [0.25] * 5


def test_a_recording_is_the_same_as_fast_as_can_be(checkpoint, video, tmp_path, monkeypatch):
    """Answers come a token later then; each frame shows the same one all the same."""
    drawn = player.Picture.drawn
    shown: list[tuple[float | None, np.ndarray]] = []

    def note(self, image):
        picture = drawn(self, image)
        shown.append((self._newest and self._newest.seconds, picture))
        return picture

    monkeypatch.setattr(player.Picture, "drawn", note)
    common = ["--checkpoint", checkpoint, "--source", video, "--seconds", 1.3, "--record", tmp_path / "r.mp4"]
    runs = []
    for options in ([], ["--fast"]):
        shown.clear()
        stream(*common, *options)
        runs.append(list(shown))
    # The clock has 24 slots a second, and the first frame at or after a token's sixth completes it.
    tokens = np.searchsorted((np.arange(5) * 6 + 5) / 24, np.arange(33) / 25 + 1e-9, side="right")
    expected = [None if count == 0 else (count - 1) / 4 for count in tokens]
    for frames in runs:
        assert [seconds for seconds, _ in frames] == expected
    # A file's last answer knows already what ends with it, so the last token's frames may differ.
    for (_, paced), (_, fast) in zip(runs[0][:31], runs[1][:31], strict=True):
        half = len(paced) // 2
        np.testing.assert_array_equal(paced[half:], fast[half:])  # above stands the latency
    assert not np.array_equal(runs[0][6][1][-40:], runs[0][12][1][-40:])  # the timeline moves


@pytest.mark.slow
def test_an_exported_step_streams(checkpoint, video, tmp_path, monkeypatch):
    """The .onnx alone says what the checkpoint says."""
    from vidact.export.write import export

    monkeypatch.setenv("VIDACT_HOME", str(tmp_path))
    export(checkpoint, tmp_path / "step.onnx", runs=2)
    found = []
    for path in (checkpoint, tmp_path / "step.onnx"):
        lines = tmp_path / f"{path.stem}.jsonl"
        assert stream("--checkpoint", path, "--source", video, "--fast", "--jsonl", lines) == 0
        found.append([list(json.loads(line)["scores"].values()) for line in lines.read_text().splitlines()])
    assert len(found[0]) == 12
    np.testing.assert_allclose(found[1], found[0], atol=2e-5)
    lines = tmp_path / "onnx.jsonl"  # the checkpoint's own step in PyTorch, its extractor in ONNX Runtime
    assert stream("--checkpoint", checkpoint, "--source", video, "--fast", "--runtime=onnx", "--jsonl", lines) == 0
    scores = [list(json.loads(line)["scores"].values()) for line in lines.read_text().splitlines()]
    np.testing.assert_allclose(scores, found[0], atol=2e-5)


def test_a_terminal_without_the_letters(checkpoint, video, monkeypatch):
    """Lines stay JSON, and words are escaped."""
    for option, pattern in (["--jsonl", "-"], r'"\\u043f'), ([], r"\\u043f"):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            assert stream("--checkpoint", checkpoint, "--source", video, "--fast", *option) == 0
        text = out.buffer.getvalue().decode("ascii")
        assert re.search(pattern, text)
        if option:
            assert list(json.loads(text.splitlines()[0])["scores"]) == ["background", *CLASSES]


# ---- how it ends


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(checkpoint, tmp_path):
    """tools/stream.py, a file of 40 s in real time: and all that came is written out."""
    write_numbered_video(tmp_path / "long.mp4", 1000)
    args = ["--checkpoint", checkpoint, "--source", tmp_path / "long.mp4", "--device", "cpu", "--no-window"]
    files = ["--jsonl", tmp_path / "a.jsonl", "--events", tmp_path / "e.csv", "--record", tmp_path / "r.mp4"]
    tool = Path(__file__).parents[2] / "tools" / "stream.py"
    process = subprocess.Popen(
        [sys.executable, tool, *map(str, (*args, *files))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        lines = tmp_path / "a.jsonl"
        while not (lines.exists() and lines.read_text().count("\n") >= 4) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "vidact stream: loading …\n")
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert answers[-1]["last"]
    assert answers[-1]["seconds"] < 30
    ((_, begin, end, label),) = table(tmp_path / "e.csv")
    assert (begin, end, label) == (0, answers[-1]["seconds"] + 0.25, CLASSES[0])
    with open_video(tmp_path / "r.mp4") as recorded:
        assert f"recorded: {tmp_path / 'r.mp4'}, {len(recorded)} frames" in out
        assert recorded.times_s[-1] >= answers[-1]["seconds"]
    assert b"moof" not in (tmp_path / "r.mp4").read_bytes()  # no fragments: every player can seek in it


def test_a_window_that_is_closed_before_there_is_a_source():
    stop, camera = player.Stop(), Live()
    stop()
    with stop.on_signals([camera]):
        assert camera.is_closed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("full", ["--record", "--events", "--jsonl", "--snapshots"])
def test_a_full_disk_costs_one_writer(full, checkpoint, video, tmp_path, capsys, monkeypatch):
    """One line names the file, and what the others write is whole, the open event too."""
    files = {"--record": "r.mp4", "--events": "e.csv", "--jsonl": "a.jsonl", "--snapshots": "shots"}
    if full == "--snapshots":
        monkeypatch.setattr(Snapshots, "write", lambda self, *_: no_room(self.folder / "clip.jpg"))
    else:
        (tmp_path / files[full]).symlink_to("/dev/full")
    options = [word for option, name in files.items() for word in (option, tmp_path / name)]
    assert stream("--checkpoint", checkpoint, "--source", video, "--fast", *options) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len([line for line in lines if "No space left on device" in line and files[full] in line]) == 1 + (
        full in ("--events", "--jsonl")  # what found no room to the end is told at the end
    )
    assert "12 answers; 1 event" in said.out
    if full != "--jsonl":
        answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        assert len(answers) == 12
        assert len(answers[-1]["events"]) == 1
    if full != "--events":
        assert table(tmp_path / "e.csv") == [(str(video), 0, 3, "прыжок")]
    if full != "--record":
        with open_video(tmp_path / "r.mp4") as recorded:
            assert len(recorded) == 75
    if full != "--snapshots":
        assert len(list((tmp_path / "shots").iterdir())) == 1
    assert ("recorded" in said.out) == (full != "--record")
    assert not [thread for thread in threading.enumerate() if "r.mp4" in thread.name]


def no_room(path):
    raise OSError(28, f"{path} cannot be written (No space left on device)")


def press_ctrl_c(number, lines, count, camera):
    """Send this process a signal once so many lines are written."""

    def wait():
        until = time.monotonic() + 60
        while not lines.is_file() or lines.read_text().count("\n") < count:
            if time.monotonic() > until:
                Live.close(camera)  # the test fails; a late signal would end another one
                return
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_order(number, monkeypatch, tmp_path, capsys):
    """The source waits for a picture that never comes; the event that is going on ends, and all is written out."""
    camera = Live()
    frames = steady(1.05)
    for one in frames:
        one.image[:] = 0

    camera.show(*frames)
    press_ctrl_c(number, tmp_path / "a.jsonl", 4, camera)
    before = signal.getsignal(number)
    files = ["--events", tmp_path / "e.csv", "--record", tmp_path / "r.mp4", "--jsonl", tmp_path / "a.jsonl"]
    assert stream(*plays(monkeypatch, camera, on=0.01), *files) == 0
    assert signal.getsignal(number) == before
    assert sorted(table(tmp_path / "e.csv")) == [("camera", 0, 1, "b"), ("camera", 0, 1, "прыжок")]
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[-1])["last"] is True
    with open_video(tmp_path / "r.mp4") as recorded:
        assert len(recorded) == len(frames)
    assert "\n4 answers; 2 events" in capsys.readouterr().out


def test_a_second_ctrl_c_interrupts(monkeypatch, tmp_path, capsys):
    class Stuck(Live):
        def close(self):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

    camera = Stuck()
    camera.show(*steady(0.5))
    sources = plays(monkeypatch, camera)
    monkeypatch.setattr(Closing, "__exit__", lambda self, *error: None)
    press_ctrl_c(signal.SIGINT, tmp_path / "a.jsonl", 1, camera)
    with pytest.raises(KeyboardInterrupt):
        stream(*sources, "--jsonl", tmp_path / "a.jsonl")
    Live.close(camera)  # its reader still waits
    assert "answers" in capsys.readouterr().out


def test_a_camera_that_stalls_ends_after_its_seconds(monkeypatch, capsys):
    camera = Live()
    camera.show(*steady(0.3))
    began = time.monotonic()
    assert stream(*plays(monkeypatch, camera), "--seconds", 1) == 0
    assert time.monotonic() - began > 0.9
    assert "\n1 answer;" in capsys.readouterr().out


def test_a_source_that_fails(monkeypatch, tmp_path, capsys):
    """The only one ends the run with its error, after everything is written; one of several leaves the others."""
    camera = Live()
    camera.show(*steady(0.6), OSError("the camera is on fire"))
    with pytest.raises(OSError, match="on fire"):
        stream(*plays(monkeypatch, camera), "--jsonl", tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [line["last"] for line in map(json.loads, lines) if not line["repeat"] or line["last"]] == [
        False, False, True,
    ]  # fmt: skip
    assert "2 answers" in capsys.readouterr().out
    camera, good = Live("front"), Named("back", steady(2))
    camera.show(*steady(0.6), OSError("the camera is on fire"))
    assert stream(*plays(monkeypatch, camera, good)) == 1
    said = capsys.readouterr()
    assert "front: the camera is on fire" in said.err
    assert "10 answers" in said.out


def test_a_reader_that_goes_away(checkpoint, video, monkeypatch, capsys):
    """``vidact stream --jsonl - | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, os.fdopen(writing, "w") as pipe:
        patch.setattr(sys, "stdout", pipe)
        assert stream("--checkpoint", checkpoint, "--source", video, "--fast", "--jsonl", "-") == 0
    assert "answers" in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_no_other_file(checkpoint, video, monkeypatch, tmp_path, capsys):
    """Every row is there, the open event's too; whether the lines or the words were read."""
    for options in (["--jsonl", "-"], []):
        reading, writing = os.pipe()
        os.close(reading)
        files = ["--events", tmp_path / f"{len(options)}.csv", "--record", tmp_path / f"{len(options)}.mp4"]
        with monkeypatch.context() as patch, os.fdopen(writing, "w") as pipe:
            patch.setattr(sys, "stdout", pipe)
            assert stream("--checkpoint", checkpoint, "--source", video, "--fast", *options, *files) == 0
        assert table(tmp_path / f"{len(options)}.csv") == [(str(video), 0, 3, "прыжок")]
        with open_video(tmp_path / f"{len(options)}.mp4") as recorded:
            assert len(recorded) == 75
    assert "nobody reads the JSON lines any more" in capsys.readouterr().err


def test_one_source_of_several_that_cannot_be_opened(checkpoint, video, tmp_path, capsys):
    """The others are watched meanwhile; it is tried again, and programs are told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    url = f"rtsp://127.0.0.1:{closed}/x"
    common = ["--checkpoint", checkpoint, "--source", video, "--source", url, "--fast", "--seconds", 2]
    assert stream(*common, "--jsonl", tmp_path / "a.jsonl", "--events", tmp_path / "e.csv") == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines if "state" not in line] == [t / 4 for t in range(8)]
    (lost,) = [line for line in lines if "state" in line]
    lost.pop("time")
    assert lost == {"source": url, "state": "lost", "why": f"{url} cannot be opened: Connection refused"}
    assert table(tmp_path / "e.csv") == [(str(video), 0, 2, "прыжок")]
    said = capsys.readouterr().err
    assert f"{url} cannot be opened: Connection refused; trying again in 0.5 s" in said
    assert f"{url} cannot be opened: Connection refused; trying again in 1 s" in said


def test_a_file_of_several_that_cannot_be_read(checkpoint, video, tmp_path, capsys):
    (tmp_path / "notes.mp4").write_text("these are notes\n" * 99)
    common = ["--checkpoint", checkpoint, "--source", tmp_path / "notes.mp4", "--source", video, "--fast"]
    assert stream(*common, "--jsonl", tmp_path / "a.jsonl", "--record", tmp_path / "r.mp4") == 1
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert (lines[0]["source"], lines[0]["state"]) == (str(tmp_path / "notes.mp4"), "failed")
    assert "is not a video that can be read" in lines[0]["why"]
    assert len(lines) == 1 + 12
    assert [path.name for path in tmp_path.glob("r*")] == ["r-2.mp4"]  # it has the place of its source
    assert "left out: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "words"), [("nowhere.mp4", "does not exist"), ("ftp://host/a", "not a kind of source")]
)
def test_a_typing_mistake_among_several_is_an_error(source, words, checkpoint, video, capsys):
    args = ["--checkpoint", checkpoint, "--source", video, "--source", source, "--no-window", "--device=cpu"]
    assert words in fails(args, capsys)


def test_what_sources_tell_is_printed(monkeypatch, capsys):
    stream(*plays(monkeypatch, Named("short", steady(0.1))))
    said = capsys.readouterr()
    assert "short ended after 0.04 s without an answer; the first one needs 0.25 s" in said.err
    assert "\n0 answers; 0 events; 0 frames dropped; 0.0 s of video" in said.out


# ---- what is refused


def commands(words: str) -> list[list[str]]:
    """What is typed after "vidact" in the indented lines."""
    return [shlex.split(line)[1:] for line in words.splitlines() if line.startswith("  vidact ")]


def test_without_a_checkpoint(video, tmp_path, monkeypatch, capsys):
    """Each command that is named exists, with its options and its configuration."""
    monkeypatch.chdir(tmp_path)  # where no demo ran
    words = fails(["--source", video], capsys)
    for wanted in ("--checkpoint", "events.csv (video,start_s,end_s,label)", "videos.csv (video,split)"):
        assert wanted in words
    named = commands(words)
    assert [name for name, *_ in named] == ["demo", "train", "extract", "train"]
    for name, *options in named:
        assert name in cli.COMMANDS
        if "--config" in options:
            text = find_config(options[options.index("--config") + 1]).read_text()
            assert "root:" in text
            assert "num_classes: 0" in text  # as many as the user's data has
        if name == "extract":
            with pytest.raises(FileNotFoundError, match="my_videos"):  # the options are right, the folder is not there
                extract.main(options)


def make_demo(folder: Path, checkpoint: Path) -> Path:
    """What ``vidact demo`` leaves: recognisers, a detector, a localiser, and the videos of the last two."""
    record = vidact.models.weights.load(checkpoint).record
    for name, left_out in ("tsn", "features"), ("untrimmed_localiser", ""), ("untrimmed_miniroad", ""):
        path = folder / name / "checkpoints" / "best.ckpt"
        path.parent.mkdir(parents=True)
        kept = {key: value for key, value in record.items() if key != left_out}
        kept |= {"kind": "localiser"} if "localiser" in name else {}
        torch.save({"state_dict": {"network.weight": torch.zeros(1)}, "vidact": kept}, path)
    for name in ("tsn", "untrimmed_localiser"):  # newer, but no detectors
        os.utime(path.parents[2] / name / "checkpoints" / "best.ckpt", (2e9, 2e9))
    (folder / "untrimmed").mkdir()
    (folder / "untrimmed" / "videos.csv").write_text("video,split\nvideos/0.mp4,train\nvideos/1.mp4,test\n")
    return path


def test_the_demos_detector_is_named(checkpoint, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = make_demo(Path("runs/demo"), checkpoint)
    video_of_it = "runs/demo/untrimmed/videos/1.mp4"
    assert command.demo_model() == (path, {"a video of the demo": video_of_it})
    typed = ["stream", "--checkpoint", str(path)]
    assert commands(fails(["--source", video, "--fast"], capsys))[-1] == [*typed, "--source", str(video), "--fast"]
    assert commands(fails([], capsys))[-1] == [*typed, "--source", video_of_it]
    shutil.rmtree("runs/demo/untrimmed")
    assert command.demo_model() == (path, {})
    path.unlink()
    with pytest.raises(ValueError, match="a stream needs a trained network"):
        command.demo_model()


def test_a_recogniser_that_cannot_stream(video, tmp_path, capsys):
    torch.manual_seed(0)
    network = vidact.models.tsm_resnet_tiny(num_classes=2, size=32, width=8)
    path = save(network, tmp_path / "tsm.safetensors", {"classes": ["a", "b"]})
    words = fails(["--checkpoint", path, "--source", video, "--no-window"], capsys)
    assert "cannot stream: this tsm_resnet_tiny is bidirectional" in words
    assert "online detectors" in words
    assert "shift='causal'" in words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.mp4", "nowhere.mp4 does not exist; a source is a camera's number"),
        ("ftp://host/x.mp4", "ftp:// is not a kind of source"),
        (__file__, "is not a video that can be read"),
        ("", "a source is empty; give a camera's number"),
        ("4242", "camera 4242 cannot be opened"),
        ("http://127.0.0.1:1/x.mp4", "http://127.0.0.1:1/x.mp4 cannot be opened"),
    ],
)
def test_a_wrong_source(source, words, checkpoint, tmp_path, capsys):
    record = tmp_path / "r.mp4"
    args = ["--checkpoint", checkpoint, "--source", source, "--no-window", "--device=cpu", "--record", record]
    said = fails(args, capsys).splitlines()
    assert words in said[0]
    assert said[1:] == ["(VIDACT_TRACEBACK=1 shows where)"]
    assert not record.exists()


def test_a_file_that_was_cut_short(checkpoint, video, tmp_path, capsys):
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:2000])
    args = ["--checkpoint", checkpoint, "--source", tmp_path / "cut.mp4", "--no-window", "--device=cpu"]
    assert "it is probably cut short" in fails(args, capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "1.5"], "--threshold is 1.5; a threshold on probabilities is above 0 and at most 1"),
        (["--seconds", "0"], "--seconds is 0; give a number above 0"),
        (["--seconds", "inf"], "--seconds is inf; give a number above 0"),
        (["--timeline", "-1"], "--timeline is -1; give seconds above 0, at most 3600"),
        (["--timeline", "nan"], "--timeline is nan; give seconds above 0"),
        (["--device", "gpu"], "--device is gpu, which PyTorch does not have here"),
        (["--device", "cuda:99"], "--device is cuda:99, which PyTorch does not have here"),
        (["--checkpoint", "x.onnx", "--runtime", "torch"], "x.onnx runs in onnxruntime; leave --runtime torch out"),
        (["--jsonl", "a.txt", "--events", "b/../a.txt"], "--events and --jsonl are both a.txt"),
        (["--record", "out.avi"], "out.avi: recordings are mp4 files"),
        (["--record-segment", "0"], "'0' is no length of time above 0; write 90s, 30m, 1h or 1d"),
        (["--record-segment", "an hour"], "'an hour' is no length of time"),
        (["--checkpoint", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--snapshots", __file__], "which is a file; name a folder for the pictures"),
        (["--events", "."], "--events is ., which is a folder; name a file"),
        (["--jsonl", "."], "--jsonl is ., which is a folder; name a file"),
        (["--events", "/proc/x/e.csv"], "the folder /proc/x cannot be made (No such file"),
        (["--jsonl", f"{__file__}/a.jsonl"], "test_stream_command.py is a file); choose another place"),
        (["--jsonl", "/proc/x.jsonl"], "/proc/x.jsonl cannot be written (No such file"),
    ],
)
def test_a_wrong_option(options, words, checkpoint, video, capsys):
    args = ["--checkpoint", checkpoint, "--source", video, "--no-window", "--device=cpu", *options]
    assert words in fails(args, capsys)


def test_a_source_is_not_overwritten(checkpoint, video, tmp_path, capsys):
    shutil.copy(video, tmp_path / "x-2.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "x-2.mp4")
    before = video.read_bytes()
    common = ["--checkpoint", checkpoint, "--no-window", "--device=cpu", "--fast"]
    for output, *sources in [
        ("link.mp4", "x-2.mp4"),
        ("x-2.mp4", "link.mp4"),
        ("x.mp4", video, "x-2.mp4"),  # the recording of the second
    ]:
        args = [word for source in sources for word in ("--source", tmp_path / source)]
        assert "is a source" in fails([*common, *args, "--record", tmp_path / output], capsys)
    inside = fails([*common, "--source", tmp_path, "--record", tmp_path / "new.mp4"], capsys)
    assert f"inside the source {tmp_path}, whose files are played" in inside
    assert "is a source" in fails([*common, "--source", tmp_path, "--snapshots", tmp_path], capsys)
    assert (tmp_path / "x-2.mp4").read_bytes() == before
    assert not (tmp_path / "new.mp4").exists()


def test_a_wrong_option_leaves_older_files(checkpoint, video, tmp_path, capsys):
    (tmp_path / "e.csv").write_text("yesterday")
    args = [
        "--checkpoint",
        checkpoint,
        "--source",
        video,
        "--no-window",
        "--device=cpu",
        "--events",
        tmp_path / "e.csv",
    ]
    fails([*args, "--record", tmp_path / "r.avi"], capsys)
    assert (tmp_path / "e.csv").read_text() == "yesterday"


def test_a_run_that_is_started_again_goes_on(monkeypatch, tmp_path):
    """The same command with a live source, twice: nothing of the first run is lost, and the second is all there."""
    files = ["--events", tmp_path / "e.csv", "--jsonl", tmp_path / "a.jsonl"]
    files += ["--record", tmp_path / "r.mp4", "--snapshots", tmp_path / "shots"]
    for run_ in (1, 2):
        camera = Live()
        frames = steady(1.05)
        for one in frames:
            one.image[:] = 0
        camera.show(*frames, None)
        assert stream(*plays(monkeypatch, camera, on=0.01), *files) == 0
        assert sorted(table(tmp_path / "e.csv")) == sorted(run_ * [("camera", 0, 1, "b"), ("camera", 0, 1, "прыжок")])
        assert (tmp_path / "a.jsonl").read_text().count(
            "\n"
        ) == run_ * 6  # four answers, two events that begin, and the end
        assert len(list((tmp_path / "shots").iterdir())) == run_ * 2
        recordings = list(tmp_path.glob("r*.mp4"))
        assert len(recordings) == run_
        for path in recordings:
            with open_video(path) as recorded:
                assert len(recorded) == len(frames)


@pytest.mark.parametrize("option", ["--events", "--jsonl"])
def test_what_a_camera_showed_is_not_overwritten(option, monkeypatch, tmp_path):
    path = tmp_path / "old.mp4"
    path.write_text("yesterday")
    with pytest.raises(
        FileExistsError, match=r"old\.mp4 is there already, and .*What a live source shows cannot be seen"
    ):
        stream(*plays(monkeypatch, Live()), option, path)
    assert path.read_text() == "yesterday"
    stream(*plays(monkeypatch, Named("clip", steady(0.5))), option, path)  # a file can be played again
    assert not path.read_bytes().startswith(b"yesterday")


# ---- the window


def test_the_window_is_a_program_without_pyav():
    """PyAV brings a libxcb with which OpenCV's first window never opens."""
    tree = ast.parse(Path(window.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.split(".")[0] in ("av", "torch", "torchvision", "vidact")}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_no_display(checkpoint, video, monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    words = fails(["--checkpoint", checkpoint, "--source", video], capsys)
    assert "there is no display here (DISPLAY is not set)" in words
    assert "Run with --no_window" in words
    monkeypatch.setenv("DISPLAY", ":4242")  # nobody is there: Qt would end the process
    words = fails(["--checkpoint", checkpoint, "--source", video], capsys)
    assert "could not connect to display :4242" in words
    assert "Run with --no_window" in words


def program(tmp_path, monkeypatch, text):
    """The window's program, replaced."""
    path = tmp_path / "program.py"
    path.write_text(f"import sys, time\n{text}")
    monkeypatch.setattr(window, "__file__", str(path))
    monkeypatch.setenv("DISPLAY", ":0")


def test_a_window_that_never_opens(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "time.sleep(60)")
    monkeypatch.setattr(window, "OPENS_WITHIN_S", 0.3)
    with pytest.raises(OSError, match=r"nothing happened for 0\.3 s"):
        Window()
    program(tmp_path, monkeypatch, "raise SystemExit('error: The function is not implemented. Rebuild')")
    monkeypatch.setattr(window, "OPENS_WITHIN_S", 30)
    with pytest.raises(OSError, match="install opencv-python instead"):
        Window()


def test_a_slow_screen_misses_pictures(tmp_path, monkeypatch):
    """Showing does not wait, and a picture larger than the screen is sent smaller."""
    seen = tmp_path / "seen"
    program(
        tmp_path, monkeypatch, "import struct\nprint('ready', flush=True)\n"
        "n, w, h = struct.unpack('<HII', sys.stdin.buffer.read(10))\n"
        f"sys.stdin.buffer.read(n + 3 * w * h); open({str(seen)!r}, 'w').write(f'{{w}} {{h}}')\ntime.sleep(60)",
    )  # fmt: skip
    with Window() as opened:
        for _ in range(100):
            opened.show("clip", np.zeros((1000, 4000, 3), np.uint8))
        assert opened._process.poll() is None  # which takes one picture and then sleeps
        until = time.monotonic() + 60
        while not (seen.exists() and seen.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
    assert seen.read_text() == "1600 400"


def test_closing_the_window_ends_the_stream(tmp_path, monkeypatch, capsys):
    program(tmp_path, monkeypatch, "print('ready', flush=True)\nsys.stdin.buffer.read(10)\nprint('closed', flush=True)")
    camera = Live()
    camera.show(*steady(0.6))
    assert command.main(plays(monkeypatch, camera)) == 0
    assert "2 answers" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb, a display without a screen, is not installed")
def test_a_real_window(monkeypatch):
    """Opens and shows although PyAV is imported here, and closes at once."""
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            monkeypatch.setenv("DISPLAY", f":{pipe.readline().strip()}")
        closed = threading.Event()
        with Window(on_close=closed.set) as opened:
            for _ in range(3):
                opened.show("прыжок", np.full((240, 320, 3), (200, 30, 60), np.uint8))
                assert opened._is_free.wait(60)
            if features.check("xcb"):  # this Pillow can look at the screen
                shown, until = 0, time.monotonic() + 60
                while shown <= 200 * 300 and time.monotonic() < until:  # the server draws when it comes to it
                    seen = np.asarray(ImageGrab.grab(xdisplay=os.environ["DISPLAY"]))
                    shown = (seen == (200, 30, 60)).all(2).sum()
                assert shown > 200 * 300
            assert not opened.is_closed
            assert not closed.is_set()
        assert opened._process.returncode == 0
    finally:
        server.terminate()
        server.wait()


def test_lengths_of_time():
    lengths = {"90": 90, "90s": 90, "1.5m": 90, "1h": 3600, "2 d": 172_800}
    for text, seconds in lengths.items():
        assert command.parse(["--checkpoint", "x", "--record-segment", text]).record_segment == seconds
    assert command.parse(["--checkpoint", "x"]).record_segment == 3600


def test_onnx_files_choose_their_runtime(monkeypatch, tmp_path):
    """And its keywords are those of ``load_model``."""
    for runtime in ("torch", "auto", "onnx"):
        with pytest.raises(FileNotFoundError, match=r"x\.onnx"):
            command.open_model(tmp_path / "x.onnx", runtime, extractor=None, events={}, device=None)
    opened = []
    monkeypatch.setattr("vidact.stream.model.load_model", lambda path, **settings: opened.append(settings["runtime"]))
    for runtime in ("torch", "auto", "onnx"):
        command.open_model(tmp_path / "x.ckpt", runtime, extractor=None, events={}, device=None)
    assert opened == ["torch", "auto", "onnx"]


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    words = capsys.readouterr().out
    named = set(vars(command.parse(["--checkpoint", "x"])))
    assert len(named) > 13
    for option in named:
        assert f"--{option}" in words
    assert command.parse(["--checkpoint", "x"]).source == ["0"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no flock")
def test_a_table_that_another_stream_writes_to_is_refused_before_anything_is_opened(tmp_path):
    path = tmp_path / "events.csv"
    with EventTable(path, appends=True), pytest.raises(OSError, match=r"events\.csv is being written by another proc"):
        command.parse(["--checkpoint", "x.ckpt", "--events", str(path)])
    assert command.parse(["--checkpoint", "x.ckpt", "--events", str(path)]).events == path


def test_a_recogniser_does_not_run_in_onnx_without_a_file():
    from vidact.models import tsm_resnet_tiny
    from vidact.models.weights import attach
    from vidact.stream import load_model

    network = tsm_resnet_tiny(num_classes=2, size=32, shift="causal")
    attach(network, record={"classes": ["a", "b"]})
    with pytest.raises(ValueError, match=r"is a recogniser, whose step runs in PyTorch; .* vidact export --checkpoint"):
        load_model(network, runtime="onnx", device="cpu")
