"""Names of classes, videos and people: which of them are one name, and how those that look alike are told apart.

Two names are the same when they differ in what is not seen: accents that stand in one character with their letter or
apart from it (macOS writes file names so), blanks at the ends, doubled or of another kind, characters of no width.
``plain_name`` gives the one way to write such a name, and every name is compared through it. Names that differ in
letter case, or in letters of other scripts that look the same, are different names, and told.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

# Characters of no width that change no letter. Not the tags of flags, nor the signs of Arabic numbers, which are seen.
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
                     "\u17b4\u17b5\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]")  # fmt: skip
# Joiners change the letters of Persian, of Indian scripts and emoji; beside a Latin letter, a blank or an end nothing.
_IDLE_JOINER = re.compile("(?<![^\x00-\u024f\\s])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\u024f\\s])")
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # of variants of a character
_IDLE_SELECTOR = re.compile(f"(?<=[\x00-\u024f])[{_SELECTORS}](?!\u20e3)")
_BLANKS = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0"), " ")  # which `str.split` does not take for blanks
_DASHES = re.compile("[\\s_\u2010-\u2015\u2212\ufe58\ufe63\uff0d-]+")
# Letters of Cyrillic and Greek that are drawn like Latin ones, small and capital, signs that are drawn alike, and the
# letters of Arabic keyboards for those of Persian ones.
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
    """A name without what is not seen: composed letters (NFC), single blanks, none at the ends, no idle characters."""
    if name.isascii() and name.isprintable() and "  " not in name:
        return name.strip(" ")
    seen = _UNSEEN.sub("", unicodedata.normalize("NFC", name).translate(_BLANKS))
    seen = _IDLE_SELECTOR.sub("", _IDLE_JOINER.sub("", seen))
    return unicodedata.normalize("NFC", " ".join(seen.split()))


def plain_path(path: str) -> str:
    """A path with each of its names plain; one that nothing is seen of stays."""
    return "/".join(plain_name(part) or part for part in path.split("/"))


def same_names(names: Sequence[str], others: Sequence[str]) -> bool:
    """Are these lists the same names in the same order?"""
    return [plain_name(name) for name in names] == [plain_name(name) for name in others]


def look(name: str) -> str:
    """What a name looks like: equal for names that differ in letter case, in dashes and underscores, or in letters
    that are drawn alike.
    """
    shown = re.sub(f"[{_SELECTORS}]", "", plain_name(name))
    plain = unicodedata.normalize("NFKC", shown).translate(_CAPITALS).casefold()
    return _DASHES.sub(" ", plain.translate(_LOOKALIKES)).strip()


def alike(names: Iterable[str]) -> list[list[str]]:
    """Different names of one look, in groups of at least two."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        groups[look(name)][name] = None
    return [sorted(group) for group in groups.values() if len(group) > 1]


def spelt(name: str) -> str:
    """A name in quotes, with what is not seen of it in words."""
    said = []
    if not unicodedata.is_normalized("NFC", name):
        said.append("accents apart from their letters")
    blanks = [character for character in name if character.isspace() or ord(character) in _BLANKS]
    odd = dict.fromkeys(character for character in blanks if character != " ")
    odd |= dict.fromkeys(_UNSEEN.findall(name) + re.findall(f"[\u200c\u200d{_SELECTORS}]", name))
    odd |= dict.fromkeys(c for c in name if c.isalpha() and ord(c) in _LOOKALIKES | _CAPITALS)
    said += [f"{unicodedata.name(c, 'control character').lower()} U+{ord(c):04X}" for c in odd]
    if name != name.strip():
        said.append(f"a blank at its {'beginning' if name[:1].isspace() else 'end'}")
    if re.search(r"\S\s{2,}\S", name):
        said.append("blanks in a row")
    shown = f"'{plain_name(name)}'" if said else repr(name)
    return f"{shown} ({', '.join(said)})" if said else shown


def notes_on_names(what: str, names: Iterable[str]) -> list[str]:
    """Sentences on names as they were found: which were read as one, and which look alike and stay different.

    ``what`` is the plural of what they name, such as "classes".
    """
    spellings: dict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        spellings[plain_name(name)][name] = None
    notes = [
        f"read as one name, since they differ in what is not seen: {', '.join(map(spelt, found))}"
        for found in spellings.values()
        if len(found) > 1
    ]
    notes += [
        f"{len(group)} {what} look alike and stay different: {', '.join(map(spelt, group))}; give them one name "
        "if they are one"
        for group in alike(spellings)
    ]
    return notes


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list and how many there are; those that look the same are told apart in words."""
    shown = list(names[:limit])
    twins = {name for group in alike(shown) for name in group if len({one.casefold() for one in group}) > 1}
    return ", ".join(spelt(name) if name in twins else name for name in shown) + (
        f", … ({len(names)} in all)" if len(names) > limit else ""
    )


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its words: ``counted(1, "class has", "classes have")`` is "1 class has"; ``many`` is by default
    ``one`` with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


class Finder:
    """Files by name below a folder: as it is written, or else the only one there whose name is the same by
    ``plain_name``. Folders are listed once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = cache(_names_in)

    def find(self, name: str) -> Path:
        """The path; that of ``name`` as it is written where there is no such file."""
        place = self.folder / name
        if is_there(place) or Path(name).is_absolute():
            return place
        place = self.folder
        for part in PurePosixPath(name).parts:
            step = place / part
            if not is_there(step):
                found = self._names(place).get(plain_name(part), [])
                if len(found) != 1:
                    return self.folder / name
                step = place / found[0]
            place = step
        return place


def _names_in(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    if folder.is_dir():
        for name in os.listdir(folder):
            names[plain_name(name)].append(name)
    return names


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; a name that no file can have does not."""
    try:
        return path.exists()
    except OSError:  # such as a name of more than 255 bytes
        return False
