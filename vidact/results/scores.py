"""The scores of a test, one row a video: saved in a file, joined by video id, fused over several networks.

Late fusion (Simonyan, Zisserman 2014, https://arxiv.org/abs/1406.2199) adds the scores of a network on RGB to those of
a network on optical flow. TSN adds logits with the weights 1 and 1.5 on UCF101 and HMDB51, 1 and 1 on
Kinetics; older two-stream work adds softmax scores with 1 and 1.5 or 2. The weights belong to one kind of score:
choose them again, on a validation file, when the kind changes.

Shapes: P parts to fuse, N videos, K classes.
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vidact.files import read_npz, replacing
from vidact.metrics.topk import (
    average_precision,
    is_trivial,
    mean_average_precision,
    mean_class_accuracy,
    per_class_accuracy,
    topk_accuracy,
)
from vidact.metrics.yardsticks import lead_is_luck, verdict, yardsticks
from vidact.results.figures import command_line, save_results
from vidact.text.names import counted, plain_name, plain_path

FORMAT = "vidact scores 1"
PROBE_SCORES = "probe_scores.npz"  # in a run folder: a linear probe's scores of the clips that a test of it scores
# The arrays of a file: NumPy's letters for the kinds of their values, and the number of their axes (None: any).
ARRAYS: dict[str, tuple[str, int | None]] = {
    "ids": ("U", 1),
    "labels": ("biuf", None),
    "values": ("f", 2),
    "classes": ("U", 1),
    "kind": ("U", 0),
    "views": ("U", 0),
    "paths": ("U", 1),
}
Kind = Literal["logits", "softmax", "log_softmax"]
Missing = Literal["refuse", "intersect"]  # the treatment of parts that hold different videos


@dataclass
class Scores:
    """The scores of one test for every video.

    Args:
        ids: the names of the rows; each id once.
        labels: the truth, class indices (N,), or 0/1 (N, K) for multi-label data.
        values: the scores (N, K), averaged over views.
        classes: the K class names in the order of the columns.
        kind: "logits" were averaged, or "softmax" probabilities (each class's own sigmoid for multi-label data).
        views: clips x crops that were averaged, such as "10x3".
        paths: the video file of each row, so that people can view it; may be empty.
    """

    ids: list[str]
    labels: np.ndarray
    values: np.ndarray
    classes: list[str]
    kind: str = "logits"
    views: str = "1x1"
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = [plain_path(str(id)) for id in self.ids]
        self.classes = [plain_name(str(name)) for name in self.classes]
        self.paths = [str(path) for path in self.paths]
        self.values = np.asarray(self.values, dtype=np.float32)
        self.labels = np.asarray(self.labels)
        self.labels = self.labels.astype(np.float32 if self.multi_label else np.int64)
        videos, classes = shape = len(self.ids), len(self.classes)
        if self.kind not in ("logits", "softmax"):
            raise ValueError(f"kind is {self.kind!r}; scores are 'logits' or 'softmax'")
        if self.values.shape != shape:
            raise ValueError(
                f"values have the shape {self.values.shape}; {videos} ids and {classes} classes need {shape}"
            )
        if self.labels.shape not in ((videos,), shape):
            raise ValueError(f"labels have the shape {self.labels.shape}, not {(videos,)} or {shape}")
        if not self.multi_label and not np.isin(self.labels, np.arange(classes)).all():
            raise ValueError(
                f"labels reach from {self.labels.min()} to {self.labels.max()}; with {classes} classes they are "
                f"0…{classes - 1}"
            )
        if self.paths and len(self.paths) != videos:
            raise ValueError(f"{len(self.paths)} paths for {videos} ids; give one path a video, or none")
        if len(set(self.ids)) != videos:
            twice = next(id for id in self.ids if self.ids.count(id) > 1)
            raise ValueError(f"video {twice!r} has {self.ids.count(twice)} rows; each id stands once")
        broken = np.isnan(self.values).any(1)
        if broken.any():
            raise ValueError(
                f"{broken.sum()} of {videos} videos have NaN scores, the first is {self.ids[broken.argmax()]!r}. "
                f"Did training diverge?"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.labels.ndim == 2

    def beside_yardsticks(self) -> dict[str, Any]:
        """Return the figures of a guess and of the most frequent label, and a verdict on scores that are no better."""
        truth = self.labels if self.multi_label else np.eye(len(self.classes))[self.labels]
        sticks = yardsticks(truth)
        if self.multi_label:
            sentence = verdict(sticks, self.classes, mean_precision=mean_average_precision(self.values, self.labels))
            return {"chance_map": sticks.chance_map, "verdict": sentence}
        right = self.values.argmax(1) == self.labels
        is_luck = lead_is_luck(right, self.labels == sticks.majority_class)
        return {
            "chance": sticks.chance,
            "majority": sticks.majority,
            "majority_class": self.classes[sticks.majority_class],
            "verdict": verdict(sticks, self.classes, float(right.mean()), is_luck=is_luck),
        }

    def beside_probe(self, probe: Scores) -> dict[str, Any]:
        """Return the accuracy of a linear probe on the same clips, and a verdict on scores that are no better.

        Clips that one of the two lacks do not count. Empty where none is left, for multi-label data, and where
        ``probe`` belongs to other data: where the classes or the labels differ, or where a clip of the same id is
        another file, while that of the probe is still there. (Clips that were moved have other paths, too.)
        """
        rows, others = ({id: row for row, id in enumerate(each.ids)} for each in (self, probe))
        ids = [id for id in self.ids if id in others]
        if not ids or self.multi_label or probe.multi_label or self.classes != probe.classes:
            return {}
        mine, theirs = [rows[id] for id in ids], [others[id] for id in ids]
        truth = self.labels[mine]
        if (truth != probe.labels[theirs]).any():
            return {}
        if self.paths and probe.paths:
            path, of_probe = Path(self.paths[mine[0]]), Path(probe.paths[theirs[0]])
            if of_probe.exists() and path.resolve() != of_probe.resolve():
                return {}
        right, probe_right = self.values[mine].argmax(1) == truth, probe.values[theirs].argmax(1) == truth
        lead, figure = int(right.sum()) - int(probe_right.sum()), float(probe_right.mean())
        baseline = f"a linear probe on the network before training ({figure:.3f})"
        sentence = ""
        if lead <= 0:
            number = f"{-lead} of {counted(len(ids), 'clip')} fewer right than" if lead else "as many clips right as"
            sentence = f"training did not pay: the trained network has {number} {baseline}"
        elif lead_is_luck(right, probe_right):
            sentence = (
                f"the trained network has {lead} of {counted(len(ids), 'clip')} more right than {baseline}, which may "
                "be chance"
            )
        return {"probe": figure, "probe_verdict": sentence}

    def save(self, path: Path) -> Path:
        """Write an .npz without pickles, completely or not at all; create the folder; return the path."""
        with replacing(path) as half, half.open("wb") as file:
            np.savez_compressed(
                file,
                format=np.array(FORMAT),
                ids=np.array(self.ids, dtype=np.str_),
                labels=self.labels,
                values=self.values,
                classes=np.array(self.classes, dtype=np.str_),
                kind=np.array(self.kind),
                views=np.array(self.views),
                paths=np.array(self.paths, dtype=np.str_),
            )
        return Path(path)


def load_scores(path: Path) -> Scores:
    """Read a file of ``Scores.save``. Raises FileNotFoundError, or ValueError for a damaged or other file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; `vidact test` writes scores.npz into the run folder")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a scores file, or the end of it is missing; "
            f"run `vidact test` again"
        )
    try:
        arrays = read_npz(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a scores file ({error}); run `vidact test` again") from None
    if str(arrays.get("format")) != FORMAT:
        raise ValueError(
            f"{path} holds the arrays {', '.join(arrays) or 'of nothing'} without the mark {FORMAT!r}: "
            f"it was not written by this version of vidact"
        )
    for name, (kinds, ndim) in ARRAYS.items():
        array = arrays.get(name)
        if array is None or array.dtype.kind not in kinds or ndim not in (None, array.ndim):
            problem = "is missing" if array is None else f"is {array.dtype} {array.shape}"
            raise ValueError(f"{path} is damaged or not a scores file ({name} {problem}); run `vidact test` again")
    return Scores(
        ids=arrays["ids"].tolist(),
        labels=arrays["labels"],
        values=arrays["values"],
        classes=arrays["classes"].tolist(),
        kind=str(arrays["kind"]),
        views=str(arrays["views"]),
        paths=arrays["paths"].tolist(),
    )


def stack(parts: Sequence[Scores]) -> Scores:
    """Concatenate the videos of all parts: the folds of a cross-validation become one test."""
    if not parts:
        raise ValueError("there are no scores to stack; give one or more")
    for number, part in enumerate(parts[1:], start=2):
        _require_same_classes(parts[0], part, "part 1", f"part {number}")
        if (part.kind, part.multi_label) != (parts[0].kind, parts[0].multi_label):
            raise ValueError(f"part {number} holds {part.kind} and part 1 {parts[0].kind}; average all tests alike")
    return Scores(
        ids=[id for part in parts for id in part.ids],
        labels=np.concatenate([part.labels for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        classes=parts[0].classes,
        kind=parts[0].kind,
        views=parts[0].views,
        paths=[path for part in parts for path in part.paths] if all(part.paths for part in parts) else [],
    )


def fuse(
    parts: Sequence[Scores],
    weights: Sequence[float] | None = None,
    kind: Kind = "logits",
    missing: Missing = "refuse",
    names: Sequence[str] | None = None,
) -> Scores:
    """Return the weighted mean of several tests' scores, joined by video id; rows are in the order of the first part.

    Args:
        parts: the scores of the tests.
        weights: one a part, 0 or more; None weighs all alike. Only their ratios matter: they are divided by their sum,
            so that fused probabilities are probabilities.
        kind: the scores that are added: "logits" as they are, "softmax" for probabilities, "log_softmax" for their
            logarithms (the result counts as logits).
        missing: what to do when the parts hold different videos: refuse, or keep those that all parts hold.
        names: the names of the parts in messages.

    Raises ValueError when class lists, ids or labels disagree.
    """
    values, first = _joined(parts, kind, missing, names)  # (P, N, K)
    shares = _shares(weights, len(parts))
    return Scores(
        ids=first.ids,
        labels=first.labels,
        values=np.einsum("p,pnk->nk", shares, values),
        classes=first.classes,
        kind="softmax" if kind == "softmax" else "logits",
        views=" + ".join(part.views for part in parts) if len({part.views for part in parts}) > 1 else first.views,
        paths=first.paths,
    )


def search_weights(
    parts: Sequence[Scores],
    steps: int = 10,
    kind: Kind = "logits",
    missing: Missing = "refuse",
    names: Sequence[str] | None = None,
) -> tuple[list[float], float]:
    """Return the weights (multiples of ``1 / steps``, sum 1) whose fusion is best on these videos, and its figure.

    The figure is top-1, or mean average precision for multi-label data; of equal ones the most even weights win.
    Search on the scores of a validation set: an accuracy whose weights were searched on the test set is not a result.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; a grid needs at least 1")
    tried = math.comb(steps + len(parts) - 1, len(parts) - 1) if parts else 0
    if tried > 100_000:
        raise ValueError(f"{len(parts)} parts in {steps} steps are {tried} weightings to try; use fewer steps")
    values, first = _joined(parts, kind, missing, names)
    measure = mean_average_precision if first.multi_label else topk_accuracy
    best, chosen = (-1.0, 0.0), [0.0]
    for cuts in itertools.combinations(range(steps + len(parts) - 1), len(parts) - 1):
        edges = (-1, *cuts, steps + len(parts) - 1)  # the gaps between cuts add up to steps
        counts = [right - left - 1 for left, right in itertools.pairwise(edges)]
        shares = np.array(counts) / steps
        figure = measure(np.einsum("p,pnk->nk", shares, values).astype(np.float32), first.labels)
        rank = (figure, -float(sum(count**2 for count in counts)))
        if rank > best:
            best, chosen = rank, shares.tolist()
    return chosen, best[0]


def fuse_files(
    scores: list[Path],
    weights: list[float] | None = None,
    kind: Kind = "logits",
    out: Path | None = None,
    search_on: list[Path] | None = None,
    steps: int = 10,
    missing: Missing = "refuse",
) -> dict[str, Any]:
    """Fuse the scores of several tests, print what each part and their fusion reach, and return the figures.

    Args:
        scores: the scores.npz of each part, or the run folders that hold them.
        weights: one a part; by default all alike. TSN: 1 for RGB and 1.5 for flow, on logits.
        kind: the scores that are added: logits, softmax or log_softmax.
        out: the folder of the fused scores.npz and results.json; None only prints.
        search_on: validation scores of the same networks, in the same order, on which the weights are searched.
        steps: the fineness of that search: weights are multiples of 1 / steps.
        missing: "intersect" keeps the videos that all parts hold; "refuse" stops when they hold different ones.
    """
    if len(scores) < 2:
        raise ValueError(f"{len(scores)} scores file was given; a fusion needs two or more")
    parts, names = _load_parts(scores)
    if search_on is not None:
        if weights is not None:
            raise ValueError("weights and search_on were both given; the search would replace the weights. Give one")
        if len(search_on) != len(scores):
            raise ValueError(
                f"search_on has {counted(len(search_on), 'file')} for {len(scores)} parts; give one a part, in order"
            )
        validation, validation_names = _load_parts(search_on)
        weights, reached = search_weights(validation, steps, kind, missing, validation_names)
        print(f"weights {_weights_text(weights)} reach {reached:.4f} on the validation scores")
    fused = fuse(parts, weights, kind, missing, names)
    if missing == "intersect":
        common = set(fused.ids)
        for part, name in zip(parts, names, strict=True):
            if len(part) > len(common):
                print(f"{name}: {len(part) - len(common)} of {len(part)} videos are not in every part and are left out")
        parts = [_rows(part, fused.ids) for part in parts]  # the figures compare the same videos
    columns = {**dict(zip(_short(names), parts, strict=True)), "fused": fused}
    figures = {name: figures_of(part) for name, part in columns.items()}
    _print_figures(figures, weights or [1.0] * len(parts), len(fused.classes))
    _print_classes(columns)
    beside = fused.beside_yardsticks()
    if beside["verdict"]:
        print(f"\nnote: {beside['verdict']}")
    if out is not None:
        folder = Path(out)
        fused.save(folder / "scores.npz")
        section = (
            figures["fused"]
            | beside
            | {
                "parts": {name: row for name, row in figures.items() if name != "fused"},
                "weights": list(weights or [1.0] * len(parts)),
                "fused_as": kind,
                "scores": [str(path) for path in scores],
                "videos": len(fused),
                "views": fused.views,
            }
        )
        save_results(folder, {"fuse": section}, command_line())
        print(f"\nwrote {folder / 'scores.npz'} and {folder / 'results.json'}")
    return figures


# ---- joining


def _joined(parts: Sequence[Scores], kind: str, missing: str, names: Sequence[str] | None) -> tuple[np.ndarray, Scores]:
    """Return every part's scores as ``kind``, (P, N, K) float64 in one order, and the first part with those rows."""
    if not parts:
        raise ValueError("there are no scores to fuse; give one or more")
    if kind not in ("logits", "softmax", "log_softmax"):
        raise ValueError(f"kind is {kind!r}; scores are fused as 'logits', 'softmax' or 'log_softmax'")
    if missing not in ("refuse", "intersect"):
        raise ValueError(f"missing is {missing!r}; it is 'refuse' or 'intersect'")
    called = list(names) if names is not None else [f"part {number}" for number in range(1, len(parts) + 1)]
    for part, name in zip(parts[1:], called[1:], strict=True):
        _require_same_classes(parts[0], part, called[0], name)
    common = set.intersection(*(set(part.ids) for part in parts))
    if missing == "refuse":
        for part, name in zip(parts[1:], called[1:], strict=True):
            _require_same_ids(parts[0], part, called[0], name)
    if not common:
        raise ValueError(
            f"no video is in every part: {called[0]} begins with {parts[0].ids[:1]}, "
            f"{called[-1]} with {parts[-1].ids[:1]}. "
            f"Ids are paths relative to the data's root; were these tests run on the same data?"
        )
    first = _rows(parts[0], [id for id in parts[0].ids if id in common])
    stacked = []
    for part, name in zip(parts, called, strict=True):
        rows = _rows(part, first.ids)
        different = np.flatnonzero((rows.labels != first.labels).reshape(len(rows), -1).any(1))
        if len(different):
            at = int(different[0])
            raise ValueError(
                f"{counted(len(different), 'video has', 'videos have')} different labels: {first.ids[at]!r} is "
                f"{_label(first, at)} in {called[0]} and {_label(rows, at)} in {name}. Test both on the same "
                "annotations"
            )
        stacked.append(_as_kind(rows, kind, name))
    return np.stack(stacked), first


def _require_same_classes(first: Scores, second: Scores, first_name: str, name: str) -> None:
    if first.classes == second.classes:
        return
    pairs = itertools.zip_longest(first.classes, second.classes)
    at, (mine, theirs) = next((at, pair) for at, pair in enumerate(pairs) if pair[0] != pair[1])
    hint = (
        "The names are the same in another order"
        if sorted(first.classes) == sorted(second.classes)
        else f"{first_name} has {len(first.classes)} classes, {name} has {len(second.classes)}"
    )
    raise ValueError(
        f"class {at} is {mine!r} in {first_name} and {theirs!r} in {name}, so their columns cannot be added. "
        f"{hint}; test both with one classes.txt"
    )


def _require_same_ids(first: Scores, second: Scores, first_name: str, name: str) -> None:
    first_ids, second_ids = set(first.ids), set(second.ids)
    lacks = [
        f"{len(only)} of {len(whole)} videos of {holder} are not in {lacking}, such as {', '.join(map(repr, only[:3]))}"
        for holder, lacking, whole, only in (
            (first_name, name, first.ids, [id for id in first.ids if id not in second_ids]),
            (name, first_name, second.ids, [id for id in second.ids if id not in first_ids]),
        )
        if only
    ]
    if lacks:
        raise ValueError(f"{'; '.join(lacks)}. Test both on the same videos, or keep common ones: missing=intersect")


def _rows(scores: Scores, ids: Sequence[str]) -> Scores:
    """Return the scores of the videos ``ids``, in their order."""
    row = {id: number for number, id in enumerate(scores.ids)}
    take = [row[id] for id in ids]
    return Scores(
        ids=list(ids),
        labels=scores.labels[take],
        values=scores.values[take],
        classes=scores.classes,
        kind=scores.kind,
        views=scores.views,
        paths=[scores.paths[number] for number in take] if scores.paths else [],
    )


def _label(scores: Scores, row: int) -> str:
    if scores.multi_label:
        return " + ".join(scores.classes[k] for k in np.flatnonzero(scores.labels[row])) or "nothing"
    return repr(scores.classes[scores.labels[row]])


def probabilities(scores: Scores) -> np.ndarray:
    """Return probabilities (N, K) float64: the softmax of logits, or each class's sigmoid for multi-label data."""
    values = scores.values.astype(np.float64)
    if scores.kind == "softmax":
        return values
    if scores.multi_label:
        return np.exp(-np.logaddexp(0, -values))
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _as_kind(scores: Scores, kind: str, name: str) -> np.ndarray:
    if kind == "logits":
        if scores.kind != "logits":
            raise ValueError(
                f"{name} holds {scores.kind} scores, from which its logits cannot be known; "
                f"fuse with kind softmax or log_softmax, or test it again with average=logits"
            )
        return scores.values.astype(np.float64)
    if kind == "softmax":
        return probabilities(scores)
    return np.log(np.maximum(probabilities(scores), np.finfo(np.float64).tiny))  # a probability of 0 has no logarithm


def _shares(weights: Sequence[float] | None, num_parts: int) -> np.ndarray:
    shares = np.ones(num_parts) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (num_parts,):
        raise ValueError(f"{shares.size} weights for {num_parts} parts; give one a part")
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
        raise ValueError(f"weights are {shares.tolist()}; they must be 0 or more, and one of them more than 0")
    return shares / shares.sum()


# ---- printing


def _load_parts(paths: Sequence[Path]) -> tuple[list[Scores], list[str]]:
    files = [Path(path) / "scores.npz" if Path(path).is_dir() else Path(path) for path in paths]
    return [load_scores(file) for file in files], [str(file) for file in files]


def _short(names: Sequence[str]) -> list[str]:
    """Return a column title for each file: its run folder's name, numbered where two are alike."""
    titles = [Path(name).parent.name if Path(name).stem == "scores" else Path(name).stem for name in names]
    titles = [title or "scores" for title in titles]
    return [
        f"{title} ({number})" if titles.count(title) > 1 or title == "fused" else title
        for number, title in enumerate(titles, start=1)
    ]


def figures_of(scores: Scores) -> dict[str, float]:
    """Return top-1, top-5 and mean class accuracy, or mean average precision for multi-label data; all are in 0…1."""
    if scores.multi_label:
        return {"map": mean_average_precision(scores.values, scores.labels)}
    return {
        "top1": topk_accuracy(scores.values, scores.labels, 1),
        "top5": topk_accuracy(scores.values, scores.labels, 5),
        "mean_class_accuracy": mean_class_accuracy(scores.values, scores.labels),
    }


def _weights_text(weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)


def _print_figures(figures: dict[str, dict[str, float]], weights: Sequence[float], num_classes: int) -> None:
    width = max(map(len, figures))
    measures = [measure for measure in figures["fused"] if not is_trivial(measure, num_classes)]
    print(f"{'':{width}}  weight  " + "  ".join(f"{measure:>8}" for measure in measures))
    weight_cells = [f"{weight:g}" for weight in weights] + [""]
    for (name, row), weight in zip(figures.items(), weight_cells, strict=True):
        print(f"{name:{width}}  {weight:>6}  " + "  ".join(f"{row[m]:>{max(8, len(m))}.4f}" for m in measures))


def _print_classes(columns: dict[str, Scores]) -> None:
    """Print each class's accuracy in every part and fused, and the change of the fusion against the best part."""
    fused = columns["fused"]
    measure = average_precision if fused.multi_label else per_class_accuracy
    table = np.stack([measure(part.values, part.labels) for part in columns.values()])  # (P + 1, K)
    videos = fused.labels.sum(0) if fused.multi_label else np.bincount(fused.labels, minlength=len(fused.classes))
    present = np.flatnonzero(videos)
    if not len(present):
        return
    width = max(len(fused.classes[k]) for k in present)
    names = [name if len(name) <= 16 else name[:15] + "…" for name in columns]
    print(f"\n{'class':{width}}  videos  " + "  ".join(f"{name:>8}" for name in names) + "  change")
    for k in present:
        change = table[-1, k] - table[:-1, k].max()
        cells = "  ".join(f"{table[row, k]:>{max(8, len(name))}.3f}" for row, name in enumerate(names))
        print(f"{fused.classes[k]:{width}}  {int(videos[k]):>6}  {cells}  {change:>+6.3f}")
    print("change: fused against the best single part of the class")
    if len(present) < len(fused.classes):
        absent = len(fused.classes) - len(present)
        print(counted(absent, "class has no video and is not counted", "classes have no video and are not counted"))
