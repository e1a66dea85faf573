"""A stream that never ends keeps its memory, threads and file descriptors; the live benchmark runs."""

import importlib.util
import json
from pathlib import Path

import pytest


def script(name):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_soak_runs(tmp_path, capsys):
    """A thousand steps prove little but that it runs, and that no thread stays behind a visitor."""
    figures = script("soak").main(steps=1100, warm_up=0.3, out=str(tmp_path))
    assert figures["steps"] == 1100
    assert figures["threads_growth"] <= 1
    assert (tmp_path / "soak.png").stat().st_size > 5000
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["rows"]) == 22
    assert results["soak"]["memory_growth"] == figures["memory_growth"]
    assert "file descriptors" in capsys.readouterr().out
    with pytest.raises(ValueError, match="minutes is 0"):
        script("soak").main(minutes=0)


@pytest.mark.slow
def test_nothing_grows(tmp_path):
    """15 minutes or 200,000 steps."""
    figures = script("soak").main(out=str(tmp_path))
    assert figures["memory_growth"] < 0.02
    assert figures["threads_growth"] == 0
    assert figures["files_growth"] == 0


@pytest.mark.slow
def test_the_live_benchmark_runs(tmp_path, capsys):
    script("live").main(
        "resnet_tiny",
        window=3,
        repeats=2,
        width=96,
        height=64,
        seconds=2.0,
        streams=2,
        toy=True,
        device="cpu",
        parts=["answer", "camera", "files"],
        out=str(tmp_path),
    )
    results = json.loads((tmp_path / "results.json").read_text())
    sides = [f"{side}, {how}" for side in ("before", "after", "tsm") for how in ("a step", "3 frames anew")]
    assert list(results["answer"]) == sides
    for row in results["answer"].values():
        assert row["cpu_ms"] > 0
        assert row["ms"] > 0
    assert list(results["camera"]) == ["before", "after"]
    for row in results["camera"].values():
        assert 4 <= row["answers"] <= row["tokens"] + 1
        assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert results["files"]["frames"] == 2 * 17
    assert results["files"]["difference"] < 1e-5
    assert "capture to answer" in capsys.readouterr().out
    with pytest.raises(ValueError, match="parts has cameras; it may have answer, camera"):
        script("live").main(parts=["cameras"])


@pytest.mark.slow
def test_the_live_benchmark_of_recognisers_runs(tmp_path, capsys):
    script("live").main(parts=["recognisers"], repeats=3, width=96, height=64, toy=True, out=str(tmp_path))
    rows = json.loads((tmp_path / "results.json").read_text())["recognisers"]
    assert list(rows) == ["movinet_tiny_stream", "tsm_resnet_tiny", "movinet_tiny_base"]
    for name, row in rows.items():
        assert 0 < row["min_ms"] <= row["p10_ms"] <= row["ms"] <= row["p90_ms"]
        assert row["streams"] == pytest.approx(200 / min(row["ms"], row.get("batch_ms", row["ms"])))
        if name.endswith("base"):
            assert (row["difference"], row["clip"], row["state_bytes"]) == (None, 4, 4 * 3 * 32 * 32 * 4)
        else:
            assert 0 < row["difference"] < 1e-5
    printed = capsys.readouterr().out
    assert "movinet_tiny_stream" in printed
    assert "MiniROAD" not in printed
