"""Compare recipes for one's own clips on two small sets of real videos: fine-tuned networks, and a probe.

    python benchmarks/own_data.py --weizmann data/weizmann --fir data/fir --weights mobilenet_v2.safetensors

The sets are divided by what clips have in common: the clips of three of Weizmann's nine people, and the events of the
videos that ``videos.csv`` of the second set calls test, are scored once, at the end of each run. The recipes are those
of configs/clip/folder, and ``probe`` is ``vidact probe``, which has no random part and is run once. The videos are
packed first (``vidact prepare pack``), so that all recipes read the same pictures and none decodes a video again. Runs
that are finished are kept when the command runs again.

The table lists accuracy and mean class accuracy, mean and standard deviation over the seeds, beside those of a guess
and of the most frequent class, and the CPU seconds of a run with its test, without packing.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np

from vidact import cli
from vidact.data import load_clips
from vidact.data.tables import read_table
from vidact.files import replacing
from vidact.jobs import num_cores
from vidact.prepare.sets import pack_set
from vidact.prepare.settings import PackSettings
from vidact.report.page import write_summary
from vidact.results.figures import command_line, load_results, save_results
from vidact.training.run import train

RECIPES = ("probe", "tsm_causal_mobilenetv2")
PEOPLE = ("lyova", "moshe", "shahar")  # of Weizmann, for the test; the recipes were chosen on clips of the other six
SHORT_SIDE = 192  # pixels of a packed picture: every network here reads less


def main(
    weizmann: Path = Path("data/weizmann"),
    fir: Path = Path("data/fir"),
    weights: str = "imagenet",
    out: Path = Path("runs/own_data"),
    recipes: list[str] = list(RECIPES),  # noqa: B006  (jsonargparse shows it)
    seeds: list[int] = [0, 1, 2, 3, 4],  # noqa: B006
    people: list[str] = list(PEOPLE),  # noqa: B006
    options: list[str] = [],  # noqa: B006
) -> None:
    """Divide and pack the sets, train and score every recipe on both, and write the table.

    Args:
        weizmann: folder of class folders, whose files are called <person>_<class>.avi.
        fir: folder with untrimmed videos, events.csv, videos.csv and classes.txt.
        weights: ImageNet weights of MobileNetV2: "imagenet", or a file.
        out: folder for the packed sets, the runs and the report.
        recipes: "probe", or names of configurations in configs/clip/folder.
        seeds: seeds of the classifier's first weights and of training.
        people: people of Weizmann whose clips are the test.
        options: further options of vidact train, for the fine-tuned networks.
    """
    cli.quiet()
    sets = {"weizmann": trimmed_by_person(weizmann, people), "fir": trimmed_events(fir)}
    folders = {"weizmann": weizmann, "fir": fir}
    rows: list[dict[str, Any]] = []
    for name, clips in sets.items():
        listed, packed = out / "lists" / name, out / "packed" / name
        write_clips(listed, folders[name], clips)
        pack_set(
            listed, packed, PackSettings(short_side=SHORT_SIDE), workers=num_cores(), missing="raise", verify=False
        )
        print(f"{name}: {load_clips(packed)}", flush=True)
        for recipe in recipes:
            tests = []
            for seed in seeds if recipe != "probe" else seeds[:1]:
                run = out / name / recipe / f"seed{seed}"
                if not (run / "results.json").exists() or "cpu" not in load_results(run):
                    run_recipe(recipe, packed, run, seed, weights, options)
                tests.append(load_results(run))
            rows.append(describe(name, recipe, tests))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
        rows += yardsticks(name, tests[-1]["test"])
    save_results(out, {f"{row['data']}, {row['recipe']}": row for row in rows}, command_line())
    notes = [f"{len(seeds)} seeds: mean ± standard deviation. The clips of the test were scored once by each run."]
    print(table(rows))
    print(write_summary(out, "Recipes for one's own clips", rows, notes=notes))


# ---------------------------------------------------------------------------------------------------------- two sets


def trimmed_by_person(root: Path, people: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a clips.csv of Weizmann, whose clips of ``people`` are the test."""
    rows = []
    for clip in load_clips(root, group=r"([^/_]+)_[^/]*$"):
        path, person = clip.path.relative_to(root), str(clip.group)
        split = "test" if person in people else "train"
        rows.append({"path": path.as_posix(), "label": path.parts[0], "split": split, "group": person})
    if absent := set(people) - {row["group"] for row in rows}:
        raise ValueError(f"{root} has no clip of {', '.join(sorted(absent))}; its people are "
                         f"{', '.join(sorted({row['group'] for row in rows}))}")  # fmt: skip
    return rows


def trimmed_events(root: Path) -> list[dict[str, str]]:
    """Return the rows of a clips.csv of every event of untrimmed videos, in the split of its video."""
    videos = read_table(root / "videos.csv", (("video",), ("split",)), ())
    splits = {row["video"]: row["split"] for _, row in videos.rows}
    events = read_table(root / "events.csv", (("video",), ("start_s",), ("end_s",), ("label",)), ())
    return [
        {
            "path": row["video"], "label": row["label"], "start_s": row["start_s"], "end_s": row["end_s"],
            "split": splits[row["video"]], "group": Path(row["video"]).stem,
        }
        for _, row in events.rows
    ]  # fmt: skip


def write_clips(folder: Path, videos: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write clips.csv, and root.txt, which names the folder that its paths are relative to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "root.txt").write_text(f"{videos.resolve()}\n", encoding="utf-8")
    with replacing(folder / "clips.csv") as half, half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# ------------------------------------------------------------------------------------------------------------- runs


def run_recipe(recipe: str, data: Path, run: Path, seed: int, weights: str, options: Sequence[str]) -> None:
    """Train and test once, and add the CPU seconds to the run's results.json."""
    print(f"\n{data.name}, {recipe}, seed {seed}", flush=True)
    began = time.process_time()  # of all threads; nothing here starts a process
    if recipe == "probe":
        names = {"imagenet": "default", "null": "none"}  # of weights, as the probe calls them
        words = ["--weights", names.get(weights, weights), "--seed", str(seed)]
        cli.main(["probe", "--data", str(data), "--run", str(run), *words])
    else:
        words = [
            f"--model.network.weights={weights}",
            f"--seed_everything={seed}",
            "--data.num_workers=0",
            "--probe=false",
        ]
        arguments = ["--config", f"clip/folder/{recipe}", f"--data.root={data}", f"--run={run}", *words, *options]
        train([*arguments, "--trainer.enable_progress_bar=false"])
    save_results(run, {"cpu": {"seconds": round(time.process_time() - began, 1)}}, command_line())


# ------------------------------------------------------------------------------------------------------------- table


def describe(data: str, recipe: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of the table: means, with standard deviations where there are several runs."""
    return {
        "data": data,
        "recipe": recipe,
        "accuracy": spread([run["test"]["test_top1"] for run in runs]),
        "mean class accuracy": spread([run["test"]["test_mean_class_accuracy"] for run in runs]),
        "CPU seconds": round(float(np.mean([run["cpu"]["seconds"] for run in runs]))),
        "runs": len(runs),
    }


def yardsticks(data: str, test: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of answers that do not depend on the video."""
    chance, majority = test["test_chance"], test["test_majority"]
    per_class = 1 / test["classes"]
    answers = {"a guess": chance, f"always {test['test_majority_class']}": majority}
    return [
        {"data": data, "recipe": name, "accuracy": value, "mean class accuracy": per_class,
         "CPU seconds": "", "runs": ""}
        for name, value in answers.items()
    ]  # fmt: skip


def spread(values: Sequence[float]) -> str | float:
    """Return mean ± standard deviation, or the value of a single run; the report draws bars of both."""
    return float(values[0]) if len(values) == 1 else f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
