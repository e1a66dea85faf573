"""``vidact push``: a run becomes a repository of the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from vidact.commands.options import Parser


def parser() -> Parser:
    """Return the parser of the command: written by hand, since some options have no value."""
    parser = Parser(
        prog="vidact push",
        description="Upload the weights of a finished run with its configuration, its figures and a model card; "
        "`vidact predict --checkpoint hf://owner/name` then opens it. Local paths and names of clips are left out.",
    )
    parser.add_argument("run", type=Path, help="the folder of a run of train or probe")
    parser.add_argument("address", help="hf://owner/name, or hf://owner/name@branch")
    parser.add_argument("--licence", "--license", metavar="NAME", help="such as apache-2.0 or cc-by-nc-4.0; needed")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--data_name", help="what the card calls the data; default: the name of their folder")
    parser.add_argument("--dry_run", action="store_true", help="write the files to RUN/push, and upload nothing")
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact push``, and print what was written and where it can be read."""
    options = parser().parse_args(args)
    from vidact.hub.huggingface import is_address, parse
    from vidact.report.publication import CARD, MARK, WEIGHTS, assemble

    if not is_address(options.address):
        raise ValueError(f"{options.address} is no address of the hub; write hf://owner/name")
    address = parse(options.address)
    if address.file is not None:
        raise ValueError(f"{address} names a file; give the repository, hf://{address.repository}")
    if options.dry_run:
        publication = assemble(options.run, address, options.licence, options.run / "push", options.data_name)
        for remark in publication.remarks:
            print(f"note: {remark}")
        for name in publication.files:
            print(f"{publication.folder / name}: {(publication.folder / name).stat().st_size / 1e6:,.2f} MB")
        print(f"nothing was uploaded; without --dry_run these files go to {address}")
        return
    from vidact.hub.upload import upload

    with tempfile.TemporaryDirectory(prefix="vidact-push-") as temporary:
        publication = assemble(options.run, address, options.licence, Path(temporary), options.data_name)
        for remark in publication.remarks:
            print(f"note: {remark}")
        commit, files, has_others = upload(
            publication.folder, address, publication.files, options.private, {CARD: MARK}
        )
    print(f"pushed {', '.join(files)}: {commit}")
    if CARD not in files:
        print(f"note: {CARD} of the repository is not vidact's and was kept; --dry_run writes the new card to RUN/push")
    print(f"vidact predict --checkpoint {f'{address}/{WEIGHTS}' if has_others else address} clip.mp4")
