"""Each named protocol scores exactly the rows that its paper's code scores, and moves the figure as theirs does."""

from collections import defaultdict

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vidact.data.event_list import Event, rasterise
from vidact.metrics import PROTOCOLS, calibrated_map, frame_map


def rows_scored(protocol, lengths, ignore):
    """The rows that a protocol keeps: with each row the only positive of a class of its own, those that have an AP."""
    rows = sum(lengths)
    own = np.concatenate([np.zeros((rows, 1)), np.eye(rows)], axis=1)
    result = frame_map(own, own, ignore, protocol, np.repeat(np.arange(len(lengths)), lengths))
    kept = np.flatnonzero(~np.isnan(result.per_class))
    assert result.rows == len(kept)
    return kept.tolist()


def marked(rows, *stretches):
    ignore = np.zeros(rows, dtype=bool)
    for start, end in stretches:
        ignore[start:end] = True
    return ignore


def test_lstr_keeps_all_but_the_ambiguous():
    ignore = marked(40, (3, 5), (30, 31))
    assert rows_scored("lstr", [25, 15], ignore) == [t for t in range(40) if t not in (3, 4, 30)]


def test_oadtr_keeps_63_to_t_minus_10_of_each_video():
    """Videos of 72 frames and fewer have none left, one of 73 has one."""
    ignore = marked(100 + 72 + 73 + 80, (60, 65), (90, 95))
    first = [t for t in range(63, 91) if t not in (63, 64, 90)]
    assert rows_scored("oadtr", [100, 72, 73, 80], ignore) == [*first, 172 + 63, *range(245 + 63, 245 + 71)]


def test_gatehub_tests_the_oldest_of_eight_present_frames():
    """Of an ambiguous stretch the first seven frames stay; the seven valid ones behind it go."""
    ignore = marked(60, (10, 20))
    kept = [*range(1, 17), *range(27, 30), *range(31, 60)]
    assert rows_scored("gatehub", [30, 30], ignore) == kept


def test_gatehub_near_the_border():
    """Before the eighth frame the oldest present one is the first; the next video sees nothing of this one."""
    ignore = marked(40, (0, 1), (19, 20))
    assert rows_scored("gatehub", [20, 20], ignore) == [*range(8, 20), *range(21, 40)]


def test_gatehub_counts_ambiguous_frames_as_negatives():
    targets = np.zeros((20, 2))
    targets[12:15, 1] = 1
    scores = np.zeros((20, 2))
    scores[12:15, 1] = 0.5
    scores[5:7, 1] = 0.9  # fires where the label is ambiguous
    ignore = marked(20, (5, 7))
    ids = np.zeros(20)
    assert frame_map(scores, targets, ignore, "lstr", ids).mean == 1.0
    # two false frames stand before the three true ones, of which the two seven behind the ambiguous are dropped
    assert frame_map(scores, targets, ignore, "gatehub", ids).mean == pytest.approx(1 / 3)


def test_idu_keeps_all():
    assert rows_scored("idu-smooth", [25, 15], marked(40, (3, 9))) == list(range(40))


def test_legacy_smooth_keeps_what_lstr_keeps():
    ignore = marked(40, (3, 9), (25, 26))
    assert rows_scored("legacy-smooth", [25, 15], ignore) == rows_scored("lstr", [25, 15], ignore)


def test_legacy_smooth_is_the_largest_of_five_inside_each_video():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((30, 4)), np.eye(4)[rng.integers(0, 4, 30)]
    ids, ignore = np.repeat([0, 1, 2], [12, 1, 17]), marked(30, (4, 6))
    near = [[j for j in range(30) if abs(i - j) <= 2 and ids[i] == ids[j]] for i in range(30)]
    smoothed = np.array([scores[rows].max(0) for rows in near])
    result = frame_map(scores, targets, ignore, "legacy-smooth", ids)
    theirs = average_precision_score(targets[~ignore, 1:], smoothed[~ignore, 1:], average=None)
    np.testing.assert_allclose(result.per_class, theirs)
    assert result.rows == 28


def test_idu_smooths_over_borders_of_videos():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((30, 4)), np.eye(4)[rng.integers(0, 4, 30)]
    smoothed = [scores[0]]
    for row in scores[1:]:
        smoothed.append((smoothed[-1] + row) / 2)
    np.testing.assert_allclose(
        frame_map(scores, targets, protocol="idu-smooth").per_class,
        frame_map(np.array(smoothed), targets).per_class,
    )


def test_switch_lets_one_class_count_for_another():
    targets = np.array([[0, 1, 1], [0, 0, 1], [1, 0, 0]])
    scores = np.array([[0.0, 0.9, 0.0], [0.0, 0.0, 0.5], [0.0, 0.1, 0.4]])
    assert frame_map(scores, targets).per_class.tolist() == [1.0, pytest.approx((1 + 2 / 3) / 2)]
    assert frame_map(scores, targets, switch=(1, 2)).per_class.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calibrated_map_scores_the_same_rows(protocol):
    rng = np.random.default_rng(0)
    scores, targets = rng.random((300, 4)), np.eye(4)[rng.integers(0, 4, 300)]
    ids, ignore = np.repeat([0, 1], 150), marked(300, (70, 90))
    plain = frame_map(scores, targets, ignore, protocol, ids)
    calibrated = calibrated_map(scores, targets, ignore, protocol, ids, weight=1)
    assert calibrated.rows == plain.rows
    if protocol != "legacy-smooth":  # whose largest-of-five makes ties, which calibrated precision takes one by one
        np.testing.assert_allclose(calibrated.per_class, plain.per_class)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "idu-smooth"])
def test_the_order_of_videos_does_not_matter(protocol):
    rng = np.random.default_rng(0)
    scores, targets = rng.random((300, 4)), np.eye(4)[rng.integers(0, 4, 300)]
    ids, ignore = np.repeat(["a", "b", "c"], [80, 100, 120]), rng.random(300) < 0.1
    other = np.concatenate([np.flatnonzero(ids == name) for name in "cab"])
    assert frame_map(scores[other], targets[other], ignore[other], protocol, ids[other]).mean == pytest.approx(
        frame_map(scores, targets, ignore, protocol, ids).mean
    )


# ------------------------------------------------------------------------------------ a made-up detector on real labels


@pytest.fixture(scope="module")
def thumos(shared_data):
    """Frames of the THUMOS'14 test videos at 4 tokens/s with the scores of a seeded, middling detector."""
    folder = shared_data / "annotations/thumos14_txt/thumos_14"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it holds the THUMOS'14 annotation")
    lines = (folder / "test_durations.txt").read_text().split()
    seconds = {name.removesuffix(".mp4"): float(length) for name, length in zip(lines[::2], lines[1::2], strict=True)}
    events = defaultdict(list)
    for path in sorted((folder / "temporal_annotations_test").glob("*.txt")):
        for line in path.read_text().splitlines():
            if line.strip():
                video, start_s, end_s = line.split()
                events[video].append(Event(video, float(start_s), float(end_s), path.stem.removesuffix("_test")))
    classes = sorted({event.label for found in events.values() for event in found} - {"Ambiguous"})
    assert (len(events), len(classes)) == (213, 20)
    labels = [rasterise(events[video], int(4 * seconds[video]), 4, classes) for video in sorted(events)]
    targets = np.concatenate([of.multi_hot for of in labels])
    ignore = np.concatenate([of.ignore for of in labels])
    ids = np.repeat(np.arange(len(labels)), [len(of.ignore) for of in labels])
    rng = np.random.default_rng(0)
    logits = 2.1 * targets + rng.normal(size=targets.shape)
    logits[:, 0] += 1
    # What people could not agree on looks a little like the video's own action.
    own = np.array([1 + of.multi_hot[:, 1:].sum(0).argmax() for of in labels])
    logits[ignore, own[ids[ignore]]] += 2
    scores = np.exp(logits)
    return scores / scores.sum(1, keepdims=True), targets, ignore, ids


def test_protocols_move_the_figure_as_published(thumos):
    scores, targets, ignore, ids = thumos
    figures = {name: 100 * frame_map(scores, targets, ignore, name, ids).mean for name in PROTOCOLS}
    figures["ambiguous kept"] = 100 * frame_map(scores, targets).mean
    figures["background removed"] = 100 * frame_map(scores, targets, ignore | (targets[:, 0] == 1)).mean
    lstr = figures["lstr"]
    assert figures["oadtr"] == pytest.approx(lstr, abs=1)
    assert figures["gatehub"] == pytest.approx(lstr, abs=1)
    assert lstr - 3 < figures["ambiguous kept"] < lstr
    assert figures["background removed"] > lstr + 5
    assert figures["legacy-smooth"] > lstr + 5
    assert figures["idu-smooth"] > lstr + 5
