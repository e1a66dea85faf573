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

LATENCIES = 10_000  # the newest so many answers make the closing line's percentiles
WAITING_FRAMES = 32  # of a file whose answers are held back: a token of 60 frames/s at 2 answers/s
# What is written, in the words in which it is told that it cannot be.
LINES, TABLE, SNAPSHOTS = "the JSON lines", "the table of events", "the pictures of events"
WORDS = "the standard output"


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


class Player:
    """One run: what becomes of the frames, the answers and the states of the sources.

    What cannot be written, because the disk is full or whoever read it has gone, is told in one line that names the
    file, and all else goes on; when nobody hears anything any more, the run ends.

    Args:
        model: what answers.
        sources: by their places in the command.
        states: what became of the sources.
        window: where frames are shown; None shows none.
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
        self.say_to = sys.stderr if jsonl == "-" else sys.stdout
        # What a file showed can be played again, so its answers replace those of an earlier run.
        keeps = any(source.is_live for source in sources.values())
        # They make no file before the first frame.
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
