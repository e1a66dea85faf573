"""Graphs in int8: weights and activations as whole numbers of 8 bits, several times quicker on a CPU.

The quantisation is onnxruntime's, static and per channel: every weight gets a scale for each output channel, and every
activation the range that it had on frames of the user's videos. The graph keeps its inputs and outputs in single
precision. Layers that lose most stay in single precision: all layers are tried in int8; where that loses more than is
accepted, every layer is tried alone, and the 1, 2, 4, … that changed the outputs most are left in single precision, at
most half of all layers. The same file, videos and packages give the same bytes.

A graph on int8 is published only with the loss that was measured (``vidact.export.losses``), in its record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vidact.export.calibration import Feeds, Inputs
from vidact.export.losses import Loss, outputs_of
from vidact.export.pixels import Normalisation, reads_pixels, without_float_pixels
from vidact.records import ExportRecord, FeaturesRecord, Record
from vidact.runtimes.exported import PIXELS, OnnxGraph
from vidact.runtimes.onnx_graph import runtime_version
from vidact.text.names import counted, first_few

MAX_LOSS = 0.01
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # the operators that the search may leave in single precision
RANKED = 8  # inputs with which layers are compared
TIMED = 15  # runs of a graph whose median is printed


@dataclass(frozen=True)
class Quantised:
    """The result of a quantisation: the graph, its loss, and how many layers stayed in single precision.

    Args:
        content: the bytes of the .onnx file.
        loss: the loss that was measured and accepted.
        max_loss: the loss that was accepted.
        num_layers: the layers that could be in int8.
        float_layers: the names of those that are not.
        num_bytes: the size of the file before and after.
        milliseconds: the median time of one input before and after, on as many threads as PyTorch has.
        inputs: what it was calibrated with.
        notes: sentences for the user.
    """

    content: bytes
    loss: Loss
    max_loss: float
    num_layers: int
    float_layers: list[str]
    num_bytes: tuple[int, int]
    milliseconds: tuple[float, float]
    inputs: Inputs
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        before, after = self.num_bytes
        slow, quick = self.milliseconds
        stay = f", {len(self.float_layers)} of them in single precision" if self.float_layers else ""
        lines = [
            f"int8: {counted(self.num_layers, 'layer')}{stay}; {before / 1e6:.2f} -> {after / 1e6:.2f} MB; "
            f"{slow:.1f} -> {quick:.1f} ms on {counted(torch.get_num_threads(), 'thread')}",
            f"{self.loss}; --max_loss {self.max_loss:g} is accepted",
            f"calibrated with {self.inputs}",
        ]
        if quick >= slow:
            lines.append("note: int8 is not quicker on this machine; the file without --int8 loses nothing")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def refuse_max_loss(max_loss: float) -> None:
    """Raise ValueError for a loss that is no share."""
    if not 0 < max_loss < 1:
        raise ValueError(f"max_loss is {max_loss}; it is a share above 0 and below 1, such as {MAX_LOSS}")


def quantise(
    graph: OnnxGraph,
    inputs: Inputs,
    judges: Sequence[Callable[[OnnxGraph], Loss]],
    max_loss: float,
    notes: Sequence[str] = (),
    normalisation: Normalisation | None = None,
) -> Quantised:
    """Return a graph in int8 whose loss is at most ``max_loss``.

    Args:
        graph: an exported graph in single precision: a clip network's or a feature extractor's.
        inputs: its inputs, made of the user's videos.
        judges: each measures a loss of a graph; all have to be accepted. The loss of the last is recorded.
        max_loss: the largest loss that is accepted.
        notes: sentences for the user.
        normalisation: that of the graph's input; the graph in int8 then reads pixels, if it can
            (``vidact.export.pixels``), and the ``inputs`` have them, too.

    Raises ValueError where every graph that is tried loses more.
    """
    with _quiet(), tempfile.TemporaryDirectory(prefix="vidact-") as folder:
        quantiser = _Quantiser(graph, inputs.calibration, Path(folder), normalisation)
        layers = quantiser.layers
        if not layers:
            raise ValueError(
                f"{graph.name} has none of the layers that int8 makes quicker ({', '.join(LAYERS)}); export it without "
                "--int8"
            )
        ranked: list[str] = []
        losses: list[tuple[Loss, int]] = []
        for count in _counts(len(layers)):
            if count and not ranked:
                ranked = _ranked(quantiser, graph, inputs.held_out[:RANKED])
            content = quantiser.quantised(leave=ranked[:count])
            candidate = OnnxGraph(_with_record(content, quantiser.record.to_dict()), graph.name)
            loss = _judged(candidate, judges, max_loss)
            losses.append((loss, count))
            if loss.is_within(max_loss):
                return _result(graph, quantiser.record, content, loss, max_loss, layers, ranked[:count], inputs, notes)
    least, count = min(losses, key=lambda pair: (not pair[0].is_number, pair[0].loss))
    raise ValueError(
        f"nothing was written: in int8, {graph.name} loses too much. {least}, with {count} of "
        f"{counted(len(layers), 'layer')} in single precision; --max_loss is {max_loss:g}. Calibrate it on more of the "
        "videos that it will see, accept more with --max_loss, or export it without --int8"
    )


def _counts(num_layers: int) -> Iterator[int]:
    """Yield how many layers stay in single precision in each trial: 0, 1, 2, 4, … up to half of all."""
    count = 0
    while count <= num_layers // 2:
        yield count
        count = count * 2 or 1


def _judged(graph: OnnxGraph, judges: Sequence[Callable[[OnnxGraph], Loss]], max_loss: float) -> Loss:
    """Return the loss of the last judge, or of the first that does not accept the graph."""
    for judge in judges:
        loss = judge(graph)
        if not loss.is_within(max_loss):
            break
    return loss


def _result(
    graph: OnnxGraph,
    earlier: Record,
    content: bytes,
    loss: Loss,
    max_loss: float,
    layers: list[str],
    float_layers: list[str],
    inputs: Inputs,
    notes: Sequence[str],
) -> Quantised:
    facts = {
        **loss.to_dict(),
        "max_loss": max_loss,
        "graph_sha256": hashlib.sha256(content).hexdigest(),
        "layers": len(layers),
        "float_layers": sorted(float_layers, key=layers.index),
        "videos": inputs.num_videos,
        "inputs": len(inputs.calibration),
        "onnxruntime": runtime_version(),
    }
    export = {**(earlier.export or {}), "int8": facts}
    record = replace(earlier, export=ExportRecord(export))
    if graph.facts.kind == "extractor":
        features = {key: value for key, value in (record.features or {}).items() if key != "runtime_check"}
        record = replace(record, features=FeaturesRecord({**features, "runtime": "onnx", "int8": facts}))
    published = _with_record(content, record.to_dict())
    milliseconds = _milliseconds([graph, OnnxGraph(published, graph.name)], inputs.held_out)
    sizes = len(graph.content), len(published)
    return Quantised(published, loss, max_loss, len(layers), facts["float_layers"], sizes, milliseconds, inputs, notes)


def _milliseconds(graphs: Sequence[OnnxGraph], inputs: Sequence[Feeds]) -> tuple[float, float]:
    """Return the median times of one input, of two graphs in turns, in milliseconds."""
    times: list[list[float]] = [[] for _ in graphs]
    for turn in range(TIMED):
        for graph, graph_times in zip(graphs, times, strict=True):
            started = time.perf_counter()
            graph.run(inputs[turn % len(inputs)])
            graph_times.append(time.perf_counter() - started)
    before, after = (statistics.median(each) * 1000 for each in times)
    return before, after


# ---------------------------------------------------------------------------------------------- onnxruntime's quantiser


class _Quantiser:
    """A graph that is prepared and calibrated once, and quantised with any layers left in single precision.

    Args:
        graph: the graph.
        calibration: the inputs with which the ranges of its activations are measured.
        folder: a folder for the files of the quantiser.
        normalisation: as in ``quantise``.
    """

    def __init__(
        self, graph: OnnxGraph, calibration: Sequence[Feeds], folder: Path, normalisation: Normalisation | None
    ) -> None:
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self._calibration, self._folder = calibration, folder
        original, self._prepared = folder / "original.onnx", folder / "prepared.onnx"
        original.write_bytes(graph.content)
        try:
            quant_pre_process(original, self._prepared)
        except Exception:  # the symbolic inference of shapes does not know every operator
            quant_pre_process(original, self._prepared, skip_symbolic_shape=True)
        model = onnx.load(self._prepared)
        self.record = graph.record  # of the graphs that are returned
        self._overrides: dict[str, Any] = {}
        self._takes_pixels = normalisation is not None and reads_pixels(model, normalisation)
        if normalisation is not None and self._takes_pixels:
            onnx.save(model, self._prepared)
            self._overrides = {"TensorQuantOverrides": normalisation.overrides}
            export: dict[str, Any] = {**(graph.record.export or {})}
            looks = [{**entry, "input": PIXELS} for entry in export["looks"]]
            self.record = replace(graph.record, export=ExportRecord({**export, "looks": looks}))
        self._inputs = [each.name for each in model.graph.input]
        self.layers = [node.name for node in model.graph.node if node.op_type in LAYERS]

    def quantised(self, leave: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        """Return the graph in int8, without the layers ``leave``, or with the layers ``only``."""
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        path = self._folder / "int8.onnx"
        quantize_static(
            self._prepared,
            path,
            _reader(self._calibration, self._inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=list(leave),
            nodes_to_quantize=list(only),
            calibration_cache_path=self._folder / "ranges.json",  # measured by the first call
            extra_options=dict(self._overrides),
        )
        if not self._takes_pixels:
            return path.read_bytes()
        model = onnx.load(path)
        without_float_pixels(model)
        return model.SerializeToString(deterministic=True)


def _reader(calibration: Sequence[Feeds], names: Sequence[str]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._inputs = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            feeds = next(self._inputs, None)
            return None if feeds is None else {name: feeds[name].numpy() for name in names}

    return Reader()


def _ranked(quantiser: _Quantiser, graph: OnnxGraph, inputs: Sequence[Feeds]) -> list[str]:
    """Return the layers, first that which changes the outputs most where it alone is in int8."""
    expected = outputs_of(graph, inputs)
    changes = {}
    for number, layer in enumerate(quantiser.layers, 1):
        print(
            f"\r{graph.name}: the loss of each layer in int8, {number} of {len(quantiser.layers)}",
            end="", file=sys.stderr, flush=True,
        )  # fmt: skip
        content = _with_record(quantiser.quantised(only=[layer]), quantiser.record.to_dict())
        changes[layer] = float((outputs_of(OnnxGraph(content, graph.name), inputs) - expected).norm())
    print(file=sys.stderr)
    return sorted(quantiser.layers, key=lambda layer: -changes[layer])


def _with_record(content: bytes, record: dict[str, Any]) -> bytes:
    """Return the bytes of an .onnx file with this record as its only metadata."""
    import onnx

    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"vidact": json.dumps(record)})
    return model.SerializeToString(deterministic=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of onnxruntime's quantiser, which it logs in the name of the program."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    level = logging.root.manager.disable
    root.addHandler(nothing)  # logging.warning() would otherwise add a handler that stays
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
        root.removeHandler(nothing)


def note_on_unreadable(unreadable: dict[str, str]) -> list[str]:
    """Return a note with the videos that could not be read and the reason of the first; none where all could."""
    if not unreadable:
        return []
    return [
        f"{counted(len(unreadable), 'video is', 'videos are')} left out of the calibration: "
        f"{first_few(list(unreadable))} ({next(iter(unreadable.values()))})"
    ]
