"""Imports go downwards only, and heavy packages stay out of the layers that do not need them."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vidact"

LEVELS = {
    0: [
        *[
            "addresses",
            "batch",
            "device",
            "events",
            "files",
            "metrics",
            "names",
            "packages",
            "records",
            "results",
            "scores",
        ],
        "timelines",
    ],
    1: ["video", "models"],
    2: ["data", "features", "flow_extraction"],
    3: [
        *[
            "tasks",
            "stream",
            "plots",
            "timeline_plots",
            "report",
            "export",
            "prediction",
            "prepare",
            "check",
            "convert",
        ],
        "network_table",
    ],
    4: ["__main__", "cli", "demo", "doctor"],
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names}
NEVER = {("tasks", "data"), ("data", "tasks"), ("models", "video"), ("video", "models")}
NO_LIGHTNING = ("models", "video", "features", "stream", "metrics", "batch", "events", "scores", "results", "timelines")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@functools.cache
def imported(path: Path) -> set[str]:
    """Dotted names of everything that ``path`` imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    here = part(path)
    if here == "__init__":
        return
    assert here in LEVEL, f"{path}: give {here} a level in this test and in docs/architecture.md"
    for name in imported(path):
        words = name.split(".")
        if words[0] != "vidact" or len(words) < 2 or words[1] not in LEVEL:
            continue
        there = words[1]
        if there != here:
            assert (here, there) not in NEVER, f"{path} imports {name}"
            assert LEVEL[there] <= LEVEL[here], f"{path} (level {LEVEL[here]}) imports {name} (level {LEVEL[there]})"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_networks_and_pixels_need_no_lightning(path: Path) -> None:
    if part(path) in NO_LIGHTNING:
        assert not any(name.split(".")[0] == "lightning" for name in imported(path))


def test_no_file_for_everything_else() -> None:
    assert not [path for path in modules() if path.stem in ("utils", "util", "common", "misc", "helpers")]


def test_videos_are_read_and_prepared_without_torchvision() -> None:
    code = "import sys, vidact.prepare, vidact.video, vidact.data.annotations; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
