"""Every option of every command: both spellings, and what a misspelt one resembles."""

import argparse
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
import pytest

from vidact import cli
from vidact.commands import convert
from vidact.commands.options import Parser
from vidact.convert import arguments_of, reference
from vidact.models.weights import REFERENCES
from vidact.text.spelling import in_one_spelling, with_underscores
from vidact.training.config import PARTS, all_options

TRAINING = ("train", "test")  # whose parser is Lightning's
ParserOf = argparse.ArgumentParser


def parsers() -> Iterator[tuple[list[str], ParserOf]]:
    """The parser of every command and sub-command, with the words that lead to it."""
    for command in cli.COMMANDS:
        if command in TRAINING:
            continue
        parser = importlib.import_module(f"vidact.commands.{command}").parser()
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for name, inner in groups[0].choices.items() if groups else ():
            yield [command, name], inner
        if not groups:
            yield [command], parser
    for origin in sorted(REFERENCES):
        yield ["convert", "--origin", origin], convert.parser_of_origin(origin, arguments_of(reference(origin)))


class Option(NamedTuple):
    command: str  # with the words that lead to its parser
    parser: ParserOf
    action: argparse.Action
    name: str


@pytest.fixture(scope="module")
def options() -> list[Option]:
    return [
        Option(" ".join(path), parser, action, name)
        for path, parser in parsers()
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--") and not name.endswith("+") and name != "--help"
    ]


def words_of(action: argparse.Action, name: str) -> list[str]:
    """The option with a value that it takes."""
    if action.nargs == 0:
        return [name]
    if getattr(action, "_typehint", None) is bool:
        return [name, "true"]
    literals = re.findall(r"Literal\['(\w+)'", str(getattr(action, "_typehint", "")))
    return [name, str(next(iter(action.choices or literals), "1"))]


def required(parser: ParserOf, but: argparse.Action) -> list[str]:
    """The words without which the parser takes nothing, all but those of one option."""
    names = getattr(parser, "required_args", set())
    words = []
    for action in parser._actions:
        if action is but or not (action.required or action.dest in names):
            continue
        words += words_of(action, action.option_strings[0]) if action.option_strings else ["1"]
    return words


def parsed(command: str, parser: ParserOf, words: Sequence[str]) -> dict[str, Any]:
    try:
        values = vars(parser.parse_args(list(words)))
    except SystemExit:
        pytest.fail(f"{command} refuses {' '.join(words)}")
    return {name: value for name, value in values.items() if "config" not in name}


def status_of(parser: ParserOf, words: Sequence[str]) -> Any:
    """The status with which the parser ends the program; 0 where it does not."""
    try:
        parser.parse_args(list(words))
    except SystemExit as stop:
        return stop.code
    return 0


def test_all_commands_are_here(options: list[Option]) -> None:
    commands = {option.command.split()[0] for option in options}
    assert commands | set(TRAINING) == set(cli.COMMANDS)
    assert len(options) > 150


def test_an_option_is_written_with_underscores_and_read_with_hyphens_too(options: list[Option]) -> None:
    for command, parser, action, name in options:
        assert isinstance(parser, Parser | jsonargparse.ArgumentParser), command
        assert re.fullmatch(r"--[a-z0-9_]+", name), f"{command} {name}"
        if name in ("--config", "--print_config"):  # jsonargparse's own, which read a file and end the program
            continue
        spelt = [words_of(action, spelling) for spelling in (name, f"--{name[2:].replace('_', '-')}")]
        first, second = (parsed(command, parser, [*required(parser, action), *words]) for words in spelt)
        assert first == second, f"{command} {name}"
        assert action.dest in first, f"{command} {name}"


def test_a_misspelt_option_is_named_with_the_one_that_it_resembles(
    options: list[Option], capsys: pytest.CaptureFixture[str]
) -> None:
    for command, parser, action, name in options:
        wrong = f"{name[:4]}{name[3]}{name[4:]}"
        status = status_of(parser, [*required(parser, action), *words_of(action, wrong)])
        assert status == 2, f"{command} {wrong}"
        assert f"there is no {wrong}; did you mean {name}?" in capsys.readouterr().err, f"{command} {wrong}"


def test_the_options_of_training_are_read_in_both_spellings_and_misspelt_ones_are_named() -> None:
    from vidact.training.config import in_plain_words

    names = all_options()
    assert {"--trainer.max_epochs", "--data.batch_size", "--data.window", "--model.label_smoothing"} <= set(names)
    for name in names:
        assert in_one_spelling([f"--{name[2:].replace('_', '-')}=a-b"]) == [f"{name}=a-b"]
        wrong = f"{name[:4]}{name[3]}{name[4:]}"
        assert in_plain_words(f"unrecognized arguments: {wrong}=1").endswith(f"did you mean {name}?")


@pytest.mark.parametrize(
    ("command", "wrong", "meant"),
    [
        ("extract features --videos x --out y --rgb_inndex 3", "--rgb_inndex", "--rgb_index"),
        ("prepare transcode --data x --out y --shrot-side 200", "--shrot_side", "--short_side"),
        ("folds --config x --num-flods 3", "--num_flods", "--num_folds"),
        ("compare --config x --sedes 3", "--sedes", "--seeds"),
        ("convert --origin tsm --fiel x", "--fiel", "--file"),
        ("convert --origin tsm --file x --out y --non-loacl true", "--non_loacl", "--non_local"),
    ],
)
def test_a_misspelt_option_is_told_under_the_usage_of_its_own_command(
    command: str, wrong: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(command.split())
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert f"there is no {wrong}; did you mean {meant}?" in message
    usage = [word for word in command.split()[:2] if not word.startswith("-")]
    assert f"usage: vidact {' '.join(usage)}" in message


def test_a_wrong_value_of_a_typed_function_is_refused_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", "--checkpoint", "x", "--out", "y", "--what", "clop"])
    assert stopped.value.code == 2
    assert "--what: expected 'clip', 'step', 'video', 'extractor'; it is 'clop'" in capsys.readouterr().err


def test_values_and_what_follows_two_hyphens_stay_as_they_are() -> None:
    words = ["--rgb-index=a-b", "my-clips", "-x-y", "--a b-c", "--", "--a-b"]
    assert with_underscores(words) == ["--rgb_index=a-b", "my-clips", "-x-y", "--a b-c", "--", "--a-b"]


def test_the_spellings_of_old_scripts_are_read(tmp_path: Path) -> None:
    from vidact.commands import extract, serve, stream

    assert extract.parser().parse_args(["features", "--videos", "x", "--out", "y", "--rgb-index", "3"]).rgb_index == 3
    assert stream.parser().parse_args(["--no-window", "--longest-gap", "2"]).longest_gap == 2
    assert serve.parser().parse_args(["--allow-origin", "https://a-b.org"]).allow_origin == ["https://a-b.org"]


def test_the_parts_of_training_are_those_whose_options_are_known() -> None:
    assert {name.split(".")[0][2:] for name in all_options() if "." in name} == {*PARTS, "trainer"}
