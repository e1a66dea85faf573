"""``vidact serve``: a page that names actions before a browser's camera, or of a source of this machine."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vidact.commands.options import Parser, add_device, add_runtime
from vidact.commands.stream import STREAMED_BY, add_horizon, demo_model, events_at, open_model, refuse_torch
from vidact.stream.grabs import SourceError
from vidact.stream.web.limits import Limits
from vidact.text.addresses import name_of, public


def name_sources(sources: Sequence[str]) -> dict[str, str]:
    """Return the addresses by the names that clients see; each of ``sources`` is an address, or ``name=address``.

    The name of an address without one is its file's, its host and path, or its camera's number, so that clients see no
    passwords and no folders of this machine. Raises for a path that does not exist and for other kinds of URL.
    """
    from vidact.stream.sources import EMPTY, is_live_address, refuse_address

    named: dict[str, str] = {}
    for text in sources:
        word, equals, rest = text.partition("=")
        is_named = bool(equals) and not Path(text).exists() and not re.search(r"[/\\:?]", word)
        name, address = (word.strip(), rest) if is_named else ("", text)
        if not address.strip():
            raise SourceError(EMPTY)
        if not is_live_address(address) and not Path(address).exists():
            raise FileNotFoundError(
                f"{public(address)} does not exist; a source is a camera's number (0), a file, a folder, or a URL such "
                "as rtsp://…, and may have a name before it: lobby=rtsp://…"
            )
        if "://" in address:
            refuse_address(address)
        if not name and "://" in address:
            name = name_of(address)
        elif not name:
            name = f"camera {address}" if address.isdigit() else Path(address).resolve().name
        if name in named:
            raise ValueError(f"two sources are called {name}; name them apart: --source left={public(address)}")
        named[name] = address
    return named


def parser() -> Parser:
    """Return the parser of the command: written by hand, since some options are repeated."""
    parser = Parser(
        prog="vidact serve",
        description="Serve a page that names the actions before a browser's camera, in a file or before a camera here.",
        epilog="Prometheus reads /metrics; /healthz says whether it runs. VIDACT_TOKEN sets the token, too.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="best.ckpt of a run, a .safetensors or .onnx that vidact saved, a published network that streams, or "
        "hf://owner/name; default: the demo's",
    )
    parser.add_argument(
        "--source", action="append", default=[], metavar="[NAME=]SOURCE",
        help="a source of the page, beside the browser's camera: a camera's number, a file, a folder, or rtsp://, "
        "http:// …; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--insecure_source", action="append", default=[], metavar="NAME",
        help="one of the https or rtsps sources, whose certificate is not checked",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", help="default %(default)s: this machine only; 0.0.0.0: every machine"
    )
    parser.add_argument("--port", type=int, default=8000, help="default %(default)s")
    parser.add_argument(
        "--token",
        help="the password of the page, 16 characters or more; beyond this machine, one is made if none is given",
    )
    parser.add_argument("--certfile", type=Path, help="HTTPS: the certificate, PEM")
    parser.add_argument("--keyfile", type=Path, help="HTTPS: its key, PEM")
    parser.add_argument(
        "--allow_origin", action="append", default=[], metavar="ORIGIN",
        help="another origin of the page, such as https://example.org behind a proxy",
    )  # fmt: skip
    parser.add_argument(
        "--proxy", action="store_true",
        help="all requests come through a proxy, which sets X-Forwarded-For and X-Forwarded-Proto",
    )  # fmt: skip
    parser.add_argument(
        "--sessions", type=int, default=Limits.sessions, help="the most sessions at the same time (default %(default)s)"
    )
    parser.add_argument("--threshold", type=float, help="probability at which an event begins; default: as tuned")
    add_horizon(parser)
    parser.add_argument(
        "--extractor", type=Path, help="the extractor.safetensors of features, if not in the checkpoint"
    )
    add_device(parser)
    add_runtime(parser, STREAMED_BY)
    return parser


def main(args: Sequence[str]) -> None:
    """Run ``vidact serve``."""
    options = parser().parse_args(args)
    from vidact.device import refuse_device  # after --help, which needs no PyTorch
    from vidact.stream.sources import without_certificates
    from vidact.stream.web.server import refuse_access, refuse_certificate, refuse_taken_port, serve

    if options.sessions < 1:
        raise ValueError(f"--sessions is {options.sessions}; at least one is needed")
    refuse_device(options.device)
    events = events_at(options.threshold)
    sources = name_sources(options.source)
    insecure = without_certificates(options.insecure_source, sources)
    token = options.token or os.environ.get("VIDACT_TOKEN")
    refuse_access(token, options.allow_origin)  # before a network is opened, which may be downloaded first
    refuse_certificate(options.certfile, options.keyfile)
    refuse_taken_port(options.host, options.port)
    checkpoint = options.checkpoint
    if checkpoint is None:
        checkpoint, demo_sources = demo_model()
        print(f"no --checkpoint was given; this is the demo's: {checkpoint}")
        sources = sources or demo_sources
    refuse_torch(checkpoint, options.runtime)
    log_lines()
    serve(
        open_model(
            checkpoint,
            options.runtime,
            extractor=options.extractor,
            events=events,
            horizon_s=options.horizon,
            restart_s=options.restart,
            device=options.device,
        ),
        sources,
        host=options.host,
        port=options.port,
        token=token,
        certfile=options.certfile,
        keyfile=options.keyfile,
        allow_origins=options.allow_origin,
        insecure=insecure,
        proxy=options.proxy,
        limits=Limits(sessions=options.sessions),
    )


def log_lines() -> None:
    """Print the messages of the server and its sources, a line each.

    The engine's are about streams that clients begin and end, as many as they like, so they are left out.
    """
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("vidact.stream").setLevel(logging.ERROR)
    for name in ("server", "sources"):
        logging.getLogger(f"vidact.stream.{name}").setLevel(logging.INFO)
