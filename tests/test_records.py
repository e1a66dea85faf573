"""A record is checked where its file is read, and written in one place."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from vidact.batch import probabilities
from vidact.device import best_device
from vidact.models import frame_classifier, tsn_resnet_tiny
from vidact.models.weights import describe, load, read, save
from vidact.records import Record

WRONG = {
    "format": "1",
    "recipe": 5,
    "input": [224],
    "classes": "abc",
    "multi_label": "yes",
    "scores": 5,
    "sampling": "x",
    "flow": "tvl1",
    "tokens_per_second": "4",
    "events": 5,
    "thresholds": [0.5],
    "features": 5,
    "extractor": 5,
    "export": "step",
    "converted": "tsn",
    "source": 5,
    "licence": ["MIT"],
}


def test_every_key_has_a_wrong_value() -> None:
    assert set(WRONG) == {*Record.__dataclass_fields__} - {"others"}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_is_refused_with_the_file_and_the_key(key: str, suffix: str, tmp_path: Path) -> None:
    network, path = tsn_resnet_tiny(num_classes=3, weights=None), tmp_path / f"x{suffix}"
    values = {**describe(network), key: WRONG[key]}
    tensors = network.state_dict()
    if suffix == ".ckpt":
        torch.save({"vidact": values, "state_dict": {f"network.{name}": each for name, each in tensors.items()}}, path)
    else:
        path.write_bytes(safetensors.torch.save(tensors, metadata={"vidact": json.dumps(values)}))
    for open_it in (load, read):
        with pytest.raises(ValueError, match=rf"x\{suffix} is damaged or not ours: {key}"):
            open_it(path)


def test_a_record_is_what_its_file_holds() -> None:
    values = {"format": 1, "classes": ["a", "b"], "multi_label": False, "sampling": None, "of a newer version": [1]}
    record = Record.from_dict(values, "x.ckpt")
    assert record == {key: value for key, value in values.items() if value is not None}
    assert record.to_dict() == dict(record)
    assert (record.classes, record["classes"], record.sampling) == (["a", "b"], ["a", "b"], None)
    assert "sampling" not in record
    assert record.get("scores") is None
    assert copy.deepcopy(record) == pickle.loads(pickle.dumps(record)) == record
    with pytest.raises(KeyError, match="sampling"):
        record.require("classes", "sampling")


def test_keys_of_newer_versions_are_kept(tmp_path: Path) -> None:
    network = frame_classifier(feature_dim=4, num_classes=3)
    first = save(network, tmp_path / "a.safetensors", {"classes": ["a", "b"], "colour": "red"})
    second = save(load(first), tmp_path / "b.safetensors")
    assert load(second).record == load(first).record
    assert load(second).record["colour"] == "red"


def test_a_copy_of_a_network_keeps_its_record(tmp_path: Path) -> None:
    network = load(save(frame_classifier(4, 3), tmp_path / "a.safetensors", {"classes": ["a", "b"]}))
    assert copy.deepcopy(network).record == network.record
    assert copy.deepcopy(network).recipe == network.recipe


@pytest.mark.parametrize(
    ("values", "activation"),
    [({}, "softmax"), ({"multi_label": True}, "sigmoid"), ({"multi_label": False}, "softmax")]
    + [({"scores": name}, name) for name in ("softmax", "sigmoid")],
)
def test_a_record_determines_the_probabilities(values: dict, activation: str) -> None:
    assert Record(**values).activation == activation
    logits = torch.tensor([[0.0, 1.0, -2.0]], dtype=torch.float16)
    expected = logits.float().sigmoid() if activation == "sigmoid" else logits.float().softmax(1)
    assert torch.equal(probabilities(logits, activation), expected)


def test_other_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="scores are 'x'"):
        probabilities(torch.zeros(3), "x")


def test_the_best_device_can_be_used() -> None:
    assert torch.zeros(1, device=best_device()).device.type == best_device().type
