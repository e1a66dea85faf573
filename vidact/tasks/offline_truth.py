"""What an offline network learns from a batch: events on the grid of the tokens, or one label for every token.

Shapes: B videos, T tokens, K actions, n events, m tokens that several actions touch.
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
    assert batch.truth is not None
    for rows, end in zip(batch.truth, batch.end.tolist(), strict=True):
        end_s = end / tokens_per_second
        times_s = rows[:, :2]
        inside_s = times_s.clamp(0.0, end_s)
        share_s = inside_s[:, 1] - inside_s[:, 0]
        needed_s = least_inside * (times_s[:, 1] - times_s[:, 0]).clamp(max=end_s)
        is_action = rows[:, 2] != AMBIGUOUS_CLASS
        is_learned = is_action & (share_s >= needed_s - TOUCH / tokens_per_second) & (share_s > 0)
        places = grid.places(inside_s)
        events.append(torch.cat([places, rows[:, 2:]], 1)[is_learned])
        ambiguous.append(places[~is_learned])
    return Truth(events=events, ambiguous=ambiguous)


def segmenter_truth(batch: SequenceBatch, tokens_per_second: float) -> Truth:
    """Return targets with one label a token: where several actions touch a token, that of the shortest event."""
    assert batch.truth is not None
    targets = batch.targets.clone()
    for video, rows in enumerate(batch.truth):
        several, labels = _shortest_of_several(targets[video], rows, tokens_per_second)
        targets[video, several] = 0
        targets[video, several, labels] = 1
    return Truth(targets=targets, ignore=batch.ignore)


def token_labels(targets: Tensor, rows: Tensor, tokens_per_second: float) -> Tensor:
    """Return the number of the label of each token (T,), 0 the background; of several the shortest event's.

    Args:
        targets: (T, 1 + K) multi-hot, the background first.
        rows: (n, 3) start and end in seconds from the first token's start, and action, of the events of the targets.
        tokens_per_second: the rate of the tokens.
    """
    labels = targets.argmax(1)
    several, shortest = _shortest_of_several(targets, rows, tokens_per_second)
    labels[several] = shortest
    return labels


def _shortest_of_several(targets: Tensor, rows: Tensor, tokens_per_second: float) -> tuple[Tensor, Tensor]:
    """Return the tokens (m,) with several actions, and the column (m,) of the shortest event that touches each.

    Of equally short events the earliest counts.
    """
    several = (targets[:, 1:].sum(1) > 1).nonzero()[:, 0]
    events = rows[rows[:, 2] != AMBIGUOUS_CLASS]
    if not len(several) or not len(events):
        return several[:0], several[:0]
    columns = 1 + events[:, 2].long()
    starts, ends = several[:, None] - TOUCH, several[:, None] + 1 + TOUCH
    touches = (events[:, 0] * tokens_per_second < ends) & (events[:, 1] * tokens_per_second > starts)  # (m, n)
    is_candidate = touches & (targets[several][:, columns] > 0)
    lengths = (events[:, 1] - events[:, 0]).expand(len(several), -1).masked_fill(~is_candidate, torch.inf)
    return several, columns[lengths.argmin(1)]
