"""The loss of a graph in int8, measured in several ways; each is a function of the graph.

Without labels: an extractor loses where the direction of its vectors changes (1 - cosine, the mean over tokens). A
network with classes loses where its best class becomes another: the probability that the float network gave its own
best class, less the one it gave the new one, which is the expected loss of top-1 if its probabilities are right. With
a validation split: top-1 or mean average precision before and after.

Shapes: N inputs, T tokens, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidact.batch import probabilities
from vidact.export.calibration import Feeds
from vidact.features.extractor import OnnxExtractor
from vidact.metrics import frame_map, mean_average_precision, topk_accuracy
from vidact.models.online import OnlineNetwork
from vidact.runtimes.exported import OnnxGraph
from vidact.video.decode import open_video


class Loss(NamedTuple):
    """One figure before and after the quantisation, in 0…1, and the largest change of a score or feature."""

    measure: str
    before: float
    after: float
    largest_change: float
    of: str = "score"  # what the largest change is one of

    @property
    def loss(self) -> float:
        """How much lower the figure is after than before; 0 where it is not lower."""
        return max(self.before - self.after, 0.0) if self.is_number else math.nan

    @property
    def is_number(self) -> bool:
        """Whether both figures are finite."""
        return math.isfinite(self.before) and math.isfinite(self.after)

    def is_within(self, max_loss: float) -> bool:
        """Return whether the loss is at most ``max_loss``; a NaN is not."""
        return self.loss <= max_loss

    def __str__(self) -> str:
        return (
            f"{self.measure} {self.before:.4f} -> {self.after:.4f}, a loss of {self.loss:.4f}; the largest change of a "
            f"{self.of} is {self.largest_change:.3g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the loss as a record holds it."""
        figures = {"before": self.before, "after": self.after, "loss": self.loss, "largest_change": self.largest_change}
        return {"measure": self.measure, **{name: round(value, 6) for name, value in figures.items()}}


def outputs_of(graph: OnnxGraph, inputs: Sequence[Feeds]) -> Tensor:
    """Return the only output of a graph for each input: (N, …)."""
    (name,) = graph.outputs
    return torch.cat([graph.run(feeds)[name] for feeds in inputs])


def expected_top1(before: Tensor, after: Tensor) -> Loss:
    """Return the expected loss of top-1 from the scores (N, K) of the same inputs before and after."""
    best = before.max(-1)
    chosen = before.gather(-1, after.argmax(-1, keepdim=True)).squeeze(-1)
    if not after.isfinite().all():
        chosen = torch.full_like(chosen, math.nan)
    return Loss("expected top-1", float(best.values.mean()), float(chosen.mean()), float((after - before).abs().max()))


class OfFeatures:
    """The loss of an extractor: 1 minus the mean cosine between its vectors and those in single precision."""

    def __init__(self, graph: OnnxGraph, inputs: Sequence[Feeds]) -> None:
        self._inputs, self._before = inputs, outputs_of(graph, inputs)

    def __call__(self, graph: OnnxGraph) -> Loss:
        after = outputs_of(graph, self._inputs)
        cosine = F.cosine_similarity(after, self._before, dim=1).mean()
        change = (after - self._before).abs().max() / self._before.abs().max()
        return Loss("cosine of features", 1.0, float(cosine), float(change), "feature, as a share of the largest,")


class OfClips:
    """The loss of a clip network on clips without labels."""

    def __init__(self, graph: OnnxGraph, inputs: Sequence[Feeds], activation: str) -> None:
        self._inputs, self._activation = inputs, activation
        self._before = probabilities(outputs_of(graph, inputs), activation)

    def __call__(self, graph: OnnxGraph) -> Loss:
        return expected_top1(self._before, probabilities(outputs_of(graph, self._inputs), self._activation))


class OfDetector:
    """The loss of a detector's answers to consecutive tokens without labels, by its extractor's graph."""

    def __init__(self, graph: OnnxGraph, runs: Sequence[Sequence[Feeds]], network: OnlineNetwork, activation: str):
        self._runs, self._network, self._activation = runs, network, activation
        self._before = self._scores(graph)

    @torch.no_grad()
    def _scores(self, graph: OnnxGraph) -> Tensor:
        answers = [self._network.scan(outputs_of(graph, run)[None]).logits[0] for run in self._runs]
        return probabilities(torch.cat(answers), self._activation)

    def __call__(self, graph: OnnxGraph) -> Loss:
        return expected_top1(self._before, self._scores(graph))


class OfValidationClips:
    """Top-1, or mean average precision of multi-label data, of the validation split.

    Args:
        graph: the graph in single precision.
        samples: a data set of clips in one view each (``vidact.data.clips.ClipDataset``).
        activation: the function that makes scores of logits.
        multi_label: whether a clip can have several labels.
    """

    def __init__(self, graph: OnnxGraph, samples: Any, activation: str, multi_label: bool) -> None:
        self._samples, self._activation, self._multi_label = samples, activation, multi_label
        self._graph = graph

    @cached_property
    def _before(self) -> tuple[Tensor, np.ndarray]:
        return self._scores(self._graph)

    def _scores(self, graph: OnnxGraph) -> tuple[Tensor, np.ndarray]:
        scores, targets = [], []
        for number in range(len(self._samples)):
            sample = self._samples[number]
            if sample.clips is None:  # a video that cannot be read, on both sides
                continue
            logits = torch.cat([graph.run({"clip": clip[None]})["logits"] for clip in sample.clips]).mean(0)
            scores.append(probabilities(logits, self._activation))
            targets.append(sample.target.numpy())
        return torch.stack(scores), np.stack(targets)

    def __call__(self, graph: OnnxGraph) -> Loss:
        (before, targets), (after, _) = self._before, self._scores(graph)
        measure = mean_average_precision if self._multi_label else topk_accuracy
        figures = [float(measure(scores.numpy(), targets)) for scores in (before, after)]
        name = f"validation {'mAP' if self._multi_label else 'top-1'}"
        return Loss(name, figures[0], figures[1], float((after - before).abs().max()))


class OfValidationVideos:
    """Mean average precision of a detector on the validation videos, whose features are made again in int8.

    Args:
        sequences: the videos of the split (``vidact.data.Sequence``), with their features in single precision.
        paths: their files, by the ids of the videos.
        network: the detector.
        activation: the function that makes scores of its logits.
        num_scores: the background and the classes.
        protocol: which tokens count (``vidact.metrics.frame_map``).
    """

    def __init__(
        self,
        sequences: Sequence[Any],
        paths: Mapping[str, Path],
        network: OnlineNetwork,
        activation: str,
        num_scores: int,
        protocol: str,
    ) -> None:
        self._sequences, self._paths, self._network = sequences, paths, network
        self._activation, self._num_scores, self._protocol = activation, num_scores, protocol

    @cached_property
    def _before(self) -> Tensor:
        return self._scores([np.array(sequence.features) for sequence in self._sequences])

    @torch.no_grad()
    def _scores(self, features: Sequence[np.ndarray]) -> Tensor:
        logits = [self._network.scan(torch.from_numpy(rows)[None]).logits[0] for rows in features]
        return probabilities(torch.cat(logits), self._activation)[:, : self._num_scores]

    def __call__(self, graph: OnnxGraph) -> Loss:
        extractor = OnnxExtractor(graph)
        features: list[np.ndarray] = []
        videos: dict[str, np.ndarray] = {}
        for sequence in self._sequences:  # the takes of a paused video follow each other
            if sequence.source not in videos:
                with open_video(self._paths[sequence.source], extractor.decoder) as reader:
                    videos = {sequence.source: extractor.video(reader).numpy()}
            rows = videos[sequence.source]
            features.append(rows[: len(sequence)])
            videos[sequence.source] = rows[len(sequence) :]
        after = self._scores(features)
        targets, ignore = (
            np.concatenate([getattr(sequence, name) for sequence in self._sequences])
            for name in ("multi_hot", "ignore")
        )
        ids = np.concatenate([np.full(len(sequence), sequence.id) for sequence in self._sequences])
        before = self._before
        figures = [
            frame_map(scores.numpy(), targets, ignore, self._protocol, video_ids=ids).mean for scores in (before, after)
        ]
        return Loss("validation mAP", figures[0], figures[1], float((after - before).abs().max()))


Judge = Callable[[OnnxGraph], Loss]
