"""What leaves the reader: pictures, or a VideoError with the file's name, whatever the library makes of a file."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidact.prepare.transcode import TranscodeJob, TranscodeSettings, transcode
from vidact.stream.sources import open_source
from vidact.video import frame_index, pyav_reader
from vidact.video.decode import VideoError, open_video
from vidact.video.numbered import numbered_picture, read_number, write_numbered_video

BT601, BT2020 = 5, 9


def numbers(path: Path, **settings: Any) -> list[int]:
    with open_video(path, **settings) as video:
        return [read_number(image.numpy()) for image in video.frames_at(range(len(video))).images]


def write_with_matrix(path: Path, matrix: int, codec: str = "libx264") -> None:
    """The same coded pictures whatever the matrix: x264 is given YUV, and only says how to read it."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.colorspace = matrix
        values = rng.integers(60, 190, (6, 96, 96), dtype=np.uint8).repeat(1, 0)
        for picture in values:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        file.mux(stream.encode())


@pytest.mark.parametrize("matrix", [8, 11, 12, 13, 14])
def test_a_matrix_that_swscale_does_not_know_is_read_as_ffmpeg_reads_it(
    matrix: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """YCgCo and the like as BT.601, and that is told once a file."""
    strange, usual = tmp_path / f"matrix{matrix}.mp4", tmp_path / "usual.mp4"
    write_with_matrix(strange, matrix)
    write_with_matrix(usual, BT601)
    with open_video(usual) as video, caplog.at_level(logging.WARNING):
        expected = video.frames_at(range(6)).images
        assert not caplog.records
    with open_video(strange) as video, caplog.at_level(logging.WARNING):
        first = video.frames_at([0]).images
        np.testing.assert_array_equal(video.frames_at(range(6)).images, expected)
    np.testing.assert_array_equal(first[0], expected[0])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert re.search(rf"matrix{matrix}\.mp4 .*BT\.601", told[0])


def test_bt2020_of_constant_luminance_is_read_as_the_other_bt2020(tmp_path: Path) -> None:
    write_with_matrix(tmp_path / "constant.mp4", 10)
    write_with_matrix(tmp_path / "usual.mp4", BT2020)
    with open_video(tmp_path / "constant.mp4") as video, open_video(tmp_path / "usual.mp4") as usual:
        np.testing.assert_array_equal(video.frames_at(range(6)).images, usual.frames_at(range(6)).images)


def test_such_a_file_is_played_and_copied(tmp_path: Path) -> None:
    write_with_matrix(tmp_path / "matrix8.mp4", 8)
    with open_source(tmp_path / "matrix8.mp4") as source:
        assert len(list(source)) == 6
    found = transcode(TranscodeJob("copy.mp4", tmp_path / "matrix8.mp4", tmp_path / "out", TranscodeSettings()))
    assert found.get("frames") == 6


# -- whatever a library raises

FAULTS = {
    "IndexError": lambda: IndexError("list index out of range"),
    "OSError": lambda: OSError(95, "Operation not supported"),
    "FFmpegError": lambda: av.error.InvalidDataError(1094995529, "Invalid data found when processing input"),
    "ValueError": lambda: ValueError("unknown format"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "MemoryError": lambda: MemoryError(),
    "RuntimeError": lambda: RuntimeError("broken"),
}


class Faulty:
    """A container whose packets end in an error."""

    def __init__(self, container: Any, fault: Callable[[], Exception], after: int) -> None:
        self._container, self._fault, self._after = container, fault, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def demux(self, *streams: Any) -> Any:
        for count, packet in enumerate(self._container.demux(*streams)):
            if count == self._after:
                raise self._fault()
            yield packet


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Callable[[], Exception]:
    return FAULTS[request.param]


@pytest.mark.parametrize("suffix", [".mp4", ".flv", ".ts"])
@pytest.mark.parametrize("after", [0, 9])
def test_errors_of_the_demuxer(
    suffix: str, after: int, fault: Callable[[], Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"clip{suffix}"
    write_numbered_video(path, 20, codec_options={"bf": "0", "preset": "ultrafast"})
    whole = frame_index.open_container

    def open_faulty(*arguments: Any, **settings: Any) -> Any:
        container, stream = whole(*arguments, **settings)
        return Faulty(container, fault, after), stream

    for module in (frame_index, pyav_reader):
        monkeypatch.setattr(module, "open_container", open_faulty)
    breaks_off = isinstance(fault(), av.error.FFmpegError) and suffix != ".mp4" and after  # its end is nowhere told
    if breaks_off:
        assert numbers(path) == list(range(after))
    else:
        with pytest.raises(VideoError, match=path.name):
            numbers(path)
    if after:  # what is left can be read
        assert numbers(path, index="decode") == list(range(after))


def test_errors_of_the_scaler(fault: Callable[[], Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    write_numbered_video(path, 3)

    class Scaler:
        def reformat(self, *arguments: object, **settings: object) -> None:
            raise fault()

    monkeypatch.setattr(pyav_reader, "VideoReformatter", Scaler)
    with open_video(path) as video, pytest.raises(VideoError, match=r"clip\.mp4.*cannot be (shown|converted)"):
        video.frames_at([0])


def test_errors_on_opening(fault: Callable[[], Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_numbered_video(tmp_path / "clip.mp4", 3)

    def fails(*arguments: object, **settings: object) -> None:
        raise fault()

    monkeypatch.setattr(av, "open", fails)
    with pytest.raises(VideoError, match=r"clip\.mp4 is not a video that can be read"):
        open_video(tmp_path / "clip.mp4")


# -- streams that appear in the middle of a file


def tags(content: bytes) -> list[bytes]:
    """The tags of an FLV file, each with its size behind it."""
    found, place = [], 13
    while place + 11 <= len(content):
        end = place + 15 + int.from_bytes(content[place + 1 : place + 4], "big")
        found.append(content[place:end])
        place = end
    return found


NUM_PICTURES = 250


def write_flv(path: Path) -> None:
    """Ten seconds of numbered pictures with sound."""
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        sound: Any = file.add_stream("aac", rate=8000, layout="mono")
        rng = np.random.default_rng(0)
        for i in range(NUM_PICTURES):
            file.mux(video.encode(av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")))
            noise = rng.integers(-9000, 9000, (1, 320), dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            frame.rate, frame.pts = 8000, 320 * i
            file.mux(sound.encode(frame))
        file.mux(video.encode())
        file.mux(sound.encode())


def test_a_file_in_which_the_library_loses_its_way_is_refused_by_name(tmp_path: Path) -> None:
    """Two bytes lost make the demuxer find a stream that it had not announced; another sort of sound does so too."""
    write_flv(tmp_path / "whole.flv")
    found = tags((tmp_path / "whole.flv").read_bytes())
    place = len(found) - 6
    stray = b"\x08" + (2).to_bytes(3, "big") + found[place][4:11] + b"\x2f\0" + (13).to_bytes(4, "big")
    path = tmp_path / "lost.flv"
    path.write_bytes((tmp_path / "whole.flv").read_bytes()[:13] + b"".join([*found[:place], stray, *found[place:]]))
    with pytest.raises(VideoError, match=r"lost\.flv.*damaged.*index='decode'"):
        numbers(path)
    assert numbers(path, index="decode") == list(range(NUM_PICTURES))
    told: list[str] = []
    with open_source(path, on_event=told.append) as source:
        assert len(list(source)) == NUM_PICTURES
    assert "lost.flv is damaged" in told[0]
    made = transcode(TranscodeJob("copy.mp4", path, tmp_path / "out", TranscodeSettings()))
    assert "lost.flv" in made["error"]


def test_sound_that_begins_late_and_was_not_announced_is_no_damage(tmp_path: Path) -> None:
    write_flv(tmp_path / "whole.flv")
    content = (tmp_path / "whole.flv").read_bytes()
    kept = [tag for tag in tags(content) if tag[0] == 9 or (tag[0] == 8 and int.from_bytes(tag[4:7], "big") > 8_000)]
    config = next(tag for tag in tags(content) if tag[0] == 8)
    place = next(i for i, tag in enumerate(kept) if tag[0] == 8)
    kept.insert(place, config[:4] + kept[place][4:7] + config[7:])
    path = tmp_path / "late.flv"
    path.write_bytes(content[:4] + b"\x01" + content[5:13] + b"".join(kept))
    assert numbers(path) == list(range(NUM_PICTURES))
