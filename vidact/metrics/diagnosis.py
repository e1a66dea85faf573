"""What the mistakes of detected events are, which events suffer from them, and what each kind costs.

In the manner of DETAD (Alwassel et al. 2018) and TIDE (Bolya et al. 2020), with five kinds of mistakes:

``background``  the detection touches no event, or hardly (by less than ``LOW``)
``confusion``   it overlaps an event of another class more than any event of its own
``borders``     it overlaps an event of its class, by less than what counts as right
``double``      it would be right, but a detection with a higher score has found the event already
``missed``      a true event that is not found, and at which no detection of the kinds borders and confusion lies

Different from both papers: the event that a detection overlaps most decides alone, so that there are five kinds and not
six. As in DETAD only the best detections of each class count, so many times as it has true events, because a localiser
gives hundreds of detections with low scores a video.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidact.metrics.event_ap import EventTimes, ScoredLabel, TimedLabel, judge, overlaps
from vidact.metrics.frame_ap import precision_recall
from vidact.metrics.localisation import check_detections

LOW = 0.1  # a detection with less overlap touches no event
MULTIPLE = 10  # detections of a class that are looked at, times its true events
FALSE = ("background", "confusion", "borders", "double")
KINDS = (*FALSE, "missed")
FATES = ("right", "borders", "confusion", "missed")  # of true events
INSTANCES = ((0, "none"), (1, "1"), (3, "2 or 3"), (7, "4 to 7"), (10**9, "8 or more"))


@dataclass(frozen=True)
class Diagnosis:
    """The mistakes of detected events at one overlap ``tiou``.

    Attributes:
        mean_ap: the plain mAP at this overlap, of all detections.
        detections: the number of detections of each kind, "right" and ``FALSE``, among those that were looked at.
        looked_at: the number of these detections, and of all that there are.
        events: the number of true events by what became of them, ``FATES``.
        if_mended: the mAP that each of ``KINDS`` would leave if it did not occur: background and doubles are left out;
            borders become those of the event, and a confused detection that covers its event by ``tiou`` gets the right
            name (if the event is found already, they are left out); missed events are not asked for.
        confused: (true class, detected class, detections), the most frequent first.
        groups: for "length", "instances" and "crowding" a list of groups, each with its name, the number of its events
            by what became of them, and the number of its false detections by kind.
    """

    tiou: float
    mean_ap: float
    detections: dict[str, int]
    looked_at: tuple[int, int]
    events: dict[str, int]
    if_mended: dict[str, float]
    confused: tuple[tuple[str, str, int], ...]
    groups: dict[str, list[dict[str, Any]]]

    def figures(self) -> dict[str, Any]:
        """Return the diagnosis as results.json holds it."""
        return {
            "tiou": self.tiou,
            "map": self.mean_ap,
            "detections": self.detections,
            "looked_at": list(self.looked_at),
            "events": self.events,
            "if_mended": self.if_mended,
            "confused": [{"truth": true, "called": called, "times": count} for true, called, count in self.confused],
            "groups": self.groups,
        }


@dataclass(frozen=True, eq=False)
class _Found:
    """The n detections by falling score: their kind, the number of the event that they lie at (-1: none), and overlap.

    ``kind`` is "right", one of ``FALSE``, or "" for false ones that do not count or are not looked at.
    """

    ranked: list[ScoredLabel]
    kind: np.ndarray
    event: np.ndarray
    overlap: np.ndarray
    counts: np.ndarray


def diagnose(
    detections: Iterable[ScoredLabel],
    truth: Iterable[TimedLabel],
    seconds: Mapping[str, float],
    tiou: float = 0.5,
) -> Diagnosis:
    """Return the kinds of mistakes of ``detections``, by length, number of instances and crowding, and their cost.

    Detections are matched as in ``event_map``; those in ambiguous time do not count. Events and detections are grouped
    by their own length (quarters of the true events), by the number of true events of their class in their video, and
    by the true events a minute of their video (quarters again).

    Args:
        detections: events with a score.
        truth: the true events.
        seconds: the duration of every video, those without events included.
        tiou: the least overlap of a right detection, above ``LOW``, up to 1.
    """
    if not LOW < tiou <= 1:
        raise ValueError(f"tiou is {tiou}; it is above {LOW} and at most 1")
    ranked = sorted(detections, key=lambda detection: -detection.score)
    check_detections(ranked)
    actions = EventTimes(truth)
    if not actions.counts:
        raise ValueError("the truth has no event of any class, so there is nothing to find")
    keys = [(label, video, row) for (label, video), spans in actions.times.items() for row in range(len(spans))]
    spans = np.concatenate(list(actions.times.values()))  # (m, 2), in the order of the keys
    for video in {*(video for _, video, _ in keys), *(detection.video for detection in ranked)}:
        if not seconds.get(video, 0) > 0:
            raise ValueError(f"the duration of {video} is not given, or not above 0 s; seconds names every video")
    found = _kinds(ranked, actions, keys, spans, tiou)
    fates = np.full(len(keys), "missed", dtype=object)
    for kind in ("confusion", "borders", "right"):  # the last one that applies stays
        fates[found.event[found.kind == kind]] = kind
    mended = {kind: _mean_ap(found, keys, actions, fates, kind, tiou) for kind in KINDS}
    pairs = Counter(
        (keys[found.event[row]][0], found.ranked[row].label) for row in np.flatnonzero(found.kind == "confusion")
    )
    return Diagnosis(
        tiou=tiou,
        mean_ap=_mean_ap(found, keys, actions, fates, None, tiou),
        detections={kind: int((found.kind == kind).sum()) for kind in ("right", *FALSE)},
        looked_at=(int((found.kind != "").sum()), len(ranked)),
        events={fate: int((fates == fate).sum()) for fate in FATES},
        if_mended=mended,
        confused=tuple((true, called, count) for (true, called), count in pairs.most_common(20)),
        groups=_groups(found, keys, spans, fates, seconds),
    )


def _kinds(
    ranked: list[ScoredLabel], actions: EventTimes, keys: list[tuple[str, str, int]], spans: np.ndarray, tiou: float
) -> _Found:
    """Return the kind of each detection and the event at which it lies."""
    labels = np.array([label for label, _, _ in keys], dtype=object)
    number_of = {key: number for number, key in enumerate(keys)}
    numbers_in: dict[str, list[int]] = defaultdict(list)
    for number, (_, video, _) in enumerate(keys):
        numbers_in[video].append(number)
    rows_of, rows_in = defaultdict(list), defaultdict(list)
    for row, detection in enumerate(ranked):
        rows_of[detection.label].append(row)
        rows_in[detection.video].append(row)
    kind = np.full(len(ranked), "", dtype=object)
    event, overlap = np.full(len(ranked), -1), np.zeros(len(ranked))
    counts, is_looked_at = np.full(len(ranked), True), np.full(len(ranked), False)
    for label, rows in rows_of.items():
        judged = judge([ranked[row] for row in rows], actions, tiou)
        counts[rows] = judged.counts
        is_looked_at[rows[: MULTIPLE * max(1, actions.counts.get(label, 0))]] = True
        for row, matched in zip(rows, judged.event, strict=True):
            if matched >= 0:
                event[row], overlap[row] = number_of[label, ranked[row].video, int(matched)], 1.0
                kind[row] = "right"
    for video, rows in rows_in.items():
        numbers = np.array(numbers_in[video], dtype=int)
        if len(numbers):
            matrix = overlaps(np.array([(ranked[row].start_s, ranked[row].end_s) for row in rows]), spans[numbers])
        for i, row in enumerate(rows):
            if kind[row] == "right" or not counts[row] or not is_looked_at[row]:
                continue
            if not len(numbers) or matrix[i].max() < LOW:
                kind[row] = "background"
                continue
            own = np.where(labels[numbers] == ranked[row].label, matrix[i], -1.0)
            other = np.where(labels[numbers] == ranked[row].label, -1.0, matrix[i])
            if own.max() >= tiou - 1e-9:
                kind[row], nearest = "double", own
            elif own.max() >= other.max():
                kind[row], nearest = "borders", own
            else:
                kind[row], nearest = "confusion", other
            event[row], overlap[row] = numbers[nearest.argmax()], nearest.max()
    return _Found(ranked, kind, event, overlap, counts)


def _mean_ap(
    found: _Found,
    keys: list[tuple[str, str, int]],
    actions: EventTimes,
    fates: np.ndarray,
    mended: str | None,
    tiou: float,
) -> float:
    """Return the mean average precision with one kind of mistakes mended, or as it is."""
    is_met = np.full(len(keys), False)
    is_met[found.event[found.kind == "right"]] = True
    ranking: dict[str, tuple[list[float], list[bool]]] = {label: ([], []) for label in actions.counts}
    for row, detection in enumerate(found.ranked):
        label, is_right = detection.label, found.kind[row] == "right"
        if found.kind[row] == mended:
            number = found.event[row]
            can_be_right = mended == "borders" or (mended == "confusion" and found.overlap[row] >= tiou - 1e-9)
            if not can_be_right or is_met[number]:
                continue
            is_met[number] = is_right = True
            label = keys[number][0]
        if found.counts[row] and label in ranking:
            ranking[label][0].append(detection.score)
            ranking[label][1].append(is_right)
    totals = dict(actions.counts)
    if mended == "missed":
        for number in np.flatnonzero(fates == "missed"):
            totals[keys[number][0]] -= 1
    areas = [
        precision_recall(*ranking[label], ties="in order", total=totals[label]).area() if totals[label] else 1.0
        for label in totals
    ]
    return float(np.mean(areas))


def _groups(
    found: _Found,
    keys: list[tuple[str, str, int]],
    spans: np.ndarray,
    fates: np.ndarray,
    seconds: Mapping[str, float],
) -> dict[str, list[dict[str, Any]]]:
    """Return the groups of events and false detections by length, number of instances and crowding."""
    instances = Counter((label, video) for label, video, _ in keys)
    in_video = Counter(video for _, video, _ in keys)

    def crowding(video: str) -> float:
        return 60 * in_video[video] / seconds[video]

    false = [row for row, kind in enumerate(found.kind) if kind in FALSE]
    rows = [found.ranked[row] for row in false]
    kinds = [found.kind[row] for row in false]
    measures: dict[str, tuple[list[float], list[float], list[float], Callable[[int], str]]] = {}
    lengths = (spans[:, 1] - spans[:, 0]).tolist()
    edges = _quarters(lengths)
    measures["length"] = lengths, [row.end_s - row.start_s for row in rows], edges, _between(edges, " s")
    numbers = [float(instances[label, video]) for label, video, _ in keys]
    of_rows = [float(instances[row.label, row.video]) for row in rows]
    measures["instances"] = numbers, of_rows, [float(most) for most, _ in INSTANCES[:-1]], lambda g: INSTANCES[g][1]
    crowds = [crowding(video) for _, video, _ in keys]
    edges = _quarters(crowds)
    measures["crowding"] = crowds, [crowding(row.video) for row in rows], edges, _between(edges, " a minute")
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, (of_events, of_false, edges, title) in measures.items():
        # A value equal to an edge belongs below it.
        group_of_events, group_of_false = (np.searchsorted(edges, values) for values in (of_events, of_false))
        groups[name] = []
        for group in range(len(edges) + 1):
            counted = Counter(fates[group_of_events == group].tolist())
            mistakes = Counter(kind for kind, at in zip(kinds, group_of_false, strict=True) if at == group)
            if counted or mistakes:
                groups[name].append({
                    "group": title(group),
                    "events": {fate: counted[fate] for fate in FATES},
                    "false": {kind: mistakes[kind] for kind in FALSE},
                })  # fmt: skip
    return groups


def _quarters(values: Sequence[float]) -> list[float]:
    """Return up to three values that divide ``values`` into quarters: fewer where many are equal, none if all are."""
    most = max(values)
    below = [value for value in values if value < most]
    if not below:
        return []
    # Where the greatest value is so frequent that it is a quarter's edge, the edge is the value before it.
    edges = [min(float(edge), max(below)) for edge in np.quantile(values, (0.25, 0.5, 0.75))]
    return np.unique([float(f"{edge:.3g}") for edge in edges]).tolist()


def _between(edges: Sequence[float], unit: str) -> Callable[[int], str]:
    """Return the function that names group ``g`` of the values between ``edges``."""

    def title(group: int) -> str:
        if not edges:
            return "all"
        if group == 0:
            return f"up to {edges[0]:g}{unit}"
        if group == len(edges):
            return f"over {edges[-1]:g}{unit}"
        return f"{edges[group - 1]:g} to {edges[group]:g}{unit}"

    return title
