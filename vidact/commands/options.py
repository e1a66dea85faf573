"""The parser of the commands' options: one spelling, and close matches for misspelt ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from vidact.runtimes.choices import RUNTIMES
from vidact.text.addresses import without_secrets
from vidact.text.spelling import misspelt, with_underscores
from vidact.video.decoder_names import DECODER_NAMES


class Parser(argparse.ArgumentParser):
    """A parser of options that are written with ``_`` or ``-``.

    Its errors hide the secrets of addresses, and name the option that a misspelt one resembles.
    """

    _args: Sequence[str] = ()

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        options, others = self.parse_known_args(args, namespace)
        if others:
            self._chosen(options).error(f"unrecognized arguments: {' '.join(others)}")
        return options

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._args = with_underscores(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._args, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(without_secrets(message + misspelt(self._args, list(self._option_string_actions))))

    def refuse_misspelt(self, others: Sequence[str], options_of_others: Sequence[str]) -> None:
        """Exit where one of the ``others`` is none of their options, and resembles one of this parser's."""
        wrong = [word for word in others if word.partition("=")[0] not in options_of_others]
        if misspelt(wrong, list(self._option_string_actions)):
            self.error(f"unrecognized arguments: {' '.join(wrong)}")

    def _chosen(self, options: argparse.Namespace) -> argparse.ArgumentParser:
        """Return the parser of the chosen sub-command, whose usage explains more than that of the group."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices[getattr(options, action.dest)]
        return self


def one_of(names: Sequence[str]) -> str:
    """Return names as the end of a sentence.

    >>> one_of(["a", "b", "c"])
    'a, b or c'
    """
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device, whose value ``vidact.device.refuse_device`` checks."""
    parser.add_argument("--device", help="cpu, cuda or mps; default: the best there is")


def add_runtime(parser: argparse.ArgumentParser, auto: str) -> None:
    """Add --runtime, whose default is auto; the help describes this choice by ``auto``."""
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default=RUNTIMES[0],
        help=f"PyTorch (torch), ONNX Runtime (onnx, quicker on CPUs), or {auto} (auto, the default)",
    )  # fmt: skip


def add_decoder(parser: argparse.ArgumentParser) -> None:
    """Add --decoder."""
    parser.add_argument("--decoder", default=DECODER_NAMES[0], help=f"{one_of(DECODER_NAMES)} (default %(default)s)")
