"""TriDet (Shi et al. 2023, https://arxiv.org/abs/2303.07347): ActionFormer's pyramid without attention, and ends that
are found as expected distances.

A block mixes each place with a small and a large neighbourhood and with the mean of the video. At each place and for
each class, the distance to the start is the mean over a few bins, weighted by how likely each bin holds a start; so is
that to the end. An event reaches at most ``bins`` strides of the coarsest level to each side.

Follows https://github.com/dingfengshi/TriDet (MIT). Different here: the depth-wise convolutions of the blocks begin
with random weights. The published settings for THUMOS'14 and EPIC begin with zeros, of which each one's gradient is a
product with another, so that they stay zero and a block computes its MLP only; ``init_conv_vars=0`` gives that. Padding
is left out of every convolution, mean and norm; ``published_padding`` keeps the published rule, for published weights.
Noise is added to the features of the videos only.

Shapes: B videos, T tokens, D features, C channels, K actions, n bins; level l has T / 2^l places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidact.models.actionformer import (
    HEADS,
    Branch,
    ChannelNorm,
    ConvNorm,
    Head,
    Positions,
    flattened,
    halved,
    max_of_three,
    set_class_bias,
)
from vidact.models.localisation import Localiser, set_start_values
from vidact.models.offline import Level, OfflineOutput, channels_first, inside, refuse_sizes
from vidact.models.offline_decoding import Decoding
from vidact.models.weights import Rules, builder, load_strictly, takes_arguments_of

GROUPS = 16  # of the group norm in a block


class MaskedGroupNorm(nn.GroupNorm):
    """A group norm over the channels of a group and the places of the video, without those of its padding."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``x`` (B, C, T) normalised over the places where ``mask`` (B, 1, T) is True; None is all."""
        if mask is None:
            return super().forward(x)
        groups = x.unflatten(1, (self.num_groups, -1))  # (B, groups, C / groups, T)
        counts = mask[:, None].to(x.dtype)
        total = counts.sum((2, 3), keepdim=True) * groups.shape[2]
        mean = (groups * counts).sum((2, 3), keepdim=True) / total
        variance = ((groups - mean).square() * counts).sum((2, 3), keepdim=True) / total
        normed = ((groups - mean) / (variance + self.eps).sqrt()).flatten(1, 2)
        return normed * self.weight[:, None] + self.bias[:, None]


def wide_kernel(window: int, factor: float) -> int:
    """Return the width of the large neighbourhood, odd."""
    width = round((window + 1) * factor)
    return width + 1 - width % 2


class GranularBlock(nn.Module):
    """A scalable-granularity perception block, which may halve the time axis first.

    Args:
        channels: number of channels C, a multiple of 16.
        window: width of the small neighbourhood, odd.
        factor: how much wider the large one is.
        mlp_dim: channels between the maps of the MLP.
        stride: 1, or 2 to halve.
        drop_path: rate at which whole branches are dropped in training; None for a block whose branches have no gain.
        published: let padding into convolutions, means and norms, as published.
    """

    def __init__(
        self, channels: int, window: int, factor: float, mlp_dim: int, stride: int, drop_path: float | None,
        published: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride, self.published = stride, published

        def depthwise(width: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, width, padding=width // 2, groups=channels)

        self.norm1, self.norm2 = ChannelNorm(channels), MaskedGroupNorm(GROUPS, channels)
        self.gate, self.narrow = depthwise(window), depthwise(window)
        self.wide = depthwise(wide_kernel(window, factor))
        self.map, self.global_map = depthwise(1), depthwise(1)
        self.mlp = nn.Sequential(nn.Conv1d(channels, mlp_dim, 1), nn.GELU(), nn.Conv1d(mlp_dim, channels, 1))
        self.branch1, self.branch2 = (
            nn.Identity() if drop_path is None else Branch(channels, drop_path) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, C, T / stride) and its mask (B, 1, T / stride)."""
        if self.published:
            return self._published(x, mask)
        if self.stride > 1:
            x, mask = halved(x, mask, published=False)
        x = x.masked_fill(~mask, 0)
        normed = self.norm1(x).masked_fill(~mask, 0)
        mean = normed.sum(2, keepdim=True) / mask.sum(2, keepdim=True)
        x = x + self.branch1(self._mixed(normed, mean).masked_fill(~mask, 0))
        return x + self.branch2(self.mlp(self.norm2(x, mask)).masked_fill(~mask, 0)), mask

    def _published(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.stride > 1:
            x, mask = max_of_three(x), mask[..., ::2]
        normed = self.norm1(x)
        x = x.masked_fill(~mask, 0) + self.branch1(self._mixed(normed, normed.mean(2, keepdim=True)))
        return x + self.branch2(self.mlp(self.norm2(x))), mask

    def _mixed(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return the mixture (B, C, T) of each place of ``x`` with its neighbourhoods and ``mean`` (B, C, 1)."""
        return self.map(x) * self.global_map(mean).relu() + (self.narrow(x) + self.wide(x)) * self.gate(x) + x


def expected_distances(start: Tensor, end: Tensor, offsets: Tensor, bins: int) -> Tensor:
    """Return the expected distances (B, T, K, 2) back to the start and on to the end, from 0 to n, in strides.

    Args:
        start: (B, K, T) logits of starts, taken as 0 before the first and after the last place.
        end: (B, K, T) those of ends.
        offsets: (B, 2 (n + 1), T) logits of the bins at each place: first those of the start, from far to near, then
            those of the end, from near to far.
        bins: n.
    """
    of_start, of_end = (part.mT[:, None] for part in offsets.split(bins + 1, 1))  # (B, 1, T, n + 1)
    near_start = nn.functional.pad(start, (bins, 0)).unfold(2, bins + 1, 1)  # (B, K, T, n + 1)
    near_end = nn.functional.pad(end, (0, bins)).unfold(2, bins + 1, 1)
    steps = torch.arange(bins + 1, device=start.device, dtype=start.dtype)
    left = (near_start + of_start).softmax(-1) @ steps.flip(0)  # (B, K, T)
    right = (near_end + of_end).softmax(-1) @ steps
    return torch.stack([left, right], 3).transpose(1, 2)


class TriDet(Localiser):
    """The network: an embedding, a stem, a pyramid, and four heads.

    Args:
        embedding: layers from D to C channels.
        positions: adds positions to the embedding; None for none.
        stem: blocks of stride 1, whose output is level 0.
        pyramid: blocks of stride 2, each of which makes a level.
        class_head: to K logits.
        start_head: to K logits of starts; what comes before the heads does not learn from it, nor from ``end_head``.
        end_head: to K logits of ends.
        distance_head: to 2 (n + 1) logits of bins.
        bins: number n of bins beside the place itself.
        input_noise: standard deviation of the noise on features in training.
        localiser: further arguments of ``Localiser``.
    """

    def __init__(
        self,
        embedding: Sequence[ConvNorm],
        positions: Positions | None,
        stem: Sequence[GranularBlock],
        pyramid: Sequence[GranularBlock],
        channels: int,
        class_head: Head,
        start_head: Head,
        end_head: Head,
        distance_head: Head,
        bins: int,
        input_noise: float,
        **localiser: Any,
    ) -> None:
        super().__init__(levels=1 + len(pyramid), **localiser)
        self.bins, self.input_noise = bins, input_noise
        self.embedding, self.positions = nn.ModuleList(embedding), positions
        self.stem, self.pyramid = nn.ModuleList(stem), nn.ModuleList(pyramid)
        self.neck = nn.ModuleList(ChannelNorm(channels) for _ in range(1 + len(pyramid)))
        self.class_head, self.start_head, self.end_head = class_head, start_head, end_head
        self.distance_head = distance_head
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(1 + len(pyramid)))

    def compute(self, features: Tensor, lengths: Tensor) -> OfflineOutput:
        """Return the answers, with the parts ``start_l`` and ``end_l`` (B, T_l, K), ``offsets_l`` (B, T_l, 2 (n + 1)).

        ``offsets_l`` are the logits of the bins of level l, first those of the start.
        """
        mask = inside(lengths, features.shape[1])
        x = channels_first(features, mask)
        mask = mask[:, None]  # (B, 1, T)
        if self.training and self.input_noise:
            x = x + (self.input_noise * torch.randn_like(x)).masked_fill(~mask, 0)
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
        levels: list[Level] = []
        parts: dict[str, Tensor] = {}
        for level, ((x, mask), norm, scale) in enumerate(zip(pyramid, self.neck, self.scales, strict=True)):
            x = norm(x)
            logits = self.class_head(x, mask)
            start, end = self.start_head(x.detach(), mask), self.end_head(x.detach(), mask)
            offsets = (scale * self.distance_head(x, mask)).relu()
            distances = expected_distances(start, end, offsets, self.bins)
            levels.append(Level(logits.mT, distances, 2**level, mask[:, 0]))
            parts |= {f"start_{level}": start.mT, f"end_{level}": end.mT, f"offsets_{level}": offsets.mT}
        return OfflineOutput(lengths=lengths, levels=levels, parts=parts)


@builder
def tridet(
    num_classes: int,
    feature_dim: int = 2048,
    embedding_dim: int = 512,
    embedding_layers: int = 2,
    embedding_kernel: int = 3,
    stem_layers: int = 2,
    levels: int = 6,
    window: int = 1,
    window_factor: float = 5.0,
    mlp_dim: int = 768,
    bins: int = 16,
    head_dim: int = 512,
    head_layers: int = 3,
    head_kernel: int = 3,
    boundary_kernel: int = 3,
    max_tokens: int = 2304,
    absolute_positions: bool = False,
    regression_ranges: list[list[float]] | None = None,
    drop_path: float = 0.1,
    init_conv_vars: float = 0.2,
    input_noise: float = 5e-4,
    center_radius: float = 1.5,
    label_smoothing: float = 0.0,
    regression_weight: float = 1.0,
    initial_normaliser: float = 100.0,
    overlap_power: float = 0.2,
    published_padding: bool = False,
) -> TriDet:
    """TriDet as published for THUMOS'14, but for its start values: 16 million parameters.

    Args:
        num_classes: number of actions, without a background.
        feature_dim: size D of a token's features.
        embedding_dim: channels C of every level, a multiple of 16.
        embedding_layers: convolutions before the blocks.
        embedding_kernel: tokens that they read.
        stem_layers: blocks of the first level; their window is 1.
        levels: number of levels; each has half the places of the one before.
        window: width of the small neighbourhood in the other blocks.
        window_factor: how much wider the large neighbourhood is.
        mlp_dim: channels between the maps of a block's MLP.
        bins: bins of a distance beside the place itself; an event reaches that many strides to each side.
        head_dim: channels of the heads.
        head_layers: convolutions of a head.
        head_kernel: places that those of classes and distances read.
        boundary_kernel: places that those of starts and ends read.
        max_tokens: tokens of a training crop.
        absolute_positions: add sinusoidal positions.
        regression_ranges: of each level the smallest and largest distance to the farther end, in tokens; None is
            0 to 4, 4 to 8, 8 to 16, …
        drop_path: rate at which whole branches are dropped in training, except in the stem.
        init_conv_vars: standard deviation of the blocks' depth-wise convolutions before training, as published for
            ActivityNet. It is 0 as published for the other sets, and then those convolutions never learn.
        input_noise: standard deviation of the noise on features in training.
        center_radius: places within so many strides of an event's middle learn it.
        label_smoothing: 0…1, share of the class target that is spread over all outputs.
        regression_weight: weight of the loss on distances; 0 or less weighs it as much as the other loss.
        initial_normaliser: the number of positive places of a batch that is assumed before training.
        overlap_power: the loss on a true class is multiplied by the overlap of its segment to this power.
        published_padding: keep the published rule, by which padding changes the answers; for published weights.
    """
    refuse_sizes(
        num_classes=num_classes, embedding_layers=embedding_layers, stem_layers=stem_layers, levels=levels,
        window=window, mlp_dim=mlp_dim, bins=bins, head_layers=head_layers,
    )  # fmt: skip
    if embedding_dim % GROUPS:
        raise ValueError(f"embedding_dim is {embedding_dim}; it is a multiple of {GROUPS}")
    if window % 2 == 0:
        raise ValueError(f"window is {window}; it is odd, so that a place is its middle")
    if init_conv_vars < 0 or input_noise < 0:
        raise ValueError(
            f"init_conv_vars is {init_conv_vars:g} and input_noise {input_noise:g}; a deviation is 0 or more"
        )
    published = published_padding

    def block(width: int, stride: int, drop: float | None) -> GranularBlock:
        return GranularBlock(embedding_dim, width, window_factor, mlp_dim, stride, drop, published)

    def head(outputs: int, kernel: int) -> Head:
        return Head(embedding_dim, head_dim, outputs, head_layers, kernel, published)

    widths = [feature_dim, *[embedding_dim] * (embedding_layers - 1)]
    network = TriDet(
        [ConvNorm(width, embedding_dim, embedding_kernel, published) for width in widths],
        Positions(embedding_dim, max_tokens, published) if absolute_positions else None,
        [block(1, 1, None) for _ in range(stem_layers)],
        [block(window, 2, drop_path) for _ in range(levels - 1)],
        embedding_dim,
        head(num_classes, head_kernel),
        head(num_classes, boundary_kernel),
        head(num_classes, boundary_kernel),
        head(2 * (bins + 1), head_kernel),
        bins,
        input_noise,
        num_classes=num_classes,
        feature_dim=feature_dim,
        max_tokens=max_tokens,
        pad_to=2 ** (levels - 1) * window,
        ranges=regression_ranges,
        center_radius=center_radius,
        label_smoothing=label_smoothing,
        regression_weight=regression_weight,
        initial_normaliser=initial_normaliser,
        overlap_power=overlap_power,
        decoding=Decoding(max_events=2000, voting_weight="score"),
        published_padding=published,
    )
    set_start_values(network)
    for module in network.modules():
        if isinstance(module, GranularBlock):
            for conv in (module.gate, module.narrow, module.wide, module.map, module.global_map):
                nn.init.normal_(conv.weight, std=init_conv_vars)
    for output in (network.class_head.output, network.start_head.output, network.end_head.output):
        set_class_bias(output)
    return network


# ---------------------------------------------------------------------------------------------- published weights

_RULES: Rules = [
    *HEADS,
    (r"\.ln\.", ".norm1."),
    (r"\.gn\.", ".norm2."),
    (r"\.psi\.", ".gate."),
    (r"\.convw\.", ".narrow."),
    (r"\.convkw\.", ".wide."),
    (r"\.fc\.", ".map."),
    (r"\.global_fc\.", ".global_map."),
    (r"\.drop_path_out\.scale$", ".branch1.gain"),
    (r"\.drop_path_mlp\.scale$", ".branch2.gain"),
]


@takes_arguments_of(tridet, published_padding=True)
def from_tridet(state_dict: Mapping[str, Any], **arguments: Any) -> TriDet:
    """Build TriDet from its published names: ``backbone.branch.0.psi.weight``, ``start_head.head.0.conv.weight``, …

    Published files hold two sets of tensors; ``state_dict_ema`` is the one to use. ``published_padding`` is the rule
    that the weights were trained with.
    """
    network = tridet(**arguments)
    # The running count of positive places is not among the published tensors.
    load_strictly(network, flattened(state_dict), _RULES, r"^normaliser$", source="the tridet state dict")
    return network
