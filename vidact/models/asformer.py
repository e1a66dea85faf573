"""ASFormer (Yi, Wen, Jiang 2021, https://arxiv.org/abs/2110.08568): a label for every token, by attention over windows.

An encoder reads features, and decoders correct its answer stage by stage. A layer convolves with a dilation d and
attends to a window of d tokens; d doubles from layer to layer. A decoder's keys and queries come from the probabilities
of the stage before, its values from that stage's features.

Follows https://github.com/ChinaYi/ASFormer (MIT). Different here: each token attends to its own window. In the
published code, the mask has no row for the query, so that all queries of a block of d tokens attend to the same 2d − 1;
the author left it so for the sake of the published weights. ``exact_window=False`` keeps that rule. Videos of any
lengths share a batch, as the norm is over each one's own time; a video of one token works.

Shapes: B videos, T tokens, D features, F width, K' outputs (the background first), d the dilation and window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.offline import OfflineOutput, Segmenter, channels_first, inside, refuse_sizes
from vidact.models.weights import Rules, builder, load_strictly, takes_arguments_of

LEAST = 1e-6  # added to the mask before its logarithm, as published
FADING = 3.0  # decoder j weighs its attention with exp(-3 j), as published


def window_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, window: int, exact: bool) -> Tensor:
    """Return the attention (B, T, V) of each token to a window of d tokens around it.

    Queries are taken in blocks of d; a block reads its own tokens and d // 2 on each side.

    Args:
        query: (B, T, Q), as is ``key``; ``value`` is (B, T, V).
        mask: (B, T), True for tokens that exist.
        window: d.
        exact: token t reads the tokens from t − d // 2 to t − d // 2 + d − 1. If not, each query of a block reads all
            that the block reads but the last token, as published.
    """
    num_tokens, side = query.shape[1], window // 2
    blocks, wide = -(-num_tokens // window), window + 2 * side
    missing = blocks * window - num_tokens
    key = key.masked_fill(~mask[..., None], 0)  # the scores of tokens that do not exist are 0
    queries = F.pad(query, (0, 0, 0, missing)).unflatten(1, (blocks, window))  # (B, blocks, d, Q)
    around = (side, side + missing)
    keys, values = (F.pad(each, (0, 0, *around)).unfold(1, wide, window) for each in (key, value))
    exists = F.pad(mask, around).unfold(1, wide, window)[:, :, None]  # (B, blocks, 1, wide); keys (B, blocks, Q, wide)
    slot = torch.arange(wide, device=query.device)
    if exact:
        later = slot - torch.arange(window, device=query.device)[:, None]  # (d, wide)
        exists = exists & (later >= 0) & (later < window)
    elif window > 1:
        exists = exists & (slot < wide - 1)
    scores = queries @ keys / math.sqrt(query.shape[2])
    weights = (scores + (exists + LEAST).log().to(scores.dtype)).softmax(-1) * exists
    return (weights @ values.mT).flatten(1, 2)[:, :num_tokens]


def normed(x: Tensor, mask: Tensor) -> Tensor:
    """Return ``x`` (B, F, T) with mean 0 and variance 1 over the time where ``mask`` (B, 1, T) is True, else 0.

    It is 0 for a video of one token.
    """
    count = mask.sum(2, keepdim=True)
    x = x.masked_fill(~mask, 0)
    apart = (x - x.sum(2, keepdim=True) / count).masked_fill(~mask, 0)
    return apart / (apart.square().sum(2, keepdim=True) / count + 1e-5).sqrt()


class WindowAttention(nn.Module):
    """An attention of one head over windows of d tokens."""

    def __init__(self, dim: int, query_reduction: int, value_reduction: int, window: int, exact: bool) -> None:
        super().__init__()
        self.window, self.exact = window, exact
        self.query = nn.Conv1d(dim, dim // query_reduction, 1)
        self.key = nn.Conv1d(dim, dim // query_reduction, 1)
        self.value = nn.Conv1d(dim, dim // value_reduction, 1)
        self.out = nn.Conv1d(dim // value_reduction, dim, 1)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Return (B, F, T) for queries and keys of ``x`` and values of ``source``, both (B, F, T)."""
        query, key, value = self.query(x).mT, self.key(x).mT, self.value(source).mT  # (B, T, …)
        return self.out(window_attention(query, key, value, mask[:, 0], self.window, self.exact).mT.relu())


class WindowLayer(nn.Module):
    """A dilated convolution, attention over its output, and a residual connection.

    Args:
        dilation: d, of the convolution, and the window of the attention.
        weight: α, the weight of the attention.
    """

    def __init__(
        self, dim: int, query_reduction: int, value_reduction: int, dilation: int, exact: bool, weight: float,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = weight
        self.dilated = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation)
        self.attention = WindowAttention(dim, query_reduction, value_reduction, dilation, exact)
        self.mix = nn.Conv1d(dim, dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor | None, mask: Tensor) -> Tensor:
        """Return (B, F, T), which is 0 in the padding, as ``x`` is.

        Args:
            x: (B, F, T).
            source: (B, F, T), of which the values of the attention are; None for those of the layer.
            mask: (B, 1, T), True inside the videos.
        """
        y = self.dilated(x).relu()
        z = normed(y, mask)
        attended = self.attention(z, z if source is None else source, mask)
        return (x + self.dropout(self.mix(self.weight * attended + y))).masked_fill(~mask, 0)


class Coder(nn.Module):
    """The encoder or a decoder: a map to F channels, layers, and a map to K' logits."""

    def __init__(self, channels: int, dim: int, num_classes: int, layers: list[WindowLayer]) -> None:
        super().__init__()
        self.input = nn.Conv1d(channels, dim, 1)
        self.layers = nn.ModuleList(layers)
        self.output = nn.Conv1d(dim, num_classes, 1)

    def forward(self, x: Tensor, source: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K', T) and the last features (B, F, T), both 0 in the padding."""
        x = self.input(x).masked_fill(~mask, 0)
        for layer in self.layers:
            x = layer(x, source, mask)
        return self.output(x).masked_fill(~mask, 0), x


class ASFormer(Segmenter):
    """An encoder, and decoders that each read the answer before.

    Args:
        encoder: reads features.
        decoders: read probabilities.
        channel_dropout: rate at which channels of the features are dropped in training.
        segmenter: further arguments of ``Segmenter``.
    """

    def __init__(self, encoder: Coder, decoders: list[Coder], channel_dropout: float, **segmenter: Any) -> None:
        super().__init__(**segmenter)
        self.dropout = nn.Dropout1d(channel_dropout)
        self.encoder, self.decoders = encoder, nn.ModuleList(decoders)
        self.graph_unit = 2 ** (len(encoder.layers) - 1)  # the widest window

    def compute(self, features: Tensor, lengths: Tensor) -> OfflineOutput:
        mask = inside(lengths, features.shape[1])
        x = self.dropout(channels_first(features, mask))
        mask = mask[:, None]  # (B, 1, T)
        logits, source = self.encoder(x, None, mask)
        stages = [logits]
        for decoder in self.decoders:
            logits, source = decoder(logits.softmax(1), source, mask)
            stages.append(logits)
        return self.answer(torch.stack(stages).mT, lengths)


@builder
def asformer(
    num_classes: int,
    feature_dim: int = 2048,
    dim: int = 64,
    layers: int = 10,
    decoders: int = 3,
    query_reduction: int = 2,
    value_reduction: int = 2,
    exact_window: bool = True,
    dropout: float = 0.5,
    channel_dropout: float = 0.3,
    smoothing_weight: float = 0.15,
    smoothing_limit: float = 4.0,
    published_padding: bool = False,
) -> ASFormer:
    """ASFormer as published, but for the window: 1.1 million parameters.

    Args:
        num_classes: number of outputs, the background first.
        feature_dim: size D of a token's features.
        dim: width F of a token between the layers.
        layers: layers of the encoder and of each decoder; layer i has a window of 2^i tokens.
        decoders: number of decoders.
        query_reduction: queries and keys have F divided by this values.
        value_reduction: values have F divided by this values.
        exact_window: each token attends to its own window; False for published weights.
        dropout: dropout rate on the branches of the layers.
        channel_dropout: rate at which channels of the features are dropped in training.
        smoothing_weight: weight of the smoothing loss.
        smoothing_limit: largest change of a log-probability that it counts.
        published_padding: the smoothing loss is an average over padding too, as published; nothing else depends on it.
    """
    refuse_sizes(layers=layers, query_reduction=query_reduction, value_reduction=value_reduction)
    if dim < max(query_reduction, value_reduction):
        raise ValueError(
            f"dim is {dim}, query_reduction {query_reduction} and value_reduction {value_reduction}; no value is left"
        )

    def coder(channels: int, weight: float) -> Coder:
        windows = [
            WindowLayer(dim, query_reduction, value_reduction, 2**i, exact_window, weight, dropout)
            for i in range(layers)
        ]
        return Coder(channels, dim, num_classes, windows)

    return ASFormer(
        coder(feature_dim, 1.0),
        [coder(num_classes, math.exp(-FADING * j)) for j in range(decoders)],
        channel_dropout,
        num_classes=num_classes,
        feature_dim=feature_dim,
        smoothing_weight=smoothing_weight,
        smoothing_limit=smoothing_limit,
        published_padding=published_padding,
    )


# ---------------------------------------------------------------------------------------------- published weights

_RULES: Rules = [
    (r"\.feed_forward\.layer\.0\.", ".dilated."),
    (r"\.att_layer\.(query|key|value)_conv\.", r".attention.\1."),
    (r"\.att_layer\.conv_out\.", ".attention.out."),
    (r"layers\.(\d+)\.conv_1x1\.", r"layers.\1.mix."),
    (r"\.conv_1x1\.", ".input."),
    (r"\.conv_out\.", ".output."),
]


@takes_arguments_of(asformer, exact_window=False, published_padding=True)
def from_asformer(state_dict: Mapping[str, Any], **arguments: Any) -> ASFormer:
    """Build ASFormer from its published names: ``encoder.layers.0.att_layer.query_conv.weight``, …

    Published weights were trained without ``exact_window``. The background need not be the first output of a published
    file.
    """
    network = asformer(**arguments)
    load_strictly(network, state_dict, _RULES, source="the asformer state dict")
    return network
