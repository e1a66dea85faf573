"""Frames: pictures with their times.

Shapes: T frames, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass
class Frames:
    """The pictures of one video, and their times.

    ``images`` (T, 3, H, W) uint8 RGB; ``times_s`` (T,) float64, when each picture is shown, in the video's own time.
    The pictures lie in memory pixel by pixel (torch calls it channels last), so use ``reshape`` rather than ``view``.
    """

    images: Tensor
    times_s: np.ndarray

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"frames are (T, 3, H, W); these images are {tuple(self.images.shape)}")
        if self.times_s.shape != (len(self.images),):
            raise ValueError(f"{len(self.images)} images cannot carry times of shape {self.times_s.shape}")

    def __len__(self) -> int:
        return len(self.images)
