"""Stamps of packets that overflow, jump or stray, as one rising clock."""

from __future__ import annotations

import math
from bisect import bisect_right, insort

import av
import av.error
import av.format

# Bits of the stamps of containers whose count begins anew at its end. FFmpeg unwraps what it recognises by the first
# stamp of the file, so that of a joined file some are left wrapped, and others are raised that were not.
STAMP_BITS = {"mpegts": 33, "mpeg": 33, "flv": 32}
WRAP_S = 3600.0  # seconds: a count that begins at 0 again, and does not go on within this time, is another one
ABSURD_S = 30 * 3600.0  # seconds: no file goes on after a longer pause; the clock was set. FFmpeg's own limit
STRAY_S = 10.0  # seconds: a broken stamp is farther than this from its neighbours, which are nearer to each other
DEEPEST = 16  # pictures that may be stored before one that is shown before them: what H.264 and HEVC allow at most


# ----------------------------------------------------------------------------------------------------------------------


class Lifter:
    """Lifts the stamps of packets, in the order of storing, over those before where they begin anew.

    A part begins where a stamp falls back and no B-frame explains it: at a key frame, before which everything stored is
    shown; or below more stamps than a decoder may hold back; or where it runs ahead by more than a pause can last. What
    is added to a part's stamps makes them differ from all before and says nothing of time. ``floors`` holds for each
    part the least of its lifted stamps, ``lifts`` where so many ticks begin to be added: there are more of these, since
    the count of a part may wrap. ``strays`` are lifted stamps that ran far ahead of packets which follow them before
    the next key frame, as one with a broken bit does, or the first behind a pause: what follows begins nothing.
    """

    def __init__(self, format: str, seconds_per_tick: float) -> None:
        self._period = 2 ** STAMP_BITS[format] if format in STAMP_BITS else 0
        self._wrap = round(WRAP_S / seconds_per_tick)
        self._longest = min(ABSURD_S / seconds_per_tick, self._period / 2 or math.inf)
        self._count = self._lift = 0
        self._own_lift = 0  # what is added to a stamp as it stands in the file, not raised by FFmpeg
        self._latest: list[int] = []  # the greatest lifted stamps of the part, ascending
        self._is_key = False  # whether a key frame was stored since the last one that is shown
        self.depth = 0  # most packets stored before one that is shown before them
        self.lifts: list[tuple[int, int]] = []
        self.floors: list[int] = []
        self.strays: set[int] = set()
        self._stray = round(STRAY_S / seconds_per_tick)
        self._before: list[int] = []  # what was the latest before a stamp ran far ahead, and since then
        self._ahead: list[int] = []
        self._top = 0  # the greatest lifted stamp of all

    def __call__(self, packet: av.Packet) -> None:
        """One more packet; its stamps are lifted in place."""
        stamp = packet.pts
        self._is_key = self._is_key or packet.is_keyframe
        if stamp is not None and not packet.is_discard:  # a hidden one's stamp is not its own
            ticks = self._lifted(stamp, packet) - stamp
            if ticks != self._lift:
                self._lift = ticks
                self.lifts.append((self._count, ticks))
            self._is_key = False
        if self._lift:
            lift(packet, self._lift)
        self._count += 1

    def _lifted(self, stamp: int, packet: av.Packet) -> int:
        own = stamp % self._period if self._period else stamp
        latest = self._latest
        if not latest:
            self._own_lift, self.floors, self._top = stamp - own, [stamp], stamp
            latest.append(stamp)
            return stamp
        most, lifted = latest[-1], own + self._own_lift
        if self._ahead or not most < lifted <= most + self._stray:
            lifted = self._fallen_or_far(lifted, packet.duration or 0)
            self._own_lift = lifted - own
        insort(latest, lifted)
        if len(latest) > DEEPEST + 1:
            del latest[0]
        return lifted

    def _fallen_or_far(self, lifted: int, duration: int) -> int:
        """A stamp that does not follow closely on the greatest one: wrapped, stray, out of order, or begun anew."""
        latest = self._latest
        for turn in (self._period, -self._period):
            if abs(lifted - latest[-1]) > self._wrap >= abs(lifted + turn - latest[-1]):
                lifted += turn
        if self._ahead and not self._is_key and abs(lifted - self._before[-1]) <= self._stray:
            self.strays.update(self._ahead)
            latest[:], self._ahead = self._before, []
        elif self._ahead:
            self._ahead = [] if self._is_key or len(self._ahead) == DEEPEST else [*self._ahead, lifted]
        elif lifted - latest[-1] > self._stray:
            self._before, self._ahead = latest.copy(), [lifted]
        self._top = max(self._top, latest[-1], *self._ahead)
        held_back = len(latest) - bisect_right(latest, lifted)
        is_back = held_back > DEEPEST or (self._is_key and lifted <= latest[-1])
        if not is_back and lifted - latest[-1] <= self._longest:
            self.depth = max(self.depth, held_back)
            return lifted
        latest.clear()
        self.floors.append(self._top + 1)
        # so far on that what is shown before the part's first packet stays above the part before
        return self._top + duration + self._wrap


def lift(packet: av.Packet, ticks: int) -> None:
    """Add so many ticks to a packet's stamps."""
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
