"""``vidact predict``: the actions of files or of every video in a folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vidact.commands.options import Parser, add_decoder, add_device, add_runtime


def parser() -> Parser:
    """Return the parser of the command: written by hand, since several paths are named, and --json has no value."""
    parser = Parser(prog="vidact predict", description="Name the actions of videos.")
    parser.add_argument(
        "path", type=Path, nargs="+", help="video files, folders of a video's images, or folders that are searched"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="best.ckpt of a run, a .safetensors that vidact saved, a published network (vidact networks "
        "--published), or hf://owner/name",
    )
    parser.add_argument("--top", type=int, default=5, help="labels a video (default %(default)s)")
    parser.add_argument(
        "--views",
        help="clips x crops to average, such as 10x3 (default 1x1; of a published network as many windows as cover the "
        "video, at most ten)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--annotate", type=Path, help="write the video with its labels drawn on; a folder for several")
    add_device(parser)
    add_runtime(parser, "that of a probe's features, else onnx on CPUs for ten videos or more")
    add_decoder(parser)
    return parser


def main(args: Sequence[str]) -> int:
    """Run ``vidact predict``; returns 0, or 1 when a video of a folder could not be read."""
    options = parser().parse_args(args)
    from vidact.device import refuse_device  # after --help, which needs no PyTorch
    from vidact.prediction import annotate, annotated_paths, predictions

    refuse_device(options.device)
    is_drawn = options.annotate and all(path.exists() for path in options.path)
    targets = annotated_paths(options.path, options.annotate) if is_drawn else {}
    failed = 0
    notes: list[str] = []
    for prediction in predictions(
        options.path,
        options.checkpoint,
        top=options.top,
        views=options.views,
        device=options.device,
        decoder=options.decoder,
        runtime=options.runtime,
        notes=notes,
    ):
        while notes:
            print(notes.pop(0), file=sys.stderr)
        if options.json:
            print(json.dumps(dataclasses.asdict(prediction)), flush=True)
        elif not prediction.error:
            print(f"{prediction.path}  {prediction.start_s:.2f}-{prediction.end_s:.2f} s, in {prediction.took_s:.2f} s")
            for label, score in prediction.labels:
                print(f"    {score:6.1%}  {label}")
        if prediction.error:
            failed += 1
            print(f"{prediction.path}: {prediction.error}", file=sys.stderr)
        elif options.annotate:
            annotate(prediction, targets[Path(prediction.path)], decoder=options.decoder)
    return 1 if failed else 0
