"""A file builds its own network; nothing is loaded by half."""

import json
import re
import sys
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import vidact.models
from vidact.models import frame_classifier, tsn_resnet_tiny
from vidact.models.weights import (
    REFERENCES,
    builder,
    describe,
    from_reference,
    initialise_from,
    is_vidact_file,
    load,
    load_strictly,
    read,
    rename,
    save,
)


def tiny(num_classes=3, width=4, **arguments):
    return tsn_resnet_tiny(num_classes=num_classes, width=width, size=32, **arguments)


# ------------------------------------------------------------------------------------------------ recipes


def test_recipe_holds_every_argument_as_plain_data():
    recipe = tsn_resnet_tiny(3, width=4).recipe
    assert recipe["builder"] == "vidact.models.tsn_resnet_tiny"
    assert recipe["arguments"] == {
        "num_classes": 3,
        "weights": None,
        "size": 64,
        "dropout": 0.0,
        "width": 4,
        "modality": "rgb",
        "flow_fields": 5,
    }
    assert json.loads(json.dumps(recipe)) == recipe


def test_outer_builder_wins():
    network = vidact.models.two_stream_resnet_tiny(num_classes=3, width=4)
    assert network.recipe["builder"] == "vidact.models.two_stream_resnet_tiny"
    assert network.rgb.recipe["builder"] == "vidact.models.tsn_resnet_tiny"


def test_builder_keeps_the_signature_for_the_command_line():
    """A YAML's class_path may name a size function; misspelt arguments fail."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    call = {"class_path": "vidact.models.tsn_resnet_tiny", "init_args": {"num_classes": 3, "width": 4}}
    network = parser.instantiate(parser.parse_object({"network": call})).network
    assert network.num_classes == 3
    assert network.recipe["arguments"]["width"] == 4
    with pytest.raises(Exception, match="num_clases"):
        parser.parse_object({"network": {**call, "init_args": {"num_clases": 3}}})


def test_builder_refuses_what_a_file_cannot_hold():
    def inside(num_classes: int) -> nn.Module:
        return nn.Identity()

    with pytest.raises(ValueError, match="module-level functions only"):
        builder(inside)
    with pytest.raises(ValueError, match=r"dropout=…\) is .*cannot hold"):
        tiny(dropout=torch.tensor(0.5))
    with pytest.raises(ValueError, match="Linear has no recipe"):
        describe(nn.Linear(1, 1))


# ------------------------------------------------------------------------------------------------ vidact files


def test_lightning_checkpoint_opens_like_safetensors(tmp_path):
    """The record under "vidact", the tensors under "network."; what else the module holds does not matter."""
    network = tiny().eval()
    record = {**describe(network), "classes": ["a", "b", "c"], "multi_label": False}
    state_dict = {f"network.{key}": value for key, value in network.state_dict().items()} | {
        "loss.weight": torch.ones(3)
    }
    torch.save({"state_dict": state_dict, "vidact": record, "epoch": 3, "loops": {"x": [1]}}, tmp_path / "best.ckpt")
    loaded = load(tmp_path / "best.ckpt")
    assert loaded.record == record
    clip = torch.randn(1, 2, 3, 32, 32)
    assert torch.equal(loaded(clip), network(clip))
    saved = save(loaded, tmp_path / "again.safetensors")
    assert load(saved).record["classes"] == ["a", "b", "c"]


def test_load_never_downloads(tmp_path, monkeypatch):
    """The recipe says "imagenet"; the file has the weights, so nobody asks the network for them."""
    from vidact.models import backbones

    network = vidact.models.tsn_mobilenet_v3_small(num_classes=3, weights=None, size=32)
    network.recipe["arguments"]["weights"] = "imagenet"
    save(network, tmp_path / "network.safetensors")
    asked = []
    monkeypatch.setattr(backbones, "load_torchvision", lambda module, weights, *rest: asked.append(weights))
    load(tmp_path / "network.safetensors")
    assert asked == [None]


def test_saving_replaces_only_when_complete(tmp_path, monkeypatch):
    path = save(tiny(), tmp_path / "runs" / "network.safetensors", {"classes": ["a", "b", "c"]})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot hold"):
        save(tiny(), path, {"classes": {1, 2}})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tiny(), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["network.safetensors"]
    with pytest.raises(ValueError, match="choose a name that ends so"):
        save(tiny(), tmp_path / "network.pt")


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(tmp_path / "nothing.ckpt")
    with pytest.raises(IsADirectoryError, match="name the file in it"):
        load(tmp_path)
    safetensors.torch.save_file({"weight": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no vidact record"):
        load(tmp_path / "foreign.safetensors")
    for name in ("text.safetensors", "text.ckpt"):
        (tmp_path / name).write_text("This is a text file, not weights.")
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)
    whole = save(tiny(), tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"half\.safetensors is not a readable"):
        load(tmp_path / "half.safetensors")
    torch.save({"state_dict": tiny()}, tmp_path / "module.pt")  # a pickled module would run code
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load(tmp_path / "module.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99.*install a newer one"),
        ({"recipe": {"builder": "vidact.models.tsn_resnet_giant", "arguments": {}}}, "no builder.*tsn_resnet_giant"),
        ({"recipe": {"builder": "vidact.models.tsn.TSN", "arguments": {}}}, "is not a builder"),
        ({"recipe": {"builder": "vidact.models.weights.os.system", "arguments": {"command": "true"}}}, "no builder"),
        ({"recipe": {"builder": "os.system", "arguments": {"command": "true"}}}, r"outside vidact.*trust=\('os',\)"),
        ({"recipe": {"builder": "vidactual.models.net", "arguments": {}}}, "outside vidact"),
        (
            {"recipe": {"builder": "vidact.models.tsn_resnet_tiny", "arguments": {"num_classes": 3, "depth": 4}}},
            "no argument depth; it takes num_classes",
        ),
        (
            {"recipe": {"builder": "vidact.models.tsn_resnet_tiny", "arguments": {"num_classes": 4, "width": 4}}},
            r"2 of the wrong shape: fc\.weight",
        ),
    ],
)
def test_load_refuses_records_by_words(tmp_path, change, message):
    network = tiny()
    record = {**describe(network), **change}
    path = tmp_path / "network.ckpt"
    torch.save({"state_dict": {f"network.{k}": v for k, v in network.state_dict().items()}, "vidact": record}, path)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_builders_of_others_run_only_when_trusted(tmp_path, monkeypatch):
    module = types.ModuleType("somebody.networks")

    def their_network(num_classes: int) -> nn.Module:
        return tiny(num_classes)

    their_network.__module__, their_network.__qualname__ = "somebody.networks", "their_network"
    module.their_network = builder(their_network)
    monkeypatch.setitem(sys.modules, "somebody", types.ModuleType("somebody"))
    monkeypatch.setitem(sys.modules, "somebody.networks", module)
    path = save(module.their_network(3), tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match=r"trust=\('somebody',\)"):
        load(path)
    assert load(path, trust=("somebody",)).num_classes == 3
    assert load(path, trust="somebody").num_classes == 3


def test_input_of_the_record_wins(tmp_path):
    """What the network was trained on is what it will be fed."""
    import dataclasses

    network = tiny()
    network.input = dataclasses.replace(network.input, size=48, mean=(0.1,))
    assert load(save(network, tmp_path / "network.safetensors")).input == network.input


# ------------------------------------------------------------------------------------------------ reading others


def test_reading_research_checkpoints(tmp_path):
    tensors = {"module.weight": torch.ones(2)}
    for name, content in {
        "bare.pt": tensors,
        "tsm.pth.tar": {"epoch": 3, "state_dict": tensors, "best_prec1": np.float64(71.2)},
        "zoo.pyth": {"model_state": tensors, "cfg": "TRAIN:"},
    }.items():
        torch.save(content, tmp_path / name)
        state_dict, record = read(tmp_path / name)
        assert list(state_dict) == ["module.weight"]
        assert record is None
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match="holds no tensors; its entries are epoch"):
        read(tmp_path / "empty.pt")


def test_rename_applies_rules_in_order():
    state_dict = {"module.a.net.weight": np.ones(2), "a.bias": torch.ones(2), "optimizer": torch.ones(1)}
    rules = [(r"^optimizer$", None), (r"\.net\.", "."), (r"^a\.", "layer.")]
    renamed = rename(state_dict, rules)
    assert {new: old for new, (old, _) in renamed.items()} == {
        "layer.weight": "module.a.net.weight",
        "layer.bias": "a.bias",
    }
    with pytest.raises(ValueError, match=r"both become layer\.bias"):
        rename({"a.bias": np.ones(1), "module.a.bias": np.ones(1)}, rules)


def test_strict_loading_names_every_tensor():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    good = network.state_dict()
    load_strictly(network, {k: v.half() for k, v in good.items() if "num_batches" not in k})
    assert network[0].weight.dtype == torch.float32
    bad = {**good, "0.weight": torch.ones(3, 4), "2.weight": torch.ones(1)}
    del bad["1.bias"]
    with pytest.raises(
        ValueError, match=r"1 unknown: 2\.weight; 1 missing: 1\.bias; .*0\.weight \(3, 4\) for \(3, 2\)"
    ):
        load_strictly(network, bad)
    load_strictly(network, {k: v for k, v in good.items() if k != "1.bias"}, optional=r"^1\.bias$")


def test_fine_tuning_takes_what_fits_and_tells_the_rest(tmp_path, capsys):
    trained = tiny(num_classes=7)
    path = save(trained, tmp_path / "trained.safetensors")
    network = tiny(num_classes=3)
    fresh = network.fc.weight.clone()
    fit = initialise_from(network, path)
    assert fit.reinitialised == ["fc.weight", "fc.bias"]
    assert fit.unused == []
    printed = capsys.readouterr().out
    assert "re-initialised: fc.weight (3, 32), the file has (7, 32), fc.bias" in printed
    assert torch.equal(network.fc.weight, fresh)
    assert torch.equal(network.backbone.conv1.weight, trained.backbone.conv1.weight)
    torch.save({"elsewhere.weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"no tensor of .* fits TSN"):
        initialise_from(network, tmp_path / "other.pt")


def test_rows_of_classes_that_both_name_are_kept(tmp_path, capsys):
    """Names are equal by ``plain_name``: an accent apart from its letter, a blank at the end."""
    trained = tiny(num_classes=4)
    path = save(trained, tmp_path / "trained.safetensors", {"classes": ["run", "cafe\u0301", "sit", "eat "]})
    network = tiny(num_classes=3)
    fresh = network.fc.weight.clone()
    fit = initialise_from(network, path, ["eat", "jump", "caf\u00e9"], ["fc"])
    assert (fit.partly, fit.classes, fit.reinitialised) == (["fc.weight", "fc.bias"], ["eat", "caf\u00e9"], [])
    assert "fc.weight" not in fit.loaded
    assert "(fc.weight, fc.bias) the rows of 2 of 3 classes kept (eat, caf\u00e9); " in capsys.readouterr().out
    for mine, theirs in ((0, 3), (2, 1)):
        assert torch.equal(network.fc.weight[mine], trained.fc.weight[theirs])
        assert torch.equal(network.fc.bias[mine], trained.fc.bias[theirs])
    assert torch.equal(network.fc.weight[1], fresh[1])


def test_rows_follow_names_where_the_shapes_are_the_same(tmp_path, capsys):
    """As many classes, in another order or others: a head that was copied whole would answer with wrong names."""
    trained = tiny(num_classes=3)
    path = save(trained, tmp_path / "trained.safetensors", {"classes": ["a", "b", "c"]})
    network = tiny(num_classes=3)
    assert initialise_from(network, path, ["c", "a", "b"], ["fc"]).classes == ["c", "a", "b"]
    assert torch.equal(network.fc.weight, trained.fc.weight[[2, 0, 1]])
    network = tiny(num_classes=3)
    fresh = network.fc.weight.clone()
    capsys.readouterr()
    assert initialise_from(network, path, ["x", "y", "z"], ["fc"]).reinitialised == ["fc.weight", "fc.bias"]
    assert "fc.weight (3, 32), the file has (3, 32) of other classes" in capsys.readouterr().out
    assert torch.equal(network.fc.weight, fresh)
    same = initialise_from(network, path, ["a", "b ", "c"], ["fc"])
    assert (same.partly, same.classes) == ([], [])
    assert torch.equal(network.fc.weight, trained.fc.weight)


def test_rows_of_detectors_follow_the_background(tmp_path, capsys):
    """Row 0 is the background; an output beyond the classes (ambiguous) has no name and stays random."""
    trained = frame_classifier(num_classes=1 + 2 + 1, feature_dim=5)
    path = save(trained, tmp_path / "trained.safetensors", {"classes": ["dive", "swim"]})
    network = frame_classifier(num_classes=1 + 2, feature_dim=5)
    fresh, others = network.classifier.weight.clone(), trained.classifier.weight
    fit = initialise_from(network, path, ["swim", "climb"], ["classifier"])
    assert fit.classes == ["swim"]
    assert "the rows of 1 of 2 classes kept (swim) and of the background" in capsys.readouterr().out
    assert torch.equal(network.classifier.weight, torch.stack([others[0], others[2], fresh[2]]))


def test_size_functions_start_from_a_vidact_file(tmp_path):
    """`weights: runs/…/best.safetensors` in a YAML is fine-tuning; the head comes along where it has the classes."""
    trained = tiny(num_classes=3)
    path = save(trained, tmp_path / "trained.safetensors")
    assert is_vidact_file(path)
    assert not is_vidact_file(tmp_path / "nothing.safetensors")
    network = tiny(num_classes=3, weights=str(path))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), trained.parameters(), strict=True))
    assert network.recipe["arguments"]["weights"] == str(path)
    assert torch.equal(tiny(num_classes=5, weights=str(path)).backbone.conv1.weight, trained.backbone.conv1.weight)


# ------------------------------------------------------------------------------------------------ published layouts


def test_unknown_origin_and_hyperparameters_are_named():
    with pytest.raises(ValueError, match=r"origin 'tsnn' is unknown; the layouts are .*tsn"):
        from_reference("tsnn", {})
    with pytest.raises(ValueError, match=r"depth.*its hyperparameters are num_classes, backbone"):
        from_reference("tsn", {}, num_classes=3, depth=50)


def test_every_origin_has_its_function():
    import importlib

    for origin, place in REFERENCES.items():
        assert re.fullmatch(r"[a-z0-9_]+", origin)
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("name", "words"), [("x.onnx", "is an ONNX file"), ("x.pt2", "no stream plays one")])
def test_an_exported_file_is_no_checkpoint(name, words, tmp_path):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=rf"{words}.*which is not read here; give the \.ckpt or \.safetensors"):
        load(tmp_path / name)
