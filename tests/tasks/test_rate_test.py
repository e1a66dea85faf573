"""The learning-rate range test: what it measures, what it leaves as it was, and what it says."""

import csv
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from vidact import cli
from vidact.data import SequenceData
from vidact.data.synthetic import write_clips
from vidact.models import frame_classifier
from vidact.results.figures import load_results
from vidact.tasks import OnlineDetection, Schedule
from vidact.tasks.rate_test import RateCurve, RateTest
from vidact.tasks.schedules import ParameterGroups
from vidact.training.lightning import make_cli

RATES = tuple(10 ** np.linspace(-7, 0, 100))


# ---- the suggestion


def curve(shape, noise: float = 0.0) -> RateCurve:
    """The curve of losses ``shape`` of the logarithm of the rate, until it diverges."""
    rng = np.random.default_rng(0)
    losses = [shape(np.log10(rate)) + noise * rng.normal() for rate in RATES]
    end = next((i for i, loss in enumerate(losses) if loss > 8), len(losses))
    return RateCurve(RATES[:end], tuple(losses[:end]), "diverged" if end < len(losses) else "all steps")


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_suggestion_lies_below_the_rate_of_the_lowest_loss(noise: float) -> None:
    """A loss of 2 that falls from 1e-5 to 1 at 1e-3, and rises steeply from 1e-2."""
    found = curve(lambda x: 2 - 0.5 * np.clip(x + 5, 0, 2) + 20 * max(0, x + 2), noise)
    assert 1e-4 <= found.suggestion <= 1.5e-3
    words = found.describe(5e-4)
    assert f"--model.optimizer.init_args.lr {found.suggestion:.2g} (the recipe has 0.0005)" in words
    assert "the loss rose to 4 times its lowest value at" in words


@pytest.mark.parametrize(
    "found",
    [
        curve(lambda x: 2.0),
        curve(lambda x: 2.0, noise=0.2),
        curve(lambda x: 2.0 - 0.05 * (-4 < x < -2)),  # a fresh classifier, whose loss is the same for all batches
        curve(lambda x: 2.0 + max(0, x + 5)),
        RateCurve(RATES[:5], (2.0, 1.0, 0.5, 0.2, 0.1), "nan"),
    ],
)
def test_a_loss_that_does_not_fall_suggests_nothing(found: RateCurve) -> None:
    assert found.suggestion is None
    assert "no rate is suggested" in found.describe(0.01)
    assert "keep the recipe's rate of 0.01" in found.describe(0.01)


# ---- the test


class Diary(pl.Callback):
    """The rates of all groups at every step, and the loss of every batch."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)


def fit(root: Path, test: RateTest, lr: float = 0.01, **options) -> tuple[OnlineDetection, Diary, dict]:
    torch.manual_seed(0)
    task = OnlineDetection(
        frame_classifier(3, 8),
        lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9),
        schedule=Schedule("cosine", warmup_epochs=1),
        groups=ParameterGroups(head=5, bias=2),
    )
    before = {name: value.clone() for name, value in task.state_dict().items()}
    diary = Diary()
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu", "max_epochs": -1, "max_steps": test.num_steps + 1, "limit_val_batches": 0,
            "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
            "enable_model_summary": False, "use_distributed_sampler": False, "callbacks": [diary, test], **options,
        }
    )  # fmt: skip
    trainer.fit(task, SequenceData(str(root), window=16, batch_size=2, num_workers=0))
    return task, diary, before


def test_rates_rise_by_one_factor_and_groups_keep_theirs(noise_sequences: Path) -> None:
    """Five batches make an epoch: the data are passed several times."""
    test = RateTest(steps=20, decades=(3, 1))
    task, diary, before = fit(noise_sequences, test)
    rates = np.array(diary.rates)[:20]
    np.testing.assert_allclose(rates[:, 0] / rates[0, 0], 10 ** np.linspace(0, 4, 20), rtol=1e-9)
    assert np.ptp(rates / rates[:, :1], axis=0).max() < 1e-9
    groups = ParameterGroups(head=5, bias=2).split(task.network, 0.01, 0)
    assert rates[0].tolist() == pytest.approx([group["lr"] / 1000 for group in groups])
    assert len(set(rates[0])) > 1
    assert test.curve.rates == pytest.approx(tuple(0.01 * 10 ** np.linspace(-3, 1, 20)))
    assert test.curve.losses == pytest.approx(diary.losses[1:])
    assert test.curve.ended == "all steps"
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_step_of_several_batches_has_their_mean(noise_sequences: Path) -> None:
    test = RateTest(steps=10)
    _, diary, _ = fit(noise_sequences, test, accumulate_grad_batches=2)
    assert len(diary.losses) > len(diary.rates) == 11
    assert test.losses[0] == pytest.approx(np.mean(diary.losses[:2]))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_it_ends_where_the_loss_diverges_and_restores_the_weights(noise_sequences: Path, precision: str) -> None:
    test = RateTest(steps=60, decades=(2, 12))
    task, _, before = fit(noise_sequences, test, precision=precision)
    assert test.curve.ended in ("diverged", "nan")
    assert 10 < len(test.curve.losses) < 60
    assert np.isfinite(test.curve.losses).all()
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype)), name


def test_two_tests_are_the_same(noise_sequences: Path) -> None:
    first, second = RateTest(steps=10), RateTest(steps=10)
    fit(noise_sequences, first)
    torch.rand(3)
    fit(noise_sequences, second)
    assert first.curve == second.curve


def test_a_loss_that_is_no_number_from_the_start_is_explained(noise_sequences: Path) -> None:
    test = RateTest(steps=10)
    torch.manual_seed(0)
    task = OnlineDetection(frame_classifier(3, 8))
    next(iter(task.network.parameters())).data.fill_(torch.nan)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=11, limit_val_batches=0, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False, callbacks=[test],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"the loss of the first batch is nan: the weights of .+ hold nan"):
        trainer.fit(task, SequenceData(str(noise_sequences), window=16, batch_size=2, num_workers=0))


def test_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps is 9; a range test takes at least 10"):
        RateTest(steps=9)


# ---- the command


def options(root: Path, *more: str) -> list[str]:
    return [
        "train", "--config", "online/synthetic/miniroad", f"--data.root={root}", "--data.window=16",
        "--data.num_workers=0", "--model.network.hidden_dim=16", "--model.network.embedding_dim=8", "--device=cpu",
        "--find_lr", *more,
    ]  # fmt: skip


def test_the_command_writes_curve_and_picture_and_trains_nothing(
    noise_sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "lr"
    left_out = ["--model.ema=0.9", "--model.early_stopping=2", "--trainer.max_time=00:01:00:00"]
    cli.main(options(noise_sequences, f"--run={run}", *left_out))
    printed = capsys.readouterr().out
    assert "leaves out model.ema, model.early_stopping, trainer.max_time and the schedule" in printed
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names == {"learning_rate.csv", "plots/learning_rate.png", "report.html", "results.json"}
    with (run / "learning_rate.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figures = load_results(run)["learning rate test"]
    assert len(rows) == figures["steps"] >= 10
    assert float(rows[1]["rate"]) > float(rows[0]["rate"])
    suggestion = figures["suggestion"]
    assert ("no rate is suggested" in printed) == (suggestion is None)
    assert suggestion is None or f"--model.optimizer.init_args.lr {suggestion:.2g}" in printed
    assert "Learning rate" in (run / "report.html").read_text()


def test_what_learns_in_the_end_learns_in_the_test(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_clips(tmp_path / "clips", splits={"train": 1}, seed=0, classes=["opening", "closing"])
    plan = ["--model.freeze=backbone", "--model.unfreeze=[2]", f"--data.root={tmp_path / 'clips'}"]
    made = make_cli(["--config", "debug", *plan, f"--run={tmp_path / 'run'}"], "train", tests_rates=True)
    assert made.model.frozen.first.choice == "none"
    assert "the range test leaves out model.unfreeze and the schedule" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--ckpt=last"], "--find_lr tests the rates with which a training starts, and --ckpt goes on with one"),
        (["--find_lr=true"], "--find_lr takes no value: write --find_lr, or leave it out to train"),
        (["--trainer.fast_dev_run=true"], "--find_lr needs about a hundred steps"),
        (["--trainer.devices=2"], "runs on one device, and 2 would train; give --trainer.devices 1"),
        (["--model.optimizer.init_args.lr=0"], "lr is 0"),
    ],
)
def test_what_it_cannot_test_is_refused_and_leaves_nothing(
    more: list[str], words: str, noise_sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(options(noise_sequences, f"--run={tmp_path / 'lr'}", *more))
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "lr").exists()
