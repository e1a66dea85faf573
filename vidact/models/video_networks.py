"""3-D and transformer networks of torchvision and pytorchvideo behind the clip contract.

Both libraries take (B, C, T, H, W) and end in a classifier of 400 classes. Here the axes are exchanged first, the
classifier is replaced, and each function has the input that its published weights expect. pytorchvideo pools windows of
the trained size and averages them after the classifier; averaging before the linear classifier gives the same result,
so larger crops keep their published scores and smaller ones work too.

Shapes: B videos, T frames, C channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.video import mvit, resnet, swin_transformer

from vidact import hub
from vidact.batch import ClipInput
from vidact.models.backbones import check_clip, check_weight_path
from vidact.models.weights import Rules, builder, load_strictly, load_weights, read, rename

FACEBOOK = ClipInput(mean=(0.45,), std=(0.225,), resize=256)
TORCHVISION_112 = ClipInput(size=112, mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989), resize=128)
ALPHA = 4  # SlowFast's fast pathway gets four frames for each frame of the slow pathway


class VideoNetwork(nn.Module):
    """A 3-D network and a classifier.

    Args:
        trunk: a module from clips (B, C, T, H, W) to vectors (B, D).
        dim: size D of the trunk's vector.
        num_classes: number of classes K.
        input: the input that the trunk expects.
        dropout: dropout rate before the classifier.
        min_frames: number of frames of the shortest clip that the trunk's strides and pools allow.
    """

    def __init__(
        self, trunk: nn.Module, dim: int, num_classes: int, input: ClipInput, dropout: float, min_frames: int = 1
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        self.num_classes = num_classes
        self.dim = dim
        self.input = input
        self.min_frames = min_frames
        self.trained_frames: int | None = None  # frames of a window in training; None where any length works

    def forward(self, clip: Tensor) -> Tensor:
        """Return logits (B, K) of a clip (B, T, C, H, W)."""
        return self.fc(self.dropout(self.features(clip))).float()

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per clip (B, D)."""
        self._check(clip)
        return self.trunk(self._inputs(clip))

    def tokens(self, clip: Tensor) -> Tensor:
        """Return the places of the last feature map of each clip (B, N, D'): all places of the first moment come first.

        N is T' * H' * W' of the map. D' is D, save for X3D, whose vectors have a layer more.
        """
        self._check(clip)
        return tokens_before_pool(self.trunk, self._inputs(clip))

    def _inputs(self, clip: Tensor) -> Any:
        """Return the trunk's inputs of clips (B, T, C, H, W)."""
        return clip.transpose(1, 2)  # (B, C, T, H, W)

    def _check(self, clip: Tensor) -> None:
        check_clip(clip, self.input)
        if clip.shape[1] < self.min_frames:
            raise ValueError(f"the clip has {clip.shape[1]} frames; this network takes at least {self.min_frames}")


class SlowFast(VideoNetwork):
    """SlowFast (Feichtenhofer et al. 2019, https://arxiv.org/abs/1812.03982); the slow pathway gets 1 frame in 4."""

    def _inputs(self, clip: Tensor) -> list[Tensor]:
        return [slow_frames(clip).transpose(1, 2), clip.transpose(1, 2)]


def slow_frames(clip: Tensor) -> Tensor:
    """Return a quarter of the frames, evenly from first to last: 0, 4, 8, 13, …, 31 of 32, as in published training."""
    frames = clip.shape[1]
    if frames % ALPHA:
        raise ValueError(
            f"SlowFast takes a number of frames divisible by {ALPHA}; the clip has {frames}. "
            f"Sample {max(ALPHA, frames // ALPHA * ALPHA)} or {(frames // ALPHA + 1) * ALPHA}"
        )
    slow = frames // ALPHA
    places = torch.arange(slow, device=clip.device) * (frames - 1) // max(slow - 1, 1)
    return clip[:, places]


def tokens_before_pool(trunk: Any, inputs: Any) -> Tensor:
    """Return the tokens (B, N, D') that a trunk pools into its vector: the layers of its ``forward`` up to the pool.

    Those of MViT are its tokens without that of the class. SlowFast's fast pathway is averaged over the moments of a
    moment of the slow one, and its channels follow the slow one's.

    Args:
        trunk: of torchvision, pytorchvideo, or a sequence of layers that ends with a ``WindowPool``.
        inputs: clips (B, C, T, H, W), or a list of both pathways' for SlowFast.
    """
    if isinstance(trunk, mvit.MViT):
        tokens = trunk.pos_encoding(trunk.conv_proj(inputs).flatten(2).transpose(1, 2))
        sizes = (trunk.pos_encoding.temporal_size, *trunk.pos_encoding.spatial_size)
        for block in trunk.blocks:
            tokens, sizes = block(tokens, sizes)
        return trunk.norm(tokens)[:, 1:]
    maps = inputs
    if isinstance(trunk, resnet.VideoResNet):
        for layer in (trunk.stem, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            maps = layer(maps)
    elif isinstance(trunk, swin_transformer.SwinTransformer3d):
        maps = trunk.norm(trunk.features(trunk.pos_drop(trunk.patch_embed(maps)))).movedim(4, 1)
    elif isinstance(trunk, torchvision.models.video.S3D):
        maps = trunk.features(maps)
    elif isinstance(trunk, nn.Sequential):
        for layer in trunk:
            if isinstance(layer, WindowPool):
                break
            maps = layer(maps)
    else:
        is_slowfast = isinstance(maps, list)
        for block in trunk.blocks[: -2 if is_slowfast else -1]:
            maps = block(maps)
        pool = trunk.blocks[-1].pool
        if is_slowfast:
            slow, fast = maps
            maps = torch.cat([slow, F.adaptive_avg_pool3d(fast, slow.shape[2:])], dim=1)
        elif hasattr(pool, "post_conv"):  # X3D's
            maps = pool.pre_act(pool.pre_norm(pool.pre_conv(maps)))
    return maps.flatten(2).mT


class WindowPool(nn.Module):
    """An average over every window of the trained size (time, height, width), or over a whole axis that is smaller."""

    def __init__(self, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel = tuple(int(size) for size in kernel)

    def forward(self, maps: Tensor) -> Tensor:
        kernel = [min(trained, size) for trained, size in zip(self.kernel, maps.shape[2:], strict=True)]
        return F.avg_pool3d(maps, kernel, stride=1)


def _resized(input: ClipInput, size: int) -> ClipInput:
    """Return the input for another crop side; the short side of a test view keeps its ratio to the crop."""
    resize = (input.resize or input.size) * size // input.size
    return dataclasses.replace(input, size=size, resize=resize)


def _start(network: VideoNetwork, weights: str | None, name: str, rules: Rules) -> None:
    """Load published Kinetics-400 weights, a local file with the same names, or (None) nothing.

    The published classifier is loaded too where it has as many classes as the network.

    Args:
        name: the name of the published network in ``vidact.hub``.
    """
    if weights is None:
        return
    if weights == "kinetics400":
        try:
            state_dict, _ = read(hub.fetch(hub.PUBLISHED[name]))
        except OSError as error:
            raise OSError(f"{error}, or train from scratch with weights=None (YAML: weights: null)") from error
    else:
        check_weight_path(weights, ["kinetics400"])
        state_dict, _ = read(weights)
    tensors = {new: tensor for new, (_, tensor) in rename(state_dict, rules).items()}
    if "fc.weight" in tensors:
        tensors["fc.weight"] = tensors["fc.weight"].flatten(1)  # S3D's classifier is a 1x1x1 convolution
        if len(tensors["fc.weight"]) != network.num_classes:
            del tensors["fc.weight"], tensors["fc.bias"]
    load_strictly(network, tensors, optional=r"^fc\.", source=weights)


# ---------------------------------------------------------------------------------------------- pytorchvideo

PYTORCHVIDEO: Rules = [(r"^blocks\.\d+\.proj\.", "fc."), (r"^(?!fc\.)", "trunk.")]


def _pytorchvideo(
    kind: type[VideoNetwork],
    module: str,
    name: str,
    num_classes: int,
    weights: str | None,
    input: ClipInput,
    dropout: float,
) -> VideoNetwork:
    # Import only pytorchvideo.models and .layers: its transforms import a torchvision module that no longer exists.
    library = importlib.import_module(f"pytorchvideo.models.hub.{module}")
    trunk = getattr(library, name)(pretrained=False)
    head = trunk.blocks[-1]
    dim = head.proj.in_features
    # Some published heads average softmax scores over the windows; we average logits; both are equal for one window.
    head.proj, head.dropout, head.activation = nn.Identity(), None, None
    if hasattr(head.pool, "post_conv"):  # X3D has a ReLU between its pool and its classifier
        head.pool.pool = WindowPool(head.pool.pool.kernel_size)
    elif head.pool is not None:
        head.pool = WindowPool(head.pool.kernel_size)
    else:  # SlowFast pools its pathways a block earlier; they differ in length, so each is fully averaged
        pools = trunk.blocks[-2].pool
        for i, pool in enumerate(pools):
            pools[i] = nn.Sequential(WindowPool(pool.kernel_size), nn.AdaptiveAvgPool3d(1))
    _let_compile(trunk)
    network = kind(trunk, dim, num_classes, input, dropout)
    _start(network, weights, name, PYTORCHVIDEO)
    return network


def _let_compile(trunk: nn.Module) -> None:
    """Replace two things in pytorchvideo's modules that torch.compile cannot handle.

    Strides that are NumPy integers break the graph, and the backward pass of X3D's Swish uses ``ctx.saved_variables``.
    """
    for module in list(trunk.modules()):
        if isinstance(module, nn.Conv3d):
            module.stride = tuple(int(step) for step in module.stride)
        for name, child in module.named_children():
            if type(child).__name__ == "Swish":
                setattr(module, name, nn.SiLU())  # Swish and SiLU are the same function


@builder
def slowfast_r50(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5
) -> VideoNetwork:
    """SlowFast-R50 8x8: 32 frames at stride 2, eight of them for the slow pathway.

    Args:
        num_classes: number of classes K.
        weights: "kinetics400", a local file with pytorchvideo's names, or None.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return _pytorchvideo(SlowFast, "slowfast", "slowfast_r50", num_classes, weights, _resized(FACEBOOK, size), dropout)


@builder
def slowfast_r101(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5
) -> VideoNetwork:
    """SlowFast-R101 8x8; arguments as in ``slowfast_r50``. Its weights were trained on 32 frames at stride 2."""
    return _pytorchvideo(SlowFast, "slowfast", "slowfast_r101", num_classes, weights, _resized(FACEBOOK, size), dropout)


@builder
def slow_r50(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5
) -> VideoNetwork:
    """SlowFast's slow pathway only: 8 frames at stride 8; arguments as in ``slowfast_r50``."""
    return _pytorchvideo(VideoNetwork, "resnet", "slow_r50", num_classes, weights, _resized(FACEBOOK, size), dropout)


@builder
def c2d_r50(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5
) -> VideoNetwork:
    """A 2-D ResNet-50 that only pools over time: 8 frames at stride 8; arguments as in ``slowfast_r50``."""
    return _pytorchvideo(VideoNetwork, "resnet", "c2d_r50", num_classes, weights, _resized(FACEBOOK, size), dropout)


@builder
def i3d_r50(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5
) -> VideoNetwork:
    """I3D (Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750) on ResNet-50: 8 frames at stride 8."""
    return _pytorchvideo(VideoNetwork, "resnet", "i3d_r50", num_classes, weights, _resized(FACEBOOK, size), dropout)


@builder
def csn_r101(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5
) -> VideoNetwork:
    """Channel-separated ResNet-101 (Tran et al. 2019, https://arxiv.org/abs/1904.02811): 32 frames at stride 2."""
    return _pytorchvideo(VideoNetwork, "csn", "csn_r101", num_classes, weights, _resized(FACEBOOK, size), dropout)


@builder
def r2plus1d_r50(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5
) -> VideoNetwork:
    """R(2+1)D (Tran et al. 2018, https://arxiv.org/abs/1711.11248) on ResNet-50: 16 frames at stride 4."""
    return _pytorchvideo(
        VideoNetwork, "r2plus1d", "r2plus1d_r50", num_classes, weights, _resized(FACEBOOK, size), dropout
    )


X3D_LARGE = ClipInput(size=312, mean=(0.45,), std=(0.225,), resize=356)
X3D_SMALL = ClipInput(size=160, mean=(0.45,), std=(0.225,), resize=182)


@builder
def x3d_xs(
    num_classes: int, weights: str | None = "kinetics400", size: int = 160, dropout: float = 0.5
) -> VideoNetwork:
    """X3D-XS (Feichtenhofer 2020, https://arxiv.org/abs/2004.04730): 4 frames at stride 12.

    Args:
        num_classes: number of classes K.
        weights: "kinetics400", a local file with pytorchvideo's names, or None.
        size: crop side in pixels; published scores come from size 182.
        dropout: dropout rate before the classifier.
    """
    return _pytorchvideo(VideoNetwork, "x3d", "x3d_xs", num_classes, weights, _resized(X3D_SMALL, size), dropout)


@builder
def x3d_s(num_classes: int, weights: str | None = "kinetics400", size: int = 160, dropout: float = 0.5) -> VideoNetwork:
    """X3D-S: 13 frames at stride 6; arguments as in ``x3d_xs``."""
    return _pytorchvideo(VideoNetwork, "x3d", "x3d_s", num_classes, weights, _resized(X3D_SMALL, size), dropout)


@builder
def x3d_m(num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.5) -> VideoNetwork:
    """X3D-M: 16 frames at stride 5; arguments as in ``x3d_xs``, published scores from size 256."""
    return _pytorchvideo(VideoNetwork, "x3d", "x3d_m", num_classes, weights, _resized(FACEBOOK, size), dropout)


@builder
def x3d_l(num_classes: int, weights: str | None = "kinetics400", size: int = 312, dropout: float = 0.5) -> VideoNetwork:
    """X3D-L: 16 frames at stride 5; arguments as in ``x3d_xs``, published scores from size 356."""
    return _pytorchvideo(VideoNetwork, "x3d", "x3d_l", num_classes, weights, _resized(X3D_LARGE, size), dropout)


# ---------------------------------------------------------------------------------------------- torchvision


def _torchvision(
    name: str,
    trunk: Any,
    dim: int,
    head: str,
    num_classes: int,
    weights: str | None,
    input: ClipInput,
    dropout: float,
    min_frames: int = 1,
) -> VideoNetwork:
    network = VideoNetwork(trunk, dim, num_classes, input, dropout, min_frames)
    _start(network, weights, name, _torchvision_names(head))
    return network


def _torchvision_names(head: str) -> Rules:
    return [(rf"^{head}\.", "fc."), (r"^(?!fc\.)", "trunk.")]


def _resnet_3d(name: str, num_classes: int, weights: str | None, size: int, dropout: float) -> VideoNetwork:
    trunk = getattr(torchvision.models.video, name)()
    dim, trunk.fc = trunk.fc.in_features, nn.Identity()
    return _torchvision(name, trunk, dim, "fc", num_classes, weights, _resized(TORCHVISION_112, size), dropout)


@builder
def r3d_18(
    num_classes: int, weights: str | None = "kinetics400", size: int = 112, dropout: float = 0.0
) -> VideoNetwork:
    """3-D ResNet-18 (Tran et al. 2018, https://arxiv.org/abs/1711.11248): 16 frames.

    Args:
        num_classes: number of classes K.
        weights: "kinetics400", a local file with torchvision's names, or None.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
    """
    return _resnet_3d("r3d_18", num_classes, weights, size, dropout)


@builder
def mc3_18(
    num_classes: int, weights: str | None = "kinetics400", size: int = 112, dropout: float = 0.0
) -> VideoNetwork:
    """ResNet-18 that is 3-D in its first layers and 2-D after; arguments as in ``r3d_18``."""
    return _resnet_3d("mc3_18", num_classes, weights, size, dropout)


@builder
def r2plus1d_18(
    num_classes: int, weights: str | None = "kinetics400", size: int = 112, dropout: float = 0.0
) -> VideoNetwork:
    """R(2+1)D on ResNet-18: 16 frames; arguments as in ``r3d_18``."""
    return _resnet_3d("r2plus1d_18", num_classes, weights, size, dropout)


@builder
def r3d_tiny(
    num_classes: int, weights: str | None = None, size: int = 64, dropout: float = 0.0, width: int = 16
) -> VideoNetwork:
    """A four-block 3-D ResNet for tests and CPU demos; no published weights exist.

    Args:
        num_classes: number of classes K.
        weights: a local file, or None.
        size: crop side in pixels.
        dropout: dropout rate before the classifier.
        width: channels of the first block; the others have 2, 4 and 8 times as many and halve time and space.
    """
    trunk = resnet.VideoResNet(resnet.BasicBlock, [resnet.Conv3DSimple] * 4, [1, 1, 1, 1], resnet.BasicStem)
    trunk.stem = nn.Sequential(
        nn.Conv3d(3, width, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(width), nn.ReLU(), nn.MaxPool3d((1, 2, 2))
    )
    trunk.inplanes = width
    for number, (factor, stride) in enumerate([(1, 1), (2, 2), (4, 2), (8, 2)], start=1):
        layer = trunk._make_layer(resnet.BasicBlock, resnet.Conv3DSimple, factor * width, 1, stride)
        setattr(trunk, f"layer{number}", layer)
    for module in trunk.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    trunk.fc = nn.Identity()
    if weights is not None:
        check_weight_path(weights, [])
        load_weights(trunk, weights, ignore=r"^fc\.")
    return VideoNetwork(trunk, 8 * width, num_classes, _resized(TORCHVISION_112, size), dropout)


@builder
def s3d(num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.2) -> VideoNetwork:
    """S3D (Xie et al. 2018, https://arxiv.org/abs/1712.04851): separable Inception; arguments as in ``r3d_18``."""
    trunk = torchvision.models.video.s3d()
    dim = trunk.classifier[1].in_channels
    trunk.avgpool = WindowPool(trunk.avgpool.kernel_size)
    trunk.classifier = nn.Identity()
    input = _resized(dataclasses.replace(TORCHVISION_112, size=224, resize=256), size)
    # S3D's strides need 5 frames. Below 8 frames, torch 2.15 on a CPU computes wrong gradients for the stem's 7-frame
    # kernel at stride 2, or crashes (oneDNN).
    return _torchvision("s3d", trunk, dim, r"classifier\.1", num_classes, weights, input, dropout, min_frames=8)


@builder
def mvit_v2_s(num_classes: int, weights: str | None = "kinetics400", dropout: float = 0.5) -> VideoNetwork:
    """MViTv2-S (Li et al. 2022, https://arxiv.org/abs/2112.01526); its positions are made for 16 frames of 224 pixels.

    Args:
        num_classes: number of classes K.
        weights: "kinetics400", a local file with torchvision's names, or None.
        dropout: dropout rate before the classifier.
    """
    return _mvit("mvit_v2_s", num_classes, weights, dropout)


def _mvit(name: str, num_classes: int, weights: str | None, dropout: float) -> VideoNetwork:
    trunk = getattr(torchvision.models.video, name)()
    dim, trunk.head = trunk.head[1].in_features, nn.Identity()
    input = dataclasses.replace(FACEBOOK, frames=16)
    network = _torchvision(name, trunk, dim, r"head\.1", num_classes, weights, input, dropout)
    network.trained_frames = 16
    return network


@builder
def swin3d_t(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.0
) -> VideoNetwork:
    """Video Swin-T (Liu et al. 2022, https://arxiv.org/abs/2106.13230): 32 frames; arguments as in ``r3d_18``."""
    return _swin3d("swin3d_t", num_classes, weights, size, dropout)


def _swin3d(name: str, num_classes: int, weights: str | None, size: int, dropout: float) -> VideoNetwork:
    trunk = getattr(torchvision.models.video, name)()
    dim, trunk.head = trunk.head.in_features, nn.Identity()
    return _torchvision(name, trunk, dim, "head", num_classes, weights, _resized(ClipInput(resize=256), size), dropout)


@builder
def swin3d_s(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.0
) -> VideoNetwork:
    """Video Swin-S: 32 frames; arguments as in ``r3d_18``."""
    return _swin3d("swin3d_s", num_classes, weights, size, dropout)


@builder
def swin3d_b(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.0
) -> VideoNetwork:
    """Video Swin-B: 32 frames; arguments as in ``r3d_18``."""
    return _swin3d("swin3d_b", num_classes, weights, size, dropout)


@builder
def mvit_v1_b(num_classes: int, weights: str | None = "kinetics400", dropout: float = 0.5) -> VideoNetwork:
    """MViT-B 16x4 (Fan et al. 2021, https://arxiv.org/abs/2104.11227); arguments as in ``mvit_v2_s``."""
    return _mvit("mvit_v1_b", num_classes, weights, dropout)


# ---------------------------------------------------------------------------------------------- published weights

_OF_PYTORCHVIDEO = {
    "slowfast_r50": slowfast_r50,
    "slowfast_r101": slowfast_r101,
    "slow_r50": slow_r50,
    "c2d_r50": c2d_r50,
    "i3d_r50": i3d_r50,
    "csn_r101": csn_r101,
    "r2plus1d_r50": r2plus1d_r50,
    "x3d_xs": x3d_xs,
    "x3d_s": x3d_s,
    "x3d_m": x3d_m,
    "x3d_l": x3d_l,
}
_OF_TORCHVISION = {
    "r3d_18": (r3d_18, "fc"),
    "mc3_18": (mc3_18, "fc"),
    "r2plus1d_18": (r2plus1d_18, "fc"),
    "s3d": (s3d, r"classifier\.1"),
    "mvit_v1_b": (mvit_v1_b, r"head\.1"),
    "mvit_v2_s": (mvit_v2_s, r"head\.1"),
    "swin3d_t": (swin3d_t, "head"),
    "swin3d_s": (swin3d_s, "head"),
    "swin3d_b": (swin3d_b, "head"),
}

# PySlowFast counts stages from 1 and pytorchvideo counts blocks from 0, including the pool between the second and the
# third stage of C2D and I3D.
_SLOWFAST_INSIDE: Rules = [
    (r"\.branch1_bn\.", ".branch1_norm."),
    (r"\.branch1\.", ".branch1_conv."),
    (r"\.branch2\.([abc])_bn\.", r".branch2.norm_\1."),
    (r"\.branch2\.([abc])\.", r".branch2.conv_\1."),
    (r"^head\.projection\.", "fc."),
    (r"^blocks", "trunk.blocks"),
]
_OF_SLOWFAST: dict[str, Rules] = {
    "slowfast_r50": [
        (r"^s1\.pathway(\d)_stem\.conv\.", r"blocks.0.multipathway_blocks.\1.conv."),
        (r"^s1\.pathway(\d)_stem\.bn\.", r"blocks.0.multipathway_blocks.\1.norm."),
        *(
            rule
            for stage in range(1, 6)
            for rule in (
                (rf"^s{stage}_fuse\.conv_f2s\.", f"blocks.{stage - 1}.multipathway_fusion.conv_fast_to_slow."),
                (rf"^s{stage}_fuse\.bn\.", f"blocks.{stage - 1}.multipathway_fusion.norm."),
                (
                    rf"^s{stage}\.pathway(\d)_res(\d+)\.",
                    rf"blocks.{stage - 1}.multipathway_blocks.\1.res_blocks.\2.",
                ),
            )
        ),
    ],
    **{
        name: [
            (r"^s1\.pathway0_stem\.conv\.", "blocks.0.conv."),
            (r"^s1\.pathway0_stem\.bn\.", "blocks.0.norm."),
            *(
                (rf"^s{stage}\.pathway0_res(\d+)\.", rf"blocks.{stage - 1 + (pooled and stage > 2)}.res_blocks.\1.")
                for stage in range(2, 6)
            ),
        ]
        for name, pooled in (("slow_r50", False), ("c2d_r50", True), ("i3d_r50", True))
    },
}
_OF_SLOWFAST["slowfast_r101"] = _OF_SLOWFAST["slowfast_r50"]


def _check_network(network: str, names: Mapping[str, Any], whose: str) -> None:
    if network not in names:
        raise ValueError(f"network is {network!r}; of {whose}'s there are {', '.join(names)}")


def from_pytorchvideo(state_dict: Mapping[str, Any], network: str, num_classes: int) -> VideoNetwork:
    """Build a network of pytorchvideo's hub from its names, ``blocks.0.…``; ``network`` names the function here."""
    _check_network(network, _OF_PYTORCHVIDEO, "pytorchvideo")
    built = _OF_PYTORCHVIDEO[network](num_classes, weights=None)
    load_strictly(built, state_dict, PYTORCHVIDEO, source="the pytorchvideo state dict")
    return built


def from_torchvision(state_dict: Mapping[str, Any], network: str, num_classes: int) -> VideoNetwork:
    """Build a video network of torchvision from its names; ``network`` names the function here."""
    _check_network(network, _OF_TORCHVISION, "torchvision")
    function, head = _OF_TORCHVISION[network]
    built: VideoNetwork = function(num_classes, weights=None)  # type: ignore[operator]
    if network == "s3d":  # S3D's classifier is a 1x1x1 convolution
        state_dict = {
            key: torch.as_tensor(tensor).flatten(1) if key.endswith("classifier.1.weight") else tensor
            for key, tensor in state_dict.items()
        }
    load_strictly(built, state_dict, _torchvision_names(head), source="the torchvision state dict")
    return built


def from_slowfast(state_dict: Mapping[str, Any], network: str, num_classes: int) -> VideoNetwork:
    """Build SlowFast 8x8, Slow, C2D or I3D from PySlowFast's names: ``s2.pathway0_res0.branch2.a.weight``.

    PySlowFast's X3D cannot be read: the shortcut of every stage has a batch norm there, but in pytorchvideo only where
    the width changes.
    """
    _check_network(network, _OF_SLOWFAST, "PySlowFast")
    built = _OF_PYTORCHVIDEO[network](num_classes, weights=None)
    rules = [*_OF_SLOWFAST[network], *_SLOWFAST_INSIDE]
    load_strictly(built, state_dict, rules, source="the slowfast state dict")
    return built
