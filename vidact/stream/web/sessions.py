"""The web server's sessions: clients on one side, the network's streams on the other.

There are three kinds of threads: the event loop, which only moves messages; the network's thread, in which one
``Engine`` computes the streams of all sessions in batches; and small pools that decode frames, encode pictures and open
or close sources. No thread waits for a client: a session has one frame on its way in, a short bounded queue on its way
out, and timeouts after which it is closed.

Messages over the WebSocket ``/live``, as JSON text unless stated otherwise::

    page → server   {"type": "start", "source": "browser" | the number of a named source}, "stop", "end" (a file of the
                    browser is over), "shown" (a picture), "alive"; and frames, binary: seconds as float64, a JPEG
    server → page   "hello" (classes, sources, …), "started", "taken" (a frame: send the next), "answer", "note",
                    "ended"; and pictures of a named source, binary like the frames

A client chooses one of the sources named at start by its number; no path, address or playlist of a client is opened.
A fault closes the session with the reason, and is one line in the log.
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
from vidact.stream.horizon import recogniser_of
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
    """A source under a unique name that calls ``on_end`` when it has ended."""

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
    """One stream of the network and the sessions that receive it."""

    def __init__(self, name: str, title: str, delay_s: float = 0.0) -> None:
        self.name, self.title = name, title
        self.source: Source | None = None
        self.sessions: set[Session] = set()
        self.newest: Grab | None = None
        self.has_been_open = False
        # The frames of the last seconds, at 60 a second; only the network's thread uses it.
        self.frame_times_s: deque[float] = deque(maxlen=128 + round(60 * delay_s))
        self.preview_task: asyncio.Task[None] | None = None


class Hub:
    """The network's thread, the channels it computes, and the pools. Call its methods in the event loop.

    Args:
        model: the network and its clock, from ``load_model``.
        sources: name → address or path for ``open_source``.
        insecure: addresses of sources whose certificates are not verified.
    """

    END_S = 2.0  # the channel of an ended source is closed after this time even without a last answer

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
        self.source_states: dict[str, tuple[str, str]] = {}  # open cameras and streams: name → (state, message)
        self.shared: dict[int, Channel] = {}  # cameras and streams on the network: all sessions share one reader
        self.serial = 0
        self.is_running = False

    # -- start and stop

    async def __aenter__(self) -> Hub:
        self.loop = asyncio.get_running_loop()
        self.decoding = ThreadPoolExecutor(2, "vidact decode")
        self.encoding = ThreadPoolExecutor(1, "vidact encode")  # apart, so that no frame waits for a picture
        # Opening an address that does not respond blocks its thread for seconds. So each session has one, and joining
        # the engine, for which browsers wait, has separate threads.
        self.opening = ThreadPoolExecutor(self.limits.sessions, "vidact sources")
        self.joining = ThreadPoolExecutor(4, "vidact joins")
        self.engine = self._engine()
        self.is_running = True
        self.thread = threading.Thread(target=self._run_engine, name="vidact network", daemon=True)
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
        for pool in (self.decoding, self.encoding, self.joining, self.opening):
            pool.shutdown(wait=False, cancel_futures=True)

    def _engine(self) -> Engine:
        return Engine(self.model, stays=True, on_frame=self._frame_used, on_error=self._failed)

    # -- in the network's thread

    def _run_engine(self) -> None:
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

    def _frame_used(self, name: str, grab: Grab) -> None:
        self.metrics.add("vidact_frames_total")
        if channel := self.channels.get(name):
            channel.newest = grab
            channel.frame_times_s.append(grab.seconds)

    def _captured(self, update: StreamUpdate) -> float | None:
        """Return the source's time in seconds of the newest frame of an update's token, for the latency on a page.

        The clock uses the frame nearest to each slot. None where the channel is closed.
        """
        if (channel := self.channels.get(update.source)) is None:
            return None
        slot_s = update.seconds + max(self.model.places) / self.model.fps
        return min(channel.frame_times_s, key=lambda seconds: abs(seconds - slot_s), default=None)

    def _failed(self, name: str, error: Exception) -> None:
        self._call(self._source_failed, name, error)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        """Call a method in the event loop, from another thread."""
        with contextlib.suppress(RuntimeError):  # raised when the loop is closed, after the last session
            self.loop.call_soon_threadsafe(function, *args)

    # -- in the event loop

    def _publish(self, update: StreamUpdate, captured: float | None) -> None:
        self.metrics.add("vidact_withdrawn_answers_total", update.is_withdrawn)
        if not update.is_repeat:  # a repeat only reports events, or that an answer is withdrawn
            self.metrics.add("vidact_answers_total")
            self.metrics.latency(update.latency_ms / 1000)
        self.metrics.add("vidact_dropped_frames_total", update.dropped)
        for event in update.opened:
            self.metrics.add("vidact_events_total", label=event.label)
        if (channel := self.channels.get(update.source)) is None:
            return
        message = {
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
            "repeat": update.is_repeat,
            "provisional": update.is_provisional,
            "withdrawn": update.is_withdrawn,
        }
        for session in list(channel.sessions):
            session.dropped += update.dropped
            session.post({**message, "stream": session.stream, "dropped": session.dropped})
        if update.is_last:
            self.end(channel, f"{channel.title} has ended", has_failed=False)

    def _source_failed(self, name: str, error: Exception) -> None:
        if channel := self.channels.get(name):
            self.faults.log("source", channel.title, one_line(error))
            self.end(channel, f"{channel.title} failed; the server's log says why")

    def _all_failed(self, why: str) -> None:
        self.metrics.add("vidact_faults_total", kind="network")
        for channel in list(self.channels.values()):
            self.end(channel, why)

    def is_well(self) -> bool:
        return self.is_running and self.thread.is_alive()

    async def open_pushed(self, session: Session) -> PushSource:
        """Open a channel for the frames that a browser sends."""
        source = PushSource()
        await self._join(self._channel("the browser's video"), source, session)
        return source

    async def open_named(self, number: int, session: Session) -> None:
        """Open a channel for a source named at start: all sessions share that of a camera, each file has its own."""
        if (channel := self.shared.get(number)) is not None:
            self._enter(channel, session)
            return
        name, address = self.names[number], self.addresses[number]
        channel = self._channel(name)
        if is_live_address(address):
            self.shared[number], self.source_states[name] = channel, ("closed", "")
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
            self.faults.log("source", name, one_line(error))
            if is_live_address(address):
                self.metrics.set("vidact_source_up", 0, source=name)
            self.end(channel, f"{name} cannot be opened; the server's log says why")
            return
        if channel.name in self.channels:
            await self._join(channel, source, None)
        else:  # all sessions have left meanwhile
            self.loop.run_in_executor(self.opening, source.close)

    def _channel(self, title: str) -> Channel:
        self.serial += 1
        channel = Channel(f"{title} #{self.serial}", title, self.model.delay / self.model.tokens_per_second)
        self.channels[channel.name] = channel
        return channel

    def _enter(self, channel: Channel, session: Session) -> None:
        channel.sessions.add(session)
        session.channel = channel
        if message := self.source_states.get(channel.title, ("", ""))[1]:
            session.post({"type": "note", "why": message})
        self.metrics.set("vidact_streams", len(self.channels))

    async def _join(self, channel: Channel, source: Source, session: Session | None) -> None:
        if session is not None:
            self._enter(channel, session)
        else:
            channel.preview_task = self.loop.create_task(self._send_previews(channel))
        channel.source = source
        watched = _Watched(source, channel.name, lambda: self._call(self._source_ended, channel))
        try:
            # Adding waits while the engine computes, so it must not run in the event loop.
            await self.loop.run_in_executor(self.joining, self.engine.add, watched)
        except RuntimeError:  # raised when the engine has just failed and been closed
            self.end(channel, "the network failed; start again")

    def _source_state(self, channel: Channel, state: str, why: str) -> None:
        """Record whether a camera or stream is open; ``why`` may contain its address, so it is only logged."""
        if channel.name not in self.channels:
            return
        name, (was, _) = channel.title, self.source_states[channel.title]
        self.metrics.set("vidact_source_up", state == "open", source=name)
        if state == "open":
            message, lasting = f"{name} is {'open' if not channel.has_been_open else 'back'}", ""
            channel.has_been_open = True
        else:
            fault = "was lost" if channel.has_been_open else "cannot be opened now"
            message = lasting = f"{name} {fault}, and is tried again with growing pauses; the server's log says why"
            self.faults.log("source", name, one_line(why))
        self.source_states[name] = state, lasting
        if (was, state) != ("closed", "open"):  # a source that opens at the first try needs no note
            for session in channel.sessions:
                session.post({"type": "note", "why": message})

    def states(self) -> list[dict[str, str]]:
        """Return name, state and message of the sources named at start.

        ``closed`` are sources without a session, and cameras and streams before their first picture; ``lost`` are those
        that are opened again with pauses.
        """
        open_names = {channel.title for channel in self.channels.values()}
        states = [
            (name, *self.source_states.get(name, ("open" if name in open_names else "closed", "")))
            for name in self.names
        ]
        return [{"name": name, "state": state, "why": why} for name, state, why in states]

    def _source_ended(self, channel: Channel) -> None:
        # The last answer may still be on its way; END_S leaves time for it.
        self.loop.call_later(self.END_S, self.end, channel, f"{channel.title} has ended", False)

    async def _send_previews(self, channel: Channel) -> None:
        """Send the newest picture to the sessions whose page has displayed the previous one."""
        last_sent: Grab | None = None
        while True:
            await asyncio.sleep(1 / self.limits.pictures_per_second)
            ready = [session for session in channel.sessions if session.takes_picture]
            if (grab := channel.newest) is None or grab is last_sent or not ready:
                continue
            last_sent = grab
            picture = await self.loop.run_in_executor(self.encoding, encode_picture, grab, self.limits)
            for session in ready:
                session.post_picture(picture)

    def leave(self, session: Session) -> None:
        """Take the session out of its channel; a channel without sessions ends."""
        if (channel := session.channel) is None:
            return
        session.channel = None
        channel.sessions.discard(session)
        if not channel.sessions:
            self.end(channel, "")

    def end(self, channel: Channel, why: str, has_failed: bool = True) -> None:
        """Close the channel and send ``why`` to its sessions, once. ``has_failed`` is False at the end of a file."""
        if self.channels.pop(channel.name, None) is None:
            return
        for number, shared in list(self.shared.items()):
            if shared is channel:
                del self.shared[number]
                self.source_states.pop(channel.title, None)
        if channel.preview_task is not None:
            channel.preview_task.cancel()
        if channel.source is not None:
            self.loop.run_in_executor(self.opening, channel.source.close)
        for session in channel.sessions:
            session.channel = None
            session.post({"type": "ended", "stream": session.stream, "why": why, "failed": has_failed})
        self.metrics.set("vidact_streams", len(self.channels))


def describe(model: StreamModel) -> str:
    """Return a short description of the model, for the page's head."""
    name = type(recogniser_of(model.network)).__name__
    return f"{name}, {model.words}"


def sent_side(model: StreamModel) -> int:
    """Return the short side in pixels of the frames that the page sends.

    It is the networks' largest input, doubled up to 240 pixels so that a JPEG's blocks are averaged away.
    """
    transforms = [model.transform] if model.transform else []
    if model.extractor:
        transforms = [test_transform(network.input, 1) for network in model.extractor.networks.values()]  # type: ignore[arg-type]
    side = max(transform.resize for transform in transforms)
    return max(side, min(2 * side, 240))


def encode_picture(grab: Grab, limits: Limits) -> bytes:
    """Return a named source's frame as the page receives it: seconds (float64, little-endian), then a JPEG."""
    height, width = grab.image.shape[:2]
    image = grab.image
    if (scale := limits.picture_side / max(height, width)) < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    is_encoded, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert is_encoded
    return struct.pack("<d", grab.seconds) + jpeg.tobytes()


# ---------------------------------------------------------------------------------------------- sessions


class Session:
    """One WebSocket: incoming messages are checked, outgoing ones wait in a bounded queue."""

    def __init__(self, websocket: WebSocket, hub: Hub) -> None:
        self.websocket, self.hub, self.limits = websocket, hub, hub.limits
        self.client_address = websocket.client.host if websocket.client else "an unknown client"
        self.channel: Channel | None = None
        self.pushed: PushSource | None = None  # receives the browser's frames
        self.stream = 0  # counts starts, so that the page can drop answers of an earlier one
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

    def post_picture(self, picture: bytes) -> None:
        """Queue a picture, in place of an older one, where the page is ready for it."""
        if self.takes_picture:
            self._picture, self.takes_picture = picture, False
            self._wake.set()

    def fail(self, fault: Fault) -> None:
        if not self.failed.done():
            self.failed.set_exception(fault)

    async def send(self) -> None:
        """Send queued messages until the task is cancelled; raise Fault where the client takes none for ``send_s``."""
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
        """Handle messages until the client leaves; raise Fault for one that the limits forbid."""
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
                if code in (1005, 1006) and "reason" not in message:  # the connection ended without a close frame
                    self.hub.faults.log("vanished", self.client_address, "left without closing")
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
        """Decode one frame of the browser in a pool, push it and post "taken", for which the client waits."""
        if len(data) < 12:
            raise Fault("garbage", f"a frame of {len(data)} bytes is no frame; closed")
        if (source := self.pushed) is None:  # the frame was sent before the page or the stream stopped
            self.post({"type": "taken"})
            return
        (seconds,) = struct.unpack_from("<d", data)
        now_s = time.monotonic() - self.began
        # The clock fills the gap before a frame. A client must not make it fill more time than has passed.
        if not (self.newest_s <= seconds <= now_s + self.limits.ahead_s):
            raise Fault(
                "garbage",
                f"a frame says {seconds:.3f} s where {self.newest_s:.3f} to {now_s + self.limits.ahead_s:.3f} s can "
                "be; closed",
            )
        image = await self.hub.loop.run_in_executor(self.hub.decoding, decode_frame, data[8:], self.limits)
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
            if self.pushed is not None:  # after this the page still receives the last answer, then "ended"
                self.pushed.close()
                self.pushed = None
        elif kind == "shown":
            self.takes_picture = True
        elif kind != "alive":
            raise Fault("garbage", "sent a message of no known type; closed")

    async def start(self, source: object) -> None:
        names = self.hub.names
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
            self.pushed = await self.hub.open_pushed(self)
        else:
            assert isinstance(source, int)
            await self.hub.open_named(source, self)

    def stop(self) -> None:
        self.pushed = self._picture = None
        self.hub.leave(self)

    async def run(self) -> None:
        """Serve the client until it leaves or a fault closes the session."""
        hub = self.hub
        hub.sessions.add(self)
        hub.metrics.add("vidact_sessions_total")
        hub.metrics.set("vidact_sessions", len(hub.sessions))
        model = hub.model
        offsets = model.future_offsets
        self.post(
            {
                "type": "hello",
                "version": __version__,
                "model": describe(model),
                "classes": model.classes,
                "tokens_per_second": model.tokens_per_second,
                "delay_seconds": model.delay / model.tokens_per_second,
                "frames_per_second": min(model.fps, self.limits.frames_per_second),
                "side": sent_side(model),
                "future_seconds": [offset / model.tokens_per_second for offset in offsets],
                "sources": [{"name": name} for name in hub.names],
            }
        )
        tasks = [asyncio.create_task(self.receive()), asyncio.create_task(self.send())]
        try:
            await asyncio.wait([*tasks, self.failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            hub.sessions.discard(self)
            self.stop()
            hub.metrics.set("vidact_sessions", len(hub.sessions))
            for task in (*tasks, self.failed):
                task.cancel()
            results = await asyncio.gather(*tasks, self.failed, return_exceptions=True)
        error = next((result for result in results if isinstance(result, Exception)), None)
        if isinstance(error, Fault):
            await log_and_close(self.websocket, hub, self.client_address, error)
        elif error is not None and not _is_gone(error):
            raise error


def _is_gone(error: Exception) -> bool:
    from starlette.websockets import WebSocketDisconnect

    return isinstance(error, WebSocketDisconnect | OSError)


async def log_and_close(websocket: WebSocket, hub: Hub, client_address: str, fault: Fault) -> None:
    """Log the fault in one line, and close the WebSocket with its code and reason."""
    hub.faults.log(fault.kind, client_address, str(fault))
    with contextlib.suppress(Exception):  # the client may have left, or was never accepted
        async with asyncio.timeout(1):
            await websocket.close(fault.code, str(fault)[:120])
