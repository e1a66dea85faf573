"""Exported networks under ONNX Runtime: a clip network, an extractor, and one step of a stream."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.features.extractor import FeatureExtractor
from vidact.models.backbones import Backbone
from vidact.models.online import OnlineNetwork, OnlineOutput, State
from vidact.models.weights import build_from_recipe
from vidact.records import FORMAT, Record, blamed, parse
from vidact.stream.model import STREAMING, StreamModel, load_model, refuse_clips, stream_recogniser
from vidact.text.packages import how_to_install
from vidact.video.transform import images_per_index

# ---------------------------------------------------------------------------------------------- what runs it


class OnnxGraph:
    """An ONNX graph that vidact wrote, in onnxruntime: named tensors in, named tensors out.

    Args:
        content: of the .onnx file.
        name: of the file, for messages.
    """

    def __init__(self, content: bytes, name: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"{name} runs in onnxruntime, which is missing: {how_to_install('onnxruntime')}"
            ) from error
        if b"\n\x08location" in content:  # the entry of a tensor whose numbers are in another file; ours have none
            raise ValueError(f"{name} names other files for its numbers, which are not opened for it; export it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen kinds and no parent of them
            words = str(error).strip().splitlines()
            raise ValueError(f"{name} cannot be read as ONNX ({words[0] if words else ''})") from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        if "vidact" not in metadata:
            raise ValueError(f"{name} has no vidact record: another program wrote it. Make one with: vidact export")
        self.name = name
        self.record = Record.from_dict(parse(metadata["vidact"], f"the record of {name}"), name)
        with blamed(name):
            self.record.require("export")
            self.facts: dict[str, Any] = dict(self.record.export or {})
            self._version: int = self.facts["format"]
        if self._version > FORMAT:
            raise ValueError(
                f"{name} has format {self.facts['format']}; this vidact reads up to {FORMAT}: install a newer one"
            )
        self.outputs = [output.name for output in self.session.get_outputs()]
        self._extractor: str | None = metadata.get("vidact.extractor")

    @staticmethod
    def open(path: str | Path) -> OnnxGraph:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        if path.suffix != ".onnx":
            raise ValueError(f"{path} is no .onnx file; vidact export --checkpoint {path} --out model.onnx makes one")
        return OnnxGraph(path.read_bytes(), str(path))

    def extractor(self) -> OnnxExtractor | None:
        """The extractor in the file of a detector's step, if there is one."""
        if self._extractor is None:
            return None
        name = f"the extractor in {self.name}"
        with blamed(name):
            return OnnxExtractor(OnnxGraph(base64.b64decode(self._extractor, validate=True), name))

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()}
        found = self.session.run(self.outputs, arrays)
        return {name: torch.from_numpy(array) for name, array in zip(self.outputs, found, strict=True)}

    def step(self, token: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        found = self.run({self.facts["input"]: token} | {f"state.{name}": tensor for name, tensor in state.items()})
        after = {name: found.pop(f"next.{name}") for name in state}
        return found, after

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        with blamed(self.name):
            return self._initial_state(batch_size)

    def _initial_state(self, batch_size: int) -> dict[str, Tensor]:
        state = {}
        for entry in self.facts["state"]:
            dtype = getattr(torch, entry["dtype"])
            first = torch.tensor(entry["initial"], dtype=dtype) if "initial" in entry else torch.zeros((), dtype=dtype)
            state[entry["name"]] = first.expand(batch_size, *entry["shape"]).clone()
        return state


class OnnxStep(OnlineNetwork):
    """An exported step of an online detector: what ``OnlineNetwork`` does, by onnxruntime on the CPU.

    It has no parameters. Tensors of any device come in; answers and state are on the CPU. The state is a flat dict, so
    ``stack_states``, ``select_streams`` and ``reset`` work on it.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._graph = graph
        self.record = graph.record
        self.classes: list[str] = list(graph.record.classes)
        self.tokens_per_second = graph.record.tokens_per_second or 0.0
        self.num_classes = graph.facts["num_classes"]
        (self.feature_dim,) = graph.facts["shape"]
        self.window = graph.facts["window"]
        self.future_offsets = tuple(graph.facts["future_offsets"])

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Every token's answer (n = T), step by step."""
        if start is not None and start.any():
            raise ValueError("an exported step begins every video at its first token; leave start out")
        return self.scan(features)

    def extractor(self) -> OnnxExtractor | None:
        """What makes its features, if the file carries it."""
        return self._graph.extractor()

    def initial_state(self, batch_size: int = 1) -> State:
        return self._graph.initial_state(batch_size)

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        self.check(feature)
        found, state = self._graph.step(feature, state)
        return OnlineOutput(found["logits"], found.get("future")), state


class OnnxFrameStep(nn.Module):
    """An exported step of a causal TSM or a TSN, which reads frames (B, C, H, W), by onnxruntime on the CPU."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._graph = graph
        self.record = graph.record
        self.classes: list[str] = list(graph.record.classes)
        self.num_classes: int = graph.facts["num_classes"]
        graph.record.require("input")
        self.input = ClipInput(**(graph.record.input or {}))

    def initial_state(self, batch_size: int = 1) -> State:
        return self._graph.initial_state(batch_size)

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (B, K) of the stream up to this frame, and the next state."""
        found, state = self._graph.step(frame, state)
        return found["logits"], state


class OnnxClip(nn.Module):
    """An exported clip network by onnxruntime on the CPU: clips (B, T, C, H, W) of the exported T, H and W."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._graph = graph
        self.record = graph.record
        self.classes: list[str] = list(graph.record.classes)
        self.num_classes: int = graph.facts["num_classes"]
        self.frames: int = graph.facts["frames"]
        graph.record.require("input")
        self.input = ClipInput(**(graph.record.input or {}))

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (B, K)."""
        expected = (self.frames, self.input.channels, self.input.size, self.input.size)
        if tuple(clip.shape[1:]) != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"the clip has shape {tuple(clip.shape)}; this file was exported for (B, {sizes})")
        return self._graph.run({"clip": clip})["logits"]


class _ImageLook(Backbone):
    """What an extractor asks of an image network besides running it."""

    def __init__(self, input: ClipInput, dim: int) -> None:
        super().__init__()
        self.input, self.dim = input, dim


class _ClipLook(nn.Module):
    """What an extractor asks of a clip network besides running it."""

    def __init__(self, input: ClipInput, dim: int) -> None:
        super().__init__()
        self.input, self.dim = input, dim

    def features(self, clip: Tensor) -> Tensor:
        raise NotImplementedError("OnnxExtractor.compute runs the graph")


class OnnxExtractor(FeatureExtractor):
    """A feature extractor whose networks run in onnxruntime; its record is that of the one it was exported from.

    What is before the networks (clock, resizing, cropping, normalisation, optical flow) is ``FeatureExtractor``'s own.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        graph.record.require("features")
        self._graph, self._record = graph, dict(graph.record.features or {})
        looks: list[nn.Module] = []
        for part, facts in zip(("network", "flow_network"), graph.facts["looks"], strict=False):
            look = _ImageLook if facts["is_image"] else _ClipLook
            looks.append(look(ClipInput(**self._record[part]["input"]), facts["dim"]))
        super().__init__(
            looks[0],
            self._record["fps"],
            self._record["chunk"],
            self._record["frames"][0][0] if isinstance(looks[0], Backbone) else None,
            looks[1] if len(looks) > 1 else None,
            self._record["flow_method"] or "dis",
            self._record["decoder"],
            "cpu",
            longest_gap_s=self._record.get("longest_gap_s"),
        )
        if (found := [look.places for look in self._looks]) != self._record["frames"]:
            raise ValueError(
                f"{graph.name} looks at the frames {self._record['frames']} of a chunk, and this vidact would show it "
                f"{found}: export it again"
            )

    def compute(self, prepared: Sequence[list[Tensor]]) -> Tensor:
        inputs = {}
        for number, look in enumerate(self._graph.facts["looks"]):
            clips = torch.stack([chunk[number] for chunk in prepared])  # (N, T, C, H, W)
            inputs[look["input"]] = clips[:, 0] if look["is_image"] else clips
        vectors = self._graph.run(inputs)["features"]
        if not vectors.isfinite().all():
            raise ValueError(f"{self._graph.name} gave features that are not finite; look at the weights")
        return vectors

    def record(self) -> dict[str, Any]:
        return self._record

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        raise ValueError("an exported extractor has no tensors to keep; keep its .onnx file")


_KIND_IN_WORDS: dict[type, str] = {
    OnnxStep: "the step of a detector",
    OnnxFrameStep: "the step of a clip network",
    OnnxClip: "a whole clip network",
    OnnxExtractor: "a feature extractor",
}


def open_onnx(path: str | Path) -> OnnxStep | OnnxFrameStep | OnnxClip | OnnxExtractor:
    """Whatever ``export`` wrote into an .onnx file, ready to run."""
    graph = OnnxGraph.open(path)
    with blamed(graph.name):
        if graph.facts["what"] == "extractor":
            return OnnxExtractor(graph)
        if graph.facts["what"] == "clip":
            return OnnxClip(graph)
        return OnnxStep(graph) if graph.facts["input"] == "feature" else OnnxFrameStep(graph)


def load_onnx(
    path: str | Path,
    *,
    extractor: str | Path | FeatureExtractor | None = None,
    steps_per_second: float | None = None,
    events: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    trust: Iterable[str] = (),
) -> StreamModel:
    """What ``vidact.stream.load_model`` gives, from an exported step, its networks in onnxruntime on the CPU.

    Args:
        path: an .onnx of a step: a detector's, a causal TSM's, a TSN's.
        extractor: of a detector's features: what ``load_model`` takes, which then runs in PyTorch, or an exported
            extractor. None takes the one in the file.
        steps_per_second: as in ``load_model``.
        events: as in ``load_model``.
        device: None or the CPU.
        trust: packages outside vidact whose builders may run, of an extractor that is no .onnx.
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
            network, network.record, str(path), steps_per_second, events or {}, torch.device("cpu")
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
        network, extractor=extractor, steps_per_second=steps_per_second, events=events, device="cpu", trust=trust
    )


def _what_would_stream(network: OnnxClip | OnnxExtractor, path: str, trust: Iterable[str]) -> str:
    """What to do about an .onnx that holds no step: export one, if its network can step at all; raises ValueError, with
    what can, if it cannot."""
    holds = f"{path} holds {_KIND_IN_WORDS[type(network)]}"
    if isinstance(network, OnnxExtractor):
        return f"{holds}, and a stream needs the step of a detector; give the detector, and this one with --extractor"
    recipe = network.record.recipe
    try:
        with torch.device("meta"):  # its weights are not needed
            twin = build_from_recipe(recipe, trust) if recipe else None
    except Exception:  # a builder of another program, or of a newer version
        twin = None
    if twin is None:
        return f"{holds}, and a stream needs a step: export with what=step, if the network can. {STREAMING}"
    refuse_clips(twin, path)
    return f"{holds}, and a stream needs a step: vidact export --checkpoint … --what step --out {path}"
