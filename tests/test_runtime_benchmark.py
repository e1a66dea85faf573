"""The benchmark of runtimes: which events are the same, and a run at a toy size."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vidact.events import Detection
from vidact.features.extractor import FeatureExtractor
from vidact.features.names import build_extractor
from vidact.models import miniroad
from vidact.models.weights import attach, save
from vidact.video import open_video
from vidact.video.numbered import write_numbered_video

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "runtime.py"


@pytest.fixture(scope="module")
def runtime() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_runtime", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_events_are_the_same_where_video_class_and_times_are(runtime: ModuleType) -> None:
    first = [Detection("a", 0.0, 1.0, "run", 0.5), Detection("a", 2.0, 3.0, "run", 0.75)]
    assert "2 and 2 events, 2 of them with the same class, start and end" in runtime.compared(first, first)
    others = [Detection("a", 0.0, 1.0, "run", 0.25), Detection("a", 2.0, 3.25, "run", 0.75)]
    assert "2 and 2 events, 1 of them" in runtime.compared(first, others)
    assert runtime.compared(first, others).endswith("at most 2.5e-01")
    for change in ({"video": "b"}, {"label": "walk"}, {"start_s": 0.25}):
        other = Detection(**{**vars(first[0]), **change})
        assert "2 and 1 events, 0 of them" in runtime.compared(first, [other])
    assert "0 and 0 events, 0 of them" in runtime.compared([], [])


def detector_in(folder: Path, extractor: FeatureExtractor) -> Path:
    """Save a detector of random weights that announces events."""
    torch.manual_seed(0)
    network = miniroad(num_classes=4, feature_dim=extractor.dim, hidden_dim=16).eval()
    attach(network, extractor_state=extractor.state())
    record = {
        "classes": ["a", "b", "c"], "features": extractor.record(), "scores": "softmax",
        "tokens_per_second": extractor.tokens_per_second, "events": {"on": 0.2, "smoothing": 0.0, "min_seconds": 0.25},
    }  # fmt: skip
    return save(network, folder / "detector.safetensors", record)


@pytest.mark.slow
def test_events_of_a_detector_are_found_in_every_video(runtime: ModuleType, tmp_path: Path) -> None:
    extractor = build_extractor("resnet_tiny", None, 32, device="cpu")
    write_numbered_video(tmp_path / "a.mp4", 100)
    with open_video(tmp_path / "a.mp4") as video:
        rows = extractor.video(video)
    events = runtime.events_in(detector_in(tmp_path, extractor), {"a": rows, "b": rows})
    assert {event.video for event in events} == {"a", "b"}
    by_video = [[vars(event) | {"video": ""} for event in events if event.video == name] for name in ("a", "b")]
    assert by_video[0] == by_video[1]


@pytest.mark.slow
def test_the_benchmark_runs_at_a_toy_size(
    runtime: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    write_numbered_video(tmp_path / "a.mp4", 100)
    extractor = build_extractor("resnet_tiny", None, 224, device="cpu")
    runtime.measure("resnet_tiny=none", [tmp_path / "a.mp4"], 1, None, None, detector_in(tmp_path, extractor))
    printed = capsys.readouterr().out
    assert "onnx against torch: " in printed
    assert "tokens a CPU second" in printed
    assert "of them with the same class, start and end" in printed
