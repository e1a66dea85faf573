"""VideoMAE and V-JEPA 2: plain vision transformers over tubes of a clip, from Hugging Face's transformers.

A clip is cut into tubes of two frames and 16 x 16 pixels. Each tube becomes a token, and every token attends to all
tokens in every layer. Both networks are pretrained on videos without labels in which some tubes are hidden. VideoMAE
(Tong, Song, Wang, Wang 2022, https://arxiv.org/abs/2203.12602) reconstructs the pixels of hidden tubes, and its tokens
are averaged. V-JEPA 2 (Assran et al. 2025, https://arxiv.org/abs/2506.09985) predicts their features, and a small
transformer pools its tokens into one.

The layers are those of https://github.com/huggingface/transformers (Apache-2.0), an optional package: ``uv sync
--extra transformers``; V-JEPA 2's pooler is ``vidact.models.attentive``. The authors' code is
https://github.com/MCG-NJU/VideoMAE (CC BY-NC 4.0, its weights too) and https://github.com/facebookresearch/vjepa2
(MIT). Different here: parts that only pretraining uses (VideoMAE's decoder, V-JEPA 2's predictor) are left out.
VideoMAE-S has 6 attention heads, as its authors trained it; the package's converter gives it 16, and the same weights
then compute something else. V-JEPA 2's views are resized to the crop's side, as its authors do for their three views.

Shapes: B videos, T frames, C channels, H x W pixels, N tokens, D features, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidact import hub
from vidact.batch import ClipInput
from vidact.hub.huggingface import published_in
from vidact.models.attentive import AttentivePooler
from vidact.models.backbones import check_clip, check_weight_path
from vidact.models.video_networks import VideoNetwork
from vidact.models.weights import Rules, builder, load_strictly, read, rename
from vidact.text.packages import how_to_install

PATCH = 16  # side of a tube in pixels
TUBE = 2  # frames in a tube
POOLER_LAYERS = 3  # transformer layers of V-JEPA 2's pooler
FRAMES = 16  # VideoMAE's table of positions is for 16 frames; V-JEPA 2's published classifiers saw 16 to 64
FILES = ("model.safetensors", "pytorch_model.bin")  # files of weights in the hub's folders, the preferred one first


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"VideoMAE and V-JEPA 2 come from transformers: {how_to_install('transformers')}") from error
    return transformers


class VideoTransformer(VideoNetwork):
    """A transformer over the tubes of a clip, one vector from its tokens, and a classifier.

    Args:
        trunk: a module from clips (B, T, C, H, W) to vectors (B, D).
        dim: size D of the trunk's vector.
        num_classes: number of classes K.
        input: the expected input; the trunk's positions are made only for its size.
        dropout: dropout rate before the classifier.
    """

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector per clip (B, D)."""
        self._check(clip)
        return self.trunk(clip)

    def tokens(self, clip: Tensor) -> Tensor:
        """Return the vectors of the tubes of each clip (B, N, D): all places of the first two frames come first."""
        self._check(clip)
        assert isinstance(self.trunk, MeanOfTokens | PooledTokens)
        return self.trunk.tokens(clip)

    def _check(self, clip: Tensor) -> None:
        check_clip(clip, self.input)
        frames, size = clip.shape[1], self.input.size
        if frames % TUBE:
            raise ValueError(
                f"the clip has {frames} frames; this network takes them in pairs. Sample {frames - 1 or TUBE} or "
                f"{frames + 1}"
            )
        if clip.shape[3:] != (size, size):
            raise ValueError(
                f"the clip has {clip.shape[3]} x {clip.shape[4]} pixels; the positions of this network are made for "
                f"{size} x {size}. Build it with size={clip.shape[3]} for such clips"
            )


class MeanOfTokens(nn.Module):
    """VideoMAE's encoder and the normalised mean of its tokens.

    Args:
        model: transformers' VideoMAEForVideoClassification.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.videomae, self.fc_norm = model.videomae, model.fc_norm
        # In transformers the table is no buffer and is copied to the device for every clip.
        embeddings = self.videomae.embeddings
        table = embeddings.__dict__.pop("position_embeddings")
        embeddings.register_buffer("position_embeddings", table, persistent=False)
        _mark_blocks(self.videomae.encoder.layer)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, C, H, W) → (B, D)."""
        return self.fc_norm(self.tokens(clip).mean(dim=1))  # (B, N, D) → (B, D)

    def tokens(self, clip: Tensor) -> Tensor:
        """(B, T, C, H, W) → (B, N, D)."""
        return self.videomae(clip).last_hidden_state


class PooledTokens(nn.Module):
    """V-JEPA 2's encoder and its attentive pooler: three transformer layers, and a query that attends to all tokens.

    Args:
        model: transformers' VJEPA2Model.
        pooler: one vector of the encoder's tokens.
        frozen_encoder: train only the pooler, not the encoder.
    """

    def __init__(self, model: Any, pooler: AttentivePooler, frozen_encoder: bool) -> None:
        super().__init__()
        self.encoder, self.pooler = model.encoder, pooler
        self.encoder.requires_grad_(not frozen_encoder)
        _mark_blocks([*self.encoder.layer, *self.pooler.self_attention_layers])

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, C, H, W) → (B, D)."""
        return self.pooler(self.tokens(clip))  # (B, N, D) → (B, D)

    def tokens(self, clip: Tensor) -> Tensor:
        """(B, T, C, H, W) → (B, N, D)."""
        return self.encoder(clip).last_hidden_state


def _mark_blocks(layers: Any) -> None:
    for layer in layers:
        layer.is_checkpoint_block = True  # see backbones.set_gradient_checkpointing


# ---------------------------------------------------------------------------------------------- weights


def _state_dict(weights: str, published: Mapping[str, str]) -> Mapping[str, Tensor]:
    """Return the tensors of a published name (downloaded once), a file or a hub folder.

    What has a classifier is a published network of ``vidact.hub``, in its cache; the other files are in the hub's.
    """
    if weights in published:
        address = f"hf://{published[weights]}"
        try:
            name = published_in(address)
            return read(hub.fetch_file(address, FILES) if name is None else hub.fetch(hub.PUBLISHED[name]))[0]
        except OSError as error:
            raise OSError(f"{error}, or train from scratch with weights=None (YAML: weights: null)") from error
    path = Path(weights)
    if path.is_dir():
        paths = [path / name for name in FILES if (path / name).is_file()]
        if not paths:
            raise FileNotFoundError(f"the folder {path} has neither {' nor '.join(FILES)}; name the file of weights")
        return read(paths[0])[0]
    check_weight_path(weights, list(published))
    return read(path)[0]


# Published files store the biases of query and value outside of these layers.
_VIDEOMAE: Rules = [
    (r"\.attention\.attention\.q_bias$", ".attention.attention.query.bias"),
    (r"\.attention\.attention\.v_bias$", ".attention.attention.value.bias"),
    (r"^classifier\.", "fc."),
    (r"^(?!fc\.)", "trunk."),
]
# Dropped: the decoder that reconstructs hidden tubes, and the norm of every token; here only the mean is normalised.
_PAINTING: Rules = [(r"^(decoder\.|encoder_to_decoder\.|mask_token$|videomae\.layernorm\.)", None)]

# Files that contain only the encoder have no "vjepa2." before its names.
_VJEPA2: Rules = [
    (r"^(vjepa2\.)?predictor\.", None),
    (r"^vjepa2\.", ""),
    (r"^classifier\.", "fc."),
    (r"^(?!fc\.)", "trunk."),
]


# The names in the code of VideoMAE's authors; weights pretrained without labels have "encoder." before these names.
_BY_ITS_AUTHORS: Rules = [
    (r"^encoder\.(?=patch_embed\.|blocks\.|norm\.)", ""),
    (r"^patch_embed\.proj\.", "videomae.embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.", r"videomae.encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.attention."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "videomae.layernorm."),
    (r"^head\.", "classifier."),
]


def _library_names(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return VideoMAE's tensors by transformers' names; the authors' files join query, key and value in one tensor."""
    names = {key.removeprefix("module."): value for key, value in state_dict.items()}
    if not any(name.endswith(".attn.qkv.weight") for name in names):
        return state_dict
    parted: dict[str, Any] = {}
    for name, value in names.items():
        if name.endswith(".attn.qkv.weight"):
            if len(value) % 3:
                raise ValueError(f"{name} has {len(value)} rows; a third each is of query, key and value")
            parts = zip(("query", "key", "value"), torch.as_tensor(value).chunk(3), strict=True)
            parted |= {name.replace("qkv", part): tensor for part, tensor in parts}
        else:
            parted[name] = value
    return {name: tensor for name, (_, tensor) in rename(parted, _BY_ITS_AUTHORS).items()}


def _names_classes(state_dict: Mapping[str, Any]) -> bool:
    return any(key.endswith("classifier.weight") for key in state_dict)


def _start(network: VideoTransformer, state_dict: Mapping[str, Tensor], rules: Rules, new: str, source: str) -> None:
    """Copy published tensors into the network; the classifier only where the number of classes is the same.

    Args:
        new: regular expression of the tensors that weights pretrained without labels do not have.
    """
    tensors = {name: tensor for name, (_, tensor) in rename(state_dict, rules).items()}
    optional = ""
    if not any(re.search(new, name) for name in tensors):
        optional = new
    elif "fc.weight" in tensors and len(tensors["fc.weight"]) != network.num_classes:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
        optional = r"^fc\."
    load_strictly(network, tensors, optional=optional, source=source)


# ---------------------------------------------------------------------------------------------- VideoMAE


@dataclass(frozen=True)
class Shape:
    """The numbers that make a size: width D, layers, attention heads, and the hidden width inside a layer."""

    width: int
    layers: int
    heads: int
    inner: int


_OF_VIDEOMAE = {
    "videomae_small": Shape(384, 12, 6, 1536),
    "videomae_base": Shape(768, 12, 12, 3072),
    "videomae_large": Shape(1024, 24, 16, 4096),
    "videomae_huge": Shape(1280, 32, 16, 5120),
    "videomae_tiny": Shape(32, 2, 2, 64),
}
_VIDEOMAE_HUB = {
    "videomae_small": {"kinetics400": "MCG-NJU/videomae-small-finetuned-kinetics"},
    "videomae_base": {
        "kinetics400": "MCG-NJU/videomae-base-finetuned-kinetics",
        "something_v2": "MCG-NJU/videomae-base-finetuned-ssv2",
        "unlabelled_kinetics400": "MCG-NJU/videomae-base",
        "unlabelled_something_v2": "MCG-NJU/videomae-base-ssv2",
    },
    "videomae_large": {
        "kinetics400": "MCG-NJU/videomae-large-finetuned-kinetics",
        "unlabelled_kinetics400": "MCG-NJU/videomae-large",
    },
    "videomae_huge": {"kinetics400": "MCG-NJU/videomae-huge-finetuned-kinetics"},
    "videomae_tiny": {},
}


def _videomae(name: str, num_classes: int, weights: str | None, size: int, dropout: float) -> VideoTransformer:
    _check_size(size)
    shape, library = _OF_VIDEOMAE[name], _transformers()
    config = library.VideoMAEConfig(
        image_size=size,
        num_frames=FRAMES,
        tubelet_size=TUBE,
        patch_size=PATCH,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        num_labels=0,
    )
    trunk = MeanOfTokens(library.VideoMAEForVideoClassification(config))
    clip_input = ClipInput(frames=FRAMES, size=size, resize=size)
    network = VideoTransformer(trunk, shape.width, num_classes, clip_input, dropout)
    # Weights for Something-Something were trained on frames spread over the video.
    network.trained_frames = None if weights == "something_v2" else FRAMES
    if weights is not None:
        state_dict = _library_names(_state_dict(weights, _VIDEOMAE_HUB[name]))
        rules = _VIDEOMAE if _names_classes(state_dict) else [*_PAINTING, *_VIDEOMAE]
        _start(network, state_dict, rules, r"^(fc|trunk\.fc_norm)\.", weights)
    return network


def _check_size(size: int) -> None:
    if size < PATCH or size % PATCH:
        raise ValueError(f"size is {size}; a crop is cut into squares of {PATCH} pixels, so give a multiple of {PATCH}")


@builder
def videomae_small(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.0
) -> VideoTransformer:
    """VideoMAE (Tong et al. 2022, https://arxiv.org/abs/2203.12602), ViT-S: 16 frames at stride 4.

    Args:
        num_classes: number of classes K.
        weights: "kinetics400", a local file or folder with transformers' names or its authors', or None.
        size: crop side in pixels, a multiple of 16; weights are published for 224.
        dropout: dropout rate before the classifier.
    """
    return _videomae("videomae_small", num_classes, weights, size, dropout)


@builder
def videomae_base(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.0
) -> VideoTransformer:
    """VideoMAE (Tong et al. 2022, https://arxiv.org/abs/2203.12602), ViT-B; arguments as in ``videomae_small``.

    Its weights may also be "something_v2" (16 frames evenly over the video), or pretrained without labels:
    "unlabelled_kinetics400" and "unlabelled_something_v2".
    """
    return _videomae("videomae_base", num_classes, weights, size, dropout)


@builder
def videomae_large(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.0
) -> VideoTransformer:
    """VideoMAE (Tong et al. 2022, https://arxiv.org/abs/2203.12602), ViT-L; arguments as in ``videomae_small``.

    Its weights may also be pretrained without labels: "unlabelled_kinetics400".
    """
    return _videomae("videomae_large", num_classes, weights, size, dropout)


@builder
def videomae_huge(
    num_classes: int, weights: str | None = "kinetics400", size: int = 224, dropout: float = 0.0
) -> VideoTransformer:
    """VideoMAE (Tong et al. 2022, https://arxiv.org/abs/2203.12602), ViT-H; arguments as in ``videomae_small``."""
    return _videomae("videomae_huge", num_classes, weights, size, dropout)


@builder
def videomae_tiny(
    num_classes: int, weights: str | None = None, size: int = 32, dropout: float = 0.0
) -> VideoTransformer:
    """VideoMAE with two narrow layers for tests; no published weights exist."""
    return _videomae("videomae_tiny", num_classes, weights, size, dropout)


# ---------------------------------------------------------------------------------------------- V-JEPA 2

_OF_VJEPA2 = {
    "vjepa2_large": Shape(1024, 24, 16, 4096),
    "vjepa2_huge": Shape(1280, 32, 16, 5120),
    "vjepa2_giant": Shape(1408, 40, 22, 6144),
    "vjepa2_tiny": Shape(32, 2, 2, 64),
}
_VJEPA2_HUB = {
    "vjepa2_large": {
        "something_v2": "facebook/vjepa2-vitl-fpc16-256-ssv2",
        "diving48": "facebook/vjepa2-vitl-fpc32-256-diving48",
        "unlabelled": "facebook/vjepa2-vitl-fpc64-256",
    },
    "vjepa2_huge": {"unlabelled": "facebook/vjepa2-vith-fpc64-256"},
    "vjepa2_giant": {
        "something_v2": "facebook/vjepa2-vitg-fpc64-384-ssv2",
        "diving48": "facebook/vjepa2-vitg-fpc32-384-diving48",
        "unlabelled": "facebook/vjepa2-vitg-fpc64-384",
        "unlabelled_256": "facebook/vjepa2-vitg-fpc64-256",
    },
    "vjepa2_tiny": {},
}


def _vjepa2(
    name: str, num_classes: int, weights: str | None, size: int, dropout: float, frozen_encoder: bool
) -> VideoTransformer:
    _check_size(size)
    shape, library = _OF_VJEPA2[name], _transformers()
    config = library.VJEPA2Config(
        crop_size=size,
        tubelet_size=TUBE,
        patch_size=PATCH,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        mlp_ratio=shape.inner / shape.width,
        pred_num_hidden_layers=0,
    )
    pooler = AttentivePooler(shape.width, shape.heads, POOLER_LAYERS)
    trunk = PooledTokens(library.VJEPA2Model(config), pooler, frozen_encoder)
    network = VideoTransformer(trunk, shape.width, num_classes, ClipInput(size=size, resize=size), dropout)
    published = _VJEPA2_HUB[name].get(weights or "", "")
    network.trained_frames = int(match[1]) if (match := re.search(r"-fpc(\d+)-", published)) else FRAMES
    if weights is not None:
        state_dict = _state_dict(weights, _VJEPA2_HUB[name])
        _start(network, state_dict, _VJEPA2, r"^(fc|trunk\.pooler)\.", weights)
    return network


@builder
def vjepa2_large(
    num_classes: int,
    weights: str | None = "something_v2",
    size: int = 256,
    dropout: float = 0.0,
    frozen_encoder: bool = False,
) -> VideoTransformer:
    """V-JEPA 2 (Assran et al. 2025, https://arxiv.org/abs/2506.09985), ViT-L: 16 frames, or any even number.

    Args:
        num_classes: number of classes K.
        weights: "something_v2" or "diving48" for a published encoder, pooler and classifier, "unlabelled" for only the
            encoder, a local file or folder with transformers' names, or None.
        size: crop side in pixels, a multiple of 16; weights are published for 256.
        dropout: dropout rate before the classifier.
        frozen_encoder: train only the pooler and the classifier, as the paper does.
    """
    return _vjepa2("vjepa2_large", num_classes, weights, size, dropout, frozen_encoder)


@builder
def vjepa2_huge(
    num_classes: int,
    weights: str | None = "unlabelled",
    size: int = 256,
    dropout: float = 0.0,
    frozen_encoder: bool = False,
) -> VideoTransformer:
    """V-JEPA 2 (Assran et al. 2025, https://arxiv.org/abs/2506.09985), ViT-H; arguments as in ``vjepa2_large``.

    Only the encoder is published: "unlabelled".
    """
    return _vjepa2("vjepa2_huge", num_classes, weights, size, dropout, frozen_encoder)


@builder
def vjepa2_giant(
    num_classes: int,
    weights: str | None = "something_v2",
    size: int = 384,
    dropout: float = 0.0,
    frozen_encoder: bool = False,
) -> VideoTransformer:
    """V-JEPA 2 (Assran et al. 2025, https://arxiv.org/abs/2506.09985), ViT-g, published at 64 frames of 384 pixels.

    Arguments are as in ``vjepa2_large``; "unlabelled_256" is an encoder for size 256.
    """
    return _vjepa2("vjepa2_giant", num_classes, weights, size, dropout, frozen_encoder)


@builder
def vjepa2_tiny(
    num_classes: int,
    weights: str | None = None,
    size: int = 32,
    dropout: float = 0.0,
    frozen_encoder: bool = False,
) -> VideoTransformer:
    """V-JEPA 2 with two narrow layers for tests; no published weights exist."""
    return _vjepa2("vjepa2_tiny", num_classes, weights, size, dropout, frozen_encoder)


# ---------------------------------------------------------------------------------------------- published weights

_BUILDERS: dict[str, Callable[..., VideoTransformer]] = {
    build.__name__: build
    for build in (
        videomae_small,
        videomae_base,
        videomae_large,
        videomae_huge,
        videomae_tiny,
        vjepa2_large,
        vjepa2_huge,
        vjepa2_giant,
        vjepa2_tiny,
    )
}


def _size_of(state_dict: Mapping[str, Any], sizes: Mapping[str, Shape], whose: str) -> str:
    """Return the name of the size that has the width and the number of layers of the state dict."""
    patches = re.compile(r"patch_embeddings\.proj(ection)?\.weight$")
    widths = [value.shape[0] for key, value in state_dict.items() if patches.search(key)]
    layers = {match[1] for key in state_dict if (match := re.search(r"\bencoder\.layer\.(\d+)\.", key))}
    for name, shape in sizes.items():
        if widths == [shape.width] and len(layers) == shape.layers:
            return name
    descriptions = ", ".join(f"{name} ({shape.width}, {shape.layers})" for name, shape in sizes.items())
    raise ValueError(
        f"the state dict has width {widths[0] if widths else 'unknown'} and {len(layers)} layers; "
        f"the sizes of {whose} are {descriptions}"
    )


def _check_classes(state_dict: Mapping[str, Any], whose: str) -> None:
    if not _names_classes(state_dict):
        raise ValueError(
            f"these {whose} weights learned without labels and have no classifier; pass the file as weights= of a size "
            "function and train one"
        )


def from_videomae(state_dict: Mapping[str, Any], num_classes: int, size: int = 224) -> VideoTransformer:
    """Build VideoMAE from transformers' names, ``videomae.encoder.layer.0.…``, or its authors', ``blocks.0.…``.

    The shapes of the tensors determine the size.
    """
    state_dict = _library_names(state_dict)
    _check_classes(state_dict, "VideoMAE")
    name = _size_of(state_dict, _OF_VIDEOMAE, "VideoMAE")
    network = _BUILDERS[name](num_classes, weights=None, size=size)
    load_strictly(network, state_dict, _VIDEOMAE, source="the videomae state dict")
    return network


def from_vjepa2(state_dict: Mapping[str, Any], num_classes: int, size: int | None = None) -> VideoTransformer:
    """Build V-JEPA 2 from transformers' names, ``vjepa2.encoder.layer.0.…``.

    The shapes of the tensors determine the network's size. ``size`` is the crop's side in pixels; None is the one that
    the network was published with.
    """
    _check_classes(state_dict, "V-JEPA 2")
    name = _size_of(state_dict, _OF_VJEPA2, "V-JEPA 2")
    sizes = {} if size is None else {"size": size}
    network = _BUILDERS[name](num_classes, weights=None, **sizes)
    load_strictly(network, state_dict, _VJEPA2, source="the vjepa2 state dict")
    return network
