"""The network of a probe: pooling over time, its recipe, and networks that cannot be its trunk."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vidact.features.choices import HEADS
from vidact.features.names import build_network
from vidact.models import (
    clip_probe,
    frame_classifier,
    movinet_tiny_stream,
    r3d_tiny,
    trn_resnet_tiny,
    tsm_resnet_tiny,
    tsn_resnet_tiny,
)
from vidact.models.clip_network import ClipNetwork, SteppingClipNetwork, VectorNetwork
from vidact.models.online import select_streams, stack_states
from vidact.models.probe import Probe, empty_head, features_of, moments, num_features, pooled, refuse_without_features
from vidact.models.weights import load, recipe_of, save

TRUNKS = {"image": lambda: build_network("resnet_tiny", None, 32), "clip": lambda: tsn_resnet_tiny(1, size=32)}


def test_pooled_features_are_mean_deviation_and_motion():
    frames = torch.randn(2, 5, 3)
    mean, deviation, motion = pooled(frames).chunk(3, dim=1)
    torch.testing.assert_close(mean, frames.mean(1))
    torch.testing.assert_close(deviation, frames.std(1, correction=0))
    torch.testing.assert_close(motion, frames.diff(dim=1).abs().mean(1))
    assert torch.equal(pooled(frames[:, :1]), torch.cat([frames[:, 0], torch.zeros(2, 6)], 1))
    backwards = pooled(frames.flip(1))
    torch.testing.assert_close(backwards, pooled(frames))
    assert not torch.allclose(pooled(frames[:, [0, 2, 4, 1, 3]])[:, 6:], motion)  # the order of the frames matters


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("head", HEADS)
def test_a_probe_is_a_clip_network_that_its_file_builds_again(kind, head, tmp_path):
    trunk = TRUNKS[kind]()
    probe = clip_probe(dict(recipe_of(trunk)), head, 3, examples=6, neighbours=2).eval()
    with torch.no_grad():
        for tensor in probe.head.state_dict().values():
            tensor.uniform_(0.1, 1)
    assert isinstance(probe, ClipNetwork)
    assert isinstance(probe, VectorNetwork)
    clip = torch.randn(2, 4, 3, 32, 32)
    again = load(save(probe, tmp_path / "a.safetensors", {"classes": ["a", "b", "c"]}))
    with torch.no_grad():
        assert probe(clip).shape == (2, 3)
        assert probe.features(clip).shape == (2, probe.dim)
        assert torch.equal(again(clip), probe(clip))
        torch.testing.assert_close(probe(clip)[:1], probe(clip[:1]))  # clips of a batch are independent
    with pytest.raises(ValueError, match="C = 3"):
        probe(torch.randn(1, 4, 4, 32, 32))


def test_the_votes_of_neighbours_are_probabilities():
    head = empty_head("knn", 4, 3, examples=5, neighbours=2)
    head.scores.memory.copy_(F.normalize(torch.randn(5, 4), dim=1))
    head.scores.classes.copy_(F.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3))
    votes = head(head.scores.memory).softmax(1)
    assert votes.argmax(1).tolist() == [0, 1, 2, 0, 1]  # each clip is its own nearest neighbour
    with pytest.raises(ValueError, match="neighbours is 6; 5 training clips allow 1 to 5"):
        empty_head("knn", 4, 3, examples=5, neighbours=6)
    with pytest.raises(ValueError, match="there is no head 'forest'; the heads are linear, knn and prototype"):
        empty_head("forest", 4, 3, 0, 0)


def test_networks_without_features_are_refused_in_words():
    for network in (frame_classifier(8, 3), trn_resnet_tiny(3, size=32)):
        with pytest.raises(ValueError, match=f"{type(network).__name__} gives no features of images or clips"):
            refuse_without_features(network)
    recipe = dict(recipe_of(TRUNKS["image"]()))
    probe = clip_probe(recipe, "prototype", 3)
    with pytest.raises(ValueError, match="Probe is itself a head on a frozen network"):
        refuse_without_features(probe)
    with pytest.raises(ValueError, match="the trunk of a probe is itself a probe"):
        clip_probe(dict(recipe_of(probe)), "linear", 3)
    with pytest.raises(ValueError, match="is outside vidact"):
        clip_probe({"builder": "os.system", "arguments": {}}, "linear", 3)


def test_the_pooling_of_the_last_frames_is_that_of_a_shorter_clip():
    frames = torch.randn(3, 6, 4)
    together = pooled(frames, torch.tensor([1, 4, 6]))
    for row, count in enumerate((1, 4, 6)):
        torch.testing.assert_close(together[row : row + 1], pooled(frames[row : row + 1, -count:]))


CHOICES = (["frames"], ["moments"], ["frames", "moments"], ["frames_mean"], ["moments_mean"])


@pytest.mark.parametrize("views", CHOICES, ids="+".join)
def test_a_step_answers_about_the_newest_frames(views):
    """Step t equals forward of the last W frames up to t, for streams that begin at different times."""
    probe = clip_probe(dict(recipe_of(TRUNKS["image"]())), "linear", 3, window=5, views=views).eval()
    assert isinstance(probe, SteppingClipNetwork)
    with torch.no_grad():
        for tensor in probe.head.state_dict().values():
            tensor.uniform_(0.1, 1)
        clip, late = torch.randn(2, 12, 3, 32, 32), 3
        state = probe.initial_state(2)
        for t in range(12):
            if t == late:
                state = {name: torch.cat([part[:1], probe.initial_state(1)[name]]) for name, part in state.items()}
            logits, state = probe.step(clip[:, t], state)
            for row, first in ((0, 0), (1, 0 if t < late else late)):
                expected = probe(clip[row : row + 1, max(first, t - 4) : t + 1])
                torch.testing.assert_close(logits[row : row + 1], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"window is \d; a step answers about \d frames at least"):
        clip_probe(
            dict(recipe_of(TRUNKS["image"]())), "linear", 3, window=2 if "moments" in views[-1] else 0, views=views
        )


def test_moments_are_the_grey_levels_of_three_frames_as_colours():
    expected = TRUNKS["image"]().input
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (expected.mean, expected.std))
    images = torch.rand(1, 4, 3, 6, 6)
    shown = moments((images - mean) / std, expected) * std + mean
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)
    torch.testing.assert_close(shown, torch.stack([grey[:, t : t + 2] for t in range(3)], dim=2))
    still = moments((images[:, :1].expand(-1, 4, -1, -1, -1) - mean) / std, expected) * std + mean
    torch.testing.assert_close(still[:, :, 0], still[:, :, 2])  # what stands still is grey
    (one,) = moments((images[:, :2] - mean) / std, expected) * std + mean
    torch.testing.assert_close(one[0], torch.stack([grey[0, 0], grey[0, 0], grey[0, 1]]))


def test_views_that_a_network_cannot_read_are_refused():
    recipe = dict(recipe_of(TRUNKS["image"]()))
    for views in ([], ["moments", "frames"], ["flow"], ["frames", "moments_mean"]):
        with pytest.raises(ValueError, match=r"views are .*; ResNet reads frames and moments, in this order"):
            clip_probe(recipe, "linear", 3, views=views)
    assert features_of(TRUNKS["image"](), torch.randn(1, 4, 3, 32, 32)).shape[1] == num_features(TRUNKS["image"]())


CAUSAL = {
    "tsn": lambda: tsn_resnet_tiny(1, size=32),
    "tsm": lambda: tsm_resnet_tiny(1, shift="causal", size=32),
    "movinet": lambda: movinet_tiny_stream(1, size=32),
}


def probe_on(trunk: nn.Module, head: str, window: int) -> Probe:
    """A probe with values, whose batch norms have seen frames."""
    torch.manual_seed(0)
    probe = clip_probe(dict(recipe_of(trunk)), head, 3, examples=6, neighbours=2, window=window)
    with torch.no_grad():
        for name, tensor in probe.head.scores.state_dict().items():
            rows = F.normalize(torch.randn_like(tensor), dim=1) if tensor.ndim > 1 else torch.randn_like(tensor)
            tensor.copy_(F.one_hot(torch.arange(6) % 3) if name == "classes" else rows)
        for name, parameter in probe.named_parameters():
            if name.endswith(".alpha"):  # 0 would hide a block of MoViNet
                parameter.fill_(1)
        for module in probe.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        probe.head.mean.copy_(probe.train().features(torch.randn(4, 6, 3, 32, 32)).mean(0))
    return probe.eval()


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", CAUSAL)
@torch.no_grad()
def test_a_probe_on_a_causal_network_answers_frame_by_frame(kind, head):
    """Step t equals forward of the clip up to t, for streams that begin at different times."""
    probe = probe_on(CAUSAL[kind](), head, window=9)
    assert isinstance(probe, SteppingClipNetwork)
    clip, late = torch.randn(2, 9, 3, 32, 32), 3
    state = probe.initial_state(2)
    answers = []
    for t in range(9):
        if t == late:
            state = stack_states([select_streams(state, torch.tensor([0])), probe.initial_state(1)])
        logits, state = probe.step(clip[:, t], state)
        answers.append(logits)
        for row, first in ((0, 0), (1, 0 if t < late else late)):
            expected = probe(clip[row : row + 1, first : t + 1])
            assert_same(logits[row : row + 1], expected)
    assert (answers[0][0] - answers[-1][0]).abs().max() > 1e-3  # or the comparison would prove nothing


@pytest.mark.parametrize("kind", ["tsn", "tsm"])
@torch.no_grad()
def test_a_probe_on_a_causal_network_averages_the_newest_vectors(kind):
    """Each of which may depend on all frames before it."""
    probe = probe_on(CAUSAL[kind](), "linear", window=4)
    clip, state = torch.randn(1, 11, 3, 32, 32), probe.initial_state(1)
    vectors = probe.trunk.frame_features(clip)
    for t in range(11):
        logits, state = probe.step(clip[:, t], state)
        expected = probe.head(vectors[:, max(0, t - 3) : t + 1].mean(1))
        assert_same(logits, expected)
    with pytest.raises(ValueError, match="window is 0; a step answers about 1 frames at least"):
        probe_on(CAUSAL[kind](), "linear", window=0)


def test_a_probe_on_a_network_that_needs_whole_clips_does_not_step():
    for trunk in (tsm_resnet_tiny(1, size=32), r3d_tiny(1, size=32)):
        assert not isinstance(clip_probe(dict(recipe_of(trunk)), "linear", 3), SteppingClipNetwork)
