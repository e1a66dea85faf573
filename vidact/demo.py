"""``vidact demo``: make videos, train three small networks on them, score them, and put it all on one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from vidact import cli
from vidact.data.synthetic import ORDER_PAIRS, write_clips
from vidact.plots import draw_order
from vidact.report import write_summary
from vidact.results import save_results
from vidact.scores import Scores, load_scores
from vidact.video import SegmentSampler, open_video

NETWORKS = ("tsn", "trn", "tsm")


def demo(out: Path = Path("runs/demo"), epochs: int | None = None, clips: int = 40, seed: int = 0) -> Path:
    """Make data, train TSN, TRN and TSM on it, score them on clips they never saw, and write a report.

    Args:
        out: folder for the videos and the runs; a finished demo in it is made again.
        epochs: passes over the data; default: what the configurations say.
        clips: training videos a class.
        seed: of the videos and of training.
    """
    started = time.perf_counter()
    data = out / "videos"
    if (data / "clips.csv").exists():
        print(f"videos: {data}, made before")
    else:
        write_clips(data, splits={"train": clips, "val": 5, "test": 15}, seed=seed)
        print(f"videos: {data}, made in {time.perf_counter() - started:.0f} s")
    rows: list[dict[str, Any]] = []
    runs: list[Path] = []
    for name in NETWORKS:
        began = time.perf_counter()
        print(f"\n{name.upper()}")
        run = out / name
        if (run / "checkpoints" / "last.ckpt").exists():
            run = out / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        args = ["--config", f"clip/synthetic/{name}_resnet_tiny", f"--data.root={data}", f"--run={run}"]
        cli.train([*args, f"--seed_everything={seed}", *([f"--trainer.max_epochs={epochs}"] if epochs else [])])
        scores = load_scores(run / "scores.npz")
        rows.append(
            {
                "network": name.upper(),
                "top-1": float((scores.values.argmax(1) == scores.labels).mean()),
                "top-1 inside order-only pairs": inside_pairs(scores),
                "test videos": len(scores.ids),
                "minutes": round((time.perf_counter() - began) / 60, 1),
            }
        )
        runs.append(run)
    save_results(out, {row["network"]: row for row in rows}, cli.command_line("demo", []))
    notes = [
        "Ten of the sixteen classes are pairs that hold the same frames in opposite order: a network that averages "
        "frames (TSN) can only guess inside a pair, one that sees order (TRN, TSM) can tell them apart.",
        f"Made, trained and scored in {(time.perf_counter() - started) / 60:.1f} minutes.",
    ]
    picture = draw_order(
        {name: first_clip(data, name) for pair in ORDER_PAIRS[:3] for name in pair},
        {row["network"]: row["top-1 inside order-only pairs"] for row in rows},
        0.5,
        "% right inside the pairs",
        out / "plots" / "order.png",
    )
    page = write_summary(out, "vidact demo", rows, runs, notes=notes, pictures=[picture])
    print(f"\n{'network':<10}{'top-1':>8}{'inside order-only pairs':>26}{'minutes':>10}")
    for row in rows:
        print(
            f"{row['network']:<10}{row['top-1']:>8.1%}{row['top-1 inside order-only pairs']:>26.1%}{row['minutes']:>10}"
        )
    print(f"\nreport: {page}\ntry:    vidact predict --checkpoint {runs[-1]}/checkpoints/best.ckpt {data}")
    return page


def first_clip(data: Path, name: str) -> np.ndarray:
    """Eight frames of the first video of a class, (8, H, W, 3)."""
    with open_video(data / name / "0000.mp4") as video:
        return video.frames_at(SegmentSampler(8)(len(video))[0]).images.permute(0, 2, 3, 1).numpy()


def inside_pairs(scores: Scores) -> float:
    """Top-1 among the two members of a pair that differs in temporal order only: 0.5 is guessing."""
    hits = []
    for pair in ORDER_PAIRS:
        members = [scores.classes.index(name) for name in pair]
        here = np.isin(scores.labels, members)
        best = np.take(members, scores.values[here][:, members].argmax(1))
        hits.append(best == scores.labels[here])
    return float(np.concatenate(hits).mean())
