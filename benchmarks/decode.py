"""Measure the time to read eight frames of a video with this package's reader and with other libraries, in one run.

    uv run python benchmarks/decode.py --out runs/decode
    uv run python benchmarks/decode.py --videos my_videos --transcoded my_videos_short_gop --packed my_store

Each reader opens the file, reads one random frame of each of eight segments, and closes it, on one thread. The readers
take turns with the same frames, in another order each time, so that other work of the machine affects all of them. Two
medians are printed: milliseconds of real time, and milliseconds of CPU time over all threads, which depends less on
other programs. The ratios are decord's median over the reader's. ``ours`` has the file's index from an earlier visit,
``ours, first visit`` makes it. Our frames must be equal to those of a full decoding; the differences of the other
readers are printed.

    pipeline            the same frames as a normalised clip (1, 8, 3, 224, 224): resized, cropped in the middle
    mmaction2 pipeline  decord, then each frame resized, cropped and normalised by OpenCV, as MMAction2's test pipeline

The folders ``transcoded`` and ``packed`` contain copies made by `vidact prepare`, with the video's name except the
suffix. Their frames at the same times are read; their size relative to the source and their PSNR are printed.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch

from vidact.batch import ClipInput
from vidact.results.figures import command_line, save_results
from vidact.video import VideoReader, open_video, test_transform
from vidact.video.folders import VIDEO_SUFFIXES

SEGMENTS = 8
SIZE, RESIZE = 224, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS, FIRST, REFERENCE = "ours", "ours, first visit", "decord"

Images = Sequence[np.ndarray]  # each is (H, W, 3)
Read = Callable[[Path, list[int]], Images | torch.Tensor]

torch.set_num_threads(1)


def ours(path: Path, numbers: list[int]) -> Images:
    with open_video(path) as video:
        return list(video.frames_at(numbers).images.permute(0, 2, 3, 1).numpy())


def ours_first(path: Path, numbers: list[int]) -> Images:
    with open_video(path, cache=False) as video:
        return list(video.frames_at(numbers).images.permute(0, 2, 3, 1).numpy())


def decord(path: Path, numbers: list[int]) -> Images:
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return list(reader.get_batch(numbers).asnumpy())


def opencv(path: Path, numbers: list[int]) -> Images:
    import cv2

    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    images = []
    requested = set(numbers)
    for number in range(numbers[-1] + 1):
        if not reader.grab():
            raise RuntimeError(f"it stops at frame {number}")
        if number in requested:
            images.append(cv2.cvtColor(reader.retrieve()[1], cv2.COLOR_BGR2RGB))
    reader.release()
    return images


def pyav(path: Path, numbers: list[int]) -> Images:
    import av

    requested, images = set(numbers), []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in requested:
                images.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
            if number == numbers[-1]:
                break
    return images


def torchcodec(path: Path, numbers: list[int]) -> Images:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    return list(decoder.get_frames_at(numbers).data.numpy())


def mmaction2(path: Path, numbers: list[int]) -> torch.Tensor:
    """Run MMAction2's pipeline: DecordDecode, Resize (-1, 256), CenterCrop 224, normalisation, FormatShape NCHW."""
    import cv2

    clip = []
    for image in decord(path, numbers):
        height, width = image.shape[:2]
        factor = RESIZE / min(height, width)
        image = cv2.resize(image, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_LINEAR)
        top, left = (image.shape[0] - SIZE) // 2, (image.shape[1] - SIZE) // 2
        crop = image[top : top + SIZE, left : left + SIZE].astype(np.float32)
        cv2.subtract(crop, np.array([[255 * m for m in MEAN]]), crop)
        cv2.multiply(crop, np.array([[1 / (255 * s) for s in STD]]), crop)
        clip.append(crop)
    return torch.from_numpy(np.ascontiguousarray(np.stack(clip).transpose(0, 3, 1, 2)))[None]


def pipeline(path: Path, numbers: list[int]) -> torch.Tensor:
    with open_video(path, short_side=RESIZE) as video:
        images = video.frames_at(numbers).images
    return test_transform(ClipInput(frames=SEGMENTS, size=SIZE, mean=MEAN, std=STD, resize=RESIZE))(images)[0]


READERS: dict[str, Read] = {
    OURS: ours,
    FIRST: ours_first,
    REFERENCE: decord,
    "opencv": opencv,
    "pyav": pyav,
    "torchcodec": torchcodec,
    "pipeline": pipeline,
    "mmaction2 pipeline": mmaction2,
}


# ----------------------------------------------------------------------------------------------------------------------


def main(
    data: str | None = None,
    videos: str | None = None,
    transcoded: str | None = None,
    packed: str | None = None,
    rounds: int = 9,
    files: int = 3,
    out: str | None = None,
) -> dict[str, Any]:
    """Print a table for each file.

    Args:
        data: folder with fixtures/mmaction2, fir/videos and weizmann; None is the folder data of VIDACT_SHARED.
        videos: your own folder, or one video.
        transcoded: a folder of copies with key frames close together.
        packed: a folder of packed videos.
        rounds: how often each reader reads each file, each time with other frames.
        files: number of videos from FIR, from Weizmann and from your folder.
        out: folder for results.json.
    """
    if rounds < 1 or files < 1:
        raise ValueError(f"rounds is {rounds} and files {files}; both are counts from 1")
    readers = {name: read for name, read in READERS.items() if _is_installed(name)}
    copies = {
        name: _by_stem(Path(folder), suffixes)
        for name, folder, suffixes in (("transcoded", transcoded, VIDEO_SUFFIXES), ("packed", packed, {".packed"}))
        if folder is not None
    }
    chosen = _choose(data, videos, files)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {rounds} rounds, medians, ratios to {REFERENCE}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIDACT_CACHE"] = folder
        for path in chosen:
            row = measure(path, readers, copies, rounds)
            _print(row)
            rows.append(row)
    figures = {row["file"]: {name: reader.get("ratio") for name, reader in row["readers"].items()} for row in rows}
    if out is not None:
        print(save_results(out, {"decode": figures}, command_line(), rows=rows))
    return {"rows": rows}


def measure(path: Path, readers: dict[str, Read], copies: dict[str, dict[str, Path]], rounds: int) -> dict[str, Any]:
    """Return the row of one file: the times of each reader, or the reason why it cannot read the file."""
    with open_video(path) as video:
        count, size, times_s = len(video), f"{video.width}x{video.height}", video.times_s
    edges = np.linspace(0, count, SEGMENTS + 1).astype(int)
    generator, shuffled = np.random.default_rng(0), np.random.default_rng(1)
    jobs = {name: (lambda numbers, read=read: read(path, numbers)) for name, read in readers.items()}
    extra: dict[str, dict[str, float]] = {}
    for name, copy_of in copies.items():
        if path.stem in copy_of:
            copy = copy_of[path.stem]
            jobs[name] = _copy_job(copy, times_s)
            extra[name] = _quality(copy, path)
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    difference: dict[str, float] = {}
    failed: dict[str, str] = {}
    for turn in range(-1, rounds):  # the first turn warms up, and compares the pictures
        numbers = [int(generator.integers(a, max(b, a + 1))) for a, b in itertools.pairwise(edges)]
        numbers = sorted({min(number, count - 1) for number in numbers})
        names = [name for name in jobs if name not in failed]
        order = shuffled.permutation(names).tolist()  # no reader always follows the same one
        truth = pyav(path, numbers) if turn < 0 else []
        for name in order:
            began, used = time.perf_counter(), time.process_time()
            try:
                images = jobs[name](numbers)
            except Exception as error:  # a failure of another library is part of the table
                if name in (OURS, FIRST):
                    raise
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:100]
                continue
            if turn >= 0:
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - used)
            elif not isinstance(images, torch.Tensor) and name not in copies:
                difference[name] = _difference(images, truth)
    if difference[OURS] or difference[FIRST]:
        raise AssertionError(f"{path}: our frames differ from those of a full decoding")
    medians = {name: statistics.median(some) for name, some in wall.items() if some}
    used_s = {name: statistics.median(some) for name, some in cpu.items() if some}
    table = {}
    for name in jobs:
        if name in failed:
            table[name] = {"failed": failed[name]}
            continue
        table[name] = {"ms": 1e3 * medians[name], "cpu_ms": 1e3 * used_s[name]} | extra.get(name, {})
        if REFERENCE in medians:
            table[name] |= {"ratio": medians[REFERENCE] / medians[name], "cpu_ratio": used_s[REFERENCE] / used_s[name]}
        if name in difference:
            table[name]["difference"] = difference[name]
    return {"file": path.name, "frames": count, "size": size, "readers": table}


def _difference(images: Images, truth: Images) -> float:
    """Return the mean |difference| in levels of 255 of the picture with the largest one; infinite for other sizes."""
    if any(image.shape != true.shape for image, true in zip(images, truth, strict=True)):
        return float("inf")
    return max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(images, truth, strict=True))


def _copy_job(copy: Path, times_s: np.ndarray) -> Callable[[list[int]], Images]:
    """Return a job that reads the copy's frames at the same times; the copy may have fewer frames."""

    def read(numbers: list[int]) -> Images:
        with _open_copy(copy) as video:
            copy_times_s = video.times_s - video.times_s[0]
            source_times_s = times_s[numbers] - times_s[0]
            nearest = np.abs(copy_times_s[:, None] - source_times_s[None]).argmin(0)
            return list(video.frames_at(nearest).images.permute(0, 2, 3, 1).numpy())

    return read


def _open_copy(copy: Path) -> VideoReader:
    if copy.suffix == ".packed":
        from vidact.video.packed import PackedReader

        return PackedReader(copy)
    return open_video(copy)


def _quality(copy: Path, source: Path) -> dict[str, float]:
    """Return the copy's bytes relative to the source, and the PSNR of its frames to the source's at the same times."""
    from vidact.prepare.transcode import psnr_of, scaled, squared_difference

    with _open_copy(copy) as video, open_video(source) as original:
        chosen = np.unique(np.linspace(0, len(video) - 1, 16).astype(int))
        copy_times_s = video.times_s[chosen] - video.times_s[0]
        source_times_s = original.times_s - original.times_s[0]
        numbers = np.abs(source_times_s[:, None] - copy_times_s[None]).argmin(0)
        images = video.frames_at(chosen).images.permute(0, 2, 3, 1).numpy()
        truth = original.frames_at(numbers).images.permute(0, 2, 3, 1).numpy()
        num_frames, share = len(video), len(video) / len(original)
        sizes = video._sizes if copy.suffix == ".packed" else []  # type: ignore[attr-defined]  # sizes of its JPEGs
        num_bytes = copy.stat().st_size + sum(sizes)
    error = sum(
        squared_difference(image, scaled(true, *image.shape[:2])) for image, true in zip(images, truth, strict=True)
    )
    return {
        "bytes_ratio": num_bytes / source.stat().st_size,
        "psnr": psnr_of(error, images.size),
        "frames": num_frames,
        "frames_share": share,
        "short_side": min(images.shape[1:3]),
    }


def _choose(data: str | None, videos: str | None, files: int) -> list[Path]:
    """Return the two clips of Kinetics' size, some videos of FIR and Weizmann, and those in ``videos``."""
    shared = Path(os.environ.get("VIDACT_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    root = shared if data is None else Path(data)
    chosen = [root / "fixtures" / "mmaction2" / name for name in ("demo.mp4", "test.mp4")]
    chosen = [path for path in chosen if path.is_file()]
    for folder in (root / "fir" / "videos", root / "weizmann"):
        chosen += _some(folder, files)
    if not chosen and videos is None:
        raise FileNotFoundError(f"{root} has none of the real videos; give --data or --videos")
    if videos is not None:
        if not Path(videos).exists():
            raise FileNotFoundError(f"{videos} does not exist; --videos takes a video or a folder of videos")
        chosen += [Path(videos)] if Path(videos).is_file() else _some(Path(videos), files)
    return chosen


def _some(folder: Path, files: int) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return paths[:: max(1, len(paths) // files)][:files]


def _by_stem(folder: Path, suffixes: frozenset[str] | set[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; `vidact prepare` makes it")
    return {path.stem: path for path in folder.rglob("*") if path.suffix.lower() in suffixes}


def _is_installed(name: str) -> bool:
    module = {"opencv": "cv2", "pyav": "av", "torchcodec": "torchcodec.decoders", "mmaction2 pipeline": "decord"}.get(
        name, name
    )
    if name in (OURS, FIRST, "pipeline"):
        return True
    try:
        __import__("cv2")  # import OpenCV before decord, whose zlib breaks it
        __import__(module)
    except (ImportError, RuntimeError, OSError) as error:
        print(f"{name} is left out: {str(error).splitlines()[0]}")
        return False
    return True


def _print(row: dict[str, Any]) -> None:
    print(f"\n{row['file']}: {row['frames']} frames of {row['size']}")
    print(f"  {'reader':20}{'ms':>9}{'CPU ms':>9}{'ratio':>8}{'CPU':>7}   off by")
    for name, reader in row["readers"].items():
        if "failed" in reader:
            print(f"  {name:20}{reader['failed']}")
            continue
        ratios = f"{reader['ratio']:8.2f}{reader['cpu_ratio']:7.2f}" if "ratio" in reader else " " * 15
        quality = f"{reader['difference']:.2f} levels" if "difference" in reader else ""
        if "psnr" in reader:
            quality = (
                f"{reader['psnr']:.1f} dB, {reader['bytes_ratio']:.2f}x the bytes, "
                f"{reader['frames_share']:.0%} of the frames, short side {reader['short_side']:.0f}"
            )
        print(f"  {name:20}{reader['ms']:9.1f}{reader['cpu_ms']:9.1f}{ratios}   {quality}")


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
