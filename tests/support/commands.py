"""What tests of commands share: a command that fails, and the small clips and options of probes."""

from pathlib import Path

import pytest

from vidact import cli
from vidact.data.synthetic import write_clips

CLASSES = ["opening", "closing", "blinking star"]
SMALL = ["--network=resnet_tiny", "--weights=none", "--size=32", "--frames=4", "--device=cpu"]  # of vidact probe


def fails(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that ends with an error message, and return the message."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def write_probe_clips(folder: Path) -> Path:
    """Write eight clips of each of ``CLASSES``, four of them for training."""
    write_clips(folder, splits={"train": 4, "val": 2, "test": 2}, classes=CLASSES, seed=0)
    return folder
