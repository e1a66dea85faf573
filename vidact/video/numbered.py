"""A video whose frame i shows the number i, for proving that the right frames are read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS, BLOCK = 10, 16  # numbers up to 1023; blocks as large as a codec's, so that compression keeps them


def numbered_picture(number: int) -> np.ndarray:
    """Return a picture (64, 96, 3) uint8: the number as two rows of black and white blocks, above moving colours."""
    if not 0 <= number < 2**BITS:
        raise ValueError(f"number {number} does not fit into {BITS} bits")
    picture = np.empty((4 * BLOCK, 6 * BLOCK, 3), dtype=np.uint8)
    x = np.arange(picture.shape[1])
    picture[:] = np.stack([(x + 3 * number) % 96 + 60, 180 - x, np.full_like(x, 90)], axis=1)
    for bit in range(BITS):
        row, column = divmod(bit, BITS // 2)
        block = np.s_[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
        picture[block] = 255 if number >> bit & 1 else 0
    return picture


def read_number(image: np.ndarray) -> int:
    """Return the number that a picture (3, H, W) of a numbered video shows."""
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, BITS // 2)
        middle = np.s_[row * BLOCK + 4 : (row + 1) * BLOCK - 4, column * BLOCK + 4 : (column + 1) * BLOCK - 4]
        number |= int(image[(slice(None), *middle)].mean() > 128) << bit
    return number


def write_numbered_video(
    path: Path,
    num_frames: int,
    times_ms: list[int] | None = None,
    codec: str = "libx264",
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    quarter_turns: int = 0,
    mirror: bool = False,
) -> None:
    """Write a video whose picture i shows the number i.

    By default it is H.264 at 25 fps with B-frames and a key frame every 12 pictures.

    Args:
        times_ms: when each picture is upright, for variable frame rates; None is every 40 ms.
        quarter_turns: the quarter turns counter-clockwise by which a player makes the stored picture upright.
        mirror: whether a player has to mirror it left to right, after turning.
    """
    if codec_options is None:
        codec_options = {"g": "12", "bf": "3", "preset": "veryfast"} if codec == "libx264" else {}
    if codec == "libx264":  # as in transcode.py, the same bytes each time and on every machine
        params = [codec_options.get("x264-params", ""), "cpu-independent=1"]
        codec_options = {"threads": "1"} | codec_options | {"x264-params": ":".join(filter(None, params))}
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=codec_options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = np.rot90(numbered_picture(0), quarter_turns).shape[:2]
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if quarter_turns or mirror:
            stream.set_display_rotation(90 * quarter_turns, hflip=mirror)
        for i in range(num_frames):
            upright = numbered_picture(i)
            stored = np.rot90(upright[:, ::-1] if mirror else upright, -quarter_turns)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
