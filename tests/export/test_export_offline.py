"""Exported offline networks give the events of their networks, for videos of any length and any batch."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.awake import awake as awake_clip
from support.offline_networks import FEATURE_DIM, NUM_CLASSES, OFFLINE_NETWORKS
from torch import Tensor, nn

import vidact.models
from vidact import cli
from vidact.export import OnnxOffline, export, load_onnx, open_onnx
from vidact.export.videos import named
from vidact.features.extractor import FeatureExtractor
from vidact.features.names import image_backbone
from vidact.models.offline import OfflineNetwork
from vidact.models.offline_decoding import Decoding
from vidact.models.weights import attach, save
from vidact.records import Record
from vidact.runtimes.exported import OnnxGraph

CLASSES = ["a", "b", "c", "d"]
LOCALISER = {
    "embedding_dim": 16, "head_dim": 8, "embedding_layers": 1, "stem_layers": 1, "head_layers": 2, "levels": 2,
    "num_heads": 2, "attention_window": 5, "max_tokens": 32, "drop_path": 0.0,
}  # fmt: skip
PUBLISHED = [
    ("actionformer", {**LOCALISER, "published_padding": True}),
    (
        "actionformer_proposals",
        {"embedding_dim": 12, "num_heads": 2, "levels": 3, "max_tokens": 48, "published_padding": True},
    ),
    (
        "tridet",
        {
            "embedding_dim": 16, "head_dim": 8, "mlp_dim": 12, "levels": 4, "bins": 4, "window": 5, "max_tokens": 64,
            "published_padding": True,
        },
    ),
    ("ms_tcn", {"dim": 8, "stages": 2, "layers": 3, "published_padding": True}),
    ("ms_tcn_pp", {"dim": 8, "stages": 2, "first_layers": 4, "layers": 3, "published_padding": True}),
]  # fmt: skip
# Exporting takes seconds; these are a segmenter and a localiser. `pytest -m slow` has the others.
QUICK = [("ms_tcn", {"dim": 8, "stages": 2, "layers": 3}), ("actionformer", LOCALISER)]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in OFFLINE_NETWORKS + PUBLISHED)]


def label(case: tuple[str, dict]) -> str:
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items() if key != "regression_ranges")])


def built(name: str, **arguments: object) -> OfflineNetwork:
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM, **arguments)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=(1.6 / parameter[0].numel()) ** 0.5)
            elif "gain" in key:
                nn.init.normal_(parameter, 1.0, 0.3)
    classes = CLASSES if hasattr(network, "smoothing") else [*CLASSES, "e"]
    attach(network, record=Record.from_dict({"classes": classes, "tokens_per_second": 4.0}, "x"))
    return network.eval()


def videos(count: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    lengths = torch.randint(1, length + 1, (count,), generator=generator)
    lengths[0] = length
    return torch.randn(count, length, FEATURE_DIM, generator=generator), lengths


@pytest.fixture(scope="module")
def localiser() -> OfflineNetwork:
    return built(*QUICK[1][:1], **QUICK[1][1])


@pytest.fixture(scope="module")
def localiser_file(localiser: OfflineNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("localiser") / "localiser.onnx"
    export(localiser, path)
    return path


def assert_same_events(network: OfflineNetwork, opened: OfflineNetwork) -> None:
    crop = network.max_tokens or 50
    for count, length in ((1, 1), (3, 2), (2, 37), (1, crop), (2, 3 * crop + 1)):
        features, lengths = videos(count, length)
        expected, actual = network(features, lengths=lengths), opened(features, lengths)
        for ours, theirs in zip(network.events(expected), opened.events(actual), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-3)
        assert sum(map(len, network.events(expected))) > 0 or length < 3


@pytest.mark.parametrize("case", CASES, ids=label)
@torch.no_grad()
def test_the_file_gives_the_events_of_the_network(case: tuple[str, dict], tmp_path: Path) -> None:
    network = built(case[0], **case[1])
    if hasattr(network, "decoding"):
        network.decoding = Decoding(min_score_before=0.005, max_events=9)
    result = export(network, tmp_path / "x.onnx", what="video")
    assert result.what == "video"
    assert result.runs == 6
    opened = open_onnx(tmp_path / "x.onnx")
    assert isinstance(opened, OnnxOffline)
    assert (opened.num_classes, opened.feature_dim, opened.max_tokens) == (
        network.num_classes, network.feature_dim, network.max_tokens,
    )  # fmt: skip
    assert opened.classes == network.record["classes"]
    assert not opened.training
    assert_same_events(network, opened)


@pytest.mark.slow
@pytest.mark.parametrize("case", [QUICK[0], QUICK[1], OFFLINE_NETWORKS[4], OFFLINE_NETWORKS[8]], ids=label)
@torch.no_grad()
def test_a_program_of_torch_export_answers_too(case: tuple[str, dict], tmp_path: Path) -> None:
    network = built(case[0], **case[1])
    export(network, tmp_path / "x.pt2")
    program = torch.export.load(tmp_path / "x.pt2").module()
    features, lengths = videos(2, 75)
    answers = program(features, lengths)
    for name, values in named(network(features, lengths)).items():
        torch.testing.assert_close(answers[name][0, : values.shape[1]], values[0], rtol=0, atol=1e-3)


def test_the_record_has_what_decoding_needs(localiser: OfflineNetwork, localiser_file: Path) -> None:
    """Another program reads the outputs by it: names, strides, and how they become events."""
    session = onnxruntime.InferenceSession(localiser_file)
    record = json.loads(session.get_modelmeta().custom_metadata_map["vidact"])
    assert record["tokens_per_second"] == 4.0
    assert record["kind"] == "localiser"
    assert Decoding(**record["decoding"]) == localiser.decoding
    facts = record["export"]
    assert facts["what"] == "video"
    assert facts["strides"] == [1, 2]
    features, lengths = videos(2, 11)
    names = [output.name for output in session.get_outputs()]
    assert names == ["logits_0", "logits_1", "distances_0", "distances_1"]
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        ("features", ["batch", "tokens", FEATURE_DIM]), ("lengths", ["batch"]),
    ]  # fmt: skip
    outputs = session.run(None, {"features": features.numpy(), "lengths": lengths.numpy()})
    assert all(np.isfinite(values).all() for values in outputs)
    assert all(len(values) == 2 for values in outputs)


def test_the_page_tells_how_to_read_the_file(localiser: OfflineNetwork, localiser_file: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    block = next(block for block in blocks if "localiser.onnx" in block)
    features, lengths = videos(2, 20)
    here = {"features": features, "lengths": lengths}
    exec(block.replace("localiser.onnx", str(localiser_file)), here)
    assert here["output"].levels[0].logits.shape[::2] == (2, NUM_CLASSES)


def test_bad_features_are_refused_by_the_file_as_by_the_network(localiser_file: Path) -> None:
    opened = open_onnx(localiser_file)
    features, lengths = videos(1, 9)
    with pytest.raises(ValueError, match=r"OnnxOffline was given features that are not finite: value 3 of token 4"):
        opened(features.index_fill(1, torch.tensor([4]), torch.nan).nan_to_num(0).index_put(
            (torch.tensor(0), torch.tensor(4), torch.tensor(3)), torch.tensor(torch.nan)), lengths)  # fmt: skip
    with pytest.raises(ValueError, match=f"13 values a token, and OnnxOffline was built for {FEATURE_DIM}"):
        opened(torch.zeros(1, 4, 13))
    with pytest.raises(ValueError, match="given no token"):
        opened(torch.zeros(1, 0, FEATURE_DIM))


def test_a_file_does_not_stream(localiser_file: Path) -> None:
    with pytest.raises(ValueError, match=r"holds an offline network, whose answers depend on what comes later .*cann"):
        load_onnx(localiser_file)


def test_a_damaged_record_is_named(localiser_file: Path, tmp_path: Path) -> None:
    graph = OnnxGraph.open(localiser_file)
    for change, others, words in (
        ({}, {"decoding": {"nms": "no"}}, r"nms is 'no'; it can be"),
        ({}, {"decoding": {"sharpness": 2}}, "sharpness"),
        ({"strides": [0]}, {}, r"export\.strides is \[0\]"),
        ({"feature_dim": None}, {}, "it has no feature_dim"),
    ):
        record = graph.record.to_dict()
        record["export"] = {key: value for key, value in (record["export"] | change).items() if value is not None}

        model = onnx.load_from_string(graph.content)
        entry = next(entry for entry in model.metadata_props if entry.key == "vidact")
        entry.value = json.dumps(record | others)
        onnx.save(model, tmp_path / "x.onnx")
        with pytest.raises(ValueError, match=words):
            open_onnx(tmp_path / "x.onnx")


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    network, out = built(*QUICK[0][:1], **QUICK[0][1]), tmp_path / "x.onnx"
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"MSTCN is an offline network, which reads whole videos and no clips: what="):
        export(network, out, what="clip")
    with pytest.raises(ValueError, match=r"MSTCN cannot step: .*offline network, whose answers depend on what comes"):
        export(network, out, what="step")
    with pytest.raises(ValueError, match="frames is 8, and MSTCN reads the features of whole videos; leave it out"):
        export(network, out, frames=8)
    with pytest.raises(ValueError, match="MSTCN is an offline network, which has little to compute and gains nothing"):
        export(network, out, int8=True, calibrate=tmp_path / "films")
    with pytest.raises(ValueError, match="is no offline network: TSN does not read the features of whole videos"):
        export(vidact.models.tsn_resnet_tiny(num_classes=3, size=32, width=8, weights=None), out, what="video")
    assert not out.exists()


@pytest.mark.slow
def test_the_file_contains_the_extractor(tmp_path: Path) -> None:
    extractor = FeatureExtractor(awake_clip(image_backbone("resnet_tiny", None, 32)), chunk=3, device="cpu")
    network = awake_clip(vidact.models.ms_tcn(num_classes=3, feature_dim=extractor.dim, dim=8, stages=2, layers=2))
    facts = {
        "classes": ["a", "b"], "tokens_per_second": extractor.tokens_per_second, "features": extractor.record(),
    }  # fmt: skip
    attach(network, record=Record.from_dict(facts, "x"), extractor_state=extractor.state())
    result = export(network, tmp_path / "x.onnx", runs=2)
    assert result.extractor is not None
    opened = open_onnx(tmp_path / "x.onnx")
    assert opened.carried().record.features["dim"] == extractor.dim
    other = FeatureExtractor(awake_clip(image_backbone("resnet_tiny", None, 64)), chunk=3, device="cpu")
    with pytest.raises(ValueError, match=r"was trained on other features than this extractor makes: .*size 32 and 64"):
        export(network, tmp_path / "x.onnx", runs=2, extractor=other)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = built(*QUICK[0][:1], **QUICK[0][1])
    save(network, tmp_path / "w.safetensors")
    cli.main(["export", "--checkpoint", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "x.onnx"), "--runs=2"])
    said = capsys.readouterr().out
    assert f"{tmp_path / 'x.onnx'}: video, ONNX opset" in said
    assert "over 2 inputs the largest difference from PyTorch is" in said
