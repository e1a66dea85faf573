"""``vidact extract``: the features of videos, or their optical flow, computed once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vidact.commands import extract_flow
from vidact.commands.options import Parser, add_decoder, add_device, add_runtime, one_of
from vidact.features.choices import CHUNK, FPS, IMAGE_NETWORKS
from vidact.video.clock import LONGEST_GAP_S
from vidact.video.flow_record import METHODS

EXTRACTOR_OPTIONS = (
    *("network", "weights", "size", "fps", "chunk", "rgb_index", "flow_network", "flow_weights", "flow_method"),
    *("decoder", "device", "batch", "window"),
)


def main(args: Sequence[str]) -> int:
    """Run ``vidact extract``; returns 0, or 1 when a video could not be read."""
    options = parser().parse_args(args)
    return extract_flow.run(options) if options.kind == "flow" else _features(options)


def parser() -> Parser:
    """Return the parser of the command and its two sub-commands."""
    parser = Parser(prog="vidact extract", description="Compute once what training reads many times.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="features|flow")
    features = kinds.add_parser("features", help="vectors of untrimmed videos for detectors, one a quarter of a second")
    extract_flow.add_options(kinds.add_parser("flow", help="optical flow of clips, for flow and two-stream networks"))
    features.add_argument(
        "--videos", type=Path, required=True, help="a folder, searched with its subfolders, or a file"
    )
    features.add_argument("--out", type=Path, required=True, help="folder for <video>.npy and features.json")
    features.add_argument(
        "--network",
        default="mobilenet_v2",
        help=f"{', '.join(IMAGE_NETWORKS)}, timm/<a name there>, a clip network of vidact.models, a published "
        "one (vidact networks --published), the file of a trained one, hf://owner/name, the extractor.safetensors of a "
        "folder of features, to make the same, or an int8 .onnx of vidact export (default %(default)s)",
    )
    features.add_argument("--weights", help="a file, a published name, or none; default: the network's published ones")
    features.add_argument("--size", type=int, help="crop side in pixels; default: the network's own")
    features.add_argument("--fps", type=float, default=FPS, help="frames a second of the clock (default %(default)g)")
    features.add_argument(
        "--chunk", type=int,
        help=f"frames of a token (default {CHUNK}: {FPS / CHUNK:g} tokens a second)",
    )  # fmt: skip
    features.add_argument(
        "--window", type=int, metavar="FRAMES",
        help="frames that a clip network reads for a token, the last of them the token's last; default: the length of "
        "the clips it was trained on where that is known (VideoMAE, V-JEPA 2: 16), else one chunk",
    )  # fmt: skip
    features.add_argument(
        "--hop", type=int, metavar="FRAMES", help="frames from one token to the next: another name of --chunk"
    )
    features.add_argument(
        "--rgb_index", type=int, help="the frame of a chunk that an image network reads; default: middle"
    )
    features.add_argument("--flow_network", help="append features of optical flow by this network (a name or a file)")
    features.add_argument("--flow_weights", help="the weights of the flow network, like --weights")
    features.add_argument("--flow_method", help=f"{one_of(METHODS)} (default {METHODS[0]})")
    features.add_argument(
        "--longest_gap", type=float, default=LONGEST_GAP_S, metavar="SECONDS",
        help="the longest pause that is filled with frozen pictures; after a longer one a new take begins (default "
        "%(default)g)",
    )  # fmt: skip
    add_decoder(features)
    add_device(features)
    add_runtime(features, "that of the folder, for a new one onnx on CPUs")
    features.add_argument("--batch", type=int, help="chunks computed at once; default: 1 on a CPU, 32 elsewhere")
    features.add_argument("--workers", type=int, help="videos computed at the same time; default: one a core")
    features.add_argument("--shard", default="1/1", help="compute only the i-th of n parts, i/n, on this machine")
    return parser


def _features(options: argparse.Namespace) -> int:
    """Run ``vidact extract features``."""
    from vidact.device import refuse_device  # after --help, which needs no PyTorch
    from vidact.features.files import extract_features, find_videos, settle_runtime
    from vidact.features.names import build_extractor
    from vidact.jobs import num_cores, parse_shard, refuse_workers
    from vidact.results.figures import command_line, save_results
    from vidact.runtimes.choices import RUNTIME_NAMES
    from vidact.text.names import counted, first_few

    refuse_device(options.device)
    if options.workers is not None:
        refuse_workers(options.workers)
    part, parts = parse_shard(options.shard)
    passed_over: list[str] = []
    find_videos(options.videos, passed_over)  # before a network is built
    for note in passed_over:
        print(note, file=sys.stderr)
    if None not in (options.hop, options.chunk) and options.hop != options.chunk:
        raise ValueError(
            f"--hop is {options.hop} and --chunk is {options.chunk}; both are the frames from one token to the next, "
            "so give one of them. --window is how many frames a token is made of"
        )
    values = {name: getattr(options, name) for name in EXTRACTOR_OPTIONS}
    values["chunk"] = options.chunk if options.hop is None else options.hop
    set_values = {name: value for name, value in values.items() if value is not None}
    for name in ("weights", "flow_weights"):
        if values[name] == "none":
            set_values[name] = None
    extractor = build_extractor(**set_values, longest_gap_s=options.longest_gap)
    if options.flow_method and not extractor.takes_flow:
        raise ValueError(
            f"--flow_method is {options.flow_method}, but {options.network} sees no flow; leave it out, or name a "
            "--flow_network"
        )
    settle_runtime(options.out, extractor, options.runtime)
    if (workers := options.workers) is None:
        cores = num_cores()
        workers = cores if extractor.device.type == "cpu" else min(cores, 4)  # each holds the network on the device
    window = f", each of the last {extractor.window} frames ({extractor.window / extractor.fps:.2f} s)"
    print(
        f"{options.network}: {extractor.dim} numbers a token, {extractor.tokens_per_second:g} tokens/s"
        f"{'' if extractor.window == extractor.chunk_size else window}, {workers} workers on {extractor.device} "
        f"in {RUNTIME_NAMES[extractor.runtime]}",
        flush=True,
    )
    if options.weights == "none":
        print("weights none: the network is untrained and its features mean little")
    try:
        result = extract_features(options.videos, options.out, extractor, workers, options.shard)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from what is in {options.out}") from None
    report = f" (see {result.report})" if result.unreadable else ""
    print(
        f"{options.out}: {counted(len(result.written), 'video')} written ({counted(result.tokens, 'token')}), "
        f"{len(result.kept)} were there, "
        f"{len(result.unreadable)} cannot be read{report}; {result.took_s / 60:.1f} min"
    )
    if result.paused:
        pauses = f"more than {extractor.longest_gap_s:g} s"
        print(
            f"{counted(len(result.paused), 'video pauses', 'videos pause')} for {pauses} between two frames: "
            f"{first_few(sorted(result.paused))}. "
            "Their tokens begin again after it, and each take is learnt and scored separately (--longest_gap)"
        )
    if not result.written and not result.unreadable:
        return 0  # results.json keeps the figures of the run that made the features
    section = {
        "videos_written": len(result.written),
        "videos_kept": len(result.kept),
        "videos_unreadable": len(result.unreadable),
        "videos_paused": len(result.paused),
        "tokens_written": result.tokens,
        "minutes": round(result.took_s / 60, 2),
        "workers": workers,
    }
    save_results(options.out, {"extract" if parts == 1 else f"extract_{part}_of_{parts}": section}, command_line())
    return 1 if result.unreadable else 0
