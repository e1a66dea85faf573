"""The attentive head: it finds what one token among many says, the same in every run, and chooses on validation."""

import numpy as np
import pytest
import torch

from vidact.models import attentive_probe, clip_windows, eco_lite_tiny
from vidact.models.clip_windows import ClipWindows, in_windows
from vidact.models.token_probe import AttentiveScores, refuse_without_tokens, with_motion
from vidact.models.weights import recipe_of
from vidact.tasks import attentive
from vidact.tasks.attentive import fit_attentive, started
from vidact.tasks.probe import fit, validation_parts


def needles(clips: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Six tokens a clip; three of them show a class each, and a mark in one of these says which it is.

    So the mean of the tokens is the same for all classes.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(clips) % 3
    tokens = random.normal(size=(clips, 6, 8)).astype(np.float32)
    tokens[:, :, :4] = 0
    for clip, label in enumerate(labels):
        places = random.permutation(6)[:3]
        tokens[clip, places, 1 + np.arange(3)] = 4
        tokens[clip, places[label], 0] = 6
    return list(tokens), labels


@pytest.fixture(scope="module")
def fitted():
    tokens, labels = needles(224, 0)
    rows = np.arange(224)
    parts, _ = validation_parts(rows[:200], labels[:200], [None] * 200, (rows[200:], labels[200:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attentive, "DECAYS", (0.1,))
        return fit_attentive(tokens, labels[:200], parts, seed=3)


def test_it_finds_the_token_that_matters_where_the_mean_hides_it(fitted):
    tokens, labels = needles(90, 1)
    with torch.inference_mode():
        answers = fitted.head(torch.from_numpy(np.stack(tokens))).argmax(1).numpy()
    examples, classes = needles(200, 0)
    (linear,) = fit("linear", np.stack(examples).mean(1), classes, [1.0])
    with torch.inference_mode():
        of_means = linear(torch.from_numpy(np.stack(tokens).mean(1)).double()).argmax(1).numpy()
    assert (answers == labels).mean() > 0.8
    assert fitted.accuracy > 0.8
    assert (of_means == labels).mean() < 0.6
    assert fitted.setting == 0.1
    assert 1 <= fitted.epochs <= attentive.ROUNDS  # thirteen steps an epoch: a round is one epoch


def test_validation_chooses_by_the_smallest_loss(monkeypatch):
    """With labels that are wrong in training, the first epochs are better than the last."""
    monkeypatch.setattr(attentive, "ROUNDS", 12)
    tokens, labels = needles(48, 0)
    rows, wrong = np.arange(48), (labels[:24] + 1) % 3
    parts, _ = validation_parts(rows[:24], wrong, [None] * 24, (rows[24:], labels[24:]))
    assert fit_attentive(tokens, wrong, parts).epochs <= 6 * 6  # of 12 rounds of 6 epochs


def test_the_seed_determines_the_head_and_nothing_else_does(monkeypatch):
    monkeypatch.setattr(attentive, "ROUNDS", 2)
    tokens, labels = needles(24, 0)
    rows = np.arange(24)
    parts, unit = validation_parts(rows, labels, [None] * 24, None)
    assert unit == "5-fold cross-validation by clip inside 24 training clips"
    heads = []
    for seed, program in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(program)
        expected = torch.rand(1)
        torch.manual_seed(program)
        heads.append(fit_attentive(tokens, labels, parts[:1], seed).head.state_dict())
        assert torch.equal(torch.rand(1), expected)  # the program's own random numbers go on as they were
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not all(torch.equal(heads[0][name], heads[2][name]) for name in heads[0])


def test_axes_are_the_principal_ones_of_the_training_clips(monkeypatch):
    monkeypatch.setattr(attentive, "WIDTH", 4)
    random = np.random.default_rng(0)
    basis = random.normal(size=(4, 16))
    tokens = [(random.normal(size=(9, 4)) @ basis + 5).astype(np.float32) for _ in range(20)]
    head, projected = started(tokens, 2, 0)
    assert projected.shape == (20, 9, 4)
    standardised = (torch.from_numpy(np.stack(tokens)) - head.mean) / head.scale
    torch.testing.assert_close(projected @ head.scores.axes.T, standardised, rtol=0, atol=1e-4)  # nothing is lost
    torch.testing.assert_close(head.scores.axes.T @ head.scores.axes, torch.eye(4), rtol=0, atol=1e-5)


def test_fewer_tokens_than_axes_leave_the_other_axes_at_zero():
    tokens = [np.random.default_rng(i).normal(size=(1, 200)).astype(np.float32) for i in range(6)]
    head, _ = started(tokens, 2, 0)
    axes = head.scores.axes
    assert axes.shape == (200, 128)
    assert not axes[:, 6:].any()


def test_motion_is_the_difference_to_the_frame_before():
    frames = torch.randn(2, 3, 4, 5)
    tokens = with_motion(frames).unflatten(1, (3, 4))
    torch.testing.assert_close(tokens[..., :5], frames)
    assert not tokens[:, 0, :, 5:].any()
    torch.testing.assert_close(tokens[:, 1:, :, 5:], frames.diff(dim=1).abs())


def test_what_cannot_be_built_is_refused_in_words():
    with pytest.raises(ValueError, match="width is 9; tokens of 8 numbers are projected on 1 to 8"):
        AttentiveScores(8, 9, 2)
    network = eco_lite_tiny(2)
    with pytest.raises(ValueError, match="gives one vector a clip and no tokens"):
        refuse_without_tokens(network)
    with pytest.raises(ValueError, match="gives one vector a clip and no tokens"):
        attentive_probe(dict(recipe_of(network)), 2, 8, 8)
    assert in_windows(network) is network  # it was trained on clips of no known length
    for frames, windows in ((0, 1), (4, 0)):
        with pytest.raises(ValueError, match="both are at least 1"):
            clip_windows(dict(recipe_of(network)), frames, windows)
    whole = clip_windows(dict(recipe_of(network)), 4, 2)
    assert isinstance(whole, ClipWindows)
    with pytest.raises(ValueError, match="the clip has 4 frames; the weights of this network are made for 8"):
        whole.features(torch.zeros(1, 4, 3, 32, 32))
    clip = torch.randn(2, 8, 3, 32, 32)
    parts = torch.stack([whole.trunk.eval().features(clip[:, :4]), whole.trunk.features(clip[:, 4:])])
    torch.testing.assert_close(whole.features(clip), parts.mean(0))
