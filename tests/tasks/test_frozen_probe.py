"""The linear probe beside a training: what it computes, what it costs, and what it leaves alone."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchvision
from sklearn.linear_model import LogisticRegression

from vidact.data.clips import ClipData
from vidact.data.synthetic import write_clips
from vidact.models import tsm_mobilenet_v2, tsm_resnet_tiny, tsn_resnet_tiny
from vidact.models.weights import load, save
from vidact.results.figures import load_results
from vidact.results.scores import PROBE_SCORES, Scores, load_scores
from vidact.tasks import ClipClassification, frozen_probe
from vidact.tasks.frozen_probe import FrozenProbe
from vidact.training.repeat import yardstick_columns
from vidact.training.run import train
from vidact.video import SegmentSampler

CLASSES = ["moving left", "moving right", "pulsing cross"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 3, "val": 1, "test": 2}, seed=0, classes=CLASSES)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the network from which the trainings here start."""
    torch.manual_seed(7)
    network = tsm_resnet_tiny(3, weights=None, size=32)
    return save(network, tmp_path_factory.mktemp("weights") / "start.safetensors", {"classes": ["a", "b", "c"]})


def fit(root: Path, run: Path, probe: FrozenProbe | None, seed: int = 0, data: dict | None = None, network=None,
        resume: Path | None = None, **options) -> tuple[ClipClassification, pl.Trainer]:  # fmt: skip
    torch.manual_seed(seed)
    init_from = options.pop("init_from", None)
    task = ClipClassification(network or tsm_resnet_tiny(3, weights=None, size=32, dropout=0.5), init_from=init_from)
    trainer = pl.Trainer(
        **{
            "default_root_dir": run, "accelerator": "cpu", "max_epochs": 1, "logger": False,
            "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False,
            "use_distributed_sampler": False, "num_sanity_val_steps": 0, "callbacks": [probe] if probe else [],
            **options,
        }
    )  # fmt: skip
    made = ClipData(str(root), SegmentSampler(4), **{"batch_size": 2, "num_workers": 0, **(data or {})})
    trainer.fit(task, made, ckpt_path=resume)
    return task, trainer


@pytest.fixture(scope="module")
def run(
    root: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FrozenProbe, pl.LightningModule]:
    folder, probe = tmp_path_factory.mktemp("runs") / "a", FrozenProbe()
    task, _ = fit(root, folder, probe, init_from=str(weights))
    return folder, probe, task


def test_it_is_a_logistic_regression_on_the_features_before_training(run, root: Path, weights: Path) -> None:
    folder, probe, _ = run
    network = load(weights)
    data = ClipData(str(root), SegmentSampler(4), batch_size=2, num_workers=0)
    data.prepare(network.input)
    arrays = {}
    for split in ("train", "test"):
        batches = list(data.one_view(split, {clip.id for clip in data.found}))
        with torch.no_grad():
            features = torch.cat([network.features(batch.clips[:, 0]) for batch in batches]).double().numpy()
        arrays[split] = features, torch.cat([batch.targets for batch in batches]), [i for b in batches for i in b.ids]
    mean, scale = arrays["train"][0].mean(0), arrays["train"][0].std(0)
    scale[scale == 0] = 1  # of units that no training clip reaches
    regression = LogisticRegression(C=1 / probe.facts["strength"], max_iter=10_000, tol=1e-10)
    regression.fit((arrays["train"][0] - mean) / scale, arrays["train"][1])
    expected = regression.predict_proba((arrays["test"][0] - mean) / scale)
    scores = load_scores(folder / PROBE_SCORES)
    rows = [scores.ids.index(id) for id in arrays["test"][2]]
    np.testing.assert_allclose(torch.from_numpy(scores.values[rows]).softmax(1), expected, atol=1e-4)
    assert probe.facts["test_top1"] == (scores.values.argmax(1) == scores.labels).mean()
    assert probe.facts["validated_on"] == "3 validation clips"
    assert probe.facts["clips_encoded"] == 18


def test_training_is_the_same_without_it(run, root: Path, weights: Path, tmp_path: Path) -> None:
    plain, _ = fit(root, tmp_path, None, init_from=str(weights))
    for name, value in run[2].state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_a_run_beside_it_encodes_nothing(run, root: Path, weights: Path, tmp_path: Path) -> None:
    """Another seed draws another classifier and another dropout, which features do not depend on."""
    probe = FrozenProbe()
    beside = run[0].with_name("b")
    fit(root, beside, probe, seed=1, init_from=str(weights))
    assert probe.facts["clips_encoded"] == 0
    assert not (beside / "encodings").exists()
    assert probe.facts["test_top1"] == run[1].facts["test_top1"]
    np.testing.assert_array_equal(load_scores(beside / PROBE_SCORES).values, load_scores(run[0] / PROBE_SCORES).values)
    elsewhere = FrozenProbe()
    fit(root, tmp_path / "c", elsewhere, init_from=str(weights))
    assert elsewhere.facts["clips_encoded"] == 18


def test_other_weights_have_other_features(run, root: Path, tmp_path: Path) -> None:
    other = save(tsm_resnet_tiny(3, weights=None, size=32), tmp_path / "other.safetensors", {"classes": CLASSES})
    probe = FrozenProbe()
    fit(root, run[0].with_name("d"), probe, init_from=str(other))
    assert probe.facts["clips_encoded"] == 18


def left_out(root: Path, run: Path, capsys: pytest.CaptureFixture, **options) -> str:
    probe = FrozenProbe()
    fit(root, run, probe, limit_train_batches=1, limit_val_batches=0, **options)
    assert not (run / PROBE_SCORES).exists()
    assert f"linear probe: left out, since {probe.facts['left_out']}" in capsys.readouterr().out
    return probe.facts["left_out"]


def test_it_is_left_out_where_it_would_say_nothing(
    root: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"init_from": str(weights)}
    assert "starts from random weights" in left_out(root, tmp_path, capsys)

    def no_network(*args: object, **options: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(torchvision.models.MobileNet_V2_Weights, "get_state_dict", no_network)
    fallen_back = tsm_mobilenet_v2(3, weights="auto", size=32)
    assert "starts from random weights" in left_out(root, tmp_path, capsys, network=fallen_back)
    flow = tsn_resnet_tiny(3, weights=None, size=32, width=8, modality="flow", flow_fields=1)
    flow_file = save(flow, tmp_path / "flow.safetensors", {"classes": CLASSES})
    assert "reads optical flow" in left_out(root, tmp_path, capsys, network=flow, init_from=str(flow_file))
    assert "not in single precision (trainer.precision is 64-true)" in left_out(
        root, tmp_path, capsys, precision="64-true", **known
    )
    rows = [line.split(",") for line in (root / "clips.csv").read_text().splitlines()[1:]]
    lines = [f"{(root / row[0]).resolve()},{row[1]},{row[-1]}" for row in rows if row[-1] != "val"]
    few = tmp_path / "few"
    few.mkdir()
    once = [next(line for line in lines if f",{name}," in line and line.endswith("train")) for name in CLASSES]
    tests = [line for line in lines if line.endswith("test")]
    (few / "clips.csv").write_text("\n".join(["path,label,split", *once, *tests]))
    assert "every class has one training clip" in left_out(few, tmp_path, capsys, **known)
    others = [line for line in lines if f",{CLASSES[0]}," not in line]
    (few / "clips.csv").write_text("\n".join(["path,label,split", *{*others, *tests}]))
    assert "no training clip shows moving left" in left_out(few, tmp_path, capsys, **known)
    monkeypatch.setattr(frozen_probe, "MOST_CLIPS", 17)
    assert "18 clips are more than 17; vidact probe" in left_out(root, tmp_path, capsys, **known)


# ---- in a run of the command


@pytest.fixture(scope="module")
def trained(root: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose learning rate changes nothing, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "x"
    with pytest.MonkeyPatch.context() as patched:
        printed: list[str] = []
        patched.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        train([*options(root, weights), f"--run={folder}", "--model.optimizer.init_args.lr=1e-30"])
    return folder, "\n".join(printed)


def options(root: Path, weights: Path) -> list[str]:
    return [
        "--config", "debug", "--model.network.size=32", "--trainer.enable_progress_bar=false",
        f"--data.root={root}", f"--model.init_from={weights}", "--model.optimizer=torch.optim.SGD",
    ]  # fmt: skip


def test_its_figure_is_beside_that_of_the_test(trained, root: Path) -> None:
    run, printed = trained
    results, scores = load_results(run), load_scores(run / "scores.npz")
    probe = load_scores(run / PROBE_SCORES)
    assert probe.ids == scores.ids
    assert results["test"]["test_probe"] == results["linear probe"]["test_top1"]
    assert f"test_probe  {results['test']['test_probe']:.4f}" in printed
    assert "linear probe on the network before training: 18 clips encoded in" in printed
    page = (run / "report.html").read_text()
    assert "top-1 of a linear probe before training" in page
    right = results["test"]["test_top1"] - results["test"]["test_probe"]
    assert ("training did not pay" in results["test"]["test_probe_verdict"]) == (right <= 0)
    assert f"vidact probe --data {root}" in printed
    assert "--find_lr suggests one" in printed


@pytest.mark.slow
def test_a_resumed_run_keeps_it_and_false_leaves_it_out(trained, root: Path, weights: Path, tmp_path: Path) -> None:
    before = load_results(trained[0])["linear probe"]
    values = (trained[0] / PROBE_SCORES).read_bytes()
    train(["--config", str(trained[0] / "config.yaml"), "--ckpt=last", "--trainer.max_epochs=2"])
    assert load_results(trained[0])["linear probe"] == before
    assert (trained[0] / PROBE_SCORES).read_bytes() == values
    run = train([*options(root, weights), f"--run={tmp_path / 'y'}", "--probe=false"])
    assert not (run / PROBE_SCORES).exists()
    assert "linear probe" not in load_results(run)
    assert "test_probe" not in load_results(run)["test"]


def test_a_training_that_fails_leaves_no_features(root: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lr is inf"):
        train([*options(root, weights), f"--run={tmp_path / 'z'}", "--model.optimizer.init_args.lr=.inf"])
    assert not (tmp_path / "z").exists()


# ---- the verdict


def of(answers: list[int], **changes) -> Scores:
    """Scores of clips of class 0 that are answered so."""
    values = np.eye(2)[answers]
    ids = [f"v{number:03d}" for number in range(len(answers))]
    return Scores(**{"ids": ids, "labels": [0] * len(answers), "values": values, "classes": ["x", "y"]} | changes)


@pytest.mark.parametrize(
    ("mine", "probe", "words"),
    [
        ([0] * 50 + [1] * 40, [0] * 57 + [1] * 33, "training did not pay: the trained network has 7 of 90 clips fewer"),
        ([0, 1], [1, 0], "has as many clips right as a linear probe on the network before training (0.500)"),
        ([0] * 60 + [1] * 30, [0] * 57 + [1] * 33, "has 3 of 90 clips more right than a linear probe on the network "
         "before training (0.633), which may be chance"),
        ([0] * 80 + [1] * 10, [0] * 57 + [1] * 33, ""),
    ],
)  # fmt: skip
def test_the_lead_is_counted_in_clips(mine: list[int], probe: list[int], words: str) -> None:
    beside = of(mine).beside_probe(of(probe))
    assert words in beside["probe_verdict"]
    assert bool(words) == bool(beside["probe_verdict"])
    assert beside["probe"] == probe.count(0) / len(probe)
    backwards = of(probe[::-1], ids=of(probe).ids[::-1])
    assert of(mine).beside_probe(backwards) == beside


def test_a_probe_of_other_data_is_no_yardstick(tmp_path: Path) -> None:
    mine = of([0, 1])
    assert mine.beside_probe(of([0, 1], classes=["y", "x"])) == {}
    assert mine.beside_probe(of([0, 1], labels=[0, 1])) == {}
    assert mine.beside_probe(of([0, 1], ids=["a", "b"])) == {}
    assert mine.beside_probe(of([0, 1, 1])) == mine.beside_probe(of([0, 1]))
    paths = {folder: [str(tmp_path / folder / f"{number}.mp4") for number in range(2)] for folder in ("a", "b")}
    tested, probe = of([0, 1], paths=paths["b"]), of([0, 1], paths=paths["a"])
    assert tested.beside_probe(probe) == mine.beside_probe(of([0, 1]))  # the clips of folder a are now in b
    for name in (paths["a"][0], paths["b"][0]):
        Path(name).parent.mkdir()
        Path(name).touch()
    assert tested.beside_probe(probe) == {}  # other files, of the same ids and classes
    assert of([0, 1], paths=paths["a"]).beside_probe(probe) == mine.beside_probe(of([0, 1]))


def test_a_table_of_several_runs_has_a_column_for_it() -> None:
    tested = {"test_probe": 0.5, "test_majority": 0.25, "test_majority_class": "x", "test_chance": 0.2}
    assert yardstick_columns(tested, "test", [])["accuracy of a linear probe"] == 0.5
    assert "accuracy of a linear probe" not in yardstick_columns({"test_chance_map": 0.1}, "test", [])
