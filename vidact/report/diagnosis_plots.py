"""The two pictures of the mistakes of detected events: what each kind costs, and which events suffer from it.

Drawn from the figures of ``vidact.metrics.Diagnosis``, as results.json holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from vidact.metrics.diagnosis import FATES, KINDS
from vidact.report.plots import BLUE, GREY, ORANGE, drawing, save
from vidact.report.timeline_plots import DARK, SOFT

KIND_NAMES = {
    "background": "background",
    "confusion": "another class",
    "borders": "poor borders",
    "double": "doubles",
    "missed": "missed",
}
FATE_NAMES = {"right": "found", "borders": "poor borders", "confusion": "another class", "missed": "missed"}
FATE_COLOURS = {"right": BLUE, "borders": "#85aad8", "confusion": ORANGE, "missed": "#d5d8dd"}
GROUP_TITLES = {
    "length": "by the length of the event",
    "instances": "by the events of its class in the video",
    "crowding": "by the events of any class a minute of the video",
}


def counted_kinds(diagnosis: Mapping[str, Any]) -> dict[str, int]:
    """Return how often each kind of mistake occurs."""
    return {**{kind: diagnosis["detections"][kind] for kind in KINDS[:-1]}, "missed": diagnosis["events"]["missed"]}


def sum_of(row: Mapping[str, Any]) -> int:
    """Return the number of true events in a group."""
    return sum(row["events"].values())


def draw_costs(diagnosis: Mapping[str, Any], path: Path) -> Path:
    """Draw the mAP as it is and without each kind of mistakes."""
    now, counts = diagnosis["map"], counted_kinds(diagnosis)
    with drawing():
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.add_subplot(title="mAP if one kind of mistakes did not occur")
        for row, kind in enumerate(KINDS):
            mended = diagnosis["if_mended"][kind]
            axes.barh(row, now, height=0.6, color=BLUE)
            axes.barh(row, mended - now, left=now, height=0.6, color=ORANGE)
            axes.text(min(mended, 1) + 0.015, row, f"{mended:.2f}", va="center", fontsize=9, color=SOFT)
        axes.set_yticks(range(len(KINDS)), [f"{KIND_NAMES[kind]}  ({counts[kind]})" for kind in KINDS], fontsize=9)
        axes.set_ylim(len(KINDS) - 0.4, -0.6)
        axes.set_xlim(0, 1.11)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.tick_params(axis="y", length=0)
        axes.axvline(now, color=DARK, linewidth=1, linestyle=":")
        axes.grid(visible=True, axis="x")
        note = f"dotted: mAP now, {now:.3f}, at an overlap of {diagnosis['tiou']:g}\nin brackets: number of mistakes"
        axes.set_xlabel(note, fontsize=9, color=SOFT)
        return save(figure, path)


def draw_fates(diagnosis: Mapping[str, Any], path: Path) -> Path:
    """Draw what became of the true events, group by group."""
    groups = {name: [row for row in rows if sum_of(row)] for name, rows in diagnosis["groups"].items()}
    num_rows = sum(len(rows) + 1.4 for rows in groups.values())
    with drawing():
        figure = Figure(figsize=(6.2, 0.24 * num_rows + 0.9), layout="constrained")
        axes = figure.add_subplot(title="What became of the true events")
        at, ticks, labels = 0.0, [], []
        for name, rows in groups.items():
            axes.text(-0.01, at, GROUP_TITLES[name], ha="left", va="center", fontsize=9, color=DARK)
            at += 1
            for row in rows:
                total, start = sum_of(row), 0.0
                for fate in FATES:
                    share = row["events"][fate] / total
                    axes.barh(at, share, left=start, height=0.74, color=FATE_COLOURS[fate])
                    start += share
                label = f"{row['events']['right'] / total:.0%} of {total}"
                axes.text(1.012, at, label, va="center", fontsize=9, color=SOFT)
                ticks.append(at)
                labels.append(row["group"])
                at += 1
            at += 0.4
        axes.set_yticks(ticks, labels, fontsize=9)
        axes.set_ylim(at - 0.6, -0.7)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        patches = [
            Patch(facecolor=FATE_COLOURS[fate], edgecolor=GREY, linewidth=0.4, label=FATE_NAMES[fate]) for fate in FATES
        ]
        figure.legend(
            handles=patches, loc="outside lower center", ncols=len(FATES), frameon=False, fontsize=9, handlelength=1.2,
            columnspacing=1.2,
        )  # fmt: skip
        return save(figure, path)


def diagnosis_sentence(diagnosis: Mapping[str, Any]) -> str:
    """Return the mistakes in words, with the kind that costs most."""
    counts, gains = counted_kinds(diagnosis), diagnosis["if_mended"]
    true, right = sum(diagnosis["events"].values()), diagnosis["events"]["right"]
    looked_at, total = diagnosis["looked_at"]
    sentence = (
        f"{right} of {true} true events are found with an overlap of {diagnosis['tiou']:g} or more. Of the detections, "
        f"{counts['background']} lie in the background, {counts['confusion']} overlap an event of another class, "
        f"{counts['borders']} have poor borders, and {counts['double']} find an event a second time; "
        f"{counts['missed']} events are missed altogether."
    )
    if looked_at < total:
        sentence += f" Of {total} detections the {looked_at} with the highest scores are looked at."
    worst = max(gains, key=lambda kind: gains[kind])
    if gains[worst] > diagnosis["map"]:
        sentence += (
            f" The kind that costs most is “{KIND_NAMES[worst]}”: without it the mAP would be {gains[worst]:.3f} "
            f"instead of {diagnosis['map']:.3f}."
        )
    return sentence
