"""``vidact extract flow``: the optical flow of videos, computed once and read in every epoch.

What is written, and how it is called, is in ``vidact.video.flow_store``. A video's fields appear all at once, so the
command may be killed at any moment and called again: finished videos are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.tv_tensors import Video

from vidact import jobs
from vidact.data.clip_list import load_clips
from vidact.data.tables import is_table
from vidact.features.files import find_videos
from vidact.files import short_name, write_json
from vidact.jobs import Meter
from vidact.text.names import counted
from vidact.video.decode import VideoError, VideoReader, open_video
from vidact.video.flow import METHODS, flow_fields, quantise
from vidact.video.flow_store import FlowRecord, FlowStore, FlowWriter, write_record
from vidact.video.folders import source_id, walk_videos

NOTES = ".extract/flow"  # the folder inside a folder of flow that says which videos are done
CHUNK = 32  # frames held at once


@dataclass
class FlowExtraction:
    """Video ids that were ``written``, ``kept`` from a run before, and ``unreadable`` ones with why."""

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    num_fields: int = 0
    took_s: float = 0.0
    report: Path = Path(jobs.UNREADABLE)  # the file that names the unreadable


def extract_flow(
    videos: str | Path,
    out: str | Path,
    record: FlowRecord | None = None,
    *,
    workers: int = 1,
    shard: str = "1/1",
    decoder: str = "pyav",
    weights: str | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> FlowExtraction:
    """Write the flow of every video into ``out``.

    Args:
        videos: a folder as ``load_clips`` reads it, or any folder of video files, or one file.
        out: the folder of flow; new, empty, or of the same record.
        record: what to write, and how.
        workers: videos at the same time, each by one process.
        shard: "i/n" takes the i-th of n parts, i from 1, so that n machines can share the work.
        decoder: pyav, decord, opencv or torchcodec.
        weights: RAFT's file; None for torchvision's own.
        device: where RAFT computes.
        progress: a line a video on stderr.
    """
    started = time.perf_counter()
    record = FlowRecord() if record is None else record
    if record.method not in METHODS:
        raise ValueError(f"there is no flow method {record.method!r}; there are {', '.join(METHODS)}")
    jobs.refuse_workers(workers)
    part, parts = jobs.parse_shard(shard)
    sources = {video: path for video, path in find_sources(videos).items() if jobs.part_of(video, parts) == part}
    flow_fields(torch.zeros(2, 3, 128, 128, dtype=torch.uint8), record.method, weights, device)  # or say now why not
    out = Path(out)
    write_record(out, record)
    tasks = [_Task(video, path, out, record, decoder, weights, device) for video, path in sorted(sources.items())]
    with jobs.alone(out, NOTES, shard, None if parts == 1 else {short_name(task.note.name) for task in tasks}):
        done = FlowExtraction(kept=[task.video for task in tasks if task.is_done()])
        kept = set(done.kept)
        tasks = [task for task in tasks if task.video not in kept]
        if progress and kept:
            print(f"{counted(len(kept), 'video is', 'videos are')} done already", file=sys.stderr)
        sizes = {task.video: task.source()["size"] for task in tasks}
        meter = Meter(sum(sizes.values()), len(tasks), progress)

        def move(task: _Task, share: float) -> None:
            meter.move(task.video, share * sizes[task.video])

        with contextlib.closing(jobs.run(_start, tasks, workers, meter, move)) as outcomes:
            for task, (num_fields, error) in outcomes:
                if error:
                    done.unreadable[task.video] = error
                else:
                    done.written.append(task.video)
                    done.num_fields += num_fields
                news = f"{task.video}: {error or f'{num_fields} fields'}"
                meter.finish(sizes[task.video], news=news, piece=task.video)
        done.report = jobs.report_unreadable(out, done.unreadable, shard)
    done.took_s = time.perf_counter() - started
    return done


def find_sources(videos: str | Path) -> dict[str, Path]:
    """Videos by id. A folder with clips.csv has those of its rows; any other has its video files, or, where there are
    none, its folders of images.
    """
    root = Path(videos)
    if is_table(root / "clips.csv"):
        clips = load_clips(root, missing="skip", empty_classes="allow")
        for note in clips.notes:
            if note.startswith("skipped"):
                print(f"{root}: {note}", file=sys.stderr)
        return {source_id(clips.root, clip.path): clip.path for clip in clips}
    notes: list[str] = []
    files = walk_videos(root)
    folders = [root / name for name in walk_videos(root, images_below=1, notes=notes) if name not in set(files)]
    for note in notes:
        print(note, file=sys.stderr)
    found = find_videos(root) if files or not folders else {}
    return found | {source_id(root, folder): folder for folder in folders}


def video_flow(video: VideoReader, record: FlowRecord, weights: str | None, device: str) -> Iterator[Tensor]:
    """Each field (2, H, W), uint8, of a video's frames, resized as the record says."""
    last: Tensor | None = None
    for start in range(0, len(video), CHUNK):
        images = video.frames_at(range(start, min(start + CHUNK, len(video)))).images
        if record.size is not None:  # as the transform does while loading, so that both give the same flow
            size = [record.size] if isinstance(record.size, int) else [record.size[1], record.size[0]]
            images = F.resize(Video(images), size, antialias=True).as_subclass(Tensor)
        joined = images if last is None else torch.cat([last, images])
        yield from quantise(flow_fields(joined, record.method, weights, device), record.bound)
        last = images[-1:]


@dataclass(frozen=True)
class _Task:
    """One video to be done."""

    video: str
    path: Path
    out: Path
    record: FlowRecord
    decoder: str
    weights: str | None
    device: str

    @property
    def note(self) -> Path:
        return self.out / NOTES / f"{self.video}.json"

    @property
    def label(self) -> str:
        return str(self.path)

    def source(self) -> dict[str, Any]:
        """Identify the source file, so that a changed file is processed again: size and modification time."""
        stat = self.path.stat()
        told = json.dumps(self.record.as_dict(), sort_keys=True)
        return {
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "record_sha256": hashlib.sha256(told.encode()).hexdigest(),
        }

    def is_done(self) -> bool:
        """Whether all fields of this very file are there."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            num_fields = note.pop("fields")
        except (OSError, ValueError, KeyError, AttributeError):
            return False
        return note == self.source() and FlowStore(self.out).is_whole(self.video, num_fields)


def _start() -> jobs.Work[_Task, tuple[int, str]]:
    return _extract


def _extract(task: _Task, tell: jobs.Tell) -> tuple[int, str]:
    """Return the number of fields that were written, and why there are none."""
    task.note.unlink(missing_ok=True)
    try:
        source = task.source()  # before reading: a video that changes meanwhile is made again
        with open_video(task.path, task.decoder) as video:
            if len(video) < 2:
                return 0, f"{task.path} has one frame; flow needs two"
            with FlowWriter(task.out, task.video, task.record) as writer:
                for number, levels in enumerate(video_flow(video, task.record, task.weights, task.device), 1):
                    writer.write(levels)
                    tell(number / (len(video) - 1))
    except (VideoError, FileNotFoundError, PermissionError) as error:
        return 0, str(error)
    write_json(task.note, {**source, "fields": writer.num_fields})
    return writer.num_fields, ""
