"""Files that are whole or absent: written beside their place and moved there when finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A path to write to; it becomes ``path`` when the block ends well, and vanishes when it raises.

    >>> with replacing("results.json") as half:
    ...     half.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix, which writers look at
    try:
        yield half
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """``content`` as readable JSON."""
    with replacing(path) as half:
        half.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
