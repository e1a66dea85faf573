"""Compare how well networks learn the order of frames, from random weights, on classes that differ only in it.

    python benchmarks/order.py                                        # all networks, an hour or two on a CPU
    python benchmarks/order.py --networks [TSN,TSM,TIN] --out runs/order

Ten of the sixteen classes of ``vidact.data.synthetic`` are pairs that contain the same frames in opposite order. Each
network is trained with configs/clip/synthetic/<file>.yaml, and its best epoch on the validation clips is scored once on
the test clips. The folder ``out`` gets a table (report.html, results.json) and a picture (plots/order.png). If the
command runs again, finished runs are kept and an interrupted run is continued.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from vidact import cli
from vidact.commands.demo import first_clip, inside_pairs, made
from vidact.data.clips import FrameCache
from vidact.data.synthetic import ORDER_PAIRS, write_clips
from vidact.report.page import write_summary
from vidact.report.plots import draw_order
from vidact.results.figures import command_line, load_results, save_results
from vidact.results.scores import load_scores
from vidact.training import run as training

NETWORKS = {  # the name in the table → the file in configs/clip/synthetic
    "TSN": "tsn_resnet_tiny",
    "TSN flow": "tsn_resnet_tiny_flow",
    "TRN": "trn_resnet_tiny",
    "TSM": "tsm_resnet_tiny",
    "TSM causal": "tsm_resnet_tiny_causal",
    "TSM pooled": "tsm_resnet_tiny_pooled",
    "TANet": "tanet_resnet_tiny",
    "TEA": "tea_resnet_tiny",
    "TDN": "tdn_resnet_tiny",
    "STM": "stm_resnet_tiny",
    "MVFNet": "mvfnet_resnet_tiny",
    "ACTION-Net": "action_net_resnet_tiny",
    "TIN": "tin_resnet_tiny",
    "GSM": "gsm_bn_inception_tiny",
    "ECO-Lite": "eco_lite_tiny",
    "3-D ResNet": "r3d_tiny",
}


def main(
    networks: list[str] | None = None,
    out: Path = Path("runs/order"),
    clips: int = 40,
    val: int = 15,
    test: int = 20,
    epochs: int | None = None,
    seed: int = 1,
) -> None:
    """Generate the clips, train and score the networks, and write the table and the picture.

    Args:
        networks: some of those in ``NETWORKS``; default: all.
        out: folder for the clips, the runs and the report.
        clips: training clips per class.
        val: validation clips per class; they choose the epoch.
        test: test clips per class.
        epochs: passes over the training clips; default: the number in each configuration.
        seed: seed of the clips, of the initial weights and of training. Recipes were chosen on clips of seed 100.
    """
    names = list(NETWORKS) if networks is None else networks
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise ValueError(f"networks has {', '.join(unknown)}; it may have {', '.join(NETWORKS)}")
    cli.quiet()
    data, splits = out / "videos", {"train": clips, "val": val, "test": test}
    refuse_other_clips(data, seed, splits)
    made(data, "clips.csv", lambda: write_clips(data, splits=splits, seed=seed))
    cache = FrameCache()  # shared by all networks, so that no video is decoded twice
    rows = []
    for name in names:
        run = out / NETWORKS[name]
        if not (run / "results.json").exists():
            print(f"\n{name}", flush=True)
            train(NETWORKS[name], data, run, epochs, seed, cache)
        rows.append(describe(name, run))
    rows.sort(key=lambda row: row["inside the pairs"], reverse=True)

    save_results(out, {row["network"]: row for row in rows}, command_line())
    picture = draw_order(
        {name: first_clip(data, name) for pair in ORDER_PAIRS for name in pair},
        {row["network"]: row["inside the pairs"] for row in rows},
        0.5,
        "% right inside the pairs",
        out / "plots" / "order.png",
    )
    notes = [
        "Each two rows of the picture are the same frames in opposite order: a network that uses only the set of "
        "frames can only guess which of the two a clip shows.",
        f"{16 * clips} training, {16 * val} validation and {16 * test} test clips of seed {seed}.",
    ]
    runs = [out / NETWORKS[row["network"]] for row in rows]
    page = write_summary(out, "Which networks use the order of frames", rows, runs, notes=notes, pictures=[picture])
    print(f"\n{'network':<14}{'top-1':>8}{'inside the pairs':>20}{'parameters':>14}{'epochs':>8}{'minutes':>9}")
    for row in rows:
        print(
            f"{row['network']:<14}{row['top-1']:>8.1%}{row['inside the pairs']:>20.1%}{row['parameters']:>14,}"
            f"{row['epochs']:>8}{row['minutes']:>9.1f}"
        )
    print(f"\n{picture}\n{page}")


def refuse_other_clips(data: Path, seed: int, splits: dict[str, int]) -> None:
    """Raise ValueError if ``data`` has clips of another seed or number: finished runs were made with those clips."""
    if not (data / "clips.csv").exists():
        return
    record = json.loads((data / "synthetic.json").read_text(encoding="utf-8"))
    if (record["seed"], record["splits"]) != (seed, splits):
        raise ValueError(
            f"{data} holds clips of seed {record['seed']}, {record['splits']} a class, and this asks for seed {seed}, "
            f"{splits}; ask for the same, or name another folder with --out"
        )


def train(config: str, data: Path, run: Path, epochs: int | None, seed: int, cache: FrameCache) -> None:
    """Train and score one network; an interrupted run is continued."""
    began = time.perf_counter()
    arguments = ["--config", f"clip/synthetic/{config}", f"--seed_everything={seed}", f"--data.root={data}"]
    arguments += [f"--run={run}", *([f"--trainer.max_epochs={epochs}"] if epochs else [])]
    resume = ["--ckpt", "last"] if (run / "checkpoints" / "last.ckpt").exists() else []
    training.train([*arguments, *resume], cache)
    save_results(run, {"minutes": (time.perf_counter() - began) / 60}, command_line())


def describe(name: str, run: Path) -> dict[str, Any]:
    """Return the row of a finished run."""
    scores, results = load_scores(run / "scores.npz"), load_results(run)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return {
        "network": name,
        "top-1": results["test"]["test_top1"],
        "inside the pairs": inside_pairs(scores),
        **{" / ".join(pair): inside_pairs(scores, [pair]) for pair in ORDER_PAIRS},
        "test clips": results["test"]["videos"],
        "parameters": results["test"]["parameters"],
        "epochs": config["trainer"]["max_epochs"],
        "minutes": round(results["minutes"], 1),
    }


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
