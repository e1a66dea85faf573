"""``vidact serve`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["serve", *sys.argv[1:]])
