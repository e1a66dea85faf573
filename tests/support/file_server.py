"""A server of files on 127.0.0.1 that can cut, redirect and refuse, and that counts its requests."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from support.http_server import answering


@dataclass
class FileServer:
    """What the server has and does.

    Args:
        files: content by path.
        cuts: bytes after which the next responses end early, one a response; None does not cut.
        statuses: status to refuse a path with.
        redirects: path to redirect a path to.
        has_ranges: whether a part of a file can be requested.
        kind: the Content-Type.
        pause: set to let the responses begin.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int | None] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    has_ranges: bool = True
    has_length: bool = True
    kind: str = "application/octet-stream"
    pause: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def __post_init__(self) -> None:
        self.pause.set()


@contextlib.contextmanager
def serving(**settings: object) -> Iterator[FileServer]:
    """Serve files until the block ends."""
    server = FileServer(**settings)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, self.headers.get("Range")))
            server.pause.wait(30)
            path = self.path
            if path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status = server.statuses.get(path, 200 if path in server.files else 404)
            if status != 200:
                self.send_error(status)
                return
            content = server.files[path]
            etag = f'"{hashlib.md5(content).hexdigest()}"'
            start, requested = 0, self.headers.get("Range")
            if requested and server.has_ranges and self.headers.get("If-Range") == etag:
                start = int(requested.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if server.has_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", server.kind)
            self.send_header("ETag", etag)
            self.end_headers()
            cut = server.cuts.pop(0) if server.cuts else None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client may want no more
                self.wfile.write(content[start:] if cut is None else content[start : start + cut])
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    with answering(Handler, server.pause) as server.address:
        yield server
