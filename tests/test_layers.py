"""Imports go downwards only, from file to file, and heavy packages stay out of the files that do not need them."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vidact"

LEVELS = {
    0: ["batch", "device", "events", "files", "hub", "jobs", "metrics", "records", "results", "text"],
    1: ["video", "models", "runtimes"],
    2: ["data", "features"],
    3: ["tasks", "stream", "report", "prediction", "convert", "untrimmed"],
    4: ["training", "prepare", "export", "doctor", "demo", "flow_extraction"],
    5: ["commands"],
    6: ["cli", "__main__"],
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names}
NEVER = {
    *(("tasks", "data"), ("data", "tasks"), ("models", "video"), ("video", "models")),
    *(("models", "runtimes"), ("video", "runtimes"), ("runtimes", "video")),
    *(("stream", "tasks"), ("stream", "report"), ("stream", "convert")),
}
NO_LIGHTNING = (
    "models",
    "video",
    "runtimes",
    "features",
    "stream",
    "metrics",
    "batch",
    "events",
    "jobs",
    "results",
    "text",
    "prepare",
)
MOST_LINES = 800
MOST_ROOT_MODULES = 12
FORMS = ("cli", "commands", "training")  # who reads options


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(("vidact", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


FILES = {dotted(path): path for path in modules()}


@functools.cache
def imported(path: Path) -> set[str]:
    """Dotted names of everything that ``path`` imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def files_imported(path: Path) -> dict[str, str]:
    """The files of vidact that a file imports: their dotted names, each with the name that was imported."""
    files = {}
    for name in imported(path):
        home = name if name in FILES else name.rpartition(".")[0]
        if home in FILES and home != dotted(path):
            files[home] = name
    return files


def part(module: str) -> str:
    """The first name below ``vidact`` of a module: what has a level."""
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    here = part(dotted(path))
    if here == "__init__":
        return
    assert here in LEVEL, f"{path}: give {here} a level in this test and in docs/architecture.md"
    for module, name in files_imported(path).items():
        there = part(module)
        if there not in (here, "__init__"):
            assert (here, there) not in NEVER, f"{path} imports {name}"
            assert LEVEL[there] <= LEVEL[here], f"{path} (level {LEVEL[here]}) imports {name} (level {LEVEL[there]})"


def test_no_circle_of_files() -> None:
    """No file imports, by way of others, itself; the root's ``__init__``, whose names are read late, left out."""
    done: set[str] = set()
    circles = []

    def visit(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            circles.append(" -> ".join((*way[way.index(module) :], module)))
        elif module not in done:
            for there in sorted(files_imported(FILES[module])):
                if there != "vidact":
                    visit(there, (*way, module))
            done.add(module)

    for module in FILES:
        if module != "vidact":
            visit(module, ())
    assert not circles, "\n".join(circles)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_networks_and_pixels_need_no_lightning(path: Path) -> None:
    if part(dotted(path)) in NO_LIGHTNING:
        assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imported(path))


def test_no_file_for_everything_else() -> None:
    assert not [path for path in modules() if path.stem in ("utils", "util", "common", "misc", "helpers")]


def test_files_and_the_root_stay_small() -> None:
    assert not [str(path) for path in modules() if len(path.read_text().splitlines()) > MOST_LINES]
    assert len([path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]) <= MOST_ROOT_MODULES


def test_options_are_read_by_commands_only() -> None:
    """Everything below takes what it needs by name; weights.py lists argparse.Namespace, which old checkpoints hold."""
    readers = {dotted(path) for path in modules() if any(name.split(".")[0] == "argparse" for name in imported(path))}
    assert {module for module in readers if part(module) not in FORMS} <= {"vidact.models.weights"}


def test_processes_are_started_in_one_file() -> None:
    starters = ("multiprocessing.Process", "concurrent.futures.ProcessPoolExecutor", "multiprocessing.get_context")
    assert {dotted(path) for path in modules() if imported(path).intersection(starters)} <= {"vidact.jobs"}


def test_videos_are_read_and_prepared_without_torchvision() -> None:
    code = "import sys, vidact.prepare.sets, vidact.video.decode, vidact.data.clip_list as _"
    code += "; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
