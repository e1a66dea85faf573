"""``vidact convert``: a checkpoint that another repository published → a file that ``vidact.load`` opens.

    vidact convert --origin tsm --file TSM_kinetics_resnet50.pth --out tsm.safetensors --classes classes.txt

Every tensor of the file must find its place and every place its tensor. What the tensors tell (classes, backbone,
modality, frames) is read from their names and shapes; what they do not is asked for. The result says how its pixels are
scaled, cropped and sampled, what its classes are called, and where it comes from.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vidact.data.tables import read_lines
from vidact.models.online import OnlineNetwork
from vidact.models.weights import (
    REFERENCES,
    from_reference,
    input_of,
    load,
    read,
    recipe_of,
    record_of,
    save,
)
from vidact.text.names import plain_name
from vidact.video.sample import ClipSampler, DenseSampler, SegmentSampler
from vidact.video.transform import images_per_index

# Which tensor is the last layer, by its name in one layout or another; the first that matches counts.
LAST_LAYERS = (
    r"^consensus\.classifier\.3\.weight$",
    r"consensus\.fc_fusion_scales\.0\.3\.weight$",
    r"^(cls_head\.)?new_fc\.weight$",
    r"^cls_head\.fc_cls\.weight$",
    r"^(base_model\.)?fc_final\.weight$",
    r"^head\.projection\.weight$",
    r"^blocks\.\d+\.proj\.weight$",
    r"^logits\.conv3d\.weight$",
    r"^head\.1\.weight$",
    r"^classifier\.1\.weight$",
    r"^(base_model\.)?classifier\.weight$",
    r"^head\.weight$",
    r"^(base_model\.)?(fc|last_linear)\.weight$",
)

# Frames and stride of the clips that published weights were trained on, at 30 frames a second: 3-D networks, and those
# 2-D ones that look at a window.
CLIPS = {
    "slowfast_r50": (32, 2),
    "slowfast_r101": (32, 2),
    "slow_r50": (8, 8),
    "c2d_r50": (8, 8),
    "i3d_r50": (8, 8),
    "csn_r101": (32, 2),
    "r2plus1d_r50": (16, 4),
    "x3d_xs": (4, 12),
    "x3d_s": (13, 6),
    "x3d_m": (16, 5),
    "x3d_l": (16, 5),
    "r3d_18": (16, 2),
    "mc3_18": (16, 2),
    "r2plus1d_18": (16, 2),
    "s3d": (128, 2),
    "mvit_v1_b": (16, 4),
    "mvit_v2_s": (16, 4),
    "swin3d_t": (32, 2),
    "swin3d_s": (32, 2),
    "swin3d_b": (32, 2),
    "i3d_inception": (64, 1),
    "videomae_small": (16, 4),
    "videomae_base": (16, 4),
    "videomae_large": (16, 4),
    "videomae_huge": (16, 4),
    "videomae_tiny": (16, 4),
    "vjepa2_large": (16, 4),
    "vjepa2_huge": (64, 2),  # nobody publishes a classifier of it; this is the giant's
    "vjepa2_giant": (64, 2),
    "vjepa2_tiny": (16, 4),
    "mvfnet_resnet50": (8, 8),
    "mvfnet_resnet101": (8, 8),
}

# What the shapes of a detector tell: argument → (the names of a tensor, an axis of it). Where a group of the pattern is
# a number, the argument has a value for each; without an axis it counts the numbers, for each first group where there
# are two.
_LSTR: dict[str, tuple[str, int | None]] = {
    "num_classes": (r"^classifier\.weight$", 0),
    "feature_dims": (r"^feature_head_work\.input_linear\.0\.weight$", 1),
    "model_dim": (r"^feature_head_work\.input_linear\.0\.weight$", 0),
    "feedforward_dim": (r"^dec_modules\.layers\.0\.linear1\.weight$", 0),
    "encoder_queries": (r"^enc_queries\.(\d+)\.weight$", 0),
    "encoder_layers": (r"^enc_modules\.(\d+)\.layers\.(\d+)\.linear1\.weight$", None),
    "decoder_layers": (r"^dec_modules\.layers\.(\d+)\.linear1\.weight$", None),
}
SIZES: dict[str, dict[str, tuple[str, int | None]]] = {
    "miniroad": {
        "num_classes": (r"^f_classification\.0\.weight$", 0),
        "feature_dims": (r"^layer1\.0\.weight$", 1),
        "embedding_dim": (r"^layer1\.0\.weight$", 0),
        "hidden_dim": (r"^gru\.weight_hh_l0$", 1),
    },
    "trn_recurrent": {
        "num_classes": (r"^classifier\.weight$", 0),
        "feature_dims": (r"^feature_extractor\.input_linear\.0\.weight$", 1),
        "hidden_size": (r"^hx_trans\.0\.weight$", 0),
    },
    "oadtr": {
        "num_classes": (r"^classifier\.weight$", 0),
        "feature_dims": (r"^linear_encoding\.weight$", 1),
        "embedding_dim": (r"^linear_encoding\.weight$", 0),
        "window": (r"^position_encoding\.pe\.weight$", 0),  # and one more for the task token
        "num_layers": (r"^encoder\.net\.(\d+)\.fn\.fn\.qkv\.weight$", None),
        "hidden_dim": (r"^encoder\.net\.1\.fn\.fn\.net\.0\.weight$", 0),
        "num_queries": (r"^decoder_cls_token$", 1),
        "decoder_layers": (r"^decoder\.layers\.(\d+)\.conv1\.weight$", None),
        "decoder_hidden_dim": (r"^decoder\.layers\.0\.conv1\.weight$", 0),
    },
    "lstr": _LSTR,
    "testra": _LSTR,
}

SEGMENTS = 8  # of the 2-D networks' clips where neither the file nor the user says


def convert(
    origin: str,
    file: str | Path,
    out: str | Path,
    classes: str | Path | Sequence[str] | None = None,
    sampling: ClipSampler | None = None,
    **hyperparameters: Any,
) -> nn.Module:
    """Write a published checkpoint as a vidact file, and open that again.

    Args:
        origin: the layout of its names, one of ``vidact.models.weights.REFERENCES``.
        file: the checkpoint; nothing in it is executed.
        out: the .safetensors file to write.
        classes: names in the order of the outputs, or a file with one a line; None for what the weights' publisher
            lists (torchvision), else for their numbers.
        sampling: which frames the network sees; None for the rule it was published with.
        hyperparameters: of the layout's function, as ``from_reference`` takes them; those that the tensors tell may be
            left out.

    Returns:
        The network as ``vidact.load(out)`` gives it.
    """
    state_dict, record = read(file)
    if record is not None:
        raise ValueError(f"{file} is a vidact file already; open it with vidact.load")
    function = reference(origin)
    known = arguments_of(function)
    if unknown := sorted(set(hyperparameters) - set(known)):
        raise ValueError(f"origin {origin} takes no {', '.join(unknown)}; it takes {', '.join(known)}")
    told = infer(state_dict, known, origin)
    if "network" in known and "network" not in hyperparameters:
        raise ValueError(f"origin {origin} has several networks: say which with --network, such as --network slow_r50")
    asked = {**told, **hyperparameters}
    absent = [name for name, parameter in known.items() if parameter.default is parameter.empty and name not in asked]
    if absent:
        raise ValueError(
            f"the tensors of {file} do not say {', '.join(absent)}; give " + " ".join(f"--{name} …" for name in absent)
        )
    try:
        network: Any = from_reference(origin, state_dict, **asked)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if recipe_of(network) is None:
        raise ValueError(f"origin {origin} gives a {type(network).__name__}, which no function of vidact.models builds")
    names = class_names(network, classes, origin, asked)
    facts: dict[str, Any] = {"classes": names, "multi_label": False}
    if (clip_input := input_of(network)) is not None:
        facts["sampling"] = (sampling or published_sampling(network, asked)).record()
        if clip_input.flow_fields:
            facts["flow"] = {"method": "tvl1", "bound": 20.0}  # what every published flow network was trained on
    facts["converted"] = {
        "origin": origin,
        "file": Path(file).name,
        "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
        "hyperparameters": asked,
    }
    save(network, out, facts)
    opened = load(out)
    for name, tensor in network.state_dict().items():
        if not torch.equal(opened.state_dict()[name], tensor):
            raise RuntimeError(f"{out} does not give back {name} as it was written")
    return opened


def reference(origin: str) -> Callable[..., nn.Module]:
    """The function that reads a layout."""
    if origin not in REFERENCES:
        raise ValueError(f"origin {origin!r} is unknown; the layouts are {', '.join(sorted(REFERENCES))}")
    module, _, name = REFERENCES[origin].partition(":")
    return getattr(importlib.import_module(module), name)


def arguments_of(function: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
    """What a layout's function takes beside the tensors."""
    return dict(list(inspect.signature(function).parameters.items())[1:])


def infer(state_dict: Mapping[str, Tensor], known: Mapping[str, object], origin: str = "") -> dict[str, Any]:
    """The hyperparameters among ``known`` that names and shapes tell of a layout."""
    tensors = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if origin in SIZES:
        return _sizes(tensors, known, SIZES[origin])
    found: dict[str, Any] = {}
    for pattern in LAST_LAYERS:
        if last := next((key for key in tensors if re.search(pattern, key)), None):
            found["num_classes"] = len(tensors[last])
            break
    found |= {name: value for name, value in (("backbone", _backbone(tensors)),) if value}
    images = next((value for value in tensors.values() if value.ndim in (4, 5)), None)
    if images is not None:
        channels = {3: "rgb", 10: "flow", 15: "rgb_difference", 2: "flow"}
        if images.shape[1] in channels:
            found["modality"] = channels[images.shape[1]]
    if segments := _segments(tensors):
        found["num_segments"] = segments
    if any(".nl." in key for key in tensors):
        found["non_local"] = True
    if any(key.startswith("features.") for key in tensors):
        found["shift"] = "causal"  # the names of TSM's online network
    return {name: value for name, value in found.items() if name in known}


def _sizes(
    tensors: Mapping[str, Tensor], known: Mapping[str, object], table: Mapping[str, tuple[str, int | None]]
) -> dict[str, Any]:
    """A detector's hyperparameters, from its shapes."""
    found: dict[str, Any] = {}
    for name, (pattern, axis) in table.items():
        matches = [(match, value) for key, value in tensors.items() if (match := re.search(pattern, key))]
        if not matches:
            continue  # the tensor is missing, which loading says by its name
        numbers = sorted({tuple(int(group) for group in match.groups()) for match, _ in matches})
        if axis is None:
            counts = {number[:-1]: 0 for number in numbers}
            for number in numbers:
                counts[number[:-1]] += 1
            found[name] = list(counts.values()) if len(numbers[0]) > 1 else len(numbers)
            continue
        if any(value.ndim <= axis for _, value in matches):
            continue
        sizes = {tuple(int(group) for group in match.groups()): value.shape[axis] for match, value in matches}
        found[name] = [sizes[number] for number in numbers] if numbers[0] else sizes[()]
    if "window" in found:
        found["window"] -= 1
    if "feature_dims" in found:
        published = known["feature_dims"]
        default = published.default if isinstance(published, inspect.Parameter) else ()
        if found["feature_dims"] == sum(default):
            del found["feature_dims"]  # of RGB and flow, as the default has it
        else:
            found["feature_dims"] = [found["feature_dims"]]
    return found


def _backbone(tensors: Mapping[str, Tensor]) -> str | None:
    names = list(tensors)
    if any(re.search(r"(^|\.)features\.18\.", key) for key in names) or any("layer7.0" in key for key in names):
        return "mobilenet_v2"
    if any("inception_3a_1x1" in key for key in names):
        return "bn_inception"
    blocks = {int(match[1]) for key in names if (match := re.search(r"layer3(?:_bak)?\.(?:net\.)?(\d+)\.", key))}
    if not blocks:
        return None
    if not any(re.search(r"layer1(?:_bak)?\.(?:net\.)?0\..*conv3", key) for key in names):
        return "resnet18" if len(blocks) == 2 else "resnet34"
    return {6: "resnet50", 23: "resnet101"}.get(len(blocks))


def _segments(tensors: Mapping[str, Tensor]) -> int | None:
    """The clip length of networks whose weights fix it."""
    for key, value in tensors.items():
        if re.search(r"(tam\.G|self_conv\.conv_f)\.0\.weight$", key):
            return value.shape[1]
        if re.search(r"(biasnet\.net\.fc|offset_net\.fc1)\.weight$", key):
            return value.shape[1]
        if key == "consensus.classifier.1.weight":
            return value.shape[1] // 256
    scales = {match[1] for key in tensors if (match := re.search(r"consensus\.fc_fusion_scales\.(\d+)\.", key))}
    return len(scales) + 1 if scales else None


def class_names(
    network: Any, classes: str | Path | Sequence[str] | None, origin: str, asked: Mapping[str, Any]
) -> list[str]:
    """As many names as the network has classes; an online detector's background has none."""
    is_online = isinstance(network, OnlineNetwork)
    count = int(asked["num_classes"]) - is_online
    if classes is None:
        if origin == "torchvision":
            meta = next(iter(torchvision.models.get_model_weights(asked["network"]))).meta["categories"]
            if len(meta) == count:
                return list(meta)
        print(f"no classes were named: they are called 0 to {count - 1} (--classes FILE names them)")
        return [str(number) for number in range(count)]
    if isinstance(classes, (str, Path)):
        classes = [line for line in read_lines(Path(classes)) if line]
    names = [plain_name(name) for name in classes]
    # detectors trained with an output for ambiguous frames keep it; it has no name
    if len(names) not in ((count, count - 1) if is_online else (count,)):
        raise ValueError(
            f"{len(names)} classes are named and the network has {count}"
            + (" besides the background" if is_online else "")
        )
    if len(set(names)) < len(names):
        raise ValueError(f"two classes have the name {max(names, key=names.count)!r}")
    return names


def published_sampling(network: Any, asked: Mapping[str, Any]) -> ClipSampler:
    """The frames that the published network saw: segments for 2-D networks, a window for 3-D ones."""
    name = network.recipe["builder"].rpartition(".")[2]
    if name in CLIPS:
        frames, stride = CLIPS[name]
        if asked.get("num_segments"):  # MVFNet's 4, 8 and 16 frames span the same time
            frames, stride = int(asked["num_segments"]), frames * stride // int(asked["num_segments"])
        return DenseSampler(frames, stride)
    frames = network.input.frames or asked.get("num_segments") or SEGMENTS
    return SegmentSampler(int(frames), images_per_index(network.input))


def remarks(network: Any, asked: Mapping[str, Any]) -> list[str]:
    """What the owner of the file should know."""
    said = []
    clip_input = input_of(network)
    if clip_input is not None:
        if clip_input.order == "bgr":
            said.append("it takes BGR images from 0 to 255; the transform does that by the record")
        if clip_input.flow_fields:
            said.append(
                "it was trained on TV-L1 flow within ±20 pixels; flow by another method (data.flow_method) lowers its "
                "scores"
            )
        if clip_input.frames:
            said.append(f"its weights are made for {clip_input.frames} frames")
        elif "num_segments" not in asked and "network" not in asked:
            said.append(f"sampled at {SEGMENTS} frames, since the file does not say; --num_segments changes it")
    elif isinstance(network, OnlineNetwork):
        converted = record_of(network).converted
        assert converted is not None
        origin = converted["origin"]
        untold = {
            name: parameter.default
            for name, parameter in arguments_of(reference(origin)).items()
            if name not in asked and name not in SIZES[origin]
        }
        if untold:
            values = ", ".join(f"{name} {value}" for name, value in untold.items())
            said.append(f"the file does not say {values} (as published; --{next(iter(untold))} … for another)")
        said.append("it takes features, which the file does not describe; give it those that it was trained on")
    return said
