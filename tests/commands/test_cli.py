"""What a user types, right and wrong: the words of the answers are the test."""

import importlib
import json
import os
import re
import runpy
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import fails

from vidact import __version__, cli, hub
from vidact.commands import compare, stream
from vidact.data.synthetic import write_clips
from vidact.results.figures import load_results
from vidact.tasks import ClipClassification
from vidact.training import repeat
from vidact.training.config import expand_config
from vidact.training.lightning import make_cli
from vidact.training.repeat import fold_folder, fold_parts, train_once
from vidact.training.run import train

SMALL = [
    "--config", "debug", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--model.network.size=32",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 2, "val": 1, "test": 1}, seed=0)
    return folder


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    return train([*SMALL, f"--data.root={root}", "--run", str(tmp_path_factory.mktemp("runs") / "a")])


def test_a_test_of_nothing_says_what_to_name(capsys: pytest.CaptureFixture) -> None:
    assert "nothing says what to test: name the config.yaml of a run with --config" in fails(["test"], capsys)


def test_a_config_of_a_run_that_is_not_there_is_no_shipped_one(capsys: pytest.CaptureFixture) -> None:
    words = fails(["test", "--config", "runs/none/config.yaml"], capsys)
    assert "there is no file runs/none/config.yaml; name the config.yaml in the folder of a run" in words
    assert "vidact brings" not in words


def test_a_run_leaves_everything_behind(run: Path) -> None:
    results = load_results(run)
    assert {"test_top1", "test_top5", "test_mean_class_accuracy", "views", "average"} <= set(results["test"])
    assert results["command"].startswith("vidact train --config debug")
    for name in (
        "config.yaml",
        "metrics.csv",
        "scores.npz",
        "report.html",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ):
        assert (run / name).is_file(), name
    assert list((run / "plots").glob("*.png"))


@pytest.mark.usefixtures("without_pages")
def test_testing_again_gives_the_same_figures(run: Path) -> None:
    before = load_results(run)["test"]
    cli.main(["test", "--config", str(run / "config.yaml"), "--ckpt", "best", "--data.views", "2x3"])
    cli.main(["test", "--config", str(run / "config.yaml"), "--ckpt", "best"])
    after = load_results(run)
    assert after["test 2x3"]["views"] == "2x3"
    assert after["test"]["test_top1"] == before["test_top1"]


@pytest.mark.usefixtures("without_pages")
def test_a_checkpoint_is_scored_on_its_classes_however_they_are_written(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The lists of another machine: UTF-16, semicolons, no-break spaces in the names; another letter case is another
    class.
    """
    (tmp_path / "root.txt").write_text(str(root))
    rows, names = ((root / name).read_text().replace(" ", "\u00a0") for name in ("clips.csv", "classes.txt"))
    assert "\u00a0" in names
    (tmp_path / "clips.csv").write_text(rows.replace(",", ";"), encoding="utf-16")
    (tmp_path / "classes.txt").write_text(names, encoding="utf-16")
    asked = ["test", "--config", str(run / "config.yaml"), "--data.root", str(tmp_path), "--run", str(tmp_path / "out")]
    cli.main([*asked, "--ckpt", str(run / "checkpoints/best.ckpt")])
    assert load_results(tmp_path / "out")["test"]["test_top1"] == load_results(run)["test"]["test_top1"]
    capsys.readouterr()
    first = names.splitlines()[0]
    (tmp_path / "clips.csv").write_text(rows.replace(f",{first},", f",{first.title()},"))
    (tmp_path / "classes.txt").write_text(names.replace(first, first.title()))
    plain = first.replace("\u00a0", " ")
    words = fails([*asked, "--ckpt", str(run / "checkpoints/best.ckpt")], capsys)
    assert f"they differ in {plain.title()}, {plain}" in words


def test_predict_prints_labels_scores_and_seconds(run: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    video = next(root.rglob("*.mp4"))
    cli.main(["predict", "--checkpoint", str(run / "checkpoints/best.ckpt"), str(video), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["labels"]) == 5
    assert answer["end_s"] > answer["start_s"] >= 0
    assert answer["took_s"] > 0


def test_predict_draws_on_the_video(run: Path, root: Path, tmp_path: Path) -> None:
    from vidact import open_video

    video = next(root.rglob("*.mp4"))
    out = tmp_path / "drawn.mp4"
    cli.main(["predict", "--checkpoint", str(run / "checkpoints/best.ckpt"), str(video), "--annotate", str(out)])
    with open_video(video) as before, open_video(out) as after:
        assert len(before) == len(after)
        assert (before.frames_at([0]).images.float() - after.frames_at([0]).images.float()).abs().max() > 60


def test_predict_writes_over_no_video(run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    video = clips / "a.mp4"
    video.write_bytes(next(root.rglob("*.mp4")).read_bytes())
    (clips / "a.avi").write_bytes(b"another")
    (tmp_path / "link.mp4").symlink_to(video)
    before = video.read_bytes()
    for path, out, words in (
        (video, video, "is the video itself; give another name"),
        (video, tmp_path / "link.mp4", "is the video itself"),
        (video, tmp_path, "is a folder; for one video give the file to write"),
        (video, tmp_path / "x.webm", "a video that can be written ends in .mp4, .m4v, .mov, .mkv, .avi"),
        (clips, clips, "lies in the folder of the videos"),
        (clips, clips / "drawn", "lies in the folder of the videos"),
        (clips, video, "is a file; for a folder of videos give a folder"),
        (clips, tmp_path / "drawn", "a.avi and .*a.mp4 would both become .*a.mp4"),
    ):
        args = ["predict", "--checkpoint", str(run / "checkpoints/best.ckpt"), str(path), "--annotate", str(out)]
        assert re.search(words, fails(args, capsys)), out
    assert video.read_bytes() == before
    assert not (tmp_path / "drawn").exists()


def test_predict_takes_a_folder_of_images_for_a_video(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from PIL import Image

    from vidact import open_video

    video = next(root.rglob("*.mp4"))
    (tmp_path / "clips/images").mkdir(parents=True)
    with open_video(video) as frames:
        for i, image in enumerate(frames.frames_at(range(len(frames))).images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"clips/images/{i:04d}.png")
    answers = []
    for path in (video, tmp_path / "clips/images", tmp_path / "clips"):
        cli.main(["predict", "--checkpoint", str(run / "checkpoints/best.ckpt"), str(path), "--json"])
        answers.append(json.loads(capsys.readouterr().out)["labels"])
    assert answers[0] == answers[1] == answers[2]
    assert "top is 0; at least one label is given" in fails(
        ["predict", "--checkpoint", str(run / "checkpoints/best.ckpt"), str(video), "--top", "0"], capsys
    )


def test_predict_goes_on_past_a_broken_file(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    video = next(root.rglob("*.mp4"))
    (tmp_path / "good.mp4").write_bytes(video.read_bytes())
    (tmp_path / "bad.mp4").write_text("hello")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["predict", "--checkpoint", str(run / "checkpoints/best.ckpt"), str(tmp_path)])
    assert stopped.value.code == 1
    out = capsys.readouterr()
    assert "good.mp4" in out.out
    assert "bad.mp4" in out.err


def test_version_and_help(capsys: pytest.CaptureFixture) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"vidact {__version__}\n"
    cli.main(["--help"])
    assert "doctor" in capsys.readouterr().out


def test_without_a_command_three_lines_show_how_to_start(capsys: pytest.CaptureFixture) -> None:
    cli.main([])
    *lines, blank, end = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert (blank, end) == ("", "vidact demo needs no videos, camera or network; vidact --help lists all commands.")
    assert "webcam" in lines[0]
    for line in lines:  # each of them is a command that its parser accepts
        name, *words = re.split(r"\s{2,}", line.strip())[0].split()[1:]
        importlib.import_module(f"vidact.commands.{name}").parser().parse_args(words)


def test_the_network_of_the_first_lines_is_published_and_streams() -> None:
    entry = hub.PUBLISHED["movinet_a0_stream"]
    assert cli.first_steps_text().count(entry.name) == 2
    assert entry.streams
    for text in (cli.first_steps_text(), stream.NO_CHECKPOINT):
        assert f"{len(hub.class_names(entry.classes))} actions" in text
        assert f"{entry.megabytes} MB" in text


@pytest.mark.parametrize("command", ["predict", "stream", "train", "probe", "extract", "demo"])
def test_threads_wait_without_a_loop(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is set before the command imports PyTorch (test_help.py); one that the user has set stays."""
    policies: list[str] = []
    module = importlib.import_module(f"vidact.commands.{command}")
    monkeypatch.setattr(module, "main", lambda args: policies.append(os.environ["OMP_WAIT_POLICY"]))
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    cli.main([command])
    monkeypatch.delenv("OMP_WAIT_POLICY")
    cli.main([command])
    assert policies == ["ACTIVE", "PASSIVE"]


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert "did you mean train?" in fails(["trian"], capsys)


def test_the_commands_follow_a_mark(capsys: pytest.CaptureFixture) -> None:
    assert "no command 'blah'. Commands: train, test" in fails(["blah"], capsys)
    assert "no command 'tran'; did you mean train? Commands: train, test" in fails(["tran"], capsys)


@pytest.mark.usefixtures("without_pages")
@pytest.mark.parametrize("duration", [[], ["--trainer.callbacks.duration=00:00:10:00"]], ids=["bare", "duration"])
def test_a_callback_whose_defaults_are_names_of_their_own(duration: list[str], root: Path, tmp_path: Path) -> None:
    """Lightning's Timer counts in ``Interval.step``; the run's config.yaml says it as text, and trains again."""
    args = [*SMALL, f"--data.root={root}", "--trainer.callbacks=Timer", *duration]
    config = train([*args, "--run", str(tmp_path / "a")]) / "config.yaml"
    assert "interval: step" in config.read_text()
    assert (train(["--config", str(config), "--run", str(tmp_path / "b")]) / "config.yaml").is_file()


def test_an_unknown_config_is_answered_with_near_ones(capsys: pytest.CaptureFixture) -> None:
    assert "clip/folder/tsm_mobilenetv2" in fails(["train", "--config", "clip/folder/tsm_mobilenet"], capsys)


def test_a_missing_data_folder(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    words = fails(["train", *SMALL, "--data.root", str(tmp_path / "nowhere"), "--run", str(tmp_path / "r")], capsys)
    assert "nowhere" in words
    assert "does not exist" in words


def test_a_misspelt_key(capsys: pytest.CaptureFixture, root: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    text = (Path(__file__).parents[2] / "configs" / "debug.yaml").read_text()
    config.write_text(text.replace("batch_size: 4", "batchsize: 4"))
    assert "batchsize" in fails(["train", "--config", str(config), f"--data.root={root}"], capsys)


def test_num_classes_that_disagrees(capsys: pytest.CaptureFixture, root: Path, tmp_path: Path) -> None:
    args = ["train", *SMALL, f"--data.root={root}", "--model.network.num_classes=3", "--run", str(tmp_path)]
    words = fails(args, capsys)
    assert "num_classes is 3" in words
    assert "has 1" in words


def test_a_run_folder_that_cannot_be_written(capsys: pytest.CaptureFixture, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    args = ["train", *SMALL, f"--data.root={root}", "--run", str(tmp_path / "file" / "run")]
    assert "cannot write to the run folder" in fails(args, capsys)


def test_no_write_permission(
    capsys: pytest.CaptureFixture, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)  # a superuser may write anywhere, so the refusal is played
    words = fails(["train", *SMALL, f"--data.root={root}", "--run", str(tmp_path / "run")], capsys)
    assert "cannot write to the run folder" in words
    assert "--run FOLDER" in words


def test_a_finished_run_is_not_overwritten(capsys: pytest.CaptureFixture, run: Path, root: Path) -> None:
    before = (run / "results.json").read_text()
    assert "--ckpt last" in fails(["train", *SMALL, f"--data.root={root}", "--run", str(run)], capsys)
    assert (run / "results.json").read_text() == before


def test_resuming_without_a_checkpoint(capsys: pytest.CaptureFixture, root: Path, tmp_path: Path) -> None:
    args = ["train", *SMALL, f"--data.root={root}", "--run", str(tmp_path / "r"), "--ckpt", "last"]
    assert "no checkpoint" in fails(args, capsys)


@pytest.mark.usefixtures("without_pages")
def test_ctrl_c_leaves_the_newest_epoch_not_the_best(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    log = ClipClassification.log

    def worse_and_worse(task: ClipClassification, name: str, value: float, **options: Any) -> None:
        log(task, name, -float(task.current_epoch) if name == "val_score" else value, **options)

    def ctrl_c(task: ClipClassification) -> None:
        if task.current_epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ClipClassification, "log", worse_and_worse)
    monkeypatch.setattr(ClipClassification, "on_train_epoch_start", ctrl_c)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["train", *SMALL, f"--data.root={root}", f"--run={tmp_path / 'a run'}", "--trainer.max_epochs=6"])
    finally:
        signal.signal(signal.SIGINT, handler)  # which Lightning has taken away
    assert stopped.value.code == 130
    assert f"continue with: vidact train --config '{tmp_path}/a run/config.yaml' --ckpt last" in capsys.readouterr().err
    epochs = {
        name: torch.load(tmp_path / f"a run/checkpoints/{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs == {"best": 0, "last": 2}


def test_clips_without_test_and_validation_train_all_the_same(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = (root / "clips.csv").read_text().splitlines()
    table = [rows[0], *(f"{root}/{row}" for row in rows[1:] if row.endswith("train"))]
    (tmp_path / "clips.csv").write_text("\n".join(table) + "\n")
    run = train([*SMALL, f"--data.root={tmp_path}", "--run", str(tmp_path / "run"), "--trainer.max_epochs=2"])
    assert "no split test and no split val: nothing will be scored" in capsys.readouterr().out
    assert "test" not in load_results(run)
    assert (run / "report.html").is_file()
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--data.batch_size=x", "--data.batch_size: expected int. Got value: x"),
        ("--data.batchsize=3", "--data.batchsize: vidact.data.ClipData has no such option; did you mean batch_size?"),
        ("--model.network.sise=3", "--model.network.sise: vidact.models.tsm_resnet_tiny has no such option; did you"),
        (
            "--data.augment.crop=silly",
            "--data.augment.crop: expected 'multiscale', 'resized', 'none'. Got value",
        ),
        ("--data.sampler=Nope", "--data.sampler: there is no Nope; give a class's full name"),
        ("--model.network=vidact.models.nope", "--model.network: module 'vidact.models' has no attribute 'nope'"),
        ("--trainer.max_epochs=x", "--trainer.max_epochs: expected int; it is 'x'"),
        ("--data.views=0x3", "vidact train: views is '0x3'; write clips x crops"),
    ],
)
def test_a_wrong_option_is_said_in_plain_words(
    option: str, words: str, capsys: pytest.CaptureFixture, root: Path, tmp_path: Path
) -> None:
    said = fails(["train", *SMALL, f"--data.root={root}", "--run", str(tmp_path), option], capsys)
    assert words in said
    assert "Given value" not in said


class Runs:
    """A pickle of it would run a command."""

    def __reduce__(self):
        return os.system, ("true",)


def test_a_run_goes_on_from_no_program(capsys: pytest.CaptureFixture, root: Path, tmp_path: Path) -> None:
    """What a checkpoint asks for is not run, and nobody is told how to run it."""
    torch.save({"state_dict": {}, "x": Runs()}, tmp_path / "last.ckpt")
    args = ["train", *SMALL, f"--data.root={root}", f"--run={tmp_path / 'r'}", f"--ckpt={tmp_path / 'last.ckpt'}"]
    words = fails(args, capsys)
    assert "last.ckpt cannot be read as weights: it asks for posix.system" in words
    assert "weights_only" not in words


def test_a_checkpoint_that_is_not_ours(capsys: pytest.CaptureFixture, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    other.write_bytes(b"junk")
    words = fails(["predict", "--checkpoint", str(other), str(next(root.rglob("*.mp4")))], capsys)
    assert "other.ckpt" in words


@pytest.mark.parametrize("tool", sorted((Path(__file__).parents[2] / "tools").glob("*.py")), ids=lambda p: p.name)
def test_every_tool_has_help(tool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(tool), run_name="__main__")
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_a_finished_run_stands_for_no_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(args: list[str], cache: None) -> None:
        trained.append(args)
        (tmp_path / "run/results.json").write_text("{}")

    monkeypatch.setattr(repeat, "train", train)
    config = tmp_path / "a.yaml"
    config.write_text("trainer: {max_epochs: 3}\n")
    first = ["--config", str(config), "--data.root", "clips", "--seed_everything=1"]
    train_once(tmp_path / "run", first, "a, seed 1")
    assert trained == [[*first, f"--run={tmp_path}/run"]]
    same = ["--config", str(config), "--seed_everything", "1", "--data.root=clips", "--data.num_workers=4"]
    train_once(tmp_path / "run", same, "a, seed 1")
    with pytest.raises(ValueError, match=r"run was made with other settings .*: option\.data\.root clips and others"):
        train_once(tmp_path / "run", [*first[:3], "others", "--seed_everything=1"], "a, seed 1")
    config.write_text("trainer: {max_epochs: 4}\n")
    with pytest.raises(ValueError, match=r"config\.trainer\.max_epochs 3 and 4 \(there and asked\)\. Choose another"):
        train_once(tmp_path / "run", first, "a, seed 1")
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seeds", "0", "0"], "seeds are [0, 0]; give numbers from 0, each once"),
        (["--seeds", "-1"], "seeds are [-1]; give numbers"),
        (["--model.nonsense=3"], "has no such option"),
    ],
)
def test_compare_refuses_before_it_trains(
    more: list[str], words: str, noise_sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--config", "online/fir/frame_classifier", f"--data.root={noise_sequences}", f"--run={tmp_path / 'runs'}"]
    assert words in fails(["compare", *args, *more], capsys)
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.parametrize("command", ["compare", "folds"])
@pytest.mark.parametrize(
    ("text", "words"), [("", "Unexpected config"), ("trainer: 5\n", "required: model"), ("a: [\n", "expected")]
)
def test_a_configuration_that_is_none_is_told_in_words(
    command: str, text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--config", str(tmp_path / "own.yaml"), f"--run={tmp_path / 'runs'}"])
    assert left.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("without_pages")
def test_compare_without_a_test_split(noise_sequences: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(noise_sequences, root)
    (root / "videos.csv").write_text(re.sub(r",test\b", ",train", (root / "videos.csv").read_text()))
    out = tmp_path / "runs"
    compare.main([
        "--config", "online/fir/frame_classifier", "--seeds", "3", f"--data.root={root}", "--trainer.max_epochs=1",
        "--device=cpu", "--trainer.enable_progress_bar=false", f"--run={tmp_path / 'runs'}",
    ])  # fmt: skip
    assert "mean val_map" in load_results(out)["frame_classifier"]


@pytest.mark.slow
def test_compare_trains_each_configuration_with_each_seed(
    noise_sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "--config", "online/fir/frame_classifier", "online/fir/miniroad", "--seeds", "3", "4", "--run",
        str(tmp_path / "runs"), f"--data.root={noise_sequences}", "--trainer.max_epochs=1", "--device=cpu",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    out = tmp_path / "runs"
    compare.main(command)
    results = load_results(out)
    assert set(results) >= {"frame_classifier", "miniroad"}
    each = [load_results(out / "miniroad" / f"seed{seed}")["test"]["test_map"] for seed in (3, 4)]
    assert results["miniroad"]["mean test_map"] == pytest.approx(np.mean(each))
    assert each[0] != each[1]
    assert (out / "report.html").is_file()
    capsys.readouterr()
    compare.main(command)  # finished runs are kept
    assert "epoch" not in capsys.readouterr().out


def test_compare_needs_a_name_for_each_row() -> None:
    with pytest.raises(ValueError, match="two configurations are both called miniroad"):
        compare.main(["--config", "online/fir/miniroad", "online/synthetic/miniroad"])


def test_which_groups_each_fold_holds_out() -> None:
    groups, root = list("abcde"), Path("clips")
    assert fold_parts(groups, None, None, root) == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert fold_parts(groups, None, 2, root) == [["a", "b", "c"], ["d", "e"]]
    assert fold_parts(groups, "d,a+c", None, root) == [["d"], ["a", "c"]]
    assert fold_parts(["a", "b", "a+b"], "a+b", None, root) == [["a+b"]]  # a name of its own comes first
    for asked, number, words in (
        ("a,x+y", None, "no group x, y; clips has a, b, c, d, e"),
        ("a,b+a", None, "group a is in two folds"),
        (None, 6, "--num_folds is 6; the 5 groups of clips make 2 to 5"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            fold_parts(groups, asked, number, root)


def test_a_fold_stays_in_the_folder_of_the_folds() -> None:
    out = Path("runs/folds")
    assert fold_folder(out, "anna+bob.2") == out / "anna+bob.2"
    for name in ("/", "..", ".", "/etc", "../../x", "a/b", "a\\b"):
        assert fold_folder(out, name).resolve().parent == out.resolve(), name


def test_folds_refuse_what_cannot_be_asked(
    capsys: pytest.CaptureFixture, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = ["folds", "--config", "clip/weizmann/tsn_mobilenetv2", "clip/weizmann/tsm_mobilenetv2"]
    assert "give one of the two" in fails([*both, "--folds", "a", "--num_folds", "3"], capsys)
    assert "does not name two of the configurations" in fails([*both, "--fuse", "tsn_mobilenetv2+x"], capsys)
    assert "both called tsn_mobilenetv2" in fails([*both, "clip/weizmann/tsn_mobilenetv2"], capsys)
    toy = [
        "folds",
        "--config",
        "clip/synthetic/tsn_resnet_tiny",
        "clip/synthetic/tsm_resnet_tiny",
        f"--data.root={root}",
    ]
    assert "folds needs data.group" in fails(toy, capsys)
    toy.append("--data.group=(.).mp4$")
    assert "--flow is nowhere, but no network sees flow" in fails([*toy, "--flow", "nowhere"], capsys)
    toy[3] = "clip/synthetic/tsn_resnet_tiny_flow"
    assert "nowhere is not a folder" in fails([*toy, "--flow", "nowhere"], capsys)
    assert not list(tmp_path.rglob("checkpoints"))  # nothing was trained before it was said


def test_an_option_is_the_last_word_wherever_the_configuration_stands(root: Path, tmp_path: Path) -> None:
    args = ["--trainer.max_epochs=7", "--data.batch_size", "3", f"--data.root={root}", "--run", str(tmp_path)]
    for config in (["--config", "debug"], ["--config=debug"], ["-c", "debug"]):
        made = make_cli([*args, *config], "train")
        assert (made.trainer.max_epochs, made.datamodule.batch_size) == (7, 3)
    assert expand_config(["--config"]) == ["--config"]  # the parser says what is missing


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
@pytest.mark.parametrize(
    "command",
    [
        "extract features --videos . --out x",
        "extract flow --videos . --out x",
        "predict . --checkpoint x",
        "stream --checkpoint x",
        "serve --checkpoint x",
    ],
)
def test_a_device_that_is_not_here(command: str, device: str, capsys: pytest.CaptureFixture) -> None:
    said = fails([*command.split(), "--device", device], capsys)
    assert f"--device is {device}, which PyTorch does not have here" in said
    assert "it has cpu" in said
