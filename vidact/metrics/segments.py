"""Metrics of a label for every moment: frame accuracy, edit score and F1 of segments (Lea et al. 2017).

The matching of MS-TCN's evaluation, which later papers use: counts are summed over videos, and a segment ends after its
last frame. ASFormer's, MS-TCN++'s and DiffAct's code end the last segment of a video one frame earlier. Figures are
percentages, as papers print them. Those of 50Salads and Breakfast count their background (``action_start`` and
``action_end``, ``SIL``) as actions, those of GTEA leave ``background`` out.

Shapes: V videos, T frames of a video, O overlaps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vidact.metrics.event_ap import TimedLabel, check_times, describe

UNLABELLED = -1  # the number of a frame that belongs to no segment


@dataclass(frozen=True, eq=False)
class SegmentScores:
    """Figures of V videos, in percent, with the counts at each of the ``overlaps`` (O,), also in percent.

    ``right``, ``false`` and ``missed`` (O,) are the predicted segments that match a true one, those that do not, and
    the true segments without a match.
    """

    accuracy: float
    edit: float
    overlaps: tuple[float, ...]
    right: np.ndarray
    false: np.ndarray
    missed: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """Return F1 at each overlap, (O,); 0 where there is no segment at all."""
        total = 2 * self.right + self.false + self.missed
        return 100 * np.divide(2.0 * self.right, total, out=np.zeros(len(total)), where=total > 0)


def segment_scores(
    predicted: Sequence[ArrayLike],
    truth: Sequence[ArrayLike],
    background: Collection[Any] | str | int = (),
    overlaps: Sequence[float] = (10, 25, 50),
    ignore: Sequence[ArrayLike] | None = None,
) -> SegmentScores:
    """Return accuracy over all frames together, the mean edit score of the videos, and F1 of all segments together.

    A segment is a run of one label. Edit score: 100 · (1 - distance / longer length) of the two lists of labels, where
    the distance is Levenshtein's; two empty lists score 100. F1: in the order of time, a predicted segment is right if
    the true one of its label that it overlaps most has an overlap of k % or more and is not matched yet.

    Args:
        predicted: the label of every frame of each video, (T,) numbers or names.
        truth: the true labels, in the same order of videos.
        background: the label, or labels, whose runs are no segments; their frames count in the accuracy.
        overlaps: least overlaps in percent, above 0 up to 100.
        ignore: (T,) of each video, True for frames that count nowhere: they end a segment of either side.
    """
    levels = np.array(overlaps, dtype=np.float64)
    if not levels.size or not ((levels > 0) & (levels <= 100)).all():
        raise ValueError(f"overlaps are {tuple(overlaps)}; they are percentages above 0, up to 100")
    if not len(truth) or len(predicted) != len(truth) or (ignore is not None and len(ignore) != len(truth)):
        sizes = f"{len(predicted)} videos of predictions and {len(truth)} of truth"
        raise ValueError(sizes + (f", {len(ignore)} of ignore" if ignore is not None else "") + " cannot be matched")
    background_labels = {background} if isinstance(background, (str, int)) else set(background)
    equal = frames = 0
    edits: list[float] = []
    right, false, missed = (np.zeros(len(levels), dtype=int) for _ in range(3))
    for number, (answers, labels) in enumerate(zip(predicted, truth, strict=True)):
        counted = None if ignore is None else ~np.asarray(ignore[number], dtype=bool)
        numbers, is_background = _numbered(_labels_of(answers), _labels_of(labels), counted, background_labels, number)
        counts = np.full(numbers.shape[1], True) if counted is None else counted
        equal += int((numbers[0] == numbers[1])[counts].sum())
        frames += int(counts.sum())
        ours, true = (_segments(np.where(counts & ~is_background[row], row, UNLABELLED)) for row in numbers)
        edits.append(_edit_score(ours[0], true[0]))
        for at, level in enumerate(levels):
            hits = _num_matched(ours, true, level / 100)
            right[at] += hits
            false[at] += len(ours[0]) - hits
            missed[at] += len(true[0]) - hits
    if not frames:
        raise ValueError("no frame counts: all of them are ignored, or the videos are empty")
    return SegmentScores(100 * equal / frames, float(np.mean(edits)), tuple(levels.tolist()), right, false, missed)


def _labels_of(labels: ArrayLike) -> np.ndarray:
    """Return labels as an array of numbers or names; tables hold names as objects."""
    values = np.asarray(labels)
    return values.astype(str) if values.dtype.kind == "O" else values


def _numbered(
    answers: np.ndarray, labels: np.ndarray, counted: np.ndarray | None, background: set[Any], number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return both rows as whole numbers (2, T), and which of these numbers are background."""
    for values, noun in ((answers, "predictions"), (labels, "labels")):
        if values.ndim != 1:
            raise ValueError(f"video {number} has {noun} of the shape {values.shape}; give one label a frame, (T,)")
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ValueError(f"video {number} has NaN {noun}; give one label a frame")
    if len(answers) != len(labels):
        raise ValueError(
            f"video {number} has {len(answers)} predictions and {len(labels)} labels; bring them to one rate (repeat "
            "each prediction where features were taken of every second frame) and cut or fill the end"
        )
    if counted is not None and counted.shape != labels.shape:
        raise ValueError(f"video {number} has {len(labels)} labels and {counted.size} values of ignore")
    if (answers.dtype.kind in "US") != (labels.dtype.kind in "US"):
        raise ValueError(f"video {number} has names on one side and numbers on the other; give the same labels")
    both = np.stack([answers, labels])
    names, numbers = np.unique(both, return_inverse=True)
    return numbers.reshape(both.shape), np.array([name in background for name in names.tolist()], dtype=bool)


def _segments(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return label, first frame and frame after the last one of each segment, all (n,)."""
    borders = np.flatnonzero(np.diff(labels, prepend=UNLABELLED, append=UNLABELLED))
    borders = np.unique(np.concatenate([[0], borders, [len(labels)]])) if len(labels) else np.zeros(1, dtype=int)
    start, end = borders[:-1], borders[1:]
    is_segment = labels[start] != UNLABELLED if len(start) else np.zeros(0, dtype=bool)
    start, end = start[is_segment], end[is_segment]
    return labels[start] if len(start) else np.zeros(0, dtype=int), start, end


def _edit_score(ours: np.ndarray, true: np.ndarray) -> float:
    """Return the edit score of two lists of labels, in percent."""
    longer = max(len(ours), len(true))
    if not longer:
        return 100.0
    columns = np.arange(len(true) + 1)
    distance = columns
    for row, label in enumerate(ours, 1):
        changed = np.minimum(distance[1:] + 1, distance[:-1] + (true != label))
        # An insertion costs 1 more than its left neighbour: without the columns' numbers, a running minimum.
        distance = np.minimum.accumulate(np.concatenate([[row], changed]) - columns) + columns
    return float(100 * (1 - distance[-1] / longer))


def _num_matched(
    ours: tuple[np.ndarray, np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray, np.ndarray], least: float
) -> int:
    """Return how many of the segments ``ours`` match one of ``true``; a segment has no second choice."""
    is_free = np.full(len(true[0]), True)
    for label, start, end in zip(*ours, strict=True):
        # The hull of two segments is their union where they touch; elsewhere the share is negative, never a hit.
        shared = np.minimum(end, true[2]) - np.maximum(start, true[1])
        overlap = shared / (np.maximum(end, true[2]) - np.minimum(start, true[1])) * (true[0] == label)
        best = int(overlap.argmax()) if len(overlap) else -1
        if best >= 0 and overlap[best] >= least and is_free[best]:
            is_free[best] = False
    return int((~is_free).sum())


def frame_labels(
    segments: Iterable[TimedLabel], num_frames: int, frames_per_second: float, background: str = "background"
) -> np.ndarray:
    """Return the label of each frame of one video, (num_frames,) names, from segments that do not overlap.

    A frame has the label of the segment in which its middle lies. Raises ValueError where two segments overlap, or lie
    in different videos.
    """
    if not frames_per_second > 0 or num_frames < 1:
        raise ValueError(f"{num_frames} frames at {frames_per_second:g} a second are no video")
    ordered = sorted(segments, key=lambda segment: (segment.start_s, segment.end_s))
    for segment in ordered:
        check_times(segment)
        if segment.video != ordered[0].video:
            raise ValueError(f"segments of {ordered[0].video} and {segment.video}; label one video at a time")
    for segment, following in itertools.pairwise(ordered):
        # Ends that were computed from frames may differ from the next start in the last digits.
        if following.start_s < segment.end_s - 1e-6:
            raise ValueError(
                f"{describe(segment)} overlaps {describe(following)}; a frame has one label, so segments may not "
                "overlap. event_map scores events that do"
            )
    labels = np.full(num_frames, background, dtype=object)
    for segment in ordered:
        # The middle of frame i is at (i + 0.5) / frames_per_second.
        first, end = (
            max(0, math.ceil(round(time_s * frames_per_second - 0.5, 6))) for time_s in (segment.start_s, segment.end_s)
        )
        labels[first:end] = segment.label
    return labels.astype(str)
