"""``vidact networks`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["networks", *sys.argv[1:]])
