"""What a stream leaves behind can be read back, also after it was killed."""

import contextlib
import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidact.events import Detection
from vidact.stream.engine import StreamUpdate
from vidact.stream.window import writers
from vidact.stream.window.writers import EventTable, JsonLines, Recorder, Snapshots, dated, file_name, fit
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
        "repeat": False, "provisional": False, "withdrawn": False,
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


# ---- what an earlier run left

HEAD = "video,start_s,end_s,label,score\n"
ROW = 'door,1.2500,3.5000,"прыжок, ""high""",0.8750\n'


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        ("", HEAD),
        (HEAD, HEAD),
        (HEAD[:9], HEAD),  # killed while the head was written
        (HEAD + ROW, HEAD + ROW),
        (HEAD + ROW + ROW[:20], HEAD + ROW),
        ((HEAD + ROW + ROW[:22]).encode()[:-1], HEAD + ROW),  # in the middle of a letter
        (HEAD + ROW + ROW[:-3], HEAD + ROW),  # 0.87 may have been 0.8750
        (HEAD + ROW + ROW[:-1], HEAD + ROW + ROW),  # an editor left the last line break out
        (HEAD + ROW + ROW[:20] + 4096 * "\0", HEAD + ROW),  # a power cut
        (HEAD + ROW + 99 * "\0", HEAD + ROW),
        (4096 * "\0", HEAD),
        ("\ufeff" + HEAD.replace("\n", "\r\n"), "\ufeff" + HEAD.replace("\n", "\r\n")),
    ],
)
def test_a_table_is_appended_to(left, kept, tmp_path):
    path = tmp_path / "events.csv"
    path.write_bytes(left if isinstance(left, bytes) else left.encode())
    with EventTable(path, appends=True) as table:
        table.write(EVENT)
    assert path.read_bytes().decode() == kept + ROW


def test_what_is_cut_off_is_told(tmp_path, caplog):
    path = tmp_path / "events.csv"
    path.write_bytes((HEAD + ROW[:20]).encode())
    EventTable(path, appends=True).close()
    assert f"{path} ended in half a line, which is cut off: 'door,1.2500,3.5000,\"'" in caplog.text


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (
            "video,start_s,end_s,label\na,1,2,b\n",
            "its columns are video,start_s,end_s,label, not video,start_s,end_s,label,",
        ),
        ("yesterday", "its columns are yesterday, not video"),
        ("video;start_s;end_s;label;score\n", "its columns are video;start_s"),
    ],
)
def test_other_columns_are_not_appended_to(left, words, tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(left)
    with pytest.raises(FileExistsError, match=re.escape(f"events.csv is there already, and {words}")):
        EventTable(path, appends=True)
    assert path.read_text() == left


@pytest.mark.parametrize("half", ["", '{"source": "door", "ti', '{"source": "door"}', 50 * "\0"])
def test_lines_are_appended_to(half, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": "door"}\n' + half)
    with JsonLines(path, ["a", "b"], appends=True) as lines:
        lines.write(update())
        lines.write_state("door", "lost", "the cable")
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line.get("state", line.get("seconds")) for line in found] == [None] * (2 if half[-1:] == "}" else 1) + [
        1.25,
        "lost",
    ]
    path.write_text("notes\n")
    with pytest.raises(FileExistsError, match="it begins with 'notes', which is no line of answers"):
        JsonLines(path, ["a", "b"], appends=True)


def test_a_long_table_is_read_at_its_ends_alone(tmp_path):
    path = tmp_path / "events.csv"
    path.write_bytes((HEAD + 60_000 * ROW + ROW[:9]).encode())
    with EventTable(path, appends=True) as table:
        table.write(EVENT)
    assert path.read_bytes().decode() == HEAD + 60_001 * ROW


def test_a_name_with_the_date(tmp_path, monkeypatch):
    """Another file on another day, appended to after a restart; other signs of a name stay."""
    when = datetime(2026, 1, 31, 18, 5, 9)
    assert dated("a-%Y%m%d/%H%M%S-100%.csv", when) == Path("a-20260131/180509-100%.csv")
    day = ["31"]
    monkeypatch.setattr(writers, "dated", lambda path: Path(str(path).replace("%d", day[0])))
    for _ in range(2):
        day[0] = "31"
        with EventTable(tmp_path / "new" / "e-%d.csv") as table:
            table.write(EVENT)
            day[0] = "01"
            table.write(EVENT)
    for name in ("e-31.csv", "e-01.csv"):
        assert (tmp_path / "new" / name).read_text(encoding="utf-8") == HEAD + 2 * ROW


def test_a_table_that_is_moved_away_is_begun_again(tmp_path):
    """As by a program that rotates logs."""
    path = tmp_path / "events.csv"
    with EventTable(path) as table:
        table.write(EVENT)
        path.rename(tmp_path / "events.csv.1")
        table.write(EVENT)
        path.unlink()
        table.write(EVENT)
        path.write_bytes(b"")  # what "copytruncate" leaves
        table.write(EVENT)
    assert path.read_text(encoding="utf-8") == (tmp_path / "events.csv.1").read_text(encoding="utf-8") == HEAD + ROW


# ---- a full disk


@contextlib.contextmanager
def room_for(size):
    """No file of this process grows beyond so many bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_wait_for_room(tmp_path):
    """Nothing is lost, nothing written twice, and what is on the disk ends in a whole line."""
    path = tmp_path / "events.csv"
    with EventTable(path) as table:
        with room_for(100):
            table.write(EVENT)
            for _ in range(2):
                with pytest.raises(OSError, match=r"events\.csv cannot be written any further \(File too large"):
                    table.write(EVENT)
        assert path.read_text(encoding="utf-8") == HEAD + ROW
        table.write(replace(EVENT, label="b"))
    assert path.read_text(encoding="utf-8") == HEAD + 3 * ROW + "door,1.2500,3.5000,b,0.8750\n"


def test_lines_wait_for_room_from_the_begin_to_the_end(tmp_path):
    with room_for(3):
        table = EventTable(tmp_path / "events.csv")
        with pytest.raises(OSError, match="cannot be written any further"):
            table.write(EVENT)
    table.close()
    assert (tmp_path / "events.csv").read_text(encoding="utf-8") == HEAD + ROW


def test_lines_that_found_no_room_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "MOST_WAITING", 2 * len(ROW.encode()))
    with room_for(3):
        table = EventTable(tmp_path / "events.csv")
        for _ in range(5):
            with pytest.raises(OSError, match="cannot be written any further"):
                table.write(EVENT)
        with pytest.raises(OSError, match=r"\(File too large\); 5 lines could not be written"):
            table.close()
    assert (tmp_path / "events.csv").read_bytes() == b""


def test_a_picture_that_finds_no_room_is_named(tmp_path):
    with room_for(50), pytest.raises(OSError, match=r"door_0001\.25s_.*\.jpg cannot be written \(File too large"):
        Snapshots(tmp_path).write("door", EVENT, np.zeros((60, 80, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


# ---- two at once


def a_table(path):
    return EventTable(path, appends=True)


def json_lines(path):
    return JsonLines(path, ["a", "прыжок"])


@pytest.mark.skipif(os.name != "posix", reason="Windows has no flock")
@pytest.mark.parametrize(("make", "written"), [(a_table, EVENT), (json_lines, update())], ids=["table", "lines"])
def test_a_second_writer_of_the_same_file_is_refused_at_once(make, written, tmp_path):
    """What the first has written, and writes then, stays whole, also where the second would begin the file anew."""
    path, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(path)
    with make(path) as first:
        first.write(written)
        for name in (path, link):
            with pytest.raises(OSError, match=f"{name} is being written by another process.*choose another name"):
                make(name)
        first.write(written)
    assert len(path.read_text().splitlines()) == 2 + (make is a_table)
    with make(path) as second:  # once the first has ended
        second.write(written)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no flock")
def test_a_table_of_another_process_that_begins_at_midnight_waits(tmp_path, monkeypatch):
    """The name of the new day is taken: lines wait, and are written once it is free."""
    day = ["30"]
    monkeypatch.setattr(writers, "dated", lambda path: Path(str(path).replace("%d", day[0])))
    with EventTable(tmp_path / "%d.csv") as table:
        table.write(EVENT)
        with EventTable(tmp_path / "31.csv") as other:
            other.write(EVENT)
            day[0] = "31"
            with pytest.raises(OSError, match=r"31\.csv is being written by another process"):
                table.write(EVENT)
        table.write(EVENT)
    assert len((tmp_path / "30.csv").read_text().splitlines()) == 2
    assert len((tmp_path / "31.csv").read_text().splitlines()) == 4


@pytest.mark.skipif(os.name != "posix", reason="Windows has no flock")
def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with EventTable(tmp_path / "a.csv") as table:
        table.write(EVENT)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 2


@pytest.mark.skipif(os.name != "posix", reason="Windows has no flock")
def test_a_second_recording_of_the_same_name_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with Recorder(path) as first:
        first.write(0.0, np.zeros((32, 32, 3), np.uint8))
        for _ in range(300):
            if path.exists():
                break
            time.sleep(0.01)
        with pytest.raises(OSError, match=r"a\.mp4 is being written by another process.*choose another name"):
            Recorder(path)
        first.write(1.0, np.zeros((32, 32, 3), np.uint8))
    with open_video(path) as video:
        assert len(video) == 2


def test_two_recordings_that_begin_at_once_have_two_names(tmp_path):
    """Both of what is live: neither has a file yet when the other one looks for a free name."""
    path = tmp_path / "a.mp4"
    with Recorder(path, keeps=True) as first, Recorder(path, keeps=True) as second:
        taken = [first._next_path(), second._next_path()]
    assert taken[0] == path
    assert taken[1] != path


# ---- pictures


def test_no_picture_takes_another_ones_name(tmp_path):
    pictures = Snapshots(tmp_path, keeps=True)
    made = [pictures.write("door", EVENT, grey(value)).name for value in (10, 20, 30)]
    assert made == [f"door_0001.25s_прыжок___high{number}.jpg" for number in ("", "_2", "_3")]
    assert np.asarray(Image.open(tmp_path / made[0])).mean() == pytest.approx(10, abs=3)


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


def shown(path):
    """Seconds and grey values of a recording."""
    with open_video(path) as video:
        means = video.frames_at(range(len(video))).images.float().mean((1, 2, 3))
        return [round(float(s), 3) for s in video.times_s], [round(float(mean) / 5) for mean in means]


def test_a_recording_goes_on_in_another_file(tmp_path):
    """Every picture is in one of them, each file begins at 0, and none takes the name of another."""
    (tmp_path / "out.mp4").write_text("of an earlier run")
    for _ in range(2):
        with Recorder(tmp_path / "out.mp4", segment_s=1.0, keeps=True) as recorder:
            for i in range(10):
                recorder.write(2 + i / 4, grey(5 * i))
        assert (recorder.frames, recorder.files) == (10, 3)
    files = sorted(path for path in tmp_path.iterdir() if path.name != "out.mp4")
    assert all(re.fullmatch(r"out_\d{8}-\d{6}(_\d+)?\.mp4", path.name) for path in files)
    assert (tmp_path / "out.mp4").read_text() == "of an earlier run"
    found = sorted(shown(path) for path in files)
    ((first, _), (other, _)) = found[-2:]
    assert first == other == [0, 2.25, 2.5, 2.75]  # a second of the first file is one of the source
    assert [values for _, values in found] == [[8, 9]] * 2 + [[4, 5, 6, 7]] * 2 + [[0, 1, 2, 3]] * 2
    assert [times for times, _ in found[:4]] == [[0, 0.25]] * 2 + [[0, 0.25, 0.5, 0.75]] * 2


def test_a_recording_of_files_with_the_date(tmp_path, monkeypatch):
    names = iter(["a", "a", "b"])
    monkeypatch.setattr(writers, "dated", lambda path: Path(str(path).replace("%d", next(names))))
    with Recorder(tmp_path / "%d" / "out.mp4", segment_s=1.0) as recorder:  # the first name is asked for its folder
        for i in range(8):
            recorder.write(i / 4, grey(5 * i))
    assert [shown(tmp_path / name / "out.mp4")[1] for name in "ab"] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_recording_that_finds_no_room_goes_on_with_the_next_file(tmp_path):
    """What fitted plays; the end of the file is told once."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 128, 160, 3), dtype=np.uint8)
    with Recorder(tmp_path / "out.mp4", segment_s=10.0) as recorder:
        with room_for(60_000):
            errors = []
            for i in range(36):
                try:
                    recorder.write(i / 4, noise[i % 9])
                except OSError as error:
                    errors.append(str(error))
            while recorder._waiting.qsize():
                time.sleep(0.01)
            time.sleep(0.1)
        for i in range(4):
            try:
                recorder.write(20 + i / 4, grey(5 * i, 128, 160))
            except OSError as error:
                errors.append(str(error))
    assert len(errors) == 1
    assert "out.mp4 cannot be recorded any further: File too large" in errors[0]
    assert recorder.has_failed
    assert recorder.files == 2
    assert shown(recorder.newest) == ([0, 0.25, 0.5, 0.75], [0, 1, 2, 3])


def test_a_disk_without_any_room_is_left_without_a_file(tmp_path):
    with (
        room_for(0),
        pytest.raises(OSError, match="cannot be recorded any further"),
        Recorder(tmp_path / "a.mp4") as one,
    ):
        one.write(0, grey(0))
    assert list(tmp_path.iterdir()) == []


def test_seconds_of_a_file_are_above_0(tmp_path):
    with pytest.raises(ValueError, match="segment_s is 0"):
        Recorder(tmp_path / "out.mp4", segment_s=0)


def test_recordings_are_mp4(tmp_path):
    with pytest.raises(ValueError, match=r"out\.avi: recordings are mp4 files"):
        Recorder(tmp_path / "out.avi")


KILLED = """
import os, signal, sys, time
import numpy as np
from vidact.stream.window.writers import Recorder
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
