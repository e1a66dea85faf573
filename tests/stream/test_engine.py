"""The engine: what an update says, what begins anew, what is refused, and what a slow or broken source costs others."""

import json
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.playing import Live, Named, Recorder, answers, grab, recording_model, steady, tiny_extractor
from torch import nn

import vidact.models
from vidact.data.event_list import Event
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.tables import write_classes
from vidact.events import EventDetector
from vidact.models.weights import load, read, save
from vidact.stream import Engine, StreamModel, load_model, run, run_many
from vidact.stream.horizon import FrameMean
from vidact.stream.model import sampled_at
from vidact.tasks.online_detection import read_extractor
from vidact.training.run import train

SMALL = {"size": 32, "width": 8}


def count_threads():
    return sum(thread.name.startswith("vidact ") for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    deadline = time.monotonic() + 60
    while count_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not count_threads()


def always(model, *probabilities):
    """The model, answering the same for every token."""

    class Fixed(Recorder):
        def step(self, feature, state):
            output, state = super().step(feature, state)
            output.logits = torch.tensor(probabilities).log().expand(len(feature), 1, -1)
            return output, state

    model.network = Fixed(len(probabilities))
    return model


# ---------------------------------------------------------------------------------------------- updates


def test_what_an_update_says(monkeypatch):
    """Six slots make a token, of which the network uses the fourth: it is answered when the frame at or after that
    slot's instant has come. The last token never becomes full, and its answer is withdrawn."""
    monkeypatch.setattr("vidact.stream.engine.time", SimpleNamespace(monotonic=lambda: 110.0))
    frames = [grab(i / 24, dropped=i % 2, captured=100 + i / 24) for i in range(16)]
    source = Named("clip", frames)
    source.is_live = True  # not held back
    updates = list(run(source, recording_model(future_offsets=(1, 2), on=1.0)))
    assert [update.source for update in updates] == ["clip"] * 5
    assert [update.seconds for update in updates] == [0.0, 0.25, 0.5, 0.5, 0.25]
    assert [update.is_provisional for update in updates] == [True] * 3 + [False] * 2
    assert [update.is_withdrawn for update in updates] == [False] * 3 + [True, False]
    assert [update.is_repeat for update in updates] == [False] * 3 + [True] * 2
    assert [update.is_last for update in updates] == [False] * 4 + [True]
    assert [update.dropped for update in updates] == [2, 3, 3, 0, 0]
    for update, newest in zip(updates, (3, 9, 15, 15, 15), strict=True):
        assert update.image is frames[newest].image
        assert update.scores.shape == (3,)
        assert update.scores.sum() == pytest.approx(1, abs=1e-6)
        assert update.future.shape == (2, 3)
    # Of six frames the fourth is looked at; newer ones do not count.
    assert [u.latency_ms for u in updates[:2]] == pytest.approx([1000 * (10 - 3 / 24), 1000 * (10 - 9 / 24)])
    np.testing.assert_array_equal(updates[3].scores, updates[2].scores)
    np.testing.assert_array_equal(updates[4].scores, updates[1].scores)


def test_no_answer_before_there_is_one(caplog):
    model = recording_model()
    seen = []
    source = Named("clip", steady(1))
    first = next(iter(run(source, model, on_frame=lambda name, one: seen.append((name, one.seconds)))))
    assert first.seconds == 0
    assert len(seen) == 12  # of a file, a token is told when the next one is there
    with caplog.at_level(logging.WARNING, "vidact.stream"):
        assert list(run(Named("short", steady(0.2)), model)) == []
        assert list(run(Named("empty", []), model)) == []
    assert "short ended after 0.17 s without an answer; the first one needs 0.25 s" in caplog.text
    assert "empty ended after 0.00 s" in caplog.text


def test_the_end_closes_what_is_open():
    """Of a file in the last token's update, of a camera in one more."""
    for is_live, count in ((False, 4), (True, 6)):  # a camera's event is opened by an early answer, and told later
        model = always(recording_model(on=0.5), 0.1, 0.8, 0.1)
        source = Named("clip", steady(1.05))
        source.is_live = is_live
        updates = list(run(source, model))
        assert len(updates) == count
        assert [event.label for update in updates for event in update.opened] == ["a"]
        assert [update.is_last for update in updates] == [False] * (count - 1) + [True]
        assert [len(update.events) for update in updates] == [0] * (count - 1) + [1]
        event = updates[-1].events[0]
        assert (event.video, event.start_s, event.end_s, event.label) == ("clip", 0.0, 1.0, "a")
        assert event.score == pytest.approx(0.8)


def test_a_camera_that_was_away_begins_anew():
    """Its clock fills no gap of minutes, its events end, and times are those of the source."""
    model = always(recording_model(), 0.1, 0.8, 0.1)
    source = Named("camera", steady(1.05, begin_s=3) + steady(1.05, begin_s=500) + steady(0.55, begin_s=2))
    source.is_live = True
    updates = list(run(source, model))
    assert [u.seconds for u in answers(updates)] == [3, 3.25, 3.5, 3.75, 500, 500.25, 500.5, 500.75, 2, 2.25]
    events = [event for update in updates for event in update.events]
    assert [(event.start_s, event.end_s) for event in events] == [(3, 4), (500, 501), (2, 2.5)]
    assert next(update for update in updates if update.seconds == 500).events == events[:1]


@pytest.mark.parametrize("count", [1, 2])
def test_a_camera_that_dies_during_an_event(count, monkeypatch):
    """The event ends when nothing has come for so long, and is told then, whether it is the only source or not; it is
    told once, and when pictures come again, what was before them is forgotten."""
    monkeypatch.setattr("vidact.stream.model.GAP_S", 0.3)
    model = always(recording_model(), 0.1, 0.8, 0.1)
    camera, other = Live(), Live("other")
    camera.show(*steady(1.05))
    sources = [camera, other][:count]
    updates = run(camera, model) if count == 1 else run_many(sources, model)
    seen = [next(updates) for _ in range(5)]
    died = time.monotonic()
    late = threading.Timer(60, camera.show, [None])  # where nothing is told, the test fails and does not hang
    late.start()
    seen.append(next(updates))
    late.cancel()
    assert time.monotonic() - died > 0.2
    (event,) = seen[-1].events
    assert (event.video, event.start_s, event.end_s, event.label) == ("camera", 0.0, 1.0, "a")
    assert [update.is_repeat for update in seen] == [False, True] + [False] * 3 + [True]
    assert (seen[-1].seconds, seen[-1].is_last, seen[-1].opened) == (0.75, False, [])
    camera.show(*steady(0.55, begin_s=1.2))  # by its own time nothing is missing
    for source in sources:
        source.show(None)
    seen += list(updates)
    own = [update for update in seen if update.source == "camera"]
    assert [(e.start_s, e.end_s) for update in own for e in update.events] == [(0, 1), (1.2, 1.7)]
    assert [len(update.opened) for update in own[6:]] == [0, 1, 0, 0]
    assert model.network.begun >= 2


def test_a_silence_is_told_once_and_only_where_something_ends(monkeypatch):
    """A camera that shows nothing of interest dies quietly; one that was silent for many gaps ends its events once."""
    monkeypatch.setattr("vidact.stream.model.GAP_S", 0.1)
    for probabilities, told in ((0.1, 0.8, 0.1), 1), ((0.8, 0.1, 0.1), 0):
        camera = Live()
        camera.show(*steady(1.05))
        late = threading.Timer(60, camera.show, [None])  # where nothing is told, the test fails and does not hang
        late.start()
        updates = []
        for update in run(camera, always(recording_model(), *probabilities)):
            updates.append(update)
            if len(updates) == 4 + 2 * told:
                threading.Timer(0.5, camera.show, [None]).start()
        late.cancel()
        begins = [True] * told  # told when its token is full
        assert [u.is_repeat for u in updates] == [False, *begins, *[False] * 3, *[True] * told, True]
        assert sum(len(update.events) for update in updates) == told


def test_a_slow_machine_is_no_silence(monkeypatch):
    """What counts is how long the source is waited for, not how long the network or the listener takes."""
    monkeypatch.setattr("vidact.stream.model.GAP_S", 0.2)
    camera = Live()
    camera.show(*steady(2.05), None)
    seen = []
    for update in run(camera, always(recording_model(), 0.1, 0.8, 0.1)):
        seen.append(update)
        time.sleep(0.3)
    assert [(e.start_s, e.end_s) for update in seen for e in update.events] == [(0, 2)]


def test_a_gap_of_a_file_is_filled_and_its_time_goes_forwards():
    frames = [grab(0), grab(60)]
    assert len(list(run(Named("file", frames), recording_model()))) == 240
    with pytest.raises(ValueError, match=r"a frame of 1\.000 s came after one of 2\.000 s"):
        list(run(Named("file", [grab(2), grab(1)]), recording_model()))


def test_a_late_source_costs_no_more_than_its_frames():
    """Slots that show the same frame share its feature, so a machine that is too slow does not fall behind."""
    model = recording_model()
    computed = []
    compute = model.extractor.compute
    model.extractor.compute = lambda prepared: computed.append(len(prepared)) or compute(prepared)
    source = Named("camera", [grab(s) for s in (0.0, 3.0, 6.0)])
    source.is_live = True
    assert len(list(run(source, model))) == 24 + 1
    assert sum(computed) == 3
    given = torch.cat(model.network.given)
    assert len(given.unique(dim=0)) == 3


def test_a_source_may_change_its_size():
    """A phone is turned in the middle of a token of a network that sees all six frames."""
    torch.manual_seed(0)
    extractor = vidact.features.extractor.FeatureExtractor(
        vidact.models.tsn_resnet_tiny(num_classes=2, **SMALL), device="cpu"
    )
    model = recording_model(extractor=extractor)
    upright = (48, 36, 3)
    frames = [grab(i / 24, shape=upright if i >= 8 else (36, 48, 3)) for i in range(18)]
    list(run(frames, model))
    given = torch.cat(model.network.given)
    images = [torch.from_numpy(frames[i].image).permute(2, 0, 1) for i in (8, 8, 8, 9, 10, 11)]
    assert torch.equal(given[1], extractor.chunk(torch.stack(images)))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 5), np.uint8), r"a uint8 RGB array \(H, W, 3\); that of 0\.500 s is uint8 \(4, 5\)"),
        (np.zeros((4, 5, 3), np.float32), "is float32"),
        (np.zeros((0, 5, 3), np.uint8), r"is uint8 \(0, 5, 3\)"),
    ],
)
def test_what_is_no_frame_is_refused(image, words):
    with pytest.raises(ValueError, match="camera: .*" + words):
        list(run(Named("camera", [grab(0), grab(0.5, image)]), recording_model()))


def test_any_layout_of_an_image_will_do():
    image = grab(0).image
    read_only = image.copy()
    read_only.flags.writeable = False
    given = []
    for same in (image, image[..., ::-1].copy()[..., ::-1], np.asfortranarray(image), read_only):
        model = recording_model()
        list(run([grab(i / 24, same) for i in range(7)], model))
        given.append(torch.cat(model.network.given))
    assert all(torch.equal(one, given[0]) for one in given)


def test_nan_never_reaches_a_state():
    model = recording_model()
    model.extractor.compute = lambda prepared: torch.full((len(prepared), 128), float("nan"))
    with pytest.raises(ValueError, match=r"camera: what the network is given for 0\.00 s is not finite.*weights"):
        list(run(Named("camera", steady(1)), model))
    assert not model.network.given


# ---------------------------------------------------------------------------------------------- several sources


def test_a_stalled_source_holds_nobody_up():
    """Two cameras, of which one shows nothing, and a file."""
    stalled, camera = Live("stalled"), Live("camera")
    camera.show(*steady(2.05))
    seen = []
    with Engine(recording_model()) as engine:
        assert [engine.add(source) for source in (stalled, camera)] == ["stalled", "camera"]
        updates = engine.updates()
        while len(seen) < 8:
            seen.append(next(updates))
        assert engine.add(Named("camera", steady(1.05))) == "camera (2)"
        while not seen[-1].is_last:
            seen.append(next(updates))
    assert {update.source for update in seen[:8]} == {"camera"}
    assert [update.seconds for update in seen if update.source == "camera (2)"] == [0, 0.25, 0.5, 0.75]
    assert stalled.is_closed
    assert camera.is_closed


def test_a_failing_source_ends_alone():
    """Its events are told, its name and what was wrong too, and the others play on."""
    broken, garbage, fine = Live("broken"), Live("garbage"), Named("fine", steady(1.05))
    broken.show(*steady(0.55), OSError("the cable"))
    garbage.show(*steady(0.3), grab(0.3, np.zeros((2, 2), np.uint8)))
    errors = []
    model = always(recording_model(), 0.1, 0.8, 0.1)
    updates = list(run_many([broken, garbage, fine], model, on_error=lambda *what: errors.append(what)))
    own = {name: [u for u in updates if u.source == name] for name in ("broken", "garbage", "fine")}
    assert {name: len(of) for name, of in own.items()} == {"broken": 4, "garbage": 3, "fine": 4}
    assert all(of[-1].is_last and len(of[-1].events) == 1 for of in own.values())
    assert [(name, type(error)) for name, error in sorted(errors)] == [("broken", OSError), ("garbage", ValueError)]
    broken, fine = Live("broken"), Live("fine")
    broken.show(OSError("the cable"))
    with pytest.raises(OSError, match="the cable"):
        list(run_many([broken, fine], model))
    assert fine.is_closed


def test_a_failing_source_that_is_alone_tells_its_events_first():
    camera, file = Live(), Named("file", [*steady(0.55), grab(0.1)])
    camera.show(*steady(0.55), OSError("the cable"))
    for source, words in ((camera, "the cable"), (file, "time goes forwards")):
        told = []  # extend keeps what came before the error
        with pytest.raises((OSError, ValueError), match=words):
            told.extend(run(source, always(recording_model(), 0.1, 0.8, 0.1)))
        assert [event.label for event in told[-1].events] == ["a"]
        assert told[-1].is_last


def test_who_stops_listening_leaves_nothing_behind():
    sources = [Live("a"), Named("b", steady(1.05))]
    updates = run_many(sources, recording_model())
    next(updates)
    updates.close()
    assert all(source.is_closed for source in sources)


def test_an_engine_that_stays_waits_for_sources():
    """As a server's does: without a source, before the first and after the last one."""
    engine = Engine(recording_model(), stays=True)
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(engine.updates()))
    thread.start()
    for name in "ab":
        source = Live(name)
        engine.add(source)
        source.show(*steady(0.55))
        source.close()
        deadline = time.monotonic() + 60
        while not any(u.source == name and u.is_last for u in list(seen)) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert thread.is_alive()
    engine.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [u.source for u in answers(seen)] == ["a"] * 2 + ["b"] * 2
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.add(Live())


def test_a_live_source_is_asked_when_the_answer_is_given():
    """Nothing queues: frames that nobody asked for stay with the source, which drops them."""
    taken = []

    class Counting(Live):
        def __iter__(self):
            for item in super().__iter__():
                taken.append(item)
                yield item

    source = Counting()
    source.show(*steady(5))
    with Engine(recording_model(on=1.0)) as engine:
        engine.add(source)
        updates = engine.updates()
        next(updates)
        time.sleep(0.2)  # a slow listener
        assert len(taken) == 4
        next(updates)
        assert len(taken) == 10


# ---------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("sampling", "frames", "rate"),
    [
        (None, 8, 4.0),
        ({"name": "SegmentSampler", "arguments": {"num_segments": 8}}, 8, 4.0),
        ({"name": "SegmentSampler", "arguments": {"num_segments": 1}}, 1, 4.0),
        ({"name": "UniformSampler", "arguments": {"num_frames": 5}}, 5, 4.0),
        ({"name": "DenseSampler", "arguments": {"num_frames": 16, "stride": 4}}, 16, 6.0),
        ({"name": "LegacySampler", "arguments": {"variant": "tsm_dense", "num_frames": 8}}, 8, 3.0),
    ],
)
def test_the_rate_follows_from_the_sampler(sampling, frames, rate):
    """tsm_dense takes 8 frames of a window of 64: every eighth."""
    assert sampled_at(sampling) == (frames, rate)


def recogniser(name, tmp_path, record=None, **arguments):
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(num_classes=2, **{**SMALL, **arguments})
    return save(network, tmp_path / f"{name}.safetensors", {"classes": ["a", "b"], **(record or {})})


def test_recognisers_stream_at_the_asked_rate_and_say_nothing_of_the_background(tmp_path):
    path = recogniser("tsm_resnet_tiny", tmp_path, {"multi_label": True}, shift="causal")
    model = load_model(path, steps_per_second=8, events={"on": [0.2, 0.9]}, device="cpu")
    assert (model.tokens_per_second, model.fps, model.chunk, model.extractor) == (8, 8, 1, None)
    assert model.detector.on.tolist() == [0.2, 0.9]
    updates = list(run(Named("clip", steady(1.01)), model))
    assert [update.seconds for update in updates] == [k / 8 for k in range(9)]
    assert all(update.scores[0] == 0 for update in updates)
    assert updates[0].scores[1:] == pytest.approx([0.5, 0.5], abs=0.02)  # sigmoids of logits near 0


def test_the_mean_forgets():
    """Logits of four frames; streams of one batch may have seen different numbers of them."""
    torch.manual_seed(0)
    network = vidact.models.tsm_resnet_tiny(num_classes=3, shift="causal", **SMALL).eval()
    nn.init.normal_(network.fc.weight, std=1.0)
    clips = torch.randn(2, 11, 3, 32, 32)
    with torch.no_grad():
        each = network.frame_logits(clips)
        mean = FrameMean(network, frames=4)
        state = mean.initial_state(2)
        for t in range(11):
            output, state = mean.step(clips[:, t], state)
            torch.testing.assert_close(output.logits[:, 0], each[:, max(0, t - 3) : t + 1].mean(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("trn_resnet_tiny", {"num_segments": 4}, "cannot stream: trn_resnet_tiny looks at whole clips"),
        ("tsm_resnet_tiny", {}, "cannot stream: this tsm_resnet_tiny is bidirectional"),
        ("tsn_resnet_tiny", {"modality": "flow"}, "this tsn_resnet_tiny looks at 6 neighbouring frames"),
    ],
)
def test_who_cannot_stream_is_told_who_can(name, arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words) as error:
        load_model(recogniser(name, tmp_path, **arguments))
    assert "online detectors" in str(error.value)
    assert "shift='causal'" in str(error.value)
    assert "TSN" in str(error.value)


def detector_file(tmp_path, extractor, **record):
    torch.manual_seed(0)
    network = vidact.models.miniroad_small(3, extractor.dim, embedding_dim=12, hidden_dim=8)
    network.extractor_state = extractor.state()
    events = {"on": [0.3, 0.6], "smoothing": 0.5, "min_seconds": 0.5, "merge_seconds": 0.5}
    own = {"classes": ["a", "b"], "features": extractor.record(), "tokens_per_second": 4.0, "events": events}
    return save(network, tmp_path / "detector.safetensors", {**own, "scores": "softmax", **record})


def test_a_file_carries_the_extractor(tmp_path):
    """It is no part of the network, is kept when the network is saved again, and streams by itself."""
    extractor = tiny_extractor()
    path = detector_file(tmp_path, extractor)
    network = load(path)
    assert set(network.extractor_state) == set(extractor.state())
    assert not any("extractor" in key for key in [*network.state_dict(), *read(path)[0]])
    again = load(save(network, tmp_path / "again.safetensors"))
    for key, tensor in extractor.state().items():
        assert torch.equal(again.extractor_state[key], tensor)
    for given in (path, str(path), network, again):
        model = load_model(given, device="cpu")
        assert model.extractor.record() == extractor.record()
        assert model.classes == ["a", "b"]
        assert model.detector.on.tolist() == [0.3, 0.6]
    assert load(recogniser("tsn_resnet_tiny", tmp_path)).extractor_state == {}


def test_a_detector_without_its_extractor(tmp_path):
    extractor = tiny_extractor()
    network = load(detector_file(tmp_path, extractor))
    extractor.save(tmp_path / "extractor.safetensors")
    bare = load(detector_file(tmp_path, extractor))
    bare.extractor_state = {}
    with pytest.raises(ValueError, match=r"carries no extractor.*made by vidact\.features\.image_backbone.*Give what"):
        load_model(bare)
    for given in (tmp_path, tmp_path / "extractor.safetensors", extractor):
        assert load_model(bare, extractor=given, device="cpu").extractor.record() == extractor.record()
    with pytest.raises(
        ValueError, match=r"other features than this extractor makes: .*chunk 6 and 3.*the checkpoint's first"
    ):
        load_model(network, extractor=tiny_extractor(chunk=3), device="cpu")
    published = load(detector_file(tmp_path, extractor, features={"dim": 64, "tokens_per_second": 4.0}))
    with pytest.raises(ValueError, match="dim 64 and 128"):
        load_model(published, extractor=extractor, device="cpu")


def test_models_that_do_not_fit_are_refused(tmp_path):
    extractor = tiny_extractor()
    path = detector_file(tmp_path, extractor)
    with pytest.raises(ValueError, match=r"steps_per_second is 8, but .* answers 4 tokens a second"):
        load_model(path, steps_per_second=8)
    with pytest.raises(ValueError, match="takes no extractor"):
        load_model(recogniser("tsn_resnet_tiny", tmp_path), extractor=extractor)
    with pytest.raises(ValueError, match="does not name its classes"):
        load_model(vidact.models.tsn_resnet_tiny(num_classes=2, **SMALL))
    with pytest.raises(ValueError, match=r"has 3 outputs, and its background and 3 classes need 4"):
        load_model(detector_file(tmp_path, extractor, classes=["a", "b", "c"]), device="cpu")
    with pytest.raises(ValueError, match="give one"):
        StreamModel(Recorder(), ["a"], 4.0, EventDetector(["a"], 4.0))


# ---------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def features_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features as extraction leaves them, noise instead of videos."""
    root, extractor = tmp_path_factory.mktemp("data"), tiny_extractor()
    (root / "features").mkdir()
    rng = np.random.default_rng(0)
    for video in "abc":
        np.save(root / "features" / f"{video}.npy", rng.normal(size=(80, 128)).astype(np.float32))
    (root / "features" / "features.json").write_text(json.dumps(extractor.record()))
    extractor.save(root / "features" / "extractor.safetensors")
    write_events_csv(root / "events.csv", [Event(v, s, s + 3.0, "xy"[s % 2]) for v in "abc" for s in (2, 9)])
    write_videos_csv(root / "videos.csv", {"a": "train", "b": "val", "c": "test"})
    write_classes(root / "classes.txt", ["x", "y"])
    return root


def test_a_run_s_checkpoint_streams(features_root, tmp_path):
    """Trained on a folder of features, it needs nothing else; and it is scored and resumed as before."""
    run_folder = tmp_path / "run"
    small = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--device=cpu", "--data.num_workers=0"]
    sizes = ["--model.network.embedding_dim=8", "--model.network.hidden_dim=8"]
    train(
        ["--config", "online/synthetic/miniroad", f"--data.root={features_root}", f"--run={run_folder}", *small, *sizes]
    )
    model = load_model(run_folder / "checkpoints" / "best.ckpt", device="cpu")
    assert model.extractor.record() == tiny_extractor().record()
    assert model.classes == ["x", "y"]
    updates = list(run(Named("clip", steady(2)), model))
    assert [update.scores.shape for update in updates] == [(3,)] * 8
    moved = load_model(save(load(run_folder / "checkpoints" / "best.ckpt"), tmp_path / "moved.safetensors"))
    np.testing.assert_array_equal([u.scores for u in run(Named("clip", steady(2)), moved)], [u.scores for u in updates])


def test_a_checkpoint_of_an_older_version_streams(tmp_path):
    """Its record of the features does not say what networks take by default since."""
    extractor = tiny_extractor()
    network = load(detector_file(tmp_path, extractor))
    del network.record["features"]["network"]["input"]["scale"]
    del network.record["features"]["network"]["recipe"]["arguments"]["modality"]
    assert load_model(network, device="cpu").extractor.record() == extractor.record()
    network.record["features"]["network"]["input"]["scale"] = 255.0
    with pytest.raises(ValueError, match=r"trained on other features.*network\.input\.scale 255\.0 and 1\.0"):
        load_model(network, extractor=extractor, device="cpu")


def test_another_extractor_beside_the_features_is_refused(features_root, tmp_path):
    record = json.loads((features_root / "features" / "features.json").read_text())
    assert read_extractor(tmp_path, record) == {}
    tiny_extractor(chunk=3).save(tmp_path / "extractor.safetensors")
    with pytest.raises(ValueError, match=r"is not what made the features beside it: .*chunk 3 and 6"):
        read_extractor(tmp_path, record)
