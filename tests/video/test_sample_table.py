"""The index by an MP4's table of samples is the one by its packets, to the bit; other files take the slower way."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from vidact.video import pyav_reader
from vidact.video.frame_index import VideoIndex
from vidact.video.index_cache import pack
from vidact.video.pyav_reader import PyAVReader
from vidact.video.reader import VideoError
from vidact.video.sample_table import scan_table


def write(path: Path, num_frames: int, options: dict[str, str], container: dict[str, str], rate: Fraction) -> None:
    generator = np.random.default_rng(num_frames)
    wall = generator.integers(0, 255, (48 + num_frames, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options=container) as file:
        stream: Any = file.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for t in range(num_frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(wall[t : t + 48], format="rgb24")))
        file.mux(stream.encode())


def read(path: Path, is_by_table: bool) -> tuple[VideoIndex | None, list[int], str]:
    """Return the index, checksums of some pictures, and the error of a file that cannot be read."""
    with pytest.MonkeyPatch.context() as patch:
        if not is_by_table:
            patch.setattr(pyav_reader, "scan_table", lambda *parts: None)
        try:
            with PyAVReader(path, cache=False) as video:
                numbers = [0, len(video) // 3, len(video) // 2, len(video) - 1]
                images = video.frames_at(numbers).images
                return video.index, [int(image.long().sum()) for image in images], ""
        except VideoError as error:
            return None, [], str(error)


def both_agree(path: Path) -> None:
    (by_table, pictures, error), (by_packets, true_pictures, true_error) = read(path, True), read(path, False)
    assert (pictures, error) == (true_pictures, true_error)
    assert (by_table and pack(by_table)) == (by_packets and pack(by_packets))


def is_plain(path: Path) -> bool:
    with av.open(str(path)) as container:
        return scan_table(path, container, container.streams.video[0]) is not None


X264 = st.fixed_dictionaries(
    {
        "g": st.integers(1, 40).map(str),
        "bf": st.integers(0, 4).map(str),
        "preset": st.sampled_from(["ultrafast", "veryfast"]),
        "x264-params": st.builds(
            "b-pyramid={}:open-gop={}:slices={}:aud={}:repeat-headers={}:intra-refresh={}:nal-hrd={}".format,
            st.sampled_from(["none", "normal"]), st.integers(0, 1), st.integers(1, 3), st.integers(0, 1),
            st.integers(0, 1), st.integers(0, 1), st.sampled_from(["none", "none:vbv-maxrate=500:vbv-bufsize=500"]),
        ),
    }
)  # fmt: skip
CONTAINERS = st.sampled_from(
    [
        {},
        {"use_editlist": "0"},
        *({"movflags": flag} for flag in ("faststart", "frag_keyframe", "negative_cts_offsets")),
    ]
)
EXAMPLES: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.mark.slow
@settings(max_examples=60, **EXAMPLES)
@given(
    options=X264,
    container=CONTAINERS,
    num_frames=st.integers(1, 90),
    rate=st.sampled_from([Fraction(25), Fraction(30000, 1001)]),
)
def test_any_h264(tmp_path: Path, options, container, num_frames: int, rate: Fraction) -> None:
    path = tmp_path / "clip.mp4"
    try:
        write(path, num_frames, options, container, rate)
    except av.error.FFmpegError:  # settings that the encoder refuses together
        reject()
    both_agree(path)


@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_a_plain_file_is_indexed_by_its_table(b_frames: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, 70, {"g": "20", "bf": b_frames, "preset": "veryfast"}, {}, Fraction(25))
    assert is_plain(path)
    both_agree(path)


@pytest.mark.parametrize(
    ("options", "container"),
    [
        ({"movflags": "frag_keyframe"}, True),
        ({"intra-refresh": "1"}, False),
        ({"x264-params": "open-gop=1:bframes=2"}, False),
    ],
    ids=["fragments", "recovery points", "key frames that are not IDR"],
)
def test_other_files_are_left_to_their_packets(options: dict[str, str], container: bool, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    coded = {"g": "20", "preset": "veryfast"} | ({} if container else options)
    write(path, 70, coded, options if container else {}, Fraction(25))
    assert not is_plain(path)
    both_agree(path)


def test_short_and_cut_files(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, 5, {"preset": "ultrafast"}, {}, Fraction(25))
    assert not is_plain(path)
    both_agree(path)
    write(path, 60, {"preset": "ultrafast", "g": "20"}, {"movflags": "faststart"}, Fraction(25))
    path.write_bytes(path.read_bytes()[:-3000])
    assert not is_plain(path)
    both_agree(path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_table(seed: int, tmp_path: Path) -> None:
    """Whatever bits of the header or of the packets are wrong, both ways give the same index or the same error."""
    path = tmp_path / "clip.mp4"
    write(path, 60, {"preset": "ultrafast", "g": "20", "bf": "2"}, {"movflags": "faststart"}, Fraction(25))
    content, rng = path.read_bytes(), random.Random(seed)
    for number in range(40):
        damaged = bytearray(content)
        end = content.index(b"mdat") if number % 2 else len(content)
        for _ in range(rng.choice([1, 2, 8])):
            damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged)
        both_agree(path)


@pytest.mark.parametrize("is_declared", [False, True])
def test_intra_pictures_that_are_not_idr(is_declared: bool, tmp_path: Path) -> None:
    """They are no key frames, unless the file declares them to be: then its packets are read."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"x264-params": "keyint=60:min-keyint=60"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for t in range(80):
            wall = np.random.default_rng(t // 30).integers(0, 255, (48, 64, 3), dtype=np.uint8)  # another from 30 on
            file.mux(stream.encode(av.VideoFrame.from_ndarray(wall, format="rgb24")))
        file.mux(stream.encode())
    with av.open(str(path)) as file:
        stamps = [packet.pts or 0 for packet in file.demux(video=0) if packet.size]
    row = stamps.index(sorted(stamps)[30])
    with av.open(str(path)) as file:
        intra = [(frame.pts, frame.key_frame) for frame in file.decode(video=0) if frame.pict_type == 1]
    assert (stamps[row], False) in intra
    if is_declared:
        content = bytearray(path.read_bytes())
        table = content.index(b"stss") + 8
        assert int.from_bytes(content[table : table + 4], "big") == 2  # the first picture, and the one 60 later
        content[table + 8 : table + 12] = (row + 1).to_bytes(4, "big")
        path.write_bytes(content)
    assert is_plain(path) == (not is_declared)
    both_agree(path)
