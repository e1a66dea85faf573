"""benchmarks/start.py and threads.py measure processes of their own, at toy size."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from vidact.results.figures import load_results

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "start.py"


@pytest.fixture(scope="module")
def start():
    spec = importlib.util.spec_from_file_location("benchmark_start", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU times of processes are read from /proc")
def test_start_benchmark(start, tmp_path, capsys):
    start.main(rounds=1, size=32, out=tmp_path)
    rows = load_results(tmp_path)
    torch_s = rows["import torch"]["cpu_s"]
    for name in ("predict", "predict, onnx", "stream, torch", "stream, onnx", "extract, onnx", "serve"):
        assert rows[name]["cpu_s"] > 0
        assert rows[name]["more_s"] == pytest.approx(rows[name]["cpu_s"] - torch_s)
        assert rows[name]["ratio"] == pytest.approx(rows[name]["cpu_s"] / torch_s)
    assert rows["the graph made"]["cpu_s"] > rows["stream, onnx"]["cpu_s"]  # the exporter and the compiler are imported
    assert "when its graph is made" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU times of processes are read from /proc")
def test_a_process_is_measured_until_its_answer(start, tmp_path):
    program = "import sys, time; print('wait', flush=True); print('answer', flush=True); time.sleep(60)"
    cpu_s, wall_s = start.measure(["-c", program], "answer", dict(os.environ), str(tmp_path))
    assert cpu_s >= 0
    assert wall_s < 50  # not until its end
    with pytest.raises(RuntimeError, match=r"(?s)gave no answer:.*ValueError: broken"):
        start.measure(["-c", "raise ValueError('broken')"], "answer", dict(os.environ), str(tmp_path))


def test_start_benchmark_refuses(start):
    with pytest.raises(ValueError, match="rounds is 0"):
        start.main(rounds=0)


@pytest.mark.slow
def test_threads_benchmark(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("benchmark_threads", SCRIPT.with_name("threads.py"))
    threads = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(threads)
    threads.main(rounds=1, steps=1, beside=1, toy=True, out=tmp_path)
    results = load_results(tmp_path)
    rows = {policy: results[f"tsn_resnet_tiny, {policy}"] for policy in threads.POLICIES}
    assert rows["PASSIVE"]["ratio"] == 1
    assert min(row["wall_ms"] for row in rows.values()) > 0
    assert "beside 1 busy processes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="rounds is 0"):
        threads.main(rounds=0)
