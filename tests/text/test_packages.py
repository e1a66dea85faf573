"""What a user is told to install exists, and comes from whom it says."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from vidact.export.runtime import OnnxGraph
from vidact.models import videomae_tiny
from vidact.models.backbones import timm_backbone
from vidact.stream.web.server import _import_uvicorn
from vidact.text.packages import EXTRAS, how_to_install

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "NOTICE", "pyproject.toml")),
    *(
        path
        for folder in ("vidact", "docs", "configs", "datasets", "tools", "benchmarks", "tests")
        for kind in ("*.py", "*.md", "*.yaml", "*.html", "*.js")
        for path in (ROOT / folder).rglob(kind)
        if path != Path(__file__)
    ),
]


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def test_the_extras_are_those_of_the_project():
    """Each says what it installs beyond what everybody has."""
    common = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    declared = {
        extra: {name_of(requirement) for requirement in requirements} - common
        for extra, requirements in PROJECT["optional-dependencies"].items()
    }
    assert {extra: set(packages) for extra, packages in EXTRAS.items()} == declared


def test_the_words_work_from_a_clone_and_without_one():
    assert how_to_install("timm") == "run `uv sync --extra timm` in the clone of vidact, or `pip install timm`"
    assert "`uv sync --extra packed`" in how_to_install("fsspec")
    assert "`pip install fsspec webdataset`" in how_to_install("fsspec", "webdataset")
    assert "`uv sync`" in how_to_install("onnx", "onnxruntime", "onnxscript")
    assert "`uv sync`" in how_to_install("starlette", "uvicorn")  # what everybody has is in no extra
    assert "`uv sync --extra packed --extra timm`" in how_to_install("timm", "webdataset")


def test_nobody_is_sent_to_a_name_that_is_free_for_anybody():
    """No package index has a vidact of ours, so whoever takes the name would be installed."""
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"(pip|uv pip|uv add|pipx|uvx|conda|uv tool)\s+(install\s+)?(-\S+\s+)*[\"'`]?vidact\b", text
        ), path
        assert not re.search(r"\bvidact\[", text), path


def test_what_the_pages_tell_to_install_is_there():
    for path in TEXTS:
        for extra in re.findall(r"uv sync --extra ([\w-]+)", path.read_text(encoding="utf-8")):
            assert extra in PROJECT["optional-dependencies"], path


def test_commands_of_the_pages_work_after_the_install_text():
    """Where a page writes `vidact` alone, it says how a terminal comes to know the word."""
    started = (ROOT / "docs/getting-started.md").read_text()
    install = started[started.index("## Install") : started.index("## See it work")]
    assert "uv sync" in install
    assert "source .venv/bin/activate" in install
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
        if page.name != "getting-started.md" and any(re.search(r"^\s*vidact ", block, re.M) for block in blocks):
            before = text[: text.index("```bash")]
            assert "getting-started.md#install" in before, f"{page.name} does not say how `vidact` is found"


MISSING = {
    "timm": (lambda: timm_backbone("resnet10t"), "`uv sync --extra timm`"),
    "transformers": (lambda: videomae_tiny(3), "`uv sync --extra transformers`"),
    "onnxruntime": (lambda: OnnxGraph(b"", "x.onnx"), "`uv sync`"),
    "uvicorn.protocols": (_import_uvicorn, "`uv sync`"),
}


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_package_is_told_with_words_that_work(package, monkeypatch):
    act, words = MISSING[package]
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=words):
        act()


def test_every_missing_package_is_worded_in_one_place():
    """No message tells by itself what to install: a second wording is a second truth."""
    for path in (ROOT / "vidact").rglob("*.py"):
        if path.name != "packages.py":
            assert not re.search(r"(run: |missing: |transformers: |timm: |`)pip install", path.read_text()), path
