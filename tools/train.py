"""``vidact train`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["train", *sys.argv[1:]])
