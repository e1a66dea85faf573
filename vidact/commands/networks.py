"""``vidact networks``: the table of all clip networks, and the published ones by name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidact.commands.options import Parser


def parser() -> Parser:
    """Return the parser of the command: written by hand, since several values follow one option."""
    parser = Parser(prog="vidact networks", description="The table of all clip networks.")
    parser.add_argument(
        "--published", action="store_true",
        help="list the published networks, whose names may be written wherever a checkpoint is",
    )  # fmt: skip
    parser.add_argument(
        "--fetch", nargs="+", metavar="NAME", help="download published networks or repositories (hf://owner/name)"
    )
    parser.add_argument("--networks", nargs="+", help="the networks of the table; default: all")
    parser.add_argument("--parity", type=Path, help="the folder of parity records")
    parser.add_argument("--out", type=Path, help="write a page; default: print the table")
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact networks``."""
    options = parser().parse_args(args)
    if options.published or options.fetch:
        if others := [name for name in ("networks", "parity", "out") if getattr(options, name) is not None]:
            raise ValueError(
                f"--{others[0]} is for the table of all networks; leave it out with --published and --fetch"
            )
        fetch(options.fetch or [])
        if options.published:
            print(published_table(), end="")
        return
    import vidact.models  # after --help, which needs no PyTorch
    from vidact.files import replacing
    from vidact.report.network_table import TITLE, clip_networks, describe, markdown, read_records, records_table

    names = options.networks or clip_networks()
    if unknown := sorted(set(names) - set(vidact.models.__all__)):
        raise ValueError(f"vidact.models has no {', '.join(unknown)}")
    records = read_records(options.parity) if options.parity else []
    rows = []
    for name in names:
        variants: list[dict[str, Any]] = [{}]
        if "shift" in inspect.signature(getattr(vidact.models, name)).parameters and name.startswith("tsm"):
            variants.append({"shift": "causal"})
        for arguments in variants:
            try:
                rows.append(describe(name, records, **arguments))
            except ImportError as error:  # its layers are an optional package's
                if options.networks:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            print(f"{len(rows)}  {rows[-1].network}", file=sys.stderr, flush=True)
    table = markdown(rows) + (records_table(records) if records else "")
    if options.out is None:
        print(table, end="")
    else:
        with replacing(options.out) as half:
            half.write_text(TITLE + table, encoding="utf-8")
        print(f"{options.out}: {len(rows)} networks")


def fetch(names: Sequence[str]) -> None:
    """Download published networks to the cache, and print the path of each."""
    from vidact import hub  # after --help

    for name in names:
        if name not in hub.PUBLISHED and not hub.is_address(name):
            raise ValueError(f"{name} is no file{hub.advice(name) or ' and no name of a published network'}")
    for name in names:
        print(hub.local(name) if hub.is_address(name) else hub.fetch(hub.PUBLISHED[name]))


def published_table() -> str:
    """Return the published networks as a table for a terminal, with the folder of the cache below it."""
    from vidact import hub

    heading = ("name", "MB", "classes", "top-1, % (views)", "licence", "streams", "cached")
    rows = [
        (
            entry.name,
            f"{entry.megabytes:,.0f}",
            f"{len(hub.class_names(entry.classes))} {hub.CLASS_LISTS[entry.classes]}",
            entry.figure,
            entry.licence,
            "yes" if entry.streams else "",
            "yes" if entry.path.is_file() else "",
        )
        for entry in hub.PUBLISHED.values()
    ]
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = [
        "  ".join(
            text.rjust(width) if column == 1 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heading, *rows)
    ]
    return "\n".join([*lines, f"cache: {hub.folder()} (VIDACT_HOME chooses another)", ""])
