"""What a client of the web server may do: how much, how often, and which frames are decoded.

Whoever connects is a stranger. What it sends is bounded before it is looked at; a ``Fault`` closes its session.
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
    """What one server takes on.

    Args:
        sessions: open at the same time.
        connections: of TCP, open at the same time.
        message_bytes: of one message of a client.
        pixels: of one frame, read from its header before it is decoded.
        frames_per_second: of one session; the page sends no more than the model's clock needs.
        starts_per_second: of one session; each is a stream of its own, and may open a file.
        idle_s: without any message a session is closed.
        send_s: a client that takes longer for a message is gone.
        queue: messages that wait for a slow client; with more it is closed.
        pictures_per_second: of a named source.
        picture_side: their longer side.
        ahead_s: how far a frame's time may run before the server's own.
        message_characters: of one text message; the page's have a few dozen.
        segments: of a JPEG's header, and ``header_bytes`` in all; canvases of browsers write about ten.
        logins: pages that are let in without giving the token again; the one unused longest goes first.
        guess_s: after too many wrong tokens, of one address or of all, one is answered in so long.
        request_s: a connection that has not sent a whole request by then is closed.
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
    """What a client did that ends its session. ``kind`` is a word for the metrics."""

    def __init__(self, kind: str, text: str, code: int = POLICY) -> None:
        super().__init__(text)
        self.kind, self.code = kind, code


class Bucket:
    """A rate: ``take`` says no beyond ``per_second``, after a burst of ``burst``."""

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
    """Width and height of a baseline JPEG, from its header; anything else is a Fault."""
    return _read_header(data, limits or Limits())[:2]


def _read_header(data: bytes, limits: Limits) -> tuple[int, int, bytes]:
    """Width and height of a baseline JPEG, and the file without what no decoder needs.

    A file of a few kilobytes can ask for gigabytes of pixels, or for the same pixels thousands of times: in a
    progressive JPEG, or with one scan after the other. A file of a megabyte can hold ten thousand segments, each of
    which costs its reader more than the picture does. Canvases of browsers write a short header and one baseline scan.
    """
    broken = Fault("garbage", f"a frame of {len(data)} bytes is not a JPEG image; closed")
    if data[:2] != b"\xff\xd8":
        raise broken
    place, size, kept = 2, None, [b"\xff\xd8"]
    for _ in range(limits.segments + 1):
        if data[place : place + 2] == b"\xff\xda":  # the first scan
            break
        if place > limits.header_bytes:
            raise Fault("garbage", f"a frame's header has more than {limits.header_bytes:,} bytes; closed")
        if place + 10 > len(data) or data[place] != 0xFF:
            raise broken
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker < 0xC0 or marker == 0xFF or 0xD0 <= marker <= 0xD9 or length < 2:  # stand alone, or fill
            raise broken
        end = place + 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header; those are tables
            if marker > 0xC1 or size is not None:
                raise Fault("garbage", MANY_SCANS)
            precision, height, width, colours = struct.unpack_from(">BHHB", data, place + 4)
            if precision != 8 or colours not in (1, 3, 4) or length != 8 + 3 * colours:
                raise broken
            size = width, height
            kept.append(data[place:end])
        elif marker in TABLES:
            kept.append(data[place:end])
        place = end
    else:
        raise Fault("garbage", f"a frame's header has more than {limits.segments} segments; closed")
    if size is None:
        raise broken
    if data.count(b"\xff\xda", place) > 3:  # one for each colour is allowed
        raise Fault("garbage", MANY_SCANS)
    return *size, b"".join([*kept, data[place:]])


def decode_frame(data: bytes, limits: Limits) -> np.ndarray:
    """The RGB image (H, W, 3) of a client's JPEG. Nothing is decoded before it is known to be small."""
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
    except Exception as error:  # whatever a decoder makes of a stranger's bytes
        raise Fault("garbage", f"a frame is a broken JPEG ({one_line(error)}); closed") from None


def _decoded(data: bytes) -> np.ndarray:
    """The picture of a JPEG whose header is short: Python reads that, and the rest is read without its lock."""
    return np.array(Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB"))
