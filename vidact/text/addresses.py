"""Addresses on the network: what of them may be shown, and where their users and passwords come from.

An address ends up in errors, logs, tables, records and on pages that others read. Whatever is shown goes through
``public`` or ``without_secrets``. They read an address more widely than a URL is defined, because people write
passwords as they are: up to its last ``@``, everything that could be a user or a password is hidden, and so is what may
hold a token, the query and values in the path.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# An address in a text, or what is left of one that was read as a path, whose two slashes are one; not a disk, C:/
_IN_TEXT = r"(?:[a-z][a-z0-9+.-]*://|[a-z][a-z0-9+.-]+:/(?!/))"
_ADDRESS = re.compile(_IN_TEXT, re.IGNORECASE)
_NEXT = re.compile(rf"(?:(?<=[\s'\"`(<\[,=|;]){_IN_TEXT}|\n)", re.IGNORECASE)  # where an address in a text ends
_HOST = re.compile(r"(?:\[[0-9a-f:.]+(?:%\w+)?\]|[^\s:@\[\]]*)(?::\d{1,5})?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_SIGNS = "/#?[]"  # end the host's part of an address, or begin another kind of host


def public(address: str) -> str:
    """An address as it may be shown: without user, password, query, and values in its path.

    Where a name with a port and a path could be a user and a password as well, neither is shown.

    >>> public("rtsp://admin:pa/ss@10.0.0.7/stream?token=1")
    'rtsp://10.0.0.7/stream?…'
    """
    found = SCHEME.search(address)
    if found is None:  # a path, or an address whose scheme was forgotten
        before, at, after = address.rpartition("@")
        is_path = re.match(r"[a-z]:[\\/]|\.{0,2}/(?!/)|~", address, re.IGNORECASE)
        return f"…@{_place(after)}" if at and ":" in before and not is_path else address
    before, rest = address[: found.start()], address[found.end() :]
    return f"{'…' if '@' in before else before}{found[1]}://{_public_rest(rest)}"


def _public_rest(rest: str) -> str:
    """What of an address may be shown behind its scheme."""
    authority = _authority(rest)
    tail, host = rest[len(authority) :], authority.rpartition("@")[2]
    if _HOST.fullmatch(host) is None:
        # No host ends here, so a user or a password goes on: as far as there is an @.
        return _place(rest.rpartition("@")[2]) if "@" in rest else "…"
    if "@" not in tail:
        return host + _path(tail)
    hidden, _, shown = tail.rpartition("@")
    return "…" if re.search(r"[?#]", hidden) else f"…@{_place(shown)}"


def _authority(rest: str) -> str:
    return re.split(r"[/?#]", rest, maxsplit=1)[0]


def _place(rest: str) -> str:
    """A host and what follows it, behind the user."""
    host = _authority(rest)
    return host + _path(rest[len(host) :])


def _path(tail: str) -> str:
    """A path whose values are hidden: some cameras take user and password there."""
    path = re.split(r"[?#]", tail, maxsplit=1)[0]
    return re.sub(r"=[^/]+", "=…", path) + ("?…" if tail[len(path) :].startswith("?") else "")


def host_of(address: str) -> str | None:
    """The host that is asked for; None where what stands in its place may be a part of a user or password."""
    found = SCHEME.search(address)
    rest = address[found.end() :] if found else address
    authority = _authority(rest)
    if "@" in rest[len(authority) :]:
        return None
    return re.sub(r":\d{0,5}$", "", authority.rpartition("@")[2]).strip("[]")


def name_of(address: str) -> str:
    """What a source is called after its address: host and path."""
    place = re.sub(r"^(\[[^\]]*\]|[^/:]*):\d+", r"\1", public(address).partition("://")[2].removesuffix("?…"))
    return place.rstrip("/")


def without_secrets(text: str) -> str:
    """A text, each address in it as ``public`` shows it. Up to the last ``@`` of a line is taken for an address. What
    has one slash behind its colon may be one that was read as a path; it stays as it is where nothing is to be hidden.
    """
    shown, place = [], 0
    while found := _ADDRESS.search(text, place):
        after = _NEXT.search(text, found.end())
        end = after.start() if after else len(text)
        last = max(text.rfind("@", found.end(), end), found.end())
        if blank := re.compile(r"[\s'\"`>)|]").search(text, last, end):
            end = blank.start()
        scheme = found[0].rstrip("/") + "//"
        address = scheme + text[found.end() : end]
        without = public(address)
        shown += [text[place : found.start()], text[found.start() : end] if without == address else without]
        place = end
    return "".join(shown) + text[place:]


def refuse_signs(address: str) -> None:
    """Raise ValueError where an address cannot mean what its writer meant: its user or password holds a sign that ends
    it, or it has no host.

    >>> refuse_signs("rtsp://admin:pa/ss@10.0.0.7/stream")
    Traceback (most recent call last):
    ValueError: rtsp://10.0.0.7/stream cannot be opened: its user or password holds a sign with another meaning; write %2F for /
    """  # noqa: E501
    found = SCHEME.search(address)
    rest = address[found.end() :] if found else address
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
        raise ValueError(f"{public(address)} names no host: {found[1] if found else 'rtsp'}://user:password@host/path")


def from_environment(address: str) -> str:
    """An address with the variables of the environment that its user and password name as ``${NAME}``.

    Their values are written as they are; signs with a meaning in addresses are encoded here. Raises ValueError for a
    variable that is not set.
    """
    found = SCHEME.search(address)
    if found is None:
        return address
    begin, end = found.end(), address.rfind("@")

    def value(named: re.Match[str]) -> str:
        if named[1] not in os.environ:
            raise ValueError(f"{public(address)} asks for the variable {named[1]}, which is not set; export it first")
        return quote(os.environ[named[1]], safe="")

    return address[:begin] + _VARIABLE.sub(value, address[begin : max(begin, end)]) + address[max(begin, end) :]
