"""MVFNet: the module against its formula, and names and sizes as published."""

import pytest
import torch
from support.published import assert_same_under, empty, giga_macs, millions
from torch import nn

from vidact.models import mvfnet_resnet50
from vidact.models.frame_consensus import TemporalConv
from vidact.models.mvfnet import MultiViewFusion
from vidact.models.weights import from_reference


def test_published_size():
    """The authors count two operations for each value that a batch norm sees, and the kernels over time, too."""
    assert round(millions("mvfnet_resnet50", 400), 2) == 24.34
    network = empty("mvfnet_resnet50", 400)
    beside = [0]
    for module in network.modules():
        cost = 2 if isinstance(module, nn.BatchNorm2d) else 3 if isinstance(module, TemporalConv) else 0
        if cost:
            module.register_forward_hook(
                lambda _, inputs, output, cost=cost: beside.append(cost * output.numel()),
            )
    network(torch.empty(1, 8, 3, 224, 224, device="meta"))
    for frames, giga in ((4, 16.454), (8, 32.909), (16, 65.817)):
        counted = giga_macs("mvfnet_resnet50", 400, frames) + sum(beside) * frames / 8 / 1e9
        assert counted == pytest.approx(giga, rel=3e-4)


def test_the_module_is_the_published_three_convolutions():
    """Depthwise 3-D convolutions along time, height and width, added, normalised and passed through hard swish."""
    torch.manual_seed(0)
    module = MultiViewFusion(32).eval()
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2)
    images = torch.randn(2 * 5, 32, 6, 7)
    clip = images.unflatten(0, (2, 5)).transpose(1, 2)[:, :4]  # (B, F, T, H, W)
    total = torch.zeros_like(clip)
    for conv, kernel in (
        (module.over_time.conv, (3, 1, 1)),
        (module.over_height, (1, 3, 1)),
        (module.over_width, (1, 1, 3)),
    ):
        padding = tuple(side // 2 for side in kernel)
        total += nn.functional.conv3d(clip, conv.weight.view(4, 1, *kernel), padding=padding, groups=4)
    norm = nn.BatchNorm3d(4).eval()
    norm.load_state_dict(module.norm.state_dict())
    total = norm(total)
    total = total * (total + 3).clamp(0, 6) / 6
    expected = torch.cat([total.transpose(1, 2).flatten(0, 1), images[:, 4:]], dim=1)
    torch.testing.assert_close(module(images, 5), expected)


def test_only_the_last_two_layers_fuse():
    names = [name for name, module in mvfnet_resnet50(3, None).named_modules() if isinstance(module, MultiViewFusion)]
    assert len(names) == 6 + 3
    assert {name.split(".")[1] for name in names} == {"layer3", "layer4"}


def test_whole_files():
    network = mvfnet_resnet50(7, weights=None)
    names = {}
    for key, value in network.state_dict().items():
        name = f"module.cls_head.new_{key}" if key.startswith("fc.") else f"module.{key}"
        parts = name.split(".")
        if f"{'.'.join(parts[1:4])}.temporal.norm.weight" in network.state_dict():
            name = name.replace(".conv1.", ".conv1.net.")
        for ours, theirs, shape in [
            ("over_time.conv", "shift_conv", (-1, 1, 3, 1, 1)),
            ("over_height", "h_conv", (-1, 1, 1, 3, 1)),
            ("over_width", "w_conv", (-1, 1, 1, 1, 3)),
            ("norm", "bn", None),
        ]:
            if f".temporal.{ours}." in name:
                name = name.replace(f".temporal.{ours}.", f".conv1.{theirs}.")
                value = value if shape is None else value.reshape(shape)
        names[name] = value
    assert names["module.backbone.layer3.0.conv1.h_conv.weight"].shape == (64, 1, 1, 3, 1)
    assert names["module.backbone.layer4.2.conv1.net.weight"].shape == (512, 2048, 1, 1)
    assert "module.backbone.layer2.0.conv1.weight" in names
    assert_same_under("mvfnet", network, names, num_segments=8)
    turned = names["module.backbone.layer3.0.conv1.h_conv.weight"].transpose(3, 4)
    with pytest.raises(ValueError, match=r"1 of the wrong shape: .*over_height"):
        from_reference("mvfnet", {**names, "module.backbone.layer3.0.conv1.h_conv.weight": turned}, num_classes=7)
    with pytest.raises(ValueError, match="the MVFNet layout knows resnet50, resnet101"):
        from_reference("mvfnet", names, num_classes=7, backbone="resnet18")
