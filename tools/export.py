"""``vidact export`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["export", *sys.argv[1:]])
