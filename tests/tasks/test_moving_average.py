"""Averaged weights are the same on one device with and without DDP, and no copy of a task drags the run along."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed

from vidact.data.synthetic import write_clips
from vidact.tasks.training import Average, warm_average
from vidact.training.lightning import make_cli
from vidact.training.run import train

pytestmark = pytest.mark.usefixtures("without_pages")

NAMES = ["moving left", "moving right", "pulsing cross"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 2, "val": 1, "test": 1}, seed=0, classes=NAMES)
    return folder


@pytest.fixture
def alone_again() -> Iterator[None]:
    """The process group of a test, and what Lightning put into the environment for it, end with it."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def clips(root: Path, run: Path) -> list[str]:
    """The configuration says which optimiser: what jsonargparse makes of it knows the whole command line."""
    return [
        "--config", "clip/synthetic/tsm_resnet_tiny", f"--data.root={root}", "--model.network.size=32",
        "--trainer.max_epochs=2", "--data.batch_size=2", "--device=cpu", "--data.num_workers=0", f"--run={run}",
    ]  # fmt: skip


def sequences(root: Path, run: Path) -> list[str]:
    return [
        "--config", "online/fir/frame_classifier", f"--data.root={root}", "--trainer.max_epochs=2", "--device=cpu",
        f"--run={run}",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_warm_average_forgets_the_start(dtype: torch.dtype) -> None:
    module = torch.nn.Linear(2, 1).to(dtype)
    average = Average(module, multi_avg_fn=warm_average(0.9), use_buffers=True)
    expected = None
    for step in range(200):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update_parameters(module)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = float(step) if expected is None else keep * expected + (1 - keep) * step
    assert expected is not None
    torch.testing.assert_close(average.module.weight.mean().item(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["clips", "sequences"])
def test_ddp_on_one_device_averages_as_one_device_does(
    kind: str, root: Path, noise_sequences: Path, tmp_path: Path, alone_again: None
) -> None:
    saved = {}
    for strategy in ("auto", "ddp"):
        run = tmp_path / strategy
        args = clips(root, run) if kind == "clips" else sequences(noise_sequences, run)
        train([*args, "--model.ema=0.9", "--trainer.devices=1", f"--trainer.strategy={strategy}"])
        saved[strategy] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state"):
        one, other = (saved[strategy][part] for strategy in ("auto", "ddp"))
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one), part
    assert any(not torch.equal(saved["ddp"]["state_dict"][name], value)
               for name, value in saved["ddp"]["current_model_state"].items())  # fmt: skip


@pytest.mark.parametrize("kind", ["clips", "sequences"])
def test_a_copy_of_a_task_has_its_weights_and_not_its_run(
    kind: str, root: Path, noise_sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks copy the module: the data in memory, the loggers and the Trainer are not theirs."""

    def refuse(self: object, memo: dict) -> None:
        raise AssertionError("copied")

    for part in (pl.Trainer, pl.LightningDataModule):
        monkeypatch.setattr(part, "__deepcopy__", refuse, raising=False)
    made = make_cli(clips(root, tmp_path) if kind == "clips" else sequences(noise_sequences, tmp_path), "train")
    twin = copy.deepcopy(made.model)
    mine, other = made.model.network.state_dict(), twin.network.state_dict()
    assert all(torch.equal(mine[name], other[name]) and mine[name] is not other[name] for name in mine)
