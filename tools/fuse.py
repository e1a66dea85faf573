"""``vidact fuse`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["fuse", *sys.argv[1:]])
