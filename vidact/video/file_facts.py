"""What opening a video file states about it, besides its frames."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import av
import av.format
from av.container import InputContainer
from av.video.stream import VideoStream

log = logging.getLogger(__name__)

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
USUAL_FPS = 25.0  # FFmpeg's value for a file that states no rate
MOST_FPS = 10_000  # a higher rate is a broken number, as FFmpeg's average of DV
LONGEST_PICTURE_S = 24 * 3600.0  # a longer duration of the last picture is a broken number

# With these options FFmpeg does not decode the first pictures to find out more than the file's own headers state. What
# it then does not know is the pixel format and, of H.264, how many pictures the decoder has to hold back.
UNPROBED = {"skip_frame": "all", "probesize": "32", "fpsprobesize": "0"}


@dataclass(frozen=True)
class FileFacts:
    """What opening a file states about it, besides its frames.

    ``format`` is FFmpeg's name of the container, such as "avi". ``fps`` is the average rate. ``begin_s`` is the
    beginning of the file and ``copied_lead_s`` the time that a copy's source played before its first picture; both are
    None where the file does not state them. ``is_raw``: a bare stream of coded pictures, without times.
    """

    format: str
    fps: float
    begin_s: float | None
    copied_lead_s: float | None
    is_raw: bool


def format_by_beginning(path: Path) -> str | None:
    """Return FFmpeg's name of a container whose first bytes are beyond doubt: MP4 or AVI; None for any other file."""
    try:
        with path.open("rb") as file:
            beginning = file.read(12)
    except OSError:  # the caller opens the file next, and says why it cannot be read
        return None
    if beginning[4:8] == b"ftyp":
        return MP4
    return "avi" if beginning[:4] == b"RIFF" and beginning[8:] == b"AVI " else None


def needs_no_probe(container: InputContainer, stream: VideoStream) -> bool:
    """Whether a file opened with ``UNPROBED`` states the same facts as otherwise: H.264 alone in an MP4 file."""
    return (
        container.format.name == MP4
        and stream.codec_context.codec.canonical_name == "h264"
        and len(container.streams) == 1
        and bool(stream.average_rate and stream.codec_context.extradata)
    )


def read_facts(container: InputContainer, stream: VideoStream, path: Path) -> FileFacts:
    """Return the facts of a file that was opened."""
    begin = container.start_time
    return FileFacts(
        container.format.name,
        frame_rate(container, stream, path),
        None if begin is None else begin / av.time_base,
        copied_lead_s(container),
        is_raw(container),
    )


def is_raw(container: InputContainer) -> bool:
    """Whether the file is a bare stream of coded pictures, without times."""
    return av.format.Flags.no_timestamps in av.format.Flags(container.format.flags)


LEAD_TAG = "vidact_lead_s"  # a tag of copies without sound: the time that their source played before its first picture


def copied_lead_s(container: InputContainer) -> float | None:
    """Return the seconds that a copy's source played before its first picture; None where the file is no such copy."""
    try:
        lead_s = float(container.metadata[LEAD_TAG])
    except (KeyError, ValueError):
        return None
    return lead_s if 0 <= lead_s < LONGEST_PICTURE_S else None


def frame_rate(container: InputContainer, stream: VideoStream, path: Path) -> float:
    """Return the frames a second: the average where the file stores times, else the coded stream's rate, or 25."""
    rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    if is_raw(container):
        rates = [stream.codec_context.framerate, stream.guessed_rate]  # the average is 25 whatever the stream states
        if not rates[0]:
            _warn_of_missing_rate(path)
    return next((float(rate) for rate in rates if rate and 0 < rate <= MOST_FPS), USUAL_FPS)


@functools.cache
def _warn_of_missing_rate(path: Path) -> None:
    log.warning("%s stores no times and states no rate; it is read at 25 frames a second, as FFmpeg does", path)
