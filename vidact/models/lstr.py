"""LSTR (Xu et al., NeurIPS 2021, https://arxiv.org/abs/2107.03377), TeSTra (Zhao & Krähenbühl, ECCV 2022,
https://arxiv.org/abs/2209.09236): detectors with minutes of long memory, which a few learned queries compress.

The last ``work`` tokens are decoded. Each attends to the work tokens up to itself and to a few memory vectors. Two
stages of learned queries compress the long memory into these vectors; it holds ``long`` tokens from before the work
tokens, one in every ``long_stride``. TeSTra is the same network with three changes: the long memory has no positions,
it may fade (Laplace kernel, ``alpha`` < 1), and the cross-attention also reads the work tokens. TeSTra anticipates;
here both networks can: the work tokens are followed by learned queries, one for each token ahead, and the same
classifier reads them.

From https://github.com/amazon-science/long-short-term-transformer and https://github.com/zhaoyue-zephyrus/TeSTra
(both Apache-2.0). Different here:

* The long memory is sampled in one way. The published code trains on tokens spread evenly over the whole past and
  tests on every fourth token; here training, scoring and streaming take every ``long_stride``-th.
* Streams are exact. The published stream modes differ from the published scores once the memory is full (LSTR) or
  always (TeSTra); here ``step`` equals ``forward``. The state is a set of ring buffers that hold each token's
  projections, so that they are computed once.

Shapes: B videos, T tokens, D features, d width, H heads, Q queries, L long and W work tokens, A tokens ahead,
K outputs.
"""

# ruff: noqa: PT028 (testra is not a test)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.attention import WeightTables, attend, probes, read_memory
from vidact.models.online import OnlineNetwork, OnlineOutput
from vidact.models.weights import Rules, builder, load_strictly, rename

State = dict[str, Any]  # tensors, and lists of tensors

# Rows of the long memory's rings beyond the window: so many tokens can be written in place before a copy is needed.
SPARE_ROWS = 64


def sinusoids(length: int, width: int) -> Tensor:
    """Return positions (length, width): sin in even and cos in odd columns, wavelengths from 2π to 20000π."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    angle = position * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width].float()


class Attention(nn.Module):
    """A multi-head attention with one input projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention (B, n, d) of tokens (B, n, d) over the memory (B, m, d); ``mask`` as in ``attend``."""
        key, value = self.project_memory(memory)
        return self.mix(self.project_query(tokens), key, value, mask)

    def project_query(self, tokens: Tensor) -> Tensor:
        width = tokens.shape[-1]
        return F.linear(tokens, self.qkv.weight[:width], self.qkv.bias[:width])

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory's keys and values, each (B, m, d)."""
        width = memory.shape[-1]
        key, value = F.linear(memory, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, dim=-1)
        return key, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the output (B, n, d) from the projected queries, keys and values."""
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(query, key, value, self.num_heads, mask, dropout))

    def probes(self, query: Tensor) -> Tensor:
        """Return the probes (B, H, n, d) of projected queries; see ``attention.probes``."""
        _, key_weight, _ = self.qkv.weight.chunk(3)
        return probes(query, key_weight, self.num_heads)

    def read_with(self, probe: Tensor, memory: Tensor) -> Tensor:
        """Return the output (B, Q, d) of fixed queries over the memory (B, m, d), without a projection of keys.

        Args:
            probe: (H * Q, d), the probes of the queries, which are the same for every video.
        """
        width = memory.shape[-1]
        value = F.linear(memory, self.qkv.weight[2 * width :], self.qkv.bias[2 * width :])
        logits = F.linear(memory, probe).mT.unflatten(1, (self.num_heads, -1))  # (B, H, Q, m)
        value = value.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, m, d / H)
        weights = F.dropout(logits.softmax(-1), self.dropout, self.training)
        return self.out((weights @ value).transpose(1, 2).flatten(2))

    def read(self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what ``forward`` returns, at less cost for few tokens and a long memory; ``mask`` is bool."""
        _, _, value_weight = self.qkv.weight.chunk(3)
        _, _, value_bias = self.qkv.bias.chunk(3)
        return self.out(read_memory(self.probes(self.project_query(tokens)), memory, value_weight, value_bias, mask))


class Layer(nn.Module):
    """A post-norm block: self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, num_heads: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, num_heads, dropout)
        self.cross_attention = Attention(width, num_heads, dropout)
        self.linear1 = nn.Linear(width, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        tokens = self.self_attend(tokens, mask)
        return self.feed_forward(tokens, self.cross_attention(tokens, memory, memory_mask))

    def self_attend(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply self-attention to the tokens (B, n, d), then the residual and its norm."""
        return self.add_and_norm(tokens, self.self_attention(tokens, tokens, mask))

    def add_and_norm(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """Add ``mixed``, the output of self-attention, to the tokens and normalise."""
        return self.norm1(tokens + self.dropout(mixed))

    def feed_forward(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """Add ``mixed``, the output of cross-attention, and apply the feed-forward part, each with its norm."""
        tokens = self.norm2(tokens + self.dropout(mixed))
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        return self.norm3(tokens + self.dropout(self.linear2(hidden)))


class Stack(nn.Module):
    """A stack of layers, and a norm after the last."""

    def __init__(self, num_layers: int, width: int, num_heads: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, num_heads, hidden_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    @property
    def blocks(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def forward(
        self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, memory, mask, memory_mask)
        return self.norm(tokens)


class Places(NamedTuple):
    """The tokens in both memories after a number of tokens, as indices that count from the video's first token."""

    work: Tensor  # (B, W), oldest first; entries after the newest token repeat it
    newest: Tensor  # (B,), the index of the newest token within ``work``
    long: Tensor  # (B, L), oldest first, right-aligned
    is_visible: Tensor  # (B, L), False where ``long`` has no token


class _Tables(NamedTuple):
    """The tensors that follow from the weights and are the same for every video."""

    queries: list[Tensor]  # (1, Q, d) for each stage: its queries after its first layer's self-attention
    probes: list[Tensor]  # (H * Q, d) for each stage: their probes for its first layer's cross-attention
    long_logit: Tensor | None  # (H * Q, L), the positions' part of the first layer's logits; None without positions
    long_value: Tensor | None  # (L, d), the positions' part of that layer's values, without the bias
    long_rest: list[Tensor]  # (L, 2d) for each other layer of the first stage: the positions' part of keys and values
    work_qkv: Tensor  # (W, 3d), the positions' part of the first decoder layer's projections
    work_cross: list[Tensor]  # (W, 2d) for each layer of ``_cached_crosses``: the positions' part of keys and values
    coming: Tensor | None  # (1, A, d), the queries for the tokens ahead, with their positions
    coming_qkv: Tensor | None  # (1, A, 3d), the first decoder layer's projections of ``coming``
    coming_cross: list[Tensor]  # (1, A, 2d) for each layer of ``_cached_crosses``: keys and values of ``coming``


class LSTR(OnlineNetwork):
    """An encoder that compresses the long memory in stages, and a decoder of the work tokens.

    Args:
        num_classes: number of outputs K.
        feature_dim: size D of a token's features.
        long: number of tokens L in the long memory.
        work: number of tokens W in the work memory.
        long_stride: one token in every ``long_stride`` enters the long memory.
        width: width d of a token between the layers.
        num_heads: heads of every attention; they divide the width.
        hidden_dim: hidden width of the feed-forward parts.
        encoder_queries: number of queries Q of each stage.
        encoder_layers: number of layers of each stage.
        decoder_layers: number of layers of the decoder.
        dropout: dropout rate after the positions and in all layers.
        testra: apply TeSTra's three changes.
        alpha: weight of a token in TeSTra's long memory relative to the next newer one; 1 is the box kernel.
        anticipation_steps: predict this many tokens ahead, A; 0 is none.
    """

    window: int
    positions: Tensor

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        long: int,
        work: int,
        long_stride: int,
        width: int,
        num_heads: int,
        hidden_dim: int,
        encoder_queries: Sequence[int],
        encoder_layers: Sequence[int],
        decoder_layers: int,
        dropout: float,
        testra: bool = False,
        alpha: float = 1.0,
        anticipation_steps: int = 0,
    ) -> None:
        super().__init__()
        if min(long, work, long_stride, decoder_layers) < 1:
            raise ValueError(
                f"long {long}, work {work}, long_stride {long_stride} and decoder_layers {decoder_layers}: "
                "each is at least 1"
            )
        if (
            len(encoder_queries) != len(encoder_layers)
            or not encoder_queries
            or min(*encoder_queries, *encoder_layers) < 1
        ):
            raise ValueError(
                f"encoder_queries is {list(encoder_queries)} and encoder_layers {list(encoder_layers)}; "
                "each stage needs a number of queries and a number of layers"
            )
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"width is {width} and num_heads {num_heads}; each head needs a whole share of the width")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is {alpha}; the weight of older tokens falls, so it is above 0 and at most 1")
        if anticipation_steps < 0:
            raise ValueError(f"anticipation_steps is {anticipation_steps}; it is 0 for none, or how many tokens ahead")
        self.num_classes, self.feature_dim = num_classes, feature_dim
        self.long, self.work, self.long_stride = long, work, long_stride
        self.future_offsets = tuple(range(1, anticipation_steps + 1))
        self.window = work + long_stride * long
        self.width, self.num_heads = width, num_heads
        self.testra, self.alpha = testra, alpha
        self.spare_rows = SPARE_ROWS
        self.rings = ("logit", "value", *(f"rest.{i}" for i in range(encoder_layers[0] - 1)))
        self.embed_long = nn.Linear(feature_dim, width)
        self.embed_work = nn.Linear(feature_dim, width)
        self.queries = nn.ModuleList(nn.Embedding(count, width) for count in encoder_queries)
        self.encoder = nn.ModuleList(Stack(count, width, num_heads, hidden_dim, dropout) for count in encoder_layers)
        self.decoder = Stack(decoder_layers, width, num_heads, hidden_dim, dropout)
        self.classifier = nn.Linear(width, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.future_queries = nn.Embedding(anticipation_steps, width) if anticipation_steps else None
        # In LSTR the positions of the work tokens follow those of the long memory; TeSTra's long memory has none.
        self._work_begins = 0 if testra else long
        self.register_buffer(
            "positions", sinusoids(self._work_begins + work + anticipation_steps, width), persistent=False
        )
        self._tables: WeightTables[_Tables] = WeightTables()

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Return logits (B, n, K) of the last n = min(T, work) tokens, all decoded in the newest token's window.

        Tokens before ``start`` are masked: each video's logits are those of ``features[start:]``. Where fewer than n
        tokens are left, the rows before ``start`` repeat the first token's logits, and a loss must ignore them. The
        newest row equals the output of ``step``, and so do all rows in the first ``work`` tokens of a video; later,
        the older rows are decoded with the newest token's long memory and with less of the work memory. The tokens
        ahead are predicted only from the newest token: ``future`` is (B, 1, A, K).
        """
        self.check(features)
        if torch.is_grad_enabled():
            self._tables.forget()
        batch_size, length, _ = features.shape
        device = features.device
        n = min(length, self.work)
        if start is None:
            start = torch.zeros(batch_size, dtype=torch.int64, device=device)
        start = start.to(device).clamp(0, length - 1)
        places = self.places(length - start, n)
        streams = torch.arange(batch_size, device=device)[:, None]

        memory = F.relu(self.embed_long(features[streams, start[:, None] + places.long]))  # (B, L, d)
        if not self.testra:
            memory = self.dropout(memory + self.positions[: self.long])
        memory_mask: Tensor | None = self.long_mask(places.is_visible)
        for queries, stage in zip(self._queries(), self._stages(), strict=True):
            memory = stage(queries.expand(batch_size, -1, -1), memory, memory_mask=memory_mask)
            memory_mask = None  # only the long memory has hidden tokens; later stages attend to all vectors

        work = F.relu(self.embed_work(features[streams, start[:, None] + places.work]))
        work = self.dropout(_join(work + self.work_positions[:n], self._coming()))
        mask = self._decoder_mask(torch.arange(work.shape[1], device=device)[None], places.newest, n)
        if self.testra:
            tokens = self.decoder(
                work, torch.cat([memory, work], 1), mask, F.pad(mask, (memory.shape[1], 0), value=True)
            )
        else:
            tokens = self.decoder(work, memory, mask)
        # The newest token's row comes last, wherever the token is in the window.
        rows = torch.arange(1 - n, 1, device=device) + places.newest[:, None]
        return self._classify(tokens[streams, rows.clamp(min=0)], tokens[:, n:])

    def initial_state(self, batch_size: int = 1) -> State:
        weight = self.classifier.weight

        def ring(length: int, size: int) -> Tensor:
            return weight.new_zeros(batch_size, length, size)

        return {
            "count": torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
            # The long memory keeps the first layer's logits and values, and the other layers' keys and values.
            "logit": ring(self.window + self.spare_rows, self.num_heads * len(self._queries()[0])),
            "value": ring(self.window + self.spare_rows, self.width),
            "rest": [ring(self.window + self.spare_rows, 2 * self.width) for _ in self._stages()[0].blocks[1:]],
            # The work memory keeps the tokens, and their projections where these depend on no other token.
            "work": ring(self.work, self.width),
            "qkv": ring(self.work, 3 * self.width),
            "cross": [ring(self.work, 2 * self.width) for _ in self._cached_crosses()],
        }

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """Return the newest token's output and the next state, after one more token (B, D).

        A state holds projections, so it is valid only for the weights that computed it. In training mode dropout acts
        on what this step computes, not on what the state holds.
        """
        tables = self._tables.of(self, self._derive)
        state = self._remember(feature, state, tables)
        places = self.places(state["count"], self.work)
        memory = self._compress(state, places, tables)
        tokens = self._decode(state, places, memory, tables)
        return self._classify(tokens[:, :1], tokens[:, 1:]), state

    def remember(self, feature: Tensor, state: State) -> State:
        """Return the state that ``step`` returns, without the output and at a fraction of the cost."""
        return self._remember(feature, state, self._tables.of(self, self._derive))

    def train(self, mode: bool = True) -> LSTR:
        self._tables.forget()
        return super().train(mode)

    # ------------------------------------------------------------------------------------ the window

    def places(self, count: Tensor, num_work: int) -> Places:
        """Return the tokens in both memories of videos that have had ``count`` (B,) tokens, at least one.

        The long memory holds every ``long_stride``-th token before the work memory. Until it is full, they are
        counted from the video's first token; from then on, from the work memory backwards.
        """
        work_start = (count - self.work).clamp(min=0)  # (B,)
        steps = torch.arange(num_work, device=count.device)
        work = torch.minimum(work_start[:, None] + steps, count[:, None] - 1)
        oldest = (work_start - self.long_stride * self.long).clamp(min=0)
        filled = (work_start - oldest + self.long_stride - 1) // self.long_stride  # (B,)
        age = self.long - torch.arange(self.long, device=count.device)  # L … 1
        samples = oldest[:, None] + self.long_stride * (filled[:, None] - age)
        # At a video's start no token precedes the work memory: the long memory then holds the first token, once.
        is_visible = age <= filled[:, None].clamp(min=1)
        return Places(work, count - 1 - work_start, samples.clamp(min=0), is_visible)

    def long_mask(self, is_visible: Tensor) -> Tensor:
        """Return the term (B, 1, 1, L) that is added to the logits over the long memory."""
        age = torch.arange(self.long - 1, -1, -1, device=is_visible.device)
        # TeSTra's code adds 1e-10 to keep the logarithm finite; with alpha = 1 it is 0 in single precision.
        decay = (self.alpha**age + 1e-10).log().to(self.classifier.weight.dtype)
        return torch.where(is_visible, decay, -math.inf)[:, None, None, :]

    @property
    def work_positions(self) -> Tensor:
        return self.positions[self._work_begins : self._work_begins + self.work]

    def _coming(self) -> Tensor | None:
        """Return the queries for the tokens ahead (1, A, d), at the positions after a full work memory."""
        if self.future_queries is None:
            return None
        return (self.future_queries.weight + self.positions[self._work_begins + self.work :])[None]

    def _decoder_mask(self, rows: Tensor, newest: Tensor, num_work: int) -> Tensor:
        """Return the mask (B, 1, r, W + A) of the decoder's tokens at ``rows`` (B or 1, r): True where they attend.

        A token attends to itself and to the tokens before it. No token attends to the copies of a short video's
        newest token that fill its window.
        """
        steps = torch.arange(num_work + len(self.future_offsets), device=newest.device)
        behind = (steps > newest[:, None]) & (steps < num_work)  # (B, W + A)
        return ((steps <= rows[..., None]) & ~behind[:, None])[:, None]

    def _classify(self, tokens: Tensor, coming: Tensor) -> OnlineOutput:
        """Return the logits of the decoder's tokens (B, n, d) and of those ahead (B, A, d)."""
        future = self.classifier(coming)[:, None] if self.future_offsets else None
        return OnlineOutput(self.classifier(tokens), future)

    # ------------------------------------------------------------------------------------ the step's parts

    def _remember(self, feature: Tensor, state: State, tables: _Tables) -> State:
        """Return the state after writing a new token's projections, without positions, into its rings."""
        self.check(feature)
        count = state["count"]
        batch_size = count.shape[0]  # in an exported graph, len() would become a constant
        if feature.shape[0] != batch_size:
            raise ValueError(f"there are {feature.shape[0]} features, and the state is of {batch_size} streams")
        streams = torch.arange(batch_size, device=count.device)

        def write(ring: Tensor, row: Tensor) -> Tensor:
            return ring.index_put((streams, count % ring.shape[1]), row.to(ring.dtype))

        long = F.relu(self.embed_long(feature))  # (B, d)
        work = F.relu(self.embed_work(feature))
        first, *rest = self._stages()[0].blocks
        return {
            "count": count + 1,
            "logit": write(state["logit"], F.linear(long, tables.probes[0])),
            "value": write(state["value"], F.linear(long, first.cross_attention.qkv.weight[2 * self.width :])),
            "rest": [
                write(ring, F.linear(long, layer.cross_attention.qkv.weight[self.width :]))
                for ring, layer in zip(state["rest"], rest, strict=True)
            ],
            "work": write(state["work"], work),
            "qkv": write(state["qkv"], F.linear(work, self.decoder.blocks[0].self_attention.qkv.weight)),
            "cross": [
                write(ring, F.linear(work, layer.cross_attention.qkv.weight[self.width :]))
                for ring, layer in zip(state["cross"], self._cached_crosses(), strict=True)
            ],
        }

    def _compress(self, state: State, places: Places, tables: _Tables) -> Tensor:
        """Return the memory vectors (B, Q, d), one for each query of the last stage."""

        def long(ring: Tensor) -> Tensor:
            return _at(ring, places.long)

        compress, *stages = self._stages()
        first, *rest = compress.blocks
        mask = self.long_mask(places.is_visible)
        logits, values = long(state["logit"]).mT, long(state["value"])
        if tables.long_logit is not None and tables.long_value is not None:
            logits, values = logits + tables.long_logit, values + tables.long_value
        weights = (logits.unflatten(1, (self.num_heads, -1)) + mask).softmax(-1)  # (B, H, Q, L)
        values = values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, L, d / H)
        mixed = (weights @ values).transpose(1, 2).flatten(2)  # (B, Q, d)
        # The weights of a query sum to 1, so that the values' bias is added once.
        mixed = mixed + first.cross_attention.qkv.bias[2 * self.width :]
        memory = first.feed_forward(tables.queries[0], first.cross_attention.out(mixed))
        for layer, ring, table in zip(rest, state["rest"], tables.long_rest, strict=True):
            memory = layer.self_attend(memory)
            key, value = (long(ring) + table).chunk(2, dim=-1)
            query = layer.cross_attention.project_query(memory)
            memory = layer.feed_forward(memory, layer.cross_attention.mix(query, key, value, mask))
        memory = compress.norm(memory)

        for stage, queries, probe in zip(stages, tables.queries[1:], tables.probes[1:], strict=True):
            first, *rest = stage.blocks
            tokens = first.feed_forward(queries, first.cross_attention.read_with(probe, memory))
            for layer in rest:
                tokens = layer(tokens, memory)
            memory = stage.norm(tokens)
        return memory

    def _decode(self, state: State, places: Places, memory: Tensor, tables: _Tables) -> Tensor:
        """Return the newest token and those ahead (B, 1 + A, d), ready for the classifier."""
        work = _join(_at(state["work"], places.work) + self.work_positions, tables.coming)  # (B, W + A, d)
        all_rows = torch.arange(work.shape[1], device=work.device)[None]
        # Only the newest token and those ahead are classified, so the last layer computes no other.
        last_rows = torch.cat([places.newest[:, None], all_rows[:, self.work :].expand(work.shape[0], -1)], 1)
        tokens = work
        for number, layer in enumerate(self.decoder.blocks):
            is_last = number == len(self.decoder.blocks) - 1
            inputs = _at(tokens, last_rows) if is_last else tokens
            mask = self._decoder_mask(last_rows if is_last else all_rows, places.newest, self.work)
            if number == 0:
                qkv = _join(_at(state["qkv"], places.work) + tables.work_qkv, tables.coming_qkv)
                query, key, value = qkv.chunk(3, dim=-1)
                query = _at(query, last_rows) if is_last else query
                mixed = layer.self_attention.mix(query, key, value, mask)
            elif is_last:
                mixed = layer.self_attention.read(inputs, tokens, mask)
            else:
                mixed = layer.self_attention(tokens, tokens, mask)
            tokens = layer.add_and_norm(inputs, mixed)

            attention = layer.cross_attention
            context, context_mask = memory, None
            if self.testra:
                context = torch.cat([memory, work], 1)
                context_mask = F.pad(mask, (memory.shape[1], 0), value=True)
            if is_last:
                mixed = attention.read(tokens, context, context_mask)
            elif self.testra:
                coming = tables.coming_cross[number] if tables.coming_cross else None
                work_pairs = _join(_at(state["cross"][number], places.work) + tables.work_cross[number], coming)
                pairs = zip(attention.project_memory(memory), work_pairs.chunk(2, dim=-1), strict=True)
                key, value = (torch.cat(pair, 1) for pair in pairs)
                mixed = attention.mix(attention.project_query(tokens), key, value, context_mask)
            else:
                mixed = attention(tokens, memory)
            tokens = layer.feed_forward(tokens, mixed)
        return self.decoder.norm(tokens)

    def _derive(self) -> _Tables:
        queries = [
            stage.blocks[0].self_attend(query[None])
            for query, stage in zip(self._queries(), self._stages(), strict=True)
        ]
        attentions = [stage.blocks[0].cross_attention for stage in self._stages()]
        to_memory = [
            attention.probes(attention.project_query(query))[0].flatten(0, 1)  # (H * Q, d)
            for query, attention in zip(queries, attentions, strict=True)
        ]
        first, *rest = self._stages()[0].blocks
        long_positions = torch.zeros_like(self.positions[:1]) if self.testra else self.positions[: self.long]
        _, _, value_weight = first.cross_attention.qkv.weight.chunk(3)
        coming, to_qkv = self._coming(), self.decoder.blocks[0].self_attention.qkv
        return _Tables(
            queries=queries,
            probes=to_memory,
            long_logit=None if self.testra else to_memory[0] @ long_positions.T,
            long_value=None if self.testra else F.linear(long_positions, value_weight),
            long_rest=[torch.cat(layer.cross_attention.project_memory(long_positions), -1) for layer in rest],
            work_qkv=to_qkv(self.work_positions),
            work_cross=[
                torch.cat(layer.cross_attention.project_memory(self.work_positions), -1)
                for layer in self._cached_crosses()
            ],
            coming=coming,
            coming_qkv=None if coming is None else to_qkv(coming),
            coming_cross=[]
            if coming is None
            else [torch.cat(layer.cross_attention.project_memory(coming), -1) for layer in self._cached_crosses()],
        )

    def _cached_crosses(self) -> list[Layer]:
        """Return the decoder layers whose keys and values of work tokens are in the state: TeSTra's, less the last."""
        return self.decoder.blocks[:-1] if self.testra else []

    def _stages(self) -> list[Stack]:
        return [stage for stage in self.encoder if isinstance(stage, Stack)]

    def _queries(self) -> list[Tensor]:
        """Return the queries (Q, d) of each stage."""
        return [queries.weight for queries in self.queries if isinstance(queries, nn.Embedding)]


def _join(rows: Tensor, coming: Tensor | None) -> Tensor:
    """Return rows (B, n, …) followed by ``coming`` (1, A, …), which is the same for every video."""
    return rows if coming is None else torch.cat([rows, coming.expand(rows.shape[0], -1, -1)], 1)


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """Return the rows (B, m, d) at the indices ``places`` (B, m), modulo n, of each stream's rows (B, n, d)."""
    streams = torch.arange(rows.shape[0], device=rows.device)[:, None]
    return F.embedding(streams * rows.shape[1] + places % rows.shape[1], rows.flatten(0, 1))


# ---------------------------------------------------------------------------------------------- sizes


@builder
def lstr(
    num_classes: int,
    feature_dim: int = 3072,
    long: int = 512,
    work: int = 32,
    long_stride: int = 4,
    width: int = 1024,
    num_heads: int = 16,
    hidden_dim: int | None = None,
    encoder_queries: Sequence[int] = (16, 32),
    encoder_layers: Sequence[int] = (1, 2),
    decoder_layers: int = 2,
    dropout: float = 0.2,
    anticipation_steps: int = 0,
) -> LSTR:
    """LSTR as published: 59 million parameters, 512 s of long and 8 s of work memory at 4 tokens a second.

    Args:
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        long: number of tokens in the long memory; it reaches long * long_stride tokens back.
        work: number of tokens in the work memory.
        long_stride: one token in every ``long_stride`` enters the long memory.
        width: width of a token between the layers.
        num_heads: heads of every attention; they divide the width.
        hidden_dim: hidden width of the feed-forward parts; None is the width.
        encoder_queries: number of memory vectors of each stage of the encoder.
        encoder_layers: number of layers of each stage.
        decoder_layers: number of layers of the decoder.
        dropout: dropout rate after the positions and in all layers.
        anticipation_steps: predict this many tokens ahead (not in the paper); 0 is none.
    """
    hidden_dim = width if hidden_dim is None else hidden_dim
    return LSTR(
        num_classes,
        feature_dim,
        long,
        work,
        long_stride,
        width,
        num_heads,
        hidden_dim,
        encoder_queries,
        encoder_layers,
        decoder_layers,
        dropout,
        anticipation_steps=anticipation_steps,
    )


@builder
def testra(
    num_classes: int,
    feature_dim: int = 3072,
    long: int = 512,
    work: int = 32,
    long_stride: int = 4,
    width: int = 1024,
    num_heads: int = 16,
    hidden_dim: int | None = None,
    encoder_queries: Sequence[int] = (16, 32),
    encoder_layers: Sequence[int] = (1, 2),
    decoder_layers: int = 2,
    dropout: float = 0.2,
    alpha: float = 1.0,
    anticipation_steps: int = 0,
) -> LSTR:
    """TeSTra as published, sizes and arguments as LSTR's.

    Args:
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        long: number of tokens in the long memory; it reaches long * long_stride tokens back.
        work: number of tokens in the work memory.
        long_stride: one token in every ``long_stride`` enters the long memory.
        width: width of a token between the layers.
        num_heads: heads of every attention; they divide the width.
        hidden_dim: hidden width of the feed-forward parts; None is the width.
        encoder_queries: number of memory vectors of each stage of the encoder.
        encoder_layers: number of layers of each stage.
        decoder_layers: number of layers of the decoder.
        dropout: dropout rate after the positions and in all layers.
        alpha: weight of a token in the long memory relative to the next newer one: 1 is the paper's box kernel, below
            1 its Laplace kernel (0.97 for THUMOS'14).
        anticipation_steps: predict this many tokens ahead, with one learned query each; 0 is none.
    """
    hidden_dim = width if hidden_dim is None else hidden_dim
    return LSTR(
        num_classes,
        feature_dim,
        long,
        work,
        long_stride,
        width,
        num_heads,
        hidden_dim,
        encoder_queries,
        encoder_layers,
        decoder_layers,
        dropout,
        testra=True,
        alpha=alpha,
        anticipation_steps=anticipation_steps,
    )


testra.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name


# ---------------------------------------------------------------------------------------------- published weights

_RULES: Rules = [
    (r"^pos_encoding\.pe$", None),  # here positions are computed
    (r"^feature_head_(long|work)\.input_linear\.0\.", r"embed_\1."),
    (r"^enc_queries\.", "queries."),
    (r"^dec_query\.", "future_queries."),
    (r"^enc_modules\.(\d+)\.", r"encoder.\1."),
    (r"^dec_modules\.", "decoder."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.multihead_attn\.", ".cross_attention."),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".out."),
]


def from_lstr(
    state_dict: Mapping[str, Any],
    num_classes: int,
    feature_dims: Sequence[int] = (2048, 1024),
    model_dim: int = 1024,
    num_heads: int = 16,
    feedforward_dim: int = 1024,
    long: int = 512,
    work: int = 32,
    encoder_queries: Sequence[int] = (16, 32),
    encoder_layers: Sequence[int] = (1, 2),
    decoder_layers: int = 2,
    long_stride: int = 1,
) -> LSTR:
    """Build LSTR from its published names: ``enc_modules.0.layers.0.self_attn.in_proj_weight``, …

    The features of a token are RGB, then flow: ``feature_dims``. The published long memory takes every 4th token, which
    a file does not record: pass ``long_stride=4`` for published weights. With the default, the long memory is the
    tokens right before the work memory.
    """
    network = lstr(
        num_classes,
        sum(feature_dims),
        long,
        work,
        long_stride,
        model_dim,
        num_heads,
        feedforward_dim,
        encoder_queries,
        encoder_layers,
        decoder_layers,
    )
    load_strictly(network, state_dict, _RULES, source="the lstr state dict")
    return network


def from_testra(
    state_dict: Mapping[str, Any],
    num_classes: int,
    feature_dims: Sequence[int] = (2048, 1024),
    model_dim: int = 1024,
    num_heads: int = 16,
    feedforward_dim: int = 1024,
    long: int = 512,
    work: int = 32,
    encoder_queries: Sequence[int] = (16, 32),
    encoder_layers: Sequence[int] = (1, 2),
    decoder_layers: int = 2,
    long_stride: int = 1,
    alpha: float = 1.0,
) -> LSTR:
    """Build TeSTra from its published names, which are LSTR's; ``alpha`` (1: box kernel) is not in the file either.

    A file with a ``dec_query`` gives a network that anticipates one token for each row of it.
    """
    queries = rename(state_dict, _RULES).get("future_queries.weight")
    network = testra(
        num_classes,
        sum(feature_dims),
        long,
        work,
        long_stride,
        model_dim,
        num_heads,
        feedforward_dim,
        encoder_queries,
        encoder_layers,
        decoder_layers,
        alpha=alpha,
        anticipation_steps=0 if queries is None else len(queries[1]),
    )
    load_strictly(network, state_dict, _RULES, source="the testra state dict")
    return network
