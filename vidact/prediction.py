"""``predict``: label files, or all videos of folders, with a trained clip network."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidact import hub
from vidact.batch import parse_views, probabilities
from vidact.device import best_device
from vidact.files import replacing
from vidact.models.backbones import channels_last
from vidact.models.offline import OfflineNetwork
from vidact.models.probe import Probe, features_of
from vidact.models.token_probe import TokenProbe
from vidact.models.weights import load, record_of, refuse_other_classes, weights_hash
from vidact.records import blamed
from vidact.runtimes.choices import refuse_runtime
from vidact.runtimes.compiled import compiled
from vidact.runtimes.exported import OnnxClip, OnnxGraph
from vidact.runtimes.networks import (
    graph_or_none,
    in_onnx,
    in_onnx_by_image,
    quick_runtime,
    refuse_elsewhere,
    settled,
)
from vidact.video.decode import VideoError, VideoReader, open_video
from vidact.video.folders import KNOWN_SUFFIXES, holds_only_images, video_id, walk_videos
from vidact.video.rate_windows import RateWindows
from vidact.video.sample import ClipSampler, expand
from vidact.video.transform import ClipTransform, from_record, images_per_index

# The suffixes of an annotated video, and FFmpeg's names of their containers.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}


MANY_VIDEOS = 10  # a graph takes longer to make, up to 15 seconds for a clip network, than it saves on fewer


@dataclass(frozen=True)
class Prediction:
    """The best labels of one video.

    ``labels`` pairs each name with a score in 0…1, best first: softmax, or one sigmoid a class for multi-label data.
    ``start_s`` and ``end_s`` are the times of the first and last frame that the network read, ``took_s`` the seconds of
    reading and computing. ``error`` is the reason why a video of a folder could not be read; ``labels`` is then empty.
    """

    path: str
    labels: list[tuple[str, float]] = field(default_factory=list)
    start_s: float = 0.0
    end_s: float = 0.0
    took_s: float = 0.0
    error: str = ""


def predict(
    path: str | Path | Sequence[str | Path],
    checkpoint: str | Path,
    *,
    top: int = 5,
    views: str | None = None,
    device: str | None = None,
    decoder: str = "pyav",
    runtime: str = "auto",
) -> list[Prediction]:
    """Return the ``top`` labels of a video, or of every video below a folder in the order of their names.

    Args:
        path: a file, or a folder that is searched with its subfolders; or several of both, answered in their order,
            each video once.
        checkpoint: what training saved: a .ckpt of a run or a .safetensors that names its network; or the name of a
            published network, which is given windows of frames at the rate of its training; or an .onnx of a whole clip
            network that ``vidact.export`` wrote, also in int8.
        top: labels to return; fewer where the network has fewer classes.
        views: clips x crops to average, such as 10x3. None is 1x1, and of a published network as many windows as cover
            the video, at most ten, and one crop.
        device: cpu, cuda or mps; None takes the best there is.
        decoder: pyav, decord, opencv or torchcodec.
        runtime: "torch"; "onnx", which is ONNX Runtime on the CPU; or "auto", which is onnx on a CPU and torch
            elsewhere, for fewer than ten videos torch, and for a probe the runtime of the features that its
            head was fitted to. With "auto", a network that cannot be a graph runs in PyTorch, and a line on the
            standard error says why.

    Raises FileNotFoundError for a missing path and VideoError for a single file that cannot be read; in a folder, or
    beside other paths, an unreadable video gets a Prediction with ``error`` and the others are still predicted.
    """
    return list(predictions(path, checkpoint, top=top, views=views, device=device, decoder=decoder, runtime=runtime))


def predictions(
    path: str | Path | Sequence[str | Path],
    checkpoint: str | Path,
    *,
    top: int,
    views: str | None,
    device: str | None,
    decoder: str,
    runtime: str,
    network: Any = None,
) -> Iterator[Prediction]:
    """Yield what ``predict`` returns, each when it is ready; ``network`` is that of ``checkpoint``, if it is open."""
    refuse_runtime(runtime)
    refuse_choices(top, views)
    paths = [Path(path)] if isinstance(path, (str, Path)) else [Path(item) for item in path]
    videos = find_videos(paths)
    num_clips, crops = (None, 1) if views is None else parse_views(views)
    network = open_network(checkpoint) if network is None else network
    record = record_of(network)
    if isinstance(network, OfflineNetwork) and (record.features is None or record.kind is not None):
        raise ValueError(
            f"{checkpoint} is an offline network ({type(network).__name__}), which finds events in long videos; "
            "vidact.predict names whole clips with a recogniser. The command `vidact predict` finds the events, and "
            "vidact.untrimmed.find_events in Python"
        )
    if record.features is not None:
        raise ValueError(
            f"{checkpoint} is an online detector, which answers every moment of a video; `predict` names whole clips "
            f"with a recogniser. This answers {'the first of these videos' if len(videos) > 1 else 'the video'}:\n"
            f"  vidact stream --checkpoint {shlex.quote(str(checkpoint))} --source {shlex.quote(str(videos[0]))} "
            "--no_window --fast --events events.csv"
        )
    if record.sampling is None:
        raise ValueError(f"{checkpoint} does not say which frames its network takes; save it with a sampler's record")
    with blamed(checkpoint):
        record.require("classes")
        refuse_other_classes(record.classes, network.num_classes, str(checkpoint))
        sampler = ClipSampler.from_record(dict(record.sampling))
    windows = windows_of(checkpoint)

    def choose(video: VideoReader) -> list[np.ndarray]:
        if windows is None:
            return [sampler(len(video), num_clips=num_clips or 1)]
        return list(windows(video.times_s, video.end_s, num_clips)[:, None])

    transform = from_record(record, crops=crops)
    device = device or ("cpu" if isinstance(network, OnnxClip) else str(best_device()))
    frames = windows.frames if windows else sampler(1000).shape[1]
    answers = _Answers(network, runtime, device, frames, is_many=len(videos) >= MANY_VIDEOS)
    for video in videos:
        started = time.perf_counter()
        try:
            scores, start_s, end_s = score_video(video, answers, choose, transform, decoder)
        except (VideoError, FileNotFoundError) as error:
            if len(paths) == 1 and is_one_video(paths[0]):
                raise
            yield Prediction(str(video), error=str(error))
            continue
        order = np.argsort(-scores, kind="stable")[:top]
        labels = [(record.classes[i], round(float(scores[i]), 6)) for i in order]
        yield Prediction(str(video), labels, start_s, end_s, time.perf_counter() - started)


def open_network(checkpoint: str | Path) -> Any:
    """Return what ``load`` does, or the clip network in an .onnx file that ``vidact.export`` wrote.

    Raises ValueError for an .onnx of anything else.
    """
    if Path(checkpoint).suffix != ".onnx":
        return load(checkpoint)
    graph = OnnxGraph.open(checkpoint)
    if graph.facts.kind == "clip":
        return OnnxClip(graph)
    raise ValueError(
        f"{checkpoint} was exported with --what {graph.facts.kind}, and `predict` names whole clips: export the "
        "recogniser with --what clip. `vidact stream` runs the exported steps of recognisers and detectors"
    )


def refuse_choices(top: int, views: str | None) -> None:
    """Raise ValueError for a number of labels below 1, and for views that cannot be read."""
    if top < 1:
        raise ValueError(f"top is {top}; at least one label is given")
    if views is not None:
        parse_views(views)


def find_videos(paths: Path | Sequence[Path], notes: list[str] | None = None) -> list[Path]:
    """Return each path that is a video itself (a file, a folder of images), and the videos below all other folders.

    A video that several paths lead to is listed once. ``notes`` gets sentences on folders that were skipped.
    """
    paths = [paths] if isinstance(paths, Path) else paths
    if not paths:
        raise ValueError("no path was given; give video files or folders of videos")
    videos: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give a video file or a folder of videos")
        matches = [path] if is_one_video(path) else [path / name for name in walk_videos(path, 1, notes)]
        if not matches:
            raise FileNotFoundError(f"{path} holds no video; looked for {KNOWN_SUFFIXES}")
        for video in matches:
            videos.setdefault(Path(os.path.realpath(video)), video)  # unlike `resolve`, a loop of links raises nothing
    return list(videos.values())


def is_one_video(path: Path) -> bool:
    """Return whether ``path`` is a video itself: a file, or a folder of images."""
    return path.is_file() or holds_only_images(path)


def annotated_paths(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Return the file of each video's annotated copy: ``out``, or below it for several paths or a folder.

    Raises ValueError where a copy would replace a video, or another copy, or would not be a video.
    """
    folders = [path for path in paths if not is_one_video(path)]
    if len(paths) == 1 and not folders:
        if out.is_dir():
            raise ValueError(f"--annotate {out} is a folder; for one video give the file to write, such as {out}/x.mp4")
        if out.suffix.lower() not in CONTAINERS:
            raise ValueError(f"--annotate {out}: a video that can be written ends in {', '.join(CONTAINERS)}")
        targets = {paths[0]: out}
    else:
        source = "a folder of videos" if len(paths) == 1 else "several paths"
        if (out.exists() or out.suffix.lower() in CONTAINERS) and not out.is_dir():
            raise ValueError(f"--annotate {out} is a file; for {source} give a folder")
        for folder in folders:
            if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
                raise ValueError(f"--annotate {out} lies in the folder of the videos, {folder}; give one outside it")
        targets = {}
        for video in find_videos(paths):
            above = next((folder for folder in folders if video.is_relative_to(folder)), video.parent)
            targets[video] = out / f"{video_id(video.relative_to(above).as_posix())}.mp4"
    sources: dict[Path, Path] = {}
    for video, target in targets.items():
        if target in sources:
            raise ValueError(f"{sources[target]} and {video} would both become {target}; rename one of them")
        if target.exists() and target.samefile(video):
            raise ValueError(f"--annotate {target} is the video itself; give another name")
        sources[target] = video
    return targets


class _Answers:
    """The logits (1, K) of clips (1, T, C, H, W) on the CPU, by a network in a runtime.

    A graph is made for the first clip of its length, so that a file that cannot be read is reported before. With
    "auto" it is made for the usual length only, and shorter clips run in PyTorch: their graphs would take longer to
    make than they save.

    Args:
        network: the network, which is moved to the device.
        runtime: as in ``predict``.
        device: where PyTorch computes.
        frames: the number of frames that are usually chosen for a clip.
        is_many: whether there are so many videos that "auto" makes a graph.
    """

    def __init__(self, network: Any, runtime: str, device: str, frames: int, is_many: bool) -> None:
        self.network, self.device, self.frames = network, device, frames
        self._graphs: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}
        if isinstance(network, OnnxClip):
            self.is_required, self.runtime = False, "file"  # the network is itself a graph
            if runtime == "torch" or torch.device(device).type != "cpu":
                raise ValueError(
                    f"the runtime is {runtime} and the device {device}, but an exported network runs in ONNX Runtime "
                    "on the CPU; leave both out, or take its checkpoint"
                )
            return
        self.is_required = runtime == "onnx"
        if self.is_required:
            refuse_elsewhere(device)
        earlier = record_of(network).runtime or ("torch" if isinstance(network, Probe) else None)
        self.runtime = settled(runtime, earlier, quick_runtime([network], device) if is_many else "torch")
        if torch.device(device).type != "cpu":
            self.runtime = "torch"
        network.to(device)
        if torch.device(device).type == "cuda":
            channels_last(network)

    def __call__(self, clip: Tensor, num_chosen: int) -> Tensor:
        """Return the logits of a clip for which ``num_chosen`` frames were chosen."""
        compute: Callable[[Tensor], Tensor] | None = self.network
        if self.runtime == "onnx" and (self.is_required or num_chosen == self.frames):
            shape = tuple(clip.shape[1:])
            compute = self._graphs.get(shape) or graph_or_none(lambda: self._graph(shape), self.is_required)
            if compute is None:
                self.runtime, compute = "torch", self.network
            else:
                self._graphs[shape] = compute
        assert compute is not None
        return compute(clip.to(self.device)).float()

    def _graph(self, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Return the network by a graph: of its image network, of the trunk of a probe, or of all of it."""
        network = self.network
        if (by_image := in_onnx_by_image(network)) is not None:
            return by_image
        if isinstance(network, Probe) and not isinstance(network, TokenProbe):
            trunk = in_onnx(network.trunk, shape[0], weights_hash(network.trunk.state_dict()))
            return lambda clip: network.head(features_of(trunk, clip))
        return compiled(network, shape, weights_hash(network.state_dict()), type(network).__name__)


@torch.inference_mode()
def score_video(
    path: Path,
    answers: _Answers,
    choose: Callable[[VideoReader], list[np.ndarray]],
    transform: ClipTransform,
    decoder: str,
) -> tuple[np.ndarray, float, float]:
    """Return scores (K,) averaged over the views, and the times of the first and last frame used, in seconds.

    Args:
        choose: returns the frames of the clips of a video, in arrays (clips, T) that are read one after the other.
    """
    network = answers.network
    total = torch.zeros(network.num_classes, device=answers.device)
    count, start_s, end_s = 0, math.inf, -math.inf
    with open_video(path, decoder=decoder) as video:
        for chosen in choose(video):
            indices = expand(chosen, images_per_index(network.input), len(video))
            frames = video.frames_at(indices.ravel())
            start_s, end_s = min(start_s, float(frames.times_s.min())), max(end_s, float(frames.times_s.max()))
            for images in frames.images.unflatten(0, indices.shape):
                clips, _ = transform(images)  # (V, T, C, H, W)
                for clip in clips:
                    total += answers(clip[None], chosen.shape[1])[0]
                    count += 1
    logits = total.cpu() / count  # moved once at the end: the CPU prepares a view while the device computes
    scores = probabilities(logits, record_of(network).activation)
    return scores.numpy(), start_s, end_s


def windows_of(checkpoint: str | Path) -> RateWindows | None:
    """Return the windows of a published network, at the rate of its training.

    None for every other checkpoint, and where the frames of its training were spread over clips of any length.
    """
    published = hub.named(checkpoint)
    if published is None or published.window is None:
        return None
    return RateWindows(*published.window, shortens=published.clip_s is not None)


def annotate(prediction: Prediction, out: str | Path, decoder: str = "pyav") -> None:
    """Write the video again as H.264 with its best labels drawn on it."""
    import av
    import cv2

    with open_video(prediction.path, decoder=decoder) as video, replacing(out) as half:
        width, height = video.width // 2 * 2, video.height // 2 * 2  # H.264 in 4:2:0 takes even sides
        scale = max(0.35, min(width, height) / 480)
        with av.open(str(half), "w", format=CONTAINERS[Path(out).suffix.lower()]) as container:
            stream = container.add_stream("libx264", rate=Fraction(video.fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for start in range(0, len(video), 32):
                images = video.frames_at(range(start, min(start + 32, len(video)))).images
                for image in images[:, :, :height, :width].permute(0, 2, 3, 1).contiguous().numpy():
                    for line, (label, score) in enumerate(prediction.labels[:3]):
                        corner = (int(8 * scale), int((line + 1) * 26 * scale))
                        text = f"{label} {score:.0%}"
                        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
                            cv2.putText(
                                image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * scale, colour,
                                max(1, round(thickness * scale)), cv2.LINE_AA,
                            )  # fmt: skip
                    for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                        container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
