"""IDN: the information discrimination network (Eun et al. 2020, https://arxiv.org/abs/1912.04461).

A recurrent cell compares the past with the present: over a window of 16 tokens, the reset gate reads the cell's state
and the newest token, and the update gate reads a past token and the newest token. The recurrence therefore starts again
at every token; projections that depend on only one past token are computed once and stored in the state.

Written from the paper; the published code is only for testing, under its institute's own terms, and was not used. The
code of the losses was never published; they follow the paper. Different here: every token of a sequence has an output
and a loss, while the paper draws single windows.

Shapes: B videos, T tokens, D features, H hidden, K outputs, W the window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidact.models.online import OnlineNetwork, OnlineOutput, last_window, multi_hot_cross_entropy
from vidact.models.weights import builder

State = dict[str, Tensor]

EARLY_WEIGHT = 0.3  # the paper's α, the weight of both losses on the early embedding
MARGIN = 1.0  # squared distance above which embeddings of different actions have no loss


def hard_sigmoid(x: Tensor) -> Tensor:
    """Return Keras's hard sigmoid, as in the published network; PyTorch's has the slope 1/6."""
    return (0.2 * x + 0.5).clamp(0, 1)


class IDN(OnlineNetwork):
    """An early embedding, information discrimination units over a window, and a classifier.

    Args:
        num_classes: number of outputs K.
        feature_dim: size D of a token's features.
        hidden_dim: width H of the embedding, the cell and the head.
        window: number of tokens W in the window, the newest included.
    """

    dense = True
    has_own_losses = True
    window: int

    def __init__(self, num_classes: int, feature_dim: int, hidden_dim: int = 512, window: int = 16) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window is {window}; it holds at least the newest token")
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.hidden_dim = hidden_dim
        self.window = window
        self.embed = nn.Linear(feature_dim, hidden_dim)
        self.early_classifier = nn.Linear(hidden_dim, num_classes)
        # The kernels are K0…K5 of the equations in `_recur`; the published cell has no bias.
        kernels = [nn.init.orthogonal_(torch.empty(hidden_dim, hidden_dim)) for _ in range(6)]
        self.kernels = nn.Parameter(torch.stack(kernels))
        self.head = nn.Linear(hidden_dim, hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(
        self,
        features: Tensor,
        start: Tensor | None = None,
        targets: Tensor | None = None,
        ignore: Tensor | None = None,
    ) -> OnlineOutput:
        """Return logits of every token (n = T), each computed from its own window.

        Args:
            start: unused, because the tokens before it repeat the first token, as the missing tokens of a window do.
            targets: (B, T, 1+K) multi-hot, a row for every token; if given, ``losses`` is filled.
            ignore: (B, T) bool, rows without a label: ambiguous tokens, and those before the labelled tokens.
        """
        self.check(features)
        embedded = self.embed(features).relu()  # (B, T, H)
        update, candidate = (self._windows(part) for part in self._project(embedded))
        output = OnlineOutput(self._recur(embedded, update, candidate))
        if targets is not None:
            output.losses = self._early_losses(embedded, targets, ignore)
        return output

    def initial_state(self, batch_size: int = 1) -> State:
        weight = self.classifier.weight
        return {
            "update": weight.new_zeros(batch_size, self.hidden_dim, self.window),
            "candidate": weight.new_zeros(batch_size, self.hidden_dim, self.window),
            "tokens": torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
        }

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        self.check(feature)
        embedded = self.embed(feature).relu()  # (B, H)
        is_first = (state["tokens"] == 0)[:, None, None]

        def push(rows: Tensor, new: Tensor) -> Tensor:
            """Return the window (B, H, W) one token later; a stream's first token fills it."""
            new = new[:, :, None]
            return torch.where(is_first, new, torch.cat([rows[:, :, 1:], new], 2))

        update, candidate = self._project(embedded)
        update, candidate = push(state["update"], update), push(state["candidate"], candidate)
        logits = self._recur(embedded, update, candidate)
        return OnlineOutput(logits[:, None]), {
            "update": update,
            "candidate": candidate,
            "tokens": state["tokens"] + 1,
        }

    def _project(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projections of tokens for the update gate and for the candidate."""
        return embedded @ self.kernels[2], embedded @ self.kernels[4]

    def _windows(self, rows: Tensor) -> Tensor:
        """Return each token's window (B, T, H, W) of rows (B, T, H); the first row replaces missing ones before it."""
        return last_window(rows, rows.shape[1] + self.window - 1).unfold(1, self.window, 1)

    def _recur(self, now: Tensor, update: Tensor, candidate: Tensor) -> Tensor:
        """Return logits (…, K) of the newest embedding (…, H) after the cell has read the projections (…, H, W).

        r = σ(h K0 + e_now K1), z = σ(e_t K2 + e_now K3), h ← (1 − z) h + z tanh(e_t K4 + (r h) K5), from h = 0.
        """
        reset_now, update_now = now @ self.kernels[1], now @ self.kernels[3]
        hidden = torch.zeros_like(now)
        for update_past, candidate_past in zip(update.unbind(-1), candidate.unbind(-1), strict=True):
            r = hard_sigmoid(hidden @ self.kernels[0] + reset_now)
            z = hard_sigmoid(update_past + update_now)
            hidden = (1 - z) * hidden + z * torch.tanh(candidate_past + (r * hidden) @ self.kernels[5])
        return self.classifier(self.head(hidden).relu())

    def _early_losses(self, embedded: Tensor, targets: Tensor, ignore: Tensor | None) -> dict[str, Tensor]:
        """Return the losses on the early embedding (B, T, H): of its own classifier, and contrastive within windows."""
        if targets.shape[:2] != embedded.shape[:2]:
            raise ValueError(
                f"targets have shape {tuple(targets.shape)} for features of {tuple(embedded.shape[:2])} tokens; IDN's "
                "own losses need a row for every token: give rows without a label too, and set their ignore"
            )
        if ignore is None:
            ignore = torch.zeros(targets.shape[:2], dtype=torch.bool, device=targets.device)
        classify = multi_hot_cross_entropy(self.early_classifier(embedded), targets, ignore)
        contrast = contrastive_loss(embedded, targets, ignore, self.window)
        return {"early": EARLY_WEIGHT * classify, "contrastive": EARLY_WEIGHT * contrast}


def contrastive_loss(embedded: Tensor, targets: Tensor, ignore: Tensor, window: int) -> Tensor:
    """Return the mean over pairs of a token and an earlier one in its window, of d² or max(0, margin − d²).

    d is the Euclidean distance of the embeddings. d² is the loss of two tokens that share a label (CliffDiving is also
    Diving), max(0, margin − d²) that of other pairs.

    Args:
        embedded: embeddings (B, T, H).
        targets: labels (B, T, 1+K) multi-hot.
        ignore: (B, T) bool; pairs with such a token do not count. The loss is 0 if no pair counts.
        window: number of tokens in the window, the newest included.
    """
    total = embedded.new_zeros((), dtype=torch.float32)
    count = embedded.new_zeros((), dtype=torch.float32)
    for lag in range(1, min(window, embedded.shape[1])):
        now, past = slice(lag, None), slice(None, -lag)
        squared = (embedded[:, now].float() - embedded[:, past].float()).square().sum(-1)  # (B, T - lag)
        agree = (targets[:, now] * targets[:, past]).sum(-1) > 0
        is_counted = ~(ignore[:, now] | ignore[:, past])
        pull_or_push = torch.where(agree, squared, (MARGIN - squared).clamp(min=0))
        total = total + (pull_or_push * is_counted).sum()
        count = count + is_counted.sum()
    return total / count.clamp(min=1)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def idn(num_classes: int, feature_dim: int = 3072, hidden_dim: int = 512, window: int = 16) -> IDN:
    """IDN as published: a window of 4 seconds.

    Args:
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        hidden_dim: width of the embedding, the cell and the head.
        window: number of tokens in the window, the newest included.
    """
    return IDN(num_classes, feature_dim, hidden_dim, window)
