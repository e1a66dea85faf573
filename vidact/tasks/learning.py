"""Checks, at the first batch or before it, for what keeps a network from learning: hours of training would show it.

Shapes: N rows of features before a classifier (clips, frames or tokens), D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from vidact.batch import ClipBatch, SequenceBatch
from vidact.tasks.rate_test import RateTest
from vidact.tasks.stages import head_names

SAME = 1e-3  # rows of features that differ by less than this share of their size count as equal


def refuse_folded_norms(network: nn.Module) -> None:
    """Raise ValueError where batch norms, which training computes per batch, are folded into the convolutions.

    A folded norm keeps mean 0, variance 1 and a shift that fits the scale of its convolution. Once each batch is
    normalised, the shift exceeds the activations so far that outputs and gradients no longer depend on them. Frozen
    norms are not normalised by the batch and do not count.
    """
    norms = [norm for norm in network.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if any(parameter.requires_grad for parameter in norm.parameters())]
    shifted = [norm for norm in norms if norm.running_mean is not None and norm.bias is not None and norm.bias.any()]
    folded = [norm for norm in shifted if _is_folded(norm)]
    if 2 * len(folded) > len(shifted):
        raise ValueError(
            f"the batch norms of {type(network).__name__} keep mean 0 and variance 1 ({len(folded)} of {len(shifted)} "
            "norms), as weights do whose norms were folded into the convolutions. Normalising each batch, as training "
            "does, would leave nothing of what they compute, and nothing would be learnt. Keep them as they are: "
            "--model.freeze_norms all"
        )


def _is_folded(norm: Any) -> bool:
    alike = ((norm.running_mean, 0), (norm.running_var, 1), (norm.weight, 1))
    return all(bool(((values - value).abs() < 1e-3).all()) for values, value in alike)


def refuse_idle_optimizer(optimizer: Optimizer, lr: float) -> None:
    """Raise ValueError where steps change nothing. ``lr`` is the recipe's learning rate."""
    if not all(math.isfinite(group["lr"]) for group in optimizer.param_groups) or lr == 0:
        raise ValueError(
            f"the optimizer's lr is {lr:g}, so that nothing would be learnt; set model.optimizer.init_args.lr "
            "(vidact test scores a network as it is)"
        )


class FirstBatch(pl.Callback):
    """The callback that stops a training whose first batch shows that nothing will be learnt, and notes likely reasons.

    A batch without a readable video, or whose tokens are all ambiguous, shows nothing: then the next one is checked.
    """

    def __init__(self) -> None:
        self.is_waiting, self.batch = False, None
        self.loss = 0.0
        self.features: dict[str, Tensor] = {}  # name of a classifier → its features (N, D)
        self.hooks: list[Any] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.is_waiting = True
        network: Any = pl_module.network
        if pl_module.compiled is not None:  # with hooks the network would be compiled again
            return
        for name in head_names(network):
            self.hooks.append(network.get_submodule(name).register_forward_hook(self._keep(name)))

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.features[name] = inputs[0].detach().flatten(0, -2)

        return keep

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        self.batch = batch if self.is_waiting and len(batch) else None

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self.batch is None:
            return
        self.loss = float(loss.detach())
        if not math.isfinite(self.loss):
            why = why_no_number(pl_module, self.batch)
            raise ValueError(f"the loss of the first batch is {self.loss}: {why}. Nothing was learnt")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.batch is None:
            return
        gradients = [parameter.grad for parameter in pl_module.network.parameters() if parameter.grad is not None]
        if any(gradient.any() for gradient in gradients):
            self._note_equal_rows(trainer, len(self.batch))
        elif self.loss:  # a loss of exactly 0 has no gradients
            raise ValueError(
                f"all gradients of the first batch are zero, at a loss of {self.loss:.4g}: nothing that learns has a "
                f"part in the answers of {type(pl_module.network).__name__}, or its activations are zero (a dropout of "
                "1, batch norms that do not fit the weights: --model.freeze_norms all). Nothing was learnt"
            )

    def _note_equal_rows(self, trainer: pl.Trainer, num: int) -> None:
        """Print a note where every classifier gets the same features for all clips, and stop checking."""
        rows = [features.float() for features in self.features.values() if len(features) > 1]
        self.on_train_end(trainer, trainer.lightning_module)
        if not rows or num < 2:
            return
        spread = max(float((part - part.mean(0)).norm() / part.norm().clamp(min=1e-30)) for part in rows)
        if spread < SAME and trainer.is_global_zero:
            print(
                f"note: what the classifier sees of the {num} clips of the first batch is the same for all, but for "
                f"{spread:.1g} of its size: such a network hardly learns. Look at its weights; batch norms that do not "
                "fit them are kept as they are with --model.freeze_norms all",
                flush=True,
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.refuse_no_numbers(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not any(isinstance(callback, RateTest) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self.refuse_no_numbers(trainer, pl_module)  # a range test raises the rate until there are none

    def refuse_no_numbers(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise ValueError once a weight is nan or infinite: no later step mends it."""
        network: Any = pl_module.network
        learning = [parameter.detach() for parameter in network.parameters() if parameter.requires_grad]
        if not all(bool(torch.isfinite(parameter).all()) for parameter in learning):
            raise ValueError(
                f"in epoch {trainer.current_epoch + 1} the weights became nan or infinite, which no later epoch mends. "
                "Train with a smaller learning rate (model.optimizer.init_args.lr), a longer warm-up "
                "(model.schedule.warmup_epochs) or --trainer.gradient_clip_val 1"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks, self.features, self.batch, self.is_waiting = [], {}, None, False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


def why_no_number(task: pl.LightningModule, batch: ClipBatch | SequenceBatch) -> str:
    """Return which part of a batch or of the weights makes the loss nan or infinite."""
    inputs = batch.features if isinstance(batch, SequenceBatch) else batch.clips
    bad = [id for id, values in zip(batch.ids, inputs, strict=True) if not torch.isfinite(values).all()]
    if bad:
        return (
            f"what it read of {', '.join(bad[:3])}{' …' if len(bad) > 3 else ''} holds nan or infinity; mend the file"
        )
    for name, parameter in (*task.named_parameters(), *task.named_buffers()):
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            return f"the weights of {name} hold nan or infinity; start from others"
    return (
        "pixels and weights are numbers, so it comes from the computation: try --trainer.precision 32, or start from "
        "other weights"
    )
