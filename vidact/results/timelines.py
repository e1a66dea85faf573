"""The scores of a detector over whole videos, with the truth, in one file that loads without running code.

Shapes: T tokens of a video, K actions, L tokens ahead. Column 0 is the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidact.files import read_npz, replacing


@dataclass
class Timelines:
    """The scores and the truth of N videos; each list has one array a video.

    ``scores`` are (T, 1+K) float32 probabilities; ``targets`` are (T, 1+K) multi-hot; ``ignore`` are (T,) bool, True
    for tokens that do not count. ``future`` are (T, L, 1+K), whose entry j predicts ``future_offsets[j]`` tokens later,
    or None.
    """

    ids: list[str]
    scores: list[np.ndarray]
    targets: list[np.ndarray]
    ignore: list[np.ndarray]
    classes: list[str]
    tokens_per_second: float
    future: list[np.ndarray] | None = None
    future_offsets: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def video_ids(self) -> np.ndarray:
        """The id of each row of ``joined``."""
        return np.repeat(np.array(self.ids), [len(scores) for scores in self.scores])

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the scores, targets (both N, 1+K) and ignore (N,) of the N tokens of all videos, in order."""
        if not self.ids:
            raise ValueError("there is no video in these timelines, so there are no scores")
        return np.concatenate(self.scores), np.concatenate(self.targets), np.concatenate(self.ignore)

    def save(self, path: Path) -> Path:
        """Write an .npz file; an existing file is replaced when the new one is complete."""
        scores, targets, ignore = self.joined()
        arrays = {
            "ids": np.array(self.ids), "lengths": np.array([len(rows) for rows in self.scores]),
            "scores": scores.astype(np.float32), "targets": targets.astype(np.uint8), "ignore": ignore,
            "classes": np.array(self.classes), "tokens_per_second": np.array(self.tokens_per_second),
            "future_offsets": np.array(self.future_offsets, dtype=np.int64),
        }  # fmt: skip
        if self.future is not None:
            arrays["future"] = np.concatenate(self.future).astype(np.float16)
        with replacing(path) as half, half.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        return path


def load_timelines(path: Path) -> Timelines:
    """Read a file of ``Timelines.save``. Raises FileNotFoundError, or ValueError where the file has another content."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; `vidact test` of an online detector writes it")
    try:
        arrays = read_npz(path)
        ends = np.cumsum(arrays["lengths"])[:-1]
        return Timelines(
            ids=arrays["ids"].tolist(),
            scores=np.split(arrays["scores"], ends),
            targets=np.split(arrays["targets"].astype(np.float32), ends),
            ignore=np.split(arrays["ignore"], ends),
            classes=arrays["classes"].tolist(),
            tokens_per_second=float(arrays["tokens_per_second"]),
            future=np.split(arrays["future"].astype(np.float32), ends) if "future" in arrays else None,
            future_offsets=tuple(arrays["future_offsets"].tolist()),
        )
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold a detector's scores over time ({error}); run `vidact test` again"
        ) from error


def stack_timelines(parts: Sequence[Timelines]) -> Timelines:
    """Join the timelines of several processes, sorted by video id, each video once."""
    rows = {id: (part, i) for part in parts for i, id in enumerate(part.ids)}
    order = sorted(rows)
    first = parts[0]
    return Timelines(
        ids=order,
        scores=[rows[id][0].scores[rows[id][1]] for id in order],
        targets=[rows[id][0].targets[rows[id][1]] for id in order],
        ignore=[rows[id][0].ignore[rows[id][1]] for id in order],
        classes=first.classes,
        tokens_per_second=first.tokens_per_second,
        future=None if first.future is None else [rows[id][0].future[rows[id][1]] for id in order],  # type: ignore[index]
        future_offsets=first.future_offsets,
    )
