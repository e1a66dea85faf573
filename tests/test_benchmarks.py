"""The benchmark scripts run, at toy sizes; what they time is nobody's law."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "step.py"


@pytest.fixture(scope="module")
def step():
    spec = importlib.util.spec_from_file_location("benchmark_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_step_benchmark(step, tmp_path, capsys):
    step.main(repeats=2, history=[2, 70], toy=True, out=str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["step"]) == {"trn_recurrent", "miniroad", "oadtr", "lstr", "testra"}
    for name, row in results["step"].items():
        assert row["difference"] < 1e-5, name
        assert row["step_gmac"] > 0
        assert row["gmac_ratio"] == pytest.approx(row["window_gmac"] / row["step_gmac"])
    assert set(results["ours"]) == {"softmax", "linear", "state_space"}
    for rows in results["ours"].values():
        assert [row["history"] for row in rows] == [2, 70]
        assert rows[0]["state_bytes"] == rows[1]["state_bytes"]  # flat
    printed = capsys.readouterr().out
    assert "oadtr" in printed
    assert "state_space" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"detectors": ["lstm"]}, "detectors has lstm; it may have trn_recurrent"),
        ({"ours": ["mamba"]}, "ours has mamba; it may have softmax"),
        ({"history": [64, 8]}, r"history is \[64, 8\].*ascending"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_step_benchmark_refuses(step, arguments, words):
    with pytest.raises(ValueError, match=words):
        step.main(**arguments)
