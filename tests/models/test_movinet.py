"""MoViNet: its published sizes, its padding and pooling, its layout, and the state of a stream."""

import pytest
import torch
import torch.nn.functional as F
from support.published import movinet_tensors
from torch import nn

import vidact.models
from vidact.convert import convert
from vidact.models import movinet_a0_base, movinet_a0_stream, movinet_tiny_base, movinet_tiny_stream
from vidact.models.movinet import (
    SIZES,
    CausalMoViNet,
    SameConv2d,
    from_movinet,
    hard_sigmoid,
    make_divisible,
    pool,
    running_mean,
)
from vidact.models.weights import load

# With 600 classes; the first numbers are the base networks', the last three the stream networks'.
PARAMETERS = {
    "movinet_a0_base": 3_111_799,
    "movinet_a1_base": 4_690_296,
    "movinet_a2_base": 5_249_562,
    "movinet_a3_base": 7_397_545,
    "movinet_a4_base": 11_349_463,
    "movinet_a5_base": 18_650_523,
    "movinet_a0_stream": 3_748_031,
    "movinet_a1_stream": 6_447_352,
    "movinet_a2_stream": 7_326_962,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    with torch.device("meta"):
        network = getattr(vidact.models, name)(num_classes=600)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_pictures_are_the_published_ones():
    """Side and frames a second; RGB from 0 to 1 without a mean."""
    sides = {name: (size.side, size.fps) for name, size in SIZES.items()}
    assert sides["a0"] == sides["a1"] == (172, 5)
    assert [sides[name] for name in ("a2", "a3", "a4", "a5")] == [(224, 5), (256, 12), (290, 8), (320, 12)]
    expected = movinet_a0_stream(3).input
    assert (expected.mean, expected.std, expected.scale, expected.order) == ((0.0,), (1.0,), 1.0, "rgb")
    assert (expected.size, expected.fps) == (172, 5)


def test_a_new_network_is_its_residuals():
    """Alpha is 0 at the start, so the convolutions of a block whose shape stays change nothing."""
    network = movinet_tiny_base(3)
    block = network.blocks[0][1]
    maps = torch.randn(1, 8, 4, 6, 6)
    assert torch.equal(block(maps), maps)
    nn.init.ones_(block.alpha)
    assert not torch.equal(block(maps), maps)


# ---------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("height", [4, 5, 9, 12])
@pytest.mark.parametrize("width", [4, 7])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_tensorflows(height, width, kernel, stride):
    """Total padding such that the result has ceil(side / stride) places, the smaller half before."""
    layer = SameConv2d(2, 3, (kernel, kernel), stride, groups=1)
    images = torch.randn(1, 2, height, width)
    pads = []
    for side in (width, height):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(images, pads), layer.weight, stride=stride)
    assert expected.shape[2:] == (-(-height // stride), -(-width // stride))
    torch.testing.assert_close(layer(images), expected)


@pytest.mark.parametrize("sides", [(4, 4), (5, 5), (7, 6), (2, 1), (1, 3)])
def test_pooling_is_the_mean_of_the_places_inside(sides):
    """Against loops; even sides begin at the first place, odd sides one place before it."""
    images = torch.randn(2, 3, *sides)
    height, width = sides
    expected = torch.empty(2, 3, -(-height // 2), -(-width // 2))
    for i in range(expected.shape[2]):
        for j in range(expected.shape[3]):
            top, left = 2 * i - height % 2, 2 * j - width % 2
            window = images[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3]
            expected[:, :, i, j] = window.mean((2, 3))
    torch.testing.assert_close(pool(images), expected)
    torch.testing.assert_close(pool(images.unsqueeze(2)), expected.unsqueeze(2))


def test_published_pooling_of_even_sides_is_the_same_rule():
    """Pad right and below by one, and multiply what the padding took part in by 9/6, column and row."""
    images = torch.randn(1, 2, 8, 8)
    expected = F.avg_pool2d(F.pad(images, (0, 1, 0, 1)), 3, 2)
    expected[..., -1] *= 9 / 6
    expected[..., -1, :] *= 9 / 6
    torch.testing.assert_close(pool(images), expected)


def test_widths_of_gates():
    assert [make_divisible(value) for value in (1, 6, 11, 12, 20, 27, 28, 96)] == [8, 8, 16, 16, 24, 32, 32, 96]
    assert make_divisible(37) == 40
    assert make_divisible(10) == 16  # 8 would be less than 0.9 of it


def test_the_hard_sigmoid_is_not_pytorchs():
    values = torch.tensor([-3.0, -2.5, 0.0, 1.0, 2.5, 4.0])
    torch.testing.assert_close(hard_sigmoid(values), torch.tensor([0.0, 0.0, 0.5, 0.7, 1.0, 1.0]))


def test_running_means_continue():
    values = torch.randn(2, 9, 4)
    whole = running_mean(values, torch.zeros(2, 4), torch.zeros(2, 1))
    torch.testing.assert_close(whole, values.cumsum(1) / torch.arange(1, 10).view(-1, 1))
    first = running_mean(values[:, :5], torch.zeros(2, 4), torch.zeros(2, 1))
    second = running_mean(values[:, 5:], first[:, -1], torch.full((2, 1), 5.0))
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_means_keep_their_digits_over_days():
    """A sum over a week at 5 frames a second would have lost the newest frames; the mean does not leave its value."""
    frames = torch.full((1, 1), 7 * 24 * 3600 * 5.0)
    mean = torch.full((1, 1), 0.3)
    for _ in range(1000):
        mean = running_mean(torch.full((1, 1, 1), 0.3), mean, frames)[:, -1]
        frames += 1
    assert float(mean) == pytest.approx(0.3, abs=1e-7)


# ---------------------------------------------------------------------------------------------- pictures and state


@pytest.mark.parametrize("size", [(32, 48), (45, 37), (46, 64)])
@pytest.mark.parametrize("build", [movinet_tiny_base, movinet_tiny_stream])
def test_pictures_need_not_be_square(build, size):
    """A turned picture gives the answer of turned kernels."""
    torch.manual_seed(0)
    network = build(3).eval().double()
    for name, parameter in network.named_parameters():
        if name.endswith(".alpha"):
            nn.init.ones_(parameter)
    clip = torch.rand(1, 4, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = network(clip)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 3 and ".time." not in name:
                parameter.copy_(parameter.transpose(-1, -2).clone())
        torch.testing.assert_close(network(clip.transpose(-1, -2)), expected)
        if isinstance(network, CausalMoViNet):
            state = network.initial_state(1, (size[1], size[0]))
            for frame in clip.transpose(-1, -2).unbind(1):
                logits, state = network.step(frame, state)
            torch.testing.assert_close(logits, expected)


def test_the_state_of_a_stream_is_zeros_of_the_frames_size():
    network = movinet_tiny_stream(3)
    state = network.initial_state(2)
    assert [tuple(maps.shape) for maps in state["past"]] == [(2, 8, 2, 16, 16), (2, 24, 4, 8, 8), (2, 32, 2, 8, 8)]
    assert [tuple(mean.shape) for mean in state["means"]] == [(2, c) for c in (16, 8, 24, 32, 32, 32)]
    assert state["frames"].shape == (2, 1)
    with pytest.raises(ValueError, match="call initial_state with the batch size and the image size"):
        network.step(torch.zeros(2, 3, 32, 32), state)
    with pytest.raises(ValueError, match="is of 2 streams and there are frames of 1; call initial_state"):
        network.step(torch.zeros(1, 3, 64, 64), state)
    with pytest.raises(ValueError, match="C = 3"):
        network.step(torch.zeros(2, 4, 64, 64), state)


def test_a_base_network_cannot_step():
    assert not hasattr(movinet_a0_base(3), "step")


def test_gradients_go_through_the_steps():
    """A loss on steps trains as the same loss on the clip."""
    torch.manual_seed(0)
    network = movinet_tiny_stream(3, size=32).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(".alpha"):
            nn.init.ones_(parameter)
    clip = torch.rand(2, 4, 3, 32, 32)
    network(clip).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    state = network.initial_state(2)
    for frame in clip.unbind(1):
        logits, state = network.step(frame, state)
    logits.square().sum().backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert gradient.any()
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_gradients_can_be_differentiated():
    """Nothing is edited in place; a second derivative exists."""
    network = movinet_tiny_base(3, size=32).eval()
    clip = torch.rand(1, 4, 3, 32, 32, requires_grad=True)
    (first,) = torch.autograd.grad(network(clip).square().sum(), clip, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), clip)
    assert second.isfinite().all()
    assert second.any()


# ---------------------------------------------------------------------------------------------- published files


LARGE = ("a3_base", "a4_base", "a5_base")  # seconds each; their layout is that of the small ones


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LARGE else ())
        for name in (name.removeprefix("movinet_") for name in PARAMETERS)
    ],
)
def test_every_published_layout_is_read(name):
    """The names of A3 and A5 have a residual whose width changes and whose picture does not: ``res.0``."""
    size, kind = name.split("_")
    torch.manual_seed(0)
    network = getattr(vidact.models, f"movinet_{name}")(num_classes=4)
    tensors = movinet_tensors(network, stream=kind == "stream")
    assert ("blocks.b3_l0.res.0.conv_1.conv3d.weight" in tensors) == (name in ("a3_base", "a5_base"))
    made = from_movinet(tensors, 4, size, kind == "stream")
    assert made.recipe["builder"] == f"vidact.models.movinet_{name}"
    for key, value in made.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


@pytest.mark.parametrize(("size", "stream"), [("a0", True), ("a1", False)])
def test_a_published_file_says_which_network_it_is(size, stream, tmp_path):
    builder = getattr(vidact.models, f"movinet_{size}_{'stream' if stream else 'base'}")
    torch.manual_seed(0)
    network = builder(num_classes=4).eval()
    torch.save(movinet_tensors(network, stream), tmp_path / "published.pth")
    convert("movinet", tmp_path / "published.pth", tmp_path / "network.safetensors", list("abcd"))
    opened = load(tmp_path / "network.safetensors")
    assert opened.recipe["builder"] == network.recipe["builder"]
    assert opened.input == network.input
    assert opened.record["sampling"] == {"name": "UniformSampler", "arguments": {"num_frames": 50}}
    clip = torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(opened(clip), network(clip))


def test_weights_of_a_published_file_start_a_network(tmp_path):
    torch.manual_seed(0)
    source = movinet_a0_stream(4)
    torch.save(movinet_tensors(source, stream=True), tmp_path / "published.pth")
    same = movinet_a0_stream(4, weights=str(tmp_path / "published.pth"))
    assert torch.equal(same.fc.weight, source.fc.weight)
    other = movinet_a0_stream(7, weights=str(tmp_path / "published.pth"))
    assert other.fc.weight.shape == (7, 2048)
    assert torch.equal(other.conv7.conv.weight, source.conv7.conv.weight)
    with pytest.raises(ValueError, match="does not fit MoViNet"):
        movinet_a0_base(4, weights=str(tmp_path / "published.pth"))
    with pytest.raises(FileNotFoundError, match="neither a file nor a published name"):
        movinet_a0_stream(4, weights="kinetics700")


def test_a_size_that_was_not_published_is_refused():
    with pytest.raises(ValueError, match=r"size 'a3' with stream True is no published MoViNet; there are a0_base"):
        from_movinet({}, 4, "a3", True)
