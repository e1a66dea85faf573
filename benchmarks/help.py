"""Measure the CPU time of the help of every command and sub-command, each in a new process, beside ``import torch``.

    uv run python benchmarks/help.py
    uv run python benchmarks/help.py --beside ../old        # also for another checkout

Times are user and system seconds, the smallest of several runs. The pages ``--help data`` and ``--help model`` of
training explain classes that have to be imported; the time of those imports is a row of its own.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from vidact import cli

ROOT = Path(__file__).parents[1]
PROGRAM = "import sys; from vidact.cli import main; main(sys.argv[1:])"
IMPORTS = {
    "import torch": "import torch",
    "import the classes of --help data": "from vidact.data import ClipData",
    "import the classes of --help model": "import vidact.models; from vidact.tasks import ClipClassification",
}


def pages() -> list[list[str]]:
    """Return the arguments of every page of help."""
    pages = [["--help"]]
    for command in cli.COMMANDS:
        pages.append([command, "--help"])
        parser = getattr(importlib.import_module(f"vidact.commands.{command}"), "parser", None)
        for action in parser()._actions if parser else ():
            if isinstance(action, argparse._SubParsersAction):
                pages += [[command, name, "--help"] for name in action.choices]
    return pages


def seconds(checkout: Path, code: str, args: list[str], repeats: int) -> float:
    """Return the smallest CPU seconds of a process that runs ``code``, or NaN if it fails."""
    times = []
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            process = subprocess.run(
                [sys.executable, "-c", code, *args], cwd=folder, env=environment, capture_output=True
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if process.returncode != 0:
                return float("nan")
            times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times)


def help_times(beside: Path | None = None, repeats: int = 3) -> None:
    """Print a table of the CPU seconds of each page.

    Args:
        beside: another checkout, for a second column.
        repeats: runs of each page; the smallest time counts.
    """
    checkouts = [ROOT, *([beside.resolve()] if beside else [])]
    rows = [(f"vidact {' '.join(args)}", PROGRAM, args) for args in pages()]
    rows += [(f"vidact train --help {page}", PROGRAM, ["train", "--help", page]) for page in ("data", "model")]
    rows += [(name, code, []) for name, code in IMPORTS.items()]
    print(f"{'CPU seconds':40}" + "".join(f"{checkout.name:>12}" for checkout in checkouts))
    for name, code, args in rows:
        times = [seconds(checkout, code, args, repeats) for checkout in checkouts]
        print(f"{name:40}" + "".join(f"{time:12.2f}" for time in times), flush=True)


if __name__ == "__main__":
    import jsonargparse

    jsonargparse.auto_cli(help_times, as_positional=False)
