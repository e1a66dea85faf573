"""Metrics of detected events: average precision by temporal overlap, action starts, delay and false alarms.

An event is anything with ``video``, ``start_s``, ``end_s`` and ``label``; a detection also has a ``score``. An event
labelled "ambiguous" belongs to no class: a detection there that matches no event does not count.

Shapes: N frames, K actions, O offsets or overlaps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from vidact.metrics.frame_ap import PrecisionRecall, check_frames, mean_of_known, precision_recall, runs

AMBIGUOUS = "ambiguous"


class TimedLabel(Protocol):
    """An action from ``start_s`` to ``end_s``, such as ``vidact.data.Event``."""

    @property
    def video(self) -> str: ...

    @property
    def start_s(self) -> float: ...

    @property
    def end_s(self) -> float: ...

    @property
    def label(self) -> str: ...


class ScoredLabel(TimedLabel, Protocol):
    """A detected action with its score, such as ``vidact.events.Detection``."""

    @property
    def score(self) -> float: ...


# --------------------------------------------------------------------------------------------------------------- starts


@dataclass(frozen=True, eq=False)
class StartAP:
    """The average precision ``per_class`` (O, K) at each of ``offsets_s`` (O,); NaN for an action that never starts."""

    offsets_s: np.ndarray
    per_class: np.ndarray

    @property
    def per_offset(self) -> np.ndarray:
        """Return the mean over the actions at each offset, (O,)."""
        return np.array([mean_of_known(row) for row in self.per_class])

    @property
    def mean(self) -> float:
        return mean_of_known(self.per_offset)


def start_map(
    scores: ArrayLike,
    targets: ArrayLike,
    video_ids: ArrayLike,
    tokens_per_second: float,
    offsets_s: Sequence[float] = tuple(range(1, 11)),
    points: int | None = None,
    ignore: ArrayLike | None = None,
) -> StartAP:
    """Return the point-level average precision of online start detection (ODAS, Shou et al. 2018).

    A start of a class is detected at token t where the class becomes the best-scored one; its score is that of t. In
    the order of falling scores, each detected start is matched with the nearest true start of its class and video that
    is not matched yet. It is right if that is within the offset, else false. Before its first token a video counts as
    background, so an action may start at the first token, and the last token of the previous video does not matter (in
    the published code it does).

    Args:
        scores: probabilities (N, 1+K), the background first.
        targets: the truth as 0/1 (N, 1+K); an action starts at the first token of each run.
        video_ids: (N,) the video of each row.
        tokens_per_second: number of rows per second.
        offsets_s: how far a detected start may be from the true start, before or after it, in seconds.
        points: None is the exact area; 11 is the eleven-point interpolation of the published code.
        ignore: (N,) True where the label is ambiguous: a false start there does not count.
    """
    offsets = np.array(offsets_s, dtype=np.float64)
    if not offsets.size or (offsets < 0).any():
        raise ValueError(f"offsets_s are {tuple(offsets_s)}; give distances of 0 s or more")
    if tokens_per_second <= 0:
        raise ValueError(f"tokens_per_second is {tokens_per_second:g}; it must be above 0")
    frames = check_frames(scores, targets, ignore, video_ids)
    borders = frames.video_borders("the start of an action")
    video = np.repeat(np.arange(len(borders) - 1), np.diff(borders))
    best = frames.scores.argmax(1)
    before = np.append(0, best[:-1])
    before[borders[:-1]] = 0
    per_class = np.full((len(offsets), frames.scores.shape[1] - 1), np.nan)
    for column in range(1, frames.scores.shape[1]):
        starts = runs(frames.positive[:, column], borders)[0]
        claims = np.flatnonzero((best == column) & (before != column))
        claims = claims[np.argsort(-frames.scores[claims, column].astype(np.float64), kind="stable")]
        starts_of = {v: starts[video[starts] == v] for v in np.unique(video[claims])}
        for row, offset in enumerate(offsets):
            # The tolerance is in tokens, and a little larger because the product is rounded.
            right = _match_starts(claims, video[claims], starts_of, offset * tokens_per_second + 1e-6)
            counts = right | ~frames.ignore[claims]
            curve = precision_recall(
                frames.scores[claims[counts], column], right[counts], ties="in order", total=len(starts)
            )
            per_class[row, column - 1] = curve.area() if points is None else curve.mean_at(points)
    return StartAP(offsets, per_class)


def _match_starts(
    claims: np.ndarray, videos: np.ndarray, starts_of: dict[int, np.ndarray], tolerance: float
) -> np.ndarray:
    """Return which of the ``claims``, the tokens of detected starts with the highest score first, are right: (n,)."""
    free = {video: np.full(len(starts), True) for video, starts in starts_of.items()}
    right = np.zeros(len(claims), dtype=bool)
    for i, (token, video) in enumerate(zip(claims, videos, strict=True)):
        if free[video].any():
            distance = np.where(free[video], abs(starts_of[video] - token), np.inf)
            nearest = distance.argmin()
            if distance[nearest] <= tolerance:
                right[i], free[video][nearest] = True, False
    return right


# ----------------------------------------------------------------------------------------------------- temporal overlap


@dataclass(frozen=True, eq=False)
class EventAP:
    """The average precision ``per_class`` (O, K) at each of the overlaps ``tiou`` (O,), for the true ``classes``."""

    tiou: np.ndarray
    classes: tuple[str, ...]
    per_class: np.ndarray

    @property
    def per_tiou(self) -> np.ndarray:
        """Return the mean over the classes at each overlap, (O,)."""
        return self.per_class.mean(1)

    @property
    def mean(self) -> float:
        return float(self.per_class.mean())


def event_map(
    detections: Iterable[ScoredLabel],
    truth: Iterable[TimedLabel],
    tiou: float | Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.7),
    interpolated: bool = False,
) -> EventAP:
    """Return the mean average precision of detected events at one or several temporal overlaps.

    In the order of falling scores, each detection is matched with the event of its class and video that it overlaps
    most, among those not matched yet. It is right if their overlap (intersection over union of the two times) is
    ``tiou`` or more, else false. A detection of a class that does not occur in the truth counts for no class.

    Args:
        detections: events with a score; of equal scores the earlier in the list comes first.
        truth: the true events.
        tiou: above 0, up to 1.
        interpolated: False is the plain area, as in the evaluation of THUMOS'14; True uses the best precision at this
            recall or a higher one, as ActivityNet's code does.
    """
    overlaps = np.atleast_1d(np.array(tiou, dtype=np.float64))
    if not overlaps.size or not ((overlaps > 0) & (overlaps <= 1)).all():
        raise ValueError(f"tiou is {tiou}; a temporal overlap is above 0 and at most 1")
    candidates, events = list(detections), EventTimes(truth)
    if not events.counts:
        raise ValueError("the truth has no event of any class, so there is nothing to find")
    for detection in candidates:
        if math.isnan(detection.score):
            raise ValueError(f"{describe(detection)} has a NaN score, which has no rank")
    by_class = defaultdict(list)
    for detection in sorted(candidates, key=lambda detection: -detection.score):
        check_times(detection)
        by_class[detection.label].append(detection)
    classes = tuple(events.counts)
    per_class = [
        [_match_events(by_class[label], events, level, events.counts[label]).area(interpolated) for label in classes]
        for level in overlaps
    ]
    return EventAP(overlaps, classes, np.array(per_class))


class EventTimes:
    """The times (n, 2) of true events by label and video, and of ambiguous events by video."""

    def __init__(self, truth: Iterable[TimedLabel]) -> None:
        times: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        ambiguous: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for event in truth:
            check_times(event)
            if event.label.lower() == AMBIGUOUS:
                ambiguous[event.video].append((event.start_s, event.end_s))
            else:
                times[event.label, event.video].append((event.start_s, event.end_s))
        self.times = {key: np.array(sorted(pairs)) for key, pairs in times.items()}
        self.ambiguous = {video: np.array(pairs) for video, pairs in ambiguous.items()}
        # The number of events of each class, in the order of the class names.
        self.counts: dict[str, int] = defaultdict(int)
        for label, video in sorted(times):
            self.counts[label] += len(times[label, video])

    def of(self, event: TimedLabel) -> np.ndarray:
        return self.times.get((event.label, event.video), np.empty((0, 2)))

    def share_ambiguous(self, event: TimedLabel) -> float:
        """Return the largest share of an event's time that one ambiguous event covers, from 0 to 1."""
        length = event.end_s - event.start_s
        if event.video not in self.ambiguous or length == 0:
            return 0.0
        return float(_shared_s(event, self.ambiguous[event.video]).max() / length)


def _match_events(detections: Sequence[ScoredLabel], events: EventTimes, tiou: float, total: int) -> PrecisionRecall:
    """Return the curve of one class of ``total`` events; ``detections`` are in the order of falling scores."""
    judged = judge(detections, events, tiou)
    scores = np.array([detection.score for detection in detections], dtype=np.float64)[judged.counts]
    return precision_recall(scores, judged.event[judged.counts] >= 0, ties="in order", total=total)


@dataclass(frozen=True, eq=False)
class Judged:
    """The number ``event`` (n,) of the true event, among those of its class and video, that each detection matches.

    It is -1 where a detection is false. ``counts`` (n,) is False for false detections in ambiguous time.
    """

    event: np.ndarray
    counts: np.ndarray


def judge(detections: Sequence[ScoredLabel], events: EventTimes, tiou: float) -> Judged:
    """Match the ``detections`` of one class, in the order of falling scores, with the true events."""
    matched, counts = np.full(len(detections), -1), np.full(len(detections), True)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, detection in enumerate(detections):
        rows_of[detection.video].append(row)
    # The margin covers rounding: an overlap of 4 s in 10 s may be computed as 0.39999999999999997.
    least = tiou - 1e-9
    for video, rows in rows_of.items():
        spans = np.array([(detections[row].start_s, detections[row].end_s) for row in rows])
        times = events.of(detections[rows[0]])
        overlap = overlaps(spans, times)
        is_free = np.full(len(times), True)
        for i in np.flatnonzero((overlap >= least).any(1)):
            free_overlap = np.where(is_free, overlap[i], -1.0)
            best = int(free_overlap.argmax())
            if free_overlap[best] >= least:
                matched[rows[i]], is_free[best] = best, False
        if video in events.ambiguous:
            # An ambiguous event may be far longer than one action, so the covered share of the detection is compared,
            # as COCO does with crowds.
            share = (intersections(spans, events.ambiguous[video]) / (spans[:, 1:] - spans[:, :1])).max(1)
            counts[rows] = (matched[rows] >= 0) | (share < least)
    return Judged(matched, counts)


@dataclass(frozen=True)
class EventF1:
    """The F1 score of events at one temporal overlap.

    ``per_class`` has (hits, detections that count, true events) of every class that has a detection or an event.
    """

    tiou: float
    per_class: dict[str, tuple[int, int, int]]

    @property
    def hits(self) -> int:
        """Return the number of detections that are right."""
        return sum(hits for hits, _, _ in self.per_class.values())

    @property
    def found(self) -> int:
        """Return the number of detections that count."""
        return sum(judged for _, judged, _ in self.per_class.values())

    @property
    def true(self) -> int:
        """Return the number of true events."""
        return sum(true for _, _, true in self.per_class.values())

    @property
    def precision(self) -> float:
        return self.hits / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.hits / self.true

    @property
    def f1(self) -> float:
        """Return 2 · hits / (found + true) over all classes together."""
        return 2 * self.hits / (self.found + self.true)


def event_f1(detections: Iterable[ScoredLabel], truth: Iterable[TimedLabel], tiou: float = 0.3) -> EventF1:
    """Return the numbers of right detections, of all detections and of true events, matched as in ``event_map``.

    All detections count, whatever their score: the figure measures what a stream shows its user, while ``event_map``
    measures a ranking. A detection of a class that does not occur in the truth is wrong.

    Args:
        detections: events with a score; those with the highest scores are matched first.
        truth: the true events.
        tiou: above 0, up to 1.
    """
    if not 0 < tiou <= 1:
        raise ValueError(f"tiou is {tiou}; a temporal overlap is above 0 and at most 1")
    events = EventTimes(truth)
    if not events.counts:
        raise ValueError("the truth has no event of any class, so there is nothing to find")
    by_class: dict[str, list[ScoredLabel]] = {label: [] for label in events.counts}
    for detection in sorted(detections, key=lambda detection: -detection.score):
        check_times(detection)
        by_class.setdefault(detection.label, []).append(detection)
    per_class = {}
    for label, ranked in by_class.items():
        judged = judge(ranked, events, tiou)
        per_class[label] = int((judged.event >= 0).sum()), int(judged.counts.sum()), events.counts.get(label, 0)
    return EventF1(tiou, per_class)


def intersections(spans: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the seconds that each of ``spans`` (n, 2) shares with each of ``times`` (m, 2), as (n, m)."""
    return np.maximum(0.0, np.minimum(spans[:, None, 1], times[:, 1]) - np.maximum(spans[:, None, 0], times[:, 0]))


def overlaps(spans: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each of ``spans`` (n, 2) with each of ``times`` (m, 2), as (n, m)."""
    shared = intersections(spans, times)
    return shared / ((spans[:, 1] - spans[:, 0])[:, None] + times[:, 1] - times[:, 0] - shared)


def _shared_s(event: TimedLabel, times: np.ndarray) -> np.ndarray:
    """Return the seconds that ``event`` shares with each of ``times`` (n, 2)."""
    return intersections(np.array([(event.start_s, event.end_s)]), times)[0]


def check_times(event: TimedLabel) -> None:
    if not event.start_s < event.end_s:
        raise ValueError(f"{describe(event)} does not start before it ends")


def describe(event: TimedLabel) -> str:
    return f"{event.label!r} of {event.video} from {event.start_s:g} to {event.end_s:g} s"


# -------------------------------------------------------------------------------------------------- delay, false alarms


@dataclass(frozen=True, eq=False)
class Delay:
    """The delay ``delays_s`` (n,) of each true event in the given order, in seconds; NaN where it was missed.

    A delay runs from the event's start to the start of the token that detects it. Live output comes when that token
    ends, 1 / tokens_per_second later, and with a detector's ``min_seconds`` by so much later again.
    """

    delays_s: np.ndarray

    @property
    def missed(self) -> float:
        """Return the share of events that were never detected, from 0 to 1."""
        return float(np.isnan(self.delays_s).mean())

    @property
    def median_s(self) -> float:
        """Return the median delay of the events that were detected; NaN where none was."""
        delays = self.delays_s[~np.isnan(self.delays_s)]
        return float(np.median(delays)) if len(delays) else float("nan")

    @property
    def mean_s(self) -> float:
        """Return the mean delay of the events that were detected; NaN where none was."""
        return mean_of_known(self.delays_s)


def detection_delay(
    detections: Iterable[TimedLabel], truth: Iterable[TimedLabel], answers_late_s: float = 0.0
) -> Delay:
    """Return how long after each event's start the first detection of its class that overlaps it starts.

    ``answers_late_s`` is added to the start of each detection: the seconds by which a detector's answers come after the
    moments that they are for. A detection that starts before the event, even so, has delay 0. A detector that always
    reports every class therefore has neither delay nor misses, so read this beside ``false_alarms_per_hour``. Ambiguous
    events have no delay.
    """
    by_class = EventTimes(detections)
    delays = []
    for event in truth:
        check_times(event)
        if event.label.lower() == AMBIGUOUS:
            continue
        times = by_class.of(event)
        starts = times[_shared_s(event, times) > 0, 0]
        delays.append(max(0.0, float(starts.min()) + answers_late_s - event.start_s) if len(starts) else math.nan)
    return _delay(delays)


def frame_delay(
    scores: ArrayLike,
    targets: ArrayLike,
    video_ids: ArrayLike,
    tokens_per_second: float,
    thresholds: float | Sequence[float] = 0.5,
) -> Delay:
    """Return how long after each action's first token its score first reaches a threshold, up to its last token.

    Args:
        scores: probabilities (N, 1+K), the background first.
        targets: the truth as 0/1 (N, 1+K); each run of an action is an event, ordered by class, then by row.
        video_ids: (N,) the video of each row.
        tokens_per_second: number of rows per second.
        thresholds: one number for all actions, or K numbers.
    """
    frames = check_frames(scores, targets, video_ids=video_ids)
    borders = frames.video_borders("the start of an action")
    num_actions = frames.scores.shape[1] - 1
    levels = np.asarray(thresholds, dtype=np.float64)
    if levels.shape not in ((), (num_actions,)):
        raise ValueError(f"thresholds have the shape {levels.shape}; give one number, or one for each of {num_actions}")
    delays: list[float] = []
    for column, threshold in enumerate(np.broadcast_to(levels, num_actions), 1):
        start, end = runs(frames.positive[:, column], borders)
        reached = np.append(np.flatnonzero(frames.scores[:, column] >= threshold), len(frames))
        first = reached[np.searchsorted(reached, start)]
        delays.extend(np.where(first <= end, (first - start) / tokens_per_second, np.nan))
    return _delay(delays)


def _delay(delays: list[float]) -> Delay:
    if not delays:
        raise ValueError("the truth has no event of any class, so there is no delay")
    return Delay(np.array(delays))


def false_alarms_per_hour(detections: Iterable[TimedLabel], truth: Iterable[TimedLabel], duration_s: float) -> float:
    """Return the number of detections that overlap no event of their class, per hour of video.

    A detection that lies by half or more in an ambiguous event is not counted.

    Args:
        detections: the detections in all videos.
        truth: the true events of all videos.
        duration_s: the duration of all videos together, those without any event included.
    """
    if not duration_s > 0:
        raise ValueError(f"duration_s is {duration_s:g}; the videos together last longer than 0 s")
    events = EventTimes(truth)
    alarms = 0
    for detection in detections:
        check_times(detection)
        touched = (_shared_s(detection, events.of(detection)) > 0).any()
        alarms += not touched and events.share_ambiguous(detection) < 0.5
    return alarms * 3600 / duration_s
