"""``vidact fuse``: join the scores of several tests by video."""

from collections.abc import Sequence
from pathlib import Path

from vidact.commands.options import Parser


def main(args: Sequence[str]) -> None:
    parser = Parser(prog="vidact fuse", description="Join score files by video id.")
    parser.add_argument("scores", nargs="+", type=Path, help="scores.npz of each part, or the run folders with them")
    parser.add_argument("--weights", nargs="+", type=float, help="one a part; by default all alike")
    parser.add_argument("--kind", choices=["logits", "softmax", "log_softmax"], default="logits", help="what is added")
    parser.add_argument("--out", type=Path, help="folder for the fused scores.npz and results.json")
    parser.add_argument("--search_on", nargs="+", type=Path, help="validation scores that the weights are searched on")
    parser.add_argument("--steps", type=int, default=10, help="how fine the search is")
    parser.add_argument(
        "--missing", choices=["refuse", "intersect"], default="refuse", help="if parts hold other videos"
    )
    options = parser.parse_args(args)
    from vidact.results.scores import fuse_files

    fuse_files(**vars(options))
