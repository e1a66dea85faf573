"""The web server's sessions: clients on one side, the network's streams on the other.

Three kinds of threads: the event loop, which only moves messages; the network's thread, in which one ``Engine`` answers
the streams of all sessions in batches; and small pools that decode frames, encode pictures and open or close sources.
Nothing waits for a client: a session has one frame on its way in, a short bounded queue on its way out, and times after
which it is closed.

Over the WebSocket ``/live``, as JSON text unless said otherwise::

    page → server   {"type": "start", "source": "browser" | the number of a named source}, "stop", "end" (a file of the
                    browser is over), "shown" (a picture), "alive"; and frames, binary: seconds as float64, a JPEG
    server → page   "hello" (classes, sources, …), "started", "taken" (a frame: send the next), "answer", "note",
                    "ended"; and pictures of a named source, binary like the frames

A client chooses among the sources named at start by their number; no path, address or playlist of a client is opened.
A fault closes the session, with the reason, and is one line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import cv2

from vidact import __version__
from vidact.stream.engine import Engine, StreamUpdate
from vidact.stream.grabs import Grab, Source
from vidact.stream.live import PushSource
from vidact.stream.model import StreamModel
from vidact.stream.sources import is_live_address, open_source
from vidact.stream.web.limits import Bucket, Fault, Limits, decode_frame
from vidact.stream.web.monitor import Faults, Metrics, one_line
from vidact.video.transform import test_transform

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

log = logging.getLogger("vidact.stream.server")


class _Watched:
    """A source under a name of its own that says when it has ended."""

    def __init__(self, source: Source, name: str, on_end: Callable[[], None]) -> None:
        self.source, self.name, self.on_end = source, name, on_end
        self.is_live, self.realtime = source.is_live, True

    def __iter__(self) -> Iterator[Grab]:
        try:
            yield from self.source
        finally:
            self.on_end()

    def close(self) -> None:
        self.source.close()


class Channel:
    """One stream of the network and the sessions that see it."""

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title
        self.source: Source | None = None
        self.sessions: set[Session] = set()
        self.newest: Grab | None = None
        self.has_been_open = False
        self.looked_at: deque[float] = deque(maxlen=128)  # seconds of recent frames; the network's thread has them
        self.shower: asyncio.Task[None] | None = None


class Studio:
    """The network in its thread, the channels it answers, and the pools. Its methods are the event loop's.

    Args:
        model: what answers.
        sources: by their names, what ``open_source`` takes.
        insecure: those of them whose certificates are not looked at.
    """

    END_S = 2.0  # a source that ended without a last answer has ended after so long

    def __init__(
        self, model: StreamModel, sources: Mapping[str, str], limits: Limits, insecure: Collection[str] = ()
    ) -> None:
        self.model, self.limits = model, limits
        self.names, self.addresses, self.insecure = list(sources), list(sources.values()), insecure
        self.metrics = Metrics()
        self.metrics.set("vidact_info", 1, version=__version__, model=describe(model))
        self.faults = Faults(self.metrics)
        self.sessions: set[Session] = set()
        self.channels: dict[str, Channel] = {}
        self.said: dict[str, tuple[str, str]] = {}  # of a camera or stream that is looked at: its state, and words
        self.shared: dict[int, Channel] = {}  # cameras and streams on the network: one reader for all who look
        self.serial = 0
        self.is_running = False

    # -- its life

    async def __aenter__(self) -> Studio:
        self.loop = asyncio.get_running_loop()
        self.decoding = ThreadPoolExecutor(2, "vidact decode")
        # An address that does not answer holds its thread for seconds. So each session has one, and what browsers
        # wait for has threads of its own.
        self.opening = ThreadPoolExecutor(self.limits.sessions, "vidact sources")
        self.joining = ThreadPoolExecutor(4, "vidact joins")
        self.engine = self._engine()
        self.is_running = True
        self.thread = threading.Thread(target=self._answer, name="vidact network", daemon=True)
        self.thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_running = False
        for channel in list(self.channels.values()):
            self.end(channel, "the server stops")
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self.engine.close()
        self.thread.join(timeout=5)
        for pool in (self.decoding, self.joining, self.opening):
            pool.shutdown(wait=False, cancel_futures=True)

    def _engine(self) -> Engine:
        return Engine(self.model, stays=True, on_frame=self._seen, on_error=self._failed)

    # -- in the network's thread

    def _answer(self) -> None:
        while self.is_running:
            engine = self.engine
            try:
                for update in engine.updates():
                    self._call(self._publish, update, self._captured(update))
            except Exception as error:  # a network that fails ends all streams, and the next ones get a new engine
                log.exception("the network failed")
                self.engine = self._engine()
                self._call(self._all_failed, f"the network failed ({type(error).__name__}); the log says more")
                engine.close()

    def _seen(self, name: str, grab: Grab) -> None:
        self.metrics.add("vidact_frames_total")
        if channel := self.channels.get(name):
            channel.newest = grab
            channel.looked_at.append(grab.seconds)

    def _captured(self, update: StreamUpdate) -> float | None:
        """The source's seconds of the newest frame behind the answer, by which a page tells its latency: the clock
        shows the frame that is nearest to a slot."""
        if (channel := self.channels.get(update.source)) is None:
            return None
        slot_s = update.seconds + max(self.model.places) / self.model.fps
        return min(channel.looked_at, key=lambda seconds: abs(seconds - slot_s), default=None)

    def _failed(self, name: str, error: Exception) -> None:
        self._call(self._source_failed, name, error)

    def _call(self, function: Callable[..., None], *given: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(function, *given)

    # -- in the event loop

    def _publish(self, update: StreamUpdate, captured: float | None) -> None:
        if not update.is_repeat:  # of the one before, to tell what the end or a silence closed
            self.metrics.add("vidact_answers_total")
            self.metrics.latency(update.latency_ms / 1000)
        self.metrics.add("vidact_dropped_frames_total", update.dropped)
        for event in update.opened:
            self.metrics.add("vidact_events_total", label=event.label)
        if (channel := self.channels.get(update.source)) is None:
            return
        answer = {
            "type": "answer",
            "seconds": round(update.seconds, 4),
            "scores": [round(float(score), 4) for score in update.scores],
            "opened": [asdict(event) for event in update.opened],
            "closed": [asdict(event) for event in update.events],
            "future": None
            if update.future is None
            else [[round(float(score), 3) for score in row] for row in update.future],
            "latency_ms": round(update.latency_ms, 1),
            "captured": captured,
        }
        for session in list(channel.sessions):
            session.dropped += update.dropped
            session.post({**answer, "stream": session.stream, "dropped": session.dropped})
        if update.is_last:
            self.end(channel, f"{channel.title} has ended", has_failed=False)

    def _source_failed(self, name: str, error: Exception) -> None:
        if channel := self.channels.get(name):
            self.faults.tell("source", channel.title, one_line(error))
            self.end(channel, f"{channel.title} failed; the server's log says why")

    def _all_failed(self, why: str) -> None:
        self.metrics.add("vidact_faults_total", kind="network")
        for channel in list(self.channels.values()):
            self.end(channel, why)

    def is_well(self) -> bool:
        return self.is_running and self.thread.is_alive()

    async def open_pushed(self, session: Session) -> PushSource:
        """A channel for the frames that a browser sends."""
        source = PushSource()
        await self._join(self._channel("the browser's video"), source, session)
        return source

    async def open_named(self, number: int, session: Session) -> None:
        """A channel for a source named at start. A camera has one for everybody, a file one for each session."""
        if (channel := self.shared.get(number)) is not None:
            self._enter(channel, session)
            return
        name, address = self.names[number], self.addresses[number]
        channel = self._channel(name)
        if is_live_address(address):
            self.shared[number], self.said[name] = channel, ("closed", "")
        self._enter(channel, session)
        try:
            source = await self.loop.run_in_executor(
                self.opening,
                lambda: open_source(
                    address,
                    realtime=True,
                    waits=is_live_address(address),
                    verify=address not in self.insecure,
                    on_event=lambda text: log.info("%s: %s", name, text),
                    on_state=lambda state, why: self._call(self._source_state, channel, state, why),
                ),
            )
        except Exception as error:
            self.faults.tell("source", name, one_line(error))
            if is_live_address(address):
                self.metrics.set("vidact_source_up", 0, source=name)
            self.end(channel, f"{name} cannot be opened; the server's log says why")
            return
        if channel.name in self.channels:
            await self._join(channel, source, None)
        else:  # everybody has left meanwhile
            self.loop.run_in_executor(self.opening, source.close)

    def _channel(self, title: str) -> Channel:
        self.serial += 1
        channel = Channel(f"{title} #{self.serial}", title)
        self.channels[channel.name] = channel
        return channel

    def _enter(self, channel: Channel, session: Session) -> None:
        channel.sessions.add(session)
        session.channel = channel
        if words := self.said.get(channel.title, ("", ""))[1]:
            session.post({"type": "note", "why": words})
        self.metrics.set("vidact_streams", len(self.channels))

    async def _join(self, channel: Channel, source: Source, session: Session | None) -> None:
        if session is not None:
            self._enter(channel, session)
        else:
            channel.shower = self.loop.create_task(self._show(channel))
        channel.source = source
        watched = _Watched(source, channel.name, lambda: self._call(self._source_ended, channel))
        try:
            # The engine may be computing: adding waits for it, so not in the event loop.
            await self.loop.run_in_executor(self.joining, self.engine.add, watched)
        except RuntimeError:  # it failed and was closed just now
            self.end(channel, "the network failed; start again")

    def _source_state(self, channel: Channel, state: str, why: str) -> None:
        """A camera or stream is open, is lost or cannot be opened; ``why`` may hold its address, for the log alone."""
        if channel.name not in self.channels:
            return
        name, (was, _) = channel.title, self.said[channel.title]
        self.metrics.set("vidact_source_up", state == "open", source=name)
        if state == "open":
            words, shown = f"{name} is {'open' if not channel.has_been_open else 'back'}", ""
            channel.has_been_open = True
        else:
            fault = "was lost" if channel.has_been_open else "cannot be opened now"
            words = shown = f"{name} {fault}, and is tried again with growing pauses; the server's log says why"
            self.faults.tell("source", name, one_line(why))
        self.said[name] = state, shown
        if (was, state) != ("closed", "open"):  # one that opens at once needs no words
            for session in channel.sessions:
                session.post({"type": "note", "why": words})

    def states(self) -> list[dict[str, str]]:
        """The sources named at start; ``closed`` are those that nobody sees, and cameras and streams before their first
        picture, ``lost`` those that are tried again.
        """
        seen = {channel.title for channel in self.channels.values()}
        found = [(name, *self.said.get(name, ("open" if name in seen else "closed", ""))) for name in self.names]
        return [{"name": name, "state": state, "why": why} for name, state, why in found]

    def _source_ended(self, channel: Channel) -> None:
        # Its last answer may be on the way still.
        self.loop.call_later(self.END_S, self.end, channel, f"{channel.title} has ended", False)

    async def _show(self, channel: Channel) -> None:
        """Send the newest picture to the sessions that have shown the one before."""
        shown: Grab | None = None
        while True:
            await asyncio.sleep(1 / self.limits.pictures_per_second)
            ready = [session for session in channel.sessions if session.takes_picture]
            if (grab := channel.newest) is None or grab is shown or not ready:
                continue
            shown = grab
            picture = await self.loop.run_in_executor(self.decoding, encode_picture, grab, self.limits)
            for session in ready:
                session.show(picture)

    def leave(self, session: Session) -> None:
        """The session looks at nothing any more; a channel that nobody sees ends."""
        if (channel := session.channel) is None:
            return
        session.channel = None
        channel.sessions.discard(session)
        if not channel.sessions:
            self.end(channel, "")

    def end(self, channel: Channel, why: str, has_failed: bool = True) -> None:
        """Close the channel, and tell ``why`` to those who see it; once. The end of a file is no failure."""
        if self.channels.pop(channel.name, None) is None:
            return
        for number, shared in list(self.shared.items()):
            if shared is channel:
                del self.shared[number]
                self.said.pop(channel.title, None)
        if channel.shower is not None:
            channel.shower.cancel()
        if channel.source is not None:
            self.loop.run_in_executor(self.opening, channel.source.close)
        for session in channel.sessions:
            session.channel = None
            session.post({"type": "ended", "stream": session.stream, "why": why, "failed": has_failed})
        self.metrics.set("vidact_streams", len(self.channels))


def describe(model: StreamModel) -> str:
    """The model in a few words, for the page's head."""
    network = getattr(model.network, "network", model.network)
    return f"{type(network).__name__}, {len(model.classes)} classes, {model.tokens_per_second:g} answers/s"


def sent_side(model: StreamModel) -> int:
    """The short side in pixels of the frames that the page sends: what the networks look at, and twice that where it is
    little, so that a JPEG's blocks are averaged away."""
    transforms = [model.transform] if model.transform else []
    if model.extractor:
        transforms = [test_transform(network.input, 1) for network in model.extractor.networks.values()]  # type: ignore[arg-type]
    side = max(transform.resize for transform in transforms)
    return max(side, min(2 * side, 240))


def encode_picture(grab: Grab, limits: Limits) -> bytes:
    """Seconds and JPEG of a named source's frame, as they go to the page."""
    height, width = grab.image.shape[:2]
    image = grab.image
    if (scale := limits.picture_side / max(height, width)) < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    return struct.pack("<d", grab.seconds) + jpeg.tobytes()


# ---------------------------------------------------------------------------------------------- sessions


class Session:
    """One WebSocket: what comes in is checked, what goes out waits in a bounded queue."""

    def __init__(self, websocket: WebSocket, studio: Studio) -> None:
        self.websocket, self.studio, self.limits = websocket, studio, studio.limits
        self.who = websocket.client.host if websocket.client else "somebody"
        self.channel: Channel | None = None
        self.pushed: PushSource | None = None  # where frames go
        self.stream = 0  # counts starts, so that the page knows answers to an older one
        self.began = self.newest_s = 0.0
        self.dropped = 0
        self.takes_picture = False
        self._texts: deque[str] = deque()
        self._picture: bytes | None = None
        self._wake = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rate = self.limits.frames_per_second
        self._frames, self._commands = Bucket(rate, 2 * rate), Bucket(40, 80)
        self._starts = Bucket(self.limits.starts_per_second, 10)

    # -- out

    def post(self, message: dict[str, Any]) -> None:
        """Queue a message; never waits."""
        if len(self._texts) >= self.limits.queue:
            self.fail(Fault("slow", f"took none of {len(self._texts)} messages; closed"))
            return
        self._texts.append(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
        self._wake.set()

    def show(self, picture: bytes) -> None:
        if self.takes_picture:
            self._picture, self.takes_picture = picture, False
            self._wake.set()

    def fail(self, fault: Fault) -> None:
        if not self.failed.done():
            self.failed.set_exception(fault)

    async def send(self) -> None:
        """Send what is queued; a Fault ends it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                async with asyncio.timeout(self.limits.send_s):
                    while self._texts:
                        await self.websocket.send_text(self._texts.popleft())
                    if self._picture is not None:
                        picture, self._picture = self._picture, None
                        await self.websocket.send_bytes(picture)
            except TimeoutError:
                raise Fault("slow", f"took no message for {self.limits.send_s:g} s; closed") from None

    # -- in

    async def receive(self) -> None:
        """Take messages until the client leaves; a Fault ends it."""
        while True:
            try:
                async with asyncio.timeout(self.limits.idle_s):
                    message = await self.websocket.receive()
            except TimeoutError:
                raise Fault("idle", f"said nothing for {self.limits.idle_s:g} s; closed", 1000) from None
            if message["type"] == "websocket.disconnect":
                code = message.get("code")
                if code == 1009:
                    raise Fault("large", f"sent a message of more than {self.limits.message_bytes:,} bytes; closed")
                if code in (1002, 1007):
                    raise Fault("garbage", "sent what is no WebSocket message; closed")
                if code in (1005, 1006) and "reason" not in message:  # there was no farewell that could hold one
                    self.studio.faults.tell("vanished", self.who, "left without closing")
                return
            if (data := message.get("bytes")) is not None:
                if not self._frames.take():
                    raise Fault("flood", f"sends more than {self.limits.frames_per_second:g} frames a second; closed")
                await self.frame(data)
            else:
                if not self._commands.take():
                    raise Fault("flood", "sends more than 40 messages a second; closed")
                await self.command(message["text"])

    async def frame(self, data: bytes) -> None:
        """One frame of the browser's; it is decoded in a pool, and the client waits for "taken"."""
        if len(data) < 12:
            raise Fault("garbage", f"a frame of {len(data)} bytes is no frame; closed")
        if (source := self.pushed) is None:  # it was on its way when the page or the stream stopped
            self.post({"type": "taken"})
            return
        (seconds,) = struct.unpack_from("<d", data)
        now_s = time.monotonic() - self.began
        # A clock fills the gap before a frame; a client may not make it fill more time than has passed.
        if not (self.newest_s <= seconds <= now_s + self.limits.ahead_s):
            raise Fault(
                "garbage",
                f"a frame says {seconds:.3f} s where {self.newest_s:.3f} to {now_s + self.limits.ahead_s:.3f} s can "
                "be; closed",
            )
        image = await self.studio.loop.run_in_executor(self.studio.decoding, decode_frame, data[8:], self.limits)
        self.newest_s = seconds
        if self.channel is not None:
            source.push(image, seconds)
        self.post({"type": "taken"})

    async def command(self, text: str) -> None:
        if len(text) > self.limits.message_characters:
            raise Fault("garbage", f"sent a message of {len(text):,} characters, which says nothing; closed")
        try:
            message = json.loads(text)
            kind = message["type"]
            source = message["source"] if kind == "start" else None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Fault("garbage", "sent a message that says nothing; closed") from None
        if kind == "start":
            await self.start(source)
        elif kind == "stop":
            self.stop()
        elif kind == "end":
            if self.pushed is not None:  # the last answer follows, then "ended"
                self.pushed.close()
                self.pushed = None
        elif kind == "shown":
            self.takes_picture = True
        elif kind != "alive":
            raise Fault("garbage", "sent a message of no known type; closed")

    async def start(self, source: object) -> None:
        names = self.studio.names
        is_number = isinstance(source, int) and not isinstance(source, bool)
        if source != "browser" and not (is_number and 0 <= source < len(names)):  # type: ignore[operator]
            raise Fault("source", f"asked for a source that was not named at start; there are {len(names)}; closed")
        if not self._starts.take():
            raise Fault("flood", f"starts more than {self.limits.starts_per_second:g} streams a second; closed")
        self.stop()
        self.stream += 1
        self.began, self.newest_s, self.dropped = time.monotonic(), 0.0, 0
        self.takes_picture = source != "browser"
        self.post({"type": "started", "stream": self.stream, "source": source})
        if source == "browser":
            self.pushed = await self.studio.open_pushed(self)
        else:
            assert isinstance(source, int)
            await self.studio.open_named(source, self)

    def stop(self) -> None:
        self.pushed = self._picture = None
        self.studio.leave(self)

    async def run(self) -> None:
        """Until the client leaves or a fault closes it."""
        studio = self.studio
        studio.sessions.add(self)
        studio.metrics.add("vidact_sessions_total")
        studio.metrics.set("vidact_sessions", len(studio.sessions))
        model = studio.model
        offsets = model.future_offsets
        self.post(
            {
                "type": "hello",
                "version": __version__,
                "model": describe(model),
                "classes": model.classes,
                "tokens_per_second": model.tokens_per_second,
                "frames_per_second": min(model.fps, self.limits.frames_per_second),
                "side": sent_side(model),
                "future_seconds": [offset / model.tokens_per_second for offset in offsets],
                "sources": [{"name": name} for name in studio.names],
            }
        )
        tasks = [asyncio.create_task(self.receive()), asyncio.create_task(self.send())]
        try:
            await asyncio.wait([*tasks, self.failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            studio.sessions.discard(self)
            self.stop()
            studio.metrics.set("vidact_sessions", len(studio.sessions))
            for task in (*tasks, self.failed):
                task.cancel()
            results = await asyncio.gather(*tasks, self.failed, return_exceptions=True)
        error = next((result for result in results if isinstance(result, Exception)), None)
        if isinstance(error, Fault):
            await refuse(self.websocket, studio, self.who, error)
        elif error is not None and not _is_gone(error):
            raise error


def _is_gone(error: Exception) -> bool:
    from starlette.websockets import WebSocketDisconnect

    return isinstance(error, WebSocketDisconnect | OSError)


async def refuse(websocket: WebSocket, studio: Studio, who: str, fault: Fault) -> None:
    """One line in the log, and a close that says why, to whom still listens."""
    studio.faults.tell(fault.kind, who, str(fault))
    with contextlib.suppress(Exception):  # it has gone, or never was
        async with asyncio.timeout(1):
            await websocket.close(fault.code, str(fault)[:120])
