"""Preparing a set: the same videos in another form, and after any interruption each is whole or absent."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.workers import await_end, children_of

from vidact import cli, jobs
from vidact.data.clip_list import load_clips
from vidact.data.official_lists import ClipRow, write_clips_csv
from vidact.data.synthetic import write_video
from vidact.prepare import sets as prepare
from vidact.prepare.pack import PackSettings
from vidact.prepare.sets import pack_set, transcode_set
from vidact.prepare.sources import NOTES
from vidact.prepare.transcode import TranscodeSettings
from vidact.video.decode import open_video
from vidact.video.numbered import write_numbered_video
from vidact.video.packed import PackedReader

FORK = multiprocessing.get_context("fork")  # a real process that need not import everything again
ROOT = Path(__file__).parents[2]
FAST = TranscodeSettings(preset="ultrafast", crf=20)
SMALL = PackSettings(shard_mib=0.002)  # a video or two in a shard


def film(seed, frames=24, height=48, width=64):
    random = np.random.default_rng(seed)
    coarse = random.integers(30, 220, (height // 8, width // 8, 1), dtype=np.uint8)  # grey: 4:2:0 would blur colours
    wall = np.kron(coarse, np.ones((8, 8, 3), np.uint8))
    film = np.repeat(wall[None], frames, 0)
    for t in range(frames):
        film[t, 8:24, t : t + 16] = 255 - 8 * t
    return film


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    rows = []
    for label in ("jump", "run"):
        for i, split in enumerate(("train", "val", "test")):
            rows.append(ClipRow(f"{label}/{i}.b.mp4", label, split, end_s=0.9 if i == 0 else None))
            write_video(root / rows[-1].path, film(3 * len(label) + i, 20 + 4 * i), 25, keyframe_every=12)
    write_clips_csv(root, rows, ["jump", "run"])
    return root


def contents(out):
    """Return the bytes of every file that was made, without the notes of the run."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and NOTES not in path.parts]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def stamps(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "lock"}


WAYS = {
    "transcode": lambda root, out, **more: transcode_set(root, out, FAST, progress=False, **more),
    "pack": lambda root, out, **more: pack_set(root, out, SMALL, progress=False, **more),
}


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture(scope="session")
def prepared(clips, tmp_path_factory: pytest.TempPathFactory):
    """Make both forms without interruption."""
    folders = {}
    for way, make in WAYS.items():
        folders[way] = tmp_path_factory.mktemp(way)
        result = make(clips, folders[way])
        assert (result.written, result.unchanged, result.unreadable) == (6, 0, {})
    return folders


def reader_of(path):
    return PackedReader(path) if path.suffix == ".packed" else open_video(path, cache=False)


def test_it_is_the_same_set(clips, prepared, way):
    out, suffix = prepared[way], {"transcode": ".mp4", "pack": ".packed"}[way]
    if suffix == ".mp4":
        before, after = load_clips(clips), load_clips(out)
        assert [(c.id, c.label, c.split, c.end_s) for c in after] == [(c.id, c.label, c.split, c.end_s) for c in before]
        assert after.classes == before.classes
    else:
        rows = (out / "clips.csv").read_text().splitlines()
        assert rows[0] == (clips / "clips.csv").read_text().splitlines()[0]
        assert rows[1].startswith("jump/0.b.packed,jump,")
    for path in sorted(clips.rglob("*.mp4")):
        copy = out / path.relative_to(clips).with_suffix(suffix)
        with open_video(path, cache=False) as source, reader_of(copy) as video:
            numbers = range(len(source)) if way == "transcode" else range(0, len(source), 2)  # 25 a second at 15
            assert len(video) == len(numbers)
            np.testing.assert_allclose(video.times_s - video.times_s[0], source.times_s[list(numbers)], atol=2e-5)
            a = source.frames_at(list(numbers)).images.double()
            b = video.frames_at(range(len(video))).images.double()
            psnr = 10 * np.log10(255**2 / ((a - b) ** 2).mean().item())
            stated = json.loads((out / "prepare.json").read_text())["videos"][copy.relative_to(out).as_posix()]["psnr"]
            assert psnr == pytest.approx(stated, abs=0.01)
            assert psnr > 30


def test_the_second_run_does_nothing(clips, prepared, way):
    out = prepared[way]
    before = stamps(out)
    result = WAYS[way](clips, out, verify=True)
    assert (result.written, result.unchanged) == (0, 6)
    assert stamps(out) == before


@pytest.mark.slow
def test_workers_do_not_matter(clips, prepared, way, tmp_path):
    WAYS[way](clips, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(prepared[way])


def killed_at(number, way, clips, out, after):
    """Run a process that is killed by SIGKILL just before or after the n-th file is moved to its name."""

    def run():
        replace, calls = os.replace, [0]

        def count(*paths):
            calls[0] += 1
            if calls[0] == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*paths)
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = count
        WAYS[way](clips, out)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_killed_at_any_step_and_run_again(clips, prepared, way, tmp_path):
    """Processes in the same folder are killed one after another, a few steps later each; a last one ends the work."""
    out = tmp_path / "out"
    steps = [1, 2, 2, 3, 4, 1, 5, 2, 3]
    kills = sum(killed_at(number, way, clips, out, after=bool(i % 2)) for i, number in enumerate(steps))
    assert kills >= 5
    WAYS[way](clips, out, verify=True)
    assert contents(out) == contents(prepared[way])
    assert not [path for path in out.rglob(".*") if path.is_file()]


@pytest.mark.slow
def test_killed_at_random_moments_with_workers(clips, prepared, way, tmp_path):
    out, chance = tmp_path / "out", random.Random(0)
    code = (
        "import test_prepare as t; from pathlib import Path\n"
        f"if __name__ == '__main__': t.WAYS[{way!r}](Path({str(clips)!r}), Path({str(out)!r}), workers=2)"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))}
    interrupted = 0
    for latest_s in (2, 4, 6, 8, 10, 12):  # a fast machine ends before the later times
        process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=env)
        time.sleep(chance.uniform(latest_s / 2, latest_s))
        workers = children_of(process.pid)
        interrupted += process.poll() is None
        process.kill()
        process.wait()
        await_end(workers)
    assert interrupted
    WAYS[way](clips, out, verify=True)
    assert contents(out) == contents(prepared[way])


@pytest.mark.parametrize("failure", ["write", "estimate"])
def test_a_full_disk(clips, prepared, way, tmp_path, monkeypatch, failure):
    """The run stops with a clear error and no half-written file, and continues once there is space."""
    out = tmp_path / "out"
    if failure == "estimate":
        monkeypatch.setattr(jobs, "disk_free", lambda folder: jobs.DISK_RESERVE)
        with pytest.raises(jobs.DiskFullError, match=r"needs about .* free; nothing was written"):
            WAYS[way](clips, out)
        assert not out.exists()
    else:
        replace, calls = os.replace, [0]

        def fill(*paths):
            calls[0] += 1
            if calls[0] == 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(*paths)

        monkeypatch.setattr(os, "replace", fill)
        with pytest.raises(jobs.DiskFullError, match=r"is full\. What is finished there is whole"):
            WAYS[way](clips, out)
        assert not [path for path in out.rglob(".*") if path.is_file()]
        whole = contents(prepared[way])
        assert all(whole[name] == data for name, data in contents(out).items())
    monkeypatch.undo()
    WAYS[way](clips, out)
    assert contents(out) == contents(prepared[way])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small file system")
def test_a_disk_that_is_really_full(way, tmp_path):
    """On a file system of one MiB, FFmpeg's and tar's own writes fail."""
    root, small = tmp_path / "set", tmp_path / "small"
    noise = np.random.default_rng(0).integers(0, 255, (40, 128, 128, 3), dtype=np.uint8)
    for label in "ab":
        write_video(root / label / "0.mp4", noise, 25, keyframe_every=12)
    small.mkdir()
    options = "--crf 10" if way == "transcode" else "--quality 100 --all_frames"
    code = (
        "from vidact import cli; from vidact import jobs; jobs.require_room = lambda *a: None; import sys; "
        "cli.main(sys.argv[1:])"
    )
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {small} && {sys.executable} -c '{code}' prepare {way} --data {root} "
        f"--out {small}/out --workers 1 {options}; status=$?; find {small}/out -type f -not -path '*/.prepare/*'; "
        f"exit $status"
    )
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip(f"no small file system can be mounted here: {result.stderr.strip()}")
    assert result.returncode == 2, result.stderr
    assert "is full. What is finished there is whole and nothing is half-written" in result.stderr
    assert not [line for line in result.stdout.splitlines() if "/." in line.removeprefix(str(small))]


def test_unreadable_and_missing_videos_are_left_out_by_name(clips, way, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    shutil.copytree(clips, root)
    (root / "run/1.b.mp4").write_bytes(b"no video")
    (root / "run/2.b.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 video that is listed, .* not there: run/2.b.mp4.*--missing skip"):
        WAYS[way](root, out)
    result = WAYS[way](root, out, missing="skip")
    assert list(result.unreadable) == ["run/1.b.mp4"]
    assert "not a video" in json.loads((out / "unreadable.json").read_text())["run/1.b.mp4"]
    assert (out / "clips.csv").read_text().count("\n") == 5
    write_video(root / "run/1.b.mp4", film(99), 25)  # once repaired it is made, and the others stay
    result = WAYS[way](root, out, missing="skip")
    assert result.unreadable == {}
    assert not (out / "unreadable.json").exists()
    assert (out / "clips.csv").read_text().count("\n") == 6


def test_class_folders_that_were_prepared_are_trained_on(clips, way, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    shutil.copytree(clips, root)
    (root / "clips.csv").write_text("path,label\n, \nrun/1.b.mp4,x\nrun/2.b.mp4,x\n")
    assert WAYS[way](root, tmp_path / "listed").written == 2  # and a row of blanks is no video
    for name in ("clips.csv", "classes.txt"):
        (root / name).unlink(missing_ok=True)
    WAYS[way](root, out)
    assert load_clips(out).classes == load_clips(root).classes == ["jump", "run"]


def test_a_link_to_no_file_is_a_missing_video(clips, way, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    shutil.copytree(clips, root)
    (root / "clips.csv").unlink()
    (root / "run/lost.mp4").symlink_to(tmp_path / "gone.mp4")
    with pytest.raises(FileNotFoundError, match=r"1 video that is .*: run/lost\.mp4.*or the link, or leave them out"):
        WAYS[way](root, out)
    assert WAYS[way](root, out, missing="skip").written == 6


def test_a_changed_video_is_made_again_and_a_new_one_added(clips, way, tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    shutil.copytree(clips, root)
    (root / "clips.csv").unlink()
    WAYS[way](root, out)
    suffix = {"transcode": ".mp4", "pack": ".packed"}[way]
    write_video(root / "jump/0.b.mp4", film(50, 10), 25)
    write_video(root / "jump/new.mp4", film(51, 12), 25)
    result = WAYS[way](root, out)
    assert result.written < 7
    for name, count in (("jump/0.b", 10), ("jump/new", 12)):
        with reader_of(out / (name + suffix)) as video:
            assert len(video) == (count if way == "transcode" else count // 2)


def test_names_of_any_length_and_kind(way, tmp_path):
    """A title may have the 255 bytes that a file's name has at most; notes and half-written files need more."""
    root, out = tmp_path / "set", tmp_path / "out"
    names = ["w" * 244, "two\nlines", 'a "quoted", <b>bold</b> & ünï 跳']
    for seed, name in enumerate(names):
        write_video(root / "jump" / f"{name}.mp4", film(seed, 6), 25)
    result = WAYS[way](root, out)
    assert (result.written, result.unreadable) == (3, {})
    result = WAYS[way](root, out)
    assert (result.written, result.unchanged) == (0, 3)


def test_a_name_that_is_no_text_is_refused(way, tmp_path):
    folder = os.fsencode(tmp_path / "set" / "jump")
    os.makedirs(folder)
    try:
        with open(os.path.join(folder, b"caf\xe9.mp4"), "wb") as file:
            file.write(b"a video")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match=r"caf\\xe9\.mp4' in .* is no UTF-8 name.*rename it"):
        WAYS[way](tmp_path / "set", tmp_path / "out")


def test_what_the_set_no_longer_has_is_named(clips, way, tmp_path):
    """The copy of a removed video would stay in the classes' folders and be trained on."""
    root, out = tmp_path / "set", tmp_path / "out"
    shutil.copytree(clips, root)
    (root / "clips.csv").unlink()
    WAYS[way](root, out)
    (root / "run/2.b.mp4").unlink()
    with pytest.raises(ValueError, match=r"holds run/2\.b\..*, which the set no longer has"):
        WAYS[way](root, out)
    if way == "transcode":
        (out / "run/2.b.mp4").unlink()
        assert WAYS[way](root, out).unchanged == 5
        assert "run/2.b.mp4" not in json.loads((out / "prepare.json").read_text())["videos"]


def test_an_image_that_changes_in_its_folder_is_a_change(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(b"12345")
    before = jobs.source_state(folder)
    assert jobs.source_state(folder) == before
    time.sleep(0.02)
    (folder / "1.png").write_bytes(b"54321")
    assert jobs.source_state(folder) != before


def test_a_folder_from_before_x264_was_told_to_be_cpu_independent_is_refused(clips, tmp_path):
    """The folder would otherwise mix copies that were made in two ways."""
    out = tmp_path / "out"
    WAYS["transcode"](clips, out)
    settings = out / NOTES / "settings.json"
    record = json.loads(settings.read_text())
    del record["x264"]
    settings.write_text(json.dumps(record))
    before = contents(out)
    with pytest.raises(ValueError, match="made with other settings: x264 None there, 'cpu-independent' asked"):
        WAYS["transcode"](clips, out)
    assert contents(out) == before


def test_what_is_refused(clips, prepared, way, tmp_path):
    others = {
        "transcode": lambda: transcode_set(clips, prepared[way], TranscodeSettings(32, preset="ultrafast", crf=20)),
        "pack": lambda: pack_set(clips, prepared[way], PackSettings(32, shard_mib=0.002)),
    }
    before = contents(prepared[way])
    with pytest.raises(ValueError, match="made with other settings: short_side 256 there, 32 asked"):
        others[way]()
    assert contents(prepared[way]) == before
    with pytest.raises(ValueError, match="lies in the folder of the videos"):
        WAYS[way](clips, clips / "inside")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"holds files that this command did not make \(thesis.txt\)"):
        WAYS[way](clips, tmp_path / "full")
    assert not contents(tmp_path / "full")["thesis.txt"]
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.mp4", "a.avi"):
        write_numbered_video(two / name, 5)
    with pytest.raises(ValueError, match="would both become a"):
        WAYS[way](two, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="not a folder"):
        WAYS[way](tmp_path / "nowhere", tmp_path / "out")


def test_damage_is_seen_by_verification(clips, way, tmp_path):
    out = tmp_path / "out"
    WAYS[way](clips, out)
    victim = max((path for path in out.rglob("*") if path.suffix in (".mp4", ".tar")), key=lambda path: path.name)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 255
    victim.write_bytes(data)
    with pytest.raises(ValueError, match="is not what was written; delete it"):
        WAYS[way](clips, out, verify=True)
    victim.unlink()
    WAYS[way](clips, out, verify=True)


def test_an_estimate_comes_first(clips, way, tmp_path, capsys):
    command = ["prepare", way, "--data", str(clips), "--out", str(tmp_path / "out"), "--workers", "1"]
    cli.main(command)
    printed = capsys.readouterr()
    assert "6 videos to do: about " in printed.err
    assert "measured on the beginnings of" in printed.err
    assert "6/6 videos 100%" in printed.err
    assert "6 videos written, 0 were there, 0 cannot be read" in printed.out
    assert "PSNR to the scaled sources: median" in printed.out
    cli.main(command)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "0 videos written, 6 were there" in printed.out


def test_the_estimate_is_near(clips, prepared):
    """The estimate of bytes is near; that of time depends on the machine."""
    paths = sorted(clips.rglob("*.mp4"))
    for way, sample, settings in (
        ("transcode", prepare._transcode_sample, FAST),
        ("pack", prepare._pack_sample, SMALL),
    ):
        estimate = prepare._estimate(paths, sample, settings, 1)
        written = json.loads((prepared[way] / "prepare.json").read_text())["figures"]["bytes"]
        assert estimate.sampled == 3
        assert 0.4 * written < estimate.num_bytes < 2 * written, way
        assert estimate.seconds > 0
