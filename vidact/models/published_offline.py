"""Published files of offline networks: what their tensors say of sizes, and what the repositories say of the rest.

Sizes and the order of classes are read from the names and shapes of tensors. How many heads an attention has, how far
it reaches and how outputs become events is in no tensor; ``PUBLISHED`` has it for the data sets of the repositories:
https://github.com/happyharrycn/actionformer_release, https://github.com/dingfengshi/TriDet (both MIT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidact.text.layouts import OFFLINE
from vidact.text.names import first_few

NEVER = -1e4  # the logit of a background that the published network does not have: its probability is exactly 0

# A tensor that only files of the layout have.
_SIGNATURES = {
    "actionformer": r"^backbone\.(stem|branch)\.\d+\.attn\.query_conv\.",
    "tridet": r"^backbone\.(stem|branch)\.\d+\.psi\.",
    "ms_tcn": r"^stage1\.layers\.\d+\.conv_dilated\.",
    "ms_tcn_pp": r"^PG\.conv_dilated_1\.",
    "asformer": r"^encoder\.layers\.\d+\.att_layer\.",
}

# Argument → (pattern of tensor names, an axis of the first such tensor). Without an axis, the value is how many numbers
# the pattern's group matches.
_PYRAMID: dict[str, tuple[str, int | None]] = {
    "num_classes": (r"^cls_head\.cls_head\.conv\.weight$", 0),
    "feature_dim": (r"^backbone\.embd\.0\.conv\.weight$", 1),
    "embedding_dim": (r"^backbone\.embd\.0\.conv\.weight$", 0),
    "embedding_kernel": (r"^backbone\.embd\.0\.conv\.weight$", 2),
    "embedding_layers": (r"^backbone\.embd\.(\d+)\.conv\.weight$", None),
    "levels": (r"^neck\.fpn_norms\.(\d+)\.weight$", None),
    "head_dim": (r"^cls_head\.head\.0\.conv\.weight$", 0),
    "head_kernel": (r"^cls_head\.cls_head\.conv\.weight$", 2),
    "head_layers": (r"^cls_head\.head\.(\d+)\.conv\.weight$", None),  # without the last one, which is added below
}
_SIZES: dict[str, dict[str, tuple[str, int | None]]] = {
    "actionformer": {**_PYRAMID, "stem_layers": (r"^backbone\.stem\.(\d+)\.ln1\.weight$", None)},
    "tridet": {
        **_PYRAMID,
        "stem_layers": (r"^backbone\.stem\.(\d+)\.psi\.weight$", None),
        "window": (r"^backbone\.branch\.0\.psi\.weight$", 2),
        "window_factor": (r"^backbone\.branch\.0\.convkw\.weight$", 2),  # the wide kernel, divided below
        "mlp_dim": (r"^backbone\.(?:stem|branch)\.0\.mlp\.0\.weight$", 0),
        "bins": (r"^reg_head\.offset_head\.conv\.weight$", 0),  # 2 (n + 1), changed below
        "boundary_kernel": (r"^start_head\.cls_head\.conv\.weight$", 2),
    },
    "ms_tcn": {
        "num_classes": (r"^stage1\.conv_out\.weight$", 0),
        "feature_dim": (r"^stage1\.conv_1x1\.weight$", 1),
        "dim": (r"^stage1\.conv_1x1\.weight$", 0),
        "stages": (r"^stages\.(\d+)\.conv_out\.weight$", None),  # without the first one, which is added below
        "layers": (r"^stage1\.layers\.(\d+)\.conv_1x1\.weight$", None),
    },
    "ms_tcn_pp": {
        "num_classes": (r"^PG\.conv_out\.weight$", 0),
        "feature_dim": (r"^PG\.conv_1x1_in\.weight$", 1),
        "dim": (r"^PG\.conv_1x1_in\.weight$", 0),
        "stages": (r"^Rs\.(\d+)\.conv_out\.weight$", None),
        "first_layers": (r"^PG\.conv_dilated_1\.(\d+)\.weight$", None),
        "layers": (r"^Rs\.0\.layers\.(\d+)\.conv_1x1\.weight$", None),
    },
    "asformer": {
        "num_classes": (r"^encoder\.conv_out\.weight$", 0),
        "feature_dim": (r"^encoder\.conv_1x1\.weight$", 1),
        "dim": (r"^encoder\.conv_1x1\.weight$", 0),
        "layers": (r"^encoder\.layers\.(\d+)\.conv_1x1\.weight$", None),
        "decoders": (r"^decoders\.(\d+)\.conv_1x1\.weight$", None),
        "query_reduction": (r"^encoder\.layers\.0\.att_layer\.query_conv\.weight$", 0),  # divided below
        "value_reduction": (r"^encoder\.layers\.0\.att_layer\.value_conv\.weight$", 0),
    },
}
_ALSO_ONE = ("head_layers", "stages")

# Tensors of segmenters with a row for each class, and those with a column for each.
_ROWS = r"^(stage1|stages\.\d+|PG|Rs\.\d+|encoder|decoders\.\d+)\.conv_out\.(weight|bias)$"
_COLUMNS = r"^(stages\.\d+|Rs\.\d+|decoders\.\d+)\.conv_1x1\.weight$"


@dataclass(frozen=True)
class Settings:
    """The settings of a published network that its file does not contain: arguments, and those of its decoding."""

    arguments: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)


# Layout → data set → its settings. ActivityNet's have no labels of another classifier: K = 1.
PUBLISHED: dict[str, dict[str, Settings]] = {
    "actionformer": {
        "thumos14": Settings({"attention_window": 19, "max_tokens": 2304}),
        "epic100": Settings(
            {"attention_window": 9, "max_tokens": 2304}, {"sigma": 0.4, "max_events": 2000, "top_k_per_level": 5000}
        ),
        "activitynet": Settings(
            {"attention_window": [7, 7, 7, 7, 7, -1], "max_tokens": 192, "absolute_positions": True},
            {"min_length": 0.001, "per_class": False, "sigma": 0.75, "max_events": 100, "voting_overlap": 0.7},
        ),
    },
    "tridet": {
        "thumos14": Settings({"max_tokens": 2304}),
        "epic100": Settings({"max_tokens": 2304}, {"sigma": 0.4, "top_k_per_level": 5000}),
        "activitynet": Settings(
            {"max_tokens": 768}, {"min_length": 0.1, "per_class": False, "sigma": 0.7, "max_events": 200}
        ),
    },
    **{origin: {"gtea": Settings(), "salads50": Settings(), "breakfast": Settings()} for origin in OFFLINE[2:]},
}


def tensors_of(state_dict: Mapping[str, Tensor], origin: str, source: str) -> dict[str, Tensor]:
    """Return the tensors of a published file without the prefix ``module.``; gains that it lacks are 1.

    The repositories leave out the gains of residual branches where no branch is dropped in training.

    Raises ValueError for a file of another layout, which is named if it is known.
    """
    tensors = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if not any(re.search(_SIGNATURES[origin], key) for key in tensors):
        other = next((name for name, key in _SIGNATURES.items() if any(re.search(key, k) for k in tensors)), None)
        if other is not None:
            raise ValueError(f"{source} has the tensors of {other}, not of {origin}: convert it with --origin {other}")
        raise ValueError(f"{source} is no file of {origin}: its tensors are called {first_few(list(tensors), 3)}")
    if origin in ("actionformer", "tridet") and not any(".drop_path_" in key for key in tensors):
        tensors |= _gains(tensors, origin)
    return tensors


def _gains(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    branches = ("attn", "mlp") if origin == "actionformer" else ("out", "mlp")
    parts = "stem|branch" if origin == "actionformer" else "branch"
    gains: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if match := re.search(rf"^(backbone\.(?:{parts})\.\d+)\.mlp\.0\.weight$", key):
            gains |= {f"{match[1]}.drop_path_{branch}.scale": torch.ones(1, value.shape[1], 1) for branch in branches}
    return gains


def sizes_of(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    """Return the arguments of a layout's function that follow from the shapes of its tensors."""
    sizes: dict[str, Any] = {}
    for name, (pattern, axis) in _SIZES[origin].items():
        matches = {match: value for key, value in tensors.items() if (match := re.search(pattern, key))}
        if axis is None:
            sizes[name] = len({match[1] for match in matches}) + (name in _ALSO_ONE)
            continue
        value = next(iter(matches.values()), None)
        if value is not None and value.ndim > axis:
            sizes[name] = value.shape[axis]
    if "bins" in sizes:
        sizes["bins"] = sizes["bins"] // 2 - 1
    if "window_factor" in sizes:
        sizes["window_factor"] /= sizes.get("window", 1) + 1
    for name in ("query_reduction", "value_reduction"):
        if sizes.get(name):
            sizes[name] = sizes["dim"] // sizes[name]
    return sizes


def with_classes_in(tensors: Mapping[str, Tensor], order: Sequence[int | None]) -> dict[str, Tensor]:
    """Return the tensors of a published segmenter with its classes in another order, under the published names.

    Args:
        tensors: those of ``tensors_of``.
        order: the old number of each new class; None is a class that never occurs.
    """
    index = torch.tensor([-1 if number is None else number for number in order])
    is_new = index < 0
    moved = dict(tensors)
    for key, value in tensors.items():
        if re.search(_ROWS, key):
            moved[key] = value[index.clamp(min=0)].clone()
            moved[key][is_new] = NEVER if key.endswith("bias") else 0.0
        elif re.search(_COLUMNS, key):
            moved[key] = value[:, index.clamp(min=0)].clone()
            moved[key][:, is_new] = 0.0
    return moved
