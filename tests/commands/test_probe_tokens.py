"""``vidact probe`` with the attentive head, and on networks that were trained on windows."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support import commands
from support.commands import SMALL, write_probe_clips
from torch.nn import functional as F

import vidact
from vidact import cli
from vidact.export import export, open_onnx
from vidact.models.weights import load
from vidact.results.figures import load_results
from vidact.results.scores import load_scores
from vidact.tasks import attentive
from vidact.tasks import probe as task
from vidact.video import SegmentSampler, WindowSampler, open_video
from vidact.video.transform import test_transform as view_of_tests


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_probe_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module", autouse=True)
def few_rounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attentive, "ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    cli.main(["probe", f"--data={root}", f"--run={folder}", *SMALL, "--heads", "attentive"])
    return folder


def fails(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(commands.fails(["probe", *args], capsys).split())


def test_the_checkpoint_predicts_tokens_by_hand_and_head(run):
    probe, scores = load(run / "probe.safetensors"), load_scores(run / "scores.npz")
    transform = view_of_tests(probe.input, 1)
    for path, row in zip(scores.paths, scores.values, strict=True):
        with open_video(Path(path)) as video:
            images = video.frames_at(SegmentSampler(4)(len(video))[0]).images
        with torch.no_grad():
            maps = probe.trunk.maps(transform(images)[0][0])  # (T, C, h, w)
            height, width = (-(-side // 2) for side in maps.shape[2:])
            quarters = [maps[:, :, y, x].mean((2, 3)) for y in (slice(0, height), slice(-height, None))
                        for x in (slice(0, width), slice(-width, None))]  # fmt: skip
            if maps.shape[2] == 1:
                quarters = quarters[:1]
            fields = torch.stack(quarters, 1)  # (T, P, C)
            motion = torch.cat([torch.zeros_like(fields[:1]), fields.diff(dim=0).abs()])
            logits = probe.head(torch.cat([fields, motion], 2).flatten(0, 1)[None])[0]
        np.testing.assert_allclose(row, logits, atol=1e-5 * max(1.0, float(logits.abs().max())))
        (prediction,) = vidact.predict(path, run / "probe.safetensors", top=3, device="cpu")
        shares = logits.softmax(0).sort(descending=True).values
        np.testing.assert_allclose([score for _, score in prediction.labels], shares, atol=1e-5)


def test_a_second_call_encodes_nothing_and_trains_the_same_head(root, run, tmp_path, capsys, monkeypatch):
    again = tmp_path / "run"
    shutil.copytree(run / "encodings", again / "encodings")
    encoded: list[int] = []
    monkeypatch.setattr(task, "tokens_of", lambda *args: encoded.append(1))
    torch.manual_seed(7)  # the program's random numbers do not matter
    cli.main(["probe", f"--data={root}", f"--run={again}", *SMALL, "--heads", "attentive"])
    assert "0 clips to encode, 24 encoded before" in capsys.readouterr().out
    assert not encoded
    assert (again / "probe.safetensors").read_bytes() == (run / "probe.safetensors").read_bytes()


def test_it_stands_beside_the_other_heads(root, run, tmp_path, capsys):
    shutil.copytree(run / "encodings", tmp_path / "run" / "encodings")
    cli.main(["probe", f"--data={root}", f"--run={tmp_path / 'run'}", *SMALL, "--heads", "attentive", "prototype"])
    out = capsys.readouterr().out
    assert "24 clips to encode, 0 encoded before" in out  # one vector a clip; the tokens were there
    heads = load_results(tmp_path / "run")["heads"]
    assert set(heads) == {"attentive", "prototype"}
    assert heads["attentive"] == load_results(run)["heads"]["attentive"]


@pytest.mark.slow
def test_the_checkpoint_is_exported(run, tmp_path):
    export(run / "probe.safetensors", tmp_path / "a.onnx", runs=2)
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        expected = load(run / "probe.safetensors")(clip)
    logits = open_onnx(tmp_path / "a.onnx")(clip)
    np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-4 * max(1.0, float(expected.abs().max())))


def test_the_size_of_the_tokens_is_printed_first(root, tmp_path, capsys):
    cli.main(["probe", f"--data={root}", f"--run={tmp_path}", *SMALL, "--heads", "attentive"])
    out = capsys.readouterr().out
    stored = [np.load(path) for path in tmp_path.rglob("encodings/**/*.npy")]
    number, dim = stored[0].shape
    assert f"24 clips to encode as tokens ({number} x {dim} numbers a clip, " in out
    assert sum(each.nbytes for each in stored) == 24 * 4 * number * dim


# ------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("name", ["videomae_tiny", pytest.param("vjepa2_tiny", marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", ["prototype", "attentive"])
def test_networks_of_windows_read_two_of_them(name, head, root, tmp_path):
    pytest.importorskip("transformers")
    run = tmp_path / "run"
    arguments = ["--network", name, "--weights=none", "--size=32", "--device=cpu", "--heads", head]
    cli.main(["probe", f"--data={root}", f"--run={run}", *arguments])
    probe, scores = load(run / "probe.safetensors"), load_scores(run / "scores.npz")
    assert probe.record["sampling"] == {
        "name": "WindowSampler",
        "arguments": {"num_windows": 2, "num_frames": 16, "stride": 4},
    }
    trunk, transform = probe.trunk.trunk, view_of_tests(probe.trunk.trunk.input, 1)
    for path, row in zip(scores.paths, scores.values, strict=True):
        with open_video(Path(path)) as video:
            images = video.frames_at(WindowSampler()(len(video))[0]).images
        with torch.no_grad():
            clips = [transform(part)[0] for part in images.split(16)]  # two of (1, 16, C, H, W)
            if head == "prototype":
                inputs = torch.stack([trunk.features(clip)[0] for clip in clips]).mean(0)
            else:
                inputs = torch.cat([trunk.tokens(clip)[0] for clip in clips])
            logits = probe.head(inputs[None])[0]
        np.testing.assert_allclose(row, logits, atol=2e-5 * max(1.0, float(logits.abs().max())))
        (prediction,) = vidact.predict(path, run / "probe.safetensors", top=3, device="cpu")
        shares = F.softmax(logits, 0).sort(descending=True).values
        np.testing.assert_allclose([score for _, score in prediction.labels], shares, atol=1e-5)


@pytest.mark.slow
def test_frames_that_are_given_are_one_clip_as_before(root, tmp_path):
    pytest.importorskip("transformers")
    arguments = ["--network=videomae_tiny", "--weights=none", "--size=32", "--device=cpu", "--heads", "prototype"]
    cli.main(["probe", f"--data={root}", f"--run={tmp_path}", *arguments, "--frames=16"])
    assert load(tmp_path / "probe.safetensors").record["sampling"]["name"] == "SegmentSampler"


@pytest.mark.slow
def test_a_3d_network_gives_the_places_of_its_last_map(root, tmp_path):
    arguments = ["--network=r3d_tiny", "--weights=none", "--size=64", "--frames=16", "--device=cpu", "--heads"]
    cli.main(["probe", f"--data={root}", f"--run={tmp_path / 'run'}", *arguments, "attentive"])
    checkpoint, scores = tmp_path / "run/probe.safetensors", load_scores(tmp_path / "run/scores.npz")
    probe = load(checkpoint)
    assert np.load(next((tmp_path / "run/encodings").rglob("*.npy"))).shape == (2 * 2 * 2, 128)
    (prediction,) = vidact.predict(scores.paths[0], checkpoint, top=3, device="cpu")
    shares = F.softmax(torch.from_numpy(scores.values[0]), 0).sort(descending=True).values
    np.testing.assert_allclose([score for _, score in prediction.labels], shares, atol=1e-5)
    export(checkpoint, tmp_path / "a.onnx", runs=2)
    clip = torch.randn(1, 16, 3, 64, 64)
    with torch.no_grad():
        np.testing.assert_allclose(np.asarray(open_onnx(tmp_path / "a.onnx")(clip)), probe(clip), atol=1e-4)


# ------------------------------------------------------------------------------------------------ bad input


def test_networks_without_tokens_are_refused_in_words(root, tmp_path, capsys):
    arguments = [
        f"--data={root}",
        f"--run={tmp_path}",
        "--network=eco_lite_tiny",
        "--weights=none",
        "--heads",
        "attentive",
    ]
    message = fails(arguments, capsys)
    assert "ECO gives one vector a clip and no tokens, so the head attentive has nothing to attend to" in message
    assert not list(tmp_path.iterdir())


def test_nan_and_tokens_that_were_damaged(root, run, tmp_path, capsys, monkeypatch):
    shutil.copytree(run / "encodings", tmp_path / "run" / "encodings")
    next((tmp_path / "run").rglob("0000.npy")).write_bytes(b"half")
    with monkeypatch.context() as patch:
        patch.setattr(task, "tokens_of", lambda trunk, clip: torch.full((len(clip), 3, 4), float("nan")))
        message = fails([f"--data={root}", f"--run={tmp_path / 'run'}", *SMALL, "--heads", "attentive"], capsys)
    assert "ResNet gives NaN or infinity for the clip" in message
    cli.main(["probe", f"--data={root}", f"--run={tmp_path / 'run'}", *SMALL, "--heads", "attentive"])
    assert "1 clip to encode" in capsys.readouterr().out
