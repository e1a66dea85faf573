"""The sources of a stream: cameras, files, streams on the network and browsers become pictures with their times.

A live source (camera, URL, browser) keeps only the newest picture and counts those it dropped, so a slow reader gets
fewer pictures and no old ones. A file drops nothing, whether it is paced in real time or not.

A camera or stream that is lost, or delivers no picture for ``timeout_s``, is opened again, with pauses that double
until a new picture comes. Its time goes on meanwhile: seconds never go backwards. Pictures that a playlist or a served
file repeats on a new connection are not shown again. Corrupt pictures are skipped and counted.

Shapes: H x W pixels.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vidact.data.time_origin import TimeOrigin, check_origin
from vidact.stream.certificates import (
    TLS_PORTS,
)
from vidact.stream.grabs import Grab, Report, Source, SourceError, StateReport
from vidact.stream.live import PROTOCOLS, CameraSource, Capture, LiveOptions, UrlSource, opencv_capture
from vidact.text.addresses import from_environment, public, refuse_signs
from vidact.text.names import counted
from vidact.video.decode import ImageFolderReader, VideoError, VideoReader, _natural, open_video
from vidact.video.folders import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_hidden

log = logging.getLogger(__name__)

EMPTY = "a source is empty; give a camera's number (0), a file, a folder, or a URL such as rtsp://…"


def open_source(
    uri: str | int | Path,
    *,
    realtime: bool | None = None,
    fps: float | None = None,
    timeout_s: float = 10.0,
    retry_s: float = 0.5,
    waits: bool = False,
    verify: bool = True,
    on_event: Report | None = None,
    on_state: StateReport | None = None,
    capture: Callable[[int], Capture] | None = None,
    time_origin: TimeOrigin = "first_frame",
) -> Source:
    """Open a camera, a file, a folder or a URL.

    Args:
        uri: a camera's number ("0"), a video file, a folder of images (one video) or of videos, or an rtsp, rtsps, http
            or https URL. The videos of a folder are one source: each begins where the one before ended, so state, time
            and events go on from file to file, under the folder's name. For separate results, open them one by one.
        realtime: True plays a file at its own speed, None or False as fast as it is read. Cameras and URLs always run
            in real time.
        fps: pictures a second of a folder of images (default 25).
        timeout_s: a camera or stream that gives no answer or no picture for so long is lost.
        retry_s: the pause before a lost one is opened again; it doubles with each attempt, up to 30 s.
        waits: a camera or stream that cannot be opened now is tried again, as a lost one is, instead of raising an
            error. What can never be a source, such as ``ftp://`` or a path that does not exist, still raises one.
        verify: an https or rtsps address has to have a certificate of an authority that this machine trusts, or that
            is in the file that the environment's SSL_CERT_FILE names. False accepts any server as the camera.
        on_event: called with one line when a source is lost, is back, or a file is damaged; from the thread in which
            that happens. None logs it as a warning.
        on_state: called with "open" at the first picture of a camera or stream and whenever it is back, with "lost"
            when it is lost or cannot be opened, and with the reason; from the source's thread.
        capture: opens a camera by number; None is OpenCV.
        time_origin: the zero of a file's seconds: its first picture, or with "file" the beginning of the file, as in
            players. They differ where sound comes first. A live source counts from its opening.

    Raises FileNotFoundError, VideoError or SourceError for a source that cannot be opened now; without ``waits`` only a
    source that has been open once is opened again.
    """
    if not timeout_s > 0 or not retry_s > 0:
        raise ValueError(f"timeout_s is {timeout_s} and retry_s {retry_s}; both are seconds above 0")
    check_origin(time_origin)
    live_options = LiveOptions(
        timeout_s, retry_s, waits, verify, on_event or log.warning, on_state or (lambda state, why: None)
    )
    text = str(uri)
    if not text.strip():
        raise SourceError(EMPTY)
    camera = re.fullmatch(r"(?:/dev/video)?(\d+)", text)
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", text, re.IGNORECASE)
    if isinstance(uri, Path) or not (camera or scheme):
        return _open_path(Path(text), bool(realtime), fps, time_origin, live_options.report)
    if realtime is False or fps is not None:
        name = public(text) if scheme else f"camera {text}"
        option = "realtime=False" if realtime is False else f"fps={fps:g}"
        raise ValueError(f"{name} runs in real time at its own rate; {option} is for files")
    if camera:
        return CameraSource(int(camera[1]), capture or opencv_capture, live_options)
    refuse_address(text)
    return UrlSource(text, live_options)


def is_live_address(address: str) -> bool:
    """Return whether an address is a camera or a stream on the network; these are opened once for all clients."""
    return re.fullmatch(r"(/dev/video)?\d+", address) is not None or "://" in address


def without_certificates(names: Sequence[str], named: Mapping[str, str]) -> set[str]:
    """Return the addresses of ``named`` sources that are not to be verified; ``names`` are names or addresses.

    Raises ValueError for a name that is none of theirs, and for a source that has no certificate.
    """
    addresses = set()
    for text in names:
        address = named.get(text) or next((uri for uri in named.values() if text in (uri, public(uri))), None)
        if address is None:
            raise ValueError(
                f"--insecure_source is {public(text)}, and the sources are {', '.join(named)}; name one of them"
            )
        if address.partition("://")[0].lower() not in (*TLS_PORTS, "http"):  # http may redirect to https
            raise ValueError(f"--insecure_source is {public(text)}, which has no certificate; leave it out")
        addresses.add(address)
    return addresses


def refuse_address(url: str) -> None:
    """Raise SourceError for a URL that certainly cannot be opened, by its scheme or its user and password."""
    refuse_scheme(url)
    try:
        refuse_signs(url)
        from_environment(url)
    except ValueError as error:
        raise SourceError(str(error)) from None


def refuse_scheme(url: str) -> None:
    """Raise SourceError for a URL whose scheme is not supported."""
    scheme = url.partition("://")[0]
    if scheme.lower() not in PROTOCOLS:
        raise SourceError(
            f"{public(f'{scheme}://')} is not a kind of source; use "
            f"{', '.join(f'{name}://' for name in PROTOCOLS)}, a camera's number, or the path of a file or folder"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Files and folders


def _open_path(path: Path, realtime: bool, fps: float | None, time_origin: TimeOrigin, report: Report) -> FileSource:
    if not path.exists():
        raise FileNotFoundError(
            f"{public(str(path))} does not exist; a source is a camera's number (0), a file, a folder, or a URL such "
            "as rtsp://…"
        )
    if not path.is_dir():
        return FileSource([path], str(path), realtime, fps, time_origin, report)
    videos, images = files_of(path)
    if videos and images:
        raise SourceError(
            f"{path} holds {counted(len(videos), 'video')} and {counted(len(images), 'image')}; a folder is played as "
            "the one or the other, so put them into folders of their own"
        )
    if not videos and not images:
        raise SourceError(f"{path} is a folder without videos or images; name a file, or a folder that has some")
    return FileSource(videos or [path], str(path), realtime, fps, time_origin, report)


def files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the videos and the images directly in a folder, each in natural order: 2 before 10."""
    files = sorted((file for file in folder.iterdir() if file.is_file() and not is_hidden(file.name)), key=_natural)
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    return videos, [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


class FileSource(Source):
    """A source of every picture of a file, of a folder of images, or of several files, one after another.

    The pictures and times are those of ``open_video``. A damaged file is played as far as it can be decoded, and that
    is reported. Files whose container's index cannot always be trusted (AVI, MPEG-TS, …) are decoded once before their
    first picture, which takes a while for a long one.
    """

    is_live = False

    def __init__(
        self,
        paths: Sequence[Path],
        name: str,
        realtime: bool,
        fps: float | None,
        time_origin: TimeOrigin,
        report: Report,
    ) -> None:
        self.name, self._time_origin = name, time_origin
        self.realtime = realtime
        self._folder_fps, self._report = fps, report
        self._count, self._coming = len(paths), iter(paths)
        self._closed = threading.Event()
        self._decoding = threading.RLock()  # no other thread closes a file that is being read
        video = self._next_video()
        if video is None:
            raise VideoError(f"none of the {len(paths)} videos in {name} can be read")
        self._video: VideoReader = video
        self.fps = video.fps
        self._origin_s = 0.0  # the zero of the file that is played, in that file's seconds
        self._pictures = self._play()
        self._began: float | None = None

    def __next__(self) -> Grab:
        with self._decoding:
            if self._closed.is_set():
                raise StopIteration
            seconds, image = next(self._pictures)
        if self.realtime:
            if self._began is None:
                self._began = time.monotonic() - seconds
            if self._closed.wait(max(0.0, self._began + seconds - time.monotonic())):
                raise StopIteration
        return Grab(seconds, np.ascontiguousarray(image), time.monotonic(), 0)

    def close(self) -> None:
        self._closed.set()
        with self._decoding:
            self._video.close()

    def _next_video(self) -> VideoReader | None:
        """Return the next file that opens. A single file must open; of several, those that do not are reported."""
        for path in self._coming:
            try:
                return open_video(path, fps=self._folder_fps)
            except VideoError as error:
                if self._count == 1:
                    raise
                self._report(f"left out: {error}")
        return None

    def _play(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield each picture after its seconds since the first file's first picture, or since that file's beginning."""
        start_s = end = 0.0
        video: VideoReader | None = self._video
        while video is not None:
            try:
                for seconds, image in self._play_video():
                    end = start_s + seconds
                    yield end, image
                end = max(end, start_s + self._video.end_s - self._origin_s)
            except VideoError as error:
                if self._count == 1:
                    raise
                self._report(f"left out: {error}")
                end = end + 1 / self._video.fps
            finally:
                self._video.close()
            if self._closed.is_set():
                return
            start_s = end
            if (video := self._next_video()) is None:
                self.end_s = end
                return
            self._video = video

    def _play_video(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield each picture of a file after its seconds; after damage, as far as the rest can be decoded."""
        if isinstance(self._video, ImageFolderReader):
            yield from self._play_images(self._video)
            return
        first_s: float | None = None
        last_s = -math.inf
        promised: int | None = None
        for attempt in ("as indexed", "as decoded"):
            try:
                times_s = self._video.times_s
                if promised is not None:
                    self.skipped += max(0, promised - len(times_s))
                promised = len(times_s)
                if first_s is None:
                    first_s = self._video.begin_s if self._time_origin == "file" else float(times_s[0])
                    self._origin_s, self._time_origin = first_s, "first_frame"  # the next file follows without a pause
                for number in np.flatnonzero(times_s > last_s).tolist():
                    if self._closed.is_set():
                        return
                    image = next(self._video.pictures([number]))
                    last_s = float(times_s[number])
                    yield max(0.0, last_s - first_s), image
                return
            except VideoError as error:
                if attempt == "as decoded":
                    raise
                self._report(f"{self._video.path} is damaged; playing what can be decoded of it ({error})")
                self._video.close()
                self._video = open_video(self._video.path, index="decode")

    def _play_images(self, folder: ImageFolderReader) -> Iterator[tuple[float, np.ndarray]]:
        for number, time_s in enumerate(folder.times_s.tolist()):
            if self._closed.is_set():
                return
            try:
                image = next(folder.pictures([number]))
            except VideoError as error:
                if number == 0:  # the first image gives the size of the others
                    raise
                self.skipped += 1
                self._report(f"left out: {error}")
                continue
            yield time_s, image
