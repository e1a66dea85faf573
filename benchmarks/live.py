"""Measure the cost and the delay of live answers, and how many streams one process can answer.

    python benchmarks/live.py                                  # MobileNetV2 and MiniROAD on the best device; 2 minutes
    python benchmarks/live.py --backbone resnet50 --device cpu
    python benchmarks/live.py --parts [camera] --seconds 300 --out runs/live    # figures also in runs/live/results.json
    python benchmarks/live.py --parts [recognisers] --repeats 100               # MoViNet, TSM and X3D on one CPU core

Six parts, with random weights, which cost as much as trained ones. Three of them compare two sides in turn: "before",
PyTorch and answers of full tokens, and "after", the quickest runtime of the device and early answers.

answer   One answer by a step, compared with running the same networks over the whole last window of frames, as many
         webcam demos do in PyTorch; both from frames of the camera's size to probabilities, of both sides in turn;
         medians. Eight frames anew in one runtime cannot cost more than eight steps, but for the batch.
camera   A simulated camera, read by the reader thread of the camera source: the time from the capture of the newest
         frame that the network uses of a token to its answer. An image network uses the fourth of six frames. A full
         token is answered when its last frame is certain, so about 0.1 s of this time are waiting and not computing; an
         early answer comes when the fourth is certain.
sources  The CPU time of one answer of a detector on one core, from the decoded frames to the events, and the number of
         live sources that a core can answer 4 times a second: of one source, and of ``BATCH`` that share the steps.
files    Frames per second of several files in one process, in shared batches, and of the same files one after another.
recognisers
         The CPU time of one answer of networks of whole frames on one core, and the number of streams that one core can
         answer 5 times a second. MoViNet and the causal TSM step; X3D-S, which cannot, computes its whole clip again.
         The rounds of all networks alternate. Each answer of a step is compared with the whole clip up to its frame.
gpu      With CUDA: the number of streams that one GPU can answer at 4 tokens per second. Only networks, states of
         streams and transfer are measured; the CPU decodes and resizes, and ``prepare`` is the time of a token on one
         of its cores.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do; PyTorch has to be imported after it

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av
import jsonargparse
import numpy as np
import torch
from torch import Tensor, nn

import vidact.models
from vidact.device import one_thread
from vidact.events import EventDetector
from vidact.features.names import build_extractor
from vidact.models.online import one_stream, stack_states
from vidact.results.figures import command_line, save_results
from vidact.stream import Grab, StreamModel, load_model, open_source, run, run_many
from vidact.stream.engine import Streams
from vidact.video import test_transform

PARTS = ("answer", "camera", "sources", "files", "recognisers", "gpu")
SIDES = ("before", "after")
ROUNDS = 5  # of the parts camera and sources: in each, the sides take turns
CLASSES = [f"action {number}" for number in range(20)]
GPU_BACKBONES = ("mobilenet_v3_large", "resnet50")
ANSWERS_PER_SECOND = 5  # of the recognisers: the rate of MoViNet's published weights
BATCH = 8  # streams that one process answers together
# The recognisers: each with its arguments and, where it cannot step, the frames of its clip.
RECOGNISERS: dict[str, tuple[dict[str, Any], int | None]] = {
    "movinet_a0_stream": ({}, None),
    "movinet_a1_stream": ({}, None),
    "movinet_a2_stream": ({}, None),
    "tsm_mobilenet_v2": ({"shift": "causal"}, None),
    "x3d_s": ({}, 13),
}
TOY_RECOGNISERS: dict[str, tuple[dict[str, Any], int | None]] = {
    "movinet_tiny_stream": ({"size": 32}, None),
    "tsm_resnet_tiny": ({"shift": "causal", "size": 32}, None),
    "movinet_tiny_base": ({"size": 32}, 4),
}


def main(
    backbone: str = "mobilenet_v2",
    parts: list[str] | None = None,
    window: int = 8,
    repeats: int = 30,
    fps: float = 30.0,
    width: int = 640,
    height: int = 480,
    seconds: float = 30.0,
    streams: int = 8,
    device: str | None = None,
    toy: bool = False,
    out: str | None = None,
) -> None:
    """Print the tables.

    Args:
        backbone: backbone of the features and of the TSM: any <backbone> for which vidact.models has tsm_<backbone>.
        parts: some of answer, camera, sources, files, recognisers, gpu. All by default.
        window: frames of the window that is computed whole.
        repeats: rounds of the parts answer and recognisers.
        fps: frames per second of the simulated camera.
        width: width of its frames in pixels.
        height: height of its frames in pixels.
        seconds: how long the camera runs for each side, and three times the length of each file.
        streams: number of files.
        device: cpu, cuda or mps; default: the best available one.
        toy: use tiny networks, to check that this runs.
        out: folder for results.json.
    """
    parts = list(PARTS) if parts is None else parts
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"parts has {', '.join(unknown)}; it may have {', '.join(PARTS)}")
    if min(window, repeats, streams) < 1:
        raise ValueError(f"window is {window}, repeats {repeats} and streams {streams}; each is at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = f"torch {torch.__version__}, {cores} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available() and ("gpu" in parts or not str(device).startswith(("cpu", "mps"))):
        facts = f"{torch.cuda.get_device_name()}, {facts}"
    print(facts)
    size = {"size": 32} if toy else {}
    figures: dict[str, Any] = {}
    if "recognisers" in parts:
        figures["recognisers"] = rows = measure_recognisers(
            TOY_RECOGNISERS if toy else RECOGNISERS, repeats, (height, width)
        )
        print_recognisers(rows, (height, width))
    if not set(parts) - {"recognisers"}:
        save(out, figures, facts, backbone)
        return
    sides = {side: detector(backbone, device, toy, side) for side in SIDES}
    model = sides["after"]
    runtimes = {side: of.extractor.runtime for side, of in sides.items() if of.extractor}
    print(
        f"MiniROAD on {backbone}, {model.tokens_per_second:g} tokens/s on {model.device}; "
        f"features by {runtimes['before']} before, {runtimes['after']} after"
    )
    if "answer" in parts:
        models = {**sides, "tsm": recogniser(backbone, model.device, size)}
        figures["answer"] = measure_answers(models, window, repeats, (height, width))
        print_answers(figures["answer"], window)
    if "camera" in parts:
        figures["camera"] = measure_cameras(sides, fps, (height, width), seconds)
        print(f"\ncamera of {fps:g} fps, {width}x{height}, {seconds:g} s a side in {ROUNDS} rounds")
        print_cameras(figures["camera"])
    if "sources" in parts:
        figures["sources"] = measure_sources(sides, (height, width))
        print(f"\nCPU time of an answer on one core; live sources a core at {model.tokens_per_second:g} answers/s")
        print_sources(figures["sources"])
    if "files" in parts:
        figures["files"] = row = measure_files(model, streams, (height // 2, width // 2), seconds / 3)
        print(
            f"\n{streams} files, {row['frames']} frames: together {row['together_fps']:.0f} frames/s, one after "
            f"another {row['alone_fps']:.0f} frames/s ({row['ratio']:.2f} times)",
            flush=True,
        )
    if "gpu" in parts and torch.cuda.is_available():
        print(f"\n{torch.cuda.get_device_name()}: streams at 4 tokens/s with MiniROAD")
        for name in ("resnet_tiny",) if toy else GPU_BACKBONES:
            figures.setdefault("gpu", {})[name] = row = measure_gpu(detector(name, "cuda", toy), (height, width))
            print(
                f"{name:20}{row['streams']:8.0f} in batches of {row['batch']} ({row['batch_ms']:.1f} ms each); "
                f"prepare {row['prepare_ms']:.1f} ms a token",
                flush=True,
            )
    elif "gpu" in parts:
        print("\nno CUDA device, so the part gpu is left out")
    save(out, figures, facts, backbone)


def save(out: str | None, figures: dict[str, Any], facts: str, backbone: str) -> None:
    """Write the figures to results.json in the folder ``out``; None writes nothing."""
    if out is not None:
        path = save_results(out, figures, command_line(), machine=facts, backbone=backbone)
        print(f"\n{path}")


# ---------------------------------------------------------------------------------------------- models


def detector(backbone: str, device: str | None, toy: bool = False, side: str = "after") -> StreamModel:
    """Return MiniROAD on features of a backbone, with random weights, as one of the ``SIDES``."""
    torch.manual_seed(0)
    extractor = build_extractor(backbone, None, 32 if toy else None, device=device)
    extractor.run_in(extractor.quick_runtime if side == "after" else "torch")
    small = {"embedding_dim": 16, "hidden_dim": 16} if toy else {}
    torch.manual_seed(0)
    network = vidact.models.miniroad(1 + len(CLASSES), extractor.dim, **small).eval().requires_grad_(False)
    rate = extractor.tokens_per_second
    return StreamModel(
        network.to(extractor.device),
        CLASSES,
        rate,
        EventDetector(CLASSES, rate),
        extractor,
        device=extractor.device,
        early=side == "after",
    )


def recogniser(backbone: str, device: torch.device, size: dict[str, int]) -> StreamModel:
    """Return a causal TSM that steps frame by frame."""
    torch.manual_seed(0)
    network = getattr(vidact.models, f"tsm_{backbone}")(len(CLASSES), weights=None, shift="causal", **size)
    network.record = {"classes": CLASSES, "input": network.input.as_dict(), "sampling": None}
    return load_model(network, device=device)


# ---------------------------------------------------------------------------------------------- one answer


def measure_answers(
    models: dict[str, StreamModel], window: int, repeats: int, size: tuple[int, int]
) -> dict[str, dict[str, float]]:
    """Return the milliseconds, and those of CPU time, of a step and of the last ``window`` frames computed whole.

    Each token has one frame. The models take turns.
    """
    frames = [noise(size, seed) for seed in range(window)]
    states = {name: model.network.initial_state(1) for name, model in models.items()}
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(repeats + 2):  # two rounds warm the machine up
        last = [frames[(number + k) % window] for k in range(window)]
        for name, model in models.items():
            marks = [(time.perf_counter(), time.process_time())]
            token = model.inputs([model.prepare([last[-1]] * len(model.places))])
            _, _, states[name] = model.answer(token, states[name])
            marks.append((time.perf_counter(), time.process_time()))
            compute_anew(model, last)
            marks.append((time.perf_counter(), time.process_time()))
            for how, begin, end in zip(("a step", f"{window} frames anew"), marks[:-1], marks[1:], strict=True):
                times.setdefault(f"{name}, {how}", []).append((end[0] - begin[0], end[1] - begin[1]))
    return {
        name: {
            "ms": 1000 * statistics.median(wall for wall, _ in rounds[2:]),
            "cpu_ms": 1000 * statistics.median(cpu for _, cpu in rounds[2:]),
        }
        for name, rounds in times.items()
    }


def print_answers(rows: dict[str, dict[str, float]], window: int) -> None:
    """Print the times of answers, and of windows to steps: as demos do it in PyTorch, and within one runtime."""
    print(f"\n{'an answer, ms':36}{'wall':>8}{'CPU':>8}")
    for name, times in rows.items():
        print(f"{name:36}{times['ms']:8.1f}{times['cpu_ms']:8.1f}")
    anew = f"{window} frames anew"
    for side, step in (("before", "after"), ("before", "before"), ("after", "after"), ("tsm", "tsm")):
        first, second = rows[f"{side}, {anew}"], rows[f"{step}, a step"]
        wall, cpu = first["ms"] / second["ms"], first["cpu_ms"] / second["cpu_ms"]
        print(f"{side}, {anew}, to {step}, a step: {wall:.1f} times, CPU time {cpu:.1f}", flush=True)


@torch.inference_mode()
def compute_anew(model: StreamModel, images: list[Tensor]) -> Tensor:
    """Return probabilities of the whole clip: every frame is transformed and computed again."""
    if model.extractor:
        prepared = [model.extractor.prepare([image] * len(model.places)) for image in images]
        features = model.extractor.compute(prepared)
        return model.network(features[None].to(model.device)).logits[:, -1].softmax(-1).cpu()
    assert model.transform is not None
    clips, _ = model.transform(torch.stack(images))
    return model.network.network(clips.to(model.device)).softmax(-1).cpu()


def noise(size: tuple[int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator).permute(2, 0, 1)


# ---------------------------------------------------------------------------------------------- a camera


class SimulatedCamera:
    """A camera as OpenCV shows it: it has a new frame every 1 / fps s, whether or not the frame is read."""

    def __init__(self, fps: float, size: tuple[int, int]) -> None:
        self.fps, self.count = fps, 0
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(8)]
        self.began = time.monotonic()

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        now = (time.monotonic() - self.began) * self.fps
        self.count = max(self.count + 1, int(now))
        time.sleep(max(0.0, self.began + self.count / self.fps - time.monotonic()))
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, self.images[self.count % len(self.images)].copy()

    def get(self, prop: int, /) -> float:
        return self.fps

    def release(self) -> None:
        pass


def measure_cameras(
    models: dict[str, StreamModel], fps: float, size: tuple[int, int], seconds: float
) -> dict[str, dict[str, float]]:
    """Return the latencies of the answers of each side, of all rounds together; the sides take turns."""
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in models}
    for _ in range(ROUNDS):
        for side, model in models.items():
            rounds[side].append(play_camera(model, fps, size, seconds / ROUNDS))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = {}
    for side, played in rounds.items():
        latencies = [latency for one in played for latency in one["latencies_ms"]]
        total = {key: sum(one[key] for one in played) for key in ("answers", "tokens", "frames", "dropped")}
        share = sum(one["cpu_s"] for one in played) / sum(one["took_s"] for one in played) / cores
        percentiles = {f"p{part}_ms": float(np.percentile(latencies, part)) for part in (50, 95, 99)}
        rows[side] = {**total, **percentiles, "cpu_share": share}
    return rows


def print_cameras(rows: dict[str, dict[str, float]]) -> None:
    """Print one line a side."""
    head = ("p50", 7), ("p95", 7), ("p99", 7), ("answers", 9), ("of", 6), ("dropped", 9), ("of", 6), ("CPU", 6)
    print(f"{'capture to answer, ms':22}" + "".join(f"{title:>{width}}" for title, width in head))
    for side, row in rows.items():
        print(
            f"{side:22}{row['p50_ms']:7.0f}{row['p95_ms']:7.0f}{row['p99_ms']:7.0f}{row['answers']:9}{row['tokens']:6}"
            f"{row['dropped']:9}{row['frames']:6}{row['cpu_share']:6.0%}",
            flush=True,
        )


def play_camera(model: StreamModel, fps: float, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Answer a simulated camera for some seconds; return the latencies of its answers and what they cost."""
    camera = SimulatedCamera(fps, size)
    updates, frames = [], []
    with open_source("0", capture=lambda _: camera) as source:
        timer = threading.Timer(seconds, source.close)
        timer.start()
        started, cpu = time.perf_counter(), time.process_time()
        for update in run(source, model, on_frame=lambda _, grab: frames.append(1 + grab.dropped)):
            updates.append(update)
        took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        timer.join()
    answers = [update for update in updates if not update.is_repeat]
    if not answers:
        raise RuntimeError(f"{seconds:g} s are too short for an answer; give more seconds")
    return {
        "latencies_ms": [update.latency_ms for update in answers],
        "answers": len(answers),
        "tokens": int(took_s * model.tokens_per_second),
        "frames": sum(frames),
        "dropped": sum(frames) - len(frames),
        "took_s": took_s,
        "cpu_s": cpu_s,
    }


# ---------------------------------------------------------------------------------------------- sources a core


@one_thread()
def measure_sources(models: dict[str, StreamModel], size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Return the milliseconds of CPU time of an answer, and how many live sources one core can answer at that rate.

    The sources show a frame for each slot of the clock; ``BATCH`` of them do so at the same time. ``sources`` is by the
    shorter of the two times. Pictures are not decoded. The sides take turns; medians of the tokens of all rounds.
    """
    images = [np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8) for seed in range(8)]
    times: dict[str, dict[int, list[float]]] = {side: {1: [], BATCH: []} for side in models}
    for _ in range(ROUNDS):
        for count in (1, BATCH):
            for side, model in models.items():
                times[side][count] += token_times(model, images, count)
    rows = {}
    for side, by_count in times.items():
        alone, together = (1000 * statistics.median(by_count[count]) for count in (1, BATCH))
        sources = 1000 / models[side].tokens_per_second / min(alone, together)
        rows[side] = {"alone_ms": alone, "together_ms": together, "sources": sources}
    return rows


def print_sources(rows: dict[str, dict[str, float]]) -> None:
    """Print one line a side, and the ratio of the sources."""
    print(f"{'':8}{'one source, ms':>16}{f'{BATCH} sources, ms':>16}{'sources a core':>16}")
    for side, row in rows.items():
        print(f"{side:8}{row['alone_ms']:16.1f}{row['together_ms']:16.1f}{row['sources']:16.1f}")
    print(f"ratio {rows['after']['sources'] / rows['before']['sources']:.2f}", flush=True)


def token_times(model: StreamModel, images: list[np.ndarray], count: int, tokens: int = 6) -> list[float]:
    """Return the seconds of CPU time of one answer, for each of some tokens of ``count`` live sources."""
    streams = Streams(model)
    live = [streams.join("camera", is_live=True) for _ in range(count)]
    times = []
    for token in range(tokens + 1):  # the first one warms the machine up
        started, answers = time.process_time(), 0
        for slot in range(model.chunk):
            number = token * model.chunk + slot
            for stream in live:
                stream.push(Grab(number / model.fps, images[number % len(images)], time.monotonic(), 0))
            answers += sum(not update.is_repeat for update in streams.answers())
        if answers != count:
            raise RuntimeError(f"{count} sources had {answers} answers to one token")
        times.append((time.process_time() - started) / count)
    return times[1:]


# ---------------------------------------------------------------------------------------------- several files


def measure_files(model: StreamModel, streams: int, size: tuple[int, int], seconds: float) -> dict[str, float]:
    """Return frames per second of files side by side in one process, and one after another."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.mp4" for number in range(streams)]
        for number, path in enumerate(paths):
            write_video(path, size, seconds, number)
        list(run(open_source(paths[0]), model))  # loads libraries
        frames: list[str] = []
        started = time.perf_counter()
        together = list(run_many([open_source(p) for p in paths], model, on_frame=lambda name, _: frames.append(name)))
        between = time.perf_counter()
        alone = []
        for path in paths:
            with open_source(path) as source:
                alone += list(run(source, model))
        ended = time.perf_counter()
    scores = [{(u.source, u.seconds): u.scores for u in updates} for updates in (together, alone)]
    if scores[0].keys() != scores[1].keys():
        raise RuntimeError(f"together the files had {len(together)} answers and alone {len(alone)}")
    together_fps, alone_fps = len(frames) / (between - started), len(frames) / (ended - between)
    return {
        "streams": streams,
        "frames": len(frames),
        "answers": len(alone),
        "difference": max(float(np.abs(scores[0][key] - scores[1][key]).max()) for key in scores[0]),
        "together_fps": together_fps,
        "alone_fps": alone_fps,
        "ratio": together_fps / alone_fps,
    }


def write_video(path: Path, size: tuple[int, int], seconds: float, seed: int) -> None:
    """Write a video of a coarse pattern that moves, at 25 fps."""
    height, width = (side // 2 * 2 for side in size)
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.pix_fmt, stream.height, stream.width = "yuv420p", height, width
        for number in range(max(round(25 * seconds), 1)):
            frame = np.ascontiguousarray(np.roll(image, 3 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


# ---------------------------------------------------------------------------------------------- recognisers on one core


class Clips:
    """A network of whole clips: every answer computes the newest ``frames`` prepared frames again."""

    def __init__(self, network: Any, frames: int) -> None:
        self.network, self.frames = network, frames

    def initial_state(self, batch_size: int) -> Tensor:
        """Return an empty ring of frames (B, T, C, H, W)."""
        side = self.network.input.size
        return torch.zeros(batch_size, self.frames, 3, side, side)

    def step(self, frame: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) of the clip that ends with this frame (B, C, H, W), and the clip."""
        clip = torch.cat([clip[:, 1:], frame[:, None]], 1)
        return self.network(clip), clip


def whole_frames(name: str, arguments: dict[str, Any], frames: int | None, pictures: list[Tensor]) -> tuple[Any, Any]:
    """Return a network of 600 classes with random weights, and the function that prepares its frames.

    Its batch norms are fitted to the pictures. With those of a new network the values shrink from layer to layer, and
    the comparison of a step with the clip would compare zeros.
    """
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(600, weights=None, **arguments).requires_grad_(False)
    for key, parameter in network.named_parameters():
        if key.endswith(".alpha"):  # of MoViNet: a block begins as its residual, and would not be compared
            parameter.fill_(1.0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the statistics of the one clip below
    transform = test_transform(network.input)
    network.train()(torch.cat([transform(picture[None])[0] for picture in pictures], 1))
    return (network.eval() if frames is None else Clips(network.eval(), frames)), transform


@one_thread()
@torch.inference_mode()
def measure_recognisers(
    recognisers: dict[str, tuple[dict[str, Any], int | None]], repeats: int, size: tuple[int, int]
) -> dict[str, dict[str, Any]]:
    """Return the milliseconds of CPU time of the answers of each network, on one thread.

    An answer is one frame of the camera, resized and cropped, one step, and the softmax; its picture is decoded
    elsewhere. ``batch_ms`` is the time of one answer where ``BATCH`` streams share each step. A batch of whole clips is
    not measured: on the CPU a clip in it took no less time. ``streams`` is by the shorter of the two times.
    """
    pictures = [noise(size, seed) // (1 + seed % 3) for seed in range(BATCH)]  # of several brightnesses
    networks = {name: whole_frames(name, *how, pictures) for name, how in recognisers.items()}
    states = {name: network.initial_state(1) for name, (network, _) in networks.items()}
    stepping = {name: network for name, (network, _) in networks.items() if not isinstance(network, Clips)}
    shared = {name: network.initial_state(BATCH) for name, network in stepping.items()}
    alone: dict[str, list[float]] = {name: [] for name in networks}
    together: dict[str, list[float]] = {name: [] for name in stepping}
    for number in range(repeats + 2):  # two rounds warm the machine up
        for name, (network, transform) in networks.items():
            started = time.process_time()
            frame = transform(pictures[number % BATCH][None])[0][:, 0]
            logits, states[name] = network.step(frame, states[name])
            logits.softmax(-1)
            alone[name].append(1000 * (time.process_time() - started))
            if name not in stepping:
                continue
            started = time.process_time()
            frames = torch.cat([transform(picture[None])[0][:, 0] for picture in pictures])
            logits, shared[name] = network.step(frames, shared[name])
            logits.softmax(-1)
            together[name].append(1000 * (time.process_time() - started) / BATCH)
    return {
        name: {
            "pixels": (network.network if isinstance(network, Clips) else network).input.size,
            "clip": recognisers[name][1],
            **spread_of("", alone[name][2:]),
            **(spread_of("batch_", together[name][2:]) if name in stepping else {}),
            "streams": 1000
            / ANSWERS_PER_SECOND
            / min(statistics.median(times[name][2:]) for times in (alone, together) if name in times),
            "state_bytes": num_bytes(states[name]),
            "difference": compare_with_clip(network, transform, pictures) if name in stepping else None,
        }
        for name, (network, transform) in networks.items()
    }


def spread_of(name: str, times_ms: list[float]) -> dict[str, float]:
    """Return the median, the minimum, and the 10th and 90th percentiles."""
    low, high = np.percentile(times_ms, [10, 90])
    return {
        f"{name}ms": statistics.median(times_ms),
        f"{name}min_ms": min(times_ms),
        f"{name}p10_ms": float(low),
        f"{name}p90_ms": float(high),
    }


def compare_with_clip(network: Any, transform: Any, pictures: list[Tensor]) -> float:
    """Return the largest difference between a step's logits and those of the clip up to its frame.

    It is divided by the largest change of a logit from one frame to another.
    """
    clip = torch.cat([transform(picture[None])[0] for picture in pictures], 1)  # (1, T, C, H, W)
    state, steps, clips = network.initial_state(1), [], []
    for t in range(clip.shape[1]):
        logits, state = network.step(clip[:, t], state)
        steps.append(logits)
        clips.append(network(clip[:, : t + 1]))
    expected = torch.cat(clips)  # (T, K)
    change = (expected.amax(0) - expected.amin(0)).max()
    return float((torch.cat(steps) - expected).abs().max() / change)


def num_bytes(state: Any) -> int:
    """Return the size of all tensors of a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return sum(map(num_bytes, state.values() if isinstance(state, dict) else state))


def print_recognisers(rows: dict[str, dict[str, Any]], size: tuple[int, int]) -> None:
    """Print one line a network; the ratios are to the first of them."""
    first = next(iter(rows.values()))
    print(
        f"\nCPU time of an answer to a picture of {size[1]}x{size[0]} on one core, ms: median (minimum, 10th to 90th "
        f"percentile); streams at {ANSWERS_PER_SECOND} answers a second in batches of {BATCH}"
    )
    print(
        f"{'':20}{'pixels':>7}{'alone':>32}{'ratio':>7}{f'in a batch of {BATCH}':>32}{'ratio':>7}{'streams':>9}"
        f"{'state, MB':>11}{'step - clip':>13}"
    )
    for name, row in rows.items():
        times = [
            f"{row[f'{part}ms']:.1f} ({row[f'{part}min_ms']:.1f}, {row[f'{part}p10_ms']:.1f} to "
            f"{row[f'{part}p90_ms']:.1f})"
            if f"{part}ms" in row
            else "–"
            for part in ("", "batch_")
        ]
        ratio = f"{row['batch_ms'] / first['batch_ms']:.1f}" if "batch_ms" in row else "–"
        difference = f"clip of {row['clip']}" if row["difference"] is None else f"{row['difference']:.0e}"
        print(
            f"{name:20}{row['pixels']:7}{times[0]:>32}{row['ms'] / first['ms']:7.1f}{times[1]:>32}"
            f"{ratio:>7}{row['streams']:9.1f}{row['state_bytes'] / 1e6:11.2f}{difference:>13}",
            flush=True,
        )


# ---------------------------------------------------------------------------------------------- one GPU


def measure_gpu(model: StreamModel, size: tuple[int, int], batch: int = 256, repeats: int = 10) -> dict[str, float]:
    """Return the number of streams at 4 tokens per second; ``batch`` streams with separate states share each batch."""
    assert model.extractor is not None
    model.extractor.batch = batch
    image = noise(size, 0)
    started = time.perf_counter()
    prepared = [model.prepare([image] * len(model.places)) for _ in range(8)]
    prepare_s = (time.perf_counter() - started) / 8
    tokens = [prepared[i % 8] for i in range(batch)]
    states, times = [model.network.initial_state(1) for _ in tokens], []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        _, _, state = model.answer(model.inputs(tokens), stack_states(states))
        states = [one_stream(state, i) for i in range(batch)]  # one state per stream, as in vidact.stream
        times.append(time.perf_counter() - started)
    batch_s = statistics.median(times[2:])
    return {
        "batch": batch,
        "batch_ms": 1000 * batch_s,
        "streams": batch / batch_s / 4,
        "prepare_ms": 1000 * prepare_s,
    }


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
