"""OadTR: a transformer over the last window of tokens (Wang et al., ICCV 2021, https://arxiv.org/abs/2106.11149).

An encoder reads the window and a task token. A decoder reads the encoder's output with one learned query for each
coming token. The logits for now come from the task token and the mean of the decoder's outputs.

From https://github.com/wangxiang1230/OadTR (MIT), version "v3". Different here: before a video's 64th token, where the
published code scores nothing, the window repeats the first token on the left, in training, scoring and streaming.

A step is exact. The positions of all tokens move with every step, so encoder layers after the first are computed
again for the whole window. A step avoids the first layer's projections of old tokens (the norm of token + position is
split into its parts), the decoder's projections of the window, and all that does not depend on the video: it takes
1.46 billion multiplications instead of 2.48.

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
    """A pre-norm block: x ← x + attention(LN x), then x ← x + feed-forward(LN x)."""

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
        """Return the next tokens (B, m, d); ``qkv`` (B, m, 3d) are their projections, computed here if None."""
        if qkv is None:
            qkv = self.qkv(self.norm1(tokens))
        query, key, value = qkv.chunk(3, dim=-1)
        dropout = self.dropout.p if self.training else 0.0
        mixed = self.dropout(self.out(attend(query, key, value, self.num_heads, dropout=dropout)))
        tokens = tokens + self.dropout(mixed)  # two dropouts, as in the published code
        hidden = self.dropout(F.gelu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout(self.linear2(hidden))


class DecoderAttention(nn.Module):
    """The attention of the future queries over themselves, or over the encoder's output."""

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
        """Return the probes (B, H, L, d) of the queries; see ``attention.probes``."""
        return probes(self.query(queries), self.key.weight, self.num_heads)

    def read(self, probe: Tensor, memory: Tensor) -> Tensor:
        """Return what ``forward`` returns for the queries behind ``probe``, at less cost where queries are few."""
        return self.out(read_memory(probe, memory, self.value.weight, self.value.bias))


class DecoderLayer(nn.Module):
    """A post-norm block: self-attention, cross-attention, feed-forward."""

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
    position_squares: Tensor  # (W,), their squared lengths
    position_qkv: Tensor  # (W, 3d), projections of the centred positions times the first norm's gain
    shift_qkv: Tensor  # (3d,), projection of the first norm's shift
    task: Tensor  # (1, d), the task token with its position
    task_qkv: Tensor  # (1, 3d), its projections in the first encoder layer
    queries: Tensor  # (1, L, d), the future queries after the first decoder layer's self-attention
    probe: Tensor  # (1, H, L, d), their probes for the first decoder layer's cross-attention


class OadTR(OnlineNetwork):
    """An encoder of the window, a decoder of the future, and one linear classifier for each of the two.

    ``forward`` returns logits of the newest token only (n = 1).

    Args:
        num_classes: number of outputs K.
        feature_dim: size D of a token's features.
        window: number of tokens W in the window.
        width: width d of a token between the layers.
        num_heads: attention heads of the encoder.
        num_layers: number of layers of the encoder.
        hidden_dim: hidden width of the encoder's feed-forward parts.
        num_queries: predict this many tokens ahead, L.
        decoder_layers: number of layers of the decoder.
        decoder_heads: attention heads of the decoder.
        decoder_hidden_dim: hidden width of the decoder's feed-forward parts.
        dropout: dropout rate after the positions, in all layers, and on the decoder's output.
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
        self.positions = nn.Parameter(torch.randn(window + 1, width))  # the last row is the task token's
        self.encoder = nn.ModuleList(EncoderLayer(width, num_heads, hidden_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.zeros(1, num_queries, width))
        # The published code has this table but never adds it. It exists only so that published files load.
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
        """Return the newest token's output; the first token replaces missing tokens and those before ``start``."""
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
        return self._classify(memory, queries)

    def initial_state(self, batch_size: int = 1) -> State:
        weight = self.embed.weight
        width = len(weight)

        def ring(*shape: int) -> Tensor:
            return weight.new_zeros(batch_size, self.window, *shape)

        return {
            "count": torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
            "token": ring(width),
            "qkv": ring(3 * width),  # projections of the centred token times the first norm's gain
            "square": ring(),  # squared length of the centred token
            "product": ring(self.window),  # products of the centred token with each of the W centred positions
        }

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """Return the newest token's output and the next state, after one more token (B, D).

        A state holds projections, so it is valid only for the weights that computed it. In training mode dropout acts
        on what this step computes, not on what the state holds.
        """
        self.check(feature)
        count = state["count"]
        batch_size = count.shape[0]  # in an exported graph, len() would become a constant
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
        # A stream's first token fills its whole ring: the window repeats it on the left.
        written = (places == count[:, None] % self.window) | (count[:, None] == 0)  # (B, W)
        state = {"count": count + 1} | {
            key: torch.where(
                written.view(*written.shape, *[1] * (state[key].ndim - 2)), value[:, None].to(state[key]), state[key]
            )
            for key, value in new.items()
        }

        # Read the ring oldest first: the oldest token is at the index where the next one will be written.
        order = (count[:, None] + 1 + places) % self.window  # (B, W)
        streams = torch.arange(batch_size, device=count.device)[:, None]
        product = state["product"][streams, order, places]  # (B, W), of each token with its present position
        square = state["square"][streams, order] + tables.position_squares + 2 * product
        # LN(x + p) = gain (x̄ + p̄) / σ + shift, with σ² = (|x̄|² + |p̄|² + 2 x̄·p̄) / d + eps. Where a
        # position cancels its token, rounding may leave the square just below zero.
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
        return self._classify(memory, queries), state

    def train(self, mode: bool = True) -> OadTR:
        self._tables.forget()
        return super().train(mode)

    def _classify(self, memory: Tensor, queries: Tensor) -> OnlineOutput:
        """Return logits from the encoder's output (B, W + 1, d) and the decoder's (B, L, d)."""
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
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        window: number of tokens that an output depends on, the newest included.
        width: width of a token between the layers.
        num_heads: attention heads of the encoder; they divide the width.
        num_layers: number of layers of the encoder.
        hidden_dim: hidden width of the encoder's feed-forward parts; None is the width.
        num_queries: predict this many tokens ahead, besides the newest.
        decoder_layers: number of layers of the decoder.
        decoder_heads: attention heads of the decoder; they divide the width.
        decoder_hidden_dim: hidden width of the decoder's feed-forward parts; None is the width.
        dropout: dropout rate after the positions, in all layers, and on the decoder's output.
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
        (r"position_ids$", None),  # the numbers 0, 1, 2, …
        (r"^cls_token$", "task_token"),
        (r"^decoder_cls_token$", "queries"),
        (r"^linear_encoding\.", "embed."),
        (r"^position_encoding\.pe\.weight$", "positions"),
        (r"^decoder_position_encoding\.pe\.weight$", "query_positions"),
        # Published names number attention and feed-forward parts together: 0 and 1 belong to the first layer.
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
    """Build OadTR from its published names: ``encoder.net.0.fn.fn.qkv.weight``, ``decoder.layers.0.conv1.weight``, …

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
    # The decoder's feed-forward parts are published as 1-tap convolutions: linear maps with one more axis.
    linear = {
        key: value[..., 0] if _CONVOLUTION.match(key) and value.ndim == 3 else value
        for key, value in state_dict.items()
    }
    load_strictly(network, linear, _rules(num_layers), source="the oadtr state dict")
    return network
