"""Live: frames of cameras, files and browsers in, answers out, by one checkpoint."""

from vidact.stream.engine import Engine, StreamModel, StreamUpdate, load_model, run, run_many
from vidact.stream.sources import Grab, PushSource, Source, SourceError, open_source

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
