"""The learning-rate range test (Smith 2017, https://arxiv.org/abs/1506.01186): one short training with a rising rate.

The rate is multiplied by the same factor at every step, from far too small to far too large. The loss stays, falls, and
rises steeply: a good rate lies where it falls, well below the one where it is lowest.

Lightning has such a test (``Tuner.lr_find``). It gives all groups of parameters the same rate, replaces the callbacks
that make a step the mean of its batches and its draws repeatable, validates after every pass over the data, and stops
at ``max_epochs``. So this one is a callback of an ordinary fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np

STEPS = 100
DECADES_BELOW, DECADES_ABOVE = 4, 3  # the range around the recipe's rate
MEMORY = 0.9  # the weight of earlier steps in the smoothed loss
DIVERGED = 4.0  # the test ends where the smoothed loss exceeds the lowest one this many times
BELOW_LOWEST = 10.0  # the suggested rate is that of the lowest loss over this
LEAST_FALL = 0.05  # a loss that falls by a smaller share shows nothing: fresh classifiers give all batches one loss
LEAST_STEPS = 10  # fewer steps show no curve


@dataclass(frozen=True)
class RateCurve:
    """The losses of a range test.

    ``rates`` are values of the optimiser's lr, which groups with a factor multiply; ``losses`` are those of the batches
    after a step at each rate. ``ended`` is why it stopped: "all steps", "diverged" or "nan".
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    ended: str

    @property
    def smoothed(self) -> list[float]:
        """The exponential moving mean of the losses, without the bias of its start."""
        return smooth(self.losses)

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at which the smoothed loss is lowest; None where it does not fall.

        It falls where its lowest value lies below the mean of the first quarter of the steps, in which the rate is too
        small to matter, by more than the standard deviation of the losses there, and by more than ``LEAST_FALL`` of it.
        """
        if len(self.losses) < LEAST_STEPS:
            return None
        quarter = np.array(self.losses[: STEPS // 4])
        lowest = int(np.argmin(self.smoothed))
        if quarter.mean() - self.smoothed[lowest] <= max(quarter.std(), LEAST_FALL * abs(quarter.mean())):
            return None
        return self.rates[lowest] / BELOW_LOWEST

    def describe(self, recipe_lr: float) -> str:
        """Return the suggestion as sentences, beside the recipe's rate."""
        last = self.rates[-1]
        end = {
            "diverged": f"the loss rose to {DIVERGED:g} times its lowest value at {last:.2g}, where the test ended",
            "nan": f"the loss was no number after {last:.2g}, where the test ended",
            "all steps": f"the loss did not diverge up to {last:.2g}",
        }[self.ended]
        if self.suggestion is None:
            return (
                f"no rate is suggested: the loss hardly fell, or by less than it varies from batch to batch ({end}). "
                "Weights that are trained already, a frozen network or very small batches cause this; keep the "
                f"recipe's rate of {recipe_lr:.2g}, or try larger batches"
            )
        lowest = self.rates[int(np.argmin(self.smoothed))]
        return (
            f"the loss is lowest at a rate of {lowest:.2g} ({end}). A tenth of it trains safely: "
            f"--model.optimizer.init_args.lr {self.suggestion:.2g} (the recipe has {recipe_lr:.2g})"
        )


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving mean of ``losses``, without the bias of its start."""
    mean, values = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        values.append(mean / (1 - MEMORY**number))
    return values


def refuse_several_devices(trainer: pl.Trainer) -> None:
    """Raise ValueError where several processes would train."""
    if (number := trainer.world_size) > 1:
        steps = number * trainer.accumulate_grad_batches
        raise ValueError(
            f"a learning-rate range test runs on one device, and {number} would train; give --trainer.devices 1 "
            f"--trainer.accumulate_grad_batches {steps}, whose steps are the same"
        )


class RateTest(pl.Callback):
    """The callback that raises the learning rate from step to step and records the losses, until they diverge.

    The Trainer must not end earlier and need not validate: ``max_steps=STEPS + 1, max_epochs=-1, limit_val_batches=0``.
    Groups of parameters keep their factors; the schedule has no effect. After the fit the network has its weights from
    before, to the bit. ``curve`` is the result.

    Args:
        steps: number of rates.
        decades: powers of ten below and above the optimiser's lr.
        report: called with the number of each finished step, from 0.
    """

    def __init__(
        self,
        steps: int = STEPS,
        decades: tuple[float, float] = (DECADES_BELOW, DECADES_ABOVE),
        report: Callable[[int], None] = lambda step: None,
    ) -> None:
        if steps < LEAST_STEPS:
            raise ValueError(f"steps is {steps}; a range test takes at least {LEAST_STEPS}")
        self.num_steps, self.decades, self.report = steps, decades, report
        self.recipe_lr = 0.0
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.batches: list[float] = []  # losses of the batches of the present step
        self.ended = "all steps"
        self.state: dict[str, Any] = {}

    @property
    def curve(self) -> RateCurve:
        # The batches of step i + 1 are the first that see the weights after the step at rate i.
        losses = self.losses[1:]
        return RateCurve(tuple(self.rates[: len(losses)]), tuple(losses), self.ended)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        refuse_several_devices(trainer)
        # ``init_from`` is loaded in the module's own setup, which comes later: the weights are those before it.
        self.state = {name: value.detach().clone() for name, value in pl_module.network.state_dict().items()}  # type: ignore[union-attr]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        self.recipe_lr = float(optimizer.defaults["lr"])
        self.factors = [group["initial_lr"] / self.recipe_lr for group in optimizer.param_groups]
        below, above = self.decades
        exponents = np.linspace(-below, above, self.num_steps)
        self.planned = [self.recipe_lr * 10.0**exponent for exponent in exponents]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        step = min(trainer.global_step, self.num_steps - 1)
        for group, factor in zip(trainer.optimizers[0].param_groups, self.factors, strict=True):
            group["lr"] = self.planned[step] * factor
        self.step, self.has_clips = trainer.global_step, len(batch) > 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.has_clips:
            self.batches.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step == self.step or not self.batches:
            return
        self.rates.append(self.planned[min(self.step, self.num_steps - 1)])
        self.losses.append(float(np.mean(self.batches)))
        self.batches.clear()
        smoothed = smooth(self.losses)
        if not math.isfinite(self.losses[-1]):
            self.losses.pop()
            self.ended, trainer.should_stop = "nan", True
        elif smoothed[-1] > max(DIVERGED * min(smoothed), float(np.mean(self.losses[:LEAST_STEPS]))):
            self.ended, trainer.should_stop = "diverged", True
        self.report(self.step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.network.load_state_dict(self.state)  # type: ignore[union-attr]

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self.state:
            self.on_train_end(trainer, pl_module)
