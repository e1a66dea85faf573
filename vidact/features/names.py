"""Extractors by the name of their image network, or from a file that vidact saved."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vidact.models
from vidact.features.choices import CHUNK, FPS
from vidact.features.extractor import IMAGE_BACKBONES, FeatureExtractor
from vidact.models import backbones
from vidact.models.backbones import Backbone, for_modality
from vidact.models.weights import builder, is_vidact_file, load, read
from vidact.video import (
    LONGEST_GAP_S,
)

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
    fps: float = FPS,
    chunk: int = CHUNK,
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
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    record = read(path)[1]
    return record is not None and record.extractor is not None
