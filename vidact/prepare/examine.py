"""The examination of a video file: whether every frame can be decoded, its length, and a fingerprint of its pictures.

A file is decoded whole, once, with FFmpeg's own checks turned into errors. Defects are described in words; none of
them raises.

Shapes: P pictures of the fingerprint.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np

from vidact.files import file_digest
from vidact.video.decode import VideoError, VideoReader, open_video
from vidact.video.folders import PACKED_SUFFIX
from vidact.video.frame_index import UndecodableError, decode_packet, demux, open_container, reason, unread
from vidact.video.pyav_reader import PyAVReader

RULES = 2  # version of what is reported; raise it when that changes, so that notes of older versions are not used
NUM_PICTURES, SIDE = 8, 32  # a fingerprint has this many square pictures with this many pixels a side
FLAT = 4.0  # a picture whose grey values have a smaller standard deviation is blank
STILL = 3.0  # a video is frozen if no cell of its 32 x 32 pictures changes by this many grey values
LATE_S = 0.1  # a first picture that is less late is not reported: labels are not more exact than that
OTHER_RATE = 0.05  # a stated frame rate may differ from that of the frames by this share
UNREAD = 0.02, 2**14  # a share of the file and bytes: more than both after the last packet means another stream
OTHER_LENGTH, OTHER_LENGTH_S = 0.1, 0.75  # a stated duration may differ from that of the frames by this share or time


@dataclass
class Examined:
    """The facts of one video; ``problems`` are pairs of kind and message, in the order in which they were found.

    ``picture`` (H, W, 3) uint8 is the middle frame, small; ``fingerprint`` (P, 32, 32) uint8 are grey pictures spread
    evenly over the video. Both are None where nothing could be decoded.
    """

    path: Path
    problems: list[tuple[str, str]] = field(default_factory=list)
    digest: str = ""
    num_bytes: int = 0
    num_frames: int = 0
    fps: float = 0.0
    duration_s: float = 0.0
    lead_s: float = 0.0  # time from the beginning of the file to its first picture
    height: int = 0
    width: int = 0
    picture: np.ndarray | None = None
    fingerprint: np.ndarray | None = None

    def add(self, kind: str, message: object) -> None:
        self.problems.append((kind, str(message)))

    @property
    def is_readable(self) -> bool:
        return self.fingerprint is not None


def examine(path: Path) -> Examined:
    """Decode one video whole; return its facts and its defects."""
    examined = Examined(path)
    try:
        if path.is_file():
            examined.num_bytes, examined.digest = path.stat().st_size, file_digest(path)
        else:
            files = sorted(file for file in path.iterdir() if file.is_file())
            examined.num_bytes = sum(file.stat().st_size for file in files)
            examined.digest = hashlib.sha256("".join(file_digest(file) for file in files).encode()).hexdigest()
        with open_video(path, cache=False) as video:
            times_s, examined.fps = video.times_s, video.fps
            examined.num_frames, examined.height, examined.width = len(video), video.height, video.width
            examined.duration_s, examined.lead_s, end_s = video.end_s - float(times_s[0]), video.lead_s, video.end_s
            _examine_pictures(examined, video)
            if isinstance(video, PyAVReader):
                _examine_parts(examined, video)
    except (VideoError, OSError) as error:
        examined.add(_kind_of(str(error), examined.num_bytes), error)
        return examined
    if examined.lead_s >= LATE_S:
        examined.add(
            "late picture",
            f"the first picture is shown {examined.lead_s:.2f} s after the file begins, and players count from there: "
            f"labels made in one are {examined.lead_s:.2f} s late here, unless --data.time_origin is file",
        )
    if len(times_s) > 2:
        _examine_times(examined, times_s)
    if path.is_file() and path.suffix != PACKED_SUFFIX:
        _examine_container(examined, end_s)
    return examined


def _kind_of(message: str, num_bytes: int) -> str:
    if not num_bytes:
        return "empty file"
    if "no video stream" in message:
        return "no video stream"
    if "cut short" in message or "moov" in message:
        return "truncated"
    return "damaged" if "the file is damaged" in message else "unreadable"


def _examine_pictures(examined: Examined, video: VideoReader) -> None:
    """Make the fingerprint and the small middle picture; report a blank or a frozen video."""
    at = np.linspace(0, examined.num_frames - 1, NUM_PICTURES + 2).round().astype(int)[1:-1]
    middle = int(at[NUM_PICTURES // 2])
    cells: list[np.ndarray] = []
    least = np.full((SIDE, SIDE), 255.0, np.float32)
    most = np.zeros((SIDE, SIDE), np.float32)
    spread = 0.0
    for number, image in enumerate(video.pictures(list(range(examined.num_frames)))):
        image = np.ascontiguousarray(image)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        spread = max(spread, float(grey.std()))
        least, most = np.minimum(least, small), np.maximum(most, small)
        cells += [small] * int((at == number).sum())
        if number == middle:
            factor = 160 / max(image.shape[:2])
            size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
            method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
            examined.picture = cv2.resize(image, size, interpolation=method)
    examined.fingerprint = np.stack(cells)
    if spread < FLAT:
        examined.add("blank", f"no frame shows anything: grey values spread by at most {spread:.1f} of 255")
    elif examined.num_frames > 1 and float((most - least).max()) < STILL:
        examined.add("frozen", f"all {examined.num_frames} frames show the same picture")


def _examine_parts(examined: Examined, video: PyAVReader) -> None:
    """Report a file of several parts, in each of which the timestamps start again."""
    first = video.index.parts[1:]
    if len(first):
        at = ", ".join(f"{time_s:.2f} s" for time_s in (video.times_s[first] - video.times_s[0])[:5])
        examined.add(
            "joined",
            f"the file is joined of {len(first) + 1} parts, whose timestamps begin again at {at}"
            f"{', …' if len(first) > 5 else ''}; it is read as one video, each part behind the one before. Other "
            "programs may show other times",
        )


def _examine_times(examined: Examined, times_s: np.ndarray) -> None:
    """Report times that do not increase, a wrong frame rate, and a gap."""
    steps = np.diff(times_s)
    usual = float(np.median(steps))
    if (steps <= 0).any():
        examined.add("times", f"{int((steps <= 0).sum())} frames are not later than the one before")
        return
    rate = 1 / usual
    # Some files state the average rate, with the last picture or without it. If the last picture is shown for long,
    # the average is far from the usual rate and nothing is reported.
    last_s = examined.duration_s - float(times_s[-1] - times_s[0])
    averages = steps.mean(), examined.duration_s / examined.num_frames
    is_other = abs(examined.fps / rate - 1) > OTHER_RATE and all(
        abs(examined.fps * mean - 1) > OTHER_RATE for mean in averages
    )
    if is_other and last_s <= 5 * usual:
        stated = f"the file states {examined.fps:.3f} frames a second"
        examined.add("frame rate", f"{stated} and its frames come at {rate:.3f}")
    gap = int(steps.argmax())
    if steps[gap] > max(5 * usual, 0.5):
        length = f"no frame for {steps[gap]:.2f} s after {times_s[gap]:.2f} s"
        examined.add("gap", f"{length}; frames come every {usual:.3f} s")


def _examine_container(examined: Examined, end_s: float) -> None:
    """Report damage that a strict decoder finds, a wrong stated duration, and parts that are not read.

    The last picture ends at ``end_s`` in the file's own seconds.
    """
    num_damaged, reason_text, faults = 0, "", list[Exception]()
    ends: dict[int, int] = {}  # the byte at which the last packet of each stream ends
    begins: dict[int, int] = {}  # the byte at which the first packet of each other video stream begins
    file, stream = open_container(examined.path)
    with file:
        format, video_stream = file.format.name, stream.index
        stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        stated = file.duration / av.time_base if file.duration else 0.0
        if stream.duration and stream.time_base:
            stated = max(stated, float(stream.duration * stream.time_base))
        for packet in demux(file, faults=faults):
            number, position = packet.stream.index, packet.pos or 0
            ends[number] = max(ends.get(number, 0), position + packet.size)
            if number != video_stream:
                if packet.stream.type == "video":
                    begins.setdefault(number, position)
                continue
            try:
                num_damaged += sum(frame.is_corrupt for frame in decode_packet(packet, is_strict=True))
            except UndecodableError as error:
                num_damaged, reason_text = num_damaged + 1, reason_text or reason(error.__cause__)
    if faults:
        num_damaged, reason_text = num_damaged + 1, reason_text or reason(faults[0])
    if num_damaged:
        details = reason_text or "it gives no reason"
        examined.add("damaged", f"the decoder finds damage in {num_damaged} places ({details})")
    # A container's duration may be that of the pictures, include the time before them, or, in Matroska, count from 0.
    lengths_s = (examined.duration_s, examined.lead_s + examined.duration_s, end_s)
    off_s = min(abs(stated - length_s) for length_s in lengths_s)
    is_joined = any(kind == "joined" for kind, _ in examined.problems)
    is_stated = bool(stated) and math.isfinite(stated) and not is_joined
    if is_stated and off_s > max(OTHER_LENGTH_S, OTHER_LENGTH * examined.duration_s):
        examined.add("duration", f"the file states {stated:.2f} s and its frames last {examined.duration_s:.2f} s")
    if video_stream in ends:
        _examine_rest(examined, format, ends[video_stream], max(ends.values()), min(begins.values(), default=0))


def _examine_rest(examined: Examined, format: str, end: int, last: int, next_begin: int) -> None:
    """Report a part that is not read: it follows the video, which ends at byte ``end``.

    The last of all streams ends at byte ``last``, and another video stream begins at byte ``next_begin``.
    """
    if message := unread(examined.path, format, last):
        examined.add("joined", message)
    num_left = examined.num_bytes - last
    is_unread = format in ("mpegts", "mpeg") and num_left > max(UNREAD[0] * examined.num_bytes, UNREAD[1])
    if next_begin >= end or is_unread:
        examined.add(
            "joined",
            f"the video ends at byte {end} of {examined.num_bytes}: what follows is another stream, of which nothing "
            "is read. Take the parts as files of their own, or write them into one with one stream",
        )


def same_content(a: np.ndarray, b: np.ndarray, most: float = 16.0) -> bool:
    """Return whether two fingerprints (P, 32, 32) are of one video, which may have been encoded or scaled again.

    Coding changes the mean of a cell, 1/16 of the width wide, by a few grey values. Another person before the same
    wall, or the same person in another action, changes some cells by far more: by at least 35 in a set of nine people
    before one wall.
    """
    pairs = zip(a, b, strict=True)
    return all(cv2.norm(_halved(first), _halved(second), cv2.NORM_INF) <= most for first, second in pairs)


def _halved(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)


def find_duplicates(videos: list[Examined]) -> list[tuple[int, int]]:
    """Return pairs (i, j), i < j, of videos with the same content; n copies give the n - 1 pairs with the first.

    The content is the same if the files are equal, or if the pictures are and the lengths are about the same. Blank
    videos all look alike and are left out.
    """
    pairs: list[tuple[int, int]] = []
    equal_files: set[int] = set()
    first_of: dict[str, int] = {}
    for i, video in enumerate(videos):
        if video.digest and video.num_bytes:
            if video.digest in first_of:
                pairs.append((first_of[video.digest], i))
                equal_files.add(i)
            else:
                first_of[video.digest] = i
    rows = [
        i for i, video in enumerate(videos)
        if i not in equal_files and video.fingerprint is not None
        and not any(kind == "blank" for kind, _ in video.problems)
    ]  # fmt: skip
    if not rows:
        return sorted(pairs)
    # Candidates are found by the mean brightness of each picture, without comparing all videos with all.
    means = np.array([videos[i].fingerprint.mean(axis=(1, 2)) for i in rows])  # type: ignore[union-attr]  # (n, P)
    order = np.argsort(means[:, 0], kind="stable")
    ordered = means[order]
    close = 3.0
    for rank, row in enumerate(order):
        i = rows[row]
        end = int(np.searchsorted(ordered[:, 0], ordered[rank, 0] + close, side="right"))
        near = np.flatnonzero((np.abs(ordered[rank + 1 : end] - ordered[rank]) <= close).all(1))
        for near_rank in near + rank + 1:
            j = rows[order[near_rank]]
            a, b = videos[i], videos[j]
            if abs(a.duration_s - b.duration_s) > 0.05 * max(a.duration_s, b.duration_s) + 0.1:
                continue
            if same_content(a.fingerprint, b.fingerprint):
                pairs.append((min(i, j), max(i, j)))
    return _pairs_with_first(pairs)


def _pairs_with_first(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Replace each group of connected pairs with the pairs of its first member and every other."""
    head: dict[int, int] = {}

    def first(i: int) -> int:
        while head.get(i, i) != i:
            i = head[i]
        return i

    for i, j in pairs:
        a, b = sorted((first(i), first(j)))
        head[b] = a
    members = {i for pair in pairs for i in pair}
    return sorted((first(i), i) for i in members if first(i) != i)
