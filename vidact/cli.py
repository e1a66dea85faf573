"""The command line: ``vidact <command>``, and the same commands as files in tools/.

Training and testing are a LightningCLI; the other commands are typed functions.
"""

from __future__ import annotations

if __name__ == "__main__":  # python -m vidact.cli, before anything is imported that takes time
    from vidact import __main__ as program

    program.main()
    raise SystemExit

import argparse
import contextlib
import csv
import ctypes
import difflib
import importlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

import numpy as np

from vidact import __version__
from vidact.files import no_empty_folder, replacing, try_to_write, write_json
from vidact.records import unreadable_weights
from vidact.results.figures import load_results, save_results
from vidact.text.addresses import Parser, misspelt, without_secrets
from vidact.text.names import plain_name, same_names

if TYPE_CHECKING:
    from vidact.data.clips import FrameCache
    from vidact.results.scores import Scores

HELP = """usage: vidact COMMAND [options]

  train     train a network on videos           vidact train --config clip/folder/tsm_mobilenetv2 --data.root my_clips
  test      score a trained network             vidact test --config runs/x/config.yaml --ckpt best --data.views 10x3
  folds     cross-validate over groups          vidact folds --config clip/weizmann/tsm_mobilenetv2
  compare   several networks, several seeds     vidact compare --config online/fir/miniroad online/fir/lstr
  extract   features of videos, for detectors   vidact extract features --videos my_videos --out my_features
            or their optical flow               vidact extract flow --videos my_clips --out my_flow
  prepare   check, re-encode or pack videos     vidact prepare check --data my_clips
  predict   name the actions of files           vidact predict --checkpoint runs/x/checkpoints/best.ckpt clip.mp4
  export    ONNX or torch.export of a network   vidact export --checkpoint runs/x/checkpoints/best.ckpt --out x.onnx
  stream    name actions while they happen      vidact stream --checkpoint runs/x/checkpoints/best.ckpt --source 0
  serve     a web page that names them live     vidact serve --checkpoint runs/x/checkpoints/best.ckpt
  fuse      join score files by video           vidact fuse rgb/scores.npz flow/scores.npz --weights 1 1.5
  convert   published weights into a vidact file   vidact convert --origin tsm --file x.pth --out y.safetensors
  networks  what each network is and costs      vidact networks
  report    draw a run's results again          vidact report runs/x
  doctor    what is installed and what works    vidact doctor
  demo      make data, train, score, report     vidact demo

vidact COMMAND --help explains each; vidact --version prints the version.
"""


# ---- training and testing


def make_cli(args: Sequence[str], command: str, rehearses: bool = False) -> Any:
    """A LightningCLI with our run folder, loggers and checkpoints: its parts are built and nothing has run yet.

    Args:
        args: the options.
        command: "train" or "test".
        rehearses: for ``rehearse``: with ``trainer.fast_dev_run``, under which nothing is written.
    """
    import torch
    import yaml
    from lightning import pytorch as pl
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO

    from vidact.tasks.keeping import Best, EpochBar, EpochLines, EpochTimes, Last, make_loggers, several

    # Defaults of Lightning's callbacks, such as Timer's interval, are names of an enumeration: written as their text.
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))
    torch.set_flush_denormal(True)  # fresh networks make numbers so small that a CPU takes ten times longer over them
    keep_freed_memory()

    class WholeCheckpoints(TorchCheckpointIO):
        """Checkpoints are whole or absent, also when the process is killed while writing; nothing in them runs."""

        def load_checkpoint(
            self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
        ) -> dict[str, Any]:
            try:
                return super().load_checkpoint(path, map_location, True if weights_only is None else weights_only)
            except FileNotFoundError:
                raise
            except Exception as error:  # PyTorch's words advise to run what is in the file
                raise unreadable_weights(path, error) from None

        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            with replacing(path) as half:
                super().save_checkpoint(checkpoint, half, storage_options)

    class OneRun(pl.Callback):
        """All processes write into, and read from, the run folder that the first one named."""

        def setup(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
            config = trainer.strategy.broadcast(cli.config.run)
            cli.config.run = cli.config.trainer.default_root_dir = config
            trainer.__dict__["_default_root_dir"] = config  # Trainer.default_root_dir reads it and cannot be set

    class VidactCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            of_trainer = parser.format_help
            parser.__dict__["format_help"] = lambda *how: of_trainer(*how) + options_of_parts(command)
            parser.add_argument(
                "--run",
                type=str | None,
                help="run folder; default runs/<data>-<network>/<time>. Under torchrun write --run_folder",
            )
            parser.add_argument(
                "--ckpt",
                type=str | None,
                help="train: resume from 'last' or a path; test: score 'best', 'last' or a path",
            )
            parser.add_argument("--device", type=str | None, help="cpu, cuda or mps; default: the best there is")

        def before_instantiate_classes(self) -> None:
            config = self.config
            network = config.model.init_args.network.init_args
            for name, value in network.items():
                if value == "None":  # what jsonargparse 4.53 makes of `null` two levels deep on the command line
                    network[name] = None
            if home is not None:
                come_home(config, home, args, command)
            take_processes(config.trainer)
            config.run = config.trainer.default_root_dir = str(run_folder(config, command))
            if config.device is not None:
                config.trainer.accelerator = "gpu" if config.device == "cuda" else config.device
            if command == "test":
                take_network(config, args)
            self.weights: dict[str, Any] = {}
            refuse_barebones(config.trainer)
            if rehearses:
                refuse_trial(config.trainer)
                config.trainer.fast_dev_run = True
            if command == "train":
                refuse_no_training(config.trainer)
                if config.ckpt is not None:  # it fills the network, whose weights need not be fetched
                    checkpoint_path(Path(config.run), config.ckpt)
                    names = [name for name in vars(network) if name == "weights" or name.endswith("_weights")]
                    self.weights = {name: network[name] for name in names}
                    for name in names:
                        network[name] = None
            fill_from_data(config)

        def instantiate_classes(self) -> None:
            super().instantiate_classes()
            for name, value in self.weights.items():
                self.config.model.init_args.network.init_args[name] = value

        def instantiate_trainer(self, **options: Any) -> pl.Trainer:
            trainer, run = self.config_init.trainer, Path(self.config.run)
            callbacks = several(trainer.callbacks)
            # A bar writes to standard output, and a file there wants lines.
            is_file = trainer.enable_progress_bar is None and not sys.stdout.isatty()
            if not any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks):
                if is_file:
                    options["enable_progress_bar"] = False
                elif trainer.enable_progress_bar is not False:
                    callbacks.append(EpochBar())
            if command == "test":
                return self.trainer_in_words(**options, callbacks=callbacks, logger=False)
            options["logger"] = make_loggers(run, trainer.logger)
            if not trainer.fast_dev_run:
                self.times = EpochLines() if is_file else EpochTimes()
                callbacks.append(self.times)
                if trainer.enable_checkpointing is not False:
                    callbacks += [Best(run / "checkpoints"), Last(run / "checkpoints")]
                if options["logger"]:
                    callbacks.append(pl.callbacks.LearningRateMonitor("epoch"))
                plugins = several(trainer.plugins)
                if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                    plugins.append(WholeCheckpoints())
                options["plugins"] = plugins
            return self.trainer_in_words(**options, callbacks=callbacks)

        def trainer_in_words(self, **options: Any) -> pl.Trainer:
            try:
                return super().instantiate_trainer(**options)
            except TypeError as error:  # Lightning's, of a number of devices that cannot be
                raise ValueError(f"trainer: {error}") from error

    args = in_one_spelling(args)
    bare = [word for word, value in zip(args, [*args[1:], "--"], strict=False) if value.startswith("-")]
    if asked := [part for part in PARTS if f"--{part}.help" in bare]:
        print(options_of_parts(command, asked))
        raise SystemExit(0)
    if command == "train":
        args = choose_config(args)
    elif not any(re.match(r"(--config|-c|--model|--help|-h|--print_config|--.+\.help)(=|$)", word) for word in args):
        raise ValueError("nothing says what to test: name the config.yaml of a run with --config")
    home = run_of_config(args)
    cli: Any = VidactCLI(
        args=expand_config(args),
        run=False,
        save_config_callback=None,
        auto_configure_optimizers=False,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        trainer_defaults={
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
        },
        parser_kwargs={"prog": f"vidact {command}", "exit_on_error": False},
    )
    cli.trainer.callbacks.insert(0, OneRun())  # before any other callback asks where to write
    return cli


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


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: activations are of the same sizes at every step, and each block that goes back
    to the system must be cleared, page by page, when it is asked for again (benchmarks/allocation.py).
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_max, 0)


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


def choose_config(args: Sequence[str]) -> list[str]:
    """``args`` with the recipe that fits the data, where they name data and no configuration and no network."""
    if any(re.match(r"(--config|-c|--model|--help|-h|--print_config|--.+\.help)(=|$)", word) for word in args):
        return list(args)
    option = Parser(add_help=False, allow_abbrev=False)
    option.add_argument("--data.root", "--data.init_args.root", dest="root", type=Path)
    option.add_argument("--data.features", "--data.init_args.features", dest="features", type=Path)
    given, _ = option.parse_known_args(args)
    root = given.root
    if root is None:
        raise ValueError(
            "nothing says what to train: name a configuration with --config, or the folder of your data with "
            "--data.root"
        )
    recipe, why = recipe_for(root, given.features)
    if is_first_process():
        print(f"recipe: {recipe}, since {root} holds {why}. Another one: --config NAME, such as "
              f"{', '.join(RECIPES[recipe])}")  # fmt: skip
    return ["--config", recipe, *args]


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
    here = Path(__file__).parent
    shipped = next(folder for folder in (here / "configs", here.parent / "configs") if folder.is_dir())
    inside = shipped / name.removeprefix("configs/").removesuffix(".yaml")
    if (path := inside.with_name(inside.name + ".yaml")).is_file():
        return path
    known = sorted(str(path.relative_to(shipped).with_suffix("")) for path in shipped.rglob("*.yaml"))
    close = difflib.get_close_matches(str(inside.relative_to(shipped)), known, n=3, cutoff=0.4)
    raise FileNotFoundError(f"no configuration {name}; vidact brings {', '.join(close or known)}")


def in_one_spelling(args: Sequence[str]) -> list[str]:
    """Options with the underscores of their names, so that ``--data.num-workers`` is ``--data.num_workers``.

    ``--run_folder`` is ``--run``: torchrun looks for its own options, shortened ones too, in the whole command.
    """
    words = [re.sub(r"^--[^=]+", lambda name: f"--{name[0][2:].replace('-', '_')}", word) for word in args]
    return [re.sub(r"^--run_folder(?==|$)", "--run", word) for word in words]


# What --data and --model may be, to train on clips and on untrimmed videos.
PARTS = {
    "data": ("vidact.data.ClipData", "vidact.data.SequenceData"),
    "model": ("vidact.tasks.ClipClassification", "vidact.tasks.OnlineDetection"),
}


# Options of training and testing that belong to no part.
OWN_OPTIONS = ("--config", "--ckpt", "--run", "--device", "--seed_everything", "--print_config", "--help")


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
        recipe = (read(path)[1] or {}).get("recipe")
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


def train(args: Sequence[str], cache: FrameCache | None = None) -> Path:
    """Train, score the best weights, write the report; gives the run folder. ``cache`` holds frames decoded before."""
    cli = make_cli(args, "train")
    if cache is not None and cli.datamodule.frames is not None:
        cli.datamodule.frames = cache
    with no_run_in_vain(cli):
        return learn(cli, command_line("train", args))


def learn(cli: Any, command: str) -> Path:
    """Train and score what ``make_cli`` built; ``command`` is named in results.json."""
    from lightning.pytorch.callbacks import LambdaCallback

    from vidact.tasks.keeping import Best

    run, trainer = Path(cli.config.run), cli.trainer
    refuse_what_ends_badly(cli)
    resume = checkpoint_path(run, cli.config.ckpt) if cli.config.ckpt else None
    changes = options_changed(cli, resume) if resume else {}
    if trainer.is_global_zero and not trainer.fast_dev_run:
        if resume is None:
            save_config(cli, run, changes)
        else:  # a run that cannot go on keeps what says how its checkpoints were trained
            saves = LambdaCallback(on_train_start=lambda *_: save_config(cli, run, changes))
            trainer.callbacks.append(saves)
    if trainer.is_global_zero:
        network, size = cli.config.model.init_args.network.class_path, sum(p.numel() for p in cli.model.parameters())
        print(f"run: {run}\n{network.rpartition('.')[2]}: {size:,} parameters\n{cli.datamodule.found}")
    wanted, found = cli.datamodule.test_split, cli.datamodule.found
    scored = next((split for split in (wanted, "val") if found.split(split)), None)
    if scored is None and trainer.is_global_zero:
        print(f"no split {wanted} and no split val: nothing will be scored, and the last epoch counts as the best")
    unscored = None if trainer.fast_dev_run else why_not_scored(cli.config.trainer)
    if unscored and trainer.is_global_zero:
        print(f"{unscored}: nothing will be scored")
    with ctrl_c_in_words(trainer, run):
        trainer.fit(cli.model, cli.datamodule, ckpt_path=resume)
    run = Path(cli.config.run)  # as the first process named it
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
    learnt_in: dict[str, Any] = {"seconds_per_epoch": float(np.median(seconds))} if seconds else {}
    if best := next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Best)), None):
        learnt_in["chosen"] = best.chosen(trainer)
    if scored is not None and not unscored:
        if scored != wanted and trainer.is_global_zero:
            print(f"the data has no {wanted} split: the validation split is scored")
        cli.datamodule.test_split = scored
        with ctrl_c_in_words(trainer, run):
            score(cli, run, "best", command, learnt_in)
    elif trainer.is_global_zero:
        from vidact.report.page import write_report

        save_results(run, learnt_in, command)
        print(f"report: {write_report(run)}")
    trainer.strategy.barrier()  # other processes may read what the first one wrote
    return run


def why_not_scored(trainer: Any) -> str | None:
    """What of the options ``trainer`` leaves a trained network without a test; None where it has one."""
    if trainer.enable_checkpointing is False:
        return "trainer.enable_checkpointing is false, so no weights are kept"
    return "trainer.limit_test_batches is 0" if trainer.limit_test_batches == 0 else None


def options_changed(cli: Any, resume: Path) -> dict[str, tuple[Any, Any]]:
    """What is asked otherwise than the run of the checkpoint was: name → value there and now; it is said in words.

    Raises ValueError where a run that goes on cannot change it.
    """
    import yaml

    from vidact.tasks.resuming import changed_options, refuse_fixed_options

    path = resume.parent.parent / "config.yaml"
    if not path.is_file():
        return {}
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, name, value in named_paths(before):
        there = path_from_run(value, str(before.get("run")), path.parent)
        section[name] = os.path.abspath(there) if os.path.exists(there) else there
    changes = changed_options(before, yaml.safe_load(cli.parser.dump(with_whole_paths(cli.config), skip_unset=False)))
    refuse_fixed_options(changes, resume)
    if changes and cli.trainer.is_global_zero:
        words = [f"{name} {now} (before {was})" for name, (was, now) in changes.items()]
        print(f"goes on with other options than {path}: {', '.join(words)}")
    return changes


def save_config(cli: Any, run: Path, changes: dict[str, tuple[Any, Any]]) -> None:
    """Write config.yaml: what the run is trained with from now on, and in comments what it was trained with before.

    Paths are whole, so that they mean the same wherever the next command runs; where the data lie as seen from the run
    follows from them, should both be moved (``come_home``). Which checkpoint a run goes on from is asked once, and is
    no part of it.
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


def with_whole_paths(config: Any) -> Any:
    """The same configuration; the paths of what is there begin at the root."""
    config = config.clone()
    for section, name, value in named_paths(config):
        if os.path.exists(value):
            section[name] = os.path.abspath(value)
    return config


@contextlib.contextmanager
def no_run_in_vain(cli: Any) -> Iterator[None]:
    """Where the block raises before anything is learned, the run folder goes again if it is this command's.

    Only what every training writes before its first step is removed, from a folder that was not there or was empty.
    """
    run = Path(cli.config.run)
    if not cli.trainer.is_global_zero or {path.name for path in run.glob("*")} - {"asked.json"}:
        yield
        return
    with no_empty_folder(run):
        try:
            yield
        except BaseException:
            checkpoints, logs = run / "checkpoints", run / "logs"
            names = {path.name for path in run.glob("*")} - {"asked.json"}  # which ``train_once`` takes care of
            if names <= {"config.yaml", "logs", "checkpoints"} and not any(checkpoints.glob("*")):
                (run / "config.yaml").unlink(missing_ok=True)
                shutil.rmtree(logs, ignore_errors=True)
                shutil.rmtree(checkpoints, ignore_errors=True)
            raise


@contextlib.contextmanager
def ctrl_c_in_words(trainer: Any, trains: Path | None) -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning would end the process with status 1, and say how the run goes on."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        words = ""
        if trains is not None and (trains / "checkpoints" / "last.ckpt").exists():
            words = f"continue with: vidact train --config {shlex.quote(f'{trains}/config.yaml')} --ckpt last"
        elif trains is not None:
            words = "nothing was saved yet"
        raise KeyboardInterrupt(words) from None


def test(args: Sequence[str]) -> Path:
    """Score a trained network on the test split and write the report; gives the run folder."""
    cli = make_cli(args, "test")
    run, asked = Path(cli.config.run), cli.config.trainer
    if asked.limit_test_batches == 0:
        raise ValueError("trainer.limit_test_batches is 0, so that nothing would be scored")
    with ctrl_c_in_words(cli.trainer, None):
        score(cli, run, cli.config.ckpt or "best", command_line("test", args))
    return run


def score(cli: Any, run: Path, name: str, command: str, learnt_in: dict[str, Any] | None = None) -> None:
    """Test the checkpoint ``name`` and add scores.npz, results.json and the report to the run folder.

    ``learnt_in`` are figures of the training, which results.json gets too.
    """
    from vidact.metrics import is_trivial
    from vidact.models.weights import load, load_strictly
    from vidact.report.page import write_report

    path = checkpoint_path(run, name)
    # the configuration's own package has built a network in this process already
    trained: Any = load(path, trust=(cli.config.model.init_args.network.class_path.partition(".")[0],))
    classes = cli.datamodule.found.classes
    if not same_names(trained.record["classes"], classes):
        differ = sorted({plain_name(name) for name in trained.record["classes"]} ^ set(classes)) or ["their order"]
        unnamed = all(name.isdecimal() for name in trained.record["classes"])
        raise ValueError(
            f"{path} was trained on {len(trained.record['classes'])} classes and {cli.datamodule.root} has "
            f"{len(classes)}; they differ in {', '.join(differ[:5])}. "
            f"{'Its classes have numbers for names: name them with vidact convert --classes FILE. ' * unnamed}"
            f"To tell other classes apart, train from it: vidact train … --model.init_from {path}"
        )
    if "features" in trained.record:
        refuse_other_features(path, trained.record["features"], cli.datamodule)
    load_strictly(cli.model.network, trained.state_dict(), source=str(path))
    if "events" in trained.record:  # thresholds, and what the logits mean, belong to the weights
        cli.model.events = dict(trained.record["events"])
        cli.model.thresholds = dict(trained.record.get("thresholds", {}))
        cli.model.kind = trained.record.get("scores", cli.model.kind)
    started = time.perf_counter()
    cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    if not cli.trainer.is_global_zero:
        return
    task, data = cli.model, cli.datamodule
    if cli.trainer.fast_dev_run:
        print("trainer.fast_dev_run: a batch was scored, and nothing is written")
        return
    asks_for_part = cli.config.trainer.limit_test_batches is not None
    if (videos := len(task.test_scores.ids)) < (there := len(data.found.split(data.test_split))) and asks_for_part:
        task.remarks.append(f"only {videos} of the {there} videos of the split {data.test_split} were scored")
    learnt, seen = trained.record.get("flow"), getattr(data, "flow_record", None)
    if learnt and seen and learnt.get("method") != seen.get("method"):
        print(
            f"note: {path} was trained on {learnt.get('method')} flow and is scored on {seen.get('method')} flow, "
            "which lowers its scores; data.flow and data.flow_method choose it"
        )
    figures = {f"{data.test_split}_{key}": value for key, value in task.test_figures.items()}
    figures |= {
        "videos": len(task.test_scores.ids),
        "parameters": sum(p.numel() for p in task.network.parameters()),
        "seconds": round(time.perf_counter() - started, 2),
    }
    facts = {"checkpoint": str(path), "classes": len(classes)} | task.save_scores(run, data)
    save_results(run, {task.section(data): figures | facts, **(learnt_in or {})}, command)
    page = write_report(run)
    for key, value in figures.items():
        if isinstance(value, int | float) and not is_trivial(key, len(classes)):
            print(f"{key:>28}  {value:.4f}" if isinstance(value, float) else f"{key:>28}  {value}")
    for words in task.remarks:
        print(f"note: {words}")
    print(f"report: {page}")


def refuse_other_features(checkpoint: Path, trained: dict[str, Any], data: Any) -> None:
    """A detector understands the features it was trained on and no others."""
    from vidact.features.record import other_features

    if differ := other_features(trained, data.found.record):
        raise ValueError(
            f"{checkpoint} was trained on other features than those of {data.root}: {'; '.join(differ)}. "
            "Extract features as it was trained with, or train on these"
        )


def merge_logs(run: Path) -> None:
    """One metrics.csv from the logs of every session of the run, epochs counted from 1; what ran again counts once, the
    last time.
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


def folds(args: Sequence[str]) -> Path:
    """Cross-validate: each value of ``data.group`` is held out once; finished folds are kept when run again.

    Several configurations are cross-validated on the same folds and become the rows of one table.
    """
    from vidact.data.clips import FrameCache
    from vidact.report.page import write_summary

    parser = Parser(
        prog="vidact folds", description=folds.__doc__, epilog="Further options are those of vidact train.",
        allow_abbrev=False,
    )  # fmt: skip
    # fmt: off
    parser.add_argument("--config", nargs="+", required=True, help="configurations whose data.group names the groups")
    parser.add_argument("--run", type=Path, help="folder for all folds; default runs/<config>-folds")
    parser.add_argument("--folds", help="comma-separated groups, + joins those that are held out together; "
                                        "default: every group alone")
    parser.add_argument("--num_folds", type=int, help="so many folds, each of several groups in order of their names")
    parser.add_argument("--fuse", nargs="+", default=[], metavar="RGB+FLOW",
                        help="two of the configurations as the streams of one more row, their logits added 1 : 1.5")
    parser.add_argument("--flow", type=Path, help="what `vidact extract flow` stored, for the networks that see flow")
    # fmt: on
    asked, others = parser.parse_known_args(in_one_spelling(args))
    if asked.folds and asked.num_folds:
        raise ValueError("--folds names the folds and --num_folds counts them; give one of the two")
    configs = [find_config(name) for name in asked.config]
    names = [config.stem for config in configs]
    refuse_same_names(names)
    several = len(configs) > 1
    out = asked.run or Path("runs") / f"{configs[0].parent.name}-{'' if several else names[0] + '-'}folds"
    pairs = [tuple(pair.split("+")) for pair in asked.fuse]
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(names):
            raise ValueError(f"--fuse {'+'.join(pair)} does not name two of the configurations {', '.join(names)}")
    plans = [plan_folds(config, out / config.stem if several else out, asked, others) for config in configs]
    if asked.flow and not any(plan.reads_flow for plan in plans):
        raise ValueError(
            f"--flow is {asked.flow}, but no network sees flow; leave it out, or add one with modality=flow"
        )
    command = command_line("folds", args)
    caches = {plan.decoder: FrameCache(plan.decoder) for plan in plans}  # no video is decoded twice
    found = {plan.config.stem: cross_validate(plan, caches[plan.decoder], command) for plan in plans}
    if not several or not is_first_process():
        return out
    found |= {f"{rgb} + {flow}": fuse_folds(out / rgb, out / flow, found[rgb], found[flow]) for rgb, flow in pairs}
    rows = [
        {
            "network": name, "mean top-1": figures["mean_top1"], "spread": figures["std_top1"],
            "least": figures["min_top1"], "greatest": figures["max_top1"], "errors": figures["errors"],
            "videos": figures["videos"], "parameters": figures["parameters"],
            "seconds an epoch": figures["seconds_per_epoch"],
        }
        for name, figures in found.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: row["mean top-1"], reverse=True)
    save_results(out, {row["network"]: row for row in rows}, command)
    title = f"{plans[0].data}: {len(rows)} networks, {found[names[0]]['folds']} folds"
    page = write_summary(out, title, rows)
    print()
    for row in rows:
        print(
            f"{row['network']:>28}  top-1 {row['mean top-1']:.4f} ± {row['spread']:.4f}  {row['errors']:>3} errors of "
            f"{row['videos']}  {row['seconds an epoch']:.1f} s an epoch"
        )
    print(f"report: {page}")
    return out


# options that a run may be continued, or kept, without
OF_NO_FIGURE = ("trainer.enable_progress_bar", "trainer.enable_model_summary", "data.num_workers", "device")


def refuse_same_names(names: list[str]) -> None:
    """Configurations side by side are told apart by the names of their files."""
    if len(set(names)) < len(names):
        raise ValueError(f"two configurations are both called {max(names, key=names.count)}; a row needs its own name")


@dataclass(frozen=True)
class FoldPlan:
    """One configuration to cross-validate: what `vidact train` is told for each fold, and the groups of each."""

    config: Path
    out: Path
    arguments: list[str]
    parts: list[list[str]]
    section: str
    decoder: str
    reads_flow: bool
    data: str


def plan_folds(config: Path, out: Path, asked: argparse.Namespace, others: list[str]) -> FoldPlan:
    """Build everything once, so that what is wrong with any configuration is said before the first one trains."""
    from vidact.data import load_clips

    arguments = ["--config", str(config), *others]
    probe = make_cli([*arguments, f"--run={out}"], "train", rehearses=True)
    if not hasattr(probe.datamodule, "held_out"):
        raise ValueError(
            f"{config.stem} trains a detector on features of untrimmed videos, and folds hold out groups of clips. "
            "Name the held-out videos as the split test in videos.csv, once for each fold, and train on each"
        )
    if reads_flow := bool(asked.flow and probe.model.network.input.flow_fields):
        arguments.append(f"--data.flow={asked.flow}")
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
    parts = fold_parts(clips.groups(), asked.folds, asked.num_folds, data.root)
    folders = [fold_folder(out, "+".join(part)) for part in parts]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"two folds would both be written to {max(folders, key=folders.count)}; rename one of the groups"
        )
    rehearse(probe)
    name = data_name(data.root)
    return FoldPlan(config, out, arguments, parts, probe.model.section(data), data.decoder, reads_flow, name)


def fold_folder(out: Path, name: str) -> Path:
    """Where the fold that holds out ``name`` is trained: a folder in ``out``, whatever a group of paths is called."""
    return out / re.sub(r"^\.+$|[/\\]", "_", name)


def cross_validate(plan: FoldPlan, cache: FrameCache, command: str) -> dict[str, Any]:
    """Runs below ``plan.out``, its results.json and page; gives the figures."""
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
        print(f"{row['fold']:>16}  top-1 {row['top1']:.3f}  of {row['videos']} videos")
    print(
        f"{'mean':>16}  top-1 {figures['mean_top1']:.4f} ± {figures['std_top1']:.4f}, from {figures['min_top1']:.3f} "
        f"to {figures['max_top1']:.3f}; {figures['errors']} errors of {figures['videos']}\nreport: {page}"
    )
    return figures


def train_once(run: Path, arguments: list[str], title: str, cache: FrameCache | None = None) -> None:
    """``train``, if that run is not finished yet; one that was stopped goes on.

    Raises ValueError where the run was made with other settings: its figures would stand for those that are asked.
    """
    import yaml

    from vidact.features.record import differences

    options: dict[str, list[str]] = {}
    for word in arguments:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            options[name.lstrip("-")] = [value] if equals else []
        else:
            options[[*options][-1]].append(word)
    config = yaml.safe_load(Path(options.pop("config")[0]).read_text(encoding="utf-8"))
    said = {name: " ".join(words) for name, words in options.items() if name not in OF_NO_FIGURE}
    asked, path = {"config": config, "option": said}, run / "asked.json"
    if path.exists() and (differ := differences(json.loads(path.read_text(encoding="utf-8")), asked)):
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
        write_json(path, asked)  # before the run: one that is stopped goes on for the same settings only
        try:
            train([*arguments, f"--run={run}", *resume], cache)
        except BaseException:
            if [*run.iterdir()] == [path]:
                path.unlink()
            raise


def fold_figures(top1: list[float], pooled: Scores) -> dict[str, Any]:
    """What is said of several folds together."""
    return {
        "mean_top1": float(np.mean(top1)), "std_top1": round(float(np.std(top1)), 6), "min_top1": min(top1),
        "max_top1": max(top1), "errors": int((pooled.values.argmax(1) != pooled.labels).sum()),
        "videos": len(pooled.ids), "folds": len(top1), **pooled.beside_yardsticks(),
    }  # fmt: skip


def fuse_folds(rgb: Path, flow: Path, of_rgb: dict[str, Any], of_flow: dict[str, Any]) -> dict[str, Any]:
    """Late fusion of two cross-validations fold by fold, with TSN's weights; it costs what both cost."""
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


def fold_parts(groups: list[str], asked: str | None, num_folds: int | None, root: Path) -> list[list[str]]:
    """Which groups each fold holds out: those asked for, so many parts of all, or each group alone."""
    if num_folds is not None:
        if not 2 <= num_folds <= len(groups):
            raise ValueError(f"--num_folds is {num_folds}; the {len(groups)} groups of {root} make 2 to {len(groups)}")
        return [part.tolist() for part in np.array_split(np.array(groups), num_folds)]
    parts = [[name] for name in groups]
    if asked:
        parts = [[name] if name in groups else name.split("+") for name in asked.split(",")]
    flat = [name for part in parts for name in part]
    if whole := [part for part in parts if set(part) >= set(groups)]:
        raise ValueError(
            f"the fold {'+'.join(whole[0])} holds out every group of {root}, so that none is left to train on; two "
            "groups are needed at least"
        )
    if unknown := sorted(set(flat) - set(groups)):
        raise ValueError(f"no group {', '.join(unknown)}; {root} has {', '.join(groups)}")
    if len(set(flat)) < len(flat):
        raise ValueError(f"the group {max(flat, key=flat.count)} is in two folds; each is held out once")
    return parts


def compare(args: Sequence[str]) -> Path:
    """Train several configurations with several seeds each, and put their mean and spread into one table.

    Finished runs are kept when the command runs again.
    """
    from vidact.report.page import write_summary

    parser = Parser(
        prog="vidact compare", description=compare.__doc__, epilog="Further options are those of vidact train.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--config", nargs="+", required=True, help="configurations, a row of the table each")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the networks' start and training")
    parser.add_argument("--run", type=Path, help="folder for all runs; default runs/<configs' folder>-compared")
    asked, others = parser.parse_known_args(in_one_spelling(args))
    configs = [find_config(name) for name in asked.config]
    names = [config.stem for config in configs]
    refuse_same_names(names)
    if len(set(asked.seeds)) < len(asked.seeds) or min(asked.seeds) < 0:
        raise ValueError(f"seeds are {asked.seeds}; give numbers from 0, each once")
    out = asked.run or Path("runs") / f"{configs[0].parent.name}-compared"
    sections = [scored_section(config, out, others) for config in configs]
    rows, runs = [], []
    for config, name, (section, split, _) in zip(configs, names, sections, strict=True):
        figures, accuracies, minutes = [], [], 0.0
        for seed in asked.seeds:
            run, began = out / name / f"seed{seed}", time.perf_counter()
            is_done = (run / "results.json").exists()
            train_once(run, ["--config", str(config), f"--seed_everything={seed}", *others], f"{name}, seed {seed}")
            if not is_done and is_first_process():
                save_results(run, {"minutes": (time.perf_counter() - began) / 60}, command_line("compare", args))
            results = load_results(run)
            tested = results[section]
            figure = f"{split}_map" if f"{split}_map" in tested else f"{split}_top1"
            figures.append(tested[figure])
            accuracies.append(tested.get(f"{split}_token_accuracy"))
            minutes += results.get("minutes", 0.0)
        runs.append(out / name / f"seed{asked.seeds[0]}")
        rows.append(
            {
                "network": name, f"mean {figure}": float(np.mean(figures)), "spread": float(np.std(figures)),
                "least": min(figures), "greatest": max(figures), "seeds": len(figures),
                **yardstick_columns(tested, split, accuracies),
                "parameters": tested["parameters"], "minutes a run": round(minutes / len(figures), 2),
            }
        )  # fmt: skip
    if not is_first_process():
        return out
    save_results(out, {row["network"]: row for row in rows}, command_line("compare", args))
    page = write_summary(out, f"{sections[0][2]}: {len(rows)} networks, {len(asked.seeds)} seeds", rows, runs)
    for row in rows:
        print(
            f"{row['network']:>24}  {row[f'mean {figure}']:.4f} ± {row['spread']:.4f}, from {row['least']:.4f} to "
            f"{row['greatest']:.4f}  {row['parameters']:>12,} parameters  {row['minutes a run']:.2f} min a run"
        )
    print(f"report: {page}")
    return out


def yardstick_columns(tested: dict[str, Any], split: str, accuracies: list[float | None]) -> dict[str, Any]:
    """Columns of a table of networks: token accuracy where there is one, and what looking at nothing reaches."""
    columns = {}
    if f"{split}_chance_map" in tested:
        columns["mAP of a guess"] = tested[f"{split}_chance_map"]
    if known := [value for value in accuracies if value is not None]:
        columns["mean token accuracy"] = float(np.mean(known))
    if f"{split}_majority" in tested:
        columns[f"accuracy of always {tested[f'{split}_majority_class']!r}"] = tested[f"{split}_majority"]
        columns["accuracy of a guess"] = tested[f"{split}_chance"]
    return columns


def data_name(root: Path) -> str:
    """What a page calls the data: the name of its folder."""
    return root.resolve().name


def scored_section(config: Path, out: Path, others: list[str]) -> tuple[str, str, str]:
    """Where a run's results.json will have the figures of its test, of which split, and what the data is called; builds
    everything once, so that what is wrong with any configuration is said before the first one trains.
    """
    probe = make_cli(["--config", str(config), *others, f"--run={out}"], "train", rehearses=True)
    data = probe.datamodule
    split = next((split for split in (data.test_split, "val") if data.found.split(split)), None)
    if split is None:
        raise ValueError(f"{data.root} has no split {data.test_split} and no split val, so that nothing is compared")
    data.test_split = split
    rehearse(probe)
    return probe.model.section(data), split, data_name(data.root)


def rehearse(cli: Any) -> None:
    """Set up what training sets up, to its first batch: what it would refuse is refused now, and nothing is learned.

    ``cli`` was made with ``rehearses``, so nothing is written either.
    """
    from vidact.tasks.keeping import refuse_no_test

    refuse_what_ends_badly(cli)
    if why := why_not_scored(cli.config.trainer):
        raise ValueError(f"{why}, and runs are put side by side by their tests; leave that option out")
    cli.datamodule.frames = None  # videos in memory are for the run itself
    cli.trainer.fit_loop.epoch_loop.max_steps = 0
    with contextlib.redirect_stdout(io.StringIO()):  # the run will say it
        cli.trainer.fit(cli.model, cli.datamodule)
    refuse_no_test(cli.datamodule, cli.config.trainer.limit_test_batches or 0)


def refuse_trial(trainer: Any) -> None:
    """Raise ValueError for ``trainer.fast_dev_run`` where runs are put side by side."""
    if trainer.fast_dev_run:
        raise ValueError(
            "trainer.fast_dev_run keeps nothing, and runs are put side by side by their tests; try a batch with vidact "
            "train, or a few with --trainer.limit_train_batches"
        )


def refuse_what_ends_badly(cli: Any) -> None:
    """Raise ValueError or OSError for what would stop the run at its end, with all it learned.

    The end builds the network again from what the checkpoint says of it, scores the test split (``ClipData`` tries
    its videos) and adds to results.json.
    """
    import vidact.report.page  # noqa: F401  (with what it draws with)
    from vidact.models.weights import refuse_another_network

    package = cli.config.model.init_args.network.class_path.partition(".")[0]
    refuse_another_network(cli.model.network, trust=(package,))
    run = Path(cli.config.run)
    if (run / "results.json").exists():
        load_results(run)


# ---- the other commands


def extract(args: Sequence[str]) -> None:
    """Compute once what training reads many times: the features of videos, or their optical flow."""
    if args and args[0] in ("-h", "--help"):
        print("usage: vidact extract features|flow ...\n\n  features  vectors of untrimmed videos, for detectors\n"
              "  flow      optical flow of clips, for flow and two-stream networks\n\n"
              "vidact extract features --help and vidact extract flow --help explain each.")  # fmt: skip
        raise SystemExit(0)  # as argparse does for the other commands
    if args and args[0] == "flow":
        from vidact.flow_extraction import main as flow_main

        status = flow_main(args[1:])
    else:
        from vidact.commands.extract import main as features_main

        status = features_main(args)
    if status:
        raise SystemExit(status)


def prepare(args: Sequence[str]) -> None:
    """Check a set of videos, re-encode it for fast reading, or pack it."""
    from vidact.commands.prepare import main as prepare_main

    if status := prepare_main(args):
        raise SystemExit(status)


def predict(args: Sequence[str]) -> None:
    """Name the actions of one file or of every video in a folder."""
    parser = Parser(prog="vidact predict", description="Name the actions of videos.")
    parser.add_argument(
        "path", type=Path, nargs="+", help="video files, folders of a video's images, or folders that are searched"
    )
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run, or a .safetensors that vidact saved")
    parser.add_argument("--top", type=int, default=5, help="labels a video (default 5)")
    parser.add_argument("--views", default="1x1", help="clips x crops to average, such as 10x3 (default 1x1)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--annotate", type=Path, help="write the video with its labels drawn on; a folder for several")
    parser.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
    parser.add_argument("--decoder", default="pyav", help="pyav, decord, opencv or torchcodec")
    asked = parser.parse_args(args)
    from vidact.prediction import main as predict_main  # after --help, which needs no PyTorch

    if status := predict_main(asked):
        raise SystemExit(status)


def export(args: Sequence[str]) -> None:
    """Write a network, or one step of a stream, as ONNX or torch.export."""
    from vidact.commands.export import main as export_main

    export_main(args)


def stream(args: Sequence[str]) -> None:
    """Name the actions of a camera, a file or a network stream while they happen."""
    from vidact.stream.command import main as stream_main

    if status := stream_main(args):
        raise SystemExit(status)


def serve(args: Sequence[str]) -> None:
    """Serve a web page that names the actions before a browser's camera, or of a source of this machine."""
    from vidact.stream.web.server import main as serve_main

    serve_main(args)


def fuse(args: Sequence[str]) -> None:
    """Join score files by video id."""
    from vidact.results.scores import fuse_files

    parser = Parser(prog="vidact fuse", description="Join score files by video id.")
    parser.add_argument("scores", nargs="+", type=Path, help="scores.npz of each part, or the run folders with them")
    parser.add_argument("--weights", nargs="+", type=float, help="one a part; by default all alike")
    parser.add_argument("--kind", choices=["logits", "softmax", "log_softmax"], default="logits", help="what is added")
    parser.add_argument("--out", type=Path, help="folder for the fused scores.npz and results.json")
    parser.add_argument("--search_on", nargs="+", type=Path, help="validation scores that the weights are searched on")
    parser.add_argument("--steps", type=int, default=10, help="how fine the search is")
    parser.add_argument(
        "--missing", choices=["refuse", "intersect"], default="refuse", help="if parts hold other videos"
    )
    fuse_files(**vars(parser.parse_args(args)))


def convert(args: Sequence[str]) -> None:
    """Turn a published checkpoint into a file that vidact opens."""
    from vidact.convert import main as convert_main

    convert_main(args)


def networks(args: Sequence[str]) -> None:
    """Compute the table of all clip networks."""
    parser = Parser(prog="vidact networks", description="The table of all clip networks.")
    parser.add_argument("--networks", nargs="+", help="some of them; default: all")
    parser.add_argument("--parity", type=Path, help="the folder of parity records")
    parser.add_argument("--out", type=Path, help="write a page; default: print the table")
    asked = parser.parse_args(args)
    from vidact.report.network_table import main as table_main

    table_main(asked)


def report(args: Sequence[str]) -> None:
    """Draw the plots and the page of a run folder again."""
    from jsonargparse import auto_cli

    from vidact.report.page import write_report

    print(auto_cli(write_report, args=list(args), as_positional=True, prog="vidact report"))


def doctor(args: Sequence[str]) -> None:
    """Say what is installed and what works."""
    from jsonargparse import auto_cli

    from vidact.doctor import doctor as examine

    raise SystemExit(auto_cli(examine, args=list(args), as_positional=False, prog="vidact doctor"))


def demo(args: Sequence[str]) -> None:
    """Make videos, train three networks on them, score them and write a page."""
    from jsonargparse import auto_cli

    from vidact.demo import demo as run_demo

    auto_cli(run_demo, args=list(args), as_positional=False, prog="vidact demo")


COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "train": train,
    "test": test,
    "folds": folds,
    "compare": compare,
    "extract": extract,
    "prepare": prepare,
    "predict": predict,
    "stream": stream,
    "serve": serve,
    "export": export,
    "fuse": fuse,
    "convert": convert,
    "networks": networks,
    "report": report,
    "doctor": doctor,
    "demo": demo,
}


def command_line(command: str, args: Sequence[str]) -> str:
    """What was asked, for results.json."""
    return shlex.join(["vidact", command, *map(without_secrets, args)])


def main(args: Sequence[str] | None = None) -> None:
    """Run one command. An error that the user can mend is one line and exit status 2, not a traceback."""
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    if args[0] in ("--version", "-V"):
        print(f"vidact {__version__}")
        return
    if args[0] not in COMMANDS:
        close = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        print(f"vidact: no command {without_secrets(args[0])!r}{hint} Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    quiet()
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # of the processes that train together
    if "torch" not in sys.modules and is_first:
        print(f"vidact {args[0]}: loading …", file=sys.stderr, flush=True)  # PyTorch and Lightning take seconds
    try:
        with noting_ctrl_c() as pressed, stop_in_words(pressed):
            COMMANDS[args[0]](args[1:])
    except KeyboardInterrupt as stop:
        if is_first:
            print(f"{chr(10) * sys.stderr.isatty()}stopped{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError, MemoryError, argparse.ArgumentError) as error:
        if os.environ.get("VIDACT_TRACEBACK"):
            raise
        print(
            f"vidact {args[0]}: {without_secrets(in_plain_words(str(error)))}\n(VIDACT_TRACEBACK=1 shows where)",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except Exception as error:
        if type(error).__name__ == "MisconfigurationException" and not os.environ.get("VIDACT_TRACEBACK"):
            # Lightning's, of options that it refuses
            words = without_secrets(str(error))
            print(f"vidact {args[0]}: {words}\n(VIDACT_TRACEBACK=1 shows where)", file=sys.stderr)
            raise SystemExit(2) from None
        if type(error).__name__ != "OutOfMemoryError" or os.environ.get("VIDACT_TRACEBACK"):  # torch's, of a GPU
            raise
        print(
            f"vidact {args[0]}: {error}\nthe GPU's memory is full: a smaller --data.batch_size takes less, and "
            "--model.checkpoint_blocks true trains the same network in less",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


@contextlib.contextmanager
def noting_ctrl_c() -> Iterator[list[int]]:
    """A list that Ctrl-C adds to before it interrupts, where nothing else has been made of it."""
    pressed: list[int] = []

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread():
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def stop_in_words(pressed: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt for an error after Ctrl-C: some libraries catch it while they are imported, and what they
    leave half done fails a moment later.
    """
    try:
        yield
    except Exception:
        if pressed and not os.environ.get("VIDACT_TRACEBACK"):
            raise KeyboardInterrupt from None
        raise


def in_plain_words(error: str) -> str:
    """What jsonargparse says of a wrong option, as ``option: what is wrong``; any other text as it is."""
    if error.startswith("unrecognized arguments:"):
        return error + misspelt(error.split(), OWN_OPTIONS)
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


def quiet() -> None:
    """Leave out what other packages say and a user can do nothing about."""
    import logging

    for words in ("LightningCLI's args parameter", ".*does not have many workers.*", ".*torch.jit.script.*",
                  ".*number of training batches.*", ".*log_every_n_steps.*", ".*isinstance.treespec.*",
                  ".*Checkpoint directory.*exists and is not empty.*", ".*sync_dist=True.* on epoch level.*",
                  ".*Total length of `list` across ranks is zero.*", ".*in eval mode at the start of.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message=words)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
