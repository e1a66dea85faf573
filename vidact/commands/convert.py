"""``vidact convert``: a checkpoint that another repository published becomes a file of vidact."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidact.commands.options import Parser
from vidact.convert import SEGMENTS, arguments_of, convert, reference, remarks
from vidact.models.weights import REFERENCES
from vidact.video.sample import ClipSampler, LegacySampler, SegmentSampler

# ---------------------------------------------------------------------------------------------- the command


def main(args: Sequence[str]) -> int:
    """``vidact convert``."""
    parser = Parser(
        prog="vidact convert", allow_abbrev=False,
        description="Turn a published checkpoint into a file that vidact opens. Further options are what the layout's "
        "names do not tell: vidact convert --origin tsm --help-origin lists them.",
    )  # fmt: skip
    parser.add_argument("--origin", required=True, help=f"the layout: {', '.join(sorted(REFERENCES))}")
    parser.add_argument("--file", type=Path, help="the published checkpoint")
    parser.add_argument("--out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--classes", type=Path, help="a file with one class name a line")
    parser.add_argument("--dense", action="store_true", help="a dense window of 64 frames (TSM), instead of segments")
    parser.add_argument(
        "--spread",
        type=int,
        metavar="N",
        help="N frames spread over the whole video, where a window is the layout's rule",
    )
    parser.add_argument("--help-origin", action="store_true", help="what the layout takes")
    asked, others = parser.parse_known_args(args)
    function = reference(asked.origin)
    known = arguments_of(function)
    if asked.help_origin:
        print(inspect.getdoc(function))
        for name, parameter in known.items():
            default = "" if parameter.default is parameter.empty else f" (default {parameter.default})"
            print(f"  --{name}  {parameter.annotation}{default}")
        return 0
    if asked.file is None or asked.out is None:
        raise ValueError("name the checkpoint with --file and the result with --out")
    extra = Parser(prog=f"vidact convert --origin {asked.origin}", allow_abbrev=False, add_help=False)
    for name in known:
        extra.add_argument(f"--{name}", type=_value, default=argparse.SUPPRESS)
    hyperparameters = vars(extra.parse_args(others))
    sampling: ClipSampler | None = None
    if asked.dense and asked.spread:
        raise ValueError("--dense is a window of frames and --spread is not; give one of them")
    if asked.spread:
        sampling = SegmentSampler(asked.spread)
    if asked.dense:
        frames = hyperparameters.get("num_segments", SEGMENTS)
        sampling = LegacySampler("tsm_dense", int(frames))
    network: Any = convert(asked.origin, asked.file, asked.out, asked.classes, sampling, **hyperparameters)
    record = network.record
    used = record["converted"]["hyperparameters"]
    print(f"{asked.out}: {record['recipe']['builder']}, {sum(p.numel() for p in network.parameters()):,} parameters, "
          f"{len(record['classes'])} classes")  # fmt: skip
    print("  " + ", ".join(f"{name} {value}" for name, value in used.items()))
    if "sampling" in record:
        print(f"  sampling: {record['sampling']['name']} {record['sampling']['arguments']}")
    for remark in remarks(network, hyperparameters | used):
        print(f"  {remark}")
    return 0


def _value(text: str) -> Any:
    """A number, true, false, null or a list as JSON has them; anything else is a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text
