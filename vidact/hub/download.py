"""The download of published networks: continued where it was cut, and whole, with its hash, or absent."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import shutil
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidact.files import file_digest, make_folder, replacing
from vidact.hub.cache import alone, is_offline, refuse_full, say, writable
from vidact.hub.huggingface import stored_file
from vidact.hub.published import Published
from vidact.records import text_in_place_of_weights
from vidact.text.addresses import public

TIMEOUT_S = 30.0  # without a byte from the server
BLOCK = 1 << 20  # bytes that are read and written at once


def address_of(entry: Published) -> str:
    """Return the address of a network's file, at the mirror where ``VIDACT_MIRROR`` names one.

    Files of the Hugging Face hub are also read from its mirror, ``HF_ENDPOINT``.
    """
    variable = "VIDACT_MIRROR"
    if not os.environ.get(variable) and entry.address.startswith("https://huggingface.co/"):
        variable = "HF_ENDPOINT"
    mirror = os.environ.get(variable, "")
    if not mirror:
        return entry.address
    if re.match(r"https?://[^/\s]", mirror) is None:
        raise ValueError(f"{variable} is {public(mirror)}; give an address such as https://mirror.example.org")
    return mirror.rstrip("/") + urlsplit(entry.address).path


def fetch(entry: Published) -> Path:
    """Return the path of a network's file in the cache, which is downloaded if it is absent.

    What is downloaded is announced on the standard error, and so is a licence that excludes commercial use.

    Raises:
        OSError: where the file cannot be downloaded or written; the message says where to put it by hand.
        ValueError: where its SHA-256 is not the published one, or not that of the first download.
    """
    path = entry.path
    if not path.is_file():
        copy = in_other_cache(entry)
        if copy is None and is_offline():
            raise FileNotFoundError(f"{entry.name} is not in the cache and downloads are forbidden: {by_hand(entry)}")
        with writable(path.parent):
            make_folder(path.parent)
            with alone(path.with_name(f".{path.name}.lock"), entry.name):
                if path.is_file():
                    pass  # another process has fetched it meanwhile
                elif copy is not None:
                    _take_over(copy, path)
                    say(f"{entry.name}: {path}, as in {copy}")
                else:
                    _download(entry, path)
                    say(f"{entry.name}: {path}")
    _check(entry, path)
    if entry.is_for_research:
        say(f"{entry.name}: the licence of its weights, {entry.licence}, allows no commercial use")
    return path


def in_other_cache(entry: Published) -> Path | None:
    """Return the network's file in the cache of PyTorch or of the hub, to which earlier versions downloaded, or None.

    A file whose SHA-256 is not the published one counts as absent. In the hub's cache it is the file of the published
    revision, or of the main branch, which earlier versions read. PyTorch's cache has no files of the hub, which have
    the same name in each repository.
    """
    if match := re.fullmatch(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/(\w+)/(.+)", entry.address):
        repository, revision, file = match.groups()
        return stored_file(repository, revision, file) or stored_file(repository, "main", file)
    if entry.origin not in ("torchvision", "pytorchvideo"):
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = os.environ.get("TORCH_HOME") or (Path(base) if base else Path.home() / ".cache") / "torch"
    except RuntimeError:
        return None
    path = Path(home).expanduser() / "hub" / "checkpoints" / Path(urlsplit(entry.address).path).name
    return path if path.is_file() and (not entry.sha256 or file_digest(path).startswith(entry.sha256)) else None


def _take_over(source: Path, path: Path) -> None:
    """Make ``path`` the same file as ``source``, or a copy of it where the file systems differ."""
    with replacing(path) as half:
        try:
            os.link(source.resolve(), half)
        except OSError:
            shutil.copyfile(source, half)


def by_hand(entry: Published) -> str:
    """Return the end of a sentence: what to fetch, and where to put it."""
    file = f"{public(entry.address)} ({entry.megabytes:,.0f} MB)"
    return f"fetch {file} where there is a network, and put it at {entry.path}"


def _check(entry: Published, path: Path) -> None:
    """Raise ValueError where the file's SHA-256 is another than published, or than that of its first use."""
    if text := text_in_place_of_weights(path):
        raise ValueError(f"{path} is {text}, not the weights of {entry.name}. Delete it, and they are fetched again")
    digest = file_digest(path)
    pin = pin_of(path)
    expected = pin.read_text(encoding="utf-8").split()[:1] if pin.is_file() else []
    for first, described in ((entry.sha256, "as published"), (expected[0] if expected else "", f"by {pin.name}")):
        if not digest.startswith(first):
            raise ValueError(
                f"{path} has the SHA-256 {digest[:16]}… and should have {first[:16]}…, {described}: it is damaged or "
                f"another file. Delete {'both' if described != 'as published' else 'it'}, and {entry.name} is fetched "
                "again"
            )
    if not expected:
        with contextlib.suppress(OSError), replacing(pin) as half:  # a cache that only others write is read, too
            half.write_text(f"{digest}  {path.name}\n", encoding="utf-8")  # as sha256sum writes and checks it


def pin_of(path: Path) -> Path:
    """Return the file that holds the SHA-256 of the first download."""
    return path.with_name(f"{path.name}.sha256")


def _download(entry: Published, path: Path) -> None:
    """Download a network's file; a part of it that an earlier try left is continued."""
    half, tag = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.etag")
    address = address_of(entry)
    say(
        f"{entry.name}: downloading about {entry.megabytes:,.0f} MB from {public(address)} to {path.parent} "
        f"(licence {entry.licence})"
    )
    while True:
        before = _size(half)
        try:
            if _continue(address, half, tag):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:  # the part is longer than the file is now
                half.unlink(missing_ok=True)
                continue
            raise OSError(f"{entry.name}: {_refusal(error, address)}: {by_hand(entry)}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                half.unlink(missing_ok=True)
                tag.unlink(missing_ok=True)
            raise
        if _size(half) > before:
            continue  # a connection that is cut after some bytes is made again at once
        share = f"; {_size(half) / 1e6:,.1f} MB are there, and the same command continues" if _size(half) else ""
        raise OSError(f"{entry.name} could not be downloaded ({reason}){share}: {by_hand(entry)}")
    digest = file_digest(half)
    if not digest.startswith(entry.sha256):
        half.unlink()
        tag.unlink(missing_ok=True)
        raise ValueError(
            f"{entry.name}: what {public(address)} sent has the SHA-256 {digest[:16]}… and should have "
            f"{entry.sha256}…, so it was removed: {by_hand(entry)}"
        )
    pin_of(path).unlink(missing_ok=True)  # of a file that was deleted since
    os.replace(half, path)
    tag.unlink(missing_ok=True)


def _continue(address: str, half: Path, tag: Path) -> bool:
    """Download the rest of a file to ``half``; return whether it is complete.

    ``tag`` holds the version of the file that ``half`` is a part of; the rest of another version is not appended.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "vidact"})
    start = _size(half)
    version = tag.read_text(encoding="latin1") if start and tag.is_file() else ""
    if version:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    # A new opener, since urlopen keeps the proxies that it has read once.
    with urllib.request.build_opener().open(request, timeout=TIMEOUT_S) as response:
        if response.headers.get_content_type() == "text/html":  # a page of a proxy or a hotel, in place of the file
            raise urllib.error.URLError("the server sent a page, not the file")
        part = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status == 206 and (part is None or int(part[1]) != start):
            raise urllib.error.URLError("the server sent another part of the file than requested")
        if part is None or response.status != 206:
            start, total = 0, int(response.headers.get("Content-Length") or 0)
        else:
            total = int(part[2])
        refuse_full(half.parent, total - start)
        etag = response.headers.get("ETag", "")
        tag.write_text("" if etag.startswith("W/") else etag, encoding="latin1")
        with half.open("ab" if start else "wb") as file:
            start = _copy(response, file, start, total)
    return not total or start >= total


def _copy(response: Any, file: Any, start: int, total: int) -> int:
    """Append a response to a file of ``start`` bytes, with progress on the standard error; return its new size."""
    is_terminal = sys.stderr.isatty()
    next_share = 0.1
    while block := response.read(BLOCK):
        file.write(block)
        start += len(block)
        share = start / total if total else 0.0
        if is_terminal:
            print(f"\r  {start / 1e6:,.1f} of {total / 1e6:,.1f} MB", end="", file=sys.stderr, flush=True)
        elif share >= next_share and total > 10 * BLOCK:
            say(f"  {share:.0%} of {total / 1e6:,.0f} MB")
            next_share = share + 0.1
    if is_terminal:
        say("")
    return start


def _refusal(error: urllib.error.HTTPError, address: str) -> str:
    if error.code in (401, 403):
        return f"{public(address)} was refused ({error.code}): the server asks for a token or other rights"
    if error.code in (404, 410):
        return f"there is no {public(address)} ({error.code})"
    return f"{public(address)} was answered with {error.code} {error.reason}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
