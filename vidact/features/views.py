"""The input of one network of a feature extractor, and the record of the network.

Shapes: N chunks, T frames, C channels, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.models.backbones import Backbone
from vidact.models.weights import describe
from vidact.runtimes.compiled import Compiled
from vidact.runtimes.networks import vectors_of
from vidact.video.transform import TestTransform


@dataclass
class View:
    """The input of one network: ``frames`` are the images that it reads, in order, counted from the chunk's first."""

    network: nn.Module
    transform: TestTransform
    frames: list[int]
    dim: int
    graph: Compiled | None = None  # None where the network runs in PyTorch

    @property
    def is_image(self) -> bool:
        return isinstance(self.network, Backbone)

    def __call__(self, clips: Tensor) -> Tensor:  # (N, T, C, side, side) → (N, D)
        pixels = clips[:, 0] if self.is_image else clips
        return vectors_of(self.network, pixels) if self.graph is None else self.graph(pixels)


class ImageFacts(Backbone):
    """The input and the dim of an exported image network; ``OnnxExtractor.compute`` runs its graph."""

    def __init__(self, input: ClipInput, dim: int) -> None:
        super().__init__()
        self.input, self.dim = input, dim


class ClipFacts(nn.Module):
    """The input and the dim of an exported clip network; ``OnnxExtractor.compute`` runs its graph."""

    def __init__(self, input: ClipInput, dim: int) -> None:
        super().__init__()
        self.input, self.dim = input, dim

    def features(self, clip: Tensor) -> Tensor:
        raise NotImplementedError("OnnxExtractor.compute runs the graph")


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors as one with a new first axis. A single one is not copied and keeps its layout of memory.

    A copy would put the channels of a decoded image apart, and it is resized faster, to the same bits, as it is.
    """
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def network_record(network: nn.Module) -> dict[str, Any]:
    """Return the recipe and the input, without the source of the weights: their hash is the same on every machine."""
    described = describe(network)
    assert described.recipe is not None
    arguments = {
        name: None if name == "weights" or name.endswith("_weights") else value
        for name, value in described.recipe["arguments"].items()
    }
    return {"recipe": {**described.recipe, "arguments": arguments}, "input": described.input}
