"""Frame indices kept between runs, one small file a video, in the user's cache folder.

``VIDACT_CACHE`` names another folder, or is "off". An index is found again by the video's path, size, time of
modification and inode and by the version of FFmpeg that made it; an entry that is torn or foreign counts as absent.
Entries are whole or absent, so that any number of processes may share the folder. It holds about ``LIMIT`` bytes at
most: the entries that were not used for longest go first.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import struct
import sys
import time
import zlib
from pathlib import Path

import av
import numpy as np

from vidact.files import replacing
from vidact.video.frame_index import Traits, Turn, VideoIndex

log = logging.getLogger(__name__)

VERSION = 10  # of what is stored: raise it whenever an index would come out differently
LIMIT = 2**30  # bytes of all entries
BLOCK = 4096  # bytes that the smallest file takes
PARTS = 256  # folders by the first two letters of the name; each keeps to its share of LIMIT
SETTLED_S = 2.0  # a video changed later than this ago may change again without another time: it is not kept
USED_S = 86_400.0  # an entry's own time says when it was last used, to a day

_HEAD = struct.Struct("<II")  # version and checksum of the rest
_FIELDS = struct.Struct("<12q")


def cache_folder() -> Path | None:
    """Where indices are kept; None where ``VIDACT_CACHE`` is "off", or the user has no home."""
    chosen = os.environ.get("VIDACT_CACHE", "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    told = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    below = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    try:
        base = Path(os.environ.get(told) or Path.home() / below)
    except RuntimeError:  # as in a container that runs under a number without a name
        return None
    return base / "vidact"


def entry_path(video: Path, made_by: str) -> Path | None:
    """Where the index of this video in its present state is kept; ``made_by`` tells ways of making one apart.

    None where nothing is to be kept: the cache is off, or the video was changed a moment ago.
    """
    folder = cache_folder()
    if folder is None:
        return None
    state = video.stat()
    if abs(time.time() - state.st_mtime) < SETTLED_S:
        return None
    versions = ".".join(str(part) for name in ("libavcodec", "libavformat") for part in av.library_versions[name])
    key = f"{made_by}|{versions}|{video.absolute()}|{state.st_size}|{state.st_mtime_ns}|{state.st_ino}"
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
    return folder / "frame-index" / f"v{VERSION}" / name[:2] / name


def load_index(path: Path | None) -> VideoIndex | None:
    """The index in this file; None where there is none that is whole."""
    if path is None:
        return None
    try:
        index = unpack(path.read_bytes())
        if index and time.time() - path.stat().st_mtime > USED_S:
            os.utime(path)
    except OSError:
        return None
    return index


def save_index(path: Path | None, index: VideoIndex) -> None:
    """Keep it. A folder that cannot be written to is named once in the log; reading goes on without it."""
    if path is None:
        return
    try:
        is_new = not path.parent.is_dir()
        with replacing(path) as half:
            half.write_bytes(pack(index))
        if not is_new and path.name[2] == "0":  # at every sixteenth entry, to look around seldom
            _make_room(path.parent)
    except OSError as error:
        _complain(str(path.parents[3]), str(error))


@functools.cache
def _complain(folder: str, error: str) -> None:
    log.warning(
        "frame indices cannot be kept in %s (%s); videos are indexed anew each time. "
        "VIDACT_CACHE names another folder, or 'off'",
        folder,
        error,
    )


def _make_room(folder: Path) -> None:
    """Remove the entries of one part that were not used for longest, down to three quarters of what it may hold."""
    entries = []
    for entry in os.scandir(folder):
        try:
            state = entry.stat()
        except FileNotFoundError:  # another process was here
            continue
        entries.append((state.st_mtime, -(-state.st_size // BLOCK) * BLOCK, entry.path))
    num_bytes, share = sum(size for _, size, _ in entries), LIMIT // PARTS
    if num_bytes <= share:
        return
    for _, size, path in sorted(entries):
        if num_bytes <= share * 3 // 4:
            break
        Path(path).unlink(missing_ok=True)
        num_bytes -= size


# ----------------------------------------------------------------------------------------------------------------------


def pack(index: VideoIndex) -> bytes:
    """An index as bytes that ``unpack`` checks."""
    turn = index.turn
    body = b"".join(
        [
            np.append(index.times_s, index.end_s).astype("<f8").tobytes(),
            b"" if index.stamps is None else index.stamps.astype("<i8").tobytes(),
            index.key_frames.astype("<i8").tobytes(),
            index.key_stamps.astype("<i8").tobytes(),
            index.key_packets.astype("<i8").tobytes(),
            index.parts.astype("<i8").tobytes(),
            index.lifts.astype("<i8").tobytes(),
            np.packbits(index.disposable).tobytes(),
        ]
    )
    turned = (turn.transpose, turn.mirror_x, turn.mirror_y)
    counts = (len(index), len(index.key_frames), len(index.parts), len(index.lifts))
    fields = (*counts, index.stamps is not None, index.height, index.width, *turned)
    rest = _FIELDS.pack(*map(int, fields), int(index.traits), int(index.sets_change)) + body
    return _HEAD.pack(VERSION, zlib.crc32(rest)) + rest


def unpack(content: bytes) -> VideoIndex | None:
    """The index; None where the bytes are not one that ``pack`` made."""
    if len(content) < _HEAD.size + _FIELDS.size:
        return None
    version, checksum = _HEAD.unpack_from(content)
    if version != VERSION or zlib.crc32(content[_HEAD.size :]) != checksum:
        return None
    count, num_keys, num_parts, num_lifts, has_stamps, height, width, *turned, traits, change = _FIELDS.unpack_from(
        content, _HEAD.size
    )
    place = _HEAD.size + _FIELDS.size

    def take(length: int, dtype: str) -> np.ndarray:
        nonlocal place
        found = np.frombuffer(content, dtype, length, place)
        place += found.nbytes
        return found.astype(found.dtype.newbyteorder("="))

    times_s = take(count + 1, "<f8")
    return VideoIndex(
        times_s=times_s[:-1],
        end_s=float(times_s[-1]),
        stamps=take(count, "<i8") if has_stamps else None,
        key_frames=take(num_keys, "<i8"),
        key_stamps=take(num_keys, "<i8"),
        key_packets=take(num_keys, "<i8"),
        parts=take(num_parts, "<i8"),
        lifts=take(2 * num_lifts, "<i8").reshape(-1, 2),
        disposable=np.unpackbits(take(-(-count // 8), "u1"), count=count).astype(bool),
        height=height,
        width=width,
        turn=Turn(*map(bool, turned)),
        traits=Traits(traits),
        sets_change=bool(change),
    )
