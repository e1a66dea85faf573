"""``vidact test``: score a trained network on the test split and write the report."""

from collections.abc import Sequence

from vidact.training import run


def main(args: Sequence[str]) -> None:
    run.test(args)
