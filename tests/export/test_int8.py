"""Graphs in int8: calibrated on frames as vidact reads them, never written where they lose too much."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from support.awake import awake
from support.playing import play_file
from torch import nn

import vidact.models
from vidact import cli, predict
from vidact.data.synthetic import write_clips
from vidact.export import calibration, export, open_onnx
from vidact.export.calibration import clips_of, tokens_of
from vidact.export.losses import Loss, OfFeatures, OfValidationClips, expected_top1, outputs_of
from vidact.export.quantised import RANKED, _Quantiser, _with_record, quantise
from vidact.export.runtime import OnnxClip, OnnxExtractor, load_onnx
from vidact.features.extractor import INT8_BATCH, FeatureExtractor
from vidact.features.files import extract_features
from vidact.features.names import build_extractor, image_backbone
from vidact.features.record import other_features
from vidact.models.weights import load, save
from vidact.records import read_json
from vidact.results.figures import load_results
from vidact.results.scores import load_scores
from vidact.runtimes.exported import OnnxGraph
from vidact.stream import load_model
from vidact.tasks.online_detection import read_extractor
from vidact.training.run import train
from vidact.video import open_video
from vidact.video.numbered import write_numbered_video

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number, name in enumerate(["a.mp4", "b.mp4", "inner/c.mp4"]):
        (folder / name).parent.mkdir(exist_ok=True)
        write_numbered_video(folder / name, 60 + 10 * number)
    return folder


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(awake(image_backbone("resnet_tiny", None, 32)), chunk=3, device="cpu")


@pytest.fixture(scope="module")
def written(extractor: FeatureExtractor, films: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("written")
    export(extractor, folder / "float.onnx", runs=2)
    result = export(extractor, folder / "int8.onnx", runs=2, int8=True, calibrate=films)
    return SimpleNamespace(path=folder / "int8.onnx", single=folder / "float.onnx", result=result)


def detector_of(extractor: FeatureExtractor) -> nn.Module:
    network = awake(vidact.models.frame_classifier(num_classes=3, feature_dim=extractor.dim, spans=[1, 3]))
    network.record = {
        "format": 1, "recipe": network.recipe, "classes": ["a", "b"], "tokens_per_second": extractor.tokens_per_second,
        "features": extractor.record(), "scores": "softmax", "events": {"on": 0.4},
    }  # fmt: skip
    network.extractor_state = extractor.state()
    return network


def recogniser(**record: object) -> nn.Module:
    network = awake(vidact.models.tsn_resnet_tiny(num_classes=3, size=32, width=8, weights=None))
    sampling = {"name": "SegmentSampler", "arguments": {"num_segments": 4}}
    network.record = {
        "format": 1, "recipe": network.recipe, "input": network.input.as_dict(), "classes": ["a", "b", "c"],
        "sampling": sampling, **record,
    }  # fmt: skip
    return network


# ---------------------------------------------------------------------------------------------- the file


def test_an_int8_extractor_is_smaller_and_near_and_says_what_it_lost(
    extractor: FeatureExtractor, films: Path, written: SimpleNamespace
) -> None:
    model = onnx.load(written.path)
    onnx.checker.check_model(model)
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in model.graph.initializer) > 5
    assert written.path.stat().st_size < 0.6 * written.single.stat().st_size
    quantised = open_onnx(written.path)
    assert isinstance(quantised, OnnxExtractor)
    record = quantised.record()["int8"]
    assert quantised.record()["runtime"] == "onnx"
    assert record["measure"] == "cosine of features"
    assert 0 < record["loss"] <= record["max_loss"] == 0.01
    assert record["loss"] == written.result.int8.loss.to_dict()["loss"]
    with open_video(films / "a.mp4") as video:
        expected, actual = extractor.video(video), quantised.video(video)
    loss = 1 - torch.nn.functional.cosine_similarity(expected, actual, dim=1).mean()
    assert loss == pytest.approx(record["loss"], rel=0.5, abs=1e-4)
    assert not torch.equal(expected, actual)
    words = str(written.result)
    assert "cosine of features 1.0000 -> 0.99" in words
    assert "calibrated with 96 tokens of 3 videos" in words or "tokens of 3 videos" in words
    assert " MB; " in words
    assert " ms on " in words


def test_the_file_reads_pixels_and_a_stream_gives_what_a_file_gives_in_batches(
    films: Path, written: SimpleNamespace
) -> None:
    quantised = open_onnx(written.path)
    assert isinstance(quantised, OnnxExtractor)
    assert quantised.takes_pixels
    assert quantised.file_batch() == INT8_BATCH
    with open_video(films / "a.mp4") as video:
        rows = quantised.video(video)
        assert len(rows) % INT8_BATCH  # the last batch is smaller
        stream = quantised.stream()
        tokens = [token for number, time_s in enumerate(video.times_s)
                  for token in stream.push(float(time_s), video.frames_at([number]).images[0])]  # fmt: skip
        tokens += stream.finish(video.end_s)
    assert torch.equal(rows, torch.stack([vector for _, vector in tokens]))


def test_a_graph_whose_rounding_depends_on_the_batch_computes_token_by_token(
    written: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised = open_onnx(written.path)
    assert isinstance(quantised, OnnxExtractor)
    run = quantised._graph.run

    def rounded(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"features": run(inputs)["features"] + 1e-3 * (len(inputs["pixels"]) > 2)}

    monkeypatch.setattr(quantised._graph, "run", rounded)
    assert quantised.file_batch() == 1


def test_the_same_videos_give_the_same_bytes(
    extractor: FeatureExtractor, films: Path, written: SimpleNamespace, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        export(extractor, tmp_path / "again.onnx", runs=1, int8=True, calibrate=films)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "again.onnx").read_bytes() == written.path.read_bytes()


def test_batches_are_free(written: SimpleNamespace) -> None:
    graph = OnnxGraph.open(written.path)
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    together = graph.run({"pixels": pixels})["features"]
    apart = torch.cat([graph.run({"pixels": image[None]})["features"] for image in pixels])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4 * float(apart.abs().max()))


# ---------------------------------------------------------------------------------------------- calibration


def test_tokens_are_those_of_the_reader_and_the_transform(
    extractor: FeatureExtractor, films: Path, written: SimpleNamespace
) -> None:
    single = open_onnx(written.single)
    inputs = tokens_of(single, films, with_runs=True)
    assert inputs.num_videos == len(inputs.runs) == 3
    rows = []
    for name in ("a.mp4", "b.mp4", "inner/c.mp4"):
        with open_video(films / name) as video:
            rows.append(extractor.video(video))
    for feeds in (*inputs.calibration, *inputs.held_out):
        vector = single._graph.run(feeds)["features"]
        assert min((row - vector).abs().max() for row in torch.cat(rows)) < 1e-4
    for run, video_rows in zip(inputs.runs, rows, strict=True):  # all tokens of a short video, in order
        vectors = torch.cat([single._graph.run(feeds)["features"] for feeds in run])
        torch.testing.assert_close(vectors, video_rows, rtol=0, atol=1e-4)
    pixels = [feeds["images"].numpy().tobytes() for feeds in inputs.calibration]
    assert not set(pixels) & {feeds["images"].numpy().tobytes() for feeds in inputs.held_out}


def test_unreadable_videos_are_named_and_left_out(written: SimpleNamespace, films: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).symlink_to(films / name)
    inputs = tokens_of(open_onnx(written.single), tmp_path)
    assert list(inputs.unreadable) == ["broken"]
    assert inputs.num_videos == 2
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(ValueError, match=r"0 readable videos \(1 other cannot be read: broken; .*at least 32"):
        tokens_of(open_onnx(written.single), tmp_path)


def test_clips_are_sampled_and_transformed_as_in_a_prediction(films: Path, tmp_path: Path) -> None:
    from vidact.video.sample import ClipSampler
    from vidact.video.transform import from_record

    network = recogniser()
    export(network, tmp_path / "clip.onnx", runs=1)
    inputs = clips_of(OnnxClip(OnnxGraph.open(tmp_path / "clip.onnx")), films)
    assert (inputs.noun, inputs.num_videos) == ("clip", 3)
    with open_video(films / "a.mp4") as video:
        count = min(-(-calibration.CLIPS // 3), len(video) // 4)
        rows = np.unique(ClipSampler.from_record(network.record["sampling"])(len(video), num_clips=count), axis=0)
        clip, _ = from_record(network.record)(video.frames_at(rows[0]).images)
    assert torch.equal(inputs.calibration[0]["clip"], clip)


# ---------------------------------------------------------------------------------------------- the search


def test_layers_that_lose_most_stay_in_single_precision(written: SimpleNamespace, films: Path, tmp_path: Path) -> None:
    single = open_onnx(written.single)
    inputs = tokens_of(single, films)
    judge, trials = OfFeatures(single._graph, inputs.held_out), []

    def strict(graph: OnnxGraph) -> Loss:
        trials.append(judge(graph))
        return trials[-1] if len(trials) == 3 else trials[-1]._replace(after=0.5)

    result = quantise(single._graph, inputs, [strict], 0.01)
    assert (len(trials), len(result.float_layers)) == (3, 2)  # 0, 1 and 2 layers
    alone = _changes_alone(single._graph, inputs, tmp_path)
    assert set(result.float_layers) == set(sorted(alone, key=alone.get)[-2:])
    record = OnnxExtractor(OnnxGraph(result.content, "int8")).record()["int8"]
    assert record["float_layers"] == result.float_layers
    assert record["layers"] == result.num_layers
    assert "2 of them in single precision" in str(result)


def _changes_alone(graph: OnnxGraph, inputs: calibration.Inputs, folder: Path) -> dict[str, float]:
    """The change of the outputs where one layer alone is in int8."""
    quantiser = _Quantiser(graph, inputs.calibration, folder, None)
    expected, changes = outputs_of(graph, inputs.held_out[:RANKED]), {}
    for layer in quantiser.layers:
        content = quantiser.quantised(only=[layer])
        actual = outputs_of(OnnxGraph(_with_record(content, graph.record.to_dict()), "x"), inputs.held_out[:RANKED])
        changes[layer] = float((actual - expected).norm())
    return changes


def test_the_search_ends_with_half_of_the_layers(written: SimpleNamespace, films: Path) -> None:
    single = open_onnx(written.single)
    inputs, trials = tokens_of(single, films), []

    def never(graph: OnnxGraph) -> Loss:
        trials.append(graph)
        return Loss("top-1", 1.0, 0.9, 0.0)

    with pytest.raises(
        ValueError, match=r"loses too much\. top-1 1\.0000 -> 0\.9000, a loss of 0\.1000.*--max_loss is"
    ):
        quantise(single._graph, inputs, [never], 0.05)
    num_layers = OnnxGraph.open(written.path).facts["int8"]["layers"]
    assert len(trials) == 2 + int(np.log2(num_layers // 2))


def test_nothing_is_written_above_the_loss(extractor: FeatureExtractor, films: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"earlier")
    with pytest.raises(ValueError, match=r"nothing was written: in int8.*accept more with --max_loss"):
        export(extractor, tmp_path / "x.onnx", runs=1, int8=True, calibrate=films, max_loss=1e-9)
    assert (tmp_path / "x.onnx").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


# ---------------------------------------------------------------------------------------------- losses


def test_the_expected_loss_of_top1_follows_from_the_scores_before() -> None:
    before = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    same = expected_top1(before, before)
    assert (same.loss, same.largest_change) == (0, 0)
    after = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.5, 0.1]])
    loss = expected_top1(before, after)
    assert loss.loss == pytest.approx(0.05)  # one of two answers changes, and was 0.1 less likely
    assert loss.largest_change == pytest.approx(0.1)
    assert not expected_top1(before, after * torch.nan).is_within(0.9)


def test_a_better_figure_is_no_loss_and_nan_is_no_figure() -> None:
    assert Loss("top-1", 0.8, 0.9, 0.0).loss == 0
    assert not Loss("mAP", 0.8, float("nan"), 0.0).is_within(1.0)


# ---------------------------------------------------------------------------------------------- use


def test_features_are_made_in_int8_and_the_folder_says_so(
    extractor: FeatureExtractor, films: Path, written: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    words = ["extract", "features", "--videos", str(films), "--out", str(out), "--network", str(written.path)]
    cli.main([*words, "--device", "cpu", "--workers", "1"])
    record = read_json(out / "features.json", {}, "")
    assert record["runtime"] == "onnx"
    assert record["int8"]["loss"] <= record["int8"]["max_loss"]
    quantised = open_onnx(written.path)
    with open_video(films / "a.mp4") as video:
        assert np.array_equal(np.load(out / "a.npy"), quantised.video(video).numpy())
    before = (out / "a.npy").read_bytes()
    several = extract_features(films, tmp_path / "two", build_extractor(str(written.path)), workers=2, progress=False)
    assert len(several.written) == 3
    assert (tmp_path / "two" / "a.npy").read_bytes() == before
    again = extract_features(films, out, FeatureExtractor.open(out, device="cpu"), progress=False)
    assert (len(again.written), len(again.kept)) == (0, 3)
    assert read_extractor(out, record).keys() == {"onnx"}
    with pytest.raises(ValueError, match="int8"):
        extract_features(films, out, extractor, progress=False)
    with pytest.raises(ValueError, match="int8"):
        _ = extract_features(films, _float_folder(extractor, films, tmp_path), quantised, progress=False)


def _float_folder(extractor: FeatureExtractor, films: Path, tmp_path: Path) -> Path:
    extract_features(films, tmp_path / "float", extractor, progress=False)
    return tmp_path / "float"


def test_a_stream_gives_what_the_file_gives(films: Path, written: SimpleNamespace) -> None:
    quantised = open_onnx(written.path)
    with open_video(films / "a.mp4") as video:
        expected, end_s = quantised.video(video), video.end_s
    streamed = torch.stack([vector for _, vector in play_file(quantised, films / "a.mp4", end_s)])
    assert torch.equal(streamed, expected)


def test_features_of_int8_are_accepted_with_their_check_only(
    extractor: FeatureExtractor, written: SimpleNamespace
) -> None:
    single, quantised = extractor.record(), open_onnx(written.path).record()
    assert other_features(single, quantised) == other_features(quantised, single) == []
    lossy = {**quantised, "int8": {**quantised["int8"], "loss": 0.3}}
    assert "lost 0.3 of cosine of features" in other_features(single, lossy)[0]
    unmeasured = {**quantised, "int8": {"graph_sha256": "0"}}
    assert "has no record of its loss" in other_features(unmeasured, single)[0]
    assert other_features(lossy, lossy) == []
    onnx = {**single, "runtime": "onnx", "runtime_check": {}}  # never compared with PyTorch
    assert "no record that their outputs agree" in other_features(onnx, quantised)[0]


def test_a_detector_is_exported_and_streams_with_its_extractor_in_int8(
    extractor: FeatureExtractor, films: Path, tmp_path: Path, written: SimpleNamespace
) -> None:
    network = detector_of(extractor)
    result = export(network, tmp_path / "x.onnx", runs=5, int8=True, calibrate=films, max_loss=0.05)
    assert result.extractor.int8.loss.measure == "expected top-1"
    assert "expected top-1" in str(result)
    model = load_onnx(tmp_path / "x.onnx")
    assert model.extractor.record()["int8"]["max_loss"] == 0.05
    assert np.isfinite(float(model.extractor.chunk(torch.zeros(3, 3, 40, 50, dtype=torch.uint8)).sum()))
    in_torch = load_model(network, extractor=written.path, device="cpu")
    assert isinstance(in_torch.extractor, OnnxExtractor)
    with pytest.raises(ValueError, match=r"device is cuda, but .*int8.*choose the device cpu"):
        FeatureExtractor.open(written.path, device="cuda")


def test_a_checkpoint_carries_the_int8_extractor_of_its_features(
    films: Path, tmp_path: Path, written: SimpleNamespace
) -> None:
    quantised = open_onnx(written.path)
    save(detector_of(quantised), tmp_path / "detector.safetensors")
    network = load(tmp_path / "detector.safetensors")
    model = load_model(network, device="cpu")
    with open_video(films / "a.mp4") as video:
        assert torch.equal(model.extractor.video(video), quantised.video(video))
    export(tmp_path / "detector.safetensors", tmp_path / "both.onnx", runs=2)
    assert load_onnx(tmp_path / "both.onnx").extractor.content == written.path.read_bytes()
    with pytest.raises(ValueError, match="is int8 already; leave int8 out"):
        export(network, tmp_path / "again.onnx", int8=True, calibrate=films)


def test_a_clip_network_in_int8(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(recogniser(), tmp_path / "net.safetensors")
    words = [
        "export",
        "--checkpoint",
        str(tmp_path / "net.safetensors"),
        "--out",
        str(tmp_path / "net.onnx"),
        "--runs",
        "2",
    ]
    cli.main([*words, "--int8", "--calibrate", str(films)])
    printed = capsys.readouterr().out
    assert "expected top-1" in printed
    assert "--max_loss 0.01 is accepted" in printed
    network = open_onnx(tmp_path / "net.onnx")
    assert network.record["export"]["int8"]["measure"] == "expected top-1"
    clip = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert (network(clip) - load(tmp_path / "net.safetensors")(clip)).abs().max() < 0.5


def test_the_figure_of_validation_clips_is_measured_before_and_after(films: Path, tmp_path: Path) -> None:
    export(recogniser(), tmp_path / "clip.onnx", runs=1)
    graph = OnnxGraph.open(tmp_path / "clip.onnx")
    feeds = clips_of(OnnxClip(graph), films).held_out
    labels = torch.cat([graph.run(each)["logits"] for each in feeds]).argmax(1)
    samples = [SimpleNamespace(clips=each["clip"], target=label) for each, label in zip(feeds, labels, strict=True)]
    loss = OfValidationClips(graph, samples, "softmax", False)(graph)
    assert (loss.measure, loss.before, loss.after, loss.largest_change) == ("validation top-1", 1.0, 1.0, 0.0)
    samples[0].target = (labels[0] + 1) % 3
    assert OfValidationClips(graph, samples, "softmax", False)(graph).before == pytest.approx(1 - 1 / len(feeds))


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"calibrate": "."}, "calibrate is .* int8 only; add int8"),
        ({"max_loss": 0.1}, "max_loss is 0.1 and is for int8 only"),
        ({"int8": True}, "int8 needs videos .* add calibrate"),
        ({"int8": True, "calibrate": "nowhere"}, "nowhere does not exist; give a folder of videos"),
        ({"int8": True, "calibrate": "empty"}, "empty holds no video"),
        ({"int8": True, "calibrate": "films", "max_loss": 2}, "max_loss is 2; it is a share"),
        ({"int8": True, "calibrate": "films", "format": "torch", "out": "x.pt2"}, "int8 files are ONNX"),
        ({"int8": True, "calibrate": "films", "data": "films"}, "an extractor has no classes to score"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    settings: dict,
    words: str,
    extractor: FeatureExtractor,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "films").symlink_to(films)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        export(extractor, settings.pop("out", "x.onnx"), runs=1, **settings)
    assert not list(tmp_path.glob("x.*"))


def test_steps_are_refused(extractor: FeatureExtractor, films: Path, tmp_path: Path) -> None:
    detector = detector_of(extractor)
    del detector.extractor_state
    with pytest.raises(ValueError, match=r"gains nothing from int8; the time is in the extractor.*carries none"):
        export(detector, tmp_path / "x.onnx", int8=True, calibrate=films)
    with pytest.raises(ValueError, match="int8 is for whole clips"):
        export(recogniser(), tmp_path / "x.onnx", what="step", int8=True, calibrate=films)


def test_a_network_without_sampling_and_other_frames_are_refused(films: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say which frames of a video its clips have"):
        export(recogniser(sampling=None), tmp_path / "x.onnx", frames=4, int8=True, calibrate=films)
    with pytest.raises(ValueError, match="frames is 6, and the network was trained on clips of 4"):
        export(recogniser(), tmp_path / "x.onnx", frames=6, int8=True, calibrate=films)


def test_an_extractor_in_single_precision_is_no_network_of_extract(written: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="is an exported extractor in single precision"):
        build_extractor(str(written.single))


# ---------------------------------------------------------------------------------------------- for a checkpoint


@pytest.mark.parametrize("int8", [False, True])
def test_predict_answers_by_an_exported_clip_network(
    int8: bool, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(recogniser(), tmp_path / "net.safetensors")
    settings = {"int8": True, "calibrate": films} if int8 else {}
    export(tmp_path / "net.safetensors", tmp_path / "net.onnx", runs=1, **settings)
    expected = predict(films, tmp_path / "net.safetensors", device="cpu", runtime="torch")
    actual = predict(films, tmp_path / "net.onnx")
    assert [each.path for each in actual] == [each.path for each in expected]
    for before, after in zip(expected, actual, strict=True):
        scores = dict(after.labels)
        for label, score in before.labels:
            assert scores[label] == pytest.approx(score, abs=0.1 if int8 else 1e-4)
    cli.main(["predict", str(films / "a.mp4"), "--checkpoint", str(tmp_path / "net.onnx"), "--json"])
    assert json.loads(capsys.readouterr().out)["labels"] == [list(pair) for pair in actual[0].labels]
    with pytest.raises(ValueError, match=r"the runtime is torch .* leave both out, or take its checkpoint"):
        predict(films, tmp_path / "net.onnx", runtime="torch")
    with pytest.raises(ValueError, match="the device cuda, but an exported network runs in ONNX Runtime on the CPU"):
        predict(films, tmp_path / "net.onnx", device="cuda")
    with pytest.raises(ValueError, match=r"shape .*this file was exported for \(B, 4, 3, 32, 32\)"):
        predict(films, tmp_path / "net.onnx", views="1x3")


def test_predict_refuses_other_exported_files(written: SimpleNamespace, films: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was exported with --what extractor, and `predict` names whole clips"):
        predict(films, written.path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.onnx"):
        predict(films, tmp_path / "absent.onnx")
    (tmp_path / "other.onnx").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"other\.onnx cannot be read as ONNX"):
        predict(films, tmp_path / "other.onnx")


def test_a_run_is_tested_by_an_exported_clip_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clips(tmp_path / "clips", splits={"train": 2, "val": 1, "test": 2}, seed=0)
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.enable_progress_bar=false", "--model.network.size=32", "--device=cpu"]
    train(["--config", "debug", *options, "--data.root=clips", "--run=run"])
    trained = load_results(tmp_path / "run")["test"]
    scores = load_scores(Path("run/scores.npz")).values
    export("run/checkpoints/best.ckpt", tmp_path / "clip.onnx", runs=1)
    cli.main(["test", "--config", "run/config.yaml", "--ckpt", "clip.onnx", "--device", "cpu"])
    tested = load_results(tmp_path / "run")["test"]
    assert tested["checkpoint"].endswith("clip.onnx")
    assert tested["parameters"] == trained["parameters"] > 0
    assert tested["test_top1"] == trained["test_top1"]
    np.testing.assert_allclose(load_scores(Path("run/scores.npz")).values, scores, atol=1e-4)


# ---------------------------------------------------------------------------------------------- a detector's validation


@pytest.fixture(scope="module")
def labelled(films: Path, extractor: FeatureExtractor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos, their features and events where the scores of the detector rise, so that its mAP is high."""
    folder = tmp_path_factory.mktemp("labelled")
    shutil.copytree(films, folder / "videos")
    extract_features(folder, folder / "features", extractor, progress=False)
    detector, rows = detector_of(extractor), ["video,start_s,end_s,label"]
    splits = {"videos/a": "train", "videos/b": "val", "videos/inner/c": "val"}
    for video in splits:
        features = torch.from_numpy(np.load(folder / "features" / f"{video}.npy"))
        with torch.no_grad():
            logits = detector.scan(features[None]).logits[0]
        best = (logits - logits.mean(0)).argmax(-1).tolist()  # every class occurs
        for token, number in enumerate(best):
            if number:
                start_s = token / extractor.tokens_per_second
                end_s = start_s + 1 / extractor.tokens_per_second
                rows.append(f"{video},{start_s:.6f},{end_s:.6f},{detector.record['classes'][number - 1]}")
    (folder / "events.csv").write_text("\n".join(rows) + "\n")
    (folder / "videos.csv").write_text("video,split\n" + "".join(f"{name},{split}\n" for name, split in splits.items()))
    return folder


def test_a_detector_is_judged_by_the_map_of_its_validation_videos(
    labelled: Path, extractor: FeatureExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = detector_of(extractor)
    result = export(
        network, tmp_path / "x.onnx", runs=2, int8=True, calibrate=labelled / "videos", data=labelled, max_loss=0.2
    )
    loss = result.extractor.int8.loss
    assert loss.measure == "validation mAP"
    assert loss.before > 0.5
    assert loss.before - 0.2 <= loss.after
    written = (tmp_path / "x.onnx").read_bytes()

    quantised = _Quantiser.quantised

    def worthless(self: _Quantiser, *arguments: object, **settings: object) -> bytes:
        model = onnx.load_from_string(quantised(self, *arguments, **settings))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8:
                zeros = np.zeros(tuple(tensor.dims), np.int8)
                tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
        return model.SerializeToString()

    monkeypatch.setattr(_Quantiser, "quantised", worthless)
    monkeypatch.setattr("vidact.export.write.OfDetector", lambda *_: lambda _: Loss("nothing", 1.0, 1.0, 0.0))
    with pytest.raises(
        ValueError, match=r"nothing was written: in int8.* loses too much\. validation mAP .*--max_loss"
    ):
        export(network, tmp_path / "x.onnx", runs=2, int8=True, calibrate=labelled / "videos", data=labelled)
    assert (tmp_path / "x.onnx").read_bytes() == written
