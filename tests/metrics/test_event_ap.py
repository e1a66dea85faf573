"""Starts, events, delays and false alarms against hand-worked cases and slow versions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from vidact.events import Detection
from vidact.metrics import detection_delay, event_map, false_alarms_per_hour, frame_delay, start_map


def event(start_s, end_s, label="jump", video="a", score=1.0):
    return Detection(video, start_s, end_s, label, score)


# --------------------------------------------------------------------------------------------------------------- starts


def one_hot(classes, actions=2):
    return np.eye(1 + actions)[np.array(classes)]


def slow_start_ap(scores, targets, ids, rate, offset, column):
    """B.7, loop by loop: claims where the argmax changes, each to the nearest free start of its video."""
    claims, starts = [], []
    for t in range(len(ids)):
        first = t == 0 or ids[t] != ids[t - 1]
        before = 0 if first else scores[t - 1].argmax()
        if scores[t].argmax() == column and before != column:
            claims.append((scores[t, column], t))
        if targets[t, column] and (first or not targets[t - 1, column]):
            starts.append(t)
    hits, area, total = 0, 0.0, len(starts)
    for rank, (_, t) in enumerate(sorted(claims, key=lambda claim: -claim[0]), 1):
        near = sorted((abs(s - t), s) for s in starts if ids[s] == ids[t])
        if near and near[0][0] / rate <= offset:
            starts.remove(near[0][1])
            hits += 1
            area += hits / rank
    return area / total


def test_start_map_equals_the_slow_version():
    rng = np.random.default_rng(0)
    targets = one_hot(np.repeat(rng.integers(0, 3, 60), rng.integers(1, 12, 60)))
    ids = np.sort(rng.integers(0, 4, len(targets)))
    scores = rng.random(targets.shape) + 0.7 * targets
    result = start_map(scores, targets, ids, 4, (0, 0.5, 1, 2))
    for row, offset in enumerate((0, 0.5, 1, 2)):
        for column in (1, 2):
            slow = slow_start_ap(scores, targets, ids, 4, offset, column)
            assert result.per_class[row, column - 1] == pytest.approx(slow)
    assert result.mean == pytest.approx(result.per_class.mean())
    assert (np.diff(result.per_offset) > 0).all()


def test_a_perfect_detector_finds_every_start_in_time():
    targets = one_hot([0, 0, 1, 1, 0, 2, 2, 1, 1])
    ids = [0] * 9
    assert start_map(targets, targets, ids, 4).per_offset.tolist() == [1.0] * 10
    assert start_map(targets, targets, ids, 4, offsets_s=[0]).mean == 1.0
    late = np.roll(targets, 1, axis=0)
    late[0] = targets[0]
    assert start_map(late, targets, ids, 4, offsets_s=[0.2, 0.25]).per_class[:, 0].tolist() == [0.0, 1.0]
    assert start_map(torch.from_numpy(targets), torch.from_numpy(targets), torch.zeros(9), 4).mean == 1.0


def test_the_video_before_does_not_matter():
    """An action may start with its video, though the video before ended in the same action."""
    targets, ids = one_hot([0, 1, 1, 1, 1, 0], actions=1), [0, 0, 0, 1, 1, 1]
    assert start_map(targets, targets, ids, 4, [0]).mean == 1.0


def test_a_start_is_found_once():
    targets = one_hot([0, 1, 1, 1, 1, 1, 0], actions=1)
    scores = one_hot([0, 1, 0, 1, 1, 1, 0], actions=1) * np.array([1, 0.8, 1, 0.9, 1, 1, 1])[:, None]
    # the surer claim, half a second late, takes the start; the punctual one is false
    assert start_map(scores, targets, [0] * 7, 4, [1]).mean == 1.0
    assert start_map(scores, targets, [0] * 7, 4, [0.25]).mean == 0.5


def test_nearest_free_start():
    targets = one_hot([0, 1, 0, 1, 0, 0], actions=1)
    scores = one_hot([0, 1, 0, 0, 1, 0], actions=1)
    # the second claim is nearest to the second start, the first having been taken
    assert start_map(scores, targets, [0] * 6, 1, [1]).mean == 1.0
    assert start_map(scores, targets, [0] * 6, 1, [0]).mean == 0.5


def test_eleven_points():
    """One of two starts found and nothing false: precision 1 up to recall 0.5, six points of eleven."""
    targets = one_hot([0, 1, 0, 0, 1, 0], actions=1)
    scores = one_hot([0, 1, 0, 0, 0, 0], actions=1)
    assert start_map(scores, targets, [0] * 6, 1, [0]).mean == 0.5
    assert start_map(scores, targets, [0] * 6, 1, [0], points=11).mean == pytest.approx(6 / 11)


def test_false_claims_on_ambiguous_tokens_do_not_count():
    targets = one_hot([0, 0, 0, 0, 1, 1], actions=1)
    scores = one_hot([0, 1, 0, 0, 1, 1], actions=1)
    scores[4:] *= 0.9
    assert start_map(scores, targets, [0] * 6, 1, [1]).mean == 0.5
    assert start_map(scores, targets, [0] * 6, 1, [1], ignore=[0, 1, 0, 0, 0, 0]).mean == 1.0


def test_an_action_without_a_start_is_left_out_and_one_never_claimed_is_0():
    targets = one_hot([0, 1, 1, 0])
    result = start_map(one_hot([0, 0, 0, 2]), targets, [0] * 4, 4, [1])
    assert result.per_class[0, 0] == 0
    assert math.isnan(result.per_class[0, 1])
    assert result.mean == 0


# ----------------------------------------------------------------------------------------------------- temporal overlap


def slow_event_ap(found, truth, tiou):
    """ActivityNet's greedy matching for one class, AP at each hit."""

    def overlap(x, y):
        shared = max(0, min(x.end_s, y.end_s) - max(x.start_s, y.start_s))
        return shared / (x.end_s - x.start_s + y.end_s - y.start_s - shared) if x.video == y.video else 0

    free, hits, area = list(truth), 0, 0.0
    for rank, detection in enumerate(sorted(found, key=lambda x: -x.score), 1):
        best = max(free, key=lambda y: overlap(detection, y), default=None)
        if best is not None and overlap(detection, best) >= tiou:
            free.remove(best)
            hits += 1
            area += hits / rank
    return area / len(truth)


spans = st.tuples(st.integers(0, 30), st.integers(1, 8), st.sampled_from("ab"))


@settings(max_examples=60, deadline=None)
@given(st.lists(spans, max_size=12), st.lists(spans, min_size=1, max_size=6), st.sampled_from([0.3, 0.5, 0.7]))
def test_event_map_equals_the_slow_version(found, truth, tiou):
    found = [event(s, s + n, video=v, score=1 / (2 + i)) for i, (s, n, v) in enumerate(found)]
    truth = sorted((event(s, s + n, video=v) for s, n, v in truth), key=lambda x: (x.start_s, x.end_s))
    assert event_map(found, truth, tiou).mean == pytest.approx(slow_event_ap(found, truth, tiou))


def test_event_map_with_distant_events_is_scikit_learns_ap():
    """Where each detection can only meet its own event and all are met, both are the same ranking."""
    rng = np.random.default_rng(0)
    truth = [event(10 * i, 10 * i + 4) for i in range(40)]
    found = [event(10 * i + 1, 10 * i + 5, score=rng.random()) for i in range(40)]
    found += [event(10 * i + 6, 10 * i + 9, score=rng.random()) for i in range(40)]
    theirs = average_precision_score([1] * 40 + [0] * 40, [x.score for x in found])
    assert event_map(found, truth, 0.5).mean == pytest.approx(theirs)


def test_overlap_decides():
    """4 s to 10 s against 0 s to 10 s is an overlap of 0.6: just enough at 0.6."""
    result = event_map([event(4, 10)], [event(0, 10)], (0.3, 0.4, 0.5, 0.6, 0.7))
    assert result.per_tiou.tolist() == [1, 1, 1, 1, 0]
    assert result.mean == 0.8


def test_each_event_is_found_once():
    truth = [event(0, 10), event(20, 30)]
    found = [event(0, 10, score=0.9), event(0, 10, score=0.8), event(20, 30, score=0.7)]
    assert event_map(found, truth, 0.5).mean == pytest.approx((1 + 2 / 3) / 2)


def test_interpolation_takes_the_best_later_precision():
    truth = [event(0, 10), event(20, 30)]
    found = [event(40, 50, score=0.9), event(0, 10, score=0.8), event(20, 30, score=0.7)]
    assert event_map(found, truth, 0.5).mean == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert event_map(found, truth, 0.5, interpolated=True).mean == pytest.approx(2 / 3)


def test_classes_and_videos_are_kept_apart():
    truth = [event(0, 10), event(0, 10, "run"), event(0, 10, "run", "b")]
    found = [event(0, 10, "run"), event(0, 10, "jump", "b"), event(0, 10, "swim")]
    result = event_map(found, truth, [0.5])
    assert result.classes == ("jump", "run")
    assert result.per_class.tolist() == [[0.0, 0.5]]
    assert event_map([], truth).mean == 0.0


def test_what_lies_in_ambiguous_time_does_not_count():
    truth = [event(0, 10), event(20, 60, "Ambiguous")]
    found = [event(30, 35, score=0.9), event(0, 10, score=0.5)]
    result = event_map(found, truth, 0.5)
    assert result.classes == ("jump",)
    assert result.mean == 1.0
    assert event_map(found, truth[:1], 0.5).mean == 0.5
    assert false_alarms_per_hour(found, truth, 60) == 0
    assert false_alarms_per_hour(found, truth[:1], 60) == 60


# -------------------------------------------------------------------------------------------------- delay, false alarms


def test_delay_of_detections():
    truth = [event(10, 20), event(30, 40), event(50, 60), event(70, 80, "run"), event(90, 99, "ambiguous")]
    found = [event(13, 15), event(12, 22), event(28, 31), event(70, 80, "jump"), event(60, 61)]
    delay = detection_delay(found, truth)
    # 2 s late; there already; missed, since touching is not overlapping; missed, of another class
    np.testing.assert_array_equal(delay.delays_s, [2, 0, np.nan, np.nan])
    assert (delay.mean_s, delay.median_s, delay.missed) == (1.0, 1.0, 0.5)
    # Of answers that come 3 s late, the second detection, dated 2 s before its event, is known 1 s after its start.
    np.testing.assert_array_equal(detection_delay(found, truth, 3.0).delays_s, [5, 1, np.nan, np.nan])
    nothing = detection_delay([], truth)
    assert nothing.missed == 1.0
    assert math.isnan(nothing.median_s)
    assert math.isnan(nothing.mean_s)


def test_delay_of_frames():
    targets = one_hot([0, 1, 1, 1, 0, 1, 1, 1, 2, 2])
    ids = [0] * 7 + [1] * 3  # the second stretch of class 1 is two events, at 5 and at 7
    scores = np.zeros(targets.shape)
    scores[[3, 4, 7, 8], 1] = 0.6
    scores[9, 2] = 0.4
    np.testing.assert_array_equal(frame_delay(scores, targets, ids, 4).delays_s, [0.5, np.nan, 0, np.nan])
    lower = frame_delay(scores, targets, ids, 4, [0.5, 0.4])
    np.testing.assert_array_equal(lower.delays_s, [0.5, np.nan, 0, 0.25])
    assert lower.missed == 0.25
    assert lower.median_s == 0.25


def test_frames_and_detections_agree_on_delay():
    rng = np.random.default_rng(0)
    targets = one_hot(np.repeat(rng.integers(0, 2, 40), rng.integers(1, 9, 40)), actions=1)
    scores = np.clip(targets * 0.4 + rng.random(targets.shape) * 0.5, 0, 1)
    ids, on = np.zeros(len(targets)), np.flatnonzero(scores[:, 1] >= 0.5)
    found = [event(t / 4, (t + 1) / 4) for t in on]
    edges = np.diff(np.concatenate([[0], targets[:, 1], [0]]))
    truth = [event(s / 4, e / 4) for s, e in zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True)]
    np.testing.assert_allclose(detection_delay(found, truth).delays_s, frame_delay(scores, targets, ids, 4).delays_s)


def test_false_alarms():
    truth = [event(0, 10)]
    found = [event(5, 15), event(9, 12), event(10, 12), event(0, 10, "run"), event(0, 10, video="b")]
    assert false_alarms_per_hour(found, truth, 7200) == 1.5
    assert false_alarms_per_hour([], truth, 7200) == 0


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: event_map([], [event(0, 1)], 0), "tiou is 0; a temporal overlap is above 0"),
        (lambda: event_map([], [event(0, 1)], []), "tiou is"),
        (lambda: event_map([], []), "nothing to find"),
        (lambda: event_map([], [event(0, 1, "ambiguous")]), "nothing to find"),
        (lambda: event_map([], [event(2, 1)]), "'jump' of a from 2 to 1 s does not start before it ends"),
        (lambda: event_map([event(1, 1)], [event(0, 1)]), "from 1 to 1 s"),
        (lambda: event_map([event(0, 1, score=math.nan)], [event(0, 1)]), "NaN score"),
        (lambda: detection_delay([], []), "there is no delay"),
        (lambda: frame_delay(np.zeros((2, 2)), np.zeros((2, 2)), [0, 0], 4, [1, 2]), "one for each of 1"),
        (lambda: frame_delay(np.zeros((2, 2)), np.zeros((2, 2)), [0, 0], 4), "there is no delay"),
        (lambda: false_alarms_per_hour([], [], 0), "duration_s is 0"),
        (lambda: start_map(np.zeros((2, 2)), np.zeros((2, 2)), [0, 0], 4, []), "offsets_s are"),
        (lambda: start_map(np.zeros((2, 2)), np.zeros((2, 2)), [0, 0], 0), "must be above 0"),
        (lambda: start_map(np.zeros((2, 2)), np.zeros((2, 3)), [0, 0], 4), "each row needs its target"),
        (lambda: start_map(np.zeros((2, 2)), np.zeros((2, 2)), [0], 4), "name the video of each of the 2 rows"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
