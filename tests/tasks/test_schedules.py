"""Learning rates and parameter groups."""

import pytest
import torch
from torch import nn

import vidact.models
from vidact.models import actionformer_small, frame_classifier, tsm_resnet_tiny
from vidact.tasks.freezing import freeze_norms
from vidact.tasks.schedules import ParameterGroups, Schedule, head_names


def test_steps_fall_at_their_epochs() -> None:
    schedule = Schedule("step", milestones=(2, 4))
    rates = [schedule.factor(step, steps_per_epoch=10, total_steps=60) for step in (0, 19, 20, 39, 40, 59)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_goes_from_one_to_its_end_after_the_warm_up() -> None:
    schedule = Schedule("cosine", warmup_epochs=1, warmup_start=0.1, final=0.05)
    assert schedule.factor(0, 10, 100) == pytest.approx(0.1)
    assert schedule.factor(5, 10, 100) == pytest.approx(0.55)
    assert schedule.factor(10, 10, 100) == pytest.approx(1)
    assert schedule.factor(55, 10, 100) == pytest.approx(0.525)
    assert schedule.factor(100, 10, 100) == pytest.approx(0.05)


class Toy(nn.Module):
    """Every kind of layer that a grouping by type could stumble over."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.odd = nn.Conv1d(4, 4, 1)
        self.memory = nn.Parameter(torch.zeros(2, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.layer_norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 5)
        self.num_classes = 5


def test_the_warm_up_of_actionformer() -> None:
    """The rates of its own code for 4 steps of 12; the full rate stays for one step."""
    schedule = Schedule("cosine", warmup_epochs=1, warmup_start=0.0, full_in_warmup=True)
    rates = [1e-3 * schedule.factor(step, 4, 12) for step in range(12)]
    published = [0, 333, 667, 1000, 1000, 962, 854, 691, 500, 309, 146, 38]
    assert rates == pytest.approx([1e-6 * rate for rate in published], abs=5e-7)
    assert Schedule("cosine", warmup_epochs=1, full_in_warmup=True).factor(0, 1, 9) == pytest.approx(0.1)


def test_norms_gains_and_scales_of_a_localiser_do_not_decay() -> None:
    network = actionformer_small(3, 8, embedding_dim=8, levels=2, num_heads=2)
    groups = ParameterGroups().split(network, lr=0.01, weight_decay=0.05)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert decays[id(parameter)] == (0.05 if parameter.ndim > 1 else 0), name


def test_every_parameter_is_in_exactly_one_group() -> None:
    network = Toy()
    groups = ParameterGroups(head=5, first_conv=5, bias=2).split(network, lr=0.01, weight_decay=1e-4)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in network.parameters())


def test_roles_get_their_rates() -> None:
    network = Toy()
    groups = ParameterGroups(head=5, first_conv=3, bias=2).split(network, lr=0.01, weight_decay=1e-4)

    def of(parameter: nn.Parameter) -> tuple[float, float]:
        group = next(g for g in groups if any(p is parameter for p in g["params"]))
        return group["lr"], group["weight_decay"]

    assert of(network.fc.weight) == pytest.approx((0.05, 1e-4))
    assert of(network.fc.bias) == pytest.approx((0.10, 0))
    assert of(network.conv.weight) == pytest.approx((0.03, 1e-4))
    assert of(network.conv.bias) == pytest.approx((0.06, 0))
    assert of(network.norm.bias) == pytest.approx((0.01, 0))
    assert of(network.layer_norm.weight) == pytest.approx((0.01, 0))
    assert of(network.memory) == pytest.approx((0.01, 1e-4))


@pytest.mark.parametrize(
    ("name", "num_classes", "heads"),
    [
        ("tanet_resnet_tiny", 3, ["fc"]),  # its kernels have three weights
        ("tanet_resnet_tiny", 16, ["fc"]),  # and its attention over 8 frames a hidden layer of 16
        ("tin_resnet_tiny", 2, ["fc"]),  # it finds two offsets
        ("tin_resnet_tiny", 8, ["fc"]),  # from as many numbers as there are frames
        ("swin3d_t", 96, ["fc"]),  # the width of its first blocks
        ("trn_resnet_tiny", 3, [f"head.relations.{i}.classify" for i in range(7)]),
        ("two_stream_resnet_tiny", 3, ["rgb.fc", "flow.fc"]),
    ],
)
def test_the_head_is_the_classifier_at_any_number_of_classes(name: str, num_classes: int, heads: list[str]) -> None:
    with torch.device("meta"):
        network = getattr(vidact.models, name)(num_classes, weights=None)
    assert head_names(network) == heads


@pytest.mark.parametrize(("which", "learning"), [("none", 2), ("partial", 1), ("all", 0)])
def test_freezing_norms_reaches_modes_and_gradients(which: str, learning: int) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    freeze_norms(network, which)  # type: ignore[arg-type]
    norms = [network[0], network[2]]
    assert sum(norm.training for norm in norms) == learning
    assert sum(norm.weight.requires_grad for norm in norms) == learning
    assert network[1].training
    assert network[1].weight.requires_grad


def test_earlier_stages_learn_slower() -> None:
    """Each stage by the same factor, the stem as one before the first; the classifier at the full rate."""
    network = tsm_resnet_tiny(3, weights=None, size=32, width=8)
    groups = ParameterGroups(head=10, stage_decay=0.5).split(network, lr=0.8, weight_decay=0.1)
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}
    parts = {"conv1": 0.05, "bn1": 0.05, "layer1": 0.1, "layer2": 0.2, "layer3": 0.4, "layer4": 0.8}
    for name, parameter in network.named_parameters():
        expected = parts[name.split(".")[1]] if name.startswith("backbone") else 8
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert len({group["name"] for group in groups}) == len(groups)
    plain = ParameterGroups(head=10).split(network, lr=0.8, weight_decay=0.1)
    assert ParameterGroups(head=10, stage_decay=1).split(network, 0.8, 0.1) == plain


def test_a_decay_over_stages_that_are_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stage_decay is 0\.5, and FrameClassifier has no backbone with stages"):
        ParameterGroups(stage_decay=0.5).split(frame_classifier(3, 4), 0.1, 0)
    with pytest.raises(ValueError, match=r"groups\.stage_decay is 2; give a factor above 0, up to 1"):
        ParameterGroups(stage_decay=2)
