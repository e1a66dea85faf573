"""Small real video files with known actions, made in seconds.

There are two kinds of classes. The members of an order pair contain the same frames in opposite order: member B with a
seed is member A with that seed, played backwards, so a network that uses only the set of frames can do no better than
guess inside a pair. A shape class differs from the others by its shape and motion, and plays alike in both directions.

The files are H.264 in which every frame is coded by itself with one quantiser, so this holds for the decoded pixels
too, bit for bit: the codec does not reveal which frame came first. Colours, background, size, position, speed, a
distractor and the noise are random and depend only on the seed.

Shapes: T frames, H x W pixels. Co-ordinates: x to the right and y downwards from the centre; H spans -1 to 1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidact.data.clip_list import ClipList, load_clips
from vidact.data.event_list import Event
from vidact.data.official_lists import ClipRow, write_clips_csv, write_events_csv, write_videos_csv
from vidact.data.splits import SPLITS
from vidact.data.tables import write_classes, write_text
from vidact.files import replacing

# The second member of a pair is the first played backwards. The names contain "left" and "right" so that the
# label-aware flip applies to them.
ORDER_PAIRS: list[tuple[str, str]] = [
    ("moving right", "moving left"),
    ("approaching", "receding"),
    ("opening", "closing"),
    ("turning clockwise", "turning counterclockwise"),
    ("appearing", "vanishing"),
]
SHAPE_CLASSES: list[str] = [
    "bouncing ball",
    "shaking square",
    "blinking star",
    "orbiting ring",
    "swinging pendulum",
    "pulsing cross",
]
CLASSES: list[str] = [name for pair in ORDER_PAIRS for name in pair] + SHAPE_CLASSES

HEIGHT, WIDTH = 80, 96
Y, X = np.meshgrid(
    (np.arange(HEIGHT, dtype=np.float32) + 0.5) / (HEIGHT / 2) - 1,
    (np.arange(WIDTH, dtype=np.float32) + 0.5 - WIDTH / 2) / (HEIGHT / 2),
    indexing="ij",
)

Layer = tuple[np.ndarray, np.ndarray]  # an opacity (T, H, W) or (1, H, W), and a colour (3,)
Random = np.random.Generator


# --------------------------------------------------------------------------------------------------------------- shapes
# Each function returns signed distances, below 0 inside the shape. Arguments that change with time are (T, 1, 1).


def _opacity(distance: np.ndarray) -> np.ndarray:
    """Return 1 inside and 0 outside, with an edge one pixel wide."""
    return np.clip(0.5 - distance * (HEIGHT / 2), 0, 1)


def _disc(x: np.ndarray, y: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def _box(x: np.ndarray, y: np.ndarray, half_width: np.ndarray | float, half_height: np.ndarray | float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _line(x: np.ndarray, y: np.ndarray, end_x: np.ndarray, end_y: np.ndarray, width: float) -> np.ndarray:
    """Return the distance to a line with round ends from the origin to (end_x, end_y)."""
    along = np.clip((x * end_x + y * end_y) / (end_x**2 + end_y**2), 0, 1)
    return _disc(x - along * end_x, y - along * end_y, width)


def _triangle(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    return np.maximum(np.abs(x) * 0.87 + y * 0.5, -y) - size * 0.5


def _star(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    wave = np.abs((np.arctan2(x, -y) * 5 / (2 * np.pi)) % 1 - 0.5) * 2  # 1 at the five points, 0 between them
    return np.sqrt(x * x + y * y) - size * (0.4 + 0.6 * wave**2)


# -------------------------------------------------------------------------------------------------------------- actions
# Each function returns its layers, the lowest first, at the times ``t`` (T, 1, 1), which run from 0 to 1.


def _moving_right(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    x = X - (2 * t - 1) * random.uniform(0.55, 0.8) - random.uniform(-0.15, 0.15)
    y = Y - random.uniform(-0.5, 0.5)
    return [(_opacity(_disc(x, y * 1.7, random.uniform(0.25, 0.36))), colours[0])]


def _approaching(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    x, y = X - random.uniform(-0.3, 0.3), Y - random.uniform(-0.25, 0.25)
    radius = random.uniform(0.1, 0.16) * (random.uniform(4.0, 5.5) ** t)  # a steady approach grows by a constant factor
    return [(_opacity(_disc(x, y, radius)), colours[0]), (_opacity(_disc(x, y, radius * 0.5)), colours[1])]


def _opening(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    x, y = X - random.uniform(-0.25, 0.25), Y - random.uniform(-0.2, 0.2)
    width, height = random.uniform(0.5, 0.7), random.uniform(0.45, 0.65)
    gap = 0.9 * width * t
    wings = _box(np.abs(x) - (width + gap) / 2, y, (width - gap) / 2, height)
    return [(_opacity(_box(x, y, width, height)[None]), colours[1]), (_opacity(wings), colours[0])]


def _turning_clockwise(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    angle = random.uniform(0, 2 * np.pi) + random.uniform(1.1, 1.7) * np.pi * t  # clockwise, since y points downwards
    x, y = X - random.uniform(-0.25, 0.25), Y - random.uniform(-0.2, 0.2)
    length = random.uniform(0.5, 0.7)
    tip_x, tip_y = length * np.cos(angle), length * np.sin(angle)
    return [
        (_opacity(_line(x, y, tip_x, tip_y, 0.06)), colours[0]),
        (_opacity(_disc(x - tip_x, y - tip_y, 0.17)), colours[1]),
    ]


def _appearing(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    x, y = X - random.uniform(-0.5, 0.5), Y - random.uniform(-0.35, 0.35)
    return [(_opacity(_triangle(x, y, random.uniform(0.4, 0.6)))[None] * t, colours[0])]


def _bouncing_ball(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    size = random.uniform(0.16, 0.24)
    height = random.uniform(0.9, 1.2) * np.abs(np.sin(np.pi * (random.uniform(2.0, 3.5) * t + random.uniform(0, 1))))
    x, y = X - random.uniform(-0.6, 0.6), Y - (0.9 - size - height)
    return [(_opacity(_disc(x, y, size)), colours[0])]


def _shaking_square(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    shift = random.uniform(0.1, 0.18) * np.sin(2 * np.pi * (random.uniform(4, 7) * t + random.uniform(0, 1)))
    x, y = X - random.uniform(-0.5, 0.5) - shift, Y - random.uniform(-0.4, 0.4)
    size = random.uniform(0.25, 0.35)
    return [(_opacity(_box(x, y, size, size)), colours[0])]


def _blinking_star(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    lit = np.sin(2 * np.pi * (random.uniform(2.5, 4.5) * t + random.uniform(0, 1))) > 0
    x, y = X - random.uniform(-0.5, 0.5), Y - random.uniform(-0.35, 0.35)
    return [(_opacity(_star(x, y, random.uniform(0.45, 0.65)))[None] * lit, colours[0])]


def _orbiting_ring(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    angle = int(random.choice([-2, 2])) * np.pi * (random.uniform(1.0, 1.5) * t + random.uniform(0, 1))
    orbit, size = random.uniform(0.4, 0.55), random.uniform(0.2, 0.27)
    x, y = X - random.uniform(-0.25, 0.25) - orbit * np.cos(angle), Y - orbit * np.sin(angle)
    return [(_opacity(np.abs(_disc(x, y, size)) - 0.07), colours[0])]


def _swinging_pendulum(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    angle = random.uniform(0.5, 0.9) * np.sin(2 * np.pi * (random.uniform(1.3, 2.3) * t + random.uniform(0, 1)))
    x, y = X - random.uniform(-0.3, 0.3), Y + 0.9
    length = random.uniform(1.1, 1.4)
    bob_x, bob_y = length * np.sin(angle), length * np.cos(angle)
    return [
        (_opacity(_line(x, y, bob_x, bob_y, 0.035)), colours[1]),
        (_opacity(_disc(x - bob_x, y - bob_y, random.uniform(0.15, 0.2))), colours[0]),
    ]


def _pulsing_cross(t: np.ndarray, random: Random, colours: np.ndarray) -> list[Layer]:
    size = random.uniform(0.4, 0.5) + 0.2 * np.sin(2 * np.pi * (random.uniform(2, 3.5) * t + random.uniform(0, 1)))
    x, y = X - random.uniform(-0.4, 0.4), Y - random.uniform(-0.25, 0.25)
    return [(_opacity(np.minimum(_box(x, y, size, size * 0.3), _box(x, y, size * 0.3, size))), colours[0])]


_DRAW: dict[str, Callable[[np.ndarray, Random, np.ndarray], list[Layer]]] = {
    "moving right": _moving_right,
    "approaching": _approaching,
    "opening": _opening,
    "turning clockwise": _turning_clockwise,
    "appearing": _appearing,
    "bouncing ball": _bouncing_ball,
    "shaking square": _shaking_square,
    "blinking star": _blinking_star,
    "orbiting ring": _orbiting_ring,
    "swinging pendulum": _swinging_pendulum,
    "pulsing cross": _pulsing_cross,
}
_BACKWARDS = {second: first for first, second in ORDER_PAIRS}


def _layers(action: str, num_frames: int, random: Random, colours: np.ndarray) -> list[Layer]:
    """Draw an action forwards; order classes begin and end with a rest of random length."""
    t = np.linspace(0, 1, num_frames, dtype=np.float32)[:, None, None]
    if action not in SHAPE_CLASSES:
        before, after = random.uniform(0, 0.2, size=2)
        t = np.clip((t - before) / (1 - before - after), 0, 1) ** random.uniform(0.75, 1.35)
    return _DRAW[action](t.astype(np.float32), random, colours)


# --------------------------------------------------------------------------------------------------------------- scenes


@dataclass
class _Scene:
    """The scene of a camera without an action: a background (H, W, 3), a swaying disc, and noise."""

    background: np.ndarray
    swaying: tuple[float, float, float, float]  # x, y, size, cycles in a frame
    colours: np.ndarray  # (3, 3): two for the actor, one for the swaying disc

    def paint(self, layers: Sequence[Layer], num_frames: int, random: Random, first_frame: int = 0) -> np.ndarray:
        """Return frames (T, H, W, 3) uint8: the layers over the background."""
        frames = np.repeat(self.background[None], num_frames, axis=0)
        x, y, size, cycles = self.swaying
        sway = 0.06 * np.sin(2 * np.pi * cycles * np.arange(first_frame, first_frame + num_frames))[:, None, None]
        below = (_opacity(_disc(X - x - sway.astype(np.float32), Y - y, size)), self.colours[2])
        for opacity, colour in (below, *layers):
            frames += opacity[..., None] * (colour - frames)
        frames += random.standard_normal((num_frames, HEIGHT, WIDTH, 1), dtype=np.float32) * random.uniform(2, 5)
        return np.clip(frames, 0, 255).astype(np.uint8)


def _scene(random: Random) -> _Scene:
    base = random.uniform(50, 200, 3)
    coarse = random.normal(0, 1, (5, 6, 3)) * (14, 14, 14) + random.normal(0, 14, (5, 6, 1))
    direction, wave = random.uniform(0, np.pi), random.uniform(3, 9)
    stripes = random.uniform(0, 12) * np.sin(wave * 2 * (X * np.cos(direction) + Y * np.sin(direction)))
    background = base + _enlarge(coarse) + stripes[..., None]
    first = _contrasting(base, random, 80)
    second = _contrasting(base, random, 50)
    while np.linalg.norm(second - first) < 120:
        second = _contrasting(base, random, 50)
    colours = [first, second, _contrasting(base, random, 30)]
    side = int(random.choice([-1, 1]))
    swaying = (side * random.uniform(0.8, 1.1), random.uniform(-0.9, 0.9), random.uniform(0.08, 0.15), 1 / 40)
    return _Scene(np.clip(background, 0, 255).astype(np.float32), swaying, np.array(colours, dtype=np.float32))


def _enlarge(coarse: np.ndarray) -> np.ndarray:
    """Resize bilinearly to (H, W, C)."""
    for axis, size in ((0, HEIGHT), (1, WIDTH)):
        position = np.linspace(0, coarse.shape[axis] - 1, size)
        low = np.minimum(position.astype(int), coarse.shape[axis] - 2)
        part = np.expand_dims(position - low, tuple(range(1, coarse.ndim - axis)))
        coarse = coarse.take(low, axis) * (1 - part) + coarse.take(low + 1, axis) * part
    return coarse


def _contrasting(base: np.ndarray, random: Random, contrast: float) -> np.ndarray:
    """Return a colour whose brightness differs from that of ``base`` by at least ``contrast``."""
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        colour = random.uniform(0, 255, 3)
        if abs((colour - base) @ weights) >= contrast:
            return colour


def render(action: str, seed: int | Sequence[int]) -> tuple[np.ndarray, int]:
    """Render one clip of an action: frames (T, H, W, 3) uint8 RGB, T from 26 to 38, and the frames per second.

    With one seed the two members of an order pair are the same frames, forwards and backwards. Raises ValueError for
    an unknown action.
    """
    forwards = _BACKWARDS.get(action, action)
    if forwards not in _DRAW:
        raise ValueError(f"{action!r} is not an action; there are {', '.join(CLASSES)}")
    numbers = [seed] if isinstance(seed, int) else list(seed)
    random = np.random.default_rng([*numbers, list(_DRAW).index(forwards)])
    num_frames, fps = int(random.integers(26, 39)), int(random.choice([16, 20, 24]))
    scene = _scene(random)
    frames = scene.paint(_layers(forwards, num_frames, random, scene.colours), num_frames, random)
    return (frames if action == forwards else frames[::-1]), fps


# ---------------------------------------------------------------------------------------------------------------- files


def write_video(path: Path, frames: np.ndarray, fps: int, keyframe_every: int = 1) -> None:
    """Write frames (T, H, W, 3) uint8 RGB, H and W even, as H.264; the file appears when it is complete."""
    options = {"preset": "ultrafast", "qp": "22", "g": str(keyframe_every), "bf": "0"}
    with replacing(path) as half, av.open(str(half), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # one thread writes the same bytes on every machine
        stream.codec_context.time_base = Fraction(1, fps)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def write_clips(
    root: str | Path,
    splits: Mapping[str, int] | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ClipList:
    """Make trimmed clips: a folder per class with mp4 files, clips.csv and classes.txt.

    Clip i has the same scene in both members of an order pair, and is in the same split.

    Args:
        root: a new or empty folder, or one that this function filled with the same arguments before.
        splits: clips per class in train, val and test; default 20, 5 and 10.
        seed: the seed of everything random.
        classes: some of ``CLASSES``, in the order of their indices; default all.
        progress: called with the number of clips made so far and the number of all.
    """
    root = Path(root)
    names = _check_classes(classes)
    counts = _check_splits(splits or {"train": 20, "val": 5, "test": 10})
    _claim(root, {"maker": "vidact.data.synthetic.write_clips", "seed": seed, "splits": counts, "classes": names})
    split_names = [split for split, count in counts.items() for _ in range(count)]
    rows = [ClipRow(f"{name}/{i:04d}.mp4", name, split) for name in names for i, split in enumerate(split_names)]

    def make(number: int) -> None:
        name, i = names[number // len(split_names)], number % len(split_names)
        frames, fps = render(name, (seed, i))
        write_video(root / rows[number].path, frames, fps)

    _for_each(make, len(rows), progress)
    write_clips_csv(root, rows, names)
    return load_clips(root)


def write_untrimmed(
    root: str | Path,
    splits: Mapping[str, int] | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    actions_per_video: int = 6,
    fps: int = 24,
    progress: Callable[[int, int], None] | None = None,
) -> list[Event]:
    """Make untrimmed videos: one camera each, actions of 1.5 to 3 s, and gaps of 1 to 3 s where nothing happens.

    Writes videos/*.mp4, events.csv (times from 0 at the first frame), videos.csv and classes.txt, and returns the
    events. Actions come from a shuffled deck of all classes, so within a split each is about as frequent.

    Args:
        root: a new or empty folder, or one that this function filled with the same arguments before.
        splits: videos in train, val and test; default 12, 4 and 6.
        seed: the seed of everything random.
        classes: some of ``CLASSES``, in the order of their indices; default all.
        actions_per_video: how many actions follow each other.
        fps: frames per second.
        progress: called with the number of videos made so far and the number of all.
    """
    root = Path(root)
    names = _check_classes(classes)
    counts = _check_splits(splits or {"train": 12, "val": 4, "test": 6})
    record = {"maker": "vidact.data.synthetic.write_untrimmed", "seed": seed, "splits": counts, "classes": names}
    _claim(root, record | {"actions_per_video": actions_per_video, "fps": fps})
    videos: dict[str, str] = {}
    actions: list[list[str]] = []  # the actions of each video
    for number, (split, count) in enumerate(counts.items()):
        random = np.random.default_rng([seed, number, 1])
        deck: list[str] = []
        for _ in range(count):
            videos[f"videos/{len(videos):04d}.mp4"] = split
            while len(deck) < actions_per_video:
                deck += [str(name) for name in random.permutation(names)]
            actions.append(deck[:actions_per_video])
            del deck[:actions_per_video]
    ids = list(videos)
    events: list[list[Event]] = [[] for _ in ids]

    def make(number: int) -> None:
        random = np.random.default_rng([seed, number])
        scene = _scene(random)
        frames: list[np.ndarray] = []
        length = 0
        for turn in range(2 * actions_per_video + 1):
            acting = turn % 2 == 1
            num_frames = int(fps * (random.uniform(1.5, 3) if acting else random.uniform(1, 3)))
            layers: list[Layer] = []
            if acting:
                action = actions[number][turn // 2]
                forwards = _BACKWARDS.get(action, action)
                layers = _layers(forwards, num_frames, random, scene.colours)
                if action != forwards:
                    layers = [(opacity[::-1], colour) for opacity, colour in layers]
                events[number].append(Event(ids[number], length / fps, (length + num_frames) / fps, action))
            frames.append(scene.paint(layers, num_frames, random, first_frame=length))
            length += num_frames
        write_video(root / ids[number], np.concatenate(frames), fps, keyframe_every=fps)

    _for_each(make, len(ids), progress)
    all_events = [event for some in events for event in some]
    write_classes(root / "classes.txt", names)
    write_videos_csv(root / "videos.csv", videos)
    write_events_csv(root / "events.csv", all_events)
    return all_events


def _for_each(make: Callable[[int], None], count: int, progress: Callable[[int, int], None] | None) -> None:
    """Call ``make`` for 0 … count - 1 in threads, at most 8: numpy and the encoder release Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for num_made, _ in enumerate(pool.map(make, range(count)), 1):
                if progress:
                    progress(num_made, count)
        except BaseException:  # after an error or Ctrl-C, calls that have not started are cancelled
            pool.shutdown(cancel_futures=True)
            raise


def _check_classes(classes: Sequence[str] | None) -> list[str]:
    names = list(CLASSES if classes is None else classes)
    unknown = [name for name in names if name not in CLASSES]
    if unknown or len(names) < 2:
        raise ValueError(f"classes are {names}; choose at least two of {', '.join(CLASSES)}")
    return names


def _check_splits(splits: Mapping[str, int]) -> dict[str, int]:
    if any(name not in SPLITS or count < 0 for name, count in splits.items()) or not any(splits.values()):
        raise ValueError(f"splits are {dict(splits)}; give the numbers of {', '.join(SPLITS)} as a mapping")
    return {name: splits[name] for name in SPLITS if splits.get(name)}


def _claim(root: Path, record: dict[str, Any]) -> None:
    """Write the note of a call into its folder; raise where the folder holds anything but the same call's files."""
    note = root / "synthetic.json"
    text = json.dumps(record, indent=1) + "\n"
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; name a folder for the videos")
    if root.exists() and any(root.iterdir()):
        if not note.exists():
            raise FileExistsError(f"{root} holds something else; name a new or empty folder for the generated videos")
        if note.read_text(encoding="utf-8") != text:
            raise FileExistsError(
                f"{root} holds generated videos of another kind (see {note.name}); delete it or name another folder"
            )
    write_text(note, text)
