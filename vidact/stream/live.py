"""Live sources: a camera, a stream on the network or frames that are pushed in; the newest picture counts."""

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

# What FFmpeg may open for a URL of each scheme, playlists and redirections included: nothing local.
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
LAG_S = 2.0  # a stream's own times may lie so far behind the wall clock: it stalled, and what it held back comes
JUMP_S = 5.0  # a stream's own clock that leaves the wall clock by more at once was set, and is said to have been
WRAP_S = 2**33 / 90_000  # after which a transport stream counts from 0 again
LEAD_S = 30.0  # pushed times may run so far ahead of the wall clock: a short file may be pushed at once

REPEAT_S = 3600.0  # an attempt that fails after the longest pause, for the same reason, is told once in so long
KEPT_DIGESTS = 16  # packets of one stamp that are told apart; FFmpeg gives two or three
KEPT_STAMPS = 4096  # pictures of a playlist by which what is given again is known: a minute at 60 pictures a second
SAME_CLOCK_S = 1.5  # a stamp between two known ones that are nearer to each other belongs to another clock
FAR_BACK_S = 60.0  # so far before everything that was seen no playlist goes back; a clock that began anew does

NOTHING_NEW = "it gives nothing that it has not given before"


# ----------------------------------------------------------------------------------------------------------------------
# Live sources: the newest picture, and the time


class _Seconds:
    """A live source's own timestamps as seconds since it was opened: never backwards, never far from the wall clock.

    Their begin is anchored to the wall clock, and again when they jump backwards, lag behind it by more than ``lag_s``
    or run ahead of it by more than ``lead_s``. With ``lead_s`` 0 the picture that came with the least delay sets the
    anchor, so a burst of old pictures at the beginning does not shift all the others. ``jump_s`` is by how much the
    newest stamp runs ahead of what the wall clock says of the one before, or falls behind that one; 0 where it does so
    by less than 5 s.
    """

    def __init__(self, lead_s: float, lag_s: float, offset_s: float = -math.inf) -> None:
        self._lead_s, self._lag_s, self._offset_s = lead_s, lag_s, offset_s
        self._last_s = self.jump_s = 0.0
        self._before: tuple[float, float] | None = None  # the newest stamp, and when it came
        self._held_s = 0.0  # by how much the stamps lag behind the wall clock: what was held back may come at once

    def begin_anew(self) -> None:
        """The stamps that follow have another begin; the seconds go on."""
        self._offset_s = -math.inf
        self._before, self._held_s = None, 0.0

    def __call__(self, stamp_s: float | None, now_s: float) -> float:
        """The seconds of a picture stamped ``stamp_s`` (None: no stamp) that came ``now_s`` after the opening."""
        newest_s = max(now_s, self._last_s)
        seconds = newest_s
        self.jump_s = 0.0
        if stamp_s is not None:
            if self._before is not None:
                ahead_s = stamp_s - self._before[0] - (now_s - self._before[1])
                if ahead_s - self._held_s > JUMP_S or stamp_s - self._before[0] < -JUMP_S:
                    # FFmpeg takes a transport stream's clock that was set back for one that has wrapped
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
    """One place for one picture: a newer one takes it."""

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
        """``self._changed`` is held by the caller."""
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
    """Pictures that someone pushes, such as a browser: holds one at most, however fast they come."""

    def __init__(self, name: str = "pushed") -> None:
        super().__init__(name, _Seconds(LEAD_S, math.inf, offset_s=0.0))

    def push(self, image: np.ndarray, seconds: float | None = None) -> None:
        """Show a picture to whoever iterates; ignored once the source is closed. The array is kept, not copied.

        Args:
            image: (H, W, 3) uint8 RGB.
            seconds: the pusher's own time of the picture; None is the time of arrival. Where it goes backwards, as when
                a video begins again, or runs more than 30 s ahead of the wall clock, it is anchored anew: time goes on,
                and no client makes hours of work out of one picture.
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
    """What a connection delivers."""

    image: np.ndarray | None  # None: a corrupt one
    stamp_s: float | None  # by the stream's own clock, from anywhere
    captured: float


class _Connection(Protocol):
    """A camera or stream that is open now. Only one thread uses it at a time."""

    fps: float | None

    def pictures(self) -> Iterator[_Picture | None]:
        """Ends where the source ends. None: something came, but no picture. Raises SourceError when it is lost."""

    def close(self) -> None: ...


class Keeping(NamedTuple):
    """How a camera or stream is kept: the arguments of ``open_source``."""

    timeout_s: float
    retry_s: float
    waits: bool
    verify: bool
    report: Report
    report_state: StateReport


class _ReconnectingSource(_NewestSource):
    """A thread reads one connection after another and puts down the newest picture.

    Args:
        connect: opens a connection, or raises SourceError.
        hangs: reading may hang for ever. Then whoever waits for a picture leaves that reader behind after
            ``timeout_s`` and starts another.
        keeps: with ``waits``, the first connection is opened by the thread, too.
    """

    def __init__(self, name: str, connect: Callable[[], _Connection], hangs: bool, keeps: Keeping) -> None:
        super().__init__(name, _Seconds(0.0, LAG_S))
        self._connect, self._hangs, self._timeout_s = connect, hangs, keeps.timeout_s
        self._report, self._report_state = keeps.report, keeps.report_state
        self._first_retry_s = self._retry_s = keeps.retry_s
        self._state, self._has_been_open = "", not keeps.waits
        self._told, self._told_at = "", -math.inf  # the newest line about a failed attempt
        self._lost_at: float | None = None if self._has_been_open else time.monotonic()
        self._is_reading = True
        self._readers: list[threading.Thread] = []
        connection = None if keeps.waits else connect()
        self.fps = connection.fps if connection else None
        self._opened = self._heard = time.monotonic()
        self._start(connection, "")

    def close(self) -> None:
        """End the iteration at once, then wait up to 2 s for the reader to close the camera or stream.

        A reader that hangs in the network or in a driver cannot be interrupted; it closes them as soon as it returns,
        at the latest after the timeout.
        """
        super().close()
        begin = time.monotonic()
        for reader in self._readers:
            if reader is not threading.current_thread():
                reader.join(max(0.0, begin + CLOSE_S - time.monotonic()))

    # -- whoever waits

    def _wait(self) -> None:
        if not (self._hangs and self._is_reading):
            self._changed.wait(self._timeout_s)
        elif (left := self._heard + self._timeout_s - time.monotonic()) > 0:
            self._changed.wait(left)
        else:
            self._start(None, f"it has given no picture for {self._timeout_s:g} s")

    def _start(self, connection: _Connection | None, why: str) -> None:
        """A new reader; the one before, if any, puts nothing down from now on."""
        self._is_reading = connection is not None
        self._readers = [reader for reader in self._readers if reader.is_alive()]
        self._reader = threading.Thread(target=self._read, args=(connection, why), name=self.name, daemon=True)
        self._readers.append(self._reader)
        self._reader.start()

    # -- the reader

    def _is_on_duty(self) -> bool:
        return threading.current_thread() is self._reader and not self._closed.is_set()

    def _read(self, connection: _Connection | None, why: str) -> None:
        try:
            while self._is_on_duty():
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
        except Exception as error:  # a fault in this file or in on_event belongs to whoever iterates
            if self._is_on_duty():
                self._failure = error
        finally:
            if connection is not None:
                connection.close()
            with self._changed:
                self._has_ended = self._has_ended or threading.current_thread() is self._reader
                self._changed.notify_all()

    def _play(self, connection: _Connection) -> str | None:
        """Read until the connection is lost, and say why; None where it ended, or nobody wants more."""
        with self._changed:
            if not self._is_on_duty():  # closed while it was opened
                return None
            self._seconds.begin_anew()
            self._heard, self._is_reading = time.monotonic(), True
        try:
            for picture in connection.pictures():
                if not self._is_on_duty():
                    return None
                if picture is not None and picture.image is not None:
                    self._deliver(picture.image, picture)
                    continue
                self.skipped += picture is not None
                if time.monotonic() - self._heard > self._timeout_s:
                    return f"it has given no picture for {self._timeout_s:g} s"
            return None
        except SourceError as error:
            return str(error)
        finally:
            if self._is_on_duty():
                self._is_reading = False

    def _deliver(self, image: np.ndarray, picture: _Picture) -> None:
        if self._lost_at is not None:
            if self._told:  # it was waited for
                back = "is back" if self._has_been_open else "is open"
                self._report(f"{self.name} {back} after {time.monotonic() - self._lost_at:.1f} s")
            self._lost_at, self._retry_s, self._told = None, self._first_retry_s, ""
        if self._state != "open":
            self._state, self._has_been_open = "open", True
            self._report_state("open", "")
        with self._changed:
            self._heard = time.monotonic()
            if not self._is_on_duty():
                return
            self._put(image, picture.stamp_s, picture.captured)
            jump_s = self._seconds.jump_s
        if jump_s:
            self._report(f"{self.name}: its own clock jumps by {jump_s:+.1f} s; its seconds go on")

    def _reconnect(self, why: str) -> _Connection | None:
        """Open it again, however often that fails; None when nobody wants it any more."""
        self._lost_at = self._lost_at or time.monotonic()
        message = f"{self.name} is lost: {why}" if why else ""  # none: it has not been tried yet
        while self._is_on_duty():
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
        """Tell what failed and wait before the next attempt; whether nobody wants one any more."""
        if self._state != "lost":
            self._state = "lost"
            self._report_state("lost", message)
        # A source that is away for days is no line every 30 s.
        line = f"{message}; trying again in {self._retry_s:g} s"
        is_known = line == self._told
        if not is_known or time.monotonic() - self._told_at >= REPEAT_S:
            again = " (told once an hour)" if is_known else ""
            self._report(line + again)
            self._told, self._told_at = line, time.monotonic()
        if self._closed.wait(self._retry_s):
            return True
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
        return False


# -- cameras


class Capture(Protocol):
    """What is needed of ``cv2.VideoCapture``."""

    def isOpened(self) -> bool: ...
    def grab(self) -> bool:
        """Wait for the next picture and take it; False when the camera is gone."""

    def retrieve(self) -> tuple[bool, Any]:
        """Whether the picture that was taken can be read, and it: (H, W, 3) uint8 BGR."""

    def get(self, prop: int, /) -> float: ...
    def release(self) -> None: ...


def _has_device(index: int) -> bool:
    return sys.platform != "linux" or Path(f"/dev/video{index}").exists()


def opencv_capture(index: int) -> Capture:
    import cv2

    capture = cv2.VideoCapture()
    if _has_device(index):  # OpenCV complains on the terminal about absent ones
        capture.open(index)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a driver's queue holds pictures of the past
    return capture


def find_cameras(capture: Callable[[int], Capture] = opencv_capture) -> list[int]:
    """The numbers, of the first eight, under which a camera can be opened; each is opened for that, for a moment."""
    found = []
    for index in range(CAMERAS):
        camera = capture(index)
        if camera.isOpened():
            found.append(index)
        camera.release()
    return found


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

    def __init__(self, index: int, capture: Callable[[int], Capture], keeps: Keeping) -> None:
        def connect() -> _Connection:
            return _CameraConnection(index, capture)

        try:
            super().__init__(f"camera {index}", connect, True, keeps)
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
    """What a playlist or a served file has shown, by its own stamps, so that a new connection shows no more than what
    came since.

    A playlist that has stopped growing gives its last segments to every connection, and a file that was cut off begins
    at its begin. So the pictures with which a connection begins are passed over while they are known or not newer than
    the last one that was shown. An encoder that was restarted has lower stamps, too, but other pictures: where another
    packet has a known stamp, or lies between known ones, or far before all of them, the clock began anew and everything
    is new. What follows the first new picture is new.
    """

    def __init__(self) -> None:
        # of the newest packets, by their stamps in µs: more than one where FFmpeg gives two packets of one stamp
        self._digests: dict[int, tuple[int, ...]] = {}
        self._shown: dict[int, None] = {}  # the stamps of the newest pictures that were shown
        self._known: list[int] = []  # the packets' stamps in order, when the connection began
        self.repeats = False  # the connection has given nothing new yet

    def connect(self) -> None:
        self._known = sorted(self._digests)
        self.repeats = bool(self._shown)

    def packet(self, stamp_s: float, content: bytes) -> None:
        """One more packet came."""
        stamp, digest = round(1e6 * stamp_s), hash(content)
        if self.repeats and self._is_of_another_clock(stamp, digest):
            self._digests.clear()
            self._shown.clear()
            self.repeats = False
        others = tuple(one for one in self._digests.get(stamp, ()) if one != digest)
        _keep(self._digests, stamp, (*others[1 - KEPT_DIGESTS :], digest))

    def _is_of_another_clock(self, stamp: int, digest: int) -> bool:
        place = bisect.bisect_left(self._known, stamp)
        if place == len(self._known):
            return False
        if self._known[place] == stamp:
            return digest not in self._digests.get(stamp, (digest,))
        if place == 0:
            return self._known[0] - stamp > 1e6 * FAR_BACK_S
        return self._known[place] - self._known[place - 1] < 1e6 * SAME_CLOCK_S

    def was_shown(self, stamp_s: float) -> bool:
        """Whether a picture of this connection is of the past; if not, it and whatever follows are shown."""
        stamp = round(1e6 * stamp_s)
        if self.repeats and (stamp in self._shown or stamp <= next(reversed(self._shown))):
            return True
        self.repeats = False
        _keep(self._shown, stamp, None)
        return False


def _keep(kept: dict[int, Any], stamp: int, value: Any) -> None:
    """As the newest of the last so many."""
    kept.pop(stamp, None)
    kept[stamp] = value
    if len(kept) > KEPT_STAMPS:
        del kept[next(iter(kept))]


class _UrlConnection:
    """A stream, read by PyAV with time limits for opening and for each packet.

    What knows its size or its length is a file that someone serves, and it ends where it ends; if it is cut off, it
    goes on from there. Anything else that ends was cut off. Files, and playlists that bring seconds of video at once,
    are played at the speed of their timestamps.

    Args:
        wait: waits so many seconds, or less and returns True when nobody wants more.
        past: of the connections before.
        verify: the certificate of an https or rtsps address is looked at.
        report: told of what is left out.
    """

    def __init__(
        self, url: str, timeout_s: float, wait: Callable[[float], bool], past: _Past, verify: bool, report: Report
    ) -> None:
        self._timeout_s, self._wait, self._past, self._report = timeout_s, wait, past, report
        self._name = name = public(url)
        scheme = url.partition("://")[0].lower()
        # FFmpeg looks at 5 s of a stream before it gives the first picture; half a second (in µs) tells enough
        options = {"protocol_whitelist": PROTOCOLS[scheme], "analyzeduration": "500000"}
        is_verified = verify and scheme in TLS_PORTS
        if scheme.startswith("rtsp"):
            options["rtsp_flags"] = "prefer_tcp"  # over UDP, pictures arrive with holes
        address, begin = from_environment(url), time.monotonic()
        try:
            if verify:  # http may be sent on to https; where no authorities are known, only that fails
                options["tls_verify"] = "1"
                with contextlib.nullcontext() if is_verified else contextlib.suppress(OSError):
                    options["ca_file"] = trusted_authorities()
            self._container = self._open(address, options, verify and scheme in ("http", "https"))
        except Exception as error:  # whatever the library raises
            why = self._why(error, begin, "it does not answer")
            if (host := host_of(url)) is None:
                why = f"{why}; if what stands before its @ is a user and a password, write %2F for a / in them"
            elif not _is_known_host(host):
                why = f"no host is known by the name {host!r}"
            elif is_verified and (fault := certificate_fault(address, timeout_s)):
                why = (
                    f"its certificate is not trusted: {fault}. Put that of the camera, or of its authority, into the "
                    f"file that SSL_CERT_FILE names; --insecure_source {name} takes whoever answers for the camera"
                )
            elif verify and scheme == "http" and isinstance(error, av.error.OSError):  # perhaps it was sent on
                why = VerifiedParts(timeout_s).fault(address) or why
            raise SourceError(f"{name} cannot be opened: {why}") from None  # FFmpeg's error holds the password
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
        """The stream; ``verifies``: the certificates of what a playlist names too, which FFmpeg does not."""
        timeouts = (self._timeout_s, self._timeout_s)
        if not verifies:
            return av.open(address, timeout=timeouts, options=options, metadata_errors="replace")
        others = {"format_whitelist": ",".join(sorted(av.formats_available - LISTS))}
        try:
            return av.open(address, timeout=timeouts, options=options | others, metadata_errors="replace")
        except av.error.ArgumentError:  # FFmpeg's word for another format
            parts = VerifiedParts(self._timeout_s, lambda text: self._report(f"{self._name}: {text}"))
        place, alone = parts.redirected(address), options | {"http_persistent": "0"}
        try:
            return av.open(place, timeout=timeouts, options=alone, metadata_errors="replace", io_open=parts.open)
        except EncryptedError:
            if parts.has_https:
                raise
            bare = options | {"protocol_whitelist": "http,tcp,crypto"}  # no certificates, nor any later
            return av.open(place, timeout=timeouts, options=bare, metadata_errors="replace")

    def _why(self, error: Exception, since: float, silent: str) -> str:
        if isinstance(error, av.error.ExitError) or time.monotonic() - since >= self._timeout_s:
            return f"{silent} for {self._timeout_s:g} s"
        if (
            type(error) in (OSError, EncryptedError, FetchError) and getattr(error, "strerror", "") is None
        ):  # our own words
            return str(error)
        # only FFmpeg's own words, and the system's of a socket, are known to be without the address
        is_plain = isinstance(error, av.error.FFmpegError) or (isinstance(error, ConnectionError) and error.strerror)
        return reason(error) if is_plain else type(error).__name__

    def pictures(self) -> Iterator[_Picture | None]:
        heard = time.monotonic()
        begin: float | None = None  # when the stamp 0 is due
        faults: list[Exception] = []
        # the packets of sound too: they show that no pictures come
        for packet in demux(self._container, faults=faults):
            heard = time.monotonic()
            if packet.stream is not self._stream:
                yield None
                continue
            if self._can_repeat and packet.pts is not None and packet.time_base is not None:
                self._past.packet(float(packet.pts * packet.time_base), bytes(packet))
            try:
                frames = decode_packet(packet, is_strict=True)
            except UndecodableError:
                yield _Picture(None, None, heard)
                continue
            for frame in frames:
                stamp_s = frame.time if self._has_times else None
                if self._can_repeat and stamp_s is not None and self._past.was_shown(stamp_s):
                    if not self._is_file:  # of a file, that is on the way to where it was cut off
                        if time.monotonic() - self._opened > self._timeout_s:
                            raise SourceError(NOTHING_NEW)
                        yield None
                    continue
                try:
                    image = None if frame.is_corrupt else _upright(frame, self._name)
                except VideoError:
                    image = None
                if image is None:
                    yield _Picture(None, None, heard)
                    continue
                captured = heard
                if self._is_paced and stamp_s is not None:
                    begin = heard - stamp_s if begin is None else begin
                    early_s = begin + stamp_s - time.monotonic()
                    if not 0 <= early_s <= self._timeout_s:  # late, or the times have jumped
                        begin -= early_s
                    elif self._wait(early_s):
                        return
                    captured = time.monotonic()
                yield _Picture(image, stamp_s, captured)
            if not frames:
                yield None
        if faults:
            why = self._why(faults[0], heard, "it has sent nothing")
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

    def __init__(self, url: str, keeps: Keeping) -> None:
        past = _Past()

        def connect() -> _Connection:
            return _UrlConnection(url, keeps.timeout_s, self._closed.wait, past, keeps.verify, keeps.report)

        super().__init__(public(url), connect, False, keeps)
