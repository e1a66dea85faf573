"""Steps of training: how many an epoch and the whole have, and what a step of fewer batches weighs."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn
from torch.nn import functional as F

from vidact.batch import ClipBatch, ClipInput
from vidact.tasks import ClipClassification, Schedule

NUM_CLIPS, BATCH = 20, 4  # five batches an epoch
CLIPS = torch.randn(NUM_CLIPS, 1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM_CLIPS) % 3


class Line(nn.Module):
    """The simplest clip network: a linear function of the mean of each channel."""

    num_classes = 3
    input = ClipInput(size=4)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.fc(clips.mean((1, 3, 4)))  # (B, T, C, H, W) → (B, K)


class Clips(pl.LightningDataModule):
    """Batches that are known beforehand; ``empty`` are those whose videos were all unreadable."""

    class found:
        classes, multi_label = ["a", "b", "c"], False

        @staticmethod
        def split(name: str) -> list:
            return []

    class sampler:
        record = staticmethod(dict)

    flow_record, batch_size, root, max_unreadable = None, BATCH, "made", 1.0

    def __init__(self, empty: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.sets = {"train": range(NUM_CLIPS)}
        self.batches = []
        for i, (clips, labels) in enumerate(zip(CLIPS.split(BATCH), LABELS.split(BATCH), strict=True)):
            skipped = {str(i): "unreadable"} if i in empty else {}
            keep = 0 if skipped else len(clips)
            self.batches.append(ClipBatch(clips[:keep], labels[:keep], [str(n) for n in range(keep)], skipped))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.batches, batch_size=None)


class Rates(pl.Callback):
    """The learning rate of every optimiser step, as a multiple of the asked one."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


def fit(run: Path, schedule: Schedule = Schedule(), empty: tuple[int, ...] = (), **options):  # noqa: B008
    rates = Rates()
    callbacks = [rates, *options.pop("callbacks", [])]
    task = ClipClassification(Line(), lambda params: torch.optim.SGD(params, lr=1.0), schedule)
    trainer = pl.Trainer(
        **{
            "default_root_dir": run, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
            "enable_checkpointing": False, "enable_model_summary": False, "callbacks": callbacks, **options,
        }
    )  # fmt: skip
    trainer.fit(task, Clips(empty))
    return task.network, rates.seen


# ---- schedules


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 30, "max_steps": 15}, 15),
        ({"max_epochs": -1, "max_steps": 15}, 15),
        ({"max_epochs": 30, "max_steps": 3}, 3),
        ({"max_epochs": 3}, 15),
        ({"max_epochs": 3, "max_time": "00:00:10:00"}, 15),
        ({"max_epochs": 3, "max_steps": 1000}, 15),
    ],
)
def test_an_epoch_has_as_many_steps_whatever_ends_training(options: dict, steps: int, tmp_path: Path) -> None:
    """Five batches an epoch: the warm-up of one epoch takes five steps, and the rate falls at the tenth."""
    _, rates = fit(tmp_path, Schedule("step", milestones=(2,), warmup_epochs=1, warmup_start=0.5), **options)
    expected = [0.5, 0.6, 0.7, 0.8, 0.9, *[1.0] * 5, *[0.1] * 5]
    assert rates == pytest.approx(expected[:steps])


@pytest.mark.parametrize(
    "options",
    [{"max_epochs": -1, "max_time": "00:00:00:10"}, {"max_time": "00:00:00:10"}],
    ids=["no end but the time", "nothing but the time"],
)
def test_a_rate_that_falls_in_epochs_needs_no_last_step(options: dict, tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, module) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    schedule = Schedule("step", milestones=(1,), gamma=0.5, warmup_epochs=0.4, warmup_start=0.2)
    _, rates = fit(tmp_path, schedule, callbacks=[Stop()], **options)
    assert rates == pytest.approx([0.2, 0.6, 1, 1, 1, *[0.5] * 10])


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": -1, "max_time": "00:00:10:00"},
        {"max_time": "00:00:10:00"},
        {"max_epochs": -1},
    ],
)
def test_a_cosine_needs_a_last_step(options: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cosine falls until the last step.*trainer\.max_epochs or trainer"):
        fit(tmp_path, Schedule("cosine"), **options)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"max_epochs": 2}, 10), ({"max_epochs": 30, "max_steps": 7}, 7), ({"max_epochs": -1, "max_steps": 12}, 12)],
)
def test_a_cosine_ends_with_the_training(options: dict, steps: int, tmp_path: Path) -> None:
    _, rates = fit(tmp_path, Schedule("cosine"), **options)
    assert rates == pytest.approx([(1 + np.cos(np.pi * step / steps)) / 2 for step in range(steps)])


def test_steps_an_epoch_are_those_of_accumulated_batches(tmp_path: Path) -> None:
    """Five batches two by two are three steps, one of them of a single batch."""
    _, rates = fit(tmp_path, Schedule("step", milestones=(1,)), max_epochs=2, accumulate_grad_batches=2)
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1])
    _, rates = fit(tmp_path, Schedule("step", milestones=(1,)), max_epochs=3, limit_train_batches=2)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1])


def test_epochs_of_different_length_are_no_measure_for_a_schedule(tmp_path: Path) -> None:
    changing = {"max_epochs": 2, "callbacks": [GradientAccumulationScheduler({0: 1, 1: 2})]}
    with pytest.raises(ValueError, match=r"schedule\.kind is step.*GradientAccumulationScheduler changes"):
        fit(tmp_path, Schedule("step", milestones=(1,)), **changing)
    _, rates = fit(tmp_path, Schedule(), **changing)
    assert rates == [1.0] * (5 + 3)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(warmup_epochs=3), "the warm-up takes 15 steps and training 10"),
        (Schedule("step", milestones=(1, 2, 5)), "milestones 2, 5 lie beyond the training of 2 epochs"),
    ],
)
def test_a_schedule_that_training_does_not_reach_is_told(
    schedule: Schedule, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fit(tmp_path, schedule, max_epochs=2)
    assert words in capsys.readouterr().out
    fit(tmp_path, Schedule("step", milestones=(1,), warmup_epochs=1), max_epochs=2)
    assert "learning rate" not in capsys.readouterr().out


# ---- accumulated batches


def by_hand(groups: list[list[int]]) -> torch.Tensor:
    """Weights after a step of plain PyTorch for each group: the mean of its batches' losses, at a rate of 1."""
    network = Line()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    clips, labels = CLIPS.split(BATCH), LABELS.split(BATCH)
    for group in groups:
        optimizer.zero_grad()
        torch.stack([F.cross_entropy(network(clips[i].flatten(0, 1)), labels[i]) for i in group]).mean().backward()
        optimizer.step()
    return network.fc.weight.detach()


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"accumulate_grad_batches": 2}, [[0, 1], [2, 3], [4]]),
        ({"accumulate_grad_batches": 4}, [[0, 1, 2, 3], [4]]),
        ({"accumulate_grad_batches": 8}, [[0, 1, 2, 3, 4]]),
        ({"accumulate_grad_batches": 2, "limit_train_batches": 3}, [[0, 1], [2]]),
        ({"accumulate_grad_batches": 2, "empty": (1, 2)}, [[0], [3], [4]]),
        ({"accumulate_grad_batches": 2, "max_epochs": 2}, [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]),
        ({"accumulate_grad_batches": 2, "gradient_clip_val": 100.0}, [[0, 1], [2, 3], [4]]),
    ],
    ids=str,
)
def test_a_step_is_the_mean_of_the_batches_that_were_gathered(options: dict, groups: list, tmp_path: Path) -> None:
    network, _ = fit(tmp_path, **{"max_epochs": 1, **options})
    torch.testing.assert_close(network.fc.weight.detach(), by_hand(groups))


def test_a_full_group_is_left_as_it_is(tmp_path: Path) -> None:
    """To the bit: nothing is multiplied where nothing is missing."""
    network, _ = fit(tmp_path, max_epochs=1, accumulate_grad_batches=5)
    known = Line()
    for clips, labels in zip(CLIPS.split(BATCH), LABELS.split(BATCH), strict=True):
        (F.cross_entropy(known(clips.flatten(0, 1)), labels) / 5).backward()
    with torch.no_grad():
        assert torch.equal(network.fc.weight, known.fc.weight - known.fc.weight.grad)
