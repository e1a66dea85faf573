"""Playlists of this machine: an HTTP server whose list of segments a test lets grow, freezes and turns back."""

import contextlib
import io
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np

from vidact.video.numbered import numbered_picture

FPS = 25
CLOCK = Fraction(1, 90_000)  # seconds; of MPEG-TS


def transport_streams(pictures: Iterable[np.ndarray | int], size: int = 10, begin_s: float = 0.0) -> list[bytes]:
    """Segments of ``size`` pictures each, every one a whole MPEG-TS that begins with a key frame.

    Args:
        pictures: uint8 RGB (H, W, 3), or numbers that are drawn; 25 a second.
        begin_s: the stamp of the first.
    """
    images = [numbered_picture(picture) if isinstance(picture, int) else picture for picture in pictures]
    whole = io.BytesIO()
    with av.open(whole, "w", format="mpegts", options={"mpegts_copyts": "1"}) as container:
        options = {"g": str(size), "keyint_min": str(size), "sc_threshold": "0", "bf": "1", "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", CLOCK
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round((begin_s + i / FPS) / CLOCK), CLOCK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    whole.seek(0)
    found: list[bytes] = []
    with av.open(whole) as source:
        track = source.streams.video[0]
        packets = [packet for packet in source.demux(track) if packet.dts is not None]
        begins = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        for begin, end in itertools.pairwise([*begins, len(packets)]):
            part = io.BytesIO()
            with av.open(part, "w", format="mpegts", options={"mpegts_copyts": "1"}) as out:
                copied = out.add_stream_from_template(track)
                for packet in packets[begin:end]:
                    packet.stream = copied
                    out.mux(packet)
            found.append(part.getvalue())
    return found


class Playlist(ThreadingHTTPServer):
    """A live playlist without an end: what ``show`` lists, until it is called again.

    ``fetched`` are the names of the segments that were asked for, in order; ``moved`` says where names are sent on to,
    ``refused`` with which status others are answered.
    """

    daemon_threads = False  # server_close() waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.text = ""
        self.fetched: list[str] = []
        self.moved: dict[str, str] = {}
        self.refused: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/live.m3u8"

    def show(self, segments: Sequence[bytes], first: int = 0, mark: str = "s", seconds: float = 10 / FPS) -> None:
        """List these segments, the first of them under the media sequence ``first``."""
        names = [f"{mark}{first + i}.ts" for i in range(len(segments))]
        self.files |= dict(zip(names, segments, strict=True))
        lines = "".join(f"#EXTINF:{seconds:.3f},\n{name}\n" for name in names)
        head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"
        self.text = f"{head}#EXT-X-MEDIA-SEQUENCE:{first}\n{lines}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests leave without closing."""


class _Handler(BaseHTTPRequestHandler):
    server: Playlist

    def do_GET(self) -> None:
        name = self.path.lstrip("/").partition("?")[0]
        if name in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[name])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if name in self.server.refused:
            self.send_error(self.server.refused[name])
            return
        if name.endswith(".m3u8"):
            content, kind = self.server.text.encode(), "application/vnd.apple.mpegurl"
        elif name in self.server.files:
            self.server.fetched.append(name)
            content, kind = self.server.files[name], "video/mp2t"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def playlist() -> Iterator[Playlist]:
    """The server, while the block runs."""
    server = Playlist()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
