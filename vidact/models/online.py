"""Online detectors: what they promise, and what they share.

A detector names, at every moment of an untrimmed video, the action of that moment from the past alone. It reads one
feature vector a token (4 tokens a second, as a rule) and can be asked in two ways that give the same numbers: for a
stretch of features at once (``forward``), or for one more token and the state so far (``step``).

Shapes: B videos, T tokens, D features, n answered tokens, K outputs (the background first), L tokens ahead.
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


@dataclass
class OnlineOutput:
    """Logits of the last n tokens.

    ``logits`` (B, n, K); ``future`` (B, m, L, K) of the last m ≤ n of them, output j of a token speaks of
    ``future_offsets[j]`` tokens later; ``losses`` are what a network adds to the training loss by itself, already
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
        window: how many tokens, the newest included, can matter to an answer; None is the whole past.
        future_offsets: how many tokens ahead each future output is; empty where the network predicts none. 0 is now.
        dense: whether ``forward`` answers every token it is given, as ``step`` would.
        has_own_losses: whether ``forward`` takes ``targets`` and ``ignore`` and then fills ``losses``.
    """

    num_classes: int
    feature_dim: int
    window: int | None = None
    future_offsets: tuple[int, ...] = ()
    dense: bool = False
    has_own_losses: bool = False

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Answer the last tokens of ``features`` (B, T, D), T ≥ 1, contiguous in time.

        Args:
            start: (B,) where each video begins: the tokens before it only fill the batch and repeat the first one. A
                network that masks the missing past does so; others read the repeated token. None is 0 for all.
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int = 1) -> State:
        """The state of streams that have seen nothing, on the network's device."""
        raise NotImplementedError

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """One more token (B, D) of each stream: the answer for it (n = 1), and the state after it.

        ``state`` itself is left as it was, so it can be kept and returned to.
        """
        raise NotImplementedError

    def reset(self, state: State, which: Tensor) -> State:
        """The state with the streams in ``which`` (B,) bool begun anew, the others as they are."""
        fresh = self.initial_state(len(which))

        def choose(old: Tensor, new: Tensor) -> Tensor:
            mask = which.to(old.device).view(-1, *[1] * (old.ndim - 1))
            return torch.where(mask, new.to(old.device, old.dtype), old)

        return map_state(choose, state, fresh)

    def scan(self, features: Tensor) -> OnlineOutput:
        """Every token's answer (n = T) for whole videos (B, T, D): what a stream would have said, token by token."""
        self.check(features)
        if self.dense:
            return self(features)
        state, outputs = self.initial_state(len(features)), []
        for feature in features.unbind(1):
            output, state = self.step(feature, state)
            outputs.append(output)
        future = None if outputs[0].future is None else torch.cat([output.future for output in outputs], 1)  # type: ignore[misc]
        return OnlineOutput(torch.cat([output.logits for output in outputs], 1), future)

    def check(self, features: Tensor) -> None:
        """Refuse features (…, D) of another width, and an empty stretch."""
        if features.shape[-1] != self.feature_dim:
            raise ValueError(
                f"the features have {features.shape[-1]} values a token, and {type(self).__name__} was built for "
                f"{self.feature_dim}: they come from another backbone. Extract them again, or set feature_dim"
            )
        if features.ndim == 3 and features.shape[1] == 0:
            raise ValueError(f"{type(self).__name__} was given no token; a stretch has at least one")


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply ``function`` to the tensors that stand at the same place in each tree."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        return {key: map_state(function, *(state[key] for state in states)) for key in first}
    return type(first)(map_state(function, *parts) for parts in zip(*states, strict=True))


def stack_states(states: list[State]) -> State:
    """One batch of all the streams of several states."""
    return map_state(lambda *tensors: torch.cat(tensors), *states)


def select_streams(state: State, index: Tensor) -> State:
    """The streams that ``index`` (int64, (n,)) names, in its order."""
    return map_state(lambda tensor: tensor[index.to(tensor.device)], state)


def one_stream(state: State, i: int) -> State:
    """The ``i``-th stream alone, in memory of its own; unlike ``select_streams`` it waits for no device."""
    return map_state(lambda tensor: tensor[i : i + 1].clone(), state)


def last_window(features: Tensor, window: int) -> Tensor:
    """The last ``window`` tokens (B, window, D); what is missing on the left repeats the first token."""
    missing = window - features.shape[1]
    if missing > 0:
        features = torch.cat([features[:, :1].expand(-1, missing, -1), features], 1)
    return features[:, -window:]


def shift_tokens(tokens: Tensor, by: Tensor) -> Tensor:
    """Tokens (B, T, …) moved ``by`` (B,) places towards the front, the end tokens repeated where some are missing.

    A recurrent network reads a batch whose videos begin at ``start`` moved by ``start``, so that each begins with a
    fresh state, and moves its answers back by ``-start``.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device) + by.to(tokens.device)[:, None]
    rows = torch.arange(len(tokens), device=tokens.device)[:, None]
    return tokens[rows, places.clamp(0, tokens.shape[1] - 1)]


def multi_hot_cross_entropy(logits: Tensor, targets: Tensor, ignore: Tensor | None = None) -> Tensor:
    """−Σ y_c log p_c, mean over the rows that are not ignored; 0 where all are (LSTR's "MCE").

    Args:
        logits: (…, K).
        targets: (…, C) multi-hot with C ≤ K. Logits beyond C (the ambiguous class of published weights) take part in
            the softmax and are never a target.
        ignore: (…) bool, rows that do not count.
    """
    log_p = F.log_softmax(logits.float(), dim=-1)[..., : targets.shape[-1]]
    loss = -(targets * log_p).sum(-1)
    if ignore is None:
        return loss.mean()
    kept = (~ignore).to(loss.dtype)
    return (loss * kept).sum() / kept.sum().clamp(min=1)
