"""The engine turns the frames of any number of sources into an output for each token.

    frames → clock → chunk → extractor → detector.step → events          an online detector, its extractor's tokens
    frames → clock → frame → network.step → the last T frames → events    a causal TSM, a TSN, a stream MoViNet

Each source has its own clock, state and events. The networks are shared: the sources that have a token at the moment go
through them in one batch. A file has the outputs that extraction and scoring give for it (law 3). No queue grows: the
next frame of a source is requested when the one before is done, so a slow machine makes a live source drop frames. A
slot that shows the frame of the slot before is not computed again, so a machine that is too slow for the tokens' rate
processes fewer distinct frames and does not fall behind.

A token of a live source is answered early, where the networks do not use the last frames of its chunk: as soon as the
slot of the newest frame that they use is certain (``Clock.push``). No later frame can change that slot, so the answer
is the one that the full chunk has. It is provisional until the chunk is full, since a file that ends inside a chunk has
no token there. Then the state and the events step, and the events that this opens or closes are yielded. If the source
ends or is lost before, the answer is withdrawn, and the state and the events are as they were before it.

A detector with a ``delay`` (``vidact.models.online``) answers a token when that many later ones have come, or when its
source ends, pauses or is lost. Each answer has the time of the token that it is for, and events follow from it.

Shapes: K actions (1 + K with the background), L tokens ahead, B streams that have a token at the same time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vidact.events import Detection, EventState, EventUpdate
from vidact.models.online import State, one_stream, stack_states
from vidact.video.clock import Chunker, Clock, Slot

if TYPE_CHECKING:
    from vidact.stream.grabs import Grab
from vidact.stream.model import StreamModel, model_of, traits_of

log = logging.getLogger("vidact.stream")


@dataclass(frozen=True, eq=False)
class StreamUpdate:
    """The output for one token of one source.

    Args:
        source: the source's name.
        seconds: the start of the token in the source's own seconds; a token lasts ``1 / tokens_per_second``.
        scores: probabilities (1 + K,), the background first. A recogniser of clips has no background: its first
            column is 0.
        events: the events that ended, in the source's seconds, each once.
        opened: the events that have just become certain, with their times so far; each is among ``events`` later.
        future: probabilities (L, 1 + K) of later tokens where the network predicts them; ``StreamModel.future_offsets``
            says how many tokens later.
        latency_ms: milliseconds from the capture of the newest frame that was used of this token until the output. It
            contains the time that a detector with a ``delay`` waits for later tokens.
        dropped: frames that the source dropped since the update before.
        image: the newest frame, uint8 RGB (H, W, 3); it may be a little newer than the frames used.
        is_last: the source has ended, and ``events`` holds what its end closed. For a file this is the update of its
            last token. A live source, whose end cannot be foreseen, gets one more, which repeats the last scores.
        is_repeat: the update has no token of its own: time and scores are those of the newest answer, and it holds the
            events that were opened or closed when the chunk of an early answer became full, or that the silence of a
            live source, or its end, closed.
        is_provisional: the answer is early: the chunk of its token is not full yet. ``opened`` and ``events`` hold
            nothing of this token; where it opens or closes events, an update with ``is_repeat`` follows. The answer
            stays, unless an update with ``is_withdrawn`` follows.
        is_withdrawn: the newest answer, which was provisional, is withdrawn: the source ended, or paused, before the
            chunk was full. Time and scores repeat those of that answer, and ``is_repeat`` is True too.
    """

    source: str
    seconds: float
    scores: np.ndarray
    events: list[Detection]
    opened: list[Detection]
    future: np.ndarray | None
    latency_ms: float
    dropped: int
    image: np.ndarray
    is_last: bool = False
    is_repeat: bool = False
    is_provisional: bool = False
    is_withdrawn: bool = False


# ---------------------------------------------------------------------------------------------- streams


class _Frame(NamedTuple):
    """An item of the clock: the image (3, H, W) and the time of its capture."""

    image: Tensor
    captured: float


class _Token(NamedTuple):
    """A token that can be answered."""

    seconds: float
    images: list[Tensor]  # those that the networks use
    captured: float  # when the newest of them was captured
    is_early: bool  # the chunk is not full


class _Waiting(NamedTuple):
    """A token whose answer needs later ones."""

    seconds: float
    captured: float


class _Step(NamedTuple):
    """The results of a token, which take effect when its chunk is full."""

    state: State
    events: EventUpdate
    event_state: EventState
    waiting: tuple[_Waiting, ...]


class _Provisional(NamedTuple):
    """The results of a token whose chunk is not full."""

    step: _Step
    has_answered: bool  # whether there was an update: the first tokens of a detector with a delay have none
    before: StreamUpdate | None  # the newest update before it


class Stream:
    """The clock, state and events of one source. ``Streams`` steps it."""

    def __init__(self, name: str, model: StreamModel, is_live: bool, holds_back: bool) -> None:
        self.name, self.model, self.is_live, self.holds_back = name, model, is_live, holds_back
        # The number of slots of a chunk after which it is answered early; None: each chunk is answered when it is full.
        needed = max(1, 1 + max(model.places))
        self.early_slots = needed if is_live and not holds_back and model.early and needed < model.chunk else None
        self.dropped = 0
        self.image: np.ndarray | None = None  # the newest frame
        self.closing: list[Detection] = []  # events that ended and are not in an update yet
        self.opening: list[Detection] = []  # events that became certain and are not in an update yet
        self.newest: StreamUpdate | None = None
        self.news: deque[StreamUpdate] = deque()  # updates on early answers, which wait to be yielded
        self.held: StreamUpdate | None = None  # a file's update waits until it is clear whether it is the last
        self.reset()

    def reset(self) -> None:
        """Reset the clock, the state and the events, as before the first frame."""
        self.clock, self.chunker = Clock(self.model.fps), Chunker(self.model.chunk, self.model.history)
        self._reset_state(None)
        self.last_s = 0.0
        # Complete chunks that wait, each behind its history. The first one of a take has the take's start, others None.
        self.chunks: deque[tuple[list[Slot], float | None]] = deque()
        self.partial: list[Slot] = []  # the newest chunk and its history, if it can be answered early
        self.provisional: _Provisional | None = None  # the answer of the chunk that is not full yet
        self.take_begin_s: float | None = None  # the start of a take that has no chunk yet

    def _reset_state(self, begin_s: float | None) -> None:
        """Reset the network's state and the events. They begin at ``begin_s``; None: at the next frame."""
        self.state = self.model.network.initial_state(1)
        self.event_state = self.model.detector.initial_state(self.name)
        self.waiting: tuple[_Waiting, ...] = ()  # tokens whose answers come with later ones, the oldest first
        self.begin_s = begin_s
        self.last_images: list[Tensor] = []
        self.input: Tensor | None = None  # the network's input that was made of them

    def push(self, grab: Grab) -> None:
        """Add a frame; the chunks that it completes wait in ``chunks``, one to be answered early in ``partial``."""
        image = np.asarray(grab.image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"{self.name}: a frame is a uint8 RGB array (H, W, 3); that of {grab.seconds:.3f} s is "
                f"{image.dtype} {image.shape}"
            )
        pause_s, longest_s = grab.seconds - self.last_s, self.model.filled_s(self.is_live)
        if self.begin_s is not None and (pause_s > longest_s or (self.is_live and pause_s < 0)):
            write = log.info if self.is_live else log.warning
            write("%s: nothing from %.1f s to %.1f s; it begins anew", self.name, self.last_s, grab.seconds)
            self._pause(grab.seconds)
        if self.begin_s is None:
            self.begin_s = grab.seconds
        self.last_s, self.image = grab.seconds, image
        self.dropped += grab.dropped
        tensor = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        self._chunk(self.clock.push(grab.seconds, _Frame(tensor, grab.captured)))

    def _pause(self, begin_s: float) -> None:
        """End the take and begin another. The state is reset with the first token of the new take, since tokens of the
        old one may still wait."""
        self.finish()
        self.clock, self.chunker = Clock(self.model.fps), Chunker(self.model.chunk, self.model.history)
        self.take_begin_s = begin_s

    def finish(self, end_s: float | None = None) -> None:
        """End the frames; the last one ends at ``end_s``, None where that is not known."""
        self._chunk(self.clock.finish(end_s))
        self.partial = []
        if self.provisional is not None:
            if self.provisional.has_answered:
                self.news.append(self.repeated(is_withdrawn=True))
            self.newest, self.provisional = self.provisional.before, None

    def _chunk(self, slots: list[Slot]) -> None:
        for slot in slots:
            if chunk := self.chunker.push(slot):
                self.partial = []
                if self.provisional is not None:
                    self._confirm(self.provisional)
                    continue
                self.chunks.append((chunk, self.take_begin_s))
                self.take_begin_s = None
            elif self.chunker.count == self.early_slots:
                self.partial = self.chunker.slots

    def _confirm(self, provisional: _Provisional) -> None:
        """Let the newest answer stay, since its chunk is full."""
        self.provisional = None
        self._accept(provisional.step)
        if (self.opening or self.closing) and self.newest is not None:
            self.news.append(self.repeated())

    def _accept(self, step: _Step) -> None:
        self.state, self.event_state, self.waiting = step.state, step.event_state, step.waiting
        self.closing += [self._in_source_time(event) for event in step.events.closed]
        self.opening += [self._in_source_time(event) for event in step.events.opened]

    @property
    def is_ready(self) -> bool:
        """Whether a token can be answered."""
        return bool(self.chunks or self.partial)

    def take(self) -> _Token:
        """Return the oldest token that can be answered."""
        is_early = not self.chunks
        if is_early:
            span, begin_s = self.partial, self.take_begin_s
            self.partial, self.take_begin_s = [], None
        else:
            span, begin_s = self.chunks.popleft()
        if begin_s is not None:
            self._end_take()
            self._reset_state(begin_s)
        history = self.model.history
        frames = [span[history + index].image for index in self.model.places]
        last = frames[-1]
        # Where a source changes its size (a phone that is turned), the first frame of the new size replaces older ones.
        same_size = next(frame for frame in frames if frame.image.shape == last.image.shape)
        images = [(frame if frame.image.shape == last.image.shape else same_size).image for frame in frames]
        return _Token(span[history].time_s, images, max(frame.captured for frame in frames), is_early)

    def repeats(self, images: list[Tensor]) -> bool:
        """Store the images; return whether they are those of the token before: one frame may fill several slots."""
        same = self.input is not None and all(new is old for new, old in zip(images, self.last_images, strict=True))
        self.last_images = images
        return same

    def update(self, token: _Token, scores: np.ndarray, future: np.ndarray | None, state: State) -> StreamUpdate | None:
        """Return the update that comes with a token, and step the state and the events, now or when its chunk is full.

        The update is for the token ``delay`` tokens before; None where the take has no such token.
        """
        waiting = (*self.waiting, _Waiting(token.seconds, token.captured))
        before, answered = self.newest, None
        events, event_state = EventUpdate([], []), self.event_state
        if len(waiting) > self.model.delay:
            answered, *rest = waiting
            waiting = tuple(rest)
            events, event_state = self.model.detector.step(scores, self.event_state)
        step = _Step(state, events, event_state, waiting)
        if token.is_early:
            self.provisional = _Provisional(step, answered is not None, before)
        else:
            self._accept(step)
        return None if answered is None else self._new_update(answered, scores, future, token.is_early)

    def _new_update(
        self, token: _Waiting, scores: np.ndarray, future: np.ndarray | None, is_provisional: bool = False
    ) -> StreamUpdate:
        assert self.image is not None
        self.newest = StreamUpdate(
            self.name,
            token.seconds,
            scores,
            self.closing,
            self.opening,
            future,
            1000 * (time.monotonic() - token.captured),
            self.dropped,
            self.image,
            is_provisional=is_provisional,
        )
        self.closing, self.opening, self.dropped = [], [], 0
        return self.newest

    def flush(self) -> list[StreamUpdate]:
        """Return the updates of the tokens that wait for later ones, since none come any more."""
        if not self.waiting:
            return []
        scores, future = self.model.flush(self.state)
        updates, first = [], len(scores) - len(self.waiting)
        for i, token in enumerate(self.waiting, first):
            events, event_state = self.model.detector.step(scores[i], self.event_state)
            self._accept(_Step(self.state, events, event_state, ()))
            updates.append(self._new_update(token, scores[i], None if future is None else future[i]))
        return updates

    def _end_take(self) -> None:
        """Answer the tokens of a take that has ended, and end its events."""
        updates = self.flush()
        self.end_events()
        if updates and self.closing:
            updates[-1] = self.newest = replace(updates[-1], events=[*updates[-1].events, *self.closing])
            self.closing = []
        self.news.extend(updates)

    def end_events(self) -> None:
        """End the events that are still going on."""
        self.closing += [self._in_source_time(event) for event in self.model.detector.finish(self.event_state)]

    def repeated(self, is_last: bool = False, is_withdrawn: bool = False) -> StreamUpdate:
        """Return the newest update again, with the events that began or ended since."""
        assert self.newest is not None
        again = replace(
            self.newest,
            events=self.closing,
            opened=self.opening,
            dropped=self.dropped,
            image=self.newest.image if self.image is None else self.image,
            is_last=is_last,
            is_repeat=True,
            is_provisional=False,
            is_withdrawn=is_withdrawn,
        )
        self.closing, self.opening, self.dropped = [], [], 0
        return again

    def _in_source_time(self, event: Detection) -> Detection:
        """Return an event with times that count from the source's 0, not from where the stream began."""
        begin_s = self.begin_s or 0.0
        return replace(event, start_s=event.start_s + begin_s, end_s=event.end_s + begin_s) if begin_s else event


class Streams:
    """The model with any number of streams, without threads or sources: push frames into each, take ``answers``."""

    def __init__(self, model: StreamModel) -> None:
        self.model = model
        self.streams: dict[str, Stream] = {}

    def join(self, name: str, is_live: bool = False, holds_back: bool | None = None) -> Stream:
        """Add a stream and return it; ``name`` gets a number where another stream has it.

        Args:
            is_live: after a pause of more than 5 s, or when time goes backwards, the stream is reset. A file's pauses
                are filled as extraction fills them (``StreamModel.filled_s``), and its time may not go backwards.
            holds_back: yield each update when the one after it is there, so that the last one can carry ``is_last``.
                None does so for files.
        """
        number, unique = 1, name
        while unique in self.streams:
            number += 1
            unique = f"{name} ({number})"
        self.streams[unique] = Stream(unique, self.model, is_live, not is_live if holds_back is None else holds_back)
        return self.streams[unique]

    def answers(self, among: Sequence[Stream] | None = None) -> Iterator[StreamUpdate]:
        """Yield the updates of all tokens that can be answered, one of every stream that has any at a time.

        Args:
            among: the streams; None is all of them.
        """
        while True:
            streams = list(self.streams.values()) if among is None else among
            for stream in streams:
                while stream.news:
                    yield from self._in_turn(stream, stream.news.popleft())
            if not (ready := [stream for stream in streams if stream.is_ready]):
                return
            for stream, update in zip(ready, self._answer(ready), strict=True):
                if update is not None:
                    yield from self._in_turn(stream, update)

    @staticmethod
    def _in_turn(stream: Stream, update: StreamUpdate) -> Iterator[StreamUpdate]:
        """Yield an update, or the one before it where the stream's updates are held back."""
        if not stream.holds_back:
            yield update
            return
        before, stream.held = stream.held, update
        if before is not None:
            yield before

    def silence(self, stream: Stream) -> Iterator[StreamUpdate]:
        """End the events of a live source that has shown nothing for too long, and reset its stream."""
        log.info("%s: nothing since %.1f s; it begins anew when something comes", stream.name, stream.last_s)
        stream.finish()
        yield from self.answers([stream])
        yield from stream.flush()
        stream.end_events()
        if stream.closing and stream.newest is not None:
            yield stream.repeated()
        stream.reset()

    def leave(self, stream: Stream, end_s: float | None = None) -> Iterator[StreamUpdate]:
        """Remove a stream whose source has ended; yield its last complete tokens and the events that were going on.

        Args:
            end_s: when the last frame ends, see ``Source.end_s``.
        """
        stream.finish(end_s)
        yield from self.answers([stream])
        for update in stream.flush():
            yield from self._in_turn(stream, update)
        stream.end_events()
        del self.streams[stream.name]
        if stream.newest is None:
            log.warning(
                "%s ended after %.2f s without an answer; the first one needs %.2f s",
                stream.name,
                stream.last_s - (stream.begin_s or 0.0),
                1 / self.model.tokens_per_second,
            )
            return
        if stream.held is not None:
            yield replace(stream.held, events=stream.held.events + stream.closing, is_last=True)
        else:
            yield stream.repeated(is_last=True)

    def _answer(self, ready: list[Stream]) -> list[StreamUpdate | None]:
        tokens = [stream.take() for stream in ready]
        fresh = [(s, token.images) for s, token in zip(ready, tokens, strict=True) if not s.repeats(token.images)]
        if fresh:
            inputs = self.model.inputs([self.model.prepare(images) for _, images in fresh])
            for (stream, _), network_input in zip(fresh, inputs, strict=True):
                stream.input = network_input
        batch = torch.stack([stream.input for stream in ready])  # type: ignore[misc]
        # One NaN in a state would stay there, and every later output would be NaN.
        if not (finite := batch.flatten(1).isfinite().all(1)).all():
            at = int((~finite).nonzero()[0])
            raise ValueError(
                f"{ready[at].name}: what the network is given for {tokens[at].seconds:.2f} s is not finite; "
                "look at the extractor's weights. The stream's state is as it was before"
            )
        alone = len(ready) == 1
        state = ready[0].state if alone else stack_states([stream.state for stream in ready])
        scores, future, state = self.model.answer(batch, state)
        updates = []
        for i, (stream, token) in enumerate(zip(ready, tokens, strict=True)):
            after = state if alone else one_stream(state, i)
            updates.append(stream.update(token, scores[i], None if future is None else future[i], after))
        return updates


# ---------------------------------------------------------------------------------------------- sources to updates


def run(
    source: Iterable[Grab],
    model: StreamModel | str | Path | nn.Module,
    *,
    on_frame: Callable[[str, Grab], None] | None = None,
    on_answered: Callable[[str, Grab], None] | None = None,
) -> Iterator[StreamUpdate]:
    """Yield an update for each token of a source, until it ends.

    A source that fails ends as well: its events are yielded, then its error is raised. A file is read in the caller's
    thread; a live source by an ``Engine``, which detects its silence and closes it.

    Args:
        source: the result of ``open_source``, or anything that yields ``Grab``; the caller closes a file. Images are
            kept for the length of a token, so they must not be overwritten.
        model: the result of ``load_model``, or its first argument.
        on_frame: called with the source's name and each frame, before its answer; an answer waits for it.
        on_answered: called in the same way after the updates of that frame: for work that no answer should wait for,
            such as drawing.
    """
    name, is_live, holds_back = traits_of(source)
    if is_live:
        yield from run_many([source], model, on_frame=on_frame, on_answered=on_answered)
        return
    streams = Streams(model_of(model))
    stream = streams.join(name, is_live, holds_back)
    failures: list[Exception] = []
    for grab in _until_it_fails(source, failures):
        if on_frame:
            on_frame(stream.name, grab)
        try:
            stream.push(grab)
        except ValueError as error:
            failures.append(error)
            break
        yield from streams.answers()
        if on_answered:
            on_answered(stream.name, grab)
    yield from streams.leave(stream, getattr(source, "end_s", None))
    if failures:
        raise failures[0]


def _until_it_fails(source: Iterable[Grab], failures: list[Exception]) -> Iterator[Grab]:
    try:
        yield from source
    except Exception as error:  # a camera's library may raise any exception
        failures.append(error)


def run_many(
    sources: Iterable[Iterable[Grab]],
    model: StreamModel | str | Path | nn.Module,
    *,
    on_frame: Callable[[str, Grab], None] | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
    on_answered: Callable[[str, Grab], None] | None = None,
) -> Iterator[StreamUpdate]:
    """Yield the updates of several sources, computed by one batched network, until all have ended; see ``Engine``."""
    with Engine(model, on_frame=on_frame, on_error=on_error, on_answered=on_answered) as engine:
        for source in sources:
            engine.add(source)
        yield from engine.updates()


class Engine:
    """Several sources, each read by a thread of its own, and one batched network in the caller's thread.

    ``with Engine(model) as engine: engine.add(source); for update in engine.updates(): …``

    Sources may be added at any time and from any thread; one that is closed ends. Files advance together, token by
    token, in full batches; live sources do not wait for others. The events of a live source that shows nothing for 5 s
    end then, with one more update.

    Args:
        model: the result of ``load_model``, or its first argument.
        stays: ``updates`` goes on when no source is left, until ``close``: for servers.
        on_frame: called with the source's name and each frame, before its answer; an answer waits for it.
        on_error: called with the source's name and what went wrong, when a source fails: it ends, the others go on.
            None raises the error, which ends all sources.
        on_answered: called with the source's name and each frame after the updates that came with it: for work that no
            answer should wait for, such as drawing.
    """

    def __init__(
        self,
        model: StreamModel | str | Path | nn.Module,
        *,
        stays: bool = False,
        on_frame: Callable[[str, Grab], None] | None = None,
        on_error: Callable[[str, Exception], None] | None = None,
        on_answered: Callable[[str, Grab], None] | None = None,
    ) -> None:
        self.model = model_of(model)
        self.stays, self.on_frame, self.on_error, self.on_answered = stays, on_frame, on_error, on_answered
        self._streams = Streams(self.model)
        self._readers: list[_Reader] = []
        self._inbox: queue.SimpleQueue[tuple[_Reader, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, source: Iterable[Grab]) -> str:
        """Read one more source; return the name of its updates."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the engine is closed; no source can be added")
            reader = _Reader(source, self._streams.join(*traits_of(source)), self._inbox)
            self._readers.append(reader)
            reader.start()
        return reader.stream.name

    def updates(self) -> Iterator[StreamUpdate]:
        """Yield an update for each token of each source."""
        with self._lock:
            awaits_live = self.stays or any(reader.stream.is_live for reader in self._readers)
        if awaits_live:
            self.model.warm_up()
        while frames := self._arrived():
            ended: list[tuple[_Reader, Exception | None]] = []
            for reader, grab in frames.items():
                if grab is _SILENCE:
                    with self._lock:
                        updates = list(self._streams.silence(reader.stream))
                    yield from updates
                    continue
                if grab is None or isinstance(grab, Exception):
                    ended.append((reader, grab))
                    continue
                if self.on_frame:
                    self.on_frame(reader.stream.name, grab)
                try:
                    reader.stream.push(grab)
                except ValueError as error:
                    ended.append((reader, error))
            for reader, why in ended:
                yield from self._end(reader, why)
            with self._lock:
                files = [reader for reader in self._readers if not reader.is_paced]
                complete = all(reader.stream.chunks for reader in files)
                for reader in files:  # the next frames are read while the tokens are computed
                    if complete or not reader.stream.chunks:
                        reader.request()
                answered = None if complete else [r.stream for r in self._readers if r.is_paced]
                answers = list(self._streams.answers(answered))
            yield from answers
            for reader, grab in frames.items():
                if self.on_answered and grab is not _SILENCE and all(reader is not other for other, _ in ended):
                    self.on_answered(reader.stream.name, grab)
            for reader in frames:
                if reader.is_paced:  # requested last, for the newest frame
                    reader.request()

    def close(self) -> None:
        """Close all sources and end ``updates``. May be called from any thread, and twice."""
        with self._lock:
            self._is_closed = True
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.stop()
        self._inbox.put(None)
        for reader in readers:
            reader.join(timeout=2)

    def _arrived(self) -> dict[_Reader, Any]:
        """Wait for the next frame of every file; return these and those of live sources, {} when nothing more comes.

        A live source that has fallen silent has ``_SILENCE`` as its frame.
        """
        frames: dict[_Reader, Any] = {}
        longest_s = min(self.model.filled_s(is_live=True), threading.TIMEOUT_MAX / 2)
        while True:
            with self._lock:
                if self._is_closed or not (self._readers or self.stays):
                    return {}
                waits = any(reader.is_requested and not reader.is_paced for reader in self._readers)
                awaited = [reader for reader in self._readers if reader.can_fall_silent() and reader not in frames]
            if self._inbox.empty():
                now = time.monotonic()
                frames |= {reader: _SILENCE for reader in awaited if now - reader.requested_at > longest_s}
                if frames and not waits:
                    return frames
            # A source is silent only while a frame of it is requested.
            silent_at = min((r.requested_at + longest_s for r in awaited if r not in frames), default=None)
            try:
                left_s = None if silent_at is None else max(0.0, silent_at - time.monotonic()) + 1e-3
                arrived = self._inbox.get(timeout=left_s)
            except queue.Empty:
                continue
            if arrived is None:
                continue  # the engine is closed
            reader, grab = arrived
            reader.is_requested = False
            frames[reader] = grab

    def _end(self, reader: _Reader, why: Exception | None) -> Iterator[StreamUpdate]:
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)
            last = list(self._streams.leave(reader.stream, getattr(reader.source, "end_s", None)))
        reader.stop()
        yield from last
        if why is None:
            return
        if self.on_error is None:
            raise why
        self.on_error(reader.stream.name, why)


_SILENCE = object()  # stands for the frame of a source that has fallen silent


class _Reader(threading.Thread):
    """A thread that reads one frame of its source for each request; it puts None at the end, or the exception."""

    def __init__(self, source: Iterable[Grab], stream: Stream, inbox: queue.SimpleQueue[Any]) -> None:
        super().__init__(name=f"vidact {stream.name}", daemon=True)
        self.source, self.stream, self.inbox = source, stream, inbox
        self.is_paced = stream.is_live or not stream.holds_back
        self.is_requested = True  # a requested frame has not come yet
        self.requested_at = time.monotonic()
        self._requests = threading.Semaphore(1)
        self._is_stopped = False

    def request(self) -> None:
        if not self.is_requested:
            self.is_requested, self.requested_at = True, time.monotonic()
            self._requests.release()

    def can_fall_silent(self) -> bool:
        """Return whether the frame of a live source is awaited whose stream has begun, so that silence ends it."""
        return self.is_requested and self.stream.is_live and self.stream.begin_s is not None

    def stop(self) -> None:
        """Close the source, which ends a read that waits for a frame."""
        self._is_stopped = True
        if close := getattr(self.source, "close", None):
            close()
        self._requests.release()

    def run(self) -> None:
        grabs = None
        while True:
            self._requests.acquire()
            if self._is_stopped:
                return
            grab: Any
            try:
                if grabs is None:
                    grabs = iter(self.source)
                grab = next(grabs, None)
            except Exception as error:  # any exception of a camera's library ends this source and is reported
                grab = error
            self.inbox.put((self, grab))
            if grab is None or isinstance(grab, Exception):
                return
