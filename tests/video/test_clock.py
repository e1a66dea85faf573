"""The clock: nearest frame, and the same slots whether frames are pushed or asked for by index."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidact.video import Chunker, Clock

RATES = [5.0, 10.0, 15.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60.0, 120.0]


def pushed(times_s, fps=24.0):
    """What a camera with these frames shows: (slot number, time, frame number)."""
    clock = Clock(fps)
    slots = [slot for number, time_s in enumerate(times_s) for slot in clock.push(float(time_s), number)]
    return slots + clock.finish()


def slow(times_s, fps=24.0):
    """The definition, in words: nearest frame to each instant, the earlier of two equally near."""
    first, last = times_s[0], times_s[-1]
    shown = []
    while first + len(shown) / fps < last + 0.5 / fps - 1e-5:
        instant = first + len(shown) / fps
        shown.append(min(range(len(times_s)), key=lambda i: (round(abs(times_s[i] - instant), 5), i)))
    return shown


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("num_frames", [1, 2, 3, 25, 60])
def test_steady_sources(rate, num_frames):
    times_s = np.arange(num_frames) / rate
    indices = Clock().indices(times_s)
    assert indices.tolist() == [slot.image for slot in pushed(times_s)] == slow(times_s)
    assert abs(len(indices) - num_frames / rate * 24) <= 1 + 24 / rate


def test_a_source_at_the_clocks_rate_passes_unchanged():
    for fps in RATES:
        for times_s in (np.arange(500) / fps, np.round(np.arange(500) / fps, 3)):  # and stamps of whole milliseconds
            assert Clock(fps).indices(times_s).tolist() == list(range(500))


def test_every_25th_frame_is_dropped_and_late_ones_repeat():
    indices = Clock(24).indices(np.arange(100) / 25)
    assert len(indices) == 96
    assert np.bincount(indices, minlength=100).max() == 1
    assert Clock(24).indices(np.arange(4) / 12).tolist() == [0, 0, 1, 1, 2, 2, 3]  # ties go to the earlier
    assert Clock(10).indices(np.array([0.0, 1.0])).tolist() == [0] * 6 + [1] * 5  # a gap: half before, half after


def test_slots_say_their_number_and_time():
    slots = pushed(7.5 + np.arange(50) / 30)
    assert [slot.number for slot in slots] == list(range(len(slots)))
    np.testing.assert_allclose([slot.time_s for slot in slots], 7.5 + np.arange(len(slots)) / 24)


TIMES = st.builds(
    lambda seed, num_frames, rate, jitter, gaps, begin, step: _jittered(
        seed, num_frames, rate, jitter, gaps, begin, step
    ),
    seed=st.integers(0, 2**32 - 1),
    num_frames=st.integers(1, 120),
    rate=st.sampled_from(RATES),
    jitter=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    gaps=st.integers(0, 3),
    begin=st.sampled_from([0.0, -0.04, 12.345, 1.7e9]),
    step=st.sampled_from([0.0, 0.001, 1 / 90000]),
)


def _jittered(seed, num_frames, rate, jitter, gaps, begin, step):
    """Ascending times: frames that come too early and too late, gaps, and stamps that a container rounds."""
    random = np.random.default_rng(seed)
    times_s = (np.arange(num_frames) + jitter * random.uniform(-1, 1, num_frames)) / rate
    for _ in range(gaps):
        times_s[random.integers(num_frames) :] += random.uniform(0, 2)
    times_s = np.sort(times_s) + begin
    return np.round(times_s / step) * step if step else times_s


@settings(max_examples=300, deadline=None)
@given(
    times_s=TIMES,
    fps=st.sampled_from([8.0, 24.0, 30000 / 1001, 30.0]),
    chunk=st.integers(1, 8),
    history=st.integers(0, 20),
)
def test_pushing_equals_indices(times_s, fps, chunk, history):
    """The law: frame by frame or all at once, the slots and the chunks are the same."""
    slots = pushed(times_s, fps)
    indices = Clock(fps).indices(times_s)
    assert indices.dtype == np.int64
    assert indices.tolist() == [slot.image for slot in slots]
    assert (np.diff(indices) >= 0).all()
    chunker = Chunker(chunk, history)
    spans = [[slot.image for slot in full] for slot in slots if (full := chunker.push(slot)) is not None]
    assert chunker.indices(indices).tolist() == spans
    assert len(spans) == len(slots) // chunk
    first = [slots[0].image] * history
    shown = first + [slot.image for slot in slots]
    assert spans == [shown[end - chunk : history + end] for end in range(chunk, len(slots) + 1, chunk)]


@settings(max_examples=100, deadline=None)
@given(times_s=TIMES, fps=st.sampled_from([8.0, 24.0, 30.0]))
def test_each_slot_shows_the_nearest_frame(times_s, fps):
    indices = Clock(fps).indices(times_s)
    instants = times_s[0] + np.arange(len(indices)) / fps
    nearest = np.abs(times_s[None] - instants[:, None]).min(1)
    np.testing.assert_allclose(np.abs(times_s[indices] - instants), nearest, rtol=0, atol=2e-4 / fps)
    assert abs(instants[-1] - times_s[-1]) <= 1 / fps  # slots end where the frames end


def test_a_slot_waits_for_no_more_than_the_next_frame():
    clock = Clock(10)
    assert [slot.image for slot in clock.push(0.0, "a")] == ["a"]  # on the instant: certain at once
    assert clock.push(0.06, "b") == []  # a later one may be nearer to 0.1
    assert [slot.image for slot in clock.push(0.11, "c")] == ["c"]
    assert [slot.image for slot in clock.push(0.199999, "d")] == ["d"]
    assert clock.finish() == []


def test_seconds_since_1970_choose_as_seconds_from_zero():
    times_s = np.arange(300) / 30
    assert Clock().indices(times_s + 1.7e9).tolist() == Clock().indices(times_s).tolist()


def test_what_is_not_a_time():
    clock = Clock()
    clock.push(3.4, "a")
    with pytest.raises(ValueError, match=r"3\.200 s came after one of 3\.400 s; time goes forwards.*begin a new clock"):
        clock.push(3.2, "b")
    assert [slot.image for slot in clock.push(3.45, "c")] == ["c"]  # and the clock goes on as if it had not come
    for time_s in (math.nan, math.inf):
        with pytest.raises(ValueError, match="number of seconds"):
            clock.push(time_s, "d")
    with pytest.raises(ValueError, match=r"frame 2 of 0\.500 s comes after one of 1\.000 s"):
        Clock().indices(np.array([0.0, 1.0, 0.5]))
    with pytest.raises(ValueError, match="a finite time for each frame"):
        Clock().indices(np.array([0.0, math.nan]))
    assert Clock().indices(np.zeros(0)).tolist() == []
    assert Clock().finish() == []
    for fps in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="needs a rate above 0"):
            Clock(fps)
    with pytest.raises(ValueError, match="chunk is 0"):
        Chunker(0)
    with pytest.raises(ValueError, match="history is -1; it is a number of slots, 0 or more"):
        Chunker(6, -1)
