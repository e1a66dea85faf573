"""The non-local block (Wang, Girshick, Gupta, He 2018, https://arxiv.org/abs/1711.07971).

A weighted sum of all positions of all frames is added to every position of every frame. This is the embedded Gaussian
form with max-pooled keys and values, as in https://github.com/mit-han-lab/temporal-shift-module (MIT). Different here:
the attention is torch's fused attention, so the (T*H*W) x (T*H*W/4) weights are never stored.

Shapes: B videos, T frames, C channels, H x W pixels, D = C / 2 inner channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class NonLocal(nn.Module):
    """An attention over space and time with a skip connection; it starts as the identity.

    Args:
        channels: number of channels C of the input and the output.
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
        """Return images of the same shape as the input (B*T, C, H, W), in clips of ``frames`` frames."""
        clip = images.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, T, H, W)
        query = self.theta(clip)  # (B, D, T, H, W)
        key = F.max_pool3d(self.phi(clip), (1, 2, 2))
        value = F.max_pool3d(self.g(clip), (1, 2, 2))
        # The reference does not divide by sqrt(D), hence scale=1. ONNX needs an axis of heads; it has size 1.
        q, k, v = (part.flatten(2).mT.unsqueeze(1) for part in (query, key, value))  # (B, 1, positions, D)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1)
        mixed = mixed.mT.unflatten(2, query.shape[2:])  # (B, D, T, H, W)
        return (clip + self.norm(self.out(mixed))).transpose(1, 2).flatten(0, 1)
