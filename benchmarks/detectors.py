"""Whether detectors are better than answers that look at nothing, on long videos and on a few short ones.

    vidact extract features --videos data/fir --out data/fir/features …
    python benchmarks/detectors.py --root data/fir       # two networks, three seeds, the long set and three short ones

A short set holds stretches of 4 to 10 s of the long videos, each with an action, on the side of the split that its
video is on. They are cut from the features, at whole tokens: a token of an image network depends on no other. Each
network is trained as configs/online/fir/<network>.yaml says, or the recipe for short videos where there is one. The
table has mAP and token accuracy beside a guess and the most frequent class, and the F1 of events (temporal overlap 0.3)
at the thresholds that were chosen, at 0.5 for all and of every class all the time. Finished runs are kept when the
command runs again.
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
SHORT = {"miniroad": "short"}  # the recipe for a few short videos in its place
SECONDS = (4.0, 10.0)  # of a short video
FIGURES = {  # in the table → in results.json
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
    """Cut the short sets, train and score the networks on all sets, write the table.

    Args:
        root: events.csv, videos.csv, classes.txt and features of the long videos.
        out: folder for the short sets, the runs and the report.
        networks: configurations in configs/online/fir.
        seeds: of the networks' start and training.
        videos: how many short videos are cut.
        draws: which stretches are cut, one short set for each.
        options: further options of vidact train, for all runs.
    """
    cli.quiet()
    sets = {root.resolve().name: root}
    for draw in draws:
        sets[f"{videos} short videos, draw {draw}"] = short = out / f"short{draw}"
        made = {"root": str(root.resolve()), "videos": videos, "draw": draw}
        if not (short / "made.json").exists():
            whole = load_sequences(root, val_fraction=0)
            record = {key: value for key, value in whole.record.items() if key not in ("tokens_per_second", "dim")}
            write_sequences(short, cut(whole, videos, draw), whole.classes, whole.tokens_per_second, record)
            write_json(short / "made.json", made)
        elif (there := json.loads((short / "made.json").read_text(encoding="utf-8"))) != made:
            raise ValueError(f"{short} was made of {there} and this asks for {made}; name another folder with --out")
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
    print(write_summary(out, "Detectors beside answers that look at nothing", rows, notes=notes))


def cut(whole: SequenceList, number: int, draw: int) -> list[Sequence]:
    """``number`` stretches of ``SECONDS`` that hold an action and do not overlap, of the videos by turns."""
    generator, rate = np.random.default_rng(draw), whole.tokens_per_second
    order = [whole.sequences[at] for at in generator.permutation(len(whole.sequences))]
    taken: dict[str, list[tuple[int, int]]] = {sequence.id: [] for sequence in order}
    made: list[Sequence] = []
    for turn in range(50 * number):
        video = order[turn % len(order)]
        length = int(generator.integers(round(SECONDS[0] * rate), round(SECONDS[1] * rate) + 1))
        if len(made) == number or length > len(video):
            continue
        first = int(generator.integers(len(video) - length + 1))
        last = first + length
        is_free = all(last <= begin or first >= end for begin, end in taken[video.id])
        if is_free and video.multi_hot[first:last, 1:].any():
            taken[video.id].append((first, last))
            made.append(stretch(video, first, last, rate, f"{video.id}_{len(taken[video.id])}"))
    if len(made) < number:
        raise ValueError(f"the videos hold {len(made)} stretches of {SECONDS[0]:g} to {SECONDS[1]:g} s, not {number}")
    return made


def stretch(video: Sequence, first: int, last: int, rate: float, name: str) -> Sequence:
    """Tokens ``first`` up to, without, ``last`` of a video as one of its own."""
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
    """A row: mean and spread over the seeds; what looks at nothing is the same for all of them."""
    row: dict[str, Any] = {"data": data, "network": network}
    for name, key in FIGURES.items():
        each = [test[f"test_{key}"] for test in tests]
        row[name] = f"{np.mean(each):.3f} ± {np.std(each):.3f}" if np.std(each) else float(np.mean(each))
    chosen = [np.mean(test["events"]["on"]) for test in tests]
    return row | {"thresholds": ", ".join(f"{value:.2f}" for value in chosen), "seeds": len(tests)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
