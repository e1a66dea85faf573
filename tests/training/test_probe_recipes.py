"""Recipes of probes: ``train`` makes a probe; ``folds`` and ``compare`` put it beside trainings on the same splits."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.commands import fails

from vidact import cli
from vidact.data.clip_list import load_clips
from vidact.data.synthetic import write_clips
from vidact.results.figures import load_results
from vidact.results.scores import load_scores
from vidact.tasks import probe as task
from vidact.training.probe_config import ProbeSettings, is_probe, read_settings

SHIPPED = Path(__file__).parents[2] / "configs"
RECIPE = "clip/folder/probe"
NETWORK = ["resnet_tiny", "none", "32", "4"]  # of the recipe and of vidact probe
OPTIONS = [
    *(f"--probe.{name}={value}" for name, value in zip(("network", "weights", "size", "frames"), NETWORK, strict=True)),
    "--device=cpu",
]
TRAINING = ["--model.network.size=32", "--trainer.max_epochs=1", "--data.batch_size=4", "--data.num_workers=0"]
GROUP = "([^/_]+)_[^/]*$"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of six clips each, two of a person, in no split."""
    source, folder = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("people")
    classes = ["closing", "opening"]
    write_clips(source, splits={"train": 6, "val": 0, "test": 0}, classes=classes, seed=0)
    for name in classes:
        (folder / name).mkdir()
        for number, clip in enumerate(sorted((source / name).glob("*.mp4"))):
            shutil.copy(clip, folder / name / f"{('ann', 'bob', 'cat')[number // 2]}_{number % 2}.mp4")
    return folder


def by_command(data: Path, run: Path, *options: str) -> None:
    words = [f"--{name}={value}" for name, value in zip(("network", "weights", "size", "frames"), NETWORK, strict=True)]
    cli.main(["probe", str(data), f"--run={run}", *words, "--device=cpu", *options])


def test_recipes_of_probes_are_told_from_those_of_trainings() -> None:
    assert is_probe(SHIPPED / "clip/folder/probe.yaml")
    assert not is_probe(SHIPPED / "clip/folder/tsm_mobilenetv2.yaml")
    assert not is_probe(SHIPPED / "absent.yaml")


def test_the_shipped_recipe_has_the_defaults_of_the_command() -> None:
    settings = read_settings(SHIPPED / "clip/folder/probe.yaml", ["--data.root=x"])
    assert settings == ProbeSettings(data=Path("x"), heads=list(ProbeSettings(Path()).heads))


def test_a_recipe_may_choose_the_runtime() -> None:
    recipe = SHIPPED / "clip/folder/probe.yaml"
    assert read_settings(recipe, ["--data.root=x", "--probe.runtime=torch"]).runtime == "torch"
    with pytest.raises(ValueError, match="runtime is 'tensorrt'; it is one of auto, torch, onnx"):
        read_settings(recipe, ["--data.root=x", "--probe.runtime=tensorrt"])


def test_train_makes_the_probe_that_the_command_makes(people, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(
        ["train", "--config", RECIPE, f"--data.root={people}", *OPTIONS, "--data.held_out=bob", f"--data.group={GROUP}"]
    )
    run = Path("runs") / f"{people.name}-probe"
    shutil.copytree(run / "encodings", tmp_path / "b" / "encodings")
    by_command(people, tmp_path / "b", "--held_out", "bob", "--group", GROUP)
    one, other = load_scores(run / "scores.npz"), load_scores(tmp_path / "b" / "scores.npz")
    assert one.ids == other.ids
    assert all("bob_" in id for id in one.ids)
    assert np.array_equal(one.values, other.values)
    assert load_results(run)["heads"] == load_results(tmp_path / "b")["heads"]
    assert (run / "config.yaml").read_text().replace(str(tmp_path / run), "") == (
        tmp_path / "b" / "config.yaml"
    ).read_text().replace(str(tmp_path / "b"), "")


@pytest.mark.slow
def test_folds_put_a_probe_beside_a_training(people, tmp_path, capsys, monkeypatch):
    encoded, features_of = [], task.features_of

    def counting(*args):
        encoded.append(len(args[1]))
        return features_of(*args)

    monkeypatch.setattr(task, "features_of", counting)
    out = tmp_path / "out"
    command = ["folds", "--config", "clip/synthetic/tsn_resnet_tiny", RECIPE, f"--data.root={people}",
               f"--data.group={GROUP}", "--data.fractions=[1,0,0]", f"--run={out}", *OPTIONS, *TRAINING,
               "--probe=false", "--fuse", "tsn_resnet_tiny+probe"]  # fmt: skip
    cli.main(command)
    printed = capsys.readouterr().out
    assert "the probe probe does not" in printed
    assert "s of CPU time in all" in printed
    assert sum(encoded) == len(load_clips(people))  # once for all folds
    results = load_results(out)
    assert {"tsn_resnet_tiny", "probe", "tsn_resnet_tiny + probe"} <= set(results)
    assert results["probe"]["videos"] == results["tsn_resnet_tiny"]["videos"] == 12
    assert "seconds an epoch" not in results["probe"]
    for person in ("ann", "bob", "cat"):
        probe, trained = (load_scores(out / name / person / "scores.npz") for name in ("probe", "tsn_resnet_tiny"))
        assert probe.ids == trained.ids
    by_command(people, tmp_path / "alone", "--group", GROUP, "--folds")
    alone = load_results(tmp_path / "alone")
    assert results["probe"]["mean top-1"] == alone["mean_top1"]
    assert "probe" in (out / "report.html").read_text()
    encoded.clear()
    cli.main(command)
    assert not encoded


@pytest.mark.slow
def test_compare_puts_a_probe_beside_a_training(people, tmp_path):
    out = tmp_path / "out"
    cli.main(["compare", "--config", RECIPE, "clip/synthetic/tsn_resnet_tiny", f"--data.root={people}", "--seeds", "0",
              "1", f"--data.group={GROUP}", "--data.held_out=cat", "--data.fractions=[1,0,0]", f"--run={out}", *OPTIONS,
              *TRAINING])  # fmt: skip
    results = load_results(out)
    assert results["probe"]["spread"] == 0
    assert results["probe"]["seeds"] == results["tsn_resnet_tiny"]["seeds"] == 2
    probe, trained = (load_scores(out / name / "seed1" / "scores.npz") for name in ("probe", "tsn_resnet_tiny"))
    assert probe.ids == trained.ids
    assert all("cat_" in id for id in probe.ids)
    assert [*(out / "encodings").iterdir()]
    assert not (out / "probe" / "seed0" / "encodings").exists()
    assert results["probe"]["mean test_top1"] == load_results(out / "probe" / "seed0")["test"]["test_top1"]


def test_what_a_recipe_of_a_probe_does_not_take_is_refused(people, tmp_path, capsys):
    root = f"--data.root={people}"
    message = fails(["train", "--config", RECIPE, root, "--trainer.max_epochs=3", "--model.freeze=none"], capsys)
    assert "--trainer.max_epochs, --model.freeze means nothing to the probe of" in message
    assert "its options are --run and --probe.network" in message
    message = fails(["train", "--config", RECIPE, "--config", "debug", root], capsys)
    assert "cannot be joined with other configurations" in message
    assert "which vidact test does not take" in fails(["test", "--config", RECIPE, "--ckpt=x"], capsys)
    assert "which --find_lr does not take" in fails(["train", "--config", RECIPE, root, "--find_lr"], capsys)
    message = fails(["train", "--config", RECIPE, root, "--probe.heads=[svm]"], capsys)
    assert "probe.heads has svm; the heads are linear, knn, prototype, attentive" in message
    assert "--probe.size is 'wide'" in fails(["train", "--config", RECIPE, root, "--probe.size=wide"], capsys)
    assert "data/folder" in fails(["train", "--config", RECIPE, "--probe.weights=none"], capsys)
    own = tmp_path / "own.yaml"
    own.write_text("probe: {network: resnet_tiny, depth: 3}\n")
    assert "a probe has no probe.depth; it has probe.network" in fails(["train", "--config", str(own), root], capsys)
    own.write_text("probe: {network: resnet_tiny, weights: null}\n")
    assert "names no data: --data.root" in fails(["train", "--config", str(own)], capsys)


def test_tables_of_probes_that_cannot_be_made_are_refused(people, tmp_path, capsys, monkeypatch):
    out = ["--run", str(tmp_path / "out"), f"--data.root={people}"]
    message = fails(
        ["folds", "--config", RECIPE, *out, *OPTIONS, f"--data.group={GROUP}", "--trainer.max_epochs=1"], capsys
    )
    assert "--trainer.max_epochs would change nothing, since only probes are put side by side" in message
    assert "folds need --group" in fails(["folds", "--config", RECIPE, *out, *OPTIONS], capsys)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "run it without torchrun" in fails(["train", "--config", RECIPE, *out, *OPTIONS], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_tables_with_a_training_that_cannot_be_made_are_refused_before_it(people, tmp_path, capsys):
    out = ["--run", str(tmp_path / "out"), f"--data.root={people}"]
    table = ["--config", "clip/synthetic/tsn_resnet_tiny", RECIPE, *out, *OPTIONS, *TRAINING]
    message = fails(["compare", *table, "--data.test_split=val", "--data.fractions=[0.4,0.3,0.3]"], capsys)
    assert "a probe scores the split test" in message
    message = fails(["folds", *table, f"--data.group={GROUP}", "--data.time_origin=file"], capsys)
    assert "a probe counts the seconds of clips from the first frame" in message
    message = fails(["folds", *table, f"--data.group={GROUP}", "--probe.network=trn_resnet_tiny"], capsys)
    assert "gives no features of images or clips" in message
    message = fails(["folds", *table, f"--data.group={GROUP}", "--probe.heds=knn"], capsys)
    assert "a probe has no --probe.heds; it has --probe.network, --probe.weights" in message
    without = [word for word in table if word != RECIPE]
    message = fails(["folds", *without, f"--data.group={GROUP}"], capsys)
    assert "--probe.network, --probe.weights, --probe.size, --probe.frames changes the recipe of a probe" in message
    assert not (tmp_path / "out").exists()
