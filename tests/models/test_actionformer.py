"""ActionFormer: published sizes, attention in blocks, which places learn which event, and what the losses count."""

import math

import numpy as np
import pytest
import torch
from test_offline_laws import answers, assert_same, awake, tokens

import vidact.models
from vidact.models.actionformer import Branch, Positions, local_attention, sinusoids
from vidact.models.localisation import focal_loss, overlaps, regression_ranges
from vidact.models.offline import Level, OfflineOutput, Truth
from vidact.models.offline_decoding import Decoding, Grid, detections

SMALL = {
    "num_classes": 5,
    "feature_dim": 12,
    "embedding_dim": 16,
    "head_dim": 12,
    "levels": 3,
    "attention_window": 5,
    "max_tokens": 48,
}


def small(name="actionformer", **arguments):
    torch.manual_seed(0)
    return getattr(vidact.models, name)(**SMALL | arguments).eval()


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("actionformer", {"num_classes": 20}, 29_251_612),
        ("actionformer", {"num_classes": 97, "feature_dim": 2304, "attention_window": 9}, 29_763_177),
        ("actionformer_proposals", {}, 6_943_497),
    ],
)
def test_published_sizes(name, arguments, parameters):
    with torch.device("meta"):
        network = getattr(vidact.models, name)(**arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_published_rule_pads_to_the_training_crop_or_to_what_the_windows_divide():
    """The largest of 2^l · 2⌊w/2⌋, for the published sizes 576 and 96."""
    with torch.device("meta"):
        assert vidact.models.actionformer(20, published_padding=True).pad_to == 576
        assert vidact.models.actionformer_proposals(published_padding=True).pad_to == 96
    network = small(published_padding=True)
    assert network.pad_to == 16
    assert [network(tokens(1, length)).levels[0].logits.shape[1] for length in (1, 48, 49, 64, 65)] == [
        48, 48, 64, 64, 80
    ]  # fmt: skip
    ours = small()
    assert [ours(tokens(1, length)).levels[0].logits.shape[1] for length in (1, 48, 49)] == [4, 48, 52]


@torch.no_grad()
def test_padding_changes_the_answers_by_the_published_rule():
    """The last places of every level, as soon as there is any; without padding both rules agree."""
    ours, published = awake(small()), awake(small(published_padding=True))
    features = tokens(videos=2, length=48)
    assert_same(answers(published(features), 0), answers(ours(features), 0))
    padded = torch.nn.functional.pad(features, (0, 0, 0, 16))
    lengths = torch.tensor([48, 48])
    changed = published(padded, lengths).levels[0].logits[:, :48] - published(features).levels[0].logits
    assert changed[:, -7:].abs().max() > 0.01
    assert_same(answers(ours(padded, lengths), 0), answers(ours(features), 0))


@pytest.mark.parametrize("num_tokens", [1, 7, 8, 30])
@pytest.mark.parametrize("half", [1, 2, 9])
def test_attention_in_blocks_equals_the_masked_matrix(num_tokens, half):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, num_tokens, 4, generator=generator).unbind(0)
    mask = torch.ones(2, num_tokens, dtype=torch.bool)
    mask[1, num_tokens // 2 + 1 :] = False
    place = torch.arange(num_tokens)
    is_near = (place[:, None] - place).abs() <= half
    scores = query @ key.mT / 2
    scores = scores.masked_fill(~(is_near & mask[:, None, None]), -torch.inf)
    expected = scores.softmax(-1) @ value
    actual = local_attention(query, key, value, mask, half)
    assert actual.shape == query.shape
    for video in range(2):
        torch.testing.assert_close(actual[video][:, mask[video]], expected[video][:, mask[video]])


def test_positions_are_sinusoids_stretched_over_the_video_itself():
    table = sinusoids(48, 6)
    assert table[2, 5].item() == pytest.approx(math.sin(5 / 10_000 ** (2 / 6)) / math.sqrt(6))
    assert table[3, 5].item() == pytest.approx(math.cos(5 / 10_000 ** (2 / 6)) / math.sqrt(6))
    mask = torch.arange(72) < torch.tensor([[70], [30]])
    added = Positions(6, 48, published=False)(torch.zeros(2, 6, 72), mask[:, None])
    stretched = torch.nn.functional.interpolate(table[None], size=70, mode="linear", align_corners=False)[0]
    torch.testing.assert_close(added[0, :, :70], stretched)
    torch.testing.assert_close(added[1, :, :30], table[:, :30])
    assert not added[0, :, 70:].any()
    assert not added[1, :, 30:].any()
    padded = Positions(6, 48, published=True)(torch.zeros(2, 6, 72), mask[:, None])
    over_all = torch.nn.functional.interpolate(table[None], size=72, mode="linear", align_corners=False)[0]
    torch.testing.assert_close(padded[0, :, :70], over_all[:, :70])


def test_a_branch_is_dropped_whole_and_in_training_only():
    torch.manual_seed(0)
    branch, x = Branch(3, drop=0.25), torch.randn(4000, 3, 2)
    torch.testing.assert_close(branch.eval()(x), 1e-4 * x)
    y = branch.train()(x)
    is_dropped = (y == 0).all(2).all(1)
    assert 0.2 < is_dropped.float().mean() < 0.3
    torch.testing.assert_close(y[~is_dropped], 1e-4 * x[~is_dropped] / 0.75)


def test_start_values():
    network = small(empty_classes=[3])
    bias = network.class_head.output.bias
    assert bias.tolist() == pytest.approx([-4.59512, -4.59512, -4.59512, -13.815509, -4.59512], rel=1e-5)
    assert not network.distance_head.output.bias.any()
    assert not any(block.attention.out.bias.any() for block in [*network.stem, *network.pyramid])
    assert network.normaliser == 100
    with pytest.raises(ValueError, match="empty_classes has 5; the actions are 0 to 4"):
        small(empty_classes=[5])


# ------------------------------------------------------------------------------------------------ assignment


def levels_of(lengths=(16, 8, 4), num_classes=5):
    return [
        Level(torch.zeros(1, n, num_classes), torch.zeros(1, n, 2), 2**level, torch.ones(1, n, dtype=torch.bool))
        for level, n in enumerate(lengths)
    ]


def assigned(events, network=None, levels=None):
    """(level, place) → (classes, distances)."""
    levels = levels or levels_of()
    labels, distances = (network or small()).assign(levels, torch.tensor(events, dtype=torch.float32).reshape(-1, 3))
    answer, first = {}, 0
    for number, level in enumerate(levels):
        n = level.logits.shape[1]
        for place in labels[first : first + n].any(1).nonzero()[:, 0].tolist():
            row = first + place
            answer[number, place] = (labels[row].nonzero()[:, 0].tolist(), distances[row].tolist())
        first += n
    return answer


def test_published_ranges():
    assert regression_ranges(6) == [[0, 4], [4, 8], [8, 16], [16, 32], [32, 64], [64, 10000]]
    assert regression_ranges(1) == [[0, 10000]]


def test_places_near_the_middle_learn_an_event_of_their_range():
    assert assigned([(3, 7, 2)]) == {
        (0, 4): ([2], [1, 3]),
        (0, 5): ([2], [2, 2]),
        (0, 6): ([2], [3, 1]),  # the ends themselves are not inside
    }
    # The farther end of places 4 and 6 is 4 tokens away, which both levels include; the middle of level 1 is 2 · 2.5.
    assert assigned([(2, 8, 0)]) == {
        (0, 4): ([0], [2, 4]),
        (0, 5): ([0], [3, 3]),
        (0, 6): ([0], [4, 2]),
        (1, 2): ([0], [1, 2]),
        (1, 3): ([0], [2, 1]),
    }


def test_the_shortest_wins_and_equal_lengths_share():
    both = assigned([(3, 7, 2), (3.0005, 7, 4), (4.5, 5.5, 1)])
    assert both[0, 5][0] == [1]
    assert both[0, 4][0] == [2, 4]
    assert both[0, 4][1] == pytest.approx([0.9995, 3])  # the shortest of them gives the distances
    assert assigned([(3, 7, 2), (3, 7, 0)])[0, 4] == ([0, 2], [1, 3])


def test_a_video_without_events_learns_background():
    network = small()
    assert assigned([], network) == {}
    output = network(tokens(1, 16))
    losses = network.losses(output, Truth(events=[torch.zeros(0, 3)]))
    assert losses["regression"] == 0
    assert losses["classification"] > 0


def test_events_of_other_actions_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the action 5; ActionFormer has 5 actions, from 0 to 4"):
        assigned([(1, 2, 5)])
    with pytest.raises(ValueError, match=r"the action -1;"):
        assigned([(1, 2, -1)])
    with pytest.raises(ValueError, match=r"events have the shape \(2, 2\)"):
        small().assign(levels_of(), torch.zeros(2, 2))


@pytest.mark.parametrize("per_class", [False, True], ids=["distances", "distances per class"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_assigned_decodes_to_the_events_in_seconds(seed, per_class):
    """The last of them touch each other, and one begins before the first token's centre."""
    rng = np.random.default_rng(seed)
    grid, edges = Grid.of(4.0), np.sort(rng.choice(np.arange(1, 120), 12, replace=False)) / 4
    truth = [(float(s), float(e), int(rng.integers(5))) for s, e in zip(edges[::2], edges[1::2], strict=True)]
    truth += [(0.0, float(edges[0]), 1), (30.1, 33.3, 2), (33.3, 36.9, 2)]
    rows = torch.tensor([[grid.places(s), grid.places(e), k] for s, e, k in truth])
    assert rows[:, 0].min() == -0.5
    levels = levels_of((160, 80, 40, 20, 10))
    network = small(levels=5, max_tokens=160)
    labels, distances = network.assign(levels, rows)
    if per_class:
        distances = distances[:, None].expand(-1, 5, -1)
    sizes = [level.logits.shape[1] for level in levels]
    filled = [
        level._replace(logits=20.0 * part[None] - 10, distances=away[None])
        for level, part, away in zip(levels, labels.float().split(sizes), distances.split(sizes), strict=True)
    ]
    network.decoding = Decoding(nms="hard", overlap=0.99, min_score_before=0.5, min_length=0.0)
    (events,) = network.events(OfflineOutput(lengths=torch.tensor([160]), levels=filled))
    found = detections(events, "x", list("abcde"), grid, duration_s=40.0)
    actual = sorted((one.start_s, one.end_s, "abcde".index(one.label)) for one in found)
    assert len(actual) == len(truth)
    np.testing.assert_allclose(actual, sorted(truth), atol=1e-4)


# ------------------------------------------------------------------------------------------------ losses


def test_places_in_ambiguous_stretches_and_padding_do_not_count():
    network = awake(small())
    output = network(tokens(1, 40), lengths=torch.tensor([30]))
    truth = [torch.tensor([[2.0, 9.0, 1.0], [20.0, 26.0, 3.0]])]
    all_of_it = network.losses(output, Truth(events=truth))
    nowhere = network.losses(output, Truth(events=truth, ambiguous=[torch.zeros(0, 2)]))
    assert nowhere == all_of_it
    second = torch.tensor([[19.5, 26.5]])
    without = network.losses(output, Truth(events=truth, ambiguous=[second]))
    assert without["classification"] != all_of_it["classification"]
    places = torch.tensor([[-1.0, 9.5]])
    neither = network.losses(output, Truth(events=truth, ambiguous=[torch.cat([second, places])]))
    assert neither["regression"] == 0
    # With the events gone, what lay inside them is still not background.
    gone = network.losses(output, Truth(events=[truth[0][:1]], ambiguous=[second]))
    torch.testing.assert_close(gone["regression"], without["regression"])
    everywhere = network.losses(output, Truth(events=truth, ambiguous=[torch.tensor([[-1.0, 40.0]])]))
    assert everywhere == {"classification": 0, "regression": 0}


def test_the_running_count_moves_in_training_only():
    network = small(initial_normaliser=50.0)
    output = network(tokens(1, 16))
    truth = Truth(events=[torch.tensor([[3.0, 7.0, 2.0]])])  # three places learn it
    in_evaluation = network.losses(output, truth)
    assert network.normaliser == 50
    network.train()
    assert network.losses(output, truth) == in_evaluation
    assert network.normaliser.item() == pytest.approx(0.9 * 50 + 0.1 * 3)
    network.losses(output, Truth(events=[torch.zeros(0, 3)]))
    assert network.normaliser.item() == pytest.approx(0.9 * 45.3 + 0.1)  # at least one is counted
    assert "normaliser" in network.state_dict()


def test_a_weight_of_zero_balances_the_losses():
    """Both are then equally large, and the weight has no gradient."""
    network = awake(small(regression_weight=0.0))
    output = network(tokens(1, 16))
    truth = Truth(events=[torch.tensor([[3.0, 7.0, 2.0]])])
    losses = network.losses(output, truth)
    torch.testing.assert_close(losses["regression"], losses["classification"])
    losses["regression"].backward()
    assert network.class_head.output.weight.grad is None or not network.class_head.output.weight.grad.any()


def test_focal_loss_and_overlaps_by_hand():
    p = 1 / (1 + math.exp(-0.8))
    logits = torch.tensor([0.8, 0.8])
    loss = focal_loss(logits, torch.tensor([1.0, 0.0])).tolist()
    assert loss == pytest.approx([0.25 * (1 - p) ** 2 * -math.log(p), 0.75 * p**2 * -math.log(1 - p)])
    # 2 back and 4 on against 1 back and 6 on: 5 shared of 8; middles 1 and 2.5, hull 8.
    overlap, penalty = overlaps(torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0, 6.0]]))
    assert (overlap.item(), penalty.item()) == pytest.approx((5 / 8, (1.5 / 8) ** 2))
    nothing = overlaps(torch.zeros(1, 2), torch.zeros(1, 2))
    assert [value.item() for value in nothing] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attention_window": [5, 5]}, r"attention_window is \[5, 5\]; give one number, or one for each of 3 levels"),
        ({"max_tokens": 50}, "max_tokens is 50; with 3 levels it is a multiple of 4"),
        ({"max_tokens": 40, "published_padding": True}, "as published it is a multiple of 16"),
        ({"regression_ranges": [[0, 4]]}, "give each of 3 levels a smallest and a largest distance"),
        ({"embedding_dim": 18}, "embedding_dim is 18 and num_heads 4"),
        ({"head_kernel": 2}, "a kernel is 2 tokens wide; it is odd"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1; it is from 0 to below 1"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        small(**arguments)
