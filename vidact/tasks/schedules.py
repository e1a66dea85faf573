"""The papers' recipes of learning: how the rate changes, and which parameters learn faster or do not decay."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vidact.tasks.stages import head_names, trunks_of

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate for every optimiser step: a linear warm-up, then constant, steps or a cosine.

    It is one closed formula of the step, so that resuming needs no state.

    Args:
        kind: constant; step: times ``gamma`` at each of ``milestones``; cosine: down to ``final``.
        milestones: in epochs.
        gamma: factor at each milestone.
        warmup_epochs: may be a fraction of an epoch.
        warmup_start: factor at the first step of the warm-up.
        final: factor at the last step of the cosine.
        full_in_warmup: the last step of the warm-up already has the full rate, as ActionFormer counts; otherwise the
            step after it is the first.
    """

    kind: Literal["constant", "step", "cosine"] = "constant"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    warmup_start: float = 0.1
    final: float = 0.0
    full_in_warmup: bool = False

    @property
    def counts_epochs(self) -> bool:
        """Whether the rate depends on how many steps an epoch has."""
        return self.kind == "step" or self.warmup_epochs > 0

    def unreached(self, steps_per_epoch: float, total_steps: int | None) -> list[str]:
        """Return notes on the parts of the schedule that a training of ``total_steps`` never reaches."""
        if not total_steps or not steps_per_epoch:
            return []
        warmup, notes = self.warmup_epochs * steps_per_epoch, []
        if warmup >= total_steps > 1:
            notes.append(
                f"the warm-up takes {warmup:g} steps and training {total_steps}, which never has the full rate"
            )
        beyond = [f"{at:g}" for at in self.milestones if at * steps_per_epoch >= total_steps]
        if self.kind == "step" and beyond:
            notes.append(
                f"milestones {', '.join(beyond)} lie beyond the training of {total_steps / steps_per_epoch:g} epochs"
            )
        return notes

    def factor(self, step: float, steps_per_epoch: float, total_steps: int | None) -> float:
        """Return the factor on the learning rate at optimiser step ``step`` (from 0) of ``total_steps``.

        A cosine needs ``total_steps``; the others do without (None).
        """
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            steps = max(warmup - self.full_in_warmup, 1e-9)
            return self.warmup_start + (1 - self.warmup_start) * min(step / steps, 1.0)
        if self.kind == "step":
            return self.gamma ** sum(step >= milestone * steps_per_epoch for milestone in self.milestones)
        if self.kind == "cosine":
            assert total_steps is not None
            progress = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
        return 1.0


class Rates(LambdaLR):
    """A schedule, applied to an optimiser at every step.

    A resumed run has the rates of its own options, not those of the checkpoint's run. Where an epoch has another number
    of steps than before, the schedule continues at the same point, in epochs. Groups of parameters that are added later
    keep the rate they were added with.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, steps_per_epoch: float, total_steps: int | None
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.shift = 0.0  # how many steps the schedule is ahead of the steps made
        super().__init__(optimizer, lambda step: schedule.factor(step + self.shift, self.steps_per_epoch, total_steps))

    def get_lr(self) -> list[Any]:
        later = self.optimizer.param_groups[len(self.base_lrs) :]
        return [*super().get_lr(), *(group["lr"] for group in later)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        base_lrs, per_epoch = self.base_lrs, self.steps_per_epoch
        super().load_state_dict(state_dict)
        before = state_dict.get("steps_per_epoch", per_epoch)  # older versions did not write it
        if before != per_epoch:
            self.shift = (self.last_epoch + self.shift) / before * per_epoch - self.last_epoch
        self.base_lrs, self.steps_per_epoch = base_lrs, per_epoch
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=False):
            group["initial_lr"], group["lr"] = base, base * factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


@dataclass(frozen=True)
class ParameterGroups:
    """Learning-rate and weight-decay factors by a parameter's role (the TSN family's recipe).

    The defaults are one rate for everything and no decay on norms and biases. TSM from ImageNet:
    ``head: 5``, ``bias: 2``. TSN on flow: ``first_conv: 5``.

    Args:
        head: factor on the learning rate of the classifier's weights; its biases learn ``bias`` times faster.
        first_conv: factor of the first convolution, which a change of modality initialises again.
        bias: factor of all biases that do not belong to a norm.
        decay_norm_and_bias: apply weight decay to norms and biases too.
        stage_decay: factor on the learning rate from each stage of the backbone to the one before it, and from the
            first stage to all layers before it (ULMFiT: 1 / 2.6). The last stage and what follows it learn at the full
            rate. The stages are those of ``freeze``.
    """

    head: float = 1.0
    first_conv: float = 1.0
    bias: float = 1.0
    decay_norm_and_bias: bool = False
    stage_decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.stage_decay <= 1:
            raise ValueError(f"groups.stage_decay is {self.stage_decay:g}; give a factor above 0, up to 1 for none")

    def split(self, network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return optimiser groups with every trainable parameter of ``network`` in exactly one of them.

        ``head_names`` defines the head. Parameters whose names match the regular expression ``network.never_decays``
        are treated as those of norms.
        """
        heads, depths = head_names(network), self.depths(network)
        never: str = getattr(network, "never_decays", "")
        first = next((name for name, module in network.named_modules() if is_conv(module)), None)
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        grouped: set[int] = set()
        for name, module in network.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad or id(parameter) in grouped:
                    continue
                grouped.add(id(parameter))
                is_norm = isinstance(module, NORMS) or bool(never and re.search(never, f"{name}.{key}"))
                is_bias = key == "bias" or key.endswith("_bias")
                is_head = name in heads
                rate = self.head if is_head else 1.0
                rate *= self.first_conv if name == first else 1.0
                rate *= self.bias if is_bias and not is_norm else 1.0
                depth = depths.get(id(parameter), 0)
                rate *= self.stage_decay**depth
                decays = self.decay_norm_and_bias or not (is_norm or is_bias)
                role = "+".join(
                    word
                    for word, applies in [
                        ("head", is_head), ("first_conv", name == first), ("norm", is_norm), ("bias", is_bias)
                    ]
                    if applies
                ) or "weight"  # fmt: skip
                if depth:  # each group needs a name of its own
                    role = f"{role}, {depth} from the last stage"
                decay = weight_decay if decays else 0.0
                group = groups.setdefault(
                    (rate, decay), {"params": [], "lr": lr * rate, "weight_decay": decay, "name": role}
                )
                group["params"].append(parameter)
                if role not in group["name"].split(", "):
                    group["name"] += f", {role}"
        return list(groups.values())

    def depths(self, network: nn.Module) -> dict[int, int]:
        """Return how many stages each parameter of a backbone lies before the last one, by its id; none without decay.

        Raises ValueError where the network has no backbone with stages.
        """
        if self.stage_decay == 1:
            return {}
        trunks = trunks_of(network)
        if not trunks:
            raise ValueError(
                f"groups.stage_decay is {self.stage_decay:g}, and {type(network).__name__} has no backbone with "
                "stages; leave it out"
            )
        depths: dict[int, int] = {}
        for trunk in trunks:
            parts = [trunk.stem, *trunk.stages]
            for depth, modules in enumerate(reversed(parts)):
                depths |= {id(value): depth for module in modules for value in module.parameters()}
            depths |= {id(value): len(trunk.stages) for value in trunk.parameters}
        return depths


def is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)
