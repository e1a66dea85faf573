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

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from vidact.batch import ClipInput
from vidact.data.takes import Take
from vidact.device import best_device
from vidact.features.choices import CHUNK, FPS, IMAGE_NETWORKS
from vidact.features.record import EXTRACTOR, differences, weights_hash
from vidact.files import replacing
from vidact.models import backbones
from vidact.models.backbones import Backbone
from vidact.models.weights import attach, build_for, describe, input_of, load_strictly, read
from vidact.records import FEATURES, FORMAT, Record, blamed, check
from vidact.video import (
    LONGEST_GAP_S,
    Chunker,
    Clock,
    SegmentSampler,
    Slot,
    VideoError,
    VideoReader,
    expand,
    refuse_gap,
    takes,
)
from vidact.video.decode import DECODERS
from vidact.video.flow import METHODS
from vidact.video.transform import ClipTransform, images_per_index, test_transform

IMAGE_BACKBONES: dict[str, Callable[..., Backbone]] = {
    name: getattr(import_module(module), name) for name, module in IMAGE_NETWORKS.items()
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
        fps: float = FPS,
        chunk: int = CHUNK,
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
        self.fps, self.chunk_size = Clock(fps).fps, Chunker(chunk).chunk
        self.device = best_device() if device is None else torch.device(device)
        self.decoder, self.longest_gap_s = decoder, longest_gap_s
        self.flow_method = flow_method
        self.batch = batch or (1 if self.device.type == "cpu" else 32)
        if rgb_index is not None and not 0 <= rgb_index < chunk:
            raise ValueError(f"rgb_index is {rgb_index}; a chunk of {chunk} frames has 0 to {chunk - 1}")
        self.rgb_index = chunk // 2 if rgb_index is None else rgb_index
        self.networks = {"network": network}
        if flow_network is not None:
            flow_input = input_of(flow_network)
            if flow_input is None or flow_input.rgb_channels:
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
        name, taken = type(network).__name__, input_of(network)
        is_image = isinstance(network, Backbone)
        if taken is None or not hasattr(network, "dim"):
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
            "weights_sha256": weights_hash(self.state()),
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
                attach(network, input=ClipInput(**record[part]["input"]))
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
        text = json.dumps(Record(extractor=self.record()).to_dict())
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
        if record is None or record.extractor is None:
            raise ValueError(f"{path} holds no feature extractor; give the {EXTRACTOR} of a folder of features")
        with blamed(path):
            return FeatureExtractor.load(record.extractor, tensors, device=device, batch=batch, trust=trust)


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
                f"{self._shape[2]}x{self._shape[1]}; begin a new stream when the source changes its size"
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
    assert described.recipe is not None
    arguments = {
        name: None if name == "weights" or name.endswith("_weights") else value
        for name, value in described.recipe["arguments"].items()
    }
    return {"recipe": {**described.recipe, "arguments": arguments}, "input": described.input}
