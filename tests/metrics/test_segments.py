"""Frame accuracy, edit score and F1 of segments against the golden table and slow versions."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidact.events import Detection
from vidact.metrics import frame_labels, segment_scores


def frames(code):
    """Names of frames: 3_5A is three of background and five of A."""
    return np.array([name for count, name in re.findall(r"(\d+)(\D)", code) for _ in range(int(count))])


GOLDEN = {
    "S1": ("2_4A1C1A5B1_6A", "3_5A4B2_6A", 85, 60, (75, 75, 75)),
    "S2": ("10A2_8B", "4A6B2A8B", 60, 50, (66.6667, 66.6667, 33.3333)),
    "S3": ("3_2A1B2A1B2A9_", "3_10A7_", 80, 20, (33.3333, 0, 0)),
    "S4": ("20_", "5_10A5_", 50, 0, (0, 0, 0)),
    "S5": ("5_3A12_", "20_", 85, 0, (0, 0, 0)),
    "S6": ("20_", "20_", 100, 100, (0, 0, 0)),
    "S7": ("9A1B", "9A1B", 100, 100, (100, 100, 100)),
    "S8": ("7A3B", "4A6B", 70, 100, (100, 100, 100)),
    "S9": ("4A1_4A11_", "10A10_", 90, 50, (66.6667, 66.6667, 0)),
    "S10": ("3A17_", "10_5A5_", 60, 100, (0, 0, 0)),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_table(name):
    predicted, truth, accuracy, edit, f1 = GOLDEN[name]
    result = segment_scores([frames(predicted)], [frames(truth)], background="_")
    assert result.accuracy == pytest.approx(accuracy)
    assert result.edit == pytest.approx(edit)
    assert result.f1 == pytest.approx(f1, abs=5e-5)


def test_golden_counts():
    one = segment_scores([frames(GOLDEN["S1"][0])], [frames(GOLDEN["S1"][1])], "_")
    assert (one.right[0], one.false[0], one.missed[0]) == (3, 2, 0)
    empty = segment_scores([frames("5_3A12_")], [frames("20_")], "_")
    assert (empty.right[0], empty.false[0], empty.missed[0]) == (0, 1, 0)


def test_golden_videos_together():
    """Counts are summed over videos, as is accuracy; edit scores are averaged."""
    predicted, truth = ([frames(GOLDEN[name][side]) for name in ("S1", "S2", "S3")] for side in (0, 1))
    result = segment_scores(predicted, truth, "_")
    assert (result.accuracy, result.edit) == (pytest.approx(75), pytest.approx(43.3333, abs=5e-5))
    assert result.f1 == pytest.approx([60, 50, 40])


def test_background_counts_where_it_is_not_named():
    predicted, truth = [frames("5A5_")], [frames("5A2B3_")]
    assert segment_scores(predicted, truth, "_").edit == 50  # A against A, B
    assert segment_scores(predicted, truth).edit == pytest.approx(200 / 3)  # A, _ against A, B, _
    assert segment_scores(predicted, truth).accuracy == segment_scores(predicted, truth, "_").accuracy == 80
    several = segment_scores([["start", "cut", "cut", "end"]], [["start", "cut", "end", "end"]], ["start", "end"])
    assert several.right.tolist() == [1, 1, 1]


def test_numbers_and_names_are_the_same():
    rng = np.random.default_rng(0)
    names = np.array(["pour", "background", "stir", "take"])
    predicted, truth = ([np.repeat(rng.integers(0, 4, 9), 3) for _ in range(3)] for _ in range(2))
    one = segment_scores(predicted, truth, [1])
    two = segment_scores([names[row] for row in predicted], [names[row] for row in truth], ["background"])
    assert (one.accuracy, one.edit, one.f1.tolist()) == (two.accuracy, two.edit, two.f1.tolist())


def test_background_may_be_one_label():
    """A name is one label and no list of letters, and a longer name is not cut to the length of the labels."""
    predicted, truth = [["background", "A", "A"]], [["A", "A", "background"]]
    assert segment_scores(predicted, truth, "background").edit == 100
    assert segment_scores(predicted, truth, ["background"]).right.tolist() == [1, 1, 0]  # a third is shared
    assert segment_scores([[0, 1, 1]], [[1, 1, 0]], 0).edit == 100
    assert segment_scores([["b", "A"]], [["b", "A"]], "background").right.tolist() == [2, 2, 2]


def test_labels_of_any_kind_of_array():
    truth = np.array(["A", "B", "B"], dtype=object)  # as a table's column
    assert segment_scores([["A", "B", "B"]], [truth]).accuracy == 100
    assert segment_scores([torch.tensor([0, 1, 1])], [np.array([0, 1, 1], dtype=np.uint8)]).accuracy == 100


def test_ignored_frames_count_nowhere():
    predicted, truth = frames("4A2B4A"), frames("4A2C4A")
    ignore = np.arange(10) // 4 == 1
    ignore[6:] = False
    with_ignore = segment_scores([predicted], [truth], ignore=[ignore])
    assert with_ignore.accuracy == with_ignore.edit == 100
    assert with_ignore.right.tolist() == [2, 2, 2]
    assert segment_scores([predicted], [truth]).accuracy == 80


# ------------------------------------------------------------------------------------------------------- slow versions


def slow_segments(row, background):
    segments = []
    for i, label in enumerate(row):
        if i and row[i - 1] == label:
            segments[-1][2] = i + 1
        else:
            segments.append([label, i, i + 1])
    return [tuple(segment) for segment in segments if segment[0] not in background]


def slow_edit(ours, true):
    if not ours and not true:
        return 100.0
    table = [[i + j if not i or not j else 0 for j in range(len(true) + 1)] for i in range(len(ours) + 1)]
    for i in range(1, len(ours) + 1):
        for j in range(1, len(true) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (ours[i - 1][0] != true[j - 1][0])
            )
    return 100 * (1 - table[-1][-1] / max(len(ours), len(true)))


def slow_counts(ours, true, least):
    used, right = set(), 0
    for label, start, end in ours:
        best, at = -2.0, None
        for number, (name, first, last) in enumerate(true):
            overlap = (min(end, last) - max(start, first)) / (max(end, last) - min(start, first)) * (label == name)
            if overlap > best:
                best, at = overlap, number
        if at is not None and best >= least and at not in used:
            used.add(at)
            right += 1
    return right, len(ours) - right, len(true) - right


runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=10)


def row_of(parts, length):
    row = [label for label, count in parts for _ in range(count)]
    return (row * length)[:length]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(runs, runs, st.integers(1, 30)), min_size=1, max_size=3), st.sets(st.integers(0, 3)))
def test_segment_scores_equal_a_slow_version(videos, background):
    predicted, truth = ([row_of(video[side], video[2]) for video in videos] for side in (0, 1))
    result = segment_scores(predicted, truth, background)
    segments = [
        (slow_segments(ours, background), slow_segments(true, background))
        for ours, true in zip(predicted, truth, strict=True)
    ]
    assert result.edit == pytest.approx(np.mean([slow_edit(*pair) for pair in segments]))
    for at, level in enumerate((0.1, 0.25, 0.5)):
        counts = np.sum([slow_counts(*pair, level) for pair in segments], axis=0)
        assert [result.right[at], result.false[at], result.missed[at]] == counts.tolist()
    equal = [a == b for ours, true in zip(predicted, truth, strict=True) for a, b in zip(ours, true, strict=True)]
    assert result.accuracy == pytest.approx(100 * np.mean(equal))


# ---------------------------------------------------------------------------------------------------- labels of frames


def segment(start_s, end_s, label="A", video="x"):
    return Detection(video, start_s, end_s, label, 1.0)


def test_frames_take_the_segment_of_their_middle():
    labels = frame_labels([segment(0.1, 1.0), segment(1.0, 1.26, "B")], 8, 4.0, "_")
    assert "".join(labels) == "AAAAB___"
    assert "".join(frame_labels([segment(0.13, 0.9)], 4, 4.0, "_")) == "_AAA"
    assert set(frame_labels([], 3, 15.0)) == {"background"}


def test_segments_from_frames_come_back():
    """At 15 frames a second no time of a border is exact."""
    labels = frames("3A4B1C7A")
    borders = [0, 3, 7, 8, 15]
    segments = [segment(start / 15, end / 15, labels[start]) for start, end in itertools.pairwise(borders)]
    assert frame_labels(segments, 15, 15.0).tolist() == labels.tolist()


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: segment_scores([[0, 1]], [[0, 1, 1]]), "video 0 has 2 predictions and 3 labels; bring them to one"),
        (lambda: segment_scores([[0, 1]], []), "1 videos of predictions and 0 of truth cannot be matched"),
        (lambda: segment_scores([], []), "cannot be matched"),
        (lambda: segment_scores([[]], [[]]), "no frame counts"),
        (lambda: segment_scores([[0]], [[0]], ignore=[[True]]), "no frame counts"),
        (lambda: segment_scores([[0]], [[0]], ignore=[[True, False]]), "1 labels and 2 values of ignore"),
        (lambda: segment_scores([[[0, 1]]], [[0]]), r"predictions of the shape \(1, 2\)"),
        (lambda: segment_scores([[0.0, np.nan]], [[0, 1]]), "video 0 has NaN predictions"),
        (lambda: segment_scores([["A"]], [[0]]), "names on one side and numbers on the other"),
        (lambda: segment_scores([[0]], [[0]], overlaps=(0.0,)), "percentages above 0, up to 100"),
        (lambda: frame_labels([segment(0, 2), segment(1, 3, "B")], 9, 4.0), "overlaps 'B' of x from 1 to 3 s; a frame"),
        (lambda: frame_labels([segment(0, 2), segment(3, 4, video="y")], 9, 4.0), "segments of x and y"),
        (lambda: frame_labels([segment(2, 1)], 9, 4.0), "does not start before it ends"),
        (lambda: frame_labels([], 0, 4.0), "are no video"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
