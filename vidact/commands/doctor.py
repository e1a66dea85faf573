"""``vidact doctor``: what is installed and what works."""

from collections.abc import Sequence


def main(args: Sequence[str]) -> int:
    from jsonargparse import auto_cli

    from vidact.doctor import doctor

    return int(auto_cli(doctor, args=list(args), as_positional=False, prog="vidact doctor"))
