"""Temporal modules keep channels where they lie in memory, or every block would turn its maps around twice."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidact.models
from vidact.models.backbones import channels_last, clip_channels_last
from vidact.models.frame_consensus import pad_time

NETWORKS = [
    ("tsm_resnet_tiny", {"width": 16}),
    ("stm_resnet_tiny", {"width": 32}),
    ("tanet_resnet_tiny", {"width": 16}),
    ("tanet_mobilenet_v2", {}),
    ("tdn_resnet_tiny", {"width": 32}),
    ("tea_resnet_tiny", {"width": 32}),
    ("tea_res2net_tiny", {}),
    ("tin_resnet_tiny", {"width": 16}),
    ("mvfnet_resnet_tiny", {"width": 16}),
    ("action_net_resnet_tiny", {"width": 32}),
    ("gsm_bn_inception_tiny", {}),
    ("eco_lite_tiny", {}),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_channels_stay_last(name: str, options: dict[str, Any]) -> None:
    """Whatever enters a 2-D convolution or norm; kernels of one channel or pixel lie both ways at once."""
    network = channels_last(getattr(vidact.models, name)(num_classes=3, weights=None, size=64, **options).train())
    turned: list[str] = []

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        maps = given[0]
        if maps.shape[1] > 1 and not maps.is_contiguous(memory_format=torch.channels_last):
            turned.append(str(module))

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_pre_hook(look)
    network(clip_channels_last(torch.randn(2, 8, network.input.channels, 64, 64)))
    # TDN's middle image of five is cut out of its input.
    assert len(turned) <= (name == "tdn_resnet_tiny"), turned


def test_padding_time_changes_no_layout_and_no_number() -> None:
    clip = torch.randn(2, 3, 4, 5, 6)
    padded = pad_time(clip, 1, 2)
    assert padded.is_contiguous()
    assert torch.equal(padded[:, 1:4], clip)
    assert not padded[:, [0, 4, 5]].any()
    last = pad_time(clip_channels_last(clip), 1, 2)
    assert torch.equal(last, padded)
    assert last.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
