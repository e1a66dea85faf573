"""Learning curves of probes: the accuracy for one, two, five, … training clips a class, over several draws.

The clips of a class are those with the smallest hash of (seed, draw, id), so that a smaller draw is a part of a larger
one. Heads and their settings are compared by cross-validation inside the drawn clips. One clip a class leaves nothing
to compare, and the first of the heads is taken with a fixed setting (``tasks.probe.WITHOUT_VALIDATION``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vidact.data.clip_list import Clip, ClipList
    from vidact.training.probe_config import ProbeSettings

PICTURE = "shots.png"


def run_shots(
    settings: ProbeSettings,
    run: Path,
    command: str,
    shots: Sequence[int],
    draws: int,
    is_folds: bool = False,
    folds: str | None = None,
    num_folds: int | None = None,
) -> list[dict[str, Any]]:
    """Fit heads to few clips a class, several times, and return the rows of the curve; write a page with a picture.

    The last row is the probe on all training clips. With folds, the clips that are scored are those of all folds.

    Args:
        settings: the data, the network and the heads.
        run: the folder of the encodings, results.json and the page.
        command: the command, for results.json.
        shots: numbers of training clips a class.
        draws: draws of the clips for each number.
        is_folds: whether each group is held out once.
        folds: as in ``probing.run_folds``.
        num_folds: as in ``probing.run_folds``.
    """
    from vidact.report.page import write_summary
    from vidact.report.plots import draw_shots
    from vidact.results.figures import save_results
    from vidact.training.folding import data_name
    from vidact.training.probing import encode, open_data, plan_folds

    if draws < 1:
        raise ValueError(f"--draws is {draws}; at least one draw of the clips is made")
    if min(shots) < 1:
        raise ValueError(f"--shots has {min(shots)}; a class needs one training clip at least")
    shots = sorted(set(shots))
    started = time.process_time()
    splits = [*plan_folds(settings, run, folds, num_folds).values()] if is_folds else [open_data(settings).found]
    for clips in splits:
        refuse_too_many(clips, max(shots))
    if not any(clips.split(name) for clips in splits for name in ("test", "val")):
        raise ValueError(f"{settings.data} has no split test and no split val, so that no curve can be measured")
    encoded = encode(settings, run, scores_all=is_folds)
    rows = []
    for number in [*shots, None]:
        accuracies = [pooled_accuracy(encoded, splits, number, draw) for draw in range(draws if number else 1)]
        counts = [len(clips.split("train")) for clips in splits]
        rows.append(
            {
                "clips a class": number or "all", "mean top1": float(np.mean(accuracies)),
                "spread": float(np.std(accuracies)), "least": min(accuracies), "greatest": max(accuracies),
                "draws": len(accuracies),
                "training clips": number * len(encoded.data.found.classes) if number else round(float(np.mean(counts))),
            }
        )  # fmt: skip
        figure = f"top-1 {rows[-1]['mean top1']:.4f} ± {rows[-1]['spread']:.4f}"
        print(f"{number or 'all':>4} clips a class: {figure} over {counted_draws(len(accuracies))}", flush=True)
    picture = draw_shots(rows, 1 / len(encoded.data.found.classes), run / "plots" / PICTURE)
    figures = {"rows": rows, "cpu_seconds": round(time.process_time() - started, 1), "draws": draws}
    save_results(run, {"shots": figures}, command)
    held_out = f", {len(splits)} folds" if is_folds else ""
    title = f"{data_name(settings.data)}: {settings.network} with a head, by training clips{held_out}"
    note = f"Mean and standard deviation over {counted_draws(draws)} of the training clips."
    print(f"report: {write_summary(run, title, rows, notes=[note], pictures=[picture])}")
    return rows


def counted_draws(draws: int) -> str:
    """Return the number of draws in words."""
    from vidact.text.names import counted

    return counted(draws, "draw")


def refuse_too_many(clips: ClipList, most: int) -> None:
    """Raise ValueError where a class has fewer training clips than ``most``."""
    from vidact.text.names import counted

    numbers = {name: 0 for name in clips.classes}
    for clip in clips.split("train"):
        numbers[clips.classes[clip.labels[0]]] += 1
    name = min(numbers, key=lambda each: numbers[each])
    if numbers[name] < most:
        raise ValueError(
            f"--shots asks for {most} clips a class, and {name} has {counted(numbers[name], 'training clip')}; give "
            f"numbers up to {numbers[name]}, or add clips"
        )


def pooled_accuracy(encoded: Any, splits: Sequence[ClipList], number: int | None, draw: int) -> float:
    """Return the share of the scored clips of all splits that heads recognise, fitted to one draw; None takes all."""
    from vidact.training.probing import fit_split

    right = total = 0
    for clips in splits:
        train = [clip for clip in clips.split("train") if clip.id in encoded.readable]
        if number is not None:
            train = drawn(train, number, encoded.settings.seed, draw)
        fitted = fit_split(encoded, clips, train)
        scores = fitted.tests[fitted.best.name]
        right += int((scores.values.argmax(1) == scores.labels).sum())
        total += len(scores)
    return right / total


def drawn(train: Sequence[Clip], number: int, seed: int, draw: int) -> list[Clip]:
    """Return ``number`` clips of each class: those with the smallest hash of the seed, the draw and their id."""

    def rank(clip: Clip) -> bytes:
        return hashlib.sha256(f"{seed}/{draw}/{clip.id}".encode()).digest()

    chosen: list[Clip] = []
    for label in sorted({clip.labels for clip in train}):
        chosen += sorted((clip for clip in train if clip.labels == label), key=rank)[:number]
    return chosen
