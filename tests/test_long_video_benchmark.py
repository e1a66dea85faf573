"""The benchmark of long videos runs at a toy size; the events of the whole are those of its parts."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "long_video.py"


@pytest.fixture(scope="module")
def long_video():
    spec = importlib.util.spec_from_file_location("benchmark_long_video", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_long_video_benchmark(long_video, tmp_path, capsys):
    long_video.main(hours=0.2, parts=2, out=str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())["long_video"]
    assert set(results["from_pixels"]) == set(long_video.FROM_PIXELS)
    for row in results["from_pixels"].values():
        assert row["tokens"] == 2880
        assert row["compared"] > 100
        assert row["unequal"] == 0
        assert row["most_mib"] < 1536
    assert set(results["in_windows"]) == set(long_video.NETWORKS)
    for name in ("ActionFormer", "causal MS-TCN", "MS-TCN", "MS-TCN++"):
        assert results["in_windows"][name]["windows"] > 2
        assert results["in_windows"][name]["unequal"] == 0
    assert "TriDet" in capsys.readouterr().out


def test_what_makes_no_sense_is_refused(long_video):
    with pytest.raises(ValueError, match=r"0\.001 h in 2 parts is less than a piece of 20 s each"):
        long_video.main(hours=0.001, parts=2)
