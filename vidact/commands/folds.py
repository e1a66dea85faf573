"""``vidact folds``: cross-validation over groups of clips."""

from collections.abc import Sequence
from pathlib import Path

from vidact.commands.options import Parser
from vidact.text.spelling import in_one_spelling


def parser() -> Parser:
    """Return the parser of the command's own options; all others are those of ``vidact train``."""
    parser = Parser(
        prog="vidact folds",
        description="Cross-validate: each value of data.group is held out once; "
        "finished folds are kept when run again.",
        epilog="Further options are those of vidact train.", allow_abbrev=False,
    )  # fmt: skip
    # fmt: off
    parser.add_argument("--config", nargs="+", required=True,
                        help="configurations whose data.group names the groups; clip/folder/probe adds a row without "
                             "training")
    parser.add_argument("--run", type=Path, help="folder for all folds; default runs/<config>-folds")
    parser.add_argument("--folds", help="comma-separated groups; + joins groups that are held out together; "
                                        "default: every group alone")
    parser.add_argument("--num_folds", type=int, help="the number of folds, each of several groups in name order")
    parser.add_argument("--fuse", nargs="+", default=[], metavar="RGB+FLOW",
                        help="two of the configurations as the streams of one more row, their logits added 1 : 1.5")
    parser.add_argument("--flow", type=Path, help="a folder of `vidact extract flow`, for networks that read flow")
    # fmt: on
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact folds``."""
    command_parser = parser()
    options, others = command_parser.parse_known_args(in_one_spelling(args))
    from vidact.training.config import OWN_OPTIONS, find_config
    from vidact.training.repeat import cross_validation
    from vidact.training.run import command_line

    command_parser.refuse_misspelt(others, [*OWN_OPTIONS])
    configs = [find_config(name) for name in options.config]
    cross_validation(
        configs,
        others,
        command_line("folds", args),
        options.run,
        folds=options.folds,
        num_folds=options.num_folds,
        fuse=options.fuse,
        flow=options.flow,
    )
