"""Videos of any length: each token counts in one window, and windows change no answer that they need not change."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.offline_networks import FEATURE_DIM, NUM_CLASSES, OFFLINE_NETWORKS

import vidact.models
from vidact.models.localisation import Localiser
from vidact.models.offline_decoding import Decoding
from vidact.models.offline_windows import INNER, answer_whole, window_of, windows

IDS = [f"{name}{number}" for number, (name, _) in enumerate(OFFLINE_NETWORKS)]
WITH_REACH = [(name, values) for name, values in OFFLINE_NETWORKS if "tcn" in name]


def build(name, arguments, seed=0):
    torch.manual_seed(seed)
    network = getattr(vidact.models, name)(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **arguments).eval()
    if isinstance(network, Localiser):  # scores and distances that differ from place to place
        with torch.no_grad():
            heads = [module for key, module in network.named_modules() if key.endswith("head.output")]
            for head in heads:
                head.weight.mul_(20)
                if head.bias is not None:
                    head.bias.add_(1.0)
    return network


def features_of(num_tokens, seed=1):
    return torch.randn(num_tokens, FEATURE_DIM, generator=torch.Generator().manual_seed(seed))


def in_parts(features, size):
    yield from features.split(size)


def apart(rows, others):
    """How far each row is from the nearest of the others."""
    return torch.cdist(rows.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1).values


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=30),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(1, 9),
)
def test_each_token_counts_once_between_its_neighbours(parts, before, after, inner):
    """Whatever the parts in which the features come."""
    num_tokens = sum(parts)
    features = torch.arange(num_tokens, dtype=torch.float32)[:, None]
    size = before + inner + after
    if not num_tokens:
        with pytest.raises(ValueError, match="the video has no token"):
            list(windows(features.split(parts), size, before, after))
        return
    counted = []
    for window in windows(features.split(parts), size, before, after):
        numbers = window.features[:, 0].int().tolist()
        assert numbers == list(range(window.start, window.start + len(numbers)))
        assert len(numbers) <= size
        assert window.start <= max(0, window.first - before)
        assert window.start + len(numbers) >= min(num_tokens, window.last + after)
        counted += range(window.first, window.last)
    assert counted == list(range(num_tokens))


@pytest.mark.parametrize(("name", "arguments"), OFFLINE_NETWORKS, ids=IDS)
def test_a_video_of_one_window_has_the_events_of_the_network(name, arguments):
    network, features = build(name, arguments), features_of(60)
    answer = answer_whole(network, in_parts(features, 7))
    with torch.inference_mode():
        output = network(features[None])
    assert torch.equal(answer.rows, network.events(output)[0])
    assert len(answer.rows) or not isinstance(network, Localiser)
    assert (answer.num_tokens, answer.num_windows) == (60, 1)
    if output.scores is not None:
        assert torch.equal(answer.scores, output.scores[0])


@pytest.mark.parametrize(("name", "arguments"), WITH_REACH)
def test_the_reach_is_where_answers_end_to_depend(name, arguments):
    network = build(name, arguments).double()
    before, after = network.reach
    num_tokens, token = before + after + 41, before + 20
    features = features_of(num_tokens).double()[None].requires_grad_()
    weights = torch.randn(20, NUM_CLASSES, generator=torch.Generator().manual_seed(3)).double()
    stages = network(features).stages
    (gradient,) = torch.autograd.grad((stages[-1, 0, token : token + 20] * weights).sum(), features)
    reached = gradient[0].abs().sum(1).nonzero()[:, 0]
    assert (int(reached[0]), int(reached[-1])) == (token - before, token + 19 + after)


@pytest.mark.parametrize(("name", "arguments"), WITH_REACH)
def test_windows_of_a_limited_reach_change_nothing(name, arguments):
    network, features = build(name, arguments), features_of(700)
    size = sum(network.reach) + 90
    many = answer_whole(network, in_parts(features, 50), size)
    with torch.inference_mode():
        output = network(features[None])
    assert many.num_windows > 5
    torch.testing.assert_close(many.scores, output.scores[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(many.rows, network.events(output)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("arguments", [OFFLINE_NETWORKS[6][1], OFFLINE_NETWORKS[10][1]])
def test_windows_of_actionformer_change_nothing(arguments, seed):
    """Its attention is local: a quarter of a window is further than an answer sees. No cap is reached.

    The candidates are compared: the suppression is the same function of them, and one of several that are nearly
    equal may win by their rounding.
    """
    name = "actionformer" if "head_dim" in arguments else "actionformer_small"
    network, features = build(name, arguments, seed), features_of(900, seed)
    network.decoding = Decoding(top_k_per_level=100_000, max_events=None, nms="none")
    size = 16 * 2 ** (len(network.ranges) - 1) * 4
    many, whole = answer_whole(network, in_parts(features, 33), size), answer_whole(network, [features], 10_000)
    assert many.num_windows > 5
    assert whole.num_windows == 1
    assert len(many.rows) == len(whole.rows) > 50
    assert apart(many.rows, whole.rows).max() < 1e-3
    assert apart(whole.rows, many.rows).max() < 1e-3


def test_a_long_video_may_have_more_events():
    """The cap on events is that of a video that is answered at once."""
    network = build(*OFFLINE_NETWORKS[10])
    network.decoding = replace(network.decoding, max_events=5, nms="none")
    features = features_of(1000)
    assert len(answer_whole(network, [features]).rows) == 5 * answer_whole(network, [features]).num_windows
    many = answer_whole(network, [features], 256)
    assert many.num_windows == 7
    assert len(many.rows) == 35


@pytest.mark.parametrize(("name", "arguments"), OFFLINE_NETWORKS, ids=IDS)
def test_windows_fit_the_network(name, arguments):
    network = build(name, arguments)
    for asked in (None, 1, 100):
        size, before, after = window_of(network, asked)
        assert size > before + after
        if network.reach is not None:
            assert (before, after) == network.reach
        if isinstance(network, Localiser):
            coarsest = 2 ** (len(network.ranges) - 1)
            assert not (size - before - after) % coarsest
            assert not before % coarsest
    if isinstance(network, Localiser):
        assert window_of(network)[0] == 8 * network.max_tokens
    else:
        assert window_of(network)[0] - sum(window_of(network)[1:]) >= INNER


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match=r"MSTCN is in training mode; call eval\(\) first"):
        answer_whole(build(*OFFLINE_NETWORKS[0]).train(), [features_of(4)])
