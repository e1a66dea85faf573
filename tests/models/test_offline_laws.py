"""The laws of every offline network: padding and the other videos of a batch change nothing, and any length works."""

import functools
import json
import re

import pytest
import torch
from support.listed import builders_of
from support.offline_networks import DEAD_WEIGHTS, FEATURE_DIM, NUM_CLASSES, OFFLINE_NETWORKS
from torch import nn

import vidact.models
from vidact.models.offline import OfflineNetwork, Truth
from vidact.models.weights import load, save

LENGTHS = (37, 20, 1)


def label(case):
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


EVERY = pytest.mark.parametrize("case", OFFLINE_NETWORKS, ids=label)


def build_new(case):
    torch.manual_seed(0)
    network = getattr(vidact.models, case[0])(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **case[1])
    return awake(network).eval()


@functools.lru_cache(maxsize=len(OFFLINE_NETWORKS))
def _build(name, arguments):
    return build_new((name, json.loads(arguments)))


def build(case):
    """The network, one for all the tests of a case; nobody changes it."""
    return _build(case[0], json.dumps(case[1]))


@torch.no_grad()
def awake(network):
    """Maps that neither vanish nor explode, biases that are not zero and gains that are not small: nothing can hide."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(1.6 / parameter[0].numel()) ** 0.5)
        elif "gain" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
        else:
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def tokens(videos=3, length=37, seed=1):
    return torch.randn(videos, length, FEATURE_DIM, generator=torch.Generator().manual_seed(seed))


def answers(output, video):
    """All that an output says of a video, and nothing of its padding."""
    length = int(output.lengths[video])
    parts = [] if output.scores is None else [output.scores[video, :length], output.stages[:, video, :length]]
    for level in output.levels or []:
        mask = level.mask[video]
        parts += [level.logits[video][mask], level.distances[video][mask]]
    return parts


def assert_same(actual, expected, tolerance=1e-5):
    assert len(actual) == len(expected) > 0
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))


def truth_of(lengths, padded=None):
    """Some truth for videos of these lengths, whatever the network learns from."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.zeros(len(lengths), padded or max(lengths), NUM_CLASSES)
    events = []
    for video, length in enumerate(lengths):
        row = torch.randint(NUM_CLASSES, (length,), generator=generator)
        targets[video, :length] = nn.functional.one_hot(row, NUM_CLASSES).float()
        spans = [(-0.5, min(length - 0.5, 5.25), 1), (2.0, 0.6 * length, 3), (length / 2, length - 1.0, 0)]
        events.append(torch.tensor([span for span in spans if span[0] < span[1]]).reshape(-1, 3))
    return Truth(events=events, targets=targets)


def test_every_offline_network_is_listed():
    """A network of vidact.models without a line in offline_networks.py would escape every law below."""
    assert builders_of(OfflineNetwork) == {name for name, _ in OFFLINE_NETWORKS}


@EVERY
@torch.no_grad()
def test_padding_and_batch_mates_change_nothing(case):
    """Whatever the padding contains."""
    network = build(case)
    features = tokens()
    together = network(features, lengths=torch.tensor(LENGTHS))
    spoiled = torch.cat([features, torch.full((3, 30, FEATURE_DIM), torch.nan)], 1)
    for video, length in enumerate(LENGTHS):
        spoiled[video, length:] = torch.nan
    longer = network(spoiled, lengths=torch.tensor(LENGTHS))
    first = answers(together, 0)[0]
    assert (first - first.mean(0)).abs().max() > 0.01  # or the comparison would prove nothing
    for video, length in enumerate(LENGTHS):
        alone = network(features[video : video + 1, :length])
        assert_same(answers(together, video), answers(alone, 0))
        assert_same(answers(longer, video), answers(alone, 0))
        ours, lone = network.events(together)[video], network.events(alone)[0]
        torch.testing.assert_close(ours, lone, rtol=0, atol=1e-3)
    order = network(features.flip(0), lengths=torch.tensor(LENGTHS[::-1]))
    assert_same(answers(order, 2), answers(together, 0))


@EVERY
@torch.no_grad()
def test_both_directions_matter(case):
    """A token changes answers before it (but of a causal network without look-ahead) and after it."""
    network = build(case)
    features = tokens(videos=1)
    changed = features.clone()
    changed[:, 18] += torch.randn(FEATURE_DIM, generator=torch.Generator().manual_seed(3))
    before, after = (answers(network(each), 0)[0] for each in (features, changed))
    difference = (before - after).abs().amax(1)
    sees_ahead = not case[1].get("causal")
    assert (difference[16:18].max() > 1e-4) == sees_ahead
    assert difference[19:21].max() > 1e-4


@EVERY
@torch.no_grad()
def test_padding_and_the_order_of_videos_change_no_loss(case):
    network = build(case)
    features = tokens()
    losses = network.losses(network(features, lengths=torch.tensor(LENGTHS)), truth_of(LENGTHS))
    assert all(value.ndim == 0 and value.isfinite() and value > 0 for value in losses.values())
    longer = network(torch.cat([features, features], 1), lengths=torch.tensor(LENGTHS))
    padded = network.losses(longer, truth_of(LENGTHS, padded=2 * 37))
    for name, value in losses.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-5, atol=0)


@EVERY
@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 150])
def test_one_token_and_more_than_a_training_crop(case, length):
    network = build(case)
    assert network.max_tokens is None or network.max_tokens < 150
    features = tokens(videos=1, length=length)
    output = network(features)
    assert output.lengths.tolist() == [length]
    assert all(part.isfinite().all() for part in answers(output, 0))
    if output.scores is not None:
        assert output.scores.shape == (1, length, NUM_CLASSES)
    (events,) = network.events(output)
    assert events.shape == (len(events), 4)
    losses = network.losses(output, truth_of([length]))
    assert all(value.isfinite() for value in losses.values())


@EVERY
def test_every_parameter_learns(case):
    network = build_new(case).train()
    output = network(tokens(videos=4, length=40, seed=2), lengths=torch.tensor([40, 33, 17, 40]))
    sum(network.losses(output, truth_of([40, 33, 17, 40])).values()).backward()
    dead = DEAD_WEIGHTS.get(type(network).__name__)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0) != bool(dead and re.search(dead, name)), name
        assert parameter.grad.isfinite().all(), name


@EVERY
@torch.no_grad()
def test_the_scores_are_the_last_stage(case):
    network = build(case)
    output = network(tokens())
    if output.stages is None:
        pytest.skip("a localiser has no stages")
    torch.testing.assert_close(output.scores, output.stages[-1].softmax(-1))
    assert output["stages"] is output.stages


@EVERY
@torch.no_grad()
def test_what_cannot_be_read_is_refused_in_words(case):
    network = build(case)
    name = type(network).__name__
    features = tokens()
    with pytest.raises(ValueError, match=rf"{FEATURE_DIM + 1} values a token.*built for {FEATURE_DIM}"):
        network(torch.zeros(1, 4, FEATURE_DIM + 1))
    with pytest.raises(ValueError, match="given no token"):
        network(torch.zeros(1, 0, FEATURE_DIM))
    with pytest.raises(ValueError, match=rf"{name} was given features of the shape \(4, 12\)"):
        network(torch.zeros(4, FEATURE_DIM))
    for lengths in ([38, 1, 1], [0, 1, 1], [3, 4]):
        with pytest.raises(ValueError, match=r"lengths are \[.*give each video a length from 1 to 37"):
            network(features, lengths=torch.tensor(lengths))
    for value in (torch.nan, torch.inf):
        spoiled = features.clone()
        spoiled[1, 7, 3] = value
        with pytest.raises(ValueError, match=rf"{name} .*value 3 of token 7 of video 1 of the batch is {value}"):
            network(spoiled)
        network(spoiled, lengths=torch.tensor([37, 7, 37]))  # in the padding it does not matter
    with pytest.raises(ValueError, match=rf"{name} learns from Truth\.(targets|events), which is None"):
        network.losses(network(features), Truth())


@EVERY
@torch.no_grad()
def test_dropout_is_for_training_only(case):
    network = build(case)
    assert_same(answers(network(tokens()), 0), answers(network(tokens()), 0), tolerance=0)


@EVERY
@pytest.mark.slow
def test_half_and_double_precision(case):
    """Weights of either type, and training under autocast."""
    features, truth = tokens(videos=2, length=20), truth_of([20, 9])
    lengths = torch.tensor([20, 9])
    network = build_new(case).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = network.losses(network(features, lengths=lengths), truth)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    for dtype in (torch.bfloat16, torch.float64):
        network = build_new(case).to(dtype).eval()
        output = network(features.to(dtype), lengths=lengths)
        assert answers(output, 0)[0].dtype == dtype
        assert len(network.events(output)) == 2
        assert all(value.isfinite() for value in network.losses(output, truth).values())


@EVERY
@torch.no_grad()
def test_a_file_says_the_same(case, tmp_path):
    network = build(case)
    opened = load(save(network, tmp_path / "network.safetensors"))
    assert opened.recipe == network.recipe
    assert opened.recipe["builder"] == f"vidact.models.{case[0]}"
    assert (opened.max_tokens, opened.pad_to) == (network.max_tokens, network.pad_to)
    assert_same(answers(opened(tokens()), 0), answers(network(tokens()), 0), tolerance=0)
