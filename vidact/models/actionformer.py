"""ActionFormer (Zhang, Wu, Li 2022, https://arxiv.org/abs/2202.07925): events of a video by a pyramid of transformers.

Convolutions embed the features, transformer blocks with attention over a window of tokens halve the time axis from
level to level, and two heads, shared by all levels, give at each place the actions that go on and the distances to
their ends.

Follows https://github.com/happyharrycn/actionformer_release (MIT). Different here: padding is multiplied away before
every convolution and does not take part in the pooling, so that it changes nothing; the published network masks
convolutions only afterwards, and its layer norms make padding non-zero. ``published_padding`` keeps that rule, for
published weights. Sinusoidal positions of a video longer than the training crop are stretched to its own length, not to
the padded one. Attention is computed in blocks, so memory grows with T and not with T².

Shapes: B videos, T tokens, D features, C channels, H heads, K actions; level l has T / 2^l places.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.localisation import SHARE_OF_EVENTS, Localiser, bias_of, set_start_values
from vidact.models.offline import Level, OfflineOutput, channels_first, inside, refuse_sizes
from vidact.models.offline_decoding import Decoding
from vidact.models.weights import Rules, builder, load_strictly, takes_arguments_of

GAIN = 1e-4  # the start value of the gains of residual branches, as published
NEVER = 1e-6  # the class probability of an action without training events, before training


class ChannelNorm(nn.Module):
    """A layer norm over the channels of each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.mT, self.weight.shape, self.weight, self.bias).mT  # (B, C, T)


class MaskedConv(nn.Conv1d):
    """A convolution over time that reads and gives zeros in the padding.

    Args:
        published: read whatever the padding contains, as published.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True,
        published: bool = False,
    ) -> None:  # fmt: skip
        if kernel % 2 == 0:
            raise ValueError(f"a kernel is {kernel} tokens wide; it is odd, so that a place is its middle")
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
        self.published = published

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Return (B, outputs, T / stride) of ``x`` (B, inputs, T); ``mask`` (B, 1, T) is True inside the videos."""
        if not self.published:
            x = x.masked_fill(~mask, 0)
        return super().forward(x).masked_fill(~mask[..., :: self.stride[0]], 0)


class ConvNorm(nn.Module):
    """A masked convolution without bias, a layer norm and a ReLU; its padding has no meaning."""

    def __init__(self, inputs: int, outputs: int, kernel: int, published: bool) -> None:
        super().__init__()
        self.conv = MaskedConv(inputs, outputs, kernel, bias=False, published=published)
        self.norm = ChannelNorm(outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.norm(self.conv(x, mask)).relu()


class Head(nn.Module):
    """Convolutions with norms, and a last one whose outputs are 0 in the padding.

    Args:
        layers: number of convolutions, the last one included.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int, kernel: int, published: bool) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1)]
        self.hidden = nn.ModuleList(ConvNorm(wide, hidden, kernel, published) for wide in widths[:-1])
        self.output = MaskedConv(widths[-1], outputs, kernel, published=published)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x, mask)
        return self.output(x, mask)


class Branch(nn.Module):
    """The end of a residual branch: a gain for each channel, and in training the loss of whole branches.

    Args:
        channels: number of channels C.
        drop: rate at which the branch of a video is dropped in training.
    """

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.gain = nn.Parameter(torch.full((channels,), GAIN))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.gain[:, None]
        if self.training and self.drop:
            kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
            x = x * kept / (1 - self.drop)
        return x


def local_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, half: int) -> Tensor:
    """Return the attention (B, H, T, P) of each place to those at most ``half`` places away.

    Queries are taken in blocks of twice ``half``, each with the keys that its places see, so that a query meets twice
    as many keys as it attends to.

    Args:
        query: (B, H, T, P), as are ``key`` and ``value``.
        mask: (B, T), True for keys that exist. A query without any gets a mean without meaning.
        half: at least 1.
    """
    num_tokens, size = query.shape[2], 2 * half
    blocks = -(-num_tokens // size)
    missing = blocks * size - num_tokens
    query = F.pad(query, (0, 0, 0, missing)).unflatten(2, (blocks, size))  # (B, H, blocks, size, P)
    wide = size + 2 * half
    keys, values = (F.pad(each, (0, 0, half, half + missing)).unfold(2, wide, size) for each in (key, value))
    exists = F.pad(mask, (half, half + missing)).unfold(1, wide, size)  # (B, blocks, wide)
    apart = torch.arange(wide, device=mask.device) - torch.arange(size, device=mask.device)[:, None]
    is_read = ((apart >= 0) & (apart <= 2 * half)) & exists[:, :, None]  # (B, blocks, size, wide)
    scores = query @ keys / math.sqrt(query.shape[-1])  # keys are (B, H, blocks, P, wide)
    scores = scores.masked_fill(~is_read[:, None], torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ values.mT).flatten(2, 3)[:, :, :num_tokens]


class Projection(nn.Module):
    """One of the queries, keys and values: a depth-wise convolution, a layer norm, and a map."""

    def __init__(self, channels: int, stride: int, published: bool) -> None:
        super().__init__()
        self.conv = MaskedConv(channels, channels, 3, stride, channels, bias=False, published=published)
        self.norm = ChannelNorm(channels)
        self.map = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.map(self.norm(self.conv(x, mask)))


class Attention(nn.Module):
    """A multi-head attention whose queries, keys and values have ``stride`` tokens between them.

    Args:
        window: places that a place attends to, itself in their middle; 1 or less is the whole level.
    """

    def __init__(
        self, channels: int, num_heads: int, window: int, stride: int, dropout: float, published: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.window, self.stride = num_heads, window, stride
        self.query = Projection(channels, stride, published)
        self.key = Projection(channels, stride, published)
        self.value = Projection(channels, stride, published)
        self.out = nn.Conv1d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, C, T / stride), 0 in the padding; ``mask`` is (B, 1, T)."""
        query, key, value = (
            part(x, mask).unflatten(1, (self.num_heads, -1)).mT for part in (self.query, self.key, self.value)
        )  # (B, H, T / stride, P)
        after = mask[..., :: self.stride]
        if self.window > 1:
            mixed = local_attention(query, key, value, after[:, 0], self.window // 2)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, after[:, None])
        mixed = self.dropout(self.out(mixed.mT.flatten(1, 2)))
        return mixed.masked_fill(~after, 0)


class Block(nn.Module):
    """A pre-norm transformer block that may halve the time axis.

    Args:
        stride: 1, or 2 to halve.
    """

    def __init__(
        self, channels: int, num_heads: int, window: int, stride: int, dropout: float, drop_path: float,
        published: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride, self.published = stride, published
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attention = Attention(channels, num_heads, window, stride, dropout, published)
        self.mlp = nn.Sequential(
            nn.Conv1d(channels, 4 * channels, 1), nn.GELU(), nn.Dropout(dropout),
            nn.Conv1d(4 * channels, channels, 1), nn.Dropout(dropout),
        )  # fmt: skip
        self.branch1, self.branch2 = Branch(channels, drop_path), Branch(channels, drop_path)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, C, T / stride), which is 0 in the padding, and its mask (B, 1, T / stride)."""
        mixed = self.attention(self.norm1(x), mask)
        skip, mask = halved(x, mask, self.published) if self.stride > 1 else (x, mask)
        x = skip.masked_fill(~mask, 0) + self.branch1(mixed)
        return x + self.branch2(self.mlp(self.norm2(x)).masked_fill(~mask, 0)), mask


def halved(x: Tensor, mask: Tensor, published: bool) -> tuple[Tensor, Tensor]:
    """Return the maximum of three places around every second one, (B, C, T / 2), and its mask.

    Padding does not take part, but by the published rule it does.
    """
    if not published:
        x = x.masked_fill(~mask, -torch.inf)
    after = mask[..., ::2]
    return max_of_three(x).masked_fill(~after, 0), after


def max_of_three(x: Tensor) -> Tensor:
    """Return the maximum of three places around every second one, (B, C, ⌈T / 2⌉).

    The pooling in two dimensions is the same, and unlike that in one it can be traced for any T.
    """
    return F.max_pool2d(x[:, :, None], (1, 3), (1, 2), (0, 1))[:, :, 0]


def sinusoids(length: int, channels: int) -> Tensor:
    """Return sinusoidal positions (C, length), divided by √C."""
    channel = torch.arange(channels)
    rate = 10_000.0 ** (-2 * (channel // 2) / channels)
    angle = rate[:, None] * torch.arange(length)
    return torch.where(channel[:, None] % 2 == 0, angle.sin(), angle.cos()) / math.sqrt(channels)


class Positions(nn.Module):
    """Sinusoidal positions; a table for the training crop is stretched over longer videos.

    Args:
        max_tokens: places of the table.
        published: stretch it over the padded length, as published, instead of each video's own.
    """

    table: Tensor

    def __init__(self, channels: int, max_tokens: int, published: bool) -> None:
        super().__init__()
        self.published = published
        self.register_buffer("table", sinusoids(max_tokens, channels), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return ``x`` (B, C, T) with positions added inside the videos."""
        size, num_tokens = self.table.shape[1], x.shape[2]
        place = torch.arange(num_tokens, device=x.device, dtype=self.table.dtype)
        lengths = mask.sum(2, dtype=place.dtype)  # (B, 1)
        if self.published:
            lengths = torch.full_like(lengths, num_tokens)
        stretched = (place + 0.5) * (size / lengths) - 0.5
        place = torch.where(lengths > size, stretched, place).clamp(0, size - 1)  # (B, T) of the table
        first = place.floor()
        share = place - first
        index = first.long()
        before, after = (self.table[:, i].transpose(0, 1) for i in (index, (index + 1).clamp(max=size - 1)))
        positions = torch.lerp(before, after, share[:, None])
        return x + positions.to(x.dtype).masked_fill(~mask, 0)


class ActionFormer(Localiser):
    """The network: an embedding, a stem, a pyramid, and two heads.

    Args:
        embedding: layers from D to C channels.
        positions: adds positions to the embedding; None for none.
        stem: blocks of stride 1, whose output is level 0.
        pyramid: blocks of stride 2, each of which makes a level.
        class_head: to K logits.
        distance_head: to 2 distances.
        localiser: further arguments of ``Localiser``.
    """

    def __init__(
        self,
        embedding: Sequence[ConvNorm],
        positions: Positions | None,
        stem: Sequence[Block],
        pyramid: Sequence[Block],
        channels: int,
        class_head: Head,
        distance_head: Head,
        **localiser: Any,
    ) -> None:
        super().__init__(levels=1 + len(pyramid), **localiser)
        self.embedding, self.positions = nn.ModuleList(embedding), positions
        self.stem, self.pyramid = nn.ModuleList(stem), nn.ModuleList(pyramid)
        self.neck = nn.ModuleList(ChannelNorm(channels) for _ in range(1 + len(pyramid)))
        self.class_head, self.distance_head = class_head, distance_head
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(1 + len(pyramid)))

    def compute(self, features: Tensor, lengths: Tensor) -> OfflineOutput:
        mask = inside(lengths, features.shape[1])
        x = channels_first(features, mask)
        mask = mask[:, None]  # (B, 1, T)
        for layer in self.embedding:
            x = layer(x, mask)
        if self.positions is not None:
            x = self.positions(x, mask)
        for block in self.stem:
            x, mask = block(x, mask)
        pyramid = [(x, mask)]
        for block in self.pyramid:
            x, mask = block(x, mask)
            pyramid.append((x, mask))
        levels = []
        for level, ((x, mask), norm, scale) in enumerate(zip(pyramid, self.neck, self.scales, strict=True)):
            x = norm(x)
            logits, distances = self.class_head(x, mask), (scale * self.distance_head(x, mask)).relu()
            levels.append(Level(logits.mT, distances.mT, 2**level, mask[:, 0]))
        return OfflineOutput(lengths=lengths, levels=levels)


def windows_of(attention_window: int | Sequence[int], levels: int) -> list[int]:
    """Return the window of each level; raise ValueError for a list of another length."""
    windows = [attention_window] * levels if isinstance(attention_window, int) else list(attention_window)
    if len(windows) != levels:
        raise ValueError(f"attention_window is {windows}; give one number, or one for each of {levels} levels")
    return windows


def set_class_bias(output: nn.Conv1d, empty_classes: Sequence[int] = ()) -> None:
    """Set the bias of a classifier so that events are rare before training, and those of empty classes absent."""
    assert output.bias is not None
    if odd := [number for number in empty_classes if not 0 <= number < len(output.bias)]:
        raise ValueError(f"empty_classes has {odd[0]}; the actions are 0 to {len(output.bias) - 1}")
    nn.init.constant_(output.bias, bias_of(SHARE_OF_EVENTS))
    with torch.no_grad():
        output.bias[list(empty_classes)] = bias_of(NEVER)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def actionformer(
    num_classes: int,
    feature_dim: int = 2048,
    embedding_dim: int = 512,
    embedding_layers: int = 2,
    embedding_kernel: int = 3,
    stem_layers: int = 2,
    levels: int = 6,
    num_heads: int = 4,
    attention_window: int | list[int] = 19,
    head_dim: int = 512,
    head_layers: int = 3,
    head_kernel: int = 3,
    max_tokens: int = 2304,
    absolute_positions: bool = False,
    regression_ranges: list[list[float]] | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.1,
    center_radius: float = 1.5,
    label_smoothing: float = 0.0,
    regression_weight: float = 1.0,
    initial_normaliser: float = 100.0,
    empty_classes: list[int] | None = None,
    published_padding: bool = False,
) -> ActionFormer:
    """ActionFormer as published for THUMOS'14, on 7.5 features a second: 29 million parameters.

    Args:
        num_classes: number of actions, without a background.
        feature_dim: size D of a token's features.
        embedding_dim: channels C of every level.
        embedding_layers: convolutions before the transformer.
        embedding_kernel: tokens that they read.
        stem_layers: transformer blocks of the first level.
        levels: number of levels; each has half the places of the one before.
        num_heads: heads of the attention; they divide ``embedding_dim``.
        attention_window: places that a place attends to, one number or one a level; 1 or less is the whole level.
        head_dim: channels of the heads.
        head_layers: convolutions of a head.
        head_kernel: places that they read.
        max_tokens: tokens of a training crop.
        absolute_positions: add sinusoidal positions.
        regression_ranges: of each level the smallest and largest distance to the farther end, in tokens; None is
            0 to 4, 4 to 8, 8 to 16, …
        dropout: dropout rate in the transformer blocks.
        drop_path: rate at which whole branches are dropped in training.
        center_radius: places within so many strides of an event's middle learn it.
        label_smoothing: 0…1, share of the class target that is spread over all outputs.
        regression_weight: weight of the loss on distances; 0 or less weighs it as much as the other loss.
        initial_normaliser: the number of positive places of a batch that is assumed before training.
        empty_classes: actions without a training event.
        published_padding: keep the published rule, by which padding changes the answers; for published weights.
    """
    refuse_sizes(
        num_classes=num_classes, embedding_layers=embedding_layers, stem_layers=stem_layers, levels=levels,
        num_heads=num_heads, head_layers=head_layers,
    )  # fmt: skip
    if embedding_dim % num_heads:
        raise ValueError(f"embedding_dim is {embedding_dim} and num_heads {num_heads}; heads share the channels evenly")
    windows = windows_of(attention_window, levels)
    divisors = [2**level * max(1, 2 * (window // 2)) for level, window in enumerate(windows)]
    if published_padding and (odd := [divisor for divisor in divisors if max_tokens % divisor]):
        raise ValueError(
            f"max_tokens is {max_tokens}; as published it is a multiple of {odd[0]}, for the windows {windows}"
        )

    def block(level: int, stride: int) -> Block:
        return Block(embedding_dim, num_heads, windows[level], stride, dropout, drop_path, published_padding)

    def head(outputs: int) -> Head:
        return Head(embedding_dim, head_dim, outputs, head_layers, head_kernel, published_padding)

    widths = [feature_dim, *[embedding_dim] * (embedding_layers - 1)]
    network = ActionFormer(
        [ConvNorm(width, embedding_dim, embedding_kernel, published_padding) for width in widths],
        Positions(embedding_dim, max_tokens, published_padding) if absolute_positions else None,
        [block(0, 1) for _ in range(stem_layers)],
        [block(level, 2) for level in range(1, levels)],
        embedding_dim,
        head(num_classes),
        head(2),
        num_classes=num_classes,
        feature_dim=feature_dim,
        max_tokens=max_tokens,
        pad_to=max(divisors),
        graph_unit=math.lcm(*divisors),
        ranges=regression_ranges,
        center_radius=center_radius,
        label_smoothing=label_smoothing,
        regression_weight=regression_weight,
        initial_normaliser=initial_normaliser,
        overlap_power=0.0,
        decoding=Decoding(),
        published_padding=published_padding,
    )
    set_start_values(network)
    set_class_bias(network.class_head.output, empty_classes or ())
    return network


@builder
def actionformer_small(
    num_classes: int,
    feature_dim: int = 1280,
    embedding_dim: int = 128,
    levels: int = 4,
    num_heads: int = 4,
    attention_window: int = 9,
    max_tokens: int = 512,
    dropout: float = 0.0,
    drop_path: float = 0.1,
) -> ActionFormer:
    """ActionFormer for a CPU and 4 tokens a second (not in the paper); see ``actionformer`` for the arguments.

    Args:
        num_classes: number of actions, without a background.
        feature_dim: size D of a token's features.
        embedding_dim: channels of every level and of the heads.
        levels: number of levels.
        num_heads: heads of the attention.
        attention_window: places that a place attends to.
        max_tokens: tokens of a training crop.
        dropout: dropout rate in the transformer blocks.
        drop_path: rate at which whole branches are dropped in training.
    """
    return actionformer(
        num_classes, feature_dim, embedding_dim, levels=levels, num_heads=num_heads, attention_window=attention_window,
        head_dim=embedding_dim, max_tokens=max_tokens, dropout=dropout, drop_path=drop_path,
    )  # fmt: skip


@builder
def actionformer_proposals(
    num_classes: int = 1,
    feature_dim: int = 512,
    embedding_dim: int = 256,
    levels: int = 6,
    num_heads: int = 4,
    attention_window: list[int] | None = None,
    max_tokens: int = 192,
    regression_ranges: list[list[float]] | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.1,
    label_smoothing: float = 0.1,
    regression_weight: float = 2.0,
    initial_normaliser: float = 200.0,
    published_padding: bool = False,
) -> ActionFormer:
    """ActionFormer as published for ActivityNet: proposals of one class, on videos stretched to 192 features.

    It has positions, the coarsest level attends to all of itself, and its events are suppressed over all classes with
    voting. 6.9 million parameters. See ``actionformer`` for the arguments.

    Args:
        num_classes: number of classes; 1 is for events of any action.
        feature_dim: size D of a token's features.
        embedding_dim: channels of every level and of the heads.
        levels: number of levels.
        num_heads: heads of the attention.
        attention_window: places that a place attends to, one number a level; None is 7, and the whole of the last one.
        max_tokens: tokens of a training crop.
        regression_ranges: of each level the smallest and largest distance to the farther end, in tokens.
        dropout: dropout rate in the transformer blocks.
        drop_path: rate at which whole branches are dropped in training.
        label_smoothing: 0…1, share of the class target that is spread over all outputs.
        regression_weight: weight of the loss on distances.
        initial_normaliser: the number of positive places of a batch that is assumed before training.
        published_padding: keep the published rule, by which padding changes the answers; for published weights.
    """
    network = actionformer(
        num_classes, feature_dim, embedding_dim, levels=levels, num_heads=num_heads,
        attention_window=[*[7] * (levels - 1), -1] if attention_window is None else attention_window,
        head_dim=embedding_dim, max_tokens=max_tokens, absolute_positions=True, regression_ranges=regression_ranges,
        dropout=dropout, drop_path=drop_path, label_smoothing=label_smoothing, regression_weight=regression_weight,
        initial_normaliser=initial_normaliser, published_padding=published_padding,
    )  # fmt: skip
    network.decoding = Decoding(min_length=0.001, per_class=False, sigma=0.75, max_events=100, voting_overlap=0.7)
    return network


# ---------------------------------------------------------------------------------------------- published weights

HEADS: Rules = [
    (r"^backbone\.embd\.(\d+)\.conv\.", r"embedding.\1.conv."),
    (r"^backbone\.embd_norm\.(\d+)\.", r"embedding.\1.norm."),
    (r"^backbone\.stem\.", "stem."),
    (r"^backbone\.branch\.", "pyramid."),
    (r"^neck\.fpn_norms\.", "neck."),
    (r"^cls_head\.", "class_head."),
    (r"^reg_head\.scale\.(\d+)\.scale$", r"scales.\1"),
    (r"^reg_head\.", "distance_head."),
    (r"_head\.head\.(\d+)\.conv\.", r"_head.hidden.\1.conv."),
    (r"_head\.norm\.(\d+)\.", r"_head.hidden.\1.norm."),
    (r"_head\.(cls_head|offset_head)\.conv\.", "_head.output."),
]
_RULES: Rules = [
    *HEADS,
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.attn\.(query|key|value)_conv\.conv\.", r".attention.\1.conv."),
    (r"\.attn\.(query|key|value)_norm\.", r".attention.\1.norm."),
    (r"\.attn\.(query|key|value)\.", r".attention.\1.map."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.drop_path_attn\.scale$", ".branch1.gain"),
    (r"\.drop_path_mlp\.scale$", ".branch2.gain"),
]
_FLAT = re.compile(r"((_norm|norms?\.\d+|\.ln\d?|embd_norm\.\d+)\.(weight|bias)|drop_path_\w+\.scale)$")


def flattened(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return published tensors with gains and biases of norms and branches (1, C, 1) as (C,)."""
    tensors = {key: torch.as_tensor(value) for key, value in state_dict.items()}
    return {
        key: value.reshape(-1) if _FLAT.search(key) and value.ndim == 3 else value for key, value in tensors.items()
    }


@takes_arguments_of(actionformer, published_padding=True)
def from_actionformer(state_dict: Mapping[str, Any], **arguments: Any) -> ActionFormer:
    """Build ActionFormer from its published names: ``backbone.embd.0.conv.weight``, ``cls_head.head.0.conv.weight``, …

    Published files hold two sets of tensors; ``state_dict_ema`` is the one to use. ``published_padding`` is the rule
    that the weights were trained with.
    """
    network = actionformer(**arguments)
    # The running count of positive places is not among the published tensors.
    load_strictly(network, flattened(state_dict), _RULES, r"^normaliser$", source="the actionformer state dict")
    return network
