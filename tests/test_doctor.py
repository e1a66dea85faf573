"""The doctor believes nothing for being importable."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidact import doctor as module
from vidact.doctor import check_decoders, check_devices, check_videos, doctor, installed_versions, suggestions
from vidact.video.decode import OpenCVReader, PyAVReader
from vidact.video.numbered import numbered_picture, read_number, write_numbered_video

WELL = {"pyav": "works", "decord": "works", "opencv": "works", "torchcodec": "works"}
GPU = {"cpu": "works", "cuda:0": "works (a card, 80 GiB)"}


def test_numbers_come_back() -> None:
    for number in (0, 1, 31, 32, 511, 1023):
        assert read_number(numbered_picture(number).transpose(2, 0, 1)) == number
    with pytest.raises(ValueError, match="1024 does not fit"):
        numbered_picture(1024)


def test_versions() -> None:
    versions = installed_versions()
    assert versions["torch"] == torch.__version__
    assert {"python", "vidact", "torchvision", "lightning", "av", "decord", "torchcodec", "timm"} <= set(versions)


def test_the_default_decoder_works() -> None:
    states = check_decoders()
    assert states["pyav"] == "works"
    for name, state in states.items():
        assert state == "works" or "cannot be used" in state, (name, state)


def test_a_decoder_that_brings_wrong_pictures_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PyAVReader.pictures
    monkeypatch.setattr(PyAVReader, "pictures", lambda self, numbers: original(self, [0 for _ in numbers]))
    assert check_decoders()["pyav"] == "brings frames [0, 0, 0, 0, 0] when asked for [0, 29, 7, 8, 20]"


def test_the_cpu_works() -> None:
    assert check_devices()["cpu"].startswith("works")


def test_suggestions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIB", 1)  # every disk has a few bytes
    assert suggestions({"opencv-python": "5"}, WELL, GPU) == []
    both = {"opencv-python": "5", "opencv-contrib-python-headless": "5"}
    assert "overwrite each other's files" in suggestions(both, WELL, GPU)[0]
    assert "decoder opencv does not work" in suggestions({"opencv-python": "5"}, WELL | {"opencv": "crashes"}, GPU)[0]
    assert "no accelerator" in suggestions({}, WELL, {"cpu": "works", "mps": "not there"})[0]
    monkeypatch.setattr(module, "GIB", 2**60)  # no disk has that much
    words = " ".join(suggestions({}, WELL, GPU))
    assert "free on the disk" in words


def test_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    write_numbered_video(tmp_path / "videos" / "good.mp4", 12)
    (tmp_path / "videos" / "bad.mp4").write_text("notes")
    assert doctor(tmp_path / "videos", tmp_path / "report.json") == 1
    said = capsys.readouterr().out
    assert "pyav reads 1 of 2" in said
    assert "bad.mp4: bad.mp4 is not a video" in said
    report = json.loads((tmp_path / "report.json").read_text())
    row = next(row for row in report["videos"] if row["file"] == "good.mp4" and row["decoder"] == "pyav")
    assert (row["frames"], row["width"], row["height"], row["first_s"], row["last_s"]) == (12, 96, 64, 0, 0.44)
    (tmp_path / "videos" / "bad.mp4").unlink()
    assert doctor(tmp_path / "videos") == 0


def test_pictures_that_differ_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    write_numbered_video(tmp_path / "clip.mp4", 12)
    original = OpenCVReader.pictures
    monkeypatch.setattr(
        OpenCVReader, "pictures", lambda self, numbers: (255 - np.array(image) for image in original(self, numbers))
    )
    rows = check_videos(tmp_path, ["opencv", "pyav"])
    assert [row["decoder"] for row in rows] == ["pyav", "opencv"]
    assert "differ from PyAV's" in rows[1]["reason"]


def test_folders_without_videos(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no video"):
        check_videos(tmp_path, ["pyav"])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        doctor(tmp_path / "nowhere")
