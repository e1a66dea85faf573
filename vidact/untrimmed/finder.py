"""From the pixels of a long video to its events: an extractor, and a network that reads its features.

The features of a video come as a stream of rows, of which one window is in memory at a time
(``vidact.models.offline_windows``), so memory does not grow with the length of the video, but for a few numbers a
token. Offline networks see what comes later; an online detector gives the events that a stream of the video gives.

Shapes: T tokens, D features, K actions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vidact.device import best_device
from vidact.events import Detection
from vidact.features.extractor import FeatureExtractor
from vidact.models.offline import OfflineNetwork
from vidact.models.offline_decoding import Grid, detections
from vidact.models.offline_windows import answer_whole
from vidact.models.online import OnlineNetwork
from vidact.models.weights import load, record_of
from vidact.records import blamed
from vidact.stream.model import StreamModel, extractor_for, load_model
from vidact.text.names import counted
from vidact.video import open_video


@dataclass(frozen=True)
class VideoEvents:
    """The events of one video, by their start.

    Times count from the first frame. ``duration_s`` is the end of the last frame, ``lead_s`` the time of the first
    frame in players, ``num_tokens`` T, ``took_s`` the seconds of reading and computing. ``error`` is the reason why the
    video could not be read; ``events`` is then empty.
    """

    path: Path
    video: str
    events: list[Detection] = field(default_factory=list)
    duration_s: float = 0.0
    lead_s: float = 0.0
    num_tokens: int = 0
    took_s: float = 0.0
    error: str = ""


class OfflineFinder:
    """An extractor and an offline network, which find events with the whole video at hand.

    Args:
        network: a localiser with K outputs, or a segmenter with 1 + K, in evaluation mode.
        extractor: what makes its features.
        classes: names of the K actions.
        size: tokens of the windows of a long video, see ``offline_windows.window_of``.
        min_score: the least score of events that are shown to people, 0 to 1.
    """

    def __init__(
        self,
        network: OfflineNetwork,
        extractor: FeatureExtractor,
        classes: Sequence[str],
        size: int | None = None,
        min_score: float = 0.0,
    ) -> None:
        if network.feature_dim != extractor.dim:
            raise ValueError(
                f"{type(network).__name__} reads {network.feature_dim} values a token, and the extractor makes "
                f"{extractor.dim}; give the extractor that it was trained with"
            )
        self.network, self.extractor, self.classes, self.size = network, extractor, list(classes), size
        self.min_score = min_score

    def of_rows(self, rows: Iterable[Tensor], video: str, start_s: float = 0.0) -> list[Detection]:
        """Return the events in features that come in parts (n, D).

        Args:
            video: the name that is written into the events.
            start_s: the second at which the first token begins.
        """
        rate = self.extractor.tokens_per_second
        answer = answer_whole(self.network, rows, self.size)
        return detections(answer.rows, video, self.classes, Grid.of(rate), answer.num_tokens / rate, start_s)


class OnlineFinder:
    """An online detector, which finds what a stream of the video finds.

    Args:
        model: the detector with its extractor, as ``vidact.stream.model.load_model`` returns it.
    """

    def __init__(self, model: StreamModel) -> None:
        if model.extractor is None:
            raise ValueError("the network reads frames and no features; it is no detector of events")
        self.model, self.extractor, self.classes = model, model.extractor, list(model.classes)
        self.min_score = 0.0  # its thresholds have decided

    def of_rows(self, rows: Iterable[Tensor], video: str, start_s: float = 0.0) -> list[Detection]:
        """Return the events in features that come in parts; see ``OfflineFinder.of_rows``."""
        detector = self.model.detector
        event_state = detector.initial_state(video)
        events: list[Detection] = []
        for scores in self._scores(rows):
            update, event_state = detector.step(scores, event_state)
            events += update.closed
        events += detector.finish(event_state)
        return [replace(event, start_s=event.start_s + start_s, end_s=event.end_s + start_s) for event in events]

    def _scores(self, rows: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Yield the probabilities (1 + K,) of each token; the last ones of a detector with a delay come at the end."""
        state, delay = self.model.network.initial_state(1), self.model.delay
        number = 0
        for number, row in enumerate(single(rows), 1):
            scores, _, state = self.model.answer(row, state)
            if number > delay:
                yield scores[0]
        if waiting := min(number, delay):
            yield from self.model.flush(state)[0][-waiting:]


Finder = OfflineFinder | OnlineFinder


def finds_events(network: nn.Module) -> bool:
    """Return whether a network reads features and finds events; recognisers, which name whole clips, do not."""
    return isinstance(network, OfflineNetwork | OnlineNetwork)


def open_finder(
    checkpoint: str | Path | nn.Module,
    *,
    name: str | None = None,
    extractor: str | Path | FeatureExtractor | None = None,
    device: str | torch.device | None = None,
    trust: Iterable[str] = (),
    runtime: str = "auto",
) -> Finder:
    """Return the finder of a checkpoint of a localiser, a segmenter or an online detector.

    Args:
        checkpoint: what ``vidact.load`` opens, or a network that it returned.
        name: the name of the checkpoint in errors; None is its path.
        extractor: a folder of features or the extractor.safetensors in it; None takes the one in the checkpoint.
        device: where the networks run; None takes an accelerator if there is one.
        trust: packages outside vidact whose builders may run.
        runtime: the runtime of the extractor, as in ``vidact.stream.model.load_model``.
    """
    is_open = isinstance(checkpoint, nn.Module)
    name = name or ("the network" if is_open else str(checkpoint))
    network = checkpoint if isinstance(checkpoint, nn.Module) else load(checkpoint, trust)
    record = record_of(network)
    if not finds_events(network):
        raise ValueError(f"{name} is a {type(network).__name__}, which names whole clips and finds no events in them")
    device = best_device() if device is None else torch.device(device)
    # A causal network is both; files of offline tasks have a kind.
    if isinstance(network, OnlineNetwork) and record.kind is None:
        return OnlineFinder(load_model(network, extractor=extractor, device=device, trust=trust, runtime=runtime))
    assert isinstance(network, OfflineNetwork)
    with blamed(name):
        record.require("classes", "tokens_per_second")
    outputs = len(record.classes) + (not hasattr(network, "decoding"))
    if network.num_classes != outputs:
        raise ValueError(
            f"{name} has {network.num_classes} outputs, and its {counted(len(record.classes), 'class', 'classes')} "
            f"need {outputs}; it is damaged or not ours"
        )
    opened = extractor_for(network, record, name, extractor, device, trust, runtime)
    network = network.eval().requires_grad_(False).to(device)
    return OfflineFinder(network, opened, record.classes, min_score=record.min_score or 0.0)


def single(rows: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the rows of parts (n, D) one by one, (1, D)."""
    for part in rows:
        yield from part.split(1)


def find_events(
    finder: Finder, path: str | Path, video: str | None = None, progress: Callable[[float], None] | None = None
) -> VideoEvents:
    """Return the events of a video file, from its pixels.

    A video that pauses for longer than the extractor fills (``longest_gap_s``) is answered take by take.

    Args:
        finder: the network and its extractor.
        path: a video file, or a folder of its images.
        video: the name in the events; None is the name of the file.
        progress: called with the finished fraction, 0 to 1.

    Raises VideoError for a file that cannot be read or is shorter than a token.
    """
    started = time.perf_counter()
    path, extractor = Path(path), finder.extractor
    video = path.name if video is None else video
    events: list[Detection] = []
    with open_video(path, decoder=extractor.decoder) as reader:
        numbers, takes = extractor.plan(reader)
        total = len(numbers)
        for take, stop in zip(takes, [take.token for take in takes[1:]] + [total], strict=True):

            def move(share: float, first: int = take.token, last: int = stop) -> None:
                if progress is not None:
                    progress((first + share * (last - first)) / total)

            rows = extractor.rows(reader, numbers[take.token : stop], move)
            with torch.inference_mode():
                events += finder.of_rows(rows, video, take.start_s)
        duration_s, lead_s = reader.end_s - float(reader.times_s[0]), reader.lead_s
    events.sort(key=lambda event: (event.start_s, event.end_s, event.label))
    return VideoEvents(path, video, events, duration_s, lead_s, total, time.perf_counter() - started)


def with_scores(answer: VideoEvents, min_score: float) -> VideoEvents:
    """Return the answer without the events of a lower score."""
    return replace(answer, events=[event for event in answer.events if event.score >= min_score])
