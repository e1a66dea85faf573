"""Parts of a network that do not learn: batch norms, everything except the classifiers, or the first stages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import nn

from vidact.tasks.schedules import backbone, head_names

STAGE = re.compile(r"stage[ _]?(\d+)")
# The stages of ResNet are called layer1, layer2, …; the blocks of BN-Inception's three stages inception_3a, 3b, ….
_STAGE_NAME = re.compile(r"(?:layer|inception_)(\d+)[a-z]?")
# Names of lists of blocks: those of torchvision, PyTorchVideo, timm and transformers.
LISTS = ("blocks", "features", "layer", "layers", "stages")


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
        heads = [network.get_submodule(head) for head in head_names(network)]
        trunks = [Trunk(part, heads) for part in list(_trunks(network)) or [network]]
        trunks = [trunk for trunk in trunks if trunk.stages]
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


class Trunk:
    """A backbone in parts: ``stem`` (with loose ``parameters``) comes before the ``stages``, which are in order.

    ``stages`` is empty where none were found. ``heads`` are the classifiers of the network.
    """

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module]) -> None:
        self.stem: list[nn.Module] = []
        self.parameters: list[nn.Parameter] = []
        self.stages: list[list[nn.Module]] = []
        if (named := _named_stages(trunk)) is not None:
            self.stem, self.stages = named
            return
        blocks = _list_of_blocks(trunk)
        if blocks is None:
            return
        module = trunk
        for step in blocks.split(".") if blocks else []:
            self.parameters += module.parameters(recurse=False)
            for name, child in module.named_children():
                if name == step:
                    break
                self.stem.append(child)
                if any(child is head for head in heads):  # a class may make its last layers first, as MoViNet does
                    self.stem.clear()
            module = module.get_submodule(step)
        self.stages = [[block] for block in module.children() if any(True for _ in block.parameters())]


def _trunks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules that are called backbone or trunk."""
    for name, child in network.named_children():
        if name in ("backbone", "trunk"):
            yield child
        else:
            yield from _trunks(child)


def _named_stages(trunk: nn.Module) -> tuple[list[nn.Module], list[list[nn.Module]]] | None:
    """Return stem and stages of the outermost module whose children are called by the number of their stage."""
    for module in trunk.modules():
        stem: list[nn.Module] = []
        stages: dict[int, list[nn.Module]] = {}
        for name, child in module.named_children():
            if match := _STAGE_NAME.fullmatch(name):
                stages.setdefault(int(match[1]), []).append(child)
            elif not stages:
                stem.append(child)
        if stages:
            return stem, list(stages.values())
    return None


def _list_of_blocks(trunk: nn.Module) -> str | None:
    """Return the name of the first list with a usual name and at least two blocks that learn; None without one."""
    for name, module in trunk.named_modules():
        is_list = isinstance(module, nn.Sequential | nn.ModuleList) and (
            module is trunk or name.split(".")[-1] in LISTS
        )
        if is_list and sum(any(True for _ in child.parameters()) for child in module.children()) > 1:
            return name
    return None


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
