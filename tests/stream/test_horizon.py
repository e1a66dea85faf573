"""How far back a recogniser's answers in a stream reach: a window, fading means, starting anew, the published rule."""

import math
import types

import numpy as np
import pytest
import torch
from support.networks import vary
from support.playing import Named, steady
from torch import nn

import vidact.models
from vidact import hub
from vidact.batch import ClipInput
from vidact.models.online import one_stream, stack_states
from vidact.models.weights import save
from vidact.stream import load_model, run, run_many
from vidact.stream.horizon import Fading, FrameMean, Restarting, at_horizon
from vidact.stream.model import refuse_clips, sampled_at
from vidact.video import ClipSampler, Clock

MOVINET = ("movinet_tiny_stream", {"size": 32})
TSM = ("tsm_resnet_tiny", {"size": 32, "width": 8, "shift": "causal"})
TSN = ("tsn_resnet_tiny", {"size": 32, "width": 8})
EVERY = pytest.mark.parametrize("case", [MOVINET, TSM, TSN], ids=lambda case: case[0])


def build(case):
    """A network whose answers differ from frame to frame."""
    torch.manual_seed(0)
    network = getattr(vidact.models, case[0])(num_classes=3, **case[1])
    nn.init.normal_(network.fc.weight)
    return vary(network, frames(4, 8), frames(1, 12), std=2)


def frames(streams, count):
    """Pictures of noise, each of a brightness of its own."""
    generator = torch.Generator().manual_seed(1)
    brightness = torch.rand(streams, count, 3, 1, 1, generator=generator)
    return brightness * torch.rand(streams, count, 3, 32, 32, generator=generator)


@torch.no_grad()
def play(stepping, clip):
    """The logits (B, T, K) of every step."""
    state, answers = stepping.initial_state(len(clip)), []
    for frame in clip.unbind(1):
        output, state = stepping.step(frame, state)
        answers.append(output.logits[:, 0])
    return torch.stack(answers, 1)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@EVERY
@torch.no_grad()
def test_the_published_rule_is_the_clip_so_far(case):
    network, clip = build(case), frames(2, 12)
    answers = play(at_horizon(network, "x", 4.0, 3, math.inf, None), clip)
    for t in range(12):
        assert_same(answers[:, t], network(clip[:, : t + 1]))


@EVERY
@torch.no_grad()
def test_up_to_the_horizon_it_is_the_published_rule(case):
    """A file that is no longer than a training clip gets what scoring gives it."""
    network, clip = build(case), frames(2, 12)
    answers = play(at_horizon(network, "x", 4.0, 6, None, None), clip)
    for t in range(6):
        assert_same(answers[:, t], network(clip[:, : t + 1]))
    assert (answers[:, 11] - network(clip)).abs().max() > 0.1  # and later it has forgotten


def test_the_kind_of_forgetting_follows_from_the_state():
    assert type(at_horizon(build(TSM), "x", 4.0, 8, None, None)) is FrameMean
    assert type(at_horizon(build(TSN), "x", 4.0, 8, 5.0, None)) is FrameMean
    assert at_horizon(build(TSN), "x", 4.0, 8, 5.0, None).frames == 20
    assert type(at_horizon(build(MOVINET), "x", 5.0, 50, None, None)) is Fading
    assert at_horizon(build(MOVINET), "x", 5.0, 50, 2.0, None).frames == 10
    assert at_horizon(build(MOVINET), "x", 5.0, 50, None, 3.0).frames == 15


def test_fading_means_are_those_of_the_formula():
    """m += (x - m) / min(n, F), by a network whose only layer is a running mean."""

    class Means(nn.Module):
        def initial_state(self, batch_size):
            return {"means": [torch.zeros(batch_size, 1)], "frames": torch.zeros(batch_size, 1)}

        def step(self, frame, state):
            count = state["frames"] + 1
            mean = state["means"][0] + (frame - state["means"][0]) / count
            return mean, {"means": [mean], "frames": count}

    values, expected, mean = torch.rand(1, 40, 1), [], 0.0
    for n, value in enumerate(values.flatten().tolist(), start=1):
        mean += (value - mean) / min(n, 7)
        expected.append(mean)
    assert_same(play(Fading(Means(), 7), values).flatten(), torch.tensor(expected))


@torch.no_grad()
def test_a_fading_stream_follows_a_change_that_the_published_rule_no_longer_sees():
    network = build(MOVINET)
    before, after = frames(1, 1), frames(2, 1)[1:]
    clip = torch.cat([before.expand(-1, 200, -1, -1, -1), after.expand(-1, 40, -1, -1, -1)], 1)
    alone = network(after.expand(-1, 40, -1, -1, -1))
    fading = play(Fading(network, 10), clip)[:, -1]
    published = play(Fading(network, math.inf), clip)[:, -1]
    assert (fading - alone).abs().max() < 0.2 * (published - alone).abs().max()


@EVERY
@torch.no_grad()
def test_streams_start_anew_each_by_its_own_count(case):
    network, clip = build(case), frames(1, 11)
    stepping = Restarting(Fading(network, math.inf), 4)
    answers = play(stepping, clip)
    for t in range(11):
        assert_same(answers[:, t], network(clip[:, t // 4 * 4 : t + 1]))
    state = stepping.initial_state(1)
    for t in range(2):
        _, state = stepping.step(clip[:, t], state)
    state = stack_states([state, stepping.initial_state(1)])  # the second stream joins two frames later
    for t in range(2, 6):
        output, state = stepping.step(clip[:, t].expand(2, -1, -1, -1), state)
    assert_same(output.logits[0], network(clip[:, 4:6]))
    assert_same(output.logits[1], network(clip[:, 2:6]))
    assert one_stream(state, 1)["count"].tolist() == [4]


def test_what_cannot_be_chosen_is_said():
    network = build(MOVINET)
    with pytest.raises(ValueError, match="horizon_s is 0; give seconds above 0"):
        at_horizon(network, "x", 5.0, 50, 0.0, None)
    with pytest.raises(ValueError, match="restart_s is -1; give seconds above 0"):
        at_horizon(network, "x", 5.0, 50, None, -1.0)
    with pytest.raises(ValueError, match="horizon_s is nan"):
        at_horizon(network, "x", 5.0, 50, math.nan, None)
    with pytest.raises(ValueError, match="either forgets steadily or starts anew: give one of them"):
        at_horizon(network, "x", 5.0, 50, 10.0, 10.0)
    with pytest.raises(ValueError, match="horizon_s inf keeps everything since the beginning"):
        at_horizon(network, "x", 5.0, 50, None, math.inf)


class Other(nn.Module):
    """A network of other code, which steps and has a state of its own kind."""

    def __init__(self):
        super().__init__()
        self.num_classes, self.input = 2, ClipInput(size=32)

    def forward(self, clip):
        return clip.amax((1, 3, 4))[:, :2]

    def initial_state(self, batch_size):
        return [torch.zeros(batch_size, 2)]

    def step(self, frame, state):
        after = torch.maximum(state[0], frame.amax((2, 3))[:, :2])
        return after, [after]


def test_any_network_that_steps_can_stream():
    """What it remembers is its own matter; it can be started anew, and not be made to fade."""
    refuse_clips(Other(), "x")
    clip = frames(1, 6)
    assert_same(play(at_horizon(Other(), "x", 4.0, 8, None, None), clip)[:, -1], Other()(clip))
    assert_same(play(at_horizon(Other(), "x", 4.0, 8, None, 1.0), clip)[:, -1], Other()(clip[:, 4:]))
    with pytest.raises(ValueError, match="the state of x has no count 'frames' by which it could forget"):
        at_horizon(Other(), "x", 4.0, 8, 2.0, None)


# ---------------------------------------------------------------------------------------------- checkpoints


def checkpoint(tmp_path, network, **record):
    return save(network, tmp_path / "network.safetensors", {"classes": ["a", "b", "c"], **record})


def test_a_movinet_streams_five_frames_a_second_and_fades_over_its_clip(tmp_path):
    path = checkpoint(tmp_path, build(MOVINET), sampling={"name": "UniformSampler", "arguments": {"num_frames": 50}})
    model = load_model(path, device="cpu")
    assert (model.tokens_per_second, model.network.frames) == (5, 50)
    assert load_model(path, device="cpu", horizon_s=4).network.frames == 20
    assert load_model(path, device="cpu", horizon_s=math.inf).network.frames == math.inf
    assert load_model(path, device="cpu", restart_s=4).network.frames == 20
    assert load_model(path, device="cpu", steps_per_second=2, horizon_s=4).network.frames == 8


def test_the_rate_of_published_weights_counts_where_the_sampler_says_none():
    movinet = ClipInput(fps=5)
    assert sampled_at(None, movinet) == (50, 5)
    assert sampled_at({"name": "UniformSampler", "arguments": {"num_frames": 16}}, movinet) == (16, 5)
    assert sampled_at({"name": "DenseSampler", "arguments": {"num_frames": 16, "stride": 4}}, movinet) == (16, 6.0)
    assert sampled_at(None, ClipInput()) == (8, 4.0)


@pytest.mark.parametrize("fps", [15, 24, 25, 30000 / 1001, 30, 50, 60])
def test_predict_and_stream_take_frames_at_the_same_rate(fps):
    """Of ten seconds each takes five frames a second: the stream at each fifth, ``predict`` in the middle between."""
    sampler = ClipSampler.from_record(hub.PUBLISHED["movinet_a0_stream"].sampler)
    times = np.arange(round(10 * fps)) / fps
    rate = sampled_at(sampler.record(), ClipInput(fps=5))[1]
    streamed, predicted = times[Clock(rate).indices(times, 10.0)][:50], times[sampler(len(times))[0]]
    np.testing.assert_allclose(streamed, np.arange(50) / 5, atol=0.5 / fps + 1e-6)
    np.testing.assert_allclose(predicted, np.arange(50) / 5 + 0.1, atol=1 / fps + 1e-6)


def test_a_detector_has_no_horizon_to_choose(tmp_path):
    network = vidact.models.frame_classifier(num_classes=2, feature_dim=4)
    path = save(network, tmp_path / "d.safetensors", {"classes": ["a"], "tokens_per_second": 4.0})
    with pytest.raises(ValueError, match="is a detector, whose memory was trained; leave horizon_s and restart_s out"):
        load_model(path, horizon_s=3)


@torch.no_grad()
def test_streams_of_a_movinet_give_what_the_file_gives(tmp_path):
    """The pixels of two sources in one batch, and of each alone, against the network on the transformed frames."""
    network = build(MOVINET)
    model = load_model(checkpoint(tmp_path, network), device="cpu")
    sources = {name: list(steady(seconds)) for name, seconds in (("long", 3.0), ("short", 1.6))}
    for grabs in sources.values():
        for number, each in enumerate(grabs):
            each.image[:] = each.image * (0.1 + 0.9 * (number // 7 % 3) / 2)
    together = {name: [] for name in sources}
    for update in run_many([Named(name, grabs) for name, grabs in sources.items()], model):
        together[update.source].append(update.scores)
    for name, grabs in sources.items():
        alone = [update.scores for update in run(Named(name, grabs), model)]
        np.testing.assert_allclose(np.stack(together[name]), np.stack(alone), atol=1e-5)
        times = np.array([grab.seconds for grab in grabs])
        clip = []
        for k in range(len(alone)):
            newest = int(np.abs(times - k / 5).argmin())
            image = torch.from_numpy(np.ascontiguousarray(grabs[newest].image)).permute(2, 0, 1)
            clip.append(model.transform(image[None])[0][0, 0])
        expected = network(torch.stack(clip)[None]).softmax(-1)[0]
        assert np.ptp(np.stack(alone), axis=0).max() > 0.01  # or the comparison would prove nothing
        np.testing.assert_allclose(alone[-1][1:], expected.numpy(), atol=1e-4)


def test_the_command_passes_the_choice_on(monkeypatch):
    from vidact.commands import serve, stream

    options = stream.parser().parse_args(["--horizon", "inf", "--restart", "3"])
    assert (options.horizon, options.restart) == (math.inf, 3.0)
    given = {}

    def opened(checkpoint, runtime, **settings):
        given.update(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "open_model", opened)
    monkeypatch.setattr(stream, "open_model", opened)
    for main in (serve.main, stream.main):
        given.clear()
        arguments = ["--checkpoint", "x.ckpt", "--restart", "7"] + (["--no_window"] if main is stream.main else [])
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
        assert types.SimpleNamespace(**given).restart_s == 7
        assert given["horizon_s"] is None
