"""VideoReader: the interface of every reader of frames by number.

Shapes: N frames of the video, T requested frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidact.video.frames import Frames


class VideoError(ValueError):
    """An error for a video that cannot be read: the message names the file, what is wrong with it, and what to do."""


class VideoReader:
    """A reader of one video's frames by number. It pickles as its path and settings: a worker opens its own file."""

    path: Path
    fps: float  # average frame rate; the times of single frames are in ``times_s``

    @property
    def times_s(self) -> np.ndarray:
        """The time at which each frame is shown, (N,) float64 seconds; the first need not be 0."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """The width in pixels of the upright pictures that ``frames_at`` returns."""
        raise NotImplementedError

    @property
    def height(self) -> int:
        """The height in pixels of the upright pictures that ``frames_at`` returns."""
        raise NotImplementedError

    @property
    def end_s(self) -> float:
        """The end of the last picture, in seconds of ``times_s``, as the file states it; else a frame's time later."""
        return float(self.times_s[-1]) + 1 / self.fps

    @property
    def begin_s(self) -> float:
        """The beginning of the file, in seconds of ``times_s``: before the first picture where sound comes first."""
        return float(self.times_s[0])

    @property
    def lead_s(self) -> float:
        """The seconds that the file plays before its first picture: players count them, ``times_s[0]`` may not."""
        return max(0.0, float(self.times_s[0]) - self.begin_s)

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        """Yield the upright RGB pictures (H, W, 3) of these frames, which are ascending, distinct and in range."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file. Its length and times remain; the next request for frames opens it again."""

    def frames_at(self, indices: Sequence[int] | np.ndarray | Tensor) -> Frames:
        """Return frames by number, in the order of ``indices``, where a number may repeat.

        Each frame is decoded once, and decoding stops at the last.
        """
        requested = np.asarray(indices)
        if requested.ndim != 1 or (requested.size and requested.dtype.kind not in "iu"):
            raise ValueError(f"frames_at takes a list of whole numbers, got {indices!r}")
        count, in_order = len(self), requested.tolist()
        numbers = sorted(set(in_order))
        if numbers and (numbers[0] < 0 or numbers[-1] >= count):
            outside = next(number for number in in_order if not 0 <= number < count)
            raise IndexError(f"frame {outside} of {self.path} does not exist: it has {count} frames, 0 to {count - 1}")
        images = np.empty((0, self.height, self.width, 3), dtype=np.uint8)
        for slot, image in enumerate(self.pictures(numbers)):
            if slot == 0:  # not earlier: the size that a file states may exceed all memory
                images = np.empty((len(numbers), *images.shape[1:]), dtype=np.uint8)
            images[slot] = image
        if numbers != in_order:
            images = images[np.searchsorted(numbers, in_order)]
        return Frames(torch.from_numpy(images).permute(0, 3, 1, 2), self.times_s[requested.astype(np.int64)])

    def __len__(self) -> int:
        return len(self.times_s)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"
