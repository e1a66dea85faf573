"""The certificates of cameras: the trusted authorities, the fault of a certificate, and the parts of playlists.

FFmpeg can verify the certificate of the address that it opens, but verifies none of the addresses in a playlist. So the
parts of a playlist are fetched here.
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
    """Return a PEM file of the authorities that this machine trusts, or that ``SSL_CERT_FILE`` names; raise OSError."""
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
    """Write the authorities of Windows' store, which is no file, to a file and return its path."""
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    if not certificates:
        raise OSError("no authorities are known here; name a file of their certificates (PEM) with SSL_CERT_FILE")
    folder = tempfile.mkdtemp(prefix="vidact-")
    path = Path(folder) / "authorities.pem"
    path.write_text("".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in certificates), encoding="ascii")
    return str(path)


def certificate_fault(address: str, timeout_s: float) -> str:
    """Return the fault of the certificate of an https or rtsps address, "" where it has none or no server answers."""
    parts = urlsplit(address)
    try:
        context = ssl.create_default_context(cafile=trusted_authorities())
        host_and_port = parts.hostname or "", parts.port or TLS_PORTS[parts.scheme.lower()]
        with (
            socket.create_connection(host_and_port, timeout_s) as connection,
            context.wrap_socket(connection, server_hostname=parts.hostname),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return str(error.verify_message)
    except (OSError, ValueError):
        return ""


ABSENT = (404, 410)  # statuses of a server that does not have an address, now or later
LISTS = (".m3u8", ".m3u", ".mpd")  # endings of playlists; a stream without its playlist is lost


class EncryptedError(OSError):
    """The parts of a playlist are encrypted, so only FFmpeg can read them, and it verifies no certificate there."""


class FetchError(OSError):
    """A server does not deliver what is requested; the message gives the reason without the address."""


class VerifiedParts:
    """A reader of the parts of a playlist over HTTP, and over HTTPS from servers whose certificate is trusted.

    ``open`` fits the argument ``io_open`` of ``av.open``. Without known authorities only HTTP opens. A part that its
    server does not have is empty, so that FFmpeg goes on with the next one; the first such part is reported.
    """

    def __init__(self, timeout_s: float, report: Callable[[str], None] = lambda text: None) -> None:
        self._timeout_s, self._report = timeout_s, report
        self._has_reported = False
        self._users = HTTPPasswordMgrWithDefaultRealm()
        self._https_fault = ""  # the reason why nothing opens over HTTPS
        self.has_https = False  # whether an HTTPS address was requested
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
            UnknownHandler(),  # refuses all other schemes of a playlist, so that it reads no local file
        ]
        try:
            handlers.append(HTTPSHandler(context=ssl.create_default_context(cafile=trusted_authorities())))
        except OSError as error:
            self._https_fault = str(error)
        for handler in handlers:
            self._opener.add_handler(handler)

    def open(self, url: str, flags: int, options: dict[str, str]) -> Any:
        """Return the content of an address as a file, empty where its server has none; raise OSError."""
        try:
            return self._open(url, options)
        except HTTPError as error:
            error.close()
            if error.code not in ABSENT or urlsplit(url).path.lower().endswith(LISTS):
                raise FetchError(f"{urlsplit(url).hostname} answers {error.code} {error.reason}") from None
            if not self._has_reported:
                self._has_reported = True
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
                    "its playlist is encrypted, so that no certificate of what it names can be verified; "
                    "--insecure_source with its name reads it all the same"
                )
            raise OSError(f"its playlist names {parts.scheme or 'a local file'}, which is not fetched")
        user, _, host = parts.netloc.rpartition("@")
        address = urlunsplit(parts._replace(netloc=host))
        request = Request(address, headers={"User-Agent": "vidact"})
        if user:
            name, _, password = user.partition(":")
            self._users.add_password(None, address, unquote(name), unquote(password))
        if start := int(options.get("offset", 0)):
            end = int(options["end_offset"]) - 1 if int(options.get("end_offset", 0)) else ""
            request.add_header("Range", f"bytes={start}-{end}")
        elif end := int(options.get("end_offset", 0)):
            request.add_header("Range", f"bytes=0-{end - 1}")
        try:
            return self._opener.open(request, timeout=self._timeout_s)
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise OSError(
                    f"the certificate of {parts.hostname} is not trusted: {error.reason.verify_message}"
                ) from None
            if self._https_fault and "https" in (parts.scheme, str(error.reason).rpartition(" ")[2]):
                raise OSError(self._https_fault) from None
            raise

    def redirected(self, address: str) -> str:
        """Return the address that an address redirects to, the base of a playlist's relative names; raise OSError."""
        with self._open(address, {}) as response:
            parts = urlsplit(response.geturl())
        before = urlsplit(address)
        user, at, host = before.netloc.rpartition("@")
        is_same = host == parts.netloc and parts.scheme == before.scheme
        return urlunsplit(parts._replace(netloc=f"{user}{at}{host}" if is_same else parts.netloc))

    def fault(self, address: str) -> str:
        """Return the fault of a certificate to which an HTTP address redirects, "" where there is none."""
        try:
            self.redirected(address)
        except OSError as error:
            return str(error) if type(error) is OSError and error.strerror is None else ""
        return ""
