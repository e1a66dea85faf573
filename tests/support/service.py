"""``vidact stream`` as a service with short patience, for test_service.py: colours are its actions.

The first argument is the size in bytes beyond which no file grows, as on a full disk; the others are the command's.
"""

import functools
import resource
import sys

from support.serving import colour_model

from vidact.commands import stream as command
from vidact.stream import live, model, sources

if __name__ == "__main__":
    model.GAP_S, live.LONGEST_RETRY_S = 1.5, 0.4
    sources.open_source = functools.partial(sources.open_source, timeout_s=1.0, retry_s=0.05)
    command.open_model = lambda *_, **__: colour_model()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    sys.exit(command.main(sys.argv[2:]))
