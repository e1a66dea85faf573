"""The parts shared by 2-D networks with temporal modules: TANet, TEA, TDN, TIN, STM, GSM, TSM with temporal pooling.

Every frame becomes a vector and logits, and the logits of a clip are the mean of its frames', as in TSN (Wang et al.
2016, https://arxiv.org/abs/1608.00859). Modules in the residual branches of the blocks mix each frame with others.

Shapes: B videos, T frames, C channels, H x W pixels, N = B*T images, D features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenetv2

from vidact.models.backbones import Backbone, MobileNet, ResNet, check_clip
from vidact.models.tsm import FOLD, layers_of

Position = Literal["first", "second"]  # see ``Residual``


class FrameConsensus(nn.Module):
    """An image network whose blocks may read other frames, a classifier, and the mean over the frames.

    Args:
        backbone: an image network; its blocks may be ``TemporalBlock``s.
        num_classes: number of classes K.
        dropout: dropout rate on each frame's vector, before the classifier.
        num_segments: the only clip length T that the weights allow; None allows any length.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, dropout: float = 0.5, num_segments: int | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(backbone.dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)
        self.num_classes = num_classes
        self.dim = backbone.dim
        self.input = dataclasses.replace(backbone.input, frames=num_segments)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, T, C, H, W)."""
        # Logits are in single precision for the mean over the frames: bf16 would round the sum.
        return self.fc(self.dropout(self.frame_features(clip))).float().mean(dim=1)

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per clip (B, D): the mean of its frames' vectors."""
        return self.frame_features(clip).mean(dim=1)

    def frame_features(self, clip: Tensor) -> Tensor:
        check_clip(clip, self.input)
        vectors = self.vectors(clip.flatten(0, 1), clip.shape[1])
        return vectors.unflatten(0, (clip.shape[0], -1))  # (B, T, D)

    def vectors(self, images: Tensor, frames: int) -> Tensor:
        """Return vectors (B*T, D) of images (B*T, C, H, W) of clips of ``frames`` frames."""
        return run_layers(self.backbone, [layer for _, layer in layers_of(self.backbone)], images, frames)


def run_layers(backbone: Backbone, layers: list[nn.Module], maps: Tensor, frames: int) -> Tensor:
    """Run the last layers of a backbone, from maps (B*T, C, H, W) to vectors (B*T, D)."""
    for layer in layers:
        maps = layer(maps, frames) if isinstance(layer, TemporalBlock) else layer(maps)
    vectors = maps.mean(dim=(2, 3))
    return backbone.classifier(vectors) if isinstance(backbone, MobileNet) else vectors


# ---------------------------------------------------------------------------------------------- blocks


class TemporalBlock(nn.Module):
    """A block that is called with its images (B*T, C, H, W) and T."""

    is_checkpoint_block = True

    def forward(self, images: Tensor, frames: int) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")


class Residual(TemporalBlock):
    """A torchvision block with a temporal module in its residual branch, not in its skip connection.

    The block's children keep their names, so that no tensor is renamed.

    Args:
        block: BasicBlock, Bottleneck, or MobileNetV2's inverted residual with a skip connection and an expansion.
        temporal: a module that is called with maps (B*T, C, H, W) and T and returns the same shape.
        position: "first" is before the branch's first convolution, "second" after it with its norm and activation.
    """

    def __init__(self, block: nn.Module, temporal: nn.Module, position: Position) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.temporal = temporal
        self.position = position

    def enter(self, images: Tensor, first: Callable[[Tensor], Tensor], frames: int) -> Tensor:
        """Run the branch's first convolution, with norm and activation, and the temporal module in their order."""
        if self.position == "first":
            return first(self.temporal(images, frames))
        return self.temporal(first(images), frames)


class ResNetResidual(Residual):
    """A BasicBlock or Bottleneck with a temporal module."""

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    conv2: nn.Module
    bn2: nn.Module

    def forward(self, images: Tensor, frames: int) -> Tensor:
        branch = self.enter(images, lambda maps: self.relu(self.bn1(self.conv1(maps))), frames)
        branch = self.bn2(self.conv2(branch))
        parts = dict(self.named_children())
        if "conv3" in parts:
            branch = parts["bn3"](parts["conv3"](self.relu(branch)))
        skip = parts["downsample"](images) if "downsample" in parts else images
        return self.relu(branch + skip)


class InvertedResidual(Residual):
    """MobileNetV2's block (expansion, depthwise convolution, projection) with a temporal module."""

    conv: nn.Sequential

    def forward(self, images: Tensor, frames: int) -> Tensor:
        branch = self.enter(images, self.conv[0], frames)
        return images + self.conv[1:](branch)


def insert(backbone: Backbone, make: Callable[[int], nn.Module], position: Position, first_layer: int = 1) -> None:
    """Insert ``make(C)`` into the residual branches of a torchvision ResNet or MobileNetV2, in place.

    In MobileNetV2 these are the ten blocks with a skip connection and an expansion, the same that TSM shifts.

    Args:
        make: a function that returns the temporal module for C channels.
        position: see ``Residual``.
        first_layer: the first of a ResNet's four layers that is changed.
    """
    if isinstance(backbone, ResNet):
        for number in range(first_layer, 5):
            layer: nn.Sequential = backbone.get_submodule(f"layer{number}")  # type: ignore[assignment]
            for b, block in enumerate(layer):
                conv: nn.Conv2d = block.conv1  # type: ignore[assignment]
                layer[b] = ResNetResidual(block, make(_channels(conv, position)), position)
        return
    features = backbone.features if isinstance(backbone, MobileNet) else nn.Sequential()
    if not any(isinstance(block, mobilenetv2.InvertedResidual) for block in features):
        raise ValueError(
            "the temporal modules fit the residual blocks of torchvision's ResNet and MobileNetV2; this "
            f"{type(backbone).__name__} has neither. TSN takes any backbone"
        )
    for b, block in enumerate(features):
        # A block without expansion starts with its depthwise convolution and has three parts.
        if isinstance(block, mobilenetv2.InvertedResidual) and block.use_res_connect and len(block.conv) == 4:
            conv = block.conv[0][0]
            features[b] = InvertedResidual(block, make(_channels(conv, position)), position)


def _channels(conv: nn.Conv2d, position: Position) -> int:
    return conv.in_channels if position == "first" else conv.out_channels


# ---------------------------------------------------------------------------------------------- over time


def difference(later: Tensor, earlier: Tensor) -> Tensor:
    """Return ``later`` of the next frame minus ``earlier`` of this one, (B, T, C, H, W); zeros at the last frame."""
    return pad_time(later[:, 1:] - earlier[:, :-1], 0, 1)


def mix_neighbours(clip: Tensor, previous: Tensor, present: Tensor, following: Tensor) -> Tensor:
    """Return the weighted sum of each frame and its neighbours, with zeros outside the clip (B, T, C, H, W).

    The weights broadcast to the clip: (C, 1, 1) are the same for all clips, (B, 1, C, 1, 1) differ for each clip.
    """
    padded = pad_time(clip, 1, 1)
    # The weights take the clip's precision: under bf16 they are in single precision, and the maps would be too.
    before, now, after = (weights.to(clip.dtype) for weights in (previous, present, following))
    return before * padded[:, :-2] + now * clip + after * padded[:, 2:]


def pad_time(clip: Tensor, before: int, after: int) -> Tensor:
    """Add frames of zeros before and after those of a clip (B, T, C, H, W).

    Channels that are innermost in memory stay innermost; see ``tsm.channel_axis``.
    """
    if clip.stride(2) < clip.stride(4):
        return F.pad(clip.movedim(2, 4), (0, 0, 0, 0, 0, 0, before, after)).movedim(4, 2)
    return F.pad(clip, (0, 0, 0, 0, 0, 0, before, after))


class TemporalConv(nn.Module):
    """A learned kernel of three frames for every channel.

    Args:
        channels: number of channels C.
        fold: start as TSM's shift, with ``C // fold`` channels from the next frame and as many from the previous one;
            None starts as the identity.
    """

    def __init__(self, channels: int, fold: int | None = FOLD) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, groups=channels, bias=False)
        n = 0 if fold is None else channels // fold
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:n, 0, 2] = 1  # channels from the next frame
            self.conv.weight[n : 2 * n, 0, 0] = 1  # channels from the previous frame
            self.conv.weight[2 * n :, 0, 1] = 1

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Return filtered images of the same shape (B*T, C, H, W)."""
        # This adds shifted maps, because a Conv1d would have to move time to the last axis and back.
        previous, present, following = self.conv.weight[:, 0, :, None, None].unbind(1)  # (C, 1, 1) each
        return mix_neighbours(images.unflatten(0, (-1, frames)), previous, present, following).flatten(0, 1)
