"""TSM with temporal pooling, which halves the number of frames (Lin, Gan, Han 2019, https://arxiv.org/abs/1811.08383).

Before the second of a ResNet's four layers, every other frame is kept, with each channel's maximum over the frame and
its two neighbours. The later layers, which are most of the work, then run on T / 2 frames.

From https://github.com/mit-han-lab/temporal-shift-module (MIT), option ``--temporal_pool``. Different here: the clip
length comes from the clip.

Shapes: B videos, T frames, C channels, H x W pixels, N = B*T images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vidact.models import backbones
from vidact.models.backbones import Backbone, ResNet
from vidact.models.frame_consensus import FrameConsensus
from vidact.models.tsm import ShiftedBlock, insert_shifts, layers_of
from vidact.models.weights import Rules, builder, load_strictly

POOLED_BEFORE = "layer2.0"


def pool_over_time(images: Tensor, frames: int) -> tuple[Tensor, int]:
    """Return the maximum of each frame and its neighbours, at every other frame.

    Args:
        images: frames of B clips (B*T, C, H, W).
        frames: number of frames T in a clip.

    Returns:
        The remaining images, and their number in each clip; an odd T is rounded up.
    """
    clip = images.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, T, H, W)
    clip = F.max_pool3d(clip, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
    return clip.transpose(1, 2).flatten(0, 1), (frames + 1) // 2


class PooledTSM(FrameConsensus):
    """A ResNet with bidirectional temporal shifts and a pooling over time; its logits are averaged over the frames.

    Args:
        backbone: a torchvision ResNet; its blocks are changed in place.
        num_classes: number of classes K.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5) -> None:
        if not isinstance(backbone, ResNet):
            raise ValueError(f"temporal pooling comes before a ResNet's layer2; {type(backbone).__name__} has none")
        insert_shifts(backbone, causal=False)
        super().__init__(backbone, num_classes, dropout)

    def vectors(self, images: Tensor, frames: int) -> Tensor:
        for name, layer in layers_of(self.backbone):
            if name == POOLED_BEFORE:
                images, frames = pool_over_time(images, frames)
            images = layer(images, frames)[0] if isinstance(layer, ShiftedBlock) else layer(images)
        return images.mean(dim=(2, 3))


# ---------------------------------------------------------------------------------------------- sizes


@builder
def tsm_resnet50_pooled(
    num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5
) -> PooledTSM:
    """TSM on ResNet-50 with temporal pooling.

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return PooledTSM(backbones.resnet50(weights, size), num_classes, dropout)


@builder
def tsm_resnet_tiny_pooled(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, width: int = 16
) -> PooledTSM:
    """TSM with temporal pooling on a four-block ResNet for tests and CPU demos; no published weights exist."""
    return PooledTSM(backbones.resnet_tiny(weights, size, width), num_classes, dropout)


# ---------------------------------------------------------------------------------------------- published weights


def from_tsm_temporal_pool(
    state_dict: Mapping[str, Any], num_classes: int, backbone: str = "resnet50", num_segments: int | None = None
) -> PooledTSM:
    """Build pooled TSM from temporal-shift-module's names: ``base_model.layer2.net.0.conv1.net.weight``, ….

    ``num_segments`` is accepted because published files record it; no weight depends on it.
    """
    del num_segments
    if backbone != "resnet50":
        raise ValueError(f"backbone is {backbone!r}; the temporal pooling layout knows resnet50")
    network = tsm_resnet50_pooled(num_classes, weights=None)
    rules: Rules = [
        (r"^new_fc\.", "fc."),
        (r"^base_model\.layer2\.net\.", "base_model.layer2."),
        (r"\.conv1\.net\.", ".conv1."),
        (r"^base_model\.", "backbone."),
    ]
    load_strictly(network, state_dict, rules, source="the tsm_temporal_pool state dict")
    return network
