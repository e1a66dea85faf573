"""A network as an ONNX graph: made once, compared with PyTorch, kept in a cache; ``steps`` does so for a step.

The cache is the folder ``graphs`` beside that of downloaded weights (``vidact.hub``). The name of a file in it is a
hash of the weights, the network's layers, the shape of the input and the versions of the packages that make and run the
graph. A file is one line of JSON, with a hash of the graph and its agreement with PyTorch, and the graph. It is whole
or absent; one that is damaged is made again, and so is one whose output for a random input differs from PyTorch's,
because the code of a network can change without a change of any of these. A graph that was not used for
``UNUSED_DAYS`` is removed when another is made. Where the cache cannot be written, every process makes the graph anew.

Shapes: B inputs of a batch, K numbers of an output.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidact import __version__
from vidact.files import replacing
from vidact.hub import folder as weights_folder
from vidact.runtimes.choices import TOLERANCE, Agreement
from vidact.runtimes.onnx_graph import (
    ONNX_LIMIT,
    OPSET,
    check_packages,
    num_bytes,
    open_session,
    quiet_exporters,
    run_in_place,
    run_session,
    runtime_version,
    save_onnx,
    trace,
)

FORMAT = 1  # of the files in the cache
UNUSED_DAYS = 90
PACKAGES = ("torch", "onnx", "onnxscript")  # that make a graph
CHECKED = (1, 3, 4)  # sizes of the batches that a new graph is compared with
_INPUT, _OUTPUT = "input", "output"


class NoGraphError(ValueError):
    """The error for a network that cannot be an ONNX graph, or whose graph differs from it."""


class Compiled:
    """The graph of a network, run by onnxruntime on the CPU: inputs (B, …) → outputs (B, K), or several by name.

    It has as many threads as PyTorch has at the call, can be pickled, and its outputs are the same bits in every
    process of a machine.

    Args:
        content: the bytes of the .onnx file.
        name: the name of the network, for messages.
        agreement: its agreement with PyTorch, measured when it was made.
    """

    def __init__(self, content: bytes, name: str, agreement: Agreement) -> None:
        self.content, self.name, self.agreement = content, name, agreement
        self._session: Any = None
        self._threads = 0

    def __call__(self, batch: Tensor) -> Tensor:
        return self.run({_INPUT: batch}, [_OUTPUT])[_OUTPUT]

    def run(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str], written: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the outputs by name for the inputs by name; ``written`` as in ``onnx_graph.run_in_place``."""
        if self._session is None or self._threads != torch.get_num_threads():
            self._threads = torch.get_num_threads()
            self._session = open_session(self.content, f"the graph of {self.name}")
        if written:
            return run_in_place(self._session, outputs, inputs, written)
        return run_session(self._session, outputs, inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_session": None}


@torch.inference_mode(False)
@torch.no_grad()
def compiled(network: nn.Module, shape: Sequence[int], weights_sha256: str, name: str) -> Compiled:
    """Return the graph of a network from the cache, or make it; making takes seconds and is announced on stderr.

    Args:
        network: a module on the CPU, in evaluation mode, with one tensor as input and one as output.
        shape: the shape of the input, without the axis of the batch.
        weights_sha256: the hash of its weights (``vidact.features.record.weights_hash``).
        name: its name, for messages.

    Raises:
        ImportError: where a package that is needed is not installed.
        NoGraphError: where the network cannot be exported, or its graph differs from PyTorch.
    """
    return cached(
        path_of(network, shape, weights_sha256),
        name,
        lambda graph: _compare(network, graph, shape, (1,)),
        lambda: _make(network, shape, name),
    )


def cached(
    path: Path | None, name: str, compare: Callable[[Compiled], Agreement], make: Callable[[], Compiled]
) -> Compiled:
    """Return the graph of the file ``path`` in the cache, or make it and keep it there.

    Args:
        path: what ``path_of`` returned.
        name: the name of the network, for messages.
        compare: measures the agreement of a graph of the cache with the network in hand.
        make: makes the graph, in seconds.
    """
    if path is not None and (graph := _read(path, name)) is not None:
        with contextlib.suppress(ValueError):  # not a graph that this onnxruntime reads
            if compare(graph).is_close:
                with contextlib.suppress(OSError):
                    os.utime(path)
                return graph
    check_packages("or choose the runtime torch")
    print(f"{name}: making its ONNX graph, which takes some seconds and is kept", file=sys.stderr, flush=True)
    graph = make()
    if path is not None:
        _keep(graph, path)
    return graph


def path_of(network: nn.Module, facts: Sequence[Any], weights_sha256: str) -> Path | None:
    """Return the file of the network's graph in the cache; None where the user has no folder for it.

    Args:
        network: the network.
        facts: what else the graph depends on, as JSON: the shape of the input, …
        weights_sha256: the hash of its weights.
    """
    versions = {"vidact": __version__, "format": FORMAT, "opset": OPSET}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    with contextlib.suppress(ImportError):
        versions["onnxruntime"] = runtime_version()
    kinds = sorted({f"{type(module).__module__}.{type(module).__qualname__}" for module in network.modules()})
    text = json.dumps([versions, weights_sha256, repr(network), kinds, list(facts)], sort_keys=True)
    try:
        folder = weights_folder().with_name("graphs")
    except OSError as error:
        _say_once(f"{error}; without it, an ONNX graph is not kept and is made again by every command")
        return None
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()}.graph"


def _read(path: Path, name: str) -> Compiled | None:
    """Return the graph in a file of the cache; None where it is absent or damaged."""
    try:
        head, _, content = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
        if facts["sha256"] != hashlib.sha256(content).hexdigest():
            return None
        agreement = Agreement(float(facts["largest_difference"]), float(facts["largest_output"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Compiled(content, name, agreement) if agreement.is_close else None


def _keep(graph: Compiled, path: Path) -> None:
    """Write the graph to the cache, and remove graphs that were not used for long."""
    facts = {"sha256": hashlib.sha256(graph.content).hexdigest(), **graph.agreement._asdict()}
    try:
        with replacing(path) as half, half.open("wb") as file:
            file.write(json.dumps(facts).encode() + b"\n")
            file.write(graph.content)
    except OSError as error:
        _say_once(
            f"the cache {path.parent} cannot be written ({error.strerror or error}), so an ONNX graph is not kept and "
            "is made again by every command; VIDACT_HOME chooses another folder"
        )
        return
    oldest = time.time() - UNUSED_DAYS * 86_400
    for other in path.parent.glob("*.graph"):
        with contextlib.suppress(OSError):
            if other.stat().st_mtime < oldest:
                other.unlink()


def _make(network: nn.Module, shape: Sequence[int], name: str) -> Compiled:
    """Export the network and compare the graph with it."""
    refuse_size(network, name)
    # The copy has plain memory formats: the traced program would otherwise contain the changes of layout.
    exported = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)
    example = (next(_noise(shape, (2,))),)
    return make_graph(
        exported, example, [_INPUT], [_OUTPUT], name, lambda graph: _compare(network, graph, shape, CHECKED)
    )


def refuse_size(network: nn.Module, name: str) -> None:
    """Raise NoGraphError for a network whose weights are larger than an ONNX graph."""
    if (size := num_bytes(network)) > ONNX_LIMIT:
        raise NoGraphError(f"{name} has {size / 2**30:.1f} GiB of weights, and an ONNX graph holds 2 GiB")


def make_graph(
    module: nn.Module,
    example: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    name: str,
    compare: Callable[[Compiled], Agreement],
) -> Compiled:
    """Export a module and return its graph; raise NoGraphError where that fails or the graph differs from PyTorch.

    Args:
        module: the module; ``example`` are inputs of it, as ``onnx_graph.trace`` takes them.
        example: see there.
        inputs: the names of the inputs.
        outputs: the names of the outputs.
        name: the name of the network, for messages.
        compare: measures the agreement of the graph with PyTorch.
    """
    with quiet_exporters(), tempfile.TemporaryDirectory(prefix="vidact-") as folder:
        path = Path(folder) / "graph.onnx"
        try:
            program = trace(module, example, f"{name} cannot be an ONNX graph")
            save_onnx(program, path, inputs, outputs, {}, name, "choose the runtime torch")
            graph = Compiled(path.read_bytes(), name, Agreement(0.0, 0.0))
            graph.agreement = compare(graph)
        except ValueError as error:
            raise NoGraphError(str(error)) from error
    if not graph.agreement.is_close:
        difference, largest = graph.agreement
        raise NoGraphError(
            f"the ONNX graph of {name} differs from PyTorch by up to {difference:.2g}, where its outputs are up to "
            f"{largest:.3g}; at most {TOLERANCE:g} of them is accepted"
        )
    return graph


def _noise(shape: Sequence[int], sizes: Sequence[int]) -> Iterator[Tensor]:
    """Yield batches of these sizes of random inputs, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        yield torch.randn((size, *shape), generator=generator)


def _compare(network: nn.Module, graph: Compiled, shape: Sequence[int], sizes: Sequence[int]) -> Agreement:
    """Return the agreement of the graph with the network for batches of these sizes."""
    rows = []
    for batch in _noise(shape, sizes):
        expected, actual = network(batch), graph(batch)
        if expected.shape != actual.shape:
            raise ValueError(
                f"the ONNX graph of {graph.name} has outputs {tuple(actual.shape)} where PyTorch has "
                f"{tuple(expected.shape)}"
            )
        rows.append((actual, expected))
    return agreement_of(rows)


def agreement_of(pairs: Iterable[tuple[Tensor, Tensor]]) -> Agreement:
    """Return the agreement of pairs of outputs: the graph's and PyTorch's."""
    rows = [torch.stack([(actual - expected).abs().max(), expected.abs().max()]) for actual, expected in pairs]
    difference, largest = torch.stack(rows).amax(0).tolist()  # a NaN in one of the outputs makes a NaN here
    return Agreement(difference, largest)


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
