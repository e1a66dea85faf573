"""``vidact prepare check`` counts clips, seconds and events by class and split, and the unlabelled time."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from vidact import cli
from vidact.data.event_list import Event
from vidact.data.official_lists import ClipRow, write_clips_csv, write_events_csv, write_videos_csv
from vidact.data.synthetic import write_video
from vidact.prepare.check import CHECK, check_set


def film(root: Path, name: str, seconds: float, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (int(25 * seconds), 4, 4, 3), dtype=np.uint8)
    write_video(root / name, np.repeat(np.repeat(noise, 8, 1), 8, 2), 25)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate("abcd"):
        film(root, f"{name}.mp4", 2, seed)
    rows = [
        ClipRow("a.mp4", "run", "train"),
        ClipRow("b.mp4", "run", "train", 0.5, 1.0),
        ClipRow("c.mp4", "jump", "train", 1.2),
        ClipRow("d.mp4", "jump", "test", None, 1.5),
    ]
    write_clips_csv(root, rows, ["run", "jump", "never"])
    return root


@pytest.fixture(scope="module")
def untrimmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("untrimmed")
    for seed, name in enumerate("vw"):
        film(root, f"{name}.mp4", 4, 10 + seed)
    events = [
        Event("v.mp4", 0.4, 1.4, "run"),
        Event("v.mp4", 1.2, 2.0, "jump"),
        Event("v.mp4", 2.0, 2.2, "ambiguous"),
        Event("w.mp4", 0.0, 4.0, "run"),
    ]
    write_events_csv(root / "events.csv", events)
    write_videos_csv(root / "videos.csv", {"v.mp4": "train", "w.mp4": "test"})
    return root


def test_clips_and_seconds_of_each_class_and_split(clips, tmp_path):
    checked = check_set(clips, tmp_path / "out", progress=False)
    rows = {(row["class"], row["split"]): row for row in checked.classes}
    assert set(rows) == {("run", "train"), ("jump", "train"), ("jump", "test"), ("never", "")}
    assert [(rows[key]["clips"], rows[key]["seconds"]) for key in rows] == [
        (2, pytest.approx(2.5, abs=0.05)),  # 2 s and half a second
        (1, pytest.approx(0.8, abs=0.05)),
        (1, pytest.approx(1.5, abs=0.05)),
        (0, 0),
    ]
    figures = json.loads((tmp_path / "out" / CHECK).read_text())
    assert figures["classes"] == checked.classes
    assert figures["unlabelled"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Classes" in page
    assert "never" in page


def test_events_and_seconds_and_the_time_at_the_ends(untrimmed, tmp_path):
    checked = check_set(untrimmed, tmp_path / "out", progress=False)
    rows = {(row["class"], row["split"]): row for row in checked.classes}
    assert {key: (row["events"], row["videos"]) for key, row in rows.items()} == {
        ("run", "train"): (1, 1), ("run", "test"): (1, 1), ("jump", "train"): (1, 1), ("ambiguous", "train"): (1, 1),
        ("background", "train"): (0, 1), ("background", "test"): (0, 1),
    }  # fmt: skip
    seconds = {key: row["seconds"] for key, row in rows.items()}
    assert seconds["run", "train"] == pytest.approx(1.0)
    assert seconds["run", "test"] == pytest.approx(4.0, abs=0.05)
    # Of 4 s, the labels cover 0.4 to 2.2 s, so that 2.2 s are background; overlapping labels count once.
    assert seconds["background", "train"] == pytest.approx(2.2, abs=0.05)
    assert seconds["background", "test"] == pytest.approx(0.0, abs=0.05)
    ends = checked.unlabelled
    assert ends["before_s"] == pytest.approx(0.4)
    assert ends["after_s"] == pytest.approx(1.8, abs=0.05)
    assert ends["share"] == pytest.approx(2.2 / 8, abs=0.01)
    assert ends["videos"] == {"v.mp4": pytest.approx(2.2 / 4, abs=0.01)}  # more than half of it, at its ends


def test_a_video_without_events_is_unlabelled_whole(untrimmed, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("v", "w"):
        (root / f"{name}.mp4").write_bytes((untrimmed / f"{name}.mp4").read_bytes())
    write_events_csv(root / "events.csv", [Event("v.mp4", 0.0, 4.0, "run")])
    write_videos_csv(root / "videos.csv", {"v.mp4": "train", "w.mp4": "train"})
    checked = check_set(root, tmp_path / "out", progress=False)
    assert checked.unlabelled["share"] == pytest.approx(0.5, abs=0.01)
    assert checked.unlabelled["videos"] == {"w.mp4": 1.0}


def test_the_command_prints_both(clips, untrimmed, tmp_path, capsys):
    for root in (clips, untrimmed):
        with pytest.raises(SystemExit) if root == clips else contextlib.nullcontext():  # the empty class is a finding
            cli.main(["prepare", "check", "--data", str(root), "--out", str(tmp_path / root.name), "--workers", "1"])
    printed = capsys.readouterr().out
    assert "class" in printed
    run = next(line for line in printed.splitlines() if line.strip().startswith("run ") and "train" in line)
    assert run.split()[:4] == ["run", "train", "2", "2.5"]
    assert "unlabelled at the ends of videos: 0.4 s before the first event and 1.8 s after the last, 28 % of" in printed


def test_lists_whose_files_are_all_missing(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "clips.csv").write_text("path,label\na.mp4,run\nb.mp4,jump\n")
    checked = check_set(tmp_path / "set", tmp_path / "out", progress=False)
    assert checked.kinds() == {"missing": 2, "annotations": 1}
    assert (tmp_path / "out" / CHECK).exists()
    assert checked.classes == []
