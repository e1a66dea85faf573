"""Samplers choose the frames of a video that make a clip: index arithmetic, and nothing else.

A sampler is called with the number of frames of a video and returns the indices of its clips. With a numpy generator it
draws them, as training needs; without one it always returns the same ones, as testing needs. Every index is 0-based and
lies in [0, N - 1], however short the video is.

Shapes: N frames of the video, K clips, T time steps of a clip, L consecutive frames of one time step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


class ClipSampler:
    """The base of all samplers. Subclasses are dataclasses of plain numbers that define ``sample``."""

    def __call__(self, num_frames: int, generator: np.random.Generator | None = None, num_clips: int = 1) -> np.ndarray:
        """Return the indices int64 (K, T) of ``num_clips`` clips of a video of ``num_frames`` frames.

        ``generator=None`` is the test rule: the same video always has the same clips, spread over the video.
        With a generator each clip is an independent draw.
        """
        if num_frames < 1:
            raise ValueError(f"a video of {num_frames} frames has no clips; a sampler needs at least one frame")
        if num_clips < 1:
            raise ValueError(f"{num_clips} clips were asked; ask for at least one")
        return self.sample(num_frames, generator, num_clips).astype(np.int64)

    def sample(self, num_frames: int, generator: np.random.Generator | None, num_clips: int) -> np.ndarray:
        """Return the indices (K, T) for ``__call__``, which has checked the arguments."""
        raise NotImplementedError(f"{type(self).__name__} does not define sample()")

    def record(self) -> dict[str, Any]:
        """Return plain data for a checkpoint, from which ``from_record`` makes the sampler again."""
        return {"name": type(self).__name__, "arguments": dataclasses.asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_record(record: dict[str, Any]) -> ClipSampler:
        """Return the sampler that wrote ``record``; one of another module is available once that is imported."""
        samplers = {sampler.__name__: sampler for sampler in ClipSampler.__subclasses__()}
        name, arguments = record.get("name"), record.get("arguments", {})
        if name not in samplers:
            raise ValueError(f"the record names the sampler {name!r}; known are {', '.join(sorted(samplers))}")
        fields = [field.name for field in dataclasses.fields(samplers[name])]  # type: ignore[arg-type]
        unknown = sorted(set(arguments) - set(fields))
        if unknown:
            raise ValueError(f"{name} has no argument {', '.join(unknown)}; it has {', '.join(fields)}")
        return samplers[name](**arguments)


def expand(indices: np.ndarray, length: int, num_frames: int) -> np.ndarray:
    """Follow each index with the ``length - 1`` frames after it: (…, T) becomes (…, T*L), a group beside the next.

    Beyond the end of the video its last frame is repeated, so the flow there is zero.
    """
    if length < 1:
        raise ValueError(f"length is {length}; one index stands for at least one frame")
    groups = indices[..., None] + np.arange(length)  # (…, T, L)
    return np.minimum(groups, num_frames - 1).reshape(*indices.shape[:-1], -1)


@dataclass
class SegmentSampler(ClipSampler):
    """A sampler of one frame from each of equal parts of the video (TSN, https://arxiv.org/abs/1608.00859).

    Training draws the frame uniformly in its part, and testing takes the middle one; several test clips shift it
    evenly, so that together they cover the video. The parts have real-valued ends: no frame at the tail is left out,
    and a video with fewer frames than parts is spread over the clip, repeating neighbours.

    Args:
        num_segments: parts, and so time steps T of the clip.
        segment_length: consecutive frames that one time step needs (TDN: 5; L flow fields: L + 1). Only the index of
            the first is returned; it is early enough for the others where the video is long enough.
    """

    num_segments: int = 8
    segment_length: int = 1

    def __post_init__(self) -> None:
        _require_positive(self, "num_segments", "segment_length")

    def sample(self, num_frames: int, generator: np.random.Generator | None, num_clips: int) -> np.ndarray:
        starts = max(num_frames - self.segment_length + 1, 1)
        fraction = (
            _middles(num_clips)[:, None] if generator is None else generator.random((num_clips, self.num_segments))
        )
        return np.minimum(_ticks(starts, self.num_segments, fraction), starts - 1)


@dataclass
class DenseSampler(ClipSampler):
    """A sampler of a window of frames at a fixed stride, for 3-D networks (I3D, https://arxiv.org/abs/1705.07750).

    Training draws the start uniformly from all that fit, the last one included. Testing takes the window in the
    middle, or, of several, the first that fits, the last that fits and evenly spaced ones between.

    Args:
        num_frames: frames T of the clip.
        stride: frames from one to the next.
        short: what to do with a video shorter than the window: "repeat" its last frame, "loop" to its first, or stop
            with an "error".
    """

    num_frames: int = 8
    stride: int = 8
    short: Literal["repeat", "loop", "error"] = "repeat"

    def __post_init__(self) -> None:
        _require_positive(self, "num_frames", "stride")
        if self.short not in ("repeat", "loop", "error"):
            raise ValueError(f"short is {self.short!r}; it can be 'repeat', 'loop' or 'error'")

    def sample(self, num_frames: int, generator: np.random.Generator | None, num_clips: int) -> np.ndarray:
        window = (self.num_frames - 1) * self.stride + 1
        if self.short == "error" and num_frames < window:
            raise ValueError(
                f"the video has {num_frames} frames; a dense clip of {self.num_frames} frames at stride {self.stride} "
                f"needs {window}. Use a smaller stride or short='repeat'."
            )
        last_start = max(num_frames - window, 0)
        if generator is None:
            starts = np.rint(_spread(last_start, num_clips)).astype(np.int64)
        else:
            starts = generator.integers(0, last_start, size=num_clips, endpoint=True)
        indices = starts[:, None] + np.arange(self.num_frames) * self.stride  # (K, T)
        return indices % num_frames if self.short == "loop" else np.minimum(indices, num_frames - 1)


@dataclass
class UniformSampler(ClipSampler):
    """A sampler of frames at equal steps over the whole video: a steady rate, for networks that measure motion.

    Training draws where in the first step the clip begins, once for all frames; testing begins in the middle of it,
    and several clips begin at evenly spaced points of it. (SegmentSampler draws each frame separately.)

    Args:
        num_frames: frames T of the clip.
    """

    num_frames: int = 8

    def __post_init__(self) -> None:
        _require_positive(self, "num_frames")

    def sample(self, num_frames: int, generator: np.random.Generator | None, num_clips: int) -> np.ndarray:
        fraction = _middles(num_clips)[:, None] if generator is None else generator.random((num_clips, 1))
        return np.minimum(_ticks(num_frames, self.num_frames, fraction), num_frames - 1)


@dataclass
class WindowSampler(ClipSampler):
    """A sampler of several windows of frames at a stride, one after the other in one clip.

    It is for networks whose clip is a number of windows (``vidact.models.clip_windows``). Without a generator the
    windows begin at evenly spaced frames, the first at the first frame, and the last ends with the last frame; they
    overlap in a short video. Training draws each start. Where a window is longer than the video, its stride is the
    largest that fits, and below one frame the last frame is repeated. Several clips are the same.

    Args:
        num_windows: windows of a clip.
        num_frames: frames of a window.
        stride: frames from one to the next.
    """

    num_windows: int = 2
    num_frames: int = 16
    stride: int = 4

    def __post_init__(self) -> None:
        _require_positive(self, "num_windows", "num_frames", "stride")

    def sample(self, num_frames: int, generator: np.random.Generator | None, num_clips: int) -> np.ndarray:
        steps = self.num_frames - 1
        stride = max(1, min(self.stride, (num_frames - 1) // max(steps, 1)))
        last_start = max(num_frames - 1 - steps * stride, 0)
        if generator is None:
            starts = np.tile(np.rint(_spread(last_start, self.num_windows)), (num_clips, 1))
        else:
            starts = np.sort(generator.integers(0, last_start, size=(num_clips, self.num_windows), endpoint=True))
        indices = starts[:, :, None] + np.arange(self.num_frames) * stride  # (K, windows, frames)
        return np.minimum(indices, num_frames - 1).reshape(num_clips, -1)


def _ticks(starts: int, segments: int, fraction: float | np.ndarray) -> np.ndarray:
    """Return whole numbers (…, T) at ``fraction``, from 0 to 1, of each of T equal parts of ``starts``.

    The arithmetic is tsn-pytorch's to the last bit. Where the exact result is a whole number, its floats may fall just
    below (30 frames, 25 segments: 12.5 * 1.2 is 14), and published indices include that.
    """
    tick = starts / segments
    return np.trunc(tick * fraction + tick * np.arange(segments)).astype(np.int64)


def _middles(num_clips: int) -> np.ndarray:
    """Return the middles (K,) of K equal parts of 0 to 1."""
    return (np.arange(num_clips) + 0.5) / num_clips


def _spread(last: float, num: int) -> np.ndarray:
    """Return ``num`` evenly spaced numbers from 0 to ``last``, both included; for one, the middle."""
    return np.linspace(0, last, num) if num > 1 else np.array([last / 2])


def _require_positive(sampler: Any, *names: str) -> None:
    for name in names:
        if getattr(sampler, name) < 1:
            raise ValueError(f"{name} is {getattr(sampler, name)}; {type(sampler).__name__} needs at least 1")


# ---------------------------------------------------------------------------------------------------------------------
# The rules of other code, kept so that published numbers can be reproduced.

Variant = Literal[
    "tsn", "tsn_val", "tsn_caffe_test", "tsm_uniform", "tsm_dense", "tsm_twice", "tam_uniform_k", "tam_dense_k",
    "mma_sample_frames", "mma_dense", "mma_uniform", "slowfast", "slowfast_offset", "slowfast_ssv2",
    "ptv_random", "ptv_uniform", "ptv_constant",
]  # fmt: skip


@dataclass
class LegacySampler(ClipSampler):
    """The sampling rule of a published code base, to reproduce its numbers; the other samplers are better for new work.

    Each rule is its source's, down to its rounding, with two exceptions: indices are 0-based, and where the source
    crashes or leaves the video the index is clamped into it. Where the source tests at random, and so prints another
    number each time, the generator-free rule here is its nearest deterministic relative, named below.

    Args:
        variant: the rule, by its code base.
            tsn, tsm_uniform (tsn-pytorch, TRN, TSM): a random frame of each segment; tests take the midpoints.
            tsn_val: the same, but videos of no more than S + L - 1 frames give frame 0 only, as in its validation.
            tsn_caffe_test: tests start at frame 0 with a whole step, as the TSN paper's code did.
            tsm_dense, mma_dense: T frames of a window of 64, wrapped; the last two starts are never drawn; K test
            starts from first to last (the paper: K = 10; K = 1 is the first).
            tsm_twice: two test clips, at the middle and at the beginning of the segments.
            tam_dense_k: a window of T * (64 // T) frames; one test clip starts half way, K from first to last.
            tam_uniform_k: K test clips with starts from 0 to one before the segment's end.
            mma_sample_frames: MMAction2's SampleFrames; see clip_length. Two test clips of single frames are its
            twice_sample.
            mma_uniform: MMAction2's UniformSample, segments of (N - 1) / T frames with both ends included.
            slowfast: PySlowFast; of K test clips none reaches the end. slowfast_offset: with USE_OFFSET_SAMPLING.
            slowfast_ssv2: PySlowFast's rule for Something-Something.
            ptv_random, ptv_uniform, ptv_constant: PyTorchVideo's samplers (clips in seconds: at random, one after the
            other, K from first to last) and its UniformTemporalSubsample. Tests of ptv_random are ptv_constant's.
        num_frames: time steps T of a clip: the number of segments of 2-D networks.
        segment_length: consecutive frames L of one time step; the index of the first is returned.
        clip_length: for mma_sample_frames: its clip_len; a clip of T frames holds T / clip_length of its clips.
        stride: frames from one to the next, for mma_sample_frames, slowfast and ptv_*.
        fps: frames per second of the videos, for slowfast and ptv_*, whose strides count frames of 1/30 s.
        out_of_range: for mma_sample_frames: "loop" to the beginning (its default) or "repeat" the last frame.
    """

    variant: Variant
    num_frames: int = 8
    segment_length: int = 1
    clip_length: int = 1
    stride: int = 1
    fps: float = 30.0
    out_of_range: Literal["loop", "repeat"] = "loop"

    def __post_init__(self) -> None:
        _require_positive(self, "num_frames", "segment_length", "clip_length", "stride")
        if self.variant not in LEGACY_RULES:
            raise ValueError(f"there is no variant {self.variant!r}; there are {', '.join(LEGACY_RULES)}")
        if self.fps <= 0:
            raise ValueError(f"fps is {self.fps}; frames per second are more than 0")
        if self.out_of_range not in ("loop", "repeat"):
            raise ValueError(f"out_of_range is {self.out_of_range!r}; it can be 'loop' or 'repeat'")
        if self.num_frames % self.clip_length:
            raise ValueError(f"{self.num_frames} frames cannot be split into clips of {self.clip_length}")
        if self.segment_length > 1 and self.clip_length > 1:
            raise ValueError(
                f"segment_length is {self.segment_length} and clip_length is {self.clip_length}; use the first when "
                "the frames of one time step go together, the second when they are time steps, not both"
            )

    def sample(self, num_frames: int, generator: np.random.Generator | None, num_clips: int) -> np.ndarray:
        training, testing = LEGACY_RULES[self.variant]
        if generator is None:
            indices = testing(self, num_frames, num_clips)  # (K, T)
        else:
            indices = np.stack([training(self, num_frames, generator) for _ in range(num_clips)])
        return np.clip(indices, 0, num_frames - 1)

    def _refuse_more_clips(self, num_clips: int, most: int = 1) -> None:
        if num_clips > most:
            raise ValueError(
                f"{num_clips} test clips were asked, but {self.variant} has a rule for {most} only. "
                "Use SegmentSampler or a dense sampler, which have any number."
            )


def _tsn_train(sampler: LegacySampler, n: int, rng: np.random.Generator) -> np.ndarray:
    segments, length = sampler.num_frames, sampler.segment_length
    duration = (n - length + 1) // segments
    if duration > 0:
        return np.arange(segments) * duration + rng.integers(0, duration, size=segments)
    if n > segments:
        return np.sort(rng.integers(0, max(n - length + 1, 1), size=segments))  # the source crashes when n < length
    return np.zeros(segments)


def _tsn_clip(sampler: LegacySampler, n: int, fraction: float) -> np.ndarray:
    """Return one clip (1, T); its indices are not positive where n < L, as in the source."""
    return _ticks(n - sampler.segment_length + 1, sampler.num_frames, fraction)[None]


def _tsn_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    sampler._refuse_more_clips(clips)
    return _tsn_clip(sampler, n, 0.5)


def _tsn_val(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    middle = _tsn_test(sampler, n, clips)
    return middle if n > sampler.num_frames + sampler.segment_length - 1 else np.zeros_like(middle)


def _caffe_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    sampler._refuse_more_clips(clips)
    step = (n - sampler.segment_length) // max(sampler.num_frames - 1, 1)
    return max(step, 0) * np.arange(sampler.num_frames)[None]


def _twice_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    sampler._refuse_more_clips(clips, most=2)
    return np.concatenate([_tsn_clip(sampler, n, 0.5), _tsn_clip(sampler, n, 0.0)])[:clips]


def _window_starts(sampler: LegacySampler, n: int, whole: bool) -> tuple[int, int]:
    """Return the stride, and the number of starts, of a window of 64 frames (``whole``) or of T strides."""
    stride = 64 // sampler.num_frames
    return stride, max(1, 1 + n - (64 if whole else stride * sampler.num_frames))


def _window_train(whole: bool) -> Callable[..., np.ndarray]:
    def train(sampler: LegacySampler, n: int, rng: np.random.Generator) -> np.ndarray:
        stride, starts = _window_starts(sampler, n, whole)
        start = 0 if starts == 1 else rng.integers(0, starts - 1)  # the end is exclusive in the source too
        return (start + stride * np.arange(sampler.num_frames)) % n

    return train


def _window_test(whole: bool) -> Callable[..., np.ndarray]:
    def test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
        stride, starts = _window_starts(sampler, n, whole)
        first = np.linspace(0, starts - 1, clips).astype(np.int64)
        if clips == 1 and not whole:
            first = np.array([starts // 2])
        return (first[:, None] + stride * np.arange(sampler.num_frames)) % n

    return test


def _tam_uniform_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    if clips == 1:
        return _tsn_clip(sampler, n, 0.5)
    tick = (n - sampler.segment_length + 1) / sampler.num_frames
    starts = np.trunc(np.linspace(0, tick - 1, clips))
    return np.trunc(starts[:, None] + tick * np.arange(sampler.num_frames)) % n


def _mma_clips(sampler: LegacySampler, offsets: np.ndarray, n: int) -> np.ndarray:
    """Return the frames (-1, T) of MMAction2 clips of ``clip_length`` that begin at ``offsets``."""
    frames = offsets.astype(np.int64)[:, None] + np.arange(sampler.clip_length) * sampler.stride
    if sampler.out_of_range == "loop":
        frames = frames % n
    else:  # the last frame of the clip that is inside the video
        frames = np.minimum(frames, np.where(frames < n, frames, 0).max(axis=1, keepdims=True))
    return frames.reshape(-1, sampler.num_frames)


def _mma_train(sampler: LegacySampler, n: int, rng: np.random.Generator) -> np.ndarray:
    clips = sampler.num_frames // sampler.clip_length
    window = max(sampler.clip_length * sampler.stride, sampler.segment_length)
    average = (n - window + 1) // clips
    if average > 0:
        offsets: np.ndarray = np.arange(clips) * average + rng.integers(0, average, size=clips)
    elif n > max(clips, window):
        offsets = np.sort(rng.integers(0, n - window + 1, size=clips))
    elif average == 0:
        offsets = np.rint(np.arange(clips) * (n - window + 1) / clips)
    else:
        offsets = np.zeros(clips)
    return _mma_clips(sampler, offsets, n)[0]


def _mma_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    segments = sampler.num_frames // sampler.clip_length
    if sampler.clip_length == 1 and sampler.segment_length == 1:
        sampler._refuse_more_clips(clips, most=2)
        average = n / segments
        middle = np.arange(segments) * average + average / 2
        return _mma_clips(sampler, np.concatenate([middle, np.arange(segments) * average])[: clips * segments], n)
    window = max((sampler.clip_length - 1) * sampler.stride + 1, sampler.segment_length)
    last, count = max(n - window, 0), segments * clips
    offsets = np.array([last // 2]) if count == 1 else np.rint(np.arange(count) * (last / (count - 1))).astype(np.int64)
    return _mma_clips(sampler, offsets, n)


def _bins(sampler: LegacySampler, n: int) -> tuple[float, np.ndarray]:
    """Return the length of T bins over N - 1 steps and their T + 1 rounded ends."""
    length = (n - 1) / sampler.num_frames
    return length, np.rint(length * np.arange(sampler.num_frames + 1)).astype(np.int64)


def _bins_train(sampler: LegacySampler, n: int, rng: np.random.Generator) -> np.ndarray:
    _, ends = _bins(sampler, n)
    return rng.integers(ends[:-1], ends[1:], endpoint=True)


def _mma_uniform_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    length, ends = _bins(sampler, n)
    return ends[:-1] + np.trunc(length / (clips + 1) * np.arange(1, clips + 1))[:, None]


def _ssv2_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    sampler._refuse_more_clips(clips)
    _, ends = _bins(sampler, n)
    return ((ends[:-1] + ends[1:]) // 2)[None]


def _slowfast_clips(sampler: LegacySampler, starts: np.ndarray, n: int) -> np.ndarray:
    steps = np.linspace(0, _slowfast_length(sampler) - 1, sampler.num_frames)
    return np.trunc(np.clip(starts[:, None] + steps, 0, n - 1))


def _slowfast_length(sampler: LegacySampler) -> float:
    return sampler.stride * sampler.num_frames / 30 * sampler.fps


def _slowfast_train(sampler: LegacySampler, n: int, rng: np.random.Generator) -> np.ndarray:
    free = max(n - _slowfast_length(sampler), 0)
    return _slowfast_clips(sampler, rng.uniform(0, free, size=1), n)[0]


def _slowfast_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    free = max(n - _slowfast_length(sampler), 0)
    return _slowfast_clips(sampler, free * np.arange(clips) / clips, n)


def _slowfast_offset_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    free = max(n - _slowfast_length(sampler), 0)
    step = free // (clips - 1) if clips > 1 else 0
    return _slowfast_clips(sampler, step * np.arange(clips) if clips > 1 else np.array([free // 2]), n)


def _ptv_clips(sampler: LegacySampler, starts_s: np.ndarray, n: int) -> np.ndarray:
    """Return T of the frames whose time, i / fps for frame i, lies in [start, start + duration)."""
    clips = []
    for start_s in starts_s:
        first = min(int(np.ceil(start_s * sampler.fps - 1e-6)), n - 1)
        end = min(int(np.ceil((start_s + _ptv_duration_s(sampler)) * sampler.fps - 1e-6)), n)
        clips.append(first + np.trunc(np.linspace(0, max(end - first, 1) - 1, sampler.num_frames)))
    return np.stack(clips)


def _ptv_duration_s(sampler: LegacySampler) -> float:
    return sampler.num_frames * sampler.stride / 30


def _ptv_last_start_s(sampler: LegacySampler, n: int) -> float:
    return max(n / sampler.fps - _ptv_duration_s(sampler), 0.0)


def _ptv_random_train(sampler: LegacySampler, n: int, rng: np.random.Generator) -> np.ndarray:
    return _ptv_clips(sampler, rng.uniform(0, _ptv_last_start_s(sampler, n), size=1), n)[0]


def _ptv_constant_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    # PyTorchVideo 0.1.5 divides by K, its later source by K - 1, so that the end is reached; this is the later rule
    starts_s = np.arange(clips) * _ptv_last_start_s(sampler, n) / max(clips - 1, 1)
    return _ptv_clips(sampler, starts_s, n)


def _ptv_uniform_test(sampler: LegacySampler, n: int, clips: int) -> np.ndarray:
    duration_s = _ptv_duration_s(sampler)
    whole = max(int(n / sampler.fps / duration_s + 1e-6), 1)
    if clips > whole:
        raise ValueError(
            f"{clips} clips were asked, but a video of {n / sampler.fps:.2f} s holds {whole} of {duration_s:.2f} s one "
            "after the other. Ask for fewer, or use ptv_constant, which lets clips overlap."
        )
    return _ptv_clips(sampler, np.arange(clips) * duration_s, n)


def _ptv_drawless(rule: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Return a test rule as a training rule: PyTorchVideo's uniform and constant samplers draw nothing in training."""
    return lambda sampler, n, rng: rule(sampler, n, 1)[0]


# variant: (training rule, test rule)
LEGACY_RULES: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "tsn": (_tsn_train, _tsn_test),
    "tsn_val": (_tsn_train, _tsn_val),
    "tsn_caffe_test": (_tsn_train, _caffe_test),
    "tsm_uniform": (_tsn_train, _tsn_test),
    "tsm_dense": (_window_train(whole=True), _window_test(whole=True)),
    "tsm_twice": (_tsn_train, _twice_test),
    "tam_uniform_k": (_tsn_train, _tam_uniform_test),
    "tam_dense_k": (_window_train(whole=False), _window_test(whole=False)),
    "mma_sample_frames": (_mma_train, _mma_test),
    "mma_dense": (_window_train(whole=True), _window_test(whole=True)),
    "mma_uniform": (_bins_train, _mma_uniform_test),
    "slowfast": (_slowfast_train, _slowfast_test),
    "slowfast_offset": (_slowfast_train, _slowfast_offset_test),
    "slowfast_ssv2": (_bins_train, _ssv2_test),
    "ptv_random": (_ptv_random_train, _ptv_constant_test),
    "ptv_uniform": (_ptv_drawless(_ptv_uniform_test), _ptv_uniform_test),
    "ptv_constant": (_ptv_drawless(_ptv_constant_test), _ptv_constant_test),
}
