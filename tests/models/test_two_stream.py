"""Two streams see their own channels of one clip and add their scores."""

import pytest
import torch

from vidact.models import tsn_bn_inception, tsn_resnet_tiny, two_stream_bn_inception, two_stream_resnet_tiny
from vidact.models.two_stream import TwoStream
from vidact.models.weights import load, save


def streams(num_classes=5, **flow):
    torch.manual_seed(0)
    rgb = tsn_resnet_tiny(num_classes, width=8, size=32).eval()
    motion = tsn_resnet_tiny(num_classes, width=8, size=32, modality="flow", **flow).eval()
    for network in (rgb, motion):
        torch.nn.init.normal_(network.fc.weight)
    return rgb, motion


def test_logits_are_the_weighted_sum():
    rgb, flow = streams()
    network = TwoStream(rgb, flow, fusion=(1.0, 1.5))
    clip = torch.randn(2, 3, 13, 32, 32)
    with torch.no_grad():
        expected = rgb(clip[:, :, :3]) + 1.5 * flow(clip[:, :, 3:])
        torch.testing.assert_close(network(clip), expected)
        assert network.features(clip).shape == (2, network.dim) == (2, rgb.dim + flow.dim)
        other = clip.clone()
        other[:, :, 3:] = 0
        torch.testing.assert_close(TwoStream(rgb, flow, (1.0, 0.0))(other), rgb(clip[:, :, :3]))


@pytest.mark.parametrize("fusion", [(1.0, 1.5), (1.0, 0.0)])
def test_softmax_fusion_gives_the_mean_probability(fusion):
    rgb, flow = streams()
    clip = torch.randn(2, 3, 13, 32, 32)
    with torch.no_grad():
        parts = rgb(clip[:, :, :3]).softmax(1), flow(clip[:, :, 3:]).softmax(1)
        expected = (fusion[0] * parts[0] + fusion[1] * parts[1]) / sum(fusion)
        fused = TwoStream(rgb, flow, fusion, scores="softmax")(clip)
    torch.testing.assert_close(fused.softmax(dim=1), expected)
    torch.testing.assert_close(fused.exp().sum(dim=1), torch.ones(2))


def test_joint_input_states_every_channel():
    joint = two_stream_resnet_tiny(num_classes=2, flow_fields=2).input
    assert (joint.channels, joint.rgb_channels, joint.flow_fields) == (7, 3, 2)
    assert joint.mean == (0.485, 0.456, 0.406, 0.5, 0.5, 0.5, 0.5)
    assert joint.std == pytest.approx((0.229, 0.224, 0.225, 0.226, 0.226, 0.226, 0.226))
    caffe = two_stream_bn_inception(num_classes=2, weights=None).input
    assert caffe.mean == (104.0, 117.0, 128.0, *[128.0] * 10)
    assert (caffe.order, caffe.scale) == ("bgr", 255.0)


def test_streams_that_do_not_belong_together():
    rgb, flow = streams()
    with pytest.raises(ValueError, match="RGB stream has 4 classes and the flow stream 5"):
        TwoStream(streams(4)[0], flow)
    with pytest.raises(ValueError, match="first stream takes RGB only"):
        TwoStream(flow, rgb)
    with pytest.raises(ValueError, match=r"disagree on scale: 255\.0 for RGB, 1\.0 for flow"):
        TwoStream(tsn_bn_inception(5, weights=None, size=32), flow)
    with pytest.raises(ValueError, match="'logits' or 'softmax'"):
        TwoStream(rgb, flow, scores="sum")
    with pytest.raises(ValueError, match="neither below zero"):
        TwoStream(rgb, flow, fusion=(1.0, -1.0))


def test_streams_come_from_their_trained_files(tmp_path):
    rgb, flow = streams()
    paths = {
        "rgb_weights": str(save(rgb, tmp_path / "rgb.safetensors", {"classes": list("abcde")})),
        "flow_weights": str(save(flow, tmp_path / "flow.safetensors", {"classes": list("abcde")})),
    }
    network = two_stream_resnet_tiny(num_classes=5, width=8, size=32, **paths).eval()
    clip = torch.randn(1, 2, 13, 32, 32)
    with torch.no_grad():
        expected = network(clip)
        torch.testing.assert_close(expected, TwoStream(rgb, flow)(clip))
    fused = save(network, tmp_path / "both.safetensors")
    for path in paths.values():  # the fused file needs neither
        (tmp_path / path).unlink()
    with torch.no_grad():
        torch.testing.assert_close(load(fused)(clip), expected)


def test_trained_files_must_fit_whole_and_agree(tmp_path):
    rgb, flow = streams()
    first = str(save(rgb, tmp_path / "rgb.safetensors", {"classes": list("abcde")}))
    second = str(save(flow, tmp_path / "flow.safetensors", {"classes": list("abdce")}))
    with pytest.raises(ValueError, match="class 2 is 'c' in the first and 'd' in the second"):
        two_stream_resnet_tiny(num_classes=5, width=8, size=32, rgb_weights=first, flow_weights=second)
    with pytest.raises(ValueError, match=r"wrong shape: .*fc\.weight \(5, 64\) for \(4, 64\)"):
        two_stream_resnet_tiny(num_classes=4, width=8, size=32, rgb_weights=first)
