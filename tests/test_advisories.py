"""Known advisories of our dependencies: none lies within the versions that we allow or test with."""

import importlib.machinery
import importlib.util
import itertools
import re
import tomllib
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/advisories.md").read_text()
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIG["project"]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and re.match(r"\| *`", line)
]


def requirements() -> dict[str, list[Requirement]]:
    """By package, every place that asks for it: dependencies, extras, development."""
    texts = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    texts += CONFIG["dependency-groups"]["dev"]
    found: dict[str, list[Requirement]] = {}
    for text in texts:
        found.setdefault(Requirement(text).name, []).append(Requirement(text))
    return found


CONSTRAINTS = {Requirement(text).name: Requirement(text) for text in CONFIG["tool"]["uv"]["constraint-dependencies"]}


def lowest(specifier: SpecifierSet) -> Version:
    """The lowest version that it allows."""
    return max(Version(part.version) for part in specifier if part.operator in (">=", "==", "~=", ">"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].strip('`')} {row[1].split()[0]}")
def test_no_allowed_version_is_affected(row: list[str]) -> None:
    """Each row is a package, advisories, the affected range, what it means for us, and a source."""
    package, advisories, affected, ours, source = row
    package, affected = package.strip("`"), SpecifierSet(affected.strip("`"))
    assert re.search(r"(CVE|PYSEC|GHSA)-\d{4}-|GHSA-\w{4}-|without a number", advisories)
    assert source.startswith("https://")
    asked, pinned = requirements().get(package, []), CONSTRAINTS.get(package)
    assert asked or pinned, f"{package} has neither a bound nor a constraint"
    if ours.startswith(("not reached: ", "open: ")):
        assert len(ours.split()) > 8, "it says why"
        return
    assert f"`{package}" in ours
    for requirement in asked:
        bound = lowest(requirement.specifier)
        assert bound not in affected, f"{requirement} allows {package} {bound}, which {advisories} affects"
        assert f">={bound}" in ours, f"the page says {ours} of {requirement}"
    if pinned is not None:
        assert lowest(pinned.specifier) not in affected


def test_the_page_is_dated_and_names_every_direct_dependency() -> None:
    (text,) = re.findall(r"collected on (\d{4}-\d{2}-\d{2})", PAGE)
    assert date.fromisoformat(text) >= date(2026, 11, 29)
    for name in requirements():
        assert f"`{name}`" in PAGE, f"the page says nothing of {name}"


def test_bounds_are_below_what_the_tests_ran_with() -> None:
    """Raised bounds can be installed: the tested versions lie within them."""
    for name, asked in requirements().items():
        for requirement in asked:
            if name in CONSTRAINTS:
                tested = lowest(CONSTRAINTS[name].specifier)
                assert requirement.specifier.contains(tested, prereleases=True), requirement


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("ci_audit", str(ROOT / ".ci/audit"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ci_audit", loader))
    loader.exec_module(module)
    return module


def test_a_package_that_nobody_looked_at_is_no_pass(audit: ModuleType) -> None:
    clean = {"name": "a", "version": "1", "vulns": []}
    unknown = {"name": "b", "skip_reason": "Dependency not found on PyPI"}
    hit = {"name": "c", "version": "2", "vulns": [{"id": "CVE-2026-1"}]}
    assert audit.verdict([clean]) == (0, ["audited: 1 packages, no known vulnerability"])
    assert audit.verdict([unknown, unknown])[0] == 0  # nobody answers: the run goes on, and says
    assert audit.verdict([unknown])[1][0].startswith("not audited")
    assert audit.verdict([clean, unknown]) == (1, ["not audited: b (Dependency not found on PyPI)"])
    assert audit.verdict([clean, hit]) == (1, ["c 2: CVE-2026-1"])
    assert audit.verdict([])[1][0].startswith("not audited")


def test_the_audit_is_part_of_continuous_integration(audit: ModuleType) -> None:
    run = (ROOT / ".ci/run").read_text()
    assert ".ci/audit" in run
    ignored = audit.not_reached(PAGE)
    assert set(ignored) == {
        name
        for row in ROWS
        if row[3].startswith("not reached")
        for name in re.findall(r"(?:CVE|PYSEC|GHSA)-[\w-]+", " ".join(row))
    }
