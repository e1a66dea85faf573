"""From the layout of another repository to figures: import, the command that it names, and a test again."""

import shlex
from pathlib import Path

import pytest

from tests.support.published_sets import gtea_set, salads_set, write_event_set
from vidact import cli
from vidact.data import load_events, load_sequences
from vidact.results.figures import load_results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_pages")]
QUICK = [
    "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--device=cpu", "--trainer.precision=32",
    "--data.num_workers=0", "--data.epoch_windows=60", "--model.optimizer.init_args.lr=0.005",
]  # fmt: skip
SEGMENTER = ["--model.network.dim=16", "--model.network.stages=2", "--model.network.layers=5"]
LOCALISER = [
    "--model.network.embedding_dim=16", "--model.network.head_dim=16", "--model.network.levels=3",
    "--data.window=288", "--model.network.max_tokens=288", "--model.network.attention_window=9",
    "--trainer.max_epochs=8", "--model.schedule.warmup_epochs=0", "--data.epoch_windows=30",
]  # fmt: skip


def train_next(
    importing: list[str], run: Path, options: list[str], capsys: pytest.CaptureFixture[str], folder: Path
) -> dict:
    """Import, run the command of the last line for a few epochs, and test; returns the figures."""
    cli.main(["prepare", "import", f"--out={folder}", *importing])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    words = shlex.split(line.removeprefix("next: vidact "))
    cli.main([*words, f"--run={run}", *QUICK, *options])
    first = load_results(run)["test"]
    cli.main(["test", "--config", str(run / "config.yaml"), "--device=cpu"])
    again = load_results(run)["test"]
    assert again["test_tiou_map"] == pytest.approx(first["test_tiou_map"])
    return again


@pytest.mark.parametrize("name", ["gtea", "salads50"])
def test_a_segmenter_of_frame_labels(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (gtea_set if name == "gtea" else salads_set)(tmp_path / "published")
    importing = [f"--set={name}", f"--data={data}", "--split=1"]
    figures = train_next(importing, tmp_path / "run", SEGMENTER, capsys, tmp_path / "out")
    assert figures["kind"] == "segmenter"
    assert figures["tokens_per_second"] == 15
    assert 0 <= figures["test_f1_50"] <= figures["test_f1_10"] <= 1
    assert figures["test_accuracy"] > max(0.7, figures["test_majority"])
    sequences = load_sequences(tmp_path / "out")
    letters = 6 if name == "salads50" else 2
    people = {split: {s.id[:letters] for s in sequences.split(split)} for split in ("train", "val")}
    assert people["val"]
    assert not people["train"] & people["val"]


def test_a_localiser_of_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [("Diving", 0.0, 3.1), ("CliffDiving", 6.0, 9.4), ("Diving", 12.0, 16.2), ("CliffDiving", 20.0, 23.8)]
    videos = {
        f"video_{side}_{i:07}": (subset, 24.0, events)
        for side, subset, count in (("validation", "Validation", 6), ("test", "Test", 2))
        for i in range(count)
    }
    data = write_event_set(tmp_path / "published", videos, dim=16)
    importing = ["--set=thumos14", f"--annotations={data / 'labels.json'}", f"--features={data / 'features'}"]
    importing += ["--stride=4", "--window=16", "--fps=30", "--axes=TD"]
    run = tmp_path / "run"
    figures = train_next(importing, run, LOCALISER, capsys, tmp_path / "out")
    assert figures["kind"] == "localiser"
    assert figures["tokens_per_second"] == 7.5
    assert figures["test_event_map"] > 0.5
    found = load_events(run / "events.csv")
    assert found
    # In seconds of the video: the windows begin with it, though the share of the first token begins 0.2 s later.
    assert min(event.start_s for event in found) < 0.2
    assert max(event.end_s for event in found) <= 24.0
