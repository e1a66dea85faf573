"""Compare detectors with answers that do not depend on the video, on long videos and on a few short ones.

    vidact extract features --videos data/fir --out data/fir/features …
    python benchmarks/detectors.py --root data/fir       # two networks, three seeds, the long set and three short ones

A short set contains parts of 4 to 10 s of the long videos, each with an action; each part is in the split of its video.
The parts are cut from the features at whole tokens, because a token of an image network does not depend on others. Each
network is trained with configs/online/fir/<network>.yaml, or with its recipe for short videos if it has one. The table
lists mAP and token accuracy beside those of a guess and of the most frequent class, and the F1 of events (temporal
overlap 0.3) with the chosen thresholds, with 0.5 for all classes, and of every class all the time. Finished runs are
kept when the command runs again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np

from vidact import cli
from vidact.data.event_list import Event
from vidact.data.sequence_list import Sequence, SequenceList, load_sequences, write_sequences
from vidact.files import write_json
from vidact.report.page import write_summary
from vidact.results.figures import command_line, load_results, save_results
from vidact.training.run import train

NETWORKS = ("frame_classifier", "miniroad")
SHORT = {"miniroad": "short"}  # the recipe for a few short videos, which replaces it
SECONDS = (4.0, 10.0)  # the shortest and the longest short video
FIGURES = {  # the name in the table → the name in results.json
    "mAP": "map",
    "of a guess": "chance_map",
    "token accuracy": "token_accuracy",
    "of the most frequent class": "majority",
    "of a guess (accuracy)": "chance",
    "event F1": "event_f1",
    "at 0.5 for all": "event_f1_at_0.5",
    "always on": "event_f1_always_on",
}


def main(
    root: Path = Path("data/fir"),
    out: Path = Path("runs/detectors"),
    networks: list[str] = list(NETWORKS),  # noqa: B006  (jsonargparse shows it)
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    videos: int = 23,
    draws: list[int] = [0, 1, 2],  # noqa: B006
    options: list[str] = [],  # noqa: B006
) -> None:
    """Cut the short sets, train and score the networks on all sets, and write the table.

    Args:
        root: folder with events.csv, videos.csv, classes.txt and features of the long videos.
        out: folder for the short sets, the runs and the report.
        networks: names of configurations in configs/online/fir.
        seeds: seeds of the initial weights and of training.
        videos: number of short videos in a set.
        draws: seeds of the short sets; there is one set for each.
        options: further options of vidact train, for all runs.
    """
    cli.quiet()
    sets = {root.resolve().name: root}
    for draw in draws:
        sets[f"{videos} short videos, draw {draw}"] = short = out / f"short{draw}"
        source = {"root": str(root.resolve()), "videos": videos, "draw": draw}
        if not (short / "made.json").exists():
            whole = load_sequences(root, val_fraction=0)
            record = {key: value for key, value in whole.record.items() if key not in ("tokens_per_second", "dim")}
            write_sequences(short, cut(whole, videos, draw), whole.classes, whole.tokens_per_second, record)
            write_json(short / "made.json", source)
        elif (made_of := json.loads((short / "made.json").read_text(encoding="utf-8"))) != source:
            raise ValueError(f"{short} was made of {made_of}, not of {source}; name another folder with --out")
    rows = []
    for name, data in sets.items():
        for network in networks if data is root else [SHORT.get(network, network) for network in networks]:
            tests = []
            for seed in seeds:
                run = out / data.resolve().name / network / f"seed{seed}"
                if not (run / "results.json").exists():
                    print(f"\n{name}, {network}, seed {seed}", flush=True)
                    arguments = [
                        "--config",
                        f"online/fir/{network}",
                        f"--data.root={data}",
                        f"--seed_everything={seed}",
                    ]
                    train([*arguments, "--trainer.enable_progress_bar=false", f"--run={run}", *options])
                tests.append(load_results(run)["test"])
            rows.append(describe(name, network, tests))
    save_results(out, {f"{row['data']}, {row['network']}": row for row in rows}, command_line())
    notes = [f"{len(seeds)} seeds: mean ± standard deviation. {tests[0]['thresholds']['words']} (the last run)."]
    print(table(rows))
    print(write_summary(out, "Detectors beside answers that do not depend on the video", rows, notes=notes))


def cut(whole: SequenceList, number: int, draw: int) -> list[Sequence]:
    """Cut ``number`` parts of ``SECONDS`` with an action, which do not overlap, from the videos in turn."""
    generator, rate = np.random.default_rng(draw), whole.tokens_per_second
    order = [whole.sequences[at] for at in generator.permutation(len(whole.sequences))]
    spans: dict[str, list[tuple[int, int]]] = {sequence.id: [] for sequence in order}
    parts: list[Sequence] = []
    for turn in range(50 * number):
        video = order[turn % len(order)]
        length = int(generator.integers(round(SECONDS[0] * rate), round(SECONDS[1] * rate) + 1))
        if len(parts) == number or length > len(video):
            continue
        first = int(generator.integers(len(video) - length + 1))
        last = first + length
        is_free = all(last <= start or first >= end for start, end in spans[video.id])
        if is_free and video.multi_hot[first:last, 1:].any():
            spans[video.id].append((first, last))
            parts.append(stretch(video, first, last, rate, f"{video.id}_{len(spans[video.id])}"))
    if len(parts) < number:
        raise ValueError(f"the videos hold {len(parts)} stretches of {SECONDS[0]:g} to {SECONDS[1]:g} s, not {number}")
    return parts


def stretch(video: Sequence, first: int, last: int, rate: float, name: str) -> Sequence:
    """Return the tokens ``first`` to ``last - 1`` of a video as a separate video."""
    begin_s, end_s = first / rate, last / rate
    events = tuple(
        Event(name, max(event.start_s, begin_s) - begin_s, min(event.end_s, end_s) - begin_s, event.label)
        for event in video.events
        if min(event.end_s, end_s) - max(event.start_s, begin_s) > 1e-6
    )
    part = slice(first, last)
    return replace(
        video, id=name, features=video.features[part], multi_hot=video.multi_hot[part], ignore=video.ignore[part],
        events=events,
    )  # fmt: skip


def describe(data: str, network: str, tests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row: mean and standard deviation over the seeds, or one value if it is the same for all seeds."""
    row: dict[str, Any] = {"data": data, "network": network}
    for name, key in FIGURES.items():
        each = [test[f"test_{key}"] for test in tests]
        row[name] = f"{np.mean(each):.3f} ± {np.std(each):.3f}" if np.std(each) else float(np.mean(each))
    chosen = [np.mean(test["events"]["on"]) for test in tests]
    return row | {"thresholds": ", ".join(f"{value:.2f}" for value in chosen), "seeds": len(tests)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
