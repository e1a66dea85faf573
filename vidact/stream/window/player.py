"""The player of ``vidact stream``: frames, answers and states of the sources become pictures, lines and files."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidact.events import Detection
from vidact.stream.engine import Engine, StreamUpdate, run
from vidact.stream.grabs import Grab, Source
from vidact.stream.model import StreamModel
from vidact.stream.window.overlay import History, Panel, blend, enlarge, render, render_waiting
from vidact.stream.window.process import Window
from vidact.stream.window.writers import EventTable, JsonLines, Recorder, Snapshots
from vidact.text.names import counted

LATENCIES = 10_000  # the closing line's percentiles are of so many of the newest answers
WAITING_FRAMES = 32  # of a file whose answers are held back: a token of 60 frames/s at 2 answers/s
# The outputs, by their names in messages.
LINES, TABLE, SNAPSHOTS = "the JSON lines", "the table of events", "the pictures of events"
STANDARD_OUTPUT = "the standard output"
NO_SCORE = (0.0, 0, 0.0)  # a score, the index of its action, and the second


class States:
    """The changes of the sources' states, in order, from any thread; they wait until ``send_to`` names a receiver.

    ``names`` are the sources' names by their positions in the command.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.failed: list[str] = []
        self._waiting: list[tuple[int, str, str]] = []
        self._receive: Callable[[str, str, str], None] | None = None
        self._lock = threading.Lock()

    def of(self, number: int, name: str | None = None) -> Callable[[str, str], None]:
        """Return the function that ``open_source`` takes as ``on_state``."""
        if name is not None:
            self.names[number] = name

        def report(state: str, why: str) -> None:
            with self._lock:
                self._waiting.append((number, state, why))
                self.failed += [self.names[number]] if state == "failed" else []
                self._deliver()

        return report

    def send_to(self, receive: Callable[[str, str, str], None]) -> None:
        """Call ``receive(name, state, why)`` for the changes that wait and, from any thread, for all later ones."""
        with self._lock:
            self._receive = receive
            self._deliver()

    def _deliver(self) -> None:
        if self._receive is None:
            return
        for number, state, why in self._waiting:
            self._receive(self.names[number], state, why)
        self._waiting.clear()


class Stop:
    """A callable that ends a run in order: it closes the sources, so that the engine ends the current events."""

    def __init__(self) -> None:
        self._sources: list[Source] | None = None  # None: nothing runs yet
        self._has_been_called = self._has_signal = False

    def __call__(self) -> None:
        self._has_been_called = True
        for source in self._sources or []:
            source.close()

    @contextlib.contextmanager
    def on_signals(self, sources: list[Source]) -> Iterator[None]:
        """Within the block Ctrl-C, SIGTERM and the end of the terminal close the sources; a second one interrupts."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup sets that
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        self._sources = sources
        if self._has_been_called:  # the window was closed before there was a source
            self()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._has_signal:
            raise KeyboardInterrupt
        self._has_signal = True
        # A source may be waiting in this very thread with its lock held, so another thread closes it.
        threading.Thread(target=self, daemon=True).start()


class Picture:
    """The frames of one source with the newest answer drawn on them, for the window and the recording.

    A frame is shown when its answer has been given, so that no answer waits for the drawing. The answers of a file that
    is played as fast as it is read come a token late; its frames wait for them, so that the recording is the same as in
    real time.

    Args:
        title: the title of the window: the source's name.
        model: the model of the answers.
        seconds: the length of the timeline.
        window: the window that shows the frames; None shows none.
        record: a function that records a frame with its seconds; None records none.
        holds_back: whether the answers come a token late.
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
        # A token is complete with the frame that comes at the instant of its last slot, or after it; its answer comes
        # with the token ``delay`` tokens later.
        self._given_after_s = (1 + model.delay) * self.history.period_s - (1 + 1e-3) / model.fps
        self._newest: StreamUpdate | None = None
        self._before: StreamUpdate | None = None  # the answer before the newest one, which may be withdrawn
        self._waiting: deque[Grab] = deque()
        self._panels: tuple[tuple[int, ...], list[Panel]] | None = None  # with the shape of their frames

    def frame(self, grab: Grab) -> None:
        """Add a frame whose answer, if it completes a token, has been added."""
        if not (self.window or self.record):
            return
        self._waiting.append(grab)
        while len(self._waiting) > (WAITING_FRAMES if self.holds_back else 0):
            self._show(self._waiting.popleft())

    def answer(self, update: StreamUpdate) -> None:
        """Draw this answer on the frames that follow."""
        if self.holds_back:  # frames that come before this answer, if played in real time, show the previous one
            given_s = update.seconds + self._given_after_s
            while self._waiting and self._waiting[0].seconds < given_s:
                self._show(self._waiting.popleft())
        self.history.add(update)
        if update.is_withdrawn:
            self._newest = self._before
        else:
            self._before = self._before if update.is_repeat else self._newest
            self._newest = update
        self._panels = None

    def drawn(self, image: np.ndarray) -> np.ndarray:
        """Return a copy of the image with the newest answer drawn on it."""
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


class Player:
    """One run, which shows and writes the frames, the answers and the states of the sources.

    An output that cannot be written, because the disk is full or its reader has gone, is reported in one line that
    names the file, and all else goes on; when no output is left, the run ends.

    Args:
        model: the model of the answers.
        sources: the sources by their positions in the command.
        states: the changes of the sources' states.
        window: the window that shows the frames; None shows none.
        count: how many sources the command names, those that did not open included; default: as many as ``sources``.
        limit_s: the run ends after this many seconds of each source; None: at its end.
        jsonl: file of the answers, one JSON object a line; "-" is the standard output.
        events: table of the events.
        record: an mp4 for each source of the command; none: nothing is recorded.
        segment_s: seconds after which a recording goes on in another file.
        snapshots: folder for a picture of each event.
        timeline_s: seconds that the picture's timeline covers.

    Raises FileExistsError where a live source's lines would be appended to a file of other contents.
    """

    def __init__(
        self,
        model: StreamModel,
        sources: dict[int, Source],
        states: States,
        *,
        window: Window | None = None,
        count: int | None = None,
        limit_s: float | None = None,
        jsonl: str | None = None,
        events: Path | None = None,
        record: Sequence[Path] = (),
        segment_s: float = 3600.0,
        snapshots: Path | None = None,
        timeline_s: float = 10.0,
    ) -> None:
        self.model, self.sources, self.states, self.window = model, sources, states, window
        self.count = len(sources) if count is None else count
        self.limit_s = limit_s
        self.line_stream = sys.stderr if jsonl == "-" else sys.stdout
        # Files can be played again, so their answers replace those of an earlier run; those of a live source stay.
        keeps = any(source.is_live for source in sources.values())
        # A recorder makes no file before its first frame.
        self.recorders = {number: Recorder(record[number], segment_s, keeps) for number in sources if record}
        self.pictures: dict[str, Picture] = {}
        self.by_name: dict[str, Source] = {}
        self.numbers: dict[str, int] = {}
        self.first_s: dict[str, float] = {}
        with contextlib.ExitStack() as stack:
            self.lines = stack.enter_context(JsonLines(jsonl, model.classes, keeps)) if jsonl else None
            self.table = stack.enter_context(EventTable(events, keeps)) if events else None
            self.snapshots = stack.enter_context(Snapshots(snapshots, keeps)) if snapshots else None
            stack.pop_all()
        self.timeline_s = timeline_s
        self.answers = self.events = self.dropped = self.withdrawn = 0
        # The highest score of an action, its index and its second; and those of the newest answer of each source, which
        # may still be withdrawn.
        self.highest = NO_SCORE
        self.newest: dict[str, tuple[float, int, float]] = {}
        self.played_s: dict[str, float] = {}  # the seconds that were played of each source
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self.has_failed = False
        self.has_lost_reader = False  # whether the reader of the standard output has gone
        self.failing: set[str] = set()  # the outputs that could not be written the last time
        self._writing = threading.RLock()  # needed because states come from the sources' threads
        self.started_s = time.monotonic()

    def play(self) -> None:
        """Play until all sources have ended."""
        names = ", ".join(source.name for source in self.sources.values())
        self.print_line(
            f"{names}: {self.model.words}, on {self.model.device}; Ctrl-C{' or q' if self.window else ''} ends"
        )
        live = [source for source in self.sources.values() if source.is_live]
        timers = [threading.Timer(self.limit_s, source.close) for source in live if self.limit_s]
        for timer in timers:  # a stream that stalls delivers no frame at which it could be ended
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
            self.states.send_to(self.state)
            yield from run(source, self.model, on_answered=self.frame)
            return
        with Engine(self.model, on_answered=self.frame, on_error=self._fail) as engine:
            for number, source in self.sources.items():
                self._join(engine.add(source), number)
            self.states.send_to(self.state)
            yield from engine.updates()

    def _join(self, name: str, number: int) -> None:
        source = self.by_name[name] = self.sources[number]
        self.numbers[name], self.states.names[number] = number, name
        recorder = self.recorders.get(number)
        record = functools.partial(self._write, f"recording {number}", recorder.write) if recorder else None
        holds_back = not (source.is_live or source.realtime)  # as the engine does for a file that is not paced
        self.pictures[name] = Picture(name, self.model, self.timeline_s, self.window, record, holds_back)

    def _fail(self, name: str, error: Exception) -> None:
        print(f"{name}: {error}", file=sys.stderr)
        self.states.of(self.numbers[name])("failed", str(error))

    def state(self, name: str, state: str, why: str) -> None:
        """Write that a source was lost, is back, or has failed; may be called from any thread."""
        if lines := self.lines:
            self._write(LINES, lines.write_state, name, state, why)

    def frame(self, name: str, grab: Grab) -> None:
        """Handle a frame, after the answers that came with it."""
        first_s = self.first_s.setdefault(name, grab.seconds)
        self.played_s[name] = grab.seconds - first_s
        if self.limit_s is not None and grab.seconds - first_s >= self.limit_s:
            self.by_name[name].close()
            return
        self.pictures[name].frame(grab)

    def answer(self, update: StreamUpdate) -> None:
        """Handle an answer."""
        picture = self.pictures[update.source]
        picture.answer(update)
        self.dropped += update.dropped
        self.events += len(update.events)
        if self.lines:
            self._write(LINES, self.lines.write, update)
        newest = self.newest.pop(update.source, NO_SCORE)
        if update.is_withdrawn:
            self.withdrawn += 1
        else:
            self.highest = max(self.highest, newest)
        if not update.is_repeat:
            self.answers += 1
            self.latencies.append(update.latency_ms)
            index = int(np.argmax(update.scores[1:]))
            self.newest[update.source] = float(update.scores[1 + index]), index, update.seconds
        for event in update.events:
            line = f"{event.label} was seen from {event.start_s:.2f} to {event.end_s:.2f} s ({event.score:.0%})"
            self.print_line(self._with_time(event, update, line))
            if self.table:
                self._write(TABLE, self.table.write, event)
        for event in update.opened:
            self.print_line(self._with_time(event, update, f"{event.label} begins ({event.score:.0%})"))
            if self.snapshots:
                image = picture.drawn(update.image)
                self._write(SNAPSHOTS, self.snapshots.write, self._short(event.video), event, image)

    def _write(self, output: str, write: Callable[..., object], *arguments: Any) -> None:
        """Write to an output; report where it begins to fail, and where it can be written again."""
        with self._writing:
            try:
                write(*arguments)
            except BrokenPipeError:
                self._lose_reader(output)
            except OSError as error:
                if output not in self.failing:
                    is_stdout = output == STANDARD_OUTPUT or (output == LINES and self.line_stream is sys.stderr)
                    reason = error.strerror or str(error)
                    self._report(f"{STANDARD_OUTPUT} cannot be written ({reason})" if is_stdout else reason)
                self.failing.add(output)
                self.has_failed = True
            else:
                # A recorder only queues a picture, so its success is not known yet.
                if output in self.failing and output in (LINES, TABLE, SNAPSHOTS):
                    self.failing.discard(output)
                    self._report(f"{output} can be written again")

    def _lose_reader(self, output: str) -> None:
        """Give up an output whose reader has gone, as with ``| head -1``; end the run where no output is left."""
        is_stdout = output == STANDARD_OUTPUT or self.line_stream is sys.stderr
        if output == LINES:
            self.lines = None
            self._report("nobody reads the JSON lines any more")
        self.has_lost_reader = self.has_lost_reader or is_stdout
        if not any([self.lines, self.table, self.snapshots, self.window, *self.recorders.values()]):
            for source in self.sources.values():
                source.close()

    def _report(self, message: str) -> None:
        with contextlib.suppress(OSError):  # the reader of the errors may have gone too
            print(message, file=sys.stderr, flush=True)

    def _short(self, name: str) -> str:
        """Return a source's name without folders, for the name of a file; with a number where there are several."""
        short = Path(name).stem or name
        return short if self.count == 1 else f"{self.numbers[name] + 1}-{short}"

    def _with_time(self, event: Detection, update: StreamUpdate, line: str) -> str:
        """Return the line with the time and, where there are several sources, the source in front of it."""
        source = f"  {event.video}" if self.count > 1 else ""
        return f"{update.seconds + 1 / self.model.tokens_per_second:9.2f} s{source}  {line}"

    def print_line(self, line: str) -> None:
        """Print a line for the user."""
        if self.has_lost_reader and self.line_stream is sys.stdout:
            return
        encoding = getattr(self.line_stream, "encoding", None) or "utf-8"  # a terminal's may lack letters of a label
        text = line.encode(encoding, "backslashreplace").decode(encoding)
        self._write(STANDARD_OUTPUT, functools.partial(print, text, file=self.line_stream, flush=True))

    def close(self) -> None:
        """Show and write what is waiting, close all files, and print a summary."""
        for picture in self.pictures.values():
            picture.flush()
        for number, recorder in self.recorders.items():
            self._write(f"recording {number}", recorder.close)
        for output, writer in ((LINES, self.lines), (TABLE, self.table), (SNAPSHOTS, self.snapshots)):
            if writer is not None:
                self._write(f"{output} at the end", writer.close)
        took_s = time.monotonic() - self.started_s
        self.highest = max(self.highest, *self.newest.values(), NO_SCORE)
        figures = [counted(self.answers - self.withdrawn, "answer"), counted(self.events, "event")]
        figures += [f"{counted(self.withdrawn, 'early answer')} withdrawn"] if self.withdrawn else []
        figures.append(f"{counted(self.dropped, 'frame')} dropped")
        if self.latencies:
            middle, high = np.percentile(self.latencies, [50, 95])
            figures.append(f"latency p50 {middle:.0f} ms, p95 {high:.0f} ms")
        figures.append(f"{sum(self.played_s.values()):.1f} s of video in {took_s:.1f} s")
        self.print_line("; ".join(figures))
        if self.answers > self.withdrawn and not self.events:
            score, index, seconds = self.highest
            self.print_line(
                f"the highest score was {score:.0%}, {self.model.classes[index]} at {seconds:.2f} s; an event of it "
                f"begins at {self.model.detector.on[index]:.0%} (--threshold)"
            )
        for recorder in self.recorders.values():
            if recorder.frames and not recorder.has_failed:
                files = f" to {recorder.newest} ({recorder.files} files)" if recorder.files > 1 else ""
                self.print_line(f"recorded: {recorder.first}{files}, {counted(recorder.frames, 'frame')}")
