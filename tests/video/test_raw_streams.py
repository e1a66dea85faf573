"""Files by their suffix, and streams that store no times: their rate is the one that they state."""

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidact.prepare.transcode import TranscodeJob, TranscodeSettings, transcode
from vidact.video.decode import open_video
from vidact.video.folders import VIDEO_SUFFIXES
from vidact.video.numbered import numbered_picture, read_number

NUM = 30
RAW = {".h264": "libx264", ".264": "libx264", ".hevc": "libx265", ".h265": "libx265", ".m2v": "mpeg2video",
       ".m1v": "mpeg1video", ".m4v": "mpeg4"}  # fmt: skip
FORMATS = {".264": "h264", ".h265": "hevc", ".divx": "avi", ".mod": "vob", ".f4v": "flv", ".3g2": "3g2",
           ".m1v": "mpeg1video", ".m2v": "mpeg2video", ".m4v": "m4v"}  # fmt: skip


def write(path: Path, codec: str, rate: Fraction, **options: str) -> None:
    with av.open(str(path), "w", format=FORMATS.get(path.suffix)) as file:
        words = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream: Any = file.add_stream(codec, rate=rate, options={"g": "10", "b": "4M"} | words | options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(NUM):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")))
        file.mux(stream.encode())


def test_video_files_are_known_by_their_suffixes() -> None:
    known = ".mxf .m2v .f4v .3g2 .divx .dv .mod .h264 .hevc .264 .h265 .265 .m1v .mjpeg .y4m .ivf .apng .mp4 .webm"
    assert set(known.split()) <= VIDEO_SUFFIXES


@pytest.mark.parametrize("rate", [Fraction(10), Fraction(25), Fraction(30000, 1001), Fraction(50)], ids=str)
@pytest.mark.parametrize("suffix", RAW)
def test_a_stream_without_times_has_the_rate_that_it_states(suffix: str, rate: Fraction, tmp_path: Path) -> None:
    if suffix == ".m1v" and rate == 10:
        pytest.skip("MPEG-1 has no such rate")
    path = tmp_path / f"raw{suffix}"
    write(path, RAW[suffix], rate)
    with open_video(path) as video:
        assert len(video) == NUM
        assert video.fps == pytest.approx(float(rate))
        np.testing.assert_allclose(video.times_s - video.times_s[0], np.arange(NUM) / float(rate), atol=1e-4)
        assert video.end_s - video.times_s[0] == pytest.approx(NUM / float(rate), abs=1e-4)
        for asked in (range(NUM), [17], [29, 3, 11]):
            assert [read_number(image) for image in video.frames_at(asked).images.numpy()] == list(asked)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mxf", "mpeg2video"), (".f4v", "libx264"), (".3g2", "libx264"), (".divx", "mpeg4"), (".mod", "mpeg2video"),
     (".ivf", "libvpx"), (".y4m", "rawvideo"), (".ogv", "libtheora"), (".nut", "ffv1")],
)  # fmt: skip
def test_containers_under_other_suffixes(suffix: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{suffix}"
    try:
        write(path, codec, Fraction(25))
    except (ValueError, av.error.FFmpegError):
        pytest.skip(f"this PyAV writes no {suffix} with {codec}")
    with open_video(path) as video:
        assert video.fps == 25
        asked = [29, 0, 13]
        assert [read_number(image) for image in video.frames_at(asked).images.numpy()] == asked


def test_dv_has_its_own_rate(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "tape.dv"), "w") as file:
        stream: Any = file.add_stream("dvvideo", rate=25)
        stream.height, stream.width, stream.pix_fmt = 576, 720, "yuv420p"
        for _ in range(5):
            file.mux(stream.encode(av.VideoFrame(720, 576, "yuv420p")))
    with open_video(tmp_path / "tape.dv") as video:
        assert (len(video), video.fps, round(video.end_s, 4)) == (5, 25.0, 0.2)


def test_a_stream_that_states_no_rate_is_read_at_25_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with av.open(str(tmp_path / "pictures.mjpeg"), "w") as file:
        stream: Any = file.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuvj420p"
        for i in range(5):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")))
        file.mux(stream.encode())
    with caplog.at_level(logging.WARNING), open_video(tmp_path / "pictures.mjpeg") as video:
        assert (video.fps, video.times_s.tolist()) == (25.0, pytest.approx([0, 0.04, 0.08, 0.12, 0.16]))
    (told,) = [record.getMessage() for record in caplog.records]
    assert "pictures.mjpeg" in told
    assert "25 frames a second" in told


def test_copies_go_where_names_look_like_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "clip.mp4", "libx264", Fraction(25))
    monkeypatch.chdir(tmp_path)
    for name in ("run:1", "%d", "-x", "concat:a"):
        made = transcode(TranscodeJob("a:b.mp4", Path("clip.mp4"), Path(name), TranscodeSettings(crf=30)))
        assert made.get("frames") == NUM, made
        with open_video(Path(name) / "a:b.mp4") as video:
            assert len(video) == NUM
