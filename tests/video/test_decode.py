"""Law 4: frame i of every decoder shows the number i drawn in it, at the time the file says, the right way up."""

import gc
import multiprocessing
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidact.video.decode import DECODERS, PyAVReader, Turn, VideoError, open_video
from vidact.video.numbered import numbered_picture, read_number, write_numbered_video

NUM_FRAMES = 40
X264 = {"preset": "veryfast"}

# Each is a trap: frames stored out of order, groups of pictures that lean on the one before, key frames that are none,
# containers without presentation times, streams that cannot be jumped in.
FILES = {
    "b_frames.mp4": {},
    "one_group.mp4": {"codec_options": X264 | {"g": "250"}},
    "open_groups.mkv": {"codec_options": X264 | {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0"}},
    "intra_refresh.mp4": {"codec_options": X264 | {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "no_times.avi": {},
    "mpeg4.avi": {"codec": "mpeg4", "codec_options": {"bf": "2", "g": "12", "b": "2M"}},
    "hidden.webm": {"codec": "libvpx", "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}},
    "stream.ts": {},
    "raw.h264": {},
}
# What a library cannot do, in its reader's words; everything else must be exact.
REFUSED = {
    ("decord", "stream.ts"): "loses the beginning",
    ("decord", "raw.h264"): "Failed to measure",
    ("torchcodec", "no_times.avi"): "timestamps",
    ("torchcodec", "mpeg4.avi"): "brings the picture of|no more frames",
    ("torchcodec", "raw.h264"): "timestamps",
    ("torchcodec", "stream.ts"): "brings the picture of|no more frames",
    ("torchcodec", "open_groups.mkv"): "no more frames",
    ("torchcodec", "intra_refresh.mp4"): "brings the picture of|no more frames",
}


def usable(decoder: str, path: Path) -> None:
    """Skip where the decoder is not installed; torchcodec says so when it is first used."""
    try:
        with open_video(path, decoder) as video:
            video.frames_at([0])
    except ImportError as error:
        pytest.skip(str(error))
    except VideoError:
        pass


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbered")
    for name, options in FILES.items():
        write_numbered_video(folder / name, NUM_FRAMES, **options)
    return folder


@pytest.fixture(scope="module")
def clip(videos: Path) -> Path:
    return videos / "b_frames.mp4"


def numbers(images: torch.Tensor) -> list[int]:
    return [read_number(image) for image in images.numpy()]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_frame_i_shows_the_number_i(decoder: str, name: str, videos: Path) -> None:
    usable(decoder, videos / "b_frames.mp4")
    generator = np.random.default_rng(0)
    with open_video(videos / name, decoder) as video:
        if (decoder, name) in REFUSED:
            with pytest.raises(VideoError, match=REFUSED[decoder, name]):
                video.frames_at([3, 20, NUM_FRAMES - 1])
            return
        assert len(video) == NUM_FRAMES
        asked = [[NUM_FRAMES - 1], [0], [20], [21, 22], [5, 5, 30, 2], range(NUM_FRAMES)]
        asked += [generator.integers(0, NUM_FRAMES, 4) for _ in range(6)]
        for indices in asked:
            frames = video.frames_at(indices)
            assert numbers(frames.images) == list(indices)
            np.testing.assert_array_equal(frames.times_s, video.times_s[list(indices)])
        assert frames.images.dtype == torch.uint8
        assert frames.images.shape[1:] == (3, video.height, video.width) == (3, 64, 96)


@pytest.mark.parametrize("decoder", DECODERS)
def test_each_decoder_brings_the_same_colours(decoder: str, clip: Path) -> None:
    usable(decoder, clip)
    with open_video(clip, decoder) as video:
        images = video.frames_at([0, 17]).images.numpy().astype(int)
    for image, number in zip(images, [0, 17], strict=True):
        assert np.abs(image - numbered_picture(number).transpose(2, 0, 1)).mean() < 12  # H.264 is lossy
    with open_video(clip) as video:
        assert np.abs(images - video.frames_at([0, 17]).images.numpy()).mean() < 3


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("quarter_turns", "mirror"), [(0, False), (1, False), (2, False), (3, False), (0, True), (1, True)]
)
def test_pictures_stand_upright(decoder: str, quarter_turns: int, mirror: bool, clip: Path, tmp_path: Path) -> None:
    """The numbers cannot be read sideways, upside down or mirrored."""
    usable(decoder, clip)
    path = tmp_path / "turned.mp4"
    write_numbered_video(path, 12, quarter_turns=quarter_turns, mirror=mirror)
    with open_video(path, decoder) as video:
        assert (video.width, video.height) == (96, 64)
        assert numbers(video.frames_at([11, 0, 5]).images) == [11, 0, 5]


def test_a_display_matrix_is_read_as_ffmpeg_defines_it() -> None:
    image = np.arange(6).reshape(2, 3, 1)
    turn = Turn.from_matrix(np.array([0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30]))
    np.testing.assert_array_equal(turn(image), np.rot90(image))
    assert turn.quarters == 1


@pytest.mark.parametrize("decoder", DECODERS)
def test_times_are_the_files_own(decoder: str, clip: Path, tmp_path: Path) -> None:
    """A variable rate is told frame by frame, and a first frame after 0 stays there."""
    usable(decoder, clip)
    times_ms = [200, 220, 300, 301, 500, 1000, 1010, 1490, 2000, 2600]
    path = tmp_path / "variable.mkv"
    write_numbered_video(path, len(times_ms), times_ms=times_ms)
    with open_video(path, decoder) as video:
        np.testing.assert_allclose(video.times_s, np.array(times_ms) / 1000, atol=1e-9)
        assert video.times_s.dtype == np.float64
        assert numbers(video.frames_at([9, 3]).images) == [9, 3]


def test_constant_rate(clip: Path) -> None:
    with open_video(clip) as video:
        assert video.fps == 25
        np.testing.assert_allclose(video.times_s, np.arange(NUM_FRAMES) / 25)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_index_out_of_range_raises(decoder: str, clip: Path) -> None:
    usable(decoder, clip)
    with open_video(clip, decoder) as video:
        for index in (-1, NUM_FRAMES, 10**6):
            with pytest.raises(IndexError, match=rf"frame {index} of .*b_frames.mp4 does not exist: it has 40 frames"):
                video.frames_at([0, index])


def test_indices_are_whole_numbers_in_a_list(clip: Path) -> None:
    with open_video(clip) as video:
        with pytest.raises(ValueError, match="list of whole numbers"):
            video.frames_at([0.5])
        with pytest.raises(ValueError, match="list of whole numbers"):
            video.frames_at(3)
        assert video.frames_at([]).images.shape == (0, 3, 64, 96)
        assert numbers(video.frames_at(torch.tensor([4, 2])).images) == [4, 2]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_video_of_one_frame(decoder: str, clip: Path, tmp_path: Path) -> None:
    usable(decoder, clip)
    write_numbered_video(tmp_path / "one.mp4", 1)
    with open_video(tmp_path / "one.mp4", decoder) as video:
        assert len(video) == 1
        assert numbers(video.frames_at([0, 0]).images) == [0, 0]


def test_several_threads_change_nothing(clip: Path) -> None:
    with open_video(clip) as one, open_video(clip, threads=2) as two:
        assert torch.equal(one.frames_at(range(NUM_FRAMES)).images, two.frames_at(range(NUM_FRAMES)).images)
        assert torch.equal(one.frames_at([30, 3]).images, two.frames_at([30, 3]).images)


@pytest.mark.parametrize("name", ["b_frames.mp4", "no_times.avi", "hidden.webm"])
def test_the_packets_and_the_pictures_give_one_index(name: str, videos: Path) -> None:
    with open_video(videos / name) as quick, open_video(videos / name, index="decode") as sure:
        np.testing.assert_array_equal(quick.times_s, sure.times_s)
        assert numbers(sure.frames_at([33, 1]).images) == [33, 1]


def test_reading_on_and_jumping_decode_no_more_than_they_must(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidact.video import frame_index, pyav_reader

    count, original = 0, frame_index.decode_packet

    def counted(packet: av.Packet, is_strict: bool = False) -> list[av.VideoFrame]:
        nonlocal count
        frames = original(packet, is_strict)
        count += len(frames)
        return frames

    for module in (frame_index, pyav_reader):
        monkeypatch.setattr(module, "decode_packet", counted)
    with open_video(videos / "one_group.mp4") as video:
        for start in range(0, NUM_FRAMES, 5):
            video.frames_at(range(start, start + 5))
    assert count == NUM_FRAMES  # chunk after chunk, nothing twice
    count = 0
    with open_video(videos / "b_frames.mp4") as video:
        video.frames_at([38])
    assert count <= 5  # the first, to know the size; then from the key frame 36 on, with one behind that was under way


# ----------------------------------------------------------------------------------------------------------------------


def read_elsewhere(video: PyAVReader) -> list[int]:
    with video:
        return numbers(video.frames_at([7, 3]).images)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_reader_pickles_and_can_be_closed_and_used_again(decoder: str, clip: Path) -> None:
    usable(decoder, clip)
    video = open_video(clip, decoder)
    assert numbers(video.frames_at([9]).images) == [9]
    copy = pickle.loads(pickle.dumps(video))
    assert numbers(copy.frames_at([8, 2]).images) == [8, 2]
    video.close()
    assert len(video) == NUM_FRAMES
    assert numbers(video.frames_at([3]).images) == [3]
    video.close()
    copy.close()


@pytest.mark.slow
def test_a_reader_travels_to_another_process(clip: Path) -> None:
    with open_video(clip) as video, multiprocessing.get_context("spawn").Pool(1) as pool:
        video.frames_at([20])
        assert pool.apply(read_elsewhere, (video,)) == [7, 3]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files under /proc")
@pytest.mark.parametrize("decoder", DECODERS)
def test_no_file_stays_open(decoder: str, clip: Path) -> None:
    usable(decoder, clip)
    for _ in range(3):
        with open_video(clip, decoder) as video:
            video.frames_at([30, 1])
    gc.collect()
    targets = [file.resolve() for file in Path("/proc/self/fd").iterdir() if file.exists()]
    assert clip.resolve() not in targets


# ----------------------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    for number in (0, 1, 2, 9, 10, 11):
        av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24").to_image().save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    with open_video(tmp_path) as video:
        assert numbers(video.frames_at(range(6)).images) == [0, 1, 2, 9, 10, 11]
        assert (video.fps, video.width, video.height) == (25, 96, 64)
        assert torch.equal(video.frames_at([1]).images[0], torch.from_numpy(numbered_picture(1).transpose(2, 0, 1)))
    with open_video(tmp_path, fps=10) as video:
        np.testing.assert_allclose(video.times_s, [0, 0.1, 0.2, 0.3, 0.4, 0.5])
        with pytest.raises(IndexError, match="it has 6 frames"):
            video.frames_at([6])
