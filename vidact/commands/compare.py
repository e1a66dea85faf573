"""``vidact compare``: several networks with several seeds each, side by side."""

from collections.abc import Sequence
from pathlib import Path

from vidact.commands.options import Parser
from vidact.text.spelling import in_one_spelling


def parser() -> Parser:
    """Return the parser of the command's own options; all others are those of ``vidact train``."""
    parser = Parser(
        prog="vidact compare",
        description="Train several configurations with several seeds each, "
        "and put their mean and spread into one table.",
        epilog="Further options are those of vidact train.", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        help="configurations, one a row of the table; clip/folder/probe is one without training",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the random weights and of the training"
    )
    parser.add_argument("--run", type=Path, help="folder for all runs; default runs/<configs' folder>-compared")
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact compare``."""
    command_parser = parser()
    options, others = command_parser.parse_known_args(in_one_spelling(args))
    from vidact.training.config import OWN_OPTIONS, find_config
    from vidact.training.repeat import comparison
    from vidact.training.run import command_line

    command_parser.refuse_misspelt(others, [*OWN_OPTIONS])
    configs = [find_config(name) for name in options.config]
    comparison(configs, others, command_line("compare", args), options.seeds, options.run)
