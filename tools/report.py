"""``vidact report`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["report", *sys.argv[1:]])
