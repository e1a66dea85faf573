"""GSM: the module against its formula, where it stands, and names and sizes as published."""

import pytest
import torch
from support.published import assert_same_under, millions
from torch import nn

from vidact.models import gsm_bn_inception
from vidact.models.bn_inception import bn_inception
from vidact.models.gsm import GatedConvNorm, GateShift
from vidact.models.tsn import TSN


def test_parameters_in_millions():
    assert millions("gsm_bn_inception", 174) == 10.500
    assert millions("tsn_bn_inception", 174) == 10.449


def interleaved(channels):
    """The order of the channels that leave a module: in each half, its two quarters take turns."""
    halves = torch.arange(channels).chunk(2)
    return torch.cat([half.view(2, -1).T.reshape(-1) for half in halves])


def test_closed_gates_move_nothing():
    images = torch.randn(6, 8, 3, 3)
    assert interleaved(8).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(GateShift(8).eval()(images, 3), images[:, interleaved(8)])


def test_the_module_is_the_written_formula():
    torch.manual_seed(0)
    module = GateShift(8).eval()
    nn.init.normal_(module.conv3D.weight)
    images = torch.randn(2 * 4, 8, 3, 3)
    expected = []
    for clip in images.split(4):
        gates = module.conv3D(module.bn(clip.transpose(0, 1)[None]).relu()).tanh()[0]  # (2, T, H, W)
        moving = torch.cat([gates[0, :, None] * clip[:, :4], gates[1, :, None] * clip[:, 4:]], dim=1)
        for t in range(4):
            ahead = moving[t + 1, :4] if t < 3 else torch.zeros(4, 3, 3)
            behind = moving[t - 1, 4:] if t > 0 else torch.zeros(4, 3, 3)
            expected.append((clip[t] - moving[t] + torch.cat([ahead, behind]))[interleaved(8)])
    torch.testing.assert_close(module(images, 4), torch.stack(expected))


def test_open_gates_are_a_shift():
    """With gates at one, half of the channels come from the next frame and half from the previous one."""
    module = GateShift(4).eval()
    nn.init.constant_(module.conv3D.bias, 100.0)
    images = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 4, 1, 1)
    assert module(images, 4)[:, :, 0, 0].T.tolist() == [[2, 3, 4, 0]] * 2 + [[0, 1, 2, 3]] * 2


PLACES = ["3a_1x1", "3b_1x1", "3c_3x3_reduce", *(f"4{x}_1x1" for x in "abcd"), "4e_3x3_reduce", "5a_1x1", "5b_1x1"]


def test_one_branch_of_every_block():
    network = gsm_bn_inception(2, weights=None)
    gated = [name for name, module in network.named_modules() if isinstance(module, GatedConvNorm)]
    where = {"1x1": "one", "3x3_reduce": "three.0"}
    assert gated == [f"backbone.inception_{place[:2]}.{where[place[3:]]}" for place in PLACES]


def test_every_other_part_is_bn_inception():
    """Without the modules the network is TSN on the same weights."""
    torch.manual_seed(0)
    network = gsm_bn_inception(3, weights=None, size=64).eval()
    plain = TSN(bn_inception(None, 64), num_classes=3)
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if ".gsm." not in key})
    for module in network.modules():
        if isinstance(module, GatedConvNorm):
            module.gsm = Bypass()
    clip = torch.randn(1, 2, 3, 64, 64) * 50
    with torch.no_grad():
        torch.testing.assert_close(network(clip), plain.eval()(clip))


class Bypass(nn.Module):
    def forward(self, images, frames):
        return images


def test_whole_files():
    network = gsm_bn_inception(7, weights=None)
    names = {}
    for key, value in network.state_dict().items():
        name = key.removeprefix("backbone.")
        if ".gsm." in name:
            name = "gsm_" + name.replace(".one.gsm.", "_1x1.").replace(".three.0.gsm.", "_3x3_reduce.")
        else:
            for ours, theirs in [
                (".one.", "_1x1."),
                (".three.0.", "_3x3_reduce."),
                (".three.1.", "_3x3."),
                (".threes.0.", "_double_3x3_reduce."),
                (".threes.1.", "_double_3x3_1."),
                (".threes.2.", "_double_3x3_2."),
                (".project.", "_pool_proj."),
                (".conv.", "."),
                (".bn.", "_bn."),
            ]:
                name = name.replace(ours, theirs)
        names[f"module.new_{name}" if name.startswith("fc.") else f"module.base_model.{name}"] = value
    assert "module.base_model.gsm_inception_3c_3x3_reduce.conv3D.bias" in names
    assert_same_under("gsm", network, names, num_segments=8)


def test_flow():
    network = gsm_bn_inception(2, weights=None, modality="flow", size=64).eval()
    assert network.input.channels == 10
    with pytest.raises(ValueError, match="C = 10"):
        network(torch.randn(1, 4, 3, 64, 64))
