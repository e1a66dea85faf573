"""What the server's tests serve: models whose answers are certain, a scene for one of them, and a client that speaks as
the page does."""

import contextlib
import io
import itertools
import json
import struct
import threading
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from websockets.sync.client import connect

from vidact.batch import ClipInput
from vidact.events import EventDetector
from vidact.models.online import OnlineOutput
from vidact.stream import StreamModel
from vidact.stream.web.server import make_app, make_server
from vidact.video import test_transform

COLOURS = ["red", "green", "blue"]


class ColourNetwork(nn.Module):
    """The colour that a frame has most of, by its mean; grey is the background. It writes down its batches."""

    future_offsets = (1, 2, 4)

    def __init__(self):
        super().__init__()
        self.batches = []
        self.failure = None

    def initial_state(self, batch_size=1):
        return {"seen": torch.zeros(batch_size, dtype=torch.int64)}

    def step(self, frames, state):
        if self.failure:
            raise self.failure
        self.batches.append(len(frames))
        colour = frames.mean((2, 3))  # (B, 3), 0 to 1
        excess = 12 * (colour - colour.mean(1, keepdim=True))
        logits = torch.cat([torch.full((len(frames), 1), 1.0), excess], 1)[:, None]
        future = logits[:, :, None].repeat(1, 1, 3, 1)
        return OnlineOutput(logits, future), {"seen": state["seen"] + 1}


def colour_model(tokens_per_second=10.0, classes=COLOURS):
    transform = test_transform(ClipInput(size=16, resize=16, mean=(0.0,), std=(1.0,)), 1)
    detector = EventDetector(classes, tokens_per_second, on=0.6, min_seconds=0.2, merge_seconds=0.2)
    return StreamModel(ColourNetwork(), list(classes), tokens_per_second, detector, transform=transform)


MOTIONS = ["moving right", "approaching", "moving left", "receding"]
PAUSE_S, MOTION_S = 1.2, 1.6  # the scene: a pause, a motion, a pause, …
SIDE, NEAR, FAR = 0.55, 0.4, 0.16  # where the ball stops, and its radius there; the frame's half height is 1


class MotionNetwork(nn.Module):
    """What the orange thing in the picture does, told by where it was ``LAG`` tokens ago and how large. It expects the
    motion to go on until the place or the size is reached at which the scene's ball stops."""

    LAG = 5
    future_offsets = (2, 4, 6, 8, 10, 12)

    def initial_state(self, batch_size=1):
        return {"past": torch.zeros(batch_size, self.LAG, 2), "count": torch.zeros(batch_size, dtype=torch.int64)}

    def step(self, frames, state):
        ball = (frames[:, 2] < 0.5 * frames[:, 0]).float()  # (B, H, W): red and hardly any blue, in light and shade
        mass = ball.mean((1, 2))
        places = torch.linspace(-1, 1, ball.shape[2])
        now = torch.stack([(ball.mean(1) * places).mean(1) / (mass + 1e-6), (4 * mass / torch.pi).sqrt()], 1)
        began = state["count"][:, None] >= self.LAG
        change = torch.where(began, now - state["past"][:, 0], torch.zeros_like(now))  # of x and of the radius
        speed = change / self.LAG
        future = []
        for ahead in self.future_offsets:
            place, radius = (now + ahead * speed).unbind(1)
            is_between = (radius > FAR - 0.03) & (radius < NEAR + 0.03)
            goes_on = torch.where(change[:, 0].abs() > change[:, 1].abs(), place.abs() < SIDE + 0.05, is_between)
            future.append(self.logits(torch.where(goes_on[:, None], change, 0.0)))
        state = {"past": torch.cat([state["past"][:, 1:], now[:, None]], 1), "count": state["count"] + 1}
        return OnlineOutput(self.logits(change)[:, None], torch.stack(future, 1)[:, None]), state

    def logits(self, change):
        x, radius = change.unbind(1)
        scores = torch.stack([torch.full_like(x, 0.12), x, 2.5 * radius, -x, -2.5 * radius], 1)
        return 20 * scores


def motion_model():
    transform = test_transform(ClipInput(size=48, resize=48, mean=(0.0,), std=(1.0,)), 1)
    detector = EventDetector(MOTIONS, 8.0, on=0.6, min_seconds=0.2, merge_seconds=0.2)
    return StreamModel(MotionNetwork(), list(MOTIONS), 8.0, detector, transform=transform)


def motion_scene(width=480, height=360, fps=15):
    """A ball in a room: yields images (H, W, 3) and the motion that each is of, 1 + its index, 0 in a pause."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in (height, width)), indexing="ij")
    x = x * width / height
    wall = np.float32([150, 166, 190]) - 40 * np.hypot(x, y + 0.6)[..., None]
    floor = np.float32([96, 104, 120]) + 30 * (y[..., None] - 0.5) + 10 * (np.floor(6 * x / (y + 1.5)) % 2)[..., None]
    room = np.where(y[..., None] > 0.5, floor, wall) + random.normal(0, 2, (height, width, 1)).astype(np.float32)
    stops = [(-SIDE, FAR), (SIDE, FAR), (SIDE, NEAR), (-SIDE, NEAR), (-SIDE, FAR)]
    for motion, (before, after) in enumerate(itertools.pairwise(stops), 1):
        for frame in range(round((PAUSE_S + MOTION_S) * fps)):
            t = max(0.0, (frame / fps - PAUSE_S) / MOTION_S)
            place, radius = (float((1 - t) * a + t * b) for a, b in zip(before, after, strict=True))
            bottom = 0.5 + 0.4 * radius
            distance = np.hypot(x - place, y - bottom + radius) / radius
            shadow = np.clip(1.2 - np.hypot((x - place) / radius, (y - bottom) / (0.2 * radius)), 0, 0.5)[..., None]
            light = 1.1 - 0.75 * np.hypot(x - place + 0.35 * radius, y - bottom + 1.4 * radius) / (2 * radius)
            ball = light[..., None] * np.float32([250, 130, 30])
            inside = np.clip((1 - distance) * radius * height / 2, 0, 1)[..., None]
            image = room * (1 - shadow) * (1 - inside) + ball * inside
            yield np.clip(image, 0, 255).astype(np.uint8), motion if frame / fps >= PAUSE_S else 0


class Serving:
    """An application on a port of this machine, in a thread: ``with Serving(model) as served: …``"""

    def __init__(self, model=None, sources=None, host="127.0.0.1", certfile=None, keyfile=None, **options):
        self.model = model or colour_model()
        self.app = make_app(self.model, sources, **options)
        self.server = make_server(self.app, host, 0, certfile, keyfile)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.hub = self.app.state.hub

    def __enter__(self):
        self.thread.start()
        end = time.monotonic() + 60
        while not self.server.started:
            assert self.thread.is_alive(), "the server ended"
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join(timeout=60)
        assert not self.thread.is_alive(), "the server does not stop"

    def client(self, **options):
        return Client(self.port, **options)


def jpeg(colour, size=(64, 48), **options):
    """A JPEG of one colour."""
    file = io.BytesIO()
    tint = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (90, 90, 90)}[colour]
    Image.fromarray(np.full((size[1], size[0], 3), tint, np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


def frame(seconds, data):
    return struct.pack("<d", seconds) + data


class Client:
    """What the page does, without a page."""

    def __init__(self, port, host="127.0.0.1", tls=None, **options):
        address = f"{'wss' if tls else 'ws'}://{host}:{port}/live"
        options.setdefault("subprotocols", ["vidact"])
        self.exits = contextlib.ExitStack()
        self.socket = self.exits.enter_context(connect(address, ssl=tls, open_timeout=60, close_timeout=0.2, **options))
        self.hello = self.read("hello")
        self.other = []  # what came while something else was waited for
        self.pushed = []  # seconds of the frames

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(Exception):
            self.exits.close()

    def say(self, **message):
        self.socket.send(json.dumps(message))

    def read(self, kind, timeout=60.0):
        """The next message of a type."""
        end = time.monotonic() + timeout
        while True:
            message = self.socket.recv(timeout=max(0.0, end - time.monotonic()))
            if isinstance(message, bytes):
                if kind == "picture":
                    return message
                continue
            message = json.loads(message)
            if message["type"] == kind:
                return message
            if message["type"] not in ("hello", "taken"):
                self.other.append(message)

    def start(self, source="browser"):
        self.say(type="start", source=source)
        started = self.read("started")
        self.began = time.monotonic()
        return started

    def push(self, data):
        """One frame, as the page sends it; waits until it was taken."""
        self.pushed.append(time.monotonic() - self.began)
        self.socket.send(frame(self.pushed[-1], data))
        self.read("taken")

    def play(self, data, seconds, fps=20.0):
        """A camera that sees one picture for a while; gives the answers."""
        begin, answers = time.monotonic(), []
        self.other = []
        for i in range(round(seconds * fps)):
            time.sleep(max(0.0, begin + i / fps - time.monotonic()))
            self.push(data)
        with contextlib.suppress(TimeoutError):
            while True:
                answers.append(self.read("answer", timeout=0.15))
        answers = [message for message in self.other if message["type"] == "answer"] + answers
        return sorted(answers, key=lambda answer: answer["seconds"])
