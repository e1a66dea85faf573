"""benchmarks/own_data.py divides the sets as it says, and its table is made of the runs' figures."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vidact.data import load_clips
from vidact.data.synthetic import write_clips
from vidact.report.page import write_summary
from vidact.results.figures import load_results

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "own_data.py"


@pytest.fixture(scope="module")
def own_data():
    spec = importlib.util.spec_from_file_location("benchmark_own_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def class_folders(root: Path, people: list[str]) -> Path:
    """Empty files that are called like Weizmann's clips: two classes, one clip of each person."""
    for label in ("jump", "run"):
        (root / label).mkdir(parents=True)
        for person in people:
            (root / label / f"{person}_{label}.avi").touch()
    return root


def test_people_of_the_test_are_in_no_other_split(own_data, tmp_path):
    root = class_folders(tmp_path / "weizmann", ["daria", "lyova", "moshe", "shahar"])
    rows = own_data.trimmed_by_person(root, ["moshe", "lyova"])
    splits = {(row["group"], row["split"]) for row in rows}
    assert splits == {("daria", "train"), ("shahar", "train"), ("moshe", "test"), ("lyova", "test")}
    assert Counter(row["label"] for row in rows) == {"jump": 4, "run": 4}
    own_data.write_clips(tmp_path / "lists", root, rows)
    clips = load_clips(tmp_path / "lists")
    assert {clip.path for clip in clips.split("test")} == {
        root / label / f"{person}_{label}.avi" for label in ("jump", "run") for person in ("lyova", "moshe")
    }
    with pytest.raises(ValueError, match=r"no clip of nobody; its people are daria, lyova, moshe, shahar"):
        own_data.trimmed_by_person(root, ["nobody"])


def test_events_become_clips_in_the_split_of_their_video(own_data, tmp_path):
    (tmp_path / "events.csv").write_text("video,start_s,end_s,label\nv/a.mp4,1,2.5,sit\nv/b.mp4,0,3,fall\n")
    (tmp_path / "videos.csv").write_text("video,split\nv/a.mp4,test\nv/b.mp4,train\n")
    rows = own_data.trimmed_events(tmp_path)
    assert rows == [
        {"path": "v/a.mp4", "label": "sit", "start_s": "1", "end_s": "2.5", "split": "test", "group": "a"},
        {"path": "v/b.mp4", "label": "fall", "start_s": "0", "end_s": "3", "split": "train", "group": "b"},
    ]


def run(top1: float, seconds: float) -> dict:
    test = {"test_top1": top1, "test_mean_class_accuracy": top1 / 2, "test_chance": 0.25, "test_majority": 0.4,
            "test_majority_class": "sit", "classes": 4}  # fmt: skip
    return {"test": test, "cpu": {"seconds": seconds}}


def test_a_row_has_the_mean_and_the_spread_of_the_seeds(own_data):
    row = own_data.describe("set", "recipe", [run(0.5, 10), run(0.7, 20)])
    assert row == {
        "data": "set", "recipe": "recipe", "accuracy": "0.600 ± 0.100", "mean class accuracy": "0.300 ± 0.050",
        "CPU seconds": 15, "runs": 2,
    }  # fmt: skip
    assert own_data.describe("set", "probe", [run(0.5, 10)])["accuracy"] == 0.5
    guess, always = own_data.yardsticks("set", run(0.5, 10)["test"])
    assert (guess["accuracy"], guess["mean class accuracy"]) == (0.25, 0.25)
    assert (always["recipe"], always["accuracy"], always["mean class accuracy"]) == ("always sit", 0.4, 0.25)
    lines = own_data.table([row, guess]).splitlines()
    assert lines[0] == "| data | recipe | accuracy | mean class accuracy | CPU seconds | runs |"
    assert lines[2:] == [
        "| set | recipe | 0.600 ± 0.100 | 0.300 ± 0.050 | 15 | 2 |",
        "| set | a guess | 0.250 | 0.250 |  |  |",
    ]


def test_every_accuracy_of_the_report_has_a_bar(own_data, tmp_path):
    rows = [
        own_data.describe("set", "several", [run(0.5, 10), run(0.7, 20)]),
        own_data.describe("set", "probe", [run(0.5, 10)]),
    ]
    rows += own_data.yardsticks("set", run(0.5, 10)["test"])
    page = write_summary(tmp_path, "recipes", rows).read_text()
    assert page.count('class="number bar"') == 2 * len(rows)


@pytest.mark.slow
def test_own_data_benchmark(own_data, tmp_path, capsys):
    pytest.importorskip("webdataset")
    write_clips(tmp_path / "made", splits={"train": 4}, classes=["opening", "closing"], seed=0)
    for number, clip in enumerate(sorted((tmp_path / "made").rglob("*.mp4"))):
        label = clip.parent.name
        target = tmp_path / "weizmann" / label / f"person{number % 4}_{label}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        clip.rename(target)
    fir = tmp_path / "fir"
    fir.mkdir()
    events, videos = ["video,start_s,end_s,label"], ["video,split"]
    for number, clip in enumerate(sorted((tmp_path / "weizmann").rglob("*.mp4"))):
        (fir / f"{number}.mp4").write_bytes(clip.read_bytes())
        events += [f"{number}.mp4,0,0.4,first", f"{number}.mp4,0.4,,second"]
        videos.append(f"{number}.mp4,{'test' if number % 3 == 0 else 'train'}")
    (fir / "events.csv").write_text("\n".join(events))
    (fir / "videos.csv").write_text("\n".join(videos))
    quick = ["--trainer.max_epochs=1", "--model.network.size=32", "--device=cpu"]
    toy = {
        "weizmann": tmp_path / "weizmann", "fir": fir, "weights": "null", "out": tmp_path / "out", "seeds": [0, 1],
        "people": ["person0"], "recipes": ["probe", "tsm_causal_mobilenetv2"], "options": quick,
    }  # fmt: skip
    own_data.main(**toy)
    results = load_results(tmp_path / "out")
    assert "weizmann, tsm_causal_mobilenetv2" in results
    for name in ("weizmann", "fir"):
        tests = [load_results(tmp_path / "out" / name / "tsm_causal_mobilenetv2" / f"seed{seed}") for seed in (0, 1)]
        mean = np.mean([each["test"]["test_top1"] for each in tests])
        assert float(results[f"{name}, tsm_causal_mobilenetv2"]["accuracy"].split()[0]) == pytest.approx(mean, abs=6e-4)
        assert all(each["cpu"]["seconds"] > 0 for each in tests)
    probe = load_results(tmp_path / "out/fir/probe/seed0")
    assert results["fir, probe"]["accuracy"] == probe["test"]["test_top1"]
    assert not (tmp_path / "out/fir/probe/seed1").exists()  # it has no random part
    assert "| fir | tsm_causal_mobilenetv2 |" in capsys.readouterr().out
    before = (tmp_path / "out/fir/tsm_causal_mobilenetv2/seed0/results.json").stat().st_mtime_ns
    own_data.main(**toy)  # finished runs are kept
    assert (tmp_path / "out/fir/tsm_causal_mobilenetv2/seed0/results.json").stat().st_mtime_ns == before
