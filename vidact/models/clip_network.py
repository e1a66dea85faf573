"""Clip networks: the attributes and methods that training, scoring, streaming and export rely on.

They are protocols: any ``nn.Module`` that has them is one, a network of another package too. ``isinstance`` tests it.
Online detectors, which read features instead of clips, are ``vidact.models.online.OnlineNetwork``s.

Shapes: B videos or streams, T frames, C channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vidact.batch import ClipInput


@runtime_checkable
class ClipNetwork(Protocol):
    """A network that recognises the action of a clip.

    Attributes:
        num_classes: number of classes K.
        input: the number of frames, the size in pixels, the channels and the normalisation of the clips.
    """

    num_classes: int
    input: ClipInput

    def __call__(self, clip: Tensor) -> Tensor:
        """Return the logits (B, K) of clips (B, T, C, H, W)."""


@runtime_checkable
class VectorNetwork(Protocol):
    """A network that turns a clip into one vector, as the feature extractor of a detector needs it.

    Attributes:
        dim: size D of the vector.
        input: the expected clips, as in ``ClipNetwork``.
    """

    dim: int
    input: ClipInput

    def features(self, clip: Tensor) -> Tensor:
        """Return one vector a clip, (B, D), of clips (B, T, C, H, W)."""


@runtime_checkable
class SteppingClipNetwork(ClipNetwork, Protocol):
    """A clip network that also runs frame by frame: a causal TSM, a TSN, a stream MoViNet.

    A network that can step in some of its forms only has the attribute ``is_causal``: see ``is_bidirectional``.

    The state is a dict. A stream can forget old frames where the state has ``frames`` (B, 1), the number of frames in
    its means: see ``vidact.stream.horizon``. ``total`` (B, K) beside it is the sum of the logits of single frames.
    """

    def initial_state(self, batch_size: int) -> Any:
        """Return the state of streams before their first frame: a tree of tensors whose first axis is the stream."""

    def step(self, frame: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the logits (B, K) of each stream up to the frame (B, C, H, W), and the next state."""


@runtime_checkable
class SteppingVectorNetwork(VectorNetwork, SteppingClipNetwork, Protocol):
    """A clip network whose vectors are computed frame by frame as well: a causal TSM, a TSN, a stream MoViNet.

    Where the state has ``total``, ``features`` is the mean of the frames' vectors; elsewhere it is the vector of the
    last frame, which stands for the whole clip.
    """

    def frame_features(self, clip: Tensor) -> Tensor:
        """Return the vectors of every frame (B, T, D) of clips (B, T, C, H, W), which no later frame changes."""

    def step_features(self, frame: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the vectors (B, D) of a frame (B, C, H, W), and the next state; ``total`` and ``frames`` may stay."""


def is_bidirectional(network: object) -> bool:
    """Return whether the network is in a form, such as a bidirectional TSM, whose ``step`` would need later frames."""
    return not getattr(network, "is_causal", True)


def trained_length(network: Any) -> int | None:
    """Return the number of frames of the clips that a network was trained on, where its weights or its size say so.

    That is ``input.frames`` of a network that takes no other number, or the attribute ``trained_frames`` of one that
    was trained on windows of so many frames.
    """
    clip_input = getattr(network, "input", None)
    return getattr(network, "trained_frames", None) or (
        clip_input.frames if isinstance(clip_input, ClipInput) else None
    )
