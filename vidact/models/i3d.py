"""I3D: a two-stream inflated 3-D Inception (Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750).

The network is an Inception-V1 for images whose kernels got a time axis; it reads 64 frames at once. RGB and flow
networks are trained separately and their scores averaged.

Follows https://github.com/piergiaj/pytorch-i3d (Apache-2.0) in the names of weights, and TensorFlow in the padding:
zeros on both sides so that a stride of 2 halves and rounds up, with an odd zero at the end. Different here: logits are
averaged over the remaining time, and the maps of crops smaller than 224 pixels are pooled as a whole.

Shapes: B videos, T frames, C channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.models.backbones import check_weight_path
from vidact.models.video_networks import VideoNetwork, WindowPool
from vidact.models.weights import Rules, builder, load_strictly, read

# Input values are from -1 to 1 for both modalities.
INPUT = ClipInput(mean=(0.5,), std=(0.5,), resize=256)

# Channels of the six convolutions of each block: 1x1x1, two pairs of 1x1x1 and 3x3x3, and the one after the pool.
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOL_BEFORE = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def pad_same(maps: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad maps (B, C, T, H, W) with zeros so that each output axis has the size ``ceil(size / stride)``."""
    padding: list[int] = []
    for size, k, s in zip(maps.shape[:1:-1], reversed(kernel), reversed(stride), strict=True):  # last axis first
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(maps, padding) if any(padding) else maps


class Unit(nn.Module):
    """A convolution with batch norm and ReLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=0.001, momentum=0.01)

    def forward(self, maps: Tensor) -> Tensor:
        maps = pad_same(maps, self.conv3d.kernel_size, self.conv3d.stride)
        return self.bn(self.conv3d(maps)).relu()


class Pool(nn.Module):
    """A maximum over windows; maps are never negative, so the padded zeros do not change it."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(maps, self.kernel, self.stride), self.kernel, self.stride)


class Inception(nn.Module):
    """An inception block: four parallel branches, whose channels are concatenated."""

    is_checkpoint_block = True

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(channels, widths[0], 1)
        self.b1a, self.b1b = Unit(channels, widths[1], 1), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(channels, widths[3], 1), Unit(widths[3], widths[4], 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(channels, widths[5], 1)
        self.channels = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, maps: Tensor) -> Tensor:
        parts = [self.b0(maps), self.b1b(self.b1a(maps)), self.b2b(self.b2a(maps)), self.b3b(self.b3a(maps))]
        return torch.cat(parts, dim=1)


def inception_trunk(channels: int) -> nn.Sequential:
    """Build the trunk from clips (B, C, T, H, W) to vectors (B, 1024), with the published names."""
    trunk = nn.Sequential()
    trunk.add_module("Conv3d_1a_7x7", Unit(channels, 64, 7, 2))
    trunk.add_module("MaxPool3d_2a_3x3", Pool((1, 3, 3), (1, 2, 2)))
    trunk.add_module("Conv3d_2b_1x1", Unit(64, 64, 1))
    trunk.add_module("Conv3d_2c_3x3", Unit(64, 192, 3))
    width = 192
    for name, widths in BLOCKS.items():
        if name in POOL_BEFORE:
            trunk.add_module(f"pool_before_{name}", Pool(*POOL_BEFORE[name]))
        block = Inception(width, widths)
        trunk.add_module(name, block)
        width = block.channels
    trunk.add_module("pool", WindowPool((2, 7, 7)))
    trunk.add_module("average", nn.AdaptiveAvgPool3d(1))
    trunk.add_module("flatten", nn.Flatten())
    return trunk


@builder
def i3d_inception(
    num_classes: int, weights: str | None = None, size: int = 224, dropout: float = 0.5, modality: str = "rgb"
) -> VideoNetwork:
    """I3D on Inception-V1, the paper's network: 64 consecutive frames at 25 frames a second.

    Args:
        num_classes: number of classes K.
        weights: a local file with pytorch-i3d's names, or None; its classifier is loaded where it has K classes.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
        modality: "rgb", or "flow" for one field a frame.
    """
    if modality not in ("rgb", "flow"):
        raise ValueError(f"modality is {modality!r}; I3D takes 'rgb' or 'flow'")
    input = dataclasses.replace(INPUT, size=size, resize=size * 256 // 224)
    if modality == "flow":
        input = dataclasses.replace(input, channels=2, flow_fields=1)
    network = VideoNetwork(inception_trunk(input.channels), 1024, num_classes, input, dropout)
    if weights is not None:
        check_weight_path(weights, [])
        state_dict = _flat(read(weights)[0])
        head = next((value for key, value in state_dict.items() if key.endswith("logits.conv3d.weight")), None)
        dropped = [(r"^logits\.", None)] if head is None or len(head) != num_classes else []
        load_strictly(network, state_dict, [*dropped, *RULES], optional=r"^fc\.", source=weights)
    return network


# ---------------------------------------------------------------------------------------------- published weights

RULES: Rules = [(r"^logits\.conv3d\.", "fc."), (r"^(?!fc\.)", "trunk.")]


def _flat(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors with the classifier, a 1x1x1 convolution in published files, as a matrix."""
    tensors = {key: torch.as_tensor(value) for key, value in state_dict.items()}
    return {key: value.flatten(1) if key.endswith("logits.conv3d.weight") else value for key, value in tensors.items()}


def from_i3d(state_dict: Mapping[str, Any], num_classes: int, modality: str = "rgb") -> VideoNetwork:
    """Build I3D from pytorch-i3d's names: ``Mixed_5c.b3b.bn.weight``, ``logits.conv3d.weight``."""
    network = i3d_inception(num_classes, None, modality=modality)
    load_strictly(network, _flat(state_dict), RULES, source="the i3d state dict")
    return network
