"""TDN: the differences and the gate against their formulas, and names and sizes as published."""

import pytest
import torch
import torch.nn.functional as F
from support.published import assert_same_under, empty, giga_macs, millions
from torch import nn

from vidact.models import tdn_mobilenet_v2, tdn_resnet50, tdn_resnet_tiny
from vidact.models.tdn import MultiScaleGate, stages_of
from vidact.models.weights import from_reference

UNUSED = 64 * 3 * 7 * 7 + 64  # `conv1_temp`, which the published network declares and never calls


@pytest.mark.parametrize(("name", "published"), [("tdn_resnet50", 24.883), ("tdn_resnet101", 44.145)])
def test_parameters_in_millions(name, published):
    network = empty(name, 400)
    assert round((sum(parameter.numel() for parameter in network.parameters()) + UNUSED) / 1e6, 3) == published
    assert millions(name, 400) == pytest.approx(published - UNUSED / 1e6, abs=0.0006)


def test_multiply_adds():
    assert giga_macs("tdn_resnet50", 400) == pytest.approx(35.64, rel=0.005)


def test_input_is_five_images():
    network = tdn_resnet_tiny(2, size=32).eval()
    assert (network.input.channels, network.input.images_per_frame) == (15, 5)
    assert len(network.input.mean) == 3
    with pytest.raises(ValueError, match="C = 15"):
        network(torch.randn(1, 4, 3, 32, 32))


def test_a_still_segment_has_no_differences():
    """Five equal frames: the differences' stem sees zeros, and which frame is the middle one does not matter."""
    torch.manual_seed(0)
    network = tdn_resnet_tiny(2, size=32).eval()
    seen = []
    network.motion_stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    image = torch.randn(1, 4, 3, 32, 32)
    still = image.repeat(1, 1, 5, 1, 1)
    with torch.no_grad():
        logits = network(still)
        assert not seen.pop().any()
        moving = still.clone()
        moving[:, :, :3] += 1  # the first of the five is in one difference, and no image
        changed = network(moving)
        assert seen[0].shape == (4, 12, 16, 16)
        assert seen[0][:, :3].allclose(torch.tensor(-1.0))
        assert not seen[0][:, 3:].any()
    assert not torch.equal(changed, logits)


@pytest.mark.parametrize("side", [7, 4, 1])
def test_the_gate_is_the_written_formula(side):
    """Forward and backward differences at three scales; both directions share their weights."""
    torch.manual_seed(0)
    module = MultiScaleGate(32).eval()
    images = torch.randn(2 * 4, 32, side, side)

    def gate(change):
        half = F.avg_pool2d(change, 2, 2) if side > 1 else change
        half = F.interpolate(module.bn3_smallscale2(module.conv3_smallscale2(half)), size=(side, side), mode="nearest")
        full = module.bn3_smallscale4(module.conv3_smallscale4(change))
        return module.bn3(module.conv3((change + half + full) / 3)).sigmoid() - 0.5

    for clip, actual in zip(images.split(4), module(images, 4).split(4), strict=True):
        b = module.bn1(module.conv1(clip))
        y = module.conv2(b)
        for t in range(4):
            zero = torch.zeros_like(b[:1])
            forward = y[t + 1 : t + 2] - b[t : t + 1] if t < 3 else zero
            backward = y[t - 1 : t] - b[t : t + 1] if t > 0 else zero
            expected = clip[t] * (1 + (gate(forward) + gate(backward))[0] / 2)
            torch.testing.assert_close(actual[t], expected)


def test_stages():
    resnet = stages_of(tdn_resnet_tiny(2).backbone)
    assert [len(part) for part in resnet] == [4, 1, 3]
    mobilenet = stages_of(tdn_mobilenet_v2(2, weights=None).backbone)
    assert [len(part) for part in mobilenet] == [1, 1, 17]


def published(network):
    names = {"module.base_model.conv1_temp.weight": torch.zeros(64, 3, 7, 7)}
    names["module.base_model.conv1_temp.bias"] = torch.zeros(64)
    for key, value in network.state_dict().items():
        name = key.removeprefix("backbone.").replace(".temporal.", ".").replace("motion_layer", "resnext_layer1")
        name = name.replace("motion_stem", "conv1_5")
        if name.startswith("layer"):
            name = f"{name[:6]}_bak{name[6:]}"
        names[f"module.new_{name}" if name.startswith("fc.") else f"module.base_model.{name}"] = value
    return names


def test_whole_files():
    network = tdn_resnet50(7, weights=None)
    names = published(network)
    assert len(names) == 789
    used = {key: value for key, value in names.items() if "conv1_temp" not in key}
    assert_same_under("tdn", network, used)
    loaded = from_reference("tdn", names, num_classes=7, num_segments=16)
    assert (loaded.alpha, loaded.beta) == (0.75, 0.25)
    assert (from_reference("tdn", names, num_classes=7).alpha, network.beta) == (0.5, 0.5)


def test_image_weights_start_both_stems():
    """The differences' kernels are the image's averaged; their first layer is a copy; biases start at zero."""
    torch.manual_seed(0)
    network = tdn_resnet50(2, weights=None)
    expected = network.backbone.conv1.weight.mean(dim=1, keepdim=True).expand(-1, 12, -1, -1)
    assert torch.equal(network.motion_stem[0].weight, expected)
    assert network.motion_stem[0].bias is None
    for ours, theirs in zip(network.motion_layer.parameters(), network.backbone.layer1.parameters(), strict=True):
        assert ours is not theirs
        assert torch.equal(ours, theirs)
    plain = [m for name, m in network.backbone.named_modules() if isinstance(m, nn.Conv2d) and "temporal" not in name]
    assert len(plain) == 53
    assert not any(conv.bias.any() for conv in plain)


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="backbone is 'resnet18'; the TDN layout knows resnet50, resnet101"):
        from_reference("tdn", {}, num_classes=2, backbone="resnet18")
