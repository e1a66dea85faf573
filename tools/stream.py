"""``vidact stream`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["stream", *sys.argv[1:]])
