"""2-D networks with temporal modules: what all of them promise beside the contract of every clip network."""

import copy
import itertools

import pytest
import torch
import torchvision
from torch import nn

import vidact.models
from vidact.models import backbones, stm_resnet_tiny, tanet_resnet_tiny, tea_resnet_tiny, tsn_resnet_tiny
from vidact.models.bn_inception import bn_inception
from vidact.models.frame_consensus import TemporalConv, difference, insert, mix_neighbours
from vidact.models.tanet import TANet

TINY = {
    "tanet_resnet_tiny": {"num_segments": 4},
    "tea_resnet_tiny": {},
    "tea_res2net_tiny": {"planes": 16},
    "tdn_resnet_tiny": {},
    "stm_resnet_tiny": {},
    "action_net_resnet_tiny": {},
    "tin_resnet_tiny": {"num_segments": 4},
    "tsm_resnet_tiny_pooled": {},
}
EVERY = pytest.mark.parametrize("name", TINY)


def tiny(name, num_classes=2):
    torch.manual_seed(0)
    return getattr(vidact.models, name)(num_classes, size=32, **TINY.get(name, {}))


def clip_for(network, videos=2, frames=4):
    return torch.randn(videos, frames, network.input.channels, 32, 32)


# ---------------------------------------------------------------------------------------------- learning


def films(channels, videos=8, frames=4):
    """Videos of a square that walks, and the same backwards: only the order of the frames tells the two apart."""
    torch.manual_seed(1)
    clip = torch.zeros(videos, frames, channels // 3, 3, 32, 32)
    steps = torch.arange(frames)[:, None] * 6 + torch.arange(channels // 3)
    for video, (t, i) in itertools.product(range(videos), itertools.product(range(frames), range(channels // 3))):
        left = int(steps[t, i]) % 26
        clip[video, t, i, :, 2 * video : 2 * video + 8, left : left + 6] = 1
    clip = clip + 0.05 * torch.randn_like(clip)
    backwards = clip.flatten(1, 2).flip(1).view_as(clip)
    return torch.cat([clip, backwards]).flatten(2, 3), torch.arange(2 * videos) // videos


def trained(network, steps=30):
    """Share of the videos that the network names right after some steps on them."""
    clips, targets = films(network.input.channels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(clips), targets).backward()
        optimizer.step()
    with torch.no_grad():  # batch norm as in training: its averages are not settled after so few steps
        return (network(clips).argmax(1) == targets).float().mean().item()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "tea_res2net_tiny" else n for n in TINY]
)
def test_order_is_learnt(name):
    assert trained(tiny(name)) == 1.0


def test_a_mean_over_frames_cannot_learn_order():
    """The control of the test above: without temporal modules the two classes are one."""
    assert trained(tsn_resnet_tiny(2, size=32)) == pytest.approx(0.5)


# ---------------------------------------------------------------------------------------------- how it is run


@EVERY
def test_checkpointed_gradients_are_the_same(name):
    plain = tiny(name).train()
    thrifty = copy.deepcopy(plain)
    backbones.set_gradient_checkpointing(thrifty)
    clip = clip_for(plain)
    for network in (plain, thrifty):
        network(clip).square().sum().backward()
    for (parameter, expected), actual in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, msg=parameter)
    for (buffer, expected), actual in zip(plain.named_buffers(), thrifty.buffers(), strict=True):
        assert torch.equal(actual, expected), buffer


@pytest.mark.slow
@EVERY
def test_exported_program_is_the_network(name):
    """For any number of videos."""
    network = tiny(name).eval()
    program = torch.export.export(network, (clip_for(network),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    clip = clip_for(network, videos=3)
    torch.testing.assert_close(program.module()(clip), network(clip))


@pytest.mark.parametrize("build", [tanet_resnet_tiny, tea_resnet_tiny, stm_resnet_tiny])
def test_average_is_in_single_precision(build):
    network = build(2, size=32).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.randn(1, 8, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("name", ["tanet", "tea", "tdn"])
def test_image_weights_load_unchanged(name, tmp_path):
    """Temporal modules rename no tensor of the image network, so its weights fit as they are."""
    reference = torchvision.models.mobilenet_v2()
    torch.save(reference.state_dict(), tmp_path / "mobilenet_v2.pth")
    network = getattr(vidact.models, f"{name}_mobilenet_v2")(3, weights=str(tmp_path / "mobilenet_v2.pth"))
    ours = network.backbone.state_dict()
    for key, value in reference.state_dict().items():
        if not key.startswith("classifier."):
            assert torch.equal(ours[key], value), key
    assert sum(hasattr(block, "temporal") for block in network.backbone.features) == 10


def test_other_backbones_are_refused():
    with pytest.raises(ValueError, match="BNInception has neither"):
        TANet(bn_inception(None), 2)
    with pytest.raises(ValueError, match="MobileNet has neither"):
        insert(backbones.mobilenet_v3_small(None), TemporalConv, "first")


# ---------------------------------------------------------------------------------------------- over time


def test_difference_ends_with_zero():
    later, earlier = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    change = difference(later, earlier)
    assert torch.equal(change[:, :2], later[:, 1:] - earlier[:, :2])
    assert not change[:, 2].any()


def test_temporal_conv_is_a_depthwise_convolution():
    torch.manual_seed(0)
    module = TemporalConv(8)
    nn.init.normal_(module.conv.weight)
    images = torch.randn(2 * 5, 8, 3, 3)
    rows = images.unflatten(0, (2, 5)).permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B*H*W, C, T)
    expected = module.conv(rows).unflatten(0, (2, 3, 3)).permute(0, 4, 3, 1, 2).flatten(0, 1)
    torch.testing.assert_close(module(images, 5), expected)


@pytest.mark.parametrize(("fold", "moved"), [(8, 1), (2, 4), (None, 0)])
def test_temporal_conv_starts_as_a_shift(fold, moved):
    frames = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 8, 1, 1)
    shifted = TemporalConv(8, fold)(frames, 4)[:, :, 0, 0].T.tolist()  # (C, T)
    assert shifted == [[2, 3, 4, 0]] * moved + [[0, 1, 2, 3]] * moved + [[1, 2, 3, 4]] * (8 - 2 * moved)


def test_mix_neighbours_takes_a_kernel_for_each_clip():
    clip = torch.arange(1.0, 4.0).view(1, 3, 1, 1, 1).expand(2, 3, 1, 1, 1)
    weights = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
    mixed = mix_neighbours(clip, weights, torch.zeros(()), -weights)[..., 0, 0, 0]
    assert mixed.tolist() == [[-2, -2, 2], [-20, -20, 20]]
