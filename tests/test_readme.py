"""The commands of the README and of docs/ are run, with small data in the place of the reader's."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.pages import ROOT, commands
from support.serving import Client

from vidact import cli
from vidact.data.synthetic import write_clips
from vidact.results.figures import load_results
from vidact.training.config import find_config


def test_every_command_exists_and_every_configuration_is_found() -> None:
    pages = ("README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
    found = [line for page in pages for line in commands(page)]
    assert len(found) > 30
    for line in found:
        assert line[0] in cli.COMMANDS
        for word in line:
            if word.startswith(("clip/", "online/", "localise/", "segment/")):
                assert find_config(word).is_file()


def test_readme_and_docs_link_to_what_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def my_clips(folder: Path) -> Path:
    """A plain folder of class folders, and one of its clips beside it as clip.mp4."""
    write_clips(folder / "made", splits={"train": 4}, classes=["opening", "closing", "blinking star"], seed=0)
    for clip in sorted((folder / "made").rglob("*.mp4")):
        target = folder / "my_clips" / clip.parent.name / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        clip.rename(target)
    (folder / "clip.mp4").write_bytes(next((folder / "my_clips").rglob("*.mp4")).read_bytes())
    return folder / "my_clips"


@pytest.mark.slow
def test_what_the_first_training_of_the_readme_makes_is_predicted_with_streamed_served_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line is run as it is written, but for the run's folder, and for a file in the place of the camera."""
    monkeypatch.chdir(tmp_path)
    my_clips(tmp_path)
    lines = commands("README.md")
    (train,) = [line for line in lines if line == ["train", "--data.root", "my_clips"]]
    cli.main([*train, "--trainer.max_epochs=1", "--data.fractions=[0.5,0.25,0.25]", "--device=cpu"])
    (run,) = (tmp_path / "runs").glob("*/*")
    assert load_results(run)["test"]["videos"] > 0
    of_recognisers = [line for line in lines if RUN in line and "--events" not in line]
    later = {line[0]: [word.replace("runs/…", str(run)) for word in line] for line in of_recognisers}
    assert set(later) == {"predict", "stream", "serve", "export"}

    cli.main(later["predict"])
    assert "opening" in capsys.readouterr().out

    stream = [word if word != "0" else "clip.mp4" for word in later["stream"]]
    unattended = ["--no-window", "--fast", "--device=cpu"]
    cli.main([*stream, *unattended, "--jsonl", "answers.jsonl"])
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    classes = {"opening", "closing", "blinking star"}
    assert set(answers[-1]["scores"]) >= classes

    serve = [word if word != "0" else "clip.mp4" for word in later["serve"]]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "vidact", *serve, "--device=cpu", f"--port={port}"])
    try:
        wait_for_server(server, port)
        with Client(port) as client:
            client.start(0)
            assert len(client.read("answer")["scores"]) >= len(classes)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) in (0, 130)  # stopped by Ctrl-C
    finally:
        server.kill()

    cli.main(later["export"])
    cli.main(["stream", "--checkpoint", "x.onnx", "--source", "clip.mp4", *unattended, "--jsonl", "exported.jsonl"])
    exported = [json.loads(line) for line in Path("exported.jsonl").read_text().splitlines()]
    assert len(exported) == len(answers)
    for mine, theirs in zip(exported, answers, strict=True):
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-4)


RUN = "runs/…/checkpoints/best.ckpt"  # what stands for a run in the README


def wait_for_server(server: subprocess.Popen, port: int) -> None:
    """Return once the server answers."""
    end = time.monotonic() + 120
    while True:
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < end, "the server does not start"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10):
                return
        except OSError:
            time.sleep(0.1)


@pytest.mark.slow
def test_the_demo_ends_with_its_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cli.main(["demo", f"--out={tmp_path / 'demo'}", "--epochs=1", "--clips=1"])
    out = capsys.readouterr().out
    assert "inside order-only pairs" in out
    assert all(name in out for name in ("TSN", "TRN", "TSM"))
    assert (tmp_path / "demo" / "report.html").is_file()
    assert (tmp_path / "demo" / "plots" / "order.png").is_file()
