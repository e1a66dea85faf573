"""TDN: temporal difference network (Wang, Tong, Ji, Wu 2021, https://arxiv.org/abs/2012.10071).

Every segment is five consecutive frames, of which the middle one goes through an image network. Short-term: the four
differences between the five frames go through a second small stem and first layer, whose maps are added to the image's.
Long-term: in the blocks of the later layers, a gate scales the channels at every position. It is computed from
differences between neighbouring segments, forward and backward and at several scales; a learned shift follows it.

From https://github.com/MCG-NJU/TDN (Apache-2.0). Different here: a second convolution of the first layer's size, which
the published code declares and never uses, is left out; new convolution biases start at zero, since batch norm follows;
the clip length comes from the clip. ResNet-18 and MobileNetV2 are not in the paper.

Shapes: B videos, T segments of a clip, C channels (5 RGB frames: 15), H x W pixels, N = B*T, K classes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone, with_channels
from vidact.models.frame_consensus import FrameConsensus, TemporalConv, difference, insert, run_layers
from vidact.models.tsm import layers_of
from vidact.models.weights import Rules, builder, load_strictly

FRAMES = 5  # consecutive frames in a segment
REDUCTION = 16


class MultiScaleGate(nn.Module):
    """The paper's motion enhancement: x + x * a, where a in (-1/2, 1/2) comes from differences to neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // REDUCTION)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        # These are the published names. "Small scale 4" is at full size: the published code never calls its pooling.
        self.conv3_smallscale2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn3_smallscale2 = nn.BatchNorm2d(inner)
        self.conv3_smallscale4 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn3_smallscale4 = nn.BatchNorm2d(inner)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        squeezed = self.bn1(self.conv1(images))
        moved = self.conv2(squeezed).unflatten(0, (-1, frames))  # (B, T, C / 16, H, W)
        squeezed = squeezed.unflatten(0, (-1, frames))
        forward = self.gate(difference(moved, squeezed).flatten(0, 1))
        backward = self.gate(difference(moved.flip(1), squeezed.flip(1)).flip(1).flatten(0, 1))
        return images + images * (forward + backward) / 2

    def gate(self, change: Tensor) -> Tensor:
        """Return gates (N, C, H, W) computed from differences (N, C / 16, H, W)."""
        half = F.avg_pool2d(change, 2) if min(change.shape[2:]) > 1 else change
        half = self.bn3_smallscale2(self.conv3_smallscale2(half))
        scales = change + F.interpolate(half, change.shape[2:]) + self.bn3_smallscale4(self.conv3_smallscale4(change))
        return self.bn3(self.conv3(scales / 3)).sigmoid() - 0.5


class GateAndShift(nn.Module):
    """The module that TDN inserts into the blocks of the later layers: a gate, then a shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mse = MultiScaleGate(channels)
        self.shift = TemporalConv(channels)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        return self.shift(self.mse(images, frames), frames)


class TDN(FrameConsensus):
    """An image network that also reads differences; its logits are averaged over the segments.

    Args:
        backbone: a torchvision ResNet or MobileNetV2 for one RGB image; its blocks are changed in place.
        num_classes: number of classes K.
        dropout: dropout rate on each segment's vector, before the classifier.
        alpha: weight of the image's maps in their sum with the maps of the short-term differences.
        beta: weight of the maps of the short-term differences.
        biases: give the convolutions of the trunk biases, as in the published networks.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        dropout: float = 0.5,
        alpha: float = 0.5,
        beta: float = 0.5,
        biases: bool = False,
    ) -> None:
        insert(backbone, GateAndShift, "second", first_layer=2)
        stem, first, _ = stages_of(backbone)
        motion_stem = with_channels(nn.Sequential(*copy.deepcopy(stem)), 3 * (FRAMES - 1))
        for module in motion_stem.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        if biases:
            _add_biases(backbone)
        super().__init__(backbone, num_classes, dropout)
        self.motion_stem = motion_stem
        self.motion_layer = nn.Sequential(*copy.deepcopy(first))
        self.alpha, self.beta = alpha, beta
        self.input = dataclasses.replace(self.input, channels=3 * FRAMES, images_per_frame=FRAMES)

    def vectors(self, images: Tensor, frames: int) -> Tensor:
        stem, first, rest = stages_of(self.backbone)
        five = images.unflatten(1, (FRAMES, 3))  # (N, 5, 3, H, W)
        changes = (five[:, 1:] - five[:, :-1]).flatten(1, 2)  # (N, 12, H, W)
        motion = self.motion_stem(F.avg_pool2d(changes, 2))
        maps = self.join(_run(stem, five[:, FRAMES // 2]), motion)
        maps = self.join(_run(first, maps), self.motion_layer(motion))
        return run_layers(self.backbone, rest, maps, frames)

    def join(self, maps: Tensor, motion: Tensor) -> Tensor:
        return self.alpha * maps + self.beta * F.interpolate(motion, maps.shape[2:])


def stages_of(backbone: Backbone) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """Return the layers of a backbone in three parts: its stem, its first layer of blocks, and the others."""
    names, modules = zip(*layers_of(backbone), strict=True)
    is_first = [name == "features.1" or name.startswith("layer1.") for name in names]
    start, end = is_first.index(True), is_first.index(True) + sum(is_first)
    return list(modules[:start]), list(modules[start:end]), list(modules[end:])


def _run(layers: list[nn.Module], maps: Tensor) -> Tensor:
    for layer in layers:
        maps = layer(maps)
    return maps


def _add_biases(backbone: Backbone) -> None:
    for name, conv in backbone.named_modules():
        if isinstance(conv, nn.Conv2d) and ".temporal." not in name:
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels, device=conv.weight.device))


# ---------------------------------------------------------------------------------------------- sizes


@builder
def tdn_resnet18(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> TDN:
    """TDN on ResNet-18 (not in the paper).

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
        alpha: weight of the image's maps: 0.5 for 8 segments, 0.75 for 16.
        beta: weight of the differences' maps: 0.5 for 8 segments, 0.25 for 16.
    """
    return TDN(backbones.resnet18(weights, size), num_classes, dropout, alpha, beta)


@builder
def tdn_resnet50(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> TDN:
    """TDN on ResNet-50, the paper's main network; arguments as in ``tdn_resnet18``."""
    return TDN(backbones.resnet50(weights, size), num_classes, dropout, alpha, beta, biases=True)


@builder
def tdn_resnet101(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> TDN:
    """TDN on ResNet-101; arguments as in ``tdn_resnet18``."""
    return TDN(backbones.resnet101(weights, size), num_classes, dropout, alpha, beta, biases=True)


@builder
def tdn_mobilenet_v2(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> TDN:
    """TDN on MobileNetV2 (not in the paper); arguments as in ``tdn_resnet18``."""
    return TDN(backbones.mobilenet_v2(weights, size), num_classes, dropout, alpha, beta)


@builder
def tdn_resnet_tiny(
    num_classes: int,
    weights: str | None = None,
    size: int = 64,
    dropout: float = 0.0,
    alpha: float = 0.5,
    beta: float = 0.5,
    width: int = 16,
) -> TDN:
    """TDN on a four-block ResNet for tests and CPU demos; no published weights exist."""
    return TDN(backbones.resnet_tiny(weights, size, width), num_classes, dropout, alpha, beta)


# ---------------------------------------------------------------------------------------------- published weights

_SIZES = {"resnet50": tdn_resnet50, "resnet101": tdn_resnet101}


def from_tdn(
    state_dict: Mapping[str, Any],
    num_classes: int,
    backbone: str = "resnet50",
    num_segments: int = 8,
    alpha: float | None = None,
    beta: float | None = None,
) -> TDN:
    """Build TDN from its repository's names: ``layer1_bak.0.conv1.weight``, ``layer2_bak.0.mse.conv1.weight``, ….

    No weight depends on ``num_segments``. The defaults of alpha and beta do, as in that repository: 0.5 and 0.5 for 8
    segments, 0.75 and 0.25 for any other number.
    """
    if backbone not in _SIZES:
        raise ValueError(f"backbone is {backbone!r}; the TDN layout knows {', '.join(_SIZES)}")
    alpha = (0.5 if num_segments == 8 else 0.75) if alpha is None else alpha
    beta = (0.5 if num_segments == 8 else 0.25) if beta is None else beta
    network = _SIZES[backbone](num_classes, weights=None, alpha=alpha, beta=beta)
    rules: Rules = [
        (r"^base_model\.", ""),
        (r"^new_fc\.", "fc."),
        (r"^conv1_temp\.", None),  # the published code never uses it
        (r"^conv1_5\.", "motion_stem."),
        (r"^resnext_layer1\.", "motion_layer."),
        (r"^(layer\d)_bak\.", r"\1."),
        (r"\.(mse|shift)\.", r".temporal.\1."),
        (r"^(?!fc\.|motion_)", "backbone."),
    ]
    load_strictly(network, state_dict, rules, source="the tdn state dict")
    return network
