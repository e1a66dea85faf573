"""TriDet: published sizes, blocks that learn, expected distances, and what the losses add to ActionFormer's."""

import pytest
import torch
from test_offline_laws import answers, assert_same, awake, tokens

import vidact.models
from vidact.models.localisation import focal_loss, overlaps
from vidact.models.offline import Truth
from vidact.models.tridet import GranularBlock, MaskedGroupNorm, expected_distances, wide_kernel

SMALL = {
    "num_classes": 5,
    "feature_dim": 12,
    "embedding_dim": 16,
    "head_dim": 12,
    "mlp_dim": 20,
    "levels": 3,
    "bins": 4,
    "max_tokens": 40,
}


def small(**arguments):
    torch.manual_seed(0)
    return vidact.models.tridet(**SMALL | arguments).eval()


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"num_classes": 20}, 15_989_604),
        (
            {"num_classes": 1, "feature_dim": 512, "embedding_dim": 256, "mlp_dim": 2048, "bins": 12, "window": 15}
            | {"window_factor": 1.3, "max_tokens": 768},
            12_811_555,
        ),
        ({"num_classes": 97, "feature_dim": 2304, "mlp_dim": 1024, "window": 5, "window_factor": 2.0}, 18_594_123),
    ],
)
def test_published_sizes(arguments, parameters):
    with torch.device("meta"):
        network = vidact.models.tridet(**arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_large_neighbourhood_is_odd_and_halves_are_rounded_to_even():
    assert [wide_kernel(1, 5), wide_kernel(1, 1.3), wide_kernel(15, 1.3), wide_kernel(4, 0.9)] == [11, 3, 21, 5]


def test_the_published_rule_pads_to_the_training_crop_or_to_what_the_window_divides():
    network = small(window=5, published_padding=True)
    assert [network(tokens(1, n)).levels[0].logits.shape[1] for n in (1, 40, 41, 61)] == [40, 40, 60, 80]
    assert [small()(tokens(1, n)).levels[0].logits.shape[1] for n in (1, 40, 41, 61)] == [4, 40, 44, 64]


@torch.no_grad()
def test_padding_changes_the_answers_by_the_published_rule():
    ours, published = awake(small(window=3)), awake(small(window=3, published_padding=True))
    features = tokens(videos=2, length=40)
    assert_same(answers(published(features), 0), answers(ours(features), 0))
    padded, lengths = torch.nn.functional.pad(features, (0, 0, 0, 20)), torch.tensor([40, 40])
    changed = published(padded, lengths).levels[0].logits[:, :40] - published(features).levels[0].logits
    assert changed.abs().max() > 0.01
    assert_same(answers(ours(padded, lengths), 0), answers(ours(features), 0))


def idle_convolutions(network, steps=3):
    """How many of the blocks' depth-wise weights have no gradient after a few steps of training."""
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    truth = Truth(events=[torch.tensor([[3.0, 7.0, 2.0], [10.0, 25.0, 1.0]])])
    for _ in range(steps):
        optimiser.zero_grad()
        sum(network.losses(network(tokens(1, 40)), truth).values()).backward()
        optimiser.step()
    blocks = [module for module in network.modules() if isinstance(module, GranularBlock)]
    convolutions = [conv for b in blocks for conv in (b.gate, b.narrow, b.wide, b.map, b.global_map)]
    return sum(not conv.weight.grad.any() for conv in convolutions), len(convolutions)


def test_blocks_learn_from_our_start_values_and_not_from_the_published_zeros():
    assert idle_convolutions(small().train()) == (0, 20)
    assert idle_convolutions(small(init_conv_vars=0.0).train()) == (20, 20)


def test_start_values():
    network = small()
    for head in (network.class_head, network.start_head, network.end_head):
        assert head.output.bias.tolist() == pytest.approx([-4.59512] * 5, rel=1e-5)
    assert not network.distance_head.output.bias.any()
    stem, block = network.stem[0], network.pyramid[0]
    assert not any(conv.bias.any() for conv in (block.gate, block.narrow, block.wide, block.map, block.global_map))
    assert block.wide.weight.std().item() == pytest.approx(0.2, rel=0.3)
    assert isinstance(stem.branch1, torch.nn.Identity)  # as published, the stem's branches have no gain


def test_the_group_norm_leaves_padding_out():
    torch.manual_seed(0)
    norm, x = MaskedGroupNorm(4, 8), torch.randn(2, 8, 30)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    mask = (torch.arange(30) < torch.tensor([[30], [11]]))[:, None]
    actual = norm(x, mask)
    torch.testing.assert_close(actual[0], norm(x[:1])[0])
    torch.testing.assert_close(actual[1, :, :11], norm(x[1:, :, :11])[0])


def test_distances_are_means_over_bins():
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 1, 3, 9, generator=generator).unbind(0)
    offsets = torch.randn(1, 2 * 5, 9, generator=generator)
    actual = expected_distances(start, end, offsets, bins=4)
    assert actual.shape == (1, 9, 3, 2)
    for place in range(9):
        for action in range(3):
            before = [start[0, action, place - 4 + j] if place - 4 + j >= 0 else torch.tensor(0.0) for j in range(5)]
            after = [end[0, action, place + j] if place + j < 9 else torch.tensor(0.0) for j in range(5)]
            left = (torch.stack(before) + offsets[0, :5, place]).softmax(0) @ torch.tensor([4.0, 3, 2, 1, 0])
            right = (torch.stack(after) + offsets[0, 5:, place]).softmax(0) @ torch.tensor([0.0, 1, 2, 3, 4])
            torch.testing.assert_close(actual[0, place, action], torch.stack([left, right]))


def test_starts_and_ends_teach_their_heads_only():
    network = awake(small())
    output = network(tokens(1, 40))
    (output["start_0"].sum() + output["end_1"].sum()).backward()
    assert network.start_head.output.weight.grad.any()
    assert network.neck[0].weight.grad is None
    assert network.embedding[0].conv.weight.grad is None


def test_the_losses_compare_each_class_and_weigh_by_the_overlap():
    """A place with two actions counts twice in the loss on distances and once in the count."""
    network = awake(small(label_smoothing=0.1))
    truth = [torch.tensor([[3.0, 7.0, 2.0], [3.0, 7.0, 4.0]])]
    output = network(tokens(1, 40))
    losses = network.losses(output, Truth(events=truth))
    logits = torch.cat([level.logits for level in output.levels], 1)[0]
    distances = torch.cat([level.distances for level in output.levels], 1)[0]
    labels, targets = network.assign(output.levels, truth[0])
    places = labels.any(1).nonzero()[:, 0].tolist()
    assert len(places) == 3
    normaliser = 0.9 * 100 + 0.1 * 3
    regression, weights = 0.0, torch.ones_like(logits)
    for place in places:
        for action in (2, 4):
            overlap, penalty = overlaps(distances[place, action][None], targets[place][None])
            regression += (1 - overlap + penalty).item()
            weights[place, action] = overlap.item() ** 0.2
    smoothed = labels * 0.9 + 0.1 / 6
    assert losses["regression"].item() == pytest.approx(regression / normaliser, rel=1e-5)
    expected = (focal_loss(logits, smoothed) * weights).sum() / normaliser
    assert losses["classification"].item() == pytest.approx(expected.item(), rel=1e-5)


@torch.no_grad()
def test_noise_is_for_training_only():
    network = small(input_noise=0.5, drop_path=0.0)
    features = tokens(1, 40)
    assert torch.equal(network(features).levels[0].logits, network(features).levels[0].logits)
    network.train()
    assert not torch.equal(network(features).levels[0].logits, network(features).levels[0].logits)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"embedding_dim": 24}, "embedding_dim is 24; it is a multiple of 16"),
        ({"window": 4}, "window is 4; it is odd"),
        ({"max_tokens": 42}, "max_tokens is 42; with 3 levels it is a multiple of 4"),
        ({"init_conv_vars": -1.0}, "init_conv_vars is -1 and input_noise 0.0005; a deviation is 0 or more"),
        ({"bins": 0}, "bins is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        small(**arguments)
