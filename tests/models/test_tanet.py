"""TANet: the module against its formula, and names and sizes as published."""

import pytest
import torch
import torch.nn.functional as F
from support.published import assert_same_under, giga_macs, millions

from vidact.models import tanet_resnet18, tanet_resnet50, tanet_resnet_tiny
from vidact.models.tanet import TemporalAdaptive
from vidact.models.weights import from_reference


@pytest.mark.parametrize(("segments", "published"), [(8, 25.590), (16, 25.598)])
def test_parameters_in_millions(segments, published):
    assert millions("tanet_resnet50", 400, num_segments=segments) == published


def test_multiply_adds():
    assert giga_macs("tanet_resnet50", 400) == pytest.approx(32.76, rel=0.005)


def test_the_module_is_the_written_formula():
    """A convolution over time with a kernel of its own for every channel of every clip, on gated maps."""
    torch.manual_seed(0)
    module = TemporalAdaptive(8, num_segments=5).eval()
    images = torch.randn(2 * 5, 8, 4, 3)
    clip = images.unflatten(0, (2, 5)).transpose(1, 2)  # (B, C, T, H, W)
    means = clip.mean(dim=(3, 4))
    kernel = module.G(means.reshape(16, 5)).view(16, 1, 3, 1)
    torch.testing.assert_close(kernel.sum(2), torch.ones(16, 1, 1))
    gated = clip * module.L(means)[..., None, None]
    mixed = F.conv2d(gated.reshape(1, 16, 5, 12), kernel, padding=(1, 0), groups=16)
    expected = mixed.view(2, 8, 5, 4, 3).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(module(images, 5), expected)


def test_made_for_one_length():
    network = tanet_resnet_tiny(2, num_segments=4, size=32).eval()
    assert network.input.frames == 4
    with pytest.raises(ValueError, match="the clip has 8 frames; the weights of this network are made for 4"):
        network(torch.randn(1, 8, 3, 32, 32))


def published(network, branches):
    names = {}
    for key, value in network.state_dict().items():
        name = key.removeprefix("backbone.")
        if name.startswith("fc."):
            name = f"new_{name}"
        elif ".temporal." in name:
            name = "base_model." + name.replace(".temporal.G.", branches[0]).replace(".temporal.L.", branches[1])
        elif name.startswith("layer"):
            layer, block, rest = name.split(".", 2)
            name = f"base_model.{layer}.{block}.net.{rest}"
        else:
            name = f"base_model.{name}"
        names[f"module.{name}"] = value
    return names


@pytest.mark.parametrize("branches", [(".tam.G.", ".tam.L."), (".self_conv.conv_f.", ".self_conv.conv_g.")])
def test_whole_files(branches):
    """Files of whole networks, and early ones with other names of the two branches."""
    network = tanet_resnet50(7, weights=None, num_segments=8)
    assert_same_under("tanet", network, published(network, branches), num_segments=8)


def test_other_sizes_are_refused():
    network = tanet_resnet18(7, weights=None)
    with pytest.raises(ValueError, match="backbone is 'resnet18'; the TANet layouts know resnet50"):
        from_reference("tanet", network.state_dict(), num_classes=7, num_segments=8, backbone="resnet18")
    names = published(tanet_resnet50(7, weights=None, num_segments=16), (".tam.G.", ".tam.L."))
    with pytest.raises(ValueError, match=r"of the wrong shape: module\.base_model\.layer1\.0\.tam\.G\.0\.weight"):
        from_reference("tanet", names, num_classes=7, num_segments=8)
