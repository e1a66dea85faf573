"""``vidact convert``: a checkpoint that another repository published becomes a file of vidact."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidact.commands.options import Parser
from vidact.prepare.releases import FRAME_SETS, RELEASES
from vidact.text.layouts import OFFLINE, REFERENCES

if TYPE_CHECKING:
    from vidact.models.offline_decoding import Grid
    from vidact.video.sample import ClipSampler


# The data sets of published offline networks, and the released features of localisers that were trained on them.
SETS = ("thumos14", "epic100", "activitynet", *FRAME_SETS)
RELEASE_OF = {("tridet", "activitynet"): "activitynet_tsp"} | {
    (origin, name): release
    for origin in ("actionformer", "tridet")
    for name, release in (("thumos14", "thumos_i3d"), ("epic100", "epic_slowfast"))
}


def parser() -> Parser:
    """Return the parser of the command: written by hand, since the options of a layout come on top of its own."""
    parser = Parser(
        prog="vidact convert", allow_abbrev=False,
        description="Turn a published checkpoint into a file that vidact opens. Further options are the "
        "hyperparameters of the layout: vidact convert --origin tsm --help_origin lists them.",
    )  # fmt: skip
    parser.add_argument("--origin", required=True, help=f"the layout: {', '.join(sorted(REFERENCES))}")
    parser.add_argument("--file", type=Path, help="the published checkpoint, or hf://owner/name/file")
    parser.add_argument("--out", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--classes",
        type=Path,
        help="a file with one class name a line, the mapping.txt of a segmenter's data set, or kinetics400, "
        "kinetics600, kinetics700, something_v2, diving48",
    )
    parser.add_argument("--dense", action="store_true", help="a dense window of 64 frames (TSM), instead of segments")
    parser.add_argument(
        "--spread",
        type=int,
        metavar="N",
        help="N frames spread over the whole video, where a window is the layout's rule",
    )
    offline = parser.add_argument_group(f"for {', '.join(OFFLINE)}")
    offline.add_argument(
        "--trained_on",
        choices=SETS,
        help="the data set of the file: settings that no tensor tells, the rate of a segmenter and its background",
    )
    offline.add_argument("--release", choices=sorted(RELEASES), help="the published features that the network reads")
    offline.add_argument(
        "--grid",
        metavar="STRIDE,FRAMES,FPS",
        help="the same for other features: frames from one to the next, frames that each is made of, frames a second, "
        "such as 4,16,30",
    )
    offline.add_argument(
        "--background",
        metavar="NAME",
        help="the class of a segmenter that is no action, or none; by default background or SIL",
    )
    parser.add_argument("--help_origin", action="store_true", help="list the options of the layout")
    return parser


def parser_of_origin(origin: str, names: Iterable[str]) -> Parser:
    """Return the parser of the hyperparameters of a layout, which the command's own parser leaves over."""
    parser = Parser(prog=f"vidact convert --origin {origin}", allow_abbrev=False, add_help=False)
    for name in names:
        parser.add_argument(f"--{name}", type=_value, default=argparse.SUPPRESS)
    return parser


def main(args: Sequence[str]) -> int:
    """Run ``vidact convert``."""
    command_parser = parser()
    options, others = command_parser.parse_known_args(args)
    from vidact.convert import SEGMENTS, arguments_of, convert, reference, remarks
    from vidact.video.sample import LegacySampler, SegmentSampler

    function = reference(options.origin)
    parameters = arguments_of(function)
    if options.help_origin:
        print(inspect.getdoc(function))
        for name, parameter in parameters.items():
            default = "" if parameter.default is parameter.empty else f" (default {parameter.default})"
            print(f"  --{name}  {parameter.annotation}{default}")
        return 0
    command_parser.refuse_misspelt(others, [f"--{name}" for name in parameters])
    if options.file is None or options.out is None:
        raise ValueError("name the checkpoint with --file and the result with --out")
    hyperparameters = vars(parser_of_origin(options.origin, parameters).parse_args(others))
    sampling: ClipSampler | None = None
    if options.dense and options.spread:
        raise ValueError("--dense is a window of frames and --spread is not; give one of them")
    if options.spread:
        sampling = SegmentSampler(options.spread)
    if options.dense:
        frames = hyperparameters.get("num_segments", SEGMENTS)
        sampling = LegacySampler("tsm_dense", int(frames))
    grid, background = _time_and_background(options)
    network: Any = convert(
        options.origin, options.file, options.out, options.classes, sampling, grid=grid, background=background,
        trained_on=options.trained_on, **hyperparameters,
    )  # fmt: skip
    from vidact.models.weights import record_of

    record = record_of(network)
    assert record.recipe is not None
    assert record.converted is not None
    used = record.converted["hyperparameters"]
    print(f"{options.out}: {record.recipe['builder']}, {sum(p.numel() for p in network.parameters()):,} parameters, "
          f"{len(record.classes)} classes")  # fmt: skip
    print("  " + ", ".join(f"{name} {value}" for name, value in used.items()))
    if record.sampling is not None:
        print(f"  sampling: {record.sampling['name']} {record.sampling['arguments']}")
    for remark in remarks(network, hyperparameters | used):
        print(f"  {remark}")
    return 0


def _time_and_background(options: argparse.Namespace) -> tuple[Grid | None, str | None]:
    """Return where the features of an offline network lie in time, and the background of a segmenter, if stated."""
    from vidact.models.offline_decoding import Grid

    background, trained_on = options.background, options.trained_on
    if options.release and options.grid:
        raise ValueError("--release and --grid both say where the features lie in time; give one of them")
    if options.grid:
        try:
            stride, frames, fps = map(float, options.grid.split(","))
        except ValueError:
            raise ValueError(
                f"--grid is {options.grid}; give three numbers, STRIDE,FRAMES,FPS, such as --grid 4,16,30"
            ) from None
        return Grid(stride, frames, fps), background
    release = options.release or RELEASE_OF.get((options.origin, trained_on))
    if release:
        windows = RELEASES[release]
        return Grid(windows.stride, windows.frames, windows.fps), background
    if trained_on in FRAME_SETS:
        facts = FRAME_SETS[trained_on]
        # A segmenter has one background; a second one of the set stays an action.
        return Grid.of(facts.fps / facts.every), background or facts.background[0]
    return None, background


def _value(text: str) -> Any:
    """Return a number, true, false, null or a list as JSON has them, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
