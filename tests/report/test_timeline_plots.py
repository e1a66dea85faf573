"""Pictures of a detector's run show what the figures say, for few and many classes, short and long videos."""

import numpy as np
import pytest
from PIL import Image
from support.made_timelines import make_timelines

from vidact.metrics import frame_map
from vidact.report import timeline_plots
from vidact.report.plots import DPI
from vidact.report.timeline_plots import (
    anticipation,
    choose_videos,
    class_colours,
    clock,
    draw_anticipation,
    draw_delays,
    draw_precision_recall,
    draw_timeline,
    drawn_names,
    timeline_name,
    video_accuracies,
)
from vidact.results.timelines import Timelines

PALE, BLUE, ORANGE = (195, 214, 236), (37, 99, 168), (217, 100, 31)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count(image, colour) -> int:
    return int((abs(image - np.array(colour)).sum(-1) < 8).sum())


def test_clock():
    assert [clock(seconds) for seconds in (0, 5.4, 65, 600, 3725)] == ["0:00", "0:05", "1:05", "10:00", "1:02:05"]


def test_names_that_the_font_lacks_become_numbers():
    """Rows of boxes would all look alike."""
    assert drawn_names(["walk", "歩く", "прыжок", "走る"]) == ["walk", "class 1", "прыжок", "class 3"]


def test_a_video_of_wrong_answers_is_the_worst():
    """Its own mAP is high all the same: within the one class that occurs, the ranking is right."""
    timelines = make_timelines(videos=2, num_classes=2, skill=0.9, future=())
    wrong = timelines.scores[1]
    wrong[:] = 0.05
    wrong[:, 1] = 0.1 * (timelines.targets[1][:, 1] == 1)
    timelines.targets[1][:, 2] = 0
    wrong[:, 2] = 0.9
    assert frame_map(wrong, timelines.targets[1]).mean == 1
    accuracies = video_accuracies(timelines)
    assert accuracies[1] == 0
    assert accuracies[0] == (timelines.scores[0].argmax(1) == timelines.targets[0].argmax(1)).mean()
    assert choose_videos(timelines, accuracies) == [1, 0]


def test_accuracy_of_a_video_counts_background_and_no_ambiguous_token():
    timelines = make_timelines(background=(1,))
    timelines.scores[1][:] = [0.9, 0.1, 0, 0]
    timelines.ignore[1][:40] = True
    timelines.scores[1][:40] = [0, 1, 0, 0]
    timelines.ignore[2][:] = True
    accuracies = video_accuracies(timelines)
    assert accuracies[1] == 1
    assert np.isnan(accuracies[2])


def test_chosen_videos_reach_from_worst_to_best():
    timelines = make_timelines(videos=11)
    accuracies = np.arange(11)[::-1] / 10
    assert choose_videos(timelines, accuracies, 3) == [10, 5, 0]
    assert choose_videos(timelines, accuracies) == [10, 8, 6, 4, 2, 0]
    assert choose_videos(make_timelines(videos=2), np.array([0.5, 0.1])) == [1, 0]
    assert choose_videos(make_timelines(videos=1), np.array([0.5])) == [0]


def test_of_videos_without_action_the_loudest_is_shown():
    timelines = make_timelines(videos=8, background=(1, 3), skill=0.3)
    timelines.scores[3][:, 1:] *= 3
    accuracies = np.array([0.1, 0.35, 0.2, 0.36, 0.4, 0.6, 0.8, 0.9])
    assert choose_videos(timelines, accuracies, 3) == [0, 3, 7]
    timelines.ignore[3][:] = True  # what it says there does not count
    accuracies[3] = np.nan
    assert choose_videos(timelines, accuracies, 2) in ([0, 1], [1, 7])


def test_a_class_has_one_colour_wherever_it_is_drawn():
    """Whatever other classes a page shows, and in whatever order."""
    all_ten = class_colours(range(1, 11))
    assert len(set(all_ten.values())) == 10
    for shown in ([7], [3, 9, 1], [10, 2]):
        assert class_colours(shown) == {column: all_ten[column] for column in shown}
    apart = class_colours([2, 12])
    assert apart[2] == all_ten[2]
    assert apart[12] != apart[2]


def test_curves_of_two_pages_agree_on_colours(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(timeline_plots, "save", lambda figure, path: drawn.append(figure) or path)
    for unknown in (1, 3):  # another order of average precision
        timelines = make_timelines(num_classes=4, skill=0.4)
        for scores in timelines.scores:
            scores[:, unknown] = 0
        draw_precision_recall(timelines, tmp_path / "pr.png")
    colours = [
        {line.get_label().partition("  ")[2]: line.get_color() for line in figure.axes[0].get_lines()}
        for figure in drawn
    ]
    orders = [[line.get_label().partition("  ")[2] for line in figure.axes[0].get_lines()] for figure in drawn]
    assert orders[0] != orders[1]
    assert colours[0] == colours[1]


def draw_one(tmp_path, truth, score, ignore=(), name="t.png"):
    """The lane of one class, without title and legend above."""
    truth, score = np.array(truth), np.array(score, float)
    ignored = np.isin(np.arange(len(truth)), ignore)
    timelines = Timelines(
        ["v"], [np.stack([1 - score, score], 1)], [np.stack([1 - truth, truth], 1)], [ignored], ["walk"], 1.0
    )
    return pixels(draw_timeline(timelines, 0, tmp_path / name))[int(0.37 * DPI) :]


def test_areas_are_as_large_as_truth_and_score(tmp_path):
    """Blue to orange as the scores within the truth are to those outside; what is missed stays pale."""
    image = draw_one(tmp_path, [1] * 10 + [0] * 10, [0.5] * 10 + [0.25] * 10)
    blue, orange, pale = count(image, BLUE), count(image, ORANGE), count(image, PALE)
    assert blue / orange == pytest.approx(2, rel=0.1)
    assert blue / pale == pytest.approx(1, rel=0.1)


def test_what_does_not_count_is_neither_right_nor_wrong(tmp_path):
    scored = draw_one(tmp_path, [1] * 5 + [0] * 5, [1.0] * 10)
    hatched = draw_one(tmp_path, [1] * 5 + [0] * 5, [1.0] * 10, ignore=range(10))
    assert count(hatched, BLUE) < 0.1 * count(scored, BLUE)
    assert count(hatched, ORANGE) < 0.1 * count(scored, ORANGE)


def test_lanes_are_the_classes_that_occur_or_are_predicted():
    """In order of their first token; of the false ones those that are predicted longest."""
    truth = np.zeros((10, 6), bool)
    truth[5:, 2] = truth[1:3, 4] = truth[[0, 3, 4], 0] = True
    scores = np.full((10, 6), 0.01)
    scores[:, 0] = 0.4
    scores[0:3, 1] = scores[0, 3] = scores[6:8, 5] = 0.6
    assert timeline_plots._lanes(scores, truth, 6) == ([4, 2, 1, 5, 3], 0)
    assert timeline_plots._lanes(scores, truth, 1) == ([4, 2, 1], 2)


def test_a_video_without_action_and_prediction_shows_the_background():
    scores = np.tile([0.9, 0.1], (4, 1))
    assert timeline_plots._lanes(scores, np.tile([True, False], (4, 1)), 6) == ([0], 0)


@pytest.mark.parametrize("tokens", [1, 120, 2400, 20000])
def test_a_timeline_of_any_length_has_the_width_of_a_page(tmp_path, tokens):
    timelines = make_timelines(videos=1, tokens=tokens)
    image = pixels(draw_timeline(timelines, 0, tmp_path / "t.png"))
    assert image.shape[1] == round(timeline_plots.WIDTH * DPI)
    assert 100 < image.shape[0] < 1000


def test_a_video_of_21_actions_has_21_lanes(tmp_path):
    few, many = (
        pixels(draw_timeline(make_timelines(n, 1, tokens=400), 0, tmp_path / f"{n}.png")).shape[0] for n in (3, 21)
    )
    assert (many - few) / DPI == pytest.approx(18 * 0.4, abs=0.1)


def test_file_names_are_plain_and_differ():
    timelines = make_timelines(videos=3)
    timelines.ids = ["a/b", "a b", "../歩く/" + "x" * 300]
    names = [timeline_name(timelines, video) for video in range(3)]
    assert names[0] == "0000_a_b.png"
    assert len(set(names)) == 3
    assert all("/" not in name and len(name) < 100 for name in names)


@pytest.mark.parametrize("num_classes", [1, 10, 21])
def test_precision_recall_of_any_number_of_classes(tmp_path, num_classes):
    timelines = make_timelines(num_classes, videos=3, tokens=400, empty=(num_classes - 1,) if num_classes > 1 else ())
    image = pixels(draw_precision_recall(timelines, tmp_path / "pr.png"))
    assert 800 < image.shape[1] < 1900
    assert 600 < image.shape[0] < 1900


def test_precision_recall_shows_the_worst_of_very_many(tmp_path):
    timelines = make_timelines(60, videos=4, tokens=300, future=())
    few = pixels(draw_precision_recall(timelines, tmp_path / "pr.png", most=13))
    assert few.shape[0] < 1300


def test_labels_of_precision_recall_are_the_metric(tmp_path, monkeypatch):
    """One formula: the legend's figures are ``frame_map``'s."""
    drawn = []
    monkeypatch.setattr(timeline_plots, "save", lambda figure, path: drawn.append(figure) or path)
    timelines = make_timelines(skill=0.2)
    timelines.ignore[0][10:30] = True
    draw_precision_recall(timelines, tmp_path / "pr.png")
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    areas = frame_map(*timelines.joined()).per_class
    best_first = np.argsort(-areas)
    assert labels == [f"{areas[k]:.2f}  class {k}" for k in best_first]


def test_nothing_is_drawn_where_no_action_occurs(tmp_path):
    timelines = make_timelines(videos=1, background=(0,))
    assert draw_precision_recall(timelines, tmp_path / "pr.png") is None
    assert draw_delays(timelines, tmp_path / "d.png") is None
    assert list(tmp_path.iterdir()) == []


def test_anticipation_leaves_the_present_out():
    """TRN's first future output speaks of now, which belongs to the ordinary mAP."""
    timelines = make_timelines(future=(0, 1, 2))
    assert list(anticipation(timelines).seconds) == [0.25, 0.5]
    assert anticipation(make_timelines(future=(0,))) is None
    assert anticipation(make_timelines(future=())) is None


def test_anticipation_is_that_of_the_right_outputs():
    """An output that repeats the present is right about the future as far as actions last."""
    timelines = make_timelines(skill=1.0, future=(0, 1, 8))
    timelines.future = [np.stack([one[:, 0] * 0, one[:, 1], one[:, 2]], 1) for one in timelines.future]
    near, far = anticipation(timelines).per_offset
    assert 1 > near > far > 0


def test_anticipation_and_delay_are_drawn(tmp_path, monkeypatch):
    timelines = make_timelines()
    for path in (
        draw_anticipation(anticipation(timelines), 0.9, tmp_path / "a.png"),
        draw_delays(timelines, tmp_path / "d.png"),
    ):
        assert 900 < pixels(path).shape[1] < 1200
    drawn = []
    monkeypatch.setattr(timeline_plots, "save", lambda figure, path: drawn.append(figure) or path)
    draw_delays(make_timelines(skill=1.0), tmp_path / "d.png")
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert labels == [f"score of {threshold}: 100% seen, median 0 s" for threshold in (0.3, 0.5, 0.7)]
    draw_delays(make_timelines(skill=0.0, scores=[np.full((80, 4), 0.25)] * 3), tmp_path / "d.png")
    assert drawn[1].axes[0].get_legend().get_texts()[0].get_text() == "score of 0.3: 0% seen"
