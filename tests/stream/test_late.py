"""Detectors that look ahead: answers come late and stand at their own tokens; the last ones come when a source ends."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.playing import Live, Named, Waiting, answers, grab, steady, tiny_extractor
from support.serving import Serving

from vidact.data.event_list import Event
from vidact.events import EventDetector, scores_to_events
from vidact.stream import StreamModel, run, run_many
from vidact.stream.window.player import Picture, Player, States


def waiting_model(delay, **settings):
    extractor = tiny_extractor()
    classes = ["a", "b"]
    network = Waiting(delay, extractor.dim)
    detector = EventDetector(classes, 4.0, **{"on": 0.4, "min_seconds": 0.25, **settings})
    return StreamModel(network, classes, 4.0, detector, extractor)


def a_camera(frames, name="camera"):
    source = Named(name, frames)
    source.is_live = True
    return source


@torch.no_grad()
def scanned(model, frames):
    """The scores (T, 1 + K) that a file of these frames has, by ``scan``."""
    pictures = [frame.image for frame in frames]
    slots = [torch.from_numpy(pictures[i + 3]).permute(2, 0, 1) for i in range(0, len(pictures) // 6 * 6, 6)]
    features = torch.stack([model.inputs([model.prepare([slot])])[0] for slot in slots])
    return model.network.scan(features[None]).logits[0].softmax(-1).numpy()


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("many", [False, True], ids=["run", "engine"])
def test_a_file_has_an_answer_for_each_of_its_tokens(delay, many):
    """Of one that is shorter than the delay, too; the last update is the last token's, and closes what is open."""
    model = waiting_model(delay)
    for seconds in (0.25, 0.5, 2.1):
        frames = steady(seconds)
        sources = [Named("file", frames)]
        updates = list(run_many(sources, model) if many else run(sources[0], model))
        expected = scanned(model, frames)
        np.testing.assert_allclose([u.scores for u in updates], expected, atol=1e-6)
        assert [u.seconds for u in updates] == [t / 4 for t in range(len(expected))]
        assert [u.is_last for u in updates] == [False] * (len(expected) - 1) + [True]
        assert not any(u.is_repeat or u.is_provisional for u in updates)
        events = scores_to_events(expected, "file", model.detector)
        got = sorted((e for u in updates for e in u.events), key=lambda e: (e.start_s, e.end_s, e.label))
        assert got == events != []


def test_the_latency_contains_the_wait(monkeypatch):
    """It counts from the frame of the answer's own token, and no answer comes before the token that it waits for."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr("vidact.stream.engine.time", SimpleNamespace(monotonic=lambda: now.s))
    model = waiting_model(2)
    source, came = a_camera([grab(i / 24, captured=i / 24, dropped=1) for i in range(24)]), []

    dropped = 0

    def note(name, frame):
        now.s = frame.seconds

    for update in run(source, model, on_frame=note):
        if not update.is_repeat:
            came.append((update.seconds, update.latency_ms, update.is_provisional))
        dropped += update.dropped
    # A token's frame is its fourth; the answer is given with the fourth frame of the token two tokens later.
    assert came[:2] == [(0.0, pytest.approx(500), True), (0.25, pytest.approx(500), True)]
    assert dropped == 24
    assert [seconds for seconds, *_ in came] == [0.0, 0.25, 0.5, 0.75]
    assert [latency for _, latency, _ in came[2:]] == pytest.approx([1000 * (23 / 24 - n / 24) for n in (15, 21)])


def test_a_camera_that_is_away_and_comes_back():
    """The answers that waited when it paused come then, and the next take begins with no memory of the one before."""
    model = waiting_model(2)
    parts = [steady(1.3, begin_s=3), steady(0.3, begin_s=500), steady(1.1, begin_s=900)]
    updates = list(run(a_camera([frame for part in parts for frame in part]), model))
    stay = answers(updates)
    expected = [scanned(model, part) for part in parts]
    np.testing.assert_allclose([u.scores for u in stay], np.concatenate(expected), atol=1e-6)
    assert [u.seconds for u in stay] == [3, 3.25, 3.5, 3.75, 4, 500, 900, 900.25, 900.5, 900.75]
    for begin_s, scores in zip((3, 500, 900), expected, strict=True):
        events = scores_to_events(scores, "camera", model.detector)
        got = [e for u in updates for e in u.events if begin_s <= e.start_s < begin_s + 100]
        assert sorted((e.label, e.start_s - begin_s, e.end_s - begin_s) for e in got) == sorted(
            (e.label, e.start_s, e.end_s) for e in events
        )
    assert [u.is_last for u in updates] == [False] * (len(updates) - 1) + [True]


def test_a_file_with_a_long_pause():
    """Its takes are answered as two files; every event is told before the next take has an answer."""
    model = waiting_model(2)
    model.longest_gap_s = 5.0
    parts = [steady(1.3), steady(1.3, begin_s=100)]
    updates = list(run(Named("file", parts[0] + parts[1]), model))
    np.testing.assert_allclose(
        [u.scores for u in updates], np.concatenate([scanned(model, part) for part in parts]), atol=1e-6
    )
    assert [u.seconds for u in updates] == [*(t / 4 for t in range(5)), *(100 + t / 4 for t in range(5))]
    first = [event for u in updates[:5] for event in u.events]
    assert first
    assert all(event.end_s <= 1.25 for event in first)
    assert all(event.start_s >= 100 for u in updates[5:] for event in u.events)
    assert not any(u.is_repeat for u in updates)


def test_a_camera_that_falls_silent(monkeypatch):
    """Its last answers and the end of its events are told when it is given up."""
    monkeypatch.setattr("vidact.stream.model.GAP_S", 0.3)
    model = waiting_model(3)
    camera = Live()
    camera.show(*steady(1.3))
    seen = []
    for update in run(camera, model):
        seen.append(update)
        if update.seconds == 1.0 and not update.is_repeat:
            camera.show(None)
    np.testing.assert_allclose([u.scores for u in answers(seen)], scanned(model, steady(1.3)), atol=1e-6)
    events = scores_to_events(scanned(model, steady(1.3)), "camera", model.detector)
    assert sorted((e.label, e.start_s, e.end_s) for u in seen for e in u.events) == sorted(
        (e.label, e.start_s, e.end_s) for e in events
    )


def test_a_source_that_fails_tells_its_last_answers_first():
    def broken():
        yield from steady(1.3)
        raise OSError("the camera is gone")

    model, seen = waiting_model(3), []
    with pytest.raises(OSError, match="the camera is gone"):
        seen.extend(run(broken(), model))  # it keeps what came before the error
    np.testing.assert_allclose([u.scores for u in seen], scanned(model, steady(1.3)), atol=1e-6)
    assert seen[-1].is_last


def test_sources_of_several_lengths_do_not_meet():
    """Three share every step; each ends as if it were alone."""
    model = waiting_model(2)
    parts = {f"file{n}": [grab(i / 24, seed=1000 * n + i) for i in range(n)] for n in (60, 7, 33)}
    got = {name: [] for name in parts}
    for update in run_many([Named(name, frames) for name, frames in parts.items()], model):
        got[update.source].append(update.scores)
    for name, frames in parts.items():
        np.testing.assert_allclose(got[name], scanned(model, frames), atol=1e-6)


def test_the_command_states_the_delay_and_dates_lines_and_events(tmp_path, capsys):
    model, frames = waiting_model(2), steady(2.1)
    player = Player(
        model, {0: Named("file", frames)}, States(), jsonl=str(tmp_path / "a.jsonl"), events=tmp_path / "events.csv"
    )
    player.by_name["file"] = player.sources[0]
    player.sources[0].realtime = False
    player.play()
    player.close()
    assert "file: 2 classes, 4 answers/s, each 0.5 s late, on cpu" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [t / 4 for t in range(8)]
    with (tmp_path / "events.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = scores_to_events(scanned(model, frames), "file", model.detector)
    events = [Event(row["video"], float(row["start_s"]), float(row["end_s"]), row["label"]) for row in rows]
    assert sorted((e.start_s, e.end_s, e.label) for e in events) == sorted(
        (e.start_s, e.end_s, e.label) for e in expected
    )


def test_a_recording_shows_an_answer_when_it_is_given():
    """The same frames carry the same answers, whether a file is played in real time or as fast as it is read."""
    drawn = {}
    for realtime in (True, False):
        model, recorded = waiting_model(2), []
        source = Named("file", steady(2.1))
        source.realtime = realtime
        picture = Picture("file", model, 10, None, lambda seconds, image: None, not realtime)
        picture.drawn = lambda image, p=picture, r=recorded: r.append(
            -math.inf if not p.history.ends_s else p.history.now_s
        )
        for update in run(source, model, on_answered=lambda name, frame, p=picture: p.frame(frame)):
            picture.answer(update)
        picture.flush()
        drawn[realtime] = recorded
    assert len(drawn[True]) == len(drawn[False]) == 50
    complete = 48  # the answers that waited come after the last frame
    assert drawn[True][:complete] == drawn[False][:complete]
    assert drawn[True][16:18] == [-math.inf, 0.25]  # with the last slot of the third token


def test_a_page_is_told_the_delay_and_the_frame_of_the_token():
    """The frame's time is that of the answer's own token, so that the page counts the wait as well."""
    model = waiting_model(2)
    with Serving(model) as served, served.client() as client:
        assert client.hello["delay_seconds"] == 0.5
        channel = served.hub._channel("camera")
        channel.frame_times_s.extend(i / 24 for i in range(24))
        update = SimpleNamespace(source=channel.name, seconds=0.25)
        assert served.hub._captured(update) == pytest.approx(9 / 24)
        assert channel.frame_times_s.maxlen == 128 + 30
