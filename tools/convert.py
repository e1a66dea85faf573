"""``vidact convert`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["convert", *sys.argv[1:]])
