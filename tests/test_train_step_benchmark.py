"""benchmarks/train_step.py runs, at a toy size; what it times is nobody's law."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def train_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # it uses the loader's benchmark, as it does when it is run
    return importlib.import_module("train_step")


@pytest.mark.slow
def test_train_step_benchmark(train_step, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train_step.main(ways=list(train_step.WAYS), toy=True, device="cpu", peak_tflops=1.0, out=str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())["train_step"]
    rows = results["ways"]
    assert list(rows) == ["fp32", "autocast", "channels_last", "compiled", "fused", "ours"]
    for name, row in rows.items():
        assert row["times_as_quick_as"][name] == 1
        assert row["clips_per_second"] * row["ms"] == pytest.approx(2000)  # clips a step, in milliseconds
        assert row["share_of_peak"] == pytest.approx(row["clips_per_second"] * results["gflop_a_clip"] / 1000)
        assert row["peak_memory_bytes"] is None  # of a CPU
        assert row["loss_difference"] < 0.1  # what bf16 rounds, and no more
    assert rows["fp32"]["gradient_difference"] == 0
    assert rows["ours"]["losses"] == pytest.approx(rows["autocast"]["losses"], abs=0.05)
    fed = results["fed"]
    assert fed["way"] == "ours"
    assert fed["ratio"] == pytest.approx(fed["clips_per_second"] / fed["unfed_clips_per_second"])
    assert list(fed["worker_ms_a_clip"]) == ["open and index", "read the frames", "crop", "make the batch"]
    printed = capsys.readouterr().out
    assert "the loader alone" in printed
    assert ("more than a tenth slower than unfed" in printed) == (fed["ratio"] < 0.9)


FIGURES = {
    "unfed_ms": 100.0, "moving_ms": 1.0, "waiting_ms": 1.0, "unfed_clips_per_second": 320.0,
    "loader_alone_clips_per_second": 400.0, "worker_ms_a_clip": {"read the frames": 9.0, "crop": 2.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loader_alone_clips_per_second": 200.0}, "the workers alone give 200 clips .* goes to: read the frames"),
        ({"waiting_ms": 20.0}, "waits 20.0 ms a step"),
        ({"moving_ms": 30.0}, "moving and finishing a batch takes 30.0 ms"),
        ({}, "no part alone"),
    ],
)
def test_the_reason_is_the_slow_part(train_step, change: dict, words: str) -> None:
    assert re.search(words, train_step.reason(FIGURES | change))


def test_flops_are_of_the_forward_pass(train_step) -> None:
    layer = torch.nn.Conv2d(3, 8, 3, bias=False)
    assert train_step.forward_flops(layer, torch.zeros(2, 3, 6, 6)) == 2 * 2 * 8 * 16 * 27


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ways": ["bf16"]}, "ways has bf16; it may have fp32, autocast"),
        ({"ways": []}, "nothing to time"),
        ({"rounds": 0}, "rounds 0: nothing to time"),
    ],
)
def test_train_step_benchmark_refuses(train_step, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        train_step.main(**arguments)
