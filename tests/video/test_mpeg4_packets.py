"""MPEG-4 in AVI indexed by its packets has the frames of a full decoding, and any other file is decoded once."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from vidact.video import pyav_reader
from vidact.video.decode import PyAVReader, open_video
from vidact.video.frame_index import Traits
from vidact.video.mpeg4_packets import Headers, NotPlainError, scan_mpeg4


def write(path: Path, num_frames: int, options: dict[str, str], rate: Fraction = Fraction(25)) -> None:
    """Write an AVI file of moving noise."""
    wall = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", format="avi") as file:
        stream: Any = file.add_stream("mpeg4", rate=rate, options={"threads": "1"} | options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for t in range(num_frames):
            image = np.roll(wall, (t, 3 * t), (0, 1))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())


def is_by_packets(path: Path) -> bool:
    """Whether the packets state the frames; checks that they state those of a full decoding."""
    with PyAVReader(path, cache=False) as video, PyAVReader(path, cache=False, see_all=True) as whole:
        by_packets, decoded = video.index, whole.index
        for name in ("times_s", "stamps", "key_frames", "key_stamps", "key_packets", "disposable", "parts", "lifts"):
            np.testing.assert_array_equal(getattr(by_packets, name), getattr(decoded, name), name)
        for name in ("end_s", "height", "width", "turn", "sets_change", "facts", "depth"):
            assert getattr(by_packets, name) == getattr(decoded, name), name
        pictures = whole.frames_at(range(len(whole))).images
        numbers = np.random.default_rng(0).permutation(len(whole))
        assert torch.equal(video.frames_at(numbers[:3]).images, pictures[numbers[:3]])
        assert torch.equal(video.frames_at(numbers).images, pictures[numbers])
    with av.open(str(path)) as container:
        return scan_mpeg4(container, container.streams.video[0]) is not None


OPTIONS = st.fixed_dictionaries(
    {
        "g": st.integers(1, 30).map(str),
        "bf": st.sampled_from(["0", "0", "0", "2"]),
        "flags": st.sampled_from(["+bitexact", "+qpel", "+mv4", "+ilme+ildct", "+aic", "+global_header", "+low_delay"]),
        "data_partitioning": st.sampled_from(["0", "1"]),
        "mpeg_quant": st.sampled_from(["0", "1"]),
        "b": st.sampled_from(["20000", "2000000"]),
    }
)


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    options=OPTIONS,
    num_frames=st.integers(1, 50),
    rate=st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(1), Fraction(1000)]),
)
def test_any_mpeg4(tmp_path: Path, options: dict[str, str], num_frames: int, rate: Fraction) -> None:
    path = tmp_path / "clip.avi"
    try:
        write(path, num_frames, options, rate)
    except av.error.FFmpegError:  # settings that the encoder refuses together
        reject()
    is_by_packets(path)


@pytest.mark.parametrize(
    ("options", "is_plain"),
    [
        ({}, True),
        ({"flags": "+ilme+ildct"}, True),
        ({"flags": "+global_header", "b": "20000"}, True),
        ({"bf": "2"}, False),
    ],
    ids=["plain", "interlaced", "header in the container", "B-pictures"],
)
def test_which_files_are_indexed_by_their_packets(options: dict[str, str], is_plain: bool, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    write(path, 30, {"g": "12"} | options)
    assert is_by_packets(path) == is_plain


def test_only_the_first_picture_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.avi"
    write(path, 30, {"g": "12"})
    monkeypatch.setattr(pyav_reader, "scan_file", None)  # the pass that decodes
    with open_video(path, cache=False) as video:
        assert len(video) == 30
        assert Traits.ALL_SEEN not in video.index.traits  # type: ignore[attr-defined]


@pytest.mark.parametrize("harm", ["a B-picture", "not coded", "two pictures", "no picture", "another layer", "cut"])
def test_packets_that_do_not_hold_one_picture(harm: str, tmp_path: Path) -> None:
    """Each packet alone is judged; the file with the packet has the frames of a full decoding all the same."""
    path = tmp_path / "clip.avi"
    write(path, 20, {"g": "8"})
    with av.open(str(path)) as container:
        extradata = container.streams.video[0].codec_context.extradata or b""
        packets = [(bytes(packet), packet.pos or 0) for packet in container.demux(video=0) if packet.size]
    intact = Headers(extradata)
    for data, _ in packets:
        intact(data)
    data, position = packets[8 if harm == "another layer" else 5]
    at = data.index(b"\0\0\1\xb6") + 4
    changed = bytearray(data)
    if harm == "a B-picture":
        changed[at] = changed[at] & 0x3F | 0x80
    elif harm == "not coded":
        # behind the kind: the seconds (0), a mark, the time in 5 bits for 25 frames a second, a mark
        assert changed[at] >> 4 & 3 == 1  # no second begins here
        changed[at + 1] &= ~0x20 & 0xFF
    elif harm == "two pictures":
        changed[-8:-2] = b"\0\0\1\xb6\x50\xff"
    elif harm == "no picture":
        changed[at - 1] = 0xB2
    elif harm == "another layer":
        begin = data.index(b"\0\0\1\x20")
        changed[begin + 6] ^= 0x10
    else:
        changed = changed[:at]
    judge = Headers(extradata)
    judge(packets[0][0])
    with pytest.raises(NotPlainError):
        judge(bytes(changed))
    content = bytearray(path.read_bytes())
    begin = content.index(data, position)
    content[begin : begin + len(changed)] = changed
    path.write_bytes(content)
    with PyAVReader(path, cache=False) as video, PyAVReader(path, cache=False, see_all=True) as whole:
        np.testing.assert_array_equal(video.times_s, whole.times_s)
        numbers = range(len(whole))
        assert torch.equal(video.frames_at(numbers).images, whole.frames_at(numbers).images)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_packets(seed: int, tmp_path: Path) -> None:
    """Whatever bits of the pictures are wrong, the frames are those of a full decoding."""
    path = tmp_path / "clip.avi"
    write(path, 24, {"g": "8"})
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    begin, end = content.index(b"movi"), content.index(b"idx1")
    for at in random.integers(begin + 200, end, 3):
        content[at] ^= 1 << int(random.integers(8))
    path.write_bytes(content)
    with PyAVReader(path, cache=False) as video, PyAVReader(path, cache=False, see_all=True) as whole:
        np.testing.assert_array_equal(video.times_s, whole.times_s)
        # in order, without a jump: FFmpeg judges the bits behind a damaged picture by the pictures before it
        numbers = range(len(whole))
        assert torch.equal(video.frames_at(numbers).images, whole.frames_at(numbers).images)


def test_real_files(shared_data: Path) -> None:
    for path in sorted((shared_data / "weizmann").rglob("*.avi"))[::30]:
        assert is_by_packets(path)
