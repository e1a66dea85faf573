"""The clip data set: the number of workers changes no batch, and no unreadable video is replaced."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vidact.batch import ClipInput, parse_views
from vidact.data import load_clips
from vidact.data.clips import ClipData, EpochSampler, FrameCache, collate
from vidact.data.synthetic import write_clips
from vidact.features.names import build_network
from vidact.video import Augment, SegmentSampler, VideoError

INPUT = ClipInput(size=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 2, "val": 1, "test": 1}, seed=0)
    return folder


def data(root: Path, **options) -> ClipData:
    datamodule = ClipData(str(root), SegmentSampler(4), Augment(color_jitter=0.4), **{"batch_size": 4, **options})
    datamodule.prepare(INPUT)
    return datamodule


def batches(datamodule: ClipData, split: str = "train", epoch: int = 0) -> list:
    loader = datamodule.loader(split)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        a.ids == b.ids and torch.equal(a.clips, b.clips) and torch.equal(a.targets, b.targets)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_matter(root: Path, workers: int) -> None:
    """Law 7: the same seed gives the same batches."""
    assert same(batches(data(root, num_workers=0), epoch=3), batches(data(root, num_workers=workers), epoch=3))


def test_a_resumed_run_sees_the_batches_it_would_have_seen(root: Path) -> None:
    straight = data(root, num_workers=2)
    epochs = [batches(straight, epoch=epoch) for epoch in range(3)]
    assert same(epochs[2], batches(data(root, num_workers=0), epoch=2))
    assert not same(epochs[1], epochs[2])
    assert not same(epochs[2], batches(data(root, num_workers=0, seed=1), epoch=2))


def test_the_global_generators_are_left_alone(root: Path) -> None:
    datamodule = data(root, num_workers=0)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    datamodule.sets["train"][(0, 0)]
    assert torch.equal(before, torch.random.get_rng_state())


def test_reading_in_the_main_process_resets_no_generator_of_a_device(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)  # torch.manual_seed calls it
    batches(data(root, num_workers=0))
    build_network("resnet_tiny", size=32)
    assert not seeds


def test_evaluation_repeats_itself(root: Path) -> None:
    datamodule = data(root, num_workers=0, views="3x3")
    first, second = batches(datamodule, "test", epoch=0), batches(datamodule, "test", epoch=1)
    assert same(first, second)
    assert first[0].clips.shape[1:] == (9, 4, 3, 36, 36)  # three crops span the resized short side


def test_memory_cache_changes_nothing(root: Path) -> None:
    assert same(batches(data(root, num_workers=0)), batches(data(root, num_workers=0, cache="memory")))


def test_processes_share_the_data_and_repeat_only_to_be_equally_long() -> None:
    parts = [list(EpochSampler(7, shuffle=True, seed=1, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert {index for part in parts for _, index in part} == set(range(7))
    tiny = [list(EpochSampler(1, shuffle=False, rank=rank, world_size=3)) for rank in range(3)]
    assert tiny == [[(0, 0)]] * 3


def break_one(root: Path, folder: Path) -> Path:
    """Write a list of the same data in which the first training video is a text file."""
    clips = load_clips(root)
    lines = ["path,label,split"]
    for clip in clips.clips:
        lines.append(f"{clip.path.resolve()},{clips.classes[clip.label]},{clip.split}")
    bad = folder / "broken.mp4"
    bad.write_text("not a video")
    lines[1] = f"{bad},{lines[1].split(',', 1)[1]}"
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_an_unreadable_video_is_skipped_by_name_in_training(root: Path, tmp_path: Path) -> None:
    datamodule = data(break_one(root, tmp_path), num_workers=0)
    loaded = batches(datamodule)
    skipped = {id: why for batch in loaded for id, why in batch.skipped.items()}
    assert len(skipped) == 1
    assert "broken" in next(iter(skipped))
    assert "broken.mp4" in next(iter(skipped.values()))
    assert sum(len(batch) for batch in loaded) == len(datamodule.sets["train"]) - 1


def test_an_unreadable_video_stops_when_asked(root: Path, tmp_path: Path) -> None:
    datamodule = data(break_one(root, tmp_path), num_workers=0, unreadable="raise")
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        batches(datamodule)


def test_an_unreadable_video_in_the_cache_raises_when_asked(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    cache = FrameCache()
    cache.fill([bad])
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        cache.open(bad)


def test_a_batch_of_nothing_is_still_a_batch() -> None:
    from vidact.data.clips import Sample

    batch = collate([Sample("a", None, None, "broken"), Sample("b", None, None, "empty")], INPUT)
    assert len(batch) == 0
    assert batch.skipped == {"a": "broken", "b": "empty"}


def test_seconds_choose_frames(root: Path, tmp_path: Path) -> None:
    clip = load_clips(root).clips[0]
    label = load_clips(root).classes[clip.label]
    text = "path,label,start_s,end_s,split\n"
    for start_s, end_s in [(0.0, 0.5), (0.5, 1.0)]:
        text += f"{clip.path.resolve()},{label},{start_s},{end_s},train\n"
    (tmp_path / "clips.csv").write_text(text)
    (tmp_path / "classes.txt").write_text(f"{label}\n")
    with pytest.raises(ValueError, match="class"):  # one class is nothing to learn
        load_clips(tmp_path)
    second_label = load_clips(root).classes[clip.label - 1]
    (tmp_path / "clips.csv").write_text(text + f"{clip.path.resolve()},{second_label},90,95,train\n")
    (tmp_path / "classes.txt").write_text(f"{label}\n{second_label}\n")
    datamodule = data(tmp_path, num_workers=0, unreadable="raise")
    datamodule.sets["train"].sampler = Everything()
    first, second = datamodule.sets["train"][0], datamodule.sets["train"][1]
    assert first.clips.shape[1] + second.clips.shape[1] > 4
    with pytest.raises(VideoError, match=r"no frame lies between 90\.0 s and 95\.0 s"):
        datamodule.sets["train"][2]


class Everything(SegmentSampler):
    """A sampler of all frames, in order."""

    def __call__(self, num_frames, generator=None, num_clips=1):
        return np.arange(num_frames)[None]


def test_a_sampler_that_disagrees_with_the_network_is_named(root: Path) -> None:
    datamodule = ClipData(str(root), SegmentSampler(8))
    with pytest.raises(ValueError, match=r"picks 8 frames a clip but the network's weights are made for 5"):
        datamodule.prepare(ClipInput(frames=5, size=32))


def test_an_empty_split_is_named(root: Path, tmp_path: Path) -> None:
    clips = load_clips(root)
    lines = [f"{clip.path.resolve()},{clips.classes[clip.label]},train" for clip in clips.clips]
    (tmp_path / "clips.csv").write_text("path,label,split\n" + "\n".join(lines) + "\n")
    datamodule = data(tmp_path, num_workers=0)
    assert datamodule.val_dataloader() == []
    with pytest.raises(ValueError, match="no clip in the split 'test'"):
        datamodule.test_dataloader()


@pytest.mark.parametrize("views", ["10", "x3", "0x1", "3 x 3"])
def test_views_are_clips_times_crops(views: str) -> None:
    assert parse_views("10x3") == (10, 3)
    with pytest.raises(ValueError, match="clips x crops"):
        parse_views(views)
