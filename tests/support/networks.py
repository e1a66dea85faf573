"""The networks that the contract tests build, at sizes a CPU can afford; a new network adds its line here."""

import pytest
import torch
from torch import nn

# (name in vidact.models, arguments); `weights: None` goes without saying.
CLIP_NETWORKS = [
    ("tsn_resnet_tiny", {"size": 32, "width": 8}),
    ("tsn_resnet_tiny", {"size": 32, "width": 8, "modality": "flow", "flow_fields": 2}),
    ("tsn_resnet18", {"size": 32}),
    ("tsn_mobilenet_v2", {"size": 32}),
    ("tsn_mobilenet_v3_small", {"size": 32}),
    ("tsn_timm", {"name": "resnet10t", "size": 32}),
    ("tsn_resnet_tiny", {"size": 32, "width": 8, "modality": "rgb_difference", "flow_fields": 2}),
    ("two_stream_resnet_tiny", {"size": 32, "width": 8}),
    ("tsm_resnet_tiny", {"size": 32, "width": 8}),
    ("tsm_resnet_tiny", {"size": 32, "width": 8, "shift": "causal"}),
    ("tsm_mobilenet_v2", {"size": 32}),
    ("tsm_mobilenet_v3_small", {"size": 32}),
    ("trn_resnet_tiny", {"size": 32, "width": 8, "num_segments": 4}),
    ("trn_resnet_tiny", {"size": 32, "width": 8, "num_segments": 4, "scales": "single"}),
    ("trn_mobilenet_v2", {"size": 32, "num_segments": 4}),
    ("tanet_resnet_tiny", {"size": 32, "width": 8, "num_segments": 4}),
    ("tanet_mobilenet_v2", {"size": 32, "num_segments": 4}),
    ("tea_resnet_tiny", {"size": 32, "width": 8}),
    ("tea_res2net_tiny", {"size": 32, "planes": 8}),
    ("tea_mobilenet_v2", {"size": 32}),
    ("tdn_resnet_tiny", {"size": 32, "width": 8}),
    ("tdn_mobilenet_v2", {"size": 32}),
    ("stm_resnet_tiny", {"size": 32, "width": 8}),
    ("action_net_resnet_tiny", {"size": 32, "width": 32}),
    ("mvfnet_resnet_tiny", {"size": 32, "width": 8}),
    ("tin_resnet_tiny", {"size": 32, "width": 16, "num_segments": 4}),
    ("tsm_resnet_tiny_pooled", {"size": 32, "width": 8}),
    ("gsm_bn_inception_tiny", {"size": 64, "narrow": 8}),
    ("eco_lite_tiny", {"size": 64, "narrow": 8}),
    ("r3d_tiny", {"size": 32, "width": 8}),
    ("x3d_s", {"size": 64}),
    ("mc3_18", {"size": 32}),
    ("movinet_tiny_base", {"size": 32}),
    ("movinet_tiny_stream", {"size": 32}),
    ("videomae_tiny", {"size": 32}),
    ("vjepa2_tiny", {"size": 32}),
]

# Larger ones: `pytest -m slow`.
LARGE_CLIP_NETWORKS = [
    ("tsn_resnet34", {"size": 32}),
    ("tsn_resnet50", {"size": 32}),
    ("tsn_resnet101", {"size": 32}),
    ("tsn_bn_inception", {"size": 64}),
    ("tsn_bn_inception", {"size": 64, "modality": "flow"}),
    ("tsn_mobilenet_v3_large", {"size": 32}),
    ("two_stream_resnet18", {"size": 32}),
    ("two_stream_resnet50", {"size": 32, "scores": "softmax"}),
    ("two_stream_bn_inception", {"size": 64}),
    ("tsm_resnet34", {"size": 32}),
    ("tsm_resnet50", {"size": 32}),
    ("tsm_resnet50", {"size": 32, "modality": "flow"}),
    ("tsm_resnet50_nonlocal", {"size": 64}),
    ("tsm_resnet101", {"size": 32, "shift": "causal"}),
    ("tsm_mobilenet_v3_large", {"size": 32}),
    ("trn_resnet18", {"size": 32}),
    ("trn_resnet50", {"size": 32}),
    ("trn_bn_inception", {"size": 64}),
    ("tanet_resnet18", {"size": 32}),
    ("action_net_resnet50", {"size": 32}),
    ("mvfnet_resnet50", {"size": 32}),
    ("mvfnet_resnet101", {"size": 32}),
    ("tanet_resnet50", {"size": 32}),
    ("tea_resnet18", {"size": 32}),
    ("tea_res2net50", {"size": 32}),
    ("tdn_resnet18", {"size": 32}),
    ("tdn_resnet50", {"size": 32}),
    ("tdn_resnet101", {"size": 32, "alpha": 0.75, "beta": 0.25}),
    ("stm_resnet18", {"size": 32}),
    ("stm_resnet50", {"size": 32}),
    ("tin_resnet18", {"size": 32}),
    ("tin_resnet50", {"size": 32}),
    ("tsm_resnet50_pooled", {"size": 32}),
    ("gsm_bn_inception", {"size": 64}),
    ("gsm_bn_inception", {"size": 64, "modality": "flow"}),
    ("eco_lite", {"size": 64}),
    ("eco_full", {"size": 64}),
    ("slowfast_r50", {"size": 64}),
    ("slow_r50", {"size": 64}),
    ("c2d_r50", {"size": 64}),
    ("i3d_r50", {"size": 64}),
    ("csn_r101", {"size": 64}),
    ("r2plus1d_r50", {"size": 64}),
    ("x3d_m", {"size": 64}),
    ("r2plus1d_18", {"size": 32}),
    ("swin3d_t", {"size": 64}),
    ("mvit_v2_s", {}),
    ("r3d_18", {"size": 32}),
    ("s3d", {"size": 64}),
    ("x3d_xs", {"size": 64}),
    ("x3d_l", {"size": 64}),
    ("slowfast_r101", {"size": 64}),
    ("mvit_v1_b", {}),
    ("swin3d_s", {"size": 64}),
    ("swin3d_b", {"size": 64}),
    ("videomae_small", {"size": 32}),
    ("videomae_base", {"size": 32}),
    ("i3d_inception", {"size": 64}),
    ("i3d_inception", {"size": 64, "modality": "flow"}),
    *((f"movinet_a{number}_base", {"size": 32}) for number in range(6)),
    *((f"movinet_a{number}_stream", {"size": 32}) for number in range(3)),
    ("tsm_mobilenet_v2", {"size": 32, "modality": "rgb_difference", "flow_fields": 2}),
    ("two_stream_mobilenet_v2", {"size": 32, "shift": "causal"}),
    ("tsm_efficientnet_b0", {"size": 32}),
    ("tsn_efficientnet_b0", {"size": 32}),
    ("tsm_resnet18", {"size": 32}),
]

# Too large for the contract's tests: their layers are those of smaller ones, and test_video_transformers.py counts
# their parameters.
HUGE_CLIP_NETWORKS = ["videomae_large", "videomae_huge", "vjepa2_large", "vjepa2_huge", "vjepa2_giant"]

# Networks whose layers come from an optional package: how their names in vidact.models begin → the package.
OPTIONAL = {"videomae": "transformers", "vjepa2": "transformers"}


def skip_without_package(name):
    """Skip the test if the package that the network's layers come from is not installed."""
    if package := OPTIONAL.get(name.partition("_")[0]):
        pytest.importorskip(package)


@torch.no_grad()
def vary(network, batch, clip, std):
    """Let the answers of a network that steps differ from frame to frame of the clip, by ``std``; in evaluation mode.

    The network must be new. Its batch norms get the statistics of the batch.
    """
    for name, parameter in network.named_parameters():
        if name.endswith(".alpha"):  # MoViNet's blocks begin without their convolutions
            parameter.fill_(1.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of the batches, here of one
    network.train()(batch)
    network.eval().fc.weight *= std / network.frame_logits(clip).std(1).mean()
    return network
