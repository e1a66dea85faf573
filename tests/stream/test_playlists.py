"""Live playlists and served files: what a connection gives again is not new, by the stream's own stamps."""

import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import av
import pytest
from support.streaming import FPS, Playlist, playlist, transport_streams
from test_source_faults import Server, number, sends, server, watch, when  # noqa: F401
from test_source_faults import _leaves_nothing as _leaves_nothing

from vidact.stream import live
from vidact.stream.grabs import Source
from vidact.stream.sources import open_source
from vidact.video.numbered import numbered_picture, write_numbered_video


@pytest.fixture
def hls(_leaves_nothing: None) -> Iterator[Playlist]:
    with playlist() as made:
        yield made


def opened(hls: Playlist, events: list[str]) -> Source:
    """Lost soon; a machine that is too slow for that tries again."""
    return open_source(hls.url, timeout_s=0.25, retry_s=0.05, waits=True, on_event=events.append)


def losses(events: list[str]) -> int:
    return sum("is lost" in text for text in events)


def test_a_frozen_playlist_shows_nothing_twice(hls: Playlist) -> None:
    """Its segments come again with every connection; the pauses double, and it goes on with what is new."""
    segments = transport_streams(range(60))
    hls.show(segments[:3])
    events: list[str] = []
    with (
        open_source(hls.url, timeout_s=0.5, retry_s=0.05, on_event=events.append) as source,
        when(lambda: len(events) >= 4, lambda: hls.show(segments[2:6], first=2)),
    ):
        grabs = watch(source, lambda grab: number(grab) >= 40)
    assert len(hls.fetched) >= 9  # again and again
    numbers = [number(grab) for grab in grabs]
    assert numbers == sorted(set(numbers))
    assert grabs[-1].seconds - grabs[0].seconds == pytest.approx(grabs[-1].captured - grabs[0].captured, abs=0.3)
    pauses = [re.findall(r"trying again in ([\d.]+) s", text) for text in events[:4]]
    assert pauses == [["0.05"], ["0.1"], ["0.2"], ["0.4"]]
    assert all("is lost: it gives nothing that it has not given before" in text for text in events[1:4])
    assert re.fullmatch(rf"{hls.url} is back after \d+\.\d s", events[-1])


@pytest.mark.parametrize("missing", [2, 0])
@pytest.mark.parametrize("status", [404, 410])
def test_a_part_that_is_not_there_is_left_out(missing: int, status: int, hls: Playlist) -> None:
    """Recorders delete old segments, and outages leave holes: what follows is shown, as players do."""
    hls.show(transport_streams(range(40)))
    hls.text += "#EXT-X-ENDLIST\n"
    hls.refused[f"s{missing}.ts"] = status
    events: list[str] = []

    def hears(text: str) -> None:
        events.append(text)
        if "is lost" in text:
            source.close()

    with open_source(hls.url, timeout_s=5, on_event=hears) as source:
        tens = {number(grab) // 10 for grab in source}
    assert tens == {0, 1, 2, 3} - {missing}, events
    (told,) = events
    assert re.fullmatch(
        rf"{hls.url}: a part of its playlist is left out: its server has none such \({status} .+\)", told
    )


def test_a_part_that_comes_later_is_waited_for(hls: Playlist) -> None:
    """A server that is overloaded has what it does not give now; what is wrong is said in words."""
    hls.show(transport_streams(range(40)))
    hls.text += "#EXT-X-ENDLIST\n"
    hls.refused["s2.ts"] = 503
    events: list[str] = []
    with (
        open_source(hls.url, timeout_s=5, retry_s=0.05, waits=True, on_event=events.append) as source,
        when(lambda: len(events) >= 2, hls.refused.clear),
    ):
        tens = {number(grab) // 10 for grab in source}
    assert tens == {0, 1, 2, 3}
    said = rf"{hls.url} (is lost|cannot be opened): 127\.0\.0\.1 answers 503 Service Unavailable; trying again"
    assert re.match(said, events[0])


@pytest.mark.slow
def test_a_playlist_that_is_no_more(hls: Playlist) -> None:
    hls.show(transport_streams(range(20)))
    events: list[str] = []
    with open_source(hls.url, timeout_s=5, retry_s=0.05, on_event=events.append) as source:
        next(source)
        hls.refused["live.m3u8"] = 404
        with when(lambda: losses(events) >= 1, source.close):
            list(source)
    assert events[0].startswith(f"{hls.url} is lost: 127.0.0.1 answers 404 Not Found; trying again")


def fragments(folder: Path, length: int, codec: str, options: dict[str, str]) -> tuple[str, dict[str, bytes]]:
    """A live playlist of numbered pictures, a segment of fragmented MP4 every ten, and the files that it names."""
    words = {"hls_segment_type": "fmp4", "hls_time": "0.4", "hls_list_size": "0", "hls_flags": "omit_endlist"}
    with av.open(str(folder / "live.m3u8"), "w", format="hls", options=words) as file:
        stream: Any = file.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = *numbered_picture(0).shape[:2], "yuv420p"
        for i in range(length):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")))
        file.mux(stream.encode())
    text = (folder / "live.m3u8").read_text().replace("#EXT-X-ENDLIST\n", "")
    return text, {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".m3u8"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"g": "10", "bf": "2", "preset": "ultrafast"}),
     ("libx265", {"x265-params": "log-level=none:keyint=10:min-keyint=10:bframes=4:scenecut=0"})],
)  # fmt: skip
def test_a_frozen_playlist_of_fragments_shows_nothing_twice(
    codec: str, options: dict[str, str], hls: Playlist, tmp_path: Path
) -> None:
    """FFmpeg may give two packets of one stamp, behind the first picture of a segment of HEVC that it begins with."""
    hls.text, hls.files = fragments(tmp_path, 50, codec, options)
    events: list[str] = []
    with opened(hls, events) as source, when(lambda: len(events) >= 4, source.close):
        grabs = list(source)
    numbers = [number(grab) for grab in grabs]
    assert numbers
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "begin_s", [0.0, pytest.param(0.013, marks=pytest.mark.slow), pytest.param(-3600.0, marks=pytest.mark.slow)]
)
def test_an_encoder_that_was_restarted_is_new(begin_s: float, hls: Playlist) -> None:
    """Its stamps are not newer, but its pictures are other ones: at known stamps, between them, or long before."""
    hls.show(transport_streams(range(30), begin_s=7200))
    events: list[str] = []
    with opened(hls, events) as source:
        restarted = transport_streams(range(100, 130), begin_s=7200 + begin_s)
        with when(lambda: losses(events) >= 2, lambda: hls.show(restarted, mark="new")):
            grabs = watch(source, lambda grab: number(grab) >= 105)
    first, *rest = [grab for grab in grabs if number(grab) >= 100]
    assert number(first) - first.dropped <= 100  # a slow machine may miss pictures, which are counted
    assert [number(one) - one.dropped - 1 for one in rest] == [number(one) for one in [first, *rest][:-1]]


@pytest.mark.slow
def test_a_list_that_is_turned_back_shows_nothing_old(hls: Playlist) -> None:
    """Another server behind the same name lags: it lists what came before the first that was seen, and what was."""
    segments = transport_streams(range(80))
    hls.show(segments[3:6], first=3)
    events: list[str] = []
    with opened(hls, events) as source:
        with when(lambda: losses(events) >= 1, lambda: hls.show(segments[1:4], first=1)):
            grabs = watch(source, lambda grab: number(grab) >= 57)
        with when(lambda: losses(events) >= 3, lambda: hls.show(segments[4:8], first=4)):
            grabs += watch(source, lambda grab: number(grab) >= 70)
    numbers = [number(grab) for grab in grabs]
    assert numbers[0] == 30
    assert numbers == sorted(set(numbers))


@pytest.mark.slow
def test_stamps_that_jump_inside_a_frozen_list(hls: Playlist) -> None:
    """Segments of a clock that began anew follow those with higher stamps; none of them is new a second time."""
    hls.show(transport_streams(range(20), begin_s=5000) + transport_streams(range(20, 40)))
    hls.text = hls.text.replace("#EXTINF:0.400,\ns2", "#EXT-X-DISCONTINUITY\n#EXTINF:0.400,\ns2")
    events: list[str] = []
    with opened(hls, events) as source:
        more = transport_streams(range(40, 60), begin_s=0.8)
        with when(lambda: losses(events) >= 3, lambda: hls.show(more, first=4)):
            grabs = watch(source, lambda grab: number(grab) >= 50)
    numbers = [number(grab) for grab in grabs]
    assert numbers == sorted(set(numbers))


def test_a_served_file_that_is_cut_off_goes_on(server: Server, tmp_path) -> None:  # noqa: F811
    """The next connection begins at its begin, which was seen."""
    write_numbered_video(tmp_path / "a.mp4", 40, container_options={"movflags": "faststart"})
    content = (tmp_path / "a.mp4").read_bytes()

    def is_cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) * 3 // 4])
        handler.wfile.flush()
        handler.connection.close()

    server.answers = [is_cut, is_cut, is_cut, is_cut, sends(content, "video/mp4", with_length=True)]
    events: list[str] = []
    with open_source(server.url, retry_s=0.02, on_event=events.append) as source:
        grabs = list(source)
    numbers = [number(grab) for grab in grabs]
    assert any("is lost" in text for text in events)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 39


def test_a_live_stream_that_begins_anew_is_new(server: Server) -> None:  # noqa: F811
    """A sender that is killed and started again sends the same stamps, and what it shows is now."""
    content = b"".join(transport_streams(range(20)))
    server.answers = [sends(content), sends(content, stalls=True)]
    with open_source(server.url, timeout_s=1.0, retry_s=0.02, on_event=lambda text: None) as source:
        first = watch(source, lambda grab: number(grab) >= 15)
        time.sleep(0.1)
        again = watch(source, lambda grab: number(grab) >= 15)
    assert len(first) + len(again) > 1
    assert again[-1].seconds > first[-1].seconds


def test_packets_that_all_carry_one_stamp_take_no_more_memory_with_time() -> None:
    """A stream may run for months; what is kept of it is bounded, be its stamps as they may."""
    past = live._Past()
    for packet in range(5000):
        past.packet(1.0, str(packet).encode())
    assert sum(len(digests) for digests in past._digests.values()) < 100
