"""The wheel contains what the repository does, with configurations, class lists and pages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_works_outside_the_clone(tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the path, and it builds the wheel")
    subprocess.run([uv, "build", "-q", "--wheel", "-o", tmp_path, ROOT], check=True, capture_output=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import vidact; from vidact.cli import main; from vidact.training.config import find_config\n"
        "print(vidact.__file__, find_config('clip/folder/tsm_mobilenetv2'))\n"
        "main(['train', '--config', 'clip/folder/tsm_mobilenetv2', '--print_config'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].count(str(site)) == 2
    assert "tsm_mobilenet_v2" in done.stdout
    shipped = {path.relative_to(site / "vidact" / "configs") for path in (site / "vidact").rglob("*.yaml")}
    assert shipped == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    resources = {".css", ".html", ".js", ".svg", ".txt"}
    files = {path.relative_to(ROOT) for path in (ROOT / "vidact").rglob("*") if path.suffix in resources}
    assert {Path("vidact/report/style.css"), Path("vidact/text/classes/kinetics400.txt")} < files
    assert {path.relative_to(site) for path in (site / "vidact").rglob("*") if path.suffix in resources} == files
