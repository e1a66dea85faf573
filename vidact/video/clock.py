"""Clock: frames that come at any rate become slots at a steady one, and slots become chunks.

Slot k is the instant ``first frame's time + k / fps``, and shows the frame nearest to it: a frame is shown again where
the next one is late, and left out where frames come early. Nothing is blended. Of two equally near frames, as at every
fourth slot from 30 fps to 24, the earlier one is shown. (FFmpeg's fps filter rounds frames to slots instead, so it
sometimes takes the frame after ours.)

The frames of a camera are pushed one by one; those of a file, whose times are all known, are chosen by ``indices``.
Both ways choose the same frames, so what a network learned from files holds for cameras.

Shapes: N frames, S slots.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

# A tolerance in slots, 4 µs at 24 fps: a frame this near to an instant stands on it, and distances this similar are
# equal. Seconds since 1970 have steps of 0.24 µs, for which a camera must not choose other frames than a file.
NEAR = 1e-4


# The longest pause of a file, in seconds, that is filled with its frames. A slide or a still screen stands that long,
# and its 240 tokens cost little. What happened in a longer pause is unknown, so the clock starts again behind it.
LONGEST_GAP_S = 60.0


def takes(times_s: np.ndarray, longest_gap_s: float | None) -> list[slice]:
    """Return the stretches of frames that are more than ``longest_gap_s`` apart; for None, one stretch of all frames.

    A clock starts again with each, as a stream does, so that no pause becomes thousands of slots of a frozen picture.

    >>> takes(np.array([0.0, 0.5, 600.0, 600.5]), 60)
    [slice(0, 2, None), slice(2, 4, None)]
    """
    starts = [] if longest_gap_s is None else (np.flatnonzero(np.diff(times_s) > longest_gap_s) + 1).tolist()
    return [slice(start, end) for start, end in zip([0, *starts], [*starts, len(times_s)], strict=True)]


def refuse_gap(longest_gap_s: float | None) -> None:
    """Raise ValueError unless the longest gap is a number of seconds above 0, or None."""
    if longest_gap_s is not None and not 0 < longest_gap_s < math.inf:
        raise ValueError(
            f"longest_gap_s is {longest_gap_s:g}; the longest gap that is filled is a number of seconds above 0"
        )


class Slot(NamedTuple):
    """An instant of the steady rate: its number from 0, its time in the source's own seconds, and its image."""

    number: int
    time_s: float
    image: Any


class Clock:
    """A converter from frames with timestamps to slots of a steady rate, from the first frame's time on.

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
        self._image: Any = None  # the last frame's
        self._position = 0.0  # the last frame's, in slots
        self._next = 0  # the first slot that is not certain yet

    def push(self, time_s: float, image: Any) -> list[Slot]:
        """Add a frame; return the slots up to its time, which are now certain.

        A slot is certain once a frame at or after its instant has come. Times may repeat and may leave gaps of any
        length, which are filled: half with the frame before, half with the one after.

        Raises ValueError where time goes backwards; a source that was restarted needs a new clock.
        """
        if not math.isfinite(time_s):
            raise ValueError(f"a frame came at {time_s} s; a frame's time is a number of seconds")
        if self._first_s is None:
            self._first_s, self._last_s, self._image = time_s, time_s, image
        if time_s < self._last_s:
            raise ValueError(
                f"a frame of {time_s:.3f} s came after one of {self._last_s:.3f} s; time goes forwards. "
                "If the source was restarted, begin a new clock"
            )
        position = (time_s - self._first_s) * self.fps
        certain = []
        while position + NEAR >= self._next:
            is_before = self._next - self._position <= position - self._next + NEAR
            certain.append(self._slot(self._image if is_before else image))
        self._last_s, self._position, self._image = time_s, position, image
        return certain

    def finish(self, end_s: float | None = None) -> list[Slot]:
        """Return the slots that the last frame still fills when no more frames come.

        These are the slot just after it, where that is less than half a slot ahead, and the slots of which at least
        half lies before ``end_s``, where the last frame ends; None where that is unknown.
        """
        if self._first_s is None:
            return []
        count = self._count(self._position, end_s, self._first_s)
        return [self._slot(self._image) for _ in range(self._next, count)]

    def _count(self, position: float, end_s: float | None, first_s: float) -> int:
        """Return the number of slots of a source whose last frame is at ``position`` slots and ends at ``end_s``."""
        count = math.floor(position + NEAR) + 1
        count += count - position < 0.5 - NEAR
        return count if end_s is None else max(count, math.floor((end_s - first_s) * self.fps + 0.5 + NEAR))

    def _slot(self, image: Any) -> Slot:
        assert self._first_s is not None
        slot = Slot(self._next, self._first_s + self._next / self.fps, image)
        self._next += 1
        return slot

    def indices(self, times_s: np.ndarray, end_s: float | None = None) -> np.ndarray:
        """Return the number of the frame that each slot of a whole video shows, int64 (S,); ``times_s`` (N,) ascend.

        Pushing all the frames and ``finish(end_s)`` show the same frames. The clock itself does not change.
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
        positions = (times_s - times_s[0]) * self.fps
        slots = np.arange(self._count(float(positions[-1]), end_s, float(times_s[0])))
        after = np.searchsorted(positions + NEAR, slots)  # the frame whose arrival makes the slot certain; N for none
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, len(positions) - 1)
        return np.where(slots - positions[before] <= positions[after] - slots + NEAR, before, after)


class Chunker:
    """A collector of consecutive slots into chunks; the slots left over at the end make no chunk.

    >>> Chunker(chunk=2, history=3).indices(np.array([10, 11, 12, 13, 14])).tolist()
    [[10, 10, 10, 10, 11], [10, 10, 11, 12, 13]]

    Args:
        chunk: the number of slots in a chunk.
        history: the number of slots before a chunk that are returned in front of it. Before the first slot of the
            source they repeat that slot.
    """

    def __init__(self, chunk: int = 6, history: int = 0) -> None:
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; a chunk has at least one slot")
        if history < 0:
            raise ValueError(f"history is {history}; it is a number of slots, 0 or more")
        self.chunk, self.history = chunk, history
        self._slots: list[Slot] = []  # the slots before the chunk, then those of the chunk

    def push(self, slot: Slot) -> list[Slot] | None:
        """Return the history and the chunk that this slot completes; None where it completes none."""
        if not self._slots:
            self._slots = [slot] * self.history
        self._slots.append(slot)
        if len(self._slots) < self.history + self.chunk:
            return None
        complete, self._slots = self._slots, self._slots[self.chunk :]
        return complete

    @property
    def count(self) -> int:
        """The number of slots of the chunk that is not complete yet."""
        return max(0, len(self._slots) - self.history)

    @property
    def slots(self) -> list[Slot]:
        """The history and the slots of the chunk that is not complete yet."""
        return list(self._slots)

    def indices(self, slots: np.ndarray) -> np.ndarray:
        """Return the frames (S,) of a whole video's slots as rows of a history and a chunk.

        The result has the shape (S // chunk, history + chunk).
        """
        starts = np.arange(len(slots) // self.chunk) * self.chunk - self.history
        return slots[np.maximum(starts[:, None] + np.arange(self.history + self.chunk), 0)]
