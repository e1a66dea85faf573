"""The callbacks and loggers of a run: its best and its newest checkpoint, logs whose epochs count from 1, and times.

Callbacks of Lightning that would fail late, or do nothing, are refused before training.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from vidact.files import replacing

FEW_CLIPS = 100  # with fewer validation clips, one clip is more than a point of accuracy: too coarse to choose by
FIGURES = ("val_top1", "val_map")
LAST = "the last epoch"
AVERAGED = "stochastic weight averaging"


def score_of(figures: Mapping[str, float], by: str) -> float:
    """Return ``val_score``, which is highest for the best epoch: a figure, or the negative of a loss.

    Of two epochs with the same figure, the one with the smaller loss has the higher score.
    """
    loss = figures.get("loss", 0.0)
    if by == "val_loss":
        return -loss if math.isfinite(loss) else -1e30  # any finite loss is better than one that is nan or infinite
    return figures[by.removeprefix("val_")] - 1e-6 * (min(loss, 100.0) if math.isfinite(loss) else 100.0)


class RunCheckpoint(ModelCheckpoint):
    """The callback that writes one checkpoint of a run; a user's own checkpoint callbacks work beside it."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, enable_version_counter=False, **options)
        self.name = name
        self.older_key = super().state_key.replace(type(self).__qualname__, "ModelCheckpoint", 1)

    @property
    def state_key(self) -> str:
        return f"{self.name}.ckpt"  # Lightning's key would equal that of another ModelCheckpoint with the same options

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint["callbacks"]
        if self.state_key not in states and self.older_key in states:  # an older version wrote it
            states[self.state_key] = states[self.older_key]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state with its paths moved to today's folder: Lightning drops the best score of another folder."""
        saved_folder, folder = str(state_dict.get("dirpath")), str(self.dirpath)

        def moved(path: str) -> str:
            return folder + path.removeprefix(saved_folder) if path.startswith(saved_folder) else path

        state = dict(state_dict, dirpath=folder)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = moved(state.get(name) or "")
        state["best_k_models"] = {moved(path): score for path, score in state.get("best_k_models", {}).items()}
        super().load_state_dict(state)


class Best(RunCheckpoint):
    """The checkpoint of the epoch with the highest ``val_score``, the later of two equal ones.

    ``chosen_by`` of the task names the figure that the score stands for. Without validation the newest epoch is kept.
    """

    epoch: int | None = None  # the best epoch, counted from 1
    value: float | None = None  # the value of the figure that the epoch was chosen by
    is_average = False  # whether best.ckpt holds the average of the weights of several epochs

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", monitor="val_score", mode="max")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.task: Any = pl_module
        if stage == "fit" and (why := why_no_validation(trainer)):
            self.monitor = None
            if trainer.is_global_zero:
                print(f"nothing is validated, since {why}: the last epoch counts as the best")

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        if current is None:
            return False
        before = self.best_model_score
        is_best = before is None or trainer.strategy.reduce_boolean_decision(bool(current >= before.to(current.device)))
        if is_best:
            self.epoch = trainer.current_epoch + 1
            value = trainer.callback_metrics.get(self.task.chosen_by)
            self.value = None if value is None else float(value)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self.epoch, "value": self.value, "by": self.task.chosen_by}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if not self.is_comparable(checkpoint["callbacks"].get(self.state_key, {})):
            for key in [
                key for key in checkpoint["callbacks"] if key.startswith("EarlyStopping{'monitor': 'val_score'")
            ]:
                del checkpoint["callbacks"][key]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.is_comparable(state_dict):
            no_best: dict[str, Any] = {"best_model_score": None, "best_k_models": {}}
            no_best |= {"best_model_path": "", "kth_best_model_path": ""}
            super().load_state_dict(state_dict | no_best)
            return
        super().load_state_dict(state_dict)
        self.epoch, self.value = state_dict.get("epoch"), state_dict.get("value")

    def is_comparable(self, state: dict[str, Any]) -> bool:
        """Return whether the best score of a checkpoint belongs to the figure that epochs are chosen by now.

        Older versions always chose by accuracy or mAP and did not record it.
        """
        now = self.task.chosen_by
        return state.get("by", now if now in FIGURES else None) == now

    def chosen(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Return which epoch best.ckpt holds and how it was chosen, for results.json, and print it."""
        by, epochs = self.task.chosen_by, trainer.current_epoch
        validated = num_validated(trainer)
        if self.is_average:
            return {"epoch": epochs, "of": epochs, "by": AVERAGED, "validated": validated}
        if self.monitor is None or by == LAST or self.epoch is None:
            return {"epoch": epochs, "of": epochs, "by": LAST, "validated": 0 if self.monitor is None else validated}
        if trainer.is_global_zero:
            best = "smallest" if by == "val_loss" else "highest"
            kind = "clips" if by in ("val_loss", "val_top1") else "videos"
            figure = f"the {best} {by} ({self.value:.4g}) on {validated} {kind}"
            print(f"best.ckpt: epoch {self.epoch} of {epochs}, with {figure}")
        return {"epoch": self.epoch, "of": epochs, "by": by, "value": self.value, "validated": validated}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        folder = Path(str(self.dirpath))
        self.is_average = has_averaged(trainer)
        if self.is_average:
            trainer.save_checkpoint(folder / "best.ckpt")
            if trainer.is_global_zero:
                print("best.ckpt: the average of the weights (StochasticWeightAveraging)")
        if trainer.is_global_zero and not (folder / "best.ckpt").exists() and (folder / "last.ckpt").exists():
            print("training ended before its first validation: the last epoch counts as the best")
            with replacing(folder / "best.ckpt") as half:
                shutil.copyfile(folder / "last.ckpt", half)
        trainer.strategy.barrier("best.ckpt")


class Last(RunCheckpoint):
    """The checkpoint of the newest epoch. (``save_last`` of ``Best`` would write it only beside a new best one.)"""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True)


def has_averaged(trainer: pl.Trainer) -> bool:
    """Return whether Lightning's StochasticWeightAveraging has put its average into the network.

    It does so after the last epoch. Where training ends earlier it does not, and this function prints so.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, pl.callbacks.StochasticWeightAveraging) and callback.n_averaged:
            # Batch norms need one more epoch for their statistics.
            last = callback.swa_end + bool(callback._model_contains_batch_norm)
            if trainer.current_epoch - 1 == last or callback._max_epochs == -1:
                return True
            if trainer.is_global_zero:
                print("training ended before its last epoch: nothing is made of StochasticWeightAveraging's average")
    return False


def num_batches(limit: float, batches: int) -> int:
    """Return how many of ``batches`` an option such as ``trainer.limit_val_batches`` leaves."""
    return min(limit, batches) if isinstance(limit, int) else int(limit * batches)


def num_validated(trainer: pl.Trainer) -> int:
    """Return how many clips or videos each validation scores."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    total = len(data.found.split("val"))
    if trainer.limit_val_batches is None or not total:
        return total
    loader = data.loader("val")
    scored = num_batches(trainer.limit_val_batches, len(loader)) * loader.batch_size * trainer.world_size
    return min(total, scored)


def refuse_no_test(data: Any, limit: float) -> None:
    """Raise ValueError, before training, where ``trainer.limit_test_batches`` leaves no batch of the split to score."""
    split = "test" if data.sets.get("test") else "val"
    if 0 < limit < 1 and data.sets.get(split) and not num_batches(limit, batches := len(data.loader(split))):
        raise ValueError(
            f"trainer.limit_test_batches is {limit:g}, which of {batches} batches of the split {split} is none. Leave "
            "it out, or give a number of batches"
        )


def why_no_validation(trainer: pl.Trainer) -> str | None:
    """Return why a training is never validated; None where it is."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not data.found.split("val"):
        return "the data has no split val"
    if trainer.limit_val_batches == 0:
        return "trainer.limit_val_batches is 0"
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if every is not None and epochs is not None and 0 <= epochs < every:
        return f"trainer.check_val_every_n_epoch is {every} and trainer.max_epochs {epochs}"
    return None


def refuse_callbacks(trainer: pl.Trainer) -> None:
    """Raise ValueError, before training, for callbacks of Lightning that would fail or do nothing."""
    why, callbacks = why_no_validation(trainer), trainer.callbacks  # type: ignore[attr-defined]
    refuse_unknown_figures(trainer)
    refuse_files_of_the_run(callbacks)
    averages = [callback for callback in callbacks if isinstance(callback, pl.callbacks.WeightAveraging)]
    for callback in callbacks:
        name, monitor = type(callback).__name__, monitored(callback) or ""
        if why and isinstance(callback, pl.callbacks.EarlyStopping) and monitor.startswith("val_"):
            raise ValueError(
                f"training is to stop early by {monitor}, and nothing is validated, since {why}. Leave early "
                "stopping out (--model.early_stopping null), or validate"
            )
        is_of_run = isinstance(callback, RunCheckpoint)
        if why and isinstance(callback, ModelCheckpoint) and not is_of_run and monitor.startswith("val_"):
            raise ValueError(
                f"{name} is to monitor {monitor}, and nothing is validated, since {why}. Leave its monitor out, or "
                "validate"
            )
        is_strict = isinstance(callback, pl.callbacks.EarlyStopping) and callback.strict
        checks_early = is_strict and callback._check_on_train_epoch_end and trainer.check_val_every_n_epoch != 1
        if checks_early and monitor.startswith("val_"):
            raise ValueError(
                f"{name} is to look at {monitor} after every epoch, and not every epoch is validated "
                f"(trainer.check_val_every_n_epoch is {trainer.check_val_every_n_epoch}). Leave "
                "check_on_train_epoch_end out: it then looks after every validation"
            )
        if isinstance(callback, pl.callbacks.LearningRateFinder):
            raise ValueError(
                "Lightning's LearningRateFinder looks for a module's attribute lr; the rate here is the optimiser's, "
                "--model.optimizer.init_args.lr. The option --find_lr of vidact train tests rates"
            )
        if averages and isinstance(callback, pl.callbacks.ModelPruning):
            raise ValueError(
                "Lightning's ModelPruning makes other tensors of the weights that are averaged. Leave it or averaged "
                "weights (--model.ema) out"
            )
        if averages and isinstance(callback, pl.callbacks.StochasticWeightAveraging):
            raise ValueError(
                f"{name} and {type(averages[0]).__name__} (--model.ema) are two averages of the weights, of which the "
                "network can have one. Leave one out"
            )


def refuse_files_of_the_run(callbacks: Iterable[pl.Callback]) -> None:
    """Raise ValueError where a ModelCheckpoint of the user's own would write over the checkpoints of a run."""
    savers = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    run_files = {
        (Path(str(saver.dirpath)).resolve(), saver.name) for saver in savers if isinstance(saver, RunCheckpoint)
    }
    for saver in savers:
        names = [saver.filename, saver.CHECKPOINT_NAME_LAST if saver.save_last else None]
        for name in names if not isinstance(saver, RunCheckpoint) else []:
            if (Path(str(saver.dirpath)).resolve(), name) in run_files:
                raise ValueError(
                    f"a {type(saver).__name__} would write {name}.ckpt, which is the run's own, into {saver.dirpath}. "
                    "Give its dirpath another folder, or leave it out: a run keeps its best and its newest epoch"
                )


def refuse_unknown_figures(trainer: pl.Trainer) -> None:
    """Raise ValueError where a callback of Lightning monitors a figure that this training does not log.

    Lightning itself raises it only after an epoch.
    """
    task: Any = trainer.lightning_module
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not all(type(part).__module__.startswith(("lightning.", "vidact.")) for part in (task, *callbacks)):
        return  # a user's own task or callback may log other figures
    figures = [*(f"val_{name}" for name in (*task.validated, "score")), *(f"train_{name}" for name in task.trained)]
    figures.append("grad_norm")
    for callback in callbacks:
        monitor = monitored(callback)
        if monitor is None or monitor.startswith("train_loss_"):  # a network may name parts of its loss itself
            continue
        if monitor not in (*figures, "epoch", "step"):
            raise ValueError(
                f"{type(callback).__name__} is to monitor {monitor}, and this training has no such figure. It has "
                f"{', '.join(figures)}"
            )


def monitored(callback: pl.Callback) -> str | None:
    """Return the figure by which a callback of Lightning stops training or keeps checkpoints; None without one."""
    return callback.monitor if isinstance(callback, pl.callbacks.EarlyStopping | ModelCheckpoint) else None


class EpochBar(TQDMProgressBar):
    """Lightning's progress bar, with epochs counted from 1."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._leave:
            self.train_progress_bar = self.init_train_tqdm()
        total = self.total_train_batches
        self.train_progress_bar.initial = 0
        self.train_progress_bar.reset(None if total == float("inf") else total)
        end = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{end}")


class EpochTimes(pl.Callback):
    """A timer of the epochs of this process: with validation, without the start-up before the first batch."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds: list[float] = []
        self.started: float | None = None  # None in an epoch that a resumed run enters in its middle: it is not timed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.seconds and batch_idx == 0:  # the time before the first batch is start-up
            self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.started is not None:
            self.seconds.append(time.perf_counter() - self.started)


class EpochLines(EpochTimes):
    """A timer that prints a line for each epoch, with the time left until the last epoch or step."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        epoch, end = trainer.current_epoch + 1, trainer.max_epochs or 0
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [
            f"{key} {figures[key]:.3f}" for key in ("train_loss", "train_top1", "val_top1", "val_map") if key in figures
        ]
        if self.seconds:
            mean_s = sum(self.seconds) / len(self.seconds)
            parts.append(f"{mean_s:.1f} s an epoch")
            left = end - epoch if end > 0 else math.inf
            if trainer.max_steps > 0:
                left = min(left, (trainer.max_steps - trainer.global_step) * epoch / max(trainer.global_step, 1))
            if 0 < left < math.inf:
                parts[-1] += f", {left * mean_s / 60:.1f} min left"
        if trainer.is_global_zero:
            of = f"/{end}" if end > 0 else ""  # empty where time, steps or nothing ends the training
            print(f"epoch {epoch:>3}{of}  {'  '.join(parts)}", flush=True)


class EpochCSV(CSVLogger):
    """The metrics.csv of one session; its hparams.yaml records that epochs count from 1, unlike in old files."""

    begun = False

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not self.begun:
            self.log_hyperparams({"first_epoch": 1})
            self.begun = True
        super().log_metrics(_from_one(metrics), step)


class EpochTensorBoard(TensorBoardLogger):
    """The TensorBoard files of one session, with epochs counted from 1."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(_from_one(metrics), step)


def _from_one(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``metrics`` with the epoch counted from 1."""
    is_test = any(
        name.startswith("test_") for name in metrics
    )  # Lightning logs a test when it already counts the next epoch
    return dict(metrics) if is_test or "epoch" not in metrics else {**metrics, "epoch": metrics["epoch"] + 1}


def make_loggers(run: Path, option: Any) -> list[Logger] | bool:
    """Return the loggers that the ``option`` trainer.logger stands for; False for none.

    None and True are metrics.csv and TensorBoard. A user's own loggers get a metrics.csv beside them. A resumed run
    logs into a new folder beside the earlier ones.
    """
    if option is False:
        return False
    version = len(list((run / "logs").glob("version_*")))
    table: Logger = EpochCSV(run, "logs", version, flush_logs_every_n_steps=1)
    if option is None or option is True:
        return [table, EpochTensorBoard(run, "logs", version)]
    return [*as_list(option), table]


def first_epoch(log: Path) -> int:
    """Return the first epoch's number in a session's metrics.csv: 1, or 0 in a file of an older version."""
    with contextlib.suppress(OSError):
        if "first_epoch: 1" in (log.parent / "hparams.yaml").read_text(encoding="utf-8"):
            return 1
    return 0


def as_list(value: Any) -> list[Any]:
    """Return the value of an option that takes none, one or several, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) else [value]
