"""Work by several processes: Ctrl-C at any moment is for the parent alone, and an estimate times work, not start-up."""

import contextlib
import dataclasses
import errno
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from vidact import files, jobs
from vidact.jobs import Meter
from vidact.video.numbered import write_numbered_video

ROOT = Path(__file__).parents[1]

# A worker that takes long to start, as one that imports torch does, and says when it has begun to.
SLOW_START = """
import signal, sys, time
from pathlib import Path
if __name__ != "__main__":
    Path(sys.argv[1], "starting").touch()
    time.sleep(1)
import multiprocessing
from vidact import jobs

def start():
    return work

def work(job, tell):
    time.sleep(30)

def process(number):
    time.sleep(30)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    try:
        if sys.argv[2] == "pool":
            list(jobs.run(start, [1, 2, 3], workers=2))
        else:
            context = jobs.process_context(sys.argv[2])
            started = [context.Process(target=process, args=(number,), daemon=True) for number in range(2)]
            for one in started:
                one.start()
            for one in started:
                one.join()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130)
"""


def interrupted(args, is_time, tmp_path):
    """Exit status and stderr of a command after Ctrl-C, which a terminal sends to every process of the group."""
    with (tmp_path / "stderr").open("w+") as said:
        process = subprocess.Popen(
            args, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PWD": str(tmp_path), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        end = time.monotonic() + 120
        while not is_time() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        assert process.poll() is None, (tmp_path / "stderr").read_text()
        os.killpg(process.pid, signal.SIGINT)
        try:
            status = process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        return status, said.read()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Ctrl-C is sent to a process group")
@pytest.mark.parametrize(
    "how", ["pool", *(pytest.param(how, marks=pytest.mark.slow) for how in ("spawn", "forkserver"))]
)
def test_ctrl_c_while_processes_start(how, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SLOW_START)
    status, said = interrupted(
        [sys.executable, str(script), str(tmp_path), how], (tmp_path / "starting").exists, tmp_path
    )
    assert (status, said) == (130, "stopped\n")


class Numbered(NamedTuple):
    """A job that is a number, and what becomes of it."""

    number: int
    fate: str = ""

    @property
    def label(self) -> str:
        return f"job {self.number}"


class OddError(Exception):
    """An error that cannot be sent to another process as it is."""

    def __init__(self, number, word):
        super().__init__(f"{word} {number}")


def doubling():
    """Make the work: twice the number, in a process that is told by ``fate`` to fail."""
    pid = os.getpid()

    def work(job, tell):
        assert os.getpid() == pid  # the work was made in the process where it is done
        tell(0.5)
        if job.fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.fate == "disk":
            raise jobs.DiskFullError(errno.ENOSPC, "the disk is full")
        if job.fate == "odd":
            raise OddError(job.number, "odd")
        if job.fate == "eof":
            raise EOFError("an empty file")
        return 2 * job.number

    return work


@pytest.fixture
def quick_workers(tmp_path, monkeypatch):
    """Workers that start in a tenth of the time: what they set in PyTorch and OpenCV, they set in modules of one line.

    Extraction and preparation, which compute, are tested with whole workers.
    """
    for module, function in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        (tmp_path / f"{module}.py").write_text(f"def {function}(number): assert number in (0, 1)\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("workers", [1, 3])
def test_each_job_is_done_once(workers, monkeypatch):
    every = [Numbered(number) for number in range(20)]
    shares = []
    meter = Meter(dict.fromkeys(every, 8))
    monkeypatch.setattr(meter, "move", lambda job, share: shares.append((job, share)))
    results = dict(jobs.run(doubling, every, workers, meter))
    assert results == {job: 2 * job.number for job in every}
    assert {job for job, share in shares if share == 0} == set(every)
    assert meter.began is not None
    assert list(jobs.run(doubling, [], workers)) == []


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(
    ("fate", "kind", "words"),
    [
        ("killed", ChildProcessError, r"the worker at job 2 was ended \(status -9\), perhaps for want of memory"),
        ("disk", jobs.DiskFullError, "the disk is full"),
        ("odd", RuntimeError, r"Traceback(.|\n)*OddError: odd 2"),
        ("eof", EOFError, "an empty file"),
    ],
)
def test_what_ends_the_work_ends_the_run(fate, kind, words):
    with pytest.raises(kind, match=words) as failed:
        list(jobs.run(doubling, [Numbered(1), Numbered(2, fate), Numbered(3)], workers=2))
    if fate == "disk":
        assert failed.value.errno == errno.ENOSPC
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("quick_workers")
def test_a_run_that_is_left_ends_its_workers():
    with contextlib.closing(jobs.run(doubling, [Numbered(number) for number in range(9)], workers=2)) as results:
        next(results)
    assert not multiprocessing.active_children()


def test_shards_have_locks_and_lists_of_their_own(tmp_path):
    one, two, whole = (jobs.Folder(tmp_path, ".extract", shard=shard) for shard in ("1/2", "2/2", "1/1"))
    halves = [tmp_path / name for name in (".9.a.npy", "sub/.123.b.npy", "sub/.7.a.npy")]
    for half in halves:
        half.parent.mkdir(exist_ok=True)
        half.touch()
    with one.locked([tmp_path / "a.npy"]), two.locked():
        # the other shard may be writing what is left, a video of the same name in another folder included
        assert [half.exists() for half in halves] == [False, True, True]
        with pytest.raises(ValueError, match=r"another run is writing shard 2/2 of .*wait for it"):
            two.locked().__enter__()
    with whole.locked():
        for option in ("--out", "--run"):
            with pytest.raises(ValueError, match=rf"another run is writing to .*another {option}$"):
                dataclasses.replace(whole, option=option).locked().__enter__()
    assert not any(half.exists() for half in halves)
    reports = [folder.report_unreadable({"a": "broken"}) for folder in (one, whole)]
    assert [report.name for report in reports] == ["unreadable-1-of-2.json", "unreadable.json"]
    before = reports[0].stat()
    assert one.report_unreadable({"a": "broken"}).stat() == before  # it says so already
    one.report_unreadable({})
    assert [report.exists() for report in reports] == [False, True]


@pytest.mark.parametrize("name", ["a", "folder/a.b", "w" * 241, "w" * 250, "w" * 255])
def test_a_note_of_a_name_of_any_length(name, tmp_path):
    folder = jobs.Folder(tmp_path, ".extract")
    assert folder.read_if_of(name, {}) is None
    folder.finish(name, {"size": 3}, tokens=2)
    assert folder.read_if_of(name, {"size": 3}) == {"size": 3, "tokens": 2}
    assert folder.read_if_of(name, {"size": 4}) is None
    folder.forget(name)
    assert folder.read(name) is None


def test_notes_of_long_names_are_read_as_earlier_versions_wrote_them(tmp_path):
    """With their names in a folder of features, with shortened ones in a set that was prepared."""
    folder = jobs.Folder(tmp_path, ".extract")
    for number, name in enumerate((f"{'w' * 245}.json", f"{files.short_name('v' * 245)}.json")):
        (tmp_path / ".extract" / "done").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".extract" / "done" / name).write_text(json.dumps({"number": number}))
    assert [folder.read(letter * 245) for letter in "wv"] == [{"number": 0}, {"number": 1}]


COMMANDS = {
    "features": "extract features --videos videos --out out --network tsn_resnet_tiny --weights none --workers 2",
    "flow": "extract flow --videos videos --out out --workers 2",
    "transcode": "prepare transcode --data videos --out out --workers 2",
    "check": "prepare check --data videos --out out --workers 2",
    "train": "train --config clip/synthetic/tsm_resnet_tiny --data.root videos --run out --data.num_workers 2 "
             "--data.start_method spawn --trainer.max_epochs 50",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a process's children are read from /proc")
@pytest.mark.parametrize(
    ("command", "seconds"), [("features", 3.0), ("flow", 3.0), ("transcode", 0.0), ("check", 1.0), ("train", 0.0)]
)
def test_ctrl_c_while_a_command_starts_its_processes(command, seconds, tmp_path):
    write_numbered_video(tmp_path / "0.mp4", 300)
    for label in ("jump", "walk"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number in range(60):  # a quick machine is not done with them before Ctrl-C
            shutil.copy(tmp_path / "0.mp4", tmp_path / "videos" / label / f"{number}.mp4")
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # as in SLOW_START
        "from vidact.cli import main; main(sys.argv[1:])"
    )
    args = [sys.executable, "-c", start, *COMMANDS[command].split()]
    started = []

    def workers():
        return [
            path.parent
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"multiprocessing.spawn" in (words := read(path)) and b"resource_tracker" not in words
            and read(path.with_name("environ")).find(b"PWD=" + str(tmp_path).encode()) >= 0
        ]  # fmt: skip

    def is_time():
        if len(workers()) >= 2 and not started:
            started.append(time.monotonic())
        return bool(started) and time.monotonic() - started[0] >= seconds

    def read(path):
        try:
            return path.read_bytes()
        except OSError:
            return b""

    status, said = interrupted(args, is_time, tmp_path)
    assert status == 130, said
    assert "Traceback" not in said
    assert len(re.findall("^stopped", said, re.M)) == 1
    end = time.monotonic() + 60
    while workers() and time.monotonic() < end:
        time.sleep(0.1)
    assert not workers(), "a worker outlives its parent"


def test_every_command_says_that_it_was_stopped(monkeypatch, capsys):
    from vidact import cli

    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("vidact.commands.fuse.main", stop)
    with pytest.raises(SystemExit) as left:
        cli.main(["fuse"])
    assert left.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped"


def test_a_library_that_swallows_ctrl_c_makes_it_no_error(monkeypatch, capsys):
    """Some catch everything while they are imported, and what they left half done fails a moment later."""
    from vidact import cli

    def command(args):
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        raise ImportError('generic_type: type "ObjSense" is already registered!')

    monkeypatch.setattr("vidact.commands.fuse.main", command)
    # What other tests of this process left behind must not count: a handler of their own, or a blocked signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as left:
        cli.main(["fuse"])
    assert left.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_command_says_that_it_loads(monkeypatch, capsys):
    """As soon as PyTorch is imported, which takes seconds; never without it, or where a process has it already."""
    from vidact import cli

    def command(args: list[str]) -> None:
        if args:
            importlib.util.find_spec("torch")  # the first step of its import

    monkeypatch.setattr("vidact.commands.fuse.main", command)
    cli.main(["fuse", "heavy"])
    assert capsys.readouterr().err == ""
    monkeypatch.delitem(sys.modules, "torch")
    cli.main(["fuse"])
    assert capsys.readouterr().err == ""
    cli.main(["fuse", "heavy"])
    assert capsys.readouterr().err == "vidact fuse: loading …\n"
    monkeypatch.setenv("LOCAL_RANK", "1")  # one of several processes: the first one says it
    cli.main(["fuse", "heavy"])
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------------ estimates


class Time:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("vidact.jobs.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Time(monkeypatch)


def test_start_up_is_not_work(clock, capsys):
    """Ten seconds of imports before the first of 200 equal videos of half a second: 99 s are left, not 35 minutes."""
    meter = Meter(dict.fromkeys(map(str, range(200)), 1))
    clock.now += 10
    meter.begin()
    meter.move("0", 0.0)
    for number in range(20):
        clock.now += 0.5
        meter.finish(str(number), f"{number}: done")
    lines = capsys.readouterr().err.splitlines()
    assert "left" not in lines[0]  # half a second of work says nothing of a minute and a half
    assert lines[-1].startswith("20/200 videos  10%, 1.5 min left")


def test_what_a_worker_has_in_hand_counts(clock, capsys):
    """One video of an hour: its progress is the run's."""
    meter = Meter({"long": 1000})
    meter.begin(clock.now)
    clock.now += 60
    meter.move("long", 0.25)
    assert "0/1 videos  25%, 3.0 min left" in capsys.readouterr().err
    clock.now += 180
    meter.finish("long")
    assert "1/1 videos 100%" in capsys.readouterr().err


def test_work_of_another_process_begins_when_it_says(clock, capsys):
    meter = Meter(dict.fromkeys(range(10), 1))
    clock.now += 30
    meter.begin(clock.now - 4)  # told with the first result
    meter.finish(0, "first")
    meter.begin(clock.now - 1)  # a later job of another worker changes nothing
    assert "1/10 videos  10%, 36 s left" in capsys.readouterr().err


NO_GUARD = """
import functools
from vidact import jobs

def make(data):
    return lambda job, tell: len(data)

class Job(str):
    label = "a.mp4"

print(list(jobs.run(functools.partial(make, bytes(1 << 20)), [Job("a"), Job("b")], workers=2)))
"""


def test_a_script_without_a_guard_is_told_so(tmp_path):
    """Its workers run the script again and end at once; what is sent to them is larger than a pipe holds."""
    script = tmp_path / "script.py"
    script.write_text(NO_GUARD)
    ended = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert re.search(
        r"ChildProcessError: the worker at a\.mp4 ended with status 1; .*if __name__ == \"__main__\"", last
    )
