"""Attentive probes: a head that attends to the tokens of a frozen network, instead of to one vector a clip.

The tokens are

* of VideoMAE, V-JEPA 2 and MViT: the vectors of their tubes;
* of 3-D networks and Video Swin: the places of their last feature map, over time and space;
* of an image network: its last feature map, averaged in a grid of 2 x 2 fields, for each frame, and beside it the
  absolute difference to the frame before, since a query that reads tokens in any order does not see motion;
* of a network with a vector a frame (TSN, TSM, …): these vectors and the same differences.

They are standardised and projected on their first principal components with the training clips; then one
``AttentivePooler`` without further layers, and a linear layer. ``vidact.tasks.attentive`` trains it.

Shapes: B clips, T frames, C channels, H x W pixels, N tokens of a clip, D their width, E the width after the
projection, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.attentive import AttentivePooler
from vidact.models.backbones import Backbone, check_clip
from vidact.models.clip_windows import ClipWindows
from vidact.models.probe import Head, Probe, refuse_without_features
from vidact.models.weights import build_from_recipe, builder

GRID = 2  # fields of a feature map along each side
WIDTH = 128  # the largest width after the projection
HEADS = 8  # the largest number of attention heads
DROPOUT = 0.5  # of the pooled vector in training


def refuse_without_tokens(network: nn.Module) -> None:
    """Raise ValueError for a network without tokens, and for a probe."""
    refuse_without_features(network)
    inner = network.trunk if isinstance(network, ClipWindows) else network
    if not (isinstance(inner, Backbone) or hasattr(inner, "tokens") or hasattr(inner, "frame_features")):
        raise ValueError(
            f"{type(inner).__name__} gives one vector a clip and no tokens, so the head attentive has nothing to "
            "attend to; choose the other heads, or an image network, TSN, TSM, a 3-D network, VideoMAE or V-JEPA 2"
        )


def tokens_of(trunk: Any, clip: Tensor) -> Tensor:
    """Return the tokens (B, N, D) of clips (B, T, C, H, W)."""
    if not isinstance(trunk, Backbone):
        return trunk.tokens(clip) if hasattr(trunk, "tokens") else with_motion(trunk.frame_features(clip)[:, :, None])
    check_clip(clip, trunk.input)
    images = clip.flatten(0, 1)
    if type(trunk).maps is Backbone.maps:
        fields = trunk(images)[:, None]  # (B * T, 1, D)
    else:
        maps = trunk.maps(images)
        fields = F.adaptive_avg_pool2d(maps, (min(GRID, maps.shape[2]), min(GRID, maps.shape[3]))).flatten(2).mT
    return with_motion(fields.unflatten(0, clip.shape[:2]))


def with_motion(frames: Tensor) -> Tensor:
    """Return fields of frames (B, T, P, D) beside their absolute difference to the frame before: (B, T * P, 2 D).

    The differences of the first frame are 0.
    """
    motion = F.pad((frames[:, 1:] - frames[:, :-1]).abs(), (0, 0, 0, 0, 1, 0))
    return torch.cat([frames, motion], dim=3).flatten(1, 2)


class AttentiveScores(nn.Module):
    """A projection of tokens, the attentive pooler and a linear layer.

    Args:
        dim: width D of the tokens.
        width: width E after the projection; tokens of this width are not projected.
        num_classes: number of classes K.
    """

    def __init__(self, dim: int, width: int, num_classes: int) -> None:
        super().__init__()
        if not 1 <= width <= dim:
            raise ValueError(f"width is {width}; tokens of {dim} numbers are projected on 1 to {dim}")
        self.axes: Tensor | None
        self.register_buffer("axes", torch.zeros(dim, width) if width < dim else None)
        self.pooler = AttentivePooler(width, next(n for n in range(HEADS, 0, -1) if width % n == 0))
        self.dropout = nn.Dropout(DROPOUT)
        self.classify = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.classify.weight, std=0.02)
        nn.init.zeros_(self.classify.bias)

    def project(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, E)."""
        return tokens if self.axes is None else tokens @ self.axes

    def of_projected(self, tokens: Tensor) -> Tensor:
        """Return logits (B, K) of projected tokens (B, N, E)."""
        return self.classify(self.dropout(self.pooler(tokens)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, K) of standardised tokens (B, N, D)."""
        return self.of_projected(self.project(tokens))


class TokenProbe(Probe):
    """A clip network: a trunk with tokens, and the head that attends to them.

    Args:
        trunk: a network that ``refuse_without_tokens`` accepts.
        head: a ``Head`` whose scores are ``AttentiveScores``.
        num_classes: number of classes K.
    """

    def __init__(self, trunk: nn.Module, head: Head, num_classes: int) -> None:
        super().__init__(trunk, head, num_classes)
        assert isinstance(head.scores, AttentiveScores)
        self.dim = head.scores.classify.in_features

    def features(self, clip: Tensor) -> Tensor:
        """Return the pooled vectors (B, E) of clips (B, T, C, H, W)."""
        scores = self.head.scores
        assert isinstance(scores, AttentiveScores)
        tokens = tokens_of(self.trunk, clip).float()
        return scores.pooler(scores.project((tokens - self.head.mean) / self.head.scale))

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of clips (B, T, C, H, W)."""
        return self.head(tokens_of(self.trunk, clip).float())


@builder
def attentive_probe(trunk: Mapping[str, Any], num_classes: int, dim: int, width: int) -> TokenProbe:
    """Build a probe with an attentive head without weights: the network that ``vidact probe`` saves.

    Args:
        trunk: the recipe of a network of vidact that has tokens.
        num_classes: number of classes K.
        dim: width of the trunk's tokens.
        width: width of the projected tokens.
    """
    network = build_from_recipe(trunk)
    refuse_without_tokens(network)
    return TokenProbe(network, Head(AttentiveScores(dim, width, num_classes), dim), num_classes)
