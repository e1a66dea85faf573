"""Events of untrimmed videos, from pixels: finding them, and what is made of them."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

if TYPE_CHECKING:
    from vidact.untrimmed.finder import VideoEvents, find_events, open_finder

__all__ = ["VideoEvents", "find_events", "open_finder"]

_HOMES = {"VideoEvents": "finder", "find_events": "finder", "open_finder": "finder"}

__getattr__, __dir__ = late_names(__name__, _HOMES)
