"""Offline networks: their contract, and what several of them use.

An offline network answers for a whole untrimmed video at once and sees what comes later; it has no state and no step.
Localisers (ActionFormer, TriDet) give events; segmenters (MS-TCN, ASFormer) give a label for every token. Both read one
feature vector a token, as online detectors do.

Times are places on the grid of the tokens: place g, a real number, is the centre of token g, so a token covers the
places from g − 0.5 to g + 0.5. Only ``offline_decoding.Grid`` turns places into seconds.

Shapes: B videos, T tokens, D features, K actions, S stages; level l has T_l = T / 2^l places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.online import multi_hot_cross_entropy, refuse_other_features


class Level(NamedTuple):
    """The outputs of a localiser at one resolution.

    ``logits`` are (B, T_l, K). ``distances`` are (B, T_l, 2), or (B, T_l, K, 2) of each class, from each place back to
    the start and on to the end of an event, at least 0, in strides. ``stride`` is the number of tokens from a place to
    the next; place t of the level lies at t · ``stride`` on the grid. ``mask`` (B, T_l) is True inside the video.
    """

    logits: Tensor
    distances: Tensor
    stride: int
    mask: Tensor


@dataclass(kw_only=True)
class OfflineOutput:
    """The answer for whole videos, over the padded length; what the fields hold past a video's length has no meaning.

    Parts that a network's own losses need, and all parts under the names of the published outputs, can be read by name:
    ``output["logits_0"]`` or ``output.logits_0``.

    Attributes:
        lengths: (B,) the number of tokens of each video.
        scores: segmenters: (B, T, 1 + K) probabilities, the background first.
        stages: segmenters: (S, B, T, 1 + K) logits of every stage; the last one is the answer.
        levels: localisers: from the finest to the coarsest.
        parts: further tensors by name.
    """

    lengths: Tensor
    scores: Tensor | None = None
    levels: list[Level] | None = None
    stages: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        if name in self.parts:
            return self.parts[name]
        if name in ("scores", "stages") and (value := getattr(self, name)) is not None:
            return value
        levels = self.levels or []
        match = re.fullmatch(r"(logits|distances|offsets)_(\d+)", name)
        if match and int(match[2]) < len(levels):
            level = levels[int(match[2])]
            return level.logits if match[1] == "logits" else level.distances
        raise KeyError(f"the output has no {name!r}")

    def __getattr__(self, name: str) -> Tensor:
        if "_" in name and not name.startswith("_") and "parts" in self.__dict__:
            try:
                return self[name]
            except KeyError as error:
                raise AttributeError(str(error)) from error
        raise AttributeError(name)


@dataclass
class Truth:
    """What is known of a batch of videos.

    Attributes:
        events: localisers: of each video (n, 3) start and end on the grid of the tokens, and action from 0 to K − 1.
        targets: segmenters: (B, T, 1 + K) multi-hot, the background first.
        ignore: segmenters: (B, T) bool, tokens that do not count; those past a video's length never do.
        ambiguous: localisers: of each video (m, 2) stretches on the grid whose places do not count; None is none.
    """

    events: Sequence[Tensor] | None = None
    targets: Tensor | None = None
    ignore: Tensor | None = None
    ambiguous: Sequence[Tensor] | None = None


class OfflineNetwork(nn.Module):
    """The contract of offline networks.

    Attributes:
        num_classes: the number of outputs of a place: K actions of a localiser, 1 + K of a segmenter, which answers
            the background as well.
        feature_dim: D.
        max_tokens: the tokens of a training crop; None for networks that train on whole videos. Longer videos may be
            answered too.
        pad_to: ``forward`` pads the time axis to a multiple of this.
        graph_unit: an exported graph pads videos to a multiple of this, by which all parts of the network divide; 1 for
            networks that need no padding.
        published_padding: whether padding reaches the answers as in the published code. If not, neither padding nor
            the other videos of a batch change an answer.
        reach: how many tokens before and after a token its answer depends on; None where there is no such limit, or
            none that is worth its computation (localisers).
    """

    num_classes: int
    feature_dim: int
    max_tokens: int | None = None
    pad_to: int = 1
    graph_unit: int = 1
    published_padding: bool = False
    reach: tuple[int, int] | None = None

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> OfflineOutput:
        """Return the answers for whole videos ``features`` (B, T, D), T ≥ 1.

        Args:
            lengths: (B,) the tokens of each video, from 1 to T; what follows them is padding of any values. None is T
                for all.
        """
        lengths = self.check(features, lengths)
        missing = self.padded_length(features.shape[1]) - features.shape[1]
        return self.compute(F.pad(features, (0, 0, 0, missing)), lengths)

    def compute(self, features: Tensor, lengths: Tensor) -> OfflineOutput:
        """Return the answers for features of a ``padded_length`` and lengths that were checked; it can be traced."""
        raise NotImplementedError

    def padded_length(self, num_tokens: int) -> int:
        """Return the number of tokens to which videos of ``num_tokens`` are padded before ``compute``."""
        return num_tokens

    def losses(self, output: OfflineOutput, truth: Truth) -> dict[str, Tensor]:
        """Return the terms of the training loss, already weighted; the loss is their sum."""
        raise NotImplementedError

    def events(self, output: OfflineOutput) -> list[Tensor]:
        """Return the events of each video, B tensors (n, 4): start and end on the grid, action, score from 0 to 1."""
        raise NotImplementedError

    def check(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the lengths (B,) int64 of the videos.

        Raises ValueError for features that are no (B, T, D), have no token, another width, or values that are not
        finite inside a video, and for lengths that do not fit them.
        """
        name = type(self).__name__
        if features.ndim != 3:
            raise ValueError(
                f"{name} was given features of the shape {tuple(features.shape)}; it takes (videos, tokens, values)"
            )
        refuse_other_features(self, features)
        num_videos, num_tokens = features.shape[:2]
        if lengths is None:
            lengths = torch.full((num_videos,), num_tokens, device=features.device)
        lengths = lengths.to(features.device, torch.int64)
        if lengths.shape != (num_videos,) or bool(((lengths < 1) | (lengths > num_tokens)).any()):
            raise ValueError(
                f"lengths are {lengths.tolist()}, for features of {num_videos} videos with {num_tokens} tokens; give "
                f"each video a length from 1 to {num_tokens}"
            )
        is_odd = ~features.isfinite().all(2) & inside(lengths, num_tokens)
        if is_odd.any():
            video, token = (int(i) for i in is_odd.nonzero()[0])
            column = int((~features[video, token].isfinite()).nonzero()[0])
            raise ValueError(
                f"{name} was given features that are not finite: value {column} of token {token} of video {video} of "
                f"the batch is {float(features[video, token, column])}, and {int(is_odd.sum())} token(s) have such "
                "values. Extract the features of this video again"
            )
        return lengths

    def refuse_absent(self, value: object, name: str) -> None:
        """Raise ValueError where the truth has no ``name``, which the losses of this network need."""
        if value is None:
            raise ValueError(f"{type(self).__name__} learns from Truth.{name}, which is None")


def inside(lengths: Tensor, num_tokens: int) -> Tensor:
    """Return which of ``num_tokens`` tokens belong to videos of ``lengths`` (B,): bool (B, T)."""
    return torch.arange(num_tokens, device=lengths.device) < lengths[:, None]


def channels_first(features: Tensor, mask: Tensor) -> Tensor:
    """Return features (B, T, D) as (B, D, T), with zeros where ``mask`` (B, T) is False, whatever was there."""
    return features.masked_fill(~mask[..., None], 0).transpose(1, 2)


def refuse_sizes(**sizes: int) -> None:
    """Raise ValueError for sizes below 1, by their names."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it is at least 1")


# ---------------------------------------------------------------------------------------------- segmenters


class Segmenter(OfflineNetwork):
    """An offline network that labels every token, in several stages that each correct the one before.

    Args:
        num_classes: the number of outputs 1 + K, the background first.
        feature_dim: size D of a token's features.
        smoothing_weight: weight of the smoothing loss.
        smoothing_limit: changes of a log-probability count up to this size in the smoothing loss.
        published_padding: see ``OfflineNetwork``; the smoothing loss then is an average over padding, too.
    """

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        smoothing_weight: float = 0.15,
        smoothing_limit: float = 4.0,
        published_padding: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a segmenter has the background and at least one action")
        self.num_classes, self.feature_dim, self.published_padding = num_classes, feature_dim, published_padding
        self.smoothing_weight, self.smoothing_limit = smoothing_weight, smoothing_limit

    def losses(self, output: OfflineOutput, truth: Truth) -> dict[str, Tensor]:
        """Return the cross-entropy and the smoothing loss, each summed over the stages.

        The cross-entropy is the mean over the labelled tokens of the batch; the targets may cover fewer tokens than the
        output, the rest being padding.
        """
        self.refuse_absent(truth.targets, "targets")
        assert output.stages is not None
        assert truth.targets is not None
        num_tokens = truth.targets.shape[1]
        stages = output.stages[:, :, :num_tokens]
        if stages.shape[2] != num_tokens or truth.targets.shape[2] > self.num_classes:
            raise ValueError(
                f"the targets have the shape {tuple(truth.targets.shape)} and the answers "
                f"{tuple(output.stages.shape[1:])}; give a row of at most {self.num_classes} values for each token"
            )
        mask = inside(output.lengths, num_tokens)
        ignore = ~mask if truth.ignore is None else ~mask | truth.ignore
        entropy = [multi_hot_cross_entropy(logits, truth.targets, ignore) for logits in stages]
        smooth = [self.smoothing(logits, mask) for logits in stages]
        return {
            "cross_entropy": torch.stack(entropy).sum(),
            "smoothing": self.smoothing_weight * torch.stack(smooth).sum(),
        }

    def smoothing(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared change of log-probabilities from a token to the next, up to the limit; 0 if T = 1.

        The gradient flows through the later token only. The published mean is over the padded length; here it is over
        the tokens of the videos.
        """
        log_p = F.log_softmax(logits.float(), -1)
        change = (log_p[:, 1:] - log_p[:, :-1].detach()).square().clamp(max=self.smoothing_limit**2)
        counts = mask[:, 1:, None].expand_as(change)
        total = change.numel() if self.published_padding else int(counts.sum())
        return (change * counts).sum() / max(total, 1)

    def events(self, output: OfflineOutput) -> list[Tensor]:
        """Return the runs of tokens whose best class is the same action; see ``runs_of``."""
        assert output.scores is not None
        return runs_of(output.scores, output.lengths)

    def answer(self, stages: Tensor, lengths: Tensor) -> OfflineOutput:
        """Return the output for logits ``stages`` (S, B, T, 1 + K)."""
        return OfflineOutput(lengths=lengths, scores=stages[-1].softmax(-1), stages=stages)


def runs_of(scores: Tensor, lengths: Tensor) -> list[Tensor]:
    """Return the runs of tokens whose best class is the same action; the score of a run is its mean probability.

    Args:
        scores: (B, T, 1 + K) probabilities, the background first.
        lengths: (B,) the tokens of each video.

    Returns:
        Of each video (n, 4): start and end on the grid, action, score.
    """
    events = []
    for of_video, length in zip(scores, lengths.tolist(), strict=True):
        best_score, best = of_video[:length].max(1)
        is_border = torch.ones(length + 1, dtype=torch.bool, device=best.device)
        is_border[1:-1] = best[1:] != best[:-1]
        borders = is_border.nonzero()[:, 0]  # (n + 1,)
        first, last = borders[:-1], borders[1:]
        sums = F.pad(best_score.double().cumsum(0), (1, 0))
        means = (sums[last] - sums[first]) / (last - first)
        rows = torch.stack([first - 0.5, last - 0.5, best[first] - 1.0, means.float()], 1)
        events.append(rows[best[first] > 0])
    return events
