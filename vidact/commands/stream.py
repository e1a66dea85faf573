"""``vidact stream``: name the actions before a camera, in a file or on the network, while they happen."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vidact.commands.options import Parser, add_device, add_runtime
from vidact.data.time_origin import TimeOrigin
from vidact.stream.grabs import GAP_S, Source
from vidact.text.addresses import public, without_secrets
from vidact.video.clock import LONGEST_GAP_S

if TYPE_CHECKING:
    from vidact.stream.model import StreamModel
    from vidact.stream.window.player import States


def open_model(checkpoint: Path, runtime: str, **settings: Any) -> StreamModel:
    """Return the model of a checkpoint or of an .onnx file.

    Args:
        checkpoint: the file, or the name of a published network.
        runtime: as in ``load_model``. The step of an .onnx runs in onnxruntime.
        settings: other keywords of ``load_model``.
    """
    if checkpoint.suffix == ".onnx":
        from vidact.export.runtime import load_onnx

        return load_onnx(checkpoint, runtime=runtime, **settings)
    from vidact.stream.model import load_model

    return load_model(checkpoint, runtime=runtime, **settings)


def refuse_torch(checkpoint: Path, runtime: str) -> None:
    """Raise ValueError where an .onnx file is to run in PyTorch."""
    if checkpoint.suffix == ".onnx" and runtime == "torch":
        raise ValueError(f"{checkpoint} runs in onnxruntime; leave --runtime torch out")


DEMO = Path("runs/demo")  # where ``vidact demo`` leaves what it made
STREAMED_BY = "that which a detector's features were made in, else onnx on CPUs"  # --runtime auto
LONGEST_TIMELINE_S = 3600.0
NO_CHECKPOINT = """a stream needs a trained network: --checkpoint runs/…/checkpoints/best.ckpt. Ways to one:
  --checkpoint movinet_a0_stream
      a published network, which knows the 600 actions of Kinetics-600; 15 MB are downloaded once
  vidact demo
      makes videos and trains small networks on them: to see what it is, in minutes
  vidact train --data.root my_clips
      a recogniser that answers frame by frame, from one folder of clips for each action
  vidact extract features --videos my_videos --out my_videos/features
  vidact train --config online/fir/miniroad --data.root my_videos
      an online detector, from long videos with events.csv (video,start_s,end_s,label) and videos.csv (video,split)"""


def main(args: Sequence[str]) -> int:
    """Run ``vidact stream``; returns 0, or 1 when one of several sources failed or something could not be written.

    An error that ends all sources is raised.
    """
    options = parse(args)
    # imported after --help, which needs no PyTorch
    from vidact.stream.window.player import STANDARD_OUTPUT, Player, States, Stop
    from vidact.stream.window.process import Window

    stop, states = Stop(), States()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_messages())
        window = None if options.no_window else stack.enter_context(Window(on_close=stop))
        model = open_model(
            options.checkpoint, options.runtime, extractor=options.extractor, events=events_at(options.threshold),
            horizon_s=options.horizon, restart_s=options.restart, device=options.device,
        )  # fmt: skip
        model.longest_gap_s = options.longest_gap
        sources = open_sources(options, stack, states)
        player = Player(
            model, sources, states,
            window=window, count=len(options.source), limit_s=options.seconds, timeline_s=options.timeline,
            jsonl=options.jsonl, events=options.events, snapshots=options.snapshots,
            record=options.record, segment_s=options.record_segment,
        )  # fmt: skip
        try:
            with stop.on_signals(list(sources.values())), contextlib.closing(player):
                player.play()
        finally:
            # without this the interpreter would print an error when it flushes the standard output at its end
            if player.has_lost_reader or STANDARD_OUTPUT in player.failing:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if player.has_failed or states.failed else 0


def open_sources(options: argparse.Namespace, stack: contextlib.ExitStack, states: States) -> dict[int, Source]:
    """Return the sources by their positions in the command; ``stack`` closes them.

    The only source has to open. Of several, a camera or address that does not open now is tried again while the others
    are watched, and a file that cannot be read is left out; one that is not there, or a wrong kind of address, is a
    typing mistake, and an error.
    """
    from vidact.stream.sources import is_live_address, open_source
    from vidact.video.reader import VideoError

    sources: dict[int, Source] = {}
    errors: list[Exception] = []
    for number, uri in enumerate(options.source):
        # A file that is as fast as it is read; what is live always runs in real time.
        settings: dict[str, Any] = {"realtime": None if options.fast else True}
        if is_live_address(uri):
            settings |= {"on_state": states.of(number), "waits": len(options.source) > 1}
        if uri in options.insecure:
            settings["verify"] = False
        if options.time_origin != "first_frame":
            settings["time_origin"] = options.time_origin
        try:
            source = open_source(uri, **settings)
        except (VideoError, PermissionError) as error:
            if len(options.source) == 1:
                raise
            errors.append(error)
            print(f"left out: {error}", file=sys.stderr)
            states.of(number, without_secrets(uri))("failed", str(error))
        else:
            sources[number] = stack.enter_context(source)
            states.names.setdefault(number, source.name)
    if not sources:
        raise errors[0]
    return sources


def parser() -> Parser:
    """Return the parser of the command: written by hand, since some options have no value and others are repeated."""
    parser = Parser(
        prog="vidact stream",
        description="Name the actions of a camera, a file or a network stream while they happen.",
        epilog="q in the window, Ctrl-C or SIGTERM ends it; everything is then written out. JSON lines and events are "
        "written as they happen. Of a recording that is killed, all but the last seconds plays. What a live source "
        "left in an earlier run stays: lines are appended, recordings and pictures get other names. A name may hold "
        "the date: --events events-%%Y%%m%%d.csv.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="best.ckpt of a run, a .safetensors that vidact saved, a published network that streams, or "
        "hf://owner/name",
    )
    parser.add_argument(
        "--source", action="append", metavar="SOURCE",
        help="a camera's number (default 0), a video file, a folder, or rtsp://, http:// …; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--insecure_source", action="append", default=[], metavar="SOURCE",
        help="one of the https or rtsps sources, whose certificate is not checked",
    )  # fmt: skip
    parser.add_argument("--no_window", action="store_true", help="open no window, for machines without a display")
    parser.add_argument("--fast", action="store_true", help="play files as fast as they are computed")
    parser.add_argument(
        "--time_origin", choices=get_args(TimeOrigin), default="first_frame",
        help="where a file's seconds begin: at its first picture (default), or at the start of the file, as in players",
    )  # fmt: skip
    parser.add_argument("--jsonl", metavar="FILE", help="one JSON object an answer; - is the standard output")
    parser.add_argument("--events", type=Path, metavar="FILE", help="a table of the events: an events.csv with scores")
    parser.add_argument(
        "--record", type=Path, metavar="FILE",
        help="an mp4 of what the window shows; of several sources one each, FILE-1.mp4 and so on",
    )  # fmt: skip
    parser.add_argument(
        "--record_segment", type=_duration, default="1h", metavar="TIME",
        help="a recording continues in another file after this time: 90s, 30m, 1h, 1d (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--snapshots", type=Path, metavar="FOLDER", help="a picture of each event when it begins")
    parser.add_argument("--seconds", type=float, help="the seconds of each source after which to end")
    parser.add_argument("--threshold", type=float, help="probability at which an event begins; default: as tuned")
    add_horizon(parser)
    parser.add_argument(
        "--longest_gap", type=float, metavar="SECONDS",
        help="after a longer pause of a source a new stream begins; default: as the features were made for "
        f"a file, else {LONGEST_GAP_S:g}, and {GAP_S:g} for what is live",
    )  # fmt: skip
    parser.add_argument(
        "--timeline", type=float, default=10.0, help="seconds that the picture shows (default %(default)g)"
    )
    parser.add_argument(
        "--extractor", type=Path, help="the extractor of a detector's features, if not in the checkpoint"
    )
    add_device(parser)
    add_runtime(parser, STREAMED_BY)
    return parser


def add_horizon(parser: Parser) -> None:
    """Add the options by which the user chooses how far back a recogniser's answers reach."""
    parser.add_argument(
        "--horizon", type=float, metavar="SECONDS",
        help="the time that an answer of a recogniser is about; inf: all since the beginning, the rule of published "
        "weights; default: as long as a training clip",
    )  # fmt: skip
    parser.add_argument(
        "--restart",
        type=float,
        metavar="SECONDS",
        help="a recogniser starts anew after this time, instead of --horizon",
    )


def parse(args: Sequence[str]) -> argparse.Namespace:
    """Return the options, with --source filled in; raises ValueError for values that cannot be."""
    options = parser().parse_args(args)
    if options.checkpoint is None:
        raise ValueError(_without_checkpoint(args))
    if options.seconds is not None and not 0 < options.seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"--seconds is {options.seconds:g}; give a number above 0")
    if not 0 < options.timeline <= LONGEST_TIMELINE_S:
        raise ValueError(f"--timeline is {options.timeline:g}; give seconds above 0, at most {LONGEST_TIMELINE_S:g}")
    if options.longest_gap is not None and not 0 < options.longest_gap < math.inf:
        raise ValueError(f"--longest_gap is {options.longest_gap:g}; give seconds above 0")
    events_at(options.threshold)  # before anything is opened
    refuse_torch(options.checkpoint, options.runtime)
    from vidact.device import refuse_device
    from vidact.stream.sources import without_certificates

    refuse_device(options.device)
    options.source = options.source or ["0"]
    options.insecure = without_certificates(options.insecure_source, {public(uri): uri for uri in options.source})
    options.record = _numbered(options.record, len(options.source))
    _refuse_overwriting(options)
    return options


def events_at(threshold: float | None) -> dict[str, Any]:
    """Return the settings of a model's events that --threshold changes."""
    if threshold is None:
        return {}
    if not 0 < threshold <= 1:
        raise ValueError(f"--threshold is {threshold:g}; a threshold on probabilities is above 0 and at most 1")
    return {"on": threshold, "off": None}


def _duration(text: str) -> float:
    """Return the seconds of "90", "90s", "30m", "1h" or "1d"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time above 0; write 90s, 30m, 1h or 1d")
    return seconds


def _without_checkpoint(args: Sequence[str]) -> str:
    """Return the message for a user without a checkpoint: ways to one, and the demo's where there is one."""
    try:
        checkpoint, sources_of_demo = demo_model()
    except ValueError:
        return NO_CHECKPOINT
    has_source = any(word.split("=")[0] == "--source" for word in args)
    sources = [] if has_source else [word for path in sources_of_demo.values() for word in ("--source", path)]
    command = shlex.join(["vidact", "stream", "--checkpoint", str(checkpoint), *sources, *args])
    return f"{NO_CHECKPOINT}\nThe demo has left one, which knows the actions of its own videos alone:\n  {command}"


def demo_model(demo: Path = DEMO) -> tuple[Path, dict[str, str]]:
    """Return the newest detector of ``vidact demo``, and a video that it was not trained on, by its name.

    Raises ValueError, with ways to a network, where the demo has left no detector.
    """
    from vidact.data.event_list import load_videos
    from vidact.models.weights import read

    checkpoints = sorted(demo.glob("*/checkpoints/best.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    checkpoint = next((path for path in checkpoints if _is_detector(read(path)[1] or {})), None)
    if checkpoint is None:
        raise ValueError(NO_CHECKPOINT)
    table = demo / "untrimmed" / "videos.csv"
    if not table.exists():
        return checkpoint, {}
    tested = [table.parent / video for video, split in load_videos(table).items() if split == "test"]
    return checkpoint, {"a video of the demo": str(tested[0])} if tested else {}


def _is_detector(record: Mapping[str, Any]) -> bool:
    """Return whether a record is of an online detector; that of an offline network has a kind."""
    return "features" in record and "kind" not in record


def _refuse_overwriting(options: argparse.Namespace) -> None:
    """Raise ValueError for an output that is a folder, a source, among a source's files, or another output as well.

    Raises OSError for one that another process writes.
    """
    from vidact.stream.window.writers import dated, refuse_in_use

    outputs_by_path: dict[Path, str] = {}
    outputs = [("--record", path) for path in options.record]
    outputs += [("--events", options.events), ("--snapshots", options.snapshots)]
    outputs += [("--jsonl", Path(options.jsonl))] if options.jsonl not in (None, "-") else []
    sources = {Path(uri).resolve(): uri for uri in options.source if "://" not in uri}
    for option, path in outputs:
        if path is None:
            continue
        path = dated(path)
        if option == "--snapshots" and path.is_file():
            raise ValueError(f"--snapshots is {path}, which is a file; name a folder for the pictures")
        if option != "--snapshots" and path.is_dir():
            raise ValueError(f"{option} is {path}, which is a folder; name a file, in it or elsewhere")
        if option in ("--events", "--jsonl"):  # a recording may get another name
            refuse_in_use(path)
        target = path.resolve()
        if target in outputs_by_path:
            raise ValueError(f"{outputs_by_path[target]} and {option} are both {path}; give each its own name")
        outputs_by_path[target] = option
        if target in sources:
            raise ValueError(f"{option} is {path}, which is a source; choose another name, or it would be overwritten")
        if option != "--snapshots" and target.parent in sources:
            raise ValueError(
                f"{option} is {path}, inside the source {sources[target.parent]}, whose files are played; "
                "choose a name outside it"
            )


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Print the messages of the sources and the engine, one a line: lost, back, damaged."""
    log, handler = logging.getLogger("vidact.stream"), logging.StreamHandler(sys.stderr)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _numbered(path: Path | None, count: int) -> list[Path]:
    """Return one path a source."""
    if path is None or count == 1:
        return [path] if path else []
    return [path.with_name(f"{path.stem}-{number + 1}{path.suffix}") for number in range(count)]
