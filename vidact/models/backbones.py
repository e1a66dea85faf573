"""Image networks that turn one frame into one vector: torchvision's, timm's, and BN-Inception from its own file.

A backbone has ``input`` (the input that its weights expect), ``dim`` and ``forward(images) → vectors``. Its tensors
keep the names of the library that it comes from (``layer1.0.conv1.weight``), so that published weights load unchanged.

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

FLOW_FIELDS = 5  # consecutive flow fields in one input image of a flow network: 10 channels (TSN, TSM)


class Backbone(nn.Module):
    """An image network that returns one vector for each image.

    ``maps(images)`` returns the last feature map, where a network has one; ``forward(images)`` returns vectors (N, D).
    """

    dim: int
    input: ClipInput

    def maps(self, images: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no feature map")

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean(dim=(2, 3))


def check_clip(clip: Tensor, expected: ClipInput) -> None:
    """Raise ValueError for a clip of the wrong shape, before a convolution raises a less clear error."""
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
    """The trunk of a torchvision ResNet: everything except ``fc``."""

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
    """Load torchvision's own weights or a local file into a module, or (None) leave it as it is.

    Args:
        weights: ``published`` ("imagenet", "kinetics400"), a member of the enum ("IMAGENET1K_V2"), a path, None, or
            "auto": the published weights if they are cached or can be downloaded, else none, and a printed message.
        enum: torchvision's weights enum of this network.
        rules: rename table, which at least drops the classifier by name.
    """
    if weights is None:
        return
    names = [member.name for member in enum]
    if weights == "auto":
        try:
            load_torchvision(module, published, enum, published, rules)
        except OSError as error:
            vars(module)["lacks_weights"] = True
            print(
                f"weights auto: training starts from nothing, because {error}. Expect less of a network that starts "
                "from nothing, above all on few videos; and let all of it learn, where a recipe freezes parts: "
                "--model.freeze none --model.freeze_norms none"
            )
        return
    if weights == published:
        weights = names[0]  # version 1, from which the papers' training started
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


def lacks_weights(network: nn.Module) -> bool:
    """Return whether a part of a network should have had published weights ("auto") and has random ones."""
    return any("lacks_weights" in vars(module) for module in network.modules())


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
    2 x 2. No published weights exist.
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
    """A timm network without its classifier; ``network`` is timm's module."""

    def __init__(self, network: Any, dim: int, input: ClipInput) -> None:
        super().__init__()
        self.network = network
        self.dim = dim
        self.input = input

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def timm_backbone(name: str, weights: str | None = "imagenet", size: int | None = None) -> TimmBackbone:
    """Build any network of timm (https://github.com/huggingface/pytorch-image-models) by its name there.

    Args:
        name: a name of ``timm.list_models()``, such as "convnext_tiny" or "vit_small_patch16_224.augreg_in21k_ft_in1k".
        weights: "imagenet" for the weights that timm publishes under this name, a local file, or None.
        size: crop side in pixels; None is the size at which timm's weights were evaluated.
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
    # Vision transformers are built for one image size; most other networks do not accept ``img_size``.
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
    """Return the name and the module of the convolution that reads the image."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            return name, child
    raise ValueError(f"{type(module).__name__} has no 2-D convolution")


class DifferenceConv2d(nn.Conv2d):
    """A convolution of the L differences between L + 1 consecutive RGB images (TSN's RGB difference).

    Each difference is an image minus the image before it, oldest first. The input is normalised, so the mean cancels.
    """

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, 3:] - images[:, :-3])  # (N, 3 * (L + 1), H, W) → (N, 3 * L, H, W)


def with_channels(module: AnyModule, channels: int, kind: type[nn.Conv2d] = nn.Conv2d) -> AnyModule:
    """Change the first convolution of an image network to take ``channels`` channels; return the same module.

    Cross-modality initialisation (Wang et al. 2016, https://arxiv.org/abs/1608.00859): the first convolution's kernel
    is averaged over its input channels and repeated; its name, its bias and everything else stay. The sum is not
    rescaled, because batch norm absorbs the factor.
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
    """Return the backbone changed for "flow" or "rgb_difference" input, or unchanged for "rgb".

    "flow" is ``flow_fields`` consecutive fields, x and y each, centred on the middle of their range and divided by the
    mean of the RGB deviations (TSN's rule). "rgb_difference" is ``flow_fields`` differences of consecutive frames,
    normalised as RGB in training and testing; the published code does not normalise them in training.
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
    """Store convolution kernels channels last, which is faster on CPUs and in half precision on GPUs.

    Outputs change only by rounding. Kernels of 2-D convolutions always change their layout. Kernels of 3-D convolutions
    change only on CUDA, and only if none of them is grouped: PyTorch computes depthwise 3-D convolutions channel by
    channel, and would convert every map before and after one (X3D, CSN).

    Args:
        network: the network whose weights are changed in place.
        device: the device that will run the network; None is the device of its weights.
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
    """Return whether ``channels_last`` has changed the weights of ``network``."""
    # The two layouts of a kernel with one pixel or one channel are the same.
    return any(weight.ndim in (4, 5) and not weight.is_contiguous() for weight in network.parameters())


def clip_channels_last(clip: Tensor) -> Tensor:
    """Return the clip (B, T, C, H, W) with its channels innermost in memory.

    The first convolution of a channels-last network, 2-D or 3-D, then reads it without a copy.
    """
    return clip.movedim(2, -1).contiguous().movedim(-1, 2)


def set_gradient_checkpointing(module: nn.Module, mode: str = "block") -> None:
    """Trade time for memory: with "block", store only a residual block's input and compute its inside again.

    Works on every torchvision block (ResNet, MobileNet, EfficientNet, Swin, MViT, 3-D ResNet, S3D), pytorchvideo's, the
    blocks or stages of timm's networks, and any module with ``is_checkpoint_block = True``. It acts in training only;
    outputs, gradients, batch-norm statistics and tensor names stay the same. "none" switches it off.
    """
    if mode not in ("none", "block"):
        raise ValueError(f"gradient checkpointing is {mode!r}; it is 'none' or 'block'")
    blocks: list[nn.Module] = []
    inside: set[nn.Module] = set()  # modules within a block, which are checkpointed with it
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
    """Yield residual blocks, outer blocks before inner ones."""
    kinds = _block_classes()
    for child in module.modules():
        if isinstance(child, kinds) or getattr(child, "is_checkpoint_block", False):
            yield child
        elif isinstance(child, TimmBackbone):
            # timm has its own block class for every paper. All of them are items of a list and contain several layers.
            # (With timm's own option, the running statistics of batch norm count every batch twice.)
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
        # torch.compile writes the statistics once, after the pass, even if it computes their values several times.
        return checkpoint(forward, *inputs, use_reentrant=False, **options)
    contexts = functools.partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep the running mean and variance unchanged in the second computation, which must not count the batch again."""
    norms = [
        module
        for module in block.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
    # Momentum 0 adds nothing. Without running statistics, the second pass would save fewer tensors than the first.
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
    # A network of pytorchvideo can only exist if its module is imported.
    if "pytorchvideo.models.resnet" in sys.modules:
        kinds.append(sys.modules["pytorchvideo.models.resnet"].ResBlock)
    return tuple(kinds)
