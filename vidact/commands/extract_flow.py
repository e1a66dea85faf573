"""The options of ``vidact extract flow``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidact import jobs
from vidact.commands.options import Parser
from vidact.device import refuse_device
from vidact.features.flow import extract_flow
from vidact.results.figures import command_line, save_results
from vidact.text.names import counted
from vidact.video.flow import BOUND, METHODS
from vidact.video.flow_store import LAYOUTS, FlowRecord, write_record

# ---------------------------------------------------------------------------------------------- the command


def main(args: Sequence[str]) -> int:
    """``vidact extract flow``: 0, or 1 when a video could not be read."""
    parser = Parser(
        prog="vidact extract flow", description="Compute optical flow once; data.flow names the folder in training."
    )
    parser.add_argument(
        "--videos", type=Path, help="the data's root: a folder with clips.csv, or any folder of videos or of images"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the flow and flow.json")
    parser.add_argument("--method", default="dis", help=f"{', '.join(METHODS)} (default dis)")
    parser.add_argument(
        "--size", default="256", help="short side to resize to (default 256), WIDTHxHEIGHT such as 340x256, or none"
    )
    parser.add_argument("--bound", type=float, default=BOUND, help="pixels a frame that level 255 is (default 20)")
    parser.add_argument("--layout", default="packed", help=f"{', '.join(LAYOUTS)} (default packed)")
    parser.add_argument("--image", default="jpg", help="jpg, or png without loss (default jpg)")
    parser.add_argument("--quality", type=int, default=95, help="of jpg (default 95)")
    parser.add_argument("--weights", help="a file with RAFT's weights; default: torchvision's own")
    parser.add_argument("--device", default="cpu", help="where RAFT computes: cpu, cuda or mps (default cpu)")
    parser.add_argument("--decoder", default="pyav", help="pyav, decord, opencv or torchcodec")
    parser.add_argument("--workers", type=int, help="videos at the same time; default: one for each core")
    parser.add_argument("--shard", default="1/1", help="do the i-th of n parts, i/n, on this machine")
    parser.add_argument(
        "--adopt", action="store_true", help="compute nothing: say what flow another program has put into --out"
    )
    asked = parser.parse_args(args)
    refuse_device(asked.device)
    if asked.adopt:
        adopted = FlowRecord(
            asked.method, asked.bound, _parse_size(asked.size), asked.layout, asked.image, asked.quality
        )
        if not asked.out.is_dir():
            raise FileNotFoundError(f"{asked.out} is not a folder; --adopt is for flow that is there already")
        write_record(asked.out, adopted)
        print(f"{asked.out}: {asked.method} flow in the layout {asked.layout}, as it is")
        return 0
    if asked.videos is None:
        raise ValueError("--videos is missing: name the folder of the videos")
    import cv2

    record = FlowRecord(
        asked.method, asked.bound, _parse_size(asked.size), asked.layout, asked.image, asked.quality,
        None if asked.weights is None else Path(asked.weights).name,
        None if asked.method.startswith("raft") else cv2.__version__,
    )  # fmt: skip
    workers = asked.workers
    if workers is None:
        workers = jobs.num_cores() if asked.device == "cpu" else 1
    try:
        done = extract_flow(
            asked.videos, asked.out, record, workers=workers, shard=asked.shard, decoder=asked.decoder,
            weights=asked.weights, device=asked.device,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from what is in {asked.out}") from None
    report = f" (see {done.report})" if done.unreadable else ""
    print(
        f"{asked.out}: {counted(len(done.written), 'video')} written ({counted(done.num_fields, 'field')}), "
        f"{len(done.kept)} were there, {len(done.unreadable)} cannot be read{report}; {done.took_s / 60:.1f} min"
    )
    if done.written or done.unreadable:
        section = {
            "videos_written": len(done.written),
            "videos_kept": len(done.kept),
            "videos_unreadable": len(done.unreadable),
            "fields_written": done.num_fields,
            "minutes": round(done.took_s / 60, 2),
            "workers": workers,
        }
        name = "extract_flow" if asked.shard == "1/1" else f"extract_flow_{asked.shard.replace('/', '_of_')}"
        save_results(asked.out, {name: section}, command_line())
    return 1 if done.unreadable else 0


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
