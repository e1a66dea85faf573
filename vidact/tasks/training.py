"""What learning takes whatever is learned: optimiser and schedule, callbacks, and values joined over the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim import Optimizer

from vidact.tasks.schedules import ParameterGroups, Schedule


def make_optimization(
    trainer: pl.Trainer,
    network: nn.Module,
    make_optimizer: Callable[[Iterable], Optimizer],
    groups: ParameterGroups,
    schedule: Schedule,
    base_batch: int | None,
) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: the groups' rates, scaled by the batch, under a schedule per step."""
    asked = make_optimizer([torch.zeros(1, requires_grad=True)]).defaults
    lr = asked["lr"] * lr_scale(trainer, base_batch)
    optimizer = make_optimizer(groups.split(network, lr, asked.get("weight_decay", 0.0)))
    total = int(trainer.estimated_stepping_batches)
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 1
    per_epoch = total / epochs
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, per_epoch, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def lr_scale(trainer: pl.Trainer, base_batch: int | None) -> float:
    """Linear scaling: items a step over the number that the lr was chosen for; None is no scaling."""
    if base_batch is None:
        return 1.0
    data = trainer.datamodule  # type: ignore[attr-defined]
    batch = data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    if trainer.is_global_zero:
        print(f"learning rate x {batch / base_batch:g}: {batch} videos a step, chosen for {base_batch}")
    return batch / base_batch


def make_callbacks(ema: float | None, early_stopping: int | None) -> list[pl.Callback]:
    """Averaged weights, and an end after so many epochs without a better ``val_score``."""
    callbacks: list[pl.Callback] = []
    if ema is not None:
        callbacks.append(EMAWeightAveraging(decay=ema))
    if early_stopping is not None:
        callbacks.append(
            pl.callbacks.EarlyStopping("val_score", mode="max", patience=early_stopping, check_finite=False)
        )
    return callbacks


def gradient_norm(network: nn.Module) -> torch.Tensor | None:
    """Of all gradients together; None where there is none."""
    norms = [parameter.grad.norm() for parameter in network.parameters() if parameter.grad is not None]
    return torch.stack(norms).norm() if norms else None


def gather(mine: Any, join: Callable[[list], Any]) -> Any:
    """Python objects of every process, joined: every process gets the same."""
    parts = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, mine)
    return join(parts)
