"""Events from scores: what the stream tells, token by token, is what a whole video gives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from vidact.data.annotations import Event, rasterise
from vidact.events import Detection, EventDetector, scores_to_events, tune_thresholds
from vidact.metrics import event_map


def only(probabilities):
    """Scores (T, 2) of one class and the background."""
    p = np.asarray(probabilities, float)
    return np.stack([1 - p, p], axis=1)


def spans(probabilities, rate=1.0, **options):
    events = scores_to_events(only(probabilities), "a", EventDetector(["jump"], rate, **options))
    return [(event.start_s, event.end_s) for event in events]


def test_token_t_covers_t_to_t_plus_1():
    assert spans([0, 0, 0.9, 0.8, 0, 0.7], rate=4) == [(0.5, 1.0), (1.25, 1.5)]


def test_rasterised_events_come_back():
    """Labels as scores give the events that made the labels, on the grid of tokens."""
    truth = [Event("a", 1.0, 2.5, "run"), Event("a", 2.0, 4.0, "jump"), Event("a", 5.0, 6.0, "run")]
    targets = rasterise(truth, 24, 4, ["jump", "run"])
    found = scores_to_events(targets.multi_hot, "a", EventDetector(["jump", "run"], 4))
    assert found == [Detection(event.video, event.start_s, event.end_s, event.label, 1.0) for event in truth]
    assert event_map(found, truth, 0.9).mean == 1.0


def test_hysteresis_joins_a_wavering_score():
    wavering = [0.1, 0.6, 0.4, 0.55, 0.35, 0.6, 0.29, 0.4]
    assert spans(wavering, off=0.5) == [(1, 2), (3, 4), (5, 6)]
    assert spans(wavering) == [(1, 6)]  # off is 0.6 times on: 0.3


def test_thresholds_are_reached_and_undercut():
    """on: the probability that is reached; off: the one that is not undercut."""
    assert spans([0.5, 0.3, 0.2999], on=0.5, off=0.3) == [(0, 2)]
    assert spans([0.4999, 0.3, 0.4999], on=0.5, off=0.3) == []


def test_thresholds_of_each_class():
    scores = np.array([[0.2, 0.4, 0.4], [0.2, 0.4, 0.4]])
    detector = EventDetector(["a", "b"], 1, on=[0.3, 0.5], off=[0.3, 0.1])
    assert [event.label for event in scores_to_events(scores, "v", detector)] == ["a"]


def test_short_events_are_dropped():
    scores = [0.9, 0, 0.9, 0.9, 0, 0.9, 0.9, 0.9]
    assert spans(scores, rate=10, min_seconds=0.2) == [(0.2, 0.4), (0.5, 0.8)]
    assert spans(scores, rate=10, min_seconds=0.3) == [(0.5, 0.8)]
    assert spans(scores, rate=10, min_seconds=0.31) == []


def test_short_gaps_are_bridged_before_short_events_are_dropped():
    scores = [0.9, 0, 0.9, 0, 0, 0.9, 0, 0, 0]
    assert spans(scores, merge_seconds=1) == [(0, 3), (5, 6)]
    assert spans(scores, merge_seconds=2) == [(0, 6)]
    assert spans(scores, merge_seconds=1, min_seconds=2) == [(0, 3)]


def test_score_is_the_mean_over_tokens_that_were_on():
    (event,) = scores_to_events(only([0.9, 0.1, 0.6, 0.6, 0]), "a", EventDetector(["jump"], 1, merge_seconds=1))
    assert event.score == pytest.approx((0.9 + 0.6 + 0.6) / 3)


def test_smoothing_is_the_running_mean():
    detector = EventDetector(["jump"], 1, smoothing=0.75)
    state, expected = detector.initial_state("a"), None
    for p in (0.8, 0.0, 0.4, 1.0):
        expected = p if expected is None else 0.75 * expected + 0.25 * p
        _, state = detector.step([1 - p, p], state)
        assert state.smoothed[0] == pytest.approx(expected)
    assert spans([0, 0, 1, 0, 0, 1, 1, 1, 1, 1], smoothing=0.5, on=0.6) == [(6, 10)]


# ------------------------------------------------------------------------------------------------------------ streaming


def slow_events(p, on, off, min_tokens, merge_tokens):
    """With the whole video at hand: hysteresis, then bridging, then dropping."""
    found, since = [], None
    for t, value in enumerate([*p, -1.0]):
        if since is None and value >= on:
            since = t
        elif since is not None and value < off:
            found.append([since, t])
            since = None
    joined = []
    for start, end in found:
        if joined and start - joined[-1][1] <= merge_tokens:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return [(start, end) for start, end in joined if end - start >= min_tokens]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.4, 0.6, 0.9]), max_size=30),
    st.sampled_from([0.3, 0.5]),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_stepping_equals_the_whole_video_at_hand(p, off, min_tokens, merge_tokens):
    expected = slow_events(p, 0.5, off, min_tokens, merge_tokens)
    if p:
        assert spans(p, on=0.5, off=off, min_seconds=min_tokens, merge_seconds=merge_tokens) == expected


def random_stream(seed=0, tokens=300, classes=4):
    rng = np.random.default_rng(seed)
    logits = np.cumsum(rng.normal(size=(tokens, 1 + classes)), axis=0)
    scores = np.exp(logits - logits.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True), [f"class {i}" for i in range(classes)]


OPTIONS = {"on": 0.4, "smoothing": 0.3, "min_seconds": 0.5, "merge_seconds": 0.75}


def test_every_event_is_opened_once_then_closed_once():
    scores, classes = random_stream()
    detector = EventDetector(classes, 4, **OPTIONS)
    state, told, closed = detector.initial_state("a"), {}, []
    for t, row in enumerate(scores):
        update, state = detector.step(row, state)
        for event in update.opened:
            assert event.label not in told
            assert event.end_s == (t + 1) / 4
            assert event.end_s - event.start_s >= 0.5
            told[event.label] = event.start_s
        for event in update.closed:
            assert told.pop(event.label) == event.start_s
            assert (t + 1) / 4 - event.end_s > 0.75  # it waited for the gap to be too long
            closed.append(event)
        assert {event.label for event in detector.ongoing(state)} == set(told)
    last = detector.finish(state)
    assert {event.label: event.start_s for event in last} == told
    whole = scores_to_events(scores, "a", detector)
    assert len(whole) > 5
    assert sorted(closed + last, key=lambda event: (event.start_s, event.end_s, event.label)) == whole


def test_past_events_do_not_depend_on_later_tokens():
    scores, classes = random_stream()
    detector = EventDetector(classes, 4, **OPTIONS)

    def closed_by(rows, until):
        state, closed = detector.initial_state("a"), []
        for row in rows[:until]:
            update, state = detector.step(row, state)
            closed += update.closed
        return closed

    other = scores.copy()
    other[150:] = other[150:, ::-1]
    assert closed_by(other, 150) == closed_by(scores, 150)


def test_a_state_can_be_kept_and_returned_to():
    scores, classes = random_stream()
    detector = EventDetector(classes, 4, **OPTIONS)
    state = detector.initial_state("a")
    for row in scores[:100]:
        _, state = detector.step(row, state)
    kept = {name: np.copy(value) for name, value in vars(state).items()}

    def go_on(state):
        told = []
        for row in scores[100:]:
            update, state = detector.step(row, state)
            told += update.opened + update.closed
        return told

    assert go_on(state) == go_on(state)
    for name, value in vars(state).items():
        np.testing.assert_array_equal(value, kept[name])


def test_two_streams_share_one_detector():
    first, classes = random_stream(0)
    second, _ = random_stream(1)
    detector = EventDetector(classes, 4, **OPTIONS)
    states, found = [detector.initial_state("a"), detector.initial_state("b")], [[], []]
    for rows in zip(first, second, strict=True):
        for i, row in enumerate(rows):
            update, states[i] = detector.step(row, states[i])
            found[i] += update.closed
    for i, (name, scores) in enumerate((("a", first), ("b", second))):
        events = found[i] + detector.finish(states[i])
        assert sorted(events, key=lambda x: (x.start_s, x.end_s, x.label)) == scores_to_events(scores, name, detector)


# ----------------------------------------------------------------------------------------------------------- thresholds


def test_tuned_thresholds_have_the_best_f1():
    rng = np.random.default_rng(0)
    targets = [(rng.random((60, 4)) < 0.3).astype(float) for _ in range(3)]
    scores = [np.clip(0.3 * of + 0.6 * rng.random(of.shape), 0, 1) for of in targets]
    ignore = [rng.random(60) < 0.2 for _ in range(3)]
    chosen = tune_thresholds(scores, targets, ignore)
    kept = ~np.concatenate(ignore)
    values, truth = np.concatenate(scores)[kept], np.concatenate(targets)[kept]
    for column, threshold in enumerate(chosen, 1):
        every = [f1_score(truth[:, column], values[:, column] >= t) for t in values[:, column]]
        assert f1_score(truth[:, column], values[:, column] >= threshold) == pytest.approx(max(every))


def test_tuned_thresholds_see_what_the_detector_sees():
    """Chosen on smoothed scores, and separating exactly where they can."""
    truth = np.zeros((60, 2))
    truth[20:40, 1] = 1
    p = np.tile([0.0, 0.4], 30)
    p[20:40] = np.tile([0.2, 0.6], 10)  # single tokens of both kinds overlap, their running means do not
    (raw,), (chosen,) = tune_thresholds([only(p)], [truth]), tune_thresholds([only(p)], [truth], smoothing=0.9)
    assert raw != chosen
    detector = EventDetector(["jump"], 1, on=chosen, smoothing=0.9)
    assert len(scores_to_events(only(p), "a", detector)) == 1


def test_thresholds_that_cannot_be_tuned_keep_the_default():
    truth = np.zeros((10, 3))
    truth[2:5, 1] = 1
    scores = 0.9 * truth + 0.05
    chosen = tune_thresholds([scores], [truth], default=0.7)
    assert chosen.tolist() == [0.5, 0.7]  # halfway between 0.05 and 0.95
    everywhere = tune_thresholds([np.zeros((4, 2))], [np.ones((4, 2))])
    EventDetector(["jump"], 1, on=everywhere)  # a threshold that a detector takes, though every score was 0


# ------------------------------------------------------------------------------------------------------------ bad input


def step(row, classes=("a", "b")):
    detector = EventDetector(classes, 4)
    return detector.step(row, detector.initial_state("v"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: step([0.5, 0.5]), r"token 0 of v have the shape \(2,\); 1 background and 2 classes make \(3,\)"),
        (lambda: step([0.5, math.nan, 0.5]), "from nan to nan; events are made of probabilities"),
        (lambda: step([0.5, -3.0, 5.0]), "lie from -3 to 5.*Are these logits"),
        (lambda: scores_to_events([0.5, 0.5], "v", EventDetector(["a"], 4)), r"must be \(tokens, 1 \+ classes\)"),
        (lambda: EventDetector([], 4), "there are no classes"),
        (lambda: EventDetector(["a"], 0), "tokens_per_second is 0"),
        (lambda: EventDetector(["a"], 4, on=0), "above 0 and at most 1"),
        (lambda: EventDetector(["a"], 4, on=1.5), "on is 1.5"),
        (lambda: EventDetector(["a"], 4, on=[0.5, 0.5]), "one for each of 1 classes"),
        (lambda: EventDetector(["a", "b"], 4, on=0.5, off=[0.4, 0.6]), "'b' turns off below 0.6 and on at 0.5"),
        (lambda: EventDetector(["a"], 4, smoothing=1), "smoothing is 1; it is the share of the past"),
        (lambda: EventDetector(["a"], 4, min_seconds=-1), "min_seconds is -1"),
        (lambda: EventDetector(["a"], 4, merge_seconds=math.nan), "merge_seconds is nan"),
        (lambda: tune_thresholds([], []), "0 videos of scores, 0 of targets"),
        (lambda: tune_thresholds([only([1])], [np.zeros((2, 2))]), "video 0 has scores of the shape"),
        (lambda: tune_thresholds([only([math.nan])], [np.zeros((1, 2))]), "video 0 has NaN scores"),
        (lambda: tune_thresholds([only([1])], [only([1])], smoothing=2), "smoothing is 2"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
