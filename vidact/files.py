"""Files that are whole or absent: written beside their place and moved there when finished."""

from __future__ import annotations

import hashlib
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
    make_folder(path.parent)
    half = path.with_name(f".{os.getpid()}.{short_name(path.name)}")  # keeps the suffix, which writers look at
    try:
        yield half
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """The folder and those above it, where they are not there yet; raises OSError with what stands in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = next((above for above in (folder, *folder.parents) if above.is_file()), None)
        why = f"{file} is a file" if file else error.strerror
        raise type(error)(f"the folder {folder} cannot be made ({why}); choose another place") from error


def short_name(name: str) -> str:
    """The name of a file where something may be added to it: file systems take 255 bytes, and titles come near that."""
    if len(os.fsencode(name)) <= 240:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + Path(name).suffix[-16:]


def write_json(path: Path | str, content: Any) -> None:
    """``content`` as readable JSON."""
    with replacing(path) as half:
        half.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
