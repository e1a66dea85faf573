"""Transforms of decoded frames into a clip network's input: crops, mirror, colour, flow and the normalisation.

A transform takes the uint8 RGB images of one clip and returns normalised float clips, with one draw for all its frames.
It takes the normalisation from the network's ClipInput, so that no mean is set by hand. Images stay uint8 until the
last step and are cropped before they are resized in training, which makes it fast.

Where a network takes flow, it is computed here from consecutive frames, on the resized image before the crop, rounded
to uint8 as stored flow would be, and then cropped and mirrored as the images are. Stored flow can be passed beside the
images instead. Changes of colour do not apply to flow.

All draws use torch's global generator, so seeding it makes them repeatable.

Shapes: V views, T time steps, G decoded images of one time step, I of them used as RGB, L flow fields, C channels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vidact.batch import ClipInput
from vidact.video.flow import flow_fields, mirror, quantise, rescale, stack
from vidact.video.resize import resize, resized_sides

Label = int | Tensor | None
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def images_per_index(input: ClipInput) -> int:
    """Return the number G of consecutive images in one time step; ``sample.expand`` with this length lays them out."""
    return max(input.images_per_frame, input.flow_fields + 1)


@dataclass(frozen=True)
class Augment:
    """The random changes of training clips; every clip gets one draw for all its frames.

    Args:
        crop: "multiscale" (TSN's: sides are fractions of the short side, the aspect barely changes), "resized"
            (Inception's random area and aspect) or "none" (the centre, as in testing).
        scales: fractions of the short side, largest first, for "multiscale". TSN leaves .66 out for flow.
        max_distort: the most steps in ``scales`` between the width and the height of a crop.
        positions: where a multi-scale crop may lie: at 13 or 5 fixed positions, or 0 for anywhere.
        area: the least and the greatest part of the image that a "resized" crop covers.
        aspect: the least and the greatest width / height of a "resized" crop.
        flip: "auto" mirrors and exchanges labels that name a side, found by name (see flip_pairs); "never"; "always"
            mirrors whatever the classes are called and leaves labels alone.
        flip_probability: the probability of mirroring a clip that may be mirrored.
        color_jitter: strength of random brightness, contrast and saturation, 0 to 1; hue changes by a fifth of it.
            It changes only the RGB channels.
        rand_augment: operations of RandAugment per clip; 0 is off. Not for networks that take flow.
        magnitude: strength of RandAugment, 0 to 30.
        erasing: the probability of blanking a random box of the clip.
    """

    crop: Literal["multiscale", "resized", "none"] = "multiscale"
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    max_distort: int = 1
    positions: Literal[13, 5, 0] = 13
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Literal["auto", "never", "always"] = "auto"
    flip_probability: float = 0.5
    color_jitter: float = 0.0
    rand_augment: int = 0
    magnitude: int = 9
    erasing: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("crop", ("multiscale", "resized", "none")),
            ("positions", (13, 5, 0)),
            ("flip", ("auto", "never", "always")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(map(repr, choices))}")
        for name in ("flip_probability", "color_jitter", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies between 0 and 1")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales are {self.scales}; they are parts of the short side, above 0 and up to 1")
        for name, most in (("area", 1.0), ("aspect", float("inf"))):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(f"{name} is {low} to {high}; it goes upwards from above 0" + " to 1" * (most == 1))
        if self.rand_augment < 0 or not 0 <= self.magnitude <= 30:
            raise ValueError(
                f"rand_augment is {self.rand_augment} operations of magnitude {self.magnitude}; "
                "operations are at least 0 and the magnitude is 0 to 30"
            )


# ---------------------------------------------------------------------------------------------------------------------
# The mirror and the labels

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")
_MIRRORED = {
    "left": "right",
    "lefts": "rights",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "lefthand": "righthand",
    "clockwise": "counterclockwise",
}
_MIRRORED |= {right: left for left, right in _MIRRORED.items()}
_SPELLINGS = {"anticlockwise": "counterclockwise", "ccw": "counterclockwise", "cw": "clockwise"}


@dataclass(frozen=True)
class FlipMap:
    """The effect of mirroring a video on its label.

    Args:
        classes: names, in the order of the labels.
        partners: for each class the index of the class that its mirrored video shows: another one, or its own.
        blocked: classes that name a side and have no partner; their videos are never mirrored.
    """

    classes: tuple[str, ...]
    partners: tuple[int, ...]
    blocked: frozenset[int]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of classes that exchange labels, the smaller index first."""
        return [(index, partner) for index, partner in enumerate(self.partners) if index < partner]

    def allows(self, label: Label) -> bool:
        """Whether a video of this label (a class, a 0/1 vector of classes, or none) may be mirrored."""
        if label is None:
            return True
        if isinstance(label, Tensor) and label.ndim:
            return not any(label[index] for index in self.blocked)
        return int(label) not in self.blocked

    def exchange(self, label: Label) -> Label:
        """Return the label of the mirrored video."""
        if label is None:
            return None
        if isinstance(label, Tensor) and label.ndim:
            if label.shape != (len(self.classes),):
                raise ValueError(f"the target has shape {tuple(label.shape)}; there are {len(self.classes)} classes")
            return label[list(self.partners)]
        partner = self.partners[int(label)]
        return torch.full_like(label, partner) if isinstance(label, Tensor) else partner

    def describe(self) -> str:
        """Return the pairs and the blocked classes as text, to be printed once when training starts."""
        lines = [f"mirrored clips: pairs that exchange labels: {len(self.pairs)}, never mirrored: {len(self.blocked)}"]
        lines += [f"  {self.classes[a]!r} <-> {self.classes[b]!r}" for a, b in self.pairs]
        lines += [f"  {self.classes[a]!r} names a side without a partner: never mirrored" for a in sorted(self.blocked)]
        return "\n".join(lines)


def flip_pairs(classes: Sequence[str]) -> FlipMap:
    """Find from the names which classes a mirror exchanges, never from numbers: lists of one data set differ in order.

    The words left and right, clockwise and counterclockwise are exchanged in every name, whatever its case and however
    its words are joined ("Swipe Left", "swipe_left", "SwipeLeft", "counter-clockwise", "anticlockwise"). When that
    gives another class the two are a pair; when it gives none the class is never mirrored.

    >>> flip_pairs(["left_to_right", "right_to_left", "jump"]).pairs
    [(0, 1)]
    """
    keys = [_words(name) for name in classes]
    owners: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        owners[key].append(index)
    partners, blocked = list(range(len(classes))), set()
    for index, key in enumerate(keys):
        swapped = tuple(_MIRRORED.get(word, word) for word in key)
        if swapped == key:
            continue
        # where two classes are spellings of one name, it is unclear which of them is the partner
        if len(owners[key]) == 1 and len(owners.get(swapped, [])) == 1:
            partners[index] = owners[swapped][0]
        else:
            blocked.add(index)
    return FlipMap(tuple(classes), tuple(partners), frozenset(blocked))


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a class name in lower case, with one spelling of counterclockwise."""
    spelled: list[str] = []
    for word in (part.lower() for part in _WORD.findall(name)):
        if word == "clockwise" and spelled and spelled[-1] in ("counter", "anti"):
            spelled.pop()
            word = "counterclockwise"
        spelled.append(_SPELLINGS.get(word, word))
    return tuple(spelled)


# ---------------------------------------------------------------------------------------------------------------------
# Transforms


class ClipTransform:
    """The base of the transforms of training and testing: it opens the images of a clip and normalises them.

    ``transform(images, label) -> (clips, label)``: images uint8 (T*G, 3, H, W) as ``sample.expand`` lays them out with
    ``images_per_index``; clips float32 (V, T, C, side, side). Label is a class, a 0/1 vector of classes, or None.

    With ``stored`` flow uint8 (T*L, 2, h, w), images are (T*I, 3, H, W), only those used as RGB, or None for a network
    that takes only flow. Flow of another size is resized to the images', and its values are scaled with it.

    Args:
        input: the network's input.
        flow_method: see ``flow.flow``; used only where the network takes flow.
    """

    def __init__(self, input: ClipInput, flow_method: str = "dis") -> None:
        self.input = input
        self.flow_method = flow_method
        self.resize = input.size * 256 // 224 if input.resize is None else input.resize  # short side
        if self.resize < input.size:
            raise ValueError(
                f"the input is resized to a short side of {self.resize} and cannot be cropped to {input.size}; "
                "give ClipInput a resize of at least its size"
            )
        mean = torch.tensor(input.mean).repeat(input.channels // len(input.mean)).view(-1, 1, 1)
        std = torch.tensor(input.std).repeat(input.channels // len(input.std)).view(-1, 1, 1)
        # (x / 255 * scale - mean) / std as one product and one sum
        self._factor, self._offset = input.scale / 255 / std, -mean / std
        self._row: tuple[Tensor, Tensor] | None = None  # the factor and the offset of each number of a row of pixels

    def __call__(
        self, images: Tensor | None, label: Label = None, stored: Tensor | None = None
    ) -> tuple[Tensor, Label]:
        raise NotImplementedError(f"{type(self).__name__} does not define __call__()")

    def _open(
        self, images: Tensor | None, stored: Tensor | None, is_resized: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return RGB images (T*I, 3, H, W) and flow (T*L, 2, H, W), both uint8; None where the network takes none.
        They are resized to the short side if ``is_resized``, and always for flow, whose length depends on the size.
        """
        if stored is not None:
            return self._open_stored(images, stored)
        if images is None:
            raise ValueError("a clip needs images, or stored flow for a network that takes flow only")
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"a clip is uint8 RGB images (time, 3, height, width); this is {images.dtype} {tuple(images.shape)}"
            )
        group = images_per_index(self.input)
        steps, rest = divmod(len(images), group)
        if rest or not steps:
            raise ValueError(
                f"{len(images)} images cannot be split into groups of {group}, which the network takes per time step; "
                "expand the sampler's indices by images_per_index"
            )
        if self.input.frames not in (None, steps):
            raise ValueError(f"the clip has {steps} frames; the network's weights are made for {self.input.frames}")
        if is_resized or self.input.flow_fields:
            images = resize(images, self.resize)
        groups = images.unflatten(0, (steps, group))  # (T, G, 3, H, W)
        rgb = flow = None
        if self.input.rgb_channels:
            rgb = groups[:, : self.input.images_per_frame].flatten(0, 1)
        if fields := self.input.flow_fields:
            parts = [flow_fields(step[: fields + 1], self.flow_method) for step in groups]
            flow = quantise(torch.cat(parts), self.input.flow_bound).to(images.device)
        return rgb, flow

    def _open_stored(self, images: Tensor | None, stored: Tensor) -> tuple[Tensor | None, Tensor | None]:
        fields, num_images = self.input.flow_fields, self.input.images_per_frame
        if not fields or (images is None) != (self.input.rgb_channels == 0):
            raise ValueError(
                f"the network takes {self.input.rgb_channels} channels of RGB and {fields} flow fields; stored flow "
                f"came {'without' if images is None else 'with'} images"
            )
        steps, rest = divmod(len(stored), fields)
        if rest or not steps or (images is not None and len(images) != steps * num_images):
            raise ValueError(
                f"{len(stored)} fields and {'no' if images is None else len(images)} images do not make time steps of "
                f"{fields} fields" + ("" if images is None else f" and {num_images} images")
            )
        if self.input.frames not in (None, steps):
            raise ValueError(f"the clip has {steps} frames; the network's weights are made for {self.input.frames}")
        if images is None:
            height, width = stored.shape[-2:]
            return None, rescale(stored, resized_sides(height, width, self.resize), self.input.flow_bound)
        rgb = resize(images, self.resize)
        return rgb, rescale(stored, (rgb.shape[-2], rgb.shape[-1]), self.input.flow_bound)

    def _normalise(self, rgb: Tensor | None, flow: Tensor | None) -> Tensor:
        """Return the images and fields of a time step on its channels, RGB first, normalised: float32 (T, C, H, W)."""
        return self._to_float(self._join(rgb, flow))

    def _to_float(self, clip: Tensor) -> Tensor:
        """Return uint8 (…, C, H, W) as normalised float32, in the same layout of memory."""
        num_channels, width = clip.shape[-3], clip.shape[-1]
        if clip.stride(-3) != 1 or clip.stride(-1) != num_channels:
            factor, offset = (part.to(clip.device, non_blocking=True) for part in (self._factor, self._offset))
            return clip.float().mul_(factor).add_(offset)
        # The channels of a pixel lie together. A loop over three channels is seven times slower than one over a row, so
        # the factors are repeated for each pixel of a row; the values stay the same to the bit.
        row = self._row
        if row is None or len(row[0]) != width * num_channels or row[0].device != clip.device:
            factor, offset = (part.flatten().repeat(width).to(clip.device) for part in (self._factor, self._offset))
            row = self._row = factor, offset  # (W*C,)
        factor, offset = row
        rows = clip.movedim(-3, -1).flatten(-2).float()  # (…, H, W*C)
        return rows.mul_(factor).add_(offset).unflatten(-1, (width, num_channels)).movedim(-1, -3)

    def _join(self, rgb: Tensor | None, flow: Tensor | None) -> Tensor:
        """Return the images and fields of a time step on its channels, RGB first: uint8 (T, C, H, W)."""
        parts = []
        if rgb is not None:
            images = rgb.flip(1) if self.input.order == "bgr" else rgb
            parts.append(images.unflatten(0, (-1, self.input.images_per_frame)).flatten(1, 2))
        if flow is not None:
            parts.append(stack(flow, self.input.flow_fields))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass
class Cut:
    """The part of a clip that its random crop covers, ``pixels`` uint8 (T', 3, h, w), and whether to mirror it."""

    pixels: Tensor
    is_mirrored: bool


class TrainTransform(ClipTransform):
    """The transform of training clips: one random view.

    Args:
        input: the network's input.
        augment: the random changes.
        flip_map: the effect of a mirror on labels; None where mirroring changes none.
        flow_method: see ``flow.flow``.
    """

    def __init__(
        self, input: ClipInput, augment: Augment, flip_map: FlipMap | None = None, flow_method: str = "dis"
    ) -> None:
        super().__init__(input, flow_method)
        if augment.rand_augment and input.flow_fields:
            raise ValueError(
                f"rand_augment is {augment.rand_augment}, but its rotations and shears would leave the network's flow "
                "behind; set it to 0 for networks that take flow"
            )
        self.augment, self.flip_map = augment, flip_map
        self._color: list[Callable[[Tensor], Tensor]] = []
        self._erase: Callable[[Tensor], Tensor] | None = None
        if augment.color_jitter or augment.rand_augment or augment.erasing:
            from torchvision.transforms import v2  # which imports PyTorch's compiler, for seconds

            strength = augment.color_jitter
            if strength:
                self._color.append(v2.ColorJitter(strength, strength, strength, strength / 5))
            if augment.rand_augment:
                self._color.append(v2.RandAugment(augment.rand_augment, augment.magnitude))
            # it is applied after the normalisation, where 0 is the mean colour and no motion
            if augment.erasing:
                self._erase = v2.RandomErasing(augment.erasing, value=0)

    def check_parts(self) -> None:
        """Raise ValueError where ``cut`` and ``finish`` cannot replace a call."""
        if self._color or self._erase is not None or self.input.flow_fields:
            raise ValueError(
                "pixels can be changed on the device only by cropping and mirroring: color_jitter, rand_augment, "
                "erasing and flow are the workers' work; set them to 0, or let the workers do all of it"
            )

    def cut(self, images: Tensor, label: Label = None) -> tuple[Cut, Label]:
        """Do the first half of a call: the same draws, and only the pixels that they need; ``finish`` is the second.

        The cut can be moved to a GPU in between. Only crop and mirror can be split so, see ``check_parts``.
        """
        self.check_parts()
        rgb, _ = self._open(images, None, is_resized=False)
        assert rgb is not None  # the network takes no flow, so it takes images
        top, left, height, width = self._draw_box(rgb)
        is_mirrored = self._draw_flip(label)
        if is_mirrored and self.flip_map:
            label = self.flip_map.exchange(label)
        pixels = rgb[..., top : top + height, left : left + width]
        return Cut(pixels.clone(memory_format=torch.channels_last), is_mirrored), label

    def finish(self, cuts: Sequence[Cut]) -> Tensor:
        """Return clips (B, 1, T, C, side, side) float32 of cuts, on the device of their pixels.

        On the CPU they equal a call's to the bit; a GPU resizes in floating point, and a pixel may be off by one.
        """
        clips = []
        for cut in cuts:
            pixels = resize(cut.pixels, (self.input.size, self.input.size))
            clips.append(self._join(pixels.flip(-1) if cut.is_mirrored else pixels, None))
        return self._to_float(torch.stack(clips))[:, None]

    def __call__(
        self, images: Tensor | None, label: Label = None, stored: Tensor | None = None
    ) -> tuple[Tensor, Label]:
        size = self.input.size
        rgb, flow = self._open(images, stored, is_resized=False)
        top, left, height, width = self._draw_box(flow if rgb is None else rgb)
        rgb, flow = (
            None if video is None else resize(video[..., top : top + height, left : left + width], (size, size))
            for video in (rgb, flow)
        )
        if self._draw_flip(label):
            rgb, flow = _mirrored(rgb, flow)
            label = self.flip_map.exchange(label) if self.flip_map else label
        if rgb is not None:
            for change in self._color:
                rgb = change(rgb)
        clip = self._normalise(rgb, flow)
        if self._erase is not None:
            clip = self._erase(clip)
        return clip[None], label

    def _draw_flip(self, label: Label) -> bool:
        if self.augment.flip == "never" or (self.flip_map is not None and not self.flip_map.allows(label)):
            return False
        return torch.rand(()).item() < self.augment.flip_probability

    def _draw_box(self, video: Tensor | None) -> Box:
        assert video is not None  # a network takes images or flow
        augment, size, (height, width) = self.augment, self.input.size, video.shape[-2:]
        if augment.crop == "multiscale":
            return _multi_scale_box(height, width, size, augment.scales, augment.max_distort, augment.positions)
        if augment.crop == "resized":
            from torchvision.transforms import v2

            drawn = v2.RandomResizedCrop(size, augment.area, augment.aspect).make_params([video])
            return drawn["top"], drawn["left"], drawn["height"], drawn["width"]
        side = max(min(height, width) * size // self.resize, 1)
        return round((height - side) / 2), round((width - side) / 2), side, side

    def describe(self) -> str:
        """Return the effect of mirroring as text, to be printed once when training starts."""
        if self.augment.flip == "never" or not self.augment.flip_probability:
            return "mirrored clips: none"
        return self.flip_map.describe() if self.flip_map else "mirrored clips: all classes, labels unchanged"


class TestTransform(ClipTransform):
    """The transform of test clips: the short side is resized, then 1, 3, 5 or 10 squares are cut, alike in every frame.

    1: the centre. 3: squares of the whole short side at left, centre and right (top, centre, bottom of upright
    videos); they are ``resize`` pixels wide, 256 for a 224 network, as in published results with three crops. (The
    ClipInput of a network that takes only one size sets ``resize=size``.)
    5: corners and centre. 10: each of the five followed by its mirror image. The label never changes.

    Args:
        input: the network's input.
        crops: the number of squares.
        flow_method: see ``flow.flow``.
    """

    __test__ = False  # pytest must not collect it

    def __init__(self, input: ClipInput, crops: int = 1, flow_method: str = "dis") -> None:
        super().__init__(input, flow_method)
        if crops not in (1, 3, 5, 10):
            raise ValueError(f"{crops} crops were asked; a test view has 1, 3, 5 or 10")
        self.crops = crops

    def __call__(
        self, images: Tensor | None, label: Label = None, stored: Tensor | None = None
    ) -> tuple[Tensor, Label]:
        rgb, flow = self._open(images, stored, is_resized=True)
        height, width = (flow if rgb is None else rgb).shape[-2:]  # type: ignore[union-attr]
        views = []
        for top, left, side in self._squares(height, width):
            images_cut, flow_cut = (
                None if video is None else video[..., top : top + side, left : left + side] for video in (rgb, flow)
            )
            views.append(self._normalise(images_cut, flow_cut))
            if self.crops == 10:
                views.append(self._normalise(*_mirrored(images_cut, flow_cut)))
        return views[0][None] if len(views) == 1 else torch.stack(views), label  # one view is not copied

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """The factor and the offset of each channel, (C,): a clip has pixel * factor + offset."""
        return self._factor.flatten(), self._offset.flatten()

    def pixels(self, images: Tensor) -> Tensor:
        """Return the first view before it is normalised: uint8 (T, C, side, side)."""
        rgb, flow = self._open(images, None, is_resized=True)
        height, width = (flow if rgb is None else rgb).shape[-2:]  # type: ignore[union-attr]
        top, left, side = self._squares(height, width)[0]
        return self._join(
            *(None if video is None else video[..., top : top + side, left : left + side] for video in (rgb, flow))
        )

    def _squares(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Return the top, left and side of each square."""
        size, side = self.input.size, self.resize
        if self.crops == 1:
            return [(round((height - size) / 2), round((width - size) / 2), size)]
        if self.crops == 3:
            down, right = height - side, width - side  # one of them is 0
            return [(round(down * part / 2), round(right * part / 2), side) for part in range(3)]
        return [(top, left, size) for top, left in _fixed_positions(height, width, size, size)[:5]]


def _mirrored(rgb: Tensor | None, flow: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return None if rgb is None else rgb.flip(-1), None if flow is None else mirror(flow)


def _fixed_positions(height: int, width: int, crop_height: int, crop_width: int) -> list[tuple[int, int]]:
    """Return the top and left of TSN's 13 fixed crops on a grid of quarters: corners, centre, edges, and between.

    A quarter is a whole number of pixels, so the last column and row may miss the border by up to 3 pixels.
    """
    down, right = (height - crop_height) // 4, (width - crop_width) // 4
    five = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    eight = [(2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    return [(row * down, column * right) for row, column in five + eight]


def _multi_scale_box(
    height: int, width: int, size: int, scales: Sequence[float], max_distort: int, positions: int
) -> Box:
    """Draw TSN's multi-scale crop: one of the pairs of nearly equal sides, at a fixed position or anywhere."""
    base = min(height, width)
    # a side within 3 pixels of the target is set to it, which saves the resizing
    sides = [size if abs(side - size) < 3 and size <= base else side for side in (int(base * s) or 1 for s in scales)]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= max_distort]
    crop_height, crop_width = pairs[_draw(len(pairs))]
    if positions:
        top, left = _fixed_positions(height, width, crop_height, crop_width)[_draw(positions)]
    else:
        top, left = _draw(height - crop_height + 1), _draw(width - crop_width + 1)
    return top, left, crop_height, crop_width


def _draw(count: int) -> int:
    """Draw a whole number from 0 up to ``count``, not included."""
    return int(torch.randint(count, ()))


def train_transform(
    input: ClipInput, augment: Augment | None = None, classes: Sequence[str] | None = None, flow_method: str = "dis"
) -> TrainTransform:
    """Return the transform of training clips. ``classes`` are needed where ``augment.flip`` is "auto"."""
    augment = Augment() if augment is None else augment
    if augment.flip != "auto":
        return TrainTransform(input, augment, None, flow_method)
    if classes is None:
        raise ValueError(
            "flip is 'auto', which finds labels that name a side by the class names, and there are none; "
            "give classes, or set flip to 'never' or 'always'"
        )
    return TrainTransform(input, augment, flip_pairs(classes), flow_method)


def test_transform(input: ClipInput, crops: int = 1, flow_method: str = "dis") -> TestTransform:  # noqa: PT028
    """Return the transform of test clips: 1, 3, 5 or 10 fixed crops."""
    return TestTransform(input, crops, flow_method)


test_transform.__test__ = False  # type: ignore[attr-defined]


def from_record(record: Mapping[str, Any], crops: int = 1) -> TestTransform:
    """Return the test transform of a saved network: ``record`` is its checkpoint's, whose "input" is a ClipInput.

    Flow is computed by the method with which the network was trained, which the record names.
    """
    if "input" not in record:
        raise ValueError(
            f"the record has no 'input', only {', '.join(sorted(record)) or 'nothing'}; "
            "give the record of a network that vidact saved"
        )
    return test_transform(ClipInput(**record["input"]), crops, record.get("flow", {}).get("method", "dis"))
