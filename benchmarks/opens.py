"""Check that opening videos many times leaks neither memory nor file descriptors.

    uv run python benchmarks/opens.py --out runs/opens            # 20,000 opens of small files, good and broken

The files are generated: H.264 with B-frames in MP4, Matroska and AVI, MPEG-4 in AVI, an image folder, and broken files
(cut, damaged, empty, text, sound without pictures). Each is opened, read at a few random frames and closed, or refused.
Every second open uses a cached index. After the first fifth, the slope of a straight line through the resident memory
must be below 1 KiB per open, and the number of open file descriptors must not change.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import jsonargparse
import numpy as np

from vidact.results.figures import command_line, save_results
from vidact.video import VideoError, open_video
from vidact.video.numbered import numbered_picture, write_numbered_video

MOST_BYTES = 1024.0  # allowed growth per open


def make_files(folder: Path, num_frames: int = 24) -> tuple[list[Path], list[Path]]:
    """Write good and broken files; return their paths."""
    good = [folder / name for name in ("a.mp4", "b.mkv", "c.avi", "d.avi")]
    for path in good:
        write_numbered_video(path, num_frames, codec="mpeg4" if path.name == "d.avi" else "libx264")
    images = folder / "images"
    images.mkdir()
    for number in range(4):
        av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24").to_image().save(images / f"{number}.png")
    whole = good[0].read_bytes()
    cut = folder / "cut.mp4"
    write_numbered_video(cut, num_frames, container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    (folder / "no_table.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_bytes(b"these are notes\n" * 99)
    sound = folder / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    broken = [cut, folder / "no_table.mp4", folder / "empty.mp4", folder / "text.mp4", sound]
    damaged = folder / "damaged.mp4"
    with av.open(str(good[0])) as container:
        hit = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][num_frames // 2]
    content = bytearray(whole)
    content[hit[0] : hit[0] + hit[1]] = b"\xff" * hit[1]
    damaged.write_bytes(content)
    for path in (*good, *broken, damaged):
        os.utime(path, (1e9, 1e9))  # an old time of modification, so that indices are cached
    return [*good, images], [*broken, damaged]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def watch(opens: int, warm_up: float = 0.2, rows: int = 50) -> dict[str, float]:
    """Open files ``opens`` times; return figures of the opens after the first share ``warm_up``."""
    if not Path("/proc/self/statm").exists():
        raise RuntimeError("memory and file descriptors are read from /proc, which only Linux has")
    if opens < 50 or not 0 < warm_up < 0.9:
        raise ValueError(f"opens is {opens} and warm_up {warm_up:g}; give at least 50, and a share below 0.9")
    generator = np.random.default_rng(0)
    at, memory, descriptors = [], [], []
    every = max(20, opens // rows)  # opens from one measurement to the next
    refused = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        old_cache = os.environ.get("VIDACT_CACHE")
        os.environ["VIDACT_CACHE"] = str(Path(name) / "cache")
        try:
            good, broken = make_files(Path(name))
            for number in range(1, opens + 1):
                files = broken if number % 4 == 0 else good
                path = files[int(generator.integers(len(files)))]
                try:
                    with open_video(path, cache=number % 2 == 0) as video:
                        video.frames_at(generator.integers(0, len(video), 3))
                except VideoError:
                    refused += 1
                if number >= warm_up * opens and number % every == 0:
                    gc.collect()
                    at.append(number)
                    memory.append(resident_bytes())
                    descriptors.append(num_descriptors())
        finally:
            if old_cache is None:
                del os.environ["VIDACT_CACHE"]
            else:
                os.environ["VIDACT_CACHE"] = old_cache
    slope = float(np.polyfit(at, memory, 1)[0])
    return {
        "opens": opens,
        "refused": refused,
        "bytes_per_open": slope,
        "memory_mib": memory[-1] / 2**20,
        "grown_kib": (memory[-1] - memory[0]) / 1024,
        "descriptors_before": descriptors[0],
        "descriptors_after": descriptors[-1],
        "descriptors_most": max(descriptors),
        "minutes": (time.monotonic() - began) / 60,
    }


def main(opens: int = 20_000, warm_up: float = 0.2, out: str | None = None) -> dict[str, Any]:
    """Print the figures.

    Args:
        opens: number of opens.
        warm_up: share of the opens after which memory must not grow.
        out: folder for results.json.
    """
    figures = watch(opens, warm_up)
    is_well = figures["bytes_per_open"] < MOST_BYTES and figures["descriptors_most"] == figures["descriptors_before"]
    print(
        f"{opens} opens in {figures['minutes']:.1f} min, {figures['refused']:.0f} of them refused; after the first "
        f"{warm_up:.0%}: memory {figures['bytes_per_open']:+.0f} bytes an open ({figures['grown_kib']:+.0f} KiB, "
        f"{figures['memory_mib']:.0f} MiB at the end), file descriptors {figures['descriptors_before']:.0f} before and "
        f"{figures['descriptors_after']:.0f} after: {'as it should be' if is_well else 'TOO MUCH'}"
    )
    if out is not None:
        print(save_results(out, {"opens": figures}, command_line()))
    return figures


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
