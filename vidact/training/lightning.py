"""The LightningCLI of training and testing, which builds everything and runs nothing.

Importing this module imports Lightning, which takes seconds, so others import it inside the function that needs it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO

from vidact.files import replacing
from vidact.records import unreadable_weights
from vidact.tasks.keeping import Best, EpochBar, EpochLines, EpochTimes, Last, as_list, make_loggers
from vidact.training.config import (
    OWN_OPTIONS,
    checkpoint_path,
    complete_options,
    expand_config,
    fill_from_data,
    only_steps,
    refuse_barebones,
    refuse_no_training,
    refuse_trial,
    relocate,
    run_folder,
    run_of_config,
    take_network,
    take_processes,
)
from vidact.training.probe_config import refuse_probe, refuse_recipe


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are complete or absent, also when the process is killed; reading one runs no code."""

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, map_location, True if weights_only is None else weights_only)
        except FileNotFoundError:
            raise
        except Exception as error:  # PyTorch's message advises running the code in the file
            raise unreadable_weights(path, error) from None

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        with replacing(path) as half:
            super().save_checkpoint(checkpoint, half, storage_options)


class OneRun(pl.Callback):
    """The callback that gives all processes the run folder that the first one named."""

    def __init__(self, cli: VidactCLI) -> None:
        self.cli = cli

    def setup(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        run = trainer.strategy.broadcast(self.cli.config.run)
        self.cli.config.run = self.cli.config.trainer.default_root_dir = run
        trainer.__dict__["_default_root_dir"] = run  # Trainer.default_root_dir reads it and cannot be set


class VidactCLI(LightningCLI):
    """A LightningCLI with vidact's run folder, loggers and checkpoints.

    Args:
        args: the options, a configuration among them.
        command: "train" or "test".
        rehearses: whether ``rehearse`` uses it, with ``trainer.fast_dev_run``, under which nothing is written.
        tests_rates: whether ``find_lr`` uses it, which needs some hundred steps without anything beside them.
    """

    def __init__(self, args: Sequence[str], command: str, rehearses: bool, tests_rates: bool) -> None:
        self.options, self.command, self.rehearses, self.tests_rates = args, command, rehearses, tests_rates
        self.run_config = run_of_config(args)
        self.weights: dict[str, Any] = {}
        super().__init__(
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

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for option in ("--run", "--ckpt", "--device"):
            parser.add_argument(option, type=str | None, help=OWN_OPTIONS[option])
        parser.add_argument("--probe", type=bool, default=True, help=OWN_OPTIONS["--probe"])

    def before_instantiate_classes(self) -> None:
        config = self.config
        network = config.model.init_args.network.init_args
        for name, value in network.items():
            if value == "None":  # jsonargparse 4.53 makes this text of a `null` two levels deep in an option
                network[name] = None
        if self.run_config is not None:
            relocate(config, self.run_config, self.options, self.command)
        if self.command == "train":
            refuse_probe(self.run_config, config.model.init_args.network.class_path)
        take_processes(config.trainer)
        config.run = config.trainer.default_root_dir = str(run_folder(config, self.command, self.tests_rates))
        if config.device is not None:
            config.trainer.accelerator = "gpu" if config.device == "cuda" else config.device
        if self.command == "test":
            take_network(config, self.options)
        refuse_barebones(config.trainer)
        if self.rehearses:
            refuse_trial(config.trainer)
            config.trainer.fast_dev_run = True
        if self.tests_rates:
            only_steps(config)
        if self.command == "train":
            refuse_no_training(config.trainer)
            if config.ckpt is not None:  # the checkpoint fills the network, so its weights need not be loaded
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
        callbacks = as_list(trainer.callbacks)
        # A bar writes to standard output; into a file, lines are written instead.
        is_file = trainer.enable_progress_bar is None and not sys.stdout.isatty()
        if not any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks):
            if is_file:
                options["enable_progress_bar"] = False
            elif trainer.enable_progress_bar is not False:
                callbacks.append(EpochBar())
        if self.command == "test":
            return self.make_trainer(**options, callbacks=callbacks, logger=False)
        options["logger"] = make_loggers(run, trainer.logger)
        if not trainer.fast_dev_run and not self.tests_rates:
            self.times = EpochLines() if is_file else EpochTimes()
            callbacks.append(self.times)
            if trainer.enable_checkpointing is not False:
                callbacks += [Best(run / "checkpoints"), Last(run / "checkpoints")]
            if options["logger"]:
                callbacks.append(pl.callbacks.LearningRateMonitor("epoch"))
            plugins = as_list(trainer.plugins)
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                plugins.append(WholeCheckpoints())
            options["plugins"] = plugins
        return self.make_trainer(**options, callbacks=callbacks)

    def make_trainer(self, **options: Any) -> pl.Trainer:
        """Make the Trainer. Raises ValueError for an impossible number of devices, where Lightning raises TypeError."""
        try:
            return super().instantiate_trainer(**options)
        except TypeError as error:
            raise ValueError(f"trainer: {error}") from error


def make_cli(args: Sequence[str], command: str, rehearses: bool = False, tests_rates: bool = False) -> VidactCLI:
    """Build everything that training or testing needs; run nothing.

    Args:
        args: the options.
        command: "train" or "test".
        rehearses: whether ``rehearse`` uses it, with ``trainer.fast_dev_run``, under which nothing is written.
        tests_rates: whether ``find_lr`` uses it, which needs some hundred steps without anything beside them.
    """
    args = complete_options(args, command)
    configs = [Path(word.partition("=")[2]) for word in expand_config(args) if word.startswith("--config=")]
    refuse_recipe(configs, args, "--find_lr" if tests_rates else f"vidact {command}")
    # Defaults of Lightning's callbacks, such as Timer's interval, are names of an enumeration: written as their text.
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))
    torch.set_flush_denormal(True)  # a CPU takes ten times longer for the denormal numbers of fresh networks
    keep_freed_memory()
    cli = VidactCLI(args, command, rehearses, tests_rates)
    callbacks: list[pl.Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.insert(0, OneRun(cli))  # before any other callback reads the folder
    return cli


def keep_freed_memory() -> None:
    """Make glibc keep freed memory (measured in benchmarks/allocation.py).

    Activations have the same sizes at every step, and the system clears each returned block, page by page, when it is
    allocated again.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_max, 0)
