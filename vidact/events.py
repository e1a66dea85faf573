"""Scores over time become events, one token at a time: scoring and streaming run the same step.

A class turns on where its smoothed probability reaches ``on`` and off where it falls below ``off``: with ``off`` lower
than ``on`` a wavering score makes one event, not ten. Events too short are dropped; gaps too short are bridged.

Token t covers the seconds from t / r to (t + 1) / r at r tokens a second.

Shapes: T tokens, K actions; column 0 of 1 + K probabilities is the background and makes no event.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vidact.metrics.event_ap import AMBIGUOUS, TimedLabel, event_f1
from vidact.metrics.frame_ap import runs


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
    """The state of a stream, all arrays (K,); ``EventDetector.step`` returns a new state and does not change the old.

    ``token`` counts the tokens so far; ``smoothed`` are the probabilities that are compared with the thresholds.
    ``start`` and ``last`` are the first and the newest token at which an event of the class was on, ``start`` being -1
    without an event; ``is_on`` is False in a gap that may yet be bridged; ``is_reported`` is True once the event was
    long enough to be reported. The score is ``total`` divided by ``count``.
    """

    video: str
    token: int
    smoothed: np.ndarray
    start: np.ndarray
    last: np.ndarray
    is_on: np.ndarray
    is_reported: np.ndarray
    total: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class EventUpdate:
    """The events that one token opened and closed.

    ``opened`` holds events at the moment when they have lasted ``min_seconds``, ``closed`` holds complete events. Each
    event is opened once and closed once, and an opened event is never withdrawn.
    """

    opened: list[Detection]
    closed: list[Detection]


class EventDetector:
    """A detector that turns the probabilities (1 + K) of one token after the other into events.

    Each stream has its own state: ``state = detector.initial_state(video)``, then for each token
    ``update, state = detector.step(probabilities, state)``, and ``detector.finish(state)`` at the end of a video.

    Args:
        classes: names of the K actions, without the background.
        tokens_per_second: the rate of the scores.
        on: the probability at which a class turns on, above 0; one for all or one for each class.
        off: the probability below which it turns off, at most ``on``; None is 0.6 times ``on``.
        smoothing: s in smoothed_t = s · smoothed_(t-1) + (1 - s) · probability_t, from 0 (none) to below 1; the first
            token is used as it is. IDU smooths its scores with 0.5. The delay grows by about s / (1 - s) tokens.
        min_seconds: shorter events are dropped; a live event is reported when it has lasted so long.
        merge_seconds: two events of a class with a gap of at most this are one; a live event is closed so much later.
        exclusive: of the classes that reach their thresholds only one is on, the class whose probability is the largest
            multiple of its threshold, so that no two events overlap. Use it for scores that share one probability
            (softmax): their thresholds are low, and several classes would be on at once. A gap is not bridged over an
            event of another class.
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
        exclusive: bool = False,
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
        self.smoothing, self.exclusive = smoothing, exclusive
        # 0.3 s at 10 tokens/s are 3 tokens, not the 4 that 3.0000000000000004 would round up to.
        self._min_tokens = max(1, math.ceil(min_seconds * tokens_per_second - 1e-6))
        self._merge_tokens = math.floor(merge_seconds * tokens_per_second + 1e-6)

    def _thresholds(self, name: str, value: float | Sequence[float]) -> np.ndarray:
        values = np.asarray(value, dtype=np.float64)
        if values.shape not in ((), (len(self.classes),)):
            raise ValueError(
                f"{name} has the shape {values.shape}; give one, or one for each of {len(self.classes)} classes"
            )
        if not ((values > 0) & (values <= 1)).all():
            raise ValueError(f"{name} is {value}; a threshold on probabilities is above 0 and at most 1")
        return np.array(np.broadcast_to(values, len(self.classes)))

    def initial_state(self, video: str) -> EventState:
        """Return the state of a stream before its first token; ``video`` is written into its detections."""
        shape = self.on.shape
        return EventState(
            video=video,
            token=0,
            smoothed=np.zeros(len(self.classes)),
            start=np.full(shape, -1),
            last=np.full(shape, -1),
            is_on=np.zeros(shape, dtype=bool),
            is_reported=np.zeros(shape, dtype=bool),
            total=np.zeros(shape),
            count=np.zeros(shape, dtype=np.int64),
        )

    def step(self, probabilities: ArrayLike, state: EventState) -> tuple[EventUpdate, EventState]:
        """Return the changes by the next token's ``probabilities`` (1 + K), and the new state; ``state`` is unchanged.

        Raises ValueError for another shape and for values that are no probabilities.
        """
        row = np.asarray(probabilities, dtype=np.float64)
        self._check(row, state)
        before, opens, ends = self._advance(row, state)
        opened = self._detections(before, opens)
        if not ends.any():
            return EventUpdate(opened, []), before
        return EventUpdate(opened, self._detections(before, ends & before.is_reported)), self._without(before, ends)

    def _advance(self, row: np.ndarray, state: EventState) -> tuple[EventState, np.ndarray, np.ndarray]:
        """Return the state after one more token, which of its events have just become long enough, and which are over.

        Arrays have the shape of ``on``, so that one pass over the scores serves several sets of thresholds.
        """
        t = state.token
        smoothed = smooth(row[1:], state.smoothed if t else None, self.smoothing)
        threshold = np.where(state.is_on, self.off, self.on)
        is_on = smoothed >= threshold
        if self.exclusive:
            multiple = np.where(is_on, smoothed / threshold, 0.0)
            is_on &= np.arange(is_on.shape[-1]) == multiple.argmax(-1)[..., None]
        begins = is_on & (state.start < 0)
        start = np.where(begins, t, state.start)
        last = np.where(is_on, t, state.last)
        total = np.where(is_on, state.total + smoothed, state.total)
        count = state.count + is_on
        opens = is_on & ~state.is_reported & (t + 1 - start >= self._min_tokens)
        is_reported = state.is_reported | opens
        ends = t - last > self._merge_tokens
        if self.exclusive:
            # An event in a gap ends when another class is on: at once where it was not reported, and otherwise when the
            # event of the other class is reported.
            ends |= (
                ~is_on & is_on.any(-1, keepdims=True) & (~is_reported | (is_on & is_reported).any(-1, keepdims=True))
            )
        ends &= start >= 0
        return EventState(state.video, t + 1, smoothed, start, last, is_on, is_reported, total, count), opens, ends

    @staticmethod
    def _without(state: EventState, ends: np.ndarray) -> EventState:
        """Return ``state`` without the events that are over."""
        return replace(
            state,
            start=np.where(ends, -1, state.start),
            is_reported=state.is_reported & ~ends,
            total=np.where(ends, 0.0, state.total),
            count=np.where(ends, 0, state.count),
        )

    def finish(self, state: EventState) -> list[Detection]:
        """Return the events that are still open, closed by the end of the video."""
        return self.ongoing(state)

    def ongoing(self, state: EventState) -> list[Detection]:
        """Return the opened events that are not closed yet; ``end_s`` is the end of their newest token."""
        return self._detections(state, state.is_reported)

    def _detections(self, state: EventState, which: np.ndarray) -> list[Detection]:
        return [self._detection(state, (int(c),)) for c in np.flatnonzero(which)]

    def _detection(self, state: EventState, index: tuple[int, ...]) -> Detection:
        """Return the event at ``index`` of the state's arrays, whose last axis is the classes."""
        rate = self.tokens_per_second
        return Detection(
            state.video,
            float(state.start[index] / rate),
            float((state.last[index] + 1) / rate),
            self.classes[index[-1]],
            float(state.total[index] / state.count[index]),
        )

    def _check(self, row: np.ndarray, state: EventState) -> None:
        if row.shape != (1 + len(self.classes),):
            raise ValueError(
                f"the scores of token {state.token} of {state.video} have the shape {row.shape}; "
                f"1 background and {len(self.classes)} classes make ({1 + len(self.classes)},)"
            )
        # The condition is written so that NaN fails it.
        if not (row.min() >= 0 and row.max() <= 1 + 1e-6):
            raise ValueError(
                f"the scores of token {state.token} of {state.video} lie from {row.min():g} to {row.max():g}; "
                "events are made of probabilities, from 0 to 1. Are these logits?"
            )


def smooth(probabilities: np.ndarray, before: np.ndarray | None, smoothing: float) -> np.ndarray:
    """Return one step of the running mean; ``before`` is None at the first token."""
    return probabilities if before is None else smoothing * before + (1 - smoothing) * probabilities


def scores_to_events(scores: ArrayLike, video: str, detector: EventDetector) -> list[Detection]:
    """Return the events in the probabilities (T, 1+K) of one whole video, sorted by their start."""
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
    """Return every class all the time, in each of the videos whose length is given: a baseline for detected events."""
    return [Detection(video, 0.0, end_s, name, 1.0) for video, end_s in seconds.items() for name in classes]


def equal_events(
    training: Iterable[TimedLabel], classes: Sequence[str], seconds: Mapping[str, float]
) -> list[Detection]:
    """Return events of each class side by side over each video, as long as is usual: a baseline for detected events.

    Their length is the median of the class's ``training`` events, and their score the share of the class among them.
    Classes without a training event have none.

    Args:
        training: events that the baseline may know.
        classes: the classes to detect.
        seconds: the length of each video.
    """
    lengths: dict[str, list[float]] = {name: [] for name in classes}
    for event in training:
        if event.label in lengths:
            lengths[event.label].append(event.end_s - event.start_s)
    total = sum(map(len, lengths.values()))
    detections = []
    for video, end_s in seconds.items():
        for name, each in lengths.items():
            if not each or not end_s > 0:
                continue
            count = max(1, round(end_s / float(np.median(each))))
            edges = np.linspace(0.0, end_s, count + 1).tolist()
            score = len(each) / total
            detections += [Detection(video, *span, name, score) for span in itertools.pairwise(edges)]
    return detections


CANDIDATES = tuple(round(0.05 * n, 2) for n in range(1, 20))  # the thresholds that are tried
ENOUGH = 10  # the least number of events of a class with a separate threshold
TIOU = 0.3  # the least temporal overlap of a detection that counts as right


@dataclass(frozen=True, eq=False)
class ThresholdChoice:
    """The thresholds ``on`` (K,), chosen on ``events`` (K,) true events in ``videos`` videos.

    ``common`` is the threshold of the classes with too few events for a separate one. ``f1`` and ``f1_at_default`` are
    the F1 of the events on the same videos, at ``on`` and at ``default`` for every class; thresholds look better on the
    videos that they were chosen on. Both are NaN where no event occurs.
    """

    on: np.ndarray
    common: float
    default: float
    events: np.ndarray
    videos: int
    f1: float
    f1_at_default: float

    @property
    def words(self) -> str:
        """A sentence on the thresholds and the events that they were chosen on."""
        basis = f"{int(self.events.sum())} events of {self.videos} validation video{'s' * (self.videos != 1)}"
        if not self.events.any():
            return f"every class turns on at {self.default:g}: the validation videos have no event to choose by"
        separate = np.flatnonzero(self.on != self.common)
        sentence = f"classes turn on at {self.common:g}"
        sentence += (
            f", {len(separate)} of {len(self.on)} at {'its' if len(separate) == 1 else 'their'} own threshold"
            * bool(len(separate))
        )
        gain = f"F1 {self.f1:.2f}, at {self.default:g} for all {self.f1_at_default:.2f}"
        return f"{sentence}: chosen on {basis} ({gain})"


def choose_thresholds(
    scores: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    ignore: Sequence[ArrayLike] | None = None,
    *,
    tokens_per_second: float = 1.0,
    smoothing: float = 0.0,
    min_seconds: float = 0.0,
    merge_seconds: float = 0.0,
    exclusive: bool = False,
    default: float = 0.5,
) -> ThresholdChoice:
    """Choose the ``on`` threshold of each class by the events that a detector with these settings makes.

    Of the thresholds whose F1 at a temporal overlap of 0.3 lies within one standard error of the best, it is the one
    nearest to ``default``: few events leave the default, more of them move it. First one threshold is chosen for all
    classes; then a separate one for each class with ``ENOUGH`` events, near the common one, while the other classes
    keep the common one. Lower thresholds at which a class is on for more than half of the tokens without it are left
    out, so that "always on" is never chosen.

    Use videos that were not trained on, and never the test set.

    Args:
        scores: probabilities (T, 1+K) of each video.
        targets: 0/1 (T, 1+K) of each video; a stretch of a class is an event.
        ignore: (T,) of each video, True where the label is ambiguous.
        tokens_per_second: the rate of the scores; it, ``smoothing``, ``min_seconds``, ``merge_seconds`` and
            ``exclusive`` are those of the detector that will use the thresholds.
        default: the threshold where the videos have no event.
    """
    videos = _checked_videos(scores, targets, ignore)
    num_classes = videos[0].scores.shape[1] - 1
    detector = EventDetector(
        [str(k) for k in range(num_classes)], tokens_per_second, default, None, smoothing, min_seconds, merge_seconds,
        exclusive,
    )  # fmt: skip
    truth = [event for number, video in enumerate(videos) for event in video.events(str(number), detector)]
    true = np.array([sum(event.label == name for event in truth) for name in detector.classes])
    nothing = np.full(num_classes, default)
    if not true.any():
        return ThresholdChoice(nothing, default, default, true, len(videos), math.nan, math.nan)
    candidates = np.unique([*CANDIDATES, default])
    one_for_all = _count(detector, np.repeat(candidates[:, None], num_classes, 1), videos, truth)
    quiet = one_for_all.astray <= 0.5
    hits, judged = one_for_all.hits.sum(1), one_for_all.judged.sum(1)
    common = _nearest(candidates, hits, judged, int(true.sum()), np.all(quiet, 1), default)
    on = np.full(num_classes, common)
    for k in np.flatnonzero(true >= ENOUGH):
        tried = np.full((len(candidates), num_classes), common)
        tried[:, k] = candidates
        counts = _count(detector, tried, videos, truth, only=int(k)) if exclusive else one_for_all
        on[k] = _nearest(
            candidates, counts.hits[:, k], counts.judged[:, k], int(true[k]), counts.astray[:, k] <= 0.5, common
        )
    both = _count(detector, np.stack([on, nothing]), videos, truth)
    f1 = 2 * both.hits.sum(1) / (both.judged.sum(1) + true.sum())
    return ThresholdChoice(on, common, default, true, len(videos), float(f1[0]), float(f1[1]))


def tune_thresholds(
    scores: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    ignore: Sequence[ArrayLike] | None = None,
    smoothing: float = 0.0,
    default: float = 0.5,
    **settings: Any,
) -> np.ndarray:
    """Return the thresholds (K,) of ``choose_thresholds``, which takes the same arguments."""
    return choose_thresholds(scores, targets, ignore, smoothing=smoothing, default=default, **settings).on


def _nearest(
    candidates: np.ndarray, hits: np.ndarray, judged: np.ndarray, true: int, is_quiet: np.ndarray, centre: float
) -> float:
    """Return the candidate nearest to ``centre`` whose F1 is about the best; below ``centre`` only quiet ones count."""
    f1 = np.where(is_quiet | (candidates >= centre), 2 * hits / (judged + true), -1.0)
    best = int(f1.argmax())
    # F1 is largest where hits - F1 / 2 · judged is. Two thresholds differ in some detections, each right or wrong by
    # chance: half the root of their number is the most that the standard error of the right ones among them can be.
    lost = hits[best] - hits - f1[best] / 2 * (judged[best] - judged)
    differ = np.maximum(abs(judged[best] - judged), abs(hits[best] - hits))
    good = (f1 >= 0) & (lost <= 0.5 * np.sqrt(differ))
    distance = np.where(good, abs(candidates - centre), np.inf)
    nearest = np.flatnonzero(distance <= distance.min() + 1e-9)
    return float(candidates[nearest[f1[nearest].argmax()]])


@dataclass(frozen=True, eq=False)
class _Video:
    """Scores and truth (T, 1+K) of a video, and the tokens that count (T,)."""

    scores: np.ndarray
    truth: np.ndarray
    counts: np.ndarray

    def events(self, name: str, detector: EventDetector) -> list[Detection]:
        """Return the true events that have a token that counts, and the ambiguous stretches."""
        rate, whole = detector.tokens_per_second, np.array([0, len(self.truth)])
        rows = [(AMBIGUOUS, ~self.counts), *zip(detector.classes, self.truth[:, 1:].T, strict=True)]
        return [
            Detection(name, float(first / rate), float((last + 1) / rate), label, 1.0)
            for label, active in rows
            for first, last in zip(*runs(active, whole), strict=True)
            if label == AMBIGUOUS or self.counts[first : last + 1].any()
        ]


@dataclass(frozen=True, eq=False)
class _Counts:
    """The right detections, the detections that count, and the error rate ``astray`` of G sets of thresholds, (G, K).

    ``astray`` is the share of the tokens without the class at which it is on.
    """

    hits: np.ndarray
    judged: np.ndarray
    astray: np.ndarray


def _count(
    detector: EventDetector,
    on: np.ndarray,
    videos: Sequence[_Video],
    truth: Sequence[Detection],
    only: int | None = None,
) -> _Counts:
    """Count the detections of ``detector`` at each of the thresholds ``on`` (G, K), in one pass over the scores.

    Args:
        only: the class whose detections are compared; the others' counts stay 0.
    """
    several = copy.copy(detector)
    several.on, several.off = on, on * (detector.off / detector.on)
    closed: list[list[Detection]] = [[] for _ in on]
    astray, others = np.zeros(on.shape), np.zeros(on.shape[1])

    def close(state: EventState, which: np.ndarray) -> None:
        for g, k in zip(*np.nonzero(which), strict=True):
            if only in (None, k):
                closed[g].append(several._detection(state, (int(g), int(k))))

    for number, video in enumerate(videos):
        state = several.initial_state(str(number))
        for row, active, counts in zip(video.scores, video.truth[:, 1:], video.counts, strict=True):
            state, _, ends = several._advance(row, state)
            astray += counts * (state.is_on & ~active)
            others += counts * ~active
            if ends.any():
                close(state, ends & state.is_reported)
                state = several._without(state, ends)
        close(state, state.is_reported)
    scored = [event_f1(detections, truth, TIOU).per_class for detections in closed]
    hits, judged = (
        np.array([[of.get(name, (0, 0, 0))[at] for name in detector.classes] for of in scored]) for at in (0, 1)
    )
    return _Counts(hits, judged, astray / np.maximum(others, 1))


def _checked_videos(
    scores: Sequence[ArrayLike], targets: Sequence[ArrayLike], ignore: Sequence[ArrayLike] | None
) -> list[_Video]:
    if not len(scores) or len(scores) != len(targets) or (ignore is not None and len(ignore) != len(scores)):
        sizes = f"{len(scores)} videos of scores, {len(targets)} of targets"
        raise ValueError(sizes + (f", {len(ignore)} of ignore" if ignore is not None else "") + " cannot be matched")
    videos = []
    for i, (rows, labels) in enumerate(zip(scores, targets, strict=True)):
        values, positive = np.asarray(rows, dtype=np.float64), np.asarray(labels)
        if values.ndim != 2 or values.shape != positive.shape:
            raise ValueError(
                f"video {i} has scores of the shape {values.shape} and targets {positive.shape}; "
                "both must be (tokens, 1 + classes)"
            )
        if np.isnan(values).any():
            raise ValueError(f"video {i} has NaN scores; no threshold can be chosen on them")
        counts = np.full(len(values), True) if ignore is None else ~np.asarray(ignore[i], dtype=bool)
        videos.append(_Video(values, positive == 1, counts))
    return videos


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing:g}; it is the share of the past, from 0 to below 1")
