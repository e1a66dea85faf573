"""``vidact stream`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["stream", *sys.argv[1:]])
