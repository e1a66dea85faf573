"""STM: spatiotemporal and motion encoding (Jiang, Wang, Gan, Wu, Yan 2019, https://arxiv.org/abs/1908.02486).

The 3x3 convolution in the middle of every block is replaced by the sum of two paths. The first is a convolution over
time for each channel, followed by the 3x3 convolution. The second computes, in a sixteenth of the channels, the
difference between the next frame after a convolution and this frame.

There is no official code; this file follows the paper. The paper leaves some points open, which are decided here: the
3x3 convolution, its stride and its norm are the image network's, so that image weights fit; the motion path is pooled
where that convolution has a stride; the path ends in a norm that starts at zero, so that a new network is an image
network with a shift. ResNet-18 is not in the paper.

Shapes: B videos, T frames, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone, ResNet
from vidact.models.frame_consensus import FrameConsensus, TemporalBlock, TemporalConv, difference
from vidact.models.weights import builder

REDUCTION = 16


class ChannelMotion(nn.Module):
    """The difference between the next frame and this one, in few channels; zero at the last frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // REDUCTION)
        self.squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.restore = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        squeezed = self.squeeze(images)
        moved = self.conv(squeezed).unflatten(0, (-1, frames))
        return self.norm(self.restore(difference(moved, squeezed.unflatten(0, (-1, frames))).flatten(0, 1)))


class STMBlock(TemporalBlock):
    """torchvision's bottleneck, or basic block, with both paths around its second convolution.

    The block's children keep their names, so that no tensor is renamed.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    conv2: nn.Conv2d
    bn2: nn.Module

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.over_time = TemporalConv(self.conv2.in_channels)
        self.motion = ChannelMotion(self.conv2.in_channels)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        maps = self.relu(self.bn1(self.conv1(images)))
        motion = self.motion(maps, frames)
        if self.conv2.stride[0] > 1:
            motion = F.avg_pool2d(motion, self.conv2.stride[0], ceil_mode=True)
        branch = self.bn2(self.conv2(self.over_time(maps, frames))) + motion
        parts = dict(self.named_children())
        if "conv3" in parts:
            branch = parts["bn3"](parts["conv3"](self.relu(branch)))
        skip = parts["downsample"](images) if "downsample" in parts else images
        return self.relu(branch + skip)


class STM(FrameConsensus):
    """A ResNet with spatiotemporal and motion paths; its logits are averaged over the frames.

    Args:
        backbone: a torchvision ResNet; its blocks are changed in place.
        num_classes: number of classes K.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5) -> None:
        if not isinstance(backbone, ResNet):
            raise ValueError(f"STM changes the blocks of torchvision's ResNet; {type(backbone).__name__} is none")
        for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
            for b, block in enumerate(layer):
                layer[b] = STMBlock(block)
        super().__init__(backbone, num_classes, dropout)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def stm_resnet18(num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5) -> STM:
    """STM on ResNet-18 (not in the paper).

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return STM(backbones.resnet18(weights, size), num_classes, dropout)


@builder
def stm_resnet50(num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5) -> STM:
    """STM on ResNet-50, the paper's network; arguments as in ``stm_resnet18``."""
    return STM(backbones.resnet50(weights, size), num_classes, dropout)


@builder
def stm_resnet_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, width: int = 16
) -> STM:
    """STM on a four-block ResNet for tests and CPU demos; no published weights exist."""
    return STM(backbones.resnet_tiny(weights, size, width), num_classes, dropout)
