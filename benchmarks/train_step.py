"""Measure training steps of TSM-ResNet-50 on 8 x 224 x 224 clips in several ways, and fed by the loader.

    uv run python benchmarks/train_step.py                            # on a GPU, a few minutes; a CPU takes hours
    uv run python benchmarks/train_step.py --batch 64 --workers 16 --out runs/train_step
    uv run python benchmarks/train_step.py --ways [autocast,channels_last,compiled,fused,ours] --fed false
    uv run python benchmarks/train_step.py --videos my_clips          # videos for the loader; default: generated ones
    uv run python benchmarks/train_step.py --toy true                 # tiny, on any machine, to check that it runs

fp32           single precision with PyTorch's defaults: on CUDA, convolutions round their factors to TF32
autocast       bf16 autocast, channels first
channels_last  autocast with weights and clips in channels-last memory
compiled       autocast with torch.compile
fused          autocast with the optimiser in one kernel per group
ours           all of these, as in the recipes: compile gpu, bf16-mixed, and the automatic options of ClipClassification

A step is forward, loss, backward, clipped gradients, SGD with momentum. The ways start from the same weights and take
turns in one run; figures are medians over the rounds. cuDNN searches for the best algorithms in all of them. FLOPs are
those of the forward pass, as PyTorch counts them, times three; the share is relative to the maker's figure for dense
bf16, for every way. Losses of the first three steps on one batch, and the first gradient relative to its norm, are
compared with those of the first way.

Fed: the same step as ours on clips that ClipData reads from videos packed by ``vidact prepare``, for about ``seconds``.
If this is more than a tenth slower than unfed, the table below shows why: the speed of the loader without training, the
time to move and finish a batch, how long the main process waits for the workers, and where a worker's time goes.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from loader import generate, our_data, where_time_goes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vidact.batch import ClipInput
from vidact.data.clips import ClipData
from vidact.data.official_lists import find_videos
from vidact.jobs import num_cores
from vidact.models import tsm_resnet50, tsm_resnet_tiny
from vidact.models.backbones import channels_last, clip_channels_last
from vidact.prepare.sets import pack_set
from vidact.results.figures import command_line, save_results
from vidact.tasks.training import compiled, fuse
from vidact.video.folders import video_id

NUM_CLASSES = 400
# Peaks for dense bf16, from the makers' data sheets. The first entry whose name is part of the device's name is used.
PEAK_TFLOPS = {
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
}


@dataclasses.dataclass(frozen=True)
class Way:
    """The options that a way of training switches on."""

    autocast: bool = True
    channels_last: bool = False
    compiled: bool = False
    fused: bool = False


WAYS = {
    "fp32": Way(autocast=False),
    "autocast": Way(),
    "channels_last": Way(channels_last=True),
    "compiled": Way(compiled=True),
    "fused": Way(fused=True),
    "ours": Way(channels_last=True, compiled=True, fused=True),
}


def main(
    ways: list[str] | None = None,
    batch: int = 32,
    frames: int = 8,
    size: int = 224,
    steps: int = 10,
    rounds: int = 3,
    fed: bool = True,
    videos: str | None = None,
    workers: int | None = None,
    pixels_on: Literal["workers", "device"] = "device",
    seconds: float = 12.0,
    device: str | None = None,
    peak_tflops: float | None = None,
    toy: bool = False,
    out: str | None = None,
) -> dict[str, Any]:
    """Print both tables.

    Args:
        ways: some of fp32, autocast, channels_last, compiled, fused, ours; by default fp32, autocast and ours.
        batch: clips per step.
        frames: frames of a clip.
        size: height and width of a clip in pixels.
        steps: steps of each way in a round.
        rounds: how often the ways take turns.
        fed: whether the loader is measured too.
        videos: a folder of videos for the loader; default: generated videos.
        workers: loader processes; by default as many as ClipData uses with a GPU.
        pixels_on: see ClipData.
        seconds: approximate duration of an epoch of the loader; a short one would measure batches loaded in advance.
        device: cuda or cpu; default: cuda if available.
        peak_tflops: the device's peak in 10^12 bf16 operations per second, if it is not listed in this file.
        toy: a tiny network, compiled without a compiler.
        out: folder for results.json.
    """
    ways = ["fp32", "autocast", "ours"] if ways is None else ways
    if unknown := set(ways) - set(WAYS):
        raise ValueError(f"ways has {', '.join(sorted(unknown))}; it may have {', '.join(WAYS)}")
    if not ways or min(batch, frames, steps, rounds) < 1:
        raise ValueError(
            f"ways is {ways}, batch {batch}, frames {frames}, steps {steps}, rounds {rounds}: nothing to time"
        )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if toy:
        batch, frames, size, steps, rounds, seconds = 2, 4, 32, 2, 1, 0.5
        workers = 0 if workers is None else workers
    if workers is None:
        workers = min(8, num_cores())
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    peak = peak_tflops or next((value for part, value in PEAK_TFLOPS.items() if part in name), None)
    facts = f"{name}, torch {torch.__version__}, {num_cores()} cores"
    print(f"{facts}\n{batch} clips a step, {frames} frames of {size} x {size}\n")

    torch.manual_seed(0)
    build = tsm_resnet_tiny if toy else tsm_resnet50
    # There is no dropout, because compiled networks draw other random numbers. The classifier has larger weights than
    # usual: with the usual ones every clip has the same answer, which would hide differences.
    start = build(NUM_CLASSES, weights=None, size=size, dropout=0.0)
    nn.init.normal_(start.fc.weight, std=0.05)
    clips = torch.randn(batch, frames, 3, size, size, device=where)
    labels = torch.randint(NUM_CLASSES, (batch,), device=where)
    tflop = 3 * forward_flops(start, clips) / batch / 1e12  # per clip and step
    trainers = {}
    for way in ways:
        began = time.perf_counter()
        trainers[way] = Trainer(start, WAYS[way], where, batch, "eager" if toy else "inductor")
        trainers[way].first_steps(clips, labels)
        print(f"  … {way} is ready after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, trainer in trainers.items():
            times[way].append(timed(lambda trainer=trainer: trainer.step(clips, labels), steps, where))

    rows = {}
    base = trainers[ways[0]]
    print(
        f"{'':14}{'clips/s':>10}{'ms':>10}{'memory, GiB':>13}{'of peak':>9}{'loss differs':>14}{'gradient':>10}"
        + "".join(f"{'x ' + way:>16}" for way in ways)
    )
    for way, trainer in trainers.items():
        seconds_a_step = statistics.median(times[way])
        rate = batch / seconds_a_step
        rows[way] = row = {
            "clips_per_second": rate,
            "ms": 1000 * seconds_a_step,
            "peak_memory_bytes": trainer.peak_bytes,
            "share_of_peak": None if peak is None else rate * tflop / peak,
            "losses": trainer.losses,
            "loss_difference": max(abs(a - b) for a, b in zip(trainer.losses, base.losses, strict=True)),
            "gradient_difference": float((trainer.gradient - base.gradient).norm() / base.gradient.norm()),
            "times_as_quick_as": {base_way: statistics.median(times[base_way]) / seconds_a_step for base_way in ways},
        }
        memory = "-" if trainer.peak_bytes is None else f"{trainer.peak_bytes / 2**30:.2f}"
        share = "unknown" if peak is None else f"{100 * row['share_of_peak']:.1f} %"
        print(
            f"{way:14}{rate:10.1f}{row['ms']:10.1f}{memory:>13}{share:>9}{row['loss_difference']:14.1e}"
            f"{row['gradient_difference']:10.1e}"
            + "".join(f"{row['times_as_quick_as'][base_way]:16.2f}" for base_way in ways)
        )
    peak_text = "unknown; set it with --peak_tflops" if peak is None else f"{peak:g} TFLOP/s"
    print(f"\n{1000 * tflop:.3g} GFLOP a clip and step; the device's peak: {peak_text}")

    results: dict[str, Any] = {"ways": rows, "gflop_a_clip": 1000 * tflop, "peak_tflops": peak}
    if fed:
        last = "ours" if "ours" in trainers else ways[-1]
        for way in set(trainers) - {last}:
            del trainers[way]
        with tempfile.TemporaryDirectory() as scratch:
            data = packed_data(Path(scratch), videos, batch, frames, size, workers, pixels_on, toy)
            enough = max(2, round(seconds / statistics.median(times[last])))
            results["fed"] = {"way": last} | measure_fed(
                trainers[last],
                lambda count: data(count * batch),
                enough,
                rounds=1 if toy else 2,
                unfed=(clips, labels),
                where=where,
            )
    if out is not None:
        print(f"\n{save_results(out, {'train_step': results}, command_line(), machine=facts)}")
    return results


class Trainer:
    """A copy of the network with its optimiser, trained in one of the ways."""

    def __init__(self, start: nn.Module, way: Way, where: torch.device, batch: int, backend: str) -> None:
        self.way, self.where = way, where
        self.network = copy.deepcopy(start).to(where).train()
        if way.channels_last:
            channels_last(self.network, where)
        self.forward: Callable[[Tensor], Tensor] = self.network
        if way.compiled:
            self.forward = compiled(self.network, batch, backend)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        if way.fused:
            fuse(self.optimizer, torch.device("cuda"))  # CPUs have this kernel too
        self.losses: list[float] = []
        self.gradient = torch.zeros(0)
        self.peak_bytes: int | None = None

    def step(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Run one training step on clips (B, T, C, H, W); return the loss."""
        self.optimizer.zero_grad()
        if self.way.channels_last:
            clips = clip_channels_last(clips)
        with torch.autocast(self.where.type, torch.bfloat16, enabled=self.way.autocast, cache_enabled=False):
            logits = self.forward(clips)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 20.0)
        self.optimizer.step()
        return loss.detach()

    def first_steps(self, clips: Tensor, labels: Tensor) -> None:
        """Run three steps, which compile and search for algorithms; keep losses, the first gradient and the memory."""
        for number in range(3):
            if number == 2 and self.where.type == "cuda":
                self.optimizer.zero_grad()
                torch.cuda.synchronize(self.where)
                torch.cuda.reset_peak_memory_stats(self.where)
                others = torch.cuda.memory_allocated(self.where) - self.own_bytes()
            self.losses.append(float(self.step(clips, labels)))
            if number == 0:
                self.gradient = torch.cat([weight.grad.flatten() for weight in self.network.parameters()]).cpu()  # type: ignore[union-attr]
        if self.where.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self.where) - others

    def own_bytes(self) -> int:
        """Return the bytes of weights, statistics and momenta."""
        tensors = [*self.network.state_dict().values()]
        tensors += [value for state in self.optimizer.state.values() for value in state.values() if value is not None]
        return sum(tensor.nbytes for tensor in tensors)


def forward_flops(network: nn.Module, clips: Tensor) -> int:
    """Return the operations of a forward pass of ``clips``, counted without computing it."""
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        shadow(torch.empty(clips.shape, device="meta"))
    return counted.get_total_flops()


def timed(step: Callable[[], Any], steps: int, where: torch.device) -> float:
    """Return the seconds of a step, including the device's work."""
    wait_for(where)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for(where)
    return (time.perf_counter() - began) / steps


def wait_for(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


# ---------------------------------------------------------------------------------------------- the loader


def packed_data(
    scratch: Path, videos: str | None, batch: int, frames: int, size: int, workers: int, pixels_on: str, toy: bool
) -> Callable[[int], ClipData]:
    """Pack the videos; return a function that makes a data module of a number of clips of them."""
    began = time.perf_counter()
    folder = scratch / "videos"
    if videos is None:
        generate(folder, 2 if toy else 8, 24 if toy else 100)
    else:
        folder = Path(videos)
    names = sorted(name for names in find_videos(folder).values() for name in names)
    if not names:
        raise FileNotFoundError(f"{folder} contains no video")
    packed = pack_set(folder, scratch / "packed", progress=False)
    print(
        f"\nfed by ClipData: {len(names)} packed videos, {packed.figures['bytes_ratio']:.2f} x their bytes, {workers} "
        f"workers, pixels_on {pixels_on}"
    )
    print(f"  … packed after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    def make(clips: int) -> ClipData:
        return our_data(
            scratch / "packed",
            [video_id(name) + ".packed" for name in names],
            clips,
            workers,
            batch,
            scratch / f"list{clips}",
            segments=frames,
            input=ClipInput(size=size),
            pixels_on=pixels_on,
        )

    return make


def measure_fed(
    trainer: Trainer,
    make: Callable[[int], ClipData],
    steps: int,
    rounds: int,
    unfed: tuple[Tensor, Tensor],
    where: torch.device,
) -> dict[str, Any]:
    """Measure epochs of ``steps`` batches from the loader in turn with unfed steps, then each part separately."""
    data = make(steps)
    loader, batch = data.loader("train"), data.batch_size

    def onto_device(loaded: Any) -> tuple[Tensor, Tensor]:
        """Move a batch to the device as Lightning does before the training step; return clips and targets."""
        moved = data.on_after_batch_transfer(move_data_to_device(loaded, where), 0)
        return moved.clips.flatten(0, 1), moved.targets

    def epoch() -> tuple[float, float]:
        """Return the seconds of an epoch, and the part of them in which the main process waited for the workers."""
        wait_for(where)
        waited, began = 0.0, time.perf_counter()
        batches = iter(loader)
        while True:
            requested = time.perf_counter()
            loaded = next(batches, None)
            waited += time.perf_counter() - requested
            if loaded is None:
                break
            trainer.step(*onto_device(loaded))
        wait_for(where)
        return time.perf_counter() - began, waited

    for loaded in make(2).loader("train"):  # reads pages, and searches kernels for these clips
        trainer.step(*onto_device(loaded))
    fed_s, waited_s, unfed_s = [], [], []
    for _ in range(rounds):
        seconds, waited = epoch()
        fed_s.append(seconds / steps)
        waited_s.append(waited / steps)
        unfed_s.append(timed(lambda: trainer.step(*unfed), min(steps, 50), where))
    began = time.perf_counter()
    for loaded in loader:
        last = loaded
    alone_s = (time.perf_counter() - began) / steps
    moving_s = timed(lambda: onto_device(last), 5, where)
    fed, plain = statistics.median(fed_s), statistics.median(unfed_s)
    figures = {
        "steps": steps,
        "clips_per_second": batch / fed,
        "unfed_clips_per_second": batch / plain,
        "ratio": plain / fed,
        "loader_alone_clips_per_second": batch / alone_s,
        "moving_ms": 1000 * moving_s,
        "waiting_ms": 1000 * statistics.median(waited_s),
        "unfed_ms": 1000 * plain,
        "worker_ms_a_clip": where_time_goes(data, min(8, steps * batch)),
    }
    print(f"\n{'fed':>34}{figures['clips_per_second']:10.1f} clips/s")
    print(f"{'unfed, in turn with it':>34}{figures['unfed_clips_per_second']:10.1f} clips/s")
    print(f"{'fed / unfed':>34}{figures['ratio']:10.2f}")
    print(f"{'the loader alone':>34}{figures['loader_alone_clips_per_second']:10.1f} clips/s")
    print(f"{'a step, unfed':>34}{figures['unfed_ms']:10.1f} ms")
    print(f"{'moving and finishing a batch':>34}{figures['moving_ms']:10.1f} ms, alone")
    print(f"{'waiting for the workers':>34}{figures['waiting_ms']:10.1f} ms a step")
    for part, spent in figures["worker_ms_a_clip"].items():
        print(f"{part:>34}{spent:10.2f} ms a clip, one worker alone")
    if figures["ratio"] < 0.9:
        print(f"\nmore than a tenth slower than unfed: {reason(figures)}")
    return figures


def reason(figures: dict[str, Any]) -> str:
    """Return what limits training fed by the loader, from the figures of its parts."""
    step, moving = figures["unfed_ms"], figures["moving_ms"]
    if figures["loader_alone_clips_per_second"] < figures["unfed_clips_per_second"]:
        slowest = max(figures["worker_ms_a_clip"], key=figures["worker_ms_a_clip"].get)
        return (
            f"the workers alone give {figures['loader_alone_clips_per_second']:.0f} clips a second and the step takes "
            f"{figures['unfed_clips_per_second']:.0f}; most of a worker's time goes to: {slowest}. More workers, if "
            "there are cores for them"
        )
    if figures["waiting_ms"] > step / 10:
        return (
            f"the main process waits {figures['waiting_ms']:.1f} ms a step for clips, although the loader is fast "
            "enough without training: without workers the main process reads the clips, and workers share its cores"
        )
    if moving > step / 10:
        return f"moving and finishing a batch takes {moving:.1f} ms beside a step of {step:.1f} ms"
    return "no part alone is slow enough to explain it"


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
