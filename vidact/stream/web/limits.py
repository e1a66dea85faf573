"""What a client of the web server may do: how much, how often, and which frames are decoded.

No client is trusted. The size of what it sends is checked before anything is parsed; a ``Fault`` closes its session.
"""

from __future__ import annotations

import io
import struct
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vidact.stream.web.monitor import one_line

POLICY, TOO_MANY = 1008, 1013  # close codes of RFC 6455: the client did what it may not; try again later


@dataclass(frozen=True)
class Limits:
    """The limits of one server.

    Args:
        sessions: number of sessions that may be open at the same time.
        connections: number of TCP connections that may be open at the same time.
        message_bytes: size of one message of a client.
        pixels: size of one frame, read from its header before it is decoded.
        frames_per_second: rate of one session's frames; the page sends no more than the model's clock needs.
        starts_per_second: rate of one session's starts; each opens a new stream, and perhaps a file.
        idle_s: seconds without any message after which a session is closed.
        send_s: seconds after which a client that has not taken a message is closed.
        queue: number of messages that wait for a slow client; with more it is closed.
        pictures_per_second: rate of a named source's pictures.
        picture_side: longer side of these pictures, in pixels.
        ahead_s: seconds that a frame's time may be ahead of the server's clock.
        message_characters: length of one text message; the page's have a few dozen characters.
        segments: number of segments of a JPEG's header; canvases of browsers write about ten.
        header_bytes: size of a JPEG's header.
        logins: number of pages that stay logged in; the one unused longest is logged out first.
        guess_s: seconds for each wrong token, after too many of one address or of all.
        request_s: seconds after which a connection that has not sent a whole request is closed.
    """

    sessions: int = 16
    connections: int = 256
    message_bytes: int = 1 << 20
    pixels: int = 1_000_000
    frames_per_second: float = 30.0
    starts_per_second: float = 1.0
    idle_s: float = 90.0
    send_s: float = 10.0
    queue: int = 256
    pictures_per_second: float = 15.0
    picture_side: int = 960
    ahead_s: float = 1.0
    request_s: float = 20.0
    message_characters: int = 256
    segments: int = 64
    header_bytes: int = 1 << 17
    logins: int = 1000
    guess_s: float = 0.2


class Fault(Exception):
    """A client's violation of a rule, which ends its session. ``kind`` is the label of the metrics."""

    def __init__(self, kind: str, text: str, code: int = POLICY) -> None:
        super().__init__(text)
        self.kind, self.code = kind, code


class Bucket:
    """A rate limit: ``take`` returns False beyond ``per_second``, after a burst of ``burst``."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self._left, self._at = burst, time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self.burst, self._left + (now - self._at) * self.per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


TABLES = (0xC4, 0xDB, 0xDD, 0xE0, 0xEE)  # markers that a decoder needs: Huffman, quantisation, restarts, JFIF, Adobe
MANY_SCANS = "a frame is a JPEG of many scans; only baseline ones are taken; closed"


def jpeg_size(data: bytes, limits: Limits | None = None) -> tuple[int, int]:
    """Return width and height of a baseline JPEG, from its header; raise Fault for any other content."""
    return _read_header(data, limits or Limits())[:2]


def _read_header(data: bytes, limits: Limits) -> tuple[int, int, bytes]:
    """Return width and height of a baseline JPEG, and the file without segments that no decoder needs.

    A file of a few kilobytes can decode to gigabytes of pixels, or to the same pixels thousands of times: in a
    progressive JPEG, or with one scan after the other. A file of a megabyte can hold ten thousand segments, each of
    which costs its reader more than the picture does. Canvases of browsers write a short header and one baseline scan.
    """
    broken = Fault("garbage", f"a frame of {len(data)} bytes is not a JPEG image; closed")
    if data[:2] != b"\xff\xd8":
        raise broken
    position, size, pieces = 2, None, [b"\xff\xd8"]
    for _ in range(limits.segments + 1):
        if data[position : position + 2] == b"\xff\xda":  # the first scan
            break
        if position > limits.header_bytes:
            raise Fault("garbage", f"a frame's header has more than {limits.header_bytes:,} bytes; closed")
        if position + 10 > len(data) or data[position] != 0xFF:
            raise broken
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if (
            marker < 0xC0 or marker == 0xFF or 0xD0 <= marker <= 0xD9 or length < 2
        ):  # markers without a length, or padding
            raise broken
        end = position + 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (
            0xC4,
            0xC8,
            0xCC,
        ):  # SOF markers are frame headers; the three excepted ones are tables
            if marker > 0xC1 or size is not None:
                raise Fault("garbage", MANY_SCANS)
            precision, height, width, colours = struct.unpack_from(">BHHB", data, position + 4)
            if precision != 8 or colours not in (1, 3, 4) or length != 8 + 3 * colours:
                raise broken
            size = width, height
            pieces.append(data[position:end])
        elif marker in TABLES:
            pieces.append(data[position:end])
        position = end
    else:
        raise Fault("garbage", f"a frame's header has more than {limits.segments} segments; closed")
    if size is None:
        raise broken
    if data.count(b"\xff\xda", position) > 3:  # a baseline JPEG may have one scan for each colour
        raise Fault("garbage", MANY_SCANS)
    return *size, b"".join([*pieces, data[position:]])


def decode_frame(data: bytes, limits: Limits) -> np.ndarray:
    """Return the RGB image uint8 (H, W, 3) of a client's JPEG. Its size is checked before anything is decoded."""
    width, height, clean = _read_header(data, limits)
    if width * height > limits.pixels:
        raise Fault("large", f"a frame has {width}x{height} pixels; at most {limits.pixels:,} are taken; closed")
    if min(width, height) < 16:
        raise Fault("garbage", f"a frame has {width}x{height} pixels; at least 16x16 are needed; closed")
    if len(clean) > limits.header_bytes + 4 * width * height:  # noise at the highest quality takes about 3 a pixel
        raise Fault(
            "garbage", f"a frame of {width}x{height} pixels has {len(data):,} bytes, which no picture needs; closed"
        )
    try:
        return _decoded(clean)
    except Exception as error:  # a decoder may raise any error for bytes that are no picture
        raise Fault("garbage", f"a frame is a broken JPEG ({one_line(error)}); closed") from None


def _decoded(data: bytes) -> np.ndarray:
    """Return the picture of a JPEG whose header is short: only the header is read in Python, which holds its lock."""
    return np.array(Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB"))
