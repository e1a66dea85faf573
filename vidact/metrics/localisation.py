"""Figures of events that were detected with the whole video at hand, and of online detectors' on the same scale.

Shapes: K actions, O overlaps, N numbers of detections.
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidact.metrics.event_ap import (
    AMBIGUOUS,
    EventTimes,
    ScoredLabel,
    TimedLabel,
    check_times,
    describe,
    event_map,
    judge,
    overlaps,
)

THUMOS_TIOUS = (0.3, 0.4, 0.5, 0.6, 0.7)
ACTIVITYNET_TIOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
RECALL_TIOU = 0.5


@dataclass(frozen=True, eq=False)
class EventRecall:
    """The recall ``per_class`` (N, O, K) of the best detections, for the true ``classes``.

    Entry n uses ``numbers[n]`` detections: times the true events in ``recall_at``, a video in ``proposal_recall``,
    where K is 1.
    """

    numbers: tuple[int, ...]
    tiou: tuple[float, ...]
    classes: tuple[str, ...]
    per_class: np.ndarray

    @property
    def per_number(self) -> np.ndarray:
        """Return the mean over overlaps and classes at each number, (N,)."""
        return self.per_class.mean((1, 2))


def recall_at(
    detections: Iterable[ScoredLabel],
    truth: Iterable[TimedLabel],
    times: Sequence[int] = (1, 5),
    tiou: float | Sequence[float] = RECALL_TIOU,
) -> EventRecall:
    """Return Recall@kx (EPIC-Kitchens, Ego4D): the share of true events that k · n detections cover.

    n is the number of true events of the class in the video, and the detections are the k · n of that class and video
    with the highest scores. One detection may cover several events, in which this differs from the matching of
    ``event_map``. The share is taken over all videos of a class.

    Args:
        detections: events with a score; of equal scores the earlier in the list comes first.
        truth: the true events.
        times: the numbers k.
        tiou: the least overlaps, above 0, up to 1.
    """
    levels, ranked, events = _checked(detections, truth, tiou, times, "times")
    by_pair = defaultdict(list)
    for detection in ranked:
        by_pair[detection.label, detection.video].append((detection.start_s, detection.end_s))
    classes = tuple(events.counts)
    covered = np.zeros((len(times), len(levels), len(classes)))
    for (label, video), spans in events.times.items():
        if by_pair[label, video]:
            matrix = overlaps(np.array(by_pair[label, video]), spans)
            for n, multiple in enumerate(times):
                covered[n, :, classes.index(label)] += _num_covered(matrix[: multiple * len(spans)], levels)
    return EventRecall(tuple(times), tuple(levels), classes, covered / list(events.counts.values()))


def proposal_recall(
    detections: Iterable[ScoredLabel],
    truth: Iterable[TimedLabel],
    numbers: Sequence[int] = (1, 5, 10, 50, 100),
    tiou: float | Sequence[float] = ACTIVITYNET_TIOUS,
) -> EventRecall:
    """Return the average recall (AR@AN) of the best detections of each video, whatever their class.

    ActivityNet's code lets each video contribute the same share of its detections, such that they are AN a video on
    average; here each video contributes its AN best. Both are equal where all videos have as many detections.

    Args:
        detections: events with a score; of equal scores the earlier in the list comes first.
        truth: the true events; those labelled "ambiguous" are left out.
        numbers: detections a video, AN.
        tiou: the least overlaps over which recall is averaged, above 0, up to 1.
    """
    levels, ranked, events = _checked(detections, truth, tiou, numbers, "numbers")
    spans_of, times_of = defaultdict(list), defaultdict(list)
    for detection in ranked:
        spans_of[detection.video].append((detection.start_s, detection.end_s))
    for (_, video), spans in events.times.items():
        times_of[video].append(spans)
    covered = np.zeros((len(numbers), len(levels), 1))
    for video, parts in times_of.items():
        if spans_of[video]:
            matrix = overlaps(np.array(spans_of[video]), np.concatenate(parts))
            for n, number in enumerate(numbers):
                covered[n, :, 0] += _num_covered(matrix[:number], levels)
    return EventRecall(tuple(numbers), tuple(levels), ("any",), covered / sum(events.counts.values()))


def _num_covered(matrix: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return how many events (columns) some detection (row) covers at each level, (O,); 1e-9 is for rounding."""
    return (matrix.max(0) >= np.array(levels)[:, None] - 1e-9).sum(1)


def _checked(
    detections: Iterable[ScoredLabel],
    truth: Iterable[TimedLabel],
    tiou: float | Sequence[float],
    numbers: Sequence[int],
    name: str,
) -> tuple[list[float], list[ScoredLabel], EventTimes]:
    """Return the overlaps, the detections by falling score and the true events."""
    levels = np.atleast_1d(np.array(tiou, dtype=np.float64))
    if not levels.size or not ((levels > 0) & (levels <= 1)).all():
        raise ValueError(f"tiou is {tiou}; a temporal overlap is above 0 and at most 1")
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{name} are {tuple(numbers)}; give whole numbers from 1")
    events = EventTimes(truth)
    if not events.counts:
        raise ValueError("the truth has no event of any class, so there is nothing to find")
    candidates = list(detections)
    check_detections(candidates)
    return levels.tolist(), sorted(candidates, key=lambda detection: -detection.score), events


def check_detections(detections: Iterable[ScoredLabel], classes: Sequence[str] | None = None) -> None:
    """Raise ValueError for a NaN score, an end that is not after its start, and, with ``classes``, another label."""
    for detection in detections:
        check_times(detection)
        if math.isnan(detection.score):
            raise ValueError(f"{describe(detection)} has a NaN score, which has no rank")
        if classes is not None:
            _check_label(detection, classes)


def _check_label(event: TimedLabel, classes: Sequence[str]) -> None:
    if event.label not in classes:
        near = difflib.get_close_matches(event.label, classes, 1)
        advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(classes[:8])}"
        advice += ", …" if not near and len(classes) > 8 else ""
        raise ValueError(f"{describe(event)} is of no class; {advice}")


@dataclass(frozen=True)
class MinScore:
    """The least score ``min_score`` of the events to show, and the ``f1`` that they reach."""

    min_score: float
    f1: float


def choose_min_score(
    detections: Iterable[ScoredLabel], truth: Iterable[TimedLabel], tiou: float = RECALL_TIOU
) -> MinScore:
    """Return the least score at which the F1 of events (``event_f1``) is best; of equal ones the highest score.

    It lies midway between the lowest score that is shown and the next lower one, which is 0 for the last. Without
    detections it is 0.
    """
    levels, ranked, events = _checked(detections, truth, tiou, (1,), "numbers")
    if not ranked:
        return MinScore(0.0, 0.0)
    rows_of = defaultdict(list)
    for row, detection in enumerate(ranked):
        rows_of[detection.label].append(row)
    is_right, counts = np.zeros(len(ranked), dtype=bool), np.ones(len(ranked), dtype=bool)
    for rows in rows_of.values():
        # A match depends on the detections with higher scores alone, so one pass serves every least score.
        judged = judge([ranked[row] for row in rows], events, levels[0])
        is_right[rows], counts[rows] = judged.event >= 0, judged.counts
    scores = np.array([detection.score for detection in ranked])
    f1 = 2 * is_right.cumsum() / (counts.cumsum() + sum(events.counts.values()))
    is_last = np.append(scores[1:] < scores[:-1], True)  # of several equal scores
    best = int(np.where(is_last, f1, -1.0).argmax())
    lower = float(scores[best + 1]) if best + 1 < len(scores) else 0.0
    middle = (float(scores[best]) + lower) / 2
    return MinScore(middle if middle > lower else float(scores[best]), float(f1[best]))


def localisation_figures(
    detections: Sequence[ScoredLabel],
    truth: Sequence[TimedLabel],
    classes: Sequence[str],
    tiou: Sequence[float] = THUMOS_TIOUS,
) -> dict[str, Any]:
    """Return the figures of detected events by name, as results.json holds them; rates lie in 0…1.

    ``event_map`` is the plain area, the figure of online detectors so far; ``tiou_map`` is the interpolated one, as the
    literature on whole videos prints it. ``event`` and ``tiou`` have the single overlaps, ``tiou_classes`` those of
    each class of the truth; ``recall_1x`` and ``recall_5x`` are ``recall_at`` an overlap of 0.5, ``proposal_recall``
    has "AR@1" to "AR@100", at the overlaps of ActivityNet.

    Raises ValueError where a label is of no class.
    """
    check_detections(detections, classes)
    for event in truth:
        if event.label.lower() != AMBIGUOUS:
            _check_label(event, classes)
    plain, interpolated = (event_map(detections, truth, tiou, interpolated=way) for way in (False, True))
    recall, proposals = recall_at(detections, truth).per_number, proposal_recall(detections, truth)
    names = [f"tIoU {level:g}" for level in tiou]
    return {
        "event_map": plain.mean,
        "event": dict(zip(names, plain.per_tiou.tolist(), strict=True)),
        "tiou_map": interpolated.mean,
        "tiou": dict(zip(names, interpolated.per_tiou.tolist(), strict=True)),
        "tiou_classes": [
            {"class": name, "mean": float(areas.mean()), **dict(zip(names, areas.tolist(), strict=True))}
            for name, areas in zip(interpolated.classes, interpolated.per_class.T, strict=True)
        ],
        "recall_1x": float(recall[0]),
        "recall_5x": float(recall[1]),
        "proposal_recall": {
            f"AR@{number}": share
            for number, share in zip(proposals.numbers, proposals.per_number.tolist(), strict=True)
        },
    }
