"""Offline networks with weights under their published names give what the published code computed: outputs, losses,
assigned places and events."""

import pytest
import torch
from support.parity import FOLDER, filled, records_in, rule

from vidact.models.offline import Truth
from vidact.models.offline_decoding import Decoding, Grid, candidates
from vidact.models.weights import from_reference

RECORDS = records_in(FOLDER / "offline")
EVERY = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["name"])
SEGMENTERS = [record for record in RECORDS if "labels" in record["loss"]]
LOCALISERS = [record for record in RECORDS if "truth" in record["loss"]]

pytestmark = pytest.mark.usefixtures("no_fresh_weights")  # every number comes from a file


RULE = rule()


def network_of(record, **options):
    state_dict = {f"module.{key}": value for key, value in filled(record).items()}
    return from_reference(record["origin"], state_dict, **record["hyperparameters"], **options)


def output_of(network, record, name="features"):
    features = torch.from_numpy(RULE.signal(name, record["inputs"][name]))
    lengths = torch.tensor(record["lengths"]) if name == "features" else None
    return network(features, lengths)


def assert_near(actual, values, shape=None):
    expected = torch.tensor(values, dtype=torch.float64)
    actual = torch.as_tensor(actual).double()
    if shape is not None:
        assert list(actual.shape) == shape
        expected = expected.reshape(shape)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * max(1.0, float(expected.abs().max())))


@EVERY
@torch.no_grad()
def test_outputs_equal_the_record(record):
    network = network_of(record)
    assert not network.training
    assert network.published_padding
    output = output_of(network, record)
    for name, expected in record["outputs"].items():
        assert_near(output[name], expected["values"], expected["shape"])
        assert getattr(output, name) is output[name]


@pytest.mark.parametrize("record", SEGMENTERS, ids=lambda record: record["name"])
@torch.no_grad()
def test_the_losses_of_segmenters_equal_the_record(record):
    network = network_of(record)
    output = output_of(network, record)
    loss = record["loss"]
    assert (network.smoothing_weight, network.smoothing_limit) == tuple(loss["settings"].values())
    targets = torch.zeros(output.scores.shape)
    for video, labels in enumerate(loss["labels"]):
        targets[video, range(len(labels)), labels] = 1
    losses = network.losses(output, Truth(targets=targets))
    assert_near(losses["cross_entropy"] + losses["smoothing"], loss["values"]["total"])
    assert_near(losses["cross_entropy"], sum(loss["values"]["cross_entropy"]))
    assert_near(losses["smoothing"], loss["settings"]["smoothing_weight"] * sum(loss["values"]["smoothing"]))


@pytest.mark.parametrize("record", LOCALISERS, ids=lambda record: record["name"])
@torch.no_grad()
def test_the_losses_of_localisers_equal_the_record(record):
    """And what was assigned, before; in evaluation the running count is used and not kept."""
    loss = record["loss"]
    settings = dict(loss["settings"])
    momentum = settings.pop("normaliser_momentum")
    if record["origin"] == "tridet":
        settings["input_noise"] = 0.0
    network = network_of(record, drop_path=0.0, **settings)
    assert network.normaliser_momentum == momentum
    truth = Truth(events=[torch.tensor(rows) for rows in loss["truth"]])
    expected = loss["values"]
    for network.training in (False, True):
        output = output_of(network, record)
        assert network.normaliser == settings["initial_normaliser"]
        losses = network.losses(output, truth)
        assert losses["classification"].item() == pytest.approx(expected["classification"], rel=1e-5)
        weighted = settings["regression_weight"] * expected["regression"]
        assert losses["regression"].item() == pytest.approx(weighted, rel=1e-5)
        assert sum(losses.values()).item() == pytest.approx(expected["total"], rel=1e-5)
    assert network.normaliser.item() == pytest.approx(expected["normaliser_after"])

    rows = []
    for video, events in enumerate(truth.events):
        labels, distances = network.assign(output.levels, events)
        for place, action in labels.nonzero().tolist():
            rows.append([video, place, action, *distances[place].tolist()])
    assert len({tuple(row[:2]) for row in rows}) == expected["positive_points"]
    torch.testing.assert_close(torch.tensor(rows), torch.tensor(loss["assigned"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("record", LOCALISERS, ids=lambda record: record["name"])
@torch.no_grad()
def test_the_events_of_localisers_equal_the_record(record):
    """Of a video longer than the training crop, before the suppression and in seconds after it."""
    network = network_of(record)
    output = output_of(network, record, "long_features")
    expected = record["decoding"]
    weight = "score" if record["origin"] == "tridet" else "score and overlap"
    network.decoding = Decoding(**expected["settings"], voting_weight=weight)
    order = [0, 1, 3, 2]  # the records have the score before the class
    (before,) = candidates(output.levels, network.decoding)
    assert_near(before[:, order], expected["before_nms"]["values"], expected["before_nms"]["shape"])
    (after,) = network.events(output)
    grid = Grid(expected["feature_stride"], expected["feature_frames"], expected["fps"])
    after[:, :2] = grid.seconds(after[:, :2]).clamp(0, expected["duration_s"])
    assert_near(after[:, order], expected["after_nms"]["values"], expected["after_nms"]["shape"])


@EVERY
def test_names_are_checked_both_ways(record):
    state_dict = filled(record)
    key = next(key for key in reversed(state_dict) if key.endswith("weight"))
    value = state_dict.pop(key)
    with pytest.raises(ValueError, match="1 missing"):
        from_reference(record["origin"], state_dict, **record["hyperparameters"])
    with pytest.raises(ValueError, match=r"wrong shape"):
        from_reference(record["origin"], {**state_dict, key: value[:-1]}, **record["hyperparameters"])
    with pytest.raises(ValueError, match=r"1 unknown: somebody\.elses"):
        from_reference(
            record["origin"], {**state_dict, key: value, "somebody.elses": value}, **record["hyperparameters"]
        )
