"""TSM: what moves where, which blocks are shifted, and names and sizes as published."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import vidact.models
from vidact.models import backbones, tsm_mobilenet_v2, tsm_resnet18, tsm_resnet50, tsm_resnet_tiny, tsn_resnet18
from vidact.models.bn_inception import bn_inception
from vidact.models.non_local import NonLocal
from vidact.models.tsm import TSM, ShiftedBlock, causal_shift, layers_of, shift
from vidact.models.weights import from_reference


def shifted_blocks(network):
    return [name.removeprefix("backbone.") for name, m in network.named_modules() if isinstance(m, ShiftedBlock)]


def millions(name, num_classes, **arguments):
    """Parameters of a size, counted without memory for them."""
    with torch.device("meta"):
        network = getattr(vidact.models, name)(num_classes, weights=None, **arguments)
    return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 3)


# ---------------------------------------------------------------------------------------------- the shift


def over_time(images, channel, frames=4):
    return images.unflatten(0, (-1, frames))[:, :, channel, 0, 0].tolist()


def test_shift_moves_an_eighth_each_way():
    """An eighth comes from the next frame, an eighth from the previous one, the rest stays; videos do not mix."""
    images = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]).view(8, 1, 1, 1).expand(8, 16, 1, 1)
    shifted = shift(images, frames=4)
    for channel in (0, 1):
        assert over_time(shifted, channel) == [[2, 3, 4, 0], [6, 7, 8, 0]]
    for channel in (2, 3):
        assert over_time(shifted, channel) == [[0, 1, 2, 3], [0, 5, 6, 7]]
    for channel in range(4, 16):
        assert over_time(shifted, channel) == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_causal_shift_takes_only_the_previous_frame():
    images = torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1).expand(4, 16, 1, 1)
    shifted, past = causal_shift(images, frames=4)
    assert over_time(shifted, 0) == over_time(shifted, 1) == [[0, 1, 2, 3]]
    assert all(over_time(shifted, channel) == [[1, 2, 3, 4]] for channel in range(2, 16))
    assert past.tolist() == [[[[4.0]], [[4.0]]]]
    shifted, _ = causal_shift(images, frames=4, past=torch.full((1, 2, 1, 1), 9.0))
    assert over_time(shifted, 1) == [[9, 1, 2, 3]]


@pytest.mark.parametrize("move", [shift, causal_shift])
def test_shifted_images_lie_in_memory_as_they_did(move):
    """A convolution that finds channels first, where its weights have them last, copies every map twice."""
    images = torch.randn(6, 16, 5, 7)
    expected, turned = (move(part, frames=3) for part in (images, images.to(memory_format=torch.channels_last)))
    if move is causal_shift:
        (expected, _), (turned, _) = expected, turned
    assert torch.equal(turned, expected)
    assert expected.is_contiguous()
    assert turned.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("move", [shift, causal_shift])
def test_images_must_be_whole_clips(move):
    with pytest.raises(ValueError, match="7 images cannot be split into clips of 4 frames"):
        move(torch.zeros(7, 8, 1, 1), 4)


# ---------------------------------------------------------------------------------------------- where it acts


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (backbones.resnet_tiny, ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        (backbones.mobilenet_v2, [f"features.{n}" for n in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]),
        (backbones.mobilenet_v3_small, [f"features.{n}" for n in (3, 5, 6, 8, 10, 11)]),
        (backbones.efficientnet_b0, [f"features.{n}" for n in (2.1, 3.1, 4.1, 4.2, 5.1, 5.2, 6.1, 6.2, 6.3)]),
    ],
)
def test_which_blocks_are_shifted(build, wanted):
    assert shifted_blocks(TSM(build(weights=None), num_classes=2)) == wanted


def test_resnets_shift_every_block_and_deep_ones_every_second():
    with torch.device("meta"):
        counts = {
            name: shifted_blocks(TSM(getattr(backbones, name)(weights=None), 2))
            for name in ("resnet18", "resnet34", "resnet50", "resnet101")
        }
    assert [len(blocks) for blocks in counts.values()] == [8, 16, 16, 2 + 2 + 12 + 2]
    assert "layer1.0" in counts["resnet101"]
    assert "layer1.1" not in counts["resnet101"]
    assert "layer3.22" in counts["resnet101"]


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_only_the_shift_is_added(name, monkeypatch):
    """With a shift that moves nothing, the network is its backbone: same tensors, same names, same vectors."""
    torch.manual_seed(0)
    plain = getattr(backbones, name)(weights=None).eval()
    network = TSM(copy.deepcopy(plain), num_classes=2).eval()
    assert set(network.backbone.state_dict()) == set(plain.state_dict())
    assert [key for key in network.state_dict() if not key.startswith("backbone.")] == ["fc.weight", "fc.bias"]
    monkeypatch.setattr("vidact.models.tsm.shift", lambda images, frames: images)
    clip = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        vectors = plain(clip.flatten(0, 1))
        torch.testing.assert_close(network.frame_features(clip).flatten(0, 1), vectors, rtol=1e-6, atol=0)


def test_the_skip_connection_is_not_shifted():
    network = tsm_resnet_tiny(num_classes=2).eval()
    block = network.backbone.layer1[0]
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)
    images = torch.rand(4, 16, 4, 4)
    output, _ = block(images, 4)
    assert torch.equal(output, images)


def test_time_order_matters():
    """A reversed clip is another clip, unlike in TSN."""
    torch.manual_seed(0)
    clip = torch.randn(1, 8, 3, 32, 32)
    for network, matters in ((tsm_resnet18(2, weights=None), True), (tsn_resnet18(2, weights=None), False)):
        nn.init.normal_(network.fc.weight)
        with torch.no_grad():
            forth, back = network.eval()(clip), network(clip.flip(1))
        assert ((forth - back).abs().max() > 1e-3) == matters


def test_layers_follow_each_other():
    """Walking the layers is the backbone's own way to its last map."""
    for name in ("resnet_tiny", "mobilenet_v3_large", "efficientnet_b0"):
        backbone = getattr(backbones, name)(weights=None).eval()
        maps = images = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            for _, layer in layers_of(backbone):
                maps = layer(maps)
            assert torch.equal(maps, backbone.maps(images))


def test_other_backbones_are_refused_by_name():
    with pytest.raises(ValueError, match=r"BNInception is none of them\. TSN takes any backbone"):
        TSM(bn_inception(weights=None), num_classes=2)
    with pytest.raises(ValueError, match="'sideways'; it is 'bidirectional' or 'causal'"):
        tsm_resnet_tiny(2, shift="sideways")
    with pytest.raises(ValueError, match="a causal network needs non_local=False"):
        TSM(backbones.resnet_tiny(), 2, shift="causal", non_local=True)
    with pytest.raises(ValueError, match="take ResNet-50 or non_local=False"):
        TSM(backbones.resnet_tiny(), 2, non_local=True)


# ---------------------------------------------------------------------------------------------- sizes and weights


@pytest.mark.parametrize(
    ("name", "num_classes", "arguments", "published"),
    [
        ("tsm_resnet50", 400, {}, 24.328),
        ("tsm_resnet50", 400, {"shift": "causal"}, 24.328),
        ("tsm_resnet101", 174, {}, 42.857),
        ("tsm_resnet50_nonlocal", 400, {}, 31.686),
        ("tsm_resnet50_nonlocal", 174, {}, 31.223),
        ("tsm_mobilenet_v2", 400, {}, 2.736),
        ("tsm_resnet50", 400, {"modality": "flow"}, 24.350),
    ],
)
def test_parameters_in_millions(name, num_classes, arguments, published):
    assert millions(name, num_classes, **arguments) == published


def test_image_weights_load_unchanged(tmp_path):
    reference = torchvision.models.mobilenet_v2()
    torch.save(reference.state_dict(), tmp_path / "mobilenet_v2.pth")
    network = tsm_mobilenet_v2(3, weights=str(tmp_path / "mobilenet_v2.pth"))
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), key


def test_flow_network():
    network = tsm_resnet_tiny(3, modality="flow", flow_fields=5).eval()
    assert network.input.channels == 10
    assert network.input.flow_fields == 5
    assert network(torch.randn(1, 4, 10, 64, 64)).shape == (1, 3)


def published_mobilenet(network, head, prefix):
    """Our tensors under the flat names of temporal-shift-module's MobileNetV2."""
    flat = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
    first = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    names = {}
    for key, value in network.state_dict().items():
        parts = key.removeprefix("backbone.").split(".")
        if parts[0] == "fc":
            names[f"{head}.{parts[1]}"] = value
        elif "conv" in parts:
            table = first if parts[1] == "1" else flat
            names[f"{prefix}features.{parts[1]}.conv.{table['.'.join(parts[3:-1])]}.{parts[-1]}"] = value
        else:
            names[prefix + ".".join(parts)] = value
    return names


def test_online_file():
    """The bare names of the online demo; they say that the network is causal, and we want to hear it."""
    torch.manual_seed(0)
    trained = tsm_mobilenet_v2(27, weights=None, shift="causal", size=32).eval()
    state_dict = published_mobilenet(trained, "classifier", "")
    assert "features.3.conv.0.weight" in state_dict
    with pytest.raises(ValueError, match="pass shift='causal'"):
        from_reference("tsm", state_dict, backbone="mobilenet_v2", num_classes=27)
    network = from_reference("tsm", state_dict, backbone="mobilenet_v2", num_classes=27, shift="causal")
    clip = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(clip), trained(clip))


def test_old_head_name():
    """Early MobileNet files call the head `base_model.classifier`."""
    trained = tsm_mobilenet_v2(3, weights=None)
    state_dict = published_mobilenet(trained, "module.base_model.classifier", "module.base_model.")
    network = from_reference("tsm", state_dict, backbone="mobilenet_v2", num_classes=3)
    assert torch.equal(network.fc.weight, trained.fc.weight)


def test_shifts_that_are_not_ours_are_refused():
    """`place=block` and temporal pooling have other names, so they fail by name rather than run wrongly."""
    state_dict = {f"base_model.{key}": value for key, value in backbones.resnet18(None).state_dict().items()}
    state_dict |= {"new_fc.weight": torch.zeros(2, 512), "new_fc.bias": torch.zeros(2)}
    from_reference("tsm", state_dict, backbone="resnet18", num_classes=2)
    for old, new in (("layer2.0.", "layer2.0.net."), ("layer2.", "layer2.net.")):
        other = {key.replace(old, new): value for key, value in state_dict.items()}
        with pytest.raises(ValueError, match=r"unknown: base_model\.layer2\."):
            from_reference("tsm", other, backbone="resnet18", num_classes=2)
    with pytest.raises(ValueError, match="the TSM layouts know resnet18"):
        from_reference("tsm", state_dict, backbone="vgg16", num_classes=2)


# ---------------------------------------------------------------------------------------------- non-local


def test_non_local_is_the_written_formula():
    """Against the sums of the paper: softmax over the pooled positions of all frames, no division by sqrt(D)."""
    torch.manual_seed(0)
    block = NonLocal(8).eval()
    nn.init.normal_(block.norm.weight)
    images = torch.randn(2 * 3, 8, 4, 4)
    clip = images.unflatten(0, (2, 3)).transpose(1, 2)
    pool = nn.MaxPool3d((1, 2, 2))
    theta, phi, g = block.theta(clip), pool(block.phi(clip)), pool(block.g(clip))
    weights = torch.einsum("bdthw,bdsij->bthwsij", theta, phi).flatten(4).softmax(-1)
    mixed = torch.einsum("bthwn,bdn->bdthw", weights, g.flatten(2))
    expected = (clip + block.norm(block.out(mixed))).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(block(images, 3), expected)


def test_a_new_non_local_block_changes_nothing():
    images = torch.randn(4, 8, 4, 4)
    assert torch.equal(NonLocal(8)(images, 2), images)


# ---------------------------------------------------------------------------------------------- how it is run


def test_clips_of_several_lengths_share_the_network():
    """T comes from the clip: the same network, lengths in any order, between forward and backward too."""
    network = tsm_resnet_tiny(2).eval()
    clips = {frames: torch.randn(2, frames, 3, 64, 64) for frames in (1, 4, 8, 16)}
    alone = {frames: network(clip).detach() for frames, clip in clips.items()}
    backbones.set_gradient_checkpointing(network)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    losses = [network(clip).sum() for clip in clips.values()]
    sum(losses).backward()  # the blocks compute their insides again, each at its own length
    network.eval()
    for frames, clip in clips.items():
        assert torch.equal(network(clip), alone[frames])


def test_checkpointed_gradients_are_the_same():
    torch.manual_seed(0)
    plain = tsm_resnet_tiny(2, shift="causal").train()
    thrifty = copy.deepcopy(plain)
    backbones.set_gradient_checkpointing(thrifty)
    clip = torch.randn(2, 4, 3, 64, 64)
    for network in (plain, thrifty):
        network(clip).square().sum().backward()
    for (name, expected), actual in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        assert torch.equal(actual.grad, expected.grad), name
    for (name, expected), actual in zip(plain.named_buffers(), thrifty.buffers(), strict=True):
        assert torch.equal(actual, expected), name


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_exported_program_takes_any_clip(direction):
    network = tsm_resnet_tiny(2, shift=direction, size=32, width=8).eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(network, (torch.randn(2, 4, 3, 32, 32),), dynamic_shapes=({0: auto, 1: auto},))
    clip = torch.randn(3, 7, 3, 32, 32)
    torch.testing.assert_close(program.module()(clip), network(clip))


def test_average_is_in_single_precision():
    network = tsm_resnet50(2, weights=None).to(torch.bfloat16).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, 3, 32, 32).bfloat16()).dtype == torch.float32
