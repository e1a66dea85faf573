"""Who may ask the web server: the token, what stands for it in a page's cookie, and how often one may guess.

Whoever brings the token is let in, however many guess beside them; a wrong one is counted, logged, and after a few of
an address, or of all addresses, it waits its turn, so that guessing takes longer than anything is worth, over however
many connections. What a page gets for the token is a value of its own, which another server of the same host can do
nothing with, and which ends with this process.
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

TOKEN_SUBPROTOCOL = "vidact.token."  # then the token: for programs, which have no page to log in on
OLD_COOKIE = "vidact_token"  # held the token itself; taken, and replaced where there is an answer to replace it with
KEPT_ADDRESSES = 1000

Verdict = Literal["welcome", "unknown", "wrong", "too many"]  # unknown: no token was brought


class Access:
    """The one place that judges what a client brings. The event loop's.

    Args:
        token: what a client must know; None lets in everybody.
        limits: how many logins are kept, and how long a wrong token waits.
        faults: where wrong tokens are told.
    """

    def __init__(self, token: str | None, limits: Limits, faults: Faults) -> None:
        self._token, self._limits, self._faults = token, limits, faults
        self._tries: OrderedDict[str, Bucket] = OrderedDict()
        self._all_tries = Bucket(1 / limits.guess_s, 50)
        self._waiting: deque[asyncio.Future[None]] = deque()  # wrong tokens, until they are answered
        self._timer: asyncio.TimerHandle | None = None
        self._logins: OrderedDict[bytes, None] = OrderedDict()  # hashes of cookies' values, the last used ones last

    def is_token(self, given: str) -> bool:
        return self._token is None or hmac.compare_digest(given.encode(), self._token.encode())

    def has_logged_in(self, connection: HTTPConnection) -> bool:
        """Whether its cookie is one that ``log_in`` gave."""
        key = _key(connection.cookies.get(_cookie(connection), ""))
        if key not in self._logins:
            return False
        self._logins.move_to_end(key)
        return True

    async def judge(self, connection: HTTPConnection) -> Verdict:
        """What a client may, by its cookie or the token it brings; a wrong token is told."""
        if self._token is None or self.has_logged_in(connection):
            return "welcome"
        brought = _tokens(connection)
        if any(self.is_token(given) for given in brought):
            return "welcome"
        return await self.wrong(connection) if brought else "unknown"

    async def wrong(self, connection: HTTPConnection) -> Verdict:
        """A wrong token came; after too many of its address, or of all, it waits until those before it are answered."""
        who = connection.client.host if connection.client else "somebody"
        self._faults.tell("token", who, "gave a wrong token; refused")
        bucket = self._tries.setdefault(who, Bucket(0.2, 10))
        self._tries.move_to_end(who)
        if len(self._tries) > KEPT_ADDRESSES:
            self._tries.popitem(last=False)
        if bucket.take() and self._all_tries.take():
            return "wrong"
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if len(self._waiting) > self._limits.connections:  # some of their clients have left
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

    def log_in(self, connection: HTTPConnection, answer: Response) -> None:
        """Give the page behind the answer a cookie of its own."""
        if self._token is None:
            return
        if OLD_COOKIE in connection.cookies:
            answer.delete_cookie(OLD_COOKIE, path="/")
        value = secrets.token_urlsafe(32)
        self._logins[_key(value)] = None
        if len(self._logins) > self._limits.logins:
            self._logins.popitem(last=False)
        is_secure = connection.scope["scheme"] in ("https", "wss")
        answer.set_cookie(_cookie(connection), value, httponly=True, samesite="strict", secure=is_secure, path="/")

    def log_out(self, connection: HTTPConnection, answer: Response) -> None:
        """What the page's cookie holds is good for nothing from now on."""
        self._logins.pop(_key(connection.cookies.get(_cookie(connection), "")), None)
        answer.delete_cookie(_cookie(connection), path="/")


def _cookie(connection: HTTPConnection) -> str:
    """The cookie's name: browsers send a host's cookies to all of its ports, so each server has its own."""
    server = connection.scope.get("server") or ("", None)
    return f"vidact_{server[1] or 0}"


def _key(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()


def _tokens(connection: HTTPConnection) -> list[str]:
    """What a client offers as the token: in the Authorization header, a subprotocol, or a cookie of before."""
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
    """The scope of a request that a proxy passed on: the client and the scheme that the proxy saw.

    Of several addresses in X-Forwarded-For the last is the proxy's own entry; a client may write what it likes before.
    """
    headers = dict(scope["headers"])
    address = headers.get(b"x-forwarded-for", b"").decode("latin-1").rpartition(",")[2].strip()
    scheme = headers.get(b"x-forwarded-proto", b"").decode("latin-1").rpartition(",")[2].strip().lower()
    said = dict(scope)
    if address:
        said["client"] = (address[:64], 0)
    if scheme in ("http", "https"):
        is_websocket = scope["type"] == "websocket"
        said["scheme"] = {"http": "ws", "https": "wss"}[scheme] if is_websocket else scheme
    return said
