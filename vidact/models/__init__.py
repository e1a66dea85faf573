"""Networks: one file per paper, and one function per size. ``vidact.models.<name>(num_classes=…)`` builds a network.

Each one is a plain ``nn.Module`` that takes clips (B, T, C, H, W) as its ``input`` says and returns logits (B, K).
"""

from vidact.models.bn_inception import bn_inception_classifier
from vidact.models.tsn import (
    tsn_bn_inception,
    tsn_efficientnet_b0,
    tsn_mobilenet_v2,
    tsn_mobilenet_v3_large,
    tsn_mobilenet_v3_small,
    tsn_resnet18,
    tsn_resnet34,
    tsn_resnet50,
    tsn_resnet101,
    tsn_resnet_tiny,
    tsn_timm,
)
from vidact.models.two_stream import (
    two_stream_bn_inception,
    two_stream_resnet18,
    two_stream_resnet50,
    two_stream_resnet_tiny,
)
from vidact.models.video_networks import (
    c2d_r50,
    csn_r101,
    i3d_r50,
    mc3_18,
    mvit_v2_s,
    r2plus1d_18,
    r2plus1d_r50,
    r3d_18,
    s3d,
    slow_r50,
    slowfast_r50,
    swin3d_t,
    x3d_m,
    x3d_s,
    x3d_xs,
)
from vidact.models.weights import load, save

__all__ = [
    "bn_inception_classifier",
    "c2d_r50",
    "csn_r101",
    "i3d_r50",
    "load",
    "mc3_18",
    "mvit_v2_s",
    "r2plus1d_18",
    "r2plus1d_r50",
    "r3d_18",
    "s3d",
    "save",
    "slow_r50",
    "slowfast_r50",
    "swin3d_t",
    "tsn_bn_inception",
    "tsn_efficientnet_b0",
    "tsn_mobilenet_v2",
    "tsn_mobilenet_v3_large",
    "tsn_mobilenet_v3_small",
    "tsn_resnet18",
    "tsn_resnet34",
    "tsn_resnet50",
    "tsn_resnet101",
    "tsn_resnet_tiny",
    "tsn_timm",
    "two_stream_bn_inception",
    "two_stream_resnet18",
    "two_stream_resnet50",
    "two_stream_resnet_tiny",
    "x3d_m",
    "x3d_s",
    "x3d_xs",
]
