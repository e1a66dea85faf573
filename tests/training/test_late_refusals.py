"""What would stop a training at its end, with all it learned, is refused before its first batch."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from vidact import cli
from vidact.data.synthetic import write_clips
from vidact.results.figures import load_results
from vidact.tasks import ClipClassification, OnlineDetection
from vidact.training.run import train

pytestmark = pytest.mark.usefixtures("without_pages")

NAMES = ["moving left", "moving right", "pulsing cross"]
SMALL = ["--config", "debug", "--trainer.enable_progress_bar=false"]
NETWORKS = """
from torch import nn
from vidact.batch import ClipInput
from vidact.models import tsm_resnet_tiny
from vidact.models.weights import builder

class Mine(nn.Module):
    input = ClipInput(size=16)

    def __init__(self, num_classes: int, width: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fc = nn.Linear(3, num_classes)

    def forward(self, clip):
        return self.fc(clip.mean((1, 3, 4)))

def plain(num_classes: int) -> nn.Module:
    return Mine(num_classes)

def another_head(num_classes: int) -> nn.Module:
    network = tsm_resnet_tiny(num_classes, weights=None, size=32)
    network.fc = nn.Sequential(nn.Linear(network.fc.in_features, 8), nn.ReLU(), nn.Linear(8, num_classes))
    return network

@builder
def marked(num_classes: int) -> nn.Module:
    return Mine(num_classes)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 2, "val": 1, "test": 1}, seed=0, classes=NAMES)
    return folder


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's own."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/my_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path / "package")
    yield
    sys.modules.pop("my_networks", None)


@pytest.fixture
def no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def training_step(*_: object) -> None:
        raise AssertionError("a batch was learned")

    for task in (ClipClassification, OnlineDetection):
        monkeypatch.setattr(task, "training_step", training_step)


def refused(args: list[str], capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Mine", "Mine has no recipe, so a file could not say how to build it again"),
        ("plain", "Mine has no recipe, so a file could not say how to build it again"),
        ("another_head", "is not what its recipe, vidact.models.tsm_resnet_tiny, builds: fc"),
    ],
)
def test_a_network_that_no_file_could_build_again(
    network: str, words: str, root: Path, tmp_path: Path, mine: None, no_batch: None, capsys: pytest.CaptureFixture
) -> None:
    config = tmp_path / "mine.yaml"
    text = (Path(__file__).parents[2] / "configs/debug.yaml").read_text()
    old = "{class_path: vidact.models.tsm_resnet_tiny, init_args: {num_classes: 0, weights: null, size: 32}}"
    assert old in text
    config.write_text(text.replace(old, f"{{class_path: my_networks.{network}, init_args: {{num_classes: 0}}}}"))
    said = refused(["train", "--config", str(config), f"--data.root={root}", f"--run={tmp_path / 'run'}"], capsys)
    assert words in said
    assert "@vidact.models.weights.builder" in said
    assert not (tmp_path / "run").exists()


def test_a_marked_network_of_the_users_own_is_trained_scored_and_tested(root: Path, tmp_path: Path, mine: None) -> None:
    config = tmp_path / "mine.yaml"
    text = (Path(__file__).parents[2] / "configs/debug.yaml").read_text()
    old = "{class_path: vidact.models.tsm_resnet_tiny, init_args: {num_classes: 0, weights: null, size: 32}}"
    config.write_text(text.replace(old, "{class_path: my_networks.marked, init_args: {num_classes: 0}}"))
    run = train(["--config", str(config), f"--data.root={root}", f"--run={tmp_path / 'run'}"])
    before = load_results(run)["test"]["test_loss"]
    cli.main(["test", "--config", str(run / "config.yaml")])
    assert load_results(run)["test"]["test_loss"] == before


def test_a_checkpoint_names_no_package_that_the_configuration_does_not(
    root: Path, tmp_path: Path, mine: None, capsys: pytest.CaptureFixture
) -> None:
    """Testing builds what the checkpoint names: in vidact, or in the package that the user's configuration runs."""
    run = train([*SMALL, f"--data.root={root}", f"--run={tmp_path / 'run'}"])
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    content["vidact"]["recipe"]["builder"] = "my_networks.marked"
    torch.save(content, tmp_path / "other.ckpt")
    sys.modules.pop("my_networks", None)
    said = refused(["test", "--config", str(run / "config.yaml"), f"--ckpt={tmp_path / 'other.ckpt'}"], capsys)
    assert "my_networks.marked" in said
    assert "is outside vidact" in said
    assert "my_networks" not in sys.modules


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("how", ["no video", "empty", "cut short", "times beyond its end"])
def test_a_video_that_scoring_could_not_read(
    split: str, how: str, root: Path, tmp_path: Path, no_batch: None, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(root, tmp_path / "clips")
    rows = (tmp_path / "clips/clips.csv").read_text().splitlines()
    at, row = next((i, row) for i, row in enumerate(rows) if row.endswith(f",{split}"))
    path = tmp_path / "clips" / row.split(",")[0]
    if how == "times beyond its end":
        header, *others = rows
        rows = [header.replace("split", "start_s,end_s,split")]
        rows += [",,".join(other.rsplit(",", 1)).replace(",,", ",,,") for other in others]
        rows[at] = rows[at].replace(",,,", ",100,101,")
        (tmp_path / "clips/clips.csv").write_text("\n".join(rows) + "\n")
    else:
        path.write_bytes({"no video": b"hello", "empty": b"", "cut short": path.read_bytes()[:200]}[how])
    args = ["train", *SMALL, f"--data.root={tmp_path / 'clips'}", f"--run={tmp_path / 'run'}"]
    said = refused(args, capsys)
    assert f"1 of 3 videos of the split {split} cannot be read" in said
    assert path.name in said
    assert "--data.test_unreadable skip" in said
    with pytest.raises(AssertionError, match="a batch was learned"):
        cli.main([*args, "--data.test_unreadable=skip"])


def test_a_results_file_that_cannot_be_added_to(
    root: Path, tmp_path: Path, no_batch: None, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "results.json").write_text("{half")
    said = refused(["train", *SMALL, f"--data.root={root}", f"--run={tmp_path}"], capsys)
    assert "results.json is not valid JSON" in said


def test_folds_that_could_not_be_counted(
    root: Path, noise_sequences: Path, tmp_path: Path, no_batch: None, capsys: pytest.CaptureFixture
) -> None:
    out = f"--run={tmp_path / 'out'}"
    detector = ["folds", "--config", "online/fir/frame_classifier", f"--data.root={noise_sequences}", out]
    said = refused([*detector, "--data.group=(.)$"], capsys)
    assert (
        "frame_classifier trains a detector on features of untrimmed videos, and folds hold out groups of clips" in said
    )
    clips = ["folds", *SMALL, f"--data.root={root}", "--data.group=([^/])[^/]*$", out]
    assert "data.test_split is val; folds score the split test" in refused([*clips, "--data.test_split=val"], capsys)
    shutil.copytree(root, tmp_path / "several")
    table = tmp_path / "several/clips.csv"
    table.write_text(table.read_text().replace(",moving left,", ",moving left;moving right,"))
    clips[4] = f"--data.root={tmp_path / 'several'}"
    assert "have several labels each, and folds count top-1" in refused(clips, capsys)
    alone = [*clips[:4], f"--data.root={root}", "--data.group=(mp4)$", out]
    assert "the fold mp4 holds out every group" in refused(alone, capsys)
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_the_last_configuration_is_said_before_the_first_one_trains(
    root: Path, tmp_path: Path, no_batch: None, capsys: pytest.CaptureFixture
) -> None:
    good = Path(__file__).parents[2] / "configs/debug.yaml"
    bad = tmp_path / "bad.yaml"
    bad.write_text(good.read_text().replace("num_classes: 0", "num_classes: 7"))
    for command in (["compare"], ["folds", "--data.group=(.).mp4$"]):
        args = ["--config", str(good), str(bad), f"--data.root={root}", f"--run={tmp_path / 'out'}"]
        assert "num_classes is 7" in refused([command[0], *args, *command[1:]], capsys)
    assert not (tmp_path / "out").exists()
