"""``vidact report``: draw the plots and the page of a run folder again."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from vidact.commands import forms

PROG = "vidact report"


def main(args: Sequence[str]) -> None:
    """Run ``vidact report``, and print the path of the page."""
    print(forms.call(report, args, PROG, as_positional=True))


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    return forms.parser_of(report, PROG, as_positional=True)


def report(run: Path, title: str | None = None) -> Path:
    """Draw the plots of a run folder again and write its report.html.

    The page shows what the folder has of metrics.csv, scores.npz (clips), timelines.npz (an online detector),
    results.json, unreadable.json and config.yaml; it names what is missing and the command that makes it.

    Args:
        run: the run folder.
        title: the heading of the page; by default the folder's name.
    """
    from vidact.report.page import write_report

    return write_report(run, title)
