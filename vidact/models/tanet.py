"""TANet: temporal adaptive module (Liu, Wang, Wu, Qian, Lu 2021, https://arxiv.org/abs/2005.06803).

In every residual block of an image network, a module reads the mean of each channel over space. From the means, a
global branch computes a kernel of three frames for each channel of each clip, and a local branch computes a gate for
each channel of each frame. The gated maps are then convolved over time with the kernel.

From https://github.com/liu-zhy/temporal-adaptive-module (Apache-2.0). Different here: the depthwise convolution over
time is a sum of shifted maps; ResNet-18 and MobileNetV2 are not in the paper.

Shapes: B videos, T frames, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone, ResNet
from vidact.models.frame_consensus import FrameConsensus, Position, insert, mix_neighbours
from vidact.models.tsn import MMACTION2_RESNET
from vidact.models.weights import Rules, builder, load_strictly


class TemporalAdaptive(nn.Module):
    """The temporal adaptive module; ``G`` and ``L`` are its global and its local branch.

    Args:
        channels: number of channels C.
        num_segments: the clip length T, which fixes the shapes of the global branch's weights.
    """

    def __init__(self, channels: int, num_segments: int) -> None:
        super().__init__()
        self.G = nn.Sequential(
            nn.Linear(num_segments, 2 * num_segments, bias=False),
            nn.BatchNorm1d(2 * num_segments),
            nn.ReLU(inplace=True),
            nn.Linear(2 * num_segments, 3, bias=False),
            nn.Softmax(dim=-1),
        )
        self.L = nn.Sequential(
            nn.Conv1d(channels, channels // 4, 3, padding=1, bias=False),
            nn.BatchNorm1d(channels // 4),
            nn.ReLU(inplace=True),
            nn.Conv1d(channels // 4, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        clip = images.unflatten(0, (-1, frames))  # (B, T, C, H, W)
        means = clip.mean(dim=(3, 4)).transpose(1, 2)  # (B, C, T)
        kernel = self.G(means.flatten(0, 1)).unflatten(0, means.shape[:2])  # (B, C, 3)
        previous, present, following = kernel[:, None, :, :, None, None].unbind(3)  # (B, 1, C, 1, 1) each
        gate = self.L(means).transpose(1, 2)[..., None, None]  # (B, T, C, 1, 1)
        return mix_neighbours(clip * gate, previous, present, following).flatten(0, 1)


class TANet(FrameConsensus):
    """An image network with temporal adaptive modules; its logits are averaged over the frames.

    Args:
        backbone: a torchvision ResNet or MobileNetV2; its blocks are changed in place.
        num_classes: number of classes K.
        num_segments: the clip length T, which fixes the shapes of the weights.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    def __init__(self, backbone: Backbone, num_classes: int, num_segments: int = 8, dropout: float = 0.5) -> None:
        # Inside MobileNetV2's blocks there are six times as many channels; the module would be larger than the network.
        position: Position = "second" if isinstance(backbone, ResNet) else "first"
        insert(backbone, lambda channels: TemporalAdaptive(channels, num_segments), position)
        super().__init__(backbone, num_classes, dropout, num_segments)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def tanet_resnet18(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    size: int = 224,
    dropout: float = 0.5,
) -> TANet:
    """TANet on ResNet-18 (not in the paper).

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        num_segments: the clip length, which fixes the shapes of the weights.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return TANet(backbones.resnet18(weights, size), num_classes, num_segments, dropout)


@builder
def tanet_resnet50(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    size: int = 224,
    dropout: float = 0.5,
) -> TANet:
    """TANet on ResNet-50, the paper's network; arguments as in ``tanet_resnet18``."""
    return TANet(backbones.resnet50(weights, size), num_classes, num_segments, dropout)


@builder
def tanet_mobilenet_v2(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    size: int = 224,
    dropout: float = 0.5,
) -> TANet:
    """TANet on MobileNetV2 (not in the paper), before its blocks' expansion; arguments as in ``tanet_resnet18``."""
    return TANet(backbones.mobilenet_v2(weights, size), num_classes, num_segments, dropout)


@builder
def tanet_resnet_tiny(
    num_classes: int,
    weights: str | None = None,
    num_segments: int = 8,
    size: int = 64,
    dropout: float = 0.0,
    width: int = 16,
) -> TANet:
    """TANet on a four-block ResNet for tests and CPU demos; no published weights exist."""
    return TANet(backbones.resnet_tiny(weights, size, width), num_classes, num_segments, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_SIZES = {"resnet50": tanet_resnet50}


def _empty(backbone: str, num_classes: int, num_segments: int) -> TANet:
    if backbone not in _SIZES:
        raise ValueError(f"backbone is {backbone!r}; the TANet layouts know {', '.join(_SIZES)}")
    return _SIZES[backbone](num_classes, weights=None, num_segments=num_segments)


def from_tanet(state_dict: Mapping[str, Any], num_classes: int, num_segments: int, backbone: str = "resnet50") -> TANet:
    """Build TANet from its repository's names: ``layer1.0.net.conv1.weight``, ``layer1.0.tam.G.0.weight``, ….

    Early files call the two branches ``self_conv.conv_f`` and ``self_conv.conv_g``.
    """
    network = _empty(backbone, num_classes, num_segments)
    rules: Rules = [
        (r"^base_model\.", ""),
        (r"^new_fc\.", "fc."),
        (r"\.self_conv\.conv_f\.", ".tam.G."),
        (r"\.self_conv\.conv_g\.", ".tam.L."),
        (r"\.net\.", "."),
        (r"\.tam\.", ".temporal."),
        (r"^(?!fc\.)", "backbone."),
    ]
    load_strictly(network, state_dict, rules, source="the tanet state dict")
    return network


def from_mmaction2_tanet(
    state_dict: Mapping[str, Any], num_classes: int, num_segments: int, backbone: str = "resnet50"
) -> TANet:
    """Build TANet from MMAction2's names: ``backbone.layer1.0.block.conv1.conv.weight``, ``….tam.G.0.weight``."""
    network = _empty(backbone, num_classes, num_segments)
    rules: Rules = [(r"\.block\.", "."), (r"\.tam\.", ".temporal."), *MMACTION2_RESNET]
    load_strictly(network, state_dict, rules, source="the mmaction2_tanet state dict")
    return network
