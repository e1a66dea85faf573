"""Live: frames of cameras, files and browsers in, answers out, by one checkpoint."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidact.stream.engine import Engine, StreamUpdate, run, run_many
    from vidact.stream.grabs import Grab, Source, SourceError
    from vidact.stream.live import PushSource
    from vidact.stream.model import StreamModel, load_model
    from vidact.stream.sources import open_source

__all__ = [
    "Engine",
    "Grab",
    "PushSource",
    "Source",
    "SourceError",
    "StreamModel",
    "StreamUpdate",
    "load_model",
    "open_source",
    "run",
    "run_many",
]

_HOMES = {
    "Engine": "engine",
    "StreamUpdate": "engine",
    "run": "engine",
    "run_many": "engine",
    "Grab": "grabs",
    "Source": "grabs",
    "SourceError": "grabs",
    "PushSource": "live",
    "StreamModel": "model",
    "load_model": "model",
    "open_source": "sources",
}


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
