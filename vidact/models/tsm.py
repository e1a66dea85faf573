"""TSM: temporal shift (Lin, Gan, Han 2019, https://arxiv.org/abs/1811.08383).

On the residual branch of an image network's blocks, an eighth of the channels comes from the next frame and an eighth
from the previous one. The causal shift takes channels only from the previous frame, and the network then runs frame by
frame on a live stream. The shift has no parameters, so image weights load unchanged.

From https://github.com/mit-han-lab/temporal-shift-module (MIT). Different here: the clip length comes from the clip, so
one network serves 8 and 16 frames; causal networks can be trained (there, only their deployed form was published).

Shapes: B videos, T frames, C channels, H x W pixels, N = B*T images, D features, K classes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import efficientnet, mobilenetv2, mobilenetv3

from vidact.models import backbones
from vidact.models.backbones import Backbone, MobileNet, ResNet, check_clip, for_modality
from vidact.models.non_local import NonLocal
from vidact.models.tsn import FLAT_MOBILENET_V2, MMACTION2_RESNET
from vidact.models.weights import Rules, builder, load_strictly

FOLD = 8  # one channel in eight moves each way

NON_LOCAL_AFTER = ("layer2.0", "layer2.2", "layer3.0", "layer3.2", "layer3.4")

State = dict[str, Any]  # {"past": list of (B, C // 8, h, w), "total": (B, K), "frames": (B, 1)}


def shift(images: Tensor, frames: int, fold: int = FOLD) -> Tensor:
    """Exchange ``C // fold`` channels with each neighbouring frame; zeros enter at the ends.

    Args:
        images: frames of B clips (B*T, C, H, W).
        frames: number of frames T in a clip.
    """
    if images.shape[0] % frames:
        raise ValueError(f"{images.shape[0]} images cannot be split into clips of {frames} frames")
    axis = channel_axis(images)
    clip = images.movedim(1, axis).unflatten(0, (-1, frames))  # (B, T, C, H, W) or (B, T, H, W, C)
    axis += 1
    n = clip.shape[axis] // fold
    ahead, behind, still = clip.split([n, n, clip.shape[axis] - 2 * n], dim=axis)
    ahead = F.pad(ahead[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))  # frame t gets t + 1
    behind = F.pad(behind[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))  # frame t gets t - 1
    return torch.cat([ahead, behind, still], dim=axis).flatten(0, 1).movedim(axis - 1, 1)  # (B*T, C, H, W)


def channel_axis(images: Tensor) -> int:
    """Return the axis of the channels of images (N, C, H, W) in memory order: 1, or 3 if they are innermost.

    A result with the same memory order saves the next convolution a copy. Padding and joining five axes would move the
    channels to the front, and every block would then convert its maps twice.
    """
    innermost = images.is_contiguous(memory_format=torch.channels_last)
    return 3 if innermost and not images.is_contiguous() else 1


def causal_shift(images: Tensor, frames: int, past: Tensor | None = None, fold: int = FOLD) -> tuple[Tensor, Tensor]:
    """Take the first ``C // fold`` channels from the previous frame.

    Args:
        images: frames of B clips (B*T, C, H, W).
        frames: number of frames T in a clip.
        past: (B, C // fold, H, W), the first channels of the frame before the clip; None is zeros.

    Returns:
        The shifted images, and ``past`` for the next clip.
    """
    if images.shape[0] % frames:
        raise ValueError(f"{images.shape[0]} images cannot be split into clips of {frames} frames")
    clip = images.unflatten(0, (-1, frames))  # (B, T, C, H, W)
    n = clip.shape[2] // fold
    moving, still = clip[:, :, :n], clip[:, :, n:]
    if past is None:
        past = torch.zeros_like(moving[:, 0])
    if past.shape != moving[:, 0].shape:
        raise ValueError(
            f"the state holds maps of shape {tuple(past.shape)} where these frames have {tuple(moving[:, 0].shape)}; "
            "call initial_state with the batch size and the image size of the frames"
        )
    axis = channel_axis(images) + 1
    behind, still = (
        part.movedim(2, axis)
        for part in (torch.cat([past.to(moving.dtype).unsqueeze(1), moving[:, :-1]], dim=1), still)
    )
    return torch.cat([behind, still], dim=axis).flatten(0, 1).movedim(axis - 1, 1), moving[:, -1]


# ---------------------------------------------------------------------------------------------- blocks


class ShiftedBlock(nn.Module):
    """A torchvision block with a shift on its residual branch; the skip connection is not shifted.

    The block's children keep their names, so that no tensor is renamed.
    """

    is_checkpoint_block = True

    def __init__(self, block: nn.Module, causal: bool) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.is_causal = causal

    def forward(self, images: Tensor, frames: int, past: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the block's output for images (B*T, C, H, W), and the causal shift's ``past`` for the next clip."""
        if self.is_causal:
            shifted, past = causal_shift(images, frames, past)
        else:
            shifted = shift(images, frames)
        return self.join(images, shifted), past

    def join(self, images: Tensor, shifted: Tensor) -> Tensor:
        """Return torchvision's output for ``images``, with ``shifted`` as the input of the residual branch."""
        raise NotImplementedError


class ShiftedResNetBlock(ShiftedBlock):
    """A shifted BasicBlock or Bottleneck."""

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    conv2: nn.Module
    bn2: nn.Module

    def join(self, images: Tensor, shifted: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(shifted)))))
        parts = dict(self.named_children())
        if "conv3" in parts:
            branch = parts["bn3"](parts["conv3"](self.relu(branch)))
        skip = parts["downsample"](images) if "downsample" in parts else images
        return self.relu(branch + skip)


class ShiftedInvertedResidual(ShiftedBlock):
    """A shifted block with skip connection of MobileNetV2 (``conv``), MobileNetV3 or EfficientNet (``block``)."""

    def join(self, images: Tensor, shifted: Tensor) -> Tensor:
        for part in self.children():  # the residual branch, followed by stochastic depth in EfficientNet
            shifted = part(shifted)
        return images + shifted


def insert_shifts(backbone: Backbone, causal: bool) -> None:
    """Add shifts to the blocks of a backbone that the paper shifts; the backbone is changed in place."""
    if isinstance(backbone, ResNet):
        # As in the reference, only every second block is shifted in deep networks: ResNet-101 and deeper.
        every = 2 if len(backbone.layer3) >= 23 else 1
        for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
            for number, block in enumerate(layer):
                if number % every == 0:
                    layer[number] = ShiftedResNetBlock(block, causal)
        return
    if isinstance(backbone, MobileNet):
        for stage in (backbone.features, *(child for child in backbone.features if type(child) is nn.Sequential)):
            for number, block in enumerate(stage):
                if _is_shifted(block):
                    stage[number] = ShiftedInvertedResidual(block, causal)
        return
    raise ValueError(
        f"TSM shifts the residual blocks of torchvision's ResNet, MobileNetV2, MobileNetV3 and EfficientNet; "
        f"{type(backbone).__name__} is none of them. TSN takes any backbone"
    )


def _is_shifted(block: nn.Module) -> bool:
    """Return whether a block is an inverted residual with a skip connection that begins with an expansion."""
    if not isinstance(
        block,
        (mobilenetv2.InvertedResidual, mobilenetv3.InvertedResidual, efficientnet.MBConv, efficientnet.FusedMBConv),
    ):
        return False
    first = next(module for module in block.modules() if isinstance(module, nn.Conv2d))
    return block.use_res_connect and first.groups == 1


def layers_of(backbone: Backbone) -> list[tuple[str, nn.Module]]:
    """Return the names and modules that a backbone calls in sequence up to its last feature map."""
    if isinstance(backbone, ResNet):
        names = ["conv1", "bn1", "relu", "maxpool"]
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            names += [f"{layer}.{block}" for block, _ in backbone.get_submodule(layer).named_children()]
    else:
        names = []
        for name, child in backbone.get_submodule("features").named_children():
            parts = [f".{part}" for part, _ in child.named_children()] if type(child) is nn.Sequential else [""]
            names += [f"features.{name}{part}" for part in parts]
    return [(name, backbone.get_submodule(name)) for name in names]


# ---------------------------------------------------------------------------------------------- network


class TSM(nn.Module):
    """An image network with temporal shifts; its logits are averaged over the frames.

    Args:
        backbone: a torchvision ResNet, MobileNetV2, MobileNetV3 or EfficientNet; its blocks are changed in place.
        num_classes: number of classes K.
        shift: "bidirectional" or "causal"; a causal network also steps frame by frame.
        dropout: dropout rate on each frame's vector, before the classifier.
        non_local: add the paper's five non-local blocks (ResNet-50 and deeper); they attend to all frames, so the
            network cannot be causal.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        shift: str = "bidirectional",
        dropout: float = 0.5,
        non_local: bool = False,
    ) -> None:
        super().__init__()
        if shift not in ("bidirectional", "causal"):
            raise ValueError(f"shift is {shift!r}; it is 'bidirectional' or 'causal'")
        if non_local and shift == "causal":
            raise ValueError("non-local blocks attend to later frames; a causal network needs non_local=False")
        if non_local and not (isinstance(backbone, ResNet) and len(backbone.layer2) >= 3 and len(backbone.layer3) >= 5):
            raise ValueError(
                f"non-local blocks follow {', '.join(NON_LOCAL_AFTER)}, which this {type(backbone).__name__} does "
                "not have; take ResNet-50 or non_local=False"
            )
        self.is_causal = shift == "causal"
        insert_shifts(backbone, self.is_causal)
        self.backbone = backbone
        self.non_local = nn.ModuleDict()
        if non_local:
            for name in NON_LOCAL_AFTER:
                channels = _output_channels(backbone.get_submodule(name))
                self.non_local[name.replace(".", "_")] = NonLocal(channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(backbone.dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)
        self.num_classes = num_classes
        self.dim = backbone.dim
        self.input = backbone.input
        self._shapes_of_size: dict[tuple[int, int], list[torch.Size]] = {}

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, T, C, H, W)."""
        return self.frame_logits(clip).mean(dim=1)

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per clip (B, D): the mean of its frames' vectors."""
        return self.frame_features(clip).mean(dim=1)

    def frame_features(self, clip: Tensor) -> Tensor:
        check_clip(clip, self.input)
        vectors, _ = self._run(clip.flatten(0, 1), clip.shape[1])
        return vectors.unflatten(0, clip.shape[:2])  # (B, T, D)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """Return logits of every frame (B, T, K); in a causal network they depend only on this and earlier frames."""
        # Logits are in single precision for the mean over the frames: bf16 would round the sum.
        return self.fc(self.dropout(self.frame_features(clip))).float()

    def initial_state(self, batch_size: int, size: int | tuple[int, int] | None = None) -> State:
        """Return the state before the first frame of a causal network: all zeros.

        Row b of every tensor belongs to stream b: set the row to zero to start that stream again, concatenate rows to
        process streams together.

        Args:
            size: side of the frames in pixels, or (height, width); None is ``input.size``.
        """
        self._check_causal()
        side = self.input.size if size is None else size
        weight = self.fc.weight
        shapes = self._past_shapes((side, side) if isinstance(side, int) else side)
        return {
            "past": [torch.zeros(batch_size, *shape, dtype=weight.dtype, device=weight.device) for shape in shapes],
            "total": torch.zeros(batch_size, self.num_classes, device=weight.device),
            "frames": torch.zeros(batch_size, 1, device=weight.device),
        }

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Return logits (B, K) of the whole stream up to this frame (B, C, H, W), and the next state."""
        vectors, after = self.step_features(frame, state)
        total = state["total"] + self.fc(self.dropout(vectors)).float()
        frames = state["frames"] + 1
        return total / frames, {**after, "total": total, "frames": frames}

    def step_features(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the vectors (B, D) of this frame (B, C, H, W), as ``frame_features`` does, and the next state.

        Only ``past`` of the state is read and changed.
        """
        self._check_causal()
        check_clip(frame.unsqueeze(1), self.input)
        vectors, past = self._run(frame, 1, state["past"])
        # The channels are slices of feature maps; without a copy the state would keep the whole maps in memory.
        return vectors, {**state, "past": [maps.clone() for maps in past]}

    def _past_shapes(self, size: tuple[int, int]) -> list[torch.Size]:
        """Return the shapes (C // 8, h, w) of the channels that each shifted block stores of one frame."""
        if size not in self._shapes_of_size:
            # A copy on the meta device gives the shapes; it computes nothing and changes no batch-norm statistics.
            trunk = copy.deepcopy(self.backbone).to("meta")
            image = torch.empty(1, self.input.channels, *size, dtype=self.fc.weight.dtype, device="meta")
            _, past = self._run(image, 1, backbone=trunk)
            self._shapes_of_size[size] = [maps.shape[1:] for maps in past]
        return self._shapes_of_size[size]

    def _check_causal(self) -> None:
        if not self.is_causal:
            raise ValueError(
                "this TSM is bidirectional: every frame waits for later ones, so it cannot step. "
                "Build and train it with shift='causal'"
            )

    def _run(
        self, images: Tensor, frames: int, past: list[Tensor] | None = None, backbone: Backbone | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return vectors (B*T, D) of images (B*T, C, H, W), and the past that each causal shift stores."""
        backbone = self.backbone if backbone is None else backbone
        remembered: list[Tensor] = []
        for name, layer in layers_of(backbone):
            if isinstance(layer, ShiftedBlock):
                images, last = layer(images, frames, past[len(remembered)] if past else None)
                if last is not None:
                    remembered.append(last)
            else:
                images = layer(images)
            if name.replace(".", "_") in self.non_local:
                images = self.non_local[name.replace(".", "_")](images, frames)
        vectors = images.mean(dim=(2, 3))
        return (backbone.classifier(vectors) if isinstance(backbone, MobileNet) else vectors), remembered


def _output_channels(block: nn.Module) -> int:
    """Return the number of channels of the maps that a ResNet block returns."""
    return [module for module in block.children() if isinstance(module, nn.BatchNorm2d)][-1].num_features


# ---------------------------------------------------------------------------------------------- sizes


@builder
def tsm_resnet18(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSM:
    """TSM on ResNet-18.

    Args:
        num_classes: number of classes K.
        weights: "imagenet", a torchvision weights name, a local file, None, or "auto" (ImageNet's if available).
        shift: "bidirectional", or "causal" for networks that run on a live stream.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
        modality: "rgb", "flow" for ``flow_fields`` consecutive fields per frame, or "rgb_difference" for
            ``flow_fields`` differences of consecutive frames.
        flow_fields: number of fields or differences stacked on the channels; unused with modality "rgb".
    """
    return TSM(for_modality(backbones.resnet18(weights, size), modality, flow_fields), num_classes, shift, dropout)


@builder
def tsm_resnet34(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSM:
    """TSM on ResNet-34; arguments as in ``tsm_resnet18``."""
    return TSM(for_modality(backbones.resnet34(weights, size), modality, flow_fields), num_classes, shift, dropout)


@builder
def tsm_resnet50(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSM:
    """TSM on ResNet-50, the paper's main network; arguments as in ``tsm_resnet18``."""
    return TSM(for_modality(backbones.resnet50(weights, size), modality, flow_fields), num_classes, shift, dropout)


@builder
def tsm_resnet101(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSM:
    """TSM on ResNet-101, every second block shifted; arguments as in ``tsm_resnet18``."""
    return TSM(for_modality(backbones.resnet101(weights, size), modality, flow_fields), num_classes, shift, dropout)


@builder
def tsm_resnet50_nonlocal(
    num_classes: int,
    weights: str | None = "imagenet",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSM:
    """TSM on ResNet-50 with five non-local blocks, bidirectional; arguments as in ``tsm_resnet18``."""
    backbone = for_modality(backbones.resnet50(weights, size), modality, flow_fields)
    return TSM(backbone, num_classes, "bidirectional", dropout, non_local=True)


@builder
def tsm_mobilenet_v2(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.5,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSM:
    """TSM on MobileNetV2, the paper's network for phones and live streams; arguments as in ``tsm_resnet18``."""
    return TSM(for_modality(backbones.mobilenet_v2(weights, size), modality, flow_fields), num_classes, shift, dropout)


@builder
def tsm_mobilenet_v3_small(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.2,
) -> TSM:
    """TSM on MobileNetV3-Small (not in the paper; shifted like MobileNetV2); arguments as in ``tsm_resnet18``."""
    return TSM(backbones.mobilenet_v3_small(weights, size), num_classes, shift, dropout)


@builder
def tsm_mobilenet_v3_large(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.2,
) -> TSM:
    """TSM on MobileNetV3-Large (not in the paper; shifted like MobileNetV2); arguments as in ``tsm_resnet18``."""
    return TSM(backbones.mobilenet_v3_large(weights, size), num_classes, shift, dropout)


@builder
def tsm_efficientnet_b0(
    num_classes: int,
    weights: str | None = "imagenet",
    shift: str = "bidirectional",
    size: int = 224,
    dropout: float = 0.2,
) -> TSM:
    """TSM on EfficientNet-B0 (not in the paper; shifted like MobileNetV2); arguments as in ``tsm_resnet18``."""
    return TSM(backbones.efficientnet_b0(weights, size), num_classes, shift, dropout)


@builder
def tsm_resnet_tiny(
    num_classes: int,
    weights: str | None = None,
    shift: str = "bidirectional",
    size: int = 64,
    dropout: float = 0.0,
    width: int = 16,
    modality: str = "rgb",
    flow_fields: int = 5,
) -> TSM:
    """TSM on a four-block ResNet for tests and CPU demos; no published weights exist."""
    backbone = for_modality(backbones.resnet_tiny(weights, size, width), modality, flow_fields)
    return TSM(backbone, num_classes, shift, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_SIZES = {
    "resnet18": tsm_resnet18,
    "resnet34": tsm_resnet34,
    "resnet50": tsm_resnet50,
    "resnet101": tsm_resnet101,
    "mobilenet_v2": tsm_mobilenet_v2,
}

# Rules for everything except the head; torchvision's names are unchanged.
_SHIFTED_AND_NON_LOCAL: Rules = [
    (r"\.block\.", "."),
    (r"(\.conv1|\.conv\.0)\.net\.", r"\1."),
    (r"^backbone\.(layer\d)\.(\d)\.nl\.(theta|phi\.0|g\.0)\.", r"non_local.\1_\2.\3."),
    (r"^backbone\.(layer\d)\.(\d)\.nl\.W\.0\.", r"non_local.\1_\2.out."),
    (r"^backbone\.(layer\d)\.(\d)\.nl\.W\.1\.", r"non_local.\1_\2.norm."),
    (r"^(non_local\..*\.(?:phi|g))\.0\.", r"\1."),
]

# MMAction2 numbers MobileNetV2's blocks within each layer, torchvision through all layers.
_BLOCKS_OF_LAYERS = [(layer, b) for layer, blocks in enumerate((1, 2, 3, 4, 3, 3, 1), start=1) for b in range(blocks)]
MMACTION2_MOBILENET_V2: Rules = [
    (r"^cls_head\.fc_cls\.", "fc."),
    (r"\.net\.", "."),
    (r"^backbone\.conv1\.conv\.", "backbone.features.0.0."),
    (r"^backbone\.conv1\.bn\.", "backbone.features.0.1."),
    (r"^backbone\.conv2\.conv\.", "backbone.features.18.0."),
    (r"^backbone\.conv2\.bn\.", "backbone.features.18.1."),
    *(
        (rf"^backbone\.layer{layer}\.{b}\.", f"backbone.features.{number}.")
        for number, (layer, b) in enumerate(_BLOCKS_OF_LAYERS, start=1)
    ),
    # The projection, last in its block, has no activation; torchvision does not nest its convolution and norm.
    (r"(\.features\.1\.conv)\.1\.conv\.", r"\1.1."),
    (r"(\.features\.1\.conv)\.1\.bn\.", r"\1.2."),
    (r"(\.features\.\d+\.conv)\.2\.conv\.", r"\1.2."),
    (r"(\.features\.\d+\.conv)\.2\.bn\.", r"\1.3."),
    (r"(\.features\.\d+\.conv\.[01])\.conv\.", r"\1.0."),
    (r"(\.features\.\d+\.conv\.[01])\.bn\.", r"\1.1."),
]


def _empty(backbone: str, num_classes: int, modality: str, shift: str, non_local: bool) -> TSM:
    if backbone not in _SIZES or (non_local and backbone != "resnet50"):
        layouts = ["resnet50"] if non_local else list(_SIZES)
        raise ValueError(f"backbone is {backbone!r}; the TSM layouts know {', '.join(layouts)}")
    if non_local and shift == "causal":
        raise ValueError("non-local blocks attend to later frames; a causal network needs non_local=False")
    if non_local:
        return tsm_resnet50_nonlocal(num_classes, weights=None, modality=modality)
    network = _SIZES[backbone](num_classes, weights=None, shift=shift, modality=modality)
    if modality == "rgb_difference":  # published networks were trained on differences of raw pixels
        network.input = dataclasses.replace(network.input, mean=(0.0,), std=(1.0,))
    return network


def from_tsm(
    state_dict: Mapping[str, Any],
    num_classes: int,
    backbone: str = "resnet50",
    num_segments: int | None = None,
    modality: str = "rgb",
    non_local: bool = False,
    shift: str = "bidirectional",
) -> TSM:
    """Build TSM from temporal-shift-module's names: ``base_model.layer1.0.conv1.net.weight``, ``new_fc.weight``.

    The online demo's file (Jester, MobileNetV2) has bare names, ``features.…`` and ``classifier.…``, and is causal.
    ``num_segments`` is accepted because published files record it; no weight depends on it.
    """
    del num_segments
    is_online = any(key.startswith("features.") for key in state_dict)
    if is_online and shift != "causal":
        raise ValueError(
            "these are the names of TSM's online network (features.… without base_model.), whose shift is causal; "
            "pass shift='causal'"
        )
    network = _empty(backbone, num_classes, modality, shift, non_local)
    rules: Rules = [
        (r"^new_fc\.", "fc."),
        (r"^(base_model\.)?classifier\.", "fc."),
        (r"^base_model\.fc\.", "fc."),
        (r"^base_model\.|^(?=features\.)", "backbone."),
        *_SHIFTED_AND_NON_LOCAL,
        *(FLAT_MOBILENET_V2 if backbone == "mobilenet_v2" else ()),
    ]
    load_strictly(network, state_dict, rules, source="the tsm state dict")
    return network


def from_mmaction2_tsm(
    state_dict: Mapping[str, Any],
    num_classes: int,
    backbone: str = "resnet50",
    num_segments: int | None = None,
    shift: str = "bidirectional",
) -> TSM:
    """Build TSM (ResNets, MobileNetV2) from MMAction2's names: ``backbone.layer1.0.conv1.conv.net.weight``, …"""
    del num_segments
    network = _empty(backbone, num_classes, "rgb", shift, non_local=False)
    rules = MMACTION2_MOBILENET_V2 if backbone == "mobilenet_v2" else [(r"\.net\.", "."), *MMACTION2_RESNET]
    load_strictly(network, state_dict, rules, source="the mmaction2_tsm state dict")
    return network
