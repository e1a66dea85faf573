"""The step of a detector as an ONNX graph: its state is a part of the inputs and of the outputs.

``step_in_onnx`` makes the graph of a detector's step as ``compiled`` makes that of a network, once, and keeps it in the
same cache. The graphs that ``vidact.export`` writes have the same form; ``GraphStep`` runs both.

Shapes: B streams, D features, K outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vidact.models.online import OnlineNetwork, OnlineOutput, State, map_state
from vidact.models.weights import weights_hash
from vidact.runtimes.choices import Agreement
from vidact.runtimes.compiled import Compiled, agreement_of, cached, make_graph, path_of, refuse_size

# A detector with fewer parameters computes a step in one or two milliseconds, and its graph would take seconds to make.
LEAST_STEP_PARAMETERS = 5_000_000

_TRACED_STREAMS = 2  # a size of 1 would become a constant in the graph
_MADE, _READ = (3, 40), (1, 2)  # streams and steps with which a graph is compared: a new one, one of the cache


# ---------------------------------------------------------------------------------------------- the graph's form


def flatten(state: State, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a state by their path in it: ``count``, ``layers.0.keys``."""
    if isinstance(state, Tensor):
        return {name: state}
    parts = state.items() if isinstance(state, dict) else enumerate(state)
    return {
        path: tensor
        for key, part in parts
        for path, tensor in flatten(part, f"{name}.{key}" if name else str(key)).items()
    }


def named_outputs(output: OnlineOutput | Tensor) -> dict[str, Tensor]:
    """Return the outputs of a step by name: a detector's, or a clip network's logits."""
    if isinstance(output, Tensor):
        return {"logits": output}
    return {"logits": output.logits} | ({} if output.future is None else {"future": output.future})


class StepGraph(nn.Module):
    """The graph of one step: (token, state by name) → outputs by name, with the next state under "state"."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.tree = network.initial_state(1)

    def forward(self, token: Tensor, state: dict[str, Tensor]) -> dict[str, Any]:
        paths = [*flatten(self.tree)]
        names = iter(paths)
        output, after = self.network.step(token, map_state(lambda _: state[next(names)], self.tree))
        flat = flatten(after)
        # A file names its outputs in the order of the first state, which that of a later state need not have.
        return {**named_outputs(output), "state": {path: flat[path] for path in paths}}


# ---------------------------------------------------------------------------------------------- running


class Steps(Protocol):
    """A graph with a state: the outputs by name for one more token (B, …) of each stream, and the next state."""

    def initial_state(self, batch_size: int) -> dict[str, Tensor]: ...

    def step(self, token: Tensor, state: State) -> tuple[dict[str, Tensor], State]: ...


class GraphStep(OnlineNetwork):
    """A detector whose step a graph computes, on the CPU.

    It has no parameters. Its inputs may be on any device; its outputs and its state are on the CPU. The state is a flat
    dict, so ``stack_states``, ``select_streams`` and ``reset`` work on it.
    """

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Return the outputs that come with every token (n = T), computed step by step."""
        if start is not None and start.any():
            raise ValueError("an exported step begins every video at its first token; leave start out")
        self.check(features)
        return self._run_steps(features, self.initial_state(len(features)))

    def initial_state(self, batch_size: int = 1) -> State:
        return self._steps.initial_state(batch_size)

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        self.check(feature)
        results, state = self._steps.step(feature, state)
        return OnlineOutput(results["logits"], results.get("future")), state


class CompiledSteps:
    """The graph of a step, and the state before the first token.

    A step copies the state, except for the large rings of ``OnlineNetwork.rings``: it writes their next row in place,
    where no earlier state reads. ``born`` and ``written`` of the state are the numbers of tokens at which the rings
    were copied last, and of those that they hold: a step from a state that is not their newest, and one for which no
    spare row is left, copies them first.

    Args:
        graph: inputs ``token`` and ``state.<name>``; outputs ``logits``, ``next.<name>`` and, where it is, ``future``.
        first: the state of one stream before its first token, with ``count`` where there are rings.
        outputs: the names of the outputs that are not the state.
        rings: the names of the rings.
        spare_rows: the tokens that can be written to the rings before a state loses its oldest row.
    """

    def __init__(
        self,
        graph: Compiled,
        first: dict[str, Tensor],
        outputs: list[str],
        rings: tuple[str, ...] = (),
        spare_rows: int = 0,
    ) -> None:
        self.graph, self.first, self.outputs = graph, first, outputs
        self.rings, self.spare_rows = rings, spare_rows

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        state = {name: tensor.expand(batch_size, *tensor.shape[1:]).clone() for name, tensor in self.first.items()}
        return self._copied(state) if self.rings else state

    def step(self, token: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        if self.rings and not self._is_free(state):
            state = self._copied(state)
        inputs = {"token": token} | {f"state.{name}": state[name] for name in self.first}
        in_place = {f"next.{name}": state[name] for name in self.rings}
        results = self.graph.run(inputs, [*self.outputs, *(f"next.{name}" for name in self.first)], in_place)
        after = {name: results.pop(f"next.{name}") for name in self.first}
        if self.rings:
            after |= {name: state[name] for name in ("born", "written")}
            state["written"].numpy()[...] += 1  # in all states that share the rings
        return results, after

    def _is_free(self, state: State) -> bool:
        """Return whether the next row of the rings belongs to no other state."""
        if "written" not in state:  # the state of the network in PyTorch
            return False
        count, is_owned = state["count"], all(state[name].is_contiguous() for name in self.rings)
        return is_owned and bool(((state["written"] == count) & (count - state["born"] < self.spare_rows)).all())

    def _copied(self, state: State) -> dict[str, Tensor]:
        rings = {name: state[name].contiguous().clone() for name in self.rings}
        return {**state, **rings, "born": state["count"].clone(), "written": state["count"].clone()}


@torch.inference_mode(False)
@torch.no_grad()
def step_in_onnx(network: OnlineNetwork, name: str) -> GraphStep:
    """Return a detector whose step ONNX Runtime computes; its graph is in the cache, or is made in seconds.

    Args:
        network: a detector on the CPU, in evaluation mode.
        name: its name, for messages.

    Raises ImportError and NoGraphError as ``compiled.compiled`` does.
    """
    first = {path: tensor.clone() for path, tensor in flatten(network.initial_state(1)).items()}
    # Sizes such as the length of a memory show neither in the weights nor in the layers.
    plain = [
        [(key, value) for key, value in sorted(vars(module).items()) if isinstance(value, bool | int | float | str)]
        for module in network.modules()
    ]
    facts = ["step", network.feature_dim, [[key, list(tensor.shape)] for key, tensor in first.items()], plain]
    outputs = ["logits", *(["future"] if network.future_offsets else [])]

    def in_graph(graph: Compiled) -> CompiledSteps:
        return CompiledSteps(graph, first, outputs, network.rings, network.spare_rows)

    graph = cached(
        path_of(network, facts, weights_hash(network.state_dict())),
        name,
        lambda graph: _compare(network, in_graph(graph), *_READ),
        lambda: _make(network, first, outputs, name, lambda graph: _compare(network, in_graph(graph), *_MADE)),
    )
    steps = GraphStep(in_graph(graph)).eval()
    for attribute in ("num_classes", "feature_dim", "window", "future_offsets", "delay"):
        setattr(steps, attribute, getattr(network, attribute))
    return steps


def _make(
    network: OnlineNetwork,
    first: dict[str, Tensor],
    outputs: list[str],
    name: str,
    compare: Callable[[Compiled], Agreement],
) -> Compiled:
    """Export the step and compare the graph with it."""
    refuse_size(network, name)
    exported = copy.deepcopy(network)
    token, state = torch.randn(_TRACED_STREAMS, network.feature_dim), exported.initial_state(_TRACED_STREAMS)
    exported.step(token, state)  # computes the weight tables, which the graph will contain
    return make_graph(
        StepGraph(exported),
        (token, flatten(state)),
        ["token", *(f"state.{path}" for path in first)],
        [*outputs, *(f"next.{path}" for path in first)],
        name,
        compare,
    )


def _compare(network: OnlineNetwork, graph: Steps, num_streams: int, num_steps: int) -> Agreement:
    """Return the agreement of a graph's outputs with the network's, over the first tokens of streams."""

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        state, state_of_graph = network.initial_state(num_streams), graph.initial_state(num_streams)
        for _ in range(num_steps):
            token = torch.randn(num_streams, network.feature_dim, generator=generator)
            expected, state = network.step(token, state)
            actual, state_of_graph = graph.step(token, state_of_graph)
            for key, tensor in named_outputs(expected).items():
                yield actual[key], tensor

    return agreement_of(pairs())
