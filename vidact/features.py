"""Features: a chunk of frames becomes one vector; the same extractor serves files, training and cameras.

``FeatureExtractor`` holds a frozen network and the way to it: clock, chunk, which frames of a chunk, the network's own
transform. ``extract_features`` runs it over a folder of videos and leaves

    <out>/<video id>.npy          float32 (T, D), a row a token; the id is the path below the videos' folder, no suffix
    <out>/<video id>.takes.json   where tokens begin anew behind pauses that were not filled; absent without such pauses
    <out>/features.json           the extractor's record: what made the features
    <out>/extractor.safetensors   the extractor itself, so that a detector's checkpoint can carry it
    <out>/unreadable.json         videos that could not be read and why; absent when there are none

Every file is whole or absent. A finished video is known by a note in ``<out>/.extract/done``: size and time of the
source and the record's hash. So a run that was killed goes on where it was, and a video that has changed is made anew.

Shapes: T tokens, D features, N chunks, H x W pixels.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import inspect
import json
import multiprocessing
import multiprocessing.connection
import re
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

import vidact.models
from vidact.addresses import Parser
from vidact.batch import ClipInput
from vidact.data.annotations import first_few, video_id
from vidact.data.folders import walk_videos
from vidact.data.takes import Take, takes_file, write_takes
from vidact.data.time_origin import NOTES, note_path
from vidact.device import refuse_device
from vidact.files import replacing, write_json
from vidact.models import backbones
from vidact.models.backbones import Backbone, for_modality
from vidact.models.bn_inception import bn_inception
from vidact.models.weights import build_for, builder, describe, is_vidact_file, load, load_strictly, read
from vidact.names import counted
from vidact.records import FEATURES, blamed, check, read_json
from vidact.results import command_line, save_results
from vidact.video import (
    LONGEST_GAP_S,
    Chunker,
    Clock,
    SegmentSampler,
    Slot,
    VideoError,
    VideoReader,
    expand,
    open_video,
    refuse_gap,
    takes,
)
from vidact.video.decode import DECODERS, KNOWN_SUFFIXES
from vidact.video.flow import METHODS
from vidact.video.jobs import Meter, end_with_parent, num_cores, process_context
from vidact.video.transform import ClipTransform, images_per_index, test_transform

FORMAT = 1

IMAGE_BACKBONES: dict[str, Callable[..., Backbone]] = {
    build.__name__: build
    for build in (
        backbones.resnet18,
        backbones.resnet34,
        backbones.resnet50,
        backbones.resnet101,
        backbones.resnet_tiny,
        backbones.mobilenet_v2,
        backbones.mobilenet_v3_small,
        backbones.mobilenet_v3_large,
        backbones.efficientnet_b0,
        bn_inception,
    )
}


# ---------------------------------------------------------------------------------------------- the extractor


@dataclass
class _Look:
    """One network's view of a chunk: ``places`` are the images it is shown, in order, as numbers within the chunk."""

    network: nn.Module
    transform: ClipTransform
    places: list[int]
    is_image: bool
    dim: int

    def __call__(self, clips: Tensor) -> Tensor:  # (N, T, C, side, side) → (N, D)
        if self.is_image:
            return self.network(clips[:, 0])
        return self.network.features(clips)  # type: ignore[operator]


class FeatureExtractor:
    """A chunk of frames becomes one vector: a token.

    An image network (a ``Backbone``) sees one frame of the chunk. A clip network sees the whole chunk, or, where its
    weights are made for ``input.frames`` frames, so many, evenly spaced (``SegmentSampler``'s rule). A network on flow,
    or of several images a time step, sees as many groups of consecutive frames as stand side by side in the chunk: of 6
    frames, all 5 flow fields. The view is the test view: short side resized, centre cropped, normalised as the network
    says.

    The result does not depend on what else is in a batch, but for rounding: features computed with other batch sizes
    agree to 1e-5 of the largest value, and with one batch size, threads and machine they are the same bits.

    Args:
        network: an image network, or a clip network with ``features(clip)``. It is frozen, in evaluation mode.
        fps: rate of the clock in frames a second.
        chunk: frames of a token.
        rgb_index: which frame of the chunk an image network sees; None is the middle one, 3 of 6.
        flow_network: a network on flow, whose vector is appended; None for RGB alone.
        flow_method: "dis", "farneback" or "tvl1".
        decoder: what opens files; part of the record, since decoders differ in the last bit of a colour.
        device: where the networks run; None takes an accelerator if there is one.
        batch: chunks computed at once for a file. None is 1 on a CPU, which is fastest there and gives exactly what a
            stream gives, and 32 elsewhere.
        longest_gap_s: a longer pause between two frames is not filled with them: the clock begins anew behind it, and
            so does what reads the tokens. None fills every pause, as vidact did before it had this.
    """

    def __init__(
        self,
        network: nn.Module,
        fps: float = 24.0,
        chunk: int = 6,
        rgb_index: int | None = None,
        flow_network: nn.Module | None = None,
        flow_method: str = "dis",
        decoder: str = "pyav",
        device: str | torch.device | None = None,
        batch: int | None = None,
        longest_gap_s: float | None = LONGEST_GAP_S,
    ) -> None:
        refuse_gap(longest_gap_s)
        if decoder not in DECODERS:
            raise ValueError(f"decoder {decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
        if flow_method not in METHODS:
            raise ValueError(f"there is no flow method {flow_method!r}; there are {', '.join(METHODS)}")
        if batch is not None and batch < 1:
            raise ValueError(f"batch is {batch}; at least one chunk is computed at a time")
        if device is None:
            device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.fps, self.chunk_size = Clock(fps).fps, Chunker(chunk).chunk
        self.device = torch.device(device)
        self.decoder, self.longest_gap_s = decoder, longest_gap_s
        self.flow_method = flow_method
        self.batch = batch or (1 if self.device.type == "cpu" else 32)
        if rgb_index is not None and not 0 <= rgb_index < chunk:
            raise ValueError(f"rgb_index is {rgb_index}; a chunk of {chunk} frames has 0 to {chunk - 1}")
        self.rgb_index = chunk // 2 if rgb_index is None else rgb_index
        self.networks = {"network": network}
        if flow_network is not None:
            taken: Any = getattr(flow_network, "input", None)
            if not isinstance(taken, ClipInput) or taken.rgb_channels:
                raise ValueError(
                    f"flow_network is a {type(flow_network).__name__}, which does not look at flow alone; "
                    "build one with modality='flow'"
                )
            self.networks["flow_network"] = flow_network
        self._looks = [self._look(one) for one in self.networks.values()]
        self.dim = sum(look.dim for look in self._looks)
        # the frames of a chunk that are looked at: nothing else need be decoded
        self.frames: list[int] = sorted({place for look in self._looks for place in look.places})
        # A black chunk, so that a network that cannot take it says so now.
        side = max(look.transform.resize for look in self._looks)
        self.chunk(torch.zeros(chunk, 3, side, side, dtype=torch.uint8))

    def _look(self, network: nn.Module) -> _Look:
        name, taken = type(network).__name__, getattr(network, "input", None)
        is_image = isinstance(network, Backbone)
        if not isinstance(taken, ClipInput) or not hasattr(network, "dim"):
            raise ValueError(
                f"{name} does not say its input and dim, so no features can be taken from it; use an image network "
                f"({', '.join(IMAGE_BACKBONES)}) or a clip network with one vector a clip, such as TSN, TSM or X3D"
            )
        if not is_image and not hasattr(network, "features"):
            raise ValueError(f"{name} has no features(clip), one vector a clip; use a network such as TSN, TSM or X3D")
        group = images_per_index(taken)
        steps = 1 if is_image else taken.frames or max(1, self.chunk_size // group)
        if self.chunk_size < (needed := steps + group - 1):
            raise ValueError(
                f"{name} looks at {needed} frames at least and a chunk has {self.chunk_size}; "
                f"set chunk to {needed} or more (with fps {self.fps:g}, {self.fps / needed:g} tokens/s)"
            )
        if is_image and group == 1:
            starts = np.array([self.rgb_index])
        else:
            starts = SegmentSampler(num_segments=steps, segment_length=group)(self.chunk_size)[0]
        network = backbones.channels_last(network.eval().requires_grad_(False).to(self.device))
        places = expand(starts, group, self.chunk_size).tolist()
        return _Look(network, test_transform(taken, 1, self.flow_method), places, is_image, int(network.dim))  # type: ignore[arg-type]

    @property
    def takes_flow(self) -> bool:
        return any(look.transform.input.flow_fields for look in self._looks)

    @property
    def tokens_per_second(self) -> float:
        return self.fps / self.chunk_size

    # -- one chunk, many chunks

    def chunk(self, images: Tensor) -> Tensor:
        """The vector (D,) float32, on the CPU, of one chunk's uint8 RGB images (chunk, 3, H, W)."""
        if images.shape[:2] != (self.chunk_size, 3) or images.ndim != 4 or images.dtype != torch.uint8:
            raise ValueError(
                f"a chunk is uint8 RGB images ({self.chunk_size}, 3, H, W); these are {images.dtype} "
                f"{tuple(images.shape)}"
            )
        return self.compute([self.prepare([images[place] for place in self.frames])])[0]

    def prepare(self, images: Sequence[Tensor]) -> list[Tensor]:
        """What each network will see of one chunk, on the CPU; ``images`` (3, H, W) are those at ``self.frames``."""
        shown = dict(zip(self.frames, images, strict=True))
        return [look.transform(torch.stack([shown[place] for place in look.places]))[0][0] for look in self._looks]

    @torch.inference_mode()
    def compute(self, prepared: Sequence[list[Tensor]]) -> Tensor:
        """The vectors (N, D), float32 on the CPU, of chunks that were prepared; they may come from several streams."""
        parts = []
        # TF32 would keep three digits, and other ones for every batch size.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for number, look in enumerate(self._looks):
                parts.append(look(torch.stack([chunk[number] for chunk in prepared]).to(self.device)).float().cpu())
        vectors = torch.cat(parts, dim=1)
        if vectors.shape[1] != self.dim:
            raise ValueError(f"the networks say they give {self.dim} numbers a chunk and gave {vectors.shape[1]}")
        if not vectors.isfinite().all():
            names = " and ".join(type(look.network).__name__ for look in self._looks)
            raise ValueError(f"{names} gave features that are not finite; look at the weights")
        return vectors

    # -- a camera, a file

    def stream(self) -> FeatureStream:
        """A new source, frame by frame."""
        return FeatureStream(self)

    def plan(self, reader: VideoReader) -> tuple[np.ndarray, list[Take]]:
        """The frames that each token of a file looks at (T, frames looked at), and its takes that have a token.

        Raises VideoError for a video without a token.
        """
        parts, begun, count = [], [], 0
        whole = takes(reader.times_s, self.longest_gap_s)
        for part in whole:
            end_s = reader.end_s if part.stop == len(reader) else None
            slots = part.start + Clock(self.fps).indices(reader.times_s[part], end_s)
            chunks = Chunker(self.chunk_size).indices(slots)[:, self.frames]
            if len(chunks):
                begun.append(Take(count, float(reader.times_s[part.start] - reader.times_s[0])))
                parts.append(chunks)
                count += len(chunks)
        if not parts:
            slots = Clock(self.fps).indices(reader.times_s[whole[-1]], reader.end_s)
            pauses = f" after its last pause of more than {self.longest_gap_s:g} s" if len(whole) > 1 else ""
            raise VideoError(
                f"{reader.path} has {len(slots)} frames at {self.fps:g} fps{pauses}; a token needs {self.chunk_size}. "
                "Leave it out, or make the chunk smaller"
            )
        return np.concatenate(parts), begun

    def video(self, reader: VideoReader, progress: Callable[[float], None] | None = None) -> Tensor:
        """Every token (T, D) of a file: what a stream of its frames would give. Only frames that matter are decoded.

        Args:
            progress: called with the part of the video that is done, 0 to 1.

        Raises VideoError for a video shorter than one chunk.
        """
        numbers, _ = self.plan(reader)
        vectors: list[Tensor] = []
        shown: dict[int, Tensor] = {}  # the frames of the chunk before: one that is shown again is not decoded again
        for begin in range(0, len(numbers), self.batch):
            prepared = []
            for row in numbers[begin : begin + self.batch].tolist():
                absent = sorted({number for number in row if number not in shown})
                decoded = dict(zip(absent, reader.frames_at(absent).images, strict=True)) if absent else {}
                shown = {number: decoded[number] if number in decoded else shown[number] for number in row}
                prepared.append(self.prepare([shown[number] for number in row]))
            vectors.append(self.compute(prepared))
            if progress:
                progress(min(begin + self.batch, len(numbers)) / len(numbers))
        return torch.cat(vectors)

    # -- keeping it

    def record(self) -> dict[str, Any]:
        """What makes the features, as plain data: equal records give equal features, but for rounding."""
        described = {name: _described(network) for name, network in self.networks.items()}
        return {
            "format": FORMAT,
            "network": described["network"],
            "flow_network": described.get("flow_network"),
            "weights_sha256": _hash(self.state()),
            "fps": self.fps,
            "chunk": self.chunk_size,
            "tokens_per_second": self.tokens_per_second,
            "frames": [look.places for look in self._looks],
            "dim": self.dim,
            "crops": 1,
            "flow_method": self.flow_method if self.takes_flow else None,
            "decoder": self.decoder,
            # as in the records of before, whatever paused was filled
            **({} if self.longest_gap_s is None else {"longest_gap_s": self.longest_gap_s}),
        }

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors by name, on the CPU. A detector's checkpoint holds them with the prefix "extractor."."""
        return {
            f"{prefix}{part}.{name}": tensor.detach().cpu().contiguous()
            for part, network in self.networks.items()
            for name, tensor in network.state_dict().items()
        }

    @staticmethod
    def load(
        record: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        prefix: str = "",
        device: str | torch.device | None = None,
        batch: int | None = None,
        trust: Iterable[str] = (),
    ) -> FeatureExtractor:
        """The extractor that ``record()`` and ``state(prefix)`` came from; other tensors are left alone.

        Args:
            trust: packages outside vidact whose builders may run.
        """
        record = check(record, FEATURES, "the features record")
        if (record.get("format") or 0) > FORMAT:
            raise ValueError(
                f"the features record has format {record['format']} and this vidact reads up to {FORMAT}; "
                "install a newer one"
            )
        absent = [
            key for key in ("network", "weights_sha256", "fps", "chunk", "frames", "decoder") if key not in record
        ]
        if absent:
            raise ValueError(
                f"the features record lacks {', '.join(absent)}; give what FeatureExtractor.record() wrote"
            )
        networks: dict[str, nn.Module] = {}
        for part in ("network", "flow_network"):
            if record.get(part) is None:
                continue
            begin = f"{prefix}{part}."
            state = {name.removeprefix(begin): value for name, value in tensors.items() if name.startswith(begin)}
            with blamed("the features record"):
                network = build_for(state, record[part]["recipe"], trust, "the extractor's state")
                load_strictly(network, state, source="the extractor's state")
                network.input = ClipInput(**record[part]["input"])  # type: ignore[assignment]
            networks[part] = network
        with blamed("the features record"):
            extractor = FeatureExtractor(
                networks["network"],
                record["fps"],
                record["chunk"],
                record["frames"][0][0] if isinstance(networks["network"], Backbone) else None,
                networks.get("flow_network"),
                record.get("flow_method") or "dis",
                record["decoder"],
                device,
                batch,
                record.get("longest_gap_s"),
            )
        checked = ("weights_sha256", "frames", "dim")
        found = extractor.record()
        if different := differences({key: record.get(key) for key in checked}, {key: found[key] for key in checked}):
            raise ValueError(f"this is not the extractor of the record: {'; '.join(different)} (the record's first)")
        return extractor

    def save(self, path: str | Path) -> None:
        """Write record and tensors to one .safetensors file, which ``open`` reads."""
        text = json.dumps({"extractor": self.record()})
        with replacing(path) as half:
            half.write_bytes(safetensors.torch.save(self.state(), metadata={"vidact": text}))

    @staticmethod
    def open(
        path: str | Path, device: str | torch.device | None = None, batch: int | None = None, trust: Iterable[str] = ()
    ) -> FeatureExtractor:
        """The extractor in a file that ``save`` wrote, or of a folder of features (its extractor.safetensors)."""
        path = Path(path)
        if path.is_dir():
            path = path / EXTRACTOR
        tensors, record = read(path)
        if record is None or "extractor" not in record:
            raise ValueError(f"{path} holds no feature extractor; give the {EXTRACTOR} of a folder of features")
        with blamed(path):
            return FeatureExtractor.load(record["extractor"], tensors, device=device, batch=batch, trust=trust)


class FeatureStream:
    """One source, frame by frame, to tokens: ``push`` until the source ends, then ``finish``.

    A token is given when its chunk is complete; its time is where the chunk begins, in the source's own seconds. After
    a pause that is too long to be filled the tokens begin anew with the first frame behind it.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self._clock, self._chunker = Clock(extractor.fps), Chunker(extractor.chunk_size)
        self._shape: torch.Size | None = None
        self._last_s: float | None = None

    def push(self, time_s: float, image: Tensor) -> list[tuple[float, Tensor]]:
        """One more uint8 RGB frame (3, H, W): the tokens (seconds, vector (D,)) that it completes."""
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"a frame is a uint8 RGB image (3, H, W); this is {image.dtype} {tuple(image.shape)}")
        if self._shape not in (None, image.shape):
            raise ValueError(
                f"the frame of {time_s:.3f} s is {image.shape[2]}x{image.shape[1]}, those before it "
                f"{self._shape[2]}x{self._shape[1]}; begin a new stream when the source changes its size"  # type: ignore[index]
            )
        self._shape = image.shape
        before = []
        longest_s = self.extractor.longest_gap_s
        if self._last_s is not None and longest_s is not None and time_s - self._last_s > longest_s:
            before = self.finish()
            self._clock, self._chunker = Clock(self.extractor.fps), Chunker(self.extractor.chunk_size)
        self._last_s = time_s
        return before + self._tokens(self._clock.push(time_s, image))

    def finish(self, end_s: float | None = None) -> list[tuple[float, Tensor]]:
        """The source has ended: the tokens that its last slots complete. Half a chunk makes none.

        Args:
            end_s: when its last frame ends (``VideoReader.end_s``); None: nobody knows, as of a camera.
        """
        return self._tokens(self._clock.finish(end_s))

    def _tokens(self, slots: list[Slot]) -> list[tuple[float, Tensor]]:
        tokens = []
        for slot in slots:
            if chunk := self._chunker.push(slot):
                prepared = self.extractor.prepare([chunk[place].image for place in self.extractor.frames])
                tokens.append((chunk[0].time_s, self.extractor.compute([prepared])[0]))
        return tokens


def _described(network: nn.Module) -> dict[str, Any]:
    """Recipe and input, without where the weights came from: their hash says more, and the same on every machine."""
    described = describe(network)
    arguments = {
        name: None if name == "weights" or name.endswith("_weights") else value
        for name, value in described["recipe"]["arguments"].items()
    }
    return {"recipe": {**described["recipe"], "arguments": arguments}, "input": described["input"]}


def _hash(state: Mapping[str, Tensor]) -> str:
    """sha256 of named tensors. Counters of training batches do not count: old files lack them."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):
            tensor = state[name]
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two records disagree on, in words: "fps 24.0 and 12.0".

    What one of them does not say of a network's input or arguments is the default: an older vidact did not have it.
    """

    def flat(record: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(record, Mapping):
            return {name: record}
        return {
            key: value
            for part, inner in record.items()
            for key, value in flat(inner, f"{name}.{part}".strip(".")).items()
        }

    def short(value: Any) -> str:
        return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)

    a, b = flat(_complete(there)), flat(_complete(here))
    keys = sorted(set(a) | set(b), key=lambda key: list(b).index(key) if key in b else -1)
    return [f"{key} {short(a.get(key))} and {short(b.get(key))}" for key in keys if a.get(key) != b.get(key)]


def other_features(trained: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Why what learnt from features of one record cannot read those of another, in words. How long a pause is filled
    changes no token, only how many there are."""
    records = ({key: value for key, value in one.items() if key != "longest_gap_s"} for one in (trained, found))
    return differences(*records)


def _complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the defaults of whatever it does not say of its networks."""
    full = dict(record)
    for part in ("network", "flow_network"):
        described = full.get(part)
        if not (isinstance(described, Mapping) and {"recipe", "input"} <= described.keys()):
            continue  # None, or published features
        recipe = described["recipe"]
        arguments = {**_defaults(str(recipe.get("builder"))), **recipe.get("arguments", {})}
        taken = {**ClipInput().as_dict(), **described["input"]}
        full[part] = {**described, "recipe": {**recipe, "arguments": arguments}, "input": taken}
    return full


def _defaults(build: str) -> dict[str, Any]:
    """What a builder takes where nothing is said, as a record has it; nothing of one that is not imported."""
    module, _, name = build.rpartition(".")
    function = getattr(sys.modules.get(module), name, None)
    if not getattr(function, "is_builder", False):
        return {}
    given = {key: one.default for key, one in inspect.signature(function).parameters.items()}  # type: ignore[arg-type]
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    return {
        key: None if key == "weights" or key.endswith("_weights") else value
        for key, value in plain.items()
        if value is not inspect.Parameter.empty
    }


# ---------------------------------------------------------------------------------------------- by name


@builder
def image_backbone(
    name: str, weights: str | None, size: int | None = None, modality: str = "rgb", flow_fields: int = 5
) -> Backbone:
    """An image network by its name, as a recipe can keep it.

    Args:
        name: one of ``IMAGE_BACKBONES``, or "timm/" and a name there.
        weights: what that network takes: "imagenet", a local file, or None.
        size: crop side in pixels; None is the network's own.
        modality: "rgb", or "flow" for ``flow_fields`` consecutive fields.
        flow_fields: read with modality "flow" only.
    """
    options: dict[str, Any] = {} if size is None else {"size": size}
    if name.startswith("timm/"):
        return for_modality(backbones.timm_backbone(name.removeprefix("timm/"), weights, size), modality, flow_fields)
    return for_modality(IMAGE_BACKBONES[name](weights, **options), modality, flow_fields)


def build_network(
    name: str, weights: str | None = "default", size: int | None = None, modality: str = "rgb", flow_fields: int = 5
) -> nn.Module:
    """A network to take features from.

    Args:
        name: an image network (``IMAGE_BACKBONES``, "timm/…"), a clip network of ``vidact.models``, or the file of a
            trained one: a run's .ckpt or a .safetensors.
        weights: "default" for the ones that the network's own function starts from (ImageNet, Kinetics), a name or
            local file that it takes, or None. What stays random is the same in every run.
        size: crop side in pixels; None is the network's own.
        modality: "rgb" or "flow".
        flow_fields: consecutive fields that a flow network looks at.
    """
    if Path(name).suffix in (".ckpt", ".safetensors") or Path(name).is_file():
        if weights != "default" or size is not None:
            asked = f"weights={weights!r}" if weights != "default" else f"size={size}"
            raise ValueError(f"{name} is a trained network and brings its own; leave {asked} out")
        return load(name)
    if weights is not None and is_vidact_file(weights):
        raise ValueError(
            f"{weights} is a trained network, not a backbone's weights; give it as the network: {weights!r}"
        )
    given: dict[str, Any] = {"weights": weights, "size": size, "modality": modality, "flow_fields": flow_fields}
    build: Any
    if name in IMAGE_BACKBONES or name.startswith("timm/"):
        build, given["name"] = image_backbone, name
        if weights == "default":
            function = IMAGE_BACKBONES.get(name, backbones.timm_backbone)
            given["weights"] = inspect.signature(function).parameters["weights"].default
    else:
        build, given["num_classes"] = getattr(vidact.models, name, None), 1  # the classifier is not asked
        if not getattr(build, "is_builder", False) or "num_classes" not in inspect.signature(build).parameters:
            names = [
                *IMAGE_BACKBONES,
                *(other for other in vidact.models.__all__ if other.startswith(("tsn", "tsm", "x3d"))),
            ]
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"network {name!r} is neither a file nor a name; {hint}There are {', '.join(IMAGE_BACKBONES)}, "
                "timm/<a name there>, and the clip networks of vidact.models"
            )
        if weights == "default":
            del given["weights"]
        if size is None:
            del given["size"]
    takes = inspect.signature(build).parameters
    if modality == "rgb":
        del given["modality"], given["flow_fields"]
    if unknown := sorted(set(given) - set(takes)):
        raise ValueError(f"network {name!r} takes no {', '.join(unknown)}; it takes {', '.join(takes)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would begin the GPU's numbers anew as well
        return build(**given)


def build_extractor(
    network: str,
    weights: str | None = "default",
    size: int | None = None,
    fps: float = 24.0,
    chunk: int = 6,
    rgb_index: int | None = None,
    flow_network: str | None = None,
    flow_weights: str | None = "default",
    flow_method: str = "dis",
    decoder: str = "pyav",
    device: str | None = None,
    batch: int | None = None,
    longest_gap_s: float = LONGEST_GAP_S,
) -> FeatureExtractor:
    """An extractor from names and files: ``build_network`` for each network, the rest as ``FeatureExtractor`` takes it.

    A flow network given by its name looks at all ``chunk - 1`` flow fields of a chunk. The extractor.safetensors of a
    folder of features, as ``network``, is that extractor; it brings all but ``device`` and ``batch``.
    """
    given = {name: value for name, value in locals().items() if name not in ("network", "device", "batch")}
    if _is_extractor(network):
        known = inspect.signature(build_extractor).parameters
        if named := [f"{name} {value}" for name, value in given.items() if value != known[name].default]:
            raise ValueError(f"{network} is a whole extractor and brings its own; leave out {', '.join(named)}")
        return FeatureExtractor.open(network, device, batch)
    if flow_network is None and flow_weights != "default":
        raise ValueError(f"flow_weights is {flow_weights!r}, but there is no flow_network; name one, or leave it out")
    flow = None if flow_network is None else build_network(flow_network, flow_weights, size, "flow", max(chunk - 1, 1))
    return FeatureExtractor(
        build_network(network, weights, size),
        fps,
        chunk,
        rgb_index,
        flow,
        flow_method,
        decoder,
        device,
        batch,
        longest_gap_s,
    )


def _is_extractor(network: str) -> bool:
    path = Path(network)
    return path.suffix == ".safetensors" and path.is_file() and "extractor" in (read(path)[1] or {})


# ---------------------------------------------------------------------------------------------- the loop over files

RECORD, EXTRACTOR, UNREADABLE = "features.json", "extractor.safetensors", "unreadable.json"


@dataclass
class Extraction:
    """What a run did: video ids that were ``written``, ``kept`` from a run before, and ``unreadable`` ones with why.

    ``paused`` are those of the written whose tokens begin anew behind a pause that was not filled. ``report`` is the
    file that names the unreadable; ``tokens`` were written in ``took_s`` seconds.
    """

    report: Path

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    took_s: float = 0.0
    paused: list[str] = field(default_factory=list)


def extract_features(
    videos: str | Path | Sequence[str | Path],
    out: str | Path,
    extractor: FeatureExtractor,
    workers: int = 1,
    shard: str = "1/1",
    progress: bool = True,
) -> Extraction:
    """Write the features of every video; see the top of this file for what is left in ``out``.

    It may be stopped at any moment, by SIGKILL too, and called again: finished videos are kept, and the others' bytes
    are those of an uninterrupted run. A video that cannot be read is left out and reported.

    Args:
        videos: a folder that is searched with its subfolders, a file, or a list of files (their ids are their names).
        out: the folder of features; new, empty, or filled by the same extractor.
        workers: videos read and computed at the same time, each by one process on one thread; 1 is this process.
            (With more, a script that calls this needs ``if __name__ == "__main__":``.)
        shard: "i/n" takes the i-th of n parts, i from 1, so that n machines can share a folder of videos and ``out``.
            A video's part follows from its id alone.
        progress: say on stderr what is done and how long the rest will take.
    """
    started = time.perf_counter()
    _refuse_workers(workers)
    part, parts = parse_shard(shard)
    sources = {video: path for video, path in find_videos(videos).items() if part_of(video, parts) == part}
    out = Path(out)
    record = _claim(out, extractor)
    with _alone(out, f"{part}-of-{parts}", shard):
        _sweep(out, sources if parts > 1 else None)
        tasks = [_Task(video, path, out, _fingerprint(record)) for video, path in sources.items()]
        report = out / (UNREADABLE if parts == 1 else f"unreadable-{part}-of-{parts}.json")
        done = Extraction(report, kept=[task.video for task in tasks if task.is_done(extractor.dim)])
        tasks = [task for task in tasks if task.video not in set(done.kept)]
        # the longest first, so that the last ones do not leave the other workers idle
        tasks.sort(key=lambda task: task.path.stat().st_size, reverse=True)
        sizes = {task.video: max(task.path.stat().st_size, 1) for task in tasks}
        meter = Meter(sum(sizes.values()), len(tasks), progress)
        if progress and tasks and done.kept:
            print(f"{counted(len(done.kept), 'video is', 'videos are')} done already", file=sys.stderr)
        workers = min(workers, len(tasks))
        run = _in_this_process if workers <= 1 else _in_processes

        def move(video: str, part: float) -> None:
            meter.begin()
            meter.move(video, part * sizes[video])

        with contextlib.closing(run(tasks, extractor, workers, move)) as outcomes:
            for outcome in outcomes:
                meter.finish(sizes[outcome.video], news=f"{outcome.video}: {outcome}", piece=outcome.video)
                if outcome.error:
                    done.unreadable[outcome.video] = outcome.error
                else:
                    done.written.append(outcome.video)
                    done.tokens += outcome.tokens
                    if outcome.takes:
                        done.paused.append(outcome.video)
        if done.unreadable:
            write_json(report, done.unreadable)
        else:
            report.unlink(missing_ok=True)
    done.took_s = time.perf_counter() - started
    return done


def _refuse_workers(workers: int) -> None:
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one process works")


def parse_shard(shard: str) -> tuple[int, int]:
    """``"2/4"`` is the second of four parts."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard is {shard!r}; write i/n with i from 1 to n, such as 1/4 for the first of four parts")
    return int(match[1]), int(match[2])


def part_of(video: str, parts: int) -> int:
    """Which of so many shards, from 1, a video id belongs to: on every machine and in every list the same."""
    return 1 + int(hashlib.sha256(video.encode()).hexdigest(), 16) % parts


def find_videos(videos: str | Path | Sequence[str | Path], notes: list[str] | None = None) -> dict[str, Path]:
    """Video files by id: the path below the folder without its suffix, or a listed file's name without its suffix.

    ``notes`` gets sentences on folders that were passed over.
    """
    found: list[tuple[str, Path]] = []
    if isinstance(videos, (str, Path)):
        folder = Path(videos)
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; give a folder of videos or a video file")
        found = [(video_id(name), folder / name) for name in walk_videos(folder, notes=notes)]
        if folder.is_file():
            found = [(folder.stem, folder)]
        if not found:
            raise FileNotFoundError(f"{folder} holds no video; looked for {KNOWN_SUFFIXES}")
    else:
        found = [(Path(path).stem, Path(path)) for path in videos]
    if absent := [str(path) for _, path in found if not path.exists()]:
        raise FileNotFoundError(
            f"{absent[0]} is not a file; {len(absent)} of {counted(len(found), 'video is', 'videos are')} missing"
        )
    sources: dict[str, Path] = {}
    for video, path in sorted(found):
        if video in sources:
            raise ValueError(
                f"{sources[video]} and {path} would both become {video}.npy; rename one of them, or give their folder"
            )
        sources[video] = path
    return sources


@dataclass(frozen=True)
class _Task:
    """One video to be done."""

    video: str
    path: Path
    out: Path
    fingerprint: str  # of the extractor's record

    @property
    def target(self) -> Path:
        return self.out / f"{self.video}.npy"

    @property
    def note(self) -> Path:
        return note_path(self.out, self.video)

    def source(self) -> dict[str, Any]:
        """By what a video is known to be the one that was read."""
        stat = self.path.stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "record_sha256": self.fingerprint}

    def is_done(self, dim: int) -> bool:
        """Whether the features of this very file, by this very extractor, are there and whole."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            tokens, is_paused = note.pop("tokens"), note.pop("takes", 0) > 0
            note.pop("lead_s", None)
            array = np.load(self.target, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # an empty .npy is an EOFError
            return False
        has_takes = takes_file(self.target).is_file() == is_paused
        return note == self.source() and has_takes and array.dtype == np.float32 and array.shape == (tokens, dim)


@dataclass(frozen=True)
class _Outcome:
    video: str
    tokens: int = 0
    error: str = ""
    takes: int = 0  # 0: it is whole

    def __str__(self) -> str:
        pauses = f", {self.takes} takes with a pause before or between them that is too long to be filled"
        return self.error or f"{self.tokens} tokens{pauses if self.takes else ''}"


def _extract(task: _Task, extractor: FeatureExtractor, progress: Callable[[float], None]) -> _Outcome:
    for stale in (task.note, task.target, takes_file(task.target)):  # of another state of the video
        stale.unlink(missing_ok=True)
    try:
        source = task.source()  # before reading: a video that changes meanwhile is made again
        with open_video(task.path, extractor.decoder) as reader:
            features = extractor.video(reader, progress).numpy()
            begun, lead_s = extractor.plan(reader)[1], reader.lead_s
    except (VideoError, OSError) as error:
        return _Outcome(task.video, error=str(error))
    with replacing(task.target) as half:
        np.save(half, features, allow_pickle=False)
    write_takes(task.target, begun)
    num_takes = len(begun) if takes_file(task.target).exists() else 0
    paused = {"takes": num_takes} if num_takes else {}
    write_json(task.note, {**source, "tokens": len(features), "lead_s": round(lead_s, 6), **paused})
    return _Outcome(task.video, len(features), takes=num_takes)


# ---------------------------------------------------------------------------------------------- the folder


def _fingerprint(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _claim(out: Path, extractor: FeatureExtractor) -> dict[str, Any]:
    """Write the record into a new folder, refuse a folder of other features; gives the record that stands there.

    A folder of before pauses were left out goes on as it began, unless another length than the usual one is asked for.
    """
    path, record = out / RECORD, extractor.record()
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; name a folder for the features")
    if path.exists():
        there = read_json(path, FEATURES, "choose another --out")
        if "longest_gap_s" not in there and extractor.longest_gap_s == LONGEST_GAP_S:
            extractor.longest_gap_s = None
            record = extractor.record()
        if different := differences(there, record):
            raise ValueError(
                f"the features in {out} were made with others than asked: {'; '.join(different)} (there and asked); "
                "choose another --out"
            )
        record = there
    elif other := next(out.rglob("*.npy"), None):
        raise ValueError(
            f"{out} holds features ({other.relative_to(out)}) and no {RECORD} that says what made them; "
            "choose another --out"
        )
    else:
        write_json(path, record)
    if not _holds(out / EXTRACTOR, record):
        extractor.save(out / EXTRACTOR)
    return record


def _holds(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether the file is there, whole, and the extractor of the record."""
    try:
        tensors, there = read(path)
    except (OSError, ValueError):
        return False
    is_its = there is not None and "extractor" in there and not differences(there["extractor"], record)
    return is_its and _hash(tensors) == record["weights_sha256"]


def _sweep(out: Path, videos: Iterable[str] | None) -> None:
    """Remove what a killed run left half-written (see files.replacing), of these videos, or of all."""
    own = None if videos is None else {Path(video).name for video in videos}
    for half in out.rglob(".*"):
        match = re.fullmatch(r"\.\d+\.(.+)\.(npy|json|safetensors)", half.name)
        if match and half.is_file() and (own is None or match[1].removesuffix(".takes") in own):
            half.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(out: Path, name: str, shard: str) -> Iterator[None]:
    """Refuse a second run of the same shard; the lock falls with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock; there two runs of one shard do the work twice
        yield
        return
    (out / NOTES).mkdir(parents=True, exist_ok=True)
    with (out / NOTES / f"lock-{name}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another extraction is writing shard {shard} of {out}; wait for it, or split the work with --shard i/n"
            ) from None
        yield


# ---------------------------------------------------------------------------------------------- processes


def _in_this_process(
    tasks: list[_Task], extractor: FeatureExtractor, workers: int, move: Callable[[str, float], None]
) -> Generator[_Outcome]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: the number of threads shows in the last bits
    try:
        for task in tasks:
            move(task.video, 0.0)
            yield _extract(task, extractor, lambda part, video=task.video: move(video, part))  # type: ignore[misc]
    finally:
        torch.set_num_threads(threads)


def _in_processes(
    tasks: list[_Task], extractor: FeatureExtractor, workers: int, move: Callable[[str, float], None]
) -> Generator[_Outcome]:
    """Give each worker a video at a time. Each has its own pipe, so that one which dies takes no lock with it."""
    context = process_context()
    # as bytes: tensors sent to a process go through shared memory, of which containers have little
    bundle = (extractor.record(), safetensors.torch.save(extractor.state()), str(extractor.device), extractor.batch)
    waiting = list(reversed(tasks))
    doing: dict[Connection, _Task] = {}
    processes: dict[Connection, Any] = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            processes[ours] = context.Process(target=_work, args=(theirs, *bundle), daemon=True)  # type: ignore[attr-defined]
            processes[ours].start()
            theirs.close()
            doing[ours] = waiting.pop()
            ours.send(doing[ours])
        while doing:
            for link in multiprocessing.connection.wait(list(doing)):
                assert isinstance(link, Connection)
                try:
                    message = link.recv()
                except (EOFError, OSError):
                    processes[link].join()
                    raise ChildProcessError(
                        f"the worker at {doing[link].path} was ended (status {processes[link].exitcode}), perhaps for "
                        "want of memory: run the same command again with fewer workers, and it goes on from here"
                    ) from None
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, float):
                    move(doing[link].video, message)
                    continue
                yield message
                del doing[link]
                if waiting:
                    doing[link] = waiting.pop()
                    link.send(doing[link])
    finally:
        for process in processes.values():
            process.kill()
            process.join()


def _work(link: Connection, record: dict[str, Any], state: bytes, device: str, batch: int) -> None:
    """A worker process: videos in, outcomes out, until the other end of the link is gone."""
    end_with_parent()
    torch.set_num_threads(1)
    try:
        extractor = FeatureExtractor.load(record, safetensors.torch.load(state), device=device, batch=batch)
        while True:
            task, told = link.recv(), time.monotonic()
            link.send(0.0)  # work begins: what came before was start-up

            def tell(part: float) -> None:
                nonlocal told
                if time.monotonic() - told > 0.5:
                    link.send(float(part))
                    told = time.monotonic()

            link.send(_extract(task, extractor, tell))
    except EOFError:
        return
    except Exception as error:
        # What the command line puts into plain words stays what it is; anything else is a bug, and needs its place.
        plain = next((kind for kind in (ValueError, ImportError, OSError) if isinstance(error, kind)), None)
        link.send(plain(str(error)) if plain else RuntimeError(traceback.format_exc()))


# ---------------------------------------------------------------------------------------------- the command


def main(args: Sequence[str]) -> int:
    """``vidact extract``: 0, or 1 when a video could not be read."""
    parser = Parser(prog="vidact extract", description="Compute once what training reads many times.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="features|flow")
    features = kinds.add_parser("features", help="one vector for every quarter of a second of each video")
    features.add_argument(
        "--videos", type=Path, required=True, help="a folder, searched with its subfolders, or a file"
    )
    features.add_argument("--out", type=Path, required=True, help="folder for <video>.npy and features.json")
    features.add_argument(
        "--network",
        default="mobilenet_v2",
        help=f"{', '.join(IMAGE_BACKBONES)}, timm/<a name there>, a clip network of vidact.models, the file of a "
        "trained one, or the extractor.safetensors of a folder of features, to make the same (default mobilenet_v2)",
    )
    features.add_argument(
        "--weights", default="default", help="a file, a published name, or none; default: the network's published ones"
    )
    features.add_argument("--size", type=int, help="crop side in pixels; default: the network's own")
    features.add_argument("--fps", type=float, default=24.0, help="frames a second of the clock (default 24)")
    features.add_argument("--chunk", type=int, default=6, help="frames of a token (default 6: 4 tokens a second)")
    features.add_argument(
        "--rgb-index", type=int, help="the frame of a chunk that an image network sees; default: middle"
    )
    features.add_argument("--flow-network", help="append features of optical flow by this network (a name or a file)")
    features.add_argument("--flow-weights", default="default", help="as --weights, for the flow network")
    features.add_argument("--flow-method", help="dis, farneback or tvl1 (default dis)")
    features.add_argument(
        "--longest-gap", type=float, default=LONGEST_GAP_S, metavar="SECONDS",
        help="fill no longer pause with frozen pictures: tokens begin anew behind it (default "
        f"{LONGEST_GAP_S:g})",
    )  # fmt: skip
    features.add_argument("--decoder", default="pyav", help="pyav, decord, opencv or torchcodec")
    features.add_argument("--device", help="cpu, cuda or mps; default: the best there is")
    features.add_argument("--batch", type=int, help="chunks computed at once; default: 1 on a CPU, 32 elsewhere")
    features.add_argument("--workers", type=int, help="videos at the same time; default: one for each core")
    features.add_argument("--shard", default="1/1", help="do the i-th of n parts, i/n, on this machine")
    asked = parser.parse_args(args)
    refuse_device(asked.device)
    if asked.workers is not None:
        _refuse_workers(asked.workers)
    part, parts = parse_shard(asked.shard)
    passed_over: list[str] = []
    find_videos(asked.videos, passed_over)  # before a network is built
    for note in passed_over:
        print(note, file=sys.stderr)
    extractor = build_extractor(
        network=asked.network,
        weights=None if asked.weights == "none" else asked.weights,
        size=asked.size,
        fps=asked.fps,
        chunk=asked.chunk,
        rgb_index=asked.rgb_index,
        flow_network=asked.flow_network,
        flow_weights=None if asked.flow_weights == "none" else asked.flow_weights,
        flow_method=asked.flow_method or "dis",
        decoder=asked.decoder,
        device=asked.device,
        batch=asked.batch,
        longest_gap_s=asked.longest_gap,
    )
    if asked.flow_method and not extractor.takes_flow:
        raise ValueError(
            f"--flow-method is {asked.flow_method}, but {asked.network} sees no flow; leave it out, or name a "
            "--flow-network"
        )
    if (workers := asked.workers) is None:
        cores = num_cores()
        workers = cores if extractor.device.type == "cpu" else min(cores, 4)  # each holds the network on the device
    print(
        f"{asked.network}: {extractor.dim} numbers a token, {extractor.tokens_per_second:g} tokens/s, "
        f"{workers} workers on {extractor.device}",
        flush=True,
    )
    if asked.weights == "none":
        print("weights none: the network is untrained and its features mean little")
    try:
        done = extract_features(asked.videos, asked.out, extractor, workers, asked.shard)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from what is in {asked.out}") from None
    report = f" (see {done.report})" if done.unreadable else ""
    print(
        f"{asked.out}: {counted(len(done.written), 'video')} written ({counted(done.tokens, 'token')}), "
        f"{len(done.kept)} were there, "
        f"{len(done.unreadable)} cannot be read{report}; {done.took_s / 60:.1f} min"
    )
    if done.paused:
        pauses = f"more than {extractor.longest_gap_s:g} s"
        print(
            f"{counted(len(done.paused), 'video pauses', 'videos pause')} for {pauses} between two frames: "
            f"{first_few(sorted(done.paused))}. "
            "Their tokens begin anew behind it, and each take is learnt and scored by itself (--longest-gap)"
        )
    if not done.written and not done.unreadable:
        return 0  # results.json keeps the figures of the run that made the features
    section = {
        "videos_written": len(done.written),
        "videos_kept": len(done.kept),
        "videos_unreadable": len(done.unreadable),
        "videos_paused": len(done.paused),
        "tokens_written": done.tokens,
        "minutes": round(done.took_s / 60, 2),
        "workers": workers,
    }
    save_results(asked.out, {"extract" if parts == 1 else f"extract_{part}_of_{parts}": section}, command_line())
    return 1 if done.unreadable else 0
