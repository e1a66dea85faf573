"""What a run keeps and says while it trains: its best and its newest checkpoint, logs whose epochs count from 1, and
how long an epoch takes."""

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

FEW_CLIPS = 100  # below which a clip is more than a point of accuracy, and epochs differ by what one clip does
FIGURES = ("val_top1", "val_map")
LAST = "the last epoch"
AVERAGED = "stochastic weight averaging"


def score_of(figures: Mapping[str, float], by: str) -> float:
    """``val_score``, whose highest value is the best epoch's: a figure, or a loss that is to be small.

    Of two epochs that name equally many clips right, the one with the smaller loss is better.
    """
    loss = figures.get("loss", 0.0)
    if by == "val_loss":
        return -loss if math.isfinite(loss) else -1e30  # which any number is better than
    return figures[by.removeprefix("val_")] - 1e-6 * (min(loss, 100.0) if math.isfinite(loss) else 100.0)


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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning forgets the best score where the folder is another one; that of a run may have been moved."""
        there, here = str(state_dict.get("dirpath")), str(self.dirpath)

        def moved(path: str) -> str:
            return here + path.removeprefix(there) if path.startswith(there) else path

        state = dict(state_dict, dirpath=here)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = moved(state.get(name) or "")
        state["best_k_models"] = {moved(path): score for path, score in state.get("best_k_models", {}).items()}
        super().load_state_dict(state)


class Best(RunCheckpoint):
    """The epoch with the highest ``val_score``, the later of two alike; the newest one where nothing is validated.

    The task says in ``chosen_by`` which figure the score stands for.
    """

    epoch: int | None = None  # from 1
    value: float | None = None  # of the figure that it was chosen by
    is_average = False  # of the weights of several epochs

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
            nothing: dict[str, Any] = {"best_model_score": None, "best_k_models": {}}
            nothing |= {"best_model_path": "", "kth_best_model_path": ""}
            super().load_state_dict(state_dict | nothing)
            return
        super().load_state_dict(state_dict)
        self.epoch, self.value = state_dict.get("epoch"), state_dict.get("value")

    def is_comparable(self, state: dict[str, Any]) -> bool:
        """Whether the best score of a checkpoint is of the figure that epochs are chosen by now.

        Older versions chose by accuracy or mAP whatever was validated, and did not say so.
        """
        now = self.task.chosen_by
        return state.get("by", now if now in FIGURES else None) == now

    def chosen(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Which epoch is in best.ckpt, and what it was chosen by, for results.json; says it too."""
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
    """The newest epoch, which ``save_last`` of the other would write beside a new best one alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True)


def has_averaged(trainer: pl.Trainer) -> bool:
    """Whether Lightning's StochasticWeightAveraging has put its average into the network, which it does once training
    is over; where that ends before the last epoch it does not, which is printed here.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, pl.callbacks.StochasticWeightAveraging) and callback.n_averaged:
            last = callback.swa_end + bool(callback._model_contains_batch_norm)  # one more epoch for statistics
            if trainer.current_epoch - 1 == last or callback._max_epochs == -1:
                return True
            if trainer.is_global_zero:
                print("training ended before its last epoch: nothing is made of StochasticWeightAveraging's average")
    return False


def num_batches(limit: float, batches: int) -> int:
    """How many of so many batches are left by an option such as ``trainer.limit_val_batches``."""
    return min(limit, batches) if isinstance(limit, int) else int(limit * batches)


def num_validated(trainer: pl.Trainer) -> int:
    """How many clips or videos each validation sees."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    total = len(data.found.split("val"))
    if trainer.limit_val_batches is None or not total:
        return total
    loader = data.loader("val")
    seen = num_batches(trainer.limit_val_batches, len(loader)) * loader.batch_size * trainer.world_size
    return min(total, seen)


def refuse_no_test(data: Any, limit: float) -> None:
    """Raise ValueError, before training, where ``trainer.limit_test_batches`` leaves no batch of the split to score."""
    split = "test" if data.sets.get("test") else "val"
    if 0 < limit < 1 and data.sets.get(split) and not num_batches(limit, batches := len(data.loader(split))):
        raise ValueError(
            f"trainer.limit_test_batches is {limit:g}, which of {batches} batches of the split {split} is none. Leave "
            "it out, or give a number of batches"
        )


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
    why, callbacks = why_no_validation(trainer), trainer.callbacks  # type: ignore[attr-defined]
    refuse_unknown_figures(trainer)
    refuse_files_of_the_run(callbacks)
    averages = [one for one in callbacks if isinstance(one, pl.callbacks.WeightAveraging)]
    for callback in callbacks:
        name, monitor = type(callback).__name__, getattr(callback, "monitor", None) or ""
        if why and isinstance(callback, pl.callbacks.EarlyStopping) and monitor.startswith("val_"):
            raise ValueError(
                f"training is to stop early by {monitor}, and nothing is validated, since {why}. Leave early "
                "stopping out (--model.early_stopping null), or validate"
            )
        is_own = isinstance(callback, RunCheckpoint)
        if why and isinstance(callback, ModelCheckpoint) and not is_own and monitor.startswith("val_"):
            raise ValueError(
                f"{name} is to monitor {monitor}, and nothing is validated, since {why}. Leave its monitor out, or "
                "validate"
            )
        is_strict = isinstance(callback, pl.callbacks.EarlyStopping) and callback.strict
        looks_early = is_strict and callback._check_on_train_epoch_end and trainer.check_val_every_n_epoch != 1
        if looks_early and monitor.startswith("val_"):
            raise ValueError(
                f"{name} is to look at {monitor} after every epoch, and not every epoch is validated "
                f"(trainer.check_val_every_n_epoch is {trainer.check_val_every_n_epoch}). Leave "
                "check_on_train_epoch_end out: it then looks after every validation"
            )
        if isinstance(callback, pl.callbacks.LearningRateFinder):
            raise ValueError(
                "Lightning's LearningRateFinder looks for a module's attribute lr; the rate here is the optimiser's, "
                "--model.optimizer.init_args.lr. Try a few with vidact train, or vidact compare"
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
    kept = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    own = {(Path(str(one.dirpath)).resolve(), one.name) for one in kept if isinstance(one, RunCheckpoint)}
    for one in kept:
        names = [one.filename, one.CHECKPOINT_NAME_LAST if one.save_last else None]
        for name in names if not isinstance(one, RunCheckpoint) else []:
            if (Path(str(one.dirpath)).resolve(), name) in own:
                raise ValueError(
                    f"a {type(one).__name__} would write {name}.ckpt, which is the run's own, into {one.dirpath}. Give "
                    "its dirpath another folder, or leave it out: a run keeps its best and its newest epoch"
                )


def refuse_unknown_figures(trainer: pl.Trainer) -> None:
    """Raise ValueError where a callback of Lightning waits for a figure that this training does not have, which
    Lightning says after an epoch.
    """
    task: Any = trainer.lightning_module
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not all(type(part).__module__.startswith(("lightning.", "vidact.")) for part in (task, *callbacks)):
        return  # parts of the user's own may log what they like
    known = [*(f"val_{name}" for name in (*task.validated, "score")), *(f"train_{name}" for name in task.trained)]
    known.append("grad_norm")
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(callback, pl.callbacks.EarlyStopping | ModelCheckpoint) or monitor is None:
            continue
        if monitor not in (*known, "epoch", "step") and not monitor.startswith("train_loss_"):  # a network's own
            raise ValueError(
                f"{type(callback).__name__} is to monitor {monitor}, and this training has no such figure. It has "
                f"{', '.join(known)}"
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


class EpochTimes(pl.Callback):
    """Seconds of each epoch of this process, validation included, and the first one's start of processes left out."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds: list[float] = []
        self.started: float | None = None  # a run may go on in the middle of an epoch, which then is not timed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.seconds and batch_idx == 0:  # the first batch has come: what was before it was start-up
            self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.started is not None:
            self.seconds.append(time.perf_counter() - self.started)


class EpochLines(EpochTimes):
    """One line an epoch, with the time that is left until the epochs or the steps are done."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        done, end = trainer.current_epoch + 1, trainer.max_epochs or 0
        shown = {name: float(value) for name, value in trainer.callback_metrics.items()}
        words = [
            f"{key} {shown[key]:.3f}" for key in ("train_loss", "train_top1", "val_top1", "val_map") if key in shown
        ]
        if self.seconds:
            mean_s = sum(self.seconds) / len(self.seconds)
            words.append(f"{mean_s:.1f} s an epoch")
            left = end - done if end > 0 else math.inf
            if trainer.max_steps > 0:
                left = min(left, (trainer.max_steps - trainer.global_step) * done / max(trainer.global_step, 1))
            if 0 < left < math.inf:
                words[-1] += f", {left * mean_s / 60:.1f} min left"
        if trainer.is_global_zero:
            of = f"/{end}" if end > 0 else ""  # time, steps or nothing ends the training
            print(f"epoch {done:>3}{of}  {'  '.join(words)}", flush=True)


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
