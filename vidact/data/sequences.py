"""Features and labels in batches: the data set of training windows and whole videos, and the Lightning data module.

Everything random about a window follows from (seed, epoch, video), so the number of workers changes nothing and a
resumed run gets the batches that it would have got without the interruption.

Shapes: B videos, T tokens, D features of a token, K classes (1 + K with the background).
"""

from __future__ import annotations

import os
from collections.abc import Sequence as Several
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidact.batch import AMBIGUOUS_CLASS, SequenceBatch
from vidact.data.clips import EpochLoader, EpochSampler, batches_done, one_thread
from vidact.data.event_list import AMBIGUOUS
from vidact.data.sequence_list import Sequence, SequenceList, load_sequences
from vidact.data.time_origin import TimeOrigin, check_origin
from vidact.jobs import process_context

__all__ = ["Sequence", "SequenceData", "SequenceDataset", "SequenceList", "collate", "load_sequences"]


class SequenceDataset(Dataset[SequenceBatch]):
    """A data set of windows of untrimmed videos, or of whole videos; an item is a batch of one.

    The windows of a video begin ``stride`` tokens apart, from an offset below ``stride`` that is drawn for each video
    and epoch; item ``(epoch, index)`` is window ``index`` of that epoch. Every epoch has the same number of windows.
    Fewer than ``stride`` rows of a window lie beyond the video's end, and none with ``drop_ambiguous_last``; a video
    shorter than ``window`` is one window.

    Args:
        sequences: the videos.
        window: the number of tokens with labels; None takes whole videos (then ``history`` and ``lookahead`` are 0).
        history: the number of tokens before the window, without labels.
        lookahead: the number of labels after the last feature, for networks that predict.
        stride: tokens from one window to the next; None is ``window``, so that windows do not overlap.
        drop_ambiguous_last: leave out windows whose last token is ambiguous (OadTR), for losses on the last token only.
        seed: the seed of the offsets and of the crops.
        least: the least number of windows in an epoch; where there are fewer, they are repeated from other offsets.
        classes: the names of the actions, for the batches' ``truth``; None makes batches without it.
        tokens_per_second: the rate of the features, for the batches' ``truth``.
        least_crop: a video that is one window is cropped to a random stretch of at least this share of its tokens,
            drawn for each epoch; 1 takes all of it.
    """

    def __init__(
        self,
        sequences: Several[Sequence],
        window: int | None = None,
        history: int = 0,
        lookahead: int = 0,
        stride: int | None = None,
        drop_ambiguous_last: bool = False,
        seed: int = 0,
        least: int = 1,
        classes: Several[str] | None = None,
        tokens_per_second: float | None = None,
        least_crop: float = 1.0,
    ) -> None:
        if not 0 < least_crop <= 1:
            raise ValueError(f"least_crop is {least_crop:g}; it is a share of a video, above 0 and at most 1")
        if window is None and (history or lookahead or stride or drop_ambiguous_last):
            raise ValueError("whole videos (window=None) have no history, lookahead, stride or last token to drop by")
        for name, value, lowest in (
            ("window", window, 1),
            ("history", history, 0),
            ("lookahead", lookahead, 0),
            ("stride", stride, 1),
        ):
            if value is not None and value < lowest:
                raise ValueError(f"{name} is {value} tokens; it is at least {lowest}")
        if least < 1:
            raise ValueError(f"least is {least}; it is at least 1 window")
        if (classes is None) != (tokens_per_second is None):
            raise ValueError("the truth of a batch needs both classes and tokens_per_second, or neither")
        self.sequences = list(sequences)
        self.window, self.history, self.lookahead, self.seed = window, history, lookahead, seed
        self.stride, self.least_crop = stride or window or 1, least_crop
        self.starts = [self._starts(sequence, drop_ambiguous_last) for sequence in self.sequences]
        counts = [max(1, len(starts) // self.stride) if len(starts) else 0 for starts in self.starts]
        self.first_index = np.concatenate([[0], np.cumsum(counts, dtype=int)])
        self.tokens_per_second = tokens_per_second
        self.truth = None if classes is None else [_timed(sequence, classes) for sequence in self.sequences]
        self.rounds = -(-least // total) if (total := int(self.first_index[-1])) else 1

    def _starts(self, sequence: Sequence, drop_ambiguous_last: bool) -> np.ndarray:
        """Return the tokens at which windows of a video may begin."""
        length = len(sequence)
        if drop_ambiguous_last and self.window:
            return np.flatnonzero(~sequence.ignore[self.window - 1 :])
        if self.window is None or length <= self.window:
            return np.zeros(1, dtype=int)
        return np.arange(min(length, length - self.window + self.stride))

    def __len__(self) -> int:
        return int(self.first_index[-1]) * self.rounds

    def __getitem__(self, key: int | tuple[int, int]) -> SequenceBatch:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        again, index = divmod(index, int(self.first_index[-1]))
        video = int(np.searchsorted(self.first_index, index, side="right")) - 1
        starts = self.starts[video]
        drawn = [self.seed, epoch, video] + [again] * (again > 0)
        random = np.random.default_rng(drawn)
        offset = random.integers(min(self.stride, len(starts)))
        length = len(self.sequences[video])
        if self.least_crop < 1 and (self.window is None or length <= self.window):
            tokens = max(1, round(length * random.uniform(self.least_crop, 1)))
            return self.stretch(video, int(random.integers(length - tokens + 1)), tokens)
        position = offset + (index - self.first_index[video]) * self.stride
        return self.stretch(video, int(starts[position]), self.window or length)

    def stretch(self, video: int, first: int, window: int) -> SequenceBatch:
        """Return the window of a video that begins with token ``first``, with the history before it."""
        sequence = self.sequences[video]
        length, begin_token, end = len(sequence), first - self.history, first + window
        features = np.empty((end - begin_token, sequence.features.shape[1]), dtype=np.float32)
        inside = slice(max(begin_token, 0), min(end, length))
        start, stop = inside.start - begin_token, inside.stop - begin_token
        features[start:stop] = sequence.features[inside]
        features[:start], features[stop:] = features[start], features[stop - 1]

        rows = window + self.lookahead
        targets = np.zeros((rows, sequence.multi_hot.shape[1]), dtype=np.float32)
        ignore = np.ones(rows, dtype=bool)
        labelled = slice(first, min(first + rows, length))
        targets[: labelled.stop - first] = sequence.multi_hot[labelled]
        ignore[: labelled.stop - first] = sequence.ignore[labelled]
        return SequenceBatch(
            torch.from_numpy(features)[None],
            torch.from_numpy(targets)[None],
            torch.from_numpy(ignore)[None],
            torch.tensor([start]),
            [sequence.id],
            torch.tensor([stop]),
            self.lookahead,
            self._truth_in(video, begin_token, start, stop),
        )

    def _truth_in(self, video: int, begin_token: int, start: int, stop: int) -> list[Tensor] | None:
        """Return the events that touch the rows ``start`` … ``stop`` - 1 of a window that begins at a token."""
        if self.truth is None or self.tokens_per_second is None:
            return None
        rows, rate = self.truth[video], self.tokens_per_second
        times_s = rows - np.array([begin_token / rate, begin_token / rate, 0.0])
        touches = (times_s[:, 1] > start / rate) & (times_s[:, 0] < stop / rate)
        return [torch.from_numpy(times_s[touches].astype(np.float32))]


def _timed(sequence: Sequence, classes: Several[str]) -> np.ndarray:
    """Return the events of a video as start, end and action, (n, 3) float64, sorted by start."""
    number = {name: float(k) for k, name in enumerate(classes)}
    rows = []
    for event in sequence.events:
        if event.label not in number and event.label.lower() != AMBIGUOUS:
            raise ValueError(
                f"the event {event.label!r} of {sequence.id} at {event.start_s:g} s is of no class; there are "
                f"{', '.join(classes)}"
            )
        rows.append((event.start_s, event.end_s, number.get(event.label, float(AMBIGUOUS_CLASS))))
    return np.array(sorted(rows), dtype=np.float64).reshape(-1, 3)


def collate(items: Several[SequenceBatch]) -> SequenceBatch:
    """Join several batches into one; shorter videos repeat their last token, and the added rows are ignored."""
    rows = max(item.targets.shape[1] for item in items)
    if any(item.targets.shape[1] < rows for item in items):
        items = [_lengthen(item, rows - item.targets.shape[1]) for item in items]
    return SequenceBatch(
        torch.cat([item.features for item in items]),
        torch.cat([item.targets for item in items]),
        torch.cat([item.ignore for item in items]),
        torch.cat([item.start for item in items]),
        [id for item in items for id in item.ids],
        torch.cat([item.end for item in items]),
        items[0].lookahead,
        None if items[0].truth is None else [rows for item in items for rows in item.truth or ()],
    )


def _lengthen(item: SequenceBatch, more: int) -> SequenceBatch:
    last = item.features[:, -1:].expand(-1, more, -1)
    targets = item.targets.new_zeros(1, more, item.targets.shape[2])
    return SequenceBatch(
        torch.cat([item.features, last], 1),
        torch.cat([item.targets, targets], 1),
        torch.cat([item.ignore, item.ignore.new_ones(1, more)], 1),
        item.start,
        item.ids,
        item.end,
        item.lookahead,
        item.truth,
    )


class SequenceData(pl.LightningDataModule):
    """The data module of features: windows of untrimmed videos for training, whole videos for validation and test.

    Args:
        root: folder with events.csv, videos.csv and classes.txt.
        features: folder of the features; default root/features.
        tokens_per_second: refuse features of another rate; required where the folder has no features.json.
        window: tokens of a training window that have labels. 1 for networks whose loss is on the newest token only.
            For offline networks it is the length of a crop, and null trains on whole videos.
        history: tokens before the window, which the network reads and which have no labels.
        lookahead: labels after the window's last feature, for networks that predict: the largest of their offsets.
        stride: tokens from one training window to the next; None is the window.
        drop_ambiguous_last: leave out training windows whose last token is ambiguous (OadTR).
        epoch_windows: the least number of training windows in an epoch. Those of a small set are repeated from other
            offsets, because a dozen short videos would otherwise be one step an epoch.
        batch_size: training windows in a batch, on each device.
        test_batch_size: whole videos side by side in validation and test; shorter ones are filled up.
        test_split: the split that a test scores.
        val_fraction: share of the training videos kept for validation where videos.csv names no split val.
        group: a regular expression with one group, searched in each id; videos for which it gives the same text stay
            together when the validation videos are drawn.
        missing: what to do with a video without features: raise, or skip it with a note.
        bad_events: what to do with events that reach beyond the features or overlap another of their class: raise, or
            allow (cut, keep) them with a note.
        least_crop: offline networks: training videos that fit into a window are cropped to a random stretch of at
            least this share of their tokens; 1 takes all of them.
        memory_gib: memory in GiB that the features may take on each machine; larger ones are read from disk when
            needed. None is half of the machine's memory.
        num_workers: loader processes on each device; None is 0 for features in memory, otherwise 2.
        seed: the seed of the split, the order and the offsets.
        time_origin: the moment from which the seconds of events.csv count: the video's first frame, or the start of
            the file, as in players. They differ where the sound starts first; vidact prepare check names such videos.
    """

    def __init__(
        self,
        root: str,
        features: str | None = None,
        tokens_per_second: float | None = None,
        window: int | None = 64,
        history: int = 0,
        lookahead: int = 0,
        stride: int | None = None,
        drop_ambiguous_last: bool = False,
        epoch_windows: int = 1,
        batch_size: int = 16,
        test_batch_size: int = 1,
        test_split: Literal["test", "val", "train"] = "test",
        val_fraction: float = 0.2,
        group: str | None = None,
        missing: Literal["raise", "skip"] = "raise",
        bad_events: Literal["raise", "allow"] = "raise",
        memory_gib: float | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        time_origin: TimeOrigin = "first_frame",
        least_crop: float = 1.0,
    ) -> None:
        super().__init__()
        check_origin(time_origin)
        self.least_crop = least_crop
        self.time_origin: TimeOrigin = time_origin
        for name, value in (("batch_size", batch_size), ("test_batch_size", test_batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}; a batch needs at least one video")
        if epoch_windows < 1:
            raise ValueError(f"epoch_windows is {epoch_windows}; an epoch has at least one window")
        self.root, self.features, self.tokens_per_second = Path(root), features, tokens_per_second
        self.window, self.history, self.lookahead, self.stride = window, history, lookahead, stride
        self.drop_ambiguous_last, self.epoch_windows = drop_ambiguous_last, epoch_windows
        self.batch_size, self.test_batch_size, self.test_split = batch_size, test_batch_size, test_split
        self.val_fraction, self.group, self.missing, self.bad_events = val_fraction, group, missing, bad_events
        self.memory_gib, self.num_workers, self.seed = memory_gib, num_workers, seed
        self.sets: dict[str, SequenceDataset] = {}
        self._found: SequenceList | None = None

    @property
    def found(self) -> SequenceList:
        """The videos with their labels, read and checked once; their features are in memory if they fit."""
        if self._found is None:
            sequences = load_sequences(
                self.root,
                features=self.features,
                tokens_per_second=self.tokens_per_second,
                val_fraction=self.val_fraction,
                group=self.group,
                seed=self.seed,
                missing=self.missing,
                bad_events=self.bad_events,
                time_origin=self.time_origin,
            )
            processes = self.trainer.num_devices if self.trainer else 1  # each process holds a copy
            fits = sequences.num_bytes * processes <= self.memory_limit
            self._found = sequences.in_memory() if fits else sequences
            self.is_in_memory = fits
        return self._found

    @property
    def memory_limit(self) -> float:
        """The number of bytes that the features may take in memory."""
        if self.memory_gib is not None:
            return self.memory_gib * 2**30
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2

    def setup(self, stage: str) -> None:
        """Make the data sets of the splits; in training, print the notes."""
        sequences = self.found
        timed: dict[str, Any] = {"classes": sequences.classes, "tokens_per_second": sequences.tokens_per_second}
        self.sets = {
            "train": SequenceDataset(
                sequences.split("train"),
                self.window,
                self.history,
                self.lookahead,
                self.stride,
                self.drop_ambiguous_last,
                self.seed,
                self.epoch_windows,
                **timed,
                least_crop=self.least_crop,
            ),
            "val": SequenceDataset(sequences.split("val"), **timed),
            "test": SequenceDataset(sequences.split(self.test_split), **timed),
        }
        if stage == "fit" and (self.trainer is None or self.trainer.is_global_zero):
            for note in sequences.notes:
                print(f"note: {note}")

    def loader(self, split: str) -> DataLoader[SequenceBatch]:
        """Return the batches of ``split`` for this process; the training order is shuffled.

        All processes get equally many items, a few of them twice if necessary, because one that ran out first would
        leave the others waiting. In validation and test the items are whole videos, which scores join by id.
        """
        dataset = self.sets[split]
        if len(dataset) == 0:
            name = self.test_split if split == "test" else split
            counts = ", ".join(f"{side}: {len(self.found.split(side))}" for side in ("train", "val", "test"))
            why = "name the split in videos.csv"
            if len(dataset.sequences):
                why = f"each is ambiguous or shorter than the window of {self.window} tokens"
            raise ValueError(f"{self.root} has nothing in the split {name!r} ({counts} videos); {why}")
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        training = split == "train"
        workers = self.num_workers
        if workers is None:
            workers = 0 if self.is_in_memory else 2
        return EpochLoader(
            dataset,
            self.batch_size if training else self.test_batch_size,
            sampler=EpochSampler(len(dataset), shuffle=training, seed=self.seed, rank=rank, world_size=world_size),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=one_thread,
            multiprocessing_context=process_context(None) if workers else None,
            count_done=partial(batches_done, self.trainer) if self.trainer and training else None,
        )

    def train_dataloader(self) -> DataLoader[SequenceBatch]:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[SequenceBatch] | list[Any]:
        return self.loader("val") if len(self.sets["val"]) else []

    def test_dataloader(self) -> DataLoader[SequenceBatch]:
        return self.loader("test")
