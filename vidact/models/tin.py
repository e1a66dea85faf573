"""TIN: temporal interlacing network (Shao, Qian, Liu 2020, https://arxiv.org/abs/2001.06499).

Before the first convolution of every block, a quarter of the channels is shifted along time by offsets that are
computed from the clip and may be fractions of a frame. Four groups of channels are shifted by two offsets and their
opposites, and each frame of a group is weighted.

The published code has no licence and needs a compiled kernel: this file follows the paper and a description of the
shapes, names and start values. The fractional shift is a product with a matrix over time and runs on any device.
ResNet-18 is not in the paper.

Shapes: B videos, T frames, C channels, F shifted channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone
from vidact.models.frame_consensus import FrameConsensus, insert
from vidact.models.tsm import channel_axis
from vidact.models.tsn import MMACTION2_RESNET
from vidact.models.weights import Rules, builder, load_strictly

SHIFTED = 4  # one channel in four
REACH = 4.0  # range of the offsets in frames: two frames in each direction
FIRST_BIAS = 0.5108  # sigmoid(0.5108) = 0.625: offsets start near half a frame


class OffsetNet(nn.Module):
    """A network from means over space (B, F, T) to two offsets (B, 2) from -2 to 2 frames; positive ones delay."""

    def __init__(self, channels: int, num_segments: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 1, 3, padding=1)
        self.fc = nn.Linear(num_segments, num_segments)
        self.lastlayer = nn.Linear(num_segments, 2)
        nn.init.constant_(self.lastlayer.bias, FIRST_BIAS)

    def forward(self, means: Tensor) -> Tensor:
        hidden = self.fc(self.conv(means)[:, 0]).relu()  # (B, T)
        return REACH * (self.lastlayer(hidden).sigmoid() - 0.5)


class WeightNet(nn.Module):
    """A network from means over space (B, F, T) to two weights a frame (B, 2, T) from 0 to 2, all 1 at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lastlayer = nn.Conv1d(channels, 2, 3, padding=1)
        nn.init.zeros_(self.lastlayer.weight)
        nn.init.zeros_(self.lastlayer.bias)  # type: ignore[arg-type]

    def forward(self, means: Tensor) -> Tensor:
        return 2 * self.lastlayer(means).sigmoid()


class Interlace(nn.Module):
    """The paper's module, which shifts a quarter of the channels along time.

    Args:
        channels: number of channels C.
        num_segments: the clip length T, which fixes the shapes of the weights for the offsets.
    """

    def __init__(self, channels: int, num_segments: int) -> None:
        super().__init__()
        self.shifted = channels // SHIFTED
        if self.shifted % 4:
            raise ValueError(f"{channels} channels cannot be interlaced; it takes a multiple of 16")
        self.offset = OffsetNet(self.shifted, num_segments)
        self.weight = WeightNet(self.shifted)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        clip = images.unflatten(0, (-1, frames))  # (B, T, C, H, W)
        moving, still = clip[:, :, : self.shifted], clip[:, :, self.shifted :]
        means = moving.mean(dim=(3, 4)).transpose(1, 2)  # (B, F, T)
        offsets, weights = self.offset(means), self.weight(means)
        moved = fractional_shift(moving.unflatten(2, (4, -1)), torch.cat([offsets, -offsets], dim=1))
        # Groups 0 and 2 share a weight, and so do 1 and 3.
        moved = moved * torch.cat([weights, weights], dim=1).transpose(1, 2)[..., None, None, None]
        moved = moved.flatten(2, 3).flatten(0, 1)
        if channel_axis(images) == 3:
            moved = moved.contiguous(memory_format=torch.channels_last)
        return torch.cat([moved, still.flatten(0, 1)], dim=1)


def fractional_shift(groups: Tensor, offsets: Tensor) -> Tensor:
    """Delay each group of channels by its offset, linearly interpolated between frames, with zeros outside the clip.

    Args:
        groups: channels in G groups (B, T, G, C / G, H, W).
        offsets: offset of each group (B, G) in frames.
    """
    offsets = offsets.to(
        torch.promote_types(offsets.dtype, torch.float32)
    )  # bf16 is too coarse for fractions of a frame
    time = torch.arange(groups.shape[1], device=groups.device, dtype=offsets.dtype)
    source = time[:, None] - offsets[..., None, None]  # (B, G, T, 1): the original time of output frame t
    share = (1 - (source - time).abs()).clamp(min=0)  # (B, G, T, T): the share of frame s in output frame t
    return torch.einsum("bgts,bsgchw->btgchw", share.to(groups.dtype), groups)


class TIN(FrameConsensus):
    """An image network with interlaced channels; its logits are averaged over the frames.

    Args:
        backbone: a torchvision ResNet; its blocks are changed in place.
        num_classes: number of classes K.
        num_segments: the clip length T, which fixes the shapes of the weights.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    def __init__(self, backbone: Backbone, num_classes: int, num_segments: int = 8, dropout: float = 0.8) -> None:
        insert(backbone, lambda channels: Interlace(channels, num_segments), "first")
        super().__init__(backbone, num_classes, dropout, num_segments)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def tin_resnet18(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    size: int = 224,
    dropout: float = 0.8,
) -> TIN:
    """TIN on ResNet-18 (not in the paper).

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        num_segments: the clip length, which fixes the shapes of the weights.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return TIN(backbones.resnet18(weights, size), num_classes, num_segments, dropout)


@builder
def tin_resnet50(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    size: int = 224,
    dropout: float = 0.8,
) -> TIN:
    """TIN on ResNet-50, the paper's network; arguments as in ``tin_resnet18``."""
    return TIN(backbones.resnet50(weights, size), num_classes, num_segments, dropout)


@builder
def tin_resnet_tiny(
    num_classes: int,
    weights: str | None = None,
    num_segments: int = 8,
    size: int = 64,
    dropout: float = 0.0,
    width: int = 16,
) -> TIN:
    """TIN on a four-block ResNet for tests and CPU demos; no published weights exist.

    ``width`` must be a multiple of 16.
    """
    return TIN(backbones.resnet_tiny(weights, size, width), num_classes, num_segments, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_MODULES: Rules = [
    (r"\.net1\.biasnet\.net\.", ".temporal.offset."),
    (r"\.net1\.weightnet\.net\.", ".temporal.weight."),
    (r"\.net1\.offset_net\.conv\.", ".temporal.offset.conv."),
    (r"\.net1\.offset_net\.fc1\.", ".temporal.offset.fc."),
    (r"\.net1\.offset_net\.fc2\.", ".temporal.offset.lastlayer."),
    (r"\.net1\.weight_net\.conv\.", ".temporal.weight.lastlayer."),
    (r"\.conv1(\.conv)?\.temporal\.", ".temporal."),
    (r"\.net2\.", "."),
]


def _from_tin(
    state_dict: Mapping[str, Any], rules: Rules, num_classes: int, num_segments: int, backbone: str, origin: str
) -> TIN:
    if backbone != "resnet50":
        raise ValueError(f"backbone is {backbone!r}; the TIN layouts know resnet50")
    network = tin_resnet50(num_classes, weights=None, num_segments=num_segments)
    load_strictly(network, state_dict, rules, source=f"the {origin} state dict")
    return network


def from_tin(state_dict: Mapping[str, Any], num_classes: int, num_segments: int, backbone: str = "resnet50") -> TIN:
    """Build TIN from its repository's names: ``base_model.layer1.0.conv1.net1.biasnet.net.conv.weight``, …."""
    rules: Rules = [(r"^base_model\.", ""), (r"^new_fc\.", "fc."), *_MODULES, (r"^(?!fc\.)", "backbone.")]
    return _from_tin(state_dict, rules, num_classes, num_segments, backbone, "tin")


def from_mmaction2_tin(
    state_dict: Mapping[str, Any], num_classes: int, num_segments: int, backbone: str = "resnet50"
) -> TIN:
    """Build TIN from MMAction2's names: ``backbone.layer1.0.conv1.conv.net1.offset_net.conv.weight``, …."""
    return _from_tin(state_dict, [*_MODULES, *MMACTION2_RESNET], num_classes, num_segments, backbone, "mmaction2_tin")
