"""The packets of an H.264 video in an MP4 file by its table of samples, without reading them through FFmpeg.

The table (ISO/IEC 14496-12, 8.5 to 8.7) states where each packet lies and when its picture is shown. The roles of the
packets and the key frames come from the headers of their NAL units (ITU-T H.264, 7.3.1, 7.3.3 and 7.4.1), which are
read for all packets at once. FFmpeg's pass over the packets takes several microseconds a packet; this takes one.

Only plain files are read in this way: one table, one description, no fragments, an edit list that hides nothing, no
parameter sets between the pictures, and no picture but IDR that FFmpeg would mark as a key frame. For any other file
``scan_table`` returns None and the packets themselves are read. What the table states is compared with FFmpeg's own
index of the file and with the first packets.

Shapes: N packets, in the order of storing.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from vidact.video.disposable import FREE, H264_HARMLESS, H264_SETS, H264_SLICE, NEEDED, Role, packet_judge, sets_change
from vidact.video.frame_index import PacketNote, Scan, demux, feed, new_scan, note_length
from vidact.video.stamps import DEEPEST, STRAY_S

READ_WHOLE = 16 * 2**20  # bytes: a smaller file is read at once, of a larger one only the headers of its units
FEWEST = 32  # packets: a shorter file is read as quickly by its packets
MOST_SEI = 64  # messages beside the pictures that are examined one by one
MOST_INTRA = 64  # I-pictures that are not IDR, which are examined one by one
COMPARED = 16  # packets whose rows are compared with FFmpeg's index

H264_IDR = 5
RECOVERY_POINT = 6  # the message (ITU-T H.264, D.1.8) that makes FFmpeg mark a picture as a key frame
TOP_LEVEL = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta"}


class NotPlainError(Exception):
    """An error for a file whose table is not enough to know its packets."""


@dataclass
class SampleTable:
    """The packets of one track: bytes of the file, stamps of decoding and of showing in ticks, key frames and roles."""

    offsets: np.ndarray  # (N,) int64
    sizes: np.ndarray  # (N,) int64
    decoded_at: np.ndarray  # (N,) int64, from 0
    shown_at: np.ndarray  # (N,) int64
    durations: np.ndarray  # (N,) int64
    is_key: np.ndarray  # (N,) bool
    roles: list[Role | None]
    intra: list[int]  # the packets with an I-picture that is not IDR


def scan_table(path: Path, container: InputContainer, stream: VideoStream) -> tuple[Scan, Iterator[Any]] | None:
    """Return what a pass over the packets would note, and the packets behind those that were decoded.

    The first packets are read and decoded, up to the first picture. None where the file is not plain; then packets may
    have been read.
    """
    context = stream.codec_context
    extradata = context.extradata or b""
    if container.format.name != "mov,mp4,m4a,3gp,3g2,mj2" or context.codec.canonical_name != "h264":
        return None
    if len(extradata) < 7 or extradata[0] != 1 or not stream.time_base or stream.time_base.numerator != 1:
        return None
    try:
        table = _read_table(path, stream.id, stream.time_base.denominator, extradata)
        _compare_with_index(table, stream)
        return _scan(table, container, stream, extradata)
    except NotPlainError:
        return None


def _scan(
    table: SampleTable, container: InputContainer, stream: VideoStream, extradata: bytes
) -> tuple[Scan, Iterator[Any]]:
    scan = new_scan(container, stream)
    scan.kept_packets = None
    packets = demux(container, stream)
    lift = 0
    for packet in packets:
        row = scan.fed
        if row >= len(table.sizes) or packet.pts is None or packet.is_discard or packet.has_sidedata("new_extradata"):
            raise NotPlainError
        if row == 0:
            lift = packet.pts - int(table.shown_at[0])
        stated = (table.offsets[row], table.sizes[row], table.shown_at[row] + lift, table.durations[row])
        if (packet.pos, packet.size, packet.pts, packet.duration) != tuple(map(int, stated)):
            raise NotPlainError
        if packet.is_keyframe != table.is_key[row]:
            raise NotPlainError
        feed(scan, packet, decode_all=False)
        if scan.first is not None:
            break
    if scan.first is None:
        raise NotPlainError
    stamps = (table.shown_at + lift).tolist()
    keys, durations = table.is_key.tolist(), table.durations.tolist()
    scan.packets = list(map(PacketNote, stamps, keys, itertools.repeat(False), durations))
    scan.roles = table.roles
    scan.sets_change = sets_change(table.roles, extradata)
    scan.lifter.depth = _depth(table, float(stream.time_base or 1))
    scan.reorder_depth = stream.codec_context.reorder_depth
    scan.end = int(table.offsets[-1] + table.sizes[-1])
    note_length(scan, stream)
    return scan, packets


def _compare_with_index(table: SampleTable, stream: VideoStream) -> None:
    """Raise NotPlainError where FFmpeg's index, after its treatment of edit lists, has other packets."""
    entries, count = stream.index_entries, len(table.sizes)
    if len(entries) != count:
        raise NotPlainError
    if len(table.intra) > MOST_INTRA or any(entries[row].is_keyframe for row in table.intra):
        raise NotPlainError  # the file may declare them to be key frames
    lift = entries[0].timestamp - int(table.decoded_at[0])
    for row in np.unique(np.linspace(0, count - 1, COMPARED).astype(int)).tolist():
        entry = entries[row]
        stated = (table.offsets[row], table.sizes[row], table.decoded_at[row] + lift)
        if entry.is_discard or (entry.pos, entry.size, entry.timestamp) != tuple(map(int, stated)):
            raise NotPlainError


def _depth(table: SampleTable, tick_s: float) -> int:
    """Return the most packets stored before one that is shown before them, as ``Lifter`` counts them.

    Raises NotPlainError for stamps that only the lifter can judge: they stray, or restart at a key frame.
    """
    shown_at = table.shown_at
    greatest = np.maximum.accumulate(shown_at)
    if (np.diff(greatest) > round(STRAY_S / tick_s)).any() or (shown_at[table.is_key] < greatest[table.is_key]).any():
        raise NotPlainError
    window = 2 * DEEPEST
    if (shown_at[window:] <= greatest[:-window]).any():
        raise NotPlainError
    held_back = np.zeros(len(shown_at), dtype=np.int64)
    for back in range(1, window):
        held_back[back:] += shown_at[:-back] > shown_at[back:]
    if held_back.max() > DEEPEST:
        raise NotPlainError
    return int(held_back.max())


# ----------------------------------------------------------------------------------------------------------------------
# The boxes of the file


def _read_table(path: Path, track: int, timescale: int, extradata: bytes) -> SampleTable:
    size = path.stat().st_size
    content: np.ndarray = np.fromfile(path, np.uint8) if size <= READ_WHOLE else np.memmap(path, np.uint8, "r")
    top = list(_boxes(content, 0, len(content)))
    names = [name for name, _, _ in top]
    if not set(names) <= TOP_LEVEL or names.count(b"moov") != 1 or names.count(b"ftyp") > 1:
        raise NotPlainError
    _, start, end = top[names.index(b"moov")]
    moov = content[start:end].tobytes()
    boxes = _tree(moov)
    if b"mvex" in boxes or b"mvhd" not in boxes:  # fragments follow
        raise NotPlainError
    movie_timescale = _movie_timescale(moov[slice(*boxes[b"mvhd"][0])])
    tracks = [_tree(moov, *span) for span in boxes.get(b"trak", [])]
    chosen = [each for each in tracks if _track_number(moov, each) == track]
    if len(chosen) != 1:
        raise NotPlainError
    return _read_track(moov, chosen[0], content, timescale, movie_timescale, extradata)


def _read_track(
    moov: bytes,
    track: dict[bytes, list[tuple[int, int]]],
    content: np.ndarray,
    timescale: int,
    movie: int,
    extradata: bytes,
) -> SampleTable:
    media = _tree(moov, *_only(track, b"mdia"))
    if _timescale(moov[slice(*_only(media, b"mdhd"))], 12, 20) != timescale:
        raise NotPlainError
    stbl = _tree(moov, *_only(_tree(moov, *_only(media, b"minf")), b"stbl"))
    body = {name: moov[slice(*_only(stbl, name))] for name in stbl if name in (b"stsd", b"stts", b"ctts", b"stsz")}
    body |= {name: moov[slice(*_only(stbl, name))] for name in stbl if name in (b"stsc", b"stco", b"co64")}
    if not {b"stsd", b"stts", b"stsz", b"stsc"} <= set(body) or (b"stco" in body) == (b"co64" in body):
        raise NotPlainError
    if _rows(body[b"stsd"], ">u4", 0)[1] != 1:
        raise NotPlainError
    sizes = _sizes(body[b"stsz"])
    offsets = _offsets(body, sizes)
    durations = _repeated(body[b"stts"], len(sizes))
    if len(sizes) < FEWEST or durations.min() < 1 or durations.max() >= 2**30:
        raise NotPlainError
    if (offsets + sizes).max() > len(content) or (np.diff(offsets) <= 0).any():
        raise NotPlainError
    decoded_at = np.concatenate([[0], np.cumsum(durations)[:-1]])
    shifts = _repeated(body[b"ctts"], len(sizes), ">i4") if b"ctts" in body else np.zeros(len(sizes), np.int64)
    if np.abs(shifts).max() >= 2**28:  # FFmpeg takes such values for errors
        raise NotPlainError
    shown_at = decoded_at + shifts
    if b"edts" in track:
        _refuse_hidden(moov, track, shown_at, timescale, movie)
    is_key, roles, intra = _roles(content, offsets, sizes, extradata)
    return SampleTable(offsets, sizes, decoded_at, shown_at, durations, is_key, roles, intra)


def _boxes(content: Any, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each box, and where its body begins and ends."""
    while start < end:
        if end - start < 8:
            raise NotPlainError
        length, name = struct.unpack(">I4s", bytes(content[start : start + 8]))
        body = start + 8
        if length == 1 and end - body >= 8:
            (length,) = struct.unpack(">Q", bytes(content[body : body + 8]))
            body += 8
        if length < body - start or length > end - start:  # a length of 0 reaches to the end of the file
            raise NotPlainError
        yield name, body, start + length
        start += length


def _tree(moov: bytes, start: int = 0, end: int | None = None) -> dict[bytes, list[tuple[int, int]]]:
    """Return where the bodies of the boxes inside a box lie, by their names."""
    tree: dict[bytes, list[tuple[int, int]]] = {}
    for name, body, stop in _boxes(moov, start, len(moov) if end is None else end):
        tree.setdefault(name, []).append((body, stop))
    return tree


def _only(boxes: dict[bytes, list[tuple[int, int]]], name: bytes) -> tuple[int, int]:
    if len(boxes.get(name, [])) != 1:
        raise NotPlainError
    return boxes[name][0]


def _number(body: bytes, at: int, code: str) -> int:
    if len(body) < at + struct.calcsize(code):
        raise NotPlainError
    return struct.unpack_from(code, body, at)[0]


def _timescale(body: bytes, at: int, at_in_long: int) -> int:
    """Return the ticks a second of a header, which lie elsewhere in one with times of 64 bits."""
    return _number(body, at_in_long if _number(body, 0, ">B") == 1 else at, ">I")


def _movie_timescale(body: bytes) -> int:
    return _timescale(body, 12, 20)


def _track_number(moov: bytes, track: dict[bytes, list[tuple[int, int]]]) -> int:
    return _timescale(moov[slice(*_only(track, b"tkhd"))], 12, 20)  # the number lies where other headers have the rate


def _rows(body: bytes, code: str, columns: int) -> np.ndarray:
    """Return the rows (R, ``columns``) of a table that begins with its version and their number; two values for 0."""
    if len(body) < 8:
        raise NotPlainError
    if not columns:
        return np.frombuffer(body, ">u4", 2)
    count, width = int(np.frombuffer(body, ">u4", 1, 4)[0]), np.dtype(code).itemsize * columns
    if len(body) - 8 < count * width:
        raise NotPlainError
    return np.frombuffer(body, code, count * columns, 8).astype(np.int64).reshape(count, columns)


def _sizes(body: bytes) -> np.ndarray:
    size, count = _number(body, 4, ">I"), _number(body, 8, ">I")
    if size or len(body) < 12 + 4 * count:  # packets of one size are sound, or not H.264
        raise NotPlainError
    return np.frombuffer(body, ">u4", count, 12).astype(np.int64)


def _repeated(body: bytes, count: int, code: str = ">u4") -> np.ndarray:
    """Return the values (N,) of a table of runs: how many packets, and the value of each."""
    rows = _rows(body, ">u4", 2)
    values = rows[:, 1] if code == ">u4" else rows[:, 1].astype(np.uint32).view(np.int32).astype(np.int64)
    if rows[:, 0].sum() != count:
        raise NotPlainError
    return np.repeat(values, rows[:, 0])


def _offsets(body: dict[bytes, bytes], sizes: np.ndarray) -> np.ndarray:
    """Return the byte (N,) at which each packet begins: packets lie behind each other in chunks."""
    chunks = (_rows(body[b"stco"], ">u4", 1) if b"stco" in body else _rows(body[b"co64"], ">u8", 1))[:, 0]
    runs = _rows(body[b"stsc"], ">u4", 3)  # the first chunk of a run, its packets in each chunk, their description
    if not len(runs) or not len(chunks) or runs[0, 0] != 1 or (np.diff(runs[:, 0]) <= 0).any():
        raise NotPlainError
    if (runs[:, 2] != 1).any() or runs[-1, 0] > len(chunks):
        raise NotPlainError
    per_chunk = np.repeat(runs[:, 1], np.diff(np.append(runs[:, 0], len(chunks) + 1)))
    if per_chunk.min() < 1 or per_chunk.sum() != len(sizes):
        raise NotPlainError
    before = np.cumsum(sizes) - sizes
    firsts = np.cumsum(per_chunk) - per_chunk
    return before + np.repeat(chunks - before[firsts], per_chunk)


def _refuse_hidden(
    moov: bytes, track: dict[bytes, list[tuple[int, int]]], shown_at: np.ndarray, timescale: int, movie: int
) -> None:
    """Raise NotPlainError for an edit list that is more than one part which shows every picture at the usual speed."""
    body = moov[slice(*_only(_tree(moov, *_only(track, b"edts")), b"elst"))]
    if _number(body, 4, ">I") != 1 or not movie:
        raise NotPlainError
    duration, begin, rate = (
        (_number(body, 8, ">Q"), _number(body, 16, ">q"), _number(body, 24, ">I"))
        if _number(body, 0, ">B") == 1
        else (_number(body, 8, ">I"), _number(body, 12, ">i"), _number(body, 16, ">I"))
    )
    end = begin + duration * timescale // movie
    if rate != 0x10000 or begin < 0 or shown_at.min() < begin or shown_at.max() >= end:
        raise NotPlainError


# ----------------------------------------------------------------------------------------------------------------------
# The NAL units of the packets


def _roles(
    content: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, extradata: bytes
) -> tuple[np.ndarray, list[Role | None], list[int]]:
    """Return which packets are key frames (N,), the role of each, and the I-pictures that are no key frames.

    They are known by the headers of their units.

    All packets go on from unit to unit together: a packet with k units takes part in k rounds. Packets with parameter
    sets are judged one by one.
    """
    count, length_bytes, num_sei, intra = len(sizes), (extradata[4] & 3) + 1, 0, list[int]()
    is_key, is_needed, has_picture, has_free, has_sets = (np.zeros(count, dtype=bool) for _ in range(5))
    rows, at, ends = np.arange(count), offsets.copy(), offsets + sizes
    while len(rows):
        unit = at[rows] + length_bytes
        if (unit + 2 > ends[rows]).any():
            raise NotPlainError
        length = np.zeros(len(rows), dtype=np.int64)
        for byte in range(length_bytes, 0, -1):
            length = length << 8 | content[unit - byte]
        following = unit + length
        if length.min() < 2 or (following > ends[rows]).any():
            raise NotPlainError
        head, second = content[unit], content[unit + 1]
        kind, importance = head & 31, head >> 5 & 3
        is_slice, is_idr = kind == H264_SLICE, kind == H264_IDR
        is_sei, is_set = kind == 6, np.isin(kind, list(H264_SETS))
        if not (is_slice | is_idr | is_set | np.isin(kind, list(H264_HARMLESS))).all():
            raise NotPlainError
        has_sets[rows[is_set]] = True
        num_sei += int(is_sei.sum())
        if num_sei > MOST_SEI:
            raise NotPlainError
        for begin, end in zip(unit[is_sei].tolist(), following[is_sei].tolist(), strict=True):
            _refuse_recovery(content[begin + 1 : end].tobytes())
        is_first = (is_slice | is_idr) & ~has_picture[rows]
        # The first slice of a picture begins with macroblock 0, coded as the bit 1; then its type is 2 or 7 for I.
        is_intra = (second & 0xF0 == 0xB0) | (second == 0x88)
        if (is_first & (second & 0x80 == 0)).any():
            raise NotPlainError
        intra.extend(rows[is_first & is_slice & is_intra].tolist())
        is_key[rows[is_first & is_idr]] = True
        has_picture[rows[is_slice | is_idr]] = True
        has_free[rows[is_slice & (importance == 0)]] = True
        is_needed[rows[is_idr | (is_slice & (importance > 0))]] = True
        at[rows] = following
        rows = rows[following < ends[rows]]
    if not has_picture.all():
        raise NotPlainError
    roles: list[Role | None] = [FREE if is_free else NEEDED for is_free in (has_free & ~is_needed).tolist()]
    judge = packet_judge("h264", extradata)
    for row in np.flatnonzero(has_sets).tolist():
        assert judge is not None
        roles[row] = judge(content[offsets[row] : offsets[row] + sizes[row]].tobytes())
    return is_key, roles, intra


def _refuse_recovery(messages: bytes) -> None:
    """Raise NotPlainError where supplemental information has a recovery point, or cannot be followed to its end."""
    at = 0
    while at < len(messages) and messages[at:] != b"\x80":
        kind_and_length = []
        for _ in range(2):
            value = 0
            while at < len(messages) and messages[at] == 0xFF:
                value, at = value + 255, at + 1
            if at >= len(messages):
                raise NotPlainError
            kind_and_length.append(value + messages[at])
            at += 1
        kind, length = kind_and_length
        at += length
        if kind == RECOVERY_POINT or at >= len(messages):
            raise NotPlainError
