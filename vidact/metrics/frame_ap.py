"""Average precision of per-frame scores: online detection, calibrated, by portion of the action, and of the future.

Published figures differ in the frames that they score and in how they change the scores first. Each protocol has a name
here:

``lstr``           every frame except ambiguous ones; equal scores enter together, as in scikit-learn. Used by TRN,
                   LSTR, TeSTra, MAT, CMeRT, MiniROAD and E2E-LOAD, and the default here.
``oadtr``          frames 63 … T - 10 of each video, except ambiguous ones; equal scores enter one by one. Used by
                   OadTR, CoOadTR and Colar.
``gatehub``        every frame except the first of each video and those whose *oldest present* frame, seven back, is
                   ambiguous: some ambiguous frames stay, as negatives, and some others go. Used by GateHUB.
``legacy-smooth``  as ``lstr``, after each score is replaced by the largest of the five around it, two of which are
                   later. The Matlab protocol of 2015 to 2017 (CDC); it uses the future, and its figures are far higher.
``idu-smooth``     every frame, ambiguous ones as negatives, after y_t = (y_(t-1) + x_t) / 2 over all videos as if they
                   were one; equal scores enter one by one. IDU scores TVSeries in this way.

Rows are frames (tokens) of whole videos, one after another: there is one ranking over the data set, not a mean over
videos. Column 0 is the background, which is never part of the mean; a frame may have several classes. A network that
also has an ambiguous output is scored without that column: softmax first, then leave it out (``oadtr`` leaves it out
first).

Shapes: N frames, K actions, L outputs about the future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Ties = Literal["together", "in order"]

# ---------------------------------------------------------------------------------------------------- one class's curve


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """The precision and recall of a ranking, best scores first, at each of its n cuts.

    ``thresholds``, ``hits`` and ``precision`` (n,) are the lowest score above a cut, the number of positives above it,
    and their share (calibrated where a weight was given). ``total`` is the number of all positives.
    """

    thresholds: np.ndarray
    hits: np.ndarray
    precision: np.ndarray
    total: int

    @property
    def recall(self) -> np.ndarray:
        return self.hits / self.total if self.total else np.full(len(self.hits), np.nan)

    @property
    def envelope(self) -> np.ndarray:
        """Return the best precision at this recall or any higher, (n,)."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]

    def area(self, interpolated: bool = False) -> float:
        """Return average precision: precision weighted by the recall gained; NaN without a positive.

        ``interpolated`` uses the envelope as the precision, as ActivityNet's and VOC 2010's code do.
        """
        precision = self.envelope if interpolated else self.precision
        return float((np.diff(self.hits, prepend=0) * precision).sum() / self.total) if self.total else float("nan")

    def mean_at(self, points: int) -> float:
        """Return the mean of the envelope at ``points`` recalls, 0 to 1 (11 in VOC 2007); NaN without a positive."""
        if points < 2:
            raise ValueError(f"{points} points of recall have no mean; 2 are the least, and 11 the custom")
        if not self.total:
            return float("nan")
        # Recalls are compared as whole numbers: as floats, 3 hits of 10 may differ from a recall of 0.3.
        rank = np.searchsorted(self.hits * (points - 1), np.arange(points) * self.total)
        return float(np.append(self.envelope, 0.0)[rank].mean())


def precision_recall(
    scores: ArrayLike,
    positives: ArrayLike,
    weight: float = 1.0,
    ties: Ties = "together",
    total: int | None = None,
) -> PrecisionRecall:
    """Return the precision-recall curve of one class.

    Args:
        scores: (N,) without NaN; higher is more certain.
        positives: (N,) True or 1 where the class is true.
        weight: w of calibrated precision, w·TP / (w·TP + FP); 1 is plain precision.
        ties: "together" cuts below each group of equal scores, as scikit-learn does: the order of rows does not matter.
            "in order" cuts below each row; of equal rows the earlier comes first.
        total: number of all positives, where the rows do not contain all of them, as in detection.
    """
    values, right = np.asarray(scores, dtype=np.float64), np.asarray(positives, dtype=bool)
    order = np.argsort(-values, kind="stable")
    values, right = values[order], right[order]
    cut = np.full(len(values), True)
    if ties == "together":
        cut[:-1] = values[1:] != values[:-1]
    hits, ranks = right.cumsum()[cut], np.flatnonzero(cut) + 1
    total_weight = weight * hits + (ranks - hits)
    # The sum is 0 only where the weight is 0, which happens where every frame is positive: precision is then 1.
    precision = np.divide(weight * hits, total_weight, out=np.ones(len(hits)), where=total_weight > 0)
    return PrecisionRecall(values[cut], hits, precision, int(right.sum()) if total is None else total)


# ----------------------------------------------------------------------------------------------------- frames of videos


@dataclass(frozen=True, eq=False)
class Frames:
    """The checked rows: ``scores`` and ``positive`` bool (N, 1+K), ``ignore`` bool (N,), ``borders`` (V+1,).

    Video v is the rows ``borders[v]`` … ``borders[v + 1] - 1``; None where no video ids were given.
    """

    scores: np.ndarray
    positive: np.ndarray
    ignore: np.ndarray
    borders: np.ndarray | None

    def __len__(self) -> int:
        return len(self.scores)

    def video_borders(self, purpose: str) -> np.ndarray:
        if self.borders is None:
            raise ValueError(
                f"{purpose} depends on where videos begin and end; give video_ids, the video of each of the "
                f"{len(self)} rows"
            )
        return self.borders


def check_frames(
    scores: ArrayLike, targets: ArrayLike, ignore: ArrayLike | None = None, video_ids: ArrayLike | None = None
) -> Frames:
    """Return the checked rows; raise ValueError for what cannot be scored. NumPy arrays and tensors are accepted."""
    values, truth = np.asarray(scores), np.asarray(targets)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"scores have the shape {values.shape}; they must be (frames, 1 background + actions)")
    positive = _positives(truth, values.shape, "scores")
    if not len(values):
        raise ValueError("there are no frames to score")
    _refuse_nan(values)
    skipped = _ignored(ignore, len(values))
    return Frames(values, positive, skipped, None if video_ids is None else borders_of(video_ids, len(values)))


def _positives(truth: np.ndarray, shape: tuple[int, ...], noun: str) -> np.ndarray:
    if truth.shape != shape:
        raise ValueError(f"targets have the shape {truth.shape} and {noun} {shape}; each row needs its target")
    wrong = (truth != 0) & (truth != 1)
    if wrong.any():
        raise ValueError(f"targets must be 0 or 1; row {wrong.any(1).argmax()} has {truth[wrong][0]}")
    return truth == 1


def _refuse_nan(values: np.ndarray) -> None:
    broken = np.isnan(values).reshape(len(values), -1).any(1)
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of {len(values)} rows have NaN scores, the first is row {broken.argmax()}; "
            f"NaN has no rank. Are the features finite, and did training diverge?"
        )


def _ignored(ignore: ArrayLike | None, rows: int) -> np.ndarray:
    if ignore is None:
        return np.zeros(rows, dtype=bool)
    skipped = np.asarray(ignore)
    if skipped.shape != (rows,):
        raise ValueError(f"ignore has the shape {skipped.shape}; it must have one boolean for each of the {rows} rows")
    return skipped.astype(bool)


def borders_of(video_ids: ArrayLike, rows: int) -> np.ndarray:
    """Return the first row of each video, followed by ``rows``: (V+1,)."""
    ids = np.asarray(video_ids)
    if ids.shape != (rows,):
        raise ValueError(f"video_ids have the shape {ids.shape}; they must name the video of each of the {rows} rows")
    first = np.append(0, np.flatnonzero(ids[1:] != ids[:-1]) + 1)
    names, counts = np.unique(ids[first], return_counts=True)
    if counts.max() > 1:
        raise ValueError(
            f"the rows of {names[counts.argmax()]} stand in {counts.max()} places; the rows of a video belong together"
        )
    return np.append(first, rows)


def runs(active: np.ndarray, borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last row (inclusive) of each run of True in ``active`` (N,); a video's end ends a run."""
    before, after = np.append(False, active[:-1]), np.append(active[1:], False)
    before[borders[:-1]] = False
    after[borders[1:] - 1] = False
    return np.flatnonzero(active & ~before), np.flatnonzero(active & ~after)


def _position(borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's index within its video and that video's length, both (N,)."""
    lengths = np.diff(borders)
    return np.arange(borders[-1]) - np.repeat(borders[:-1], lengths), np.repeat(lengths, lengths)


# ------------------------------------------------------------------------------------------------------------ protocols


def _keep_lstr(frames: Frames) -> np.ndarray:
    return ~frames.ignore


def _keep_oadtr(frames: Frames) -> np.ndarray:
    # A sample has 64 past and 8 future frames; the published code leaves out the last nine frames, not eight.
    position, length = _position(frames.video_borders("protocol 'oadtr'"))
    return (position >= 63) & (position <= length - 10) & ~frames.ignore


def _keep_gatehub(frames: Frames) -> np.ndarray:
    # The published argmax runs over the flattened targets of eight present frames, so it returns the oldest's label.
    position, _ = _position(frames.video_borders("protocol 'gatehub'"))
    oldest = np.arange(len(frames)) - np.minimum(position, 7)
    return (position > 0) & ~frames.ignore[oldest]


def _keep_all(frames: Frames) -> np.ndarray:
    return np.ones(len(frames), dtype=bool)


def _largest_of_five(frames: Frames) -> np.ndarray:
    borders = frames.video_borders("protocol 'legacy-smooth'")
    video = np.repeat(np.arange(len(borders) - 1), np.diff(borders))
    result = frames.scores.copy()
    for shift in (1, 2):
        same = (video[shift:] == video[:-shift])[:, None]
        np.maximum(result[shift:], frames.scores[:-shift], out=result[shift:], where=same)
        np.maximum(result[:-shift], frames.scores[shift:], out=result[:-shift], where=same)
    return result


def _recursive_mean(frames: Frames) -> np.ndarray:
    result = frames.scores.astype(np.float64)
    for row in range(1, len(result)):
        result[row] = (result[row - 1] + result[row]) / 2
    return result


@dataclass(frozen=True)
class _Protocol:
    keep: Callable[[Frames], np.ndarray]
    ties: Ties
    smooth: Callable[[Frames], np.ndarray] | None = None


PROTOCOLS = {
    "lstr": _Protocol(_keep_lstr, "together"),
    "oadtr": _Protocol(_keep_oadtr, "in order"),
    "gatehub": _Protocol(_keep_gatehub, "in order"),
    "legacy-smooth": _Protocol(_keep_lstr, "together", _largest_of_five),
    "idu-smooth": _Protocol(_keep_all, "in order", _recursive_mean),
}


# -------------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True, eq=False)
class FrameAP:
    """The average precision ``per_class`` (K,), NaN without a positive, of ``rows`` frames scored by ``protocol``."""

    per_class: np.ndarray
    rows: int
    protocol: str

    @property
    def mean(self) -> float:
        """Return the mean over the actions that occur; NaN where none does."""
        return mean_of_known(self.per_class)


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN where all are."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else float("nan")


def frame_map(
    scores: ArrayLike,
    targets: ArrayLike,
    ignore: ArrayLike | None = None,
    protocol: str = "lstr",
    video_ids: ArrayLike | None = None,
    switch: tuple[int, int] | None = None,
) -> FrameAP:
    """Return the mean average precision over frames, by a named protocol.

    Args:
        scores: probabilities (N, 1+K), the background first.
        targets: the truth as 0/1 (N, 1+K).
        ignore: (N,) True where the label is ambiguous.
        protocol: "lstr", "oadtr", "gatehub", "legacy-smooth" or "idu-smooth"; see the top of this file.
        video_ids: (N,) the video of each row; "oadtr", "gatehub" and "legacy-smooth" need it.
        switch: columns (a, b): where a's score is higher than b's, it also counts for b. The Matlab protocol scores
            THUMOS'14 with (5, 8), CliffDiving and Diving; LSTR and its successors have this as an option.
    """
    rule = _protocol(protocol)
    scores, positive = _scored_rows(scores, targets, ignore, protocol, video_ids, switch)
    per_class = [precision_recall(scores[:, c], positive[:, c], 1.0, rule.ties).area() for c in _actions(scores)]
    return FrameAP(np.array(per_class), len(scores), protocol)


def calibrated_map(
    scores: ArrayLike,
    targets: ArrayLike,
    ignore: ArrayLike | None = None,
    protocol: str = "lstr",
    video_ids: ArrayLike | None = None,
    switch: tuple[int, int] | None = None,
    weight: float | None = None,
) -> FrameAP:
    """Return the mean calibrated average precision, mcAP (De Geest et al. 2016), w·TP / (w·TP + FP).

    w = negatives / positives of the class over the frames scored, so a guess scores about 0.5 however rare the class
    is. It saturates: show ``frame_map`` beside it. The other arguments are those of ``frame_map``.

    Args:
        weight: w, the same for all classes; 1 gives average precision.
    """
    if weight is not None and weight <= 0:
        raise ValueError(f"weight is {weight:g}; true positives need a weight above 0")
    _protocol(protocol)
    scores, positive = _scored_rows(scores, targets, ignore, protocol, video_ids, switch)
    per_class = [_calibrated_area(scores[:, c], positive[:, c], weight) for c in _actions(scores)]
    return FrameAP(np.array(per_class), len(scores), protocol)


def _calibrated_area(scores: np.ndarray, positive: np.ndarray, weight: float | None = None) -> float:
    num_positive = int(positive.sum())
    if weight is None and num_positive:
        weight = (len(positive) - num_positive) / num_positive
    # Ties enter one by one, as in the published code. Its sort is unstable; ours is stable and repeats its figures.
    return precision_recall(scores, positive, weight or 0.0, "in order").area()


def _protocol(name: str) -> _Protocol:
    if name not in PROTOCOLS:
        raise ValueError(f"{name!r} is no protocol; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _actions(scores: np.ndarray) -> range:
    return range(1, scores.shape[1])


def _scored_rows(
    scores: ArrayLike,
    targets: ArrayLike,
    ignore: ArrayLike | None,
    protocol: str,
    video_ids: ArrayLike | None,
    switch: tuple[int, int] | None,
) -> tuple[np.ndarray, np.ndarray]:
    frames, rule = check_frames(scores, targets, ignore, video_ids), PROTOCOLS[protocol]
    values = frames.scores if rule.smooth is None else rule.smooth(frames)
    if switch is not None:
        if not all(0 < column < values.shape[1] for column in switch):
            raise ValueError(f"switch is {switch}; the columns of actions are 1 … {values.shape[1] - 1}")
        values = values.copy()
        np.maximum(values[:, switch[1]], values[:, switch[0]], out=values[:, switch[1]])
    keep = rule.keep(frames)
    if not keep.any():
        raise ValueError(
            f"protocol {protocol!r} scores none of the {len(frames)} rows; are the videos too short for it?"
        )
    return values[keep], frames.positive[keep]


# ----------------------------------------------------------------------------------------------------------- the future


@dataclass(frozen=True, eq=False)
class AnticipationAP:
    """The average precision ``per_class`` (L, K) over ``rows`` (L,) frames, for predictions ``seconds`` (L,) ahead."""

    seconds: np.ndarray
    per_class: np.ndarray
    rows: np.ndarray

    @property
    def per_offset(self) -> np.ndarray:
        """Return the mean over the actions at each distance, (L,)."""
        return np.array([mean_of_known(row) for row in self.per_class])

    @property
    def mean(self) -> float:
        return mean_of_known(self.per_offset)


def anticipation_map(
    future_scores: ArrayLike,
    targets: ArrayLike,
    offsets: Sequence[int],
    tokens_per_second: float,
    video_ids: ArrayLike,
    ignore: ArrayLike | None = None,
) -> AnticipationAP:
    """Return the mean average precision of anticipation, such as 0.25, 0.5, … 2 s ahead: 1 … 8 of 4 tokens a second.

    The prediction at token t for ``offsets[j]`` = k tokens later is compared with the label of token t + k, by the
    rules of ``lstr``: frames whose t + k lies beyond the end of the video, or is ambiguous, are left out.

    Args:
        future_scores: (N, L, 1+K), row t holds the predictions made at t.
        targets: the truth as 0/1 (N, 1+K), row t holds the labels of t.
        offsets: L whole numbers of tokens from 1 on: a network's ``future_offsets`` without 0, the present.
        tokens_per_second: the rate that turns offsets into seconds.
        video_ids: (N,) the video of each row.
        ignore: (N,) True where the label is ambiguous.
    """
    values, truth = np.asarray(future_scores), np.asarray(targets)
    if values.ndim != 3 or values.shape[2] < 2:
        raise ValueError(
            f"future scores have the shape {values.shape}; they must be (frames, offsets, 1 background + actions)"
        )
    if values.shape[1] != len(offsets):
        raise ValueError(f"{values.shape[1]} outputs cannot be matched with {len(offsets)} offsets {tuple(offsets)}")
    if not len(offsets):
        raise ValueError("there are no offsets, so nothing about the future to score")
    if min(offsets) < 1 or any(k != int(k) for k in offsets):
        raise ValueError(
            f"offsets are {tuple(offsets)}; anticipation is for 1 token ahead or more, in whole tokens. "
            "An output about now (offset 0, the first of TRN's) belongs to frame_map"
        )
    positive = _positives(truth, (len(values), values.shape[2]), "future scores, less their second axis,")
    if not len(values):
        raise ValueError("there are no frames to score")
    _refuse_nan(values)
    skipped = _ignored(ignore, len(values))
    position, length = _position(borders_of(video_ids, len(values)))
    per_class, rows = [], []
    for j, ahead in enumerate(offsets):
        now = np.flatnonzero(position + ahead < length)
        now = now[~skipped[now + ahead]]
        predicted, true = values[now, j], positive[now + ahead]
        per_class.append([precision_recall(predicted[:, c], true[:, c]).area() for c in _actions(predicted)])
        rows.append(len(now))
    return AnticipationAP(np.array(offsets) / tokens_per_second, np.array(per_class), np.array(rows))


# ---------------------------------------------------------------------------------------------- how early in the action


@dataclass(frozen=True, eq=False)
class PortionAP:
    """The calibrated AP ``per_class`` (P, K), where row p counts only the p-th of P parts of each action."""

    per_class: np.ndarray

    @property
    def per_portion(self) -> np.ndarray:
        """Return the mean over the actions in each portion, (P,)."""
        return np.array([mean_of_known(row) for row in self.per_class])

    @property
    def mean(self) -> float:
        return mean_of_known(self.per_portion)


def portion_map(
    scores: ArrayLike,
    targets: ArrayLike,
    video_ids: ArrayLike,
    ignore: ArrayLike | None = None,
    portions: int = 10,
    legacy_length: bool = False,
) -> PortionAP:
    """Return calibrated mAP by portion: how well an action is detected in its first tenth, its second tenth, ….

    An instance is a run of frames of one class, from ``start`` to ``end`` inclusive. In portion p its positives are the
    frames from start + ⌊len·p/10⌋ up to, but not including, start + ⌊len·(p+1)/10⌋, and at least one frame. The
    negatives are all background frames; other frames of any action are left out.

    Args:
        scores: probabilities (N, 1+K), the background first.
        targets: the truth as 0/1 (N, 1+K).
        video_ids: (N,) the video of each row.
        ignore: (N,) True where the label is ambiguous; such frames are left out.
        portions: number of parts of an instance.
        legacy_length: use len = end - start, as the published code does, which never counts an instance's last frame
            (unless it is the only one); ours is end - start + 1.
    """
    if portions < 1:
        raise ValueError(f"portions is {portions}; an action has one part at the least")
    frames = check_frames(scores, targets, ignore, video_ids)
    borders = frames.video_borders("an instance of an action")
    background = frames.positive[:, 0] & ~frames.ignore
    per_class = np.full((portions, frames.scores.shape[1] - 1), np.nan)
    for column in _actions(frames.scores):
        start, end = runs(frames.positive[:, column], borders)
        length = end - start + (0 if legacy_length else 1)
        # The rows are sorted once here; sorting them again in each portion then takes little time.
        order = np.argsort(-frames.scores[:, column].astype(np.float64), kind="stable")
        for p in range(portions):
            low = start + length * p // portions
            high = np.maximum(low + 1, start + length * (p + 1) // portions)
            edges = np.bincount(low, minlength=len(frames) + 1) - np.bincount(high, minlength=len(frames) + 1)
            inside = (edges.cumsum()[:-1] > 0) & ~frames.ignore
            rows = order[(inside | background)[order]]
            per_class[p, column - 1] = _calibrated_area(frames.scores[rows, column], inside[rows])
    return PortionAP(per_class)
