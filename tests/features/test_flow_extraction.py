"""Extracted flow is the flow that loading computes, whoever extracts it and whatever interrupts it."""

import dataclasses
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vidact.models
from vidact import cli, jobs
from vidact.batch import ClipInput
from vidact.data import load_clips
from vidact.data.clips import ClipData
from vidact.data.synthetic import write_clips
from vidact.features import flow as flow_files
from vidact.features.flow import extract_flow, find_sources
from vidact.results.figures import load_results
from vidact.video import Augment, SegmentSampler, VideoError, open_video
from vidact.video.flow_store import FlowRecord, FlowStore
from vidact.video.numbered import write_numbered_video as write_video
from vidact.video.transform import from_record

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")
FLOW = ClipInput(size=48, channels=4, flow_fields=2, mean=(0.5,), std=(0.226,), resize=56)
BOTH = ClipInput(size=48, channels=7, flow_fields=2, mean=(0.5,), std=(0.226,), resize=56)
EXACT = FlowRecord(size=56, image="png")  # what loading computes, without jpg's loss


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 1, "val": 1, "test": 1}, seed=0)
    return folder


@pytest.fixture(scope="module")
def flow(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    extract_flow(clips, folder, EXACT, progress=False)
    return folder


def data(root: Path, input: ClipInput, **options) -> ClipData:
    made = ClipData(str(root), SegmentSampler(3), Augment(), **{"batch_size": 2, "num_workers": 0, **options})
    made.prepare(input)
    return made


@pytest.mark.parametrize("input", [FLOW, BOTH], ids=["flow", "two streams"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_stored_flow_is_what_loading_computes(clips, flow, input, split):
    stored, computed = data(clips, input, flow=str(flow), views="2x3"), data(clips, input, views="2x3")
    for index in range(2):
        a, b = (made.sets[split][(1, index)] for made in (stored, computed))
        assert torch.equal(a.clips, b.clips)
        assert a.clips.shape[1:3] == (3, input.channels)
    assert stored.flow_record["method"] == "dis"
    assert computed.flow_record == {"method": "dis"}


def test_small_motion_is_seen_within_a_smaller_bound(clips, flow, tmp_path):
    """Stored and computed flow agree within any bound, and within 4 pixels motion has five times the levels."""
    narrow = dataclasses.replace(FLOW, flow_bound=4.0)
    extract_flow(clips, tmp_path, FlowRecord(size=56, image="png", bound=4.0), progress=False)
    stored, computed = (
        data(clips, narrow, **options).sets["test"][0].clips for options in ({"flow": str(tmp_path)}, {})
    )
    assert torch.equal(stored, computed)
    wide = data(clips, FLOW).sets["test"][0].clips

    def motion(clip):
        return (clip * 0.226 + 0.5) * 255 - 128  # levels

    inside = motion(wide).abs() < 20  # 3.1 pixels: what the smaller bound does not cut
    assert (motion(wide)[inside].abs() > 5).any()
    assert (motion(stored) - 5 * motion(wide))[inside].abs().max() < 2.5 + 0.5 + 2.1  # the steps, and 127.5 as 128
    brought = data(clips, narrow, flow=str(flow)).sets["test"][0].clips  # stored with 20 pixels, coarser
    assert (motion(brought) - motion(stored))[inside].abs().max() < 2.5 + 0.5 + 0.1


def test_the_bound_is_of_the_checkpoint(clips):
    network = vidact.models.tsn_resnet_tiny(16, None, 48, modality="flow", flow_fields=2)
    made = ClipData(str(clips), SegmentSampler(3), num_workers=0, flow_bound=4.0)
    made.trainer = SimpleNamespace(lightning_module=SimpleNamespace(network=network), is_global_zero=False)
    made.setup("test")
    assert network.input.flow_bound == 4.0
    assert from_record({"input": network.input.as_dict()}).input.flow_bound == 4.0
    with pytest.raises(ValueError, match=r"flow_bound is 0; it is the greatest motion"):
        dataclasses.replace(network.input, flow_bound=0)


def test_flow_alone_opens_no_video(clips, flow, monkeypatch):
    """The point of storing it."""
    made = data(clips, FLOW, flow=str(flow), cache="memory")
    monkeypatch.setattr("vidact.data.clips.open_video", None)
    assert made.sets["train"][0].clips.shape == (1, 3, 4, 48, 48)
    assert not made.frames.frames


def test_short_videos_end_in_no_motion_both_ways(clips, flow, tmp_path):
    """Two frames have one field; a stack of two is filled as the computed one is."""
    source = load_clips(clips).clips[0].path
    lines = ["path,label,start_s,end_s,split"]
    with open_video(source) as video:
        times = video.times_s - video.times_s[0]
    for label, first in (("a", 0), ("b", 5)):
        lines.append(f"{source.resolve()},{label},{times[first]:.6f},{times[first + 2] - 1e-3:.6f},test")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "flow"
    extract_flow(tmp_path, out, EXACT, progress=False)
    stored, computed = data(tmp_path, FLOW, flow=str(out)), data(tmp_path, FLOW)
    samples = [(stored.sets["test"][i].clips, computed.sets["test"][i].clips) for i in range(2)]
    for a, b in samples:
        assert torch.equal(a, b)
        nothing = (128 / 255 - 0.5) / 0.226
        torch.testing.assert_close(a[:, :, 2:], torch.full_like(a[:, :, 2:], nothing), rtol=0, atol=1e-5)
    assert not torch.equal(samples[0][0], samples[1][0])


def test_rgb_and_flow_runs_see_the_same_segments(clips, flow):
    """Two runs that are fused look at the same moments when RGB leaves the same room at the end."""
    seen = {}
    for name, input, options in (("rgb", ClipInput(size=48), {}), ("flow", FLOW, {"flow": str(flow)})):
        made = ClipData(str(clips), SegmentSampler(3, segment_length=3), Augment(), num_workers=0, **options)
        made.prepare(input)
        for split, seed in (("train", 7), ("test", None)):
            dataset, asked = made.sets[split], []
            inner = dataset.sampler

            def spy(count, generator, num_clips, inner=inner, asked=asked):
                asked.append(inner(count, generator, num_clips))
                return asked[-1]

            dataset.sampler = spy
            generator = None if seed is None else np.random.default_rng(seed)
            dataset.read(dataset.clips[0], generator)
            seen[name, split] = asked[0].tolist()
    assert seen["rgb", "train"] == seen["flow", "train"]
    assert seen["rgb", "test"] == seen["flow", "test"]


def test_misfits_are_named(clips, flow, tmp_path):
    with pytest.raises(ValueError, match="the network takes no flow"):
        data(clips, ClipInput(size=48), flow=str(flow))
    with pytest.raises(ValueError, match="flow_method is 'pwc'"):
        data(clips, FLOW, flow_method="pwc")
    shutil.copytree(flow, tmp_path / "other")
    victim = data(clips, BOTH, flow=str(tmp_path / "other"), unreadable="raise")
    clip = victim.sets["train"].clips[0]
    pack = tmp_path / "other" / f"{clip.id}.flow.zip"
    longer = write_numbered_video(tmp_path / "long.mp4", 90)
    extract_flow(longer, tmp_path / "longer", EXACT, progress=False)
    os.replace(tmp_path / "longer/long.flow.zip", pack)
    with pytest.raises(VideoError, match=r"frames and its stored flow 89 fields"):
        victim.sets["train"][0]
    pack.unlink()
    with pytest.raises(VideoError, match="no flow of"):
        victim.sets["train"][0]


# ---------------------------------------------------------------------------------------------- the loop over files


def write_numbered_video(path: Path, num_frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, num_frames)
    return path


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.zip"))}


@pytest.mark.slow
def test_two_workers_and_shards_write_the_same(clips, flow, tmp_path):
    extract_flow(clips, tmp_path / "two", EXACT, workers=2, progress=False)
    assert contents(tmp_path / "two") == contents(flow)
    counts = [len(extract_flow(clips, tmp_path / "s", EXACT, shard=f"{i}/2", progress=False).written) for i in (1, 2)]
    assert sum(counts) == len(contents(flow))
    assert contents(tmp_path / "s") == contents(flow)


def test_finished_videos_are_kept_and_changed_ones_made_again(tmp_path):
    films = tmp_path / "films"
    for name in ("a", "b"):
        write_numbered_video(films / f"{name}.mp4", 6)
    first = extract_flow(films, tmp_path / "out", EXACT, progress=False)
    assert (first.written, first.kept, first.num_fields) == (["a", "b"], [], 10)
    stamp = (tmp_path / "out/a.flow.zip").stat().st_mtime_ns
    write_numbered_video(films / "b.mp4", 9)
    again = extract_flow(films, tmp_path / "out", EXACT, progress=False)
    assert (again.written, again.kept) == (["b"], ["a"])
    assert (tmp_path / "out/a.flow.zip").stat().st_mtime_ns == stamp
    assert len(FlowStore(tmp_path / "out").open("b")) == 8
    (tmp_path / "out/a.flow.zip").unlink()
    assert extract_flow(films, tmp_path / "out", EXACT, progress=False).written == ["a"]


def test_killed_and_called_again_gives_the_same_bytes(clips, flow, tmp_path):
    def run():
        replace = os.replace

        def slow(*paths):
            replace(*paths)
            if len(list(tmp_path.rglob("*.zip"))) > 2:
                time.sleep(60)  # it does not come to the last one

        os.replace = slow
        extract_flow(clips, tmp_path, EXACT, progress=False)

    process = FORK.Process(target=run)
    process.start()
    while not list(tmp_path.rglob("*.zip")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert contents(tmp_path) != contents(flow)
    extract_flow(clips, tmp_path, EXACT, progress=False)
    assert contents(tmp_path) == contents(flow)


def test_bad_videos_are_reported_by_name(tmp_path, monkeypatch):
    films = tmp_path / "films"
    write_numbered_video(films / "good.mp4", 5)
    write_numbered_video(films / "still.mp4", 1)
    (films / "broken.mp4").write_text("not a video")
    monkeypatch.setattr(sys, "argv", ["extract.py", "flow", "--videos", str(films), "--out", str(tmp_path / "out"),
                                      "--size", "56", "--workers", "1"])  # fmt: skip
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "tools/extract.py"), run_name="__main__")
    assert left.value.code == 1
    report = (tmp_path / "out/unreadable.json").read_text()
    assert "still.mp4 has one frame; flow needs two" in report
    assert "broken" in report
    section = load_results(tmp_path / "out")["extract_flow"]
    assert (section["videos_written"], section["videos_unreadable"], section["fields_written"]) == (1, 2, 4)


def test_folders_of_images_are_videos(tmp_path):
    from PIL import Image

    for name in ("wave/1", "walk/2"):
        (tmp_path / "films" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((40, 48, 3), 20 * i, np.uint8)).save(tmp_path / "films" / name / f"{i}.jpg")
    assert sorted(find_sources(tmp_path / "films")) == ["walk/2", "wave/1"]
    assert load_clips(tmp_path / "films").classes == ["walk", "wave"]
    done = extract_flow(tmp_path / "films", tmp_path / "out", FlowRecord(size=None), progress=False)
    assert done.num_fields == 6


def test_the_command_asks_before_it_works(tmp_path, capsys):
    write_numbered_video(tmp_path / "films/a.mp4", 3)
    for words, args in {
        "no flow method 'pwc'": ["--method", "pwc"],
        "size is 'big'": ["--size", "big"],
        "shard is '0/2'": ["--shard", "0/2"],
        "layout is 'mp4'": ["--layout", "mp4"],
    }.items():
        with pytest.raises(SystemExit):
            cli.main(["extract", "flow", "--videos", str(tmp_path / "films"), "--out", str(tmp_path / "out"), *args])
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    cli.main(["extract", "flow", "--adopt", "--out", str(tmp_path / "there"), "--layout", "uv", "--method", "tvl1"])
    assert FlowStore(tmp_path / "there").record.method == "tvl1"


def test_other_methods_and_sizes(tmp_path):
    film = write_numbered_video(tmp_path / "a.mp4", 4)
    extract_flow(film, tmp_path / "out", FlowRecord(method="farneback", size=(64, 48), layout="tsn"), progress=False)
    assert FlowStore(tmp_path / "out").open("a").fields_at([0]).shape == (1, 2, 48, 64)


def test_each_shard_keeps_its_own_list_of_unreadable_videos(tmp_path):
    for number in range(6):
        (tmp_path / "films" / f"{number}.mp4").parent.mkdir(exist_ok=True)
        (tmp_path / "films" / f"{number}.mp4").write_bytes(b"no video")
    for shard in ("1/2", "2/2"):
        extract_flow(tmp_path / "films", tmp_path / "out", shard=shard, progress=False)
    lists = [json.loads((tmp_path / "out" / f"unreadable-{part}-of-2.json").read_text()) for part in (1, 2)]
    assert sorted([*lists[0], *lists[1]]) == list("012345")
    assert all(lists)
    (tmp_path / "films" / f"{min(lists[0])}.mp4").unlink()
    for video in lists[1]:
        write_numbered_video(tmp_path / "films" / f"{video}.mp4", 3)
    extract_flow(tmp_path / "films", tmp_path / "out", shard="2/2", progress=False)
    assert not (tmp_path / "out" / "unreadable-2-of-2.json").exists()
    assert json.loads((tmp_path / "out" / "unreadable-1-of-2.json").read_text()) == lists[0]


def test_a_second_run_of_one_shard_of_flow_is_refused(tmp_path):
    write_numbered_video(tmp_path / "films" / "a.mp4", 3)
    with jobs.Folder(tmp_path / "out", ".extract", shard="1/2").locked():
        with pytest.raises(ValueError, match=r"another run is writing shard 1/2 of .*out"):
            extract_flow(tmp_path / "films", tmp_path / "out", shard="1/2", progress=False)
        extract_flow(tmp_path / "films", tmp_path / "out", shard="2/2", progress=False)
    extract_flow(tmp_path / "films", tmp_path / "out", shard="1/2", progress=False)


def test_a_video_that_may_not_be_read_is_reported_and_the_others_have_their_flow(tmp_path, monkeypatch):
    write_numbered_video(tmp_path / "films" / "a.mp4", 3)
    write_numbered_video(tmp_path / "films" / "b.mp4", 3)
    opened = flow_files.open_video

    def refuse(path, *options):
        if path.name == "a.mp4":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *options)

    monkeypatch.setattr(flow_files, "open_video", refuse)
    done = extract_flow(tmp_path / "films", tmp_path / "out", progress=False)
    assert done.written == ["b"]
    assert "Permission denied" in done.unreadable["a"]
