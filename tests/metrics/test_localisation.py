"""mAP over temporal overlap, recall and proposals against the golden table and slow versions."""

import math

import numpy as np
import pytest

from vidact.events import Detection
from vidact.metrics import (
    ACTIVITYNET_TIOUS,
    THUMOS_TIOUS,
    event_map,
    localisation_figures,
    proposal_recall,
    recall_at,
)


def event(start_s, end_s, label="a", video="x", score=1.0):
    return Detection(video, start_s, end_s, label, score)


# --------------------------------------------------------------------------------------------------------------- golden


def golden(label, rows):
    """Events of one class: (video, start, end[, score])."""
    return [event(start, end, label, video, *score) for video, start, end, *score in rows]


TRUTH = [
    *golden("x", [("a", 0, 10), ("a", 20, 30), ("b", 5, 15)]),
    *golden("y", [("a", 40, 50), ("b", 30, 60), ("c", 0, 8)]),
]
OF_X = golden("x", [("a", 0, 10, 0.9), ("a", 1, 10, 0.8), ("a", 22, 30, 0.7), ("b", 5, 12, 0.6), ("b", 0, 15, 0.55)])
OF_Y = golden("y", [("a", 41, 47, 0.9), ("b", 30, 50, 0.8), ("b", 10, 20, 0.7), ("d", 0, 10, 0.95)])
OF_Z = golden("z", [("c", 4, 20, 0.99)])


def tiou_map(detections, truth, tiou=THUMOS_TIOUS):
    return event_map(detections, truth, tiou, interpolated=True)


def test_golden_classes_together():
    result = tiou_map(OF_X + OF_Y + OF_Z, TRUTH)
    assert result.classes == ("x", "y")
    np.testing.assert_allclose(result.per_class.T, [[0.833333] * 5, [0.444444] * 4 + [0]], atol=1e-6)
    assert result.mean == pytest.approx(0.594444, abs=1e-6)
    assert result.per_tiou == pytest.approx([0.638889] * 4 + [0.416667], abs=1e-6)


@pytest.mark.parametrize(
    ("detections", "truth", "tiou", "areas"),
    [
        ([event(50, 60, score=0.5), event(0, 10, score=0.5)], [event(0, 10)], (0.5,), [0.5]),  # equal scores: in order
        ([event(0, 10, score=0.5), event(50, 60, score=0.5)], [event(0, 10)], (0.5,), [1.0]),
        (
            [event(1, 10, score=0.9), event(0, 11, score=0.8)],
            [event(0, 10), event(4, 14)],
            (0.3, 0.5, 0.7),
            [1, 1, 0.5],
        ),
        (
            [event(0, 10, score=0.9), event(60, 70, score=0.8), event(62, 70, score=0.7), event(20, 30, score=0.6),
             event(40, 50, score=0.5)],
            [event(0, 10), event(20, 30), event(40, 50)],
            (0.5,),
            [0.733333],
        ),
        ([event(0, 6)], [event(0, 10)], THUMOS_TIOUS, [1, 1, 1, 1, 0]),
        ([event(0, 7)], [event(0, 10)], THUMOS_TIOUS, [1] * 5),
        ([event(0, 3)], [event(0, 10)], THUMOS_TIOUS, [1, 0, 0, 0, 0]),
        ([event(0, 10)], [event(0, 10)] * 2, (0.5,), [0.5]),
    ],
)  # fmt: skip
def test_golden_cases(detections, truth, tiou, areas):
    assert tiou_map(detections, truth, tiou).per_tiou == pytest.approx(areas, abs=1e-6)


def test_golden_without_the_predictions_of_one_class():
    assert tiou_map(OF_X + OF_Z, TRUTH).mean == pytest.approx(0.416667, abs=1e-6)


def test_plain_area_differs():
    detections = [event(0, 10, score=0.9), event(60, 70, score=0.8), event(62, 70, score=0.7),
                  event(20, 30, score=0.6), event(40, 50, score=0.5)]  # fmt: skip
    truth = [event(0, 10), event(20, 30), event(40, 50)]
    assert event_map(detections, truth, 0.5).mean == pytest.approx(0.7)


# ----------------------------------------------------------------------------------------- an independent short version


def short_tiou_map(detections, truth, tious):
    """ActivityNet's: for each class and overlap the falling scores, the best free event, the area below the hull."""
    areas = []
    for tiou, label in [(t, c) for t in tious for c in {e[1] for e in truth}]:
        free, hits, true = list(range(len(truth))), [], sum(e[1] == label for e in truth)
        for video, _, start, end, _ in sorted((d for d in detections if d[1] == label), key=lambda d: -d[4]):
            near = {i: (max(start, truth[i][2]), min(end, truth[i][3])) for i in free if truth[i][:2] == (video, label)}
            ious = {
                i: (b - a) / (end - start + truth[i][3] - truth[i][2] - (b - a)) for i, (a, b) in near.items() if b > a
            }
            best = max(ious, key=ious.get, default=None)
            hits.append(best is not None and ious[best] >= tiou - 1e-9)
            free = [i for i in free if not hits[-1] or i != best]
        precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
        areas.append(sum(max(precision[n:]) for n in range(len(hits)) if hits[n]) / true)
    return sum(areas) / len(areas)


def random_case(rng):
    """Rows (video, label, start, end[, score]) of a few videos and classes; scores differ."""

    def rows(count, labels):
        start = rng.integers(0, 200, count) / 4
        end = start + rng.integers(1, 60, count) / 4
        return list(zip(rng.choice(list("xyz"), count), rng.choice(list(labels), count), start, end, strict=True))

    truth = rows(rng.integers(1, 14), "abc")
    guesses = rows(rng.integers(0, 24), "abcd")
    near = [(v, c, s + rng.normal(0, 1), e + rng.normal(0, 1)) for v, c, s, e in truth if rng.random() < 0.8]
    detections = guesses + [row for row in near if row[2] < row[3]]
    scores = rng.permutation(len(detections)) / max(1, len(detections))
    return [(*row, score) for row, score in zip(detections, scores, strict=True)], truth


def as_events(rows):
    return [Detection(video, start, end, label, *(score or [1.0])) for video, label, start, end, *score in rows]


def test_tiou_map_equals_the_short_version():
    for seed in range(200):
        detections, truth = random_case(np.random.default_rng(seed))
        area = tiou_map(as_events(detections), as_events(truth)).mean
        assert area == pytest.approx(short_tiou_map(detections, truth, THUMOS_TIOUS), abs=1e-9), seed


# ------------------------------------------------------------------------------------------------------------- recall


def slow_overlap(a, b):
    shared = max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))
    return shared / (a.end_s - a.start_s + b.end_s - b.start_s - shared)


def test_recall_equals_a_slow_version():
    for seed in range(60):
        detections, truth = map(as_events, random_case(np.random.default_rng(seed)))
        result = recall_at(detections, truth, tiou=(0.3, 0.5))
        for n, multiple in enumerate((1, 5)):
            for o, tiou in enumerate((0.3, 0.5)):
                for k, label in enumerate(sorted({e.label for e in truth})):
                    covered = 0
                    of_class = [e for e in truth if e.label == label]
                    for true in of_class:
                        same = [d for d in detections if (d.video, d.label) == (true.video, label)]
                        count = sum(e.video == true.video for e in of_class)
                        best = sorted(same, key=lambda d: -d.score)[: multiple * count]
                        covered += any(slow_overlap(d, true) >= tiou for d in best)
                    assert result.per_class[n, o, k] == pytest.approx(covered / len(of_class))


def test_one_detection_may_cover_two_events():
    """Where the matching of mAP finds one."""
    truth = [event(0, 10), event(1, 11)]
    assert recall_at([event(0, 11)], truth).per_number.tolist() == [1.0, 1.0]
    assert event_map([event(0, 11)], truth, 0.5).mean == 0.5


def test_recall_takes_the_best_of_each_video():
    truth = [event(0, 10), event(0, 10, video="y")]
    detections = [event(30, 40, score=0.9), event(0, 10, score=0.8), event(0, 10, video="y", score=0.1)]
    assert recall_at(detections, truth).per_number.tolist() == [0.5, 1.0]


def test_proposal_recall():
    truth = [event(0, 10), event(20, 30, "b"), event(0, 10, video="y"), event(50, 60, "Ambiguous")]
    detections = [event(0, 10, score=0.5), event(40, 50, score=0.9), event(20, 26, score=0.4), event(0, 8, video="y")]
    result = proposal_recall(detections, truth, (1, 2, 3))
    # x: after 1 nothing, after 2 the first event, after 3 the second up to 0.6; y: 0.8 from the first on.
    levels = np.array(ACTIVITYNET_TIOUS)
    of_y, of_second = levels <= 0.8 + 1e-9, levels <= 0.6 + 1e-9
    assert result.per_class[:, :, 0] * 3 == pytest.approx(np.stack([of_y, of_y + 1.0, of_y + 1.0 + of_second]))
    assert result.per_number[0] == pytest.approx(0.7 / 3)
    assert proposal_recall([], truth).per_number.tolist() == [0.0] * 5


# ---------------------------------------------------------------------------------------------------------- all figures


def test_all_figures():
    figures = localisation_figures(OF_X + OF_Y + OF_Z, TRUTH, ["x", "y", "z"])
    assert figures["tiou_map"] == pytest.approx(0.594444, abs=1e-6)
    assert figures["event_map"] == event_map(OF_X + OF_Y + OF_Z, TRUTH).mean
    assert list(figures["tiou"]) == ["tIoU 0.3", "tIoU 0.4", "tIoU 0.5", "tIoU 0.6", "tIoU 0.7"]
    assert figures["tiou"]["tIoU 0.7"] == pytest.approx(0.416667, abs=1e-6)
    assert [row["class"] for row in figures["tiou_classes"]] == ["x", "y"]  # z does not occur in the truth
    assert np.mean([row["mean"] for row in figures["tiou_classes"]]) == pytest.approx(figures["tiou_map"])
    assert figures["recall_1x"] <= figures["recall_5x"] <= 1
    assert [*figures["proposal_recall"]] == ["AR@1", "AR@5", "AR@10", "AR@50", "AR@100"]
    assert [*figures["proposal_recall"].values()] == proposal_recall(OF_X + OF_Y + OF_Z, TRUTH).per_number.tolist()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: localisation_figures([event(0, 1, "jmp")], [event(0, 1, "jump")], ["jump"]), "did you mean 'jump'"),
        (lambda: localisation_figures([], [event(0, 1, "run")], ["jump"]), "is of no class; there are jump"),
        (lambda: localisation_figures([event(0, 1, score=math.nan)], [event(0, 1)], ["a"]), "NaN score"),
        (lambda: localisation_figures([event(1, 0)], [event(0, 1)], ["a"]), "from 1 to 0 s does not start before"),
        (lambda: localisation_figures([], [], ["a"]), "nothing to find"),
        (lambda: recall_at([event(0, 1)], []), "nothing to find"),
        (lambda: recall_at([event(0, 1)], [event(0, 1)], (0,)), r"times are \(0,\); give whole numbers from 1"),
        (lambda: recall_at([event(0, 1, score=math.nan)], [event(0, 1)]), "NaN score"),
        (lambda: proposal_recall([event(0, 1)], [event(0, 1)], tiou=1.5), "tiou is 1.5"),
        (lambda: proposal_recall([event(0, 1)], [event(0, 1)], ()), r"numbers are \(\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_ambiguous_label_needs_no_class():
    truth = [event(0, 10), event(20, 60, "ambiguous")]
    assert localisation_figures([event(0, 10)], truth, ["a"])["tiou_map"] == 1.0
