"""The parity records: what published code computes for weights and inputs that can be made again."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from vidact.models.weights import REFERENCES

FOLDER = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[3] / "shared")) / "parity"


def records_in(folder):
    """The records of a folder whose layouts vidact reads; without one, the module of the caller is skipped."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    records = [record for record in records if record["origin"] in REFERENCES]
    if not records:
        pytest.skip(f"no parity records in {folder}; VIDACT_SHARED names the folder above", allow_module_level=True)
    return records


def rule():
    """The module that makes weights (``fill``) and inputs (``signal``)."""
    spec = importlib.util.spec_from_file_location("parity_fill", FOLDER / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(record):
    """The tensors of a record, by their published names, without those that the published code computes itself."""
    fill, factors = rule().fill, record.get("multiply", {})
    shapes = {key: shape for key, shape in record["state_dict"].items() if key not in record["fixed_buffers"]}
    return {key: fill(key, shape) * factors.get(key, 1) for key, shape in shapes.items()}
