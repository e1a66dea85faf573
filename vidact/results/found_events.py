"""The tables of events in a run folder: the detections of a test with their scores, and the true events beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from vidact.events import Detection
from vidact.files import replacing
from vidact.metrics.event_ap import TimedLabel

EVENTS, TRUE_EVENTS = "events.csv", "true_events.csv"
COLUMNS = ("video", "start_s", "end_s", "label", "score")


def save_found(path: Path, found: Iterable[TimedLabel]) -> Path:
    """Write an events.csv, for detections with a column ``score``; the events of a video are sorted by their starts."""
    events = sorted(found, key=lambda event: (event.video, event.start_s, -getattr(event, "score", 0.0)))
    has_scores = not events or hasattr(events[0], "score")
    with replacing(path) as half, half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS if has_scores else COLUMNS[:-1])
        for event in events:
            row = [event.video, round(event.start_s, 4), round(event.end_s, 4), event.label]
            writer.writerow([*row, round(event.score, 5)] if has_scores else row)  # type: ignore[attr-defined]
    return path


def load_found(path: Path) -> list[Detection]:
    """Read a table of ``save_found``; events without a score get 1. Raises ValueError for another content."""
    events = []
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                times_s = float(row["start_s"]), float(row["end_s"])
                events.append(Detection(row["video"], *times_s, row["label"], float(row.get("score") or 1.0)))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} line {line} is no event ({error}); run `vidact test` again") from None
    return events
