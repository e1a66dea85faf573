"""A training that goes on: where it was, to the batch, and draws that depend on nothing but where it is.

Lightning counts epochs and batches, and its loops guess from these counts where a checkpoint was saved. The guesses are
wrong in the middle of an epoch and under ``max_steps``: batches repeat, epochs are counted twice, validations are
missed. Here the place follows from the counts by one rule, and the loops start from there.
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
class Place:
    """Where a training is: in ``epoch`` (from 0), with so many of its batches done.

    ``is_between`` says that the epoch has not begun. ``owes_end`` says that a checkpoint was saved before the last
    batch was brought to its end: a validation may be due.
    """

    epoch: int
    batches: int = 0
    is_between: bool = True
    owes_end: bool = False

    @staticmethod
    def of(counts: dict[str, Any], accumulate: int = 1, has_gradients: bool = False) -> Place:
        """The place that a checkpoint's ``loops["fit_loop"]`` speaks of.

        ``accumulate`` batches make a step. In the middle of such a group the gradients of its batches have to be there;
        without them the group is done again.
        """
        epochs, batches = counts["epoch_progress"]["current"], counts["epoch_loop.batch_progress"]
        current = batches["current"]
        has_ended = epochs["processed"] >= epochs["started"]
        if epochs["started"] == 0 or (has_ended and batches["is_last_batch"]):
            return Place(epochs["started"])
        # An epoch that max_steps or max_time ended has not ended: with more steps or time it goes on.
        done, owes_end = current["processed"], current["completed"] < current["processed"]
        is_whole = current["ready"] == done  # a batch that an error interrupted may have left gradients
        if not batches["is_last_batch"] and done % accumulate and not (has_gradients and is_whole):
            done, owes_end = done - done % accumulate, False
        return Place(epochs["started"] - 1, done, is_between=False, owes_end=owes_end)

    def counts(self, saved: dict[str, Any]) -> dict[str, Any]:
        """``saved`` counts as Lightning's loops have them at this place in a run without interruption."""
        counts = copy.deepcopy(saved)
        begun = self.epoch + (not self.is_between)
        epochs = {"ready": begun, "started": begun, "processed": self.epoch, "completed": self.epoch}
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
        if not self.owes_end:  # what loggers count steps with is increased at a batch's end, after checkpoints
            steps = counts["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
            counts["epoch_loop.state_dict"]["_batches_that_stepped"] = steps["total"]["completed"]
        return counts

    def describe(self, num_batches: float) -> str:
        """Epochs and batches count from 1."""
        if self.is_between:
            return f"goes on after epoch {self.epoch}" if self.epoch else "begins with epoch 1"
        return f"goes on in epoch {self.epoch + 1} after {self.batches} of {num_batches} batches"


class FitLoop(_FitLoop):
    """Lightning's, but for where it goes on."""

    place: Place | None = None  # of the checkpoint, until the first batch
    has_gradients = False  # whether the checkpoint holds those of accumulated batches
    means: list[dict[str, Any]] = []  # noqa: RUF012  (of an epoch's batches so far, replaced and never changed)
    accumulate: int | None = None  # how many batches made a step when it was saved

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        accumulate = self.accumulate or self.trainer.accumulate_grad_batches
        self.place = Place.of(state_dict, accumulate, self.has_gradients)
        super().load_state_dict(self.place.counts(state_dict), prefix)
        if self.place.is_between:  # a fresh epoch, which Lightning calls a restarted one under max_steps
            _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]

    def run(self) -> None:
        self.setup_data()
        if self.place is not None and self.skip and self.trainer.is_global_zero:
            limits = f"trainer.max_epochs is {self.max_epochs} and trainer.max_steps {self.max_steps}"
            print(f"nothing is left to train: {self.place.epoch} epochs are done, {limits}", flush=True)
        super().run()

    def reset(self) -> None:
        super().reset()
        if self.place is None:
            return
        if self.place.batches > self.max_batches:
            raise ValueError(
                f"the checkpoint is from epoch {self.place.epoch + 1}, {self.place.batches} batches into it, and an "
                f"epoch has {self.max_batches} batches now. Resume with the options it was trained with, or from an "
                "epoch's end (last.ckpt)"
            )
        if self.trainer.is_global_zero:
            print(self.place.describe(self.max_batches), flush=True)


class EpochLoop(_TrainingEpochLoop):
    """Lightning's, but that it goes on with the next batch and repeats or leaves out no validation."""

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        fit_loop = self.trainer.fit_loop
        place, fit_loop.place = fit_loop.place, None  # type: ignore[attr-defined]
        if place is None or place.is_between:
            return
        self.restarting = False
        if callbacks_of(self.trainer, pl.callbacks.GradientAccumulationScheduler):  # which acts at an epoch's start
            self.trainer.accumulate_grad_batches = fit_loop.accumulate or 1  # type: ignore[attr-defined]
        restore_means(self.trainer, fit_loop.means)  # type: ignore[attr-defined]
        if place.owes_end:
            self.on_advance_end(data_fetcher)


def count_exactly(trainer: pl.Trainer) -> None:
    """Let a Trainer's loops, before it loads a checkpoint, go on exactly where they were."""
    # The loops hold what the Trainer has told them so far (data, limits), so they are made over and not made anew.
    if type(trainer.fit_loop) is _FitLoop and type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop:
        trainer.fit_loop.__class__, trainer.fit_loop.epoch_loop.__class__ = FitLoop, EpochLoop


def means_so_far(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """What the batches of this epoch have logged until now, of which the epoch's figures will be made."""
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
    for key, mean in mine.items():  # each goes on with an equal share of what all have logged
        for name in mean["state"]:
            others = [part[key]["state"][name].double() for part in parts if key in part]
            how = {"max": torch.amax, "min": torch.amin}.get(mean["options"]["reduce_fx"])
            together = torch.stack(others)
            mean["state"][name] = how(together, 0) if how else together.sum(0) / trainer.world_size
    return [*mine.values()]


def restore_means(trainer: pl.Trainer, means: list[dict[str, Any]]) -> None:
    """Let the figures of the epoch that goes on be those of all its batches."""
    results, device = trainer.fit_loop.epoch_loop._results, trainer.strategy.root_device
    for mean in means:
        options = dict(mean["options"])
        options["reduce_fx"] = getattr(torch, options["reduce_fx"])
        results.log(**options, value=torch.zeros((), device=device), batch_size=0, sync_dist_fn=trainer.strategy.reduce)
        metric = results[f"{options['fx']}.{options['name']}"]
        for name, value in mean["state"].items():
            setattr(metric, name, value.to(device))
    if means:  # or the first batch would clear them
        trainer._logger_connector._first_loop_iter = False


def seed_draws(trainer: pl.Trainer, batch_idx: int) -> None:
    """Let what a training step draws (dropout, MixUp, stochastic depth …) follow from the seeds, the place and the
    process, on every device: a run that goes on draws what it would have drawn.
    """
    seeds = [int(os.environ.get("PL_GLOBAL_SEED") or 0), getattr(trainer.datamodule, "seed", 0)]  # type: ignore[attr-defined]
    place = [trainer.current_epoch, batch_idx, trainer.global_rank]
    wide, narrow = np.random.SeedSequence([*seeds, *place]).generate_state(2, np.uint64).tolist()
    torch.manual_seed(wide >> 1)  # the generators of all devices, without waiting for them
    np.random.seed(narrow % 2**32)  # noqa: NPY002  (networks of other packages draw from it)
    random.seed(narrow)


class Resumption(pl.Callback):
    """What a training needs to be interrupted at any batch and to go on as if it had not been."""

    state: dict[str, Any] = {}  # noqa: RUF012  (what the checkpoint says, replaced and never changed)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.state = {}
        if stage == "fit":
            count_exactly(trainer)
            if isinstance(trainer.precision_plugin, DoublePrecision):
                # Lightning does so once it has loaded a checkpoint, into the single precision that the task has by then
                trainer.precision_plugin.convert_module(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state: dict[str, Any] = {
            "frozen": [name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad],
            "without_statistics": [name for name, norm in _norms(pl_module) if not norm.track_running_stats],
            "batches": batch_facts(trainer),
            # what early stopping and checkpoints look at, of validations that are not made again
            "figures": {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()},
            "means": means_so_far(trainer),
        }
        loop = trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress.current
        if progress.processed == progress.ready and loop._should_accumulate():  # in the middle of a group of batches
            state["gradients"] = {
                name: parameter.grad if trainer.world_size == 1 else trainer.strategy.reduce(parameter.grad)
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None
            }  # the mean of all processes', which is what their step will be made of
        checkpoint["training"] = state

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.state = checkpoint.get("training") or {}  # older versions wrote none
        if isinstance(trainer.fit_loop, FitLoop):
            trainer.fit_loop.has_gradients = "gradients" in self.state
            trainer.fit_loop.means = self.state.get("means", [])
            trainer.fit_loop.accumulate = self.state.get("batches", {}).get(ACCUMULATION)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let those parameters learn, and those norms keep statistics, that did so when the checkpoint was saved: a
        callback that thaws a backbone at some epoch freezes it at the start of every run.
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
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def batch_facts(trainer: pl.Trainer) -> dict[str, int]:
    """What a number of batches means."""
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
        return  # Lightning's tuner goes back to where it began
    anew = f"To start from its weights: --model.init_from {path}"
    if "loops" not in checkpoint or "optimizer_states" not in checkpoint:
        raise ValueError(f"{path} holds weights and no state of a training, so no training goes on from it. {anew}")
    record = Record.from_dict(checkpoint.get("vidact") or {}, path or "the checkpoint")
    mine: Record = task.record  # type: ignore[assignment]
    if record.classes and not same_names(record.classes, mine.classes):
        saved, asked = ({plain_name(name) for name in names} for names in (record.classes, mine.classes))
        differ = sorted(saved ^ asked) or ["their order"]
        raise ValueError(f"{path} was trained on other classes than the data's: {', '.join(differ[:5])}. {anew}")
    there, here = record.recipe, mine.recipe
    if there and here and (differ := network_differences(there, here)):
        raise ValueError(f"{path} holds another network than the one that is asked for: {'; '.join(differ)}. {anew}")
    if "current_model_state" in checkpoint and not callbacks_of(task.trainer, pl.callbacks.WeightAveraging):
        raise ValueError(
            f"{path} was trained with averaged weights, which are not those that training goes on from without. Give "
            f"--model.ema as it was. {anew}"
        )
    state = checkpoint.get("training") or {}
    trainer = task.trainer
    if callbacks_of(trainer, pl.callbacks.ModelPruning):
        raise ValueError(f"Lightning's ModelPruning keeps no masks in checkpoints, so no run goes on with it. {anew}")
    if callbacks_of(trainer, pl.callbacks.BatchSizeFinder):
        found = state.get("batches", {}).get("data.batch_size", "N")
        raise ValueError(
            "Lightning's BatchSizeFinder would look for another batch size in the middle of training. Leave it out and "
            f"give what it found: --data.batch_size {found}"
        )
    place = Place.of(checkpoint["loops"]["fit_loop"], trainer.accumulate_grad_batches, "gradients" in state)
    now = batch_facts(trainer)
    if callbacks_of(trainer, pl.callbacks.GradientAccumulationScheduler):
        del now[ACCUMULATION]
    differ = [
        f"{name} {was} and {now[name]}" for name, was in state.get("batches", now).items() if was != now.get(name, was)
    ]
    if callbacks_of(trainer, pl.callbacks.StochasticWeightAveraging) and not place.is_between:
        raise ValueError(
            f"{path} is from the middle of epoch {place.epoch + 1}, and Lightning's StochasticWeightAveraging sets its "
            "rates up at an epoch's start. Resume from an epoch's end (last.ckpt)"
        )
    if differ and not place.is_between:
        raise ValueError(
            f"{path} is from the middle of epoch {place.epoch + 1}, and its batches were others than those asked for: "
            f"{'; '.join(differ)} (there and asked). Resume with the same, or from an epoch's end (last.ckpt)"
        )


def network_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What tells two networks' recipes apart, but for where their weights came from and how much they drop."""
    if there["builder"] != here["builder"]:
        return [f"{there['builder']} and {here['builder']} (there and asked)"]
    differ = []
    for name in {**there["arguments"], **here["arguments"]}:
        if name == "weights" or name.endswith("_weights") or "drop" in name:
            continue
        if name in there["arguments"] and name in here["arguments"]:
            was, is_now = there["arguments"][name], here["arguments"][name]
            differ += [f"{name} {was} and {is_now} (there and asked)"] if was != is_now else []
    return differ


# Options of a run that a run which goes on cannot change, and why; names as in config.yaml, without ``init_args``.
FIXED = {
    r"model\.class_path|data\.class_path": "it is another kind of training",
    r"model\.network\.(class_path|(?!(.*_)?weights$|.*drop).+)": "the checkpoint's weights are those of that network",
    r"model\.optimizer\.(class_path|amsgrad|centered)": "the checkpoint's momenta are those of the optimiser as it was",
    r"model\.init_from": "a run that goes on starts from its checkpoint alone",
    r"data\.(held_out|fractions|val_fraction|group|seed)": "videos that were trained on would be tested",
}
# what says nothing of the training, or where a resumed run lies
OF_THE_RUN = r"run|ckpt|config|device|trainer\.default_root_dir|.*progress_bar|.*model_summary"


def changed_options(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The options that two configurations, as config.yaml has them, have otherwise: name → value before and now.

    An option that one of them does not know, having been written by another version, is no change.
    """
    was, is_now = dict(_flatten(before)), dict(_flatten(now))
    changes = {name: (was[name], is_now[name]) for name in was if name in is_now}
    for mine, other in ((was, is_now), (is_now, was)):
        for name in mine:  # a value here, such as null, and a class with its options there
            if inside := {part: value for part, value in other.items() if part.startswith(f"{name}.")}:
                values = (mine[name], inside) if mine is was else (inside, mine[name])
                changes[name] = values
    return {
        name: pair for name, pair in changes.items() if not re.fullmatch(OF_THE_RUN, name) and not _is_same(name, *pair)
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
    if name.endswith("num_classes") or name.endswith("feature_dim"):  # 0 is as many as the data has, and was filled in
        return before == now or 0 in (before, now)
    return before == now


def refuse_fixed_options(changes: dict[str, tuple[Any, Any]], path: Any) -> None:
    """Raise ValueError where a run that goes on from the checkpoint ``path`` asks for what it cannot change."""
    for name, (before, now) in changes.items():
        for pattern, why in FIXED.items():
            if re.fullmatch(pattern, name):
                raise ValueError(
                    f"{name} was {before} and is to be {now}, which a run that goes on cannot change: {why}. Leave it "
                    f"as it was, or start another run from these weights with --model.init_from {path}"
                )
