"""How long the last picture is shown belongs to a video: readers, clock, features, streams and copies know it."""

import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from test_fast_reader import with_edits

from vidact.features.names import build_extractor
from vidact.prepare.examine import examine
from vidact.prepare.pack import PackSettings
from vidact.prepare.sets import pack_set
from vidact.prepare.transcode import TranscodeJob, TranscodeSettings, transcode
from vidact.stream.sources import open_source
from vidact.video import Clock
from vidact.video.decode import open_video
from vidact.video.index_cache import pack, unpack


def write_animation(path: Path, durations_ms: list[int]) -> None:
    """GIF or APNG."""
    images = [Image.new("RGB", (64, 48), (9 * i, 200 - 9 * i, 90)) for i in range(len(durations_ms))]
    images[0].save(path, "PNG" if path.suffix == ".apng" else None, save_all=True, append_images=images[1:],
                   duration=durations_ms)  # fmt: skip


def write_lasting(path: Path, last_s: float, b_frames: int = 0, codec: str = "libx264", **options: str) -> None:
    """21 pictures, ten a second, of which the last is shown ``last_s``."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as file:
        words = {"bf": str(b_frames), "preset": "veryfast"} if codec == "libx264" else {}
        stream: Any = file.add_stream(codec, rate=10, options=words)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        packets = []
        for picture in rng.integers(0, 255, (21, 48, 64, 3), dtype=np.uint8):
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += stream.encode()
        last = packets[-1]  # in the order of storing, which is what MP4 counts its length by
        last.duration = int((Fraction(2) + Fraction(str(last_s))) / last.time_base) - last.pts
        file.mux(packets)


CASES: dict[str, Any] = {
    "animation.gif": lambda path: write_animation(path, [100] * 9 + [5000]),
    "animation.apng": lambda path: write_animation(path, [100] * 9 + [5000]),
    "slides.gif": lambda path: write_animation(path, [2000] * 3),
    "one.gif": lambda path: write_animation(path, [3000]),
    "uneven.gif": lambda path: write_animation(path, [100, 500, 40, 1000, 2500]),
    "uneven.apng": lambda path: write_animation(path, [100, 500, 40, 1000, 2500]),
    "two.gif": lambda path: write_animation(path, [50, 60_000]),
    "lasting.mp4": lambda path: write_lasting(path, 8),
    "lasting.mov": lambda path: write_lasting(path, 8),
    "b_frames.mp4": lambda path: write_lasting(path, 8, b_frames=2),
    "fragments.mp4": lambda path: write_lasting(path, 8, movflags="frag_keyframe+empty_moov"),
    "lasting.mkv": lambda path: write_lasting(path, 8),
    "lasting.webm": lambda path: write_lasting(path, 8, codec="libvpx"),
    "vp9.mp4": lambda path: write_lasting(path, 8, codec="libvpx-vp9"),
    "mpeg4.mp4": lambda path: write_lasting(path, 8, codec="mpeg4"),
}
ENDS_S = {"animation.gif": 5.9, "animation.apng": 5.9, "slides.gif": 6.0, "one.gif": 3.0, "uneven.gif": 4.14,
          "uneven.apng": 4.14, "two.gif": 60.05}  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lasting")
    for name, write in CASES.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_reader_knows_when_the_last_picture_ends(name: str, videos: Path) -> None:
    end_s = ENDS_S.get(name, 10.0)
    with open_video(videos / name) as video:
        assert video.end_s == pytest.approx(end_s, abs=1e-3)
        assert unpack(pack(video.index)).end_s == video.end_s  # type: ignore[attr-defined, union-attr]
        assert pickle.loads(pickle.dumps(video)).end_s == video.end_s
    with open_video(videos / name, index="decode") as video:
        assert video.end_s == pytest.approx(end_s, abs=1e-3)
    found = examine(videos / name)
    assert found.duration_s == pytest.approx(end_s, abs=1e-3)
    assert "duration" not in dict(found.problems)
    assert "frame rate" not in dict(found.problems)  # an average over the last picture too is what a file states


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".flv", ".mpg", ".h264"])
def test_a_picture_like_the_others_ends_a_step_later(suffix: str, tmp_path: Path) -> None:
    codec = "mpeg2video" if suffix == ".mpg" else "libx264"
    with av.open(str(tmp_path / f"plain{suffix}"), "w") as file:
        stream: Any = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(20):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * i, np.uint8), format="rgb24")))
        file.mux(stream.encode())
    with open_video(tmp_path / f"plain{suffix}") as video:
        assert video.end_s - video.times_s[-1] == pytest.approx(0.04, abs=2e-3)


def test_an_edit_list_may_end_within_a_picture(tmp_path: Path) -> None:
    write_lasting(tmp_path / "whole.mp4", 8, movflags="faststart")
    (tmp_path / "cut.mp4").write_bytes(with_edits((tmp_path / "whole.mp4").read_bytes(), [(3000, 0)]))
    with open_video(tmp_path / "cut.mp4") as video:
        assert len(video) == 21
        assert video.end_s == pytest.approx(3.0, abs=1e-3)


def test_images_of_a_folder_last_equally_long(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{i}.png")
    with open_video(tmp_path, fps=2) as video:
        assert video.end_s == 1.5


# -- the clock


@pytest.mark.parametrize(
    ("times_s", "end_s", "num_slots"),
    [
        ([i / 10 for i in range(10)], 5.9, 142),  # 5.9 s at 24 fps are 141.6 slots
        ([0.0, 2.0, 4.0], 6.0, 144),
        ([7.0], 10.0, 72),
        ([i / 12 for i in range(12)], 1.0, 24),
        ([i / 25 for i in range(100)], 4.0, 96),
        ([i / 60 for i in range(60)], 1.0, 25),  # as without an end: the last picture lies nearer to slot 24 than half
        ([i / 25 for i in range(100)], 3.0, 96),  # an end before the last picture is none
        ([i / 10 for i in range(10)], None, 23),
    ],
)
def test_the_last_picture_fills_the_slots_up_to_its_end(
    times_s: list[float], end_s: float | None, num_slots: int
) -> None:
    indices = Clock(24).indices(np.array(times_s), end_s)
    assert len(indices) == num_slots
    assert (indices[-1], indices[0]) == (len(times_s) - 1, 0)
    clock, shown = Clock(24), []
    for number, time_s in enumerate(times_s):
        shown += clock.push(time_s, number)
    shown += clock.finish(end_s)
    assert [slot.image for slot in shown] == indices.tolist()
    assert [slot.number for slot in shown] == list(range(num_slots))


def test_features_and_streams_see_it(videos: Path) -> None:
    """5.9 s are 23 tokens, whether a file is extracted, pushed frame by frame or played."""
    extractor = build_extractor("resnet_tiny", size=32, device="cpu")
    with open_video(videos / "animation.gif") as video:
        tokens = extractor.video(video)
        stream = extractor.stream()
        pushed = [token for number in range(len(video)) for token in
                  stream.push(video.times_s[number], video.frames_at([number]).images[0].contiguous())]  # fmt: skip
        pushed += stream.finish(video.end_s)
    assert len(tokens) == len(pushed) == 23


def test_a_played_file_tells_its_end(videos: Path, tmp_path: Path) -> None:
    with open_source(videos / "animation.gif") as source:
        assert source.end_s is None
        list(source)
        assert source.end_s == pytest.approx(5.9)
    for name in ("1.gif", "2.gif"):
        write_animation(tmp_path / name, [100] * 9 + [5000])
    with open_source(tmp_path) as source:
        seconds = [grab.seconds for grab in source]
        assert seconds[10] == pytest.approx(5.9)
        assert source.end_s == pytest.approx(11.8)


# -- copies


@pytest.mark.parametrize("name", ["animation.gif", "slides.gif", "one.gif", "two.gif", "lasting.mp4", "b_frames.mp4"])
@pytest.mark.parametrize("settings", [{}, {"b_frames": 0, "preset": "ultrafast"}, {"codec": "hevc"}], ids=str)
def test_a_copy_ends_when_its_source_does(name: str, settings: dict[str, Any], videos: Path, tmp_path: Path) -> None:
    end_s = ENDS_S.get(name, 10.0)
    job = TranscodeJob("copy.mp4", videos / name, tmp_path, TranscodeSettings(crf=30, **settings))
    note = transcode(job)
    assert note["seconds"] == pytest.approx(end_s, abs=2e-3)
    with open_video(job.target) as video:
        assert video.end_s - video.times_s[0] == pytest.approx(end_s, abs=2e-3)
    with av.open(str(job.target)) as file:
        assert file.duration / av.time_base == pytest.approx(end_s, abs=2e-3)


@pytest.mark.parametrize("fps", [None, 4.0])
def test_a_packed_video_ends_when_its_source_does(fps: float | None, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "one.gif").write_bytes((videos / "animation.gif").read_bytes())
    pack_set(tmp_path / "set", tmp_path / "store", PackSettings(fps=fps), progress=False)
    with open_video(tmp_path / "store" / "a" / "one.packed") as video:
        assert video.end_s == pytest.approx(5.9)
    found = examine(tmp_path / "store" / "a" / "one.packed")
    assert found.duration_s == pytest.approx(5.9)
