"""Servers on 127.0.0.1 that run in a thread while a test uses them."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def answering(handler: type[BaseHTTPRequestHandler], pause: threading.Event) -> Iterator[str]:
    """Answer requests until the block ends; yield the address. ``pause``, at which answers wait, is set at the end."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        pause.set()
        http.shutdown()
        thread.join()
        http.server_close()
