"""``vidact fuse`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["fuse", *sys.argv[1:]])
