"""Addresses on the network: the parts of them that may be shown, and users and passwords from the environment.

An address ends up in errors, logs, tables, records and on pages that others read. Every address that is shown passes
through ``public`` or ``without_secrets``. They accept more than valid URLs, because people write passwords without
encoding them: up to the last ``@``, everything that could be a user or a password is hidden, and so are the query and
values in the path, which may hold a token.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# The start of an address in a text, also of one that was read as a path and has one slash left; not a disk, C:/
_IN_TEXT = r"(?:[a-z][a-z0-9+.-]*://|[a-z][a-z0-9+.-]+:/(?!/))"
_ADDRESS = re.compile(_IN_TEXT, re.IGNORECASE)
_NEXT = re.compile(rf"(?:(?<=[\s'\"`(<\[,=|;]){_IN_TEXT}|\n)", re.IGNORECASE)  # where an address in a text ends
_HOST = re.compile(r"(?:\[[0-9a-f:.]+(?:%\w+)?\]|[^\s:@\[\]]*)(?::\d{1,5})?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_SIGNS = "/#?[]"  # signs that end the host's part of an address, or begin another kind of host


def public(address: str) -> str:
    """Return an address as it may be shown: without user, password, query, and values in its path.

    Where a host with a port and a path could also be a user and a password, they are hidden.

    >>> public("rtsp://admin:pa/ss@10.0.0.7/stream?token=1")
    'rtsp://10.0.0.7/stream?…'
    """
    if re.fullmatch(r"hf://[\w.-]+/[\w.-]+(@[\w./%-]+)?", address):  # the @ is before a revision, not behind a user
        return address
    scheme = SCHEME.search(address)
    if scheme is None:  # a path, or an address without its scheme
        before, at, after = address.rpartition("@")
        is_path = re.match(r"[a-z]:[\\/]|\.{0,2}/(?!/)|~", address, re.IGNORECASE)
        return f"…@{_host_and_path(after)}" if at and ":" in before and not is_path else address
    before, rest = address[: scheme.start()], address[scheme.end() :]
    return f"{'…' if '@' in before else before}{scheme[1]}://{_public_rest(rest)}"


def _public_rest(rest: str) -> str:
    """Return the part behind an address's scheme as it may be shown."""
    authority = _authority(rest)
    tail, host = rest[len(authority) :], authority.rpartition("@")[2]
    if _HOST.fullmatch(host) is None:
        # No host ends here, so a user or a password continues up to the last @.
        return _host_and_path(rest.rpartition("@")[2]) if "@" in rest else "…"
    if "@" not in tail:
        return host + _path(tail)
    hidden, _, visible = tail.rpartition("@")
    return "…" if re.search(r"[?#]", hidden) else f"…@{_host_and_path(visible)}"


def _authority(rest: str) -> str:
    return re.split(r"[/?#]", rest, maxsplit=1)[0]


def _host_and_path(rest: str) -> str:
    """Return the host and the path behind it as they may be shown; ``rest`` begins behind the user."""
    host = _authority(rest)
    return host + _path(rest[len(host) :])


def _path(tail: str) -> str:
    """Return a path with its values hidden: some cameras take user and password there."""
    path = re.split(r"[?#]", tail, maxsplit=1)[0]
    return re.sub(r"=[^/]+", "=…", path) + ("?…" if tail[len(path) :].startswith("?") else "")


def host_of(address: str) -> str | None:
    """Return the host of an address; None where it may be a part of a user or password."""
    scheme = SCHEME.search(address)
    rest = address[scheme.end() :] if scheme else address
    authority = _authority(rest)
    if "@" in rest[len(authority) :]:
        return None
    return re.sub(r":\d{0,5}$", "", authority.rpartition("@")[2]).strip("[]")


def name_of(address: str) -> str:
    """Return the name of a source by its address: host and path."""
    name = re.sub(r"^(\[[^\]]*\]|[^/:]*):\d+", r"\1", public(address).partition("://")[2].removesuffix("?…"))
    return name.rstrip("/")


def without_secrets(text: str) -> str:
    """Return a text with each address in it replaced by its ``public`` form.

    An address extends at least to the last ``@`` of its line. An address with one slash behind its colon may have been
    read as a path; it stays unchanged where nothing in it must be hidden.
    """
    parts, position = [], 0
    while match := _ADDRESS.search(text, position):
        after = _NEXT.search(text, match.end())
        end = after.start() if after else len(text)
        last = max(text.rfind("@", match.end(), end), match.end())
        if blank := re.compile(r"[\s'\"`>)|]").search(text, last, end):
            end = blank.start()
        scheme = match[0].rstrip("/") + "//"
        address = scheme + text[match.end() : end]
        without = public(address)
        parts += [text[position : match.start()], text[match.start() : end] if without == address else without]
        position = end
    return "".join(parts) + text[position:]


def refuse_signs(address: str) -> None:
    """Raise ValueError for an address without a host, or whose user or password holds a sign that would end it.

    >>> refuse_signs("rtsp://admin:pa/ss@10.0.0.7/stream")
    Traceback (most recent call last):
    ValueError: rtsp://10.0.0.7/stream cannot be opened: its user or password holds a sign with another meaning; write %2F for /
    """  # noqa: E501
    scheme = SCHEME.search(address)
    rest = address[scheme.end() :] if scheme else address
    authority = _authority(rest)
    user, _, host = authority.rpartition("@")
    if _HOST.fullmatch(host) is None and "@" in rest[len(authority) :]:
        user, _, host = rest.rpartition("@")
    signs = [sign for sign in _SIGNS if sign in _VARIABLE.sub("", user)]
    if signs:
        written = ", ".join(f"{quote(sign, safe='')} for {sign}" for sign in signs)
        raise ValueError(
            f"{public(address)} cannot be opened: its user or password holds a sign with another meaning; "
            f"write {written}"
        )
    if _HOST.fullmatch(_authority(host)) is None or not _authority(host):
        raise ValueError(
            f"{public(address)} names no host: {scheme[1] if scheme else 'rtsp'}://user:password@host/path"
        )


def from_environment(address: str) -> str:
    """Return an address with ``${NAME}`` in its user and password replaced by the environment's variable NAME.

    The variables hold plain values; signs with a meaning in addresses are encoded here. Raises ValueError for a
    variable that is not set.
    """
    scheme = SCHEME.search(address)
    if scheme is None:
        return address
    start, end = scheme.end(), address.rfind("@")

    def value(named: re.Match[str]) -> str:
        if named[1] not in os.environ:
            raise ValueError(f"{public(address)} asks for the variable {named[1]}, which is not set; export it first")
        return quote(os.environ[named[1]], safe="")

    return address[:start] + _VARIABLE.sub(value, address[start : max(start, end)]) + address[max(start, end) :]
