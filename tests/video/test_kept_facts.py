"""With a kept index a file is opened late and without probing, and shows the same frames at the same times."""

import pickle
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from vidact.video import pyav_reader
from vidact.video.decode import PyAVReader, VideoError, open_video
from vidact.video.file_facts import UNPROBED, needs_no_probe, read_facts
from vidact.video.frame_index import open_container
from vidact.video.numbered import read_number, write_numbered_video


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vidact.video.index_cache.SETTLED_S", -1.0)
    return tmp_path / "cache"


KINDS: dict[str, dict[str, Any]] = {
    "clip.mp4": {},
    "rare.mp4": {"times_ms": [0, 40, 100, 900, *range(1000, 2600, 40)]},
    "turned.mp4": {"quarter_turns": 1},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe"}},
    "clip.mkv": {},
    "clip.avi": {"codec": "mpeg4", "codec_options": {"g": "8"}},
    "clip.ts": {},
    "clip.h264": {},
    "clip.m2v": {"codec": "mpeg2video"},
}


@pytest.mark.parametrize("name", KINDS)
def test_the_second_visit_is_as_the_first(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write_numbered_video(path, 44, **KINDS[name])
    with open_video(path, cache=False) as first:
        assert [read_number(image) for image in first.frames_at(range(44)).images.numpy()] == list(range(44))
        truth = first.frames_at([41, 3, 20]).images
        facts = [first.fps, first.begin_s, first.lead_s, first.end_s, first.width, first.height]
        facts += [first.is_raw, first.format]  # type: ignore[attr-defined]
    with open_video(path) as video:
        len(video)
    opened: list[Any] = []
    monkeypatch.setattr(
        pyav_reader, "open_container", lambda *options: opened.append(options) or open_container(*options)
    )
    with open_video(path) as video:
        kept = [video.fps, video.begin_s, video.lead_s, video.end_s, video.width, video.height]
        assert [*kept, video.is_raw, video.format] == facts  # type: ignore[attr-defined]
        np.testing.assert_array_equal(video.times_s, first.times_s)
        copy = pickle.loads(pickle.dumps(video))
        assert not opened
        assert torch.equal(video.frames_at([41, 3, 20]).images, truth)
        assert torch.equal(copy.frames_at([41, 3, 20]).images, truth)
    assert len(opened) == 2
    copy.close()


@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith(".mp4")])
def test_an_mp4_states_the_same_without_a_probe(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_numbered_video(path, 44, **KINDS[name])
    container, stream = open_container(path, UNPROBED)
    with container:
        assert needs_no_probe(container, stream)
        unprobed = read_facts(container, stream, path)
    with open_container(path)[0] as container:
        assert read_facts(container, container.streams.video[0], path) == unprobed  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_file_that_is_replaced_after_its_index_was_read(name: str, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    write_numbered_video(path, 20, **KINDS[name])
    with open_video(path) as video:
        len(video)
    with open_video(path) as video:
        write_numbered_video(path, 30, **KINDS[name])
        with pytest.raises(VideoError, match="changed or replaced"):
            video.frames_at([3])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv"])
def test_requests_behind_one_that_reached_the_end(name: str, cache: Path, tmp_path: Path) -> None:
    """The first request leaves the decoder drained; later ones show their frames all the same."""
    path = tmp_path / name
    write_numbered_video(path, 60, **KINDS[name])
    for numbers in ([[55], [56, 57], [58, 59], [2]], [[0, 30, 56], [57], [59], [56]], [[59], [59], [0]]):
        with open_video(path) as video:
            for request in numbers:
                assert [read_number(image) for image in video.frames_at(request).images.numpy()] == request


def test_nothing_is_decoded_behind_the_only_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    write_numbered_video(path, 60, codec_options={"g": "60", "bf": "3", "preset": "veryfast"})
    decoded: list[int] = []
    decode = pyav_reader.decode_packet
    monkeypatch.setattr(
        pyav_reader, "decode_packet", lambda packet, *more: decoded.append(packet.pts) or decode(packet, *more)
    )
    with PyAVReader(path, cache=False) as video:
        stamps = video.index.stamps
        assert stamps is not None
        video.frames_at([54])
    with av.open(str(path)) as container:
        stored = [packet.pts for packet in container.demux(video=0) if packet.size]
    last = max(stored.index(stamp) for stamp in stamps[:55])
    assert max(stored.index(stamp) for stamp in decoded) == last < len(stored) - 1
