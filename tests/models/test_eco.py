"""ECO: what branches off where, and names and sizes as published."""

import pytest
import torch
from support.published import giga_macs, millions

from vidact.models import eco_full, eco_lite
from vidact.models.bn_inception import bn_inception
from vidact.models.eco import Unit3D
from vidact.models.weights import from_reference


@pytest.mark.parametrize(("name", "published"), [("eco_lite", 37.504), ("eco_full", 47.502)])
def test_parameters_in_millions(name, published):
    assert millions(name, 400) == published


@pytest.mark.parametrize(
    ("name", "frames", "published"),
    [("eco_lite", 4, 11.62), ("eco_lite", 16, 46.49), ("eco_full", 4, 16.10), ("eco_full", 8, 32.21)],
)
def test_multiply_adds(name, frames, published):
    assert giga_macs(name, 400, frames) == pytest.approx(published, abs=0.01)


def test_the_skip_connection_carries_raw_sums():
    """Pre-activation: what is added was neither normalised nor rectified; a strided skip starts from rectified maps."""
    torch.manual_seed(0)
    raw = torch.randn(1, 4, 4, 6, 6)
    same, half = Unit3D(4, 4).eval(), Unit3D(4, 8).eval()
    maps, total = same(raw.relu(), raw)
    expected = same.conv2(same.bn1(same.conv1(raw.relu())).relu()) + raw
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(maps, same.bn(expected).relu())
    _, total = half(raw.relu(), raw)
    torch.testing.assert_close(total, half.conv2(half.bn1(half.conv1(raw.relu())).relu()) + half.skip(raw.relu()))
    assert total.shape == (1, 8, 2, 3, 3)


@pytest.fixture(scope="module")
def full():
    torch.manual_seed(0)
    return eco_full(3, weights=None, size=64).eval()


def test_the_2d_branch_is_bn_inception(full):
    """The frames' vectors are what the whole image network says, averaged."""
    trunk = bn_inception(None, 64).eval()
    trunk.load_state_dict(full.trunk.state_dict())
    clip = torch.randn(1, 3, 3, 64, 64) * 50
    with torch.no_grad():
        expected = trunk(clip[0]).mean(0)
        vector = full.features(clip)[0]
    torch.testing.assert_close(vector[:1024], expected)
    assert full.dim == len(vector) == 1536


def test_features_give_the_logits(full):
    clip = torch.randn(2, 4, 3, 64, 64) * 50
    with torch.no_grad():
        torch.testing.assert_close(full.fc(full.features(clip)), full(clip))


def test_lite_has_no_idle_part():
    names = {name.split(".")[1] for name, _ in eco_lite(3, weights=None).named_parameters() if name.startswith("trunk")}
    assert names == {
        "conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3", "inception_3a", "inception_3b", "inception_3c"
    }  # fmt: skip


def published(network):
    names = {}
    for key, value in network.state_dict().items():
        name = key.replace("spatiotemporal.conv.", "res3a_2.").replace("spatiotemporal.bn.", "res3a_bn.")
        for number, unit in enumerate(["res3b", "res4a", "res4b", "res5a", "res5b"]):
            for ours, theirs in [("conv1", "1"), ("bn1", "1_bn"), ("conv2", "2"), ("skip", "down"), ("bn", "bn")]:
                name = name.replace(f"spatiotemporal.units.{number}.{ours}.", f"{unit}_{theirs}.")
        for ours, theirs in [
            ("trunk.", ""),
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
    return names


@pytest.mark.parametrize(("origin", "build", "tensors"), [("eco_lite", eco_lite, 216), ("eco_full", eco_full, 566)])
def test_whole_files(origin, build, tensors):
    """Files of whole networks: `base_model.` in front, the classifier as `new_fc`."""
    network = build(7, weights=None)
    names = published(network)
    assert len(names) == tensors
    loaded = from_reference(origin, names, num_classes=7, num_segments=16)
    for (name, ours), theirs in zip(network.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    other = "eco_full" if origin == "eco_lite" else "eco_lite"
    with pytest.raises(ValueError, match=r"of the wrong shape: .*module\.new_fc"):
        from_reference(other, names, num_classes=7)
