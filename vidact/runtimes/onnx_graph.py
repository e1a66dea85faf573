"""ONNX graphs: written from a module by PyTorch's exporter, and run by onnxruntime on the CPU."""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidact.models.attention import WeightTables
from vidact.models.online import map_state
from vidact.text.packages import how_to_install

OPSET = 18  # PyTorch's exporter writes it without a conversion, and onnxruntime reads it since 1.14
ONNX_LIMIT = 2**31 - 2**24  # bytes of weights in a file: protobuf ends at 2 GiB, and the graph needs some of it

# Rewritings of a graph that make it slower on a CPU: the norm of a sum as one operation takes five times as long as the
# sum and the norm.
_SLOWER = ["SkipLayerNormFusion"]


# ---------------------------------------------------------------------------------------------- running


def open_session(content: bytes, name: str) -> Any:
    """Return a session of onnxruntime for the bytes of an .onnx file, with as many threads as PyTorch has now.

    Args:
        content: the bytes.
        name: the name of the file, for messages.

    Raises:
        ImportError: without onnxruntime.
        ValueError: for bytes that are no graph, and for a graph whose numbers are in other files.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{name} runs in onnxruntime, which is missing: {how_to_install('onnxruntime')}") from error
    # This entry of a tensor means that its numbers are in another file; vidact writes none.
    if b"\n\x08location" in content:
        raise ValueError(f"{name} names other files for its numbers, which are not opened for it; export it again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # By default the threads wait in a loop for the next input, which takes more of the processor than the computation.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if b"QuantizeLinear" in content and sums_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")  # sums of 32 bits, which take longer
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER
        )
    except Exception as error:  # onnxruntime raises a dozen types without a common parent
        lines = str(error).strip().splitlines()
        raise ValueError(f"{name} cannot be read as ONNX ({lines[0] if lines else ''})") from error


# y (B, 4) = x (B, 16) times 127: an .onnx of the operator MatMulInteger, which takes no import of onnx.
_LARGEST_PRODUCTS = (
    "CAkSADqWAQoYCgF4CgF3EgF5Ig1NYXRNdWxJbnRlZ2VyEgFnKksIEAgEEANCAXdKQH9/f39/f39/f39/f39/f39/f39/f39/f39/"
    "f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39aFAoBeBIPCg0IAhIJCgMSAWIKAggQYhQKAXkSDwoNCAYSCQoD"
    "EgFiCgIIBEIECgAQEg=="
)


@functools.cache
def sums_saturate() -> bool:
    """Return whether this processor adds products of 8 bits in 16 bits, which are too few for the largest ones.

    That is so for x86 processors without VNNI. It is tried, since processors name VNNI in several ways.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = base64.b64decode(_LARGEST_PRODUCTS)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((4, 16), 255, np.uint8)})
    return bool((sums != 16 * 127 * 255).any())


def runtime_version() -> str:
    """Return the version of onnxruntime, which is a module of several packages: onnxruntime, onnxruntime-gpu, …"""
    import onnxruntime

    return onnxruntime.__version__


def run_session(session: Any, outputs: Sequence[str], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs by name, on the CPU, for the inputs by name, which may be on any device."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()}
    results = session.run(list(outputs), arrays)
    return {name: torch.from_numpy(array) for name, array in zip(outputs, results, strict=True)}


def run_in_place(
    session: Any, outputs: Sequence[str], inputs: Mapping[str, Tensor], written: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the outputs by name as ``run_session`` does, some of which are written to tensors that exist.

    Args:
        session: the session.
        outputs: the names of all outputs.
        inputs: the inputs by name, on any device.
        written: by the name of an output, a contiguous tensor of its size on the CPU. It may be an input, too, if the
            graph reads that input only to write the output.
    """
    import onnxruntime

    binding = session.io_binding()
    values: dict[int, Any] = {}  # by address: an input that is an output, too, is one value

    def bound(tensor: Tensor) -> Any:
        if tensor.data_ptr() not in values:
            values[tensor.data_ptr()] = onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy())  # the same memory
        return values[tensor.data_ptr()]

    for name, tensor in written.items():
        binding.bind_ortvalue_output(name, bound(tensor))
    for name, tensor in inputs.items():
        binding.bind_ortvalue_input(name, bound(tensor.detach().cpu().contiguous()))
    others = [name for name in outputs if name not in written]
    for name in others:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    arrays = [value.numpy() for value in binding.get_outputs()[len(written) :]]
    return {name: torch.from_numpy(array) for name, array in zip(others, arrays, strict=True)} | dict(written)


# ---------------------------------------------------------------------------------------------- writing


def check_packages(advice: str) -> None:
    """Raise ImportError, which ends with the ``advice``, where a package that writes or runs ONNX is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX files are written by onnx and onnxscript and compared by onnxruntime, and {error.name} is missing: "
            f"{how_to_install('onnx', 'onnxruntime', 'onnxscript')}; {advice}"
        ) from error


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Suppress the exporters' logs and warnings about their internals; failures are compared or raised."""
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


@contextlib.contextmanager
def _out_of_place(graph: nn.Module) -> Iterator[None]:
    """Let activations write to new tensors inside the block; exporting those in place takes three times as long."""
    changed = [module for module in graph.modules() if getattr(module, "inplace", False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


def trace(
    graph: nn.Module, example: tuple[Any, ...], refusal: str, free: Mapping[int, Mapping[int, str]] | None = None
) -> torch.export.ExportedProgram:
    """Return the program that torch.export traces, with a free first axis of every tensor.

    Args:
        graph: the module; tensors and trees of tensors are its inputs and outputs.
        example: its inputs, whose free axes are larger than 1, since a size of 1 would become a constant.
        refusal: the beginning of the message of the ValueError for code that a graph cannot express.
        free: further free axes: number of the input → axis → its name. Such an input is a tensor.
    """
    batch = torch.export.Dim("batch")
    shapes: list[Any] = [map_state(lambda _: {0: batch}, tree) for tree in example]  # type: ignore[arg-type,return-value]
    for number, axes in (free or {}).items():
        shapes[number] |= {axis: torch.export.Dim(name) for axis, name in axes.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_out_of_place(graph))
        for module in graph.modules():
            for value in vars(module).values():
                if isinstance(value, WeightTables):  # its tables were computed from the example
                    stack.enter_context(value.fixed())
        try:
            program = torch.export.export(graph, example, dynamic_shapes=tuple(shapes), strict=False)
        except Exception as error:  # torch raises many types for code that a graph cannot express
            raise ValueError(f"{refusal}: torch.export says {_short(error)}") from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names files of this machine
    return program


def save_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    metadata: Mapping[str, str],
    name: str,
    advice: str,
    free: Mapping[int, Mapping[int, str]] | None = None,
) -> None:
    """Write a traced program to an .onnx file.

    Args:
        program: what ``trace`` returned.
        path: the file.
        inputs: the names of the inputs.
        outputs: the names of the outputs.
        metadata: the metadata of the file, by key.
        name: the name of the network, for messages.
        advice: the end of the message of the ValueError for operators that ONNX does not have.
        free: as in ``trace``; the names of the axes.
    """
    try:
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # many types are raised for operators that ONNX does not have
        raise ValueError(f"{name} cannot be written as ONNX ({_short(error)}); {advice}") from error
    assert onnx_program is not None
    model = onnx_program.model
    symbols: dict[str, str] = {}
    for number, value in enumerate((*model.graph.inputs, *model.graph.outputs)):
        assert value.shape is not None
        value.shape[0] = "batch"
        if number < len(inputs):
            symbols |= {str(value.shape[axis]): axis_name for axis, axis_name in (free or {}).get(number, {}).items()}
        for axis in range(1, len(value.shape)):
            value.shape[axis] = symbols.get(str(value.shape[axis]), value.shape[axis])
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # the names of PyTorch's nodes are two thirds of a small file
    model.metadata_props.update(metadata)
    onnx_program.save(path, external_data=False)


def num_bytes(graph: nn.Module) -> int:
    """Return the number of bytes of a module's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
