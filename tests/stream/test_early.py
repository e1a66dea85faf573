"""Early answers: a live source's token is answered when the frames that the network uses are certain, and stays only if
its chunk becomes full."""

import contextlib
import json
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.playing import Live, Named, Waiting, answers, grab, recording_model, steady, tiny_extractor
from support.serving import Serving, frame, jpeg

import vidact.models
from vidact.events import EventDetector
from vidact.models.online import OnlineOutput, map_state
from vidact.stream import StreamModel, run, run_many
from vidact.stream.engine import Streams
from vidact.stream.grabs import Grab
from vidact.stream.window.overlay import History
from vidact.stream.window.player import Player, States
from vidact.stream.window.writers import JsonLines
from vidact.video.clock import NEAR, Chunker, Clock

FPS, GAP = 24.0, 2.0


class Numbers:
    """An "extractor" of pictures of one pixel: the numbers in the pictures that it uses, bit for bit."""

    longest_gap_s = None

    def __init__(self, chunk, history, frames):
        self.fps, self.chunk_size, self.history, self.frames, self.batch = FPS, chunk, history, frames, 1
        self.tokens_per_second = FPS / chunk

    def prepare(self, images):
        return torch.stack([image[:, 0, 0].float() for image in images]).mean(0) / 255

    def compute(self, prepared):
        return torch.stack(prepared)


class Fading:
    """A "detector" with a memory: every answer depends on all tokens before it."""

    def initial_state(self, batch_size=1):
        return {"sum": torch.zeros(batch_size, 3)}

    def step(self, feature, state):
        total = 0.5 * state["sum"] + feature
        return OnlineOutput(8 * total[:, None]), {"sum": total}


def number_model(chunk, history, frames, delay=0):
    extractor = Numbers(chunk, history, frames)
    detector = EventDetector(["a", "b"], FPS / chunk, on=0.4, smoothing=0.3, min_seconds=0.3, merge_seconds=0.3)
    network = Waiting(delay) if delay else Fading()
    return StreamModel(network, ["a", "b"], FPS / chunk, detector, extractor, longest_gap_s=GAP)


def picture(number):
    """A picture of one pixel, another one for each number."""
    return np.random.default_rng(number).integers(0, 256, (1, 1, 3), dtype=np.uint8)


def takes_of(times_s, is_silent):
    """The frame numbers of each stretch: a new one begins after a silence, a long pause, or when time goes back."""
    takes = [[0]]
    for i in range(1, len(times_s)):
        pause_s = times_s[i] - times_s[i - 1]
        if is_silent[i] or pause_s > GAP or pause_s < 0:
            takes.append([])
        takes[-1].append(i)
    return takes


def of_file(model, times_s, is_silent):
    """Seconds and scores of the tokens, the events, and the last state and events' state: by the rules of files."""
    seconds, scores, events, state, event_state = [], [], [], None, None
    for take in takes_of(times_s, is_silent):
        own = np.asarray(times_s)[take]
        slots = np.asarray(take)[Clock(FPS).indices(own)]
        rows = Chunker(model.chunk, model.history).indices(slots)
        state, event_state = model.network.initial_state(1), model.detector.initial_state("camera")
        found, late = [], []
        for row in rows:
            images = [torch.from_numpy(picture(row[model.history + place])).permute(2, 0, 1) for place in model.places]
            score, _, state = model.answer(model.inputs([model.prepare(images)]), state)
            late.append(score[0])
        if model.delay:
            late += list(model.flush(state)[0])
        for number, score in enumerate(late[model.delay :]):
            changed, event_state = model.detector.step(score, event_state)
            found += changed.closed
            seconds.append(float(own[0]) + number * model.chunk / FPS)
            scores.append(score)
        found += model.detector.finish(event_state)
        events += [(e.label, e.start_s + float(own[0]), e.end_s + float(own[0]), e.score) for e in found]
    return seconds, scores, events, state, event_state


def pushed(model, sources):
    """The updates of live sources, each with the number of the frame that it came with, None at the end.

    Args:
        sources: of each its times, before which frames it was silent, and after how many frames answers are taken.
    """
    streams = Streams(model)
    joined = [streams.join("camera", is_live=True) for _ in sources]
    found = [[] for _ in sources]
    by_name = {stream.name: updates for stream, updates in zip(joined, found, strict=True)}

    def note(updates, frame):
        for update in updates:
            by_name[update.source].append((frame, update))

    for i in range(max(len(times_s) for times_s, _, _ in sources)):
        for stream, (times_s, is_silent, every) in zip(joined, sources, strict=True):
            if i >= len(times_s):
                continue
            if is_silent[i] and i:
                note(streams.silence(stream), i)
            stream.push(Grab(times_s[i], picture(i), 0.0, 0))
            if i % every == every - 1:
                note(streams.answers(), i)
    states = []
    for stream in joined:
        note(streams.leave(stream), None)
        states.append((stream.state, stream.event_state))
    return found, states


# Pauses between frames: of steady rates, of any length, of frames with one stamp; and those after which a take begins.
STEPS = st.one_of(
    st.sampled_from([0.0, 1 / 24, 1 / 25, 1 / 30, 1 / 48, 1 / 60, 1 / 24 + 1e-7, 3 / 24]),
    st.integers(0, 400_000).map(lambda microseconds: microseconds / 1e6),
    st.sampled_from([1.0, 2.5, -0.5]),
)
SOURCES = st.lists(
    st.tuples(
        st.lists(st.tuples(STEPS, st.integers(0, 30)), min_size=1, max_size=40),
        st.sampled_from([0.0, 7.3, 1.7e9]),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=3,
)
# Chunk, history and used frames: one of six; the first; flow, which uses the last; a window; one frame a token.
KINDS = st.sampled_from([(6, 0, [3]), (6, 0, [0]), (6, 0, [4, 5]), (6, 8, [-6, -2, 1]), (4, 9, [-7, -5]), (1, 0, [0])])


@settings(deadline=None)
@given(SOURCES, KINDS, st.sampled_from([0, 0, 1, 3]))
@example([([(1 / 30, 1)] * 23, 0.0, 1)], (6, 0, [3]), 0)
@example([([(1 / 30, 1)] * 23, 7.3, 1)], (6, 0, [3]), 1)
@example([([(1 / 30, 1)] * 37 + [(2.5, 1)] + [(1 / 24, 1)] * 39, 0.0, 2)], (6, 0, [3]), 3)
def test_what_stays_of_a_live_source_is_what_a_file_gives(drawn, kind, delay):
    """Whatever the times: answers that stay, and events, are bit for bit those of the file; the rest is withdrawn, and
    leaves nothing. An answer comes with the first frame at or after the instant of the last slot that it uses, of the
    token ``delay`` tokens later; those that wait come when the source ends, pauses or is lost."""
    model = number_model(*kind, delay)
    sources = []
    for steps, begin_s, every in drawn:
        times_s = (begin_s + np.cumsum([0.0, *(step for step, _ in steps[1:])])).tolist()
        sources.append((times_s, [dice == 0 for _, dice in steps], every))
    found, states = pushed(model, sources)
    for (times_s, is_silent, every), updates, (state, event_state) in zip(sources, found, states, strict=True):
        seconds, scores, events, last_state, last_event_state = of_file(model, times_s, is_silent)
        stay = answers([update for _, update in updates])
        assert [update.seconds for update in stay] == pytest.approx(seconds, abs=1e-6)
        np.testing.assert_array_equal(
            np.reshape([update.scores for update in stay], (-1, 3)), np.reshape(scores, (-1, 3))
        )
        got = [(e.label, e.start_s, e.end_s, e.score) for _, update in updates for e in update.events]
        assert sorted(got) == sorted(events)
        opened = [(e.label, e.start_s) for _, update in updates for e in update.opened]
        assert sorted(opened) == sorted((label, start_s) for label, start_s, _, _ in events)
        if last_event_state.token:
            map_state(np.testing.assert_array_equal, state, last_state)
            np.testing.assert_array_equal(event_state.smoothed, last_event_state.smoothed)
            assert event_state.token == last_event_state.token
        if every > 1 or len(sources) > 1 or min(np.diff(times_s), default=0) < 0:
            continue
        for take in takes_of(times_s, is_silent):
            positions = (np.asarray(times_s)[take] - times_s[take[0]]) * FPS
            own = [(i, u) for i, u in updates if i in take and not u.is_repeat and u.seconds >= times_s[take[0]]]
            if delay:  # with its first frame come answers that waited when the take before it ended
                own = [(i, u) for i, u in own if i > take[0]]
            for number, (i, update) in enumerate(own, delay):
                used = number * model.chunk + max(0, *model.places)
                assert i == take[int(np.argmax(positions + NEAR >= used))]
                assert update.is_provisional == (positions[take.index(i)] + NEAR < (number + 1) * model.chunk - 1)


# ---------------------------------------------------------------------------------------------- networks and sources


def a_camera(frames, name="camera"):
    source = Named(name, frames)
    source.is_live = True
    return source


def test_a_camera_gives_what_a_file_gives_bit_for_bit():
    """Through an extractor and a detector with a memory, and with answers that wait for their chunks."""
    extractor = tiny_extractor()
    torch.manual_seed(0)
    network = vidact.models.miniroad_small(3, extractor.dim, embedding_dim=12, hidden_dim=8).eval()
    model = StreamModel(network, ["a", "b"], 4.0, EventDetector(["a", "b"], 4.0, on=0.3), extractor)
    frames = [grab(i / 30) for i in range(50)]  # slot 39 is the newest: four of the last chunk
    early = list(run(a_camera(frames), model))
    file = list(run(Named("camera", frames), model))
    assert not any(update.is_provisional or update.is_repeat for update in file)
    model.early = False
    late = list(run(a_camera(frames), model))
    assert [update.is_withdrawn for update in early].count(True) == 1
    assert not any(update.is_provisional or update.is_withdrawn for update in late)
    for updates in (early, late):
        np.testing.assert_array_equal([u.scores for u in answers(updates)], [u.scores for u in file])
        assert [e for u in updates for e in u.events] == [e for u in file for e in u.events] != []


def test_what_needs_the_last_frame_is_not_answered_early():
    """Of a chunk's flow or clip the last frame is used; a file's answers, played in real time or not, are not early."""
    torch.manual_seed(0)
    clips = recording_model(extractor=tiny_extractor(rgb_index=5))
    assert not any(update.is_provisional for update in run(a_camera(steady(2)), clips))
    model = recording_model()
    paced = Named("file", steady(2))
    paced.realtime = True
    for source in (paced, Named("file", steady(2))):
        assert not any(update.is_provisional for update in run(source, model))


def test_streams_of_both_kinds_share_a_step():
    """A camera's early answer and a paced file's full chunk, which come with the same frames, are one batch."""
    model = number_model(6, 0, [3])
    sizes = []
    step = model.network.step
    model.network.step = lambda feature, state: sizes.append(len(feature)) or step(feature, state)
    streams = Streams(model)
    camera, file = streams.join("camera", is_live=True), streams.join("file", holds_back=False)
    updates = []
    for i in range(24):
        camera.push(Grab(i / 24, picture(i), 0.0, 0))
        file.push(Grab((i + 2) / 24 if i else 0.0, picture(i), 0.0, 0))
        updates += streams.answers()
    assert sizes == [2] * 4
    assert [u.is_provisional for u in updates if u.source == "file"] == [False] * 4


def test_a_lone_early_answer_that_is_withdrawn(tmp_path):
    """The source ends inside its first token: the answer is taken back, and there is no last one."""
    updates = list(run(a_camera(steady(0.2)), recording_model(on=0.01)))
    assert [(u.is_provisional, u.is_withdrawn, u.is_last) for u in updates] == [
        (True, False, False), (False, True, False),
    ]  # fmt: skip
    assert not any(update.events or update.opened for update in updates)
    with JsonLines(tmp_path / "a.jsonl", ["a", "b"]) as lines:
        for update in updates:
            lines.write(update)
    first, second = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert (first["provisional"], first["withdrawn"], second["repeat"], second["withdrawn"]) == (
        True,
        False,
        True,
        True,
    )
    assert (second["seconds"], second["scores"]) == (first["seconds"], first["scores"])
    history = History(4.0)
    for update in updates:
        history.add(update)
    assert not history.ends_s
    assert not history.scores


def test_a_source_that_falls_silent_inside_a_token(monkeypatch):
    """Its answer is withdrawn when it is given up, and the event that it would have opened never begins."""
    monkeypatch.setattr("vidact.stream.model.GAP_S", 0.2)
    camera = Live()
    camera.show(*steady(0.2))
    updates = run(camera, recording_model(on=0.01))
    seen = [next(updates), next(updates)]
    assert [update.is_withdrawn for update in seen] == [False, True]
    camera.show(*steady(0.3, begin_s=1.0), None)
    seen += updates
    assert [update.seconds for update in answers(seen)] == [1.0]
    assert {event.start_s for update in seen for event in [*update.opened, *update.events]} == {1.0}


# ---------------------------------------------------------------------------------------------- the way of an answer


def test_a_listener_is_told_of_a_frame_after_its_answers():
    """What ``on_answered`` does delays no answer; of a camera, of several sources and of a file."""
    for sources in ([a_camera(steady(0.6))], [a_camera(steady(0.6)), a_camera(steady(0.6))], [Named("f", steady(0.6))]):
        order = []
        heard = {
            "on_frame": lambda name, frame, order=order: order.append((name, "frame", frame.seconds)),
            "on_answered": lambda name, frame, order=order: order.append((name, "answered", frame.seconds)),
        }
        model = recording_model(on=1.0)
        for update in run(sources[0], model, **heard) if len(sources) == 1 else run_many(sources, model, **heard):
            order.append((update.source, "update", update.seconds))
        for name in {name for name, _, _ in order}:
            own = [(what, seconds) for source, what, seconds in order if source == name]
            assert [seconds for what, seconds in own if what == "answered"] == [frame.seconds for frame in steady(0.6)]
            if name != "f":
                first = own.index(("update", 0.0))
                assert own[first - 1 : first + 2] == [("frame", 3 / 24), ("update", 0.0), ("answered", 3 / 24)]


def test_warming_up_changes_no_state():
    """It is done once, before the first frame of a live source, and answers are the same with it and without it."""
    model = number_model(6, 0, [3])
    frames = [Grab(i / 24, picture(i), 0.0, 0) for i in range(24)]
    cold = list(run(Named("camera", frames), model))
    calls = []
    step = model.network.step
    model.network.step = lambda feature, state: calls.append(state) or step(feature, state)
    warm = list(run(a_camera(frames), model))
    assert len(calls) == 1 + 4
    np.testing.assert_array_equal([u.scores for u in answers(warm)], [u.scores for u in cold])
    list(run(a_camera(frames), model))
    assert len(calls) == 1 + 4 + 4


def test_a_network_that_cannot_answer_fails_before_the_first_frame():
    model = number_model(6, 0, [3])

    def fail(feature, state):
        raise RuntimeError("out of memory")

    model.network.step = fail
    camera = Live()
    with pytest.raises(RuntimeError, match="out of memory"):
        next(run(camera, model))
    assert camera.is_closed


# ---------------------------------------------------------------------------------------------- the server, the command


def test_a_page_is_told_that_an_answer_is_withdrawn():
    """The visitor's video ends inside a token: the answer, its end, and no event of it."""
    with Serving(recording_model(on=0.01)) as served, served.client() as client:
        client.start()
        for count, seconds in enumerate((0.0, 0.13), 1):  # before and after the instant of the fourth slot
            client.socket.send(frame(seconds, jpeg("red")))
            end = time.monotonic() + 60
            while f"\nvidact_frames_total {count}\n" not in served.hub.metrics.text():
                assert time.monotonic() < end
                time.sleep(0.005)
        first = client.read("answer")
        client.say(type="end")
        second = client.read("answer")
        assert (first["provisional"], first["repeat"], first["withdrawn"]) == (True, False, False)
        assert (second["provisional"], second["repeat"], second["withdrawn"]) == (False, True, True)
        assert second["seconds"] == first["seconds"] == 0
        assert not any(message["opened"] or message["closed"] for message in (first, second))
        text = served.hub.metrics.text()
    assert "\nvidact_withdrawn_answers_total 1\n" in text
    assert "\nvidact_events_total{" not in text


def test_the_command_counts_the_answers_that_stay(tmp_path, capsys):
    """The source ends inside a token: its answer is not counted, and the events are those of the token before."""
    camera = a_camera(steady(0.45))  # a full token, and five slots
    model = recording_model(on=0.01)
    player = Player(model, {0: camera}, States(), jsonl=str(tmp_path / "a.jsonl"), events=tmp_path / "e.csv")
    with contextlib.closing(player):
        player.play()
    assert "1 answer; 2 events; 1 early answer withdrawn" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines if line["withdrawn"]] == [0.25]
    rows = (tmp_path / "e.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1:3] for row in rows] == [["0.0000", "0.2500"]] * 2
