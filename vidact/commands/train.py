"""``vidact train``: train a network on videos, score it and write its report."""

from collections.abc import Sequence

from vidact.training import run


def main(args: Sequence[str]) -> None:
    run.train(args)
