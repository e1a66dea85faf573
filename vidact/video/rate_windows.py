"""Windows of frames at a steady rate: what a published network is given of a video of any length and frame rate.

A sampler counts frames, so a stride of 2 lasts twice as long in a video of 15 frames a second as in one of 30. A window
here has the rate in seconds that the weights were trained at: the frame nearest to each instant.

Shapes: N frames of the video, K windows, T frames of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vidact.video.clock import NEAR, Clock

MOST_WINDOWS = 10  # of a video whose number of windows is not given, as in the usual published test of ten clips
LEFT_OUT = 0.1  # the share of a window by which a video may be longer than its windows


@dataclass(frozen=True)
class RateWindows:
    """A choice of windows of ``frames`` frames at ``rate`` frames a second.

    Args:
        frames: frames T of a window.
        rate: frames a second.
        shortens: a video that is shorter than a window has a shorter window; else its last frame is repeated.
    """

    frames: int
    rate: float
    shortens: bool = False

    def number(self, length_s: float) -> int:
        """Return how many windows, one after the other, cover ``length_s`` seconds: at most ``MOST_WINDOWS``."""
        return min(max(1, math.ceil(length_s * self.rate / self.frames - LEFT_OUT)), MOST_WINDOWS)

    def __call__(self, times_s: np.ndarray, end_s: float, num_windows: int | None = None) -> np.ndarray:
        """Return the indices int64 (K, T) of the frames of each window.

        One window lies in the middle of the video. Of several, the first begins with the first frame, the last ends
        with the last frame, and the others begin at evenly spaced times between; they overlap in a short video. A
        window that is shortened to the video has the frames that a stream of it has.

        Args:
            times_s: the times of the frames (N,), ascending.
            end_s: the end of the last frame.
            num_windows: number of windows K, at least 1; None is ``number`` of the video's length.
        """
        first_s, last_s, length_s = float(times_s[0]), float(times_s[-1]), float(end_s - times_s[0])
        num_windows = self.number(length_s) if num_windows is None else num_windows
        frames = self.frames
        if self.shortens:
            whole = Clock(self.rate).indices(times_s, end_s)
            if len(whole) <= frames + 1:  # of exactly T / rate seconds a clock also has the instant at the end
                return np.tile(whole[:frames], (num_windows, 1))
        free_s = max(last_s - first_s - (frames - 1) / self.rate, 0.0)
        shares = np.array([0.5]) if num_windows == 1 else np.arange(num_windows) / (num_windows - 1)
        instants = first_s + free_s * shares[:, None] + np.arange(frames) / self.rate  # (K, T)
        after = np.searchsorted(times_s, instants).clip(1, max(len(times_s) - 1, 1))
        before = after - 1
        after = np.minimum(after, len(times_s) - 1)
        is_before = instants - times_s[before] <= times_s[after] - instants + NEAR / self.rate
        return np.where(is_before, before, after).astype(np.int64)
