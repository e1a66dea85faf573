"""ACTION-Net: the module against its formula, and names and sizes as published."""

import pytest
import torch
from support.published import assert_same_under, giga_macs, millions
from torch import nn

from vidact.models import action_net_resnet50
from vidact.models.action_net import MultipathExcitation
from vidact.models.weights import from_reference


def test_published_size():
    assert millions("action_net_resnet50", 174) == 28.082
    assert giga_macs("action_net_resnet50", 174) == pytest.approx(34.44, rel=0.005)


def test_the_module_is_the_written_formula():
    """Three gated copies of the shifted clip, each with the clip itself, added; frame by frame."""
    torch.manual_seed(0)
    module = MultipathExcitation(32).eval()
    nn.init.normal_(module.shift.conv.weight)
    images = torch.randn(2 * 4, 32, 5, 5)
    expected = []
    for clip in module.shift(images, 4).split(4):
        space = module.place(clip.mean(1)[None, None])[0, 0].sigmoid()  # (T, H, W)
        squeezed = module.channel_squeeze(clip.mean((2, 3), keepdim=True))[:, :, 0, 0]
        channel = module.channel_expand(module.channel_conv(squeezed.T[None])[0].relu().T[:, :, None, None]).sigmoid()
        now = module.motion_norm(module.motion_squeeze(clip))
        moved = module.motion_conv(now)
        change = torch.cat([moved[1:] - now[:-1], torch.zeros_like(now[:1])])
        motion = module.motion_expand(change.mean((2, 3), keepdim=True)).sigmoid()
        expected.append((clip * space[:, None] + clip) + (clip * channel + clip) + (clip * motion + clip))
    torch.testing.assert_close(module(images, 4), torch.cat(expected))


def test_whole_files():
    network = action_net_resnet50(7, weights=None)
    names = {}
    for key, value in network.state_dict().items():
        name = key.removeprefix("backbone.")
        if name.startswith("layer"):
            name = name.replace(".conv1.", ".conv1.net.")
        for ours, theirs in [
            ("shift.conv", "action_shift"),
            ("place", "action_p1_conv1"),
            ("channel_squeeze", "action_p2_squeeze"),
            ("channel_conv", "action_p2_conv1"),
            ("channel_expand", "action_p2_expand"),
            ("motion_squeeze", "action_p3_squeeze"),
            ("motion_norm", "action_p3_bn1"),
            ("motion_conv", "action_p3_conv1"),
            ("motion_expand", "action_p3_expand"),
        ]:
            name = name.replace(f".temporal.{ours}.", f".conv1.{theirs}.")
        names[f"module.new_{name}" if name.startswith("fc.") else f"module.base_model.{name}"] = value
    assert names["module.base_model.layer1.0.conv1.action_p2_conv1.weight"].shape == (4, 4, 3)
    assert_same_under("action_net", network, names, num_segments=8)
    with pytest.raises(ValueError, match="the ACTION-Net layout knows resnet50"):
        from_reference("action_net", names, num_classes=7, backbone="resnet18")
