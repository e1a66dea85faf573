"""A copy is the same video, frame by frame, upright, at the same times, with the required PSNR and key frames."""

import ctypes
import sys

import av
import numpy as np
import pytest

from vidact.data.synthetic import write_video
from vidact.prepare import transcode as video_transcode
from vidact.prepare.transcode import TranscodeJob, TranscodeSettings, scaled_size, transcode
from vidact.video.decode import open_video
from vidact.video.numbered import write_numbered_video


def film(frames=30, height=72, width=96):
    random = np.random.default_rng(0)
    coarse = random.integers(20, 230, (height // 8, width // 8, 1), dtype=np.uint8)  # grey: 4:2:0 would blur colours
    wall = np.kron(coarse, np.ones((8, 8, 3), np.uint8))
    return np.stack([np.roll(wall, t, 1) for t in range(frames)])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "a.mp4"
    write_video(path, film(), 30, keyframe_every=30)
    return path


def copy(source, out, **settings):
    job = TranscodeJob("copy.mp4", source, out, TranscodeSettings(**{"preset": "ultrafast", **settings}))
    note = transcode(job)
    assert "error" not in note, note
    assert job.is_done()
    return job.target, note


def packets(path):
    with av.open(str(path)) as file:
        return [packet.is_keyframe for packet in file.demux(video=0) if packet.size]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("gop", [1, 4, 8])
def test_a_key_frame_every_so_many(source, tmp_path, codec, gop):
    path, _ = copy(source, tmp_path, gop=gop, codec=codec, crf=24)
    assert packets(path).count(True) == -(-30 // gop)
    with open_video(path, cache=False) as video, open_video(source, cache=False) as original:
        np.testing.assert_allclose(video.times_s, original.times_s, atol=1e-5)
        assert np.diff(np.flatnonzero([*packets(path), True])).max() <= gop


@pytest.fixture
def perturb():
    """Return a function that sets the byte that glibc fills allocated and freed memory with (MALLOC_PERTURB_)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        pytest.skip("only glibc fills memory on demand")
    m_perturb = -6  # M_PERTURB in malloc.h
    yield lambda value: mallopt(m_perturb, value)
    mallopt(m_perturb, 0)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_unset_memory_changes_nothing(perturb, tmp_path, codec):
    """Of a row of 11 macroblocks, x264's AVX-512 code reads 8 at once, and so the memory of five after the last."""
    write_video(tmp_path / "a.mp4", film(16, 144, 176), 25)
    digests = []
    for value in (0, 1, 85, 255):
        perturb(value)
        _, note = copy(tmp_path / "a.mp4", tmp_path / str(value), preset="medium", codec=codec, crf=24)
        digests.append(note["sha256"])
    assert len(set(digests)) == 1


def test_the_instructions_of_the_cpu_change_nothing(tmp_path, monkeypatch):
    """A set may be started on one machine and finished on another."""
    write_video(tmp_path / "a.mp4", film(16, 144, 176), 25)
    _, fast = copy(tmp_path / "a.mp4", tmp_path / "fast", preset="medium", crf=24)
    library, parameters, options = video_transcode.CODECS["h264"]
    monkeypatch.setitem(video_transcode.CODECS, "h264", (library, parameters, options | {"asm": "0"}))
    _, plain = copy(tmp_path / "a.mp4", tmp_path / "plain", preset="medium", crf=24)
    assert fast["sha256"] == plain["sha256"]


@pytest.mark.parametrize("psnr", [30.0, 38.5, 44.0])
def test_the_psnr_is_reached_and_not_by_far(source, tmp_path, psnr):
    path, note = copy(source, tmp_path, psnr=psnr)
    with open_video(path, cache=False) as video, open_video(source, cache=False) as original:
        a, b = (reader.frames_at(range(30)).images.double() for reader in (video, original))
    real = 10 * np.log10(255**2 / ((a - b) ** 2).mean().item())
    assert note["psnr"] == pytest.approx(real, abs=0.002)
    assert psnr <= real < psnr + 1.5


def test_a_psnr_beyond_reach_ends(tmp_path):
    """Coloured noise loses its colours to 4:2:0, whatever the rate."""
    noise = np.random.default_rng(0).integers(0, 255, (10, 32, 32, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "noise.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "bgr0"
        for image in noise:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    _, note = copy(tmp_path / "noise.mkv", tmp_path / "out", psnr=45.0)
    assert note["psnr"] < 45
    assert note["crf"] == 14


@pytest.mark.parametrize("jump", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("slope", [0.1, 0.6, 2.0])
@pytest.mark.parametrize("at_22", [25.0, 38.0, 38.8, 60.0])
def test_the_search_ends(monkeypatch, slope, jump, at_22):
    """However the PSNR falls with the factor, also in jumps, a few tries reach the goal if a factor of 14 does."""
    tried = []

    def psnr(crf):
        return at_22 - slope * (crf - 22) - jump * (crf > 24) - jump * (crf > 20.5)

    monkeypatch.setattr(video_transcode, "_encode", lambda source, path, settings, crf: tried.append(crf))
    monkeypatch.setattr(video_transcode, "_compare_copy", lambda source, path: {"psnr": psnr(tried[-1])})
    figures = video_transcode._encode_to_psnr(None, None, TranscodeSettings(psnr=38.5))
    assert len(tried) <= video_transcode.TRIES + 1
    assert (figures["crf"], figures["psnr"]) == (tried[-1], psnr(tried[-1]))
    assert 14 <= figures["crf"] <= 51
    assert figures["psnr"] >= 38.5 or psnr(14) < 38.5


def test_the_short_side(tmp_path):
    assert scaled_size(256, 340, 256) == (256, 340)
    assert scaled_size(1080, 1920, 256) == (256, 456)
    assert scaled_size(1920, 1080, 256) == (456, 256)
    assert scaled_size(143, 181, None) == (144, 180)
    write_video(tmp_path / "a.mp4", film(8, 72, 96), 30)
    path, note = copy(tmp_path / "a.mp4", tmp_path / "out", short_side=36, crf=20)
    with open_video(path, cache=False) as video:
        assert (video.height, video.width) == (36, 48) == (note["height"], note["width"])


def test_frame_i_is_frame_i(tmp_path, shared_data):
    """The copy has the reader's frames: rotated, odd, full range, 10 bit, hidden frames, late start."""
    fixtures = shared_data / "fixtures" / "torchcodec"
    names = ["nasa_13013_rotated.mp4", "discard_first_keyframe.mp4", "test_non_zero_start.mp4", "animated.gif"]
    for name in names:
        path, note = copy(fixtures / name, tmp_path / name, psnr=34.0)
        with open_video(path, cache=False) as video, open_video(fixtures / name, cache=False) as original:
            assert len(video) == len(original) == note["frames"]
            np.testing.assert_allclose(
                video.times_s - video.times_s[0], original.times_s - original.times_s[0], atol=2e-5
            )
            assert (video.width > video.height) == (original.width > original.height)
        assert note["psnr"] > 30, name  # against the reader's own frames


def test_numbers_stay_in_their_places(tmp_path):
    """AVI stores no display times, so its frames are counted."""
    write_numbered_video(tmp_path / "a.avi", 25)
    path, note = copy(tmp_path / "a.avi", tmp_path / "out", psnr=36.0)
    with open_video(path, cache=False) as video, open_video(tmp_path / "a.avi", cache=False) as original:
        order = [24, 3, 3, 11]
        a, b = video.frames_at(order).images.double(), original.frames_at(order).images.double()
    assert ((a - b) ** 2).mean() < 3 * 255**2 / 10 ** (note["psnr"] / 10)


def test_a_broken_source_is_an_error_in_words(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x" * 100)
    job = TranscodeJob("a.mp4", tmp_path / "a.mp4", tmp_path / "out", TranscodeSettings())
    (tmp_path / "out").mkdir()
    assert "not a video" in transcode(job)["error"]
    assert not job.is_done()
    assert not job.target.exists()


def test_two_frames_of_one_time_are_an_error_in_words(tmp_path):
    """A camera's bursts have such times; the encoder would end the run with an error number."""
    write_numbered_video(tmp_path / "steady.mkv", 20, codec_options={"bf": "0", "g": "20"})
    with av.open(str(tmp_path / "steady.mkv")) as steady, av.open(str(tmp_path / "burst.mkv"), "w") as burst:
        stream = burst.add_stream_from_template(steady.streams.video[0])
        for number, packet in enumerate(steady.demux(steady.streams.video[0])):
            if packet.size:
                packet.pts = packet.dts = 40 * (number - (number == 7))
                packet.stream = stream
                burst.mux(packet)
    with open_video(tmp_path / "burst.mkv", cache=False) as video:
        assert len(video) == 20
        assert np.flatnonzero(np.diff(video.times_s) <= 0).tolist() == [6]
    (tmp_path / "out").mkdir()
    job = TranscodeJob("a.mp4", tmp_path / "burst.mkv", tmp_path / "out", TranscodeSettings(preset="ultrafast"))
    assert "burst.mkv are both shown at" in transcode(job)["error"]
    assert not job.target.exists()


def test_what_an_encoder_refuses_is_an_error_of_the_video(source, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise av.error.InvalidDataError(22, "Invalid argument")

    monkeypatch.setattr(video_transcode, "_write", refuse)
    (tmp_path / "out").mkdir()
    note = transcode(TranscodeJob("a.mp4", source, tmp_path / "out", TranscodeSettings()))
    assert note["error"].endswith("a.mp4 cannot be encoded (Invalid argument)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "vp9"}, "codec is 'vp9'; it can be h264, hevc"),
        ({"preset": "silly"}, "preset is 'silly'; it can be ultrafast, "),
        ({"gop": 0}, "gop is 0"),
        ({"short_side": 8}, "short_side is 8 pixels; it is at least 16"),
        ({"psnr": 80}, "psnr is 80 dB"),
        ({"crf": 60}, "crf is 60"),
        ({"b_frames": -1}, "b_frames is -1"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        TranscodeSettings(**settings)
