"""Parts of a network that do not learn: batch norms, everything except the classifiers, or the first stages."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from vidact.tasks.stages import backbone, head_names, trunks_of

STAGE = re.compile(r"stage[ _]?(\d+)")


class Freeze:
    """The parts of a network that ``freeze`` names: a choice that is checked when it is made.

    Args:
        network: a clip network of ``vidact.models``.
        freeze: ``none``; ``backbone``, which is everything except the classifiers; ``stage N``, which is the first N
            stages of each backbone or trunk (of the network, where it has neither) with all layers before them. Stages
            are the layers 1 to 4 of a ResNet, the groups 3 to 5 of BN-Inception (stages 1 to 3), and else the blocks of
            the network's list of blocks.

    Raises ValueError for another choice, for a network without classifiers or stages, and for a stage that it lacks.
    """

    def __init__(self, network: nn.Module, freeze: str) -> None:
        self.choice = freeze
        self.modules: list[nn.Module] = []
        self.parameters: list[nn.Parameter] = []
        name = type(network).__name__
        if freeze == "none":
            return
        if freeze == "backbone":
            names = head_names(network)
            if not names:
                raise ValueError(
                    f"freeze is 'backbone', and {name} has no classifier apart from it: nothing would learn. Take "
                    "another freeze, such as 'none'"
                )
            # A part without parameters, such as the dropout before the classifier, belongs to what learns.
            self.modules = [part for part in backbone(network) if any(True for _ in part.parameters())]
            learning = {id(value) for head in names for value in network.get_submodule(head).parameters()}
            self.parameters = [value for value in network.parameters() if id(value) not in learning]
            return
        match = STAGE.fullmatch(freeze)
        if match is None:
            raise ValueError(f"freeze is {freeze!r}; it can be 'none', 'backbone' or 'stage N', such as 'stage 2'")
        trunks = trunks_of(network)
        if not trunks:
            raise ValueError(
                f"freeze is {freeze!r}, and {name} has no backbone with stages. It can be 'none' or 'backbone'"
            )
        number, most = int(match[1]), min(len(trunk.stages) for trunk in trunks)
        if not 1 <= number <= most:
            raise ValueError(
                f"freeze is {freeze!r}, and {name} has the stages 1 to {most}. To freeze everything except the "
                "classifiers, set it to 'backbone'"
            )
        for trunk in trunks:
            self.modules += [*trunk.stem, *(module for stage in trunk.stages[:number] for module in stage)]
            self.parameters += trunk.parameters
        self.parameters += [value for module in self.modules for value in module.parameters()]

    def apply(self) -> None:
        """Stop the parts from learning, and set them to evaluation mode: no dropout, no update of statistics.

        Call it again whenever ``train()`` may have been called: it resets the modes, but not ``requires_grad``.
        """
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        for module in self.modules:
            module.eval()

    def describe(self, network: nn.Module) -> str:
        """Return how many of the parameters of ``network`` are frozen and how many learn."""
        total = sum(parameter.numel() for parameter in network.parameters())
        learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        name = type(network).__name__
        return f"freeze is {self.choice}: {total - learning:,} parameters of {name} stay, {learning:,} learn"


class Unfreezing:
    """The parts of a network that are frozen in each epoch, fewer from time to time (ULMFiT's gradual unfreezing).

    The parts nearest to the classifier begin to learn first: each of the n epochs in ``unfreeze`` frees an equal share
    of the stages that ``freeze`` names, and the last one everything.

    Args:
        network: a clip network of ``vidact.models``.
        freeze: what is frozen at first, see ``Freeze``.
        unfreeze: epochs, counted from 1, from which more parts learn; none keeps ``freeze`` to the end.

    Raises ValueError for epochs that are not in order, or are more than the frozen stages.
    """

    def __init__(self, network: nn.Module, freeze: str, unfreeze: Sequence[int] = ()) -> None:
        self.first = Freeze(network, freeze)
        self.epochs = [1, *unfreeze]
        self.choices = [self.first]
        self.fixed = {id(value) for value in network.parameters() if not value.requires_grad}
        if not unfreeze:
            return
        shown = f"unfreeze is {list(unfreeze)}"
        if freeze == "none":
            raise ValueError(f"{shown}, and freeze is none, so that nothing is frozen at first. Set freeze to backbone")
        if any(later <= earlier for earlier, later in zip(self.epochs, unfreeze, strict=False)):
            raise ValueError(f"{shown}; give epochs in rising order, from 2: epoch 1 is the first")
        parts = len(unfreeze)
        stages = min((len(trunk.stages) for trunk in trunks_of(network)), default=0)
        if match := STAGE.fullmatch(freeze):
            stages = int(match[1])
        if parts > max(stages, 1):
            raise ValueError(
                f"{shown}, {parts} epochs, and {type(network).__name__} has {stages} frozen stages; give at most "
                f"{max(stages, 1)}"
            )
        for number in range(1, parts):
            self.choices.append(Freeze(network, f"stage {math.ceil(stages * (parts - number) / parts)}"))
        self.choices.append(Freeze(network, "none"))

    def at(self, epoch: int) -> Freeze:
        """Return what is frozen in an epoch, counted from 1."""
        return self.choices[sum(epoch >= start for start in self.epochs) - 1]

    def apply(self, epoch: int) -> Freeze:
        """Freeze what is frozen in an epoch, counted from 1, free what no longer is, and return the former.

        Call it again whenever ``train()`` may have been called. Batch norms that are frozen for another reason must be
        frozen again.
        """
        choice = self.at(epoch)
        self.release()
        choice.apply()
        return choice

    def release(self) -> None:
        """Let everything learn that is not frozen to the end: an optimiser that is made now has all of it."""
        if len(self.choices) == 1:
            return
        for parameter in self.first.parameters:
            parameter.requires_grad_(id(parameter) not in self.fixed)


def allow_unused_parameters(trainer: pl.Trainer) -> None:
    """Let processes that train together exchange the gradients of only those parameters that learn in an epoch.

    Raises ValueError for a strategy of several processes other than DDP.
    """
    if trainer.world_size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy):
        raise ValueError(
            f"model.unfreeze changes what learns, and {type(trainer.strategy).__name__} does not allow that; take "
            "--trainer.strategy ddp, or leave unfreeze out"
        )
    trainer.strategy._ddp_kwargs["find_unused_parameters"] = True  # before the network is wrapped


def freeze_norms(network: nn.Module, which: Literal["none", "partial", "all"]) -> None:
    """Stop batch norms from learning and from updating their statistics; "partial" excepts the first one.

    Call it again whenever ``train()`` may have been called: it resets the modes, but not ``requires_grad``.
    """
    if which == "none":
        return
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms[1 if which == "partial" else 0 :]:
        norm.eval()
        norm.requires_grad_(False)
