"""Ctrl-C while a command loads: one line and status 130, however the command was started."""

import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

import vidact
from vidact import __main__ as program

ROOT = Path(__file__).parents[2]
MODULE, _, FUNCTION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["vidact"].partition(
    ":"
)
STARTS = {
    "vidact": ["-c", f"import sys; from {MODULE} import {FUNCTION}; sys.exit({FUNCTION}())", "train"],
    "-m vidact": ["-m", "vidact", "train"],
    "-m vidact.cli": ["-m", "vidact.cli", "train"],
    "tools/train.py": [str(ROOT / "tools" / "train.py")],
}
# A library that is never loaded: it says that it has begun, and waits to be told to end the process.
SLOW_LIBRARY = """
import sys, time
from pathlib import Path
here = Path(__file__).parent
(here / "begun").touch()
while not (here / "end").exists():
    time.sleep(0.01)
sys.exit(7)
"""


def start(how: str, library: str, folder: Path, ignores: bool = False) -> subprocess.Popen:
    """A command that has come as far as importing ``library``."""
    (folder / f"{library}.py").write_text(SLOW_LIBRARY)
    handler = signal.SIG_IGN if ignores else signal.default_int_handler  # whoever runs the tests may ignore it
    process = subprocess.Popen(
        [sys.executable, *STARTS[how]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )  # fmt: skip
    while not (folder / "begun").exists() and process.poll() is None:
        time.sleep(0.01)
    return process


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
@pytest.mark.parametrize("library", ["difflib", "torch"])
@pytest.mark.parametrize("how", STARTS)
def test_ctrl_c_while_libraries_load(how: str, library: str, tmp_path: Path) -> None:
    """difflib is imported before the command is known, torch by the command."""
    process = start(how, library, tmp_path)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert [line for line in said.splitlines() if not line.endswith("loading …")] == ["stopped"]
    assert process.returncode == 130


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_a_command_that_ignores_ctrl_c_ignores_it_while_it_loads(tmp_path: Path) -> None:
    """As one that a shell runs behind ``nohup`` or ``&``."""
    process = start("vidact", "difflib", tmp_path, ignores=True)
    process.send_signal(signal.SIGINT)
    (tmp_path / "end").touch()
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 7


def test_the_program_runs_in_another_thread(capsys: pytest.CaptureFixture) -> None:
    """There Python lets nobody say what a signal does."""
    left: list[BaseException] = []

    def run() -> None:
        try:
            program.main(["--version"])
        except BaseException as error:
            left.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not left
    assert capsys.readouterr().out == f"vidact {vidact.__version__}\n"


@pytest.mark.parametrize("command", ["predict", "networks", "fuse", "compare"])
def test_help_needs_no_pytorch(command: str, tmp_path: Path) -> None:
    """Which takes seconds to load."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch is loaded')")
    told = subprocess.run(
        [sys.executable, "-m", "vidact", command, "--help"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert f"usage: vidact {command}" in told.stdout
