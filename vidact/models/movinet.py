"""MoViNet: mobile video networks (Kondratyuk et al. 2021, https://arxiv.org/abs/2103.11511).

Inverted residual blocks with depthwise 3-D kernels and gates, small enough for a laptop's CPU. The base networks see
the whole clip. In the stream networks each 3-D kernel is a 2-D kernel followed by a causal kernel over time, and each
mean over the clip is a mean over the frames so far, so they answer frame by frame.

Compatible with the weights of https://github.com/Atze00/MoViNet-pytorch (MIT), which come from TensorFlow's official
code. Different here: state is returned and never kept on the modules, so the streams of a batch may begin at different
times; it holds running means, where the port holds sums, which lose digits over days; pictures need not be square; a
block whose expanded width is its own width has no expansion.

Shapes: B videos, T frames, C channels, H x W pixels, N = B*T images, D features, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact import hub
from vidact.batch import ClipInput
from vidact.models.backbones import check_clip, check_weight_path
from vidact.models.weights import Rules, builder, load_strictly, read

NORM_EPS = 0.001

# {"past": list of (B, C, t - 1, h, w), "means": list of (B, C), "frames": (B, 1)}
State = dict[str, Any]


# ---------------------------------------------------------------------------------------------- convolutions


def pad_same(maps: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> tuple[Tensor, tuple[int, int]]:
    """Pad height and width as TensorFlow's "same" does: the result has ceil(side / stride) places.

    Where an axis needs more zeros after it than before, the zeros are added to the maps.

    Args:
        maps: (…, H, W).
        kernel: the kernel's sizes; the last two are of height and width.
        stride: its strides, likewise.

    Returns:
        The maps, and the number of zeros (height, width) that the convolution must still add on both sides.
    """
    totals = []
    for size, side, step in zip(maps.shape[-2:], kernel[-2:], stride[-2:], strict=True):
        totals.append(max(side - (step if size % step == 0 else size % step), 0))
    high, wide = totals
    if high % 2 == wide % 2 == 0:
        return maps, (high // 2, wide // 2)
    return F.pad(maps, (wide // 2, wide - wide // 2, high // 2, high - high // 2)), (0, 0)


class SameConv2d(nn.Conv2d):
    """A 2-D convolution without bias, padded as TensorFlow's "same"."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int], stride: int, groups: int) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        maps, padding = pad_same(maps, self.kernel_size, self.stride)
        return F.conv2d(maps, self.weight, None, self.stride, padding, groups=self.groups)


class SameConv3d(nn.Conv3d):
    """A 3-D convolution without bias: "same" in space, and zeros on both sides in time."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int, int], stride: int, groups: int) -> None:
        super().__init__(channels, out, kernel, (1, stride, stride), groups=groups, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        maps, padding = pad_same(maps, self.kernel_size, self.stride)
        before = (self.kernel_size[0] - 1) // 2
        return F.conv3d(maps, self.weight, None, self.stride, (before, *padding), groups=self.groups)


class Layer(nn.Module):
    """A 3-D convolution, its norm and its activation: maps (B, C, T, H, W) → (B, C', T, H', W')."""

    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int, int], stride: int, groups: int, active: bool
    ) -> None:
        super().__init__()
        self.conv = SameConv3d(channels, out, kernel, stride, groups)
        self.norm = nn.BatchNorm3d(out, eps=NORM_EPS)
        self.act = nn.SiLU() if active else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(maps)))


class CausalLayer(nn.Module):
    """A 2-D convolution, then a depthwise one over this frame and earlier ones; each with its norm and activation.

    The second exists where the kernel is longer than one frame.
    """

    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int, int], stride: int, groups: int, active: bool
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(channels, out, kernel[1:], stride, groups)
        self.norm = nn.BatchNorm2d(out, eps=NORM_EPS)
        self.act = nn.Hardswish() if active else nn.Identity()
        self.remembers = kernel[0] - 1  # frames
        if self.remembers:
            self.time = nn.Conv2d(out, out, (kernel[0], 1), groups=out, bias=False)
            self.time_norm = nn.BatchNorm2d(out, eps=NORM_EPS)

    def forward(self, images: Tensor, frames: int, past: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return maps (N, C', H', W') of images (N, C, H, W), and ``past`` for the next frames.

        Args:
            images: frames of B clips, N = B*T.
            frames: number of frames T in a clip.
            past: (B, C', t - 1, H', W'), the inputs of the convolution over time from the frames before the clip.
        """
        images = self.act(self.norm(self.conv(images)))
        if not self.remembers:
            return images, None
        assert past is not None
        clip = images.unflatten(0, (past.shape[0], frames)).transpose(1, 2)  # (B, C', T, H', W')
        if past.shape[3:] != clip.shape[3:]:
            raise ValueError(
                f"the state holds maps of {tuple(past.shape[3:])} places where these frames have "
                f"{tuple(clip.shape[3:])}; call initial_state with the batch size and the image size of the frames"
            )
        joined = torch.cat([past.to(clip.dtype), clip], dim=2)  # (B, C', t - 1 + T, H', W')
        maps = self.act(self.time_norm(self.time(joined.flatten(3))))  # (B, C', T, H' * W')
        maps = maps.transpose(1, 2).flatten(0, 1).unflatten(2, clip.shape[3:])  # (N, C', H', W')
        return maps, joined[:, :, frames:]


def pool(maps: Tensor) -> Tensor:
    """Halve height and width: each output is the mean of the places of its 3x3 that lie inside the picture.

    The windows begin one place before an axis of odd size, and at the first place of an axis of even size.

    Args:
        maps: (N, C, H, W) or (B, C, T, H, W).
    """
    odd = (maps.shape[-2] % 2, maps.shape[-1] % 2)
    # PyTorch's avg_pool3d refuses the windows of a picture of two places that avg_pool2d accepts.
    images = maps.flatten(1, -3)  # (N, C, H, W) or (B, C*T, H, W)
    return F.avg_pool2d(images, 3, 2, odd, ceil_mode=True, count_include_pad=False).unflatten(1, maps.shape[1:-2])


# ---------------------------------------------------------------------------------------------- blocks


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round half up to a multiple of ``divisor``, at least one of it, and one more if the result is below 0.9 v."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def running_mean(values: Tensor, mean: Tensor, frames: Tensor) -> Tensor:
    """Return the mean of all frames so far at each frame (B, T, C).

    Args:
        values: of the frames of a clip (B, T, C).
        mean: (B, C), the mean of the frames before the clip.
        frames: (B, 1), the number of frames before the clip, which ``mean`` stands for.
    """
    values, mean = values.to(mean.dtype), mean.unsqueeze(1)
    counts = frames.unsqueeze(2) + torch.arange(1, values.shape[1] + 1, device=values.device).view(1, -1, 1)
    return mean + (values - mean).cumsum(1) / counts


def hard_sigmoid(values: Tensor) -> Tensor:
    """TensorFlow's, which is steeper than PyTorch's x / 6 + 0.5."""
    return (0.2 * values + 0.5).clamp(0, 1)


class Gate(nn.Module):
    """A factor for each channel, from 0 to 1 (squeeze and excitation): vectors (N, C) → (N, C').

    In stream networks a vector is the mean over the frames so far and then that of the frame itself.
    """

    def __init__(self, channels: int, causal: bool) -> None:
        super().__init__()
        inputs, hidden = (2 * channels, channels // 4 * 2) if causal else (channels, channels // 4)
        self.fc1 = nn.Linear(inputs, make_divisible(hidden))
        self.fc2 = nn.Linear(make_divisible(hidden), channels)
        self.act = nn.Hardswish() if causal else nn.SiLU()
        self.is_causal = causal

    def forward(self, vectors: Tensor) -> Tensor:
        values = self.fc2(self.act(self.fc1(vectors)))
        return hard_sigmoid(values) if self.is_causal else values.sigmoid()


@dataclass(frozen=True)
class Shape:
    """The published numbers of one block.

    Args:
        channels: C of its input.
        out: C of its output.
        expanded: C of its depthwise convolution.
        kernel: of the depthwise convolution (time, height, width).
        stride: in space.
    """

    channels: int
    out: int
    expanded: int
    kernel: tuple[int, int, int]
    stride: int


class Block(nn.Module):
    """A residual block: ``residual(x) + alpha * project(gated(deep(expand(x))))``; it begins as its residual."""

    is_checkpoint_block = True

    def __init__(self, shape: Shape, layer: type[Layer] | type[CausalLayer]) -> None:
        super().__init__()
        out, expanded, point = shape.out, shape.expanded, (1, 1, 1)
        self.expand = layer(shape.channels, expanded, point, 1, 1, True) if expanded != shape.channels else None
        self.deep = layer(expanded, expanded, shape.kernel, shape.stride, expanded, True)
        self.gate = Gate(expanded, causal=layer is CausalLayer)
        self.project = layer(expanded, out, point, 1, 1, False)
        changes = shape.stride > 1 or out != shape.channels
        self.residual = layer(shape.channels, out, point, 1, 1, False) if changes else None
        self.alpha = nn.Parameter(torch.zeros(()))
        self.stride = shape.stride

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's output for maps (B, C, T, H, W)."""
        inner = self.deep(maps if self.expand is None else self.expand(maps))
        inner = inner * self.gate(inner.mean(dim=(2, 3, 4)))[:, :, None, None, None]
        skip = pool(maps) if self.stride > 1 else maps
        if self.residual is not None:
            skip = self.residual(skip)
        return skip + self.alpha * self.project(inner)


class CausalBlock(Block):
    """The block of stream networks, with its state."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, CausalLayer)

    def forward(  # type: ignore[override]
        self, images: Tensor, frames: int, past: Tensor | None, mean: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the block's output for images (N, C, H, W), and ``past`` and ``mean`` for the next frames.

        Args:
            images: frames of B clips, N = B*T.
            frames: number of frames T in a clip.
            past: see ``CausalLayer``.
            mean: (B, C), the mean of the gate's vectors of the frames before the clip.
            count: (B, 1), the number of frames before the clip.
        """
        inner = images if self.expand is None else self.expand(images, frames)[0]
        inner, past = self.deep(inner, frames, past)
        vectors = inner.mean(dim=(2, 3))  # (N, C)
        means = running_mean(vectors.unflatten(0, (mean.shape[0], frames)), mean, count)  # (B, T, C)
        gate = self.gate(torch.cat([means.flatten(0, 1).to(vectors.dtype), vectors], dim=1))
        inner = inner * gate[:, :, None, None]
        skip = pool(images) if self.stride > 1 else images
        if self.residual is not None:
            skip, _ = self.residual(skip, frames)
        return skip + self.alpha * self.project(inner, frames)[0], past, means[:, -1]


# ---------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class _Size:
    """The published numbers of a network.

    Args:
        stem: channels of the first convolution.
        stages: the blocks of each stage, as ``out/expanded/time x height x width``, and ``/s2`` for a stride of 2.
        last: channels of the last convolution.
        side: of the pictures, in pixels.
        fps: frames a second that the published weights saw.
        hidden: channels D before the classifier.
    """

    stem: int
    stages: tuple[str, ...]
    last: int
    side: int
    fps: float
    hidden: int = 2048

    def blocks(self) -> list[list[Shape]]:
        """Return the blocks of each stage."""
        channels, stages = self.stem, []
        for stage in self.stages:
            blocks = []
            for text in stage.split():
                out, expanded, *kernel, stride = (
                    int(n) for n in re.findall(r"\d+", text if "s" in text else text + "/s1")
                )
                blocks.append(Shape(channels, out, expanded, (kernel[0], kernel[1], kernel[2]), stride))
                channels = out
            stages.append(blocks)
        return stages


class _Head(nn.Module):
    """What both kinds of network have after their last convolution."""

    def __init__(self, size: _Size, num_classes: int, side: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(size.last, size.hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(size.hidden, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        self.num_classes = num_classes
        self.dim = size.hidden
        self.input = ClipInput(size=side, mean=(0.0,), std=(1.0,), fps=size.fps)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, T, C, H, W)."""
        return self.fc(self.dropout(self.features(clip))).float()

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per clip (B, D): the input of the classifier."""
        raise NotImplementedError


class MoViNet(_Head):
    """A base network: 3-D convolutions and means over the whole clip.

    Args:
        size: the published numbers.
        num_classes: number of classes K.
        side: of the pictures, in pixels; any side works.
        dropout: dropout rate before the classifier.
    """

    def __init__(self, size: _Size, num_classes: int, side: int, dropout: float) -> None:
        super().__init__(size, num_classes, side, dropout)
        stages = size.blocks()
        self.conv1 = Layer(3, size.stem, (1, 3, 3), 2, 1, True)
        self.blocks = nn.ModuleList(nn.ModuleList(Block(shape, Layer) for shape in stage) for stage in stages)
        self.conv7 = Layer(stages[-1][-1].out, size.last, (1, 1, 1), 1, 1, True)

    def features(self, clip: Tensor) -> Tensor:
        return F.silu(self.hidden(self.tokens(clip).mean(dim=1)))

    def tokens(self, clip: Tensor) -> Tensor:
        """Return the places of the last feature map of each clip (B, T * H' * W', C'), those of the first frame first.

        C' is less than D: the vectors have a layer more.
        """
        check_clip(clip, self.input)
        maps = self.conv1(clip.transpose(1, 2))  # (B, C, T, H, W)
        for stage in self.blocks:
            for block in stage:  # type: ignore[attr-defined]
                maps = block(maps)
        return self.conv7(maps).flatten(2).mT


class CausalMoViNet(_Head):
    """A stream network, which answers frame by frame; arguments as in ``MoViNet``.

    ``step`` returns the state. A loss on steps has gradients through it to the earlier frames; detach the state to end
    them.
    """

    is_causal = True

    def __init__(self, size: _Size, num_classes: int, side: int, dropout: float) -> None:
        super().__init__(size, num_classes, side, dropout)
        stages = size.blocks()
        self.conv1 = CausalLayer(3, size.stem, (1, 3, 3), 2, 1, True)
        self.blocks = nn.ModuleList(nn.ModuleList(CausalBlock(shape) for shape in stage) for stage in stages)
        self.conv7 = CausalLayer(stages[-1][-1].out, size.last, (1, 1, 1), 1, 1, True)
        self._shapes = [shape for stage in stages for shape in stage]

    def features(self, clip: Tensor) -> Tensor:
        check_clip(clip, self.input)
        means, _ = self._run(clip, self.initial_state(clip.shape[0], (clip.shape[3], clip.shape[4])))
        return self._hidden(means[:, -1])

    def frame_features(self, clip: Tensor) -> Tensor:
        """Return the vectors of the clip up to each frame (B, T, D)."""
        check_clip(clip, self.input)
        means, _ = self._run(clip, self.initial_state(clip.shape[0], (clip.shape[3], clip.shape[4])))
        return self._hidden(means)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """Return the logits of the clip up to each frame (B, T, K)."""
        return self.fc(self.dropout(self.frame_features(clip))).float()

    def initial_state(self, batch_size: int, size: int | tuple[int, int] | None = None) -> State:
        """Return the state before the first frame: all zeros.

        Row b of every tensor belongs to stream b: set the row to zero to start that stream again, concatenate rows to
        process streams together. ``past`` has the newest inputs of each convolution over time; ``means`` has the means
        so far of each gate's vectors, and last of the head's; ``frames`` is how many frames the means are of.

        The means never forget: after hours an answer hardly changes. Where ``frames`` is limited to F - 1 before each
        step, the means fade: they are the published ones for F frames, and a newer frame then counts 1 / F. That
        departs from the published rule; ``vidact.stream`` does so.

        Args:
            size: side of the frames in pixels, or (height, width); None is ``input.size``.
        """
        side = self.input.size if size is None else size
        height, width = (side, side) if isinstance(side, int) else side
        weight = self.fc.weight
        height, width = -(-height // 2), -(-width // 2)  # "same" padding with a stride rounds up
        past, means = [], []
        for shape in self._shapes:
            height, width = -(-height // shape.stride), -(-width // shape.stride)
            if (remembers := shape.kernel[0] - 1) > 0:
                past.append(weight.new_zeros(batch_size, shape.expanded, remembers, height, width))
            means.append(self._zeros(batch_size, shape.expanded))
        means.append(self._zeros(batch_size, self.hidden.in_features))
        return {"past": past, "means": means, "frames": self._zeros(batch_size, 1)}

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Return logits (B, K) of the whole stream up to this frame (B, C, H, W), and the next state."""
        vectors, after = self.step_features(frame, state)
        return self.fc(self.dropout(vectors)).float(), after

    def step_features(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the vectors (B, D) of the whole stream up to this frame (B, C, H, W), and the next state."""
        check_clip(frame.unsqueeze(1), self.input)
        means, after = self._run(frame.unsqueeze(1), state)
        # The newest inputs are slices of larger tensors, which the state would keep in memory without a copy.
        after["past"] = [maps.clone() for maps in after["past"]]
        return self._hidden(means[:, -1]), after

    def _run(self, clip: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the running means of the last maps (B, T, C) of a clip (B, T, C, H, W), and the state after it."""
        frames, count = clip.shape[1], state["frames"]
        if count.shape[0] != clip.shape[0]:
            raise ValueError(
                f"the state is of {count.shape[0]} streams and there are frames of {clip.shape[0]}; call initial_state "
                "with the batch size and the image size of the frames"
            )
        past, means = iter(state["past"]), iter(state["means"])
        images, _ = self.conv1(clip.flatten(0, 1), frames)
        after: State = {"past": [], "means": [], "frames": count + frames}
        for stage in self.blocks:
            for block in stage:  # type: ignore[attr-defined]
                before = next(past) if block.deep.remembers else None
                images, newest, mean = block(images, frames, before, next(means), count)
                if newest is not None:
                    after["past"].append(newest)
                after["means"].append(mean)
        vectors = self.conv7(images, frames)[0].mean(dim=(2, 3)).unflatten(0, clip.shape[:2])
        running = running_mean(vectors, next(means), count)
        after["means"].append(running[:, -1])
        return running, after

    def _hidden(self, means: Tensor) -> Tensor:
        return F.silu(self.hidden(means.to(self.hidden.weight.dtype)))

    def _zeros(self, *shape: int) -> Tensor:
        """Return zeros of the weights' type, at least in single precision: half would round means over many frames."""
        weight = self.fc.weight
        return weight.new_zeros(shape, dtype=torch.promote_types(weight.dtype, torch.float32))


# ---------------------------------------------------------------------------------------------- sizes

CLASSIFIER = re.compile(r"(^|\.)classifier\.3\.conv_1\.conv[23]d\.weight$")
Kind = TypeVar("Kind", MoViNet, CausalMoViNet)

SIZES = {
    "a0": _Size(
        8,
        (
            "8/24/1x5x5/s2",
            "32/80/3x3x3/s2 32/80/3x3x3 32/80/3x3x3",
            "56/184/5x3x3/s2 56/112/3x3x3 56/184/3x3x3",
            "56/184/5x3x3 56/184/3x3x3 56/184/3x3x3 56/184/3x3x3",
            "104/384/5x3x3/s2 104/280/1x5x5 104/280/1x5x5 104/344/1x5x5",
        ),
        480,
        172,
        5,
    ),
    "a1": _Size(
        16,
        (
            "16/40/1x5x5/s2 16/40/3x3x3",
            "40/96/3x3x3/s2 40/120/3x3x3 40/96/3x3x3 40/96/3x3x3",
            "64/216/5x3x3/s2 64/128/3x3x3 64/216/3x3x3 64/168/3x3x3 64/216/3x3x3",
            "64/216/5x3x3 64/216/3x3x3 64/216/3x3x3 64/128/3x3x3 64/128/1x5x5 64/216/3x3x3",
            "136/456/5x3x3/s2 136/360/1x5x5 136/360/1x5x5 136/360/1x5x5 136/456/1x5x5 136/456/3x3x3 136/544/1x3x3",
        ),
        600,
        172,
        5,
    ),
    "a2": _Size(
        16,
        (
            "16/40/1x5x5/s2 16/40/3x3x3 16/64/3x3x3",
            "40/96/3x3x3/s2 40/120/3x3x3 40/96/3x3x3 40/96/3x3x3 40/120/3x3x3",
            "72/240/5x3x3/s2 72/160/3x3x3 72/240/3x3x3 72/192/3x3x3 72/240/3x3x3",
            "72/240/5x3x3 72/240/3x3x3 72/240/3x3x3 72/240/3x3x3 72/144/1x5x5 72/240/3x3x3",
            "144/480/5x3x3/s2 144/384/1x5x5 144/384/1x5x5 144/480/1x5x5 144/480/1x5x5 144/480/3x3x3 144/576/1x3x3",
        ),
        640,
        224,
        5,
    ),
    "a3": _Size(
        16,
        (
            "16/40/1x5x5/s2 16/40/3x3x3 16/64/3x3x3 16/40/3x3x3",
            "48/112/3x3x3/s2 48/144/3x3x3 48/112/3x3x3 48/112/1x5x5 48/144/3x3x3 48/144/3x3x3",
            "80/240/5x3x3/s2 80/152/3x3x3 80/240/3x3x3 80/192/3x3x3 80/240/3x3x3",
            "88/264/5x3x3 88/264/3x3x3 88/264/3x3x3 88/264/3x3x3 88/160/1x5x5 88/264/3x3x3 88/264/3x3x3 88/264/3x3x3",
            "168/560/5x3x3/s2 168/448/1x5x5 168/448/1x5x5 168/560/1x5x5 168/560/1x5x5 168/560/3x3x3 168/448/1x5x5"
            " 168/448/1x5x5 168/560/3x3x3 168/672/1x3x3",
        ),
        744,
        256,
        12,
    ),
    "a4": _Size(
        24,
        (
            "24/64/1x5x5/s2 24/64/3x3x3 24/96/3x3x3 24/64/3x3x3 24/96/3x3x3 24/64/3x3x3",
            "56/168/3x3x3/s2 56/168/3x3x3 56/136/3x3x3 56/136/3x3x3 56/168/3x3x3 56/168/3x3x3 56/168/3x3x3"
            " 56/136/1x5x5 56/136/3x3x3",
            "96/320/5x3x3/s2 96/160/3x3x3 96/320/3x3x3 96/192/3x3x3 96/320/3x3x3 96/160/3x3x3 96/320/3x3x3"
            " 96/256/3x3x3 96/320/3x3x3",
            "96/320/5x3x3 96/320/3x3x3 96/320/3x3x3 96/320/3x3x3 96/192/1x5x5 96/320/3x3x3 96/320/3x3x3"
            " 96/192/3x3x3 96/320/3x3x3 96/320/3x3x3",
            "192/640/5x3x3/s2 192/512/1x5x5 192/512/1x5x5 192/640/1x5x5 192/640/1x5x5 192/640/3x3x3 192/512/1x5x5"
            " 192/512/1x5x5 192/640/1x5x5 192/768/1x5x5 192/640/1x5x5 192/640/3x3x3 192/768/3x3x3",
        ),
        856,
        290,
        8,
    ),
    "a5": _Size(
        24,
        (
            "24/64/1x5x5/s2 24/64/1x5x5 24/96/3x3x3 24/64/3x3x3 24/96/3x3x3 24/64/3x3x3",
            "64/192/5x3x3/s2 64/152/3x3x3 64/152/3x3x3 64/152/3x3x3 64/192/3x3x3 64/192/3x3x3 64/192/3x3x3"
            " 64/152/3x3x3 64/152/3x3x3 64/192/3x3x3 64/192/3x3x3",
            "112/376/5x3x3/s2 112/224/3x3x3 112/376/3x3x3 112/376/3x3x3 112/296/3x3x3 112/376/3x3x3 112/224/3x3x3"
            " 112/376/3x3x3 112/376/3x3x3 112/296/3x3x3 112/376/3x3x3 112/376/3x3x3 112/376/3x3x3",
            "120/376/5x3x3 120/376/3x3x3 120/376/3x3x3 120/376/3x3x3 120/224/1x5x5 120/376/3x3x3 120/376/3x3x3"
            " 120/224/3x3x3 120/376/3x3x3 120/376/3x3x3 120/376/3x3x3",
            "224/744/5x3x3/s2 224/744/3x3x3 224/600/1x5x5 224/600/1x5x5 224/744/1x5x5 224/744/1x5x5 224/744/3x3x3"
            " 224/896/1x5x5 224/600/1x5x5 224/600/1x5x5 224/896/1x5x5 224/744/1x5x5 224/744/3x3x3 224/896/1x5x5"
            " 224/600/1x5x5 224/600/1x5x5 224/744/1x5x5 224/744/3x3x3",
        ),
        992,
        320,
        12,
    ),
    # From no paper: what the published sizes have, and a block whose expanded width is its own width.
    "tiny": _Size(8, ("8/16/1x3x3/s2 8/8/3x3x3", "16/24/5x3x3/s2", "24/32/3x3x3 24/32/1x5x5"), 32, 64, 5, 32),
}


def _build(kind: type[Kind], name: str, num_classes: int, weights: str | None, side: int, dropout: float) -> Kind:
    network = kind(SIZES[name], num_classes, side, dropout)
    if weights is not None:
        published = hub.PUBLISHED.get(f"movinet_{name}_{'stream' if kind is CausalMoViNet else 'base'}")
        if weights == "kinetics600" and published is not None:
            weights = str(hub.fetch(published))
        check_weight_path(weights, [] if published is None else ["kinetics600"])
        tensors = _flat(read(weights)[0])
        last = next((value for key, value in tensors.items() if CLASSIFIER.search(key)), None)
        others: Rules = [] if last is not None and len(last) == num_classes else [(r"^fc\.", None)]
        load_strictly(network, tensors, [*_RULES, *others], optional=r"^fc\.", source=weights)
    return network


@builder
def movinet_a0_base(num_classes: int, weights: str | None = None, size: int = 172, dropout: float = 0.2) -> MoViNet:
    """MoViNet-A0, base: 50 frames of 10 s, at 5 a second; 72.3 top-1 published on Kinetics-600.

    Args:
        num_classes: number of classes K.
        weights: "kinetics600", a local file with the published names, or None. The classifier of a file is taken where
            it has K classes.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return _build(MoViNet, "a0", num_classes, weights, size, dropout)


@builder
def movinet_a1_base(num_classes: int, weights: str | None = None, size: int = 172, dropout: float = 0.2) -> MoViNet:
    """MoViNet-A1, base: 50 frames of 10 s; 76.7 top-1; arguments as in ``movinet_a0_base``."""
    return _build(MoViNet, "a1", num_classes, weights, size, dropout)


@builder
def movinet_a2_base(num_classes: int, weights: str | None = None, size: int = 224, dropout: float = 0.2) -> MoViNet:
    """MoViNet-A2, base: 50 frames of 10 s; 78.6 top-1; arguments as in ``movinet_a0_base``."""
    return _build(MoViNet, "a2", num_classes, weights, size, dropout)


@builder
def movinet_a3_base(num_classes: int, weights: str | None = None, size: int = 256, dropout: float = 0.2) -> MoViNet:
    """MoViNet-A3, base: 120 frames of 10 s, at 12 a second; 81.8 top-1; arguments as in ``movinet_a0_base``."""
    return _build(MoViNet, "a3", num_classes, weights, size, dropout)


@builder
def movinet_a4_base(num_classes: int, weights: str | None = None, size: int = 290, dropout: float = 0.2) -> MoViNet:
    """MoViNet-A4, base: 80 frames of 10 s, at 8 a second; 83.5 top-1; arguments as in ``movinet_a0_base``."""
    return _build(MoViNet, "a4", num_classes, weights, size, dropout)


@builder
def movinet_a5_base(num_classes: int, weights: str | None = None, size: int = 320, dropout: float = 0.2) -> MoViNet:
    """MoViNet-A5, base: 120 frames of 10 s, at 12 a second; 84.3 top-1; arguments as in ``movinet_a0_base``."""
    return _build(MoViNet, "a5", num_classes, weights, size, dropout)


@builder
def movinet_a0_stream(
    num_classes: int, weights: str | None = None, size: int = 172, dropout: float = 0.2
) -> CausalMoViNet:
    """MoViNet-A0, stream: 5 frames a second; 72.1 top-1; arguments as in ``movinet_a0_base``."""
    return _build(CausalMoViNet, "a0", num_classes, weights, size, dropout)


@builder
def movinet_a1_stream(
    num_classes: int, weights: str | None = None, size: int = 172, dropout: float = 0.2
) -> CausalMoViNet:
    """MoViNet-A1, stream: 5 frames a second; 76.5 top-1; arguments as in ``movinet_a0_base``."""
    return _build(CausalMoViNet, "a1", num_classes, weights, size, dropout)


@builder
def movinet_a2_stream(
    num_classes: int, weights: str | None = None, size: int = 224, dropout: float = 0.2
) -> CausalMoViNet:
    """MoViNet-A2, stream: 5 frames a second; 78.4 top-1; arguments as in ``movinet_a0_base``."""
    return _build(CausalMoViNet, "a2", num_classes, weights, size, dropout)


@builder
def movinet_tiny_base(num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0) -> MoViNet:
    """A MoViNet of five blocks for tests and CPU demos; no published weights exist."""
    return _build(MoViNet, "tiny", num_classes, weights, size, dropout)


@builder
def movinet_tiny_stream(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0
) -> CausalMoViNet:
    """A stream MoViNet of five blocks for tests and CPU demos; no published weights exist."""
    return _build(CausalMoViNet, "tiny", num_classes, weights, size, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_RULES: Rules = [
    (r"\.conv_1\.conv[23]d\.", ".conv_1.conv."),
    (r"^classifier\.0\.conv_1\.conv\.", "hidden."),
    (r"^classifier\.3\.conv_1\.conv\.", "fc."),
    (r"\.se\.(fc[12])\.conv_1\.conv\.", r".gate.\1."),
    (r"^blocks\.b(\d+)_l(\d+)\.", r"blocks.\1.\2."),
    (r"\.res\.[01]\.", ".residual."),
    (r"\.conv_1\.", "."),
    (r"\.conv_2\.conv2d\.", ".time."),
    (r"\.conv_2\.norm\.", ".time_norm."),
]

_SIZES = {
    "a0_base": movinet_a0_base,
    "a1_base": movinet_a1_base,
    "a2_base": movinet_a2_base,
    "a3_base": movinet_a3_base,
    "a4_base": movinet_a4_base,
    "a5_base": movinet_a5_base,
    "a0_stream": movinet_a0_stream,
    "a1_stream": movinet_a1_stream,
    "a2_stream": movinet_a2_stream,
}


def _flat(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors with the 1x1x1 convolutions of vectors (N, C) as the matrices of linear layers."""
    vectors = re.compile(r"(\.se\.fc\d|(^|\.)classifier\.\d)\.conv_1\.conv[23]d\.weight$")
    tensors = {key: torch.as_tensor(value) for key, value in state_dict.items()}
    return {
        key: value.flatten(1) if value.ndim > 2 and vectors.search(key) else value for key, value in tensors.items()
    }


def from_movinet(state_dict: Mapping[str, Any], num_classes: int, size: str, stream: bool) -> MoViNet | CausalMoViNet:
    """Build MoViNet from MoViNet-pytorch's names: ``blocks.b0_l0.expand.conv_1.conv3d.weight``, …

    Args:
        state_dict: the published tensors.
        num_classes: number of classes K.
        size: "a0" to "a5".
        stream: whether the tensors are those of a stream network (A0 to A2).
    """
    name = f"{size}_{'stream' if stream else 'base'}"
    if name not in _SIZES:
        raise ValueError(f"size {size!r} with stream {stream} is no published MoViNet; there are {', '.join(_SIZES)}")
    network: Any = _SIZES[name](num_classes)
    load_strictly(network, _flat(state_dict), _RULES, source="the movinet state dict")
    return network
