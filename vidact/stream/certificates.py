"""Certificates of cameras: which authorities are trusted, what is wrong with one, and playlists.

FFmpeg verifies the certificate of the address that it opens, where an option asks for it, and none of the addresses
that a playlist names. So the parts of a playlist are fetched here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import socket
import ssl
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    BaseHandler,
    HTTPBasicAuthHandler,
    HTTPCookieProcessor,
    HTTPDefaultErrorHandler,
    HTTPDigestAuthHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPPasswordMgrWithDefaultRealm,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

TLS_PORTS = {"https": 443, "rtsps": 322}


def trusted_authorities() -> str:
    """A PEM file of the authorities that this machine trusts, or that ``SSL_CERT_FILE`` names; raises OSError."""
    named = os.environ.get("SSL_CERT_FILE")
    if named and not Path(named).is_file():
        raise OSError(f"SSL_CERT_FILE names {named}, which is no file; write where the certificates (PEM) are")
    if file := ssl.get_default_verify_paths().cafile:
        return file
    with contextlib.suppress(ImportError):
        import certifi

        return str(certifi.where())
    return _store_as_file()


@functools.cache
def _store_as_file() -> str:
    """The authorities of Windows' store, which is no file."""
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    if not found:
        raise OSError("no authorities are known here; name a file of their certificates (PEM) with SSL_CERT_FILE")
    folder = tempfile.mkdtemp(prefix="vidact-")
    path = Path(folder) / "authorities.pem"
    path.write_text("".join(ssl.DER_cert_to_PEM_cert(one) for one in found), encoding="ascii")
    return str(path)


def certificate_fault(address: str, timeout_s: float) -> str:
    """What is wrong with the certificate of an https or rtsps address, "" where nothing is or nobody answers."""
    parts = urlsplit(address)
    try:
        context = ssl.create_default_context(cafile=trusted_authorities())
        place = parts.hostname or "", parts.port or TLS_PORTS[parts.scheme.lower()]
        with (
            socket.create_connection(place, timeout_s) as connection,
            context.wrap_socket(connection, server_hostname=parts.hostname),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return str(error.verify_message)
    except (OSError, ValueError):
        return ""


ABSENT = (404, 410)  # what a server answers that has not what is asked for, and will not have it later
LISTS = (".m3u8", ".m3u", ".mpd")  # without its playlist, a stream is lost


class EncryptedError(OSError):
    """What a playlist names is encrypted, so that FFmpeg alone can read it, which verifies no certificate there."""


class FetchError(OSError):
    """A server does not give what it is asked for: the message says why, without the address."""


class VerifiedParts:
    """Opens what a playlist names, over HTTP or HTTPS, the latter from servers whose certificate is in order.

    ``open`` is what ``av.open`` takes as ``io_open``. Where no authorities are known, all over HTTP opens. What a
    server says it has not is empty, so that FFmpeg goes on with the next part, and ``report`` is told so once.
    """

    def __init__(self, timeout_s: float, report: Callable[[str], None] = lambda text: None) -> None:
        self._timeout_s, self._report = timeout_s, report
        self._has_told = False
        self._users = HTTPPasswordMgrWithDefaultRealm()
        self._why_not = ""  # nothing opens over HTTPS
        self.has_https = False  # something was asked for over HTTPS
        self._opener = OpenerDirector()
        handlers: list[BaseHandler] = [
            HTTPHandler(),
            ProxyHandler(),
            HTTPCookieProcessor(),
            HTTPBasicAuthHandler(self._users),
            HTTPDigestAuthHandler(self._users),
            HTTPRedirectHandler(),
            HTTPErrorProcessor(),
            HTTPDefaultErrorHandler(),
            UnknownHandler(),  # nothing local, whatever the playlist names
        ]
        try:
            handlers.append(HTTPSHandler(context=ssl.create_default_context(cafile=trusted_authorities())))
        except OSError as error:
            self._why_not = str(error)
        for handler in handlers:
            self._opener.add_handler(handler)

    def open(self, url: str, flags: int, options: dict[str, str]) -> Any:
        """What is read of the address, nothing where its server has none; raises OSError."""
        try:
            return self._open(url, options)
        except HTTPError as error:
            error.close()
            if error.code not in ABSENT or urlsplit(url).path.lower().endswith(LISTS):
                raise FetchError(f"{urlsplit(url).hostname} answers {error.code} {error.reason}") from None
            if not self._has_told:
                self._has_told = True
                self._report(
                    f"a part of its playlist is left out: its server has none such ({error.code} {error.reason})"
                )
            return io.BytesIO()
        except URLError as error:
            why = getattr(error.reason, "strerror", None) or error.reason
            raise FetchError(f"{urlsplit(url).hostname} does not answer: {why}") from None
        except (ConnectionError, HTTPException) as error:  # RemoteDisconnected is both
            why = "it closes the connection" if isinstance(error, ConnectionError) else "what it sends is no HTTP"
            raise FetchError(f"{urlsplit(url).hostname} does not answer: {why}") from None

    def _open(self, url: str, options: dict[str, str]) -> Any:
        parts = urlsplit(url)
        self.has_https = self.has_https or "https" in parts.scheme
        if parts.scheme not in ("http", "https"):
            if parts.scheme.startswith("crypto"):
                raise EncryptedError(
                    "its playlist is encrypted, so that no certificate of what it names can be looked at; "
                    "--insecure_source with its name reads it all the same"
                )
            raise OSError(f"its playlist names {parts.scheme or 'a local file'}, which is not fetched")
        user, _, host = parts.netloc.rpartition("@")
        address = urlunsplit(parts._replace(netloc=host))
        request = Request(address, headers={"User-Agent": "vidact"})
        if user:
            name, _, password = user.partition(":")
            self._users.add_password(None, address, unquote(name), unquote(password))
        if begin := int(options.get("offset", 0)):
            end = int(options["end_offset"]) - 1 if int(options.get("end_offset", 0)) else ""
            request.add_header("Range", f"bytes={begin}-{end}")
        elif end := int(options.get("end_offset", 0)):
            request.add_header("Range", f"bytes=0-{end - 1}")
        try:
            return self._opener.open(request, timeout=self._timeout_s)
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise OSError(
                    f"the certificate of {parts.hostname} is not trusted: {error.reason.verify_message}"
                ) from None
            if self._why_not and "https" in (parts.scheme, str(error.reason).rpartition(" ")[2]):
                raise OSError(self._why_not) from None
            raise

    def place(self, address: str) -> str:
        """Where an address sends its visitor on to; names in a playlist count from there. Raises OSError."""
        with self._open(address, {}) as answer:
            parts = urlsplit(answer.geturl())
        before = urlsplit(address)
        user, at, host = before.netloc.rpartition("@")
        is_same = host == parts.netloc and parts.scheme == before.scheme
        return urlunsplit(parts._replace(netloc=f"{user}{at}{host}" if is_same else parts.netloc))

    def fault(self, address: str) -> str:
        """What is wrong with the certificates on the way that an HTTP address sends its visitor on, "" where nothing is
        or nobody answers.
        """
        try:
            self.place(address)
        except OSError as error:
            return str(error) if type(error) is OSError and error.strerror is None else ""
        return ""
