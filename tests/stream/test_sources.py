"""Files, folders and pushed pictures: every picture at its time, or the newest one; and what cannot be opened."""

import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vidact.stream.grabs import Grab, Source, SourceError
from vidact.stream.live import LEAD_S, PushSource, _Seconds
from vidact.stream.sources import open_source
from vidact.video import VideoError, open_video
from vidact.video.numbered import numbered_picture, read_number, write_numbered_video

FILES: dict[str, dict] = {
    "b_frames.mp4": {},
    "turned.mp4": {"quarter_turns": 1},
    "uneven.mkv": {"times_ms": [1000 + 7 * i * i for i in range(20)]},
    "no_times.avi": {},
    "stream.ts": {},
}


def number(grab: Grab) -> int:
    return read_number(grab.image.transpose(2, 0, 1))


def ends_when_closed(source: Source) -> None:
    """close() in another thread ends the iteration in this one."""
    timer = threading.Timer(0.05, source.close)
    timer.start()
    for _ in source:
        pass
    timer.join()


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """No thread and no descriptor outlives a test."""
    files = Path("/proc/self/fd")
    before = threading.active_count(), files.exists() and len(os.listdir(files))
    yield
    assert (threading.active_count(), files.exists() and len(os.listdir(files))) == before


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_pictures_and_times_of_the_reader(name: str, tmp_path: Path) -> None:
    write_numbered_video(tmp_path / name, 20, **FILES[name])
    with open_video(tmp_path / name) as video, open_source(str(tmp_path / name)) as source:
        assert (source.name, source.is_live, source.realtime) == (str(tmp_path / name), False, False)
        assert source.fps == video.fps
        grabs = list(source)
        assert [number(grab) for grab in grabs] == list(range(20))
        assert [grab.seconds for grab in grabs] == (video.times_s - video.times_s[0]).tolist()
        images = video.frames_at(range(20)).images.permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(grab.image, image) for grab, image in zip(grabs, images, strict=True))
    assert all(grab.image.flags.c_contiguous and grab.dropped == 0 for grab in grabs)
    assert source.skipped == 0
    assert list(source) == []


def test_real_time_waits_for_each_picture_and_drops_none(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mp4", 6, times_ms=[0, 40, 80, 200, 240, 300])
    grabs = []
    with open_source(tmp_path / "a.mp4", realtime=True) as source:
        begin = time.monotonic()
        for grab in source:
            assert time.monotonic() - begin >= grab.seconds - 0.001
            grabs.append(grab)
            if grab.seconds == 0:
                time.sleep(0.1)  # whoever is slow gets the rest as soon as it asks
    assert [number(grab) for grab in grabs] == [0, 1, 2, 3, 4, 5]
    assert grabs[-1].captured - begin > 0.29
    assert source.realtime
    assert not source.is_live


def test_closing_wakes_a_file_in_real_time(tmp_path: Path) -> None:
    write_numbered_video(tmp_path / "a.mp4", 2, times_ms=[0, 60_000])
    source, begin = open_source(tmp_path / "a.mp4", realtime=True), time.monotonic()
    ends_when_closed(source)
    assert time.monotonic() - begin < 60  # when the second picture is due
    source.close()


def test_a_damaged_file_is_played_as_far_as_it_can_be_decoded(tmp_path: Path) -> None:
    """Missing pictures are counted and leave a gap in time; those that are left keep their times."""
    path, events = tmp_path / "damaged.mp4", []
    write_numbered_video(path, 40, codec_options={"g": "4", "bf": "0", "preset": "veryfast"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for begin, size in packets[16:18]:
        content[begin : begin + size] = bytes(size)
    path.write_bytes(content)
    with open_source(path, on_event=events.append) as source:
        grabs = list(source)
    shown = [round(grab.seconds * 25) for grab in grabs]
    lost = sorted(set(range(40)) - set(shown))
    assert set(lost) >= {16, 17}
    assert set(lost) <= {16, 17, 18, 19}  # what leans on them; the next key frame is 20
    assert source.skipped == len(lost) == 40 - len(shown)
    assert [number(grab) for grab in grabs if grab.seconds * 25 > 19.5] == shown[-20:]
    assert len(events) == 1
    assert "damaged.mp4 is damaged; playing what can be decoded of it" in events[0]


def test_a_file_that_is_cut_short_ends_early_and_says_so(tmp_path: Path) -> None:
    path, events = tmp_path / "cut.mp4", []
    write_numbered_video(path, 60, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with open_source(path, on_event=events.append) as source:
        numbers = [number(grab) for grab in source]
    assert numbers == sorted(set(numbers))
    # The cut packet's picture may be one that the last whole packet is shown after.
    assert numbers[-1] + 1 - len(numbers) in (0, 1)
    assert 10 < len(numbers) < 60
    assert "cut short" in events[0]


# -------------------------------------------------------------------------------------------------------------- folders


def write_images(folder: Path, count: int) -> None:
    for i in range(count):
        Image.fromarray(numbered_picture(i)).save(folder / f"img{i}.png")


def test_a_folder_of_images_is_one_video(tmp_path: Path) -> None:
    write_images(tmp_path, 12)
    with open_source(tmp_path, fps=10) as source:
        grabs = list(source)
        assert source.fps == 10
    assert [number(grab) for grab in grabs] == list(range(12))
    assert [grab.seconds for grab in grabs] == pytest.approx([i / 10 for i in range(12)])


def test_a_corrupt_image_is_left_out_and_counted(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    (tmp_path / "img2.png").write_bytes(b"no image")
    events: list[str] = []
    with open_source(tmp_path, on_event=events.append) as source:
        assert [number(grab) for grab in source] == [0, 1, 3, 4]
    assert source.skipped == 1
    assert "img2.png is not an image that can be read" in events[0]


def test_a_folder_of_videos_is_played_one_after_another(tmp_path: Path) -> None:
    """In natural order, with time going on; one that cannot be read is named."""
    for name in ("take2.mp4", "take10.mp4"):
        write_numbered_video(tmp_path / name, 4 if name == "take2.mp4" else 3)
    (tmp_path / "take3.mp4").write_bytes(b"these are notes" * 99)
    events: list[str] = []
    with open_source(tmp_path, on_event=events.append) as source:
        grabs = list(source)
    assert [number(grab) for grab in grabs] == [0, 1, 2, 3, 0, 1, 2]
    assert [grab.seconds for grab in grabs] == pytest.approx([i / 25 for i in range(7)])
    assert len(events) == 1
    assert "left out: " in events[0]
    assert "take3.mp4 is not a video" in events[0]


def test_a_folder_of_nothing_but_bad_videos(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"these are notes" * 99)
    with pytest.raises(VideoError, match=r"none of the 2 videos in .* can be read"):
        open_source(tmp_path, on_event=lambda text: None)


# ---------------------------------------------------------------------------------------------------- what is no source


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("nowhere.mp4", FileNotFoundError, r"nowhere.mp4 does not exist; a source is a camera's number \(0\), a file"),
        ("-1", FileNotFoundError, "-1 does not exist"),
        ("notes.mp4", VideoError, "notes.mp4 is not a video that can be read .* begins with b'these are no'"),
        ("empty.mp4", VideoError, r"empty.mp4 is empty \(0 bytes\)"),
        ("nothing", SourceError, "nothing is a folder without videos or images"),
        ("both", SourceError, "both holds 1 video and 1 image; .* put them into folders of their own"),
        ("ftp://host/a.mp4", SourceError, "ftp:// is not a kind of source; use rtsp://, rtsps://, http://, https://"),
        ("file:///etc/hosts", SourceError, "file:// is not a kind of source"),
    ],
)
def test_what_cannot_be_opened_says_why(
    uri: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.mp4").write_text("these are notes\n" * 99)
    Path("empty.mp4").touch()
    Path("nothing").mkdir()
    Path("both").mkdir()
    Path("both/a.mp4").touch()
    Path("both/a.png").touch()
    with pytest.raises(error, match=words):
        open_source(uri)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="camera 0 runs in real time at its own rate; realtime=False is for files"):
        open_source("0", realtime=False)
    with pytest.raises(ValueError, match="rtsp://host/a runs in real time at its own rate; fps=5 is for files"):
        open_source("rtsp://me:secret@host/a", fps=5)
    with pytest.raises(ValueError, match="timeout_s is 0 "):
        open_source("0", timeout_s=0)
    write_numbered_video(tmp_path / "a.mp4", 2)
    with pytest.raises(ValueError, match="carries its own times"):
        open_source(tmp_path / "a.mp4", fps=5)


def test_a_number_is_a_camera_unless_it_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("0").mkdir()
    write_images(Path("0"), 2)
    with open_source(Path("0")) as source, open_source("./0") as same:
        assert [number(grab) for grab in source] == [number(grab) for grab in same] == [0, 1]


# --------------------------------------------------------------------------------------------------------------- pushed


PICTURE = np.zeros((4, 6, 3), np.uint8)


def test_only_the_newest_pushed_picture_is_kept() -> None:
    source = PushSource("browser")
    assert (source.name, source.is_live, source.fps) == ("browser", True, None)
    for value in range(5):
        source.push(PICTURE + value, seconds=value / 10)
    grab = next(source)
    assert (grab.image[0, 0, 0], grab.seconds, grab.dropped, source.dropped) == (4, 0.4, 4, 4)
    source.push(PICTURE, seconds=0.5)
    assert next(source).dropped == 0
    source.push(PICTURE, seconds=0.6)
    source.close()
    source.push(PICTURE, seconds=0.7)  # too late: ignored
    assert list(source) == []


def test_a_pushed_picture_wakes_who_waits() -> None:
    begin = time.monotonic()
    source = PushSource()
    timer = threading.Timer(0.05, source.push, [PICTURE])
    timer.start()
    grab = next(source)
    assert 0.04 < grab.seconds <= grab.captured - begin  # no time given: that of arrival
    timer.join()
    ends_when_closed(source)


def test_pushed_time_goes_forwards_and_does_not_run_away() -> None:
    source = PushSource()

    def pushed(seconds: float) -> float:
        source.push(PICTURE, seconds)
        return next(source).seconds

    assert [pushed(s) for s in (1.0, 1.5, 20.0)] == [1.0, 1.5, 20.0]
    assert [pushed(s) for s in (0.0, 0.5, 0.5)] == [20.0, 20.5, 20.5]  # a video that begins again
    source = PushSource()
    assert pushed(1e9) < 1  # a clock that began with the browser
    assert pushed(1e9 + 0.5) == pytest.approx(0.5, abs=0.2)
    assert pushed(1e9 + 1000 * LEAD_S) < 1
    assert pushed(-1e300) < 1


@pytest.mark.parametrize(
    ("image", "seconds", "words"),
    [
        (PICTURE[..., 0], None, r"a uint8 RGB array \(H, W, 3\); this is uint8 \(4, 6\)"),
        (PICTURE.astype(np.float32), None, r"this is float32 \(4, 6, 3\)"),
        (PICTURE[:0], None, r"this is uint8 \(0, 6, 3\)"),
        ("a picture", None, "this is str"),
        (PICTURE, math.nan, "time is nan"),
        (PICTURE, math.inf, "time is inf"),
    ],
)
def test_what_is_no_picture_is_refused(image: np.ndarray, seconds: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PushSource().push(image, seconds)


# ------------------------------------------------------------------------------------------------- a stream's own clock


def test_seconds_of_a_stream_follow_its_stamps() -> None:
    """Jitter of the network is not jitter of time, a burst of old pictures at the begin shifts nothing."""
    seconds = _Seconds(lead_s=0.0, lag_s=2.0)
    burst = [seconds(100 + i / 25, 0.5) for i in range(25)]  # a second of video at once
    assert burst == [0.5] * 25
    late = [0.0, 0.03, 0.01, 0.9, 0.5, 0.02]
    steady = [seconds(101 + i / 25, 0.54 + i / 25 + delay_s) for i, delay_s in enumerate(late)]
    assert steady == pytest.approx([0.54 + i / 25 for i in range(6)])


def test_seconds_of_a_stream_survive_a_jump_and_a_restart() -> None:
    seconds = _Seconds(lead_s=0.0, lag_s=2.0)
    assert [seconds(9.0, 1.0), seconds(9.1, 1.1)] == pytest.approx([1.0, 1.1])
    assert seconds(5000.0, 1.2) == pytest.approx(1.2)
    assert seconds(3.0, 1.3) == pytest.approx(1.3)
    assert seconds(None, 1.4) == pytest.approx(1.4)
    seconds.restart()
    assert seconds(2.5, 7.0) == pytest.approx(7.0)
    assert seconds(1.5, 7.5) == pytest.approx(7.5)  # back by less than it may lag: it begins anew all the same
    assert seconds(1.6, 7.7) == pytest.approx(7.6)


def test_a_jump_of_a_streams_own_clock_is_known() -> None:
    """Against the wall clock: a pause in which both go on is none, nor is what was held back and comes at once."""
    seconds = _Seconds(lead_s=0.0, lag_s=2.0)
    stamps_s = [50.0, 50.1, 70.1, 70.2, 90.0, 390.0, 390.1, 9.0]
    came_s = [1.0, 1.1, 21.1, 41.0, 41.1, 41.2, 41.3, 41.4]
    jumps = []
    for stamp_s, now_s in zip(stamps_s, came_s, strict=True):
        seconds(stamp_s, now_s)
        jumps.append(seconds.jump_s)
    assert jumps == pytest.approx([0, 0, 0, 0, 0, 299.9, 0, -381.2])
    seconds.restart()
    seconds(5000.0, 50.0)
    assert seconds.jump_s == 0.0
