"""``vidact demo``: make videos, train recognisers, online detectors and a localiser, score them, stream a video; all on
one page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from vidact.commands import forms
from vidact.commands import stream as stream_command
from vidact.commands.stream import DEMO, demo_model

if TYPE_CHECKING:
    import numpy as np

    from vidact.results.scores import Scores

PROG = "vidact demo"
NETWORKS = ("tsn", "trn", "tsm")
# The networks of untrimmed videos and the folders of their configurations. The last online detector is what vidact
# stream and serve take; the localiser sees the whole video.
DETECTORS = {"oadtr": "online", "causal_softmax": "online", "miniroad": "online", "actionformer_small": "localise"}
# What happens in the untrimmed videos: two pairs that differ in order only, and four movements.
ACTIONS = (
    "moving right", "moving left", "approaching", "receding",
    "bouncing ball", "orbiting ring", "swinging pendulum", "pulsing cross",
)  # fmt: skip


def main(args: Sequence[str]) -> None:
    """Run ``vidact demo``."""
    forms.call(demo, args, PROG)


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    return forms.parser_of(demo, PROG)


def demo(out: Path = DEMO, epochs: int | None = None, clips: int = 40, seed: int = 0) -> Path:
    """Make data; train TSN, TRN and TSM on clips, detectors on TSM's features of untrimmed videos; score, and stream.

    Args:
        out: folder for the videos and the runs; a finished demo in it is made again.
        epochs: passes over the data; default: those of the configurations.
        clips: the number of training clips a class, and of untrimmed training videos.
        seed: the seed of the videos and of training.
    """
    from vidact.data.synthetic import ORDER_PAIRS
    from vidact.report.page import write_summary
    from vidact.report.plots import draw_order
    from vidact.results.figures import save_results
    from vidact.training.run import command_line

    started = time.perf_counter()
    common = [f"--seed_everything={seed}", *([f"--trainer.max_epochs={epochs}"] if epochs else [])]
    rows, runs = recognisers(out, clips, seed, common)
    detected, detector_runs = detectors(out, runs[-1] / "checkpoints" / "best.ckpt", clips, seed, common)
    snapshot = stream(out)
    save_results(out, {row["network"]: row for row in rows + detected}, command_line("demo", []))
    notes = [
        "Ten of the sixteen classes are pairs that hold the same frames in opposite order: a network that averages "
        "frames (TSN) can only guess inside a pair, one that sees order (TRN, TSM) can tell them apart.",
        "The detectors read TSM's features of untrimmed videos, four a second, and name what happens in every quarter "
        "of a second without looking ahead. The second picture is from one of their test videos, streamed. "
        "ActionFormer, the last row, is a localiser: it sees a whole video before it answers, and gives events only.",
        f"Made, trained, scored and streamed in {(time.perf_counter() - started) / 60:.1f} minutes.",
    ]
    picture = draw_order(
        {name: first_clip(out / "videos", name) for pair in ORDER_PAIRS[:3] for name in pair},
        {row["network"]: row["top-1 inside order-only pairs"] for row in rows},
        0.5,
        "% right inside the pairs",
        out / "plots" / "order.png",
    )
    pictures = [picture, *([snapshot] if snapshot else [])]
    page = write_summary(out, "vidact demo", rows + detected, runs + detector_runs, notes=notes, pictures=pictures)
    print(f"\n{'network':<10}{'top-1':>8}{'inside order-only pairs':>26}{'minutes':>10}")
    for row in rows:
        pairs = row["top-1 inside order-only pairs"]
        print(f"{row['network']:<10}{row['top-1']:>8.1%}{pairs:>26.1%}{row['minutes']:>10}")
    print(f"\n{'detector':<18}{'mAP of tokens':>16}{'mAP of events':>16}{'minutes':>10}")
    for row in detected:
        of_tokens = f"{row['mAP of tokens']:.1%}" if "mAP of tokens" in row else "–"
        print(f"{row['network']:<18}{of_tokens:>16}{row['mAP of events']:>16.1%}{row['minutes']:>10}")
    print(f"\nreport: {page}")
    print(f"try:    vidact predict --checkpoint {runs[-1]}/checkpoints/best.ckpt {out / 'videos'}")
    _, videos = demo_model(out)
    for video in videos.values():
        print(
            f"        vidact predict --checkpoint {detector_runs[-1]}/checkpoints/best.ckpt {video} "
            f"--page {out / 'events.html'}"
        )
    if out == DEMO:
        print("        vidact serve          (a page in the browser; Ctrl-C ends it)")
    return page


def recognisers(out: Path, clips: int, seed: int, common: list[str]) -> tuple[list[dict[str, Any]], list[Path]]:
    """Make clips and train the three networks on them; a row of the table and a run folder each."""
    from vidact.data.synthetic import write_clips
    from vidact.results.scores import load_scores
    from vidact.training.run import train

    data = out / "videos"
    made(
        data, "clips.csv",
        lambda: write_clips(data, splits={"train": clips, "val": 5, "test": 15}, seed=seed),
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    runs: list[Path] = []
    for name in NETWORKS:
        began = time.perf_counter()
        print(f"\n{name.upper()}")
        run = fresh(out / name)
        train(["--config", f"clip/synthetic/{name}_resnet_tiny", f"--data.root={data}", f"--run={run}", *common])
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
    return rows, runs


def detectors(
    out: Path, checkpoint: Path, videos: int, seed: int, common: list[str]
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Make untrimmed videos, read them with the recogniser's ``checkpoint``, train on them; rows and run folders."""
    from vidact.data.synthetic import write_untrimmed
    from vidact.features.files import extract_features
    from vidact.features.names import build_extractor
    from vidact.results.figures import load_results
    from vidact.training.run import train

    data = out / "untrimmed"
    splits = {"train": max(2, videos), "val": 4, "test": 12}
    print()
    made(data, "events.csv", lambda: write_untrimmed(data, splits=splits, seed=seed, classes=ACTIONS))
    began = time.perf_counter()
    features = fresh(data / "features")
    extract_features(data, features, build_extractor(str(checkpoint)), progress=False)
    print(f"features of them: {features}, made in {time.perf_counter() - began:.0f} s")
    rows: list[dict[str, Any]] = []
    runs: list[Path] = []
    for name, kind in DETECTORS.items():
        began = time.perf_counter()
        print(f"\n{name}")
        run = fresh(out / f"untrimmed_{name}")
        where = [f"--data.root={data}", f"--data.features={features}", f"--run={run}"]
        train(["--config", f"{kind}/synthetic/{name}", *where, *common])
        figures = load_results(run)["test"]
        of_tokens = {"mAP of tokens": figures["test_map"]} if "test_map" in figures else {}
        rows.append(
            {
                "network": name,
                **of_tokens,
                "mAP of events": figures["test_event_map"],
                "test videos": figures["videos"],
                "minutes": round((time.perf_counter() - began) / 60, 1),
            }
        )
        runs.append(run)
    return rows, runs


def stream(out: Path) -> Path | None:
    """Stream a test video through the newest detector; returns the picture of the last event, if there was one."""
    from PIL import Image

    from vidact.files import replacing

    checkpoint, sources = demo_model(out)
    (video,) = sources.values()
    folder = fresh(out / "streamed")
    outputs = {"record": "stream.mp4", "jsonl": "answers.jsonl", "events": "events.csv", "snapshots": "snapshots"}
    folder.mkdir(parents=True)
    print("\nstreamed, as from a camera")
    stream_command.main(
        ["--checkpoint", str(checkpoint), "--source", video, "--no_window", "--fast"]
        + [f"--{name}={folder / file}" for name, file in outputs.items()]
    )
    last_snapshot = max((folder / outputs["snapshots"]).glob("*.jpg"), default=None)  # the timeline is full by then
    if last_snapshot is None:
        return None
    picture = out / "plots" / "streamed.png"
    with replacing(picture) as half:
        image = Image.open(last_snapshot)
        image.resize((2 * image.width, 2 * image.height)).save(half, format="png")
    return picture


def made(folder: Path, table: str, make: Callable[[], Any]) -> None:
    """Make the videos of ``folder``, unless its table says that this was done before."""
    if (folder / table).exists():
        print(f"videos: {folder}, made before")
        return
    began = time.perf_counter()
    make()
    print(f"videos: {folder}, made in {time.perf_counter() - began:.0f} s")


def fresh(folder: Path) -> Path:
    """Return the folder, or another one beside it where an earlier demo has filled it."""
    return folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}") if folder.exists() else folder


def first_clip(data: Path, name: str) -> np.ndarray:
    """Return eight frames of the first video of a class, (8, H, W, 3)."""
    from vidact.video import SegmentSampler, open_video

    with open_video(data / name / "0000.mp4") as video:
        return video.frames_at(SegmentSampler(8)(len(video))[0]).images.permute(0, 2, 3, 1).numpy()


def inside_pairs(scores: Scores, pairs: Sequence[tuple[str, str]] | None = None) -> float:
    """Return the top-1 among the two members of a pair that differs in temporal order only: 0.5 is guessing.

    ``pairs`` are by default those of the synthetic clips.
    """
    import numpy as np

    from vidact.data.synthetic import ORDER_PAIRS

    hits = []
    for pair in ORDER_PAIRS if pairs is None else pairs:
        members = [scores.classes.index(name) for name in pair]
        is_member = np.isin(scores.labels, members)
        best = np.take(members, scores.values[is_member][:, members].argmax(1))
        hits.append(best == scores.labels[is_member])
    return float(np.concatenate(hits).mean())
