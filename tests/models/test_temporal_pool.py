"""TSM with temporal pooling: what is left of a clip, and names and cost as published."""

import pytest
import torch
from support.published import assert_same_under, giga_macs, millions

from vidact.models import backbones, tsm_resnet50_pooled, tsm_resnet_tiny, tsm_resnet_tiny_pooled
from vidact.models.temporal_pool import PooledTSM, pool_over_time
from vidact.models.weights import from_reference


def test_published_size():
    assert millions("tsm_resnet50_pooled", 400) == 24.328
    assert giga_macs("tsm_resnet50_pooled", 400) == pytest.approx(19.50, abs=0.005)


@pytest.mark.parametrize(("frames", "left"), [(8, [1, 3, 5, 7]), (5, [1, 3, 4]), (1, [0])])
def test_the_largest_of_three_at_every_other_frame(frames, left):
    """Frames that grow with time: the later neighbour is the largest, and at the end the last frame itself."""
    images = torch.arange(frames).float().repeat(2).view(-1, 1, 1, 1)
    images[frames:] += 100
    pooled, kept = pool_over_time(images, frames)
    assert kept == len(left)
    assert pooled.flatten().tolist() == left + [100 + frame for frame in left]


def test_later_layers_see_half_of_the_frames():
    network = tsm_resnet_tiny_pooled(2, size=32).eval()
    clip = torch.randn(1, 8, 3, 32, 32)
    with torch.no_grad():
        assert network.frame_features(clip).shape == (1, 4, network.dim)
        plain = tsm_resnet_tiny(2, size=32).eval()
        plain.load_state_dict(network.state_dict())
        assert plain.frame_features(clip).shape == (1, 8, network.dim)
        # A still video is pooled to itself, but the shifts meet other ends: only one frame is the same in both.
        torch.testing.assert_close(network(clip[:, :1]), plain(clip[:, :1]))


def test_whole_files():
    network = tsm_resnet50_pooled(7, weights=None)
    names = {}
    for key, value in network.state_dict().items():
        name = key.removeprefix("backbone.").replace("layer2.", "layer2.net.")
        if name.startswith("layer"):
            name = name.replace(".conv1.", ".conv1.net.")
        names[f"module.new_{name}" if name.startswith("fc.") else f"module.base_model.{name}"] = value
    assert "module.base_model.layer2.net.0.conv1.net.weight" in names
    assert_same_under("tsm_temporal_pool", network, names, num_segments=8)
    with pytest.raises(ValueError, match=r"unknown: module\.base_model\.layer2\.net"):
        from_reference("tsm", names, num_classes=7)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="MobileNet has none"):
        PooledTSM(backbones.mobilenet_v2(None), 2)
    with pytest.raises(ValueError, match="the temporal pooling layout knows resnet50"):
        from_reference("tsm_temporal_pool", {}, num_classes=2, backbone="resnet18")
