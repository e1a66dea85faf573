"""Online detectors: their protocol, and functions that several of them use.

A detector names the action of every moment of an untrimmed video without looking ahead. It reads one feature vector a
token (usually 4 tokens a second) and can be called in two ways that return the same numbers: ``forward`` takes many
tokens at once, ``step`` takes one more token and the state so far.

Shapes: B videos, T tokens, D features, n tokens with an output, K outputs (the background first), L tokens ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A tree of tensors: a tensor, or a dict, list or tuple of trees. The first axis of every tensor is the stream.
State = Any

# The ``end`` of a stream that goes on: a number of tokens that no stream reaches, and that is exact in JSON.
NO_END = 2**53


@dataclass
class OnlineOutput:
    """The logits of the last n tokens.

    ``logits`` are (B, n, K). ``future`` are (B, m, L, K), of the last m ≤ n tokens; output j of a token is for the
    moment ``future_offsets[j]`` tokens later. ``losses`` are terms that a network adds to the training loss, already
    weighted.
    """

    logits: Tensor
    future: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


class OnlineNetwork(nn.Module):
    """The protocol of online detectors.

    Attributes:
        num_classes: K, outputs a token: the background, the actions, and in published weights an ambiguous class.
        feature_dim: D.
        window: the number of tokens, the newest included, that can matter to an output; None is the whole past.
        future_offsets: tokens that each future output lies ahead, 0 being now; empty for a network without them.
        dense: whether ``forward`` returns an output for every token, as ``step`` would.
        has_own_losses: whether ``forward`` takes ``targets`` and ``ignore`` and then fills ``losses``.
        delay: tokens by which an output comes late: the one that comes with token t is for token t − ``delay``. Only
            ``scan`` returns the outputs of the tokens themselves. Such a network has the keys ``count`` and ``end``,
            (B,) int64, in its state: the tokens of the stream so far, and ``NO_END``, or the number of tokens after
            which none comes. Its ``forward`` takes ``lengths`` (B,) by name, the tokens of each video.
        rings: the paths (``runtimes.steps.flatten``) of large tensors (B, n, …) of the state, of which a step writes
            row ``count`` modulo n and reads no row that is older than n − ``spare_rows`` tokens.
        spare_rows: see there.
    """

    num_classes: int
    feature_dim: int
    window: int | None = None
    future_offsets: tuple[int, ...] = ()
    dense: bool = False
    has_own_losses: bool = False
    delay: int = 0
    rings: tuple[str, ...] = ()
    spare_rows: int = 0

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Return the outputs for the last tokens of ``features`` (B, T, D), T ≥ 1, contiguous in time.

        Args:
            start: (B,) the index of each video's first token; the tokens before it are padding that repeats that
                token. Some networks mask the padding, others read it. None is 0 for all.
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int = 1) -> State:
        """Return the state of streams before their first token, on the network's device."""
        raise NotImplementedError

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """Return the output for one more token (B, D) of each stream (n = 1), and the next state.

        ``state`` is not modified, so a caller can return to it later.
        """
        raise NotImplementedError

    def reset(self, state: State, which: Tensor) -> State:
        """Return the state with the streams in ``which`` (B,) bool reset to their beginning, the others unchanged."""
        fresh = self.initial_state(len(which))

        def choose(old: Tensor, new: Tensor) -> Tensor:
            mask = which.to(old.device).view(-1, *[1] * (old.ndim - 1))
            return torch.where(mask, new.to(old.device, old.dtype), old)

        return map_state(choose, state, fresh)

    def scan(self, features: Tensor, lengths: Tensor | None = None) -> OnlineOutput:
        """Return the output of every token (n = T) of whole videos (B, T, D), the same as a stream's.

        Args:
            features: the tokens of the videos, from the first.
            lengths: (B,) the tokens of each video, the rest being padding; None is T for all. It matters to networks
                with a ``delay``: the last outputs are those that ``flush`` returns.
        """
        self.check(features)
        if not self.delay:
            return self(features) if self.dense else self._run_steps(features, self.initial_state(len(features)))
        if lengths is None:
            lengths = torch.full((len(features),), features.shape[1], device=features.device)
        longer = F.pad(features, (0, 0, 0, self.delay))
        if self.dense:
            late = self(longer, lengths=lengths)
        else:
            late = self._run_steps(longer, self.ended(self.initial_state(len(features)), lengths))
        return OnlineOutput(late.logits[:, self.delay :], None if late.future is None else late.future[:, self.delay :])

    def flush(self, state: State) -> OnlineOutput:
        """Return the outputs for the last ``delay`` tokens (n = ``delay``) of streams that end with ``state``.

        Those of a stream with fewer tokens are the last ones; what comes before them has no meaning.
        """
        like = _float_in(state)
        if not self.delay:
            rows = like.new_zeros(len(like), 0, self.num_classes)
            offsets = len(self.future_offsets)
            return OnlineOutput(rows, rows[:, :, None].expand(-1, -1, offsets, -1) if offsets else None)
        return self._run_steps(like.new_zeros(len(like), self.delay, self.feature_dim), self.ended(state))

    def ended(self, state: State, lengths: Tensor | None = None) -> State:
        """Return a state after which only the outputs of earlier tokens come, for each step on any feature (B, D).

        Args:
            state: the state of streams of a network with a ``delay``.
            lengths: (B,) the tokens that each stream has in all; None is those so far.
        """
        end = state["count"] if lengths is None else lengths.to(state["end"])
        return {**state, "end": end}

    def _run_steps(self, features: Tensor, state: State) -> OnlineOutput:
        """Return the outputs of the steps on features (B, T, D), T ≥ 1, from a state on."""
        outputs = []
        for feature in features.unbind(1):
            output, state = self.step(feature, state)
            outputs.append(output)
        future = None if outputs[0].future is None else torch.cat([output.future for output in outputs], 1)  # type: ignore[misc]
        return OnlineOutput(torch.cat([output.logits for output in outputs], 1), future)

    def check(self, features: Tensor) -> None:
        """Raise ValueError for features (…, D) of another width, and for features without a token."""
        refuse_other_features(self, features)


def refuse_other_features(network: Any, features: Tensor) -> None:
    """Raise ValueError for features (…, D) of another width than the network's, and for features without a token."""
    name = type(network).__name__
    if features.shape[-1] != network.feature_dim:
        raise ValueError(
            f"the features have {features.shape[-1]} values a token, and {name} was built for "
            f"{network.feature_dim}: they come from another backbone. Extract them again, or set feature_dim"
        )
    if features.ndim == 3 and features.shape[1] == 0:
        raise ValueError(f"{name} was given no token; a stretch has at least one")


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply ``function`` to the tensors at the same position of each tree, and return the tree of the results."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        return {key: map_state(function, *(state[key] for state in states)) for key in first}
    return type(first)(map_state(function, *parts) for parts in zip(*states, strict=True))


def _float_in(state: State) -> Tensor:
    """Return a tensor of a state that has the type of the network's numbers."""
    tensors: list[Tensor] = []
    map_state(lambda tensor: tensors.append(tensor) or tensor, state)  # type: ignore[func-returns-value]
    return next(tensor for tensor in tensors if tensor.is_floating_point())


def stack_states(states: list[State]) -> State:
    """Return one state with all the streams of several states."""
    return map_state(lambda *tensors: torch.cat(tensors), *states)


def select_streams(state: State, index: Tensor) -> State:
    """Return the state of the streams with the indices ``index`` (n,) int64, in that order."""
    return map_state(lambda tensor: tensor[index.to(tensor.device)], state)


def one_stream(state: State, i: int) -> State:
    """Return a copy of the state of stream ``i``; unlike ``select_streams`` it does not synchronise with a GPU."""
    return map_state(lambda tensor: tensor[i : i + 1].clone(), state)


def last_window(features: Tensor, window: int) -> Tensor:
    """Return the last ``window`` tokens (B, window, D), with the first token repeated on the left where some lack."""
    missing = window - features.shape[1]
    if missing > 0:
        features = torch.cat([features[:, :1].expand(-1, missing, -1), features], 1)
    return features[:, -window:]


def shift_tokens(tokens: Tensor, by: Tensor) -> Tensor:
    """Return the tokens (B, T, …) shifted ``by`` (B,) positions towards the front; the token at an end fills the gap.

    A recurrent network shifts a batch whose videos begin at ``start`` by ``start``, so that each video begins with the
    initial state, and shifts its outputs back by ``-start``.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device) + by.to(tokens.device)[:, None]
    rows = torch.arange(len(tokens), device=tokens.device)[:, None]
    return tokens[rows, positions.clamp(0, tokens.shape[1] - 1)]


def multi_hot_cross_entropy(
    logits: Tensor, targets: Tensor, ignore: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return −Σ w_c y_c log p_c, averaged over the rows that are not ignored; 0 where all are (LSTR's "MCE").

    Args:
        logits: (…, K).
        targets: (…, C) multi-hot with C ≤ K. Logits beyond C (the ambiguous class of published weights) are part of
            the softmax and never a target.
        ignore: (…) bool, the rows that do not count.
        weights: (C,) the weights w of the classes, at least 0; None is 1 for all. A row counts in the average by the
            mean weight of its labels, as in ``torch.nn.functional.cross_entropy``.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)[..., : targets.shape[-1]]
    weighted = targets if weights is None else targets * weights
    loss = -(weighted * log_p).sum(-1)
    counts = torch.ones_like(loss) if ignore is None else (~ignore).to(loss.dtype)
    total = (loss * counts).sum()
    if weights is None:
        return total / counts.sum().clamp(min=1)
    least = torch.finfo(loss.dtype).tiny  # for rows without a label, and batches in which no label has a weight
    return total / (counts * weighted.sum(-1) / targets.sum(-1).clamp(min=least)).sum().clamp(min=least)
