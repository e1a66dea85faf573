"""Windows of a clip: a network that was trained on windows of a fixed length reads several of them.

A clip is divided into windows of equal length. The vector of the clip is the mean of the windows' vectors, and its
tokens are those of all windows. ``vidact.video.WindowSampler`` chooses frames so that the windows lie at the distance
of frames that the network was trained with, and together cover the clip.

Shapes: B clips, T = W * F frames, W windows of F frames, C channels, H x W pixels, N tokens of a window, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vidact.models.backbones import check_clip
from vidact.models.clip_network import VectorNetwork
from vidact.models.weights import attach, build_from_recipe, builder, load_strictly, recipe_of

WINDOWS = 2  # windows of a clip where their number is not given


class ClipWindows(nn.Module):
    """A clip network whose vector is the mean of the vectors of several windows.

    Args:
        trunk: a clip network with ``features``.
        frames: frames F of a window.
        windows: number of windows W of a clip.
    """

    def __init__(self, trunk: VectorNetwork, frames: int, windows: int) -> None:
        super().__init__()
        if frames < 1 or windows < 1:
            raise ValueError(f"frames is {frames} and windows is {windows}; both are at least 1")
        if trunk.input.frames not in (None, frames):
            raise ValueError(f"frames is {frames}, and the weights of the trunk are made for {trunk.input.frames}")
        assert isinstance(trunk, nn.Module)
        self.trunk = trunk
        self.frames, self.windows = frames, windows
        self.dim = trunk.dim
        self.input = dataclasses.replace(trunk.input, frames=frames * windows)

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector a clip, (B, D), of clips (B, T, C, H, W)."""
        assert isinstance(self.trunk, VectorNetwork)
        return self.trunk.features(self._divided(clip)).unflatten(0, (-1, self.windows)).mean(dim=1)

    def tokens(self, clip: Tensor) -> Tensor:
        """Return the tokens of all windows, (B, W * N, D), of clips (B, T, C, H, W)."""
        trunk: Any = self.trunk  # ``token_probe.refuse_without_tokens`` refuses one without tokens
        return trunk.tokens(self._divided(clip)).unflatten(0, (-1, self.windows)).flatten(1, 2)

    def _divided(self, clip: Tensor) -> Tensor:
        check_clip(clip, self.input)
        return clip.unflatten(1, (self.windows, self.frames)).flatten(0, 1)  # (B * W, F, C, H, W)


@builder
def clip_windows(trunk: Mapping[str, Any], frames: int, windows: int) -> ClipWindows:
    """Build a network of several windows without weights.

    Args:
        trunk: the recipe of a clip network of vidact that has features.
        frames: frames of a window.
        windows: number of windows of a clip.
    """
    network = build_from_recipe(trunk)
    if not isinstance(network, VectorNetwork):
        raise ValueError(f"{type(network).__name__} has no features(clip), so its windows have no mean")
    return ClipWindows(network, frames, windows)


def in_windows(network: nn.Module, windows: int = WINDOWS) -> nn.Module:
    """Return the network on several windows, where it was trained on windows of a known length; else the network."""
    frames, recipe = getattr(network, "trained_frames", None), recipe_of(network)
    if frames is None or recipe is None:
        return network
    arguments = {name: None if name == "weights" else value for name, value in recipe["arguments"].items()}
    whole = clip_windows({**recipe, "arguments": arguments}, frames, windows)
    load_strictly(whole.trunk, network.state_dict(), source="the network")
    attach(whole.trunk, input=network.input)
    attach(whole, input=dataclasses.replace(whole.trunk.input, frames=frames * windows))
    return whole
