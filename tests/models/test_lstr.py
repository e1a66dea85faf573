"""LSTR and TeSTra beyond the laws of every detector (test_online_laws.py) and their records (test_parity.py)."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vidact.models.lstr import lstr, sinusoids, testra
from vidact.models.online import map_state
from vidact.models.weights import from_reference

BUILDERS = {"lstr": lstr, "testra": testra}
BOTH = pytest.mark.parametrize("name", list(BUILDERS))


def small(name="lstr", **arguments):
    torch.manual_seed(0)
    sizes = {"feature_dim": 12, "long": 5, "work": 4, "long_stride": 2, "width": 16, "num_heads": 4}
    network = BUILDERS[name](5, **{**sizes, "encoder_queries": [3, 2], **arguments}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@BOTH
def test_published_size(name):
    with torch.device("meta"):
        network = BUILDERS[name](22)
    assert sum(parameter.numel() for parameter in network.parameters()) == 58_882_070
    assert network.window == 32 + 4 * 512
    sizes = []
    map_state(lambda tensor: sizes.append(tensor.numel() * 4) or tensor, network.initial_state())
    assert sum(sizes) < 12e6  # bytes of a stream


@torch.no_grad()
@pytest.mark.parametrize(("name", "gmac"), [("lstr", 4.227), ("testra", 4.365)])
def test_a_step_saves_four_fifths_of_the_multiplications(name, gmac):
    with torch.device("meta"):
        network = BUILDERS[name](22).eval().requires_grad_(False)
        features = torch.empty(1, network.window, 3072)
        _, state = network.step(features[:, 0], network.initial_state())  # derives the tables
    with FlopCounterMode(display=False) as window:
        network(features)
    with FlopCounterMode(display=False) as step:
        network.step(features[:, 1], state)
    assert window.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.001)
    assert window.get_total_flops() / step.get_total_flops() > 5


# ------------------------------------------------------------------------------------------------ who stands where


@pytest.mark.parametrize("long_stride", [1, 2, 3])
def test_places_are_those_of_the_published_scoring(long_stride):
    """Token by token, against the rule in words: every s-th of the tokens before the work memory, right-aligned,
    padded with the first token, of which one copy is seen."""
    network = small(long_stride=long_stride)
    for count in range(1, 4 * network.window):
        work_start = max(0, count - network.work)
        samples = list(range(max(0, work_start - long_stride * network.long), work_start))[::long_stride]
        slots = [0] * (network.long - len(samples)) + samples
        last_first = max((place for place, token in enumerate(slots) if token == 0), default=0)
        places = network.places(torch.tensor([count]), network.work)
        assert places.long[0].tolist() == slots
        assert places.is_visible[0].tolist() == [place >= last_first for place in range(network.long)]
        window = list(range(work_start, count))
        assert places.work[0].tolist() == window + [count - 1] * (network.work - len(window))
        assert places.newest[0] == len(window) - 1


@BOTH
@torch.no_grad()
def test_each_video_is_answered_as_if_it_began_at_its_start(name):
    network = small(name)
    features = torch.randn(4, 40, 12)
    start = torch.tensor([0, 13, 37, 39])  # 40, 27, 3 and 1 tokens; the work memory holds 4
    logits = network(features, start).logits
    for b, s in enumerate(start.tolist()):
        alone = network(features[b : b + 1, s:]).logits[0]
        n = len(alone)
        # Rows before the start have the first token's answer.
        assert_same(logits[b], torch.cat([alone[:1].expand(4 - n, -1), alone]))


@BOTH
@torch.no_grad()
def test_what_is_before_the_start_is_never_read(name):
    network = small(name)
    features = torch.randn(2, 20, 12)
    start = torch.tensor([6, 18])
    before = network(features, start).logits
    features[0, :6] = math.nan
    features[1, :18] = math.nan
    assert torch.equal(network(features, start).logits, before)


@BOTH
@torch.no_grad()
def test_the_first_tokens_are_answered_together_as_one_by_one(name):
    """Until the work memory is full its first tokens keep their places, and the long memory is the first token."""
    network = small(name)
    features = torch.randn(2, 4, 12)
    assert_same(network(features).logits, network.scan(features).logits)


@BOTH
@torch.no_grad()
def test_the_long_memory_reads_every_other_token(name):
    """Beyond the start-up, tokens between the samples change nothing; the samples do."""
    network = small(name)
    features = torch.randn(1, 14 + 3, 12)  # full memory; work tokens 13…16, samples 3, 5, …, 11
    before = network(features).logits
    for token in range(13):
        changed = features.clone()
        changed[:, token] += torch.randn(12)
        difference = (network(changed).logits - before).abs().max()
        assert (difference > 1e-5) == (token in (3, 5, 7, 9, 11)), token


# ------------------------------------------------------------------------------------------------ other shapes


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lstr", {"encoder_queries": [3], "encoder_layers": [3]}),
        ("lstr", {"encoder_queries": [4, 2, 3], "encoder_layers": [2, 1, 2], "decoder_layers": 3}),
        ("lstr", {"work": 1, "long": 1, "long_stride": 1, "decoder_layers": 1}),
        ("testra", {"encoder_queries": [3], "encoder_layers": [2], "decoder_layers": 1}),
        ("testra", {"encoder_queries": [2, 3], "encoder_layers": [3, 1], "decoder_layers": 3, "alpha": 0.9}),
        ("testra", {"work": 1, "long_stride": 3, "hidden_dim": 24}),
        ("lstr", {"anticipation_steps": 1, "decoder_layers": 1}),
        ("lstr", {"anticipation_steps": 4, "decoder_layers": 3, "encoder_queries": [3], "encoder_layers": [2]}),
        ("testra", {"anticipation_steps": 3, "decoder_layers": 1, "alpha": 0.9}),
        ("testra", {"anticipation_steps": 6, "decoder_layers": 3, "work": 2}),
    ],
)
@torch.no_grad()
def test_step_equals_forward_for_all_depths(name, arguments):
    network = small(name, **arguments)
    features = torch.randn(2, 2 * network.window, 12)
    steps = network.scan(features)
    for t in range(features.shape[1]):
        window = network(features[:, : t + 1])
        assert_same(steps.logits[:, t], window.logits[:, -1])
        if network.future_offsets:
            assert window.future.shape == (2, 1, len(network.future_offsets), 5)
            assert_same(steps.future[:, t], window.future[:, -1])


@BOTH
@torch.no_grad()
def test_the_tokens_ahead_change_no_answer_and_see_those_before_them(name):
    """They stand after the work tokens under the same causal mask, and have a classifier and layers in common."""
    plain, ahead = small(name), small(name, anticipation_steps=3)
    ahead.load_state_dict({**ahead.state_dict(), **plain.state_dict()})
    features = torch.randn(2, 30, 12)
    before = ahead(features)
    assert_same(before.logits, plain(features).logits)
    for j in range(3):
        ahead.future_queries.weight[j] += torch.randn(16)
        after = ahead(features)
        assert_same(after.logits, before.logits)
        apart = (after.future - before.future).abs().amax((0, 1, 3))
        assert [float(one) > 1e-5 for one in apart] == [k >= j for k in range(3)]
        before = after


@BOTH
@torch.no_grad()
def test_remembering_is_stepping_without_the_answer(name):
    network = small(name)
    features = torch.randn(2, 30, 12)
    state = network.initial_state(2)
    for feature in features[:, :-1].unbind(1):
        state = network.remember(feature, state)
    output, _ = network.step(features[:, -1], state)
    assert_same(output.logits, network.scan(features).logits[:, -1:])


# ------------------------------------------------------------------------------------------------ positions and kernels


def test_sinusoids():
    """Sin and cos interleaved: at place 3, the pair of wavelength 2π · 10000^(2/6)."""
    table = sinusoids(5, 6)
    angle = 3 / 10000 ** (2 / 6)
    torch.testing.assert_close(table[3, 2:4], torch.tensor([math.sin(angle), math.cos(angle)]))
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1, 0, 1, 0, 1]))


@torch.no_grad()
def test_long_memory_has_an_order_in_lstr_and_none_in_testra():
    features = torch.randn(1, 14, 12)
    swapped = features[:, [2, 1, 0, *range(3, 14)]]
    apart = {}
    for name in BUILDERS:
        network = small(name)
        apart[name] = (network(features).logits - network(swapped).logits).abs().max()
    assert apart["lstr"] > 1e-4
    assert apart["testra"] < 1e-6
    fading = small("testra", alpha=0.7)
    assert (fading(features).logits - fading(swapped).logits).abs().max() > 1e-4


def test_the_laplace_kernel_weighs_places_by_their_age():
    everything = torch.ones(1, 5, dtype=torch.bool)
    mask = small("testra", alpha=0.5).long_mask(everything)
    torch.testing.assert_close(mask.flatten().exp(), torch.tensor([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]))
    assert not small("testra").long_mask(everything).any()  # the box kernel
    assert small("testra", alpha=1e-9).long_mask(everything).min() == pytest.approx(math.log(1e-10), abs=1e-3)


@torch.no_grad()
def test_only_testra_reads_its_work_tokens_as_memory():
    """With the self-attention of the decoder cut, a work token reaches a later answer through the memory alone."""
    features = torch.randn(1, 14, 12)
    changed = features.clone()
    changed[:, 11] += torch.randn(12)
    for name in BUILDERS:
        network = small(name)
        for layer in network.decoder.blocks:
            layer.self_attention.out.weight.zero_()
        difference = (network(features).logits[:, -1] - network(changed).logits[:, -1]).abs().max()
        assert (difference > 1e-5) == (name == "testra")


# ------------------------------------------------------------------------------------------------ published weights


@BOTH
@torch.no_grad()
def test_published_weights_take_every_token_unless_told(name):
    hyperparameters = {
        "num_classes": 5,
        "feature_dims": [8, 4],
        "model_dim": 16,
        "num_heads": 4,
        "feedforward_dim": 16,
        "long": 5,
        "work": 4,
        "encoder_queries": [3, 2],
    }
    ours = small(name)
    published = {}
    for key, value in ours.state_dict().items():
        key = key.replace("embed_long", "feature_head_long.input_linear.0")
        key = key.replace("embed_work", "feature_head_work.input_linear.0")
        key = key.replace("queries", "enc_queries").replace("encoder", "enc_modules").replace("decoder", "dec_modules")
        key = key.replace("self_attention", "self_attn").replace("cross_attention", "multihead_attn")
        published[key.replace("qkv.", "in_proj_").replace("out.", "out_proj.")] = value
    published["pos_encoding.pe"] = torch.zeros(5000, 1, 16)  # in the files; computed here
    network = from_reference(name, published, **hyperparameters)
    assert network.long_stride == 1
    features = torch.randn(1, 14, 12)
    network = from_reference(name, published, **hyperparameters, long_stride=2)
    assert torch.equal(network(features).logits, ours(features).logits)
    if name == "testra":
        published["dec_query.weight"] = torch.randn(3, 16)
        foresees = from_reference(name, published, **hyperparameters, long_stride=2)
        assert foresees.future_offsets == (1, 2, 3)
        assert torch.equal(foresees.future_queries.weight, published["dec_query.weight"])
        assert_same(foresees(features).logits, ours(features).logits)
        assert from_reference(name, published, **hyperparameters, alpha=0.97).alpha == 0.97
    else:
        with pytest.raises(ValueError, match="alpha"):
            from_reference(name, published, **hyperparameters, alpha=0.97)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 3}, "width is 16 and num_heads 3; each head"),
        ({"long_stride": 0}, "long_stride 0.*at least 1"),
        ({"alpha": 1.5}, "alpha is 1.5; .*above 0 and at most 1"),
        ({"anticipation_steps": -1}, "anticipation_steps is -1; it is 0 for none"),
        ({"encoder_queries": [3]}, r"encoder_queries is \[3\] and encoder_layers \[1, 2\]; each stage"),
        ({"encoder_queries": [3, 0]}, r"encoder_queries is \[3, 0\].*each stage"),
    ],
)
def test_impossible_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        small("testra", **arguments)


@BOTH
def test_a_batch_of_another_size_than_the_state_is_refused(name):
    network = small(name)
    with pytest.raises(ValueError, match="3 features, and the state is of 2 streams"):
        network.step(torch.randn(3, 12), network.initial_state(2))
