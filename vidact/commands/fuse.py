"""``vidact fuse``: join the scores of several tests by video."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from vidact.commands.options import Parser
from vidact.results.scores import Kind, Missing, fuse_files


def main(args: Sequence[str]) -> None:
    """Run ``vidact fuse``."""
    fuse_files(**vars(parser().parse_args(args)))


def parser() -> Parser:
    """Return the parser of the command: written by hand, since several values follow one option."""
    parser = Parser(prog="vidact fuse", description="Join score files by video id.")
    parser.add_argument("scores", nargs="+", type=Path, help="scores.npz of each part, or the run folders with them")
    parser.add_argument("--weights", nargs="+", type=float, help="the weight of each part; by default all are equal")
    parser.add_argument("--kind", choices=get_args(Kind), help="the values that are added (default %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for the fused scores.npz and results.json")
    parser.add_argument("--search_on", nargs="+", type=Path, help="validation scores that the weights are searched on")
    parser.add_argument("--steps", type=int, help="the number of steps of the search (default %(default)s)")
    parser.add_argument(
        "--missing", choices=get_args(Missing), help="the rule for videos that a part lacks (default %(default)s)"
    )
    defaults = {name: parameter.default for name, parameter in inspect.signature(fuse_files).parameters.items()}
    parser.set_defaults(**{name: value for name, value in defaults.items() if value is not inspect.Parameter.empty})
    return parser
