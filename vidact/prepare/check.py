"""The check of ``vidact prepare check``: it finds what is wrong with a set of videos, its lists and its splits.

Every video is decoded whole, once. A run that was stopped continues, and unchanged videos are not read again. The
folder ``out`` then holds check.json (every finding and the facts of every video), report.html with a contact sheet,
and results.json.
"""

from __future__ import annotations

import base64
import sys
import textwrap
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidact import jobs
from vidact.data.clip_list import ClipList, load_clips
from vidact.data.event_list import Event, load_events, load_videos
from vidact.data.splits import SPLITS, groups_of
from vidact.files import replacing, write_json
from vidact.jobs import Folder, Meter
from vidact.prepare.examine import RULES, Examined, examine, find_duplicates
from vidact.prepare.pack import size_of
from vidact.prepare.sources import NOTES, Sources, find_sources, refuse_inside
from vidact.report.page import write_summary
from vidact.results.figures import command_line, save_results
from vidact.text.names import alike, first_few, plain_path, spelt

CHECK = "check.json"
IMBALANCE = 10  # the most frequent class may have this many times the training clips of the rarest one
NUM_SHOWN = 60  # the most pictures on a contact sheet
MOST_UNLABELLED = 0.5  # a video whose unlabelled ends are a larger share of it is listed by name
LATE_S = 1.0  # seconds by which an annotation may reach beyond its video

# Errors stop training or make its figures wrong; all other kinds are warnings.
ERRORS = frozenset(
    {
        "empty file",
        "no video stream",
        "truncated",
        "unreadable",
        "damaged",
        "missing",
        "annotations",
        "range",
        "leakage",
    }
    | {"label conflict", "group on two sides", "no training clip"}
)


@dataclass(frozen=True)
class Finding:
    """A defect of the set: its kind, the videos concerned (as the lists write them), and its description in words."""

    kind: str
    videos: tuple[str, ...]
    words: str

    @property
    def severity(self) -> str:
        return "error" if self.kind in ERRORS else "warning"


@dataclass
class Checked:
    """The result of a check; ``facts`` has one row for each video.

    ``classes`` has a row for each class and split that occurs: clips, or events and their videos, and seconds.
    ``unlabelled`` is the time before the first and after the last event of untrimmed videos, which may have been left
    unlabelled; None for clips.
    """

    out: Path
    findings: list[Finding]
    facts: dict[str, dict[str, Any]]
    page: Path | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)
    unlabelled: dict[str, Any] | None = None

    def kinds(self) -> dict[str, int]:
        """Count the findings of each kind."""
        return dict(sorted(Counter(finding.kind for finding in self.findings).items()))


@dataclass(frozen=True)
class _Job:
    """A file to examine, its name in the set and the folder of the report."""

    name: str
    path: Path
    folder: Folder

    @property
    def label(self) -> str:
        return str(self.path)


def check_set(
    root: str | Path,
    out: str | Path,
    group: str | None = None,
    least_frames: int = 8,
    workers: int = 1,
    progress: bool = True,
) -> Checked:
    """Check a folder of videos, with or without lists; the top of this file lists what is written to ``out``.

    Args:
        root: as for training: a folder with clips.csv, of class folders, or with events.csv and videos.csv.
        out: folder for the report.
        group: regular expression with one group, searched in each path: equal matches are clips of one person or one
            source video, which must not be in two splits. None uses the column ``group`` of the lists, if they have
            one.
        least_frames: a video with fewer frames is reported.
        workers: videos examined at the same time, by one process of one thread each.
        progress: whether progress is printed to stderr.
    """
    root, out = Path(root), Path(out)
    sources = find_sources(root)
    for note in sources.notes:
        print(note, file=sys.stderr)
    refuse_inside(sources, out)
    if group is not None:  # a wrong pattern is refused before hours of decoding, not after
        groups_of(sources.folder, list(sources.videos.values()), group)
    folder = Folder(out, NOTES)
    with folder.locked():
        examined = _examine_all(sources, folder, workers, progress)
        findings = _file_findings(sources, examined, least_frames)
        findings += _list_findings(sources, examined, group)
        findings.sort(key=lambda finding: (finding.severity, finding.kind, finding.videos))
        checked = Checked(out, findings, {name: _facts(video) for name, video in examined.items()})
        checked.classes, checked.unlabelled = _summary(sources, examined)
        _write(checked, sources, examined)
    return checked


# ---------------------------------------------------------------------------------------------------------- every file


def _start() -> jobs.Work[_Job, Examined]:
    return lambda job, tell: _examine(job)


def _examine(job: _Job) -> Examined:
    state = {"source": jobs.source_state(job.path), "rules": RULES}
    examined = examine(job.path)
    job.folder.finish(job.name, state, examined=_to_json(examined))
    return examined


def _examine_all(sources: Sources, folder: Folder, workers: int, progress: bool) -> dict[str, Examined]:
    examined: dict[str, Examined] = {}
    waiting = []
    for name, path in sources.videos.items():
        note = folder.read_if_of(name, {"source": jobs.source_state(path), "rules": RULES})
        if note is not None:
            examined[name] = _from_json(path, note["examined"])
        else:
            waiting.append(_Job(name, path, folder))
    waiting.sort(key=lambda job: size_of(job.path), reverse=True)
    meter = Meter({job: size_of(job.path) for job in waiting}, is_on=progress)
    for job, video in jobs.run(_start, waiting, workers, meter):
        examined[job.name] = video
        meter.finish(job, f"{job.name}: {video.problems[0][1]}" if video.problems else "")
    return {name: examined[name] for name in sources.videos}


def _to_json(video: Examined) -> dict[str, Any]:
    plain = {name: value for name, value in vars(video).items() if name not in ("path", "picture", "fingerprint")}
    for name in ("picture", "fingerprint"):
        if (array := getattr(video, name)) is not None:
            plain[name] = [list(array.shape), base64.b64encode(zlib.compress(array.tobytes())).decode()]
    return plain


def _from_json(path: Path, plain: dict[str, Any]) -> Examined:
    plain = dict(plain, problems=[(kind, message) for kind, message in plain["problems"]])
    for name in ("picture", "fingerprint"):
        if name in plain:
            shape, text = plain[name]
            plain[name] = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)
    return Examined(path, **plain)


def _facts(video: Examined) -> dict[str, Any]:
    names = ("num_bytes", "num_frames", "fps", "duration_s", "height", "width", "digest")
    facts = {name: getattr(video, name) for name in names}
    facts["fps"], facts["duration_s"] = round(facts["fps"], 3), round(facts["duration_s"], 3)
    return facts | {"problems": [kind for kind, _ in video.problems]}


def _file_findings(sources: Sources, examined: dict[str, Examined], least_frames: int) -> list[Finding]:
    findings = [
        Finding(kind, (name,), message.replace(str(video.path), name))
        for name, video in examined.items()
        for kind, message in video.problems
    ]
    findings += [
        Finding("short", (name,), f"{video.num_frames} frames; {least_frames} were expected at least")
        for name, video in examined.items()
        if video.is_readable and video.num_frames < least_frames
    ]
    findings += [
        Finding("missing", (name,), "a list names it, or a link, and it does not exist") for name in sources.missing
    ]
    findings += [
        Finding("unlisted", (name,), "it lies in the folder and no list names it") for name in sources.unlisted
    ]
    return findings


# --------------------------------------------------------------------------------------------------- lists and splits


def _list_findings(sources: Sources, examined: dict[str, Examined], group: str | None) -> list[Finding]:
    labels: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    findings: list[Finding] = []
    try:
        if (sources.root / "events.csv").exists():
            findings += _event_findings(sources, examined, splits)
        else:
            findings += _clip_findings(sources, examined, labels, splits)
    except (ValueError, FileNotFoundError) as error:  # FileNotFoundError: none of the clips has a file
        findings.append(Finding("annotations", (), str(error)))
    if splits:
        findings += _group_findings(sources, splits, group)
    return findings + _duplicate_findings(examined, labels, splits)


def _clip_findings(
    sources: Sources, examined: dict[str, Examined], labels: dict[str, set[str]], splits: dict[str, set[str]]
) -> list[Finding]:
    clips = load_clips(sources.root, missing="skip", empty_classes="allow")
    findings = []
    name_of = {path: name for name, path in sources.videos.items()}
    for clip in clips:
        name = name_of[clip.path]
        labels[name] |= {clips.classes[label] for label in clip.labels}
        splits[name].add(clip.split)
        video = examined[name]
        if not video.is_readable:
            continue
        reach_s = max(clip.start_s or 0.0, clip.end_s or 0.0)
        if reach_s > video.duration_s + LATE_S or (clip.start_s or 0.0) >= video.duration_s:
            message = f"a clip reaches to {reach_s:.2f} s of a video of {video.duration_s:.2f} s"
            findings.append(Finding("range", (name,), message))
    findings += [
        Finding("leakage", (name,), f"clips of this one file stand in {' and '.join(sorted(sides))}")
        for name, sides in splits.items()
        if len(sides) > 1
    ]
    return findings + _class_name_findings(clips.classes) + _balance_findings(clips)


def _class_name_findings(classes: Iterable[str]) -> list[Finding]:
    return [
        Finding("classes look alike", (), f"{', '.join(map(spelt, group))}: give them one name if they are one class")
        for group in alike(sorted(classes))
    ]


def _balance_findings(clips: ClipList) -> list[Finding]:
    counts = {
        split: Counter(clips.classes[label] for clip in clips.split(split) for label in clip.labels) for split in SPLITS
    }
    every = sum(counts.values(), Counter())
    findings = []
    if empty := [name for name in clips.classes if not every[name]]:
        findings.append(Finding("empty class", (), f"no clip has the class {first_few(empty)}"))
    if absent := [name for name in clips.classes if every[name] and not counts["train"][name]]:
        findings.append(Finding("no training clip", (), f"only other splits have the class {first_few(absent)}"))
    present = {name: count for name, count in counts["train"].items() if count}
    if present:
        most, least = max(present, key=lambda name: present[name]), min(present, key=lambda name: present[name])
        if present[most] > IMBALANCE * present[least]:
            counts_text = f"{present[most]} training clips of {most!r} and {present[least]} of {least!r}"
            findings.append(Finding("imbalance", (), f"{counts_text}; --model.weigh_classes true can make up for it"))
    return findings


def _event_findings(sources: Sources, examined: dict[str, Examined], splits: dict[str, set[str]]) -> list[Finding]:
    findings = []
    if (sources.root / "videos.csv").exists():
        for name, split in load_videos(sources.root / "videos.csv").items():
            splits[name].add(split)
    by_name = {plain_path(name): video for name, video in examined.items()}
    missing = set(map(plain_path, sources.missing))
    events = load_events(sources.root / "events.csv")
    findings += _class_name_findings({event.label for event in events})
    for event in events:
        video = by_name.get(plain_path(event.video))
        if video is None:
            if plain_path(event.video) not in missing:
                findings.append(Finding("range", (event.video,), "events.csv names it and videos.csv does not"))
        elif video.is_readable and event.end_s > video.duration_s + LATE_S:
            message = f"{event.label!r} ends at {event.end_s:.2f} s of a video of {video.duration_s:.2f} s"
            findings.append(Finding("range", (event.video,), message))
    return findings


def _group_findings(sources: Sources, splits: dict[str, set[str]], group: str | None) -> list[Finding]:
    """Return the people, or sources, in two splits: by the pattern, or else by the lists' column ``group``."""
    names = [name for name in sources.videos if splits.get(name)]
    if group is not None:
        groups = groups_of(sources.folder, [sources.videos[name] for name in names], group)
    else:
        names = [name for name in names if name in sources.groups]
        groups = [sources.groups[name] for name in names]
    sides: dict[str, set[str]] = defaultdict(set)
    members: dict[str, list[str]] = defaultdict(list)
    for name, value in zip(names, groups, strict=True):
        sides[value] |= splits[name]
        members[value].append(name)
    return [
        Finding("group on two sides", tuple(members[value]), f"{value!r} stands in {' and '.join(sorted(splits_of))}")
        for value, splits_of in sorted(sides.items())
        if len(splits_of) > 1
    ]


def _duplicate_findings(
    examined: dict[str, Examined], labels: dict[str, set[str]], splits: dict[str, set[str]]
) -> list[Finding]:
    names, videos = list(examined), list(examined.values())
    findings = []
    for i, j in find_duplicates(videos):
        pair = (names[i], names[j])
        how = "the same file" if videos[i].digest == videos[j].digest else "the same pictures, encoded again"
        sides = splits[pair[0]] | splits[pair[1]]
        kind = "leakage" if len(sides) > 1 else "duplicate"
        where = f" in {' and '.join(sorted(sides))}" if sides else ""
        findings.append(Finding(kind, pair, f"{how}{where}"))
        a, b = labels[pair[0]], labels[pair[1]]
        if a and b and a != b:
            message = f"{how}, once {', '.join(sorted(a))} and once {', '.join(sorted(b))}"
            findings.append(Finding("label conflict", pair, message))
    return findings


# -------------------------------------------------------------------------------------------------- classes and splits


def _summary(sources: Sources, examined: dict[str, Examined]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Count clips or events of each class and split with their seconds, and the unlabelled ends of untrimmed videos.

    Returns ``([], None)`` where the lists cannot be read; ``_list_findings`` reports that.
    """
    try:
        if not (sources.root / "events.csv").exists():
            return _clips_of_classes(sources, examined), None
        if not (sources.root / "videos.csv").exists():
            return [], None
        splits = {plain_path(name): split for name, split in load_videos(sources.root / "videos.csv").items()}
        events = load_events(sources.root / "events.csv")
        lengths = {plain_path(name): video.duration_s for name, video in examined.items() if video.is_readable}
    except (ValueError, FileNotFoundError):
        return [], None
    events_of: dict[str, list[Event]] = {name: [] for name in splits if name in lengths}
    for event in events:
        name = plain_path(event.video)
        if name in events_of and event.start_s < lengths[name]:
            events_of[name].append(replace(event, end_s=min(event.end_s, lengths[name])))
    return _events_of_classes(events_of, splits, lengths), _unlabelled(events_of, lengths)


def _clips_of_classes(sources: Sources, examined: dict[str, Examined]) -> list[dict[str, Any]]:
    clips = load_clips(sources.root, missing="skip", empty_classes="allow")
    lengths = {sources.videos[name]: video.duration_s for name, video in examined.items() if video.is_readable}
    counts: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for clip in clips:
        length_s = lengths.get(clip.path, 0.0)
        end_s = length_s if clip.end_s is None else min(clip.end_s, length_s)
        for label in clip.labels:
            count = counts[clips.classes[label], clip.split]
            count[0] += 1
            count[1] += max(0.0, end_s - (clip.start_s or 0.0))
    rows = []
    for name in clips.classes:
        splits = [split for split in SPLITS if (name, split) in counts] or [""]
        for split in splits:
            number, seconds = counts.get((name, split), (0, 0.0))
            rows.append({"class": name, "split": split, "clips": int(number), "seconds": round(seconds, 2)})
    return rows


def _events_of_classes(
    events: dict[str, list[Event]], splits: dict[str, str], lengths: dict[str, float]
) -> list[dict[str, Any]]:
    """Return rows of each class, and of the background: the time of a video that no event covers."""
    counts: dict[tuple[str, str], list[Event]] = defaultdict(list)
    background: dict[str, float] = defaultdict(float)
    for video, video_events in events.items():
        for event in video_events:
            counts[event.label, splits[video]].append(event)
        covered_s, reached_s = 0.0, 0.0
        for event in sorted(video_events, key=lambda event: event.start_s):
            covered_s += max(0.0, event.end_s - max(event.start_s, reached_s))
            reached_s = max(reached_s, event.end_s)
        background[splits[video]] += lengths[video] - covered_s
    rows = [
        {
            "class": label,
            "split": split,
            "events": len(class_events),
            "videos": len({plain_path(event.video) for event in class_events}),
            "seconds": round(sum(event.end_s - event.start_s for event in class_events), 2),
        }
        for label in sorted({label for label, _ in counts})
        for split in SPLITS
        if (class_events := counts.get((label, split)))
    ]
    rows += [
        {
            "class": "background",
            "split": split,
            "events": 0,
            "videos": sum(splits[video] == split for video in events),
            "seconds": round(background[split], 2),
        }
        for split in SPLITS
        if split in background
    ]
    return rows


def _unlabelled(events: dict[str, list[Event]], lengths: dict[str, float]) -> dict[str, Any]:
    """Sum the seconds before the first and after the last event of all videos; name the videos that are mostly that."""
    before_s, after_s = 0.0, 0.0
    shares = {}
    for video, video_events in events.items():
        first_s = min((event.start_s for event in video_events), default=0.0)
        last_s = max((event.end_s for event in video_events), default=0.0)
        before_s += first_s
        after_s += lengths[video] - last_s
        if lengths[video]:
            shares[video] = (first_s + lengths[video] - last_s) / lengths[video]
    total_s = sum(lengths[video] for video in events)
    return {
        "before_s": round(before_s, 2),
        "after_s": round(after_s, 2),
        "share": round((before_s + after_s) / total_s, 4) if total_s else 0.0,
        "videos": {
            video: round(share, 4)
            for video, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))
            if share > MOST_UNLABELLED
        },
    }


def unlabelled_text(unlabelled: dict[str, Any]) -> str:
    """Describe the unlabelled ends in words: a detector learns as background what is not labelled there."""
    text = (
        f"unlabelled at the ends of videos: {unlabelled['before_s']:g} s before the first event and "
        f"{unlabelled['after_s']:g} s after the last, {unlabelled['share']:.0%} of all time".replace("%", " %")
    )
    if unlabelled["videos"]:
        shares = [f"{video} {share:.0%}".replace("%", " %") for video, share in unlabelled["videos"].items()]
        text += f"; more than half of {first_few(shares, 3)}"
    return text


def summary_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Format the rows of classes as aligned lines under the columns' names."""
    if not rows:
        return []
    cells = [list(rows[0]), *[[f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()]
                              for row in rows]]  # fmt: skip
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return [
        "  ".join([line[0].ljust(widths[0]), line[1].ljust(widths[1]),
                   *(cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True))])
        for line in cells
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the report


def _write(checked: Checked, sources: Sources, examined: dict[str, Examined]) -> None:
    out = checked.out
    good = [video for video in examined.values() if video.is_readable]
    rates = Counter(f"{video.fps:.5g}" for video in good)
    sizes = Counter(f"{video.width}x{video.height}" for video in good)
    figures: dict[str, Any] = {
        "videos": len(examined),
        "readable": len(good),
        "findings": len(checked.findings),
        "errors": sum(finding.severity == "error" for finding in checked.findings),
        "hours": round(sum(video.duration_s for video in good) / 3600, 4),
        "bytes": sum(video.num_bytes for video in examined.values()),
        "frame_rates": dict(rates.most_common(8)),
        "sizes": dict(sizes.most_common(8)),
    }
    rows = [asdict(finding) | {"severity": finding.severity} for finding in checked.findings]
    write_json(
        out / CHECK,
        {
            "root": str(sources.root),
            "figures": figures,
            "kinds": checked.kinds(),
            "classes": checked.classes,
            "unlabelled": checked.unlabelled,
            "findings": rows,
            "videos": checked.facts,
        },
    )
    save_results(out, {"check": figures}, command_line())
    notes = [
        f"{figures['videos']} videos, {figures['hours']:.2f} hours, {jobs.size_text(figures['bytes'])}; "
        f"{len(checked.findings)} findings, {figures['errors']} of them errors.",
        f"Frame rates: {_most_common_text(rates)}. Sizes: {_most_common_text(sizes)}.",
    ]
    notes += sources.notes
    if not checked.findings:
        notes.append("This check finds nothing wrong with the set.")
    table = [
        {
            "kind": finding.kind,
            "severity": finding.severity,
            "videos": first_few(finding.videos, 3),
            "what": finding.words,
        }
        for finding in checked.findings
    ]
    concerned = dict.fromkeys(name for finding in checked.findings for name in finding.videos if name in examined)
    kinds = {name: ", ".join(dict.fromkeys(f.kind for f in checked.findings if name in f.videos)) for name in concerned}
    pictures = []
    if concerned:
        pictures.append(
            _write_sheet([(name, kinds[name], examined[name]) for name in concerned], out / "plots" / "found.png")
        )
    # The sample of the other videos is taken at even steps over the sorted names, so that it spreads over the classes.
    rest = [name for name in sorted(examined) if name not in concerned]
    sampled = rest[:: max(1, -(-len(rest) // NUM_SHOWN))]
    if sampled:
        pictures.append(_write_sheet([(name, "", examined[name]) for name in sampled], out / "plots" / "sample.png"))
    if checked.unlabelled is not None:
        notes.append(f"{unlabelled_text(checked.unlabelled)}.")
    tables = {"Classes": checked.classes} if checked.classes else {}
    title = f"Check of {sources.root.resolve().name}"
    checked.page = write_summary(out, title, table, notes=notes, pictures=pictures, tables=tables)


def _most_common_text(counts: Counter[str]) -> str:
    most = ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))
    return most + (f" and {len(counts) - 5} others" if len(counts) > 5 else "") or "none"


def _write_sheet(videos: Sequence[tuple[str, str, Examined]], path: Path) -> Path:
    """Write a PNG of the middle frames, with the names below and the kinds of defects in red."""
    videos = videos[:NUM_SHOWN]
    side, below, columns = 160, 44, min(8, len(videos))
    rows = -(-len(videos) // columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + below)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (name, wrong, video) in enumerate(videos):
        x, y = index % columns * (side + 8) + 4, index // columns * (side + below) + 4
        if video.picture is None:
            draw.rectangle((x, y, x + side, y + side * 3 // 4), fill="#ddd")
            draw.text((x + 8, y + 8), "no picture", fill="#666", font=font)
        else:
            picture = video.picture[:side, :side]
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, y))
        lines = textwrap.wrap(name if len(name) < 48 else "…" + name[-47:], 26, break_on_hyphens=False)[:2]
        draw.multiline_text((x, y + side + 2 - 38), "\n".join(lines), fill="black", font=font, stroke_width=2,
                            stroke_fill="white")  # fmt: skip
        if wrong:
            draw.text((x, y + side - 4), wrong[:30], fill="#b00020", font=font, stroke_width=2, stroke_fill="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as half:
        sheet.save(half, format="PNG")
    return path
