"""``vidact folds`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["folds", *sys.argv[1:]])
