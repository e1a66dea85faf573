"""``vidact train``: train a network on videos, score it and write its report."""

from collections.abc import Sequence

from vidact.text.spelling import in_one_spelling
from vidact.training.help_pages import help_page

FIND_LR = "--find_lr"


def main(args: Sequence[str]) -> None:
    """Run ``vidact train``."""
    if page := help_page("train", args):
        print(page)
        raise SystemExit(0)  # as the parsers of the other commands
    from vidact.training import find_lr, run

    words = in_one_spelling(args)
    if any(word.startswith(f"{FIND_LR}=") for word in words):
        raise ValueError(f"{FIND_LR} takes no value: write {FIND_LR}, or leave it out to train")
    if FIND_LR in words:
        find_lr.find_lr([word for word in words if word != FIND_LR])
    else:
        run.train(args)
