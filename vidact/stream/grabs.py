"""Pictures with their seconds, and the contract of what delivers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np

# Seconds for which a live source may show nothing. Behind a longer gap the stream starts again: the past that the
# detector remembers ended before the gap, and how an open event continued is not known, so the event ends and is
# reported as soon as that is certain. A file's gaps are filled as its features' record says, as extraction does.
GAP_S = 5.0

Report = Callable[[str], None]
StateReport = Callable[[str, str], None]


class SourceError(ValueError):
    """A source that cannot be opened or read: the message names it, says what is wrong and what to do."""


@dataclass(frozen=True)
class Grab:
    """One picture of a source."""

    seconds: float  # presentation time since the source's begin; never less than the one before
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright, contiguous; a live source's size may change
    captured: float  # time.monotonic() when it was taken or came in
    dropped: int  # pictures that nobody took between the last Grab and this one


class Source:
    """Pictures one by one: ``with open_source("0") as source: for grab in source: …``

    The next picture of a live source is waited for; iteration ends with the file, or after ``close()``.
    """

    name: str  # without passwords
    is_live: bool
    realtime: bool  # pictures come at their own speed; False: a file, as fast as it is read
    fps: float | None  # as the source says; None: it does not
    dropped: int = 0  # pictures so far that nobody took
    skipped: int = 0  # corrupt pictures so far
    end_s: float | None = None  # when the last picture ends, once a file has been played to its end

    def __iter__(self) -> Iterator[Grab]:
        return self

    def __next__(self) -> Grab:
        raise NotImplementedError

    def close(self) -> None:
        """End the iteration, from any thread; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"
