"""Exported networks answer what PyTorch answers, and say what they are."""

import base64
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.awake import awake
from support.networks import CLIP_NETWORKS, LARGE_CLIP_NETWORKS, skip_without_package
from support.online_networks import FEATURE_DIM, NUM_CLASSES, ONLINE_NETWORKS
from support.playing import Named
from torch import Tensor, nn

import vidact.export.write
import vidact.models
from vidact import cli
from vidact.batch import ClipInput
from vidact.export.runtime import OnnxClip, OnnxExtractor, OnnxFrameStep, OnnxGraph, OnnxStep, load_onnx, open_onnx
from vidact.export.write import OPSET, export, flatten
from vidact.features.extractor import FeatureExtractor
from vidact.features.names import image_backbone
from vidact.models.online import OnlineNetwork, OnlineOutput, State, select_streams, stack_states
from vidact.models.weights import save
from vidact.stream import StreamModel, StreamUpdate, load_model, run_many
from vidact.stream.grabs import Grab
from vidact.stream.horizon import Fading, FrameMean

SIZE = {"size": 32, "width": 8, "weights": None, "num_classes": 3}
# Exporting takes seconds; these take one. Every other network is exported by `pytest -m slow`.
QUICK = ("frame_classifier", {"spans": [1, 3]})


def label(case: tuple[str, dict]) -> str:
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


def detector(name: str, **arguments: object) -> OnlineNetwork:
    build = getattr(vidact.models, name)
    network = awake(build(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **arguments))
    network.record = {
        "format": 1, "recipe": network.recipe, "classes": [f"action {i}" for i in range(1, NUM_CLASSES)],
        "tokens_per_second": 4.0, "features": {"dim": FEATURE_DIM}, "scores": "softmax", "events": {"on": 0.4},
    }  # fmt: skip
    return network


def recogniser(name: str, **arguments: object) -> nn.Module:
    size = SIZE if "resnet" in name else {key: value for key, value in SIZE.items() if key != "width"}
    network = awake(getattr(vidact.models, name)(**{**size, **arguments}))
    network.record = {
        "format": 1,
        "recipe": network.recipe,
        "input": network.input.as_dict(),
        "classes": ["a", "b", "c"],
    }
    network.record["sampling"] = {"name": "SegmentSampler", "arguments": {"num_segments": 4}}
    return network


class Countdown(OnlineNetwork):
    """The sum of all features times what is left of a count: the smallest network with a state of two types."""

    num_classes, feature_dim = 1, 2

    def initial_state(self, batch_size: int = 1) -> State:
        return {"left": torch.tensor([3, 5]).repeat(batch_size, 1), "sum": torch.zeros(batch_size, 1)}

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        after = {"left": state["left"] - 1, "sum": state["sum"] + feature.sum(-1, keepdim=True)}
        return OnlineOutput((after["sum"] * after["left"].sum(-1, keepdim=True))[:, None]), after


class Colours(nn.Module):
    """A linear map of a clip's mean colour: the smallest clip network."""

    num_classes = 2
    input = ClipInput(size=8)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, clip: Tensor) -> Tensor:
        return self.fc(clip.mean((1, 3, 4)))


@pytest.fixture(scope="module")
def miniroad() -> OnlineNetwork:
    return detector("miniroad", embedding_dim=16, hidden_dim=12, anticipation_steps=2)


@pytest.fixture(scope="module")
def miniroad_file(miniroad: OnlineNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "miniroad.onnx"
    export(miniroad, path, runs=5)
    return path


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def assert_steps_agree(network: nn.Module, exported: nn.Module, shape: list[int], steps: int = 200) -> None:
    """Every step from the first on, of one stream and of three; two of these begin anew at different times."""
    for streams in (1, 3):
        state, other = network.initial_state(streams), exported.initial_state(streams)
        for t in range(steps if streams == 3 else 5):
            if streams == 3 and t in (7, steps // 2) and isinstance(network, OnlineNetwork):
                which = torch.arange(3) == (1 if t == 7 else 2)
                state, other = network.reset(state, which), exported.reset(other, which)
            token = torch.randn(streams, *shape, generator=torch.Generator().manual_seed(t))
            (expected, state), (actual, other) = network.step(token, state), exported.step(token, other)
            if isinstance(expected, Tensor):
                assert_near(actual, expected)
                continue
            assert_near(actual.logits, expected.logits)
            assert (actual.future is None) == (expected.future is None)
            if expected.future is not None:
                assert_near(actual.future, expected.future)


# ---------------------------------------------------------------------------------------------- one online step


def test_a_step_answers_as_pytorch_does(miniroad: OnlineNetwork, miniroad_file: Path) -> None:
    assert_steps_agree(miniroad, open_onnx(miniroad_file), [FEATURE_DIM])


EVERY_DETECTOR = pytest.mark.parametrize(
    "case",
    [case if case == QUICK else pytest.param(case, marks=pytest.mark.slow) for case in ONLINE_NETWORKS],
    ids=label,
)


@EVERY_DETECTOR
def test_every_detector_steps_as_pytorch_does(case: tuple[str, dict], tmp_path: Path) -> None:
    network = detector(case[0], **case[1])
    done = export(network, tmp_path / "step.onnx")
    assert (done.what, done.runs) == ("step", 200)
    assert done.num_bytes == (tmp_path / "step.onnx").stat().st_size > 1000
    assert done.largest_answer > 0.1  # or the comparison would prove nothing
    exported = open_onnx(tmp_path / "step.onnx")
    assert isinstance(exported, OnnxStep)
    assert_steps_agree(network, exported, [FEATURE_DIM])


@EVERY_DETECTOR
@torch.no_grad()
def test_a_step_of_torch_export_answers_as_pytorch_does(case: tuple[str, dict], tmp_path: Path) -> None:
    network = detector(case[0], **case[1])
    done = export(network, tmp_path / "step.pt2")
    assert done.largest_answer > 0.1
    files = {"vidact.json": ""}
    step = torch.export.load(tmp_path / "step.pt2", extra_files=files).module()
    record = json.loads(files["vidact.json"])
    assert record["classes"] == network.record["classes"]
    for streams in (1, 4):
        state, named = network.initial_state(streams), flatten(network.initial_state(streams))
        assert [entry["name"] for entry in record["export"]["state"]] == list(named)
        for _ in range(3):
            token = torch.randn(streams, FEATURE_DIM)
            expected, state = network.step(token, state)
            answer = step(token, named)
            assert_near(answer["logits"], expected.logits)
            named = answer["state"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tsm_resnet_tiny", id="tsm", marks=pytest.mark.slow),
        pytest.param("tsn_resnet_tiny", id="tsn", marks=pytest.mark.slow),
        pytest.param("movinet_tiny_stream", id="movinet", marks=pytest.mark.slow),
    ],
)
def test_a_network_that_steps_frame_by_frame(name: str, tmp_path: Path) -> None:
    network = recogniser(name, **({"shift": "causal"} if name.startswith("tsm") else {}))
    done = export(network, tmp_path / "step.onnx", what="step", runs=20)
    assert done.largest_answer > 0.05
    exported = open_onnx(tmp_path / "step.onnx")
    assert isinstance(exported, OnnxFrameStep)
    assert exported.input == network.input
    assert exported.classes == ["a", "b", "c"]
    assert_steps_agree(network, exported, [3, 32, 32], steps=20)


def test_the_state_is_named_and_described_in_the_file(miniroad_file: Path) -> None:
    model = onnx.load(miniroad_file)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == OPSET
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "feature": ["batch", FEATURE_DIM], "state.hidden": ["batch", 12], "next.hidden": ["batch", 12],
        "logits": ["batch", 1, NUM_CLASSES], "future": ["batch", 1, 2, NUM_CLASSES],
    }  # fmt: skip
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["vidact"])["export"]
    assert facts["state"] == [{"name": "hidden", "shape": [12], "dtype": "float32"}]
    assert str(Path(__file__).parents[2]).encode() not in miniroad_file.read_bytes()


def test_names_follow_the_way_through_the_state() -> None:
    zero = torch.zeros(1)
    assert list(flatten({"count": zero, "layers": [{"keys": zero}, {"keys": zero}]})) == [
        "count", "layers.0.keys", "layers.1.keys",
    ]  # fmt: skip


def test_an_exported_step_is_used_as_the_network_is(miniroad: OnlineNetwork, miniroad_file: Path) -> None:
    """Class names, rate, streams that join and leave, whole stretches of features."""
    exported = open_onnx(miniroad_file)
    assert exported.classes == miniroad.record["classes"]
    assert exported.tokens_per_second == 4.0
    assert exported.record["events"] == {"on": 0.4}
    assert exported.record["recipe"] == miniroad.recipe
    assert (exported.num_classes, exported.feature_dim, exported.window) == (NUM_CLASSES, FEATURE_DIM, None)
    assert exported.future_offsets == (1, 2)
    features = torch.randn(2, 9, FEATURE_DIM)
    with torch.no_grad():
        expected = miniroad(features)
    assert_near(exported(features).logits, expected.logits)
    assert_near(exported.scan(features).future, expected.future)
    _, first = exported.step(features[:1, 0], exported.initial_state(1))
    joined = stack_states([first, exported.initial_state(1)])
    tokens = torch.stack([features[0, 1], features[1, 0]])
    output, state = exported.step(tokens, joined)
    assert_near(output.logits[:, 0], torch.stack([expected.logits[0, 1], expected.logits[1, 0]]))
    output, _ = exported.step(features[:1, 2], select_streams(state, torch.tensor([0])))
    assert_near(output.logits[:, 0], expected.logits[:1, 2])
    with pytest.raises(ValueError, match="the features have 7 values a token, and OnnxStep was built for 12"):
        exported.step(torch.zeros(1, 7), exported.initial_state(1))


def test_a_state_that_does_not_begin_with_zeros(tmp_path: Path) -> None:
    export(Countdown(), tmp_path / "countdown.onnx", runs=10)
    state = open_onnx(tmp_path / "countdown.onnx").initial_state(2)
    assert state["left"].tolist() == [[3, 5], [3, 5]]
    assert state["left"].dtype == torch.int64
    assert state["sum"].tolist() == [[0.0], [0.0]]


def test_the_weights_that_are_computed_once_are_in_the_file(tmp_path: Path) -> None:
    """OadTR's tables follow from its weights alone; a graph that computed them at every step would cost more."""
    network = detector(
        "oadtr", window=6, width=16, num_heads=2, num_layers=1, num_queries=2, decoder_layers=1, decoder_heads=2
    )
    export(network, tmp_path / "step.pt2", runs=8)
    program = torch.export.load(tmp_path / "step.pt2")
    read = _read_by(program)
    assert any(name.endswith("classifier.weight") for name in read)
    assert not any(name.endswith("task_token") for name in read)
    with torch.no_grad():
        network.task_token.add_(1.0)  # the tables of the network itself follow its weights as before
        features = torch.randn(1, 3, FEATURE_DIM)
        assert_near(network.scan(features).logits[:, -1:], network(features).logits)


def _read_by(program: torch.export.ExportedProgram) -> set[str]:
    """Parameters that some node reads."""
    names = program.graph_signature.inputs_to_parameters
    return {
        names[node.name]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names and node.users
    }


# ---------------------------------------------------------------------------------------------- clips


def check_clip(name: str, arguments: dict, tmp_path: Path) -> None:
    skip_without_package(name)
    network = awake(getattr(vidact.models, name)(num_classes=3, weights=None, **arguments))
    frames = network.input.frames or max(4, getattr(network, "min_frames", 4))
    done = export(network, tmp_path / "clip.onnx", frames=frames, runs=2)
    assert done.what == "clip"
    exported = open_onnx(tmp_path / "clip.onnx")
    assert isinstance(exported, OnnxClip)
    taken = network.input
    for videos in (1, 3):
        generator = torch.Generator().manual_seed(videos)
        clip = torch.randn(videos, exported.frames, taken.channels, taken.size, taken.size, generator=generator)
        with torch.no_grad():
            expected = network(clip)
        assert expected.abs().max() > 0.01
        assert_near(exported(clip), expected)


def test_a_clip_network_answers_as_pytorch_does(tmp_path: Path) -> None:
    network = Colours()
    network.record = {"classes": ["a", "b"], "sampling": {"name": "SegmentSampler", "arguments": {"num_segments": 4}}}
    export(network, tmp_path / "clip.onnx")
    exported = open_onnx(tmp_path / "clip.onnx")
    assert isinstance(exported, OnnxClip)
    assert exported.frames == 4  # of the sampler it was trained with
    assert (exported.classes, exported.input, exported.num_classes) == (["a", "b"], network.input, 2)
    clip = torch.randn(3, 4, 3, 8, 8)
    assert_near(exported(clip), network(clip).detach())
    with pytest.raises(ValueError, match=r"the clip has shape \(1, 5, 3, 8, 8\); this file was exported for \(B, 4, 3"):
        exported(torch.zeros(1, 5, 3, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), CLIP_NETWORKS, ids=map(label, CLIP_NETWORKS))
def test_every_clip_network_answers_as_pytorch_does(name: str, arguments: dict, tmp_path: Path) -> None:
    check_clip(name, arguments, tmp_path)


# One of each kind whose layers no small network has: an export of so many takes ten seconds to a minute.
KINDS = (
    "tsn_resnet50", "tsn_efficientnet_b0", "two_stream_resnet50", "tsm_resnet50_nonlocal", "trn_bn_inception",
    "eco_full", "slowfast_r50", "c2d_r50", "csn_r101", "r2plus1d_r50", "x3d_xs", "r2plus1d_18", "s3d", "i3d_inception",
    "swin3d_t", "mvit_v1_b",
)  # fmt: skip
LARGE = [case for case in LARGE_CLIP_NETWORKS if case[0] in KINDS and case[1].get("modality") != "flow"]


def test_each_kind_of_large_network_is_exported_once() -> None:
    assert sorted(name for name, _ in LARGE) == sorted(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), LARGE, ids=map(label, LARGE))
def test_every_large_clip_network_answers_as_pytorch_does(name: str, arguments: dict, tmp_path: Path) -> None:
    check_clip(name, arguments, tmp_path)


def test_a_clip_network_of_torch_export(tmp_path: Path) -> None:
    network = Colours().train()
    export(network, tmp_path / "clip.pt2", frames=4)
    assert network.training  # it stays as it was
    module = torch.export.load(tmp_path / "clip.pt2").module()
    clip = torch.randn(1, 4, 3, 8, 8)
    assert_near(module(clip)["logits"].detach(), network(clip).detach())


# ---------------------------------------------------------------------------------------------- extractor


FLOW = {"modality": "flow", "flow_fields": 2}


def tiny_extractor(kind: str = "image") -> FeatureExtractor:
    if kind == "image":
        return FeatureExtractor(awake(image_backbone("resnet_tiny", None, 32)), device="cpu")
    network = awake(vidact.models.tsm_resnet_tiny(**SIZE))
    flow = awake(vidact.models.tsn_resnet_tiny(**SIZE, **FLOW)) if kind == "clip and flow" else None
    return FeatureExtractor(network, flow_network=flow, device="cpu")


@pytest.mark.parametrize(
    "kind", ["image", *(pytest.param(k, marks=pytest.mark.slow) for k in ("clip", "clip and flow"))]
)
def test_an_extractor_gives_the_same_features(kind: str, tmp_path: Path) -> None:
    extractor = tiny_extractor(kind)
    extractor.save(tmp_path / "extractor.safetensors")
    done = export(tmp_path / "extractor.safetensors", tmp_path / "extractor.onnx", what="extractor")
    assert (done.what, done.runs) == ("extractor", 10)
    exported = open_onnx(tmp_path / "extractor.onnx")
    assert isinstance(exported, OnnxExtractor)
    assert exported.record() == extractor.record()
    chunk = torch.randint(256, (6, 3, 48, 64), dtype=torch.uint8)
    expected = extractor.chunk(chunk)
    assert expected.std() > 0.1
    assert_near(exported.chunk(chunk), expected)
    several = [extractor.prepare([image.roll(by, 2) for image in chunk[extractor.frames]]) for by in (0, 7, 20)]
    assert_near(exported.compute(several), extractor.compute(several))


def test_features_that_are_not_finite_are_refused(carrying: tuple[OnlineNetwork, Path]) -> None:
    extractor = open_onnx(carrying[1]).extractor()
    images = torch.full_like(extractor.prepare([torch.zeros(3, 48, 64, dtype=torch.uint8)])[0], torch.nan)
    with pytest.raises(ValueError, match=r"the extractor in .*detector.onnx gave features that are not finite"):
        extractor.compute([[images]])


# ---------------------------------------------------------------------------------------------- streams


def frames(seconds: float = 2.0, fps: float = 24.0) -> list[Grab]:
    """Frames of noise that moves from dark to light."""
    noise = np.random.default_rng(0)
    count = round(seconds * fps)
    return [
        Grab(i / fps, noise.integers(0, 56 + 200 * i // count, (48, 64, 3), dtype=np.uint8), 0.0, 0)
        for i in range(count)
    ]


def assert_streams_agree(actual: StreamModel, expected: StreamModel) -> None:
    """Every answer of two sources, one of which begins later and is shorter; the whole way, with clock and events."""

    def play(model: StreamModel) -> dict[str, list[StreamUpdate]]:
        updates = list(run_many([Named("a", frames()), Named("b", frames(1.2))], model))
        return {name: [update for update in updates if update.source == name] for name in "ab"}

    found, wanted = play(actual), play(expected)
    for name in "ab":
        scores = np.stack([update.scores for update in wanted[name]])
        assert np.ptp(scores, axis=0).max() > 0.02  # or everything would agree
        np.testing.assert_allclose(np.stack([update.scores for update in found[name]]), scores, atol=1e-5)
        assert [update.seconds for update in found[name]] == [update.seconds for update in wanted[name]]
        labels = [[(event.label, event.start_s, event.end_s) for event in update.events] for update in wanted[name]]
        assert [
            [(event.label, event.start_s, event.end_s) for event in update.events] for update in found[name]
        ] == labels
    assert any(update.events for update in wanted["a"])


def assert_no_pytorch_network(model: StreamModel) -> None:
    networks = [model.network] if model.extractor is None else [model.network, *model.extractor.networks.values()]
    for network in networks:
        inner = network.network if isinstance(network, FrameMean | Fading) else network
        assert not list(inner.parameters())
        assert not list(inner.buffers())


def streaming_detector() -> tuple[OnlineNetwork, FeatureExtractor]:
    extractor = tiny_extractor()
    network = awake(vidact.models.frame_classifier(num_classes=3, feature_dim=extractor.dim, spans=[1, 3]))
    network.record = {
        "format": 1, "recipe": network.recipe, "classes": ["a", "b"], "tokens_per_second": extractor.tokens_per_second,
        "features": extractor.record(), "scores": "sigmoid", "events": {"on": [0.2, 0.3], "smoothing": 0.25},
    }  # fmt: skip
    return network, extractor


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnlineNetwork, Path]:
    """A detector with its extractor, and the one .onnx of both."""
    network, extractor = streaming_detector()
    network.extractor_state = extractor.state()
    path = tmp_path_factory.mktemp("carrying") / "detector.onnx"
    export(network, path, runs=5)
    return network, path


def test_the_onnx_of_a_detector_streams_by_itself(carrying: tuple[OnlineNetwork, Path]) -> None:
    network, path = carrying
    model = load_onnx(path)
    assert isinstance(model.network, OnnxStep)
    assert isinstance(model.extractor, OnnxExtractor)
    assert_no_pytorch_network(model)
    expected = load_model(network, device="cpu")
    assert (model.classes, model.tokens_per_second, model.scores) == (["a", "b"], 4.0, "sigmoid")
    assert (model.detector.on == expected.detector.on).all()
    assert model.detector.smoothing == 0.25
    assert_streams_agree(model, expected)


def test_events_can_be_set_otherwise(carrying: tuple[OnlineNetwork, Path]) -> None:
    model = load_onnx(carrying[1], events={"on": 0.9, "off": None}, device="cpu")
    assert model.detector.on.tolist() == [0.9, 0.9]
    assert model.detector.off.tolist() == pytest.approx([0.54, 0.54])
    assert model.detector.smoothing == 0.25


def test_load_onnx_takes_what_load_model_takes() -> None:
    keywords = [list(inspect.signature(function).parameters.values())[1:] for function in (load_onnx, load_model)]
    assert [(one.name, one.default, one.kind) for one in keywords[0]] == [
        (one.name, one.default, one.kind) for one in keywords[1]
    ]


def test_the_carried_extractor_is_an_onnx_file_of_its_own(carrying: tuple[OnlineNetwork, Path]) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(carrying[1]).metadata_props}
    inner = onnx.load_from_string(base64.b64decode(metadata["vidact.extractor"]))
    onnx.checker.check_model(inner)
    assert [value.name for value in inner.graph.input] == ["images"]
    assert json.loads(metadata["vidact"])["features"]["network"]["input"]["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.slow
def test_an_extractor_may_come_from_elsewhere(tmp_path: Path) -> None:
    network, extractor = streaming_detector()
    extractor.save(tmp_path / "extractor.safetensors")
    done = export(network, tmp_path / "both.onnx", extractor=tmp_path / "extractor.safetensors", runs=2)
    assert done.extractor is not None
    assert done.extractor.runs == 2
    said = f"with its extractor, {done.extractor.num_bytes / 1e6:.2f} MB; over 2 inputs the largest difference"
    assert str(done).splitlines()[1].startswith(said)
    network.extractor_state = extractor.state()
    expected = load_model(network, device="cpu")
    assert_streams_agree(load_onnx(tmp_path / "both.onnx"), expected)
    del network.extractor_state
    export(network, tmp_path / "step.onnx", runs=2)
    export(extractor, tmp_path / "extractor.onnx", runs=2)
    assert_streams_agree(load_onnx(tmp_path / "step.onnx", extractor=tmp_path / "extractor.onnx"), expected)
    in_torch = load_onnx(tmp_path / "step.onnx", extractor=tmp_path / "extractor.safetensors")
    assert list(in_torch.extractor.networks["network"].parameters())
    assert_streams_agree(in_torch, expected)
    with pytest.raises(ValueError, match="holds the step of a detector, not a feature extractor"):
        load_onnx(tmp_path / "step.onnx", extractor=tmp_path / "step.onnx")
    other = FeatureExtractor(awake(image_backbone("resnet_tiny", None, 40)), device="cpu")
    with pytest.raises(ValueError, match="was trained on other features than this extractor makes"):
        export(network, tmp_path / "wrong.onnx", extractor=other, runs=1)
    assert not (tmp_path / "wrong.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tsm_resnet_tiny", "tsn_resnet_tiny", "movinet_tiny_stream"])
def test_the_onnx_of_a_recogniser_streams_by_itself(name: str, tmp_path: Path) -> None:
    network = recogniser(name, **({"shift": "causal"} if name.startswith("tsm") else {}))
    events = {"on": 0.4, "min_seconds": 0.0}
    export(network, tmp_path / "step.onnx", what="step", runs=2)
    model = load_onnx(tmp_path / "step.onnx", events=events)
    assert_no_pytorch_network(model)
    assert model.network.frames == 4
    assert_streams_agree(model, load_model(network, device="cpu", events=events))
    faster = load_onnx(tmp_path / "step.onnx", events=events, steps_per_second=6)
    assert_streams_agree(faster, load_model(network, device="cpu", events=events, steps_per_second=6))
    with pytest.raises(ValueError, match="looks at frames itself and takes no extractor"):
        load_onnx(tmp_path / "step.onnx", extractor=tmp_path)


def test_what_cannot_stream_is_refused(miniroad_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device is cuda:0, and networks in onnxruntime run on the CPU"):
        load_onnx(miniroad_file, device="cuda:0")
    with pytest.raises(ValueError, match=r"miniroad.onnx carries no extractor. Give what made"):
        load_onnx(miniroad_file)
    export(Countdown(), tmp_path / "x.onnx", runs=1)
    with pytest.raises(ValueError, match=r"x.onnx does not name its classes; export a checkpoint of a training run"):
        load_onnx(tmp_path / "x.onnx")
    export(Colours(), tmp_path / "x.onnx", frames=2, runs=1)
    with pytest.raises(
        ValueError,
        match="holds a whole clip network, and a stream needs a step: export with what=step, if the network can",
    ):
        load_onnx(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("tsm_resnet_tiny", {}, "x.onnx cannot stream: this tsm_resnet_tiny is bidirectional, so every frame waits"),
        ("trn_resnet_tiny", {"num_segments": 2}, "x.onnx cannot stream: trn_resnet_tiny looks at whole clips"),
        (
            "tsm_resnet_tiny",
            {"shift": "causal"},
            "a stream needs a step: vidact export --checkpoint … --what step --out",
        ),
    ],
)
def test_a_clip_that_would_stream_is_told_how(name, arguments, words, tmp_path: Path) -> None:
    """What the network cannot do is advised to nobody."""
    network = Colours()  # exported in the other's name: the record decides, and no network of that size is traced
    network.record = recogniser(name, **arguments).record
    export(network, tmp_path / "x.onnx", what="clip", frames=2, runs=1)
    with pytest.raises(ValueError, match=words) as error:
        load_onnx(tmp_path / "x.onnx")
    can = arguments.get("shift") == "causal"
    assert ("export" in str(error.value)) == can
    assert ("What can: the online detectors" in str(error.value)) != can


@pytest.mark.slow
def test_a_step_on_flow_is_exported_but_does_not_stream(tmp_path: Path) -> None:
    export(recogniser("tsn_resnet_tiny", **FLOW), tmp_path / "x.onnx", what="step", runs=2)
    with pytest.raises(ValueError, match=r"x.onnx cannot stream: its network looks at 3 neighbouring frames"):
        load_onnx(tmp_path / "x.onnx")


# ---------------------------------------------------------------------------------------------- the command, the page


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = detector("frame_classifier")
    save(network, tmp_path / "w.safetensors")
    cli.main(["export", "--checkpoint", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "x.onnx"), "--runs=3"])
    said = capsys.readouterr().out
    assert f"{tmp_path / 'x.onnx'}: step, ONNX opset {OPSET}" in said
    assert "over 3 steps the largest difference from PyTorch is" in said
    assert len(said.splitlines()) == 1
    assert open_onnx(tmp_path / "x.onnx").classes == network.record["classes"]


def test_the_page_tells_how_to_step_without_vidact(
    miniroad: OnlineNetwork, miniroad_file: Path, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    of_onnx, of_torch = (next(block for block in blocks if name in block) for name in ("detector.onnx", "detector.pt2"))
    features = torch.randn(2, 6, FEATURE_DIM)
    with torch.no_grad():
        expected = miniroad(features).logits
    here: dict = {}
    exec(of_onnx.replace("detector.onnx", str(miniroad_file)), here)
    state = here["begin"](2)
    for t in range(6):
        logits, state = here["advance"](features[:, t].numpy(), state)
        assert_near(torch.from_numpy(logits), expected[:, t])
    export(miniroad, tmp_path / "x.pt2", runs=1)
    here = {"feature": features[:, 0], "state": flatten(miniroad.initial_state(2))}
    exec(of_torch.replace("detector.pt2", str(tmp_path / "x.pt2")), here)
    assert_near(here["answers"]["logits"].detach()[:, 0], expected[:, 0])
    assert here["record"]["classes"] == miniroad.record["classes"]


# ---------------------------------------------------------------------------------------------- refusals


def test_a_wrong_checkpoint_is_refused(miniroad: OnlineNetwork, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    with pytest.raises(FileNotFoundError, match=r"there is no file absent.ckpt"):
        export("absent.ckpt", out)
    with pytest.raises(FileExistsError, match=r"test_export.py cannot be made .* is a file\); choose another place"):
        export(miniroad, Path(__file__) / "x.onnx")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="holds weights but no vidact record"):
        export(tmp_path / "bare.ckpt", out)
    with pytest.raises(ValueError, match=r"MiniROAD carries no feature extractor; give the extractor.safetensors"):
        export(miniroad, out, what="extractor")
    assert not out.exists()


def test_what_cannot_be_asked_is_refused(miniroad: OnlineNetwork, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    with pytest.raises(ValueError, match=r"x.txt: choose a name that ends in .onnx or .pt2"):
        export(miniroad, tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"x.onnx: choose a name that ends in .pt2"):
        export(miniroad, out, format="torch")
    with pytest.raises(ValueError, match="format is 'tflite'; it is onnx or torch"):
        export(miniroad, out, format="tflite")
    with pytest.raises(ValueError, match="what is 'all'; it is one of clip, step, video, extractor"):
        export(miniroad, out, what="all")
    with pytest.raises(ValueError, match=r"is an online detector .* export its step: what=step"):
        export(miniroad, out, what="clip")
    with pytest.raises(ValueError, match="a step takes one at a time; leave it out"):
        export(vidact.models.tsn_resnet_tiny(**SIZE), out, what="step", frames=8)
    with pytest.raises(ValueError, match="runs is 0; at least one is compared"):
        export(miniroad, out, runs=0)
    with pytest.raises(ValueError, match=r"a .pt2 carries no extractor; leave it out here"):
        export(miniroad, tmp_path / "x.pt2", extractor=tmp_path)
    with pytest.raises(ValueError, match="TSN looks at frames itself and takes no extractor"):
        export(vidact.models.tsn_resnet_tiny(**SIZE), out, what="step", extractor=tmp_path)
    with pytest.raises(ValueError, match="the extractor is itself what is exported"):
        export(tiny_extractor(), out, extractor=tmp_path)
    with pytest.raises(ValueError, match="does not say which it was trained with; give frames"):
        export(vidact.models.tsn_resnet_tiny(**SIZE), out)
    with pytest.raises(ValueError, match=r"frames is 9, and the weights of .* are made for 4"):
        export(vidact.models.trn_resnet_tiny(**SIZE, num_segments=4), out, frames=9)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("tsm_resnet_tiny", {}, "is bidirectional: every frame waits for later ones"),
        ("trn_resnet_tiny", {"num_segments": 4}, "looks at whole clips"),
    ],
)
def test_what_cannot_step_says_what_can(name: str, arguments: dict, why: str, tmp_path: Path) -> None:
    network = getattr(vidact.models, name)(**SIZE, **arguments)
    with pytest.raises(ValueError, match=f"cannot step: this .* {why}. What can: online detectors, TSM built"):
        export(network, tmp_path / "x.onnx", what="step")


class Branching(nn.Module):
    """Looks at a value to decide what to do, which no graph can hold."""

    num_classes = 2
    input = ClipInput(size=8)

    def forward(self, clip: Tensor) -> Tensor:
        mean = clip.mean((1, 2, 3, 4))
        return torch.stack([mean, -mean], 1) if float(mean.sum()) > 0 else torch.zeros(len(clip), 2)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_network_that_no_graph_can_hold_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Branching cannot be exported as a clip: torch.export says"):
        export(Branching(), tmp_path / f"x{suffix}", frames=2)
    assert not list(tmp_path.iterdir())  # neither the file nor a half of it


@pytest.mark.parametrize(("wrong", "difference"), [(1e-2, "0.01"), (np.nan, "nan")])
def test_a_file_that_answers_otherwise_is_not_written(
    wrong: float, difference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx").write_text("as before")
    honest = OnnxStep.step

    def step(self: OnnxStep, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        output, state = honest(self, feature, state)
        return OnlineOutput(output.logits + wrong), state

    monkeypatch.setattr(OnnxStep, "step", step)
    with pytest.raises(
        ValueError, match=f"Countdown was not exported: the file's answers differ .* by up to {difference}"
    ):
        export(Countdown(), tmp_path / "x.onnx", runs=1)
    assert (tmp_path / "x.onnx").read_text() == "as before"


class Steep(Colours):
    """Rounding of its last bits is seen in the fourth digit."""

    def forward(self, clip: Tensor) -> Tensor:
        return (3000 * super().forward(clip)).sin()


@pytest.mark.slow
def test_rounding_that_the_network_amplifies_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidact.export.write, "TOLERANCE", 1e-6)
    network = Steep()
    export(network, tmp_path / "clip.onnx", frames=4)
    honest = OnnxGraph.run
    monkeypatch.setattr(OnnxGraph, "run", lambda self, inputs: {"logits": honest(self, inputs)["logits"] + 1e-2})
    with pytest.raises(ValueError, match=r"Steep was not exported: .* differ from PyTorch's by up to 0.01"):
        export(network, tmp_path / "clip.onnx", frames=4)
    monkeypatch.undo()
    monkeypatch.setattr(vidact.export.write, "TOLERANCE", 1e-6)
    monkeypatch.setattr(vidact.export.write, "ROUNDINGS", 0)
    with pytest.raises(ValueError, match="Steep was not exported"):
        export(network, tmp_path / "clip.onnx", frames=4)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(
    package: str, miniroad: OnlineNetwork, miniroad_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=f"{package} is missing: run `uv sync` .*pip install onnx onnxruntime onnxscript"
    ):
        export(miniroad, tmp_path / "x.onnx")
    if package == "onnxruntime":
        with pytest.raises(ImportError, match="runs in onnxruntime, which is missing: run `uv sync`"):
            open_onnx(miniroad_file)


def test_more_than_a_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidact.export.write.ONNX_LIMIT", 10)
    with pytest.raises(ValueError, match=r"Colours has 0.0 GiB of weights; one ONNX file holds 2 GiB"):
        export(Colours(), tmp_path / "x.onnx", frames=2)


def test_files_that_are_no_exports_are_refused(miniroad_file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_onnx(tmp_path / "absent.onnx")
    (tmp_path / "x.ckpt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is no .onnx file; vidact export --checkpoint"):
        open_onnx(tmp_path / "x.ckpt")
    (tmp_path / "broken.onnx").write_bytes(miniroad_file.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"broken.onnx cannot be read as ONNX"):
        open_onnx(tmp_path / "broken.onnx")
    model = onnx.load(miniroad_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"foreign.onnx has no vidact record: another program wrote it"):
        open_onnx(tmp_path / "foreign.onnx")
    model = onnx.load(miniroad_file)
    [entry] = [entry for entry in model.metadata_props if entry.key == "vidact"]
    record = json.loads(entry.value)
    entry.value = json.dumps(record | {"export": record["export"] | {"format": 99}})
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(ValueError, match=r"newer.onnx has format 99; this vidact reads up to 1: install a newer one"):
        open_onnx(tmp_path / "newer.onnx")
