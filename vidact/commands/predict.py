"""``vidact predict``: the actions of files or of every video in a folder, or the events in them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidact.commands.options import Parser, add_decoder, add_device, add_runtime

if TYPE_CHECKING:
    from vidact.untrimmed.finder import VideoEvents

TOP = 5  # labels of a video
OF_EVENTS = ("events", "page", "cut", "min_score", "extractor")  # options for events alone


def parser() -> Parser:
    """Return the parser of the command: written by hand, since several paths are named, and --json has no value."""
    parser = Parser(
        prog="vidact predict",
        description="Name the actions of videos with a recogniser, or find the events in long videos with a localiser, "
        "a segmenter or an online detector.",
    )
    parser.add_argument(
        "path", type=Path, nargs="+", help="video files, folders of a video's images, or folders that are searched"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="best.ckpt of a run, a .safetensors that vidact saved, a published network (vidact networks "
        "--published), hf://owner/name, or an .onnx of a recogniser's whole clips (vidact export), also in int8",
    )
    parser.add_argument("--top", type=int, default=TOP, help="labels a video (default %(default)s)")
    parser.add_argument(
        "--views",
        help="clips x crops to average, such as 10x3 (default 1x1; of a published network as many windows as cover the "
        "video, at most ten)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for each video")
    parser.add_argument(
        "--annotate", type=Path,
        help="write the video with its labels, or the timeline of its events, drawn on; a folder for several",
    )  # fmt: skip
    events = parser.add_argument_group("events, of localisers, segmenters and online detectors")
    events.add_argument("--events", type=Path, metavar="FILE", help="a table of the events: an events.csv with scores")
    events.add_argument(
        "--min_score", type=float, metavar="SCORE",
        help="leave out events of a lower score, 0 to 1; default: as chosen in the validation, 0 for detectors",
    )  # fmt: skip
    events.add_argument(
        "--page", type=Path, metavar="FILE",
        help="an .html page: the videos, their timelines, and a picture of each event, which plays it",
    )  # fmt: skip
    events.add_argument(
        "--cut", type=Path, metavar="FOLDER", help="write a clip of each event, into a folder for each class"
    )
    events.add_argument(
        "--extractor", type=Path, help="the extractor of the network's features, if not in the checkpoint"
    )
    add_device(parser)
    add_runtime(parser, "that of the network's features, else onnx on CPUs for ten videos or more")
    add_decoder(parser)
    return parser


def main(args: Sequence[str]) -> int:
    """Run ``vidact predict``; returns 0, or 1 when a video of a folder could not be read."""
    options = parser().parse_args(args)
    from vidact.device import refuse_device  # after --help, which needs no PyTorch
    from vidact.prediction import annotated_paths, find_videos, open_network, refuse_choices
    from vidact.runtimes.choices import refuse_runtime

    refuse_device(options.device)
    refuse_runtime(options.runtime)
    refuse_choices(options.top, options.views)
    refuse_scores(options.min_score)
    is_drawn = options.annotate and all(path.exists() for path in options.path)
    targets = annotated_paths(options.path, options.annotate) if is_drawn else {}
    notes: list[str] = []
    videos = find_videos(options.path, notes)
    network: Any = open_network(options.checkpoint)
    for note in notes:
        print(note, file=sys.stderr)
    from vidact.models.offline import OfflineNetwork
    from vidact.models.online import OnlineNetwork

    if isinstance(network, OfflineNetwork | OnlineNetwork):
        return _events(options, network, videos, targets)
    if unfit := [name for name in OF_EVENTS if getattr(options, name) is not None]:
        raise ValueError(
            f"--{unfit[0]} is for networks that find events in long videos, and {options.checkpoint} names whole "
            "clips; leave it out, or give a localiser, a segmenter or an online detector"
        )
    return _labels(options, network, targets)


def refuse_scores(min_score: float | None) -> None:
    """Raise ValueError for a least score that no score can be compared with."""
    if min_score is not None and not 0 <= min_score <= 1:
        raise ValueError(f"--min_score is {min_score:g}; scores lie from 0 to 1")


def _labels(options: argparse.Namespace, network: Any, targets: Mapping[Path, Path]) -> int:
    """Name the actions of whole clips."""
    from vidact.prediction import annotate, predictions

    failed = 0
    for prediction in predictions(
        options.path,
        options.checkpoint,
        top=options.top,
        views=options.views,
        device=options.device,
        decoder=options.decoder,
        runtime=options.runtime,
        network=network,
    ):
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


def _events(options: argparse.Namespace, network: Any, videos: Sequence[Path], targets: Mapping[Path, Path]) -> int:
    """Find the events of the videos; what is finished stays when a later video fails, or after Ctrl-C."""
    from vidact.jobs import Meter
    from vidact.prediction import is_one_video
    from vidact.text.names import counted
    from vidact.untrimmed.finder import VideoEvents, find_events, open_finder, with_scores
    from vidact.untrimmed.outputs import Outputs, refuse_outputs, video_names
    from vidact.video import VideoError

    if options.views is not None or options.top != TOP:
        raise ValueError(
            f"--views and --top are for recognisers, and {options.checkpoint} finds events; leave them out"
        )
    names = video_names(videos, options.path)
    refuse_outputs(options.events, options.page, options.cut, options.path)
    finder = open_finder(
        network, name=options.checkpoint, extractor=options.extractor, device=options.device, runtime=options.runtime
    )
    if options.decoder not in ("pyav", finder.extractor.decoder):
        raise ValueError(
            f"--decoder is {options.decoder}, but the features of {options.checkpoint} were made with "
            f"{finder.extractor.decoder}; leave it out"
        )
    least = finder.min_score if options.min_score is None else options.min_score
    written = [path for path in (options.events, options.page, options.annotate, options.cut) if path is not None]
    meter = Meter({video: max(video.stat().st_size, 1) for video in videos})
    meter.begin()
    failed = finished = 0
    with contextlib.closing(
        Outputs(finder.classes, finder.extractor.decoder, options.events, options.page, targets, options.cut)
    ) as outputs:
        try:
            for video in videos:

                def move(share: float, video: Path = video) -> None:
                    meter.move(video, share)

                try:
                    answer = find_events(finder, video, names[video], move)
                except (VideoError, OSError) as error:
                    if len(videos) == 1 and is_one_video(options.path[0]):
                        raise
                    answer = VideoEvents(video, names[video], error=str(error))
                    failed += 1
                shown = with_scores(answer, least)
                outputs.write(shown)
                meter.finish(video)
                finished += not answer.error
                _clear_line()
                if options.json:
                    print(json.dumps(_plain(shown)), flush=True)
                elif not answer.error:
                    _print(shown, len(answer.events) - len(shown.events), least)
                if answer.error:
                    print(f"{video}: {answer.error}", file=sys.stderr)
        except KeyboardInterrupt:
            what = f"{counted(finished, 'video')} of {len(videos)}"
            kept = f"the events of {what} are written" if written else f"{what} were finished"
            raise KeyboardInterrupt(kept) from None
    if not options.json:
        for path in written:
            if path.exists():  # no clip is cut where there is no event
                print(path)
    return 1 if failed else 0


def _clear_line() -> None:
    """Remove the line of progress, which would stand before what is printed next."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{'':{width}}\r", end="", file=sys.stderr, flush=True)


def _plain(answer: VideoEvents) -> dict[str, Any]:
    rows = [
        {
            "start_s": round(event.start_s, 4),
            "end_s": round(event.end_s, 4),
            "label": event.label,
            "score": round(event.score, 4),
        }
        for event in answer.events
    ]
    return {
        "path": str(answer.path),
        "video": answer.video,
        "duration_s": round(answer.duration_s, 4),
        "took_s": round(answer.took_s, 3),
        "events": rows,
        "error": answer.error,
    }


def _print(answer: VideoEvents, left_out: int, least: float) -> None:
    from vidact.text.names import counted

    print(
        f"{answer.path}  {counted(len(answer.events), 'event')} in {answer.duration_s:.1f} s of video, in "
        f"{answer.took_s:.1f} s"
    )
    for event in answer.events:
        print(f"    {event.start_s:9.2f} - {event.end_s:9.2f} s  {event.score:6.1%}  {event.label}")
    if left_out:
        print(f"    {counted(left_out, 'event')} of a score below {least:.3g} left out; --min_score 0 lists all")
    sys.stdout.flush()
