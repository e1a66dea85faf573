"""OadTR beyond the laws of every detector (test_online_laws.py) and its record (test_parity.py)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vidact.models.oadtr import oadtr
from vidact.models.online import last_window
from vidact.models.weights import from_reference


def small(**arguments):
    torch.manual_seed(0)
    sizes = {"feature_dim": 12, "window": 6, "width": 16, "num_heads": 2, "num_queries": 3, "decoder_layers": 2}
    network = oadtr(5, **{**sizes, **arguments}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def test_published_size():
    with torch.device("meta"):
        network = oadtr(22)
    assert sum(parameter.numel() for parameter in network.parameters()) == 74_709_036
    assert network.window == 64
    assert network.future_offsets == (1, 2, 3, 4, 5, 6, 7, 8)


@torch.no_grad()
def test_a_step_saves_two_fifths_of_the_multiplications():
    with torch.device("meta"):
        network = oadtr(22).eval().requires_grad_(False)
        features = torch.empty(1, 64, 3072)
        state = network.initial_state()
        _, state = network.step(features[:, 0], state)  # derives the tables
    with FlopCounterMode(display=False) as window:
        network(features)
    with FlopCounterMode(display=False) as step:
        network.step(features[:, 1], state)
    assert window.get_total_flops() / 2e9 == pytest.approx(2.477, abs=0.001)
    assert step.get_total_flops() / 2e9 < 1.47
    assert window.get_total_flops() / step.get_total_flops() > 1.6


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 4, 6, 9])
def test_the_missing_past_repeats_the_first_token(length):
    network = small()
    features = torch.randn(2, length, 12)
    short, full = network(features), network(last_window(features, network.window))
    torch.testing.assert_close(short.logits, full.logits)
    torch.testing.assert_close(short.future, full.future)


@torch.no_grad()
def test_what_is_before_the_start_is_never_read():
    network = small()
    features = torch.randn(2, 9, 12)
    start = torch.tensor([7, 2])
    output = network(features, start)
    for b in range(2):
        alone = network(features[b : b + 1, start[b] :])
        torch.testing.assert_close(output.logits[b : b + 1], alone.logits)
        torch.testing.assert_close(output.future[b : b + 1], alone.future)


@torch.no_grad()
def test_the_order_of_the_window_matters():
    """Positions are those of the window, so the same tokens in another order are another answer, in a stream too."""
    network = small()
    features = torch.randn(1, 6, 12)
    swapped = features[:, [1, 0, 2, 3, 4, 5]]
    assert (network(features).logits - network(swapped).logits).abs().max() > 1e-4
    torch.testing.assert_close(network.scan(swapped).logits[:, -1:], network(swapped).logits)


@torch.no_grad()
def test_an_earlier_query_hears_no_later_one():
    network = small()
    features = torch.randn(1, 6, 12)
    before = network(features).future
    network.queries[:, 2] += torch.randn(16)
    after = network(features).future
    torch.testing.assert_close(after[:, :, :2], before[:, :, :2])
    assert (after[:, :, 2] - before[:, :, 2]).abs().max() > 1e-4


@torch.no_grad()
def test_a_position_that_takes_its_token_away():
    """σ of token + position is made of three numbers that may cancel; what is left is eps, in both ways alike."""
    network = small().double()
    network.embed.weight.zero_()
    network.embed.bias.copy_(-network.positions[2])
    features = torch.randn(1, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(network.scan(features).logits[:, -1:], network(features).logits, rtol=0, atol=1e-5)


def test_the_dead_table_is_carried_and_changes_nothing():
    network = small()
    features = torch.randn(1, 6, 12)
    before = network(features)
    (before.logits.sum() + before.future.sum()).backward()
    assert network.query_positions.grad is None
    with torch.no_grad():
        network.query_positions += 1
    torch.testing.assert_close(network(features).future, before.future)
    assert "query_positions" in network.state_dict()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 3}, "width is 16 and num_heads 3; each head"),
        ({"decoder_heads": 5}, "width is 16 and decoder_heads 5; each head"),
        ({"num_queries": 0}, "num_queries 0.*at least 1"),
        ({"window": 0}, "window 0.*at least 1"),
    ],
)
def test_impossible_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        small(**arguments)


def test_a_batch_of_another_size_than_the_state_is_refused():
    network = small()
    with pytest.raises(ValueError, match="3 features, and the state is of 2 streams"):
        network.step(torch.randn(3, 12), network.initial_state(2))


def test_published_names_of_another_depth_are_refused():
    network = small(num_layers=1)
    hyperparameters = {
        "num_classes": 5,
        "feature_dims": [8, 4],
        "window": 6,
        "embedding_dim": 16,
        "num_heads": 2,
        "num_layers": 1,
        "hidden_dim": 16,
        "num_queries": 3,
        "decoder_layers": 2,
        "decoder_hidden_dim": 16,
    }
    with pytest.raises(ValueError, match=r"1 unknown: encoder\.net\.7\.fn\.norm\.bias; \d+ missing: task_token"):
        from_reference("oadtr", {"encoder.net.7.fn.norm.bias": torch.zeros(16)}, **hyperparameters)
    assert network.recipe["arguments"]["window"] == 6
