"""Worker processes whose parent was killed."""

import time
from collections.abc import Iterable
from pathlib import Path


def children_of(process: int) -> list[str]:
    """The ids of a process's children, on Linux; none elsewhere."""
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_end(processes: Iterable[str]) -> None:
    """Wait for them; one that is still importing notices afterwards that its parent is gone."""
    left, end = list(processes), time.monotonic() + 300
    while left := [process for process in left if is_running(process)]:
        assert time.monotonic() < end, f"{len(left)} workers outlive their parent"
        time.sleep(0.05)
