"""The frames of an MPEG-4 video in an AVI file by the headers of its packets, without decoding them.

AVI stores no presentation times, and a packet of MPEG-4 (ISO/IEC 14496-2) may hold two pictures, or none that is shown.
Where each packet holds one coded I- or P-picture and the decoder shows every picture at once, packet i is frame i.
The headers say so (6.2.3 and 6.2.5): video object layers of a rectangular shape without sprites and scalability, which
are the same in the whole file, and in each packet one picture that is coded. For any other file ``scan_mpeg4`` returns
None and the file is decoded once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from av.container import InputContainer
from av.video.stream import VideoStream

from vidact.video.disposable import NEEDED, START_CODE
from vidact.video.frame_index import KEEP_PACKETS, PacketNote, Scan, demux, feed, is_stored, new_scan, stamped
from vidact.video.stamps import STRAY_S

LAYERS = range(0x20, 0x30)  # start codes of video object layers
HARMLESS = {*range(0x20), 0xB0, 0xB2, 0xB3, 0xB5}  # video objects, the sequence, user data, group times
PICTURE = 0xB6
ALONE = START_CODE + bytes([PICTURE])  # the beginning of a packet without headers
SIMPLE, ADVANCED_SIMPLE = 1, 17  # kinds of video object layers
INTRA, PREDICTED = 0, 1  # kinds of pictures


class NotPlainError(Exception):
    """An error for a file whose frames only decoding can count."""


class _Bits:
    """The bits of some bytes, from the first one on; raises NotPlainError behind the last."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise NotPlainError
        return self._value >> self._left & ((1 << count) - 1)

    def require(self, value: int, count: int = 1) -> None:
        if self(count) != value:
            raise NotPlainError


def scan_mpeg4(container: InputContainer, stream: VideoStream) -> Scan | None:
    """Return what a pass over the packets that decodes all pictures would note; only the first one is decoded.

    None where the packets do not state it; then packets have been read.
    """
    if container.format.name != "avi" or stream.codec_context.codec.canonical_name != "mpeg4":
        return None
    try:
        return _scan(container, stream)
    except NotPlainError:
        return None


def _scan(container: InputContainer, stream: VideoStream) -> Scan:
    if container.size > KEEP_PACKETS:
        raise NotPlainError  # beside the decoding of a long file, a pass over its packets saves little
    scan, faults = new_scan(container, stream), list[Exception]()
    judge = Headers(stream.codec_context.extradata or b"")
    scan.kept_packets = [stamped(packet, "avi") for packet in demux(container, stream, faults=faults)]
    packets = [packet for packet in scan.kept_packets if is_stored(packet)]
    stamps = [packet.pts for packet in packets]
    if faults or not packets or None in stamps or any(packet.is_discard or packet.is_corrupt for packet in packets):
        raise NotPlainError
    longest = STRAY_S / scan.seconds_per_tick
    if not all(0 < stamp - before <= longest for before, stamp in itertools.pairwise(stamps)):  # type: ignore[operator]
        raise NotPlainError
    for packet in packets:
        judge(bytes(packet))
    feed(scan, packets[0], decode_all=False)
    if scan.frames != stamps[:1] or not packets[0].is_keyframe:
        raise NotPlainError  # the decoder holds pictures back, or stamps them in another way
    scan.packets = [PacketNote(packet.pts, packet.is_keyframe, False, packet.duration or 0) for packet in packets]
    scan.lifter(packets[0])
    scan.frames, scan.durations = list(stamps), [note.duration for note in scan.packets]
    scan.roles = [NEEDED] * len(stamps)
    scan.end = (packets[-1].pos or 0) + packets[-1].size
    return scan


class Headers:
    """A judge of the packets of one file, in the order of storing: it raises NotPlainError at the first other packet.

    Args:
        extradata: the headers that the container stores.
    """

    def __init__(self, extradata: bytes) -> None:
        self._layer: bytes | None = None
        self._time_bits, self._is_interlaced = 0, False
        self._is_first = True
        for code, unit in _units(extradata):
            self._take(code, unit)

    def __call__(self, packet: bytes) -> None:
        """Accept a packet with one coded I- or P-picture; the first must be an I-picture."""
        if packet.startswith(ALONE) and packet.find(START_CODE, len(ALONE)) < 0:
            self._take_picture(packet[len(ALONE) :])
            return
        count = 0
        for code, unit in _units(packet):
            if code == PICTURE:
                count += 1
                self._take_picture(unit)
            elif count:
                raise NotPlainError
            else:
                self._take(code, unit)
        if count != 1:
            raise NotPlainError

    def _take(self, code: int, unit: bytes) -> None:
        if code in LAYERS:
            if self._layer is None:
                self._layer = unit
                self._take_layer(_Bits(unit))
            elif unit != self._layer:
                raise NotPlainError
        elif code not in HARMLESS:
            raise NotPlainError

    def _take_layer(self, bits: _Bits) -> None:
        bits(1)
        if bits(8) not in (SIMPLE, ADVANCED_SIMPLE):
            raise NotPlainError
        version = 1
        if bits(1):
            version = bits(4)
            bits(3)
        if bits(4) == 15:  # the shape of a pixel is written out
            bits(16)
        if bits(1):
            bits(3)
            if bits(1):
                bits(79)  # the sizes of a buffer
        bits.require(0, 2)  # rectangular
        bits.require(1)
        resolution = bits(16)
        bits.require(1)
        if not resolution:
            raise NotPlainError
        self._time_bits = max(1, (resolution - 1).bit_length())
        if bits(1):
            bits(self._time_bits)
        for _ in range(2):  # the width and the height
            bits.require(1)
            if not bits(13):
                raise NotPlainError
        bits.require(1)
        self._is_interlaced = bool(bits(1))
        bits(1)
        bits.require(0, 1 if version == 1 else 2)  # no sprite
        bits.require(0)  # 8 bits
        if bits(1):
            bits.require(0, 2)  # no matrices of its own
        if version != 1:
            bits(1)
        bits.require(1)  # no estimates of complexity, which pictures would carry
        bits(1)
        if bits(1):
            bits(1)
        if version != 1:
            bits.require(0, 2)  # neither new prediction nor reduced resolution
        bits.require(0)  # not scalable

    def _take_picture(self, unit: bytes) -> None:
        if self._layer is None:
            raise NotPlainError
        if len(unit) >= 8 and self._is_usual(int.from_bytes(unit[:8], "big")):
            return
        bits = _Bits(unit[:8])
        kind = bits(2)
        if kind not in (INTRA, PREDICTED) or (self._is_first and kind != INTRA):
            raise NotPlainError
        self._is_first = False
        while bits(1):  # seconds; of more than a few, the bits run out
            pass
        bits.require(1)
        bits(self._time_bits)
        bits.require(1)
        bits.require(1)  # coded
        bits(kind + 3 + 2 * self._is_interlaced)
        if not bits(5) or (kind == PREDICTED and not bits(3)):  # FFmpeg refuses such pictures
            raise NotPlainError

    def _is_usual(self, head: int) -> bool:
        """Whether the first 64 bits are those of an acceptable picture of the same second, all fields at once."""
        kind = head >> 62
        if kind > PREDICTED or (self._is_first and kind != INTRA) or head >> 60 & 3 != 1:
            return False
        left = 58 - self._time_bits
        is_coded = head >> left & 3 == 3
        left -= kind + 3 + 2 * self._is_interlaced + 5
        if not is_coded or not head >> left & 31 or (kind == PREDICTED and not head >> left - 3 & 7):
            return False
        self._is_first = False
        return True


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the value of each start code, and the bytes from there to the next one."""
    start = data.find(START_CODE)
    if start > 0 and data[:start].strip(b"\0"):
        raise NotPlainError
    while start >= 0:
        if len(data) <= start + 3:
            raise NotPlainError
        following = data.find(START_CODE, start + 3)
        yield data[start + 3], data[start + 4 : following if following >= 0 else None]
        start = following
