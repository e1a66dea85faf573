"""What a run leaves behind: its figures (results.json), the scores of clips and the timelines of untrimmed videos."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidact.results.figures import command_line, load_results, save_results
    from vidact.results.scores import Scores, fuse, fuse_files, load_scores
    from vidact.results.timelines import Timelines, load_timelines

__all__ = [
    "Scores",
    "Timelines",
    "command_line",
    "fuse",
    "fuse_files",
    "load_results",
    "load_scores",
    "load_timelines",
    "save_results",
]

_HOMES = {
    "command_line": "figures",
    "load_results": "figures",
    "save_results": "figures",
    "Scores": "scores",
    "fuse": "scores",
    "fuse_files": "scores",
    "load_scores": "scores",
    "Timelines": "timelines",
    "load_timelines": "timelines",
}


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
