"""Compare the cost of a step of an online detector with computing its whole window at every token.

    python benchmarks/step.py                                      # the published sizes, and ours; minutes
    python benchmarks/step.py --detectors [oadtr,lstr,testra] --ours []
    python benchmarks/step.py --runtimes [torch]                         # without making graphs for ONNX Runtime
    python benchmarks/step.py --history [64,512,4096] --out runs/step    # figures also in runs/step/results.json

Window and step run in turn on the same tokens, each in PyTorch and in ONNX Runtime, with random weights, one stream, in
single precision; times are medians, and the ratio is that of the two fastest. GMAC are billions of multiply-adds, half
of the operations that torch.utils.flop_counter counts. The difference is the largest one of all logits of a step from
PyTorch's window, over the rounds and runtimes, relative to max(1, max|logit|).

The limit of a step is the time in which the memory delivers what a step must read: every weight, every table and every
row of the state that it uses, each once. The memory's bandwidth is measured in every round, by a sum over a buffer and
by its product with a vector, of which the faster counts. A step within 1.5 times of its limit is "at the limit".
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jsonargparse
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vidact.models.causal import causal_transformer
from vidact.models.lstr import LSTR, lstr, testra
from vidact.models.miniroad import miniroad
from vidact.models.oadtr import oadtr
from vidact.models.online import OnlineNetwork, OnlineOutput, map_state
from vidact.models.trn_recurrent import trn_recurrent
from vidact.results.figures import command_line, save_results
from vidact.runtimes.choices import RUNTIMES, Agreement
from vidact.runtimes.compiled import Compiled, make_graph
from vidact.runtimes.steps import flatten, named_outputs, step_in_onnx

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
MEASURED = RUNTIMES[1:]  # without "auto"
AT_LIMIT = 1.5  # a step that takes at most so many times its limit is at it
LEAST_ROUNDS = 5


def main(
    detectors: list[str] | None = None,
    ours: list[str] | None = None,
    history: list[int] | None = None,
    repeats: int = 20,
    seconds: float = 20.0,
    runtimes: list[str] | None = None,
    toy: bool = False,
    out: str | None = None,
) -> None:
    """Print the tables.

    Args:
        detectors: published detectors to measure: trn_recurrent, miniroad, oadtr, lstr, testra. All by default.
        ours: kinds of our causal transformer to measure: softmax, linear, state_space. All by default.
        history: numbers of tokens after which ours is measured, ascending. 64, 512, 4096 and 65536 by default.
        repeats: rounds for each published detector; ours, which are faster, are timed ten times as often.
        seconds: after the fifth round of a detector, start no more once its rounds have taken this long.
        runtimes: the runtimes of window and step: torch, onnx. Both by default; making the graphs takes minutes.
        toy: use tiny networks, to check that this runs.
        out: folder for results.json.
    """
    detectors = list(DETECTORS) if detectors is None else detectors
    ours = list(KINDS) if ours is None else ours
    history = [64, 512, 4096, 65536] if history is None else history
    runtimes = list(MEASURED) if runtimes is None else runtimes
    chosen_of = (("detectors", detectors, DETECTORS), ("ours", ours, KINDS), ("runtimes", runtimes, MEASURED))
    for name, chosen, choices in chosen_of:
        if unknown := set(chosen) - set(choices):
            raise ValueError(f"{name} has {', '.join(sorted(unknown))}; it may have {', '.join(choices)}")
    if history != sorted(set(history)) or min(history, default=0) < 1:
        raise ValueError(f"history is {history}; it is one or more numbers of tokens, ascending, from 1")
    if "torch" not in runtimes:
        raise ValueError(f"runtimes is {runtimes}; add torch, with which the others are compared")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; at least one round is timed")

    facts = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(facts)
    published, causal = {}, {}
    if detectors:
        print(f"\n{'':14}{'GMAC':>16}{'':7}{'ms, ' + ' and '.join(runtimes):>26}")
        print(
            f"{'detector':14}{'window':>8}{'step':>8}{'ratio':>7}{'window':>16}{'step':>16}{'ratio':>7}{'difference':>12}"
            f"{'reads, MB':>11}{'GB/s':>7}{'limit, ms':>11}{'step/limit':>12}{'state, bytes':>14}"
        )
    for name in detectors:
        row = published[name] = measure(build(name, toy), name, repeats, seconds, runtimes)
        times = {
            kind: " ".join(f"{row['ms'][f'{kind} {runtime}']:.2f}" for runtime in runtimes)
            for kind in ("window", "step")
        }
        print(
            f"{name:14}{row['window_gmac']:8.3f}{row['step_gmac']:8.3f}{row['gmac_ratio']:7.2f}"
            f"{times['window']:>16}{times['step']:>16}{row['ms_ratio']:7.2f}{row['difference']:12.1e}"
            f"{row['read_bytes'] / 1e6:11.1f}{row['bandwidth'] / 1e9:7.1f}{row['limit_ms']:11.2f}"
            f"{row['of_limit']:12.2f}{row['state_bytes']:14}{'  at the limit' if row['of_limit'] <= AT_LIMIT else ''}",
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


class NewestOfWindow(nn.Module):
    """The outputs by name of a window's newest token."""

    def __init__(self, network: OnlineNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return newest(self.network(features))


def newest(output: OnlineOutput) -> dict[str, Tensor]:
    return {name: tensor[:, -1:] for name, tensor in named_outputs(output).items()}


@torch.no_grad()
def measure(network: OnlineNetwork, name: str, repeats: int, seconds: float, runtimes: list[str]) -> dict[str, Any]:
    """Measure all ways in turn for the tokens after a full window; without a window, repeatedly for one token."""
    length = network.window or STRETCH
    features = torch.randn(1, length + repeats, network.feature_dim)
    before = network.initial_state()
    for feature in features[:, : length - 1].unbind(1):
        # Thousands of tokens fill a long memory, but only the last ones need answers.
        before = network.remember(feature, before) if isinstance(network, LSTR) else network.step(feature, before)[1]

    with FlopCounterMode(display=False) as window_flops:
        expected = newest(network(features[:, :length]))
    with FlopCounterMode(display=False) as step_flops:
        actual, after = network.step(features[:, length - 1], before)
    reads = Reads(network, before)
    with reads:
        network.step(features[:, length - 1], before)
    steps: dict[str, OnlineNetwork] = {"torch": network}
    windows: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {"torch": lambda tokens: newest(network(tokens))}
    if "onnx" in runtimes:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"VIDACT_HOME": folder}):
            steps["onnx"] = step_in_onnx(network, name)
        graph = window_graph(network, length, name)
        windows["onnx"] = lambda tokens: graph.run({"window": tokens}, list(expected))
    states = {runtime: before if runtime == "torch" else flatten(before) for runtime in runtimes}

    buffer = torch.ones(2**26 if features.shape[-1] == FEATURE_DIM else 2**16)  # a quarter of a GB, or next to nothing
    difference = compare(newest(actual), expected)
    times: dict[str, list[float]] = {}

    def timed(key: str, function: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = function()
        times.setdefault(key, []).append(time.perf_counter() - started)
        return result

    rounds, began = 0, time.perf_counter()
    for rounds in range(1, repeats + 2):  # the first round warms up the machine and does not count
        if rounds > LEAST_ROUNDS + 1 and time.perf_counter() - began > seconds:
            break
        first = rounds - 1 if network.window else 0
        tokens, feature = features[:, first : first + length], features[:, first + length - 1]
        for runtime in runtimes:
            answers = timed(f"window {runtime}", lambda runtime=runtime, tokens=tokens: windows[runtime](tokens))
            expected = answers if runtime == "torch" else expected
        for runtime in runtimes:
            output, following = timed(
                f"step {runtime}",
                lambda runtime=runtime, feature=feature: steps[runtime].step(feature, states[runtime]),
            )
            states[runtime] = following if network.window else states[runtime]
            difference = max(difference, compare(newest(output), expected))
        timed("sum", buffer.sum)
        timed("product", lambda: buffer.view(-1, 1024) @ buffer[:1024])
    medians = {key: statistics.median(each[1:] or each) for key, each in times.items()}
    bandwidth = buffer.numel() * buffer.element_size() / min(medians["sum"], medians["product"])
    window_gmac, step_gmac = window_flops.get_total_flops() / 2e9, step_flops.get_total_flops() / 2e9
    window_ms, step_ms = (
        1000 * min(medians[f"{kind} {runtime}"] for runtime in runtimes) for kind in ("window", "step")
    )
    limit_ms = 1000 * reads.count_bytes() / bandwidth
    return {
        "window": length,
        "window_gmac": window_gmac,
        "step_gmac": step_gmac,
        "gmac_ratio": window_gmac / step_gmac,
        "ms": {key: 1000 * median for key, median in medians.items()},
        "window_ms": window_ms,
        "step_ms": step_ms,
        "ms_ratio": window_ms / step_ms,
        "difference": difference,
        "read_bytes": reads.count_bytes(),
        "bandwidth": bandwidth,
        "limit_ms": limit_ms,
        "of_limit": step_ms / limit_ms,
        "state_bytes": state_bytes(after),
        "rounds": len(times["sum"]) - 1,
    }


def window_graph(network: OnlineNetwork, length: int, name: str) -> Compiled:
    """Return the ONNX graph of the newest token's outputs for a whole window (B, ``length``, D)."""
    example = torch.randn(2, length, network.feature_dim)
    outputs = newest(network(example))

    def compared(graph: Compiled) -> Agreement:
        actual = graph.run({"window": example}, list(outputs))
        pairs = [(actual[key], tensor) for key, tensor in outputs.items()]
        return Agreement(max(float((a - e).abs().max()) for a, e in pairs), max(float(e.abs().max()) for _, e in pairs))

    return make_graph(NewestOfWindow(network), (example,), ["window"], list(outputs), f"{name}'s window", compared)


class Reads(TorchDispatchMode):
    """What the operations inside the block read of a network's weights and tables and of a state, each byte once.

    A row that is selected by its index counts alone, and a ring that is copied with a new row in it does not.
    """

    def __init__(self, network: OnlineNetwork, state: Any) -> None:
        super().__init__()
        self._sources = {
            tensor.untyped_storage().data_ptr(): tensor
            for tensor in (*network.parameters(), *network.buffers(), *tables_of(network), *flatten(state).values())
            if tensor.is_floating_point()
        }
        self._spans: dict[int, set[tuple[int, int]]] = {}
        self._selected = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func.overloadpacket.__name__
        if func.is_view or kind in ("index_put", "detach"):
            return result
        for tensor in tree_leaves((args, kwargs)):
            if not isinstance(tensor, Tensor) or (key := tensor.untyped_storage().data_ptr()) not in self._sources:
                continue
            if kind in ("embedding", "index", "index_select", "gather"):
                self._selected += result.numel() * result.element_size()
                continue
            size = tensor.element_size()
            extent = 1 + sum(
                (length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            self._spans.setdefault(key, set()).add(
                (tensor.storage_offset() * size, (tensor.storage_offset() + extent) * size)
            )
        return result

    def count_bytes(self) -> int:
        total = self._selected
        for spans in self._spans.values():
            end = 0
            for first, last in sorted(spans):
                total += max(0, last - max(first, end))
                end = max(end, last)
        return total


def tables_of(network: OnlineNetwork) -> Iterator[Tensor]:
    """Yield the tensors that the network has computed from its weights alone."""
    tables = vars(network).get("_tables")
    for leaf in tree_leaves(tables.of(network, network._derive)) if tables else []:
        if isinstance(leaf, Tensor):
            yield leaf


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


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of the newest token's answers, relative to max(1, max|logit|)."""
    return max(
        float((actual[name] - tensor).abs().max()) / max(1.0, float(tensor.abs().max()))
        for name, tensor in expected.items()
    )


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
