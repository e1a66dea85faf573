"""CPU seconds from a command to its first answer, beside those of ``python -c "import torch"`` alone.

    python benchmarks/start.py
    python benchmarks/start.py --rounds 9 --beside ../old         # also for another checkout
    python benchmarks/start.py --out runs/start                   # figures also in runs/start/results.json

Every command runs in a new process; the rounds of all commands alternate, and the figures are medians. A row's CPU
seconds are the user and system time of the process and its threads until the first line of an answer, or, where a
command is marked "whole", until its end. Beside them are their difference from ``import torch`` of the same run, their
ratio, and the seconds on the clock.

    predict            the whole command for one clip of three seconds: TSM on MobileNetV2, in PyTorch
    predict, onnx      the same in ONNX Runtime, with the graph in its cache
    stream, torch      a file of 26 seconds, to the first line of ``--jsonl -``: MiniROAD on MobileNetV2
    stream, onnx       the same in ONNX Runtime, with the graph in its cache
    extract, onnx      the whole ``vidact extract features`` of the clip with one worker
    serve              to the line with the address of the page

The networks have random weights, which cost as much as trained ones. Making the graph the first time is a line of its
own.
"""

from __future__ import annotations

import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import torch

import vidact.models
from vidact.features.names import build_extractor
from vidact.models.weights import attach, save
from vidact.results.figures import command_line, save_results
from vidact.video import SegmentSampler
from vidact.video.numbered import write_numbered_video

ROOT = Path(__file__).parents[1]
CLASSES = [f"action {number}" for number in range(20)]
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0


@dataclass(frozen=True)
class Start:
    """A command that is measured until a line of its output contains ``until``; None is the end of the command.

    In ``words``, {number} stands for another number in each process, and {port} for a free port.
    """

    words: list[str]
    until: str | None = None


def commands(folder: Path, size: int) -> dict[str, Start]:
    """Write the networks and the videos into ``folder``; return the commands by name."""
    torch.manual_seed(0)
    tsm = vidact.models.tsm_mobilenet_v2(len(CLASSES), weights=None, size=size)
    facts = {"classes": CLASSES, "multi_label": False}
    save(tsm, folder / "tsm.safetensors", {**facts, "sampling": SegmentSampler(8).record()})
    extractor = build_extractor("mobilenet_v2", None, size, device="cpu")
    extractor.save(folder / "extractor.safetensors")
    detector = vidact.models.miniroad(1 + len(CLASSES), extractor.dim)
    attach(detector, extractor_state=extractor.state())
    features = extractor.record()
    save(detector, folder / "detector.safetensors", {
        **facts, "features": features, "tokens_per_second": extractor.tokens_per_second, "scores": "softmax",
    })  # fmt: skip
    for name, seconds in (("clip.mp4", 3), ("long.mp4", 26)):
        write_numbered_video(folder / name, 25 * seconds)
    recogniser, detector_file = str(folder / "tsm.safetensors"), str(folder / "detector.safetensors")
    clip, long = str(folder / "clip.mp4"), str(folder / "long.mp4")
    stream = ["stream", "--checkpoint", detector_file, "--source", long, "--no_window", "--fast", "--jsonl", "-"]
    vectors = ["--network", str(folder / "extractor.safetensors"), "--workers", "1", "--runtime", "onnx"]
    return {
        "predict": Start(["predict", clip, "--checkpoint", recogniser, "--device", "cpu", "--runtime", "torch"]),
        "predict, onnx": Start(["predict", clip, "--checkpoint", recogniser, "--device", "cpu", "--runtime", "onnx"]),
        "stream, torch": Start([*stream, "--device", "cpu", "--runtime", "torch"], until="{"),
        "stream, onnx": Start([*stream, "--device", "cpu", "--runtime", "onnx"], until="{"),
        "extract, onnx": Start(["extract", "features", "--videos", clip, "--out", "features-{number}", *vectors]),
        "serve": Start(["serve", "--checkpoint", detector_file, "--device", "cpu", "--port", "{port}"], until="http"),
    }


def measure(words: list[str], until: str | None, environment: dict[str, str], folder: str) -> tuple[float, float]:
    """Return CPU and wall seconds of a new process until a line of its standard output contains ``until``."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda lines: errors.extend(lines), args=(process.stderr,), daemon=True)
    reader.start()
    answered: tuple[float, float] | None = None
    for line in process.stdout:
        if until is not None and until in line:
            answered = cpu_seconds(process.pid), time.perf_counter() - began
            process.kill()
            break
    if until is None:
        process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    process.stdout.close()
    process.stderr.close()
    if until is None and process.returncode == 0:
        answered = used.ru_utime + used.ru_stime, time.perf_counter() - began
    if answered is None:
        raise RuntimeError(f"{' '.join(words)} gave no answer:\n{''.join(errors)}")
    return answered


def free_port() -> int:
    """Return the number of a port that no program uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def cpu_seconds(pid: int) -> float:
    """Return the user and system seconds of a running process and all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def main(rounds: int = 5, beside: Path | None = None, size: int = 224, out: Path | None = None) -> None:
    """Print a table of the starts.

    Args:
        rounds: processes of each command, one a round.
        beside: another checkout, for rows of its own.
        size: the side of the networks' images in pixels.
        out: folder for results.json.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least one process of each command is measured")
    if not Path("/proc/self/stat").exists():
        raise RuntimeError("the CPU time of a running process is read from /proc, which only Linux has")
    checkouts = {"": ROOT, **({f" ({beside.name})": beside.resolve()} if beside else {})}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts = commands(folder, size)
        environments = {
            suffix: {
                **os.environ,
                "PYTHONPATH": str(checkout),
                "VIDACT_HOME": str(folder / f"home{number}" / "weights"),
            }
            for number, (suffix, checkout) in enumerate(checkouts.items())
        }
        numbers = itertools.count()  # of the folders of features

        def run(command: str, suffix: str) -> tuple[float, float]:
            start = starts[command]
            fresh = {"number": next(numbers), "port": free_port()}
            words = ["-m", "vidact", *(word.format(**fresh) for word in start.words)]
            return measure(words, start.until, environments[suffix], name)

        for suffix in checkouts:
            run("predict, onnx", suffix)  # makes the graph of its network
            cpu_s, wall_s = run("stream, onnx", suffix)
            figures[f"the graph made{suffix}"] = {"cpu_s": cpu_s, "wall_s": wall_s}
        times: dict[str, list[tuple[float, float]]] = {"import torch": []}
        times |= {f"{command}{suffix}": [] for command in starts for suffix in checkouts}
        for _ in range(rounds):
            times["import torch"].append(measure(["-c", "import torch"], None, environments[""], name))
            for command in starts:
                for suffix in checkouts:
                    times[f"{command}{suffix}"].append(run(command, suffix))
    torch_s = statistics.median(cpu_s for cpu_s, _ in times["import torch"])
    for row, values in times.items():
        cpu_s, wall_s = (statistics.median(column) for column in zip(*values, strict=True))
        figures[row] = {"cpu_s": cpu_s, "wall_s": wall_s, "more_s": cpu_s - torch_s, "ratio": cpu_s / torch_s}
    print(f"PyTorch {torch.__version__}, {os.cpu_count()} cores, medians of {rounds} rounds")
    print(f"{'':26}{'CPU, s':>9}{'more, s':>9}{'ratio':>8}{'wall, s':>9}")
    for row, values in figures.items():
        if "ratio" in values:
            print(f"{row:26}{values['cpu_s']:9.2f}{values['more_s']:9.2f}{values['ratio']:8.2f}{values['wall_s']:9.2f}")
    for suffix in checkouts:
        made = figures[f"the graph made{suffix}"]
        print(f"stream, onnx{suffix}, when its graph is made: {made['cpu_s']:.2f} CPU s, {made['wall_s']:.2f} s")
    if out is not None:
        print(save_results(out, figures, command_line()))


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
