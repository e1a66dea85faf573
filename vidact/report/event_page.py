"""The sections of a page on the events of a test, of an online detector or of a network that sees whole videos."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vidact.metrics.diagnosis import FALSE
from vidact.report import html
from vidact.report.diagnosis_plots import FATE_NAMES, KIND_NAMES, diagnosis_sentence, draw_costs, draw_fates
from vidact.report.event_plots import RIGHT, draw_events
from vidact.results.found_events import EVENTS, TRUE_EVENTS, load_found

NUM_DRAWN = 6  # videos whose events are drawn


def newest(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures of the newest test of an online or offline detector; none where there is no such test."""
    newest = [name for names in reversed(results.get("commands", {}).values()) for name in names]
    tests = [results[name] for name in newest if isinstance(results.get(name), dict)]
    return next((test for test in tests if "events" in test or "kind" in test), {})


def offline_events(run: Path, section: Mapping[str, Any]) -> list[str]:
    """Return the sections of the events of a network that sees whole videos; its detections lie in the run folder."""
    values = {re.sub("^(test|val|train)_", "", name): value for name, value in section.items()}
    if "event_map" not in values:
        return [html.section("Events", "<p>The tested videos have no event, so no figure of events exists.</p>")]
    tiles = [
        ("mAP of events, interpolated", f"{values['tiou_map']:.3f}"),
        ("mAP of events", f"{values['event_map']:.3f}"),
        *((f"mAP at {name}", f"{values['tiou'][name]:.3f}") for name in ("tIoU 0.5",) if name in values["tiou"]),
    ]
    if "event_map_blind" in values:
        tiles.append(("mAP of usual events side by side", f"{values['event_map_blind']:.3f}"))
    names = {"accuracy": "of the tokens right", "edit": "edit score", "f1_50": "F1@50"}
    tiles += [(name, f"{values[key]:.3f}") for key, name in names.items() if key in values]
    tiles.append(("videos", f"{section['videos']}"))
    note = f"From {EVENTS}. This {values['kind']} saw each video as a whole: an online detector knows the past alone."
    head = html.tiles(tiles, note) + html.warning(values.get("verdict", ""))
    least, chosen = values["min_score"], (values.get("thresholds") or {}).get("words")
    summary = (
        f"{values['events_found']} events with a score from {least:.3g} are shown where there are "
        f"{values['events_true']}; false alarms, which touch no event of their class, come "
        f"{values['false_alarms_per_hour']:.3g} times an hour."
    )
    table = html.table(
        ["events", "precision", "recall", "F1"],
        [
            ["those that are shown", values["event_precision"], values["event_recall"], values["event_f1"]],
            ["every class all the time", "", "", values["event_f1_always_on"]],
        ],
    )
    sentence = chosen or "no least score was chosen"
    words = f"Right is what overlaps a true event by 0.3. {sentence[0].upper() + sentence[1:]}."
    rows = [[row["class"], *(row[name] for name in ("mean", *values["tiou"]))] for row in values["tiou_classes"]]
    rows.sort(key=lambda row: row[1])
    classes = html.table(["class", "mean", *(f"map at {name}" for name in values["tiou"])], rows)
    body = f'<p>{summary}</p>{table}<p class="note">{escape(words)}</p>{html.fold("classes", classes)}'
    return [head, html.section("Events", body), _drawn(run, least)]


def _drawn(run: Path, min_score: float) -> str:
    """Return the section with the events of some videos, in the order of their names."""
    folder = run / "plots" / "events"
    for old in folder.glob("[0-9]*_*.png"):
        old.unlink()  # an earlier test may have had other videos
    if not (run / EVENTS).is_file() or not (run / TRUE_EVENTS).is_file():
        return ""
    shown, truth = defaultdict(list), defaultdict(list)
    for event in load_found(run / EVENTS):
        if event.score >= min_score:
            shown[event.video].append(event)
    for event in load_found(run / TRUE_EVENTS):
        truth[event.video].append(event)
    videos = sorted({*shown, *truth})
    pictures = []
    for number, video in enumerate(videos[:NUM_DRAWN]):
        name = f"{number:04d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', video)[-60:]}.png"
        pictures.append(html.picture(draw_events(video, truth[video], shown[video], folder / name), run))
    which = f"The first {NUM_DRAWN} of {len(videos)} videos" if len(videos) > NUM_DRAWN else "All videos"
    note = (
        f"{which}. Bars are as high as the score; blue ones overlap a true event of their class by {RIGHT:g} or more."
    )
    return html.section("Videos", f'<p class="note">{note}</p>{"".join(pictures)}')


def online_events(section: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return the section of an online detector's events: how good they are, and how their thresholds were chosen."""
    key = next((name for name in section if name.endswith("_event_f1")), None)
    if key is None:
        return ""
    prefix = key.removesuffix("event_f1")
    values = {name.removeprefix(prefix): value for name, value in section.items()}
    alarms, delay = values["false_alarms_per_hour"], values["delay_s"]
    often = f", one every {clock_words(3600 / alarms)}" if alarms else ""
    late = "" if delay is None else f" Half of the events that were found were known {delay:.2g} s after their start."
    if waits_s := values.get("answers_late_s"):
        late += (
            f" This detector looks ahead: every answer comes {waits_s:.2g} s after its moment, which is counted here."
        )
    summary = (
        f"{values['events_found']} events were detected where there are {values['events_true']}; "
        f"{values['missed']:.0%} of the true ones were never seen. False alarms, which touch no event of their class, "
        f"come {alarms:.3g} times an hour{often}.{late}"
    )
    best, half, always = (values[f"event_f1{name}"] for name in ("", "_at_0.5", "_always_on"))
    rows = [
        ["as the detector reports them", values["event_precision"], values["event_recall"], best],
        ["with every threshold at 0.5", "", "", half],
        ["every class all the time", "", "", always],
    ]
    table = html.table(["events", "precision", "recall", "F1"], rows)
    warning = html.warning("the events are no better than those of every class all the time" * (best <= always))
    on, chosen = section["events"].get("on", 0.5), section.get("thresholds") or {}
    each = on if isinstance(on, list) else [on] * len(classes)
    counts = chosen.get("events", {})
    lines = [[name, at, counts.get(name, 0)] for name, at in zip(classes, each, strict=False)]
    note = f"Right is what overlaps a true event by 0.3. Thresholds: {chosen.get('words') or 'none was chosen'}."
    thresholds = html.fold("thresholds", html.table(["class", "turns on at", "events to choose by"], lines))
    return html.section("Events", f'<p>{summary}</p>{warning}{table}<p class="note">{escape(note)}</p>{thresholds}')


def mistakes(section: Mapping[str, Any], plots: Path) -> str:
    """Return the section of the mistakes in a test's events."""
    costs, fates = plots / "costs_of_mistakes.png", plots / "fates_of_events.png"
    for path in (costs, fates):
        path.unlink(missing_ok=True)  # an earlier test may have had events
    diagnosis = next((figures for name, figures in section.items() if name.endswith("_diagnosis")), None)
    if diagnosis is None:
        return ""
    pictures = "".join(html.picture(path) for path in (draw_costs(diagnosis, costs), draw_fates(diagnosis, fates)))
    pairs = [list(pair.values()) for pair in diagnosis["confused"]]
    confused = (
        html.fold("most frequent confusions", html.table(["truth", "called", "detections"], pairs)) if pairs else ""
    )
    rows = [
        [
            f"{name}: {row['group']}",
            *(row["events"][fate] for fate in FATE_NAMES),
            *(row["false"][kind] for kind in FALSE),
        ]
        for name, groups in diagnosis["groups"].items()
        for row in groups
    ]
    false = [f"false: {KIND_NAMES[kind]}" for kind in FALSE]
    header = ["group", *(f"events: {name}" for name in FATE_NAMES.values()), *false]
    table = html.fold("as a table", html.table(header, rows))
    body = f'<p>{escape(diagnosis_sentence(diagnosis))}</p><div class="side">{pictures}</div>'
    return html.section("Mistakes in events", body + confused + table)


def clock_words(seconds: float) -> str:
    """Return a duration in its largest unit: 9.5 s, 3 min, 2.1 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"
