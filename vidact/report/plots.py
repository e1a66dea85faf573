"""The pictures of a run: learning curves, confusion, accuracy of each class, a sheet of the worst mistakes.

Every function draws one PNG from plain arrays. Blue is right or training, orange is wrong or validation.

Shapes: N videos, K classes.
"""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from vidact.files import replacing
from vidact.metrics import true_class_rank
from vidact.results.scores import Scores, probabilities

DPI = 160  # dots an inch of every PNG; a page shows 96 pixels an inch
BLUE, ORANGE, GREY = "#2563a8", "#d9641f", "#8a8f98"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": "#e3e5e8",
    "text.parse_math": False,  # a class may be called "$5 note"
    "figure.dpi": DPI,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.08,
}
Curve = list[tuple[float, float]]


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the style of the plots, without a warning for each character that the font does not have."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def save(figure: Figure, path: Path) -> Path:
    with replacing(path) as half:
        figure.savefig(half, dpi=DPI)
    return path


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# ---- learning curves


def draw_shots(rows: Sequence[Mapping[str, Any]], chance: float, path: Path) -> Path:
    """Draw the accuracy of probes for numbers of training clips a class, with its spread over draws.

    Args:
        rows: "clips a class" (a number, or "all"), "mean top1" and "spread", as ``training.shots`` makes them.
        chance: the accuracy of a guess.
        path: the PNG.
    """
    with drawing():
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.add_subplot(xlabel="training clips a class", ylabel="top-1", ylim=(0, 1.02))
        means, spreads = ([float(row[key]) for row in rows] for key in ("mean top1", "spread"))
        axes.errorbar(range(len(rows)), means, spreads, color=BLUE, marker="o", markersize=4, capsize=3, lw=1.5)
        axes.axhline(chance, color=GREY, linestyle=":", lw=1.2)
        axes.text(len(rows) - 1, chance, "a guess ", color=GREY, ha="right", va="bottom", fontsize=9)
        axes.set_xticks(range(len(rows)), [str(row["clips a class"]) for row in rows])
        axes.grid(axis="y")
        return save(figure, path)


def read_log(path: Path) -> dict[str, Curve]:
    """Read each column of a metrics.csv as points (epochs done, value).

    A column that has n rows in an epoch is spread over it evenly. Empty cells, and those that a killed run left half
    written, are no points. Epochs count from 1; those of an older version's file, from 0.
    """
    columns: dict[str, dict[int, list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            epoch = _number(row.get("epoch"))
            for name, cell in row.items():
                value = _number(cell)
                if epoch is not None and value is not None and name not in (None, "epoch", "step"):
                    columns.setdefault(name, {}).setdefault(int(epoch), []).append(value)
    first = min((epoch for by_epoch in columns.values() for epoch in by_epoch), default=1)
    before = min(first, 1)
    return {
        name: [
            (epoch - before + (at + 1) / len(values), value)
            for epoch, values in sorted(by_epoch.items())
            for at, value in enumerate(values)
        ]
        for name, by_epoch in columns.items()
    }


def _number(cell: object) -> float | None:
    try:
        value = float(str(cell))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def draw_curves(log: Mapping[str, Curve], folder: Path) -> list[Path]:
    """Draw loss.png, accuracy.png and lr.png as far as ``log`` has their columns; return the paths of those drawn."""
    losses = {name: points for name, points in log.items() if name in ("train_loss", "val_loss")}
    rates = {
        name: points
        for name, points in log.items()
        if re.fullmatch(r"(train|val)_(top\d+|map|mean_class_accuracy)", name)
    }
    speeds: dict[str, Curve] = {}
    for name, points in log.items():
        if name.startswith("lr-") and points not in speeds.values():  # groups that learn at one rate are one line
            speeds[name] = points
    drawn = []
    accuracy = "mAP" if rates and all(name.endswith("_map") for name in rates) else "Accuracy"
    panels = (("Loss", losses, "loss"), (accuracy, rates, "accuracy"), ("Learning rate", speeds, "lr"))
    for title, curves, file in panels:
        if curves:
            drawn.append(_draw_curves(title, curves, folder / f"{file}.png"))
    return drawn


def draw_rates(table: Path, suggestion: float | None, path: Path) -> Path:
    """Draw the losses of a learning-rate range test, read from its learning_rate.csv, with the suggested rate."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [[float(row[name]) for name in ("rate", "loss", "smoothed")] for row in csv.DictReader(file)]
    rates, losses, smoothed = zip(*rows, strict=True)
    with drawing():
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.add_subplot(title="Learning-rate range test", xlabel="learning rate", ylabel="loss", xscale="log")
        axes.plot(rates, losses, color=GREY, linewidth=0.8, label="each step")
        axes.plot(rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
        if suggestion is not None:
            axes.axvline(suggestion, color=ORANGE, linestyle="--", label=f"suggested: {suggestion:.2g}")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        top = max(smoothed[: max(1, len(smoothed) // 4)])
        axes.set_ylim(min(0.0, *losses), 2 * top)  # a loss that diverges would flatten the rest
        axes.grid(axis="y")
        axes.legend(frameon=False)
        return save(figure, path)


def _draw_curves(title: str, curves: Mapping[str, Curve], path: Path) -> Path:
    with drawing():
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel="epochs")
        styles = iter(["-", "--", "-.", ":"] * len(curves))
        style_of: dict[str, str] = {}
        for name, points in sorted(curves.items(), key=lambda curve: not curve[0].startswith("train")):
            split, _, measure = name.partition("_")
            if split in ("train", "val"):
                colour, label = {"train": (BLUE, "training"), "val": (ORANGE, "validation")}[split]
                label = label if measure == "loss" else f"{label} {measure.replace('_', ' ')}"
            else:
                colour, label, measure = BLUE, name.removeprefix("lr-"), name
            if measure not in style_of:
                style_of[measure] = next(styles)
            x, y = zip(*points, strict=True)
            marker = "o" if len(points) <= 20 else None
            axes.plot(x, y, style_of[measure], color=colour, label=label, marker=marker, markersize=3, linewidth=1.5)
        axes.grid(visible=True)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if title == "Accuracy":
            axes.set_ylim(0, 1.02)
            _mark_best(axes, curves)
        elif title == "Learning rate":
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        if len(curves) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=9)
        return save(figure, path)


def _mark_best(axes: Axes, curves: Mapping[str, Curve]) -> None:
    """Draw a ring around the highest validation top-1 or mAP, and write its figure above."""
    points = curves.get("val_top1") or curves.get("val_map")
    if not points:
        return
    x, y = max(points, key=lambda point: (point[1], -point[0]))
    axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=ORANGE, markeredgewidth=1.5)
    axes.set_title(f"best validation {y:.3f}, epoch {x:g}", loc="right", fontsize=9, color=ORANGE)


# ---- classes


def draw_confusion(counts: np.ndarray, classes: Sequence[str], path: Path) -> Path:
    """Draw counts (K, K), rows the truth; colour is the share of the row, blue on the diagonal and orange off it.

    With up to 20 classes the cells hold their counts; with up to 120 the classes are named; above that the axes are
    numbered and a cell is a few pixels wide, enough for the orange ones to stand out.
    """
    num = len(classes)
    with drawing():
        cell = 0.42 if num <= 12 else 0.34 if num <= 20 else 0.19 if num <= 60 else 0.14 if num <= 120 else 4 / DPI
        cell = max(cell, 2.4 / num)  # two classes still make a picture
        side = cell * num
        figure = Figure(figsize=(side, side))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(_confusion_colours(counts), interpolation="nearest", aspect="equal")
        axes.spines[["top", "right"]].set_visible(True)
        axes.set_xlabel("prediction")
        axes.set_ylabel("truth")
        if num <= 120:
            size = 9 if num <= 20 else 8 if num <= 60 else 7
            names = [shorten(name, 26) for name in classes]
            is_narrow = max(map(len, names)) * 0.09 > cell
            axes.set_xticks(range(num), names, rotation=90 if is_narrow else 0, fontsize=size)
            axes.set_yticks(range(num), names, fontsize=size)
            axes.tick_params(length=0)
        else:
            axes.set_xlabel("prediction (class number, from 0)")
            axes.set_ylabel("truth (class number, from 0)")
            axes.xaxis.tick_top()
            axes.xaxis.set_label_position("top")
        if num <= 60:
            axes.set_xticks(np.arange(num + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(num + 1) - 0.5, minor=True)
            axes.grid(visible=True, which="minor", color="#eceef0", linewidth=0.6)
            axes.tick_params(which="minor", length=0)
        if num <= 20:
            share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            for row, column in zip(*np.nonzero(counts), strict=True):
                colour = "white" if share[row, column] > 0.45 else "#1b1d21"
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=9, color=colour)
        return save(figure, path)


def _confusion_colours(counts: np.ndarray) -> np.ndarray:
    """Return RGB (K, K, 3) in 0…1: white for no video; a single mistake among many videos is still visible."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    least = 0.18 if len(counts) <= 60 else 0.5  # small cells must be stronger to be seen
    strength = np.where(share > 0, least + (1 - least) * np.sqrt(share), 0)[..., None]
    full = np.where(np.eye(len(counts), dtype=bool)[..., None], _rgb(BLUE), _rgb(ORANGE))
    return 1 - strength * (1 - full)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))


def draw_classes(
    figures: np.ndarray, videos: np.ndarray, classes: Sequence[str], path: Path, measure: str = "accuracy"
) -> Path:
    """Draw a bar a class, worst first, without NaN. Of more than 60 classes: the worst 40, and a curve of all below."""
    present = [k for k in np.argsort(figures, kind="stable") if not np.isnan(figures[k])]
    drawn = present if len(present) <= 60 else present[:40]
    with drawing():
        heights = [0.22 * len(drawn) + 0.1] + ([2.2] if len(drawn) < len(present) else [])
        figure = Figure(figsize=(6.4, sum(heights) + 0.9 * len(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        axes, values = panels[0], figures[drawn]
        axes.barh(range(len(drawn)), values, height=0.72, color=[BLUE if v >= 0.5 else ORANGE for v in values])
        axes.set_yticks(range(len(drawn)), [shorten(classes[k], 30) for k in drawn], fontsize=9)
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=True, axis="x")
        rest = "" if len(drawn) == len(present) else f": the worst {len(drawn)} of {len(present)} classes"
        axes.set_title(f"{measure.capitalize()}{rest or ' of each class'}")
        mean = figures[present].mean()
        axes.axvline(mean, color="#1b1d21", linewidth=1, linestyle=":")
        for row, k in enumerate(drawn):
            number = f"{figures[k] * videos[k]:.0f} of {videos[k]}" if measure == "accuracy" else f"{figures[k]:.2f}"
            axes.text(1.01, row, number, va="center", fontsize=8.5, color="#4a4f57")
        if len(panels) > 1:
            curve = figures[present]
            panels[1].fill_between(range(1, len(curve) + 1), curve, color=BLUE, alpha=0.25, linewidth=0)
            panels[1].plot(range(1, len(curve) + 1), curve, color=BLUE)
            panels[1].axhline(mean, color="#1b1d21", linewidth=1, linestyle=":")
            panels[1].set(xlim=(1, len(curve)), ylim=(0, 1.02), xlabel="classes, worst first", title="All classes")
            panels[1].grid(visible=True)
        axes.set_xlabel(f"dotted: mean over classes, {mean:.3f}", color="#4a4f57", fontsize=9)
        return save(figure, path)


# ---- mistakes


@dataclass(frozen=True)
class Mistake:
    """A video whose best class is not its label; ``confidence`` is that class's probability."""

    id: str
    path: str
    truth: str
    prediction: str
    confidence: float
    rank: int  # the true class's place in the order of the scores, from 1; 2 or more in a mistake


def find_mistakes(scores: Scores) -> list[Mistake]:
    """Return all mistakes of a single-label test, the most confident first."""
    certainty = probabilities(scores)
    best = scores.values.argmax(1)
    rank = true_class_rank(scores.values, scores.labels) + 1
    wrong = np.flatnonzero(rank > 1)
    mistakes = [
        Mistake(
            scores.ids[n],
            scores.paths[n] if scores.paths else "",
            scores.classes[scores.labels[n]],
            scores.classes[best[n]],
            float(certainty[n, best[n]]),
            int(rank[n]),
        )
        for n in wrong
    ]
    return sorted(mistakes, key=lambda mistake: (-mistake.confidence, mistake.id))


def draw_order(
    clips: Mapping[str, np.ndarray], figures: Mapping[str, float], chance: float, title: str, path: Path
) -> Path:
    """Draw film strips of named clips (T, H, W, 3) on the left, and one bar a network on the right, beside chance."""
    with drawing():
        figure = Figure(figsize=(10, 0.9 + 0.62 * len(clips)), layout="constrained")
        films, bars = figure.subplots(1, 2, width_ratios=[2.4, 1])
        strips = [np.concatenate([np.pad(frame, ((2, 2), (2, 2), (0, 0)), constant_values=255) for frame in clip], 1)
                  for clip in clips.values()]  # fmt: skip
        films.imshow(np.concatenate(strips), aspect="equal")
        height = strips[0].shape[0]
        films.set_yticks([height * (i + 0.5) for i in range(len(clips))], list(clips))
        films.set_xticks([])
        films.set_xlabel("time →")
        films.grid(False)
        films.spines[:].set_visible(False)
        names = list(figures)
        bars.barh(names, [100 * figures[name] for name in names], color="#3b6fb6", height=0.55)
        for row, name in enumerate(names):
            bars.text(100 * figures[name] - 2, row, f"{figures[name]:.1%}", va="center", ha="right", color="white")
        bars.axvline(100 * chance, color="#b6523b", linestyle="--", linewidth=1.2)
        bars.text(100 * chance, -0.62, "guessing ", color="#b6523b", ha="right", va="center", fontsize=9)
        bars.set_xlim(0, 100)
        bars.set_ylim(len(names) - 0.5, -0.75)  # the first network on top
        bars.set_xlabel(title)
        return save(figure, path)


def draw_mistakes(mistakes: Sequence[Mistake], path: Path, num_frames: int = 4) -> Path:
    """Draw strips of frames, two beside each other, with truth, prediction and confidence.

    The picture is dark on light and dark pages alike, so that the frames look the same. A video that cannot be read is
    a grey strip with the reason in it.
    """
    width, height, gap = num_frames * 1.25, 0.95, 0.3  # inches of a strip
    line, columns = 0.42, 2 if len(mistakes) > 1 else 1
    rows = math.ceil(len(mistakes) / columns)
    total_width, total_height = columns * (width + gap) + gap, rows * (height + line + gap) + gap
    with drawing():
        figure = Figure(figsize=(total_width, total_height), facecolor="#16181d")
        for number, mistake in enumerate(mistakes):
            left = gap + (number % columns) * (width + gap)
            top = total_height - gap - (number // columns) * (height + line + gap)
            x, y = left / total_width, top / total_height
            letters = int(width / 2 / 0.086)
            truth = figure.text(x, y, shorten(mistake.truth, letters), color="#8cc4ff", fontsize=10, va="top")
            name = _tail(mistake.id, int(width / 0.072))
            figure.text(x, y - 0.2 / total_height, name, color="#9aa0aa", fontsize=8, va="top")
            bottom = (top - line - height) / total_height
            axes = figure.add_axes((x, bottom, width / total_width, height / total_height))
            axes.axis("off")
            prediction_text = f" → {shorten(mistake.prediction, letters - 8)}  {mistake.confidence:.2f}"
            axes.annotate(prediction_text, (1, 1), xycoords=truth, va="top", color="#ffa36b", annotation_clip=False)
            strip, reason = read_strip(mistake, num_frames, round(width * DPI), round(height * DPI))
            axes.imshow(strip, aspect="auto", interpolation="antialiased")
            if reason:
                wrapped = "\n".join(reason[at : at + 62] for at in range(0, min(len(reason), 248), 62))
                middle_of_strip: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
                axes.text(0.5, 0.5, wrapped, color="#e8eaed", fontsize=8, **middle_of_strip)
        with replacing(path) as half:
            figure.savefig(half, dpi=DPI, bbox_inches=None, facecolor=figure.get_facecolor())
    return path


def _tail(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[len(text) - length + 1 :]


def read_strip(mistake: Mistake, num_frames: int, width: int, height: int) -> tuple[np.ndarray, str]:
    """Return frames from the middle of equal parts of the clip, side by side, uint8 (height, width, 3), and "".

    Where the video cannot be read, the strip is grey and the text is the reason.
    """
    from vidact.video import open_video

    strip = np.full((height, width, 3), (22, 24, 29), np.uint8)
    try:
        if not mistake.path:
            raise ValueError("the scores file does not say where the video is")
        with open_video(mistake.path) as video:
            first, count = _trimmed(mistake.id, np.asarray(video.times_s))
            places = first + ((np.arange(num_frames) + 0.5) * count / num_frames).astype(int)
            images = video.frames_at(places).images.permute(0, 2, 3, 1).numpy()
    except (ValueError, OSError) as error:
        return np.full((height, width, 3), (70, 74, 82), np.uint8), f"cannot be shown: {error}"
    box = width // num_frames
    for number, image in enumerate(images):
        fitted = _fit(image, box - 4, height)
        left, top = number * box + (box - fitted.shape[1]) // 2, (height - fitted.shape[0]) // 2
        strip[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return strip, ""


def _trimmed(id: str, times_s: np.ndarray) -> tuple[int, int]:
    """Return the first frame and the number of frames of the part that an id ends with: ``@12.5-14``, ``@12.5-end``."""
    match = re.search(r"@([\d.]+)-([\d.]+|end)$", id)
    if match is None:
        return 0, len(times_s)
    end_s = math.inf if match[2] == "end" else float(match[2])
    seconds = times_s - times_s[0]
    inside = np.flatnonzero((seconds >= float(match[1])) & (seconds < end_s))
    return (int(inside[0]), len(inside)) if len(inside) else (0, len(times_s))


def _fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return ``image`` (H, W, 3) resized to lie inside width x height, in its own proportions."""
    from PIL import Image

    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
