"""From the outputs of a localiser to events: candidates, suppression, voting, and where tokens lie in time.

Follows the decoding of ActionFormer (https://github.com/happyharrycn/actionformer_release, MIT) and TriDet
(https://github.com/dingfengshi/TriDet, MIT), which agree but for the weights of the voting. Different here: all classes
are suppressed at once with tensors, on any device and in any precision; of equal scores the earlier row comes first.

Rows of events are (start, end, class, score). Their times are on the grid of the tokens until ``Grid.seconds``.

Shapes: B videos, T tokens, K actions, n candidates, m events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from vidact.events import Detection

Numbers = TypeVar("Numbers", float, np.ndarray, Tensor)
NARROW = 1e-6  # added to the lengths of segments in the overlap of the suppression, as published
CHECKED_EVERY = 32  # steps between two looks at how many candidates are left


@dataclass(frozen=True)
class Grid:
    """Where features lie in time: number g is the centre of the window of frames that begins at frame g · ``stride``.

    vidact's own token t covers t / r to (t + 1) / r seconds: ``Grid.of(r)``. Events may begin before g = 0 and end
    after the last feature's centre.

    Args:
        stride: frames from one feature to the next.
        frames: frames that a feature is computed from.
        fps: frames a second.
    """

    stride: float
    frames: float
    fps: float

    def __post_init__(self) -> None:
        for name in ("stride", "frames", "fps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a number above 0")

    @classmethod
    def of(cls, tokens_per_second: float) -> Grid:
        """Return the grid of tokens that touch and do not overlap, as ``vidact extract`` makes them."""
        return cls(1.0, 1.0, tokens_per_second)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Grid:
        """Return the grid of features with this features.json: its key ``grid``, or else ``of`` its rate.

        Raises KeyError where it has neither, ValueError where the two do not agree.
        """
        values, rate = record.get("grid"), record.get("tokens_per_second")
        if values is None:
            return cls.of(record["tokens_per_second"])
        grid = cls(float(values["stride"]), float(values["frames"]), float(values["fps"]))
        if rate is not None and abs(grid.tokens_per_second - rate) > 1e-6 * rate:
            raise ValueError(
                f"it says {rate:g} tokens per second and a stride of {grid.stride:g} frames at {grid.fps:g} frames a "
                f"second, which are {grid.tokens_per_second:g}; correct one of them"
            )
        return grid

    @property
    def tokens_per_second(self) -> float:
        """The number of features a second."""
        return self.fps / self.stride

    @property
    def start_s(self) -> float:
        """The second at which the share of feature 0 begins, half a stride before its centre; it may be negative.

        A sequence of such features starts there: ``Grid.of(rate).seconds(g) + start_s`` is ``seconds(g)``.
        """
        return 0.5 * (self.frames - self.stride) / self.fps

    def seconds(self, places: Numbers) -> Numbers:
        """Return the seconds at ``places`` of the grid, which need not be whole."""
        return (places * self.stride + 0.5 * self.frames) / self.fps

    def places(self, seconds: Numbers) -> Numbers:
        """Return the places on the grid of ``seconds``; the inverse of ``seconds``."""
        return (seconds * self.fps - 0.5 * self.frames) / self.stride


@dataclass(frozen=True)
class Decoding:
    """How outputs become events; the default values are those of ActionFormer on THUMOS'14.

    Args:
        min_score_before: candidates must have a higher score before the suppression, from 0 to 1.
        top_k_per_level: candidates of each level, the best ones.
        min_length: candidates must be longer, on the grid.
        nms: "soft" lowers the scores of candidates by their overlap with better ones (Gaussian), "hard" drops those
            that overlap a better one, "none" keeps all.
        per_class: suppress within each class, otherwise over all classes together.
        sigma: soft: a score is multiplied by exp(-overlap² / sigma).
        min_score: a score that falls below it is dropped; with "hard", scores must be higher. "soft" keeps the best
            candidate (of each class) whatever its score.
        max_events: events of a video, the best ones; None keeps all.
        overlap: hard: the overlap (intersection over union) from which a candidate is dropped.
        voting_overlap: each event becomes the weighted mean of all candidates that overlap it by at least this; None is
            without voting. Only where the suppression is over all classes; within classes it is ignored, as published.
        voting_weight: what candidates weigh in it: "score and overlap" is their product (ActionFormer), "score" the
            score alone (TriDet).
    """

    min_score_before: float = 0.001
    top_k_per_level: int = 2000
    min_length: float = 0.05
    nms: Literal["soft", "hard", "none"] = "soft"
    per_class: bool = True
    sigma: float = 0.5
    min_score: float = 0.001
    max_events: int | None = 200
    overlap: float = 0.1
    voting_overlap: float | None = None
    voting_weight: Literal["score and overlap", "score"] = "score and overlap"

    def __post_init__(self) -> None:
        if self.nms not in ("soft", "hard", "none"):
            raise ValueError(f"nms is {self.nms!r}; it can be 'soft', 'hard' or 'none'")
        if self.voting_weight not in ("score and overlap", "score"):
            raise ValueError(f"voting_weight is {self.voting_weight!r}; it can be 'score and overlap' or 'score'")
        for name in ("min_score_before", "min_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; scores lie from 0 to 1")
        for name in ("overlap", "voting_overlap"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} is {value}; a temporal overlap is above 0 and at most 1")
        for name in ("top_k_per_level", "max_events"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; at least 1 event is kept")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma is {self.sigma}; it is a number above 0")
        if not self.min_length >= 0:
            raise ValueError(f"min_length is {self.min_length}; a length is 0 or more")


Levels = Sequence[tuple[Tensor, Tensor, int, Tensor]]


def decode(levels: Levels, settings: Decoding) -> list[Tensor]:
    """Return the events of each video on the grid, B tensors (m, 4): start, end, class, score, the best first.

    Args:
        levels: of each level the logits (B, T, K), the distances to start and end (B, T, 2), or (B, T, K, 2) of each
            class, in strides of the level, the stride in tokens, and the mask (B, T), True where the video is.
        settings: how outputs become events.
    """
    return [suppress(rows, settings) for rows in candidates(levels, settings)]


def candidates(levels: Levels, settings: Decoding) -> list[Tensor]:
    """Return the candidates of each video before the suppression, B tensors (n, 4): start, end, class, score.

    They are in the order of the levels, and within a level by falling score. Arguments as in ``decode``. Raises
    ValueError where a logit or distance of a video is not finite.
    """
    if not levels:
        raise ValueError("there is no level, so there are no outputs to decode")
    rows: list[list[Tensor]] = [[] for _ in levels[0][0]]
    for number, (logits, distances, stride, mask) in enumerate(levels):
        is_inside = mask.bool()
        for values, name in ((logits, "logits"), (distances, "distances")):
            if not values[is_inside].isfinite().all():
                raise ValueError(
                    f"the {name} of level {number} are not finite; were the features, or the weights, NaN?"
                )
        for video, into in enumerate(rows):
            into.append(_candidates_of_level(logits[video], distances[video], stride, is_inside[video], settings))
    return [torch.cat(parts) for parts in rows]


def _candidates_of_level(
    logits: Tensor, distances: Tensor, stride: int, is_inside: Tensor, settings: Decoding
) -> Tensor:
    """Return the candidates (n, 4) of one level of one video; ``logits`` (T, K), ``is_inside`` (T,)."""
    num_classes = logits.shape[1]
    scores = (logits.float().sigmoid() * is_inside[:, None]).flatten()  # place by place, all classes of each
    passing = (scores > settings.min_score_before).nonzero()[:, 0]
    order = scores[passing].sort(descending=True, stable=True).indices[: settings.top_k_per_level]
    index = passing[order]
    place, label = index // num_classes, index % num_classes
    reach = (distances[place] if distances.dim() == 2 else distances[place, label]).float()  # (n, 2)
    start, end = (place - reach[:, 0]) * stride, (place + reach[:, 1]) * stride
    rows = torch.stack([start, end, label.float(), scores[index]], 1)
    return rows[end - start > settings.min_length]


def suppress(rows: Tensor, settings: Decoding) -> Tensor:
    """Return the events (m, 4) that are left of the candidates ``rows`` (n, 4), by falling score.

    Args:
        rows: start, end, class and score of each candidate; the score is 0 or more.
        settings: which suppression; the limits of ``candidates`` are not applied again.
    """
    if rows.dim() != 2 or rows.shape[1] != 4:
        raise ValueError(f"candidates have the shape {tuple(rows.shape)}; rows are start, end, class and score")
    if not rows.isfinite().all():
        raise ValueError("a candidate has a start, end or score that is not finite")
    if (rows[:, 0] > rows[:, 1]).any():
        raise ValueError("a candidate ends before it starts")
    if (rows[:, 3] < 0).any():
        raise ValueError("a candidate has a score below 0; scores lie from 0 to 1. Are these logits?")
    # Rounded to half precision, long videos would have places 8 tokens apart; Apple's GPUs have no double precision.
    exact = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)
    if settings.nms == "none":
        events = exact
    else:
        if settings.nms == "hard":
            exact = exact[exact[:, 3] > settings.min_score]
        events = _greedy(exact, settings)
    events = events[events[:, 3].sort(descending=True, stable=True).indices[: settings.max_events]]
    if settings.nms != "none" and not settings.per_class and settings.voting_overlap is not None:
        events = _voted(events, rows.to(exact), settings.voting_overlap, settings.voting_weight)
    return events.to(rows.dtype)


def _greedy(rows: Tensor, settings: Decoding) -> Tensor:
    """Take the best candidate of each group again and again, lowering the others; a group is a class, or all rows.

    The groups are rows of one matrix, so that a step works on all of them. Scores are logarithms: a step of the soft
    suppression is then a subtraction, and the drop of the hard one is an infinite one.
    """
    if not len(rows):
        return rows
    group = rows[:, 2].long() if settings.per_class else torch.zeros_like(rows[:, 2], dtype=torch.long)
    _, group = group.unique(return_inverse=True)
    sizes = group.bincount()
    order = group.argsort(dim=0, stable=True)
    column = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[group[order]]
    width = int(sizes.max())
    index = torch.full((len(sizes), width), -1, device=rows.device)
    index[group[order], column] = order
    start, end = rows[:, 0][index], rows[:, 1][index]  # (groups, width)
    score = rows[:, 3][index].log().masked_fill_(index < 0, -math.inf)
    floor = -math.inf
    if settings.nms == "soft":
        floor = math.log(settings.min_score) if settings.min_score else -math.inf
    steps = min(width, settings.max_events or width)
    taken = torch.full((len(sizes), steps), -1, device=rows.device)
    taken_score = torch.zeros((len(sizes), steps), dtype=rows.dtype, device=rows.device)
    for step in range(steps):
        best_score, best = score.max(1, keepdim=True)  # of equal scores the first
        # Only the first of a group may have a score of 0, whose logarithm is that of an absent candidate.
        is_left = best_score[:, 0] > -math.inf if step else torch.ones_like(best[:, 0], dtype=torch.bool)
        taken[:, step] = torch.where(is_left, index.gather(1, best)[:, 0], -1)
        taken_score[:, step] = best_score[:, 0].exp()
        overlap = _overlap(start.gather(1, best), end.gather(1, best), start, end, NARROW)
        if settings.nms == "soft":
            score -= overlap.square_().div_(settings.sigma)
        else:
            score.masked_fill_(overlap >= settings.overlap, -math.inf)
        score.masked_fill_(score < floor, -math.inf)
        score.scatter_(1, best, -math.inf)
        if step % CHECKED_EVERY == CHECKED_EVERY - 1:
            is_candidate = score > -math.inf
            longest = int(is_candidate.sum(1).max())
            if not longest:
                break
            if longest < 0.7 * score.shape[1]:
                keep = is_candidate.logical_not().byte().argsort(dim=1, stable=True)[:, :longest]
                index, start, end, score = (values.gather(1, keep) for values in (index, start, end, score))
    is_event = taken >= 0
    events = rows[taken[is_event]].clone()
    events[:, 3] = taken_score[is_event]
    return events


def _overlap(start: Tensor, end: Tensor, starts: Tensor, ends: Tensor, narrow: float) -> Tensor:
    """Return the intersection over union of segments that broadcast, with ``narrow`` added to each length."""
    shared = (torch.minimum(end, ends) - torch.maximum(start, starts)).clamp_(min=0)
    union = (end - start + narrow) + (ends - starts + narrow) - shared
    return torch.where(union > 0, shared / union, 0.0)


def _voted(events: Tensor, rows: Tensor, least: float, weight: str) -> Tensor:
    """Return ``events`` with the weighted mean times of the ``rows`` that overlap each by ``least`` or more."""
    voted = events.clone()
    # The matrix of overlaps has a row an event; 4 million entries are 32 MB.
    for block in torch.arange(len(events), device=events.device).split(max(1, 4_000_000 // max(1, len(rows)))):
        overlap = _overlap(events[block, 0, None], events[block, 1, None], rows[:, 0], rows[:, 1], 0.0)
        weights = rows[:, 3] * (overlap >= least) * (overlap if weight == "score and overlap" else 1.0)
        total = weights.sum(1, keepdim=True)
        voted[block, :2] = torch.where(total > 0, weights @ rows[:, :2] / total, events[block, :2])
    return voted


def detections(
    rows: Tensor,
    video: str,
    classes: Sequence[str],
    grid: Grid,
    duration_s: float,
    start_s: float = 0.0,
    margin_s: float = 0.0,
) -> list[Detection]:
    """Return the events (m, 4) of one video in seconds, cut to the video, in the order of the rows.

    Times are cut after the suppression, as published; an event that lies outside the video and so has no length left is
    dropped, which the published code does not do.

    Args:
        rows: start and end on the grid, class and score, as ``decode`` returns them.
        classes: the name of each class, without the background.
        duration_s: the length of the video.
        start_s: added to all times, for a part of a longer video.
        margin_s: how far the video reaches beyond 0 and ``duration_s``: 0, or the start of the grid where times count
            from there (``Grid.start_s``).
    """
    times_s = grid.seconds(rows[:, :2].double().cpu()).clamp(-margin_s, duration_s + margin_s)
    return [
        Detection(video, start_s + begin, start_s + end, classes[int(label)], score)
        for (begin, end), (label, score) in zip(times_s.tolist(), rows[:, 2:].tolist(), strict=True)
        if begin < end
    ]
