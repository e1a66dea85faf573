"""``vidact test``: score a trained network on the test split and write the report."""

from collections.abc import Sequence

from vidact.training.help_pages import help_page


def main(args: Sequence[str]) -> None:
    """Run ``vidact test``."""
    if page := help_page("test", args):
        print(page)
        raise SystemExit(0)  # as the parsers of the other commands
    from vidact.training import run

    run.test(args)
