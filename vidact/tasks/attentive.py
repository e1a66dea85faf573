"""The attentive head of probes: trained with mini-batches on stored tokens, with the settings that validation chooses.

The tokens of the training clips determine the mean, the deviation and the principal axes. Then the pooler and the
linear layer are trained with AdamW on the projected tokens, which fit into memory. The weight decay and the number of
epochs are those with the smallest validation loss. Everything random follows from the seed.

Shapes: N training clips, n tokens of a clip, D their width, E the width after the projection, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidact.device import one_thread
from vidact.models.probe import Head
from vidact.models.token_probe import WIDTH, AttentiveScores
from vidact.tasks.probe import LEAST_SPREAD, FittedHead, Part

DECAYS = (0.1, 3.0)
ROUNDS = 30  # after each, the validation clips are measured
LEAST_STEPS = 12  # of a round, which is otherwise one epoch
RATE = 1e-3
WARMUP = 10  # steps in which the learning rate rises
BATCH = 16
SAMPLE = 4096  # tokens that determine the axes


@one_thread()
def fit_attentive(tokens: Sequence[np.ndarray], labels: np.ndarray, parts: Sequence[Part], seed: int = 0) -> FittedHead:
    """Train an attentive head on all training clips, with the settings that are best on the parts.

    Args:
        tokens: of every clip, each (n, D) float32.
        labels: the classes of the training clips (N,), which are the first N of ``tokens``; each of 0 … K - 1 occurs.
        parts: on which settings are compared: ``features`` and ``other_features`` are rows of ``tokens``. Without any,
            a third of the rounds are trained with the first decay, and the accuracy is NaN.
        seed: of the first weights, the order of the clips and dropout.
    """
    right = np.zeros((len(DECAYS), ROUNDS))
    losses = np.zeros((len(DECAYS), ROUNDS))
    passes = math.ceil(LEAST_STEPS / math.ceil(len(labels) / BATCH))  # epochs of a round, the same for all parts
    for part in parts:
        present, targets = np.unique(part.labels, return_inverse=True)
        is_present = np.isin(part.other_labels, present)
        others = [tokens[row] for row in part.other_features[is_present]]
        if not others:
            continue
        truth = torch.from_numpy(np.searchsorted(present, part.other_labels[is_present]))
        examples = [tokens[row] for row in part.features]
        for number, decay in enumerate(DECAYS):
            head, projected = started(examples, len(present), seed)
            measured = project(head, others)
            classes = torch.from_numpy(targets)
            for turn, scores in enumerate(rounds(head, projected, classes, decay, passes, seed)):
                with torch.inference_mode():
                    logits = torch.cat([scores.of_projected(batch) for batch in measured.split(BATCH)])
                right[number, turn] += float((logits.argmax(dim=1) == truth).sum())
                losses[number, turn] += float(F.cross_entropy(logits, truth, reduction="sum"))
    row, best = divmod(int(losses.argmin()), ROUNDS) if parts else (0, ROUNDS // 3)
    head, projected = started(tokens[: len(labels)], int(labels.max()) + 1, seed)
    classes = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    for _ in zip(range(best + 1), rounds(head, projected, classes, DECAYS[row], passes, seed), strict=False):
        pass
    accuracy = float(right[row, best] / sum(len(part.other_labels) for part in parts)) if parts else math.nan
    return FittedHead("attentive", head.eval().requires_grad_(False), DECAYS[row], accuracy, epochs=(best + 1) * passes)


def started(tokens: Sequence[np.ndarray], num_classes: int, seed: int) -> tuple[Head, Tensor]:
    """Return an untrained head whose standardisation and axes are those of the tokens, and the projected tokens.

    Args:
        tokens: of the training clips, each (n, D).
        num_classes: number of classes K.
        seed: of the sample of tokens and of the weights.
    """
    dim = tokens[0].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = Head(AttentiveScores(dim, min(WIDTH, dim), num_classes), dim)
        share = max(1, SAMPLE // len(tokens))  # tokens of each clip, so that no clip counts more than another
        rows = [torch.randperm(len(each))[:share].sort().values.numpy() for each in tokens]
        sample = torch.from_numpy(np.concatenate([each[row] for each, row in zip(tokens, rows, strict=True)]))
        mean, scale = sample.mean(dim=0), sample.std(dim=0, correction=0)
        head.mean.copy_(mean)
        head.scale.copy_(torch.where(scale > LEAST_SPREAD * mean.abs(), scale, torch.ones_like(scale)))
        scores = head.scores
        assert isinstance(scores, AttentiveScores)
        if scores.axes is not None:
            width = scores.axes.shape[1]
            _, _, axes = torch.svd_lowrank((sample - head.mean) / head.scale, q=min(width, len(sample)), niter=2)
            scores.axes[:, : axes.shape[1]] = axes
    return head, project(head, tokens)


@torch.inference_mode()
def project(head: Head, tokens: Sequence[np.ndarray]) -> Tensor:
    """Return standardised and projected tokens (N, n, E)."""
    scores = head.scores
    assert isinstance(scores, AttentiveScores)
    parts = [scores.project((torch.from_numpy(np.array(each)) - head.mean) / head.scale) for each in tokens]
    return torch.stack(parts)


def rounds(
    head: Head, tokens: Tensor, targets: Tensor, decay: float, passes: int, seed: int
) -> Iterator[AttentiveScores]:
    """Train a head on projected tokens (N, n, E) and yield it, in evaluation mode, after every ``passes`` epochs."""
    scores = head.scores
    assert isinstance(scores, AttentiveScores)
    tokens = tokens.clone()  # tensors of inference mode have no gradients
    optimizer = torch.optim.AdamW(scores.parameters(), lr=RATE, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    order = torch.Generator().manual_seed(seed)
    for turn in range(ROUNDS):
        scores.train()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed * ROUNDS + turn)  # dropout's
            for _ in range(passes):
                for rows in torch.randperm(len(tokens), generator=order).split(BATCH):
                    optimizer.zero_grad()
                    F.cross_entropy(scores.of_projected(tokens[rows]), targets[rows]).backward()
                    optimizer.step()
                    schedule.step()
        yield scores.eval()
