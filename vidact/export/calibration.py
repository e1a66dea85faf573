"""The inputs with which a graph is calibrated for int8: frames of the user's videos, read and prepared as always.

Tokens and clips are spread evenly over the videos. Every second one is left out of the calibration and measures the
loss. A detector is judged by its answers to consecutive tokens, too.

Shapes: T frames, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidact.features.extractor import OnnxExtractor
from vidact.features.files import find_videos
from vidact.records import blamed
from vidact.runtimes.exported import PIXELS, OnnxClip
from vidact.text.names import counted, first_few
from vidact.video.decode import VideoError, VideoReader, open_video
from vidact.video.sample import ClipSampler, expand
from vidact.video.transform import from_record, images_per_index

Feeds = dict[str, Tensor]  # the inputs of a graph by name, of one token or clip

MOST_VIDEOS = 48
TOKENS = 192  # tokens that are read, half of them to measure the loss
LEAST_TOKENS = 32
CLIPS = 64  # clips that are read, half of them to measure the loss
LEAST_CLIPS = 16
MOST_BYTES = 2**30  # of the clips that are kept in memory
RUNS, RUN = 4, 64  # consecutive tokens of some videos
AT_ONCE = 8  # tokens whose frames are decoded together


@dataclass
class Inputs:
    """The inputs of a graph, made of videos.

    Args:
        noun: what one input is: "token" or "clip".
        calibration: the inputs that measure the ranges of activations.
        held_out: the inputs that measure the loss.
        runs: consecutive tokens of some videos, for a detector.
        num_videos: the videos that were read.
        unreadable: the reasons of those that could not be read, by their names.
    """

    noun: str
    calibration: list[Feeds] = field(default_factory=list)
    held_out: list[Feeds] = field(default_factory=list)
    runs: list[list[Feeds]] = field(default_factory=list)
    num_videos: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        held_out = sum(map(len, self.runs)) if self.runs else len(self.held_out)
        return (
            f"{counted(len(self.calibration), self.noun)} of {counted(self.num_videos, 'video')}, judged by "
            f"{held_out} others"
        )

    def add(self, feeds: Sequence[Feeds]) -> None:
        """Add the inputs of one video: every second one is for the loss."""
        self.calibration += feeds[::2]
        self.held_out += feeds[1::2]
        self.num_videos += 1


def sources_in(videos: str | Path) -> dict[str, Path]:
    """Return the videos of a folder by id, at most ``MOST_VIDEOS``, spread evenly over the sorted names.

    Raises FileNotFoundError where there is none.
    """
    sources = list(find_videos(videos).items())
    chosen = np.unique(np.linspace(0, len(sources) - 1, min(MOST_VIDEOS, len(sources))).round().astype(int))
    return dict(sources[number] for number in chosen)


def tokens_of(extractor: OnnxExtractor, videos: str | Path, with_runs: bool = False) -> Inputs:
    """Return the inputs of an exported extractor for tokens of videos.

    Args:
        extractor: the extractor; its clock, its decoder and its transform make the inputs.
        videos: a folder that is searched with its subfolders, or a file.
        with_runs: whether consecutive tokens are read, too.

    Raises ValueError for fewer than ``LEAST_TOKENS`` tokens.
    """
    sources = sources_in(videos)
    inputs, plans = Inputs("token"), {}
    for video, path in sources.items():
        try:
            with open_video(path, extractor.decoder) as reader:
                plans[video] = extractor.plan(reader)[0]
        except (VideoError, OSError) as error:
            inputs.unreadable[video] = str(error)
    total = sum(map(len, plans.values()))
    if total < LEAST_TOKENS:
        raise ValueError(
            f"{_readable(videos, len(plans), inputs)} {counted(total, 'token')} of "
            f"{1 / extractor.tokens_per_second:g} s; int8 is calibrated with at least {LEAST_TOKENS}. Give more or "
            "longer videos"
        )
    quota = -(-TOKENS // len(plans))
    runs = set(_spread(list(plans), RUNS)) if with_runs else set()
    for video, rows in plans.items():
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(quota, len(rows))).round().astype(int))
        try:
            with open_video(sources[video], extractor.decoder) as reader:
                feeds = _prepared(extractor, reader, rows[chosen])
                if video in runs:
                    first = max(0, (len(rows) - RUN) // 2)
                    inputs.runs.append(_prepared(extractor, reader, rows[first : first + RUN]))
        except (VideoError, OSError) as error:
            inputs.unreadable[video] = str(error)
            continue
        inputs.add(feeds)
    return _enough(inputs, videos, LEAST_TOKENS)


def _prepared(extractor: OnnxExtractor, reader: VideoReader, rows: np.ndarray) -> list[Feeds]:
    """Return the inputs of the tokens whose frame numbers are the ``rows``."""
    feeds = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        images = reader.frames_at(part.ravel()).images.unflatten(0, part.shape)
        for row in images:
            inputs = extractor.inputs([extractor.prepare(list(row))])
            if extractor.normalisation is not None:  # the graph in int8 may read the pixels
                (pixels,) = extractor.pixels(list(row))
                inputs[PIXELS] = pixels.permute(0, 2, 3, 1).contiguous()
            feeds.append(inputs)
    return feeds


def clips_of(network: OnnxClip, videos: str | Path, decoder: str = "pyav") -> Inputs:
    """Return the inputs of an exported clip network: clips of videos, sampled and transformed as in a test.

    Raises ValueError for fewer than ``LEAST_CLIPS`` clips, and for a network that does not say which frames it reads.
    """
    record = network.record
    if record.sampling is None:
        raise ValueError(
            "the network does not say which frames of a video its clips have, so int8 cannot be calibrated on videos; "
            "export a checkpoint of a training run or a probe"
        )
    with blamed("the sampling of the record"):
        sampler = ClipSampler.from_record(dict(record.sampling))
        num_frames = sampler(10_000).shape[-1]
    if num_frames != network.frames:
        raise ValueError(
            f"frames is {network.frames}, and the network was trained on clips of {num_frames}, with which int8 is "
            "calibrated; leave frames out"
        )
    transform, group = from_record(record), images_per_index(network.input)
    sources = sources_in(videos)
    size = 4 * network.frames * network.input.channels * network.input.size**2
    quota = -(-max(LEAST_CLIPS, min(CLIPS, MOST_BYTES // size)) // len(sources))
    inputs = Inputs("clip")
    for video, path in sources.items():
        try:
            with open_video(path, decoder) as reader:
                count = min(quota, max(1, len(reader) // network.frames))
                rows = np.unique(expand(sampler(len(reader), num_clips=count), group, len(reader)), axis=0)
                feeds = []
                for row in rows:
                    clips, _ = transform(reader.frames_at(row).images)  # (1, T, C, H, W)
                    feeds.append({"clip": clips})
        except (VideoError, OSError) as error:
            inputs.unreadable[video] = str(error)
            continue
        inputs.add(feeds)
    return _enough(inputs, videos, LEAST_CLIPS)


def _enough(inputs: Inputs, videos: str | Path, least: int) -> Inputs:
    total = len(inputs.calibration) + len(inputs.held_out)
    if total < least:
        raise ValueError(
            f"{_readable(videos, inputs.num_videos, inputs)} {counted(total, f'different {inputs.noun}')}; int8 is "
            f"calibrated with at least {least}. Give more or longer videos"
        )
    return inputs


def _readable(videos: str | Path, count: int, inputs: Inputs) -> str:
    unreadable = ""
    if inputs.unreadable:
        unreadable = (
            f" ({counted(len(inputs.unreadable), 'other')} cannot be read: {first_few(list(inputs.unreadable))}; "
            f"{next(iter(inputs.unreadable.values()))})"
        )
    return f"{videos} has {counted(count, 'readable video')}{unreadable} with"


def _spread(items: Sequence[str], count: int) -> list[str]:
    numbers = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[number] for number in numbers]


def stacked(feeds: Sequence[Feeds]) -> Feeds:
    """Return several inputs as one batch."""
    return {name: torch.cat([each[name] for each in feeds]) for name in feeds[0]}
