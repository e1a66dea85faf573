"""``vidact train … --find_lr``: test learning rates, draw their losses and suggest one; nothing is trained."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path

from vidact.files import no_empty_folder, replacing
from vidact.jobs import Meter
from vidact.results.figures import save_results
from vidact.training.run import command_line, explained_interrupt

TABLE = "learning_rate.csv"
SECTION = "learning rate test"


def find_lr(args: Sequence[str]) -> Path:
    """Run a learning-rate range test, and return the folder with learning_rate.csv, results.json and report.html.

    Raises ValueError where too few steps were made before the loss was no number, and where several devices, or the
    continuation of a run, are requested.

    Args:
        args: the options of ``vidact train``, without --find_lr.
    """
    import vidact.report.page as report
    from vidact.tasks.rate_test import LEAST_STEPS, STEPS, RateTest, refuse_several_devices
    from vidact.training.lightning import make_cli

    cli = make_cli(args, "train", tests_rates=True)
    run, trainer = Path(cli.config.run), cli.trainer
    refuse_several_devices(trainer)  # before Lightning starts the others
    meter = Meter(dict.fromkeys(range(STEPS + 1), 1), unit="steps")
    test = RateTest(report=meter.finish)
    trainer.callbacks.append(test)  # type: ignore[attr-defined]
    print(f"learning-rate range test of at most {STEPS} steps\n{cli.datamodule.found}", flush=True)
    started = time.perf_counter()
    meter.begin()
    with no_empty_folder(run):
        with explained_interrupt(trainer, None):
            trainer.fit(cli.model, cli.datamodule)
        curve = test.curve
        if len(curve.losses) < LEAST_STEPS:
            raise ValueError(
                f"the loss was no number after {len(curve.losses)} steps, at a rate of {test.rates[-1]:.2g}: the "
                "weights or the data are damaged, or --trainer.precision is too coarse; no rate can be suggested"
            )
        with replacing(run / TABLE) as half, half.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["rate", "loss", "smoothed"])
            writer.writerows(zip(curve.rates, curve.losses, curve.smoothed, strict=True))
        figures = {
            "suggestion": curve.suggestion,
            "recipe": test.recipe_lr,
            "steps": len(curve.losses),
            "ended": curve.ended,
            "seconds": round(time.perf_counter() - started, 2),
        }
        save_results(run, {SECTION: figures}, command_line("train", [*args, "--find_lr"]))
        page = report.write_report(run)
    print(f"{curve.describe(test.recipe_lr)}\npicture: {run / 'plots' / 'learning_rate.png'}\nreport: {page}")
    return run
