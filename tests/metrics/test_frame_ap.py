"""Per-frame figures equal scikit-learn's and slow versions written from the papers' definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve

from vidact.metrics import anticipation_map, calibrated_map, frame_map, portion_map, precision_recall


def random_frames(seed=0, rows=400, actions=5, levels=None):
    """Multi-hot targets of four videos with scores that know a little; ``levels`` makes ties."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, 1 + actions)) < 0.15).astype(np.float32)
    targets[:, 0] = targets[:, 1:].sum(1) == 0
    scores = rng.random((rows, 1 + actions)) + 0.4 * targets
    if levels:
        scores = np.floor(scores * levels) / levels
    return scores, targets, np.repeat(["a", "b", "c", "d"], rows // 4), rng.random(rows) < 0.1


def slow_ap(scores, positives, w=1.0):
    """B.5: at each rank k precision w·TP / (w·TP + FP), summed at the positives, over their number."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])  # stable
    hits, total = 0, 0.0
    for rank, i in enumerate(order, 1):
        hits += positives[i]
        total += positives[i] * w * hits / (w * hits + rank - hits)
    return total / sum(positives)


# ---------------------------------------------------------------------------------------------------- average precision


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_curve_equals_scikit_learn_whatever_the_ties(rows):
    scores, positives = np.array([s for s, _ in rows], float), np.array([p for _, p in rows])
    curve = precision_recall(scores, positives)
    if not positives.any():
        assert math.isnan(curve.area())
        return
    assert curve.area() == pytest.approx(average_precision_score(positives, scores))
    precision, recall, thresholds = precision_recall_curve(
        positives, scores
    )  # from the lowest threshold to the highest
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
    np.testing.assert_allclose(curve.recall[::-1], recall[:-1])
    np.testing.assert_array_equal(curve.thresholds[::-1], thresholds)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=30), st.floats(0.1, 50))
def test_calibrated_area_equals_the_slow_version(rows, weight):
    scores, positives = np.array([s for s, _ in rows], float), [int(p) for _, p in rows]
    curve = precision_recall(scores, positives, weight, "in order")
    if any(positives):
        assert curve.area() == pytest.approx(slow_ap(scores, positives, weight))


@pytest.mark.parametrize("points", [11, 5])
def test_interpolated_points_equal_the_slow_version(points):
    rng = np.random.default_rng(1)
    for total in (10, 13):
        scores, right = rng.random(20), np.append(np.ones(8), np.zeros(12))
        curve = precision_recall(scores, right, total=total)
        best = [max([p for p, r in zip(curve.precision, curve.recall, strict=True) if r >= t - 1e-9], default=0)
                for t in np.linspace(0, 1, points)]  # fmt: skip
        assert curve.mean_at(points) == pytest.approx(np.mean(best))


@pytest.mark.parametrize("levels", [3, None])
def test_frame_map_equals_scikit_learn(levels):
    scores, targets, _, ignore = random_frames(levels=levels)
    result = frame_map(scores, targets, ignore)
    theirs = average_precision_score(targets[~ignore, 1:], scores[~ignore, 1:], average=None)
    np.testing.assert_allclose(result.per_class, theirs)
    assert result.mean == pytest.approx(theirs.mean())
    assert result.rows == (~ignore).sum()


def test_background_scores_do_not_matter():
    scores, targets, _, ignore = random_frames()
    other = scores.copy()
    other[:, 0] = 7.0
    np.testing.assert_array_equal(
        frame_map(other, targets, ignore).per_class, frame_map(scores, targets, ignore).per_class
    )


def test_ties_make_the_order_of_rows_irrelevant():
    scores, targets, _, _ = random_frames(levels=2)
    order = np.random.default_rng(1).permutation(len(scores))
    assert frame_map(scores[order], targets[order]).mean == pytest.approx(frame_map(scores, targets).mean)


def test_ties_by_hand():
    """Of four equal scores one is right: together their precision is 1/4, one by one it depends on the place."""
    scores, first, last = np.full(4, 0.5), [1, 0, 0, 0], [0, 0, 0, 1]
    assert precision_recall(scores, first).area() == precision_recall(scores, last).area() == 0.25
    assert precision_recall(scores, first, ties="in order").area() == 1.0
    assert precision_recall(scores, last, ties="in order").area() == 0.25


def test_an_action_that_never_happens_is_left_out():
    scores, targets, _, _ = random_frames()
    targets[:, 2] = 0
    result = frame_map(scores, targets)
    assert np.isnan(result.per_class).tolist() == [False, True, False, False, False]
    assert result.mean == pytest.approx(np.delete(result.per_class, 1).mean())
    assert math.isnan(frame_map(scores, np.zeros_like(targets)).mean)


def test_tensors_and_integers_are_taken():
    scores, targets, _, ignore = random_frames()
    expected = frame_map(scores, targets, ignore)
    taken = frame_map(torch.from_numpy(scores), torch.from_numpy(targets).int(), torch.from_numpy(ignore))
    np.testing.assert_array_equal(taken.per_class, expected.per_class)
    small = (scores * 100).astype(np.uint8)  # whose minus would wrap around
    assert frame_map(small, targets).mean == pytest.approx(frame_map(small.astype(float), targets).mean)


# ----------------------------------------------------------------------------------------------------------- calibrated


def test_calibrated_map_equals_the_slow_version():
    scores, targets, _, ignore = random_frames(levels=20)
    result = calibrated_map(scores, targets, ignore)
    kept, truth = scores[~ignore], targets[~ignore]
    for column in range(1, 6):
        positives = truth[:, column].astype(int).tolist()
        w = positives.count(0) / positives.count(1)
        assert result.per_class[column - 1] == pytest.approx(slow_ap(kept[:, column].tolist(), positives, w))
    assert result.rows == len(kept)


def test_calibrated_map_with_weight_1_is_frame_map():
    scores, targets, ids, ignore = random_frames()
    plain, calibrated = frame_map(scores, targets, ignore), calibrated_map(scores, targets, ignore, weight=1)
    np.testing.assert_allclose(calibrated.per_class, plain.per_class, rtol=0, atol=1e-15)
    tied = random_frames(levels=3)[0]  # where the ties of both are taken one by one
    np.testing.assert_array_equal(
        calibrated_map(tied, targets, ignore, "oadtr", ids, weight=1).per_class,
        frame_map(tied, targets, ignore, "oadtr", ids).per_class,
    )


def test_a_guess_has_calibrated_precision_of_one_half():
    """However rare the class: that is what calibration is for; plain AP is the share of positives."""
    rng = np.random.default_rng(0)
    targets = np.zeros((40_000, 4))
    for column, share in enumerate((0.5, 0.05, 0.01), 1):
        targets[:, column] = rng.random(len(targets)) < share
    scores = rng.random(targets.shape)
    np.testing.assert_allclose(calibrated_map(scores, targets).per_class, 0.5, atol=0.03)
    np.testing.assert_allclose(frame_map(scores, targets).per_class, [0.5, 0.05, 0.01], atol=0.01)


def test_class_that_fills_every_frame_is_always_right():
    assert calibrated_map([[0.0, 0.3], [0.0, 0.6]], [[0, 1], [0, 1]]).mean == 1.0


# --------------------------------------------------------------------------------------------------------- anticipation


def clock(lengths, offsets, rate=4):
    """Videos whose class is their time in quarters of a second, and a seer whose output about t + k says t + k."""
    most = max(lengths)
    targets = np.concatenate([np.eye(1 + most)[1 + np.arange(length)] for length in lengths])
    ids = np.repeat(np.arange(len(lengths)), lengths)
    time = np.concatenate([np.arange(length) for length in lengths])
    said = np.zeros((len(time), len(offsets), 1 + most))
    for j, ahead in enumerate(offsets):
        inside = time + ahead < most
        said[np.flatnonzero(inside), j, 1 + time[inside] + ahead] = 1
    return said, targets, ids


def test_a_clock_is_foreseen_exactly():
    offsets = range(1, 9)
    said, targets, ids = clock([30, 12, 5], list(offsets))
    result = anticipation_map(said, targets, list(offsets), 4, ids)
    assert result.mean == 1.0
    assert result.seconds.tolist() == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    # frames whose t + k lies beyond the end of their own video fall away
    assert result.rows.tolist() == [sum(max(0, length - k) for length in (30, 12, 5)) for k in offsets]


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_clock_off_by_one_is_seen(wrong):
    said, targets, ids = clock([30, 12], [2 + wrong])
    assert anticipation_map(said, targets, [2], 4, ids).mean < 0.2


def test_anticipation_equals_the_slow_version_and_skips_ambiguous_futures():
    _, targets, ids, ignore = random_frames()
    said = np.random.default_rng(3).random((len(targets), 2, targets.shape[1]))
    result = anticipation_map(said, targets, [1, 4], 4, ids, ignore)
    for j, k in enumerate([1, 4]):
        pairs = [(t, t + k) for t in range(len(ids) - k) if ids[t] == ids[t + k] and not ignore[t + k]]
        now, then = np.array(pairs).T
        theirs = average_precision_score(targets[then, 1:], said[now, j, 1:], average=None)
        np.testing.assert_allclose(result.per_class[j], theirs)
        assert result.rows[j] == len(pairs)
        assert result.per_offset[j] == pytest.approx(theirs.mean())


# ------------------------------------------------------------------------------------------------------------- portions


def slow_portion(scores, targets, ids, column, p, minus=0):
    """The frames of one portion, instance by instance, against all background."""
    positives, t = [], 0
    while t < len(ids):
        if not targets[t, column]:
            t += 1
            continue
        start = t
        while t < len(ids) and targets[t, column] and ids[t] == ids[start]:
            t += 1
        length = t - start - minus
        low, high = start + length * p // 10, start + length * (p + 1) // 10
        positives += range(low, max(low + 1, high))
    rows = [t for t in range(len(ids)) if t in positives or targets[t, 0]]
    truth = [int(t in positives) for t in rows]
    return slow_ap(scores[rows, column].tolist(), truth, truth.count(0) / truth.count(1))


@pytest.mark.parametrize("legacy", [False, True])
def test_portions_equal_the_slow_version(legacy):
    rng = np.random.default_rng(4)
    targets = np.zeros((240, 3))
    for start, end, column in [(0, 1, 1), (10, 33, 1), (35, 60, 2), (110, 130, 1), (125, 139, 2), (200, 240, 2)]:
        targets[start:end, column] = 1
    targets[:, 0] = targets[:, 1:].sum(1) == 0
    ids = np.repeat([0, 1], 120)  # the fourth instance runs across the border: two instances
    scores = rng.random(targets.shape)
    result = portion_map(scores, targets, ids, legacy_length=legacy)
    for p in range(10):
        for column in (1, 2):
            slow = slow_portion(scores, targets, ids, column, p, int(legacy))
            assert result.per_class[p, column - 1] == pytest.approx(slow)
    assert result.mean == pytest.approx(result.per_class.mean())


def test_only_our_length_counts_the_last_frame():
    targets = np.zeros((40, 2))
    targets[10:30, 1] = 1
    targets[:, 0] = 1 - targets[:, 1]
    scores = np.zeros((40, 2))
    scores[10:29, 1] = 1  # all but the last frame are found
    ids = np.zeros(40)
    assert portion_map(scores, targets, ids, legacy_length=True).mean == 1.0
    assert portion_map(scores, targets, ids).per_portion[-1] < 1.0


def test_an_action_known_late_scores_late():
    targets = np.zeros((200, 2))
    targets[50:150, 1] = 1
    targets[:, 0] = 1 - targets[:, 1]
    scores = np.random.default_rng(0).random((200, 2)) * 0.1
    scores[100:150, 1] += 0.5
    portions = portion_map(scores, targets, np.zeros(200)).per_portion
    assert (portions[:5] < 0.7).all()
    assert (portions[5:] == 1.0).all()


# ------------------------------------------------------------------------------------------------------------ bad input

SCORES, TARGETS = np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0, 1], [1, 0]])
FUTURE = np.zeros((2, 2, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frame_map([[0.1, math.nan], [0.5, 0.5]], TARGETS), "1 of 2 rows have NaN scores, the first is row 0"),
        (lambda: frame_map(SCORES, TARGETS[:1]), r"targets have the shape \(1, 2\) and scores \(2, 2\)"),
        (lambda: frame_map(SCORES, TARGETS * 2), "must be 0 or 1; row 0 has 2"),
        (lambda: frame_map(SCORES[0], TARGETS[0]), "1 background"),
        (lambda: frame_map(SCORES[:0], TARGETS[:0]), "no frames to score"),
        (lambda: frame_map(SCORES, TARGETS, ignore=[True]), r"ignore has the shape \(1,\)"),
        (lambda: frame_map(SCORES, TARGETS, ignore=[True, True]), "'lstr' scores none of the 2 rows"),
        (lambda: frame_map(SCORES, TARGETS, protocol="toad"), "'toad' is no protocol; there are lstr, oadtr"),
        (lambda: frame_map(SCORES, TARGETS, protocol="oadtr"), "'oadtr' depends on where videos begin.*give video_ids"),
        (lambda: frame_map(SCORES, TARGETS, protocol="gatehub"), "give video_ids"),
        (lambda: frame_map(SCORES, TARGETS, protocol="legacy-smooth"), "give video_ids"),
        (lambda: frame_map(SCORES, TARGETS, protocol="oadtr", video_ids=["a", "a"]), "too short for it"),
        (lambda: frame_map(SCORES, TARGETS, video_ids=["a"]), r"video_ids have the shape \(1,\)"),
        (lambda: frame_map(SCORES, TARGETS, switch=(0, 1)), "columns of actions are 1 … 1"),
        (lambda: calibrated_map(SCORES, TARGETS, weight=0), "a weight above 0"),
        (lambda: calibrated_map(SCORES, TARGETS, protocol="none"), "is no protocol"),
        (lambda: anticipation_map(FUTURE, TARGETS, [0, 1], 4, [0, 0]), "offset 0, the first of TRN's"),
        (lambda: anticipation_map(FUTURE, TARGETS, [1], 4, [0, 0]), "2 outputs cannot be matched with 1 offsets"),
        (lambda: anticipation_map(SCORES, TARGETS, [1], 4, [0, 0]), "future scores have the shape"),
        (lambda: anticipation_map(FUTURE * math.nan, TARGETS, [1, 2], 4, [0, 0]), "NaN"),
        (lambda: portion_map(SCORES, TARGETS, [0, 0], portions=0), "one part at the least"),
        (lambda: precision_recall([0.5], [1]).mean_at(1), "2 are the least"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_rows_of_a_video_belong_together():
    with pytest.raises(ValueError, match="rows of a stand in 2 places"):
        frame_map(np.ones((3, 2)), np.ones((3, 2)), video_ids=["a", "b", "a"])
