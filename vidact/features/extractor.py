"""Features: a chunk of frames becomes one vector; files, training and cameras use the same extractor.

``FeatureExtractor`` has one or two frozen networks and the steps before them: the clock, the chunks, the windows, the
frames of a window that a network reads, and the network's own transform. ``extract_features`` runs it over a folder of
videos and writes

    <out>/<video id>.npy          float32 (T, D), a row a token; the id is the path below the videos' folder, no suffix
    <out>/<video id>.takes.json   the first tokens after pauses that were not filled; absent without such pauses
    <out>/features.json           the extractor's record: the settings and networks that made the features
    <out>/extractor.safetensors   the extractor, which is copied into a detector's checkpoint
    <out>/unreadable.json         videos that could not be read, with the reasons; absent when there are none

Every file is whole or absent. A note in ``<out>/.extract/done`` marks a finished video, by the size and time of the
source and the record's hash. So a run that was killed can be continued, and a video that has changed is read again.

Shapes: T tokens, D features, N chunks, H x W pixels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from vidact.features.record import EXTRACTOR, differences
from vidact.features.views import ClipFacts, ImageFacts, View, network_record, stacked
from vidact.files import replacing
from vidact.models import backbones
from vidact.models.backbones import Backbone
from vidact.models.clip_network import VectorNetwork, trained_length
from vidact.models.weights import attach, build_for, input_of, load_strictly, read, weights_hash
from vidact.records import FORMAT, LONGEST, FeaturesRecord, Record, blamed
from vidact.runtimes.choices import refuse_runtime
from vidact.runtimes.compiled import Compiled, compiled
from vidact.runtimes.exported import PIXELS, OnnxGraph
from vidact.runtimes.networks import Vectors, quick_runtime, refuse_elsewhere
from vidact.runtimes.onnx_graph import runtime_version
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
from vidact.video.transform import images_per_index, test_transform

INT8_BATCH = 4  # tokens of a file that an int8 image network computes at once; more are not quicker
GRAPH = "onnx"  # the name of an int8 extractor's graph among the tensors of a file

IMAGE_BACKBONES: dict[str, Callable[..., Backbone]] = {
    name: getattr(import_module(module), name) for name, module in IMAGE_NETWORKS.items()
}


# ---------------------------------------------------------------------------------------------- the extractor


class FeatureExtractor:
    """The networks and settings that turn a chunk of frames into one vector, a token.

    An image network (a ``Backbone``) reads one frame of the chunk. A clip network reads a window: the last ``window``
    frames of the source up to the end of the chunk, so that no token depends on a later frame. Before the first frame
    of a source, or of a take, the window repeats that frame. The network reads all frames of the window, or, where its
    weights are made for ``input.frames`` frames, that many, evenly spaced (``SegmentSampler``'s rule). A network on
    flow, or of several images a time step, reads as many groups of consecutive frames as fit into the window side by
    side: of 6 frames, all 5 flow fields. The view is the test view: the short side is resized, the centre is cropped
    and the pixels are normalised as the network's input requires.

    The other chunks of a batch change the result only by rounding: features computed with other batch sizes agree to
    1e-5 of the largest value, and with the same batch size, threads and machine they are the same bits.

    Args:
        network: an image network, or a clip network with ``features(clip)``. It is frozen, in evaluation mode.
        fps: the rate of the clock in frames a second.
        chunk: frames of a token: each token's window ends so many frames after that of the token before.
        rgb_index: the frame of the chunk that an image network reads; None is the middle one, 3 of 6.
        flow_network: a network on flow, whose vector is appended; None for RGB only.
        flow_method: "dis", "farneback" or "tvl1".
        decoder: the decoder of files; part of the record, since decoders differ in the last bit of a colour.
        device: where the networks run; None is an accelerator if there is one.
        batch: chunks of a file that are computed at once. None is 1 on a CPU, which is fastest there and exactly equal
            to a stream, and 32 elsewhere.
        longest_gap_s: the longest pause between two frames, in seconds, that is filled with the frame before it. After
            a longer one the clock starts again, and so does a detector that reads the tokens. None fills every pause,
            as versions without this option did.
        window: frames of the window of a clip network. None is one chunk, or the length of the clips that the network
            was trained on where that is known and longer (``clip_network.trained_length``).
        runtime: "torch", "onnx" or "auto"; see ``run_in``.
    """

    runtime = "torch"

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
        window: int | None = None,
        runtime: str = "torch",
    ) -> None:
        refuse_gap(longest_gap_s)
        refuse_runtime(runtime)
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
        self.is_window_default = window is None
        self.set_window(self._own_window() if window is None else window)
        if runtime != "torch":
            self.run_in(runtime)

    def _own_window(self) -> int:
        """Return the frames of the window where none is chosen."""
        lengths = [self.chunk_size]
        for network in self.networks.values():
            clip_input, length = input_of(network), trained_length(network)
            if clip_input is not None and length is not None and not isinstance(network, Backbone):
                lengths.append(length + images_per_index(clip_input) - 1)
        return max(lengths)

    def set_window(self, window: int) -> None:
        """Set the frames of the window of clip networks. Raises ValueError where a network cannot read so many."""
        if not 1 <= window <= LONGEST:
            raise ValueError(f"window is {window}; a window has 1 to {LONGEST:,} frames")
        if window != self.chunk_size and all(isinstance(each, Backbone) for each in self.networks.values()):
            names = " and ".join(type(each).__name__ for each in self.networks.values())
            raise ValueError(
                f"window is {window}, but {names} reads images and not clips, so it has no window; leave it out, or "
                "choose a clip network"
            )
        self.window = window
        self._views = [self._view(each) for each in self.networks.values()]
        self.dim = sum(view.dim for view in self._views)
        # the frames that a network reads, counted from the first of the chunk: negative before it; no other frame has
        # to be decoded
        self.frames: list[int] = sorted({frame for view in self._views for frame in view.frames})
        # The networks compute a black chunk, so that one that cannot read chunks raises its error now.
        side = max(view.transform.resize for view in self._views)
        self.chunk(torch.zeros(1, 3, side, side, dtype=torch.uint8).expand(self.span, -1, -1, -1))
        if self.runtime == "onnx":
            self.use_graphs(self._make_graphs())

    def _view(self, network: nn.Module) -> View:
        name, clip_input = type(network).__name__, input_of(network)
        if clip_input is None or not isinstance(network, Backbone | VectorNetwork):
            if clip_input is not None and hasattr(network, "dim"):
                fault = "has no features(clip), one vector a clip"
            else:
                fault = "does not say its input and dim, so no features can be taken from it"
            raise ValueError(
                f"{name} {fault}; use an image network ({', '.join(IMAGE_BACKBONES)}) or a clip network with one "
                "vector a clip, such as TSN, TSM or X3D"
            )
        is_image, dim = isinstance(network, Backbone), int(network.dim)
        group = images_per_index(clip_input)
        window = self.chunk_size if is_image else self.window
        steps = 1 if is_image else clip_input.frames or max(1, window // group)
        if window < (needed := steps + group - 1):
            if window == self.chunk_size:
                raise ValueError(
                    f"{name} looks at {needed} frames at least and a chunk has {window}; "
                    f"set chunk to {needed} or more (with fps {self.fps:g}, {self.fps / needed:g} tokens/s)"
                )
            raise ValueError(f"{name} looks at {needed} frames at least and the window is {window}; set it to {needed}")
        if is_image and group == 1:
            starts = np.array([self.rgb_index])
        else:
            starts = SegmentSampler(num_segments=steps, segment_length=group)(window)[0]
        frames = (expand(starts, group, window) + self.chunk_size - window).tolist()
        network = backbones.channels_last(network.eval().requires_grad_(False).to(self.device))
        return View(network, test_transform(clip_input, 1, self.flow_method), frames, dim)

    # -- runtimes

    def run_in(self, runtime: str, earlier: str | None = None) -> None:
        """Let the networks run in a runtime; the attribute ``runtime`` is then "torch" or "onnx".

        The graphs of ONNX Runtime are made and compared with PyTorch once, and kept in a cache (``vidact.runtimes``).
        Features of different runtimes agree to 1e-4 of the largest value.

        Args:
            runtime: "torch"; "onnx", which is ONNX Runtime on the CPU; or "auto", which is ``earlier``, else
                ``quick_runtime``. With "auto", a network that cannot be a graph runs in PyTorch, and a line on the
                standard error says why.
            earlier: the runtime that features with which these are used together were made in.

        Raises:
            ImportError: where a package that "onnx" needs is not installed.
            ValueError: for "onnx" where a network cannot be a graph, or runs on another device than the CPU.
        """
        refuse_runtime(runtime)
        chosen = runtime
        if runtime == "auto":
            chosen = earlier or self.quick_runtime
            if chosen not in ("torch", "onnx"):
                raise ValueError(f"the features were made in the runtime {chosen}, which this vidact does not have")
        if chosen == "onnx":
            try:
                self.use_graphs(self.graphs or self._make_graphs())
            except (ImportError, ValueError) as error:
                if runtime != "auto":
                    raise
                print(f"{error}; it runs in PyTorch", file=sys.stderr)
                chosen = "torch"
        if chosen == "torch":
            self.use_graphs({})

    @property
    def quick_runtime(self) -> str:
        """The runtime that "auto" is for new features; see ``vidact.runtimes.networks.quick_runtime``."""
        return quick_runtime(self.networks.values(), self.device)

    @property
    def graphs(self) -> dict[str, Compiled]:
        """The graphs of the networks by their part, "network" or "flow_network"; empty where PyTorch runs them."""
        parts = zip(self.networks, self._views, strict=True)
        return {part: view.graph for part, view in parts if view.graph is not None}

    def use_graphs(self, graphs: Mapping[str, Compiled]) -> None:
        """Run the networks by these graphs, which ``graphs`` of an equal extractor returned; empty is PyTorch."""
        for part, view in zip(self.networks, self._views, strict=True):
            view.graph = graphs[part] if graphs else None
        self.runtime = "onnx" if graphs else "torch"

    def _make_graphs(self) -> dict[str, Compiled]:
        refuse_elsewhere(self.device)
        side = max(view.transform.resize for view in self._views)
        black = self.prepare([torch.zeros(3, side, side, dtype=torch.uint8)] * len(self.frames))
        graphs = {}
        for (part, network), view, clip in zip(self.networks.items(), self._views, black, strict=True):
            digest = weights_hash({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
            shape = clip[0].shape if view.is_image else clip.shape
            graphs[part] = compiled(Vectors(network).eval(), shape, digest, type(network).__name__)
        return graphs

    def _agreements(self) -> dict[str, Any]:
        """Return the record of the comparison of the graphs with PyTorch; empty where PyTorch runs the networks."""
        if not self.graphs:
            return {}
        versions = {"torch": torch.__version__, "onnxruntime": runtime_version()}
        return {"runtime_check": {**versions, **{part: g.agreement._asdict() for part, g in self.graphs.items()}}}

    @property
    def takes_flow(self) -> bool:
        """Whether one of the networks reads optical flow."""
        return any(view.transform.input.flow_fields for view in self._views)

    @property
    def tokens_per_second(self) -> float:
        """The rate of the tokens."""
        return self.fps / self.chunk_size

    @property
    def history(self) -> int:
        """The number of frames before a chunk that belong to its window."""
        return max(self.window - self.chunk_size, 0)

    @property
    def span(self) -> int:
        """The number of frames that a token may depend on: those of its chunk and of the history."""
        return self.history + self.chunk_size

    def chunker(self) -> Chunker:
        """Return what collects the slots of one source."""
        return Chunker(self.chunk_size, self.history)

    # -- one chunk, many chunks

    def chunk(self, images: Tensor) -> Tensor:
        """Return the vector (D,) float32, on the CPU, of one chunk's uint8 RGB images (``span``, 3, H, W).

        The images of the history come first.
        """
        if images.shape[:2] != (self.span, 3) or images.ndim != 4 or images.dtype != torch.uint8:
            raise ValueError(
                f"a chunk is uint8 RGB images ({self.span}, 3, H, W); these are {images.dtype} {tuple(images.shape)}"
            )
        return self.compute([self.prepare([images[self.history + frame] for frame in self.frames])])[0]

    def prepare(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return the input of each network for one chunk, on the CPU; ``images`` (3, H, W) are the ``self.frames``."""
        of_frame = dict(zip(self.frames, images, strict=True))
        return [view.transform(stacked([of_frame[i] for i in view.frames]))[0][0] for view in self._views]

    @torch.inference_mode()
    def compute(self, prepared: Sequence[list[Tensor]]) -> Tensor:
        """Return the vectors (N, D), float32 on the CPU, of prepared chunks, which may be of several streams."""
        parts = []
        # TF32 has three digits, and its rounding differs with the batch size.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for number, view in enumerate(self._views):
                parts.append(view(stacked([chunk[number] for chunk in prepared]).to(self.device)).float().cpu())
        vectors = torch.cat(parts, dim=1)
        if vectors.shape[1] != self.dim:
            raise ValueError(f"the networks say they give {self.dim} numbers a chunk and gave {vectors.shape[1]}")
        if not np.isfinite(vectors.numpy()).all():  # a tenth of the time of PyTorch's for one vector
            names = " and ".join(type(view.network).__name__ for view in self._views)
            raise ValueError(f"{names} gave features that are not finite; look at the weights")
        return vectors

    # -- a camera, a file

    def stream(self) -> FeatureStream:
        """Return the tokenizer of one new source, which takes its frames one by one."""
        return FeatureStream(self)

    def plan(self, reader: VideoReader) -> tuple[np.ndarray, list[Take]]:
        """Return the frame numbers of each token of a file, (T, frames read), and its takes that have a token.

        Raises VideoError for a video without a token.
        """
        parts, begun, count = [], [], 0
        whole = takes(reader.times_s, self.longest_gap_s)
        for part in whole:
            end_s = reader.end_s if part.stop == len(reader) else None
            slots = part.start + Clock(self.fps).indices(reader.times_s[part], end_s)
            chunks = self.chunker().indices(slots)[:, [self.history + frame for frame in self.frames]]
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
        """Return every token (T, D) of a file, equal to a stream of its frames; only the frames read are decoded.

        Args:
            progress: called with the finished fraction of the video, 0 to 1.

        Raises VideoError for a video shorter than one chunk.
        """
        numbers, _ = self.plan(reader)
        return torch.cat(list(self.rows(reader, numbers, progress)))

    def rows(
        self, reader: VideoReader, numbers: np.ndarray, progress: Callable[[float], None] | None = None
    ) -> Iterator[Tensor]:
        """Yield tokens of a file in parts (n, D), each when it is computed: of a long video only one part is in memory.

        Args:
            numbers: the frame numbers of each of these tokens, from ``plan``.
            progress: called with the finished fraction, 0 to 1.
        """
        batch = self.file_batch()
        images: dict[int, Tensor] = {}  # of the token before: a frame of two tokens is decoded once
        for start in range(0, len(numbers), batch):
            prepared = []
            for row in numbers[start : start + batch].tolist():
                absent = sorted({number for number in row if number not in images})
                decoded = dict(zip(absent, reader.frames_at(absent).images, strict=True)) if absent else {}
                images = {number: decoded[number] if number in decoded else images[number] for number in row}
                prepared.append(self.prepare([images[number] for number in row]))
            yield self.compute(prepared)
            if progress:
                progress(min(start + batch, len(numbers)) / len(numbers))

    def file_batch(self) -> int:
        """Return the number of chunks of a file that are computed at once."""
        return self.batch

    # -- keeping it

    def record(self) -> dict[str, Any]:
        """Return the networks and settings as plain data: equal records make equal features, but for rounding."""
        parts = {name: network_record(network) for name, network in self.networks.items()}
        return {
            "format": FORMAT,
            "network": parts["network"],
            "flow_network": parts.get("flow_network"),
            "weights_sha256": weights_hash(self.state()),
            "fps": self.fps,
            "chunk": self.chunk_size,
            "tokens_per_second": self.tokens_per_second,
            "frames": [view.frames for view in self._views],
            "dim": self.dim,
            "crops": 1,
            "flow_method": self.flow_method if self.takes_flow else None,
            "decoder": self.decoder,
            # absent, as in older records, where every pause is filled
            **({} if self.longest_gap_s is None else {"longest_gap_s": self.longest_gap_s}),
            # absent, as in older records, where the window is the chunk
            **({} if self.window == self.chunk_size else {"window": self.window}),
            "runtime": self.runtime,
            **self._agreements(),
        }

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU; a detector's checkpoint has them with the prefix "extractor."."""
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
        runtime: str = "torch",
    ) -> FeatureExtractor:
        """Return the extractor whose ``record()`` and ``state(prefix)`` are given; other tensors are ignored.

        Args:
            trust: packages outside vidact whose builders may run.
            runtime: as in ``run_in``; "auto" is the runtime in the record. An int8 extractor runs in ONNX Runtime.
        """
        refuse_runtime(runtime)
        if (content := tensors.get(f"{prefix}{GRAPH}")) is not None:
            return _exported(content, record, device)
        facts = FeaturesRecord.from_dict(record, "the features record")
        if facts.format > FORMAT:
            raise ValueError(
                f"the features record has format {facts.format} and this vidact reads up to {FORMAT}; "
                "install a newer one"
            )
        absent = [key for key in ("network", "weights_sha256", "fps", "chunk", "frames", "decoder") if key not in facts]
        if absent:
            raise ValueError(
                f"the features record lacks {', '.join(absent)}; give what FeatureExtractor.record() wrote"
            )
        networks: dict[str, nn.Module] = {}
        for part in ("network", "flow_network"):
            with blamed("the features record"):
                described = facts.network(part)
                if described is None:
                    continue
                start = f"{prefix}{part}."
                state = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
                network = build_for(state, described.recipe, trust, "the extractor's state")
                load_strictly(network, state, source="the extractor's state")
                attach(network, input=ClipInput(**described.input))
            networks[part] = network
        with blamed("the features record"):
            extractor = FeatureExtractor(
                networks["network"],
                facts.fps,
                facts.chunk,
                facts.frames[0][0] if isinstance(networks["network"], Backbone) else None,
                networks.get("flow_network"),
                facts.flow_method,
                facts.decoder,
                device,
                batch,
                facts.longest_gap_s,
                facts.window,
            )
        checked = ("weights_sha256", "frames", "dim")
        actual = extractor.record()
        if different := differences({key: facts.get(key) for key in checked}, {key: actual[key] for key in checked}):
            raise ValueError(f"this is not the extractor of the record: {'; '.join(different)} (the record's first)")
        if runtime != "torch":
            extractor.run_in(runtime, facts.runtime)
        return extractor

    def save(self, path: str | Path) -> None:
        """Write record and tensors to one .safetensors file, which ``open`` reads."""
        text = json.dumps(Record(extractor=FeaturesRecord(self.record())).to_dict())
        with replacing(path) as half:
            half.write_bytes(safetensors.torch.save(self.state(), metadata={"vidact": text}))

    @staticmethod
    def open(
        path: str | Path,
        device: str | torch.device | None = None,
        batch: int | None = None,
        trust: Iterable[str] = (),
        runtime: str = "torch",
    ) -> FeatureExtractor:
        """Open the extractor in a file that ``save`` wrote, or in a folder of features (its extractor.safetensors).

        An .onnx of an int8 extractor is opened, too; one in single precision is for ``vidact.export.open_onnx``.
        """
        path = Path(path)
        if path.suffix == ".onnx":
            return _int8_file(path, device)
        if path.is_dir():
            path = path / EXTRACTOR
        tensors, record = read(path)
        if record is None or record.extractor is None:
            raise ValueError(f"{path} holds no feature extractor; give the {EXTRACTOR} of a folder of features")
        with blamed(path):
            return FeatureExtractor.load(
                record.extractor, tensors, device=device, batch=batch, trust=trust, runtime=runtime
            )


class OnnxExtractor(FeatureExtractor):
    """A feature extractor whose networks run in onnxruntime; its record is that of the extractor it was exported from.

    The steps before the networks (clock, resizing, cropping, normalisation, optical flow) are ``FeatureExtractor``'s.
    The record of an int8 extractor also has the entry ``int8``, with the loss that was measured when it was made, and
    its ``state`` is the graph itself, as bytes: so it is kept wherever the tensors of another extractor are.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        graph.record.require("features")
        record = graph.record.features or FeaturesRecord({})
        self._graph, self._record = graph, record
        self._file_batch: int | None = None
        networks: list[nn.Module] = []
        for part, facts in zip(("network", "flow_network"), graph.facts.inputs, strict=False):
            described = record.network(part)
            if described is None:
                raise KeyError(part)
            kind = ImageFacts if facts.is_image else ClipFacts
            networks.append(kind(ClipInput(**described.input), facts.dim))
        super().__init__(
            networks[0],
            record.fps,
            record.chunk,
            record.frames[0][0] if isinstance(networks[0], Backbone) else None,
            networks[1] if len(networks) > 1 else None,
            record.flow_method,
            record.decoder,
            "cpu",
            longest_gap_s=record.longest_gap_s,
            window=record.window,
        )
        self.runtime = "onnx"
        if (frames := [view.frames for view in self._views]) != record.frames:
            raise ValueError(
                f"{graph.name} looks at the frames {record.frames} of a chunk, and this vidact would show it "
                f"{frames}: export it again"
            )

    @property
    def takes_pixels(self) -> bool:
        """Whether the graph of an image network normalises the pixels itself."""
        return PIXELS in self._graph.inputs

    @property
    def normalisation(self) -> tuple[Tensor, Tensor] | None:
        """The factor and the offset of each channel of an image network on RGB, (C,); None for other networks."""
        view = self._views[0]
        clip_input = view.transform.input
        if len(self._views) > 1 or not view.is_image or clip_input.flow_fields or images_per_index(clip_input) > 1:
            return None
        return view.transform.normalisation

    def prepare(self, images: Sequence[Tensor]) -> list[Tensor]:
        return self.pixels(images) if self.takes_pixels else super().prepare(images)

    def pixels(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return what ``prepare`` does, before it is normalised."""
        of_frame = dict(zip(self.frames, images, strict=True))
        return [view.transform.pixels(stacked([of_frame[i] for i in view.frames])) for view in self._views]

    def inputs(self, prepared: Sequence[list[Tensor]]) -> dict[str, Tensor]:
        """Return the inputs of the graph by name for prepared chunks."""
        if self.takes_pixels:
            return {PIXELS: torch.stack([chunk[0][0].permute(1, 2, 0) for chunk in prepared])}
        inputs = {}
        for number, facts in enumerate(self._graph.facts.inputs):
            parts = [chunk[number] for chunk in prepared]
            clips = parts[0][None] if len(parts) == 1 else torch.stack(parts)  # (N, T, C, H, W); one needs no copy
            inputs[facts.input] = clips[:, 0] if facts.is_image else clips
        return inputs

    def compute(self, prepared: Sequence[list[Tensor]]) -> Tensor:
        vectors = self._graph.run(self.inputs(prepared))["features"]
        if not np.isfinite(vectors.numpy()).all():
            raise ValueError(f"{self._graph.name} gave features that are not finite; look at the weights")
        return vectors

    def file_batch(self) -> int:
        """Return ``INT8_BATCH`` for an int8 image network where that changes no bit on this machine, else 1.

        The sums of a layer in int8 are whole numbers, so they do not depend on the other images of a batch; a layer in
        single precision may round otherwise. It is measured once, with random images.
        """
        if self._file_batch is None:
            self._file_batch = 1
            if self.is_int8 and self.takes_pixels:
                side = self._views[0].transform.input.size
                generator = torch.Generator().manual_seed(0)
                size = (INT8_BATCH, side, side, 3)
                pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
                single = torch.cat([self._graph.run({PIXELS: image})["features"] for image in pixels.split(1)])
                counts = range(2, INT8_BATCH + 1)
                batches = (self._graph.run({PIXELS: pixels[:count]})["features"] for count in counts)
                if all(torch.equal(rows, single[: len(rows)]) for rows in batches):
                    self._file_batch = INT8_BATCH
        return self._file_batch

    def run_in(self, runtime: str, earlier: str | None = None) -> None:
        refuse_runtime(runtime)
        if runtime not in ("auto", "onnx"):
            raise ValueError(
                f"the runtime is {runtime}, but {self._graph.name} runs in ONNX Runtime; leave the runtime out"
            )

    def use_graphs(self, graphs: Mapping[str, Compiled]) -> None:
        if graphs:
            raise ValueError(f"{self._graph.name} is itself a graph and runs no other")

    def record(self) -> dict[str, Any]:
        return self._record.to_dict()

    @property
    def is_int8(self) -> bool:
        """Whether the graph computes with whole numbers of 8 bits."""
        return self._record.int8 is not None

    @property
    def content(self) -> bytes:
        """The bytes of the .onnx file."""
        return self._graph.content

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        if not self.is_int8:
            raise ValueError("an exported extractor has no tensors to keep; keep its .onnx file")
        return {f"{prefix}{GRAPH}": torch.from_numpy(np.frombuffer(self.content, dtype=np.uint8).copy())}


def _refuse_device(device: str | torch.device | None, name: str) -> None:
    if device is not None and torch.device(device).type != "cpu":
        raise ValueError(f"device is {device}, but {name} is int8, which computes on the CPU; choose the device cpu")


def _exported(content: Tensor, record: Mapping[str, Any], device: str | torch.device | None) -> OnnxExtractor:
    """Return the int8 extractor whose graph is kept among the tensors of a file, as bytes."""
    name = "the graph of the features record"
    _refuse_device(device, "the extractor")
    if content.dtype != torch.uint8 or content.ndim != 1:
        raise ValueError(f"{name} is {content.dtype} {tuple(content.shape)}, not the bytes of an .onnx file")
    extractor = OnnxExtractor(OnnxGraph(content.numpy().tobytes(), name))
    shared = {key: value for key, value in extractor.record().items() if key in record}
    if different := differences({key: record[key] for key in shared}, shared):
        raise ValueError(f"this is not the extractor of the record: {'; '.join(different)} (the record's first)")
    return extractor


def _int8_file(path: Path, device: str | torch.device | None) -> OnnxExtractor:
    """Return the int8 extractor in an .onnx file."""
    graph = OnnxGraph.open(path)
    with blamed(graph.name):
        kind = graph.facts.kind
        if kind == "step" and (carried := graph.carried()) is not None:
            graph, kind = carried, carried.facts.kind
    if kind != "extractor":
        raise ValueError(f"{path} holds no feature extractor; export one with --what extractor")
    extractor = OnnxExtractor(graph)
    if not extractor.is_int8:
        raise ValueError(
            f"{path} is an exported extractor in single precision. Name the extractor.safetensors or the network that "
            "it was exported from: in the runtime onnx it computes the same"
        )
    _refuse_device(device, str(path))
    return extractor


class FeatureStream:
    """The tokens of one source, frame by frame: call ``push`` until the source ends, then ``finish``.

    A token is returned when its chunk is complete; its time is the beginning of the chunk, in the source's own seconds.
    After a pause that is too long to be filled, a new chunk begins with the next frame.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self._clock, self._chunker = Clock(extractor.fps), extractor.chunker()
        self._shape: torch.Size | None = None
        self._last_s: float | None = None

    def push(self, time_s: float, image: Tensor) -> list[tuple[float, Tensor]]:
        """Add a uint8 RGB frame (3, H, W); return the tokens (seconds, vector (D,)) that it completes."""
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
            self._clock, self._chunker = Clock(self.extractor.fps), self.extractor.chunker()
        self._last_s = time_s
        return before + self._tokens(self._clock.push(time_s, image))

    def finish(self, end_s: float | None = None) -> list[tuple[float, Tensor]]:
        """End the source; return the tokens that its last slots complete. An incomplete chunk makes none.

        Args:
            end_s: the end of its last frame in seconds (``VideoReader.end_s``); None where it is unknown (a camera).
        """
        return self._tokens(self._clock.finish(end_s))

    def _tokens(self, slots: list[Slot]) -> list[tuple[float, Tensor]]:
        tokens, history = [], self.extractor.history
        for slot in slots:
            if span := self._chunker.push(slot):
                prepared = self.extractor.prepare([span[history + frame].image for frame in self.extractor.frames])
                tokens.append((span[history].time_s, self.extractor.compute([prepared])[0]))
        return tokens
