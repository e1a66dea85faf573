"""Names that packages import late are seen by completion and star imports, and are the same objects each time."""

import subprocess
import sys

import pytest

PACKAGES = (
    "vidact",
    *(f"vidact.{name}" for name in ("data", "export", "features", "report", "results", "stream", "video")),
)


@pytest.mark.parametrize("package", PACKAGES)
def test_late_names_are_listed_before_they_are_used(package: str) -> None:
    code = (
        f"import {package} as p, sys; assert set(p.__all__) <= set(dir(p)), dir(p); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_late_names_are_kept_and_others_are_refused(package: str) -> None:
    module = __import__(package, fromlist=["_"])
    for name in module.__all__:
        assert getattr(module, name) is vars(module)[name]
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing
