"""The settings of re-encoding and packing; a light module, since commands import it before they parse their options."""

from __future__ import annotations

from dataclasses import dataclass

# The encoder of each codec, the name of the option for its parameters, and these parameters.
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    # Without cpu-independent, x264's AVX-512 code (mbtree_propagate_list) reads eight macroblocks at once, also beyond
    # the last one of a row: where a width is no multiple of 128, the result depends on uninitialised memory.
    "h264": ("libx264", "x264-params", {"open-gop": "0", "b-pyramid": "none", "scenecut": "0", "cpu-independent": "1"}),
    "hevc": ("libx265", "x265-params", {"open-gop": "0", "b-pyramid": "0", "scenecut": "0", "log-level": "error",
                                        "pools": "none", "frame-threads": "1"}),
}  # fmt: skip

# the presets of both encoders
PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"),
)


@dataclass(frozen=True)
class TranscodeSettings:
    """The settings of re-encoding.

    Args:
        short_side: pixels; a larger video is made smaller, a smaller one keeps its size. None keeps every size.
        gop: frames from one key frame to the next. Fewer make a copy faster to read and larger.
        codec: h264, or hevc, which is smaller and slower to read.
        psnr: the least PSNR, in dB of RGB pixels to the scaled source, of each copy, if a rate factor of 14 reaches it.
        crf: the encoder's rate factor instead of ``psnr``; lower is better and larger.
        preset: the encoder's preset; slower is smaller.
        b_frames: the most B-frames in a row.
    """

    short_side: int | None = 256
    gop: int = 8
    codec: str = "h264"
    psnr: float = 38.5
    crf: float | None = None
    preset: str = "medium"
    b_frames: int = 3

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"codec is {self.codec!r}; it can be {', '.join(CODECS)}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; it can be {', '.join(PRESETS)}")
        if self.short_side is not None and self.short_side < 16:
            raise ValueError(f"short_side is {self.short_side} pixels; it is at least 16")
        if self.gop < 1:
            raise ValueError(f"gop is {self.gop}; a key frame comes every 1 frame or more")
        if not 0 <= self.b_frames <= 16:
            raise ValueError(f"b_frames is {self.b_frames}; it is 0 to 16")
        if not 20 <= self.psnr <= 55:
            raise ValueError(f"psnr is {self.psnr} dB; it can be 20 to 55")
        if self.crf is not None and not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}; it can be 0 to 51")


@dataclass(frozen=True)
class PackSettings:
    """The settings of packing.

    Args:
        short_side: pixels; a larger video is made smaller, a smaller one keeps its size. None keeps every size.
        fps: the most frames a second that are kept: every frame of slower videos, every second one of 30 at 15, …
            None keeps all.
        quality: the quality of the JPEGs, 1 to 100.
        shard_mib: the MiB of source files in a shard; the shard itself is a few times larger.
    """

    short_side: int | None = 256
    fps: float | None = 15.0
    quality: int = 90
    shard_mib: float = 64.0

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 16:
            raise ValueError(f"short_side is {self.short_side} pixels; it is at least 16")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it is above 0, or None for all frames")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; it is 1 to 100")
        if not self.shard_mib > 0:
            raise ValueError(f"shard_mib is {self.shard_mib}; it is above 0")
