"""The benchmark of the suppression runs at a toy size; both of its sides give the same events."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "suppression.py"


@pytest.fixture(scope="module")
def suppression():
    spec = importlib.util.spec_from_file_location("benchmark_suppression", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_suppression_benchmark(suppression, tmp_path, capsys):
    suppression.main(num_candidates=300, num_classes=4, repeats=1, out=str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())["suppression"]
    assert set(results) == set(suppression.CASES)
    assert all(row["events"] > 0 and row["plain_seconds"] > 0 for row in results.values())
    assert "soft, all together, voting" in capsys.readouterr().out


def test_what_makes_no_sense_is_refused(suppression):
    with pytest.raises(ValueError, match="num_classes is 0; it is at least 1"):
        suppression.main(num_classes=0)
