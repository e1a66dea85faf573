"""The commands of the README and of docs/ are run, with small data in the place of the reader's."""

import re
from pathlib import Path

import pytest
from support.pages import ROOT, commands

from vidact import cli
from vidact.data.synthetic import write_clips
from vidact.results.figures import load_results
from vidact.training.config import find_config


def test_every_command_exists_and_every_configuration_is_found() -> None:
    pages = ("README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
    found = [line for page in pages for line in commands(page)]
    assert len(found) > 30
    for line in found:
        assert line[0] in cli.COMMANDS
        for word in line:
            if word.startswith(("clip/", "online/")):
                assert find_config(word).is_file()


def test_readme_and_docs_link_to_what_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_train_and_predict_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clips(tmp_path / "made", splits={"train": 4}, classes=["opening", "closing", "blinking star"], seed=0)
    for clip in sorted((tmp_path / "made").rglob("*.mp4")):  # a plain folder of class folders
        target = tmp_path / "my_clips" / clip.parent.name / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        clip.rename(target)
    train = next(line for line in commands("README.md") if line[0] == "train")
    predict = next(line for line in commands("README.md") if line[0] == "predict" and "runs/…" in " ".join(line))
    cli.main([*train, "--trainer.max_epochs=1", "--data.fractions=[0.5,0.25,0.25]", "--device=cpu"])
    (run,) = (tmp_path / "runs").glob("*/*")
    assert load_results(run)["test"]["videos"] > 0
    (tmp_path / "clip.mp4").write_bytes(next((tmp_path / "my_clips").rglob("*.mp4")).read_bytes())
    cli.main([word.replace("runs/…", str(run)) for word in predict])


@pytest.mark.slow
def test_the_demo_ends_with_its_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cli.main(["demo", f"--out={tmp_path / 'demo'}", "--epochs=1", "--clips=1"])
    out = capsys.readouterr().out
    assert "inside order-only pairs" in out
    assert all(name in out for name in ("TSN", "TRN", "TSM"))
    assert (tmp_path / "demo" / "report.html").is_file()
    assert (tmp_path / "demo" / "plots" / "order.png").is_file()
