"""Data sets and features that others publish: the facts that ``vidact prepare import`` needs about each.

The rates, background classes, strides and windows are those of the repositories that release them: MS-TCN
(https://github.com/yabufarha/ms-tcn), ActionFormer (https://github.com/happyharrycn/actionformer_release), VideoMAE V2
(https://github.com/OpenGVLab/VideoMAEv2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Axes = Literal["TD", "DT"]


@dataclass(frozen=True)
class FrameSet:
    """A data set with a label for every frame.

    ``background`` are the classes that are no action; ``group`` finds the person in the name of a video, so that the
    videos of one stay together when some are kept for validation. Of features and labels every ``every``-th is used.
    """

    fps: float
    background: tuple[str, ...]
    every: int = 1
    group: str | None = None
    recipe: str = "segment/folder/ms_tcn"


@dataclass(frozen=True)
class EventSet:
    """A data set with events in seconds: the split of each subset (None: left out), and a recipe.

    ``options`` are those of the recipe for features of ``published_rate`` a second, where its own are for another rate.
    """

    subsets: Mapping[str, str | None]
    recipe: str
    options: str = ""
    published_rate: float = 0.0


@dataclass(frozen=True)
class Windows:
    """Features of windows of ``frames`` frames, one every ``stride`` frames, of videos at ``fps`` frames a second.

    ``dim`` is the number of values of a feature, None where it may be any; ``axes`` names the axes of the files: "TD"
    is (features, values).
    """

    stride: float
    frames: float
    fps: float
    dim: int | None = None
    axes: Axes = "TD"

    def span_s(self, count: int) -> float:
        """Return the seconds from the start of the first to the end of the last of ``count`` windows."""
        return ((count - 1) * self.stride + self.frames) / self.fps


FRAME_SETS = {
    "gtea": FrameSet(15, ("background",), group=r"^(S\d+)_", recipe="segment/gtea/ms_tcn"),
    "salads50": FrameSet(
        30, ("action_start", "action_end"), every=2, group=r"^rgb-(\d+)-", recipe="segment/salads50/ms_tcn"
    ),
    "breakfast": FrameSet(15, ("SIL",), group=r"^(P\d+)_", recipe="segment/breakfast/ms_tcn"),
}
TRAIN_TEST = {"training": "train", "train": "train", "validation": "test", "val": "test", "testing": None, "test": None}
EVENT_SETS = {
    # Only the official validation videos of THUMOS'14 have times, so they are trained on.
    "thumos14": EventSet(
        {"validation": "train", "test": "test"},
        "localise/thumos14/actionformer",
        "--data.window 2304 --model.network.max_tokens 2304",
        published_rate=7.5,
    ),
    "activitynet": EventSet(TRAIN_TEST, "localise/activitynet/actionformer"),
    "epic100": EventSet(TRAIN_TEST, "localise/epic100/actionformer"),
}
OWN_SUBSETS: dict[str, str | None] = {
    **{"training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val"},
    **{"testing": "test", "test": "test"},
}
OWN_RECIPE = "localise/folder/actionformer_small"
RELEASES = {
    "thumos_i3d": Windows(4, 16, 30, 2048),
    "thumos_videomae": Windows(4, 16, 30, 1408),
    "activitynet_tsp": Windows(16, 16, 15, 512),
    "activitynet_i3d": Windows(16, 16, 25, 2048),
    "epic_slowfast": Windows(16, 32, 30, 2304),
}
