"""STM: the block against its formula, and the image network that a new one is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidact.models import backbones, stm_resnet50, tsm_resnet50
from vidact.models.stm import STM, STMBlock


@pytest.mark.parametrize(("depth", "number"), [("resnet50", 0), ("resnet50", 1), ("resnet18", 0)])
def test_the_block_is_the_written_formula(depth, number):
    """Over time and space in one path, the change in the other; where the block has a stride, both have it."""
    torch.manual_seed(0)
    block = STMBlock(getattr(backbones, depth)(None).layer2[number]).eval()
    nn.init.normal_(block.motion.norm.weight)
    nn.init.normal_(block.over_time.conv.weight)
    images = torch.randn(2 * 3, block.conv1.in_channels, 6, 6)
    maps = block.bn1(block.conv1(images)).relu()
    changes = []
    for clip in maps.split(3):
        squeezed = block.motion.squeeze(clip)
        moved = block.motion.conv(squeezed)
        change = torch.cat([moved[1:] - squeezed[:-1], torch.zeros_like(squeezed[:1])])
        changes.append(block.motion.norm(block.motion.restore(change)))
    motion = torch.cat(changes)
    if block.conv2.stride == (2, 2):
        motion = F.avg_pool2d(motion, 2)
    middle = block.bn2(block.conv2(block.over_time(maps, 3))) + motion
    if depth == "resnet50":
        middle = block.bn3(block.conv3(middle.relu()))
    skip = images if number else block.downsample(images)
    torch.testing.assert_close(block(images, 3), (middle + skip).relu())


def test_image_names_stay():
    with torch.device("meta"):
        names, ours = backbones.resnet50(None).state_dict(), stm_resnet50(2, weights=None).backbone.state_dict()
    assert set(names) <= set(ours)
    with pytest.raises(ValueError, match="MobileNet is none"):
        STM(backbones.mobilenet_v2(None), 2)


def test_motion_is_cheap():
    """The paper's claim: a few per cent of parameters beside a network that only shifts."""
    with torch.device("meta"):
        ours, plain = (build(400, weights=None) for build in (stm_resnet50, tsm_resnet50))
    more = sum(p.numel() for p in ours.parameters()) / sum(p.numel() for p in plain.parameters())
    assert 1 < more < 1.02
