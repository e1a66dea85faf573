"""Parts of attention, and tables that follow the weights: never stale, whatever happened to the network."""

import copy
import io

import pytest
import torch

from vidact.models.attention import attend, probes, read_memory
from vidact.models.lstr import lstr, testra
from vidact.models.oadtr import oadtr

FEATURES = torch.randn(2, 14, 6, generator=torch.Generator().manual_seed(0))


def build(name):
    torch.manual_seed(0)
    if name == "oadtr":
        return oadtr(3, 6, window=4, width=8, num_heads=2, num_layers=1, num_queries=2, decoder_layers=1).eval()
    function = {"lstr": lstr, "testra": testra}[name]
    return function(3, 6, long=3, work=3, long_stride=2, width=8, num_heads=2, encoder_queries=[2, 2]).eval()


EVERY = pytest.mark.parametrize("name", ["oadtr", "lstr", "testra"])


def last_step(network, features=FEATURES):
    state = network.initial_state(len(features))
    for feature in features.unbind(1):
        output, state = network.step(feature, state)
    return output.logits


def assert_fresh(network):
    """Stepping gives what ``forward``, which keeps nothing, gives now."""
    with torch.no_grad():
        features = FEATURES.to(next(network.parameters()))
        expected = network(features).logits[:, -1:]
        torch.testing.assert_close(last_step(network, features), expected, rtol=0, atol=1e-5)


def test_few_queries_read_what_ordinary_attention_reads():
    torch.manual_seed(0)
    query, memory = torch.randn(3, 2, 8), torch.randn(3, 5, 8)
    weight, bias = torch.randn(2, 8, 8), torch.randn(2, 8)
    mask = torch.rand(3, 1, 2, 5) > 0.3
    mask[..., 0] = True
    expected = attend(query, memory @ weight[0].T + bias[0], memory @ weight[1].T + bias[1], 4, mask)
    actual = read_memory(probes(query, weight[0], 4), memory, weight[1], bias[1], mask)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@EVERY
def test_tables_are_computed_once(name, monkeypatch):
    network = build(name)
    derive, calls = network._derive, []
    monkeypatch.setattr(network, "_derive", lambda: calls.append(1) or derive())
    with torch.no_grad():
        last_step(network)
        last_step(network)
    with torch.inference_mode():
        last_step(network)
    assert len(calls) == 1


@EVERY
@pytest.mark.parametrize("optimizer", ["plain", "foreach", "fused"])
def test_a_step_after_training_is_fresh(name, optimizer):
    network = build(name)
    assert_fresh(network)
    choice = {} if optimizer == "plain" else {optimizer: True}
    trainer = torch.optim.AdamW(network.parameters(), lr=0.1, **choice)
    for mode in (True, False):  # also where nobody thought of train()
        network.train(mode)
        output = network(FEATURES)
        (output.logits.square().sum()).backward()
        trainer.step()
        network.eval() if mode else None
        assert_fresh(network)


@EVERY
def test_training_through_steps_is_fresh(name):
    """Backpropagation through the stream itself, the optimizer's step and the next step of the stream."""
    network = build(name)
    trainer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        last_step(network).square().sum().backward()
        trainer.step()
        assert_fresh(network)


@EVERY
def test_gradients_of_steps_are_those_of_forward(name):
    network = build(name)
    with torch.no_grad():
        last_step(network)  # whatever was kept must not be used where gradients are wanted
    gradients = []
    for ask in (lambda features: network(features).logits[:, -1:], lambda features: last_step(network, features)):
        network.zero_grad()
        features = FEATURES.clone().requires_grad_()
        ask(features).square().sum().backward()
        leaves = [features, *network.parameters()]  # a key's bias changes nothing, and a step does not even read it
        gradients.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    for by_forward, by_steps in zip(*gradients, strict=True):
        torch.testing.assert_close(by_steps, by_forward, rtol=0, atol=1e-4)
    assert sum(bool(gradient.abs().sum() > 1e-4) for gradient in gradients[1]) > 20


@EVERY
def test_a_step_after_loading_or_moving_is_fresh(name):
    network, other = build(name), build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    assert_fresh(network)
    network.load_state_dict(other.state_dict())
    assert_fresh(network)
    with torch.no_grad():
        torch.nn.init.normal_(network.classifier.weight)
        for parameter in network.parameters():
            parameter.mul_(1.1)
    assert_fresh(network)
    network.load_state_dict(copy.deepcopy(other.state_dict()), assign=True)
    assert_fresh(network)
    network.double()
    assert_fresh(network)
    network.half().float()  # the weights lose digits; the memory may be where it was
    assert_fresh(network)
    for parameter, theirs in zip(network.parameters(), build(name).parameters(), strict=True):
        parameter.data = theirs.data
    assert_fresh(network)
    for parameter in network.parameters():
        parameter.data.mul_(1.1)  # PyTorch does not count this one
    network.eval()
    assert_fresh(network)


@EVERY
def test_a_network_made_in_inference_mode_is_fresh(name):
    with torch.inference_mode():
        network = build(name)
        assert_fresh(network)
        for parameter in network.parameters():
            parameter.mul_(1.1)
        assert_fresh(network)


@EVERY
def test_tables_made_in_inference_mode_serve_gradients_of_features(name):
    network = build(name).requires_grad_(False)
    with torch.inference_mode():
        last_step(network)
    features = FEATURES.clone().requires_grad_()
    last_step(network, features).sum().backward()
    assert features.grad.abs().sum() > 0


@EVERY
def test_copies_and_pickles_keep_no_tables(name):
    network = build(name)
    assert_fresh(network)
    assert network._tables._kept is not None
    double = copy.deepcopy(network)
    assert double._tables._kept is None
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.mul_(1.1)
    assert_fresh(double)
    assert_fresh(network)
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    assert_fresh(torch.load(buffer, weights_only=False))


@EVERY
def test_half_precision_steps_leave_no_coarse_tables(name):
    """A validation under autocast, then a stream in single precision."""
    network = build(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        coarse = last_step(network)
    expected = network(FEATURES).logits[:, -1:]
    assert 0 < (coarse.float() - expected).abs().max() < 0.1
    assert_fresh(network)


@EVERY
def test_dropout_acts_in_training_steps_and_not_in_evaluation(name):
    network = build(name)
    with torch.no_grad():
        assert torch.equal(last_step(network), last_step(network))
        network.train()
        assert not torch.equal(last_step(network), last_step(network))
