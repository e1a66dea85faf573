"""TSN averages; it cannot tell an order."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import vidact.models
from vidact.models import tsn_resnet50, tsn_resnet_tiny
from vidact.models.weights import from_reference


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = tsn_resnet_tiny(num_classes=5, size=32, width=8)
    torch.nn.init.normal_(network.fc.weight)
    return network.eval()


def test_step_equals_forward(network):
    """The running mean after frame t is the clip up to frame t."""
    clip = torch.randn(2, 12, 3, 32, 32)
    state = network.initial_state(batch_size=2)
    with torch.no_grad():
        for t in range(12):
            logits, state = network.step(clip[:, t], state)
            torch.testing.assert_close(
                logits, network(clip[:, : t + 1]), rtol=0, atol=1e-5 * max(1, logits.abs().max())
            )


def test_streams_start_anew_on_their_own(network):
    """Rows of the state are streams: zero a row and that stream begins again."""
    clip = torch.randn(2, 3, 3, 32, 32)
    state = network.initial_state(batch_size=2)
    with torch.no_grad():
        for t in range(2):
            _, state = network.step(clip[:, t], state)
        state = {name: tensor.clone() for name, tensor in state.items()}
        for tensor in state.values():
            tensor[1] = 0
        logits, _ = network.step(clip[:, 2], state)
        torch.testing.assert_close(logits[0], network(clip[:1])[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits[1], network(clip[1:, 2:])[0], rtol=1e-5, atol=1e-5)


def test_order_does_not_matter_and_features_give_the_logits(network):
    clip = torch.randn(2, 6, 3, 32, 32)
    with torch.no_grad():
        logits = network(clip)
        torch.testing.assert_close(network(clip.flip(1)), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.fc(network.features(clip)), logits, rtol=1e-4, atol=1e-4)


def test_average_in_single_precision(network):
    """Under bf16 the logits are averaged as floats: a long clip of one frame scores what the frame scores."""
    frame = torch.randn(1, 1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        once = network(frame)
        assert once.dtype == torch.float32
        torch.testing.assert_close(network(frame.expand(-1, 37, -1, -1, -1)), once, rtol=0, atol=1e-5)


def test_fresh_head():
    head = tsn_resnet_tiny(num_classes=400).fc
    assert head.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not head.bias.any()


def test_published_size():
    """R50 with 400 classes: 24.33 M parameters and 102.7 GMACs for 25 frames of 224 pixels."""
    with torch.device("meta"):
        network = tsn_resnet50(num_classes=400, weights=None).eval()
        clip = torch.empty(1, 25, 3, 224, 224)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(24.33, abs=0.005)
    with FlopCounterMode(display=False) as counter:
        network(clip)
    assert counter.get_total_flops() / 2e9 == pytest.approx(102.2, abs=0.6)


@pytest.mark.parametrize("backbone", ["bn_inception", "mobilenet_v2", "resnet18"])
def test_published_names_of_other_backbones(backbone):
    """Layouts without a record: every tensor of ours has one published name, and finds its way back."""
    torch.manual_seed(0)
    network = getattr(vidact.models, f"tsn_{backbone}")(num_classes=7, weights=None)
    published = {}
    for key, value in network.state_dict().items():
        name = key.replace("fc.", "new_fc.") if key.startswith("fc.") else "base_model." + key.removeprefix("backbone.")
        if backbone == "bn_inception":
            for ours, theirs in [
                (".one.", "_1x1."),
                (".three.0.", "_3x3_reduce."),
                (".three.1.", "_3x3."),
                (".threes.0.", "_double_3x3_reduce."),
                (".threes.1.", "_double_3x3_1."),
                (".threes.2.", "_double_3x3_2."),
                (".project.", "_pool_proj."),
                (".conv.", "."),
                (".bn.", "_bn."),
            ]:
                name = name.replace(ours, theirs)
        if backbone == "mobilenet_v2" and ".conv." in name:
            first = name.split(".")[2] == "1"
            head, tail = name.split(".conv.")
            nested = ["0.0", "0.1", "1", "2"] if first else ["0.0", "0.1", "1.0", "1.1", "2", "3"]
            flat = ["0", "1", "3", "4"] if first else ["0", "1", "3", "4", "6", "7"]
            at = next(i for i, prefix in enumerate(nested) if tail.startswith(prefix + "."))
            name = f"{head}.conv.{flat[at]}.{tail.removeprefix(nested[at] + '.')}"
        published[f"module.{name}"] = value
    loaded = from_reference("tsn", published, backbone=backbone, num_segments=3, num_classes=7)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_classifier_in_the_backbones_place():
    """Files trained without dropout call the classifier `base_model.fc`."""
    network = vidact.models.tsn_resnet18(num_classes=7, weights=None)
    published = {"base_model." + key.removeprefix("backbone."): value for key, value in network.state_dict().items()}
    loaded = from_reference("tsn", published, backbone="resnet18", num_classes=7)
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    with pytest.raises(ValueError, match="backbone is 'vgg16'; the TSN layouts know"):
        from_reference("tsn", published, backbone="vgg16", num_classes=7)
