"""The live sources: a camera, a stream on the network or pushed frames; each keeps only its newest picture."""

from __future__ import annotations

import bisect
import contextlib
import errno
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import av.error
import av.format
import numpy as np
from av.video.stream import VideoStream

from vidact.stream.certificates import (
    TLS_PORTS,
    EncryptedError,
    FetchError,
    VerifiedParts,
    certificate_fault,
    trusted_authorities,
)
from vidact.stream.grabs import Grab, Report, Source, SourceError, StateReport
from vidact.text.addresses import from_environment, host_of, public
from vidact.video.colours import to_rgb
from vidact.video.decode import Turn, VideoError
from vidact.video.frame_index import UndecodableError, decode_packet, demux, reason

# The protocols that FFmpeg may use for a URL of each scheme, also in playlists and redirections: nothing local.
PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtp,udp,tcp,tls",
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
}
LISTS = {"hls", "dash"}  # FFmpeg's formats of playlists
LONGEST_RETRY_S = 30.0  # pauses between attempts double up to this
CLOSE_S = 2.0  # how long close() waits for a reader that hangs in the network or in a driver
CAMERAS = 8  # numbers that are tried in search of a camera
LAG_S = 2.0  # a stream's own times may lag so far: it stalled, and then sends what it held back
JUMP_S = 5.0  # a stream's clock that leaves the wall clock by more at once was set, which is reported
WRAP_S = 2**33 / 90_000  # a transport stream counts from 0 again after so long
LEAD_S = 30.0  # pushed times may run so far ahead of the wall clock: a short file may be pushed at once

REPEAT_S = 3600.0  # failures after the longest pause, for the same reason, are reported once in so long
KEPT_DIGESTS = 16  # digests stored for one stamp; FFmpeg gives two or three packets
KEPT_STAMPS = 4096  # stamps stored to recognise repeated pictures: a minute at 60 pictures a second
SAME_CLOCK_S = 1.5  # a stamp between two known ones that are nearer than this belongs to another clock
FAR_BACK_S = 60.0  # no playlist goes so far back before all known stamps; a restarted clock does

NOTHING_NEW = "it gives nothing that it has not given before"


# ----------------------------------------------------------------------------------------------------------------------
# Live sources: the newest picture, and the time


class _Seconds:
    """A converter of a source's timestamps to seconds since its opening: never backwards or far from the wall clock.

    The stamps are anchored to the wall clock, and again when they jump backwards, lag behind it by more than ``lag_s``
    or run ahead of it by more than ``lead_s``. With ``lead_s`` 0 the picture that came with the least delay sets the
    anchor, so a burst of old pictures at the beginning does not shift all the others. ``jump_s`` is how far the newest
    stamp moved from the one before, less the time that passed between them; 0 where that is less than a jump (5 s).
    """

    def __init__(self, lead_s: float, lag_s: float, offset_s: float = -math.inf) -> None:
        self._lead_s, self._lag_s, self._offset_s = lead_s, lag_s, offset_s
        self._last_s = self.jump_s = 0.0
        self._before: tuple[float, float] | None = None  # the newest stamp, and the time of its arrival
        self._held_s = 0.0  # how far the stamps lag behind the wall clock; held-back pictures may come at once

    def restart(self) -> None:
        """Anchor the next stamp again, because its zero is another one; the seconds go on."""
        self._offset_s = -math.inf
        self._before, self._held_s = None, 0.0

    def __call__(self, stamp_s: float | None, now_s: float) -> float:
        """Return the seconds of a picture stamped ``stamp_s`` (may be None) that came ``now_s`` after the opening."""
        newest_s = max(now_s, self._last_s)
        seconds = newest_s
        self.jump_s = 0.0
        if stamp_s is not None:
            if self._before is not None:
                ahead_s = stamp_s - self._before[0] - (now_s - self._before[1])
                if ahead_s - self._held_s > JUMP_S or stamp_s - self._before[0] < -JUMP_S:
                    # FFmpeg mistakes a transport stream's clock that was set back for one that has wrapped
                    self.jump_s = ahead_s - WRAP_S if WRAP_S / 2 < ahead_s <= WRAP_S else ahead_s
                    self._held_s = 0.0
                else:
                    self._held_s = max(0.0, self._held_s - ahead_s)
            self._before = stamp_s, now_s
            seconds = stamp_s + self._offset_s
            earliest_s = max(self._last_s - 1e-6, now_s - self._lag_s)  # a repeated stamp may differ by its rounding
            if not earliest_s <= seconds <= now_s + self._lead_s:
                self._offset_s, seconds = newest_s - stamp_s, newest_s
        self._last_s = max(self._last_s, seconds)
        return self._last_s


class _NewestSource(Source):
    """A source that holds one picture, which a newer one replaces."""

    is_live = realtime = True

    def __init__(self, name: str, seconds: _Seconds) -> None:
        self.name, self.fps = name, None
        self._seconds = seconds
        self._opened = time.monotonic()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._newest: Grab | None = None
        self._has_ended = False  # no more pictures come
        self._failure: Exception | None = None

    def __next__(self) -> Grab:
        with self._changed:
            while self._newest is None or self._closed.is_set():
                if self._closed.is_set() or (self._has_ended and self._failure is None):
                    raise StopIteration
                if self._failure is not None:
                    raise self._failure
                self._wait()
            grab, self._newest = self._newest, None
        return grab

    def _wait(self) -> None:
        self._changed.wait()

    def _put(self, image: np.ndarray, stamp_s: float | None, captured: float) -> None:
        """Replace the held picture; the caller holds the lock ``self._changed``."""
        dropped = 0
        if self._newest is not None:
            dropped = self._newest.dropped + 1
            self.dropped += 1
        self._newest = Grab(self._seconds(stamp_s, captured - self._opened), image, captured, dropped)
        self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed.set()
            self._newest = None
            self._changed.notify_all()


class PushSource(_NewestSource):
    """A source of pictures that a client, such as a browser, pushes: it holds one at most, however fast they come."""

    def __init__(self, name: str = "pushed") -> None:
        super().__init__(name, _Seconds(LEAD_S, math.inf, offset_s=0.0))

    def push(self, image: np.ndarray, seconds: float | None = None) -> None:
        """Replace the held picture; ignored once the source is closed. The array is kept, not copied.

        Args:
            image: (H, W, 3) uint8 RGB.
            seconds: the client's own time of the picture; None is the time of arrival. Where it goes backwards, as when
                a video begins again, or runs more than 30 s ahead of the wall clock, it is anchored again: time goes
                on, and no client can make hours of work out of one picture.
        """
        if not isinstance(image, np.ndarray) or not _is_picture(image):
            shape = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"a pushed picture is a uint8 RGB array (H, W, 3); this is {shape}")
        if seconds is not None and not math.isfinite(seconds):
            raise ValueError(f"a pushed picture's time is {seconds}; it is a number of seconds, or None")
        captured = time.monotonic()
        with self._changed:
            if not self._closed.is_set():
                self._put(np.ascontiguousarray(image), seconds, captured)


def _is_picture(image: Any) -> bool:
    return image is not None and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size > 0


# ----------------------------------------------------------------------------------------------------------------------
# Cameras and streams: a reader thread that opens again what it lost


class _Picture(NamedTuple):
    """A picture that a connection delivers."""

    image: np.ndarray | None  # None for a corrupt picture
    stamp_s: float | None  # by the stream's own clock, whose zero is arbitrary
    captured: float


class _Connection(Protocol):
    """A camera or stream that is open now. Only one thread uses it at a time."""

    fps: float | None

    def pictures(self) -> Iterator[_Picture | None]:
        """Yield pictures until the source ends, None for other data; raise SourceError when the connection is lost."""

    def close(self) -> None: ...


class LiveOptions(NamedTuple):
    """The arguments of ``open_source`` that concern cameras and streams."""

    timeout_s: float
    retry_s: float
    waits: bool
    verify: bool
    report: Report
    report_state: StateReport


class _ReconnectingSource(_NewestSource):
    """A source whose thread reads one connection after another and holds the newest picture.

    Args:
        connect: opens a connection, or raises SourceError.
        hangs: reading may hang for ever. Then the thread that iterates abandons that reader after ``timeout_s`` without
            a picture and starts another.
        options: with ``waits``, the first connection, too, is opened by the reader.
    """

    def __init__(self, name: str, connect: Callable[[], _Connection], hangs: bool, options: LiveOptions) -> None:
        super().__init__(name, _Seconds(0.0, LAG_S))
        self._connect, self._hangs, self._timeout_s = connect, hangs, options.timeout_s
        self._report, self._report_state = options.report, options.report_state
        self._first_retry_s = self._retry_s = options.retry_s
        self._state, self._has_been_open = "", not options.waits
        self._reported, self._reported_at = "", -math.inf  # the last reported line about a failed attempt
        self._lost_at: float | None = None if self._has_been_open else time.monotonic()
        self._is_reading = True
        self._readers: list[threading.Thread] = []
        connection = None if options.waits else connect()
        self.fps = connection.fps if connection else None
        self._opened = self._last_picture_s = time.monotonic()
        self._start(connection, "")

    def close(self) -> None:
        """End the iteration at once, then wait up to 2 s for the reader to close the camera or stream.

        A reader that hangs in the network or in a driver cannot be interrupted; it closes them as soon as it returns,
        at the latest after the timeout.
        """
        super().close()
        start_s = time.monotonic()
        for reader in self._readers:
            if reader is not threading.current_thread():
                reader.join(max(0.0, start_s + CLOSE_S - time.monotonic()))

    # -- the thread that iterates

    def _wait(self) -> None:
        if not (self._hangs and self._is_reading):
            self._changed.wait(self._timeout_s)
        elif (left := self._last_picture_s + self._timeout_s - time.monotonic()) > 0:
            self._changed.wait(left)
        else:
            self._start(None, f"it has given no picture for {self._timeout_s:g} s")

    def _start(self, connection: _Connection | None, why: str) -> None:
        """Start a new reader; pictures of the one before, if any, are ignored from now on."""
        self._is_reading = connection is not None
        self._readers = [reader for reader in self._readers if reader.is_alive()]
        self._reader = threading.Thread(target=self._read, args=(connection, why), name=self.name, daemon=True)
        self._readers.append(self._reader)
        self._reader.start()

    # -- the reader thread

    def _is_active(self) -> bool:
        return threading.current_thread() is self._reader and not self._closed.is_set()

    def _read(self, connection: _Connection | None, why: str) -> None:
        try:
            while self._is_active():
                if connection is None and (connection := self._reconnect(why)) is None:
                    break
                try:
                    lost = self._play(connection)
                finally:
                    connection.close()
                    connection = None
                if lost is None:
                    break
                why = lost
        except Exception as error:  # a fault in this file or in on_event is raised where the source is iterated
            if self._is_active():
                self._failure = error
        finally:
            if connection is not None:
                connection.close()
            with self._changed:
                self._has_ended = self._has_ended or threading.current_thread() is self._reader
                self._changed.notify_all()

    def _play(self, connection: _Connection) -> str | None:
        """Read until the connection is lost and return the reason; None where it ended, or the reader is not active."""
        with self._changed:
            if not self._is_active():  # closed while the connection was opened
                return None
            self._seconds.restart()
            self._last_picture_s, self._is_reading = time.monotonic(), True
        try:
            for picture in connection.pictures():
                if not self._is_active():
                    return None
                if picture is not None and picture.image is not None:
                    self._deliver(picture.image, picture)
                    continue
                self.skipped += picture is not None
                if time.monotonic() - self._last_picture_s > self._timeout_s:
                    return f"it has given no picture for {self._timeout_s:g} s"
            return None
        except SourceError as error:
            return str(error)
        finally:
            if self._is_active():
                self._is_reading = False

    def _deliver(self, image: np.ndarray, picture: _Picture) -> None:
        if self._lost_at is not None:
            if self._reported:  # its loss was reported
                back = "is back" if self._has_been_open else "is open"
                self._report(f"{self.name} {back} after {time.monotonic() - self._lost_at:.1f} s")
            self._lost_at, self._retry_s, self._reported = None, self._first_retry_s, ""
        if self._state != "open":
            self._state, self._has_been_open = "open", True
            self._report_state("open", "")
        with self._changed:
            self._last_picture_s = time.monotonic()
            if not self._is_active():
                return
            self._put(image, picture.stamp_s, picture.captured)
            jump_s = self._seconds.jump_s
        if jump_s:
            self._report(f"{self.name}: its own clock jumps by {jump_s:+.1f} s; its seconds go on")

    def _reconnect(self, why: str) -> _Connection | None:
        """Open a connection, however often that fails; return None when the reader is no longer active."""
        self._lost_at = self._lost_at or time.monotonic()
        message = f"{self.name} is lost: {why}" if why else ""  # empty before the first attempt
        while self._is_active():
            if message and self._pause(message):
                break
            try:
                connection = self._connect()
            except SourceError as error:
                message = str(error)
            else:
                self.fps = connection.fps
                return connection
        return None

    def _pause(self, message: str) -> bool:
        """Report a failure and wait before the next attempt; return whether the source was closed."""
        if self._state != "lost":
            self._state = "lost"
            self._report_state("lost", message)
        # A source that is lost for days does not write a line every 30 s.
        line = f"{message}; trying again in {self._retry_s:g} s"
        is_known = line == self._reported
        if not is_known or time.monotonic() - self._reported_at >= REPEAT_S:
            again = " (reported once an hour)" if is_known else ""
            self._report(line + again)
            self._reported, self._reported_at = line, time.monotonic()
        if self._closed.wait(self._retry_s):
            return True
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
        return False


# -- cameras


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used."""

    def isOpened(self) -> bool: ...
    def grab(self) -> bool:
        """Wait for the next picture and take it; False when the camera is gone."""

    def retrieve(self) -> tuple[bool, Any]:
        """Return whether the picture that was taken can be read, and the picture: (H, W, 3) uint8 BGR."""

    def get(self, prop: int, /) -> float: ...
    def release(self) -> None: ...


def _has_device(index: int) -> bool:
    return sys.platform != "linux" or Path(f"/dev/video{index}").exists()


def opencv_capture(index: int) -> Capture:
    import cv2

    capture = cv2.VideoCapture()
    if _has_device(index):  # OpenCV prints warnings about absent ones
        capture.open(index)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a driver's queue holds old pictures
    return capture


def find_cameras(capture: Callable[[int], Capture] = opencv_capture) -> list[int]:
    """Return the numbers, of the first eight, under which a camera can be opened; each is opened for a moment."""
    indices = []
    for index in range(CAMERAS):
        camera = capture(index)
        if camera.isOpened():
            indices.append(index)
        camera.release()
    return indices


class _CameraConnection:
    def __init__(self, index: int, capture: Callable[[int], Capture]) -> None:
        import cv2

        self._camera = capture(index)
        if not self._camera.isOpened():
            self._camera.release()
            raise SourceError(f"camera {index} cannot be opened")
        rate = self._camera.get(cv2.CAP_PROP_FPS)
        self.fps = float(rate) if rate and rate > 0 else None

    def pictures(self) -> Iterator[_Picture]:
        import cv2

        while True:
            try:
                if not self._camera.grab():
                    raise SourceError("it gives no more pictures")
                captured = time.monotonic()
                is_good, image = self._camera.retrieve()
            except cv2.error as error:
                raise SourceError(reason(error)) from None
            if is_good and _is_picture(image):
                yield _Picture(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), None, captured)
            else:
                yield _Picture(None, None, captured)

    def close(self) -> None:
        self._camera.release()


class CameraSource(_ReconnectingSource):
    """A camera of this machine. Its seconds are the monotonic clock's, since the opening."""

    def __init__(self, index: int, capture: Callable[[int], Capture], options: LiveOptions) -> None:
        def connect() -> _Connection:
            return _CameraConnection(index, capture)

        try:
            super().__init__(f"camera {index}", connect, True, options)
        except SourceError as error:
            others = [number for number in find_cameras(capture) if number != index]
            if others:
                hint = f"those that can: {', '.join(map(str, others))}"
            elif _has_device(index):
                hint = "no other can either. Does another program use it, and may you read it?"
            else:
                hint = "there is none. Plug one in, or use a file or a URL"
            raise SourceError(f"{error}; {hint}") from None


# -- URLs


class _Past:
    """The stamps that a playlist or a served file has shown, so that a new connection shows only what came since.

    A playlist that has stopped growing gives its last segments to every connection, and a file that was cut off starts
    from its beginning. So the first pictures of a connection are skipped while their stamps are known or not newer than
    the last one that was shown. An encoder that was restarted has lower stamps, too, but other pictures: where another
    packet has a known stamp, or lies between known ones, or far before all of them, the clock was restarted and
    everything is new. What follows the first new picture is new.
    """

    def __init__(self) -> None:
        # Digests of the newest packets by their stamps in µs; FFmpeg may give several packets one stamp.
        self._digests: dict[int, tuple[int, ...]] = {}
        self._shown: dict[int, None] = {}  # the stamps of the newest pictures that were shown
        self._known: list[int] = []  # the packets' stamps, sorted, when the connection began
        self.repeats = False  # the connection has given nothing new yet

    def connect(self) -> None:
        self._known = sorted(self._digests)
        self.repeats = bool(self._shown)

    def packet(self, stamp_s: float, content: bytes) -> None:
        """Store a packet's stamp and digest; forget everything if it is of another clock."""
        stamp, digest = round(1e6 * stamp_s), hash(content)
        if self.repeats and self._is_of_another_clock(stamp, digest):
            self._digests.clear()
            self._shown.clear()
            self.repeats = False
        others = tuple(stored for stored in self._digests.get(stamp, ()) if stored != digest)
        _keep(self._digests, stamp, (*others[1 - KEPT_DIGESTS :], digest))

    def _is_of_another_clock(self, stamp: int, digest: int) -> bool:
        index = bisect.bisect_left(self._known, stamp)
        if index == len(self._known):
            return False
        if self._known[index] == stamp:
            return digest not in self._digests.get(stamp, (digest,))
        if index == 0:
            return self._known[0] - stamp > 1e6 * FAR_BACK_S
        return self._known[index] - self._known[index - 1] < 1e6 * SAME_CLOCK_S

    def was_shown(self, stamp_s: float) -> bool:
        """Return whether a picture of this connection is an old one; if not, it and all that follow are new."""
        stamp = round(1e6 * stamp_s)
        if self.repeats and (stamp in self._shown or stamp <= next(reversed(self._shown))):
            return True
        self.repeats = False
        _keep(self._shown, stamp, None)
        return False


def _keep(newest: dict[int, Any], stamp: int, value: Any) -> None:
    """Store a value as the newest entry, and remove the oldest beyond ``KEPT_STAMPS``."""
    newest.pop(stamp, None)
    newest[stamp] = value
    if len(newest) > KEPT_STAMPS:
        del newest[next(iter(newest))]


class _UrlConnection:
    """A stream, read by PyAV with time limits for opening and for each packet.

    A stream with a size or a length is a served file: it ends at its end, and after a cut it goes on from there.
    Anything else that ends was cut off. Files, and playlists that bring seconds of video at once, are played at the
    speed of their timestamps.

    Args:
        wait: waits so many seconds, or less and returns True when the source is closed.
        past: the stamps of the connections before.
        verify: whether the certificate of an https or rtsps address is verified.
        report: called with a line about what is left out.
    """

    def __init__(
        self, url: str, timeout_s: float, wait: Callable[[float], bool], past: _Past, verify: bool, report: Report
    ) -> None:
        self._timeout_s, self._wait, self._past, self._report = timeout_s, wait, past, report
        self._name = name = public(url)
        scheme = url.partition("://")[0].lower()
        # FFmpeg analyses 5 s of a stream before the first picture; half a second (in µs) is enough
        options = {"protocol_whitelist": PROTOCOLS[scheme], "analyzeduration": "500000"}
        is_verified = verify and scheme in TLS_PORTS
        if scheme.startswith("rtsp"):
            options["rtsp_flags"] = "prefer_tcp"  # over UDP, pictures arrive with holes
        address, start_s = from_environment(url), time.monotonic()
        try:
            if verify:  # http may redirect to https; without known authorities only that fails
                options["tls_verify"] = "1"
                with contextlib.nullcontext() if is_verified else contextlib.suppress(OSError):
                    options["ca_file"] = trusted_authorities()
            self._container = self._open(address, options, verify and scheme in ("http", "https"))
        except Exception as error:  # the library may raise any exception
            why = self._why(error, start_s, "it does not answer")
            if (host := host_of(url)) is None:
                why = f"{why}; if what stands before its @ is a user and a password, write %2F for a / in them"
            elif not _is_known_host(host):
                why = f"no host is known by the name {host!r}"
            elif is_verified and (fault := certificate_fault(address, timeout_s)):
                why = (
                    f"its certificate is not trusted: {fault}. Put that of the camera, or of its authority, into the "
                    f"file that SSL_CERT_FILE names; --insecure_source {name} takes whoever answers for the camera"
                )
            elif verify and scheme == "http" and isinstance(error, av.error.OSError):  # it may have been redirected
                why = VerifiedParts(timeout_s).fault(address) or why
            raise SourceError(f"{name} cannot be opened: {why}") from None  # FFmpeg's error contains the password
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            self._container.close()
            raise SourceError(f"{name} has no video that can be decoded")
        self._stream = stream
        self.fps = float(stream.average_rate) if stream.average_rate else None
        kind = self._container.format
        is_list = kind.name in LISTS
        self._is_file = bool(self._container.duration) or (not is_list and self._container.size > 0)
        self._is_paced = self._can_repeat = self._is_file or is_list
        # FFmpeg invents times, 25 pictures a second, where a format such as MJPEG has none
        self._has_times = av.format.Flags.no_timestamps not in av.format.Flags(kind.flags)
        self._opened = time.monotonic()
        past.connect()

    def _open(self, address: str, options: dict[str, str], verifies: bool) -> av.container.InputContainer:
        """Open the stream. ``verifies``: also the certificates of a playlist's parts, which FFmpeg does not verify."""
        timeouts = (self._timeout_s, self._timeout_s)
        if not verifies:
            return av.open(address, timeout=timeouts, options=options, metadata_errors="replace")
        others = {"format_whitelist": ",".join(sorted(av.formats_available - LISTS))}
        try:
            return av.open(address, timeout=timeouts, options=options | others, metadata_errors="replace")
        except av.error.ArgumentError:  # FFmpeg's error for a format that is not listed
            parts = VerifiedParts(self._timeout_s, lambda text: self._report(f"{self._name}: {text}"))
        base, separate = parts.redirected(address), options | {"http_persistent": "0"}
        try:
            return av.open(base, timeout=timeouts, options=separate, metadata_errors="replace", io_open=parts.open)
        except EncryptedError:
            if parts.has_https:
                raise
            bare = options | {"protocol_whitelist": "http,tcp,crypto"}  # only protocols without certificates
            return av.open(base, timeout=timeouts, options=bare, metadata_errors="replace")

    def _why(self, error: Exception, since: float, silent: str) -> str:
        if isinstance(error, av.error.ExitError) or time.monotonic() - since >= self._timeout_s:
            return f"{silent} for {self._timeout_s:g} s"
        if (
            type(error) in (OSError, EncryptedError, FetchError) and getattr(error, "strerror", "") is None
        ):  # our own message
            return str(error)
        # only FFmpeg's own messages, and the system's about a socket, never contain the address
        is_plain = isinstance(error, av.error.FFmpegError) or (isinstance(error, ConnectionError) and error.strerror)
        return reason(error) if is_plain else type(error).__name__

    def pictures(self) -> Iterator[_Picture | None]:
        received_s = time.monotonic()
        zero_s: float | None = None  # the time at which the stamp 0 is due
        faults: list[Exception] = []
        # Packets of sound are read too: they show that no pictures come.
        for packet in demux(self._container, faults=faults):
            received_s = time.monotonic()
            if packet.stream is not self._stream:
                yield None
                continue
            if self._can_repeat and packet.pts is not None and packet.time_base is not None:
                self._past.packet(float(packet.pts * packet.time_base), bytes(packet))
            try:
                frames = decode_packet(packet, is_strict=True)
            except UndecodableError:
                yield _Picture(None, None, received_s)
                continue
            for frame in frames:
                stamp_s = frame.time if self._has_times else None
                if self._can_repeat and stamp_s is not None and self._past.was_shown(stamp_s):
                    if not self._is_file:  # a file repeats pictures up to where it was cut off
                        if time.monotonic() - self._opened > self._timeout_s:
                            raise SourceError(NOTHING_NEW)
                        yield None
                    continue
                try:
                    image = None if frame.is_corrupt else _upright(frame, self._name)
                except VideoError:
                    image = None
                if image is None:
                    yield _Picture(None, None, received_s)
                    continue
                captured = received_s
                if self._is_paced and stamp_s is not None:
                    zero_s = received_s - stamp_s if zero_s is None else zero_s
                    early_s = zero_s + stamp_s - time.monotonic()
                    if not 0 <= early_s <= self._timeout_s:  # late, or the times have jumped
                        zero_s -= early_s
                    elif self._wait(early_s):
                        return
                    captured = time.monotonic()
                yield _Picture(image, stamp_s, captured)
            if not frames:
                yield None
        if faults:
            why = self._why(faults[0], received_s, "it has sent nothing")
            why = "it was cut off" if getattr(faults[0], "errno", 0) == errno.EIO else why
            raise SourceError(NOTHING_NEW if self._repeats() else why)
        if not self._is_file:
            raise SourceError(NOTHING_NEW if self._repeats() else "it was cut off")

    def _repeats(self) -> bool:
        return self._past.repeats and not self._is_file

    def close(self) -> None:
        self._container.close()


def _is_known_host(host: str) -> bool:
    with contextlib.suppress(OSError, UnicodeError):
        return bool(socket.getaddrinfo(host, None))
    return False


def _upright(frame: av.VideoFrame, name: str) -> np.ndarray:
    image = to_rgb(frame, name)
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        image = Turn.from_matrix(np.frombuffer(bytes(matrix), dtype=np.int32))(image)
    return np.ascontiguousarray(image)


class UrlSource(_ReconnectingSource):
    """A stream on the network. Its seconds are those of its own timestamps, anchored to the monotonic clock."""

    def __init__(self, url: str, options: LiveOptions) -> None:
        past = _Past()

        def connect() -> _Connection:
            return _UrlConnection(url, options.timeout_s, self._closed.wait, past, options.verify, options.report)

        super().__init__(public(url), connect, False, options)
