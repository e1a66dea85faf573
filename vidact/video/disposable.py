"""The disposable packets of a video: no other picture refers to theirs, so they may stay undecoded.

This is read from the coded stream, since containers seldom state it. A picture counts as disposable only where the
standard forbids every other picture to refer to it and its packet carries no data for later packets (no parameter
sets, no matrices):

* H.264 (ITU-T H.264, 7.4.1): slices with nal_ref_idc 0.
* HEVC (ITU-T H.265, 7.4.2.2): sub-layer non-reference pictures of the highest temporal sub-layer in the file; one of a
  lower sub-layer may be referred to from above.
* MPEG-1 and 2 (ISO/IEC 13818-2, 6.3.9) and MPEG-4 part 2 (ISO/IEC 14496-2, 6.3.5): B-pictures.

H.264 and HEVC packets may also carry parameter sets, which apply to all later packets until they are replaced. In most
files they never change; where they do, decoding can begin only at a key frame that carries its own.

Packets of other codecs are not judged. In VP8 and VP9 a picture without references to it still leaves its
probabilities, motion vectors or segments behind; AV1 stores its references in headers that are not parsed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

START_CODE = b"\x00\x00\x01"

H264_SLICE = 1
H264_HARMLESS = {6, 9, 12}  # supplemental information, delimiter, filler
H264_SETS = {7, 8}  # parameter sets of the sequence and of the picture
HEVC_PICTURES = range(32)
HEVC_HARMLESS = {35, 38, 39, 40}  # delimiter, filler, supplemental information before and after
HEVC_SETS = {32, 33, 34}  # parameter sets of the video, the sequence and the picture


@dataclass(frozen=True)
class Role:
    """The role of a packet for the others.

    It holds the temporal sub-layer (0 where a codec has none), whether a picture of the same sub-layer may refer to the
    packet, the parameter sets in it, and whether these are all the sets that its picture needs.
    """

    layer: int
    is_needed: bool
    sets: tuple[bytes, ...] = field(default=(), compare=False)
    has_all_sets: bool = field(default=False, compare=False)


NEEDED = Role(0, True)
FREE = Role(0, False)
Judge = Callable[[bytes], Role | None]


def packet_judge(codec: str, extradata: bytes | None) -> Judge | None:
    """Return a function from a packet's bytes to its role; None for codecs whose packets do not show it.

    That function returns None for a packet that holds two pictures, of which the decoder outputs the second with the
    next packet: then no packet of the file may be left out.
    """
    extradata = extradata or b""
    if codec == "h264":
        length_bytes = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0
        return lambda data: _h264(_units(data, length_bytes))
    if codec == "hevc":
        length_bytes = (extradata[21] & 3) + 1 if len(extradata) > 21 and extradata[0] == 1 else 0
        return lambda data: _hevc(_units(data, length_bytes))
    return {"mpeg4": _mpeg4, "mpeg1video": _mpeg2, "mpeg2video": _mpeg2}.get(codec)


def are_disposable(roles: list[Role | None]) -> list[bool]:
    """Return for each packet of a file, by the roles of all, whether it may stay undecoded."""
    kinds = {id(role): role for role in roles}.values()  # few, since most packets share a role
    if not roles or None in kinds:
        return [False] * len(roles)
    top = max(role.layer for role in kinds if role)
    if not any(role and not role.is_needed and role.layer == top for role in kinds):
        return [False] * len(roles)
    return [bool(role) and not role.is_needed and role.layer == top for role in roles]  # type: ignore[union-attr]


def sets_change(roles: list[Role | None], extradata: bytes | None) -> bool:
    """Whether packets of a file carry parameter sets that differ, from each other or from the container's own."""
    carried = [role.sets for role in roles if role and role.sets]
    if not carried:
        return False
    is_other = bool(extradata) and any(parameters not in extradata for parameters in carried[0])  # type: ignore[operator]
    return is_other or any(sets != carried[0] for sets in carried)


def _units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield each NAL unit: behind its length (MP4, Matroska), or behind a start code (AVI, streams).

    Yields an empty unit, which no rule accepts, where the lengths do not add up.
    """
    if not length_bytes:
        start = data.find(START_CODE)
        if start < 0:
            yield b""
        while start >= 0:
            following = data.find(START_CODE, start + 3)
            # A unit ends with a set bit; zeros behind it belong to the next start code.
            yield data[start + 3 : following if following >= 0 else None].rstrip(b"\0")
            start = following
        return
    start, end = 0, len(data)
    while start < end:
        body = start + length_bytes
        start = body + int.from_bytes(data[start:body], "big")
        yield data[body:start] if body < start <= end else b""


def _h264(units: Iterator[bytes]) -> Role:
    has_picture, is_needed = False, False
    sets: dict[bytes, int] = {}
    for unit in units:
        if not unit:
            is_needed = True
            break
        kind, importance = unit[0] & 31, unit[0] >> 5 & 3
        if kind == H264_SLICE and importance == 0:
            has_picture = True
        elif kind in H264_SETS:
            sets[unit], is_needed = kind, True
        elif kind not in H264_HARMLESS:
            is_needed = True
            break  # parameter sets are stored before the picture
    if not sets:
        return NEEDED if is_needed or not has_picture else FREE
    return Role(0, is_needed or not has_picture, tuple(sets), set(sets.values()) == H264_SETS)


def _hevc(units: Iterator[bytes]) -> Role:
    layer, has_picture, is_needed = 0, False, False
    sets: dict[bytes, int] = {}
    for unit in units:
        if len(unit) < 2:
            is_needed = True
            break
        kind, stream = unit[0] >> 1 & 63, (unit[0] & 1) << 5 | unit[1] >> 3
        if stream:  # a second view or a scalable layer, which refers to this picture
            return Role(7, True)
        if kind in HEVC_PICTURES:
            has_picture = True
            layer = max(layer, (unit[1] & 7) - 1)
            is_needed |= kind > 14 or kind % 2 == 1  # even up to 14: TRAIL_N, TSA_N, STSA_N, RADL_N, RASL_N
        elif kind not in HEVC_HARMLESS:
            is_needed = True
            if kind in HEVC_SETS:
                sets[unit] = kind
    return Role(layer, is_needed or not has_picture, tuple(sets), set(sets.values()) == HEVC_SETS)


def _start_codes(data: bytes) -> Iterator[int]:
    """Yield the position behind each start code, which is that of its value."""
    start = data.find(START_CODE)
    while 0 <= start < len(data) - 3:
        yield start + 3
        start = data.find(START_CODE, start + 3)


def _mpeg4(data: bytes) -> Role | None:
    pictures, is_needed = 0, False
    for position in _start_codes(data):
        if data[position] == 0xB6:
            pictures += 1
            is_needed |= len(data) <= position + 1 or data[position + 1] >> 6 != 2
        elif data[position] != 0xB2:  # 0xB2 is user data
            is_needed = True
    if pictures > 1:
        return None
    return FREE if pictures == 1 and not is_needed else NEEDED


def _mpeg2(data: bytes) -> Role:
    has_picture = False
    for position in _start_codes(data):
        value = data[position]
        following = data[position + 1 : position + 3]
        if value == 0x00:
            if len(following) < 2 or following[1] >> 3 & 7 != 3:
                return NEEDED
            has_picture = True
        elif value == 0xB5:
            # Allowed: the picture's display (7) and coding (8) extensions; matrices (3) last beyond the picture.
            if not following or following[0] >> 4 not in (7, 8):
                return NEEDED
        elif not 0x01 <= value <= 0xAF and value != 0xB2:  # neither a slice nor user data
            return NEEDED
    return FREE if has_picture else NEEDED
