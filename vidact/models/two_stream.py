"""Two streams: one network reads RGB frames, another reads optical flow, and their scores are added.

Simonyan and Zisserman 2014 (https://arxiv.org/abs/1406.2199), with TSN (https://arxiv.org/abs/1608.00859) in both
streams and its fusion weights: flow counts one and a half times as much as RGB. With ``shift`` both streams are TSM
(https://arxiv.org/abs/1811.08383) instead. The streams may be trained together, or separately and then joined by their
files (``rgb_weights``, ``flow_weights``) or by their scores (``vidact fuse``).

Shapes: B videos, T frames, C channels (RGB first, then flow fields x, y, x, y, …), H x W pixels, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.models import tsm, tsn
from vidact.models.backbones import check_clip
from vidact.models.clip_network import ClipNetwork, VectorNetwork
from vidact.models.weights import builder, load_strictly, read


class TwoStream(nn.Module):
    """A late fusion of an RGB and a flow network.

    Args:
        rgb: a clip network on RGB.
        flow: a clip network on flow, for the same classes.
        fusion: weights of the RGB and the flow scores.
        scores: the scores that are added, "logits" or "softmax". With "softmax" the output is the logarithm of the
            weighted mean probability, so that it can be used as logits.
    """

    def __init__(
        self, rgb: nn.Module, flow: nn.Module, fusion: tuple[float, float] = (1.0, 1.5), scores: str = "logits"
    ) -> None:
        super().__init__()
        if scores not in ("logits", "softmax"):
            raise ValueError(f"scores is {scores!r}; streams are fused by 'logits' or 'softmax'")
        if len(fusion) != 2 or min(fusion) < 0 or sum(fusion) <= 0:
            raise ValueError(f"fusion is {tuple(fusion)}; it takes two weights, RGB and flow, neither below zero")
        if not isinstance(rgb, ClipNetwork) or not isinstance(flow, ClipNetwork):
            raise ValueError("a stream is a clip network, with num_classes and input; build one with vidact.models")
        if rgb.num_classes != flow.num_classes:
            raise ValueError(f"the RGB stream has {rgb.num_classes} classes and the flow stream {flow.num_classes}")
        self.rgb = rgb
        self.flow = flow
        self.fusion = (float(fusion[0]), float(fusion[1]))
        self.scores = scores
        self.num_classes = rgb.num_classes
        self.input = joint_input(rgb.input, flow.input)
        if isinstance(rgb, VectorNetwork) and isinstance(flow, VectorNetwork):
            self.dim = rgb.dim + flow.dim

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, T, C, H, W)."""
        rgb, flow = (network(part) for network, part in self.streams(clip))
        if self.scores == "logits":
            return self.fusion[0] * rgb + self.fusion[1] * flow
        logs = [math.log(weight / sum(self.fusion)) if weight else -math.inf for weight in self.fusion]
        parts = [stream.log_softmax(dim=1) + log for stream, log in zip((rgb, flow), logs, strict=True)]
        return torch.logsumexp(torch.stack(parts), dim=0)  # (2, B, K) → (B, K)

    def features(self, clip: Tensor) -> Tensor:
        """Return the concatenated vectors of both streams (B, D_rgb + D_flow)."""
        return torch.cat([network.features(part) for network, part in self.streams(clip)], dim=1)

    def streams(self, clip: Tensor) -> list[tuple[Any, Tensor]]:
        check_clip(clip, self.input)
        rgb, flow = clip.split([self.input.rgb_channels, 2 * self.input.flow_fields], dim=2)
        return [(self.rgb, rgb), (self.flow, flow)]


def joint_input(rgb: ClipInput, flow: ClipInput) -> ClipInput:
    """Return one input that contains the channels of both streams."""
    if rgb.flow_fields or flow.rgb_channels:
        raise ValueError("the first stream takes RGB only and the second flow only")
    for name in ("size", "scale", "resize"):
        if getattr(rgb, name) != getattr(flow, name):
            raise ValueError(
                f"the streams disagree on {name}: {getattr(rgb, name)} for RGB, {getattr(flow, name)} for flow; "
                "both see the same crop of the same clip"
            )
    if None not in (rgb.frames, flow.frames) and rgb.frames != flow.frames:
        raise ValueError(f"the RGB stream is made for {rgb.frames} frames and the flow stream for {flow.frames}")

    def every(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
        return values * (channels // len(values))

    return dataclasses.replace(
        rgb,
        frames=rgb.frames or flow.frames,
        channels=rgb.channels + flow.channels,
        flow_fields=flow.flow_fields,
        mean=every(rgb.mean, rgb.channels) + every(flow.mean, flow.channels),
        std=every(rgb.std, rgb.channels) + every(flow.std, flow.channels),
    )


def _with_trained(
    rgb: nn.Module,
    flow: nn.Module,
    rgb_weights: str | None,
    flow_weights: str | None,
    fusion: tuple[float, float],
    scores: str,
) -> TwoStream:
    """Join the streams after loading each from its trained vidact file, if given; the file must fit completely."""
    trained: list[tuple[str, list[str]]] = []  # path, classes
    for network, path in ((rgb, rgb_weights), (flow, flow_weights)):
        if path is not None:
            state_dict, record = read(path)
            load_strictly(network, state_dict, source=path)
            if record is not None and record.classes:
                trained.append((path, record.classes))
    if len(trained) == 2 and trained[0][1] != trained[1][1]:
        (path_a, classes_a), (path_b, classes_b) = trained
        at = next((i for i, (a, b) in enumerate(zip(classes_a, classes_b, strict=False)) if a != b), 0)
        raise ValueError(
            f"{path_a} and {path_b} were trained on different class lists, or on one list in two orders: "
            f"class {at} is {classes_a[at]!r} in the first and {classes_b[at]!r} in the second"
        )
    return TwoStream(rgb, flow, fusion, scores)


def _streams(
    sizes: tuple[Callable[..., nn.Module], Callable[..., nn.Module]],
    shift: str | None,
    num_classes: int,
    weights: str | None,
    size: int,
    dropout: float,
    flow_fields: int,
    rgb_weights: str | None,
    flow_weights: str | None,
) -> tuple[nn.Module, nn.Module]:
    """Return the RGB and the flow stream, built by the TSN or, with ``shift``, the TSM function of one size."""
    build, options = (sizes[0], {}) if shift is None else (sizes[1], {"shift": shift})
    # A stream that is loaded from a trained file needs no other weights, and no download.
    starts = [None if trained else weights for trained in (rgb_weights, flow_weights)]
    rgb = build(num_classes, weights=starts[0], size=size, dropout=dropout, **options)
    flow = build(
        num_classes, weights=starts[1], size=size, dropout=dropout, modality="flow", flow_fields=flow_fields, **options
    )
    return rgb, flow


@builder
def two_stream_resnet18(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    flow_fields: int = 5,
    fusion: tuple[float, float] = (1.0, 1.5),
    scores: str = "logits",
    rgb_weights: str | None = None,
    flow_weights: str | None = None,
    shift: str | None = None,
) -> TwoStream:
    """Two ResNet-18, TSN or TSM.

    Args:
        num_classes: number of classes K.
        weights: "imagenet" or a local file, for both backbones; None for random weights.
        size: crop side in pixels.
        dropout: dropout rate before each classifier.
        flow_fields: number of consecutive flow fields per segment in the flow stream's input.
        fusion: weights of the RGB and the flow scores.
        scores: the scores that are added, "logits" or "softmax".
        rgb_weights: the vidact file of a trained ``tsn_resnet18`` (``tsm_resnet18`` with ``shift``), loaded completely.
        flow_weights: the same with ``modality="flow"``.
        shift: None for TSN streams; "bidirectional" or "causal" for TSM streams.
    """
    sizes = (tsn.tsn_resnet18, tsm.tsm_resnet18)
    rgb, flow = _streams(sizes, shift, num_classes, weights, size, dropout, flow_fields, rgb_weights, flow_weights)
    return _with_trained(rgb, flow, rgb_weights, flow_weights, fusion, scores)


@builder
def two_stream_resnet50(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    flow_fields: int = 5,
    fusion: tuple[float, float] = (1.0, 1.5),
    scores: str = "logits",
    rgb_weights: str | None = None,
    flow_weights: str | None = None,
    shift: str | None = None,
) -> TwoStream:
    """Two ResNet-50, TSN or TSM; arguments as in ``two_stream_resnet18``."""
    sizes = (tsn.tsn_resnet50, tsm.tsm_resnet50)
    rgb, flow = _streams(sizes, shift, num_classes, weights, size, dropout, flow_fields, rgb_weights, flow_weights)
    return _with_trained(rgb, flow, rgb_weights, flow_weights, fusion, scores)


@builder
def two_stream_mobilenet_v2(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    flow_fields: int = 5,
    fusion: tuple[float, float] = (1.0, 1.5),
    scores: str = "logits",
    rgb_weights: str | None = None,
    flow_weights: str | None = None,
    shift: str | None = None,
) -> TwoStream:
    """Two MobileNetV2, TSN or TSM; arguments as in ``two_stream_resnet18``."""
    sizes = (tsn.tsn_mobilenet_v2, tsm.tsm_mobilenet_v2)
    rgb, flow = _streams(sizes, shift, num_classes, weights, size, dropout, flow_fields, rgb_weights, flow_weights)
    return _with_trained(rgb, flow, rgb_weights, flow_weights, fusion, scores)


@builder
def two_stream_bn_inception(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.8,
    flow_fields: int = 5,
    fusion: tuple[float, float] = (1.0, 1.5),
    scores: str = "logits",
    rgb_weights: str | None = None,
    flow_weights: str | None = None,
) -> TwoStream:
    """Two TSN-BN-Inception, the paper's pair; arguments as in ``two_stream_resnet18``."""
    rgb = tsn.tsn_bn_inception(num_classes, None if rgb_weights else weights, size, dropout)
    flow = tsn.tsn_bn_inception(num_classes, None if flow_weights else weights, size, dropout, "flow", flow_fields)
    return _with_trained(rgb, flow, rgb_weights, flow_weights, fusion, scores)


@builder
def two_stream_resnet_tiny(
    num_classes: int,
    weights: str | None = None,
    size: int = 64,
    dropout: float = 0.0,
    width: int = 16,
    flow_fields: int = 5,
    fusion: tuple[float, float] = (1.0, 1.5),
    scores: str = "logits",
    rgb_weights: str | None = None,
    flow_weights: str | None = None,
) -> TwoStream:
    """Two four-block networks for tests and CPU demos; arguments as in ``two_stream_resnet18``."""
    rgb = tsn.tsn_resnet_tiny(num_classes, weights, size, dropout, width)
    flow = tsn.tsn_resnet_tiny(num_classes, weights, size, dropout, width, "flow", flow_fields)
    return _with_trained(rgb, flow, rgb_weights, flow_weights, fusion, scores)
