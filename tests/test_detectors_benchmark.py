"""benchmarks/detectors.py cuts what it says, and its table is made of the runs' figures."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vidact.data.event_list import Event, rasterise
from vidact.data.sequence_list import Sequence, SequenceList, load_sequences, write_sequences
from vidact.results.figures import load_results

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "detectors.py"
CLASSES, RATE = ["run", "jump"], 4.0


@pytest.fixture(scope="module")
def detectors():
    spec = importlib.util.spec_from_file_location("benchmark_detectors", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def whole(videos=6, seconds=40, dim=6) -> SequenceList:
    """Videos whose features say what happens and at which token."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(videos):
        events = [Event(f"v{number}", start, start + 3.25, CLASSES[n % 2]) for n, start in enumerate(range(3, 35, 8))]
        targets = rasterise(events, int(seconds * RATE), RATE, CLASSES)
        features = rng.normal(0, 0.2, (len(targets.multi_hot), dim)).astype(np.float32)
        features[:, :3] += targets.multi_hot
        features[:, 5] = np.arange(len(features))
        split = "test" if number % 3 == 0 else "train"
        made.append(Sequence(f"v{number}", split, features, *targets, events=tuple(events)))
    return SequenceList(made, CLASSES, RATE, {})


@pytest.mark.parametrize("draw", range(3))
def test_short_videos_are_stretches_of_the_long_ones(detectors, draw):
    """Tokens and labels are those of the source, whatever is cut; nothing is cut twice, and no source changes sides."""
    long = whole()
    cut = detectors.cut(long, 15, draw)
    assert len(cut) == len({video.id for video in cut}) == 15
    seen = set()
    for video in cut:
        source = next(one for one in long if video.id.startswith(one.id))
        first = int(video.features[0, 5])
        part = slice(first, first + len(video))
        assert 16 <= len(video) <= 40
        np.testing.assert_array_equal(video.features, source.features[part])
        again = rasterise(video.events, len(video), RATE, CLASSES)
        np.testing.assert_array_equal(again.multi_hot, source.multi_hot[part])
        assert again.multi_hot[:, 1:].any()
        assert video.split == source.split
        tokens = {(source.id, token) for token in range(part.start, part.stop)}
        assert not tokens & seen
        seen |= tokens
    assert {source.id for source in long} == {source for source, _ in seen}


def test_too_many_short_videos_are_refused(detectors):
    with pytest.raises(ValueError, match=r"the videos hold \d+ stretches of 4 to 10 s, not 500"):
        detectors.cut(whole(videos=2), 500, 0)


@pytest.mark.slow
def test_detectors_benchmark(detectors, tmp_path, capsys):
    long = whole(videos=12)
    write_sequences(tmp_path / "long", long, CLASSES, RATE, {})
    toy = {"root": tmp_path / "long", "out": tmp_path / "out", "seeds": [0, 1], "videos": 12, "draws": [0]}
    detectors.main(**toy)
    results = load_results(tmp_path / "out")
    assert {name for name in results if "," in name} == {
        "long, frame_classifier", "long, miniroad", "12 short videos, draw 0, frame_classifier",
        "12 short videos, draw 0, short",
    }  # fmt: skip
    row = results["12 short videos, draw 0, short"]
    runs = [load_results(tmp_path / "out/short0/short" / f"seed{seed}")["test"] for seed in (0, 1)]
    mean = np.mean([run["test_token_accuracy"] for run in runs])
    assert float(str(row["token accuracy"]).split()[0]) == pytest.approx(mean, abs=6e-4)  # with its spread, if any
    assert row["of the most frequent class"] == runs[0]["test_majority"]
    assert len(load_sequences(tmp_path / "out/short0").sequences) == 12
    assert "| 12 short videos, draw 0 | short |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="name another folder with --out"):
        detectors.main(**toy | {"videos": 11})
