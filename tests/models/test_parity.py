"""Law 6: weights under their published names give what the published code printed (see the records' README)."""

import re

import pytest
import torch
from support.parity import FOLDER, filled, records_in, rule

from vidact.models.online import OnlineOutput
from vidact.models.weights import from_reference

RECORDS = records_in(FOLDER)


def cases(records):
    """Records, of which `pytest -m slow` takes the one whose network is largest."""
    return [pytest.param(r, marks=pytest.mark.slow) if r["origin"] == "eco_full" else r for r in records]


EVERY = pytest.mark.parametrize("record", cases(RECORDS), ids=lambda record: record["name"])


RULE = rule()


def named_outputs(output):
    """What a network returned, under the names of the records."""
    if not isinstance(output, OnlineOutput):
        return {"logits": output}
    return {"logits": output.logits, "scores": output.logits.softmax(-1), "future_logits": output.future}


def steps_of(network, clip):
    """The logits (B, T, K) of a clip network after each frame of a clip (B, T, C, H, W)."""
    state, answers = network.initial_state(len(clip), clip.shape[-2:]), []
    for frame in clip.unbind(1):
        logits, state = network.step(frame, state)
        answers.append(logits)
    return torch.stack(answers, 1)


pytestmark = pytest.mark.usefixtures("no_fresh_weights")  # every number comes from a file


@EVERY
def test_outputs_equal_the_record(record):
    # As the oldest published files have them: written by DataParallel, without num_batches_tracked.
    state_dict = {f"module.{key}": value for key, value in filled(record).items() if "num_batches_tracked" not in key}
    network = from_reference(record["origin"], state_dict, **record["hyperparameters"])
    assert not network.training
    inputs = [torch.from_numpy(RULE.signal(name, shape)) for name, shape in record["inputs"].items()]
    with torch.no_grad():
        outputs = named_outputs(network(torch.cat(inputs, dim=-1)))
        if "step_logits" in record["outputs"]:
            outputs["step_logits"] = steps_of(network, inputs[0])
    for name, wanted in record["outputs"].items():
        expected = torch.tensor(wanted["values"]).reshape(wanted["shape"])
        assert outputs[name].numel() == expected.numel()
        tolerance = record.get("tolerance", 1e-4) * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(outputs[name].reshape(expected.shape), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "record",
    [record for record in RECORDS if record["origin"] in ("trn_recurrent", "oadtr", "lstr", "testra", "miniroad")],
    ids=lambda record: record["name"],
)
def test_a_stream_ends_as_the_record(record):
    """Fed token by token, an online network says of the newest token what the published code printed."""
    network = from_reference(record["origin"], filled(record), **record["hyperparameters"])
    inputs = [torch.from_numpy(RULE.signal(name, shape)) for name, shape in record["inputs"].items()]
    state = network.initial_state(inputs[0].shape[0])
    with torch.no_grad():
        for feature in torch.cat(inputs, dim=-1).unbind(1):
            output, state = network.step(feature, state)
    for name, wanted in record["outputs"].items():
        expected = torch.tensor(wanted["values"]).reshape(wanted["shape"])
        actual = named_outputs(output)[name][:, -1]
        if expected.ndim > actual.ndim:  # a record without an axis of tokens is of the newest one already
            expected = expected[:, -1]
        tolerance = record.get("tolerance", 1e-4) * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


SMALLEST = [
    min((record for record in RECORDS if record["origin"] == origin), key=lambda record: len(record["state_dict"]))
    for origin in sorted({record["origin"] for record in RECORDS})
]


@pytest.mark.parametrize("record", cases(SMALLEST), ids=lambda record: record["origin"])
def test_names_are_checked_both_ways(record):
    """A gap, a surplus and a wrong shape are errors that name the tensor."""
    state_dict = filled(record)
    key = next(key for key in reversed(state_dict) if key.endswith("weight"))
    value = state_dict.pop(key)
    with pytest.raises(ValueError, match="1 missing"):
        from_reference(record["origin"], state_dict, **record["hyperparameters"])
    with pytest.raises(ValueError, match=r"wrong shape.*" + re.escape(key.rpartition(".")[0])):
        from_reference(record["origin"], {**state_dict, key: value[:-1]}, **record["hyperparameters"])
    surplus = {**state_dict, key: value, "somebody.elses": value}
    with pytest.raises(ValueError, match=r"1 unknown: somebody\.elses"):
        from_reference(record["origin"], surplus, **record["hyperparameters"])
