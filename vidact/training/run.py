"""A run from the options of its command to its results.json: training, scores and report."""

from __future__ import annotations

import contextlib
import csv
import os
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidact.files import in_use, no_empty_folder, replacing
from vidact.hub import text_of
from vidact.records import Record
from vidact.results.figures import load_results, save_results
from vidact.results.scores import PROBE_SCORES
from vidact.text.addresses import without_secrets
from vidact.text.names import counted, plain_name, same_names

if TYPE_CHECKING:
    from vidact.data.clips import FrameCache
    from vidact.tasks.frozen_probe import FrozenProbe
from vidact.text.spelling import in_one_spelling
from vidact.training.config import checkpoint_path, expand_config, named_paths, path_from_run, with_whole_paths
from vidact.training.probe_config import (
    OPTIONS,
    default_run,
    is_probe,
    not_of_probes,
    options_in,
    read_settings,
    refuse_processes,
)


def command_line(command: str, args: Sequence[str]) -> str:
    """Return a command with its options, for results.json, without the secrets of addresses."""
    return shlex.join(["vidact", command, *map(without_secrets, args)])


def train(args: Sequence[str], cache: FrameCache | None = None) -> Path:
    """Train, score the best weights, write the report, and return the run folder. ``cache`` holds decoded frames."""
    from vidact.training.lightning import make_cli

    if (recipe := probe_recipe(args)) is not None:
        return train_probe(recipe, args)
    cli = make_cli(args, "train")
    if cache is not None and cli.datamodule.frames is not None:
        cli.datamodule.frames = cache
    with removing_empty_run(cli):
        return learn(cli, command_line("train", args))


def probe_recipe(args: Sequence[str]) -> Path | None:
    """Return the recipe of a probe that ``args`` name with --config; None where they name another configuration.

    Raises ValueError where the recipe is one of several configurations, whose settings cannot be joined.
    """
    words = [word for word in expand_config(in_one_spelling(args)) if word.startswith("--config=")]
    configs = [Path(word.partition("=")[2]) for word in words]
    recipe = next((config for config in configs if is_probe(config)), None)
    if recipe is not None and len(configs) > 1:
        raise ValueError(
            f"{recipe} is the recipe of a probe and cannot be joined with other configurations; vidact compare and "
            "vidact folds put them side by side"
        )
    return recipe


def train_probe(recipe: Path, args: Sequence[str]) -> Path:
    """Make the probe of a recipe, as ``vidact probe`` does, and return its run folder.

    Raises ValueError for options that mean nothing to a probe.
    """
    from vidact.training.probing import run_probe

    words = [word for word in expand_config(in_one_spelling(args)) if not word.startswith("--config=")]
    refuse_processes()
    run = options_in(words).get("run")
    settings = read_settings(recipe, words)
    if wrong := [name for name in not_of_probes(words) if name != "--run"]:
        raise ValueError(
            f"{', '.join(wrong)} means nothing to the probe of {recipe}; its options are --run and "
            f"{', '.join(f'--{name}' for name in OPTIONS)}"
        )
    folder = Path(" ".join(run)) if run else default_run(settings.data)
    run_probe(settings, folder, command_line("train", args))
    return folder


def learn(cli: Any, command: str) -> Path:
    """Train and score what ``make_cli`` built, and return the run folder; results.json names ``command``."""
    from lightning.pytorch.callbacks import LambdaCallback

    from vidact.tasks.keeping import Best

    run, trainer = Path(cli.config.run), cli.trainer
    refuse_late_failures(cli)
    resume = checkpoint_path(run, cli.config.ckpt) if cli.config.ckpt else None
    changes = options_changed(cli, resume) if resume else {}
    if trainer.is_global_zero and not trainer.fast_dev_run:
        if resume is None:
            save_config(cli, run, changes)
        else:  # where resuming fails, config.yaml must still describe the old checkpoints
            saves = LambdaCallback(on_train_start=lambda *_: save_config(cli, run, changes))
            trainer.callbacks.append(saves)
    if trainer.is_global_zero:
        network, size = cli.config.model.init_args.network.class_path, sum(p.numel() for p in cli.model.parameters())
        print(f"run: {run}\n{network.rpartition('.')[2]}: {size:,} parameters\n{cli.datamodule.found}")
        if note := note_on_few_clips(cli.datamodule.found):
            print(f"note: {note}")
    split, data = cli.datamodule.test_split, cli.datamodule.found
    scored = next((name for name in (split, "val") if data.split(name)), None)
    if scored is None and trainer.is_global_zero:
        print(f"no split {split} and no split val: nothing will be scored, and the last epoch counts as the best")
    unscored = None if trainer.fast_dev_run else why_not_scored(cli.config.trainer)
    if unscored and trainer.is_global_zero:
        print(f"{unscored}: nothing will be scored")
    probe = add_probe(cli) if scored is not None and not unscored else None
    with in_use(run), explained_interrupt(trainer, run):
        trainer.fit(cli.model, cli.datamodule, ckpt_path=resume)
    run = Path(cli.config.run)  # the folder that the first process named
    if trainer.fast_dev_run:
        return run
    if trainer.checkpoint_callbacks and not (run / "checkpoints" / "best.ckpt").exists():
        raise ValueError(
            f"training ended before its first batch, so that nothing was learnt (trainer.max_time is "
            f"{cli.config.trainer.max_time}, trainer.max_epochs {trainer.max_epochs}, trainer.max_steps "
            f"{trainer.max_steps}; a run that goes on counts what was done before)"
        )
    if trainer.is_global_zero:
        merge_logs(run)
    seconds = cli.times.seconds
    training_figures: dict[str, Any] = {"seconds_per_epoch": float(np.median(seconds))} if seconds else {}
    if best := next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Best)), None):
        training_figures["chosen"] = best.chosen(trainer)
    if probe is not None and probe.facts:
        training_figures["linear probe"] = probe.facts
    if scored is not None and not unscored:
        if scored != split and trainer.is_global_zero:
            print(f"the data has no {split} split: the validation split is scored")
        cli.datamodule.test_split = scored
        with explained_interrupt(trainer, run):
            score(cli, run, "best", command, training_figures)
    elif trainer.is_global_zero:
        from vidact.report.page import write_report

        save_results(run, training_figures, command)
        print(f"report: {write_report(run)}")
    trainer.strategy.barrier()  # other processes may read what the first one wrote
    return run


def note_on_few_clips(data: Any) -> str:
    """Return a note where no class has two training clips; an empty string for other data, and for a detector."""
    clips = [clip for clip in getattr(data, "clips", []) if clip.split == "train"]
    counts = Counter(label for clip in clips for label in clip.labels)
    if not counts or max(counts.values()) > 1:
        return ""
    return (
        f"none of the {counted(len(data.classes), 'class', 'classes')} has two training clips: a network learns these "
        "clips by heart and not what an action looks like. Add clips of other people and places"
    )


def add_probe(cli: Any) -> FrozenProbe | None:
    """Add the linear probe beside which a test of the run is printed, and return it; None for a detector."""
    from vidact.tasks.clip_classification import ClipClassification
    from vidact.tasks.frozen_probe import FrozenProbe

    if not isinstance(cli.model, ClipClassification):
        return None
    probe = FrozenProbe(enabled=cli.config.probe)
    cli.trainer.callbacks.append(probe)
    return probe


def what_to_try(cli: Any) -> str:
    """Return advice after a training that is no better than a probe, or than an answer that ignores the video."""
    epochs, freeze = cli.trainer.max_epochs, cli.config.model.init_args.get("freeze")
    ways = ["another learning rate (the same command with --find_lr suggests one)"]
    if epochs is not None and epochs > 0:
        ways.append(f"more epochs (--trainer.max_epochs {2 * epochs})")
    if freeze == "none":
        ways.append("a backbone that learns later or not at all (--model.freeze backbone --model.unfreeze [4,7])")
    if freeze is not None:  # a recogniser
        ways.append(f"a head on frozen features (vidact probe --data {shlex.quote(str(cli.datamodule.root))})")
    return f"what may help: {', '.join(ways)}"


def why_not_scored(trainer: Any) -> str | None:
    """Return why the options ``trainer`` leave a trained network without a test; None where it has one."""
    if trainer.enable_checkpointing is False:
        return "trainer.enable_checkpointing is false, so no weights are kept"
    return "trainer.limit_test_batches is 0" if trainer.limit_test_batches == 0 else None


def options_changed(cli: Any, resume: Path) -> dict[str, tuple[Any, Any]]:
    """Return and print the options that differ from those of the checkpoint's run: name → value before and now.

    Raises ValueError for an option that a resumed run cannot change.
    """
    import yaml

    from vidact.tasks.resuming import changed_options, refuse_fixed_options

    path = resume.parent.parent / "config.yaml"
    if not path.is_file():
        return {}
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, name, value in named_paths(before):
        current = path_from_run(value, str(before.get("run")), path.parent)
        section[name] = os.path.abspath(current) if os.path.exists(current) else current
    changes = changed_options(before, yaml.safe_load(cli.parser.dump(with_whole_paths(cli.config), skip_unset=False)))
    refuse_fixed_options(changes, resume)
    if changes and cli.trainer.is_global_zero:
        texts = [f"{name} {now} (before {was})" for name, (was, now) in changes.items()]
        print(f"goes on with other options than {path}: {', '.join(texts)}")
    return changes


def save_config(cli: Any, run: Path, changes: dict[str, tuple[Any, Any]]) -> None:
    """Write config.yaml: the options from now on, and in comments those with which the run was trained before.

    Paths are absolute, so that they hold wherever the next command runs. The position of the data relative to the run
    follows from them, in case both are moved (``relocate``). The checkpoint to resume from applies to one command only
    and is left out.
    """
    path, goes_on, config = run / "config.yaml", cli.config.ckpt, with_whole_paths(cli.config)
    config.run = config.trainer.default_root_dir = os.path.abspath(run)
    config.ckpt = None
    past = []
    if goes_on and path.is_file():
        past = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# resumed ")]
    if changes:
        when = datetime.now().strftime("%Y-%m-%d %H:%M")
        was = ", ".join(f"{name} {before}" for name, (before, _) in changes.items())
        past.append(f"# resumed {when} from {goes_on}; until then: {was}".replace("\n", " "))
    with replacing(path) as half:
        cli.parser.save(config, half, skip_unset=False, overwrite=True, multifile=False)
        if past:
            half.write_text("\n".join([*past, half.read_text(encoding="utf-8")]), encoding="utf-8")


@contextlib.contextmanager
def removing_empty_run(cli: Any) -> Iterator[None]:
    """Remove the run folder where the block raises before anything is learned and this command created the folder.

    Only the files that every training writes before its first step are removed, from a folder that was new or empty.
    """
    run = Path(cli.config.run)
    if not cli.trainer.is_global_zero or {path.name for path in run.glob("*")} - {"asked.json"}:
        yield
        return
    with no_empty_folder(run):
        try:
            yield
        except BaseException:
            names = {path.name for path in run.glob("*")} - {"asked.json"}  # ``train_once`` removes this file
            files, folders = {"config.yaml", PROBE_SCORES}, {"logs", "checkpoints", "encodings"}
            if names <= {*files, *folders} and not any((run / "checkpoints").glob("*")):
                for name in files:
                    (run / name).unlink(missing_ok=True)
                for name in folders:
                    shutil.rmtree(run / name, ignore_errors=True)
            raise


@contextlib.contextmanager
def explained_interrupt(trainer: Any, run: Path | None) -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning would end the process with status 1, with how to resume ``run``."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        message = ""
        if run is not None and (run / "checkpoints" / "last.ckpt").exists():
            message = f"continue with: vidact train --config {shlex.quote(f'{run}/config.yaml')} --ckpt last"
        elif run is not None:
            message = "nothing was saved yet"
        raise KeyboardInterrupt(message) from None


def test(args: Sequence[str]) -> Path:
    """Score a trained network on the test split, write the report, and return the run folder."""
    from vidact.training.lightning import make_cli

    cli = make_cli(args, "test")
    run = Path(cli.config.run)
    if cli.config.trainer.limit_test_batches == 0:
        raise ValueError("trainer.limit_test_batches is 0, so that nothing would be scored")
    with explained_interrupt(cli.trainer, None):
        score(cli, run, cli.config.ckpt or "best", command_line("test", args))
    return run


def score(cli: Any, run: Path, name: str, command: str, training_figures: dict[str, Any] | None = None) -> None:
    """Test the checkpoint ``name`` and add scores.npz, results.json and the report to the run folder.

    ``training_figures`` are figures of the training, which results.json gets too.
    """
    from vidact.metrics import is_trivial
    from vidact.models.weights import load, load_strictly, record_of
    from vidact.prediction import open_network
    from vidact.report.page import write_report
    from vidact.runtimes.exported import OnnxClip

    path = checkpoint_path(run, name, may_be_published=True)
    # The configuration's package may run code: it has already built a network in this process.
    trusted = (cli.config.model.init_args.network.class_path.partition(".")[0],)
    trained = open_network(path) if path.suffix == ".onnx" else load(path, trust=trusted)
    record, num_parameters = record_of(trained), sum(each.numel() for each in cli.model.network.parameters())
    classes = cli.datamodule.found.classes
    if not same_names(record.classes, classes):
        differ = sorted({plain_name(name) for name in record.classes} ^ set(classes)) or ["their order"]
        unnamed = all(name.isdecimal() for name in record.classes)
        raise ValueError(
            f"{path} was trained on {len(record.classes)} classes and {cli.datamodule.root} has "
            f"{len(classes)}; they differ in {', '.join(differ[:5])}. "
            f"{'Its classes have numbers for names: name them with vidact convert --classes FILE. ' * unnamed}"
            f"To tell other classes apart, train from it: vidact train … --model.init_from {path}"
        )
    if record.features is not None:
        refuse_other_features(path, record, cli.datamodule)
    if isinstance(trained, OnnxClip):
        if cli.trainer.strategy.root_device.type != "cpu":
            raise ValueError(f"{path} runs in ONNX Runtime on the CPU; add --device cpu")
        cli.model.network = trained
    else:
        load_strictly(cli.model.network, trained.state_dict(), source=str(path))
    if record.features is not None:
        cli.model.adopt(record)
    started = time.perf_counter()
    cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    if not cli.trainer.is_global_zero:
        return
    task, data = cli.model, cli.datamodule
    if cli.trainer.fast_dev_run:
        print("trainer.fast_dev_run: a batch was scored, and nothing is written")
        return
    asks_for_part = cli.config.trainer.limit_test_batches is not None
    if (videos := len(task.test_scores.ids)) < (total := len(data.found.split(data.test_split))) and asks_for_part:
        task.remarks.append(f"only {videos} of the {total} videos of the split {data.test_split} were scored")
    trained_flow = record.flow  # None for a detector, whose data have no ``flow_record``
    if trained_flow and (flow := data.flow_record) and trained_flow.get("method") != flow.get("method"):
        print(
            f"note: {path} was trained on {trained_flow.get('method')} flow and is scored on {flow.get('method')} "
            "flow, which lowers its scores; data.flow and data.flow_method choose it"
        )
    if training_figures is not None and any(task.test_figures.get(name) for name in ("verdict", "probe_verdict")):
        task.remarks.append(what_to_try(cli))
    figures = {f"{data.test_split}_{key}": value for key, value in task.test_figures.items()}
    figures |= {
        "videos": len(task.test_scores.ids),
        "parameters": num_parameters,
        "seconds": round(time.perf_counter() - started, 2),
    }
    facts = {"checkpoint": text_of(path), "classes": len(classes)} | task.save_scores(run, data)
    save_results(run, {task.section(data): figures | facts, **(training_figures or {})}, command)
    page = write_report(run)
    for key, value in figures.items():
        if isinstance(value, int | float) and not is_trivial(key, len(classes)):
            print(f"{key:>28}  {value:.4f}" if isinstance(value, float) else f"{key:>28}  {value}")
    for remark in task.remarks:
        print(f"note: {remark}")
    print(f"report: {page}")


def refuse_other_features(checkpoint: Path, record: Record, data: Any) -> None:
    """Raise ValueError where the features of the data differ from those that a network was trained on.

    Of a converted file, only the size of the features and where they lie in time are known.
    """
    from vidact.features.record import other_features

    trained, present = dict(record.features or {}), data.found.record
    if record.converted is not None:
        compared = {*trained, *(["grid"] if "tokens_per_second" in trained else [])}
        present = {key: value for key, value in present.items() if key in compared}
    if differ := other_features(trained, present):
        raise ValueError(
            f"{checkpoint} was trained on other features than those of {data.root}: {'; '.join(differ)}. "
            "Extract features as it was trained with, or train on these"
        )


def merge_logs(run: Path) -> None:
    """Write one metrics.csv from the logs of all sessions of the run, with epochs counted from 1.

    Of a part that ran again, the last rows are kept.
    """
    from vidact.tasks.keeping import first_epoch

    rows: dict[tuple[int, int], dict[str, Any]] = {}
    logs = sorted((run / "logs").glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    for log in logs:
        ahead = 1 - first_epoch(log)
        new: dict[tuple[int, int], dict[str, Any]] = {}
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("epoch"):
                    key = int(row["epoch"]) + ahead, int(row["step"])
                    new.setdefault(key, {}).update({name: value for name, value in row.items() if value})
                    new[key]["epoch"] = key[0]
        if new:
            rows = {key: row for key, row in rows.items() if key < min(new)} | new
    if rows:
        names = list(dict.fromkeys(["epoch", "step", *(name for row in rows.values() for name in row)]))
        with replacing(run / "metrics.csv") as half, half.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(row for _, row in sorted(rows.items()))


def refuse_late_failures(cli: Any) -> None:
    """Raise ValueError or OSError for what would make the run fail at its end, after training.

    The end builds the network again from the record in the checkpoint, scores the test split (``ClipData`` tries its
    videos) and adds to results.json.
    """
    import vidact.report.page  # noqa: F401  (and the libraries with which it draws)
    from vidact.models.weights import refuse_another_network

    package = cli.config.model.init_args.network.class_path.partition(".")[0]
    refuse_another_network(cli.model.network, trust=(package,))
    run = Path(cli.config.run)
    if (run / "results.json").exists():
        load_results(run)
