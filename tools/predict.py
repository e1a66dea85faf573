"""``vidact predict`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["predict", *sys.argv[1:]])
