"""What answers reach that look at nothing: a figure means little until it stands beside them.

A guess names each class equally often; the majority's answer is always the most frequent label. Rows are clips, or
tokens of videos.

Shapes: N rows, C classes (1 + K with a background in column 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vidact.metrics.frame_ap import check_frames, mean_of_known
from vidact.metrics.topk import confusion_matrix

LUCK = 0.05  # a lead that luck gives more often than this proves nothing


@dataclass(frozen=True)
class Yardsticks:
    """``chance`` is a guess's accuracy, ``majority`` that of always answering column ``majority_class``.

    ``chance_map`` is the mean average precision of scores in random order: the mean share of the classes that occur,
    without the background; NaN where none does.
    """

    chance: float
    majority: float
    majority_class: int
    chance_map: float


def yardsticks(targets: ArrayLike, ignore: ArrayLike | None = None, has_background: bool = False) -> Yardsticks:
    """What a guess and the most frequent label reach on ``targets`` 0/1 (N, C); a row may be of several classes.

    Args:
        targets: the truth.
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
    """How often tokens of class i were called j: counts (1+K, 1+K), rows are the truth, the background first.

    What a token is called is its best-scored column. A token of several actions is right if it is called one of them,
    and stands in that one's row; otherwise in the row of the first.

    Args:
        scores: (N, 1+K).
        targets: 0/1 (N, 1+K).
        ignore: (N,) True where the label is ambiguous.
    """
    frames = check_frames(scores, targets, ignore)
    called, truth = frames.scores[~frames.ignore].argmax(1), frames.positive[~frames.ignore]
    right = np.take_along_axis(truth, called[:, None], 1)[:, 0]
    return confusion_matrix(called, np.where(right, called, truth.argmax(1)), truth.shape[1])


def token_accuracy(scores: ArrayLike, targets: ArrayLike, ignore: ArrayLike | None = None) -> float:
    """Share of the tokens whose best-scored column, of the actions and the background, is true; NaN without a token.

    The arguments are those of ``token_confusion``.
    """
    return accuracy_of(token_confusion(scores, targets, ignore))


def accuracy_of(counts: np.ndarray) -> float:
    """Share of a confusion matrix's counts that lies on its diagonal; NaN of an empty one."""
    return float(counts.trace() / counts.sum()) if counts.sum() else float("nan")


def lead_is_luck(right: ArrayLike, constant_right: ArrayLike) -> bool:
    """Whether answers that are right where ``right`` (N,) says so may be no better than others, right elsewhere.

    By the sign test: of the rows where just one of the two is right, so many or more would be the first one's by the
    toss of a coin in over 5 % of all cases. Rows are independent of each other, such as clips of different sources.
    """
    mine, constant = np.asarray(right, dtype=bool), np.asarray(constant_right, dtype=bool)
    if mine.shape != constant.shape:
        raise ValueError(f"answers of the shapes {mine.shape} and {constant.shape} cannot be compared row by row")
    ahead, behind = int((mine & ~constant).sum()), int((constant & ~mine).sum())
    tosses = ahead + behind
    # log C(n, k) sums up: n may be thousands, and 2 ** n no float
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
    """A sentence where a figure is no better than an answer that looks at nothing; empty where it is better.

    Args:
        sticks: of the same rows.
        names: of the columns, the background's included where there is one.
        accuracy: None where rows of several classes have none.
        mean_precision: mean average precision; None where it was not computed.
        is_luck: that the accuracy leads by no more than luck may give; see ``lead_is_luck``.
    """
    faults = []
    if accuracy is not None and (accuracy <= sticks.majority or is_luck):
        always = f"always answering {names[sticks.majority_class]!r} ({sticks.majority:.3f})"
        surely = "no better than" if accuracy <= sticks.majority else "not surely better than"
        faults.append(f"the accuracy ({accuracy:.3f}) is {surely} {always}")
    if mean_precision is not None and mean_precision <= sticks.chance_map:
        faults.append(f"the mAP ({mean_precision:.3f}) is no better than a guess's ({sticks.chance_map:.3f})")
    return " and ".join(faults)
