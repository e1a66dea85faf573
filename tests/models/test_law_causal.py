"""Laws 1 and 2 for clip networks: a causal network's step equals its forward, and it never looks ahead."""

import functools

import pytest
import torch
from torch import nn

import vidact.models
from vidact.models import tsm_mobilenet_v2, tsm_resnet_tiny, tsn_resnet_tiny
from vidact.models.clip_network import SteppingVectorNetwork
from vidact.models.online import map_state, select_streams, stack_states
from vidact.models.tsm import causal_shift

SIZE = 32
STEPPING = [
    ("tsn_resnet_tiny", {}),
    ("tsm_resnet_tiny", {"shift": "causal"}),
    ("tsm_mobilenet_v2", {"shift": "causal"}),
    ("movinet_tiny_stream", {}),
]
LARGE_STEPPING = [
    ("tsm_resnet18", {"shift": "causal"}),
    ("tsm_resnet50", {"shift": "causal"}),
    ("tsm_mobilenet_v3_small", {"shift": "causal"}),
    ("tsm_efficientnet_b0", {"shift": "causal"}),
    ("movinet_a0_stream", {}),
]
EVERY = pytest.mark.parametrize(
    "case",
    [*STEPPING, *(pytest.param(case, marks=pytest.mark.slow) for case in LARGE_STEPPING)],
    ids=lambda case: case[0],
)


def awake(network):
    """Batch norm that has seen data and a classifier of ordinary size: untrained logits are too small to differ."""
    torch.manual_seed(1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    nn.init.normal_(network.fc.weight)
    for name, parameter in network.named_parameters():
        if name.endswith(".alpha"):
            nn.init.ones_(parameter)
    with torch.no_grad():
        network.train()(clips(8, 8))
    return network.eval()


def build(case):
    return _build(case[0], tuple(case[1].items()))


@functools.lru_cache(maxsize=2)
def _build(name, arguments):
    torch.manual_seed(0)
    network = awake(getattr(vidact.models, name)(num_classes=5, weights=None, size=SIZE, **dict(arguments)))
    # Convolutions sum in another order for another batch size, and deep networks with random weights magnify that.
    return network if "tiny" in name else network.double()


def clips(videos, frames, network=None):
    clip = torch.randn(videos, frames, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    return clip if network is None else clip.to(network.fc.weight.dtype)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def run_steps(network, clip, state=None):
    """Logits (B, T, K) of every step, and the last state."""
    state = network.initial_state(len(clip)) if state is None else state
    steps = []
    for frame in clip.unbind(1):
        logits, state = network.step(frame, state)
        steps.append(logits)
    return torch.stack(steps, 1), state


def tensors_of(state):
    """The tensors of a state, in the order of its tree."""
    parts = []
    map_state(lambda tensor: parts.append(tensor), state)
    return parts


def rows(state, keep):
    """The same streams, or some of them, in another order."""
    return select_streams(state, torch.tensor(keep))


@EVERY
@torch.no_grad()
def test_step_equals_forward(case):
    """Step t is what the network says of the clip up to frame t, and of the frames themselves."""
    network = build(case)
    clip = clips(2, 24 if "tiny" in case[0] else 4, network)
    steps, _ = run_steps(network, clip)
    assert steps.dtype == torch.float32
    assert (steps[:, 0] - steps[:, -1]).abs().max() > 0.01  # or the comparison would prove nothing
    for t in range(clip.shape[1]):
        assert_same(steps[:, t], network(clip[:, : t + 1]))
    frames = network.frame_logits(clip)
    if "total" in network.initial_state(1):  # the answer is the mean of what the frames alone give
        frames = frames.cumsum(1) / torch.arange(1, clip.shape[1] + 1)[:, None]
    assert_same(steps, frames)


@EVERY
@torch.no_grad()
def test_vectors_of_steps_are_those_of_the_frames(case):
    """And the vector of a clip is their mean, or the last of them, as the protocol says."""
    network = build(case)
    assert isinstance(network, SteppingVectorNetwork)
    clip = clips(2, 8 if "tiny" in case[0] else 4, network)
    state, steps = network.initial_state(2), []
    for frame in clip.unbind(1):
        vectors, state = network.step_features(frame, state)
        steps.append(vectors)
    vectors = torch.stack(steps, 1)
    assert (vectors[:, 0] - vectors[:, -1]).abs().max() > 1e-3
    assert_same(vectors, network.frame_features(clip))
    assert_same(vectors.mean(1) if "total" in network.initial_state(1) else vectors[:, -1], network.features(clip))


@torch.no_grad()
def test_one_stream_of_a_trained_network(shared_data):
    """The law in single precision at the size people use, one frame of one stream at a time."""
    weights = shared_data / "weights/mobilenet_v2_imagenet.safetensors"
    network = tsm_mobilenet_v2(10, weights=str(weights), shift="causal", size=112).eval()
    torch.manual_seed(0)
    nn.init.normal_(network.fc.weight)
    clip = torch.randn(1, 8, 3, 112, 112)
    steps, _ = run_steps(network, clip)
    assert_same(steps, network.frame_logits(clip).cumsum(1) / torch.arange(1, 9)[:, None])


@pytest.mark.parametrize(
    "case",
    [("tsm_resnet_tiny", {"shift": "causal", "width": 8}), ("movinet_tiny_stream", {})],
    ids=lambda case: case[0],
)
@torch.no_grad()
def test_a_long_stream_keeps_the_law(case):
    network = build(case)
    clip = clips(1, 300)
    steps, _ = run_steps(network, clip)
    for t in (1, 10, 100, 299):
        assert_same(steps[:, t], network(clip[:, : t + 1]))


@torch.no_grad()
def test_five_streams_that_begin_at_different_times():
    """The rows of one batch are at different frames; each gives what its stream alone gives."""
    network = build(("movinet_tiny_stream", {}))
    begins, frames = [0, 3, 4, 11, 17], 30
    clip = clips(5, frames)
    state, answers = network.initial_state(0), [[] for _ in begins]
    for t in range(frames):
        joining = begins.count(t)  # the streams begin in the order of the rows
        state = stack_states([state, network.initial_state(joining)])
        running = sum(begin <= t for begin in begins)
        logits, state = network.step(clip[:running, t], state)
        for row in range(running):
            answers[row].append(logits[row])
    assert state["frames"].flatten().tolist() == [frames - begin for begin in begins]
    for row, begin in enumerate(begins):
        assert_same(torch.stack(answers[row]), network.frame_logits(clip[row : row + 1, begin:])[0])


@EVERY
@torch.no_grad()
def test_a_later_frame_changes_no_earlier_output(case):
    network = build(case)
    clip = clips(2, 6, network)
    before = network.frame_logits(clip)
    for t in (1, 3, 5):
        later = clip.clone()
        later[:, t:] += 3
        after = network.frame_logits(later)
        assert_same(after[:, :t], before[:, :t])
        assert (after[:, t] - before[:, t]).abs().max() > 0.01


@torch.no_grad()
def test_a_bidirectional_network_breaks_the_law():
    """The test above can fail, and the popular shift "toward the future" is not what we call causal."""
    network = build(("tsm_resnet_tiny", {"shift": "bidirectional"}))
    clip = clips(1, 6)
    later = clip.clone()
    later[:, 3:] += 3
    changed = (network.frame_logits(later) - network.frame_logits(clip)).abs().amax((0, 2))
    assert changed[2] > 0.01


@torch.no_grad()
def test_an_earlier_frame_changes_later_outputs():
    """A causal network that forgot everything would keep law 2."""
    network = build(("tsm_resnet_tiny", {"shift": "causal"}))
    clip = clips(1, 6)
    earlier = clip.clone()
    earlier[:, 1] += 3
    changed = (network.frame_logits(earlier) - network.frame_logits(clip)).abs().amax((0, 2))
    assert changed[0] == 0
    assert (changed[1:6] > 1e-3).all()  # four blocks: frame t reaches t + 4


@EVERY
@torch.no_grad()
def test_batch_mates_change_nothing(case):
    network = build(case)
    clip = clips(3, 4, network)
    together, _ = run_steps(network, clip)
    alone, _ = run_steps(network, clip[1:2])
    assert_same(alone, together[1:2])
    assert_same(network.frame_logits(clip[1:2]), network.frame_logits(clip)[1:2])


@EVERY
@torch.no_grad()
def test_streams_of_one_batch_start_again_on_their_own(case):
    """A row of zeros is a new stream; rows can leave, join and change places."""
    network = build(case)
    clip = clips(2, 6, network)
    _, state = run_steps(network, clip[:, :3])
    fresh = network.initial_state(2)
    for tensor, zeros in zip(tensors_of(state), tensors_of(fresh), strict=True):
        assert tensor.shape == zeros.shape
        assert not zeros.any()
        tensor[1] = zeros[1]  # stream 1 starts again at frame 3, stream 0 goes on
    steps, state = run_steps(network, clip[:, 3:], state)
    assert_same(steps[0, -1], network(clip[:1])[0])
    assert_same(steps[1, -1], network(clip[1:, 3:])[0])

    swapped, _ = run_steps(network, clip.flip(0)[:, :2], rows(state, [1, 0]))
    straight, _ = run_steps(network, clip[:, :2], state)
    assert_same(swapped.flip(0), straight)


@EVERY
@torch.no_grad()
def test_a_step_leaves_the_state_it_was_given(case):
    network = build(case)
    _, state = run_steps(network, clips(1, 2, network))
    copies = [tensor.clone() for tensor in tensors_of(state)]
    frame = clips(1, 1, network)[:, 0]
    first, _ = network.step(frame, state)
    again, _ = network.step(frame, state)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(state), copies, strict=True))


def test_state_of_the_published_online_network():
    """Its ten buffers at 224 pixels, as the reference's demo lists them."""
    network = tsm_mobilenet_v2(27, weights=None, shift="causal")
    before = {name: buffer.clone() for name, buffer in network.train().named_buffers()}
    state = network.initial_state(batch_size=2)
    shapes = [(3, 56), *[(4, 28)] * 2, *[(8, 14)] * 3, *[(12, 14)] * 2, *[(20, 7)] * 2]
    assert [tuple(maps.shape) for maps in state["past"]] == [(2, c, side, side) for c, side in shapes]
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    wide = network.initial_state(batch_size=1, size=(64, 128))
    assert wide["past"][0].shape == (1, 3, 16, 32)


@pytest.mark.parametrize(
    "case", [("tsm_resnet_tiny", {"shift": "causal"}), ("movinet_tiny_stream", {})], ids=lambda case: case[0]
)
def test_the_state_holds_little_memory(case):
    """A slice of a feature map would keep all of the map."""
    network = build(case)
    _, state = network.step(clips(1, 1)[:, 0], network.initial_state(1))
    for tensor in tensors_of(state):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4


def test_steps_are_refused_in_words():
    both_ways = tsm_resnet_tiny(num_classes=3)
    with pytest.raises(ValueError, match=r"bidirectional.*shift='causal'"):
        both_ways.initial_state(1)
    with pytest.raises(ValueError, match=r"bidirectional.*shift='causal'"):
        both_ways.step(torch.zeros(1, 3, 64, 64), {})
    causal = tsm_resnet_tiny(num_classes=3, shift="causal")
    with pytest.raises(ValueError, match="call initial_state with the batch size and the image size"):
        causal.step(torch.zeros(1, 3, 32, 32), causal.initial_state(1))
    with pytest.raises(ValueError, match="call initial_state with the batch size"):
        causal.step(torch.zeros(1, 3, 64, 64), causal.initial_state(2))
    with pytest.raises(ValueError, match="C = 3"):
        causal.step(torch.zeros(1, 10, 64, 64), causal.initial_state(1))
    assert tsn_resnet_tiny(num_classes=3).step(torch.zeros(1, 3, 64, 64), tsn_resnet_tiny(3).initial_state(1))


def test_clips_may_follow_each_other():
    """Causal shift of two halves is the shift of the whole."""
    images = torch.randn(2 * 6, 16, 2, 2)
    whole, last = causal_shift(images, frames=6)
    clip = images.unflatten(0, (2, 6))
    first, past = causal_shift(clip[:, :2].flatten(0, 1), frames=2)
    second, end = causal_shift(clip[:, 2:].flatten(0, 1), frames=4, past=past)
    joined = torch.cat([first.unflatten(0, (2, 2)), second.unflatten(0, (2, 4))], dim=1)
    assert torch.equal(joined.flatten(0, 1), whole)
    assert torch.equal(end, last)


def test_a_causal_network_trains():
    """Every parameter gets a gradient, from a clip and through steps alike."""
    network = tsm_resnet_tiny(num_classes=3, shift="causal", size=SIZE)
    target = torch.tensor([0, 1])
    nn.functional.cross_entropy(network.eval()(clips(2, 3)), target).backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    steps, _ = run_steps(network, clips(2, 3))
    nn.functional.cross_entropy(steps[:, -1], target).backward()
    for parameter, expected in zip(network.parameters(), gradients, strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6)
