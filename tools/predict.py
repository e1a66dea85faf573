"""``vidact predict`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["predict", *sys.argv[1:]])
