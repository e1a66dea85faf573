"""``vidact prepare check`` finds every planted defect, and nothing in a clean set."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidact import cli
from vidact.data.clip_list import load_clips
from vidact.data.official_lists import ClipRow, write_clips_csv
from vidact.data.synthetic import write_clips, write_video
from vidact.prepare.check import CHECK, check_set
from vidact.prepare.examine import examine


def moving(seed, frames=40, side=64):
    """Return a textured square that crosses a textured wall; every seed gives other pictures."""
    random = np.random.default_rng(seed)
    coarse = random.integers(30, 220, (side // 8, side // 8, 3), dtype=np.uint8)
    wall = np.repeat(np.repeat(coarse, 8, 0), 8, 1)
    square = np.repeat(np.repeat(random.integers(0, 255, (2, 2, 3), dtype=np.uint8), 8, 0), 8, 1)
    film = np.repeat(wall[None], frames, 0)
    for t in range(frames):
        at = t * (side - 16) // frames
        film[t, at : at + 16, at : at + 16] = square
    return film


def write(path, film, rate=25, container_rate=None, stamps=None, codec="libx264", audio_s=0.0):
    """Write a file with any times; the rate that its header states may differ from that of the frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=container_rate or rate, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *film.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = file.add_stream("aac", rate=16000) if audio_s else None
        for i, image in enumerate(film):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = i * 1000 // rate if stamps is None else stamps[i]
            frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if sound is not None:
            write_sound(file, sound, audio_s)


def write_sound(file, sound, seconds):
    for first in range(0, int(16000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, first
        file.mux(sound.encode(frame))
    file.mux(sound.encode())


CLEAN = {f"{label}/{i}.mp4": (label, split, 10 * row + i)
         for row, label in enumerate(("jump", "run"))
         for i, split in enumerate(("train", "train", "train", "val", "test", "test"))}  # fmt: skip


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    for name, (_, _, seed) in CLEAN.items():
        write_video((root / name), moving(seed), 25, keyframe_every=12)
    write_clips_csv(root, [ClipRow(name, label, split) for name, (label, split, _) in CLEAN.items()], ["jump", "run"])
    return root


@pytest.fixture
def planted(clean, tmp_path):
    """Write files with each defect; the name of a file in ``wrong`` is the only kind that must be found in it."""
    root = tmp_path / "planted"
    shutil.copytree(clean, root)
    wrong = root / "wrong"
    wrong.mkdir()
    film = moving(100, 60)
    (wrong / "empty file.mp4").touch()
    (wrong / "unreadable.mp4").write_bytes(b"not a video at all, only words " * 50)
    write(wrong / "whole.mp4", moving(101, 60))
    whole = (wrong / "whole.mp4").read_bytes()
    (wrong / "truncated.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (wrong / "whole.mp4").unlink()
    with av.open(str(wrong / "no video stream.mp4"), "w") as file:
        write_sound(file, file.add_stream("aac", rate=16000), 1.0)
    # noise: a file whose bytes matter everywhere
    noise = np.random.default_rng(7).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    write(wrong / "damaged.mp4", noise)
    data = bytearray((wrong / "damaged.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    (wrong / "damaged.mp4").write_bytes(data)
    write(wrong / "blank.mp4", np.full((40, 64, 64, 3), 16, np.uint8))
    write(wrong / "frozen.mp4", np.repeat(moving(102, 1), 40, 0))
    write(wrong / "frame rate.mkv", film, rate=10, container_rate=25)
    stamps = [40 * i + (3000 if i >= 30 else 0) for i in range(60)]
    write(wrong / "gap.mp4", moving(103, 60), stamps=stamps)
    write(wrong / "duration.mp4", moving(104, 40), audio_s=6.0)
    write(wrong / "short.mp4", moving(105, 3))
    write(wrong / "range.mp4", moving(106))
    shutil.copy(root / "jump/0.mp4", wrong / "duplicate.mp4")
    write(wrong / "leakage.mp4", moving(CLEAN["jump/4.mp4"][2]))  # a test clip, encoded again
    shutil.copy(root / "run/1.mp4", wrong / "label conflict.mp4")
    write(wrong / "unlisted.mp4", moving(107))
    rows = [ClipRow(name, label, split) for name, (label, split, _) in CLEAN.items()]
    rows += [
        ClipRow(f"wrong/{path.name}", "jump", "train", end_s=9.0 if path.stem == "range" else None)
        for path in sorted(wrong.iterdir())
        if path.stem != "unlisted"
    ]
    rows += [ClipRow("wrong/missing.mp4", "jump", "train"), ClipRow("jump/5.mp4", "late", "test", 0.5)]
    write_clips_csv(root, rows, ["jump", "run", "late", "never"])
    return root


def test_every_planted_defect_is_found(planted, tmp_path):
    checked = check_set(planted, tmp_path / "report", least_frames=8, progress=False)
    finding_of = {finding.kind: finding for finding in checked.findings}
    files = {path.stem for path in (planted / "wrong").iterdir()} | {"missing"}
    for kind in files:
        assert kind in finding_of, f"{kind} was not found"
        concerned = {name for finding in checked.findings if finding.kind == kind for name in finding.videos}
        assert any(Path(name).stem == kind for name in concerned), (kind, concerned)
    assert len(files) >= 16
    assert "'never'" not in finding_of["empty class"].words
    assert "never" in finding_of["empty class"].words
    assert "late" in finding_of["no training clip"].words
    # Every defect has its kind, and no file has a kind of defect that it does not have.
    also = {"label conflict": {"duplicate"}, "empty file": {"empty file"}}
    for finding in checked.findings:
        for name in finding.videos:
            stem = Path(name).stem
            if name.startswith("wrong/") and finding.kind != stem:
                assert finding.kind in also.get(stem, ()), (name, finding)
            if not name.startswith("wrong/"):
                assert finding.kind in ("duplicate", "leakage", "label conflict"), finding


def test_a_link_to_no_file_is_missing(clean, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(clean, root)
    (root / "clips.csv").unlink()
    (root / "run/lost.mp4").symlink_to(tmp_path / "gone.mp4")
    findings = check_set(root, tmp_path / "report", progress=False).findings
    assert [(finding.kind, finding.videos) for finding in findings] == [("missing", ("run/lost.mp4",))]
    name = f"{'x' * 300}.mp4"  # which no file can have
    write_clips_csv(root, [ClipRow(path, label, split) for path, (label, split, _) in CLEAN.items()])
    with (root / "clips.csv").open("a") as table:
        table.write(f"{name},run,train\n")
    findings = check_set(root, tmp_path / "report", progress=False).findings
    assert ("missing", (name,)) in [(finding.kind, finding.videos) for finding in findings]


def test_a_pattern_is_refused_before_videos_are_read(clean, tmp_path):
    for pattern, message in (("(", "no regular expression"), ("(nobody)", "matches no group in")):
        with pytest.raises(ValueError, match=message):
            check_set(clean, tmp_path / "report", group=pattern, progress=False)
    assert not (tmp_path / "report").exists()


def test_a_clean_set_is_clean(clean, tmp_path):
    checked = check_set(clean, tmp_path / "report", group=r"(\w+/\d+)", progress=False)
    assert checked.findings == []
    assert json.loads((tmp_path / "report" / CHECK).read_text())["figures"]["videos"] == len(CLEAN)


@pytest.mark.slow
def test_generated_clips_are_clean(tmp_path):
    """Half of these classes show the same scenes forwards and backwards."""
    write_clips(tmp_path / "clips", {"train": 3, "val": 1, "test": 1})
    assert check_set(tmp_path / "clips", tmp_path / "report", progress=False).findings == []


def test_groups_and_balance(clean, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(clean, root)
    rows = [ClipRow(name, "run", "train") for name in CLEAN if name != "jump/0.mp4"] + [
        ClipRow("jump/0.mp4", "jump", "train")
    ]
    write_clips_csv(root, rows)
    finding_of = {finding.kind: finding for finding in check_set(root, tmp_path / "a", progress=False).findings}
    assert set(finding_of) == {"imbalance"}
    assert "11 training clips of 'run' and 1 of 'jump'" in finding_of["imbalance"].words
    write_clips_csv(root, [ClipRow(name, label, split) for name, (label, split, _) in CLEAN.items()])
    kinds = check_set(root, tmp_path / "a", group=r"(\d)\.mp4", progress=False).kinds()
    assert kinds == {}  # number i is in one split for both classes
    checked = check_set(root, tmp_path / "a", group=r"^(\w+)/", progress=False)
    assert [finding.kind for finding in checked.findings] == ["group on two sides"] * 2
    assert "'jump' stands in test and train and val" in checked.findings[0].words


def test_one_file_in_two_splits(clean, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(clean, root)
    rows = [ClipRow(name, label, split) for name, (label, split, _) in CLEAN.items()]
    write_clips_csv(root, [*rows, ClipRow("run/0.mp4", "run", "test", 0.8)])
    (finding,) = check_set(root, tmp_path / "report", progress=False).findings
    assert (finding.kind, finding.videos) == ("leakage", ("run/0.mp4",))
    assert "clips of this one file stand in test and train" in finding.words


def test_a_report_among_the_videos_is_refused(clean, tmp_path):
    """Its pictures would be a class of the set."""
    with pytest.raises(ValueError, match="lies in the folder of the videos"):
        check_set(clean, clean / "report", progress=False)
    assert not (clean / "report").exists()
    (tmp_path / "report").touch()
    with pytest.raises(NotADirectoryError, match="report is a file; name a folder"):
        check_set(clean, tmp_path / "report", progress=False)


def test_untrimmed_sets(clean, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(clean, root)
    (root / "clips.csv").unlink()
    (root / "videos.csv").write_text(
        "video,split\n" + "".join(f"{name},{split}\n" for name, (_, split, _) in CLEAN.items())
    )
    (root / "events.csv").write_text("video,start_s,end_s,label\njump/0.mp4,0,1.5,jump\n")
    assert check_set(root, tmp_path / "report", progress=False).findings == []
    (root / "events.csv").write_text("video,start_s,end_s,label\njump/0.mp4,0,7.5,jump\n")
    (finding,) = check_set(root, tmp_path / "report", progress=False).findings
    assert (finding.kind, finding.videos) == ("range", ("jump/0.mp4",))
    assert "'jump' ends at 7.50 s of a video of 1.60 s" in finding.words


def test_the_command_reports_and_does_not_read_twice(planted, tmp_path, capsys, monkeypatch):
    out = tmp_path / "report"
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    command = ["prepare", "check", "--data", str(planted), "--out", str(out), "--workers", "1"]
    with pytest.raises(SystemExit) as exit:
        cli.main([*command, "--show"])
    assert exit.value.code == 1
    printed = capsys.readouterr().out
    assert "leakage: wrong/leakage.mp4" in printed or "leakage: jump/4.mp4, wrong/leakage.mp4" in printed
    assert opened == [(out / "report.html").resolve().as_uri()]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 2  # the sheet of the findings, and a sample of the other videos
    assert "label conflict" in page
    before = json.loads((out / CHECK).read_text())
    assert before["kinds"]["truncated"] == 1
    monkeypatch.setattr("vidact.prepare.check.examine", lambda path: pytest.fail(f"{path} is read again"))
    check_set(planted, out, progress=False)
    assert json.loads((out / CHECK).read_text()) == before


@pytest.mark.slow
def test_workers_do_not_matter(clean, tmp_path):
    alone = check_set(clean, tmp_path / "a", progress=False)
    together = check_set(clean, tmp_path / "b", workers=2, progress=False)
    assert alone.facts == together.facts
    assert load_clips(clean).clips  # the set is as it was


def test_real_videos_are_not_called_copies(shared_data, tmp_path):
    """Videos of nine people before one wall are different, although the background is the same."""
    videos = [examine(path) for path in sorted((shared_data / "weizmann").glob("*/d*.avi"))[:12]]
    from vidact.prepare.examine import find_duplicates

    assert find_duplicates(videos) == []
    assert [video.problems for video in videos] == [[]] * len(videos)
