"""``vidact test`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["test", *sys.argv[1:]])
