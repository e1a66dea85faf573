"""Windows at the rate of published weights: of the same seconds in a video of any frame rate and length."""

import numpy as np
import pytest

from vidact import hub
from vidact.video.clock import Clock
from vidact.video.rate_windows import RateWindows
from vidact.video.sample import ClipSampler

MOVINET = RateWindows(50, 5.0, shortens=True)


def times(seconds: float, fps: float) -> tuple[np.ndarray, float]:
    count = round(seconds * fps)
    return np.arange(count) / fps, count / fps


DENSE = [name for name, entry in hub.PUBLISHED.items() if entry.sampler["name"] == "DenseSampler"]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("clips", [1, 4])
def test_at_the_rate_of_the_training_it_is_the_sampler_of_the_record(name, clips):
    entry = hub.PUBLISHED[name]
    fps = 12 if entry.classes == "something_v2" else 30
    for seconds in (1, 10, 11):
        frame_times = times(seconds, fps)
        expected = ClipSampler.from_record(entry.sampler)(len(frame_times[0]), num_clips=clips)
        chosen = RateWindows(*entry.window)(*frame_times, clips)
        assert chosen.shape == expected.shape
        assert np.abs(chosen - expected).max() <= 1  # halves are rounded to the other side


@pytest.mark.parametrize("fps", [12, 15, 24, 25, 30000 / 1001, 50, 60])
@pytest.mark.parametrize("windows", [RateWindows(32, 15.0), RateWindows(13, 5.0), MOVINET])
def test_every_frame_is_the_nearest_to_its_instant_at_any_rate(fps, windows):
    frame_times, end_s = times(37, fps)
    chosen = frame_times[windows(frame_times, end_s)]
    steps = np.arange(windows.frames) / windows.rate
    assert np.abs(chosen - chosen[:, :1] - steps).max() <= 1 / fps + 1e-9
    assert chosen[0, 0] == 0
    assert chosen[-1, -1] == pytest.approx(frame_times[-1], abs=0.5 / fps + 1e-9)
    assert (np.diff(chosen[:, 0]) > 0).all()


def test_as_many_windows_as_cover_the_video_and_at_most_ten():
    slowfast = RateWindows(32, 15.0)  # 2.13 s
    assert [slowfast.number(seconds) for seconds in (0.1, 2.1, 2.3, 2.4, 10, 60, 600)] == [1, 1, 1, 2, 5, 10, 10]
    assert [MOVINET.number(seconds) for seconds in (3, 10, 10.5, 12, 60, 600)] == [1, 1, 1, 2, 6, 10]
    frame_times, end_s = times(60, 25)
    chosen = frame_times[MOVINET(frame_times, end_s)]
    assert chosen.shape == (6, 50)
    np.testing.assert_allclose(chosen[:, 0], np.linspace(0, 50.16, 6), atol=0.02)  # 9.8 s from first to last frame


@pytest.mark.parametrize("fps", [8, 12, 15, 24, 25, 30000 / 1001, 30, 50, 60])
def test_a_movinet_reads_the_frames_of_a_short_video_that_a_stream_of_it_has(fps):
    """So the answer of ``predict`` is one of ``stream``: the last one, for a file that is no longer than 50 frames."""
    for seconds in (0.1, 0.7, 3, 5.5, 9.9, 10):
        frame_times, end_s = times(seconds, fps)
        streamed = Clock(5).indices(frame_times, end_s)
        assert len(streamed) <= 51
        np.testing.assert_array_equal(MOVINET(frame_times, end_s), streamed[None, :50])


def test_a_video_that_is_shorter_than_a_window():
    frame_times, end_s = times(3, 25)
    assert MOVINET(frame_times, end_s).shape == (1, 16)  # as a clock, which also has the instant after the last frame
    repeated = RateWindows(50, 5.0)(frame_times, end_s)[0]
    assert repeated.shape == (50,)
    np.testing.assert_array_equal(repeated[:15], np.rint(np.arange(15) * 5))
    assert set(repeated[15:]) == {74}
    for windows in (MOVINET, RateWindows(4, 2.5)):
        assert set(windows(np.array([5.0]), 5.04).flat) == {0}
        assert set(windows(np.array([5.0, 5.04]), 5.08, 3).flat) <= {0, 1}


def test_frames_that_come_when_they_like_are_chosen_by_their_times():
    frame_times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 300))
    (chosen,) = RateWindows(20, 4.0)(frame_times, frame_times[-1] + 0.1, 1)
    instants = frame_times[0] + (frame_times[-1] - frame_times[0] - 19 / 4) / 2 + np.arange(20) / 4
    nearest = np.abs(frame_times[:, None] - instants).argmin(0)
    np.testing.assert_array_equal(chosen, nearest)
