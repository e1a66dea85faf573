"""Measure clips per second of the whole training loader (decode, augment to 8 x 224 x 224, batch) and of a plain one.

    uv run python benchmarks/loader.py --videos my_clips        # a folder of videos; without it, generated ones
    uv run python benchmarks/loader.py --videos my_clips --workers 4 --rounds 5 --out runs/loader

The plain loader is one that many projects use: decord's ``get_batch``, then OpenCV for every frame. Our loader reads
the same videos as they are, transcoded, and packed by ``vidact prepare``. All use one random frame from each of eight
segments, crop at several scales, mirror, and normalise. The loaders take turns epoch by epoch, so that other work of
the machine affects all of them. The script prints medians of real time and of CPU time (which depends less on other
programs), ratios, the bytes and PSNR of the copies, and where the time of one clip goes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vidact.batch import ClipInput
from vidact.data.clips import ClipData, collate, one_thread
from vidact.data.official_lists import ClipRow, find_videos, write_clips_csv
from vidact.data.synthetic import write_video
from vidact.prepare.sets import pack_set, transcode_set
from vidact.results.figures import command_line, save_results
from vidact.video import Augment, SegmentSampler
from vidact.video.decode import open_video
from vidact.video.folders import video_id

INPUT = ClipInput(size=224)
SEGMENTS = 8


class PlainDataset(Dataset[tuple[torch.Tensor, int]]):
    """A data set that reads with decord, and transforms with OpenCV frame by frame."""

    def __init__(self, paths: Sequence[Path], segments: int, size: int) -> None:
        self.paths, self.segments, self.size = list(paths), segments, size
        self.mean = np.array(INPUT.mean, np.float32)
        self.std = np.array(INPUT.std, np.float32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import decord

        random = np.random.default_rng()
        reader = decord.VideoReader(str(self.paths[index]), ctx=decord.cpu(0), num_threads=1)
        part = len(reader) / self.segments
        numbers = [int(part * i + random.random() * part) for i in range(self.segments)]
        frames = reader.get_batch(numbers).asnumpy()  # (T, H, W, 3)
        height, width = frames.shape[1:3]
        side = int(min(height, width) * random.choice([1.0, 0.875, 0.75, 0.66]))
        top, left = random.integers(height - side + 1), random.integers(width - side + 1)
        is_mirrored = random.random() < 0.5
        images = []
        for frame in frames:
            image = cv2.resize(frame[top : top + side, left : left + side], (self.size, self.size))
            if is_mirrored:
                image = cv2.flip(image, 1)
            image = (image.astype(np.float32) / 255 - self.mean) / self.std
            images.append(image.transpose(2, 0, 1))
        return torch.from_numpy(np.stack(images)), 0


def our_data(
    folder: Path,
    names: Sequence[str],
    clips: int,
    workers: int,
    batch: int,
    lists: Path,
    segments: int = SEGMENTS,
    input: ClipInput = INPUT,
    **more: Any,
) -> ClipData:
    """Return a data module of ``clips`` clips: the videos are listed repeatedly until there are enough."""
    lists.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(clips):
        # Every clip needs a name of its own, so each repetition has another end, far after the end of the video.
        rows.append(ClipRow(names[i % len(names)], f"class{i % 2}", "train", end_s=100_000.0 + i))
    write_clips_csv(lists, rows)
    (lists / "root.txt").write_text(f"{folder.absolute()}\n")
    data = ClipData(
        str(lists), SegmentSampler(segments), Augment(flip="always"), batch_size=batch, num_workers=workers, **more
    )
    data.prepare(input)
    return data


def generate(folder: Path, count: int, frames: int) -> None:
    """Write videos of Kinetics' size with one key frame at the start: moving patches in front of a textured wall."""
    for number in range(count):
        random = np.random.default_rng(number)
        wall = cv2.resize(
            random.integers(0, 255, (32, 43, 3), dtype=np.uint8), (340, 256), interpolation=cv2.INTER_CUBIC
        )
        patches = [(random.integers(20, 60), random.uniform(-3, 3, 2), random.integers(0, 255, 3)) for _ in range(6)]
        film = np.empty((frames, 256, 340, 3), np.uint8)
        for t in range(frames):
            image = np.roll(wall, (t // 3, t // 2), (0, 1))
            for k, (side, speed, colour) in enumerate(patches):
                y, x = (int(40 * k + speed[0] * t) % 256, int(50 * k + speed[1] * t) % 340)
                image[y : y + side, x : x + side] = colour
            film[t] = np.clip(image.astype(int) + random.integers(-6, 7, image.shape), 0, 255)
        write_video(folder / f"{number:03d}.mp4", film, 30, keyframe_every=frames)


def epoch_seconds(loader: DataLoader[Any]) -> tuple[float, float]:
    """Return the seconds of real time and of CPU time of one epoch; the latter of this process and the workers."""
    began, used_s = time.perf_counter(), _cpu_s(loader)
    for _ in loader:
        pass
    return time.perf_counter() - began, _cpu_s(loader) - used_s


def _cpu_s(loader: DataLoader[Any]) -> float:
    """Return the CPU seconds that this process and the loader's running workers have used; Linux only, else NaN."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK") if Path("/proc/self/stat").exists() else float("nan")
    used_s = time.process_time()
    for worker in getattr(loader._iterator, "_workers", []):
        stat = Path(f"/proc/{worker.pid}/stat")
        fields = stat.read_text().rpartition(")")[2].split() if stat.exists() else ["0"] * 13
        used_s += tick_s * (int(fields[11]) + int(fields[12]))  # in user mode and in the kernel
    return used_s


def where_time_goes(data: ClipData, clips: int) -> dict[str, float]:
    """Return the milliseconds of CPU time per clip of each part of our loader, in this process on one thread."""
    one_thread(0)
    dataset: Any = data.sets["train"]
    # with pixels_on device, the workers only crop
    pixels, change = ("crop", "cut") if dataset.cut_only else ("crop, resize, normalise", "__call__")
    spent = dict.fromkeys(("open and index", "read the frames", pixels, "make the batch"), 0.0)
    samples = []
    for index in range(clips):
        clip = dataset.clips[index]
        generator = np.random.default_rng(index)
        began = time.process_time()
        with open_video(clip.path, dataset.decoder) as video:
            count = len(video.times_s)
            opened = time.process_time()
            images = video.frames_at(dataset.sampler(count, generator)[0]).images
        read = time.process_time()
        getattr(dataset.transform, change)(images, 0)
        changed = time.process_time()
        spent["open and index"] += opened - began
        spent["read the frames"] += read - opened
        spent[pixels] += changed - read
        samples.append(dataset[index])
        if len(samples) == data.batch_size or index == clips - 1:
            began = time.process_time()
            collate(samples, data.input)
            spent["make the batch"] += time.process_time() - began
            samples = []
    return {part: 1000 * seconds / clips for part, seconds in spent.items()}


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder of videos; default: generated videos")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of each loader")
    parser.add_argument("--clips", type=int, default=64, help="clips of an epoch; videos are repeated")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each loader, interleaved")
    parser.add_argument("--pixels_on", choices=["workers", "device"], default="workers", help="see ClipData")
    parser.add_argument("--start_method", choices=["fork", "forkserver", "spawn"], help="see ClipData")
    parser.add_argument("--generated", type=int, default=4, help="how many videos are generated without --videos")
    parser.add_argument("--frames", type=int, default=300, help="frames of a generated video")
    parser.add_argument("--out", type=Path, help="folder for results.json")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as scratch:
        return _measure(options, Path(scratch))


def _measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    folder = options.videos
    if folder is None:
        folder = scratch / "generated"
        generate(folder, options.generated, options.frames)
    names = sorted(name for names in find_videos(folder).values() for name in names)
    if not names:
        raise FileNotFoundError(f"{folder} contains no video")
    raw = scratch / "raw"  # only the videos, without any lists beside them
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).symlink_to((folder / name).absolute())
    transcoded = transcode_set(raw, scratch / "transcoded", progress=False)
    packed = pack_set(raw, scratch / "packed", progress=False)
    suffixes = {"raw": None, "transcoded": ".mp4", "packed": ".packed"}
    loaders: dict[str, DataLoader[Any]] = {}
    data: dict[str, ClipData] = {}
    plain = PlainDataset([raw / names[i % len(names)] for i in range(options.clips)], SEGMENTS, INPUT.size)
    loaders["decord + OpenCV"] = DataLoader(
        plain,
        options.batch,
        shuffle=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=one_thread,
    )
    for kind, suffix in suffixes.items():
        copies = names if suffix is None else [video_id(name) + suffix for name in names]
        data[kind] = our_data(
            scratch / kind,
            copies,
            options.clips,
            options.workers,
            options.batch,
            scratch / "lists" / kind,
            pixels_on=options.pixels_on,
            start_method=options.start_method,
        )
        loaders[f"ours, {kind}"] = data[kind].loader("train")
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    cpu_s: dict[str, list[float]] = {name: [] for name in loaders}
    for loader in loaders.values():
        epoch_seconds(loader)  # starts workers, caches indices and reads pages
    for _ in range(options.rounds):
        for name, loader in loaders.items():
            real_s, used_s = epoch_seconds(loader)
            seconds[name].append(real_s)
            cpu_s[name].append(used_s)
    rates = {name: options.clips / statistics.median(times) for name, times in seconds.items()}
    cpu_ms = {name: 1000 * statistics.median(times) / options.clips for name, times in cpu_s.items()}
    base, base_ms = rates["decord + OpenCV"], cpu_ms["decord + OpenCV"]
    print(f"{len(names)} videos, {options.workers} workers, batches of {options.batch}, {SEGMENTS} frames of 224 x 224")
    for name, rate in rates.items():
        of_cpu = f"{cpu_ms[name]:8.1f} CPU ms a clip  {base_ms / cpu_ms[name]:6.2f}x"
        print(f"{name:>18}  {rate:8.1f} clips/s  {rate / base:6.2f}x  {of_cpu}")
    for kind, copies_made in (("transcoded", transcoded), ("packed", packed)):
        figures = copies_made.figures
        print(f"{kind:>18}  {figures['bytes_ratio']:.2f}x the bytes, median PSNR {figures['psnr_median']:.2f} dB")
    parts = {kind: where_time_goes(module, min(options.clips, 16)) for kind, module in data.items()}
    print(f"\n{'CPU ms a clip, alone':>26}" + "".join(f"{kind:>12}" for kind in parts))
    for part in next(iter(parts.values())):
        print(f"{part:>26}" + "".join(f"{spent[part]:12.2f}" for spent in parts.values()))
    results = {
        "clips_per_second": rates,
        "ratios": {name: rate / base for name, rate in rates.items()},
        "cpu_ms_a_clip": cpu_ms,
        "cpu_ratios": {name: base_ms / spent for name, spent in cpu_ms.items()},
        "ms_a_clip": parts,
        "transcoded": transcoded.figures,
        "packed": packed.figures,
    }
    if options.out:
        save_results(options.out, {"loader": results}, command_line())
    return results


if __name__ == "__main__":
    main()
