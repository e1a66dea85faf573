"""The overlay of a frame: the present actions with their probabilities, and a scrolling timeline of the last seconds.

Three panels, white on a dark veil so that they read on a bright and on a dark picture: the best labels at the top left,
time, latency and drops at the top right, and at the bottom a lane for each class that was active lately. A lane shows
the class's probability as an area, its events as a bar below, and, right of "now", the network's predictions. Together
they cover less than half of the frame. Labels of events that are going on are bold, with a filled mark.

A frame with a side below 240 pixels is enlarged by a whole number first, since no text could be read on it.

Shapes: K classes, column 0 of 1 + K probabilities is the background; L tokens ahead.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidact.events import Detection

if TYPE_CHECKING:
    from vidact.stream.engine import StreamUpdate


def _data_of_matplotlib() -> str:
    """Return matplotlib's folder of data, without its import, which takes half a second, where the folder is usual."""
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None and (usual := Path(spec.origin).with_name("mpl-data")).is_dir():
        return str(usual)
    import matplotlib

    return matplotlib.get_data_path()


# Fonts that come with matplotlib, for Latin, Greek, Cyrillic, Arabic and more.
DEJAVU, BOLD = (f"{_data_of_matplotlib()}/fonts/ttf/{name}.ttf" for name in ("DejaVuSans", "DejaVuSans-Bold"))
LEAST_SIDE = 240  # pixels; smaller frames are enlarged
VEIL = (12, 14, 18, 200)
WHITE, DIM, FAINT = (255, 255, 255, 255), (206, 211, 218, 255), (88, 94, 104, 220)
# Colours that differ clearly on the veil; the classes take them in this order.
COLOURS = (
    (98, 170, 255), (255, 158, 77), (103, 214, 146), (214, 143, 255),
    (255, 118, 130), (244, 214, 100), (84, 214, 214), (255, 148, 208),
)  # fmt: skip
IS_ACTIVE = 0.2  # a class has a lane if its probability reached this within the timeline's seconds
LABELS = 3  # the number of classes at the top left
TICKS_S = (1, 2, 5, 10, 15, 30, 60)


class History:
    """The last seconds of one source's answers and events, which the timeline shows.

    Args:
        tokens_per_second: the rate of the answers.
        seconds: how far the timeline goes back.
        future_offsets: how many tokens ahead each row of an update's ``future`` is; None is 1, 2, …
    """

    def __init__(
        self, tokens_per_second: float, seconds: float = 10.0, future_offsets: Sequence[int] | None = None
    ) -> None:
        if not seconds > 0:
            raise ValueError(f"a timeline of {seconds:g} s shows nothing; give a number above 0")
        self.period_s = 1 / tokens_per_second
        self.seconds = seconds
        self.future_offsets = future_offsets
        self.ends_s: deque[float] = deque()  # when each answer's token ends
        self.scores: deque[np.ndarray] = deque()  # each answer's, (1 + K,)
        self.open: dict[str, Detection] = {}
        self.closed: deque[Detection] = deque()
        self.dropped = 0  # frames since the start

    @property
    def now_s(self) -> float:
        """The end of the newest token."""
        return self.ends_s[-1]

    def add(self, update: StreamUpdate) -> None:
        """Add the next answer, and forget what is older than the timeline."""
        end_s = update.seconds + self.period_s
        self.dropped += update.dropped
        if update.is_withdrawn and self.ends_s and self.now_s == end_s:
            self.ends_s.pop()
            self.scores.pop()
        elif not self.ends_s or end_s > self.now_s:  # the end of a live source repeats its last answer
            self.ends_s.append(end_s)
            self.scores.append(np.asarray(update.scores))
        self.open |= {event.label: event for event in update.opened}
        for event in update.events:
            self.open.pop(event.label, None)
            self.closed.append(event)
        if not self.ends_s:  # the only answer was withdrawn
            return
        oldest_s = self.now_s - self.seconds
        while self.ends_s[0] < oldest_s:
            self.ends_s.popleft()
            self.scores.popleft()
        while self.closed and self.closed[0].end_s < oldest_s:
            self.closed.popleft()

    def bars(self, label: str) -> list[tuple[float, float]]:
        """Return the start and end in seconds of the class's events; one that is going on reaches to now."""
        closed = [(event.start_s, event.end_s) for event in self.closed if event.label == label]
        return [*closed, (self.open[label].start_s, self.now_s)] if label in self.open else closed

    def ahead(self, update: StreamUpdate) -> np.ndarray:
        """Return the probabilities (L', 1 + K) of the next tokens; empty where the network predicts none."""
        if update.future is None:
            return np.zeros((0, len(update.scores)))
        rows = np.asarray(update.future)
        offsets = list(self.future_offsets or range(1, len(rows) + 1))
        return rows[[offsets.index(n) for n in range(1, max(offsets) + 1) if n in offsets]]


class Panel(NamedTuple):
    """A drawn part of the overlay and the position of its upper left corner, in pixels."""

    x: int
    y: int
    image: Image.Image  # RGBA


def draw(update: StreamUpdate, classes: Sequence[str], history: History, image: np.ndarray | None = None) -> np.ndarray:
    """Return the update's frame, or ``image``, with the overlay on it: a new uint8 (H', W', 3) RGB picture.

    Args:
        update: the newest answer.
        classes: names of the K actions.
        history: the history of the source, with the update added.
        image: a picture uint8 (H, W, 3) RGB.
    """
    frame = enlarge(update.image if image is None else image)
    return blend(frame, render(update, classes, history, frame.shape[1], frame.shape[0]))


def enlarge(image: np.ndarray) -> np.ndarray:
    """Return a copy of the picture (H, W, 3), enlarged by a whole number to sides of at least LEAST_SIDE pixels."""
    factor = math.ceil(LEAST_SIDE / min(image.shape[:2]))
    if factor <= 1:
        return image.copy()
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)


def blend(frame: np.ndarray, panels: Sequence[Panel]) -> np.ndarray:
    """Draw the panels on ``frame`` (H, W, 3), which is changed and returned; parts beyond its edges are cut off."""
    height, width = frame.shape[:2]
    for x, y, image in panels:
        region = frame[y : min(y + image.height, height), x : min(x + image.width, width)]
        below = Image.fromarray(region)
        below.paste(image, (0, 0), image)
        region[:] = np.asarray(below)
    return frame


def render(update: StreamUpdate, classes: Sequence[str], history: History, width: int, height: int) -> list[Panel]:
    """Return the panels for a frame of this size; all frames until the next answer share them."""
    size = _text_size(width, height)
    margin = size // 2
    state = _state_panel(update, history, width, size)
    labels = _label_panel(update, classes, history, width - state.width - 3 * margin, size)
    timeline = _timeline_panel(update, classes, history, width, height, size)
    return [
        Panel(margin, margin, labels),
        Panel(width - state.width - margin, margin, state),
        Panel(0, height - timeline.height, timeline),
    ]


def render_waiting(width: int, height: int) -> list[Panel]:
    """Return the panel for the time before the first answer."""
    size = _text_size(width, height)
    text = "no answer yet"
    font = _font(DEJAVU, size)
    panel = Image.new("RGBA", (round(font.getlength(text)) + size, round(1.7 * size)), VEIL)
    ImageDraw.Draw(panel).text((size // 2, panel.height / 2), text, DIM, font, anchor="lm")
    return [Panel(size // 2, size // 2, panel)]


def _text_size(width: int, height: int) -> int:
    return int(np.clip(min(width, height) / 30, 10, 40))


def _small(size: int) -> int:
    """Return the size of the text beside the labels: smaller, as far as it can be read."""
    return max(10, round(0.75 * size))


# ---- the panels


def _state_panel(update: StreamUpdate, history: History, width: int, size: int) -> Image.Image:
    """Draw the seconds, the latency and any drops, on one line, or on a line each where the frame is narrow."""
    figures = [clock(history.now_s), f"{update.latency_ms:.0f} ms"]
    if history.dropped:
        figures.append(f"{history.dropped} dropped")
    lines = ["   ".join(figures)] if width >= 30 * size else figures
    font = _font(DEJAVU, _small(size))
    line = round(1.2 * size)
    wide = round(max(font.getlength(text) for text in lines)) + size
    panel = Image.new("RGBA", (wide, line * len(lines) + size // 2), VEIL)
    pen = ImageDraw.Draw(panel)
    for row, text in enumerate(lines):
        pen.text((wide - size / 2, size / 4 + (row + 0.5) * line), text, DIM, font, anchor="rm")
    return panel


def _label_panel(update: StreamUpdate, classes: Sequence[str], history: History, room: int, size: int) -> Image.Image:
    """Draw the classes of current events, then the most probable ones: mark, name, probability and its bar."""
    scores = np.asarray(update.scores)[1:]
    best = sorted(range(len(classes)), key=lambda c: (classes[c] not in history.open, -scores[c]))[:LABELS]
    line, gap = round(1.8 * size), size // 2
    width = min(room, 22 * size)
    panel = Image.new("RGBA", (width, line * len(best) + gap), VEIL)
    pen = ImageDraw.Draw(panel)
    percent = _font(DEJAVU, size)
    right = width - gap
    name_end = right - round(percent.getlength("100%")) - gap
    for row, c in enumerate(best):
        is_on, colour = classes[c] in history.open, COLOURS[c % len(COLOURS)]
        top = gap / 2 + row * line
        middle, low = top + 0.43 * line, top + 0.95 * line
        mark = (gap, middle - 0.3 * size, gap + 0.6 * size, middle + 0.3 * size)
        pen.rectangle(mark, fill=colour if is_on else None, outline=colour, width=max(1, size // 12))
        left = gap + round(1.0 * size)
        _write(pen, (left, middle), classes, c, size, name_end - left, is_on)
        pen.text((right, middle), f"{scores[c]:.0%}", WHITE if is_on else DIM, percent, anchor="rm")
        thick = max(2, size // 8)
        pen.rectangle((left, low - thick, right, low), fill=FAINT)
        if scores[c] * (right - left) >= 1:
            pen.rectangle((left, low - thick, left + scores[c] * (right - left), low), fill=(*colour, 255))
    return panel


def _timeline_panel(
    update: StreamUpdate, classes: Sequence[str], history: History, width: int, height: int, size: int
) -> Image.Image:
    """Draw a lane a class; time runs from left to right, and "now" is at the right end, or where predictions begin."""
    lanes = active_classes(history, classes, most=2 if height < 360 else 3 if height < 700 else 4)
    gap, lane, foot = size // 3, round(1.6 * size), round(1.2 * size)
    bottom = gap + max(1, len(lanes)) * lane
    panel = Image.new("RGBA", (width, bottom + foot), VEIL)
    pen = ImageDraw.Draw(panel)
    left = min(round(0.38 * width), longest(tuple(classes), _small(size)) + 2 * gap)
    ahead = history.ahead(update)
    ahead_s = len(ahead) * history.period_s
    begin_s = history.now_s - history.seconds
    scale = (width - left - gap) / (history.seconds + ahead_s)  # pixels a second
    _draw_ticks(pen, begin_s, history.now_s, left, scale, (gap, bottom, bottom + foot / 2), size)
    times_s = begin_s + (np.arange(width - left - gap) + 0.5) / scale  # the time of each column of pixels
    bar = max(2, size // 6)
    for row, c in enumerate(lanes):
        top, colour = gap + row * lane, COLOURS[c % len(COLOURS)]
        is_on = classes[c] in history.open
        _write(pen, (gap, top + lane / 2), classes, c, _small(size), left - 2 * gap, is_on)
        panel.alpha_composite(_area(history, ahead, c, times_s, lane - 2 * bar, colour), (left, top))
        for start_s, end_s in history.bars(classes[c]):
            first, last = (left + (max(second, begin_s) - begin_s) * scale for second in (start_s, end_s))
            if last - first >= 1:
                pen.rectangle((first, top + lane - 2 * bar + 1, last - 1, top + lane - bar), fill=(*colour, 255))
    if not lanes:
        pen.text((gap, gap + lane / 2), "no action", DIM, _font(DEJAVU, _small(size)), anchor="lm")
    if ahead_s:
        now = left + history.seconds * scale
        pen.line((now, gap, now, bottom), fill=WHITE, width=max(1, size // 12))
        font = _font(DEJAVU, _small(size))
        text = f"+{ahead_s:g} s"
        if font.getlength(text) < ahead_s * scale - gap:
            pen.text((width - gap, bottom + foot / 2), text, DIM, font, anchor="rm")
    return panel


def active_classes(history: History, classes: Sequence[str], most: int) -> list[int]:
    """Return up to ``most`` classes, in their order, that had an event or the probability IS_ACTIVE in the timeline."""
    if not history.scores:
        return []
    peaks = np.stack(history.scores)[:, 1:].max(0)
    with_events = {event.label for event in history.closed} | set(history.open)
    peaks += [2.0 * (name in history.open) + (name in with_events) for name in classes]
    best = np.argsort(-peaks, kind="stable")[:most]
    return sorted(int(c) for c in best if peaks[c] >= IS_ACTIVE)


def _draw_ticks(
    pen: ImageDraw.ImageDraw,
    begin_s: float,
    now_s: float,
    left: int,
    scale: float,
    rows: tuple[float, float, float],
    size: int,
) -> None:
    """Draw lines at round seconds, which scroll with the scores, and their times; ``rows``: top, bottom, text."""
    top, bottom, text = rows
    font = _font(DEJAVU, _small(size))
    wide, right = font.getlength("00:00"), left + (now_s - begin_s) * scale
    step = next((step for step in TICKS_S if step * scale > 1.6 * wide), TICKS_S[-1])
    for second in range(max(0, math.ceil(begin_s / step)) * step, math.floor(now_s) + 1, step):
        x = left + (second - begin_s) * scale
        pen.line((x, top, x, bottom), fill=FAINT)
        if x + wide / 2 <= right:
            pen.text((x, text), clock(second), DIM, font, anchor="mm")


def _area(
    history: History, ahead: np.ndarray, c: int, times_s: np.ndarray, height: int, colour: tuple[int, int, int]
) -> Image.Image:
    """Draw the probability of class ``c`` at ``times_s`` as a filled area, paler where it is a prediction."""
    ends_s = np.asarray(history.ends_s)
    scores = np.stack(history.scores)[:, 1 + c]
    at = np.searchsorted(ends_s, times_s).clip(max=len(ends_s) - 1)  # the token that covers the time, if one does
    is_known = (times_s <= ends_s[at]) & (times_s > ends_s[at] - 1.01 * history.period_s)
    values = np.where(is_known, scores[at], 0.0)
    is_ahead = times_s > history.now_s
    if len(ahead):
        token = ((times_s - history.now_s) / history.period_s).astype(int).clip(0, len(ahead) - 1)
        values = np.where(is_ahead, ahead[token, 1 + c], values)
    rows = height - 1 - np.arange(height)[:, None]  # counted from the bottom
    is_filled = rows < np.round(values * height)[None]
    pixels = np.zeros((height, len(times_s), 4), dtype=np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = np.where(is_filled, np.where(is_ahead, 110, 215)[None], 0)
    return Image.fromarray(pixels)


# ---- text


def clock(seconds: float) -> str:
    """Return whole seconds as 1:05, or 1:02:05 from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _write(
    pen: ImageDraw.ImageDraw,
    position: tuple[float, float],
    classes: Sequence[str],
    c: int,
    size: int,
    room: float,
    is_on: bool,
) -> None:
    """Write the name of class ``c`` at ``position``, the middle of its left edge, cut with … where it does not fit."""
    text, file = drawn_name(classes[c], c)
    font = _font(BOLD if is_on and file == DEJAVU else file, size)
    if font.getlength(text) > room:
        while text and font.getlength(text + "…") > room:
            text = text[:-1]
        text = text.rstrip() + "…"
    pen.text(position, text, WHITE if is_on else DIM, font, anchor="lm")


@lru_cache(maxsize=16)
def longest(classes: tuple[str, ...], size: int) -> int:
    """Return the width in pixels of the widest name in bold."""
    drawn = (drawn_name(name, c) for c, name in enumerate(classes))
    return math.ceil(max(_font(BOLD if file == DEJAVU else file, size).getlength(text) for text, file in drawn))


@cache
def drawn_name(name: str, c: int) -> tuple[str, str]:
    """Return the text for class ``c``, and the font file that has all its characters.

    The text is the name, or "class 3" where no font of this machine can draw it, because boxes would all look alike.
    """
    if name.isascii() and name.isprintable():  # DejaVu has these characters
        return name, DEJAVU
    characters = {ord(character) for character in name}
    for file in (DEJAVU, *_system_fonts()) if characters - _characters(DEJAVU) else (DEJAVU,):
        if characters <= _characters(file) and _is_scalable(file):
            return name, file
    return f"class {c}", DEJAVU


@cache
def _system_fonts() -> tuple[str, ...]:
    """Return the machine's fonts, those first whose names promise many scripts."""
    from matplotlib.font_manager import findSystemFonts

    many = ("noto", "cjk", "unicode", "unifont", "pingfang", "hiragino", "yahei", "meiryo", "malgun", "wqy", "nanum")
    files = (Path(file) for file in findSystemFonts())
    # Apple's LastResort font has a box for every character.
    usable = [file for file in files if "lastresort" not in file.name.lower()]
    return tuple(map(str, sorted(usable, key=lambda f: (not any(word in f.name.lower() for word in many), f.name))))


@cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (RuntimeError, OSError):  # not a font that FreeType reads
        return frozenset()


@cache
def _is_scalable(file: str) -> bool:
    """Whether a font can be drawn at any size; fonts of bitmaps, such as coloured emoji, cannot."""
    try:
        ImageFont.truetype(file, 17)
    except OSError:
        return False
    return True


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
