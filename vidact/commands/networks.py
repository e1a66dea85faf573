"""``vidact networks``: the table of all clip networks."""

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
    parser.add_argument("--networks", nargs="+", help="the networks of the table; default: all")
    parser.add_argument("--parity", type=Path, help="the folder of parity records")
    parser.add_argument("--out", type=Path, help="write a page; default: print the table")
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact networks``."""
    options = parser().parse_args(args)
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
