"""Published checkpoints become vidact files whole, or are refused by the name of what does not fit."""

import argparse
import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import vidact
from vidact import cli
from vidact.batch import ClipInput
from vidact.convert import arguments_of, convert, infer, reference
from vidact.models.i3d import Inception, Pool, Unit, i3d_inception, pad_same
from vidact.models.online import OnlineNetwork
from vidact.models.weights import REFERENCES, from_reference, read
from vidact.training.lightning import make_cli
from vidact.video import ClipSampler
from vidact.video.transform import from_record

pytestmark = pytest.mark.usefixtures("without_pages")

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[2] / "shared")) / "parity"
RECORDS = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
# What no name and no shape tells: of the records' hyperparameters these are given, the rest is found out.
TOLD = {"alpha", "beta", "feature_dims", "num_heads", "work", "decoder_heads", "window", "long", "feature_dim",
        "decoder_steps", "hidden_size", "model_dim", "feedforward_dim", "encoder_queries", "encoder_layers",
        "decoder_layers", "embedding_dim", "num_layers", "hidden_dim", "num_queries", "decoder_hidden_dim"}  # fmt: skip


def smallest(origin):
    found = [record for record in RECORDS if record["origin"] == origin]
    return min(found, key=lambda record: len(record["state_dict"])) if found else None


def filled(record):
    spec = importlib.util.spec_from_file_location("parity_fill", FOLDER / "fill.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    fixed = record["fixed_buffers"]
    return {key: torch.as_tensor(rule.fill(key, s)) for key, s in record["state_dict"].items() if key not in fixed}


def published(state_dict, path, **beside):
    """As research code saves it: DataParallel's names, epoch and best accuracy beside the tensors."""
    content = {"epoch": 50, "arch": "resnet50", "best_prec1": np.float64(71.2), **beside}
    torch.save({**content, "state_dict": {f"module.{k}": torch.as_tensor(v) for k, v in state_dict.items()}}, path)
    return path


LARGE = {"eco_full", "eco_lite", "mmaction2_tanet", "tanet", "tdn", "tea"}  # `pytest -m slow`
RECORDED = [
    pytest.param(origin, marks=pytest.mark.slow) if origin in LARGE else origin
    for origin in sorted({record["origin"] for record in RECORDS} & REFERENCES.keys())
]


@pytest.mark.usefixtures("no_fresh_weights")
@pytest.mark.parametrize("origin", RECORDED)
def test_every_recorded_layout_converts(origin, tmp_path):
    """The file opens without the library that wrote it, and says how it wants its input."""
    record = smallest(origin)
    file = published(filled(record), tmp_path / "published.pth.tar")
    known = arguments_of(reference(origin))
    found = infer(read(file)[0], known)
    given = {
        name: value
        for name, value in record["hyperparameters"].items()
        if name in known and (name in TOLD or name not in found)
    }
    for name in found.keys() & record["hyperparameters"].keys():
        assert found[name] == record["hyperparameters"][name], name
    network = convert(origin, file, tmp_path / "ours.safetensors", **given)
    opened = vidact.load(tmp_path / "ours.safetensors")
    assert opened.record["converted"]["origin"] == origin
    assert opened.record["converted"]["file"] == "published.pth.tar"
    if isinstance(network, OnlineNetwork):
        assert len(opened.record["classes"]) == record["hyperparameters"]["num_classes"] - 1
        return
    assert len(opened.record["classes"]) == record["hyperparameters"]["num_classes"]
    assert ("input" in opened.record) == isinstance(getattr(network, "input", None), ClipInput)
    if "input" in opened.record:
        assert from_record(opened.record).input == network.input
        frames = ClipSampler.from_record(opened.record["sampling"])(300).shape[1]
        assert network.input.frames in (None, frames)
        assert ("flow" in opened.record) == bool(network.input.flow_fields)


# What a detector's tensors do not tell: how a layer's width is cut into heads, and how far back its memories reach.
UNTOLD = {
    "miniroad": set(),
    "trn_recurrent": {"decoder_steps"},
    "oadtr": {"num_heads", "decoder_heads"},
    "lstr": {"num_heads", "long", "work"},
    "testra": {"num_heads", "long", "work"},
}


@pytest.mark.parametrize("origin", UNTOLD)
def test_a_detectors_sizes_are_read_from_its_tensors(origin, tmp_path, monkeypatch, capsys):
    """Nothing but what no tensor tells is given, and the network computes what it computes with every size given."""
    if not RECORDS:
        pytest.skip(f"no parity records in {FOLDER}; VIDACT_SHARED names their parent folder")
    record = smallest(origin)
    published(filled(record), tmp_path / "published.pth")
    given = {name: value for name, value in record["hyperparameters"].items() if name in UNTOLD[origin]}
    options = [word for name, value in given.items() for word in (f"--{name}", json.dumps(value))]
    monkeypatch.chdir(tmp_path)
    cli.main(["convert", "--origin", origin, "--file", "published.pth", "--out", "ours.safetensors", *options])
    said = capsys.readouterr().out
    ours = vidact.load(tmp_path / "ours.safetensors")
    theirs = from_reference(origin, filled(record), **record["hyperparameters"]).eval()
    assert ours.recipe["arguments"] == theirs.recipe["arguments"]
    features = torch.randn(1, 30, sum(record["hyperparameters"]["feature_dims"]))
    with torch.no_grad():
        assert torch.equal(ours(features).logits, theirs(features).logits)
    assert f"feature_dims [{features.shape[2]}]" in said
    # what was neither given nor told is named with the value that was taken
    published(filled(record), tmp_path / "published.pth")
    (tmp_path / "ours.safetensors").unlink()
    if UNTOLD[origin] - {"num_heads", "decoder_heads"}:
        few = [word for name, value in given.items() if "heads" in name for word in (f"--{name}", json.dumps(value))]
        cli.main(["convert", "--origin", origin, "--file", "published.pth", "--out", "ours.safetensors", *few])
        expected = {"trn_recurrent": "decoder_steps 8 (", "lstr": "long 512, work 32,", "testra": "long 512, work 32,"}
        assert f"the file does not say {expected[origin]}" in capsys.readouterr().out


def test_published_sizes_keep_both_parts_of_their_features():
    tensors = {"module.layer1.0.weight": torch.empty(2048, 3072, device="meta")}
    known = arguments_of(reference("miniroad"))
    assert infer(tensors, known, "miniroad") == {"embedding_dim": 2048}  # 2048 of RGB and 1024 of flow, as published


TSM = "tsm_mobilenetv2"


@pytest.fixture(scope="module")
def tsm():
    if not RECORDS:
        pytest.skip(f"no parity records in {FOLDER}; VIDACT_SHARED names their parent folder")
    return filled(next(record for record in RECORDS if record["name"] == TSM))


def test_one_missing_one_extra_one_wrong_shape(tsm, tmp_path):
    key = "base_model.features.5.conv.0.net.weight"
    without = {name: value for name, value in tsm.items() if name != key}
    for words, state_dict in (
        ("1 missing: backbone.features.5.conv.0.0.weight", without),
        ("1 unknown: module.somebody.elses", {**tsm, "somebody.elses": torch.zeros(3)}),
        (f"1 of the wrong shape: module.{key}", {**tsm, key: tsm[key][1:]}),
    ):
        file = published(state_dict, tmp_path / "published.pth")
        with pytest.raises(ValueError, match=rf"published\.pth: .*{re.escape(words)}"):
            convert("tsm", file, tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


# What a layout's function wants to be told, where there is no record to look it up in.
NETWORK = {"pytorchvideo": "x3d_xs", "slowfast": "slow_r50", "torchvision": "s3d"}


@pytest.mark.parametrize("origin", sorted(REFERENCES.keys() - {"videomae", "vjepa2"}))  # test_video_transformers.py
def test_every_layout_names_what_does_not_belong_to_it(origin):
    """By the name in the file, whatever the table makes of it."""
    needed = [name for name, one in arguments_of(reference(origin)).items() if one.default is one.empty]
    asked = {"num_classes": 5, "num_segments": 8, "network": NETWORK.get(origin), "size": "a0", "stream": True}
    foreign = {"somebody.elses": torch.zeros(3)}
    with torch.device("meta"), pytest.raises(ValueError, match=r"1 unknown: somebody\.elses; \d+ missing: \w+"):
        from_reference(origin, foreign, **{name: asked[name] for name in needed})


def test_the_command(tsm, tmp_path, capsys):
    """Names of classes, what was found out and what was not are said."""
    file, out = published(tsm, tmp_path / "published.pth"), tmp_path / "ours.safetensors"
    (tmp_path / "classes.txt").write_text("\n".join(f"action {i}" for i in range(11)) + "\n")
    cli.main(["convert", "--origin", "tsm", "--file", str(file), "--out", str(out), "--classes",
              str(tmp_path / "classes.txt"), "--num_segments", "16"])  # fmt: skip
    said = capsys.readouterr().out
    assert "vidact.models.tsm_mobilenet_v2" in said
    assert "num_classes 11, backbone mobilenet_v2, modality rgb, num_segments 16" in said
    record = vidact.load(out).record
    assert record["classes"][3] == "action 3"
    assert record["sampling"]["arguments"]["num_segments"] == 16
    cli.main(["convert", "--origin", "tsm", "--file", str(file), "--out", str(out), "--dense"])
    said = capsys.readouterr().out
    assert "no classes were named" in said
    assert "tsm_dense" in said
    assert "8 frames, since the file does not say" in said
    for words, more in {
        "unrecognized arguments: --feature_dim": ["--feature_dim", "3"],
        "origin 'tsx' is unknown": ["--origin", "tsx"],
        "there is no file": ["--file", str(tmp_path / "none.pth")],
        "saved as .safetensors": ["--out", str(tmp_path / "ours.pth")],
    }.items():
        with pytest.raises(SystemExit) as left:
            cli.main(["convert", "--origin", "tsm", "--file", str(file), "--out", str(out), *more])
        assert left.value.code == 2
        assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match="3 classes are named and the network has 11"):
        convert("tsm", file, out, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="two classes have the name 'a'"):
        convert("tsm", file, out, classes=["a"] * 11)
    with pytest.raises(ValueError, match="is a vidact file already"):
        convert("tsm", out, tmp_path / "again.safetensors")
    with pytest.raises(ValueError, match=r"origin tsm takes no long; it takes num_classes"):
        convert("tsm", file, out, long=3)
    cli.main(["convert", "--origin", "tsm", "--help-origin"])
    assert "--non_local" in capsys.readouterr().out


def test_the_online_demo_file_is_causal(tsm, tmp_path):
    """TSM's camera demo: bare names, as a bare state dict."""
    torch.save(online(tsm), tmp_path / "online.pth")
    network = convert("tsm", tmp_path / "online.pth", tmp_path / "ours.safetensors")
    assert network.is_causal
    state = network.initial_state(1, size=64)
    logits, _ = network.step(torch.zeros(1, 3, 64, 64), state)
    assert logits.shape == (1, 11)


def test_converted_then_scored(tsm, tmp_path, capsys):
    """A researcher's published TSM is scored on clips of one's own, in two commands."""
    from vidact.data.synthetic import CLASSES, write_clips
    from vidact.results.figures import load_results

    write_clips(tmp_path / "clips", {"train": 1, "val": 1, "test": 1}, classes=CLASSES[:11])
    file, ours = published(tsm, tmp_path / "published.pth"), tmp_path / "ours.safetensors"
    cli.main(["convert", "--origin", "tsm", "--file", str(file), "--out", str(ours), "--classes",
              str(tmp_path / "clips/classes.txt")])  # fmt: skip
    cli.main(["test", "--config", "clip/folder/tsm_mobilenetv2", "--ckpt", str(ours), "--device=cpu",
              f"--data.root={tmp_path / 'clips'}", "--model.network.weights=null", "--model.network.size=64",
              "--data.num_workers=0", "--trainer.precision=32", "--trainer.enable_progress_bar=false",
              f"--run={tmp_path / 'run'}"])  # fmt: skip
    tested = load_results(tmp_path / "run")["test"]
    assert tested["videos"] == 11
    assert tested["checkpoint"] == str(ours)
    assert tested["parameters"] == sum(p.numel() for p in vidact.load(ours).parameters())


def online(tsm):
    """The file of TSM's camera demo: bare names as a bare state dict, without what the shift of clips calls them."""
    return OrderedDict(
        (
            key.removeprefix("base_model.").replace(".net.", ".").replace("new_fc.", "classifier."),
            torch.as_tensor(value),
        )
        for key, value in tsm.items()
    )


@pytest.fixture(scope="module")
def converted(tsm, tmp_path_factory):
    """A causal TSM of a published file, and clips of as many classes."""
    from vidact.data.synthetic import CLASSES, write_clips

    folder = tmp_path_factory.mktemp("converted")
    write_clips(folder / "clips", {"train": 1, "test": 1}, classes=CLASSES[:11])
    torch.save(online(tsm), folder / "online.pth")
    convert("tsm", folder / "online.pth", folder / "causal.safetensors", folder / "clips" / "classes.txt")
    return folder


def test_a_test_builds_the_network_that_the_checkpoint_names(converted, tmp_path, capsys):
    """The same tensors fit a network that shifts both ways: with the configuration's, the scores would be others'."""
    known = ["--config", "clip/folder/tsm_mobilenetv2", "--ckpt", str(converted / "causal.safetensors"), "--device=cpu",
             f"--data.root={converted / 'clips'}", f"--run={tmp_path / 'run'}"]  # fmt: skip
    made = make_cli(known, "test").model.network
    assert (made.is_causal, made.input.size) == (True, 224)
    assert made.recipe == vidact.load(converted / "causal.safetensors").recipe
    said = capsys.readouterr().out
    assert "the network is the checkpoint's, vidact.models.tsm_mobilenet_v2 (num_classes 11, shift causal," in said
    assert "; the configuration has vidact.models.tsm_mobilenet_v2, shift bidirectional, size 112\n" in said
    # what is asked for on the command line holds
    made = make_cli([*known, "--model.network.size", "64"], "test").model.network
    assert (made.is_causal, made.input.size, made.recipe["arguments"]["weights"]) == (True, 64, None)
    with pytest.raises(ValueError, match=r"holds a vidact.models.tsm_mobilenet_v2, which takes no width; it takes"):
        make_cli(["--config", "clip/synthetic/tsm_resnet_tiny", *known[2:], "--model.network.width=8"], "test")


def test_a_checkpoint_of_another_network_or_other_classes_is_refused(converted, tsm, tmp_path, capsys):
    known = ["test", "--config", "clip/folder/tsm_mobilenetv2", "--device=cpu", f"--data.root={converted / 'clips'}",
             f"--run={tmp_path / 'run'}"]  # fmt: skip
    torch.save(online(tsm), tmp_path / "online.pth")
    convert("tsm", tmp_path / "online.pth", tmp_path / "nameless.safetensors")
    wrong = [*known, "--ckpt", str(converted / "causal.safetensors"), "--model.network=vidact.models.tsm_resnet18"]
    nameless = [*known, "--ckpt", str(tmp_path / "nameless.safetensors")]
    for args, words in (
        (wrong, r"causal\.safetensors does not fit TSM: .* missing: backbone\.conv1\.weight"),
        (nameless, "have numbers for names: name them with vidact convert --classes FILE. To tell"),
        (nameless, r"train from it: vidact train … --model\.init_from .*nameless\.safetensors"),
        ([*known, "--ckpt", str(tmp_path / "online.pth")], "does not say which network it holds; .* vidact convert"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(args)
        assert left.value.code == 2
        assert re.search(words, capsys.readouterr().err)


@pytest.mark.slow
def test_three_commands_convert_stream_and_train(tsm, shared_data, tmp_path, monkeypatch, capsys):
    """The commands of docs/published-weights.md as they stand there, on real videos of people."""
    if not (shared_data / "weizmann").is_dir():
        pytest.skip(f"there is no {shared_data / 'weizmann'}")
    block = re.search(r"```bash\n(python tools/.*?)```", (ROOT / "docs" / "published-weights.md").read_text(), re.S)[1]
    commands = [shlex.split(line, comments=True)[1:] for line in block.replace("\\\n", " ").splitlines()]
    assert [Path(words[0]).stem for words in commands] == ["convert", "stream", "train"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weizmann").symlink_to(shared_data / "weizmann")
    listed = (shared_data / "annotations/class_lists/jester/label_map.txt").read_text().splitlines()
    (tmp_path / "gestures.txt").write_text("".join(f"{name}\n" for name in sorted(listed)))
    assert len(listed) == 27  # as many as the published file has outputs
    wide = {k: np.resize(v, (27, *np.shape(v)[1:])) if k.startswith("new_fc.") else v for k, v in tsm.items()}
    torch.save(online(wide), tmp_path / commands[0][commands[0].index("--file") + 1])
    commands[2] += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.batch_size=2"]
    for words in commands:
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    said = capsys.readouterr()
    assert "shift causal" in said.out
    assert vidact.load(tmp_path / "tsm.safetensors").record["classes"][:2] == ["Doing other things", "Drumming Fingers"]
    assert re.search(r"14 answers; \d+ events; 0 frames dropped", said.err + said.out)
    [results] = (tmp_path / "runs").glob("*/*/results.json")
    tested = next(value for name, value in json.loads(results.read_text()).items() if name.startswith("test"))
    assert (tested["videos"], tested["excluded"], tested["classes"]) == (10, 0, 10)
    # what was trained began at the published weights: one small step away
    before = vidact.load(tmp_path / "tsm.safetensors").state_dict()
    after = vidact.load(results.parent / "checkpoints" / "best.ckpt").state_dict()
    name = next(name for name in before if name.endswith("conv.0.0.weight"))
    torch.testing.assert_close(after[name], before[name], atol=0.05, rtol=0.1)


# ---------------------------------------------------------------------------------------------- what files hold


def test_logs_and_options_of_training_are_passed_over(tsm, tmp_path, monkeypatch):
    """MMAction2 keeps a log of losses, others their options; neither library is needed to read past them."""
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    class HistoryBuffer:
        def __init__(self):
            self._history = np.arange(3.0)
            self._counts = np.arange(3)
            self._statistics_methods = {"min": self.minimum}

        def minimum(self):
            return self._history.min()

    HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    sys.modules["mmengine.logging.history_buffer"].HistoryBuffer = HistoryBuffer
    file = published(
        tsm,
        tmp_path / "published.pth",
        message_hub={"log_scalars": OrderedDict(loss=HistoryBuffer())},
        args=argparse.Namespace(dataset="kinetics"),
        accuracies=np.zeros(4, np.float32),
    )
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.delitem(sys.modules, name)
    state_dict, record = read(file)
    assert len(state_dict) == len(tsm)
    assert record is None


class Attack:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["ATTACK"])),)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTACK", str(tmp_path / "ran"))
    torch.save({"state_dict": {"a": torch.zeros(1)}, "args": Attack()}, tmp_path / "attack.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        convert("tsm", tmp_path / "attack.pth", tmp_path / "ours.safetensors")
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------- 3-D networks


def library(name):
    torch.manual_seed(0)
    if hasattr(torchvision.models.video, name):
        return getattr(torchvision.models.video, name)().eval()
    module = {"x3d_xs": "x3d", "slow_r50": "resnet", "c2d_r50": "resnet", "slowfast_r50": "slowfast"}[name]
    network = getattr(importlib.import_module(f"pytorchvideo.models.hub.{module}"), name)(pretrained=False).eval()
    network.blocks[-1].activation = None
    return network


def pyslowfast(key, name):
    """pytorchvideo's name → PySlowFast's, for ResNets."""
    words = key.split(".")
    block, pathway = int(words[1]), 0
    if name == "c2d_r50" and block > 2:
        block -= 1
    rest = words[2:]
    if rest[0] == "proj":
        return f"head.projection.{rest[1]}"
    if rest[0] == "multipathway_fusion":
        part = {"conv_fast_to_slow": "conv_f2s", "norm": "bn"}[rest[1]]
        return ".".join([f"s{block + 1}_fuse", part, *rest[2:]])
    if rest[0] == "multipathway_blocks":
        pathway, rest = int(rest[1]), rest[2:]
    if block == 0:
        return ".".join([f"s1.pathway{pathway}_stem", {"conv": "conv", "norm": "bn"}[rest[0]], *rest[1:]])
    number, inner = rest[1], rest[2:]
    if inner[0] == "branch2":
        kind, letter = inner[1].split("_")
        inner = ["branch2", letter if kind == "conv" else f"{letter}_bn", *inner[2:]]
    else:
        inner = [{"branch1_conv": "branch1", "branch1_norm": "branch1_bn"}[inner[0]], *inner[1:]]
    return ".".join([f"s{block + 1}.pathway{pathway}_res{number}", *inner])


@pytest.mark.parametrize(
    ("origin", "name", "frames", "size"),
    [
        ("torchvision", "mc3_18", 8, 64),
        pytest.param("torchvision", "s3d", 16, 224, marks=pytest.mark.slow),
        ("pytorchvideo", "x3d_xs", 4, 160),
        pytest.param("slowfast", "c2d_r50", 8, 224, marks=pytest.mark.slow),
        pytest.param("pytorchvideo", "slow_r50", 8, 224, marks=pytest.mark.slow),
        pytest.param("slowfast", "slowfast_r50", 32, 224, marks=pytest.mark.slow),
        pytest.param("torchvision", "mvit_v2_s", 16, 224, marks=pytest.mark.slow),
        pytest.param("torchvision", "mvit_v1_b", 16, 224, marks=pytest.mark.slow),
        pytest.param("torchvision", "swin3d_s", 4, 64, marks=pytest.mark.slow),
    ],
)
def test_a_library_file_gives_the_library_scores(origin, name, frames, size, tmp_path):
    theirs = library(name)
    state_dict = theirs.state_dict()
    if origin == "slowfast":
        state_dict = {pyslowfast(key, name): value for key, value in state_dict.items()}
    torch.save({"model_state": state_dict} if origin != "torchvision" else state_dict, tmp_path / "published.pyth")
    ours = convert(origin, tmp_path / "published.pyth", tmp_path / "ours.safetensors", network=name)
    clip = torch.randn(1, frames, 3, size, size)
    pathways = clip.transpose(1, 2)
    if name == "slowfast_r50":
        pathways = [pathways[:, :, torch.linspace(0, frames - 1, frames // 4).long()], pathways]
    with torch.no_grad():
        expected = theirs(pathways)
        torch.testing.assert_close(ours(clip), expected, rtol=1e-4, atol=1e-5 * max(1, expected.abs().max()))
    if origin == "torchvision":
        assert ours.record["classes"][0] == "abseiling"  # torchvision lists them
    with pytest.raises(ValueError, match=f"there are .*{name}"):
        convert(origin, tmp_path / "published.pyth", tmp_path / "ours.safetensors", network="tsn_resnet50")
    with pytest.raises(ValueError, match="say which with --network"):
        convert(origin, tmp_path / "published.pyth", tmp_path / "ours.safetensors")


def test_slowfast_with_other_kernels_is_refused_by_name(tmp_path):
    """SlowFast 4x16 fuses with kernels of 5 frames; ours is 8x8 with 7."""
    state_dict = {pyslowfast(key, "slowfast_r50"): value for key, value in library("slowfast_r50").state_dict().items()}
    state_dict["s1_fuse.conv_f2s.weight"] = torch.zeros(16, 8, 5, 1, 1)
    torch.save({"model_state": state_dict}, tmp_path / "published.pyth")
    with pytest.raises(ValueError, match=r"1 of the wrong shape: s1_fuse\.conv_f2s\.weight \(16, 8, 5, 1, 1\)"):
        convert("slowfast", tmp_path / "published.pyth", tmp_path / "ours.safetensors", network="slowfast_r50")


# ---------------------------------------------------------------------------------------------- I3D


def test_i3d_is_as_large_as_published():
    """12.697 M parameters in 344 tensors; 27.8 and 111 GMACs for 16 and 64 frames."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = i3d_inception(400).eval()
    assert sum(p.numel() for p in network.parameters()) == 12_697_264
    assert len(network.state_dict()) == 344
    for frames, giga in ((16, 27.79), (64, 111.15)):
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, frames, 3, 224, 224, device="meta"))
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga, abs=0.01)


def test_i3d_pads_as_tensorflow_does():
    maps = torch.randn(1, 2, 5, 6, 7)
    assert torch.equal(pad_same(maps, (3, 3, 3), (1, 1, 1)), torch.nn.functional.pad(maps, [1] * 6))
    halved = pad_same(maps, (7, 7, 7), (2, 2, 2))  # 5 + 6, 6 + 5, 7 + 6
    assert halved.shape[2:] == (11, 11, 13)
    assert torch.equal(halved[:, :, 3:8, 2:8, 3:10], maps)  # where the padding is odd, more of it is behind
    assert Unit(2, 4, 7, 2)(maps).shape[2:] == (3, 3, 4)
    assert Pool((2, 2, 2), (2, 2, 2))(maps).shape[2:] == (3, 3, 4)
    assert Inception(2, (1, 2, 3, 4, 5, 6))(maps).shape == (1, 15, 5, 6, 7)


@pytest.mark.parametrize("modality", ["rgb", pytest.param("flow", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_i3d_files(modality, tmp_path):
    torch.manual_seed(0)
    network = i3d_inception(7, size=64, modality=modality).eval()
    names = {key: key.removeprefix("trunk.").replace("fc.", "logits.conv3d.") for key in network.state_dict()}
    tensors = {names[key]: value for key, value in network.state_dict().items()}
    tensors["logits.conv3d.weight"] = tensors["logits.conv3d.weight"][..., None, None, None]
    assert tensors["Mixed_5c.b3b.bn.running_mean"].shape == (128,)
    torch.save(tensors, tmp_path / "published.pt")
    ours = convert("i3d", tmp_path / "published.pt", tmp_path / "ours.safetensors")
    assert (ours.input.flow_fields, ours.input.rgb_channels) == ((0, 3) if modality == "rgb" else (1, 0))
    channels = ours.input.channels
    # the published network: a 1x1x1 convolution of windows of 2x7x7, averaged over time
    clip = torch.randn(1, 24, channels, 224, 224).clamp(-1, 1)
    with torch.no_grad():
        maps = clip.transpose(1, 2)
        for module in list(ours.trunk)[:-3]:
            maps = module(maps)
        windows = torch.nn.functional.avg_pool3d(maps, (2, 7, 7), 1)
        expected = torch.nn.functional.conv3d(windows, tensors["logits.conv3d.weight"], tensors["logits.conv3d.bias"])
        assert expected.shape[2:] == (2, 1, 1)
        torch.testing.assert_close(ours(clip), expected.mean((2, 3, 4)), rtol=1e-4, atol=1e-5)
    tuned = i3d_inception(3, str(tmp_path / "published.pt"), modality=modality)
    assert torch.equal(tuned.trunk.Mixed_5c.b0.conv3d.weight, network.trunk.Mixed_5c.b0.conv3d.weight)
