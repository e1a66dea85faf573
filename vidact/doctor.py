"""`vidact doctor`: lists what is installed, which decoders and devices work, and how to repair the rest.

Each of them is tried, not only imported: every decoder reads a small video whose pictures carry their numbers, and
every device multiplies two matrices.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vidact
from vidact.files import write_json
from vidact.results.figures import command_line
from vidact.video.decode import DECODERS, open_video
from vidact.video.folders import KNOWN_SUFFIXES, walk_videos
from vidact.video.numbered import read_number, write_numbered_video

OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
PACKAGES = (
    "torch", "torchvision", "lightning", "onnx", "onnxruntime", "onnxscript", "av", *OPENCVS, "decord", "torchcodec",
    "timm", "pytorchvideo", "transformers",
)  # fmt: skip
GIB = 2**30

# Mean difference, in levels of 255, up to which two pictures count as the same. Libraries round and upsample colour
# differently, by up to 5 levels on test patterns; different pictures differ by far more.
SAME_PICTURE = 10.0


def doctor(videos: Path | None = None, json: Path | None = None) -> int:
    """Print what is installed and what works; with ``--videos``, which decoder reads which file.

    Args:
        videos: a video, or a folder whose videos are all opened with every decoder.
        json: also write all results to this file.

    Returns 0 when the default decoder works and reads every video, else 1.
    """
    if videos is not None and not videos.exists():
        raise FileNotFoundError(f"{videos} does not exist; --videos takes a video or a folder of videos")
    versions, decoders, devices = installed_versions(), check_decoders(), check_devices()
    advice = suggestions(versions, decoders, devices)
    _section("installed", versions)
    _section("decoders", decoders)
    _section("devices", devices)
    _print_list("suggestions", advice)
    report: dict[str, Any] = {
        "command": command_line(),
        "versions": versions,
        "decoders": decoders,
        "devices": devices,
        "suggestions": advice,
    }
    is_well = decoders["pyav"] == "works"
    if videos is not None:
        working = [name for name, state in decoders.items() if state == "works"]
        rows = check_videos(videos, working)
        _print_videos(rows, working)
        report["videos"] = rows
        is_well = is_well and all(row["reason"] is None for row in rows if row["decoder"] == "pyav")
    if json is not None:
        write_json(json, report)
        print(f"written to {json}")
    return 0 if is_well else 1


# ----------------------------------------------------------------------------------------------------------------------
# Packages, decoders and devices


def installed_versions() -> dict[str, str]:
    """Return versions by name; of the four OpenCV packages only those that are installed."""
    versions = {"python": platform.python_version(), "vidact": vidact.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name not in OPENCVS:
                versions[name] = "not installed"
    versions["torch"] = torch.__version__  # this text contains the CUDA version
    return versions


def check_decoders() -> dict[str, str]:
    """Return for each decoder "works", or why not: it must return the right frames of an H.264 video with B-frames."""
    indices = [0, 29, 7, 8, 20]
    states = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbered.mp4"
        write_numbered_video(path, num_frames=30)
        for name in DECODERS:
            try:
                with open_video(path, decoder=name) as video:
                    numbers = [read_number(image.numpy()) for image in video.frames_at(indices).images]
            except (ImportError, ValueError) as error:
                states[name] = str(error)
            else:
                states[name] = "works" if numbers == indices else f"brings frames {numbers} when asked for {indices}"
    return states


def check_devices() -> dict[str, str]:
    """Return for each device "works" with its name, or why it does not."""
    devices = {"cpu": f"{_try_device('cpu')} ({os.cpu_count()} cores, {torch.get_num_threads()} torch threads)"}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / GIB
            devices[f"cuda:{i}"] = f"{_try_device(f'cuda:{i}')} ({torch.cuda.get_device_name(i)}, {memory:.0f} GiB)"
    else:
        devices["cuda"] = "not there" if torch.version.cuda else "this torch was built without CUDA"
    devices["mps"] = _try_device("mps") if torch.backends.mps.is_available() else "not there"
    return devices


def _try_device(device: str) -> str:
    a = torch.arange(64.0).reshape(8, 8)
    try:
        product = (a.to(device) @ a.to(device)).cpu()
    except RuntimeError as error:
        return f"fails: {str(error).splitlines()[0]}"
    return "works" if torch.allclose(product, a @ a, rtol=1e-3) else "gives wrong products"


def suggestions(versions: dict[str, str], decoders: dict[str, str], devices: dict[str, str]) -> list[str]:
    """Return sentences on what to repair; none where everything works."""
    advice = []
    opencvs = [name for name in OPENCVS if name in versions]
    if len(opencvs) > 1:
        advice.append(
            f"{' and '.join(opencvs)} are both installed and overwrite each other's files. The contrib package "
            f"replaces the plain one, it never joins it: pip uninstall {' '.join(opencvs)}, then install one of them"
        )
    for name, state in decoders.items():
        if state != "works" and versions.get(name, "") != "not installed":
            advice.append(f"decoder {name} does not work: {state}")
    if not any(name != "cpu" and state.startswith("works") for name, state in devices.items()):
        advice.append("no accelerator works: train small networks on small pictures, or use a machine with a GPU")
    free = shutil.disk_usage(Path.cwd()).free
    if free < 5 * GIB:
        advice.append(f"only {free / GIB:.1f} GiB are free on the disk of {Path.cwd()}: runs and checkpoints need room")
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < GIB:
        advice.append(
            f"/dev/shm has only {shutil.disk_usage(shared).total / GIB:.2f} GiB, and data-loading workers pass their "
            "batches through it: start the container with --shm-size=8g, or train with --data.num_workers 0"
        )
    return advice


# ----------------------------------------------------------------------------------------------------------------------
# Videos through decoders


def videos_below(folder: Path) -> list[Path]:
    """Return the video files below a folder, sorted, without broken links."""
    return sorted(path for name in walk_videos(folder) if (path := folder / name).is_file())


def check_videos(videos: Path, decoders: list[str]) -> list[dict[str, Any]]:
    """Return one row per video and decoder: the facts that the decoder reads, or the ``reason`` why it fails.

    ``difference`` is the largest mean difference, in levels of 255, of the first, middle and last picture from PyAV's.
    """
    if videos.is_file():
        paths, root = [videos], videos.parent
    else:
        paths, root = videos_below(videos), videos
    if not paths:
        raise ValueError(f"{videos} holds no video; a video is a file ending in {KNOWN_SUFFIXES}")
    rows = []
    for path in paths:
        reference: np.ndarray | None = None
        for decoder in sorted(decoders, key=lambda name: name != "pyav"):
            row, images = _check_video(path, decoder)
            if decoder == "pyav":
                reference = images
            elif images is not None and reference is not None:
                if images.shape != reference.shape:
                    row["reason"] = f"its pictures are {images.shape[2:]}, PyAV's {reference.shape[2:]}"
                else:
                    distance = np.abs(images.astype(np.float32) - reference).mean(axis=(1, 2, 3))
                    row["difference"] = round(float(distance.max()), 2)
                    if row["difference"] > SAME_PICTURE:
                        row["reason"] = f"its pictures differ from PyAV's by {row['difference']:.0f} levels of 255"
            rows.append({"file": path.relative_to(root).as_posix()} | row)
    return rows


def _check_video(path: Path, decoder: str) -> tuple[dict[str, Any], np.ndarray | None]:
    row: dict[str, Any] = dict.fromkeys(
        ("frames", "width", "height", "fps", "first_s", "last_s", "difference", "reason"), None
    )
    row = {"decoder": decoder} | row
    try:
        with open_video(path, decoder=decoder) as video:
            count = len(video)
            images = video.frames_at([0, count // 2, count - 1]).images.numpy()
            row |= {"frames": count, "width": video.width, "height": video.height, "fps": round(video.fps, 3)}
            row |= {"first_s": round(float(video.times_s[0]), 4), "last_s": round(float(video.times_s[-1]), 4)}
    except ValueError as error:  # VideoError is a ValueError
        row["reason"] = str(error).replace(str(path), path.name)
        return row, None
    return row, images


def _print_videos(rows: list[dict[str, Any]], decoders: list[str]) -> None:
    width = max(len(row["file"]) for row in rows)
    print(f"\n{'video':{width}}  frames  size       first_s   last_s  " + "  ".join(f"{name:10}" for name in decoders))
    for file in dict.fromkeys(row["file"] for row in rows):
        by = {row["decoder"]: row for row in rows if row["file"] == file}
        readable = next((row for row in by.values() if row["frames"] is not None), None)
        facts = f"{'-':>6}  {'-':9}  {'-':>7}  {'-':>7}"
        if readable:
            size = f"{readable['width']}x{readable['height']}"
            facts = f"{readable['frames']:6}  {size:9}  {readable['first_s']:7.3f}  {readable['last_s']:7.3f}"
        print(
            f"{file:{width}}  {facts}  "
            + "  ".join(f"{'fails' if by[name]['reason'] else 'reads':10}" for name in decoders)
        )
    print()
    for name in decoders:
        decoder_rows = [row for row in rows if row["decoder"] == name]
        failed = [row for row in decoder_rows if row["reason"]]
        print(f"{name} reads {len(decoder_rows) - len(failed)} of {len(decoder_rows)}")
        for row in failed:
            print(f"  {row['file']}: {row['reason']}")


# ----------------------------------------------------------------------------------------------------------------------


def _section(title: str, facts: dict[str, str]) -> None:
    print(f"\n{title}")
    for name, value in facts.items():
        print(f"  {name:30}  {value}")


def _print_list(title: str, lines: list[str]) -> None:
    print(f"\n{title}")
    for line in lines or ["none: everything that was looked at works"]:
        print(f"  - {line}")
