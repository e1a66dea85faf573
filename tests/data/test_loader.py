"""The loader: pixels finished on the device are the same, and the start method of workers changes nothing."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from vidact import jobs
from vidact.batch import ClipInput
from vidact.data.clips import ClipData, CutBatch
from vidact.data.synthetic import write_clips
from vidact.video import Augment, SegmentSampler

INPUT = ClipInput(size=32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    names = ["moving left", "moving right", "pulsing cross"]
    write_clips(folder, splits={"train": 3, "val": 1, "test": 1}, seed=0, classes=names)
    return folder


def data(root: Path, augment: Augment = Augment(), **options) -> ClipData:  # noqa: B008
    datamodule = ClipData(str(root), SegmentSampler(4), augment, **{"batch_size": 4, "num_workers": 0, **options})
    datamodule.prepare(INPUT)
    return datamodule


def batches(datamodule: ClipData, epoch: int = 0) -> list:
    loader = datamodule.loader("train")
    loader.sampler.set_epoch(epoch)
    return [datamodule.on_after_batch_transfer(batch, 0) for batch in loader]


@pytest.mark.parametrize("crop", ["multiscale", "resized", "none"])
def test_the_device_finishes_what_the_workers_would_have(root: Path, crop: str) -> None:
    """The draws and the labels of mirrored clips are the same, and on a CPU the bits are."""
    for epoch in range(3):
        ours = batches(data(root, Augment(crop=crop)), epoch)
        theirs = batches(data(root, Augment(crop=crop), pixels_on="device"), epoch)
        assert len(ours) == len(theirs) > 1
        for a, b in zip(ours, theirs, strict=True):
            assert a.ids == b.ids
            assert torch.equal(a.targets, b.targets)
            assert torch.equal(a.clips, b.clips)


def test_fewer_bytes_travel(root: Path) -> None:
    datamodule = data(root, pixels_on="device")
    batch = next(iter(datamodule.loader("train")))
    assert isinstance(batch, CutBatch)
    assert all(pixels.dtype == torch.uint8 for pixels in batch.pixels)
    assert all(pixels.shape[:2] == (4, 3) for pixels in batch.pixels)
    assert {type(is_mirrored) for is_mirrored in batch.is_mirrored} == {bool}
    test = next(iter(datamodule.loader("test")))
    assert test.clips.dtype == torch.float32  # the workers finish the views of a test


@pytest.mark.gpu
def test_a_gpu_draws_the_same(root: Path) -> None:
    datamodule = data(root, pixels_on="device")
    ours = batches(data(root))
    for a, batch in zip(ours, datamodule.loader("train"), strict=True):
        moved = CutBatch(
            [video.cuda() for video in batch.pixels],
            batch.is_mirrored,
            batch.targets.cuda(),
            batch.ids,
            batch.skipped,
        )
        b = datamodule.on_after_batch_transfer(moved, 0)
        assert torch.equal(a.targets, b.targets.cpu())
        assert (a.clips - b.clips.cpu()).abs().max() < 1.6 / 255 / 0.224


@pytest.mark.parametrize(
    "augment", [Augment(color_jitter=0.4), Augment(rand_augment=2), Augment(erasing=0.5)], ids=lambda a: str(a)[-40:]
)
def test_what_only_workers_can_do_is_refused(root: Path, augment: Augment) -> None:
    with pytest.raises(ValueError, match="set them to 0, or let the workers do all of it"):
        data(root, augment, pixels_on="device")
    with pytest.raises(ValueError, match="pixels_on is 'gpu'; it can be 'workers' or 'device'"):
        data(root, pixels_on="gpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("pixels_on", ["workers", "device"])
def test_how_workers_begin_does_not_matter(root: Path, method: str, pixels_on: str) -> None:
    ours = batches(data(root))
    theirs = batches(data(root, num_workers=2, start_method=method, pixels_on=pixels_on))
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(ours, theirs, strict=True))


def test_an_epoch_goes_on_in_its_middle(root: Path) -> None:
    whole = batches(data(root), epoch=1)
    datamodule = data(root)
    loader = datamodule.loader("train")
    loader.sampler.set_epoch(1)
    loader.sampler.start = 4  # after the first batch
    rest = list(loader)
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[1:]]
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(rest, whole[1:], strict=True))
    loader.sampler.set_epoch(2)
    assert len(list(loader)) == len(whole)


@pytest.mark.skipif(not hasattr(jobs, "HeldForkProcess"), reason="processes are forked here")
@pytest.mark.parametrize("after", [1, 2])
def test_ctrl_c_while_processes_start_is_nothing_but_an_interrupt(
    after: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch cannot end an iterator that is half made: it would print an error of its own as well."""
    start_process, started, unraisable = jobs.HeldForkProcess.start, [], []

    def start(process: jobs.HeldForkProcess) -> None:
        start_process(process)
        started.append(process)
        if len(started) == after:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(jobs.HeldForkProcess, "start", start)
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    loader = data(root, num_workers=2, start_method="fork").loader("train")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(iter(loader))
    finally:
        signal.signal(signal.SIGINT, handler)
    gc.collect()
    assert not unraisable
    del loader
    gc.collect()
    assert not any(process.is_alive() for process in started)
