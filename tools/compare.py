"""``vidact compare`` from a clone; see --help."""

import sys

from vidact.cli import main

main(["compare", *sys.argv[1:]])
