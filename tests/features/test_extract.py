"""The loop over files: whole or absent, resumable, the same bytes whoever computes them and whatever interrupts it."""

import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.workers import await_end, children_of

from vidact import cli, jobs
from vidact.data.synthetic import write_untrimmed
from vidact.features import files as features
from vidact.features.extractor import FeatureExtractor
from vidact.features.files import extract_features, find_videos
from vidact.features.names import build_extractor
from vidact.jobs import parse_shard, part_of
from vidact.results.figures import load_results
from vidact.video import open_video
from vidact.video.numbered import write_numbered_video

FORK = multiprocessing.get_context("fork")  # a real process, that need not import everything again
ROOT = Path(__file__).parents[2]


@cache
def extractor(fps=24.0):
    return build_extractor("resnet_tiny", size=32, fps=fps, device="cpu")


def command(videos, out, *more):
    return ["extract", "features", "--videos", str(videos), "--out", str(out), "--network", "resnet_tiny",
            "--size", "32", "--device", "cpu", "--workers", "1", *more]  # fmt: skip


def extract(videos, out, **settings):
    return extract_features(videos, out, settings.pop("extractor", extractor()), progress=False, **settings)


def contents(out):
    """Every feature file's bytes."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.npy"))}


def halves(out):
    return [path for path in out.rglob(".*") if path.is_file()]


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "inner").mkdir()
    for number, name in enumerate(["a.mp4", "b.with.dots.mkv", "c.MP4", "inner/a.mp4", "inner/d d.avi"]):
        write_numbered_video(folder / name, 40 + 10 * number)
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").write_bytes(b"no video either")
    return folder


@pytest.fixture
def videos(films: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(films, tmp_path / "videos"))


@pytest.fixture(scope="session")
def expected(films: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("expected")
    extract(films, out)
    return contents(out)


IDS = ["a", "b.with.dots", "c", "inner/a", "inner/d d"]


def fails(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    words = capsys.readouterr().err
    assert "Traceback" not in words
    return stopped.value.code, words


# ---------------------------------------------------------------------------------------------- what is left behind


def test_the_folder(films, tmp_path):
    done = extract(films, tmp_path)
    assert sorted(done.written) == IDS
    assert (done.kept, done.unreadable) == ([], {})
    for video, path in find_videos(films).items():
        array = np.load(tmp_path / f"{video}.npy", allow_pickle=False)
        with open_video(path) as reader:
            np.testing.assert_array_equal(array, extractor().video(reader).numpy())
        assert array.dtype == np.float32
    assert sorted(contents(tmp_path)) == [f"{video}.npy" for video in IDS]
    assert done.tokens == sum(len(np.load(path)) for path in tmp_path.rglob("*.npy"))
    assert json.loads((tmp_path / "features.json").read_text()) == extractor().record()
    assert FeatureExtractor.open(tmp_path, device="cpu").record() == extractor().record()
    assert not halves(tmp_path)


def test_synthetic_videos_have_a_row_for_each_quarter_second(tmp_path):
    write_untrimmed(tmp_path / "set", {"train": 1}, actions_per_video=1)
    extract(tmp_path / "set", tmp_path / "out")
    with open_video(tmp_path / "set" / "videos" / "0000.mp4") as video:
        assert len(np.load(tmp_path / "out" / "videos" / "0000.npy")) == len(video) // 6


def test_a_second_run_makes_nothing_again(videos, expected, tmp_path):
    out = tmp_path / "out"
    extract(videos, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    done = extract(videos, out)
    assert sorted(done.kept) == IDS
    assert not done.written
    assert done.tokens == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")} == before
    assert contents(out) == expected


def test_a_folder_of_an_older_version_goes_on(videos, tmp_path):
    """It did not write what the networks take by default since."""
    out = tmp_path / "out"
    extract(videos, out)
    record = json.loads((out / "features.json").read_text())
    del record["network"]["input"]["resize"], record["network"]["recipe"]["arguments"]["flow_fields"]
    (out / "features.json").write_text(json.dumps(record))
    for note in (out / ".extract" / "done").rglob("*.json"):
        note.unlink()
    made = extract(videos, out)
    assert sorted(made.written) == IDS
    assert sorted(extract(videos, out).kept) == IDS
    assert json.loads((out / "features.json").read_text()) == record
    record["network"]["input"]["resize"] = 40
    (out / "features.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"network\.input\.resize 40 and None \(there and asked\)"):
        extract(videos, out)


def test_what_has_changed_is_made_again(videos, expected, tmp_path):
    out = tmp_path / "out"
    extract(videos, out)
    os.utime(videos / "a.mp4", (1, 1))  # another time
    write_numbered_video(videos / "c.MP4", 30)  # another size
    torn = out / "inner" / "a.npy"
    torn.write_bytes(torn.read_bytes()[:-7])
    np.save(out / "inner" / "d d.npy", np.zeros((3, 3), dtype=np.float32))  # somebody else's
    (out / ".extract" / "done" / "b.with.dots.json").write_text("{")
    assert sorted(extract(videos, out).written) == IDS
    now = contents(out)
    assert now.pop("c.npy") != expected["c.npy"]
    assert now == {name: data for name, data in expected.items() if name != "c.npy"}


@pytest.mark.parametrize("length", [0, 100, -4], ids=["empty", "cut in its head", "cut at its end"])
@pytest.mark.parametrize("name", ["a.npy", "extractor.safetensors"])
def test_what_is_damaged_is_made_again(name, length, videos, expected, tmp_path):
    """A full disk and a torn copy leave files that are too short."""
    out = tmp_path / "out"
    extract(videos, out)
    extractor_file = (out / "extractor.safetensors").read_bytes()
    (out / name).write_bytes((out / name).read_bytes()[:length])
    assert extract(videos, out).written == (["a"] if name == "a.npy" else [])
    assert contents(out) == expected
    assert (out / "extractor.safetensors").read_bytes() == extractor_file


def test_an_extractor_file_with_other_weights_is_written_again(videos, tmp_path):
    out = tmp_path / "out"
    extract(videos, out)
    whole = (out / "extractor.safetensors").read_bytes()
    (out / "extractor.safetensors").write_bytes(whole[:-64] + bytes(64))
    extract(videos, out)
    assert (out / "extractor.safetensors").read_bytes() == whole


def test_a_broken_file_among_good_ones(videos, expected, tmp_path, capsys):
    """It is named, its neighbours are done, the exit status says so; mended, it is done too."""
    out, broken = tmp_path / "out", videos / "inner" / "a.mp4"
    whole = broken.read_bytes()
    extract(videos, out)
    broken.write_bytes(whole[: len(whole) // 3])
    write_numbered_video(videos / "short.mp4", 3)
    status, words = fails(command(videos, out), capsys)
    assert status == 1
    assert "inner/a: " in words
    report = json.loads((out / "unreadable.json").read_text())
    assert sorted(report) == ["inner/a", "short"]
    assert "moov" in report["inner/a"]
    assert "has 3 frames at 24 fps; a token needs 6" in report["short"]
    # nothing of an earlier state of the file is left to be taken for its features
    assert contents(out) == {name: data for name, data in expected.items() if name != "inner/a.npy"}
    assert load_results(out)["extract"]["videos_unreadable"] == 2
    broken.write_bytes(whole)
    (videos / "short.mp4").unlink()
    cli.main(command(videos, out))
    assert "1 video written" in capsys.readouterr().out
    assert not (out / "unreadable.json").exists()
    assert contents(out) == expected


def test_the_command_and_the_tool(films, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["extract.py", *command(films, tmp_path)[1:]])
    runpy.run_path(str(ROOT / "tools" / "extract.py"), run_name="__main__")
    words = capsys.readouterr()
    assert "resnet_tiny: 128 numbers a token, 4 tokens/s, 1 workers on cpu" in words.out
    assert "5 videos written" in words.out
    assert "5/5 videos 100%  " in words.err
    assert contents(tmp_path) == expected
    assert load_results(tmp_path)["extract"]["videos_written"] == 5


# ---------------------------------------------------------------------------------------------- shards and processes


def test_shards_are_parts_of_the_whole(films, expected, tmp_path):
    parts = [extract(films, tmp_path, shard=f"{part}/3") for part in (1, 2, 3)]
    assert sorted(video for part in parts for video in part.written) == IDS
    assert not any(part.kept for part in parts)
    assert contents(tmp_path) == expected
    assert sorted(extract(films, tmp_path).kept) == IDS


def test_a_videos_shard_follows_from_its_id_alone(films, tmp_path):
    assert [part_of(video, 3) for video in IDS] == [2, 2, 2, 1, 2]  # on every machine
    assert all(part_of(video, 1) == 1 for video in IDS)
    whole = extract(films, tmp_path / "folder", shard="2/3").written
    listed = [path for video, path in find_videos(films).items() if "/" not in video]
    assert extract(listed, tmp_path / "list", shard="2/3").written == [video for video in whole if "/" not in video]


def test_a_shard_has_its_own_report(videos, tmp_path):
    for path in find_videos(videos).values():
        path.write_bytes(b"nothing")
    for part in (1, 2):
        done = extract(videos, tmp_path / "out", shard=f"{part}/2")
        assert done.report.name == f"unreadable-{part}-of-2.json"
        assert json.loads(done.report.read_text()) == done.unreadable


def test_workers_change_no_byte(films, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "process_context", lambda: FORK)
    done = extract(films, tmp_path, workers=3)
    assert sorted(done.written) == IDS
    assert contents(tmp_path) == expected
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_an_error_and_leaves_no_half(videos, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "process_context", lambda: FORK)

    def die(path, decoder):
        if path.name == "c.MP4":
            os.kill(os.getpid(), signal.SIGKILL)
        return open_video(path, decoder)

    with monkeypatch.context() as patch:
        patch.setattr(features, "open_video", die)
        with pytest.raises(ChildProcessError, match=r"worker at .*c\.MP4 was ended \(status -9\).*goes on from here"):
            extract(videos, tmp_path / "out", workers=2)
    assert not multiprocessing.active_children()
    extract(videos, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == expected
    assert not halves(tmp_path / "out")


def test_an_error_in_a_worker_is_the_users_to_see(films, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "process_context", lambda: FORK)

    def fail(error):
        def open_it(path, decoder):
            raise error

        return open_it

    for error in (ImportError("decoder 'x' cannot be used"), KeyError("bug")):
        monkeypatch.setattr(features, "open_video", fail(error))
        with pytest.raises(type(error), match=str(error.args[0])) as failed:
            extract(films, tmp_path / "out", workers=2)
        assert "in open_it" in failed.value.__notes__[0]  # the place in the worker


# ---------------------------------------------------------------------------------------------- interruptions


def slow_save(path, array, allow_pickle):
    """numpy.save, caught in the act."""
    assert not allow_pickle
    with Path(path).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        data = array.tobytes()
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(0.1)
        file.write(data[len(data) // 2 :])


def begin(videos, out):
    """Extraction in a process of its own that takes its time over every file, and does not come to the last one."""

    def save(path, array, allow_pickle):
        slow_save(path, array, allow_pickle)
        if len(list(out.rglob("*.npy"))) == len(IDS) - 1:
            time.sleep(60)

    def run():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        features.np.save = save
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            cli.main(command(videos, out))

    extractor()  # what forks brings it along
    process = FORK.Process(target=run)
    process.start()
    return process


def await_files(out, number, process):
    while len(list(out.rglob("*.npy"))) < number:
        assert process.is_alive()
        time.sleep(0.005)


def every_visible_file_is_whole(out, expected):
    return all(expected[name] == data for name, data in contents(out).items() if "/." not in f"/{name}")


def test_sigkill_twice_then_the_same_bytes(videos, expected, tmp_path):
    out, chance = tmp_path / "out", random.Random(0)
    for number in (1, 2):
        process = begin(videos, out)
        await_files(out, number, process)  # halves count: it is killed while it writes, or just after
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        assert every_visible_file_is_whole(out, expected)
    done = extract(videos, out)
    assert sorted(done.written + done.kept) == IDS
    assert done.written
    assert contents(out) == expected
    assert not halves(out)


def test_ctrl_c_leaves_what_can_be_gone_on_from(videos, expected, tmp_path):
    out = tmp_path / "out"
    process = begin(videos, out)
    await_files(out, 2, process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert not halves(out)
    assert every_visible_file_is_whole(out, expected)
    done = extract(videos, out)
    assert done.kept
    assert done.written
    assert contents(out) == expected


@pytest.mark.slow
def test_sigkill_ten_times_then_the_same_bytes(tmp_path):
    """The tool itself, with two workers, killed at any moment of its life; no worker outlives it."""
    videos, out, chance = tmp_path / "videos", tmp_path / "out", random.Random(1)
    videos.mkdir()
    for number in range(16):
        write_numbered_video(videos / f"{number:02}.mp4", 900 + number)
    args = [sys.executable, str(ROOT / "tools" / "extract.py"), *command(videos, out, "--workers", "2")[1:]]
    kept = []
    for _ in range(10):
        process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        process.stdout.readline()  # "resnet_tiny: 128 numbers …": it is about to begin
        if chance.random() < 0.7:  # wait for the first file, most times
            before, end = len(list(out.rglob("*.npy"))), time.monotonic() + 120
            while len(list(out.rglob("*.npy"))) <= before and time.monotonic() < end and process.poll() is None:
                time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.0))
        children = children_of(process.pid)
        process.kill()
        process.wait()
        await_end(children)
        kept.append(len(list((out / ".extract" / "done").rglob("*.json"))))
    assert subprocess.run(args, capture_output=True, check=True)
    assert kept == sorted(kept)
    extract(videos, tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert not halves(out)


def test_two_runs_at_once(films, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    extract(films, tmp_path, shard="1/2")
    with (tmp_path / ".extract" / "lock-1-of-2").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another run is writing shard 1/2 of .*split the work with --shard"):
            extract(films, tmp_path, shard="1/2")
        extract(films, tmp_path, shard="2/2")
    extract(films, tmp_path, shard="1/2")


# ---------------------------------------------------------------------------------------------- bad input


def test_a_folder_of_other_features(films, tmp_path, capsys):
    extract(films, tmp_path / "ours")
    with pytest.raises(
        ValueError, match=r"made with others than asked: fps 24\.0 and 12\.0; tokens_per_second 4\.0 and 2\.0 \(there"
    ):
        extract(films, tmp_path / "ours", extractor=extractor(fps=12.0))
    status, words = fails(command(films, tmp_path / "ours", "--network", "tsn_resnet_tiny"), capsys)
    assert status == 2
    assert "network.recipe.builder vidact.features.image_backbone and vidact.models.tsn_resnet_tiny" in words
    assert "choose another --out" in words
    (tmp_path / "theirs" / "rgb").mkdir(parents=True)
    np.save(tmp_path / "theirs" / "rgb" / "video_1.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"holds features \(rgb/video_1\.npy\) and no features\.json.*another --out"):
        extract(films, tmp_path / "theirs")
    assert sorted(path.name for path in (tmp_path / "theirs").rglob("*")) == ["rgb", "video_1.npy"]
    (tmp_path / "garbled").mkdir()
    (tmp_path / "garbled" / "features.json").write_text("{")
    with pytest.raises(ValueError, match=r"features\.json is not valid JSON.*choose another --out"):
        extract(films, tmp_path / "garbled")
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file; name a folder"):
        extract(films, films / "notes.txt")
    with pytest.raises(NotADirectoryError, match=r"notes\.txt/sub cannot be made .*notes\.txt is a file\); choose"):
        extract(films, films / "notes.txt" / "sub")


def test_no_videos(tmp_path, capsys):
    status, words = fails(command(tmp_path / "nowhere", tmp_path / "out"), capsys)
    assert status == 2
    assert "nowhere does not exist; give a folder of videos or a video file" in words
    (tmp_path / "empty").mkdir()
    status, words = fails(command(tmp_path / "empty", tmp_path / "out"), capsys)
    assert status == 2
    assert "empty holds no video; looked for .3gp" in words
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4 is not a file; 1 of 1 video is missing"):
        extract([tmp_path / "gone.mp4"], tmp_path / "out")
    (tmp_path / "empty/link.mp4").symlink_to(tmp_path / "gone.mp4")
    with pytest.raises(FileNotFoundError, match=r"link\.mp4 is not a file; 1 of 1 video is missing"):
        extract(tmp_path / "empty", tmp_path / "out")


def test_which_videos(films):
    assert list(find_videos(films)) == IDS
    assert find_videos(films / "a.mp4") == {"a": films / "a.mp4"}
    with pytest.raises(ValueError, match=r"a\.mp4 and .*a\.mp4 would both become a\.npy; rename one"):
        find_videos([films / "a.mp4", films / "inner" / "a.mp4"])


def test_one_name_with_two_suffixes(videos):
    shutil.copy(videos / "a.mp4", videos / "a.mkv")
    with pytest.raises(ValueError, match=r"a\.mkv and .*a\.mp4 would both become a\.npy"):
        find_videos(videos)


@pytest.mark.parametrize("shard", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/4", "1.0/4", "one/four", "1 / 4"])
def test_wrong_shard_text(shard, films, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"write i/n with i from 1 to n, such as 1/4 for the first of four parts"):
        parse_shard(shard)
    if shard == "5/4":
        status, words = fails(command(films, tmp_path, "--shard", shard), capsys)
        assert status == 2
        assert "shard is '5/4'" in words


def test_workers_and_options(films, tmp_path, capsys):
    with pytest.raises(ValueError, match="workers is 0; at least one process works"):
        extract(films, tmp_path / "out", workers=0)
    status, words = fails(["extract"], capsys)
    assert status == 2
    assert "arguments are required: features" in words
    status, words = fails(command(films, tmp_path / "out", "--network", "mobilenetv2"), capsys)
    assert "did you mean 'mobilenet_v2'" in words
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "0"], "workers is 0; at least one process works"),
        (["--flow-method", "banana"], "there is no flow method 'banana'; there are dis, farneback, tvl1"),
        (["--flow-method", "tvl1"], "--flow_method is tvl1, but resnet_tiny sees no flow; leave it out"),
        (["--flow-weights", "none"], "flow_weights is None, but there is no flow_network; name one, or leave it out"),
    ],
)
def test_a_wrong_option(options, words, films, tmp_path, capsys):
    """Before anything is computed, or said to be."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(command(films, tmp_path / "out", *options))
    said = capsys.readouterr()
    assert (stopped.value.code, said.out) == (2, "")
    assert words in said.err
    assert not (tmp_path / "out").exists()


def test_a_flow_method_where_there_is_flow(videos, tmp_path):
    flow = ["--flow-network", "resnet_tiny", "--flow-weights", "none", "--flow-method", "farneback"]
    cli.main(command(videos / "a.mp4", tmp_path / "out", *flow))
    assert json.loads((tmp_path / "out" / "features.json").read_text())["flow_method"] == "farneback"


def test_the_extractor_of_a_folder_gives_other_videos_the_same(films, tmp_path, capsys):
    """By itself, with a clock and chunk that are not the command's own."""
    common = ["extract", "features", "--device", "cpu", "--workers", "1", "--videos", str(films / "a.mp4"), "--out"]
    cli.main([*common, str(tmp_path / "a"), "--network", "resnet_tiny", "--size", "32", "--fps", "12", "--chunk", "4"])
    kept = str(tmp_path / "a" / "extractor.safetensors")
    cli.main([*common, str(tmp_path / "b"), "--network", kept])
    for name in ("a.npy", "features.json", "extractor.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    status, words = fails([*common, str(tmp_path / "c"), "--network", kept, "--fps", "25"], capsys)
    assert status == 2
    assert "extractor.safetensors is a whole extractor and brings its own; leave out fps 25" in words
    status, words = fails([*common, str(tmp_path / "c"), "--flow-network", kept], capsys)
    assert "is the extractor of a detector's features and names no actions itself" in words
