"""The takes of an untrimmed video: the stretches between pauses that were too long to be filled with frozen pictures.

The tokens of all takes stand one after another in ``<id>.npy``; ``<id>.takes.json`` beside it records where each take
begins, in tokens and in seconds of the video. A video without such a pause has no such file.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vidact.files import write_json

SUFFIX = ".takes.json"


class Take(NamedTuple):
    """The start of a take: its first token, and the seconds since the video's first frame."""

    token: int
    start_s: float


WHOLE = (Take(0, 0.0),)  # the takes of a video without a pause


def takes_file(features: Path) -> Path:
    """Return the path of the takes file of a video whose features are in the .npy file ``features``."""
    return features.with_name(f"{features.name.removesuffix('.npy')}{SUFFIX}")


def write_takes(features: Path, takes: Sequence[Take]) -> None:
    """Write the takes file beside a video's features, or remove it where one take starts at 0 s."""
    path = takes_file(features)
    if tuple(takes) == WHOLE:
        path.unlink(missing_ok=True)
    else:
        write_json(path, [take._asdict() for take in takes])


def read_takes(features: Path, num_tokens: int) -> tuple[Take, ...]:
    """Return the takes of a video with ``num_tokens`` tokens in ``features``; ValueError where their file is wrong."""
    path = takes_file(features)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        takes = tuple(Take(int(entry["token"]), float(entry["start_s"])) for entry in content)
    except FileNotFoundError:
        return WHOLE
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}); extract this video again") from None
    tokens, starts = [take.token for take in takes], [take.start_s for take in takes]
    rises = all(a < b for values in (tokens, starts) for a, b in itertools.pairwise(values))
    if not (takes and tokens[0] == 0 and tokens[-1] < num_tokens and rises and 0 <= starts[0] <= starts[-1] < math.inf):
        raise ValueError(
            f"{path} does not fit the {num_tokens} tokens beside it: takes begin at the tokens {tokens} and at the "
            f"seconds {starts}; extract this video again"
        )
    return takes


def spans(takes: Sequence[Take], num_tokens: int, tokens_per_second: float) -> list[tuple[slice, float, float]]:
    """Return for each take its tokens, and its start and end in seconds of the video."""
    stops = [*(take.token for take in takes[1:]), num_tokens]
    return [
        (slice(take.token, stop), take.start_s, take.start_s + (stop - take.token) / tokens_per_second)
        for take, stop in zip(takes, stops, strict=True)
    ]
