"""MS-TCN (Abu Farha & Gall 2019, https://arxiv.org/abs/1903.01945) and MS-TCN++ (Li et al. 2020,
https://arxiv.org/abs/2006.09220): a label for every token of a video, from stages of dilated convolutions.

The first stage reads features, each later one the probabilities of the stage before, and corrects over-segmentation:
a smoothing loss makes labels change rarely. In MS-TCN++ a layer of the first stage sees a small and a large
neighbourhood at once.

Written from a description of the networks. The code of MS-TCN carries the Commons Clause and was not used; that of
MS-TCN++ is https://github.com/sj-li/MS-TCN2 (MIT). Different here: padding is multiplied away before every dilated
convolution, so that it changes nothing; the published masks leave out the first map (MS-TCN), or there are none
(MS-TCN++). ``published_padding`` keeps the published rule, for published weights.

``causal_ms_tcn`` is from no paper: a layer reads the tokens t, t − d and t − 2d in the place of t − d, t and t + d, so
the network is an online detector whose step costs the same at every token. With ``look_ahead``, the first layers keep
their later token, and the answer for a token comes that much later. If all layers kept it, the answers would be those
of MS-TCN.

Shapes: B videos, T tokens, D features, F width, S stages, K' outputs (the background first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.offline import OfflineOutput, Segmenter, Truth, channels_first, inside, refuse_sizes
from vidact.models.online import NO_END, OnlineNetwork, OnlineOutput, State
from vidact.models.weights import Rules, builder, load_strictly, takes_arguments_of

UNKNOWN = -20.0  # the logit of actions before a delayed stream has an answer; its softmax is about 1e-9


class DilatedLayer(nn.Module):
    """A residual layer: x ← (x + W ReLU(dilated convolution of x)) · mask.

    Args:
        dim: width F.
        dilation: tokens d between the three that are read.
        ahead: how far the newest of the three lies after the token, from 0 (causal) to d (as published).
        dropout: dropout rate on the branch.
    """

    def __init__(self, dim: int, dilation: int, ahead: int, dropout: float) -> None:
        super().__init__()
        self.dilation, self.ahead = dilation, ahead
        self.dilated = nn.Conv1d(dim, dim, 3, dilation=dilation)
        self.mix = nn.Conv1d(dim, dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, F, T) for ``x`` (B, F, T), which is 0 where ``mask`` (B, 1, T) is."""
        read = F.pad(x, (2 * self.dilation - self.ahead, self.ahead))
        return (x + self.dropout(self.mix(self.dilated(read).relu()))) * mask

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, F, 1), of the token ``ahead`` before the newest, and the next ``past``.

        Args:
            x: (B, F, 1) the input of the newest token.
            past: (B, F, 2d) those of the tokens before it, oldest first.
        """
        line = torch.cat([past, x], 2)
        branch = F.conv1d(line[:, :, :: self.dilation], self.dilated.weight, self.dilated.bias).relu()
        newest = line.shape[2] - 1
        return line[:, :, newest - self.ahead, None] + self.dropout(self.mix(branch)), line[:, :, 1:]


class Stage(nn.Module):
    """A map to F channels, dilated layers, and a map to K' logits.

    Args:
        channels: values that a token has at the input.
        aheads: ``ahead`` of each layer; layer i has the dilation 2^i.
    """

    def __init__(self, channels: int, dim: int, num_classes: int, aheads: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.input = nn.Conv1d(channels, dim, 1)
        self.layers = nn.ModuleList(DilatedLayer(dim, 2**i, ahead, dropout) for i, ahead in enumerate(aheads))
        self.output = nn.Conv1d(dim, num_classes, 1)

    def dilated_layers(self) -> list[DilatedLayer]:
        return [layer for layer in self.layers if isinstance(layer, DilatedLayer)]

    @property
    def reach(self) -> tuple[int, int]:
        """How many tokens before and after a token its logits depend on."""
        layers = self.dilated_layers()
        return sum(2 * layer.dilation - layer.ahead for layer in layers), sum(layer.ahead for layer in layers)

    def forward(self, x: Tensor, mask: Tensor, input_mask: Tensor) -> Tensor:
        """Return logits (B, K', T); ``input_mask`` multiplies the input's map, ``mask`` the layers and the logits."""
        x = self.input(x) * input_mask
        for layer in self.layers:
            x = layer(x, mask)
        return self.output(x) * mask


class DualStage(nn.Module):
    """The first stage of MS-TCN++: each layer fuses a convolution with a large and one with a small dilation."""

    def __init__(self, channels: int, dim: int, num_classes: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Conv1d(channels, dim, 1)
        dilations = [2**i for i in range(layers)]
        self.far = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=d, dilation=d) for d in reversed(dilations))
        self.near = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=d, dilation=d) for d in dilations)
        self.fuse = nn.ModuleList(nn.Conv1d(2 * dim, dim, 1) for _ in dilations)
        self.output = nn.Conv1d(dim, num_classes, 1)
        self.dropout = nn.Dropout(dropout)
        side = sum(max(pair) for pair in zip(dilations, reversed(dilations), strict=True))
        self.reach = (side, side)

    def forward(self, x: Tensor, mask: Tensor, input_mask: Tensor) -> Tensor:
        """Return logits (B, K', T); see ``Stage.forward``."""
        x = self.input(x) * input_mask
        for far, near, fuse in zip(self.far, self.near, self.fuse, strict=True):
            x = (x + self.dropout(fuse(torch.cat([far(x), near(x)], 1)).relu())) * mask
        return self.output(x) * mask


class MSTCN(Segmenter):
    """A first stage on features, and stages that each read the probabilities of the one before.

    Args:
        first: the first stage.
        refinements: the others.
        num_classes: number of outputs K'.
        feature_dim: size D of a token's features.
        smoothing_weight: weight of the smoothing loss.
        smoothing_limit: largest change of a log-probability that it counts.
        published_padding: "" for ours; "unmasked input" as MS-TCN is published, "unmasked" as MS-TCN++.
    """

    def __init__(
        self,
        first: Stage | DualStage,
        refinements: Sequence[Stage],
        num_classes: int,
        feature_dim: int,
        smoothing_weight: float,
        smoothing_limit: float,
        published_padding: str = "",
    ) -> None:
        super().__init__(num_classes, feature_dim, smoothing_weight, smoothing_limit, bool(published_padding))
        self.padding = published_padding
        self.first = first
        self.refinements = nn.ModuleList(refinements)
        reaches = [stage.reach for stage in (first, *refinements)]
        self.reach = (sum(back for back, _ in reaches), sum(ahead for _, ahead in reaches))

    def compute(self, features: Tensor, lengths: Tensor) -> OfflineOutput:
        return self.answer(self.logits_of(features, inside(lengths, features.shape[1])), lengths)

    def logits_of(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (S, B, T, K') of every stage for features (B, T, D); ``mask`` (B, T) says which exist."""
        x = channels_first(features, mask)
        ours = mask[:, None].to(x.dtype)  # (B, 1, T)
        published = torch.ones_like(ours)
        input_mask = published if self.padding else ours
        each_mask = published if self.padding == "unmasked" else ours
        stages = []
        for stage in (self.first, *self.refinements):
            logits = stage(x, each_mask, input_mask)
            stages.append(logits)
            x = logits.softmax(1) * each_mask
        return torch.stack(stages).transpose(2, 3)


# ---------------------------------------------------------------------------------------------- causal


@dataclass(kw_only=True)
class CausalOutput(OfflineOutput, OnlineOutput):
    """The answer of a network that is an online detector and an offline one; ``logits`` are those of a stream."""


class CausalMSTCN(MSTCN, OnlineNetwork):  # type: ignore[misc]
    """MS-TCN that waits at most ``look_ahead`` tokens: an online detector with the losses of all stages.

    The output of a step is for the token ``delay`` = ``look_ahead`` tokens before the newest. As an online detector
    (``start``, ``step``, ``logits``) it answers at that delay, as an offline one (``lengths``, ``scores``, ``stages``)
    each token has its own answer, the last ones with less to see. ``flush`` and ``scan`` give these last ones, too.

    Args:
        num_classes: number of outputs K', the background first.
        feature_dim: size D of a token's features.
        dim: width F.
        stages: number of stages S.
        layers: layers of a stage.
        look_ahead: later tokens that an answer depends on. The layers spend them from the first on, each up to its
            dilation.
        dropout: dropout rate on the branches of the layers.
        smoothing_weight: weight of the smoothing loss.
        smoothing_limit: largest change of a log-probability that it counts.
    """

    dense = True
    has_own_losses = True
    window: int

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        dim: int,
        stages: int,
        layers: int,
        look_ahead: int,
        dropout: float,
        smoothing_weight: float,
        smoothing_limit: float,
    ) -> None:
        refuse_sizes(stages=stages, layers=layers, dim=dim)
        most = stages * (2**layers - 1)
        if not 0 <= look_ahead <= most:
            raise ValueError(
                f"look_ahead is {look_ahead}; {stages} stages of {layers} layers see from 0 to {most} tokens ahead"
            )
        left, built = look_ahead, []
        for s in range(stages):
            aheads = []
            for i in range(layers):
                aheads.append(min(2**i, left))
                left -= aheads[-1]
            built.append(Stage(num_classes if s else feature_dim, dim, num_classes, aheads, dropout))
        super().__init__(built[0], built[1:], num_classes, feature_dim, smoothing_weight, smoothing_limit)
        self.dim, self.look_ahead = dim, look_ahead
        self.delay = look_ahead
        self.window = 1 + stages * 2 * (2**layers - 1)

    def forward(  # type: ignore[override]
        self,
        features: Tensor,
        start: Tensor | None = None,
        targets: Tensor | None = None,
        ignore: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> CausalOutput:
        """Return logits of every token (n = T), each for the token ``delay`` before it, and the answers of all stages.

        Args:
            features: (B, T, D).
            start: (B,) the first token of each video; those before it do not exist.
            targets: (B, T, K') multi-hot, of the tokens themselves; if given, ``losses`` is filled with the
                cross-entropy of all stages but the last one, and the smoothing loss.
            ignore: (B, T) bool, tokens that do not count in the losses.
            lengths: (B,) the number of tokens of each video, by name only; those after it do not exist.
        """
        lengths = self.check(features, lengths)
        num_tokens = features.shape[1]
        mask = inside(lengths, num_tokens)
        if start is not None:
            mask = mask & ~inside(start.to(lengths), num_tokens)
        stages = self.logits_of(features, mask)
        scores, last = stages[-1].softmax(-1), stages[-1]
        if self.delay:
            waiting = min(self.delay, num_tokens)
            exists = F.pad(mask[:, : num_tokens - waiting], (waiting, 0))
            late = F.pad(last[:, : num_tokens - waiting], (0, 0, waiting, 0))
            last = torch.where(exists[..., None], late, self._unknown(late))
        output = CausalOutput(logits=last, lengths=lengths, scores=scores, stages=stages)
        if targets is not None:
            output.losses = self._own_losses(output, targets, ignore)
        return output

    def _own_losses(self, output: CausalOutput, targets: Tensor, ignore: Tensor | None) -> dict[str, Tensor]:
        assert output.stages is not None
        # The last tokens of a window lack the later tokens that a stream waits for, unless their video ends inside it.
        lacks = torch.arange(targets.shape[1], device=targets.device) >= targets.shape[1] - self.delay
        ignore = lacks.expand(targets.shape[:2]) if ignore is None else ignore | lacks
        losses = self.losses(output, Truth(targets=targets, ignore=ignore))
        last = self.losses(
            OfflineOutput(lengths=output.lengths, stages=output.stages[-1:]), Truth(None, targets, ignore)
        )
        return {
            "earlier_stages": losses["cross_entropy"] - last["cross_entropy"],
            "smoothing": losses["smoothing"],
        }

    def _unknown(self, logits: Tensor) -> Tensor:
        """Return logits of the background, for a stream that has no answer yet, of the shape of ``logits`` (…, K')."""
        return torch.cat([torch.zeros_like(logits[..., :1]), torch.full_like(logits[..., 1:], UNKNOWN)], -1)

    def initial_state(self, batch_size: int = 1) -> State:
        weight = self.first.output.weight
        rings = [
            [weight.new_zeros(batch_size, self.dim, 2 * layer.dilation) for layer in stage.dilated_layers()]
            for stage in self._stages()
        ]
        count = torch.zeros(batch_size, dtype=torch.int64, device=weight.device)
        end = {"end": torch.full_like(count, NO_END)} if self.delay else {}
        return {"count": count, **end, "rings": rings}

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        OnlineNetwork.check(self, feature)
        x, late = feature[:, :, None], 0  # (B, D, 1) is of the token ``late`` before the newest
        rings = []
        logits = x
        for stage, pasts in zip(self._stages(), state["rings"], strict=True):
            x, after = stage.input(x) * self._exists(state, late, x), []
            for layer, past in zip(stage.dilated_layers(), pasts, strict=True):
                x, past = layer.step(x, past)
                late += layer.ahead
                x = x * self._exists(state, late, x)
                after.append(past)
            rings.append(after)
            logits = stage.output(x)
            x = logits.softmax(1) * self._exists(state, late, x)
        logits = logits.transpose(1, 2)  # (B, 1, K')
        if self.delay:
            logits = torch.where(self._exists(state, late, x) > 0, logits, self._unknown(logits))
        return OnlineOutput(logits), {**state, "count": state["count"] + 1, "rings": rings}

    def _stages(self) -> list[Stage]:
        return [stage for stage in (self.first, *self.refinements) if isinstance(stage, Stage)]

    @staticmethod
    def _exists(state: State, late: int, like: Tensor) -> Tensor:
        """Return 1 for streams that have a token ``late`` before the newest and 0 for others, (B, 1, 1) in its type."""
        exists = state["count"] >= late
        if "end" in state:
            exists = exists & (state["count"] - late < state["end"])
        return exists[:, None, None].to(like.dtype)


# ---------------------------------------------------------------------------------------------- sizes


@builder
def ms_tcn(
    num_classes: int,
    feature_dim: int = 2048,
    dim: int = 64,
    stages: int = 4,
    layers: int = 10,
    dropout: float = 0.5,
    smoothing_weight: float = 0.15,
    smoothing_limit: float = 4.0,
    published_padding: bool = False,
    causal: bool = False,
    look_ahead: int = 0,
) -> MSTCN:
    """MS-TCN as published, 0.8 million parameters; a stage sees 2047 tokens.

    Args:
        num_classes: number of outputs, the background first.
        feature_dim: size D of a token's features.
        dim: width of a token between the layers.
        stages: number of stages.
        layers: layers of a stage; layer i reads tokens that are 2^i apart.
        dropout: dropout rate on the branches of the layers.
        smoothing_weight: weight of the smoothing loss.
        smoothing_limit: largest change of a log-probability that it counts.
        published_padding: keep the published rule, by which padding changes the answers; for published weights.
        causal: build ``causal_ms_tcn`` of these sizes instead, which is an online detector too.
        look_ahead: with ``causal``: later tokens that an answer may depend on.
    """
    if causal:
        if published_padding:
            raise ValueError("published_padding belongs to published weights, and there are none of the causal network")
        return CausalMSTCN(
            num_classes, feature_dim, dim, stages, layers, look_ahead, dropout, smoothing_weight, smoothing_limit
        )
    if look_ahead:
        raise ValueError(f"look_ahead is {look_ahead}, and MS-TCN sees all that comes later; set causal to True")
    refuse_sizes(stages=stages, layers=layers, dim=dim)
    aheads = [2**i for i in range(layers)]
    built = [Stage(num_classes if s else feature_dim, dim, num_classes, aheads, dropout) for s in range(stages)]
    padding = "unmasked input" if published_padding else ""
    return MSTCN(built[0], built[1:], num_classes, feature_dim, smoothing_weight, smoothing_limit, padding)


@builder
def causal_ms_tcn(
    num_classes: int,
    feature_dim: int = 2048,
    dim: int = 64,
    stages: int = 4,
    layers: int = 8,
    look_ahead: int = 0,
    dropout: float = 0.5,
    smoothing_weight: float = 0.15,
    smoothing_limit: float = 4.0,
) -> CausalMSTCN:
    """MS-TCN that answers while a stream runs (not in the paper), 0.6 million parameters; see ``CausalMSTCN``.

    Args:
        num_classes: number of outputs, the background first.
        feature_dim: size D of a token's features.
        dim: width of a token between the layers.
        stages: number of stages.
        layers: layers of a stage; layer i reads tokens that are 2^i apart, so a stage of 8 looks 510 tokens back.
        look_ahead: later tokens that an answer may depend on; answers come that many tokens late.
        dropout: dropout rate on the branches of the layers.
        smoothing_weight: weight of the smoothing loss.
        smoothing_limit: largest change of a log-probability that it counts.
    """
    return CausalMSTCN(
        num_classes, feature_dim, dim, stages, layers, look_ahead, dropout, smoothing_weight, smoothing_limit
    )


@builder
def ms_tcn_pp(
    num_classes: int,
    feature_dim: int = 2048,
    dim: int = 64,
    stages: int = 4,
    first_layers: int = 11,
    layers: int = 10,
    dropout: float = 0.5,
    smoothing_weight: float = 0.15,
    smoothing_limit: float = 4.0,
    published_padding: bool = False,
) -> MSTCN:
    """MS-TCN++ as published (Li et al. 2020, https://arxiv.org/abs/2006.09220), 1.0 million parameters.

    Args:
        num_classes: number of outputs, the background first.
        feature_dim: size D of a token's features.
        dim: width of a token between the layers.
        stages: number of stages, the first included.
        first_layers: layers of the first stage.
        layers: layers of each other stage.
        dropout: dropout rate on the branches of the layers.
        smoothing_weight: weight of the smoothing loss.
        smoothing_limit: largest change of a log-probability that it counts.
        published_padding: keep the published rule, by which padding changes the answers; for published weights.
    """
    refuse_sizes(stages=stages, first_layers=first_layers, layers=layers, dim=dim)
    first = DualStage(feature_dim, dim, num_classes, first_layers, dropout)
    aheads = [2**i for i in range(layers)]
    refinements = [Stage(num_classes, dim, num_classes, aheads, dropout) for _ in range(stages - 1)]
    padding = "unmasked" if published_padding else ""
    return MSTCN(first, refinements, num_classes, feature_dim, smoothing_weight, smoothing_limit, padding)


# ---------------------------------------------------------------------------------------------- published weights

_STAGE: Rules = [
    (r"conv_1x1(_in)?\.(weight|bias)$", r"conv_1x1.\2"),
    (r"layers\.(\d+)\.conv_1x1\.", r"layers.\1.mix."),
    (r"conv_1x1\.", "input."),
    (r"conv_dilated\.", "dilated."),
    (r"conv_out\.", "output."),
]
_RULES: Rules = [(r"^stages\.", "refinements."), (r"^stage1\.", "first."), *_STAGE]
_PP_RULES: Rules = [
    (r"^PG\.", "first."),
    (r"^Rs\.", "refinements."),
    (r"conv_dilated_1\.", "far."),
    (r"conv_dilated_2\.", "near."),
    (r"conv_fusion\.", "fuse."),
    *_STAGE,
]


@takes_arguments_of(ms_tcn, published_padding=True)
def from_ms_tcn(state_dict: Mapping[str, Any], **arguments: Any) -> MSTCN:
    """Build MS-TCN from its published names: ``stage1.conv_1x1.weight``, ``stages.0.layers.3.conv_dilated.weight``, …

    ``published_padding`` is the rule that the weights were trained with. The background need not be the first output of
    a published file.
    """
    network = ms_tcn(**arguments)
    load_strictly(network, state_dict, _RULES, source="the ms_tcn state dict")
    return network


@takes_arguments_of(ms_tcn_pp, published_padding=True)
def from_ms_tcn_pp(state_dict: Mapping[str, Any], **arguments: Any) -> MSTCN:
    """Build MS-TCN++ from its published names: ``PG.conv_1x1_in.weight``, ``Rs.0.layers.3.conv_dilated.weight``, …

    See ``from_ms_tcn``.
    """
    network = ms_tcn_pp(**arguments)
    load_strictly(network, state_dict, _PP_RULES, source="the ms_tcn_pp state dict")
    return network
