"""Files whose stamps begin anew inside them: joined recordings, clocks that were set, counts that wrapped.

What is right is read from the packets of a plain decoding: the order in which pictures come, and their own stamps, each
part beginning where the one before ended.
"""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_fast_reader import index_sets, plain_decoding, read

from vidact.prepare.examine import examine
from vidact.prepare.pack import PackJob, PackSettings, PackVideo, pack, write_store
from vidact.prepare.transcode import TranscodeJob, TranscodeSettings, transcode
from vidact.video import Chunker, Clock, frame_index, index_cache
from vidact.video.decode import VideoError, open_video
from vidact.video.numbered import numbered_picture, read_number, write_numbered_video

FPS = 25
X264 = {"preset": "veryfast", "g": "12", "bf": "2"}
CODECS = {
    "ts": ("libx264", X264, {}),
    "mkv": ("libx264", X264, {}),
    "flv": ("libx264", X264, {}),
    "mp4": ("libx264", X264, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "mpg": ("mpeg2video", {"g": "12", "bf": "2"}, {}),
    "vob": ("mpeg2video", {"g": "12", "bf": "2"}, {}),
    "webm": ("libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}, {}),
}


def write_part(
    path: Path,
    length: int,
    begin_s: float = 0.0,
    first: int = 0,
    size: int = 1,
    codec: str | None = None,
    container: dict[str, str] | None = None,
    **options: str,
) -> bytes:
    """The bytes of a video of numbered pictures from ``first`` on, stamped from ``begin_s`` on.

    FLV comes without its header, as a server writes what it goes on with in the same file."""
    suffix = path.suffix[1:]
    own, own_options, container_options = CODECS.get(suffix, (codec or "", {}, {}))
    with av.open(str(path), "w", options=container or container_options) as file:
        stream = file.add_stream(codec or own, rate=FPS, options=own_options | options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = (side * size for side in numbered_picture(0).shape[:2])
        stream.codec_context.thread_count = 1
        for i in range(first, first + length):
            image = numbered_picture(i).repeat(size, 0).repeat(size, 1)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round((i - first + begin_s * FPS) * 1000), Fraction(1, 1000 * FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path.read_bytes()[13 if suffix == "flv" and first else 0 :]


def join(folder: Path, suffix: str, parts: list[tuple[int, float]], **options: str) -> Path:
    """One file of parts, each (length, begin_s), whose pictures are numbered from 0 on."""
    firsts = itertools.accumulate((length for length, _ in parts), initial=0)
    content = [
        write_part(folder / f"part.{suffix}", length, begin_s, first, **options)
        for (length, begin_s), first in zip(parts, firsts, strict=False)
    ]
    path = folder / f"joined.{suffix}"
    path.write_bytes(b"".join(content))
    return path


def true_times(path: Path) -> np.ndarray:
    """Seconds of each picture after the first, from the stamps that a plain decoding shows.

    Stamps that rise are believed, up to a pause of 13 hours; any others, as the one that FFmpeg may give to the last
    two pictures of a program stream, are a frame after the picture before. Counts of 33 bits are compared as such."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        period = 2**33 if container.format.name in ("mpegts", "mpeg") else 0
        stamps = [frame.pts for packet in container.demux(stream) for frame in packet.decode()]
        tick_s = float(stream.time_base)
    times_s = [0.0]
    for before, stamp in itertools.pairwise(stamps):
        step_s = (stamp - before) * tick_s
        if period:
            step_s = (stamp % period - before % period) * tick_s
            if step_s < -(period / 2) * tick_s and step_s + period * tick_s < 60:
                step_s += period * tick_s
        times_s.append(times_s[-1] + (step_s if 0 < step_s < 13 * 3600 else 1 / FPS))
    return np.array(times_s)


def assert_read_as_decoded(path: Path) -> None:
    """Length, times and pictures, in any order, by readers that keep the file and by such that jump in it."""
    expected, times_s = plain_decoding(path), true_times(path)
    for kept in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not kept:
                patch.setattr(frame_index, "KEEP_PACKETS", 0)
            patch.setattr(frame_index, "KEEP_PICTURES", 0)
            with open_video(path) as video:
                assert len(video) == len(expected)
                np.testing.assert_allclose(video.times_s - video.times_s[0], times_s, atol=2e-3)
                for indices in index_sets(len(expected), np.random.default_rng(0)):
                    assert read(video, indices) == [expected[i] for i in indices], indices


PARTS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.2, 0.9, 1.02, 3.0, 700.0])), min_size=2, max_size=4
)
EXAMPLES = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=15, **EXAMPLES)
@given(suffix=st.sampled_from(sorted(CODECS)), parts=PARTS, b_frames=st.integers(0, 3), gop=st.integers(3, 20))
def test_any_joined_file(tmp_path: Path, suffix: str, parts: list[tuple[int, float]], b_frames: int, gop: int) -> None:
    """Gaps, overlaps and restarts, whatever lies between."""
    options = {"g": str(gop)} if suffix == "webm" else {"g": str(gop), "bf": str(b_frames)}
    assert_read_as_decoded(join(tmp_path, suffix, parts, **options))


def test_a_guessed_stamp_before_the_last_picture_makes_no_two_pictures_closer(tmp_path: Path) -> None:
    """Of a program stream: FFmpeg gives the last three pictures 28, 28 and 29 frames."""
    path = join(tmp_path, "mpg", [(1, 0.0), (30, 0.0)], bf="1", g="3")
    with open_video(path) as video:
        np.testing.assert_allclose(np.diff(video.times_s), 1 / FPS, atol=1e-3)


def test_a_guessed_stamp_changes_no_order(tmp_path: Path) -> None:
    """Of a program stream: FFmpeg gives a part's last picture a time half a frame before the one before."""
    assert_read_as_decoded(join(tmp_path, "mpg", [(3, 0.9), (12, 0.0)], bf="1", g="3"))


@pytest.mark.slow
@settings(max_examples=300, **EXAMPLES)
@given(suffix=st.sampled_from(sorted(CODECS)), parts=PARTS, b_frames=st.integers(0, 3), gop=st.integers(3, 20))
def test_any_joined_file_at_length(
    tmp_path: Path, suffix: str, parts: list[tuple[int, float]], b_frames: int, gop: int
) -> None:
    options = {"g": str(gop)} if suffix == "webm" else {"g": str(gop), "bf": str(b_frames)}
    assert_read_as_decoded(join(tmp_path, suffix, parts, **options))


@pytest.mark.parametrize("suffix", sorted(set(CODECS) - {"mp4"}))
@pytest.mark.parametrize("begin_s", [0.0, 0.9])
def test_two_parts_of_two_seconds(suffix: str, begin_s: float, tmp_path: Path) -> None:
    """The second begins anew, or between the stamps of the first."""
    path = join(tmp_path, suffix, [(50, 0.0), (50, begin_s)])
    with open_video(path) as video:
        times_s = video.times_s - video.times_s[0]
        assert (np.diff(times_s) > 0).all()
        # of a program stream's last picture FFmpeg guesses the time, 20 ms too early
        assert times_s[[50, 99]] == pytest.approx([2.0, 3.96], abs=0.021 if suffix in ("mpg", "vob") else 1e-3)
        assert Chunker(6).indices(Clock(24).indices(video.times_s)).shape == (16, 6)
        assert [read_number(image.numpy()) for image in video.frames_at([99, 0, 50, 49]).images] == [99, 0, 50, 49]
        assert video.index.parts.tolist() == [0, 50]


def test_fragments_that_the_demuxer_takes_for_others(tmp_path: Path) -> None:
    """A second MP4's first fragment is looked up as the first one's and never shown; what is shown has its place."""
    path = join(tmp_path, "mp4", [(50, 0.0), (50, 0.0)])
    assert_read_as_decoded(path)
    with open_video(path) as video:
        assert [read_number(image.numpy()) for image in video.frames_at([49, 50]).images] == [49, 62]


def raised(stamp: float) -> float:
    """Seconds such that a transport stream's count of 33 bits stands there once it is written, which adds 1.4 s."""
    return 2**33 / 90_000 + stamp - 1.4


@pytest.mark.parametrize(
    ("parts", "times_s"),
    [
        ([(40, raised(-0.8))], {39: 1.56}),  # in the middle of a part
        ([(20, raised(-2)), (20, 1.0)], {19: 0.76, 20: 4.4, 39: 5.16}),  # between parts, 2.4 s after the count's end
        ([(20, 1.0), (40, raised(-0.8))], {19: 0.76, 20: 0.8, 59: 2.36}),  # in the second, after 26 hours: begun anew
        ([(20, 1000.0), (20, 1.0)], {19: 0.76, 20: 0.8, 39: 1.56}),  # raised by FFmpeg, which sees a wrap in it
        # the third goes on in the count of the second, which FFmpeg raised and it did not
        ([(20, 1000.0), (20, 1.0), (20, 1002.0)], {20: 0.8, 39: 1.56, 40: 1001.8, 59: 1002.56}),
    ],
    ids=["inside", "between", "second part", "no wrap", "there and back"],
)
def test_counts_that_wrap(parts: list[tuple[int, float]], times_s: dict[int, float], tmp_path: Path) -> None:
    path = join(tmp_path, "ts", parts)
    assert_read_as_decoded_pictures(path)
    with open_video(path) as video:
        found = video.times_s - video.times_s[0]
        assert {i: found[i] for i in times_s} == pytest.approx(times_s, abs=3e-3)


def assert_read_as_decoded_pictures(path: Path) -> None:
    expected = plain_decoding(path)
    with open_video(path) as video:
        assert len(video) == len(expected)
        for indices in index_sets(len(expected), np.random.default_rng(0)):
            assert read(video, indices) == [expected[i] for i in indices], indices


def test_a_clock_set_forward_by_years_is_no_pause(tmp_path: Path) -> None:
    """A camera that learns the date while it records: 1.7e9 s later by its stamps, the next picture in truth."""
    path = join(tmp_path, "mkv", [(30, 0.0), (30, 1.7e9)])
    with open_video(path) as video:
        assert video.times_s[[29, 30, 59]] == pytest.approx([1.16, 1.2, 2.36], abs=1e-3)


def test_a_pause_stays_a_pause(tmp_path: Path) -> None:
    path = join(tmp_path, "ts", [(30, 1.0), (30, 701.0)])
    with open_video(path) as video:
        assert (video.times_s - video.times_s[0])[[29, 30, 59]] == pytest.approx([1.16, 700.0, 701.16], abs=1e-3)
        assert video.index.parts.tolist() == [0]


def test_a_clock_set_back_between_key_frames(tmp_path: Path) -> None:
    """Without B-frames the order of storing is that of showing, so that the smallest fall is seen."""
    write_part(tmp_path / "clip.mkv", 50, bf="0", g="50")
    content = b""
    for begin, stop, back_ms in ((0, 25, 0), (25, 50, 200)):
        with av.open(str(tmp_path / "clip.mkv")) as source, av.open(str(tmp_path / "half.ts"), "w") as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for place, packet in enumerate(source.demux(source.streams.video[0])):
                if begin <= place < stop:
                    packet.pts = packet.dts = 1000 + 40 * place - back_ms
                    packet.stream = stream
                    out.mux(packet)
        content += (tmp_path / "half.ts").read_bytes()
    path = tmp_path / "set.ts"
    path.write_bytes(content)
    with open_video(path) as video:
        assert len(video) == 50
        assert (video.times_s - video.times_s[0])[[24, 25, 49]] == pytest.approx([0.96, 1.0, 1.96], abs=1e-3)
    assert_read_as_decoded_pictures(path)


@pytest.mark.parametrize("broken", [21, 25, 41], ids=["key", "between", "another key"])
def test_a_stamp_with_a_broken_bit_moves_no_picture(broken: int, tmp_path: Path) -> None:
    """As reception leaves it: one presentation time of a transport stream is hours ahead, those behind it are right."""
    content = bytearray(write_part(tmp_path / "clip.ts", 60, g="20"))
    begun = 0
    for place in range(0, len(content), 188):
        number = (content[place + 1] & 31) << 8 | content[place + 2]
        if number == 256 and content[place + 1] & 64:  # a picture begins
            begun += 1
            if begun == broken:
                header = place + 4 + (1 + content[place + 4] if content[place + 3] & 32 else 0)
                assert content[header : header + 3] == b"\0\0\1"
                for stamp in range(header + 9, header + 9 + 5 * (content[header + 7] >> 6 == 3) + 1, 5):
                    content[stamp] ^= 2  # 2^30 ticks, 3.3 hours
    path = tmp_path / "broken.ts"
    path.write_bytes(content)
    assert_read_as_decoded_pictures(path)
    with open_video(path) as video:
        assert len(video) == 60
        np.testing.assert_allclose(video.times_s - video.times_s[0], np.arange(60) / FPS, atol=1e-3)
        assert video.index.parts.tolist() == [0]


def test_a_stray_time_in_an_mp4_moves_no_picture(tmp_path: Path) -> None:
    """As cutting programs leave one: in the middle of a group of pictures one is said to be shown minutes later."""
    write_part(tmp_path / "clip.mkv", 60, g="60", bf="0")
    path = tmp_path / "stray.mp4"
    with av.open(str(tmp_path / "clip.mkv")) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                packet.pts = packet.dts = 40 * place
                packet.pts += 300_000 * (place == 25)
                packet.stream = stream
                out.mux(packet)
    with open_video(path) as video:
        assert len(video) == 60
        np.testing.assert_allclose(video.times_s - video.times_s[0], np.arange(60) / FPS, atol=1e-3)
        assert [read_number(image.numpy()) for image in video.frames_at([26, 59, 25]).images] == [26, 59, 25]


@pytest.mark.parametrize("begin", [25, 26, 27, 36], ids=str)
def test_a_pause_between_key_frames_is_a_pause(begin: int, tmp_path: Path) -> None:
    """Wherever it falls among pictures that are stored out of order."""
    path = tmp_path / "paused.mkv"
    times_ms = [40 * i + 700_000 * (i >= begin) for i in range(60)]
    write_numbered_video(path, 60, times_ms=times_ms, codec_options={"g": "60", "bf": "3"})
    for index in ("auto", "decode"):
        with open_video(path, index=index) as video:
            assert (1000 * (video.times_s - video.times_s[0])).round().tolist() == times_ms
    assert_read_as_decoded_pictures(path)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts", "flv"])
@pytest.mark.parametrize("step_s", [4, 10, 60, 600])
def test_pictures_far_apart_are_where_they_are(suffix: str, step_s: int, tmp_path: Path) -> None:
    """Slides and time-lapses: what is stored before its B-frames is far ahead of them and no broken stamp."""
    path = tmp_path / f"slides.{suffix}"
    for length in (4, 5, 6, 9, 13):
        times_ms = [1000 * step_s * i for i in range(length)]
        for preset in ("ultrafast", "veryfast"):
            write_numbered_video(path, length, times_ms=times_ms, codec_options={"bf": "3", "preset": preset, "g": "8"})
            for index in ("auto", "decode"):
                with open_video(path, index=index, cache=False) as video:
                    assert (1000 * (video.times_s - video.times_s[0])).round().tolist() == times_ms
                    assert read_number(video.frames_at([length - 1]).images[0].numpy()) == length - 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_pause_before_the_last_pictures_is_a_pause(suffix: str, after: int, tmp_path: Path) -> None:
    path = tmp_path / f"paused.{suffix}"
    for length in range(24, 30):
        times_ms = [40 * i + 60_000 * (i >= length - after) for i in range(length)]
        write_numbered_video(path, length, times_ms=times_ms, codec_options={"g": "60", "bf": "3"})
        with open_video(path, cache=False) as video:
            assert (1000 * (video.times_s - video.times_s[0])).round().tolist() == times_ms


@pytest.mark.parametrize("first", [12, 8])
def test_pictures_without_a_time_are_where_the_others_leave_them_room(
    first: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """FFmpeg gives those before zero none where Matroska stores them."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as file:
        stream: Any = file.add_stream("libx264", rate=10, options={"preset": "ultrafast", "bf": "2", "g": "8"})
        stream.height, stream.width, stream.pix_fmt = *numbered_picture(0).shape[:2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(40):
            frame = av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")
            frame.pts, frame.time_base = 300 * (i - first), Fraction(1, 1000)  # not at the rate that is stated
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with open_video(path) as video:
        np.testing.assert_allclose(video.times_s - video.times_s[0], 0.3 * np.arange(40), atol=2e-3)
        assert video.times_s[first] == pytest.approx(0, abs=2e-3)
        assert [read_number(image.numpy()) for image in video.frames_at([39, 0, 20]).images] == [39, 0, 20]
    assert "clip.mkv does not say when" in caplog.text


def test_parts_of_other_sizes_are_scaled_to_the_first(tmp_path: Path) -> None:
    content = write_part(tmp_path / "a.ts", 30) + write_part(tmp_path / "b.ts", 30, first=30, size=2)
    (tmp_path / "joined.ts").write_bytes(content)
    with open_video(tmp_path / "joined.ts") as video:
        assert (len(video), video.height, video.width) == (60, 64, 96)
        assert [read_number(image.numpy()) for image in video.frames_at([45, 3, 59]).images] == [45, 3, 59]
        assert video.times_s[-1] - video.times_s[0] == pytest.approx(59 / FPS, abs=1e-3)


@pytest.mark.parametrize(
    ("suffix", "codec", "size"), [("ts", "mpeg2video", 1), ("mkv", "libx264", 3)], ids=["codec", "parameters"]
)
def test_a_part_in_another_coding_is_refused(suffix: str, codec: str, size: int, tmp_path: Path) -> None:
    """What the first part's decoder makes nothing of is no video that ended early."""
    content = write_part(tmp_path / f"a.{suffix}", 50)
    options = {"bf": "0", "preset": "ultrafast", "g": "30"} if codec == "libx264" else {}
    content += write_part(tmp_path / f"b.{suffix}", 50, first=50, size=size, codec=codec, **options)
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(content)
    with open_video(path) as video, pytest.raises(VideoError, match=r"joined of 2 parts.*coded otherwise.*Take the"):
        len(video)
    with open_video(path, index="decode") as video:
        assert 0 < len(video) <= 100
        assert video.times_s[-1] - video.times_s[0] < 4.0
    assert any("joined" in words for _, words in examine(path).problems)


def test_a_part_on_another_number_of_the_stream_is_refused(tmp_path: Path) -> None:
    """As a broadcaster changes them; FFmpeg takes it for another stream, which begins in the middle of the file."""
    content = write_part(tmp_path / "a.ts", 50)
    other = {"mpegts_start_pid": "400", "mpegts_pmt_start_pid": "4100"}
    path = tmp_path / "joined.ts"
    path.write_bytes(content + write_part(tmp_path / "b.ts", 50, first=50, container=other))
    with open_video(path) as video, pytest.raises(VideoError, match=r"behind 50 frames \(another stream begins there"):
        len(video)


@pytest.mark.parametrize("decoder", ["decord", "opencv", "torchcodec"])
@pytest.mark.parametrize("suffix", ["ts", "mkv", "webm", "mp4", "flv"])
def test_other_decoders_are_right_or_refuse(decoder: str, suffix: str, tmp_path: Path) -> None:
    path = join(tmp_path, suffix, [(30, 0.0), (30, 0.5)])
    with open_video(path) as video:
        expected = [read_number(image.numpy()) for image in video.frames_at(range(len(video))).images]
    order = [40, 3, 0, 10, 20, 31, len(expected) - 1]
    try:
        with open_video(path, decoder) as video:
            numbers = [read_number(image.numpy()) for image in video.frames_at(order).images]
    except ImportError as error:
        pytest.skip(str(error))
    except VideoError as error:
        assert "use decoder='pyav'" in str(error)  # noqa: PT017  (being right is permitted as well)
    else:
        assert numbers == [expected[i] for i in order]


def test_copies_of_a_joined_file_last_as_long(tmp_path: Path) -> None:
    path = join(tmp_path, "ts", [(50, 0.0), (50, 0.9)])
    found = transcode(TranscodeJob("copy.mp4", path, tmp_path / "copies", TranscodeSettings(crf=30)))
    assert (found["frames"], found["seconds"]) == (100, pytest.approx(4.0, abs=0.01))
    with open_video(tmp_path / "copies" / "copy.mp4") as video:
        assert [read_number(image.numpy()) for image in video.frames_at([99, 50, 10]).images] == [99, 50, 10]
    pytest.importorskip("webdataset")
    settings = PackSettings(fps=None)
    write_store(tmp_path / "store", settings)
    packed = pack(PackJob(0, (PackVideo("joined.packed", path),), tmp_path / "store", settings))
    assert packed["videos"]["joined.packed"]["frames"] == 100


def test_an_index_of_before_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older vidact kept the stamps of joined files mixed up; its entries are not read."""
    monkeypatch.setenv("VIDACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "SETTLED_S", 0.0)
    path = join(tmp_path, "ts", [(50, 0.0), (50, 0.0)])
    for _ in range(2):  # made, and found again
        with open_video(path) as video:
            assert video.times_s[-1] - video.times_s[0] == pytest.approx(3.96, abs=1e-3)
            assert read_number(video.frames_at([70]).images[0].numpy()) == 70
            assert video.index.parts.tolist() == [0, 50]
    (entry,) = (file for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert int(entry.parent.parent.name[1:]) > 2


# ----------------------------------------------------------------------------------------------------------------------
# vidact prepare check


@pytest.mark.parametrize("suffix", ["ts", "flv", "mpg"])
def test_check_names_a_joined_file(suffix: str, tmp_path: Path) -> None:
    found = examine(join(tmp_path, suffix, [(50, 0.0), (50, 0.9), (25, 0.0)]))
    (words,) = [words for kind, words in found.problems if kind == "joined"]
    assert "3 parts" in words
    assert ("1.98 s, 3.98 s" if suffix == "mpg" else "2.00 s, 4.00 s") in words
    assert found.duration_s == pytest.approx(5.0, abs=0.03)
    assert "duration" not in {kind for kind, _ in found.problems}


def test_check_names_the_third_matroska_file(tmp_path: Path) -> None:
    """FFmpeg's demuxer goes on with a second one and ends before a third."""
    found = examine(join(tmp_path, "mkv", [(50, 0.0), (50, 0.9), (25, 0.0)]))
    assert found.num_frames == 100
    two, behind = [words for kind, words in found.problems if kind == "joined"]
    assert "2 parts" in two
    assert "nothing from there on is read" in behind


def test_check_names_a_clock_set_forward(tmp_path: Path) -> None:
    found = examine(join(tmp_path, "ts", [(50, 1000.0), (50, 0.0)]))
    assert [kind for kind, _ in found.problems].count("joined") == 1


def test_pictures_that_carry_one_stamp_follow_each_other(tmp_path: Path) -> None:
    """FFmpeg's demuxer of MXF gives each packet behind a second header the last stamp of the first one's index."""
    for b_frames in ("0", "2"):
        path = join(tmp_path, "mxf", [(50, 0.0), (50, 0.0)], codec="mpeg2video", g="12", bf=b_frames, b="2M")
        with open_video(path) as video:
            shown = [read_number(image.numpy()) for image in video.frames_at(range(len(video))).images]
            assert shown == list(range(100))
            times_s = video.times_s - video.times_s[0]
            assert times_s[[49, 50, 75, 99]] == pytest.approx([1.96, 2.0, 3.0, 3.96], abs=0.01)
            assert (np.diff(video.times_s) > 0).all()
            assert [read_number(image.numpy()) for image in video.frames_at([99, 0, 70]).images] == [99, 0, 70]


def write_with_sound(path: Path, codec: str, sound_codec: str | None, pixels: str = "yuv420p") -> bytes:
    """Thirty numbered pictures, and silence where a codec is named."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *numbered_picture(0).shape[:2], pixels
        sound: Any = file.add_stream(sound_codec, rate=8000, layout="mono") if sound_codec else None
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")
            file.mux(stream.encode(frame.reformat(format=pixels)))
            if sound is not None:
                heard = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
                heard.rate, heard.pts = 8000, 320 * i
                file.mux(sound.encode(heard))
        for each in (stream, sound):
            file.mux(each.encode() if each else [])
    return path.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "codecs"),
    [("apng", ("apng", None, "rgb24")), ("y4m", ("rawvideo", None)), ("ogv", ("libvpx", "flac"))],
    ids=["apng", "y4m", "ogv"],
)
def test_a_second_header_that_ends_the_first_file_is_named(
    suffix: str, codecs: tuple[Any, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of Ogg, FFmpeg goes on with a second chain of one stream and with none of two."""
    path = tmp_path / f"joined.{suffix}"
    whole, second = (write_with_sound(path, *codecs) for _ in range(2))
    with open_video(path) as video:
        assert len(video) == 30
    assert not caplog.text
    path.write_bytes(whole + second)
    with open_video(path) as video:
        assert len(video) == 30
    assert f"joined.{suffix}: a second file begins at byte {len(whole)}" in caplog.text
    assert [kind for kind, _ in examine(path).problems].count("joined") == 1


def test_fragments_that_may_be_missing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = join(tmp_path, "mp4", [(50, 0.0)])
    with open_video(path) as video:
        assert len(video) == 50
    assert not caplog.text
    path = join(tmp_path, "mp4", [(50, 0.0), (50, 0.0)])
    size = path.read_bytes().index(b"ftyp", 8) - 4
    with open_video(path) as video:
        assert len(video) < 100
    told = f"a second header stands at byte {size}"
    assert f"joined.mp4: {told}" in caplog.text
    assert "may be missing" in caplog.text
    assert any(told in words for kind, words in examine(path).problems if kind == "joined")


def test_what_a_demuxer_cannot_read_on_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault in the middle of a file without an index is its end to FFmpeg, and to nobody else."""
    path = tmp_path / "clip.y4m"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("rawvideo", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24").reformat(format="yuv420p")
            file.mux(stream.encode(frame))
    content = bytearray(path.read_bytes())
    place = content.index(b"FRAME", len(content) // 2)
    content[place : place + 5] = b"fRAmE"
    path.write_bytes(content)
    with open_video(path) as video:
        assert 10 < len(video) < 20
    assert f"clip.y4m: FFmpeg reads nothing behind byte {place} of {len(content)}" in caplog.text


@pytest.mark.parametrize("suffix", ["flv", "mp4", "avi"])
def test_what_stands_behind_the_end_is_named(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """FFmpeg, and whoever plays by it, ends before a second header; nobody would miss the part behind it."""
    part = tmp_path / f"part.{suffix}"
    if suffix == "flv":
        whole = write_part(part, 50)
    else:
        codec = {"codec": "mpeg4"} if suffix == "avi" else {}
        write_numbered_video(part, 50, **codec)
        whole = part.read_bytes()
    assert not [words for kind, words in examine(part).problems if kind == "joined"]
    assert not caplog.text
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(whole + whole)
    found = examine(path)
    joined = [words for kind, words in found.problems if kind == "joined"]
    if found.num_frames == 50:
        assert len(joined) == 1
        assert f"byte {len(whole)}" in joined[0]
        assert f"joined.{suffix}: a second file begins at byte {len(whole)}" in caplog.text
    else:  # AVI counts on
        assert found.num_frames == 100


def test_check_names_a_part_in_a_stream_of_its_own(tmp_path: Path) -> None:
    """A player shows the stream that it found at the beginning, to its end."""
    content = write_part(tmp_path / "a.ts", 30)
    content += write_part(tmp_path / "b.ts", 30, first=30, container={"mpegts_start_pid": "512"})
    (tmp_path / "joined.ts").write_bytes(content)
    found = examine(tmp_path / "joined.ts")
    assert found.num_frames == 30
    (words,) = [words for kind, words in found.problems if kind == "joined"]
    assert "another stream, of which nothing is read" in words


def test_check_says_nothing_of_a_whole_file(tmp_path: Path) -> None:
    for suffix in CODECS:
        write_part(tmp_path / f"whole.{suffix}", 50)
        assert "joined" not in {kind for kind, _ in examine(tmp_path / f"whole.{suffix}").problems}
