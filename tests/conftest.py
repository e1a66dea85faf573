"""One torch thread per worker, no subnormal numbers, and the real videos where they are present."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)
torch.set_flush_denormal(True)  # untrained networks on a CPU run ten times slower on subnormal numbers


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and ImageNet weights, kept outside the repository because their licences differ."""
    data = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(f"{data} is absent: real videos are not part of the repository; VIDACT_SHARED names their folder")
    return data
