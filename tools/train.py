"""``vidact train`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["train", *sys.argv[1:]])
