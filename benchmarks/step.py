"""Compare the cost of a step of an online detector with computing its whole window at every token.

    python benchmarks/step.py                                      # the published sizes, and ours; minutes
    python benchmarks/step.py --detectors [oadtr,lstr,testra] --ours []
    python benchmarks/step.py --history [64,512,4096] --out runs/step    # figures also in runs/step/results.json

Both ways run in turn on the same tokens, with random weights, one stream, in single precision; times are medians.
GMAC are billions of multiply-adds, half of the operations that torch.utils.flop_counter counts. The difference is the
largest one of all logits over the rounds, relative to max(1, max|logit|).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jsonargparse
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidact.models.causal import causal_transformer
from vidact.models.lstr import LSTR, lstr, testra
from vidact.models.miniroad import miniroad
from vidact.models.oadtr import oadtr
from vidact.models.online import OnlineNetwork, OnlineOutput, map_state
from vidact.models.trn_recurrent import trn_recurrent
from vidact.results.figures import command_line, save_results

NUM_CLASSES = 22  # THUMOS'14: background, 20 actions, and the ambiguous class of the published networks
FEATURE_DIM = 3072

# Networks that carry their state through the whole video have no window; for them, this many tokens from the beginning
# of a video are computed.
STRETCH = 16

# The function that builds each detector, and the arguments of its toy size, which only checks that this file runs.
DETECTORS: dict[str, tuple[Callable[..., OnlineNetwork], dict[str, Any]]] = {
    "trn_recurrent": (trn_recurrent, {"hidden_dim": 16, "decoder_steps": 2}),
    "miniroad": (miniroad, {"embedding_dim": 16, "hidden_dim": 16}),
    "oadtr": (oadtr, {"width": 16, "window": 8}),
    "lstr": (lstr, {"width": 16, "long": 4, "work": 3}),
    "testra": (testra, {"width": 16, "long": 4, "work": 3}),
}
KINDS = ("softmax", "linear", "state_space")


def main(
    detectors: list[str] | None = None,
    ours: list[str] | None = None,
    history: list[int] | None = None,
    repeats: int = 20,
    seconds: float = 20.0,
    toy: bool = False,
    out: str | None = None,
) -> None:
    """Print the tables.

    Args:
        detectors: published detectors to measure: trn_recurrent, miniroad, oadtr, lstr, testra. All by default.
        ours: kinds of our causal transformer to measure: softmax, linear, state_space. All by default.
        history: numbers of tokens after which ours is measured, ascending. 64, 512, 4096 and 65536 by default.
        repeats: rounds for each published detector; ours, which are faster, are timed ten times as often.
        seconds: after the third round of a detector, start no more once its rounds have taken this long.
        toy: use tiny networks, to check that this runs.
        out: folder for results.json.
    """
    detectors = list(DETECTORS) if detectors is None else detectors
    ours = list(KINDS) if ours is None else ours
    history = [64, 512, 4096, 65536] if history is None else history
    for name, chosen, choices in (("detectors", detectors, DETECTORS), ("ours", ours, KINDS)):
        if unknown := set(chosen) - set(choices):
            raise ValueError(f"{name} has {', '.join(sorted(unknown))}; it may have {', '.join(choices)}")
    if history != sorted(set(history)) or min(history, default=0) < 1:
        raise ValueError(f"history is {history}; it is one or more numbers of tokens, ascending, from 1")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; at least one round is timed")

    facts = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(facts)
    published, causal = {}, {}
    if detectors:
        print(f"\n{'':14} {'GMAC':>22}   {'ms':>24}")
        print(
            f"{'detector':14}{'window':>8}{'step':>8}{'ratio':>7}{'window':>10}{'step':>8}{'ratio':>7}"
            f"{'difference':>12}{'state, bytes':>14}"
        )
    for name in detectors:
        row = published[name] = measure(build(name, toy), repeats, seconds)
        print(
            f"{name:14}{row['window_gmac']:8.3f}{row['step_gmac']:8.3f}{row['gmac_ratio']:7.2f}"
            f"{row['window_ms']:10.2f}{row['step_ms']:8.2f}{row['ms_ratio']:7.2f}{row['difference']:12.1e}{row['state_bytes']:14}",
            flush=True,
        )
    if ours:
        print(f"\n{'ours':14}{'history':>8}{'GMAC':>9}{'ms':>8}{'state, bytes':>14}")
    for kind in ours:
        size = {"width": 16, "feature_dim": 24} if toy else {"feature_dim": FEATURE_DIM}
        network = ready(lambda kind=kind, size=size: causal_transformer(NUM_CLASSES, attention=kind, **size))
        causal[kind] = measure_history(network, history, 10 * repeats)
        for row in causal[kind]:
            print(
                f"{kind:14}{row['history']:8}{row['step_gmac']:9.5f}{row['step_ms']:8.3f}{row['state_bytes']:14}",
                flush=True,
            )
    if out is not None:
        path = save_results(out, {"step": published, "ours": causal}, command_line(), machine=facts)
        print(f"\n{path}")


def build(name: str, toy: bool = False) -> OnlineNetwork:
    """Return a detector of its published size, or a tiny one."""
    function, small = DETECTORS[name]
    arguments = {"feature_dim": 24, **small} if toy else {"feature_dim": FEATURE_DIM}
    return ready(lambda: function(NUM_CLASSES, **arguments))


@torch.no_grad()
def ready(make: Callable[[], OnlineNetwork]) -> OnlineNetwork:
    """Return the network with random weights and biases large enough that an error shows in the output."""
    torch.manual_seed(0)
    # TRN starts from orthogonal matrices, which takes minutes at its size; they are replaced here anyway.
    with mock.patch("torch.nn.init.orthogonal_"):
        network = make().eval().requires_grad_(False)  # the flop counter fails on parameters that require gradients
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@torch.no_grad()
def measure(network: OnlineNetwork, repeats: int, seconds: float) -> dict[str, float]:
    """Measure both ways in turn for the tokens after a full window; without a window, repeatedly for one token."""
    length = network.window or STRETCH
    features = torch.randn(1, length + repeats, network.feature_dim)
    before = network.initial_state()
    for feature in features[:, : length - 1].unbind(1):
        # Thousands of tokens fill a long memory, but only the last ones need answers.
        before = network.remember(feature, before) if isinstance(network, LSTR) else network.step(feature, before)[1]

    # The first round counts the multiplications, and warms up the machine.
    with FlopCounterMode(display=False) as window_flops:
        expected = network(features[:, :length])
    with FlopCounterMode(display=False) as step_flops:
        actual, after = network.step(features[:, length - 1], before)
    difference = compare(actual, expected)
    window_s: list[float] = []
    step_s: list[float] = []
    while len(step_s) < repeats and (len(step_s) < 3 or sum(window_s) + sum(step_s) < seconds):
        first = 0
        if network.window:
            first, before = len(step_s) + 1, after
        started = time.perf_counter()
        expected = network(features[:, first : first + length])
        between = time.perf_counter()
        actual, after = network.step(features[:, first + length - 1], before)
        step_s.append(time.perf_counter() - between)
        window_s.append(between - started)
        difference = max(difference, compare(actual, expected))
    window_gmac, step_gmac = window_flops.get_total_flops() / 2e9, step_flops.get_total_flops() / 2e9
    window_ms, step_ms = 1000 * statistics.median(window_s), 1000 * statistics.median(step_s)
    return {
        "window": length,
        "window_gmac": window_gmac,
        "step_gmac": step_gmac,
        "gmac_ratio": window_gmac / step_gmac,
        "window_ms": window_ms,
        "step_ms": step_ms,
        "ms_ratio": window_ms / step_ms,
        "difference": difference,
        "state_bytes": state_bytes(after),
        "rounds": len(step_s),
    }


@torch.no_grad()
def measure_history(network: OnlineNetwork, history: list[int], repeats: int) -> list[dict[str, float]]:
    """Measure a step after each length of history, in turn."""
    state, states = network.initial_state(), {}
    for count in range(1, max(history) + 1):
        _, state = network.step(torch.randn(1, network.feature_dim), state)
        if count in history:
            states[count] = state
        if count % 4096 == 0:
            print(f"  … {count} of {max(history)} tokens", file=sys.stderr, flush=True)
    feature = torch.randn(1, network.feature_dim)
    with FlopCounterMode(display=False) as flops:
        network.step(feature, state)
    seconds: dict[int, list[float]] = {count: [] for count in history}
    for _ in range(repeats):
        for count, before in states.items():
            started = time.perf_counter()
            network.step(feature, before)
            seconds[count].append(time.perf_counter() - started)
    return [
        {
            "history": count,
            "step_gmac": flops.get_total_flops() / 2e9,
            "step_ms": 1000 * statistics.median(seconds[count]),
            "state_bytes": state_bytes(states[count]),
        }
        for count in history
    ]


def compare(actual: OnlineOutput, expected: OnlineOutput) -> float:
    """Return the largest difference of the newest token's answers, relative to max(1, max|logit|)."""
    pairs = [(actual.logits[:, -1], expected.logits[:, -1])]
    if actual.future is not None and expected.future is not None:
        pairs.append((actual.future[:, -1], expected.future[:, -1]))
    return max(float((a - e).abs().max()) / max(1.0, float(e.abs().max())) for a, e in pairs)


def state_bytes(state: Any) -> int:
    """Return the bytes of one stream's state."""
    sizes: list[int] = []

    def weigh(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_state(weigh, state)
    return sum(sizes)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
