"""One torch thread per worker, no subnormal numbers, and the real videos where they are present."""

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("VIDACT_CACHE", "off")  # tests leave nothing in the home folder; those of the cache name a folder

import numpy as np
import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        return  # it hands out the tests and runs none, and the workers wait for its imports
    gc.disable()  # until all is imported: looking for garbage meanwhile takes a fifth of that time and finds none
    # Lightning's log must not be opened while a test's own stderr stands in for the real one.
    import lightning.pytorch  # noqa: F401
    import torch
    from hypothesis import settings

    # the same examples in every run, but for those made of constants of the modules that were imported before;
    # `pytest --hypothesis-profile default` draws new ones
    settings.register_profile("same", derandomize=True)
    settings.load_profile("same")

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # untrained networks on a CPU run ten times slower on subnormal numbers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("gpu"):
            # Their warnings are listed, and end nothing that ran for minutes on a machine like no other.
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported and collected stays: looking for garbage in it takes half a second each time
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and ImageNet weights, kept outside the repository because their licences differ."""
    data = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(f"{data} is absent: real videos are not part of the repository; VIDACT_SHARED names their folder")
    return data


@pytest.fixture(scope="session")
def shared_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that tests of all processes share for the ONNX graphs that they make, each of which takes seconds."""
    base = tmp_path_factory.getbasetemp()
    is_worker = base.name.startswith("popen-")
    folder = (base.parent if is_worker else base) / "graphs of all tests"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def home(shared_graphs: Path) -> Iterator[Path]:
    """``shared_graphs`` as the cache of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDACT_HOME", str(shared_graphs))
        yield shared_graphs


@pytest.fixture
def no_fresh_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network's constructor would draw, which takes longer than reading a file, is no number."""
    import torch

    def no_number(tensor: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        return tensor.detach().fill_(torch.nan)

    for name in ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, no_number)


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page takes longer than the training of most tests, and has tests of its own; wider fixtures write one still."""
    import vidact.report.page

    monkeypatch.setattr(vidact.report.page, "write_report", lambda run: run / "report.html")


@pytest.fixture(scope="session")
def noise_sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features and labels of three untrimmed videos, noise of 8 values a token; two classes."""
    from vidact.data.event_list import Event
    from vidact.data.official_lists import write_events_csv, write_videos_csv

    root = tmp_path_factory.mktemp("sequences")
    (root / "features").mkdir()
    rng = np.random.default_rng(0)
    for video in "abc":
        np.save(root / "features" / f"{video}.npy", rng.normal(size=(150, 8)).astype(np.float32))
    write_events_csv(root / "events.csv", [Event(v, s, s + 3, "xy"[s % 2]) for v in "abc" for s in (2, 9, 20, 31)])
    write_videos_csv(root / "videos.csv", {"a": "train", "b": "val", "c": "test"})
    (root / "features" / "features.json").write_text(json.dumps({"tokens_per_second": 4.0, "dim": 8}))
    return root
