"""The model of a stream, made of a checkpoint: its clock, its network step by step, and its outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidact import hub
from vidact.batch import ClipInput, probabilities
from vidact.device import best_device
from vidact.events import EventDetector
from vidact.features.extractor import FeatureExtractor
from vidact.features.record import other_features
from vidact.models.clip_network import SteppingClipNetwork, is_bidirectional
from vidact.models.offline import OfflineNetwork
from vidact.models.online import OnlineNetwork, State
from vidact.models.probe import Probe
from vidact.models.weights import extractor_state_of, load, recipe_of, record_of, refuse_other_classes
from vidact.records import FeaturesRecord, Record, blamed
from vidact.runtimes import steps
from vidact.runtimes.choices import refuse_runtime
from vidact.runtimes.networks import graph_or_none, in_onnx_by_image, quick_runtime, refuse_elsewhere, settled
from vidact.stream.grabs import GAP_S, Grab
from vidact.stream.horizon import at_horizon, refuse_horizon
from vidact.video.clock import LONGEST_GAP_S, Clock, refuse_gap
from vidact.video.sample import ClipSampler
from vidact.video.transform import ClipTransform, from_record, images_per_index

# Steps a second of a recogniser whose sampler spreads its frames over a clip of any length: the rate of detectors, at
# which 8 frames cover two seconds, about what a trimmed clip of one action lasts.
STEPS_PER_SECOND = 4.0
# A sampler's stride counts frames of videos, whose rate is not recorded. This rate is the clock's default.
VIDEO_FPS = 24.0


# ---------------------------------------------------------------------------------------------- the model


@dataclass
class StreamModel:
    """A network that steps, the preparation of its inputs and the detector of its events. ``load_model`` makes one.

    Args:
        network: has ``initial_state(batch_size)`` and ``step(input (B, …), state) -> (OnlineOutput, state)``, the state
            a tree of tensors whose first axis is the stream.
        classes: names of the K actions.
        tokens_per_second: outputs a second.
        detector: makes events of the probabilities.
        extractor: makes the network's inputs from chunks of frames; None where the network reads frames itself.
        transform: makes the network's inputs from frames where there is no extractor.
        scores: "softmax" or "sigmoid", the function that makes probabilities of logits.
        has_background: whether output 0 is the background.
        device: the device of the network.
        longest_gap_s: the stream of a source that shows nothing for longer is reset. None is the value in the
            extractor's record for a file (a minute, where there is no extractor), and 5 s for a live source.
        early: whether a token of a live source is answered as soon as the frames that the networks use are certain,
            before its chunk is full; see ``StreamUpdate.is_provisional``.
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
    early: bool = True
    _is_warm: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        refuse_gap(self.longest_gap_s)
        if (self.extractor is None) == (self.transform is None):
            raise ValueError("a stream's network reads either an extractor's tokens or transformed frames: give one")

    @property
    def fps(self) -> float:
        """The rate of the clock, in frames a second."""
        return self.extractor.fps if self.extractor else self.tokens_per_second

    @property
    def chunk(self) -> int:
        """The number of the clock's slots that make a token."""
        return self.extractor.chunk_size if self.extractor else 1

    @property
    def history(self) -> int:
        """The number of slots before a chunk that are used with it."""
        return self.extractor.history if self.extractor else 0

    @property
    def places(self) -> list[int]:
        """The slots whose frames are used, counted from the first of the chunk: negative before it."""
        return self.extractor.frames if self.extractor else [0]

    def filled_s(self, is_live: bool) -> float:
        """Return the longest pause of a source that is filled, in seconds."""
        if self.longest_gap_s is not None:
            return self.longest_gap_s
        if is_live:
            return GAP_S
        longest_s = self.extractor.longest_gap_s if self.extractor else LONGEST_GAP_S
        return math.inf if longest_s is None else longest_s

    @property
    def future_offsets(self) -> tuple[int, ...]:
        return tuple(getattr(self.network, "future_offsets", ()))

    @property
    def delay(self) -> int:
        """The tokens by which answers come late: a detector with a ``delay`` waits for that many later ones."""
        return int(getattr(self.network, "delay", 0))

    @property
    def words(self) -> str:
        """The classes and the rate of the answers, for messages."""
        late = f", each {self.delay / self.tokens_per_second:g} s late" if self.delay else ""
        return f"{len(self.classes)} classes, {self.tokens_per_second:g} answers/s{late}"

    def warm_up(self) -> None:
        """Answer a black picture of a stream of its own, once: the first calls of networks and libraries are slow.

        No other stream's state changes. A second call does nothing.
        """
        if self._is_warm:
            return
        self._is_warm = True  # a network that fails does so for each frame, and not here again
        black = torch.zeros(3, 480, 640, dtype=torch.uint8)
        self.answer(self.inputs([self.prepare([black] * len(self.places))]), self.network.initial_state(1))

    def prepare(self, images: Sequence[Tensor]) -> Any:
        """Prepare one token for ``inputs``: its uint8 RGB images (3, H, W) at ``places``."""
        if self.extractor:
            return self.extractor.prepare(images)
        assert self.transform is not None
        return self.transform(torch.stack(list(images)))[0][0, 0]

    def inputs(self, prepared: Sequence[Any]) -> Tensor:
        """Return the network's inputs (N, …) for N tokens, which may come from several streams."""
        if not self.extractor:
            return torch.stack(list(prepared))
        size = self.extractor.batch
        return torch.cat([self.extractor.compute(prepared[i : i + size]) for i in range(0, len(prepared), size)])

    @torch.inference_mode()
    def answer(self, inputs: Tensor, state: State) -> tuple[np.ndarray, np.ndarray | None, State]:
        """Return probabilities (B, 1 + K) now, (B, L, 1 + K) of later tokens or None, and the state after the token."""
        output, state = self.network.step(inputs.to(self.device), state)
        future = None if output.future is None else self._probabilities(output.future[:, 0])
        return self._probabilities(output.logits[:, 0]), future, state

    @torch.inference_mode()
    def flush(self, state: State) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the answers for the last ``delay`` tokens of one stream that ends: (delay, 1 + K), and as ``answer``
        the later tokens' (delay, L, 1 + K) or None. Those of a stream with fewer tokens are the last ones."""
        output = self.network.flush(state)
        future = None if output.future is None else self._probabilities(output.future[0])
        return self._probabilities(output.logits[0]), future

    def _probabilities(self, logits: Tensor) -> np.ndarray:
        scores = probabilities(logits, self.scores)
        if not self.has_background:
            scores = F.pad(scores, (1, 0))
        return scores[..., : 1 + len(self.classes)].cpu().numpy()  # without an ambiguous class of published weights


def load_model(
    checkpoint: str | Path | nn.Module,
    *,
    extractor: str | Path | FeatureExtractor | None = None,
    steps_per_second: float | None = None,
    events: Mapping[str, Any] | None = None,
    horizon_s: float | None = None,
    restart_s: float | None = None,
    device: str | torch.device | None = None,
    trust: Iterable[str] = (),
    runtime: str = "auto",
) -> StreamModel:
    """Return the model that a checkpoint holds, ready to stream.

    An online detector has an output for every token of its features. A recogniser that steps frame by frame (TSN,
    causal TSM, a stream MoViNet, a probe on one of these or on an image network) has one for every frame of a clock of
    ``steps_per_second``. It is about the last T frames, T being the frames of a training clip, since a mean over a
    whole stream would soon stop changing; see ``vidact.stream.horizon``. Other recognisers need whole clips and are
    refused.

    Args:
        checkpoint: what ``vidact.load`` opens, or a network that it returned.
        extractor: makes a detector's features: a folder of features or the extractor.safetensors in it. None takes
            the one that the checkpoint carries.
        steps_per_second: the rate of a recogniser. None takes it from the sampler of the training: frames at a stride s
            go 24 / s times a second; frames that were spread over clips of any length at the rate of the network's
            published weights (MoViNet: 5), else 4 times.
        events: settings that replace those of the checkpoint: on, off, smoothing, min_seconds, merge_seconds; see
            ``vidact.events.EventDetector``.
        horizon_s: the seconds that an answer of a recogniser is about; inf: all since the beginning, which is the rule
            that its weights are published with. None: as many steps as a training clip has frames.
        restart_s: the seconds after which a recogniser starts anew, instead of ``horizon_s``.
        device: where the networks run; None takes an accelerator if there is one.
        trust: packages outside vidact whose builders may run.
        runtime: the runtime of a detector's extractor, which has nearly all of its cost, and of the image network of a
            TSN or of a probe on one or on an image network: "torch"; "onnx", which is ONNX Runtime on the CPU; or
            "auto", the one that the detector's or the probe's features were made in, else onnx on a CPU. The step of a
            large detector runs in the runtime of its extractor; those of small ones and of other recognisers run in
            PyTorch, and ``vidact.export`` writes them as ONNX.
    """
    refuse_runtime(runtime)
    name = "the network" if isinstance(checkpoint, nn.Module) else hub.text_of(checkpoint)
    refuse_horizon(horizon_s, restart_s)  # before anything is downloaded
    published = None if isinstance(checkpoint, nn.Module) else hub.named(checkpoint)
    if published is not None and not published.streams:
        raise ValueError(f"{name} cannot stream: {published.network} looks at whole clips. {STREAMING}")
    network: Any = checkpoint if isinstance(checkpoint, nn.Module) else load(checkpoint, trust)
    record = record_of(network)
    device = best_device() if device is None else torch.device(device)
    is_detector = isinstance(network, OnlineNetwork)
    if not is_detector:
        refuse_clips(network, name)
    if not record.classes:
        raise ValueError(f"{name} does not name its classes; stream a checkpoint of a training run")
    if is_detector:
        if steps_per_second is not None:
            raise ValueError(
                f"steps_per_second is {steps_per_second:g}, but {name} answers {record.tokens_per_second or 0:g} "
                "tokens a second, as its features were made; leave it out"
            )
        if horizon_s is not None or restart_s is not None:
            raise ValueError(f"{name} is a detector, whose memory was trained; leave horizon_s and restart_s out")
        return _detector(network, record, name, extractor, events or {}, device, trust, runtime)
    if extractor is not None:
        raise ValueError(f"{name} looks at frames itself and takes no extractor; leave it out")
    network = _recogniser_in(network, record, name, runtime, device)
    return stream_recogniser(network, record, name, steps_per_second, events or {}, horizon_s, restart_s, device)


def _recogniser_in(network: Any, record: Record, name: str, runtime: str, device: torch.device) -> Any:
    """Return a recogniser that runs in a runtime as far as its step can."""
    if runtime == "onnx":
        refuse_elsewhere(device)
    earlier = record.runtime or ("torch" if isinstance(network, Probe) else None)
    chosen = settled(runtime, earlier, quick_runtime([network], device))
    if chosen == "torch" or device.type != "cpu":
        return network
    quick = graph_or_none(lambda: in_onnx_by_image(network.eval()), is_required=runtime == "onnx")
    if quick is None and runtime == "onnx":
        raise ValueError(
            f"{name} is a recogniser, whose step runs in PyTorch; leave runtime out, or write its step as ONNX and "
            f"stream the file: vidact export --checkpoint {name} --what step --out step.onnx"
        )
    return network if quick is None else quick


# The networks that can stream, for the errors about those that cannot.
STREAMING = (
    "What can: the online detectors (vidact train --config online/synthetic/miniroad, oadtr, …), TSM built and trained "
    "with shift='causal', TSN on RGB frames, the stream networks of MoViNet (--checkpoint movinet_a0_stream needs "
    "no training), and probes on these and on image networks with any head but attentive. Any network with one vector "
    "a clip can make the features of a detector"
)


def refuse_clips(network: Any, name: str) -> None:
    """Raise ValueError for a recogniser that cannot step frame by frame; the message names those that can."""
    recipe = recipe_of(network)
    kind = type(network).__name__ if recipe is None else recipe["builder"].rpartition(".")[2]
    if isinstance(network, Probe):
        trunk = recipe_of(network.trunk)
        kind += f" on {type(network.trunk).__name__ if trunk is None else trunk['builder'].rpartition('.')[2]}"
    if isinstance(network, OfflineNetwork):
        why = f"{kind} is an offline network, whose answers depend on what comes later in the video"
    elif not isinstance(network, SteppingClipNetwork):
        why = f"{kind} looks at whole clips"
    elif is_bidirectional(network):
        why = f"this {kind} is bidirectional, so every frame waits for later ones"
    elif (group := images_per_index(network.input)) > 1:
        why = f"this {kind} looks at {group} neighbouring frames at a time"
    else:
        return
    raise ValueError(f"{name} cannot stream: {why}. {STREAMING}")


def _detector(
    network: OnlineNetwork,
    record: Record,
    name: str,
    extractor: str | Path | FeatureExtractor | None,
    events: Mapping[str, Any],
    device: torch.device,
    trust: Iterable[str],
    runtime: str,
) -> StreamModel:
    with blamed(name):
        record.require("tokens_per_second")
    classes, rate = list(record.classes), float(record.tokens_per_second or 0)
    if network.num_classes < 1 + len(classes):
        raise ValueError(
            f"{name} has {network.num_classes} outputs, and its background and {len(classes)} classes need "
            f"{1 + len(classes)}"
        )
    with blamed(f"{name}: the events of its record"):
        detector = EventDetector(classes, rate, **{**(record.events or {}), **events})
    opened = extractor_for(network, record, name, extractor, device, trust, runtime)
    network = network.eval().requires_grad_(False).to(device)
    return StreamModel(
        network if runtime == "torch" or opened.runtime == "torch" else _detector_in_onnx(network, name, device),
        classes,
        rate,
        detector,
        opened,
        scores=record.activation,
        device=device,
    )


def extractor_for(
    network: Any,
    record: Record,
    name: str,
    extractor: str | Path | FeatureExtractor | None,
    device: torch.device,
    trust: Iterable[str],
    runtime: str,
) -> FeatureExtractor:
    """Return the extractor of a network that reads features: ``extractor``, or the one that its checkpoint carries.

    Raises ValueError where there is none, and for one that makes other features than the network was trained on.
    """
    features, carried = record.features or FeaturesRecord({}), extractor_state_of(network)
    if extractor is None and not carried:
        maker = features.builder or "another program"
        raise ValueError(
            f"{name} carries no extractor, and its features were made by {maker}. Give what made them: the "
            "extractor.safetensors of the folder of features. Trained on a folder that has one, a checkpoint carries it"
        )
    if extractor is None:
        with blamed(name):
            extractor = FeatureExtractor.load(features, carried, device=device, trust=trust)
    elif not isinstance(extractor, FeatureExtractor):
        extractor = FeatureExtractor.open(extractor, device=device, trust=trust)
    if runtime != extractor.runtime == "torch":
        extractor.run_in(runtime, features.runtime)
    made_by = {"dim": network.feature_dim, "tokens_per_second": record.tokens_per_second, **features}
    extractor_record = {"tokens_per_second": extractor.tokens_per_second, **extractor.record()}
    made_by.pop("decoder", None)  # a stream has no decoder
    compared = (*made_by, "runtime", "runtime_check", "int8")
    if differ := other_features(made_by, {key: extractor_record.get(key) for key in compared}):
        raise ValueError(
            f"{name} was trained on other features than this extractor makes: {'; '.join(differ)} (the checkpoint's "
            "first). Give the extractor.safetensors of the folder it was trained on"
        )
    return extractor


def _detector_in_onnx(network: OnlineNetwork, name: str, device: torch.device) -> OnlineNetwork:
    """Return a large detector on a CPU with its step in ONNX Runtime, where it can be a graph; others as they are."""
    size = sum(parameter.numel() for parameter in network.parameters())
    if device.type != "cpu" or size < steps.LEAST_STEP_PARAMETERS:
        return network
    return graph_or_none(lambda: steps.step_in_onnx(network, name), is_required=False) or network


def stream_recogniser(
    network: Any,
    record: Record,
    name: str,
    steps_per_second: float | None,
    events: Mapping[str, Any],
    horizon_s: float | None,
    restart_s: float | None,
    device: torch.device,
) -> StreamModel:
    """Return the model of a network that steps frame by frame, from its record; the arguments are ``load_model``'s."""
    with blamed(f"{name}: the sampling of its record"):
        frames, rate = sampled_at(record.sampling, network.input)
    rate = rate if steps_per_second is None else Clock(steps_per_second).fps
    classes = list(record.classes)
    refuse_other_classes(classes, network.num_classes, name)
    stepping = at_horizon(network.eval().requires_grad_(False).to(device), name, rate, frames, horizon_s, restart_s)
    # Its scores are means over T frames already, so they are not smoothed again.
    settings = {"on": 0.5, "smoothing": 0.0, "min_seconds": 0.5, "merge_seconds": 0.5, **events}
    return StreamModel(
        stepping,
        classes,
        rate,
        EventDetector(classes, rate, **settings),
        transform=from_record(record),
        scores=record.activation,
        has_background=False,
        device=device,
    )


def sampled_at(sampling: Mapping[str, Any] | None, clip_input: ClipInput | None = None) -> tuple[int, float]:
    """Return the frames of a training clip and how many of them make a second, by the record of the sampler.

    Where that does not determine them, they are those of the network's published weights (``clip_input``), if any.
    """
    published = None if clip_input is None else clip_input.published_frames
    rate = (clip_input.fps if clip_input else None) or STEPS_PER_SECOND
    if sampling is None:
        return published or 8, rate
    sampler = ClipSampler.from_record(dict(sampling))
    short, long = (sampler(length)[0] for length in (5_000, 10_000))
    strides = [float(np.median(np.diff(indices))) if len(indices) > 1 else 0.0 for indices in (short, long)]
    is_stride = strides[0] == strides[1] > 0  # otherwise the frames lie farther apart in a longer video
    return len(short), VIDEO_FPS / strides[0] if is_stride else rate


def model_of(model: StreamModel | str | Path | nn.Module) -> StreamModel:
    return model if isinstance(model, StreamModel) else load_model(model)


def traits_of(source: Iterable[Grab]) -> tuple[str, bool, bool]:
    """Return the name, whether it is live, and whether its updates may be held back, as those of an unpaced file."""
    is_live = bool(getattr(source, "is_live", False))
    return str(getattr(source, "name", "source")), is_live, not is_live and not getattr(source, "realtime", False)
