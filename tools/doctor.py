"""``vidact doctor`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["doctor", *sys.argv[1:]])
