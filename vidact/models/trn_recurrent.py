"""TRN-recurrent: the temporal recurrent network (Xu et al. 2019, https://arxiv.org/abs/1811.07391).

At every token a decoder predicts the coming tokens: it starts from the encoder's state, reads its own predictions, and
outputs logits for each coming token. Its embedded states are averaged into one vector, which the encoder, an LSTM,
reads with the next token. (trn_relation.py is another paper with the same initials.)

After https://github.com/xumingze0308/TRN.pytorch (MIT). Different here: features of several streams (RGB, flow, a car's
sensors) are one vector, so the camera convolution of the HDD variant belongs to the features.

Shapes: B videos, T tokens, D features, E their embedding, H hidden, K outputs, L decoder steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidact.models.online import OnlineNetwork, OnlineOutput, shift_tokens
from vidact.models.weights import Rules, builder, load_strictly

State = dict[str, Tensor]


class TRNRecurrent(OnlineNetwork):
    """An LSTM that reads each token together with its decoder's mean prediction at the previous token.

    Output j of ``future`` is for j tokens later: the first one is the present, as in the reference; in the paper the
    outputs are for 1…L tokens later.

    Args:
        num_classes: number of outputs K.
        feature_dim: size D of a token's features.
        hidden_dim: width H of the encoder and the decoder.
        decoder_steps: number of tokens L that the decoder predicts at each token.
        embedding_dim: width E of the embedded token; None is D, as in the paper.
        dropout: dropout rate before both cells and the classifier.
    """

    dense = True

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        hidden_dim: int,
        decoder_steps: int,
        embedding_dim: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if decoder_steps < 1:
            raise ValueError(f"decoder_steps is {decoder_steps}; the decoder imagines at least one token")
        embedding_dim = feature_dim if embedding_dim is None else embedding_dim
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.hidden_dim = hidden_dim
        self.embedding_dim = embedding_dim
        self.decoder_steps = decoder_steps
        self.future_offsets = tuple(range(decoder_steps))
        self.embed = nn.Linear(feature_dim, embedding_dim)
        self.encoder = nn.LSTMCell(2 * embedding_dim, hidden_dim)
        self.start_hidden = nn.Linear(hidden_dim, hidden_dim)
        self.start_cell = nn.Linear(hidden_dim, hidden_dim)
        self.decoder = nn.LSTMCell(hidden_dim, hidden_dim)
        self.embed_logits = nn.Linear(num_classes, hidden_dim)
        self.embed_future = nn.Linear(hidden_dim, embedding_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the reference: small linear maps, orthogonal cells and, unusually, standard normal biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.001)
                nn.init.normal_(module.bias)
            elif isinstance(module, nn.LSTMCell):
                nn.init.orthogonal_(module.weight_ih)
                nn.init.orthogonal_(module.weight_hh)
                nn.init.normal_(module.bias_ih)
                nn.init.normal_(module.bias_hh)

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Return logits of every token (n = T); rows before ``start`` repeat those of the first token."""
        self.check(features)
        if start is not None:
            features = shift_tokens(features, start)
        state = self.initial_state(len(features))
        logits, futures = [], []
        for token in self.embed(features).relu().unbind(1):
            now, future, state = self._advance(token, state)
            logits.append(now)
            futures.append(future)
        present, predicted = torch.stack(logits, 1), torch.stack(futures, 1)  # (B, T, K), (B, T, L, K)
        if start is not None:
            present, predicted = shift_tokens(present, -start), shift_tokens(predicted, -start)
        return OnlineOutput(present, predicted)

    def initial_state(self, batch_size: int = 1) -> State:
        weight = self.classifier.weight
        return {
            "hidden": weight.new_zeros(batch_size, self.hidden_dim),
            "cell": weight.new_zeros(batch_size, self.hidden_dim),
            "future": weight.new_zeros(batch_size, self.embedding_dim),
        }

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        self.check(feature)
        logits, future, state = self._advance(self.embed(feature).relu(), state)
        return OnlineOutput(logits[:, None], future[:, None]), state

    def _advance(self, token: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Return logits (B, K) of an embedded token (B, E), the decoder's logits (B, L, K), and the next state."""
        joined = torch.cat([token, state["future"]], dim=1)  # (B, 2E)
        hidden, cell = self.encoder(self.dropout(joined), (state["hidden"], state["cell"]))
        logits = self.classifier(self.dropout(hidden))
        predicted, future = self._decode(hidden, cell)
        return logits, predicted, {"hidden": hidden, "cell": cell, "future": future}

    def _decode(self, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's logits (B, L, K) of L tokens from the encoder's state, and their mean vector (B, E)."""
        guess = torch.zeros_like(hidden)
        hidden, cell = self.start_hidden(hidden).relu(), self.start_cell(cell).relu()
        logits, vectors = [], []
        for _ in range(self.decoder_steps):
            hidden, cell = self.decoder(self.dropout(guess), (hidden, cell))
            logits.append(self.classifier(self.dropout(hidden)))
            guess = self.embed_logits(logits[-1]).relu()  # the reference reads logits here, without softmax
            vectors.append(self.embed_future(hidden).relu())
        return torch.stack(logits, 1), torch.stack(vectors).mean(0)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def trn_recurrent(
    num_classes: int,
    feature_dim: int = 3072,
    hidden_dim: int = 4096,
    decoder_steps: int = 8,
    embedding_dim: int | None = None,
    dropout: float = 0.1,
) -> TRNRecurrent:
    """TRN-recurrent as published for THUMOS'14: 358 million parameters, 1.4 GB that are read at every token.

    Its orthogonal initialisation takes minutes on a CPU. HDD with only the sensors: ``feature_dim=8, embedding_dim=20,
    hidden_dim=2000, decoder_steps=6``.

    Args:
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        hidden_dim: width of the encoder and the decoder.
        decoder_steps: number of tokens that the decoder predicts at each token, the present included.
        embedding_dim: width of the embedded token; None is ``feature_dim``.
        dropout: dropout rate before both cells and the classifier.
    """
    return TRNRecurrent(num_classes, feature_dim, hidden_dim, decoder_steps, embedding_dim, dropout)


@builder
def trn_recurrent_small(
    num_classes: int,
    feature_dim: int = 1280,
    hidden_dim: int = 512,
    decoder_steps: int = 8,
    embedding_dim: int | None = 512,
    dropout: float = 0.1,
) -> TRNRecurrent:
    """TRN-recurrent at a width for live streams on a CPU (not in the paper); arguments as in ``trn_recurrent``."""
    return TRNRecurrent(num_classes, feature_dim, hidden_dim, decoder_steps, embedding_dim, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_RULES: Rules = [
    (r"^feature_extractor\.input_linear\.0\.", "embed."),
    (r"^enc_cell\.", "encoder."),
    (r"^dec_cell\.", "decoder."),
    (r"^hx_trans\.0\.", "start_hidden."),
    (r"^cx_trans\.0\.", "start_cell."),
    (r"^fusion_linear\.0\.", "embed_logits."),
    (r"^future_linear\.0\.", "embed_future."),
]


def from_trn_recurrent(
    state_dict: Mapping[str, Any],
    num_classes: int,
    feature_dims: Sequence[int] = (2048, 1024),
    hidden_size: int = 4096,
    decoder_steps: int = 8,
) -> TRNRecurrent:
    """Build TRN-recurrent from TRN.pytorch's names (THUMOS layout): ``feature_extractor.input_linear.0.weight``, …

    The features of a token are RGB, then flow: ``feature_dims``.
    """
    with torch.device("meta"):  # the file fills every tensor, and the orthogonal initialisation is slow
        network = trn_recurrent(num_classes, sum(feature_dims), hidden_size, decoder_steps)
    network = network.to_empty(device="cpu")
    load_strictly(network, state_dict, _RULES, source="the trn_recurrent state dict")
    return network
