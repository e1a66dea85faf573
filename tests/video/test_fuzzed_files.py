"""Damaged files of many containers and codecs: pictures or a VideoError with the name; nothing else, and no end."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest

from vidact.stream.sources import open_source
from vidact.video.decode import VideoError, open_video
from vidact.video.numbered import numbered_picture

KINDS = {
    "h264.mp4": ("libx264", "yuv420p"),
    "hevc.mp4": ("libx265", "yuv420p"),
    "h264.mkv": ("libx264", "yuv420p"),
    "grey16.mkv": ("ffv1", "gray16le"),
    "h264.flv": ("libx264", "yuv420p"),
    "h264.ts": ("libx264", "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", "yuv420p"),
    "mpeg4.avi": ("mpeg4", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "picture.gif": ("gif", "rgb8"),
    "vp8.webm": ("libvpx", "yuv420p"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "theora.ogv": ("libtheora", "yuv420p"),
    "bare.h264": ("libx264", "yuv420p"),
    "prores.mov": ("prores_ks", "yuv422p10le"),
    "windows.wmv": ("wmv2", "yuv420p"),
}


def write(path: Path, codec: str, pixels: str) -> None:
    options = {"libx264": {"preset": "ultrafast", "g": "5"}, "libx265": {"x265-params": "log-level=none:keyint=5"},
               "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}.get(codec, {})  # fmt: skip
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24").reformat(format=pixels)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 5, 20])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def flip_head(content: bytearray, rng: random.Random) -> None:
    for _ in range(4):
        content[rng.randrange(min(len(content), 500))] ^= 1 << rng.randrange(8)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(1, len(content)) :]


def lose(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    del content[at : at + rng.choice([1, 2, 3, 188])]


def swap(content: bytearray, rng: random.Random) -> None:
    length = 64
    one, other = sorted(rng.sample(range(len(content) - length), 2))
    if one + length <= other:
        content[one : one + length], content[other : other + length] = (
            content[other : other + length],
            content[one : one + length],
        )


def overwrite(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content) - 4)
    content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])


def insert(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    content[at:at] = rng.randbytes(rng.choice([1, 2, 50]))


HARMS: list[Callable[[bytearray, random.Random], None]] = [flip, flip_head, cut, lose, swap, overwrite, insert]


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_pictures_or_an_error_of_the_video(name: str, tmp_path: Path) -> None:
    try:
        write(tmp_path / name, *KINDS[name])
    except (ValueError, av.error.FFmpegError):
        pytest.skip(f"this PyAV writes no {name}")
    content = (tmp_path / name).read_bytes()
    for number, harm in enumerate(HARMS):
        spoilt = bytearray(content)
        harm(spoilt, random.Random(number))
        path = tmp_path / f"spoilt{number}{Path(name).suffix}"
        path.write_bytes(spoilt)
        for decoder, index in (("pyav", "auto"), ("pyav", "decode"), ("opencv", "auto")):
            try:
                with open_video(path, decoder, index=index) as video:
                    count = len(video)
                    for asked in ([count - 1, 0, count // 2], range(count)):
                        frames = video.frames_at(asked)
                        assert len(frames) == len(asked)
                    assert np.isfinite([video.fps, video.begin_s, video.end_s, *video.times_s]).all()
                    assert video.begin_s <= video.times_s[0] <= video.times_s[-1] < video.end_s
            except VideoError as error:
                assert path.name in str(error)  # noqa: PT017
        try:
            with open_source(path, on_event=lambda line: None) as source:
                seconds = [grab.seconds for grab in source]
            assert (np.diff(seconds) >= 0).all()
        except VideoError as error:
            assert path.name in str(error)  # noqa: PT017
