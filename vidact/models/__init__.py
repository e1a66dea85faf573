"""Networks: one file per paper, and one function per size. ``vidact.models.<name>(num_classes=…)`` builds a network.

Clip networks (``vidact.models.clip_network.ClipNetwork``) are ``nn.Module``s that take clips (B, T, C, H, W), described
by their attribute ``input``, and return logits (B, K). Online detectors (``vidact.models.online.OnlineNetwork``) take
features (B, T, D) and return logits for every token. Offline networks (``vidact.models.offline.OfflineNetwork``) take
the features of whole videos and return events, or a label for every token.
"""

import vidact.models.light_torchvision  # noqa: F401  (before the files that import torchvision)

# isort: split
from vidact.models.action_net import action_net_resnet50, action_net_resnet_tiny
from vidact.models.actionformer import actionformer, actionformer_proposals, actionformer_small
from vidact.models.asformer import asformer
from vidact.models.bn_inception import bn_inception_classifier
from vidact.models.causal import causal_transformer
from vidact.models.clip_windows import clip_windows
from vidact.models.eco import eco_full, eco_lite, eco_lite_tiny
from vidact.models.frame_classifier import frame_classifier
from vidact.models.gsm import gsm_bn_inception, gsm_bn_inception_tiny
from vidact.models.i3d import i3d_inception
from vidact.models.idn import idn
from vidact.models.lstr import lstr, testra
from vidact.models.miniroad import miniroad, miniroad_small
from vidact.models.movinet import (
    movinet_a0_base,
    movinet_a0_stream,
    movinet_a1_base,
    movinet_a1_stream,
    movinet_a2_base,
    movinet_a2_stream,
    movinet_a3_base,
    movinet_a4_base,
    movinet_a5_base,
    movinet_tiny_base,
    movinet_tiny_stream,
)
from vidact.models.ms_tcn import causal_ms_tcn, ms_tcn, ms_tcn_pp
from vidact.models.mvfnet import mvfnet_resnet50, mvfnet_resnet101, mvfnet_resnet_tiny
from vidact.models.oadtr import oadtr
from vidact.models.probe import clip_probe
from vidact.models.stm import stm_resnet18, stm_resnet50, stm_resnet_tiny
from vidact.models.tanet import tanet_mobilenet_v2, tanet_resnet18, tanet_resnet50, tanet_resnet_tiny
from vidact.models.tdn import tdn_mobilenet_v2, tdn_resnet18, tdn_resnet50, tdn_resnet101, tdn_resnet_tiny
from vidact.models.tea import tea_mobilenet_v2, tea_res2net50, tea_res2net_tiny, tea_resnet18, tea_resnet_tiny
from vidact.models.temporal_pool import tsm_resnet50_pooled, tsm_resnet_tiny_pooled
from vidact.models.tin import tin_resnet18, tin_resnet50, tin_resnet_tiny
from vidact.models.token_probe import attentive_probe
from vidact.models.tridet import tridet
from vidact.models.trn_recurrent import trn_recurrent, trn_recurrent_small
from vidact.models.trn_relation import (
    trn_bn_inception,
    trn_mobilenet_v2,
    trn_relation_head,
    trn_resnet18,
    trn_resnet50,
    trn_resnet_tiny,
)
from vidact.models.tsm import (
    tsm_efficientnet_b0,
    tsm_mobilenet_v2,
    tsm_mobilenet_v3_large,
    tsm_mobilenet_v3_small,
    tsm_resnet18,
    tsm_resnet34,
    tsm_resnet50,
    tsm_resnet50_nonlocal,
    tsm_resnet101,
    tsm_resnet_tiny,
)
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
    two_stream_mobilenet_v2,
    two_stream_resnet18,
    two_stream_resnet50,
    two_stream_resnet_tiny,
)
from vidact.models.video_networks import (
    c2d_r50,
    csn_r101,
    i3d_r50,
    mc3_18,
    mvit_v1_b,
    mvit_v2_s,
    r2plus1d_18,
    r2plus1d_r50,
    r3d_18,
    r3d_tiny,
    s3d,
    slow_r50,
    slowfast_r50,
    slowfast_r101,
    swin3d_b,
    swin3d_s,
    swin3d_t,
    x3d_l,
    x3d_m,
    x3d_s,
    x3d_xs,
)
from vidact.models.video_transformers import (
    videomae_base,
    videomae_huge,
    videomae_large,
    videomae_small,
    videomae_tiny,
    vjepa2_giant,
    vjepa2_huge,
    vjepa2_large,
    vjepa2_tiny,
)
from vidact.models.weights import load, save

__all__ = [
    "action_net_resnet50",
    "action_net_resnet_tiny",
    "actionformer",
    "actionformer_proposals",
    "actionformer_small",
    "asformer",
    "attentive_probe",
    "bn_inception_classifier",
    "c2d_r50",
    "causal_ms_tcn",
    "causal_transformer",
    "clip_probe",
    "clip_windows",
    "csn_r101",
    "eco_full",
    "eco_lite",
    "eco_lite_tiny",
    "frame_classifier",
    "gsm_bn_inception",
    "gsm_bn_inception_tiny",
    "i3d_inception",
    "i3d_r50",
    "idn",
    "load",
    "lstr",
    "mc3_18",
    "miniroad",
    "miniroad_small",
    "movinet_a0_base",
    "movinet_a0_stream",
    "movinet_a1_base",
    "movinet_a1_stream",
    "movinet_a2_base",
    "movinet_a2_stream",
    "movinet_a3_base",
    "movinet_a4_base",
    "movinet_a5_base",
    "movinet_tiny_base",
    "movinet_tiny_stream",
    "ms_tcn",
    "ms_tcn_pp",
    "mvfnet_resnet50",
    "mvfnet_resnet101",
    "mvfnet_resnet_tiny",
    "mvit_v1_b",
    "mvit_v2_s",
    "oadtr",
    "r2plus1d_18",
    "r2plus1d_r50",
    "r3d_18",
    "r3d_tiny",
    "s3d",
    "save",
    "slow_r50",
    "slowfast_r50",
    "slowfast_r101",
    "stm_resnet18",
    "stm_resnet50",
    "stm_resnet_tiny",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
    "tanet_mobilenet_v2",
    "tanet_resnet18",
    "tanet_resnet50",
    "tanet_resnet_tiny",
    "tdn_mobilenet_v2",
    "tdn_resnet18",
    "tdn_resnet50",
    "tdn_resnet101",
    "tdn_resnet_tiny",
    "tea_mobilenet_v2",
    "tea_res2net50",
    "tea_res2net_tiny",
    "tea_resnet18",
    "tea_resnet_tiny",
    "testra",
    "tin_resnet18",
    "tin_resnet50",
    "tin_resnet_tiny",
    "tridet",
    "trn_bn_inception",
    "trn_mobilenet_v2",
    "trn_recurrent",
    "trn_recurrent_small",
    "trn_relation_head",
    "trn_resnet18",
    "trn_resnet50",
    "trn_resnet_tiny",
    "tsm_efficientnet_b0",
    "tsm_mobilenet_v2",
    "tsm_mobilenet_v3_large",
    "tsm_mobilenet_v3_small",
    "tsm_resnet18",
    "tsm_resnet34",
    "tsm_resnet50",
    "tsm_resnet50_nonlocal",
    "tsm_resnet50_pooled",
    "tsm_resnet101",
    "tsm_resnet_tiny",
    "tsm_resnet_tiny_pooled",
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
    "two_stream_mobilenet_v2",
    "two_stream_resnet18",
    "two_stream_resnet50",
    "two_stream_resnet_tiny",
    "videomae_base",
    "videomae_huge",
    "videomae_large",
    "videomae_small",
    "videomae_tiny",
    "vjepa2_giant",
    "vjepa2_huge",
    "vjepa2_large",
    "vjepa2_tiny",
    "x3d_l",
    "x3d_m",
    "x3d_s",
    "x3d_xs",
]
