"""MiniROAD: a GRU that is trained under the conditions of a live stream (An et al., ICCV 2023).

A token is embedded and read by one GRU; the classifier reads its rectified state. Its strength comes from a loss on
only the last token of a long window (``vidact.tasks``): early tokens, where the state is still near its start, are not
trained on. With anticipation, one more layer computes a state for each of the coming tokens, and the same classifier
reads it.

Written from a description of the network; the published code states no licence and was not used. Its anticipation
targets differ by one token between training and test; here output j is for j + 1 tokens later in both.

Shapes: B videos, T tokens, D features, E their embedding, H hidden, K outputs, L anticipated tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vidact.models.online import OnlineNetwork, OnlineOutput, shift_tokens
from vidact.models.weights import Rules, builder, load_strictly, rename

State = dict[str, Tensor]


class MiniROAD(OnlineNetwork):
    """A linear map with layer norm, a GRU, and a linear classifier.

    Args:
        num_classes: number of outputs K.
        feature_dim: size D of a token's features.
        embedding_dim: width E of the embedded token.
        hidden_dim: width H of the GRU.
        anticipation_steps: predict this many tokens ahead, L; 0 is none.
        dropout: dropout rate on the embedding.
    """

    dense = True

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        embedding_dim: int,
        hidden_dim: int,
        anticipation_steps: int = 0,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if anticipation_steps < 0:
            raise ValueError(f"anticipation_steps is {anticipation_steps}; it is 0 for none, or how many tokens ahead")
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.hidden_dim = hidden_dim
        self.anticipation_steps = anticipation_steps
        self.future_offsets = tuple(range(1, anticipation_steps + 1))
        self.embed = nn.Sequential(
            nn.Linear(feature_dim, embedding_dim), nn.LayerNorm(embedding_dim), nn.ReLU(), nn.Dropout(dropout)
        )
        self.gru = nn.GRU(embedding_dim, hidden_dim, batch_first=True)
        self.anticipate = nn.Linear(hidden_dim, anticipation_steps * hidden_dim) if anticipation_steps else None
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Return logits of every token (n = T); rows before ``start`` repeat those of the first token."""
        self.check(features)
        if start is not None:
            features = shift_tokens(features, start)
        hidden, _ = self.gru(self.embed(features))  # (B, T, H)
        if start is not None:
            hidden = shift_tokens(hidden, -start)
        return self._classify(hidden)

    def initial_state(self, batch_size: int = 1) -> State:
        return {"hidden": self.classifier.weight.new_zeros(batch_size, self.hidden_dim)}

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        self.check(feature)
        # nn.GRU's state is (layers, B, H) with one layer here; in ours the first axis is the stream.
        outputs, hidden = self.gru(self.embed(feature)[:, None], state["hidden"][None])
        return self._classify(outputs), {"hidden": hidden[0]}

    def _classify(self, hidden: Tensor) -> OnlineOutput:
        """Return logits (B, n, K) and, with anticipation, (B, n, L, K) from the GRU's states (B, n, H)."""
        present = hidden.relu()
        future = None
        if self.anticipate is not None:
            coming = self.anticipate(present).relu().unflatten(-1, (self.anticipation_steps, self.hidden_dim))
            future = self.classifier(coming)
        return OnlineOutput(self.classifier(present), future)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def miniroad(
    num_classes: int,
    feature_dim: int = 3072,
    embedding_dim: int = 2048,
    hidden_dim: int = 1024,
    anticipation_steps: int = 0,
    dropout: float = 0.2,
) -> MiniROAD:
    """MiniROAD as published: 16 million parameters, 24 with the 8 anticipation steps of the paper.

    Args:
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        embedding_dim: width of the embedded token.
        hidden_dim: width of the GRU.
        anticipation_steps: predict this many tokens ahead; 0 is none.
        dropout: dropout rate on the embedding.
    """
    return MiniROAD(num_classes, feature_dim, embedding_dim, hidden_dim, anticipation_steps, dropout)


@builder
def miniroad_small(
    num_classes: int,
    feature_dim: int = 1280,
    embedding_dim: int = 512,
    hidden_dim: int = 512,
    anticipation_steps: int = 0,
    dropout: float = 0.2,
) -> MiniROAD:
    """MiniROAD on a mobile backbone's features (not in the paper), 2.2 million parameters; see ``miniroad``."""
    return MiniROAD(num_classes, feature_dim, embedding_dim, hidden_dim, anticipation_steps, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_RULES: Rules = [
    (r"^layer1\.", "embed."),
    (r"^f_classification\.0\.", "classifier."),
    (r"^anticipation_layer\.0\.", "anticipate."),
]


def from_miniroad(
    state_dict: Mapping[str, Any],
    num_classes: int,
    feature_dims: Sequence[int] = (2048, 1024),
    embedding_dim: int = 2048,
    hidden_dim: int = 1024,
) -> MiniROAD:
    """Build MiniROAD from its published names: ``layer1.0.weight``, ``gru.weight_ih_l0``, …

    The features of a token are RGB, then flow: ``feature_dims``. A file with an ``anticipation_layer`` gives a network
    that anticipates as many tokens as that layer has outputs for.
    """
    layer = rename(state_dict, _RULES).get("anticipate.weight")
    steps = len(layer[1]) // hidden_dim if layer is not None else 0
    network = miniroad(num_classes, sum(feature_dims), embedding_dim, hidden_dim, steps)
    load_strictly(network, state_dict, _RULES, source="the miniroad state dict")
    return network
