"""Local paths in texts and records that leave the machine: of each, only the last part stays.

A path says who uses a machine, and how disks and projects are called. ``without_paths`` shortens absolute paths, those
that lead upwards or home, and existing files; ``first_path`` finds what is left of the folders of this user.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidact.text.addresses import SCHEME, without_secrets

# An absolute path, a path that leads upwards or home, and one of Windows, behind a character that no path has inside.
_PATH = re.compile(r"(?<![\w.~/\\-])(?:~[\w.-]*[/\\]|\.\.[/\\]|/(?=[^\s/])|[A-Za-z]:[/\\]|\\\\)[^\s'\"`,;|<>)\]}]*")
_NAME = re.compile(r"[^/\\]+")


def without_paths(value: Any) -> Any:
    """Return plain data in which every text has only the last part of each local path; keys are texts, too.

    >>> without_paths({"file": "/home/me/clips/a.mp4", "of": "train --data.root=../x/clips"})
    {'file': 'a.mp4', 'of': 'train --data.root=clips'}
    """
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    folders = private_folders()
    if text.rstrip(os.sep) in folders:  # its last part may be the name of the user
        return "."
    is_path = re.match(r"(?:~[\w.-]*[/\\]|\.\.?[/\\]|/|[A-Za-z]:[/\\]|\\\\)", text) and "\n" not in text
    is_file = "/" in text and len(text) < 4096 and "\0" not in text and os.path.exists(text)
    if is_path or is_file:
        return _last(text)
    for folder in folders:  # they may have blanks
        text = re.sub(_inside(folder), ".", re.sub(_inside(folder) + re.escape(os.sep), "", text))
    if SCHEME.match(text):  # an address is no path; hf://owner/name stays
        return without_secrets(text)
    return without_secrets(_PATH.sub(lambda match: _last(match[0]), text))


def _inside(folder: str) -> str:
    """Return a pattern of a folder in a text; not of the end of a longer path, such as ``/app`` in ``hf://me/app``."""
    return rf"(?:(?<![\w.~-])|(?<=-[A-Za-z])){re.escape(folder)}(?![\w-])"


def _last(path: str) -> str:
    names = [name for name in _NAME.findall(path) if name not in ("..", ".", "~")]
    return names[-1] if names else "."


def private_folders() -> list[str]:
    """Return the folders whose names are of this machine: the user's, the present one and that of temporary files."""
    folders = [os.getcwd(), os.environ.get("TMPDIR", "")]
    with contextlib.suppress(RuntimeError):  # raised in a container whose user has a number and no name
        folders.append(str(Path.home()))
    return sorted({folder for folder in folders if folder.count(os.sep) and folder != os.sep}, key=len, reverse=True)


def first_path(text: str) -> str | None:
    """Return the first folder of ``private_folders`` that a text contains; None where there is none."""
    return next((folder for folder in private_folders() if re.search(_inside(folder), text)), None)
