"""The results of a run: its figures (results.json), the scores of clips and the timelines of untrimmed videos."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

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

__getattr__, __dir__ = late_names(__name__, _HOMES)
