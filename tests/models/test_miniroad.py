"""MiniROAD beyond the laws: its sizes, its anticipation, and a clock it must learn to foretell."""

import pytest
import torch

from vidact.models.miniroad import from_miniroad, miniroad, miniroad_small


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_sizes():
    with torch.device("meta"):
        assert count(miniroad(22)) == 15_763_478
        assert count(miniroad(22, anticipation_steps=8)) == 24_160_278
        assert count(miniroad_small(22)) == 2_244_118


@torch.no_grad()
def test_anticipation_reads_the_rectified_state():
    """One map makes L states of H values; the classifier of the present reads each."""
    torch.manual_seed(0)
    network = miniroad(3, feature_dim=4, embedding_dim=6, hidden_dim=5, anticipation_steps=2).eval()
    features = torch.randn(1, 7, 4)
    output = network(features)
    hidden, _ = network.gru(network.embed(features))
    for j in range(2):
        rows = slice(5 * j, 5 * j + 5)
        coming = hidden.relu() @ network.anticipate.weight[rows].T + network.anticipate.bias[rows]
        torch.testing.assert_close(output.future[:, :, j], network.classifier(coming.relu()))
    assert network.future_offsets == (1, 2)
    assert miniroad(3, 4, 6, 5).future_offsets == ()


def test_published_names_tell_how_far_it_anticipates():
    source = miniroad(7, 24, 28, 20, anticipation_steps=3)
    names = {
        "embed.0": "layer1.0",
        "embed.1": "layer1.1",
        "anticipate": "anticipation_layer.0",
        "classifier": "f_classification.0",
    }
    published = {}
    for key, value in source.state_dict().items():
        stem, _, last = key.rpartition(".")
        published[f"module.{names.get(stem, stem)}.{last}"] = value
    sizes = {"num_classes": 7, "feature_dims": [16, 8], "embedding_dim": 28, "hidden_dim": 20}
    network = from_miniroad(published, **sizes).eval()
    features = torch.randn(2, 5, 24)
    torch.testing.assert_close(network(features).future, source.eval()(features).future)
    assert network.future_offsets == (1, 2, 3)
    crooked = {**published, "module.anticipation_layer.0.weight": torch.zeros(50, 20)}
    with pytest.raises(
        ValueError, match=r"wrong shape: module\.anticipation_layer\.0\.weight \(50, 20\) for \(40, 20\)"
    ):
        from_miniroad(crooked, **sizes)
    with pytest.raises(ValueError, match="anticipation_steps is -1; it is 0 for none"):
        miniroad_small(3, anticipation_steps=-1)


def test_it_foretells_a_clock():
    """The label is the hour, one token an hour: after training, output j says what the hour will be at its offset."""
    torch.manual_seed(0)
    hours, num_classes = torch.arange(40), 5
    features = torch.nn.functional.one_hot(hours % 5, 5).float()[None]
    network = miniroad(num_classes, 5, 16, 32, anticipation_steps=3, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        output = network(features)
        wanted = torch.stack([(hours + offset) % 5 for offset in network.future_offsets], 1)[None]  # (1, T, L)
        loss = torch.nn.functional.cross_entropy(output.future.flatten(0, 2), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    state = network.initial_state(1)
    for hour in range(7):
        output, state = network.step(features[:, hour], state)
        assert output.future[0, 0].argmax(-1).tolist() == [(hour + offset) % 5 for offset in (1, 2, 3)]
