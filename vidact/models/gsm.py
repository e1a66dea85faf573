"""GSM: gate-shift module (Sudhakaran, Escalera, Lanz 2020, https://arxiv.org/abs/1912.00381).

In one branch of every inception block, a small 3-D convolution computes for each position how much of a feature moves
to the neighbouring frame and how much stays. Half of the channels move to the previous frame, half to the next. The
gates start closed, so a new network moves nothing. As published, the channels are interleaved nevertheless.

From https://github.com/swathikirans/GSM (BSD-2-Clause). Different here: it runs on any device; the clip length comes
from the clip; batch norm averages as in ``vidact.models.bn_inception``.

Shapes: B videos, T frames, C channels, H x W pixels, N = B*T images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.backbones import for_modality
from vidact.models.bn_inception import RULES as BN_INCEPTION_RULES
from vidact.models.bn_inception import BNInception, ConvNorm, Inception, bn_inception, halve
from vidact.models.frame_consensus import FrameConsensus
from vidact.models.tsm import channel_axis
from vidact.models.weights import Rules, builder, load_strictly


class GateShift(nn.Module):
    """A module that moves a part of each channel of images (B*T, C, H, W) to a neighbouring frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3D = nn.Conv3d(channels, 2, 3, padding=1, groups=2)
        self.bn = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.conv3D.weight)
        nn.init.zeros_(self.conv3D.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, frames: int) -> Tensor:
        clip = images.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, T, H, W)
        gates = self.conv3D(self.bn(clip).relu()).tanh()  # (B, 2, T, H, W)
        halves = clip.unflatten(1, (2, -1))  # (B, 2, C / 2, T, H, W)
        moving = gates[:, :, None] * halves
        ahead = F.pad(moving[:, 0, :, 1:], (0, 0, 0, 0, 0, 1))  # frame t gets t + 1
        behind = F.pad(moving[:, 1, :, :-1], (0, 0, 0, 0, 1, 0))  # frame t gets t - 1
        mixed = halves - moving + torch.stack([ahead, behind], dim=1)
        # In each half, the channels of its first and second quarter alternate: 0, C / 4, 1, C / 4 + 1, …
        mixed = mixed.unflatten(2, (2, -1)).transpose(2, 3)  # (B, 2, C / 4, 2, T, H, W)
        if channel_axis(images) == 3:
            return mixed.permute(0, 4, 5, 6, 1, 2, 3).flatten(4).flatten(0, 1).movedim(3, 1)
        return mixed.flatten(1, 3).transpose(1, 2).flatten(0, 1)


class GatedConvNorm(nn.Module):
    """A convolution, gate-shift, batch norm and ReLU; the parts of a ``ConvNorm`` keep their names."""

    def __init__(self, plain: ConvNorm) -> None:
        super().__init__()
        self.conv, self.bn = plain.conv, plain.bn
        self.gsm = GateShift(plain.conv.out_channels)

    def forward(self, maps: Tensor, frames: int) -> Tensor:
        return F.relu(self.bn(self.gsm(self.conv(maps), frames)))


class GatedInception(nn.Module):
    """An inception block with gate-shift in its 1x1 branch, or in its 3x3 branch where it has no 1x1 branch."""

    is_checkpoint_block = True

    def __init__(self, block: Inception) -> None:
        super().__init__()
        self.one = None if block.one is None else GatedConvNorm(block.one)
        self.three, self.threes, self.project, self.pool = block.three, block.threes, block.project, block.pool
        if self.one is None:
            self.three[0] = GatedConvNorm(self.three[0])  # type: ignore[arg-type]

    def forward(self, maps: Tensor, frames: int) -> Tensor:
        if self.one is None:
            return torch.cat([self.three[1](self.three[0](maps, frames)), self.threes(maps), halve(maps)], dim=1)
        pool = F.avg_pool2d if self.pool == "average" else F.max_pool2d
        pooled = self.project(pool(maps, kernel_size=3, stride=1, padding=1))  # type: ignore[misc]
        return torch.cat([self.one(maps, frames), self.three(maps), self.threes(maps), pooled], dim=1)


class GSM(FrameConsensus):
    """BN-Inception with gate-shift modules; its logits are averaged over the frames.

    Args:
        backbone: BN-Inception; its inception blocks are changed in place.
        num_classes: number of classes K.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    backbone: BNInception

    def __init__(self, backbone: BNInception, num_classes: int, dropout: float = 0.5) -> None:
        for name, child in list(backbone.named_children()):
            if isinstance(child, Inception):
                setattr(backbone, name, GatedInception(child))
        super().__init__(backbone, num_classes, dropout)

    def vectors(self, images: Tensor, frames: int) -> Tensor:
        trunk = self.backbone
        maps = halve(trunk.conv1_7x7_s2(images))
        maps = halve(trunk.conv2_3x3(trunk.conv2_3x3_reduce(maps)))
        for block in trunk.children():
            if isinstance(block, GatedInception):
                maps = block(maps, frames)
        return maps.mean(dim=(2, 3))


# ---------------------------------------------------------------------------------------------- sizes


@builder
def gsm_bn_inception(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> GSM:
    """GSM on BN-Inception, images BGR from 0 to 255.

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a local file with the published names, or None.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
        modality: "rgb", or "flow" for ``flow_fields`` consecutive fields per frame.
        flow_fields: number of flow fields stacked on the channels; used only with modality "flow".
    """
    return GSM(for_modality(bn_inception(weights, size), modality, flow_fields), num_classes, dropout)


@builder
def gsm_bn_inception_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, narrow: int = 4
) -> GSM:
    """GSM on a BN-Inception with a quarter of its channels for tests and CPU demos; no published weights exist."""
    return GSM(bn_inception(weights, size, narrow), num_classes, dropout)


# ---------------------------------------------------------------------------------------------- published weights


def from_gsm(
    state_dict: Mapping[str, Any], num_classes: int, num_segments: int | None = None, modality: str = "rgb"
) -> GSM:
    """Build GSM from its repository's names: ``base_model.gsm_inception_3a_1x1.conv3D.weight``, ….

    ``num_segments`` is accepted because published files record it; no weight depends on it.
    """
    del num_segments
    network = gsm_bn_inception(num_classes, weights=None, modality=modality)
    rules: Rules = [
        (r"^base_model\.", ""),
        (r"^new_fc\.", "fc."),
        *BN_INCEPTION_RULES,
        (r"^gsm_inception_(\d\w)_1x1\.", r"inception_\1.one.gsm."),
        (r"^gsm_inception_(\d\w)_3x3_reduce\.", r"inception_\1.three.0.gsm."),
        (r"\.conv3D\.conv\.", ".conv3D."),
        (r"^(?!fc\.)", "backbone."),
    ]
    load_strictly(network, state_dict, rules, source="the gsm state dict")
    return network
