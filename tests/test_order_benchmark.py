"""benchmarks/order.py runs at toy size, keeps finished runs, and counts a pair as it should."""

import importlib.util
from pathlib import Path

import pytest

from vidact.results.figures import load_results

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "order.py"
CONFIGS = Path(__file__).parents[1] / "configs" / "clip" / "synthetic"


@pytest.fixture(scope="module")
def order():
    spec = importlib.util.spec_from_file_location("benchmark_order", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_order_benchmark(order, tmp_path, capsys, monkeypatch):
    toy = {"networks": ["TSN", "TSM"], "out": tmp_path, "clips": 1, "val": 1, "test": 2, "epochs": 1}
    order.main(**toy)
    results = load_results(tmp_path)
    for name in ("TSN", "TSM"):
        row = results[name]
        assert (row["test clips"], row["epochs"]) == (32, 1)
        pairs = [row[" / ".join(pair)] for pair in order.ORDER_PAIRS]
        assert row["inside the pairs"] == pytest.approx(sum(pairs) / len(pairs))
    # TSN sees the same frames in both members of a pair, but for the one that the middle of a segment falls on.
    assert results["TSN"]["inside the pairs"] == pytest.approx(0.5, abs=0.1)
    assert (tmp_path / "plots" / "order.png").stat().st_size > 10_000
    assert "TSM" in (tmp_path / "report.html").read_text()
    assert "inside the pairs" in capsys.readouterr().out

    def train(*_):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(order.training, "train", train)
    order.main(**toy)
    assert load_results(tmp_path)["TSM"] == results["TSM"]
    with pytest.raises(ValueError, match=r"holds clips of seed 1.*this asks for seed 2.*--out"):
        order.main(**toy | {"seed": 2})


def test_order_benchmark_refuses_a_network_it_does_not_know(order):
    with pytest.raises(ValueError, match="networks has LSTM; it may have TSN, TSN flow, TRN"):
        order.main(networks=["LSTM"])


def test_order_benchmark_trains_every_synthetic_configuration(order):
    assert sorted(order.NETWORKS.values()) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
