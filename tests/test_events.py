"""Events from scores: what the stream tells, token by token, is what a whole video gives."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidact.data.event_list import Event, Targets, events_of, rasterise
from vidact.events import Detection, EventDetector, choose_thresholds, scores_to_events, tune_thresholds
from vidact.metrics import event_f1, event_map


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


def timelines(videos, classes=2, tokens=60, skill=0.6, noise=0.15, seed=0, quiet=False):
    """Scores and targets of made videos: two events a video, the classes in turn; scores rise to ``skill`` in them."""
    rng = np.random.default_rng(seed)
    scores, targets = [], []
    for video in range(videos):
        truth = np.zeros((tokens, 1 + classes))
        truth[10:22, 1 + video % classes] = truth[35:50, 1 + (video + 1) % classes] = 1
        truth[:, 0] = truth.sum(1) == 0
        targets.append(truth)
        given = skill * truth + noise * rng.random(truth.shape)
        scores.append(np.zeros_like(given) + 0.01 if quiet else given)
    return scores, targets


def f1_at(on, scores, targets, rate=4.0, **settings):
    classes = [str(k) for k in range(targets[0].shape[1] - 1)]
    detector = EventDetector(classes, rate, on=on, **settings)
    found = [event for i, rows in enumerate(scores) for event in scores_to_events(rows, str(i), detector)]
    truth = [event for i, rows in enumerate(targets) for event in events_of(Targets(rows, np.zeros(len(rows), bool)),
                                                                            str(i), rate, classes)]  # fmt: skip
    return event_f1(found, truth, 0.3).f1


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_timid_detector_gets_thresholds_that_find_its_events(exclusive):
    """Its scores never reach 0.5; chosen on some videos, the thresholds find the events of others."""
    settings = {"smoothing": 0.5, "exclusive": exclusive}
    found = choose_thresholds(*timelines(20, skill=0.3), tokens_per_second=4, **settings)
    others = timelines(10, skill=0.3, seed=1)
    assert found.f1_at_default == f1_at(0.5, *others, **settings) == 0
    assert f1_at(found.on, *others, **settings) > 0.9
    assert found.f1 > 0.9
    assert (found.events.tolist(), found.videos) == ([20, 20], 20)


@pytest.mark.parametrize("exclusive", [False, True])
def test_few_events_leave_the_thresholds_near_a_half(exclusive):
    """The same scores with fewer events behind them: the choice lies nearer to the default, and there with none."""
    chosen = [
        choose_thresholds(*timelines(videos, skill=0.42, noise=0.5, seed=3), tokens_per_second=4, exclusive=exclusive)
        for videos in (1, 60)
    ]
    assert abs(chosen[0].on - 0.5).max() <= abs(chosen[1].on - 0.5).max()
    scores, _ = timelines(2)
    nothing = choose_thresholds(scores, [np.eye(3)[np.zeros(60, int)]] * 2, exclusive=exclusive)
    assert nothing.on.tolist() == [0.5, 0.5]
    assert "no event to choose by" in nothing.words


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_always_on_is_no_choice(seed, exclusive):
    """Scores that know nothing, on videos of which one event takes most: a class that is always on would be right."""
    rng = np.random.default_rng(seed)
    scores = [rng.dirichlet(np.full(10, 50.0), 30) for _ in range(3)]
    targets = [np.eye(10)[np.r_[np.full(20, 1 + 3 * video), np.full(10, 2 + 3 * video)]] for video in range(3)]
    found = choose_thresholds(scores, targets, tokens_per_second=4, exclusive=exclusive)
    detector = EventDetector([str(k) for k in range(9)], 4, on=found.on, exclusive=exclusive)
    whole = [event.label for rows in scores for event in scores_to_events(rows, "v", detector) if event.end_s == 7.5
             and event.start_s == 0]  # fmt: skip
    assert max(map(whole.count, whole), default=0) < 3
    told = [event.end_s - event.start_s for rows in scores for event in scores_to_events(rows, "v", detector)]
    assert sum(told) <= 0.5 * 9 * 3 * 7.5


def test_a_class_with_many_events_has_its_own_threshold():
    scores, targets = timelines(24, skill=0.3)
    for rows, truth in zip(scores, targets, strict=True):
        rows[:, 2] = np.where(truth[:, 2] == 1, 0.95, 0.45 * (np.arange(60) % 7 < 4))  # sure, and loud elsewhere
    own = choose_thresholds(scores, targets, tokens_per_second=4)
    assert own.on[0] < 0.45 < own.on[1]
    assert "own threshold" in own.words
    few = choose_thresholds(scores[:4], targets[:4], tokens_per_second=4)
    assert few.on[0] == few.on[1] == few.common


def test_the_choice_says_what_it_was_made_on():
    found = choose_thresholds(*timelines(3, skill=0.3), tokens_per_second=4)
    assert re.fullmatch(
        r"classes turn on at 0\.\d+: chosen on 6 events of 3 validation videos \(F1 [\d.]+, at 0.5 for all 0.00\)",
        found.words,
    )


def test_what_is_ambiguous_is_neither_found_nor_missed():
    scores, targets = timelines(12)
    ignore = [np.zeros(60, bool) for _ in scores]
    for rows, truth, skip in zip(scores, targets, ignore, strict=True):
        skip[30:55] = True
        rows[30:55] = 0.9
        truth[30:55] = 0
    found = choose_thresholds(scores, targets, ignore, tokens_per_second=4)
    assert found.events.tolist() == [6, 6]
    assert found.f1 == found.f1_at_default == 1


def test_thresholds_are_those_of_the_detector_that_uses_them():
    """``f1`` is what scores_to_events and event_f1 give with the same settings."""
    scores, targets = timelines(6, skill=0.3, noise=0.6, seed=5)
    slow = {"smoothing": 0.6, "min_seconds": 1, "merge_seconds": 1, "exclusive": True}
    for options in ({}, {"exclusive": True}, slow):
        found = choose_thresholds(scores, targets, tokens_per_second=4, **options)
        assert found.f1 == pytest.approx(f1_at(found.on, scores, targets, **options))
        assert found.f1_at_default == pytest.approx(f1_at(0.5, scores, targets, **options))
        np.testing.assert_array_equal(tune_thresholds(scores, targets, tokens_per_second=4, **options), found.on)


# -------------------------------------------------------------------------------------------------------- one at a time


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 0.5, 1.0]), st.sampled_from([0, 0.5, 0.75]))
def test_exclusive_events_never_overlap(seed, min_seconds, merge_seconds):
    scores, classes = random_stream(seed, tokens=80)
    detector = EventDetector(
        classes, 4, on=0.2, min_seconds=min_seconds, merge_seconds=merge_seconds, exclusive=True
    )  # fmt: skip
    events = scores_to_events(scores, "a", detector)
    for one, other in itertools.pairwise(events):
        assert one.end_s <= other.start_s
    assert all(event.end_s - event.start_s >= min_seconds for event in events)


def test_of_two_classes_the_one_further_above_its_threshold_is_on():
    scores = np.array([[0, 0.5, 0.4, 0.1], [0, 0.5, 0.4, 0.1], [0, 0.1, 0.4, 0.5], [0, 0.1, 0.4, 0.5]])
    every = EventDetector(["a", "b", "c"], 1, on=0.3)
    assert len(scores_to_events(scores, "v", every)) == 3
    one = EventDetector(["a", "b", "c"], 1, on=0.3, exclusive=True)
    assert [(e.label, e.start_s, e.end_s) for e in scores_to_events(scores, "v", one)] == [("a", 0, 2), ("c", 2, 4)]
    eager = EventDetector(["a", "b", "c"], 1, on=[0.4, 0.2, 0.4], exclusive=True)
    assert [(e.label, e.start_s, e.end_s) for e in scores_to_events(scores, "v", eager)] == [("b", 0, 4)]


def test_one_class_alone_is_the_same_exclusive_or_not():
    scores, _ = random_stream(7, classes=1)
    one, other = (EventDetector(["a"], 4, **OPTIONS, exclusive=exclusive) for exclusive in (False, True))
    assert scores_to_events(scores, "v", one) == scores_to_events(scores, "v", other)


def test_what_was_told_is_closed_once_and_not_taken_back_when_another_class_comes():
    scores, classes = random_stream(3)
    detector = EventDetector(classes, 4, **{**OPTIONS, "on": 0.25}, exclusive=True)
    state, told, closed = detector.initial_state("a"), {}, []
    for row in scores:
        update, state = detector.step(row, state)
        for event in update.closed:
            assert told.pop(event.label) == event.start_s
            closed.append(event)
        for event in update.opened:
            assert event.label not in told
            told[event.label] = event.start_s
        assert {event.label for event in detector.ongoing(state)} == set(told)
    events = closed + detector.finish(state)
    assert sorted(events, key=lambda x: (x.start_s, x.end_s, x.label)) == scores_to_events(scores, "a", detector)


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
