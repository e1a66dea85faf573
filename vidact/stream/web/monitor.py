"""Monitoring of the web server: figures for Prometheus, and one line in the log for each fault."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from vidact.text.addresses import without_secrets

log = logging.getLogger("vidact.stream.server")


class Metrics:
    """The counters, gauges and one histogram, in Prometheus' text format. Methods may be called from any thread."""

    HELP: ClassVar[dict[str, tuple[str, str]]] = {
        "vidact_info": ("gauge", "Version and model."),
        "vidact_sessions": ("gauge", "Open WebSocket sessions."),
        "vidact_streams": ("gauge", "Streams that the network answers."),
        "vidact_sessions_total": ("counter", "Sessions since the start."),
        "vidact_frames_total": ("counter", "Frames that were looked at."),
        "vidact_dropped_frames_total": ("counter", "Frames that were not looked at, because newer ones came."),
        "vidact_answers_total": ("counter", "Tokens answered."),
        "vidact_withdrawn_answers_total": ("counter", "Early answers taken back, because a source ended or was lost."),
        "vidact_events_total": ("counter", "Events begun, by label."),
        "vidact_source_up": ("gauge", "Whether a camera or stream, when it was last looked at, gave pictures."),
        "vidact_faults_total": ("counter", "Things that went wrong, by kind."),
        "vidact_latency_seconds": ("histogram", "From a frame's capture or arrival to its answer."),
    }
    LABELLED = ("vidact_info", "vidact_source_up", "vidact_events_total", "vidact_faults_total")
    BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, Counter[tuple[tuple[str, str], ...]]] = {name: Counter() for name in self.HELP}
        self._buckets = [0] * (len(self.BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        with self._lock:
            self._values[name][tuple(labels.items())] += value  # type: ignore[assignment]

    def set(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._values[name][tuple(labels.items())] = value  # type: ignore[assignment]

    def latency(self, seconds: float) -> None:
        bucket = next((i for i, bound in enumerate(self.BUCKETS) if seconds <= bound), len(self.BUCKETS))
        with self._lock:
            self._buckets[bucket] += 1
            self._seconds += seconds

    def text(self) -> str:
        lines: list[str] = []
        with self._lock:
            for name, (kind, text) in self.HELP.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                if kind == "histogram":
                    bounds, total = [*(f"{bound:g}" for bound in self.BUCKETS), "+Inf"], 0
                    for bound, count in zip(bounds, self._buckets, strict=True):
                        total += count
                        lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
                    lines += [f"{name}_sum {self._seconds:.6f}", f"{name}_count {total}"]
                    continue
                values = dict(self._values[name]) or ({} if name in self.LABELLED else {(): 0})
                lines += [f"{name}{_labels(labels)} {value:.15g}" for labels, value in values.items()]
        return "\n".join(lines) + "\n"


def _labels(labels: Sequence[tuple[str, str]]) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels) + "}" if labels else ""


class Faults:
    """A log with one line for each fault. The same kind from the same address is only counted for a minute, then logged
    again. Call its methods in the event loop."""

    QUIET_S = 60.0
    KEPT = 1000

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._recent: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def log(self, kind: str, address: str, text: str) -> None:
        """Count a fault of this kind, and log it unless the same one was logged less than ``QUIET_S`` ago."""
        self.metrics.add("vidact_faults_total", kind=kind)
        logged_at, more = self._recent.get((kind, address), (-math.inf, 0))
        if time.monotonic() - logged_at < self.QUIET_S:
            self._recent[kind, address] = logged_at, more + 1
            return
        log.warning("%s: %s%s", address, text, f" (and {more} times since it was last told)" if more else "")
        self._recent[kind, address] = time.monotonic(), 0
        self._recent.move_to_end((kind, address))
        if len(self._recent) > self.KEPT:
            self._recent.popitem(last=False)


def one_line(error: BaseException | str) -> str:
    """Return an error's message in at most 300 characters, without line breaks and without secrets in addresses."""
    return without_secrets(" ".join(str(error).split()))[:300] or type(error).__name__
