"""The pictures of a stream with their times, and the interface of what delivers them."""

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

    seconds: float  # presentation time since the source's start; never less than that of the picture before
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright, contiguous; a live source's size may change
    captured: float  # time.monotonic() when the picture was taken or arrived
    dropped: int  # pictures since the last Grab that were replaced before they were read


class Source:
    """An iterator over pictures: ``with open_source("0") as source: for grab in source: …``

    The next picture of a live source is waited for; iteration ends with the file, or after ``close()``.
    """

    name: str  # contains no password
    is_live: bool
    realtime: bool  # pictures come at their own speed; False: a file, as fast as it is read
    fps: float | None  # frames a second as the source states it, or None
    dropped: int = 0  # pictures so far that were replaced before they were read
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
