"""Graphs are made once and agree with PyTorch; features in ONNX Runtime are the same, and their record says so."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vidact.models
from vidact import cli
from vidact.batch import ClipInput
from vidact.events import scores_to_events
from vidact.features.extractor import FeatureExtractor
from vidact.features.files import extract_features, settle_runtime
from vidact.features.names import build_extractor, image_backbone
from vidact.features.record import differences, other_features
from vidact.models.backbones import Backbone
from vidact.models.weights import load, read, save, weights_hash
from vidact.runtimes import compiled as module
from vidact.runtimes import networks, steps
from vidact.runtimes.choices import TOLERANCE, refuse_runtime
from vidact.runtimes.compiled import Agreement, Compiled, NoGraphError, compiled
from vidact.runtimes.onnx_graph import open_session
from vidact.runtimes.steps import GraphStep
from vidact.stream import load_model, run
from vidact.stream.sources import open_source
from vidact.video import open_video
from vidact.video.numbered import write_numbered_video


@pytest.fixture(autouse=True)
def small_networks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here are small, and "auto" treats them as it does large ones."""
    monkeypatch.setattr(networks, "LEAST_PARAMETERS", 0)


SHAPE = (3, 8, 8)
ROOT = Path(__file__).parents[2]


class Small(nn.Module):
    """A network of a convolution; ``shift`` is a part of its code that neither weights nor layers show."""

    shift = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.conv(images)).mean((2, 3)) + self.shift


class Noisy(Small):
    def forward(self, images: Tensor) -> Tensor:
        vectors = super().forward(images)
        return vectors + torch.rand_like(vectors)


class Choosing(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (2 if images.sum() > 0 else 3)


def network(kind: type[Small] = Small) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval()


def graph_of(small: Small, name: str = "Small") -> Compiled:
    return compiled(small, SHAPE, weights_hash(small.state_dict()), name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The name and the content of the file that the cache has after the graph was made."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDACT_HOME", str(home))
        graph_of(network())
    (path,) = (home / "graphs").iterdir()
    return path.name, path.read_bytes()


@pytest.fixture
def cache(made: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the graph in a cache of its own."""
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path))
    path = tmp_path / "graphs" / made[0]
    path.parent.mkdir()
    path.write_bytes(made[1])
    return path


@pytest.fixture
def makings(made: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the networks whose graphs are made; they get the one that exists, since making takes seconds."""
    names: list[str] = []
    path = tmp_path / "copy.graph"
    path.write_bytes(made[1])

    def make(small: nn.Module, shape: object, name: str) -> Compiled:
        names.append(name)
        return module._read(path, name)

    monkeypatch.setattr(module, "_make", make)
    return names


def test_a_graph_of_the_cache_agrees_and_nothing_is_made(cache, makings, capsys):
    small = network()
    graph = graph_of(small)
    assert (makings, capsys.readouterr().err) == ([], "")
    assert graph.agreement.is_close
    assert graph.agreement.largest_output > 0
    images = torch.randn(5, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(graph(images), small(images), rtol=0, atol=TOLERANCE)
    assert small.activation.inplace  # the network itself is as it was
    one_by_one = torch.cat([graph(image[None]) for image in images])
    assert torch.equal(graph(images), one_by_one)


def test_the_number_of_threads_changes_no_bit(cache):
    graph, images = graph_of(network()), torch.randn(2, *SHAPE)
    before, threads = graph(images), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(graph(images), before)
    finally:
        torch.set_num_threads(threads)


def test_threads_do_not_wait_in_a_loop(cache):
    """Such a loop took two thirds of the processor between the answers of a stream."""
    graph = graph_of(network())
    options = graph._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
        lambda content: b"{}\n" + content.partition(b"\n")[2],
        lambda content: b"[1]\n",
        lambda content: b"\xff\xfe no JSON",
        lambda content: content.replace(b'"largest_output": ', b'"largest_output": null, "x": '),
    ],
)
def test_a_damaged_file_is_made_again(spoil, cache, makings, capsys):
    whole = cache.read_bytes()
    cache.write_bytes(spoil(whole))
    graph_of(network())
    assert makings == ["Small"]
    assert "Small: making its ONNX graph" in capsys.readouterr().err
    assert cache.read_bytes() == whole
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_graph_that_onnxruntime_cannot_read_is_made_again(cache, makings):
    whole = cache.read_bytes()
    module._keep(Compiled(b"no graph", "Small", Agreement(0.0, 1.0)), cache)
    graph_of(network())
    assert makings == ["Small"]
    assert cache.read_bytes() == whole


def test_a_graph_of_other_code_is_made_again(cache, makings):
    """The weights and layers are the same, and the forward is another."""
    small = network()
    small.shift = 0.5
    graph_of(small)
    assert makings == ["Small"]


def test_other_weights_layers_inputs_and_versions_have_other_files(monkeypatch):
    monkeypatch.setenv("VIDACT_HOME", "/nowhere")
    small = network()
    wider = network()
    wider.activation = nn.ReLU()
    paths = {module.path_of(small, SHAPE, "a"), module.path_of(small, SHAPE, "b"), module.path_of(wider, SHAPE, "a")}
    paths |= {module.path_of(small, (3, 9, 9), "a"), module.path_of(network(Noisy), SHAPE, "a")}
    monkeypatch.setattr(module, "OPSET", 99)
    paths.add(module.path_of(small, SHAPE, "a"))
    assert len(paths) == 6
    assert module.path_of(network(), SHAPE, "a") == module.path_of(small, SHAPE, "a")


def test_a_cache_that_cannot_be_written_is_said_once(makings, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert graph_of(network()).agreement.is_close
    lines = capsys.readouterr().err.splitlines()
    assert makings == ["Small", "Small"]
    (line,) = [line for line in lines if "cannot be written" in line]
    assert "VIDACT_HOME chooses another folder" in line
    assert (tmp_path / "file").read_text() == "in the way"


def test_graphs_that_nothing_uses_are_removed(cache, makings):
    old = cache.with_name("old.graph")
    old.write_bytes(b"")
    long_ago = time.time() - (module.UNUSED_DAYS + 1) * 86_400
    os.utime(old, (long_ago, long_ago))
    os.utime(cache, (long_ago, long_ago))
    graph_of(network())  # it is used, and its time is new
    assert old.exists()
    module._keep(module._read(cache, "Small"), cache.with_name("another.graph"))
    assert sorted(path.name for path in cache.parent.iterdir()) == sorted([cache.name, "another.graph"])


def test_a_reader_beside_writers_gets_a_whole_graph(cache):
    contents = [Compiled(bytes([number]) * 100_000, "", Agreement(0.0, 1.0)) for number in (1, 2)]
    writers = [threading.Thread(target=lambda c=c: [module._keep(c, cache) for _ in range(20)]) for c in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        graph = module._read(cache, "Small")
        assert graph is not None
    for writer in writers:
        writer.join()
    assert module._read(cache, "Small").content in [each.content for each in contents]


def test_a_graph_that_differs_is_refused(made, tmp_path, monkeypatch):
    content = made[1].partition(b"\n")[2]
    monkeypatch.setattr(module, "trace", lambda *_: None)
    monkeypatch.setattr(module, "save_onnx", lambda program, path, *_: path.write_bytes(content))
    small = network()
    assert module._make(small, SHAPE, "Small").content == content
    small.shift = 0.5
    with pytest.raises(NoGraphError, match=r"the ONNX graph of Small differs from PyTorch by up to 0\.5, .* accepted"):
        module._make(small, SHAPE, "Small")


@pytest.mark.slow
def test_a_network_with_random_outputs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path))
    with pytest.raises(NoGraphError, match=r"the ONNX graph of Noisy differs from PyTorch by up to .* is accepted"):
        graph_of(network(Noisy), "Noisy")
    assert not (tmp_path / "graphs").exists()


def test_a_network_that_cannot_be_a_graph_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path))
    with pytest.raises(NoGraphError, match=r"Choosing cannot be an ONNX graph: torch\.export says"):
        graph_of(network(Choosing), "Choosing")
    monkeypatch.setattr(module, "ONNX_LIMIT", 10)
    with pytest.raises(NoGraphError, match="GiB of weights, and an ONNX graph holds 2 GiB"):
        graph_of(network(Choosing), "Choosing")


def test_a_difference_of_nan_is_not_close():
    assert not Agreement(float("nan"), 1.0).is_close
    assert not Agreement(0.0, float("nan")).is_close
    assert not Agreement(1.1 * TOLERANCE, 1.0).is_close
    assert Agreement(0.0, 0.0).is_close


def test_other_runtimes_are_refused():
    with pytest.raises(ValueError, match="runtime is 'cuda'; it is one of auto, torch, onnx"):
        refuse_runtime("cuda")


def test_bytes_that_are_no_graph_are_refused():
    with pytest.raises(ValueError, match="x cannot be read as ONNX"):
        open_session(b"no graph", "x")


# ---------------------------------------------------------------------------------------------- features


@pytest.fixture(scope="module")
def pytorch() -> FeatureExtractor:
    return build_extractor("resnet_tiny", size=32, device="cpu")


@pytest.fixture(scope="module")
def onnx(home) -> FeatureExtractor:
    return build_extractor("resnet_tiny", size=32, device="cpu", runtime="onnx")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(["a.mp4", "b.mp4"]):
        write_numbered_video(folder / name, 40 + 10 * number)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*.npy"))}


def command(videos: Path, out: Path, *more: str) -> list[str]:
    return ["extract", "features", "--videos", str(videos), "--out", str(out), "--network", "resnet_tiny",
            "--size", "32", "--device", "cpu", "--workers", "1", *more]  # fmt: skip


def runtime_of(out: Path) -> str:
    return json.loads((out / "features.json").read_text())["runtime"]


# ---------------------------------------------------------------------------------------------- the extractor


def test_features_agree_and_a_stream_gives_the_bits_of_the_file(pytorch, onnx, videos):
    with open_video(videos / "b.mp4") as reader:
        expected, features = pytorch.video(reader), onnx.video(reader)
        images = reader.frames_at(range(len(reader)))
        stream = onnx.stream()
        tokens = [token for time_s, image in zip(images.times_s, images.images, strict=True)
                  for _, token in stream.push(float(time_s), image)]  # fmt: skip
        tokens += [token for _, token in stream.finish(reader.end_s)]
    assert not torch.equal(expected, features)  # or the test compares PyTorch with itself
    assert (features - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(torch.stack(tokens), features)
    chunks = [onnx.prepare([image]) for image in images.images[:7]]
    assert torch.equal(onnx.compute(chunks), torch.cat([onnx.compute([chunk]) for chunk in chunks]))


def test_the_record_names_the_runtime_and_the_check(pytorch, onnx):
    assert (pytorch.record()["runtime"], onnx.record()["runtime"]) == ("torch", "onnx")
    assert "runtime_check" not in pytorch.record()
    check = onnx.record()["runtime_check"]
    assert check["torch"] == torch.__version__
    assert 0 < check["network"]["largest_difference"] <= TOLERANCE * check["network"]["largest_output"]
    assert differences(pytorch.record(), onnx.record()) == ["runtime torch and onnx"]


def test_onnxruntime_may_come_from_another_package(onnx, monkeypatch):
    """The module onnxruntime is also in onnxruntime-gpu, onnxruntime-directml, …; then the one package is absent."""
    version = importlib.metadata.version

    def of_installed(package: str) -> str:
        if package == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    path, expected = module.path_of(network(), SHAPE, "a"), onnx.record()
    monkeypatch.setattr(importlib.metadata, "version", of_installed)
    assert module.path_of(network(), SHAPE, "a") == path
    assert onnx.record() == expected


def test_the_runtime_can_be_changed_and_the_cache_serves_the_second(pytorch, onnx, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the graph is in the cache")

    monkeypatch.setattr(module, "_make", refuse)
    extractor = FeatureExtractor.load(pytorch.record(), pytorch.state(), device="cpu", runtime="auto")
    assert extractor.runtime == "torch"  # as in the record
    extractor.run_in("auto")
    chunk = [extractor.prepare([torch.full((3, 40, 40), 90, dtype=torch.uint8)])]
    assert extractor.runtime == "onnx"
    assert torch.equal(extractor.compute(chunk), onnx.compute(chunk))
    extractor.run_in("torch")
    assert torch.equal(extractor.compute(chunk), pytorch.compute(chunk))
    assert FeatureExtractor.load(onnx.record(), onnx.state(), device="cpu", runtime="auto").runtime == "onnx"
    assert FeatureExtractor.load(onnx.record(), onnx.state(), device="cpu").runtime == "torch"


class ChoosingImages(Backbone):
    """An image network that no graph can express."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.dim = ClipInput(size=32), 3
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        vectors = images.mean((2, 3)) * self.scale
        return vectors * 2 if vectors.sum() > 0 else vectors


def test_a_network_that_cannot_be_a_graph_runs_in_pytorch_under_auto(capsys):
    extractor = FeatureExtractor(ChoosingImages(), device="cpu", runtime="auto")
    assert extractor.runtime == "torch"
    said = capsys.readouterr().err
    assert "ChoosingImages cannot be an ONNX graph: torch.export says" in said
    assert "; it runs in PyTorch" in said
    with pytest.raises(ValueError, match="ChoosingImages cannot be an ONNX graph"):
        extractor.run_in("onnx")
    assert extractor.runtime == "torch"


def test_a_runtime_that_is_not_installed(pytorch, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    extractor = FeatureExtractor.load(pytorch.record(), pytorch.state(), device="cpu")
    with pytest.raises(ImportError, match="uv sync"):
        extractor.run_in("onnx")
    extractor.run_in("auto")
    assert extractor.runtime == "torch"
    assert "it runs in PyTorch" in capsys.readouterr().err


def test_wrong_runtimes_are_refused(pytorch):
    with pytest.raises(ValueError, match="runtime is 'tensorrt'; it is one of auto, torch, onnx"):
        FeatureExtractor(image_backbone("resnet_tiny", None, 32), device="cpu", runtime="tensorrt")
    with pytest.raises(ValueError, match="made in the runtime openvino, which this vidact does not have"):
        FeatureExtractor.load(
            {**pytorch.record(), "runtime": "openvino"}, pytorch.state(), device="cpu", runtime="auto"
        )
    elsewhere = FeatureExtractor.load(pytorch.record(), pytorch.state(), device="cpu")
    elsewhere.device = torch.device("meta")
    with pytest.raises(ValueError, match="computes on the CPU, and the networks are on meta; choose the device cpu"):
        elsewhere.run_in("onnx")
    elsewhere.run_in("auto")
    assert elsewhere.runtime == "torch"


# ---------------------------------------------------------------------------------------------- a detector's features


def test_a_detector_reads_features_of_another_runtime_that_was_checked(pytorch, onnx):
    old = {key: value for key, value in pytorch.record().items() if key != "runtime"}
    unchecked = {key: value for key, value in onnx.record().items() if key != "runtime_check"}
    far = {**onnx.record(), "runtime_check": {"network": {"largest_difference": 1.0, "largest_output": 9.0}}}
    half = {**onnx.record(), "runtime_check": {"network": {"largest_difference": 0.0}}}
    for trained in (old, pytorch.record()):
        assert other_features(trained, onnx.record()) == other_features(onnx.record(), trained) == []
        assert other_features(trained, pytorch.record()) == []
        for present in (unchecked, far, half):
            (line,) = other_features(trained, present)
            assert line == "runtime torch and onnx, with no record that their outputs agree to 0.0001"
    assert other_features(unchecked, unchecked) == []
    assert other_features(onnx.record(), {**onnx.record(), "fps": 12.0}) == ["fps 24.0 and 12.0"]


# ---------------------------------------------------------------------------------------------- folders


def test_a_folder_keeps_its_runtime(videos, tmp_path, capsys):
    assert not cli.main(command(videos, tmp_path / "x"))
    assert runtime_of(tmp_path / "x") == "onnx"
    assert "in ONNX Runtime" in capsys.readouterr().out
    expected = contents(tmp_path / "x")
    for more in ((), ("--runtime", "onnx"), ("--runtime", "auto")):
        (tmp_path / "x" / "a.npy").unlink()
        assert not cli.main(command(videos, tmp_path / "x", *more))
        printed = capsys.readouterr()
        assert "1 video written" in printed.out
        assert "1 were there" in printed.out
        assert contents(tmp_path / "x") == expected
        assert "goes on in it" not in printed.err
    with pytest.raises(SystemExit):
        cli.main(command(videos, tmp_path / "x", "--runtime", "torch"))
    assert "begun in the runtime onnx, not torch; leave --runtime out, or choose" in capsys.readouterr().err


def test_an_old_folder_is_of_pytorch_and_stays_so(pytorch, videos, tmp_path, capsys):
    old = tmp_path / "old"
    extract_features(videos, old, pytorch, progress=False)
    record = json.loads((old / "features.json").read_text())
    del record["runtime"]
    (old / "features.json").write_text(json.dumps(record))
    again = tmp_path / "again"
    shutil.copytree(old, again)
    (again / "a.npy").unlink()
    extractor = FeatureExtractor.open(again, device="cpu")
    extract_features(videos, again, extractor, progress=False, runtime="auto")
    assert extractor.runtime == "torch"
    assert "was begun in the runtime torch and goes on in it" in capsys.readouterr().err
    assert contents(again) == contents(old)
    assert json.loads((again / "features.json").read_text()) == record
    with pytest.raises(ValueError, match="begun in the runtime torch, not onnx; leave --runtime out"):
        settle_runtime(again, extractor, "onnx")


def test_a_folder_of_a_runtime_that_cannot_be_used_is_refused(onnx, videos, tmp_path, monkeypatch, capsys):
    """The error has the reason, and no line before it says that something runs in PyTorch."""
    extract_features(videos, tmp_path, onnx, progress=False)
    before = contents(tmp_path)
    extractor = FeatureExtractor.load(onnx.record(), onnx.state(), device="cpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refusal = "was begun in the runtime onnx, which cannot be used; choose another --out, .*uv sync"
    with pytest.raises(ValueError, match=refusal):
        extract_features(videos, tmp_path, extractor, progress=False)
    assert "PyTorch" not in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_workers_write_the_same_bytes(onnx, videos, tmp_path):
    extract_features(videos, tmp_path / "here", onnx, progress=False)
    extract_features(videos, tmp_path / "workers", onnx, workers=2, progress=False)
    assert contents(tmp_path / "here") == contents(tmp_path / "workers")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "size", "options"),
    [
        ("mobilenet_v2", 64, {}),
        ("resnet18", 64, {}),
        ("mobilenet_v3_large", 64, {}),
        ("efficientnet_b0", 64, {}),
        ("x3d_xs", 64, {"chunk": 6}),
        ("tsm_resnet18", 64, {"chunk": 8}),
        ("resnet_tiny", 32, {"flow_network": "resnet_tiny"}),
    ],
)
def test_other_networks_agree(network, size, options):
    extractor = build_extractor(network, weights=None, size=size, device="cpu", **options)
    prepared = [
        extractor.prepare(list(torch.randint(0, 256, (len(extractor.frames), 3, size, size), dtype=torch.uint8)))
        for _ in range(3)
    ]
    expected = extractor.compute(prepared)
    extractor.run_in("onnx")
    assert np.abs(extractor.compute(prepared) - expected).max() <= TOLERANCE * expected.abs().max()


# ---------------------------------------------------------------------------------------------- streams


@torch.no_grad()
def detector_of(extractor: FeatureExtractor, path: Path, features: Tensor) -> Path:
    """Save a detector of the extractor's features, whose probabilities vary."""
    torch.manual_seed(0)
    detector = vidact.models.miniroad(num_classes=4, feature_dim=extractor.dim, hidden_dim=16).eval()
    for parameter in detector.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(3 / parameter[0].numel()) ** 0.5)
    scores = detector.scan(features[None]).logits[0].softmax(-1).numpy()
    detector.extractor_state = extractor.state()
    record = {
        "classes": ["a", "b", "c"],
        "features": extractor.record(),
        "tokens_per_second": extractor.tokens_per_second,
        "scores": "softmax",
        "events": {"on": float(np.quantile(scores[:, 1:], 0.6)), "smoothing": 0.0, "min_seconds": 0.25},
    }
    return save(detector, path, record)


def test_a_stream_in_either_runtime_gives_what_its_file_gives(pytorch, onnx, videos, tmp_path):
    with open_video(videos / "b.mp4") as reader:
        features = {"torch": pytorch.video(reader), "onnx": onnx.video(reader)}
    checkpoint = detector_of(pytorch, tmp_path / "detector.safetensors", features["torch"])
    played = {}
    for runtime, expected in features.items():
        model = load_model(checkpoint, device="cpu", runtime=runtime)
        assert model.extractor.runtime == runtime
        updates = list(run(open_source(videos / "b.mp4"), model))
        with torch.no_grad():
            scores = model.network.scan(expected[None]).logits[0].softmax(-1).numpy()
        assert scores.std(0).max() > 0.01
        played[runtime] = np.stack([update.scores for update in updates])
        np.testing.assert_allclose(played[runtime], scores, atol=1e-6)
        events = scores_to_events(scores, str(videos / "b.mp4"), model.detector)
        assert events
        assert sorted((e.start_s, e.end_s, e.label) for update in updates for e in update.events) == sorted(
            (e.start_s, e.end_s, e.label) for e in events
        )
    assert not np.array_equal(played["torch"], played["onnx"])
    np.testing.assert_allclose(played["onnx"], played["torch"], atol=TOLERANCE)


def test_the_step_of_a_large_detector_has_the_runtime_of_its_extractor(pytorch, onnx, videos, tmp_path, monkeypatch):
    with open_video(videos / "b.mp4") as reader:
        features = onnx.video(reader)
    of_onnx = detector_of(onnx, tmp_path / "onnx.safetensors", features)
    of_torch = detector_of(pytorch, tmp_path / "torch.safetensors", features)
    made = []

    def step_in_onnx(network: nn.Module, name: str) -> nn.Module:
        made.append(name)
        raise NoGraphError("there is no graph")  # the step runs in PyTorch then

    monkeypatch.setattr(steps, "step_in_onnx", step_in_onnx)
    load_model(of_onnx, device="cpu")  # a small one
    assert made == []
    monkeypatch.setattr(steps, "LEAST_STEP_PARAMETERS", 0)
    load_model(of_onnx, device="cpu", runtime="torch")
    load_model(of_torch, device="cpu")
    assert made == []
    model = load_model(of_onnx, device="cpu")
    assert made == [str(of_onnx)]
    assert list(model.network.parameters())
    load_model(of_torch, device="cpu", runtime="onnx")
    assert made == [str(of_onnx), str(of_torch)]


@pytest.mark.slow
def test_a_stream_of_a_large_detector_in_onnx_runtime_is_its_file(onnx, videos, tmp_path, monkeypatch):
    with open_video(videos / "b.mp4") as reader:
        features = onnx.video(reader)
    checkpoint = detector_of(onnx, tmp_path / "detector.safetensors", features)
    in_torch = load_model(checkpoint, device="cpu", runtime="torch")
    monkeypatch.setattr(steps, "LEAST_STEP_PARAMETERS", 0)
    model = load_model(checkpoint, device="cpu")
    assert isinstance(model.network, GraphStep)
    played = np.stack([update.scores for update in run(open_source(videos / "b.mp4"), model)])
    scores = model.network.scan(features[None]).logits[0].softmax(-1).numpy()
    assert np.array_equal(played, scores)  # exactly, within the runtime
    in_torch = in_torch.network.scan(features[None]).logits[0].softmax(-1).numpy()
    np.testing.assert_allclose(played, in_torch, atol=TOLERANCE)


def test_auto_streams_in_the_runtime_of_the_training(pytorch, onnx, videos, tmp_path):
    with open_video(videos / "a.mp4") as reader:
        features = onnx.video(reader)
    of_onnx = detector_of(onnx, tmp_path / "onnx.safetensors", features)
    of_torch = detector_of(pytorch, tmp_path / "torch.safetensors", features)
    assert load_model(of_onnx, device="cpu").extractor.runtime == "onnx"
    assert load_model(of_torch, device="cpu").extractor.runtime == "torch"
    in_other = load_model(of_onnx, device="cpu", runtime="torch")
    assert in_other.extractor.runtime == "torch"  # the check of its features was passed
    assert load_model(of_torch, device="cpu", extractor=onnx).extractor.runtime == "onnx"
    record = read(of_onnx)[1]
    facts = {**record["features"]}
    del facts["runtime_check"]
    unchecked = load(of_onnx)
    unchecked.record = {**record, "features": facts}
    with pytest.raises(ValueError, match=r"runtime onnx and torch, with no record that their outputs agree to 0\.0001"):
        load_model(unchecked, device="cpu", runtime="torch")
    assert load_model(unchecked, device="cpu", runtime="auto").extractor.runtime == "onnx"


@pytest.mark.slow
def test_a_window_that_changes_changes_the_graph(home):
    extractor = build_extractor("tsn_resnet_tiny", size=32, device="cpu", runtime="onnx")
    assert extractor.runtime == "onnx"
    chunk = torch.randint(0, 256, (extractor.span, 3, 32, 32), dtype=torch.uint8)
    before = extractor.chunk(chunk)
    extractor.set_window(8)
    assert extractor.runtime == "onnx"
    longer = torch.randint(0, 256, (extractor.span, 3, 32, 32), dtype=torch.uint8)
    features = extractor.chunk(longer)
    extractor.run_in("torch")
    torch.testing.assert_close(features, extractor.chunk(longer), rtol=0, atol=float(TOLERANCE * features.abs().max()))
    extractor.set_window(6)
    torch.testing.assert_close(before, extractor.chunk(chunk), rtol=0, atol=float(TOLERANCE * before.abs().max()))


@pytest.mark.slow
def test_the_benchmark_prints_the_ratio_and_the_difference(home, videos, capsys):
    spec = importlib.util.spec_from_file_location("runtime_benchmark", ROOT / "benchmarks" / "runtime.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.measure("resnet_tiny=none", sorted(videos.iterdir()), rounds=2, most=3, calibrate=None, checkpoint=None)
    printed = capsys.readouterr().out
    assert re.search(r"torch +[\d.]+ tokens a CPU second", printed)
    assert float(re.search(r"onnx against torch: ([\d.]+) ", printed)[1]) > 0
    share = re.search(r"largest difference of a feature in onnx .*\(([\d.e-]+)\)\n", printed)[1]
    assert 0 < float(share) <= TOLERANCE


@pytest.mark.parametrize("saturates", [False, True])
def test_sums_of_the_largest_products_of_8_bits_are_exact(saturates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors without VNNI add products in 16 bits unless the session forbids it, which is slow on the others."""
    from onnx import TensorProto, helper, numpy_helper

    scales = {name: numpy_helper.from_array(np.float32(value), name) for name, value in (("one", 1), ("step", 2**14))}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["a"]),
            helper.make_node("DequantizeLinear", ["a", "one", "zero"], ["b"]),
            helper.make_node("DequantizeLinear", ["w", "one"], ["c"]),
            helper.make_node("MatMul", ["b", "c"], ["d"]),
            helper.make_node("QuantizeLinear", ["d", "step", "zero"], ["e"]),
            helper.make_node("DequantizeLinear", ["e", "step", "zero"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [
            numpy_helper.from_array(np.full((64, 8), 127, np.int8), "w"),
            numpy_helper.from_array(np.uint8(0), "zero"),
            *scales.values(),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if saturates:
        monkeypatch.setattr("vidact.runtimes.onnx_graph.sums_saturate", lambda: True)
    session = open_session(model.SerializeToString(), "the graph")
    (sums,) = session.run(None, {"x": np.full((4, 64), 255, np.float32)})
    assert (sums == round(64 * 127 * 255 / 2**14) * 2**14).all()
    if saturates:
        assert session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"


def test_only_graphs_in_int8_are_asked_whether_sums_saturate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr("vidact.runtimes.onnx_graph.sums_saturate", lambda: pytest.fail("a graph in single precision"))
    graph_of(network())(torch.zeros(1, *SHAPE))
