"""Everything that works on many files does it in one way: notes, locks, bad files, full disks and ends of processes."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from vidact import jobs
from vidact.features import files as features
from vidact.features import flow
from vidact.features.files import extract_features
from vidact.features.names import build_extractor
from vidact.prepare import examine, pack, transcode
from vidact.prepare.check import check_set
from vidact.prepare.pack import PackSettings
from vidact.prepare.sets import pack_set, transcode_set
from vidact.prepare.transcode import TranscodeSettings
from vidact.video.flow_store import FlowRecord
from vidact.video.numbered import write_numbered_video

FORK = multiprocessing.get_context("fork")  # a real process, that need not import everything again


def make_features(videos, out, workers=1):
    return extract_features(videos, out, build_extractor("resnet_tiny", size=32, device="cpu"), workers, progress=False)


def make_flow(videos, out, workers=1):
    return flow.extract_flow(videos, out, FlowRecord(size=32), workers=workers, progress=False)


def make_copies(videos, out, workers=1):
    return transcode_set(videos, out, TranscodeSettings(preset="ultrafast", crf=20), workers, progress=False)


def make_packs(videos, out, workers=1):
    return pack_set(videos, out, PackSettings(shard_mib=1e-4), workers, progress=False)  # a video in each shard


def make_check(videos, out, workers=1):
    return check_set(videos, out, workers=workers, progress=False)


# how results are made; the module that opens the videos; the lock; the folder of notes
USERS = {
    "features": (make_features, features, ".extract/lock-1-of-1", ".extract/done"),
    "flow": (make_flow, flow, ".extract/lock-1-of-1", ".extract/flow"),
    "transcode": (make_copies, transcode, ".prepare/lock", ".prepare/done"),
    "pack": (make_packs, pack, ".prepare/lock", ".prepare/done"),
    "check": (make_check, examine, ".prepare/lock", ".prepare/done"),
}


@pytest.fixture(params=USERS)
def user(request):
    return USERS[request.param]


@pytest.fixture
def videos(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_numbered_video(tmp_path / "videos" / name, 24)
    return tmp_path / "videos"


def notes(out, folder):
    """The notes of finished jobs and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / folder).rglob("[!.]*.json")}


def failing(opened, end):
    """Open every video but b.mp4, at which ``end`` is called."""

    def open_video(path, *options, **more):
        if path.name == "b.mp4":
            end(path)
        return opened(path, *options, **more)

    return open_video


def refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def kill(path):
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(path):
    raise KeyboardInterrupt


def halves(out):
    return [path for path in out.rglob(".*") if path.is_file()]


def test_a_second_run_is_refused_and_does_nothing(user, videos, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    make, _, lock, folder = user
    (tmp_path / "out" / lock).parent.mkdir(parents=True)
    with (tmp_path / "out" / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another run is writing to .*out; wait for it, or choose another --out"):
            make(videos, tmp_path / "out")
    assert not notes(tmp_path / "out", folder)
    make(videos, tmp_path / "out")
    assert len(notes(tmp_path / "out", folder)) == 3


def test_a_file_that_may_not_be_read_is_named_and_the_others_are_done(user, videos, tmp_path, monkeypatch):
    make, module, _, folder = user
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_video", failing(module.open_video, refuse))
        result = make(videos, out)
    if make is make_check:
        assert ("unreadable", ("b.mp4",)) in [(finding.kind, finding.videos) for finding in result.findings]
        assert len(notes(out, folder)) == 3
        return
    assert [Path(name).stem for name in result.unreadable] == ["b"]
    assert "Permission denied" in next(iter(result.unreadable.values()))
    assert json.loads((out / "unreadable.json").read_text()) == result.unreadable
    before = notes(out, folder)
    result = make(videos, out)  # it may be read now
    assert not result.unreadable
    assert not (out / "unreadable.json").exists()
    after = notes(out, folder)
    assert len(after) == 3
    assert len(before.items() & after.items()) == 2  # the others were not made again


def test_a_worker_that_is_killed_is_named_with_its_file_and_the_next_run_goes_on(user, videos, tmp_path, monkeypatch):
    make, module, _, folder = user
    out = tmp_path / "out"
    monkeypatch.setattr(jobs, "process_context", lambda: FORK)
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_video", failing(module.open_video, kill))
        # before the work in processes a few beginnings are measured here, which no worker is
        patch.setattr("vidact.prepare.sets._estimate", lambda *arguments: estimate())
        name = r"\d+\.tar" if make is make_packs else r"b\.mp4"
        with pytest.raises(
            ChildProcessError, match=rf"worker at .*{name} was ended \(status -9\).*fewer workers, and it goes on"
        ):
            make(videos, out, 2)
    assert not multiprocessing.active_children()
    make(videos, out, 2)
    assert len(notes(out, folder)) == 3
    assert not halves(out)


def estimate():
    from vidact.prepare.sets import Estimate

    return Estimate(0.0, 0.0, 0)


def test_ctrl_c_in_the_middle_leaves_whole_results_and_the_next_run_goes_on(user, videos, tmp_path, monkeypatch):
    make, module, _, folder = user
    out = tmp_path / "out"
    make(videos, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_video", failing(module.open_video, interrupt))
        patch.setattr("vidact.prepare.sets._estimate", lambda *arguments: estimate())
        with pytest.raises(KeyboardInterrupt):
            make(videos, out)
    before = notes(out, folder)
    assert len(before) < 3
    assert not halves(out)
    make(videos, out)
    after = notes(out, folder)
    assert len(after) == 3
    assert before.items() <= after.items()
    assert digests(out) == digests(tmp_path / "undisturbed")


def digests(out):
    """The files of the results but those that say when, how long or where they were made."""
    paths = [path for path in out.rglob("*") if path.suffix in (".npy", ".zip", ".mp4", ".packed", ".tar")]
    return {path.relative_to(out): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_full_disk_is_named_and_the_next_run_goes_on(user, videos, tmp_path, monkeypatch):
    make, _, _, folder = user
    out = tmp_path / "out"
    replace = os.replace

    def fill(source, target):
        if (out / folder) in Path(target).parents and notes(out, folder):  # the second job is finished
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fill)
        with pytest.raises(jobs.DiskFullError, match=r"the disk of .*out is full\. What is finished there is whole"):
            make(videos, out)
    assert not halves(out)
    before = notes(out, folder)
    assert len(before) == 1
    make(videos, out)
    assert before.items() <= notes(out, folder).items()
    assert len(notes(out, folder)) == 3


def test_a_killed_workers_half_is_removed_by_the_next_run(user, videos, tmp_path):
    make, _, _, folder = user
    out = tmp_path / "out"
    make(videos, out)
    (out / folder / ".999.a.json").write_text("{")
    make(videos, out)
    assert not halves(out)


# ---------------------------------------------------------------------------------------------- folders of before


def state(path):
    return {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}


def as_before(kind, note, path):
    """The note of a job as 0.1 wrote it (commit 7ee4715), from the present one: every key that was read, in order."""
    if kind in ("features", "flow"):
        names = ["record_sha256", "tokens", "lead_s"] if kind == "features" else ["record_sha256", "fields"]
        return {**state(path), **{name: note[name] for name in names}}
    if kind == "transcode":
        names = ["bytes", "sha256", "crf", "frames", "seconds", "height", "width", "psnr", "lowest_psnr"]
        return {"source": state(path), **{name: note[name] for name in names}}
    if kind == "check":
        return {"source": state(path), "rules": 2, "examined": note["examined"]}
    ((name, row),) = note["videos"].items()
    names = ["frames", "of_frames", "seconds", "psnr"]
    row = {"source": state(path), **{key: row[key] for key in names}}
    return {"bytes": note["bytes"], "sha256": note["sha256"], "videos": {name: row}}


PLACES = {  # of the note of a.mp4, and all that lies in a folder of notes
    "features": (".extract/done/a.json", {"done/a.json", "done/b.json", "done/c.json", "lock-1-of-1"}),
    "flow": (".extract/flow/a.json", {"flow/a.json", "flow/b.json", "flow/c.json", "lock-1-of-1"}),
    "transcode": (
        ".prepare/done/a.mp4.json",
        {"done/a.mp4.json", "done/b.mp4.json", "done/c.mp4.json", "lock", "settings.json"},
    ),
    "pack": (
        None,
        {"done/000000.tar.json", "done/000001.tar.json", "done/000002.tar.json", "lock", "plan.json", "settings.json"},
    ),
    "check": (".prepare/done/a.mp4.json", {"done/a.mp4.json", "done/b.mp4.json", "done/c.mp4.json", "lock"}),
}


@pytest.mark.parametrize("kind", USERS)
def test_a_folder_of_before_is_continued(kind, videos, tmp_path, monkeypatch):
    """Its notes lie where they did, say what they said, and what they name is not made again."""
    make, module, _, folder = USERS[kind]
    out, (place, names) = tmp_path / "out", PLACES[kind]
    make(videos, out)
    top = out / Path(folder).parent
    assert {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()} == names
    for path in (out / folder).rglob("*.json"):
        note = json.loads(path.read_text())
        name = next(iter(note["videos"])) if kind == "pack" else path.name
        old = as_before(kind, note, videos / f"{name[0]}.mp4")
        assert old == note
        path.write_text(json.dumps(old))
    if kind == "flow":  # which had no lock
        (out / ".extract/lock-1-of-1").unlink()
    before = notes(out, folder)
    first = (
        (out / place) if place else next(note for note in (out / folder).rglob("*.json") if '"a.' in note.read_text())
    )
    first.unlink()
    opened = []
    monkeypatch.setattr(module, "open_video", failing(module.open_video, lambda path: opened.append(path)))
    make(videos, out)
    after = notes(out, folder)
    assert len(after) == 3
    assert len(before.items() & after.items()) == 2
    if kind in ("features", "flow", "check"):  # the others measure the beginnings of all that is left
        assert not opened
    write_numbered_video(videos / "b.mp4", 30)
    make(videos, out)
    if kind in ("features", "flow", "check"):
        assert opened == [videos / "b.mp4"]
    assert len(after.items() & notes(out, folder).items()) == 2


def test_flow_of_images_of_before_is_continued(tmp_path):
    """Notes named the size and time of the folder, which the files' have replaced."""
    from PIL import Image

    images = tmp_path / "videos" / "a"
    images.mkdir(parents=True)
    for number in range(3):
        Image.new("L", (64, 48), 40 * number).save(images / f"{number}.png")
    assert make_flow(tmp_path / "videos", tmp_path / "out").written == ["a"]
    note = tmp_path / "out" / ".extract" / "flow" / "a.json"
    content = json.loads(note.read_text())
    note.write_text(json.dumps({**content, **state(images)}))
    assert make_flow(tmp_path / "videos", tmp_path / "out").kept == ["a"]
    shutil.copy(images / "0.png", images / "1.png")
    note.write_text(json.dumps(content))
    assert make_flow(tmp_path / "videos", tmp_path / "out").written == ["a"]
