"""The size of images is changed here: bilinear with antialiasing, the same bits as torchvision's resize.

torchvision's own functions are not called, because the import of ``torchvision.transforms.v2`` imports PyTorch's
compiler, which takes longer than all else between a command and its first answer.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor
from torch.nn import functional as F


def resized_sides(height: int, width: int, short: int) -> tuple[int, int]:
    """Return the height and the width of an image whose short side becomes ``short`` pixels; the long side is cut."""
    long = int(short * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return images (N, C, H, W) of another size; uint8 stays uint8, by rounding, and the memory format is kept.

    Images that have the size are returned as they are.

    Args:
        images: uint8 or floating point.
        size: the short side in pixels, see ``resized_sides``, or the height and the width.
    """
    height, width = images.shape[-2:]
    sides = resized_sides(height, width, size) if isinstance(size, int) else size
    if sides == (height, width) or not images.numel():
        return images
    if len(images) == 1 and images.is_contiguous(memory_format=torch.channels_last):
        # With the stride of a single image that was cut from a batch, the result would not be channels last.
        images = images.as_strided(images.shape, (images.numel(), *images.stride()[1:]))
    if images.is_floating_point() or (images.device.type == "cpu" and _resizes_bytes()):
        return _interpolate(images, sides)
    return _interpolate(images.float(), sides).round_().to(images.dtype)


def _interpolate(images: Tensor, sides: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=sides, mode="bilinear", align_corners=False, antialias=True)


@functools.cache
def _resizes_bytes() -> bool:
    """Return whether PyTorch resizes uint8 on this processor faster than floats, as torchvision decides it."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")
