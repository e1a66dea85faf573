"""Probes of a folder of clips: every clip is encoded once, then heads are fitted to a split, to folds, to few clips.

``run_probe`` fits to the training clips of one split and leaves a checkpoint and a report. ``run_folds`` holds out each
group once, and writes a folder for each fold, with its own checkpoint; all of them use the same encodings.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidact.features.choices import HEADS, SEGMENTS, TOKEN_HEADS
from vidact.training.folding import data_name, fold_figures, fold_folder, fold_parts
from vidact.training.probe_config import CHECKPOINT, ProbeSettings, save_config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vidact.data.clip_list import Clip, ClipList
    from vidact.data.clips import ClipData
    from vidact.models.probe import Probe
    from vidact.results.scores import Scores
    from vidact.tasks.probe import Encodings, FittedHead, Part

MOST_UNREADABLE = 0.05  # share of the training clips that may be skipped, as ``ClipData.max_unreadable``
IMAGES_AT_ONCE = 16  # about as many as are encoded fastest on a CPU: the layers of more do not fit into its cache
TRAINS_ALL = (1.0, 0.0, 0.0)  # the fractions of a fold: what is not held out is fitted to
CLIPS_FOR_RATE = 50  # training clips whose frames a second are read


@dataclass
class Encoded:
    """The features of all readable clips, by id, and what made them.

    ``tokens`` are those of the same clips where a head reads them; ``features`` are empty where none reads vectors.
    """

    settings: ProbeSettings
    data: ClipData
    trunk: Any
    dim: int
    features: dict[str, np.ndarray]
    seconds: float
    views: tuple[str, ...] = ()
    tokens: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    runtime: str = "torch"

    @property
    def readable(self) -> set[str]:
        """The ids of the clips that are encoded."""
        return set(self.features or self.tokens)

    def inputs_of(self, head: FittedHead) -> dict[str, np.ndarray]:
        """Return what a head reads of each clip: its tokens, or its vector."""
        return self.tokens if head.name in TOKEN_HEADS else self.of(head.views)

    def of(self, views: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the features of some of the views, by id."""
        from vidact.tasks.probe import columns_of

        columns = columns_of(views, self.views, self.dim)
        return {clip: values[columns] for clip, values in self.features.items()}


@dataclass
class Fitted:
    """Heads, fitted to the training clips of one split, the best one first, and their scores of another split.

    ``scored`` is the split of ``tests``: "test", or "val" without test clips; None without both.
    """

    clips: ClipList
    heads: list[FittedHead]
    chosen_by: str
    scored: str | None
    tests: dict[str, Scores]
    seconds: float

    @property
    def best(self) -> FittedHead:
        return self.heads[0]


# ---------------------------------------------------------------------------------------------- one split


def run_probe(settings: ProbeSettings, run: Path, command: str, encodings: Path | None = None) -> Fitted:
    """Encode the clips, fit heads to the training clips, save the best one and print what it reaches.

    Writes probe.safetensors, config.yaml, results.json, report.html and, where a split is scored, scores.npz into
    ``run``; the encodings are below ``encodings``, by default ``run`` itself, so that several runs can share them.
    """
    encoded = encode(settings, run, encodings=encodings)
    clips = encoded.data.found
    fitted = fit_split(encoded, clips)
    print_heads(fitted)
    probe = save_probe(encoded, fitted, run, settings.held_out, settings.fractions)
    save_figures(encoded, fitted, run, sum(p.numel() for p in probe.parameters()), command)
    return fitted


def refuse_run(run: Path) -> None:
    """Raise ValueError where ``run`` is the folder of a training."""
    if (run / "checkpoints").exists():
        raise ValueError(f"{run} is the folder of a training; choose another --run")


def encode(settings: ProbeSettings, run: Path, scores_all: bool = False, encodings: Path | None = None) -> Encoded:
    """Return the features of every readable clip; those that are stored already are not computed again.

    Args:
        settings: the data and the network.
        run: the run folder.
        scores_all: whether every clip will be scored, as in folds, so that none may be unreadable.
        encodings: the folder in which features are stored, in ``encodings``; None is ``run``.
    """
    import torch

    from vidact.device import best_device
    from vidact.models.probe import num_features
    from vidact.tasks.probe import Encodings, clip_state, networks_in, views_read
    from vidact.training.lightning import keep_freed_memory

    refuse_run(run)
    keep_freed_memory()
    started = time.perf_counter()
    data, trunk = open_data(settings), open_trunk(settings)
    prepare(data, trunk, settings)
    print(f"run: {run}\n{settings.network}: {sum(p.numel() for p in trunk.parameters()):,} parameters\n{data.found}")
    for note in data.found.notes:
        print(f"note: {note}")
    reading = {"sampler": data.sampler.record(), "decoder": settings.decoder}
    frames = data.sampler(1000).shape[1]
    views = views_read(trunk, frames)
    device = torch.device(settings.device) if settings.device else best_device()
    kinds = [tokens for tokens, heads in ((False, HEADS), (True, TOKEN_HEADS)) if set(heads) & set(settings.heads)]
    stores = [Encodings(encodings or run, trunk, reading, frames, tokens) for tokens in kinds]
    states = {clip.id: clip_state(clip.path, clip.start_s, clip.end_s) for clip in data.found}
    runtime, networks = networks_in(settings.runtime, stores, states, device)
    encoded: dict[bool, dict[str, np.ndarray]] = {False: {}, True: {}}
    for store, network in zip(stores, networks, strict=True):
        encoded[store.tokens] = encode_clips(data, network, store.in_runtime(runtime), states, run, device, scores_all)
    seconds = time.perf_counter() - started
    dim = num_features(trunk, views)
    return Encoded(settings, data, trunk, dim, encoded[False], seconds, views, encoded[True], runtime)


def fit_split(encoded: Encoded, clips: ClipList, train: Sequence[Clip] | None = None) -> Fitted:
    """Fit heads to the training clips of ``clips`` and score the test clips, or else the validation clips.

    Args:
        encoded: the features.
        clips: the same clips, in any split.
        train: the training clips, instead of those of the split. Heads are then compared by cross-validation inside
            these clips, and not at all where every class has one clip.
    """
    from vidact.tasks.attentive import fit_attentive
    from vidact.tasks.probe import fit_views, refuse_absent_classes, scores_of, stacked, validation_parts

    started = time.perf_counter()
    readable = encoded.readable
    splits = {name: [c for c in clips.split(name) if c.id in readable] for name in ("train", "val", "test")}
    validates = train is None and bool(splits["val"])
    train = splits["train"] if train is None else train
    refuse_absent_classes(train, clips.classes)
    val = splits["val"] if validates else []
    every = np.array([clip.label for clip in (*train, *val)], dtype=np.int64)
    rows, labels = np.arange(len(every)), every[: len(train)]
    parts: list[Part] = []  # their features are rows of ``train`` and ``val``
    chosen_by = "nothing, since every class has one clip"
    if validates or np.bincount(labels).max() > 1 or train is splits["train"]:
        validation = (rows[len(train) :], every[len(train) :]) if validates else None
        parts, chosen_by = validation_parts(rows[: len(train)], labels, [clip.group for clip in train], validation)
    heads: list[FittedHead] = []
    if vector_heads := [name for name in encoded.settings.heads if name in HEADS]:
        values, _ = stacked([*train, *val], encoded.features)
        with_values = [
            dataclasses.replace(p, features=values[p.features], other_features=values[p.other_features]) for p in parts
        ]
        heads += fit_views(vector_heads, encoded.views, values[: len(train)], labels, with_values)
    if set(TOKEN_HEADS) & set(encoded.settings.heads):
        tokens = [encoded.tokens[clip.id] for clip in (*train, *val)]
        settings = encoded.settings
        seed = settings.seed if settings.head_seed is None else settings.head_seed
        heads.append(fit_attentive(tokens, labels, parts, seed))
        heads.sort(key=lambda head: -head.accuracy)
    scored = next((name for name in ("test", "val") if splits[name]), None)
    tests = {h.name: scores_of(h.head, splits[scored], encoded.inputs_of(h), clips.classes) for h in heads if scored}
    return Fitted(clips, heads, chosen_by, scored, tests, time.perf_counter() - started)


# ---------------------------------------------------------------------------------------------- folds


def run_folds(
    settings: ProbeSettings,
    run: Path,
    command: str,
    folds: str | None = None,
    num_folds: int | None = None,
    encodings: Path | None = None,
) -> dict[str, Any]:
    """Hold out each group once, fit to all others, and return the figures of all folds together.

    The clips are encoded once. Heads are chosen by cross-validation inside the training groups, so a fold has no
    validation clips. Each fold has a folder with its checkpoint, scores.npz and results.json; ``run`` gets scores.npz
    and report.html of the clips of all folds.

    Args:
        settings: the data, the network and the heads.
        run: the folder of all folds.
        command: the command, for results.json.
        folds: groups by name, as in ``vidact.training.repeat.fold_parts``; None is every group by itself.
        num_folds: this number of folds, each of several groups.
        encodings: the folder in which features are stored, as in ``encode``.
    """
    from vidact.report.page import write_summary
    from vidact.results.figures import save_results
    from vidact.results.scores import stack

    plans = plan_folds(settings, run, folds, num_folds)
    started = time.process_time()
    encoded = encode(settings, run, scores_all=True, encodings=encodings)
    rows: list[dict[str, Any]] = []
    scores: list[Scores] = []
    for name, clips in plans.items():
        print(f"\nfold {name}: {len(rows) + 1} of {len(plans)}")
        fitted = fit_split(encoded, clips)
        print_heads(fitted)
        folder = fold_folder(run, name)
        held_out = sorted({str(clip.group) for clip in clips.split("test")})
        probe = save_probe(encoded, fitted, folder, held_out, TRAINS_ALL)
        num_parameters = sum(p.numel() for p in probe.parameters())
        save_figures(encoded, fitted, folder, num_parameters, command, is_fold=True)
        scores.append(fitted.tests[fitted.best.name])
        right = float((scores[-1].values.argmax(1) == scores[-1].labels).mean())
        row = {
            "fold": name,
            "top1": right,
            "videos": len(scores[-1]),
            "head": fitted.best.name,
            "features": "+".join(fitted.best.views),
        }
        rows.append(row | {"validation": fitted.best.accuracy, "seconds of fitting": round(fitted.seconds, 2)})
    pooled = stack(scores)
    figures = fold_figures([row["top1"] for row in rows], pooled) | {
        "parameters": num_parameters, "seconds_per_epoch": float("nan"),
        "cpu_seconds": round(time.process_time() - started, 1), "seconds_encoding": round(encoded.seconds, 2),
    }  # fmt: skip
    pooled.save(run / "scores.npz")
    save_results(run, figures | {"rows": rows}, command)
    title = f"{data_name(settings.data)}: {settings.network} with a head, {len(rows)} folds"
    page = write_summary(run, title, rows, pooled=pooled)
    print()
    for row in rows:
        print(f"{row['fold']:>16}  top-1 {row['top1']:.3f}  of {row['videos']} videos, by {row['head']}")
    print(
        f"{'mean':>16}  top-1 {figures['mean_top1']:.4f} ± {figures['std_top1']:.4f}, from {figures['min_top1']:.3f} "
        f"to {figures['max_top1']:.3f}; {figures['errors']} errors of {figures['videos']}, "
        f"{figures['cpu_seconds']} s of CPU time\nreport: {page}"
    )
    return figures


def plan_folds(settings: ProbeSettings, run: Path, folds: str | None, num_folds: int | None) -> dict[str, ClipList]:
    """Return the clips of each fold, whose test split is what the fold holds out; no validation clips.

    Raises ValueError where the data have no groups, or fewer than two, and for names that are none.
    """
    from vidact.data import load_clips
    from vidact.tasks.probe import refuse_absent_classes

    if folds and num_folds:
        raise ValueError("--folds names the folds and --num_folds counts them; give one of the two")
    if settings.held_out:
        raise ValueError("--held_out is one fold and --folds are all of them; give one of the two")
    every = load_clips(settings.data, group=settings.group)
    if not every.has_groups:
        raise ValueError(
            "folds need --group (in vidact folds --data.group): a pattern whose group names what is held out, such as "
            f"the person; or a column group in {settings.data / 'clips.csv'}"
        )
    parts = fold_parts(every.groups(), folds, num_folds, settings.data)
    plans = {
        "+".join(part): load_clips(settings.data, group=settings.group, held_out=part, fractions=TRAINS_ALL)
        for part in parts
    }
    folders = [fold_folder(run, name) for name in plans]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"two folds would both be written to {max(folders, key=folders.count)}; rename one of the groups"
        )
    for clips in plans.values():
        refuse_absent_classes(clips.split("train"), clips.classes)
    return plans


# ---------------------------------------------------------------------------------------------- before the heads


def open_data(settings: ProbeSettings) -> ClipData:
    """Return the clips. Raises ValueError for multi-label data."""
    from vidact.data.clips import ClipData
    from vidact.video.sample import SegmentSampler

    data = ClipData(
        root=str(settings.data),
        sampler=SegmentSampler(settings.frames or SEGMENTS),
        group=settings.group,
        held_out=list(settings.held_out) if settings.held_out else None,
        fractions=tuple(settings.fractions),  # type: ignore[arg-type]  # ``load_clips`` checks that there are three
        decoder=settings.decoder,
        seed=settings.seed,
    )
    if data.found.multi_label:
        raise ValueError(
            f"{settings.data} is multi-label data (a clip may have several labels), for which probe has no head; train "
            f"a network instead: vidact train --data.root {settings.data}"
        )
    return data


def open_trunk(settings: ProbeSettings) -> nn.Module:
    """Return the frozen network. Raises ValueError for one without features."""
    from vidact.features.names import build_network
    from vidact.models.clip_windows import in_windows
    from vidact.models.probe import refuse_without_features
    from vidact.models.token_probe import refuse_without_tokens

    weights = None if settings.weights == "none" else settings.weights
    if weights is None:
        print("weights none: the network is untrained and its features mean little")
    trunk = build_network(settings.network, weights, settings.size)
    refuse_without_features(trunk)
    if set(TOKEN_HEADS) & set(settings.heads):
        refuse_without_tokens(trunk)
    if settings.frames is None:
        trunk = in_windows(trunk)
    return trunk.eval().requires_grad_(False)


def prepare(data: ClipData, trunk: Any, settings: ProbeSettings) -> None:
    """Set the frames of a clip and make the data sets for the network's input."""
    from vidact.models.clip_windows import ClipWindows
    from vidact.video.sample import SegmentSampler, WindowSampler

    if settings.frames is not None and trunk.input.frames not in (None, settings.frames):
        raise ValueError(
            f"--frames is {settings.frames}, and the weights of {settings.network} are made for {trunk.input.frames} "
            "frames; leave --frames out"
        )
    if isinstance(trunk, ClipWindows):
        data.sampler = WindowSampler(trunk.windows, trunk.frames)
    else:
        data.sampler = SegmentSampler(settings.frames or trunk.input.frames or SEGMENTS)
    data.batch_size = max(1, IMAGES_AT_ONCE // data.sampler(1000).shape[1])
    data.prepare(trunk.input)


def encode_clips(
    data: ClipData,
    network: nn.Module,
    store: Encodings,
    states: dict[str, dict[str, Any]],
    run: Path,
    device: torch.device,
    scores_all: bool = False,
) -> dict[str, np.ndarray]:
    """Return the features of every readable clip by id; those that are stored already are not computed again.

    Unreadable training clips are listed in unreadable.json. Raises VideoError where they are more than 5 % of the
    training clips, or a clip that will be scored: of another split, or any if ``scores_all``.
    """
    from vidact.runtimes.choices import RUNTIME_NAMES
    from vidact.tasks.probe import encode_splits
    from vidact.text.names import counted

    network.to(device)
    clips = data.found
    with store.folder.locked():
        store.folder.claim(store.settings)
        stored = {clip: store.read(clip, state) for clip, state in states.items()}
        waiting = {clip for clip, features in stored.items() if features is None}
        size = f" as tokens ({token_size(data, network, len(clips), device)})" if store.tokens and waiting else ""
        print(
            f"{counted(len(waiting), 'clip')} to encode{size}, {len(clips) - len(waiting)} encoded before, in "
            f"{RUNTIME_NAMES[store.runtime]}",
            flush=True,
        )
        try:
            unreadable = encode_splits(network, data, store, states, waiting, device)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on from what is in {store.folder.out}") from None
        stored |= {clip: store.read(clip, states[clip]) for clip in waiting}
    network.cpu()
    if scores_all and unreadable:
        unreadable = {"test": {clip: reason for part in unreadable.values() for clip, reason in part.items()}}
    report_unreadable(unreadable, len(clips.split("train")), run)
    return {clip: features for clip, features in stored.items() if features is not None}


def token_size(data: ClipData, trunk: Any, num_clips: int, device: torch.device) -> str:
    """Return the number of tokens of a clip and the size of all of them, in words."""
    import torch

    from vidact.models.token_probe import tokens_of

    clip_input, frames = trunk.input, data.sampler(1000).shape[1]
    with torch.inference_mode():
        black = torch.zeros(1, frames, clip_input.channels, clip_input.size, clip_input.size, device=device)
        _, number, dim = tokens_of(trunk, black).shape
    return f"{number} x {dim} numbers a clip, {4 * number * dim * num_clips / 1e9:.2g} GB in all"


def report_unreadable(unreadable: dict[str, dict[str, str]], num_train: int, run: Path) -> None:
    """Write unreadable.json where training clips were skipped; raise VideoError where too many or others were."""
    from vidact.files import write_json
    from vidact.text.names import counted
    from vidact.video.decode import VideoError

    for split in ("val", "test"):
        if bad := unreadable.get(split):
            clip, reason = next(iter(bad.items()))
            raise VideoError(
                f"{counted(len(bad), 'clip')} of the split {split} cannot be read, so that it could not be scored; the "
                f"first is {clip}: {reason}. Mend them, or take them out of the data"
            )
    path, skipped = run / "unreadable.json", unreadable.get("train", {})
    if not skipped:
        path.unlink(missing_ok=True)
        return
    write_json(path, {"split": "train", "videos": num_train, "skipped": skipped})
    message = f"{len(skipped)} of {counted(num_train, 'training clip')} could not be read; {path} names them"
    if len(skipped) > MOST_UNREADABLE * num_train:
        clip, reason = next(iter(skipped.items()))
        raise VideoError(f"{message}; at most {MOST_UNREADABLE:.0%} may be skipped. The first is {clip}: {reason}")
    print(message)


# ---------------------------------------------------------------------------------------------- after the heads


def print_heads(fitted: Fitted) -> None:
    """Print a table of the heads, the best one first."""
    from vidact.results.scores import figures_of

    print(f"heads, compared by {fitted.chosen_by}:")
    print(f"{'head':10} {'features':>14} {'setting':>16} {'validation':>11}" + f" {fitted.scored or '':>8}".rstrip())
    for each in fitted.heads:
        figure = f" {figures_of(fitted.tests[each.name])['top1']:8.4f}" if fitted.scored else ""
        views = "+".join(each.views) or "clips"
        print(f"{each.name:10} {views:>14} {setting_text(each):>16} {each.accuracy:11.4f}{figure}")


def setting_text(fitted: FittedHead) -> str:
    """Return the setting that validation chose, in words."""
    from vidact.text.names import counted

    if fitted.setting is None:
        return "-"
    if fitted.epochs is not None:
        return f"{fitted.epochs} epochs, {fitted.setting:g}"
    if fitted.name == "linear":
        return f"strength {fitted.setting:g}"
    return counted(int(fitted.setting), "neighbour")


def build_probe(trunk: nn.Module, fitted: FittedHead, num_classes: int, frames: int, rate: float | None) -> Probe:
    """Return the clip network that is made of the trunk and the head.

    Args:
        trunk: the frozen network.
        fitted: the head.
        num_classes: number of classes K.
        frames: the frames of a training clip.
        rate: how many of them make a second; None leaves the trunk's own rate.
    """
    from vidact.models.probe import Neighbours, clip_probe
    from vidact.models.token_probe import AttentiveScores, attentive_probe
    from vidact.models.weights import attach, input_of, load_strictly, recipe_of

    sizes = {}
    if isinstance(fitted.head.scores, Neighbours):
        sizes = {"examples": len(fitted.head.scores.memory), "neighbours": fitted.head.scores.neighbours}
    recipe, clip_input = recipe_of(trunk), input_of(trunk)
    assert recipe is not None  # ``build_network`` calls builders only
    assert clip_input is not None  # ``open_trunk`` has refused others
    probe: Probe
    scores = fitted.head.scores
    if isinstance(scores, AttentiveScores):
        probe = attentive_probe(dict(recipe), num_classes, len(fitted.head.mean), scores.classify.in_features)
    else:
        views = list(fitted.views) or ["frames"]
        probe = clip_probe(dict(recipe), fitted.name, num_classes, **sizes, window=frames, views=views)
    attach(probe, input=clip_input if rate is None else dataclasses.replace(clip_input, fps=rate))
    load_strictly(probe.trunk, trunk.state_dict(), source="the frozen network")
    load_strictly(probe.head, fitted.head.state_dict(), source="the head")
    return probe.eval()


def rate_of(clips: Sequence[Clip], frames: int, decoder: str) -> float | None:
    """Return how many of the frames that are read of a clip make a second: the median over up to 50 clips.

    None where no clip lasts longer than an instant.
    """
    from vidact.video.decode import open_video

    rates = []
    for clip in clips[:: -(-len(clips) // CLIPS_FOR_RATE)]:
        with open_video(clip.path, decoder) as video:
            begin_s, end_s = float(video.times_s[0]), float(video.end_s)
        start_s = begin_s + (clip.start_s or 0.0)
        stop_s = end_s if clip.end_s is None else min(begin_s + clip.end_s, end_s)
        if stop_s > start_s:
            rates.append(frames / (stop_s - start_s))
    return round(float(np.median(rates)), 2) if rates else None


def save_probe(
    encoded: Encoded, fitted: Fitted, run: Path, held_out: Sequence[str] | None, fractions: Sequence[float]
) -> Probe:
    """Write probe.safetensors, which predict, stream, serve and export open, and config.yaml, with which test does.

    ``held_out`` and ``fractions`` made the split of the clips, as in ``ProbeSettings``. Returns the network.
    """
    from vidact.models.probe import can_step
    from vidact.models.weights import save

    data = encoded.data
    frames = data.sampler(1000).shape[1]
    readable = encoded.readable
    train = [clip for clip in fitted.clips.split("train") if clip.id in readable]
    # The attentive head needs the whole clip, and so do networks that look at whole clips.
    streams = can_step(encoded.trunk) and fitted.best.name in HEADS
    rate = rate_of(train, frames, data.decoder) if streams else None
    probe = build_probe(encoded.trunk, fitted.best, len(data.found.classes), frames, rate)
    record: dict[str, Any] = {"classes": data.found.classes, "sampling": data.sampler.record(), "multi_label": False}
    record["runtime"] = encoded.runtime
    if data.flow_record is not None:
        record["flow"] = data.flow_record
    save(probe, run / CHECKPOINT, record)
    save_config(probe, data, run, fitted.scored, held_out, fractions)
    return probe


def save_figures(
    encoded: Encoded, fitted: Fitted, run: Path, num_parameters: int, command: str, is_fold: bool = False
) -> None:
    """Write scores.npz and results.json of the best head; for a run that is no fold, print them and write its page."""
    from vidact.metrics.topk import is_trivial
    from vidact.report.page import write_report
    from vidact.results.figures import in_words, save_results
    from vidact.results.scores import figures_of

    scored, tests = fitted.scored, fitted.tests
    heads: dict[str, dict[str, Any]] = {}
    for each in fitted.heads:
        heads[each.name] = {
            "validation_top1": each.accuracy, "setting": each.setting, "views": "+".join(each.views)
        }  # fmt: skip
        if scored:
            heads[each.name][f"{scored}_top1"] = figures_of(tests[each.name])["top1"]
    facts = {
        "network": encoded.settings.network,
        "head": fitted.best.name,
        "views": "+".join(fitted.best.views),
        "validated_on": fitted.chosen_by,
        "features": len(fitted.best.head.mean),
        "runtime": encoded.runtime,
        "seconds_encoding": round(encoded.seconds, 2),
        "seconds_fitting": round(fitted.seconds, 2),
    }
    sections: dict[str, Any] = {"probe": facts, "heads": heads}
    checkpoint = run / CHECKPOINT
    lines = []
    if scored is None:
        lines.append("no split test and no split val: nothing is scored")
    else:
        scores = tests[fitted.best.name]
        scores.save(run / "scores.npz")
        figures: dict[str, Any] = figures_of(scores) | scores.beside_yardsticks()
        sections["test"] = {f"{scored}_{name}": value for name, value in figures.items()} | {
            "videos": len(scores),
            "parameters": num_parameters,
            "checkpoint": str(checkpoint),
            "classes": len(scores.classes),
            "views": scores.views,
        }
        for name, value in figures.items():
            if isinstance(value, float) and not is_trivial(name, len(scores.classes)):
                lines.append(f"{in_words(name):>56}  {value:.4f}")
        if figures["verdict"]:
            lines.append(f"note: {figures['verdict']}")
        if scored == "val":
            lines.append(
                "note: the data has no test split; the validation clips also chose the head, which flatters it"
            )
    save_results(run, sections, command)
    if not is_fold:
        lines.append(f"checkpoint: {checkpoint}\nreport: {write_report(run)}")
        print("\n".join(lines))
