"""The parts of a page in HTML: sections, folds, tables with bars, tiles and pictures, all inside one file."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vidact.report.plots import DPI
from vidact.results.figures import in_words

SPREAD = re.compile(r"(\d+\.\d+) ± \d+\.\d+")  # a mean and its spread
RATES = r"top|accuracy|map\b|mcap\b|precision|recall|confidence|\bf1\b"  # columns whose figures carry a bar


def section(title: str, inner: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inner}</section>"


def fold(title: str, inner: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def tiles(tiles: Iterable[tuple[str, str]], note: str) -> str:
    inner = "".join(f"<div><dd>{value}</dd><dt>{name}</dt></div>" for name, value in tiles)
    return f'<dl class="tiles">{inner}</dl><p class="note">{escape(note)}</p>'


def warning(sentence: str) -> str:
    """Return a sentence as a highlighted paragraph, "" for an empty one."""
    return f'<p class="warning">{escape(sentence[0].upper() + sentence[1:])}.</p>' if sentence else ""


def link(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def picture(path: Path, folder: Path | None = None, keep: bool = False, photograph: bool = False) -> str:
    """Return the PNG inside the page, linked to its file. ``keep`` scrolls it instead of making its text unreadable."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big") * 96 // DPI  # a PNG's header begins with its width
    height = int.from_bytes(content[20:24], "big") * 96 // DPI
    name = path.stem.replace("_", " ")
    image = (
        f'<img src="data:image/png;base64,{base64.b64encode(content).decode()}" alt="{escape(name)}" '
        f'width="{width}" height="{height}"{"" if photograph else " class=drawing"}>'
    )
    target = link(path, folder or path.parent.parent)
    return f'<div class="{"scroll keep" if keep else "fit"}"><a href="{target}">{image}</a></div>'


def rows_table(rows: Sequence[Mapping[str, Any]], spread: bool = False) -> str:
    """Return dicts as a table; ``spread`` ends it with mean, standard deviation, least and greatest of each number."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[row.get(name, "") for name in columns] for row in rows]
    last: list[list[Any]] = []
    if spread and len(rows) > 1:
        measures: dict[str, Any] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
        for word, measure in measures.items():
            line: list[Any] = []
            for name in columns:
                numbers = [row[name] for row in rows if is_number(row.get(name))]
                line.append(float(measure(numbers)) if len(numbers) == len(rows) else "")
            line[0] = word
            last.append(line)
    return table(columns, lines, last)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], last: Iterable[Sequence[Any]] = ()) -> str:
    """Return rows of values as a table; accuracies carry a bar, and the rows ``last`` are below a line."""
    head = "".join(f"<th>{escape(in_words(name))}</th>" for name in header)
    body = "".join(f"<tr>{_cells(header, row)}</tr>" for row in rows)
    foot = "".join(f"<tr>{_cells(header, row, bars=False)}</tr>" for row in last)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        f"{f'<tfoot>{foot}</tfoot>' if foot else ''}</table></div>"
    )


def _cells(header: Sequence[str], row: Sequence[Any], bars: bool = True) -> str:
    cells = []
    for name, value in zip(header, row, strict=True):
        called = f"{name} {row[0]}" if name == "value" else name
        spread = SPREAD.fullmatch(value) if isinstance(value, str) else None
        rate = float(spread[1]) if spread else value
        is_rate = isinstance(rate, float) and 0 <= rate <= 1
        bar = bars and is_rate and re.search(RATES, called, re.IGNORECASE)
        style = f' style="--share:{rate:.1%}"' if bar else ""
        kind = "number bar" if bar else "number" if spread or is_number(value) else ""
        cells.append(f"<td{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}{style}>{escape(_text(value))}</td>")
    return "".join(cells)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if 0.01 <= abs(value) <= 1 else f"{value:.4g}"
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
