"""A command that answers imports PyTorch and few other packages: none that it does not need."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vidact.models
from vidact.features.names import build_extractor
from vidact.models import light_torchvision
from vidact.models.weights import attach, save
from vidact.video import SegmentSampler
from vidact.video.numbered import write_numbered_video

ROOT = Path(__file__).parents[2]
# Training, drawing, tables, the exporter and PyTorch's compiler (sympy is imported by it alone).
SLOW = ("lightning", "pytorch_lightning", "tensorboard", "matplotlib", "sklearn", "pandas", "onnxscript", "sympy",
        "torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "transformers", "timm",
        "huggingface_hub", "torchvision.transforms.v2", "torchvision.tv_tensors")  # fmt: skip
ANSWERING = ("predict", "stream", "serve", "extract", "export")
MODULES = {
    "predict": ("vidact.commands.predict", "vidact.prediction"),
    "stream": ("vidact.commands.stream", "vidact.stream.window.player", "vidact.export.runtime"),
    "serve": ("vidact.commands.serve", "vidact.stream.web.server"),
    "extract": ("vidact.commands.extract", "vidact.features.files", "vidact.features.names", "vidact.features.flow"),
    "export": ("vidact.commands.export", "vidact.export"),
}


def first_imports(nodes: list[ast.stmt]) -> Iterator[str]:
    """The dotted names that a module imports when it is imported: outside functions and type checking."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If):
            is_checked_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            yield from first_imports([*([] if is_checked_only else node.body), *node.orelse])
        elif isinstance(node, ast.With | ast.Try | ast.ClassDef):
            yield from first_imports(node.body)


@functools.cache
def imports_of(file: Path) -> tuple[str, ...]:
    return tuple(first_imports(ast.parse(file.read_text()).body))


@functools.cache
def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def way_to(modules: tuple[str, ...]) -> dict[str, str]:
    """Everything that the import of these modules imports, each with the file of vidact that imports it."""
    importers: dict[str, str] = {}
    waiting = [("", module) for module in modules]
    while waiting:
        importer, name = waiting.pop()
        if name in importers:
            continue
        importers[name] = importer
        parts = name.split(".")
        for n in range(len(parts), 0, -1):  # a module, or a name in one; and the packages above it
            if parts[0] == "vidact" and (file := file_of(".".join(parts[:n]))):
                waiting += [(".".join(parts[:n]), each) for each in imports_of(file)]
    return importers


@pytest.mark.parametrize("command", ANSWERING)
def test_no_file_on_the_way_of_an_answer_imports_slow_packages(command: str) -> None:
    importers = way_to(MODULES[command])
    assert len(importers) > 50  # the way was followed
    for name, importer in importers.items():
        assert not any(f"{name}.".startswith(f"{slow}.") for slow in SLOW), f"{importer} imports {name}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small networks on MobileNetV2, and a video of a second."""
    folder = tmp_path_factory.mktemp("start")
    facts = {"classes": ["a", "b"], "multi_label": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tsm = vidact.models.tsm_mobilenet_v2(2, weights=None, size=32)
        extractor = build_extractor("mobilenet_v2", None, 32, device="cpu")
        detector = vidact.models.miniroad_small(3, extractor.dim)
    save(tsm, folder / "tsm.safetensors", {**facts, "sampling": SegmentSampler(4).record()})
    extractor.save(folder / "extractor.safetensors")
    attach(detector, extractor_state=extractor.state())
    record = {**facts, "features": extractor.record(), "tokens_per_second": extractor.tokens_per_second}
    save(detector, folder / "detector.safetensors", record)
    write_numbered_video(folder / "a.mp4", 50)
    return {path.name: str(path) for path in folder.iterdir()} | {"out": str(folder / "features")}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "stream", "extract"])
def test_an_answer_imports_no_slow_package(command: str, files: dict[str, str]) -> None:
    options = {
        "predict": [files["a.mp4"], "--checkpoint", files["tsm.safetensors"], "--runtime", "torch"],
        "stream": ["--checkpoint", files["detector.safetensors"], "--source", files["a.mp4"], "--no_window", "--fast",
                   "--jsonl", "-", "--runtime", "torch"],
        "extract": ["features", "--videos", files["a.mp4"], "--out", files["out"], "--network",
                    files["extractor.safetensors"], "--workers", "1", "--runtime", "torch"],
    }  # fmt: skip
    words = [command, *options[command], "--device", "cpu"]
    code = f"from vidact.cli import main; main({words!r}); import sys; print('modules', *sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    *lines, last = process.stdout.splitlines()
    assert lines, "no answer"
    modules = last.split()
    assert modules[0] == "modules"
    assert "torchvision" in modules
    assert not set(modules).intersection(SLOW)


@pytest.mark.slow
def test_torchvision_is_whole_after_the_light_import() -> None:
    """The compiler's module is the real one when somebody needs it, and torchvision's operator finds it."""
    code = (
        "import sys, vidact.models, torch, torchvision; "
        "assert 'torch._dynamo.utils' not in sys.modules; "
        "boxes = torch.tensor([[0.0, 0, 0, 4, 4]]); "
        "print(tuple(torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape)); "
        "from torch._dynamo.utils import counters; print(type(counters).__name__); "
        "print(torchvision.ops.roi_align.__globals__['is_compile_supported']('cpu') in (True, False)); "
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(())).item())"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split("\n")[:4] == ["(1, 1, 2, 2)", "defaultdict", "True", "1.0"]


def test_the_stand_in_gives_way_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may import the compiler while the stand-in is there."""
    import torch._dynamo.utils as real

    stand_in = light_torchvision._StandIn(light_torchvision.COMPILER)
    monkeypatch.setitem(sys.modules, light_torchvision.COMPILER, stand_in)
    assert stand_in.is_compile_supported is not real.is_compile_supported
    with pytest.raises(AttributeError):
        _ = stand_in.__path__
    monkeypatch.setattr(light_torchvision, "import_module", lambda name: real)
    assert stand_in.counters is real.counters
    assert light_torchvision.COMPILER not in sys.modules
