"""The help of every command: what it imports, and what the pages of training hold."""

import argparse
import importlib
import inspect
import subprocess
import sys

import pytest

from vidact import cli
from vidact.training import help_pages
from vidact.training.config import OWN_OPTIONS

HEAVY = ("torch", "lightning", "av", "cv2", "vidact.models")
PROGRAM = f"""
import sys
from vidact import cli
status = 0
try:
    cli.main(sys.argv[1:])
except SystemExit as stopped:
    status = stopped.code
assert not status, status
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""


def pages() -> list[list[str]]:
    """The words of every page that needs no network."""
    commands = []
    for command in cli.COMMANDS:
        commands.append([command, "--help"])
        parser = getattr(importlib.import_module(f"vidact.commands.{command}"), "parser", None)
        for action in parser()._actions if parser else ():
            if isinstance(action, argparse._SubParsersAction):
                commands += [[command, name, "--help"] for name in action.choices]
    return [["--help"], *commands]


@pytest.mark.parametrize("words", pages(), ids=" ".join)
def test_help_imports_nothing_heavy_and_writes_no_line_of_loading(words: list[str]) -> None:
    process = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert f"usage: vidact {' '.join(words[:-1])}".strip() in process.stdout


def test_a_command_that_loads_pytorch_writes_so(tmp_path) -> None:
    words = ["report", str(tmp_path / "none")]
    process = subprocess.run([sys.executable, "-m", "vidact", *words], capture_output=True, text=True)
    assert "loading" not in process.stderr  # a report is drawn without PyTorch
    words = ["export", "--checkpoint", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "x.onnx")]
    process = subprocess.run([sys.executable, "-m", "vidact", *words], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.count("vidact export: loading …\n") == 1


def page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "test"])
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_the_first_page_names_the_general_options_and_the_other_pages(
    command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page(capsys, command, "--config", "online/fir/miniroad", word)
    for option in (*OWN_OPTIONS, "--data.root", "--trainer.max_epochs"):
        assert f"  {option} " in text
    for part in ("data", "model", "trainer"):
        assert f"vidact {command} --help {part} " in text


def test_the_options_of_the_first_page_exist() -> None:
    from lightning.pytorch import Trainer

    named = {option.split()[0].removeprefix("--trainer.") for option in help_pages.TRAINER}
    assert named <= set(inspect.signature(Trainer).parameters)


def test_the_page_of_the_data_explains_the_class_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    clips = page(capsys, "train", "--help", "data")
    assert "vidact.data.ClipData, as --data.*" in clips
    assert "configuration clip/folder/tsm_causal_mobilenetv2, as none is named" in clips
    assert "The configuration sets root data/folder, sampler SegmentSampler, augment" in clips
    assert "--data.batch_size BATCH_SIZE" in clips
    assert "videos in a batch, on each device. (type: int," in clips
    assert "--data.augment.crop {multiscale,resized,none}" in clips
    assert "--data.window" not in clips
    for words in (["--config", "online/fir/miniroad"], ["--config=online/fir/miniroad"], ["-c", "online/fir/miniroad"]):
        sequences = page(capsys, "test", *words, "--help=data")
        assert "vidact.data.SequenceData, as --data.*" in sequences
        assert "(configuration online/fir/miniroad)" in sequences
        assert "--data.window WINDOW" in sequences
    named = page(capsys, "train", "--data=vidact.data.SequenceData", "--help", "data")
    assert "--data.window WINDOW" in named


def test_the_page_of_the_model_explains_the_network_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "train", "--config", "online/fir/miniroad", "--help", "model")
    assert "vidact.tasks.OnlineDetection, as --model.*" in text
    assert "--model.label_smoothing LABEL_SMOOTHING" in text
    assert "vidact.models.miniroad, as --model.network.*" in text
    assert "--model.network.hidden_dim HIDDEN_DIM" in text
    other = page(capsys, "train", "--model.network", "vidact.models.tsn_resnet18", "--help", "model")
    assert "vidact.models.tsn_resnet18, as --model.network.*" in other


def test_the_page_of_the_trainer_lists_lightnings_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "train", "--help", "trainer")
    assert "--trainer.max_epochs MAX_EPOCHS" in text
    assert "--trainer.gradient_clip_val GRADIENT_CLIP_VAL" in text
    assert "default: null" in text


def test_a_page_that_does_not_exist_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--help", "dota"])
    assert stopped.value.code == 2
    assert "there is no help page 'dota'; did you mean data? The pages are data, model, trainer" in (
        capsys.readouterr().err
    )


def test_a_configuration_without_the_part_is_refused(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("trainer: {max_epochs: 1}\n")
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", str(tmp_path / "own.yaml"), "--help", "data"])
    assert "names no data, whose options could be listed; name one with --data" in capsys.readouterr().err


def test_the_help_of_a_class_goes_on_working(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "train", "--model.help", "vidact.tasks.ClipClassification")
    assert "--model.init_args.network" in text or "--model.network" in text
