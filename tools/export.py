"""``vidact export`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["export", *sys.argv[1:]])
