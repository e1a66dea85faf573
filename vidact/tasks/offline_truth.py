"""What an offline network learns from a batch: events on the grid of the tokens, or one label for every token.

Shapes: B videos, T tokens, K actions, n events.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidact.batch import AMBIGUOUS_CLASS, SequenceBatch
from vidact.models.offline import Truth
from vidact.models.offline_decoding import Grid

TOUCH = 1e-3  # tokens; times of labels are rounded


def localiser_truth(batch: SequenceBatch, tokens_per_second: float, least_inside: float) -> Truth:
    """Return the events of each video on the grid of its tokens, cut to the crop, and the stretches that do not count.

    An event that the crop cuts counts where at least ``least_inside`` of it lies inside, or of the crop where that is
    shorter. The part of another one inside the crop is neither event nor background, as ambiguous stretches are.
    """
    grid, events, ambiguous = Grid.of(tokens_per_second), [], []
    for rows, end in zip(batch.truth or (), batch.end.tolist(), strict=True):
        end_s = end / tokens_per_second
        times_s = rows[:, :2].double()
        inside_s = times_s.clamp(0.0, end_s)
        share_s = inside_s[:, 1] - inside_s[:, 0]
        needed_s = least_inside * (times_s[:, 1] - times_s[:, 0]).clamp(max=end_s)
        is_action = rows[:, 2] != AMBIGUOUS_CLASS
        is_learned = is_action & (share_s >= needed_s - TOUCH / tokens_per_second) & (share_s > 0)
        places = grid.places(inside_s).float()
        events.append(torch.cat([places, rows[:, 2:]], 1)[is_learned])
        ambiguous.append(places[~is_learned])
    return Truth(events=events, ambiguous=ambiguous)


def segmenter_truth(batch: SequenceBatch, tokens_per_second: float) -> Truth:
    """Return targets with one label a token: where several actions touch a token, that of the shortest event."""
    targets = batch.targets.clone()
    for video, rows in enumerate(batch.truth or ()):
        several = (targets[video, :, 1:].sum(1) > 1).nonzero()[:, 0]
        for token in several.tolist():
            targets[video, token] = _shortest(targets[video, token], rows, token, tokens_per_second)
    return Truth(targets=targets, ignore=batch.ignore)


def _shortest(target: Tensor, rows: Tensor, token: int, tokens_per_second: float) -> Tensor:
    """Return the target (1 + K) of a token with the action of the shortest event alone, of equal ones the earliest."""
    first, last = (token - TOUCH) / tokens_per_second, (token + 1 + TOUCH) / tokens_per_second
    touching = rows[(rows[:, 0] < last) & (rows[:, 1] > first) & (rows[:, 2] != AMBIGUOUS_CLASS)]
    touching = touching[target[1 + touching[:, 2].long()] > 0]
    lengths = touching[:, 1] - touching[:, 0]
    single = torch.zeros_like(target)
    single[1 + int(touching[lengths.argmin(), 2])] = 1
    return single
