"""What every clip network promises, whatever is inside."""

import copy
import functools
import json
import re

import pytest
import torch
from support.networks import CLIP_NETWORKS, HUGE_CLIP_NETWORKS, LARGE_CLIP_NETWORKS, skip_without_package
from support.offline_networks import OFFLINE_NETWORKS
from support.online_networks import ONLINE_NETWORKS
from torch import nn

import vidact.models
from vidact.batch import ClipInput
from vidact.models.backbones import channels_last, clip_channels_last, set_gradient_checkpointing
from vidact.models.weights import is_builder, load, save


def label(case):
    return "-".join([case[0], *(f"{value}" for key, value in case[1].items() if key != "size")])


EVERY = pytest.mark.parametrize(
    "case",
    [*CLIP_NETWORKS, *(pytest.param(case, marks=pytest.mark.slow) for case in LARGE_CLIP_NETWORKS)],
    ids=lambda case: label(case),
)


@functools.lru_cache(maxsize=len(CLIP_NETWORKS))
def _build(name, arguments):
    torch.manual_seed(0)
    return awake(getattr(vidact.models, name)(num_classes=5, weights=None, **json.loads(arguments)))


def awake(network):
    """As if trained a little: some untrained networks answer every clip alike, and would keep any law."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average of the batches it sees
        if not norm.weight.any():
            nn.init.ones_(norm.weight)
    for name, parameter in network.named_parameters():
        if name.endswith(".alpha"):  # MoViNet's blocks begin without their convolutions
            nn.init.ones_(parameter)
    with torch.no_grad():
        network.train()(clip_for(network, frames=network.input.frames))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def build(case):
    """The network, one for all the tests of a case; nobody changes it."""
    skip_without_package(case[0])
    return _build(case[0], json.dumps(case[1]))


def clip_for(network, videos=2, frames=None):
    frames = frames or network.input.frames or max(4, getattr(network, "min_frames", 4))
    size = network.input.size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(videos, frames, network.input.channels, size, size, generator=generator)


def assert_same(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


def test_every_network_is_listed():
    """A network of vidact.models without a line in networks.py would escape every law below."""
    listed = {name for name, _ in [*CLIP_NETWORKS, *LARGE_CLIP_NETWORKS]} | set(HUGE_CLIP_NETWORKS)
    builders = {name for name in vidact.models.__all__ if is_builder(getattr(vidact.models, name))}
    # test_online_laws.py and test_offline_laws.py see to theirs
    sequences = {name for name, _ in [*ONLINE_NETWORKS, *OFFLINE_NETWORKS]}
    parts = {"attentive_probe", "bn_inception_classifier", "clip_probe", "clip_windows", "trn_relation_head"}
    assert listed == builders - parts - sequences


@EVERY
def test_how_tensors_lie_in_memory_does_not_matter(case):
    """Weights as a GPU would have them, and the clip that goes with them."""
    # In double precision: another layout is another order of sums, which deep 3-D networks make much of.
    network = copy.deepcopy(build(case)).double()
    clip = clip_for(network).double()
    with torch.no_grad():
        expected = network(clip)
        turned = channels_last(network, torch.device("cuda"))
        assert_same(turned(clip_channels_last(clip)), expected)


@EVERY
def test_logits_and_input(case):
    network = build(case)
    clip = clip_for(network)
    with torch.no_grad():
        logits = network(clip)
    assert logits.shape == (2, network.num_classes) == (2, 5)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert network.input.size == case[1].get("size", 224)
    assert ClipInput(**json.loads(json.dumps(network.input.as_dict()))) == network.input
    with pytest.raises(ValueError, match=f"C = {network.input.channels}"):
        network(torch.cat([clip, clip[:, :, :1]], dim=2))
    if network.input.frames is not None:
        with pytest.raises(ValueError, match="frames"):
            network(torch.cat([clip, clip[:, :1]], dim=1))


@EVERY
def test_features_are_one_vector_per_clip(case):
    network = build(case)
    if not hasattr(network, "dim"):
        pytest.skip("this network has no vector per clip")
    with torch.no_grad():
        assert network.features(clip_for(network)).shape == (2, network.dim)


@EVERY
def test_any_length(case):
    """A network whose weights do not fix T takes 4, 8 and 16 frames, and the clip matters in each."""
    network = build(case)
    if network.input.frames is not None:
        pytest.skip(f"made for {network.input.frames} frames")
    for frames in (4, 8, 16):
        if frames < getattr(network, "min_frames", 1):
            with pytest.raises(ValueError, match="at least"), torch.no_grad():
                network(clip_for(network, frames=frames))
            continue
        with torch.no_grad():
            assert network(clip_for(network, videos=1, frames=frames)).shape == (1, 5)


@EVERY
def test_batch_mates_change_nothing(case):
    # In double precision: a convolution may sum in another order for another batch size.
    network = copy.deepcopy(build(case)).double()
    clip = clip_for(network).double()
    with torch.no_grad():
        together = network(clip)
        assert_same(network(clip[1:2]), together[1:2])
        assert (together[0] - together[1]).abs().max() > 1e-6


# MViT reads its class token only, which the last block's relative positions and query pool do not touch.
IDLE = {"mvit_v2_s": r"trunk\.blocks\.15\.attn\.(rel_pos|pool_q)"}


@EVERY
def test_gradient_reaches_every_parameter(case):
    network = build(case)
    generator = torch.Generator().manual_seed(2)
    clip = clip_for(network)
    logits = network(clip)
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    idle = [
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim > 1 and parameter.grad is not None and not parameter.grad.abs().sum() > 0
        if not re.match(IDLE.get(case[0], "$"), name)
    ]
    network.zero_grad(set_to_none=True)
    assert not without
    assert not idle


# Blocks that no tiny network has, and all there is around them.
BLOCKS = ("tsn_bn_inception", "tsn_efficientnet_b0", "tsm_resnet50_nonlocal", "two_stream_resnet50", "eco_full",
          "slowfast_r50", "csn_r101", "r2plus1d_18", "swin3d_t", "s3d", "i3d_inception")  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        case if "tiny" in case[0] else pytest.param(case, marks=pytest.mark.slow)
        for case in [*CLIP_NETWORKS, *(case for case in LARGE_CLIP_NETWORKS if case[0] in BLOCKS)]
    ],
    ids=lambda case: label(case),
)
def test_gradient_checkpointing_changes_only_memory(case):
    """Logits, gradients and the statistics of batch norms, dropout included."""
    plain = copy.deepcopy(build(case)).train()
    thrifty = copy.deepcopy(plain)
    set_gradient_checkpointing(thrifty)
    clip = clip_for(plain)
    kept = []
    for network in (plain, thrifty):
        sizes = {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = network(clip)
        logits.square().sum().backward()
        kept.append((logits, sum(sizes.values())))
    (expected, all_of_it), (actual, less) = kept
    assert less < all_of_it
    assert_same(actual.detach(), expected.detach())
    largest = max(float(parameter.grad.abs().max()) for parameter in plain.parameters())
    for (name, parameter), other in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        assert float((other.grad - parameter.grad).abs().max()) <= 1e-5 * max(1.0, largest), name
    for (name, buffer), other in zip(plain.named_buffers(), thrifty.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, msg=name)


@EVERY
def test_saved_and_loaded_is_the_same(case, tmp_path):
    network = build(case)
    recipe = network.recipe
    assert recipe == json.loads(json.dumps(recipe))
    assert recipe["builder"] == f"vidact.models.{case[0]}"
    path = save(network, tmp_path / "network.safetensors", {"classes": list("abcde")})
    loaded = load(path)
    assert not loaded.training
    assert loaded.record["classes"] == list("abcde")
    assert loaded.input == network.input
    assert loaded.recipe == recipe
    with torch.no_grad():
        clip = clip_for(network, videos=1)
        assert_same(loaded(clip), network(clip), tolerance=1e-6)
