"""TRN: temporal relations (Zhou, Andonian, Oliva, Torralba 2018, https://arxiv.org/abs/1711.08496).

A 2-D network turns each of S frames into a short feature. An MLP reads the concatenated features of an ordered subset
of frames: all S of them (single scale), or subsets of S, S-1, … 2 frames, one MLP for each size (multi-scale), and the
logits of all sizes are added.

From https://github.com/zhoubolei/TRN-pytorch. Different here: the reference draws three subsets of each size at random
even when it is tested, so that no score is seen twice; here evaluation reads a fixed set of subsets and draws nothing.

Shapes: B videos, S segments (the frames of a clip), D feature, K classes, s frames of a subset, n subsets of one scale.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor, nn

SUBSETS_PER_STEP = 3  # frame subsets of one scale that a training step adds up
MOST_SEGMENTS = 16  # 2^S subsets: 65,519 at S = 16


class Relation(nn.Module):
    """The MLP of one scale: ordered subsets of ``scale`` frame features → logits."""

    def __init__(self, num_segments: int, scale: int, dim: int, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(scale * dim, hidden_dim)
        self.classify = nn.Linear(hidden_dim, num_classes)
        subsets = torch.tensor(list(combinations(range(num_segments), scale)))
        self.subsets: Tensor
        self.register_buffer("subsets", subsets, persistent=False)                       # (C(S, s), s)
        self.num_trained = min(SUBSETS_PER_STEP, len(subsets))

    def forward(self, features: Tensor, subsets: Tensor) -> Tensor:
        """The mean over ``subsets`` (n, s) of what the MLP says of each; rectified features (B, S, D) → (B, K)."""
        # A linear map of concatenated frames is the sum of one map per place, and every frame meets every place in many
        # subsets: S * s products serve all C(S, s) of them. The last layer is linear, so the mean may go before it.
        places = self.hidden.weight.unflatten(1, (subsets.shape[1], -1))                 # (hidden, s, D)
        mapped = torch.einsum("bfd,hpd->pbfh", features, places)                         # (s, B, S, hidden)
        total = self.hidden.bias
        for place, frames in zip(mapped, subsets.unbind(1), strict=True):
            total = total + place[:, frames]                                             # (B, n, hidden)
        return self.classify(total.relu().mean(1))


class RelationHead(nn.Module):
    """Frame features (B, S, D) → logits (B, K).

    Args:
        num_segments: S, the frames of a clip; the weights are made for it.
        dim: D, the width of one frame's feature.
        num_classes: K.
        scales: "multi" reads subsets of S, S-1, … 2 frames, "single" all S frames only.
        eval_relations: what a multi-scale head reads in evaluation, where nothing is random. "mean": the mean over all
            subsets of a scale, counted as often as training draws subsets of it, so that logits keep their trained
            size. A number: the same, over so many evenly spaced subsets of each scale. "all": the plain sum over all
            subsets, which weights scales by their number of subsets, as the parity records do.
    """

    def __init__(
        self,
        num_segments: int,
        dim: int,
        num_classes: int,
        scales: str = "multi",
        eval_relations: str | int = "mean",
    ) -> None:
        super().__init__()
        if num_segments < 2:
            raise ValueError(f"num_segments is {num_segments}; a relation needs at least 2 frames")
        if scales not in ("multi", "single"):
            raise ValueError(f"scales is {scales!r}; a relation head takes 'multi' or 'single'")
        if scales == "multi" and num_segments > MOST_SEGMENTS:
            raise ValueError(
                f"{num_segments} segments have {2**num_segments - num_segments - 1:,} frame subsets; "
                f"use at most {MOST_SEGMENTS} segments, or scales='single'"
            )
        if eval_relations not in ("mean", "all") and not (isinstance(eval_relations, int) and eval_relations > 0):
            raise ValueError(f"eval_relations is {eval_relations!r}; it is 'mean', 'all' or a number of subsets")
        self.num_segments = num_segments
        self.num_classes = num_classes
        self.eval_relations = eval_relations
        sizes, hidden_dim = ([num_segments], 512) if scales == "single" else (range(num_segments, 1, -1), 256)
        self.relations = nn.ModuleList(Relation(num_segments, s, dim, hidden_dim, num_classes) for s in sizes)

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.num_segments:
            raise ValueError(
                f"the clip has {features.shape[1]} frames; this relation head is made for {self.num_segments} segments. "
                f"Sample {self.num_segments} frames, or build the network with num_segments={features.shape[1]}"
            )
        features = features.relu()
        logits = features.new_zeros((), dtype=torch.float32)
        for relation in self.relations:
            subsets = self._chosen(relation)
            times = len(subsets) if self.eval_relations == "all" and not self.training else relation.num_trained
            logits = logits + times * relation(features, subsets).float()
        return logits

    def _chosen(self, relation: nn.Module) -> Tensor:
        """Subsets (n, s) to read now: in training as many as the reference draws, from torch's generator."""
        subsets: Tensor = relation.subsets  # type: ignore[assignment]
        count = len(subsets)
        if self.training:
            return subsets[torch.randperm(count)[: relation.num_trained].to(subsets.device)]
        if isinstance(self.eval_relations, int) and self.eval_relations < count:
            step = count / self.eval_relations
            return subsets[[math.floor((i + 0.5) * step) for i in range(self.eval_relations)]]
        return subsets
