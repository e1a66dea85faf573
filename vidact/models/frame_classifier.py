"""A linear classifier of the newest features: the baseline that a detector has to beat.

Its input is the concatenated means of the features over several spans of last tokens. Span 1 is the newest token; spans
1, 4 and 12 add the means over the last one and three seconds, without any order of time. With ``smoothing`` its logits
are averaged over the past, which it could not learn from few training videos.

Shapes: B videos, T tokens, D features, K outputs, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.online import OnlineNetwork, OnlineOutput, State, shift_tokens
from vidact.models.weights import builder


class FrameClassifier(OnlineNetwork):
    """One linear layer on the normalised mean features of several spans.

    Args:
        num_classes: number of outputs K.
        feature_dim: size D of a token's features.
        spans: number of tokens that each mean covers, the newest included; fewer at a video's start.
        dropout: dropout rate on the normalised means.
        smoothing: weight of the previous token's logits in each token's logits, at least 0 and below 1.
    """

    dense = True

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        spans: Sequence[int] = (1,),
        dropout: float = 0.0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}; it is a share from 0 (none) up to, without, 1")
        if not spans or min(spans) < 1:
            raise ValueError(f"spans are {tuple(spans)}; give at least one, each of at least one token")
        self.num_classes, self.feature_dim, self.spans, self.smoothing = (
            num_classes,
            feature_dim,
            tuple(spans),
            smoothing,
        )
        self.longest = max(spans)
        self.window = None if smoothing else self.longest  # an average over the past has no end
        self.norm = nn.LayerNorm(len(self.spans) * feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(len(self.spans) * feature_dim, num_classes)

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Return logits of every token (n = T); rows before ``start`` repeat those of the first token."""
        self.check(features)
        if start is not None:
            return OnlineOutput(shift_tokens(self(shift_tokens(features, start)).logits, -start))
        past = F.pad(features, (0, 0, self.longest - 1, 0))  # the counts below leave these zeros out
        counts = torch.arange(1, features.shape[1] + 1, device=features.device)
        windows = past.unfold(1, self.longest, 1)  # (B, T, D, window)
        logits = self._classify(windows, counts.expand(len(features), -1))
        if self.smoothing:
            smoothed = [logits[:, 0]]
            for now in logits.unbind(1)[1:]:
                smoothed.append(now.lerp(smoothed[-1], self.smoothing))
            logits = torch.stack(smoothed, 1)
        return OnlineOutput(logits)

    def initial_state(self, batch_size: int = 1) -> State:
        weight = self.classifier.weight
        state = {
            "recent": weight.new_zeros(batch_size, self.feature_dim, self.longest),
            "tokens": torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
        }
        return state | ({"answer": weight.new_zeros(batch_size, self.num_classes)} if self.smoothing else {})

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        self.check(feature)
        recent = torch.cat([state["recent"][:, :, 1:], feature[:, :, None]], 2)
        tokens = state["tokens"] + 1
        logits = self._classify(recent[:, None], tokens[:, None])
        following = {"recent": recent, "tokens": tokens}
        if self.smoothing:
            past = torch.where(tokens[:, None] == 1, logits[:, 0], state["answer"])
            following["answer"] = logits[:, 0].lerp(past, self.smoothing)
            logits = following["answer"][:, None]
        return OnlineOutput(logits), following

    def _classify(self, windows: Tensor, counts: Tensor) -> Tensor:
        """Return logits (B, T, K) of windows (B, T, D, window), newest last, with ``counts`` (B, T) real tokens."""
        means = [
            windows[..., -span:].sum(-1) / counts.clamp(max=span).to(windows.dtype)[..., None] for span in self.spans
        ]
        return self.classifier(self.dropout(self.norm(torch.cat(means, -1))))


@builder
def frame_classifier(
    num_classes: int, feature_dim: int, spans: Sequence[int] = (1,), dropout: float = 0.0, smoothing: float = 0.0
) -> FrameClassifier:
    """A linear classifier of each token, the baseline of every detector.

    Args:
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        spans: number of tokens that each mean covers: [1] is the token itself, [1, 4, 12] adds the last 1 s and 3 s at
            4 tokens a second.
        dropout: dropout rate on the normalised means.
        smoothing: weight of the previous token's logits in each token's logits; 0.8 averages about five tokens.
    """
    return FrameClassifier(num_classes, feature_dim, tuple(spans), dropout, smoothing)
