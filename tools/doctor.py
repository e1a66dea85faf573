"""``vidact doctor`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["doctor", *sys.argv[1:]])
