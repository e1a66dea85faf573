"""``vidact extract flow``: compute the optical flow of videos once, for training to read in every epoch.

``vidact.video.flow_store`` describes the files. All fields of a video are published at once, so the command may be
killed at any moment and called again: finished videos are kept.
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
from torch import Tensor

from vidact import jobs
from vidact.data.clip_list import load_clips
from vidact.data.tables import is_table
from vidact.data.time_origin import NOTES
from vidact.features.files import find_videos
from vidact.jobs import Meter
from vidact.text.names import counted
from vidact.video.decode import VideoError, VideoReader, open_video
from vidact.video.flow import METHODS, flow_fields, quantise
from vidact.video.flow_store import FlowRecord, FlowStore, FlowWriter, write_record
from vidact.video.folders import source_id, walk_videos
from vidact.video.resize import resize

DONE = "flow"  # the folder of notes of finished videos
CHUNK = 32  # frames held at once


@dataclass
class FlowExtraction:
    """The result of a run: ids of videos that were ``written``, or ``kept`` from a run before, and ``unreadable`` ones
    with the reasons."""

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
        record: the method, the size and the format of the fields.
        workers: videos computed at the same time, each by one process.
        shard: "i/n" takes the i-th of n parts, i from 1, so that n machines can share the work.
        decoder: pyav, decord, opencv or torchcodec.
        weights: the file of RAFT's weights; None for torchvision's.
        device: where RAFT computes.
        progress: print a line a video on stderr.
    """
    started = time.perf_counter()
    record = FlowRecord() if record is None else record
    if record.method not in METHODS:
        raise ValueError(f"there is no flow method {record.method!r}; there are {', '.join(METHODS)}")
    jobs.refuse_workers(workers)
    out = Path(out)
    folder = jobs.Folder(out, NOTES, DONE, shard)
    sources = {video: path for video, path in find_sources(videos).items() if folder.includes(video)}
    flow_fields(torch.zeros(2, 3, 128, 128, dtype=torch.uint8), record.method, weights, device)  # an error comes now
    write_record(out, record)
    tasks = [_Task(video, path, folder, record, decoder, weights, device) for video, path in sorted(sources.items())]
    result = FlowExtraction()
    with folder.locked([file for task in tasks for file in folder.note_paths(task.video)]):
        waiting = [task for task in tasks if not task.is_done()]
        result.kept = sorted(sources.keys() - {task.video for task in waiting})
        if progress and result.kept:
            print(f"{counted(len(result.kept), 'video is', 'videos are')} done already", file=sys.stderr)
        meter = Meter({task: jobs.source_state(task.path)["size"] for task in waiting}, is_on=progress)
        with contextlib.closing(jobs.run(_start, waiting, workers, meter)) as outcomes:
            for task, (num_fields, error) in outcomes:
                meter.finish(task, f"{task.video}: {error or f'{num_fields} fields'}")
                if error:
                    result.unreadable[task.video] = error
                else:
                    result.written.append(task.video)
                    result.num_fields += num_fields
        result.report = folder.report_unreadable(result.unreadable)
    result.took_s = time.perf_counter() - started
    return result


def find_sources(videos: str | Path) -> dict[str, Path]:
    """Return videos by id: those in clips.csv, or else the video files of the folder, or else its folders of images."""
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
    single_files = find_videos(root) if files or not folders else {}
    return single_files | {source_id(root, folder): folder for folder in folders}


def video_flow(video: VideoReader, record: FlowRecord, weights: str | None, device: str) -> Iterator[Tensor]:
    """Yield each field (2, H, W), uint8, between a video's frames, resized to the record's size."""
    last: Tensor | None = None
    for start in range(0, len(video), CHUNK):
        images = video.frames_at(range(start, min(start + CHUNK, len(video)))).images
        if record.size is not None:  # the transform resizes so while loading, and both have to give the same flow
            size = record.size if isinstance(record.size, int) else (record.size[1], record.size[0])
            images = resize(images, size)
        joined = images if last is None else torch.cat([last, images])
        yield from quantise(flow_fields(joined, record.method, weights, device), record.bound)
        last = images[-1:]


@dataclass(frozen=True)
class _Task:
    """A video to be read, the folder for its flow, and how the flow is computed."""

    video: str
    path: Path
    folder: jobs.Folder
    record: FlowRecord
    decoder: str
    weights: str | None
    device: str

    @property
    def label(self) -> str:
        return str(self.path)

    def states(self) -> list[dict[str, Any]]:
        """Identify the source and the record, so that a video is processed again where one of them changed.

        The second form is that of earlier versions: the size and time of a folder of images, not those of its files.
        """
        record = json.dumps(self.record.as_dict(), sort_keys=True)
        digest = {"record_sha256": hashlib.sha256(record.encode()).hexdigest()}
        states = [{**jobs.source_state(self.path), **digest}]
        if self.path.is_dir():
            stat = self.path.stat()
            states.append({"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **digest})
        return states

    def is_done(self) -> bool:
        """Return whether all fields of this state of the file are written."""
        notes = [self.folder.read_if_of(self.video, state) for state in self.states()]
        note = next((note for note in notes if note is not None), {})
        store = FlowStore(self.folder.out)
        return isinstance(note.get("fields"), int) and store.is_whole(self.video, note["fields"])


def _start() -> jobs.Work[_Task, tuple[int, str]]:
    return _extract


def _extract(task: _Task, progress: jobs.Progress) -> tuple[int, str]:
    """Return the number of fields that were written, and the reason where there are none."""
    task.folder.forget(task.video)
    try:
        state = task.states()[0]  # before reading, so that a video that changes meanwhile is read again
        with open_video(task.path, task.decoder) as video:
            if len(video) < 2:
                return 0, f"{task.path} has one frame; flow needs two"
            with FlowWriter(task.folder.out, task.video, task.record) as writer:
                for number, levels in enumerate(video_flow(video, task.record, task.weights, task.device), 1):
                    writer.write(levels)
                    progress(number / (len(video) - 1))
    except (VideoError, FileNotFoundError, PermissionError) as error:
        return 0, str(error)
    task.folder.finish(task.video, state, fields=writer.num_fields)
    return writer.num_fields, ""
