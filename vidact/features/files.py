"""``extract_features``: compute the features of the videos of a folder, in several processes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from vidact import jobs
from vidact.data.takes import takes_file, write_takes
from vidact.data.time_origin import NOTES
from vidact.device import one_thread
from vidact.features.extractor import FeatureExtractor
from vidact.features.record import EXTRACTOR, RECORD, differences
from vidact.files import replacing, write_json
from vidact.jobs import UNREADABLE, Meter
from vidact.models.weights import read, weights_hash
from vidact.records import FEATURES, FeaturesRecord, read_json
from vidact.runtimes.choices import refuse_runtime
from vidact.runtimes.compiled import Compiled
from vidact.text.names import counted
from vidact.video import LONGEST_GAP_S, VideoError, open_video
from vidact.video.folders import KNOWN_SUFFIXES, video_id, walk_videos


@dataclass
class Extraction:
    """The result of a run: ids of videos that were ``written``, or ``kept`` from a run before, and ``unreadable`` ones
    with the reasons.

    ``paused`` are the written ones with a pause that was not filled. ``report`` is the file that lists the unreadable;
    ``tokens`` were written in ``took_s`` seconds.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    took_s: float = 0.0
    paused: list[str] = field(default_factory=list)
    report: Path = Path(UNREADABLE)


def extract_features(
    videos: str | Path | Sequence[str | Path],
    out: str | Path,
    extractor: FeatureExtractor,
    workers: int = 1,
    shard: str = "1/1",
    progress: bool = True,
    runtime: str | None = None,
) -> Extraction:
    """Write the features of every video into ``out``; the files are listed in ``vidact.features.extractor``.

    The run may be stopped at any moment, by SIGKILL too, and called again: finished videos are kept, and the others'
    bytes are those of an uninterrupted run. A video that cannot be read is skipped and reported.

    Args:
        videos: a folder that is searched with its subfolders, a file, or a list of files (their ids are their names).
        out: the folder of features; new, empty, or filled by the same extractor.
        workers: videos read and computed at the same time, each by one process on one thread; 1 is this process.
            (With more, a script that calls this needs ``if __name__ == "__main__":``.)
        shard: "i/n" takes the i-th of n parts, i from 1, so that n machines can share a folder of videos and ``out``.
            The part of a video depends only on its id.
        progress: print the finished videos and the remaining time on stderr.
        runtime: the runtime of the networks, as in ``settle_runtime``.
    """
    started = time.perf_counter()
    jobs.refuse_workers(workers)
    out = Path(out)
    folder = jobs.Folder(out, NOTES, shard=shard)
    sources = {video: path for video, path in find_videos(videos).items() if folder.includes(video)}
    settle_runtime(out, extractor, runtime)
    record = _claim(out, extractor, progress)
    tasks = [_Task(video, path, folder, _fingerprint(record)) for video, path in sources.items()]
    result = Extraction()
    with folder.locked([file for task in tasks for file in task.files()]):
        waiting = [task for task in tasks if not task.is_done(extractor.dim)]
        result.kept = sorted(sources.keys() - {task.video for task in waiting})
        # The longest video comes first, so that no worker is idle while another computes a long one at the end.
        waiting.sort(key=lambda task: task.path.stat().st_size, reverse=True)
        meter = Meter({task: max(task.path.stat().st_size, 1) for task in waiting}, is_on=progress)
        if progress and waiting and result.kept:
            print(f"{counted(len(result.kept), 'video is', 'videos are')} done already", file=sys.stderr)
        start = _starter(extractor, min(workers, len(waiting)))
        with one_thread(), contextlib.closing(jobs.run(start, waiting, workers, meter)) as outcomes:
            for task, outcome in outcomes:
                meter.finish(task, f"{task.video}: {outcome}")
                if outcome.error:
                    result.unreadable[task.video] = outcome.error
                    continue
                result.written.append(task.video)
                result.tokens += outcome.tokens
                if outcome.takes:
                    result.paused.append(task.video)
        result.report = folder.report_unreadable(result.unreadable)
    result.took_s = time.perf_counter() - started
    return result


def settle_runtime(out: str | Path, extractor: FeatureExtractor, runtime: str | None = None) -> None:
    """Let the extractor run in the runtime that a folder of features needs.

    Args:
        out: the folder of features. One that was begun keeps its runtime; older folders are PyTorch's.
        extractor: the extractor of the features.
        runtime: "torch" or "onnx", which is refused for a folder that was begun in the other; "auto", which is the
            folder's, and in a new folder ONNX Runtime on a CPU, else PyTorch; None, which is the folder's, and in a new
            folder that of the extractor.
    """
    if runtime is not None:
        refuse_runtime(runtime)
    path = Path(out) / RECORD
    if not path.is_file():
        if runtime is not None:
            extractor.run_in(runtime)
        return
    earlier = FeaturesRecord.from_dict(read_json(path, FEATURES, "choose another --out"), path).runtime
    if runtime not in (None, "auto", earlier):
        raise ValueError(
            f"the features in {out} were begun in the runtime {earlier}, not {runtime}; leave --runtime out, or choose "
            "another --out"
        )
    in_new_folder = extractor.quick_runtime if runtime == "auto" else extractor.runtime
    if earlier not in (runtime, in_new_folder):
        print(f"{out} was begun in the runtime {earlier} and goes on in it", file=sys.stderr)
    if earlier != extractor.runtime:
        try:
            extractor.run_in(earlier)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{out} was begun in the runtime {earlier}, which cannot be used; choose another --out, unless this "
                f"can be repaired: {error}"
            ) from error


def find_videos(videos: str | Path | Sequence[str | Path], notes: list[str] | None = None) -> dict[str, Path]:
    """Return video files by id: the path below the folder, or the name of a listed file, without the suffix.

    Sentences about folders that were skipped are appended to ``notes``.
    """
    listed: list[tuple[str, Path]] = []
    if isinstance(videos, (str, Path)):
        folder = Path(videos)
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; give a folder of videos or a video file")
        listed = [(video_id(name), folder / name) for name in walk_videos(folder, notes=notes)]
        if folder.is_file():
            listed = [(folder.stem, folder)]
        if not listed:
            raise FileNotFoundError(f"{folder} holds no video; looked for {KNOWN_SUFFIXES}")
    else:
        listed = [(Path(path).stem, Path(path)) for path in videos]
    if absent := [str(path) for _, path in listed if not path.exists()]:
        raise FileNotFoundError(
            f"{absent[0]} is not a file; {len(absent)} of {counted(len(listed), 'video is', 'videos are')} missing"
        )
    sources: dict[str, Path] = {}
    for video, path in sorted(listed):
        if video in sources:
            raise ValueError(
                f"{sources[video]} and {path} would both become {video}.npy; rename one of them, or give their folder"
            )
        sources[video] = path
    return sources


@dataclass(frozen=True)
class _Task:
    """A video to be read, and the folder for its features."""

    video: str
    path: Path
    folder: jobs.Folder
    fingerprint: str  # of the extractor's record

    @property
    def target(self) -> Path:
        return self.folder.out / f"{self.video}.npy"

    @property
    def label(self) -> str:
        return str(self.path)

    def files(self) -> list[Path]:
        """Return the files that are written for this video."""
        return [self.target, takes_file(self.target), *self.folder.note_paths(self.video)]

    def state(self) -> dict[str, Any]:
        """Identify the source and the extractor, so that a video is processed again where one of them changed."""
        return {**jobs.source_state(self.path), "record_sha256": self.fingerprint}

    def is_done(self, dim: int) -> bool:
        """Return whether the features of this state of the file, by this extractor, are written and whole."""
        note = self.folder.read_if_of(self.video, self.state())
        if note is None:
            return False
        try:
            array = np.load(self.target, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError):  # an empty .npy is an EOFError
            return False
        is_paused = takes_file(self.target).is_file()
        return (
            array.dtype == np.float32
            and array.shape == (note.get("tokens"), dim)
            and is_paused == (note.get("takes", 0) != 0)
        )


@dataclass(frozen=True)
class _Outcome:
    tokens: int = 0
    error: str = ""
    takes: int = 0  # 0 for a video without a pause

    def __str__(self) -> str:
        pauses = f", {self.takes} takes with a pause before or between them that is too long to be filled"
        return self.error or f"{self.tokens} tokens{pauses if self.takes else ''}"


def _extract(extractor: FeatureExtractor, task: _Task, progress: jobs.Progress) -> _Outcome:
    task.folder.forget(task.video)
    for stale in (task.target, takes_file(task.target)):  # files of another state of the video
        stale.unlink(missing_ok=True)
    try:
        state = task.state()  # before reading, so that a video that changes meanwhile is read again
        with open_video(task.path, extractor.decoder) as reader:
            features = extractor.video(reader, progress).numpy()
            begun, lead_s = extractor.plan(reader)[1], reader.lead_s
    except (VideoError, OSError) as error:
        return _Outcome(error=str(error))
    with replacing(task.target) as half:
        np.save(half, features, allow_pickle=False)
    write_takes(task.target, begun)
    num_takes = len(begun) if takes_file(task.target).exists() else 0
    paused = {"takes": num_takes} if num_takes else {}
    task.folder.finish(task.video, state, tokens=len(features), lead_s=round(lead_s, 6), **paused)
    return _Outcome(len(features), takes=num_takes)


# ---------------------------------------------------------------------------------------------- the folder


def _fingerprint(record: Mapping[str, Any]) -> str:
    # The comparison of a graph with PyTorch gives other numbers on another machine, and the features are the same.
    facts = {key: value for key, value in record.items() if key != "runtime_check"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _claim(out: Path, extractor: FeatureExtractor, notes: bool) -> dict[str, Any]:
    """Write the record into a new folder, or raise ValueError for a folder of other features; return its record.

    In a folder of a version that filled every pause, every pause is filled, unless another length than the default is
    given. In a folder of a version without windows, a window is one chunk, unless its length is given.
    """
    path, record = out / RECORD, extractor.record()
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; name a folder for the features")
    if path.exists():
        earlier = read_json(path, FEATURES, "choose another --out")
        if "longest_gap_s" not in earlier and extractor.longest_gap_s == LONGEST_GAP_S:
            extractor.longest_gap_s = None
            record = extractor.record()
        if extractor.is_window_default and "window" in record and _is_without_window(earlier, record):
            window = extractor.window
            extractor.set_window(extractor.chunk_size)
            record = extractor.record()
            if notes:
                print(
                    f"{out} was begun without windows: its tokens are of one chunk, {extractor.chunk_size} frames, and "
                    f"so are the new ones. For windows of {window} frames choose another --out",
                    file=sys.stderr,
                )
        if different := differences(earlier, record):
            raise ValueError(
                f"the features in {out} were made with others than asked: {'; '.join(different)} (there and asked); "
                "choose another --out"
            )
        record = earlier
    elif stray := next(out.rglob("*.npy"), None):
        raise ValueError(
            f"{out} holds features ({stray.relative_to(out)}) and no {RECORD} that says what made them; "
            "choose another --out"
        )
    else:
        write_json(path, record)
    if not _holds(out / EXTRACTOR, record, extractor):
        extractor.save(out / EXTRACTOR)
    return record


def _is_without_window(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Return whether the earlier record is of the same network and chunk, by a version without windows."""
    same = all(earlier.get(key) == record[key] for key in ("weights_sha256", "chunk"))
    return same and "window" not in earlier


def _holds(path: Path, record: Mapping[str, Any], extractor: FeatureExtractor) -> bool:
    """Return whether the file exists, is whole and contains the extractor, whose record in the folder is given."""
    try:
        tensors, stored = read(path)
    except (OSError, ValueError):
        return False
    if stored is None or stored.extractor is None or differences(stored.extractor, record):
        return False
    return weights_hash(tensors) == weights_hash(extractor.state())


# ---------------------------------------------------------------------------------------------- processes


def _starter(extractor: FeatureExtractor, workers: int) -> Callable[[], jobs.Work[_Task, _Outcome]]:
    """Return the function that ``jobs.run`` calls first in each process.

    An extractor is sent to another process as bytes: tensors would use shared memory, of which containers have little.
    """
    if workers <= 1:
        return lambda: functools.partial(_extract, extractor)
    state = safetensors.torch.save(extractor.state())
    return functools.partial(_load, extractor.record(), state, str(extractor.device), extractor.batch, extractor.graphs)


def _load(
    record: dict[str, Any], state: bytes, device: str, batch: int, graphs: dict[str, Compiled]
) -> jobs.Work[_Task, _Outcome]:
    extractor = FeatureExtractor.load(record, safetensors.torch.load(state), device=device, batch=batch)
    extractor.use_graphs(graphs)
    return functools.partial(_extract, extractor)
