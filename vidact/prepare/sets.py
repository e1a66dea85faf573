"""The jobs of ``vidact prepare`` on a set of videos: check it, re-encode it, or pack it, with a folder of results.

    check      decodes every video once; defects of files, lists and splits are written to check.json and report.html
    transcode  writes the same set with a key frame every few frames and a smaller side
    pack       writes the same set as JPEGs in a few large shards

``transcode`` and ``pack`` mirror the set: the same folders and names, the lists (clips.csv, videos.csv, events.csv,
classes.txt) with the new files' names, ``prepare.json`` with size, hash and PSNR of each video, ``unreadable.json``
with the videos left out and the reasons, and results.json. They may be stopped at any moment, also by SIGKILL: the next
run continues and ends with the same bytes, and a run after that changes nothing.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from vidact import jobs
from vidact.data.tables import read_text
from vidact.files import disk_free, file_digest, replacing, write_json
from vidact.jobs import Folder, Meter, size_text, time_text
from vidact.prepare import pack, transcode
from vidact.prepare.pack import PackJob, PackSettings, PackVideo, size_of
from vidact.prepare.sources import NOTES, TABLES, Sources, find_sources, read_lists, refuse_inside
from vidact.prepare.transcode import TranscodeJob, TranscodeSettings
from vidact.text.names import counted, first_few, plain_path
from vidact.video.decode import VideoError
from vidact.video.folders import PACKED_SUFFIX, SHARDS, video_id

SAMPLED, SAMPLED_FRAMES = 3, 64  # an estimate measures so many videos, and so many frames of each
MANIFEST = "prepare.json"


def _new_names(sources: Sources, suffix: str) -> dict[str, str]:
    """Map each source's name to that of its copy. Raises ValueError where two copies would have one name."""
    names: dict[str, str] = {}
    source_of: dict[str, str] = {}
    for name in sources.videos:
        new = names[name] = video_id(name) + suffix
        if new in source_of:
            raise ValueError(f"{source_of[new]} and {name} would both become {new}; rename one of them")
        source_of[new] = name
    return names


def _write_lists(sources: Sources, out: Path, suffix: str, left_out: set[str]) -> None:
    """Write the set's lists with the copies' names, without the rows of videos that were left out."""
    gone = {plain_path(video_id(name)) for name in left_out}
    for table, named in TABLES.items():
        if not (sources.root / table).exists():
            continue
        read = read_lists(sources.root / table)
        text = io.StringIO()
        writer = csv.DictWriter(text, read.header, lineterminator="\n")
        writer.writeheader()
        for _, row in read.rows:
            name = video_id(PurePosixPath(row[named]).as_posix())
            if plain_path(name) not in gone:
                writer.writerow(row | {named: name + suffix})
        _write_if_new(out / table, text.getvalue())
    if (listed := sources.root / "classes.txt").exists():
        _write_if_new(out / "classes.txt", read_text(listed))


def _write_if_new(path: Path, text: str) -> bool:
    """Write a file unless it has this content already; return whether it was written."""
    if path.exists() and path.read_bytes() == text.encode():
        return False
    with replacing(path) as half:
        half.write_bytes(text.encode())
    return True


# ------------------------------------------------------------------------------------------------- transcoding, packing


@dataclass
class Prepared:
    """The result of a run: numbers of videos ``written`` and ``unchanged``, reasons of ``unreadable`` ones, figures."""

    out: Path
    written: int = 0
    unchanged: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    has_changed: bool = False  # whether this run changed the folder
    report: Path = Path(jobs.UNREADABLE)  # the file that lists the unreadable videos


def _open_sources(root: Path, out: Path, missing: str) -> Sources:
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing is {missing!r}; it can be 'raise' or 'skip'")
    sources = find_sources(root)
    for note in sources.notes:
        print(note, file=sys.stderr)
    refuse_inside(sources, out)
    if sources.missing and missing == "raise":
        raise FileNotFoundError(
            f"{counted(len(sources.missing), 'video that is', 'videos that are')} listed, or linked to, but not there: "
            f"{first_few(sources.missing)}. Correct the list or the link, or leave them out with --missing skip"
        )
    if not sources.videos:
        raise FileNotFoundError(f"none of the {len(sources.missing)} videos of {sources.root} exists")
    return sources


def transcode_set(
    root: str | Path,
    out: str | Path,
    settings: TranscodeSettings = TranscodeSettings(),  # noqa: B008  (a frozen value)
    workers: int = 1,
    missing: Literal["raise", "skip"] = "raise",
    verify: bool = False,
    progress: bool = True,
) -> Prepared:
    """Re-encode every video of a set; the top of this file lists what is written to ``out``.

    Args:
        root: a folder of videos, with or without lists.
        out: a new folder, or one that this function filled with the same settings.
        settings: the settings of the encoder.
        workers: videos re-encoded at the same time, by one process of one thread each.
        missing: what to do with videos that are listed, or linked to, and do not exist: raise, or skip them.
        verify: read every copy again and compare its hash, also copies of earlier runs.
        progress: whether an estimate of bytes and time, and then the progress, are printed to stderr.
    """
    root, out = Path(root), Path(out)
    sources = _open_sources(root, out, missing)
    names = _new_names(sources, ".mp4")
    folder = Folder(out, NOTES)
    every_job = [TranscodeJob(names[name], path, out, settings) for name, path in sources.videos.items()]
    waiting = [job for job in every_job if not job.is_done()]
    _refuse_removed_videos(out, set(names.values()))
    if waiting:
        busy = min(workers, len(waiting))
        estimate = _estimate([job.source for job in waiting], _transcode_sample, settings, busy)
        _print_estimate(out, len(waiting), estimate, busy, progress)
    with folder.locked():
        folder.claim(transcode.settings_record(settings))
        waiting.sort(key=lambda job: size_of(job.source), reverse=True)  # so that no worker is idle at the end
        result = Prepared(out, unchanged=len(every_job) - len(waiting))
        meter = Meter({job: size_of(job.source) for job in waiting}, is_on=progress)
        for job, note in jobs.run(transcode.start, waiting, workers, meter):
            if error := note.get("error"):
                result.unreadable[_source_name(sources, job.source)] = error
            else:
                result.written += 1
            meter.finish(job, f"{job.name}: {error}" if error else "")
        notes = {job.name: folder.read(job.name) for job in every_job}
        rows = {name: _row(note) for name, note in sorted(notes.items()) if note is not None}
        if verify:
            _verify({out / name: row["sha256"] for name, row in rows.items()}, progress)
        source_bytes = sum(size_of(job.source) for job in every_job if job.name in rows)
        below = [name for name, row in rows.items() if settings.crf is None and row["psnr"] < settings.psnr]
        result.figures = _figures(rows, source_bytes, sum(row["bytes"] for row in rows.values()))
        result.figures["below_the_psnr_asked"] = len(below)
        _finish(sources, result, folder, ".mp4", rows, transcode.settings_record(settings))
    return result


def pack_set(
    root: str | Path,
    out: str | Path,
    settings: PackSettings = PackSettings(),  # noqa: B008  (a frozen value)
    workers: int = 1,
    missing: Literal["raise", "skip"] = "raise",
    verify: bool = False,
    progress: bool = True,
) -> Prepared:
    """Pack every video of a set into shards; arguments as in ``transcode_set``.

    The videos of each shard are recorded before the first shard is written, in an order that does not depend on the
    names. Videos that are added to the set later go into new shards.
    """
    root, out = Path(root), Path(out)
    sources = _open_sources(root, out, missing)
    names = _new_names(sources, PACKED_SUFFIX)
    plan = _plan(out, sources, names, settings)
    folder = Folder(out, NOTES)
    every_job = [
        PackJob(number, tuple(PackVideo(names[name], sources.videos[name]) for name in part), out, settings)
        for number, part in enumerate(plan)
    ]
    waiting = [job for job in every_job if not job.is_done()]
    if waiting:
        paths = [video.source for job in waiting for video in job.videos]
        estimate = _estimate(paths, _pack_sample, settings, min(workers, len(waiting)))
        _print_estimate(out, len(paths), estimate, min(workers, len(waiting)), progress)
    with folder.locked():
        folder.claim(pack.settings_record(settings))
        if waiting:
            write_json(out / NOTES / "plan.json", plan)
        pack.write_store(out, settings)
        result = Prepared(out, unchanged=sum(len(job.videos) for job in every_job if job not in waiting))
        meter = Meter({job: job.num_bytes for job in waiting}, sum(len(job.videos) for job in waiting), progress)
        for job, note in jobs.run(pack.start, waiting, workers, meter):
            errors = {name: row["error"] for name, row in note["videos"].items() if "error" in row}
            result.written += len(job.videos) - len(errors)
            meter.finish(job, "; ".join(f"{name}: {why}" for name, why in errors.items()), len(job.videos))
        shards = {job.shard: folder.read(job.shard) for job in every_job}
        notes = {name: row for note in shards.values() if note for name, row in note["videos"].items()}
        source_of = {new: old for old, new in names.items()}
        result.unreadable = {source_of[name]: row["error"] for name, row in sorted(notes.items()) if "error" in row}
        rows = {name: _row(row) for name, row in sorted(notes.items()) if "error" not in row}
        digests = {shard: {"bytes": note["bytes"], "sha256": note["sha256"]} for shard, note in shards.items() if note}
        if verify:
            _verify({out / SHARDS / shard: row["sha256"] for shard, row in digests.items()}, progress)
        source_bytes = sum(size_of(sources.videos[source_of[name]]) for name in rows)
        num_bytes = sum(row["bytes"] for row in digests.values()) + sum((out / name).stat().st_size for name in rows)
        result.figures = _figures(rows, source_bytes, num_bytes)
        result.figures |= {
            "shards": len(digests),
            "frames_kept": sum(row["frames"] for row in rows.values()),
            "frames_of_sources": sum(row["of_frames"] for row in rows.values()),
        }
        _finish(sources, result, folder, PACKED_SUFFIX, rows, pack.settings_record(settings), {"shards": digests})
    return result


def _refuse_removed_videos(out: Path, names: set[str]) -> None:
    """Raise where ``out`` has copies of videos that the set no longer has: without lists, all of it would be read."""
    path = out / MANIFEST
    copies = json.loads(path.read_text(encoding="utf-8"))["videos"] if path.exists() else {}
    if gone := sorted(name for name in copies if name not in names and (out / name).exists()):
        raise ValueError(
            f"{out} holds {first_few(gone)}, which the set no longer has; delete them there, or choose another --out"
        )


def _source_name(sources: Sources, path: Path) -> str:
    return next(name for name, video in sources.videos.items() if video == path)


def _row(note: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest's row of a video, which is the same on every machine."""
    return {name: value for name, value in note.items() if name != "source"}


def _plan(out: Path, sources: Sources, names: dict[str, str], settings: PackSettings) -> list[list[str]]:
    """Return the names of the videos of each shard: those recorded by an earlier run, and new shards for new videos."""
    path = out / NOTES / "plan.json"
    plan: list[list[str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    planned = {name for part in plan for name in part}
    if gone := sorted(planned - set(sources.videos)):
        raise ValueError(f"{out} holds {first_few(gone)}, which the set no longer has; pack into another --out")
    most = settings.shard_mib * 2**20
    part: list[str] = []
    size = 0.0
    order = np.random.default_rng(0).permutation(sorted(set(sources.videos) - planned)).tolist()
    for name in order:
        num_bytes = size_of(sources.videos[name])
        if part and size + num_bytes > most:
            plan.append(part)
            part, size = [], 0.0
        part.append(name)
        size += num_bytes
    return [*plan, part] if part else plan


def _figures(rows: dict[str, dict[str, Any]], source_bytes: int, num_bytes: int) -> dict[str, Any]:
    psnr = np.array([row["psnr"] for row in rows.values()] or [np.nan])
    return {
        "videos": len(rows),
        "bytes": num_bytes,
        "source_bytes": source_bytes,
        "bytes_ratio": round(num_bytes / max(source_bytes, 1), 4),
        "hours": round(sum(row["seconds"] for row in rows.values()) / 3600, 4),
        "psnr_median": float(np.median(psnr)),
        "psnr_least": float(psnr.min()),
    }


def _finish(
    sources: Sources,
    result: Prepared,
    folder: Folder,
    suffix: str,
    rows: dict[str, dict[str, Any]],
    settings: dict[str, Any],
    more: dict[str, Any] | None = None,
) -> None:
    """Write the lists, the unreadable videos and the manifest; a file that would not change is not written again."""
    out = folder.out
    result.figures["unreadable"] = len(result.unreadable)
    _write_lists(sources, out, suffix, set(result.unreadable) | set(sources.missing))
    result.report = folder.report_unreadable(result.unreadable)
    manifest = {"settings": settings, "figures": result.figures, **(more or {}), "videos": rows}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    result.has_changed = _write_if_new(out / MANIFEST, text)


def _verify(digests: dict[Path, str], progress: bool) -> None:
    meter = Meter({path: path.stat().st_size for path in digests}, is_on=progress, unit="files verified")
    meter.begin()
    for path, digest in digests.items():
        if file_digest(path) != digest:
            raise ValueError(f"{path} is not what was written; delete it and run the same command again")
        meter.finish(path)


# ------------------------------------------------------------------------------------------------------------ estimates


@dataclass
class Estimate:
    """The expected bytes and seconds of a run, and the number of videos that they were measured on."""

    num_bytes: float
    seconds: float
    sampled: int


Sample = Callable[[Path, Any], tuple[float, float]]  # (video, settings) → bytes and seconds for each byte of the source


def _estimate(paths: Sequence[Path], sample: Sample, settings: Any, workers: int) -> Estimate:
    """Estimate a run from the beginnings of a few videos, evenly spread over the sizes."""
    ordered = sorted(paths, key=size_of)
    total = sum(size_of(path) for path in paths)
    indices = np.unique(np.linspace(0, len(ordered) - 1, SAMPLED + 2).round().astype(int)[1:-1])
    rates = []
    for index in indices:
        try:
            rates.append(sample(ordered[index], settings))
        except (VideoError, OSError):  # the video's job reports it
            continue
    if not rates:
        return Estimate(0.0, 0.0, 0)
    num_bytes, seconds = np.mean(rates, axis=0) * total
    return Estimate(float(num_bytes), float(seconds) / max(workers, 1), len(rates))


def _transcode_sample(path: Path, settings: TranscodeSettings) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        num_bytes, share = transcode.sample(path, Path(folder) / "sample.mp4", settings, SAMPLED_FRAMES)
        return num_bytes / share / size_of(path), (time.perf_counter() - began) / share / size_of(path)


def _pack_sample(path: Path, settings: PackSettings) -> tuple[float, float]:
    began = time.perf_counter()
    num_bytes, share = pack.sample(path, settings, SAMPLED_FRAMES)
    return num_bytes / share / size_of(path), (time.perf_counter() - began) / share / size_of(path)


def _print_estimate(out: Path, count: int, estimate: Estimate, workers: int, progress: bool) -> None:
    """Print what will be written and how long that takes. Raises DiskFullError where the disk has no room for it."""
    if progress:
        estimate_text = "nothing could be sampled, so bytes and time are unknown"
        if estimate.sampled:
            estimate_text = (
                f"about {size_text(estimate.num_bytes)} and {time_text(estimate.seconds)} with {workers} workers "
                f"(measured on the beginnings of {estimate.sampled} videos); {size_text(disk_free(out))} are free"
            )
        print(f"{count} videos to do: {estimate_text}", file=sys.stderr, flush=True)
    jobs.require_room(out, estimate.num_bytes)
