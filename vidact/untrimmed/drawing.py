"""A video with its events drawn on it: the current ones at the top left, the timeline of the whole video below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidact.events import Detection
from vidact.stream.window.overlay import (
    COLOURS,
    DIM,
    VEIL,
    WHITE,
    Panel,
    blend,
    clock,
    drawn_name,
    enlarge,
)
from vidact.untrimmed.cuts import blocks
from vidact.untrimmed.encoding import writing
from vidact.untrimmed.finder import VideoEvents
from vidact.video import open_video

MOST_LANES = 8  # classes with a lane, those with the most events; events of further ones are only named
MOST_HEIGHT = 0.4  # the share of the frame that the lanes may cover
CRF = 23


def annotate_events(answer: VideoEvents, classes: Sequence[str], out: Path, decoder: str = "pyav") -> None:
    """Write the video again as H.264, each frame at its own second, with its events; sound is not copied.

    Args:
        classes: all classes, in the order of their colours.
        out: a file whose suffix is one of ``vidact.prediction.CONTAINERS``.
    """
    with open_video(answer.path, decoder=decoder) as reader:
        times_s = reader.times_s
        height, width = enlarge(np.zeros((reader.height, reader.width, 3), np.uint8)).shape[:2]
        timeline = Timeline(answer.events, classes, answer.duration_s, width, height)
        with writing(out, width, height, reader.fps, CRF) as write:
            for time_s, image in blocks(reader, range(len(times_s))):
                second = time_s - float(times_s[0])
                write(blend(enlarge(image), timeline.panels(second)), second)


class Timeline:
    """The panels of a video's frames: a lane for each class with events, which stays, and a line that moves.

    Args:
        events: those of the video.
        classes: all classes, in the order of their colours.
        duration_s: the length of the video.
        width: of the frames in pixels.
        height: of the frames in pixels.
    """

    def __init__(
        self, events: Sequence[Detection], classes: Sequence[str], duration_s: float, width: int, height: int
    ) -> None:
        self.events, self.classes, self.duration_s = list(events), list(classes), max(duration_s, 1e-6)
        self.width, self.height = width, height
        self.size = int(np.clip(min(width, height) / 30, 10, 32))
        counts = {name: sum(event.label == name for event in events) for name in classes}
        self._small = max(9, round(0.75 * self.size))
        most = min(MOST_LANES, max(1, int(MOST_HEIGHT * height / self._lane)))
        often = sorted((name for name in classes if counts[name]), key=lambda name: -counts[name])[:most]
        self.lanes = [name for name in classes if name in often]
        self._labels: dict[tuple[int, ...], Panel | None] = {}
        self._strip, self._left = self._draw_strip()

    def panels(self, second: float) -> list[Panel]:
        """Return the panels of the frame of this second of the video."""
        top = self.height - self._strip.height
        x = self._left + round(min(second / self.duration_s, 1.0) * (self.width - self._left - self.size // 2))
        line = Image.new("RGBA", (max(2, self.size // 6), self._strip.height), WHITE)
        current = tuple(i for i, event in enumerate(self.events) if event.start_s <= second < event.end_s)
        if current not in self._labels:
            self._labels = {current: self._draw_labels(current)}
        labels = self._labels[current]
        return [Panel(0, top, self._strip), Panel(x, top, line), *([labels] if labels else [])]

    @property
    def _lane(self) -> int:
        return round(1.5 * self._small)

    def _font(self, name: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
        """Return the text for a class and a font that has its characters."""
        text, file = drawn_name(name, self.classes.index(name))
        return text, ImageFont.truetype(file, size)

    def _colour(self, name: str) -> tuple[int, int, int]:
        return COLOURS[self.classes.index(name) % len(COLOURS)]

    def _draw_strip(self) -> tuple[Image.Image, int]:
        """Return the lanes with their events and the length of the video, and where the lanes begin."""
        small, gap, lane = self._small, self.size // 2, self._lane
        names = [self._font(name, small) for name in self.lanes]
        widest = max((round(font.getlength(text)) for text, font in names), default=0)
        left = min(widest + 2 * gap, round(0.35 * self.width)) if names else gap
        strip = Image.new("RGBA", (self.width, lane * max(1, len(names)) + gap), VEIL)
        pen = ImageDraw.Draw(strip)
        scale = (self.width - left - gap) / self.duration_s
        if not names:
            words, file = drawn_name("no events", 0)
            pen.text((gap, strip.height / 2), words, DIM, ImageFont.truetype(file, small), anchor="lm")
        for row, (name, (text, font)) in enumerate(zip(self.lanes, names, strict=True)):
            top = gap // 2 + row * lane
            while text and font.getlength(text) > left - gap - 2:
                text = text[:-1]
            pen.text((gap // 2, top + lane / 2), text, DIM, font, anchor="lm")
            for event in self.events:
                if event.label == name:
                    first = left + event.start_s * scale
                    last = max(left + event.end_s * scale, first + 2)
                    pen.rectangle((first, top + 0.2 * lane, last, top + 0.8 * lane), fill=(*self._colour(name), 255))
        return strip, left

    def _draw_labels(self, current: tuple[int, ...]) -> Panel | None:
        """Return the names, scores and times of the current events; None without one."""
        if not current:
            return None
        gap, line = self.size // 2, round(1.5 * self.size)
        best = sorted((self.events[i] for i in current), key=lambda event: -event.score)[:4]
        rows = []
        for event in best:
            text, font = self._font(event.label, self.size)
            rows.append((f"{text}  {event.score:.0%}  {clock(event.start_s)}–{clock(event.end_s)}", font, event.label))
        wide = min(max(round(font.getlength(text)) for text, font, _ in rows) + 3 * self.size, self.width - 2 * gap)
        panel = Image.new("RGBA", (wide, line * len(rows) + gap), VEIL)
        pen = ImageDraw.Draw(panel)
        for row, (text, font, label) in enumerate(rows):
            middle = gap / 2 + (row + 0.5) * line
            pen.rectangle((gap, middle - 0.3 * self.size, gap + 0.6 * self.size, middle + 0.3 * self.size),
                          fill=(*self._colour(label), 255))  # fmt: skip
            pen.text((gap + self.size, middle), text, WHITE, font, anchor="lm")
        return Panel(gap, gap, panel)
