"""Graphs that ``vidact.export`` wrote, run by onnxruntime on the CPU: any graph, a clip network, an offline network."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vidact import hub
from vidact.batch import ClipInput
from vidact.models.offline import Level, OfflineNetwork, OfflineOutput, inside, runs_of
from vidact.models.offline_decoding import Decoding, decode
from vidact.models.online import State
from vidact.records import FORMAT, ExportRecord, Record, blamed, parse
from vidact.runtimes.onnx_graph import open_session, run_session

PIXELS = "pixels"  # the name of the input of an extractor that normalises itself: uint8 (B, H, W, C)


class OnnxGraph:
    """An ONNX graph that vidact wrote, run by onnxruntime: named tensors in, named tensors out.

    Args:
        content: the bytes of the .onnx file.
        name: the name of the file, for messages.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self.session = open_session(content, name)
        metadata = self.session.get_modelmeta().custom_metadata_map
        if "vidact" not in metadata:
            raise ValueError(f"{name} has no vidact record: another program wrote it. Make one with: vidact export")
        self.content, self.name = content, name
        self.record = Record.from_dict(parse(metadata["vidact"], f"the record of {name}"), name)
        with blamed(name):
            self.record.require("export")
            self.facts = self.record.export or ExportRecord({})
            version = self.facts.format
        if version > FORMAT:
            raise ValueError(f"{name} has format {version}; this vidact reads up to {FORMAT}: install a newer one")
        self.inputs = [input.name for input in self.session.get_inputs()]
        self.outputs = [output.name for output in self.session.get_outputs()]
        self._extractor: str | None = metadata.get("vidact.extractor")

    @staticmethod
    def open(path: str | Path) -> OnnxGraph:
        """Open an .onnx file that vidact wrote.

        Raises FileNotFoundError for an absent file and ValueError for another file.
        """
        path = Path(hub.local(path))
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        if path.suffix != ".onnx":
            raise ValueError(f"{path} is no .onnx file; vidact export --checkpoint {path} --out model.onnx makes one")
        return OnnxGraph(path.read_bytes(), str(path))

    def carried(self) -> OnnxGraph | None:
        """Return the graph of the feature extractor in the file of a detector's step, if there is one."""
        if self._extractor is None:
            return None
        name = f"the extractor in {self.name}"
        with blamed(name):
            return OnnxGraph(base64.b64decode(self._extractor, validate=True), name)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs by name, on the CPU, from the inputs by name; others than the graph's are ignored."""
        return run_session(self.session, self.outputs, {name: inputs[name] for name in self.inputs})

    def step(self, token: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        """Compute the outputs by name for one more token of each stream, and the next state."""
        results = self.run({self.facts.input: token} | {f"state.{name}": tensor for name, tensor in state.items()})
        after = {name: results.pop(f"next.{name}") for name in state}
        return results, after

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """Return the state of streams before their first token."""
        state = {}
        with blamed(self.name):
            for entry in self.facts.state:
                dtype = getattr(torch, entry.dtype)
                first = torch.zeros((), dtype=dtype)
                if entry.initial is not None:
                    first = torch.tensor(entry.initial, dtype=dtype)
                state[entry.name] = first.expand(batch_size, *entry.shape).clone()
        return state


class OnnxClip(nn.Module):
    """An exported clip network, run by onnxruntime on the CPU: clips (B, T, C, H, W) of the exported T, H and W."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._graph = graph
        self.record = graph.record
        self.classes: list[str] = list(graph.record.classes)
        self.num_classes = graph.facts.num_classes
        self.frames = graph.facts.frames
        graph.record.require("input")
        self.input = ClipInput(**(graph.record.input or {}))

    def forward(self, clip: Tensor) -> Tensor:
        """Return the logits (B, K) of clips (B, T, C, H, W)."""
        expected = (self.frames, self.input.channels, self.input.size, self.input.size)
        if tuple(clip.shape[1:]) != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"the clip has shape {tuple(clip.shape)}; this file was exported for (B, {sizes})")
        return self._graph.run({"clip": clip})["logits"]


class OnnxOffline(OfflineNetwork):
    """An exported offline network, run by onnxruntime on the CPU; it gives the events of the network it was made from.

    It has no parameters and no losses. Its inputs may be on any device, its outputs are on the CPU.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self._graph = graph
        self.record = graph.record
        self.classes: list[str] = list(graph.record.classes)
        facts = graph.facts
        self.num_classes, self.feature_dim, self.max_tokens = facts.num_classes, facts.feature_dim, facts.max_tokens
        self.strides = list(facts.strides)
        self.decoding = Decoding(**(graph.record.decoding or {}))
        self.eval()

    def compute(self, features: Tensor, lengths: Tensor) -> OfflineOutput:
        lengths = lengths.cpu()
        results = self._graph.run({"features": features.float(), "lengths": lengths})
        if not self.strides:
            return OfflineOutput(lengths=lengths, scores=results["scores"])
        levels = []
        for number, stride in enumerate(self.strides):
            logits = results[f"logits_{number}"]
            mask = inside(-(-lengths // stride), logits.shape[1])
            levels.append(Level(logits, results[f"distances_{number}"], stride, mask))
        return OfflineOutput(lengths=lengths, levels=levels)

    def events(self, output: OfflineOutput) -> list[Tensor]:
        if output.levels is not None:
            return decode(output.levels, self.decoding)
        assert output.scores is not None
        return runs_of(output.scores, output.lengths)

    def carried(self) -> OnnxGraph | None:
        """Return the graph of the feature extractor in the file, if there is one."""
        return self._graph.carried()
