"""What answers reach that look at nothing, and when a figure is no better than these."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, average_precision_score, confusion_matrix

from vidact.data.event_list import Event
from vidact.events import Detection, always_on
from vidact.metrics import event_f1, lead_is_luck, token_accuracy, token_confusion, yardsticks

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def one_hot(labels, columns=5):
    return np.eye(columns)[np.asarray(labels)]


@given(LABELS)
def test_majority_is_the_best_constant_answer(labels):
    found = yardsticks(one_hot(labels))
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(labels), 1)), labels)
    assert found.majority == pytest.approx(dummy.score(np.zeros((len(labels), 1)), labels))
    assert found.majority == pytest.approx(np.mean(np.asarray(labels) == found.majority_class))
    assert found.chance == pytest.approx(1 / 5)


def test_chance_is_what_guesses_reach():
    """Against guesses: accuracy with several labels a token, and mAP without the background."""
    rng = np.random.default_rng(0)
    targets = one_hot(rng.choice(4, 20_000, p=[0.5, 0.3, 0.15, 0.05]), 4)
    targets[:4000, 3] = 1  # a second label
    found = yardsticks(targets, has_background=True)
    guesses = rng.integers(0, 4, len(targets))
    assert found.chance == pytest.approx(targets[np.arange(len(targets)), guesses].mean(), abs=0.01)
    scores = rng.random(targets.shape)
    areas = [average_precision_score(targets[:, column], scores[:, column]) for column in (1, 2, 3)]
    assert found.chance_map == pytest.approx(np.mean(areas), abs=0.01)


def test_a_class_that_never_occurs_is_no_part_of_the_chance_map():
    assert yardsticks(one_hot([0, 0, 1, 2], 4), has_background=True).chance_map == pytest.approx(0.25)
    assert np.isnan(yardsticks(one_hot([0, 0], 3), has_background=True).chance_map)


def test_ambiguous_tokens_do_not_count():
    targets, ignore = one_hot([0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 1, 1, 1], bool)
    assert yardsticks(targets, ignore) == yardsticks(targets[:3])
    with pytest.raises(ValueError, match="all of the 6 rows are ambiguous"):
        yardsticks(targets, np.ones(6, bool))


@given(LABELS, st.integers(0, 99))
def test_confusion_of_single_labels_is_scikit_learns(labels, seed):
    scores = np.random.default_rng(seed).random((len(labels), 5))
    counts = token_confusion(scores, one_hot(labels))
    np.testing.assert_array_equal(counts, confusion_matrix(labels, scores.argmax(1), labels=range(5)))
    assert token_accuracy(scores, one_hot(labels)) == pytest.approx(accuracy_score(labels, scores.argmax(1)))


def test_a_token_of_several_actions_is_right_if_one_of_them_is_called():
    targets = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    said = one_hot([2, 3, 3, 1], 4)
    ignore = np.array([False, False, False, True])
    assert token_accuracy(said, targets, ignore) == pytest.approx(2 / 3)
    counts = token_confusion(said, targets, ignore)
    assert (counts.sum(), counts.trace()) == (3, 2)
    assert (counts[2, 2], counts[1, 3]) == (1, 1)  # a wrong call stands in the row of the first action


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_a_lead_is_luck_by_the_sign_test(pairs):
    right, constant = np.array(pairs).T
    ahead, behind = int((right & ~constant).sum()), int((constant & ~right).sum())
    p = binomtest(ahead, ahead + behind, alternative="greater").pvalue if ahead + behind else 1.0
    assert lead_is_luck(right, constant) == (p > 0.05)


# ---- events


def detection(video, start, end, label, score=0.5):
    return Detection(video, start, end, label, score)


def test_event_f1_by_hand():
    truth = [Event("a", 0, 10, "run"), Event("a", 20, 30, "run"), Event("b", 0, 4, "jump")]
    found = [
        detection("a", 0, 9, "run", 0.9),  # right
        detection("a", 1, 8, "run", 0.8),  # the same event again: wrong
        detection("a", 29, 40, "run", 0.7),  # overlap 1 / 20
        detection("b", 0, 4, "walk", 0.6),  # a class that the truth does not have is wrong too
    ]
    score = event_f1(found, truth, 0.3)
    assert (score.hits, score.found, score.true) == (1, 4, 3)
    assert (score.precision, score.recall, score.f1) == pytest.approx((1 / 4, 1 / 3, 2 / 7))
    assert score.per_class == {"jump": (0, 0, 1), "run": (1, 3, 2), "walk": (0, 1, 0)}


def test_event_f1_of_nothing():
    assert event_f1([], [Event("a", 0, 1, "run")]).f1 == 0
    with pytest.raises(ValueError, match="no event of any class"):
        event_f1([detection("a", 0, 1, "run")], [])


def test_what_is_ambiguous_does_not_count():
    truth = [Event("a", 0, 2, "run"), Event("a", 4, 20, "ambiguous")]
    assert event_f1([detection("a", 0, 2, "run"), detection("a", 5, 9, "run")], truth).f1 == 1


def test_every_class_all_the_time():
    said = always_on(["run", "jump"], {"a": 10.0, "b": 4.0})
    assert [(e.video, e.start_s, e.end_s, e.label) for e in said] == [
        ("a", 0, 10, "run"), ("a", 0, 10, "jump"), ("b", 0, 4, "run"), ("b", 0, 4, "jump"),
    ]  # fmt: skip
    score = event_f1(said, [Event("a", 0, 5, "run"), Event("b", 1, 2, "jump")], 0.3)
    assert (score.hits, score.found, score.true) == (1, 4, 2)
