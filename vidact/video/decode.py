"""open_video: frame i of a video file, exactly, whichever library decodes it.

What "frame i" means is decided once, by PyAV, for every decoder: the pictures that FFmpeg shows, in the order in which
they are shown, each with its timestamp. Pictures that an edit list or a discard flag hides do not count. Rotation is
applied as the file asks. The other decoders deliver pictures only; where their count differs from the file's, their
own timestamps tell which picture is which, and where that fails too the video is refused rather than misread.

Colour: yuv becomes RGB with the matrix and the range that the stream declares; a stream that declares none is read as
BT.601, limited range, as FFmpeg does whatever the picture size. HDR is not tone-mapped, 10 and 12 bits become 8,
transparency is dropped, and pictures of non-square pixels are not stretched.

Shapes: N frames of the video, T frames asked for, H x W pixels.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import av.error
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from torch import Tensor

from vidact.video.frames import Frames

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")

# Only these containers store a presentation time for every packet, and only of these codecs is one packet one shown
# picture. Everything else (AVI knows no presentation times, VP8 has packets that show nothing, MPEG-4 packs two
# pictures into one packet, a transport stream may begin anywhere) is decoded once to be counted.
STAMPED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
STAMPED_CODECS = {"h264", "hevc", "vp9", "av1"}

# A jump to a key frame refills the decoder; below about this many pictures it is cheaper to decode on.
JUMP_COSTS = 6


class VideoError(ValueError):
    """A video that cannot be read: the message names the file, what is wrong with it, and what to do."""


def open_video(
    path: str | Path, decoder: str = "pyav", *, fps: float | None = None, threads: int = 1, index: str = "auto"
) -> VideoReader:
    """Open a video file, or a folder of images, for reading frames by number.

    ``with open_video("clip.mp4") as video: frames = video.frames_at([0, 10, 20])``

    Args:
        path: a video file, or a folder of images (.jpg, .png, …), which are frames in natural order: 2 before 10.
        decoder: "pyav", "decord", "opencv" or "torchcodec"; a folder of images needs none of them.
        fps: frames per second of a folder of images (default 25). A file carries its own times.
        threads: decoding threads; 0 lets the library choose. Keep 1 inside data-loading workers.
        index: "auto" trusts the packet list of containers that keep one; "decode" decodes the whole file once to find
            its frames, which is slower and also reads what is left of a damaged file.

    Raises FileNotFoundError for a missing path, VideoError for a file that cannot be read, ImportError for a decoder
    that is not installed.
    """
    path = Path(path)
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
    if index not in ("auto", "decode"):
        raise ValueError(f"index is {index!r}; choose 'auto' or 'decode'")
    if threads < 0:
        raise ValueError(f"threads is {threads}; it is a count, 0 for the library's own choice")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; a video is a file or a folder of images")
    if path.is_dir():
        return ImageFolderReader(path, 25.0 if fps is None else fps)
    if fps is not None:
        raise ValueError(f"{path} is a file and carries its own times; fps={fps} is for a folder of images")
    return DECODERS[decoder](path, threads, index)


# ----------------------------------------------------------------------------------------------------------------------
# What every reader shares


@dataclass(frozen=True)
class Turn:
    """How a stored picture becomes an upright one: transpose first, then mirror.

    FFmpeg's display matrix sends the pixel (x, y) to (a x + c y, b x + d y). We honour quarter turns and mirrors, and
    take the nearest quarter turn of any other angle.
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Turn:
        """From the nine int32 of a display matrix: a b u, c d v, x y w."""
        a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
        if abs(b) > abs(a):
            return Turn(True, c < 0, b < 0)
        return Turn(False, a < 0, d < 0)

    @property
    def quarters(self) -> int:
        """Quarter turns counter-clockwise that a library makes which reads FFmpeg's angle and does not see mirrors."""
        if self.transpose:
            return 1 if self.mirror_y else 3
        return 2 if self.mirror_x else 0

    def __call__(self, image: np.ndarray) -> np.ndarray:  # (H, W, 3)
        if self.transpose:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a file in the order in which they are shown.

    ``stamps`` (N,) are the timestamps by which the decoder's pictures are recognised; None when the file has none that
    tell its pictures apart, and then only counting from the start finds a frame. Decoding can begin at the key frames:
    ``key_frames[j]`` is the number of the first frame shown from the packet stamped ``key_stamps[j]``.
    ``height`` and ``width`` are the stored picture's, before ``turn``.
    """

    times_s: np.ndarray
    stamps: np.ndarray | None
    key_frames: np.ndarray
    key_stamps: np.ndarray
    height: int
    width: int
    turn: Turn
    is_interlaced: bool

    def __len__(self) -> int:
        return len(self.times_s)

    @cached_property
    def number_of(self) -> dict[int, int]:
        """Stamp → frame number."""
        return {} if self.stamps is None else {stamp: i for i, stamp in enumerate(self.stamps.tolist())}

    def key_before(self, number: int) -> int:
        """Which key frame (an index into ``key_frames``) is the last one not after frame ``number``."""
        return max(0, int(np.searchsorted(self.key_frames, number, side="right")) - 1)


class VideoReader:
    """Frames of one video by number. A reader pickles as its path and settings: a worker opens its own file."""

    path: Path
    fps: float  # average frame rate; the times of single frames are in ``times_s``

    @property
    def times_s(self) -> np.ndarray:
        """When each frame is shown, (N,) float64 seconds; the first need not be 0."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Pixels, of the upright picture."""
        raise NotImplementedError

    @property
    def height(self) -> int:
        """Pixels, of the upright picture."""
        raise NotImplementedError

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        """The upright RGB pictures (H, W, 3) of these frames, which are ascending, distinct and in range."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file. Length and times stay known; asking for frames opens it again."""

    def frames_at(self, indices: Sequence[int] | np.ndarray | Tensor) -> Frames:
        """Frames by number, in the order asked for; a number may repeat. Decodes each once and stops at the last."""
        asked = np.asarray(indices)
        if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "iu"):
            raise ValueError(f"frames_at takes a list of whole numbers, got {indices!r}")
        count = len(self)
        outside = asked[(asked < 0) | (asked >= count)]
        if outside.size:
            raise IndexError(
                f"frame {outside[0]} of {self.path} does not exist: it has {count} frames, 0 to {count - 1}"
            )
        numbers, slots = np.unique(asked.astype(np.int64), return_inverse=True)
        images = np.empty((len(numbers), self.height, self.width, 3), dtype=np.uint8)
        for slot, image in enumerate(self.pictures(numbers.tolist())):
            images[slot] = image
        if len(numbers) != len(asked) or (slots[1:] < slots[:-1]).any():
            images = images[slots]
        return Frames(torch.from_numpy(images).permute(0, 3, 1, 2), self.times_s[asked.astype(np.int64)])

    def __len__(self) -> int:
        return len(self.times_s)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


# ----------------------------------------------------------------------------------------------------------------------
# PyAV


class PyAVReader(VideoReader):
    """The default: an index made from the packets, a plan (go on, or jump to a key frame), and a decoding loop."""

    def __init__(self, path: Path, threads: int = 1, index: str = "auto") -> None:
        self.path, self.threads, self.index_from = path, threads, index
        self._container: InputContainer | None = None
        container, stream = self._open()
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        self.fps = float(rate) if rate else 25.0
        self.format = container.format.name  # FFmpeg's name of it, such as "avi"

    # -- the file

    def _open(self) -> tuple[InputContainer, VideoStream]:
        """Open the file at its beginning, with nothing read yet."""
        self.close()
        self._container, self._stream = _open_container(self.path)
        context = self._stream.codec_context
        context.thread_count = self.threads
        if self.threads != 1:
            context.thread_type = "AUTO"
        self._is_fresh = True
        return self._container, self._stream

    def _at_start(self) -> tuple[InputContainer, VideoStream]:
        """The file at its beginning: as it stands if nothing was read, else opened anew. The caller will read it."""
        if self._container is None or not self._is_fresh:
            self._open()
        assert self._container is not None
        self._is_fresh = False
        return self._container, self._stream

    def close(self) -> None:
        self._coming: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._next: int | None = None  # the frame that _coming yields next; None: it is not running
        if self._container is not None:
            self._container.close()
            self._container = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_container": None, "_stream": None, "_coming": iter(()), "_next": None}

    # -- the index

    @cached_property
    def index(self) -> VideoIndex:
        """Made on first use: by one pass over the packets, decoding only the first picture, or by decoding it all."""
        container, stream = self._at_start()
        is_stamped = self.format in STAMPED_CONTAINERS and stream.codec_context.codec.canonical_name in STAMPED_CODECS
        if self.index_from == "auto" and is_stamped:
            scan = _scan(container, stream, decode_all=False)
            if index := _index_packets(scan):
                self._refuse_if_cut(scan)
                return index
            container, stream = self._at_start()
        scan = _scan(container, stream, decode_all=True)
        if self.index_from == "auto":
            self._refuse_if_cut(scan)
        if scan.first is None:
            raise VideoError(
                f"{self.path} has {len(scan.packets)} packets of video but no picture can be decoded from them; "
                "the file is damaged: fetch or make it again"
            )
        return _index_frames(scan, self.fps)

    def _refuse_if_cut(self, scan: Scan) -> None:
        """A file shorter than its own table of contents is an error: nobody should train on part of it unknowingly.

        MP4 and AVI say how many packets there should be. Matroska and transport streams do not, and a cut one is
        simply shorter.
        """
        if scan.num_missing:
            total = len(scan.packets) + scan.num_missing
            raise VideoError(
                f"{self.path} is cut short: {self._count_decodable()} of its {total} frames can be decoded. "
                "Fetch it again, or read what is left with open_video(..., index='decode')"
            )

    def _count_decodable(self) -> int:
        container, stream = _open_container(self.path)
        with container:
            return len(_scan(container, stream, decode_all=True).frames)

    @property
    def times_s(self) -> np.ndarray:
        return self.index.times_s

    @property
    def width(self) -> int:
        return self.index.height if self.index.turn.transpose else self.index.width

    @property
    def height(self) -> int:
        return self.index.width if self.index.turn.transpose else self.index.height

    # -- the plan

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        index = self.index
        for number in numbers:
            frame = self._frame(number)
            # a stream may change its picture size; like FFmpeg we scale to the first one's
            image = frame.to_ndarray(format="rgb24", width=index.width, height=index.height, threads=self.threads)
            yield index.turn(image)

    def _frame(self, number: int) -> av.VideoFrame:
        """Go on decoding if the frame lies a little ahead, else jump to the key frame before it."""
        key = self.index.key_before(number)
        if self._next is None or number < self._next or self.index.key_frames[key] > self._next + JUMP_COSTS:
            self._coming = self._jump(key)
        for attempt in ("here", "from the start"):
            if attempt == "from the start":
                self._coming = self._decode(*self._at_start(), None)
            for found, frame in self._coming:
                self._next = found + 1
                if found == number:
                    return frame
            self._next = None
        raise VideoError(
            f"frame {number} of {self.path} cannot be decoded, only {self._count_decodable()} of its {len(self)} "
            "frames can: the file is damaged. Fetch it again, or read what is left with "
            "open_video(..., index='decode')"
        )

    def _jump(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from a key frame on; from the start of the file where it cannot be jumped in."""
        index, first = self.index, int(self.index.key_frames[key])
        if index.stamps is None or (first == 0 and (self._container is None or self._is_fresh)):
            return self._decode(*self._at_start(), None)
        container, stream = (self._container, self._stream) if self._container else self._open()
        self._is_fresh = False
        try:
            container.seek(int(index.key_stamps[key]), stream=stream, backward=True)
        except av.error.FFmpegError:  # a format that cannot be jumped in
            return self._decode(*self._at_start(), None)
        return self._decode(container, stream, first)

    # -- the loop

    def _decode(
        self, container: InputContainer, stream: VideoStream, first: int | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers, from where the file stands to its end.

        ``first`` is the key frame that the file was sent to. Then every frame from there on must come, one by one, and
        the first must be a picture that needs no other; at the first surprise this ends, and the caller begins at the
        start of the file. None means the start of the file, where missing frames are the file's fault.
        """
        number_of = self.index.number_of
        expected = first or 0
        for count, frame in enumerate(_pictures_ahead(container, stream)):
            number = count if self.index.stamps is None else number_of.get(frame.pts, -1)  # type: ignore[arg-type]
            if number < 0 or number >= len(self.index):
                continue
            if first is not None:
                if number < first:  # shown before the key frame: its references may be missing
                    continue
                if number != expected or (number == first and not frame.key_frame):
                    return
                expected += 1
            yield number, frame


@dataclass
class Packet:
    """What the index needs to know of a packet, without its data."""

    stamp: int | None
    is_key: bool
    is_hidden: bool


@dataclass
class Scan:
    """One pass over a file: its packets in the order of storing, and the stamps of the pictures that were decoded.

    ``num_missing`` packets stand in the file's table of contents but not in the file.
    """

    packets: list[Packet]
    frames: list[int | None]
    first: av.VideoFrame | None
    num_missing: int
    seconds_per_tick: float


def _open_container(path: Path) -> tuple[InputContainer, VideoStream]:
    """The file and its main video stream, or a VideoError in plain words."""
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); fetch or make it again")
    try:
        # "file:" keeps a colon in a name from being read as a protocol; tags in a wrong encoding are no reason to stop
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise VideoError(f"{path} is not a video that can be read ({error.strerror}): {_beginning(path)}") from error
    if not container.streams:
        container.close()
        raise VideoError(f"{path} is not a video that can be read (nothing is in it): {_beginning(path)}")
    stream = container.streams.best("video")
    # the cover picture of a song is a video stream to FFmpeg, not to us
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        kinds = sorted({other.type for other in container.streams if other is not stream})
        container.close()
        raise VideoError(f"{path} has no video stream, only {' and '.join(kinds) or 'nothing that can be played'}")
    if stream.codec_context is None:
        container.close()
        raise VideoError(f"{path} holds video in a codec that this PyAV cannot decode; transcode it to H.264")
    return container, stream


def _beginning(path: Path) -> str:
    """What the first bytes of an unreadable file tell."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"mdat", b"free"):
        return "it begins like an MP4 file, so it is probably cut short and lacks its index (the moov atom)"
    return f"it begins with {head!r}"


def _decode_packet(packet: av.Packet) -> list[av.VideoFrame]:
    """The pictures that come out; a packet that cannot be decoded is passed over, as FFmpeg does."""
    try:
        return packet.decode()  # type: ignore[return-value]
    except av.error.FFmpegError:
        return []


def _pictures_ahead(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Every picture from here on, in the order of showing."""
    try:
        for packet in container.demux(stream):
            yield from _decode_packet(packet)
    except av.error.FFmpegError:  # the file breaks off
        return


def _scan(container: InputContainer, stream: VideoStream, decode_all: bool) -> Scan:
    """Read every packet; decode them all, or only until the first picture."""
    scan = Scan([], [], None, 0, float(stream.time_base or 1))
    is_torn = False
    try:
        for packet in container.demux(stream):
            if packet.size or packet.dts is not None:  # not the empty one that flushes the decoder
                scan.packets.append(Packet(packet.pts, packet.is_keyframe, packet.is_discard))
                is_torn = packet.is_corrupt
            if decode_all or scan.first is None:
                for frame in _decode_packet(packet):
                    scan.first = scan.first or frame
                    scan.frames.append(frame.pts)
    except av.error.FFmpegError:  # the file breaks off
        is_torn = True
    # For MP4 the demuxer's table counts what an edit list leaves. AVI's header is no more than a hint, so there a last
    # packet without its end must confirm it. Matroska and transport streams do not say how long they should be.
    if container.format.name.startswith("mov"):
        scan.num_missing = max(0, len(stream.index_entries) - len(scan.packets))
    elif is_torn:
        scan.num_missing = max(0, stream.frames - len(scan.packets))
    return scan


def _index_packets(scan: Scan) -> VideoIndex | None:
    """The index that the packets promise; None where they do not tell what will be shown."""
    if not scan.packets or scan.first is None:
        return None
    stamps = [packet.stamp for packet in scan.packets if not packet.is_hidden]
    begin = scan.packets[0]
    if None in stamps or len(set(stamps)) != len(stamps) or begin.stamp is None or not begin.is_key:
        return None
    shown = np.sort(np.array(stamps, dtype=np.int64))
    # Pictures before the first key frame cannot be decoded; and the first that did come must be the first promised.
    if shown[0] < begin.stamp or scan.frames[0] != shown[0]:
        return None
    return _index(scan, shown, shown * scan.seconds_per_tick)


def _index_frames(scan: Scan, fps: float) -> VideoIndex:
    """The index of the pictures that came, in the order in which they came.

    AVI stores no presentation times, so that its stamps may name the pictures out of order: then they still tell the
    pictures apart, and sorted they are the times. Without stamps, frame i is at i / fps.
    """
    if None in scan.frames:
        return _index(scan, None, np.arange(len(scan.frames)) / fps)
    stamps = np.array(scan.frames, dtype=np.int64)
    times_s = np.sort(stamps) * scan.seconds_per_tick
    return _index(scan, stamps if len(np.unique(stamps)) == len(stamps) else None, times_s)


def _index(scan: Scan, stamps: np.ndarray | None, times_s: np.ndarray) -> VideoIndex:
    """Add the key frames, and from the first picture the size and the turn."""
    assert scan.first is not None
    matrix: Any = scan.first.side_data.get("DISPLAYMATRIX")
    numbers = {} if stamps is None else {stamp: i for i, stamp in enumerate(stamps.tolist())}
    keys = {0: scan.packets[0].stamp or 0}  # decoding can always begin at the beginning
    for packet in scan.packets:
        if packet.is_key and not packet.is_hidden and packet.stamp in numbers:
            keys[numbers[packet.stamp]] = packet.stamp  # type: ignore[index, assignment]
    return VideoIndex(
        times_s=times_s,
        stamps=stamps,
        key_frames=np.array(sorted(keys), dtype=np.int64),
        key_stamps=np.array([keys[number] for number in sorted(keys)], dtype=np.int64),
        height=scan.first.height,
        width=scan.first.width,
        is_interlaced=scan.first.interlaced_frame,
        turn=Turn() if matrix is None else Turn.from_matrix(np.frombuffer(bytes(matrix), dtype=np.int32)),
    )


# ----------------------------------------------------------------------------------------------------------------------
# The other decoders. PyAV says which frames there are, when, and how they are turned; these bring the pictures.


class _OtherReader(VideoReader):
    """A decoder library behind the index that PyAV made."""

    name: str
    module: str
    install: str

    _next = 0  # the picture that the library brings next

    def __init__(self, path: Path, threads: int = 1, index: str = "auto") -> None:
        self.path, self.threads = path, threads
        self._library()
        self._file = PyAVReader(path, 1, index)
        self.fps = self._file.fps
        self._reader: Any = None

    @cached_property
    def index(self) -> VideoIndex:
        with self._file:
            return self._file.index

    @property
    def times_s(self) -> np.ndarray:
        return self.index.times_s

    @property
    def width(self) -> int:
        return self._file.width

    @property
    def height(self) -> int:
        return self._file.height

    def _library(self) -> ModuleType:
        try:
            return importlib.import_module(self.module)
        except (ImportError, RuntimeError, OSError) as error:
            raise ImportError(f"decoder {self.name!r} cannot be used ({_first_line(error)}); {self.install}") from error

    def _error(self, what: object) -> VideoError:
        return VideoError(f"{self.name} cannot read {self.path}: {_first_line(what)}; use decoder='pyav'")

    def _checked(self, image: np.ndarray) -> np.ndarray:
        """Refuse a picture of another size: the library took another stream of the file."""
        size, stored = image.shape[1::-1], (self.index.width, self.index.height)
        if size != stored:
            raise self._error(f"its pictures are {size[0]}x{size[1]}, those of the main stream {stored[0]}x{stored[1]}")
        return image

    def close(self) -> None:
        self._reader = None
        self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}


def _first_line(message: object) -> str:
    """What a library's message says first, without the time of day and the source file that decord puts before it."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0]) if lines else type(message).__name__


class DecordReader(_OtherReader):
    """decord. Its jumps and even its ``skip_frames`` bring wrong pictures (AVI, open groups of pictures, MPEG-4 with
    B-frames), so it is made to deliver every frame in order. It turns pictures by the angle alone."""

    name = module = "decord"
    install = "run: pip install decord (wheels exist for x86-64 Linux and Windows), or use decoder='pyav'"

    def _library(self) -> ModuleType:
        # decord spreads its own zlib over the process; OpenCV reads PNG files only if it found another one before
        with contextlib.suppress(ImportError):
            importlib.import_module("cv2")
        return super()._library()

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        decord, turn = self._library(), self.index.turn
        if self._file.format == "mpegts":
            raise self._error("it loses the beginning of MPEG transport streams")
        for number in numbers:
            try:
                if self._reader is None or self._next > number:
                    self._reader = decord.VideoReader(str(self.path), ctx=decord.cpu(0), num_threads=self.threads)
                    self._next = 0
                    if len(self._reader) != len(self):
                        raise self._error(f"it finds {len(self._reader)} frames where the file shows {len(self)}")
                while self._next <= number:
                    image = self._reader.next()
                    self._next += 1
            except decord.DECORDError as error:
                raise self._error(error) from error
            image = image.asnumpy() if hasattr(image, "asnumpy") else np.asarray(image)  # its bridge may say torch
            yield turn(self._checked(np.rot90(image, -turn.quarters)))


class OpenCVReader(_OtherReader):
    """OpenCV: its seeking is not exact, so it counts pictures from the start of the file. It reads the first video
    stream even where another is the main one, and since version 5 it tone-maps HDR, slowly."""

    name, module = "opencv", "cv2"
    install = "run: pip install opencv-python, or use decoder='pyav'"

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        if self.index.is_interlaced and int(self._library().__version__.split(".")[0]) >= 5:
            raise self._error("OpenCV 5 shows interlaced video black")
        for number in numbers:
            if self._reader is None or self._next > number:
                self._start()
            while self._next <= number:
                if not self._reader.grab():
                    raise self._error(f"it finds {self._next} frames where the file shows {len(self)}")
                self._next += 1
            found, image = self._reader.retrieve()
            if not found:
                raise self._error(f"frame {number} could not be converted")
            yield self.index.turn(self._checked(image)[:, :, ::-1])

    def _start(self) -> None:
        cv2 = self._library()
        self.close()
        self._reader = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, self.threads])
        self._reader.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # we turn the pictures
        self._next = 0
        if not self._reader.isOpened():
            self._reader = None
            raise self._error("it cannot open the file")

    def close(self) -> None:
        if self._reader is not None:
            self._reader.release()
        super().close()


class TorchCodecReader(_OtherReader):
    """torchcodec. It finds frames by their timestamps and believes every key frame, so it is refused where stamps are
    missing or out of order (AVI with B-frames), and where a picture comes with another time than the frame's (transport
    streams, x264's intra-refresh). It turns pictures by the angle alone, since its metadata has a ``rotation``."""

    name, module = "torchcodec", "torchcodec.decoders"
    install = "run: pip install torchcodec, and install FFmpeg's shared libraries; or use decoder='pyav'"

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        if not numbers:
            return
        stamps, library = self.index.stamps, self._library()
        if stamps is None or (np.diff(stamps) <= 0).any():
            raise self._error("the file's timestamps do not follow the order of its pictures")
        try:
            if self._reader is None:
                self._reader = library.VideoDecoder(
                    str(self.path), dimension_order="NHWC", num_ffmpeg_threads=self.threads
                )
            count = len(self._reader)
            batch = self._reader.get_frames_at(numbers) if count == len(self) else None
        except (RuntimeError, ValueError, IndexError) as error:
            if "load libtorchcodec" in str(error):
                raise ImportError(f"decoder 'torchcodec' cannot be used: it finds no FFmpeg; {self.install}") from error
            raise self._error(error) from error
        if batch is None:
            raise self._error(f"it finds {count} frames where the file shows {len(self)}")
        for number, own_s in zip(numbers, batch.pts_seconds.tolist(), strict=True):
            if abs(own_s - self.times_s[number]) > 0.001:
                raise self._error(f"for frame {number} it brings the picture of {own_s:.3f} s")
        quarters = self.index.turn.quarters if hasattr(self._reader.metadata, "rotation") else 0
        for image in batch.data.numpy():
            yield self.index.turn(self._checked(np.rot90(image, -quarters)))


DECODERS: dict[str, type[PyAVReader] | type[_OtherReader]] = {
    "pyav": PyAVReader,
    "decord": DecordReader,
    "opencv": OpenCVReader,
    "torchcodec": TorchCodecReader,
}


# ----------------------------------------------------------------------------------------------------------------------
# A folder of images


class ImageFolderReader(VideoReader):
    """The images of one folder, in natural order, at a rate that the caller states; EXIF rotation is applied."""

    def __init__(self, path: Path, fps: float = 25.0) -> None:
        if not fps > 0:
            raise ValueError(f"fps is {fps}; a folder of images needs a rate above 0")
        self.path, self.fps = path, float(fps)
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise VideoError(f"{path} is a folder without images; it needs files ending in {', '.join(IMAGE_SUFFIXES)}")
        self.files = sorted(files, key=_natural)
        self._times_s = np.arange(len(files)) / self.fps

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first image, which all others must have."""
        return self._read(self.files[0]).shape[:2]  # type: ignore[return-value]

    @property
    def times_s(self) -> np.ndarray:
        return self._times_s

    @property
    def width(self) -> int:
        return self.size[1]

    @property
    def height(self) -> int:
        return self.size[0]

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            image = self._read(self.files[number])
            if image.shape[:2] != self.size:
                raise VideoError(
                    f"{self.files[number]} is {image.shape[1]}x{image.shape[0]}, but the first image of the folder is "
                    f"{self.width}x{self.height}; one video has one size"
                )
            yield image

    @staticmethod
    def _read(file: Path) -> np.ndarray:
        from PIL import Image, ImageOps  # not OpenCV, whose PNG code breaks where decord was imported before it

        try:
            with Image.open(file) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))  # (H, W, 3)
        except OSError as error:
            raise VideoError(
                f"{file} is not an image that can be read ({error}); make it again or remove it"
            ) from error


def _natural(file: Path) -> list[tuple[int, str]]:
    """img2 before img10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name.lower())]
