"""Options by typed functions: the parameters of a function are the options of a command, its docstring their help.

Importing this module imports jsonargparse, which takes a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_cli, auto_parser

from vidact.text.addresses import without_secrets
from vidact.text.spelling import misspelt, with_underscores
from vidact.training.config import in_plain_words


class Form(ArgumentParser):
    """A parser of options that are written with ``_`` or ``-``.

    Its errors hide the secrets of addresses, and name the option that a misspelt one resembles.
    """

    _args: Sequence[str] = ()

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **settings: Any) -> Any:  # type: ignore[override]
        self._args = with_underscores(args or [])
        return super().parse_args(self._args, *others, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not message.startswith("unrecognized arguments"):
            message = in_plain_words(message)
        super().error(without_secrets(message + misspelt(self._args, list(self._option_string_actions))), ex)


def parser_of(function: Callable[..., Any], prog: str, as_positional: bool = False) -> ArgumentParser:
    """Return a parser whose options are the parameters of a typed function."""
    return auto_parser(function, prog=prog, as_positional=as_positional, parser_class=Form)


def call(function: Callable[..., Any], args: Sequence[str], prog: str, as_positional: bool = False) -> Any:
    """Call a typed function with the values of the options ``args``, and return what it returns."""
    return auto_cli(function, args=list(args), prog=prog, as_positional=as_positional, parser_class=Form)
