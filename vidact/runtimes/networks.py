"""Networks whose features ONNX Runtime computes, with the methods of the PyTorch networks that they stand for.

``in_onnx`` returns one. A graph computes one image or clip at a time, so that the result of one does not depend on the
others of its batch.

Shapes: N images, B clips, T frames, C channels, H x W pixels, D features.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.models.backbones import Backbone, check_clip
from vidact.models.clip_network import VectorNetwork
from vidact.models.probe import CausalProbe, FrameProbe
from vidact.models.token_probe import tokens_of
from vidact.models.tsn import TSN
from vidact.models.weights import input_of, weights_hash
from vidact.runtimes.choices import refuse_runtime
from vidact.runtimes.compiled import Compiled, NoGraphError, compiled

# A network with fewer parameters computes an image in about a millisecond, and its graph would take seconds to make.
LEAST_PARAMETERS = 500_000

Made = TypeVar("Made")


# ---------------------------------------------------------------------------------------------- the choice


def quick_runtime(networks: Iterable[nn.Module], device: torch.device | str) -> str:
    """Return the runtime that "auto" is where nothing was begun in another: "onnx" on a CPU, "torch" elsewhere.

    Networks of which each has fewer than ``LEAST_PARAMETERS`` parameters are "torch" on a CPU as well.
    """
    size = max(sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    return "onnx" if torch.device(device).type == "cpu" and size >= LEAST_PARAMETERS else "torch"


def refuse_elsewhere(device: torch.device | str) -> None:
    """Raise ValueError for the runtime onnx on another device than the CPU."""
    if torch.device(device).type != "cpu":
        raise ValueError(
            f"the runtime onnx computes on the CPU, and the networks are on {device}; choose the device cpu or the "
            "runtime torch"
        )


def settled(runtime: str, earlier: str | None, quick: str) -> str:
    """Return "torch" or "onnx" for one of ``RUNTIMES``.

    Args:
        runtime: what is asked for; "auto" is ``earlier``, else ``quick``.
        earlier: the runtime in which this was begun; None where nothing was.
        quick: what ``quick_runtime`` returned.

    Raises ValueError for a runtime that this version does not have.
    """
    refuse_runtime(runtime)
    chosen = (earlier or quick) if runtime == "auto" else runtime
    if chosen not in ("torch", "onnx"):
        raise ValueError(f"this was begun in the runtime {chosen}, which this vidact does not have")
    return chosen


def graph_or_none(make: Callable[[], Made], is_required: bool) -> Made | None:
    """Return what ``make`` returns, or None, with a line on the standard error, where it cannot make a graph.

    Where the graph ``is_required``, the error is raised: ImportError without a package, NoGraphError for the network.
    """
    try:
        return make()
    except (ImportError, NoGraphError) as error:
        if is_required:
            raise
        print(f"{error}; it runs in PyTorch", file=sys.stderr, flush=True)
        return None


# ---------------------------------------------------------------------------------------------- features


def vectors_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """Return the vectors (N, D) of images (N, C, H, W) for an image network, of clips (N, T, C, H, W) for another."""
    if isinstance(network, Backbone):
        return network(pixels)
    assert isinstance(network, VectorNetwork)
    return network.features(pixels)


class Vectors(nn.Module):
    """A network whose forward gives the vectors (N, D), as ``vectors_of`` does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return vectors_of(self.network, pixels)


class _Maps(nn.Module):
    """An image network whose forward gives its last feature maps."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.maps(images)


class _Tokens(nn.Module):
    """A clip network whose forward gives its tokens."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        return tokens_of(self.network, clips)


class OnnxImages(Backbone):
    """An image network whose vectors a graph computes."""

    def __init__(self, input: ClipInput, dim: int, graph: Compiled) -> None:
        super().__init__()
        self.input, self.dim, self.graph = input, dim, graph

    def forward(self, images: Tensor) -> Tensor:
        return one_by_one(self.graph, images)


class OnnxMaps(Backbone):
    """An image network whose feature maps a graph computes."""

    def __init__(self, input: ClipInput, dim: int, graph: Compiled) -> None:
        super().__init__()
        self.input, self.dim, self.graph = input, dim, graph

    def maps(self, images: Tensor) -> Tensor:
        return one_by_one(self.graph, images)


class OnnxClips(nn.Module):
    """A clip network whose vectors a graph computes; ``tokens`` returns tokens where the graph is of tokens."""

    def __init__(self, input: ClipInput, dim: int, graph: Compiled) -> None:
        super().__init__()
        self.input, self.dim, self.graph = input, dim, graph

    def features(self, clip: Tensor) -> Tensor:
        check_clip(clip, self.input)
        return one_by_one(self.graph, clip)

    def tokens(self, clip: Tensor) -> Tensor:
        return self.features(clip)


def one_by_one(graph: Compiled, inputs: Tensor) -> Tensor:
    """Return the outputs of inputs (N, …), each computed by itself."""
    return torch.cat([graph(single) for single in inputs.split(1)])


def in_onnx(network: nn.Module, frames: int, weights_sha256: str, tokens: bool = False) -> nn.Module:
    """Return a network that gives the features of another by its graph, for inputs on the CPU.

    Args:
        network: an image network, or a clip network with ``features``, on the CPU and in evaluation mode.
        frames: the frames T of a clip; an image network takes any.
        weights_sha256: the hash of the weights that the features depend on.
        tokens: the features are those of ``token_probe.tokens_of``, in place of ``vectors_of``.

    Raises ImportError and NoGraphError as ``compiled`` does.
    """
    clip_input, dim, name = input_of(network), _dim_of(network), type(network).__name__
    assert clip_input is not None  # the caller has refused networks without features
    image = (clip_input.channels, clip_input.size, clip_input.size)
    if isinstance(network, Backbone):
        if tokens and type(network).maps is not Backbone.maps:
            return OnnxMaps(clip_input, dim, compiled(_Maps(network).eval(), image, weights_sha256, name))
        return OnnxImages(clip_input, dim, compiled(Vectors(network).eval(), image, weights_sha256, name))
    part = (_Tokens if tokens else Vectors)(network).eval()
    return OnnxClips(clip_input, dim, compiled(part, (frames, *image), weights_sha256, name))


def in_onnx_by_image(network: nn.Module) -> nn.Module | None:
    """Return a recogniser whose image network a graph computes, and everything else PyTorch.

    That is possible for TSN and for probes on image networks and on TSN, which answer clips and step frame by frame.
    None for others, whose layers connect the frames. The network itself stays as it is.

    Raises ImportError and NoGraphError as ``compiled`` does.
    """
    if isinstance(network, FrameProbe) and isinstance(network.trunk, Backbone):
        return _with(network, "trunk", network.trunk)
    if isinstance(network, TSN):
        return _with(network, "backbone", network.backbone)
    if isinstance(network, CausalProbe) and isinstance(network.trunk, TSN):
        other = _shallow(network)
        other.trunk = _with(network.trunk, "backbone", network.trunk.backbone)
        return other
    return None


def _with(network: Made, name: str, images: Backbone) -> Made:
    """Return a copy of the network whose image network, the attribute ``name``, a graph computes."""
    other = _shallow(network)
    setattr(other, name, in_onnx(images, 1, weights_hash(images.state_dict())))
    return other


def _shallow(network: Made) -> Made:
    """Return a copy that shares the parts of a network, and whose parts can be replaced."""
    other = copy.copy(network)
    vars(other)["_modules"] = dict(vars(network)["_modules"])
    return other


def _dim_of(network: Any) -> int:
    return int(network.dim)
