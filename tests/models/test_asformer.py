"""ASFormer: its published size, and which tokens attend to which."""

import pytest
import torch
from test_offline_laws import awake, tokens

import vidact.models
from vidact.models.asformer import normed, window_attention


def small(**arguments):
    torch.manual_seed(0)
    sizes = {"num_classes": 5, "feature_dim": 12, "dim": 8, "layers": 3, "decoders": 1}
    return awake(vidact.models.asformer(**sizes | arguments)).eval()


def test_published_size():
    with torch.device("meta"):
        network = vidact.models.asformer(num_classes=19)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_134_476


def read_by(num_tokens, window, exact):
    """Which tokens each token attends to, (T, T): with values that are one-hot, the answer has the weights."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, num_tokens, 4, generator=generator).unbind(0)
    one_hot, mask = torch.eye(num_tokens), torch.ones(1, num_tokens, dtype=torch.bool)
    (weights,) = window_attention(query[None], key[None], one_hot[None], mask, window, exact)
    return weights, query, key


@pytest.mark.parametrize("num_tokens", [1, 5, 16, 19])
@pytest.mark.parametrize("window", [1, 2, 4, 8, 32])
def test_each_token_reads_its_own_window(num_tokens, window):
    weights, query, key = read_by(num_tokens, window, exact=True)
    place = torch.arange(num_tokens)
    first = place[:, None] - window // 2
    is_read = (place >= first) & (place < first + window)
    scores = (query @ key.mT / 2).masked_fill(~is_read, -torch.inf)
    # The weights that the published code gives to what it then masks, a millionth each, are missing in the sum.
    torch.testing.assert_close(weights, scores.softmax(1), rtol=0, atol=1e-3)
    assert not weights[~is_read].any()


def test_by_the_published_mask_a_block_reads_the_same_tokens():
    weights, _, _ = read_by(20, 4, exact=False)
    for token in range(20):
        block = token // 4 * 4
        expected = [t for t in range(block - 2, block + 5) if 0 <= t < 20]
        assert weights[token].nonzero()[:, 0].tolist() == expected
    assert (read_by(5, 1, exact=False)[0] - torch.eye(5)).abs().max() < 1e-5


def test_the_norm_is_over_the_time_of_a_video():
    x = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.instance_norm(x)
    mask = torch.ones(1, 1, 50, dtype=torch.bool)
    torch.testing.assert_close(normed(x, mask), expected)
    longer, padded = torch.cat([x, x], 2), torch.cat([mask, ~mask], 2)
    torch.testing.assert_close(normed(longer, padded)[..., :50], expected)
    assert not normed(torch.full((1, 3, 1), 7.0), mask[..., :1]).any()


@torch.no_grad()
def test_whole_channels_of_the_features_are_dropped_in_training_only():
    network = small(channel_dropout=0.5)
    given = []
    network.encoder.input.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0][0]))
    features = tokens(videos=1, length=30)
    network(features)
    torch.testing.assert_close(given[0], features[0].mT)
    network.train()(features)
    is_dropped = (given[1] == 0).all(1)
    assert 0 < is_dropped.sum() < 12
    torch.testing.assert_close(given[1][~is_dropped], 2 * features[0].mT[~is_dropped])


@torch.no_grad()
def test_later_decoders_weigh_their_attention_less():
    """The weights are 1, e⁻³ and e⁻⁶, so that the last decoder hardly attends."""
    network = small(decoders=3)
    weights = [decoder.layers[0].weight for decoder in network.decoders]
    assert weights == pytest.approx([1, 0.049787, 0.002479], rel=1e-4)
    assert network.encoder.layers[0].weight == 1


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="layers is 0"):
        small(layers=0)
    with pytest.raises(ValueError, match="dim is 8, query_reduction 16 and value_reduction 2; no value is left"):
        small(query_reduction=16)
