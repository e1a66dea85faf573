"""A page of found events: each video with its timeline and a picture of every event, which play it when clicked.

The page contains its pictures and scripts and loads nothing from a network; the videos stay where they are and are
named by their paths from the page's folder.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

import numpy as np
from PIL import Image

from vidact.events import Detection
from vidact.files import replacing
from vidact.stream.window.overlay import COLOURS, clock
from vidact.text.names import counted
from vidact.untrimmed.finder import VideoEvents
from vidact.video import open_video

TEMPLATE = Path(__file__).with_name("page.html")
WIDTH, HEIGHT = 320, 180  # pixels of a picture, at most
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
MOST_TICKS = 10


def write_page(
    out: Path, sections: Sequence[str], title: str = "Events", note: str = "Click an event or a bar to play it."
) -> Path:
    """Write the page and return its path.

    Args:
        out: a file, whose folder is made.
        sections: of ``section``.
    """
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title), note=escape(note), sections="\n".join(sections)
    )
    with replacing(out) as half:
        half.write_text(text, encoding="utf-8")
    return out


def section(answer: VideoEvents, classes: Sequence[str], folder: Path, decoder: str = "pyav") -> str:
    """Return the part of the page for one video.

    Args:
        classes: all classes, in the order of their colours.
        folder: that of the page, from which the video is named.
    """
    heading = f"<h2>{escape(answer.video)}</h2>"
    if answer.error:
        return f'<section>{heading}<p class="warning">{escape(answer.error)}</p></section>'
    length_s = max(answer.duration_s, 1e-6)
    colours = {name: "#{:02x}{:02x}{:02x}".format(*COLOURS[i % len(COLOURS)]) for i, name in enumerate(classes)}
    lanes = []
    for name in classes:
        bars = "".join(
            f'<button style="left:{100 * event.start_s / length_s:.4f}%;'
            f'width:{100 * (event.end_s - event.start_s) / length_s:.4f}%" {_data(event)} title="{_words(event)}" '
            f'aria-label="{_words(event)}"></button>'
            for event in answer.events
            if event.label == name
        )
        if bars:
            lanes.append(
                f'<div class="lane" style="--of:{colours[name]}"><span title="{escape(name)}">{escape(name)}</span>'
                f'<div class="track">{bars}</div></div>'
            )
    ticks = "".join(
        f'<i style="left:{100 * second / length_s:.3f}%">{clock(second)}</i>' for second in _ticks(answer.duration_s)
    )
    lanes.append(f'<div class="lane ticks"><span></span><div class="track">{ticks}</div></div>')
    cards = "".join(
        f'<button class="event" style="--of:{colours[event.label]}" {_data(event)}>'
        f'<img loading="lazy" alt="" src="data:image/jpeg;base64,{picture}">'
        f"<div><b>{escape(event.label)}</b>{_span(event)}<br>score {event.score:.2f}</div></button>"
        for event, picture in zip(answer.events, _pictures(answer, decoder), strict=True)
    )
    least = min((event.score for event in answer.events), default=0.0)
    return f"""<section data-lead="{answer.lead_s:.6f}" data-length="{length_s:.6f}">{heading}
<p class="note">{counted(len(answer.events), "event")} in {clock(answer.duration_s)}</p>
<video controls preload="metadata" playsinline src="{_link(answer.path, folder)}"></video>
<p class="warning" hidden>This browser does not play the video, or does not find it from here: it has to stay at
{escape(os.path.relpath(answer.path, folder))}, seen from the folder of this page. Most browsers play H.264 in .mp4,
which <code>vidact predict --annotate</code> writes.</p>
<div class="scroll"><div class="timeline">{"".join(lanes)}<div class="now"></div></div></div>
<div class="bar"><label>zoom <input class="zoom" type="range" min="1" max="20" step="0.5" value="1"></label>
<label>least score <input class="least" type="range" min="{math.floor(100 * least) / 100:g}" max="1" step="0.01"
value="{math.floor(100 * least) / 100:g}"> <span class="least_value">{math.floor(100 * least)}%</span></label></div>
<div class="events">{cards}</div></section>"""


def _data(event: Detection) -> str:
    return f'data-start="{event.start_s:.4f}" data-end="{event.end_s:.4f}" data-score="{event.score:.4f}"'


def _span(event: Detection) -> str:
    return f"{clock(event.start_s)} – {clock(event.end_s)} ({event.end_s - event.start_s:.1f} s)"


def _words(event: Detection) -> str:
    return escape(f"{event.label}, {_span(event)}, score {event.score:.2f}")


def _link(path: Path, folder: Path) -> str:
    """Return the address of a file from a folder, on any system."""
    try:
        relative = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
    except ValueError:  # another drive of Windows
        return escape(Path(os.path.abspath(path)).as_uri())
    return escape(quote(relative.replace(os.sep, "/")))


def _ticks(duration_s: float) -> list[int]:
    """Return round seconds for a scale, at most ``MOST_TICKS``."""
    step = next((step for step in STEPS_S if duration_s / step <= MOST_TICKS), 3600 * math.ceil(duration_s / 36_000))
    return [second for second in range(0, math.floor(duration_s) + 1, step) if second <= 0.98 * duration_s]


def _pictures(answer: VideoEvents, decoder: str) -> list[str]:
    """Return the JPEG (base64) of the frame in the middle of each event."""
    if not answer.events:
        return []
    with open_video(answer.path, decoder=decoder) as reader:
        times_s = reader.times_s - reader.times_s[0]
        middles = np.array([(event.start_s + event.end_s) / 2 for event in answer.events])
        numbers = (np.searchsorted(times_s, middles, side="right") - 1).clip(0, len(times_s) - 1)
        return [_jpeg(reader.frames_at([number]).images[0].permute(1, 2, 0).numpy()) for number in numbers.tolist()]


def _jpeg(image: np.ndarray) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((WIDTH, HEIGHT))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75)
    return base64.b64encode(file.getvalue()).decode()
