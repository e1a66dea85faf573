"""What a run keeps while it trains: its best and its newest checkpoint, and logs whose epochs count from 1."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from vidact.files import replacing


class RunCheckpoint(ModelCheckpoint):
    """One file of a run, whatever checkpoints a user's own callbacks keep beside it."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, enable_version_counter=False, **options)
        self.name = name
        self.older_key = super().state_key.replace(type(self).__qualname__, "ModelCheckpoint", 1)

    @property
    def state_key(self) -> str:
        return f"{self.name}.ckpt"  # Lightning's would be that of any other callback with the same options

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint["callbacks"]
        if self.state_key not in states and self.older_key in states:  # of a run of an older version
            states[self.state_key] = states[self.older_key]


class Best(RunCheckpoint):
    """The epoch with the highest ``val_score``; the newest one where nothing is validated."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", monitor="val_score", mode="max")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and (why := why_no_validation(trainer)):
            self.monitor = None
            if trainer.is_global_zero:
                print(f"nothing is validated, since {why}: the last epoch counts as the best")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        folder = Path(str(self.dirpath))
        if trainer.is_global_zero and not (folder / "best.ckpt").exists() and (folder / "last.ckpt").exists():
            print("training ended before its first validation: the last epoch counts as the best")
            with replacing(folder / "best.ckpt") as half:
                shutil.copyfile(folder / "last.ckpt", half)
        trainer.strategy.barrier("best.ckpt")


class Last(RunCheckpoint):
    """The newest epoch, which ``save_last`` of the other would write beside a new best one alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True)


def why_no_validation(trainer: pl.Trainer) -> str | None:
    """What keeps a training from ever being validated; None where it may be."""
    found = getattr(trainer.datamodule, "found", None)  # type: ignore[attr-defined]
    if found is not None and not found.split("val"):
        return "the data has no split val"
    if trainer.limit_val_batches == 0:
        return "trainer.limit_val_batches is 0"
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if every is not None and epochs is not None and 0 <= epochs < every:
        return f"trainer.check_val_every_n_epoch is {every} and trainer.max_epochs {epochs}"
    return None


def refuse_callbacks(trainer: pl.Trainer) -> None:
    """Raise ValueError, before training, for callbacks of Lightning that would fail or do nothing."""
    why, kinds = why_no_validation(trainer), [type(callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if why and isinstance(callback, pl.callbacks.EarlyStopping) and callback.monitor.startswith("val_"):
            raise ValueError(
                f"training is to stop early by {callback.monitor}, and nothing is validated, since {why}. Leave early "
                "stopping out (--model.early_stopping null), or validate"
            )
        if isinstance(callback, pl.callbacks.LearningRateFinder):
            raise ValueError(
                "Lightning's LearningRateFinder looks for a module's attribute lr; the rate here is the optimiser's, "
                "--model.optimizer.init_args.lr. Try a few with vidact train, or vidact compare"
            )
        averages = [kind for kind in kinds if issubclass(kind, pl.callbacks.WeightAveraging)]
        if averages and isinstance(callback, pl.callbacks.ModelPruning):
            raise ValueError(
                "Lightning's ModelPruning makes other tensors of the weights that are averaged. Leave it or averaged "
                "weights (--model.ema) out"
            )


class EpochBar(TQDMProgressBar):
    """Lightning's progress bar; epochs count from 1."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._leave:
            self.train_progress_bar = self.init_train_tqdm()
        total = self.total_train_batches
        self.train_progress_bar.initial = 0
        self.train_progress_bar.reset(None if total == float("inf") else total)
        end = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{end}")


class EpochCSV(CSVLogger):
    """metrics.csv of one session; its hparams.yaml says from where its epochs count, which older ones do not say."""

    begun = False

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not self.begun:
            self.log_hyperparams({"first_epoch": 1})
            self.begun = True
        super().log_metrics(_from_one(metrics), step)


class EpochTensorBoard(TensorBoardLogger):
    """TensorBoard's files; epochs count from 1."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(_from_one(metrics), step)


def _from_one(metrics: Mapping[str, Any]) -> dict[str, Any]:
    is_test = any(name.startswith("test_") for name in metrics)  # it comes when Lightning counts the next epoch already
    return dict(metrics) if is_test or "epoch" not in metrics else {**metrics, "epoch": metrics["epoch"] + 1}


def make_loggers(run: Path, asked: Any) -> list[Logger] | bool:
    """``trainer.logger``: None and True are a run's own, False is none, and a user's own have metrics.csv beside them.

    A resumed run logs beside its past.
    """
    if asked is False:
        return False
    version = len(list((run / "logs").glob("version_*")))
    own: list[Logger] = [EpochCSV(run, "logs", version, flush_logs_every_n_steps=1)]
    if asked is None or asked is True:
        return [*own, EpochTensorBoard(run, "logs", version)]
    return [*several(asked), *own]


def first_epoch(log: Path) -> int:
    """Whether the epochs of a session's metrics.csv count from 1, or from 0 as those of older versions."""
    with contextlib.suppress(OSError):
        if "first_epoch: 1" in (log.parent / "hparams.yaml").read_text(encoding="utf-8"):
            return 1
    return 0


def several(asked: Any) -> list[Any]:
    """What an option takes one or more of, as a list."""
    if asked is None:
        return []
    return list(asked) if isinstance(asked, Iterable) else [asked]
