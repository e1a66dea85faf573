"""Optical flow: how far every pixel moves from one image to the next.

DIS (Kroeger et al. 2016, https://arxiv.org/abs/1603.03590) takes about 10 ms for a 340 x 256 pair on one core and is
the default; Farneback (2003) under-estimates the motion; TV-L1 (Zach, Pock, Bischof 2007) is what the published
two-stream networks were trained on, and needs opencv-contrib-python; RAFT (Teed and Deng 2020,
https://arxiv.org/abs/2003.12039) is torchvision's network, the most exact and far the slowest without a GPU.

A field is (2, H, W): channel 0 is x (positive to the right), channel 1 is y (positive downwards), in pixels per frame.

Shapes: T images, L fields stacked on the channels of one time step, H x W pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from vidact.records import unreadable_weights
from vidact.video.flow_record import BOUND, METHODS


def flow(a: Tensor, b: Tensor, method: str = "dis") -> Tensor:
    """Return the field (2, H, W) that carries the pixels of image ``a`` to where they are in image ``b``.

    Args:
        a: uint8 RGB image (3, H, W).
        b: the next image, of the same size.
        method: one of ``METHODS``.
    """
    if a.shape != b.shape:
        raise ValueError(f"flow needs two images of one size; these are {tuple(a.shape)} and {tuple(b.shape)}")
    return flow_fields(torch.stack([a, b]), method)[0]


def flow_fields(images: Tensor, method: str = "dis", weights: str | None = None, device: str = "cpu") -> Tensor:
    """Return the T - 1 fields (T - 1, 2, H, W), float32 on the CPU, between consecutive uint8 RGB images (T, 3, H, W).

    Args:
        images: at least one; the fields have their size.
        method: one of ``METHODS``.
        weights: a local file of RAFT's weights with torchvision's names, or None for those that torchvision publishes.
        device: where RAFT computes; the other methods use one CPU thread.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"flow takes uint8 RGB images (T, 3, H, W); these are {images.dtype} {tuple(images.shape)}")
    if len(images) == 1:
        _check_method(method)
        return torch.zeros(0, 2, *images.shape[2:])
    if method.startswith("raft"):
        return _raft_fields(images, raft(method, weights, device), device)
    import cv2  # imported late, so that RGB networks run where OpenCV's system libraries are missing

    calculate = _engine(method)
    grey = [cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY) for image in images.cpu()]
    with _one_thread():
        fields = [calculate(a, b) for a, b in pairwise(grey)]  # each (H, W, 2)
    return torch.from_numpy(np.stack(fields)).permute(0, 3, 1, 2).contiguous()


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"there is no flow method {method!r}; there are {', '.join(METHODS)}")


def _engine(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    _check_method(method)
    import cv2

    # OpenCV's stubs lack these calls or require an output array
    opencv: Any = cv2
    if method == "dis":
        dis = opencv.DISOpticalFlow_create(opencv.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda a, b: dis.calc(a, b, None)
    if method == "farneback":
        # OpenCV's tutorial has these values of pyramid scale, levels, window, iterations, neighbourhood and sigma
        return lambda a, b: opencv.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    if not hasattr(opencv, "optflow"):
        raise ImportError(
            "TV-L1 flow is in opencv-contrib-python, and opencv-python is installed. They overwrite each other: "
            "uninstall opencv-python first, then install opencv-contrib-python; or use method='dis'"
        )
    tvl1 = opencv.optflow.DualTVL1OpticalFlow_create()
    return lambda a, b: tvl1.calc(a, b, None)


RAFT_STRIDE, RAFT_LEAST = 8, 128  # RAFT's maps are an eighth of the image; its coarsest correlations need sides of 16
RAFT_PAIRS = 4  # image pairs in one pass; a 340 x 256 pair takes about 200 MB


@functools.lru_cache(maxsize=2)
def raft(method: str = "raft", weights: str | None = None, device: str = "cpu") -> nn.Module:
    """Return torchvision's RAFT in evaluation mode; it is built once and kept.

    Args:
        method: "raft" (5.3 M parameters) or "raft_small" (1 M, half as exact).
        weights: a local file with torchvision's names, or None for those that torchvision publishes.
        device: cpu, cuda or mps.
    """
    _check_method(method)
    from torchvision.models import optical_flow

    build, published = {
        "raft": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
        "raft_small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
    }[method]
    network = build()
    if weights is None:
        try:
            state_dict = published.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"RAFT's weights at {published.url} could not be downloaded ({error}). Fetch that file where there is "
                "a network and name it (extract flow --weights FILE), or use method='dis', which needs none"
            ) from error
    else:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"there is no file {weights} with RAFT's weights")
        try:
            state_dict = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # bytes that are no pickle raise a dozen kinds of errors
            raise unreadable_weights(weights, error) from None
        if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
            raise ValueError(f"{weights} holds a {type(state_dict).__name__}, not named tensors")
    try:
        network.load_state_dict(state_dict)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{weights} does not fit torchvision's {method}: {str(error).splitlines()[-1]}") from error
    return network.eval().to(device)


@torch.no_grad()
def _raft_fields(images: Tensor, network: nn.Module, device: str) -> Tensor:
    """Return RAFT's fields. It needs sides from 128, divisible by 8: edges are repeated to the right and below."""
    height, width = images.shape[2:]
    sides = [max(-(-side // RAFT_STRIDE) * RAFT_STRIDE, RAFT_LEAST) for side in (height, width)]
    padding = (0, sides[1] - width, 0, sides[0] - height)
    fields = []
    for start in range(0, len(images) - 1, RAFT_PAIRS):
        part = images[start : start + RAFT_PAIRS + 1].to(device).float() / 127.5 - 1
        part = F.pad(part, padding, mode="replicate")
        fields.append(network(part[:-1], part[1:])[-1][..., :height, :width].float().cpu())  # the last refinement
    return torch.cat(fields)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run OpenCV on one thread: data workers already fill the cores, and one thread computes the same everywhere."""
    import cv2

    before = cv2.getNumThreads()
    if before != 1:
        cv2.setNumThreads(1)
    try:
        yield
    finally:
        # a loading worker may stay on one thread; in any other process the setting belongs to the caller
        if before != 1 and get_worker_info() is None:
            cv2.setNumThreads(before)


def quantise(fields: Tensor, bound: float = BOUND) -> Tensor:
    """Return flow as stored images hold it: -bound … bound pixels become uint8 0 … 255, and no motion becomes 128.

    Values are rounded. Extractors that truncate store no motion as 127, half a step below what networks subtract.
    """
    return ((fields.clamp(-bound, bound) + bound) * (255 / (2 * bound))).round().to(torch.uint8)


def dequantise(levels: Tensor, bound: float = BOUND) -> Tensor:
    """Return the pixels per frame that uint8 ``levels`` stand for, exact to half a step (0.08 for bound 20)."""
    return levels.float() * (2 * bound / 255) - bound


def rescale(levels: Tensor, size: tuple[int, int], bound: float = BOUND) -> Tensor:
    """Return stored fields (…, 2, H, W), uint8, as those of the same video at another ``size`` (height, width).

    In a video half as large everything moves half as many pixels, so the values shrink with the picture. The same size
    changes nothing.
    """
    height, width = levels.shape[-2:]
    if (height, width) == tuple(size):
        return levels
    ratio = torch.tensor([size[1] / width, size[0] / height], device=levels.device).view(2, 1, 1)
    fields = dequantise(levels, bound)
    fields = F.interpolate(fields.flatten(0, -4), size, mode="bilinear", antialias=True).reshape(
        *levels.shape[:-2], *size
    )
    return quantise(fields * ratio, bound)


def mirror(fields: Tensor) -> Tensor:
    """Return the fields (…, 2, H, W) of the left-right mirrored video: mirrored themselves, and x inverted.

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
