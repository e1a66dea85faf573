"""The horizon of a recogniser in a stream: the newest frames that its answers depend on.

The answer of a recogniser that steps frame by frame depends on all frames since the stream began. After hours such an
answer hardly changes, so in a stream it depends on the newest F frames, by default as many as a training clip has. The
network's state determines how older frames are forgotten (see ``SteppingClipNetwork``):

* ``total`` and ``frames``, a sum of the logits of single frames (TSN, causal TSM): the mean of the last F frames.
* ``frames`` only, the number of frames in the running means of the network's layers (MoViNet): the means fade. They
  are the published ones for the first F frames; after that the newest frame has the weight 1 / F. This differs from
  the published rule, under which the weights were trained with at most F frames.

The state of a probe (``vidact.models.probe.SteppingProbe``) holds the vectors of the newest F frames instead, so F is
its window.

Alternatively, the stream restarts every R frames and follows the published rule between restarts.

Shapes: B streams, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vidact.models.online import OnlineOutput, State, map_state


def at_horizon(
    network: Any, name: str, rate: float, frames: int, horizon_s: float | None, restart_s: float | None
) -> Any:
    """Return a network with the interface of an online detector that steps frame by frame within a horizon.

    Args:
        network: a ``SteppingClipNetwork``.
        name: the name of the network, for messages.
        rate: steps a second.
        frames: the frames of a training clip.
        horizon_s: the seconds that an answer depends on; inf is all since the beginning, as published. None is
            ``frames`` steps.
        restart_s: the seconds after which a stream restarts; None is never.

    Raises ValueError for values that are not above 0, for both at once, and for a state that cannot forget.
    """
    refuse_horizon(horizon_s, restart_s)
    state = network.initial_state(1)
    keys = state.keys() if isinstance(state, dict) else ()
    if "frames" not in keys and hasattr(network, "with_window"):
        network, horizon_s = at_window(network, name, rate, horizon_s), None
    if restart_s is not None:
        return Restarting(Fading(network, math.inf), max(1, round(restart_s * rate)))
    reach = frames if horizon_s is None else math.inf if horizon_s == math.inf else max(1, round(horizon_s * rate))
    if reach == math.inf or "frames" not in keys:
        if horizon_s is not None and reach != math.inf:
            raise ValueError(
                f"horizon_s is {horizon_s:g}, and the state of {name} has no count 'frames' by which it could forget; "
                "leave it out, or give restart_s"
            )
        return Fading(network, math.inf)
    return FrameMean(network, int(reach)) if "total" in keys else Fading(network, reach)


def at_window(network: Any, name: str, rate: float, horizon_s: float | None) -> Any:
    """Return a probe whose window is the horizon; without one, the probe itself.

    Raises ValueError for a window without an end, which no state can hold, and for one that is too short.
    """
    if horizon_s is None:
        return network
    if horizon_s == math.inf:
        raise ValueError(
            f"horizon_s is inf, and the state of {name} holds the vectors of all frames within it; give a number of "
            "seconds"
        )
    window = max(1, round(horizon_s * rate))
    if window < network.least_window:
        raise ValueError(
            f"horizon_s is {horizon_s:g}, in which {rate:g} frames a second are {window}; {name} answers about "
            f"{network.least_window} at least: give {network.least_window / rate:.2g} or more"
        )
    return network.with_window(window)


def refuse_horizon(horizon_s: float | None, restart_s: float | None) -> None:
    """Raise ValueError for seconds that are not above 0, for both at once, and for ``restart_s`` inf."""
    for option, seconds in (("horizon_s", horizon_s), ("restart_s", restart_s)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{option} is {seconds:g}; give seconds above 0")
    if restart_s is not None and horizon_s is not None:
        raise ValueError(
            f"horizon_s is {horizon_s:g} and restart_s {restart_s:g}; a stream either forgets steadily or starts "
            "anew: give one of them"
        )
    if restart_s == math.inf:
        raise ValueError("restart_s is inf; horizon_s inf keeps everything since the beginning")


class FrameMean:
    """A recogniser that steps frame by frame (TSN, causal TSM), with the interface of an online detector.

    Its output is the mean of the logits of the last ``frames`` frames, and of fewer at the beginning.
    """

    def __init__(self, network: Any, frames: int) -> None:
        self.network, self.frames = network, frames

    def initial_state(self, batch_size: int = 1) -> State:
        state = self.network.initial_state(batch_size)
        total = state["total"]
        return {
            "network": state,
            "recent": total.new_zeros(batch_size, self.frames, total.shape[1]),
            "count": torch.zeros(batch_size, dtype=torch.int64, device=total.device),
        }

    def step(self, frame: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """Return logits (B, 1, K) after one more frame (B, C, H, W)."""
        # With its sums cleared before each frame, the network's mean is that frame's logits.
        cleared = {key: torch.zeros_like(state["network"][key]) for key in ("total", "frames")}
        logits, after = self.network.step(frame, {**state["network"], **cleared})
        recent = torch.cat([state["recent"][:, 1:], logits[:, None]], 1)
        count = state["count"] + 1
        mean = recent.sum(1) / count.clamp(max=self.frames)[:, None]
        return OnlineOutput(mean[:, None]), {"network": after, "recent": recent, "count": count}


class Fading:
    """A recogniser whose layers have running means (MoViNet), with the interface of an online detector.

    Args:
        network: a ``SteppingClipNetwork``.
        frames: the most frames in a mean; inf is the network's own rule, for any state.
    """

    def __init__(self, network: Any, frames: float) -> None:
        self.network, self.frames = network, frames

    def initial_state(self, batch_size: int = 1) -> State:
        return self.network.initial_state(batch_size)

    def step(self, frame: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """Return logits (B, 1, K) after one more frame (B, C, H, W), and the next state."""
        if self.frames != math.inf:
            # The step adds one to the count n and updates each mean m by the frame x: m += (x - m) / min(n, F).
            state = {**state, "frames": state["frames"].clamp(max=self.frames - 1)}
        logits, state = self.network.step(frame, state)
        return OnlineOutput(logits[:, None]), state


class Restarting:
    """A network whose streams restart after ``frames`` steps, each by its own count."""

    def __init__(self, network: Fading, frames: int) -> None:
        self.network, self.frames = network, frames

    def initial_state(self, batch_size: int = 1) -> State:
        state = self.network.initial_state(batch_size)
        device = next(_tensors(state)).device
        return {"network": state, "count": torch.zeros(batch_size, dtype=torch.int64, device=device)}

    def step(self, frame: Tensor, state: State) -> tuple[OnlineOutput, State]:
        """Return logits (B, 1, K) after one more frame (B, C, H, W), and the next state."""
        restarts = state["count"] >= self.frames  # (B,)

        def choose(old: Tensor, first: Tensor) -> Tensor:
            return torch.where(restarts.view(-1, *[1] * (old.ndim - 1)), first, old)

        before = map_state(choose, state["network"], self.network.initial_state(len(restarts)))
        output, after = self.network.step(frame, before)
        return output, {"network": after, "count": torch.where(restarts, 0, state["count"]) + 1}


def recogniser_of(network: Any) -> Any:
    """Return the network inside those of this file; any other network is returned as it is."""
    return recogniser_of(network.network) if isinstance(network, FrameMean | Fading | Restarting) else network


def _tensors(state: State) -> Any:
    """Yield the tensors of a state."""
    if isinstance(state, Tensor):
        yield state
        return
    for part in state.values() if isinstance(state, dict) else state:
        yield from _tensors(part)
