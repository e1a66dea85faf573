"""The table of ``vidact networks``: paper, cost, reach, converters and parity of every clip network.

Nothing in the table is typed: papers come from the docstrings, parameters and multiply-adds from networks without
numbers (on the meta device), the temporal reach from changing one frame and comparing the outputs, parity from the
published outputs where their records are at hand.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vidact.models
from vidact.convert import CLIPS, SEGMENTS
from vidact.models.bn_inception import ImageClassifier
from vidact.models.offline import OfflineNetwork
from vidact.models.online import OnlineOutput
from vidact.models.tsn import TSN
from vidact.models.weights import REFERENCES, from_reference, is_builder, recipe_of

NUM_CLASSES = 400  # as many as Kinetics has
LONGEST = 320  # frames that are tried to find a network's reach; that of the deepest TDN is more than 79
PROBE_SIZE = {"inception": 64}  # pixels a side, by a part of the name; all other networks are probed with 32

TITLE = """# Networks

Computed by `vidact networks --out docs/networks.md` (with `--parity FOLDER` for the last column): 400 classes, random
weights, the size and the clip length that each network is published with.

* **GMACs** are billions of multiply-adds of one view.
* **Reach** is how many frames the answer of one frame depends on, and **delay** how many of them come after it: found
  by changing one frame and looking which answers change. "all" means that an answer depends on every frame before it;
  "clip" that there is one answer for the whole clip, or that each depends on all of it.
* **Converter** names the layouts of published files that `vidact convert --origin` reads into this network.
* **Parity** is the largest difference from what the published code computes, relative to max(1, the largest output);
  where published outputs are at hand for a part of the network only, the part is named. The second table has them all.

[Offline networks](offline.md) are in the second table only, with the layouts that `vidact convert --origin` reads.

"""


Structure = tuple[tuple[str, type], ...]  # every module's name and class, which decide what is computed


@dataclass(frozen=True)
class Reach:
    """The frames that one frame's output depends on: their number before it (None: all) and after it."""

    before: int | None
    after: int

    @property
    def frames(self) -> int | None:
        """The number of frames; None where it grows with the video."""
        return None if self.before is None else self.before + 1 + self.after


@dataclass(frozen=True)
class Row:
    """The row of one network; ``reach`` is None where it has outputs for whole clips only.

    ``parity`` has the largest error of each part with published outputs, by the part's name in the network; the whole
    network's is under "".
    """

    network: str
    year: int | None
    paper: str
    parameters: int
    frames: int
    size: int
    gmacs: float
    reach: Reach | None
    converters: tuple[str, ...]
    parity: dict[str, float]

    @property
    def is_causal(self) -> bool:
        return self.reach is not None and self.reach.after == 0


@dataclass(frozen=True)
class Record:
    """A published output, and how near the network with the published tensors comes to it.

    ``error`` and ``tolerance`` are relative to max(1, the largest output). ``structure`` has the network's, and that of
    its backbone where the network processes single images.
    """

    name: str
    origin: str
    network: str
    error: float
    tolerance: float
    structure: tuple[Structure, ...]


def clip_networks() -> list[str]:
    """Return the names of the clip networks' builders, except the tiny ones and those that need a name or no clip."""
    names = []
    for name in vidact.models.__all__:
        function = getattr(vidact.models, name)
        if not is_builder(function) or "tiny" in name:
            continue
        parameters = str(inspect.signature(function).parameters.keys())
        if "feature_dim" in parameters or name in (
            "bn_inception_classifier",
            "attentive_probe",
            "clip_probe",
            "tsn_timm",
        ):
            continue
        names.append(name)
    return names


def build(name: str, size: int | None = None, **arguments: Any) -> Any:
    """Return a network with random weights, on the default device."""
    function = getattr(vidact.models, name)
    parameters = inspect.signature(function).parameters
    if size is not None and "size" in parameters:
        arguments["size"] = size
    return function(NUM_CLASSES, weights=None, **arguments).eval()


def describe(name: str, records: Sequence[Record] = (), **arguments: Any) -> Row:
    """Return the row of ``vidact.models.<name>(**arguments)``."""
    with torch.device("meta"):
        network = build(name, **arguments)
    frames = CLIPS[name][0] if name in CLIPS else network.input.frames or network.input.published_frames or SEGMENTS
    year, paper = paper_of(getattr(vidact.models, name))
    label = name + "".join(f", {value}" for value in arguments.values())
    return Row(
        network=label,
        year=year,
        paper=paper,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        frames=frames,
        size=network.input.size,
        gmacs=giga_macs(network, frames),
        reach=find_reach(name, **arguments),
        converters=converters_of(name),
        parity={} if arguments else parity_of(network, records),
    )


def giga_macs(network: Any, frames: int) -> float:
    """Return the billions of multiply-adds of one view by a network on the meta device: half of what torch counts."""
    clip = torch.empty(1, frames, network.input.channels, network.input.size, network.input.size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(clip)
    return counter.get_total_flops() / 2e9


def paper_of(function: Callable[..., nn.Module]) -> tuple[int | None, str]:
    """Return the year and address of the paper that a function's docstring names, or its file's."""
    pattern = re.compile(r"\([^()]*?((?:19|20)\d\d), (https?://[^\s)]+)\)", re.DOTALL)
    module = sys.modules[function.__module__]
    for text in (inspect.getdoc(function) or "", inspect.getdoc(module) or ""):
        if match := pattern.search(text):
            return int(match[1]), match[2]
    return None, ""


# ---------------------------------------------------------------------------------------------- reach


@torch.no_grad()
def find_reach(name: str, **arguments: Any) -> Reach | None:
    """Measure a network's reach by changing one frame in the middle of longer and longer clips.

    None where it has one output a clip, its weights fix the clip's length, or its reach exceeds ``LONGEST`` frames and
    includes later ones.
    Computed in double precision with fresh weights, so that an influence of many small steps is still a difference.
    """
    size = next((side for part, side in PROBE_SIZE.items() if part in name), 32)
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        with torch.device("meta"):  # large networks that have no reach are not built with numbers
            empty = build(name, size, **arguments)
        if empty.input.frames is not None or not hasattr(empty, "frame_features"):
            return None
        network = build(name, size, **arguments).double()
        for parameter in network.parameters():
            if not parameter.any():  # a weight that starts at zero would hide frames
                nn.init.normal_(parameter, std=0.5)
        frames, never_earlier = 9, False
        while frames <= LONGEST:
            clip = torch.randn(1, frames, network.input.channels, size, size, dtype=torch.float64)
            altered, middle = clip.clone(), frames // 2
            altered[:, middle] = torch.randn_like(altered[:, middle])
            before, after = network.frame_features(clip), network.frame_features(altered)  # (1, T, D)
            if before.shape[1] != frames:
                return None  # frames were pooled, so no output belongs to one frame
            changed = (before != after).any(dim=2)[0].nonzero().flatten()
            first, last = int(changed.min()), int(changed.max())
            if first > 0 and last < frames - 1:
                # the output at `last` depends on a frame before it, that at `first` on a frame after it
                return Reach(before=last - middle, after=middle - first)
            never_earlier = first == middle and last == frames - 1
            frames = 2 * frames + 1
        # Causal with a memory that never ends, or attention over the whole clip.
        return Reach(before=None, after=0) if never_earlier else None
    finally:
        torch.random.set_rng_state(generator_state)


# ---------------------------------------------------------------------------------------------- published weights


def converters_of(name: str) -> tuple[str, ...]:
    """Return the layouts of published files that are read into the network."""
    origins = []
    for origin, location in REFERENCES.items():
        module = importlib.import_module(location.partition(":")[0])
        source = _source(module, location.partition(":")[2])
        tables = {
            "pytorchvideo": "_OF_PYTORCHVIDEO",
            "slowfast": "_OF_SLOWFAST",
            "torchvision": "_OF_TORCHVISION",
            "videomae": "_OF_VIDEOMAE",
            "vjepa2": "_OF_VJEPA2",
        }
        if origin in tables:
            is_built = name in getattr(module, tables[origin])
        else:
            sizes = getattr(module, "_SIZES", {}) if "_SIZES" in source else {}
            is_built = name in {size.__name__ for size in sizes.values()} or f"{name}(" in source
            if origin.startswith("mmaction2") and name.endswith(("bn_inception", "resnet50_nonlocal")):
                is_built = False  # that layout has neither of these networks
        if is_built:
            origins.append(origin)
    return tuple(origins)


def _source(module: Any, name: str) -> str:
    """Return the text of a function and of its file's private functions that it calls."""
    text, names = "", [name]
    while names:
        text += inspect.getsource(getattr(module, names.pop()))
        called = set(re.findall(r"\b(_\w+)\(", text)) - set(re.findall(r"def (_\w+)\(", text))
        names = [callee for callee in called if inspect.isfunction(getattr(module, callee, None))]
    return text


def read_records(folder: Path) -> list[Record]:
    """Run our networks with the published tensors in ``folder`` and compare with the outputs of the published code.

    Records of layouts that vidact does not read are left out. Those of offline networks are in the folder ``offline``.
    """
    spec = importlib.util.spec_from_file_location("parity_fill", folder / "fill.py")
    if spec is None or spec.loader is None or not (folder / "fill.py").is_file():
        raise FileNotFoundError(f"{folder} has no fill.py; name the folder of the parity records")
    rule: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    records = []
    for path in (*sorted(folder.glob("*.json")), *sorted(folder.glob("offline/*.json"))):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["origin"] not in REFERENCES:
            continue
        fixed = record["fixed_buffers"]
        factors = record.get("multiply", {})
        tensors = {
            key: rule.fill(key, shape) * factors.get(key, 1)
            for key, shape in record["state_dict"].items()
            if key not in fixed
        }
        network: Any = from_reference(record["origin"], tensors, **record["hyperparameters"])
        inputs = [torch.from_numpy(rule.signal(name, shape)) for name, shape in record["inputs"].items()]
        with torch.no_grad():
            if isinstance(network, OfflineNetwork):  # further inputs are for the decoding
                outputs: Any = network(inputs[0], torch.tensor(record["lengths"]))
            else:
                outputs = _named(network(torch.cat(inputs, dim=-1)))
            if "step_logits" in record["outputs"]:
                outputs["step_logits"] = _steps(network, inputs[0])
        error = 0.0
        for name, reference in record["outputs"].items():
            expected = torch.tensor(reference["values"])
            if outputs[name].numel() != expected.numel():
                raise ValueError(
                    f"{path}: {name} has {expected.numel()} values and the network {outputs[name].numel()}"
                )
            difference = (outputs[name].flatten() - expected.flatten()).abs().max()
            error = max(error, float(difference) / max(1.0, float(expected.abs().max())))
        structures = [structure_of(network)]
        if isinstance(network, TSN | ImageClassifier):  # these average what a backbone of images outputs
            structures.append(structure_of(network.backbone))
        recipe = recipe_of(network)
        builder = type(network).__name__ if recipe is None else recipe["builder"].rpartition(".")[2]
        records.append(
            Record(record["name"], record["origin"], builder, error, record.get("tolerance", 1e-4), tuple(structures))
        )
    return records


def _named(output: Tensor | OnlineOutput) -> dict[str, Any]:
    """Return a network's outputs under the names of the records."""
    if not isinstance(output, OnlineOutput):
        return {"logits": output}
    return {"logits": output.logits, "scores": output.logits.softmax(-1), "future_logits": output.future}


def _steps(network: Any, clip: Tensor) -> Tensor:
    """Return the logits (B, T, K) of a clip network after each frame of a clip (B, T, C, H, W)."""
    state, logits = network.initial_state(clip.shape[0], tuple(clip.shape[3:])), []
    for frame in clip.unbind(1):
        after, state = network.step(frame, state)
        logits.append(after)
    return torch.stack(logits, 1)


def structure_of(network: nn.Module) -> Structure:
    return tuple((name, type(module)) for name, module in network.named_modules())


def parity_of(network: nn.Module, records: Sequence[Record]) -> dict[str, float]:
    """Return the largest errors of the records of a network, or of its parts where none is of the whole."""
    largest: dict[str, float] = {}
    for name, part in network.named_modules():
        if name.count(".") > 1 or any(name.startswith(covered) for covered in largest):
            continue
        structure = structure_of(part)
        errors = [record.error for record in records if structure in record.structure and len(structure) > 1]
        if errors:
            largest[name] = max(errors)
    return largest


# ---------------------------------------------------------------------------------------------- the command


def markdown(rows: Iterable[Row]) -> str:
    lines = [
        "| network | year | parameters, M | clip | GMACs | reach | delay | causal | converter | parity |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        year = f"[{row.year}]({row.paper})" if row.year else ""
        reach, delay = (str(row.reach.frames or "all"), str(row.reach.after)) if row.reach else ("clip", "clip")
        converters = " ".join(f"`{origin}`" for origin in row.converters)
        parity = ", ".join(f"{part}: {error:.0e}" if part else f"{error:.0e}" for part, error in row.parity.items())
        lines.append(
            f"| `{row.network}` | {year} | {row.parameters / 1e6:.3f} | {row.frames} × {row.size}² | {row.gmacs:.2f} | "
            f"{reach} | {delay} | {'yes' if row.is_causal else 'no'} | {converters} | {parity} |"
        )
    return "\n".join(lines) + "\n"


def records_table(records: Iterable[Record]) -> str:
    lines = [
        "",
        "## Published outputs",
        "",
        "| record | converter | network | largest difference | allowed |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        lines.append(
            f"| {record.name} | `{record.origin}` | `{record.network}` | {record.error:.0e} | {record.tolerance:.0e} |"
        )
    return "\n".join(lines) + "\n"
