"""``vidact doctor``: list what is installed and test what works."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from vidact.commands import forms

PROG = "vidact doctor"


def main(args: Sequence[str]) -> int:
    """Run ``vidact doctor``; returns 0, or 1 when the default decoder fails."""
    return int(forms.call(doctor, args, PROG))


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    return forms.parser_of(doctor, PROG)


def doctor(videos: Path | None = None, json: Path | None = None) -> int:
    """Print what is installed and what works; with --videos, which decoder reads which file.

    The exit status is 0 when the default decoder works and reads every video, else 1.

    Args:
        videos: a video, or a folder whose videos are all opened with every decoder.
        json: also write all results to this file.
    """
    from vidact.doctor import doctor

    return doctor(videos, json)
