"""ECO: efficient convolutional network (Zolfaghari, Singh, Brox 2018, https://arxiv.org/abs/1804.09066).

The first half of BN-Inception turns every frame into maps of 96 channels. Stacked over time, they go through a 3-D
residual network, whose vector is classified (Lite). Full adds the second half of BN-Inception on each frame, averages
its vectors over the frames, and classifies both vectors together.

From https://github.com/mzolfaghari/ECO-pytorch (BSD-2-Clause). Different here: the last pooling is over the whole map,
so that any clip length and image size work (at 224 pixels and a multiple of 4 frames it is the same); the 3-D part
starts at random, while the authors start from a 3-D ResNet-18 trained on Kinetics.

Shapes: B videos, T frames, C channels, H x W pixels, N = B*T images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vidact.models.backbones import check_clip
from vidact.models.bn_inception import RULES as BN_INCEPTION_RULES
from vidact.models.bn_inception import BNInception, bn_inception, halve
from vidact.models.weights import Rules, builder, load_strictly


class Unit3D(nn.Module):
    """Two 3x3x3 convolutions with a skip connection, norm and ReLU before each of them.

    The first norm of the next unit is at the end of this unit.

    Args:
        inputs: number of input channels.
        outputs: number of output channels; if it differs, time and space are halved and the skip is a convolution.
    """

    is_checkpoint_block = True

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.skip = None if inputs == outputs else nn.Conv3d(inputs, outputs, 3, stride, 1)
        self.bn = nn.BatchNorm3d(outputs)

    def forward(self, maps: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next unit's ``maps`` (after norm and ReLU) and ``raw`` (before them), both (B, C, T, H, W)."""
        raw = self.conv2(self.bn1(self.conv1(maps)).relu()) + (raw if self.skip is None else self.skip(maps))
        return self.bn(raw).relu(), raw


class ResNet3D(nn.Module):
    """The 3-D part, from maps (B, 96, T, H, W) to vectors (B, 512); all channels are divided by ``narrow``."""

    def __init__(self, narrow: int = 1) -> None:
        super().__init__()
        widths = [width // narrow for width in (128, 128, 256, 256, 512, 512)]
        self.conv = nn.Conv3d(96 // narrow, widths[0], 3, padding=1)
        self.bn = nn.BatchNorm3d(widths[0])
        self.dim = widths[-1]
        self.units = nn.ModuleList(Unit3D(a, b) for a, b in pairwise(widths))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        raw = self.conv(maps)
        maps = self.bn(raw).relu()
        for unit in self.units:
            maps, raw = unit(maps, raw)
        return maps.mean(dim=(2, 3, 4))


class ECO(nn.Module):
    """ECO-Lite or, with the 2-D branch, ECO-Full.

    Args:
        trunk: BN-Inception; unused parts are removed from it.
        num_classes: number of classes K.
        is_full: whether the network has the 2-D branch.
        dropout: dropout rate on the 3-D branch's vector, before the classifier.
        dropout_2d: dropout rate on each frame's vector of the 2-D branch.
    """

    def __init__(
        self, trunk: BNInception, num_classes: int, is_full: bool, dropout: float = 0.3, dropout_2d: float = 0.5
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.is_full = is_full
        dim_2d = trunk.dim if is_full else 0
        if not is_full:
            for name in [name for name, _ in trunk.named_children() if name.startswith(("inception_4", "inception_5"))]:
                delattr(trunk, name)
            del trunk.inception_3c.three, trunk.inception_3c.threes[2]
        self.spatiotemporal = ResNet3D(trunk.narrow)
        self.dropout = nn.Dropout(dropout)
        self.dropout_2d = nn.Dropout(dropout_2d)
        self.dim = dim_2d + self.spatiotemporal.dim
        self.fc = nn.Linear(self.dim, num_classes)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        self.num_classes = num_classes
        self.input = trunk.input

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, T, C, H, W)."""
        vector, frames = self._branches(clip)
        parts = [self.dropout(vector)] if frames is None else [self.dropout_2d(frames).mean(1), self.dropout(vector)]
        return self.fc(torch.cat(parts, dim=1)).float()

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per clip: (B, 512), in Full (B, 1024 + 512) with the 2-D branch's vector first."""
        vector, frames = self._branches(clip)
        return vector if frames is None else torch.cat([frames.mean(dim=1), vector], dim=1)

    def _branches(self, clip: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the 3-D branch's vector (B, 512), and in Full the 2-D branch's vectors of the frames (B, T, 1024)."""
        check_clip(clip, self.input)
        trunk, block = self.trunk, self.trunk.inception_3c
        maps = halve(trunk.conv1_7x7_s2(clip.flatten(0, 1)))
        maps = halve(trunk.conv2_3x3(trunk.conv2_3x3_reduce(maps)))
        maps = trunk.inception_3b(trunk.inception_3a(maps))
        shared = block.threes[1](block.threes[0](maps))  # (N, 96, H / 8, W / 8), the input of the 3-D branch
        vector = self.spatiotemporal(shared.unflatten(0, clip.shape[:2]).transpose(1, 2))
        if not self.is_full:
            return vector, None
        maps = torch.cat([block.three(maps), block.threes[2](shared), halve(maps)], dim=1)
        for name, child in trunk.named_children():
            if name.startswith(("inception_4", "inception_5")):
                maps = child(maps)
        return vector, maps.mean(dim=(2, 3)).unflatten(0, clip.shape[:2])


# ---------------------------------------------------------------------------------------------- sizes


@builder
def eco_lite(num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.3) -> ECO:
    """ECO-Lite.

    Args:
        num_classes: number of classes K.
        weights: weights of BN-Inception: "imagenet", a local file with the published names, or None.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return ECO(bn_inception(weights, size), num_classes, is_full=False, dropout=dropout)


@builder
def eco_full(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.3,
    dropout_2d: float = 0.5,
) -> ECO:
    """ECO-Full; arguments as in ``eco_lite``, and ``dropout_2d`` on the vectors of the 2-D branch."""
    return ECO(bn_inception(weights, size), num_classes, is_full=True, dropout=dropout, dropout_2d=dropout_2d)


@builder
def eco_lite_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, narrow: int = 4
) -> ECO:
    """ECO-Lite with a quarter of its channels for tests and CPU demos; no published weights exist."""
    return ECO(bn_inception(weights, size, narrow), num_classes, is_full=False, dropout=dropout)


# ---------------------------------------------------------------------------------------------- published weights

# Published names to ours, after BN-Inception's table, which names convolutions `conv` and norms `bn`.
_UNITS = ["res3b", "res4a", "res4b", "res5a", "res5b"]
_PARTS = [
    (r"_1\.conv", "conv1"),
    (r"_1\.bn", "bn1"),
    (r"_2\.conv", "conv2"),
    (r"_down\.conv", "skip"),
    (r"\.bn", "bn"),
]
RULES: Rules = [
    (r"^base_model\.", ""),
    (r"^(new_fc|fc_final)\.", "fc."),
    *BN_INCEPTION_RULES,
    (r"^res3a_2\.conv\.", "spatiotemporal.conv."),
    (r"^res3a\.bn\.", "spatiotemporal.bn."),
    *(
        (rf"^{unit}{old}\.", f"spatiotemporal.units.{number}.{new}.")
        for number, unit in enumerate(_UNITS)
        for old, new in _PARTS
    ),
    (r"^(?=conv|inception_)", "trunk."),
]


def from_eco_lite(state_dict: Mapping[str, Any], num_classes: int, num_segments: int | None = None) -> ECO:
    """Build ECO-Lite from ECO-pytorch's names: ``inception_3a_1x1.weight``, ``res3a_2.weight``, ``fc_final.weight``.

    ``num_segments`` is accepted because published files record it; no weight depends on it.
    """
    del num_segments
    network = eco_lite(num_classes, weights=None)
    load_strictly(network, state_dict, RULES, source="the eco_lite state dict")
    return network


def from_eco_full(state_dict: Mapping[str, Any], num_classes: int, num_segments: int | None = None) -> ECO:
    """Build ECO-Full from ECO-pytorch's names; see ``from_eco_lite``."""
    del num_segments
    network = eco_full(num_classes, weights=None)
    load_strictly(network, state_dict, RULES, source="the eco_full state dict")
    return network
