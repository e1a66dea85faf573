"""``vidact networks`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["networks", *sys.argv[1:]])
