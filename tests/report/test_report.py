"""Every run gets a valid page: complete, half-finished or damaged; it hides nothing and loads nothing."""

import csv
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from support.made_timelines import make_timelines

from vidact.events import Detection
from vidact.metrics import calibrated_map, confusion_matrix, diagnose, frame_map, token_accuracy, yardsticks
from vidact.report import page as report
from vidact.report import plots
from vidact.report.page import write_report, write_summary
from vidact.report.plots import draw_confusion, draw_curves, draw_mistakes, find_mistakes, read_log, read_strip
from vidact.results.figures import in_words, save_results
from vidact.results.scores import Scores

NASTY = '<script>alert("x")</script> & $x$'


class Page(HTMLParser):
    """Collects what a page shows and checks that every element that opens closes."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, path):
        super().__init__()
        self.open, self.images, self.links, self.text, self.tags = [], [], [], [], []
        self.source = path.read_text()
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        if tag == "a":
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def make_scores(num_classes=4, videos=24, skill=1.5, seed=0, **changes):
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % num_classes
    values = rng.normal(size=(videos, num_classes)) + skill * np.eye(num_classes)[labels]
    classes = [f"class {n}" for n in range(num_classes)]
    return Scores(
        **({"ids": [f"v{n}" for n in range(videos)], "labels": labels, "values": values, "classes": classes} | changes)
    )


def write_log(run, epochs=3):
    rows = []
    for epoch in range(epochs):
        rows.append({"epoch": epoch, "step": epoch * 10, "lr-SGD/pg1": 0.1, "lr-SGD/pg2": 0.1})
        rows.append(
            {"epoch": epoch, "step": epoch * 10, "val_loss": 1 / (epoch + 1), "val_top1": 1 - 0.5 / (epoch + 1)}
        )
        rows.append({"epoch": epoch, "step": epoch * 10, "train_loss": 0.9 / (epoch + 1), "train_top1": 0.5})
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a run #1"
    folder.mkdir()
    return folder


def test_complete_run(run):
    write_log(run)
    scores = make_scores()
    scores.save(run / "scores.npz")
    save_results(
        run, {"test": {"test_top1": 0.75, "unreadable": {"v9": "v9.mp4 has no frames"}}}, "vidact test --ckpt best"
    )
    (run / "config.yaml").write_text("seed_everything: 7\n")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").touch()
    skipped = {"split": "train", "videos": 50, "skipped": {"bad": "bad.mp4 is empty"}}
    (run / "unreadable.json").write_text(json.dumps(skipped))
    page = Page(write_report(run, title="My run"))
    top1 = (scores.values.argmax(1) == scores.labels).mean()
    for words in (
        "My run",
        f"{top1:.3f}",
        "vidact test --ckpt best",
        "top-1 0.750",
        "v9.mp4 has no frames",
        "seed_everything: 7",
    ):
        assert words in page.words
    assert "1 of 50 train videos could not be read" in page.words
    assert "Missing" not in page.words
    names = {path.name for path in (run / "plots").iterdir()}
    assert names == {"loss.png", "accuracy.png", "lr.png", "confusion.png", "classes.png", "mistakes.png"}
    assert len(page.images) == 6
    for link in page.links:
        assert (run / link).exists(), link


def test_page_loads_nothing_from_elsewhere(run):
    make_scores().save(run / "scores.npz")
    page = Page(write_report(run))
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert not re.search(r"https?:|url\(|@import|<script", page.source)
    assert "prefers-color-scheme: dark" in page.source
    assert 'name="viewport"' in page.source


def test_everything_is_escaped(run):
    """Names of classes, videos, commands and errors come from files that strangers made."""
    ids = [f"{NASTY}{n}" for n in range(24)]
    make_scores(classes=[NASTY + str(n) for n in range(4)], ids=ids).save(run / "scores.npz")
    save_results(run, {NASTY: {NASTY: NASTY, "unreadable": {NASTY: NASTY}, "rows": [{NASTY: NASTY}]}}, NASTY)
    (run / "config.yaml").write_text(NASTY)
    (run / "unreadable.json").write_text(json.dumps({"split": NASTY, "videos": 1, "skipped": {NASTY: NASTY}}))
    page = Page(write_report(run, title=NASTY))
    assert "script" not in page.tags
    assert page.words.count('<script>alert("x")') > 20
    page = Page(write_summary(run, NASTY, [{NASTY: NASTY}], notes=[NASTY]))
    assert "script" not in page.tags


def test_run_that_was_only_trained(run):
    write_log(run)
    page = Page(write_report(run))
    assert len(page.images) == 3
    assert "neither scores.npz nor timelines.npz is there, so no test is shown; `vidact test` writes" in page.words
    assert "results.json does not exist" in page.words


def test_run_that_was_only_tested(run):
    make_scores().save(run / "scores.npz")
    page = Page(write_report(run))
    assert "no learning curves; `vidact train` writes it" in page.words
    assert "Confusion" in page.words


def test_empty_run(run):
    (run / "config.yaml").touch()
    page = Page(write_report(run))
    assert page.images == []
    assert page.words.count("`vidact test` writes") == 2
    (run / "config.yaml").unlink()
    (run / "clip.mp4").touch()
    with pytest.raises(FileNotFoundError, match=r"holds nothing of a run \(config\.yaml, .*name a run folder"):
        write_report(run)
    with pytest.raises(FileNotFoundError, match="none is not a folder"):
        write_report(run / "none")


def test_damaged_files_are_named_on_the_page(run):
    make_scores().save(run / "scores.npz")
    (run / "scores.npz").write_bytes((run / "scores.npz").read_bytes()[:200])
    (run / "results.json").write_text("{")
    (run / "unreadable.json").write_text("[]")
    (run / "metrics.csv").write_text("epoch,step,val_top1\n")
    words = Page(write_report(run)).words
    for part in (
        "scores.npz (200 bytes) is not a scores file",
        "is not valid JSON",
        "unreadable.json is not what",
        "no finished epoch",
    ):
        assert part in words


def test_two_classes_and_a_class_without_video(run):
    make_scores(2, labels=np.zeros(24, int)).save(run / "scores.npz")
    page = Page(write_report(run))
    assert "top-1" in page.words
    assert "top-2" not in page.words
    assert "no video" in page.words


def test_no_mistakes_remove_the_old_sheet(run):
    make_scores().save(run / "scores.npz")
    write_report(run)
    make_scores(skill=50).save(run / "scores.npz")
    assert "None: all 24 videos are recognised" in Page(write_report(run)).words
    assert not (run / "plots" / "mistakes.png").exists()


def test_multi_label_run(run):
    targets = np.random.default_rng(0).integers(0, 2, (24, 4))
    targets[:, 3] = 0
    make_scores(labels=targets).save(run / "scores.npz")
    page = Page(write_report(run))
    assert "mAP" in page.words
    assert "average precision" in page.words
    assert "Clips with several labels have no single answer" in page.words


def test_summary_of_networks(tmp_path):
    runs = [tmp_path / "tsn", tmp_path / "tsm"]
    for folder in runs:
        folder.mkdir()
        write_log(folder)
    make_scores(skill=50).save(runs[0] / "scores.npz")
    rows = [{"network": "TSN", "top-1": 0.5}, {"network": "TSM", "top-1": 0.987, "minutes": 2}]
    page = Page(write_summary(tmp_path, "demo", rows, runs, notes=["a note"]))
    assert len(page.images) == 5
    assert {"tsn/report.html", "tsm/report.html", "tsn/plots/confusion.png"} <= set(page.links)
    assert all((tmp_path / link).exists() for link in page.links)
    assert "0.987" in page.words
    assert "a note" in page.words
    assert "std" not in page.words  # different networks have no mean


def test_summary_of_folds(tmp_path):
    save_results(tmp_path, {"mean_top1": 0.9}, "vidact folds --config clip/x/y")
    rows = [{"fold": name, "top1": top1, "videos": 10} for name, top1 in (("ann", 1.0), ("bob", 0.7), ("eve", 1.0))]
    page = Page(write_summary(tmp_path / "", "folds", rows, pooled=make_scores()))
    assert "mean 0.900 10 std 0.141 0 min 0.700 10 max 1.000 10" in page.words
    assert "vidact folds --config clip/x/y" in page.words
    assert (tmp_path / "plots" / "confusion.png").exists()


def test_summary_of_runs_with_the_same_name(tmp_path):
    """Seeds of several detectors: each run is named by where it lies."""
    for name in ("miniroad/seed0", "oadtr/seed0"):
        (tmp_path / name / "logs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    runs = [tmp_path / "miniroad" / "seed0", tmp_path / "oadtr" / "seed0"]
    words = Page(write_summary(tmp_path, "table", [{"detector": "MiniROAD"}], runs)).words
    assert "miniroad/seed0 no pictures oadtr/seed0 no pictures" in words
    assert "seed0" in Page(write_summary(tmp_path / "elsewhere", "table", [], runs)).words


# ---- an online detector


DETECTOR_PICTURES = {"confusion.png", "precision_recall.png", "classes.png", "anticipation.png", "delay.png"}


def write_detector_run(run, **changes):
    timelines = make_timelines(**changes)
    timelines.save(run / "timelines.npz")
    return timelines


def test_complete_run_of_a_detector(run):
    write_log(run)
    timelines = write_detector_run(run)
    timelines.ignore[1][5:25] = True
    timelines.save(run / "timelines.npz")
    save_results(run, {"test": {"test_map": 0.75, "protocol": "lstr"}}, "vidact test --ckpt best")
    page = Page(write_report(run))
    rows = timelines.joined()
    for words in (
        f"{frame_map(*rows).mean:.3f} mAP",
        f"{calibrated_map(*rows).mean:.3f} mcAP",
        f"{token_accuracy(*rows):.3f} of the tokens right",
        f"{yardsticks(rows[1], rows[2]).majority:.3f} right if always",
        "0.250 right by a guess",
        f"{yardsticks(rows[1], rows[2], has_background=True).chance_map:.3f} mAP of a guess",
        "3 videos",
        "0.017 hours",
        "3 classes",
        "220 tokens at 4 a second, protocol lstr, without 20 ambiguous ones",
        "mAP 0.750",
        "All videos, from the worst to the best by the share of their tokens that are right",
        "seconds ahead mAP tokens 0.25 ",
    ):
        assert words in page.words
    headings = [title.partition("</h2>")[0] for title in page.source.split("<h2>")[1:]]
    assert headings == [
        "Results", "Learning curves", "Timelines", "Confusion", "Precision and recall", "Classes", "Anticipation",
        "Delay", "Files",
    ]  # fmt: skip
    assert "Missing" not in page.words
    assert "scores.npz" not in page.words
    assert {path.name for path in (run / "plots").glob("*.png")} == DETECTOR_PICTURES | {
        "loss.png",
        "accuracy.png",
        "lr.png",
    }
    assert len(list((run / "plots" / "timelines").iterdir())) == 3
    assert len(page.images) == 3 + 4 + 4
    assert {"timelines.npz", "results.json"} <= set(page.links)
    assert all((run / unquote(link)).exists() for link in page.links)


def test_a_detector_that_is_no_better_than_the_majority_is_called_so(run):
    timelines = make_timelines(skill=0)
    for scores in timelines.scores:
        scores[:] = [0.1, 0.3, 0.3, 0.3]
    timelines.save(run / "timelines.npz")
    page = Page(write_report(run))
    share = timelines.joined()[1].mean(0)
    assert f"is no better than always answering '{['background', *timelines.classes][share.argmax()]}'" in page.words
    assert "is no better than a guess's" in page.words
    assert 'class="warning"' in page.source
    write_detector_run(run, skill=1)
    assert 'class="warning"' not in Page(write_report(run)).source


EVENTS = {
    "test_event_f1": 0.4, "test_event_precision": 0.5, "test_event_recall": 0.333, "test_event_f1_at_0.5": 0.3,
    "test_event_f1_always_on": 0.1, "test_events_found": 8, "test_events_true": 12, "test_missed": 0.25,
    "test_false_alarms_per_hour": 377.0, "test_delay_s": 0.5, "test_confusion": {"classes": ["a"], "counts": [[1]]},
    "events": {"on": [0.4, 0.5, 0.4]},
    "thresholds": {"words": "classes turn on at 0.4: chosen on 5 events", "events": {"class 1": 3}},
}  # fmt: skip


def test_events_are_told_in_words(run):
    write_detector_run(run)
    save_results(run, {"test": EVENTS}, "vidact test --ckpt best")
    page = Page(write_report(run))
    for words in (
        "8 events were detected where there are 12; 25% of the true ones were never seen.",
        "come 377 times an hour, one every 9.5 s.",
        "as the detector reports them 0.500 0.333 0.400",
        "with every threshold at 0.5 0.300",
        "every class all the time 0.100",
        "Thresholds: classes turn on at 0.4: chosen on 5 events.",
        "class 1 0.500 3",
    ):
        assert words in page.words
    assert not any(name in page.words for name in EVENTS if name.startswith("test_"))
    assert "confusion: " not in page.words
    assert "looks ahead" not in page.words
    save_results(run, {"test": EVENTS | {"test_answers_late_s": 0.5}}, "vidact test --ckpt best")
    assert "looks ahead: every answer comes 0.5 s after its moment" in Page(write_report(run)).words
    save_results(run, {"test": EVENTS | {"test_event_f1": 0.1}}, "vidact test --ckpt best")
    assert "The events are no better than those of every class all the time." in Page(write_report(run)).words


def test_mistakes_of_events_are_drawn_and_told(run):
    """What each kind costs, what became of the true events, and the numbers; an older picture does not stay."""
    write_detector_run(run, videos=1, background=(0,), future=())  # the fewest pictures
    truth = [Detection("day 0", 0, 10, "walk", 1), Detection("day 0", 20, 21, NASTY, 1),
             Detection("day 1", 0, 9, "walk", 1)]  # fmt: skip
    detections = [Detection("day 0", 0, 10, "walk", 0.9), Detection("day 0", 20, 21, "walk", 0.8),
                  Detection("day 1", 0, 3, "walk", 0.7)]  # fmt: skip
    diagnosis = diagnose(detections, truth, {"day 0": 60, "day 1": 60}).figures()
    save_results(run, {"test": EVENTS | {"test_diagnosis": diagnosis}}, "vidact test --ckpt best")
    page = Page(write_report(run))
    for words in (
        "1 of 3 true events are found with an overlap of 0.5 or more. Of the detections, 0 lie in the background, "
        "1 overlap an event of another class, 1 have poor borders, and 0 find an event a second time; 0 events are",
        "The kind that costs most is “another class”: without it the mAP would be 0.750 instead of 0.250.",
        f"{NASTY} walk 1",
        "length: up to 5 s 0 0 1 0 0 1 1 0",
    ):
        assert words in page.words
    assert "diagnosis" not in page.words
    pictures = [run / "plots" / f"{name}.png" for name in ("costs_of_mistakes", "fates_of_events")]
    assert pictures[0].is_file()
    image = np.asarray(Image.open(pictures[1]).convert("RGB")).astype(int)
    for colour in ((37, 99, 168), (217, 100, 31), (133, 170, 216)):  # found, of another class, poor borders
        assert (abs(image - np.array(colour)).sum(-1) < 8).sum() > 500
    save_results(run, {"test": EVENTS}, "vidact test --ckpt best")
    write_report(run)
    assert not any(picture.exists() for picture in pictures)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_top1", "top-1"), ("val_map", "mAP"), ("mean test_map", "mean mAP"), ("mean_top1", "mean top-1"),
        ("std_top1", "spread of top-1"), ("mean_class_accuracy", "mean class accuracy"), ("seconds an epoch",) * 2,
        ("test_token_accuracy", "token accuracy"), ("mean top-1", "mean top-1"), ("class", "class"),
        ("min_seconds", "shortest event, seconds"), ("min_top1", "least top-1"),
    ],
)  # fmt: skip
def test_figures_have_names_of_words(name, words):
    assert in_words(name) == words


def test_a_recogniser_stands_beside_chance_and_the_majority(run):
    labels = np.array([0] * 12 + [1] * 6 + [2] * 6)
    guesses = np.random.default_rng(0).random((24, 3))
    make_scores(labels=labels, num_classes=3, values=guesses).save(run / "scores.npz")
    words = Page(write_report(run)).words
    assert "0.500 top-1 if always “class 0”" in words
    assert "0.333 top-1 of a guess" in words
    assert "better than always answering 'class 0' (0.500)." in words
    make_scores(labels=labels, num_classes=3, values=np.eye(3)[labels]).save(run / "scores.npz")
    assert "better than always" not in Page(write_report(run)).words


def test_many_videos_are_folded(run, monkeypatch):
    """Six are shown, some more in a fold, all in a table; pictures of an earlier test go."""
    monkeypatch.setattr(report, "NUM_FOLDED", 3)
    write_detector_run(run, num_classes=2, videos=23, tokens=30, future=())
    page = Page(write_report(run))
    assert "6 of 23 videos, from the worst to the best" in page.words
    assert "3 more, the worst first" in page.words
    assert all(f"day {video}/v_{video} " in page.words for video in range(23))
    assert len(list((run / "plots" / "timelines").iterdir())) == 9
    write_detector_run(run, videos=8, future=())
    assert "the other 2 videos" in Page(write_report(run)).words
    assert len(list((run / "plots" / "timelines").iterdir())) == 8


def test_a_class_without_token_and_strange_names(run):
    write_detector_run(run, videos=1, empty=(1,), classes=["歩く", NASTY, "прыжок"], future=())
    page = Page(write_report(run))
    assert f"{NASTY} 1 0 0:00 does not occur" in page.words
    assert "歩く 0" in page.words
    assert "script" not in page.tags
    assert "The only video" in page.words
    assert "Anticipation" not in page.words


def test_a_test_without_any_action(run):
    """There is no mAP, and what an earlier test drew is gone."""
    write_detector_run(run)
    write_report(run)
    write_detector_run(run, videos=1, background=(0,))
    page = Page(write_report(run))
    assert "– mAP" in page.words
    assert "No action occurs in them, so there is no mAP" in page.words
    assert "No action occurs in a token that counts" in page.words
    assert "no action" in page.words
    assert {path.name for path in (run / "plots").iterdir()} & DETECTOR_PICTURES == {"confusion.png"}
    assert len(page.images) == 2


def test_damaged_timelines_are_named_on_the_page(run):
    write_detector_run(run)
    (run / "timelines.npz").write_bytes((run / "timelines.npz").read_bytes()[:200])
    words = Page(write_report(run)).words
    assert "timelines.npz does not hold a detector's scores over time" in words
    assert "scores.npz" not in words


def test_nan_scores_are_named_on_the_page(run):
    timelines = make_timelines()
    timelines.scores[0][3] = np.nan
    timelines.save(run / "timelines.npz")
    page = Page(write_report(run))
    assert "rows have NaN scores" in page.words
    assert page.images == []


def test_all_tokens_ambiguous_is_named_on_the_page(run):
    timelines = make_timelines(videos=1)
    timelines.ignore[0][:] = True
    timelines.save(run / "timelines.npz")
    assert "protocol 'lstr' scores none of the 80 rows" in Page(write_report(run)).words


def test_summary_of_detectors(tmp_path):
    """A mean with its spread is a number with a bar; runs show their precision and recall."""
    run = tmp_path / "miniroad" / "seed0"
    run.mkdir(parents=True)
    write_log(run)
    write_detector_run(run, future=())
    rows = [
        {"detector": "MiniROAD", "seeds": 3, "mAP": "0.312 ± 0.010", "mcAP": 0.81},
        {"detector": "linear", "seeds": 3, "mAP": "0.201 ± 0.004", "mcAP": 0.7},
    ]
    page = Page(write_summary(tmp_path, "fir", rows, [run]))
    assert "MiniROAD 3 0.312 ± 0.010 0.810 linear 3 0.201 ± 0.004 0.700" in page.words
    assert '<td class="number bar" style="--share:31.2%">0.312 ± 0.010</td>' in page.source
    assert page.source.count('class="number bar"') == 4
    assert {"miniroad/seed0/report.html", "miniroad/seed0/plots/precision_recall.png"} <= set(page.links)
    assert len(page.images) == 4


# ---- pictures


def test_log_is_read_by_epoch(tmp_path):
    """Rows of one column in one epoch share the epoch; what a killed run left half written is no point."""
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train_loss,val_top1\n0,1,3.0,\n0,2,2.0,\n0,2,,0.5\n1,3,1.0,\n1,4,nan,\n1,4,,0.7\n2,5,0.\n2,6,abc\n,7,9\n"
    )
    log = read_log(tmp_path / "metrics.csv")
    assert log == {"train_loss": [(0.5, 3.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.0)], "val_top1": [(1.0, 0.5), (2.0, 0.7)]}


def test_curves_are_drawn_for_what_there_is(tmp_path):
    log = {"val_loss": [(1.0, 2.0)], "test_loss": [(1.0, 1.0)], "grad_norm": [(1.0, 3.0)]}
    assert [path.name for path in draw_curves(log, tmp_path)] == ["loss.png"]
    assert draw_curves({}, tmp_path) == []


@pytest.mark.parametrize(
    "num_classes", [2, 15, pytest.param(50, marks=pytest.mark.slow), pytest.param(101, marks=pytest.mark.slow), 400]
)
def test_confusion_of_any_size(tmp_path, num_classes):
    """Never smaller than can be read, never larger than can be opened; a mistake leaves its colour."""
    truth = np.arange(num_classes)
    predicted = truth.copy()
    predicted[0] = num_classes - 1
    counts = confusion_matrix(predicted, truth, num_classes)
    path = draw_confusion(counts, [f"a class named {n}" for n in truth], tmp_path / "c.png")
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert 300 < image.shape[1] < 3200
    orange = (image[..., 0] - image[..., 2] > 100).sum()
    assert orange >= 9


def test_confusion_colours():
    """Blue on the diagonal, orange off it, white for nothing; one mistake among a thousand is still visible."""
    colours = plots._confusion_colours(np.array([[999, 1], [0, 0]]))
    assert colours[0, 0, 2] > colours[0, 0, 0]
    assert colours[0, 1, 0] - colours[0, 1, 2] > 0.1
    assert (colours[1] == 1).all()


def test_mistakes_come_most_confident_first():
    values = [[0, 1, 0], [0, 5, 0], [0, 3, 0], [9, 0, 0]]
    scores = Scores(list("abcd"), np.zeros(4, int), values, ["x", "y", "z"], paths=["1", "2", "3", "4"])
    found = find_mistakes(scores)
    assert [(m.id, m.path, m.truth, m.prediction, m.rank) for m in found] == [
        ("b", "2", "x", "y", 2),
        ("c", "3", "x", "y", 2),
        ("a", "1", "x", "y", 2),
    ]
    assert found[0].confidence == pytest.approx(np.exp(5) / (np.exp(5) + 2))


def write_video(path, frames=20):
    """Frame n is grey 10 n."""
    import av

    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * n, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def test_strip_shows_the_clip_from_start_to_end(tmp_path):
    write_video(tmp_path / "a.mp4")

    def shades(id):
        (mistake,) = find_mistakes(Scores([id], [0], [[0, 1]], ["x", "y"], paths=[str(tmp_path / "a.mp4")]))
        strip, reason = read_strip(mistake, 4, 400, 80)
        assert reason == ""
        assert strip.shape == (80, 400, 3)
        return strip[40, [50, 150, 250, 350], 0]

    np.testing.assert_allclose(shades("a"), [20, 70, 120, 170], atol=4)
    np.testing.assert_allclose(shades("a@1-end"), [110, 130, 160, 180], atol=4)
    np.testing.assert_allclose(shades("a@0.5-1.3"), [60, 80, 100, 120], atol=4)


def test_unreadable_video_is_a_grey_strip_with_the_reason(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    paths = [str(tmp_path / "gone.mp4"), str(tmp_path / "text.mp4"), ""]
    for path in paths:
        scores = Scores(["a"], [0], [[0, 1]], ["x", "y"], paths=[path])
        strip, reason = read_strip(find_mistakes(scores)[0], 4, 400, 80)
        assert len(np.unique(strip.reshape(-1, 3), axis=0)) == 1
        assert "cannot be shown: " in reason
        assert (path or "does not say where the video is").rpartition("/")[2] in reason
    scores = Scores(list("abc"), [0, 0, 0], [[0, 1]] * 3, ["x", "y"], paths=paths)
    assert draw_mistakes(find_mistakes(scores), tmp_path / "m.png").exists()
