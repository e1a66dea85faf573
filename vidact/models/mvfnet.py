"""MVFNet: multi-view fusion (Wu, He, Lin, Li, Gan, Ding 2021, https://arxiv.org/abs/2012.06977).

A clip is a box of time, height and width, of which an image network reads only one side. Before the first convolution
of every block of the last two layers, an eighth of the channels is filtered along each of the three axes, with kernels
of size 3. The three results are added, normalised and replace those channels.

From https://github.com/whwu95/MVFNet (Apache-2.0). Different here: the clip length comes from the clip. The tiny
network is not in the paper.

Shapes: B videos, T frames, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone
from vidact.models.frame_consensus import FrameConsensus, TemporalConv, insert
from vidact.models.weights import Rules, builder, load_strictly, rename

FUSED = 8  # one channel in eight is filtered
FIRST_LAYER = 3  # the published networks change only the last two of four layers


class MultiViewFusion(nn.Module):
    """The paper's module, which filters an eighth of the channels along time, height and width.

    Args:
        channels: number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fused = channels // FUSED
        self.over_time = TemporalConv(self.fused)
        self.over_height = nn.Conv2d(self.fused, self.fused, (3, 1), padding=(1, 0), groups=self.fused, bias=False)
        self.over_width = nn.Conv2d(self.fused, self.fused, (1, 3), padding=(0, 1), groups=self.fused, bias=False)
        self.norm = nn.BatchNorm2d(self.fused)
        for conv in (self.over_time.conv, self.over_height, self.over_width):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (3 * self.fused)))

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        views, still = images.split([self.fused, images.shape[1] - self.fused], dim=1)
        views = views.clone()  # contiguous, so that the convolutions need not copy it one by one
        views = self.over_time(views, frames) + self.over_height(views) + self.over_width(views)
        return torch.cat([F.hardswish(self.norm(views)), still], dim=1)


class MVFNet(FrameConsensus):
    """A ResNet with multi-view fusion in its last two layers; its logits are averaged over the frames.

    Args:
        backbone: a torchvision ResNet; its blocks are changed in place.
        num_classes: number of classes K.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5) -> None:
        insert(backbone, MultiViewFusion, "first", FIRST_LAYER)
        super().__init__(backbone, num_classes, dropout)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def mvfnet_resnet50(
    num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5
) -> MVFNet:
    """MVFNet on ResNet-50, the paper's main network.

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return MVFNet(backbones.resnet50(weights, size), num_classes, dropout)


@builder
def mvfnet_resnet101(
    num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5
) -> MVFNet:
    """MVFNet on ResNet-101; arguments as in ``mvfnet_resnet50``."""
    return MVFNet(backbones.resnet101(weights, size), num_classes, dropout)


@builder
def mvfnet_resnet_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, width: int = 16
) -> MVFNet:
    """MVFNet on a four-block ResNet for tests and CPU demos; no published weights exist."""
    return MVFNet(backbones.resnet_tiny(weights, size, width), num_classes, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_SIZES = {"resnet50": mvfnet_resnet50, "resnet101": mvfnet_resnet101}

_NAMES: Rules = [
    (r"^cls_head\.new_fc\.", "fc."),
    (r"\.conv1\.shift_conv\.", ".temporal.over_time.conv."),
    (r"\.conv1\.h_conv\.", ".temporal.over_height."),
    (r"\.conv1\.w_conv\.", ".temporal.over_width."),
    (r"\.conv1\.bn\.", ".temporal.norm."),
    (r"\.conv1\.net\.", ".conv1."),
]

# In published files, all three are 3-D convolutions: (F, 1, 3, 1, 1), (F, 1, 1, 3, 1) and (F, 1, 1, 1, 3).
_FLAT_SIDES = {"over_time.conv": (3, 4), "over_height": (2,), "over_width": (2,)}


def _empty(backbone: str, num_classes: int) -> MVFNet:
    if backbone not in _SIZES:
        raise ValueError(f"backbone is {backbone!r}; the MVFNet layout knows {', '.join(_SIZES)}")
    return _SIZES[backbone](num_classes, weights=None)


def from_mvfnet(
    state_dict: Mapping[str, Any], num_classes: int, backbone: str = "resnet50", num_segments: int | None = None
) -> MVFNet:
    """Build MVFNet from its repository's names: ``backbone.layer3.0.conv1.shift_conv.weight``, ….

    ``num_segments`` is accepted because published files are made for 4, 8 or 16 frames; no weight depends on it.
    """
    del num_segments
    network = _empty(backbone, num_classes)
    tensors = {new: tensor for new, (_, tensor) in rename(state_dict, _NAMES).items()}
    for name, tensor in tensors.items():
        for part, sides in _FLAT_SIDES.items():
            if f".temporal.{part}." in name and tensor.ndim == 5:
                tensors[name] = tensor.squeeze(sides)
    load_strictly(network, tensors, source="the mvfnet state dict")
    return network
