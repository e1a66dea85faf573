"""The HTML page of a run, or of several: figures with their commands, curves and the results of the test.

The test of a recogniser of clips is shown as confusion, classes and mistakes; that of an online detector as scores over
time beside the truth, precision and recall, classes, anticipation and delay; that of an offline network as its events.

The pictures (base64) and ``style.css`` are copied into the page, so that one file can be mailed, put on a server or
read on a phone. It loads nothing. The same PNGs lie in plots/ for papers and slides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from vidact import __version__
from vidact.files import replacing
from vidact.metrics import (
    FrameAP,
    Yardsticks,
    accuracy_of,
    average_precision,
    calibrated_map,
    confusion_matrix,
    frame_map,
    is_trivial,
    mean_average_precision,
    mean_class_accuracy,
    per_class_accuracy,
    token_confusion,
    topk_accuracy,
    verdict,
    yardsticks,
)
from vidact.metrics.frame_ap import runs as stretches
from vidact.report import event_page, html
from vidact.report.plots import (
    draw_classes,
    draw_confusion,
    draw_curves,
    draw_mistakes,
    draw_rates,
    find_mistakes,
    read_log,
    shorten,
)
from vidact.report.timeline_plots import (
    anticipation,
    choose_videos,
    clock,
    draw_anticipation,
    draw_delays,
    draw_precision_recall,
    draw_timeline,
    drawn_names,
    timeline_name,
    video_accuracies,
)
from vidact.results.figures import in_words, load_results, save_results
from vidact.results.scores import PROBE_SCORES, Scores, load_scores
from vidact.results.timelines import Timelines, load_timelines

__all__ = ["load_results", "save_results", "write_report", "write_summary"]

NUM_SHOWN = 12  # mistakes on the contact sheet
SUMMARY_PICTURES = ("accuracy.png", "loss.png", "confusion.png", "precision_recall.png")
NUM_TIMELINES, NUM_FOLDED = 6, 14  # videos with their scores over time, and further ones in a fold


STYLE = Path(__file__).with_name("style.css")
OF_A_RUN = ("config.yaml", "results.json", "scores.npz", "timelines.npz", "events.csv", "metrics.csv", "logs",
            "unreadable.json", "learning_rate.csv")  # fmt: skip


def write_report(run: Path, title: str | None = None) -> Path:
    """Draw the plots of a run folder, write its report.html and return the page's path.

    The page shows whichever of metrics.csv, scores.npz (clips), timelines.npz (an online detector), results.json,
    unreadable.json and config.yaml exist. It names what is missing and the command that makes it. Raises
    FileNotFoundError when the folder does not exist, or holds nothing of a run.

    Args:
        run: the run folder.
        title: heading of the page; default the folder's name.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(
            f"{run} is not a folder; a report is made of a run folder, such as `vidact train` writes"
        )
    if not any((run / name).exists() for name in OF_A_RUN):
        raise FileNotFoundError(f"{run} holds nothing of a run ({', '.join(OF_A_RUN)}); name a run folder")
    missing: list[str] = []
    results = _try(lambda: load_results(run), missing)
    scores = detected = None
    if (run / "timelines.npz").is_file():
        detected = _try(lambda: _read_detected(run / "timelines.npz"), missing)
    if (run / "scores.npz").is_file():
        scores = _try(lambda: load_scores(run / "scores.npz"), missing)
    tested = event_page.newest(results or {})
    is_offline = "kind" in tested
    if not any((run / name).is_file() for name in ("scores.npz", "timelines.npz")) and not is_offline:
        missing.append(
            "neither scores.npz nor timelines.npz is there, so no test is shown; `vidact test` writes the one for "
            "clips, the other for an online detector."
        )
    body = []
    if scores is not None:
        body.append(_headline(scores, _read_probe(run, missing)))
    if detected is not None:
        body.append(_detector_headline(detected))
        if not is_offline:
            body.append(event_page.online_events(tested, detected.timelines.classes))
    if is_offline:
        body += _try(lambda: event_page.offline_events(run, tested), missing) or []
    if tested:
        body.append(event_page.mistakes(tested, run / "plots"))
    num_classes = None if scores is None else len(scores.classes)
    if results is not None:
        body.append(_results(_informative(results, num_classes)))
    if (run / "metrics.csv").is_file():
        curves = draw_curves(_informative(read_log(run / "metrics.csv"), num_classes), run / "plots")
        if curves:
            body.append(
                html.section("Learning curves", f'<div class="side">{"".join(map(html.picture, curves))}</div>')
            )
        else:
            missing.append("metrics.csv has no finished epoch yet, so there are no learning curves.")
    elif not any(run.glob("*/metrics.csv")):
        missing.append("metrics.csv does not exist, so there are no learning curves; `vidact train` writes it.")
    if (run / "learning_rate.csv").is_file():
        body.append(_rates(run, results or {}))
    if (run / "plots" / "shots.png").is_file():
        body.append(html.section("Few clips a class", html.picture(run / "plots" / "shots.png")))
    if scores is not None:
        body.append(_scores(scores, run / "plots"))
    if detected is not None:
        body += _detector(detected, run / "plots", missing)
    body.append(_unreadable(run, missing))
    body.append(_inside(run))
    return _write_page(run, title or run.resolve().name, body, missing)


def write_summary(
    folder: Path,
    title: str,
    rows: list[dict[str, Any]],
    runs: Sequence[Path] = (),
    pooled: Scores | None = None,
    notes: Sequence[str] = (),
    pictures: Sequence[Path] = (),
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Path:
    """Write report.html for several runs into ``folder`` and return the page's path.

    Args:
        rows: the table, a dict a row; its columns are their keys in order of appearance. A cell may be the text of
            a mean and its spread, "0.312 ± 0.010".
        runs: folders whose learning curves and confusion, or precision and recall, are shown; one without a
            report.html gets it first.
        pooled: the videos of all rows as one test. The rows are then folds: the table ends with their mean, standard
            deviation (of the folds at hand, not an estimate for others), least and greatest.
        notes: paragraphs under the title.
        pictures: PNG files shown below the notes.
        tables: further tables by their headings, below the first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    body = [f"<p>{escape(note)}</p>" for note in notes]
    body += [html.picture(picture) for picture in pictures]
    if pooled is not None:
        body.append(_headline(pooled))
    body.append(html.section("Results", html.rows_table(rows, spread=pooled is not None)))
    body += [html.section(heading, html.rows_table(more)) for heading, more in (tables or {}).items()]
    results = load_results(folder) if (folder / "results.json").exists() else None
    if results is not None:
        body.append(_commands(results))
    if pooled is not None:
        body.append(_scores(pooled, folder / "plots"))
    for run in map(Path, runs):
        page = run / "report.html"
        if not page.exists():
            write_report(run)
        drawings = [run / "plots" / name for name in SUMMARY_PICTURES]
        plots = "".join(html.picture(path, folder) for path in drawings if path.exists())
        heading = f'<a href="{html.link(page, folder)}">{escape(_run_name(run, folder))}</a>'
        body.append(f'<section><h2>{heading}</h2><div class="side">{plots or "<p>no pictures</p>"}</div></section>')
    body.append(_inside(folder))
    return _write_page(folder, title, body, missing)


def _run_name(run: Path, folder: Path) -> str:
    """Return the path of a run below the summary's folder, since several may end in the same ``seed0``."""
    run, folder = run.resolve(), folder.resolve()
    return run.relative_to(folder).as_posix() if run.is_relative_to(folder) and run != folder else run.name


# ---- parts of the page


def _read_probe(run: Path, missing: list[str]) -> Scores | None:
    """Return the scores of the linear probe that was fitted before training; None without one."""
    path = run / PROBE_SCORES
    return _try(lambda: load_scores(path), missing) if path.is_file() else None


def _headline(scores: Scores, probe: Scores | None = None) -> str:
    """Return the main figures of a test as tiles, with that of a linear probe where there is one."""
    values, labels = scores.values, scores.labels
    if scores.multi_label:
        tiles = [("mAP", f"{mean_average_precision(values, labels):.3f}")]
    else:
        tiles = [
            (f"top-{k}", f"{topk_accuracy(values, labels, k):.3f}")
            for k in (1, 5)
            if not is_trivial(f"top{k}", len(scores.classes))
        ]
        tiles += [
            ("mean class accuracy", f"{mean_class_accuracy(values, labels):.3f}"),
            ("mistakes", f"{(values.argmax(1) != labels).sum()}"),
        ]
    beside = scores.beside_yardsticks()
    if scores.multi_label:
        tiles.append(("mAP of a guess", f"{beside['chance_map']:.3f}"))
    else:
        always = f"top-1 if always “{escape(shorten(beside['majority_class'], 20))}”"
        tiles += [(always, f"{beside['majority']:.3f}"), ("top-1 of a guess", f"{beside['chance']:.3f}")]
    if probe is not None:
        beside |= scores.beside_probe(probe)
    if "probe" in beside:
        tiles.append(("top-1 of a linear probe before training", f"{beside['probe']:.3f}"))
    tiles += [("videos", f"{len(scores)}"), ("classes", f"{len(scores.classes)}")]
    note = f"From scores.npz: {scores.kind} averaged over {scores.views} views (clips x crops) of each video."
    return html.tiles(tiles, note) + html.warning(beside["verdict"]) + html.warning(beside.get("probe_verdict", ""))


def _informative(figures: Mapping[str, Any], num_classes: int | None) -> dict[str, Any]:
    """Return figures, and tables of figures, without those that are 1 for every output of a network."""
    count = figures["classes"] if isinstance(figures.get("classes"), int) else num_classes
    return {
        name: _informative(value, count) if isinstance(value, dict) else value
        for name, value in figures.items()
        if count is None or not is_trivial(name, count)
    }


def _results(results: Mapping[str, Any]) -> str:
    """Return every figure of results.json below the command that made it."""
    parts = []
    for command, names in reversed(results.get("commands", {}).items()):
        loose = {name: results[name] for name in names if name in results and not _is_section(results[name])}
        sections = {name: results[name] for name in names if name in results and _is_section(results[name])}
        parts.append(f"<pre><code>{escape(command)}</code></pre>")
        if loose:
            parts.append(_figures(loose))
        for name, section in sections.items():
            parts.append(f"<h3>{escape(name)}</h3>{_figures(section)}")
    return html.section("Results", "".join(parts)) if parts else ""


def _commands(results: Mapping[str, Any]) -> str:
    commands = "\n".join(results.get("commands", {}))
    return f'<p class="note">made by</p><pre><code>{escape(commands)}</code></pre>' if commands else ""


def _is_section(value: object) -> bool:
    return isinstance(value, dict)


def _figures(figures: Mapping[str, Any]) -> str:
    """Return names and values as a table, and values that are tables below. ``rows`` are folds, which have a spread."""
    rows, below = [], []
    for name, value in figures.items():
        title = in_words(name)
        if name.endswith(("confusion", "diagnosis")) or name == "thresholds":
            continue  # the page has a section for each of these
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            below.append(
                html.rows_table(value, spread=True) if name == "rows" else html.fold(title, html.rows_table(value))
            )
        elif isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            below.append(html.fold(title, html.rows_table([{"": key, **inner} for key, inner in value.items()])))
        elif isinstance(value, dict):
            if value:
                lines = [[in_words(key), value[key]] for key in value]
                below.append(html.fold(f"{title}: {len(value)}", html.table(["", ""], lines)))
        elif value != "":
            rows.append([title, value])
    return (html.table(["figure", "value"], rows) if rows else "") + "".join(below)


def _scores(scores: Scores, plots: Path) -> str:
    """Draw confusion, classes and mistakes of a test and return their sections."""
    parts = []
    if scores.multi_label:
        figures, measure = average_precision(scores.values, scores.labels), "average precision"
        videos = scores.labels.sum(0).astype(int)
        counts = None
    else:
        figures, measure = per_class_accuracy(scores.values, scores.labels), "accuracy"
        counts = confusion_matrix(scores.values, scores.labels)
        videos = counts.sum(1)
        picture = html.picture(draw_confusion(counts, scores.classes, plots / "confusion.png"), keep=True)
        pairs = _confusions(counts, scores.classes)
        note = "Rows are the truth. Blue is right, orange is mistaken; depth is the share of the row."
        parts.append(html.section("Confusion", f'<p class="note">{note}</p>{picture}{pairs}'))
    if not np.isnan(figures).all():
        picture = html.picture(draw_classes(figures, videos, scores.classes, plots / "classes.png", measure))
        table = _class_table(figures, videos, counts, scores.classes, measure)
        parts.append(html.section("Classes", picture + html.fold(f"all {len(scores.classes)} classes", table)))
    if scores.multi_label:
        parts.append(html.section("Mistakes", "<p>Clips with several labels have no single answer to be wrong.</p>"))
        return "".join(parts)
    mistakes = find_mistakes(scores)
    if not mistakes:
        (plots / "mistakes.png").unlink(missing_ok=True)  # an earlier, worse test may have left it
        parts.append(html.section("Mistakes", f"<p>None: all {len(scores)} videos are recognised.</p>"))
        return "".join(parts)
    worst = mistakes[:NUM_SHOWN]
    note = (
        f"The {len(worst)} most confident of {len(mistakes)} mistakes"
        if len(worst) < len(mistakes)
        else f"All {len(mistakes)} mistakes, the most confident first"
    )
    sheet = html.picture(draw_mistakes(worst, plots / "mistakes.png"), keep=True, photograph=True)
    listed = html.table(
        ["video", "truth", "prediction", "confidence", "place of the truth"],
        [[m.id, m.truth, m.prediction, m.confidence, m.rank] for m in mistakes[:200]],
    )
    rest = html.fold(
        f"{'all' if len(mistakes) <= 200 else 'the first 200 of'} {len(mistakes)} mistakes as a table", listed
    )
    parts.append(
        html.section("Mistakes", f'<p class="note">{note}: truth → prediction and its probability.</p>{sheet}{rest}')
    )
    return "".join(parts)


def _confusions(counts: np.ndarray, classes: Sequence[str], most: int = 20, unit: str = "videos") -> str:
    """Return a table of the class pairs that are mistaken most often."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(at), len(classes)) for at in order]
    rows = [
        [classes[i], classes[j], int(wrong[i, j]), f"{wrong[i, j] / counts[i].sum():.3f}"]
        for i, j in pairs
        if wrong[i, j]
    ]
    if not rows:
        return ""
    return html.fold("most frequent confusions", html.table(["truth", "called", unit, "share of the class"], rows))


def _class_table(
    figures: np.ndarray, videos: np.ndarray, counts: np.ndarray | None, classes: Sequence[str], measure: str
) -> str:
    header, rows = ["class", "number", "videos", measure], []
    for k in np.argsort(figures, kind="stable"):
        rows.append([classes[k], int(k), int(videos[k]), "no video" if np.isnan(figures[k]) else float(figures[k])])
        if counts is not None:
            others = np.where(np.arange(len(classes)) == k, 0, counts[k])
            rows[-1].append(f"{classes[int(others.argmax())]} ({others.max()})" if others.any() else "")
    return html.table([*header, "most often taken for"] if counts is not None else header, rows)


@dataclass(frozen=True)
class _Detected:
    """The test of an online detector: scores over time, average precision, plain and calibrated, and confusion."""

    timelines: Timelines
    precision: FrameAP
    calibrated: FrameAP
    confusion: np.ndarray
    sticks: Yardsticks

    @property
    def accuracy(self) -> float:
        """The share of the tokens whose class is right."""
        return accuracy_of(self.confusion)


def _read_detected(path: Path) -> _Detected:
    timelines = load_timelines(path)
    rows = timelines.joined()
    precision, calibrated = frame_map(*rows), calibrated_map(*rows)
    sticks = yardsticks(rows[1], rows[2], has_background=True)
    return _Detected(timelines, precision, calibrated, token_confusion(*rows), sticks)


def _detector_headline(detected: _Detected) -> str:
    timelines, precision, sticks = detected.timelines, detected.precision, detected.sticks
    names = ["background", *timelines.classes]
    ignored = sum(int(ignore.sum()) for ignore in timelines.ignore)
    total = precision.rows + ignored
    tiles = [
        ("of the tokens right", _rate(detected.accuracy)),
        (f"right if always “{escape(shorten(names[sticks.majority_class], 20))}”", f"{sticks.majority:.3f}"),
        ("right by a guess", f"{sticks.chance:.3f}"),
        ("mAP", _rate(precision.mean)),
        ("mAP of a guess", _rate(sticks.chance_map)),
        ("mcAP", _rate(detected.calibrated.mean)),
        ("videos", f"{len(timelines)}"),
        ("hours", f"{total / timelines.tokens_per_second / 3600:.2g}"),
        ("classes", f"{len(timelines.classes)}"),
    ]
    note = f"From timelines.npz: {precision.rows} tokens at {timelines.tokens_per_second:g} a second, protocol lstr"
    note += f", without {ignored} ambiguous ones." if ignored else "."
    if np.isnan(precision.mean):
        note += " No action occurs in them, so there is no mAP."
    mean = None if np.isnan(precision.mean) else precision.mean
    return html.tiles(tiles, note) + html.warning(verdict(sticks, names, detected.accuracy, mean))


def _rates(run: Path, results: Mapping[str, Any]) -> str:
    """Return the section of a learning-rate range test."""
    suggestion = (results.get("learning rate test") or {}).get("suggestion")
    picture = draw_rates(run / "learning_rate.csv", suggestion, run / "plots" / "learning_rate.png")
    advice = "no rate is suggested" if suggestion is None else f"--model.optimizer.init_args.lr {suggestion:.2g}"
    return html.section("Learning rate", f'<p class="note">{advice}</p>{html.picture(picture)}')


def _rate(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _detector(detected: _Detected, plots: Path, missing: list[str]) -> list[str]:
    """Draw a detector's scores over time and its curves and return their sections."""
    timelines, now = detected.timelines, detected.precision.mean
    for name in ("precision_recall", "classes", "anticipation", "delay", "confusion"):
        (plots / f"{name}.png").unlink(missing_ok=True)  # an earlier test may have had more pictures
    parts = [html.section("Timelines", _videos(timelines, plots / "timelines"))]
    names = drawn_names(["background", *timelines.classes])
    picture = html.picture(draw_confusion(detected.confusion, names, plots / "confusion.png"), keep=True)
    note = "Tokens. Rows are the truth. Blue is right, orange is mistaken; depth is the share of the row."
    pairs = _confusions(detected.confusion, ["background", *timelines.classes], unit="tokens")
    parts.append(html.section("Confusion", f'<p class="note">{note}</p>{picture}{pairs}'))
    if (curves := draw_precision_recall(timelines, plots / "precision_recall.png")) is not None:
        parts.append(html.section("Precision and recall", html.picture(curves)))
    parts.append(html.section("Classes", _detector_classes(detected, plots)))
    future = _try(lambda: anticipation(timelines), missing)
    if future is not None and not np.isnan(future.mean):
        picture = html.picture(draw_anticipation(future, now, plots / "anticipation.png"))
        note = "The scores for a later token against the truth of that token; at 0, the scores for the token itself."
        seconds = [f"{ahead:g}" for ahead in future.seconds]
        rows = zip(seconds, future.per_offset.tolist(), future.rows.tolist(), strict=True)
        table = html.fold("as a table", html.table(["seconds ahead", "mAP", "tokens"], rows))
        parts.append(html.section("Anticipation", f'<p class="note">{note}</p>{picture}{table}'))
    if (delays := draw_delays(timelines, plots / "delay.png")) is not None:
        note = (
            "How long after the start of an action its score reaches a threshold. A score that was there before the "
            "action counts as 0 s, so read this beside the orange of the timelines."
        )
        parts.append(html.section("Delay", f'<p class="note">{note}</p>{html.picture(delays)}'))
    return parts


def _videos(timelines: Timelines, folder: Path) -> str:
    """Return the timelines of some videos from the worst to the best, more in a fold, and a table of all videos."""
    for old in folder.glob("[0-9]*_*.png"):
        old.unlink()  # an earlier test may have had other videos
    accuracies = video_accuracies(timelines)
    chosen = choose_videos(timelines, accuracies, NUM_TIMELINES)
    order = [int(video) for video in np.argsort(accuracies, kind="stable")]  # NaN, no token that counts, comes last
    rest = [video for video in order if video not in chosen]

    def pictures(videos: Iterable[int]) -> str:
        drawn = (draw_timeline(timelines, video, folder / timeline_name(timelines, video)) for video in videos)
        return "".join(html.picture(path, folder.parent.parent) for path in drawn)

    which = f"{len(chosen)} of {len(timelines)} videos" if rest else "All videos"
    note = (
        f"{which}, from the worst to the best by the share of their tokens that are right"
        if len(timelines) > 1
        else "The only video"
    )
    parts = [
        f'<p class="note">{note}. A lane holds a class that occurs or is predicted: the truth as a pale bar, '
        f"the score from 0 to 1 as an area, blue where it is right and orange where it is not.</p>{pictures(chosen)}"
    ]
    if rest:
        more = rest[:NUM_FOLDED]
        title = f"the other {len(rest)} videos" if len(more) == len(rest) else f"{len(more)} more, the worst first"
        parts.append(html.fold(title, pictures(more)))
    rows = []
    for video in order:
        seconds = clock(len(timelines.scores[video]) / timelines.tokens_per_second)
        occurs = (timelines.targets[video][:, 1:] == 1).any(0)
        names = ", ".join(name for name, is_present in zip(timelines.classes, occurs, strict=True) if is_present)
        right = "no token counts" if np.isnan(accuracies[video]) else float(accuracies[video])
        rows.append([timelines.ids[video], seconds, names or "no action", right])
    parts.append(html.fold("all videos as a table", html.table(["video", "length", "actions", "token accuracy"], rows)))
    return "".join(parts)


def _detector_classes(detected: _Detected, plots: Path) -> str:
    timelines, precision, calibrated = detected.timelines, detected.precision, detected.calibrated
    _, targets, _ = timelines.joined()
    borders = np.cumsum([0, *map(len, timelines.scores)])
    events = np.array([len(stretches(column == 1, borders)[0]) for column in targets[:, 1:].T])
    seconds = (targets[:, 1:] == 1).sum(0) / timelines.tokens_per_second
    rows: list[list[Any]] = []
    for k in np.argsort(precision.per_class, kind="stable"):
        is_known = not np.isnan(precision.per_class[k])
        absent = "only ambiguous" if events[k] else "does not occur"
        areas = [float(precision.per_class[k]), float(calibrated.per_class[k])] if is_known else [absent, ""]
        rows.append([timelines.classes[k], int(k), int(events[k]), clock(seconds[k]), *areas])
    header = ["class", "number", "events", "time", "average precision", "calibrated average precision"]
    table = html.fold(f"all {len(timelines.classes)} classes", html.table(header, rows))
    if np.isnan(precision.mean):
        return f"<p>No action occurs in a token that counts.</p>{table}"
    names = [
        f"{shorten(name, 20)}  ({count})" for name, count in zip(drawn_names(timelines.classes), events, strict=True)
    ]
    picture = draw_classes(precision.per_class, events, names, plots / "classes.png", "average precision")
    note = (
        "In brackets the number of events. Calibrated average precision, in the table, weighs false alarms as if each "
        "class took half of the time."
    )
    return f'<p class="note">{note}</p>{html.picture(picture)}{table}'


def _unreadable(run: Path, missing: list[str]) -> str:
    path = run / "unreadable.json"
    if not path.is_file():
        return ""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        skipped = dict(record["skipped"])
        line = f"{len(skipped)} of {record['videos']} {record['split']} videos could not be read and were skipped."
    except (ValueError, KeyError, TypeError) as error:
        missing.append(f"unreadable.json is not what `vidact train` writes ({error!r}).")
        return ""
    return html.section(
        "Unreadable videos", f"<p>{escape(line)}</p>{html.table(['video', 'reason'], list(skipped.items()))}"
    )


def _inside(folder: Path) -> str:
    """Return links to the folder's own files and to the runs below it."""
    names = [
        "config.yaml",
        "results.json",
        "metrics.csv",
        "scores.npz",
        "timelines.npz",
        "events.csv",
        "unreadable.json",
    ]
    files = [folder / name for name in names] + sorted((folder / "checkpoints").glob("*.ckpt"))
    links = [
        f'<li><a href="{html.link(p, folder)}">{escape(str(p.relative_to(folder)))}</a></li>'
        for p in files
        if p.exists()
    ]
    pages = sorted(folder.glob("*/report.html"))
    runs = [f'<li><a href="{html.link(page, folder)}">{escape(page.parent.name)}</a></li>' for page in pages]
    parts = html.section("Runs inside", f"<ul>{''.join(runs)}</ul>") if runs else ""
    config = folder / "config.yaml"
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        links.append(f"<li>{html.fold('the whole configuration', f'<pre><code>{escape(text)}</code></pre>')}</li>")
    return parts + (html.section("Files", f"<ul>{''.join(links)}</ul>") if links else "")


def _try(read: Any, missing: list[str]) -> Any:
    """Return the result of ``read``, or None with its error in ``missing``: a damaged run still gets a page."""
    try:
        return read()
    except (FileNotFoundError, ValueError) as error:
        missing.append(f"{error}.")
        return None


def _write_page(folder: Path, title: str, body: Iterable[str], missing: Sequence[str]) -> Path:
    if missing:
        items = "".join(f"<li>{escape(line)}</li>" for line in missing)
        body = [*body, html.section("Missing here", f"<ul>{items}</ul>")]
    page = PAGE.format(
        title=escape(title),
        folder=escape(str(folder)),
        version=escape(__version__),
        time=datetime.now().strftime("%Y-%m-%d %H:%M"),
        style=STYLE.read_text(encoding="utf-8"),
        body="\n".join(part for part in body if part),
    )
    path = folder / "report.html"
    with replacing(path) as half:
        half.write_text(page, encoding="utf-8", errors="replace")
    return path


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header><h1>{title}</h1><p class="note">{folder}, written {time} by vidact {version}</p></header>
<main>
{body}
</main>
</body>
</html>
"""
