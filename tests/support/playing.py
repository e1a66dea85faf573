"""What the stream tests play: frames of noise, a source that is fed by hand, a model that writes down what it sees."""

import queue
import time

import numpy as np
import torch

from vidact.events import EventDetector
from vidact.features.extractor import FeatureExtractor
from vidact.features.names import build_network
from vidact.models.online import NO_END, OnlineNetwork, OnlineOutput
from vidact.stream import StreamModel
from vidact.stream.grabs import Grab
from vidact.video import open_video


def grab(seconds, image=None, dropped=0, captured=None, shape=(36, 48, 3), seed=None):
    """A frame of noise, another one for every time."""
    if image is None:
        seed = round(1000 * seconds) if seed is None else seed
        image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Grab(seconds, image, time.monotonic() if captured is None else captured, dropped)


def steady(seconds, fps=24.0, begin_s=0.0):
    """Frames of noise at a steady rate."""
    return [grab(begin_s + i / fps) for i in range(round(seconds * fps))]


class Named(list):
    """Grabs of a file with a name."""

    is_live, is_closed = False, False

    def __init__(self, name, items):
        super().__init__(items)
        self.name = name

    def close(self):
        self.is_closed = True


class Live:
    """A live source that gives what ``show`` was called with, and waits where there is nothing."""

    is_live = True

    def __init__(self, name="camera"):
        self.name, self.shown, self.is_closed = name, queue.SimpleQueue(), False

    def show(self, *items):
        for item in items:
            self.shown.put(item)

    def __iter__(self):
        while (item := self.shown.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self):
        self.is_closed = True
        self.shown.put(None)


class Recorder:
    """A "detector" whose answers are its inputs: the first values of a token are the logits."""

    def __init__(self, outputs=3, future_offsets=()):
        self.outputs, self.future_offsets, self.given = outputs, future_offsets, []
        self.begun = 0  # states that were begun

    def initial_state(self, batch_size=1):
        self.begun += 1
        return {"tokens": torch.zeros(batch_size, dtype=torch.int64)}

    def step(self, feature, state):
        self.given.append(feature.clone())
        logits = feature[:, None, : self.outputs]
        future = torch.stack([logits + k for k in self.future_offsets], 2) if self.future_offsets else None
        return OnlineOutput(logits, future), {"tokens": state["tokens"] + 1}


class Waiting(OnlineNetwork):
    """A "detector" whose answer for a token depends on all before it, and on ``delay`` later ones if they exist."""

    num_classes = 3

    def __init__(self, delay, feature_dim=3):
        super().__init__()
        self.delay, self.feature_dim = delay, feature_dim

    def initial_state(self, batch_size=1):
        count = torch.zeros(batch_size, dtype=torch.int64)
        recent = torch.zeros(batch_size, self.delay, 3)
        return {"count": count, "end": torch.full_like(count, NO_END), "recent": recent, "sum": recent.sum(1)}

    def step(self, feature, state):
        exists = (state["count"] < state["end"])[:, None].to(feature.dtype)
        # Of the answer's token, and of the later ones.
        line = torch.cat([state["recent"], (feature[:, :3] * exists)[:, None]], 1)
        total = 0.5 * state["sum"] + line[:, 0]
        logits = 8 * total + 4 * line.sum(1)
        after = {"count": state["count"] + 1, "recent": line[:, 1:], "sum": total}
        return OnlineOutput(logits[:, None]), {**state, **after}


def tiny_extractor(**settings):
    """One frame of six, a vector of 128."""
    return FeatureExtractor(build_network("resnet_tiny", size=32), **{"device": "cpu", **settings})


def recording_model(classes=("a", "b"), extractor=None, future_offsets=(), **events):
    extractor = extractor or tiny_extractor()
    rate = extractor.tokens_per_second
    network = Recorder(1 + len(classes), future_offsets)
    model = StreamModel(network, list(classes), rate, EventDetector(classes, rate, **events), extractor)
    model.warm_up()  # what it is given for that is not written down
    network.given.clear()
    network.begun = 0
    return model


def answers(updates):
    """The updates that have a token of their own and were not withdrawn."""
    found = []
    for update in updates:
        if update.is_withdrawn:
            assert found[-1].is_provisional
            assert found.pop().seconds == update.seconds
        elif not update.is_repeat:
            found.append(update)
    return found


def play_file(extractor, path, end_s=None):
    """The tokens and their seconds of the file as a camera would show it: one frame after the other."""
    stream, tokens = extractor.stream(), []
    with open_video(path) as video:
        for number in range(len(video)):
            frames = video.frames_at([number])
            tokens += stream.push(float(frames.times_s[0]), frames.images[0].contiguous())
    return tokens + stream.finish(end_s)
