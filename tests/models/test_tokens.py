"""The tokens of clip networks: what their vectors are pooled from, in the order of time and space."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vidact.models
from vidact.models.clip_windows import in_windows
from vidact.models.token_probe import refuse_without_tokens, tokens_of

# The network, frames of a clip, its side in pixels, and the places (T', H', W') of its last map.
NETWORKS = {
    "r3d_tiny": (8, 32, (1, 1, 1)),
    "mc3_18": (4, 64, (4, 4, 4)),
    "x3d_s": (4, 64, (4, 2, 2)),
    "movinet_tiny_base": (4, 32, (4, 4, 4)),
}
LARGE_NETWORKS = {
    "r2plus1d_18": (8, 32, (1, 2, 2)),
    "s3d": (16, 64, (2, 2, 2)),
    "swin3d_t": (4, 64, (2, 2, 2)),
    "slow_r50": (4, 64, (4, 2, 2)),
    "c2d_r50": (4, 64, (2, 2, 2)),
    "i3d_r50": (4, 64, (2, 2, 2)),
    "csn_r101": (8, 64, (1, 2, 2)),
    "r2plus1d_r50": (8, 64, (2, 2, 2)),
    "slowfast_r50": (16, 64, (4, 2, 2)),
    "i3d_inception": (16, 64, (2, 2, 2)),
}
EACH = pytest.mark.parametrize(
    "name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE_NETWORKS)]
)


def build(name: str, size: int) -> nn.Module:
    """A network whose blocks do something, so that its maps differ from place to place."""
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(3, weights=None, size=size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.constant_(module.weight, 1.0)  # pytorchvideo starts the last norm of a block at 0
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith(".alpha"):
            nn.init.ones_(parameter)
    return network.eval()


@EACH
@torch.no_grad()
def test_the_vector_of_a_clip_is_made_of_the_mean_of_its_tokens(name):
    frames, size, places = (NETWORKS | LARGE_NETWORKS)[name]
    network, clip = build(name, size), torch.randn(2, frames, 3, size, size)
    tokens = tokens_of(network, clip)
    assert tokens.shape[:2] == (2, places[0] * places[1] * places[2])
    assert (
        tokens.shape[1] == 1 or tokens.std(dim=1).max() > 1e-2 * tokens.abs().max()
    )  # or the mean would prove nothing
    vectors = tokens.mean(dim=1)
    if name == "x3d_s":
        pool = network.trunk.blocks[-1].pool
        vectors = pool.post_act(pool.post_conv(vectors[:, :, None, None, None])).flatten(1)
    elif name == "movinet_tiny_base":
        vectors = F.silu(network.hidden(vectors))
    expected = network.features(clip)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))
    torch.testing.assert_close(tokens_of(network, clip[1:]), tokens[1:], rtol=0, atol=1e-5 * float(tokens.abs().max()))


@torch.no_grad()
def test_tokens_are_in_the_order_of_time_and_space():
    network, clip, inputs = build("r3d_tiny", 64), torch.randn(1, 16, 3, 64, 64), []
    network.trunk.avgpool.register_forward_pre_hook(lambda module, pooled: inputs.append(pooled[0]))
    network.features(clip)
    (maps,) = inputs
    tokens = tokens_of(network, clip)
    time, height, width = maps.shape[2:]
    assert min(time, height, width) > 1
    for t, y, x in ((0, 0, 1), (1, 1, 0), (0, 1, 1)):
        torch.testing.assert_close(tokens[:, (t * height + y) * width + x], maps[:, :, t, y, x])


@pytest.mark.slow
@torch.no_grad()
def test_tokens_of_mvit_are_all_but_that_of_the_class():
    torch.manual_seed(0)
    network = vidact.models.mvit_v2_s(3, weights=None).eval()
    clip, outputs = torch.randn(1, 16, 3, 224, 224), []
    hook = network.trunk.norm.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    vector = network.features(clip)
    hook.remove()
    tokens = tokens_of(network, clip)
    assert tokens.shape == (1, 8 * 7 * 7, network.dim)
    torch.testing.assert_close(tokens, outputs[0][:, 1:])
    torch.testing.assert_close(vector, outputs[0][:, 0])
    refuse_without_tokens(in_windows(network))


def test_clips_that_are_too_short_are_refused_as_for_vectors():
    with pytest.raises(ValueError, match="the clip has 4 frames; this network takes at least 8"):
        tokens_of(build("s3d", 64), torch.zeros(1, 4, 3, 64, 64))
