"""The graph of an offline network, which reads whole videos of any length, and how it is compared with PyTorch.

Inputs are features (B, T, D) and lengths (B,). A segmenter's output is ``scores`` (B, T, 1 + K); a localiser's are
``logits_l`` (B, T_l, K) and ``distances_l`` (B, T_l, 2), or (B, T_l, K, 2), of each level l, whose place t lies at
token t · 2^l.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from vidact.models.localisation import Localiser
from vidact.models.offline import OfflineNetwork, OfflineOutput, inside
from vidact.records import Record

_CHECKED_LENGTH = 300  # tokens of the comparison, where a network has no training crop
_CHECKED_VIDEOS = 3
TRACED_LENGTH = 45


class OfflineAnswers(nn.Module):
    """The answers of an offline network by name, as its graph has them."""

    def __init__(self, network: OfflineNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return named(self.network(features, lengths=lengths))


class OfflineGraph(nn.Module):
    """The same as ``OfflineAnswers``, in operations that a graph can hold for any number of tokens."""

    def __init__(self, network: OfflineNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        num_tokens = features.shape[1]
        answers = named(self.network.compute(self._padded(features), lengths))
        if self.network.graph_unit > 1 and "scores" in answers:
            # Unlike a slice, this needs no proof that there are so many.
            answers["scores"] = answers["scores"].index_select(1, torch.arange(num_tokens))
        return answers

    def _padded(self, features: Tensor) -> Tensor:
        """Return the features with zeros after them, as many as the network needs.

        The number of units goes through a tensor, so that the lengths of all levels are multiples of one free number
        in the graph; as a formula of T they would be conditions on T.
        """
        network, unit = self.network, self.network.graph_unit
        if unit == 1:
            return features
        num_tokens = features.shape[1]
        tokens = torch.scalar_tensor(num_tokens, dtype=torch.int64)
        if network.published_padding and network.max_tokens is not None:
            crop, step = network.max_tokens, network.pad_to
            longer = (tokens + step - 1) // step * (step // unit)
            units = torch.where(tokens <= crop, crop // unit, longer)
        else:
            units = (tokens + unit - 1) // unit
        count: Any = units.item()
        torch._check(count >= 1)
        missing = count * unit - num_tokens
        torch._check(missing >= 0)
        zeros = features.new_zeros(features.shape[0], missing, features.shape[2])
        return torch.cat([features, zeros], 1)


def named(output: OfflineOutput) -> dict[str, Tensor]:
    """Return the answers of a network by the names of its graph's outputs."""
    if output.levels is None:
        assert output.scores is not None
        return {"scores": output.scores}
    numbered = list(enumerate(output.levels))
    logits = {f"logits_{number}": level.logits for number, level in numbered}
    return logits | {f"distances_{number}": level.distances for number, level in numbered}


def inside_videos(answers: Mapping[str, Tensor], lengths: Tensor) -> Iterator[Tensor]:
    """Yield of each answer the rows that lie inside the videos of these lengths; the others have no meaning."""
    for name, values in answers.items():
        stride = 1 if name == "scores" else 2 ** int(name.rpartition("_")[2])
        yield values[inside(-(-lengths // stride), values.shape[1])]


def facts_of(network: OfflineNetwork) -> dict[str, Any]:
    """Return what the record of a file says of the graph of an offline network, under ``export``."""
    facts: dict[str, Any] = {"num_classes": network.num_classes, "feature_dim": network.feature_dim}
    if network.max_tokens is not None:
        facts["max_tokens"] = network.max_tokens
    if isinstance(network, Localiser):
        facts["strides"] = [2**level for level in range(len(network.ranges))]
    return facts


def record_with_decoding(record: Record, network: OfflineNetwork) -> Record:
    """Return the record with the kind of the network, and how its outputs become events now."""
    if isinstance(network, Localiser):
        return replace(record, kind="localiser", decoding=asdict(network.decoding))
    return replace(record, kind="segmenter")


def random_videos(network: OfflineNetwork, runs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features and lengths of videos longer than a training crop, as long, shorter, and of one token.

    They are the same in every call.
    """
    crop = network.max_tokens or _CHECKED_LENGTH
    sizes = [crop * 4 // 3 + 1, 1, min(61, crop), crop, 2, crop // 2 + 1]
    generator = torch.Generator().manual_seed(0)
    for run in range(runs):
        num_tokens = sizes[run % len(sizes)]
        videos = _CHECKED_VIDEOS if num_tokens <= 61 else 1
        features = torch.randn(videos, num_tokens, network.feature_dim, generator=generator)
        lengths = torch.randint(1, num_tokens + 1, (videos,), generator=generator)
        lengths[0] = num_tokens
        yield features, lengths
