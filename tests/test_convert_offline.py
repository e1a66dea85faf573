"""Published files of offline networks become vidact files that answer as the published code does."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.parity import FOLDER, filled, records_in, rule

import vidact
from vidact import cli
from vidact.convert import convert
from vidact.data import Event
from vidact.data.sequence_list import Untrimmed, write_folder
from vidact.models.offline_decoding import Decoding, Grid
from vidact.models.published_offline import NEVER
from vidact.models.weights import from_reference, read
from vidact.training.run import refuse_other_features

RECORDS = {record["name"]: record for record in records_in(FOLDER / "offline")}
LOCALISERS = [record for record in RECORDS.values() if record["origin"] in ("actionformer", "tridet")]
SEGMENTERS = [record for record in RECORDS.values() if record not in LOCALISERS]
# What no tensor tells.
UNTOLD = ("num_heads", "attention_window", "max_tokens", "absolute_positions", "regression_ranges", "exact_window")
NAMES = ["take", "open", "background", "pour", "close"]

pytestmark = pytest.mark.usefixtures("no_fresh_weights")


def tensors(record):
    return {key: torch.as_tensor(value, dtype=torch.float32) for key, value in filled(record).items()}


def published(record, path, **changed):
    """A file as the repository saves it: two sets of tensors behind DataParallel's names, or a plain state dict."""
    state_dict = tensors(record) | changed
    if record["origin"] not in ("actionformer", "tridet"):
        torch.save(state_dict, path)
        return path
    averaged = {f"module.{key}": value for key, value in state_dict.items()}
    last = {key: torch.zeros_like(value) for key, value in averaged.items()}
    torch.save({"epoch": 35, "state_dict": last, "state_dict_ema": averaged, "optimizer": {"state": {}}}, path)
    return path


def untold(record):
    return {name: value for name, value in record["hyperparameters"].items() if name in UNTOLD}


def assert_outputs(network, record, order=None):
    features = torch.from_numpy(rule().signal("features", record["inputs"]["features"]))
    with torch.no_grad():
        output = network(features, torch.tensor(record["lengths"]))
    for name, expected in record["outputs"].items():
        values = torch.tensor(expected["values"]).reshape(expected["shape"])
        values = values if order is None else values[..., order]
        limit = 1e-4 * max(1.0, float(values.abs().max()))
        torch.testing.assert_close(output[name], values, rtol=0, atol=limit)


@pytest.mark.parametrize("record", LOCALISERS, ids=lambda record: record["name"])
def test_a_localiser_answers_as_published(record, tmp_path):
    file, grid = published(record, tmp_path / "epoch_035.pth.tar"), Grid(4, 16, 30)
    convert(record["origin"], file, tmp_path / "x.safetensors", grid=grid, **untold(record))
    network = vidact.load(tmp_path / "x.safetensors")
    assert_outputs(network, record)
    assert network.published_padding
    assert network.record.kind == "localiser"
    assert len(network.record.classes) == network.num_classes == record["hyperparameters"]["num_classes"]
    assert network.record.tokens_per_second == 7.5
    assert network.record.features["grid"] == {"stride": 4, "frames": 16, "fps": 30}
    assert Grid.of_record(network.record.features) == grid
    assert network.record.converted["file"] == "epoch_035.pth.tar"


@pytest.mark.parametrize("record", SEGMENTERS, ids=lambda record: record["name"])
def test_a_segmenter_answers_as_published_with_the_background_first(record, tmp_path):
    file = published(record, tmp_path / "epoch-50.model")
    (tmp_path / "mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(NAMES)))
    convert(
        record["origin"], file, tmp_path / "x.safetensors", tmp_path / "mapping.txt", grid=Grid.of(15), **untold(record)
    )
    network = vidact.load(tmp_path / "x.safetensors")
    assert_outputs(network, record, [2, 0, 1, 3, 4])
    assert network.record.classes == ["take", "open", "pour", "close"]
    assert network.record.kind == "segmenter"
    assert network.record.converted["background"] == "background"
    assert (network.record.tokens_per_second, network.record.features.get("grid")) == (15, None)


@pytest.mark.parametrize("record", SEGMENTERS, ids=lambda record: record["name"])
def test_a_file_without_a_background_gets_one_that_never_occurs(record, tmp_path):
    file = published(record, tmp_path / "epoch-50.model")
    convert(record["origin"], file, tmp_path / "x.safetensors", NAMES, background="none", **untold(record))
    network = vidact.load(tmp_path / "x.safetensors")
    assert network.record.classes == NAMES
    features = torch.from_numpy(rule().signal("features", record["inputs"]["features"]))
    lengths = torch.tensor(record["lengths"])
    with torch.no_grad():
        ours = network(features, lengths)
        theirs = from_reference(record["origin"], filled(record), **record["hyperparameters"])(features, lengths)
    for video, length in enumerate(lengths):
        assert (ours.stages[:, video, :length, 0] == NEVER).all()
        assert (ours.scores[video, :length, 0] == 0).all()
        torch.testing.assert_close(ours.scores[video, :length, 1:], theirs.scores[video, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda record: record["name"])
def test_sizes_are_read_from_the_tensors(record, tmp_path):
    file, given = published(record, tmp_path / "x.pth"), untold(record)
    background = None if record in LOCALISERS else "0"
    ours = convert(record["origin"], file, tmp_path / "x.safetensors", background=background, **given)
    for name, value in record["hyperparameters"].items():
        if name != "window_factor":  # of which only the width of the kernel is told
            assert ours.recipe["arguments"][name] == value, name


def test_branches_that_are_never_dropped_have_no_gain_in_a_file(tmp_path):
    for record in LOCALISERS:
        gains = {key: torch.ones(shape) for key, shape in record["state_dict"].items() if ".drop_path_" in key}
        assert gains
        with_gains = published(record, tmp_path / "with.pth", **gains)
        state_dict = {key: value for key, value in tensors(record).items() if key not in gains}
        torch.save({"state_dict_ema": state_dict}, tmp_path / "without.pth")
        files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
        for published_file, file in zip((with_gains, tmp_path / "without.pth"), files, strict=True):
            convert(record["origin"], published_file, file, **untold(record))
        first, second = (read(file)[0] for file in files)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_the_repository_says_of_a_set_is_used(tmp_path):
    record = RECORDS["actionformer_proposals"]
    network = convert(
        "actionformer", published(record, tmp_path / "x.pth"), tmp_path / "x.safetensors",
        trained_on="activitynet", num_heads=2, attention_window=[7, 7, -1],
    )  # fmt: skip
    opened = vidact.load(tmp_path / "x.safetensors")
    assert opened.record.classes == ["action"]
    assert (opened.max_tokens, opened.positions is None) == (192, False)
    expected = Decoding(min_length=0.001, per_class=False, sigma=0.75, max_events=100, voting_overlap=0.7)
    assert opened.decoding == network.decoding == expected


def test_what_does_not_fit_is_refused_in_words(tmp_path):
    out = tmp_path / "x.safetensors"
    files = {name: published(record, tmp_path / f"{name}.pth") for name, record in RECORDS.items()}
    for name, origin in (("tridet", "actionformer"), ("ms_tcn", "ms_tcn_pp"), ("asformer", "ms_tcn")):
        other = RECORDS[name]["origin"]
        with pytest.raises(
            ValueError, match=rf"{name}\.pth has the tensors of {other}, not of {origin}: .*--origin {other}"
        ):
            convert(origin, files[name], out)
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 4)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth is no file of tridet: its tensors are called fc.weight"):
        convert("tridet", tmp_path / "other.pth", out)
    with pytest.raises(ValueError, match=r"classes has 3 classes, and .*ms_tcn.pth has 5 outputs; name all of them"):
        convert("ms_tcn", files["ms_tcn"], out, NAMES[:3])
    with pytest.raises(ValueError, match=r"no class of .* is called background or SIL: they are a, b, c, d, e. Name"):
        convert("ms_tcn", files["ms_tcn"], out, list("abcde"))
    with pytest.raises(ValueError, match=r"background is action_start, and no class of .* is called action_start"):
        convert("ms_tcn", files["ms_tcn"], out, NAMES, background="action_start")
    with pytest.raises(ValueError, match="background is SIL, and actionformer has no output for it"):
        convert("actionformer", files["actionformer"], out, background="SIL")
    with pytest.raises(ValueError, match="trained_on is 'gtea'; for actionformer it is one of thumos14, epic100"):
        convert("actionformer", files["actionformer"], out, trained_on="gtea")
    with pytest.raises(ValueError, match=r"grid is for offline networks .*and origin is tsm"):
        convert("tsm", files["actionformer"], out, grid=Grid.of(4))
    with pytest.raises(ValueError, match="two classes have the name 'take'"):
        convert("ms_tcn", files["ms_tcn"], out, ["take", "take", "background", "a", "b"])
    key = "backbone.branch.0.mlp.3.weight"
    without = {name: value for name, value in tensors(RECORDS["actionformer"]).items() if name != key}
    torch.save({"state_dict_ema": without}, tmp_path / "without.pth")
    with pytest.raises(ValueError, match=r"without\.pth: .* does not fit ActionFormer: 1 missing: pyramid\.0\.mlp\.3"):
        convert("actionformer", tmp_path / "without.pth", out, **untold(RECORDS["actionformer"]))
    (tmp_path / "cut.pth").write_bytes(files["tridet"].read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read as weights .*Is it complete"):
        convert("tridet", tmp_path / "cut.pth", out)
    assert not out.exists()


def test_only_what_a_published_file_can_say_of_its_features_is_compared(tmp_path):
    record, grid = RECORDS["actionformer"], Grid(4, 16, 30)
    file = published(record, tmp_path / "x.pth")
    network = convert("actionformer", file, tmp_path / "x.safetensors", grid=grid, **untold(record))
    features = {"dim": 20, "tokens_per_second": 7.5, "grid": {"stride": 4, "frames": 16, "fps": 30}, "origin": "i3d"}
    for change, words in (
        ({}, None),
        ({"dim": 21}, "dim 20 and 21"),
        ({"tokens_per_second": 4.0}, "tokens_per_second 7.5 and 4.0"),
        ({"grid": None}, "grid.stride 4 and None"),
    ):
        present = {key: value for key, value in (features | change).items() if value is not None}
        data = SimpleNamespace(root="data", found=SimpleNamespace(record=present))
        if words is None:
            refuse_other_features(Path("x.safetensors"), network.record, data)
            continue
        with pytest.raises(ValueError, match=f"was trained on other features than those of data: {words}"):
            refuse_other_features(Path("x.safetensors"), network.record, data)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pages")
def test_a_converted_file_is_scored_on_imported_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record, names = RECORDS["actionformer"], ["a", "b", "c", "d", "e"]
    convert(
        "actionformer", published(record, Path("a.pth")), "a.safetensors", names, grid=Grid(4, 16, 30), **untold(record)
    )
    noise = np.random.default_rng(0)
    videos = []
    for number, split in enumerate(["train", "val", "test"]):
        events = [Event(f"v{number}", 0.5 + 0.6 * i, 1.0 + 0.6 * i, names[i]) for i in range(5)]
        features = noise.standard_normal((60 + number, 20)).astype(np.float32)
        videos.append(Untrimmed(f"v{number}", split, features, events))
    facts = {"tokens_per_second": 7.5, "grid": {"stride": 4.0, "frames": 16.0, "fps": 30.0}, "origin": "thumos_i3d"}
    write_folder("data", videos, names, facts)
    cli.main(
        ["test", "--config", "localise/folder/actionformer_small", "--ckpt", "a.safetensors", "--data.root", "data"]
    )
    assert "test_event_map" in capsys.readouterr().out


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record = RECORDS["ms_tcn"]
    published(record, Path("epoch-50.model"))
    Path("mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(NAMES)))
    words = ["convert", "--origin", "ms_tcn", "--file", "epoch-50.model", "--out", "x.safetensors"]
    cli.main([*words, "--classes", "mapping.txt", "--trained_on", "gtea"])
    said = capsys.readouterr().out
    assert "x.safetensors: vidact.models.ms_tcn, " in said
    assert "4 classes" in said
    assert "output 0 is the background, background; the actions follow in the order of the file" in said
    assert "it takes 15 features a second, of 12 values" in said
    record = RECORDS["actionformer"]
    published(record, Path("a.pth"))
    given = [word for name, value in untold(record).items() for word in (f"--{name}", json.dumps(value))]
    words = ["convert", "--origin", "actionformer", "--file", "a.pth", "--out", "a.safetensors"]
    cli.main([*words, *given])
    assert "the file does not say how many features a second it takes" in capsys.readouterr().out
    cli.main([*words, *given, "--release", "thumos_videomae"])
    assert "it takes 7.5 features a second, of 20 values" in capsys.readouterr().out
    cli.main([*words, *given[2:], "--grid", "16,32,30"])
    said = capsys.readouterr().out
    assert "it takes 1.875 features a second" in said
    assert "the file does not say num_heads 4 (as published; --num_heads … for another)" in said
    with pytest.raises(SystemExit):
        cli.main([*words, *given, "--grid", "16,32"])
    assert "--grid is 16,32; give three numbers, STRIDE,FRAMES,FPS" in capsys.readouterr().err
    assert vidact.load("a.safetensors").record.features["grid"] == {"stride": 16, "frames": 32, "fps": 30}
