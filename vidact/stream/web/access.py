"""Access to the web server: the token, the cookie that replaces it in a page, and the limit on guesses.

A client with the token is always let in, however many others guess. A wrong token is counted and logged. After a few
of one address, or of all addresses, wrong tokens wait in a queue, so that guessing is too slow over any number of
connections. A page gets a random cookie for the token; it is invalid for other servers of the same host and ends with
this process.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Literal

from vidact.stream.web.limits import Bucket, Limits
from vidact.stream.web.monitor import Faults

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.responses import Response

TOKEN_SUBPROTOCOL = "vidact.token."  # followed by the token, for programs, which have no page to log in on
OLD_COOKIE = "vidact_token"  # set by earlier versions; contains the token itself. Accepted, and then replaced
KEPT_ADDRESSES = 1000

Verdict = Literal["welcome", "unknown", "wrong", "too many"]  # unknown: no token was brought


class Access:
    """The only check of a client's credentials. Call its methods in the event loop.

    Args:
        token: the secret that a client must send; None lets in every client.
        limits: ``logins``, ``guess_s`` and ``connections`` are used.
        faults: the log of wrong tokens.
    """

    def __init__(self, token: str | None, limits: Limits, faults: Faults) -> None:
        self._token, self._limits, self._faults = token, limits, faults
        self._tries: OrderedDict[str, Bucket] = OrderedDict()
        self._all_tries = Bucket(1 / limits.guess_s, 50)
        self._waiting: deque[asyncio.Future[None]] = deque()  # requests with wrong tokens, until they are answered
        self._timer: asyncio.TimerHandle | None = None
        self._logins: OrderedDict[bytes, None] = OrderedDict()  # hashes of cookies' values, the most recently used last

    def is_token(self, candidate: str) -> bool:
        return self._token is None or hmac.compare_digest(candidate.encode(), self._token.encode())

    def has_logged_in(self, connection: HTTPConnection) -> bool:
        """Return whether the client's cookie was set by ``log_in``."""
        key = _key(connection.cookies.get(_cookie(connection), ""))
        if key not in self._logins:
            return False
        self._logins.move_to_end(key)
        return True

    async def judge(self, connection: HTTPConnection) -> Verdict:
        """Return the verdict on a client's cookie and tokens; a wrong token is logged and may have to wait."""
        if self._token is None or self.has_logged_in(connection):
            return "welcome"
        candidates = _tokens(connection)
        if any(self.is_token(candidate) for candidate in candidates):
            return "welcome"
        return await self.wrong(connection) if candidates else "unknown"

    async def wrong(self, connection: HTTPConnection) -> Verdict:
        """Log a wrong token. After too many of its address, or of all, wait until earlier ones are answered."""
        address = connection.client.host if connection.client else "an unknown client"
        self._faults.log("token", address, "gave a wrong token; refused")
        bucket = self._tries.setdefault(address, Bucket(0.2, 10))
        self._tries.move_to_end(address)
        if len(self._tries) > KEPT_ADDRESSES:
            self._tries.popitem(last=False)
        if bucket.take() and self._all_tries.take():
            return "wrong"
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if len(self._waiting) > self._limits.connections:  # some of the waiting clients have left
            self.make_room()
        self._set_timer()
        await turn
        return "too many"

    def make_room(self) -> bool:
        """Answer the wrong token that has waited longest; False where none waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        return False

    def _set_timer(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limits.guess_s, self._next)

    def _next(self) -> None:
        self._timer = None
        self.make_room()
        self._set_timer()

    def log_in(self, connection: HTTPConnection, response: Response) -> None:
        """Set a new cookie in the response, which lets its page in."""
        if self._token is None:
            return
        if OLD_COOKIE in connection.cookies:
            response.delete_cookie(OLD_COOKIE, path="/")
        value = secrets.token_urlsafe(32)
        self._logins[_key(value)] = None
        if len(self._logins) > self._limits.logins:
            self._logins.popitem(last=False)
        is_secure = connection.scope["scheme"] in ("https", "wss")
        response.set_cookie(_cookie(connection), value, httponly=True, samesite="strict", secure=is_secure, path="/")

    def log_out(self, connection: HTTPConnection, response: Response) -> None:
        """Make the page's cookie invalid and delete it in the response."""
        self._logins.pop(_key(connection.cookies.get(_cookie(connection), "")), None)
        response.delete_cookie(_cookie(connection), path="/")


def _cookie(connection: HTTPConnection) -> str:
    """Return the cookie's name. It contains the port, because browsers send a host's cookies to all of its ports."""
    server = connection.scope.get("server") or ("", None)
    return f"vidact_{server[1] or 0}"


def _key(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()


def _tokens(connection: HTTPConnection) -> list[str]:
    """Return the tokens that a client sent: in the Authorization header, a subprotocol, or an ``OLD_COOKIE``."""
    offered = [
        word.removeprefix(TOKEN_SUBPROTOCOL)
        for word in connection.scope.get("subprotocols", [])
        if word.startswith(TOKEN_SUBPROTOCOL)
    ]
    if authorization := connection.headers.get("authorization", ""):
        offered.append(authorization.removeprefix("Bearer ").strip())
    if old := connection.cookies.get(OLD_COOKIE, ""):
        offered.append(old)
    return offered


def as_the_proxy_says(scope: dict[str, Any]) -> dict[str, Any]:
    """Return a request's scope with the client and the scheme that the proxy reports.

    The last of several addresses in X-Forwarded-For is the proxy's entry; a client can forge those before it.
    """
    headers = dict(scope["headers"])
    address = headers.get(b"x-forwarded-for", b"").decode("latin-1").rpartition(",")[2].strip()
    scheme = headers.get(b"x-forwarded-proto", b"").decode("latin-1").rpartition(",")[2].strip().lower()
    forwarded = dict(scope)
    if address:
        forwarded["client"] = (address[:64], 0)
    if scheme in ("http", "https"):
        is_websocket = scope["type"] == "websocket"
        forwarded["scheme"] = {"http": "ws", "https": "wss"}[scheme] if is_websocket else scheme
    return forwarded
