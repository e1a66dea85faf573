"""The web server: a page that shows what a browser's camera, or a source named at start, is doing.

``server.py`` answers requests, ``access.py`` decides who may ask, ``sessions.py`` joins clients and the network's
streams, ``limits.py`` says how much a client may do, ``monitor.py`` counts and logs, and ``page/`` is what the browser
runs.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vidact.stream.model import StreamModel
from vidact.stream.web.access import OLD_COOKIE, Access, as_the_proxy_says
from vidact.stream.web.limits import POLICY, TOO_MANY, Bucket, Fault, Limits
from vidact.stream.web.monitor import one_line
from vidact.stream.web.sessions import Hub, Session, describe, log_and_close
from vidact.text.packages import how_to_install

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket


PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
SUBPROTOCOL = "vidact"
SHORTEST_TOKEN = 16
CLOSES = {"Connection": "close"}  # sent with the response to a wrong token, to free the connection

# What a browser may do with the page. The page loads nothing from elsewhere and cannot be framed.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
CAMERA_NEEDS = (
    "browsers give a page their camera only over HTTPS or on localhost, and this is neither: from other machines the "
    "page can show the named sources and files, and no camera. Give --certfile and --keyfile, or reach it through "
    "ssh -L {port}:localhost:{port} and open http://localhost:{port} there"
)


# ----------------------------------------------------------------------------------------- the application


def make_app(
    model: StreamModel,
    sources: Mapping[str, str] | None = None,
    *,
    token: str | None = None,
    allow_origins: Sequence[str] = (),
    limits: Limits | None = None,
    proxy: bool = False,
    insecure: Collection[str] = (),
) -> Starlette:
    """Return the application: the page, ``/live``, ``/metrics`` and ``/healthz``.

    Args:
        model: the result of ``load_model``.
        sources: name that clients see → address or path for ``open_source``; addresses are never sent.
        token: the secret that a client must send. None lets in every client, but only under a name of this machine: a
            page of another site may point its name at 127.0.0.1.
        allow_origins: such as https://example.org, where a proxy serves the page under another name.
        limits: the limits of this server.
        insecure: addresses of sources whose certificates are not verified.
        proxy: all requests come through a proxy, which says in X-Forwarded-For and X-Forwarded-Proto who asks, and
            whether by HTTPS.
    """
    _import_uvicorn()
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route, WebSocketRoute

    refuse_access(token, allow_origins)
    if proxy and token is None:
        raise ValueError("--proxy lets in whoever the proxy lets in, from wherever they come: give a token, --token …")
    limits = limits or Limits()
    hub = Hub(model, sources or {}, limits, insecure)
    pages = {path: ((PAGE / file).read_bytes(), kind) for path, (file, kind) in FILES.items()}
    access = Access(token, limits, hub.faults)

    async def page(request: Request) -> Response:
        content, kind = pages[request.url.path]
        return Response(content, media_type=kind)

    async def state(request: Request) -> Response:
        verdict = await access.judge(request)
        if verdict == "too many":
            return JSONResponse({"authorised": False}, 429, CLOSES)
        content: dict[str, Any] = {"authorised": verdict == "welcome"}
        if verdict == "welcome" and hub.names:
            content["sources"] = hub.states()
        response = JSONResponse(content)
        if verdict == "welcome" and OLD_COOKIE in request.cookies and not access.has_logged_in(request):
            access.log_in(request, response)
        return response

    async def login(request: Request) -> Response:
        """Set the cookie for the token, which is in the body and never in an address."""
        client = request.client.host if request.client else "an unknown client"
        if not _same_origin(request, allow_origins):
            hub.faults.log("origin", client, "a page of another origin tried to log in; refused")
            return PlainTextResponse("wrong origin", 403)
        body = b""
        try:
            async for part in request.stream():
                body += part
                if len(body) > 512:
                    return PlainTextResponse("too long", 413)
        except ClientDisconnect:
            return Response(status_code=400)
        if not access.is_token(body.decode("utf-8", "replace")):
            if await access.wrong(request) == "too many":
                return PlainTextResponse("too many tries", 429, CLOSES)
            return PlainTextResponse("wrong token", 403)
        response = Response(status_code=204)
        access.log_in(request, response)
        return response

    async def logout(request: Request) -> Response:
        """Make the page's cookie invalid."""
        if not _same_origin(request, allow_origins):
            return PlainTextResponse("wrong origin", 403)
        response = Response(status_code=204)
        access.log_out(request, response)
        return response

    async def metrics(request: Request) -> Response:
        verdict = await access.judge(request)
        if verdict == "too many":
            return PlainTextResponse("too many wrong tokens", 429, CLOSES)
        if verdict != "welcome":
            return PlainTextResponse("give the token: Authorization: Bearer …", 401)
        return PlainTextResponse(hub.metrics.text(), media_type="text/plain; version=0.0.4")

    async def health(request: Request) -> Response:
        well = hub.is_well()
        return JSONResponse({"status": "ok" if well else "the network's thread has ended"}, 200 if well else 503)

    async def live(websocket: WebSocket) -> None:
        client = websocket.client.host if websocket.client else "an unknown client"
        if not _same_origin(websocket, allow_origins):
            origin = one_line(repr(websocket.headers.get("origin")))[:80]
            await log_and_close(
                websocket, hub, client, Fault("origin", f"a page of {origin} tried to connect; refused")
            )
        elif (verdict := await access.judge(websocket)) == "unknown":
            await log_and_close(websocket, hub, client, Fault("token", "tried to connect without the token; refused"))
        elif verdict != "welcome":  # the wrong token is already logged
            await websocket.close(POLICY)
        else:
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
            if len(hub.sessions) >= limits.sessions:
                full = f"{limits.sessions} sessions are open, and this server allows no more"
                await log_and_close(websocket, hub, client, Fault("full", full, TOO_MANY))
            else:
                await Session(websocket, hub).run()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with hub:
            yield

    app = Starlette(
        routes=[
            *(Route(path, page, methods=["GET"]) for path in FILES),
            Route("/state", state),
            Route("/login", login, methods=["POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route("/metrics", metrics),
            Route("/healthz", health),
            WebSocketRoute("/live", live),
        ],
        lifespan=lifespan,
    )
    app.state.hub, app.state.access, app.state.has_token = hub, access, token is not None
    app.add_middleware(_Guard, hub=hub, any_host=token is not None, proxy=proxy)
    return app


def _same_origin(connection: HTTPConnection, allowed: Sequence[str]) -> bool:
    """Return whether a request comes from this server's page or an allowed origin.

    Browsers send the page's origin. Other programs can forge it, so a request without one is left to the token check.
    """
    origin = connection.headers.get("origin")
    if origin is None or origin in allowed:
        return True
    secure = connection.scope["scheme"] in ("https", "wss")
    return origin == f"{'https' if secure else 'http'}://{connection.headers.get('host', '')}"


class _Guard:
    """The outermost middleware: it checks the Host header, applies a proxy's headers and adds the security headers."""

    def __init__(self, app: Any, hub: Hub, any_host: bool, proxy: bool) -> None:
        self.app, self.hub, self.any_host, self.proxy = app, hub, any_host, proxy
        self.headers = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.proxy:
            scope = as_the_proxy_says(scope)
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if not self.any_host and not is_loopback(_name(host)):
            client = scope["client"][0] if scope.get("client") else "an unknown client"
            self.hub.faults.log("host", client, f"asked for {one_line(repr(host))[:80]}, which is not us; refused")
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": POLICY})
                return
            await send({"type": "http.response.start", "status": 421, "headers": self.headers})
            await send({"type": "http.response.body", "body": b"without a token this server is called localhost only"})
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self.headers]}
            await send(message)

        await self.app(scope, receive, with_headers)


def _name(host: str) -> str:
    """Return the name in a Host header, without the port; "" where it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # such as an open bracket
        return ""


def is_loopback(host: str) -> bool:
    """Return whether the host can be reached only from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------------------------------------- serving


def _import_uvicorn() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn.protocols.websockets.websockets_sansio_impl  # noqa: F401  it needs websockets
    except ImportError as error:
        raise ImportError(
            "the web server needs starlette, uvicorn and websockets: "
            + how_to_install("starlette", "uvicorn", "websockets")
        ) from error


def _protocols(hub: Hub, access: Access) -> tuple[type, type]:
    """Return uvicorn's HTTP and WebSocket protocols with limits on clients, which uvicorn itself does not have."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    limits = hub.limits

    def log_fault(kind: str, protocol: Any, text: str) -> None:
        hub.faults.log(kind, protocol.client[0] if protocol.client else "an unknown client", text)

    class Http(H11Protocol):
        """The HTTP protocol with a timeout for requests and one line in the log for an invalid one."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.begin_wait()
            if len(self.connections) > limits.connections and not access.make_room():
                log_fault("full", self, f"{limits.connections} connections are open, and this server allows no more")
                silent = [http for http in self.connections if isinstance(http, Http) and http.is_silent()]
                oldest = min(silent, key=lambda http: http.since)  # never empty: this connection is silent
                if oldest is self:
                    transport.abort()
                else:
                    self.connections.discard(oldest)
                    oldest.transport.abort()

        def begin_wait(self) -> None:
            """Close the connection unless the client sends a request within ``request_s``."""
            self.since = self.loop.time()
            self.deadline = self.loop.call_later(limits.request_s, self.abort)

        def is_silent(self) -> bool:
            """Return whether no complete request is being answered."""
            return self.cycle is None or self.cycle.response_complete

        def abort(self) -> None:
            if self.transport.get_protocol() is self:  # False after a WebSocket has taken over the connection
                self.transport.abort()

        def on_response_complete(self) -> None:
            self.deadline.cancel()
            self.begin_wait()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self.deadline.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            log_fault("garbage", self, "sent what is no HTTP request; closed")
            with contextlib.suppress(h11.LocalProtocolError):
                super().send_400_response(msg)

    class WebSocket(WebSocketsSansIOProtocol):
        """The WebSocket protocol with limits on pings, on pieces of messages and on data after its close frame."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.close_timeout = 2.0
            self.after_close = 0
            self.small = Bucket(200, 400)

        def data_received(self, data: bytes) -> None:
            if self.close_sent:
                self.after_close += len(data)
                if self.after_close > limits.message_bytes:
                    self.transport.abort()
                    return
            super().data_received(data)

        def may_go_on(self) -> bool:
            if self.transport.is_closing():
                return False
            if not self.small.take():
                log_fault("flood", self, "sends too many pings or pieces of messages; closed")
                self.queue.put_nowait({"type": "websocket.disconnect", "code": POLICY, "reason": "flood"})
                self.transport.abort()
                return False
            return True

        def handle_ping(self) -> None:
            if self.may_go_on():
                super().handle_ping()

        def handle_cont(self, event: Any) -> None:
            if self.may_go_on():
                super().handle_cont(event)

        def send_receive_event_to_app(self) -> None:
            if self.curr_msg_data_type == "text":
                try:
                    b"".join(self.frames).decode()
                except UnicodeDecodeError:  # uvicorn would log it with a traceback
                    self.conn.send_close(1007)
                    self.handle_parser_exception()
                    return
            super().send_receive_event_to_app()

    return Http, WebSocket


def make_server(
    app: Starlette,
    host: str = "127.0.0.1",
    port: int = 8000,
    certfile: Path | None = None,
    keyfile: Path | None = None,
) -> uvicorn.Server:
    """A server for the application, ready to run; checks the certificate now.

    Raises ValueError for an application without a token on an address that other machines can reach.
    """
    _import_uvicorn()
    import uvicorn

    hub: Hub = app.state.hub
    http, websocket = _protocols(hub, app.state.access)
    if not app.state.has_token and not is_loopback(host):
        raise ValueError(f"{host} can be reached from other machines, and that needs a token: make_app(…, token=…)")
    refuse_certificate(certfile, keyfile)
    config = uvicorn.Config(
        app,
        host,
        port,
        http=http,
        ws=websocket,
        ws_max_size=hub.limits.message_bytes,
        ws_ping_interval=10,
        ws_ping_timeout=10,
        ws_per_message_deflate=False,  # JPEGs do not get smaller
        access_log=False,
        log_config=None,
        log_level="error",
        proxy_headers=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=3,
        ssl_certfile=certfile,
        ssl_keyfile=keyfile,
    )

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            while app.state.access.make_room():  # waiting wrong tokens must not delay the shutdown
                pass
            await super().shutdown(sockets)

    return Server(config)


def serve(
    model: StreamModel,
    sources: Mapping[str, str] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    allow_origins: Sequence[str] = (),
    limits: Limits | None = None,
    proxy: bool = False,
    insecure: Collection[str] = (),
) -> None:
    """Serve the page until the process is stopped.

    Args:
        model: the result of ``load_model``.
        sources: name that clients see → address or path for ``open_source``.
        host: an address of this machine; one that others can reach needs a token, which is made where none is given.
        port: TCP port, 1 to 65535.
        token: the secret that a client must send, 16 characters or more.
        certfile: certificate for HTTPS, a PEM file.
        keyfile: its key, a PEM file; None where the certfile also contains the key.
        allow_origins: where a proxy serves the page under another name.
        limits: the limits of this server.
        insecure: addresses of sources whose certificates are not verified.
        proxy: all requests come through a proxy, which says who asks.
    """
    new_token = None if token or (is_loopback(host) and not proxy) else secrets.token_urlsafe(24)
    token = token or new_token
    app = make_app(
        model, sources, token=token, allow_origins=allow_origins, limits=limits, proxy=proxy, insecure=insecure
    )
    server = make_server(app, host, port, certfile, keyfile)
    refuse_taken_port(host, port)
    for line in greeting(model, sources or {}, host, port, new_token, certfile is not None):
        print(line, flush=True)
    server.run()


def refuse_access(token: str | None, allow_origins: Sequence[str]) -> None:
    """Raise ValueError for a token that is too short or has other signs, and for an origin that no page can have."""
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ValueError(f"the token has {len(token)} characters; give {SHORTEST_TOKEN} or more, or let one be made")
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise ValueError("the token goes into cookies and headers: letters, digits and the signs - _ . ~ alone")
    for origin in allow_origins:
        if not re.fullmatch(r"https?://[^/?#@\sA-Z]+", origin):
            raise ValueError(
                f"{origin!r} is no origin, so no page could ever have it; write https:// or http://, the host in small "
                "letters, the port if it has one, and nothing more: https://example.org"
            )


def refuse_certificate(certfile: Path | None, keyfile: Path | None) -> None:
    """Raise ValueError for a key without a certificate, and for files that are not a certificate with its key."""
    if keyfile is not None and certfile is None:
        raise ValueError("a keyfile alone makes no HTTPS; give its certificate with --certfile too")
    if certfile is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
        except (ssl.SSLError, OSError) as error:
            named = f"{certfile}" + (f" and {keyfile}" if keyfile else "")
            raise ValueError(f"{named} make no certificate with its key ({error}); both are PEM files") from error


def refuse_taken_port(host: str, port: int) -> None:
    """Raise OSError where the port cannot be used, ValueError where host or port is invalid."""
    if not 0 < port < 2**16:
        raise ValueError(f"--port is {port}; ports are 1 to 65535")
    own_address = "give one of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for everybody"
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"--host is {host}, which is no address ({error.strerror}); {own_address}") from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ValueError(
                    f"--host is {host}, which is not this machine's ({error.strerror}); {own_address}"
                ) from None
            raise OSError(f"cannot serve on {host} port {port} ({error.strerror}); choose another --port") from error


def greeting(
    model: StreamModel, sources: Mapping[str, str], host: str, port: int, token: str | None, secure: bool
) -> list[str]:
    """Return the lines printed at start: the page's address, a generated ``token``, and what will not work."""
    name = "localhost" if is_loopback(host) else socket.gethostname() if host in ("0.0.0.0", "::") else host
    address = f"{'https' if secure else 'http'}://{f'[{name}]' if ':' in name else name}:{port}/"
    lines = [
        f"vidact serve: {describe(model)}",
        f"page:     {address}" + (f"#token={token}" if token else ""),
        f"sources:  {', '.join(['the camera of the browser', *sources])}",
    ]
    if token:
        lines.append(f"token:    {token}  (behind # above, where no browser sends it and no proxy logs it)")
    if not secure and not is_loopback(host):
        lines.append(f"note:     {CAMERA_NEEDS.format(port=port)}")
        lines.append("note:     without HTTPS the networks between can read the token and the pictures")
    return lines
