"""TSN: temporal segment networks (Wang et al. 2016, https://arxiv.org/abs/1608.00859).

One frame (or one short stack of flow) from each of T segments of the video goes through the same image network, and the
class scores of the segments are averaged. The order of the frames does not matter.

From https://github.com/yjxiong/tsn-pytorch (BSD-2-Clause) and https://github.com/mit-han-lab/temporal-shift-module
(MIT). Different here: the number of segments comes from the clip, and the network runs frame by frame as well.

Shapes: B videos, T frames, C channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone, check_clip, for_modality
from vidact.models.bn_inception import RULES as BN_INCEPTION_RULES
from vidact.models.bn_inception import bn_inception
from vidact.models.weights import Rules, builder, load_strictly


class TSN(nn.Module):
    """An image network whose logits are averaged over the frames.

    Args:
        backbone: the image network without its classifier.
        num_classes: number of classes K.
        dropout: dropout rate on each frame's vector, before the classifier.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(backbone.dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)
        self.num_classes = num_classes
        self.dim = backbone.dim
        self.input = backbone.input

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, T, C, H, W)."""
        return self.frame_logits(clip).mean(dim=1)

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per clip (B, D): the mean of its frames' vectors."""
        return self.frame_features(clip).mean(dim=1)

    def frame_features(self, clip: Tensor) -> Tensor:
        check_clip(clip, self.input)
        return self.backbone(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])  # (B, T, D)

    def frame_logits(self, clip: Tensor) -> Tensor:
        # Logits are in single precision for the mean over the frames: bf16 would round the sum.
        return self.fc(self.dropout(self.frame_features(clip))).float()  # (B, T, K)

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """Return the state before the first frame; row b belongs to stream b."""
        device = self.fc.weight.device
        return {
            "total": torch.zeros(batch_size, self.num_classes, device=device),
            "frames": torch.zeros(batch_size, 1, device=device),
        }

    def step(self, frame: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (B, K) of the whole stream up to this frame (B, C, H, W), and the next state."""
        total = state["total"] + self.frame_logits(frame[:, None])[:, 0]
        frames = state["frames"] + 1
        return total / frames, {"total": total, "frames": frames}

    def step_features(self, frame: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the vectors (B, D) of this frame (B, C, H, W), and the state, which they do not depend on."""
        return self.frame_features(frame[:, None])[:, 0], state


# ---------------------------------------------------------------------------------------------- sizes


@builder
def tsn_resnet18(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSN:
    """TSN on ResNet-18.

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
        modality: "rgb", "flow" for ``flow_fields`` consecutive fields per segment, or "rgb_difference" for
            ``flow_fields`` differences of consecutive frames.
        flow_fields: number of fields or differences stacked on the channels; unused with modality "rgb".
    """
    return TSN(for_modality(backbones.resnet18(weights, size), modality, flow_fields), num_classes, dropout)


@builder
def tsn_resnet34(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSN:
    """TSN on ResNet-34; arguments as in ``tsn_resnet18``."""
    return TSN(for_modality(backbones.resnet34(weights, size), modality, flow_fields), num_classes, dropout)


@builder
def tsn_resnet50(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSN:
    """TSN on ResNet-50, the usual size; arguments as in ``tsn_resnet18``."""
    return TSN(for_modality(backbones.resnet50(weights, size), modality, flow_fields), num_classes, dropout)


@builder
def tsn_resnet101(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSN:
    """TSN on ResNet-101; arguments as in ``tsn_resnet18``."""
    return TSN(for_modality(backbones.resnet101(weights, size), modality, flow_fields), num_classes, dropout)


@builder
def tsn_bn_inception(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.8,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSN:
    """TSN on BN-Inception, the paper's network; arguments as in ``tsn_resnet18``, images BGR from 0 to 255."""
    return TSN(for_modality(bn_inception(weights, size), modality, flow_fields), num_classes, dropout)


@builder
def tsn_mobilenet_v2(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSN:
    """TSN on MobileNetV2; arguments as in ``tsn_resnet18``."""
    return TSN(for_modality(backbones.mobilenet_v2(weights, size), modality, flow_fields), num_classes, dropout)


@builder
def tsn_mobilenet_v3_small(
    num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.2
) -> TSN:
    """TSN on MobileNetV3-Small."""
    return TSN(backbones.mobilenet_v3_small(weights, size), num_classes, dropout)


@builder
def tsn_mobilenet_v3_large(
    num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.2
) -> TSN:
    """TSN on MobileNetV3-Large."""
    return TSN(backbones.mobilenet_v3_large(weights, size), num_classes, dropout)


@builder
def tsn_efficientnet_b0(
    num_classes: int, weights: str | None = "imagenet", size: int = 224, dropout: float = 0.2
) -> TSN:
    """TSN on EfficientNet-B0."""
    return TSN(backbones.efficientnet_b0(weights, size), num_classes, dropout)


@builder
def tsn_timm(
    name: str, num_classes: int, weights: str | None = "imagenet", size: int | None = None, dropout: float = 0.5
) -> TSN:
    """TSN on any image network of timm.

    Args:
        name: a name of ``timm.list_models()``.
        num_classes: number of classes K.
        weights: "imagenet" for the weights that timm publishes under the name, a local file, or None.
        size: crop side in pixels; None is the size at which timm's weights were evaluated.
        dropout: dropout rate before the classifier.
    """
    return TSN(backbones.timm_backbone(name, weights, size), num_classes, dropout)


@builder
def tsn_resnet_tiny(
    num_classes: int,
    weights: str | None = None,
    size: int = 64,
    dropout: float = 0.0,
    width: int = 16,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSN:
    """TSN on a four-block ResNet for tests and CPU demos; no published weights exist."""
    backbone = backbones.resnet_tiny(weights, size, width)
    return TSN(for_modality(backbone, modality, flow_fields), num_classes, dropout)


# ---------------------------------------------------------------------------------------------- published weights

MMACTION2_RESNET: Rules = [
    (r"^cls_head\.fc_cls\.", "fc."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"\.conv(\d)\.conv\.", r".conv\1."),
    (r"\.conv(\d)\.bn\.", r".bn\1."),
]

# temporal-shift-module's MobileNetV2 has each block as one flat Sequential.
FLAT_MOBILENET_V2: Rules = [
    (r"^(backbone\.features\.1\.conv)\.([01])\.", r"\1.0.\2."),
    (r"^(backbone\.features\.1\.conv)\.3\.", r"\1.1."),
    (r"^(backbone\.features\.1\.conv)\.4\.", r"\1.2."),
    (r"^(backbone\.features\.(?!1\.)\d+\.conv)\.([01])\.", r"\1.0.\2."),
    (r"^(backbone\.features\.(?!1\.)\d+\.conv)\.3\.", r"\1.1.0."),
    (r"^(backbone\.features\.(?!1\.)\d+\.conv)\.4\.", r"\1.1.1."),
    (r"^(backbone\.features\.(?!1\.)\d+\.conv)\.6\.", r"\1.2."),
    (r"^(backbone\.features\.(?!1\.)\d+\.conv)\.7\.", r"\1.3."),
]

_SIZES = {
    "resnet18": tsn_resnet18,
    "resnet34": tsn_resnet34,
    "resnet50": tsn_resnet50,
    "resnet101": tsn_resnet101,
    "bn_inception": tsn_bn_inception,
    "mobilenet_v2": tsn_mobilenet_v2,
}


def _empty(backbone: str, num_classes: int, modality: str) -> TSN:
    if backbone not in _SIZES:
        raise ValueError(f"backbone is {backbone!r}; the TSN layouts know {', '.join(_SIZES)}")
    network = _SIZES[backbone](num_classes=num_classes, weights=None, modality=modality)
    if modality == "rgb_difference":  # published networks were trained on differences of raw pixels
        network.input = dataclasses.replace(network.input, mean=(0.0,), std=(1.0,))
    return network


def from_tsn(
    state_dict: Mapping[str, Any],
    num_classes: int,
    backbone: str = "resnet50",
    num_segments: int | None = None,
    modality: str = "rgb",
) -> TSN:
    """Build TSN from tsn-pytorch's and temporal-shift-module's names: ``base_model.…`` and ``new_fc.…``.

    ``num_segments`` is accepted because published files record it; no weight depends on it.
    """
    del num_segments
    network = _empty(backbone, num_classes, modality)
    rules: Rules = [(r"^new_fc\.", "fc.")]
    if backbone == "bn_inception":
        # In files trained without dropout, the classifier is `base_model.fc`, a part of the backbone.
        rules = [*rules, (r"^base_model\.fc\.", "fc."), (r"^base_model\.", ""), *BN_INCEPTION_RULES]
        rules = [*rules, (r"^(?!fc\.)", "backbone.")]
    elif backbone == "mobilenet_v2":
        # In old files the head has the backbone's name for it, `base_model.classifier`.
        rules = [
            *rules,
            (r"^base_model\.classifier\.", "fc."),
            (r"^base_model\.", "backbone."),
            *FLAT_MOBILENET_V2,
        ]
    else:
        rules = [*rules, (r"^base_model\.fc\.", "fc."), (r"^base_model\.", "backbone.")]
    load_strictly(network, state_dict, rules, source="the tsn state dict")
    return network


def from_mmaction2_tsn(
    state_dict: Mapping[str, Any], num_classes: int, backbone: str = "resnet50", num_segments: int | None = None
) -> TSN:
    """Build TSN from MMAction2's ResNet names: ``backbone.layer1.0.conv1.conv.…`` and ``cls_head.fc_cls.…``.

    MMAction2's head averages the vectors before the linear classifier; averaging the logits after it is equal.
    """
    del num_segments
    network = _empty(backbone, num_classes, "rgb")
    load_strictly(network, state_dict, MMACTION2_RESNET, source="the mmaction2_tsn state dict")
    return network
