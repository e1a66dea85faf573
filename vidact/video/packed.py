"""Packed videos: every frame a JPEG of its own, in a few large tar files, so that any frame costs one decoding.

    store/packed.json                how it was made, and where the shards are
    store/<class>/<video>.packed     one video: which shard, where each frame's bytes are, its times; a few KB of JSON
    store/shards/000000.tar          the frames of many videos, in WebDataset's layout

A ``.packed`` file is a video to ``PackedReader``: it stands for the source in folders and in clips.csv, and frames are
read by their place in the shard, so that order, shuffling and resuming are the caller's as with any files. The shards
may lie elsewhere: ``packed.json`` names their folder, or a URL of ``SCHEMES``, which fsspec opens. WebDataset
reads the same shards from start to end.

JPEGs are larger than video, so less of the video is stored: at most ``fps`` frames a second, with a limited short
side. ``times_s`` are the times of the stored frames.

Shapes: N stored frames of a video, H x W pixels.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np

from vidact.text.addresses import public, without_secrets
from vidact.text.packages import how_to_install
from vidact.video.folders import PACKED_SUFFIX, STORE
from vidact.video.reader import VideoError, VideoReader

VERSION = 1

# Limits of the values that are read, since a store may come from an untrusted source.
LISTS = ("offsets", "sizes", "times_s")
SIDES = 65_535  # pixels: the longest side of a JPEG
MOST_PIXELS = 2**28  # in one picture, which takes 768 MiB; HEVC's highest level allows half as many
LARGEST_JPEG = 2**30  # bytes
OFFSETS = 2**53  # bytes
FRAME_HEADS = {0xC0, 0xC1, 0xC2}  # markers: baseline, extended, progressive
MOST_SEGMENTS = 64  # the most segments before a JPEG's frame; OpenCV writes six

# The kinds of URLs of shards that are opened. A store may come from an untrusted source, and fsspec's chained and
# templated file systems would open any file the store names, on this machine or elsewhere: they are not among these.
SCHEMES = ("https", "http", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")


# ------------------------------------------------------------------------------------------------------------- reading


def decode_jpeg(data: bytes) -> Any:
    """Return the (H, W, 3) RGB picture of a JPEG; None where the bytes are no JPEG."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the height and width by a JPEG's header, without decoding it; None where the bytes are no JPEG."""
    if data[:2] != b"\xff\xd8":
        return None
    position = 2
    for _ in range(MOST_SEGMENTS):
        if data[position : position + 1] != b"\xff" or len(data) < position + 9:
            return None
        if data[position + 1] in FRAME_HEADS:
            return int.from_bytes(data[position + 5 : position + 7], "big"), int.from_bytes(
                data[position + 7 : position + 9], "big"
            )
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


@lru_cache(maxsize=64)
def _shards_of(store: Path, mtime_ns: int) -> str:
    """Return the folder or URL of the shards, from packed.json."""
    try:
        record = json.loads(store.read_text(encoding="utf-8-sig"))  # an edited file may begin with a byte order mark
        shards, version = record["shards"], record["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VideoError(f"{store} cannot be read ({_short(error)}); pack again, or fetch it again") from None
    if version != VERSION:
        raise VideoError(f"{store} is of version {version} and this vidact reads {VERSION}; pack again")
    if not isinstance(shards, str) or not shards:
        raise VideoError(f"{store} names no place of its shards but {shards!r}; write their folder or address")
    scheme = shards.partition("://")[0] if "://" in shards else ""
    try:
        if scheme == "file":
            shards, scheme = url2pathname(urlsplit(shards).path), ""
        folder = str((store.parent / shards).resolve())
    except (ValueError, OSError) as error:  # raised for text that cannot be a path
        raise VideoError(f"{store} names a place of its shards that cannot be ({_short(error)}); correct it") from None
    if (scheme and scheme not in SCHEMES) or "::" in shards:
        raise VideoError(
            f"{store} names {public(shards)}; shards are a folder or begin with "
            f"{', '.join(f'{name}://' for name in SCHEMES)}, without ::, since a store may come from anybody"
        )
    return shards if scheme else folder


def _whole(entry: Any, name: str, least: int, most: int) -> Any:
    """Return a whole number of the entry, or a list of them; raises ValueError where one is out of range."""
    value = entry[name]
    for number in value if isinstance(value, list) and name in LISTS else [value]:
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"{name} of {number!r:.30}; it is {least} to {most}")
    return value


def _seconds(entry: Any, name: str) -> Any:
    """Return a finite number of the entry, or a list of them, as float; raises ValueError otherwise."""
    value = entry[name]
    for number in value if isinstance(value, list) and name in LISTS else [value]:
        if type(number) not in (int, float) or not -1e12 < number < 1e12:
            raise ValueError(f"{name} of {number!r:.30}; it is a number of seconds, or a rate")
    return [float(number) for number in value] if isinstance(value, list) else float(value)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


class PackedReader(VideoReader):
    """A reader of the frames of one ``.packed`` file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path} does not exist; a packed video is a file ending in {PACKED_SUFFIX}")
        try:
            entry = json.loads(self.path.read_text(encoding="utf-8"))
            self._offsets, self._sizes = _whole(entry, "offsets", 0, OFFSETS), _whole(entry, "sizes", 1, LARGEST_JPEG)
            self._height, self._width = _whole(entry, "height", 1, SIDES), _whole(entry, "width", 1, SIDES)
            self._times_s = np.array(_seconds(entry, "times_s"))
            self.fps = _seconds(entry, "fps")
            self._end_s = _seconds(entry, "end_s") if "end_s" in entry else None  # older stores lack it
            self._lead_s = _seconds(entry, "lead_s") if "lead_s" in entry else 0.0
            above, self._shard_name = entry["store"], entry["shard"]
            whole = len(self._times_s) == len(self._offsets) == len(self._sizes) > 0
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise VideoError(f"{self.path} is no packed video ({_short(error)}); pack it again") from None
        if not self.fps > 0 or (np.diff(self._times_s) < 0).any():
            raise VideoError(f"{self.path} is no packed video: its frames come in no order of time; pack it again")
        if not isinstance(above, str) or not re.fullmatch(r"\.|\.\.(/\.\.)*", above):
            raise VideoError(f"{self.path} names the store {above!r}; its store lies above it: . or .., ../.., …")
        if self._height * self._width > MOST_PIXELS:
            raise VideoError(f"{self.path} promises pictures of {self._width}x{self._height}, which are too large")
        if not isinstance(self._shard_name, str) or not re.fullmatch(r"\w[\w-]{,200}\.tar", self._shard_name, re.ASCII):
            raise VideoError(
                f"{self.path} names the shard {self._shard_name!r:.60}; a shard is a plain name: 000000.tar"
            )
        store = Path(os.path.normpath(self.path.absolute().parent / above)) / STORE
        if not whole:
            raise VideoError(f"{self.path} is damaged: its lists are of different lengths; pack it again")
        if not store.is_file():
            raise VideoError(f"{self.path} belongs to a store whose {store} is missing; keep the store together")
        self._shards = _shards_of(store, store.stat().st_mtime_ns)
        self._file: BinaryIO | None = None

    @property
    def times_s(self) -> np.ndarray:
        return self._times_s

    @property
    def end_s(self) -> float:
        return super().end_s if self._end_s is None else self._end_s

    @property
    def begin_s(self) -> float:
        return float(self._times_s[0]) - self._lead_s

    @property
    def width(self) -> int:
        return self._width

    @property
    def height(self) -> int:
        return self._height

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        for number, data in zip(numbers, self._read(numbers), strict=True):
            size = self._height, self._width
            image = decode_jpeg(data) if len(data) == self._sizes[number] and _jpeg_size(data) == size else None
            if image is None or image.shape != (*size, 3):
                raise VideoError(
                    f"frame {number} of {self.path} is not in {self._shard} where it should be; "
                    "the shard is of another run or damaged: fetch it again, or pack again"
                )
            yield image

    def _read(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the frames' JPEGs: read one by one from a file, or all at once from a URL."""
        if "://" in self._shards:
            return self._fetch(numbers)
        if self._file is None:
            shard = Path(self._shards, self._shard_name)
            # opening a pipe would block; unlike Path's methods, these accept any name
            if os.path.exists(shard) and not os.path.isfile(shard):
                raise VideoError(f"{self.path} lies in the shard {shard}, which is no file; fetch it again")
            try:
                self._file = shard.open("rb", buffering=0)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                    raise
                raise VideoError(
                    f"{self.path} lies in the shard {shard}, which does not exist; "
                    f"put it there, or say in {STORE} where the shards are"
                ) from None
        length = os.fstat(self._file.fileno()).st_size
        for number in numbers:
            if self._offsets[number] + self._sizes[number] > length:
                raise VideoError(
                    f"frame {number} of {self.path} lies beyond the end of {self._shard}, which has {length} bytes; "
                    "the shard is cut short or of another run: fetch it again, or pack again"
                )
        if hasattr(os, "pread"):
            file = self._file.fileno()
            return [os.pread(file, self._sizes[number], self._offsets[number]) for number in numbers]
        return [self._seek(number) for number in numbers]

    @property
    def _shard(self) -> str:
        """The shard's path or public address, for messages."""
        address = f"{self._shards}/{self._shard_name}"
        return public(address) if "://" in address else address

    def _seek(self, number: int) -> bytes:
        assert self._file is not None
        self._file.seek(self._offsets[number])
        return self._file.read(self._sizes[number])

    def _fetch(self, numbers: Sequence[int]) -> list[bytes]:
        try:
            import fsspec
        except ImportError as error:
            raise ImportError(f"{public(self._shards)} is read with fsspec; {how_to_install('fsspec')}") from error
        path = url = f"{self._shards.rstrip('/')}/{self._shard_name}"
        begins = [self._offsets[number] for number in numbers]
        ends = [start + self._sizes[number] for start, number in zip(begins, numbers, strict=True)]
        try:
            files, path = fsspec.core.url_to_fs(url)
            return files.cat_ranges([path] * len(begins), begins, ends, on_error="raise")
        except ImportError as error:
            raise ImportError(f"{self._shard} cannot be fetched: {error}") from error
        except Exception as error:  # whatever a storage library raises
            raise VideoError(
                f"{self.path} cannot be fetched from {self._shard} "
                f"({type(error).__name__}: {without_secrets(str(error).replace(path, self._shard))})"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}
