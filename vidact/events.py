"""Scores over time become events, one token at a time: scoring and streaming run the same step.

A class turns on where its smoothed probability reaches ``on`` and off where it falls below ``off``: with ``off`` lower
than ``on`` a wavering score makes one event, not ten. Events too short are never told; gaps too short are bridged.

Token t covers the seconds from t / r to (t + 1) / r at r tokens a second.

Shapes: T tokens, K actions; column 0 of 1 + K probabilities is the background and makes no event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from vidact.metrics.frame_ap import precision_recall


@dataclass(frozen=True)
class Detection:
    """An action that was seen from ``start_s`` to ``end_s``.

    ``score``, from 0 to 1, is the mean smoothed probability over the tokens at which the class was on.
    """

    video: str
    start_s: float
    end_s: float
    label: str
    score: float


@dataclass(frozen=True, eq=False)
class EventState:
    """What a stream has to remember, all arrays (K,); ``EventDetector.step`` returns a new one and keeps the old.

    ``token`` counts the tokens seen; ``smoothed`` are the probabilities that the thresholds see. ``start`` and ``last``
    are the first and the newest token at which an event of the class was on, ``start`` being -1 without an event;
    ``is_on`` is False in a gap that may yet be bridged; ``is_told`` once the event was long enough to be told.
    ``total`` and ``count`` make the score.
    """

    video: str
    token: int
    smoothed: np.ndarray
    start: np.ndarray
    last: np.ndarray
    is_on: np.ndarray
    is_told: np.ndarray
    total: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class EventUpdate:
    """What one token changed.

    ``opened`` holds events as they stand when they have lasted ``min_seconds``, ``closed`` whole ones. Each event is
    opened once and closed once, and what was opened is never taken back.
    """

    opened: list[Detection]
    closed: list[Detection]


class EventDetector:
    """Turns probabilities (1 + K) of one token after the other into events.

    Each stream has its own state: ``state = detector.initial_state(video)``, then for each token
    ``update, state = detector.step(probabilities, state)``, and ``detector.finish(state)`` at the end of a video.

    Args:
        classes: names of the K actions, without the background.
        tokens_per_second: of the scores.
        on: the probability at which a class turns on, above 0; one for all or one for each class.
        off: the probability below which it turns off, at most ``on``; None is 0.6 times ``on``.
        smoothing: s in smoothed_t = s · smoothed_(t-1) + (1 - s) · probability_t, from 0 (none) to below 1; the first
            token is taken as it is. 0.5 is what IDU does to its scores. It costs about s / (1 - s) tokens of delay.
        min_seconds: shorter events are dropped; a live event is told when it has lasted so long.
        merge_seconds: two events of a class with a gap of at most this are one; a live event is closed so much later.
    """

    def __init__(
        self,
        classes: Sequence[str],
        tokens_per_second: float,
        on: float | Sequence[float] = 0.5,
        off: float | Sequence[float] | None = None,
        smoothing: float = 0.0,
        min_seconds: float = 0.0,
        merge_seconds: float = 0.0,
    ) -> None:
        self.classes = tuple(classes)
        if not self.classes:
            raise ValueError("there are no classes, so there can be no events")
        if not tokens_per_second > 0:
            raise ValueError(f"tokens_per_second is {tokens_per_second:g}; it must be above 0")
        _check_smoothing(smoothing)
        for name, value in (("min_seconds", min_seconds), ("merge_seconds", merge_seconds)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value:g}; give a number of seconds from 0 on")
        self.tokens_per_second = tokens_per_second
        self.on = self._thresholds("on", on)
        self.off = 0.6 * self.on if off is None else self._thresholds("off", off)
        if (self.off > self.on).any():
            worst = int((self.off - self.on).argmax())
            raise ValueError(
                f"{self.classes[worst]!r} turns off below {self.off[worst]:g} and on at {self.on[worst]:g}; off is at "
                "most on, or the class would turn off as soon as it is on"
            )
        self.smoothing = smoothing
        # 0.3 s at 10 tokens/s are 3 tokens, not the 4 that 3.0000000000000004 would round up to.
        self._min_tokens = max(1, math.ceil(min_seconds * tokens_per_second - 1e-6))
        self._merge_tokens = math.floor(merge_seconds * tokens_per_second + 1e-6)

    def _thresholds(self, name: str, given: float | Sequence[float]) -> np.ndarray:
        values = np.asarray(given, dtype=np.float64)
        if values.shape not in ((), (len(self.classes),)):
            raise ValueError(
                f"{name} has the shape {values.shape}; give one, or one for each of {len(self.classes)} classes"
            )
        if not ((values > 0) & (values <= 1)).all():
            raise ValueError(f"{name} is {given}; a threshold on probabilities is above 0 and at most 1")
        return np.array(np.broadcast_to(values, len(self.classes)))

    def initial_state(self, video: str) -> EventState:
        """The state of a stream that has seen nothing; ``video`` is written into its detections."""
        k = len(self.classes)
        return EventState(
            video=video,
            token=0,
            smoothed=np.zeros(k),
            start=np.full(k, -1),
            last=np.full(k, -1),
            is_on=np.zeros(k, dtype=bool),
            is_told=np.zeros(k, dtype=bool),
            total=np.zeros(k),
            count=np.zeros(k, dtype=np.int64),
        )

    def step(self, probabilities: ArrayLike, state: EventState) -> tuple[EventUpdate, EventState]:
        """Take the next token's ``probabilities`` (1 + K); ``state`` itself is left as it was."""
        given = np.asarray(probabilities, dtype=np.float64)
        self._check(given, state)
        t = state.token
        smoothed = smooth(given[1:], state.smoothed if t else None, self.smoothing)
        is_on = smoothed >= np.where(state.is_on, self.off, self.on)
        begins = is_on & (state.start < 0)
        start = np.where(begins, t, state.start)
        last = np.where(is_on, t, state.last)
        total = np.where(is_on, state.total + smoothed, state.total)
        count = state.count + is_on
        opens = is_on & ~state.is_told & (t + 1 - start >= self._min_tokens)
        is_told = state.is_told | opens
        after = EventState(state.video, t + 1, smoothed, start, last, is_on, is_told, total, count)
        opened = self._detections(after, opens)
        ends = (start >= 0) & (t - last > self._merge_tokens)
        if not ends.any():
            return EventUpdate(opened, []), after
        closed = self._detections(after, ends & is_told)
        return EventUpdate(opened, closed), replace(
            after,
            start=np.where(ends, -1, start),
            is_told=is_told & ~ends,
            total=np.where(ends, 0.0, total),
            count=np.where(ends, 0, count),
        )

    def finish(self, state: EventState) -> list[Detection]:
        """The events that are still open, closed by the end of the video."""
        return self.ongoing(state)

    def ongoing(self, state: EventState) -> list[Detection]:
        """The opened events that are not closed yet, as they stand; ``end_s`` is the end of their newest token."""
        return self._detections(state, state.is_told)

    def _detections(self, state: EventState, which: np.ndarray) -> list[Detection]:
        rate = self.tokens_per_second
        return [
            Detection(
                state.video,
                float(state.start[c] / rate),
                float((state.last[c] + 1) / rate),
                self.classes[c],
                float(state.total[c] / state.count[c]),
            )
            for c in np.flatnonzero(which)
        ]

    def _check(self, given: np.ndarray, state: EventState) -> None:
        if given.shape != (1 + len(self.classes),):
            raise ValueError(
                f"the scores of token {state.token} of {state.video} have the shape {given.shape}; "
                f"1 background and {len(self.classes)} classes make ({1 + len(self.classes)},)"
            )
        # Written so that NaN fails it.
        if not (given.min() >= 0 and given.max() <= 1 + 1e-6):
            raise ValueError(
                f"the scores of token {state.token} of {state.video} lie from {given.min():g} to {given.max():g}; "
                "events are made of probabilities, from 0 to 1. Are these logits?"
            )


def smooth(probabilities: np.ndarray, before: np.ndarray | None, smoothing: float) -> np.ndarray:
    """One step of the running mean; ``before`` is None at the first token."""
    return probabilities if before is None else smoothing * before + (1 - smoothing) * probabilities


def scores_to_events(scores: ArrayLike, video: str, detector: EventDetector) -> list[Detection]:
    """The events in the probabilities (T, 1+K) of one whole video, by their start."""
    values = np.asarray(scores)
    if values.ndim != 2:
        raise ValueError(f"the scores of {video} have the shape {values.shape}; they must be (tokens, 1 + classes)")
    state = detector.initial_state(video)
    events: list[Detection] = []
    for row in values:
        update, state = detector.step(row, state)
        events += update.closed
    return sorted(events + detector.finish(state), key=lambda event: (event.start_s, event.end_s, event.label))


def always_on(classes: Sequence[str], seconds: Mapping[str, float]) -> list[Detection]:
    """Every class all the time, in each of the videos whose length is given: what events have to beat."""
    return [Detection(video, 0.0, end_s, name, 1.0) for video, end_s in seconds.items() for name in classes]


def tune_thresholds(
    scores: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    ignore: Sequence[ArrayLike] | None = None,
    smoothing: float = 0.0,
    default: float = 0.5,
) -> np.ndarray:
    """Choose each class's ``on`` threshold, (K,): the one with the best F1 over the tokens of all videos.

    Tokens, not events, because a validation split has thousands of them where it has a dozen events of a class: the
    choice is steadier. Use videos that were not trained on, and never the test set.

    Args:
        scores: probabilities (T, 1+K) of each video.
        targets: 0/1 (T, 1+K) of each video.
        ignore: (T,) of each video, True where the label is ambiguous.
        smoothing: that of the detector which will use the thresholds.
        default: for a class without a positive token, of which nothing can be learnt.
    """
    _check_smoothing(smoothing)
    if not len(scores) or len(scores) != len(targets) or (ignore is not None and len(ignore) != len(scores)):
        counts = f"{len(scores)} videos of scores, {len(targets)} of targets"
        raise ValueError(counts + (f", {len(ignore)} of ignore" if ignore is not None else "") + " cannot be matched")
    values, truth = [], []
    for i, (rows, labels) in enumerate(zip(scores, targets, strict=True)):
        given, positive = np.asarray(rows, dtype=np.float64), np.asarray(labels)
        if given.ndim != 2 or given.shape != positive.shape:
            raise ValueError(
                f"video {i} has scores of the shape {given.shape} and targets {positive.shape}; "
                "both must be (tokens, 1 + classes)"
            )
        if np.isnan(given).any():
            raise ValueError(f"video {i} has NaN scores; no threshold can be chosen on them")
        smoothed: list[np.ndarray] = []
        for row in given:
            smoothed.append(smooth(row, smoothed[-1] if smoothed else None, smoothing))
        keep = np.full(len(given), True) if ignore is None else ~np.asarray(ignore[i], dtype=bool)
        values.append(np.reshape(smoothed, given.shape)[keep])
        truth.append(positive[keep] == 1)
    all_values, all_truth = np.concatenate(values), np.concatenate(truth)
    return np.array([_best_f1(all_values[:, c], all_truth[:, c], default) for c in range(1, all_values.shape[1])])


def _best_f1(scores: np.ndarray, positive: np.ndarray, default: float) -> float:
    curve = precision_recall(scores, positive)
    if not curve.total:
        return default
    ranks = curve.hits / np.where(curve.hits > 0, curve.precision, 1.0)
    best = int((2 * curve.hits / (ranks + curve.total)).argmax())
    # Halfway to the next lower score, so that rounding cannot turn the last token that was wanted off.
    lower = curve.thresholds[best + 1] if best + 1 < len(curve.thresholds) else curve.thresholds[best]
    return float(np.clip((curve.thresholds[best] + lower) / 2, 1e-6, 1.0))


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing:g}; it is the share of the past, from 0 to below 1")
