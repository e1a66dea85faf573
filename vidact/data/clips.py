"""Clips of videos, sampled and transformed: the data set and the Lightning data module.

Everything random about a sample follows from (seed, epoch, index). So the number of workers changes nothing, and a
resumed run trains on the same batches as one that was never stopped.

Shapes: B videos, V views, T frames, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from vidact.batch import ClipBatch, ClipInput, parse_views
from vidact.data.clip_list import Clip, ClipList, load_clips
from vidact.data.time_origin import TimeOrigin, check_origin
from vidact.jobs import interrupts_held, num_cores, process_context
from vidact.video.decode import VideoError, open_video
from vidact.video.flow import METHODS
from vidact.video.flow_store import FlowStore, StoredFlow
from vidact.video.folders import source_id
from vidact.video.frames import Frames
from vidact.video.sample import ClipSampler, LegacySampler, SegmentSampler, expand
from vidact.video.transform import (
    Augment,
    ClipTransform,
    Cut,
    TrainTransform,
    images_per_index,
    test_transform,
    train_transform,
)

NO_MOTION = 128  # the level of a stored field where nothing moves


@dataclass
class Sample:
    """A video's views (V, T, C, H, W) and its target; ``error`` instead of them where the video was unreadable.

    ``cut`` replaces the views where the device finishes them.
    """

    id: str
    clips: Tensor | None
    target: Tensor | None
    error: str = ""
    cut: Cut | None = None


@dataclass
class CutBatch:
    """A training batch before its pixels are resized, mirrored and normalised, which happens on the device.

    ``pixels`` has B tensors uint8 (T', 3, h, w), each of its own size. ``is_mirrored`` has B bools. They stay on the
    CPU, because reading them from a GPU would wait for it. The other fields are as in ``ClipBatch``.
    """

    pixels: list[Tensor]
    is_mirrored: list[bool]
    targets: Tensor
    ids: list[str]
    skipped: dict[str, str] = field(default_factory=dict)

    def pin_memory(self) -> CutBatch:
        pixels = [video.pin_memory() for video in self.pixels]
        return CutBatch(pixels, self.is_mirrored, self.targets.pin_memory(), self.ids, self.skipped)

    def __len__(self) -> int:
        return len(self.pixels)


class FrameCache:
    """Decoded videos kept in memory, for data sets that are small and read many times.

    The process that makes it fills it before loader workers start, so that the workers share its memory pages.
    """

    def __init__(self, decoder: str = "pyav") -> None:
        self.decoder = decoder
        self.frames: dict[Path, Frames | VideoError] = {}
        self.begins_s: dict[Path, float] = {}

    def fill(self, paths: Sequence[Path]) -> None:
        """Decode ``paths`` whole; the error of an unreadable one is kept, and ``open`` raises it.

        Raises MemoryError as soon as the decoded videos need more than half of the machine's memory.
        """
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        for path in dict.fromkeys(paths):
            if path not in self.frames:
                try:
                    with open_video(path, self.decoder) as video:
                        self.frames[path] = video.frames_at(range(len(video)))
                        self.begins_s[path] = video.begin_s
                except VideoError as error:
                    self.frames[path] = error
                if self.num_bytes > limit:
                    raise MemoryError(
                        f"cache='memory' holds {self.num_bytes / 2**30:.1f} GiB after {len(self.frames)} of "
                        f"{len(paths)} videos, more than half of this machine's memory; use cache='none'"
                    )

    @property
    def num_bytes(self) -> int:
        return sum(frames.images.nbytes for frames in self.frames.values() if isinstance(frames, Frames))

    def open(self, path: Path) -> CachedVideo:
        """Return a decoded video. Raises its VideoError where it was unreadable."""
        frames = self.frames[path]
        if isinstance(frames, VideoError):
            raise frames
        return CachedVideo(frames, self.begins_s[path])


class CachedVideo:
    """A decoded video with the part of the reader's interface that the data set uses."""

    def __init__(self, frames: Frames, begin_s: float) -> None:
        self.frames, self.times_s, self.begin_s = frames, frames.times_s, begin_s

    def __len__(self) -> int:
        return len(self.times_s)

    def frames_at(self, indices: Sequence[int] | np.ndarray) -> Frames:
        chosen = np.asarray(indices)
        return Frames(self.frames.images[torch.from_numpy(chosen)], self.times_s[chosen])

    def __enter__(self) -> CachedVideo:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class ClipDataset(Dataset[Sample]):
    """Videos with their labels; item ``(epoch, index)`` is the video as sampled and transformed in that epoch.

    Args:
        clips: the videos, see ``vidact.data.load_clips``.
        num_classes: K, the width of a multi-label target.
        sampler: picks the frames; called with a generator in training, with None otherwise.
        transform: pixels to normalised views, see ``vidact.video.transform``.
        input: the network's input, with the number of consecutive frames that one sampled index stands for.
        training: whether sampling is random, seeded by (seed, epoch, index), or deterministic.
        num_clips: temporal views per video; 1 in training.
        skip_unreadable: return a Sample with the error instead of raising it.
        cut_only: leave the pixels to the device: samples have a ``Cut``. For training with a TrainTransform.
        flow: stored flow for networks with flow in their input; None computes flow from the frames.
        root: the folder that the names of stored flow are relative to.
        time_origin: the zero of a clip's seconds, see ``ClipData``.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        num_classes: int,
        sampler: ClipSampler,
        transform: ClipTransform,
        input: ClipInput,
        *,
        multi_label: bool = False,
        training: bool = False,
        num_clips: int = 1,
        seed: int = 0,
        decoder: str = "pyav",
        skip_unreadable: bool = False,
        cache: FrameCache | None = None,
        cut_only: bool = False,
        flow: FlowStore | None = None,
        root: Path = Path(),
        time_origin: TimeOrigin = "first_frame",
    ) -> None:
        self.cut_only = cut_only
        self.clips, self.num_classes, self.multi_label = list(clips), num_classes, multi_label
        self.sampler, self.transform, self.input = sampler, transform, input
        self.training, self.num_clips, self.seed = training, num_clips, seed
        self.decoder, self.skip_unreadable, self.cache = decoder, skip_unreadable, cache
        self.flow, self.root, self.time_origin = flow, root, time_origin

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        clip = self.clips[index]
        generator = np.random.default_rng([self.seed, epoch, index]) if self.training else None
        try:
            images, flow = self.read(clip, generator)
        except VideoError as error:
            if not self.skip_unreadable:
                raise
            return Sample(clip.id, None, None, str(error))
        target: int | Tensor | None = self.target(clip)
        with torch.random.fork_rng(devices=[]):  # the transforms use torch's global generator
            if generator is not None:
                # torch.manual_seed would reset the GPU's generator as well.
                torch.default_generator.manual_seed(int(generator.integers(2**62)))
            if self.cut_only:
                assert isinstance(self.transform, TrainTransform)
                assert images is not None  # check_parts refuses flow
                cut, target = self.transform.cut(images[0], target)
                return Sample(clip.id, None, torch.as_tensor(target), cut=cut)
            views = []
            for i in range(1 if self.training else self.num_clips):
                view_images, view_flow = (None if part is None else part[i] for part in (images, flow))
                view, target = self.transform(view_images, target, view_flow)
                views.append(view)
        return Sample(clip.id, torch.cat(views), torch.as_tensor(target))

    def read(self, clip: Clip, generator: np.random.Generator | None) -> tuple[Tensor | None, Tensor | None]:
        """Read the sampled frames of every temporal view, (num_clips, T', 3, H, W) uint8, and their stored flow.

        Flow is (num_clips, T*L, 2, H, W) uint8, or None where it is not stored or the network's input has none. Frames
        are None where the input is only stored flow: the video is then not opened, unless seconds cut the clip.
        """
        num_clips = 1 if self.training else self.num_clips
        if self.flow is None or not self.input.flow_fields:
            with self.open(clip) as video:
                first, count = frame_range(clip, video.times_s, self._origin_s(video))
                chosen = expand(self.sampler(count, generator, num_clips), images_per_index(self.input), count)
                images = video.frames_at(chosen.ravel() + first).images
            return images.unflatten(0, chosen.shape), None
        with self.flow.open(source_id(self.root, clip.path)) as flow:
            images = None
            if not self.input.rgb_channels and clip.start_s is None and clip.end_s is None:
                first, count = 0, len(flow) + 1
                indices = self.sampler(count, generator, num_clips)
            else:
                with self.open(clip) as video:
                    first, count = self.frame_range(clip, video, flow)
                    indices = self.sampler(count, generator, num_clips)
                    if self.input.rgb_channels:
                        chosen = expand(indices, self.input.images_per_frame, count)
                        images = video.frames_at(chosen.ravel() + first).images.unflatten(0, chosen.shape)
            return images, stored_fields(flow, indices, self.input, first, count)

    def frame_range(self, clip: Clip, video: Any, flow: StoredFlow) -> tuple[int, int]:
        """Call the function of this name. Raises VideoError where the stored flow is not that of the video."""
        if len(video) != len(flow) + 1:
            assert self.flow is not None
            raise VideoError(
                f"{clip.path} has {len(video)} frames and its stored flow {len(flow)} fields, not "
                f"{len(video) - 1}: field i has to follow frame i. Extract it again into {self.flow.root}"
            )
        return frame_range(clip, video.times_s, self._origin_s(video))

    def why_unreadable(self, clip: Clip) -> str:
        """Return the reason why a clip cannot be read, or an empty string; no picture is decoded."""
        stored = self.flow if self.input.flow_fields else None
        try:
            if stored is None:
                with self.open(clip) as video:
                    frame_range(clip, video.times_s, self._origin_s(video))
            else:
                with stored.open(source_id(self.root, clip.path)) as flow:
                    if self.input.rgb_channels or clip.start_s is not None or clip.end_s is not None:
                        with self.open(clip) as video:
                            self.frame_range(clip, video, flow)
        except VideoError as error:
            return str(error)
        return ""

    def open(self, clip: Clip) -> Any:
        """Open the clip's video, from the cache if there is one."""
        return self.cache.open(clip.path) if self.cache else open_video(clip.path, self.decoder)

    def _origin_s(self, video: Any) -> float | None:
        return video.begin_s if self.time_origin == "file" else None

    def target(self, clip: Clip) -> int | Tensor:
        """Return a class index, or 0/1 (K,) float32 for multi-label data."""
        if isinstance(clip.label, int):
            return clip.label
        target = torch.zeros(self.num_classes)
        target[list(clip.label)] = 1
        return target


def stored_fields(flow: StoredFlow, indices: np.ndarray, input: ClipInput, first: int, count: int) -> Tensor:
    """Read the input's L consecutive fields from each index (V, T) of a clip: (V, T*L, 2, H, W) uint8.

    The clip is frames ``first`` to ``first + count - 1`` of the video. Fields beyond its last one have no motion, as if
    flow were computed from the repeated last frame.
    """
    groups = (indices[..., None] + np.arange(input.flow_fields)).reshape(len(indices), -1)  # (V, T*L)
    inside = groups < count - 1
    chosen = np.minimum(first + np.where(inside, groups, 0).ravel(), len(flow) - 1)
    fields = flow.fields_at(chosen, input.flow_bound)
    fields[torch.from_numpy(~inside.ravel())] = NO_MOTION
    return fields.unflatten(0, groups.shape)


def frame_range(clip: Clip, times_s: np.ndarray, origin_s: float | None = None) -> tuple[int, int]:
    """Return the first frame and the number of frames of ``clip``.

    Its seconds count from ``origin_s``, or from the first frame where that is None. Raises VideoError where the clip
    has no frame.
    """
    if clip.start_s is None and clip.end_s is None:
        return 0, len(times_s)
    seconds = times_s - (times_s[0] if origin_s is None else origin_s)
    start_s = 0.0 if clip.start_s is None else clip.start_s
    end_s = np.inf if clip.end_s is None else clip.end_s
    inside = np.flatnonzero((seconds >= start_s) & (seconds < end_s))
    if len(inside) == 0:
        raise VideoError(
            f"{clip.path}: no frame lies between {start_s} s and {end_s} s; the video has {len(times_s)} frames, its "
            f"first picture is shown at {seconds[0]:.2f} s and its last one at {seconds[-1]:.2f} s. Correct the times."
        )
    return int(inside[0]), len(inside)


class EpochSampler(Sampler[tuple[int, int]]):
    """A sampler of keys ``(epoch, index)`` for one process of several, in an order that follows from seed and epoch.

    Every process gets equally many keys, since the others would wait for ever for one that ends first; some keys are
    repeated where the number of clips does not divide. Scores are joined by id afterwards, so a repeat counts once.
    """

    def __init__(self, length: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self.start = 0  # keys of this process to leave out of the next epoch, when a run resumes inside that epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each epoch."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        order = np.resize(order, len(self) * self.world_size)  # repeats from the start
        return ((self.epoch, int(index)) for index in order[self.rank :: self.world_size][self.start :])

    def __len__(self) -> int:
        return -(-self.length // self.world_size)


class EpochLoader(DataLoader[Any]):
    """A loader of batches for an ``EpochSampler``'s keys.

    Nothing is drawn and no process starts before the first batch is requested. A Trainer makes its iterator before it
    reads from a checkpoint which epoch comes next; batches fetched by then would be those of another epoch.

    Args:
        count_done: returns the number of batches to leave out of the next epoch; called at its first batch.
    """

    def __init__(self, *args: Any, count_done: Callable[[], int] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.count_done = count_done

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        num_done = self.count_done() if self.count_done is not None else 0
        if isinstance(self.sampler, EpochSampler):
            if self.count_done is not None:
                assert self.batch_size is not None
                self.sampler.start = num_done * self.batch_size
            num_done = 0
        # PyTorch ends the processes of an iterator only if that was made completely.
        with interrupts_held() if self.num_workers and self._iterator is None else contextlib.nullcontext():
            batches = super().__iter__()
        # A sampler of Lightning's (overfit_batches) cannot start inside an epoch: the first batches are dropped.
        yield from itertools.islice(batches, num_done, None)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the Trainer's count of batches gives where an epoch resumes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def batches_done(trainer: pl.Trainer) -> int:
    """Count the batches of the current epoch that were trained on; 0 at an epoch's start and outside of training."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready if trainer.training else 0


def collate(samples: Sequence[Sample], input: ClipInput) -> ClipBatch | CutBatch:
    """Stack the readable samples and list the others in ``skipped``. B is 0 where no sample is readable."""
    skipped = {sample.id: sample.error for sample in samples if sample.error}
    if cuts := [(sample.id, sample.cut, sample.target) for sample in samples if sample.cut is not None]:
        ids, parts, targets = zip(*cuts, strict=True)
        mirrored = [cut.is_mirrored for cut in parts]
        return CutBatch([cut.pixels for cut in parts], mirrored, torch.stack(targets), list(ids), skipped)
    readable = [(sample.id, sample.clips, sample.target) for sample in samples if sample.clips is not None]
    if not readable:
        nothing = torch.zeros(0, 1, input.frames or 1, input.channels, input.size, input.size)
        return ClipBatch(nothing, torch.zeros(0, dtype=torch.long), [], skipped)
    ids, clips, targets = zip(*readable, strict=True)
    # In a worker, default_collate writes into memory that is shared with the training process, which saves a copy.
    return ClipBatch(default_collate(list(clips)), torch.stack(targets), list(ids), skipped)


class ClipData(pl.LightningDataModule):
    """Clips for training, validation and test, from ``clips.csv`` or a plain folder of class folders.

    Args:
        root: folder with clips.csv, or with one folder per class.
        sampler: picks the frames of a video that make a clip.
        augment: the changes that training makes to pixels.
        batch_size: videos in a batch, on each device.
        views: clips x crops of one video in a test, such as 1x1 or 10x3; validation during training uses 1x1.
        test_split: the split that a test scores: test, or val where the test labels are not public.
        group: a regular expression with one group, searched in each path; clips for which it gives the same text
            (one person, one source video) are never in two splits. It replaces the column ``group`` of clips.csv.
        held_out: a value of the group, or several; their clips are the test split and all others train ("leave one
            subject out").
        fractions: shares of the groups (or files) for training, validation and test where the data give no split.
        missing: what to do with a file that clips.csv names, or a link leads to, and that does not exist: raise, or
            skip it with a note.
        empty_classes: what to do with a class that has no clip: raise, or allow it (a part of a large data set).
        unreadable: what training does with a video that cannot be read: skip it by name, or raise.
        max_unreadable: share of the training videos that may be skipped before training stops.
        test_unreadable: the same for validation and test; a skipped video is excluded and counted, never replaced.
        num_workers: loader processes on each device; None is one per core that this process may use, up to 8 where a
            GPU computes, and one per four cores where the CPU has to compute as well.
        start_method: how loader processes start: fork, forkserver or spawn; None is Python's default.
        pixels_on: with "workers" the loader processes do all the work on training pixels. With "device" they only
            decode and crop, bytes are transferred instead of floats, and the device resizes, mirrors and normalises:
            the same draws, the same clips.
        decoder: pyav, decord, opencv or torchcodec.
        cache: "memory" decodes each video once and keeps its frames.
        flow: folder of stored flow (vidact extract flow), for networks that take flow; None computes it while loading,
            which needs no space on disk and about 10 ms a field.
        flow_method: how flow is computed while loading: dis, farneback, tvl1, raft or raft_small.
        flow_bound: the pixels a frame at which motion is cut before it becomes levels 0 … 255; the checkpoint keeps it.
            None is the network's own bound, as a rule 20. Where pictures are small and motion is slow, 20 uses only a
            few levels, and 5 or 10 is better.
        seed: the seed of the split, the order and every random draw.
        time_origin: the zero of start_s and end_s in clips.csv: the video's first frame, or the beginning of the file,
            as in players. They differ where sound comes first; vidact prepare check lists such videos.
    """

    def __init__(
        self,
        root: str,
        sampler: ClipSampler,
        augment: Augment = Augment(),  # noqa: B008  (a frozen value)
        batch_size: int = 16,
        views: str = "1x1",
        test_split: Literal["test", "val", "train"] = "test",
        group: str | None = None,
        held_out: str | list[str] | None = None,
        fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
        missing: Literal["raise", "skip"] = "raise",
        empty_classes: Literal["raise", "allow"] = "raise",
        unreadable: Literal["skip", "raise"] = "skip",
        max_unreadable: float = 0.05,
        test_unreadable: Literal["raise", "skip"] = "raise",
        num_workers: int | None = None,
        start_method: Literal["fork", "forkserver", "spawn"] | None = None,
        pixels_on: Literal["workers", "device"] = "workers",
        decoder: str = "pyav",
        cache: Literal["none", "memory"] = "none",
        seed: int = 0,
        flow: str | None = None,
        flow_method: str = "dis",
        flow_bound: float | None = None,
        time_origin: TimeOrigin = "first_frame",
    ) -> None:
        super().__init__()
        check_origin(time_origin)
        self.time_origin: TimeOrigin = time_origin
        if flow_method not in METHODS:
            raise ValueError(f"flow_method is {flow_method!r}; flow is computed by {', '.join(METHODS)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a batch needs at least one video")
        if pixels_on not in ("workers", "device"):
            raise ValueError(f"pixels_on is {pixels_on!r}; it can be 'workers' or 'device'")
        self.start_method, self.pixels_on = start_method, pixels_on
        self.root, self.sampler, self.augment = Path(root), sampler, augment
        self.batch_size, self.views, self.test_split = batch_size, views, test_split
        self.group, self.held_out, self.fractions = group, held_out, fractions
        self.missing, self.empty_classes = missing, empty_classes
        self.unreadable, self.test_unreadable, self.max_unreadable = unreadable, test_unreadable, max_unreadable
        self.num_workers, self.decoder, self.seed = num_workers, decoder, seed
        self.frames = FrameCache(decoder) if cache == "memory" else None
        self.flow, self.flow_method = None if flow is None else FlowStore(flow), flow_method
        self.flow_bound = flow_bound
        self.num_clips, self.crops = parse_views(views)
        self.sets: dict[str, ClipDataset] = {}
        self._found: ClipList | None = None

    @property
    def found(self) -> ClipList:
        """The list of clips, which is read once."""
        if self._found is None:
            self._found = load_clips(
                self.root,
                group=self.group,
                seed=self.seed,
                fractions=self.fractions,
                held_out=self.held_out,
                missing=self.missing,
                empty_classes=self.empty_classes,
            )
        return self._found

    def setup(self, stage: str) -> None:
        """Make the splits' data sets for the Trainer's network."""
        if self.trainer is None:
            raise RuntimeError("ClipData asks the Trainer's network what it takes; pass both to Trainer.fit or .test")
        network: Any = self.trainer.lightning_module.network
        if self.flow_bound is not None:  # the network's input and its checkpoint keep this bound
            network.input = dataclasses.replace(network.input, flow_bound=self.flow_bound)
        self.prepare(network.input)
        if stage == "fit" and self.trainer.is_global_zero:
            self.refuse_unreadable()
            for note in self.found.notes:
                print(f"note: {note}")
            flip_map = self.sets["train"].transform.flip_map  # type: ignore[attr-defined]
            if flip_map is not None and (flip_map.pairs or flip_map.blocked):
                print(flip_map.describe())

    def refuse_unreadable(self) -> None:
        """Raise VideoError, before training starts, where validation or the test would stop at a video."""
        if self.test_unreadable == "skip":
            return
        for split, name in (("val", "val"), ("test", self.test_split)):
            dataset = self.sets[split]
            with ThreadPoolExecutor(num_cores()) as threads:
                reasons = list(threads.map(dataset.why_unreadable, dataset.clips))
            if bad := [reason for reason in reasons if reason]:
                raise VideoError(
                    f"{len(bad)} of {len(reasons)} videos of the split {name} cannot be read, so that it could not be "
                    f"scored: {'; '.join(bad[:3])}{'; …' if len(bad) > 3 else ''}. Mend them, or exclude them from all "
                    "figures with --data.test_unreadable skip"
                )

    def prepare(self, input: ClipInput) -> None:
        """Make the splits' data sets for a network that takes ``input``."""
        self.input = input
        num_frames = self.sampler(1000).shape[1]
        if input.frames not in (None, num_frames):
            raise ValueError(
                f"data.sampler picks {num_frames} frames a clip but the network's weights are made for {input.frames}; "
                f"give both the same number"
            )
        # A segment is at least as long as the consecutive frames that the network reads from one index.
        if isinstance(self.sampler, LegacySampler | SegmentSampler):
            self.sampler.segment_length = max(self.sampler.segment_length, images_per_index(input))
        if self.flow is not None and not input.flow_fields:
            raise ValueError(
                f"data.flow is {self.flow.root}, but the network takes no flow; build it with modality='flow', take a "
                "two-stream network, or leave data.flow out"
            )
        clips = self.found
        self.class_weights = clips.class_weights()
        train = train_transform(input, self.augment, clips.classes, self.flow_method)
        test = partial(self._dataset, training=False, skip_unreadable=self.test_unreadable == "skip")
        self.sets = {
            "train": self._dataset(
                "train",
                train,
                training=True,
                skip_unreadable=self.unreadable == "skip",
                cut_only=self.pixels_on == "device",
            ),
            "val": test("val", test_transform(input, 1, self.flow_method)),
            "test": test(
                self.test_split, test_transform(input, self.crops, self.flow_method), num_clips=self.num_clips
            ),
        }
        if self.pixels_on == "device":
            train.check_parts()
        if self.frames is not None and (self.flow is None or input.rgb_channels):
            self.frames.fill([clip.path for clip in clips])

    def _dataset(self, split: str, transform: ClipTransform, **options: bool | int) -> ClipDataset:
        return ClipDataset(
            self.found.split(split),
            len(self.found.classes),
            self.sampler,
            transform,
            self.input,
            multi_label=self.found.multi_label,
            seed=self.seed,
            decoder=self.decoder,
            cache=self.frames if self.flow is None or self.input.rgb_channels else None,
            flow=self.flow,
            root=self.found.root,
            time_origin=self.time_origin,
            **options,  # type: ignore[arg-type]
        )

    @property
    def flow_record(self) -> dict[str, Any] | None:
        """The method of the network's input flow, for its checkpoint; None for a network without flow."""
        if not self.input.flow_fields:
            return None
        return {"method": self.flow_method} if self.flow is None else self.flow.record.as_dict()

    def loader(self, split: str) -> DataLoader[Sample]:
        """Return a loader of this process's batches of ``split``; the training order is shuffled."""
        dataset = self.sets[split]
        if len(dataset) == 0:
            raise ValueError(
                f"{self.root} has no clip in the split {split!r} "
                f"({', '.join(f'{name}: {len(part)}' for name, part in self.sets.items())}); "
                f"name the split in clips.csv, change data.fractions or name data.held_out"
                + (", or score another split with data.test_split" if split == self.test_split else "")
            )
        return self._loader(dataset, is_training=split == "train")

    def one_view(self, split: str, ids: Collection[str]) -> DataLoader[Sample]:
        """Return a loader of the clips ``ids`` of a split of the data, each in one view, as in validation.

        ``split`` is train, val or test. Clips that cannot be read are skipped by name.
        """
        view = test_transform(self.input, 1, self.flow_method)
        dataset = self._dataset(split, view, training=False, skip_unreadable=True)
        dataset.clips = [clip for clip in dataset.clips if clip.id in ids]
        return self._loader(dataset, is_training=False)

    def _loader(self, dataset: ClipDataset, is_training: bool) -> DataLoader[Sample]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        workers = self.num_workers
        if workers is None:
            on_cpu = self.trainer is None or self.trainer.strategy.root_device.type == "cpu"
            # On a CPU, loader processes and the network's threads wait for each other: ten times slower on two cores.
            workers = min(8, num_cores() // (4 if on_cpu else 1))
        return EpochLoader(
            dataset,
            self.batch_size,
            sampler=EpochSampler(len(dataset), shuffle=is_training, seed=self.seed, rank=rank, world_size=world_size),
            num_workers=workers,
            collate_fn=partial(collate, input=self.input),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=one_thread,
            multiprocessing_context=process_context(self.start_method) if workers else None,
            count_done=partial(batches_done, self.trainer) if self.trainer and is_training else None,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish on the device the training pixels that the workers decoded and cropped."""
        if not isinstance(batch, CutBatch):
            return batch
        cuts = [Cut(*pair) for pair in zip(batch.pixels, batch.is_mirrored, strict=True)]
        clips = self.sets["train"].transform.finish(cuts)  # type: ignore[attr-defined]
        return ClipBatch(clips, batch.targets, batch.ids, batch.skipped)

    def train_dataloader(self) -> DataLoader[Sample]:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        return self.loader("val") if len(self.sets["val"]) else []

    def test_dataloader(self) -> DataLoader[Sample]:
        return self.loader("test")


def one_thread(worker: int) -> None:
    """Limit a loader process to one thread: the processes already use all cores."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
