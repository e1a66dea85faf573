"""Several runs are put side by side: cross-validation over groups, and networks with several seeds each."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidact.files import no_empty_folder, write_json
from vidact.results.figures import load_results, save_results

if TYPE_CHECKING:
    from vidact.data.clips import ClipData, FrameCache
from vidact.training.config import is_first_process
from vidact.training.folding import data_name, fold_figures, fold_folder, fold_parts
from vidact.training.probe_config import (
    ProbeSettings,
    is_probe,
    not_of_probes,
    of_trainings,
    options_in,
    read_settings,
    refuse_processes,
)
from vidact.training.run import refuse_late_failures, train, why_not_scored


def cross_validation(
    configs: Sequence[Path],
    others: Sequence[str],
    command: str,
    run: Path | None = None,
    folds: str | None = None,
    num_folds: int | None = None,
    fuse: Sequence[str] = (),
    flow: Path | None = None,
) -> Path:
    """Cross-validate: each value of ``data.group`` is held out once; finished folds are kept when run again.

    Several configurations are cross-validated on the same folds and become the rows of one table. Returns the folder of
    all folds.

    Args:
        configs: configurations whose ``data.group`` names the groups; recipes of probes read the clips of the first
            training among them.
        others: further options of ``vidact train``.
        command: the command, for results.json.
        run: folder for all folds; default runs/<config>-folds.
        folds: comma-separated groups, ``+`` joins those that are held out together; default: every group by itself.
        num_folds: this number of folds, each of several groups in order of their names.
        fuse: pairs ``RGB+FLOW`` of configurations whose logits are added 1 : 1.5, one more row each.
        flow: the folder that ``vidact extract flow`` wrote, for the networks that read flow.
    """
    from vidact.data.clips import FrameCache
    from vidact.report.page import write_summary
    from vidact.training.probing import run_folds

    if folds and num_folds:
        raise ValueError("--folds names the folds and --num_folds counts them; give one of the two")
    names = [config.stem for config in configs]
    refuse_same_names(names)
    several = len(configs) > 1
    out = run or Path("runs") / f"{configs[0].parent.name}-{'' if several else names[0] + '-'}folds"
    pairs = [tuple(pair.split("+")) for pair in fuse]
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(names):
            raise ValueError(f"--fuse {'+'.join(pair)} does not name two of the configurations {', '.join(names)}")
    folders = {config.stem: out / config.stem if several else out for config in configs}
    plans = [
        plan_folds(config, folders[config.stem], of_trainings(others, configs), folds, num_folds, flow)
        for config in configs
        if not is_probe(config)
    ]
    probes = plan_probes(configs, others, plans[0].clips if plans else None)
    for name, settings in probes.items():
        refuse_probe_folds(settings, folders[name], folds, num_folds)
    if flow and not any(plan.reads_flow for plan in plans):
        raise ValueError(f"--flow is {flow}, but no network sees flow; leave it out, or add one with modality=flow")
    caches = {plan.decoder: FrameCache(plan.decoder) for plan in plans}  # no video is decoded twice
    by_name = {plan.config.stem: plan for plan in plans}
    figures = {
        name: cross_validate(by_name[name], caches[by_name[name].decoder], command)
        if name in by_name
        else run_folds(probes[name], folders[name], command, folds, num_folds, encodings=out)
        for name in names
    }
    if not several or not is_first_process():
        return out
    figures |= {
        f"{rgb} + {motion}": fuse_folds(out / rgb, out / motion, figures[rgb], figures[motion]) for rgb, motion in pairs
    }
    rows = [
        {
            "network": name, "mean top-1": values["mean_top1"], "spread": values["std_top1"],
            "least": values["min_top1"], "greatest": values["max_top1"], "errors": values["errors"],
            "videos": values["videos"], "parameters": values["parameters"],
            **({} if np.isnan(values["seconds_per_epoch"]) else {"seconds an epoch": values["seconds_per_epoch"]}),
            **({"CPU seconds of a probe": values["cpu_seconds"]} if "cpu_seconds" in values else {}),
        }
        for name, values in figures.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: row["mean top-1"], reverse=True)
    save_results(out, {row["network"]: row for row in rows}, command)
    data = plans[0].data if plans else data_name(probes[names[0]].data)
    title = f"{data}: {len(rows)} networks, {figures[names[0]]['folds']} folds"
    page = write_summary(out, title, rows)
    print()
    for row in rows:
        time_s = f"  {row['seconds an epoch']:.1f} s an epoch" if "seconds an epoch" in row else ""
        if "CPU seconds of a probe" in row:
            time_s = f"  {row['CPU seconds of a probe']:.1f} s of CPU time in all"
        print(
            f"{row['network']:>28}  top-1 {row['mean top-1']:.4f} ± {row['spread']:.4f}  {row['errors']:>3} errors of "
            f"{row['videos']}{time_s}"
        )
    print(f"report: {page}")
    return out


# Options that change no figure: a run is continued, or kept, although they differ.
WITHOUT_EFFECT = ("trainer.enable_progress_bar", "trainer.enable_model_summary", "data.num_workers", "device")


def plan_probes(configs: Sequence[Path], others: Sequence[str], beside: ClipData | None) -> dict[str, ProbeSettings]:
    """Return the settings of the recipes of probes among ``configs``, by name, after opening each network once.

    Prints which options are for the trainings alone. Raises ValueError, before anything is trained, for what cannot be
    fitted, and for such options where there is no training.

    Args:
        configs: all configurations of a table.
        others: further options.
        beside: the clips of the first training of the table; None where there is none.
    """
    from vidact.training.probing import open_trunk

    probes = {config.stem: read_settings(config, others, beside) for config in configs if is_probe(config)}
    if not probes:
        return {}
    refuse_processes()
    without_meaning = [name for name in not_of_probes(others) if name.lstrip("-") not in WITHOUT_EFFECT]
    if without_meaning and beside is None:
        raise ValueError(f"{', '.join(without_meaning)} would change nothing, since only probes are put side by side")
    if without_meaning:
        print(f"note: the trainings take {', '.join(without_meaning)}, and the probe {', '.join(probes)} does not")
    with contextlib.redirect_stdout(io.StringIO()):  # the run itself will print it
        for settings in probes.values():
            open_trunk(settings)
    return probes


def refuse_probe_folds(settings: ProbeSettings, out: Path, folds: str | None, num_folds: int | None) -> None:
    """Raise ValueError where the folds of a probe could not be made."""
    from vidact.training import probing

    probing.refuse_run(out)
    probing.plan_folds(settings, out, folds, num_folds)


def refuse_same_names(names: list[str]) -> None:
    """Raise ValueError where two configurations have the same file name, which names their rows."""
    if len(set(names)) < len(names):
        raise ValueError(f"two configurations are both called {max(names, key=names.count)}; a row needs its own name")


@dataclass(frozen=True)
class FoldPlan:
    """One configuration to cross-validate: the options of `vidact train`, and the groups that each fold holds out.

    ``clips`` are the data as the configuration and the options describe them, before anything is held out.
    """

    config: Path
    out: Path
    arguments: list[str]
    parts: list[list[str]]
    section: str
    decoder: str
    reads_flow: bool
    data: str
    clips: ClipData


def plan_folds(
    config: Path, out: Path, others: Sequence[str], folds: str | None, num_folds: int | None, flow: Path | None
) -> FoldPlan:
    """Build everything once, so that an error in any configuration is raised before the first one trains."""
    from vidact.data import load_clips
    from vidact.training.lightning import make_cli

    arguments = ["--config", str(config), *others]
    probe = make_cli([*arguments, f"--run={out}"], "train", rehearses=True)
    if "held_out" not in probe.config.data.init_args:
        raise ValueError(
            f"{config.stem} trains a detector on features of untrimmed videos, and folds hold out groups of clips. "
            "Name the held-out videos as the split test in videos.csv, once for each fold, and train on each"
        )
    if reads_flow := bool(flow and probe.model.network.input.flow_fields):
        arguments.append(f"--data.flow={flow}")
        probe = make_cli([*arguments, f"--run={out}"], "train", rehearses=True)
    data = probe.datamodule
    clips = load_clips(data.root, group=data.group, fractions=data.fractions, seed=data.seed)
    if not clips.has_groups:
        raise ValueError(
            "folds needs data.group: a pattern whose group names what is held out, such as the person; or a column "
            f"group in {data.root / 'clips.csv'}"
        )
    if data.test_split != "test":
        raise ValueError(f"data.test_split is {data.test_split}; folds score the split test, which is what is held out")
    if data.found.multi_label:
        raise ValueError(
            f"clips of {data.root} have several labels each, and folds count top-1; train one run for each fold with "
            "data.held_out"
        )
    parts = fold_parts(clips.groups(), folds, num_folds, data.root)
    folders = [fold_folder(out, "+".join(part)) for part in parts]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"two folds would both be written to {max(folders, key=folders.count)}; rename one of the groups"
        )
    rehearse(probe)
    name = data_name(data.root)
    return FoldPlan(config, out, arguments, parts, probe.model.section(data), data.decoder, reads_flow, name, data)


def cross_validate(plan: FoldPlan, cache: FrameCache, command: str) -> dict[str, Any]:
    """Train the folds below ``plan.out``, write its results.json and page, and return the figures."""
    from vidact.report.page import write_summary
    from vidact.results.scores import load_scores, stack

    config, out = plan.config, plan.out
    names = ["+".join(part) for part in plan.parts]
    rows: list[dict[str, Any]] = []
    for name, part in zip(names, plan.parts, strict=True):
        run, started = fold_folder(out, name), time.perf_counter()
        title = f"{config.stem}, fold {name}: {names.index(name) + 1} of {len(names)}"
        train_once(run, [*plan.arguments, f"--data.held_out={json.dumps(part)}"], title, cache)
        results = load_results(run)
        result = results[plan.section]
        rows.append({"fold": name, "top1": result["test_top1"], "videos": result["videos"]})
        if "test_probe" in result:
            rows[-1]["linear probe"] = result["test_probe"]
        if "seconds_per_epoch" in results:
            rows[-1]["seconds an epoch"] = results["seconds_per_epoch"]
        if (seconds := time.perf_counter() - started) > 1:
            rows[-1]["minutes"] = round(seconds / 60, 1)
    if not is_first_process():
        return {}
    pooled = stack([load_scores(fold_folder(out, name) / "scores.npz") for name in names])
    epochs = [row["seconds an epoch"] for row in rows if "seconds an epoch" in row]
    figures = fold_figures([row["top1"] for row in rows], pooled) | {
        "parameters": result["parameters"], "seconds_per_epoch": float(np.median(epochs)) if epochs else float("nan"),
    }  # fmt: skip
    pooled.save(out / "scores.npz")
    save_results(out, figures | {"rows": rows}, command)
    page = write_summary(out, f"{plan.data}: {config.stem}, {len(names)} folds", rows, pooled=pooled)
    for row in rows:
        beside = f", a linear probe {row['linear probe']:.3f}" if "linear probe" in row else ""
        print(f"{row['fold']:>16}  top-1 {row['top1']:.3f}{beside}  of {row['videos']} videos")
    print(
        f"{'mean':>16}  top-1 {figures['mean_top1']:.4f} ± {figures['std_top1']:.4f}, from {figures['min_top1']:.3f} "
        f"to {figures['max_top1']:.3f}; {figures['errors']} errors of {figures['videos']}\nreport: {page}"
    )
    return figures


def train_once(run: Path, arguments: list[str], title: str, cache: FrameCache | None = None) -> None:
    """Train a run unless it is finished; one that was stopped is resumed.

    Raises ValueError where the run was made with other settings: its figures would be reported for these.
    """
    import yaml

    from vidact.features.record import differences

    options = options_in(arguments)
    config = yaml.safe_load(Path(options.pop("config")[0]).read_text(encoding="utf-8"))
    texts = {name: " ".join(values) for name, values in options.items() if name not in WITHOUT_EFFECT}
    settings, path = {"config": config, "option": texts}, run / "asked.json"
    if path.exists() and (differ := differences(json.loads(path.read_text(encoding="utf-8")), settings)):
        raise ValueError(
            f"{run} was made with other settings than asked: {'; '.join(differ)} (there and asked). Choose another "
            "--run, or delete that folder"
        )
    if (run / "results.json").exists():
        return
    if is_first_process():
        print(f"\n{title}")
    resume = ["--ckpt", "last"] if (run / "checkpoints" / "last.ckpt").exists() else []
    if path.exists() or not is_first_process():
        train([*arguments, f"--run={run}", *resume], cache)
        return
    with no_empty_folder(run):
        write_json(path, settings)  # before the run, so that a stopped one is resumed with the same settings only
        try:
            train([*arguments, f"--run={run}", *resume], cache)
        except BaseException:
            if [*run.iterdir()] == [path]:
                path.unlink()
            raise


def fuse_folds(rgb: Path, flow: Path, of_rgb: dict[str, Any], of_flow: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of two cross-validations, fused fold by fold with TSN's weights; costs are added."""
    from vidact.metrics import topk_accuracy
    from vidact.results.scores import fuse as fuse_scores
    from vidact.results.scores import load_scores, stack

    names = [row["fold"] for row in load_results(rgb)["rows"]]
    parts = [
        fuse_scores([load_scores(fold_folder(stream, name) / "scores.npz") for stream in (rgb, flow)], [1.0, 1.5])
        for name in names
    ]
    figures = fold_figures([topk_accuracy(part.values, part.labels) for part in parts], stack(parts))
    return figures | {name: of_rgb[name] + of_flow[name] for name in ("parameters", "seconds_per_epoch")}


def comparison(
    configs: Sequence[Path], others: Sequence[str], command: str, seeds: Sequence[int], run: Path | None = None
) -> Path:
    """Train several configurations with several seeds each, and put their mean and spread into one table.

    Finished runs are kept when the command runs again. Returns the folder of all runs.

    Args:
        configs: configurations; each is a row of the table. Recipes of probes read the clips of the first training.
        others: further options of ``vidact train``.
        command: the command, for results.json.
        seeds: seeds of the networks' initial weights and of training.
        run: folder for all runs; default runs/<configs' folder>-compared.
    """
    from vidact.report.page import write_summary
    from vidact.training.probing import run_probe

    names = [config.stem for config in configs]
    refuse_same_names(names)
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds are {seeds}; give numbers from 0, each once")
    out = run or Path("runs") / f"{configs[0].parent.name}-compared"
    words = of_trainings(others, configs)
    trainings = {config.stem: scored_section(config, out, words) for config in configs if not is_probe(config)}
    first = next(iter(trainings.values()), None)
    probes = plan_probes(configs, others, None if first is None else first.data)
    sections = trainings | {name: probe_section(settings, first) for name, settings in probes.items()}
    tests: dict[str, list[dict[str, Any]]] = {}  # the figures of each seed
    minutes, runs = dict.fromkeys(names, 0.0), []
    for config, name in zip(configs, names, strict=True):
        tests[name] = []
        for seed in seeds:
            folder, began = out / name / f"seed{seed}", time.perf_counter()
            is_done = (folder / "results.json").exists()
            if name in probes:
                print(f"\n{name}, seed {seed}")
                is_done = False  # fitted again in seconds, from clips that are encoded already
                run_probe(dataclasses.replace(probes[name], head_seed=seed), folder, command, encodings=out)
            else:
                arguments = ["--config", str(config), f"--seed_everything={seed}", *words]
                train_once(folder, arguments, f"{name}, seed {seed}")
            if not is_done and is_first_process():
                save_results(folder, {"minutes": (time.perf_counter() - began) / 60}, command)
            results = load_results(folder)
            tests[name].append(results[sections[name].name])
            minutes[name] += results.get("minutes", 0.0)
        runs.append(out / name / f"seed{seeds[0]}")
    if not is_first_process():
        return out
    # Offline networks have no mAP of tokens, or one that knows what comes later; events compare all networks.
    has_offline = any("kind" in tested[0] for tested in tests.values())
    read = {name: reads(tested[0], sections[name].split) for name, tested in tests.items()}
    looks_ahead = any(what != PAST for what in read.values())
    rows = []
    for name, tested in tests.items():
        split = sections[name].split
        figure = f"{split}_map" if f"{split}_map" in tested[0] else f"{split}_top1"
        figure = f"{split}_event_map" if has_offline else figure
        if lacking := [seed for seed, values in zip(seeds, tested, strict=True) if figure not in values]:
            raise ValueError(
                f"the test of {name} with seed {lacking[0]} has no {figure}: its videos have no event of any class"
            )
        figures = [values[figure] for values in tested]
        accuracies = [values.get(f"{split}_token_accuracy") for values in tested]
        rows.append(
            {
                "network": name, **({"reads": read[name]} if looks_ahead else {}),
                f"mean {figure}": float(np.mean(figures)), "spread": float(np.std(figures)),
                "least": min(figures), "greatest": max(figures), "seeds": len(figures),
                **(event_columns(tested, split) if has_offline else {}),
                **yardstick_columns(tested[-1], split, accuracies),
                "parameters": tested[-1]["parameters"], "minutes a run": round(minutes[name] / len(figures), 2),
            }
        )  # fmt: skip
    save_results(out, {row["network"]: row for row in rows}, command)
    data = data_name(sections[names[0]].root)
    notes = [note_on_looking_ahead(read)] if looks_ahead else []
    page = write_summary(out, f"{data}: {len(rows)} networks, {len(seeds)} seeds", rows, runs, notes=notes)
    for row in rows:
        print(
            f"{row['network']:>24}  {row[f'mean {figure}']:.4f} ± {row['spread']:.4f}, from {row['least']:.4f} to "
            f"{row['greatest']:.4f}  {row['parameters']:>12,} parameters  {row['minutes a run']:.2f} min a run"
        )
    for note in notes:
        print(f"note: {note}")
    print(f"report: {page}")
    return out


WHOLE, PAST = "whole videos", "the past"


def reads(tested: dict[str, Any], split: str) -> str:
    """Return what a tested network answers from: whole videos, the past, or the past and a fixed time after it."""
    if "kind" in tested:
        return WHOLE
    late_s = tested.get(f"{split}_answers_late_s")
    return f"{PAST} and the next {late_s:g} s" if late_s else PAST


def note_on_looking_ahead(read: dict[str, str]) -> str:
    """Return which networks of a table looked ahead; ``read`` has for each what ``reads`` returned."""
    words = {WHOLE: "each video was seen as a whole before it was answered"}
    parts = []
    for what in dict.fromkeys([WHOLE, *read.values()]):
        if names := [name for name, its in read.items() if its == what]:
            alone = " alone" * (what == PAST)
            parts.append(f"{', '.join(names)}: {words.get(what, f'each moment was answered from {what}{alone}')}")
    return "; ".join(parts)


def event_columns(tests: list[dict[str, Any]], split: str) -> dict[str, float]:
    """Return columns with the means over the seeds of the figures of events, segments and tokens that there are."""
    columns = {}
    for level in tests[0][f"{split}_event"]:
        columns[f"event mAP at {level}"] = float(np.mean([values[f"{split}_event"][level] for values in tests]))
    names = {
        "tiou_map": "interpolated event mAP",
        "event_f1": "event F1",
        "f1_10": "F1@10",
        "f1_25": "F1@25",
        "f1_50": "F1@50",
        "edit": "edit score",
        "map": "mAP of tokens",
        "event_map_blind": "event mAP of usual events side by side",
    }
    for name, title in names.items():
        if all(f"{split}_{name}" in values for values in tests):
            columns[title] = float(np.mean([values[f"{split}_{name}"] for values in tests]))
    return columns


def yardstick_columns(tested: dict[str, Any], split: str, accuracies: list[float | None]) -> dict[str, Any]:
    """Return columns of a table of networks: token accuracy where there is one, and the scores of a blind guess."""
    columns = {}
    if f"{split}_chance_map" in tested:
        columns["mAP of a guess"] = tested[f"{split}_chance_map"]
    if values := [value for value in accuracies if value is not None]:
        columns["mean token accuracy"] = float(np.mean(values))
    if f"{split}_probe" in tested:
        columns["accuracy of a linear probe"] = tested[f"{split}_probe"]
    if f"{split}_majority" in tested:
        columns[f"accuracy of always {tested[f'{split}_majority_class']!r}"] = tested[f"{split}_majority"]
        columns["accuracy of a guess"] = tested[f"{split}_chance"]
    return columns


@dataclass(frozen=True)
class Section:
    """What is scored for a row: the key of its figures in results.json, the split, the folder and the data.

    ``data`` is None for a probe.
    """

    name: str
    split: str
    root: Path
    data: Any = None


def probe_section(settings: ProbeSettings, first: Section | None) -> Section:
    """Return what is scored for a probe. Raises ValueError where the training ``first`` scores another split."""
    from vidact.training.probing import open_data

    clips = open_data(settings).found
    split = next((split for split in ("test", "val") if clips.split(split)), None)
    if split is None:
        raise ValueError(f"{settings.data} has no split test and no split val, so that nothing is compared")
    if first is not None and first.split != split:
        raise ValueError(f"a probe scores the split {split} of {settings.data}, and data.test_split is {first.split}")
    return Section("test", split, settings.data)


def scored_section(config: Path, out: Path, others: Sequence[str]) -> Section:
    """Return what a test of a training scores.

    Builds everything once, so that an error in any configuration is raised before the first one trains.
    """
    from vidact.training.lightning import make_cli

    probe = make_cli(["--config", str(config), *others, f"--run={out}"], "train", rehearses=True)
    data = probe.datamodule
    split = next((split for split in (data.test_split, "val") if data.found.split(split)), None)
    if split is None:
        raise ValueError(f"{data.root} has no split {data.test_split} and no split val, so that nothing is compared")
    data.test_split = split
    rehearse(probe)
    return Section(probe.model.section(data), split, data.root, data)


def rehearse(cli: Any) -> None:
    """Set training up to its first batch, so that what it would refuse is refused now; nothing is learned.

    ``cli`` was made with ``rehearses``, so nothing is written either.
    """
    from vidact.tasks.keeping import refuse_no_test

    refuse_late_failures(cli)
    if why := why_not_scored(cli.config.trainer):
        raise ValueError(f"{why}, and runs are put side by side by their tests; leave that option out")
    cli.datamodule.frames = None  # only the run itself holds videos in memory
    cli.trainer.fit_loop.epoch_loop.max_steps = 0
    with contextlib.redirect_stdout(io.StringIO()):  # the run itself will print it
        cli.trainer.fit(cli.model, cli.datamodule)
    refuse_no_test(cli.datamodule, cli.config.trainer.limit_test_batches or 0)
