"""Accuracy of clip recognition: top-k, mean class accuracy, confusion, and average precision for multi-label clips.

Where scores tie, the class with the lower index comes first, as in ``argmax``: the same scores always give the same
figure, and a network that scores all classes alike predicts class 0. A NaN score has no rank and raises an error.

Shapes: N videos, K classes.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike

from vidact.metrics.frame_ap import mean_of_known, precision_recall


def topk_accuracy(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Return the share of videos whose true class is among the ``k`` best of ``scores`` (N, K).

    ``labels`` (N,) are class indices. ``k`` is capped at K: top-5 of two classes is always 1.
    """
    if k < 1:
        raise ValueError(f"top-{k} has no meaning; k starts at 1")
    return float((true_class_rank(scores, labels) < k).mean())


def is_trivial(figure: str, num_classes: int) -> bool:
    """Return whether a figure such as ``test_top5`` is always 1, because its k is at least the number of classes."""
    match = re.search(r"(?:^|_)top(\d+)$", figure)
    return match is not None and int(match[1]) >= num_classes


def true_class_rank(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the number of classes that rank before the true one in each row of ``scores`` (N, K): (N,), 0 is right."""
    values, truth = _checked(scores, labels)
    true_score = np.take_along_axis(values, truth[:, None], axis=1)  # (N, 1)
    earlier = np.arange(values.shape[1]) < truth[:, None]  # (N, K)
    return ((values > true_score) | ((values == true_score) & earlier)).sum(1)


def mean_class_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean accuracy of the classes that occur in ``labels``; a rare class counts as much as any other.

    The test scripts of TSN and TSM print this figure beside top-1; the two differ where classes differ in size.
    """
    return float(np.nanmean(per_class_accuracy(scores, labels)))


def per_class_accuracy(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the share of each class's videos that are recognised, (K,); NaN for a class with no video."""
    values, truth = _checked(scores, labels)
    counts = confusion_matrix(values, truth)
    videos = counts.sum(1)
    return np.divide(counts.diagonal(), videos, out=np.full(len(videos), np.nan), where=videos > 0)


def confusion_matrix(predictions: ArrayLike, labels: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """Return counts (K, K): entry [i, j] is how often class j was predicted where the truth is i.

    ``predictions`` are class indices (N,), which need ``num_classes``, or scores (N, K), of which the best one counts.
    """
    predicted = np.asarray(predictions)
    if predicted.ndim == 2:
        if num_classes not in (None, predicted.shape[1]):
            raise ValueError(f"scores of {predicted.shape[1]} classes cannot fill a matrix of {num_classes} classes")
        num_classes = predicted.shape[1]
        predicted = _checked(predicted, labels)[0].argmax(1)
    if num_classes is None:
        raise ValueError("predictions are class indices, so num_classes must say how many classes there are")
    predicted = _indices(predicted, num_classes, "prediction")
    truth = _indices(labels, num_classes, "label")
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions cannot be compared with {len(truth)} labels")
    return np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def average_precision(scores: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """Return the area under each class's precision-recall steps, (K,); ``targets`` (N, K) are 0/1.

    A class without a positive has NaN. Videos of equal score enter together, so their order does not matter.
    """
    values, truth = _score_array(scores), np.asarray(targets)
    if truth.shape != values.shape:
        raise ValueError(f"targets have the shape {truth.shape} and scores {values.shape}; both must be (N, K)")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"targets must be 0 or 1; the first other value is {truth[~np.isin(truth, (0, 1))][0]}")
    return np.array([precision_recall(values[:, c], truth[:, c]).area() for c in range(values.shape[1])])


def mean_average_precision(scores: ArrayLike, targets: ArrayLike) -> float:
    """Return the mean of ``average_precision`` over the classes that have a positive; NaN where none has."""
    return mean_of_known(average_precision(scores, targets))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values = _score_array(scores)
    truth = _indices(labels, values.shape[1], "label")
    if len(values) != len(truth):
        raise ValueError(f"{len(values)} rows of scores cannot be compared with {len(truth)} labels")
    return values, truth


def _score_array(scores: ArrayLike) -> np.ndarray:
    values = np.asarray(scores)
    if values.ndim != 2:
        raise ValueError(f"scores have the shape {values.shape}; they must be (videos, classes)")
    if values.size == 0:
        raise ValueError(f"scores have the shape {values.shape}; there is nothing to measure")
    broken = np.isnan(values).any(1)
    if broken.any():
        raise ValueError(
            f"{broken.sum()} of {len(values)} videos have NaN scores, the first in row {broken.argmax()}; "
            f"NaN has no rank. Did training diverge?"
        )
    return values


def _indices(classes: ArrayLike, num_classes: int, noun: str) -> np.ndarray:
    indices = np.asarray(classes)
    if indices.ndim != 1:
        raise ValueError(f"{noun}s have the shape {indices.shape}; they must be class indices of shape (videos,)")
    whole = indices.astype(np.int64)
    wrong = (whole != indices) | (whole < 0) | (whole >= num_classes)
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(f"{noun} {indices[row]} in row {row} is not a class: 0…{num_classes - 1} are")
    return whole
