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
from vidact.records import ExportRecord, FeaturesRecord, Record, blamed

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
    "kind": 5,
    "decoding": "soft",
    "min_score": "low",
    "features": 5,
    "extractor": 5,
    "export": "step",
    "converted": "tsn",
    "source": 5,
    "licence": ["MIT"],
    "runtime": 5,
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


FEATURES_VALUES = {
    "weights_sha256": "0" * 64,
    "format": 1,
    "flow_network": None,
    "network": {"recipe": {"builder": "vidact.models.x", "arguments": {}}, "input": {"size": 8}},
    "fps": 24.0,
    "chunk": 6,
    "frames": [[3]],
    "dim": 4,
    "flow_method": None,
    "decoder": "pyav",
    "of a newer version": [1],
}


def test_the_record_of_features_is_written_as_it_was_read() -> None:
    """The hash of its JSON marks finished videos, so keys, their order and null values stay."""
    features = FeaturesRecord.from_dict(FEATURES_VALUES, "features.json")
    assert json.dumps(features.to_dict()) == json.dumps(FEATURES_VALUES)
    record = Record.from_dict({"features": FEATURES_VALUES}, "x.ckpt")
    assert json.dumps(record.to_dict()["features"]) == json.dumps(FEATURES_VALUES)
    assert isinstance(record.features, FeaturesRecord)
    assert copy.deepcopy(record) == pickle.loads(pickle.dumps(record)) == record
    assert (features.fps, features.chunk, features.frames, features.decoder) == (24.0, 6, [[3]], "pyav")
    assert (features.flow_method, features.longest_gap_s, features.network("flow_network")) == ("dis", None, None)
    network = features.network("network")
    assert (network.recipe, network.input) == (FEATURES_VALUES["network"]["recipe"], {"size": 8})
    assert (features.builder, FeaturesRecord({}).builder) == ("vidact.models.x", None)


@pytest.mark.parametrize("key", ["fps", "chunk", "frames", "decoder"])
def test_an_absent_key_of_features_is_named(key: str) -> None:
    features = FeaturesRecord({name: value for name, value in FEATURES_VALUES.items() if name != key})
    with pytest.raises(ValueError, match=f"x.npy.*it has no {key}"), blamed("x.npy"):
        getattr(features, key)


@pytest.mark.parametrize(("key", "value"), [("fps", "24"), ("frames", 3), ("dim", 0), ("network", {"recipe": 5})])
def test_a_value_of_another_type_in_features_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"features.json is damaged or not ours: {key}"):
        FeaturesRecord.from_dict({**FEATURES_VALUES, key: value}, "features.json")


def test_the_record_of_an_export_has_types() -> None:
    values = {
        "what": "step",
        "input": "feature",
        "shape": [4],
        "state": [{"name": "h", "shape": [2], "dtype": "float32", "initial": [1.0, 0.0]}],
        "looks": [{"input": "images", "is_image": True, "dim": 4}],
        "future_offsets": [0, 4],
        "window": None,
    }
    exported = Record.from_dict({"export": values}, "x.onnx").export
    assert isinstance(exported, ExportRecord)
    assert (exported.kind, exported.input, exported.shape, exported.window) == ("step", "feature", [4], None)
    assert exported.state == [("h", [2], "float32", [1.0, 0.0])]
    assert exported.inputs == [("images", True, 4)]
    assert exported.future_offsets == (0, 4)
    with pytest.raises(ValueError, match=r"x.onnx.*it has no num_classes"), blamed("x.onnx"):
        _ = exported.num_classes
