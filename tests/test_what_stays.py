"""docs/what-stays.md lists exactly what is exported, the versions of the files, and the commands."""

import importlib
import re
from pathlib import Path

import pytest

from vidact import cli

PAGE = (Path(__file__).parents[1] / "docs" / "what-stays.md").read_text(encoding="utf-8")
CHANGELOG = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
PACKAGES = {
    package: re.findall(r"`(\w+)`", names) for package, names in re.findall(r"(?ms)^### `([\w.]+)`\n(.*?)(?=^##)", PAGE)
}
FORMATS = {
    "best.ckpt": "vidact.models.weights.FORMAT",
    "features.json": "vidact.features.extractor.FORMAT",
    "flow.json": "vidact.video.flow_store.FORMAT",
    "packed.json": "vidact.video.packed.VERSION",
    "scores.npz": "vidact.results.scores.FORMAT",
    ".onnx": "vidact.runtimes.exported.FORMAT",
}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_that_stay_are_those_that_are_exported(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PACKAGES[package])
    for name in PACKAGES[package]:
        assert getattr(module, name) is not None


def test_every_package_with_exports_is_on_the_page() -> None:
    root = Path(cli.__file__).parent
    packages = [path.parent for path in root.rglob("__init__.py") if "__all__" in path.read_text(encoding="utf-8")]
    assert {".".join(("vidact", *path.relative_to(root).parts)) for path in packages} == set(PACKAGES)


def test_the_formats_of_files_have_their_versions() -> None:
    rows = dict(re.findall(r"(?m)^\| `([^`]+)`.*? \| (\d+) \|", PAGE))
    assert rows.keys() == FORMATS.keys()
    for file, constant in FORMATS.items():
        module, _, name = constant.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        assert int(re.search(r"\d+$", str(value))[0]) == int(rows[file]), file


def test_the_commands_are_those_of_the_command_line() -> None:
    section = re.search(r"(?ms)^## Commands\n\n(.*?)\n\n", PAGE)[1]
    assert re.findall(r"`(\w+)`", section) == list(cli.COMMANDS)


def test_the_changelog_has_the_version() -> None:
    from vidact import __version__

    headings = re.findall(r"(?m)^## \[(.+?)\]", CHANGELOG)
    assert headings[:2] == ["Unreleased", __version__]
