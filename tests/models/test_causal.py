"""Our own detector against the formulas of its papers, written slowly, and against what must not matter."""

import math

import pytest
import torch
import torch.nn.functional as F

from vidact.models import causal
from vidact.models.causal import (
    LinearAttention,
    SoftmaxAttention,
    StateSpace,
    causal_transformer,
    decayed_attention,
    segment_sums,
)
from vidact.models.online import map_state, multi_hot_cross_entropy

KINDS = ["softmax", "linear", "state_space"]
EVERY = pytest.mark.parametrize("attention", KINDS)
FEATURE_DIM, NUM_CLASSES = 12, 5


def build(attention, window=7, seed=0, **arguments):
    """A toy detector whose logits are of the order of 1, so that differences show."""
    torch.manual_seed(seed)
    arguments = {"width": 16, "heads": 2, "layers": 2, "future": 3, **arguments}
    network = causal_transformer(
        NUM_CLASSES, FEATURE_DIM, attention=attention, window=window if attention == "softmax" else None, **arguments
    )
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network.eval()


def tokens(length, videos=2, seed=1):
    return torch.randn(videos, length, FEATURE_DIM, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run_steps(network, features, state=None):
    state = network.initial_state(len(features)) if state is None else state
    logits, future = [], []
    for feature in features.unbind(1):
        output, state = network.step(feature, state)
        logits.append(output.logits)
        future.append(output.future)
    return torch.cat(logits, 1), torch.cat(future, 1), state


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


# ---------------------------------------------------------------------------------------------- the formulas


def qkv_of(layer, x):
    """Queries, keys and values (T, H, P) of tokens (T, width)."""
    return [part.unflatten(-1, (layer.heads, -1)) for part in (x @ layer.qkv.weight.T).chunk(3, -1)]


@torch.no_grad()
def test_softmax_attention_is_its_formula():
    """Every weight exp(q · R(i − j) k / √P) over the window, R(t) the rotation of pairs by t 10000^(−2c/P)."""
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(width=16, heads=2, window=4).double(), torch.randn(11, 16).double()
    layer.qkv.weight *= 4
    query, key, value = qkv_of(layer, x)
    pair = torch.arange(4)
    expected = torch.zeros(11, 2, 8).double()
    for i in range(11):
        for h in range(2):
            first = max(0, i - 3)
            scores = []
            for j in range(first, i + 1):
                turn = torch.polar(torch.ones(4).double(), (i - j) * 10000.0 ** -(pair.double() / 4))
                left = torch.complex(query[i, h, :4], query[i, h, 4:])
                right = torch.complex(key[j, h, :4], key[j, h, 4:])
                scores.append((left * turn * right.conj()).real.sum() / math.sqrt(8))
            weights = torch.stack(scores).softmax(0)
            expected[i, h] = weights @ value[first : i + 1, h]
    actual, _ = layer(x[None], torch.arange(11)[None], layer.initial_state(1))
    # Frequencies are whole steps of 2π / 2²⁴: the slowest pair is off by 5e-4 of itself, which no window notices.
    torch.testing.assert_close(actual[0], layer.out(expected.flatten(1)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_linear_attention_is_its_formula():
    torch.manual_seed(0)
    layer, x = LinearAttention(width=16, heads=2).double(), torch.randn(30, 16).double()
    layer.log_rate += torch.tensor([0.3, 2.0])
    query, key, value = qkv_of(layer, x)
    query, key = F.elu(query) + 1.001, F.elu(key) + 1.001
    decay = (-(torch.tensor([8.0, 512.0]).log().neg() + layer.log_rate).exp()).exp()
    expected = torch.zeros(30, 2, 8).double()
    for i in range(30):
        weights = torch.stack([decay ** (i - j) * (query[i] * key[j]).sum(-1) for j in range(i + 1)])  # (i + 1, H)
        expected[i] = (weights[..., None] * value[: i + 1]).sum(0) / weights.sum(0)[:, None]
    actual, _ = layer(x[None], torch.arange(30)[None], layer.initial_state(1))
    torch.testing.assert_close(actual[0], layer.out(expected.flatten(1)), rtol=0, atol=1e-6)  # constants in float32


@torch.no_grad()
def test_the_state_space_layer_is_its_recurrence():
    """Mamba-2's equations token by token: convolution, h ← exp(−a Δ) h + Δ B xᵀ, y = C h + D x, gate, norm."""
    torch.manual_seed(0)
    layer, x = StateSpace(width=16, heads=2).double(), torch.randn(30, 16).double()
    for parameter in layer.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    n, size = causal.STATE_SIZE, layer.inner // layer.heads
    steps = torch.logspace(-3, -1, 4).double()
    step_bias = (steps.exp() - 1).log() + layer.step_bias
    decay = torch.tensor([1.0, 6.0, 11.0, 16.0]).double() * layer.log_decay.exp()
    h = torch.zeros(layer.heads, n, size).double()
    past = torch.zeros(4, layer.convolved).double()
    expected = []
    for token in x:
        gate, mixture, step = (layer.inside.weight @ token).split([layer.inner, layer.convolved, layer.heads])
        past = torch.cat([past[1:], mixture[None]])
        mixture = F.silu((past * layer.kernel).sum(0) + layer.kernel_bias)
        u, write, read = mixture.split([layer.inner, n, n])
        u = u.view(layer.heads, size)
        delta = torch.log1p(torch.exp(step + step_bias))
        h = h * torch.exp(-decay * delta)[:, None, None] + torch.einsum("h,n,hp->hnp", delta, write, u)
        y = (torch.einsum("n,hnp->hp", read, h) + layer.skip[:, None] * u).flatten() * F.silu(gate)
        y = y / (y.square().mean() + 1e-5).sqrt() * layer.norm.weight
        expected.append(layer.out(y))
    actual, _ = layer(x[None], torch.arange(30)[None], layer.initial_state(1))
    torch.testing.assert_close(actual[0], torch.stack(expected), rtol=0, atol=1e-6)  # constants in float32


@torch.no_grad()
def test_matrix_products_equal_the_recurrence():
    """In single precision, with decays from none to complete, and one after the other."""
    torch.manual_seed(0)
    length = 200
    queries, keys, values = torch.randn(2, 1, length, 6), torch.randn(2, 1, length, 6), torch.randn(2, 3, length, 4)
    log_decay = -torch.logspace(-6, 2, length)[torch.randperm(length)].expand(2, 3, -1)
    memory = first = torch.randn(2, 3, 6, 4)
    expected = []
    for i in range(length):
        memory = memory * log_decay[..., i, None, None].exp() + keys[:, :, i, :, None] * values[:, :, i, None, :]
        expected.append((queries[:, :, i, None, :] @ memory)[:, :, 0])
    answers, last = decayed_attention(queries, keys, values, log_decay, first)
    assert_same(answers, torch.stack(expected, 2))
    assert_same(last, memory)


def test_sums_between_tokens_do_not_cancel():
    logs = torch.tensor([-1e-3, -1e4, -1e-3, -2e-3])
    sums = segment_sums(logs)
    assert sums[3, 1].item() == pytest.approx(-3e-3, rel=1e-6)  # 1e4 + 3e-3 − 1e4 is 2.9e-3 in single precision
    assert sums[0, 0] == 0
    assert sums[0, 1] == -math.inf


# ---------------------------------------------------------------------------------------------- law 1


@EVERY
@torch.no_grad()
def test_step_equals_forward(attention):
    """At every token, from the first to three times the memory (or what forward takes at once) and beyond."""
    network = build(attention)
    features = tokens(3 * (network.window or 20) + 5)
    logits, future, _ = run_steps(network, features)
    whole = network(features)
    assert_same(logits, whole.logits)
    assert_same(future, whole.future)
    assert whole.logits.std() > 0.1
    for t in range(features.shape[1]):
        assert_same(logits[:, t], network(features[:, : t + 1]).logits[:, -1])


@pytest.mark.parametrize("length", [300, pytest.param(5000, marks=pytest.mark.slow)])
@EVERY
def test_long_streams_do_not_drift(attention, length):
    network = build(attention)
    features = tokens(length, videos=1)
    logits, future, _ = run_steps(network, features)
    with torch.no_grad():
        whole = network(features)
    assert_same(logits, whole.logits)
    assert_same(future, whole.future)


@EVERY
@torch.no_grad()
def test_how_much_forward_takes_at_once_changes_nothing(attention, monkeypatch):
    network, features = build(attention), tokens(150)
    expected = network(features).logits
    for chunk in (1, 13, 150):
        monkeypatch.setattr(causal, "CHUNK", chunk)
        assert_same(network(features).logits, expected)


@pytest.mark.slow
@EVERY
@torch.no_grad()
def test_hours_of_features_need_no_square(attention):
    """65,536 tokens, four and a half hours: a T x T matrix would be 16 GiB a head."""
    network = build(attention, layers=1)
    features = tokens(65_536, videos=1)
    logits = network(features).logits
    assert logits.isfinite().all()
    # The memories fade (or end), so the last tokens do not hear the beginning.
    assert_same(logits[:, -20:], network(features[:, -10_000:]).logits[:, -20:])


def test_a_state_does_not_grow():
    """Nor does the storage behind it, or the time a step takes would be the only thing that is constant."""
    for attention in KINDS:
        network = build(attention)
        _, _, state = run_steps(network, tokens(40))
        sizes, storages = [], []
        for _ in range(3):
            _, _, state = run_steps(network, tokens(30), state)
            tensors = []
            map_state(lambda tensor, found=tensors: found.append(tensor) or tensor, state)
            sizes.append([tensor.shape for tensor in tensors])
            storages.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
        assert sizes[0] == sizes[1] == sizes[2]
        assert storages[0] == storages[1] == storages[2]


# ---------------------------------------------------------------------------------------------- law 2, streams


@EVERY
@torch.no_grad()
def test_a_later_token_changes_no_earlier_output(attention):
    network, features = build(attention), tokens(60)
    before = network(features)
    for t in (1, 30, 59):
        later = features.clone()
        later[:, t:] = tokens(60 - t, seed=2)
        after = network(later)
        assert_same(after.logits[:, :t], before.logits[:, :t])
        assert_same(after.future[:, :t], before.future[:, :t])
        assert (after.logits[:, t] - before.logits[:, t]).abs().max() > 0.01


@EVERY
@torch.no_grad()
def test_streams_begin_anew_on_their_own(attention):
    network, features = build(attention), tokens(40, videos=3)
    _, _, state = run_steps(network, features[:, :25])
    state = network.reset(state, torch.tensor([False, True, False]))
    assert state["count"].tolist() == [25, 0, 25]
    logits, _, _ = run_steps(network, features[:, 25:], state)
    whole = network(features).logits[:, 25:]
    assert_same(logits[[0, 2]], whole[[0, 2]])
    assert_same(logits[1:2], network(features[1:2, 25:]).logits)


@EVERY
@torch.no_grad()
def test_what_fills_the_batch_before_the_start_is_not_heard(attention):
    network, features = build(attention), tokens(40, videos=3)
    start = torch.tensor([0, 5, 39])
    output = network(features, start)
    assert output.logits.isfinite().all()
    for b, s in enumerate(start.tolist()):
        assert_same(output.logits[b, s:], network(features[b : b + 1, s:]).logits[0])


@torch.no_grad()
def test_the_window_is_what_the_layers_reach_together():
    network = build("softmax", window=5, layers=3)
    assert network.window == 13
    features = tokens(30)
    older = features.clone()
    older[:, :-13] = tokens(17, seed=2)
    before = network(features).logits[:, -1]
    assert_same(network(older).logits[:, -1], before)
    older[:, -13] = -features[:, -13]
    assert (network(older).logits[:, -1] - before).abs().max() > 1e-4
    assert build("linear").window is None
    assert build("state_space").window is None


@EVERY
@pytest.mark.parametrize("age", [10_000_000, 2**40])
@torch.no_grad()
def test_the_age_of_a_stream_does_not_matter(attention, age):
    """29 days, and 8,700 years: angles of positions are exact, where single precision would have lost them."""
    network, features = build(attention, window=40), tokens(120)
    expected = network(features).logits
    old = network.initial_state(2)
    old["count"] += age
    logits, _, _ = run_steps(network, features, old)
    # An old stream's window is full, of zeros here: they have left it once the layers have reached past them.
    rows = slice(network.window or 0, None)
    assert_same(logits[:, rows], expected[:, rows])


# ---------------------------------------------------------------------------------------------- learning


@EVERY
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradients_reach_every_parameter(attention, precision):
    network = build(attention).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output = network(tokens(300), start=torch.tensor([0, 7]))  # more than forward takes at once
    (output.logits.float().square().mean() + output.future.float().square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@EVERY
@torch.no_grad()
def test_half_precision_is_for_the_maps_only(attention):
    """Memories stay in single precision under autocast, so a long stream strays no further than a short one."""
    network, features = build(attention), tokens(400, videos=1)
    exact = network(features).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(features).logits
        _, state = network.step(features[:, 0], network.initial_state(1))
    errors = (rounded.float() - exact).abs()
    assert errors.mean() < 0.05 * exact.std()
    assert errors[:, -100:].mean() < 2 * errors[:, :100].mean()
    dtypes = set()
    map_state(lambda tensor: dtypes.add(tensor.dtype) or tensor, state)
    assert dtypes == {torch.int64, torch.float32}


def cued(videos, length, generator):
    """Noise, with a cue of one of two actions among the first four tokens; from then on that action is on."""
    features = torch.randn(videos, length, 6, generator=generator)
    action = torch.randint(1, 3, (videos,), generator=generator)
    moment = torch.randint(0, 4, (videos,), generator=generator)
    features[torch.arange(videos), moment, action] += 8.0
    on = torch.arange(length) >= moment[:, None]
    return features, F.one_hot(torch.where(on, action[:, None], 0), 3).float()


def accuracy_after_training(batches, **arguments):
    """Share of right answers among the last ten of 30 tokens: those 17 to 29 tokens after the cue."""
    length = 30
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = causal_transformer(3, 6, width=32, heads=4, dropout=0.0, **arguments)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(batches):
        features, targets = cued(16, length, generator)
        optimizer.zero_grad()
        multi_hot_cross_entropy(network(features).logits, targets).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    features, targets = cued(200, length, generator)
    with torch.no_grad():
        right = network.eval()(features).logits.argmax(-1) == targets.argmax(-1)
    return right[:, -10:].float().mean().item()


@pytest.mark.parametrize(
    "arguments",
    [{"window": 16}, {"attention": "linear"}, pytest.param({"attention": "state_space"}, marks=pytest.mark.slow)],
    ids=["softmax", "linear", "state_space"],
)
def test_an_event_is_remembered(arguments):
    """Two softmax layers of 16 tokens hand it on to 30 tokens later; the other kinds keep it."""
    assert accuracy_after_training(120, **arguments) > 0.9


def test_an_event_beyond_the_window_is_not():
    """Two layers of 4 tokens reach 6 tokens back: two actions, so half of the answers are right."""
    assert 0.35 < accuracy_after_training(50, window=4) < 0.65


# ---------------------------------------------------------------------------------------------- building


def test_future_outputs_are_maps_of_their_own():
    network = build("softmax", future=8)
    assert network.future_offsets == (1, 2, 3, 4, 5, 6, 7, 8)
    future = network(tokens(4)).future
    assert future.shape == (2, 4, 8, NUM_CLASSES)
    assert (future[:, :, 0] - future[:, :, 7]).abs().max() > 0.01
    network = build("softmax", future=0)
    assert network.future_offsets == ()
    assert network(tokens(4)).future is None


def test_an_untrained_detector_is_undecided():
    """Whatever the scale of the features, logits start near 0 and tokens near unit variance."""
    for attention in KINDS:
        torch.manual_seed(0)
        network = causal_transformer(21, 64, attention=attention).eval()
        with torch.no_grad():
            logits = network(1000 * torch.randn(2, 50, 64)).logits
        assert 0.1 < logits.std() < 1


def test_bad_arguments_are_refused_in_words():
    for arguments, words in [
        ({"attention": "mamba"}, "'mamba'; it is 'softmax', 'linear' or 'state_space'"),
        ({"attention": "linear", "window": 64}, "window is 64, but attention='linear' remembers the whole past"),
        ({"width": 30, "heads": 4}, "width is 30 and heads 4; each head needs a whole and even share"),
        ({"width": 12, "heads": 4}, "whole and even share"),
        ({"layers": 0}, "layers is 0"),
        ({"future": -1}, "future -1"),
        ({"window": 0}, "window is 0; a token sees itself"),
    ]:
        with pytest.raises(ValueError, match=words):
            causal_transformer(3, 8, **arguments)
