"""``vidact demo`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["demo", *sys.argv[1:]])
