"""Extractors by the name of their image network, or from a file that vidact saved."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vidact.models
from vidact import hub
from vidact.features.choices import CHUNK, FPS
from vidact.features.extractor import IMAGE_BACKBONES, FeatureExtractor
from vidact.models import backbones
from vidact.models.backbones import Backbone, for_modality
from vidact.models.weights import builder, is_builder, is_vidact_file, load, read
from vidact.video import LONGEST_GAP_S


@builder
def image_backbone(
    name: str, weights: str | None, size: int | None = None, modality: str = "rgb", flow_fields: int = 5
) -> Backbone:
    """Build an image network by its name; the name and the other arguments are its recipe.

    Args:
        name: one of ``IMAGE_BACKBONES``, or "timm/" and a name of timm.
        weights: "imagenet", a local file, or None.
        size: crop side in pixels; None is the network's own.
        modality: "rgb", or "flow" for ``flow_fields`` consecutive fields.
        flow_fields: consecutive flow fields; used only with modality "flow".
    """
    options: dict[str, Any] = {} if size is None else {"size": size}
    if name.startswith("timm/"):
        return for_modality(backbones.timm_backbone(name.removeprefix("timm/"), weights, size), modality, flow_fields)
    return for_modality(IMAGE_BACKBONES[name](weights, **options), modality, flow_fields)


def build_network(
    name: str, weights: str | None = "default", size: int | None = None, modality: str = "rgb", flow_fields: int = 5
) -> nn.Module:
    """Build a network that computes features.

    Args:
        name: an image network (``IMAGE_BACKBONES``, "timm/…"), a clip network of ``vidact.models``, a published one
            (``vidact.hub.PUBLISHED``), or the file of a trained one: a run's .ckpt, a .safetensors, or an address of
            the hub (``hf://owner/name``).
        weights: "default" for the published file where the name has one, else for the default of the network's
            function (ImageNet, Kinetics); another name or local file that the function accepts, or None. Weights that
            are not loaded are random and the same in every run.
        size: crop side in pixels; None is the network's own.
        modality: "rgb" or "flow".
        flow_fields: consecutive fields that a flow network reads.
    """
    if hub.is_address(name) or Path(name).suffix in (".ckpt", ".safetensors") or Path(name).is_file():
        if weights != "default" or size is not None:
            option = f"weights={weights!r}" if weights != "default" else f"size={size}"
            raise ValueError(f"{name} is a trained network and brings its own; leave {option} out")
        return load(name)
    if weights is not None and is_vidact_file(weights := str(hub.local(weights))):
        raise ValueError(
            f"{weights} is a trained network, not a backbone's weights; give it as the network: {weights!r}"
        )
    if (published := hub.named(name)) is not None:
        if weights == "default":
            weights = str(hub.fetch(published))
        elif name != published.network:
            raise ValueError(f"{name} is a published network and brings its own; leave weights={weights!r} out")
        name = published.network
    arguments: dict[str, Any] = {"weights": weights, "size": size, "modality": modality, "flow_fields": flow_fields}
    build: Callable[..., nn.Module]
    function: Any
    if name in IMAGE_BACKBONES or name.startswith("timm/"):
        build, arguments["name"] = image_backbone, name
        if weights == "default":
            function = IMAGE_BACKBONES.get(name, backbones.timm_backbone)
            arguments["weights"] = inspect.signature(function).parameters["weights"].default
    else:
        function = getattr(vidact.models, name, None)
        if not is_builder(function) or "num_classes" not in inspect.signature(function).parameters:
            clip_networks = [each for each in vidact.models.__all__ if each.startswith(("tsn", "tsm", "x3d"))]
            names = [*IMAGE_BACKBONES, *clip_networks]
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"network {name!r} is neither a file nor a name; {hint}There are {', '.join(IMAGE_BACKBONES)}, "
                "timm/<a name there>, and the clip networks of vidact.models"
            )
        build, arguments["num_classes"] = function, 1  # features do not use the classifier
        if weights == "default":
            del arguments["weights"]
        if size is None:
            del arguments["size"]
    parameters = inspect.signature(build).parameters
    if modality == "rgb":
        del arguments["modality"], arguments["flow_fields"]
    if unknown := sorted(set(arguments) - set(parameters)):
        raise ValueError(f"network {name!r} takes no {', '.join(unknown)}; it takes {', '.join(parameters)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reset the GPU's generator, too
        return build(**arguments)


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
    window: int | None = None,
    runtime: str = "torch",
) -> FeatureExtractor:
    """Build an extractor from names and files: ``build_network`` for each network, the rest as in ``FeatureExtractor``.

    A flow network with a name reads all ``chunk - 1`` flow fields of a chunk. ``network`` may also be the
    extractor.safetensors of a folder of features, or an int8 .onnx of ``vidact.export``, which determine everything but
    ``device``, ``batch`` and ``runtime``.
    """
    settings = {
        name: value for name, value in locals().items() if name not in ("network", "device", "batch", "runtime")
    }
    network = str(hub.local(network))
    if _is_extractor(network) or Path(network).suffix == ".onnx":
        parameters = inspect.signature(build_extractor).parameters
        if changed := [f"{name} {value}" for name, value in settings.items() if value != parameters[name].default]:
            raise ValueError(f"{network} is a whole extractor and brings its own; leave out {', '.join(changed)}")
        return FeatureExtractor.open(network, device, batch, runtime=runtime)
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
        window,
        runtime,
    )


def _is_extractor(network: str) -> bool:
    path = Path(network)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    record = read(path)[1]
    return record is not None and record.extractor is not None
