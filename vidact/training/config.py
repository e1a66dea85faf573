"""Configurations: found by name or chosen for the data, filled in, moved with their runs, or refused."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import vidact
from vidact.files import try_to_write
from vidact.text.spelling import in_one_spelling, misspelt


def refuse_barebones(trainer: Any) -> None:
    """Raise ValueError for ``trainer.barebones``."""
    if trainer.barebones:
        raise ValueError(
            "trainer.barebones measures what Lightning itself costs, without logs, checkpoints and validation, which a "
            "run is made of; trainer.fast_dev_run tries a few batches and keeps nothing"
        )


def refuse_no_training(trainer: Any) -> None:
    """Raise ValueError for options of Lightning under which nothing would be learnt or kept."""
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] is not None and trainer[name] == 0:
            raise ValueError(
                f"trainer.{name} is 0, so that nothing would be learnt; vidact test scores a checkpoint as it is"
            )
    for name in ("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch"):
        if isinstance(trainer[name], int | float) and trainer[name] <= 0:  # a time is text
            raise ValueError(
                f"trainer.{name} is {trainer[name]}, and what comes every so many batches or epochs needs a number "
                "above 0; trainer.limit_val_batches 0 leaves validation out"
            )


def expand_config(args: Sequence[str]) -> list[str]:
    """``--config clip/folder/x`` is a file of yours if there is one, else the configuration that vidact brings.

    Configurations come first, wherever they were named: an option is always the last word.
    """
    configs, rest = [], []
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        name = value if equals else next(words, None) if flag in ("--config", "-c") else None
        if flag in ("--config", "-c") and name is not None:
            configs.append(f"--config={find_config(name)}")
        else:
            rest.append(word)
    return configs + rest


def complete_options(args: Sequence[str], command: str) -> list[str]:
    """The options of training or testing in one spelling, with the recipe that fits the data where they name none.

    Prints the options of a part of the configuration and raises SystemExit where those are asked for. Raises ValueError
    where no option names what to train or to test.
    """
    args = in_one_spelling(args)
    bare = [word for word, value in zip(args, [*args[1:], "--"], strict=False) if value.startswith("-")]
    if parts := [part for part in PARTS if f"--{part}.help" in bare]:
        print(options_of_parts(command, parts))
        raise SystemExit(0)
    if command == "train":
        return choose_config(args)
    if not any(re.match(r"(--config|-c|--model|--help|-h|--print_config|--.+\.help)(=|$)", word) for word in args):
        raise ValueError("nothing says what to test: name the config.yaml of a run with --config")
    return args


def choose_config(args: Sequence[str]) -> list[str]:
    """``args`` with the recipe that fits the data, where they name data and no configuration and no network."""
    if any(re.match(r"(--config|-c|--model|--help|-h|--print_config|--.+\.help)(=|$)", word) for word in args):
        return list(args)
    root = _path_among(args, "--data.root", "--data.init_args.root")
    if root is None:
        raise ValueError(
            "nothing says what to train: name a configuration with --config, or the folder of your data with "
            "--data.root"
        )
    recipe, why = recipe_for(root, _path_among(args, "--data.features", "--data.init_args.features"))
    if is_first_process():
        print(f"recipe: {recipe}, since {root} holds {why}. Another one: --config NAME, such as "
              f"{', '.join(RECIPES[recipe])}")  # fmt: skip
    return ["--config", recipe, *args]


def _path_among(args: Sequence[str], *names: str) -> Path | None:
    """The path that an option of one of these names has in ``args``, the last one where there are several."""
    path = None
    for option, following in zip(args, [*args[1:], None], strict=False):
        name, equals, value = option.partition("=")
        if name in names and (equals or following is not None):
            path = Path(value if equals else str(following))
    return path


RECIPES = {  # for data of the user's own, each with some that fit the same data
    "clip/folder/tsm_mobilenetv2": (
        "clip/folder/tsm_causal_mobilenetv2 (for live streams)",
        "clip/ucf101/tsn_resnet50",
    ),
    "online/fir/miniroad": ("online/fir/frame_classifier", "online/fir/causal_softmax"),
}


def recipe_for(root: Path, features: Path | None) -> tuple[str, str]:
    """The recipe for the data that lie in ``root``, and what it was told by.

    Raises FileNotFoundError where there is nothing to train on, ValueError where there are two kinds of data.
    """
    from vidact.data import load_clips
    from vidact.data.sequence_list import FEATURES

    clips, events = RECIPES
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist; --data.root names the folder of your data")
    tables = [name for name in ("clips.csv", "events.csv") if (root / name).is_file()]
    if len(tables) == 2:
        raise ValueError(
            f"{root} holds clips.csv and events.csv: name the recipe, --config {clips} for the clips or "
            f"--config {events} for the untrimmed videos"
        )
    if tables == ["events.csv"]:
        where = features or root / FEATURES
        if not where.is_dir():
            raise FileNotFoundError(
                f"{root} holds events.csv and no features of its videos yet: vidact extract features --videos {root} "
                f"--out {where}"
            )
        return events, "events.csv and features"
    if tables:
        return clips, "clips.csv"
    try:
        found = load_clips(root, missing="skip", empty_classes="allow")
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(
            f"{root} holds neither clips.csv nor events.csv nor class folders with videos ({error})"
        ) from error
    return clips, f"one folder of videos a class ({len(found.classes)})"


def find_config(name: str) -> Path:
    """A YAML by path, or by its name below the configurations that come with vidact."""
    if Path(name).is_file():
        return Path(name)
    if Path(name).name == "config.yaml":  # as runs call theirs
        raise FileNotFoundError(f"there is no file {name}; name the config.yaml in the folder of a run")
    here = Path(vidact.__file__).parent
    shipped = next(folder for folder in (here / "configs", here.parent / "configs") if folder.is_dir())
    inside = shipped / name.removeprefix("configs/").removesuffix(".yaml")
    if (path := inside.with_name(inside.name + ".yaml")).is_file():
        return path
    known = sorted(str(path.relative_to(shipped).with_suffix("")) for path in shipped.rglob("*.yaml"))
    close = difflib.get_close_matches(str(inside.relative_to(shipped)), known, n=3, cutoff=0.4)
    raise FileNotFoundError(f"no configuration {name}; vidact brings {', '.join(close or known)}")


# What --data and --model may be, to train on clips and on untrimmed videos.
PARTS = {
    "data": ("vidact.data.ClipData", "vidact.data.SequenceData"),
    "model": ("vidact.tasks.ClipClassification", "vidact.tasks.OnlineDetection"),
}


# Options of training and testing that belong to no part, and what they do.
OWN_OPTIONS = {
    "--config": "a YAML file, or the name of one that vidact brings, such as clip/folder/tsm_mobilenetv2",
    "--ckpt": "train: resume from 'last' or a path; test: score 'best', 'last' or a path",
    "--run": "run folder; default runs/<data>-<network>/<time>. Under torchrun write --run_folder",
    "--device": "cpu, cuda or mps; default: the best there is",
    "--seed_everything": "the seed of all random numbers (default 0)",
    "--print_config": "print the whole configuration and stop",
    "--help": "this page, or one of those below",
}


def options_of_parts(command: str, parts: Iterable[str] = tuple(PARTS)) -> str:
    """The options ``--data.*`` and ``--model.*`` with their defaults, which no parser knows without a configuration."""
    lines = []
    for part in parts:
        for dotted in PARTS[part]:
            module, _, name = dotted.rpartition(".")
            lines += ["", f"{name}, explained by vidact {command} --{part}.help {dotted}:"]
            for option in inspect.signature(getattr(importlib.import_module(module), name)).parameters.values():
                if is_dataclass(option.default):
                    inside = [(field.name, getattr(option.default, field.name)) for field in fields(option.default)]
                    lines += [f"  --{part}.{option.name}.{key} (default: {value})" for key, value in inside]
                    continue
                is_plain = option.default is None or isinstance(option.default, int | float | str | tuple)
                lines.append(f"  --{part}.{option.name}{f' (default: {option.default})' * is_plain}")
    return "\n".join([*lines, ""])


def all_options() -> list[str]:
    """Return the names of all options of training and testing, of every class of ``PARTS``; imports those."""
    parts = {**PARTS, "trainer": ("lightning.pytorch.Trainer",)}
    options = list(OWN_OPTIONS)
    for part, classes in parts.items():
        for dotted in classes:
            module, _, name = dotted.rpartition(".")
            parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
            options += [f"--{part}.{parameter}" for parameter in parameters]
    return list(dict.fromkeys(options))


def is_asked(name: str, args: Sequence[str]) -> bool:
    """Whether ``args`` have an option whose last part is ``name``."""
    return any(re.match(rf"--(.+\.)?{name}(=|$)", word) for word in args)


def run_of_config(args: Sequence[str]) -> Path | None:
    """The config.yaml among ``args`` that a run wrote for itself; the run folder is wherever that file is."""
    import yaml

    configs = [word.removeprefix("--config=") for word in expand_config(args) if word.startswith("--config=")]
    path = Path(configs[-1]) if configs else Path()
    if path.name != "config.yaml":
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        run = content["run"] if content["run"] == content["trainer"]["default_root_dir"] else None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return None  # the parser says what is wrong with it, or it is somebody's own
    return path if isinstance(run, str) else None


def come_home(config: Any, path: Path, args: Sequence[str], command: str) -> None:
    """Read the configuration ``path`` of a run where it lies now: it may have been moved, or be read from elsewhere.

    Testing and continuing go into the folder of the file; training with it is the same run again in a new folder.
    """
    import yaml

    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    was = saved["run"]
    if not is_asked("ckpt", args):
        config.ckpt = None
    if not is_asked("run", args):
        goes_on = command == "test" or config.ckpt is not None
        config.run = str(path.parent) if goes_on else None
    if not is_asked("default_root_dir", args):
        config.trainer.default_root_dir = None
    for section, name, value in named_paths(config):
        if not is_asked(name, args):
            section[name] = path_from_run(value, was, path.parent)


def path_from_run(value: str, was: str, run: Path) -> str:
    """A path that the config.yaml of a run names, where it leads to now.

    The run was written to ``was`` and lies in ``run``: what is not where it was is as far from the run as it was.
    Relative paths were written by older versions, and counted from where their command ran.
    """
    if os.path.isabs(value) != os.path.isabs(was) or (os.path.isabs(value) and os.path.exists(value)):
        return value
    beside = os.path.normpath(run / os.path.relpath(value, was))
    return beside if os.path.exists(beside) else value


def named_paths(config: Any) -> list[tuple[Any, str, str]]:
    """The files and folders that a configuration reads: the part of it, the name of the option and the path.

    The configuration is the parser's, or as a YAML has it.
    """
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    network = model["network"].get("init_args") or {}
    places = [(data, name) for name in ("root", "features", "flow")] + [(model, "init_from")]
    names = network if isinstance(network, dict) else vars(network)
    places += [(network, name) for name in names if name == "weights" or name.endswith("_weights")]
    found = [(section, name, section.get(name)) for section, name in places]
    words = ("auto", "imagenet", "kinetics400")  # which name a source of weights and no file
    return [place for place in found if isinstance(place[2], str) and place[2] not in words]


def take_processes(trainer: Any) -> None:
    """torchrun and srun say how many processes and nodes there are, so that nobody needs to say it twice."""
    if trainer.devices != "auto" or trainer.num_nodes != 1:
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        world, each = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        world, nodes = int(os.environ.get("SLURM_NTASKS", 1)), int(os.environ.get("SLURM_NNODES", 1))
        each = world // nodes
    else:
        return
    if world > 1 and world % each == 0:
        trainer.devices, trainer.num_nodes = each, world // each


def is_first_process() -> bool:
    """Whether this process speaks and writes for all, before there is a Trainer that knows."""
    from lightning.fabric.plugins import environments as known

    for launcher in (known.TorchElasticEnvironment, known.SLURMEnvironment, known.LSFEnvironment, known.MPIEnvironment):
        if launcher.detect():
            return launcher().global_rank() == 0
    alone = known.LightningEnvironment()
    return alone.node_rank() == alone.local_rank() == 0


def run_folder(config: Any, command: str) -> Path:
    """Where this run writes; nothing is made there yet.

    Raises before anything is computed when the first process cannot write there. What the others name by their own
    clocks is replaced by what the first one does once they are connected.
    """
    asked = config.run or config.trainer.default_root_dir
    network = config.model.init_args.network.class_path.rpartition(".")[2]
    data = Path(config.data.init_args.root).resolve().name
    run = Path(asked) if asked else Path("runs") / f"{data}-{network}" / datetime.now().strftime("%Y%m%d-%H%M%S")
    if not is_first_process():
        return run
    for folder in (run, *(part for name in ("checkpoints", "logs", "plots") if (part := run / name).exists())):
        try:
            try_to_write(folder)
        except OSError as error:
            raise PermissionError(
                f"cannot write to the run folder {folder} ({error.strerror}); choose another one with --run FOLDER"
            ) from error
    if command == "train" and config.ckpt is None and (run / "checkpoints" / "last.ckpt").exists():
        raise FileExistsError(
            f"{run} already holds a run. Continue it with --ckpt last, or start another with --run FOLDER"
        )
    return run


def fill_from_data(config: Any) -> None:
    """``num_classes: 0`` stands for as many as the data has, and a detector's ``feature_dim: 0`` for its width."""
    network, data = config.model.init_args.network.init_args, config.data.init_args
    wanted = [name for name in ("num_classes", "feature_dim") if network.get(name) == 0]
    if not wanted:
        return
    if "features" in data:
        from vidact.data import load_sequences

        found = load_sequences(
            data.root,
            data.features,
            data.tokens_per_second,
            missing=data.missing,
            bad_events=data.bad_events,
            val_fraction=0,
        )
        values = {"num_classes": 1 + len(found.classes), "feature_dim": found.dim}
    else:
        from vidact.data import load_clips

        clips = load_clips(data.root, group=data.group, missing=data.missing, empty_classes=data.empty_classes)
        values = {"num_classes": len(clips.classes)}
    for name in wanted:
        if name in values:
            network[name] = values[name]
            if is_first_process():
                print(f"{name}: {values[name]}, from {data.root}")


def take_network(config: Any, args: Sequence[str]) -> None:
    """A checkpoint names its own network, and a test builds that one, whatever network the configuration trains.

    What ``args`` say of the network holds all the same; with a network's name among them the configuration stands.
    Where training starts from is not asked for.
    """
    from vidact.models.weights import read

    network = config.model.init_args.network
    asked = [word.partition("=")[0].rpartition(".")[2] for word in args if word.startswith("--model.network")]
    if not {"network", "class_path"} & set(asked):
        path = checkpoint_path(Path(config.run), config.ckpt or "best")
        record = read(path)[1]
        recipe = None if record is None else record.recipe
        if recipe is None:
            raise ValueError(f"{path} does not say which network it holds; make it a vidact file with vidact convert")
        name, arguments = recipe["builder"], recipe["arguments"]
        package = network.class_path.partition(".")[0]
        if name.partition(".")[0] not in ("vidact", package):
            raise ValueError(
                f"{path} names the builder {name!r}, which is outside vidact, and building it would run its code. If "
                f"you trust it, name it yourself: --model.network {name}"
            )
        if unknown := sorted(set(asked) - set(arguments)):
            raise ValueError(
                f"{path} holds a {name}, which takes no {', '.join(unknown)}; it takes {', '.join(arguments)}"
            )
        shown = {key: value for key, value in arguments.items() if not re.search("weights|dropout", key)}
        configured = json.loads(json.dumps({key: network.init_args[key] for key in shown if key in network.init_args}))
        for key in ("num_classes", "feature_dim", *asked):
            if key in asked or configured.get(key) == 0:  # 0 is as many as the data has
                configured.pop(key, None)
        differ = {key: value for key, value in configured.items() if value != shown[key]}
        if differ or network.class_path != name:
            words = [f"{key} {value}" for key, value in differ.items()]
            print(
                f"the network is the checkpoint's, {name} ({', '.join(f'{k} {v}' for k, v in shown.items())}); "
                f"the configuration has {', '.join([network.class_path, *words])}"
            )
        given = {key: network.init_args.get(key) for key in asked}
        network.class_path, network.init_args = name, type(config)(**arguments | given)
    for key in vars(network.init_args):
        if key == "weights" or key.endswith("_weights"):
            network.init_args[key] = None


def checkpoint_path(run: Path, name: str) -> Path:
    """``best``, ``last`` or a path."""
    path = run / "checkpoints" / f"{name}.ckpt" if name in ("best", "last") else Path(name)
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in (run / "checkpoints").glob("*.ckpt"))) or "none"
        raise FileNotFoundError(f"no checkpoint {path}; {run / 'checkpoints'} holds {there}")
    return path


def with_whole_paths(config: Any) -> Any:
    """The same configuration; the paths of what is there begin at the root."""
    config = config.clone()
    for section, name, value in named_paths(config):
        if os.path.exists(value):
            section[name] = os.path.abspath(value)
    return config


def refuse_trial(trainer: Any) -> None:
    """Raise ValueError for ``trainer.fast_dev_run`` where runs are put side by side."""
    if trainer.fast_dev_run:
        raise ValueError(
            "trainer.fast_dev_run keeps nothing, and runs are put side by side by their tests; try a batch with vidact "
            "train, or a few with --trainer.limit_train_batches"
        )


def in_plain_words(error: str) -> str:
    """What jsonargparse says of a wrong option, as ``option: what is wrong``; any other text as it is."""
    if error.startswith("unrecognized arguments:"):
        return error + misspelt(error.split(), all_options())
    if "Does not validate against any of the Union subtypes" not in error and 'Parser key "' not in error:
        return error
    keys, said, owner = [], [], None
    for line in (line.strip().removeprefix("- ") for line in error.split("Given value type:")[0].splitlines()):
        if found := re.fullmatch(r'Parser key "(.+)":(.*)', line):
            keys.append(found[1])
            line = found[2].strip()
        if found := re.fullmatch(r"Problem with given class_path '(.+)':", line):
            owner = found[1]
        elif found := re.fullmatch(r"Option '(.+)' is not accepted", line):
            keys.append(found[1].partition(".")[0])
            said.append(f"{owner} has no such option; {closest_options(owner, keys[-1])}")
        elif found := re.fullmatch(r"Expected a dot import path string: (.+)", line):
            said.append(f"there is no {found[1]}; give a class's full name, such as vidact.models.tsm_resnet50")
        elif line and not line.startswith(("Does not validate", "Subtypes:", "Errors:", "Expected a path but")):
            line = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", line)
            line = re.sub(
                r"^Expected an? (?:typing\.Literal\[(.+)\]|(\w+))", lambda at: f"expected {at[1] or at[2]}", line
            )
            said += [line] if line != "expected NoneType" else []
    got = re.search(r"Given value: (?!NestedArg|Namespace)(.+)", error)
    words = " or ".join(said) + (f"; it is {got[1]!r}" if got and said else "")
    return f"--{'.'.join(keys)}: {words}" if keys and said else words or error


def closest_options(owner: str | None, name: str) -> str:
    """Options of a class, by its dotted name, that resemble a name, or else all of them."""
    module, _, attribute = (owner or "").rpartition(".")
    try:
        known = [*inspect.signature(getattr(importlib.import_module(module), attribute)).parameters]
    except (ImportError, AttributeError, ValueError):
        return "see --help"
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known)}"
