"""The cache of frame indices between runs: one small file a video, in the user's cache folder.

``VIDACT_CACHE`` names another folder, or is "off". An index is identified by the video's path, size, time of
modification and inode, and by the version of FFmpeg that made it; a torn or foreign entry counts as absent. Entries are
whole or absent, so any number of processes may share the folder. It holds about ``LIMIT`` bytes at most: the entries
unused for longest are removed first.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
import os
import struct
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from vidact.files import replacing
from vidact.video.file_facts import FileFacts
from vidact.video.frame_index import Traits, Turn, VideoIndex

log = logging.getLogger(__name__)

VERSION = 11  # of the stored indices: raise it whenever an index would be made differently
LIMIT = 2**30  # bytes of all entries
BLOCK = 4096  # bytes that the smallest file takes
PARTS = 256  # folders by the first two letters of the name; each is limited to its share of LIMIT
SETTLED_S = 2.0  # a video changed less than this ago may change again at the same time stamp: its index is not kept
USED_S = 86_400.0  # the file time of an entry records its last use, to a day

_VERSIONS = ".".join(str(part) for name in ("libavcodec", "libavformat") for part in av.library_versions[name])
_NO_FACTS = FileFacts("", 0.0, None, None, False)
_HEAD = struct.Struct("<II")  # version and checksum of the rest
_FIELDS = struct.Struct("<14q3d")


def cache_folder() -> Path | None:
    """Return the folder of the indices; None where ``VIDACT_CACHE`` is "off", or the user has no home."""
    chosen = os.environ.get("VIDACT_CACHE", "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    below = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    try:
        base = Path(os.environ.get(variable) or Path.home() / below)
    except RuntimeError:  # raised for example in a container whose user has a number and no name
        return None
    return base / "vidact"


def entry_path(video: Path, made_by: str) -> Path | None:
    """Return the path for the index of this video in its present state, made in the way that ``made_by`` names.

    None where no index is kept: the cache is off, or the video was changed a moment ago.
    """
    folder = cache_folder()
    if folder is None:
        return None
    state = os.stat(video)
    if abs(time.time() - state.st_mtime) < SETTLED_S:
        return None
    name = os.fspath(video)
    absolute = name if os.path.isabs(name) else os.path.join(os.getcwd(), name)
    key = f"{made_by}|{_VERSIONS}|{absolute}|{state.st_size}|{state.st_mtime_ns}|{state.st_ino}"
    name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
    return Path(f"{folder}/frame-index/v{VERSION}/{name[:2]}/{name}")


def load_index(path: Path | None) -> VideoIndex | None:
    """Return the index in this file; None where there is no whole one."""
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
    """Store the index. A folder that cannot be written to is named once in the log, and reading goes on without it."""
    if path is None:
        return
    try:
        is_new = not path.parent.is_dir()
        with replacing(path) as half:
            half.write_bytes(pack(index))
        if not is_new and path.name[2] == "0":  # only at every sixteenth entry, since listing takes time
            _make_room(path.parent)
    except OSError as error:
        _warn(str(path.parents[3]), str(error))


@functools.cache
def _warn(folder: str, error: str) -> None:
    log.warning(
        "frame indices cannot be kept in %s (%s); videos are indexed again each time. "
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
        except FileNotFoundError:  # another process removed the entry
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
    """Return an index as bytes that ``unpack`` checks."""
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
    flags = (index.stamps is not None, index.height, index.width, *turned, index.traits, index.sets_change, index.depth)
    facts = index.facts or _NO_FACTS
    seconds = (math.nan if second is None else second for second in (facts.begin_s, facts.copied_lead_s))
    fields = _FIELDS.pack(*map(int, counts + flags), facts.is_raw, facts.fps, *seconds)
    rest = fields + body + facts.format.encode()
    return _HEAD.pack(VERSION, zlib.crc32(rest)) + rest


def unpack(content: bytes) -> VideoIndex | None:
    """Return the index; None where ``pack`` did not make these bytes."""
    if len(content) < _HEAD.size + _FIELDS.size:
        return None
    version, checksum = _HEAD.unpack_from(content)
    if version != VERSION or zlib.crc32(content[_HEAD.size :]) != checksum:
        return None
    (
        count, num_keys, num_parts, num_lifts, has_stamps, height, width, transpose, mirror_x, mirror_y, traits, change,
        depth, is_raw, fps, *seconds,
    ) = _FIELDS.unpack_from(content, _HEAD.size)  # fmt: skip
    offset = _HEAD.size + _FIELDS.size
    lengths = [count if has_stamps else 0, num_keys, num_keys, num_keys, num_parts, 2 * num_lifts]
    times_s = np.frombuffer(content, "<f8", count + 1, offset).astype(np.float64)
    offset += times_s.nbytes
    whole = np.frombuffer(content, "<i8", sum(lengths), offset).astype(np.int64)
    offset += whole.nbytes
    ends = list(itertools.accumulate(lengths))
    stamps, key_frames, key_stamps, key_packets, parts, lifts = (
        whole[end - length : end] for length, end in zip(lengths, ends, strict=True)
    )
    bits = np.frombuffer(content, np.uint8, -(-count // 8), offset)
    offset += bits.nbytes
    index = VideoIndex(
        times_s=times_s[:-1],
        end_s=float(times_s[-1]),
        stamps=stamps if has_stamps else None,
        key_frames=key_frames,
        key_stamps=key_stamps,
        key_packets=key_packets,
        parts=parts,
        lifts=lifts.reshape(-1, 2),
        disposable=np.unpackbits(bits, count=count).view(bool),
        height=height,
        width=width,
        turn=Turn(bool(transpose), bool(mirror_x), bool(mirror_y)),
        traits=Traits(traits),
        sets_change=bool(change),
        depth=depth,
    )
    begin_s, lead_s = (None if math.isnan(second) else second for second in seconds)
    facts = FileFacts(content[offset:].decode(), fps, begin_s, lead_s, bool(is_raw))
    return index if facts == _NO_FACTS else replace(index, facts=facts)
