"""A clock that rises through a whole file, made from stamps of packets that overflow, jump or stray."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from typing import Any

import av
import av.error
import av.format

# Bits of the stamps of containers whose count wraps to 0. FFmpeg unwraps stamps by the first stamp of the file, so that
# in a joined file it leaves some stamps wrapped and raises others that were not wrapped.
STAMP_BITS = {"mpegts": 33, "mpeg": 33, "flv": 32}
WRAP_S = 3600.0  # seconds: a count that falls to 0 and does not continue within this time is a new count
ABSURD_S = 30 * 3600.0  # seconds: a longer pause means that the clock was set; FFmpeg's own limit
STRAY_S = 10.0  # seconds: a broken stamp is farther than this from its neighbours, which are nearer to each other
DEEPEST = 16  # the most pictures stored before one that is shown before them: the limit of H.264 and HEVC


# ----------------------------------------------------------------------------------------------------------------------


class Lifter:
    """A callable that lifts the stamps of packets, in the order of storing, above all earlier ones where they restart.

    A part begins where a stamp falls back and no B-frame explains it: at a key frame, since all pictures stored before
    it are shown before it; or below more stamps than a decoder may hold back; or where it runs ahead by more than the
    longest pause. The ticks added to a part's stamps only make them differ from all earlier stamps; they are no times.
    ``floors`` holds the least lifted stamp of each part. ``lifts`` holds pairs of a packet's position and the ticks
    added from it on; they may be more than the parts, since the count of a part may wrap. ``strays`` are lifted stamps
    far ahead of packets that follow before the next key frame, such as a stamp with a broken bit, or the first stamp
    behind a pause; the packets that follow a stray begin no part.
    """

    def __init__(self, format: str, seconds_per_tick: float) -> None:
        self._period = 2 ** STAMP_BITS[format] if format in STAMP_BITS else 0
        self._wrap = round(WRAP_S / seconds_per_tick)
        self._longest = min(ABSURD_S / seconds_per_tick, self._period / 2 or math.inf)
        self._count = self._lift = 0
        self._own_lift = 0  # the ticks added to a stamp as stored in the file, before FFmpeg raises it
        self._latest: list[int] = []  # the greatest lifted stamps of the part, ascending
        self._is_key = False  # whether a key frame was stored since the last one that is shown
        self.depth = 0  # the most packets stored before one that is shown before them
        self.lifts: list[tuple[int, int]] = []
        self.floors: list[int] = []
        self.strays: set[int] = set()
        self._stray = round(STRAY_S / seconds_per_tick)
        self._before: list[int] = []  # the value of _latest before a stamp ran far ahead; _ahead holds the stamps since
        self._ahead: list[int] = []
        self._top = 0  # the greatest lifted stamp of all

    def __call__(self, packet: av.Packet[Any]) -> None:
        """Lift the stamps of the next packet in place."""
        stamp = packet.pts
        self._is_key = self._is_key or packet.is_keyframe
        if stamp is not None and not packet.is_discard:  # a hidden packet may carry another packet's stamp
            ticks = self._lifted(stamp, packet) - stamp
            if ticks != self._lift:
                self._lift = ticks
                self.lifts.append((self._count, ticks))
            self._is_key = False
        if self._lift:
            lift(packet, self._lift)
        self._count += 1

    def _lifted(self, stamp: int, packet: av.Packet[Any]) -> int:
        raw = stamp % self._period if self._period else stamp
        latest = self._latest
        if not latest:
            self._own_lift, self.floors, self._top = stamp - raw, [stamp], stamp
            latest.append(stamp)
            return stamp
        most, lifted = latest[-1], raw + self._own_lift
        if self._ahead or not most < lifted <= most + self._stray:
            lifted = self._fallen_or_far(lifted, packet.duration or 0)
            self._own_lift = lifted - raw
        insort(latest, lifted)
        if len(latest) > DEEPEST + 1:
            del latest[0]
        return lifted

    def _fallen_or_far(self, lifted: int, duration: int) -> int:
        """Lift a stamp that does not closely follow the greatest one: a wrap, a stray, a reordering or a new part."""
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
        # The gap keeps pictures shown before the part's first packet above the part before.
        return self._top + duration + self._wrap


def lift(packet: av.Packet[Any], ticks: int) -> None:
    """Add so many ticks to a packet's stamps."""
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
