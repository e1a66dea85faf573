"""benchmarks/loader.py runs, at a toy size; what it times is nobody's law."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "loader.py"


@pytest.mark.slow
@pytest.mark.parametrize("pixels_on", ["workers", "device"])
def test_loader_benchmark(tmp_path, capsys, pixels_on):
    pytest.importorskip("decord")
    spec = importlib.util.spec_from_file_location("benchmark_loader", SCRIPT)
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    options = {"workers": 0, "clips": 4, "batch": 2, "rounds": 1, "generated": 2, "frames": 40, "out": tmp_path}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    loader.main([*words, "--pixels_on", pixels_on])
    results = json.loads((tmp_path / "results.json").read_text())["loader"]
    assert set(results["ratios"]) == {"decord + OpenCV", "ours, raw", "ours, transcoded", "ours, packed"}
    assert all(rate > 0 for rate in results["clips_per_second"].values())
    assert set(results["ms_a_clip"]["packed"]) == set(results["ms_a_clip"]["raw"])
    assert set(results["cpu_ratios"]) == set(results["ratios"])
    assert "CPU ms a clip, alone" in capsys.readouterr().out
