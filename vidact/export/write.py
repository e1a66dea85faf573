"""Export of networks for other runtimes: ONNX and torch.export, a whole network or one step of a stream.

A step is exported with its state as inputs and outputs, so that the graph has no memory between calls and one session
can compute any number of streams. The graph of a step in ONNX::

    feature (B, D) or frame (B, C, H, W), state.<name> …   →   logits, future where there is one, next.<name> …

``<name>`` is the path of the tensor in the network's state: ``count``, ``layers.0.keys``. The first axis of every
tensor is the stream; the number of streams is free. A ``.pt2`` of ``torch.export`` is called with (feature, state) and
returns a dict of ``logits``, ``future`` and ``state``; ``state`` is a dict by the same names. The clip length and the
size of frames are fixed in the file.

Every file contains a record as JSON (ONNX: the metadata ``vidact``, torch.export: the extra file ``vidact.json``): the
checkpoint's record (classes, input, features, events, …), and under ``export`` the kind of the graph and the names,
shapes and types of the state, with its initial values where they are not zero. An .onnx of a detector's step also
contains the graph of its feature extractor, another .onnx in base64 (the metadata ``vidact.extractor``). They are two
graphs because a token without a new frame needs only the step. So an .onnx can stream (``load_onnx``) with onnxruntime,
without the checkpoint and the network's code.

A file is published only after its outputs were compared with PyTorch's.

Shapes: B videos or streams, T frames, C channels, H x W pixels, D features, K outputs.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidact import __version__
from vidact.export.calibration import clips_of, sources_in, tokens_of
from vidact.export.formats import KINDS, SUFFIXES
from vidact.export.losses import Judge, OfClips, OfDetector, OfFeatures
from vidact.export.pixels import Normalisation
from vidact.export.quantised import MAX_LOSS, Quantised, note_on_unreadable, quantise, refuse_max_loss
from vidact.export.runtime import OnnxFrameStep, OnnxGraph, OnnxStep, load_onnx, open_onnx
from vidact.export.validation import validation
from vidact.export.videos import (
    TRACED_LENGTH,
    OfflineAnswers,
    OfflineGraph,
    facts_of,
    inside_videos,
    named,
    random_videos,
    record_with_decoding,
)
from vidact.features.extractor import FeatureExtractor, OnnxExtractor
from vidact.files import replacing
from vidact.models.backbones import Backbone
from vidact.models.clip_network import ClipNetwork, SteppingClipNetwork, VectorNetwork, is_bidirectional
from vidact.models.offline import OfflineNetwork
from vidact.models.online import OnlineNetwork, OnlineOutput, State
from vidact.models.weights import extractor_state_of, input_of, load, recipe_of, record_of
from vidact.records import FORMAT, ExportRecord, FeaturesRecord, InputRecord, Record, blamed
from vidact.runtimes.choices import TOLERANCE
from vidact.runtimes.exported import OnnxClip, OnnxOffline
from vidact.runtimes.networks import vectors_of
from vidact.runtimes.onnx_graph import (
    ONNX_LIMIT,
    OPSET,
    check_packages,
    num_bytes,
    quiet_exporters,
    save_onnx,
    trace,
)
from vidact.runtimes.steps import StepGraph, flatten, named_outputs
from vidact.stream.model import extractor_for
from vidact.video.sample import ClipSampler

ROUNDINGS = 4  # the same, as a multiple of the difference between single and double precision in PyTorch

# A size of 1 would become a constant in the graph; the check with another size shows that no size became one.
_TRACED_STREAMS, _CHECKED_STREAMS = 2, 3


@dataclass(frozen=True)
class Exported:
    """The result of ``export``: the file, and its differences from PyTorch.

    Args:
        path: the file.
        what: "clip", "step", "video" or "extractor".
        num_bytes: the size of the file.
        runs: the number of steps, or clips, that were compared.
        largest_difference: the largest difference between an output of the file and PyTorch's.
        largest_answer: PyTorch's largest output, in absolute value.
        extractor: the result for the feature extractor that the file contains, or None.
        int8: the result of its quantisation, whose loss is apart from the difference of the graph in single precision.
    """

    path: Path
    what: str
    num_bytes: int
    runs: int
    largest_difference: float
    largest_answer: float
    extractor: Exported | None = None
    int8: Quantised | None = None

    def __str__(self) -> str:
        kind = f"ONNX opset {OPSET}" if self.path.suffix == ".onnx" else "torch.export"
        lines = [f"{self.path}: {self.what}, {kind}, {self.num_bytes / 1e6:.2f} MB; {self._agreement()}"]
        if self.extractor:
            lines.append(f"with its extractor, {self.extractor.num_bytes / 1e6:.2f} MB; {self.extractor._agreement()}")
        quantised = self.int8 or (self.extractor.int8 if self.extractor else None)
        return "\n".join([*lines, *([str(quantised)] if quantised else [])])

    def _agreement(self) -> str:
        first = "in single precision, " if self.int8 else ""
        return (
            f"{first}over {self.runs} {'steps' if self.what == 'step' else 'inputs'} the largest difference from "
            f"PyTorch is {self.largest_difference:.1e}, of answers up to {self.largest_answer:.3g}"
        )


@torch.no_grad()
def export(
    checkpoint: str | Path | nn.Module | FeatureExtractor,
    out: str | Path,
    *,
    format: str | None = None,
    what: str | None = None,
    frames: int | None = None,
    extractor: str | Path | FeatureExtractor | None = None,
    runs: int | None = None,
    trust: Iterable[str] = (),
    int8: bool = False,
    calibrate: str | Path | None = None,
    max_loss: float | None = None,
    data: str | Path | None = None,
) -> Exported:
    """Write a network to an ``.onnx`` or ``.pt2`` file and compare its outputs with PyTorch's.

    Args:
        checkpoint: a .ckpt or .safetensors, a network, or, with what="extractor", also a folder of features, its
            extractor.safetensors or a ``FeatureExtractor``.
        out: the file; it ends in .onnx or .pt2. An existing file is replaced after the comparison.
        format: "onnx" or "torch"; None follows from the file's name.
        what: "clip" is a clip network's ``forward``; "step" is one step of an online detector, a causal TSM, a TSN, a
            stream MoViNet or a probe on one of them or on an image network; "video" is an offline network, for whole
            videos of any length; "extractor" is the network that makes a detector's features from prepared images. None
            is "step" for detectors, "video" for offline networks and "clip" for clip networks.
        frames: T of a clip network that accepts any; None is the number it was trained with.
        extractor: the extractor of the features, to be included in the .onnx of what reads them: a folder of features,
            its extractor.safetensors or a ``FeatureExtractor``. None is the one in the checkpoint, if there is one. A
            .pt2 cannot include one: export the extractor to a file of its own.
        runs: the number of random inputs to compare; None is 200 steps, 10 clips, 6 videos.
        trust: packages outside vidact whose builders may run.
        int8: quantise the network to whole numbers of 8 bits: a clip network, an extractor, or the extractor that the
            file of a detector contains (``vidact.export.quantised``).
        calibrate: the videos with which int8 is calibrated: a folder that is searched with its subfolders, or a file.
        max_loss: the largest loss of int8 that is accepted; None is 0.01.
        data: a folder of data with a split val, on which the loss is measured; None is that of the run to which the
            checkpoint belongs. Without one, the loss is measured on videos of ``calibrate``.

    Raises ValueError for a network that cannot be exported, where the outputs differ from PyTorch's, and where int8
    loses too much.
    """
    out = Path(out)
    format = _format(out, format)
    _check_int8(int8, format, calibrate, max_loss, data)
    if what not in (None, *KINDS):
        raise ValueError(f"what is {what!r}; it is one of {', '.join(KINDS)}")
    if runs is not None and runs < 1:
        raise ValueError(f"runs is {runs}; at least one is compared")
    if format == "onnx":
        check_packages("or export with format torch")
    job = _job(checkpoint, what, frames, trust)
    carried = _carried(job, format, extractor, trust)
    if int8:
        _refuse_steps(job, carried)
    if isinstance(carried, OnnxExtractor):  # int8 already, so there is nothing to compare with PyTorch
        job.carries, carried = carried.content, None
    with replacing(out) as half, quiet_exporters():
        if carried is None:
            result = _write(job, half, runs)
            if calibrate is not None:
                result = _quantised(result, job, half, calibrate, max_loss, job.network, checkpoint, data)
            return replace(result, path=out)
        of_extractor = _write(carried, half, min(runs or 10, 10))
        if calibrate is not None:
            of_extractor = _quantised(of_extractor, carried, half, calibrate, max_loss, job.network, checkpoint, data)
        job.carries = half.read_bytes()
        result = _write(job, half, runs)
        _refuse_other_features(half)
        return replace(result, path=out, extractor=of_extractor)


def _write(job: _Job, path: Path, runs: int | None) -> Exported:
    """Write one file and compare it; raise ValueError where its outputs differ from PyTorch's."""
    is_onnx = path.suffix == ".onnx"
    size = num_bytes(job.graph)
    if is_onnx and size + len(job.carries) * 4 / 3 > ONNX_LIMIT:
        extractor = f" and an extractor of {len(job.carries) / 2**30:.1f} GiB" if job.carries else ""
        raise ValueError(
            f"{job.name} has {size / 2**30:.1f} GiB of weights{extractor}; one ONNX file holds 2 GiB. "
            "Export it with format torch, or build it smaller"
        )
    program = job.trace()
    if is_onnx:
        metadata = {"vidact": json.dumps(job.record.to_dict())}
        if job.carries:
            metadata["vidact.extractor"] = base64.b64encode(job.carries).decode()
        advice = "export it with format torch"
        save_onnx(program, path, job.inputs, job.outputs, metadata, job.name, advice, job.free)
    else:
        program.example_inputs = None  # they would fill the file with states that no reader needs
        with path.open("wb") as file:  # a path would become the name inside the archive
            torch.export.save(program, file, extra_files={"vidact.json": json.dumps(job.record.to_dict())})
    runs = runs or {"step": 200, "video": 6}.get(job.kind, 10)
    difference, largest = job.compare(path, runs)
    # "not <=" instead of ">" refuses a NaN, too.
    if not difference <= TOLERANCE * largest and not difference <= ROUNDINGS * job.rounding(runs):
        raise ValueError(
            f"{job.name} was not exported: the file's answers differ from PyTorch's by up to {difference:.2g}, "
            f"where they are up to {largest:.3g}; please report the network's recipe"
        )
    return Exported(path, job.kind, path.stat().st_size, runs, difference, largest)


def _refuse_other_features(path: Path) -> None:
    """Raise ValueError where the features of the extractor in a file are not those of its network."""
    network: Any = open_onnx(path)
    record = network.record
    if not record.classes:
        return
    if not isinstance(network, OnnxOffline):
        load_onnx(path)
        return
    graph = network.carried()
    assert graph is not None
    extractor_for(network, record, str(path), OnnxExtractor(graph), torch.device("cpu"), (), "torch")


def _check_int8(
    int8: bool, format: str, calibrate: str | Path | None, max_loss: float | None, data: str | Path | None
) -> None:
    """Raise ValueError for arguments that do not fit together; the videos are looked for here, too."""
    if not int8:
        for name, value in (("calibrate", calibrate), ("max_loss", max_loss), ("data", data)):
            if value is not None:
                raise ValueError(f"{name} is {value} and is for int8 only; add int8, or leave {name} out")
        return
    if calibrate is None:
        raise ValueError(
            "int8 needs videos to measure the range of every layer; add calibrate, a folder of some of the videos that "
            "the network will see"
        )
    if format != "onnx":
        raise ValueError("int8 files are ONNX; choose a name that ends in .onnx, or leave int8 out")
    if max_loss is not None:
        refuse_max_loss(max_loss)
    sources_in(calibrate)


def _refuse_steps(job: _Job, carried: _Job | OnnxExtractor | None) -> None:
    """Raise ValueError for a step, which gains nothing from int8 unless its file contains an extractor."""
    if isinstance(carried, OnnxExtractor):
        raise ValueError(f"the extractor of {job.name} is int8 already; leave int8 out")
    if job.kind not in ("step", "video") or carried is not None:
        return
    if isinstance(job.network, OnlineNetwork | OfflineNetwork):
        kind = "the step of a detector" if job.kind == "step" else "an offline network"
        raise ValueError(
            f"{job.name} is {kind}, which has little to compute and gains nothing from int8; the time is in the "
            "extractor of its features, and this checkpoint carries none. Give it with extractor, or export the "
            "extractor alone: what=extractor"
        )
    raise ValueError(
        f"{job.name} is exported as a step, whose state would lose with every frame; int8 is for whole clips "
        "(what=clip) and for extractors"
    )


def _quantised(
    result: Exported,
    job: _Job,
    path: Path,
    calibrate: str | Path,
    max_loss: float | None,
    network: nn.Module,
    checkpoint: Any,
    data: str | Path | None,
) -> Exported:
    """Replace the file at ``path``, which was compared with PyTorch, by one in int8."""
    graph, normalisation = OnnxGraph(path.read_bytes(), job.name), None
    if graph.facts.kind == "clip":
        inputs = clips_of(OnnxClip(graph), calibrate)
        judges: list[Judge] = [OfClips(graph, inputs.held_out, job.record.activation)]
    else:
        extractor = OnnxExtractor(graph)
        inputs = tokens_of(extractor, calibrate, with_runs=isinstance(network, OnlineNetwork))
        if (parts := extractor.normalisation) is not None:
            normalisation = Normalisation(*(part.double().numpy() for part in parts))
        judges = [OfFeatures(graph, inputs.held_out)]
        if isinstance(network, OnlineNetwork):
            judges = [OfDetector(graph, inputs.runs, network, record_of(network).activation)]
    notes = note_on_unreadable(inputs.unreadable)
    on_data, note = validation(graph, network, checkpoint, data)
    judges += on_data
    accepted = MAX_LOSS if max_loss is None else max_loss
    quantised = quantise(graph, inputs, judges, accepted, [*notes, *note], normalisation)
    path.write_bytes(quantised.content)
    return replace(result, num_bytes=len(quantised.content), int8=quantised)


def _format(out: Path, format: str | None) -> str:
    named = {suffix: name for name, suffix in SUFFIXES.items()}.get(out.suffix)
    if format is not None and format not in SUFFIXES:
        raise ValueError(f"format is {format!r}; it is {' or '.join(SUFFIXES)}")
    if named is None or format not in (None, named):
        suffix = SUFFIXES[format] if format else " or ".join(SUFFIXES.values())
        raise ValueError(f"{out.name}: choose a name that ends in {suffix}")
    return named


# ---------------------------------------------------------------------------------------------- what is exported


@dataclass
class _Job:
    """One network to be exported."""

    kind: str
    name: str
    network: nn.Module
    graph: nn.Module  # the module that is traced; tensors and dicts of tensors are its inputs and outputs
    example: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]
    record: Record
    carries: bytes = b""  # an .onnx of the extractor, to be included
    reference: nn.Module | None = (
        None  # a module of the same inputs and outputs, where the graph is not the comparison's
    )
    free: Mapping[int, Mapping[int, str]] | None = None  # free axes besides the first, by the number of the input

    def trace(self) -> torch.export.ExportedProgram:
        return trace(self.graph, self.example, f"{self.name} cannot be exported as a {self.kind}", self.free)

    def compare(self, path: Path, runs: int) -> tuple[float, float]:
        """Return the largest difference between an output of the file and the network's, and the largest output."""
        inputs = self._noise(runs)
        if self.kind == "step":
            pairs = _steps(self.network, self._step_of(path), (token for token, *_ in inputs))
        else:
            run, network = self._forward_of(path), self.reference or self.graph
            pairs = (
                pair
                for tensors in inputs
                for pair in zip(self._counted(network, tensors), self._counted(run, tensors), strict=True)
            )
        rows = torch.tensor([[(actual - expected).abs().max(), expected.abs().max()] for expected, actual in pairs])
        difference, largest = rows.amax(0).tolist()  # a NaN in one of the outputs makes a NaN here
        return difference, largest

    def rounding(self, runs: int) -> float:
        """Return the largest difference between the network's outputs in single and in double precision.

        Deep networks with products of their own features (TEA) amplify rounding to more than ``TOLERANCE``, and no two
        programs agree better than that. 0 for a step, whose state has single precision, and for a network that can
        only compute in single precision.
        """
        if self.kind == "step":
            return 0.0
        network, largest = self.reference or self.graph, 0.0
        exact = copy.deepcopy(network).double()
        for inputs in self._noise(runs):
            wide = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
            try:
                pairs = zip(self._counted(exact, wide), self._counted(network, inputs), strict=True)
                largest = max(largest, *(float((one - other).abs().max()) for one, other in pairs))
            except RuntimeError:  # the network mixes both types
                return 0.0
        return largest

    def _counted(self, run: Callable[..., Mapping[str, Tensor]], inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Return what counts of the outputs for some inputs: of videos, nothing of their padding."""
        outputs = run(*inputs)
        if self.kind == "video":
            return list(inside_videos({name: outputs[name] for name in self.outputs}, inputs[1]))
        return [outputs[self.outputs[0]]]

    def _noise(self, runs: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the random inputs of the comparison, the same in every call; for a step, only its tokens."""
        if isinstance(self.network, OfflineNetwork) and self.kind == "video":
            yield from random_videos(self.network, runs)
            return
        generator = torch.Generator().manual_seed(0)
        like = self.example[:1] if self.kind == "step" else self.example
        for _ in range(runs):
            yield tuple(torch.randn((_CHECKED_STREAMS, *tensor.shape[1:]), generator=generator) for tensor in like)

    def _forward_of(self, path: Path) -> Callable[..., Mapping[str, Tensor]]:
        if path.suffix == ".onnx":
            graph = OnnxGraph.open(path)
            return lambda *inputs: graph.run(dict(zip(self.inputs, inputs, strict=True)))
        return torch.export.load(path).module()

    def _step_of(self, path: Path) -> tuple[State, Callable[[Tensor, State], tuple[Any, State]]]:
        """Return the state before the first token, and the step, of the file."""
        if path.suffix == ".onnx":
            opened = open_onnx(path)
            assert isinstance(opened, OnnxStep | OnnxFrameStep)
            return opened.initial_state(_CHECKED_STREAMS), opened.step
        module = torch.export.load(path).module()

        def step(token: Tensor, state: State) -> tuple[OnlineOutput, State]:
            outputs = module(token, state)
            return OnlineOutput(outputs["logits"], outputs.get("future")), outputs["state"]

        assert isinstance(self.network, OnlineNetwork | SteppingClipNetwork)
        return flatten(self.network.initial_state(_CHECKED_STREAMS)), step


def _steps(
    network: nn.Module, exported: tuple[State, Callable[[Tensor, State], tuple[Any, State]]], inputs: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of outputs, PyTorch's and the file's; each side continues from its own state.

    The last ones, of a detector with a ``delay``, are those that come after the end of the streams.
    """
    assert isinstance(network, OnlineNetwork | SteppingClipNetwork)
    state, (state_of_file, step) = network.initial_state(_CHECKED_STREAMS), exported
    token = None
    for token in inputs:
        expected, state = network.step(token, state)
        actual, state_of_file = step(token, state_of_file)
        for name, tensor in named_outputs(expected).items():
            yield tensor, named_outputs(actual)[name]
    if not isinstance(network, OnlineNetwork) or not network.delay or token is None:
        return
    state, state_of_file = network.ended(state), network.ended(state_of_file)
    for _ in range(network.delay):
        expected, state = network.step(token, state)
        actual, state_of_file = step(token, state_of_file)
        yield expected.logits, actual.logits


class _ClipGraph(nn.Module):
    """The graph of a clip network: clips → its logits by name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(clip)}


class _FeatureGraph(nn.Module):
    """The graph of an extractor: images (B, C, H, W) or clips (B, T, C, H, W) → the vectors of all networks, joined."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, first: Tensor, second: Tensor | None = None) -> dict[str, Tensor]:
        inputs = [first] if second is None else [first, second]
        pairs = zip(self.networks, inputs, strict=True)
        return {"features": torch.cat([vectors_of(network, pixels) for network, pixels in pairs], 1)}


def _job(
    checkpoint: str | Path | nn.Module | FeatureExtractor, what: str | None, frames: int | None, trust: Iterable[str]
) -> _Job:
    if frames is not None and frames < 1:
        raise ValueError(f"frames is {frames}; a clip has at least one")
    if what == "extractor" or isinstance(checkpoint, FeatureExtractor):
        if what not in (None, "extractor"):
            raise ValueError(f"what is {what!r} and the checkpoint a feature extractor; leave what out")
        if frames is not None:
            raise ValueError(f"frames is {frames}, but how many an extractor looks at is fixed; leave it out")
        return _extractor_job(_extractor(checkpoint, trust))
    network = checkpoint if isinstance(checkpoint, nn.Module) else load(checkpoint, trust)
    if network.training or any(tensor.device.type != "cpu" for tensor in network.state_dict().values()):
        network = copy.deepcopy(network).cpu().eval()
    name = type(network).__name__ if isinstance(checkpoint, nn.Module) else str(checkpoint)
    is_detector, is_offline = isinstance(network, OnlineNetwork), isinstance(network, OfflineNetwork)
    what = what or ("step" if is_detector else "video" if is_offline else "clip")
    if frames is not None and is_offline:
        raise ValueError(f"frames is {frames}, and {name} reads the features of whole videos; leave it out")
    if what == "video":
        return _video_job(network, name)
    if what == "clip" and is_offline and not is_detector:
        raise ValueError(f"{name} is an offline network, which reads whole videos and no clips: what=video")
    if what == "clip":
        if is_detector:
            raise ValueError(
                f"{name} is an online detector ({type(network).__name__}), whose clips have no fixed length; "
                "export its step: what=step"
            )
        return _clip_job(network, name, frames)
    if frames is not None:
        raise ValueError(f"frames is {frames}, but a step takes one at a time; leave it out")
    return _step_job(network, name)


def _record(network: nn.Module, kind: str, **facts: Any) -> Record:
    record, clip_input = record_of(network), input_of(network)
    return replace(
        record,
        recipe=recipe_of(network) or record.recipe,
        input=record.input if clip_input is None else clip_input.as_dict(),
        export=ExportRecord({"format": FORMAT, "what": kind, **_versions(), **facts}),
    )


def _versions() -> dict[str, str]:
    return {"vidact": __version__, "torch": torch.__version__}


def _clip_job(network: nn.Module, name: str, frames: int | None) -> _Job:
    clip_input = input_of(network)
    if clip_input is None or not isinstance(network, ClipNetwork):
        raise ValueError(
            f"{name} does not say its input, so no clip can be made for it; give a network of vidact.models"
        )
    sampling = record_of(network).sampling
    with blamed(f"{name}: the sampling of its record"):
        trained = ClipSampler.from_record(dict(sampling))(10_000).shape[-1] if sampling else None
    length = frames or clip_input.frames or trained
    if length is None:
        raise ValueError(f"{name} takes clips of any length and does not say which it was trained with; give frames")
    if clip_input.frames not in (None, length):
        raise ValueError(f"frames is {length}, and the weights of {name} are made for {clip_input.frames}")
    clip = torch.randn(_TRACED_STREAMS, length, clip_input.channels, clip_input.size, clip_input.size)
    facts = {"frames": length, "num_classes": network.num_classes}
    return _Job(
        "clip", name, network, _ClipGraph(network), (clip,), ["clip"], ["logits"], _record(network, "clip", **facts)
    )


def _video_job(network: nn.Module, name: str) -> _Job:
    if not isinstance(network, OfflineNetwork):
        raise ValueError(
            f"{name} is no offline network: {type(network).__name__} does not read the features of whole videos. What "
            "does: ActionFormer, TriDet, MS-TCN, MS-TCN++ and ASFormer; leave what out"
        )
    features = torch.randn(_TRACED_STREAMS, TRACED_LENGTH, network.feature_dim)
    lengths = torch.tensor([TRACED_LENGTH, TRACED_LENGTH // 2])
    outputs = list(named(network(features, lengths=lengths)))
    record = record_with_decoding(_record(network, "video", **facts_of(network)), network)
    return _Job(
        "video", name, network, OfflineGraph(network), (features, lengths), ["features", "lengths"], outputs, record,
        reference=OfflineAnswers(network), free={0: {1: "tokens"}},
    )  # fmt: skip


def _step_job(network: nn.Module, name: str) -> _Job:
    if is_bidirectional(network) or not isinstance(network, OnlineNetwork | SteppingClipNetwork):
        why, instead = "looks at whole clips", "clip"
        if isinstance(network, OfflineNetwork):
            why, instead = "is an offline network, whose answers depend on what comes later in the video", "video"
        elif is_bidirectional(network):
            why = "is bidirectional: every frame waits for later ones"
        raise ValueError(
            f"{name} cannot step: this {type(network).__name__} {why}. What can: online detectors, TSM built and "
            "trained with shift='causal', TSN, the stream networks of MoViNet, probes on these and on image networks; "
            f"or export with what={instead}"
        )
    if isinstance(network, OnlineNetwork):
        shape = [network.feature_dim]
    else:
        shape = [network.input.channels, network.input.size, network.input.size]
    token = torch.randn(_TRACED_STREAMS, *shape)
    state = network.initial_state(_TRACED_STREAMS)
    output, _ = network.step(token, state)  # it also computes the weight tables, which the graph will contain
    flat = flatten(state)
    facts: dict[str, Any] = {
        "input": "feature" if isinstance(network, OnlineNetwork) else "frame",
        "shape": shape,
        "outputs": list(named_outputs(output)),
        "state": [_entry(path, tensor) for path, tensor in flat.items()],
        "num_classes": network.num_classes,
    }
    if isinstance(network, OnlineNetwork):
        facts |= {
            "window": network.window,
            "future_offsets": list(network.future_offsets),
            "delay": network.delay,
        }
    return _Job(
        "step",
        name,
        network,
        StepGraph(network),
        (token, flat),
        [facts["input"], *(f"state.{path}" for path in flat)],
        [*facts["outputs"], *(f"next.{path}" for path in flat)],
        _record(network, "step", **facts),
    )


def _entry(name: str, tensor: Tensor) -> dict[str, Any]:
    """Return the record of one tensor of the state; the initial states of all streams are equal."""
    first = tensor[0]
    entry = {"name": name, "shape": list(first.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    return entry | ({"initial": first.tolist()} if first.any() else {})


def _carried(
    job: _Job, format: str, extractor: str | Path | FeatureExtractor | None, trust: Iterable[str]
) -> _Job | OnnxExtractor | None:
    """Return the export of the extractor that the file of ``job`` shall contain, if any; an int8 one as it is."""
    if extractor is None:
        if job.kind not in ("step", "video") or format != "onnx" or not extractor_state_of(job.network):
            return None
        made = _extractor(job.network, trust)
        return made if isinstance(made, OnnxExtractor) else _extractor_job(made)
    if job.kind == "extractor":
        raise ValueError("the extractor is itself what is exported; give it as the checkpoint alone")
    if not isinstance(job.network, OnlineNetwork | OfflineNetwork):
        raise ValueError(f"{job.name} looks at frames itself and takes no extractor; leave it out")
    if format != "onnx":
        raise ValueError("a .pt2 carries no extractor; leave it out here, and export it by itself: what=extractor")
    made = _extractor(extractor, trust)
    return made if isinstance(made, OnnxExtractor) else _extractor_job(made)


def _extractor(checkpoint: str | Path | nn.Module | FeatureExtractor, trust: Iterable[str]) -> FeatureExtractor:
    if isinstance(checkpoint, FeatureExtractor):
        return checkpoint
    if not isinstance(checkpoint, nn.Module):
        path = Path(checkpoint)
        if path.is_dir() or path.name == "extractor.safetensors" or path.suffix == ".onnx":
            return FeatureExtractor.open(path, device="cpu", trust=trust)
    network: Any = checkpoint if isinstance(checkpoint, nn.Module) else load(checkpoint, trust)
    tensors, features = extractor_state_of(network), record_of(network).features
    if not tensors or features is None:
        raise ValueError(
            f"{checkpoint if isinstance(checkpoint, str | Path) else type(network).__name__} carries no feature "
            "extractor; give the extractor.safetensors of a folder of features"
        )
    return FeatureExtractor.load(features, tensors, device="cpu", trust=trust)


def _extractor_job(extractor: FeatureExtractor) -> _Job:
    if isinstance(extractor, OnnxExtractor):
        raise ValueError(
            "the extractor is exported already; use its file as it is: extract features --network, stream --extractor"
        )
    networks = {part: copy.deepcopy(network).cpu() for part, network in extractor.networks.items()}
    side = max(clip_input.size for network in networks.values() if (clip_input := input_of(network)))
    black = torch.zeros(3, side, side, dtype=torch.uint8)
    inputs: list[InputRecord] = []
    example: list[Tensor] = []
    for (part, network), clip in zip(networks.items(), extractor.prepare([black] * len(extractor.frames)), strict=True):
        is_image = isinstance(network, Backbone)
        assert isinstance(network, Backbone | VectorNetwork)
        name = ("flow_" if part == "flow_network" else "") + ("images" if is_image else "clip")
        inputs.append(InputRecord(name, is_image, int(network.dim)))
        example.append(torch.randn(_TRACED_STREAMS, *(clip[0] if is_image else clip).shape))  # clip is (T, C, H, W)
    graph = _FeatureGraph(networks.values())
    facts = {"format": FORMAT, "what": "extractor", **_versions(), "dim": extractor.dim}
    facts["looks"] = [each._asdict() for each in inputs]
    return _Job(
        "extractor",
        "the extractor (" + " and ".join(type(network).__name__ for network in networks.values()) + ")",
        graph,
        graph,
        tuple(example),
        [each.input for each in inputs],
        ["features"],
        Record(features=FeaturesRecord(extractor.record()), export=ExportRecord(facts)),
    )
