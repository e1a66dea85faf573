"""What a video file is worth: whether every frame of it can be decoded, how long it is, and what it shows, in brief.

A file is decoded whole, once, with FFmpeg's own checks turned into errors; what is wrong with it is said in words and
none of it raises.

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

from vidact.jobs import file_digest
from vidact.video.decode import VideoError, VideoReader, open_video
from vidact.video.folders import PACKED_SUFFIX
from vidact.video.frame_index import UndecodableError, decode_packet, demux, open_container, reason, unread
from vidact.video.pyav_reader import PyAVReader

RULES = 2  # of what is found: raise it whenever something else is, so that notes of before are not taken for it
NUM_PICTURES, SIDE = 8, 32  # of the fingerprint
FLAT = 4.0  # standard deviation of grey values below which a picture shows nothing
STILL = 3.0  # largest change of a cell of 32 x 32, in grey values, below which nothing moves
LATE_S = 0.1  # what a file plays before its first picture, below which nobody's labels are that exact
OTHER_RATE = 0.05  # part by which a stated frame rate may miss that of the frames
UNREAD = 0.02, 2**14  # part and bytes of a transport stream behind the last packet that is too much for no other one
OTHER_LENGTH, OTHER_LENGTH_S = 0.1, 0.75  # part and seconds by which a stated duration may miss that of the frames


@dataclass
class Examined:
    """What one video is; ``problems`` are pairs of kind and words, in the order in which they were found.

    ``picture`` (H, W, 3) uint8 is the middle frame, small; ``fingerprint`` (P, 32, 32) uint8 are grey pictures spread
    evenly over it. Both are None where nothing could be decoded.
    """

    path: Path
    problems: list[tuple[str, str]] = field(default_factory=list)
    digest: str = ""
    num_bytes: int = 0
    num_frames: int = 0
    fps: float = 0.0
    duration_s: float = 0.0
    lead_s: float = 0.0  # what the file plays before its first picture
    height: int = 0
    width: int = 0
    picture: np.ndarray | None = None
    fingerprint: np.ndarray | None = None

    def add(self, kind: str, words: object) -> None:
        self.problems.append((kind, str(words)))

    @property
    def is_readable(self) -> bool:
        return self.fingerprint is not None


def examine(path: Path) -> Examined:
    """Decode one video whole and say what is wrong with it."""
    found = Examined(path)
    try:
        if path.is_file():
            found.num_bytes, found.digest = path.stat().st_size, file_digest(path)
        else:
            files = sorted(file for file in path.iterdir() if file.is_file())
            found.num_bytes = sum(file.stat().st_size for file in files)
            found.digest = hashlib.sha256("".join(file_digest(file) for file in files).encode()).hexdigest()
        with open_video(path, cache=False) as video:
            times_s, found.fps = video.times_s, video.fps
            found.num_frames, found.height, found.width = len(video), video.height, video.width
            found.duration_s, found.lead_s, end_s = video.end_s - float(times_s[0]), video.lead_s, video.end_s
            _look(found, video)
            if isinstance(video, PyAVReader):
                _look_at_parts(found, video)
    except (VideoError, OSError) as error:
        found.add(_kind_of(str(error), found.num_bytes), error)
        return found
    if found.lead_s >= LATE_S:
        found.add(
            "late picture",
            f"the first picture is shown {found.lead_s:.2f} s after the file begins, and players count from there: "
            f"labels made in one are {found.lead_s:.2f} s late here, unless --data.time_origin is file",
        )
    if len(times_s) > 2:
        _look_at_times(found, times_s)
    if path.is_file() and path.suffix != PACKED_SUFFIX:
        _look_at_file(found, end_s)
    return found


def _kind_of(words: str, num_bytes: int) -> str:
    if not num_bytes:
        return "empty file"
    if "no video stream" in words:
        return "no video stream"
    if "cut short" in words or "moov" in words:
        return "truncated"
    return "damaged" if "the file is damaged" in words else "unreadable"


def _look(found: Examined, video: VideoReader) -> None:
    """Fingerprint, and whether anything is seen and moves."""
    at = np.linspace(0, found.num_frames - 1, NUM_PICTURES + 2).round().astype(int)[1:-1]
    middle = int(at[NUM_PICTURES // 2])
    cells: list[np.ndarray] = []
    least = np.full((SIDE, SIDE), 255.0, np.float32)
    most = np.zeros((SIDE, SIDE), np.float32)
    spread = 0.0
    for number, image in enumerate(video.pictures(list(range(found.num_frames)))):
        image = np.ascontiguousarray(image)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        spread = max(spread, float(grey.std()))
        least, most = np.minimum(least, small), np.maximum(most, small)
        cells += [small] * int((at == number).sum())
        if number == middle:
            factor = 160 / max(image.shape[:2])
            size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
            found.picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    found.fingerprint = np.stack(cells)
    if spread < FLAT:
        found.add("blank", f"no frame shows anything: grey values spread by at most {spread:.1f} of 255")
    elif found.num_frames > 1 and float((most - least).max()) < STILL:
        found.add("frozen", f"all {found.num_frames} frames show the same picture")


def _look_at_parts(found: Examined, video: PyAVReader) -> None:
    """Whether its stamps begin anew inside it."""
    first = video.index.parts[1:]
    if len(first):
        at = ", ".join(f"{time_s:.2f} s" for time_s in (video.times_s[first] - video.times_s[0])[:5])
        found.add(
            "joined",
            f"the file is joined of {len(first) + 1} parts, whose timestamps begin anew at {at}"
            f"{', …' if len(first) > 5 else ''}; it is read as one video, each part behind the one before. Other "
            "programs may show other times",
        )


def _look_at_times(found: Examined, times_s: np.ndarray) -> None:
    steps = np.diff(times_s)
    usual = float(np.median(steps))
    if (steps <= 0).any():
        found.add("times", f"{int((steps <= 0).sum())} frames are not later than the one before")
        return
    own = 1 / usual
    # some state the average, with the last picture or without it; where that is shown for long, it says little
    last_s = found.duration_s - float(times_s[-1] - times_s[0])
    averages = steps.mean(), found.duration_s / found.num_frames
    is_other = abs(found.fps / own - 1) > OTHER_RATE and all(
        abs(found.fps * mean - 1) > OTHER_RATE for mean in averages
    )
    if is_other and last_s <= 5 * usual:
        found.add("frame rate", f"the file states {found.fps:.3f} frames a second and its frames come at {own:.3f}")
    gap = int(steps.argmax())
    if steps[gap] > max(5 * usual, 0.5):
        found.add("gap", f"no frame for {steps[gap]:.2f} s after {times_s[gap]:.2f} s; frames come every {usual:.3f} s")


def _look_at_file(found: Examined, end_s: float) -> None:
    """What the container says beside the frames, and what the decoder says when it may not hide an error.

    The last picture ends at ``end_s`` in the file's own seconds.
    """
    damaged, words, faults = 0, "", list[Exception]()
    ends: dict[int, int] = {}  # bytes: where the last packet of each stream ends, and the first one of other video
    begins: dict[int, int] = {}
    file, stream = open_container(found.path)
    with file:
        format, own = file.format.name, stream.index
        stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        stated = file.duration / av.time_base if file.duration else 0.0
        if stream.duration and stream.time_base:
            stated = max(stated, float(stream.duration * stream.time_base))
        for packet in demux(file, faults=faults):
            number, place = packet.stream.index, packet.pos or 0
            ends[number] = max(ends.get(number, 0), place + packet.size)
            if number != own:
                if packet.stream.type == "video":
                    begins.setdefault(number, place)
                continue
            try:
                damaged += sum(frame.is_corrupt for frame in decode_packet(packet, is_strict=True))
            except UndecodableError as error:
                damaged, words = damaged + 1, words or reason(error.__cause__)
    if faults:
        damaged, words = damaged + 1, words or reason(faults[0])
    if damaged:
        found.add("damaged", f"the decoder finds damage in {damaged} places ({words or 'it says no more'})")
    # some containers state how long the pictures last, some count what comes before them, and Matroska from 0 on
    off_s = min(abs(stated - own_s) for own_s in (found.duration_s, found.lead_s + found.duration_s, end_s))
    is_joined = any(kind == "joined" for kind, _ in found.problems)
    is_stated = bool(stated) and math.isfinite(stated) and not is_joined
    if is_stated and off_s > max(OTHER_LENGTH_S, OTHER_LENGTH * found.duration_s):
        found.add("duration", f"the file states {stated:.2f} s and its frames last {found.duration_s:.2f} s")
    if own in ends:
        _look_behind(found, format, ends[own], max(ends.values()), min(begins.values(), default=0))


def _look_behind(found: Examined, format: str, end: int, last: int, other: int) -> None:
    """Whether a part stands behind what is read: the video ends at byte ``end``, the last of all streams at ``last``,
    and another video stream begins at ``other``."""
    if words := unread(found.path, format, last):
        found.add("joined", words)
    is_silent = format in ("mpegts", "mpeg") and found.num_bytes - last > max(UNREAD[0] * found.num_bytes, UNREAD[1])
    if other >= end or is_silent:
        found.add(
            "joined",
            f"the video ends at byte {end} of {found.num_bytes}: what follows is another stream, of which nothing is "
            "read. Take the parts as files of their own, or write them into one with one stream",
        )


def same_content(a: np.ndarray, b: np.ndarray, most: float = 16.0) -> bool:
    """Whether two fingerprints (P, 32, 32) are of one video, perhaps encoded or scaled anew.

    Coding moves the mean of a 16th of the width by a few grey values; another person before the same wall, or the same
    one doing something else, moves some by far more (by 35 at least in a set of nine people before one wall).
    """
    return all(cv2.norm(_halved(one), _halved(other), cv2.NORM_INF) <= most for one, other in zip(a, b, strict=True))


def _halved(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)


def find_duplicates(found: list[Examined]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of videos with the same content; of n copies the n - 1 pairs with the first.

    Equal files count as well as equal pictures in videos of about the same length. Blank videos are all alike and left
    out; of still pictures only equal lengths are compared.
    """
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    first_of: dict[str, int] = {}
    for i, one in enumerate(found):
        if one.digest and one.num_bytes:
            if one.digest in first_of:
                pairs.append((first_of[one.digest], i))
                taken.add(i)
            else:
                first_of[one.digest] = i
    rows = [
        i for i, one in enumerate(found)
        if i not in taken and one.fingerprint is not None and not any(kind == "blank" for kind, _ in one.problems)
    ]  # fmt: skip
    if not rows:
        return sorted(pairs)
    # the mean brightness of each picture finds candidates without comparing all with all
    means = np.array([found[i].fingerprint.mean(axis=(1, 2)) for i in rows])  # type: ignore[union-attr]  # (n, P)
    order = np.argsort(means[:, 0], kind="stable")
    ordered = means[order]
    close = 3.0
    for place, row in enumerate(order):
        i = rows[row]
        end = int(np.searchsorted(ordered[:, 0], ordered[place, 0] + close, side="right"))
        near = np.flatnonzero((np.abs(ordered[place + 1 : end] - ordered[place]) <= close).all(1))
        for other in near + place + 1:
            j = rows[order[other]]
            a, b = found[i], found[j]
            if abs(a.duration_s - b.duration_s) > 0.05 * max(a.duration_s, b.duration_s) + 0.1:
                continue
            if same_content(a.fingerprint, b.fingerprint):
                pairs.append((min(i, j), max(i, j)))
    return _stars(pairs)


def _stars(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Each group of connected pairs as the pairs of its first member with the others."""
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
