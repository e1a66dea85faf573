"""Every mistake has one kind, mending one never lowers the mAP, and groups add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidact.events import Detection
from vidact.metrics import diagnose, event_map
from vidact.metrics.diagnosis import FALSE, KINDS


def event(start_s, end_s, label="jump", video="x", score=1.0):
    return Detection(video, start_s, end_s, label, score)


MINUTE = {"x": 60.0, "y": 60.0}
TRUTH = [event(0, 10), event(20, 30), event(40, 50, "run"), event(0, 4, "run", "y")]


def kinds(detections, truth=TRUTH, **changes):
    result = diagnose(detections, truth, MINUTE, **changes)
    return {kind: count for kind, count in result.detections.items() if count}


@pytest.mark.parametrize(
    ("detection", "kind"),
    [
        (event(12, 18), "background"),
        (event(0, 10, "swim", "y"), "confusion"),  # of a class that never occurs, on half of an event
        (event(40, 50), "confusion"),
        (event(44, 54), "confusion"),
        (event(0, 4), "borders"),
        (event(9.5, 20), "background"),  # below a tenth of the event
        (event(0, 9), "right"),
        (event(0, 10, video="y"), "confusion"),
    ],
)
def test_each_kind(detection, kind):
    assert kinds([detection]) == {kind: 1}


def test_the_second_detection_of_an_event_is_a_double():
    assert kinds([event(0, 10, score=0.9), event(0, 9, score=0.8)]) == {"right": 1, "double": 1}


def test_the_nearest_event_decides_between_borders_and_confusion():
    truth = [event(0, 10), event(10, 20, "run")]
    assert kinds([event(6, 14)], truth) == {"borders": 1}  # equal: its own class
    assert kinds([event(7, 15)], truth) == {"confusion": 1}


def test_what_becomes_of_events():
    detections = [event(0, 10), event(20, 24), event(40, 48)]
    result = diagnose(detections, TRUTH, MINUTE)
    assert result.events == {"right": 1, "borders": 1, "confusion": 1, "missed": 1}
    assert result.confused == (("run", "jump", 1),)
    assert result.looked_at == (3, 3)


def test_mended_map_by_hand():
    """jump: a false alarm at the top, then the first event; run: nothing."""
    detections = [event(12, 18, score=0.9), event(0, 10, score=0.8), event(20, 24, score=0.7)]
    result = diagnose(detections, TRUTH, MINUTE)
    assert result.mean_ap == pytest.approx((0.5 / 2 + 0) / 2)
    assert result.if_mended["background"] == pytest.approx((1 / 2 + 0) / 2)
    assert result.if_mended["borders"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 0) / 2)
    assert result.if_mended["missed"] == pytest.approx((0.5 / 2 + 1) / 2)  # no event of run is left to be asked for
    assert result.if_mended["double"] == result.if_mended["confusion"] == result.mean_ap


def test_a_mended_name_counts_for_the_class_of_the_event():
    result = diagnose([event(40, 50, score=0.9), event(0, 10, score=0.8)], TRUTH, MINUTE)
    assert result.mean_ap == pytest.approx(((1 / 2) / 2 + 0) / 2)
    assert result.if_mended["confusion"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    # With poor borders as well, the name alone does not make it right, and it is left out.
    poor = diagnose([event(46, 54, score=0.9), event(0, 10, score=0.8)], TRUTH, MINUTE)
    assert poor.if_mended["confusion"] == pytest.approx((1 / 2 + 0) / 2)


def test_what_lies_in_ambiguous_time_is_no_mistake():
    truth = [*TRUTH, event(12, 19, "Ambiguous")]
    assert kinds([event(12, 18), event(0, 10)], truth) == {"right": 1}


def test_detections_far_down_the_ranking_are_not_looked_at():
    """Of a class with one event ten count, but an event that is found there is found."""
    truth = [event(0, 10)]
    detections = [event(20 + i, 20.5 + i, score=0.9 - i / 100) for i in range(30)] + [event(0, 10, score=0.1)]
    result = diagnose(detections, truth, MINUTE)
    assert result.detections == {"right": 1, "background": 10, "confusion": 0, "borders": 0, "double": 0}
    assert result.looked_at == (11, 31)
    assert result.events["right"] == 1


def test_groups():
    truth = [event(0, 1), event(10, 12), event(20, 24), event(30, 38), event(0, 16, video="y")]
    result = diagnose([event(0, 1), event(12, 12.5), event(50, 51, "run")], truth, MINUTE | {"y": 600.0})
    assert [group["group"] for group in result.groups["length"]] == ["up to 2 s", "2 to 4 s", "4 to 8 s", "over 8 s"]
    assert [group["events"]["right"] for group in result.groups["length"]] == [1, 0, 0, 0]
    assert [group["false"]["background"] for group in result.groups["length"]] == [2, 0, 0, 0]
    assert [(group["group"], group["events"]["missed"]) for group in result.groups["instances"]] == [
        ("none", 0), ("1", 1), ("4 to 7", 3),
    ]  # fmt: skip
    assert [group["group"] for group in result.groups["crowding"]] == ["up to 0.1 a minute", "over 0.1 a minute"]


spans = st.tuples(st.integers(0, 30), st.integers(1, 8), st.sampled_from("xy"), st.sampled_from(["jump", "run", "sit"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(spans, max_size=25), st.lists(spans, min_size=1, max_size=8), st.lists(spans, max_size=2))
def test_laws(found, true, unclear):
    detections = [event(s, s + n, c, v, score=1 / (i + 2)) for i, (s, n, v, c) in enumerate(found)]
    truth = [event(s, s + n, c, v) for s, n, v, c in true]
    truth += [event(s, s + n, "ambiguous", v) for s, n, v, _ in unclear]
    result = diagnose(detections, truth, MINUTE)
    assert result.mean_ap == pytest.approx(event_map(detections, truth, 0.5).mean)
    for kind in KINDS:
        assert result.mean_ap - 1e-9 <= result.if_mended[kind] <= 1 + 1e-9
        if kind in FALSE and not result.detections[kind]:
            assert result.if_mended[kind] == pytest.approx(result.mean_ap)
    assert sum(result.events.values()) == len(true)
    assert sum(result.detections.values()) == result.looked_at[0] <= len(found)
    for groups in result.groups.values():
        for fate, count in result.events.items():
            assert sum(group["events"][fate] for group in groups) == count
        for kind in FALSE:
            assert sum(group["false"][kind] for group in groups) == result.detections[kind]


def test_a_perfect_detector_makes_no_mistake():
    result = diagnose(TRUTH, TRUTH, MINUTE)
    assert result.mean_ap == 1
    assert set(result.if_mended.values()) == {1.0}
    assert result.detections == {"right": 4, "background": 0, "confusion": 0, "borders": 0, "double": 0}


def test_a_detector_without_detections_misses_all():
    """TIDE divides by zero here."""
    result = diagnose([], TRUTH, MINUTE)
    assert result.mean_ap == 0
    assert result.events == {"right": 0, "borders": 0, "confusion": 0, "missed": 4}
    assert result.if_mended == {"background": 0, "confusion": 0, "borders": 0, "double": 0, "missed": 1}


def test_equal_and_overlapping_events_are_no_mistakes_of_a_perfect_detector():
    truth = [event(0, 10), event(0, 10), event(2, 9), event(2, 9, "run"), event(0, 10, "run")]
    result = diagnose(truth, truth, MINUTE)
    assert result.mean_ap == 1
    assert result.detections["right"] == result.looked_at[1] == 5


def test_a_list_twice_scores_no_better():
    """All of the second list are doubles."""
    detections = [event(0, 9, score=0.9), event(20, 30, score=0.8), event(41, 50, "run", score=0.7)]
    once, twice = (diagnose(detections * times, TRUTH, MINUTE) for times in (1, 2))
    assert twice.detections["double"] == 3
    assert twice.mean_ap < once.mean_ap
    assert twice.if_mended["double"] == pytest.approx(once.mean_ap)


def test_the_figures_are_plain():
    figures = diagnose([event(40, 50), event(0, 4)], TRUTH, MINUTE).figures()
    assert figures["tiou"] == 0.5
    assert figures["confused"] == [{"truth": "run", "called": "jump", "times": 1}]
    assert set(figures["if_mended"]) == set(KINDS)
    assert np.isfinite(list(figures["if_mended"].values())).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: diagnose([], [], MINUTE), "nothing to find"),
        (lambda: diagnose([], TRUTH, {"x": 60.0}), "the duration of y is not given"),
        (lambda: diagnose([event(0, 1, video="z")], TRUTH, MINUTE), "the duration of z is not given"),
        (lambda: diagnose([], TRUTH, MINUTE, tiou=0.05), "tiou is 0.05; it is above 0.1"),
        (lambda: diagnose([event(0, 1, score=float("nan"))], TRUTH, MINUTE), "NaN score"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
