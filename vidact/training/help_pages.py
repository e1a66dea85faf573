"""The help of training and testing: a first page of general options, and a page for each part of a configuration.

The first page imports nothing that takes time; the pages of the parts import the classes that they explain.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import textwrap
from collections.abc import Sequence
from typing import Any

from vidact.text.spelling import in_one_spelling
from vidact.training.config import OWN_OPTIONS, RECIPES, find_config

ABOUT = {
    "train": "Train a network on videos, score it on the test split and write its report.",
    "test": "Score a trained network on the test split and write the report.",
}
EXAMPLES = {
    "train": "vidact train --data.root my_clips",
    "test": "vidact test --config runs/x/config.yaml --ckpt best --data.views 10x3",
}
GENERAL = {
    "--config NAME": OWN_OPTIONS["--config"],
    "--data.root FOLDER": "the folder of the data. vidact train without --config takes the recipe that fits it",
    "--ckpt NAME": OWN_OPTIONS["--ckpt"],
    "--run FOLDER": OWN_OPTIONS["--run"],
    "--device DEVICE": OWN_OPTIONS["--device"],
    "--probe false": "leaves out the linear probe, whose figure is printed beside that of the test",
    "--find_lr": "tests learning rates instead of training, draws their losses and suggests one",
    "--seed_everything N": OWN_OPTIONS["--seed_everything"],
    "--print_config": OWN_OPTIONS["--print_config"],
    "--help [PAGE]": OWN_OPTIONS["--help"],
}
TRAINER = {
    "--trainer.max_epochs N": "passes over the training data",
    "--trainer.max_time TIME": "the longest time of training, DD:HH:MM:SS",
    "--trainer.devices N": "devices that train together; default: all of the chosen kind",
    "--trainer.num_nodes N": "machines that train together",
    "--trainer.precision NAME": "numbers of the computation: 32-true, 16-mixed or bf16-mixed",
    "--trainer.accumulate_grad_batches N": "batches whose gradients make one step",
    "--trainer.gradient_clip_val X": "the greatest norm of the gradients",
    "--trainer.check_val_every_n_epoch N": "epochs from one validation to the next",
    "--trainer.limit_train_batches N": "batches of an epoch: a number, or a share such as 0.1",
    "--trainer.limit_test_batches N": "batches of a test: a number, or a share; 0 leaves the test out",
    "--trainer.enable_progress_bar false": "no progress bar",
    "--trainer.fast_dev_run true": "one batch of everything, and nothing is kept",
}
PAGES = {
    "data": "options --data.*: which clips or sequences, how they are split, sampled, augmented and batched",
    "model": "options --model.*: the loss, the optimiser and its schedule; --model.network.*: the network",
    "trainer": "options --trainer.*: all of Lightning's Trainer",
}


def help_page(command: str, args: Sequence[str]) -> str | None:
    """Return the page for ``--help``, ``--help data``, ``--help model`` or ``--help trainer`` in ``args``.

    Returns None where ``args`` contain none of them. Raises ValueError for a page that does not exist.
    """
    args = in_one_spelling(args)
    args = args[: args.index("--")] if "--" in args else args
    position = next((i for i, word in enumerate(args) if word.partition("=")[0] in ("-h", "--help")), None)
    if position is None:
        return None
    page = args[position].partition("=")[2]
    others = [*args[:position], *args[position + 1 :]]
    if not page and position + 1 < len(args) and not args[position + 1].startswith("-"):
        page = others.pop(position)
    if not page:
        return first_page(command)
    if page not in PAGES:
        close = difflib.get_close_matches(page, PAGES, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise ValueError(f"there is no help page {page!r}{hint} The pages are {', '.join(PAGES)}")
    return page_of_trainer(command) if page == "trainer" else page_of_part(command, page, others)


def first_page(command: str) -> str:
    """Return the general options, and how the others are listed."""
    return "\n".join(
        [
            f"usage: vidact {command} [--config NAME] [--data.root FOLDER] [options]\n",
            ABOUT[command],
            f"\n  {EXAMPLES[command]}",
            "\ngeneral options:",
            *_table(GENERAL),
            "\nthe usual ones of the Trainer:",
            *_table(TRAINER),
            "\nall others, with their defaults and what they do:",
            *_table({f"vidact {command} --help {page}": text for page, text in PAGES.items()}),
            "",
            *textwrap.wrap(
                f"The pages data and model explain the classes of the configuration that is named with them, as in "
                f"vidact {command} --config online/fir/miniroad --help data; without one, those of clips. "
                f"vidact {command} --data.help and --model.help list the options of all classes, and --model.help "
                "CLASS explains any class. A - in the name of an option is read as _.",
                100,
            ),
        ]
    )


def page_of_part(command: str, part: str, args: Sequence[str]) -> str:
    """Return the options of the data or the model that the configuration among ``args`` names, with their defaults."""
    names, section = configured(part, args)
    sections = [(part, section)]
    if part == "model" and (network := (section.get("init_args") or {}).get("network")):
        sections.append((f"{part}.network", {"class_path": network} if isinstance(network, str) else network))
    source = f"configuration {', '.join(names)}"
    if not any(word.partition("=")[0] in ("--config", "-c") for word in args):
        source = f"{source}, as none is named"
    lines = [f"Options of vidact {command} for the {part}, with the defaults of its classes ({source}).", ""]
    for prefix, values in sections:
        lines.append(f"{values['class_path']}, as --{prefix}.*")
        if values.get("init_args"):
            settings = ", ".join(f"{name} {_short(value)}" for name, value in values["init_args"].items())
            lines += textwrap.wrap(
                f"The configuration sets {settings}.", 100, initial_indent="  ", subsequent_indent="  "
            )
        lines += ["", _options_of(values["class_path"], prefix), ""]
    return "\n".join(lines).rstrip()


def page_of_trainer(command: str) -> str:
    """Return the options of Lightning's Trainer."""
    return (
        f"Options of vidact {command} for the trainer, with Lightning's defaults.\n\n"
        f"{_options_of('lightning.pytorch.Trainer', 'trainer')}"
    )


def configured(part: str, args: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the configurations that ``args`` name, and what they and ``args`` set of ``part``: class_path, init_args.

    Without a configuration it is the recipe for folders of clips.
    """
    import yaml

    pairs = [
        (option, value if equals else following)
        for (option, equals, value), following in zip(
            (word.partition("=") for word in args), [*args[1:], ""], strict=False
        )
    ]
    names = [value for option, value in pairs if option in ("--config", "-c")] or [next(iter(RECIPES))]
    section: dict[str, Any] = {"init_args": {}}
    for name in names:
        content = yaml.safe_load(find_config(name).read_text(encoding="utf-8"))
        values = content.get(part) if isinstance(content, dict) else None
        if isinstance(values, dict):
            if values.get("class_path", section.get("class_path")) != section.get("class_path"):
                section = {"class_path": values["class_path"], "init_args": {}}
            section["init_args"].update(values.get("init_args") or {})
    for option, value in pairs:
        if option in (f"--{part}", f"--{part}.class_path"):
            section = {"class_path": value, "init_args": {}}
        if part == "model" and option in ("--model.network", "--model.network.class_path"):
            section["init_args"]["network"] = {"class_path": value}
    if "class_path" not in section:
        raise ValueError(f"{', '.join(names)} names no {part}, whose options could be listed; name one with --{part}")
    return names, section


def _options_of(class_path: str, prefix: str) -> str:
    """Return the options of a class, or of a function that builds a network, as jsonargparse explains them."""
    from jsonargparse import ArgumentParser

    module, _, name = class_path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{class_path} cannot be imported: {error}; give a class's full name") from error
    parser = ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    if isinstance(target, type):
        parser.add_class_arguments(target, prefix, fail_untyped=False)
    else:
        parser.add_function_arguments(target, prefix, fail_untyped=False)
    return parser.format_help().strip()


def _table(rows: dict[str, str]) -> list[str]:
    """Return rows of two columns."""
    width = max(map(len, rows))
    return [f"  {name:{width}}  {text}" for name, text in rows.items()]


def _short(value: Any) -> str:
    """Return a value of a configuration as text: for a class its name."""
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    return str(value)
