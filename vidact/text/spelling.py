"""Options as people type them: one spelling, and the option that a misspelt one resembles."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def misspelt(words: Sequence[str], known: Sequence[str]) -> str:
    """Of the words of a command, those that are no option and resemble one, as the end of a sentence; else nothing.

    >>> misspelt(["--checkpont", "x.ckpt", "--top=3"], ["--checkpoint", "--top"])
    '; there is no --checkpont; did you mean --checkpoint?'
    """
    words = words[: words.index("--")] if "--" in words else words
    given = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--"))
    wrong = [name for name in given if not any(option.startswith(name) for option in known)]
    found = [(name, difflib.get_close_matches(name, known, n=1, cutoff=0.75)) for name in wrong]
    return "".join(f"; there is no {name}; did you mean {close[0]}?" for name, close in found if close)


def in_one_spelling(args: Sequence[str]) -> list[str]:
    """Options with the underscores of their names, so that ``--data.num-workers`` is ``--data.num_workers``.

    ``--run_folder`` is ``--run``: torchrun looks for its own options, shortened ones too, in the whole command.
    """
    words = [re.sub(r"^--[^=]+", lambda name: f"--{name[0][2:].replace('-', '_')}", word) for word in args]
    return [re.sub(r"^--run_folder(?==|$)", "--run", word) for word in words]
