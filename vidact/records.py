"""Records: the facts about itself that a file contains, checked when the file is read.

Weights, exported graphs, features and runs carry records as JSON. A file from elsewhere can hold anything there: values
of the wrong type, sizes beyond any memory. So a record is checked first, and an error names the file and the key;
nothing is built or allocated from a record that was not checked. Older files lack some keys, so an absent key is no
error here: the code that needs the key raises one.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 1  # the version of the records that this vidact writes, and the newest that it reads
LARGEST_SIDE = 8192  # pixels of a network's input
LONGEST = 100_000  # frames of a clip or a chunk
WIDEST = 10_000_000  # values of a vector, outputs of a network
FASTEST = 1000.0  # frames or tokens a second
MOST_STATE = 1 << 26  # numbers of the state of one stream
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


class Kind(NamedTuple):
    """A kind of value: its description for error messages, and the test that a value has to pass."""

    description: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Return whether the value is a finite int or float, no bool, below 1e300 in absolute value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and value == value


def is_whole(value: Any, least: int = 0, most: int = 1 << 62) -> bool:
    """Return whether the value is an int, no bool, from ``least`` to ``most``."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_shown(name: str) -> bool:
    """Return whether the name has a visible letter and no control character, which a terminal would obey."""
    return bool(name.strip()) and not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name)


def whole(least: int, most: int) -> Kind:
    """Return the kind of a whole number from ``least`` to ``most``."""
    return Kind(f"a whole number from {least} to {most:,}", lambda value: is_whole(value, least, most))


def rate(most: float) -> Kind:
    """Return the kind of a number above 0 and at most ``most``."""
    return Kind(f"a number above 0, at most {most:g}", lambda value: is_number(value) and 0 < value <= most)


def list_of(items: str, fits: Callable[[Any], bool]) -> Kind:
    """Return the kind of a list; ``items`` describes its items, and ``fits`` tests one."""
    return Kind(f"a list of {items}", lambda value: isinstance(value, list | tuple) and all(map(fits, value)))


TEXT = Kind("text", lambda value: isinstance(value, str))
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
NUMBER = Kind("a number", is_number)
NAMES = list_of("names", lambda value: isinstance(value, str))
CLASSES = Kind(
    "a list of different names that can be printed",
    lambda value: NAMES.fits(value) and len(set(value)) == len(value) and all(map(_is_shown, value)),
)
VERSION = whole(0, 1 << 30)
FACTORS = Kind(
    "a list of finite numbers",
    lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(is_number, value)),
)
NONZERO = Kind("a list of numbers that are not 0", lambda value: FACTORS.fits(value) and all(value))
THRESHOLDS = Kind(
    "a number or a list of numbers",
    lambda value: is_number(value) or (isinstance(value, list | tuple) and all(map(is_number, value))),
)

INPUT = {
    "frames": whole(1, LONGEST),
    "size": whole(1, LARGEST_SIDE),
    "resize": whole(1, LARGEST_SIDE),
    "mean": FACTORS,
    "std": NONZERO,
    "channels": whole(1, 4096),
    "images_per_frame": whole(0, 1024),
    "flow_fields": whole(0, 1024),
    "flow_bound": NUMBER,
    "order": TEXT,
    "scale": NUMBER,
}
RECIPE = {"builder": TEXT, "arguments": OBJECT}
NETWORK = {"recipe": RECIPE, "input": INPUT}
# The quantisation of a graph (``vidact.export.quantised``) and its loss.
INT8: dict[str, Any] = {
    "measure": TEXT,
    "before": NUMBER,
    "after": NUMBER,
    "loss": NUMBER,
    "max_loss": NUMBER,
    "largest_change": NUMBER,
    "graph_sha256": TEXT,
    "layers": whole(0, 1 << 30),
    "float_layers": NAMES,
    "videos": whole(0, 1 << 30),
    "inputs": whole(0, 1 << 30),
    "onnxruntime": TEXT,
}
AGREEMENT = {"largest_difference": NUMBER, "largest_output": NUMBER}
FEATURES: dict[str, Any] = {
    "format": VERSION,
    "fps": rate(FASTEST),
    "tokens_per_second": rate(FASTEST),
    "grid": {"stride": rate(LONGEST), "frames": rate(LONGEST), "fps": rate(FASTEST)},
    "chunk": whole(1, LONGEST),
    "window": whole(1, LONGEST),
    "dim": whole(1, WIDEST),
    "frames": list_of(
        "lists of whole numbers", lambda row: isinstance(row, list) and all(is_whole(each, -LONGEST) for each in row)
    ),
    "network": NETWORK,
    "flow_network": NETWORK,
    "longest_gap_s": NUMBER,
    "decoder": TEXT,
    "weights_sha256": TEXT,
    "runtime": TEXT,
    "runtime_check": {"torch": TEXT, "onnxruntime": TEXT, "network": AGREEMENT, "flow_network": AGREEMENT},
    "int8": INT8,
}
STATE = {
    "name": TEXT,
    "dtype": Kind(f"one of {', '.join(DTYPES)}", lambda value: value in DTYPES),
    "shape": Kind(
        f"a list of sizes, {MOST_STATE:,} numbers in all",
        lambda value: isinstance(value, list) and all(map(is_whole, value)) and math.prod(value) <= MOST_STATE,
    ),
}
EXPORT: dict[str, Any] = {
    "format": VERSION,
    "what": TEXT,
    "input": TEXT,
    "frames": whole(1, LONGEST),
    "num_classes": whole(1, WIDEST),
    "dim": whole(1, WIDEST),
    "shape": list_of("sizes", lambda value: is_whole(value, 1, WIDEST)),
    "window": whole(0, 1 << 30),
    "future_offsets": list_of("whole numbers", is_whole),
    "state": [STATE],
    "int8": INT8,
    "looks": [{"input": TEXT, "is_image": TRUTH, "dim": whole(1, WIDEST)}],
    "feature_dim": whole(1, WIDEST),
    "max_tokens": whole(1, 1 << 30),
    "strides": list_of("sizes", lambda value: is_whole(value, 1, 1 << 30)),
}
SAMPLER = {
    **{
        key: whole(1, LONGEST)
        for key in ("num_segments", "segment_length", "num_frames", "clip_length", "stride", "num_windows")
    },
    "fps": rate(FASTEST),
    "short": TEXT,
    "variant": TEXT,
    "out_of_range": TEXT,
}
# The keys of a file of weights, a checkpoint or an exported graph.
RECORD: dict[str, Any] = {
    "format": VERSION,
    **NETWORK,
    "classes": CLASSES,
    "multi_label": TRUTH,
    "scores": TEXT,
    "sampling": {"name": TEXT, "arguments": SAMPLER},
    "tokens_per_second": rate(FASTEST),
    "events": {"on": THRESHOLDS, "off": THRESHOLDS},
    "thresholds": OBJECT,
    "kind": TEXT,
    "decoding": OBJECT,
    "min_score": NUMBER,
    "flow": {"method": TEXT},
    "features": FEATURES,
    "extractor": FEATURES,
    "export": EXPORT,
    "converted": {"origin": TEXT, "file": TEXT, "sha256": TEXT, "hyperparameters": OBJECT},
    "source": TEXT,
    "licence": TEXT,
    "runtime": TEXT,
}
# The keys of results.json, which holds the figures of a run.
RESULTS: dict[str, Any] = {
    "commands": Kind(
        "an object: command → names",
        lambda value: isinstance(value, Mapping) and all(map(NAMES.fits, value.values())),
    ),
}


@dataclass(frozen=True, eq=False)
class Part(Mapping[str, Any]):
    """An object inside a record: the keys and values of its file, in the file's order.

    The properties of the classes below are the keys that this version uses. One raises KeyError where its key is
    absent and the code cannot do without; ``blamed`` makes that a ValueError with the file's name.
    """

    entries: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the object as its file holds it."""
        return dict(self.entries)


class NetworkRecord(Part):
    """The record of one network of a feature extractor."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The builder of the network and its arguments."""
        return self["recipe"]

    @property
    def input(self) -> Mapping[str, Any]:
        """The fields of its ``ClipInput``."""
        return self["input"]


class FeaturesRecord(Part):
    """The record of features, features.json, or of the extractor that makes them."""

    @staticmethod
    def from_dict(values: Any, source: str | Path) -> FeaturesRecord:
        """Return the record in ``values``; raise ValueError with the source and the key for a value of another type."""
        return FeaturesRecord(check(values, FEATURES, source))

    def network(self, name: str) -> NetworkRecord | None:
        """Return the record of "network" or "flow_network"; None where the extractor has no such network."""
        described = self.get(name)
        return None if described is None else NetworkRecord(described)

    @property
    def builder(self) -> str | None:
        """The function that built the network; None for features that another program made."""
        return ((self.get("network") or {}).get("recipe") or {}).get("builder")

    @property
    def format(self) -> int:
        """The version of the record."""
        return self.get("format") or 0

    @property
    def fps(self) -> float:
        """The rate of the extractor's clock in frames a second."""
        return self["fps"]

    @property
    def chunk(self) -> int:
        """The number of frames of a token."""
        return self["chunk"]

    @property
    def frames(self) -> list[list[int]]:
        """The frames that each network reads, counted from the first of the chunk: negative before it."""
        return self["frames"]

    @property
    def window(self) -> int:
        """The number of frames of the window of clip networks, up to the end of the chunk; without a value, a chunk."""
        return self.get("window") or self.chunk

    @property
    def flow_method(self) -> str:
        """The method of the optical flow."""
        return self.get("flow_method") or "dis"

    @property
    def decoder(self) -> str:
        """The decoder of the video files."""
        return self["decoder"]

    @property
    def runtime(self) -> str:
        """The runtime of the networks; older records have none, and theirs is PyTorch."""
        return self.get("runtime") or "torch"

    @property
    def int8(self) -> Mapping[str, Any] | None:
        """The quantisation of an int8 extractor and its loss; None for other extractors."""
        return self.get("int8")

    @property
    def longest_gap_s(self) -> float | None:
        """The longest pause, in seconds, that is filled with the frame before it; None where every pause is."""
        return self.get("longest_gap_s")


class StateRecord(NamedTuple):
    """One tensor of the state of an exported step, without the axis of the streams."""

    name: str
    shape: list[int]
    dtype: str
    initial: Any = None  # nested lists of numbers; None is zeros


class InputRecord(NamedTuple):
    """One input of an exported feature extractor."""

    input: str  # the name in the graph
    is_image: bool  # images (N, C, H, W); otherwise clips (N, T, C, H, W)
    dim: int


class ExportRecord(Part):
    """The record of an exported graph: what it computes, its input, its state and its outputs."""

    @property
    def format(self) -> int:
        """The version of the record."""
        return self["format"]

    @property
    def kind(self) -> str:
        """The part of the network that the graph computes: "clip", "step", "video" or "extractor"."""
        return self["what"]

    @property
    def input(self) -> str:
        """The name of the input of a step: "feature" or "frame"."""
        return self["input"]

    @property
    def frames(self) -> int:
        """The number of frames of a clip."""
        return self["frames"]

    @property
    def num_classes(self) -> int:
        """The number of outputs."""
        return self["num_classes"]

    @property
    def shape(self) -> list[int]:
        """The shape of the input of a step, without the axis of the streams."""
        return self["shape"]

    @property
    def window(self) -> int | None:
        """The number of tokens that can matter to an answer; None is all."""
        return self["window"]

    @property
    def future_offsets(self) -> tuple[int, ...]:
        """The tokens that each future output lies ahead."""
        return tuple(self["future_offsets"])

    @property
    def delay(self) -> int:
        """The tokens by which an answer comes late; 0 in files of versions that exported no such detector."""
        return self.get("delay", 0)

    @property
    def state(self) -> list[StateRecord]:
        """The tensors of the state of one stream."""
        return [
            StateRecord(entry["name"], entry["shape"], entry["dtype"], entry.get("initial")) for entry in self["state"]
        ]

    @property
    def feature_dim(self) -> int:
        """The size of a token of an offline network."""
        return self["feature_dim"]

    @property
    def max_tokens(self) -> int | None:
        """The tokens of a training crop of an offline network; None for whole videos."""
        return self.get("max_tokens")

    @property
    def strides(self) -> list[int]:
        """The tokens between two places of each level of a localiser; empty for a segmenter."""
        return self.get("strides") or []

    @property
    def inputs(self) -> list[InputRecord]:
        """The inputs of an extractor, one a network."""
        return [InputRecord(entry["input"], entry["is_image"], entry["dim"]) for entry in self["looks"]]


PARTS: dict[str, type[Part]] = {"features": FeaturesRecord, "extractor": FeaturesRecord, "export": ExportRecord}


@dataclass(frozen=True, eq=False)
class Record(Mapping[str, Any]):
    """The record of a file of weights, a checkpoint or an exported graph.

    An attribute that the file does not have is None. A record is also a mapping, ``record["classes"]``, of the keys
    that the file has; it equals a dict of the same keys and values.

    Args:
        recipe: the builder of the network, ``"builder"``, and its ``"arguments"``.
        input: the fields of the network's ``ClipInput``.
        classes: the names of the actions; empty where the file names none.
        multi_label: whether a clip can have several classes.
        scores: "softmax" or "sigmoid": the function that turns a detector's logits into probabilities.
        sampling: the sampler of the frames of a clip, ``"name"`` and ``"arguments"``.
        flow: the method of the optical flow in training.
        tokens_per_second: the answers of a detector a second.
        events: the settings of the ``EventDetector``.
        thresholds: how the thresholds of the events were chosen, and the figures they had.
        kind: "localiser" or "segmenter" for an offline network; files of other networks have none.
        decoding: how the outputs of a localiser become events, the arguments of ``Decoding``.
        min_score: the least score of an offline network's events that are shown to people.
        features: the record of a detector's features.
        extractor: the record of the feature extractor that a file holds; such a file holds no other network.
        export: the kind, the inputs and the state of an exported graph.
        converted: the file that published weights were converted from.
        source: the origin of the weights.
        licence: the licence of the weights.
        runtime: the runtime of the features that the head of a probe was fitted to; older probes name none.
        format: the version of the record.
        others: keys that this version does not use, such as those of newer ones. They are kept.
    """

    recipe: Mapping[str, Any] | None = None
    input: Mapping[str, Any] | None = None
    classes: list[str] = field(default_factory=list)
    multi_label: bool | None = None
    scores: str | None = None
    sampling: Mapping[str, Any] | None = None
    flow: Mapping[str, Any] | None = None
    tokens_per_second: float | None = None
    events: Mapping[str, Any] | None = None
    thresholds: Mapping[str, Any] | None = None
    kind: str | None = None
    decoding: Mapping[str, Any] | None = None
    min_score: float | None = None
    features: FeaturesRecord | None = None
    extractor: FeaturesRecord | None = None
    export: ExportRecord | None = None
    converted: Mapping[str, Any] | None = None
    source: str | None = None
    licence: str | None = None
    runtime: str | None = None
    format: int = FORMAT
    others: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_dict(values: Any, source: str | Path) -> Record:
        """Return the record in ``values``; raise ValueError with the source and the key for a value of another type."""
        checked = check(values, RECORD, source)
        attributes: dict[str, Any] = {
            key: value for key, value in checked.items() if key in RECORD and value is not None
        }
        for key, part in PARTS.items():
            if key in attributes:
                attributes[key] = part(attributes[key])
        return Record(**attributes, others={key: value for key, value in checked.items() if key not in RECORD})

    def to_dict(self) -> dict[str, Any]:
        """Return the record as files hold it: plain data, without the keys that are absent."""
        values: dict[str, Any] = {"format": self.format}
        for name in (each.name for each in fields(self) if each.name not in ("format", "others")):
            value = getattr(self, name)
            if value is not None and (value or name != "classes"):
                values[name] = value.to_dict() if isinstance(value, Part) else value
        return {**values, **self.others}

    def require(self, *keys: str) -> None:
        """Raise KeyError for the first key that is absent; ``blamed`` makes it a ValueError with the file's name."""
        for key in keys:
            if key not in self:
                raise KeyError(key)

    @property
    def activation(self) -> str:
        """The function that makes probabilities of the logits, "softmax" or "sigmoid"; see ``vidact.batch``."""
        return "sigmoid" if self.multi_label else self.scores or "softmax"

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())


def check(record: Any, kinds: Mapping[str, Any], source: str | Path, key: str = "") -> dict[str, Any]:
    """Return the record as a dict; raise ValueError, with the source and the key, for a value of another kind.

    Args:
        record: a mapping; keys that ``kinds`` does not name may hold anything.
        kinds: a ``Kind``, an inner mapping of them, or a list of one such mapping, by key.
        source: the file, for messages.
        key: the key of the record in an outer record, for messages.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{source} is damaged or not ours: {key or 'its record'} is {_short(record)}, not an object")
    for name, kind in kinds.items():
        value, path = record.get(name), f"{key}.{name}".removeprefix(".")
        if value is None:
            continue
        if isinstance(kind, Mapping):
            check(value, kind, source, path)
        elif isinstance(kind, list):
            if not isinstance(value, list):
                raise ValueError(f"{source} is damaged or not ours: {path} is {_short(value)}, not a list")
            for number, inner in enumerate(value):
                check(inner, kind[0], source, f"{path}.{number}")
        elif not kind.fits(value):
            raise ValueError(f"{source} is damaged or not ours: {path} is {_short(value)}; it is {kind.description}")
    return dict(record)


def parse(text: str | bytes, source: str | Path, advice: str = "") -> Any:
    """Return the value of JSON text; raise ValueError with the source, and with the ``advice``, for other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{source} is not valid JSON ({why}){f'; {advice}' if advice else ''}") from None


def read_json(path: Path, kinds: Mapping[str, Any], advice: str) -> dict[str, Any]:
    """Return the object in a JSON file; raise ValueError, with the file and the ``advice``, where it is not one of
    these ``kinds``."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {advice}") from None
    return check(parse(text, path, advice), kinds, path)


@contextlib.contextmanager
def blamed(source: str | Path) -> Iterator[None]:
    """Turn the errors of the block into a ValueError that names the source of its values, and an absent key."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{source} is damaged or not ours: it has no {error.args[0]}") from None
    except ValueError as error:
        raise error if str(source) in str(error) else ValueError(f"{source}: {error}") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RecursionError) as error:
        raise ValueError(f"{source} is damaged or not ours ({type(error).__name__}: {error})") from error
    except (RuntimeError, MemoryError) as error:  # PyTorch raises them for impossible sizes
        raise ValueError(f"{source} asks for what cannot be made ({str(error).splitlines()[0]})") from error


def unreadable_weights(path: str | Path, error: Exception) -> ValueError:
    """Return the error to raise for a file of weights that PyTorch does not read.

    PyTorch's own message ends with ways to run the programs that the file may hold, which would be unsafe advice.
    """
    if text := text_in_place_of_weights(path):
        return ValueError(f"{path} is {text}, not weights; fetch the file itself")
    if str(path).endswith(".safetensors"):
        return ValueError(f"{path} is not a readable .safetensors file ({error})")
    message = str(error)
    # An "operand" that is a number is a byte of a file that is no pickle; a name is code that the pickle refers to.
    if match := re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:global|class|operand)[^\w]*([A-Za-z_][\w.]*)", message):
        return ValueError(
            f"{path} cannot be read as weights: it asks for {match[1] or match[2]}, which is neither a tensor nor "
            "plain data, and what a file asks for is not run. Ask its author for the tensors alone, as .safetensors"
        )
    reason = next((line.strip() for line in message.splitlines() if line.strip()), type(error).__name__)
    if "eights only" in reason or "weights_only" in reason:
        reason = type(error).__name__
    return ValueError(f"{path} cannot be read as weights ({reason[:200]}). Is it complete, and a PyTorch file?")


def text_in_place_of_weights(path: str | Path) -> str:
    """Return what a text file is that was saved in place of weights, "a web page" for example; "" for other files."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            return "a web page"
        if start.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
