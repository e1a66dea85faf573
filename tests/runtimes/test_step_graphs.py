"""The step of a detector as an ONNX graph: the same answers, made once, by the network's sizes too."""

from pathlib import Path

import pytest
import torch

import vidact.models
from vidact.models.online import OnlineNetwork, select_streams, stack_states
from vidact.runtimes import steps
from vidact.runtimes.compiled import NoGraphError
from vidact.runtimes.steps import step_in_onnx

FEATURE_DIM = 6
SMALL = {
    "miniroad": {"embedding_dim": 8, "hidden_dim": 8},
    "lstr": {"long": 3, "long_stride": 2, "work": 3, "width": 16, "num_heads": 4, "encoder_queries": [5, 3]},
    "testra": {"long": 3, "long_stride": 2, "work": 3, "width": 16, "num_heads": 4, "anticipation_steps": 2},
    "oadtr": {"window": 6, "width": 16, "num_heads": 4, "decoder_layers": 2, "decoder_heads": 2, "num_queries": 3},
}


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "home_of_steps"  # graphs are made once for all tests here
    monkeypatch.setenv("VIDACT_HOME", str(folder))
    return folder


def build(name: str, **changes: object) -> OnlineNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(vidact.models, name)(num_classes=4, feature_dim=FEATURE_DIM, **{**SMALL[name], **changes})
        for parameter in network.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    if network.rings:
        network.spare_rows = 3  # the rings are copied after every third token
    return network.eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_graph_of_a_step_gives_the_answers_of_the_network(name, capsys):
    network = build(name)
    quick = step_in_onnx(network, name)
    assert not list(quick.parameters())
    assert (quick.window, quick.future_offsets, quick.num_classes) == (
        network.window, network.future_offsets, network.num_classes,
    )  # fmt: skip
    features = torch.randn(3, 3 * (network.window or 10) + 5, FEATURE_DIM)
    expected, actual = network.scan(features), quick.scan(features)
    assert expected.logits.std() > 0.1
    for exact, graph in ((expected.logits, actual.logits), (expected.future, actual.future)):
        assert (exact is None) == (graph is None)
        if exact is not None:
            torch.testing.assert_close(graph, exact, rtol=0, atol=1e-5 * max(1.0, float(exact.abs().max())))

    # A caller can return to any state, streams are independent, and a fresh stream may join.
    state, states = quick.initial_state(3), []
    for feature in features[:, :9].unbind(1):
        states.append(state)
        _, state = quick.step(feature, state)
    for t in (0, 3, 7, 8, 4):
        state = states[t]
        for _ in range(3):  # tokens that the stream does not have, and those that it has
            _, state = quick.step(torch.randn(3, FEATURE_DIM), state)
        again, _ = quick.step(features[:, t], states[t])
        torch.testing.assert_close(again.logits[:, 0], actual.logits[:, t], rtol=0, atol=0)
    state = states[4]
    first, _ = quick.step(features[:, 4], state)
    joined = stack_states([select_streams(state, torch.tensor([1])), quick.initial_state(1)])
    both, _ = quick.step(torch.stack([features[1, 4], features[0, 0]]), joined)
    torch.testing.assert_close(both.logits[0], first.logits[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(both.logits[1], expected.logits[0, :1], rtol=0, atol=1e-5)

    capsys.readouterr()
    step_in_onnx(build(name), name)
    assert capsys.readouterr().err == ""  # the graph is in the cache


def test_sizes_that_the_layers_do_not_show_have_other_graphs(monkeypatch):
    paths = []
    monkeypatch.setattr(steps, "cached", lambda path, *_: paths.append(path))
    for changes in ({}, {}, {"alpha": 0.9}, {"long_stride": 1, "long": 6}, {"long": 4}, {"work": 4}):
        step_in_onnx(build("testra", **changes), "TeSTra")
    assert len(set(paths)) == 5
    assert paths[0] == paths[1]


def test_rings_are_written_in_place_where_no_other_state_reads():
    """With a graph that only writes the rows: each token its number, so that a state shows what it holds."""

    class Rows:
        def run(self, inputs, outputs, written):
            (ring,) = written.values()
            rows = torch.arange(len(ring))
            ring[rows, inputs["state.count"] % ring.shape[1]] = inputs["token"]
            return {"logits": inputs["token"], "next.count": inputs["state.count"] + 1, "next.ring": ring}

    first = {"count": torch.zeros(1, dtype=torch.int64), "ring": torch.full((1, 5, 1), -1.0)}
    graph = steps.CompiledSteps(Rows(), first, ["logits"], ("ring",), spare_rows=2)  # a window of 3 tokens

    def held(state):
        count, ring = state["count"], state["ring"]
        return [[ring[i, t % 5, 0].item() for t in range(max(0, n - 3), n)] for i, n in enumerate(count.tolist())]

    def token(*numbers):
        return torch.tensor(numbers, dtype=torch.float32)[:, None]

    state, states = graph.initial_state(1), []
    for t in range(12):
        states.append(state)
        _, state = graph.step(token(t), state)
    buffers = [each["ring"].data_ptr() for each in states]
    assert len(set(buffers)) < 8  # most steps copy nothing
    _, branch = graph.step(token(100), states[6])
    assert held(branch) == [[4, 5, 100]]
    for t, each in enumerate(states):
        assert held(each) == [[*range(max(0, t - 3), t)]]
    together = stack_states([states[4], states[7], graph.initial_state(1)])
    _, after = graph.step(token(50, 51, 52), together)
    _, after = graph.step(token(60, 61, 62), after)
    assert held(after) == [[3, 50, 60], [6, 51, 61], [52, 62]]
    assert held(states[4]) == [[1, 2, 3]]


@pytest.mark.slow
def test_a_graph_that_differs_is_refused(monkeypatch):
    """The comparison sees every step: a graph that loses its state agrees in the first one alone."""
    network = build("miniroad")
    quick = step_in_onnx(network, "MiniROAD")
    honest = quick._steps.step
    assert steps._compare(network, quick._steps, 2, 5).is_close
    monkeypatch.setattr(quick._steps, "step", lambda token, state: (honest(token, state)[0], state))
    assert steps._compare(network, quick._steps, 2, 1).is_close
    assert not steps._compare(network, quick._steps, 2, 5).is_close


def test_a_step_that_cannot_be_a_graph_is_refused(monkeypatch, tmp_path):
    network = build("miniroad")
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path))
    monkeypatch.setattr(
        type(network), "step", lambda self, feature, state: (None, state) if feature.sum() > 0 else None
    )
    with pytest.raises(NoGraphError, match="MiniROAD cannot be an ONNX graph"):
        step_in_onnx(network, "MiniROAD")
