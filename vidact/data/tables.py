"""Readers and writers of text and tables: every row is read, or an error names the row that cannot be.

Text is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 (Excel's "Unicode text" is one of these); its
lines may end as on any system. A table has one row a line, its cells separated by commas, semicolons or tabs (the
header decides which). No cell holds a line break: a quote that is not closed in its line would swallow the rows below.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidact.files import replacing
from vidact.text.names import first_few, look, plain_name, spelt

DELIMITERS = (",", ";", "\t")
# UTF-32 is tried before UTF-16, because its mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Table:
    """A table with its header.

    ``rows`` are pairs of a line number (the first line is 1) and the cells of the line by column, without blanks at
    their ends; ``header`` holds the columns' names in lower case. ``notes`` are sentences on what was ignored.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, dict[str, str]]]
    notes: list[str] = field(default_factory=list)


def read_text(path: Path) -> str:
    """Return the text of a file. Raises ValueError, naming the row, where it is in none of the encodings above."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", _unmarked(data)))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        if encoding != "utf-8":
            raise ValueError(f"{path} is no {encoding[:6].upper()} text (byte {at}); save it as UTF-8") from None
        row = len(_BREAK.findall(data[:at].decode("latin-1"))) + 1
        line = _BREAK.split(data.decode("latin-1"))[row - 1]
        raise ValueError(
            f'{path} is not UTF-8 text (byte {at}); save it as UTF-8, in Excel as "CSV UTF-8". The first letter in '
            f"another encoding is in row {row}: {line.encode('latin-1')[:80]!r}"
        ) from None
    if (at := text.find("\0")) >= 0:
        row = len(_BREAK.findall(text[:at])) + 1
        raise ValueError(f"{path} row {row} has a NUL byte, so the file is damaged or no text; save it again as UTF-8")
    return text


_BREAK = re.compile(r"\r*\n|\r")  # Windows turns \r\n that is written as text into \r\r\n


def _unmarked(data: bytes) -> str:
    """Return the encoding of text without a mark: UTF-16 and UTF-32 have the zeros of Latin letters at fixed places."""
    head = data[: 4 * (min(len(data), 256) // 4)] or data[: len(data) // 2 * 2]
    zeros = [head[i::4].count(0) * 4 / max(1, len(head)) for i in range(4)]
    common = 0.6  # the least share of Latin letters; letters of other scripts have no zero byte
    if min(zeros[1:]) > common and not zeros[0]:
        return "utf-32-le"
    if min(zeros[:3]) > common and not zeros[3]:
        return "utf-32-be"
    if min(zeros[1], zeros[3]) > common and not zeros[0] + zeros[2]:
        return "utf-16-le"
    if min(zeros[0], zeros[2]) > common and not zeros[1] + zeros[3]:
        return "utf-16-be"
    return "utf-8"


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text, without blanks at their ends and without empty lines at the end of the text."""
    lines = [line.strip() for line in _BREAK.split(read_text(path))]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_cells(path: Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Return the line number and the cells of each row of a table without a header; empty rows are left out."""
    return _cells(path, _BREAK.split(read_text(path)), 1, delimiter)


def read_table(path: Path, required: Sequence[tuple[str, ...]], optional: Sequence[str] = ()) -> Table:
    """Read a table by its header; each of ``required`` lists the names that one required column may have.

    Other columns are kept, with a sentence in ``notes``. Raises ValueError where the name of such a column is close to
    that of an absent optional column, and where a row does not have as many cells as the header. In a table of
    semicolons the seconds (columns whose names end in ``_s``) may have a decimal comma, because programs write such
    tables where the comma is the decimal sign; they are returned with a point.
    """
    lines, first = _BREAK.split(read_text(path)), 1
    fixed: tuple[str, ...] = DELIMITERS
    if lines and (separator_line := re.fullmatch(r'\s*"?sep=([,;\t])"?\s*', lines[0], re.IGNORECASE)):
        # Excel reads and writes such a first line.
        lines, first, fixed = lines[1:], 2, (separator_line[1],)
    form = ",".join(names[0] for names in required) + "".join(f"[,{name}]" for name in optional)
    at = next((number for number, line in enumerate(lines) if line.strip(" ,;\t")), None)
    if at is None:
        raise ValueError(f"{path} is empty; its first line is {form}")
    headers = {delimiter: _header(lines[at], delimiter) for delimiter in fixed}
    known_names = {name for names in required for name in names} | set(optional)
    # In a tie the first delimiter, the comma, wins.
    delimiter = max(headers, key=lambda candidate: len(known_names & set(headers[candidate])))
    header = headers[delimiter]
    if not header:
        _cells(path, [lines[at]], first + at, delimiter)  # raises an error about the quotes of the header
    notes = _check_header(path, lines[at], header, required, optional, form)
    rows = []
    for line, cells in _cells(path, lines[at + 1 :], first + at + 1, delimiter):
        if not any(cells[len(header) :]):
            cells = cells[: len(header)]
        if len(cells) < len(header) and not known_names & set(header[len(cells) :]):
            cells += [""] * (len(header) - len(cells))
        if len(cells) != len(header):
            raise ValueError(
                f"{path} row {line} has {len(cells)} cells and the header {len(header)}; quote cells with commas"
            )
        row = dict(zip(header, cells, strict=True))
        if delimiter == ";":
            row |= {
                name: cell.replace(",", ".")
                for name, cell in row.items()
                if name.endswith("_s") and re.fullmatch(r"[+-]?\d*,\d+", cell)
            }
        row.pop("", None)
        rows.append((line, row))
    return Table(path, [name for name in header if name], rows, notes)


def _header(text: str, delimiter: str) -> list[str]:
    """Return the columns that a line names with this delimiter; none where its quotes do not fit it."""
    try:
        cells = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return []
    header = [plain_name(cell).lower() for cell in cells]
    while header and not header[-1]:  # a delimiter at the end of the line makes no column
        header.pop()
    return header


def _check_header(
    path: Path,
    text: str,
    header: list[str],
    required: Sequence[tuple[str, ...]],
    optional: Sequence[str],
    form: str,
) -> list[str]:
    """Return notes on unused columns; raise ValueError where a column is missing, misspelt or appears twice."""
    known_names = [name for names in required for name in names] + list(optional)
    absent = [names[0] for names in required if sum(name in header for name in names) != 1]
    others = [name for name in header if name and name not in known_names]
    free = [name for name in optional if name not in header]
    near = {name: matches[0] for name in others if (matches := difflib.get_close_matches(name, free, 1, 0.7))}
    named = [name for name in header if name]
    wrong = ""
    if absent:
        wrong = f"it lacks {', '.join(absent)}"
    elif near:
        wrong = f"it has no use for {', '.join(map(repr, near))}; {', '.join(map(repr, near.values()))} is near"
    elif len(set(named)) < len(named):
        wrong = "a column comes twice"
    if wrong:
        raise ValueError(
            f"wrong header in {path}: the file begins {text.strip().lstrip(chr(0xFEFF))!r} where {form} is expected; "
            f"{wrong}"
        )
    if not others:
        return []
    columns = "column" if len(others) == 1 else "columns"
    return [f"ignored the {columns} {', '.join(map(repr, others))} of {path}"]


def _cells(path: Path, lines: Sequence[str], first: int, delimiter: str) -> list[tuple[int, list[str]]]:
    rows = []
    for number, line in enumerate(lines, first):
        try:
            parsed = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
        except csv.Error:
            raise ValueError(
                f"{path} row {number} has quotes that do not pair in it: {line.strip()!r}. Close the quote in its row, "
                'since a cell is one line, or write a quote inside of a name twice and the whole cell in quotes: "a""b"'
            ) from None
        cells = [cell.strip() for cell in parsed]
        if any(cells):
            rows.append((number, cells))
    return rows


# -------------------------------------------------------------------------------------------------------------- reading


def load_classes(path: str | Path) -> list[str]:
    """Read the class names of a classes.txt: one a line, none empty, none twice."""
    path = Path(path)
    lines = read_lines(path)
    classes = [plain_name(line) for line in lines]
    if not classes:
        raise ValueError(f"{path} is empty; write one class name a line")
    if "" in classes:
        raise ValueError(f"{path} line {classes.index('') + 1} is empty; the line is the index, so no line may be")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        rows = [i for i, name in enumerate(classes) if name == twice[0]]
        detail = f"rows {' and '.join(str(i + 1) for i in rows)}"
        if len({lines[i] for i in rows}) > 1:
            detail += f" differ in what is not seen: {', '.join(spelt(lines[i]) for i in rows)}"
        raise ValueError(f"{path} names {first_few(twice)} more than once: {detail}")
    return classes


def split_labels(cell: str) -> tuple[str, ...]:
    """Split a label cell into its names: ``a;b`` is two, ``a\\;b`` is one with a semicolon in it."""
    names = [""]
    for part in re.findall(r"\\[\\;]|.", cell, re.DOTALL):
        if part == ";":
            names.append("")
        else:
            names[-1] += part[-1]
    return tuple(name.strip() for name in names if plain_name(name))


def join_labels(names: Iterable[str]) -> str:
    """Join names into a label cell: the inverse of ``split_labels``."""
    return ";".join(name.replace("\\", "\\\\").replace(";", "\\;") for name in names)


def seconds_of(cell: str, where: str, column: str) -> float | None:
    """Return the seconds in a cell, None for an empty one; ValueError where it is no finite number from 0 on."""
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{where}: {column} is {cell!r}, which is no number of seconds from 0 on")
    return value


def closest(name: str, names: list[str]) -> str:
    """Return a clause for messages that names the class closest to a wrong name."""
    near = [label for label in names if look(label) == look(name)] or difflib.get_close_matches(name, names, 1, 0.0)
    return f"the closest class is {near[0]!r}" if near else "there are no classes"


def write_classes(path: str | Path, classes: Sequence[str]) -> None:
    """Write a classes.txt, one name a line."""
    write_text(Path(path), "".join(f"{name}\n" for name in classes))


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all, so that a reader never gets half of it."""
    with replacing(path) as half:
        half.write_text(text, encoding="utf-8", newline="")


def write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV, completely or not at all. Raises ValueError for a cell with a line break."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        for cell in map(str, row):
            if "\n" in cell or "\r" in cell:
                raise ValueError(f"{cell!r} has a line break, and a cell of {path} is one line; give it another name")
        writer.writerow(row)
    write_text(path, text.getvalue())


def cell_text(value: object) -> str:
    """Return a value as the text of a cell: None is empty, numbers are rounded to six decimals."""
    if value is None:
        return ""
    return repr(round(float(value), 6)) if isinstance(value, int | float) else str(value)


def is_table(path: Path) -> bool:
    """Return whether a list exists. Raises OSError where its name is that of a folder or of a broken link."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; it should be a table, or have another name")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link to {os.readlink(path)}, which does not exist; correct or remove it")
    return path.exists()
