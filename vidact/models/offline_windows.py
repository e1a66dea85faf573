"""Answers of offline networks for videos of any length, in constant memory: windows of tokens, one after the other.

A video is cut into windows that overlap, and each token counts in one of them, at a distance from its edges. Where the
answers depend on a limited number of tokens (``OfflineNetwork.reach``), the windows overlap by that much, and the
answers are those for the whole video. Otherwise they overlap by half; the answers of a window then lack what lies
outside it, as those of the network in training do.

A localiser answers videos of up to ``CROPS`` training crops at once, and longer ones in windows of that size. Its
candidates are suppressed once, those of all windows together.

Shapes: T tokens, D features, K actions, S tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from vidact.models.localisation import Localiser
from vidact.models.offline import OfflineNetwork, OfflineOutput
from vidact.models.offline_decoding import candidates, suppress

CROPS = 8  # training crops of a localiser that are answered at once
INNER = 4096  # the least number of tokens that count in a window of a segmenter: 17 minutes at 4 tokens a second


@dataclass(frozen=True)
class WholeAnswer:
    """The answer for a video.

    Attributes:
        rows: (n, 4) start and end on the grid of the tokens, action, score.
        num_tokens: T.
        num_windows: the number of windows that were computed.
        scores: segmenters: (T, 1 + K) probabilities, the background first, float32 on the CPU; localisers: None.
    """

    rows: Tensor
    num_tokens: int
    num_windows: int
    scores: Tensor | None = None


class Window(NamedTuple):
    """A stretch of a video: its ``features`` (n, D) begin at the token ``start``; ``first`` to ``last`` - 1 count."""

    features: Tensor
    start: int
    first: int
    last: int


def windows(rows: Iterable[Tensor], size: int, before: int, after: int) -> Iterator[Window]:
    """Yield windows of at most ``size`` tokens; each token counts in one window.

    A video of up to ``size`` tokens is one window. In a longer one the tokens that count have ``before`` tokens before
    them and ``after`` behind them, as far as the video has them.

    Args:
        rows: the features of the video, in parts (n, D) in their order, n ≥ 0.
        size: S, larger than ``before`` + ``after``.
    """
    if size <= before + after or min(before, after) < 0:
        raise ValueError(f"a window of {size} tokens has none that count between {before} and {after} others")
    parts: list[Tensor] = []
    buffered = start = first = 0
    for part in rows:
        parts.append(part)
        buffered += len(part)
        while buffered > size:
            whole = torch.cat(parts)
            last = start + size - after
            # What the next window shares is copied, since a view would keep the memory of this one; nothing else of
            # this window is kept while it is computed.
            parts = [whole[last - before - start :].clone()]
            window = Window(whole[:size], start, first, last)
            start, first, buffered = last - before, last, len(parts[0])
            del whole
            yield window
            del window
    if not buffered:
        raise ValueError("the video has no token, so there is nothing to answer")
    window = Window(torch.cat(parts), start, first, start + buffered)
    parts.clear()
    yield window


def window_of(network: OfflineNetwork, size: int | None = None) -> tuple[int, int, int]:
    """Return the size of the windows for a network, and how many tokens do not count before and after the others.

    Args:
        size: another size than that of the network; with a limited reach it is enlarged where no token would count.
    """
    if network.reach is not None:
        before, after = network.reach
        inner = max(INNER, before + after) if size is None else max(1, size - before - after)
        return before + inner + after, before, after
    step = 4
    if isinstance(network, Localiser):
        step *= 2 ** (len(network.ranges) - 1)  # so that the places of all levels lie where they lie in the whole video
    usual = 4 * INNER if network.max_tokens is None else CROPS * network.max_tokens
    size = -(-(usual if size is None else size) // step) * step
    return size, size // 4, size // 4


@torch.inference_mode()
def answer_whole(network: OfflineNetwork, rows: Iterable[Tensor], size: int | None = None) -> WholeAnswer:
    """Return the answer for one video, whose features come in parts.

    Args:
        network: a localiser or a segmenter, in evaluation mode.
        rows: the features of the video, in parts (n, D) in their order; see ``windows``.
        size: tokens of a window, see ``window_of``; None is the network's own.
    """
    if network.training:
        raise ValueError(f"{type(network).__name__} is in training mode; call eval() first")
    device = next(network.parameters()).device
    size, before, after = window_of(network, size)
    rows_of_windows: list[Tensor] = []
    scores: list[Tensor] = []
    num_tokens = num_windows = 0
    for window in windows(rows, size, before, after):
        output = network(window.features[None].to(device))
        if isinstance(network, Localiser):
            rows_of_windows.append(_candidates(network, output, window).cpu())
        else:
            assert output.scores is not None
            counted = output.scores[0, window.first - window.start : window.last - window.start]
            scores.append(counted.float().cpu().clone())  # a view would keep the scores of the whole window
        num_tokens, num_windows = window.last, num_windows + 1
        del output
    if isinstance(network, Localiser):
        return WholeAnswer(_suppressed(network, rows_of_windows), num_tokens, num_windows)
    joined = torch.cat(scores)
    (events,) = network.events(OfflineOutput(lengths=torch.tensor([num_tokens]), scores=joined[None]))
    return WholeAnswer(events, num_tokens, num_windows, joined)


def _candidates(network: Localiser, output: OfflineOutput, window: Window) -> Tensor:
    """Return the candidates (n, 4) of the places of a window that count, on the grid of the video, in double precision.

    A place counts, and not the middle of its event, so that each place of a long video has one answer.
    """
    assert output.levels is not None
    levels = []
    for level in output.levels:
        token = window.start + level.stride * torch.arange(level.mask.shape[1], device=level.mask.device)
        levels.append(level._replace(mask=level.mask & (token >= window.first) & (token < window.last)))
    rows = candidates(levels, network.decoding)[0].double()
    rows[:, :2] += window.start
    return rows


def _suppressed(network: Localiser, parts: list[Tensor]) -> Tensor:
    """Return the events (m, 4) of the candidates of all windows.

    ``max_events`` limits a video that is answered at once; a longer one may have as many times more as it has windows.
    """
    settings = network.decoding
    if settings.max_events is not None:
        settings = replace(settings, max_events=settings.max_events * len(parts))
    return suppress(torch.cat(parts), settings).float()
