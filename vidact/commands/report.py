"""``vidact report``: draw the plots and the page of a run folder again."""

from collections.abc import Sequence


def main(args: Sequence[str]) -> None:
    from jsonargparse import auto_cli

    from vidact.report.page import write_report

    print(auto_cli(write_report, args=list(args), as_positional=True, prog="vidact report"))
