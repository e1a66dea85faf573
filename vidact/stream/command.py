"""``vidact stream``: what happens before a camera, in a file or on the network, named while it happens."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vidact.data.event_list import load_videos
from vidact.data.time_origin import TimeOrigin
from vidact.device import refuse_device
from vidact.events import Detection
from vidact.models.weights import read
from vidact.stream.engine import Engine, StreamUpdate, run
from vidact.stream.grabs import Grab, Source
from vidact.stream.model import GAP_S, StreamModel, load_model
from vidact.stream.sources import is_live_address, open_source, without_certificates
from vidact.stream.window.overlay import History, Panel, blend, enlarge, render, render_waiting
from vidact.stream.window.process import Window
from vidact.stream.window.writers import EventTable, JsonLines, Recorder, Snapshots, dated, refuse_taken
from vidact.text.addresses import Parser, public, without_secrets
from vidact.text.names import counted
from vidact.video.clock import LONGEST_GAP_S
from vidact.video.decode import VideoError


def _open_onnx(checkpoint: Path, **settings: Any) -> StreamModel:
    from vidact.export.runtime import load_onnx

    return load_onnx(checkpoint, **settings)


# What opens a checkpoint: each takes it and the keywords extractor, events and device, and gives a StreamModel.
RUNTIMES: dict[str, Callable[..., StreamModel]] = {"torch": load_model, "onnx": _open_onnx}
DEMO = Path("runs/demo")  # where ``vidact demo`` leaves what it made
LATENCIES = 10_000  # the newest so many answers make the closing line's percentiles
LONGEST_TIMELINE_S = 3600.0
WAITING_FRAMES = 32  # of a file whose answers are held back: a token of 60 frames/s at 2 answers/s
# What is written, in the words in which it is told that it cannot be.
LINES, TABLE, SNAPSHOTS = "the JSON lines", "the table of events", "the pictures of events"
WORDS = "the standard output"
NO_CHECKPOINT = """a stream needs a trained network: --checkpoint runs/…/checkpoints/best.ckpt. Ways to one:
  vidact demo
      makes videos and trains small networks on them: to see what it is, in minutes
  vidact train --config clip/folder/tsm_causal_mobilenetv2 --data.root my_clips
      a recogniser that answers frame by frame, from one folder of clips for each action
  vidact extract features --videos my_videos --out my_videos/features
  vidact train --config online/fir/miniroad --data.root my_videos
      an online detector, from long videos with events.csv (video,start_s,end_s,label) and videos.csv (video,split)"""


def main(args: Sequence[str]) -> int:
    """``vidact stream``: 0, or 1 when one of several sources failed or something could not be written; an error that
    ends all is raised."""
    asked = parse(args)
    stop, states = Stop(), States()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_messages())
        window = None if asked.no_window else stack.enter_context(Window(on_close=stop))
        model = RUNTIMES[asked.runtime](
            asked.checkpoint, extractor=asked.extractor, events=events_at(asked.threshold), device=asked.device
        )
        model.longest_gap_s = asked.longest_gap
        sources = open_sources(asked, stack, states)
        session = Session(asked, model, sources, states, window)
        try:
            with stop.on_signals(list(sources.values())), contextlib.closing(session):
                session.play()
        finally:
            if session.is_unheard or WORDS in session.troubles:  # or the interpreter complains of it at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if session.has_failed or states.failed else 0


def open_sources(asked: argparse.Namespace, stack: contextlib.ExitStack, states: States) -> dict[int, Source]:
    """The sources by their places in the command, closed with ``stack``.

    The only source has to open. Of several, a camera or address that does not open now is tried again while the others
    are watched, and a file that cannot be read is left out; one that is not there, or a wrong kind of address, is a
    typing mistake, and an error.
    """
    sources: dict[int, Source] = {}
    errors: list[Exception] = []
    for number, uri in enumerate(asked.source):
        # A file that is as fast as it is read; what is live always runs in real time.
        options: dict[str, Any] = {"realtime": None if asked.fast else True}
        if is_live_address(uri):
            options |= {"on_state": states.of(number), "waits": len(asked.source) > 1}
        if uri in asked.insecure:
            options["verify"] = False
        if asked.time_origin != "first_frame":
            options["time_origin"] = asked.time_origin
        try:
            source = open_source(uri, **options)
        except (VideoError, PermissionError) as error:
            if len(asked.source) == 1:
                raise
            errors.append(error)
            print(f"left out: {error}", file=sys.stderr)
            states.of(number, without_secrets(uri))("failed", str(error))
        else:
            sources[number] = stack.enter_context(source)
            states.names.setdefault(number, source.name)
    if not sources:
        raise errors[0]
    return sources


class States:
    """What became of the sources, from their threads, in the order in which it happened; kept until somebody takes it.

    ``names`` are the sources' names by their places in the command.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.failed: list[str] = []
        self._kept: list[tuple[int, str, str]] = []
        self._take: Callable[[str, str, str], None] | None = None
        self._lock = threading.Lock()

    def of(self, number: int, name: str | None = None) -> Callable[[str, str], None]:
        """What ``open_source`` takes as ``on_state``."""
        if name is not None:
            self.names[number] = name

        def report(state: str, why: str) -> None:
            with self._lock:
                self._kept.append((number, state, why))
                self.failed += [self.names[number]] if state == "failed" else []
                self._give()

        return report

    def go_to(self, take: Callable[[str, str, str], None]) -> None:
        """From now on ``take(name, state, why)`` is called, from any thread; first with what was kept."""
        with self._lock:
            self._take = take
            self._give()

    def _give(self) -> None:
        if self._take is None:
            return
        for number, state, why in self._kept:
            self._take(self.names[number], state, why)
        self._kept.clear()


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The options, with --source and --runtime filled in; raises ValueError for what cannot be."""
    parser = Parser(
        prog="vidact stream",
        description="Name the actions of a camera, a file or a network stream while they happen.",
        epilog="q in the window, Ctrl-C or SIGTERM ends it; everything is then written out. JSON lines and events are "
        "written as they happen. Of a recording that is killed, all but the last seconds plays. What a live source "
        "left in an earlier run stays: lines are appended, recordings and pictures get other names. A name may hold "
        "the date: --events events-%%Y%%m%%d.csv.",
    )
    parser.add_argument("--checkpoint", type=Path, help="best.ckpt of a run, or a .safetensors that vidact saved")
    parser.add_argument(
        "--source", action="append", metavar="SOURCE",
        help="a camera's number (default 0), a video file, a folder, or rtsp://, http:// …; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--insecure-source", action="append", default=[], metavar="SOURCE",
        help="one of the https or rtsps sources, whose certificate is not looked at",
    )  # fmt: skip
    parser.add_argument("--no-window", action="store_true", help="show nothing, for machines without a display")
    parser.add_argument("--fast", action="store_true", help="play files as fast as they are computed")
    parser.add_argument(
        "--time_origin", "--time-origin", choices=get_args(TimeOrigin), default="first_frame",
        help="from where a file's seconds count: its first picture (default), or the file's begin, as players count",
    )  # fmt: skip
    parser.add_argument("--jsonl", metavar="FILE", help="one JSON object an answer; - is the standard output")
    parser.add_argument("--events", type=Path, metavar="FILE", help="a table of the events: an events.csv with scores")
    parser.add_argument(
        "--record", type=Path, metavar="FILE",
        help="an mp4 of what the window shows; of several sources one each, FILE-1.mp4 and so on",
    )  # fmt: skip
    parser.add_argument(
        "--record-segment", type=_duration, default="1h", metavar="TIME",
        help="a recording goes on in another file after so long: 90s, 30m, 1h (default), 1d",
    )  # fmt: skip
    parser.add_argument("--snapshots", type=Path, metavar="FOLDER", help="a picture of each event when it begins")
    parser.add_argument("--seconds", type=float, help="end after so many seconds of each source")
    parser.add_argument("--threshold", type=float, help="probability at which an event begins; default: as tuned")
    parser.add_argument(
        "--longest-gap", type=float, metavar="SECONDS",
        help="a source that shows nothing for longer begins anew; default: as the features were made for a file, else "
        f"{LONGEST_GAP_S:g}, and {GAP_S:g} for what is live",
    )  # fmt: skip
    parser.add_argument("--timeline", type=float, default=10.0, help="seconds that the picture shows (default 10)")
    parser.add_argument(
        "--extractor", type=Path, help="the extractor of a detector's features, if not in the checkpoint"
    )
    parser.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
    parser.add_argument(
        "--runtime", choices=sorted(RUNTIMES), help="what computes; default: onnx for an .onnx file, else torch"
    )
    asked = parser.parse_args(args)
    if asked.checkpoint is None:
        raise ValueError(_without_checkpoint(args))
    if asked.seconds is not None and not 0 < asked.seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"--seconds is {asked.seconds:g}; give a number above 0")
    if not 0 < asked.timeline <= LONGEST_TIMELINE_S:
        raise ValueError(f"--timeline is {asked.timeline:g}; give seconds above 0, at most {LONGEST_TIMELINE_S:g}")
    if asked.longest_gap is not None and not 0 < asked.longest_gap < math.inf:
        raise ValueError(f"--longest-gap is {asked.longest_gap:g}; give seconds above 0")
    events_at(asked.threshold)  # before anything is opened
    is_onnx = asked.checkpoint.suffix == ".onnx"
    asked.runtime = asked.runtime or ("onnx" if is_onnx else "torch")
    if is_onnx and asked.runtime != "onnx":
        raise ValueError(f"{asked.checkpoint} runs in onnxruntime; leave --runtime {asked.runtime} out")
    refuse_device(asked.device)
    asked.source = asked.source or ["0"]
    asked.insecure = without_certificates(asked.insecure_source, {public(uri): uri for uri in asked.source})
    asked.record = _numbered(asked.record, len(asked.source))
    _refuse_overwriting(asked)
    return asked


def events_at(threshold: float | None) -> dict[str, Any]:
    """What --threshold sets of a model's events."""
    if threshold is None:
        return {}
    if not 0 < threshold <= 1:
        raise ValueError(f"--threshold is {threshold:g}; a threshold on probabilities is above 0 and at most 1")
    return {"on": threshold, "off": None}


def _duration(text: str) -> float:
    """Seconds of "90", "90s", "30m", "1h", "1d"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time above 0; write 90s, 30m, 1h or 1d")
    return seconds


def _without_checkpoint(args: Sequence[str]) -> str:
    """What a user without a checkpoint reads: ways to one, and the demo's where there is one."""
    try:
        checkpoint, shown = demo_model()
    except ValueError:
        return NO_CHECKPOINT
    has_source = any(word.split("=")[0] == "--source" for word in args)
    sources = [] if has_source else [word for path in shown.values() for word in ("--source", path)]
    command = shlex.join(["vidact", "stream", "--checkpoint", str(checkpoint), *sources, *args])
    return f"{NO_CHECKPOINT}\nThe demo has left one, which knows the actions of its own videos alone:\n  {command}"


def demo_model(demo: Path = DEMO) -> tuple[Path, dict[str, str]]:
    """The newest detector of ``vidact demo``, and a video that it was not trained on: what it is, and its path.

    Raises ValueError, with ways to a network, where the demo has left no detector.
    """
    found = sorted(demo.glob("*/checkpoints/best.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    checkpoint = next((path for path in found if "features" in (read(path)[1] or {})), None)
    if checkpoint is None:
        raise ValueError(NO_CHECKPOINT)
    table = demo / "untrimmed" / "videos.csv"
    if not table.exists():
        return checkpoint, {}
    tested = [table.parent / video for video, split in load_videos(table).items() if split == "test"]
    return checkpoint, {"a video of the demo": str(tested[0])} if tested else {}


def _refuse_overwriting(asked: argparse.Namespace) -> None:
    """No file is a folder, written twice, by another process, over a source, or among the files of a folder that is a
    source.
    """
    taken: dict[Path, str] = {}
    outputs = [("--record", path) for path in asked.record]
    outputs += [("--events", asked.events), ("--snapshots", asked.snapshots)]
    outputs += [("--jsonl", Path(asked.jsonl))] if asked.jsonl not in (None, "-") else []
    sources = {Path(uri).resolve(): uri for uri in asked.source if "://" not in uri}
    for option, path in outputs:
        if path is None:
            continue
        path = dated(path)
        if option == "--snapshots" and path.is_file():
            raise ValueError(f"--snapshots is {path}, which is a file; name a folder for the pictures")
        if option != "--snapshots" and path.is_dir():
            raise ValueError(f"{option} is {path}, which is a folder; name a file, in it or elsewhere")
        if option in ("--events", "--jsonl"):  # a recording may get another name
            refuse_taken(path)
        place = path.resolve()
        if place in taken:
            raise ValueError(f"{taken[place]} and {option} are both {path}; give each its own name")
        taken[place] = option
        if place in sources:
            raise ValueError(f"{option} is {path}, which is a source; choose another name, or it would be overwritten")
        if option != "--snapshots" and place.parent in sources:
            raise ValueError(
                f"{option} is {path}, inside the source {sources[place.parent]}, whose files are played; "
                "choose a name outside it"
            )


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """What the sources and the engine tell, a line each: lost, back, damaged."""
    log, handler = logging.getLogger("vidact.stream"), logging.StreamHandler(sys.stderr)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class Stop:
    """Ends a run in order: the sources close, so that the engine ends the events that are going on."""

    def __init__(self) -> None:
        self._sources: list[Source] | None = None  # None: nothing runs yet
        self._has_been_called = self._is_asked = False

    def __call__(self) -> None:
        self._has_been_called = True
        for source in self._sources or []:
            source.close()

    @contextlib.contextmanager
    def on_signals(self, sources: list[Source]) -> Iterator[None]:
        """Meanwhile Ctrl-C, SIGTERM and the end of the terminal close the sources; a second one interrupts at once."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._ask) for number in numbers}
        self._sources = sources
        if self._has_been_called:  # the window was closed before there was a source
            self()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        # A source may be waiting in this very thread with its lock held, so another thread closes it.
        threading.Thread(target=self, daemon=True).start()


class Picture:
    """One source's frames with the newest answer drawn on them, to the window and into the recording.

    A frame is shown when the next one comes: by then there is the answer to it. The answers of a file that is played as
    fast as it is read come a token late; its frames wait for them, so that the recording is the same as in real time.

    Args:
        title: of the window: the source's name.
        model: what answers.
        seconds: of the timeline.
        window: where frames are shown; None shows none.
        record: what keeps them, with their seconds; None keeps none.
        holds_back: the answers come a token late.
    """

    def __init__(
        self,
        title: str,
        model: StreamModel,
        seconds: float,
        window: Window | None,
        record: Callable[[float, np.ndarray], None] | None,
        holds_back: bool,
    ) -> None:
        self.title, self.classes = title, model.classes
        self.history = History(model.tokens_per_second, seconds, model.future_offsets or None)
        self.window, self.record, self.holds_back = window, record, holds_back
        # A token is complete with the frame that comes at the instant of its last slot, or after it.
        self._last_slot_s = (1 + 1e-3) / model.fps
        self._newest: StreamUpdate | None = None
        self._waiting: deque[Grab] = deque()
        self._panels: tuple[tuple[int, ...], list[Panel]] | None = None  # for frames of this shape

    def frame(self, grab: Grab) -> None:
        if not (self.window or self.record):
            return
        self._waiting.append(grab)
        while len(self._waiting) > (WAITING_FRAMES if self.holds_back else 1):
            self._show(self._waiting.popleft())

    def answer(self, update: StreamUpdate) -> None:
        if self.holds_back:  # the frames before this one's last slot show the answer before
            complete_s = update.seconds + self.history.period_s - self._last_slot_s
            while self._waiting and self._waiting[0].seconds < complete_s:
                self._show(self._waiting.popleft())
        self.history.add(update)
        self._newest, self._panels = update, None

    def drawn(self, image: np.ndarray) -> np.ndarray:
        frame = enlarge(image)
        if self._panels is None or self._panels[0] != frame.shape:
            height, width = frame.shape[:2]
            if self._newest is None:
                panels = render_waiting(width, height)
            else:
                panels = render(self._newest, self.classes, self.history, width, height)
            self._panels = frame.shape, panels
        return blend(frame, self._panels[1])

    def flush(self) -> None:
        """Show the frames that wait."""
        while self._waiting:
            self._show(self._waiting.popleft())

    def _show(self, grab: Grab) -> None:
        image = self.drawn(grab.image)
        if self.window:
            self.window.show(self.title, image)
        if self.record:
            self.record(grab.seconds, image)


class Session:
    """One run: what becomes of the frames, the answers and the states of the sources.

    What cannot be written, because the disk is full or whoever read it has gone, is told in one line that names the
    file, and all else goes on; when nobody hears anything any more, the run ends.

    Args:
        sources: by their places in the command.

    Raises FileExistsError where a live source's lines would be appended to a file of other contents.
    """

    def __init__(
        self,
        asked: argparse.Namespace,
        model: StreamModel,
        sources: dict[int, Source],
        states: States,
        window: Window | None,
    ) -> None:
        self.model, self.sources, self.states, self.window = model, sources, states, window
        self.count = len(asked.source)
        self.limit_s: float | None = asked.seconds
        self.say_to = sys.stderr if asked.jsonl == "-" else sys.stdout
        # What a file showed can be played again, so its answers replace those of an earlier run.
        keeps = any(source.is_live for source in sources.values())
        segment_s = asked.record_segment
        # They make no file before the first frame.
        self.recorders = {
            number: Recorder(asked.record[number], segment_s, keeps) for number in sources if asked.record
        }
        self.pictures: dict[str, Picture] = {}
        self.by_name: dict[str, Source] = {}
        self.numbers: dict[str, int] = {}
        self.first_s: dict[str, float] = {}
        with contextlib.ExitStack() as stack:
            self.lines = stack.enter_context(JsonLines(asked.jsonl, model.classes, keeps)) if asked.jsonl else None
            self.table = stack.enter_context(EventTable(asked.events, keeps)) if asked.events else None
            self.snapshots = stack.enter_context(Snapshots(asked.snapshots, keeps)) if asked.snapshots else None
            stack.pop_all()
        self.timeline_s: float = asked.timeline
        self.answers = self.events = self.dropped = 0
        self.shown_s: dict[str, float] = {}  # how far each source came
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self.has_failed = False
        self.is_unheard = False  # whoever read the standard output has gone
        self.troubles: set[str] = set()  # what could not be written the last time
        self._writing = threading.RLock()  # states come from the sources' threads
        self.began = time.monotonic()

    def play(self) -> None:
        """Until all sources have ended."""
        names = ", ".join(source.name for source in self.sources.values())
        self.say(
            f"{names}: {len(self.model.classes)} classes, {self.model.tokens_per_second:g} answers/s, on "
            f"{self.model.device}; Ctrl-C{' or q' if self.window else ''} ends"
        )
        live = [source for source in self.sources.values() if source.is_live]
        timers = [threading.Timer(self.limit_s, source.close) for source in live if self.limit_s]
        for timer in timers:  # a stream that stalls shows no frame by which it could be ended
            timer.daemon = True
            timer.start()
        try:
            for update in self._updates():
                self.answer(update)
        finally:
            for timer in timers:
                timer.cancel()

    def _updates(self) -> Iterator[StreamUpdate]:
        if self.count == 1:
            ((number, source),) = self.sources.items()
            self._join(source.name, number)
            self.states.go_to(self.state)
            yield from run(source, self.model, on_frame=self.frame)
            return
        with Engine(self.model, on_frame=self.frame, on_error=self._fail) as engine:
            for number, source in self.sources.items():
                self._join(engine.add(source), number)
            self.states.go_to(self.state)
            yield from engine.updates()

    def _join(self, name: str, number: int) -> None:
        source = self.by_name[name] = self.sources[number]
        self.numbers[name], self.states.names[number] = number, name
        recorder = self.recorders.get(number)
        record = functools.partial(self._write, f"recording {number}", recorder.write) if recorder else None
        holds_back = not (source.is_live or source.realtime)  # what the engine does with a file that is not paced
        self.pictures[name] = Picture(name, self.model, self.timeline_s, self.window, record, holds_back)

    def _fail(self, name: str, error: Exception) -> None:
        print(f"{name}: {error}", file=sys.stderr)
        self.states.of(self.numbers[name])("failed", str(error))

    def state(self, name: str, state: str, why: str) -> None:
        """A source was lost, is back, or has failed; from any thread."""
        if lines := self.lines:
            self._write(LINES, lines.write_state, name, state, why)

    def frame(self, name: str, grab: Grab) -> None:
        """A frame came, before the engine looks at it."""
        first_s = self.first_s.setdefault(name, grab.seconds)
        self.shown_s[name] = grab.seconds - first_s
        if self.limit_s is not None and grab.seconds - first_s >= self.limit_s:
            self.by_name[name].close()
            return
        self.pictures[name].frame(grab)

    def answer(self, update: StreamUpdate) -> None:
        """An answer came."""
        picture = self.pictures[update.source]
        picture.answer(update)
        self.dropped += update.dropped
        self.events += len(update.events)
        if not update.is_repeat:
            self.answers += 1
            self.latencies.append(update.latency_ms)
        for event in update.events:
            words = f"{event.label} was seen from {event.start_s:.2f} to {event.end_s:.2f} s ({event.score:.0%})"
            self.say(self._placed(event, update, words))
            if self.table:
                self._write(TABLE, self.table.write, event)
        for event in update.opened:
            self.say(self._placed(event, update, f"{event.label} begins ({event.score:.0%})"))
            if self.snapshots:
                image = picture.drawn(update.image)
                self._write(SNAPSHOTS, self.snapshots.write, self._short(event.video), event, image)
        if self.lines:
            self._write(LINES, self.lines.write, update)

    def _write(self, what: str, write: Callable[..., object], *given: Any) -> None:
        """Write something; the first time that it cannot be is told."""
        with self._writing:
            try:
                write(*given)
            except BrokenPipeError:
                self._unheard(what)
            except OSError as error:
                if what not in self.troubles:
                    is_stdout = what == WORDS or (what == LINES and self.say_to is sys.stderr)
                    words = error.strerror or str(error)
                    self._tell(f"{WORDS} cannot be written ({words})" if is_stdout else words)
                self.troubles.add(what)
                self.has_failed = True
            else:
                # A recorder that was given a picture has not written it yet.
                if what in self.troubles and what in (LINES, TABLE, SNAPSHOTS):
                    self.troubles.discard(what)
                    self._tell(f"{what} can be written again")

    def _unheard(self, what: str) -> None:
        """Whoever read these lines has gone, as with ``| head -1``. When nothing is left that is kept, all ends."""
        is_stdout = what == WORDS or self.say_to is sys.stderr
        if what == LINES:
            self.lines = None
            self._tell("nobody reads the JSON lines any more")
        self.is_unheard = self.is_unheard or is_stdout
        if not any([self.lines, self.table, self.snapshots, self.window, *self.recorders.values()]):
            for source in self.sources.values():
                source.close()

    def _tell(self, words: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads the errors either
            print(words, file=sys.stderr, flush=True)

    def _short(self, name: str) -> str:
        """For a file's name: the source's own without folders; numbered where there are several."""
        short = Path(name).stem or name
        return short if self.count == 1 else f"{self.numbers[name] + 1}-{short}"

    def _placed(self, event: Detection, update: StreamUpdate, words: str) -> str:
        source = f"  {event.video}" if self.count > 1 else ""
        return f"{update.seconds + 1 / self.model.tokens_per_second:9.2f} s{source}  {words}"

    def say(self, words: str) -> None:
        if self.is_unheard and self.say_to is sys.stdout:
            return
        encoding = getattr(self.say_to, "encoding", None) or "utf-8"  # of a terminal that lacks letters of a label
        text = words.encode(encoding, "backslashreplace").decode(encoding)
        self._write(WORDS, functools.partial(print, text, file=self.say_to, flush=True))

    def close(self) -> None:
        """Show and write what is waiting, close all files, and say how it was."""
        for picture in self.pictures.values():
            picture.flush()
        for number, recorder in self.recorders.items():
            self._write(f"recording {number}", recorder.close)
        for what, writer in ((LINES, self.lines), (TABLE, self.table), (SNAPSHOTS, self.snapshots)):
            if writer is not None:
                self._write(f"{what} at the end", writer.close)
        took_s = time.monotonic() - self.began
        words = [counted(self.answers, "answer"), counted(self.events, "event")]
        words.append(f"{counted(self.dropped, 'frame')} dropped")
        if self.latencies:
            middle, high = np.percentile(self.latencies, [50, 95])
            words.append(f"latency p50 {middle:.0f} ms, p95 {high:.0f} ms")
        words.append(f"{sum(self.shown_s.values()):.1f} s of video in {took_s:.1f} s")
        self.say("; ".join(words))
        for recorder in self.recorders.values():
            if recorder.frames and not recorder.has_failed:
                files = f" to {recorder.newest} ({recorder.files} files)" if recorder.files > 1 else ""
                self.say(f"recorded: {recorder.first}{files}, {counted(recorder.frames, 'frame')}")


def _numbered(path: Path | None, count: int) -> list[Path]:
    """One path a source."""
    if path is None or count == 1:
        return [path] if path else []
    return [path.with_name(f"{path.stem}-{number + 1}{path.suffix}") for number in range(count)]
