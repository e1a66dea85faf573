"""Re-encode a video so that its single frames are cheap to reach: a key frame every few frames, a shorter side.

Frame i of the copy is frame i of the source as ``open_video`` shows it, upright, at the same time after the first one.
Sound is dropped, colours become 8 bits of 4:2:0, and an odd side loses or gains a pixel.

Decoding one frame needs every frame since the key frame before it: 4.5 frames on average with a key frame every 8, and
fewer for a reader that skips B-frames, since no frame refers to these (``b-pyramid none``). The encoder spends bits
only by squared error (``tune psnr``); its other tunings optimise for the eye. The quality is given as a PSNR, and the
encoder's constant rate factor is searched for each video: the same factor gives one video 36 dB and another 40.

Shapes: T frames, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np

from vidact.files import file_digest, replacing
from vidact.jobs import Folder, Work, full_disk_named, source_state
from vidact.prepare.settings import CODECS, TranscodeSettings
from vidact.prepare.sources import NOTES
from vidact.video.colours import UNKNOWN_MATRICES
from vidact.video.decode import VideoError, open_video
from vidact.video.file_facts import LEAD_TAG
from vidact.video.folders import PACKED_SUFFIX
from vidact.video.frame_index import UndecodableError, decode_packet, demux, open_container, reason

TICKS = 90_000  # ticks in a second; a millisecond and a frame of the common rates are whole numbers of ticks
KEPT_BYTES = 256 * 2**20  # the most bytes of scaled pictures kept for a second try; a longer video is read again
TRIES = 5  # the most encodings of one video in the search for a PSNR
FIRST_CRF = 22.0
LEAST_CRF = 14.0  # below it bytes grow and the PSNR hardly does: 4:2:0 has lost the rest
X265_DELAY = 2  # pictures that x265 holds back for B-pictures; the times of a video that has no more are undefined
DB_PER_CRF = 0.62  # the approximate loss of PSNR by a step of the rate factor; only the first guess depends on it


@dataclass(frozen=True)
class TranscodeJob:
    """A video and the path of its copy; ``name`` is that path below the folder ``out``."""

    name: str
    source: Path
    out: Path
    settings: TranscodeSettings

    @property
    def target(self) -> Path:
        return self.out / self.name

    @property
    def folder(self) -> Folder:
        return Folder(self.out, NOTES)

    @property
    def label(self) -> str:
        return str(self.source)

    def is_done(self) -> bool:
        """Return whether a copy of this state of the source exists and is whole (by its size)."""
        note = self.folder.read_if_of(self.name, {"source": source_state(self.source)})
        return note is not None and self.target.is_file() and self.target.stat().st_size == note["bytes"]


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Return height and width with the short side at most ``short_side``, both even as 4:2:0 requires."""
    factor = 1.0 if short_side is None else min(1.0, short_side / min(height, width))
    return max(2, round(height * factor / 2) * 2), max(2, round(width * factor / 2) * 2)


def scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a picture (H, W, 3) by averaging over areas, which leaves no moiré."""
    image = np.ascontiguousarray(image)  # OpenCV accepts no mirrored view
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def psnr_of(squared_error: float, num_values: int) -> float:
    """Return the PSNR in dB of 8-bit values with this sum of squared differences; infinite when that is 0."""
    return 10 * math.log10(255**2 * num_values / squared_error) if squared_error else math.inf


def squared_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the squared differences of two pictures (H, W, 3) uint8."""
    return cv2.norm(np.ascontiguousarray(a), np.ascontiguousarray(b), cv2.NORM_L2SQR)


def start() -> Work[TranscodeJob, dict[str, Any]]:
    """Return the work of a process: it makes one copy for each job."""
    return lambda job, tell: transcode(job)


def transcode(job: TranscodeJob) -> dict[str, Any]:
    """Make one copy, compare it with its source, and write its note: ``{"bytes", "psnr", "frames", …}``.

    Returns ``{"error": …}`` where the source cannot be read. Raises DiskFullError.
    """
    with full_disk_named(job.out):
        job.folder.forget(job.name)
        job.target.unlink(missing_ok=True)  # an old copy is of another state of the source
        try:
            state = source_state(job.source)  # before reading: a video that changes meanwhile is copied again
            source = _ScaledSource(job.source, job.settings)
        except (VideoError, OSError) as error:
            return {"error": str(error)}
        try:
            # A full disk is detected inside too, because removing the half-written file frees space again.
            with replacing(job.target) as half, full_disk_named(job.out):
                figures = _encode_to_psnr(source, half, job.settings)
                digest = file_digest(half)
                num_bytes = half.stat().st_size
        except (VideoError, av.error.FFmpegError) as error:
            why = str(error) if isinstance(error, VideoError) else f"{job.source} cannot be encoded ({reason(error)})"
            return {"error": why}
        return job.folder.finish(job.name, {"source": state}, bytes=num_bytes, sha256=digest, **figures)


class _ScaledSource:
    """The scaled frames of a source, to be encoded, and the scaled pictures that the copy is compared with.

    The decoder's planes go to the encoder unchanged where the copy has the same format (8-bit 4:2:0, limited range,
    upright, every decoded frame shown): a conversion to RGB would lose a decibel. Other sources are converted to RGB.
    """

    def __init__(self, path: Path, settings: TranscodeSettings, most: int | None = None) -> None:
        """Open the whole video, or its first ``most`` frames."""
        self.path = path
        with open_video(path, cache=False) as video:
            self.num_frames = len(video)
            self.times_s = (video.times_s - video.times_s[0])[:most]
            self.end_s = video.end_s - float(video.times_s[0])
            self.lead_s = video.lead_s
            if len(self.times_s) < self.num_frames:  # a sample ends at the time of the frame after it
                self.end_s = float(video.times_s[len(self.times_s)] - video.times_s[0])
            late = np.flatnonzero(np.diff(np.round(self.times_s * TICKS)) <= 0)
            if len(late):
                number, time_s = late[0], video.times_s[late[0]]
                raise VideoError(
                    f"frames {number} and {number + 1} of {path} are both shown at {time_s:.3f} s, and a copy needs a "
                    "time for each; pack it, or leave it as it is"
                )
            self.fps = video.fps
            self.height, self.width = scaled_size(video.height, video.width, settings.short_side)
        self.colorspace = 6  # pictures are converted by BT.601
        self.is_direct = False
        if path.is_file() and path.suffix != PACKED_SUFFIX:
            file, stream = open_container(path)
            with file:
                first: Any = next((frame for packet in demux(file, stream) for frame in decode_packet(packet)), None)
                if first is not None:
                    self.is_direct = (
                        first.format.name == "yuv420p"
                        and int(first.color_range) != 2
                        and int(first.colorspace) not in UNKNOWN_MATRICES
                        and "DISPLAYMATRIX" not in first.side_data
                    )
                    self.colorspace = int(first.colorspace) if self.is_direct else 6
        self._kept: dict[str, list[Any]] = {}
        self._may_keep = len(self) * self.height * self.width * 9 / 2 <= KEPT_BYTES

    def __len__(self) -> int:
        return len(self.times_s)

    def _reused(self, name: str, items: Iterator[Any]) -> Iterator[Any]:
        """Yield ``items``; a video with few bytes of pictures keeps them for the next time."""
        if len(self._kept.get(name, ())) == len(self):
            yield from self._kept[name]
            return
        cached = self._kept[name] = []
        for item in items:
            if self._may_keep:
                cached.append(item)
            yield item

    def pictures(self) -> Iterator[np.ndarray]:
        """Yield the scaled pictures, (H, W, 3) RGB each."""
        every = pictures_of(self.path, range(len(self)))
        return self._reused("pictures", (scaled(image, self.height, self.width) for image in every))

    def frames(self) -> Iterator[av.VideoFrame]:
        """Yield the scaled frames in yuv420p. Raises _NotDirect where the decoded frames are not the ones shown."""
        if self.is_direct:
            return self._reused("frames", self._decoded())
        return (
            av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", interpolation="AREA")
            for image in self.pictures()
        )

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Yield the decoder's frames, scaled. Raises _NotDirect where they are not the ones shown."""
        count, faults = 0, list[Exception]()
        begin_s: float | None = None
        file, stream = open_container(self.path)
        with file:
            try:
                packets = demux(file, stream, faults=faults)
                for frame in (frame for packet in packets for frame in decode_packet(packet, is_strict=True)):
                    begin_s = frame.time if begin_s is None else begin_s
                    if count == len(self) < self.num_frames:
                        break
                    if frame.time is None or count >= len(self) or frame.format.name != "yuv420p":
                        raise _NotDirect
                    assert begin_s is not None
                    if abs(frame.time - begin_s - self.times_s[count]) > 1e-4:
                        raise _NotDirect
                    yield frame.reformat(self.width, self.height, "yuv420p", interpolation="AREA")
                    count += 1
            except (UndecodableError, av.error.FFmpegError):
                raise _NotDirect from None
        if faults:
            raise _NotDirect
        if count != len(self):
            raise _NotDirect


class _NotDirect(Exception):
    """A decoder's frames are not, one by one, those that the reader returns."""


def pictures_of(path: Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield these frames of a video, in ascending order, as pictures (H, W, 3), with one in memory at a time."""
    with open_video(path, cache=False) as video:
        yield from video.pictures(list(numbers))


def _encode_to_psnr(source: _ScaledSource, path: Path, settings: TranscodeSettings) -> dict[str, Any]:
    """Encode with the given rate factor, or repeatedly until the PSNR is the one required; return the figures."""
    if settings.crf is not None:
        _encode(source, path, settings, settings.crf)
        return {"crf": settings.crf, **_compare_copy(source, path)}
    crf, tried = FIRST_CRF, dict[float, float]()
    while True:
        _encode(source, path, settings, crf)
        figures = _compare_copy(source, path)
        tried[crf] = figures["psnr"]
        good = [factor for factor, psnr in tried.items() if psnr >= settings.psnr]
        is_close = settings.psnr <= figures["psnr"] <= settings.psnr + 0.4 or (crf == 51 and bool(good))
        if is_close or (crf == LEAST_CRF and not good):
            return {"crf": crf, **figures}
        following = _next_factor(tried, settings.psnr + 0.2)
        if len(tried) == TRIES or following is None:
            # No factor comes close: take the smallest file that is good enough, or else the best one.
            best = max(good, default=LEAST_CRF)
            if best != crf:
                _encode(source, path, settings, best)
                figures = _compare_copy(source, path)
            return {"crf": best, **figures}
        crf = following


def _next_factor(tried: dict[float, float], psnr: float) -> float | None:
    """Return the rate factor for this PSNR, on the line through the two nearest tries, or with the usual slope.

    Factors are multiples of 1/4. Returns None if no untried factor is left beside the guess.
    """
    near = sorted(tried.items(), key=lambda pair: abs(min(pair[1], 99.0) - psnr))[:2]
    slope = -DB_PER_CRF
    if len(near) == 2 and math.isfinite(near[0][1] + near[1][1]):
        slope = min(-0.2, (near[0][1] - near[1][1]) / (near[0][0] - near[1][0]))
    crf, nearest_psnr = near[0]
    step = (psnr - min(nearest_psnr, 99.0)) / slope
    guess = float(np.clip(round((crf + np.clip(step, -12, 12)) * 4) / 4, LEAST_CRF, 51))
    if guess in tried:  # take the next quarter in the direction of the PSNR
        guess += 0.25 if min(tried[guess], 99.0) > psnr else -0.25
    return guess if guess not in tried and LEAST_CRF <= guess <= 51 else None


def _encode(source: _ScaledSource, path: Path, settings: TranscodeSettings, crf: float) -> None:
    try:
        _write(source, path, settings, crf)
    except _NotDirect:
        source.is_direct, source.colorspace = False, 6
        _write(source, path, settings, crf)


def _write(source: _ScaledSource, path: Path, settings: TranscodeSettings, crf: float) -> None:
    library, option_name, parameters = CODECS[settings.codec]
    gop, b_frames = str(settings.gop), min(settings.b_frames, settings.gop - 1)
    if settings.codec == "hevc" and len(source) <= X265_DELAY:
        b_frames = 0
    parameters = parameters | {"keyint": gop, "min-keyint": gop, "bframes": str(b_frames)}
    options = {
        "preset": settings.preset,
        "tune": "psnr",
        "crf": f"{crf:g}",
        option_name: ":".join(f"{name}={value}" for name, value in parameters.items()),
    }
    rate = Fraction(source.fps).limit_denominator(1001)
    flags = "+faststart"  # the table of contents stands first, so that a file on a server can be read without its end
    if source.lead_s:
        flags += "+use_metadata_tags"  # MP4's own tags have none for the time before the first picture
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": flags}) as file:
        if source.lead_s:
            file.metadata[LEAD_TAG] = f"{source.lead_s:.6f}"
        stream: Any = file.add_stream(library, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = source.height, source.width, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # the same bytes on every machine
        context.time_base = Fraction(1, TICKS)
        context.colorspace, context.color_range = source.colorspace, 1  # limited range
        if settings.codec == "hevc":
            context.codec_tag = "hvc1"
        for packet in _with_end(_packets(stream, source), round(source.end_s * TICKS)):
            file.mux(packet)


def _packets(stream: Any, source: _ScaledSource) -> Iterator[av.Packet[Any]]:
    for frame, time_s in zip(source.frames(), source.times_s, strict=True):
        frame.pts, frame.time_base = round(time_s * TICKS), Fraction(1, TICKS)
        frame.pict_type = 0  # the encoder chooses it; the source's is not kept
        yield from stream.encode(frame)
    yield from stream.encode()


def _with_end(packets: Iterator[av.Packet[Any]], end: int) -> Iterator[av.Packet[Any]]:
    """Yield the packets with durations that end the track at ``end`` (ticks); the last one stored fills the rest."""
    reached = 0
    last: av.Packet[Any] | None = None
    for packet in packets:
        if last is not None:
            yield last
        pts = packet.pts or 0
        packet.duration = max(1, min(packet.duration or 0, end - pts))
        reached, last = max(reached, pts + packet.duration), packet
    assert last is not None
    if reached < end:
        last.duration = end - (last.pts or 0)
    yield last


def _compare_copy(source: _ScaledSource, path: Path) -> dict[str, Any]:
    """Read the copy again and compare number and times of its frames; return its PSNR to the scaled source."""
    error, lowest = 0.0, math.inf
    with open_video(path, cache=False) as video:
        off_s = np.abs(video.times_s - video.times_s[0] - source.times_s).max() if len(video) == len(source) else 0
        off_s = max(off_s, abs(video.end_s - float(video.times_s[0]) - source.end_s))
        if len(video) != len(source) or off_s > 1.5 / TICKS:
            raise VideoError(
                f"the copy of {source.path} does not equal it: {len(video)} frames of {len(source)}, up to "
                f"{off_s:.6f} s apart. Leave it as it is"
            )
    num_values = source.height * source.width * 3
    for image, copy in zip(source.pictures(), pictures_of(path, range(len(source))), strict=True):
        frame_error = squared_difference(image, copy)
        error += frame_error
        lowest = min(lowest, psnr_of(frame_error, num_values))
    psnr = psnr_of(error, num_values * len(source))
    return {
        "frames": len(source),
        "seconds": round(source.end_s, 3),
        "height": source.height,
        "width": source.width,
        "psnr": round(min(psnr, 99.0), 3),
        "lowest_psnr": round(min(lowest, 99.0), 3),
    }


def sample(path: Path, target: Path, settings: TranscodeSettings, num_frames: int) -> tuple[int, float]:
    """Re-encode the first frames of a video; return the bytes, and the share of the video's frames that they are."""
    source = _ScaledSource(path, settings, num_frames)
    _encode_to_psnr(source, target, settings)
    return target.stat().st_size, len(source) / source.num_frames


def settings_record(settings: TranscodeSettings) -> dict[str, Any]:
    """Return the record of the settings that a folder of copies is made with."""
    record = {"made_by": "vidact prepare transcode", **asdict(settings)}
    if settings.codec == "h264":  # a folder without this entry has copies that differ from those made now
        record["x264"] = "cpu-independent"
    return record
