"""What a stream leaves behind can be read back, also after it was killed."""

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidact.events import Detection
from vidact.stream.engine import StreamUpdate
from vidact.stream.writers import EventTable, JsonLines, Recorder, Snapshots, file_name, fit
from vidact.video import open_video

EVENT = Detection("door", 1.25, 3.5, 'прыжок, "high"', 0.875)


def update(**changes):
    settings = {
        "source": "door", "seconds": 1.25, "scores": np.float32([0.25, 0.7, 0.05]), "events": [EVENT], "opened": [],
        "future": np.float32([[0.5, 0.25, 0.25]]), "latency_ms": 12.34, "dropped": 3,
        "image": np.zeros((4, 4, 3), np.uint8),
    }  # fmt: skip
    return StreamUpdate(**{**settings, **changes})


# ---- lines


def test_json_lines(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    with JsonLines(path, ["a", "прыжок"]) as lines:
        lines.write(update())
        first = json.loads(path.read_text(encoding="utf-8"))  # there before the file is closed
        lines.write(update(future=None, events=[], is_last=True))
    second = json.loads(path.read_text(encoding="utf-8").splitlines()[1])
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "source": "door", "seconds": 1.25, "scores": {"background": 0.25, "a": 0.7, "прыжок": 0.05}, "opened": [],
        "events": [{"label": EVENT.label, "start_s": 1.25, "end_s": 3.5, "score": 0.875}],
        "future": [{"background": 0.5, "a": 0.25, "прыжок": 0.25}], "latency_ms": 12.3, "dropped": 3, "last": False,
    }  # fmt: skip
    assert second["future"] is None
    assert second["last"] is True


def test_json_lines_on_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with JsonLines("-", ["a", "b"]) as lines:
        lines.write(update())
    assert not sys.stdout.closed
    assert json.loads(sys.stdout.getvalue())["seconds"] == 1.25


def test_scores_of_other_classes_are_refused(tmp_path):
    with JsonLines(tmp_path / "a.jsonl", ["a"]) as lines, pytest.raises(ValueError, match="longer"):
        lines.write(update())


def test_the_table_of_events(tmp_path):
    path = tmp_path / "events.csv"
    with EventTable(path) as table:
        assert path.read_text() == "video,start_s,end_s,label,score\n"
        table.write(EVENT)
        with path.open(encoding="utf-8", newline="") as file:  # there before it is closed
            (row,) = csv.DictReader(file)
    assert row == {"video": "door", "start_s": "1.2500", "end_s": "3.5000", "label": EVENT.label, "score": "0.8750"}


# ---- pictures


def test_a_snapshot(tmp_path):
    picture = np.full((60, 80, 3), (200, 30, 60), np.uint8)
    path = Snapshots(tmp_path / "shots").write("rtsp://10.0.0.1/left door", EVENT, picture)
    assert path.name == "rtsp___10.0.0.1_left_door_0001.25s_прыжок___high.jpg"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    np.testing.assert_allclose(np.asarray(Image.open(path)), picture, atol=6)


def test_file_names_stay_in_their_folder():
    for name in ("../../etc/passwd", "a/b\\c", "..", ".hidden", "x" * 300, "", "con:aux\n\0"):
        made = file_name(name)
        assert 1 <= len(made) <= 60
        assert not set(made) & set("/\\:\0\n")
        assert not made.startswith(".")


def test_pictures_of_another_size_are_fitted():
    wide = np.full((50, 100, 3), 255, np.uint8)
    assert fit(np.zeros((101, 201, 3), np.uint8), 200, 100).shape == (100, 200, 3)
    fitted = fit(wide, 200, 200)
    assert fitted.shape == (200, 200, 3)
    assert (fitted[50:150] == 255).all()
    assert (fitted[:50] == 0).all()
    assert (fitted[150:] == 0).all()


# ---- the recording


def grey(value, height=64, width=96):
    return np.full((height, width, 3), value, np.uint8)


def test_a_recording_has_the_seconds_of_its_source(tmp_path):
    """The first picture is shown from 0 on, late ones are late, and equal times make no error."""
    path = tmp_path / "new" / "out.mp4"
    times = [0.3, 0.5, 0.55, 0.55, 7.0, 7.25]
    with Recorder(path) as recorder:
        for i, seconds in enumerate(times):
            recorder.write(seconds, grey(40 * i, 65, 97))
        assert recorder.frames == 6
    with open_video(path) as video:
        assert (video.height, video.width) == (64, 96)
        np.testing.assert_allclose(video.times_s, [0, 0.5, 0.55, 0.55, 7.0, 7.25], atol=1e-3)
        means = video.frames_at(range(6)).images.float().mean((1, 2, 3))
    np.testing.assert_allclose(means, [40 * i for i in range(6)], atol=4)


def test_a_phone_that_is_turned_while_recording(tmp_path):
    with Recorder(tmp_path / "out.mp4") as recorder:
        recorder.write(0, grey(200, 64, 128))
        recorder.write(0.1, grey(200, 128, 64))
    with open_video(tmp_path / "out.mp4") as video:
        turned = video.frames_at([1]).images[0].float().mean(0)
    assert turned.shape == (64, 128)
    assert turned[:, 56:72].mean() > 190
    assert turned[:, :40].mean() < 10


def test_no_picture_no_file(tmp_path):
    (tmp_path / "out.mp4").write_text("an older recording")
    with Recorder(tmp_path / "out.mp4"):
        pass
    assert (tmp_path / "out.mp4").read_text() == "an older recording"


def test_what_goes_wrong_while_encoding_is_told(tmp_path):
    (tmp_path / "out.mp4").mkdir()
    recorder = Recorder(tmp_path / "out.mp4")
    recorder.write(0, grey(0))
    with pytest.raises(OSError, match=r"out\.mp4 cannot be recorded any further"):
        recorder.close()
    recorder.close()
    with Recorder(tmp_path / "b.mp4") as good:  # nothing is left behind that would disturb another
        good.write(0, grey(0))


def test_recordings_are_mp4(tmp_path):
    with pytest.raises(ValueError, match=r"out\.avi: recordings are mp4 files"):
        Recorder(tmp_path / "out.avi")


KILLED = """
import os, signal, sys, time
import numpy as np
from vidact.stream.writers import Recorder
recorder = Recorder(sys.argv[1])
for i in range(300):
    recorder.write(i / 30, np.full((64, 96, 3), i % 256, np.uint8))
while recorder._waiting.qsize():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_recording_plays(tmp_path):
    """All but the last seconds of it: the fragments that were finished."""
    path = tmp_path / "out.mp4"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    with open_video(path) as video:
        assert 6 <= video.times_s[-1] < 10
        means = video.frames_at([0, 30, 150]).images.float().mean((1, 2, 3))
    np.testing.assert_allclose(means, [0, 30, 150], atol=4)
