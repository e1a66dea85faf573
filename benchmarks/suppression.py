"""Compare the suppression of a localiser's candidates with a plain loop over the same candidates.

    python benchmarks/suppression.py                        # 10,000 candidates of 20 classes
    python benchmarks/suppression.py --num_candidates 2000 --num_classes 200 --repeats 9

The candidates are drawn around 200 events of a video of an hour, as a localiser's are. Both sides give the same events,
which is checked. They alternate; the figures are medians of the repeats, of wall time and of the CPU time of the
process.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch

from vidact.models.offline_decoding import NARROW, Decoding, suppress
from vidact.results.figures import command_line, save_results

CASES = {
    "soft, per class": Decoding(),
    "soft, per class, no cap": Decoding(max_events=None),
    "soft, all together": Decoding(per_class=False),
    "soft, all together, voting": Decoding(per_class=False, voting_overlap=0.7),
    "hard, per class": Decoding(nms="hard"),
    "hard, all together": Decoding(nms="hard", per_class=False),
}


def make_candidates(num_candidates: int, num_classes: int, seed: int = 0) -> torch.Tensor:
    """Return candidates (n, 4), start, end, class and score, near 200 events of 3,600 s at 4 tokens a second."""
    rng = np.random.default_rng(seed)
    centre, length, label = rng.uniform(0, 14400, 200), rng.gamma(2.0, 20.0, 200) + 2, rng.integers(0, num_classes, 200)
    event = rng.integers(0, 200, num_candidates)
    middle = centre[event] + rng.normal(0, 0.3, num_candidates) * length[event]
    half = 0.5 * length[event] * rng.lognormal(0, 0.4, num_candidates)
    labels = np.where(rng.random(num_candidates) < 0.5, label[event], rng.integers(0, num_classes, num_candidates))
    scores = rng.beta(0.6, 3.0, num_candidates).clip(0.001)
    return torch.from_numpy(np.stack([middle - half, middle + half, labels, scores], 1))


def plain_loop(rows: list[list[float]], settings: Decoding) -> list[list[float]]:
    """Return what ``suppress`` returns, one candidate after the other."""
    groups = sorted({row[2] for row in rows}) if settings.per_class else [None]
    events: list[list[float]] = []
    for label in groups:
        left = [list(row) for row in rows if label is None or row[2] == label]
        if settings.nms == "hard":
            left = [row for row in left if row[3] > settings.min_score]
        count = 0
        while left and count < (settings.max_events or math.inf):
            best = max(left, key=lambda row: row[3])
            events.append(best)
            count += 1
            still = []
            for row in left:
                if row is best:
                    continue
                shared = max(0.0, min(best[1], row[1]) - max(best[0], row[0]))
                overlap = shared / (best[1] - best[0] + row[1] - row[0] + 2 * NARROW - shared)
                if settings.nms == "hard":
                    if overlap < settings.overlap:
                        still.append(row)
                else:
                    row[3] *= math.exp(-(overlap**2) / settings.sigma)
                    if row[3] >= settings.min_score:
                        still.append(row)
            left = still
    events = sorted(events, key=lambda row: -row[3])[: settings.max_events]
    if settings.per_class or settings.voting_overlap is None:
        return events
    voted = []
    for start, end, label, score in events:
        total = sums = sume = 0.0
        for a, b, _, weight in rows:
            shared = max(0.0, min(end, b) - max(start, a))
            overlap = shared / (end - start + b - a - shared)
            if overlap >= settings.voting_overlap:
                total, sums, sume = total + weight * overlap, sums + weight * overlap * a, sume + weight * overlap * b
        voted.append([sums / total, sume / total, label, score])
    return voted


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main(
    num_candidates: int = 10_000, num_classes: int = 20, repeats: int = 5, threads: int = 1, out: str | None = None
) -> None:
    """Compare the suppression of a localiser's candidates with a plain loop over the same candidates.

    Args:
        num_candidates: candidates of one video.
        num_classes: their classes.
        repeats: times that each side runs.
        threads: PyTorch's threads.
        out: folder for results.json; None writes none.
    """
    for name, value in (("num_candidates", num_candidates), ("num_classes", num_classes), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it is at least 1")
    torch.set_num_threads(threads)
    rows = make_candidates(num_candidates, num_classes)
    listed = rows.tolist()
    suppress(rows[:100], Decoding())  # the first call loads what PyTorch loads late
    print(f"{num_candidates} candidates of {num_classes} classes, medians of {repeats}, {threads} thread(s)")
    print(f"{'':28}{'events':>8}{'tensors':>11}{'CPU':>10}{'plain loop':>13}{'CPU':>10}{'ratio':>8}")
    results: dict[str, Any] = {}
    for name, settings in CASES.items():
        ours, plain = [], []
        for _ in range(repeats):
            ours.append(timed(lambda settings=settings: suppress(rows, settings)))
            plain.append(timed(lambda settings=settings: plain_loop(listed, settings)))
        events, expected = ours[0][2].numpy(), np.array(plain[0][2])
        if events.shape != expected.shape or not np.allclose(events, expected, rtol=1e-6, atol=1e-9):
            raise AssertionError(f"{name}: the plain loop gives other events")
        wall, cpu, plain_wall, plain_cpu = (
            statistics.median(run[at] for run in side) for side in (ours, plain) for at in (0, 1)
        )
        results[name] = {
            "events": len(events), "seconds": wall, "cpu_seconds": cpu, "plain_seconds": plain_wall,
            "plain_cpu_seconds": plain_cpu, "ratio": plain_cpu / cpu,
        }  # fmt: skip
        print(
            f"{name:28}{len(events):8}{wall:10.3f}s{cpu:9.3f}s{plain_wall:12.3f}s{plain_cpu:9.3f}s"
            f"{plain_cpu / cpu:8.1f}"
        )
    if out is not None:
        save_results(Path(out), {"suppression": results}, command_line())


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
