"""Videos that are written frame by frame, each at its own second, as H.264."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from vidact.files import replacing
from vidact.prediction import CONTAINERS

TIME_BASE = Fraction(1, 90_000)  # seconds; the clock of MPEG


class Write(Protocol):
    """Writes the next picture uint8 (H, W, 3) RGB, which is shown from ``seconds`` on."""

    def __call__(self, image: np.ndarray, seconds: float) -> None: ...


@contextmanager
def writing(out: Path, width: int, height: int, fps: float, crf: int) -> Iterator[Write]:
    """Yield a function that writes a picture; the file appears when the block has succeeded.

    Args:
        out: its suffix, one of ``vidact.prediction.CONTAINERS``, chooses the container.
        width: of the pictures; an odd row or column is cut off, since H.264 in 4:2:0 takes even sides.
        height: of the pictures, at least 2, as ``width``.
        fps: the mean rate. An .avi has this rate and no times of its own.
        crf: the quality, from 0 (exact) to 51.
    """
    is_steady = CONTAINERS[out.suffix.lower()] == "avi"
    rate = Fraction(fps).limit_denominator(1001)
    width, height = width // 2 * 2, height // 2 * 2
    with replacing(out) as half, av.open(str(half), "w", format=CONTAINERS[out.suffix.lower()]) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": str(crf), "bf": "0"}
        time_base = 1 / rate if is_steady else TIME_BASE
        stream.codec_context.time_base = time_base
        last = -1

        def write(image: np.ndarray, seconds: float) -> None:
            nonlocal last
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            frame.pts = last = last + 1 if is_steady else max(round(seconds / TIME_BASE), last + 1)
            frame.time_base = time_base
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode(None))
