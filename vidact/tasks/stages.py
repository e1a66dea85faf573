"""The parts of a network: its classifiers, everything before them, and the stages of a backbone in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn

# The stages of ResNet are called layer1, layer2, …; the blocks of BN-Inception's three stages inception_3a, 3b, ….
_STAGE_NAME = re.compile(r"(?:layer|inception_)(\d+)[a-z]?")
# Names of lists of blocks: those of torchvision, PyTorchVideo, timm and transformers.
LISTS = ("blocks", "features", "layer", "layers", "stages")


def head_names(network: nn.Module) -> list[str]:
    """Return the names of the classifiers: Linears with ``network.num_classes`` outputs.

    A network with several scales or streams has several. A Linear inside a backbone or trunk makes features, however
    many classes there are: TANet's kernels of three frames and TIN's two offsets come from Linears of 3 and 2 outputs.
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == network.num_classes
        and not {"backbone", "trunk"} & set(name.split("."))
    ]


def backbone(network: nn.Module) -> nn.ModuleList:
    """Return all of a network except its classifiers, as the largest modules that contain none of them."""
    heads = head_names(network)

    def without_heads(module: nn.Module, prefix: str) -> list[nn.Module]:
        parts: list[nn.Module] = []
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if path not in heads:
                holds = any(head.startswith(f"{path}.") for head in heads)
                parts += without_heads(child, f"{path}.") if holds else [child]
        return parts

    return nn.ModuleList(without_heads(network, ""))


def trunks_of(network: nn.Module) -> list[Trunk]:
    """Return the backbones and trunks of a network, or else itself, in parts, without those that have no stages."""
    heads = [network.get_submodule(head) for head in head_names(network)]
    trunks = [Trunk(part, heads) for part in list(_trunks(network)) or [network]]
    return [trunk for trunk in trunks if trunk.stages]


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
