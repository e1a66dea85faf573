"""``vidact compare`` from a clone; see --help."""

import sys

from vidact.__main__ import main

main(["compare", *sys.argv[1:]])
