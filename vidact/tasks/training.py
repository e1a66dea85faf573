"""The parts of training that both tasks share: optimiser and schedule, speed, callbacks, values of all processes."""

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

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # on CUDA, PyTorch has one kernel a group for these


def make_optimization(
    trainer: pl.Trainer,
    network: nn.Module,
    make_optimizer: Callable[[Iterable[Any]], Optimizer],
    groups: ParameterGroups,
    schedule: Schedule,
    base_batch: int | None,
) -> dict[str, Any]:
    """Return the optimiser and its schedule for ``configure_optimizers``, with rates scaled by the batch."""
    defaults = make_optimizer([torch.zeros(1, requires_grad=True)]).defaults
    lr = defaults["lr"] * lr_scale(trainer, base_batch)
    split = groups.split(network, lr, defaults.get("weight_decay", 0.0))
    if not split:
        raise ValueError(f"no parameter of {type(network).__name__} learns: all are frozen")
    optimizer = make_optimizer(split)
    refuse_idle_optimizer(optimizer, defaults["lr"])
    fuse(optimizer, trainer.strategy.root_device)
    per_epoch, total = count_steps(trainer, schedule)
    if trainer.is_global_zero:
        for note in schedule.unreached(per_epoch, total):
            print(f"learning rate: {note}")
    scheduler = Rates(optimizer, schedule, per_epoch, total)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def count_steps(trainer: pl.Trainer, schedule: Schedule) -> tuple[int, int | None]:
    """Return the optimiser steps of an epoch and of the whole training, None where only time or an early stop ends it.

    Lightning's ``estimated_stepping_batches`` is the second number. The length of an epoch does not follow from it
    where ``max_steps`` or ``max_time`` may end training in the middle of an epoch.

    Raises ValueError for a schedule that needs a number which does not exist.
    """
    trainer.fit_loop.setup_data()  # counts the batches; does nothing where the data are set up already
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
    """A function that makes the optimiser, shared by all copies of the task that holds it.

    For a recipe's class it is a function of jsonargparse, which refers to the command line and so to the Trainer with
    its data. A callback that copies the module, as averages do, would copy those too, and fail once DDP has wrapped it.
    """

    def __init__(self, make: Callable[[Iterable[Any]], Optimizer]) -> None:
        self.make = make

    def __call__(self, parameters: Iterable[Any]) -> Optimizer:
        return self.make(parameters)

    def __deepcopy__(self, memo: dict[int, Any]) -> MakesOptimizer:
        return self


def fuse(optimizer: Optimizer, device: torch.device) -> None:
    """Let one kernel update all tensors of a group where training runs on CUDA.

    ``fused``, ``foreach`` and ``differentiable`` of the recipe take precedence.

    Gradients are unscaled before the step, as for any optimiser that is not fused. So they can be clipped, which
    Lightning refuses otherwise, and a step of 16-mixed that overflows does not change SGD's momentum, which it does
    with PyTorch's unscaling inside the kernel.
    """
    if type(optimizer) in FUSED and device.type == "cuda":
        for group in optimizer.param_groups:
            if group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
                group["fused"] = True
    if hasattr(optimizer, "_step_supports_amp_scaling"):  # set where the recipe itself says fused
        optimizer._step_supports_amp_scaling = False
    optimizer.register_load_state_dict_pre_hook(_keep_options)
    if type(optimizer) in FUSED:
        optimizer.register_load_state_dict_post_hook(_lay_out_state)


def _keep_options(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint's ``state`` with this run's options: PyTorch would take all options from the checkpoint.

    A resumed run therefore updates with its own settings, on its own device, from the checkpoint's momenta. (Rates
    belong to the schedule.)

    Raises ValueError where the checkpoint's momenta are those of other groups of parameters.
    """
    saved, mine = state["param_groups"], optimizer.param_groups
    sizes = [[len(group["params"]) for group in groups] for groups in (saved, mine)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the checkpoint's optimiser has groups of {sizes[0]} parameters and this run's of {sizes[1]}. Resume with "
            "the model.groups, model.freeze, model.unfreeze, model.freeze_norms, weight decay and callbacks it was "
            "trained with, or start from its weights with --model.init_from"
        )
    # Optimisers of other packages keep some of their state among the options.
    is_plain = type(optimizer).__module__.startswith("torch.optim")
    names = [name for name in optimizer.defaults if name != "lr" and (is_plain or name == "weight_decay")]
    groups = [
        a | {name: b[name] for name in names if name in a and name in b} for a, b in zip(saved, mine, strict=True)
    ]
    return state | {"param_groups": groups}


def _lay_out_state(optimizer: Optimizer) -> None:
    """Lay momenta out in memory as their parameters, which a fused kernel needs; those of another device may differ."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def compiled(network: nn.Module, batch_size: int, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """Return the network's forward pass for training, compiled for batches of ``batch_size`` clips (B, T, C, H, W).

    A batch of another size, as the last one of an epoch or one with an unreadable video, goes through the network as it
    is: the same numbers except for rounding, and no second compilation. Nothing is compiled before the first batch, and
    the network itself does not change: neither its tensors and their names nor other calls of it.

    Raises OSError at the first batch where the compiler does not work, or cannot take the network in one piece.
    """
    # Without fullgraph it would silently compile in pieces, with Python between them, and be little quicker.
    fast = torch.compile(lambda clips: network(clips), fullgraph=True, dynamic=False, backend=backend)
    lay_out = clip_channels_last if has_channels_last(network) else Tensor.contiguous

    def forward(clips: Tensor) -> Tensor:
        if len(clips) != batch_size:
            return network(clips)
        with explain_compiler_errors(network, clips.device):
            return fast(lay_out(clips))  # always the same layout: another one would be compiled again

    return forward


@contextlib.contextmanager
def explain_compiler_errors(network: nn.Module, device: torch.device) -> Iterator[None]:
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
    """The callback that makes a step the mean of the batches that were gathered for it.

    Lightning always divides by ``accumulate_grad_batches``. The rest of an epoch that it does not divide, an epoch of
    fewer batches, or a batch without a readable video would therefore make a smaller step than the others.
    """

    gathered: float = 0

    def state_dict(self) -> dict[str, Any]:
        return {"gathered": self.gathered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.gathered = state_dict["gathered"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if all(parameter.grad is None for parameter in pl_module.parameters()):  # the group of batches is repeated
            self.gathered = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        self.gathered += len(batch) > 0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        divisor, gathered, self.gathered = trainer.accumulate_grad_batches, self.gathered, 0
        if divisor == 1:
            return
        factor: float | Tensor = divisor / max(1, gathered)
        if trainer.world_size > 1:  # a tensor, since reading its value would wait for the GPU
            together = torch.tensor(float(gathered), device=trainer.strategy.root_device)
            factor = divisor * trainer.world_size / trainer.strategy.reduce(together, reduce_op="sum").clamp(min=1)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not (isinstance(factor, float) and factor == 1):
            torch._foreach_mul_(gradients, factor)


class TensorFloat32(pl.Callback):
    """The callback that lets CUDA round factors of single-precision matrix products to 10 bits during a fit."""

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
    """The exponential moving average of weights and statistics, which validation, test and checkpoints use.

    Lightning's EMAWeightAveraging makes its copy before the network is laid out and moved, so that every step copies
    all weights from the GPU. This one lies on the network's device, and a step does not wait for the device.

    Args:
        decay: the share of the average that a step keeps.
        is_warm: the first steps keep less, so that the start values do not outlast a short training; see
            ``warm_average``.
    """

    def __init__(self, decay: float, is_warm: bool = False) -> None:
        super().__init__()
        if not 0 <= decay < 1:  # with 1 the average would never leave the initial weights
            raise ValueError(f"ema is {decay:g}; give the share of the average that each step keeps, from 0 to below 1")
        self.decay, self.is_warm = decay, is_warm

    @property
    def state_key(self) -> str:
        return "EMAWeightAveraging"  # checkpoints that were saved with Lightning's callback continue with this one

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
        average = warm_average(self.decay) if self.is_warm else get_ema_multi_avg_fn(self.decay)
        self._average_model = Average(pl_module, multi_avg_fn=average, use_buffers=True)
        self._average_model.module.to(trainer.strategy.root_device)


def warm_average(decay: float) -> Any:
    """Return the average whose update number n keeps the share min(``decay``, (1 + n) / (10 + n))."""

    def update(averages: list[Tensor], values: list[Tensor], num_averaged: Tensor | int) -> None:
        n = int(num_averaged)
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + n) / (10 + n)))

    return update


class Average(AveragedModel):
    """PyTorch's average, without reading the number of updates from the device at each of them."""

    def update_parameters(self, model: nn.Module) -> None:
        assert self.multi_avg_fn is not None
        begun = bool(self.n_averaged)  # on the CPU, since only the module was moved
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        averaged = [pair for pair in pairs if begun and pair[0].is_floating_point()]
        # The first update copies everything; later ones copy only the counts of batch norms.
        copied = [pair for pair in pairs if not (begun and pair[0].is_floating_point())]
        if averaged:
            self.multi_avg_fn([old for old, _ in averaged], [new for _, new in averaged], self.n_averaged)
        if copied:
            torch._foreach_copy_([old for old, _ in copied], [new for _, new in copied])
        self.n_averaged += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


def lr_scale(trainer: pl.Trainer, base_batch: int | None) -> float:
    """Return the linear scale of the lr: items a step over the number it was chosen for; 1 for None."""
    if base_batch is None:
        return 1.0
    data = trainer.datamodule  # type: ignore[attr-defined]
    batch = data.batch_size * trainer.accumulate_grad_batches * trainer.world_size
    if trainer.is_global_zero:
        print(f"learning rate x {batch / base_batch:g}: {batch} videos a step, chosen for {base_batch}")
    return batch / base_batch


def make_callbacks(
    ema: float | None, early_stopping: int | None, tf32: bool = False, warm_ema: bool = False
) -> list[pl.Callback]:
    """Return the callbacks of a task: exact resuming, whole steps, checks of the first batch, and those of the options.

    The options add products in TF32, averaged weights, and an end after ``early_stopping`` epochs without a better
    ``val_score``.
    """
    callbacks: list[pl.Callback] = [Resumption(), WholeSteps(), FirstBatch()]
    if tf32:
        callbacks.append(TensorFloat32())
    if ema is not None:
        callbacks.append(MovingAverage(ema, warm_ema))
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
    """Return the norm of all gradients together; None where there is none."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None


def gather(mine: Any, join: Callable[[list[Any]], Any]) -> Any:
    """Return the Python objects of all processes, joined: every process gets the same."""
    parts = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, mine)
    return join(parts)
