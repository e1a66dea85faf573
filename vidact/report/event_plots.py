"""The picture of a video's detected events beside the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from vidact.events import Detection
from vidact.metrics.event_ap import AMBIGUOUS, TimedLabel, overlaps
from vidact.report.plots import BLUE, GREY, ORANGE, drawing, save, shorten
from vidact.report.timeline_plots import TICKS_S, TRUTH, WIDTH, clock

RIGHT = 0.5  # the overlap with a true event of its class from which a detection is blue


def draw_events(video: str, truth: Sequence[TimedLabel], shown: Sequence[Detection], path: Path) -> Path:
    """Draw a lane for each class that occurs in the video or is detected: truth as pale bars, detections in front.

    A detection is as high as its score, blue where it overlaps a true event of its class by ``RIGHT`` and orange
    otherwise. Ambiguous stretches are grey in all lanes.
    """
    actions = sorted((event for event in truth if event.label.lower() != AMBIGUOUS), key=lambda event: event.start_s)
    ranked = sorted(shown, key=lambda event: event.score)  # the highest in front
    names = list(dict.fromkeys([event.label for event in (*actions, *sorted(shown, key=lambda e: e.start_s))]))
    end_s = max((event.end_s for event in (*truth, *shown)), default=1.0)
    left, right, above, below, lanes = 1.7, 0.25, 0.38, 0.32, 0.4 * max(1, len(names))  # inches
    height = above + lanes + below
    with drawing(), matplotlib.rc_context({"savefig.bbox": "standard"}):  # uncropped: the time axes of videos line up
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((left / WIDTH, below / height, 1 - (left + right) / WIDTH, lanes / height))
        for event in truth:
            if event.label.lower() == AMBIGUOUS:
                axes.axvspan(event.start_s, event.end_s, color=GREY, alpha=0.3, linewidth=0)
        for lane, name in enumerate(names):
            floor, room = lane + 0.94, 0.84
            own = [event for event in actions if event.label == name]
            bars = [(event.start_s, event.end_s - event.start_s) for event in own]
            axes.broken_barh(bars, (floor - room, room), facecolor=TRUTH, linewidth=0)
            spans = np.array([(event.start_s, event.end_s) for event in own]).reshape(-1, 2)
            for event in ranked:
                if event.label != name:
                    continue
                is_right = (overlaps(np.array([(event.start_s, event.end_s)]), spans) >= RIGHT).any()
                top = room * min(1.0, max(0.04, event.score))
                axes.broken_barh(
                    [(event.start_s, event.end_s - event.start_s)], (floor - top, top),
                    facecolor=BLUE if is_right else ORANGE, edgecolor="white", linewidth=0.6,
                )  # fmt: skip
            axes.plot([0, end_s], [floor, floor], color=GREY, linewidth=0.6)
        axes.set_yticks(np.arange(len(names)) + 0.5, [shorten(name, 22) for name in names])
        axes.set_ylim(max(1, len(names)), 0)
        axes.set_xlim(0, end_s)
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        step = next((step for step in TICKS_S if end_s / step <= 12), TICKS_S[-1])
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))
        axes.grid(visible=True, axis="x")
        figure.text(0.006, 1 - 0.06 / height, shorten(video, 50), va="top", fontsize=11)
        patches = [
            Patch(facecolor=TRUTH, label="truth"),
            Patch(facecolor=BLUE, label=f"detected, overlap {RIGHT:g} or more"),
            Patch(facecolor=ORANGE, label="detected elsewhere"),
        ]
        figure.legend(
            handles=patches, loc="upper right", bbox_to_anchor=(1 - right / WIDTH, 1 - 0.08 / height),
            ncols=len(patches), frameon=False, fontsize=9, handlelength=1.2, columnspacing=1.2, borderaxespad=0,
            borderpad=0,
        )  # fmt: skip
        return save(figure, path)
