"""Seconds of labels count from the first frame, or from the beginning of the file, as in players."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import vidact.models
from vidact.batch import ClipInput
from vidact.data.clip_list import Clip
from vidact.data.clips import ClipData, ClipDataset, frame_range
from vidact.data.event_list import Event
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.sequence_list import load_sequences
from vidact.features.files import extract_features
from vidact.features.names import build_extractor
from vidact.prepare.examine import examine
from vidact.prepare.pack import PackSettings
from vidact.prepare.sets import pack_set
from vidact.prepare.transcode import TranscodeJob, TranscodeSettings, transcode
from vidact.stream.sources import open_source
from vidact.video import SegmentSampler, VideoError, open_video, test_transform
from vidact.video.numbered import numbered_picture, read_number

LEAD_S, NUM = 1.5, 50


def write(path: Path, begin_s: float, sound_s: float | None, num: int = NUM) -> None:
    """Write numbered pictures at 25 fps from ``begin_s`` on, and sound from 0 to ``sound_s``."""
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound: Any = None if sound_s is None else file.add_stream("aac", rate=8000, layout="mono")
        if sound_s is not None:
            for i in range(int(sound_s * 10)):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
                frame.rate, frame.pts = 8000, 800 * i
                file.mux(sound.encode(frame))
            file.mux(sound.encode())
        for i in range(num):
            frame = av.VideoFrame.from_ndarray(numbered_picture(i), format="rgb24")
            frame.pts, frame.time_base = round(1000 * begin_s) + 40 * i, Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origins")
    write(folder / "late.mp4", LEAD_S, 4.0)
    write(folder / "late.mkv", LEAD_S, 4.0)
    write(folder / "late.ts", LEAD_S, 4.0)
    write(folder / "plain.mp4", 0.0, None)
    write(folder / "far.mkv", 100_000.0, None)
    return folder


@pytest.mark.parametrize(("name", "lead_s"), [("late.mp4", LEAD_S), ("late.mkv", LEAD_S), ("late.ts", LEAD_S),
                                               ("plain.mp4", 0.0), ("far.mkv", 0.0)])  # fmt: skip
def test_a_reader_knows_how_long_the_file_plays_before_its_first_picture(
    name: str, lead_s: float, videos: Path
) -> None:
    for decoder in ("pyav", "opencv"):
        with open_video(videos / name, decoder) as video:
            assert video.lead_s == pytest.approx(lead_s, abs=0.13)  # a TS loses the first packets of sound
    examined = examine(videos / name)
    problems = dict(examined.problems)
    assert "duration" not in problems
    if lead_s:
        assert "time_origin" in problems["late picture"]
        assert f"{examined.lead_s:.2f} s after the file begins" in problems["late picture"]
    else:
        assert "late picture" not in problems


def numbers(path: Path, origin: str, start_s: float, end_s: float) -> list[int]:
    clip = Clip(path.stem, path, 0, start_s, end_s, "test")
    with open_video(path) as video:
        first, count = frame_range(clip, video.times_s, video.begin_s if origin == "file" else None)
        return [read_number(image) for image in video.frames_at(range(first, first + count)).images.numpy()]


def test_cuts_of_clips(videos: Path) -> None:
    """A player shows frames 13 to 17 from 2.0 to 2.2 s: frame 12, at 0.48 s, is shown at 1.98 s."""
    assert numbers(videos / "late.mkv", "file", 2.0, 2.2) == [13, 14, 15, 16, 17]
    assert numbers(videos / "late.mkv", "first_frame", 0.52, 0.72) == [13, 14, 15, 16, 17]
    assert numbers(videos / "far.mkv", "file", 0.52, 0.72) == [13, 14, 15, 16, 17]
    with pytest.raises(VideoError, match=r"no frame lies between 0\.2 s and 1\.0 s.*first picture is shown at 1\.50 s"):
        numbers(videos / "late.mkv", "file", 0.2, 1.0)


def test_clips_of_a_data_set(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("path,label,split,start_s,end_s\n" + "".join(
        f"{videos / 'late.mkv'},{label},{split},2.0,2.2\n" for label in "ab" for split in ("train", "val", "test")
    ))  # fmt: skip
    network = vidact.models.tsn_resnet_tiny(num_classes=2, size=32, width=8)
    numbers_read = {}
    for origin in ("first_frame", "file"):
        data = ClipData(str(tmp_path), SegmentSampler(5), time_origin=origin, num_workers=0)  # type: ignore[arg-type]
        assert data.time_origin == origin
        inputs: ClipInput = network.input
        late_s = 0 if origin == "file" else LEAD_S
        clips = [Clip("late", videos / "late.mkv", 0, 2.0 - late_s, 2.2 - late_s, "test")]
        dataset = ClipDataset(clips, 2, SegmentSampler(5), test_transform(inputs), inputs, time_origin=origin)
        images, _ = dataset.read(clips[0], None)
        assert images is not None
        numbers_read[origin] = read_number(images[0, 0].numpy())
    assert numbers_read["file"] == numbers_read["first_frame"] == 13
    with pytest.raises(ValueError, match="time_origin is 'player'; it can be 'first_frame' or 'file'"):
        ClipData(str(tmp_path), SegmentSampler(5), time_origin="player")  # type: ignore[arg-type]


def test_events_of_detectors(videos: Path, tmp_path: Path) -> None:
    """An event that a player shows from 2.0 to 3.0 s lies in tokens 2 to 5 (0.5 to 1.5 s of the pictures)."""
    (tmp_path / "videos").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "videos" / f"{split}.mkv").write_bytes((videos / "late.mkv").read_bytes())
    extractor = build_extractor("resnet_tiny", size=32, device="cpu")
    extract_features(tmp_path / "videos", tmp_path / "features", extractor)
    splits = ("train", "val", "test")
    write_videos_csv(tmp_path / "videos.csv", {f"{split}.mkv": split for split in splits})
    write_events_csv(tmp_path / "events.csv", [Event(f"{split}.mkv", 2.0, 3.0, "a") for split in splits]
                     + [Event("train.mkv", 0.25, 1.0, "a")])  # fmt: skip
    sequences = load_sequences(tmp_path, time_origin="file")
    labels = next(sequence for sequence in sequences if sequence.id == "test").multi_hot[:, 1]
    assert np.flatnonzero(labels).tolist() == [2, 3, 4, 5]
    assert any("left out 1 event of train" in note and "before the first picture" in note for note in sequences.notes)
    with pytest.raises(ValueError, match="has an event"):  # 2.0 s after the first frame the pictures are over
        load_sequences(tmp_path, bad_events="allow")
    again = extract_features(tmp_path / "videos", tmp_path / "features", extractor)
    assert sorted(again.kept) == ["test", "train", "val"]
    for note in (tmp_path / "features" / ".extract" / "done").glob("*.json"):  # as an earlier vidact left them
        note.write_text(
            json.dumps({key: value for key, value in json.loads(note.read_text()).items() if key != "lead_s"})
        )
    with pytest.raises(ValueError, match=r"do not say when .* first picture.*extract.*again.*time_origin"):
        load_sequences(tmp_path, time_origin="file")
    assert sorted(extract_features(tmp_path / "videos", tmp_path / "features", extractor).kept) == [
        "test",
        "train",
        "val",
    ]


def test_a_name_that_a_mac_wrote(videos: Path, tmp_path: Path) -> None:
    """The file's name has the accent apart from its letter, and the lists write it either way."""
    (tmp_path / "videos").mkdir()
    decomposed, composed = "cafe\u0301.mkv", "caf\u00e9.mkv"
    for name in (decomposed, "other.mkv"):
        (tmp_path / "videos" / name).write_bytes((videos / "late.mkv").read_bytes())
    extract_features(tmp_path / "videos", tmp_path / "features", build_extractor("resnet_tiny", size=32, device="cpu"))
    write_events_csv(tmp_path / "events.csv", [Event(name, 2.0, 3.0, "a") for name in (decomposed, "other.mkv")])
    for written in (decomposed, composed):
        write_videos_csv(tmp_path / "videos.csv", {written: "train", "other.mkv": "test"})
        sequences = load_sequences(tmp_path, time_origin="file", val_fraction=0)
        labels = next(sequence for sequence in sequences if sequence.id == "caf\u00e9").multi_hot[:, 1]
        assert np.flatnonzero(labels).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_copies_keep_it(name: str, videos: Path, tmp_path: Path) -> None:
    job = TranscodeJob("copy.mp4", videos / name, tmp_path, TranscodeSettings(crf=30))
    assert "error" not in transcode(job)
    with open_video(job.target) as video:
        assert video.lead_s == pytest.approx(LEAD_S, abs=0.01)
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / name).write_bytes((videos / name).read_bytes())
    pack_set(tmp_path / "set", tmp_path / "store", PackSettings(fps=None), progress=False)
    with open_video(tmp_path / "store" / "a" / "late.packed") as video:
        assert video.lead_s == pytest.approx(LEAD_S, abs=0.01)


def test_a_stream_tells_the_seconds_of_either(videos: Path) -> None:
    for origin, begin_s in (("first_frame", 0.0), ("file", LEAD_S)):
        with open_source(videos / "late.mkv", time_origin=origin) as source:  # type: ignore[arg-type]
            seconds = [grab.seconds for grab in source]
            assert seconds[0] == pytest.approx(begin_s, abs=0.01)
            assert source.end_s == pytest.approx(begin_s + NUM / 25, abs=0.01)
    with pytest.raises(ValueError, match="time_origin is 'x'"):
        open_source(videos / "late.mkv", time_origin="x")  # type: ignore[arg-type]
