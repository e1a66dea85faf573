"""How flow is computed and stored: the methods, the layouts of the pictures, and the record of a folder of flow.

This module is light, because commands read it before their options are parsed.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

FORMAT = 1
METHODS = ("dis", "farneback", "tvl1", "raft", "raft_small")
# The pixels per frame that the ends of stored levels stand for: dense_flow's value, which all published networks use.
BOUND = 20.0
# The files of x and y of one field. In these templates {video} is the video's id, {parent} all of the id before its
# last part (with the slash), {name} the last part, and {index} counts from 1.
LAYOUTS: dict[str, tuple[str, str]] = {
    "packed": ("flow_x_{index:05d}.jpg", "flow_y_{index:05d}.jpg"),
    "tsn": ("{video}/flow_x_{index:05d}.jpg", "{video}/flow_y_{index:05d}.jpg"),
    "mmaction": ("{video}/x_{index:05d}.jpg", "{video}/y_{index:05d}.jpg"),
    "something_v1": (
        "{parent}{name:0>6}/{name:0>6}-x_{index:05d}.jpg",
        "{parent}{name:0>6}/{name:0>6}-y_{index:05d}.jpg",
    ),
    "colour": ("{video}/{index:05d}.jpg", "{video}/{index:05d}.jpg"),
    "uv": ("u/{video}/frame{index:06d}.jpg", "v/{video}/frame{index:06d}.jpg"),
}


@dataclass(frozen=True)
class FlowRecord:
    """The record of a folder of flow: how its flow was computed and is stored.

    Args:
        method: one of ``METHODS``, or another program's name for its method.
        bound: the pixels per frame that level 255 stands for.
        size: the size to which frames were resized before their flow was computed: the short side, (width, height), or
            None for the video's own size.
        layout: one of ``LAYOUTS``.
        image: "jpg", or "png", which keeps every level and takes about three times the space.
        quality: the quality of jpg, up to 95.
        weights: the file of the network that computed the flow, where a network did.
        opencv: the version of the OpenCV that computed the flow.
    """

    method: str = "dis"
    bound: float = BOUND
    size: int | tuple[int, int] | None = 256
    layout: str = "packed"
    image: str = "jpg"
    quality: int = 95
    weights: str | None = None
    opencv: str | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}; there are {', '.join(LAYOUTS)}")
        if self.image not in ("jpg", "png"):
            raise ValueError(f"image is {self.image!r}; flow is stored as 'jpg' or 'png'")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality is {self.quality}; jpg has 1 to 95")
        if not 0 < self.bound < math.inf:
            raise ValueError(f"bound is {self.bound}; it is the greatest motion that is kept, in pixels per frame")
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size or 1,)
        if len(sides) > 2 or any(side < 1 for side in sides):
            raise ValueError(f"size is {self.size}; it is a short side in pixels, or width and height")
        if isinstance(self.size, list):  # JSON stores a tuple as a list
            object.__setattr__(self, "size", tuple(self.size))

    @property
    def templates(self) -> tuple[str, str]:
        """The templates of x and y, with the suffix of the pictures."""
        x, y = (template.removesuffix("jpg") + self.image for template in LAYOUTS[self.layout])
        return x, y

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``flow.json``."""
        return {"format": FORMAT} | dataclasses.asdict(self)
