"""Heads on frozen features: every clip is encoded once, then heads are fitted, and validation chooses among them.

Encodings are files below the run folder, one a clip, under a hash of the network, its runtime and the sampler:

    <run>/encodings/<hash>/<clip id>.npy   float32 (D,), or (n, D): the tokens of a clip, in a folder of their own
    <run>/encodings/<hash>/.probe          the settings, and a note of each encoded clip with the state of its source

So a second run encodes nothing, a run that was killed is continued, and a clip that has changed is encoded again. The
runtime of the network is one of the settings, and a run goes on in the runtime of the encodings that it has.

Settings of a head (the strength of its regularisation, the number of its neighbours) are chosen on the validation
clips; without validation clips by cross-validation inside the training clips, whose groups stay together.

Shapes: N training clips, M other clips, D features, K classes.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidact import jobs
from vidact.batch import ClipBatch
from vidact.features.choices import HEADS
from vidact.files import replacing, short_name
from vidact.jobs import Meter
from vidact.models.probe import MEAN_OF, Head, Neighbours, Prototypes, features_of, num_features, views_of
from vidact.models.token_probe import tokens_of
from vidact.models.weights import describe, weights_hash
from vidact.results.scores import Scores
from vidact.runtimes.choices import RUNTIME_NAMES
from vidact.runtimes.networks import graph_or_none, in_onnx, quick_runtime, refuse_elsewhere, settled
from vidact.tasks.stages import head_names
from vidact.text.names import counted, first_few

NOTES = ".probe"
POOLING = 1  # the version of the pooled features, a part of their hash
TOKENS = 1  # the version of the tokens
STRENGTHS = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01)  # factors of half the squared weights, beside summed cross-entropy
NEIGHBOURS = (1, 3, 5, 10, 20)
WITHOUT_VALIDATION = {"linear": 1.0, "knn": 1.0, "prototype": None}  # settings where no clips can compare them
FOLDS = 5
LEAST_SPREAD = 1e-3  # a feature whose deviation is a smaller share of its mean is constant, or mostly rounding
MOST_STEPS = 200  # steps of L-BFGS for one strength


# ---------------------------------------------------------------------------------------------- encoding


class Encodings:
    """The stored features of clips by one network and one way of reading clips.

    Args:
        run: the run folder.
        trunk: the network. Its classifiers, which features do not depend on, are left out of the settings.
        reading: how a clip is read, as plain data: the sampler's record, the decoder.
        frames: the frames of a clip; an image network reads no moments of fewer than three.
        tokens: store the tokens of each clip, float32 (n, D), in place of one vector.

    The runtime is PyTorch; ``in_runtime`` returns the encodings of another.
    """

    runtime = "torch"

    def __init__(
        self, run: Path, trunk: nn.Module, reading: Mapping[str, Any], frames: int = 1, tokens: bool = False
    ) -> None:
        network = describe(trunk)
        assert network.recipe is not None
        arguments = {
            name: None if name == "weights" or name.endswith("_weights") else value
            for name, value in network.recipe["arguments"].items()
        }
        heads = tuple(f"{name}." for name in head_names(trunk)) if hasattr(trunk, "num_classes") else ()
        weights = {name: value.cpu() for name, value in trunk.state_dict().items() if not name.startswith(heads)}
        self.settings: dict[str, Any] = {
            "network": {"builder": network.recipe["builder"], "arguments": arguments},
            "weights_sha256": weights_hash(weights),
            "input": network.input,
            "reading": dict(reading),
            **({"tokens": TOKENS} if tokens else {"pooling": POOLING}),
        }
        self.views = views_read(trunk, frames)
        if len(self.views) > 1 and not tokens:
            self.settings["views"] = list(self.views)
        self.run, self.trunk, self.frames, self.tokens = Path(run), trunk, frames, tokens
        self.folder = self._folder()
        self.dim = 0 if tokens else num_features(trunk, self.views)

    def _folder(self) -> jobs.Folder:
        text = json.dumps(self.settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return jobs.Folder(self.run / "encodings" / digest, NOTES, option="--run")

    def in_runtime(self, runtime: str) -> Encodings:
        """Return the encodings of the same clips by the same network in the runtime "torch" or "onnx"."""
        other = copy.copy(self)
        # Absent for PyTorch, as in the settings of versions that had no other runtime.
        other.settings = {key: value for key, value in self.settings.items() if key != "runtime"}
        if runtime != "torch":
            other.settings["runtime"] = runtime
        other.runtime, other.folder = runtime, other._folder()
        return other

    @property
    def is_begun(self) -> bool:
        """Whether a clip was encoded."""
        notes = self.folder.out / self.folder.notes / self.folder.finished
        return next(notes.rglob("*.json"), None) is not None

    def is_whole(self, states: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether the features of all clips in these states, by id, are stored."""
        return all(self.read(clip, state) is not None for clip, state in states.items())

    def network(self) -> nn.Module:
        """Return the network that encodes: the trunk, or one that gives its features by a graph.

        Raises ImportError and NoGraphError as ``vidact.runtimes.compiled`` does.
        """
        if self.runtime == "torch":
            return self.trunk
        return in_onnx(self.trunk, self.frames, self.settings["weights_sha256"], self.tokens)

    def read(self, clip: str, state: Mapping[str, Any]) -> np.ndarray | None:
        """Return the stored features (D,), or tokens (n, D), of a clip in this state; None where they are absent or
        damaged. Tokens stay in their file until they are used."""
        if self.folder.read_if_of(name_inside(clip), state) is None:
            return None
        try:
            features = np.load(self._path(clip), allow_pickle=False, mmap_mode="r" if self.tokens else None)
        except (OSError, EOFError, ValueError):
            return None
        is_shape = features.ndim == 2 if self.tokens else features.shape == (self.dim,)
        return features if features.dtype == np.float32 and is_shape else None

    def write(self, clip: str, state: Mapping[str, Any], features: np.ndarray) -> None:
        """Store the features (D,), or tokens (n, D), of a clip: the file first, then its note."""
        self.folder.forget(name_inside(clip))
        with replacing(self._path(clip)) as half, half.open("wb") as file:
            np.save(file, features, allow_pickle=False)
        self.folder.finish(name_inside(clip), state)

    def _path(self, clip: str) -> Path:
        path = self.folder.out / f"{name_inside(clip)}.npy"
        return path.with_name(short_name(path.name))


def runtime_of_run(runtime: str, begun: Collection[str], trunk: nn.Module, device: torch.device) -> str:
    """Return the runtime of a run, "torch" or "onnx".

    Args:
        runtime: "torch", "onnx", or "auto": that of ``quick_runtime``, or the other one where only that was begun.
        begun: the runtimes in which clips were encoded before.
        trunk: the network.
        device: where it computes.

    Raises ValueError for "onnx" on another device than the CPU.
    """
    quick = quick_runtime([trunk], device)
    chosen = settled(runtime, quick if quick in begun else next(iter(begun), None), quick)
    if runtime == "auto" and chosen != quick:
        print(f"the encodings were begun in {RUNTIME_NAMES[chosen]}, and new ones are made in it", flush=True)
    if chosen == "onnx":
        refuse_elsewhere(device)
    return chosen


def networks_in(
    runtime: str, stores: Sequence[Encodings], states: Mapping[str, Mapping[str, Any]], device: torch.device
) -> tuple[str, list[nn.Module]]:
    """Return the runtime of a run, "torch" or "onnx", and the network that encodes for each of its stores.

    A graph is made where clips are waiting for it. With "auto", a trunk that cannot be a graph runs in PyTorch, unless
    clips were encoded by its graph before; a line on the standard error gives the reason.

    Args:
        runtime: as in ``runtime_of_run``.
        stores: the encodings that the run reads and writes, in any runtime.
        states: the state of each clip, by id.
        device: where the network computes.

    Raises:
        ImportError: for a graph without a package that it needs.
        ValueError: for a graph on another device than the CPU, or of a network that cannot be one.
    """
    trunk = stores[0].trunk
    begun = [name for name in RUNTIME_NAMES if any(store.in_runtime(name).is_begun for store in stores)]
    chosen = runtime_of_run(runtime, begun, trunk, device)
    if chosen == "torch":
        return chosen, [trunk] * len(stores)
    there = [store.in_runtime(chosen) for store in stores]
    networks = graph_or_none(
        lambda: [trunk if store.is_whole(states) else store.network() for store in there],
        is_required=runtime != "auto" or chosen in begun,
    )
    return ("torch", [trunk] * len(stores)) if networks is None else (chosen, networks)


def views_read(trunk: nn.Module, frames: int) -> tuple[str, ...]:
    """Return the views that a trunk reads of a clip of so many frames: no moments, which are three frames, of fewer."""
    return views_of(trunk) if frames >= 3 else views_of(trunk)[:1]


def name_inside(clip: str) -> str:
    """Return a path below a folder for the id of a clip, which is absolute where its file lies outside the data."""
    path = PurePath(clip)
    return clip if not path.is_absolute() else PurePath("absolute", *path.parts[1:]).as_posix()


def clip_state(path: Path, start_s: float | None, end_s: float | None) -> dict[str, Any]:
    """Return what identifies the content of a clip: the state of its file, and its seconds."""
    return {**jobs.source_state(path), "start_s": start_s, "end_s": end_s}


def encode_splits(
    trunk: nn.Module,
    data: Any,
    store: Encodings,
    states: Mapping[str, Mapping[str, Any]],
    clips: Collection[str],
    device: torch.device,
) -> dict[str, dict[str, str]]:
    """Encode and store clips of any split with a progress line; return why others could not be read, by split and id.

    Raises ValueError as ``encode`` does.

    Args:
        trunk: the network, on ``device`` and in evaluation mode.
        data: a ``ClipData`` that is prepared for the network.
        store: where the features go; the caller holds its lock.
        states: the state of each clip, by id.
        clips: the ids of the clips.
        device: where the network computes.
    """
    meter = Meter({clip: max(states[clip]["size"], 1) for clip in clips}, unit="clips")
    meter.begin()
    splits = sorted({clip.split for clip in data.found if clip.id in clips})
    return {split: encode(trunk, data.one_view(split, clips), store, states, device, meter.finish) for split in splits}


@torch.inference_mode()
def encode(
    trunk: nn.Module,
    batches: Iterable[ClipBatch],
    store: Encodings,
    states: Mapping[str, Mapping[str, Any]],
    device: torch.device,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Encode and store clips, and return the reasons why others could not be read, by id.

    Raises ValueError where the network gives NaN or infinity.

    Args:
        trunk: the network, on ``device`` and in evaluation mode.
        batches: the clips, one view each.
        store: where the features go; the caller holds its lock.
        states: the state of each clip, by id, from before it was read.
        device: where the network computes.
        report: called with the id of each clip that is finished or unreadable.
    """
    unreadable: dict[str, str] = {}
    for batch in batches:
        unreadable |= batch.skipped
        if len(batch):
            clips = batch.clips[:, 0].to(device)
            encoded = tokens_of(trunk, clips) if store.tokens else features_of(trunk, clips, store.views)
            vectors = encoded.float().cpu()  # (B, D), or (B, n, D)
            finite = vectors.flatten(1).isfinite().all(dim=1)
            if not finite.all():
                clip = batch.ids[int((~finite).nonzero()[0])]
                raise ValueError(
                    f"{type(trunk).__name__} gives NaN or infinity for the clip {clip}, so no head can be fitted; its "
                    "weights are damaged, or belong to another network: use others"
                )
            for clip, vector in zip(batch.ids, vectors.numpy(), strict=True):
                store.write(clip, states[clip], vector)
        for clip in (*batch.ids, *batch.skipped):
            report(clip)
    return unreadable


# ---------------------------------------------------------------------------------------------- fitting


def refuse_absent_classes(train: Sequence[Any], classes: Sequence[str]) -> None:
    """Raise ValueError where a class has no clip among those of the training."""
    present = {clip.label for clip in train}
    if absent := [name for number, name in enumerate(classes) if number not in present]:
        raise ValueError(
            f"no training clip shows {first_few(absent)}, so a head could never answer that; add clips, change the "
            "fractions or the seed of the split, or correct the column split of clips.csv"
        )


def stacked(clips: Sequence[Any], features: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (N, D) and the classes (N,) of clips."""
    return np.stack([features[clip.id] for clip in clips]), np.array([clip.label for clip in clips], dtype=np.int64)


def scores_of(head: Head, clips: Sequence[Any], features: Mapping[str, np.ndarray], classes: Sequence[str]) -> Scores:
    """Return the head's logits of clips, sorted by id."""
    rows = sorted(clips, key=lambda clip: clip.id)
    labels = np.array([clip.label for clip in rows], dtype=np.int64)
    batches = [rows[start : start + 32] for start in range(0, len(rows), 32)]  # the tokens of a clip are megabytes
    with torch.inference_mode():
        logits = torch.cat([head(torch.from_numpy(stacked(batch, features)[0])) for batch in batches]).numpy()
    return Scores([clip.id for clip in rows], labels, logits, list(classes), paths=[str(clip.path) for clip in rows])


@dataclass(frozen=True)
class Part:
    """Clips to fit on and clips to measure on: features float32 (N, D) and (M, D), classes int64 (N,) and (M,)."""

    features: np.ndarray
    labels: np.ndarray
    other_features: np.ndarray
    other_labels: np.ndarray


@dataclass(frozen=True)
class FittedHead:
    """A head, fitted on all training clips.

    ``setting`` is the strength or the number of neighbours that validation chose, None for a head without any.
    ``accuracy`` is that of the validation, 0…1. ``loss`` the mean
    cross-entropy there. ``views`` are one of ``choices_of_views``: what it was fitted to. ``epochs`` is the number of
    epochs that validation chose, for a head that is trained with mini-batches; its ``setting`` is the weight decay.
    """

    name: str
    head: Head
    setting: float | None
    accuracy: float
    views: tuple[str, ...] = ()
    loss: float = float("nan")
    epochs: int | None = None


def fit_heads(
    names: Sequence[str], features: np.ndarray, labels: np.ndarray, parts: Sequence[Part]
) -> list[FittedHead]:
    """Fit heads, the best one first; of equal heads the earlier one of ``HEADS``.

    Args:
        names: some of ``HEADS``.
        features: of the training clips, float32 (N, D).
        labels: their classes (N,); every class 0 … K - 1 occurs.
        parts: on which settings and heads are compared, see ``validation_parts``. Without any, the first of the heads
            is fitted with its setting in ``WITHOUT_VALIDATION``, and its accuracy is NaN.
    """
    if unknown := [name for name in names if name not in HEADS] or not names:
        raise ValueError(f"heads are {unknown or 'none'}; choose some of {', '.join(HEADS)}")
    fitted = []
    in_order = sorted(set(names), key=HEADS.index)
    if not parts:
        name = in_order[0]
        (head,) = fit(name, features, labels, [WITHOUT_VALIDATION[name]])
        return [FittedHead(name, head.float().eval(), WITHOUT_VALIDATION[name], float("nan"))]
    for name in in_order:
        settings = settings_of(name, min(len(part.labels) for part in parts))
        setting, accuracy, loss = choose_setting(name, settings, parts)
        (head,) = fit(name, features, labels, [setting])
        fitted.append(FittedHead(name, head.float().eval(), setting, accuracy, loss=loss))
    return sorted(fitted, key=lambda each: -each.accuracy)


def fit_views(
    names: Sequence[str], views: Sequence[str], features: np.ndarray, labels: np.ndarray, parts: Sequence[Part]
) -> list[FittedHead]:
    """Fit heads to the features of each of ``choices_of_views``; keep the best choice of each head.

    The heads are in the order of ``fit_heads``. Of equally accurate choices the one with the smaller loss is kept.

    Args:
        names: some of ``HEADS``.
        views: the views whose features are beside each other in (N, D), each as wide as the others; empty for a trunk
            without views.
        features: as in ``fit_heads``.
        labels: as in ``fit_heads``.
        parts: as in ``fit_heads``; without any, the first choice is kept.
    """
    best: dict[str, FittedHead] = {}
    choices = choices_of_views(views)
    for chosen in choices if parts else choices[:1]:
        columns = columns_of(chosen, views, features.shape[1])
        cut = [Part(p.features[:, columns], p.labels, p.other_features[:, columns], p.other_labels) for p in parts]
        for fitted in fit_heads(names, features[:, columns], labels, cut):
            before = best.get(fitted.name)
            if before is None or (-fitted.accuracy, fitted.loss) < (-before.accuracy, before.loss):
                best[fitted.name] = replace(fitted, views=tuple(chosen))
    return sorted((best[name] for name in HEADS if name in best), key=lambda each: -each.accuracy)


def choices_of_views(views: Sequence[str]) -> list[Sequence[str]]:
    """Return what heads may be fitted to: all views, each alone, the mean of each alone. The last view comes first."""
    if not views:
        return [views]
    names = [*reversed(views), *(mean for view in reversed(views) for mean in MEAN_OF if MEAN_OF[mean] == view)]
    alone: list[Sequence[str]] = [[name] for name in names]
    return [list(views), *alone] if len(views) > 1 else alone


def columns_of(chosen: Sequence[str], views: Sequence[str], dim: int) -> slice:
    """Return the columns, beside each other, of one of ``choices_of_views`` in the features of all views (N, dim)."""
    if not chosen:
        return slice(0, dim)
    width = dim // len(views)  # of the three statistics of a view, the mean first
    first = width * list(views).index(MEAN_OF.get(chosen[0], chosen[0]))
    return slice(first, first + (width // 3 if chosen[0] in MEAN_OF else width * len(chosen)))


def settings_of(name: str, examples: int) -> list[float | None]:
    """Return the settings of a head to choose from, for the least number of clips that it is fitted on."""
    if name == "linear":
        return list(STRENGTHS)
    return [number for number in NEIGHBOURS if number <= examples] if name == "knn" else [None]


def choose_setting(
    name: str, settings: Sequence[float | None], parts: Sequence[Part]
) -> tuple[float | None, float, float]:
    """Return the setting with the highest accuracy over all parts, its accuracy and its loss, which decides ties.

    The loss is the mean cross-entropy over the clips whose class the head was fitted on.
    """
    right, losses = np.zeros(len(settings)), np.zeros(len(settings))
    for part in parts:
        present, labels = np.unique(part.labels, return_inverse=True)
        is_present = np.isin(part.other_labels, present)
        targets = torch.from_numpy(np.searchsorted(present, part.other_labels[is_present]))
        others = torch.from_numpy(part.other_features[is_present]).double()
        if not len(targets):
            continue
        for row, head in enumerate(fit(name, part.features, labels, settings)):
            with torch.inference_mode():
                logits = head(others)
            right[row] += float((logits.argmax(dim=1) == targets).sum())
            losses[row] += float(F.cross_entropy(logits, targets, reduction="sum"))
    best = min(range(len(settings)), key=lambda row: (-right[row], losses[row]))
    clips = sum(len(part.other_labels) for part in parts)
    return settings[best], float(right[best] / clips), float(losses[best] / clips)


def fit(name: str, features: np.ndarray, labels: np.ndarray, settings: Sequence[float | None]) -> list[Head]:
    """Return a head in double precision for each setting, fitted to features (N, D) and classes (N,) from 0."""
    dim, num_classes = features.shape[1], int(labels.max()) + 1
    raw = torch.from_numpy(features).double()
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    mean, scale = raw.mean(dim=0), raw.std(dim=0, correction=0)
    scale = torch.where(scale > LEAST_SPREAD * mean.abs(), scale, torch.ones_like(scale))
    standardised = (raw - mean) / scale
    one_hot = F.one_hot(targets, num_classes).double()
    modules: list[nn.Module] = []
    if name == "linear":
        modules += fit_linear(standardised, targets, [float(setting or 0) for setting in settings])
    elif name == "knn":
        for setting in settings:
            neighbours = Neighbours(len(raw), dim, num_classes, int(setting or 0)).double()
            neighbours.memory.copy_(F.normalize(standardised, dim=1))
            neighbours.classes.copy_(one_hot)
            modules.append(neighbours)
    else:
        prototypes = Prototypes(dim, num_classes).double()
        prototypes.means.copy_(F.normalize(one_hot.T @ standardised / one_hot.sum(dim=0)[:, None], dim=1))
        modules.append(prototypes)
    heads = []
    for module in modules:
        head = Head(module, dim).double()
        head.mean.copy_(mean)
        head.scale.copy_(scale)
        heads.append(head)
    return heads


def fit_linear(features: Tensor, targets: Tensor, strengths: Sequence[float]) -> list[nn.Linear]:
    """Return multinomial logistic regressions of standardised features (N, D) float64, one for each strength.

    Each minimises the summed cross-entropy + strength / 2 * the sum of squared weights, without the bias, by L-BFGS.
    The strengths are in descending order, because each fit starts from the one before it.
    """
    num_classes = int(targets.max()) + 1
    # The best weights are combinations of the clips. So with fewer clips than features the problem is solved in the
    # coordinates of the space that the clips span, where it is the same and smaller.
    basis = torch.eye(features.shape[1], dtype=torch.float64)  # (R, D)
    if len(features) < features.shape[1]:
        basis = torch.linalg.svd(features, full_matrices=False).Vh
        features = features @ basis.T  # (N, R)
    num_clips, rank = features.shape
    one_hot = F.one_hot(targets, num_classes).double()
    parameters = torch.zeros(num_classes, rank + 1, dtype=torch.float64, requires_grad=True)  # the last column: biases
    fitted = []
    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            [parameters],
            max_iter=MOST_STEPS,
            history_size=20,
            tolerance_grad=1e-8,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def loss(strength: float = strength) -> float:
            # The gradient is written out: autograd would take several times as long for so few numbers.
            weight, bias = parameters[:, :-1], parameters[:, -1]
            shares = (features @ weight.T + bias).log_softmax(dim=1)  # (N, K)
            errors = shares.exp() - one_hot
            gradient = torch.cat([errors.T @ features + strength * weight, errors.sum(dim=0)[:, None]], dim=1)
            parameters.grad = gradient / num_clips
            return float(strength / 2 * weight.square().sum() - (shares * one_hot).sum()) / num_clips

        optimizer.step(loss)
        linear = nn.Linear(basis.shape[1], num_classes, dtype=torch.float64).requires_grad_(False)
        linear.weight.copy_(parameters.detach()[:, :-1] @ basis)
        linear.bias.copy_(parameters.detach()[:, -1])
        fitted.append(linear)
    return fitted


# ---------------------------------------------------------------------------------------------- validation


def validation_parts(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str | None],
    validation: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[list[Part], str]:
    """Return the parts on which heads are compared, and a description of them.

    Raises ValueError without validation clips where every class has one training clip, which leaves nothing to compare.

    Args:
        features: of the training clips, (N, D).
        labels: their classes (N,).
        groups: the group of each, None where it has none.
        validation: features and classes of the validation clips; None divides the training clips.
    """
    if validation is not None:
        part = Part(features, labels, *validation)
        return [part], counted(len(part.other_labels), "validation clip")
    if max(Counter(labels.tolist()).values()) < 2:
        raise ValueError(
            "every class has one training clip and there are no validation clips, so nothing can tell which head is "
            "best; add clips, or give the split val"
        )
    folds, unit = folds_of(labels, groups)
    parts = []
    for fold in np.unique(folds):
        outside, inside = folds != fold, folds == fold
        parts.append(Part(features[outside], labels[outside], features[inside], labels[inside]))
    return parts, f"{len(parts)}-fold cross-validation by {unit} inside {counted(len(labels), 'training clip')}"


def folds_of(labels: np.ndarray, groups: Sequence[str | None], most: int = FOLDS) -> tuple[np.ndarray, str]:
    """Return the fold of each clip (N,), and the unit that is never divided: "group" or "clip".

    Whole groups go, the largest first, to the fold with the fewest clips; a clip without a group is a group. Without
    two groups, the clips of each class are dealt to the folds in turn.
    """
    units = [f"clip {row}" if group is None else f"group {group}" for row, group in enumerate(groups)]
    sizes = Counter(units)
    if any(group is not None for group in groups) and len(sizes) > 1:
        filled = [0] * min(most, len(sizes))
        fold_of = {}
        for unit in sorted(sizes, key=lambda unit: (-sizes[unit], unit)):
            fold_of[unit] = filled.index(min(filled))
            filled[fold_of[unit]] += sizes[unit]
        return np.array([fold_of[unit] for unit in units]), "group"
    order = np.argsort(labels, kind="stable")
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % most  # neighbours in the order are clips of one class
    return folds, "clip"
