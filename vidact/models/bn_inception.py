"""BN-Inception (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167), the backbone of the first TSN weights.

From the Caffe port on which https://github.com/yjxiong/tsn-pytorch (BSD-2-Clause) is based: every convolution has a
bias *and* batch norm, and images are BGR from 0 to 255. Different here: batch norm has momentum 0.1; the published code
has 0.9, with which PyTorch hardly averages over batches.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.models.backbones import Backbone, check_weight_path, download_advice
from vidact.models.weights import Rules, builder, load_strictly, read

IMAGENET_URL = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"

# Published names to ours. After the branch names are replaced, the last rule names the convolutions `conv`.
RULES: Rules = [
    (r"^last_linear\.", "fc."),
    (r"_bn\.", ".bn."),
    (r"^inception_(\d\w)_1x1\.", r"inception_\1.one."),
    (r"^inception_(\d\w)_3x3_reduce\.", r"inception_\1.three.0."),
    (r"^inception_(\d\w)_3x3\.", r"inception_\1.three.1."),
    (r"^inception_(\d\w)_double_3x3_reduce\.", r"inception_\1.threes.0."),
    (r"^inception_(\d\w)_double_3x3_([12])\.", r"inception_\1.threes.\2."),
    (r"^inception_(\d\w)_pool_proj\.", r"inception_\1.project."),
    (r"^(?!fc\.)((?:(?!\.bn\.).)*)\.(weight|bias)$", r"\1.conv.\2"),
]


class ConvNorm(nn.Module):
    """A convolution with bias, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(maps)))


def halve(maps: Tensor) -> Tensor:
    # Caffe rounds sizes up without padding; with padding 1 the sizes would be the same and the values different.
    return F.max_pool2d(maps, kernel_size=3, stride=2, ceil_mode=True)


class Inception(nn.Module):
    """Four parallel branches: 1x1, 3x3, two 3x3 in a row, and a pool with a 1x1; channels are divided by ``narrow``.

    A block of stride 2 has no 1x1 branch, and its pool branch has no convolution.
    """

    is_checkpoint_block = True

    def __init__(
        self,
        inputs: int,
        single: int,
        three: tuple[int, int],
        double: tuple[int, int],
        project: int,
        stride: int = 1,
        pool: str = "average",
        narrow: int = 1,
    ) -> None:
        super().__init__()
        inputs, single, project = inputs // narrow, single // narrow, project // narrow
        three, double = (three[0] // narrow, three[1] // narrow), (double[0] // narrow, double[1] // narrow)
        self.one = ConvNorm(inputs, single, 1) if single else None
        self.three = nn.Sequential(ConvNorm(inputs, three[0], 1), ConvNorm(three[0], three[1], 3, stride))
        self.threes = nn.Sequential(
            ConvNorm(inputs, double[0], 1),
            ConvNorm(double[0], double[1], 3),
            ConvNorm(double[1], double[1], 3, stride),
        )
        self.project = ConvNorm(inputs, project, 1) if project else None
        self.pool = pool
        self.outputs = single + three[1] + double[1] + (project or inputs)

    def forward(self, maps: Tensor) -> Tensor:
        branches = [] if self.one is None else [self.one(maps)]
        branches += [self.three(maps), self.threes(maps)]
        if self.project is None:
            branches.append(halve(maps))
        elif self.pool == "average":
            branches.append(self.project(F.avg_pool2d(maps, kernel_size=3, stride=1, padding=1)))
        else:
            branches.append(self.project(F.max_pool2d(maps, kernel_size=3, stride=1, padding=1)))
        return torch.cat(branches, dim=1)


class BNInception(Backbone):
    """BN-Inception without its classifier; dim 1024.

    Args:
        size: crop side in pixels.
        narrow: divisor of all numbers of channels: 1 as published, 2, 4 or 8 for training on a CPU.
    """

    def __init__(self, size: int = 224, narrow: int = 1) -> None:
        if narrow not in (1, 2, 4, 8):
            raise ValueError(f"narrow is {narrow}; the channels of BN-Inception can be divided by 1, 2, 4 or 8")
        super().__init__()
        self.narrow = narrow
        inception = partial(Inception, narrow=narrow)
        self.conv1_7x7_s2 = ConvNorm(3, 64 // narrow, 7, stride=2)
        self.conv2_3x3_reduce = ConvNorm(64 // narrow, 64 // narrow, 1)
        self.conv2_3x3 = ConvNorm(64 // narrow, 192 // narrow, 3)
        self.inception_3a = inception(192, 64, (64, 64), (64, 96), 32)
        self.inception_3b = inception(256, 64, (64, 96), (64, 96), 64)
        self.inception_3c = inception(320, 0, (128, 160), (64, 96), 0, stride=2)
        self.inception_4a = inception(576, 224, (64, 96), (96, 128), 128)
        self.inception_4b = inception(576, 192, (96, 128), (96, 128), 128)
        self.inception_4c = inception(576, 160, (128, 160), (128, 160), 128)
        self.inception_4d = inception(608, 96, (128, 192), (160, 192), 128)
        self.inception_4e = inception(608, 0, (128, 192), (192, 256), 0, stride=2)
        self.inception_5a = inception(1056, 352, (192, 320), (160, 224), 128)
        self.inception_5b = inception(1024, 352, (192, 320), (192, 224), 128, pool="max")
        self.dim = self.inception_5b.outputs
        self.input = ClipInput(size=size, mean=(104.0, 117.0, 128.0), std=(1.0,), order="bgr", scale=255.0)

    def maps(self, images: Tensor) -> Tensor:
        maps = halve(self.conv1_7x7_s2(images))
        maps = halve(self.conv2_3x3(self.conv2_3x3_reduce(maps)))
        for name, block in self.named_children():
            if name.startswith("inception_"):
                maps = block(maps)
        return maps


def bn_inception(weights: str | None = "imagenet", size: int = 224, narrow: int = 1) -> BNInception:
    """Build BN-Inception as a backbone.

    Args:
        weights: "imagenet", a local file with the published names, or None.
        size: crop side in pixels.
        narrow: divisor of all numbers of channels, see ``BNInception``; ImageNet's weights need 1.
    """
    backbone = BNInception(size, narrow)
    if weights is None:
        return backbone
    if weights == "imagenet" and narrow == 1:
        try:
            state_dict = torch.hub.load_state_dict_from_url(
                IMAGENET_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:
            raise OSError(download_advice(IMAGENET_URL, error)) from error
    else:
        check_weight_path(weights, ["imagenet"] if narrow == 1 else [])
        state_dict, _ = read(weights)
    # Files converted from Caffe store the tensors of batch norm as (1, C).
    state_dict = {
        key: value.squeeze(0) if "_bn." in key and value.ndim == 2 else value for key, value in state_dict.items()
    }
    load_strictly(backbone, state_dict, [*RULES, (r"^fc\.", None)], source=weights)
    return backbone


class ImageClassifier(nn.Module):
    """BN-Inception with its own classifier, from images (N, 3, H, W) to logits (N, K)."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.dim, num_classes)
        self.num_classes = num_classes
        self.input = backbone.input

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.backbone(images))


@builder
def bn_inception_classifier(num_classes: int, weights: str | None = "imagenet", size: int = 224) -> ImageClassifier:
    """BN-Inception for single images; the trunk starts from ``weights``, the classifier at random."""
    return ImageClassifier(bn_inception(weights, size), num_classes)


def from_bn_inception(state_dict: Mapping[str, Any], num_classes: int) -> ImageClassifier:
    """Build the image classifier from published names."""
    network = bn_inception_classifier(num_classes, weights=None)
    load_strictly(network, state_dict, [*RULES, (r"^(?!fc\.)", "backbone.")], source="the bn_inception state dict")
    return network
