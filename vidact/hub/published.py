"""Published networks by name: the address of each file, and the record of its network.

A name of ``PUBLISHED`` can be used wherever a checkpoint can; ``vidact.models.weights`` builds its network from the
file that ``vidact.hub.fetch`` returns.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidact.hub.cache import folder
from vidact.text.layouts import CLIPS

# ---------------------------------------------------------------------------------------------- the table

CLASS_LISTS = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "kinetics700": "Kinetics-700",
    "something_v2": "Something-Something V2",
    "diving48": "Diving48",
}


# Frames a second of the videos of a data set, in which strides are counted; 30 elsewhere.
VIDEO_FPS = {"something_v2": 12.0}


@cache
def class_names(name: str) -> tuple[str, ...]:
    """Return the classes of a list of ``CLASS_LISTS``, in the order of the outputs of published networks."""
    if name not in CLASS_LISTS:
        raise ValueError(f"there is no class list {name!r}; the lists are {', '.join(CLASS_LISTS)}")
    text = (Path(__file__).parents[1] / "text" / "classes" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def dense(frames: int, stride: int) -> dict[str, Any]:
    """Return the record of a sampler of ``frames`` consecutive frames, each ``stride`` after the one before."""
    return {"name": "DenseSampler", "arguments": {"num_frames": frames, "stride": stride, "short": "repeat"}}


def spread(frames: int) -> dict[str, Any]:
    """Return the record of a sampler of ``frames`` frames over the whole video."""
    return {"name": "SegmentSampler", "arguments": {"num_segments": frames, "segment_length": 1}}


@dataclass(frozen=True)
class Published:
    """A network with published weights.

    Args:
        name: its name wherever a checkpoint is.
        network: the function of ``vidact.models`` that builds it.
        origin: the layout of its file, one of ``vidact.text.layouts.REFERENCES``.
        address: the address of its file.
        megabytes: the size of the file in millions of bytes, approximately.
        classes: the list of its classes, one of ``CLASS_LISTS``.
        licence: the licence of the weights.
        source: the page that the figure comes from.
        figure: top-1 accuracy in percent as published, and the clips x crops that it is a mean of; "" where unknown.
        sampling: the record of its sampler; None is the rule of ``vidact.text.layouts.CLIPS``.
        sha256: the first digits of the file's SHA-256, as far as published.
        options: arguments of the layout's function besides the tensors and ``num_classes``.
        streams: whether it answers frame by frame.
        clip_s: the seconds over which ``sampling`` spread its frames in training; None where clips had any length.
    """

    name: str
    network: str
    origin: str
    address: str
    megabytes: float
    classes: str
    licence: str
    source: str
    figure: str = ""
    sampling: Mapping[str, Any] | None = None
    sha256: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    streams: bool = False
    clip_s: float | None = None

    @property
    def sampler(self) -> dict[str, Any]:
        """The record of the sampler of its frames."""
        return dense(*CLIPS[self.network]) if self.sampling is None else dict(self.sampling)

    @property
    def window(self) -> tuple[int, float] | None:
        """The frames of a clip in training, and how many of them made a second.

        None where they were spread over clips of any length.
        """
        sampler = self.sampler
        arguments = sampler["arguments"]
        if sampler["name"] == "DenseSampler":
            return arguments["num_frames"], VIDEO_FPS.get(self.classes, 30.0) / arguments["stride"]
        return None if self.clip_s is None else (arguments["num_frames"], arguments["num_frames"] / self.clip_s)

    @property
    def is_for_research(self) -> bool:
        """Whether the licence excludes commercial use."""
        return "NC" in self.licence

    @property
    def path(self) -> Path:
        """The file in the cache, which may be absent."""
        return folder() / f"{self.name}{Path(urlsplit(self.address).path).suffix}"


def _of_torchvision(name: str, file: str, megabytes: float, figure: str) -> Published:
    """Return a network of torchvision, whose file names end in the first digits of the file's SHA-256."""
    return Published(
        name,
        name,
        "torchvision",
        f"https://download.pytorch.org/models/{file}.pth",
        megabytes,
        "kinetics400",
        "BSD-3-Clause (torchvision)",
        "https://docs.pytorch.org/vision/stable/models.html",
        figure,
        sha256=file.rpartition("-")[2],
        options={"network": name},
    )


def _of_pytorchvideo(name: str, file: str, megabytes: float, figure: str) -> Published:
    return Published(
        name,
        name,
        "pytorchvideo",
        f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file}.pyth",
        megabytes,
        "kinetics400",
        "Apache-2.0 (pytorchvideo)",
        "https://github.com/facebookresearch/pytorchvideo/blob/main/docs/source/model_zoo.md",
        figure,
        options={"network": name},
    )


def _of_videomae(
    name: str, repository: str, revision: str, file: str, megabytes: float, classes: str, figure: str
) -> Published:
    return Published(
        name,
        name.removesuffix("_something_v2"),
        "videomae",
        f"https://huggingface.co/MCG-NJU/{repository}/resolve/{revision}/{file}",
        megabytes,
        classes,
        "CC-BY-NC-4.0",
        "https://github.com/MCG-NJU/VideoMAE/blob/main/MODEL_ZOO.md",
        figure,
        spread(16) if classes == "something_v2" else None,
    )


def _of_vjepa2(
    name: str, repository: str, revision: str, megabytes: float, classes: str, figure: str, clip: tuple[int, int]
) -> Published:
    return Published(
        name,
        name.removesuffix("_diving48"),
        "vjepa2",
        f"https://huggingface.co/facebook/{repository}/resolve/{revision}/model.safetensors",
        megabytes,
        classes,
        "MIT",
        "https://github.com/facebookresearch/vjepa2",
        figure,
        dense(*clip),
    )


def _of_movinet(name: str, file: str, megabytes: float, frames: int, figure: str) -> Published:
    return Published(
        name,
        name,
        "movinet",
        f"https://github.com/Atze00/MoViNet-pytorch/raw/c2d1edf48fc6c5259707f9d833f22171b4f63493/weights/{file}",
        megabytes,
        "kinetics600",
        "MIT (MoViNet-pytorch)",
        "https://github.com/Atze00/MoViNet-pytorch",
        figure,
        {"name": "UniformSampler", "arguments": {"num_frames": frames}},
        options={"size": name.split("_")[1], "stream": name.endswith("_stream")},
        streams=name.endswith("_stream"),
        clip_s=10.0,
    )


# The addresses are those of torchvision's and pytorchvideo's own tables, and of files of the hub at a fixed revision.
PUBLISHED: dict[str, Published] = {
    entry.name: entry
    for entry in (
        _of_pytorchvideo("x3d_xs", "X3D_XS", 31, "69.12 (10x3)"),
        _of_pytorchvideo("x3d_s", "X3D_S", 31, "73.33 (10x3)"),
        _of_pytorchvideo("x3d_m", "X3D_M", 31, "75.94 (10x3)"),
        _of_pytorchvideo("x3d_l", "X3D_L", 50, "77.44 (10x3)"),
        _of_pytorchvideo("slow_r50", "SLOW_8x8_R50", 260, "74.58 (10x3)"),
        _of_pytorchvideo("c2d_r50", "C2D_8x8_R50", 195, "71.46 (10x3)"),
        _of_pytorchvideo("i3d_r50", "I3D_8x8_R50", 225, "73.27 (10x3)"),
        _of_pytorchvideo("csn_r101", "CSN_32x2_R101", 178, "77.00 (10x3)"),
        _of_pytorchvideo("r2plus1d_r50", "R2PLUS1D_16x4_R50", 225, "76.01 (10x3)"),
        _of_pytorchvideo("slowfast_r50", "SLOWFAST_8x8_R50", 277, "76.94 (10x3)"),
        _of_pytorchvideo("slowfast_r101", "SLOWFAST_8x8_R101", 503, "77.90 (10x3)"),
        _of_torchvision("r3d_18", "r3d_18-b3b3357e", 134, "63.20 (5x1)"),
        _of_torchvision("mc3_18", "mc3_18-a90a0ba3", 47, "63.96 (5x1)"),
        _of_torchvision("r2plus1d_18", "r2plus1d_18-91a641e6", 126, "67.46 (5x1)"),
        _of_torchvision("s3d", "s3d-d76dad2f", 34, "68.37 (1x1)"),
        _of_torchvision("mvit_v1_b", "mvit_v1_b-dbeb1030", 147, "78.48 (5x1)"),
        _of_torchvision("mvit_v2_s", "mvit_v2_s-ae3be167", 138, "80.76 (5x1)"),
        _of_torchvision("swin3d_t", "swin3d_t-7615ae03", 127, "77.72 (4x3)"),
        _of_torchvision("swin3d_s", "swin3d_s-da41c237", 229, "79.52 (4x3)"),
        _of_torchvision("swin3d_b", "swin3d_b_1k-24f7c7c6", 382, "79.43 (4x3)"),
        _of_movinet("movinet_a0_stream", "modelA0_stream_statedict_v3", 15, 50, "72.05"),
        _of_movinet("movinet_a1_stream", "modelA1_stream_statedict_v3", 26, 50, "76.45"),
        _of_movinet("movinet_a2_stream", "modelA2_stream_statedict_v3", 30, 50, "78.40"),
        _of_movinet("movinet_a0_base", "modelA0_statedict_v3", 13, 50, "72.28"),
        _of_movinet("movinet_a1_base", "modelA1_statedict_v3", 19, 50, "76.69"),
        _of_movinet("movinet_a2_base", "modelA2_statedict_v3", 21, 50, "78.62"),
        _of_movinet("movinet_a3_base", "modelA3_statedict_v3", 30, 120, "81.79"),
        _of_movinet("movinet_a4_base", "modelA4_statedict_v3", 46, 80, "83.48"),
        _of_movinet("movinet_a5_base", "modelA5_statedict_v3", 75, 120, "84.27"),
        _of_videomae(
            "videomae_small",
            "videomae-small-finetuned-kinetics",
            "1bf2b82c809609f5df1ea7648aee577e2e486b63",
            "pytorch_model.bin",
            88,
            "kinetics400",
            "79.0 (5x3)",
        ),
        _of_videomae(
            "videomae_base",
            "videomae-base-finetuned-kinetics",
            "422e706f9bc75d3d20e9722cb81f8c8d1da76224",
            "pytorch_model.bin",
            346,
            "kinetics400",
            "80.9 (5x3)",
        ),
        _of_videomae(
            "videomae_large",
            "videomae-large-finetuned-kinetics",
            "0f6adcd5f6902900aa0281f9daacfe52bb3c4ad4",
            "model.safetensors",
            1217,
            "kinetics400",
            "84.7 (5x3)",
        ),
        _of_videomae(
            "videomae_huge",
            "videomae-huge-finetuned-kinetics",
            "fb1e058bba7d50fb2be1a6823721ec35d6740834",
            "pytorch_model.bin",
            2528,
            "kinetics400",
            "",
        ),
        _of_videomae(
            "videomae_base_something_v2",
            "videomae-base-finetuned-ssv2",
            "873e7dfcd91479c8e10d75f7e402573dbdb6f98e",
            "pytorch_model.bin",
            346,
            "something_v2",
            "70.6 (2x3)",
        ),
        _of_vjepa2(
            "vjepa2_large",
            "vjepa2-vitl-fpc16-256-ssv2",
            "4aa02df83918538fc21cfaf576382fa20e489a80",
            1502,
            "something_v2",
            "73.7 (2x3)",
            (16, 4),
        ),
        _of_vjepa2(
            "vjepa2_giant",
            "vjepa2-vitg-fpc64-384-ssv2",
            "9f5fd615cb6f79065a28edcf1cc3ef25010dddfa",
            4512,
            "something_v2",
            "77.3 (2x3)",
            (64, 2),
        ),
        _of_vjepa2(
            "vjepa2_large_diving48",
            "vjepa2-vitl-fpc32-256-diving48",
            "71ae2a8b1ff5a297aeeaae9b5e64c7a2e5e6a633",
            1501,
            "diving48",
            "89.0 (4x3)",
            (32, 2),
        ),
        _of_vjepa2(
            "vjepa2_giant_diving48",
            "vjepa2-vitg-fpc32-384-diving48",
            "0b48243375319bd8e03e3cd5560d957095429189",
            4511,
            "diving48",
            "90.2 (4x3)",
            (32, 2),
        ),
    )
}

# ---------------------------------------------------------------------------------------------- names


def named(path: str | Path) -> Published | None:
    """Return the published network of this name; None for a path, also where a file has a network's name."""
    entry = PUBLISHED.get(str(path))
    return None if entry is None or Path(path).is_file() else entry


def advice(path: str | Path, networks: Collection[str] = ()) -> str:
    """Return the end of the sentence "there is no file …" where the path may be a misspelt name; else "".

    Args:
        networks: the functions of ``vidact.models``.
    """
    name = str(path)
    if page := re.match(
        r"(?:https?:/{1,2})?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)"
        r"(?:/(?:tree|blob|resolve)/([^/?#]+)(/[^?#]+)?)?",
        name,
    ):
        repository, revision, file = page.groups("")
        at = f"@{revision}{file}" if file or revision not in ("", "main") else ""
        return f". A repository of the hub is written hf://{repository}{at}"
    if re.fullmatch(r"[A-Za-z][\w-]*", name) is None:
        return ""
    listing = "`vidact networks --published` lists the names that have weights"
    if name in networks:
        return (
            f". {name} is a network of vidact, but no weights are published under its name: train it, or convert a "
            f"file (vidact convert). {listing}"
        )
    plain = name.lower().replace("-", "_")
    close = difflib.get_close_matches(plain, PUBLISHED, 3, cutoff=0.6)
    question = f"; did you mean {' or '.join(close)}?" if close else "."
    return f" and no published network of this name{question} {listing}"
