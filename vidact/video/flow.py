"""Optical flow: how far every pixel moves from one image to the next.

DIS (Kroeger et al. 2016, https://arxiv.org/abs/1603.03590) takes about 10 ms for a 340 x 256 pair on one core and is
the default; Farneback (2003) under-estimates the motion; TV-L1 (Zach, Pock, Bischof 2007) is what the published
two-stream networks were trained on, and needs opencv-contrib-python.

A field is (2, H, W): channel 0 is x (positive to the right), channel 1 is y (positive downwards), in pixels per frame.

Shapes: T images, L fields stacked on the channels of one time step, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

METHODS = ("dis", "farneback", "tvl1")


def flow(a: Tensor, b: Tensor, method: str = "dis") -> Tensor:
    """The field (2, H, W) that carries the pixels of image ``a`` to where they are in image ``b``.

    Args:
        a: uint8 RGB image (3, H, W).
        b: the next image, of the same size.
        method: "dis", "farneback" or "tvl1".
    """
    if a.shape != b.shape:
        raise ValueError(f"flow needs two images of one size; these are {tuple(a.shape)} and {tuple(b.shape)}")
    return flow_fields(torch.stack([a, b]), method)[0]


def flow_fields(images: Tensor, method: str = "dis") -> Tensor:
    """The T - 1 fields (T - 1, 2, H, W), float32, between consecutive uint8 RGB images (T, 3, H, W)."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"flow takes uint8 RGB images (T, 3, H, W); these are {images.dtype} {tuple(images.shape)}")
    import cv2  # here, so that RGB networks also run where OpenCV's system libraries are missing

    calculate = _engine(method)
    grey = [cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY) for image in images.cpu()]
    with _one_thread():
        fields = [calculate(a, b) for a, b in pairwise(grey)]  # each (H, W, 2)
    if not fields:
        return torch.zeros(0, 2, *images.shape[2:])
    return torch.from_numpy(np.stack(fields)).permute(0, 3, 1, 2).contiguous()


def _engine(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    import cv2

    # OpenCV's stubs miss these calls or insist on an output array
    opencv: Any = cv2
    if method == "dis":
        dis = opencv.DISOpticalFlow_create(opencv.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda a, b: dis.calc(a, b, None)
    if method == "farneback":
        # pyramid scale, levels, window, iterations, neighbourhood, sigma: the values of OpenCV's tutorial
        return lambda a, b: opencv.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    if method == "tvl1":
        if not hasattr(opencv, "optflow"):
            raise ImportError(
                "TV-L1 flow is in opencv-contrib-python, and opencv-python is installed. They overwrite each other: "
                "uninstall opencv-python first, then install opencv-contrib-python; or use method='dis'"
            )
        tvl1 = opencv.optflow.DualTVL1OpticalFlow_create()
        return lambda a, b: tvl1.calc(a, b, None)
    raise ValueError(f"there is no flow method {method!r}; there are {', '.join(METHODS)}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread: data workers already fill the cores, and one thread is the same arithmetic everywhere."""
    import cv2

    before = cv2.getNumThreads()
    if before != 1:
        cv2.setNumThreads(1)
    try:
        yield
    finally:
        # a worker process belongs to us and stays on one thread; elsewhere the setting is the caller's
        if before != 1 and get_worker_info() is None:
            cv2.setNumThreads(before)


def quantise(fields: Tensor, bound: float = 20.0) -> Tensor:
    """Flow as stored images hold it: -bound … bound pixels become uint8 0 … 255, and no motion becomes 128.

    Rounded. Extractors that truncate store no motion as 127, half a step to the left of what networks subtract.
    """
    return ((fields.clamp(-bound, bound) + bound) * (255 / (2 * bound))).round().to(torch.uint8)


def dequantise(levels: Tensor, bound: float = 20.0) -> Tensor:
    """The pixels per frame that uint8 ``levels`` stand for, right to half a step (0.08 for bound 20)."""
    return levels.float() * (2 * bound / 255) - bound


def mirror(fields: Tensor) -> Tensor:
    """The fields (…, 2, H, W) of the left-right mirrored video: mirrored themselves, and x inverted.

    For uint8 fields x becomes 255 - x, so that no motion, 128, becomes 127: half a step on the other side of zero.
    """
    mirrored = fields.flip(-1)
    x = mirrored[..., 0, :, :]
    x.copy_(255 - x if fields.dtype == torch.uint8 else -x)
    return mirrored


def stack(fields: Tensor, num_fields: int) -> Tensor:
    """Put every ``num_fields`` L fields (T*L, 2, H, W) on the channels (T, 2L, H, W): x1 y1 x2 y2 …, oldest first."""
    if num_fields < 1 or len(fields) % num_fields:
        raise ValueError(f"{len(fields)} flow fields cannot be split into stacks of {num_fields}")
    return fields.unflatten(0, (-1, num_fields)).flatten(1, 2)
