"""Image networks keep the names of their library and mean the same as there."""

import sys
import urllib.error

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vidact.batch import ClipInput
from vidact.models import backbones, tsn_bn_inception, tsn_resnet_tiny
from vidact.models.backbones import (
    check_clip,
    find_first_conv,
    for_modality,
    mobilenet_v2,
    mobilenet_v3_small,
    resnet18,
    resnet_tiny,
    set_gradient_checkpointing,
    timm_backbone,
    with_channels,
)
from vidact.models.bn_inception import bn_inception, bn_inception_classifier


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_same_vector_as_torchvision(name, tmp_path):
    """A torchvision file fits by its own names, and the vector is what torchvision's classifier would see."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    torch.save({key: value.half() for key, value in theirs.state_dict().items()}, tmp_path / "weights.pth")
    theirs.half().float()
    ours = getattr(backbones, name)(str(tmp_path / "weights.pth")).eval()
    assert next(ours.parameters()).dtype == torch.float32
    if name == "resnet18":
        theirs.fc = nn.Identity()
    else:
        theirs.classifier[-1] = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        vectors = ours(images)
        assert vectors.shape == (2, ours.dim)
        torch.testing.assert_close(vectors, theirs(images), rtol=1e-4, atol=1e-6)


def test_real_imagenet_file(shared_data):
    """Half precision on disk, single precision in memory; the ImageNet classifier is left behind."""
    network = mobilenet_v2(str(shared_data / "weights" / "mobilenet_v2_imagenet.safetensors"))
    assert network.features[0][0].weight.dtype == torch.float32
    assert not any(key.startswith("classifier") for key in network.state_dict())


def test_weights_must_be_a_name_or_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'imagnet' is neither a file nor a published name.*IMAGENET1K_V1"):
        resnet18("imagnet")
    with pytest.raises(FileNotFoundError, match="names here: none"):
        resnet_tiny("imagenet")
    torch.save(resnet_tiny().state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"does not fit ResNet: .*missing: layer1\.1\.conv1\.weight"):
        resnet18(str(tmp_path / "other.pt"))


def test_no_network_is_explained(monkeypatch):
    def offline(*_args, **_kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    for build in (resnet18, bn_inception):
        with pytest.raises(OSError, match=r"could not be downloaded.*pass its path as weights=.*--weights FILE"):
            build("imagenet")


def test_timm(monkeypatch):
    network = timm_backbone("resnet10t", None, size=64).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, network.dim)
    assert network.input.size == 64
    vit = timm_backbone("vit_tiny_patch16_224", None, size=32).eval()
    assert vit(torch.zeros(1, 3, 32, 32)).shape == (1, vit.dim)
    assert vit.input.mean == (0.5, 0.5, 0.5)  # timm's own, not ImageNet's
    with pytest.raises(ValueError, match="timm has no network 'resnet10x'"):
        timm_backbone("resnet10x", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="run `uv sync --extra timm` in the clone of vidact"):
        timm_backbone("resnet10t", None)


def test_bn_inception_size():
    """The published counts: 11.295 M parameters with 1000 classes, 2.03 GMACs per 224-pixel frame."""
    with torch.device("meta"):
        network = bn_inception_classifier(num_classes=1000, weights=None).eval()
        images = torch.empty(1, 3, 224, 224)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(11.295e6, abs=500)
    assert len(network.state_dict()) == 485
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert counter.get_total_flops() / 2e9 == pytest.approx(2.03, abs=0.005)
    assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert (network.input.order, network.input.scale) == ("bgr", 255.0)


def test_other_channels_see_the_same_in_grey_images():
    """Cross-modality initialisation: on equal channels the sum is that of RGB times c / 3; nothing else changes."""
    torch.manual_seed(0)
    network = resnet_tiny(width=4).eval()
    names = list(network.state_dict())
    grey = torch.randn(2, 1, 16, 16)
    before = network.conv1(grey.expand(-1, 3, -1, -1))
    assert find_first_conv(network)[0] == "conv1"
    assert with_channels(network, 10) is network
    torch.testing.assert_close(network.conv1(grey.expand(-1, 10, -1, -1)), before * 10 / 3)
    assert list(network.state_dict()) == names

    biased = bn_inception(None)
    bias = biased.conv1_7x7_s2.conv.bias.clone()
    with_channels(biased, 20)
    assert torch.equal(biased.conv1_7x7_s2.conv.bias, bias)
    assert biased.conv1_7x7_s2.conv.weight.shape == (64, 20, 7, 7)
    assert find_first_conv(with_channels(mobilenet_v3_small(None), 5))[1].in_channels == 5
    with pytest.raises(ValueError, match="no 2-D convolution"):
        find_first_conv(nn.Linear(1, 1))


def test_flow_input():
    """Spec B.4: ResNets centre flow at 0.5 and divide by the mean of the RGB deviations; BN-Inception at 128."""
    flow = for_modality(resnet_tiny(width=4), "flow", flow_fields=5).input
    assert flow == ClipInput(size=64, channels=10, flow_fields=5, mean=(0.5,), std=(0.226,))
    caffe = tsn_bn_inception(num_classes=2, weights=None, modality="flow").input
    assert (caffe.mean, caffe.std, caffe.scale, caffe.channels) == ((128.0,), (1.0,), 255.0, 10)
    with pytest.raises(ValueError, match="'rgb', 'flow' or 'rgb_difference'"):
        tsn_resnet_tiny(2, modality="depth")
    with pytest.raises(ValueError, match="at least one field"):
        tsn_resnet_tiny(2, modality="flow", flow_fields=0)


def test_check_clip_says_what_is_wanted():
    with pytest.raises(ValueError, match=r"\(1, 8, 4, 2, 2\).*C = 3"):
        check_clip(torch.zeros(1, 8, 4, 2, 2), ClipInput())
    with pytest.raises(ValueError, match=r"has 4 frames.*made for 8"):
        check_clip(torch.zeros(1, 4, 3, 2, 2), ClipInput(frames=8))


@pytest.mark.parametrize(
    "build",
    [
        lambda: resnet_tiny(width=4),
        lambda: mobilenet_v3_small(None),
        lambda: bn_inception(None, size=64),
        lambda: timm_backbone("resnet10t", None, size=64),
        lambda: timm_backbone("vit_tiny_patch16_224", None, size=64),
    ],
    ids=["resnet", "mobilenet", "bn_inception", "timm_resnet", "timm_vit"],
)
def test_gradient_checkpointing_changes_nothing(build):
    """Same output, gradients, batch-norm statistics and tensor names; only memory differs."""

    def train_step(mode):
        torch.manual_seed(0)
        network = build().train()
        set_gradient_checkpointing(network, mode)
        images = torch.randn(4, 3, 64, 64)
        output = network(images)
        output.square().sum().backward()
        return output, {k: p.grad for k, p in network.named_parameters()}, network.state_dict()

    for plain, saving in zip(train_step("none"), train_step("block"), strict=True):
        torch.testing.assert_close(saving, plain)


def test_gradient_checkpointing_keeps_less_for_backward():
    network = resnet_tiny(width=4).train()

    def kept():
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.randn(2, 3, 64, 64))
        return sum(sizes)

    plain = kept()
    set_gradient_checkpointing(network)
    assert kept() < 0.6 * plain
    set_gradient_checkpointing(network, "none")
    assert kept() == plain
    set_gradient_checkpointing(nn.Linear(1, 1), "none")  # nothing to switch off is fine
    with pytest.raises(ValueError, match="Linear has no residual blocks"):
        set_gradient_checkpointing(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="'none' or 'block'"):
        set_gradient_checkpointing(network, "all")


def test_auto_says_aloud_that_it_found_no_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The one place that goes on without what was hoped for is asked for by name, and not silent."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    resnet18("auto")
    assert "starts from nothing" in capsys.readouterr().out
    with pytest.raises(OSError, match="no network"):
        resnet18("imagenet")
