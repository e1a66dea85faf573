"""Live streams: a checkpoint turns frames of cameras, files and browsers into scores and events."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

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

__getattr__, __dir__ = late_names(__name__, _HOMES)
