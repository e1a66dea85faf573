"""Law 6: weights under their published names give what the published code printed (see the records' README)."""

import functools
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from vidact.models.weights import REFERENCES, from_reference

FOLDER = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[3] / "shared")) / "parity"
RECORDS = [
    record
    for record in (json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json")))
    if record["origin"] in REFERENCES
]
if not RECORDS:
    pytest.skip(f"no parity records in {FOLDER}; VIDACT_SHARED names their parent folder", allow_module_level=True)

EVERY = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["name"])


def rule():
    spec = importlib.util.spec_from_file_location("parity_fill", FOLDER / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RULE = rule()


@functools.lru_cache(maxsize=1)
def _filled(text):
    record = json.loads(text)
    fixed = record["fixed_buffers"]
    return {key: RULE.fill(key, shape) for key, shape in record["state_dict"].items() if key not in fixed}


def filled(record):
    """The record's weights; the tensors are shared between tests, the dictionary is not."""
    return dict(_filled(json.dumps(record)))


@EVERY
def test_outputs_equal_the_record(record):
    network = from_reference(record["origin"], filled(record), **record["hyperparameters"])
    inputs = [torch.from_numpy(RULE.signal(name, shape)) for name, shape in record["inputs"].items()]
    with torch.no_grad():
        output = network(torch.cat(inputs, dim=-1))
    wanted = record["outputs"]["logits"]
    expected = torch.tensor(wanted["values"]).reshape(wanted["shape"])
    assert output.numel() == expected.numel()
    tolerance = record.get("tolerance", 1e-4) * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(output.reshape(expected.shape), expected, rtol=0, atol=tolerance)


@EVERY
def test_names_are_checked_both_ways(record):
    """Prefix `module.` goes, `num_batches_tracked` may be absent; any other surplus or gap is named."""
    state_dict = filled(record)
    old_style = {f"module.{key}": value for key, value in state_dict.items() if "num_batches_tracked" not in key}
    from_reference(record["origin"], old_style, **record["hyperparameters"])

    key = next(key for key in reversed(state_dict) if key.endswith("weight"))
    value = state_dict.pop(key)
    with pytest.raises(ValueError, match="1 missing"):
        from_reference(record["origin"], state_dict, **record["hyperparameters"])
    with pytest.raises(ValueError, match=r"wrong shape.*" + key.rpartition(".")[0].replace(".", r"\.")):
        from_reference(record["origin"], {**state_dict, key: value[:-1]}, **record["hyperparameters"])
    with pytest.raises(ValueError, match=r"1 unknown: somebody\.elses"):
        surplus = {**state_dict, key: value, "somebody.elses": value}
        from_reference(record["origin"], surplus, **record["hyperparameters"])
