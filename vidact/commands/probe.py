"""``vidact probe``: a recogniser in seconds, from a frozen network and a folder of clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidact.commands.options import Parser, add_decoder, add_device, add_runtime
from vidact.features.choices import HEADS, SEGMENTS, TOKEN_HEADS


def parser() -> Parser:
    """Return the parser of the command: written by hand, since several values follow one option."""
    parser = Parser(
        prog="vidact probe",
        description="Encode every clip of a folder once with a frozen network, fit heads to the features, and save "
        "the head that is best in validation as a checkpoint, probe.safetensors. A second run encodes nothing. "
        "vidact test --config RUN/config.yaml scores the checkpoint again.",
    )
    # fmt: off
    parser.add_argument("folder", type=Path, nargs="?", metavar="DATA",
                        help="a folder of class folders, or one with clips.csv")
    parser.add_argument("--data", type=Path, help="the same folder, as an option")
    parser.add_argument("--network", default="mobilenet_v2",
                        help="an image network, a clip network with features, a trained one's file, or hf://owner/name "
                             "(default %(default)s)")
    parser.add_argument("--weights", default="default", help="a name or file of the network's weights; none is random")
    parser.add_argument("--size", type=int, help="crop side in pixels; default: the network's own")
    parser.add_argument("--frames", type=int,
                        help=f"frames that are read of a clip; default: the network's own, or {SEGMENTS}")
    parser.add_argument("--run", type=Path, help="run folder; default runs/<data>-probe")
    parser.add_argument("--heads", nargs="+", choices=(*HEADS, *TOKEN_HEADS), default=list(HEADS),
                        help="logistic regression, nearest training clips, nearest class mean, and attention over the "
                             f"tokens of the network, which takes longer (default: {' '.join(HEADS)})")
    parser.add_argument("--group", help="a regular expression with one group, searched in each path: clips for which "
                                        "it gives the same text (one person) are never in two splits")
    parser.add_argument("--held_out", nargs="+", help="groups whose clips are the test split; all others train")
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.7, 0.15, 0.15],
                        help="shares of train, val and test where the data give no split (default 0.7 0.15 0.15)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of that split, and of --draws (default 0)")
    parser.add_argument("--folds", nargs="?", const="", metavar="GROUPS",
                        help="hold out each group once, and pool the scores; or only these, separated by commas, where "
                             "+ joins groups that are held out together")
    parser.add_argument("--num_folds", type=int, help="the number of folds, each of several groups in name order")
    parser.add_argument("--shots", nargs="+", type=int, metavar="N",
                        help="a learning curve: fit to so many clips a class, drawn --draws times")
    parser.add_argument("--draws", type=int, default=5, help="draws of the training clips of --shots (default 5)")
    # fmt: on
    add_device(parser)
    add_runtime(parser, "that of the encodings in --run, for new ones onnx on CPUs")
    add_decoder(parser)
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact probe``: encode, fit, choose, save, score and print."""
    options = parser().parse_args(args)
    from vidact.device import refuse_device  # after --help, which needs no PyTorch
    from vidact.results.figures import command_line
    from vidact.training.probe_config import ProbeSettings, default_run
    from vidact.training.probing import run_folds, run_probe

    refuse_device(options.device)
    if options.folder is not None and options.data not in (None, options.folder):
        raise ValueError(f"{options.folder} and --data {options.data} both name the data; give one of them")
    data = options.folder or options.data
    if data is None:
        raise ValueError("no data: name a folder of class folders, or one with clips.csv, as in vidact probe my_clips")
    settings = ProbeSettings(
        data=data, network=options.network, weights=options.weights, size=options.size, frames=options.frames,
        heads=options.heads, group=options.group, held_out=options.held_out, fractions=options.fractions,
        seed=options.seed, device=options.device, decoder=options.decoder,
        runtime=options.runtime,
    )  # fmt: skip
    is_folds = options.folds is not None or options.num_folds is not None
    run = options.run or default_run(data)
    if options.run is None and is_folds:
        run = run.with_name(f"{run.name}-folds")
    command = command_line()
    if options.shots:
        from vidact.training.shots import run_shots

        run_shots(settings, run, command, options.shots, options.draws, is_folds, options.folds, options.num_folds)
    elif is_folds:
        run_folds(settings, run, command, options.folds, options.num_folds)
    else:
        run_probe(settings, run, command)
