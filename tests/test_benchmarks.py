"""The benchmark scripts run, at toy sizes; what they time is nobody's law."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "step.py"


@pytest.fixture(scope="module")
def step():
    spec = importlib.util.spec_from_file_location("benchmark_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_step_benchmark(step, tmp_path, capsys):
    step.main(repeats=2, history=[2, 70], runtimes=["torch"], toy=True, out=str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["step"]) == {"trn_recurrent", "miniroad", "oadtr", "lstr", "testra"}
    for name, row in results["step"].items():
        assert row["difference"] < 1e-5, name
        assert row["step_gmac"] > 0
        assert row["limit_ms"] == pytest.approx(1000 * row["read_bytes"] / row["bandwidth"])
        assert row["of_limit"] == pytest.approx(row["step_ms"] / row["limit_ms"])
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
        ({"runtimes": ["onnx"]}, "add torch"),
        ({"runtimes": ["auto"]}, "runtimes has auto; it may have torch, onnx"),
    ],
)
def test_step_benchmark_refuses(step, arguments, words):
    with pytest.raises(ValueError, match=words):
        step.main(**arguments)


@pytest.mark.slow
def test_step_benchmark_compares_runtimes(step, tmp_path):
    step.main(detectors=["lstr"], ours=[], repeats=1, toy=True, out=str(tmp_path))
    row = json.loads((tmp_path / "results.json").read_text())["step"]["lstr"]
    assert set(row["ms"]) == {"window torch", "window onnx", "step torch", "step onnx", "sum", "product"}
    assert row["window_ms"] == min(row["ms"]["window torch"], row["ms"]["window onnx"])
    assert row["step_ms"] == min(row["ms"]["step torch"], row["ms"]["step onnx"])
    assert row["difference"] < 1e-5


def test_step_benchmark_counts_what_a_step_reads(step):
    """MiniROAD's step reads each of its weights once, and its state; LSTR's reads the long memory's tokens alone."""
    network = step.build("miniroad", toy=True)
    state = network.initial_state()
    with step.Reads(network, state) as reads:
        network.step(torch.randn(1, network.feature_dim), state)
    weights = sum(tensor.numel() for tensor in network.parameters())
    assert reads.count_bytes() == 4 * weights + step.state_bytes(state)

    counts = []
    for stride in (1, 8):
        network = step.ready(lambda stride=stride: step.lstr(5, 24, 4, 3, stride, 16))
        state = network.initial_state()
        network.step(torch.randn(1, 24), state)
        with step.Reads(network, state) as reads:
            network.step(torch.randn(1, 24), state)
        counts.append(reads.count_bytes())
    assert counts[0] == counts[1]
