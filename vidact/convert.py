"""``vidact convert``: convert a checkpoint that another repository published to a file that ``vidact.load`` opens.

    vidact convert --origin tsm --file TSM_kinetics_resnet50.pth --out tsm.safetensors --classes classes.txt

Every tensor of the file must have a place in the network, and every place its tensor. The number of classes, the
backbone, the modality and the frames are read from the tensors' names and shapes; whatever these do not determine has
to be given. The written file records how pixels are scaled, cropped and sampled, the class names, and its origin.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vidact import hub
from vidact.data.frame_labels import load_mapping
from vidact.data.tables import read_lines
from vidact.models import movinet
from vidact.models.localisation import Localiser
from vidact.models.offline import OfflineNetwork
from vidact.models.offline_decoding import Grid
from vidact.models.online import OnlineNetwork
from vidact.models.published_offline import PUBLISHED, Settings, sizes_of, tensors_of, with_classes_in
from vidact.models.weights import (
    REFERENCES,
    attach,
    from_reference,
    input_of,
    load,
    read,
    recipe_of,
    record_of,
    save,
)
from vidact.text.layouts import CLIPS, OFFLINE
from vidact.text.names import counted, first_few, plain_name
from vidact.video.sample import ClipSampler, DenseSampler, SegmentSampler, UniformSampler
from vidact.video.transform import images_per_index

# The names that the last layer's weight has in the known layouts; the first pattern that matches counts.
LAST_LAYERS = (
    r"^consensus\.classifier\.3\.weight$",
    r"consensus\.fc_fusion_scales\.0\.3\.weight$",
    r"^(cls_head\.)?new_fc\.weight$",
    r"^cls_head\.fc_cls\.weight$",
    r"^(base_model\.)?fc_final\.weight$",
    r"^classifier\.3\.conv_1\.conv[23]d\.weight$",
    r"^head\.projection\.weight$",
    r"^blocks\.\d+\.proj\.weight$",
    r"^logits\.conv3d\.weight$",
    r"^head\.1\.weight$",
    r"^classifier\.1\.weight$",
    r"^(base_model\.)?classifier\.weight$",
    r"^head\.weight$",
    r"^(base_model\.)?(fc|last_linear)\.weight$",
)

# How a detector's arguments follow from the shapes of its tensors: argument → (a pattern of tensor names, an axis of
# those tensors). Where the pattern has a group, which matches a number, the argument has one value for each number.
# Without an axis the value is the count of numbers; with two groups it is the count of each first number.
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
        "window": (r"^position_encoding\.pe\.weight$", 0),  # one row more, for the task token, is subtracted below
        "num_layers": (r"^encoder\.net\.(\d+)\.fn\.fn\.qkv\.weight$", None),
        "hidden_dim": (r"^encoder\.net\.1\.fn\.fn\.net\.0\.weight$", 0),
        "num_queries": (r"^decoder_cls_token$", 1),
        "decoder_layers": (r"^decoder\.layers\.(\d+)\.conv1\.weight$", None),
        "decoder_hidden_dim": (r"^decoder\.layers\.0\.conv1\.weight$", 0),
    },
    "lstr": _LSTR,
    "testra": _LSTR,
}

SEGMENTS = 8  # the clip length of 2-D networks where neither the file nor the user gives one


def convert(
    origin: str,
    file: str | Path,
    out: str | Path,
    classes: str | Path | Sequence[str] | None = None,
    sampling: ClipSampler | None = None,
    *,
    grid: Grid | None = None,
    background: str | None = None,
    trained_on: str | None = None,
    **hyperparameters: Any,
) -> nn.Module:
    """Write a published checkpoint as a vidact file, and open that file.

    Args:
        origin: the layout of its tensor names, one of ``vidact.models.weights.REFERENCES``.
        file: the checkpoint, which may be a file of the hub (hf://owner/name/file); no code in it is executed.
        out: the .safetensors file to write.
        classes: names in the order of the outputs, a file with one a line, or the name of a list that vidact contains
            ("kinetics400", …; ``vidact.hub.CLASS_LISTS``); None for the publisher's list (torchvision) where there is
            one, else for the numbers of the outputs.
        sampling: the rule that chooses the network's frames; None for the rule of the published network.
        grid: of an offline network: where the features lie in time that it was trained on.
        background: of a segmenter: the class that is no action, which becomes output 0, "none" if there is none; None
            for a class called "background" or "SIL".
        trained_on: of an offline network: the data set, one of ``vidact.models.published_offline.PUBLISHED``, whose
            settings hold where the file contains none.
        hyperparameters: arguments of the layout's function, as ``from_reference`` takes them; those that follow from
            the tensors may be left out.

    Returns:
        The network that ``vidact.load(out)`` returns.

    Raises:
        ValueError: where tensors and network do not match, or an argument is missing or unknown.
    """
    file = hub.local(file)
    is_offline = origin in OFFLINE
    if not is_offline and (stray := [name for name, value in
                                     (("grid", grid), ("background", background), ("trained_on", trained_on))
                                     if value is not None]):  # fmt: skip
        raise ValueError(f"{stray[0]} is for offline networks ({', '.join(OFFLINE)}), and origin is {origin}")
    state_dict, record = read(file, averaged=is_offline)
    if record is not None:
        raise ValueError(f"{file} is a vidact file already; open it with vidact.load")
    function = reference(origin)
    parameters = arguments_of(function)
    if unknown := sorted(set(hyperparameters) - set(parameters)):
        raise ValueError(f"origin {origin} takes no {', '.join(unknown)}; it takes {', '.join(parameters)}")
    names: list[str] = []
    facts: dict[str, Any] = {}
    published: dict[str, Any] = {}
    if is_offline:
        if trained_on not in (None, *PUBLISHED[origin]):
            raise ValueError(
                f"trained_on is {trained_on!r}; for {origin} it is one of {', '.join(PUBLISHED[origin])}, or left out"
            )
        settings = PUBLISHED[origin].get(trained_on or "", Settings())
        state_dict, names, facts = _offline_part(origin, state_dict, str(file), classes, background, grid)
        published = settings.arguments
        facts["settings"] = settings.decoding
    inferred = published | infer(state_dict, parameters, origin)
    if "network" in parameters and "network" not in hyperparameters:
        raise ValueError(f"origin {origin} has several networks: say which with --network, such as --network slow_r50")
    options = {**inferred, **hyperparameters}
    absent = [
        name for name, parameter in parameters.items() if parameter.default is parameter.empty and name not in options
    ]
    if absent:
        raise ValueError(
            f"the tensors of {file} do not say {', '.join(absent)}; give " + " ".join(f"--{name} …" for name in absent)
        )
    try:
        network: Any = from_reference(origin, state_dict, **options)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if recipe_of(network) is None:
        raise ValueError(f"origin {origin} gives a {type(network).__name__}, which no function of vidact.models builds")
    if is_offline:
        decoding = facts.pop("settings")
        if isinstance(network, Localiser):
            attach(network, decoding=replace(network.decoding, **decoding))
            facts["decoding"] = asdict(network.decoding)
    else:
        names = class_names(network, classes, origin, options)
        facts["multi_label"] = False
    facts["classes"] = names
    if (clip_input := input_of(network)) is not None:
        facts["sampling"] = (sampling or published_sampling(network, options)).record()
        if clip_input.flow_fields:
            facts["flow"] = {"method": "tvl1", "bound": 20.0}  # every published flow network was trained on this
    facts["converted"] = facts.get("converted", {}) | {
        "origin": origin,
        "file": Path(file).name,
        "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
        "hyperparameters": options,
    }
    save(network, out, facts)
    opened = load(out)
    for name, tensor in network.state_dict().items():
        if not torch.equal(opened.state_dict()[name], tensor):
            raise RuntimeError(f"{out} does not give back {name} as it was written")
    return opened


def _offline_part(
    origin: str,
    state_dict: Mapping[str, Tensor],
    source: str,
    classes: str | Path | Sequence[str] | None,
    background: str | None,
    grid: Grid | None,
) -> tuple[dict[str, Tensor], list[str], dict[str, Any]]:
    """Return the tensors of a published offline network, a segmenter's background first, its actions, and facts."""
    tensors = tensors_of(state_dict, origin, source)
    sizes = sizes_of(tensors, origin)
    if "num_classes" not in sizes:
        raise ValueError(f"{source} has no classifier, so it is damaged or no file of {origin}")
    count, dim = sizes["num_classes"], sizes.get("feature_dim")
    is_segmenter = origin not in OFFLINE[:2]
    if classes is None and count == 1:
        classes = ["action"]
    names, converted = _names_of_outputs(count, classes, source), {}
    if is_segmenter:
        chosen = _background_of(names, background, source)
        others = [number for number in range(count) if number != chosen]
        tensors = with_classes_in(tensors, [chosen, *others])
        converted = {} if chosen is None else {"background": names[chosen]}
        names = [names[number] for number in others]
    elif background is not None:
        raise ValueError(f"background is {background}, and {origin} has no output for it; leave it out")
    facts: dict[str, Any] = {"kind": "segmenter" if is_segmenter else "localiser", "converted": converted}
    features = {} if dim is None else {"dim": dim}
    if grid is not None:
        facts["tokens_per_second"] = features["tokens_per_second"] = grid.tokens_per_second
        if grid.start_s:
            features["grid"] = asdict(grid)
    facts["features"] = features
    return tensors, names, facts


def _names_of_outputs(count: int, classes: str | Path | Sequence[str] | None, source: str) -> list[str]:
    """Return the names of all outputs, background included, from a list or a mapping.txt; without one their numbers."""
    if classes is None:
        print(f"no classes were named: they are called 0 to {count - 1} (--classes FILE names them)")
        return [str(number) for number in range(count)]
    listed = str(classes)
    if isinstance(classes, (str, Path)):
        lines = [line for line in read_lines(Path(classes)) if line]
        is_mapping = lines and all(re.fullmatch(r"\d+[\s,]+.+", line) for line in lines)
        classes = load_mapping(Path(classes)) if is_mapping else lines
    else:
        listed = "classes"
    names = [plain_name(name) for name in classes]
    if len(names) != count:
        raise ValueError(
            f"{listed} has {counted(len(names), 'class', 'classes')}, and {source} has {counted(count, 'output')}; "
            "name all of them, a segmenter's background included, in the order of the data set's mapping.txt"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"two classes have the name {max(names, key=names.count)!r}")
    return names


BACKGROUNDS = ("background", "SIL")


def _background_of(names: Sequence[str], background: str | None, source: str) -> int | None:
    """Return the number of the class that is no action; None where there is none."""
    if background == "none":
        return None
    wanted = BACKGROUNDS if background is None else (plain_name(background),)
    numbers = [number for number, name in enumerate(names) if name in wanted]
    if len(numbers) != 1:
        which = f"background is {background}, and no class of {source} is" if background else f"no class of {source} is"
        raise ValueError(
            f"{which} called {' or '.join(wanted)}: they are {first_few(list(names), 20)}. Name the class that is no "
            "action with --background NAME, or --background none"
        )
    return numbers[0]


def reference(origin: str) -> Callable[..., nn.Module]:
    """Return the function that builds a network from a layout's tensors. Raises ValueError for an unknown layout."""
    if origin not in REFERENCES:
        raise ValueError(f"origin {origin!r} is unknown; the layouts are {', '.join(sorted(REFERENCES))}")
    module, _, name = REFERENCES[origin].partition(":")
    return getattr(importlib.import_module(module), name)


def arguments_of(function: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a layout's function other than the tensors, by name."""
    return dict(list(inspect.signature(function).parameters.items())[1:])


def infer(state_dict: Mapping[str, Tensor], parameters: Mapping[str, object], origin: str = "") -> dict[str, Any]:
    """Return those of the hyperparameters ``parameters`` that follow from the tensors' names and shapes."""
    tensors = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if origin in OFFLINE:
        return sizes_of(tensors, origin)
    if origin in SIZES:
        return _sizes(tensors, parameters, SIZES[origin])
    inferred: dict[str, Any] = {}
    for pattern in LAST_LAYERS:
        if last := next((key for key in tensors if re.search(pattern, key)), None):
            inferred["num_classes"] = len(tensors[last])
            break
    inferred |= {name: value for name, value in (("backbone", _backbone(tensors)),) if value}
    images = next((value for value in tensors.values() if value.ndim in (4, 5)), None)
    if images is not None:
        channels = {3: "rgb", 10: "flow", 15: "rgb_difference", 2: "flow"}
        if images.shape[1] in channels:
            inferred["modality"] = channels[images.shape[1]]
    if segments := _segments(tensors):
        inferred["num_segments"] = segments
    for key, value in tensors.items():
        if re.match(r"^conv7\.conv_1\.conv[23]d\.weight$", key):
            inferred["stream"] = value.ndim == 4
            if sizes := [size for size, numbers in movinet.SIZES.items() if numbers.last == len(value)]:
                inferred["size"] = sizes[0]
    if any(".nl." in key for key in tensors):
        inferred["non_local"] = True
    if any(key.startswith("features.") for key in tensors):
        inferred["shift"] = "causal"  # only TSM's online network has such names
    return {name: value for name, value in inferred.items() if name in parameters}


def _sizes(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, object], table: Mapping[str, tuple[str, int | None]]
) -> dict[str, Any]:
    """Return a detector's hyperparameters that follow from the shapes of its tensors."""
    inferred: dict[str, Any] = {}
    for name, (pattern, axis) in table.items():
        matches = [(match, value) for key, value in tensors.items() if (match := re.search(pattern, key))]
        if not matches:
            continue  # loading the weights raises an error that names the missing tensor
        numbers = sorted({tuple(int(group) for group in match.groups()) for match, _ in matches})
        if axis is None:
            counts = {number[:-1]: 0 for number in numbers}
            for number in numbers:
                counts[number[:-1]] += 1
            inferred[name] = list(counts.values()) if len(numbers[0]) > 1 else len(numbers)
            continue
        if any(value.ndim <= axis for _, value in matches):
            continue
        sizes = {tuple(int(group) for group in match.groups()): value.shape[axis] for match, value in matches}
        inferred[name] = [sizes[number] for number in numbers] if numbers[0] else sizes[()]
    if "window" in inferred:
        inferred["window"] -= 1
    if "feature_dims" in inferred:
        published = parameters["feature_dims"]
        default = published.default if isinstance(published, inspect.Parameter) else ()
        if inferred["feature_dims"] == sum(default):
            del inferred["feature_dims"]  # the default gives the sizes of RGB and flow, whose sum this is
        else:
            inferred["feature_dims"] = [inferred["feature_dims"]]
    return inferred


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
    """Return the clip length of networks whose weights fix it; None for all others."""
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
    network: Any, classes: str | Path | Sequence[str] | None, origin: str, options: Mapping[str, Any]
) -> list[str]:
    """Return the names of the network's classes; an online detector's background has no name."""
    is_online = isinstance(network, OnlineNetwork)
    count = int(options["num_classes"]) - is_online
    if classes is None:
        if origin == "torchvision":
            meta = next(iter(torchvision.models.get_model_weights(options["network"]))).meta["categories"]
            if len(meta) == count:
                return list(meta)
        print(f"no classes were named: they are called 0 to {count - 1} (--classes FILE names them)")
        return [str(number) for number in range(count)]
    if str(classes) in hub.CLASS_LISTS and not Path(str(classes)).is_file():
        classes = hub.class_names(str(classes))
    if isinstance(classes, (str, Path)):
        classes = [line for line in read_lines(Path(classes)) if line]
    names = [plain_name(name) for name in classes]
    # Detectors trained with an output for ambiguous frames keep that output, which has no name.
    if len(names) not in ((count, count - 1) if is_online else (count,)):
        raise ValueError(
            f"{len(names)} classes are named and the network has {count}"
            + (" besides the background" if is_online else "")
        )
    if len(set(names)) < len(names):
        raise ValueError(f"two classes have the name {max(names, key=names.count)!r}")
    return names


def published_sampling(network: Any, options: Mapping[str, Any]) -> ClipSampler:
    """Return the sampling rule of the published network: segments for 2-D networks, a window for 3-D ones."""
    name = network.recipe["builder"].rpartition(".")[2]
    if name in CLIPS:
        frames, stride = CLIPS[name]
        if options.get("num_segments"):  # MVFNet's 4, 8 and 16 frames span the same time
            frames, stride = int(options["num_segments"]), frames * stride // int(options["num_segments"])
        return DenseSampler(frames, stride)
    if frames := network.input.published_frames:
        return UniformSampler(frames)
    frames = network.input.frames or options.get("num_segments") or SEGMENTS
    return SegmentSampler(int(frames), images_per_index(network.input))


def remarks(network: Any, options: Mapping[str, Any]) -> list[str]:
    """Return sentences for the user on the input of a converted network and on what its file does not contain."""
    sentences = []
    clip_input = input_of(network)
    if clip_input is not None:
        if clip_input.order == "bgr":
            sentences.append("it takes BGR images from 0 to 255; the transform does that by the record")
        if clip_input.flow_fields:
            sentences.append(
                "it was trained on TV-L1 flow within ±20 pixels; flow by another method (data.flow_method) lowers its "
                "scores"
            )
        if clip_input.frames:
            sentences.append(f"its weights are made for {clip_input.frames} frames")
        elif clip_input.fps:
            sentences.append(
                f"it was trained on {clip_input.published_frames} frames of a clip, {clip_input.fps:g} a second"
            )
        elif "num_segments" not in options and "network" not in options:
            sentences.append(f"sampled at {SEGMENTS} frames, since the file does not say; --num_segments changes it")
    elif isinstance(network, OnlineNetwork | OfflineNetwork):
        converted = record_of(network).converted
        assert converted is not None
        origin = converted["origin"]
        read_from_file = SIZES.get(origin, ()) if origin not in OFFLINE else UNTOLD_IN_USE
        unstated = {
            name: parameter.default
            for name, parameter in arguments_of(reference(origin)).items()
            if name not in options and name not in read_from_file
        }
        if unstated:
            values = ", ".join(f"{name} {value}" for name, value in unstated.items())
            sentences.append(f"the file does not say {values} (as published; --{next(iter(unstated))} … for another)")
        if isinstance(network, OfflineNetwork):
            sentences += _offline_remarks(network)
        else:
            sentences.append(
                "it takes features, which the file does not describe; give it those that it was trained on"
            )
    return sentences


# Arguments of offline networks that matter in training only, or are the same in all published files.
UNTOLD_IN_USE = (
    "causal", "center_radius", "channel_dropout", "drop_path", "dropout", "empty_classes", "exact_window",
    "init_conv_vars", "initial_normaliser", "input_noise", "label_smoothing", "look_ahead", "overlap_power",
    "published_padding", "regression_ranges", "regression_weight", "smoothing_limit", "smoothing_weight",
)  # fmt: skip


def _offline_remarks(network: OfflineNetwork) -> list[str]:
    record = record_of(network)
    sentences = []
    if record.kind == "segmenter":
        background = (record.converted or {}).get("background")
        sentences.append(
            "every class of the file is an action, so output 0 is a background that never occurs"
            if background is None
            else f"output 0 is the background, {background}; the actions follow in the order of the file"
        )
    if record.tokens_per_second is None:
        sentences.append(
            "the file does not say how many features a second it takes: without --release or --grid STRIDE,FRAMES,FPS "
            "its events have no seconds, and vidact predict refuses it"
        )
    else:
        sentences.append(f"it takes {record.tokens_per_second:g} features a second, of {network.feature_dim} values")
    return sentences
