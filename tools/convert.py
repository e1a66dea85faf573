"""``vidact convert`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["convert", *sys.argv[1:]])
