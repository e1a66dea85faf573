"""TRN: temporal relations (Zhou, Andonian, Oliva, Torralba 2018, https://arxiv.org/abs/1711.08496).

A 2-D network turns each of S frames into a short feature. An MLP reads the concatenated features of an ordered subset
of frames: all S frames (single scale), or subsets of S, S-1, … 2 frames, with one MLP for each size (multi-scale). The
logits of all sizes are added.

From https://github.com/zhoubolei/TRN-pytorch. Different here: the reference draws three subsets of each size at random
even in a test, so that its scores cannot be repeated; here evaluation reads a fixed set of subsets.

Shapes: B videos, S segments (the frames of a clip), D feature, K classes, s frames of a subset, n subsets of one scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from vidact.models import backbones
from vidact.models.backbones import Backbone, check_clip, for_modality
from vidact.models.bn_inception import RULES as BN_INCEPTION_RULES
from vidact.models.bn_inception import bn_inception
from vidact.models.tsn import FLAT_MOBILENET_V2
from vidact.models.weights import Rules, builder, load_strictly, rename

SUBSETS_PER_STEP = 3  # number of frame subsets of each scale that a training step adds up
MOST_SEGMENTS = 16  # the number of subsets grows as 2^S: 65,519 at S = 16


class Relation(nn.Module):
    """The MLP of one scale, from ordered subsets of ``scale`` frame features to logits."""

    def __init__(self, num_segments: int, scale: int, dim: int, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(scale * dim, hidden_dim)
        self.classify = nn.Linear(hidden_dim, num_classes)
        subsets = torch.tensor(list(combinations(range(num_segments), scale)))
        self.subsets: Tensor
        self.register_buffer("subsets", subsets, persistent=False)  # (C(S, s), s)
        self.num_trained = min(SUBSETS_PER_STEP, len(subsets))

    def forward(self, features: Tensor, subsets: Tensor) -> Tensor:
        """Return the mean (B, K) of the MLP's logits over ``subsets`` (n, s) of rectified features (B, S, D)."""
        # A linear map of concatenated frames is the sum of one map for each place in the subset. S * s products, of
        # each frame in each place, are enough for all C(S, s) subsets. The mean is taken before the last, linear layer.
        places = self.hidden.weight.unflatten(1, (subsets.shape[1], -1))  # (hidden, s, D)
        mapped = torch.einsum("bfd,hpd->pbfh", features, places)  # (s, B, S, hidden)
        total = self.hidden.bias
        for projected, frames in zip(mapped, subsets.unbind(1), strict=True):
            total = total + projected[:, frames]  # (B, n, hidden)
        return self.classify(total.relu().mean(1))


class RelationHead(nn.Module):
    """A head from frame features (B, S, D) to logits (B, K).

    Args:
        num_segments: number of frames S in a clip, which fixes the shapes of the weights.
        dim: width D of a frame's feature.
        num_classes: number of classes K.
        scales: "multi" reads subsets of S, S-1, … 2 frames, "single" only all S frames together.
        eval_relations: the subsets that a multi-scale head reads in evaluation. "mean": the mean over all subsets of a
            scale, times the number of subsets that training draws, so that logits keep their trained size. A number:
            the same, over so many evenly spaced subsets of each scale. "all": the plain sum over all subsets, which
            weights scales by their number of subsets, as the parity records do.
    """

    def __init__(
        self,
        num_segments: int,
        dim: int,
        num_classes: int,
        scales: str = "multi",
        eval_relations: int | str = "mean",
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
                f"the clip has {features.shape[1]} frames; the weights of this network are made for "
                f"{self.num_segments}. Sample {self.num_segments} frames, or train one with "
                f"num_segments={features.shape[1]}"
            )
        features = features.relu()
        logits = features.new_zeros((), dtype=torch.float32)
        for relation, subsets in zip(self.relations, self._chosen(), strict=True):
            times = len(subsets) if self.eval_relations == "all" and not self.training else relation.num_trained
            logits = logits + times * relation(features, subsets).float()
        return logits

    def _chosen(self) -> list[Tensor]:
        """Return the subsets (n, s) of each scale to read now; in training they are drawn by torch's generator."""
        subsets: list[Tensor] = [relation.subsets for relation in self.relations]  # type: ignore[misc]
        if self.training:
            places = [
                torch.randperm(len(every))[: relation.num_trained]
                for every, relation in zip(subsets, self.relations, strict=True)
            ]
        elif isinstance(self.eval_relations, int):
            places = [evenly_spaced(len(every), self.eval_relations) for every in subsets]
        else:
            return subsets
        # All scales are copied to the device at once, without waiting for the copy.
        moved = torch.cat(places).to(subsets[0].device, non_blocking=True)
        return [every[part] for every, part in zip(subsets, moved.split([len(part) for part in places]), strict=True)]


def evenly_spaced(count: int, most: int) -> Tensor:
    """Return at most ``most`` evenly spaced numbers from 0 … count - 1, ascending."""
    step = max(1.0, count / most)
    return torch.tensor([math.floor((i + 0.5) * step) for i in range(min(count, most))])


class TRN(nn.Module):
    """An image network, a short feature of each frame, and a relation head.

    Args:
        backbone: the image network without its classifier.
        num_classes: number of classes K.
        num_segments: the clip length S, which fixes the shapes of the weights.
        scales: "multi" or "single", see ``RelationHead``.
        dropout: dropout rate on each frame's vector.
        feature_dim: width D of the short feature.
        eval_relations: the frame subsets that evaluation reads, see ``RelationHead``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        num_segments: int = 8,
        scales: str = "multi",
        dropout: float = 0.8,
        feature_dim: int = 256,
        eval_relations: int | str = "mean",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        # The reference starts this layer with a standard deviation of 0.001, like a classifier. Its outputs then
        # stay near zero for many steps, so torch's default is used here.
        self.project = nn.Linear(backbone.dim, feature_dim)
        self.head = RelationHead(num_segments, feature_dim, num_classes, scales, eval_relations)
        self.num_classes = num_classes
        self.input = dataclasses.replace(backbone.input, frames=num_segments)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, S, C, H, W)."""
        check_clip(clip, self.input)
        vectors = self.backbone(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
        return self.head(self.project(self.dropout(vectors)))


# ---------------------------------------------------------------------------------------------- sizes


@builder
def trn_resnet18(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    scales: str = "multi",
    size: int = 224,
    dropout: float = 0.8,
    modality: str = "rgb",
    flow_fields: int = 5,
    eval_relations: int | str = "mean",
) -> TRN:
    """TRN on ResNet-18.

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        num_segments: the clip length, which fixes the shapes of the weights.
        scales: "multi" relates subsets of every size, "single" all frames at once.
        size: crop side in pixels.
        dropout: dropout rate on each frame's vector.
        modality: "rgb", or "flow" for ``flow_fields`` consecutive fields per segment.
        flow_fields: number of flow fields stacked on the channels; used only with modality "flow".
        eval_relations: "mean", "all" or a number of subsets of each scale, see ``RelationHead``.
    """
    backbone = for_modality(backbones.resnet18(weights, size), modality, flow_fields)
    return TRN(backbone, num_classes, num_segments, scales, dropout, eval_relations=eval_relations)


@builder
def trn_resnet50(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    scales: str = "multi",
    size: int = 224,
    dropout: float = 0.8,
    modality: str = "rgb",
    flow_fields: int = 5,
    eval_relations: int | str = "mean",
) -> TRN:
    """TRN on ResNet-50; arguments as in ``trn_resnet18``."""
    backbone = for_modality(backbones.resnet50(weights, size), modality, flow_fields)
    return TRN(backbone, num_classes, num_segments, scales, dropout, eval_relations=eval_relations)


@builder
def trn_bn_inception(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    scales: str = "multi",
    size: int = 224,
    dropout: float = 0.8,
    modality: str = "rgb",
    flow_fields: int = 5,
    eval_relations: int | str = "mean",
) -> TRN:
    """TRN on BN-Inception, the paper's network; arguments as in ``trn_resnet18``, images BGR from 0 to 255."""
    backbone = for_modality(bn_inception(weights, size), modality, flow_fields)
    return TRN(backbone, num_classes, num_segments, scales, dropout, eval_relations=eval_relations)


@builder
def trn_mobilenet_v2(
    num_classes: int,
    weights: str | None = "imagenet",
    num_segments: int = 8,
    scales: str = "multi",
    size: int = 224,
    dropout: float = 0.8,
    modality: str = "rgb",
    flow_fields: int = 5,
    eval_relations: int | str = "mean",
) -> TRN:
    """TRN on MobileNetV2; arguments as in ``trn_resnet18``."""
    backbone = for_modality(backbones.mobilenet_v2(weights, size), modality, flow_fields)
    return TRN(backbone, num_classes, num_segments, scales, dropout, eval_relations=eval_relations)


@builder
def trn_resnet_tiny(
    num_classes: int,
    weights: str | None = None,
    num_segments: int = 8,
    scales: str = "multi",
    size: int = 64,
    dropout: float = 0.0,
    width: int = 16,
    modality: str = "rgb",
    flow_fields: int = 5,
    eval_relations: int | str = "mean",
) -> TRN:
    """TRN on a four-block ResNet for tests and CPU demos; no published weights exist."""
    backbone = for_modality(backbones.resnet_tiny(weights, size, width), modality, flow_fields)
    return TRN(backbone, num_classes, num_segments, scales, dropout, eval_relations=eval_relations)


@builder
def trn_relation_head(
    num_classes: int,
    feature_dim: int = 256,
    num_segments: int = 8,
    scales: str = "multi",
    eval_relations: int | str = "mean",
) -> RelationHead:
    """The relation head without a backbone, on features (B, S, D) of frames; arguments as in ``RelationHead``."""
    return RelationHead(num_segments, feature_dim, num_classes, scales, eval_relations)


# ---------------------------------------------------------------------------------------------- published weights

_SIZES = {
    "resnet18": trn_resnet18,
    "resnet50": trn_resnet50,
    "bn_inception": trn_bn_inception,
    "mobilenet_v2": trn_mobilenet_v2,
}


def from_trn_relation_single(
    state_dict: Mapping[str, Any],
    num_segments: int,
    num_classes: int,
    feature_dim: int = 256,
    backbone: str | None = None,
    modality: str = "rgb",
) -> nn.Module:
    """Build TRN with one scale from TRN-pytorch's names; see ``from_trn_relation_multi``."""
    rules: Rules = [(r"^consensus\.classifier\.", "relations.0.")]
    return _from_trn(state_dict, rules, "single", num_segments, num_classes, feature_dim, backbone, modality)


def from_trn_relation_multi(
    state_dict: Mapping[str, Any],
    num_segments: int,
    num_classes: int,
    feature_dim: int = 256,
    backbone: str | None = None,
    modality: str = "rgb",
) -> nn.Module:
    """Build multi-scale TRN from TRN-pytorch's names: ``consensus.fc_fusion_scales.0.1.weight``, ….

    Without ``backbone`` the file is only the relation head, which takes (B, S, D) and sums over all frame subsets. With
    it ("resnet18", "resnet50", "bn_inception", "mobilenet_v2") the file is a whole network with ``base_model.…`` and
    ``new_fc.…``, and evaluation keeps the trained size of the logits (``eval_relations="mean"``).
    """
    rules: Rules = [(r"^consensus\.fc_fusion_scales\.(\d+)\.", r"relations.\1.")]
    return _from_trn(state_dict, rules, "multi", num_segments, num_classes, feature_dim, backbone, modality)


def _from_trn(
    state_dict: Mapping[str, Any],
    rules: Rules,
    scales: str,
    num_segments: int,
    num_classes: int,
    feature_dim: int,
    backbone: str | None,
    modality: str,
) -> nn.Module:
    rules = [*rules, (r"^(relations\.\d+)\.1\.", r"\1.hidden."), (r"^(relations\.\d+)\.3\.", r"\1.classify.")]
    source = f"the trn_relation_{scales} state dict"
    if backbone is None:
        head = trn_relation_head(num_classes, feature_dim, num_segments, scales, eval_relations="all")
        load_strictly(head, state_dict, rules, source=source)
        return head
    if backbone not in _SIZES:
        raise ValueError(f"backbone is {backbone!r}; the TRN layouts know {', '.join(_SIZES)}")
    if feature_dim != 256:
        raise ValueError(f"feature_dim is {feature_dim}; whole TRN networks have 256")
    network = _SIZES[backbone](num_classes, None, num_segments, scales, modality=modality)
    # The rules of the backbones must not be applied to the names of the head.
    trunk = {key: value for key, value in state_dict.items() if key.removeprefix("module.").startswith("base_model.")}
    tables: dict[str, Rules] = {
        "bn_inception": [(r"^base_model\.", ""), *BN_INCEPTION_RULES, (r"^", "backbone.")],
        "mobilenet_v2": [(r"^base_model\.", "backbone."), *FLAT_MOBILENET_V2],
    }
    rest = {key: value for key, value in state_dict.items() if key not in trunk}
    renamed = rename(trunk, tables.get(backbone, [(r"^base_model\.", "backbone.")]))
    renamed |= rename(rest, [*rules, (r"^relations\.", "head.relations."), (r"^new_fc\.", "project.")])
    load_strictly(network, {new: value for new, (_, value) in renamed.items()}, source=source)
    return network
