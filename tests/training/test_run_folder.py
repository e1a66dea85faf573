"""Where a run lies: found from anywhere, made anew by its own configuration, and absent where nothing was learned."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from vidact import cli
from vidact.data.synthetic import write_clips
from vidact.files import is_in_use
from vidact.results.figures import load_results
from vidact.text.spelling import in_one_spelling
from vidact.training import run as training
from vidact.training.config import choose_config
from vidact.training.lightning import make_cli
from vidact.training.run import train

pytestmark = pytest.mark.usefixtures("without_pages")

NAMES = ["moving left", "moving right", "pulsing cross"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips, runs/x that learned them, and the options of the run."""
    folder = tmp_path_factory.mktemp("made") / "project"
    write_clips(folder / "my_clips", splits={"train": 2, "val": 1, "test": 1}, seed=0, classes=NAMES)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        train([*SMALL, "--data.root=my_clips", "--run=runs/x"])
    return folder


SMALL = ["--config", "debug", "--trainer.enable_progress_bar=false", "--model.network.size=32"]


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    """The same folder in another place; the first one is out of reach."""
    shutil.copytree(project, tmp_path / "project")
    hidden = project.with_name("hidden")
    project.rename(hidden)
    yield tmp_path / "project"
    hidden.rename(project)


def top1_when_tested(config: Path) -> float:
    """Top-1 of testing that configuration alone, which is given to nothing else."""
    results = config.parent / "results.json"
    results.unlink()
    cli.main(["test", "--config", str(config)])
    return load_results(config.parent)["test"]["test_top1"]


def old_style(config: Path) -> None:
    """As configurations were written before: paths from where the command ran."""
    content = yaml.safe_load(config.read_text())
    content["run"] = content["trainer"]["default_root_dir"] = "runs/x"
    content["data"]["init_args"]["root"] = "my_clips"
    config.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("style", ["new", "old"])
@pytest.mark.parametrize("moved", ["nothing", "run", "project"])
def test_a_run_is_tested_from_elsewhere(
    style: str, moved: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request
) -> None:
    if moved == "project":
        project = request.getfixturevalue("copied")
    else:
        shutil.copytree(project, tmp_path / "another")
        project = tmp_path / "another"
        content = yaml.safe_load((project / "runs/x/config.yaml").read_text())
        old = content["run"]
        text = (project / "runs/x/config.yaml").read_text().replace(str(Path(old).parents[1]), str(project))
        (project / "runs/x/config.yaml").write_text(text)
    run = project / "runs/x"
    if style == "old":
        old_style(run / "config.yaml")
    known = load_results(run)["test"]["test_top1"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    if moved == "run":
        run = run.rename(elsewhere / "y")
        if style == "old":  # it says no more than a name beside the place where the command ran
            monkeypatch.chdir(project)
    assert top1_when_tested(run / "config.yaml") == known
    assert Path(load_results(run)["test"]["checkpoint"]).resolve() == (run / "checkpoints/best.ckpt").resolve()
    assert not (elsewhere / "runs").exists()


def test_clips_of_the_same_name_elsewhere_are_not_taken(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "p")
    old_style(tmp_path / "p/runs/x/config.yaml")
    write_clips(tmp_path / "my_clips", splits={"train": 1, "test": 2}, seed=1, classes=NAMES)
    monkeypatch.chdir(tmp_path)
    top1_when_tested(tmp_path / "p/runs/x/config.yaml")
    assert load_results(tmp_path / "p/runs/x")["test"]["videos"] == len(NAMES)


def test_options_say_another_place_all_the_same(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project / "my_clips", tmp_path / "others")
    monkeypatch.chdir(tmp_path)
    config = project / "runs/x/config.yaml"
    before = (project / "runs/x/results.json").read_text()
    training.test(
        ["--config", str(config), "--data.root=others", "--run=scored", f"--ckpt={config.parent}/checkpoints/last.ckpt"]
    )
    assert load_results("scored")["test"]["videos"] == len(NAMES)
    assert (project / "runs/x/results.json").read_text() == before


def test_the_configuration_of_a_run_is_the_same_run_again_in_a_new_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in (project / "runs/x").rglob("*") if path.is_file()}
    run = train(["--config", str(project / "runs/x/config.yaml")])
    assert run.resolve().parent == (tmp_path / "runs/my_clips-tsm_resnet_tiny").resolve()
    assert {path: path.read_bytes() for path in (project / "runs/x").rglob("*") if path.is_file()} == before
    ours, theirs = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (run, project / "runs/x"))
    for config in (ours, theirs):
        config["run"] = config["trainer"]["default_root_dir"] = None
    assert ours == theirs
    figures = [load_results(folder)["test"] for folder in (run, project / "runs/x")]
    assert figures[0]["test_loss"] == figures[1]["test_loss"]
    named = train(["--config", str(project / "runs/x/config.yaml"), f"--run={tmp_path / 'named'}"])
    assert named == tmp_path / "named"


def test_a_run_goes_on_where_it_lies(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project / "runs/x", tmp_path / "y")
    monkeypatch.chdir(tmp_path)
    run = train(["--config", "y/config.yaml", "--ckpt", "last", "--trainer.max_epochs=2"])
    assert run.resolve() == (tmp_path / "y").resolve()
    assert not (tmp_path / "runs").exists()
    assert [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]][-1] == "2"


def test_run_folder_is_another_name_of_run(project: Path, tmp_path: Path) -> None:
    """torchrun takes --run, wherever it stands, for an abbreviation of its own options."""
    args = [*SMALL, f"--data.root={project}/my_clips"]
    for asked in (["--run_folder", str(tmp_path / "a")], [f"--run_folder={tmp_path / 'a'}"]):
        assert make_cli([*args, *asked], "train").config.run == str(tmp_path / "a")


# ---- what fails leaves nothing


@pytest.mark.parametrize(
    "options",
    [
        ["--model.network.num_classes=5"],  # found out when everything is set up
        ["--data.batch_size=0"],
        ["--model.network.sise=3"],
        ["--ckpt=last"],
        ["--data.root=nowhere"],
        ["--model.init_from=nowhere.ckpt"],
        ["--trainer.accelerator=gpu"],
        ["--run=deep/er/run", "--model.network.num_classes=5"],
    ],
    ids=str,
)
def test_a_training_that_fails_leaves_no_folder(
    options: list[str], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, Exception)):
        cli.main(["train", *SMALL, f"--data.root={project}/my_clips", *options])
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_fails_leaves_what_was_there(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        cli.main(
            ["train", *SMALL, f"--data.root={project}/my_clips", f"--run={tmp_path}", "--model.network.num_classes=5"]
        )
    assert "num_classes is 5" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "logs").is_dir()


@pytest.mark.parametrize(
    "command",
    [
        "test --config debug --data.root={clips}",
        "test --config debug --data.root={clips} --ckpt=nowhere.ckpt --run=new",
        "test --config {run}/config.yaml --data.root=nowhere --run=new --ckpt={run}/checkpoints/best.ckpt",
        "folds --config debug --data.root={clips} --run=new",
        "folds --config debug --data.root={clips} --data.group=(.).mp4$ --model.network.num_classes=7 --run=new",
        "compare --config debug --data.root={clips} --run=new --model.network.num_classes=7",
        "compare --config debug --data.root=nowhere --run=new",
        "extract features --videos nowhere --out new",
        "extract features --videos {clips} --out new --network nothing",
        "extract flow --videos nowhere --out new",
        "extract flow --videos {clips} --out new --method nothing",
        "prepare transcode --data nowhere --out new",
        "prepare transcode --data {clips} --out new --height 3",
        "prepare pack --data nowhere --out new",
        "predict --checkpoint nowhere.ckpt {clips} --annotate new",
        "predict --checkpoint {run}/checkpoints/best.ckpt nowhere --annotate new",
        "export --checkpoint nowhere.ckpt --out new/x.onnx",
        "stream --checkpoint nowhere.ckpt --source x.mp4 --no-window --events new/events.csv --snapshots new/shots",
        "stream --checkpoint {run}/checkpoints/best.ckpt --source x.mp4 --no-window --events new/e.csv",
        "fuse nowhere/scores.npz {run}/scores.npz --out new",
        "convert --origin tsm --file nowhere.pth --out new/y.safetensors",
        "report new",
    ],
)
def test_no_command_that_fails_leaves_a_folder(
    command: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, Exception)):
        cli.main(command.format(clips=project / "my_clips", run=project / "runs/x").split())
    assert list(tmp_path.iterdir()) == []


# ---- without a configuration


def recipe(args: list[str], capsys: pytest.CaptureFixture) -> str:
    """What is said of the choice, when the network is built and nothing trained."""
    make_cli([*args, "--device=cpu"], "train")
    return capsys.readouterr().out


def test_class_folders_are_trained_with_the_recipe_for_them(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "recipe: clip/folder/tsm_causal_mobilenetv2"
    fast = ["--model.network.weights=null"]
    said = recipe([f"--data.root={project}/my_clips", *fast], capsys)
    assert f"{words}, since {project}/my_clips holds clips.csv. Another one: --config NAME" in said
    folders = tmp_path / "folders"
    for clip in (project / "my_clips").rglob("*.mp4"):
        (folders / clip.parent.name).mkdir(parents=True, exist_ok=True)
        (folders / clip.parent.name / clip.name).symlink_to(clip)
    said = recipe(["--data.root", "folders", *fast], capsys)
    assert f"{words}, since folders holds one folder of videos a class (3)" in said
    assert "without fine-tuning, as good on few clips: vidact probe folders\n" in said


def test_another_network_gets_the_recipe_that_freezes_nothing(project: Path, capsys: pytest.CaptureFixture) -> None:
    """The stages that the recipe of causal TSM freezes are those of MobileNetV2; four are a whole ResNet."""
    network = ["--model.network=vidact.models.tsn_resnet_tiny", "--model.network.weights=null"]
    cli = make_cli([f"--data.root={project}/my_clips", *network, "--device=cpu"], "train")
    assert "recipe: clip/folder/tsm_mobilenetv2, since" in capsys.readouterr().out
    assert (cli.config.model.init_args.freeze, cli.config.model.init_args.freeze_norms) == ("none", "none")


def test_events_and_features_are_trained_with_the_recipe_for_them(
    noise_sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    said = recipe([f"--data.root={noise_sequences}"], capsys)
    assert f"recipe: online/fir/miniroad, since {noise_sequences} holds events.csv and features" in said
    shutil.copytree(noise_sequences, tmp_path / "a")
    (tmp_path / "a/features").rename(tmp_path / "elsewhere")
    assert "holds events.csv" in recipe([f"--data.root={tmp_path}/a", f"--data.features={tmp_path}/elsewhere"], capsys)


def test_what_cannot_be_chosen_is_said(
    noise_sequences: Path, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["train", *args])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    shutil.copytree(noise_sequences, tmp_path / "a", ignore=shutil.ignore_patterns("features"))
    assert "a holds events.csv and no features of its videos yet: vidact extract features --videos a" in fails(
        "--data.root=a"
    )
    (tmp_path / "empty").mkdir()
    assert "empty holds neither clips.csv nor events.csv nor class folders with videos" in fails("--data.root=empty")
    assert "nowhere does not exist" in fails("--data.root=nowhere")
    assert "name a configuration with --config, or the folder of your data with" in fails()
    shutil.copy(noise_sequences / "events.csv", tmp_path / "events.csv")
    shutil.copytree(project / "my_clips", tmp_path / "both")
    shutil.copy(noise_sequences / "events.csv", tmp_path / "both")
    assert "both holds clips.csv and events.csv" in fails("--data.root=both")
    (tmp_path / "single").mkdir()
    clips = sorted((project / "my_clips").glob(f"{NAMES[0]}/*.mp4"))
    (tmp_path / "single" / "jump").symlink_to(clips[0].parent)
    words = fails("--data.root=single")
    assert "single has only one class, 'jump'; a classifier needs at least two" in words
    assert "neither" not in words
    assert not (tmp_path / "runs").exists()
    assert os.listdir(tmp_path / "empty") == []


def test_one_clip_a_class_is_noted_before_training(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (project / "my_clips" / "clips.csv").read_text().splitlines()[1:]
    for number in (1, 2):
        root = tmp_path / f"clips{number}"
        root.mkdir()
        chosen = [row for name in NAMES for row in [row for row in rows if f",{name}" in row][:number]]
        lines = [f"{project / 'my_clips'}/{row.split(',')[0]},{row.split(',')[1]},train" for row in chosen]
        (root / "clips.csv").write_text("\n".join(["path,label,split", *lines]))
        train([*SMALL, f"--data.root={root}", f"--run={tmp_path / f'run{number}'}", "--trainer.fast_dev_run=true"])
        printed = capsys.readouterr().out
        assert ("none of the 3 classes has two training clips: a network learns these clips by heart" in printed) == (
            number == 1
        )


@pytest.mark.parametrize("asked", ["--help", "-h", "--data.help", "--model.help=vidact.tasks.ClipClassification"])
def test_who_asks_for_help_needs_no_data(asked: str) -> None:
    assert choose_config([asked]) == [asked]


def test_bare_help_of_a_part_lists_its_options(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--data.help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "--data.epoch_windows (default: 1)" in said
    assert "--model" not in said


def test_options_may_be_spelt_with_hyphens() -> None:
    words = ["--data.num-workers=2", "--trainer.max-epochs", "-1", "--run-folder=a-b", "--data.root", "my-clips"]
    assert in_one_spelling(words) == [
        "--data.num_workers=2", "--trainer.max_epochs", "-1", "--run=a-b", "--data.root", "my-clips"
    ]  # fmt: skip


def test_a_folder_is_in_use_while_a_training_writes_to_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that ``vidact push`` refuses it."""
    made = make_cli([*SMALL, f"--data.root={project / 'my_clips'}", f"--run={tmp_path / 'y'}"], "train")
    marks = []

    def fit(*_: object, **__: object) -> None:
        marks.append(is_in_use(tmp_path / "y"))
        raise KeyboardInterrupt

    monkeypatch.setattr(made.trainer, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        training.learn(made, "vidact train")
    assert marks == [True]
    assert not is_in_use(tmp_path / "y")
