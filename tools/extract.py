"""``vidact extract`` from a clone; see --help."""

import sys

from vidact.__main__ import main

if __name__ == "__main__":  # worker processes import this file again
    main(["extract", *sys.argv[1:]])
