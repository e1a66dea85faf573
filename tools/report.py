"""``vidact report`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["report", *sys.argv[1:]])
