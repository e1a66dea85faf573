"""The reader and writer of results.json: the figures of a run by name, with the commands that made them.

{"test": {"test_top1": 0.95, "views": "1x1"}, "command": "vidact test …", "commands": {"vidact test …": ["test"]}}

A name holds one figure, or a section: the figures that one tool writes together.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from vidact.files import write_json
from vidact.records import RESULTS, check, parse
from vidact.text.addresses import without_secrets

# The names of figures where people read them. A figure that is not listed gets its own name, with its underscores
# replaced by blanks.
DISPLAY_NAMES = {
    "map": "mAP",
    "mcap": "calibrated mAP",
    "chance": "accuracy of a guess",
    "chance_map": "mAP of a guess",
    "majority": "accuracy of always answering the most frequent class",
    "probe": "accuracy of a linear probe on the network before training",
    "probe_verdict": "verdict beside that probe",
    "majority_class": "most frequent class",
    "event_map": "event mAP",
    "event_map_blind": "event mAP of events of usual length side by side",
    "event_f1": "event F1",
    "edit": "edit score of segments",
    **{f"f1_{percent}": f"F1@{percent} of segments" for percent in (10, 25, 50)},
    "edit_with_background": "edit score, the background counted",
    **{f"f1_{percent}_with_background": f"F1@{percent}, the background counted" for percent in (10, 25, 50)},
    "min_score": "least score of the events to show",
    "event_f1_at_0.5": "event F1 with every threshold at 0.5",
    "event_f1_always_on": "event F1 of every class all the time",
    "events_true": "events that there are",
    "events_found": "events detected",
    "event": "event mAP at each temporal overlap",
    "tiou_map": "interpolated event mAP",
    "tiou": "interpolated event mAP at each temporal overlap",
    "tiou_classes": "interpolated event mAP of each class",
    "recall_1x": "recall of as many detections as events",
    "recall_5x": "recall of five times as many detections",
    "proposal_recall": "recall of the best detections of each video, whatever their class",
    "start": "start mAP within each distance",
    "start_map": "start mAP",
    "portion": "calibrated mAP in each tenth of the actions",
    "portion_mcap": "calibrated mAP over tenths of the actions",
    "anticipation": "mAP of answers about later tokens",
    "anticipation_map": "anticipation mAP",
    "delay_s": "median delay, seconds",
    "answers_late_s": "answers come late by, seconds",
    "missed": "share of the events that were never detected",
    "false_alarms_per_hour": "false alarms an hour",
    "tokens_per_second": "tokens a second",
    "seconds": "seconds of the test",
    "seconds_per_epoch": "seconds an epoch",
    "f1_at_default": "F1 at the default for all",
    "f1": "F1",
    "ap": "average precision",
    "cap": "calibrated average precision",
    "on": "turns on at",
    "off": "turns off below",
    "min_seconds": "shortest event, seconds",
    "merge_seconds": "longest gap inside an event, seconds",
    "exclusive": "one class at a time",
    "chosen": "epoch in best.ckpt",
    "of": "of so many epochs",
    "by": "chosen by",
    "validated": "clips or videos that were validated",
}


def in_words(name: str) -> str:
    """Return the readable name of a figure of results.json: "test_top1" is "top-1", and "test_map" is "mAP"."""
    plain = re.sub(r"^(test|val|train)_", "", name)
    if plain in DISPLAY_NAMES:
        return DISPLAY_NAMES[plain]
    if match := re.fullmatch(r"(mean|std|min|max)[_ ](.+)", plain):
        short = {"mean": "mean", "std": "spread of", "min": "least", "max": "greatest"}
        return f"{short[match[1]]} {in_words(match[2])}" if match[2] != "class_accuracy" else "mean class accuracy"
    return re.sub(r"\btop(\d+)\b", r"top-\1", plain).replace("_", " ")


def save_results(run: Path | str, figures: dict[str, Any], command: str, **extra: Any) -> Path:
    """Add ``figures`` (values or sections by name) and ``extra`` facts to the run's results.json; create the folder.

    A name that exists is replaced, a section as a whole, so that all of it comes from one command; other names stay.
    Each name is listed in ``commands`` under the command that made it. NaN and infinity, which JSON does not have,
    become null. Returns the path of the file; raises ValueError for a figure called "command" or "commands".
    """
    new = _plain(figures | extra)
    if reserved := {"command", "commands"} & set(new):
        raise ValueError(f"no figure can be called {min(reserved)!r}: results.json keeps the command under that name")
    path = Path(run) / "results.json"
    old = load_results(run) if path.exists() else {}
    commands = old.pop("commands", {})
    commands = {by: [name for name in names if name not in new] for by, names in commands.items()}
    commands[command] = commands.pop(command, []) + list(new)
    commands = {by: names for by, names in commands.items() if names}
    write_json(path, {**old, **new, "command": command, "commands": commands})
    return path


def load_results(run: Path | str) -> dict[str, Any]:
    """Return the content of the run's results.json: figures and sections, the newest ``command``, and ``commands``."""
    path = Path(run) / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `vidact test` writes it")
    advice = "mend it, or delete it and test the run again"
    results = parse(path.read_bytes(), path, advice)
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds no figures by name; delete it and test the run again")
    return check(results, RESULTS, path)


def command_line() -> str:
    """Return the command of this process as it would be typed in its working folder, without secrets in addresses."""
    script, arguments = Path(sys.argv[0]), sys.argv[1:]
    if script.name == "__main__.py":
        command = ["python", "-m", script.parent.name]
    elif script.suffix == ".py":
        inside = script.is_absolute() and script.is_relative_to(Path.cwd())
        command = ["python", str(script.relative_to(Path.cwd()) if inside else script)]
    else:
        command = [script.name or "python"]
    return shlex.join(command + [without_secrets(word) for word in arguments])


def _plain(value: Any) -> Any:
    """Convert ``value`` to what JSON can hold; numpy and torch numbers and arrays become Python's."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
