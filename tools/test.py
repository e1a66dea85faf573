"""``vidact test`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["test", *sys.argv[1:]])
