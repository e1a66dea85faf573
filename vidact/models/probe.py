"""Probes: a small head on the features of a frozen network, for folders with few clips.

The trunk is any network with features. A clip network gives one vector a clip. The vectors of an image network are
pooled over time: their mean, their standard deviation and the mean absolute difference of neighbouring frames, one
after the other, so that motion is among the features. An image network reads one or two views of a clip: its frames,
and its moments, pictures whose three colours are the grey levels of three successive frames. What stands still is grey
there and what moves has coloured edges, which a network that was trained on photographs tells apart. A probe may use
both views, or one of them, with all three statistics or the mean alone.

The features are standardised with the training clips' mean and standard deviation, and one of three heads scores them:
multinomial logistic regression, the nearest training clips, or the nearest class mean. The last two compare by cosine,
with the temperature of Wu et al. 2018 (https://arxiv.org/abs/1805.01978), so that their softmax is a vote.
``vidact.tasks.probe`` fits the heads.

A probe on an image network also steps frame by frame (``FrameProbe``). Its state holds the vectors of the newest
frames, so each frame is encoded once, and the answer is that of a clip of these frames. So does a probe on a clip
network that steps (``CausalProbe``).

Shapes: B clips or streams, T frames, W frames that a stream remembers, C channels, H x W pixels, D features,
N training clips, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidact.batch import ClipInput
from vidact.models.backbones import Backbone, check_clip
from vidact.models.clip_network import SteppingVectorNetwork, VectorNetwork, is_bidirectional
from vidact.models.weights import build_from_recipe, builder, input_of

VIEWS = ("frames", "moments")  # what an image network can read of a clip, in the order of the features
MEAN_OF = {f"{view}_mean": view for view in VIEWS}  # views of which the mean over time is used alone
GREY = (0.299, 0.587, 0.114)  # the shares of red, green and blue in a grey level (ITU-R BT.601)
TEMPERATURE = 0.07  # the divisor of cosines before the softmax
LEAST_VOTE = 1e-6  # the share of the votes of a class without a vote, whose logarithm would be infinite


def pooled(frames: Tensor, count: Tensor | None = None) -> Tensor:
    """Return mean, standard deviation and mean absolute difference of neighbours of frames (B, T, D): (B, 3 D).

    The standard deviation divides by T, so it is 0 for one frame; the differences of one frame are 0 as well.

    Args:
        frames: vectors of frames (B, T, D).
        count: only the last so many frames of each clip are used, (B,), at least 1; None uses all T.
    """
    num_frames = frames.shape[1]
    if count is None:
        count = frames.new_full((frames.shape[0],), num_frames)
    age = torch.arange(num_frames - 1, -1, -1, device=frames.device)  # the newest frame has the age 0
    is_used = (age < count[:, None])[:, :, None].to(frames.dtype)  # (B, T, 1)
    share = is_used / count[:, None, None]
    mean = (frames * share).sum(dim=1)
    deviation = ((frames - mean[:, None]).square() * share).sum(dim=1).sqrt()
    if num_frames == 1:
        return torch.cat([mean, deviation, torch.zeros_like(mean)], dim=1)
    steps = (frames[:, 1:] - frames[:, :-1]).abs() * is_used[:, :-1]  # from a used frame to the next
    motion = steps.sum(dim=1) / (count - 1).clamp(min=1)[:, None]
    return torch.cat([mean, deviation, motion], dim=1)


def refuse_without_features(network: nn.Module) -> None:
    """Raise ValueError for a network that gives no vectors of images or clips, and for a probe."""
    name = type(network).__name__
    if isinstance(network, Probe):
        raise ValueError(f"{name} is itself a head on a frozen network; give the network that it was made of")
    if input_of(network) is None or not isinstance(network, Backbone | VectorNetwork):
        raise ValueError(
            f"{name} gives no features of images or clips, so no head can be fitted to them; use an image network, "
            "such as mobilenet_v2, or a clip network with one vector a clip, such as TSN, TSM or X3D"
        )


def views_of(trunk: Any) -> tuple[str, ...]:
    """Return the views that a trunk can read: those of ``VIEWS``, "frames" for other inputs than RGB, or none."""
    if not isinstance(trunk, Backbone):
        return ()
    return VIEWS if trunk.input.channels == trunk.input.rgb_channels == 3 else VIEWS[:1]


def grey(images: Tensor, expected: ClipInput) -> Tensor:
    """Return the grey levels (…, H, W) of normalised images (…, 3, H, W), in the units of the mean of ``expected``."""
    shares = images.new_tensor(GREY if expected.order == "rgb" else GREY[::-1])
    mean, std = images.new_tensor(expected.mean), images.new_tensor(expected.std)
    # shares * (image * std + mean), summed over the colours
    return torch.einsum("...chw,c->...hw", images, shares * std) + (shares * mean).sum()


def coloured(levels: Tensor, expected: ClipInput) -> Tensor:
    """Return grey levels (…, 3, H, W) of three moments as the colours of a normalised image, the oldest first."""
    mean, std = (levels.new_tensor(values).view(3, 1, 1) for values in (expected.mean, expected.std))
    return (levels - mean) / std


def moments(clip: Tensor, expected: ClipInput) -> Tensor:
    """Return the moments (B, T', 3, H, W) of normalised clips (B, T, 3, H, W): of frames t - 2, t - 1 and t.

    T' is T - 2; of a clip of one or two frames it is 1, and the first frame stands for those before it.
    """
    levels = grey(clip, expected)  # (B, T, H, W)
    if levels.shape[1] < 3:
        levels = torch.cat([levels[:, :1]] * (3 - levels.shape[1]) + [levels], dim=1)
    return coloured(torch.stack([levels[:, :-2], levels[:, 1:-1], levels[:, 2:]], dim=2), expected)


def features_of(trunk: Any, clip: Tensor, views: Sequence[str] | None = None) -> Tensor:
    """Return the features (B, D) of clips (B, T, C, H, W), by an image network or a clip network.

    Args:
        trunk: the network.
        clip: the clips.
        views: what an image network reads: some of ``views_of(trunk)``, or one name of ``MEAN_OF``; None is all views.
    """
    if not isinstance(trunk, Backbone):
        return trunk.features(clip)
    check_clip(clip, trunk.input)
    parts = []
    for name in views_of(trunk) if views is None else views:
        images = clip if MEAN_OF.get(name, name) == "frames" else moments(clip, trunk.input)
        part = pooled(trunk(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
        parts.append(part[:, : trunk.dim] if name in MEAN_OF else part)
    return torch.cat(parts, dim=1)


def num_features(trunk: Any, views: Sequence[str] | None = None) -> int:
    """Return the number of features D that ``features_of`` returns."""
    if not isinstance(trunk, Backbone):
        return int(trunk.dim)
    return sum(trunk.dim * (1 if name in MEAN_OF else 3) for name in (views_of(trunk) if views is None else views))


class Neighbours(nn.Module):
    """Logits by the ``neighbours`` training clips with the largest cosine; each votes with its softmax weight.

    Args:
        examples: number of training clips N.
        dim: size D of their features.
        num_classes: number of classes K.
        neighbours: clips that vote, 1 to N.
    """

    def __init__(self, examples: int, dim: int, num_classes: int, neighbours: int) -> None:
        super().__init__()
        if not 1 <= neighbours <= examples:
            raise ValueError(f"neighbours is {neighbours}; {examples} training clips allow 1 to {examples}")
        self.neighbours = neighbours
        self.memory: Tensor
        self.classes: Tensor
        self.register_buffer("memory", torch.zeros(examples, dim))  # of length 1 each
        self.register_buffer("classes", torch.zeros(examples, num_classes))  # 1 at the clip's class

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K), the logarithms of shares of the votes, of features (B, D)."""
        cosines = F.normalize(features, dim=1) @ self.memory.T  # (B, N)
        nearest, rows = cosines.topk(self.neighbours, dim=1)  # (B, neighbours)
        weights = (nearest / TEMPERATURE).softmax(dim=1)
        votes = (weights[:, :, None] * self.classes[rows]).sum(dim=1)  # (B, K)
        return (votes + LEAST_VOTE).log()


class Prototypes(nn.Module):
    """Logits by the cosine to the mean features of each class.

    Args:
        dim: size D of the features.
        num_classes: number of classes K.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.means: Tensor
        self.register_buffer("means", torch.zeros(num_classes, dim))  # of length 1 each

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, D)."""
        return F.normalize(features, dim=1) @ self.means.T / TEMPERATURE


class Head(nn.Module):
    """A standardisation of features, and the module that turns them into logits.

    Args:
        scores: features (B, D) → logits (B, K).
        dim: size D of the features.
    """

    def __init__(self, scores: nn.Module, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.scores = scores

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, D)."""
        return self.scores((features - self.mean) / self.scale)


def empty_head(name: str, dim: int, num_classes: int, examples: int, neighbours: int) -> Head:
    """Return a head without values.

    Args:
        name: "linear", "knn" or "prototype".
        dim: size D of the features.
        num_classes: number of classes K.
        examples: training clips that a head "knn" holds.
        neighbours: training clips that vote in a head "knn".
    """
    if name == "linear":
        return Head(nn.Linear(dim, num_classes), dim)
    if name == "knn":
        return Head(Neighbours(examples, dim, num_classes, neighbours), dim)
    if name == "prototype":
        return Head(Prototypes(dim, num_classes), dim)
    raise ValueError(f"there is no head {name!r}; the heads are linear, knn and prototype")


class Probe(nn.Module):
    """A clip network: a trunk, the pooling of its vectors over time, and a head.

    Args:
        trunk: an image network, or a clip network with ``features``.
        head: a head for as many features as ``features_of`` returns.
        num_classes: number of classes K.
        views: what an image network reads of a clip, in the order of ``VIEWS``; empty for a clip network.
    """

    def __init__(self, trunk: nn.Module, head: Head, num_classes: int, views: Sequence[str] = ()) -> None:
        super().__init__()
        clip_input = input_of(trunk)
        assert clip_input is not None  # the builder has refused networks without features
        self.trunk = trunk
        self.head = head
        self.num_classes = num_classes
        self.views = tuple(views)
        self.dim = num_features(trunk, self.views)
        self.input = clip_input

    def features(self, clip: Tensor) -> Tensor:
        """Return the vectors (B, D) of clips (B, T, C, H, W) before they are standardised."""
        return features_of(self.trunk, clip, self.views)

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of clips (B, T, C, H, W)."""
        return self.head(self.features(clip).float())


class SteppingProbe(Probe):
    """A probe that also steps frame by frame.

    Args:
        trunk: an image network, or a clip network that steps.
        head: a head for as many features as ``features_of`` returns.
        num_classes: number of classes K.
        views: what an image network reads of a clip, in the order of ``VIEWS``; empty for a clip network.
        window: the number W of newest frames that the answer of a step depends on; at least 3 for moments.
    """

    def __init__(self, trunk: nn.Module, head: Head, num_classes: int, views: Sequence[str], window: int) -> None:
        super().__init__(trunk, head, num_classes, views)
        self.least_window = 3 if {"moments", "moments_mean"} & set(views) else 1
        if window < self.least_window:
            raise ValueError(f"window is {window}; a step answers about {self.least_window} frames at least")
        self.window = window

    def with_window(self, window: int) -> SteppingProbe:
        """Return a network with the same weights, whose steps answer about another number of frames."""
        assert window >= self.least_window
        other = copy.copy(self)
        other.window = window
        return other


class FrameProbe(SteppingProbe):
    """A probe on an image network; arguments as in ``SteppingProbe``."""

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """Return the state of streams before their first frame: no vectors yet."""
        at, trunk = self.head.mean, self.trunk
        assert isinstance(trunk, Backbone)
        # No name is "frames", which ``vidact.stream.horizon`` takes for a count.
        state = {f"{view}_vectors": at.new_zeros(batch_size, self.window, trunk.dim) for view in self.views}
        state["count"] = torch.zeros(batch_size, dtype=torch.int64, device=at.device)
        if any(MEAN_OF.get(view, view) == "moments" for view in self.views):
            state["grey"] = at.new_zeros(batch_size, 2, self.input.size, self.input.size)
        return state

    def step(self, frame: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits (B, K) of a clip of the newest frames up to ``frame`` (B, C, H, W), and the next state."""
        count = (state["count"] + 1).clamp(max=self.window)
        after, parts = {"count": count}, []
        for view in self.views:
            image, used = frame, count
            if MEAN_OF.get(view, view) == "moments":
                now = grey(frame, self.input)[:, None]  # (B, 1, H, W)
                # The first frame of a stream stands for those before it.
                before = torch.where((count == 1)[:, None, None, None], now.expand(-1, 2, -1, -1), state["grey"])
                levels = torch.cat([before, now], dim=1)
                image, after["grey"], used = coloured(levels, self.input), levels[:, 1:], (count - 2).clamp(min=1)
            vectors = torch.cat(
                [state[f"{view}_vectors"][:, 1:], self.trunk(image).float()[:, None]], dim=1
            )  # (B, W, D)
            after[f"{view}_vectors"] = vectors
            part = pooled(vectors, used)
            parts.append(part[:, : vectors.shape[2]] if view in MEAN_OF else part)
        return self.head(torch.cat(parts, dim=1)), after


class CausalProbe(SteppingProbe):
    """A probe on a clip network that steps: TSN, causal TSM, a stream MoViNet; arguments as in ``SteppingProbe``.

    Where the vector of a clip is the mean of its frames' vectors, a step answers about the mean of the newest ones:
    step t is ``forward`` of the clip up to frame t while the window holds all its frames. A frame's vector still
    depends on frames before the window, as far as the network remembers. Elsewhere (MoViNet) the state is the
    network's own, and a step answers about the whole stream.
    """

    def initial_state(self, batch_size: int) -> dict[str, Any]:
        """Return the state of streams before their first frame."""
        assert isinstance(self.trunk, SteppingVectorNetwork)
        state = dict(self.trunk.initial_state(batch_size))
        if "total" not in state:
            return state
        del state["total"], state["frames"]  # sums for the trunk's own classifier
        at = self.head.mean
        state["vectors"] = at.new_zeros(batch_size, self.window, self.dim)
        state["count"] = torch.zeros(batch_size, dtype=torch.int64, device=at.device)
        return state

    def step(self, frame: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits (B, K) of the stream up to ``frame`` (B, C, H, W), and the next state."""
        assert isinstance(self.trunk, SteppingVectorNetwork)
        vectors, after = self.trunk.step_features(frame, state)
        if "vectors" not in state:
            return self.head(vectors.float()), after
        count = (state["count"] + 1).clamp(max=self.window)
        newest = torch.cat([state["vectors"][:, 1:], vectors.float()[:, None]], dim=1)  # (B, W, D)
        mean = newest.sum(dim=1) / count[:, None]  # before the first frame the vectors are 0
        return self.head(mean), {**after, "vectors": newest, "count": count}


def can_step(trunk: nn.Module) -> bool:
    """Return whether a probe on this trunk steps frame by frame: an image network, or a clip network that steps."""
    return isinstance(trunk, Backbone) or (isinstance(trunk, SteppingVectorNetwork) and not is_bidirectional(trunk))


@builder
def clip_probe(
    trunk: Mapping[str, Any],
    head: str,
    num_classes: int,
    examples: int = 0,
    neighbours: int = 0,
    window: int = 8,
    views: Sequence[str] = ("frames",),
) -> Probe:
    """Build a probe without weights: the network that ``vidact probe`` saves.

    Args:
        trunk: the recipe of a network of vidact that has features.
        head: "linear", "knn" or "prototype".
        num_classes: number of classes K.
        examples: training clips that a head "knn" holds.
        neighbours: training clips that vote in a head "knn".
        window: the newest frames that an answer of a stream depends on, where the trunk is an image network or a clip
            network that steps and averages its frames' vectors.
        views: what an image network reads of a clip: "frames", "moments", or both in this order; or "frames_mean" or
            "moments_mean" for their mean over time alone.
    """
    if str(trunk.get("builder", "")).rpartition(".")[2] == clip_probe.__name__:
        raise ValueError("the trunk of a probe is itself a probe; give the network that it was made of")
    network = build_from_recipe(trunk)
    refuse_without_features(network)
    possible = views_of(network)
    chosen = list(views) if possible else []
    is_mean = len(chosen) == 1 and MEAN_OF.get(chosen[0]) in possible
    if possible and not is_mean and (not chosen or chosen != [view for view in possible if view in chosen]):
        name = type(network).__name__
        raise ValueError(
            f"views are {', '.join(views) or 'none'}; {name} reads {' and '.join(possible)}, in this order"
        )
    filled_later = empty_head(head, num_features(network, chosen), num_classes, examples, neighbours)
    if isinstance(network, Backbone):
        return FrameProbe(network, filled_later, num_classes, chosen, window)
    if can_step(network):
        return CausalProbe(network, filled_later, num_classes, (), window)
    return Probe(network, filled_later, num_classes)
