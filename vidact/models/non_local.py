"""Non-local block (Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971).

Every position of every frame is added a weighted sum of all positions of all frames. This is the embedded Gaussian form
with max-pooled keys and values, as https://github.com/mit-han-lab/temporal-shift-module (MIT) puts into TSM. Different
here: the attention is torch's fused one, so the (T*H*W) x (T*H*W/4) weights are never stored.

Shapes: B videos, T frames, C channels, H x W pixels, D = C / 2 inner channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class NonLocal(nn.Module):
    """Attention over space and time with a skip connection; an identity until its last norm is trained.

    Args:
        channels: C of the frames it gets and returns.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        """Images (B*T, C, H, W) of clips of ``frames`` frames → the same shape."""
        clip = images.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, T, H, W)
        query = self.theta(clip)  # (B, D, T, H, W)
        key = F.max_pool3d(self.phi(clip), (1, 2, 2))
        value = F.max_pool3d(self.g(clip), (1, 2, 2))
        # The reference does not divide by sqrt(D), hence scale=1. ONNX wants an axis of heads; there is one.
        q, k, v = (part.flatten(2).mT.unsqueeze(1) for part in (query, key, value))  # (B, 1, places, D)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1)
        mixed = mixed.mT.unflatten(2, query.shape[2:])  # (B, D, T, H, W)
        return (clip + self.norm(self.out(mixed))).transpose(1, 2).flatten(0, 1)
