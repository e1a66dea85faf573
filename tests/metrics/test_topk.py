"""Clip figures equal scikit-learn's and slow versions that can be read aloud."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from vidact.metrics import (
    average_precision,
    confusion_matrix,
    mean_average_precision,
    mean_class_accuracy,
    per_class_accuracy,
    topk_accuracy,
)


def slow_topk(scores, labels, k):
    hits = 0
    for row, label in zip(scores, labels, strict=True):
        best_first = sorted(range(len(row)), key=lambda c: (-row[c], c))
        hits += label in best_first[:k]
    return hits / len(labels)


def slow_average_precision(scores, positives):
    """Precision wherever a threshold lets new positives in, weighted by how many they are."""
    total, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        taken = [p for s, p in zip(scores, positives, strict=True) if s >= threshold]
        total += (sum(taken) - before) / sum(positives) * sum(taken) / len(taken)
        before = sum(taken)
    return total


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 12)), rng.integers(0, 12, 200)


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_topk_equals_scikit_learn(data, k):
    scores, labels = data
    theirs = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(12)) if k < 12 else 1.0
    assert topk_accuracy(scores, labels, k) == pytest.approx(theirs)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_topk_equals_slow_version_with_ties(k):
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 3, (100, 7)), rng.integers(0, 7, 100)
    assert topk_accuracy(scores, labels, k) == pytest.approx(slow_topk(scores, labels, k))


def test_tied_scores_agree_with_argmax():
    """A network that scores all classes alike has said class 0, in every figure."""
    scores, labels = np.zeros((4, 3)), [0, 1, 2, 0]
    assert topk_accuracy(scores, labels) == 0.5
    assert confusion_matrix(scores, labels)[:, 0].tolist() == [2, 1, 1]


def test_top5_of_two_classes():
    """Data with fewer than five classes can be tested (k is capped)."""
    scores, labels = [[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]], [1, 1, 0]
    assert topk_accuracy(scores, labels, 5) == 1.0
    assert topk_accuracy(scores, labels, 1) == pytest.approx(2 / 3)


def test_accuracy_does_not_depend_on_the_order_of_videos(data):
    scores, labels = data
    order = np.random.default_rng(2).permutation(len(labels))
    for figure in (topk_accuracy, mean_class_accuracy):
        assert figure(scores[order], labels[order]) == pytest.approx(figure(scores, labels))


def test_mean_class_accuracy_equals_scikit_learn(data):
    scores, labels = data
    theirs = sklearn_metrics.balanced_accuracy_score(labels, scores.argmax(1))
    assert mean_class_accuracy(scores, labels) == pytest.approx(theirs)


def test_class_absent_from_truth_is_skipped():
    scores, labels = np.eye(3)[[0, 0, 1, 2]], [0, 0, 1, 1]
    np.testing.assert_array_equal(per_class_accuracy(scores, labels), [1.0, 0.5, math.nan])
    assert mean_class_accuracy(scores, labels) == 0.75


def test_mean_class_accuracy_weighs_rare_classes_alike():
    scores = np.tile([1.0, 0.0], (100, 1))  # always class 0
    labels = np.array([0] * 99 + [1])
    assert topk_accuracy(scores, labels) == 0.99
    assert mean_class_accuracy(scores, labels) == 0.5


def test_confusion_equals_scikit_learn(data):
    scores, labels = data
    theirs = sklearn_metrics.confusion_matrix(labels, scores.argmax(1), labels=range(12))
    np.testing.assert_array_equal(confusion_matrix(scores, labels), theirs)
    np.testing.assert_array_equal(confusion_matrix(scores.argmax(1), labels, num_classes=12), theirs)


def test_confusion_rows_are_the_truth():
    assert confusion_matrix([1, 1, 0], [0, 0, 0], num_classes=2).tolist() == [[1, 2], [0, 0]]


@pytest.mark.parametrize("levels", [3, 10_000])
def test_average_precision_equals_scikit_learn_and_slow_version(levels):
    """With many ties and with none."""
    rng = np.random.default_rng(3)
    scores, targets = rng.integers(0, levels, (60, 5)).astype(float), rng.integers(0, 2, (60, 5))
    theirs = sklearn_metrics.average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(average_precision(scores, targets), theirs)
    slow = [slow_average_precision(scores[:, c].tolist(), targets[:, c].tolist()) for c in range(5)]
    np.testing.assert_allclose(average_precision(scores, targets), slow)


def test_class_without_positive_is_skipped_in_map():
    scores, targets = np.array([[0.9, 0.5], [0.1, 0.5]]), np.array([[1, 0], [0, 0]])
    assert mean_average_precision(scores, targets) == 1.0
    assert math.isnan(mean_average_precision(scores, np.zeros((2, 2))))


def test_tensors_are_taken():
    scores, labels = torch.eye(3), torch.arange(3)
    assert topk_accuracy(scores, labels) == mean_class_accuracy(scores, labels) == 1.0
    assert mean_average_precision(scores, torch.eye(3)) == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: topk_accuracy([[math.nan, 1.0]], [0]), "1 of 1 videos have NaN scores, the first in row 0"),
        (lambda: mean_average_precision([[math.nan, 1.0]], [[0, 1]]), "Did training diverge"),
        (lambda: topk_accuracy([[0.0, 1.0]], [2]), "label 2 in row 0 is not a class: 0…1 are"),
        (lambda: topk_accuracy([[0.0, 1.0]], [-1]), "label -1"),
        (lambda: topk_accuracy([[0.0, 1.0]], [0, 1]), "1 rows of scores cannot be compared with 2 labels"),
        (lambda: topk_accuracy([[0.0, 1.0]], [0], k=0), "k starts at 1"),
        (lambda: topk_accuracy([0.0, 1.0], [0]), r"must be \(videos, classes\)"),
        (lambda: topk_accuracy(np.zeros((0, 3)), []), "nothing to measure"),
        (lambda: confusion_matrix([0], [0]), "num_classes must say"),
        (lambda: confusion_matrix([3], [0], num_classes=2), "prediction 3 in row 0"),
        (lambda: average_precision([[0.0, 1.0]], [[0, 2]]), "first other value is 2"),
        (lambda: average_precision([[0.0, 1.0]], [1]), r"targets have the shape \(1,\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
