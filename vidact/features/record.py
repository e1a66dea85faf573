"""The record of a folder of features, and the differences between two records."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any

from vidact.batch import ClipInput
from vidact.models.weights import is_builder
from vidact.models.weights import weights_hash as weights_hash  # its earlier home
from vidact.runtimes.choices import TOLERANCE, Agreement

RECORD, EXTRACTOR = "features.json", "extractor.safetensors"  # files in a folder of features


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two records: ["fps 24.0 and 12.0"].

    A network's input or argument that is absent in one of them counts as the default: it is newer than the record.
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

    a, b = flat(_complete(first)), flat(_complete(second))
    keys = sorted(dict.fromkeys([*a, *b]), key=lambda key: list(b).index(key) if key in b else -1)
    return [f"{key} {short(a.get(key))} and {short(b.get(key))}" for key in keys if a.get(key) != b.get(key)]


def other_features(trained: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Describe why a detector that was trained on features of one record cannot read those of another.

    The longest pause that is filled does not matter: it changes the number of tokens, and none of the tokens. Nor does
    the runtime, where the record says that the networks agreed with PyTorch in it, nor int8, where the record says that
    no more was lost than was accepted.
    """
    ignored = ("longest_gap_s", "runtime", "int8")
    records = ({key: value for key, value in record.items() if key not in ignored} for record in (trained, present))
    return differences(*records) + _unchecked(trained, present)


def _unchecked(*records: Mapping[str, Any]) -> list[str]:
    """Describe the runtimes of two records, if they differ and one was not compared with PyTorch."""
    runtimes = [record.get("runtime") or "torch" for record in records]
    graphs = [(record.get("int8") or {}).get("graph_sha256") for record in records]
    if graphs[0] != graphs[1]:
        faults = [_int8_fault(record) for record in records if record.get("int8")]
        return [fault for fault in faults if fault] or [
            fault for record in records if not record.get("int8") for fault in _unchecked(record, {})
        ]
    if len(set(runtimes)) == 1 or graphs[0] or all(map(_is_checked, records, runtimes)):
        return []
    return [f"runtime {' and '.join(runtimes)}, with no record that their outputs agree to {TOLERANCE:g}"]


def _int8_fault(record: Mapping[str, Any]) -> str:
    """Return why int8 features cannot replace those in single precision; "" where the recorded loss was accepted."""
    check = record["int8"]
    loss, most = (float(check.get(key, math.nan)) for key in ("loss", "max_loss"))
    if loss <= most:
        return ""
    measured = "has no record of its loss" if math.isnan(loss + most) else f"lost {loss:.3g} of {check.get('measure')}"
    return f"an int8 extractor {measured}; export it with --int8 again, which measures it"


def _is_checked(record: Mapping[str, Any], runtime: str) -> bool:
    if runtime == "torch":
        return True
    checks = record.get("runtime_check") or {}
    parts = [part for part in ("network", "flow_network") if part == "network" or record.get(part)]
    return all(
        Agreement(*(checks.get(part, {}).get(figure, math.nan) for figure in Agreement._fields)).is_close
        for part in parts
    )


def _complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with its runtime, and with the arguments and inputs that its networks lack, as by default."""
    full = {"runtime": "torch", **record}
    full.pop("runtime_check", None)  # it differs from machine to machine
    if full.get("int8"):
        full["int8"] = full["int8"].get("graph_sha256")
    for part in ("network", "flow_network"):
        described = full.get(part)
        if not (isinstance(described, Mapping) and {"recipe", "input"} <= described.keys()):
            continue  # there is no such network, or the features were published
        recipe = described["recipe"]
        arguments = {**_defaults(str(recipe.get("builder"))), **recipe.get("arguments", {})}
        clip_input = {**ClipInput().as_dict(), **described["input"]}
        full[part] = {**described, "recipe": {**recipe, "arguments": arguments}, "input": clip_input}
    return full


def _defaults(build: str) -> dict[str, Any]:
    """Return the default arguments of a builder as a record has them; empty for a builder that is not imported."""
    module, _, name = build.rpartition(".")
    function = getattr(sys.modules.get(module), name, None)
    if not is_builder(function):
        return {}
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    return {
        key: None if key == "weights" or key.endswith("_weights") else value
        for key, value in plain.items()
        if value is not inspect.Parameter.empty
    }
