"""Offline networks with weights under their published names give what the published code computed: outputs, losses,
assigned places and events."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from vidact.models.offline import Truth
from vidact.models.weights import REFERENCES, from_reference

FOLDER = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[3] / "shared")) / "parity"
RECORDS = [
    record
    for record in (json.loads(path.read_text()) for path in sorted((FOLDER / "offline").glob("*.json")))
    if record["origin"] in REFERENCES
]
if not RECORDS:
    pytest.skip(f"no parity records in {FOLDER}; VIDACT_SHARED names their parent folder", allow_module_level=True)
EVERY = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["name"])
SEGMENTERS = [record for record in RECORDS if "labels" in record["loss"]]

pytestmark = pytest.mark.usefixtures("no_fresh_weights")  # every number comes from a file


def rule():
    spec = importlib.util.spec_from_file_location("parity_fill", FOLDER / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RULE = rule()


def filled(record):
    return {
        key: RULE.fill(key, shape) * record["multiply"].get(key, 1)
        for key, shape in record["state_dict"].items()
        if key not in record["fixed_buffers"]
    }


def network_of(record, **options):
    state_dict = {f"module.{key}": value for key, value in filled(record).items()}
    return from_reference(record["origin"], state_dict, **record["hyperparameters"], **options)


def output_of(network, record, name="features"):
    features = torch.from_numpy(RULE.signal(name, record["inputs"][name]))
    lengths = torch.tensor(record["lengths"]) if name == "features" else None
    return network(features, lengths)


def assert_near(actual, values, shape=None):
    expected = torch.tensor(values, dtype=torch.float64)
    actual = torch.as_tensor(actual).double()
    if shape is not None:
        assert list(actual.shape) == shape
        expected = expected.reshape(shape)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * max(1.0, float(expected.abs().max())))


@EVERY
@torch.no_grad()
def test_outputs_equal_the_record(record):
    network = network_of(record)
    assert not network.training
    assert network.published_padding
    output = output_of(network, record)
    for name, expected in record["outputs"].items():
        assert_near(output[name], expected["values"], expected["shape"])
        assert getattr(output, name) is output[name]


@pytest.mark.parametrize("record", SEGMENTERS, ids=lambda record: record["name"])
@torch.no_grad()
def test_the_losses_of_segmenters_equal_the_record(record):
    network = network_of(record)
    output = output_of(network, record)
    loss = record["loss"]
    assert (network.smoothing_weight, network.smoothing_limit) == tuple(loss["settings"].values())
    targets = torch.zeros(output.scores.shape)
    for video, labels in enumerate(loss["labels"]):
        targets[video, range(len(labels)), labels] = 1
    losses = network.losses(output, Truth(targets=targets))
    assert_near(losses["cross_entropy"] + losses["smoothing"], loss["values"]["total"])
    assert_near(losses["cross_entropy"], sum(loss["values"]["cross_entropy"]))
    assert_near(losses["smoothing"], loss["settings"]["smoothing_weight"] * sum(loss["values"]["smoothing"]))


@EVERY
def test_names_are_checked_both_ways(record):
    state_dict = filled(record)
    key = next(key for key in reversed(state_dict) if key.endswith("weight"))
    value = state_dict.pop(key)
    with pytest.raises(ValueError, match="1 missing"):
        from_reference(record["origin"], state_dict, **record["hyperparameters"])
    with pytest.raises(ValueError, match=r"wrong shape"):
        from_reference(record["origin"], {**state_dict, key: value[:-1]}, **record["hyperparameters"])
    with pytest.raises(ValueError, match=r"1 unknown: somebody\.elses"):
        from_reference(
            record["origin"], {**state_dict, key: value, "somebody.elses": value}, **record["hyperparameters"]
        )
