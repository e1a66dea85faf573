"""Clock: frames that come at any rate become slots at a steady one, and slots become chunks.

Slot k is the instant ``first frame's time + k / fps``, and shows the frame nearest to it: a frame is shown again where
the next one is late, and left out where frames come early. Nothing is blended. Of two frames equally near, as for
every fourth slot from 30 fps to 24, it is the earlier one. (FFmpeg's fps filter rounds frames to slots instead, so it
sometimes takes the frame after ours.)

A camera pushes frames one by one; a file, whose times are all known, asks for the indices. Both choose the same frames,
so what was learnt from files holds for cameras.

Shapes: N frames, S slots.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

# Slots. A frame this near to an instant stands on it, and distances this similar are equal: the seconds since 1970
# come in steps of 0.24 µs, and a camera must not choose otherwise than a file for that. It is 4 µs at 24 fps.
NEAR = 1e-4


# Seconds for which a file may show nothing new without beginning anew. A slide or a still screen stands for so long,
# and the 240 tokens of it cost little; in a longer pause nobody knows what there was to see.
LONGEST_GAP_S = 60.0


def takes(times_s: np.ndarray, longest_gap_s: float | None) -> list[slice]:
    """The stretches of frames between which nothing is shown for more than ``longest_gap_s``; None: all are one.

    A clock begins anew with each, as a stream does, so that no pause becomes thousands of slots of a frozen picture.

    >>> takes(np.array([0.0, 0.5, 600.0, 600.5]), 60)
    [slice(0, 2, None), slice(2, 4, None)]
    """
    begins = [] if longest_gap_s is None else (np.flatnonzero(np.diff(times_s) > longest_gap_s) + 1).tolist()
    return [slice(begin, end) for begin, end in zip([0, *begins], [*begins, len(times_s)], strict=True)]


def refuse_gap(longest_gap_s: float | None) -> None:
    """Raise ValueError for what is no length of a gap."""
    if longest_gap_s is not None and not 0 < longest_gap_s < math.inf:
        raise ValueError(
            f"longest_gap_s is {longest_gap_s:g}; the longest gap that is filled is a number of seconds above 0"
        )


class Slot(NamedTuple):
    """One instant of the steady rate: its number from 0, its time in the source's own seconds, and what it shows."""

    number: int
    time_s: float
    image: Any


class Clock:
    """Timestamps to slots of a steady rate, from the first frame's time on.

    >>> clock = Clock(fps=10)
    >>> [slot.image for time_s, image in [(5.0, "a"), (5.04, "b"), (5.31, "c")] for slot in clock.push(time_s, image)]
    ['a', 'b', 'c', 'c']
    >>> Clock(fps=10).indices(np.array([5.0, 5.04, 5.31])).tolist()
    [0, 1, 2, 2]

    Args:
        fps: slots a second.
    """

    def __init__(self, fps: float = 24.0) -> None:
        if not (fps > 0 and math.isfinite(fps)):
            raise ValueError(f"fps is {fps}; a clock needs a rate above 0")
        self.fps = float(fps)
        self._first_s: float | None = None
        self._last_s = 0.0
        self._image: Any = None  # of the last frame
        self._place = 0.0  # of the last frame, in slots
        self._next = 0  # the first slot that is not certain yet

    def push(self, time_s: float, image: Any) -> list[Slot]:
        """One more frame: the slots up to its time, which are now certain.

        A slot is certain once a frame at or after its instant has come. Times may repeat and may leave gaps of any
        length, which are filled: half with the frame before, half with the one after.

        Raises ValueError when time goes backwards; a source that was restarted needs a new clock.
        """
        if not math.isfinite(time_s):
            raise ValueError(f"a frame came at {time_s} s; a frame's time is a number of seconds")
        if self._first_s is None:
            self._first_s, self._last_s, self._image = time_s, time_s, image
        if time_s < self._last_s:
            raise ValueError(
                f"a frame of {time_s:.3f} s came after one of {self._last_s:.3f} s; time goes forwards. "
                "If the source began anew, begin a new clock"
            )
        place = (time_s - self._first_s) * self.fps
        certain = []
        while place + NEAR >= self._next:
            is_before = self._next - self._place <= place - self._next + NEAR
            certain.append(self._slot(self._image if is_before else image))
        self._last_s, self._place, self._image = time_s, place, image
        return certain

    def finish(self, end_s: float | None = None) -> list[Slot]:
        """No more frames come: the slots that the last one still fills.

        They are the one just after it, if that lies less than half a slot ahead, and those that lie by more than half
        in the time up to ``end_s``, where the last frame ends. None: nobody knows.
        """
        if self._first_s is None:
            return []
        count = self._count(self._place, end_s, self._first_s)
        return [self._slot(self._image) for _ in range(self._next, count)]

    def _count(self, place: float, end_s: float | None, first_s: float) -> int:
        """How many slots a source has whose last frame lies at ``place``, in slots, and ends at ``end_s``."""
        count = math.floor(place + NEAR) + 1
        count += count - place < 0.5 - NEAR
        return count if end_s is None else max(count, math.floor((end_s - first_s) * self.fps + 0.5 + NEAR))

    def _slot(self, image: Any) -> Slot:
        assert self._first_s is not None
        slot = Slot(self._next, self._first_s + self._next / self.fps, image)
        self._next += 1
        return slot

    def indices(self, times_s: np.ndarray, end_s: float | None = None) -> np.ndarray:
        """For each slot of a whole video the number of the frame it shows, int64 (S,); ``times_s`` (N,) ascend.

        It is what pushing all the frames and ``finish(end_s)`` would show; the clock itself is left as it is.
        """
        times_s = np.asarray(times_s, dtype=np.float64)
        if times_s.ndim != 1 or not np.isfinite(times_s).all():
            raise ValueError(
                f"frame times of shape {times_s.shape} were given; a video has a finite time for each frame"
            )
        if not len(times_s):
            return np.zeros(0, dtype=np.int64)
        if (backwards := np.flatnonzero(np.diff(times_s) < 0)).size:
            i = int(backwards[0])
            raise ValueError(
                f"frame {i + 1} of {times_s[i + 1]:.3f} s comes after one of {times_s[i]:.3f} s; time goes forwards"
            )
        places = (times_s - times_s[0]) * self.fps
        slots = np.arange(self._count(float(places[-1]), end_s, float(times_s[0])))
        after = np.searchsorted(places + NEAR, slots)  # the frame whose arrival makes the slot certain; N: none does
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, len(places) - 1)
        return np.where(slots - places[before] <= places[after] - slots + NEAR, before, after)


class Chunker:
    """Slots to chunks of ``chunk`` consecutive ones; what is left over at the end makes none.

    Args:
        chunk: slots of a chunk.
    """

    def __init__(self, chunk: int = 6) -> None:
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; a chunk has at least one slot")
        self.chunk = chunk
        self._slots: list[Slot] = []

    def push(self, slot: Slot) -> list[Slot] | None:
        """The chunk that this slot completes, if it does."""
        self._slots.append(slot)
        if len(self._slots) < self.chunk:
            return None
        complete, self._slots = self._slots, []
        return complete

    def indices(self, slots: np.ndarray) -> np.ndarray:
        """The frames (S,) of a whole video's slots as rows of chunks (S // chunk, chunk)."""
        return slots[: len(slots) // self.chunk * self.chunk].reshape(-1, self.chunk)
