"""``vidact train``: train a network on videos, score it and write its report."""

from collections.abc import Sequence

from vidact.training.help_pages import help_page


def main(args: Sequence[str]) -> None:
    """Run ``vidact train``."""
    if page := help_page("train", args):
        print(page)
        raise SystemExit(0)  # as the parsers of the other commands
    from vidact.training import run

    run.train(args)
