"""The record of a folder of features: what made them, and how two records differ."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vidact.batch import ClipInput


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 of named tensors. Counters of training batches do not count: old files lack them."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):
            tensor = state[name]
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two records disagree on, in words: "fps 24.0 and 12.0".

    What one of them does not say of a network's input or arguments is the default: an older vidact did not have it.
    """

    def flat(record: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(record, Mapping):
            return {name: record}
        return {
            key: value
            for part, inner in record.items()
            for key, value in flat(inner, f"{name}.{part}".strip(".")).items()
        }

    def short(value: Any) -> str:
        return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)

    a, b = flat(_complete(there)), flat(_complete(here))
    keys = sorted(set(a) | set(b), key=lambda key: list(b).index(key) if key in b else -1)
    return [f"{key} {short(a.get(key))} and {short(b.get(key))}" for key in keys if a.get(key) != b.get(key)]


def other_features(trained: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Why what learnt from features of one record cannot read those of another, in words. How long a pause is filled
    changes no token, only how many there are."""
    records = ({key: value for key, value in one.items() if key != "longest_gap_s"} for one in (trained, found))
    return differences(*records)


def _complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the defaults of whatever it does not say of its networks."""
    full = dict(record)
    for part in ("network", "flow_network"):
        described = full.get(part)
        if not (isinstance(described, Mapping) and {"recipe", "input"} <= described.keys()):
            continue  # None, or published features
        recipe = described["recipe"]
        arguments = {**_defaults(str(recipe.get("builder"))), **recipe.get("arguments", {})}
        taken = {**ClipInput().as_dict(), **described["input"]}
        full[part] = {**described, "recipe": {**recipe, "arguments": arguments}, "input": taken}
    return full


def _defaults(build: str) -> dict[str, Any]:
    """What a builder takes where nothing is said, as a record has it; nothing of one that is not imported."""
    module, _, name = build.rpartition(".")
    function = getattr(sys.modules.get(module), name, None)
    if not getattr(function, "is_builder", False):
        return {}
    given = {key: one.default for key, one in inspect.signature(function).parameters.items()}  # type: ignore[arg-type]
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    return {
        key: None if key == "weights" or key.endswith("_weights") else value
        for key, value in plain.items()
        if value is not inspect.Parameter.empty
    }


# ---------------------------------------------------------------------------------------------- the loop over files

RECORD, EXTRACTOR = "features.json", "extractor.safetensors"
