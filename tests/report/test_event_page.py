"""The page of an offline network's test: figures of its events in words, and pictures of its videos."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidact.data.event_list import Event
from vidact.events import Detection
from vidact.report.page import write_report
from vidact.results.figures import save_results
from vidact.results.found_events import load_found, save_found

TRUTH = [Event("a/x", 0, 10, "walk"), Event("a/x", 20, 24, "fall"), Event("y", 5, 9, "ambiguous")]
FOUND = [
    Detection("a/x", 1, 10, "walk", 0.9),
    Detection("a/x", 28, 30, "fall", 0.8),
    Detection("a/x", 3, 4, "fall", 0.1),
]
FIGURES = {
    "test_verdict": "", "test_event_map": 0.5, "test_event": {"tIoU 0.5": 0.5}, "test_tiou_map": 0.55,
    "test_tiou": {"tIoU 0.5": 0.55}, "test_tiou_classes": [{"class": "walk", "mean": 1.0, "tIoU 0.5": 1.0}],
    "test_event_f1": 0.5, "test_event_precision": 0.5, "test_event_recall": 0.5, "test_event_f1_always_on": 0.1,
    "test_events_true": 2, "test_events_found": 2, "test_false_alarms_per_hour": 60.0, "test_event_map_blind": 0.04,
    "videos": 2, "kind": "localiser", "min_score": 0.4, "thresholds": {"words": "chosen on 5 events"},
}  # fmt: skip


class Page:
    """The source of a page, and its words without tags."""

    def __init__(self, path: Path) -> None:
        self.source = re.sub(r"(?s)<style>.*?</style>", "", path.read_text(encoding="utf-8"))
        self.words = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", self.source)).split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_found(tmp_path / "events.csv", FOUND)
    save_found(tmp_path / "true_events.csv", TRUTH)
    save_results(tmp_path, {"test": FIGURES}, "vidact test")
    return tmp_path


def test_events_are_told_and_drawn(run: Path) -> None:
    page = Page(write_report(run))
    for words in (
        "This localiser saw each video as a whole: an online detector knows the past alone.",
        "2 events with a score from 0.4 are shown where there are 2; false alarms",
        "come 60 times an hour.",
        "those that are shown 0.500 0.500 0.500",
        "Chosen on 5 events.",
    ):
        assert words in page.words
    assert "so no test is shown" not in page.words
    pictures = sorted((run / "plots" / "events").iterdir())
    assert [path.name for path in pictures] == ["0000_a_x.png", "0001_y.png"]
    image = np.asarray(Image.open(pictures[0]).convert("RGB")).astype(int)
    for colour in ((37, 99, 168), (217, 100, 31), (195, 214, 236)):  # right, elsewhere, the truth
        assert (abs(image - np.array(colour)).sum(-1) < 8).sum() > 500


def test_no_better_than_blind_is_said(run: Path) -> None:
    save_results(run, {"test": FIGURES | {"test_verdict": "the event mAP is no better"}}, "vidact test")
    page = Page(write_report(run))
    assert "The event mAP is no better." in page.words
    assert 'class="warning"' in page.source


def test_videos_without_events_have_a_page(run: Path) -> None:
    figures = {"test_verdict": "", "videos": 2, "kind": "segmenter", "min_score": 0.0}
    save_results(run, {"test": figures}, "vidact test")
    assert "The tested videos have no event" in Page(write_report(run)).words


def test_a_damaged_table_is_named(run: Path) -> None:
    (run / "events.csv").write_text("video,start_s,end_s,label,score\nx,zero,1,walk,1\n")
    assert "events.csv line 2 is no event" in Page(write_report(run)).words


def test_tables_keep_the_events(run: Path) -> None:
    assert load_found(run / "events.csv") == [FOUND[0], FOUND[2], FOUND[1]]  # by their starts
    assert [(e.label, e.score) for e in load_found(run / "true_events.csv")][:1] == [("walk", 1.0)]
    with (run / "events.csv").open() as file:
        assert next(csv.reader(file)) == ["video", "start_s", "end_s", "label", "score"]
