"""The pages and pictures of the results of runs."""

from typing import TYPE_CHECKING

from vidact.text.late_names import late_names

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

__getattr__, __dir__ = late_names(__name__, _HOMES)
