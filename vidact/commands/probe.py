"""``vidact probe``: a recogniser in seconds, from a frozen network and a folder of clips."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidact.commands.options import Parser, add_decoder, add_device
from vidact.features.choices import HEADS, SEGMENTS

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from vidact.data.clip_list import Clip
    from vidact.data.clips import ClipData
    from vidact.models.probe import Head, Probe
    from vidact.results.scores import Scores
    from vidact.tasks.probe import Encodings, FittedHead

MOST_UNREADABLE = 0.05  # share of the training clips that may be skipped, as ``ClipData.max_unreadable``


def parser() -> Parser:
    """Return the parser of the command: written by hand, since several values follow one option."""
    parser = Parser(
        prog="vidact probe",
        description="Encode every clip of a folder once with a frozen network, fit heads to the features, and save "
        "the head that is best in validation as a checkpoint, probe.safetensors. A second run encodes nothing.",
    )
    # fmt: off
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders, or one with clips.csv")
    parser.add_argument("--network", default="mobilenet_v2",
                        help="an image network, a clip network with features, a trained one's file, or hf://owner/name "
                             "(default %(default)s)")
    parser.add_argument("--weights", default="default", help="a name or file of the network's weights; none is random")
    parser.add_argument("--size", type=int, help="crop side in pixels; default: the network's own")
    parser.add_argument("--frames", type=int,
                        help=f"frames that are read of a clip; default: the network's own, or {SEGMENTS}")
    parser.add_argument("--run", type=Path, help="run folder; default runs/<data>-probe")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS),
                        help="logistic regression, nearest training clips, nearest class mean (default: all)")
    parser.add_argument("--group", help="a regular expression with one group, searched in each path: clips for which "
                                        "it gives the same text (one person) are never in two splits")
    parser.add_argument("--held_out", nargs="+", help="groups whose clips are the test split; all others train")
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.7, 0.15, 0.15],
                        help="shares of train, val and test where the data give no split (default 0.7 0.15 0.15)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of that split (default %(default)s)")
    # fmt: on
    add_device(parser)
    add_decoder(parser)
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact probe``: encode, fit, choose, save, score and print."""
    options = parser().parse_args(args)
    from vidact.device import refuse_device  # after --help, which needs no PyTorch
    from vidact.tasks.probe import Encodings, fit_heads, validation_parts

    refuse_device(options.device)
    run = options.run or Path("runs") / f"{options.data.resolve().name}-probe"
    if (run / "checkpoints").exists():
        raise ValueError(f"{run} is the folder of a training; choose another --run")
    started = time.perf_counter()
    data, trunk = open_data(options), open_trunk(options)
    prepare(data, trunk, options)
    clips = data.found
    print(f"run: {run}\n{options.network}: {sum(p.numel() for p in trunk.parameters()):,} parameters\n{clips}")
    for note in clips.notes:
        print(f"note: {note}")
    store = Encodings(run, trunk, {"sampler": data.sampler.record(), "decoder": options.decoder})
    features = encode_clips(data, trunk, store, run, options.device)
    splits = {name: [clip for clip in clips.split(name) if clip.id in features] for name in ("train", "val", "test")}
    refuse_absent_classes(splits["train"], clips.classes)
    encoded_s = time.perf_counter() - started

    arrays = {name: stacked(part, features) for name, part in splits.items() if part}
    groups = [clip.group for clip in splits["train"]]
    parts, chosen_by = validation_parts(*arrays["train"], groups, arrays.get("val"))
    fitted = fit_heads(options.heads, *arrays["train"], parts)
    scored = next((name for name in ("test", "val") if splits[name]), None)
    tests = {each.name: scores_of(each.head, splits[scored], features, clips.classes) for each in fitted if scored}
    print_heads(fitted, tests, chosen_by, scored)
    probe = build_probe(trunk, fitted[0], len(clips.classes))
    save_probe(probe, data, run)
    facts = {
        "network": options.network,
        "head": fitted[0].name,
        "validated_on": chosen_by,
        "features": store.dim,
        "seconds_encoding": round(encoded_s, 2),
        "seconds_fitting": round(time.perf_counter() - started - encoded_s, 2),
    }
    save_figures(run, fitted, tests, scored, facts, sum(p.numel() for p in probe.parameters()))


# ---------------------------------------------------------------------------------------------- before the heads


def open_data(options: argparse.Namespace) -> ClipData:
    """Return the clips of --data. Raises ValueError for multi-label data."""
    from vidact.data.clips import ClipData
    from vidact.video.sample import SegmentSampler

    data = ClipData(
        root=str(options.data),
        sampler=SegmentSampler(options.frames or SEGMENTS),
        batch_size=8,
        group=options.group,
        held_out=options.held_out,
        fractions=tuple(options.fractions),
        test_unreadable="skip",  # ``encode_clips`` stops at those of validation and test
        decoder=options.decoder,
        seed=options.seed,
    )
    if data.found.multi_label:
        raise ValueError(
            f"{options.data} is multi-label data (a clip may have several labels), for which probe has no head; train "
            f"a network instead: vidact train --data.root {options.data}"
        )
    return data


def open_trunk(options: argparse.Namespace) -> nn.Module:
    """Return the frozen network. Raises ValueError for one without features."""
    from vidact.features.names import build_network
    from vidact.models.probe import refuse_without_features

    weights = None if options.weights == "none" else options.weights
    if weights is None:
        print("weights none: the network is untrained and its features mean little")
    trunk = build_network(options.network, weights, options.size)
    refuse_without_features(trunk)
    return trunk.eval().requires_grad_(False)


def prepare(data: ClipData, trunk: Any, options: argparse.Namespace) -> None:
    """Set the frames of a clip and make the data sets for the network's input."""
    from vidact.video.sample import SegmentSampler

    if options.frames is not None and trunk.input.frames not in (None, options.frames):
        raise ValueError(
            f"--frames is {options.frames}, and the weights of {options.network} are made for {trunk.input.frames} "
            "frames; leave --frames out"
        )
    data.sampler = SegmentSampler(options.frames or trunk.input.frames or SEGMENTS)
    data.prepare(trunk.input)


def encode_clips(
    data: ClipData, trunk: nn.Module, store: Encodings, run: Path, device_name: str | None
) -> dict[str, np.ndarray]:
    """Return the features of every readable clip by id; those that are stored already are not computed again.

    Unreadable training clips are listed in unreadable.json. Raises VideoError where they are more than 5 % of the
    training clips, or a clip of another split.
    """
    import torch

    from vidact.device import best_device
    from vidact.jobs import Meter
    from vidact.tasks.probe import clip_state, encode
    from vidact.text.names import counted

    device = torch.device(device_name) if device_name else best_device()
    trunk.to(device)
    clips = data.found
    unreadable: dict[str, dict[str, str]] = {}
    with store.folder.locked():
        store.folder.claim(store.settings)
        states = {clip.id: clip_state(clip.path, clip.start_s, clip.end_s) for clip in clips}
        waiting = {clip.id for clip in clips if store.read(clip.id, states[clip.id]) is None}
        print(f"{counted(len(waiting), 'clip')} to encode, {len(clips) - len(waiting)} encoded before", flush=True)
        meter = Meter({clip.id: max(states[clip.id]["size"], 1) for clip in clips if clip.id in waiting}, unit="clips")
        meter.begin()
        try:
            for split in ("train", "val", "test"):
                data.test_split = split
                data.prepare(data.input)
                dataset = data.sets["test"]
                dataset.clips = [clip for clip in dataset.clips if clip.id in waiting]
                if dataset.clips:
                    unreadable[split] = encode(trunk, data.test_dataloader(), store, states, device, meter.finish)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on from what is in {store.folder.out}") from None
        stored = {clip.id: store.read(clip.id, states[clip.id]) for clip in clips}
    trunk.cpu()
    report_unreadable(unreadable, len(clips.split("train")), run)
    return {clip: features for clip, features in stored.items() if features is not None}


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


def refuse_absent_classes(train: Sequence[Clip], classes: Sequence[str]) -> None:
    """Raise ValueError where a class has no training clip."""
    from vidact.text.names import first_few

    present = {clip.label for clip in train}
    if absent := [name for i, name in enumerate(classes) if i not in present]:
        raise ValueError(
            f"no training clip shows {first_few(absent)}, so a head could never answer that; add clips, change "
            "--fractions or --seed, or correct the column split of clips.csv"
        )


def stacked(clips: Sequence[Clip], features: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (N, D) and the classes (N,) of clips."""
    import numpy as np

    return np.stack([features[clip.id] for clip in clips]), np.array([clip.label for clip in clips], dtype=np.int64)


# ---------------------------------------------------------------------------------------------- after the heads


def scores_of(head: Head, clips: Sequence[Clip], features: dict[str, np.ndarray], classes: list[str]) -> Scores:
    """Return the head's logits of clips, sorted by id."""
    import torch

    from vidact.results.scores import Scores

    rows = sorted(clips, key=lambda clip: clip.id)
    values, labels = stacked(rows, features)
    with torch.inference_mode():
        logits = head(torch.from_numpy(values)).numpy()
    return Scores([clip.id for clip in rows], labels, logits, list(classes), paths=[str(clip.path) for clip in rows])


def print_heads(fitted: Sequence[FittedHead], tests: dict[str, Scores], chosen_by: str, scored: str | None) -> None:
    """Print a table of the heads, the best one first."""
    from vidact.results.scores import figures_of

    print(f"heads, compared by {chosen_by}:")
    print(f"{'head':10} {'setting':>16} {'validation':>11}" + f" {scored or '':>8}".rstrip())
    for each in fitted:
        figure = f" {figures_of(tests[each.name])['top1']:8.4f}" if scored else ""
        print(f"{each.name:10} {setting_text(each):>16} {each.accuracy:11.4f}{figure}")


def setting_text(fitted: FittedHead) -> str:
    """Return the setting that validation chose, in words."""
    from vidact.text.names import counted

    if fitted.setting is None:
        return "-"
    if fitted.name == "linear":
        return f"strength {fitted.setting:g}"
    return counted(int(fitted.setting), "neighbour")


def build_probe(trunk: nn.Module, fitted: FittedHead, num_classes: int) -> Probe:
    """Return the clip network that is made of the trunk and the head."""
    from vidact.models.probe import Neighbours, clip_probe
    from vidact.models.weights import attach, load_strictly, recipe_of

    sizes = {}
    if isinstance(fitted.head.scores, Neighbours):
        sizes = {"examples": len(fitted.head.scores.memory), "neighbours": fitted.head.scores.neighbours}
    recipe = recipe_of(trunk)
    assert recipe is not None  # ``build_network`` calls builders only
    probe = clip_probe(dict(recipe), fitted.name, num_classes, **sizes)
    attach(probe, input=trunk.input)
    load_strictly(probe.trunk, trunk.state_dict(), source="the frozen network")
    load_strictly(probe.head, fitted.head.state_dict(), source="the head")
    return probe.eval()


def save_probe(probe: Probe, data: ClipData, run: Path) -> None:
    """Write probe.safetensors with the record that predict, test and export need."""
    from vidact.models.weights import save

    record: dict[str, Any] = {"classes": data.found.classes, "sampling": data.sampler.record(), "multi_label": False}
    if data.flow_record is not None:
        record["flow"] = data.flow_record
    save(probe, run / "probe.safetensors", record)


def save_figures(
    run: Path,
    fitted: Sequence[FittedHead],
    tests: dict[str, Scores],
    scored: str | None,
    facts: dict[str, Any],
    num_parameters: int,
) -> None:
    """Write scores.npz, results.json and the report of the best head, and print its figures."""
    from vidact.metrics.topk import is_trivial
    from vidact.report.page import write_report
    from vidact.results.figures import command_line, in_words, save_results
    from vidact.results.scores import figures_of

    heads: dict[str, dict[str, Any]] = {}
    for each in fitted:
        heads[each.name] = {"validation_top1": each.accuracy, "setting": each.setting}
        if scored:
            heads[each.name][f"{scored}_top1"] = figures_of(tests[each.name])["top1"]
    sections: dict[str, Any] = {"probe": facts, "heads": heads}
    checkpoint = run / "probe.safetensors"
    if scored is None:
        print("no split test and no split val: nothing is scored")
    else:
        scores = tests[fitted[0].name]
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
                print(f"{in_words(name):>56}  {value:.4f}")
        if figures["verdict"]:
            print(f"note: {figures['verdict']}")
        if scored == "val":
            print("note: the data has no test split; the validation clips also chose the head, which flatters it")
    save_results(run, sections, command_line())
    print(f"checkpoint: {checkpoint}\nreport: {write_report(run)}")
