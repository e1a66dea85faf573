"""MS-TCN: published sizes, the published rule of padding, runs of labels, and the causal network."""

import pytest
import torch
from test_offline_laws import awake, tokens

import vidact
import vidact.models
from vidact.models.offline import OfflineNetwork, OfflineOutput, Truth
from vidact.models.online import OnlineNetwork
from vidact.models.weights import attach, save
from vidact.records import Record
from vidact.stream import load_model


def small(name="ms_tcn", **arguments):
    torch.manual_seed(0)
    arguments = {"num_classes": 5, "feature_dim": 12, "dim": 8, "stages": 2, "layers": 3} | arguments
    if name == "ms_tcn_pp":
        arguments = {"first_layers": 4} | arguments
    return awake(getattr(vidact.models, name)(**arguments)).eval()


@pytest.mark.parametrize(("name", "parameters"), [("ms_tcn", 800_396), ("ms_tcn_pp", 997_836)])
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        network = getattr(vidact.models, name)(num_classes=19)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", ["ms_tcn", "ms_tcn_pp"])
@torch.no_grad()
def test_padding_changes_the_answers_by_the_published_rule(name):
    """Without padding both rules agree; the flag is for weights that were trained with the published one."""
    ours, published = small(name), small(name, published_padding=True)
    features = tokens(videos=2, length=21)
    torch.testing.assert_close(published(features).stages, ours(features).stages)
    padded = torch.nn.functional.pad(features, (0, 0, 0, 9))
    lengths = torch.tensor([21, 21])
    assert (published(padded, lengths).stages[:, :, :21] - published(features).stages).abs().max() > 0.01
    torch.testing.assert_close(ours(padded, lengths).stages[:, :, :21], ours(features).stages)


def test_runs_of_the_best_class_are_events():
    """A run of the background is none; times are places, a token reaching half a token to each side."""
    labels = torch.tensor([[0, 2, 2, 2, 0, 1, 3, 3], [1, 1, 1, 0, 2, 2, 2, 2]])
    scores = torch.full((2, 8, 4), 0.1)
    scores.scatter_(2, labels[..., None], 0.7)
    scores[0, 2, 2] = 0.4
    output = OfflineOutput(lengths=torch.tensor([8, 5]), scores=scores)
    first, second = small(num_classes=4).events(output)
    torch.testing.assert_close(
        first, torch.tensor([[0.5, 3.5, 1, 0.6], [4.5, 5.5, 0, 0.7], [5.5, 7.5, 2, 0.7]]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(second, torch.tensor([[-0.5, 2.5, 0, 0.7], [3.5, 4.5, 1, 0.7]]))
    nothing = OfflineOutput(lengths=torch.tensor([8]), scores=torch.tensor([0.9, 0.1]).expand(1, 8, 2))
    assert small(num_classes=2).events(nothing)[0].shape == (0, 4)


@torch.no_grad()
def test_ignored_tokens_and_padding_do_not_count_in_the_losses():
    network = small()
    output = network(tokens(videos=2), lengths=torch.tensor([37, 20]))
    targets = torch.nn.functional.one_hot(torch.arange(74).reshape(2, 37) % 5, 5).float()
    ignore = torch.zeros(2, 37, dtype=torch.bool)
    ignore[0, 3:9] = True
    before = network.losses(output, Truth(targets=targets, ignore=ignore))
    changed = targets.clone()
    changed[0, 3:9] = targets[0, 4:10]
    changed[1, 20:] = targets[1, 19:36]
    after = network.losses(output, Truth(targets=changed, ignore=ignore))
    assert after["cross_entropy"] == before["cross_entropy"]
    counted = network.losses(output, Truth(targets=changed))
    assert counted["cross_entropy"] != before["cross_entropy"]
    nothing = network.losses(output, Truth(targets=targets, ignore=torch.ones_like(ignore)))
    assert nothing["cross_entropy"] == 0
    with pytest.raises(ValueError, match="give a row of at most 5 values for each token"):
        network.losses(output, Truth(targets=torch.zeros(2, 40, 5)))


# ------------------------------------------------------------------------------------------------ causal


def test_a_causal_network_keeps_both_contracts():
    network = small("causal_ms_tcn")
    assert isinstance(network, OnlineNetwork)
    assert isinstance(network, OfflineNetwork)
    assert isinstance(small(causal=True), OnlineNetwork)
    assert not isinstance(small(), OnlineNetwork)


@torch.no_grad()
def test_without_limit_the_look_ahead_gives_ms_tcn():
    """With the same weights; a stream then gives MS-TCN's answers, late by all that it waits for."""
    published = small()
    network = small("causal_ms_tcn", look_ahead=14)
    network.load_state_dict(published.state_dict())
    features = tokens(videos=2, length=60)
    expected = published(features).stages
    torch.testing.assert_close(network(features).stages, expected)
    state, rows = network.initial_state(2), []
    for feature in features.unbind(1):
        output, state = network.step(feature, state)
        rows.append(output.logits)
    torch.testing.assert_close(torch.cat(rows, 1)[:, 14:], expected[-1][:, :-14], rtol=0, atol=1e-5)


@pytest.mark.parametrize("look_ahead", [0, 1, 5, 14])
@torch.no_grad()
def test_a_step_waits_exactly_for_the_look_ahead(look_ahead):
    network = small("causal_ms_tcn", look_ahead=look_ahead)
    features = tokens(videos=2, length=34)
    whole = network(features)
    state = network.initial_state(2)
    for t, feature in enumerate(features.unbind(1)):
        output, state = network.step(feature, state)
        torch.testing.assert_close(output.logits[:, 0], whole.logits[:, t], rtol=0, atol=1e-5)
        prefix = network(features[:, : t + 1])
        torch.testing.assert_close(output.logits[:, 0], prefix.logits[:, -1], rtol=0, atol=1e-5)
        if t < look_ahead:
            assert output.logits.softmax(-1)[..., 0].min() > 0.999  # no answer yet, so no action
    later = features.clone()
    later[:, 24:] += 1
    changed = (network(later).stages[-1] - whole.stages[-1]).abs().amax((0, 2)) > 1e-5
    assert changed.nonzero()[0] == 24 - look_ahead


@pytest.mark.parametrize("look_ahead", [0, 1, 3, 14])
@torch.no_grad()
def test_a_scan_is_what_the_offline_network_answers(look_ahead):
    """The last tokens, too, whose later ones never come; for videos of any length, the shortest included."""
    network = small("causal_ms_tcn", look_ahead=look_ahead)
    features, lengths = tokens(videos=3, length=30), torch.tensor([30, 7, 1])
    expected = network(features, lengths=lengths).stages[-1]
    state, late = network.initial_state(3), [[], [], []]
    for t, feature in enumerate(features.unbind(1)):
        output, state = network.step(feature, state)
        for b, length in enumerate(lengths.tolist()):
            if t < length:
                late[b].append(output.logits[b, 0])
            if t == length - 1:
                late[b] += network.flush(state).logits[b]
    for b, length in enumerate(lengths.tolist()):
        scanned = network.scan(features, lengths).logits[b, :length]
        torch.testing.assert_close(scanned, expected[b, :length])
        torch.testing.assert_close(torch.stack(late[b])[look_ahead:], expected[b, :length], rtol=0, atol=1e-5)


@torch.no_grad()
def test_streams_with_a_look_ahead_begin_anew_and_late():
    """A stream that is reset, and a video that begins inside a batch, are answered as if they stood alone."""
    network = small("causal_ms_tcn", look_ahead=3)
    features = tokens(videos=2, length=30)
    state, rows = network.initial_state(2), []
    for t, feature in enumerate(features.unbind(1)):
        if t == 11:
            state = network.reset(state, torch.tensor([False, True]))
        output, state = network.step(feature, state)
        rows.append(output.logits)
    logits = torch.cat(rows, 1)
    torch.testing.assert_close(logits[:1], network(features[:1]).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[1:, 11:], network(features[1:, 11:]).logits, rtol=0, atol=1e-5)
    started = network(features, start=torch.tensor([0, 11])).stages
    torch.testing.assert_close(started[:, 1:, 11:], network(features[1:, 11:]).stages, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_own_losses_and_that_of_the_answer_are_the_losses_of_all_stages():
    """What OnlineDetection adds, the cross-entropy of the answer, is left out of them."""
    network = small("causal_ms_tcn")
    features = tokens(videos=2)
    targets = torch.nn.functional.one_hot(torch.arange(74).reshape(2, 37) % 5, 5).float()
    ignore = torch.zeros(2, 37, dtype=torch.bool)
    ignore[0, :5] = True
    output = network(features, targets=targets, ignore=ignore)
    truth = Truth(targets=targets, ignore=ignore)
    all_stages = network.losses(output, truth)
    answer = network.losses(OfflineOutput(lengths=output.lengths, stages=output.stages[-1:]), truth)
    torch.testing.assert_close(
        output.losses["earlier_stages"] + answer["cross_entropy"], all_stages["cross_entropy"], rtol=1e-5, atol=0
    )
    assert output.losses["smoothing"] == all_stages["smoothing"]


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="look_ahead is 15; 2 stages of 3 layers see from 0 to 14 tokens ahead"):
        small("causal_ms_tcn", look_ahead=15)
    with pytest.raises(ValueError, match="look_ahead is 2, and MS-TCN sees all that comes later; set causal"):
        small(look_ahead=2)
    with pytest.raises(ValueError, match="published_padding belongs to published weights"):
        small(causal=True, published_padding=True)
    with pytest.raises(ValueError, match="stages is 0"):
        small(stages=0)
    with pytest.raises(ValueError, match="first_layers is 0"):
        small("ms_tcn_pp", first_layers=0)
    with pytest.raises(ValueError, match="num_classes is 1; a segmenter has the background"):
        small(num_classes=1)


def test_offline_networks_are_refused_where_they_would_be_run(tmp_path):
    facts = {"classes": ["a", "b", "c", "d"], "tokens_per_second": 4.0}
    network = small()
    attach(network, record=Record.from_dict(facts, "x"))
    with pytest.raises(
        ValueError, match="cannot stream: ms_tcn is an offline network, whose answers depend on what comes"
    ):
        load_model(network)
    file = save(network, tmp_path / "offline.safetensors", facts)
    (tmp_path / "video.mp4").touch()
    with pytest.raises(ValueError, match=r"offline\.safetensors is an offline network \(MSTCN\)"):
        vidact.predict(tmp_path / "video.mp4", file)
