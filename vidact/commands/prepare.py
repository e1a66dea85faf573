"""``vidact prepare``: check a set of videos, re-encode it, pack it, or import a set of other repositories."""

from __future__ import annotations

import argparse
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidact.commands import prepare_import
from vidact.commands.options import Parser
from vidact.prepare.settings import CODECS, PackSettings, TranscodeSettings
from vidact.text.names import counted, first_few

if TYPE_CHECKING:
    from vidact.prepare.sets import Prepared


def parser() -> Parser:
    """Return the parser of the command: written by hand, since some options have no value."""
    parser = Parser(prog="vidact prepare", description="Check videos, re-encode or pack them; import sets.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="check|transcode|pack|import")
    checking = kinds.add_parser("check", help="report errors of files, lists and splits, as JSON and a page")
    checking.add_argument(
        "--group",
        help="a regular expression with one group that is searched in each path, for the person or the source video; "
        "by default the column group of the lists",
    )
    checking.add_argument(
        "--least_frames", type=int, default=8, help="shorter videos are reported (default %(default)s)"
    )
    checking.add_argument("--show", action="store_true", help="open the page in a browser")
    coding = kinds.add_parser("transcode", help="the same set with a key frame every few frames and a smaller side")
    coding.add_argument(
        "--gop",
        type=int,
        default=TranscodeSettings.gop,
        help="frames from one key frame to the next (default %(default)s)",
    )
    coding.add_argument("--codec", default=TranscodeSettings.codec, choices=list(CODECS), help="default %(default)s")
    coding.add_argument(
        "--psnr",
        type=float,
        default=TranscodeSettings.psnr,
        help="the least quality of a copy in dB (default %(default)s)",
    )
    coding.add_argument("--crf", type=float, help="the encoder's rate factor instead of --psnr; lower is better")
    coding.add_argument(
        "--preset", default=TranscodeSettings.preset, help="the preset of the encoder (default %(default)s)"
    )
    coding.add_argument(
        "--b_frames",
        type=int,
        default=TranscodeSettings.b_frames,
        help="the most B-frames in a row (default %(default)s)",
    )
    packing = kinds.add_parser("pack", help="the same set as JPEGs in a few large shards")
    packing.add_argument(
        "--fps",
        type=float,
        default=PackSettings.fps,
        help="the most frames a second that are kept (default %(default)g)",
    )
    packing.add_argument("--all_frames", action="store_true", help="keep every frame, whatever the rate")
    packing.add_argument(
        "--quality",
        type=int,
        default=PackSettings.quality,
        help="the quality of the JPEGs, 1 to 100 (default %(default)s)",
    )
    packing.add_argument(
        "--shard_mib",
        type=float,
        default=PackSettings.shard_mib,
        help="MiB of source videos in a shard (default %(default)g)",
    )
    for kind in (coding, packing):
        kind.add_argument("--out", type=Path, required=True, help="a new folder, or that of an earlier run")
        kind.add_argument(
            "--short_side",
            type=int,
            default=TranscodeSettings.short_side,
            help="the longest short side in pixels; 0 for any (default %(default)s)",
        )
        kind.add_argument(
            "--missing",
            choices=["raise", "skip"],
            default="raise",
            help="the rule for listed or linked videos without a file",
        )
        kind.add_argument("--verify", action="store_true", help="read everything again and compare hashes")
    checking.add_argument("--out", type=Path, help="folder of the report (default runs/check-<folder>)")
    for kind in (checking, coding, packing):
        kind.add_argument("--data", type=Path, required=True, help="a folder of videos, with or without lists")
        kind.add_argument("--workers", type=int, help="videos processed at the same time; default: one a core")
    prepare_import.add_options(
        kinds.add_parser("import", help="features and labels of other repositories become a folder to train on")
    )
    return parser


def main(args: Sequence[str]) -> int:
    """Run ``vidact prepare``; returns 0, or 1 when something is wrong with a video or the set."""
    options = parser().parse_args(args)
    if options.kind == "import":
        return prepare_import.run(options)
    from vidact.jobs import num_cores
    from vidact.prepare.sets import pack_set, transcode_set
    from vidact.results.figures import command_line, save_results

    workers = num_cores() if options.workers is None else options.workers
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process works")
    try:
        if options.kind == "check":
            return _check(options, workers)
        began = time.monotonic()
        short_side = options.short_side or None
        common = {"workers": workers, "missing": options.missing, "verify": options.verify}
        if options.kind == "transcode":
            result = transcode_set(
                options.data,
                options.out,
                TranscodeSettings(
                    short_side, options.gop, options.codec, options.psnr, options.crf, options.preset, options.b_frames
                ),
                **common,
            )
        else:
            fps = None if options.all_frames else options.fps
            settings = PackSettings(short_side, fps, options.quality, options.shard_mib)
            result = pack_set(options.data, options.out, settings, **common)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here") from None
    if result.has_changed or not (result.out / "results.json").exists():
        save_results(result.out, {options.kind: result.figures}, command_line())
    print(_summary(result, time.monotonic() - began))
    return 1 if result.unreadable else 0


def _check(options: argparse.Namespace, workers: int) -> int:
    """Run ``vidact prepare check``."""
    from vidact.prepare.check import CHECK, check_set, summary_lines, unlabelled_text

    out = options.out or Path("runs") / f"check-{options.data.resolve().name}"
    checked = check_set(options.data, out, options.group, options.least_frames, workers)
    for finding in checked.findings:
        print(f"{finding.severity:>7}  {finding.kind}: {first_few(finding.videos, 3) or options.data}: {finding.words}")
    for line in summary_lines(checked.classes):
        print(f"  {line}")
    if checked.unlabelled is not None:
        print(unlabelled_text(checked.unlabelled))
    kinds = ", ".join(f"{count} {kind}" for kind, count in checked.kinds().items()) or "nothing found"
    print(f"{len(checked.facts)} videos: {kinds}\nreport: {checked.page} and {out / CHECK}")
    if options.show and checked.page is not None:
        webbrowser.open(checked.page.resolve().as_uri())
    return 1 if checked.findings else 0


def _summary(result: Prepared, seconds: float) -> str:
    """Return the lines that a command ends with."""
    from vidact.jobs import size_text, time_text

    figures = result.figures
    lines = [
        f"{result.out}: {counted(result.written, 'video')} written, {result.unchanged} were there, "
        f"{len(result.unreadable)} cannot be read"
        + (f" (see {result.report})" if result.unreadable else "")
        + f"; {time_text(seconds)}",
        f"{size_text(figures['bytes'])}, {figures['bytes_ratio']:.2f}x the sources; PSNR to the scaled sources: median "
        f"{figures['psnr_median']:.2f} dB, least {figures['psnr_least']:.2f} dB",
    ]
    if figures.get("below_the_psnr_asked"):
        lines.append(f"{figures['below_the_psnr_asked']} videos stay below the PSNR asked: 4:2:0 does not reach it")
    if "frames_kept" in figures:
        lines.append(f"{figures['frames_kept']} of {figures['frames_of_sources']} frames are kept")
    return "\n".join(lines)
