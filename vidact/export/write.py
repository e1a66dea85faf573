"""Networks for other runtimes: ONNX and torch.export, a whole clip network or one step of a stream.

A step is exported with its state as inputs and outputs, so that the file keeps nothing between calls and one session
serves any number of streams. The graph of a step in ONNX::

    feature (B, D) or frame (B, C, H, W), state.<name> …   →   logits, future where there is one, next.<name> …

``<name>`` is the way to the tensor in the network's state: ``count``, ``layers.0.keys``. The first axis of everything
is the stream, of any number. A ``.pt2`` of ``torch.export`` is called with (feature, state) and returns a dict of
``logits``, ``future`` and ``state``; ``state`` is a dict by the same names. The clip length and the size of frames are
fixed in the file.

Every file carries what vidact knows of the network as JSON (ONNX: the metadata ``vidact``, torch.export: the extra file
``vidact.json``): the checkpoint's record (classes, input, features, events, …) and under ``export`` what the file is,
with the state's names, shapes, types and, where it is not zero, what it begins with. An .onnx of a detector's step also
carries the graph of its feature extractor, a whole .onnx of its own in base64 (the metadata ``vidact.extractor``): two
graphs, because a token that shows nothing new needs the step alone. So an .onnx streams by itself (``load_onnx``), with
onnxruntime and neither the checkpoint nor the network's code.

A file is written only if its answers are PyTorch's.

Shapes: B videos or streams, T frames, C channels, H x W pixels, D features, K outputs.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidact import __version__
from vidact.export.formats import KINDS, SUFFIXES
from vidact.export.runtime import OnnxGraph, load_onnx, open_onnx
from vidact.features.extractor import FeatureExtractor
from vidact.files import replacing
from vidact.models.attention import WeightTables
from vidact.models.backbones import Backbone
from vidact.models.online import OnlineNetwork, OnlineOutput, State, map_state
from vidact.models.weights import extractor_state_of, input_of, load, recipe_of, record_of
from vidact.records import FORMAT, Record, blamed
from vidact.text.packages import how_to_install
from vidact.video.sample import ClipSampler

OPSET = 18  # what PyTorch's exporter writes without converting; onnxruntime reads it from 1.14 on
TOLERANCE = 1e-4  # of the largest answer
ROUNDINGS = 4  # times what single precision itself takes the network's answers away from double precision's
ONNX_LIMIT = 2**31 - 2**24  # bytes of a file, some left for the graph: protobuf ends at 2 GiB

# Tracing takes a size of 1 for a constant, and checking with another size shows that nothing else did either.
_TRACED_STREAMS, _CHECKED_STREAMS = 2, 3


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it comes to PyTorch.

    Args:
        path: the file.
        what: "clip", "step" or "extractor".
        num_bytes: size of the file.
        runs: steps, or clips, that were compared.
        largest_difference: between an answer of the file and PyTorch's.
        largest_answer: of PyTorch's, in absolute value.
        extractor: the same of the feature extractor that the file carries, or None.
    """

    path: Path
    what: str
    num_bytes: int
    runs: int
    largest_difference: float
    largest_answer: float
    extractor: Exported | None = None

    def __str__(self) -> str:
        kind = f"ONNX opset {OPSET}" if self.path.suffix == ".onnx" else "torch.export"
        lines = [f"{self.path}: {self.what}, {kind}, {self.num_bytes / 1e6:.2f} MB; {self._agreement()}"]
        if self.extractor:
            lines.append(f"with its extractor, {self.extractor.num_bytes / 1e6:.2f} MB; {self.extractor._agreement()}")
        return "\n".join(lines)

    def _agreement(self) -> str:
        return (
            f"over {self.runs} {'steps' if self.what == 'step' else 'inputs'} the largest difference from PyTorch is "
            f"{self.largest_difference:.1e}, of answers up to {self.largest_answer:.3g}"
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
) -> Exported:
    """Write a network to an ``.onnx`` or ``.pt2`` file, whose answers have been compared with PyTorch's.

    Args:
        checkpoint: a .ckpt or .safetensors, a network, or, with what="extractor", also a folder of features, its
            extractor.safetensors or a ``FeatureExtractor``.
        out: the file; it ends in .onnx or .pt2. One that exists is replaced when the new one is right.
        format: "onnx" or "torch"; None goes by the file's name.
        what: "clip" is a clip network's ``forward``; "step" one step of an online detector, a causal TSM or a TSN;
            "extractor" the network that makes a detector's features, from its prepared images. None is "step" for
            detectors and "clip" for clip networks.
        frames: T of a clip network that takes any; None is as many as it was trained with.
        extractor: what makes a detector's features, for its .onnx to carry: a folder of features, its
            extractor.safetensors or a ``FeatureExtractor``. None takes the one in the checkpoint; where there is
            none, the file has none either. A .pt2 carries none: export it by itself.
        runs: random inputs to compare; None is 200 steps, 10 clips.
        trust: packages outside vidact whose builders may run.
    """
    out = Path(out)
    format = _format(out, format)
    if what not in (None, *KINDS):
        raise ValueError(f"what is {what!r}; it is one of {', '.join(KINDS)}")
    if runs is not None and runs < 1:
        raise ValueError(f"runs is {runs}; at least one is compared")
    if format == "onnx":
        _check_packages()
    job = _job(checkpoint, what, frames, trust)
    carried = _carried(job, format, extractor, trust)
    with replacing(out) as half, _quiet():
        if carried is None:
            return replace(_write(job, half, runs), path=out)
        with_it = _write(carried, half, min(runs or 10, 10))
        job.carries = half.read_bytes()
        done = _write(job, half, runs)
        if job.record.classes:
            load_onnx(half)  # raises where the features are others than the detector's
        return replace(done, path=out, extractor=with_it)


def _write(job: _Job, path: Path, runs: int | None) -> Exported:
    """One file, compared; raises where its answers are others than PyTorch's."""
    is_onnx = path.suffix == ".onnx"
    size = sum(tensor.numel() * tensor.element_size() for tensor in job.graph.state_dict().values())
    if is_onnx and size + len(job.carries) * 4 / 3 > ONNX_LIMIT:
        extractor = f" and an extractor of {len(job.carries) / 2**30:.1f} GiB" if job.carries else ""
        raise ValueError(
            f"{job.name} has {size / 2**30:.1f} GiB of weights{extractor}; one ONNX file holds 2 GiB. "
            "Export it with format torch, or build it smaller"
        )
    program = job.trace()
    if is_onnx:
        _save_onnx(program, job, path)
    else:
        program.example_inputs = None  # whole states, which nobody needs
        with path.open("wb") as file:  # given a path, it would call the archive by that name
            torch.export.save(program, file, extra_files={"vidact.json": json.dumps(job.record.to_dict())})
    runs = runs or (200 if job.what == "step" else 10)
    difference, answer = job.compare(path, runs)
    if not difference <= TOLERANCE * answer and not difference <= ROUNDINGS * job.rounding(runs):  # NaN is refused too
        raise ValueError(
            f"{job.name} was not exported: the file's answers differ from PyTorch's by up to {difference:.2g}, "
            f"where they are up to {answer:.3g}; please report the network's recipe"
        )
    return Exported(path, job.what, path.stat().st_size, runs, difference, answer)


def _format(out: Path, format: str | None) -> str:
    named = {suffix: name for name, suffix in SUFFIXES.items()}.get(out.suffix)
    if format is not None and format not in SUFFIXES:
        raise ValueError(f"format is {format!r}; it is {' or '.join(SUFFIXES)}")
    if named is None or format not in (None, named):
        wanted = SUFFIXES[format] if format else " or ".join(SUFFIXES.values())
        raise ValueError(f"{out.name}: choose a name that ends in {wanted}")
    return named


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX files are written by onnx and onnxscript and compared by onnxruntime, and {error.name} is missing: "
            f"{how_to_install('onnx', 'onnxruntime', 'onnxscript')}; or export with format torch"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters speak of their own insides on every channel; what matters is compared or raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# ---------------------------------------------------------------------------------------------- what is exported


@dataclass
class _Job:
    """One network on its way into a file."""

    what: str
    name: str
    network: nn.Module
    graph: nn.Module  # what is traced: plain tensors and dicts of them in and out
    example: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]
    record: Record
    carries: bytes = b""  # an .onnx of the extractor

    def trace(self) -> torch.export.ExportedProgram:
        batch = torch.export.Dim("batch")
        shapes = tuple(map_state(lambda _: {0: batch}, one) for one in self.example)  # type: ignore[arg-type,return-value]
        with contextlib.ExitStack() as stack:
            for module in self.network.modules():
                for value in vars(module).values():
                    if isinstance(value, WeightTables):  # computed by the example's run
                        stack.enter_context(value.fixed())
            try:
                program = torch.export.export(self.graph, self.example, dynamic_shapes=shapes, strict=False)
            except Exception as error:  # whatever a network does that a graph cannot hold, in torch's many ways
                words = str(error).strip().splitlines()
                raise ValueError(
                    f"{self.name} cannot be exported as a {self.what}: torch.export says "
                    f"{type(error).__name__}: {words[0] if words else ''}"
                ) from error
        for graph in program.graph_module.modules():
            for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # lines of files on this machine
        return program

    def compare(self, path: Path, runs: int) -> tuple[float, float]:
        """The largest difference between the file's answers and the network's, and the largest answer."""
        inputs = self._noise(runs)
        if self.what == "step":
            pairs = _steps(self.network, self._step_of(path), (token for token, *_ in inputs))
        else:
            run, name = self._forward_of(path), self.outputs[0]
            pairs = ((self.graph(*one)[name], run(*one)[name]) for one in inputs)
        largest = torch.tensor([[(actual - expected).abs().max(), expected.abs().max()] for expected, actual in pairs])
        difference, answer = largest.amax(0).tolist()  # NaN, where there is one
        return difference, answer

    def rounding(self, runs: int) -> float:
        """The largest difference that single precision makes to the network's answers.

        Deep networks with products of their own features (TEA) amplify it to more than ``TOLERANCE``, and no two
        programs agree better than that. 0 for a step, whose state is of single precision, and for a network that
        computes in single precision alone.
        """
        if self.what == "step":
            return 0.0
        exact, name, largest = copy.deepcopy(self.graph).double(), self.outputs[0], 0.0
        for inputs in self._noise(runs):
            try:
                difference = exact(*(one.double() for one in inputs))[name] - self.graph(*inputs)[name]
            except RuntimeError:  # operands of two types
                return 0.0
            largest = max(largest, float(difference.abs().max()))
        return largest

    def _noise(self, runs: int) -> Iterator[tuple[Tensor, ...]]:
        """The random inputs that answers are compared on, the same in every call; of a step, the tokens."""
        generator = torch.Generator().manual_seed(0)
        like = self.example[:1] if self.what == "step" else self.example
        for _ in range(runs):
            yield tuple(torch.randn((_CHECKED_STREAMS, *one.shape[1:]), generator=generator) for one in like)

    def _forward_of(self, path: Path) -> Callable[..., Mapping[str, Tensor]]:
        if path.suffix == ".onnx":
            graph = OnnxGraph.open(path)
            return lambda *inputs: graph.run(dict(zip(self.inputs, inputs, strict=True)))
        return torch.export.load(path).module()

    def _step_of(self, path: Path) -> tuple[State, Callable[[Tensor, State], tuple[Any, State]]]:
        """The state before the first token, and the step."""
        if path.suffix == ".onnx":
            opened: Any = open_onnx(path)
            return opened.initial_state(_CHECKED_STREAMS), opened.step
        module = torch.export.load(path).module()

        def step(token: Tensor, state: State) -> tuple[OnlineOutput, State]:
            answers = module(token, state)
            return OnlineOutput(answers["logits"], answers.get("future")), answers["state"]

        return flatten(self.network.initial_state(_CHECKED_STREAMS)), step  # type: ignore[operator]


def _steps(
    network: Any, exported: tuple[State, Callable[[Tensor, State], tuple[Any, State]]], inputs: Iterable[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of answers, PyTorch's first, each side going on from its own state."""
    state, (other, step) = network.initial_state(_CHECKED_STREAMS), exported
    for token in inputs:
        expected, state = network.step(token, state)
        actual, other = step(token, other)
        for name, answer in _named(expected).items():
            yield answer, _named(actual)[name]


def _named(answer: OnlineOutput | Tensor) -> dict[str, Tensor]:
    """What a step answers: a detector's output, or a clip network's logits."""
    if isinstance(answer, Tensor):
        return {"logits": answer}
    return {"logits": answer.logits} | ({} if answer.future is None else {"future": answer.future})


def flatten(state: State, name: str = "") -> dict[str, Tensor]:
    """The tensors of a state by the way to them: ``count``, ``layers.0.keys``."""
    if isinstance(state, Tensor):
        return {name: state}
    parts = state.items() if isinstance(state, dict) else enumerate(state)
    return {
        way: tensor
        for key, part in parts
        for way, tensor in flatten(part, f"{name}.{key}" if name else str(key)).items()
    }


class _StepGraph(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.tree = network.initial_state(1)

    def forward(self, token: Tensor, state: dict[str, Tensor]) -> dict[str, Any]:
        names = iter(flatten(self.tree))
        answer, after = self.network.step(token, map_state(lambda _: state[next(names)], self.tree))
        return {**_named(answer), "state": flatten(after)}


class _ClipGraph(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(clip)}


class _FeatureGraph(nn.Module):
    """What an extractor's networks make of images (B, C, H, W) or clips (B, T, C, H, W), side by side."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, first: Tensor, second: Tensor | None = None) -> dict[str, Tensor]:
        inputs = [first] if second is None else [first, second]
        looks: Any = zip(self.networks, inputs, strict=True)
        vectors = [net(seen) if isinstance(net, Backbone) else net.features(seen) for net, seen in looks]
        return {"features": torch.cat(vectors, 1)}


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
    network: Any = checkpoint if isinstance(checkpoint, nn.Module) else load(checkpoint, trust)
    if network.training or any(tensor.device.type != "cpu" for tensor in network.state_dict().values()):
        network = copy.deepcopy(network).cpu().eval()
    name = type(network).__name__ if isinstance(checkpoint, nn.Module) else str(checkpoint)
    is_detector = isinstance(network, OnlineNetwork)
    what = what or ("step" if is_detector else "clip")
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


def _record(network: nn.Module, what: str, **facts: Any) -> Record:
    record, clip_input = record_of(network), input_of(network)
    return replace(
        record,
        recipe=recipe_of(network) or record.recipe,
        input=record.input if clip_input is None else clip_input.as_dict(),
        export={"format": FORMAT, "what": what, **_versions(), **facts},
    )


def _versions() -> dict[str, str]:
    return {"vidact": __version__, "torch": torch.__version__}


def _clip_job(network: Any, name: str, frames: int | None) -> _Job:
    taken = input_of(network)
    if taken is None:
        raise ValueError(
            f"{name} does not say its input, so no clip can be made for it; give a network of vidact.models"
        )
    sampling = record_of(network).sampling
    with blamed(f"{name}: the sampling of its record"):
        trained = ClipSampler.from_record(dict(sampling))(10_000).shape[-1] if sampling else None
    length = frames or taken.frames or trained
    if length is None:
        raise ValueError(f"{name} takes clips of any length and does not say which it was trained with; give frames")
    if taken.frames not in (None, length):
        raise ValueError(f"frames is {length}, and the weights of {name} are made for {taken.frames}")
    clip = torch.randn(_TRACED_STREAMS, length, taken.channels, taken.size, taken.size)
    facts = {"frames": length, "num_classes": network.num_classes}
    return _Job(
        "clip", name, network, _ClipGraph(network), (clip,), ["clip"], ["logits"], _record(network, "clip", **facts)
    )


def _step_job(network: Any, name: str) -> _Job:
    if not hasattr(network, "step") or getattr(network, "is_causal", True) is False:
        waits = hasattr(network, "step")  # a bidirectional TSM
        why = "is bidirectional: every frame waits for later ones" if waits else "looks at whole clips"
        raise ValueError(
            f"{name} cannot step: this {type(network).__name__} {why}. What can: online detectors, TSM built and "
            "trained with shift='causal', TSN; or export with what=clip"
        )
    is_detector = isinstance(network, OnlineNetwork)
    shape = [network.feature_dim] if is_detector else [network.input.channels, *[network.input.size] * 2]
    token = torch.randn(_TRACED_STREAMS, *shape)
    state = network.initial_state(_TRACED_STREAMS)
    answer, _ = network.step(token, state)  # also computes the weight tables that the graph will hold
    flat = flatten(state)
    facts = {
        "input": "feature" if is_detector else "frame",
        "shape": shape,
        "outputs": list(_named(answer)),
        "state": [_entry(way, tensor) for way, tensor in flat.items()],
        "num_classes": network.num_classes,
    }
    if is_detector:
        facts |= {"window": network.window, "future_offsets": list(network.future_offsets)}
    return _Job(
        "step",
        name,
        network,
        _StepGraph(network),
        (token, flat),
        [facts["input"], *(f"state.{way}" for way in flat)],
        [*facts["outputs"], *(f"next.{way}" for way in flat)],
        _record(network, "step", **facts),
    )


def _entry(name: str, tensor: Tensor) -> dict[str, Any]:
    """What the record says of one tensor of the state; the streams begin alike."""
    first = tensor[0]
    entry = {"name": name, "shape": list(first.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    return entry | ({"initial": first.tolist()} if first.any() else {})


def _carried(
    job: _Job, format: str, extractor: str | Path | FeatureExtractor | None, trust: Iterable[str]
) -> _Job | None:
    """The extractor that the file of ``job`` is to carry, if any."""
    if extractor is None:
        if job.what != "step" or format != "onnx" or not extractor_state_of(job.network):
            return None
        return _extractor_job(_extractor(job.network, trust))
    if job.what == "extractor":
        raise ValueError("the extractor is itself what is exported; give it as the checkpoint alone")
    if not isinstance(job.network, OnlineNetwork):
        raise ValueError(f"{job.name} looks at frames itself and takes no extractor; leave it out")
    if format != "onnx":
        raise ValueError("a .pt2 carries no extractor; leave it out here, and export it by itself: what=extractor")
    return _extractor_job(_extractor(extractor, trust))


def _extractor(checkpoint: str | Path | nn.Module | FeatureExtractor, trust: Iterable[str]) -> FeatureExtractor:
    if isinstance(checkpoint, FeatureExtractor):
        return checkpoint
    if not isinstance(checkpoint, nn.Module):
        path = Path(checkpoint)
        if path.is_dir() or path.name == "extractor.safetensors":
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
    networks: dict[str, Any] = {part: copy.deepcopy(one).cpu() for part, one in extractor.networks.items()}
    side = max(network.input.size for network in networks.values())
    black = torch.zeros(3, side, side, dtype=torch.uint8)
    looks: list[dict[str, Any]] = []
    example: list[Tensor] = []
    for (part, network), clip in zip(networks.items(), extractor.prepare([black] * len(extractor.frames)), strict=True):
        is_image = isinstance(network, Backbone)
        name = ("flow_" if part == "flow_network" else "") + ("images" if is_image else "clip")
        looks.append({"input": name, "is_image": is_image, "dim": int(network.dim)})
        example.append(torch.randn(_TRACED_STREAMS, *(clip[0] if is_image else clip).shape))  # clip is (T, C, H, W)
    graph = _FeatureGraph(networks.values())
    facts = {"format": FORMAT, "what": "extractor", **_versions(), "dim": extractor.dim, "looks": looks}
    return _Job(
        "extractor",
        "the extractor (" + " and ".join(type(network).__name__ for network in networks.values()) + ")",
        graph,
        graph,
        tuple(example),
        [look["input"] for look in looks],
        ["features"],
        Record(features=extractor.record(), export=facts),
    )


def _save_onnx(program: torch.export.ExportedProgram, job: _Job, path: Path) -> None:
    try:
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            input_names=job.inputs,
            output_names=job.outputs,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # operators without a counterpart, in many ways
        words = str(error).strip().splitlines()
        raise ValueError(
            f"{job.name} cannot be written as ONNX ({type(error).__name__}: {words[0] if words else ''}); "
            "export it with format torch"
        ) from error
    assert onnx_program is not None
    model = onnx_program.model
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape[0] = "batch"
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # which of PyTorch's nodes it was: two thirds of a small file
    model.metadata_props["vidact"] = json.dumps(job.record.to_dict())
    if job.carries:
        model.metadata_props["vidact.extractor"] = base64.b64encode(job.carries).decode()
    onnx_program.save(path, external_data=False)
