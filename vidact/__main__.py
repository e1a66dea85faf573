"""The program ``vidact``, also ``python -m vidact``: from its first moment on Ctrl-C ends it in one line.

The command line imports libraries before it can catch anything, so this file imports none but those of Python.
"""

import os
import signal
from collections.abc import Sequence
from threading import current_thread, main_thread
from typing import Any


def main(args: Sequence[str] | None = None) -> None:
    """Load the command line and run one command; ``args`` are its words, by default those that the program was given.

    Raises SystemExit with status 2 for an error that the user can mend, and 130 after Ctrl-C.
    """
    # What ignores Ctrl-C goes on doing so, and in other threads Python lets nothing be made of it.
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread()
    if is_default:
        signal.signal(signal.SIGINT, _end)
    from vidact.cli import main as run

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run(args)


def _end(*_: Any) -> None:
    """End the process: an exception would be swallowed by some of what Python calls while it imports."""
    os.write(2, b"stopped\n")
    os._exit(130)


if __name__ == "__main__":
    main()
