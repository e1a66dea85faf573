"""Records: what a file holds about itself, checked when the file is read.

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
    """What a value has to be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and value == value


def is_whole(value: Any, least: int = 0, most: int = 1 << 62) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_shown(name: str) -> bool:
    """Whether something is seen of a name, and nothing of it commands a terminal."""
    return bool(name.strip()) and not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name)


def whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most:,}", lambda value: is_whole(value, least, most))


def rate(most: float) -> Kind:
    return Kind(f"a number above 0, at most {most:g}", lambda value: is_number(value) and 0 < value <= most)


def list_of(words: str, fits: Callable[[Any], bool]) -> Kind:
    return Kind(f"a list of {words}", lambda value: isinstance(value, list | tuple) and all(map(fits, value)))


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
FEATURES: dict[str, Any] = {
    "format": VERSION,
    "fps": rate(FASTEST),
    "tokens_per_second": rate(FASTEST),
    "chunk": whole(1, LONGEST),
    "dim": whole(1, WIDEST),
    "frames": list_of("lists of whole numbers", lambda row: isinstance(row, list) and all(map(is_whole, row))),
    "network": NETWORK,
    "flow_network": NETWORK,
    "longest_gap_s": NUMBER,
    "decoder": TEXT,
    "weights_sha256": TEXT,
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
    "looks": [{"input": TEXT, "is_image": TRUTH, "dim": whole(1, WIDEST)}],
}
SAMPLER = {
    **{key: whole(1, LONGEST) for key in ("num_segments", "segment_length", "num_frames", "clip_length", "stride")},
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
    "flow": {"method": TEXT},
    "features": FEATURES,
    "extractor": FEATURES,
    "export": EXPORT,
    "converted": {"origin": TEXT, "file": TEXT, "sha256": TEXT, "hyperparameters": OBJECT},
    "source": TEXT,
    "licence": TEXT,
}
# The keys of results.json.
RESULTS: dict[str, Any] = {
    "commands": Kind(
        "an object: command → names",
        lambda value: isinstance(value, Mapping) and all(map(NAMES.fits, value.values())),
    ),
}


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
        scores: "softmax" or "sigmoid": what turns a detector's logits into probabilities.
        sampling: the sampler of the frames of a clip, ``"name"`` and ``"arguments"``.
        flow: how the optical flow of the training was made.
        tokens_per_second: the answers of a detector a second.
        events: the settings of the ``EventDetector``.
        thresholds: what the thresholds of the events were chosen on.
        features: the record of a detector's features.
        extractor: the record of the feature extractor that a file holds; such a file holds no other network.
        export: what an exported graph computes, and its state.
        converted: where published weights were converted from.
        source: where the weights come from.
        licence: the licence of the weights.
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
    features: Mapping[str, Any] | None = None
    extractor: Mapping[str, Any] | None = None
    export: Mapping[str, Any] | None = None
    converted: Mapping[str, Any] | None = None
    source: str | None = None
    licence: str | None = None
    format: int = FORMAT
    others: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_dict(values: Any, source: str | Path) -> Record:
        """Return the record in ``values``; raise ValueError with the source and the key for a value of another type."""
        checked = check(values, RECORD, source)
        known = {key: value for key, value in checked.items() if key in RECORD and value is not None}
        return Record(**known, others={key: value for key, value in checked.items() if key not in RECORD})

    def to_dict(self) -> dict[str, Any]:
        """Return the record as files hold it: plain data, without the keys that are absent."""
        values = {"format": self.format}
        for name in (each.name for each in fields(self) if each.name not in ("format", "others")):
            value = getattr(self, name)
            if value is not None and (value or name != "classes"):
                values[name] = value
        return {**values, **self.others}

    def require(self, *keys: str) -> None:
        """Raise KeyError for the first key that is absent; ``blamed`` makes it a ValueError with the file's name."""
        for key in keys:
            if key not in self:
                raise KeyError(key)

    @property
    def activation(self) -> str:
        """What makes probabilities of the logits, "softmax" or "sigmoid"; see ``vidact.batch.probabilities``."""
        return "sigmoid" if self.multi_label else self.scores or "softmax"

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())


def check(record: Any, kinds: Mapping[str, Any], source: str | Path, key: str = "") -> dict[str, Any]:
    """The record, where the values that it has are of their kinds; else ValueError with the source and the key.

    Args:
        kinds: a ``Kind``, an inner mapping of them, or a list of one such mapping, by key.
        source: for messages: a file.
        key: of the record in what holds it.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{source} is damaged or not ours: {key or 'its record'} is {_short(record)}, not an object")
    for name, kind in kinds.items():
        value, place = record.get(name), f"{key}.{name}".removeprefix(".")
        if value is None:
            continue
        if isinstance(kind, Mapping):
            check(value, kind, source, place)
        elif isinstance(kind, list):
            if not isinstance(value, list):
                raise ValueError(f"{source} is damaged or not ours: {place} is {_short(value)}, not a list")
            for number, inner in enumerate(value):
                check(inner, kind[0], source, f"{place}.{number}")
        elif not kind.fits(value):
            raise ValueError(f"{source} is damaged or not ours: {place} is {_short(value)}; it is {kind.words}")
    return dict(record)


def parse(text: str | bytes, source: str | Path, advice: str = "") -> Any:
    """JSON, or ValueError with the source."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{source} is not valid JSON ({why}){f'; {advice}' if advice else ''}") from None


def read_json(path: Path, kinds: Mapping[str, Any], advice: str) -> dict[str, Any]:
    """The object in a JSON file, its values of their kinds; else ValueError with the file and the ``advice``."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {advice}") from None
    return check(parse(text, path, advice), kinds, path)


@contextlib.contextmanager
def blamed(source: str | Path) -> Iterator[None]:
    """What fails inside fails for what the source says: a ValueError that names it, and the key that it lacks."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{source} is damaged or not ours: it has no {error.args[0]}") from None
    except ValueError as error:
        raise error if str(source) in str(error) else ValueError(f"{source}: {error}") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RecursionError) as error:
        raise ValueError(f"{source} is damaged or not ours ({type(error).__name__}: {error})") from error
    except (RuntimeError, MemoryError) as error:  # PyTorch's word for sizes that cannot be
        raise ValueError(f"{source} asks for what cannot be made ({str(error).splitlines()[0]})") from error


def unreadable_weights(path: str | Path, error: Exception) -> ValueError:
    """What to raise for a file of weights that PyTorch does not read, in our words.

    PyTorch's own end with ways to run the programs that the file may hold; whoever follows them is the stranger's.
    """
    words = str(error)
    if asked := re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:global|class|operand)[^\w]*([\w.]+)", words):
        return ValueError(
            f"{path} cannot be read as weights: it asks for {asked[1] or asked[2]}, which is neither a tensor nor "
            "plain data, and what a file asks for is not run. Ask its author for the tensors alone, as .safetensors"
        )
    reason = next((line.strip() for line in words.splitlines() if line.strip()), type(error).__name__)
    if "eights only" in reason or "weights_only" in reason:
        reason = type(error).__name__
    return ValueError(f"{path} cannot be read as weights ({reason[:200]}). Is it complete, and a PyTorch file?")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
