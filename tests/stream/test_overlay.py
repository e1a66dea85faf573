"""The overlay: readable on any frame, of any size, in any script; it scrolls, and never hides the picture."""

import numpy as np
import pytest

from vidact.events import Detection
from vidact.stream.engine import StreamUpdate
from vidact.stream.window import overlay
from vidact.stream.window.overlay import (
    COLOURS,
    History,
    active_classes,
    blend,
    draw,
    drawn_name,
    enlarge,
    render,
)

CLASSES = ["moving right", "прыжок через скакалку", "turning counterclockwise with a very large object in both hands"]
SIZES = [
    (320, 240),
    (1280, 720),
    (1920, 1080),
    (3840, 2160),
    (720, 1280),
    (1080, 1920),
    (96, 80),
    (640, 64),
    (200, 900),
]
RATE = 4.0


def update(seconds, scores, opened=(), future=None, image=None, closed=(), dropped=0, is_last=False, latency_ms=38.0):
    image = np.zeros((240, 320, 3), np.uint8) if image is None else image
    scores = np.array([max(0.0, 1 - sum(scores)), *scores])
    return StreamUpdate(
        "clip", seconds, scores, list(closed), list(opened), future, latency_ms, dropped, image, is_last
    )


def event(label, start_s, end_s):
    return Detection("clip", start_s, end_s, label, 0.8)


def played(tokens=40, on=8, future=None, dropped=0, image=None):
    """The first class is on for the last ``on`` tokens, the others are not seen."""
    history = History(RATE)
    for t in range(tokens):
        is_on = t >= tokens - on
        opened = [event(CLASSES[0], t / RATE, (t + 1) / RATE)] if t == tokens - on else []
        last = update(t / RATE, [0.9 if is_on else 0.0, 0.0, 0.0], opened, future=future, dropped=dropped, image=image)
        history.add(last)
    return last, history


def coloured(frame, c):
    """Where a class's own colour is drawn, (H, W)."""
    return np.abs(frame.astype(int) - COLOURS[c]).max(2) < 12


# ---- the frame


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("ahead", [0, 8])
def test_the_picture_stays_visible(size, ahead):
    """Panels lie inside the frame, overlap nothing, and leave more than half of it as it was, bit for bit."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    future = np.full((ahead, 4), 0.25) if ahead else None
    last, history = played(future=future, dropped=100, image=noise)
    history.open |= {name: event(name, 5, 6) for name in CLASSES}  # as full as it gets
    before = noise.copy()
    drawn = draw(last, CLASSES, history)
    assert np.array_equal(noise, before)
    height, width = drawn.shape[:2]
    assert min(height, width) >= overlay.LEAST_SIDE
    assert height % size[1] == width % size[0] == 0
    covered = np.zeros((height, width), int)
    for x, y, image in render(last, CLASSES, history, width, height):
        assert min(x, y) >= 0
        assert x + image.width <= width
        assert y + image.height <= height
        covered[y : y + image.height, x : x + image.width] += 1
    assert covered.max() == 1
    assert covered.mean() < 0.5
    assert np.array_equal(drawn[covered == 0], enlarge(noise)[covered == 0])
    assert (drawn[covered == 1] != enlarge(noise)[covered == 1]).any(1).mean() > 0.9


@pytest.mark.parametrize("size", [(240, 427), (320, 240), (640, 480), (1280, 720), (720, 1280)], ids=str)
def test_nothing_is_cut(size):
    """Ten hours in, seconds late, with every name too long: around all text there is veil."""
    history = History(RATE)
    for t in range(144_000, 144_041):
        opened = [event(name, t / RATE, (t + 1) / RATE) for name in CLASSES] if t == 144_001 else []
        last = update(t / RATE, [1.0, 1.0, 1.0], opened, np.full((8, 4), 0.9), latency_ms=12_345.0, dropped=9_999)
        history.add(last)
    labels, state, timeline = render(last, CLASSES, history, *size)
    for panel in (labels, state):
        pixels = np.asarray(panel.image)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == overlay.VEIL).all()
        assert (pixels != overlay.VEIL).any(2).mean() > 0.02
    pixels = np.asarray(timeline.image)
    assert (np.concatenate([pixels[0], pixels[-1], pixels[:, 0]]) == overlay.VEIL).all()
    rows = (pixels[:, : size[0] // 5] != overlay.VEIL).any((1, 2))
    assert np.diff(rows.astype(int)).clip(min=0).sum() >= 2 + (size[1] >= 360)  # a line each; "i" makes two


def test_three_labels_on_the_smallest_frame():
    """What is most probable is named although two events are on."""
    history = History(RATE)
    last = update(0, [0.1, 0.1, 0.8], [event(name, 0, 0.25) for name in CLASSES[:2]])
    history.add(last)
    marks = np.asarray(render(last, CLASSES, history, 320, 240)[0].image)[:, :14, :3]
    assert all((marks == colour).all(2).any() for colour in COLOURS[:3])


@pytest.mark.parametrize("brightness", [0, 128, 255])
def test_text_reads_on_any_brightness(brightness):
    """White on a veil that stays dark: a contrast of at least 7 to 1 (WCAG AAA)."""

    def luminance(pixels):
        part = pixels / 255
        return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    last, history = played(image=np.full((720, 1280, 3), brightness, np.uint8))
    drawn = draw(last, CLASSES, history)
    panel = render(last, CLASSES, history, 1280, 720)[0]
    inside = luminance(drawn[panel.y : panel.y + panel.image.height, panel.x : panel.x + panel.image.width])
    assert (inside.max() + 0.05) / (np.median(inside) + 0.05) > 7
    assert inside.max() > 0.95


def test_nothing_is_claimed_before_the_first_answer():
    frame = np.full((240, 320, 3), 255, np.uint8)
    drawn = blend(frame.copy(), overlay.render_waiting(320, 240))
    changed = (drawn != frame).any(2)
    assert 0 < changed.mean() < 0.1


def test_a_panel_beyond_the_edge_is_cut():
    """A source may change its size between two answers."""
    last, history = played()
    panels = render(last, CLASSES, history, 1280, 720)
    assert blend(np.zeros((100, 100, 3), np.uint8), [p for p in panels if p.y < 100 and p.x < 100]).shape == (
        100,
        100,
        3,
    )


# ---- the timeline


def lane(drawn):
    """The columns in which the first class's area or bar is drawn, in the lower third, as parts of the width."""
    low = coloured(drawn, 0)[drawn.shape[0] * 2 // 3 :]
    return np.flatnonzero(low.any(0)) / drawn.shape[1]


def test_the_timeline_scrolls():
    """Two of ten seconds fill a fifth at the right end; three seconds later the same area lies further left."""
    last, history = played(tokens=60, on=8, image=np.zeros((720, 1280, 3), np.uint8))
    before = lane(draw(last, CLASSES, history))
    assert before.max() > 0.98
    axis = before.max() - 0.38  # the names take at most that much
    for t in range(60, 72):
        closed = [event(CLASSES[0], 13.0, 15.0)] if t == 60 else []
        last = update(t / RATE, [0.0, 0.0, 0.0], closed=closed, image=last.image)
        history.add(last)
    after = lane(draw(last, CLASSES, history))
    shift = before.min() - after.min()
    assert shift == pytest.approx((before.max() - before.min()) * 3 / 2, rel=0.05)
    assert before.max() - before.min() >= 0.2 * axis
    assert before.max() - after.max() == pytest.approx(shift, rel=0.05)


def test_what_is_expected_stands_right_of_now():
    quiet = np.tile([1.0, 0, 0, 0], (8, 1))
    coming = np.tile([0.1, 0.9, 0, 0], (8, 1))
    black = np.zeros((720, 1280, 3), np.uint8)
    pictures = [draw(*_with(played(tokens=60, future=future, image=black))) for future in (quiet, coming)]
    changed = np.flatnonzero((pictures[0] != pictures[1]).any(2).any(0)) / 1280
    now = lane(pictures[0]).max()
    assert changed.min() == pytest.approx(now, abs=0.01)
    assert changed.max() > 0.98


def _with(pair):
    return pair[0], CLASSES, pair[1]


def test_what_a_network_says_of_now_is_not_expected():
    """The recurrent TRN's first output ahead is 0 tokens ahead."""
    history = History(RATE, future_offsets=(0, 1, 2))
    rows = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(history.ahead(update(0, [0, 0, 0], future=rows)), rows[1:])
    assert np.array_equal(History(RATE).ahead(update(0, [0, 0, 0], future=rows)), rows)
    assert len(history.ahead(update(0, [0, 0, 0]))) == 0


def test_history_forgets_and_remembers():
    history = History(RATE, seconds=2.0)
    history.add(update(0.0, [0.9, 0, 0], [event(CLASSES[0], 0.0, 0.25)], dropped=2))
    assert history.bars(CLASSES[0]) == [(0.0, 0.25)]
    history.add(update(0.25, [0.9, 0, 0], dropped=1))
    assert history.bars(CLASSES[0]) == [(0.0, 0.5)]  # goes on
    history.add(update(0.5, [0.1, 0, 0], closed=[event(CLASSES[0], 0.0, 0.5)]))
    assert history.bars(CLASSES[0]) == [(0.0, 0.5)]
    history.add(update(0.5, [0.1, 0, 0], is_last=True))
    assert len(history.scores) == 3  # the end repeats the last answer
    assert history.dropped == 3
    for t in range(3, 5000):
        history.add(update(t / RATE, [0.1, 0, 0], closed=[event(CLASSES[1], t / RATE - 1, t / RATE)]))
    assert history.bars(CLASSES[0]) == []
    assert len(history.scores) <= 9
    assert len(history.closed) <= 9


def test_a_timeline_of_no_length_is_refused():
    with pytest.raises(ValueError, match="a timeline of 0 s shows nothing"):
        History(RATE, seconds=0)


def test_lanes_are_for_classes_that_were_active():
    history = History(RATE)
    assert active_classes(history, CLASSES, 3) == []
    history.add(update(0, [0.05, 0.3, 0.25]))
    assert active_classes(history, CLASSES, 3) == [1, 2]
    assert active_classes(history, CLASSES, 1) == [1]
    history.add(update(0.25, [0.05, 0.1, 0.1], [event(CLASSES[0], 0, 0.25)]))
    assert active_classes(history, CLASSES, 1) == [0]  # an event that is on comes before all
    assert active_classes(history, CLASSES, 3) == [0, 1, 2]  # lanes keep the classes' order


def test_an_event_that_is_on_stands_first_with_a_filled_mark():
    """Also where another class is more probable: the event's hysteresis holds it."""
    history = History(RATE)
    last = update(0, [0.3, 0.0, 0.6], [event(CLASSES[0], 0, 0.25)], image=np.zeros((720, 1280, 3), np.uint8))
    history.add(last)
    panel = render(last, CLASSES, history, 1280, 720)[0]
    drawn = draw(last, CLASSES, history)
    rows = [np.flatnonzero(coloured(drawn, c)[: panel.image.height + 12, : panel.x + 40].any(1)) for c in (0, 2)]
    assert rows[0].max() < rows[1].min() + 5
    marks = [coloured(drawn, c)[: panel.image.height + 12, : panel.x + 30].sum() for c in (0, 2)]
    assert marks[0] > 2 * marks[1]


# ---- names


def test_names_in_other_scripts_are_drawn():
    for name in ("прыжок", "قفز", "άλμα", "saut à la corde", "Sprünge"):
        assert drawn_name(name, 3)[0] == name
    assert drawn_name("прыжок", 3)[1] == overlay.DEJAVU


def test_the_font_has_the_characters_that_are_not_looked_up():
    assert {code for code in range(128) if chr(code).isprintable()} <= overlay._characters(overlay.DEJAVU)


def test_the_fonts_are_found_where_matplotlib_is_unusual(monkeypatch):
    monkeypatch.setattr(overlay, "find_spec", lambda name: None)
    assert f"{overlay._data_of_matplotlib()}/fonts/ttf/DejaVuSans.ttf" == overlay.DEJAVU


def test_a_name_that_no_font_draws_is_a_number():
    """U+0378 is no character: a box would look like every other."""
    assert drawn_name("\u0378\u0378", 3) == ("class 3", overlay.DEJAVU)


def test_a_font_of_the_machine_draws_what_ours_lacks(monkeypatch):
    """Here "other.ttf" stands for a font with Chinese; what is no font, or made of bitmaps, is passed over."""
    name = "跳绳！"  # with a mark that makes it this test's own in the cache
    known = {
        "broken.ttf": frozenset(),
        "bitmaps.ttf": frozenset(map(ord, name)),
        "other.ttf": frozenset(map(ord, name)),
    }
    ours = overlay._characters
    monkeypatch.setattr(overlay, "_system_fonts", lambda: tuple(known))
    monkeypatch.setattr(overlay, "_characters", lambda file: known[file] if file in known else ours(file))
    monkeypatch.setattr(overlay, "_is_scalable", lambda file: file != "bitmaps.ttf")
    drawn_name.cache_clear()
    assert drawn_name(name, 0) == (name, "other.ttf")
    drawn_name.cache_clear()


def test_a_file_that_is_no_font_has_no_characters(tmp_path):
    (tmp_path / "x.ttf").write_text("hello")
    assert overlay._characters(str(tmp_path / "x.ttf")) == frozenset()
    assert not overlay._is_scalable(str(tmp_path / "x.ttf"))
