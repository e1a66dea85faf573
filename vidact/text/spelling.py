"""Options as people type them: one spelling, and the option that a misspelt one resembles."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def misspelt(args: Sequence[str], options: Sequence[str]) -> str:
    """Return the end of a sentence that names each word of ``args`` that is no option and resembles one, or "".

    >>> misspelt(["--checkpont", "x.ckpt", "--top=3"], ["--checkpoint", "--top"])
    '; there is no --checkpont; did you mean --checkpoint?'
    """
    args = args[: args.index("--")] if "--" in args else args
    names = dict.fromkeys(word.partition("=")[0] for word in args if word.startswith("--"))
    wrong = [name for name in names if not any(option.startswith(name) for option in options)]
    matches = [(name, difflib.get_close_matches(name, options, n=1, cutoff=0.75)) for name in wrong]
    return "".join(f"; there is no {name}; did you mean {close[0]}?" for name, close in matches if close)


def with_underscores(args: Sequence[str]) -> list[str]:
    """Return ``args`` with the option names among them in underscores; values and all behind ``--`` stay.

    >>> with_underscores(["--rgb-index=a-b", "my-clips", "--", "--a-b"])
    ['--rgb_index=a-b', 'my-clips', '--', '--a-b']
    """
    end = args.index("--") if "--" in args else len(args)
    names = (re.match(r"--\w[\w.-]*(?=$|=)", word) for word in args[:end])
    folded = [
        word if name is None else f"--{name[0][2:].replace('-', '_')}{word[name.end() :]}"
        for word, name in zip(args, names, strict=False)
    ]
    return [*folded, *args[end:]]


def in_one_spelling(args: Sequence[str]) -> list[str]:
    """Return the options of training in one spelling: ``--data.num-workers`` is ``--data.num_workers``.

    ``--run_folder`` is ``--run``: torchrun searches the whole command for its own options, abbreviated ones too.
    """
    return [re.sub(r"^--run_folder(?==|$)", "--run", word) for word in with_underscores(args)]
