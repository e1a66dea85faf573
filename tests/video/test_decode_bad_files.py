"""What cannot be read is refused by name, with what is wrong and what to do."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vidact.video.decode import DECODERS, VideoError, open_video
from vidact.video.numbered import read_number, write_numbered_video


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac" if path.suffix == ".m4a" else "pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def write_bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def write_without_index(path: Path) -> None:
    """An MP4 whose index stands at the end, cut before it."""
    write_numbered_video(path, 30)
    path.write_bytes(path.read_bytes()[:3000])


UNREADABLE = {
    "empty.mp4": (write_bytes(b""), r"empty.mp4 is empty \(0 bytes\)"),
    "text.mp4": (write_bytes(b"these are notes\n" * 99), "text.mp4 is not a video .* begins with b'these are no'"),
    "no_index.mp4": (write_without_index, "no_index.mp4 is not a video .* cut short and lacks its index"),
    "sound.wav": (write_sound, "sound.wav has no video stream, only audio"),
    "sound.m4a": (write_sound, "sound.m4a has no video stream, only audio"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_video_is_refused_when_it_is_opened(name: str, tmp_path: Path) -> None:
    write, words = UNREADABLE[name]
    write(tmp_path / name)
    for decoder in ("pyav", "opencv"):
        with pytest.raises(VideoError, match=words):
            open_video(tmp_path / name, decoder)


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4 does not exist"):
        open_video(tmp_path / "nowhere.mp4")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the video: a set with one such file goes on without it."""
    path = tmp_path / "clip.mp4"
    write_numbered_video(path, 3)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything
        monkeypatch.setattr(os, "access", lambda *asked: False)
    with pytest.raises(VideoError, match=r"clip\.mp4 may not be read by this user; change its permissions"):
        open_video(path)


def test_a_cut_file_says_how_much_is_left(tmp_path: Path) -> None:
    """Its index promises 60 frames; nothing pretends that it was shorter, unless it is asked to."""
    path = tmp_path / "cut.mp4"
    write_numbered_video(path, 60, container_options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    with open_video(path) as video:
        with pytest.raises(VideoError, match=r"cut.mp4 is cut short: \d\d of its 60 frames .*index='decode'") as error:
            len(video)
        with pytest.raises(VideoError, match="cut short"):
            video.frames_at([0])
    found = re.search(r"(\d+) of its 60", str(error.value))
    assert found
    left = int(found[1])
    assert 10 < left < 60
    with open_video(path, index="decode") as video:
        assert len(video) == left
        assert [read_number(image.numpy()) for image in video.frames_at([left - 1, 0]).images] == [left - 1, 0]


def test_a_cut_avi_is_noticed_too(tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    write_numbered_video(path, 60, codec="mpeg4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with open_video(path) as video, pytest.raises(VideoError, match=r"cut short: \d\d of its 60"):
        len(video)


def test_a_damaged_frame_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    write_numbered_video(path, 36, codec_options={"g": "12", "bf": "0", "preset": "veryfast"})
    with av.open(str(path)) as container:
        hit = [(p.pos, p.size) for p in container.demux(video=0) if p.size][15]
    content = bytearray(path.read_bytes())
    content[hit[0] : hit[0] + hit[1]] = b"\xff" * hit[1]
    path.write_bytes(content)
    with open_video(path) as video:
        assert len(video) == 36
        with pytest.raises(
            VideoError, match=r"frame 15 of .*damaged.mp4 cannot be decoded, only 35 of its 36 frames can"
        ):
            video.frames_at([3, 15])
        assert [read_number(image.numpy()) for image in video.frames_at([30, 14, 2]).images] == [30, 14, 2]


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(VideoError, match="is a folder without images"):
        open_video(tmp_path)
    (tmp_path / "1.jpg").write_bytes(b"no image either")
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"1\.jpg is not an image"):
        video.frames_at([0])
    with pytest.raises(ValueError, match="fps is 0"):
        open_video(tmp_path, fps=0)


@pytest.mark.parametrize("content", [b"P6 6x 4 255\n" + bytes(72), b"P6 60000 60000 255\n"], ids=["words", "too large"])
def test_whatever_is_wrong_with_an_image_is_an_error_of_the_video(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.ppm").write_bytes(content)
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"1\.ppm is not an image that can be read"):
        video.frames_at([0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_of_16_bits_become_8(suffix: str, tmp_path: Path) -> None:
    """Pillow's own conversion makes them white."""
    levels = np.arange(256 * 24, dtype=np.uint16).reshape(64, 96) * 10
    Image.fromarray(levels).save(tmp_path / f"1.{suffix}")
    with open_video(tmp_path) as video:
        image = video.frames_at([0]).images[0].numpy()
    assert (image == (levels >> 8).astype(np.uint8)).all()


def test_images_without_a_white_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(tmp_path / "1.tif")
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"1\.tif has values .* store 8 or 16 bits"):
        video.frames_at([0])


def test_hidden_files_beside_images_are_no_images(tmp_path: Path) -> None:
    """A Mac leaves them in archives."""
    Image.new("RGB", (6, 4)).save(tmp_path / "1.jpg")
    (tmp_path / "._1.jpg").write_bytes(b"Mac OS X")
    with open_video(tmp_path) as video:
        assert len(video) == len(video.frames_at([0]).images) == 1


def test_images_of_one_video_have_one_size(tmp_path: Path) -> None:
    for i, width in enumerate((8, 8, 10)):
        av.VideoFrame.from_ndarray(np.zeros((6, width, 3), np.uint8), format="rgb24").to_image().save(
            tmp_path / f"{i}.png"
        )
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"2\.png is 10x6, but the first .* is 8x6"):
        video.frames_at([0, 2])


def test_settings_that_do_not_exist(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "clip.mp4", 3)
    with pytest.raises(ValueError, match="decoder 'ffmpeg' is unknown; choose one of pyav, decord, opencv, torchcodec"):
        open_video(tmp_path / "clip.mp4", decoder="ffmpeg")
    with pytest.raises(ValueError, match="carries its own times"):
        open_video(tmp_path / "clip.mp4", fps=25)
    with pytest.raises(ValueError, match="index is 'fast'"):
        open_video(tmp_path / "clip.mp4", index="fast")
    with pytest.raises(ValueError, match="threads is -1"):
        open_video(tmp_path / "clip.mp4", threads=-1)


@pytest.mark.parametrize(
    ("decoder", "module", "words"),
    [
        ("decord", "decord", "decoder 'decord' cannot be used .*pip install decord"),
        ("opencv", "cv2", "decoder 'opencv' cannot be used .*pip install opencv-python"),
        ("torchcodec", "torchcodec.decoders", "decoder 'torchcodec' cannot be used .*FFmpeg's shared libraries"),
    ],
)
def test_a_decoder_that_is_not_installed(
    decoder: str, module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_numbered_video(tmp_path / "clip.mp4", 3)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=words):
        open_video(tmp_path / "clip.mp4", decoder)


def test_a_library_that_cannot_read_a_file_names_the_way_out(tmp_path: Path) -> None:
    """What another library cannot read is an error of the video, so that a data set can skip it by name."""
    pytest.importorskip("decord")
    write_numbered_video(tmp_path / "raw.h264", 12)
    with open_video(tmp_path / "raw.h264", "decord") as video, pytest.raises(VideoError, match="use decoder='pyav'"):
        video.frames_at([0])


def test_interlaced_video_is_not_given_to_opencv_5(tmp_path: Path) -> None:
    """It returns memory that nothing was written to, and no error."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "interlaced.mp4"
    write_numbered_video(path, 12, codec_options={"flags": "+ilme+ildct", "preset": "veryfast"})
    with open_video(path) as video:
        assert [read_number(image.numpy()) for image in video.frames_at([11, 4]).images] == [11, 4]
    if int(cv2.__version__.split(".")[0]) >= 5:
        with open_video(path, "opencv") as video, pytest.raises(VideoError, match="interlaced"):
            video.frames_at([0])


def test_all_decoders_are_known_by_name() -> None:
    assert list(DECODERS) == ["pyav", "decord", "opencv", "torchcodec"]
