"""The conversion of a decoded picture to RGB, with the matrix and the range that it declares.

FFmpeg's scaler supports the matrices of BT.601, BT.709, FCC, SMPTE 240M and BT.2020, and refuses all others (YCgCo,
ICtCp, chromaticity-derived, …). The ``ffmpeg`` command then reads the picture as BT.601, and BT.2020 of constant
luminance as that of non-constant luminance. This module does the same, and logs a warning once for each file.

Shapes: H x W pixels.
"""

from __future__ import annotations

import functools
import logging

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vidact.video.reader import VideoError

log = logging.getLogger(__name__)

BT601, BT2020 = 5, 9  # AVColorSpace, as are the keys below
LAST_OF_VIDEO = 7  # AVColorPrimaries: up to this they are BT.709, BT.601 or nearly so; film, BT.2020 and P3 are above
HDR = {16, 18}  # AVColorTransferCharacteristic: PQ and HLG
UNKNOWN_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 of constant luminance",
    11: "SMPTE 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived of constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


def to_rgb(
    frame: av.VideoFrame,
    source: object,
    height: int | None = None,
    width: int | None = None,
    scaler: VideoReformatter | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Return the picture as RGB (H, W, 3) uint8, which may be a view of memory that the array keeps.

    Args:
        source: the file or stream, as messages name it.
        height: the height to scale to, with ``width``; None leaves the picture's own.
        scaler: one that the caller keeps for pictures of one kind; None makes a new one.

    Raises VideoError for a picture that FFmpeg cannot convert.
    """
    height, width = height or frame.height, width or frame.width
    scaler = scaler or VideoReformatter()
    try:
        try:
            picture = scaler.reformat(frame, width, height, "rgb24", threads=threads)
        except OSError:  # the scaler's "not supported"
            matrix = int(frame.colorspace)
            frame.colorspace = BT2020 if matrix == 10 else BT601
            picture = scaler.reformat(frame, width, height, "rgb24", threads=threads)
            _warn(str(source), matrix)
        plane = picture.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)  # type: ignore[call-overload]
    except Exception as error:  # the library raises various errors
        raise VideoError(
            f"a picture of {source} cannot be converted to RGB: {frame.format.name} of {frame.width}x{frame.height} "
            f"({type(error).__name__}: {error}). Transcode it to H.264 in yuv420p"
        ) from error
    return rows[:, : 3 * width].reshape(height, width, 3)


@functools.cache
def _warn(source: str, matrix: int) -> None:
    log.warning(
        "%s declares the colour matrix %s, which FFmpeg does not convert; it is read as %s, as the ffmpeg command does",
        source,
        UNKNOWN_MATRICES.get(matrix, str(matrix)),
        "BT.2020" if matrix == 10 else "BT.601",
    )
