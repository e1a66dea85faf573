"""TRN: the relation head against its definition, evaluation that draws nothing, and sizes as published."""

import itertools
import math

import pytest
import torch
from torch import nn

import vidact.models
from vidact.models import trn_bn_inception, trn_mobilenet_v2, trn_resnet_tiny
from vidact.models.trn_relation import RelationHead
from vidact.models.weights import from_reference


def head(num_segments=5, scales="multi", **arguments):
    torch.manual_seed(0)
    return RelationHead(num_segments, dim=6, num_classes=4, scales=scales, **arguments)


def plain_mlp(relation, frames):
    """What one scale says of one subset, as the reference computes it: concatenated frames (B, s * D) → (B, K)."""
    return relation.classify(torch.relu(relation.hidden(torch.relu(frames))))


def by_hand(network, features, times):
    """Sum over scales of ``times(count)`` times the mean over the scale's frame subsets."""
    logits = 0
    for relation, scale in zip(network.relations, range(network.num_segments, 1, -1), strict=True):
        subsets = list(itertools.combinations(range(network.num_segments), scale))
        each = [plain_mlp(relation, features[:, list(subset)].flatten(1)) for subset in subsets]
        logits = logits + times(len(subsets)) * torch.stack(each).mean(0)
    return logits


@pytest.mark.parametrize(
    ("eval_relations", "times"), [("all", lambda count: count), ("mean", lambda count: min(3, count))]
)
def test_evaluation_is_the_written_sum(eval_relations, times):
    network = head(eval_relations=eval_relations).eval()
    features = torch.randn(3, 5, 6)
    torch.testing.assert_close(network(features), by_hand(network, features, times))


def test_single_scale_reads_all_frames_in_order():
    network = head(scales="single").eval()
    features = torch.randn(3, 5, 6)
    torch.testing.assert_close(network(features), plain_mlp(network.relations[0], features.flatten(1)))
    assert network.relations[0].hidden.weight.shape == (512, 30)
    assert (network(features) - network(features.flip(1))).abs().max() > 1e-3


def test_training_draws_three_subsets_of_each_scale():
    """Every drawn sum is one of the possible ones, without a subset twice; over many draws their mean is "mean"."""
    network = head(num_segments=3).train()
    features = torch.randn(1, 3, 6)
    assert torch.equal(network(features), network(features))  # 1 and 3 subsets: all of them are drawn

    network = head(num_segments=4).train()
    features = torch.randn(1, 4, 6)
    full, threes, pairs = network.relations
    said = {
        relation: [
            plain_mlp(relation, features[:, list(subset)].flatten(1))
            for subset in itertools.combinations(range(4), scale)
        ]
        for relation, scale in ((full, 4), (threes, 3), (pairs, 2))
    }
    possible = torch.stack(
        [
            said[full][0] + sum(a) + sum(b)
            for a in itertools.combinations(said[threes], 3)
            for b in itertools.combinations(said[pairs], 3)
        ]
    )
    torch.manual_seed(0)
    drawn = torch.stack([network(features) for _ in range(300)])
    distance = (drawn[:, None] - possible).abs().amax((2, 3))
    assert distance.amin(1).max() < 1e-5
    assert len(distance.argmin(1).unique()) > 40  # of 4 * 20
    torch.testing.assert_close(drawn.mean(0), network.eval()(features), rtol=0, atol=0.05)


def test_training_is_seeded_by_torch():
    network = head(num_segments=8).train()
    features = torch.randn(2, 8, 6)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(network(features))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_training_draws_a_permutation_of_each_scale_in_turn():
    network = head(num_segments=6).train()
    torch.manual_seed(3)
    chosen = network._chosen()
    torch.manual_seed(3)
    for relation, subsets in zip(network.relations, chosen, strict=True):
        drawn = torch.randperm(len(relation.subsets))[: relation.num_trained]
        assert torch.equal(subsets, relation.subsets[drawn])


@pytest.mark.parametrize("eval_relations", ["mean", "all", 1, 3, 100])
def test_evaluation_draws_nothing(eval_relations):
    """The reference's test accuracy changes from run to run; ours does not, nor does it touch the generator."""
    network = head(num_segments=8, eval_relations=eval_relations).eval()
    features = torch.randn(2, 8, 6)
    before = torch.get_rng_state()
    first = network(features)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(network(features), first)


def test_a_number_of_relations_is_spread_evenly():
    network = head(num_segments=8, eval_relations=3).eval()
    chosen = network._chosen()
    assert chosen[-1].tolist() == [[0, 5], [2, 4], [4, 6]]  # the 5th, 15th and 24th of 28
    assert len(chosen[0]) == 1
    features = torch.randn(2, 8, 6)
    many = head(num_segments=8, eval_relations=math.comb(8, 4)).eval()
    torch.testing.assert_close(many(features), head(num_segments=8).eval()(features))


def test_batch_mates_change_nothing():
    network = head().eval()
    features = torch.randn(4, 5, 6)
    torch.testing.assert_close(network(features[2:3]), network(features)[2:3])


@pytest.mark.parametrize("scales", ["multi", "single"])
def test_gradient_reaches_every_parameter(scales):
    network = trn_resnet_tiny(3, num_segments=4, scales=scales, size=32, width=8).train()
    network(torch.randn(4, 4, 3, 32, 32)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_clip_length_is_in_the_weights():
    network = trn_resnet_tiny(3, num_segments=4)
    assert network.input.frames == 4
    with pytest.raises(ValueError, match="the clip has 6 frames; the weights of this network are made for 4"):
        network(torch.zeros(1, 6, 3, 64, 64))
    with pytest.raises(ValueError, match="Sample 5 frames, or train one with num_segments=6"):
        head()(torch.zeros(1, 6, 6))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_segments": 1}, "num_segments is 1; a relation needs at least 2 frames"),
        ({"num_segments": 24}, "16,777,191 frame subsets; use at most 16 segments, or scales='single'"),
        ({"scales": "several"}, "scales is 'several'"),
        ({"eval_relations": "some"}, "eval_relations is 'some'"),
        ({"eval_relations": 0}, "eval_relations is 0"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        head(**arguments)


def test_order_matters():
    """A reversed clip is another clip."""
    torch.manual_seed(0)
    network = trn_resnet_tiny(2, num_segments=4, size=32).eval()
    clip = torch.randn(1, 4, 3, 32, 32)
    assert (network(clip) - network(clip.flip(1))).abs().max() > 1e-4


# ---------------------------------------------------------------------------------------------- as published


@pytest.mark.parametrize(
    ("num_segments", "scales", "published", "of_the_head"),
    [(3, "single", 11.016, 0.483), (8, "single", 11.671, 1.138), (8, "multi", 13.141, 2.609)],
)
def test_parameters_in_millions(num_segments, scales, published, of_the_head):
    with torch.device("meta"):
        network = trn_bn_inception(174, weights=None, num_segments=num_segments, scales=scales)

    def millions(module):
        return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 3)

    assert (millions(network), millions(network.head)) == (published, of_the_head)


@pytest.mark.parametrize("scales", ["single", "multi"])
@pytest.mark.parametrize("backbone", ["resnet18", pytest.param("bn_inception", marks=pytest.mark.slow)])
def test_whole_networks_from_published_names(scales, backbone):
    """TRN-pytorch's files hold backbone, bottleneck and head; a second table, from our names to theirs, makes one."""
    torch.manual_seed(0)
    size = getattr(vidact.models, f"trn_{backbone}")
    trained = size(7, weights=None, num_segments=3, scales=scales).eval()
    names = {"project.weight": "new_fc.weight", "project.bias": "new_fc.bias"}
    for i in range(len(trained.head.relations)):
        mlp = "consensus.classifier" if scales == "single" else f"consensus.fc_fusion_scales.{i}"
        for ours, theirs in (("hidden", 1), ("classify", 3)):
            for kind in ("weight", "bias"):
                names[f"head.relations.{i}.{ours}.{kind}"] = f"{mlp}.{theirs}.{kind}"
    state_dict = {}
    for key, value in trained.state_dict().items():
        name = key.removeprefix("backbone.")
        if backbone == "bn_inception" and key.startswith("backbone."):
            name = published_inception(name)
        state_dict[names.get(key, f"base_model.{name}")] = value
    if backbone == "bn_inception":
        assert "base_model.inception_3a_double_3x3_2_bn.running_mean" in state_dict
        assert len(state_dict) == 485 + 4 * len(trained.head.relations)  # 489 and, with eight segments, 513
    state_dict = {f"module.{key}": value for key, value in state_dict.items()}
    network = from_reference(f"trn_relation_{scales}", state_dict, num_segments=3, num_classes=7, backbone=backbone)
    for key, value in trained.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def published_inception(name):
    """Our name of a BN-Inception tensor → the published one."""
    module, kind, tensor = name.rsplit(".", 2)
    for ours, theirs in (
        ("one", "1x1"),
        ("three.0", "3x3_reduce"),
        ("three.1", "3x3"),
        ("threes.0", "double_3x3_reduce"),
        ("threes.1", "double_3x3_1"),
        ("threes.2", "double_3x3_2"),
        ("project", "pool_proj"),
    ):
        block, _, branch = module.partition(".")
        if branch == ours:
            module = f"{block}_{theirs}"
            break
    return f"{module}{'_bn' if kind == 'bn' else ''}.{tensor}"


def test_layouts_are_refused_in_words():
    with pytest.raises(ValueError, match="the TRN layouts know resnet18"):
        from_reference("trn_relation_multi", {}, num_segments=8, num_classes=2, backbone="vgg16")
    with pytest.raises(ValueError, match=r"missing: relations\.0\.hidden\.weight"):
        from_reference("trn_relation_multi", {}, num_segments=8, num_classes=2)


def test_dropout_and_flow():
    network = trn_mobilenet_v2(2, weights=None, num_segments=2, dropout=0.3, modality="flow", flow_fields=3)
    assert network.dropout.p == 0.3
    assert network.input.channels == 6
    assert isinstance(network.backbone.features[0][0], nn.Conv2d)
    assert network.eval()(torch.randn(1, 2, 6, 32, 32)).shape == (1, 2)
