"""The engine: frames of any number of sources in, an answer a token out.

    frames → clock → chunk → extractor → detector.step → events          an online detector, its extractor's tokens
    frames → clock → frame → network.step → mean of the last T → events   a causal TSM, a TSN

Each source has its own clock, state and events; the networks are shared: whatever sources have a token at the moment
go through them in one batch. A file gives what extraction and scoring give for it (law 3). Nothing grows: a source is
asked for its next frame when the one before is done, so a slow machine makes a live source drop frames, not queue
them. And a slot that shows the frame of the slot before costs nothing new, so that a machine too slow for the tokens'
rate falls to a lower rate of distinct frames and not behind.

Shapes: K actions (1 + K with the background), L tokens ahead, B streams that have a token at the same time.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidact.events import Detection, EventDetector
from vidact.features import FeatureExtractor, other_features
from vidact.models.online import OnlineNetwork, OnlineOutput, State, one_stream, stack_states
from vidact.models.tsm import TSM
from vidact.models.tsn import TSN
from vidact.models.weights import load, refuse_other_classes
from vidact.records import blamed
from vidact.video.clock import LONGEST_GAP_S, Chunker, Clock, Slot, refuse_gap
from vidact.video.sample import ClipSampler
from vidact.video.transform import ClipTransform, from_record, images_per_index

if TYPE_CHECKING:
    from vidact.stream.sources import Grab

log = logging.getLogger("vidact.stream")

# A live source that shows nothing for longer begins anew: what the detector remembers is no longer the past, and
# nobody sees how an open event goes on. So it ends, and is told, as soon as that is certain.
GAP_S = 5.0
# A file's picture may be meant to stand for longer; how long its pauses are filled, the features' record says, as
# extraction fills them.

# Steps a second of a recogniser whose sampler spreads its frames over a clip of any length: the rate of detectors, at
# which 8 frames cover two seconds, about what a trimmed clip of one action lasts.
STEPS_PER_SECOND = 4.0
# What a sampler's stride counts: frames of videos, whose rate no record says. It is the clock's default.
VIDEO_FPS = 24.0


@dataclass(frozen=True, eq=False)
class StreamUpdate:
    """The answer for one token of one source.

    Args:
        source: its name.
        seconds: where the token begins, in the source's own seconds; it covers ``1 / tokens_per_second``.
        scores: probabilities (1 + K,), the background first. A recogniser of clips knows no background: its first
            column is 0.
        events: the events that ended, in the source's seconds, each once.
        opened: the events that have just become certain, as they stand; each is among ``events`` later.
        future: probabilities (L, 1 + K) of later tokens where the network predicts them; ``StreamModel.future_offsets``
            says how many tokens later.
        latency_ms: from the capture of the newest frame that the answer looked at, to the answer.
        dropped: frames that the source dropped since the update before.
        image: the newest frame, uint8 RGB (H, W, 3); it may be a little newer than what was looked at.
        is_last: the source has ended, and ``events`` holds what its end closed. Of a file this is its last token's
            update. A live source, whose end nobody foresees, gives one more, which repeats the last scores.
        is_repeat: it answers no token: time and scores are those of the update before, and ``events`` holds what the
            silence of a live source, or its end, closed.
    """

    source: str
    seconds: float
    scores: np.ndarray
    events: list[Detection]
    opened: list[Detection]
    future: np.ndarray | None
    latency_ms: float
    dropped: int
    image: np.ndarray
    is_last: bool = False
    is_repeat: bool = False


# ---------------------------------------------------------------------------------------------- the model


@dataclass
class StreamModel:
    """What answers: a network that steps, what it reads, and how its scores become events. ``load_model`` makes one.

    Args:
        network: has ``initial_state(batch_size)`` and ``step(input (B, …), state) -> (OnlineOutput, state)``, the state
            a tree of tensors whose first axis is the stream.
        classes: names of the K actions.
        tokens_per_second: answers a second.
        detector: makes events of the probabilities.
        extractor: makes the network's inputs from chunks of frames; None where the network looks at frames itself.
        transform: makes its inputs from frames where there is no extractor.
        scores: "softmax" or "sigmoid", what makes probabilities of logits.
        has_background: whether output 0 is the background.
        device: of the network.
        longest_gap_s: a source that shows nothing for longer begins anew. None is what the extractor's record says for
            a file (a minute, where there is no extractor), and 5 s for a live source.
    """

    network: Any
    classes: list[str]
    tokens_per_second: float
    detector: EventDetector
    extractor: FeatureExtractor | None = None
    transform: ClipTransform | None = None
    scores: str = "softmax"
    has_background: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    longest_gap_s: float | None = None

    def __post_init__(self) -> None:
        refuse_gap(self.longest_gap_s)
        if (self.extractor is None) == (self.transform is None):
            raise ValueError("a stream's network reads either an extractor's tokens or transformed frames: give one")

    @property
    def fps(self) -> float:
        """Of the clock."""
        return self.extractor.fps if self.extractor else self.tokens_per_second

    @property
    def chunk(self) -> int:
        """Slots of the clock that make a token."""
        return self.extractor.chunk_size if self.extractor else 1

    @property
    def places(self) -> list[int]:
        """The slots of a chunk that are looked at."""
        return self.extractor.frames if self.extractor else [0]

    def filled_s(self, is_live: bool) -> float:
        """How long a pause of a source may be to be filled, in seconds."""
        if self.longest_gap_s is not None:
            return self.longest_gap_s
        if is_live:
            return GAP_S
        longest_s = self.extractor.longest_gap_s if self.extractor else LONGEST_GAP_S
        return math.inf if longest_s is None else longest_s

    @property
    def future_offsets(self) -> tuple[int, ...]:
        return tuple(getattr(self.network, "future_offsets", ()))

    def prepare(self, images: Sequence[Tensor]) -> Any:
        """What ``inputs`` takes of one token: its uint8 RGB images (3, H, W) at ``places``."""
        if self.extractor:
            return self.extractor.prepare(images)
        assert self.transform is not None
        return self.transform(torch.stack(list(images)))[0][0, 0]

    def inputs(self, prepared: Sequence[Any]) -> Tensor:
        """The network's inputs (N, …) for N tokens, which may come from several streams."""
        if not self.extractor:
            return torch.stack(list(prepared))
        size = self.extractor.batch
        return torch.cat([self.extractor.compute(prepared[i : i + size]) for i in range(0, len(prepared), size)])

    @torch.inference_mode()
    def answer(self, inputs: Tensor, state: State) -> tuple[np.ndarray, np.ndarray | None, State]:
        """Probabilities (B, 1 + K) now, (B, L, 1 + K) of later tokens or None, and the state after the token."""
        output, state = self.network.step(inputs.to(self.device), state)
        future = None if output.future is None else self._probabilities(output.future[:, 0])
        return self._probabilities(output.logits[:, 0]), future, state

    def _probabilities(self, logits: Tensor) -> np.ndarray:
        scores = logits.float().sigmoid() if self.scores == "sigmoid" else logits.float().softmax(-1)
        if not self.has_background:
            scores = F.pad(scores, (1, 0))
        return scores[..., : 1 + len(self.classes)].cpu().numpy()  # without the ambiguous class of published weights


def load_model(
    checkpoint: str | Path | nn.Module,
    *,
    extractor: str | Path | FeatureExtractor | None = None,
    steps_per_second: float | None = None,
    events: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    trust: Iterable[str] = (),
) -> StreamModel:
    """The model that a checkpoint holds, ready to stream.

    An online detector answers every token of its features, a causal TSM and a TSN every frame of a clock of
    ``steps_per_second`` by the mean of the logits of the last T frames, T being the frames of a training clip: an
    endless mean would soon change no more. Other recognisers need whole clips, and are refused.

    Args:
        checkpoint: a .ckpt or .safetensors, or a network that ``vidact.load`` gave.
        extractor: of a detector's features: a folder of features or the extractor.safetensors in it. None takes the
            one that the checkpoint carries.
        steps_per_second: of a recogniser. None asks the sampler it was trained with: frames at a stride s go 24 / s
            times a second; frames that were spread over clips of any length 4 times.
        events: what to set otherwise than the checkpoint says: on, off, smoothing, min_seconds, merge_seconds; see
            ``vidact.events.EventDetector``.
        device: where the networks run; None takes an accelerator if there is one.
        trust: packages outside vidact whose builders may run.
    """
    name = "the network" if isinstance(checkpoint, nn.Module) else str(checkpoint)
    network: Any = checkpoint if isinstance(checkpoint, nn.Module) else load(checkpoint, trust)
    record = getattr(network, "record", {})
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    device = torch.device(device)
    is_detector = isinstance(network, OnlineNetwork)
    if not is_detector:
        refuse_clips(network, name)
    if not record.get("classes"):
        raise ValueError(f"{name} does not name its classes; stream a checkpoint of a training run")
    if is_detector:
        if steps_per_second is not None:
            raise ValueError(
                f"steps_per_second is {steps_per_second:g}, but {name} answers {record['tokens_per_second']:g} tokens "
                "a second, as its features were made; leave it out"
            )
        return _detector(network, record, name, extractor, events or {}, device, trust)
    if extractor is not None:
        raise ValueError(f"{name} looks at frames itself and takes no extractor; leave it out")
    return stream_recogniser(network, record, name, steps_per_second, events or {}, device)


# What can stream, for the errors about what cannot.
STREAMING = (
    "What can: the online detectors (vidact train --config online/synthetic/miniroad, oadtr, …), TSM built and trained "
    "with shift='causal', and TSN on RGB frames. Any network with one vector a clip can make the features of a detector"
)


def refuse_clips(network: Any, name: str) -> None:
    """Raise ValueError for a recogniser that cannot step frame by frame, with what can."""
    kind = getattr(network, "recipe", {}).get("builder", type(network).__name__).rpartition(".")[2]
    if not isinstance(network, TSN | TSM):
        why = f"{kind} looks at whole clips"
    elif isinstance(network, TSM) and not network.is_causal:
        why = f"this {kind} is bidirectional, so every frame waits for later ones"
    elif (group := images_per_index(network.input)) > 1:
        why = f"this {kind} looks at {group} neighbouring frames at a time"
    else:
        return
    raise ValueError(f"{name} cannot stream: {why}. {STREAMING}")


def _detector(
    network: OnlineNetwork,
    record: Mapping[str, Any],
    name: str,
    extractor: str | Path | FeatureExtractor | None,
    events: Mapping[str, Any],
    device: torch.device,
    trust: Iterable[str],
) -> StreamModel:
    features = record.get("features") or {}
    with blamed(name):
        classes, rate = list(record["classes"]), float(record["tokens_per_second"])
    if network.num_classes < 1 + len(classes):
        raise ValueError(
            f"{name} has {network.num_classes} outputs, and its background and {len(classes)} classes need "
            f"{1 + len(classes)}"
        )
    with blamed(f"{name}: the events of its record"):
        detector = EventDetector(classes, rate, **{**(record.get("events") or {}), **events})
    carried = getattr(network, "extractor_state", {})
    if extractor is None and not carried:
        made = features.get("network", {}).get("recipe", {}).get("builder", "another program")
        raise ValueError(
            f"{name} carries no extractor, and its features were made by {made}. Give what made them: the "
            "extractor.safetensors of the folder of features. Trained on a folder that has one, a checkpoint carries it"
        )
    if extractor is None:
        with blamed(name):
            extractor = FeatureExtractor.load(features, carried, device=device, trust=trust)
    elif not isinstance(extractor, FeatureExtractor):
        extractor = FeatureExtractor.open(extractor, device=device, trust=trust)
    made_by = {"dim": network.feature_dim, "tokens_per_second": record["tokens_per_second"], **features}
    found = {"tokens_per_second": extractor.tokens_per_second, **extractor.record()}
    made_by.pop("decoder", None)  # a stream has none
    if differ := other_features(made_by, {key: found.get(key) for key in made_by}):
        raise ValueError(
            f"{name} was trained on other features than this extractor makes: {'; '.join(differ)} (the checkpoint's "
            "first). Give the extractor.safetensors of the folder it was trained on"
        )
    return StreamModel(
        network.eval().requires_grad_(False).to(device),
        classes,
        rate,
        detector,
        extractor,
        scores=record.get("scores", "softmax"),
        device=device,
    )


def stream_recogniser(
    network: Any,
    record: Mapping[str, Any],
    name: str,
    steps_per_second: float | None,
    events: Mapping[str, Any],
    device: torch.device,
) -> StreamModel:
    """The model of a network that steps frame by frame, from its record; the arguments are ``load_model``'s."""
    with blamed(f"{name}: the sampling of its record"):
        frames, rate = sampled_at(record.get("sampling"))
    rate = rate if steps_per_second is None else Clock(steps_per_second).fps
    classes = list(record["classes"])
    refuse_other_classes(classes, network.num_classes, name)
    # Its scores are means over T frames already, so they are not smoothed again.
    settings = {"on": 0.5, "smoothing": 0.0, "min_seconds": 0.5, "merge_seconds": 0.5, **events}
    return StreamModel(
        FrameMean(network.eval().requires_grad_(False).to(device), frames),
        classes,
        rate,
        EventDetector(classes, rate, **settings),
        transform=from_record(dict(record)),
        scores="sigmoid" if record.get("multi_label") else "softmax",
        has_background=False,
        device=device,
    )


def sampled_at(sampling: dict[str, Any] | None) -> tuple[int, float]:
    """Frames of a training clip and how many of them make a second, by the record of the sampler."""
    if sampling is None:
        return 8, STEPS_PER_SECOND
    sampler = ClipSampler.from_record(sampling)
    short, long = (sampler(length)[0] for length in (5_000, 10_000))
    strides = [float(np.median(np.diff(indices))) if len(indices) > 1 else 0.0 for indices in (short, long)]
    is_stride = strides[0] == strides[1] > 0  # otherwise the frames lie farther apart in a longer video
    return len(short), VIDEO_FPS / strides[0] if is_stride else STEPS_PER_SECOND


class FrameMean:
    """A recogniser that steps frame by frame (TSN, causal TSM), in the manner of an online detector.

    The answer is the mean of the logits of the last ``frames`` frames, of as many as there are at the beginning.
    """

    def __init__(self, network: Any, frames: int) -> None:
        self.network, self.frames = network, frames

    def initial_state(self, batch_size: int = 1) -> State:
        state = self.network.initial_state(batch_size)
        total = state["total"]
        return {
            "network": state,
            "recent": total.new_zeros(batch_size, self.frames, total.shape[1]),
            "count": torch.zeros(batch_size, dtype=torch.int64, device=total.device),
        }

    def step(self, frame: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """Logits (B, 1, K) after one more frame (B, C, H, W)."""
        # The network's own mean, begun anew at each frame, is that frame's logits.
        one = {key: torch.zeros_like(state["network"][key]) for key in ("total", "frames")}
        logits, after = self.network.step(frame, {**state["network"], **one})
        recent = torch.cat([state["recent"][:, 1:], logits[:, None]], 1)
        count = state["count"] + 1
        mean = recent.sum(1) / count.clamp(max=self.frames)[:, None]
        return OnlineOutput(mean[:, None]), {"network": after, "recent": recent, "count": count}


# ---------------------------------------------------------------------------------------------- streams


class _Frame(NamedTuple):
    """What the clock carries: the image (3, H, W) and when it was captured."""

    image: Tensor
    captured: float


class Stream:
    """One source's place in the engine: its clock, its state, its events. ``Streams`` steps it."""

    def __init__(self, name: str, model: StreamModel, is_live: bool, holds_back: bool) -> None:
        self.name, self.model, self.is_live, self.holds_back = name, model, is_live, holds_back
        self.dropped = 0
        self.image: np.ndarray | None = None  # the newest frame
        self.closing: list[Detection] = []  # events that ended without a token
        self.newest: StreamUpdate | None = None
        self.held: StreamUpdate | None = None  # of a file: the last one must know that it is
        self.begin()

    def begin(self) -> None:
        """Anew, as if nothing had been seen."""
        self.clock, self.chunker = Clock(self.model.fps), Chunker(self.model.chunk)
        self._forget(None)
        self.last_s = 0.0
        # complete chunks that wait; with each its take's begin where it is the first one of the take
        self.chunks: deque[tuple[list[Slot], float | None]] = deque()
        self.anew_s: float | None = None  # the begin of a take that has no chunk yet

    def _forget(self, begin_s: float | None) -> None:
        """The network and the events begin anew, at ``begin_s``; None: with the frame that comes next."""
        self.state = self.model.network.initial_state(1)
        self.event_state = self.model.detector.initial_state(self.name)
        self.begin_s = begin_s
        self.looked_at: list[Tensor] = []
        self.input: Tensor | None = None  # what the network made of them

    def push(self, grab: Grab) -> None:
        """One more frame: the chunks that it completes wait in ``chunks``."""
        image = np.asarray(grab.image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"{self.name}: a frame is a uint8 RGB array (H, W, 3); that of {grab.seconds:.3f} s is "
                f"{image.dtype} {image.shape}"
            )
        pause_s, longest_s = grab.seconds - self.last_s, self.model.filled_s(self.is_live)
        if self.begin_s is not None and (pause_s > longest_s or (self.is_live and pause_s < 0)):
            told = log.info if self.is_live else log.warning
            told("%s: nothing from %.1f s to %.1f s; it begins anew", self.name, self.last_s, grab.seconds)
            self._pause(grab.seconds)
        if self.begin_s is None:
            self.begin_s = grab.seconds
        self.last_s, self.image = grab.seconds, image
        self.dropped += grab.dropped
        tensor = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        self._chunk(self.clock.push(grab.seconds, _Frame(tensor, grab.captured)))

    def _pause(self, begin_s: float) -> None:
        """The take is over, and another begins; what the detector remembers is forgotten with the latter's first token,
        since tokens of the former may still wait."""
        self.finish()
        self.clock, self.chunker = Clock(self.model.fps), Chunker(self.model.chunk)
        self.anew_s = begin_s

    def finish(self, end_s: float | None = None) -> None:
        """No more frames come; the last one ends at ``end_s``, None where nobody knows."""
        self._chunk(self.clock.finish(end_s))

    def _chunk(self, slots: list[Slot]) -> None:
        for slot in slots:
            if chunk := self.chunker.push(slot):
                self.chunks.append((chunk, self.anew_s))
                self.anew_s = None

    def take(self) -> tuple[float, list[Tensor], float]:
        """The oldest waiting chunk: its time, the images that are looked at, when the newest of them was captured."""
        chunk, begin_s = self.chunks.popleft()
        if begin_s is not None:
            self.end_events()
            self._forget(begin_s)
        frames = [chunk[place].image for place in self.model.places]
        last = frames[-1]
        # A source that changes its size (a phone that is turned) begins with its first frame of the new one.
        alike = next(frame for frame in frames if frame.image.shape == last.image.shape)
        images = [(frame if frame.image.shape == last.image.shape else alike).image for frame in frames]
        return chunk[0].time_s, images, max(frame.captured for frame in frames)

    def sees_again(self, images: list[Tensor]) -> bool:
        """Whether these are the images of the token before: a late source's frame is shown in several slots."""
        same = self.input is not None and all(new is old for new, old in zip(images, self.looked_at, strict=True))
        self.looked_at = images
        return same

    def update(self, seconds: float, captured: float, scores: np.ndarray, future: np.ndarray | None) -> StreamUpdate:
        """The token's answer, and what it does to the events."""
        changed, self.event_state = self.model.detector.step(scores, self.event_state)
        events = self.closing + [self._placed(event) for event in changed.closed]
        opened = [self._placed(event) for event in changed.opened]
        assert self.image is not None
        latency_ms = 1000 * (time.monotonic() - captured)
        self.newest = StreamUpdate(
            self.name, seconds, scores, events, opened, future, latency_ms, self.dropped, self.image
        )
        self.closing, self.dropped = [], 0
        return self.newest

    def end_events(self) -> None:
        """What is still going on ends now."""
        self.closing += [self._placed(event) for event in self.model.detector.finish(self.event_state)]

    def repeated(self, is_last: bool) -> StreamUpdate:
        """The newest answer again, for the events that ended without one."""
        assert self.newest is not None
        image = self.newest.image if self.image is None else self.image
        again = replace(
            self.newest,
            events=self.closing,
            opened=[],
            dropped=self.dropped,
            image=image,
            is_last=is_last,
            is_repeat=True,
        )
        self.closing, self.dropped = [], 0
        return again

    def _placed(self, event: Detection) -> Detection:
        """Counted from the source's 0, not from where the stream began."""
        begin_s = self.begin_s or 0.0
        return replace(event, start_s=event.start_s + begin_s, end_s=event.end_s + begin_s) if begin_s else event


class Streams:
    """The model with any number of streams: push frames into each, take ``answers``. No thread, and no source."""

    def __init__(self, model: StreamModel) -> None:
        self.model = model
        self.streams: dict[str, Stream] = {}

    def join(self, name: str, is_live: bool = False, holds_back: bool | None = None) -> Stream:
        """A new stream; ``name`` is numbered where there is one of that name.

        Args:
            is_live: after a pause of more than 5 s, or when time goes backwards, it begins anew. A file's pauses are
                filled as extraction fills them (``StreamModel.filled_s``), and its time may not go backwards.
            holds_back: give each update when the one after it is there, so that the last one can carry ``is_last``.
                None does so for files.
        """
        number, unique = 1, name
        while unique in self.streams:
            number += 1
            unique = f"{name} ({number})"
        self.streams[unique] = Stream(unique, self.model, is_live, not is_live if holds_back is None else holds_back)
        return self.streams[unique]

    def answers(self, among: Sequence[Stream] | None = None) -> Iterator[StreamUpdate]:
        """Answer all complete tokens (of some streams), a token of every stream that has one at a time."""
        while ready := [s for s in (self.streams.values() if among is None else among) if s.chunks]:
            for stream, update in zip(ready, self._answer(ready), strict=True):
                if not stream.holds_back:
                    yield update
                    continue
                before, stream.held = stream.held, update
                if before is not None:
                    yield before

    def silence(self, stream: Stream) -> Iterator[StreamUpdate]:
        """A live source has shown nothing for too long: the events that were going on end now. It begins anew."""
        log.info("%s: nothing since %.1f s; it begins anew when something comes", stream.name, stream.last_s)
        stream.finish()
        yield from self.answers([stream])
        stream.end_events()
        if stream.closing and stream.newest is not None:
            yield stream.repeated(is_last=False)
        stream.begin()

    def leave(self, stream: Stream, end_s: float | None = None) -> Iterator[StreamUpdate]:
        """The source has ended: its last tokens, if any are complete, and the events that were going on.

        Args:
            end_s: when its last frame ends, see ``Source.end_s``.
        """
        stream.finish(end_s)
        yield from self.answers([stream])
        stream.end_events()
        del self.streams[stream.name]
        if stream.newest is None:
            log.warning(
                "%s ended after %.2f s without an answer; the first one needs %.2f s",
                stream.name,
                stream.last_s - (stream.begin_s or 0.0),
                1 / self.model.tokens_per_second,
            )
            return
        if stream.held is not None:
            yield replace(stream.held, events=stream.held.events + stream.closing, is_last=True)
        else:
            yield stream.repeated(is_last=True)

    def _answer(self, ready: list[Stream]) -> list[StreamUpdate]:
        taken = [stream.take() for stream in ready]
        fresh = [(s, images) for s, (_, images, _) in zip(ready, taken, strict=True) if not s.sees_again(images)]
        if fresh:
            inputs = self.model.inputs([self.model.prepare(images) for _, images in fresh])
            for (stream, _), one in zip(fresh, inputs, strict=True):
                stream.input = one
        given = torch.stack([stream.input for stream in ready])  # type: ignore[misc]
        # One NaN in a state would stay there, and every answer after it would be NaN.
        if not (finite := given.flatten(1).isfinite().all(1)).all():
            at = int((~finite).nonzero()[0])
            raise ValueError(
                f"{ready[at].name}: what the network is given for {taken[at][0]:.2f} s is not finite; "
                "look at the extractor's weights. The stream's state is as it was before"
            )
        alone = len(ready) == 1
        state = ready[0].state if alone else stack_states([stream.state for stream in ready])
        scores, future, state = self.model.answer(given, state)
        updates = []
        for i, (stream, (seconds, _, captured)) in enumerate(zip(ready, taken, strict=True)):
            stream.state = state if alone else one_stream(state, i)
            updates.append(stream.update(seconds, captured, scores[i], None if future is None else future[i]))
        return updates


# ---------------------------------------------------------------------------------------------- sources to updates


def run(
    source: Iterable[Grab],
    model: StreamModel | str | Path | nn.Module,
    *,
    on_frame: Callable[[str, Grab], None] | None = None,
) -> Iterator[StreamUpdate]:
    """One update for each token of a source, until it ends.

    A source that fails ends as well: its events are told, then its error is raised. A file is read in the caller's
    thread; a live source by an ``Engine``, which notices when it falls silent, and which closes it.

    Args:
        source: what ``open_source`` gave, or anything that yields ``Grab``; a file stays the caller's to close. Images
            are kept for the length of a token, so they may not be written to again.
        model: what ``load_model`` gave or takes.
        on_frame: called with the source's name and each frame, for a picture that moves between the answers.
    """
    name, is_live, holds_back = _traits(source)
    if is_live:
        yield from run_many([source], model, on_frame=on_frame)
        return
    streams = Streams(_model(model))
    stream = streams.join(name, is_live, holds_back)
    failures: list[Exception] = []
    for grab in _until_it_fails(source, failures):
        if on_frame:
            on_frame(stream.name, grab)
        try:
            stream.push(grab)
        except ValueError as error:
            failures.append(error)
            break
        yield from streams.answers()
    yield from streams.leave(stream, getattr(source, "end_s", None))
    if failures:
        raise failures[0]


def _until_it_fails(source: Iterable[Grab], failures: list[Exception]) -> Iterator[Grab]:
    try:
        yield from source
    except Exception as error:  # whatever a camera's library raises
        failures.append(error)


def run_many(
    sources: Iterable[Iterable[Grab]],
    model: StreamModel | str | Path | nn.Module,
    *,
    on_frame: Callable[[str, Grab], None] | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
) -> Iterator[StreamUpdate]:
    """The updates of several sources, answered by one batched network, until all have ended; see ``Engine``."""
    with Engine(model, on_frame=on_frame, on_error=on_error) as engine:
        for source in sources:
            engine.add(source)
        yield from engine.updates()


class Engine:
    """Several sources, each read by a thread of its own, answered by one batched network in the caller's thread.

    ``with Engine(model) as engine: engine.add(source); for update in engine.updates(): …``

    Sources may be added at any time and from any thread; one that is closed ends. Files advance together, token by
    token, in full batches; live sources wait for nobody. The events of a live source that shows nothing for 5 s end
    then, by one more update.

    Args:
        model: what ``load_model`` gave or takes.
        stays: ``updates`` goes on when no source is left, until ``close``: for servers.
        on_frame: called with the source's name and each frame.
        on_error: called with the source's name and what went wrong, when a source fails: it ends, the others go on.
            None raises the error, which ends all.
    """

    def __init__(
        self,
        model: StreamModel | str | Path | nn.Module,
        *,
        stays: bool = False,
        on_frame: Callable[[str, Grab], None] | None = None,
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self.model = _model(model)
        self.stays, self.on_frame, self.on_error = stays, on_frame, on_error
        self._streams = Streams(self.model)
        self._readers: list[_Reader] = []
        self._inbox: queue.SimpleQueue[tuple[_Reader, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, source: Iterable[Grab]) -> str:
        """Read one more source; gives the name that its updates will have."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the engine is closed; no source can be added")
            reader = _Reader(source, self._streams.join(*_traits(source)), self._inbox)
            self._readers.append(reader)
            reader.start()
        return reader.stream.name

    def updates(self) -> Iterator[StreamUpdate]:
        """An update for each token of each source."""
        while frames := self._arrived():
            ended = []
            for reader, grab in frames.items():
                if grab is _SILENCE:
                    with self._lock:
                        told = list(self._streams.silence(reader.stream))
                    yield from told
                    continue
                if grab is None or isinstance(grab, Exception):
                    ended.append((reader, grab))
                    continue
                if self.on_frame:
                    self.on_frame(reader.stream.name, grab)
                try:
                    reader.stream.push(grab)
                except ValueError as error:
                    ended.append((reader, error))
            for reader, why in ended:
                yield from self._end(reader, why)
            with self._lock:
                files = [reader for reader in self._readers if not reader.is_paced]
                complete = all(reader.stream.chunks for reader in files)
                for reader in files:  # read on while their tokens are computed
                    if complete or not reader.stream.chunks:
                        reader.ask()
                answered = None if complete else [r.stream for r in self._readers if r.is_paced]
                answers = list(self._streams.answers(answered))
            yield from answers
            for reader in frames:
                if reader.is_paced:  # now, for what is newest
                    reader.ask()

    def close(self) -> None:
        """Close all sources and end ``updates``. May be called from any thread, and twice."""
        with self._lock:
            self._is_closed = True
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.stop()
        self._inbox.put(None)
        for reader in readers:
            reader.join(timeout=2)

    def _arrived(self) -> dict[_Reader, Any]:
        """The next frame of every file, and of the live sources that have one or have fallen silent; none when there
        is nothing more."""
        frames: dict[_Reader, Any] = {}
        longest_s = min(self.model.filled_s(is_live=True), threading.TIMEOUT_MAX / 2)
        while True:
            with self._lock:
                if self._is_closed or not (self._readers or self.stays):
                    return {}
                waits = any(reader.is_asked and not reader.is_paced for reader in self._readers)
                heard = [reader for reader in self._readers if reader.is_heard() and reader not in frames]
            if self._inbox.empty():
                now = time.monotonic()
                frames |= {reader: _SILENCE for reader in heard if now - reader.asked_at > longest_s}
                if frames and not waits:
                    return frames
            # A source that has not been asked again is not silent.
            silent_at = min((reader.asked_at + longest_s for reader in heard if reader not in frames), default=None)
            try:
                left_s = None if silent_at is None else max(0.0, silent_at - time.monotonic()) + 1e-3
                arrived = self._inbox.get(timeout=left_s)
            except queue.Empty:
                continue
            if arrived is None:
                continue  # closed
            reader, grab = arrived
            reader.is_asked = False
            frames[reader] = grab

    def _end(self, reader: _Reader, why: Exception | None) -> Iterator[StreamUpdate]:
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)
            last = list(self._streams.leave(reader.stream, getattr(reader.source, "end_s", None)))
        reader.stop()
        yield from last
        if why is None:
            return
        if self.on_error is None:
            raise why
        self.on_error(reader.stream.name, why)


_SILENCE = object()  # in the place of a frame


class _Reader(threading.Thread):
    """Takes a frame from one source whenever it is asked; None is the end, an exception the reason of one."""

    def __init__(self, source: Iterable[Grab], stream: Stream, inbox: queue.SimpleQueue) -> None:
        super().__init__(name=f"vidact {stream.name}", daemon=True)
        self.source, self.stream, self.inbox = source, stream, inbox
        self.is_paced = stream.is_live or not stream.holds_back
        self.is_asked = True  # for a frame that has not come yet
        self.asked_at = time.monotonic()
        self._asked = threading.Semaphore(1)
        self._is_stopped = False

    def ask(self) -> None:
        if not self.is_asked:
            self.is_asked, self.asked_at = True, time.monotonic()
            self._asked.release()

    def is_heard(self) -> bool:
        """Whether something ends when its source, which is waited for, shows nothing more."""
        return self.is_asked and self.stream.is_live and self.stream.begin_s is not None

    def stop(self) -> None:
        """Close the source, which ends a read that waits for a frame."""
        self._is_stopped = True
        if close := getattr(self.source, "close", None):
            close()
        self._asked.release()

    def run(self) -> None:
        grabs = None
        while True:
            self._asked.acquire()
            if self._is_stopped:
                return
            grab: Any
            try:
                if grabs is None:
                    grabs = iter(self.source)
                grab = next(grabs, None)
            except Exception as error:  # whatever a camera's library raises ends this source, and is told
                grab = error
            self.inbox.put((self, grab))
            if grab is None or isinstance(grab, Exception):
                return


def _model(model: StreamModel | str | Path | nn.Module) -> StreamModel:
    return model if isinstance(model, StreamModel) else load_model(model)


def _traits(source: Iterable[Grab]) -> tuple[str, bool, bool]:
    """Name, whether it is live, and whether its updates may be held back: a file that plays as fast as it can."""
    is_live = bool(getattr(source, "is_live", False))
    return str(getattr(source, "name", "source")), is_live, not is_live and not getattr(source, "realtime", False)
