"""``vidact serve`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["serve", *sys.argv[1:]])
