"""The parser of the commands' options: one spelling, and close matches for misspelt ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from vidact.text.addresses import without_secrets
from vidact.text.spelling import misspelt


class Parser(argparse.ArgumentParser):
    """Options of a command, whose errors show the addresses among them without their secrets, and name the option that
    a misspelt one resembles.
    """

    _words: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(without_secrets(message + misspelt(self._words, self._known())))

    def _known(self) -> list[str]:
        """Its options, and those of the command among its words."""
        known = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name in {*action.choices} & {*self._words}:
                    known += action.choices[name]._known()
        return known
