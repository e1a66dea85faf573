"""``vidact extract``: the features of videos, or their optical flow, computed once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vidact.commands import extract_flow
from vidact.commands.options import Parser
from vidact.device import refuse_device
from vidact.features.extractor import IMAGE_BACKBONES
from vidact.features.files import extract_features, find_videos
from vidact.features.names import build_extractor
from vidact.jobs import num_cores, parse_shard, refuse_workers
from vidact.results.figures import command_line, save_results
from vidact.text.names import counted, first_few
from vidact.video import (
    LONGEST_GAP_S,
)

# ---------------------------------------------------------------------------------------------- the command


def main(args: Sequence[str]) -> int:
    """``vidact extract``: 0, or 1 when a video could not be read."""
    if args and args[0] in ("-h", "--help"):
        print(HELP)
        raise SystemExit(0)  # as the parsers of the other commands
    return extract_flow.main(args[1:]) if args and args[0] == "flow" else _features(args)


HELP = """usage: vidact extract features|flow ...

  features  vectors of untrimmed videos, for detectors
  flow      optical flow of clips, for flow and two-stream networks

vidact extract features --help and vidact extract flow --help explain each."""


def _features(args: Sequence[str]) -> int:
    parser = Parser(prog="vidact extract", description="Compute once what training reads many times.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="features|flow")
    features = kinds.add_parser("features", help="one vector for every quarter of a second of each video")
    features.add_argument(
        "--videos", type=Path, required=True, help="a folder, searched with its subfolders, or a file"
    )
    features.add_argument("--out", type=Path, required=True, help="folder for <video>.npy and features.json")
    features.add_argument(
        "--network",
        default="mobilenet_v2",
        help=f"{', '.join(IMAGE_BACKBONES)}, timm/<a name there>, a clip network of vidact.models, the file of a "
        "trained one, or the extractor.safetensors of a folder of features, to make the same (default mobilenet_v2)",
    )
    features.add_argument(
        "--weights", default="default", help="a file, a published name, or none; default: the network's published ones"
    )
    features.add_argument("--size", type=int, help="crop side in pixels; default: the network's own")
    features.add_argument("--fps", type=float, default=24.0, help="frames a second of the clock (default 24)")
    features.add_argument("--chunk", type=int, default=6, help="frames of a token (default 6: 4 tokens a second)")
    features.add_argument(
        "--rgb-index", type=int, help="the frame of a chunk that an image network sees; default: middle"
    )
    features.add_argument("--flow-network", help="append features of optical flow by this network (a name or a file)")
    features.add_argument("--flow-weights", default="default", help="as --weights, for the flow network")
    features.add_argument("--flow-method", help="dis, farneback or tvl1 (default dis)")
    features.add_argument(
        "--longest-gap", type=float, default=LONGEST_GAP_S, metavar="SECONDS",
        help="fill no longer pause with frozen pictures: tokens begin anew behind it (default "
        f"{LONGEST_GAP_S:g})",
    )  # fmt: skip
    features.add_argument("--decoder", default="pyav", help="pyav, decord, opencv or torchcodec")
    features.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
    features.add_argument("--batch", type=int, help="chunks computed at once; default: 1 on a CPU, 32 elsewhere")
    features.add_argument("--workers", type=int, help="videos at the same time; default: one for each core")
    features.add_argument("--shard", default="1/1", help="do the i-th of n parts, i/n, on this machine")
    asked = parser.parse_args(args)
    refuse_device(asked.device)
    if asked.workers is not None:
        refuse_workers(asked.workers)
    part, parts = parse_shard(asked.shard)
    passed_over: list[str] = []
    find_videos(asked.videos, passed_over)  # before a network is built
    for note in passed_over:
        print(note, file=sys.stderr)
    extractor = build_extractor(
        network=asked.network,
        weights=None if asked.weights == "none" else asked.weights,
        size=asked.size,
        fps=asked.fps,
        chunk=asked.chunk,
        rgb_index=asked.rgb_index,
        flow_network=asked.flow_network,
        flow_weights=None if asked.flow_weights == "none" else asked.flow_weights,
        flow_method=asked.flow_method or "dis",
        decoder=asked.decoder,
        device=asked.device,
        batch=asked.batch,
        longest_gap_s=asked.longest_gap,
    )
    if asked.flow_method and not extractor.takes_flow:
        raise ValueError(
            f"--flow-method is {asked.flow_method}, but {asked.network} sees no flow; leave it out, or name a "
            "--flow-network"
        )
    if (workers := asked.workers) is None:
        cores = num_cores()
        workers = cores if extractor.device.type == "cpu" else min(cores, 4)  # each holds the network on the device
    print(
        f"{asked.network}: {extractor.dim} numbers a token, {extractor.tokens_per_second:g} tokens/s, "
        f"{workers} workers on {extractor.device}",
        flush=True,
    )
    if asked.weights == "none":
        print("weights none: the network is untrained and its features mean little")
    try:
        done = extract_features(asked.videos, asked.out, extractor, workers, asked.shard)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from what is in {asked.out}") from None
    report = f" (see {done.report})" if done.unreadable else ""
    print(
        f"{asked.out}: {counted(len(done.written), 'video')} written ({counted(done.tokens, 'token')}), "
        f"{len(done.kept)} were there, "
        f"{len(done.unreadable)} cannot be read{report}; {done.took_s / 60:.1f} min"
    )
    if done.paused:
        pauses = f"more than {extractor.longest_gap_s:g} s"
        print(
            f"{counted(len(done.paused), 'video pauses', 'videos pause')} for {pauses} between two frames: "
            f"{first_few(sorted(done.paused))}. "
            "Their tokens begin anew behind it, and each take is learnt and scored by itself (--longest-gap)"
        )
    if not done.written and not done.unreadable:
        return 0  # results.json keeps the figures of the run that made the features
    section = {
        "videos_written": len(done.written),
        "videos_kept": len(done.kept),
        "videos_unreadable": len(done.unreadable),
        "videos_paused": len(done.paused),
        "tokens_written": done.tokens,
        "minutes": round(done.took_s / 60, 2),
        "workers": workers,
    }
    save_results(asked.out, {"extract" if parts == 1 else f"extract_{part}_of_{parts}": section}, command_line())
    return 1 if done.unreadable else 0
