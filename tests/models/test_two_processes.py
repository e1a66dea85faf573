"""Training in two processes steps as one process with all of the batch does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.gradients_of_two import NETWORKS


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """Every parameter takes part, or DistributedDataParallel would refuse the second pass."""
    out = tmp_path / "found.json"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "support.gradients_of_two", str(rank), str(tmp_path / "meeting"), str(out)],
            cwd=Path(__file__).parents[1], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    found = json.loads(out.read_text())
    assert len(found) == len(NETWORKS)
    for name, gradient in found.items():
        assert gradient["largest"] > 1e-6, name
        assert gradient["error"] <= 1e-9 * max(1.0, gradient["largest"]), (name, gradient)
