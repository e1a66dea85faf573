"""Resume a training exactly: at the batch where it stopped, with random draws that follow from seed and position.

Lightning counts epochs and batches, and its loops guess from these counts where a checkpoint was saved. The guesses are
wrong in the middle of an epoch and under ``max_steps``: batches repeat, epochs are counted twice, validations are
missed. Here the position follows from the counts by one rule, and the loops start at it.
"""

from __future__ import annotations

import copy
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loops import _FitLoop, _Loop, _TrainingEpochLoop
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from vidact.records import Record
from vidact.text.names import plain_name, same_names


@dataclass(frozen=True)
class Position:
    """The position of a training: in ``epoch`` (from 0), after ``batches`` batches of it.

    ``is_between``: the epoch has not begun. ``owes_end``: the checkpoint was saved before the last batch was completed,
    so a validation may be due.
    """

    epoch: int
    batches: int = 0
    is_between: bool = True
    owes_end: bool = False

    @staticmethod
    def of(counts: dict[str, Any], accumulate: int = 1, has_gradients: bool = False) -> Position:
        """Return the position that a checkpoint's ``loops["fit_loop"]`` records.

        ``accumulate`` batches make a step. In the middle of such a group the checkpoint must hold the gradients of its
        batches; without them the group is repeated.
        """
        epochs, batches = counts["epoch_progress"]["current"], counts["epoch_loop.batch_progress"]
        current = batches["current"]
        has_ended = epochs["processed"] >= epochs["started"]
        if epochs["started"] == 0 or (has_ended and batches["is_last_batch"]):
            return Position(epochs["started"])
        # An epoch that max_steps or max_time cut off is unfinished: with more steps or time it continues.
        processed, owes_end = current["processed"], current["completed"] < current["processed"]
        is_whole = current["ready"] == processed  # a batch that an error interrupted may have left gradients
        if not batches["is_last_batch"] and processed % accumulate and not (has_gradients and is_whole):
            processed, owes_end = processed - processed % accumulate, False
        return Position(epochs["started"] - 1, processed, is_between=False, owes_end=owes_end)

    def counts(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Return ``saved`` with the counts that Lightning's loops have at this position in an uninterrupted run."""
        counts = copy.deepcopy(saved)
        started = self.epoch + (not self.is_between)
        epochs = {"ready": started, "started": started, "processed": self.epoch, "completed": self.epoch}
        counts["epoch_progress"] = {"total": dict(epochs), "current": epochs}
        progress = counts["epoch_loop.batch_progress"]
        before = progress["current"]["processed"]
        total = progress["total"]["processed"] - (0 if self.is_between else before - self.batches)
        progress["total"] = dict.fromkeys(progress["total"], total)
        progress["current"] = dict.fromkeys(progress["current"], self.batches)
        progress["is_last_batch"] = not self.is_between and self.batches == before and progress["is_last_batch"]
        for part in ("total", "current"):
            validation = counts["epoch_loop.val_loop.batch_progress"]
            validation[part] = dict.fromkeys(validation[part], 0)
        if not self.owes_end:  # Lightning increases the loggers' count of steps at a batch's end, after checkpoints
            steps = counts["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
            counts["epoch_loop.state_dict"]["_batches_that_stepped"] = steps["total"]["completed"]
        return counts

    def describe(self, num_batches: float) -> str:
        """Return where the run continues, with epochs and batches counted from 1."""
        if self.is_between:
            return f"goes on after epoch {self.epoch}" if self.epoch else "begins with epoch 1"
        return f"goes on in epoch {self.epoch + 1} after {self.batches} of {num_batches} batches"


class FitLoop(_FitLoop):
    """Lightning's fit loop, which continues at the exact position of the checkpoint."""

    position: Position | None = None  # the checkpoint's position, until the first batch
    has_gradients = False  # whether the checkpoint holds gradients of accumulated batches
    means: list[dict[str, Any]] = []  # noqa: RUF012  (means of the epoch so far; the list is replaced, never changed)
    accumulate: int | None = None  # how many batches made a step when the checkpoint was saved

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        accumulate = self.accumulate or self.trainer.accumulate_grad_batches
        self.position = Position.of(state_dict, accumulate, self.has_gradients)
        super().load_state_dict(self.position.counts(state_dict), prefix)
        if self.position.is_between:  # under max_steps Lightning takes a fresh epoch for a restarted one
            _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]

    def run(self) -> None:
        self.setup_data()
        if self.position is not None and self.skip and self.trainer.is_global_zero:
            limits = f"trainer.max_epochs is {self.max_epochs} and trainer.max_steps {self.max_steps}"
            print(f"nothing is left to train: {self.position.epoch} epochs are done, {limits}", flush=True)
        super().run()

    def reset(self) -> None:
        super().reset()
        if self.position is None:
            return
        if self.position.batches > self.max_batches:
            raise ValueError(
                f"the checkpoint is from epoch {self.position.epoch + 1}, {self.position.batches} batches into it, and "
                f"an epoch has {self.max_batches} batches now. Resume with the options it was trained with, or from an "
                "epoch's end (last.ckpt)"
            )
        if self.trainer.is_global_zero:
            print(self.position.describe(self.max_batches), flush=True)


class EpochLoop(_TrainingEpochLoop):
    """Lightning's epoch loop, which continues with the next batch and neither repeats nor skips a validation."""

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        fit_loop = self.trainer.fit_loop
        position, fit_loop.position = fit_loop.position, None  # type: ignore[attr-defined]
        if position is None or position.is_between:
            return
        self.restarting = False
        if callbacks_of(self.trainer, pl.callbacks.GradientAccumulationScheduler):  # it acts only when an epoch starts
            self.trainer.accumulate_grad_batches = fit_loop.accumulate or 1  # type: ignore[attr-defined]
        restore_means(self.trainer, fit_loop.means)  # type: ignore[attr-defined]
        if position.owes_end:
            self.on_advance_end(data_fetcher)


def count_exactly(trainer: pl.Trainer) -> None:
    """Make a Trainer's loops resume exactly; call it before the Trainer loads a checkpoint."""
    # The loops already hold the Trainer's data and limits, so they change their class instead of being built again.
    if type(trainer.fit_loop) is _FitLoop and type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop:
        trainer.fit_loop.__class__, trainer.fit_loop.epoch_loop.__class__ = FitLoop, EpochLoop


def means_so_far(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Return what the batches of this epoch have logged so far, from which the epoch's figures are computed."""
    mine = {}
    for key, metric in trainer.fit_loop.epoch_loop._results.items():
        meta = metric.meta
        if metric.has_reset or not metric.is_tensor or not meta.on_epoch or meta.dataloader_idx is not None:
            continue
        options = {name: getattr(meta, name) for name in ("fx", "name", "prog_bar", "logger", "on_step")}
        options |= {"reduce_fx": meta.reduce_fx.__name__, "sync_dist": meta.sync.should}
        options["rank_zero_only"] = meta.sync.rank_zero_only
        names = [name for name in ("value", "cumulated_batch_size") if hasattr(metric, name)]
        mine[key] = {"options": options, "state": {name: getattr(metric, name).detach().cpu() for name in names}}
    if trainer.world_size == 1:
        return [*mine.values()]
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, mine)  # a process may have logged nothing yet
    for key, mean in mine.items():  # each process continues with an equal share of what all have logged
        for name in mean["state"]:
            others = [part[key]["state"][name].double() for part in parts if key in part]
            combine = {"max": torch.amax, "min": torch.amin}.get(mean["options"]["reduce_fx"])
            together = torch.stack(others)
            mean["state"][name] = combine(together, 0) if combine else together.sum(0) / trainer.world_size
    return [*mine.values()]


def restore_means(trainer: pl.Trainer, means: list[dict[str, Any]]) -> None:
    """Restore what an interrupted epoch has logged, so that its figures cover all of its batches."""
    results, device = trainer.fit_loop.epoch_loop._results, trainer.strategy.root_device
    for mean in means:
        options = dict(mean["options"])
        options["reduce_fx"] = getattr(torch, options["reduce_fx"])
        results.log(**options, value=torch.zeros((), device=device), batch_size=0, sync_dist_fn=trainer.strategy.reduce)
        metric = results[f"{options['fx']}.{options['name']}"]
        for name, value in mean["state"].items():
            setattr(metric, name, value.to(device))
    if means:  # otherwise the first batch would clear them
        trainer._logger_connector._first_loop_iter = False


def seed_draws(trainer: pl.Trainer, batch_idx: int) -> None:
    """Seed the random draws of a training step (dropout, MixUp, …) from the seeds, the position and the process.

    A resumed run therefore draws what an uninterrupted run draws, on every device.
    """
    seeds = [int(os.environ.get("PL_GLOBAL_SEED") or 0), getattr(trainer.datamodule, "seed", 0)]  # type: ignore[attr-defined]
    position = [trainer.current_epoch, batch_idx, trainer.global_rank]
    wide, narrow = np.random.SeedSequence([*seeds, *position]).generate_state(2, np.uint64).tolist()
    torch.manual_seed(wide >> 1)  # seeds the generators of all devices, without waiting for them
    np.random.seed(narrow % 2**32)  # noqa: NPY002  (networks of other packages draw from this generator)
    random.seed(narrow)


class Resumption(pl.Callback):
    """The callback with which a training, interrupted at any batch, ends with the same weights."""

    state: dict[str, Any] = {}  # noqa: RUF012  (the checkpoint's state; replaced, never changed)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.state = {}
        if stage == "fit":
            count_exactly(trainer)
            if isinstance(trainer.precision_plugin, DoublePrecision):
                # Lightning converts the module only after it has loaded the checkpoint, into single precision.
                trainer.precision_plugin.convert_module(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state: dict[str, Any] = {
            "frozen": [name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad],
            "without_statistics": [name for name, norm in _norms(pl_module) if not norm.track_running_stats],
            "batches": batch_facts(trainer),
            # Early stopping and checkpoints read these figures; the validations are not repeated.
            "figures": {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()},
            "means": means_so_far(trainer),
        }
        loop = trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress.current
        if progress.processed == progress.ready and loop._should_accumulate():  # the group of batches is not complete
            state["gradients"] = {
                name: parameter.grad if trainer.world_size == 1 else trainer.strategy.reduce(parameter.grad)
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None
            }  # the mean over all processes, from which their step will be computed
        checkpoint["training"] = state

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.state = checkpoint.get("training") or {}  # older versions wrote no such state
        if isinstance(trainer.fit_loop, FitLoop):
            trainer.fit_loop.has_gradients = "gradients" in self.state
            trainer.fit_loop.means = self.state.get("means", [])
            trainer.fit_loop.accumulate = self.state.get("batches", {}).get(ACCUMULATION)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the parameters and the norms' statistics that were frozen in the checkpoint's run, and no others.

        A callback that unfreezes a backbone at some epoch freezes it at the start of every run, also of a resumed one.
        """
        if not self.state:
            return
        frozen, without = set(self.state["frozen"]), set(self.state["without_statistics"])
        for name, parameter in pl_module.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for name, norm in _norms(pl_module):
            norm.track_running_stats = name not in without

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer._logger_connector._callback_metrics.update(self.state.get("figures", {}))
        gradients = self.state.get("gradients", {})
        for name, parameter in pl_module.named_parameters():
            if name in gradients:
                parameter.grad = torch.empty_like(parameter).copy_(gradients[name])
        self.state = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed_draws(trainer, batch_idx)


ACCUMULATION = "trainer.accumulate_grad_batches"


def callbacks_of(trainer: pl.Trainer, kind: type[pl.Callback]) -> list[pl.Callback]:
    """Return the Trainer's callbacks of a class."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def batch_facts(trainer: pl.Trainer) -> dict[str, int]:
    """Return the sizes of a batch, on which the meaning of a number of batches depends."""
    return {
        "data.batch_size": int(getattr(trainer.datamodule, "batch_size", 0)),  # type: ignore[attr-defined]
        "processes": trainer.world_size,
        ACCUMULATION: trainer.accumulate_grad_batches,
    }


def _norms(task: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in task.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


def refuse_what_does_not_fit(task: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise ValueError, before anything is loaded, where training cannot go on from ``checkpoint``."""
    if task._trainer is None or task.trainer.state.fn != TrainerFn.FITTING:
        return
    path = task.trainer.ckpt_path
    if Path(str(path)).name.startswith("."):
        return  # Lightning's tuner restores its own temporary checkpoint
    advice = f"To start from its weights: --model.init_from {path}"
    if "loops" not in checkpoint or "optimizer_states" not in checkpoint:
        raise ValueError(f"{path} holds weights and no state of a training, so no training goes on from it. {advice}")
    record = Record.from_dict(checkpoint.get("vidact") or {}, path or "the checkpoint")
    mine: Record = task.record  # type: ignore[assignment]
    if record.classes and not same_names(record.classes, mine.classes):
        saved, current = ({plain_name(name) for name in names} for names in (record.classes, mine.classes))
        differ = sorted(saved ^ current) or ["their order"]
        raise ValueError(f"{path} was trained on other classes than the data's: {', '.join(differ[:5])}. {advice}")
    saved_recipe, recipe = record.recipe, mine.recipe
    if saved_recipe and recipe and (differ := network_differences(saved_recipe, recipe)):
        raise ValueError(f"{path} holds another network than the one that is asked for: {'; '.join(differ)}. {advice}")
    if "current_model_state" in checkpoint and not callbacks_of(task.trainer, pl.callbacks.WeightAveraging):
        raise ValueError(
            f"{path} was trained with averaged weights, which are not those that training goes on from without. Give "
            f"--model.ema as it was. {advice}"
        )
    state = checkpoint.get("training") or {}
    trainer = task.trainer
    if callbacks_of(trainer, pl.callbacks.ModelPruning):
        raise ValueError(f"Lightning's ModelPruning keeps no masks in checkpoints, so no run goes on with it. {advice}")
    if callbacks_of(trainer, pl.callbacks.BatchSizeFinder):
        batch_size = state.get("batches", {}).get("data.batch_size", "N")
        raise ValueError(
            "Lightning's BatchSizeFinder would look for another batch size in the middle of training. Leave it out and "
            f"give what it found: --data.batch_size {batch_size}"
        )
    position = Position.of(checkpoint["loops"]["fit_loop"], trainer.accumulate_grad_batches, "gradients" in state)
    now = batch_facts(trainer)
    if callbacks_of(trainer, pl.callbacks.GradientAccumulationScheduler):
        del now[ACCUMULATION]
    differ = [
        f"{name} {was} and {now[name]}" for name, was in state.get("batches", now).items() if was != now.get(name, was)
    ]
    if callbacks_of(trainer, pl.callbacks.StochasticWeightAveraging) and not position.is_between:
        raise ValueError(
            f"{path} is from the middle of epoch {position.epoch + 1}, and Lightning's StochasticWeightAveraging sets "
            "its rates up at an epoch's start. Resume from an epoch's end (last.ckpt)"
        )
    if differ and not position.is_between:
        raise ValueError(
            f"{path} is from the middle of epoch {position.epoch + 1}, and its batches were others than those asked "
            f"for: {'; '.join(differ)} (there and asked). Resume with the same, or from an epoch's end (last.ckpt)"
        )


def network_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return how two networks' recipes differ, except in the origin of their weights and in rates of dropout."""
    if saved["builder"] != current["builder"]:
        return [f"{saved['builder']} and {current['builder']} (there and asked)"]
    differ = []
    for name in {**saved["arguments"], **current["arguments"]}:
        if name == "weights" or name.endswith("_weights") or "drop" in name:
            continue
        if name in saved["arguments"] and name in current["arguments"]:
            was, is_now = saved["arguments"][name], current["arguments"][name]
            differ += [f"{name} {was} and {is_now} (there and asked)"] if was != is_now else []
    return differ


# Options that a resumed run cannot change, and the reasons; names are as in config.yaml, without ``init_args``.
FIXED = {
    r"model\.class_path|data\.class_path": "it is another kind of training",
    r"model\.network\.(class_path|(?!(.*_)?weights$|.*drop).+)": "the checkpoint's weights are those of that network",
    r"model\.optimizer\.(class_path|amsgrad|centered)": "the checkpoint's momenta are those of the optimiser as it was",
    r"model\.freeze": "the checkpoint's momenta are those of the parts that learnt",
    r"model\.init_from": "a run that goes on starts from its checkpoint alone",
    r"data\.(held_out|fractions|val_fraction|group|seed)": "videos that were trained on would be tested",
}
# Options that do not change a training, and those that name the folder of its run.
RUN_OPTIONS = r"run|ckpt|config|device|probe|trainer\.default_root_dir|.*progress_bar|.*model_summary"


def changed_options(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the options in which two configurations (as in config.yaml) differ: name → value before and now.

    An option that is missing from one of them, because another version wrote it, is no change.
    """
    was, is_now = dict(_flatten(before)), dict(_flatten(now))
    changes = {name: (was[name], is_now[name]) for name in was if name in is_now}
    for options, counterpart in ((was, is_now), (is_now, was)):
        for name in options:  # one side may have a value, such as null, and the other a class with options
            if inside := {part: value for part, value in counterpart.items() if part.startswith(f"{name}.")}:
                values = (options[name], inside) if options is was else (inside, options[name])
                changes[name] = values
    return {
        name: pair
        for name, pair in changes.items()
        if not re.fullmatch(RUN_OPTIONS, name) and not _is_same(name, *pair)
    }


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict) and config:
        for name, value in config.items():
            yield from _flatten(value, prefix if name == "init_args" else f"{prefix}.{name}".lstrip("."))
    else:
        yield prefix, config


def _is_same(name: str, before: Any, now: Any) -> bool:
    if isinstance(before, str) and isinstance(now, str) and re.fullmatch(r"data\.(root|features|flow)", name):
        return Path(before).resolve() == Path(now).resolve()
    if name.endswith("num_classes") or name.endswith(
        "feature_dim"
    ):  # 0 stands for the number in the data, which was filled in
        return before == now or 0 in (before, now)
    return before == now


def refuse_fixed_options(changes: dict[str, tuple[Any, Any]], path: Any) -> None:
    """Raise ValueError where a run that is resumed from the checkpoint ``path`` changes an option that is fixed."""
    for name, (before, now) in changes.items():
        for pattern, why in FIXED.items():
            if re.fullmatch(pattern, name):
                raise ValueError(
                    f"{name} was {before} and is to be {now}, which a run that goes on cannot change: {why}. Leave it "
                    f"as it was, or start another run from these weights with --model.init_from {path}"
                )
