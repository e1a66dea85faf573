"""Probes and predictions in ONNX Runtime agree with PyTorch, keep their runtime, and fall back where no graph is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support import commands
from support.commands import SMALL, write_probe_clips
from torch import Tensor, nn

import vidact
import vidact.models
from vidact import cli
from vidact.data.clips import ClipData
from vidact.features.names import build_network
from vidact.models import tsm_resnet_tiny, tsn_resnet_tiny
from vidact.models.probe import features_of
from vidact.models.token_probe import tokens_of
from vidact.models.weights import load, save, weights_hash
from vidact.results.figures import load_results
from vidact.results.scores import load_scores
from vidact.runtimes import networks as module
from vidact.runtimes.choices import TOLERANCE
from vidact.runtimes.compiled import NoGraphError
from vidact.runtimes.networks import OnnxMaps, in_onnx, in_onnx_by_image, quick_runtime, settled
from vidact.stream import load_model, open_source
from vidact.stream import run as play
from vidact.tasks import probe as task
from vidact.tasks.frozen_probe import features_of_splits
from vidact.video.decode import open_video
from vidact.video.numbered import write_numbered_video
from vidact.video.sample import SegmentSampler
from vidact.video.transform import test_transform as view_of_tests


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_probe_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def runs(root: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same probe in each runtime."""
    folder = tmp_path_factory.mktemp("runs")
    for runtime in ("torch", "onnx"):
        cli.main(
            ["probe", f"--data={root}", f"--run={folder / runtime}", *SMALL, "--heads=linear", f"--runtime={runtime}"]
        )
    return {runtime: folder / runtime for runtime in ("torch", "onnx")}


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network can be a graph, and every network is worth one."""

    def refuse(network: nn.Module, shape: object, digest: str, name: str) -> None:
        raise NoGraphError(f"{name} cannot be an ONNX graph")

    monkeypatch.setattr(module, "compiled", refuse)
    monkeypatch.setattr("vidact.prediction.compiled", refuse)
    monkeypatch.setattr(module, "LEAST_PARAMETERS", 0)


def close(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> bool:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    return bool(np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max())


def digest(network: nn.Module) -> str:
    return weights_hash(network.state_dict())


# ---------------------------------------------------------------------------------------------- the choice


def test_auto_is_a_graph_on_a_cpu_where_it_pays(monkeypatch):
    large, tiny = nn.Linear(1000, 1000), nn.Linear(10, 10)
    assert quick_runtime([large], "cpu") == "onnx"
    assert quick_runtime([large], "cuda:1") == "torch"
    assert quick_runtime([tiny], "cpu") == "torch"
    assert quick_runtime([tiny, large], "cpu") == "onnx"
    assert quick_runtime([nn.Linear(600, 600), nn.Linear(600, 600)], "cpu") == "torch"
    assert [settled("auto", earlier, "onnx") for earlier in (None, "torch", "onnx")] == ["onnx", "torch", "onnx"]
    assert [settled(name, "onnx", "onnx") for name in ("torch", "onnx")] == ["torch", "onnx"]
    with pytest.raises(ValueError, match="runtime is 'tensorrt'; it is one of auto, torch, onnx"):
        settled("tensorrt", None, "onnx")
    with pytest.raises(ValueError, match="begun in the runtime openvino, which this vidact does not have"):
        settled("auto", "openvino", "onnx")


# ---------------------------------------------------------------------------------------------- features


@torch.no_grad()
def test_the_features_of_an_image_network_agree_and_do_not_depend_on_the_batch(home):
    trunk = build_network("resnet_tiny", None, 32).eval()
    clips = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    quick = in_onnx(trunk, 4, digest(trunk))
    features = features_of(quick, clips)
    assert close(features, features_of(trunk, clips))
    assert torch.equal(features[1:2], features_of(quick, clips[1:2]))


@pytest.mark.slow
@torch.no_grad()
def test_the_tokens_of_image_networks_and_the_features_and_tokens_of_clip_networks_agree(home):
    clips = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = build_network("resnet_tiny", None, 32).eval()
    maps = in_onnx(images, 4, digest(images), tokens=True)
    assert isinstance(maps, OnnxMaps)
    assert close(tokens_of(maps, clips), tokens_of(images, clips))
    network = tsn_resnet_tiny(3, weights=None, size=32).eval()
    assert close(features_of(in_onnx(network, 4, digest(network)), clips), network.features(clips))
    assert close(tokens_of(in_onnx(network, 4, digest(network), tokens=True), clips), tokens_of(network, clips))


# ---------------------------------------------------------------------------------------------- vidact probe


@pytest.mark.slow
def test_a_probe_says_its_runtime_and_its_scores_agree(runs):
    scores = {runtime: load_scores(run / "scores.npz").values for runtime, run in runs.items()}
    for runtime, run in runs.items():
        assert load_results(run)["probe"]["runtime"] == load(run / "probe.safetensors").record.runtime == runtime
    assert not np.array_equal(scores["onnx"], scores["torch"])
    np.testing.assert_allclose(scores["onnx"], scores["torch"], atol=20 * TOLERANCE * np.abs(scores["torch"]).max())


@torch.no_grad()
def test_the_checkpoint_predicts_features_by_hand_and_head_in_its_runtime(runs, home):
    run = runs["onnx"]
    probe, scores = load(run / "probe.safetensors"), load_scores(run / "scores.npz")
    trunk = in_onnx(probe.trunk, 4, digest(probe.trunk))
    path, row = scores.paths[0], scores.values[0]
    with open_video(Path(path)) as video:
        clip = view_of_tests(probe.input, 1)(video.frames_at(SegmentSampler(4)(len(video))[0]).images)[0]
    logits = probe.head(features_of(trunk, clip, probe.views))[0]
    np.testing.assert_allclose(row, logits, atol=1e-5 * max(1.0, float(logits.abs().max())))
    expected = logits.softmax(0).sort(descending=True).values
    predicted = {}
    for runtime in ("auto", "onnx", "torch"):
        (prediction,) = vidact.predict(path, run / "probe.safetensors", top=3, device="cpu", runtime=runtime)
        predicted[runtime] = [score for _, score in prediction.labels]
    np.testing.assert_allclose(predicted["auto"], expected, atol=1e-5)
    assert predicted["auto"] == predicted["onnx"]
    np.testing.assert_allclose(predicted["torch"], expected, atol=20 * TOLERANCE)


@pytest.mark.slow
def test_a_run_goes_on_in_the_runtime_of_its_encodings(root, runs, home, tmp_path, capsys, monkeypatch):
    """Also where "auto" is another one for a new run."""
    encoded, features_of = [], task.features_of
    monkeypatch.setattr(task, "features_of", lambda *args: encoded.append(args[1]) or features_of(*args))
    for runtime, name in (("torch", "PyTorch"), ("onnx", "ONNX Runtime")):
        run = tmp_path / runtime
        shutil.copytree(runs[runtime] / "encodings", run / "encodings")
        monkeypatch.setattr(module, "LEAST_PARAMETERS", 0 if runtime == "torch" else 10**9)
        cli.main(["probe", f"--data={root}", f"--run={run}", *SMALL, "--heads=linear"])
        out = capsys.readouterr().out
        assert f"the encodings were begun in {name}, and new ones are made in it" in out
        assert f"0 clips to encode, 24 encoded before, in {name}" in out
        assert np.array_equal(load_scores(run / "scores.npz").values, load_scores(runs[runtime] / "scores.npz").values)
    assert not encoded


def test_a_trunk_that_cannot_be_a_graph_runs_in_pytorch_and_says_so(root, runs, tmp_path, capsys, no_graphs):
    cli.main(["probe", f"--data={root}", f"--run={tmp_path / 'a'}", *SMALL, "--heads=linear"])
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "cannot be" in line]
    assert line == "ResNet cannot be an ONNX graph; it runs in PyTorch"
    assert "24 clips to encode, 0 encoded before, in PyTorch" in printed.out
    assert np.array_equal(
        load_scores(tmp_path / "a/scores.npz").values, load_scores(runs["torch"] / "scores.npz").values
    )
    asked = ["probe", f"--data={root}", f"--run={tmp_path / 'b'}", *SMALL, "--heads=linear", "--runtime=onnx"]
    assert "ResNet cannot be an ONNX graph" in commands.fails(asked, capsys)
    assert not (tmp_path / "b" / "encodings").exists()


def test_a_graph_computes_on_the_cpu_only(root, tmp_path):
    store = task.Encodings(tmp_path, build_network("resnet_tiny", None, 32), {})
    with pytest.raises(ValueError, match="the runtime onnx computes on the CPU, and the networks are on cuda"):
        task.networks_in("onnx", [store], {}, torch.device("cuda"))


def features_in(root: Path, run: Path, runtime: str) -> tuple[dict[str, np.ndarray], int, str]:
    torch.manual_seed(0)
    network = tsn_resnet_tiny(3, weights=None, size=32).eval()
    data = ClipData(str(root), SegmentSampler(4), batch_size=2, num_workers=0)
    data.prepare(network.input)
    return features_of_splits(
        data, network, run, {}, {"train": data.found.split("train")[:3]}, torch.device("cpu"), runtime
    )


def test_a_probe_beside_a_training_keeps_the_runtime_of_a_run_beside_it(root, tmp_path, no_graphs):
    first, num_encoded, runtime = features_in(root, tmp_path / "a", "torch")
    assert (num_encoded, runtime) == (3, "torch")
    beside, num_encoded, runtime = features_in(root, tmp_path / "b", "auto")
    assert (num_encoded, runtime) == (0, "torch")
    assert all(np.array_equal(beside[clip], first[clip]) for clip in first)
    assert features_in(root, tmp_path / "x" / "c", "auto")[1:] == (3, "torch")  # there is no graph
    with pytest.raises(NoGraphError, match="TSN cannot be an ONNX graph"):
        features_in(root, tmp_path / "d", "onnx")


@pytest.mark.slow
def test_a_probe_beside_a_training_agrees_in_onnx_runtime(root, home, tmp_path, monkeypatch):
    first, _, _ = features_in(root, tmp_path / "a", "torch")
    monkeypatch.setattr(module, "LEAST_PARAMETERS", 0)
    quick, num_encoded, runtime = features_in(root, tmp_path / "x" / "b", "auto")
    assert (num_encoded, runtime) == (3, "onnx")
    assert all(close(quick[clip], first[clip]) for clip in first)
    assert features_in(root, tmp_path / "x" / "c", "auto")[1:] == (0, "onnx")


# ---------------------------------------------------------------------------------------------- vidact predict


def saved(network: nn.Module, path: Path) -> Path:
    return save(
        network, path, {"classes": ["a", "b", "c"], "sampling": SegmentSampler(4).record(), "multi_label": False}
    )


@pytest.fixture(scope="module")
def of_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TSN on the image network of the probes, whose graph is there."""
    network = tsn_resnet_tiny(3, weights=None, size=32)
    network.backbone.load_state_dict(build_network("resnet_tiny", None, 32).state_dict())
    return saved(network, tmp_path_factory.mktemp("x") / "tsn.safetensors")


@pytest.fixture(scope="module")
def of_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return saved(tsm_resnet_tiny(3, weights=None, size=32), tmp_path_factory.mktemp("x") / "tsm.safetensors")


@pytest.mark.slow
def test_predictions_of_a_clip_network_agree_in_several_views(root, of_clips, home, capsys):
    clips = sorted((root / "opening").glob("*.mp4"))[:2]
    answers = {
        runtime: vidact.predict(clips, of_clips, views="2x1", device="cpu", runtime=runtime)
        for runtime in ("torch", "onnx")
    }
    for one, other in zip(*answers.values(), strict=True):
        assert [label for label, _ in one.labels] == [label for label, _ in other.labels]
        np.testing.assert_allclose([s for _, s in one.labels], [s for _, s in other.labels], atol=TOLERANCE)
    cli.main(["predict", "--checkpoint", str(of_clips), str(clips[0]), "--device=cpu", "--runtime=onnx", "--views=2x1"])
    assert f"{answers['onnx'][0].labels[0][1]:6.1%}" in capsys.readouterr().out


def test_a_prediction_without_a_graph_says_so_once(root, of_clips, no_graphs, capsys, monkeypatch):
    clips = sorted((root / "opening").glob("*.mp4"))[:2]
    assert len(vidact.predict(clips, of_clips, device="cpu")) == 2
    assert capsys.readouterr().err == ""  # no graph is made for so few videos
    monkeypatch.setattr("vidact.prediction.MANY_VIDEOS", 2)
    assert len(vidact.predict(clips, of_clips, device="cpu")) == 2
    assert capsys.readouterr().err == "TSM cannot be an ONNX graph; it runs in PyTorch\n"
    with pytest.raises(NoGraphError, match="TSM cannot be an ONNX graph"):
        vidact.predict(clips, of_clips, device="cpu", runtime="onnx")
    with pytest.raises(ValueError, match="the runtime onnx computes on the CPU, and the networks are on meta"):
        vidact.predict(clips, of_clips, device="meta", runtime="onnx")
    with pytest.raises(ValueError, match="runtime is 'x'; it is one of auto, torch, onnx"):
        vidact.predict(clips, of_clips, runtime="x")


# ---------------------------------------------------------------------------------------------- vidact stream


def test_the_end_of_a_streamed_file_is_its_prediction_in_either_runtime(runs, of_frames, home, tmp_path):
    """Of a probe on an image network and of a TSN, which read a frame at a time; a file has as many as a clip."""
    video = tmp_path / "short.mp4"
    write_numbered_video(video, 4, times_ms=[0, 40, 80, 120])
    for path in (runs["onnx"] / "probe.safetensors", of_frames):
        last = {}
        for runtime in ("torch", "onnx"):
            model = load_model(path, steps_per_second=25, device="cpu", runtime=runtime)
            *_, update = play(open_source(video), model)
            (prediction,) = vidact.predict(video, path, top=3, device="cpu", runtime=runtime)
            expected = [dict(prediction.labels)[name] for name in model.classes]
            np.testing.assert_allclose(update.scores[1:], expected, atol=2e-6)
            last[runtime] = update.scores
        np.testing.assert_allclose(last["onnx"], last["torch"], atol=20 * TOLERANCE)
    model = load_model(runs["onnx"] / "probe.safetensors", steps_per_second=25, device="cpu")
    *_, update = play(open_source(video), model)  # "auto" is the runtime of the probe
    graph = load_model(runs["onnx"] / "probe.safetensors", steps_per_second=25, device="cpu", runtime="onnx")
    assert np.array_equal(update.scores, [*play(open_source(video), graph)][-1].scores)


def test_a_network_that_is_given_stays_in_pytorch(of_frames, home):
    network = load(of_frames)
    before = dict(network.named_parameters())
    assert in_onnx_by_image(network.eval()) is not None
    assert dict(network.named_parameters()) == before
    assert in_onnx_by_image(vidact.models.movinet_tiny_stream(3, weights=None, size=32)) is None
