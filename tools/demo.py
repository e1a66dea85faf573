"""``vidact demo`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["demo", *sys.argv[1:]])
