"""The command line: ``vidact <command>``; each command is a file of ``vidact/commands``, imported late."""

from __future__ import annotations

if __name__ == "__main__":  # `python -m vidact.cli` is passed on before the slow imports
    import runpy

    runpy.run_module("vidact", run_name="__main__")
    raise SystemExit

import argparse
import contextlib
import difflib
import importlib
import importlib.abc
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from threading import current_thread, main_thread
from typing import Any, NamedTuple

from vidact import __version__
from vidact.text.addresses import without_secrets


class Command(NamedTuple):
    """A line of the help: what a command does, and an example of its options."""

    sentence: str
    example: str


CHECKPOINT = "--checkpoint runs/x/checkpoints/best.ckpt"
# The name of a command is the name of its module in vidact/commands. Its function ``main(args)`` runs the command.
COMMANDS = {
    "train": Command("train a network on videos", "--data.root my_clips"),
    "test": Command("score a trained network", "--config runs/x/config.yaml --ckpt best --data.views 10x3"),
    "folds": Command("cross-validate over groups", "--config clip/weizmann/tsm_mobilenetv2"),
    "compare": Command("several networks, several seeds", "--config online/fir/miniroad online/fir/lstr"),
    "probe": Command("heads on a frozen network", "--data my_clips"),
    "extract": Command("features or optical flow", "features --videos my_videos --out my_features"),
    "prepare": Command("check, re-encode, pack or import", "check --data my_clips"),
    "predict": Command("name the actions of files", f"{CHECKPOINT} clip.mp4"),
    "export": Command("ONNX or torch.export files", f"{CHECKPOINT} --out x.onnx"),
    "stream": Command("name actions while they happen", f"{CHECKPOINT} --source 0"),
    "serve": Command("a web page that names them live", CHECKPOINT),
    "fuse": Command("join score files by video", "rgb/scores.npz flow/scores.npz --weights 1 1.5"),
    "push": Command("a run becomes hf://owner/name", "runs/x hf://owner/name --licence apache-2.0"),
    "convert": Command("open published weights", "--origin tsm --file x.pth --out y.safetensors"),
    "networks": Command("what each network is and costs", ""),
    "report": Command("draw a run's results again", "runs/x"),
    "doctor": Command("what is installed, what works", ""),
    "demo": Command("make data, train, score, report", ""),
}


# Commands to start with, each with what it does; the first word is the command.
FIRST_STEPS = {
    "stream --checkpoint movinet_a0_stream": "name what your webcam sees, among 600 actions (15 MB, downloaded once)",
    "predict --checkpoint movinet_a0_stream clip.mp4": "name a video",
    "probe --data my_clips": "train a recogniser, from one folder of videos per class",
}


def first_steps_text() -> str:
    """Return the text of ``vidact`` without a command: three lines to start from."""
    lines = [f"  {f'vidact {command}':55} {sentence}" for command, sentence in FIRST_STEPS.items()]
    return "\n".join([*lines, "\nvidact demo needs no videos, camera or network; vidact --help lists all commands.\n"])


def help_text() -> str:
    """Return the text of ``vidact --help``: one line a command."""
    lines = [
        f"  {name:9} {about.sentence:33} vidact {name} {about.example}".rstrip() for name, about in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: vidact COMMAND [options]\n",
            *lines,
            "\nvidact COMMAND --help explains each; vidact --version prints the version.",
            "A checkpoint may be the name of a published network (vidact networks --published) or hf://owner/name, and",
            "is then downloaded once; with --offline no command downloads one.\n",
        ]
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run one command. An error that the user can repair prints one line, without a traceback; the status is 2."""
    args = sys.argv[1:] if args is None else list(args)
    if not args:
        print(first_steps_text(), end="")
        return
    if args[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return
    if args[0] in ("--version", "-V"):
        print(f"vidact {__version__}")
        return
    if args[0] not in COMMANDS:
        close = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        print(f"vidact: no command {without_secrets(args[0])!r}{hint} Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    args = without_offline(args)
    # By default the threads of PyTorch wait in a loop. Where other programs use the processor, such a loop keeps the
    # thread that is waited for from running, and an answer or a step of a training takes many times as long
    # (benchmarks/threads.py). OpenMP reads this variable when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet()
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # only the first of the processes of a training prints
    try:
        with record_ctrl_c() as pressed, interrupt_for_errors(pressed), loading_line(args[0] if is_first else None):
            status = importlib.import_module(f"vidact.commands.{args[0]}").main(args[1:])
    except KeyboardInterrupt as stop:
        if is_first:
            print(f"{chr(10) * sys.stderr.isatty()}stopped{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError, MemoryError, argparse.ArgumentError) as error:
        if os.environ.get("VIDACT_TRACEBACK"):
            raise
        from vidact.training.config import in_plain_words

        print(
            f"vidact {args[0]}: {without_secrets(in_plain_words(str(error)))}\n(VIDACT_TRACEBACK=1 shows where)",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except Exception as error:
        if type(error).__name__ == "MisconfigurationException" and not os.environ.get("VIDACT_TRACEBACK"):
            # Lightning raises this error for options that it refuses.
            message = without_secrets(str(error))
            print(f"vidact {args[0]}: {message}\n(VIDACT_TRACEBACK=1 shows where)", file=sys.stderr)
            raise SystemExit(2) from None
        # OutOfMemoryError is PyTorch's error for the memory of a GPU.
        if type(error).__name__ != "OutOfMemoryError" or os.environ.get("VIDACT_TRACEBACK"):
            raise
        print(
            f"vidact {args[0]}: {error}\nthe GPU's memory is full: a smaller --data.batch_size takes less, and "
            "--model.checkpoint_blocks true trains the same network in less",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    if status:
        raise SystemExit(status)


def without_offline(args: Sequence[str]) -> list[str]:
    """Return the words of a command without ``--offline``, which sets ``VIDACT_OFFLINE``; see ``vidact.hub``."""
    end = args.index("--") if "--" in args else len(args)
    if "--offline" in args[:end]:
        os.environ["VIDACT_OFFLINE"] = "1"
    return [*(word for word in args[:end] if word != "--offline"), *args[end:]]


class Notice(importlib.abc.MetaPathFinder):
    """An import finder that prints a line before PyTorch is imported, which takes seconds; it finds no module."""

    def __init__(self, line: str) -> None:
        self.line: str | None = line

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "torch" and self.line:
            print(self.line, file=sys.stderr, flush=True)
            self.line = None


@contextlib.contextmanager
def loading_line(command: str | None) -> Iterator[None]:
    """Print a line when the block imports PyTorch; None prints no line."""
    notice = Notice(f"vidact {command}: loading …")
    if command is not None and "torch" not in sys.modules:
        sys.meta_path.insert(0, notice)
    try:
        yield
    finally:
        if notice in sys.meta_path:
            sys.meta_path.remove(notice)


@contextlib.contextmanager
def record_ctrl_c() -> Iterator[list[int]]:
    """Yield a list to which each Ctrl-C adds an entry before it interrupts; empty where another handler is set."""
    pressed: list[int] = []

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread():
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def interrupt_for_errors(pressed: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt in place of an error that follows Ctrl-C.

    Some libraries catch the interrupt while they are imported, and then fail because they are half imported.
    """
    try:
        yield
    except Exception:
        if pressed and not os.environ.get("VIDACT_TRACEBACK"):
            raise KeyboardInterrupt from None
        raise


def quiet() -> None:
    """Suppress warnings of other packages that a user can do nothing about."""
    import logging

    for pattern in ("LightningCLI's args parameter", ".*does not have many workers.*", ".*torch.jit.script.*",
                  ".*number of training batches.*", ".*log_every_n_steps.*", ".*isinstance.treespec.*",
                  ".*Checkpoint directory.*exists and is not empty.*", ".*sync_dist=True.* on epoch level.*",
                  ".*Total length of `list` across ranks is zero.*", ".*in eval mode at the start of.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
