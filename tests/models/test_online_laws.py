"""Laws 1 and 2, for every online detector: a step says what ``forward`` says, and nothing hears the future."""

import functools
import itertools
import json
import re

import pytest
import torch
from support.listed import builders_of
from support.online_networks import DEAD_WEIGHTS, FEATURE_DIM, NUM_CLASSES, ONLINE_NETWORKS
from torch import nn

import vidact.models
from vidact.models.online import OnlineNetwork, OnlineOutput, map_state, select_streams, stack_states
from vidact.models.weights import load, save

SHORTEST = 24  # tokens of a sequence for networks whose memory is the whole past


def label(case):
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


EVERY = pytest.mark.parametrize("case", ONLINE_NETWORKS, ids=label)


@functools.lru_cache(maxsize=len(ONLINE_NETWORKS))
def _build(name, arguments):
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **json.loads(arguments))
    return awake(network).eval()


def build(case):
    """The detector, one for all the tests of a case; nobody changes it."""
    return _build(case[0], json.dumps(case[1]))


@torch.no_grad()
def awake(network):
    """Maps that neither vanish nor explode, biases that are not zero and gains that are not one: nothing can hide."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=(1.6 / fan_in) ** 0.5)
        else:
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def tokens(network, videos=2, length=None, seed=1):
    """Features (B, T, D); T is three times the longest memory, and a few more, unless given."""
    length = length or max(SHORTEST, 3 * (network.window or 0) + 5)
    return torch.randn(videos, length, FEATURE_DIM, generator=torch.Generator().manual_seed(seed))


def changed(features, where):
    """A copy with other tokens at ``where``; the change differs by channel, or a layer norm might take it out."""
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    copy = features.clone()
    copy[:, where] += 2 * noise[:, where]
    return copy


def run_steps(network, features, state=None):
    """The output of every step, n = T, and the last state."""
    state = network.initial_state(len(features)) if state is None else state
    outputs = []
    for feature in features.unbind(1):
        output, state = network.step(feature, state)
        outputs.append(output)
    future = None if outputs[0].future is None else torch.cat([output.future for output in outputs], 1)
    return OnlineOutput(torch.cat([output.logits for output in outputs], 1), future), state


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def assert_same_output(actual, expected):
    assert_same(actual.logits, expected.logits)
    assert (actual.future is None) == (expected.future is None)
    if expected.future is not None:
        assert_same(actual.future, expected.future)


def part(output, videos=slice(None), rows=slice(None)):
    """Some videos and rows of an output; ``future`` may be of its last rows alone."""
    future = output.future
    if future is not None:
        n = output.logits.shape[1]
        there = [row for row in (row - n + future.shape[1] for row in range(n)[rows]) if row >= 0]
        future = future[videos][:, there] if there else None
    return OnlineOutput(output.logits[videos][:, rows], future)


def newest(output, videos=slice(None)):
    return part(output, videos, slice(-1, None))


def leaves(state):
    found = []
    map_state(lambda tensor: found.append(tensor) or tensor, state)
    return found


def test_every_detector_is_listed():
    """A detector of vidact.models without a line in online_networks.py would escape every law below."""
    assert builders_of(OnlineNetwork) == {name for name, _ in ONLINE_NETWORKS}


# ------------------------------------------------------------------------------------------------ what outputs are


@EVERY
@torch.no_grad()
def test_an_output_is_as_promised(case):
    network = build(case)
    features = tokens(network)
    output = network(features)
    n = output.logits.shape[1]
    assert network.num_classes == NUM_CLASSES
    assert network.feature_dim == FEATURE_DIM
    assert output.logits.shape == (2, n, NUM_CLASSES)
    assert n == features.shape[1] if network.dense else 1 <= n <= features.shape[1]
    if network.future_offsets:
        assert list(network.future_offsets) == sorted(set(network.future_offsets))
        m = output.future.shape[1]
        assert m == n if network.dense else 1 <= m <= n
        assert output.future.shape == (2, m, len(network.future_offsets), NUM_CLASSES)
        apart = output.future[..., 0, :] - output.future[..., -1, :]
        assert len(network.future_offsets) == 1 or apart.abs().max() > 0.01
    else:
        assert output.future is None
    assert output.logits.isfinite().all()
    assert output.losses == {}
    answer, _ = network.step(features[:, 0], network.initial_state(2))
    assert answer.logits.shape == (2, 1, NUM_CLASSES)


# ------------------------------------------------------------------------------------------------ law 1


@EVERY
@torch.no_grad()
def test_step_equals_forward(case):
    """At every token, from the first one to long after the longest memory is full."""
    network = build(case)
    features = tokens(network)
    steps, _ = run_steps(network, features)
    assert (steps.logits[:, 0] - steps.logits[:, -1]).abs().max() > 0.01  # or the comparison would prove nothing
    for t in range(features.shape[1]):
        assert_same_output(part(steps, rows=slice(t, t + 1)), newest(network(features[:, : t + 1])))


@EVERY
@torch.no_grad()
def test_scan_equals_the_steps(case):
    """An answer that comes ``delay`` tokens late stands at its token; the last ones come when the stream ends."""
    network = build(case)
    features = tokens(network)
    steps, state = run_steps(network, features)
    rest = network.flush(state)
    assert rest.logits.shape == (2, network.delay, NUM_CLASSES)
    future = None if steps.future is None else torch.cat([steps.future[:, network.delay :], rest.future], 1)
    expected = OnlineOutput(torch.cat([steps.logits[:, network.delay :], rest.logits], 1), future)
    assert_same_output(network.scan(features), expected)


@EVERY
@torch.no_grad()
def test_videos_of_other_lengths_are_scanned_as_if_alone(case):
    """What fills a batch after the end of a video changes none of its answers, not even those of its last tokens."""
    network = build(case)
    features = tokens(network, videos=3)
    lengths = [features.shape[1], 1 + network.delay, 1]
    output = network.scan(features, torch.tensor(lengths))
    for b, length in enumerate(lengths):
        alone = network.scan(features[b : b + 1, :length])
        assert alone.logits.shape[1] == length
        assert_same_output(part(output, slice(b, b + 1), slice(0, length)), alone)


@EVERY
@torch.no_grad()
def test_what_fills_the_batch_before_the_start_changes_nothing(case):
    """A video that begins at ``start`` is answered as if it stood alone, though it reaches less far back."""
    network = build(case)
    features = tokens(network, videos=3)
    length = features.shape[1]
    for start in ([0, 3, length // 2], [length - 1, length - 2, 1]):
        padded = torch.stack(
            [torch.cat([video[s : s + 1].expand(s, -1), video[s:]]) for s, video in zip(start, features, strict=True)]
        )
        output = network(padded, start=torch.tensor(start))
        for b, s in enumerate(start):
            alone = network(features[b : b + 1, s:])
            rows = slice(s, None) if network.dense else slice(-1, None)
            assert_same_output(part(output, slice(b, b + 1), rows), alone if network.dense else newest(alone))


@EVERY
@torch.no_grad()
def test_the_window_is_what_matters(case):
    """What is older than ``window`` tokens changes nothing; the oldest of the window does something."""
    network = build(case)
    if network.window is None:
        pytest.skip("the whole past matters")
    features = tokens(network)
    before = newest(network(features))
    older = changed(features, slice(None, -network.window))
    assert_same_output(newest(network(older)), before)
    assert_same_output(newest(run_steps(network, older)[0]), before)
    oldest = changed(features, -network.window)
    assert (network(oldest).logits[:, -1] - before.logits[:, -1]).abs().max() > 1e-5


@EVERY
@torch.no_grad()
def test_the_past_matters(case):
    """A detector that forgot everything would keep every other law."""
    network = build(case)
    features = tokens(network)
    earlier = changed(features, -3)
    assert (network(earlier).logits[:, -1] - network(features).logits[:, -1]).abs().max() > 1e-4


# ------------------------------------------------------------------------------------------------ law 2


@EVERY
@torch.no_grad()
def test_a_later_token_changes_no_earlier_output(case):
    network = build(case)
    features = tokens(network)
    length = features.shape[1]
    before, steps = network(features), run_steps(network, features)[0]
    first = length - before.logits.shape[1]  # the token of the first answered row
    for t in {length - 1, length - 2, length // 2, 1}:
        later = changed(features, slice(t, None))
        after, after_steps = network(later), run_steps(network, later)[0]
        kept = slice(0, max(0, t - first))
        if kept.stop:
            assert_same_output(part(after, rows=kept), part(before, rows=kept))
        assert_same_output(part(after_steps, rows=slice(0, t)), part(steps, rows=slice(0, t)))
        answered = max(t, network.delay)  # earlier steps have no answer yet
        assert (after_steps.logits[:, answered] - steps.logits[:, answered]).abs().max() > 0.001


@EVERY
@torch.no_grad()
def test_batch_mates_change_nothing(case):
    network = build(case)
    features = tokens(network, videos=3)
    others = tokens(network, videos=3, seed=2)
    others[1] = features[1]
    one = slice(1, 2)
    alone = network(features[one])
    assert_same_output(part(network(features), one), alone)
    assert_same_output(part(network(others), one), alone)
    steps = run_steps(network, features[one])[0]
    assert_same_output(part(run_steps(network, features)[0], one), steps)
    assert_same_output(part(run_steps(network, others)[0], one), steps)


# ------------------------------------------------------------------------------------------------ streams


@EVERY
@torch.no_grad()
def test_streams_of_one_batch_begin_anew_on_their_own(case):
    """Three streams reset at different times say what each stretch would say alone."""
    network = build(case)
    features = tokens(network, videos=3)
    length = features.shape[1]
    resets = [[], [1, length // 2], [length // 3, length // 3 + 1, length - 2]]
    state, outputs = network.initial_state(3), []
    for t in range(length):
        which = torch.tensor([t in times for times in resets])
        if which.any():
            state = network.reset(state, which)
        output, state = network.step(features[:, t], state)
        outputs.append(output.logits)
    together = torch.cat(outputs, 1)
    for b, times in enumerate(resets):
        edges = [0, *times, length]
        for begin, end in itertools.pairwise(edges):
            alone, _ = run_steps(network, features[b : b + 1, begin:end])
            assert_same(together[b : b + 1, begin:end], alone.logits)


@EVERY
@torch.no_grad()
def test_streams_join_leave_and_change_places(case):
    network = build(case)
    features = tokens(network, videos=3)
    length = features.shape[1]
    whole, _ = run_steps(network, features)

    # Streams 0 and 1 have run for some time when stream 2, at another moment, joins them.
    two, state = run_steps(network, features[:2, : length // 2])
    one, late = run_steps(network, features[2:, :3])
    assert_same_output(two, part(whole, slice(0, 2), slice(0, length // 2)))
    state = stack_states([state, late])
    coming = torch.stack([features[0, length // 2], features[1, length // 2], features[2, 3]])
    output, state = network.step(coming, state)
    assert_same(output.logits[:2, 0], whole.logits[:2, length // 2])
    assert_same(output.logits[2, 0], whole.logits[2, 3])

    # Stream 1 leaves, the others change places.
    state = select_streams(state, torch.tensor([2, 0]))
    output, _ = network.step(torch.stack([features[2, 4], features[0, length // 2 + 1]]), state)
    assert_same(output.logits[0, 0], whole.logits[2, 4])
    assert_same(output.logits[1, 0], whole.logits[0, length // 2 + 1])
    assert_same(one.logits, whole.logits[2:, :3])


@EVERY
@torch.no_grad()
def test_a_step_leaves_the_state_it_was_given(case):
    """At the first token, in the middle, and when the memory is full; the stream is every tensor's first axis."""
    network = build(case)
    features = tokens(network, videos=3)
    state = network.initial_state(3)
    for t in range(features.shape[1]):
        copy = map_state(torch.clone, state)
        once, after = network.step(features[:, t], state)
        again, after_again = network.step(features[:, t], state)
        for old, saved in zip(leaves(state), leaves(copy), strict=True):
            assert torch.equal(old, saved)
            assert old.shape[0] == 3
        for left, right in zip(leaves(after), leaves(after_again), strict=True):
            assert torch.equal(left, right)
        assert torch.equal(once.logits, again.logits)
        shapes = [(tensor.shape, tensor.dtype) for tensor in leaves(state)]
        assert [(tensor.shape, tensor.dtype) for tensor in leaves(after)] == shapes  # memory does not grow
        state = after


@EVERY
@torch.no_grad()
def test_a_state_can_be_stored(case, tmp_path):
    network = build(case)
    features = tokens(network)
    _, state = run_steps(network, features[:, :7])
    torch.save(state, tmp_path / "state.pt")
    restored = torch.load(tmp_path / "state.pt", weights_only=True)
    assert_same_output(network.step(features[:, 7], restored)[0], network.step(features[:, 7], state)[0])


@EVERY
@torch.no_grad()
def test_double_precision(case):
    """A state takes its type from the weights, and the law does not hang on rounding."""
    torch.manual_seed(0)
    network = getattr(vidact.models, case[0])(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **case[1])
    network = awake(network).double().eval()
    features = tokens(network).double()
    steps, state = run_steps(network, features)
    assert steps.logits.dtype == torch.float64
    assert {tensor.dtype for tensor in leaves(state)} <= {torch.float64, torch.int64, torch.bool}
    torch.testing.assert_close(steps.logits[:, -1], network(features).logits[:, -1], rtol=0, atol=1e-11)


@EVERY
@pytest.mark.gpu
@torch.no_grad()
def test_steps_on_a_gpu(case):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    network = getattr(vidact.models, case[0])(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **case[1])
    network = awake(network).double().eval()  # double: TF32 must not decide
    features = tokens(network).double()
    expected = run_steps(network, features)[0].logits
    network, features = network.cuda(), features.cuda()
    steps, state = run_steps(network, features)
    assert {tensor.device.type for tensor in leaves(state)} == {"cuda"}
    assert_same(steps.logits.cpu(), expected)
    assert_same_output(newest(steps), newest(network(features, start=torch.zeros(2, dtype=torch.int64, device="cuda"))))
    network.reset(state, torch.tensor([True, False]))


# ------------------------------------------------------------------------------------------------ training and files


@EVERY
def test_every_parameter_learns(case):
    torch.manual_seed(0)
    network = getattr(vidact.models, case[0])(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **case[1])
    network = awake(network).train()
    features = tokens(network, videos=4)
    extra = {}
    if network.has_own_losses:
        targets = nn.functional.one_hot(torch.arange(features.shape[1]) % NUM_CLASSES, NUM_CLASSES).float()
        extra = {"targets": targets.expand(4, -1, -1), "ignore": torch.zeros(features.shape[:2], dtype=torch.bool)}
    output = network(features, start=torch.tensor([0, 0, 2, 5]), **extra)
    assert bool(output.losses) == network.has_own_losses
    loss = output.logits.square().sum() + sum(output.losses.values())
    if output.future is not None:
        loss = loss + output.future.square().sum()
    loss.backward()
    dead = DEAD_WEIGHTS.get(type(network).__name__)
    for name, parameter in network.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert learns != bool(dead and re.search(dead, name)), name


@EVERY
@torch.no_grad()
def test_dropout_is_for_training_only(case):
    network = build(case)
    features = tokens(network)
    assert torch.equal(network(features).logits, network(features).logits)


@EVERY
def test_other_features_are_refused_in_words(case):
    network = build(case)
    words = rf"{FEATURE_DIM + 1} values a token.*built for {FEATURE_DIM}.*another backbone"
    wide = torch.zeros(1, 4, FEATURE_DIM + 1)
    for ask in (network, network.scan):
        with pytest.raises(ValueError, match=words):
            ask(wide)
        with pytest.raises(ValueError, match="given no token"):
            ask(torch.zeros(1, 0, FEATURE_DIM))
    with pytest.raises(ValueError, match=words):
        network.step(wide[:, 0], network.initial_state(1))


@EVERY
@torch.no_grad()
def test_a_file_says_the_same(case, tmp_path):
    """Saved and opened again: the recipe, the logits and the steps."""
    network = build(case)
    features = tokens(network)
    opened = load(save(network, tmp_path / "detector.safetensors"))
    assert opened.recipe == network.recipe
    assert opened.recipe["builder"] == f"vidact.models.{case[0]}"
    assert (opened.window, opened.future_offsets) == (network.window, network.future_offsets)
    assert_same_output(opened(features), network(features))
    assert_same_output(run_steps(opened, features)[0], run_steps(network, features)[0])
