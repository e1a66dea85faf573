"""A decoder chosen by hand brings the pictures that the default one brings, or says that it cannot."""

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidact.video.decode import DECODERS, VideoError, open_video
from vidact.video.numbered import numbered_picture, write_numbered_video

OTHERS = [name for name in DECODERS if name != "pyav"]
NUM = 12  # pictures of a part


def write_part(path: Path, part: int, scale: int = 1, **context: Any) -> None:
    """Numbered pictures, the second part's later than the first's by its length."""
    pixels, codec = context.pop("pix_fmt", "yuv420p"), context.pop("codec", "libx264")
    options = {"preset": "ultrafast", "bf": "0", "g": "6"} if codec == "libx264" else {}
    options |= context.pop("options", {})
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64 * scale, 96 * scale, pixels
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for i in range(NUM):
            picture = numbered_picture(NUM * part + i + 1).repeat(scale, 0).repeat(scale, 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts = NUM * part + i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


INTERLACED = {"options": {"flags": "+ilme+ildct"}}
PARTS: dict[str, tuple[dict[str, Any], ...]] = {
    "interlaced later": ({}, INTERLACED),
    "interlaced first": (INTERLACED, {}),
    "another size later": ({}, {"scale": 2}),
    "another format later": ({}, {"pix_fmt": "yuv422p"}),
    "a smaller format later": ({"pix_fmt": "yuv444p"}, {}),
    "another range later": ({}, {"color_range": 2}),
    "another matrix later": ({"colorspace": 5}, {"colorspace": 1}),
    "an unknown matrix": ({"colorspace": 8}, {"colorspace": 8}),
    "an unknown matrix later": ({}, {"colorspace": 8}),
    "HLG": ({"color_trc": 18, "color_primaries": 9, "colorspace": 9},) * 2,
    "PQ later": ({}, {"color_trc": 16, "color_primaries": 9, "colorspace": 9}),
    "Display P3": ({"color_primaries": 12, "colorspace": 1},) * 2,
    "BT.2020 primaries": ({"color_primaries": 9, "colorspace": 9},) * 2,
    "other primaries of video": ({"color_primaries": 5}, {"color_primaries": 6}),
}


def test_opencv_is_not_given_pixels_whose_format_changes(tmp_path: Path) -> None:
    """Versions of it read beyond a picture's memory, which may end the process (opencv/opencv issue 29699)."""
    for part, pixels in enumerate(("yuv444p", "yuv420p")):
        write_part(tmp_path / f"{part}.ts", part, pix_fmt=pixels)
    (tmp_path / "clip.ts").write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    with open_video(tmp_path / "clip.ts", "opencv") as video, pytest.raises(VideoError, match="format of its pixels"):
        video.frames_at([NUM + 1])


def assert_the_pictures_or_refused(decoder: str, path: Path) -> None:
    with open_video(path) as video:
        expected = video.frames_at(range(len(video))).images.numpy().astype(int)
    for asked in (range(len(expected)), [len(expected) - 1, len(expected) // 2], [3]):
        try:
            with open_video(path, decoder) as video:
                got = video.frames_at(asked).images.numpy()
        except ImportError as error:
            pytest.skip(str(error))
        except VideoError as error:
            assert re.search(rf"^{decoder} cannot read .*{re.escape(path.name)}.*use decoder='pyav'", str(error))  # noqa: PT017
        else:
            assert np.abs(got - expected[list(asked)]).mean((1, 2, 3)).max() < 6


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".mp4", ".avi"])
@pytest.mark.parametrize("kind", PARTS)
def test_pictures_that_are_not_all_alike(decoder: str, suffix: str, kind: str, tmp_path: Path) -> None:
    for part, settings in enumerate(PARTS[kind]):
        write_part(tmp_path / f"{part}.ts", part, **settings)
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    path = tmp_path / f"clip{suffix}"
    if suffix == ".ts":
        joined.rename(path)
    else:
        with av.open(str(joined)) as source, av.open(str(path), "w") as copy:
            stream = copy.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    copy.mux(packet)
    assert_the_pictures_or_refused(decoder, path)


@pytest.mark.parametrize("pixels", ["gray16le", "bgra", "gray", "yuv440p12le", "yuv444p10le", "ya8", "rgb48le"])
@pytest.mark.parametrize("decoder", OTHERS)
def test_unusual_pixels(decoder: str, pixels: str, tmp_path: Path) -> None:
    write_part(tmp_path / "clip.mkv", 0, codec="ffv1", pix_fmt=pixels, options={"strict": "-2"})
    assert_the_pictures_or_refused(decoder, tmp_path / "clip.mkv")


@pytest.mark.parametrize(("codec", "pixels"), [("qtrle", "gray"), ("cinepak", "rgb24")])
@pytest.mark.parametrize("decoder", OTHERS)
def test_palettes_and_other_channels(decoder: str, codec: str, pixels: str, tmp_path: Path) -> None:
    write_part(tmp_path / "clip.mov", 0, codec=codec, pix_fmt=pixels)
    assert_the_pictures_or_refused(decoder, tmp_path / "clip.mov")


@pytest.mark.parametrize("decoder", OTHERS)
def test_stamps_before_zero(decoder: str, tmp_path: Path) -> None:
    """Matroska has none; FFmpeg gives the packets before zero without any."""
    with av.open(str(tmp_path / "clip.mkv"), "w", options={"avoid_negative_ts": "disabled"}) as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"preset": "ultrafast", "bf": "2", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")
            frame.pts, frame.time_base = i - 12, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert_the_pictures_or_refused(decoder, tmp_path / "clip.mkv")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
@pytest.mark.parametrize("decoder", OTHERS)
def test_damaged_pictures(decoder: str, suffix: str, tmp_path: Path) -> None:
    """What a library passes over must not move the pictures behind it."""
    write_numbered_video(tmp_path / f"clip{suffix}", 30)
    content = bytearray((tmp_path / f"clip{suffix}").read_bytes())
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / f"clip{suffix}")) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.size and not packet.is_keyframe]
    for trial in range(4):
        spoilt = bytearray(content)
        place = places[int(rng.integers(3, len(places) - 3))]
        spoilt[place + 4 : place + 40] = rng.bytes(36)
        path = tmp_path / f"spoilt{trial}{suffix}"
        path.write_bytes(spoilt)
        try:
            with open_video(path) as video:
                video.frames_at(range(len(video)))
        except VideoError:
            continue
        assert_the_pictures_or_refused(decoder, path)


# -- names that look like something else


NAMES = ["10:30:05.mp4", "a:b.mp4", "-x.mp4", "%d.mp4", "%05d.mp4", "concat:a|b.mp4", "[1].mp4", "a\nb.mp4", "*.mp4",
         "http:x.mp4", "pipe:0.mp4", "data:x,.mp4", "subfile,,start,0,end,9,,:x.mp4", "a b#c?d&e.mp4", "~.mp4", "'.mp4",
         "é" * 100 + ".mp4", "file:x.mp4", "\\x.mp4"]  # fmt: skip


@pytest.mark.parametrize("decoder", DECODERS)
def test_names_that_look_like_something_else(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to where one is, as a user types them."""
    write_numbered_video(tmp_path / "clip.mp4", 6)
    monkeypatch.chdir(tmp_path)
    with open_video("clip.mp4") as video:
        expected = video.frames_at([0, 5]).images.numpy().astype(int)
    for name in NAMES:
        os.link("clip.mp4", name)
        try:
            with open_video(name, decoder) as video:
                got = video.frames_at([0, 5]).images.numpy()
        except ImportError as error:
            pytest.skip(str(error))
        assert np.abs(got - expected).mean() < 6, name


@pytest.mark.parametrize("decoder", DECODERS)
def test_names_in_no_encoding(decoder: str, tmp_path: Path) -> None:
    """A name that is no UTF-8 is read, or refused in words that can be printed."""
    write_numbered_video(tmp_path / "clip.mp4", 6)
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    try:
        os.link(tmp_path / "clip.mp4", path)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    try:
        with open_video(path, decoder) as video:
            assert len(video.frames_at([0, 5])) == 2
    except ImportError as error:
        pytest.skip(str(error))
    except VideoError as error:
        assert decoder != "pyav"
        assert "cannot read" in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "a\0b.mp4", "x/" * 3000 + "y.mp4"], ids=["long", "nul", "deep"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_video(tmp_path / name)
