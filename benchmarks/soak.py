"""Check that an endless stream does not grow: memory, threads, file descriptors and the time of a step.

    python benchmarks/soak.py --out runs/soak                    # 15 minutes or 200,000 steps, whichever comes first
    python benchmarks/soak.py --minutes 1440 --steps 0 --out runs/soak     # a day; 0: no limit

One endless live source sends noise. Every 500 steps another source is added, answered and removed, like a visitor of
the page. A step is one answer. Writes soak.png and results.json into ``out``.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jsonargparse
import numpy as np
import torch

import vidact.models
from vidact.events import EventDetector
from vidact.features.names import build_extractor
from vidact.files import replacing
from vidact.results.figures import command_line, save_results
from vidact.stream import Engine, Grab, StreamModel

FPS = 24.0
VISIT_EVERY = 500  # steps
ROWS = 60  # rows of the table; a full table loses every second row, so that it does not grow


class Endless:
    """A live source that is as fast as its reader, until it is closed or after ``seconds``."""

    is_live = True

    def __init__(self, name: str, seconds: float = float("inf")) -> None:
        self.name, self.seconds, self.is_closed = name, seconds, False
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(16)]

    def __iter__(self) -> Iterator[Grab]:
        for number in itertools.count():
            if self.is_closed or number / FPS > self.seconds:
                return
            yield Grab(number / FPS, self.images[number % 16].copy(), time.monotonic(), 0)

    def close(self) -> None:
        self.is_closed = True


def main(
    minutes: float = 15.0,
    steps: int = 200_000,
    warm_up: float = 0.1,
    out: str | None = None,
) -> dict[str, float]:
    """Print the table.

    Args:
        minutes: longest duration.
        steps: largest number of answers; 0: no limit.
        warm_up: share of the run after which memory must not grow.
        out: folder for soak.png and results.json.
    """
    if not Path("/proc/self/statm").exists():
        raise RuntimeError("memory and file descriptors are read from /proc, which only Linux has")
    if not minutes > 0 or steps < 0 or not 0 < warm_up < 1:
        raise ValueError(f"minutes is {minutes:g}, steps {steps} and warm_up {warm_up:g}; give times above 0")
    rows = measure(minutes, steps)
    print(f"{'minutes':>8}{'steps':>10}{'MiB':>9}{'threads':>9}{'files':>7}{'ms a step':>11}")
    for row in rows[:: max(1, len(rows) // 10)]:
        print(
            f"{row['minutes']:8.2f}{row['steps']:10.0f}{row['mib']:9.1f}{row['threads']:9.0f}{row['files']:7.0f}"
            f"{row['step_ms']:11.2f}"
        )
    warm = [row for row in rows if row["steps"] >= warm_up * rows[-1]["steps"]]
    part = max(1, len(warm) // 5)

    def grown(name: str) -> float:
        first, last = (float(np.median([row[name] for row in some])) for some in (warm[:part], warm[-part:]))
        return last - first

    figures = {key: rows[-1][key] for key in ("steps", "minutes")}
    figures |= {f"{name}_growth": grown(name) for name in ("mib", "threads", "files")}
    figures["memory_growth"] = figures["mib_growth"] / warm[0]["mib"]
    print(
        f"after the first {warm_up:.0%}: memory {figures['memory_growth']:+.2%} ({figures['mib_growth']:+.1f} MiB), "
        f"threads {figures['threads_growth']:+.0f}, file descriptors {figures['files_growth']:+.0f}"
    )
    if out is not None:
        draw(rows, warm[0]["minutes"], Path(out) / "soak.png")
        print(save_results(out, {"soak": figures}, command_line(), rows=rows))
    return figures


def measure(minutes: float, steps: int) -> list[dict[str, float]]:
    """Return rows of the process's memory, threads and files, evenly spaced over the run."""
    extractor = build_extractor("resnet_tiny", None, 32, device="cpu")
    torch.manual_seed(0)
    network = vidact.models.miniroad_small(4, extractor.dim, embedding_dim=32, hidden_dim=32).eval()
    classes = ["a", "b", "c"]
    detector = EventDetector(classes, extractor.tokens_per_second, on=0.34, off=0.3, smoothing=0.2)
    model = StreamModel(network, classes, extractor.tokens_per_second, detector, extractor)
    rows: list[dict[str, float]] = []
    started = row_time = time.monotonic()
    count = row_count = 0
    every = 50  # steps from a row to the next
    with Engine(model) as engine:
        engine.add(Endless("endless"))
        for update in engine.updates():
            if update.source != "endless":
                continue
            count += 1
            if count % VISIT_EVERY == 0:
                engine.add(Endless("visitor", seconds=3.0))
            now = time.monotonic()
            is_over = count == steps or now - started > 60 * minutes
            if count % every == 0 or is_over:
                rows.append(
                    {
                        "minutes": (now - started) / 60,
                        "steps": count,
                        "mib": int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20,
                        "threads": threading.active_count(),
                        "files": len(list(Path("/proc/self/fd").iterdir())),
                        "step_ms": 1000 * (now - row_time) / (count - row_count),
                    }
                )
                row_time, row_count = time.monotonic(), count
                if len(rows) > 2 * ROWS:
                    rows, every = rows[1::2], 2 * every
            if is_over:
                return rows
    return rows


def draw(rows: list[dict[str, float]], warm_minutes: float, path: Path) -> None:
    """Draw memory, threads and files over time."""
    from matplotlib import pyplot as plt

    times = [row["minutes"] for row in rows]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 4.2), layout="constrained")
    above.plot(times, [row["mib"] for row in rows], color="#1f6fb2")
    above.set_ylim(0, 1.25 * max(row["mib"] for row in rows))
    above.set_ylabel("memory, MiB")
    above.axvline(warm_minutes, color="0.6", linewidth=1)
    above.text(warm_minutes, 0, " warm", color="0.4", va="bottom")
    for name, colour in (("threads", "#c2571a"), ("files", "#3a8f4d")):
        below.plot(times, [row[name] for row in rows], color=colour, label=name)
    below.set_ylim(bottom=0)
    below.set_xlabel("minutes")
    below.legend(frameon=False, ncols=2)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as half:
        figure.savefig(half, format="png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
