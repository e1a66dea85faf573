"""TEA: both modules against their formulas, and names and sizes as published."""

import pytest
import torch
from support.published import assert_same_under, empty, giga_macs, millions
from torch import nn

import vidact.models.tea as tea
from vidact.models import tea_mobilenet_v2, tea_res2net50, tea_res2net_tiny, tsn_mobilenet_v2
from vidact.models.tea import ExcitedChain, MotionExcitation, TEABlock


def test_parameters_in_millions():
    assert millions("tea_res2net50", 174) == 24.456


def test_multiply_adds():
    assert giga_macs("tea_res2net50", 174) == pytest.approx(34.54, rel=0.005)


def frame_by_frame(images, frames, function):
    """``function(clip)`` on every clip of frames, written for one clip at a time."""
    return torch.cat([torch.stack(function(list(clip))) for clip in images.split(frames)])


def over_time(kernel, frames):
    """Each channel's kernel of three on a list of frames (C, H, W), zeros outside."""
    padded = [torch.zeros_like(frames[0]), *frames, torch.zeros_like(frames[0])]
    before, now, after = kernel[:, 0].unbind(1)
    return [
        before[:, None, None] * padded[t] + now[:, None, None] * padded[t + 1] + after[:, None, None] * padded[t + 2]
        for t in range(len(frames))
    ]


def test_motion_excitation_is_the_written_formula():
    torch.manual_seed(0)
    module = MotionExcitation(32).eval()
    images = torch.randn(2 * 3, 32, 5, 5)

    def one(clip):
        f = [module.bn1(module.conv1(x[None])) for x in clip]
        change = [module.conv2(f[t + 1]) - f[t] for t in range(len(clip) - 1)] + [torch.zeros_like(f[0])]
        gates = [module.bn3(module.conv3(d.mean((2, 3), keepdim=True)))[0].sigmoid() - 0.5 for d in change]
        return [x + x * a for x, a in zip(clip, gates, strict=True)]

    torch.testing.assert_close(module(images, 3), frame_by_frame(images, 3, one))


@pytest.mark.parametrize("is_first", [False, True])
def test_aggregation_is_the_written_formula(is_first):
    """Four groups, each handed to the next; the last has no convolution over space, and is pooled in a first block."""
    torch.manual_seed(0)
    block = TEABlock(64, 16, stride=1 + is_first, is_first=is_first).eval()
    block.me = Bypass()
    for shift in block.shifts:
        nn.init.normal_(shift.conv.weight)
    images = torch.randn(2 * 3, 64, 6, 6)

    def one(clip):
        maps = list(block.bn1(block.conv1(torch.stack(clip))).relu())
        groups = [[frame[6 * i : 6 * i + 6] for frame in maps] for i in range(4)]
        done = []
        for i in range(3):
            group = groups[i]
            if i and not is_first:
                group = [x + y for x, y in zip(group, done[-1], strict=True)]
            moved = torch.stack(over_time(block.shifts[i].conv.weight, group))
            done.append(list(block.bns[i](block.convs[i](moved)).relu()))
        last = torch.stack(over_time(block.shifts[3].conv.weight, groups[3]))
        done.append(list(nn.functional.avg_pool2d(last, 3, 2, 1)) if is_first else list(last))
        joined = torch.stack([torch.cat(parts) for parts in zip(*done, strict=True)])
        skip = block.downsample(torch.stack(clip))
        return list((block.bn3(block.conv3(joined)) + skip).relu())

    torch.testing.assert_close(block(images, 3), frame_by_frame(images, 3, one))


class Bypass(nn.Module):
    def forward(self, images, frames):
        return images


def test_start_values():
    """Three groups start as they were, the last as a shift of one half forwards and one half backwards."""
    shifts = TEABlock(64, 16).shifts
    for shift in shifts[:3]:
        assert shift.conv.weight[:, 0].tolist() == [[0, 1, 0]] * 6
    assert shifts[3].conv.weight[:, 0].tolist() == [[0, 0, 1]] * 3 + [[1, 0, 0]] * 3


def test_a_new_chain_is_a_shift_of_the_last_group():
    """In other backbones the links between the groups start at zero: image weights keep their meaning."""
    torch.manual_seed(0)
    chain = ExcitedChain(16)
    chain.me = Bypass()
    images = torch.randn(5, 16, 2, 2)
    moved = chain(images, 5)
    assert torch.equal(moved[:, :12], images[:, :12])
    assert torch.equal(moved[:4, 12:14], images[1:, 12:14])
    assert torch.equal(moved[1:, 14:], images[:4, 14:])
    for link in chain.links:
        nn.init.normal_(link.conv.weight)
    linked = chain(images, 5)
    assert [not torch.equal(linked[:, i : i + 4], moved[:, i : i + 4]) for i in (0, 4, 8, 12)] == [
        False, True, True, False
    ]  # fmt: skip
    with pytest.raises(ValueError, match="10 channels cannot be split into 4 groups"):
        ExcitedChain(10)


def test_whole_files():
    network = tea_res2net50(7, weights=None)
    names = {f"module.base_model.{key.removeprefix('backbone.')}": value for key, value in network.state_dict().items()}
    names = {key.replace("base_model.fc.", "new_fc."): value for key, value in names.items()}
    assert len(names) == 784
    assert_same_under("tea", network, names, num_segments=16)


def test_image_weights_have_timms_names(tmp_path):
    """A Res2Net file fits by its own names; only what TEA adds may be absent."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        names = timm.create_model(tea.RES2NET50).state_dict().keys()
    ours = empty("tea_res2net50", 7).backbone.state_dict().keys()
    assert {name for name in names if not name.startswith("fc.")} == {
        name for name in ours if ".me." not in name and ".shifts." not in name
    }
    trained = tea_res2net_tiny(2, planes=8).backbone.state_dict()
    images = {key: value for key, value in trained.items() if ".me." not in key and ".shifts." not in key}
    torch.save(images | {"fc.weight": torch.zeros(1000, 256)}, tmp_path / "res2net.pth")
    network = tea_res2net_tiny(2, weights=str(tmp_path / "res2net.pth"), planes=8)
    for key, value in images.items():
        assert torch.equal(network.backbone.state_dict()[key], value), key
    del images["layer3.1.convs.0.weight"]
    torch.save(images, tmp_path / "res2net.pth")
    with pytest.raises(ValueError, match=r"1 missing: layer3\.1\.convs\.0\.weight"):
        tea_res2net_tiny(2, weights=str(tmp_path / "res2net.pth"), planes=8)


def test_a_new_mobilenet_differs_little_from_its_images():
    """Where nothing moves, only the ends of the clip and the gates of a new network differ from TSN."""
    torch.manual_seed(0)
    plain = tsn_mobilenet_v2(5, weights=None, size=64).eval()
    network = tea_mobilenet_v2(5, weights=None, size=64).eval()
    missing = network.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    frame = torch.randn(1, 1, 3, 64, 64).expand(1, 24, 3, 64, 64)
    with torch.no_grad():
        middle, alone = network.frame_features(frame)[0, 12], plain.frame_features(frame)[0, 12]
    assert torch.nn.functional.cosine_similarity(middle, alone, dim=0) > 0.95
