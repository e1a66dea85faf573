"""Configurations are found by name or chosen for the data, filled in, moved with their runs, or refused here."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

import vidact
from vidact import hub
from vidact.files import try_to_write
from vidact.text.names import first_few
from vidact.text.spelling import in_one_spelling, misspelt
from vidact.training.probe_config import CHECKPOINT


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
        if isinstance(trainer[name], int | float) and trainer[name] <= 0:  # times are text
            raise ValueError(
                f"trainer.{name} is {trainer[name]}, and what comes every so many batches or epochs needs a number "
                "above 0; trainer.limit_val_batches 0 leaves validation out"
            )


def expand_config(args: Sequence[str]) -> list[str]:
    """Return ``args`` with the paths of configurations: ``--config NAME`` is a user's file or one that vidact brings.

    Configurations come first, wherever they are in ``args``, so that every option overrides them.
    """
    configs, rest = [], []
    remaining = iter(args)
    for word in remaining:
        flag, equals, value = word.partition("=")
        name = value if equals else next(remaining, None) if flag in ("--config", "-c") else None
        if flag in ("--config", "-c") and name is not None:
            configs.append(f"--config={find_config(name)}")
        else:
            rest.append(word)
    return configs + rest


def complete_options(args: Sequence[str], command: str) -> list[str]:
    """Return the options of training or testing in one spelling, with a recipe that fits the data where they name none.

    Prints the options of a part of the configuration and raises SystemExit for ``--data.help`` and ``--model.help``.
    Raises ValueError where no option names what to train or to test.
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
    """Return ``args`` with the recipe that fits the data, where they name no configuration and no network."""
    if any(re.match(r"(--config|-c|--model|--help|-h|--print_config|--.+\.help)(=|$)", word) for word in args):
        return list(args)
    root = _path_among(args, "--data.root", "--data.init_args.root")
    if root is None:
        raise ValueError(
            "nothing says what to train: name a configuration with --config, or the folder of your data with "
            "--data.root"
        )
    recipe, why = recipe_for(root, _path_among(args, "--data.features", "--data.init_args.features"))
    if recipe == DEFAULT and any(re.match(r"--model\.network(\.class_path)?(=|$)", word) for word in args):
        recipe = FOR_ANY_NETWORK
    if is_first_process():
        print(f"recipe: {recipe}, since {root} holds {why}. Another one: --config NAME, such as "
              f"{', '.join(RECIPES[recipe])}")  # fmt: skip
        if recipe == DEFAULT:
            print(f"without fine-tuning, as good on few clips: vidact probe {shlex.quote(str(root))}")
    return ["--config", recipe, *args]


def _path_among(args: Sequence[str], *names: str) -> Path | None:
    """Return the path that the last option of one of these names has in ``args``; None without one."""
    path = None
    for option, following in zip(args, [*args[1:], None], strict=False):
        name, equals, value = option.partition("=")
        if name in names and (equals or following is not None):
            path = Path(value if equals else str(following))
    return path


DEFAULT = "clip/folder/tsm_causal_mobilenetv2"  # for clips; what it trains can stream
FOR_ANY_NETWORK = "clip/folder/tsm_mobilenetv2"  # freezes nothing, since stages differ from network to network
# The recipes for a user's own data, each with others that fit the same data.
RECIPES = {
    DEFAULT: ("clip/folder/tsn_mobilenetv2", f"{FOR_ANY_NETWORK} (which cannot stream)"),
    FOR_ANY_NETWORK: (DEFAULT, "clip/folder/tsn_mobilenetv2"),
    "online/fir/miniroad": (
        "online/fir/frame_classifier",
        "online/fir/causal_softmax",
        "localise/folder/actionformer_small (which sees whole videos)",
    ),
}


def recipe_for(root: Path, features: Path | None) -> tuple[str, str]:
    """Return the recipe for the data in ``root``, and the files by which it was chosen.

    Raises FileNotFoundError where there is nothing to train on, ValueError where there are two kinds of data.
    """
    from vidact.data import load_clips
    from vidact.data.clip_list import SingleClassError
    from vidact.data.sequence_list import FEATURES

    clips, events = DEFAULT, "online/fir/miniroad"
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
        data = load_clips(root, missing="skip", empty_classes="allow")
    except SingleClassError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(
            f"{root} holds neither clips.csv nor events.csv nor class folders with videos ({error})"
        ) from error
    return clips, f"one folder of videos a class ({len(data.classes)})"


def find_config(name: str) -> Path:
    """Return the path of a YAML, given by its path or by its name among the configurations that vidact brings."""
    if Path(name).is_file():
        return Path(name)
    if Path(name).name == "config.yaml":  # the configuration of a run
        if inner := sorted(path.parent.name for path in Path(name).parent.glob("*/config.yaml")):
            raise FileNotFoundError(
                f"there is no file {name}; {Path(name).parent} holds several runs, {first_few(inner)}: name the "
                f"config.yaml of one, such as {Path(name).parent / inner[0] / 'config.yaml'}"
            )
        raise FileNotFoundError(f"there is no file {name}; name the config.yaml in the folder of a run")
    package = Path(vidact.__file__).parent
    shipped = next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())
    inside = shipped / name.removeprefix("configs/").removesuffix(".yaml")
    if (path := inside.with_name(inside.name + ".yaml")).is_file():
        return path
    names = sorted(str(path.relative_to(shipped).with_suffix("")) for path in shipped.rglob("*.yaml"))
    close = difflib.get_close_matches(str(inside.relative_to(shipped)), names, n=3, cutoff=0.4)
    raise FileNotFoundError(f"no configuration {name}; vidact brings {', '.join(close or names)}")


# The classes for --data and --model, to train on clips and on untrimmed videos.
PARTS = {
    "data": ("vidact.data.ClipData", "vidact.data.SequenceData"),
    "model": ("vidact.tasks.ClipClassification", "vidact.tasks.OnlineDetection", "vidact.tasks.OfflineDetection"),
}


# The options of training and testing that belong to no part, with their help.
OWN_OPTIONS = {
    "--config": "a YAML file, or the name of one that vidact brings, such as clip/folder/tsm_mobilenetv2",
    "--ckpt": "train: resume from 'last' or a path; test: score 'best', 'last' or a path, also an exported .onnx",
    "--run": "run folder; default runs/<data>-<network>/<time>. Under torchrun write --run_folder",
    "--device": "cpu, cuda or mps; default: the best there is",
    "--probe": "true (the default): fit a linear probe to the network before training and print its figure beside that "
    "of the test; false: leave it out",
    "--find_lr": "train: nothing; test learning rates instead, draw their losses and suggest one",
    "--seed_everything": "the seed of all random numbers (default 0)",
    "--print_config": "print the whole configuration and stop",
    "--help": "this page, or one of those below",
}


def options_of_parts(command: str, parts: Iterable[str] = tuple(PARTS)) -> str:
    """Return the options ``--data.*`` and ``--model.*`` with their defaults, for a page without a configuration."""
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


def has_option(name: str, args: Sequence[str]) -> bool:
    """Return whether ``args`` have an option whose last part is ``name``."""
    return any(re.match(rf"--(.+\.)?{name}(=|$)", word) for word in args)


def run_of_config(args: Sequence[str]) -> Path | None:
    """Return the config.yaml in ``args`` that a run wrote, whose folder is the run's; None for any other."""
    import yaml

    configs = [word.removeprefix("--config=") for word in expand_config(args) if word.startswith("--config=")]
    path = Path(configs[-1]) if configs else Path()
    if path.name != "config.yaml":
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        run = content["run"] if content["run"] == content["trainer"]["default_root_dir"] else None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return None  # it is a user's own file, or the parser reports its error
    return path if isinstance(run, str) else None


def relocate(config: Any, path: Path, args: Sequence[str], command: str) -> None:
    """Correct the paths of ``config``, read from a run's config.yaml, to where the run lies now.

    The folder of the run may have been moved, or the command may run in another folder than the training did.
    Testing and resuming write into the folder of ``path``; training again with it starts a new run in a new folder.
    """
    import yaml

    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    was = saved["run"]
    if not has_option("ckpt", args):
        config.ckpt = None
    if not has_option("run", args):
        goes_on = command == "test" or config.ckpt is not None
        config.run = str(path.parent) if goes_on else None
    if not has_option("default_root_dir", args):
        config.trainer.default_root_dir = None
    for section, name, value in named_paths(config):
        if not has_option(name, args):
            section[name] = path_from_run(value, was, path.parent)


def path_from_run(value: str, was: str, run: Path) -> str:
    """Return where a path in the config.yaml of a run leads now.

    The run was written to ``was`` and lies in ``run``: a file that is no longer at its old path is searched at the same
    position relative to the run. Older versions wrote relative paths, which start at the folder of their command.
    """
    if os.path.isabs(value) != os.path.isabs(was) or (os.path.isabs(value) and os.path.exists(value)):
        return value
    beside = os.path.normpath(run / os.path.relpath(value, was))
    return beside if os.path.exists(beside) else value


def named_paths(config: Any) -> list[tuple[Any, str, str]]:
    """Return the files and folders that a configuration reads: each as its section, the option's name and the path.

    ``config`` is a namespace of the parser, or the content of a YAML.
    """
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    network = model["network"].get("init_args") or {}
    options = [(data, name) for name in ("root", "features", "flow")] + [(model, "init_from")]
    names = network if isinstance(network, dict) else vars(network)
    options += [(network, name) for name in names if name == "weights" or name.endswith("_weights")]
    values = [(section, name, section.get(name)) for section, name in options]
    sources = ("auto", "imagenet", "kinetics400")  # names of published weights, which are no files
    return [option for option in values if isinstance(option[2], str) and option[2] not in sources]


def take_processes(trainer: Any) -> None:
    """Set the Trainer's devices and nodes from torchrun or srun, so that they need not be given twice."""
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
    """Return whether this process prints and writes for all, before there is a Trainer to decide it."""
    from lightning.fabric.plugins import environments

    launchers = (
        environments.TorchElasticEnvironment,
        environments.SLURMEnvironment,
        environments.LSFEnvironment,
        environments.MPIEnvironment,
    )
    for launcher in launchers:
        if launcher.detect():
            return launcher().global_rank() == 0
    default = environments.LightningEnvironment()
    return default.node_rank() == default.local_rank() == 0


def run_folder(config: Any, command: str, tests_rates: bool = False) -> Path:
    """Return the folder to which this run, or a range test of its rate, will write; nothing is created yet.

    Raises OSError before anything is computed where the first process cannot write there or the folder holds a run.
    The other processes take over the first one's folder (``OneRun``), since a default name depends on the clock.
    """
    folder = config.run or config.trainer.default_root_dir
    network = config.model.init_args.network.class_path.rpartition(".")[2]
    data = Path(config.data.init_args.root).resolve().name
    default = Path("runs") / f"{data}-{network}" / datetime.now().strftime("%Y%m%d-%H%M%S")
    if tests_rates:
        default = default.with_name(f"{default.name}-find_lr")
    run = Path(folder) if folder else default
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
    """Replace ``num_classes: 0`` and ``feature_dim: 0`` by the classes' number and the features' width of the data."""
    network, data = config.model.init_args.network.init_args, config.data.init_args
    missing = [name for name in ("num_classes", "feature_dim") if network.get(name) == 0]
    if not missing:
        return
    if "features" in data:
        from vidact.data import load_sequences

        sequences = load_sequences(
            data.root,
            data.features,
            data.tokens_per_second,
            missing=data.missing,
            bad_events=data.bad_events,
            val_fraction=0,
        )
        has_background = not is_localiser(config.model.init_args.network.class_path)
        values = {"num_classes": has_background + len(sequences.classes), "feature_dim": sequences.dim}
    else:
        from vidact.data import load_clips

        clips = load_clips(data.root, group=data.group, missing=data.missing, empty_classes=data.empty_classes)
        values = {"num_classes": len(clips.classes)}
    for name in missing:
        if name in values:
            network[name] = values[name]
            if is_first_process():
                print(f"{name}: {values[name]}, from {data.root}")


def is_localiser(class_path: str) -> bool:
    """Return whether the class, or the function's result, is a localiser, which has no output for the background."""
    from vidact.models.localisation import Localiser

    module, _, name = class_path.rpartition(".")
    built = getattr(importlib.import_module(module), name)
    kind = built if isinstance(built, type) else get_type_hints(built).get("return")
    return isinstance(kind, type) and issubclass(kind, Localiser)


def take_network(config: Any, args: Sequence[str]) -> None:
    """Set the network of a test to that of the checkpoint, whatever network the configuration trains.

    Options of the network in ``args`` still apply; where they name a network, that of the configuration is kept. The
    weights that training started from are not loaded.
    """
    from vidact.models.weights import read
    from vidact.runtimes.exported import OnnxGraph

    network = config.model.init_args.network
    names = [word.partition("=")[0].rpartition(".")[2] for word in args if word.startswith("--model.network")]
    if not {"network", "class_path"} & set(names):
        path = checkpoint_path(Path(config.run), config.ckpt or "best", may_be_published=True)
        record = OnnxGraph.open(path).record if path.suffix == ".onnx" else read(path)[1]
        recipe = None if record is None else record.recipe
        if recipe is None:
            raise ValueError(f"{path} does not say which network it holds; make it a vidact file with vidact convert")
        builder, arguments = recipe["builder"], recipe["arguments"]
        package = network.class_path.partition(".")[0]
        if builder.partition(".")[0] not in ("vidact", package):
            raise ValueError(
                f"{path} names the builder {builder!r}, which is outside vidact, and building it would run its code. "
                f"If you trust it, name it yourself: --model.network {builder}"
            )
        if unknown := sorted(set(names) - set(arguments)):
            raise ValueError(
                f"{path} holds a {builder}, which takes no {', '.join(unknown)}; it takes {', '.join(arguments)}"
            )
        settings = {key: value for key, value in arguments.items() if not re.search("weights|dropout", key)}
        configured = json.loads(
            json.dumps({key: network.init_args[key] for key in settings if key in network.init_args})
        )
        for key in ("num_classes", "feature_dim", *names):
            if key in names or configured.get(key) == 0:  # 0 stands for the number in the data
                configured.pop(key, None)
        differ = {key: value for key, value in configured.items() if value != settings[key]}
        if differ or network.class_path != builder:
            changes = [f"{key} {value}" for key, value in differ.items()]
            print(
                f"the network is the checkpoint's, {builder} ({', '.join(f'{k} {v}' for k, v in settings.items())}); "
                f"the configuration has {', '.join([network.class_path, *changes])}"
            )
        overrides = {key: network.init_args.get(key) for key in names}
        network.class_path, network.init_args = builder, type(config)(**arguments | overrides)
    for key in vars(network.init_args):
        if key == "weights" or key.endswith("_weights"):
            network.init_args[key] = None


def checkpoint_path(run: Path, name: str, may_be_published: bool = False) -> Path:
    """Return the path of the checkpoint ``name``: "best" or "last" of the run, or a path.

    The folder of a probe has one file, which is its best.

    Args:
        may_be_published: accept the name of a published network and an address of the hub, too, and return it.
    """
    if may_be_published and (hub.named(name) is not None or hub.is_address(name)):
        return Path(name)
    path = run / "checkpoints" / f"{name}.ckpt" if name in ("best", "last") else Path(name)
    if not path.is_file():
        if (fitted := run / CHECKPOINT).is_file() and not (run / "checkpoints").exists():
            if name == "best":
                return fitted
            raise FileNotFoundError(
                f"no checkpoint {path}; {run} is the folder of a probe, whose one file, {CHECKPOINT}, is used without "
                "--ckpt"
            )
        names = ", ".join(sorted(p.name for p in (run / "checkpoints").glob("*.ckpt"))) or "none"
        raise FileNotFoundError(f"no checkpoint {path}; {run / 'checkpoints'} holds {names}")
    return path


def with_whole_paths(config: Any) -> Any:
    """Return a copy of the configuration in which the paths of existing files are absolute."""
    config = config.clone()
    for section, name, value in named_paths(config):
        if os.path.exists(value):
            section[name] = os.path.abspath(value)
    return config


def only_steps(config: Any) -> None:
    """Change a configuration to that of a learning-rate range test: steps alone, whose number only the test decides.

    Prints what is left out. Raises ValueError for options that ask for something else.
    """
    from vidact.tasks.rate_test import STEPS

    trainer, model = config.trainer, config.model.init_args
    if config.ckpt is not None:
        raise ValueError(
            "--find_lr tests the rates with which a training starts, and --ckpt goes on with one. Leave one of them "
            "out; for a rate from trained weights: --find_lr --model.init_from FILE"
        )
    if trainer.fast_dev_run:
        raise ValueError("trainer.fast_dev_run trains a single batch, and --find_lr needs about a hundred steps")
    without = {"ema": None, "early_stopping": None, "unfreeze": None}
    left_out = [f"model.{name}" for name in without if model.get(name) is not None]
    left_out += [f"trainer.{name}" for name in ("callbacks", "max_time") if trainer.get(name)]
    if model.get("unfreeze"):
        model.freeze = "none"  # what learns in the end learns in the test
    for name in without:
        if name in model:
            model[name] = None
    if model.get("schedule") is not None:
        model.schedule.kind, model.schedule.warmup_epochs = "constant", 0.0
    for name in ("callbacks", "max_time", "min_epochs", "min_steps", "val_check_interval"):
        trainer[name] = None
    trainer.max_epochs, trainer.max_steps, trainer.limit_val_batches = -1, STEPS + 1, 0
    trainer.logger = trainer.enable_checkpointing = trainer.enable_progress_bar = False
    if left_out and is_first_process():
        print(f"the range test leaves out {', '.join(left_out)} and the schedule")


def refuse_trial(trainer: Any) -> None:
    """Raise ValueError for ``trainer.fast_dev_run`` where runs are put side by side."""
    if trainer.fast_dev_run:
        raise ValueError(
            "trainer.fast_dev_run keeps nothing, and runs are put side by side by their tests; try a batch with vidact "
            "train, or a few with --trainer.limit_train_batches"
        )


def in_plain_words(error: str) -> str:
    """Return jsonargparse's error of a wrong option as ``option: what is wrong``; any other text as it is."""
    if error.startswith("unrecognized arguments:"):
        return error + misspelt(error.split(), all_options())
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (Online|Offline)Network", error):
        kinds = {"Online": ("online detector", "localise/… and segment/…"), "Offline": ("offline network", "online/…")}
        noun, others = kinds[match[2]]
        return (
            f"--model.network: {match[1]} is no {noun}, which this task trains; the configurations {others} have others"
        )
    if "Does not validate against any of the Union subtypes" not in error and 'Parser key "' not in error:
        return error
    keys, problems, owner = [], [], None
    for line in (line.strip().removeprefix("- ") for line in error.split("Given value type:")[0].splitlines()):
        if match := re.fullmatch(r'Parser key "(.+)":(.*)', line):
            keys.append(match[1])
            line = match[2].strip()
        if match := re.fullmatch(r"Problem with given class_path '(.+)':", line):
            owner = match[1]
        elif match := re.fullmatch(r"Option '(.+)' is not accepted", line):
            keys.append(match[1].partition(".")[0])
            problems.append(f"{owner} has no such option; {closest_options(owner, keys[-1])}")
        elif match := re.fullmatch(r"Expected a dot import path string: (.+)", line):
            problems.append(f"there is no {match[1]}; give a class's full name, such as vidact.models.tsm_resnet50")
        elif line and not line.startswith(("Does not validate", "Subtypes:", "Errors:", "Expected a path but")):
            line = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", line)
            line = re.sub(
                r"^Expected an? (?:typing\.Literal\[(.+)\]|(\w+))", lambda at: f"expected {at[1] or at[2]}", line
            )
            problems += [line] if line != "expected NoneType" else []
    got = re.search(r"Given value: (?!NestedArg|Namespace)(.+)", error)
    message = " or ".join(problems) + (f"; it is {got[1]!r}" if got and problems else "")
    return f"--{'.'.join(keys)}: {message}" if keys and problems else message or error


def closest_options(owner: str | None, name: str) -> str:
    """Return a hint: the options of a class, by its dotted name, that resemble ``name``, or else all of them."""
    module, _, attribute = (owner or "").rpartition(".")
    try:
        options = [*inspect.signature(getattr(importlib.import_module(module), attribute)).parameters]
    except (ImportError, AttributeError, ValueError):
        return "see --help"
    close = difflib.get_close_matches(name, options, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(options)}"
