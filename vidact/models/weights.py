"""Weights on disk: a file names the function that builds its network, so opening it needs nothing else.

A vidact file is a ``.safetensors`` file whose metadata contain one JSON record, or a Lightning ``.ckpt`` with the same
record under ``"vidact"`` and the network's tensors under ``"network."``. The record is::

    {"format": 1, "recipe": {"builder": "vidact.models.tsn_resnet18", "arguments": {…}}, "input": {…}, "classes": […]}

An online detector's file may also contain the tensors of its feature extractor, so that no other file is needed to
stream:
``"extractor.…"`` in a ``.safetensors`` file, a dict under ``"extractor"`` in a ``.ckpt``.

``from_reference`` reads weights published elsewhere, by tables of old name → new name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeGuard, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vidact import hub
from vidact.batch import ClipInput
from vidact.files import replacing
from vidact.hub.download import pin_of
from vidact.hub.huggingface import published_in
from vidact.models.offline_decoding import Decoding
from vidact.records import FORMAT, Record, blamed, parse, unreadable_weights
from vidact.text.layouts import REFERENCES
from vidact.text.names import counted, first_few, plain_name, same_names

EXTRACTOR = "extractor."  # the prefix of the names of the extractor's tensors in a .safetensors file

# Files that `vidact export` writes and that cannot be read here: the suffix, and the description for messages.
EXPORTED = {
    ".onnx": "an ONNX file",
    ".pt2": "a program of torch.export (no stream plays one: export it as .onnx for that)",
}

Rules = Sequence[tuple[str, str | None]]
Arguments = ParamSpec("Arguments")
Network = TypeVar("Network", bound=nn.Module)


# ---------------------------------------------------------------------------------------------- what a network carries


def attach(network: nn.Module, **facts: Any) -> None:
    """Set the attributes ``recipe``, ``record``, ``extractor_state``, ``input`` or ``decoding``; a copy has them too.

    Only this function sets them. ``vars`` is used because ``nn.Module`` declares its attributes as tensors and modules.
    """
    vars(network).update(facts)


def recipe_of(network: nn.Module) -> Mapping[str, Any] | None:
    """Return the recipe that ``builder`` gave the network; None for a network that no builder made."""
    return vars(network).get("recipe")


def record_of(network: nn.Module) -> Record:
    """Return the record that ``load`` gave the network, or that was set as ``network.record``; else an empty one."""
    record = vars(network).get("record", {})
    return record if isinstance(record, Record) else Record.from_dict(record, f"the record of {type(network).__name__}")


def extractor_state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the feature extractor that ``load`` found in a detector's file; empty without one."""
    return vars(network).get("extractor_state", {})


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of named tensors, without counters of training batches, which old files lack."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):
            tensor = state[name]
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def input_of(network: nn.Module) -> ClipInput | None:
    """Return the description of the clips that the network takes; None for a network that has none (a detector)."""
    clip_input = getattr(network, "input", None)
    return clip_input if isinstance(clip_input, ClipInput) else None


# ---------------------------------------------------------------------------------------------- recipes


def builder(function: Callable[Arguments, Network]) -> Callable[Arguments, Network]:
    """Mark a function that builds a network; every network that it returns gets its recipe.

    ``network.recipe`` contains the function's import path and all its arguments, defaults included, as plain data.
    When one builder calls another, the recipe of the outer one is kept. An argument called ``weights`` (or
    ``…_weights``) only determines where training starts, so ``load`` passes None. When ``weights`` is a vidact file,
    the network is built without weights and ``initialise_from`` copies the tensors of the file that fit. An address of
    the hub (``hf://owner/name/file``) stands for its file.
    """
    if "<" in function.__qualname__ or "." in function.__qualname__:
        raise ValueError(f"{function.__qualname__} cannot be a builder: a recipe can name module-level functions only")
    signature = inspect.signature(function)
    # A recipe names the package of vidact's own networks, not the file, so that a function can move to another file.
    module = function.__module__
    if module.startswith(("vidact.models.", "vidact.features.")):
        module = ".".join(module.split(".")[:2])

    @functools.wraps(function)
    def build(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Network:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        recipe = {
            "builder": f"{module}.{function.__name__}",
            "arguments": {
                name: _plain(value, f"{function.__name__}({name}=…)") for name, value in bound.arguments.items()
            },
        }
        start = bound.arguments.get("weights")
        if isinstance(start, str) and hub.is_address(start):
            bound.arguments["weights"] = start = str(hub.local(start))
        if isinstance(start, str) and is_vidact_file(start):
            bound.arguments["weights"] = None
            network = function(*bound.args, **bound.kwargs)
            initialise_from(network, start)
        else:
            network = function(*bound.args, **bound.kwargs)
        attach(network, recipe=recipe)
        return network

    vars(build)["is_builder"] = True
    return build


def is_builder(function: object) -> TypeGuard[Callable[..., nn.Module]]:
    """Return whether ``function`` is marked with ``builder``."""
    return callable(function) and bool(getattr(function, "is_builder", False))


def _plain(value: Any, name: str) -> Any:
    """Return the value after a round trip through JSON; raise ValueError for a value that JSON cannot hold."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {value!r}, which a recipe cannot hold; use numbers, text, lists and None"
        ) from error


def build_from_recipe(recipe: Mapping[str, Any], trust: Iterable[str] = ()) -> nn.Module:
    """Build the network of a recipe, with random weights.

    Builders inside vidact are safe to run; those of another package run only when ``trust`` names the package.
    """
    path = str(recipe.get("builder", ""))
    packages = ("vidact", *([trust] if isinstance(trust, str) else trust))
    if not any(path.startswith(f"{package}.") for package in packages):
        package = path.partition(".")[0]
        raise ValueError(
            f"the builder {path!r} is outside vidact, and opening the file would run its code. "
            f"If you trust it, pass trust=({package!r},)"
        )
    module_name, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"there is no builder {path!r} ({error}); a newer or older vidact may have written it"
        ) from error
    if not is_builder(function):
        raise ValueError(
            f"{path!r} is not a builder; functions that build networks carry @vidact.models.weights.builder"
        )
    arguments = dict(recipe.get("arguments", {}))
    parameters = inspect.signature(function).parameters
    unknown = sorted(set(arguments) - set(parameters))
    if unknown:
        raise ValueError(f"{path} has no argument {', '.join(unknown)}; it takes {', '.join(parameters)}")
    for argument in parameters:
        if argument == "weights" or argument.endswith("_weights"):
            arguments[argument] = None
    return function(**arguments)


# The largest number in a recipe that is accepted without a tensor of that size in the file: counts of tokens or pixels
# are not the side of any tensor.
LARGEST_ARGUMENT = 16_384


def build_for(
    state_dict: Mapping[str, Tensor], recipe: Mapping[str, Any], trust: Iterable[str], source: str
) -> nn.Module:
    """Build the network of a recipe, with random weights, after checking that it can be the one of these tensors.

    The recipe of an untrusted file can contain any size. Where an argument is larger than every side of the file's
    tensors, the network is first built without memory for its weights, and a ValueError is raised where its tensors
    differ from the file's.
    """
    side = max((side for value in state_dict.values() for side in value.shape), default=0)
    arguments = dict(recipe.get("arguments") or {})
    largest = 0.0
    for name, value in arguments.items():
        for number in _numbers(value):
            largest = max(largest, abs(number))
            if not abs(number) <= max(LARGEST_ARGUMENT, side):
                raise ValueError(
                    f"{source}: recipe.arguments.{name} is {number:g}, and its tensors have at most {side:,} values a "
                    "side; it is damaged or not ours"
                )
    blame = f"{source}: recipe.arguments ({', '.join(arguments)})"
    # Builders of other packages may compute with numbers, which tensors without memory do not have.
    if largest > side and str(recipe.get("builder", "")).startswith("vidact."):
        with blamed(blame), torch.device("meta"):
            sketch = build_from_recipe(recipe)
        refuse_misfits(sketch, rename(state_dict, ()), source=source)
    with blamed(blame):
        return build_from_recipe(recipe, trust)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)


def refuse_another_network(network: nn.Module, trust: Iterable[str] = ()) -> None:
    """Raise ValueError where a file of ``network`` could not be opened: its recipe builds another network, or none."""
    recipe = describe(network)["recipe"]
    try:
        with torch.device("meta"):  # only the shapes are needed, no weight is computed
            twin = build_from_recipe(recipe, trust)
    except RuntimeError:  # the builder of another package may compute with its weights
        twin = build_from_recipe(recipe, trust)
    mine, theirs = ({key: _shape(value) for key, value in net.state_dict().items()} for net in (network, twin))
    if mine != theirs:
        key = min(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        raise ValueError(
            f"{type(network).__name__} is not what its recipe, {recipe['builder']}, builds: {key} has the shape "
            f"{mine.get(key, 'none')}, and {theirs.get(key, 'none')} in the recipe's. A checkpoint of it could not be "
            "opened: mark the function that makes the whole network with @vidact.models.weights.builder"
        )


def refuse_other_classes(classes: Sequence[str], outputs: int, source: str) -> None:
    """Raise ValueError where a file of a recogniser does not name each output."""
    if len(classes) != outputs:
        raise ValueError(f"{source} has {outputs} outputs and names {len(classes)} classes; it is damaged or not ours")


# ---------------------------------------------------------------------------------------------- vidact files


def describe(network: nn.Module) -> Record:
    """Return the part of a record that the network itself determines: recipe and input."""
    recipe, clip_input = recipe_of(network), input_of(network)
    if recipe is None:
        raise ValueError(
            f"{type(network).__name__} has no recipe, so a file could not say how to build it again; "
            "build it with a size function, or mark your own with @vidact.models.weights.builder"
        )
    return Record(recipe=recipe, input=None if clip_input is None else clip_input.as_dict())


def save(network: nn.Module, path: str | Path, record: Mapping[str, Any] | None = None) -> Path:
    """Write the network to a ``.safetensors`` file that ``load`` opens.

    Args:
        path: the file; its folder is made, and an existing file is replaced only once the new one is complete.
        record: the facts that the network itself does not hold: classes, sampling, multi_label, … as plain data. By
            default the record of a network that ``load`` returned.

    The ``extractor_state`` of a network (see ``load``) is written into the file, too.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name}: networks are saved as .safetensors; choose a name that ends so")
    extra = record_of(network) if record is None else record
    complete = Record.from_dict(_plain({**extra, **describe(network)}, "the record"), "the record")
    text = json.dumps(complete.to_dict())
    extractor = {EXTRACTOR + key: tensor for key, tensor in extractor_state_of(network).items()}
    tensors = {
        key: tensor.detach().cpu().contiguous().clone()
        for key, tensor in (dict(network.state_dict()) | extractor).items()
    }
    with replacing(path) as half:
        half.write_bytes(safetensors.torch.save(tensors, metadata={"vidact": text}))
    return path


def load(path: str | Path, trust: Iterable[str] = ()) -> nn.Module:
    """Open a trained network: a ``.safetensors`` file that vidact wrote, or a Lightning ``.ckpt`` of a vidact run.

    ``path`` may also be the name of a published network, one of ``vidact.hub.PUBLISHED``, such as "x3d_s", or a
    repository of the Hugging Face hub, ``hf://owner/name[@revision][/file]``: the file is downloaded unless the cache
    holds it.

    Args:
        trust: packages outside vidact whose builders may run.

    Returns:
        The network in evaluation mode, on the CPU. ``network.record`` has its classes, input and sampling.
        ``network.extractor_state`` has the tensors of a detector's feature extractor, where the file contains them, for
        ``vidact.features.extractor.FeatureExtractor.load(network.record["features"], …)``.
    """
    if (published := hub.named(path)) is not None:
        return open_published(published)
    path, address = hub.local(path), path
    state_dict, record, extractor = _read(path)
    if record is None:
        name = published_in(address)
        advice = f"It is the published network {name}: give this name instead. " if name else ""
        raise ValueError(
            f"{hub.text_of(address)} holds weights but no vidact record, so it does not say which network they belong "
            f"to. {advice}Convert published weights with vidact convert, or pass a backbone's file as weights= of a "
            "size function"
        )
    if record.format > FORMAT:
        raise ValueError(f"{path} has format {record.format}; this vidact reads up to {FORMAT}: install a newer one")
    if record.extractor is not None:
        raise ValueError(
            f"{path} is the extractor of a detector's features and names no actions itself. It is for `vidact extract "
            "features --network`, and for --extractor of `vidact stream`, `serve` and `export`"
        )
    if record.recipe is None:
        raise ValueError(f"{path}: its record has no recipe, so the network cannot be built")
    with blamed(path):
        network = build_for(state_dict, record.recipe, trust, str(path))
    load_strictly(network, state_dict, source=str(path))
    if record.input is not None:
        with blamed(f"{path}: the input of its record"):
            attach(network, input=ClipInput(**record.input))
    if record.decoding is not None:
        with blamed(f"{path}: the decoding of its record"):
            attach(network, decoding=Decoding(**record.decoding))
    attach(network, record=record, extractor_state=extractor)
    return network.eval()


def is_vidact_file(path: str | Path) -> bool:
    """Return whether ``path`` is a file with a vidact record; False for a path without a file."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".ckpt") or not path.is_file():
        return False
    return _read_record(path) is not None if path.suffix == ".safetensors" else read(path)[1] is not None


def _read_record(path: Path) -> Record | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise unreadable_weights(path, error) from error
    if "vidact" not in metadata:
        return None
    return Record.from_dict(parse(metadata["vidact"], f"the record of {path}"), path)


def read(path: str | Path, averaged: bool = False) -> tuple[dict[str, Tensor], Record | None]:
    """Read the tensors of a weight file, and its record; the record is None for a file that vidact did not write.

    The file is a ``.safetensors``, or one that ``torch.load(weights_only=True)`` reads: a bare state dict, or one under
    ``state_dict``, ``model_state``, ``model`` or ``module`` (DeepSpeed's). Nothing in the file is executed: besides
    tensors and plain data it may contain the numpy values and the training logs that are listed by name below. The
    tensors of a detector's feature extractor are not returned. For the name of a published network, as in ``load``, the
    tensors have the names of the network that ``load`` returns. ``path`` may be an address of the hub, as in ``load``.
    With ``averaged``, a file's ``state_dict_ema`` is read where it has one: averages of the weights of training.
    """
    return _read(path, averaged)[:2]


def _read(path: str | Path, averaged: bool = False) -> tuple[dict[str, Tensor], Record | None, dict[str, Tensor]]:
    """Read a file as ``read`` does; return the tensors of a detector's feature extractor (possibly none), too."""
    if (published := hub.named(path)) is not None:
        network = open_published(published)
        return dict(network.state_dict()), record_of(network), {}
    path = Path(hub.local(path))
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; name the file in it, for instance {path / 'checkpoints/best.ckpt'}"
        )
    if not path.is_file():
        networks = importlib.import_module("vidact.models").__all__
        raise FileNotFoundError(f"there is no file {path}{hub.advice(path, networks)}")
    if path.suffix in EXPORTED:
        raise ValueError(
            f"{path} is {EXPORTED[path.suffix]}, which is not read here; give the .ckpt or .safetensors that it was "
            "exported from"
        )
    if path.suffix == ".safetensors":
        record = _read_record(path)
        try:
            stored = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise unreadable_weights(path, error) from error
        if record is None:
            return stored, None, {}
        extractor = {key.removeprefix(EXTRACTOR): stored[key] for key in stored if key.startswith(EXTRACTOR)}
        return {key: value for key, value in stored.items() if not key.startswith(EXTRACTOR)}, record, extractor
    try:
        with torch.serialization.safe_globals([*_NUMPY, *_IGNORED_OBJECTS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle raise many types: struct.error, KeyError, IndexError, …
        raise unreadable_weights(path, error) from None  # PyTorch's message advises to run the code in the file
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not named tensors")
    values = content.get("vidact")
    record = None if values is None else Record.from_dict(values, path)
    tensors: Any = content
    for key in (*(["state_dict_ema"] if averaged else []), "state_dict", "model_state", "model", "module"):
        if isinstance(content.get(key), Mapping):
            tensors = content[key]
            break
    if odd := next((key for key in tensors if not isinstance(key, str)), None):
        raise ValueError(f"{path} holds something called {odd!r}; tensors are called by text")
    if record is not None:  # in a Lightning checkpoint, the module around the network has other tensors
        tensors = {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    state_dict = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not state_dict:
        raise ValueError(f"{path} holds no tensors; its entries are {', '.join(map(str, list(content)[:8])) or 'none'}")
    extractor = content.get("extractor") or {}
    if record is None:
        return state_dict, None, {}
    if not isinstance(extractor, Mapping) or not all(isinstance(value, Tensor) for value in extractor.values()):
        raise ValueError(f"{path} is damaged or not ours: extractor is {type(extractor).__name__}, not named tensors")
    return state_dict, record, dict(extractor)


class Ignored:
    """A replacement for objects of a training run (options, logs) in a published file; their content is dropped."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Research code saves its best accuracy as a numpy value beside the tensors (under numpy 1 and 2's module names).
_numpy_scalar = np.float64(0).__reduce__()[0]
_numpy_array = np.zeros(0).__reduce__()[0]
_NUMPY: list[Any] = [
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_numpy_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *(getattr(np.dtypes, f"{kind}DType") for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")),
]

# Other objects that published files contain, by name: the options of argparse, yacs and mmengine, the loss log of
# mmengine (which stores its statistics as calls of getattr), and the options of Lightning.
_IGNORED_OBJECTS: list[Any] = [
    (Ignored, name)
    for name in (
        "argparse.Namespace",
        "builtins.getattr",
        "fvcore.common.config.CfgNode",
        "yacs.config.CfgNode",
        "mmengine.config.config.Config",
        "mmengine.config.config.ConfigDict",
        "mmengine.logging.history_buffer.HistoryBuffer",
        "lightning.fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    )
]


# ---------------------------------------------------------------------------------------------- fitting tensors


def rename(state_dict: Mapping[str, Any], rules: Rules) -> dict[str, tuple[str, Tensor]]:
    """Return new name → (old name, tensor), by an ordered table of (regular expression, replacement).

    Each rule is applied to the result of the rules before it; a replacement of None drops the tensor. A leading
    ``module.`` (DataParallel) is always removed.
    """
    renamed: dict[str, tuple[str, Tensor]] = {}
    for old, value in state_dict.items():
        new: str | None = old.removeprefix("module.")
        for pattern, replacement in rules:
            if replacement is None:
                if re.search(pattern, new):  # type: ignore[arg-type]
                    new = None
                    break
            else:
                new = re.sub(pattern, replacement, new)  # type: ignore[arg-type]
        if new is None:
            continue
        if new in renamed:
            raise ValueError(f"{old} and {renamed[new][0]} both become {new}; the file mixes two layouts")
        renamed[new] = (old, torch.as_tensor(value))
    return renamed


def load_strictly(
    network: nn.Module, state_dict: Mapping[str, Any], rules: Rules = (), optional: str = "", source: str = "the file"
) -> None:
    """Copy tensors into the network; raise ValueError for a tensor that is unused, absent or of another shape.

    Args:
        rules: see ``rename``.
        optional: regular expression for tensors of the network that may be absent (tables it computes itself).
            ``num_batches_tracked`` may always be absent: files older than PyTorch 0.4.1 lack it.
    """
    renamed = rename(state_dict, rules)
    refuse_misfits(network, renamed, optional, source)
    network.load_state_dict({new: value for new, (_, value) in renamed.items()}, strict=False)


def refuse_misfits(
    network: nn.Module, renamed: Mapping[str, tuple[str, Tensor]], optional: str = "", source: str = "the file"
) -> None:
    """Raise ValueError where renamed tensors are not all those of the network, by name and shape; see load_strictly."""
    targets = network.state_dict()
    unknown = [old for new, (old, _) in renamed.items() if new not in targets]
    missing = [key for key in targets if key not in renamed and not _may_be_absent(key, optional)]
    wrong = [
        f"{old} {_shape(value)} for {_shape(targets[new])}"
        for new, (old, value) in renamed.items()
        if new in targets and value.shape != targets[new].shape
    ]
    complaints = [
        f"{len(keys)} {fault}: {_list(keys)}"
        for fault, keys in (("unknown", unknown), ("missing", missing), ("of the wrong shape", wrong))
        if keys
    ]
    if complaints:
        raise ValueError(f"{source} does not fit {type(network).__name__}: {'; '.join(complaints)}")


def load_weights(module: nn.Module, path: str | Path, ignore: str = "", rules: Rules = ()) -> None:
    """Load a backbone's local weight file; half precision is converted to the module's.

    Args:
        ignore: regular expression for the names of tensors that are not loaded: the ImageNet classifier.
    """
    state_dict, _ = read(path)
    dropped: Rules = [(ignore, None)] if ignore else []
    load_strictly(module, state_dict, [*dropped, *rules], source=str(path))


@dataclass
class Fit:
    """The result of ``initialise_from``: names of tensors, and of classes.

    ``loaded`` were copied from the file, ``reinitialised`` stayed random, ``unused`` are in the file only. Of the
    tensors in ``partly``, only the rows of ``classes`` were copied.
    """

    loaded: list[str]
    reinitialised: list[str]
    unused: list[str]
    partly: list[str]
    classes: list[str]


def initialise_from(
    network: nn.Module, path: str | Path, classes: Sequence[str] = (), heads: Sequence[str] = ()
) -> Fit:
    """Copy every tensor whose name and shape fit, for fine-tuning, and print what was not copied.

    Where both sides name their classes, the rows of a classifier are copied class by class: those of equal names, by
    ``plain_name``, and that of the background of two detectors. The rows of all other classes stay random.

    Args:
        network: the network whose tensors are replaced.
        path: a weight file, the name of a published network, or an address of the hub.
        classes: names of the network's classes in the order of its outputs, without a background; none if unknown.
        heads: names of the classifiers, whose tensors have one row an output.

    >>> fit = initialise_from(tsn_resnet18(num_classes=10, weights=None), "kinetics.safetensors")  # doctest: +SKIP
    kinetics.safetensors: 120 tensors taken; re-initialised: fc.weight (10, 512), the file has (400, 512), …
    """
    state_dict, record = read(path)
    targets = network.state_dict()
    fitting = {key: value for key, value in state_dict.items() if key in targets and value.shape == targets[key].shape}
    if not any(value.is_floating_point() and value.ndim for value in fitting.values()):
        raise ValueError(
            f"no tensor of {path} fits {type(network).__name__} by name and shape: "
            f"the file has {_list(list(state_dict), 3)}; the network has {_list(list(targets), 3)}"
        )
    sources = (record.classes if record is not None else None) or []
    head = [f"{name}.{kind}" for name in heads for kind in ("weight", "bias")]
    by_name = [
        key
        for key in head
        if classes and sources and key in state_dict and key in targets
        if state_dict[key].shape[1:] == targets[key].shape[1:]
        if not (key in fitting and same_names(sources, classes))
    ]
    pairs: dict[int, int] = {}
    for key in by_name:
        pairs = _rows_of_equal_names(classes, len(targets[key]), sources, len(state_dict[key]))
        fitting.pop(key, None)
        if pairs:
            fitting[key] = targets[key].clone()
            fitting[key][list(pairs)] = state_dict[key][list(pairs.values())].to(targets[key])
    network.load_state_dict(fitting, strict=False)
    names = {plain_name(name) for name in sources}
    fit = Fit(
        loaded=[key for key in fitting if key not in by_name],
        reinitialised=[key for key in targets if key not in fitting and not _may_be_absent(key)],
        unused=[key for key in state_dict if key not in targets],
        partly=[key for key in by_name if key in fitting],
        classes=[name for name in classes if plain_name(name) in names] if by_name else [],
    )
    fresh = [
        f"{key} {_shape(targets[key])}"
        + (f", the file has {_shape(state_dict[key])}" if key in state_dict else "")
        + (" of other classes" if key in by_name else "")
        for key in fit.reinitialised
    ]
    rows = ""
    if fit.partly:
        more = " and of the background" if len(pairs) > len(fit.classes) else ""
        some = f" ({first_few(fit.classes)})" if fit.classes else ""
        rows = (
            f"of the head ({_list(fit.partly, 2)}) the rows of {len(fit.classes)} of "
            f"{counted(len(classes), 'class', 'classes')} kept{some}{more}; "
        )
    print(
        f"{path}: {len(fit.loaded)} tensors taken; {rows}re-initialised: {_list(fresh) or 'none'}; "
        f"unused: {_list(fit.unused) or 'none'}"
    )
    return fit


def _rows_of_equal_names(
    classes: Sequence[str], outputs: int, others: Sequence[str], other_outputs: int
) -> dict[int, int]:
    """Return row of a classifier → row of the other one, for classes of equal names.

    With more outputs than classes, row 0 is the background and the rows of the classes follow.
    """
    first, other_first = int(outputs > len(classes)), int(other_outputs > len(others))
    rows = {plain_name(name): other_first + row for row, name in enumerate(others)}
    pairs = {0: 0} if first and other_first else {}
    pairs |= {first + row: rows[plain_name(name)] for row, name in enumerate(classes) if plain_name(name) in rows}
    return pairs


def _may_be_absent(key: str, optional: str = "") -> bool:
    return key.endswith("num_batches_tracked") or bool(optional and re.search(optional, key))


def _list(keys: Sequence[str], most: int = 12) -> str:
    more = [f"… and {len(keys) - most} more"] if len(keys) > most else []
    return ", ".join([*keys[:most], *more])


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


# ---------------------------------------------------------------------------------------------- published layouts


def from_reference(origin: str, state_dict: Mapping[str, Any], **hyperparameters: Any) -> nn.Module:
    """Build a network with published weights, in evaluation mode.

    Args:
        origin: the layout of the names, one of ``REFERENCES``.
        state_dict: the published file's tensors (torch or numpy); a leading ``module.`` is removed from their names.
        hyperparameters: arguments that do not follow from the names: num_classes, backbone, …
    """
    if origin not in REFERENCES:
        raise ValueError(f"origin {origin!r} is unknown; the layouts are {', '.join(sorted(REFERENCES))}")
    module, _, name = REFERENCES[origin].partition(":")
    function = getattr(importlib.import_module(module), name)
    try:
        bound = inspect.signature(function).bind(state_dict, **hyperparameters)
    except TypeError as error:
        expected = ", ".join(list(inspect.signature(function).parameters)[1:])
        raise ValueError(f"from_reference({origin!r}): {error}; its hyperparameters are {expected}") from error
    return function(*bound.args, **bound.kwargs).eval()


def takes_arguments_of(
    build: Callable[..., nn.Module], **defaults: Any
) -> Callable[[Callable[..., Network]], Callable[..., Network]]:
    """Give a layout's function, ``from_…(state_dict, **arguments)``, the arguments of a builder, by name.

    Args:
        build: the builder, whose argument list this saves writing a second time.
        defaults: the values of published weights, where they differ from the builder's defaults.
    """

    def decorate(function: Callable[..., Network]) -> Callable[..., Network]:
        (first, *_), own = inspect.signature(function).parameters.values(), inspect.signature(build)
        arguments = [
            parameter.replace(
                kind=inspect.Parameter.KEYWORD_ONLY, default=defaults.get(parameter.name, parameter.default)
            )
            for parameter in own.parameters.values()
        ]

        @functools.wraps(function)
        def filled(state_dict: Mapping[str, Any], **options: Any) -> Network:
            return function(state_dict, **(defaults | options))

        vars(filled)["__signature__"] = own.replace(parameters=[first, *arguments])
        return filled

    return decorate


# ---------------------------------------------------------------------------------------------- published networks


def open_published(published: hub.Published) -> nn.Module:
    """Return a published network, in evaluation mode, on the CPU; its file is downloaded unless the cache holds it.

    Raises:
        ValueError: where the file cannot be read, or contains another network. Its hash is then not kept, so that the
            right file can take its place.
    """
    path = hub.fetch(published)
    try:
        try:
            state_dict = read(path)[0]
        except ValueError as error:
            raise ValueError(f"{error} Delete it, and it is fetched again") from error
        return build_published(published, state_dict, path)
    except ValueError:
        with contextlib.suppress(OSError):  # a cache that only others write
            pin_of(path).unlink(missing_ok=True)
        raise


def build_published(published: hub.Published, state_dict: Mapping[str, Any], path: Path) -> nn.Module:
    """Build a published network from the tensors of its file, and attach its record.

    Args:
        path: the file, for the record and for messages.

    Raises:
        ValueError: where a tensor is unused, absent or of another shape, or the file contains another network.
    """
    names = list(hub.class_names(published.classes))
    options = {"num_classes": len(names), **published.options}
    again = f"it is not the published file of {published.name}; delete it, and it is fetched again"
    try:
        network = from_reference(published.origin, state_dict, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {again}") from error
    described = describe(network)
    assert described.recipe is not None
    if (name := described.recipe["builder"].rpartition(".")[2]) != published.network:
        raise ValueError(f"{path} contains {name} in place of {published.network}: {again}")
    facts = {
        "classes": names,
        "multi_label": False,
        "sampling": published.sampler,
        "converted": {"origin": published.origin, "file": path.name, "hyperparameters": options},
        "source": published.address,
        "licence": published.licence,
    }
    attach(network, record=Record.from_dict({**facts, **described}, path), extractor_state={})
    return network
