"""Clips of events: each in a file of its own, in a folder named after its class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidact.events import Detection
from vidact.stream.window.writers import file_name
from vidact.untrimmed.encoding import writing
from vidact.untrimmed.finder import VideoEvents
from vidact.video import VideoReader, open_video
from vidact.video.folders import video_id

BLOCK = 32  # frames in memory
CRF = 18  # hardly to be told from the original


def cut_events(answer: VideoEvents, folder: Path, decoder: str = "pyav") -> list[Path]:
    """Write the clips of a video's events, ``<folder>/<class>/<video>_0012.25s.mp4``, and return their paths.

    A clip has exactly the frames that are shown from the start of the event until before its end, at least one, each
    for as long as in the video; they are encoded again, without sound. Equal names are replaced.
    """
    paths: list[Path] = []
    if not answer.events:
        return paths
    with open_video(answer.path, decoder=decoder) as reader:
        for event in answer.events:
            path = folder / file_name(event.label) / f"{file_name(video_id(answer.video))}_{event.start_s:07.2f}s.mp4"
            while path in paths:  # two events of a class may begin in the same hundredth of a second
                path = path.with_name(f"{path.stem}_{event.end_s:07.2f}s.mp4")
            _cut(reader, event, path)
            paths.append(path)
    return paths


def frames_of(reader: VideoReader, event: Detection) -> range:
    """Return the numbers of the frames of an event: those shown from its start until before its end, at least one."""
    times_s = reader.times_s - reader.times_s[0]
    first, last = (int(n) for n in np.searchsorted(times_s, [event.start_s - 1e-6, event.end_s - 1e-6]))
    first = min(first, len(times_s) - 1)
    return range(first, max(last, first + 1))


def blocks(reader: VideoReader, numbers: range) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the time and the picture uint8 (H, W, 3) of frames, a few of which are in memory."""
    for start in range(0, len(numbers), BLOCK):
        frames = reader.frames_at(list(numbers[start : start + BLOCK]))
        for time_s, image in zip(frames.times_s.tolist(), frames.images, strict=True):
            yield time_s, image.permute(1, 2, 0).numpy()


def _cut(reader: VideoReader, event: Detection, path: Path) -> None:
    numbers = frames_of(reader, event)
    begin_s = float(reader.times_s[numbers[0]])
    with writing(path, reader.width, reader.height, reader.fps, CRF) as write:
        for time_s, image in blocks(reader, numbers):
            write(image, time_s - begin_s)
