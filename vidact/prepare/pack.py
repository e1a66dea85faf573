"""The writer of packed videos: every frame becomes a JPEG file inside a few large tar files."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from vidact.files import file_digest, replacing, write_json
from vidact.jobs import Folder, Work, full_disk_named, source_state
from vidact.prepare.settings import PackSettings
from vidact.prepare.sources import NOTES
from vidact.prepare.transcode import pictures_of, psnr_of, scaled, squared_difference
from vidact.text.packages import how_to_install
from vidact.video.decode import open_video
from vidact.video.folders import SHARDS, STORE
from vidact.video.packed import VERSION, PackedReader, decode_jpeg
from vidact.video.reader import VideoError


def kept_frames(times_s: np.ndarray, fps: float | None) -> np.ndarray:
    """Return the indices of the frames to keep: the first, and each that is 1 / ``fps`` later than the last one kept.

    A frame may come a tenth of that interval early. So of 30 frames a second every second one is kept at 15, whatever
    the rounding of the times, and of 25 every one is kept at 24.
    """
    if fps is None or len(times_s) < 2:
        return np.arange(len(times_s))
    numbers, last_s = [0], times_s[0]
    for number, time_s in enumerate(times_s[1:], 1):
        if time_s - last_s >= 0.9 / fps:
            numbers.append(number)
            last_s = time_s
    return np.array(numbers)


# ------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class PackVideo:
    """A source video; ``name`` is its ``.packed`` file below the store."""

    name: str
    source: Path


@dataclass(frozen=True)
class PackJob:
    """The videos of one shard; a shard is written whole or not at all."""

    number: int
    videos: tuple[PackVideo, ...]
    out: Path
    settings: PackSettings

    @property
    def shard(self) -> str:
        return f"{self.number:06d}.tar"

    @property
    def folder(self) -> Folder:
        return Folder(self.out, NOTES)

    @property
    def label(self) -> str:
        return str(self.out / SHARDS / self.shard)

    @property
    def num_bytes(self) -> int:
        return sum(size_of(video.source) for video in self.videos)

    def is_done(self) -> bool:
        """Return whether the shard, whole by its size, and the ``.packed`` files of this state of the sources exist."""
        note = self.folder.read(self.shard)
        if note is None or set(note["videos"]) != {video.name for video in self.videos}:
            return False
        try:
            if note["bytes"] and (self.out / SHARDS / self.shard).stat().st_size != note["bytes"]:
                return False
            return all(
                note["videos"][video.name]["source"] == source_state(video.source)
                and ("error" in note["videos"][video.name] or (self.out / video.name).is_file())
                for video in self.videos
            )
        except OSError:
            return False


def size_of(path: Path) -> int:
    """Return the bytes of a video file, or of all images of a folder."""
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def start() -> Work[PackJob, dict[str, Any]]:
    """Return the work of a process: it writes one shard for each job."""
    return lambda job, tell: pack(job)


def pack(job: PackJob) -> dict[str, Any]:
    """Write one shard and the ``.packed`` files of its videos, check them, and write the shard's note.

    Returns the note: ``{"bytes", "sha256", "videos": {name: {"frames", "psnr", …} or {"error"}}}``. Raises
    DiskFullError.
    """
    try:
        from webdataset.writer import TarWriter
    except ImportError as error:
        raise ImportError(f"packing writes its shards with webdataset; {how_to_install('webdataset')}") from error

    out = job.out
    job.folder.forget(job.shard)
    for video in job.videos:  # these files are of another state of their sources, or of a shard that will change
        (out / video.name).unlink(missing_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    entries: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    with full_disk_named(out):
        with replacing(out / SHARDS / job.shard) as half:
            with half.open("wb") as file:
                # Owner, mode and times in the tar file are fixed, so that every machine writes the same bytes.
                writer = TarWriter(file, user="", group="", encoder=False, mtime=0)
                for index, video in enumerate(job.videos):
                    try:
                        state = source_state(video.source)
                        entry, jpegs, squared_error = _compress(video.source, job.settings)
                    except VideoError as error:
                        rows[video.name] = {"source": state, "error": str(error)}
                        continue
                    except OSError as error:
                        # Without a state, the next run tries again: a permission may be granted without a change.
                        rows[video.name] = {"source": {}, "error": str(error)}
                        continue
                    key = f"{job.number:06d}{index:06d}"
                    description = {"video": video.name, "times_s": entry["times_s"]}
                    members = {f"{number:06d}.jpg": data for number, data in enumerate(jpegs)}
                    writer.write({"__key__": key, **members, "json": json.dumps(description).encode()})
                    num_values = entry["height"] * entry["width"] * 3 * len(jpegs)
                    rows[video.name] = {
                        "source": state,
                        "frames": len(jpegs),
                        "of_frames": entry["of_frames"],
                        "seconds": entry["seconds"],
                        "psnr": round(min(psnr_of(squared_error, num_values), 99.0), 3),
                    }
                    entries[key] = {
                        "version": VERSION,
                        "store": "/".join([".."] * (len(PurePosixPath(video.name).parts) - 1)) or ".",
                        "shard": job.shard,
                        **{name: entry[name] for name in ("height", "width", "fps", "times_s", "end_s", "lead_s")},
                        "sizes": [len(data) for data in jpegs],
                    }
                    names[key] = video.name
                writer.close()
                file.flush()
                os.fsync(file.fileno())
            offsets = _offsets(half)
            digest, num_bytes = file_digest(half), half.stat().st_size
        for key, entry in entries.items():
            name = names[key]
            entry["offsets"] = [offsets[f"{key}.{number:06d}.jpg"] for number in range(len(entry["sizes"]))]
            with replacing(out / name) as half:
                half.write_text(json.dumps(entry, separators=(",", ":")), encoding="utf-8")
            _check(out / name)
        return job.folder.finish(job.shard, {}, bytes=num_bytes, sha256=digest, videos=rows)


def sample(path: Path, settings: PackSettings, num_frames: int) -> tuple[int, float]:
    """Pack the first frames of a video; return the bytes, and their share of all frames that are kept."""
    entry, jpegs, _ = _compress(path, settings, num_frames)
    members = sum(512 + -(-len(data) // 512) * 512 for data in jpegs)  # a tar file's headers and whole blocks
    return members, len(jpegs) / entry["kept"]


def _compress(path: Path, settings: PackSettings, most: int | None = None) -> tuple[dict[str, Any], list[bytes], float]:
    """Return the contents of a video's ``.packed`` file, its JPEGs, and their squared error to the scaled source."""
    with open_video(path, cache=False) as video:
        times_s, end_s, lead_s, fps = video.times_s, video.end_s, video.lead_s, video.fps
        height, width = video.height, video.width
    every = kept_frames(times_s, settings.fps)
    numbers = every[:most].tolist()
    factor = 1.0 if settings.short_side is None else min(1.0, settings.short_side / min(height, width))
    height, width = max(1, round(height * factor)), max(1, round(width * factor))
    jpegs, error = [], 0.0
    options = [cv2.IMWRITE_JPEG_QUALITY, settings.quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    for image in pictures_of(path, numbers):
        image = scaled(image, height, width)
        jpegs.append(cv2.imencode(".jpg", image[:, :, ::-1], options)[1].tobytes())
        error += squared_difference(image, decode_jpeg(jpegs[-1]))
    rate = fps * len(every) / len(times_s)
    entry = {
        "height": height,
        "width": width,
        "fps": rate,
        "times_s": [round(float(time_s), 6) for time_s in times_s[numbers]],
        "kept": len(every),
        "of_frames": len(times_s),
        "end_s": round(end_s, 6),
        "lead_s": round(lead_s, 6),
        "seconds": round(end_s - float(times_s[0]), 3),
    }
    return entry, jpegs, error


def _offsets(path: Path) -> dict[str, int]:
    """Return the byte at which each member of a tar file begins."""
    with tarfile.open(path, "r:") as shard:
        return {member.name: member.offset_data for member in shard}


def _check(path: Path) -> None:
    """Read the first and the last frame of a packed video, which checks its offsets and sizes."""
    with PackedReader(path) as video:
        video.frames_at([0, len(video) - 1])


def write_store(out: Path, settings: PackSettings) -> None:
    """Write packed.json if there is none, so that a path of the shards that was edited in it stays."""
    if not (out / STORE).exists():
        write_json(out / STORE, {"version": VERSION, "shards": SHARDS, "settings": asdict(settings)})


def settings_record(settings: PackSettings) -> dict[str, Any]:
    """Return the record of the settings that a store is made with."""
    return {"made_by": "vidact prepare pack", **asdict(settings)}
