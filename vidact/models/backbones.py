"""Image networks that turn one frame into one vector: torchvision's, timm's, and BN-Inception from its own file.

A backbone has ``input`` (what its weights expect), ``dim`` and ``forward(images) → vectors``. Its tensors keep the
names of the library it comes from (``layer1.0.conv1.weight``), so that published weights fit as they are.

Shapes: N images, C channels, H x W pixels, D = ``dim``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.s3d import SepInceptionBlock3D

from vidact.batch import ClipInput
from vidact.models.weights import load_strictly, load_weights
from vidact.text.packages import how_to_install

FLOW_FIELDS = 5  # consecutive flow fields one look at the motion takes: 10 channels (TSN, TSM)


class Backbone(nn.Module):
    """One image in, one vector out.

    ``maps(images)`` is the last feature map, where a network has one; ``forward(images)`` is the vector (N, D).
    """

    dim: int
    input: ClipInput

    def maps(self, images: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no feature map")

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean(dim=(2, 3))


def check_clip(clip: Tensor, expected: ClipInput) -> None:
    """Refuse a clip that the network was not made for, before a convolution complains in its own words."""
    if clip.ndim != 5 or clip.shape[2] != expected.channels:
        raise ValueError(
            f"the clip has shape {tuple(clip.shape)}; this network takes (B, T, C, H, W) with C = {expected.channels}"
        )
    if expected.frames is not None and clip.shape[1] != expected.frames:
        raise ValueError(
            f"the clip has {clip.shape[1]} frames; the weights of this network are made for {expected.frames}"
        )


# ---------------------------------------------------------------------------------------------- torchvision


class ResNet(Backbone):
    """The trunk of a torchvision ResNet: everything but ``fc``."""

    def __init__(self, network: torchvision.models.ResNet, input: ClipInput) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        )
        self.dim = network.fc.in_features
        self.input = input

    def maps(self, images: Tensor) -> Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(maps))))


class MobileNet(Backbone):
    """The trunk of torchvision's MobileNetV2, MobileNetV3 and EfficientNet: ``features``, and V3's hidden layer."""

    def __init__(
        self, features: nn.Sequential, dim: int, input: ClipInput, classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Identity() if classifier is None else classifier
        self.dim = dim
        self.input = input

    def maps(self, images: Tensor) -> Tensor:
        return self.features(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.maps(images).mean(dim=(2, 3)))


def _imagenet_input(size: int) -> ClipInput:
    return ClipInput(size=size)


def load_torchvision(module: nn.Module, weights: str | None, enum: Any, published: str, rules: Any = ()) -> None:
    """Fill a module from torchvision's own weights, a local file, or (None) not at all.

    Args:
        weights: ``published`` ("imagenet", "kinetics400"), a member of the enum ("IMAGENET1K_V2"), a path, None, or
            "auto": the published ones if they are at hand or can be downloaded, else none, which is said aloud.
        enum: torchvision's weights enum of this network.
        rules: rename table; at least the classifier, dropped by name.
    """
    if weights is None:
        return
    names = [member.name for member in enum]
    if weights == "auto":
        try:
            load_torchvision(module, published, enum, published, rules)
        except OSError as error:
            print(
                f"weights auto: training starts from nothing, because {error}. Expect less of a network that starts "
                "from nothing, above all on few videos."
            )
        return
    if weights == published:
        weights = names[0]  # version 1: the weights the papers started from
    if weights in names:
        member = enum[weights]
        try:
            state_dict = member.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise OSError(download_advice(member.url, error)) from error
        load_strictly(module, state_dict, rules, source=member.url)
        return
    check_weight_path(weights, ["auto", published, *names])
    load_weights(module, weights, rules=rules)


def download_advice(url: str, error: Exception) -> str:
    return (
        f"the weights at {url} could not be downloaded ({error}). Fetch that file where there is a network and pass "
        "its path as weights= (vidact train --model.network.weights FILE, vidact extract features --weights FILE), or "
        "train from scratch with weights=None (YAML: weights: null)"
    )


def check_weight_path(weights: str, names: list[str]) -> None:
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"weights={weights!r} is neither a file nor a published name; the names here: {', '.join(names) or 'none'}"
        )


def _resnet(name: str, weights: str | None, size: int) -> ResNet:
    backbone = ResNet(getattr(torchvision.models, name)(), _imagenet_input(size))
    load_torchvision(backbone, weights, torchvision.models.get_model_weights(name), "imagenet", [(r"^fc\.", None)])
    return backbone


def resnet18(weights: str | None = "imagenet", size: int = 224) -> ResNet:
    """ResNet-18 (He et al. 2015, https://arxiv.org/abs/1512.03385); dim 512."""
    return _resnet("resnet18", weights, size)


def resnet34(weights: str | None = "imagenet", size: int = 224) -> ResNet:
    """ResNet-34; dim 512."""
    return _resnet("resnet34", weights, size)


def resnet50(weights: str | None = "imagenet", size: int = 224) -> ResNet:
    """ResNet-50, stride in the 3x3 convolution as in torchvision; dim 2048."""
    return _resnet("resnet50", weights, size)


def resnet101(weights: str | None = "imagenet", size: int = 224) -> ResNet:
    """ResNet-101; dim 2048."""
    return _resnet("resnet101", weights, size)


def resnet_tiny(weights: str | None = None, size: int = 64, width: int = 16) -> ResNet:
    """A ResNet for tests and CPU demos: four basic blocks of ``width``, 2, 4 and 8 ``width`` channels; dim 8 ``width``.

    Its stem is one 3x3 convolution of stride 2 and a pooling by 2, and layers 2 to 4 halve the map: 64 pixels end at
    2 x 2. Nobody publishes weights for it.
    """
    network = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=1)
    network.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    network.inplanes = width
    for number, (factor, stride) in enumerate([(1, 1), (2, 2), (4, 2), (8, 2)], start=1):
        layer = network._make_layer(torchvision.models.resnet.BasicBlock, factor * width, 1, stride)
        setattr(network, f"layer{number}", layer)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    network.fc = nn.Linear(8 * width, 1)
    backbone = ResNet(network, _imagenet_input(size))
    if weights is not None:
        check_weight_path(weights, [])
        load_weights(backbone, weights, ignore=r"^fc\.")
    return backbone


def mobilenet_v2(weights: str | None = "imagenet", size: int = 224) -> MobileNet:
    """MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381); dim 1280."""
    network = torchvision.models.mobilenet_v2()
    backbone = MobileNet(network.features, network.last_channel, _imagenet_input(size))
    enum = torchvision.models.MobileNet_V2_Weights
    load_torchvision(backbone, weights, enum, "imagenet", [(r"^classifier\.", None)])
    return backbone


def _mobilenet_v3(name: str, weights: str | None, size: int) -> MobileNet:
    network = getattr(torchvision.models, name)()
    hidden, hardswish = network.classifier[0], network.classifier[1]
    backbone = MobileNet(network.features, hidden.out_features, _imagenet_input(size), nn.Sequential(hidden, hardswish))
    enum = torchvision.models.get_model_weights(name)
    load_torchvision(backbone, weights, enum, "imagenet", [(r"^classifier\.3\.", None)])
    return backbone


def mobilenet_v3_small(weights: str | None = "imagenet", size: int = 224) -> MobileNet:
    """MobileNetV3-Small (Howard et al. 2019, https://arxiv.org/abs/1905.02244) with its hidden layer; dim 1024."""
    return _mobilenet_v3("mobilenet_v3_small", weights, size)


def mobilenet_v3_large(weights: str | None = "imagenet", size: int = 224) -> MobileNet:
    """MobileNetV3-Large with its hidden layer; dim 1280."""
    return _mobilenet_v3("mobilenet_v3_large", weights, size)


def efficientnet_b0(weights: str | None = "imagenet", size: int = 224) -> MobileNet:
    """EfficientNet-B0 (Tan and Le 2019, https://arxiv.org/abs/1905.11946); dim 1280."""
    network = torchvision.models.efficientnet_b0()
    backbone = MobileNet(network.features, network.classifier[1].in_features, _imagenet_input(size))
    enum = torchvision.models.EfficientNet_B0_Weights
    load_torchvision(backbone, weights, enum, "imagenet", [(r"^classifier\.", None)])
    return backbone


# ---------------------------------------------------------------------------------------------- timm


class TimmBackbone(Backbone):
    """Any timm network without its classifier; ``network`` is timm's module."""

    def __init__(self, network: Any, dim: int, input: ClipInput) -> None:
        super().__init__()
        self.network = network
        self.dim = dim
        self.input = input

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def timm_backbone(name: str, weights: str | None = "imagenet", size: int | None = None) -> TimmBackbone:
    """Any network of timm (https://github.com/huggingface/pytorch-image-models) by its name there.

    Args:
        name: as in ``timm.list_models()``, "convnext_tiny" or "vit_small_patch16_224.augreg_in21k_ft_in1k".
        weights: "imagenet" for the weights that timm publishes under this name, a local file, or None.
        size: crop side in pixels; None is the one timm's weights were evaluated at.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"the backbone {name!r} comes from timm: {how_to_install('timm')}") from error
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(f"timm has no network {name!r}" + (f"; it has {', '.join(close)}, …" if close else ""))
    config = timm.get_pretrained_cfg(name)
    if weights not in (None, "imagenet"):
        check_weight_path(weights, ["imagenet"])
    # Vision transformers are built for one image size; most other networks refuse the argument.
    fixed = config is not None and config.fixed_input_size
    options: dict[str, Any] = {"img_size": size} if fixed and size is not None else {}
    try:
        network = timm.create_model(name, pretrained=weights == "imagenet", num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        if weights != "imagenet":
            raise
        raise OSError(download_advice(f"timm's entry {name!r}", error)) from error
    if weights not in (None, "imagenet"):
        classifier = config.classifier if config is not None else None
        heads = [classifier] if isinstance(classifier, str) else list(classifier or [])
        load_weights(network, weights, ignore="|".join(rf"^{head}\." for head in heads))
    data = timm.data.resolve_model_data_config(network)
    side = size or data["input_size"][-1]
    resize = round(side / data["crop_pct"])
    clip_input = ClipInput(size=side, mean=tuple(data["mean"]), std=tuple(data["std"]), resize=resize)
    # Some networks (MobileNetV3, EfficientViT) have a hidden layer between the feature map and the removed classifier.
    dim = int(getattr(network, "head_hidden_size", 0) or network.num_features)  # type: ignore[arg-type]
    return TimmBackbone(network, dim, clip_input)


# ---------------------------------------------------------------------------------------------- other inputs

AnyModule = TypeVar("AnyModule", bound=nn.Module)
AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


def find_first_conv(module: nn.Module) -> tuple[str, nn.Conv2d]:
    """The name and the module of the convolution that sees the image."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            return name, child
    raise ValueError(f"{type(module).__name__} has no 2-D convolution")


class DifferenceConv2d(nn.Conv2d):
    """A convolution that is shown L + 1 consecutive RGB images and sees their L differences, each image less the one
    before it, oldest first (TSN's RGB difference). Normalised images go in, so their mean cancels.
    """

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, 3:] - images[:, :-3])  # (N, 3 * (L + 1), H, W) → (N, 3 * L, H, W)


def with_channels(module: AnyModule, channels: int, kind: type[nn.Conv2d] = nn.Conv2d) -> AnyModule:
    """Let an image network take ``channels`` channels; the module is changed and returned.

    Cross-modality initialisation (Wang et al. 2016, https://arxiv.org/abs/1608.00859): the first convolution's kernel
    is averaged over its input channels and repeated; name, bias and everything else stay. The sum is not rescaled:
    batch norm absorbs it.
    """
    name, old = find_first_conv(module)
    if old.groups != 1:
        raise ValueError(f"the first convolution {name} is grouped; its input channels cannot be changed")
    new = kind(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.mean(dim=1, keepdim=True).expand_as(new.weight))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, new)
    return module


def for_modality(backbone: AnyBackbone, modality: str, flow_fields: int = FLOW_FIELDS) -> AnyBackbone:
    """The backbone for "rgb" frames (as it is), for "flow" or for "rgb_difference".

    "flow" is ``flow_fields`` consecutive fields, x and y each, centred on the middle of their range and divided by the
    mean of the RGB deviations (TSN's rule). "rgb_difference" is as many differences of consecutive frames, normalised
    as RGB is in training and testing alike; the published code forgot to in training.
    """
    if modality == "rgb":
        return backbone
    if modality not in ("flow", "rgb_difference"):
        raise ValueError(f"modality is {modality!r}; it is 'rgb', 'flow' or 'rgb_difference'")
    if flow_fields < 1:
        raise ValueError(f"flow_fields is {flow_fields}; a network of motion stacks at least one field")
    old = backbone.input
    if modality == "rgb_difference":
        with_channels(backbone, 3 * flow_fields, DifferenceConv2d)
        images = flow_fields + 1
        backbone.input = dataclasses.replace(old, channels=3 * images, images_per_frame=images)
        return backbone
    with_channels(backbone, 2 * flow_fields)
    backbone.input = dataclasses.replace(
        old,
        channels=2 * flow_fields,
        flow_fields=flow_fields,
        mean=(128.0 if old.scale == 255.0 else 0.5,),
        std=(round(sum(old.std) / len(old.std), 6),),
        order="rgb",
    )
    return backbone


# ---------------------------------------------------------------------------------------------- memory


def channels_last(network: AnyModule, device: torch.device | None = None) -> AnyModule:
    """Let convolutions keep their channels innermost, which is quicker on CPUs and in half precision on GPUs.

    Values and answers are the same but for rounding. Kernels of 3-D convolutions are laid out anew for CUDA alone, and
    only if none of them is grouped: PyTorch computes depthwise 3-D convolutions channel by channel, and would turn
    every map around before and after one (X3D, CSN). Those of 2-D convolutions beside them are laid out in any case.

    Args:
        network: its weights are changed in place.
        device: where it is going to compute; None is where its weights lie.
    """
    weights = list(network.parameters())
    if device is None:
        device = weights[0].device if weights else torch.device("cpu")
    grouped = any(module.groups > 1 for module in network.modules() if isinstance(module, nn.Conv3d))
    for weight in weights:
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
        elif weight.ndim == 5 and device.type == "cuda" and not grouped:
            weight.data = weight.data.to(memory_format=torch.channels_last_3d)
    return network


def has_channels_last(network: nn.Module) -> bool:
    """Whether ``channels_last`` has laid out the weights of ``network``."""
    # A kernel of one pixel, or of one channel, lies both ways at once.
    return any(weight.ndim in (4, 5) and not weight.is_contiguous() for weight in network.parameters())


def clip_channels_last(clip: Tensor) -> Tensor:
    """The clip (B, T, C, H, W) with its channels innermost in memory: what the first convolution of such a network,
    2-D or 3-D, takes without a copy.
    """
    return clip.movedim(2, -1).contiguous().movedim(-1, 2)


def set_gradient_checkpointing(module: nn.Module, mode: str = "block") -> None:
    """Trade time for memory: with "block", keep what enters a residual block and compute its inside again.

    Works on every torchvision block (ResNet, MobileNet, EfficientNet, Swin, MViT, 3-D ResNet, S3D), pytorchvideo's, the
    blocks or stages of timm's networks, and any module with ``is_checkpoint_block = True``. It acts in training only;
    outputs, gradients, batch-norm statistics and tensor names stay the same. "none" switches it off.
    """
    if mode not in ("none", "block"):
        raise ValueError(f"gradient checkpointing is {mode!r}; it is 'none' or 'block'")
    blocks: list[nn.Module] = []
    inside: set[nn.Module] = set()  # what a block holds is covered with it
    for child in _blocks(module):
        if child not in inside:
            blocks.append(child)
            inside.update(child.modules())
    if not blocks and mode == "block":
        raise ValueError(
            f"{type(module).__name__} has no residual blocks to checkpoint; use gradient_checkpointing 'none'"
        )
    for block in blocks:
        block.__dict__.pop("forward", None)
        if mode == "block":
            block.forward = functools.partial(_checkpointed, block, block.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Residual blocks, outer ones first."""
    kinds = _block_classes()
    for child in module.modules():
        if isinstance(child, kinds) or getattr(child, "is_checkpoint_block", False):
            yield child
        elif isinstance(child, TimmBackbone):
            # timm has a class of block for every paper. What they share: they stand in a list and hold several layers.
            # (timm's own switch counts every batch twice in the running statistics of batch norm.)
            for part in child.network.modules():
                if type(part) in (nn.Sequential, nn.ModuleList):
                    yield from (block for block in part if _is_timm_block(block))


def _is_timm_block(module: nn.Module) -> bool:
    layers = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    return type(module) not in (nn.Sequential, nn.ModuleList) and len(layers) >= 2


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **options)
    if torch.compiler.is_compiling():
        # torch.compile writes statistics once, after the pass, however often it computes what they are made of
        return checkpoint(forward, *inputs, use_reentrant=False, **options)
    contexts = functools.partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """The second computation must not count the batch a second time in the running mean and variance."""
    norms = [
        module
        for module in block.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
    # Momentum 0 adds nothing; without running statistics at all, checkpoint would miss the tensors it saw saved before.
    settings = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in settings:
            norm.momentum, norm.num_batches_tracked = momentum, count


def _block_classes() -> tuple[type, ...]:
    models = torchvision.models
    kinds: list[type] = [
        models.resnet.BasicBlock,
        models.resnet.Bottleneck,
        models.mobilenetv2.InvertedResidual,
        models.mobilenetv3.InvertedResidual,
        models.efficientnet.MBConv,
        models.efficientnet.FusedMBConv,
        models.swin_transformer.SwinTransformerBlock,
        models.video.resnet.BasicBlock,
        models.video.resnet.Bottleneck,
        models.video.mvit.MultiscaleBlock,
        SepInceptionBlock3D,
    ]
    # A network of pytorchvideo cannot exist unless its module has been imported.
    if "pytorchvideo.models.resnet" in sys.modules:
        kinds.append(sys.modules["pytorchvideo.models.resnet"].ResBlock)
    return tuple(kinds)
