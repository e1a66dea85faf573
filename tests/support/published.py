"""Sizes and names that were published: what the tests of single networks share."""

import torch
from torch.utils.flop_counter import FlopCounterMode

import vidact.models
from vidact.models.weights import from_reference


def empty(name, num_classes, **arguments):
    """A network without memory for its numbers."""
    with torch.device("meta"):
        return getattr(vidact.models, name)(num_classes, weights=None, **arguments).eval()


def millions(name, num_classes, **arguments):
    """Parameters of a size."""
    return round(sum(parameter.numel() for parameter in empty(name, num_classes, **arguments).parameters()) / 1e6, 3)


def giga_macs(name, num_classes, frames=8, size=224, **arguments):
    """Multiply-adds of one clip. Sums of shifted maps, which stand for depthwise convolutions over time, count zero."""
    network = empty(name, num_classes, **arguments)
    clip = torch.empty(1, frames, network.input.channels, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(clip)
    return counter.get_total_flops() / 2e9


def assert_same_under(origin, network, published, **hyperparameters):
    """A file with the published names gives the network back, tensor by tensor, and each of them was needed."""
    loaded = from_reference(origin, published, num_classes=network.num_classes, **hyperparameters)
    for (name, ours), theirs in zip(network.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert len(published) == len(network.state_dict())


def movinet_tensors(network, stream):
    """The tensors of a MoViNet under the names of MoViNet-pytorch's files."""
    conv = "conv2d" if stream else "conv3d"
    tensors = {}
    for key, value in network.state_dict().items():
        first, *rest = key.split(".")
        if first in ("hidden", "fc"):
            name = f"classifier.{0 if first == 'hidden' else 3}.conv_1.{conv}.{rest[0]}"
        elif first != "blocks":
            name = f"{first}.conv_1." + ".".join(rest).replace("conv.", f"{conv}.")
        else:
            stage, item, part, *rest = rest
            block = network.blocks[int(stage)][int(item)]
            name = f"blocks.b{stage}_l{item}.{part}"
            if part == "gate":
                name = f"blocks.b{stage}_l{item}.se.{rest[0]}.conv_1.{conv}.{rest[1]}"
            elif part != "alpha":
                if part == "residual":
                    name = f"blocks.b{stage}_l{item}.res.{1 if block.stride > 1 else 0}"
                kind, leaf = rest
                unit = "conv_2" if kind.startswith("time") else "conv_1"
                name += f".{unit}.{'norm' if 'norm' in kind else conv if unit == 'conv_1' else 'conv2d'}.{leaf}"
        if value.ndim == 2:
            value = value[:, :, None, None] if stream else value[:, :, None, None, None]
        tensors[name] = value.clone()
    return tensors
