"""Lightning's options, fresh and resumed: a training that goes on ends where it would have ended, to the bit.

A run is written down batch by batch: which videos, at which rate, when it validated, the means of an epoch. One that
goes on from any of its checkpoints writes the rest of the same lines, and ends with the same weights and the same
momenta; networks here have dropout, averaged weights and momenta, so that nothing is forgotten. Ten training windows
two by two make five batches an epoch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from vidact.data import ClipData, SequenceData
from vidact.data.event_list import Event
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.synthetic import write_clips
from vidact.models import actionformer_small, miniroad, tsn_resnet_tiny
from vidact.tasks import ClipClassification, OfflineDetection, OnlineDetection, Schedule
from vidact.video import SegmentSampler

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of three videos: ten windows of eight tokens to train on."""
    root = tmp_path_factory.mktemp("sequences")
    (root / "features").mkdir()
    rng = np.random.default_rng(0)
    for video in "abc":
        np.save(root / "features" / f"{video}.npy", rng.normal(size=(80, 8)).astype(np.float32))
    write_events_csv(root / "events.csv", [Event(v, s, s + 3, "xy"[s % 2]) for v in "abc" for s in (2, 9)])
    write_videos_csv(root / "videos.csv", {"a": "train", "b": "val", "c": "test"})
    (root / "features" / "features.json").write_text(json.dumps({"tokens_per_second": 4.0, "dim": 8}))
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    names = ["moving left", "moving right", "pulsing cross"]
    write_clips(root, splits={"train": 3, "val": 1, "test": 1}, seed=0, classes=names)
    return root


def detector(root: Path, data: dict, model: dict) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    torch.manual_seed(0)
    network = miniroad(3, 8, embedding_dim=8, hidden_dim=8, dropout=0.5)
    task = OnlineDetection(
        network,
        lambda params: torch.optim.AdamW(params, lr=0.05),
        **{"schedule": Schedule("step", (1, 2), 0.5, warmup_epochs=0.5), "ema": 0.8, **model},
    )
    return task, SequenceData(str(root), **{"window": 8, "batch_size": 2, **data})


def recogniser(root: Path, data: dict, model: dict) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    torch.manual_seed(0)
    network = tsn_resnet_tiny(3, weights=None, size=32, width=8, dropout=0.5)
    task = ClipClassification(network, schedule=Schedule("cosine"), **{"mixup": 0.4, "cutmix": 0.4, **model})
    return task, ClipData(str(root), SegmentSampler(2), **{"batch_size": 2, "num_workers": 0, **data})


def offline(root: Path, data: dict, model: dict) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """A localiser with branches that are dropped, crops and warm averages; its count of places is a state too."""
    torch.manual_seed(0)
    network = actionformer_small(2, 8, embedding_dim=8, levels=2, num_heads=2, max_tokens=32, drop_path=0.5)
    schedule = Schedule("cosine", warmup_epochs=0.5, warmup_start=0.0, full_in_warmup=True)
    task = OfflineDetection(
        network, lambda params: torch.optim.AdamW(params, lr=0.05), **{"schedule": schedule, "ema": 0.8, **model}
    )
    crops = {"window": 32, "stride": 8, "least_crop": 0.5, "batch_size": 2, "epoch_windows": 10}
    return task, SequenceData(str(root), **{**crops, **data})


class Diary(pl.Callback):
    """What happens, one line each."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx: int) -> None:
        seen = batch.clips if hasattr(batch, "clips") else batch.features
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self.lines.append((trainer.current_epoch, batch_idx, tuple(batch.ids), float(seen.sum()), *rates))

    def on_validation_end(self, trainer, module) -> None:
        self.lines.append(f"validated after {trainer.global_step} steps")

    def on_train_epoch_end(self, trainer, module) -> None:
        means = [float(trainer.callback_metrics[name]) for name in ("train_loss", "grad_norm")]
        self.lines.append(f"epoch {trainer.current_epoch} ended after {trainer.global_step} steps with means {means}")


class Saves(pl.callbacks.Checkpoint):
    """A checkpoint at every batch's end, every validation and every epoch's end; which is the place in the diary."""

    def __init__(self, folder: Path, diary: Diary) -> None:
        self.folder, self.diary, self.made = folder, diary, {}

    def save(self, trainer: pl.Trainer, kind: str) -> None:
        path = self.folder / f"{len(self.made):03d}-{kind}.ckpt"
        trainer.save_checkpoint(path)
        self.made[path] = len(self.diary.lines)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.save(trainer, f"batch{batch_idx}")

    def on_validation_end(self, trainer, module) -> None:
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, module) -> None:
        self.save(trainer, "epoch")


def fit(build, root: Path, run: Path, resume: Path | None = None, data: dict | None = None, model: dict | None = None,
        saves: bool = False, callbacks=(), **options):  # fmt: skip
    """Train for three epochs unless told otherwise; gives the task, the trainer, the diary and what was saved."""
    task, made = build(root, data or {}, model or {})
    diary = Diary()
    saving = Saves(run, diary)
    trainer = pl.Trainer(
        **{
            "default_root_dir": run, "accelerator": "cpu", "max_epochs": 3, "logger": False,
            "enable_progress_bar": False, "enable_checkpointing": saves, "enable_model_summary": False,
            "use_distributed_sampler": False, "num_sanity_val_steps": 0,
            "callbacks": [diary, *([saving] if saves else []), *(make() for make in callbacks)], **options,
        }
    )  # fmt: skip
    trainer.fit(task, made, ckpt_path=resume)
    return task, trainer, diary.lines, saving.made


def assert_same_end(a: tuple, b: tuple, lines: list) -> None:
    """Two trainings are at the same point, and the second one's diary is what it should be."""
    (task, trainer, _, _), (other, resumed, seen, _) = a, b
    assert seen == lines
    assert (resumed.global_step, resumed.current_epoch) == (trainer.global_step, trainer.current_epoch)
    weights, others = task.state_dict(), other.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    momenta, also = (tree_leaves(one.optimizers[0].state_dict()) for one in (trainer, resumed))
    assert len(momenta) == len(also) > 0
    for x, y in zip(momenta, also, strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def thaw() -> pl.Callback:
    return pl.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01)


OPTIONS: dict[str, dict] = {
    "nothing": {},
    "max_steps at an epoch's end": {"max_steps": 10},
    "max_steps inside an epoch": {"max_steps": 13},
    "max_steps alone": {"max_steps": 13, "max_epochs": -1},
    "max_time": {"max_time": "00:01:00:00"},
    "limit_train_batches": {"limit_train_batches": 3},
    "a share of the batches": {"limit_train_batches": 0.8},
    "limit_val_batches 0": {"limit_val_batches": 0},
    "val_check_interval": {"val_check_interval": 2},
    "val_check_interval, max_steps": {"val_check_interval": 2, "max_steps": 12},
    "a share of an epoch": {"val_check_interval": 0.5},
    "validation over epochs": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "every second epoch": {"check_val_every_n_epoch": 2},
    "accumulation": {"accumulate_grad_batches": 2},
    "accumulation and validation": {"accumulate_grad_batches": 3, "val_check_interval": 2},
    "accumulation and max_steps": {"accumulate_grad_batches": 2, "max_steps": 8},
    "clipping": {"gradient_clip_val": 0.1},
    "precision": {"precision": "bf16-mixed"},
    "double precision": {"precision": "64-true"},
    "loaders anew": {"reload_dataloaders_every_n_epochs": 1},
    "finetuning": {"callbacks": [thaw]},
    "without averages": {"model": {"ema": None}},
    "Lightning's averages": {"callbacks": [lambda: pl.callbacks.EMAWeightAveraging(decay=0.8)], "model": {"ema": None}},
    "accumulation that changes": {
        "callbacks": [lambda: pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 2})],
        "model": {"schedule": Schedule()},
    },
    "an early stop": {"callbacks": [lambda: pl.callbacks.EarlyStopping("val_loss", patience=1)], "max_epochs": 5},
    "an early stop by what is trained": {
        "callbacks": [lambda: pl.callbacks.EarlyStopping("train_loss", patience=1, min_delta=0.05)],
        "max_epochs": 6,
    },
    "our early stop": {"model": {"early_stopping": 1}, "max_epochs": 5, "min_epochs": 3},
    "a timer": {"callbacks": [lambda: pl.callbacks.Timer("00:01:00:00")]},
    "few batches again and again": {"overfit_batches": 4, "val_check_interval": 2},
    "Lightning's sampler": {"use_distributed_sampler": True},
}
# what tells most; the others are slow
QUICK = (
    "nothing", "max_steps at an epoch's end", "max_steps inside an epoch", "val_check_interval",
    "accumulation and validation", "finetuning", "an early stop by what is trained",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS]
)
def test_a_detector_goes_on(name: str, sequences: Path, tmp_path: Path) -> None:
    """From the last checkpoint of each kind, but for those of the last steps."""
    whole = fit(detector, sequences, tmp_path, saves=True, **OPTIONS[name])
    kinds = {path.stem.partition("-")[2].rstrip("0123456789"): (path, at) for path, at in [*whole[3].items()][:-8]}
    assert kinds
    for path, at in kinds.values():
        assert_same_end(whole, fit(detector, sequences, tmp_path, resume=path, **OPTIONS[name]), whole[2][at:])


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("max_steps inside an epoch", "accumulation")),
    ],
)
def test_an_offline_network_goes_on(name: str, sequences: Path, tmp_path: Path) -> None:
    options = {**OPTIONS[name], "model": {}, "max_epochs": 2}
    whole = fit(offline, sequences, tmp_path, saves=True, **options)
    for kind in ("batch1", "epoch") if name == "nothing" else ("batch2", "validation"):
        path = next(path for path in whole[3] if kind in path.name)
        assert_same_end(whole, fit(offline, sequences, tmp_path, resume=path, **options), whole[2][whole[3][path] :])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nothing", "max_steps inside an epoch", "accumulation and validation"])
def test_it_goes_on_from_every_checkpoint(name: str, sequences: Path, tmp_path: Path) -> None:
    whole = fit(detector, sequences, tmp_path, saves=True, **OPTIONS[name])
    for path, at in whole[3].items():
        if any(isinstance(line, tuple) for line in whole[2][at:]):  # a batch is left
            assert_same_end(whole, fit(detector, sequences, tmp_path, resume=path, **OPTIONS[name]), whole[2][at:])


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "build",
    [detector, pytest.param(recogniser, marks=pytest.mark.slow), pytest.param(offline, marks=pytest.mark.slow)],
)
def test_loader_processes_do_not_matter(build, workers: int, sequences: Path, clips: Path, tmp_path: Path) -> None:
    """Batches of the epoch that goes on, from its start and from its middle, and not those of the first one."""
    root, data = (clips if build is recogniser else sequences), {"num_workers": workers}
    whole = fit(build, root, tmp_path, saves=True, max_epochs=2)
    for kind in ("epoch", "batch1"):
        path = next(path for path in reversed(whole[3]) if kind in path.name and whole[3][path] < len(whole[2]))
        resumed = fit(build, root, tmp_path, resume=path, data=data, max_epochs=2)
        assert_same_end(whole, resumed, whole[2][whole[3][path] :])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nothing", "max_steps inside an epoch", "val_check_interval", "accumulation"])
def test_a_recogniser_goes_on(name: str, clips: Path, tmp_path: Path) -> None:
    """With MixUp and CutMix, drawn as dropout is."""
    whole = fit(recogniser, clips, tmp_path, saves=True, **OPTIONS[name])
    for path, at in [*whole[3].items()][3::5]:
        assert_same_end(whole, fit(recogniser, clips, tmp_path, resume=path, **OPTIONS[name]), whole[2][at:])


def test_draws_follow_from_the_seeds_the_place_and_nothing_else(sequences: Path, tmp_path: Path) -> None:
    """What was drawn before a run, or between its steps, changes no weight; another seed does."""

    class Draws(pl.Callback):
        def on_train_batch_end(self, *args) -> None:
            torch.rand(7)

    plain = fit(detector, sequences, tmp_path, max_epochs=1)
    torch.rand(5)
    disturbed = fit(detector, sequences, tmp_path, max_epochs=1, callbacks=[Draws])
    assert_same_end(plain, disturbed, plain[2])
    pl.seed_everything(1)
    try:
        other = fit(detector, sequences, tmp_path, max_epochs=1)
    finally:
        pl.seed_everything(0)
    batches = [[line for line in lines if isinstance(line, tuple)] for lines in (other[2], plain[2])]
    assert batches[0] == batches[1]  # the same videos at the same rates
    weights, others = plain[0].state_dict(), other[0].state_dict()
    assert any(not torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (lambda: pl.callbacks.ModelPruning("l1_unstructured", amount=0.2), "keeps no masks in checkpoints"),
        (
            lambda: pl.callbacks.BatchSizeFinder(max_trials=1, steps_per_trial=2),
            "give what it found: --data.batch_size",
        ),
    ],
    ids=["pruning", "batch size"],
)
def test_callbacks_that_do_not_go_on(callback, words: str, sequences: Path, tmp_path: Path) -> None:
    options = {"model": {"ema": None}, "max_epochs": 1, "callbacks": [callback]}
    saved = [*fit(detector, sequences, tmp_path, saves=True, **options)[3]]
    with pytest.raises(ValueError, match=words):
        fit(detector, sequences, tmp_path, resume=saved[0], **options)


def test_stochastic_weight_averaging_goes_on_at_an_epochs_end(sequences: Path, tmp_path: Path) -> None:
    def average() -> pl.Callback:
        return pl.callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=1, annealing_epochs=1)

    options: dict = {"model": {"ema": None}, "callbacks": [average]}
    whole = fit(detector, sequences, tmp_path, saves=True, **options)
    path, at = next((path, at) for path, at in whole[3].items() if "epoch" in path.name)
    assert_same_end(whole, fit(detector, sequences, tmp_path, resume=path, **options), whole[2][at:])
    with pytest.raises(ValueError, match="middle of epoch 1, and Lightning's StochasticWeightAveraging sets its rates"):
        fit(detector, sequences, tmp_path, resume=next(iter(whole[3])), **options)


def test_callbacks_that_cannot_train(sequences: Path, tmp_path: Path) -> None:
    for callback, words in (
        (lambda: pl.callbacks.ModelPruning("l1_unstructured", amount=0.2), "other tensors of the weights"),
        (pl.callbacks.LearningRateFinder, "the rate here is the optimiser's, --model.optimizer.init_args.lr"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(detector, sequences, tmp_path, callbacks=[callback])


@pytest.mark.gpu
def test_a_gpu_goes_on_too(sequences: Path, clips: Path, tmp_path: Path) -> None:
    for build, root in ((detector, sequences), (recogniser, clips)):
        whole = fit(build, root, tmp_path / build.__name__, saves=True, accelerator="gpu", devices=1)
        for path, at in [*whole[3].items()][3::5]:
            resumed = fit(build, root, tmp_path, resume=path, accelerator="gpu", devices=1)
            assert_same_end(whole, resumed, whole[2][at:])
