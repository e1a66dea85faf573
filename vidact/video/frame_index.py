"""The index of a video file: its frames, their times, where decoding can begin, and what it may leave out.

One pass over the packets is enough where the container stores a presentation time for each packet and the codec stores
one picture in each; otherwise the file is decoded once.

Shapes: N frames of the video.
"""

from __future__ import annotations

import itertools
import logging
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import av.error
import av.format
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vidact.video.colours import HDR, LAST_OF_VIDEO, UNKNOWN_MATRICES
from vidact.video.disposable import Role, are_disposable, packet_judge, sets_change
from vidact.video.file_facts import LONGEST_PICTURE_S, FileFacts, is_raw
from vidact.video.reader import VideoError
from vidact.video.stamps import DEEPEST, Lifter

log = logging.getLogger(__name__)

# Only these containers store a presentation time for every packet, and only with these codecs is one packet one shown
# picture. Everything else (AVI has no presentation times, VP8 has packets that show nothing, MPEG-4 packs two
# pictures into one packet, a transport stream may begin anywhere) is decoded once to be counted.
STAMPED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
STAMPED_CODECS = {"h264", "hevc", "vp9", "av1"}

# The bytes that open a file of each container, and their distance from the file's start. FFmpeg's demuxers of these
# containers stop before a second such header, Matroska's before a third, and Ogg's before a second one of several
# streams.
HEADS = {
    "apng": (b"\x89PNG\r\n\x1a\n", 0),
    "asf": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0),
    "flv": (b"FLV\x01", 0),
    "ivf": (b"DKIF\0\0", 0),
    "matroska,webm": (b"\x1a\x45\xdf\xa3", 0),
    "mov,mp4,m4a,3gp,3g2,mj2": (b"ftyp", 4),
    "ogg": (b"OggS\0\x02", 0),
    "rm": (b".RMF\0\0\0", 0),
    "wtv": (b"\xb7\xd8\x00\x20\x37\x49\xda\x11", 0),
    "yuv4mpegpipe": (b"YUV4MPEG2 ", 0),
}

KEEP_PACKETS = 16 * 2**20  # bytes: a smaller file is read from the disk once and then kept until it is closed
KEEP_PICTURES = 64 * 2**20  # bytes: up to this size, pictures decoded for the index are kept for the first request


@dataclass(frozen=True)
class Turn:
    """The steps that make a stored picture upright: transpose first, then mirror.

    FFmpeg's display matrix sends the pixel (x, y) to (a x + c y, b x + d y). We honour quarter turns and mirrors, and
    take the nearest quarter turn of any other angle.
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Turn:
        """Return the turn of a display matrix, nine int32: a b u, c d v, x y w."""
        a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
        if abs(b) > abs(a):
            return Turn(True, c < 0, b < 0)
        return Turn(False, a < 0, d < 0)

    @property
    def quarters(self) -> int:
        """The quarter turns counter-clockwise made by a library that reads FFmpeg's angle and ignores mirrors."""
        if self.transpose:
            return 1 if self.mirror_y else 3
        return 2 if self.mirror_x else 0

    def __call__(self, image: np.ndarray) -> np.ndarray:  # (H, W, 3)
        if self.transpose:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


class Traits(IntFlag):
    """Properties that at least one decoded picture of a video has.

    All pictures were decoded where ALL_SEEN is set; otherwise only the first ones.
    """

    INTERLACED = 1
    STRANGE_MATRIX = 2  # FFmpeg's scaler does not support it
    COLOURS_CHANGE = 4  # the matrix or the range differs between pictures
    UNDECODABLE = 8
    ALL_SEEN = 16
    PIXELS_CHANGE = 32  # the pixel format, such as yuv420p, differs between pictures
    PALETTE = 64
    OTHER_GAMUT = 128  # HDR, or primaries other than those of BT.709 and BT.601


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a file in the order in which they are shown; the last ends at ``end_s``.

    ``stamps`` (N,) are the timestamps that identify the decoder's pictures. They are None where the file has no
    distinct ones; then a frame is found only by counting from the start. Decoding can begin at the key frames:
    ``key_frames[j]`` is the number of the first frame shown from the packet stamped ``key_stamps[j]``, which is packet
    ``key_packets[j]`` in the order of storing. ``disposable`` (N,) marks the frames that no other frame refers to, see
    ``vidact.video.disposable``. ``traits`` are the properties that other libraries cannot read.
    ``height`` and ``width`` are the stored picture's, before ``turn``. Where ``sets_change``, a decoder that has read
    on cannot go back to the start of the file: that needs a new decoder. ``depth`` is the number of pictures that
    the decoder of a file opened with ``UNPROBED`` has to hold back, -1 where the file needs to be probed. ``facts`` are
    those of the file.

    The stamps of a joined file restart inside it. ``parts`` are the first frames of its parts, [0] in any other file.
    Each row of ``lifts`` (R, 2) is a packet, counted in the order of storing, and the ticks that are added to the
    file's stamps from that packet on, so that ``stamps`` differ from part to part; empty where nothing is added.
    """

    times_s: np.ndarray
    end_s: float
    stamps: np.ndarray | None
    key_frames: np.ndarray
    key_stamps: np.ndarray
    key_packets: np.ndarray
    disposable: np.ndarray
    height: int
    width: int
    turn: Turn
    traits: Traits
    sets_change: bool = False
    parts: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    lifts: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    depth: int = -1
    facts: FileFacts | None = None

    def __len__(self) -> int:
        return len(self.times_s)

    @cached_property
    def number_of(self) -> dict[int, int]:
        """A dictionary from stamps to frame numbers; empty without stamps."""
        return {} if self.stamps is None else {stamp: i for i, stamp in enumerate(self.stamps.tolist())}

    @property
    def is_joined(self) -> bool:
        return len(self.parts) > 1

    @cached_property
    def may_wait(self) -> list[bool]:
        """``disposable`` as a list, which the decoding loop indexes faster for every packet."""
        return self.disposable.tolist()

    def key_before(self, number: int) -> int:
        """Return the index into ``key_frames`` of the last key frame that is not after frame ``number``."""
        return max(0, int(np.searchsorted(self.key_frames, number, side="right")) - 1)


@dataclass(slots=True)
class PacketNote:
    """The fields of a packet from which the index is made, without its data."""

    stamp: int | None
    is_key: bool
    is_hidden: bool
    duration: int  # in ticks; 0 where the file does not state it


@dataclass
class Scan:
    """The result of one pass over a file: its packets in the order of storing, and the stamps of decoded pictures.

    ``roles`` holds each packet's role. ``num_missing`` packets are listed in the file's table of contents but are not
    in the file. ``kept_packets`` are the packets themselves and ``pictures`` the decoded ones, None where they are too
    large to keep. ``fed`` is the number of packets that were decoded. ``sets_change``: parameters differ within the
    file. ``is_raw``: the file stores no times. ``end``: the byte behind the last packet. ``fault``: the exception that
    ended the pass before the file's end. All stamps are lifted by ``lifter``. ``durations`` are those of the decoded
    pictures, 0 where the file states none; ``colours`` are their matrices and ranges, ``pixels`` their formats, and
    ``num_bytes`` their bytes by format, width and height. ``reorder_depth`` is the number of pictures that the decoder
    holds back to put them in the order of showing. ``limit``: the stamp at which the track ends, for example by an edit
    list; ``is_limit_exact``: it ends neither earlier nor later. ``is_each_stamped``: the container stores a stamp for
    every packet, so that equal stamps are the file's own. ``is_program``: an MPEG program stream, for whose last
    pictures FFmpeg guesses the stamps. ``is_probe_spared``: the file can be opened
    with ``UNPROBED``, once its index is known.
    """

    packets: list[PacketNote]
    roles: list[Role | None]
    frames: list[int | None]
    first: av.VideoFrame | None
    num_missing: int
    seconds_per_tick: float
    kept_packets: list[av.Packet[Any]] | None
    pictures: list[av.VideoFrame] | None
    fed: int
    lifter: Lifter
    sets_change: bool = False
    fault: Exception | None = None
    is_raw: bool = False
    durations: list[int] = field(default_factory=list)
    colours: set[tuple[int, int]] = field(default_factory=set)
    pixels: set[str] = field(default_factory=set)
    gamuts: set[tuple[int, int]] = field(default_factory=set)
    num_bytes: dict[tuple[str, int, int], int] = field(default_factory=dict)
    is_interlaced: bool = False
    reorder_depth: int = 0
    end: int = 0
    limit: int | None = None
    is_limit_exact: bool = False
    is_each_stamped: bool = False
    is_program: bool = False
    is_probe_spared: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether reading failed with an error of PyAV's own, not at the point where the file breaks off."""
        return self.fault is not None and not isinstance(self.fault, av.error.FFmpegError)


# With these options FFmpeg searches the whole file, or its first 64 MiB, for streams, not only the first seconds.
WHOLE = {"probesize": str(64 * 2**20), "analyzeduration": str(24 * 3600 * 10**6)}


# Kinds of files that hold no video and name other files, hosts or devices instead, or are programs. A file of a data
# set may come from an untrusted source, so what it names is not opened, whatever its own suffix is.
NAMING = {
    *("applehttp", "avisynth", "concat", "concatf", "dash", "hls", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp"),
    *("vapoursynth", "vobsub", "webm_dash_manifest"),
}
# Options of ``av.open`` for a file: it is read as one of the other kinds, and may open only files.
FILES_ONLY = {"format_whitelist": ",".join(sorted(av.formats_available - NAMING)), "protocol_whitelist": "file"}
_LISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"# VobSub", b"<?xml", b"<MPD", b"RTSPtext")


def open_container(
    path: Path, options: dict[str, str] | None = None, format: str | None = None
) -> tuple[InputContainer, VideoStream]:
    """Open the file and return it with its main video stream; raises VideoError where it has none that can be read.

    Args:
        options: options for FFmpeg, such as ``WHOLE``.
        format: FFmpeg's name of the container, where it is certain; None lets FFmpeg compare the file with all of them.
    """
    if not os.access(path, os.R_OK) and path.exists():
        raise VideoError(f"{path} may not be read by this user; change its permissions")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); fetch or make it again")
    try:
        # "file:" keeps a colon in a name from being read as a protocol; tags in a wrong encoding must not fail
        options = FILES_ONLY | (options or {})
        container = av.open(f"file:{path}", format=format, options=options, metadata_errors="replace")
    except Exception as error:  # whatever the library raises
        raise VideoError(f"{path} is not a video that can be read ({reason(error)}): {_beginning(path)}") from error
    if not container.streams:
        container.close()
        raise VideoError(f"{path} is not a video that can be read (nothing is in it): {_beginning(path)}")
    stream = container.streams.best("video")
    # FFmpeg lists the cover picture of a song as a video stream; it is no video here
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        kinds = sorted({each.type for each in container.streams if each is not stream})
        container.close()
        raise VideoError(f"{path} has no video stream, only {' and '.join(kinds) or 'nothing that can be played'}")
    if stream.codec_context is None:
        container.close()
        raise VideoError(f"{path} holds video in a codec that this PyAV cannot decode; transcode it to H.264")
    return container, stream


def reason(error: BaseException | None) -> str:
    """Return the first line of a library's error; FFmpeg's without its number and the file's name."""
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(message).splitlines()[0]


def _beginning(path: Path) -> str:
    """Describe the first bytes of an unreadable file, for an error message."""
    with path.open("rb") as file:
        head = file.read(12)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_LISTS):
        return "it holds no pictures and names other files, which are not opened for it; give the files themselves"
    if head[4:8] in (b"ftyp", b"mdat", b"free"):
        return "it begins like an MP4 file, so it is probably cut short and lacks its index (the moov atom)"
    return f"it begins with {head!r}"


def is_stamped(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the frames can be indexed from the packets without decoding them."""
    return container.format.name in STAMPED_CONTAINERS and stream.codec_context.codec.canonical_name in STAMPED_CODECS


def stamped(packet: av.Packet[Any], format: str) -> av.Packet[Any]:
    """Set the stamp that will identify the packet's picture, and return the packet.

    AVI has no presentation times, and FFmpeg does not always find one. Then the stamp is the time of decoding, as PyAV
    gives it for such a picture.
    """
    if packet.pts is None and format == "avi":
        packet.pts = packet.dts
    return packet


def unread(path: Path, format: str, end: int, fault: Exception | None = None) -> str:
    """Describe the part of this file that FFmpeg does not read; empty where it reads everything.

    Args:
        end: the byte behind the last packet that FFmpeg read.
        fault: the exception that ended the reading before the file's end.
    """
    size = path.stat().st_size
    if (offset := _second_file(path, format, end, size)) is not None:
        return (
            f"a second file begins at byte {offset} of {size}, and nothing from there on is read; take the parts as "
            "files of their own, or join them with a program that writes one header"
        )
    if format.startswith("mov") and (offset := _second_index(path, size)) is not None:
        return (
            f"a second header stands at byte {offset} of {size}, and FFmpeg takes fragments behind it for those before "
            "it, so that pictures of the second part may be missing; take the parts as files of their own, or join "
            "them with a program that writes one header"
        )
    if isinstance(fault, av.error.FFmpegError) and end < size:
        return f"FFmpeg reads nothing behind byte {end} of {size} ({reason(fault)}); fetch or make the file again"
    return ""


def _second_file(path: Path, format: str, end: int, size: int) -> int | None:
    """Return the byte at which a second file begins behind the part that FFmpeg reads; None where there is none."""
    if format not in HEADS or size <= end:
        return None
    head, before = HEADS[format]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        offset = content.find(head, max(end, before + 1))
    return None if offset < 0 else offset - before


def _second_index(path: Path, size: int) -> int | None:
    """Return the byte at which the header of a second file begins, by the boxes of an MP4; None where there is none."""
    offset, second_file, has_index = 0, None, False
    with path.open("rb") as file:
        while offset + 8 <= size:
            file.seek(offset)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if kind == b"moov" and has_index:
                return offset if second_file is None else second_file
            if kind == b"ftyp" and has_index:
                second_file = offset
            has_index |= kind == b"moov"
            if length == 1:  # a 64-bit length follows the box's name
                length = int.from_bytes(head[8:], "big")
            if length < 8:  # 0 means that the box reaches to the end of the file
                return None
            offset += length
    return None


def is_stored(packet: av.Packet[Any]) -> bool:
    """Whether a packet is stored in the file, unlike the empty one at the end that flushes the decoder."""
    return bool(packet.size) or packet.dts is not None


def decode_packet(packet: av.Packet[Any], is_strict: bool = False) -> list[av.VideoFrame]:
    """Return the pictures that a packet releases from the decoder.

    A packet that cannot be decoded is skipped, as FFmpeg does, or raises UndecodableError where ``is_strict``.
    """
    try:
        return packet.decode()
    except Exception as error:  # whatever the library raises
        if is_strict:
            raise UndecodableError from error
        return []


class UndecodableError(Exception):
    """An error for a packet that cannot be decoded."""


def demux(
    container: InputContainer, *streams: VideoStream, faults: list[Exception] | None = None
) -> Iterator[av.Packet[Any]]:
    """Yield the remaining packets of these streams, or of all; then one empty packet a stream, to flush its decoder.

    Ends where the file cannot be read further; the exception raised there is added to ``faults``.
    """
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except Exception as error:  # FFmpeg's where the file breaks off, PyAV's own where it loses its way
            if faults is not None:
                faults.append(error)
            return
        yield packet


def drain(stream: VideoStream) -> list[av.VideoFrame]:
    """Return the pictures that the decoder still holds; it accepts no packet after this until it is flushed."""
    try:
        return stream.codec_context.decode(None)
    except Exception:  # whatever the library raises
        return []


def new_scan(container: InputContainer, stream: VideoStream) -> Scan:
    """Return the result of a pass that has read nothing yet."""
    format, tick_s = container.format.name, float(stream.time_base or 1)
    scan = Scan([], [], [], None, 0, tick_s, [], [], 0, Lifter(format, tick_s))
    scan.is_raw, scan.is_each_stamped = is_raw(container), format in STAMPED_CONTAINERS
    scan.is_program = format == "mpeg"
    scan.is_probe_spared = format.startswith("mov") and stream.codec_context.codec.canonical_name == "h264"
    return scan


def scan_file(container: InputContainer, stream: VideoStream, decode_all: bool) -> Scan:
    """Read every packet of the file; decode them all, or only until the first picture."""
    format, scan = container.format.name, new_scan(container, stream)
    num_bytes, last = 0, None
    extradata = stream.codec_context.extradata  # before decoding, which may replace it
    judge = packet_judge(stream.codec_context.codec.canonical_name, extradata)
    faults: list[Exception] = []
    lifter, packets, roles = scan.lifter, scan.packets, scan.roles
    for packet in demux(container, stream, faults=faults):
        stamped(packet, format)
        if is_stored(packet):
            lifter(packet)
            packets.append(PacketNote(packet.pts, packet.is_keyframe, packet.is_discard, packet.duration or 0))
            roles.append(judge(bytes(packet)) if judge else None)
            scan.sets_change = scan.sets_change or packet.has_sidedata("new_extradata")
            last = packet
        num_bytes += packet.size
        if num_bytes > KEEP_PACKETS:
            scan.kept_packets = None
        elif scan.kept_packets is not None:
            scan.kept_packets.append(packet)
        if decode_all or scan.first is None:
            feed(scan, packet, decode_all)
    is_torn = last is not None and last.is_corrupt
    if faults:
        scan.fault, is_torn = faults[0], True
        if decode_all:
            _take(scan, drain(stream), decode_all)
    scan.end = (last.pos or 0) + last.size if last else 0
    scan.reorder_depth = stream.codec_context.reorder_depth
    scan.sets_change |= sets_change(scan.roles, extradata)
    # For MP4 the demuxer's table counts the packets that an edit list leaves. AVI's header is only a hint, so there a
    # last packet without its end must confirm it. Matroska and transport streams do not state how long they should be.
    if format.startswith("mov"):
        note_length(scan, stream)
    elif is_torn:
        scan.num_missing = max(0, stream.frames - len(scan.packets))
    return scan


def note_length(scan: Scan, stream: VideoStream) -> None:
    """Note how many packets are missing in an MP4 file, and where its track ends, by its table of contents."""
    scan.num_missing = max(0, len(stream.index_entries) - len(scan.packets))
    if stream.duration and stream.start_time is not None:
        scan.limit = stream.start_time + stream.duration
        # the header of a fragmented file may count more fragments than there are
        scan.is_limit_exact = stream.frames > 0


def feed(scan: Scan, packet: av.Packet[Any], decode_all: bool) -> None:
    """Decode the next packet, and note its pictures."""
    scan.fed += 1
    _take(scan, decode_packet(packet), decode_all)


def _take(scan: Scan, frames: list[av.VideoFrame], decode_all: bool) -> None:
    for frame in frames:
        scan.first = scan.first or frame
        scan.frames.append(frame.pts)
        scan.durations.append(frame.duration or 0)
        scan.colours.add((frame.colorspace, frame.color_range))
        scan.pixels.add(frame.format.name)
        scan.gamuts.add((frame.color_primaries, frame.color_trc))
        scan.is_interlaced = scan.is_interlaced or frame.interlaced_frame
        if scan.pictures is not None:
            scan.pictures.append(frame)
            if decode_all and len(scan.pictures) * _num_bytes(scan, frame) > KEEP_PICTURES:
                scan.pictures = None


def _num_bytes(scan: Scan, frame: av.VideoFrame) -> int:
    """Return the bytes of a picture, measured once for each size and format: planes are slow to make."""
    kind = frame.format.name, frame.width, frame.height
    if kind not in scan.num_bytes:
        scan.num_bytes[kind] = sum(plane.buffer_size for plane in frame.planes)
    return scan.num_bytes[kind]


def index_packets(scan: Scan, fps: float) -> VideoIndex | None:
    """Return the index by the packets; None where only decoding can tell which frames are shown."""
    if not scan.packets or scan.first is None:
        return None
    stamps = [packet.stamp for packet in scan.packets if not packet.is_hidden]
    first = scan.packets[0]
    if None in stamps or len(set(stamps)) != len(stamps) or first.stamp is None or not first.is_key:
        return None
    # Where stamps restart, or are farther out of order than the decoder corrects, only decoding gives the order.
    if scan.lifter.lifts or scan.lifter.strays or scan.lifter.depth > scan.reorder_depth:
        return None
    ordered = np.sort(np.array(stamps, dtype=np.int64))
    # Pictures before the first key frame cannot be decoded; and the first decoded picture must be the first by stamp.
    if ordered[0] < first.stamp or scan.frames[0] != ordered[0]:
        return None
    last = next(packet for packet in reversed(scan.packets) if packet.stamp == ordered[-1] and not packet.is_hidden)
    last_s = _last_s(scan, int(ordered[-1]), last.duration, fps)
    depth = scan.lifter.depth if scan.is_probe_spared else -1
    return _index(scan, ordered, ordered * scan.seconds_per_tick, last_s, depth=depth)


def index_frames(scan: Scan, fps: float) -> VideoIndex:
    """Return the index of the decoded pictures, in the order in which the decoder output them.

    AVI stores no presentation times, so its stamps may be out of order: they still identify the pictures, and sorted
    they are the times. Without stamps, frame i is at i / fps.

    Where stamps restart, a part begins where the part before it ends: after its last picture's duration.
    """
    if None in scan.frames:
        filled = _filled(scan.frames, fps * scan.seconds_per_tick) * scan.seconds_per_tick
        return _index(scan, None, filled, float(np.median(np.diff(filled))) if len(filled) > 1 else 1 / fps)
    names = np.array(scan.frames, dtype=np.int64)
    if _is_even(scan):
        last_s = _last_s(scan, int(names[-1]), scan.durations[-1], fps)
        return _index(scan, names, names * scan.seconds_per_tick, last_s)
    if scan.is_raw:  # FFmpeg invented the stamps: they may identify the pictures, but are no times
        is_rising = bool((np.diff(names) > 0).all())
        return _index(scan, names if is_rising else None, np.arange(len(names)) / fps, 1 / fps)
    stamps = _without_strays(scan, names)
    part_of = _parts(scan, stamps)
    if scan.is_program:
        stamps = _rising_at_the_end(stamps, part_of)
    order = np.lexsort((stamps, part_of))
    parts = np.split(order, np.flatnonzero(np.diff(part_of[order])) + 1)
    ticks, lasting = stamps.astype(np.float64), np.array(scan.durations, dtype=np.float64)
    steps = np.concatenate([np.diff(ticks[part]) for part in parts])
    stated = np.concatenate([lasting[part[:-1]] for part in parts])[steps > 0]
    steps = steps[steps > 0]
    # Durations are used where they are the time from one picture to the next; those of fields, and guessed ones, are
    # not.
    is_true = 2 * np.count_nonzero(np.abs(stated - steps) <= np.maximum(0.1 * steps, 1)) >= len(steps)
    usual = float(np.median(steps)) if len(steps) else 1 / fps / scan.seconds_per_tick
    for part in [] if scan.is_each_stamped else parts:
        ticks[part] = _apart(ticks[part], usual)
    for before, part in itertools.pairwise(parts):
        last = lasting[before[-1]] if is_true else 0
        ticks[part] += ticks[before[-1]] + (last or usual) - ticks[part[0]]
    last_s = _last_s(scan, int(stamps[-1]), lasting[-1] if is_true else usual, fps)
    is_distinct = len(set(scan.frames)) == len(names)
    first = sorted(int(part.min()) for part in parts)
    return _index(scan, names if is_distinct else None, np.sort(ticks) * scan.seconds_per_tick, last_s, first)


def _is_even(scan: Scan) -> bool:
    """Whether each picture begins where the one before it ends, so that no time needs to be mended."""
    if scan.is_raw or scan.lifter.lifts or scan.lifter.strays or len(scan.lifter.floors) > 1:
        return False
    steps = zip(itertools.pairwise(scan.frames), scan.durations, strict=False)
    return all(0 < duration == stamp - before for (before, stamp), duration in steps)  # type: ignore[operator]


def _filled(frames: Sequence[int | None], frames_per_tick: float) -> np.ndarray:
    """Return stamps (N,) in which the missing ones are filled in.

    They lie evenly between the known stamps, and the usual time apart before the first and behind the last. Where the
    known stamps do not rise, or are fewer than two, all stamps count from 0 at the stated rate.
    """
    at = np.array([i for i, stamp in enumerate(frames) if stamp is not None], dtype=np.float64)
    known_stamps = np.array([stamp for stamp in frames if stamp is not None], dtype=np.float64)
    steps = np.diff(known_stamps) / np.diff(at)
    everywhere = np.arange(len(frames), dtype=np.float64)
    if len(known_stamps) < 2 or (steps <= 0).any():
        return everywhere / frames_per_tick
    usual = float(np.median(steps))
    filled = np.interp(everywhere, at, known_stamps)
    filled += usual * (np.minimum(everywhere - at[0], 0) + np.maximum(everywhere - at[-1], 0))
    return filled


def _rising_at_the_end(stamps: np.ndarray, part_of: np.ndarray) -> np.ndarray:
    """Return the stamps (N,) with the last ones of each part made to rise.

    The decoder outputs these pictures in order, so a guessed stamp that falls back becomes that of the picture before.
    """
    stamps = stamps.copy()
    for part in np.unique(part_of):
        last = np.flatnonzero(part_of == part)[-DEEPEST:]
        stamps[last] = np.maximum.accumulate(stamps[last])
    return stamps


def _apart(ticks: np.ndarray, usual: float) -> np.ndarray:
    """Return ascending stamps (N,) of one part in which equal stamps are spread out.

    A stamp that several pictures share is the first one's time: the others lie evenly between it and the next stamp, or
    the usual time apart behind the last one.

    FFmpeg guesses the stamps of the last pictures of a program stream. A doubled stamp there makes those after it too
    early, so they are moved later by the missing time. In the middle of a file the stamps are kept.
    """
    begins = np.flatnonzero(np.diff(ticks, prepend=ticks[0] - 1))
    if len(begins) == len(ticks):
        return ticks
    ticks = ticks.copy()
    for first, following in itertools.pairwise(begins[begins >= len(ticks) - DEEPEST]):
        missing = usual * (following - first) - (ticks[following] - ticks[first])
        if following - first > 1 and missing > usual / 2:
            ticks[following:] += missing
    end = ticks[-1] + usual * (len(ticks) - begins[-1])
    return np.interp(np.arange(len(ticks)), np.append(begins, len(ticks)), np.append(ticks[begins], end))


def _without_strays(scan: Scan, stamps: np.ndarray) -> np.ndarray:
    """Return the pictures' stamps (N,) in the decoder's order, with broken strays replaced.

    A stray that is ahead of the stamps behind it is broken, and lies evenly between its neighbours instead. Other
    strays end a pause, or belong to pictures that are far apart. At the end of a file a stray is broken where it is
    farther ahead than pictures can be out of order, but not in containers that store every stamp.
    """
    if not scan.lifter.strays:
        return stamps
    is_stray = np.isin(stamps, list(scan.lifter.strays))
    if not is_stray.any() or is_stray.all():
        return stamps
    at, good = np.arange(len(stamps)), np.flatnonzero(~is_stray)
    after = np.searchsorted(good, at)
    usual = float(np.median(np.diff(stamps[good]))) if len(good) > 1 else 0.0
    farthest = math.inf if scan.is_each_stamped else stamps[good[-1]] + (DEEPEST + 1) * usual
    following = np.append(stamps[good].astype(np.float64), farthest)
    is_stray &= stamps > following[after]
    good = np.flatnonzero(~is_stray)
    return np.where(is_stray, np.interp(at, good, stamps[good]).astype(np.int64), stamps)


def _parts(scan: Scan, stamps: np.ndarray) -> np.ndarray:
    """Return each picture's part number (N,), ascending in time; ``stamps`` (N,) are in the decoder's order."""
    if scan.reorder_depth or len(stamps) < 2:
        return np.searchsorted(scan.lifter.floors, stamps, side="right")
    # The decoder does not reorder, so a stamp that falls back by more than one picture begins a new part.
    part = np.searchsorted(scan.lifter.floors, stamps, side="right")
    steps = np.diff(stamps)
    begins = (np.diff(part) > 0) | (-steps > np.median(np.abs(steps)))
    return np.cumsum(np.concatenate([[False], begins]))


def _last_s(scan: Scan, stamp: int, ticks: float, fps: float) -> float:
    """Return how long the last picture, with this stamp and duration in ticks, is shown, in seconds.

    MP4 counts the length of a track in the order of storing, so the end may be stated by the packet that is stored
    last, whether or not its picture is shown last. An edit list may end the track earlier. For some codecs FFmpeg
    replaces the stored duration by a usual one, and only the track's end is right.
    """
    stored = (packet for packet in reversed(scan.packets) if not packet.is_hidden and packet.stamp is not None)
    if scan.limit is not None and (last := next(stored, None)) and last.duration:
        ticks = max(ticks, last.stamp + last.duration - stamp)  # type: ignore[operator]
    if scan.limit is not None and scan.limit > stamp:
        ticks = scan.limit - stamp if scan.is_limit_exact else min(ticks, scan.limit - stamp)
    last_s = ticks * scan.seconds_per_tick
    return last_s if 0 < last_s < LONGEST_PICTURE_S else 1 / fps


def _index(
    scan: Scan,
    stamps: np.ndarray | None,
    times_s: np.ndarray,
    last_s: float,
    parts: Sequence[int] = (0,),
    depth: int = -1,
) -> VideoIndex:
    """Build the index: add the key frames and the disposable frames, and the first picture's size and turn."""
    assert scan.first is not None
    matrix: Any = scan.first.side_data.get("DISPLAYMATRIX")
    numbers = {} if stamps is None else {stamp: i for i, stamp in enumerate(stamps.tolist())}
    keys = {0: (scan.packets[0].stamp or 0, 0)}  # decoding can always begin at the start of the file
    for position in [i for i, packet in enumerate(scan.packets) if packet.is_key and not packet.is_hidden]:
        role, stamp = scan.roles[position], scan.packets[position].stamp
        if scan.sets_change and not (role and role.has_all_sets):
            continue  # it would be decoded with the parameters that the decoder had before
        if stamp is not None and stamp in numbers:
            keys[numbers[stamp]] = stamp, position
    key_frames = sorted(keys)
    return VideoIndex(
        times_s=times_s,
        end_s=float(times_s[-1]) + last_s,
        stamps=stamps,
        key_frames=np.array(key_frames, dtype=np.int64),
        key_stamps=np.array([keys[number][0] for number in key_frames], dtype=np.int64),
        key_packets=np.array([keys[number][1] for number in key_frames], dtype=np.int64),
        disposable=_disposable(scan, numbers, len(times_s)),
        height=scan.first.height,
        width=scan.first.width,
        traits=_traits(scan, len(times_s)),
        turn=Turn() if matrix is None else Turn.from_matrix(np.frombuffer(bytes(matrix), dtype=np.int32)),
        sets_change=scan.sets_change,
        parts=np.array(parts, dtype=np.int64),
        lifts=np.array(scan.lifter.lifts, dtype=np.int64).reshape(-1, 2),
        depth=depth,
    )


def _traits(scan: Scan, num_frames: int) -> Traits:
    traits = Traits(0)
    if scan.is_interlaced:
        traits |= Traits.INTERLACED
    if any(matrix in UNKNOWN_MATRICES for matrix, _ in scan.colours):
        traits |= Traits.STRANGE_MATRIX
    if len(scan.colours) > 1:
        traits |= Traits.COLOURS_CHANGE
    if len(scan.pixels) > 1:
        traits |= Traits.PIXELS_CHANGE
    if "pal8" in scan.pixels:
        traits |= Traits.PALETTE
    if any(primaries > LAST_OF_VIDEO or transfer in HDR for primaries, transfer in scan.gamuts):
        traits |= Traits.OTHER_GAMUT
    if scan.fed >= len(scan.packets):
        traits |= Traits.ALL_SEEN
        if len(scan.frames) != num_frames:
            traits |= Traits.UNDECODABLE
    return traits


def _disposable(scan: Scan, numbers: dict[int, int], num_frames: int) -> np.ndarray:
    """Mark the frames that no other frame needs (N,).

    No frame is marked unless packets and frames correspond one to one; otherwise a packet that is left out could belong
    to another frame. An edit list may give a hidden packet the stamp of a shown one.
    """
    is_disposable = np.zeros(num_frames, dtype=bool)
    may_go = are_disposable(scan.roles)
    if not any(may_go):
        return is_disposable
    shown_stamps = [packet.stamp for packet in scan.packets if not packet.is_hidden]
    hidden = {packet.stamp for packet in scan.packets if packet.is_hidden}
    if len(shown_stamps) != len(numbers) or set(shown_stamps) != set(numbers) or not hidden.isdisjoint(numbers):
        return is_disposable
    for packet, is_free in zip(scan.packets, may_go, strict=True):
        if is_free and not packet.is_hidden and not packet.is_key:
            is_disposable[numbers[packet.stamp]] = True  # type: ignore[index]
    return is_disposable
