"""OadTR: a transformer over the last window of tokens (Wang et al., ICCV 2021, https://arxiv.org/abs/2106.11149).

An encoder reads the window and a task token; a decoder asks its output what the coming tokens will be. The answer for
now is read from the task token and the mean of the imagined future together.

From https://github.com/wangxiang1230/OadTR (MIT), version "v3". Different here: before a video's 64th token, which the
published code never scores, the window repeats the first token on the left, in training, scoring and streaming alike.

A step is exact. The positions of all tokens move with every step, so encoder layers after the first are computed
anew; what is saved is the first layer's projections (the norm of token + position is taken apart), the decoder's
projections of the whole window, and all that does not depend on the video: 1.46 of 2.48 billion multiplications.

Shapes: B videos, T tokens, W window, D features, d width, H heads, K outputs, L tokens ahead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.attention import WeightTables, attend, probes, read_memory
from vidact.models.online import OnlineNetwork, OnlineOutput
from vidact.models.weights import Rules, builder, load_strictly

State = dict[str, Tensor]


class EncoderLayer(nn.Module):
    """Pre-norm: x ← x + attention(LN x), then x ← x + feed-forward(LN x)."""

    def __init__(self, width: int, num_heads: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, qkv: Tensor | None = None) -> Tensor:
        """Tokens (B, m, d); ``qkv`` (B, m, 3d) where the caller has their projections already."""
        if qkv is None:
            qkv = self.qkv(self.norm1(tokens))
        query, key, value = qkv.chunk(3, dim=-1)
        dropout = self.dropout.p if self.training else 0.0
        mixed = self.dropout(self.out(attend(query, key, value, self.num_heads, dropout=dropout)))
        tokens = tokens + self.dropout(mixed)  # the paper's code drops twice here: in the attention and around it
        hidden = self.dropout(F.gelu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout(self.linear2(hidden))


class DecoderAttention(nn.Module):
    """Attention of the future queries over themselves, or over the encoder's output."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        query, key, value = self.query(queries), self.key(memory), self.value(memory)
        return self.out(attend(query, key, value, self.num_heads, mask, dropout))

    def probes(self, queries: Tensor) -> Tensor:
        """(B, H, L, d), see ``attention.probes``."""
        return probes(self.query(queries), self.key.weight, self.num_heads)

    def read(self, probe: Tensor, memory: Tensor) -> Tensor:
        """What ``forward`` gives for the queries behind ``probe``, cheaper: they are fewer than the window's tokens."""
        return self.out(read_memory(probe, memory, self.value.weight, self.value.bias))


class DecoderLayer(nn.Module):
    """Post-norm: self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, num_heads: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = DecoderAttention(width, num_heads, dropout)
        self.cross_attention = DecoderAttention(width, num_heads, dropout)
        self.linear1 = nn.Linear(width, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def self_attend(self, queries: Tensor) -> Tensor:
        """Apply causal self-attention to the queries (B, L, d), then the residual and its norm."""
        n = queries.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=queries.device).tril()
        return self.norm1(queries + self.dropout(self.self_attention(queries, queries, causal)))

    def feed_forward(self, queries: Tensor, mixed: Tensor) -> Tensor:
        """Add ``mixed``, the output of cross-attention, and apply the feed-forward part, each with its norm."""
        queries = self.norm2(queries + self.dropout(mixed))
        hidden = self.dropout(F.gelu(self.linear1(queries)))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))


class _Tables(NamedTuple):
    """The tensors that follow from the weights and are the same for every video."""

    positions: Tensor  # (W, d), centred
    position_squares: Tensor  # (W,)
    position_qkv: Tensor  # (W, 3d), of the centred positions times the first norm's gain
    shift_qkv: Tensor  # (3d,), of the first norm's shift
    task: Tensor  # (1, d), the task token with its position
    task_qkv: Tensor  # (1, 3d)
    queries: Tensor  # (1, L, d), after the first decoder layer's self-attention
    probe: Tensor  # (1, H, L, d), of the first decoder layer's cross-attention


class OadTR(OnlineNetwork):
    """Encoder of the window, decoder of the future, one linear map for each kind of answer.

    ``forward`` answers the newest token (n = 1).

    Args:
        num_classes: K.
        feature_dim: D.
        window: W.
        width: d.
        num_heads: of the encoder.
        num_layers: of the encoder.
        hidden_dim: of the encoder's feed-forward parts.
        num_queries: L, the tokens 1…L ahead are answered.
        decoder_layers: how many.
        decoder_heads: of the decoder.
        decoder_hidden_dim: of its feed-forward parts.
        dropout: after the positions, in all layers, and on the decoder's output.
    """

    window: int

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        window: int,
        width: int,
        num_heads: int,
        num_layers: int,
        hidden_dim: int,
        num_queries: int,
        decoder_layers: int,
        decoder_heads: int,
        decoder_hidden_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if min(window, num_layers, num_queries, decoder_layers) < 1:
            raise ValueError(
                f"window {window}, num_layers {num_layers}, num_queries {num_queries} and decoder_layers "
                f"{decoder_layers}: each is at least 1"
            )
        for name, heads in (("num_heads", num_heads), ("decoder_heads", decoder_heads)):
            if heads < 1 or width % heads:
                raise ValueError(f"width is {width} and {name} {heads}; each head needs a whole share of the width")
        self.num_classes, self.feature_dim, self.window = num_classes, feature_dim, window
        self.future_offsets = tuple(range(1, num_queries + 1))
        self.embed = nn.Linear(feature_dim, width)
        self.task_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(window + 1, width))  # the task token's is the last
        self.encoder = nn.ModuleList(EncoderLayer(width, num_heads, hidden_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.zeros(1, num_queries, width))
        # The published code makes this table and never adds it. It is here so that files fit, and nothing trains it.
        self.query_positions = nn.Parameter(torch.randn(num_queries, width), requires_grad=False)
        self.decoder = nn.ModuleList(
            DecoderLayer(width, decoder_heads, decoder_hidden_dim, dropout) for _ in range(decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * width, num_classes)
        self.future_classifier = nn.Linear(width, num_classes)
        self._tables: WeightTables[_Tables] = WeightTables()

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """The newest token's answer; what is missing of the window, and what is before ``start``, repeats the first."""
        self.check(features)
        if torch.is_grad_enabled():
            self._tables.forget()
        batch_size, length, _ = features.shape
        places = torch.arange(length - self.window, length, device=features.device).clamp(min=0)
        if start is None:
            features = features[:, places]
        else:
            first = start.to(features.device)[:, None].clamp(0, length - 1)
            features = features[torch.arange(batch_size, device=features.device)[:, None], places.maximum(first)]
        tokens = torch.cat([self.embed(features), self.task_token.expand(batch_size, -1, -1)], 1)  # (B, W + 1, d)
        tokens = self.dropout(tokens + self.positions)
        for layer in self.encoder:
            tokens = layer(tokens)
        memory = self.norm(tokens)
        queries = self.queries.expand(batch_size, -1, -1)
        for decoder in self._decoder():
            queries = decoder.self_attend(queries)
            queries = decoder.feed_forward(queries, decoder.cross_attention(queries, memory))
        return self._answer(memory, queries)

    def initial_state(self, batch_size: int = 1) -> State:
        weight = self.embed.weight
        width = len(weight)

        def ring(*shape: int) -> Tensor:
            return weight.new_zeros(batch_size, self.window, *shape)

        return {
            "count": torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
            "token": ring(width),
            "qkv": ring(3 * width),  # of the centred token times the first norm's gain
            "square": ring(),  # of the centred token
            "product": ring(self.window),  # of the centred token with the centred position of every place
        }

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """One more token. A state holds projections: it belongs to the weights that made it, and to no later ones.

        In training mode dropout acts on what is computed now, not on what is kept.
        """
        self.check(feature)
        count = state["count"]
        batch_size = count.shape[0]  # len() would make it a constant of an exported graph
        if feature.shape[0] != batch_size:
            raise ValueError(f"there are {feature.shape[0]} features, and the state is of {batch_size} streams")
        tables = self._tables.of(self, self._derive)
        first = self._encoder()[0]

        token = self.embed(feature)  # (B, d)
        centred = token - token.mean(-1, keepdim=True)
        new = {
            "token": token,
            "qkv": first.qkv(centred * first.norm1.weight),
            "square": centred.square().sum(-1),
            "product": centred @ tables.positions.T,
        }
        places = torch.arange(self.window, device=count.device)
        # A stream's first token fills its whole ring: that is the window repeated on the left.
        written = (places == count[:, None] % self.window) | (count[:, None] == 0)  # (B, W)
        state = {"count": count + 1} | {
            key: torch.where(
                written.view(*written.shape, *[1] * (state[key].ndim - 2)), value[:, None].to(state[key]), state[key]
            )
            for key, value in new.items()
        }

        # In the order of time: the oldest token is where the next one will be written.
        order = (count[:, None] + 1 + places) % self.window  # (B, W)
        streams = torch.arange(batch_size, device=count.device)[:, None]
        product = state["product"][streams, order, places]  # (B, W), of the token at each place with its position
        square = state["square"][streams, order] + tables.position_squares + 2 * product
        # LN(x + p) = gain (x̄ + p̄) / σ + shift, with σ² = (|x̄|² + |p̄|² + 2 x̄·p̄) / d + eps. Rounding may leave a
        # square just below zero where a position takes its token away.
        scale = (square.clamp(min=0) / token.shape[-1] + first.norm1.eps).rsqrt().unsqueeze(-1)
        qkv = (state["qkv"][streams, order] + tables.position_qkv) * scale + tables.shift_qkv  # (B, W, 3d)
        qkv = torch.cat([qkv, tables.task_qkv.expand(batch_size, -1, -1)], 1)
        tokens = state["token"][streams, order] + self.positions[:-1]
        tokens = torch.cat([tokens, tables.task.expand(batch_size, -1, -1)], 1)  # (B, W + 1, d)
        for number, layer in enumerate(self._encoder()):
            tokens = layer(tokens, qkv if number == 0 else None)
        memory = self.norm(tokens)

        queries = tables.queries.expand(batch_size, -1, -1)
        probe = tables.probe.expand(batch_size, -1, -1, -1)
        for number, decoder in enumerate(self._decoder()):
            if number > 0:
                queries = decoder.self_attend(queries)
                probe = decoder.cross_attention.probes(queries)
            queries = decoder.feed_forward(queries, decoder.cross_attention.read(probe, memory))
        return self._answer(memory, queries), state

    def train(self, mode: bool = True) -> OadTR:
        self._tables.forget()
        return super().train(mode)

    def _answer(self, memory: Tensor, queries: Tensor) -> OnlineOutput:
        """From the encoder's output (B, W + 1, d) and the decoder's (B, L, d)."""
        future = self.dropout(self.decoder_norm(queries))
        now = torch.cat([memory[:, -1], future.mean(1)], -1)  # (B, 2d)
        return OnlineOutput(self.classifier(now)[:, None], self.future_classifier(future)[:, None])

    def _derive(self) -> _Tables:
        first = self._encoder()[0]
        positions = self.positions[:-1] - self.positions[:-1].mean(-1, keepdim=True)
        task = self.task_token[0] + self.positions[-1:]
        decoder = self._decoder()[0]
        queries = decoder.self_attend(self.queries)
        return _Tables(
            positions=positions,
            position_squares=positions.square().sum(-1),
            position_qkv=first.qkv(positions * first.norm1.weight),
            shift_qkv=first.qkv(first.norm1.bias),
            task=task,
            task_qkv=first.qkv(first.norm1(task)),
            queries=queries,
            probe=decoder.cross_attention.probes(queries),
        )

    def _encoder(self) -> list[EncoderLayer]:
        return [layer for layer in self.encoder if isinstance(layer, EncoderLayer)]

    def _decoder(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]


# ---------------------------------------------------------------------------------------------- sizes


@builder
def oadtr(
    num_classes: int,
    feature_dim: int = 3072,
    window: int = 64,
    width: int = 1024,
    num_heads: int = 8,
    num_layers: int = 3,
    hidden_dim: int | None = None,
    num_queries: int = 8,
    decoder_layers: int = 5,
    decoder_heads: int = 4,
    decoder_hidden_dim: int | None = None,
    dropout: float = 0.1,
) -> OadTR:
    """OadTR as published: 75 million parameters.

    Args:
        num_classes: K, the background first.
        feature_dim: D.
        window: tokens that an answer looks at, the newest included.
        width: of a token between the layers.
        num_heads: of the encoder; they divide the width.
        num_layers: of the encoder.
        hidden_dim: of the encoder's feed-forward parts; None is the width.
        num_queries: the tokens 1…num_queries ahead are answered too.
        decoder_layers: how many.
        decoder_heads: of the decoder; they divide the width.
        decoder_hidden_dim: of the decoder's feed-forward parts; None is the width.
        dropout: after the positions, in all layers, and on the decoder's output.
    """
    return OadTR(
        num_classes,
        feature_dim,
        window,
        width,
        num_heads,
        num_layers,
        width if hidden_dim is None else hidden_dim,
        num_queries,
        decoder_layers,
        decoder_heads,
        width if decoder_hidden_dim is None else decoder_hidden_dim,
        dropout,
    )


# ---------------------------------------------------------------------------------------------- published weights

_CONVOLUTION = re.compile(r"^(module\.)?decoder\.layers\.\d+\.conv[12]\.weight$")


def _rules(num_layers: int) -> Rules:
    return [
        (r"position_ids$", None),  # 0, 1, 2, …
        (r"^cls_token$", "task_token"),
        (r"^decoder_cls_token$", "queries"),
        (r"^linear_encoding\.", "embed."),
        (r"^position_encoding\.pe\.weight$", "positions"),
        (r"^decoder_position_encoding\.pe\.weight$", "query_positions"),
        # Attention and feed-forward parts are counted in one row: 0, 1 are the first layer's.
        *(
            rule
            for layer in range(num_layers)
            for rule in (
                (rf"^encoder\.net\.{2 * layer}\.fn\.norm\.", f"encoder.{layer}.norm1."),
                (rf"^encoder\.net\.{2 * layer}\.fn\.fn\.qkv\.", f"encoder.{layer}.qkv."),
                (rf"^encoder\.net\.{2 * layer}\.fn\.fn\.proj\.", f"encoder.{layer}.out."),
                (rf"^encoder\.net\.{2 * layer + 1}\.fn\.norm\.", f"encoder.{layer}.norm2."),
                (rf"^encoder\.net\.{2 * layer + 1}\.fn\.fn\.net\.0\.", f"encoder.{layer}.linear1."),
                (rf"^encoder\.net\.{2 * layer + 1}\.fn\.fn\.net\.3\.", f"encoder.{layer}.linear2."),
            )
        ),
        (r"^pre_head_ln\.", "norm."),
        (r"^(decoder\.)layers\.", r"\1"),
        (r"^(decoder\.\d+\.\w+_attention\.\w+)_projection\.", r"\1."),
        (r"^(decoder\.\d+\.)conv([12])\.", r"\1linear\2."),
        (r"^decoder\.norm\.", "decoder_norm."),
        (r"^classifier\.", "future_classifier."),
        (r"^mlp_head\.", "classifier."),
    ]


def from_oadtr(
    state_dict: Mapping[str, Any],
    num_classes: int,
    feature_dims: Sequence[int] = (2048, 1024),
    window: int = 64,
    embedding_dim: int = 1024,
    num_heads: int = 8,
    num_layers: int = 3,
    hidden_dim: int = 1024,
    num_queries: int = 8,
    decoder_layers: int = 5,
    decoder_hidden_dim: int = 1024,
    decoder_heads: int = 4,
) -> OadTR:
    """OadTR from its published names: ``encoder.net.0.fn.fn.qkv.weight``, ``decoder.layers.0.conv1.weight``, …

    The features of a token are RGB, then flow: ``feature_dims``.
    """
    network = oadtr(
        num_classes,
        sum(feature_dims),
        window,
        embedding_dim,
        num_heads,
        num_layers,
        hidden_dim,
        num_queries,
        decoder_layers,
        decoder_heads,
        decoder_hidden_dim,
    )
    # The feed-forward parts of the decoder are convolutions of one tap: linear maps with one axis more.
    linear = {
        key: value[..., 0] if _CONVOLUTION.match(key) and value.ndim == 3 else value
        for key, value in state_dict.items()
    }
    load_strictly(network, linear, _rules(num_layers), source="the oadtr state dict")
    return network
