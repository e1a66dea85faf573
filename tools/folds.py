"""``vidact folds`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["folds", *sys.argv[1:]])
