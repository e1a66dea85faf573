"""What learning takes whatever is learned: optimiser and schedule, speed, callbacks, values joined over processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vidact.models.backbones import clip_channels_last, has_channels_last
from vidact.tasks.learning import FirstBatch, refuse_idle_optimizer
from vidact.tasks.resuming import Resumption
from vidact.tasks.schedules import ParameterGroups, Rates, Schedule

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # what PyTorch has one kernel a group for, on CUDA


def make_optimization(
    trainer: pl.Trainer,
    network: nn.Module,
    make_optimizer: Callable[[Iterable[Any]], Optimizer],
    groups: ParameterGroups,
    schedule: Schedule,
    base_batch: int | None,
) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: the groups' rates, scaled by the batch, under a schedule per step."""
    asked = make_optimizer([torch.zeros(1, requires_grad=True)]).defaults
    lr = asked["lr"] * lr_scale(trainer, base_batch)
    split = groups.split(network, lr, asked.get("weight_decay", 0.0))
    if not split:
        raise ValueError(f"no parameter of {type(network).__name__} learns: all are frozen")
    optimizer = make_optimizer(split)
    refuse_idle_optimizer(optimizer, asked["lr"])
    fuse(optimizer, trainer.strategy.root_device)
    per_epoch, total = count_steps(trainer, schedule)
    if trainer.is_global_zero:
        for note in schedule.unreached(per_epoch, total):
            print(f"learning rate: {note}")
    scheduler = Rates(optimizer, schedule, per_epoch, total)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def count_steps(trainer: pl.Trainer, schedule: Schedule) -> tuple[int, int | None]:
    """Optimiser steps an epoch, and of the whole training: None where only time or an early stop ends it.

    Lightning's ``estimated_stepping_batches`` is the second number, and no epoch's length follows from it where
    ``max_steps`` ends training in the middle of an epoch or ``max_time`` ends it somewhere.

    Raises ValueError for a schedule that needs a number which does not exist.
    """
    trainer.fit_loop.setup_data()  # what the batches are counted of; nothing happens where it is there
    schedulers = [c for c in trainer.callbacks if isinstance(c, pl.callbacks.GradientAccumulationScheduler)]  # type: ignore[attr-defined]
    changing = any(len(set(scheduler.scheduling.values())) > 1 for scheduler in schedulers)
    if changing and schedule.counts_epochs:
        raise ValueError(
            f"schedule.kind is {schedule.kind} with {schedule.warmup_epochs:g} epochs of warm-up, counted in epochs of "
            "equally many steps, and GradientAccumulationScheduler changes how many an epoch has. Take "
            "trainer.accumulate_grad_batches, or schedule.kind constant without a warm-up"
        )
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(per_epoch * trainer.max_epochs)
    if not limits and schedule.kind == "cosine":
        raise ValueError(
            "schedule.kind is cosine, and a cosine falls until the last step; this training has none, since "
            f"trainer.max_epochs is {trainer.max_epochs} and trainer.max_steps {trainer.max_steps}. Set "
            "trainer.max_epochs or trainer.max_steps (trainer.max_time may still end it earlier), or schedule.kind to "
            "step or constant"
        )
    return per_epoch, min(limits) if limits else None


class MakesOptimizer:
    """What makes the optimiser, shared by all copies of the task that holds it.

    A recipe's class is made by jsonargparse, whose function knows the command line and so the Trainer with its data: a
    callback that copies the module, as averages do, would copy those too, and fails once DDP has wrapped the module.
    """

    def __init__(self, make: Callable[[Iterable[Any]], Optimizer]) -> None:
        self.make = make

    def __call__(self, parameters: Iterable[Any]) -> Optimizer:
        return self.make(parameters)

    def __deepcopy__(self, memo: dict[int, Any]) -> MakesOptimizer:
        return self


def fuse(optimizer: Optimizer, device: torch.device) -> None:
    """Let one kernel update all tensors of a group where training runs on CUDA; ``fused``, ``foreach`` and
    ``differentiable`` of the recipe stand.

    Gradients are unscaled before the step, as for any optimiser that is not fused. So they can be clipped, which
    Lightning refuses otherwise, and a step of 16-mixed that overflows leaves SGD's momentum alone, which PyTorch's own
    way does not.
    """
    if type(optimizer) in FUSED and device.type == "cuda":
        for group in optimizer.param_groups:
            if group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
                group["fused"] = True
    if hasattr(optimizer, "_step_supports_amp_scaling"):  # of an optimiser that the recipe calls fused
        optimizer._step_supports_amp_scaling = False
    optimizer.register_load_state_dict_pre_hook(_keep_asked)
    if type(optimizer) in FUSED:
        optimizer.register_load_state_dict_post_hook(_lay_out_state)


def _keep_asked(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A run that goes on updates as it is asked to, and as its device does, with the checkpoint's momenta: PyTorch
    would take all options from the checkpoint. (Rates belong to the schedule.)

    Raises ValueError where the checkpoint's momenta are those of other groups of parameters.
    """
    saved, mine = state["param_groups"], optimizer.param_groups
    sizes = [[len(group["params"]) for group in groups] for groups in (saved, mine)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the checkpoint's optimiser has groups of {sizes[0]} parameters and this run's of {sizes[1]}. Resume with "
            "the model.groups, model.freeze_norms, weight decay and callbacks it was trained with, or start from its "
            "weights with --model.init_from"
        )
    # Optimisers of other packages keep some of their state among the options.
    is_plain = type(optimizer).__module__.startswith("torch.optim")
    kept = [name for name in optimizer.defaults if name != "lr" and (is_plain or name == "weight_decay")]
    groups = [a | {name: b[name] for name in kept if name in a and name in b} for a, b in zip(saved, mine, strict=True)]
    return state | {"param_groups": groups}


def _lay_out_state(optimizer: Optimizer) -> None:
    """Momenta lie in memory as their parameters do, which a fused kernel insists on; another device's may not."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def compiled(network: nn.Module, batch_size: int, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """The network's forward pass for training, compiled for batches of ``batch_size`` clips (B, T, C, H, W).

    A batch of another size, as the last one of an epoch or one with an unreadable video, goes through the network as it
    is: the same numbers but for rounding, and no second compilation. Nothing is compiled before the first batch, and
    the network itself stays what it was: its tensors, their names, and whoever else calls it.

    Raises OSError at the first batch where the compiler does not work, or cannot take the network in one piece.
    """
    # In pieces, with Python between them, it would train on without a word and be little quicker.
    fast = torch.compile(lambda clips: network(clips), fullgraph=True, dynamic=False, backend=backend)
    lay_out = clip_channels_last if has_channels_last(network) else Tensor.contiguous

    def forward(clips: Tensor) -> Tensor:
        if len(clips) != batch_size:
            return network(clips)
        with compiler_errors_in_words(network, clips.device):
            return fast(lay_out(clips))  # one layout, or another one would be compiled again

    return forward


@contextlib.contextmanager
def compiler_errors_in_words(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Raise OSError with advice where torch.compile fails, which it does in the first forward or backward pass."""
    from torch._dynamo.exc import TorchDynamoException, Unsupported  # a second of import

    try:
        yield
    except TorchDynamoException as error:
        advice = (
            "On a CPU, torch.compile needs a C++ compiler; on CUDA, Triton, a C compiler and Python's headers "
            "(apt-get install g++ python3-dev). Without them, set model.compile to never"
        )
        if isinstance(error, Unsupported):
            advice = "The network has code that torch.compile does not translate: set model.compile to never"
        raise OSError(
            f"model.compile asks for torch.compile of {type(network).__name__}, which failed on {device.type}: "
            f"{error}\n{advice}"
        ) from error


class WholeSteps(pl.Callback):
    """A step is the mean of the batches that were gathered for it.

    Lightning divides by ``accumulate_grad_batches`` whatever comes: the rest of an epoch that it does not divide, an
    epoch of fewer batches, or a batch without a readable video would make a smaller step than the others.
    """

    gathered: float = 0

    def state_dict(self) -> dict[str, Any]:
        return {"gathered": self.gathered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.gathered = state_dict["gathered"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if all(parameter.grad is None for parameter in pl_module.parameters()):  # the group is done anew
            self.gathered = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        self.gathered += len(batch) > 0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        asked, gathered, self.gathered = trainer.accumulate_grad_batches, self.gathered, 0
        if asked == 1:
            return
        factor: float | Tensor = asked / max(1, gathered)
        if trainer.world_size > 1:  # a tensor, since to ask a GPU for its value would be to wait for it
            together = torch.tensor(float(gathered), device=trainer.strategy.root_device)
            factor = asked * trainer.world_size / trainer.strategy.reduce(together, reduce_op="sum").clamp(min=1)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not (isinstance(factor, float) and factor == 1):
            torch._foreach_mul_(gradients, factor)


class TensorFloat32(pl.Callback):
    """While a fit lasts, CUDA may round the factors of single-precision matrix products to 10 bits."""

    before: str | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.root_device.type == "cuda":
            self.before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.before is not None:
            torch.set_float32_matmul_precision(self.before)
            self.before = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)


class MovingAverage(WeightAveraging):
    """The exponential moving average of weights and statistics, which validation, test and checkpoints see.

    Lightning's own EMAWeightAveraging makes its copy before the network is laid out and moved, so that every step takes
    all weights off the GPU. This one lies where the network computes, and a step waits for nothing.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:  # with 1 the average would stay what the network began with
            raise ValueError(f"ema is {decay:g}; give the share of the average that each step keeps, from 0 to below 1")
        self.decay = decay

    @property
    def state_key(self) -> str:
        return "EMAWeightAveraging"  # the name in checkpoints that it saved, which go on with this one

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._average_model = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            self.start(trainer, pl_module)
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._average_model is None:
            self.start(trainer, pl_module)

    def start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the module as its ``setup`` left it, to where it is moved for training."""
        self._average_model = Average(pl_module, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True)
        self._average_model.module.to(trainer.strategy.root_device)


class Average(AveragedModel):
    """PyTorch's, but for reading its count of updates from the device at every one of them."""

    def update_parameters(self, model: nn.Module) -> None:
        assert self.multi_avg_fn is not None
        begun = bool(self.n_averaged)  # on the CPU, since only the module was moved
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        averaged = [pair for pair in pairs if begun and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (begun and pair[0].is_floating_point())]  # later, batch norm's counts
        if averaged:
            self.multi_avg_fn([old for old, _ in averaged], [new for _, new in averaged], self.n_averaged)
        if copied:
            torch._foreach_copy_([old for old, _ in copied], [new for _, new in copied])
        self.n_averaged += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


def lr_scale(trainer: pl.Trainer, base_batch: int | None) -> float:
    """Linear scaling: items a step over the number that the lr was chosen for; None is no scaling."""
    if base_batch is None:
        return 1.0
    data = trainer.datamodule  # type: ignore[attr-defined]
    batch = data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    if trainer.is_global_zero:
        print(f"learning rate x {batch / base_batch:g}: {batch} videos a step, chosen for {base_batch}")
    return batch / base_batch


def make_callbacks(ema: float | None, early_stopping: int | None, tf32: bool = False) -> list[pl.Callback]:
    """Exact resuming, whole steps, a look at the first batch, rounder products, averaged weights, an end after so many
    epochs without a better ``val_score``.
    """
    callbacks: list[pl.Callback] = [Resumption(), WholeSteps(), FirstBatch()]
    if tf32:
        callbacks.append(TensorFloat32())
    if ema is not None:
        callbacks.append(MovingAverage(ema))
    if early_stopping is not None:
        if early_stopping < 0:
            raise ValueError(f"early_stopping is {early_stopping}; give a number of epochs, from 0")
        callbacks.append(
            # not strict: a training that ends before its first validation has nothing to stop
            pl.callbacks.EarlyStopping(
                "val_score", mode="max", patience=early_stopping, check_finite=False, strict=False
            )
        )
    return callbacks


def gradient_norm(network: nn.Module) -> torch.Tensor | None:
    """Of all gradients together; None where there is none."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None


def gather(mine: Any, join: Callable[[list[Any]], Any]) -> Any:
    """Python objects of every process, joined: every process gets the same."""
    parts = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, mine)
    return join(parts)
