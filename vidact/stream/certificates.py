"""Certificates of cameras: which authorities are trusted, what is wrong with one, and playlists over HTTPS.

FFmpeg looks at the certificate of the address that it opens, when it is told to, and at none of the addresses that a
playlist names. So the parts of a playlist that comes over HTTPS are fetched here.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
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


def verified_parts(timeout_s: float) -> Callable[[str, int, dict[str, str]], Any]:
    """What ``av.open`` takes as ``io_open``: opens the parts of a playlist over HTTP or HTTPS, the latter from servers
    whose certificate is in order. Raises OSError."""
    opener = OpenerDirector()
    context = ssl.create_default_context(cafile=trusted_authorities())
    for handler in (
        HTTPHandler(),
        HTTPSHandler(context=context),
        HTTPRedirectHandler(),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
        UnknownHandler(),  # nothing local, whatever the playlist names
    ):
        opener.add_handler(handler)

    def open_part(url: str, flags: int, options: dict[str, str]) -> Any:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            if parts.scheme.startswith("crypto"):
                raise OSError("its playlist is encrypted, which is read without a look at certificates alone")
            raise OSError(f"its playlist names {parts.scheme or 'a local file'}, which is not fetched")
        user, _, host = parts.netloc.rpartition("@")
        request = Request(urlunsplit(parts._replace(netloc=host)), headers={"User-Agent": "vidact"})
        if user:
            basic = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {basic}")
        if begin := int(options.get("offset", 0)):
            end = int(options["end_offset"]) - 1 if int(options.get("end_offset", 0)) else ""
            request.add_header("Range", f"bytes={begin}-{end}")
        elif end := int(options.get("end_offset", 0)):
            request.add_header("Range", f"bytes=0-{end - 1}")
        try:
            return opener.open(request, timeout=timeout_s)
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise OSError(
                    f"the certificate of {parts.hostname} is not trusted: {error.reason.verify_message}"
                ) from None
            raise

    return open_part
