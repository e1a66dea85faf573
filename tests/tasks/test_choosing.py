"""Which epoch counts as the best: by loss where few clips are validated, the later of two alike; it is said."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vidact.data.synthetic import write_clips
from vidact.results.figures import load_results
from vidact.tasks import ClipClassification, keeping
from vidact.training import run as training

pytestmark = pytest.mark.usefixtures("without_pages")

NAMES = ["moving left", "moving right", "pulsing cross"]
SMALL = ["--config", "debug", "--trainer.enable_progress_bar=false", "--model.network.size=16", "--device=cpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 2, "val": 1, "test": 1}, seed=0, classes=NAMES)
    return folder


def scripted(monkeypatch: pytest.MonkeyPatch, epochs: list[dict[str, float]]) -> None:
    """Validation figures as given, epoch by epoch."""

    def figures(task: ClipClassification, scores: Any) -> dict[str, float]:
        known = epochs[min(task.trainer.current_epoch, len(epochs) - 1)]
        return {"top5": 1.0, "mean_class_accuracy": known["top1"], **known}

    monkeypatch.setattr(ClipClassification, "figures", figures)


def best_epoch(run: Path) -> int:
    return int(torch.load(run / "checkpoints/best.ckpt", weights_only=True)["epoch"]) + 1


def train(root: Path, run: Path, epochs: int, *more: str) -> Path:
    return training.train([*SMALL, f"--data.root={root}", f"--run={run}", f"--trainer.max_epochs={epochs}", *more])


SHAKY = [{"top1": 0.9, "loss": 2.0}, {"top1": 0.6, "loss": 0.5}, {"top1": 0.7, "loss": 0.8}]


def test_few_clips_choose_by_loss(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    scripted(monkeypatch, SHAKY)
    run = train(root, tmp_path / "run", 3)
    assert best_epoch(run) == 2
    said = capsys.readouterr().out
    assert "3 validation clips are too few to choose an epoch by accuracy, of which one is 33.3 points" in said
    assert "best.ckpt: epoch 2 of 3, with the smallest val_loss (0.5) on 3 clips" in said
    chosen = load_results(run)["chosen"]
    assert chosen == {"epoch": 2, "of": 3, "by": "val_loss", "value": 0.5, "validated": 3}


def test_many_clips_choose_by_accuracy(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "FEW_CLIPS", 3)
    scripted(monkeypatch, SHAKY)
    run = train(root, tmp_path / "run", 3)
    assert best_epoch(run) == 1
    said = capsys.readouterr().out
    assert "too few" not in said
    assert "best.ckpt: epoch 1 of 3, with the highest val_top1 (0.9) on 3 clips" in said
    assert load_results(run)["chosen"]["by"] == "val_top1"


def test_clips_that_are_not_validated_do_not_count(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Three clips would be enough here, and two of them are not."""
    monkeypatch.setattr(keeping, "FEW_CLIPS", 3)
    scripted(monkeypatch, SHAKY)
    run = train(root, tmp_path / "run", 3, "--data.batch_size=2", "--trainer.limit_val_batches=1")
    assert best_epoch(run) == 2
    assert "2 validation clips are too few" in capsys.readouterr().out
    assert load_results(run)["chosen"]["validated"] == 2


@pytest.mark.parametrize("few", [True, False])
def test_the_later_of_two_alike(few: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FEW_CLIPS", 100 if few else 1)
    scripted(monkeypatch, [{"top1": 0.5, "loss": 1.0}, {"top1": 1.0, "loss": 0.0}, {"top1": 1.0, "loss": 0.0}])
    run = train(root, tmp_path / "run", 3)
    assert best_epoch(run) == 3
    assert load_results(run)["chosen"]["epoch"] == 3


def test_a_loss_that_is_no_number_is_never_the_best(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [{"top1": 0.9, "loss": float("nan")}, {"top1": 0.5, "loss": 3.0}])
    assert best_epoch(train(root, tmp_path / "run", 2)) == 2


def test_a_run_that_was_moved_and_goes_on_keeps_its_best(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [{"top1": 0.9, "loss": 0.1}, {"top1": 0.5, "loss": 1.0}])
    run = train(root, tmp_path / "run", 1)
    run.rename(tmp_path / "moved")
    training.train(["--config", str(tmp_path / "moved/config.yaml"), "--ckpt=last", "--trainer.max_epochs=2"])
    assert best_epoch(tmp_path / "moved") == 1
    assert load_results(tmp_path / "moved")["chosen"]["epoch"] == 1


def test_a_best_that_was_chosen_otherwise_is_chosen_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of older versions chose by accuracy whatever was validated; an accuracy is no loss."""
    monkeypatch.setattr(keeping, "FEW_CLIPS", 1)
    scripted(monkeypatch, [{"top1": 0.9, "loss": 0.1}, {"top1": 0.5, "loss": 1.0}, {"top1": 0.5, "loss": 2.0}])
    run = train(root, tmp_path / "run", 1)
    monkeypatch.setattr(keeping, "FEW_CLIPS", 100)
    training.train(["--config", str(run / "config.yaml"), "--ckpt=last", "--trainer.max_epochs=3"])
    assert best_epoch(run) == 2


def test_stopping_early_goes_by_the_same_figure(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falling = [{"top1": 0.9, "loss": 1.0 / (1 + epoch)} for epoch in range(4)]
    scripted(monkeypatch, [*falling, *[{"top1": 0.9, "loss": 5.0}] * 4])
    run = train(root, tmp_path / "run", 8, "--model.early_stopping=2")
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] + 1
    assert (best_epoch(run), last) == (4, 6)


def test_detectors_say_which_epoch_they_are_of(noise_sequences: Path, tmp_path: Path) -> None:
    run = training.train([
        "--config", "online/fir/frame_classifier", f"--data.root={noise_sequences}", "--device=cpu",
        "--trainer.max_epochs=2", f"--run={tmp_path / 'run'}",
    ])  # fmt: skip
    assert load_results(run)["chosen"] == {"epoch": 2, "of": 2, "by": "the last epoch", "validated": 1}
