"""PyAVReader: frames by number through FFmpeg, decoding only what the requested frames need.

A request is split into stretches, each decoded from one key frame on. Inside a stretch a packet is not decoded when its
picture is not requested and no other picture refers to it (``vidact.video.disposable``); the decoder then outputs the
same pictures without these. The output is compared with the index: at the first difference the file is read again from
its start and every packet is decoded. A damaged picture counts as a difference, since its repair depends on the
pictures decoded before it. Only requested pictures are converted to RGB.

Shapes: N frames of the video, H x W pixels.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vidact.video.colours import to_rgb
from vidact.video.file_facts import MP4, UNPROBED, FileFacts, format_by_beginning, needs_no_probe, read_facts
from vidact.video.frame_index import (
    KEEP_PACKETS,
    WHOLE,
    Scan,
    UndecodableError,
    VideoIndex,
    decode_packet,
    demux,
    drain,
    index_frames,
    index_packets,
    is_stamped,
    is_stored,
    open_container,
    reason,
    scan_file,
    stamped,
    unread,
)
from vidact.video.index_cache import entry_path, load_index, save_index
from vidact.video.mpeg4_packets import scan_mpeg4
from vidact.video.reader import VideoError, VideoReader
from vidact.video.sample_table import scan_table
from vidact.video.stamps import lift

log = logging.getLogger(__name__)

# A jump to a key frame refills the decoder; below about this many pictures it is cheaper to decode on.
JUMP_COSTS = 6

# A jump in the file costs about as much as reading this many packets: where a file has no more for each jump that a
# request makes, all of them are read at once and kept.
PER_JUMP = 40

# Containers that store the time of every packet, so that it is the same after a jump. Program and transport streams
# store one time for several pictures, and FFmpeg computes the others from where reading began: a jump shifts them.
JUMPED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}

_INHERITED: list[Any] = []  # files that a parent process opened: closing them here could wait for its threads


class PyAVReader(VideoReader):
    """The default reader: an index made from the packets, a plan (read on, or jump to a key frame), a decoding loop.

    Args:
        path: a video file.
        threads: decoding threads, 0 for FFmpeg's choice.
        index: "auto" or "decode", see ``open_video``.
        short_side: pixels of the shorter side that the pictures are scaled down to; None leaves them as they are.
        cache: keep the index between runs, see ``vidact.video.index_cache``.
        skip: do not decode pictures that are not needed. False decodes every picture from the key frame on.
        see_all: decode the whole file for its index, so that the index has the traits of all pictures.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        index: str = "auto",
        short_side: int | None = None,
        cache: bool = True,
        skip: bool = True,
        see_all: bool = False,
    ) -> None:
        self.path, self.threads, self.index_from, self.cache = path, threads, index, cache
        self.short_side = short_side
        self.may_skip, self.see_all = skip, see_all
        # The requested frames, and the last of them. Frames behind it are not left out: the next request may read on.
        self._requested: set[int] = set()
        self._last = -1
        self._is_unread = True  # whether no frame was requested yet
        # The frames of the stretch whose packets were not read yet; None where reading will go on behind the stretch.
        self._until: set[int] | None = None
        self._container: InputContainer | None = None
        self._state: tuple[int, int] | None = None  # size and time of change, to notice that the file was replaced
        self._forget()
        self._refuse_if_changed()
        self._is_unprobed = False  # whether the file is opened with UNPROBED
        kept_index = load_index(self._entry())
        if kept_index is not None and kept_index.facts is not None:
            # the file is opened when the first frames are requested
            self.index, self._facts = kept_index, kept_index.facts
            self._is_unprobed = kept_index.depth >= 0
            self._certain_format: str | None = kept_index.facts.format
        else:
            self._facts = self._open_first()

    @property
    def fps(self) -> float:  # type: ignore[override]
        return self._facts.fps

    @property
    def is_raw(self) -> bool:
        """Whether the file is a bare stream of coded pictures, without times."""
        return self._facts.is_raw

    @property
    def format(self) -> str:
        """FFmpeg's name of the container, such as "avi"."""
        return self._facts.format

    # -- the file

    def _open_first(self) -> FileFacts:
        """Open the file for its index, and return its facts; an MP4 file whose headers state them is not probed."""
        self._certain_format = format_by_beginning(self.path)
        if self.index_from == "auto" and not self.see_all and self._certain_format == MP4:
            self._is_unprobed = True
            container, stream = self._open()
            if needs_no_probe(container, stream):
                return read_facts(container, stream, self.path)
            self._is_unprobed = False
        return read_facts(*self._open(), self.path)

    def _open(self, options: dict[str, str] | None = None) -> tuple[InputContainer, VideoStream]:
        """Open the file at its beginning, with nothing read yet."""
        self.close()
        self._refuse_if_changed()
        options = UNPROBED if self._is_unprobed else options
        self._container, self._stream = open_container(self.path, options, self._certain_format)
        self._process = os.getpid()
        context = self._stream.codec_context
        if self._is_unprobed and "index" in self.__dict__:
            context.reorder_depth = max(context.reorder_depth, self.index.depth)
        context.thread_count = self.threads
        if self.threads != 1:
            context.thread_type = "AUTO"
        self._is_fresh = True
        return self._container, self._stream

    def _refuse_if_changed(self) -> None:
        """Raise VideoError where the file was changed or replaced since it was opened; its index is no longer valid."""
        stat = self.path.stat()
        state = stat.st_size, stat.st_mtime_ns
        if self._state not in (None, state):
            raise VideoError(f"{self.path} was changed or replaced while it was being read; open it anew")
        self._state = state

    def _at_start(self) -> tuple[InputContainer, VideoStream]:
        """Return the file at its start, opened again if something was read. The caller will read it."""
        if self._container is None or not self._is_fresh:
            self._open()
        assert self._container is not None
        self._is_fresh = False
        return self._container, self._stream

    def close(self) -> None:
        if self._leave_to_parent():
            return
        self._forget()
        if self._container is not None:
            self._container.close()
            self._container = None

    def _leave_to_parent(self) -> bool:
        """In a forked process, drop the open file, whose position both processes would move; return whether it was."""
        if self._container is None or self._process == os.getpid():
            return False
        _INHERITED.append((self._container, self._stream, self._coming, self._packets, self._pictures, self._scaler))
        self._container = None
        self._forget()
        return True

    def _forget(self) -> None:
        """Reset everything that belongs to the open file."""
        self._coming: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._next: int | None = None  # the frame that _coming yields next; None where it does not run
        self._passed: set[int] = set()  # frames whose packets were read, and that _coming has not yielded
        self._packets: list[av.Packet[Any]] | None = None  # all packets of the file, where it is small
        self._pictures: list[av.VideoFrame] | None = None  # all pictures of the file, where the index decoded them
        self._scaler = VideoReformatter()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_container": None}
        for name in ("_stream", "_coming", "_next", "_packets", "_pictures", "_scaler"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    # -- the index

    @cached_property
    def index(self) -> VideoIndex:
        """The index, made on first use by one pass over the packets, or by decoding the whole file."""
        self._leave_to_parent()
        self._refuse_if_changed()
        entry = self._entry()
        index = load_index(entry)
        if index is None:
            index = replace(self._make_index(), facts=self._facts)
            # The entry has the same name as before, so the file did not change meanwhile.
            if entry is not None and entry == self._entry():
                save_index(entry, index)
        return index

    def _entry(self) -> Path | None:
        """Return the path of the kept index; None where none is kept."""
        made_by = f"{self.index_from}, all seen" if self.see_all else self.index_from
        return entry_path(self.path, made_by) if self.cache else None

    def _make_index(self) -> VideoIndex:
        container, stream = self._at_start()
        if self.index_from == "auto" and is_stamped(container, stream):
            if not self.see_all and (index := self._index_by_table(container, stream)):
                return index
            if self._is_unprobed:
                self._is_unprobed = False
                self._facts = read_facts(*self._open(), self.path)
            container, stream = self._at_start()
            scan = scan_file(container, stream, decode_all=self.see_all)
            if not scan.is_lost and (index := index_packets(scan, self.fps)):
                self._refuse_if_cut(scan)
                self._warn_of_unread(scan)
                if not self.see_all:
                    self._go_on_from(scan, index)
                return index
            container, stream = self._at_start()
        elif self.index_from == "auto" and not self.see_all:
            if plain := scan_mpeg4(container, stream):
                index = index_frames(plain, self.fps)
                self._warn_of_unread(plain)
                self._go_on_from(plain, index)
                return index
            container, stream = self._at_start()
        scan = scan_file(container, stream, decode_all=True)
        if self.index_from == "auto":
            if scan.is_lost:  # for example a stream begins behind the part that FFmpeg searches for streams
                self._open(WHOLE)
                scan = scan_file(*self._at_start(), decode_all=True)
            self._refuse_if_lost(scan)
            self._refuse_if_cut(scan)
        if scan.first is None:
            raise VideoError(
                f"{self.path} has {len(scan.packets)} packets of video but no picture can be decoded from them; "
                "the file is damaged: fetch or make it again"
            )
        self._warn_of_unread(scan)
        if (num := scan.frames.count(None)) and not scan.is_raw:
            log.warning(
                "%s does not say when %d of its %d pictures are shown; their times are reckoned", self.path, num,
                len(scan.frames),
            )  # fmt: skip
        if self.index_from == "auto":
            self._refuse_if_coded_otherwise(scan)
        self._packets, self._pictures = scan.kept_packets, scan.pictures
        return index_frames(scan, self.fps)

    def _index_by_table(self, container: InputContainer, stream: VideoStream) -> VideoIndex | None:
        """Return the index by the file's table of samples; None where that is not enough."""
        depth = stream.codec_context.reorder_depth
        scanned = scan_table(self.path, container, stream)
        if scanned and self._is_unprobed and scanned[0].lifter.depth > depth:
            # the first pictures may tell FFmpeg that it has to hold back more
            self._is_unprobed = False
            container, stream = self._open()
            self._facts = read_facts(container, stream, self.path)
            self._is_fresh = False
            scanned = scan_table(self.path, container, stream)
        index = index_packets(scanned[0], self.fps) if scanned else None
        if scanned and index:
            self._warn_of_unread(scanned[0])
            self._go_on_from(scanned[0], index, scanned[1])
        return index

    def _go_on_from(self, scan: Scan, index: VideoIndex, packets: Iterable[av.Packet[Any]] | None = None) -> None:
        """Keep the packets, and continue reading behind the first picture, which is already decoded.

        Args:
            packets: those behind the first picture; None takes those that were kept.
        """
        self._packets = scan.kept_packets
        if packets is None and scan.kept_packets is not None:
            packets = scan.kept_packets[scan.fed :]
        if packets is not None:
            self._coming = self._decode(packets, index, None, scan.pictures or [])
            self._next = 0
            self._passed = {index.number_of.get(packet.stamp, -1) for packet in scan.packets[: scan.fed]}  # type: ignore[arg-type]

    def _refuse_if_lost(self, scan: Scan) -> None:
        """Raise VideoError where reading did not reach the end of the file: what is missing is unknown."""
        if scan.is_lost:
            # PyAV raises IndexError for a stream that FFmpeg adds while it reads.
            is_new_stream = isinstance(scan.fault, IndexError)
            why = "another stream begins there" if is_new_stream else reason(scan.fault)
            raise VideoError(
                f"{self.path} is damaged: FFmpeg loses its way behind {len(scan.frames)} frames "
                f"({why}). Fetch it again, take its parts apart, or read what is left with "
                "open_video(..., index='decode')"
            )

    def _refuse_if_cut(self, scan: Scan) -> None:
        """Raise VideoError for a file shorter than its table of contents, so that no part of it is used unnoticed.

        MP4 and AVI state how many packets there should be. Matroska and transport streams do not, and a cut one is
        only shorter.
        """
        if scan.num_missing:
            total = len(scan.packets) + scan.num_missing
            raise VideoError(
                f"{self.path} is cut short: {self._count_decodable()} of its {total} frames can be decoded. "
                "Fetch it again, or read what is left with open_video(..., index='decode')"
            )

    def _warn_of_unread(self, scan: Scan) -> None:
        """Warn of a part of a joined or damaged file that FFmpeg does not read."""
        if message := unread(self.path, self.format, scan.end, scan.fault):
            log.warning("%s: %s", self.path, message)

    def _refuse_if_coded_otherwise(self, scan: Scan) -> None:
        """Raise VideoError for a joined file with a part that the first part's decoder cannot decode."""
        floors = scan.lifter.floors
        if len(floors) < 2:
            return
        stamps = [packet.stamp for packet in scan.packets if packet.stamp is not None and not packet.is_hidden]
        pictures = [stamp for stamp in scan.frames if stamp is not None]
        stored, decoded = (
            np.bincount(np.searchsorted(floors[1:], part_stamps, side="right"), minlength=len(floors))
            for part_stamps in (stamps, pictures)
        )
        if (lost := np.flatnonzero(2 * decoded < stored)).size:
            part = int(lost[0])
            raise VideoError(
                f"{self.path} is joined of {len(floors)} parts, and of the {stored[part]} pictures of part {part + 1} "
                f"{decoded[part]} can be decoded: it is coded otherwise than the first. Take the parts as files of "
                "their own, encode them alike before they are joined, or read what can be decoded with "
                "open_video(..., index='decode')"
            )

    def _count_decodable(self) -> int:
        container, stream = open_container(self.path)
        with container:
            return len(scan_file(container, stream, decode_all=True).frames)

    @property
    def times_s(self) -> np.ndarray:
        return self.index.times_s

    @property
    def end_s(self) -> float:
        return self.index.end_s

    @property
    def begin_s(self) -> float:
        first_s = float(self.times_s[0])
        facts = self._facts
        if facts.copied_lead_s is not None:
            return first_s - facts.copied_lead_s
        # a file that stores no times begins with its first picture
        return first_s if facts.begin_s is None or facts.is_raw else min(first_s, facts.begin_s)

    @property
    def width(self) -> int:
        return self._size[0 if self.index.turn.transpose else 1]

    @property
    def height(self) -> int:
        return self._size[1 if self.index.turn.transpose else 0]

    @cached_property
    def _size(self) -> tuple[int, int]:
        """The height and width to which stored pictures are converted; the long side is rounded as in torchvision."""
        height, width = self.index.height, self.index.width
        short = min(height, width)
        if self.short_side is None or self.short_side >= short:
            return height, width
        return height * self.short_side // short, width * self.short_side // short

    # -- the plan

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        index, (height, width) = self.index, self._size
        is_whole = False
        try:
            for number, frame in self._frames(numbers):
                # A stream may change its picture size; as in FFmpeg, all are scaled to the first one's.
                yield index.turn(to_rgb(frame, self.path, height, width, self._scaler, self.threads))
                is_whole = number == numbers[-1]
        finally:
            if not is_whole:
                self._next = None  # frames between were left out, and a later request may include them

    def _frames(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        self._leave_to_parent()
        if self._pictures is not None:
            yield from ((number, self._pictures[number]) for number in numbers)
            return
        self._requested, self._last = set(numbers), numbers[-1] if numbers else -1
        # A first request that reaches the end of the file is most often the only one: nothing is decoded behind it.
        is_only, self._is_unread = self._is_unread and self._last >= len(self) * 7 // 8, False
        stretches = self._stretches(numbers)
        if len(self.index) <= PER_JUMP * len(stretches):
            self._keep_packets()
        for i, stretch in enumerate(stretches):
            self._until = None
            self._seek(stretch[0])
            if i + 1 < len(stretches) or is_only:
                self._until = set(range(self._next or 0, stretch[-1] + 1)) - self._passed
            for number in stretch:
                yield number, self._frame(number)
        if is_only:
            self._next = None

    def _keep_packets(self) -> None:
        """Read all packets of a small file, unless they are kept, or reading began, or its stamps need to be lifted."""
        is_new = self._container is None or self._is_fresh
        size = self._state[0] if self._state else 0
        if self._packets is None and is_new and size <= KEEP_PACKETS and not len(self.index.lifts):
            format = self.format
            self._packets = [stamped(packet, format) for packet in demux(*self._at_start())]

    def _stretches(self, numbers: list[int]) -> list[list[int]]:
        """Group the frames: each group is decoded from one key frame on, the first perhaps from the current frame."""
        index, at = self.index, self._next
        stretches: list[list[int]] = []
        for number in numbers:
            key = int(index.key_frames[index.key_before(number)])
            if not stretches or at is None or number < at or key > at + JUMP_COSTS:
                stretches.append([])
            stretches[-1].append(number)
            at = number + 1
        return stretches

    def _seek(self, number: int) -> None:
        """Jump to the key frame before the frame, unless the frame lies only a little ahead."""
        key = self.index.key_before(number)
        if self._next is None or number < self._next or self.index.key_frames[key] > self._next + JUMP_COSTS:
            self._passed = set()
            self._coming = self._jump(key)
            self._next = int(self.index.key_frames[key])

    def _frame(self, number: int) -> av.VideoFrame:
        """Decode up to the frame; again from the start of the file if the decoder does not output it."""
        for attempt in ("read on", "from the start"):
            if attempt == "from the start":
                self.may_skip, self._until = False, None  # the same difference from the index may occur again
                self._coming = self._decode(self._from_start(), self.index, None)
            for decoded, frame in self._coming:
                self._next = decoded + 1
                self._passed.discard(decoded)
                if decoded == number:
                    return frame
            self._next = None
        raise VideoError(
            f"frame {number} of {self.path} cannot be decoded, only {self._count_decodable()} of its {len(self)} "
            "frames can: the file is damaged. Fetch it again, or read what is left with "
            "open_video(..., index='decode')"
        )

    def _jump(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from a key frame on: jump to it, or read the packets before it without decoding them."""
        index, first, position = self.index, int(self.index.key_frames[key]), int(self.index.key_packets[key])
        is_new = self._container is None or self._is_fresh
        if index.stamps is None or (first == 0 and ((is_new and self._packets is None) or index.sets_change)):
            return self._decode(self._from_start(), index, None)
        depth = self._stream.codec_context.reorder_depth if self._container else 0
        if self._packets is not None:
            _, stream = (self._container, self._stream) if self._container else self._open()
            self._is_fresh = False
            stream.codec_context.flush_buffers()
            packets: Iterable[av.Packet[Any]] = self._packets[position:]
        elif self.format not in JUMPED_CONTAINERS or len(index.lifts):
            packets = itertools.islice(self._from_start(), position, None)
            stream = self._stream
        else:
            container, stream = (self._container, self._stream) if self._container else self._open()
            self._is_fresh = False
            try:
                container.seek(int(index.key_stamps[key]), stream=stream, backward=True)
            except Exception:  # the library raises various errors for a format without jumps
                return self._decode(self._from_start(), index, None)
            packets = demux(container, stream)
        # A flushed decoder may have lost its reorder depth, and would drop pictures until it finds the depth again.
        stream.codec_context.reorder_depth = max(depth, stream.codec_context.reorder_depth)
        return self._decode(packets, index, first)

    def _from_start(self) -> Iterator[av.Packet[Any]]:
        """Yield every packet of the file from its start, stamped as in the index."""
        return _lifted(demux(*self._at_start()), self.index.lifts)

    # -- the loop

    def _decode(
        self,
        packets: Iterable[av.Packet[Any]],
        index: VideoIndex,
        first: int | None,
        ahead: Iterable[av.VideoFrame] = (),
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames with their numbers: those ``ahead`` first, which are already decoded, then those of the packets.

        ``first`` is the key frame to which the file was moved; None means the start of the file. After a jump, and
        where frames are left out, every other frame must come in order and undamaged, and the key frame must be a
        picture that needs no other. At the first difference this ends, and the caller decodes the whole file from its
        start. Frames that are missing then are missing in the file.
        """
        number_of = index.number_of
        is_strict = first is not None or (self.may_skip and bool(index.disposable.any()))
        expected, left_out, num_frames = first or 0, set[int](), len(index)
        for count, frame in enumerate(_chain(ahead, self._pictures_of(packets, index, left_out, is_strict))):
            number = count if index.stamps is None else number_of.get(frame.pts, -1)  # type: ignore[arg-type]
            if number < 0 or number >= num_frames:
                continue
            if is_strict:
                if first is not None and number < first:  # shown before the key frame: its references may be missing
                    continue
                while expected in left_out:
                    left_out.discard(expected)
                    expected += 1
                if number != expected or frame.is_corrupt or (number == first and not frame.key_frame):
                    return
                expected += 1
            yield number, frame

    def _pictures_of(
        self, packets: Iterable[av.Packet[Any]], index: VideoIndex, left_out: set[int], is_strict: bool
    ) -> Iterator[av.VideoFrame]:
        """Yield the pictures that the decoder makes of the packets; packets that are not needed are not decoded.

        ``is_strict``: ends at a packet that cannot be decoded.
        """
        number_of, may_wait, format = index.number_of, index.may_wait, self.format
        has_spare = self.may_skip and bool(index.disposable.any())
        for packet in packets:
            number = number_of.get(stamped(packet, format).pts, -1)  # type: ignore[arg-type]
            if number >= 0:
                self._passed.add(number)
            if has_spare and 0 <= number < self._last and may_wait[number] and number not in self._requested:
                left_out.add(number)
            else:
                try:
                    yield from decode_packet(packet, is_strict)
                except UndecodableError:
                    return
            if self._until is not None and number >= 0:
                self._until.discard(number)
                if not self._until:
                    # The decoder has the whole stretch: drain it instead of waiting for more packets.
                    yield from drain(self._stream)
                    return
        yield from drain(self._stream)  # a file that breaks off has no empty packet at its end to do this


def _lifted(packets: Iterator[av.Packet[Any]], lifts: np.ndarray) -> Iterator[av.Packet[Any]]:
    """Return all packets of a file, with their stamps lifted as in the index."""
    if not len(lifts):
        return packets

    def each() -> Iterator[av.Packet[Any]]:
        ticks_from, ticks = dict(lifts.tolist()), 0
        position = 0
        for packet in packets:
            if is_stored(packet):
                ticks = ticks_from.get(position, ticks)
                lift(packet, ticks)
                position += 1
            yield packet

    return each()


def _chain(ahead: Iterable[av.VideoFrame], following: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield from ahead
    yield from following
