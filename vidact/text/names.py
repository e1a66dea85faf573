"""Names of classes, videos and people: when two names are the same, and how names that look alike are distinguished.

Two names are the same when they differ only in what is not visible: accents in one character with their letter or
separate from it (as in macOS file names), blanks at the ends, doubled or of another kind, characters of no width.
``plain_name`` returns the single spelling of such names, by which all names are compared. Names that differ in letter
case, or in letters of other scripts that look the same, are different names, and are reported.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

# Characters of no width that change no letter; not the tags of flags or the signs of Arabic numbers, which are visible.
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
                     "\u17b4\u17b5\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]")  # fmt: skip
# Joiners change the letters of Persian, of Indian scripts and emoji, but no Latin letter, blank or end of a name.
_IDLE_JOINER = re.compile("(?<![^\x00-\u024f\\s])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\u024f\\s])")
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # characters that select a variant of the one before
_IDLE_SELECTOR = re.compile(f"(?<![^\x00-\u024f\\s])[{_SELECTORS}]++(?!\u20e3)")  # none, but in signs for keys
_BLANKS = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0"), " ")  # blanks for which `str.split` does not split
_DASHES = re.compile("[\\s_\u2010-\u2015\u2212\ufe58\ufe63\uff0d-]+")
# Lower-case and capital letters of Cyrillic and Greek that look like Latin ones, signs that look alike, and the letters
# of Arabic keyboards that replace those of Persian ones.
_LOOKALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u051d\u04bb\u04cf"
    "\u03b1\u03bf\u03bd\u03c1\u03b9\u0131\u2019\u2018`\u064a\u0649\u0643",
    "aeopcyxijsdqwhlaovpii'''\u06cc\u06cc\u06a9",
)
_CAPITALS = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "ABEKMHOPCTYXIJSABEZHIKMNOPTYX",
)


def plain_name(name: str) -> str:
    """Return a name without invisible differences: in NFC, with single blanks inside, no idle characters."""
    if name.isascii() and name.isprintable() and "  " not in name:
        return name.strip(" ")
    plain = _UNSEEN.sub("", name.translate(_BLANKS))
    while True:  # what is removed may leave a character idle that stood behind it, or let an accent join its letter
        visible = _IDLE_SELECTOR.sub("", _IDLE_JOINER.sub("", unicodedata.normalize("NFC", plain)))
        visible = unicodedata.normalize("NFC", " ".join(visible.split()))
        if visible == plain:
            return plain
        plain = visible


def plain_path(path: str) -> str:
    """Return a path with each of its names plain; a name without a visible character stays unchanged."""
    return "/".join(plain_name(part) or part for part in path.split("/"))


def same_names(names: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether two lists hold the same names in the same order."""
    return [plain_name(name) for name in names] == [plain_name(name) for name in others]


def look(name: str) -> str:
    """Return a key that is equal for names that look alike.

    Such names differ in letter case, in dashes and underscores, or in letters of the same shape.
    """
    visible = re.sub(f"[{_SELECTORS}]", "", plain_name(name))
    plain = unicodedata.normalize("NFKC", visible).translate(_CAPITALS).casefold()
    return _DASHES.sub(" ", plain.translate(_LOOKALIKES)).strip()


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the different names that look alike, in groups of at least two."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        groups[look(name)][name] = None
    return [sorted(group) for group in groups.values() if len(group) > 1]


def spelt(name: str) -> str:
    """Return a name in quotes, with its invisible characters described in words."""
    notes = []
    if not unicodedata.is_normalized("NFC", name):
        notes.append("accents apart from their letters")
    blanks = [character for character in name if character.isspace() or ord(character) in _BLANKS]
    odd = dict.fromkeys(character for character in blanks if character != " ")
    odd |= dict.fromkeys(_UNSEEN.findall(name) + re.findall(f"[\u200c\u200d{_SELECTORS}]", name))
    odd |= dict.fromkeys(c for c in name if c.isalpha() and ord(c) in _LOOKALIKES | _CAPITALS)
    notes += [f"{unicodedata.name(c, 'control character').lower()} U+{ord(c):04X}" for c in odd]
    if name != name.strip():
        notes.append(f"a blank at its {'beginning' if name[:1].isspace() else 'end'}")
    if re.search(r"\S\s{2,}\S", name):
        notes.append("blanks in a row")
    quoted = f"'{plain_name(name)}'" if notes else repr(name)
    return f"{quoted} ({', '.join(notes)})" if notes else quoted


def notes_on_names(plural: str, names: Iterable[str]) -> list[str]:
    """Return sentences on names that were read as one, and on names that look alike and stay different.

    ``plural`` is the noun for the named things, such as "classes".
    """
    spellings: dict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        spellings[plain_name(name)][name] = None
    notes = [
        f"read as one name, since they differ in what is not seen: {', '.join(map(spelt, group))}"
        for group in spellings.values()
        if len(group) > 1
    ]
    notes += [
        f"{len(group)} {plural} look alike and stay different: {', '.join(map(spelt, group))}; give them one name "
        "if they are one"
        for group in alike(spellings)
    ]
    return notes


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names of a list and their total; names that look the same are distinguished in words."""
    first = list(names[:limit])
    twins = {name for group in alike(first) for name in group if len({member.casefold() for member in group}) > 1}
    return ", ".join(spelt(name) if name in twins else name for name in first) + (
        f", … ({len(names)} in all)" if len(names) > limit else ""
    )


def counted(number: int, singular: str, many: str = "") -> str:
    """Return a number with its noun: ``counted(1, "class has", "classes have")`` is "1 class has".

    ``many`` is by default ``singular`` with an s.
    """
    return f"{number:,} {singular if number == 1 else many or f'{singular}s'}"


class Finder:
    """A finder of files by name below a folder.

    A file is found under its exact name, or else as the only one whose name is the same by ``plain_name``. Each
    folder is listed once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = cache(_names_in)

    def find(self, name: str) -> Path:
        """Return the path of the file; where there is none, the folder's path joined with ``name``."""
        path = self.folder / name
        if is_there(path) or Path(name).is_absolute():
            return path
        path = self.folder
        for part in PurePosixPath(name).parts:
            step = path / part
            if not is_there(step):
                matches = self._names(path).get(plain_name(part), [])
                if len(matches) != 1:
                    return self.folder / name
                step = path / matches[0]
            path = step
        return path


def _names_in(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    if folder.is_dir():
        for name in os.listdir(folder):
            names[plain_name(name)].append(name)
    return names


def is_there(path: Path) -> bool:
    """Return whether a file or folder exists; False for a name that no file can have."""
    try:
        return path.exists()
    except OSError:  # such as a name of more than 255 bytes
        return False
