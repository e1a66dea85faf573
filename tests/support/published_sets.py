"""Small data sets in the layouts that repositories of temporal detection publish."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Runs = Sequence[tuple[str, int]]  # a class and its number of frames


def write_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def write_array(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def frame_features(labels: Sequence[str], names: Sequence[str], dim: int = 8, seed: int = 0) -> np.ndarray:
    """Return features (D, T) that tell the class of each frame, with a little noise."""
    random = np.random.default_rng(seed)
    code = np.array([names.index(label) for label in labels])
    vectors = np.random.default_rng(99).standard_normal((len(names), dim))
    return (vectors[code] + 0.1 * random.standard_normal((len(labels), dim))).T.astype(np.float32)


def write_frame_set(
    root: Path, names: Sequence[str], videos: Mapping[str, Runs], test: Sequence[str], split: str = "1", dim: int = 8
) -> Path:
    """Write MS-TCN's layout: features, groundTruth, mapping.txt, and one split whose test videos are ``test``."""
    write_text(root / "mapping.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names)))
    for number, (video, runs) in enumerate(videos.items()):
        labels = [label for label, length in runs for _ in range(length)]
        write_text(root / f"groundTruth/{video}.txt", "".join(f"{label}\n" for label in labels))
        write_array(root / f"features/{video}.npy", frame_features(labels, names, dim, number))
    for side in ("train", "test"):
        listed = [video for video in videos if (video in test) == (side == "test")]
        write_text(root / f"splits/{side}.split{split}.bundle", "".join(f"{video}.txt\n" for video in listed))
    return root


GTEA = ("take", "open", "pour", "close", "shake", "scoop", "stir", "put", "fold", "spread", "background")


def gtea_set(root: Path, activities: int = 2, people: int = 4) -> Path:
    """Write a set in the layout and words of GTEA; the last person is tested."""
    videos = {}
    for person in range(1, people + 1):
        for activity in range(activities):
            random = np.random.default_rng(10 * person + activity)
            runs = [("background", int(random.integers(5, 20)))]
            for name in ("take", "open", "pour", "put"):
                runs += [(name, int(random.integers(10, 40))), ("background", int(random.integers(5, 20)))]
            videos[f"S{person}_Dish{activity}_C1"] = runs
    return write_frame_set(root, GTEA, videos, [v for v in videos if v.startswith(f"S{people}")])


SALADS = ("cut_tomato", "place_tomato_into_bowl", "add_oil", "action_start", "action_end")


def salads_set(root: Path, people: int = 5) -> Path:
    """Write a set in the layout and words of 50Salads, with borders on odd frames; the last person is tested."""
    videos = {}
    for person in range(1, people + 1):
        for take in (1, 2):
            random = np.random.default_rng(10 * person + take)
            runs = [("action_start", int(random.integers(10, 40)))]
            runs += [(name, 2 * int(random.integers(20, 60)) + 1) for name in SALADS[:3]]
            videos[f"rgb-{person:02}-{take}"] = [*runs, ("action_end", int(random.integers(10, 40)))]
    return write_frame_set(root, SALADS, videos, [v for v in videos if v.startswith(f"rgb-{people:02}")])


def write_event_set(
    root: Path,
    videos: Mapping[str, tuple[str, float, Sequence[tuple[str, float, float]]]],
    dim: int = 16,
    stride: float = 4,
    frames: float = 16,
    fps: float = 30,
    prefix: str = "",
) -> Path:
    """Write labels.json in ActivityNet's layout and features (T, D) of windows.

    ``videos`` gives the subset, the length in seconds, and label, start and end of each event.
    """
    database = {
        video: {
            "subset": subset,
            "duration": length,
            "annotations": [{"label": label, "segment": [start, end]} for label, start, end in events],
        }
        for video, (subset, length, events) in videos.items()
    }
    write_text(root / "labels.json", json.dumps({"version": "1.3", "database": database}))
    labels = sorted({label for _, _, events in videos.values() for label, _, _ in events})
    for number, (video, (_, length, events)) in enumerate(videos.items()):
        count = int((length * fps - frames) // stride)
        centres = (np.arange(count) * stride + frames / 2) / fps
        features = 0.1 * np.random.default_rng(number).standard_normal((count, dim))
        for label, start, end in events:
            features[(centres >= start) & (centres < end), labels.index(label) % dim] += 1
        write_array(root / f"features/{prefix}{video}.npy", features.astype(np.float32))
    return root
