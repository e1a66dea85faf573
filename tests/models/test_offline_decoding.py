"""Decoding equals the golden tables, the records and plain loops; times survive the way to the grid and back."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidact.models.offline_decoding import Decoding, Grid, candidates, decode, detections, suppress

SHARED = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[3] / "shared"))
RECORDS = SHARED / "parity" / "offline"

# Rows are start, end, class, score.
SIX = torch.tensor(
    [[0, 10, 0, 0.9], [1, 11, 0, 0.8], [2, 12, 1, 0.7], [20, 30, 0, 0.6], [5, 9, 1, 0.5], [24, 34, 1, 0.05]],
    dtype=torch.float64,
)


def of_record(rows):
    """The columns of the specification's rows: start, end, score, class."""
    return rows[:, [0, 1, 3, 2]]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (
            {"sigma": 0.5},
            [(0, 10, 0.9, 0), (2, 12, 0.7, 1), (20, 30, 0.6, 0), (5, 9, 0.363075, 1), (1, 11, 0.209719, 0),
             (24, 34, 0.05, 1)],
        ),
        (
            {"sigma": 0.75},
            [(0, 10, 0.9, 0), (2, 12, 0.7, 1), (20, 30, 0.6, 0), (5, 9, 0.403943, 1), (1, 11, 0.327684, 0),
             (24, 34, 0.05, 1)],
        ),
        (
            {"sigma": 0.5, "per_class": False},
            [(0, 10, 0.9, 0), (20, 30, 0.6, 0), (5, 9, 0.363075, 1), (2, 12, 0.20897, 1), (1, 11, 0.039922, 0),
             (24, 34, 0.034628, 1)],
        ),
        (
            {"sigma": 0.5, "per_class": False, "voting_overlap": 0.7},
            [(0.4211, 10.4211, 0.9, 0), (20, 30, 0.6, 0), (5, 9, 0.363075, 1), (1.5168, 11.5168, 0.20897, 1),
             (0.9224, 10.9224, 0.039922, 0), (24, 34, 0.034628, 1)],
        ),
        ({"nms": "hard", "overlap": 0.1, "per_class": False}, [(0, 10, 0.9, 0), (20, 30, 0.6, 0)]),
    ],
)  # fmt: skip
def test_golden_table(choices, expected):
    events = of_record(suppress(SIX, Decoding(**choices)))
    np.testing.assert_allclose(events, expected, atol=5e-5)
    np.testing.assert_allclose(events[:, 2], [row[2] for row in expected], atol=6e-7)


def test_the_best_is_kept_below_the_least_score():
    rows = torch.tensor([[0, 10, 0, 0.0005], [1, 11, 0, 0.0004]])
    assert suppress(rows, Decoding()).tolist() == rows[:1].tolist()
    assert len(suppress(rows, Decoding(nms="hard"))) == 0
    assert len(suppress(torch.tensor([[0.0, 10, 0, 0], [1, 11, 0, 0]]), Decoding())) == 1


def test_voting_of_tridet_weighs_by_the_score_alone():
    rows = torch.tensor([[0, 10, 0, 0.6], [1, 11, 0, 0.2], [50, 60, 0, 0.9]])
    events = suppress(rows, Decoding(per_class=False, voting_overlap=0.7, voting_weight="score"))
    np.testing.assert_allclose(events[:2, :2], [[50, 60], [0.25, 10.25]], rtol=1e-6)


@pytest.mark.skipif(not RECORDS.is_dir(), reason="needs shared/parity, the published outputs")
@pytest.mark.parametrize("name", ["actionformer", "actionformer_proposals", "tridet"])
def test_records(name):
    """The published candidates become the published events, in seconds."""
    record = json.loads((RECORDS / f"{name}.json").read_text())["decoding"]
    before, after = (
        torch.tensor(record[key]["values"]).reshape(record[key]["shape"]) for key in ("before_nms", "after_nms")
    )
    choices = dict(record["settings"], voting_weight="score" if name == "tridet" else "score and overlap")
    events = of_record(suppress(before[:, [0, 1, 3, 2]], Decoding(**choices)))
    grid = Grid(record["feature_stride"], record["feature_frames"], record["fps"])
    events[:, :2] = grid.seconds(events[:, :2]).clamp(0, record["duration_s"])
    assert events.shape == after.shape
    tolerance = 1e-6 * max(1.0, float(after.abs().max()))
    torch.testing.assert_close(events, after, atol=tolerance, rtol=0)


# ------------------------------------------------------------------------------------------------------- slow versions


def slow_overlap(a, b, narrow):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = a[1] - a[0] + narrow + b[1] - b[0] + narrow - shared
    return shared / union if union > 0 else 0.0


def slow_suppress(rows, choices):
    """Take the best, lower or drop the others; class by class, row by row."""
    groups = sorted({row[2] for row in rows}) if choices.per_class else [None]
    events = []
    for label in groups:
        left = [row for row in rows if label is None or row[2] == label]
        if choices.nms == "hard":
            left = [row for row in left if row[3] > choices.min_score]
        while left:
            best = max(left, key=lambda row: row[3])
            left.remove(best)
            events.append(best)
            if choices.nms == "hard":
                left = [row for row in left if slow_overlap(best, row, 1e-6) < choices.overlap]
            else:
                lowered = [
                    (*row[:3], row[3] * math.exp(-(slow_overlap(best, row, 1e-6) ** 2) / choices.sigma)) for row in left
                ]
                left = [row for row in lowered if row[3] >= choices.min_score]
    events = sorted(events, key=lambda row: -row[3])[: choices.max_events]
    if choices.per_class or choices.voting_overlap is None:
        return events
    voted = []
    for event in events:
        votes = [(row, slow_overlap(event, row, 0.0)) for row in rows]
        votes = [
            (row, row[3] * (overlap if choices.voting_weight == "score and overlap" else 1))
            for row, overlap in votes
            if overlap >= choices.voting_overlap
        ]
        total = sum(weight for _, weight in votes)
        mean = [sum(row[i] * weight for row, weight in votes) / total if total else event[i] for i in (0, 1)]
        voted.append((*mean, *event[2:]))
    return voted


@st.composite
def cases(draw):
    """Candidates with scores far enough apart that rounding does not change their order, and settings."""
    count = draw(st.integers(0, 80))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    start = rng.uniform(-3, 60, count)
    length = rng.gamma(1.0, 6.0, count) + 0.01
    rows = np.stack([start, start + length, rng.integers(0, draw(st.integers(1, 4)), count), rng.random(count)], 1)
    choices = Decoding(
        nms=draw(st.sampled_from(["soft", "hard"])),
        per_class=draw(st.booleans()),
        sigma=draw(st.sampled_from([0.05, 0.5, 0.75])),
        min_score=draw(st.sampled_from([0.0, 0.001, 0.2])),
        max_events=draw(st.sampled_from([None, 1, 7, 200])),
        overlap=draw(st.sampled_from([0.1, 0.5])),
        voting_overlap=draw(st.sampled_from([None, 0.3, 0.7])),
        voting_weight=draw(st.sampled_from(["score", "score and overlap"])),
    )
    return rows, choices


@settings(max_examples=60, deadline=None)
@given(cases())
def test_suppression_equals_a_plain_loop(case):
    rows, choices = case
    slow = np.array(slow_suppress([tuple(row) for row in rows.tolist()], choices)).reshape(-1, 4)
    fast = suppress(torch.from_numpy(rows), choices).numpy()
    assert fast.shape == slow.shape
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9)


def test_many_candidates_equal_a_plain_loop():
    """Candidates that were dropped leave the matrix on the way."""
    rng = np.random.default_rng(3)
    start = rng.uniform(0, 20, 300)
    rows = np.stack([start, start + rng.uniform(1, 9, 300), np.arange(300) % 5 % 2, rng.random(300)], 1)
    for choices in (Decoding(max_events=None), Decoding(max_events=None, nms="hard", overlap=0.6, per_class=False)):
        slow = slow_suppress([tuple(row) for row in rows.tolist()], choices)
        assert len(slow) > 40
        np.testing.assert_allclose(suppress(torch.from_numpy(rows), choices), slow, rtol=1e-9)


def test_of_equal_scores_the_earlier_comes_first():
    rows = torch.tensor([[5.0, 9, 0, 0.5], [0, 9, 0, 0.5], [0, 9, 1, 0.5]])
    assert suppress(rows, Decoding(nms="hard", per_class=False)).tolist() == rows[:1].tolist()
    assert suppress(rows, Decoding(nms="none")).tolist() == rows.tolist()


def test_precision_of_the_input_does_not_matter():
    """Half precision raised in the published code. The numbers here are exact in it."""
    rows = torch.tensor([[0, 8, 0, 0.5], [4, 12, 0, 0.25], [512, 520, 1, 0.75]])
    expected = suppress(rows, Decoding())
    assert suppress(rows.half(), Decoding()).dtype == torch.float16
    torch.testing.assert_close(suppress(rows.half(), Decoding()).float(), expected, rtol=1e-3, atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- candidates


def made_levels(num_classes=3, of_classes=False):
    torch.manual_seed(0)
    lengths = (16, 8)
    levels = []
    for number, length in enumerate(lengths):
        logits = torch.randn(2, length, num_classes) * 3
        distances = torch.rand(2, length, *([num_classes] if of_classes else []), 2) * 3
        mask = torch.arange(length) * 2**number < torch.tensor([16, 11])[:, None]
        levels.append((logits, distances, 2**number, mask))
    return levels


@pytest.mark.parametrize("of_classes", [False, True])
def test_candidates_equal_a_plain_loop(of_classes):
    levels = made_levels(of_classes=of_classes)
    choices = Decoding(min_score_before=0.3, top_k_per_level=9, min_length=0.8)
    for video, rows in enumerate(candidates(levels, choices)):
        expected = []
        for logits, distances, stride, mask in levels:
            of_level = []
            for t, k in np.ndindex(logits.shape[1:]):
                left, right = (distances[video, t, k] if of_classes else distances[video, t]).tolist()
                score = 1 / (1 + math.exp(-float(logits[video, t, k])))
                if mask[video, t] and score > 0.3:
                    of_level.append(((t - left) * stride, (t + right) * stride, k, score))
            best = sorted(of_level, key=lambda row: -row[3])[:9]
            expected += [row for row in best if row[1] - row[0] > 0.8]
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5)


def test_places_past_the_video_change_nothing():
    levels = made_levels()
    expected = decode(levels, Decoding())
    for logits, distances, _, mask in levels:
        logits[~mask], distances[~mask] = math.nan, math.inf
    for rows, other in zip(decode(levels, Decoding()), expected, strict=True):
        torch.testing.assert_close(rows, other, rtol=0, atol=0)


def test_decode_gives_the_events_that_the_outputs_say():
    """One place a true event, at two levels, with its distances: the events come back."""
    logits, distances = torch.full((1, 8, 2), -20.0), torch.zeros(1, 8, 2)
    logits[0, 3, 1], distances[0, 3] = 20.0, torch.tensor([2.5, 1.25])
    upper, reach = torch.full((1, 4, 2), -20.0), torch.zeros(1, 4, 2)
    upper[0, 2, 0], reach[0, 2] = 10.0, torch.tensor([0.5, 2.0])
    levels = [(logits, distances, 1, torch.ones(1, 8)), (upper, reach, 2, torch.ones(1, 4))]
    (rows,) = decode(levels, Decoding())
    np.testing.assert_allclose(rows[:, :3], [[0.5, 4.25, 1], [3, 8, 0]])
    events = detections(rows, "a", ["run", "jump"], Grid.of(4.0), 2.0)
    assert [(event.video, event.start_s, event.end_s, event.label) for event in events] == [
        ("a", 0.25, 1.1875, "jump"),
        ("a", 0.875, 2.0, "run"),  # cut at the end of the video
    ]


def test_a_video_without_events():
    logits, distances = torch.full((1, 4, 2), -20.0), torch.ones(1, 4, 2)
    (rows,) = decode([(logits, distances, 1, torch.ones(1, 4))], Decoding())
    assert rows.shape == (0, 4)
    assert suppress(rows, Decoding(per_class=False, voting_overlap=0.7)).shape == (0, 4)
    assert detections(rows, "a", ["run", "jump"], Grid.of(4.0), 1.0) == []


def test_events_outside_the_video_are_dropped():
    rows = torch.tensor([[-9.0, -3.0, 0, 0.9], [-2.0, 1.5, 0, 0.8], [11.5, 14, 0, 0.7]])
    events = detections(rows, "a", ["run"], Grid.of(4.0), 3.0, start_s=60.0)
    assert [(event.start_s, event.end_s) for event in events] == [(60.0, 60.5)]


# ----------------------------------------------------------------------------------------------------------------- grid


@pytest.mark.parametrize(
    ("grid", "place", "first"),
    [
        (Grid(6, 6, 24), 11.5, 0.125),
        (Grid.of(4.0), 11.5, 0.125),
        (Grid(4, 16, 30), 20.5, 0.267),
        (Grid(16, 16, 15), 2.3125, 0.533),
        (Grid(16, 16, 25), 4.1875, 0.320),
        (Grid(16, 32, 30), 4.625, 0.533),
    ],
)
def test_golden_places_of_three_seconds(grid, place, first):
    assert grid.places(3.0) == pytest.approx(place)
    assert grid.seconds(place) == pytest.approx(3.0)
    assert grid.seconds(0.0) == pytest.approx(first, abs=5e-4)
    times_s = torch.linspace(-0.1, 90, 7, dtype=torch.float64)
    torch.testing.assert_close(grid.seconds(grid.places(times_s)), times_s)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"nms": "fast"}, "nms is 'fast'; it can be 'soft', 'hard' or 'none'"),
        ({"sigma": 0.0}, "sigma is 0.0; it is a number above 0"),
        ({"min_score": 2.0}, "min_score is 2.0; scores lie from 0 to 1"),
        ({"overlap": 0.0}, "overlap is 0.0; a temporal overlap"),
        ({"voting_overlap": 1.5}, "voting_overlap is 1.5"),
        ({"voting_weight": "iou"}, "voting_weight is 'iou'"),
        ({"max_events": 0}, "max_events is 0; at least 1"),
        ({"min_length": -1.0}, "min_length is -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(choices, words):
    with pytest.raises(ValueError, match=words):
        Decoding(**choices)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([0, math.nan, 0, 0.5], "not finite"),
        ([5, 3, 0, 0.5], "ends before it starts"),
        ([0, 3, 0, -2.0], "score below 0.*Are these logits"),
        ([0, 3, 0.5], r"shape \(1, 3\); rows are start, end, class and score"),
    ],
)
def test_bad_candidates_are_refused(row, words):
    with pytest.raises(ValueError, match=words):
        suppress(torch.tensor([row]), Decoding())


def test_outputs_that_are_not_finite_are_refused():
    levels = made_levels()
    levels[1][0][1, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"logits of level 1 are not finite.*features, or the weights"):
        decode(levels, Decoding())
    with pytest.raises(ValueError, match="there is no level"):
        decode([], Decoding())
    with pytest.raises(ValueError, match="fps is 0; it is a number above 0"):
        Grid.of(0)
