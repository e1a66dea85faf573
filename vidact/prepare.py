"""``vidact prepare``: check a set of videos, re-encode it, or pack it; and what is left of it in a folder.

    check      every video decoded once; what is wrong with files, lists and splits as check.json and report.html
    transcode  the same set with a key frame every few frames and a smaller side
    pack       the same set as JPEGs in a few large shards

``transcode`` and ``pack`` mirror the set: the same folders and names, the lists (clips.csv, videos.csv, events.csv,
classes.txt) with the new files' names, ``prepare.json`` with size, hash and PSNR of each video, ``unreadable.json``
with those that were left out and why, and results.json. They may be stopped at any moment, by SIGKILL too: run again
they go on and end with the same bytes, and run once more they change nothing.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from vidact.addresses import Parser
from vidact.data.annotations import is_table, refuse_odd_names, video_id
from vidact.data.folders import walk_videos
from vidact.data.tables import Table, read_table, read_text
from vidact.files import replacing, write_json
from vidact.names import Finder, counted, first_few, is_there, plain_name, plain_path
from vidact.results import command_line, save_results
from vidact.video import jobs, packed, transcode
from vidact.video.decode import VideoError
from vidact.video.jobs import Meter, size_text, time_text
from vidact.video.packed import PACKED_SUFFIX, SHARDS, PackJob, PackSettings, PackVideo, size_of
from vidact.video.transcode import TranscodeJob, TranscodeSettings

TABLES = {"clips.csv": "path", "videos.csv": "video", "events.csv": "video"}  # lists and their column of videos
COLUMNS = ("label", "labels", "start_s", "end_s", "split", "group")
SAMPLED, SAMPLED_FRAMES = 3, 64  # videos and frames of each that an estimate is made from
MANIFEST, UNREADABLE = "prepare.json", "unreadable.json"


# -------------------------------------------------------------------------------------------------------------- sources


@dataclass
class Sources:
    """The videos of a set: path below ``folder``, as the lists write it → file. ``missing`` are listed, or links, and
    lead to no file; ``notes`` are sentences on what was passed over, ``groups`` the group of
    each video where a column of its list names it.
    """

    root: Path
    folder: Path
    videos: dict[str, Path]
    missing: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)


def find_sources(root: Path) -> Sources:
    """The videos that a set's clips.csv or videos.csv names; without these, all in the folder and its subfolders."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the one that holds the videos, or their clips.csv")
    folder = root
    if (root / "clips.csv").exists() and (elsewhere := root / "root.txt").exists():
        folder = root / read_text(elsewhere).strip()
        if not folder.is_dir():
            raise FileNotFoundError(f"{elsewhere} says that the videos are in {folder}, which is not a folder")
    notes: list[str] = []
    # a folder of images is a video of its class's folder
    there = walk_videos(folder, images_below=2, notes=notes)
    refuse_odd_names(folder, there)
    tables = [name for name in ("clips.csv", "videos.csv") if is_table(root / name)]
    if not tables:
        if not there:
            raise FileNotFoundError(f"{root} holds no video and no clips.csv; give the folder of the videos")
        return _sources(root, folder, there, notes=notes)
    listed: dict[str, None] = {}
    groups: dict[str, str] = {}
    for table in tables:
        read = _read(root / table)
        notes += read.notes
        for _, row in read.rows:
            path = PurePosixPath(row[TABLES[table]])
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(
                    f"{root / table} names {path}, which lies outside the folder; prepare needs paths below it"
                )
            listed[path.as_posix()] = None
            if row.get("group"):
                groups[path.as_posix()] = plain_name(row["group"])
    found = _sources(root, folder, listed, [name for name in there if name not in listed], notes)
    found.groups = groups
    return found


def _sources(
    root: Path, folder: Path, names: Collection[str], unlisted: Sequence[str] = (), notes: Sequence[str] = ()
) -> Sources:
    finder = Finder(folder)
    paths = {name: finder.find(name) for name in names}
    videos = {name: path for name, path in paths.items() if is_there(path)}
    found = {path.relative_to(folder).as_posix() for path in videos.values()}
    return Sources(
        root,
        folder,
        videos,
        [name for name in names if name not in videos],
        [name for name in unlisted if name not in found],
        list(notes),
    )


def _read(table: Path) -> Table:
    return read_table(table, ((TABLES[table.name],),), COLUMNS)


def _new_names(sources: Sources, suffix: str) -> dict[str, str]:
    """Source name → name of its copy; refuses two that would become one."""
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in sources.videos:
        new = names[name] = video_id(name) + suffix
        if new in taken:
            raise ValueError(f"{taken[new]} and {name} would both become {new}; rename one of them")
        taken[new] = name
    return names


def _write_lists(sources: Sources, out: Path, suffix: str, left_out: set[str]) -> None:
    """The set's lists with the copies' names, without the rows of what was left out."""
    gone = {plain_path(video_id(name)) for name in left_out}
    for table, named in TABLES.items():
        if not (sources.root / table).exists():
            continue
        read = _read(sources.root / table)
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
    """Write a file unless it says just that; gives whether it was written."""
    if path.exists() and path.read_bytes() == text.encode():
        return False
    with replacing(path) as half:
        half.write_bytes(text.encode())
    return True


# ------------------------------------------------------------------------------------------------- transcoding, packing


@dataclass
class Prepared:
    """What a run did: videos ``written`` now and ``kept`` from before, ``unreadable`` ones with why, and figures."""

    out: Path
    written: int = 0
    kept: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    has_changed: bool = False  # something in the folder is another than before


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


def refuse_inside(sources: Sources, out: Path) -> None:
    """Raise where results would lie among the videos, and be taken for some of them, or where ``out`` is a file."""
    if out.resolve() == sources.folder.resolve() or sources.folder.resolve() in out.resolve().parents:
        raise ValueError(f"--out {out} lies in the folder of the videos, {sources.folder}; choose one outside it")
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise NotADirectoryError(f"--out {out}: {file} is a file; name a folder")


def transcode_set(
    root: str | Path,
    out: str | Path,
    settings: TranscodeSettings = TranscodeSettings(),  # noqa: B008  (a frozen value)
    workers: int = 1,
    missing: Literal["raise", "skip"] = "raise",
    verify: bool = False,
    progress: bool = True,
) -> Prepared:
    """Re-encode every video of a set; see the top of this file for what is left in ``out``.

    Args:
        root: a folder of videos, with or without lists.
        out: a new folder, or one that this function filled with the same settings.
        settings: how.
        workers: videos at the same time, one process of one thread each.
        missing: what to do with videos that are listed, or linked to, and do not exist.
        verify: read every copy again and compare its hash, also those of earlier runs.
        progress: say on stderr how far it is, and before it starts what it will take.
    """
    root, out = Path(root), Path(out)
    sources = _open_sources(root, out, missing)
    names = _new_names(sources, ".mp4")
    todo = [TranscodeJob(names[name], path, out, settings) for name, path in sources.videos.items()]
    waiting = [job for job in todo if not job.is_done()]
    _refuse_strangers(out, set(names.values()))
    if waiting:
        busy = min(workers, len(waiting))
        estimate = _estimate([job.source for job in waiting], _transcode_sample, settings, busy)
        _announce(out, len(waiting), estimate, busy, progress)
    with jobs.alone(out), jobs.full_disk_named(out):
        jobs.claim(out, transcode.settings_record(settings))
        waiting.sort(key=lambda job: size_of(job.source), reverse=True)  # so that the last ones leave no one idle
        done = Prepared(out, kept=len(todo) - len(waiting))
        meter = Meter(sum(size_of(job.source) for job in waiting), len(waiting), progress)
        for job, note in jobs.run(transcode.transcode, waiting, workers, meter):
            if error := note.get("error"):
                done.unreadable[_source_name(sources, job.source)] = error
            else:
                done.written += 1
            meter.finish(size_of(job.source), news=f"{job.name}: {error}" if error else "")
        notes = {job.name: jobs.read_note(out, job.name) for job in todo}
        rows = {name: _row(note) for name, note in sorted(notes.items()) if note is not None}
        if verify:
            _verify({out / name: row["sha256"] for name, row in rows.items()}, progress)
        source_bytes = sum(size_of(job.source) for job in todo if job.name in rows)
        below = [name for name, row in rows.items() if settings.crf is None and row["psnr"] < settings.psnr]
        done.figures = _figures(rows, source_bytes, sum(row["bytes"] for row in rows.values()))
        done.figures["below_the_psnr_asked"] = len(below)
        _finish(sources, done, ".mp4", rows, transcode.settings_record(settings))
    return done


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

    Which video lies in which shard is written down before the first is made, in an order that has nothing to do with
    the names; videos that are added to the set later get shards of their own.
    """
    root, out = Path(root), Path(out)
    sources = _open_sources(root, out, missing)
    names = _new_names(sources, PACKED_SUFFIX)
    plan = _plan(out, sources, names, settings)
    todo = [
        PackJob(number, tuple(PackVideo(names[name], sources.videos[name]) for name in part), out, settings)
        for number, part in enumerate(plan)
    ]
    waiting = [job for job in todo if not job.is_done()]
    if waiting:
        paths = [video.source for job in waiting for video in job.videos]
        estimate = _estimate(paths, _pack_sample, settings, min(workers, len(waiting)))
        _announce(out, len(paths), estimate, min(workers, len(waiting)), progress)
    with jobs.alone(out), jobs.full_disk_named(out):
        jobs.claim(out, packed.settings_record(settings))
        if waiting:
            write_json(out / jobs.NOTES / "plan.json", plan)
        packed.write_store(out, settings)
        done = Prepared(out, kept=sum(len(job.videos) for job in todo if job not in waiting))
        meter = Meter(sum(job.num_bytes for job in waiting), sum(len(job.videos) for job in waiting), progress)
        for job, note in jobs.run(packed.pack, waiting, workers, meter):
            errors = {name: row["error"] for name, row in note["videos"].items() if "error" in row}
            done.written += len(job.videos) - len(errors)
            meter.finish(job.num_bytes, len(job.videos), "; ".join(f"{name}: {why}" for name, why in errors.items()))
        shards = {job.shard: jobs.read_note(out, job.shard) for job in todo}
        notes = {name: row for note in shards.values() if note for name, row in note["videos"].items()}
        source_of = {new: old for old, new in names.items()}
        done.unreadable = {source_of[name]: row["error"] for name, row in sorted(notes.items()) if "error" in row}
        rows = {name: _row(row) for name, row in sorted(notes.items()) if "error" not in row}
        digests = {shard: {"bytes": note["bytes"], "sha256": note["sha256"]} for shard, note in shards.items() if note}
        if verify:
            _verify({out / SHARDS / shard: row["sha256"] for shard, row in digests.items()}, progress)
        source_bytes = sum(size_of(sources.videos[source_of[name]]) for name in rows)
        num_bytes = sum(row["bytes"] for row in digests.values()) + sum((out / name).stat().st_size for name in rows)
        done.figures = _figures(rows, source_bytes, num_bytes)
        done.figures |= {
            "shards": len(digests),
            "frames_kept": sum(row["frames"] for row in rows.values()),
            "frames_of_sources": sum(row["of_frames"] for row in rows.values()),
        }
        _finish(sources, done, PACKED_SUFFIX, rows, packed.settings_record(settings), {"shards": digests})
    return done


def _refuse_strangers(out: Path, names: set[str]) -> None:
    """Raise where ``out`` holds copies of videos that the set no longer has: a folder without lists is read whole."""
    path = out / MANIFEST
    made = json.loads(path.read_text(encoding="utf-8"))["videos"] if path.exists() else {}
    if gone := sorted(name for name in made if name not in names and (out / name).exists()):
        raise ValueError(
            f"{out} holds {first_few(gone)}, which the set no longer has; delete them there, or choose another --out"
        )


def _source_name(sources: Sources, path: Path) -> str:
    return next(name for name, known in sources.videos.items() if known == path)


def _row(note: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of a video: what a second run on another machine would say too."""
    return {name: value for name, value in note.items() if name != "source"}


def _plan(out: Path, sources: Sources, names: dict[str, str], settings: PackSettings) -> list[list[str]]:
    """Names of the videos of each shard: as written down by an earlier run, and new shards for new videos."""
    path = out / jobs.NOTES / "plan.json"
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
    done: Prepared,
    suffix: str,
    rows: dict[str, dict[str, Any]],
    settings: dict[str, Any],
    more: dict[str, Any] | None = None,
) -> None:
    """Lists, manifest and figures; nothing is written that is there already."""
    out = done.out
    done.figures["unreadable"] = len(done.unreadable)
    _write_lists(sources, out, suffix, set(done.unreadable) | set(sources.missing))
    if done.unreadable:
        _write_if_new(out / UNREADABLE, json.dumps(done.unreadable, indent=2, ensure_ascii=False) + "\n")
    else:
        (out / UNREADABLE).unlink(missing_ok=True)
    manifest = {"settings": settings, "figures": done.figures, **(more or {}), "videos": rows}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    done.has_changed = _write_if_new(out / MANIFEST, text)


def _verify(digests: dict[Path, str], progress: bool) -> None:
    meter = Meter(sum(path.stat().st_size for path in digests), len(digests), progress, "files verified")
    meter.begin()
    for path, digest in digests.items():
        if jobs.file_digest(path) != digest:
            raise ValueError(f"{path} is not what was written; delete it and run the same command again")
        meter.finish(path.stat().st_size)


# ------------------------------------------------------------------------------------------------------------ estimates


@dataclass
class Estimate:
    """Bytes and seconds (of one worker), and what they were measured on."""

    num_bytes: float
    seconds: float
    sampled: int


Sample = Callable[[Path, Any], tuple[float, float]]  # video, settings → bytes and seconds for each byte of the source


def _estimate(paths: Sequence[Path], sample: Sample, settings: Any, workers: int) -> Estimate:
    """From the beginnings of a few videos, evenly spread over the sizes."""
    ordered = sorted(paths, key=size_of)
    total = sum(size_of(path) for path in paths)
    places = np.unique(np.linspace(0, len(ordered) - 1, SAMPLED + 2).round().astype(int)[1:-1])
    rates = []
    for place in places:
        try:
            rates.append(sample(ordered[place], settings))
        except VideoError:
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
    num_bytes, share = packed.sample(path, settings, SAMPLED_FRAMES)
    return num_bytes / share / size_of(path), (time.perf_counter() - began) / share / size_of(path)


def _announce(out: Path, count: int, estimate: Estimate, workers: int, progress: bool) -> None:
    """Say what will be written and how long it takes; refuse what does not fit."""
    if progress:
        what = "nothing could be sampled, so bytes and time are unknown"
        if estimate.sampled:
            what = (
                f"about {size_text(estimate.num_bytes)} and {time_text(estimate.seconds)} with {workers} workers "
                f"(measured on the beginnings of {estimate.sampled} videos); {size_text(jobs.disk_free(out))} are free"
            )
        print(f"{count} videos to do: {what}", file=sys.stderr, flush=True)
    jobs.require_room(out, estimate.num_bytes)


# ---------------------------------------------------------------------------------------------------------- the command


def main(args: Sequence[str]) -> int:
    """``vidact prepare``: 0, or 1 when something is wrong with a video or the set."""
    parser = Parser(prog="vidact prepare", description="Check videos, re-encode them, or pack them.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="check|transcode|pack")
    checking = kinds.add_parser("check", help="what is wrong with files, lists and splits: JSON and a page")
    checking.add_argument(
        "--group",
        help="pattern with one group, searched in each path: the person, or source video; "
        "without it a column group of the lists tells them",
    )
    checking.add_argument("--least_frames", type=int, default=8, help="shorter videos are reported (default 8)")
    checking.add_argument("--show", action="store_true", help="open the page in a browser")
    smaller = TranscodeSettings()
    coding = kinds.add_parser("transcode", help="the same set with a key frame every few frames and a smaller side")
    coding.add_argument("--gop", type=int, default=smaller.gop, help="a key frame every so many frames (default 8)")
    coding.add_argument("--codec", default=smaller.codec, choices=list(transcode.CODECS), help="default h264")
    coding.add_argument("--psnr", type=float, default=smaller.psnr, help="dB that each copy has (default 38.5)")
    coding.add_argument("--crf", type=float, help="the encoder's rate factor instead of --psnr; lower is better")
    coding.add_argument("--preset", default=smaller.preset, help="the encoder's (default medium)")
    coding.add_argument("--b_frames", type=int, default=smaller.b_frames, help="in a row at most (default 3)")
    frames = PackSettings()
    packing = kinds.add_parser("pack", help="the same set as JPEGs in a few large shards")
    packing.add_argument("--fps", type=float, default=frames.fps, help="frames a second kept at most (default 15)")
    packing.add_argument("--all_frames", action="store_true", help="keep every frame, whatever the rate")
    packing.add_argument("--quality", type=int, default=frames.quality, help="of the JPEGs, 1 to 100 (default 90)")
    packing.add_argument("--shard_mib", type=float, default=frames.shard_mib, help="of sources in a shard (default 64)")
    for kind in (coding, packing):
        kind.add_argument("--out", type=Path, required=True, help="a new folder, or that of an earlier run")
        kind.add_argument("--short_side", type=int, default=256, help="pixels at most, 0 for any (default 256)")
        kind.add_argument(
            "--missing",
            choices=["raise", "skip"],
            default="raise",
            help="videos that are listed, or linked to, without a file",
        )
        kind.add_argument("--verify", action="store_true", help="read everything again and compare hashes")
    checking.add_argument("--out", type=Path, help="folder of the report (default runs/check-<folder>)")
    for kind in (checking, coding, packing):
        kind.add_argument("--data", type=Path, required=True, help="a folder of videos, with or without lists")
        kind.add_argument("--workers", type=int, help="videos at the same time; default: one for each core")
    asked = parser.parse_args(args)
    workers = jobs.num_cores() if asked.workers is None else asked.workers
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process works")
    try:
        if asked.kind == "check":
            return _check(asked, workers)
        began = time.monotonic()
        short_side = asked.short_side or None
        common = {"workers": workers, "missing": asked.missing, "verify": asked.verify}
        if asked.kind == "transcode":
            done = transcode_set(
                asked.data,
                asked.out,
                TranscodeSettings(
                    short_side, asked.gop, asked.codec, asked.psnr, asked.crf, asked.preset, asked.b_frames
                ),
                **common,
            )
        else:
            fps = None if asked.all_frames else asked.fps
            settings = PackSettings(short_side, fps, asked.quality, asked.shard_mib)
            done = pack_set(asked.data, asked.out, settings, **common)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here") from None
    if done.has_changed or not (done.out / "results.json").exists():
        save_results(done.out, {asked.kind: done.figures}, command_line())
    print(_summary(done, time.monotonic() - began))
    return 1 if done.unreadable else 0


def _check(asked: argparse.Namespace, workers: int) -> int:
    from vidact.check import CHECK, check_set, summary_lines, unlabelled_text  # which imports this file for its sources

    out = asked.out or Path("runs") / f"check-{asked.data.resolve().name}"
    checked = check_set(asked.data, out, asked.group, asked.least_frames, workers)
    for finding in checked.findings:
        print(f"{finding.severity:>7}  {finding.kind}: {first_few(finding.videos, 3) or asked.data}: {finding.words}")
    for line in summary_lines(checked.classes):
        print(f"  {line}")
    if checked.unlabelled is not None:
        print(unlabelled_text(checked.unlabelled))
    kinds = ", ".join(f"{count} {kind}" for kind, count in checked.kinds().items()) or "nothing found"
    print(f"{len(checked.facts)} videos: {kinds}\nreport: {checked.page} and {out / CHECK}")
    if asked.show and checked.page is not None:
        webbrowser.open(checked.page.resolve().as_uri())
    return 1 if checked.findings else 0


def _summary(done: Prepared, seconds: float) -> str:
    figures = done.figures
    lines = [
        f"{done.out}: {counted(done.written, 'video')} written, {done.kept} were there, {len(done.unreadable)} "
        f"cannot be read" + (f" (see {done.out / UNREADABLE})" if done.unreadable else "") + f"; {time_text(seconds)}",
        f"{size_text(figures['bytes'])}, {figures['bytes_ratio']:.2f}x the sources; PSNR to the scaled sources: median "
        f"{figures['psnr_median']:.2f} dB, least {figures['psnr_least']:.2f} dB",
    ]
    if figures.get("below_the_psnr_asked"):
        lines.append(f"{figures['below_the_psnr_asked']} videos stay below the PSNR asked: 4:2:0 does not reach it")
    if "frames_kept" in figures:
        lines.append(f"{figures['frames_kept']} of {figures['frames_of_sources']} frames are kept")
    return "\n".join(lines)
