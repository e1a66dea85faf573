"""The types that data, networks and tasks share: batches, the input of a clip network, and scores from logits.

Shapes: B videos, V views, T frames or tokens, C channels, H x W pixels, D features of a token, K classes.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

AMBIGUOUS_CLASS = -1  # the action of an ambiguous stretch in ``SequenceBatch.truth``


@dataclass(frozen=True)
class ClipInput:
    """The input of a clip network; the transform reads it, so that no mean is ever typed by hand.

    Args:
        frames: the clip length T of the weights; None when any length works.
        size: the side of the square crop in pixels.
        mean: subtracted after scaling; its entries repeat until they fill ``channels``.
        std: the divisor after that; repeats like ``mean``.
        channels: channels of one time step: RGB images first, then flow fields (x, y, x, y, …).
        images_per_frame: consecutive RGB images stacked on the channel axis of one time step (TDN: 5).
        flow_fields: consecutive flow fields stacked on the channel axis of one time step (TSN: 5); 0 is RGB only.
        flow_bound: the motion, in pixels a frame, at the ends of a field's levels 0 … 255: 20 in published work; less
            for small pictures and slow motion, which use only a few levels with 20.
        order: the order of the colours, "rgb" or "bgr".
        scale: the value of pixel level 255 before the mean is subtracted: 1.0 for 0…1 networks, 255.0 for Caffe's.
        resize: the short side in pixels to which a test view is resized before it is cropped; None is
            ``size * 256 // 224``.
        fps: frames a second of the videos that the published weights saw; None where the sampler alone decides it.
    """

    frames: int | None = None
    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = 3
    images_per_frame: int = 1
    flow_fields: int = 0
    flow_bound: float = 20.0
    order: str = "rgb"
    scale: float = 1.0
    resize: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"order is {self.order!r}; a network takes 'rgb' or 'bgr'")
        if self.rgb_channels not in (0, 3 * self.images_per_frame):
            raise ValueError(
                f"{self.channels} channels cannot hold {self.images_per_frame} RGB images (or none) "
                f"and {self.flow_fields} flow fields of two channels"
            )
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps is {self.fps}; frames a second are more than 0, or None")
        if not self.flow_bound > 0:
            raise ValueError(f"flow_bound is {self.flow_bound}; it is the greatest motion seen, in pixels a frame")
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or self.channels % len(values):
                raise ValueError(f"{name} has {len(values)} entries, which do not repeat to {self.channels} channels")

    @property
    def rgb_channels(self) -> int:
        """The number of RGB channels of one time step: 3, 15 for TDN, 0 for a flow network."""
        return self.channels - 2 * self.flow_fields

    @property
    def published_frames(self) -> int | None:
        """The number of frames of a clip of Kinetics, which lasts 10 seconds, at ``fps``; None without a rate."""
        return None if self.fps is None else round(10 * self.fps)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint; ``ClipInput(**d)`` restores the object."""
        values = dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.fps is None:  # the records in older stores of features have no such entry
            del values["fps"]
        return values


def probabilities(logits: Tensor, activation: str) -> Tensor:
    """Turn logits (…, K) into float32 scores in 0…1: for training, scoring, prediction and streams alike.

    Args:
        activation: "softmax": one class at a time; "sigmoid": each class by itself.
    """
    if activation not in ("softmax", "sigmoid"):
        raise ValueError(f"scores are {activation!r}; they are 'softmax' or 'sigmoid' of the logits")
    return logits.float().sigmoid() if activation == "sigmoid" else logits.float().softmax(-1)


@dataclass
class ClipBatch:
    """The clips of several videos.

    ``clips`` are (B, V, T, C, H, W) float32, normalised; ``targets`` are (B,) class indices, or (B, K) 0/1 for
    multi-label data; ``ids`` name the videos. In training V is 1. ``skipped`` maps the ids of videos that could not be
    read to the reason; they are not among the B.
    """

    clips: Tensor
    targets: Tensor
    ids: list[str]
    skipped: dict[str, str] = field(default_factory=dict)

    def pin_memory(self) -> ClipBatch:
        return ClipBatch(self.clips.pin_memory(), self.targets.pin_memory(), self.ids, self.skipped)

    def __len__(self) -> int:
        return len(self.clips)


@dataclass
class SequenceBatch:
    """A stretch of features from each of several videos, with the labels of its last part.

    Row i of ``targets`` belongs to row ``history + i`` of ``features``; the last ``lookahead`` rows of ``targets`` lie
    after the last feature.

    Args:
        features: (B, history + window, D) float32. Tokens before a video's start repeat its first one, tokens after its
            end its last one.
        targets: (B, window + lookahead, 1 + K) float32 multi-hot, the background first.
        ignore: (B, window + lookahead) bool: ambiguous tokens, and rows beyond the video's end.
        start: (B,) int64, the first row of ``features`` that lies in the video.
        ids: the name of each video.
        end: (B,) int64, the row of ``features`` after the last one that lies in the video; None is the length of all.
        lookahead: the number of rows of ``targets`` after the last feature.
        truth: of each video the events that touch its ``features``, (n, 3) float32: start and end in seconds from the
            beginning of row 0, as they were labelled (not rounded to tokens, and not cut to the rows), and the action
            from 0 to K - 1, or ``AMBIGUOUS_CLASS`` for a stretch that is no action and no background. Sorted by start.
            None where the data set has no rate of tokens.
    """

    features: Tensor
    targets: Tensor
    ignore: Tensor
    start: Tensor
    ids: list[str]
    end: Tensor = None  # type: ignore[assignment]  # __post_init__ replaces None
    lookahead: int = 0
    truth: list[Tensor] | None = None

    def __post_init__(self) -> None:
        if self.end is None:
            self.end = torch.full_like(self.start, self.features.shape[1])

    @property
    def window(self) -> int:
        """The number of features, counted from the end, that have labels."""
        return self.targets.shape[1] - self.lookahead

    @property
    def history(self) -> int:
        """The number of features before the first label."""
        return self.features.shape[1] - self.window

    def pin_memory(self) -> SequenceBatch:
        return dataclasses.replace(
            self,
            features=self.features.pin_memory(),
            targets=self.targets.pin_memory(),
            ignore=self.ignore.pin_memory(),
            start=self.start.pin_memory(),
            end=self.end.pin_memory(),
            truth=None if self.truth is None else [rows.pin_memory() for rows in self.truth],
        )

    def __len__(self) -> int:
        return len(self.features)


def parse_views(views: str) -> tuple[int, int]:
    """Return the numbers of clips and crops: ``"10x3"`` is ten clips over time with three crops each."""
    match = re.fullmatch(r"(\d+)x(\d+)", views)
    if not match or int(match[1]) < 1:
        raise ValueError(f"views is {views!r}; write clips x crops, such as 1x1, 2x3 or 10x3")
    return int(match[1]), int(match[2])
