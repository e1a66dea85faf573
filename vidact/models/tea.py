"""TEA: temporal excitation and aggregation (Li, Ji, Shi, Zhang, Kang, Wang 2020, https://arxiv.org/abs/2004.01398).

In every block of a Res2Net, motion excitation scales up the channels that differ between a frame and the next. Then the
channels are split into four groups. Each group is convolved over time and space and added to the next group, so that
later groups depend on more frames and on more of the image.

The published code has no licence: this file follows the paper and a description of the shapes, names and start values.
As in that code, and unlike the paper's text, the last group, not the first, has no convolution over space.
Different here: the clip length comes from the clip. ResNet-18 and MobileNetV2 are not in the paper: their 3x3
convolutions stay whole, so that image weights fit, and only the convolutions over time are chained over the groups.

Shapes: B videos, T frames, C channels, H x W pixels, w channels of a group, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.models import backbones
from vidact.models.backbones import ResNet, check_weight_path, download_advice
from vidact.models.frame_consensus import FrameConsensus, TemporalBlock, TemporalConv, difference, insert
from vidact.models.weights import Rules, builder, load_strictly, read
from vidact.text.packages import how_to_install

GROUPS = 4
REDUCTION = 16  # motion is computed in a sixteenth of the channels
EXPANSION = 4  # a block returns four times as many channels as its planes


class MotionExcitation(nn.Module):
    """A gate that scales each channel of each frame by its change to the next frame: x + x * a, |a| < 1/2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // REDUCTION)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        squeezed = self.bn1(self.conv1(images))
        moved = self.conv2(squeezed)
        change = difference(moved.unflatten(0, (-1, frames)), squeezed.unflatten(0, (-1, frames)))
        mean = change.flatten(0, 1).mean(dim=(2, 3), keepdim=True)  # (B*T, C / 16, 1, 1)
        # The last frame's change is zero, but it gets a gate too, from the norm's shift.
        return images + images * (self.bn3(self.conv3(mean)).sigmoid() - 0.5)


class TEABlock(TemporalBlock):
    """Res2Net's bottleneck with motion excitation and convolutions over time.

    Args:
        inputs: number of input channels; the block returns ``4 * planes``.
        planes: the width that a ResNet bottleneck would have; each of the four groups has 26/64 of it.
        stride: stride of the 3x3 convolutions.
        is_first: whether this is the first block of a stage, which changes the shape: its groups are not added to the
            next, the last group is pooled, and the skip connection is a convolution.
    """

    def __init__(self, inputs: int, planes: int, stride: int = 1, is_first: bool = False) -> None:
        super().__init__()
        width = planes * 26 // 64
        self.conv1 = nn.Conv2d(inputs, GROUPS * width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(GROUPS * width)
        self.me = MotionExcitation(GROUPS * width)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, stride, 1, bias=False) for _ in range(GROUPS - 1))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(GROUPS - 1))
        self.shifts = nn.ModuleList(TemporalConv(width, fold=None) for _ in range(GROUPS - 1))
        self.shifts.append(TemporalConv(width, fold=2))
        self.conv3 = nn.Conv2d(GROUPS * width, EXPANSION * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * planes)
        self.pool = nn.AvgPool2d(3, stride, 1) if is_first else nn.Identity()
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, EXPANSION * planes, 1, stride, bias=False), nn.BatchNorm2d(EXPANSION * planes)
            )
            if is_first
            else nn.Identity()
        )
        self.is_first = is_first

    def forward(self, images: Tensor, frames: int) -> Tensor:
        maps = self.me(self.bn1(self.conv1(images)).relu(), frames)
        *groups, last = maps.chunk(GROUPS, dim=1)
        outputs: list[Tensor] = []
        for group, over_time, conv, norm in zip(groups, self.shifts, self.convs, self.bns, strict=False):
            if outputs and not self.is_first:
                group = group + outputs[-1]
            outputs.append(norm(conv(over_time(group, frames))).relu())
        outputs.append(self.pool(self.shifts[-1](last, frames)))
        return (self.bn3(self.conv3(torch.cat(outputs, dim=1))) + self.downsample(images)).relu()


class ExcitedChain(nn.Module):
    """Motion excitation and the chain over time, for a block that keeps its own convolutions over space.

    The groups are convolved over time, and a link adds the previous group's output to each of the middle groups. The
    links start at zero and the kernels as in TEA, so that a network with image weights starts nearly unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % GROUPS:
            raise ValueError(f"{channels} channels cannot be split into {GROUPS} groups")
        width = channels // GROUPS
        self.me = MotionExcitation(channels)
        self.shifts = nn.ModuleList(TemporalConv(width, fold=None) for _ in range(GROUPS - 1))
        self.shifts.append(TemporalConv(width, fold=2))
        self.links = nn.ModuleList(TemporalConv(width, fold=None) for _ in range(GROUPS - 2))
        for link in self.links:
            nn.init.zeros_(link.conv.weight)  # type: ignore[union-attr,arg-type]

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return images of the same shape as the input (B*T, C, H, W)."""
        groups = self.me(images, frames).chunk(GROUPS, dim=1)
        outputs = [over_time(group, frames) for over_time, group in zip(self.shifts, groups, strict=True)]
        for number, link in enumerate(self.links, start=1):
            outputs[number] = outputs[number] + link(outputs[number - 1], frames)
        return torch.cat(outputs, dim=1)


class TEA(FrameConsensus):
    """An image network with motion excitation and aggregation over time; its logits are averaged over the frames.

    A backbone of ``TEABlock``s is not changed; a torchvision ResNet or MobileNetV2 gets an ``ExcitedChain`` in each
    of its blocks.
    """

    def __init__(self, backbone: backbones.Backbone, num_classes: int, dropout: float = 0.5) -> None:
        if not any(isinstance(module, TEABlock) for module in backbone.modules()):
            insert(backbone, ExcitedChain, "second")
        super().__init__(backbone, num_classes, dropout)


# ---------------------------------------------------------------------------------------------- sizes

RES2NET50 = "res2net50_26w_4s"  # timm's name


def res2net(blocks: tuple[int, int, int, int], planes: int, size: int) -> ResNet:
    """Build a Res2Net (Gao et al. 2019, https://arxiv.org/abs/1904.01169) of ``TEABlock``s; dim ``32 * planes``."""
    network = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=1)
    network.conv1 = nn.Conv2d(3, planes, 7, 2, 3, bias=False)
    network.bn1 = nn.BatchNorm2d(planes)
    inputs = planes
    for number, depth in enumerate(blocks):
        width, stride = planes * 2**number, 1 if number == 0 else 2
        layer = nn.Sequential(TEABlock(inputs, width, stride, is_first=True))
        inputs = EXPANSION * width
        layer.extend(TEABlock(inputs, width) for _ in range(depth - 1))
        setattr(network, f"layer{number + 1}", layer)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    network.fc = nn.Linear(inputs, 1)
    return ResNet(network, ClipInput(size=size))


def _load_res2net(backbone: ResNet, weights: str | None) -> None:
    """Load ImageNet's weights with the names of timm and of Res2Net's authors; TEA's own modules keep their values."""
    if weights is None:
        return
    if weights == "imagenet":
        try:
            import timm
        except ImportError as error:
            raise ImportError(f"the weights of {RES2NET50} come from timm: {how_to_install('timm')}") from error
        try:
            state_dict = timm.create_model(RES2NET50, pretrained=True).state_dict()
        except (OSError, RuntimeError) as error:
            raise OSError(download_advice(f"timm's entry {RES2NET50!r}", error)) from error
    else:
        check_weight_path(weights, ["imagenet"])
        state_dict, _ = read(weights)
    load_strictly(backbone, state_dict, [(r"^fc\.", None)], optional=r"\.(me|shifts)\.", source=weights)


@builder
def tea_res2net50(num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5) -> TEA:
    """TEA on Res2Net-50 (26w x 4s), the paper's network.

    Args:
        num_classes: number of classes K.
        weights: "imagenet" for timm's weights of res2net50_26w_4s, a local file with its names, or None.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    backbone = res2net((3, 4, 6, 3), planes=64, size=size)
    _load_res2net(backbone, weights)
    return TEA(backbone, num_classes, dropout)


@builder
def tea_resnet18(num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5) -> TEA:
    """TEA's modules in ResNet-18 (not in the paper).

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return TEA(backbones.resnet18(weights, size), num_classes, dropout)


@builder
def tea_mobilenet_v2(num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.5) -> TEA:
    """TEA's modules in MobileNetV2 (not in the paper); arguments as in ``tea_resnet18``."""
    return TEA(backbones.mobilenet_v2(weights, size), num_classes, dropout)


@builder
def tea_resnet_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, width: int = 16
) -> TEA:
    """TEA's modules in a four-block ResNet for tests and CPU demos; no published weights exist."""
    return TEA(backbones.resnet_tiny(weights, size, width), num_classes, dropout)


@builder
def tea_res2net_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, planes: int = 16
) -> TEA:
    """TEA on a Res2Net of eight narrow blocks for tests; no published weights exist.

    Args:
        num_classes: number of classes K.
        weights: a local file, or None.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
        planes: width of the first stage; the last one returns 32 times as many channels.
    """
    backbone = res2net((2, 2, 2, 2), planes, size)
    if weights is not None:
        check_weight_path(weights, [])
    _load_res2net(backbone, weights)
    return TEA(backbone, num_classes, dropout)


# ---------------------------------------------------------------------------------------------- published weights


def from_tea(state_dict: Mapping[str, Any], num_classes: int, num_segments: int | None = None) -> TEA:
    """Build TEA from its repository's names: ``layer1.0.me.conv1.weight``, ``layer1.0.shifts.0.conv.weight``, ….

    ``num_segments`` is accepted because published files record it; no weight depends on it.
    """
    del num_segments
    network = tea_res2net50(num_classes, weights=None)
    rules: Rules = [(r"^base_model\.", ""), (r"^new_fc\.", "fc."), (r"^(?!fc\.)", "backbone.")]
    load_strictly(network, state_dict, rules, source="the tea state dict")
    return network
