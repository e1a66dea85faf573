"""Localisers: what ActionFormer and TriDet share, that is, which places learn which events, the losses, the events.

A localiser answers at several resolutions. Place t of level l lies at t · 2^l on the grid of the tokens; it learns an
event if it lies near its middle and the event's ends are as far away as is the level's share.

Follows the training of ActionFormer (https://github.com/happyharrycn/actionformer_release, MIT) and TriDet
(https://github.com/dingfengshi/TriDet, MIT). Different here: the running count of positive places is kept in the
checkpoint, so that a resumed training continues with it; a video may have no event; places in stretches whose labels
are ambiguous count neither as events nor as background.

Shapes: B videos, K actions, n events, P places (those of all levels, one level after the other).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.offline import Level, OfflineNetwork, OfflineOutput, Truth
from vidact.models.offline_decoding import Decoding, decode

FAR = 10_000.0  # the upper end of the last level's range, as published: no event is as long
SAME_LENGTH = 1e-3  # events whose lengths differ by at most this all give their class to a place, as published
SHARE_OF_EVENTS = 0.01  # the class probability of every place before training


def regression_ranges(levels: int) -> list[list[float]]:
    """Return the published ranges: [0, 4], [4, 8], [8, 16], … tokens to the farther end; the last has no limit."""
    edges = [0.0, *(float(2 ** (level + 2)) for level in range(levels - 1)), FAR]
    return [[low, high] for low, high in itertools.pairwise(edges)]


def bias_of(probability: float) -> float:
    """Return the logit of a probability."""
    return -math.log((1 - probability) / probability)


class Localiser(OfflineNetwork):
    """An offline network with class logits and distances to both ends, at several resolutions.

    Args:
        num_classes: number of actions K.
        feature_dim: size D of a token's features.
        levels: number of levels.
        max_tokens: tokens of a training crop.
        pad_to: the published rule pads videos above ``max_tokens`` to a multiple of this; ours pads all to one of
            2^(levels − 1).
        ranges: of each level the smallest and the largest distance to an event's farther end, in tokens; None is
            ``regression_ranges``.
        center_radius: places within so many strides of an event's middle learn it.
        label_smoothing: 0…1, share of the class target that is spread over all outputs.
        regression_weight: weight of the loss on distances; 0 or less weighs it as much as the other loss.
        initial_normaliser: the number of positive places of a batch that is assumed before training.
        overlap_power: the loss on a true class is multiplied by the overlap (intersection over union) to this power.
        decoding: how outputs become events.
        published_padding: see ``OfflineNetwork``.
        graph_unit: the tokens by which blocks of the attention divide; see ``OfflineNetwork``.
    """

    normaliser: Tensor
    # The parameters that weight decay leaves alone: gains of norms and branches, and the scale of each level.
    never_decays = r"(^|\.)norm\d?\.|^neck\.|\.gain$|^scales\."

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        levels: int,
        max_tokens: int,
        pad_to: int,
        ranges: Sequence[Sequence[float]] | None,
        center_radius: float,
        label_smoothing: float,
        regression_weight: float,
        initial_normaliser: float,
        overlap_power: float,
        decoding: Decoding,
        published_padding: bool,
        graph_unit: int = 1,
    ) -> None:
        super().__init__()
        self.num_classes, self.feature_dim = num_classes, feature_dim
        self.max_tokens, self.published_padding = max_tokens, published_padding
        coarsest = 2 ** (levels - 1)
        if max_tokens < 1 or max_tokens % coarsest:
            raise ValueError(f"max_tokens is {max_tokens}; with {levels} levels it is a multiple of {coarsest}")
        self.pad_to = pad_to if published_padding else coarsest
        self.graph_unit = math.gcd(max_tokens, pad_to) if published_padding else math.lcm(coarsest, graph_unit)
        self.ranges = [list(pair) for pair in ranges] if ranges is not None else regression_ranges(levels)
        if len(self.ranges) != levels or any(len(pair) != 2 or not pair[0] <= pair[1] for pair in self.ranges):
            raise ValueError(
                f"regression_ranges is {self.ranges}; give each of {levels} levels a smallest and a largest distance"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing:g}; it is from 0 to below 1")
        self.center_radius, self.label_smoothing = center_radius, label_smoothing
        self.regression_weight, self.overlap_power, self.decoding = regression_weight, overlap_power, decoding
        self.normaliser_momentum = 0.9
        self.register_buffer("normaliser", torch.tensor(float(initial_normaliser)))

    def padded_length(self, num_tokens: int) -> int:
        """Return the length that the levels need.

        The published rule pads shorter videos to ``max_tokens``, which matters, since there padding changes answers.
        """
        if self.published_padding and self.max_tokens is not None and num_tokens <= self.max_tokens:
            return self.max_tokens
        return -(-num_tokens // self.pad_to) * self.pad_to

    def losses(self, output: OfflineOutput, truth: Truth) -> dict[str, Tensor]:
        """Return the focal loss on classes and the overlap loss on distances, each divided by a running count.

        The count of positive places moves with every call in training; in evaluation it is used as if it had moved.
        """
        self.refuse_absent(truth.events, "events")
        assert output.levels is not None
        assert truth.events is not None
        levels = output.levels
        logits = torch.cat([level.logits for level in levels], 1).float()  # (B, P, K)
        distances = torch.cat([level.distances for level in levels], 1).float()  # (B, P, 2) or (B, P, K, 2)
        counts = torch.cat([level.mask for level in levels], 1)  # (B, P)
        pairs = [self.assign(levels, events) for events in truth.events]
        labels, targets = (torch.stack(parts).to(logits.device) for parts in zip(*pairs, strict=True))
        if truth.ambiguous is not None:
            unclear = [_inside_any(levels, stretches.to(logits.device)) for stretches in truth.ambiguous]
            counts = counts & ~torch.stack(unclear)
        labels = labels & counts[..., None]
        num_positive = labels.any(-1).sum()
        momentum = self.normaliser_momentum
        normaliser = momentum * self.normaliser + (1 - momentum) * num_positive.clamp(min=1)
        if self.training:
            self.normaliser.copy_(normaliser)

        # Distances that are per class are compared for each class of a place, the others once for each place.
        is_compared = labels if distances.ndim == 4 else labels.any(-1)
        true = targets[:, :, None].expand_as(distances) if distances.ndim == 4 else targets
        overlap, penalty = overlaps(distances[is_compared], true[is_compared])
        distance = (1 - overlap + penalty).sum() / normaliser

        smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / (self.num_classes + 1)
        focal = focal_loss(logits, smoothed)
        if self.overlap_power and distances.ndim == 4:
            weights = torch.ones_like(focal)
            weights = weights.masked_scatter(labels, overlap.clamp(min=1e-8).pow(self.overlap_power))
            focal = focal * weights
        classification = (focal * counts[..., None]).sum() / normaliser
        weight: float | Tensor = self.regression_weight
        if self.regression_weight <= 0:
            weight = (classification / distance.clamp(min=0.01)).detach()
        return {"classification": classification, "regression": weight * distance}

    def assign(self, levels: Sequence[Level], events: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes (P, K) bool and distances (P, 2) that the places learn from the events of a video.

        Args:
            levels: an output's levels, of which only strides and numbers of places are read.
            events: (n, 3) start, end and action, on the grid.

        Raises ValueError for events of another shape, or of an action that the network does not have.
        """
        if events.ndim != 2 or events.shape[1] != 3:
            raise ValueError(f"events have the shape {tuple(events.shape)}; rows are start, end and action")
        device = levels[0].logits.device
        events = events.to(device, torch.float32)
        actions = events[:, 2].long()
        if odd := [action for action in actions.tolist() if not 0 <= action < self.num_classes]:
            raise ValueError(
                f"an event has the action {odd[0]}; {type(self).__name__} has {self.num_classes} actions, from 0 to "
                f"{self.num_classes - 1}"
            )
        places, strides, _ = places_of(levels, self.ranges)
        num_places = len(places)
        labels = torch.zeros(num_places, self.num_classes, dtype=torch.bool, device=device)
        if not len(events):
            return labels, torch.zeros(num_places, 2, device=device)
        start, end = events[:, 0], events[:, 1]
        left, right = places[:, None] - start, end - places[:, None]  # (P, n)
        is_eligible = self.eligible(levels, events)
        lengths = (end - start).expand(num_places, -1).masked_fill(~is_eligible, torch.inf)
        shortest, index = lengths.min(1).values, lengths.argmin(1)  # argmin: of equal lengths the first
        is_learned = is_eligible & (lengths <= shortest[:, None] + SAME_LENGTH)
        place, event = is_learned.nonzero(as_tuple=True)
        labels[place, actions[event]] = True
        chosen = torch.stack([left, right], 2)[torch.arange(num_places, device=device), index]
        return labels, torch.where(labels.any(1, keepdim=True), chosen / strides[:, None], 0)

    def eligible(self, levels: Sequence[Level], events: Tensor) -> Tensor:
        """Return which places can learn which of the events (n, 3), bool (P, n); the arguments are those of ``assign``.

        Of several events that a place can learn it learns the shortest.
        """
        places, strides, ranges = places_of(levels, self.ranges)
        start, end = events[:, 0], events[:, 1]
        left, right = places[:, None] - start, end - places[:, None]  # (P, n)
        reach, middle = self.center_radius * strides[:, None], (start + end) / 2
        is_central = (places[:, None] > torch.maximum(middle - reach, start)) & (
            places[:, None] < torch.minimum(middle + reach, end)
        )
        farther = torch.maximum(left, right)
        return is_central & (ranges[:, :1] <= farther) & (farther <= ranges[:, 1:])

    def out_of_reach(self, events: Tensor, num_tokens: int) -> Tensor:
        """Return which of the events (n, 3) of a video of ``num_tokens`` no place can learn, bool (n,).

        Those are events between two places, and where the coarsest level's range ends, longer ones.
        """
        padded = -(-num_tokens // self.pad_to) * self.pad_to
        levels = []
        for level in range(len(self.ranges)):
            empty = torch.empty(1, -(-padded // 2**level), 0, device=events.device)
            levels.append(Level(empty, empty, 2**level, empty.bool()))
        return ~self.eligible(levels, events).any(0)

    def events(self, output: OfflineOutput) -> list[Tensor]:
        assert output.levels is not None
        return decode(output.levels, self.decoding)


def places_of(levels: Sequence[Level], ranges: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return places on the grid (P,), strides (P,) and ranges (P, 2) of all levels, one after the other."""
    device = levels[0].logits.device
    places, strides, limits = [], [], []
    for level, pair in zip(levels, ranges, strict=True):
        steps = torch.arange(level.logits.shape[1], device=device, dtype=torch.float32)
        places.append(steps * level.stride)
        strides.append(torch.full_like(steps, level.stride))
        limits.append(torch.tensor(pair, dtype=torch.float32, device=device).expand(len(steps), 2))
    return torch.cat(places), torch.cat(strides), torch.cat(limits)


def _inside_any(levels: Sequence[Level], stretches: Tensor) -> Tensor:
    """Return which places (P,) lie inside one of the stretches (m, 2) of the grid."""
    places, _, _ = places_of(levels, [[0, 0]] * len(levels))
    return ((places[:, None] >= stretches[:, 0]) & (places[:, None] <= stretches[:, 1])).any(1)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the sigmoid focal loss of each logit (Lin et al. 2017, https://arxiv.org/abs/1708.02002).

    Args:
        logits: any shape.
        targets: of the same shape, from 0 to 1.
        alpha: weight of true classes; that of others is 1 − α.
        gamma: how strongly the loss of what is already right is lowered.
    """
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = p * targets + (1 - p) * (1 - targets)
    return (alpha * targets + (1 - alpha) * (1 - targets)) * (1 - right) ** gamma * entropy


def overlaps(distances: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intersection over union of segments, and the penalty for middles that lie apart, both (n,).

    1 − overlap + penalty is the distance-IoU loss (Zheng et al. 2020, https://arxiv.org/abs/1911.08287) of segments
    that are given by distances (n, 2) ≥ 0 from a common place back to the start and on to the end.
    """
    (left, right), (true_left, true_right) = distances.unbind(-1), targets.unbind(-1)
    shared = torch.minimum(left, true_left) + torch.minimum(right, true_right)
    union = left + right + true_left + true_right - shared
    apart = 0.5 * ((right - left) - (true_right - true_left))
    hull = torch.maximum(left, true_left) + torch.maximum(right, true_right)
    return shared / union.clamp(min=1e-8), (apart / hull.clamp(min=1e-8)) ** 2


def set_start_values(network: nn.Module) -> None:
    """Set the biases of all convolutions to 0; weights keep PyTorch's start values."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d) and module.bias is not None:
            nn.init.zeros_(module.bias)
