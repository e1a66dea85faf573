"""Generated videos: order pairs are the same pictures backwards, everything comes from the seed, files are real."""

import re
from collections import Counter

import av
import numpy as np
import pytest

from vidact.data.event_list import load_events, load_videos, rasterise
from vidact.data.synthetic import CLASSES, ORDER_PAIRS, SHAPE_CLASSES, render, write_clips, write_untrimmed
from vidact.data.tables import load_classes


def decode(path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips") / "made", {"train": 2, "test": 1}, seed=3)


@pytest.mark.parametrize("pair", ORDER_PAIRS, ids=lambda pair: pair[0])
@pytest.mark.parametrize("seed", [0, 1, (5, 7)])
def test_a_pair_is_one_video_in_both_directions(pair, seed):
    """So the set of frames cannot tell the members apart, and their order can."""
    (first, fps), (second, same_fps) = render(pair[0], seed), render(pair[1], seed)
    assert fps == same_fps
    assert np.array_equal(first, second[::-1])
    assert np.abs(first.astype(int) - second).mean() > 1


@pytest.mark.parametrize("pair", ORDER_PAIRS, ids=lambda pair: pair[0])
def test_the_codec_does_not_betray_the_order(clips, pair):
    first, times = decode(clips.root / pair[0] / "0000.mp4")
    second, _ = decode(clips.root / pair[1] / "0000.mp4")
    assert np.array_equal(first, second[::-1])
    rendered, fps = render(pair[0], (3, 0))
    assert len(rendered) == len(first)
    np.testing.assert_allclose(times, np.arange(len(first)) / fps, atol=1e-4)
    assert np.abs(first.astype(int) - rendered).mean() < 5


@pytest.mark.parametrize("action", CLASSES)
def test_an_action_moves_and_is_seen(action):
    for seed in range(5):
        frames, fps = render(action, seed)
        assert frames.shape[1:] == (80, 96, 3)
        assert frames.dtype == np.uint8
        assert 26 <= len(frames) <= 38
        assert fps in (16, 20, 24)
        range_of_pixel = frames.max(0).astype(int) - frames.min(0)
        assert (range_of_pixel.max(-1) > 60).mean() > 0.02  # far more than noise does
        assert not np.array_equal(frames, render(action, seed + 100)[0][: len(frames)])


def test_left_and_right_are_what_they_say():
    """The centre of what differs from the empty scene goes where the name says; y grows downwards."""
    for seed in range(8):
        frames = render("moving right", seed)[0].astype(float)
        moved = np.abs(frames - np.median(frames, axis=0)).sum(-1) > 90
        centre = [np.nonzero(frame)[1].mean() for frame in moved if frame.sum() > 20]
        assert centre[-1] - centre[0] > 25


def test_clockwise_is_clockwise():
    """The tip passes right, bottom, left, top in this order: on average its angle grows, with y downwards."""
    for seed in range(8):
        frames = render("turning clockwise", seed)[0].astype(float)
        moved = np.abs(frames - np.median(frames, axis=0)).sum(-1) > 90
        y, x = np.nonzero(moved.any(0))
        points = [np.argwhere(frame).mean(0) - (y.mean(), x.mean()) for frame in moved if frame.sum() > 20]
        angle = np.unwrap([np.arctan2(*point) for point in points])
        assert angle[-1] - angle[0] > 1


def test_names_suit_a_label_aware_flip():
    for name in CLASSES:
        swapped = re.sub(r"left|right", lambda m: {"left": "right", "right": "left"}[m[0]], name)
        assert swapped in CLASSES
    assert len(set(CLASSES)) == len(CLASSES) == 2 * len(ORDER_PAIRS) + len(SHAPE_CLASSES)


def test_a_folder_of_clips_is_what_was_ordered(clips):
    assert Counter((clip.label, clip.split) for clip in clips) == {
        (label, split): count for label in range(len(CLASSES)) for split, count in (("train", 2), ("test", 1))
    }
    assert clips.classes == CLASSES
    assert clips.notes == []
    with av.open(str(clips.clips[0].path)) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        assert file.streams.video[0].pix_fmt == "yuv420p"


def test_the_same_seed_gives_the_same_bytes(tmp_path, clips):
    names = ["moving left", "blinking star"]
    again = write_clips(tmp_path, {"train": 2, "test": 1}, seed=3, classes=names)
    for clip in again:
        assert clip.path.read_bytes() == (clips.root / f"{clip.id}.mp4").read_bytes()
    reseeded = render("moving left", (4, 0))[0]
    assert not np.array_equal(reseeded, render("moving left", (3, 0))[0])


def test_a_folder_in_use_is_refused_by_words(tmp_path):
    order = {"train": 1, "test": 1}
    names = CLASSES[:2]
    calls = []
    write_clips(tmp_path / "a", order, classes=names, progress=lambda num_done, total: calls.append((num_done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    write_clips(tmp_path / "a", order, classes=names)  # the same again is welcome
    with pytest.raises(FileExistsError, match="holds generated videos of another kind"):
        write_clips(tmp_path / "a", order, classes=names, seed=1)
    with pytest.raises(FileExistsError, match="holds generated videos of another kind"):
        write_untrimmed(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="b holds something else; name a new or empty folder"):
        write_clips(tmp_path / "b", order)
    with pytest.raises(NotADirectoryError, match=r"thesis.tex is a file"):
        write_clips(tmp_path / "b" / "thesis.tex", order)


def test_wrong_orders_are_refused_by_words(tmp_path):
    with pytest.raises(ValueError, match="'flying' is not an action; there are moving right"):
        render("flying", 0)
    with pytest.raises(ValueError, match="choose at least two of"):
        write_clips(tmp_path, classes=["flying", "opening"])
    with pytest.raises(ValueError, match="give the numbers of train, val, test"):
        write_clips(tmp_path, {"dev": 3})
    assert not any(tmp_path.iterdir())


def test_untrimmed_videos_match_their_events(tmp_path):
    events = write_untrimmed(tmp_path, {"train": 2, "test": 1}, actions_per_video=3, fps=12)
    assert load_videos(tmp_path / "videos.csv") == {
        "videos/0000.mp4": "train",
        "videos/0001.mp4": "train",
        "videos/0002.mp4": "test",
    }
    read = load_events(tmp_path / "events.csv")
    assert [(e.video, e.label) for e in read] == [(e.video, e.label) for e in events]
    classes = load_classes(tmp_path / "classes.txt")
    for video in load_videos(tmp_path / "videos.csv"):
        video_events = [event for event in read if event.video == video]
        frames, times = decode(tmp_path / video)
        targets = rasterise(video_events, len(frames), 12, classes)
        assert len(video_events) == 3
        assert 0 < times[-1] - video_events[-1].end_s < 3
        idle = targets.multi_hot[:, 0] == 1
        assert 0.2 < idle.mean() < 0.8
        # One camera: at rest every frame is the same scene, but for the noise and what sways at the edge.
        rest = frames[idle].astype(float)
        assert np.median(np.abs(rest - rest[0])) < 6
        # An event's frames differ from the rest, and no rest frame does.
        scene = np.median(rest, axis=0)
        changed = (np.abs(frames - scene).max(-1) > 45).mean((1, 2))
        assert changed[idle].max() < 0.02
        for event in video_events:
            inside = slice(round(event.start_s * 12), round(event.end_s * 12))
            assert changed[inside].max() > 0.02


def test_untrimmed_classes_are_about_equally_frequent(tmp_path):
    events = write_untrimmed(tmp_path, {"train": 4}, classes=CLASSES[:3], actions_per_video=3, fps=8)
    assert Counter(event.label for event in events) == dict.fromkeys(CLASSES[:3], 4)
