"""TIN: the fractional shift against its definition, start values, and names and sizes as published."""

import math

import pytest
import torch
from support.published import assert_same_under, giga_macs, millions
from torch import nn

from vidact.models import tin_resnet50, tin_resnet_tiny
from vidact.models.tin import Interlace, fractional_shift
from vidact.models.weights import from_reference


def test_parameters_in_millions():
    assert millions("tin_resnet50", 174) == 23.896


def test_multiply_adds():
    assert giga_macs("tin_resnet50", 174) == pytest.approx(32.70, rel=0.005)


@pytest.mark.parametrize("offset", [-1.9, -1.0, -0.3, 0.0, 0.25, 1.0, 1.5])
def test_fractional_shift_is_its_definition(offset):
    """out[t] = (1 - phi) in[t - floor(o)] + phi in[t - floor(o) - 1], zeros outside the clip."""
    groups = torch.randn(1, 6, 1, 2, 1, 1)
    moved = fractional_shift(groups, torch.tensor([[offset]]))
    whole = math.floor(offset)
    phi = offset - whole

    def at(t):
        return groups[0, t] if 0 <= t < 6 else torch.zeros_like(groups[0, 0])

    for t in range(6):
        torch.testing.assert_close(moved[0, t], (1 - phi) * at(t - whole) + phi * at(t - whole - 1))


def test_offsets_of_one_frame_are_the_shift():
    """Whole offsets give TSM's rows: a positive one delays."""
    clip = torch.arange(1.0, 5.0).view(1, 4, 1, 1, 1, 1).expand(1, 4, 2, 1, 1, 1)
    moved = fractional_shift(clip, torch.tensor([[1.0, -1.0]]))[0, :, :, 0, 0, 0].T.tolist()
    assert moved == [[0, 1, 2, 3], [2, 3, 4, 0]]


def test_a_gradient_moves_the_offsets():
    offsets = torch.tensor([[0.5]], requires_grad=True)
    clip = torch.arange(1.0, 5.0).view(1, 4, 1, 1, 1, 1)
    fractional_shift(clip, offsets)[0, 2].sum().backward()
    assert offsets.grad.item() == pytest.approx(-1.0)  # frame 2 slides from 3 towards 2


def test_the_module_is_the_written_formula():
    """Groups move by (o0, o1, -o0, -o1) and are weighted by (w0, w1, w0, w1); three quarters of the channels stay."""
    torch.manual_seed(0)
    module = Interlace(32, num_segments=5).eval()
    nn.init.normal_(module.weight.lastlayer.weight)
    images = torch.randn(2 * 5, 32, 3, 3)
    clip = images.unflatten(0, (2, 5))
    moved = module(images, 5).unflatten(0, (2, 5))
    assert torch.equal(moved[:, :, 8:], clip[:, :, 8:])
    means = clip[:, :, :8].mean(dim=(3, 4)).transpose(1, 2)
    (o0, o1), (w0, w1) = module.offset(means).unbind(1), module.weight(means).unbind(1)
    for group, (offset, weight) in enumerate([(o0, w0), (o1, w1), (-o0, w0), (-o1, w1)]):
        channels = slice(2 * group, 2 * group + 2)
        alone = fractional_shift(clip[:, :, channels].unsqueeze(2), offset[:, None])[:, :, 0]
        torch.testing.assert_close(moved[:, :, channels], alone * weight[..., None, None, None])


def test_start_values():
    """Offsets start near half a frame, weights at one."""
    module = Interlace(64, num_segments=8)
    offsets = module.offset(torch.zeros(1, 16, 8) + 1e-3)
    assert ((offsets > -2) & (offsets < 2)).all()
    nn.init.zeros_(module.offset.lastlayer.weight)
    torch.testing.assert_close(module.offset(torch.randn(1, 16, 8)), torch.full((1, 2), 0.5), rtol=0, atol=1e-4)
    assert torch.equal(module.weight(torch.randn(1, 16, 8)), torch.ones(1, 2, 8))


def published(network, offset, weight, prefix, conv):
    names = {}
    for key, value in network.state_dict().items():
        name = key.removeprefix("backbone.")
        if ".temporal." in name:
            for ours, theirs in {**offset, **weight}.items():
                name = name.replace(f".temporal.{ours}.", f".conv1{conv}.net1.{theirs}.")
        elif name.startswith("layer"):
            name = name.replace(".conv1.", f".conv1{conv}.net2.")
        names[f"{prefix}{name}"] = value
    return names


def test_whole_files():
    network = tin_resnet50(7, weights=None)
    offset = {f"offset.{part}": f"biasnet.net.{part}" for part in ("conv", "fc", "lastlayer")}
    names = published(network, offset, {"weight.lastlayer": "weightnet.net.lastlayer"}, "module.base_model.", "")
    names = {key.replace("base_model.fc.", "new_fc."): value for key, value in names.items()}
    assert "module.base_model.layer1.0.conv1.net1.biasnet.net.fc.weight" in names
    assert_same_under("tin", network, names, num_segments=8)


def test_mmaction2_files():
    network = tin_resnet50(7, weights=None)
    offset = {"offset.conv": "offset_net.conv", "offset.fc": "offset_net.fc1", "offset.lastlayer": "offset_net.fc2"}
    names = published(network, offset, {"weight.lastlayer": "weight_net.conv"}, "backbone.", ".conv")
    for ours, theirs in [
        (r"backbone.fc.", "cls_head.fc_cls."),
        (".downsample.0.", ".downsample.conv."),
        (".downsample.1.", ".downsample.bn."),
        (".bn1.", ".conv1.bn."),
        (".bn2.", ".conv2.bn."),
        (".bn3.", ".conv3.bn."),
        (".conv2.weight", ".conv2.conv.weight"),
        (".conv3.weight", ".conv3.conv.weight"),
        ("backbone.conv1.weight", "backbone.conv1.conv.weight"),
    ]:
        names = {key.replace(ours, theirs): value for key, value in names.items()}
    assert "backbone.layer1.0.conv1.conv.net2.weight" in names
    assert "backbone.layer1.0.conv1.bn.weight" in names
    assert_same_under("mmaction2_tin", network, names, num_segments=8)


def test_bad_arguments():
    with pytest.raises(ValueError, match="8 channels cannot be interlaced; it takes a multiple of 16"):
        tin_resnet_tiny(2, width=8)
    with pytest.raises(ValueError, match="the TIN layouts know resnet50"):
        from_reference("tin", {}, num_classes=2, num_segments=8, backbone="resnet18")
