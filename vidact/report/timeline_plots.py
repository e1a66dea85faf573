"""The pictures of an online detector's run: scores over the truth, precision and recall, anticipation, delay.

Every function draws one PNG from a ``Timelines``. Blue is right, orange is wrong, grey is not scored. All figures are
those of the protocol ``lstr``: every token is scored except the ambiguous ones.

Shapes: V videos, T tokens of a video, K actions; column 0 of 1 + K is the background.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from vidact.metrics import AnticipationAP, anticipation_map, frame_delay, precision_recall, token_accuracy
from vidact.metrics.frame_ap import runs
from vidact.report.plots import BLUE, GREY, ORANGE, drawing, save, shorten
from vidact.results.timelines import Timelines

WIDTH = 11.2  # inches: a page shows 96 pixels of each, and its text is 70rem = 1120 pixels wide at the most
TRUTH = "#c3d6ec"  # a pale BLUE, before which a score stands out
DARK, SOFT = "#1b1d21", "#4a4f57"
# Colours dark enough for thin lines on white: BLUE and ORANGE, then Tableau's ten without yellow and light grey.
LINES = (BLUE, ORANGE, "#2f8f5b", "#8a4fae", "#b23a48", "#7a5a3a", "#c2559d", "#4a4f57", "#7f8c1a", "#1897a6")
TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
IS_SEEN = 0.5  # a class whose score reaches this counts as predicted
DELAY_THRESHOLDS = {0.3: "#85aad8", 0.5: BLUE, 0.7: "#12345c"}  # thresholds and their colours


def clock(seconds: float) -> str:
    """Return seconds as 1:05, or as 1:02:05 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def drawn_names(classes: list[str]) -> list[str]:
    """Return the names, but "class 3" for one that the font cannot draw, since its boxes would all be alike."""
    drawable = _drawable()
    return [name if drawable.issuperset(map(ord, name)) else f"class {number}" for number, name in enumerate(classes)]


@cache
def _drawable() -> frozenset[int]:
    """Return the code points that matplotlib's own font has."""
    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())


# ---- which videos are shown


def video_accuracies(timelines: Timelines) -> np.ndarray:
    """Return the share of the tokens of each video whose class is right, (V,); NaN where no token counts.

    The mAP of a single video would mislead: it ranks within the classes that occur, so wrong answers may reach 1.
    """
    return np.array([
        token_accuracy(timelines.scores[video], timelines.targets[video], timelines.ignore[video])
        for video in range(len(timelines))
    ])  # fmt: skip


def choose_videos(timelines: Timelines, accuracies: np.ndarray, most: int = 6) -> list[int]:
    """Return up to ``most`` videos from the worst to the best, in equal steps of the ranking.

    Of the videos without any action, the one with the most false alarms is among them, in the order of the ranking.
    """
    scored = [int(video) for video in np.argsort(accuracies, kind="stable") if not np.isnan(accuracies[video])]
    positions = np.linspace(0, len(scored) - 1, min(len(scored), most)).round().astype(int)
    chosen = [scored[position] for position in positions]
    empty = [video for video in scored if not (timelines.targets[video][:, 1:] == 1).any()]
    if empty and not set(empty) & set(chosen):
        loudest = max(empty, key=lambda video: _false_alarm(timelines, video))
        nearest = min(range(len(chosen)), key=lambda at: abs(scored.index(chosen[at]) - scored.index(loudest)))
        chosen[nearest] = loudest
    return sorted(chosen, key=scored.index)


def _false_alarm(timelines: Timelines, video: int) -> float:
    """Return the sum of all actions' scores over the tokens of a video without actions."""
    return float(timelines.scores[video][~timelines.ignore[video], 1:].sum())


# ---- scores over time


def draw_timeline(timelines: Timelines, video: int, path: Path, most_extra: int = 6) -> Path:
    """Draw a lane for each class that occurs in the video or is predicted: truth as bars, scores (0 to 1) as an area.

    The area is blue within the truth and orange outside it; tokens that are not scored are hatched. Of the classes that
    are predicted and never occur, those predicted for the longest time have a lane, at most ``most_extra`` of them; the
    picture gives the number of the others.
    """
    scores, truth, ignore = timelines.scores[video], timelines.targets[video] == 1, timelines.ignore[video]
    columns, left_out = _lanes(scores, truth, most_extra)
    seconds = len(scores) / timelines.tokens_per_second
    accuracy = token_accuracy(scores, timelines.targets[video], ignore)
    left, right, above, below, lanes = 1.7, 0.65, 0.38, 0.52 if left_out else 0.32, 0.4 * len(columns)  # inches
    height = above + lanes + below
    with drawing(), matplotlib.rc_context({"savefig.bbox": "standard"}):  # uncropped: the time axes of videos line up
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((left / WIDTH, below / height, 1 - (left + right) / WIDTH, lanes / height))
        _show_ignored(axes, ignore, timelines.tokens_per_second)
        for lane, column in enumerate(columns):
            _draw_lane(axes, lane, scores[:, column], truth[:, column], ignore, timelines.tokens_per_second)
        names = ["background", *drawn_names(timelines.classes)]
        axes.set_yticks(np.arange(len(columns)) + 0.5, [shorten(names[column], 22) for column in columns])
        _show_precision(axes, scores, truth, ignore, columns)
        axes.set_ylim(len(columns), 0)
        axes.set_xlim(0, seconds)
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        step = next((step for step in TICKS_S if seconds / step <= 12), TICKS_S[-1])
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))
        axes.grid(visible=True, axis="x")
        if left_out:
            classes = "class is" if left_out == 1 else "classes are"
            axes.set_xlabel(f"{left_out} more {classes} predicted, each for less time", fontsize=9, color=SOFT)
        right_share = "" if math.isnan(accuracy) else f"   {accuracy:.0%} of the time right"
        title = shorten(timelines.ids[video], 50) + right_share
        figure.text(0.006, 1 - 0.06 / height, title, va="top", fontsize=11)
        _explain(figure, (1 - right / WIDTH, 1 - 0.08 / height), has_ignored=bool(ignore.any()))
        return save(figure, path)


def _lanes(scores: np.ndarray, truth: np.ndarray, most_extra: int) -> tuple[list[int], int]:
    """Return the columns that have a lane, in order of their first token, and the number of predicted ones left out."""
    columns = range(1, scores.shape[1])
    true = [column for column in columns if truth[:, column].any()]
    wins = np.bincount(scores.argmax(1), minlength=scores.shape[1])
    predicted = wins + (scores >= IS_SEEN).sum(0)
    extra = [column for column in columns if predicted[column] and column not in true]
    extra.sort(key=lambda column: -predicted[column])
    true.sort(key=lambda column: int(truth[:, column].argmax()))
    lanes = true + extra[:most_extra]
    return lanes or [0], len(extra[most_extra:])


def _draw_lane(
    axes: Axes, lane: int, score: np.ndarray, truth: np.ndarray, ignore: np.ndarray, tokens_per_second: float
) -> None:
    floor, room = lane + 0.94, 0.84
    edges = np.repeat(np.arange(len(score) + 1) / tokens_per_second, 2)[1:-1]  # each token from its start to its end
    top = np.repeat(floor - room * np.clip(score, 0, 1), 2)
    first, last = runs(truth, np.array([0, len(truth)]))
    bars = [(a / tokens_per_second, (b + 1 - a) / tokens_per_second) for a, b in zip(first, last, strict=True)]
    axes.broken_barh(bars, (floor - room, room), facecolor=TRUTH, linewidth=0)
    kinds = ((truth & ~ignore, BLUE), (~truth & ~ignore, ORANGE), (ignore, GREY))
    for which, colour in kinds:
        if which.any():
            axes.fill_between(edges, floor, top, where=np.repeat(which, 2), facecolor=colour, linewidth=0)
    axes.plot(edges[[0, -1]], [floor, floor], color=GREY, linewidth=0.6)


def _show_ignored(axes: Axes, ignore: np.ndarray, tokens_per_second: float) -> None:
    for first, last in zip(*runs(ignore, np.array([0, len(ignore)])), strict=True):
        span = first / tokens_per_second, (last + 1) / tokens_per_second
        axes.axvspan(*span, facecolor="#f1f2f4", edgecolor="#b9bdc4", hatch="////", linewidth=0)


def _show_precision(axes: Axes, scores: np.ndarray, truth: np.ndarray, ignore: np.ndarray, columns: list[int]) -> None:
    """Write the AP of each lane within this video on its right."""
    is_scored = ~ignore
    for lane, column in enumerate(columns):
        area = precision_recall(scores[is_scored, column], truth[is_scored, column]).area() if column else math.nan
        label = "" if math.isnan(area) else f"AP {area:.2f}"
        axes.text(1.008, lane + 0.5, label, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=SOFT)


def _explain(figure: Figure, corner: tuple[float, float], has_ignored: bool) -> None:
    patches = [
        Patch(facecolor=TRUTH, label="truth"),
        Patch(facecolor=BLUE, label="score within it"),
        Patch(facecolor=ORANGE, label="score outside it"),
    ]
    if has_ignored:
        patches.append(Patch(facecolor="#f1f2f4", edgecolor="#b9bdc4", hatch="////", linewidth=0, label="not scored"))
    figure.legend(
        handles=patches, loc="upper right", bbox_to_anchor=corner, ncols=len(patches), frameon=False,
        fontsize=9, handlelength=1.2, columnspacing=1.2, borderaxespad=0, borderpad=0,
    )  # fmt: skip


def timeline_name(timelines: Timelines, video: int) -> str:
    """Return a file name for the picture of a video, whose id may hold folders; the number keeps names apart."""
    return f"{video:04d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', timelines.ids[video])[-60:]}.png"


# ---- precision and recall


def draw_precision_recall(timelines: Timelines, path: Path, most: int = 40) -> Path | None:
    """Draw precision over recall of each class with its AP; return None where no action occurs.

    Up to ten classes share one picture; more have a small one each, the worst first, at most ``most``.
    """
    scores, targets, ignore = timelines.joined()
    is_scored = ~ignore
    positive = targets[is_scored] == 1
    present = [column for column in range(1, scores.shape[1]) if positive[:, column].any()]
    if not present:
        return None
    curves = {column: precision_recall(scores[is_scored, column], positive[:, column]) for column in present}
    areas = {column: curve.area() for column, curve in curves.items()}
    order = sorted(present, key=lambda column: areas[column])
    names = ["background", *drawn_names(timelines.classes)]
    lines = {}
    for column, curve in curves.items():
        # A point is drawn where each of 400 recalls is first reached, since a curve has as many as there are tokens.
        points = np.unique(np.searchsorted(curve.hits, np.linspace(curve.hits[0], curve.total, 400)))
        precision = curve.precision[points]
        lines[column] = np.append(0, curve.recall[points]), np.append(precision[0], precision)
    with drawing():
        if len(order) <= len(LINES):
            figure = Figure(figsize=(8.2, 4.4), layout="constrained")
            axes = figure.add_subplot(xlabel="recall", ylabel="precision", title="Precision and recall")
            colours = class_colours(present)
            for column in order[::-1]:
                colour = colours[column]
                label = f"{areas[column]:.2f}  {shorten(names[column], 26)}"
                axes.plot(*lines[column], color=colour, linewidth=1.6, label=label)
            _unit_square(axes)
            axes.legend(
                title="average precision", loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=9,
                title_fontsize=9, alignment="left",
            )  # fmt: skip
            return save(figure, path)
        worst = order[:most]
        columns = 6
        rows = math.ceil(len(worst) / columns)
        figure = Figure(figsize=(WIDTH - 0.2, 1.75 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, column in zip(panels, worst, strict=False):
            recall, precision = lines[column]
            axes.fill_between(recall, precision, color=BLUE, alpha=0.2, linewidth=0)
            axes.plot(recall, precision, color=BLUE, linewidth=1.4)
            axes.axhline(positive[:, column].mean(), color=DARK, linewidth=1, linestyle=":")
            axes.set_title(f"{areas[column]:.2f}  {shorten(names[column], 19)}", fontsize=9)
            _unit_square(axes)
        for axes in panels[len(worst) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(worst) - columns) : len(worst)]:
            axes.tick_params(labelbottom=True)  # the lowest panel of its column is not always in the lowest row
        rest = "" if len(worst) == len(order) else f": the worst {len(worst)} of {len(order)} classes"
        figure.supxlabel("recall; dotted: share of the time, the precision of a guess", fontsize=9, color=SOFT)
        figure.supylabel("precision", fontsize=9, color=SOFT)
        figure.suptitle(f"Average precision{rest}", fontsize=11, x=0.01, ha="left")
        return save(figure, path)


def class_colours(columns: Sequence[int]) -> dict[int, str]:
    """Return a colour for each of at most ten columns. It follows from the number: a class keeps it in every picture.

    Of two columns ten apart, the later one gets the next free colour.
    """
    colours: dict[int, str] = {}
    for column in sorted(columns):
        at = column - 1
        while LINES[at % len(LINES)] in colours.values():
            at += 1
        colours[column] = LINES[at % len(LINES)]
    return colours


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.grid(visible=True)


# ---- the future, and how soon


def anticipation(timelines: Timelines) -> AnticipationAP | None:
    """Return the mAP of the predictions of later tokens; None where the detector makes none."""
    ahead = [index for index, offset in enumerate(timelines.future_offsets) if offset >= 1]
    if timelines.future is None or not ahead:
        return None
    _, targets, ignore = timelines.joined()
    future = np.concatenate(timelines.future)[:, ahead]
    offsets = [timelines.future_offsets[index] for index in ahead]
    return anticipation_map(future, targets, offsets, timelines.tokens_per_second, timelines.video_ids, ignore)


def draw_anticipation(result: AnticipationAP, now: float, path: Path) -> Path:
    """Draw mAP over the distance of the future in seconds, beside ``now``, the mAP of the present."""
    mean = result.per_offset
    with drawing():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel="seconds ahead", ylabel="frame mAP", title="Anticipation")
        axes.axhline(now, color=DARK, linewidth=1, linestyle=":")
        axes.plot([0, *result.seconds], [now, *mean], "--", color=BLUE, linewidth=1)
        axes.plot(result.seconds, mean, "o-", color=BLUE, markersize=4, linewidth=1.6)
        axes.plot(0, now, "o", color=DARK, markersize=6, clip_on=False, zorder=3)
        axes.annotate(f"now {now:.3f}", (0, now), xytext=(8, 6), textcoords="offset points", fontsize=9, color=DARK)
        last = f"{mean[-1]:.3f}"
        axes.annotate(last, (result.seconds[-1], mean[-1]), xytext=(0, -14), textcoords="offset points", ha="right",
                      fontsize=9, color=BLUE)  # fmt: skip
        axes.set_xlim(0, result.seconds[-1] * 1.02)
        axes.set_ylim(0, min(1.02, 1.25 * float(np.nanmax([now, *mean])) + 0.02))
        axes.grid(visible=True)
        return save(figure, path)


def draw_delays(timelines: Timelines, path: Path) -> Path | None:
    """Draw the share of actions whose score has reached a threshold by so many seconds after their start.

    Return None where no action occurs. A score that is at the threshold at once may have been there before the action.
    """
    scores, targets, _ = timelines.joined()
    if not (targets[:, 1:] == 1).any():
        return None
    with drawing():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot(
            xlabel="seconds since the start of the action", ylabel="share of the actions", title="Actions seen so far"
        )
        longest = 1.0
        delays = [
            frame_delay(scores, targets, timelines.video_ids, timelines.tokens_per_second, threshold)
            for threshold in DELAY_THRESHOLDS
        ]
        for delay in delays:
            if delay.missed < 1:
                longest = max(longest, float(np.nanquantile(delay.delays_s, 0.98)))
        for delay, (threshold, colour) in zip(delays, DELAY_THRESHOLDS.items(), strict=True):
            reached_s = np.sort(delay.delays_s[~np.isnan(delay.delays_s)])
            share = np.arange(1, len(reached_s) + 1) / len(delay.delays_s)
            x, y = np.concatenate([[0], reached_s, [longest * 1.05]]), np.concatenate([[0], share, [1 - delay.missed]])
            label = f"score of {threshold:g}: {1 - delay.missed:.0%} seen"
            if len(reached_s):
                label += f", median {delay.median_s:.2g} s"
            axes.step(x, y, where="post", color=colour, linewidth=1.6, label=label)
        axes.set_xlim(0, longest * 1.05)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.grid(visible=True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1, frameon=False, fontsize=9)
        return save(figure, path)
