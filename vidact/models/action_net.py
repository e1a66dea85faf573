"""ACTION-Net: multipath excitation (Wang, She, Smolic 2021, https://arxiv.org/abs/2103.07372).

Before the first convolution of every block there is a learned shift over time, followed by three parallel gates: one
for positions and frames (a 3-D convolution of the channels' mean), one for channels (over time), and one for channels
by motion (as in TEA). The three results are added.

From https://github.com/V-Sense/ACTION-Net (MIT). Different here: the clip length comes from the clip. ResNet-18 is not
in the paper.

Shapes: B videos, T frames, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone
from vidact.models.frame_consensus import FrameConsensus, TemporalConv, difference, insert
from vidact.models.weights import Rules, builder, load_strictly

REDUCTION = 16


class MultipathExcitation(nn.Module):
    """The paper's module: a shift over time and three gates.

    Args:
        channels: number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // REDUCTION)
        self.shift = TemporalConv(channels)
        self.place = nn.Conv3d(1, 1, 3, padding=1, bias=False)
        self.channel_squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.channel_conv = nn.Conv1d(inner, inner, 3, padding=1, bias=False)
        self.channel_expand = nn.Conv2d(inner, channels, 1, bias=False)
        self.motion_squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.motion_norm = nn.BatchNorm2d(inner)
        self.motion_conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.motion_expand = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        images = self.shift(images, frames)
        gates = (
            self.place_gate(images, frames).sigmoid()
            + self.channel_gate(images, frames).sigmoid()
            + self.motion_gate(images, frames).sigmoid()
        )
        return images * (3 + gates)  # each of three paths adds the images and their gated copy

    def place_gate(self, images: Tensor, frames: int) -> Tensor:
        """Return a gate for each position and frame, (B*T, 1, H, W), before the sigmoid."""
        mean = images.mean(dim=1).unflatten(0, (-1, frames))  # (B, T, H, W)
        return self.place(mean.unsqueeze(1)).squeeze(1).flatten(0, 1).unsqueeze(1)

    def channel_gate(self, images: Tensor, frames: int) -> Tensor:
        """Return a gate for each channel, (B*T, C, 1, 1), before the sigmoid."""
        squeezed = self.channel_squeeze(images.mean(dim=(2, 3), keepdim=True))[..., 0, 0]  # (B*T, C / 16)
        mixed = self.channel_conv(squeezed.unflatten(0, (-1, frames)).transpose(1, 2)).relu()  # (B, C / 16, T)
        return self.channel_expand(mixed.transpose(1, 2).flatten(0, 1)[..., None, None])

    def motion_gate(self, images: Tensor, frames: int) -> Tensor:
        """Return a gate for each channel from its motion, (B*T, C, 1, 1), before the sigmoid."""
        squeezed = self.motion_norm(self.motion_squeeze(images))
        moved = self.motion_conv(squeezed).unflatten(0, (-1, frames))
        change = difference(moved, squeezed.unflatten(0, (-1, frames))).flatten(0, 1)
        return self.motion_expand(change.mean(dim=(2, 3), keepdim=True))


class ActionNet(FrameConsensus):
    """A ResNet with multipath excitation; its logits are averaged over the frames.

    Args:
        backbone: a torchvision ResNet; its blocks are changed in place.
        num_classes: number of classes K.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5) -> None:
        insert(backbone, MultipathExcitation, "first")
        super().__init__(backbone, num_classes, dropout)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def action_net_resnet50(
    num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5
) -> ActionNet:
    """ACTION-Net on ResNet-50, the paper's network.

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return ActionNet(backbones.resnet50(weights, size), num_classes, dropout)


@builder
def action_net_resnet_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, width: int = 16
) -> ActionNet:
    """ACTION-Net on a four-block ResNet for tests and CPU demos; no published weights exist."""
    return ActionNet(backbones.resnet_tiny(weights, size, width), num_classes, dropout)


# ---------------------------------------------------------------------------------------------- published weights


def from_action_net(
    state_dict: Mapping[str, Any], num_classes: int, backbone: str = "resnet50", num_segments: int | None = None
) -> ActionNet:
    """Build ACTION-Net from its repository's names: ``base_model.layer1.0.conv1.action_shift.weight``, ….

    ``num_segments`` is accepted because published files record it; no weight depends on it.
    """
    del num_segments
    if backbone != "resnet50":
        raise ValueError(f"backbone is {backbone!r}; the ACTION-Net layout knows resnet50")
    network = action_net_resnet50(num_classes, weights=None)
    rules: Rules = [
        (r"^base_model\.", ""),
        (r"^new_fc\.", "fc."),
        (r"\.conv1\.action_shift\.", ".temporal.shift.conv."),
        (r"\.conv1\.action_p1_conv1\.", ".temporal.place."),
        (r"\.conv1\.action_p2_squeeze\.", ".temporal.channel_squeeze."),
        (r"\.conv1\.action_p2_conv1\.", ".temporal.channel_conv."),
        (r"\.conv1\.action_p2_expand\.", ".temporal.channel_expand."),
        (r"\.conv1\.action_p3_squeeze\.", ".temporal.motion_squeeze."),
        (r"\.conv1\.action_p3_bn1\.", ".temporal.motion_norm."),
        (r"\.conv1\.action_p3_conv1\.", ".temporal.motion_conv."),
        (r"\.conv1\.action_p3_expand\.", ".temporal.motion_expand."),
        (r"\.conv1\.net\.", ".conv1."),
        (r"^(?!fc\.)", "backbone."),
    ]
    load_strictly(network, state_dict, rules, source="the action_net state dict")
    return network
