"""Pages and pictures of what runs have left behind."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidact.report.page import write_report, write_summary

__all__ = [
    "write_report",
    "write_summary",
]

_HOMES = {
    "write_report": "page",
    "write_summary": "page",
}


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
