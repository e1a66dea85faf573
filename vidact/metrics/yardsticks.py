"""Baselines that ignore the video: a figure means little unless it is compared with them.

A guess predicts each class equally often; the majority baseline always predicts the most frequent label. Rows are
clips, or tokens of videos.

Shapes: N rows, C classes (1 + K with a background in column 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vidact.metrics.frame_ap import check_frames, mean_of_known
from vidact.metrics.topk import confusion_matrix

LUCK = 0.05  # a lead that occurs by chance with a higher probability proves nothing


@dataclass(frozen=True)
class Yardsticks:
    """The figures that predictions reach without looking at the video.

    ``chance`` is the accuracy of a guess and ``majority`` that of always predicting column ``majority_class``.
    ``chance_map`` is the mean average precision of scores in random order: the mean share of the classes that occur,
    without the background; NaN where none does.
    """

    chance: float
    majority: float
    majority_class: int
    chance_map: float


def yardsticks(targets: ArrayLike, ignore: ArrayLike | None = None, has_background: bool = False) -> Yardsticks:
    """Return what a guess and the most frequent label reach on ``targets`` (N, C); a row may have several classes.

    Args:
        targets: the truth as 0/1.
        ignore: (N,) True where the label is ambiguous.
        has_background: column 0 is the background, which no mean average precision counts.
    """
    truth = np.asarray(targets) == 1
    if truth.ndim != 2 or not truth.size:
        raise ValueError(f"targets have the shape {truth.shape}; they must be (rows, classes), at least one of each")
    if ignore is not None:
        truth = truth[~np.asarray(ignore, dtype=bool)]
    if not len(truth):
        raise ValueError(f"all of the {len(np.asarray(targets))} rows are ambiguous, so that none counts")
    share = truth.mean(0)
    occurring = np.where(share > 0, share, np.nan)[int(has_background) :]
    return Yardsticks(float(share.mean()), float(share.max()), int(share.argmax()), mean_of_known(occurring))


def token_confusion(scores: ArrayLike, targets: ArrayLike, ignore: ArrayLike | None = None) -> np.ndarray:
    """Return counts (1+K, 1+K): entry [i, j] is how often column j was predicted for tokens of class i.

    The background comes first. The prediction is a token's best-scored column. A token of several actions is right if
    one of them is predicted, and counts in the row of that action; otherwise it counts in the row of the first.

    Args:
        scores: (N, 1+K), the background first.
        targets: the truth as 0/1 (N, 1+K).
        ignore: (N,) True where the label is ambiguous.
    """
    frames = check_frames(scores, targets, ignore)
    called, truth = frames.scores[~frames.ignore].argmax(1), frames.positive[~frames.ignore]
    right = np.take_along_axis(truth, called[:, None], 1)[:, 0]
    return confusion_matrix(called, np.where(right, called, truth.argmax(1)), truth.shape[1])


def token_accuracy(scores: ArrayLike, targets: ArrayLike, ignore: ArrayLike | None = None) -> float:
    """Return the share of tokens whose best-scored column, background included, is true; NaN without a token.

    The arguments are those of ``token_confusion``.
    """
    return accuracy_of(token_confusion(scores, targets, ignore))


def accuracy_of(counts: np.ndarray) -> float:
    """Return the share of a confusion matrix's counts that lies on its diagonal; NaN for an empty matrix."""
    return float(counts.trace() / counts.sum()) if counts.sum() else float("nan")


def lead_is_luck(right: ArrayLike, constant_right: ArrayLike) -> bool:
    """Return whether predictions lead over a constant prediction by no more than chance explains (sign test).

    Only rows where exactly one of the two is right count. The lead is luck if, with a fair coin for each of these rows,
    the predictions would win as many or more of them with a probability above 5 %. Rows must be independent of each
    other, such as clips of different sources.

    Args:
        right: (N,) True where the prediction is right.
        constant_right: (N,) True where the constant prediction is right.
    """
    predicted, constant = np.asarray(right, dtype=bool), np.asarray(constant_right, dtype=bool)
    if predicted.shape != constant.shape:
        raise ValueError(f"answers of the shapes {predicted.shape} and {constant.shape} cannot be compared row by row")
    ahead, behind = int((predicted & ~constant).sum()), int((constant & ~predicted).sum())
    tosses = ahead + behind
    # The binomial coefficients are summed as logarithms, because 2 ** n is no float where n is thousands.
    logs = np.concatenate([[0.0], np.log(np.arange(1, tosses + 1))]).cumsum()
    k = np.arange(ahead, tosses + 1)
    chance = np.exp(logs[tosses] - logs[k] - logs[tosses - k] - tosses * np.log(2)).sum()
    return bool(chance > LUCK)


def verdict(
    sticks: Yardsticks,
    names: Sequence[str],
    accuracy: float | None = None,
    mean_precision: float | None = None,
    is_luck: bool = False,
) -> str:
    """Return a sentence where a figure is no better than a baseline that ignores the video, else an empty string.

    Args:
        sticks: the baselines on the same rows.
        names: the names of the columns, the background's included where there is one.
        accuracy: None where rows have several classes.
        mean_precision: mean average precision; None where it was not computed.
        is_luck: whether chance explains the accuracy's lead; see ``lead_is_luck``.
    """
    faults = []
    if accuracy is not None and (accuracy <= sticks.majority or is_luck):
        always = f"always answering {names[sticks.majority_class]!r} ({sticks.majority:.3f})"
        surely = "no better than" if accuracy <= sticks.majority else "not surely better than"
        faults.append(f"the accuracy ({accuracy:.3f}) is {surely} {always}")
    if mean_precision is not None and mean_precision <= sticks.chance_map:
        faults.append(f"the mAP ({mean_precision:.3f}) is no better than a guess's ({sticks.chance_map:.3f})")
    return " and ".join(faults)
