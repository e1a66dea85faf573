"""The options of ``vidact extract flow``, and its run."""

from __future__ import annotations

import argparse
from pathlib import Path

from vidact.commands.options import add_decoder, one_of
from vidact.video.flow_record import LAYOUTS, METHODS, FlowRecord


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``vidact extract flow``; the defaults are those of ``FlowRecord``."""
    parser.description = "Compute optical flow once; data.flow names the folder in training."
    parser.add_argument(
        "--videos", type=Path, help="the data's root: a folder with clips.csv, or any folder of videos or of images"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the flow and flow.json")
    parser.add_argument("--method", default=FlowRecord.method, help=f"{one_of(METHODS)} (default %(default)s)")
    parser.add_argument(
        "--size", default=str(FlowRecord.size),
        help="short side to resize to (default %(default)s), WIDTHxHEIGHT such as 340x256, or none",
    )  # fmt: skip
    parser.add_argument(
        "--bound",
        type=float,
        default=FlowRecord.bound,
        help="the motion, in pixels a frame, of level 255 (default %(default)g)",
    )
    parser.add_argument("--layout", default=FlowRecord.layout, help=f"{one_of([*LAYOUTS])} (default %(default)s)")
    parser.add_argument("--image", default=FlowRecord.image, help="jpg, or png without loss (default %(default)s)")
    parser.add_argument(
        "--quality", type=int, default=FlowRecord.quality, help="the quality of jpg, 1 to 100 (default %(default)s)"
    )
    parser.add_argument("--weights", help="a file with RAFT's weights; default: torchvision's own")
    parser.add_argument("--device", default="cpu", help="where RAFT computes: cpu, cuda or mps (default %(default)s)")
    add_decoder(parser)
    parser.add_argument("--workers", type=int, help="videos computed at the same time; default: one a core")
    parser.add_argument("--shard", default="1/1", help="compute only the i-th of n parts, i/n, on this machine")
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="compute nothing, and record the flow that another program has written into --out",
    )


def run(options: argparse.Namespace) -> int:
    """Run ``vidact extract flow``; returns 0, or 1 when a video could not be read."""
    from vidact import jobs
    from vidact.device import refuse_device
    from vidact.features.flow import extract_flow
    from vidact.results.figures import command_line, save_results
    from vidact.text.names import counted
    from vidact.video.flow_store import write_record

    refuse_device(options.device)
    if options.adopt:
        adopted = FlowRecord(
            options.method, options.bound, _parse_size(options.size), options.layout, options.image, options.quality
        )
        if not options.out.is_dir():
            raise FileNotFoundError(f"{options.out} is not a folder; --adopt is for flow that is there already")
        write_record(options.out, adopted)
        print(f"{options.out}: {options.method} flow in the layout {options.layout}, as it is")
        return 0
    if options.videos is None:
        raise ValueError("--videos is missing: name the folder of the videos")
    import cv2

    record = FlowRecord(
        options.method, options.bound, _parse_size(options.size), options.layout, options.image, options.quality,
        None if options.weights is None else Path(options.weights).name,
        None if options.method.startswith("raft") else cv2.__version__,
    )  # fmt: skip
    workers = options.workers
    if workers is None:
        workers = jobs.num_cores() if options.device == "cpu" else 1
    try:
        result = extract_flow(
            options.videos, options.out, record, workers=workers, shard=options.shard, decoder=options.decoder,
            weights=options.weights, device=options.device,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from what is in {options.out}") from None
    report = f" (see {result.report})" if result.unreadable else ""
    print(
        f"{options.out}: {counted(len(result.written), 'video')} written ({counted(result.num_fields, 'field')}), "
        f"{len(result.kept)} were there, {len(result.unreadable)} cannot be read{report}; {result.took_s / 60:.1f} min"
    )
    if result.written or result.unreadable:
        section = {
            "videos_written": len(result.written),
            "videos_kept": len(result.kept),
            "videos_unreadable": len(result.unreadable),
            "fields_written": result.num_fields,
            "minutes": round(result.took_s / 60, 2),
            "workers": workers,
        }
        name = "extract_flow" if options.shard == "1/1" else f"extract_flow_{options.shard.replace('/', '_of_')}"
        save_results(options.out, {name: section}, command_line())
    return 1 if result.unreadable else 0


def _parse_size(text: str) -> int | tuple[int, int] | None:
    if text == "none":
        return None
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError(f"size is {text!r}; write a short side such as 256, WIDTHxHEIGHT such as 340x256, or none")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
