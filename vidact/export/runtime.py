"""Exported networks under ONNX Runtime: a clip network, an extractor, and one step of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.features.extractor import FeatureExtractor, OnnxExtractor
from vidact.models.online import State
from vidact.models.weights import build_from_recipe
from vidact.records import blamed
from vidact.runtimes.exported import OnnxClip, OnnxGraph, OnnxOffline
from vidact.runtimes.steps import GraphStep
from vidact.stream.model import STREAMING, StreamModel, load_model, refuse_clips, stream_recogniser
from vidact.video.transform import images_per_index


class OnnxStep(GraphStep):
    """An exported step of an online detector, run by onnxruntime on the CPU."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__(graph)
        self._graph = graph
        self.record = graph.record
        self.classes: list[str] = list(graph.record.classes)
        self.tokens_per_second = graph.record.tokens_per_second or 0.0
        self.num_classes = graph.facts.num_classes
        (self.feature_dim,) = graph.facts.shape
        self.window = graph.facts.window
        self.future_offsets = graph.facts.future_offsets
        self.delay = graph.facts.delay

    def extractor(self) -> OnnxExtractor | None:
        """Return the extractor of its features, if the file contains one."""
        graph = self._graph.carried()
        if graph is None:
            return None
        with blamed(graph.name):
            return OnnxExtractor(graph)


class OnnxFrameStep(nn.Module):
    """An exported step of a TSM, a TSN or a MoViNet, run by onnxruntime on the CPU; it reads frames (B, C, H, W)."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._graph = graph
        self.record = graph.record
        self.classes: list[str] = list(graph.record.classes)
        self.num_classes = graph.facts.num_classes
        graph.record.require("input")
        self.input = ClipInput(**(graph.record.input or {}))

    def initial_state(self, batch_size: int = 1) -> State:
        return self._graph.initial_state(batch_size)

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits (B, K) of the stream up to this frame, and the next state."""
        results, state = self._graph.step(frame, state)
        return results["logits"], state


_KIND_IN_WORDS: dict[type, str] = {
    OnnxStep: "the step of a detector",
    OnnxFrameStep: "the step of a clip network",
    OnnxClip: "a whole clip network",
    OnnxOffline: "an offline network, whose answers depend on what comes later in the video",
    OnnxExtractor: "a feature extractor",
}


def open_onnx(path: str | Path) -> OnnxStep | OnnxFrameStep | OnnxClip | OnnxOffline | OnnxExtractor:
    """Open an .onnx file that ``export`` wrote, ready to run."""
    graph = OnnxGraph.open(path)
    with blamed(graph.name):
        if graph.facts.kind == "extractor":
            return OnnxExtractor(graph)
        if graph.facts.kind == "clip":
            return OnnxClip(graph)
        if graph.facts.kind == "video":
            return OnnxOffline(graph)
        return OnnxStep(graph) if graph.facts.input == "feature" else OnnxFrameStep(graph)


def load_onnx(
    path: str | Path,
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
    """Open an exported step as a model that streams, like ``vidact.stream.load_model``, in onnxruntime on the CPU.

    Args:
        path: an .onnx of a step: a detector's, a causal TSM's, a TSN's, a stream MoViNet's.
        extractor: the extractor of a detector's features: an exported one, or one that ``load_model`` accepts, which
            then runs in the ``runtime``. None is the one in the file.
        steps_per_second: as in ``load_model``.
        events: as in ``load_model``.
        horizon_s: as in ``load_model``.
        restart_s: as in ``load_model``.
        device: None or the CPU.
        trust: packages outside vidact whose builders may run, for an extractor that is not an .onnx.
        runtime: the runtime of such an extractor, as in ``load_model``.
    """
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise ValueError(
            f"device is {device}, and networks in onnxruntime run on the CPU; leave it out, or take PyTorch"
        )
    network = open_onnx(path)
    if not isinstance(network, OnnxStep | OnnxFrameStep):
        raise ValueError(_what_would_stream(network, str(path), trust))
    if not network.classes:
        raise ValueError(f"{path} does not name its classes; export a checkpoint of a training run")
    if isinstance(network, OnnxFrameStep):
        if extractor is not None:
            raise ValueError(f"{path} looks at frames itself and takes no extractor; leave it out")
        if (group := images_per_index(network.input)) > 1:
            raise ValueError(
                f"{path} cannot stream: its network looks at {group} neighbouring frames at a time. {STREAMING}"
            )
        return stream_recogniser(
            network,
            network.record,
            str(path),
            steps_per_second,
            events or {},
            horizon_s,
            restart_s,
            torch.device("cpu"),
        )
    if extractor is None:
        extractor = network.extractor()
    elif isinstance(extractor, str | Path) and Path(extractor).suffix == ".onnx":
        opened = open_onnx(extractor)
        if not isinstance(opened, OnnxExtractor):
            raise ValueError(f"{extractor} holds {_KIND_IN_WORDS[type(opened)]}, not a feature extractor")
        extractor = opened
    if extractor is None:
        raise ValueError(
            f"{path} carries no extractor. Give what made the detector's features: an exported extractor, or the "
            "extractor.safetensors of the folder of features; or export the detector again with it"
        )
    return load_model(
        network, extractor=extractor, steps_per_second=steps_per_second, events=events, horizon_s=horizon_s,
        restart_s=restart_s, device="cpu", trust=trust, runtime=runtime,
    )  # fmt: skip


def _what_would_stream(network: OnnxClip | OnnxOffline | OnnxExtractor, path: str, trust: Iterable[str]) -> str:
    """Return the message for an .onnx without a step: how to export one.

    Raises ValueError, with the networks that can stream, where the network of the file cannot step.
    """
    holds = f"{path} holds {_KIND_IN_WORDS[type(network)]}"
    if isinstance(network, OnnxExtractor):
        return f"{holds}, and a stream needs the step of a detector; give the detector, and this one with --extractor"
    if isinstance(network, OnnxOffline):
        return f"{holds}, so it cannot stream. {STREAMING}"
    recipe = network.record.recipe
    try:
        with torch.device("meta"):  # its weights are not needed
            twin = build_from_recipe(recipe, trust) if recipe else None
    except Exception:  # the builder may be of another program or of a newer version
        twin = None
    if twin is None:
        return f"{holds}, and a stream needs a step: export with what=step, if the network can. {STREAMING}"
    refuse_clips(twin, path)
    return f"{holds}, and a stream needs a step: vidact export --checkpoint … --what step --out {path}"
