"""An offline network from features to figures: what is learned, what is scored, what is refused."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidact import cli
from vidact.batch import AMBIGUOUS_CLASS, SequenceBatch
from vidact.data.event_list import Event, rasterise
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.sequence_list import Sequence
from vidact.data.sequences import SequenceDataset, collate
from vidact.data.tables import write_classes
from vidact.events import Detection, equal_events
from vidact.metrics import choose_min_score, event_f1, localisation_figures
from vidact.models import actionformer_small
from vidact.models.offline_decoding import Decoding, Grid, detections
from vidact.models.weights import extractor_state_of, load, record_of
from vidact.results.figures import load_results
from vidact.results.timelines import load_timelines
from vidact.stream.model import load_model
from vidact.tasks.offline_truth import localiser_truth, segmenter_truth
from vidact.training import run as training
from vidact.training.config import in_plain_words
from vidact.training.repeat import event_columns, note_on_looking_ahead, reads
from vidact.training.run import train

pytestmark = pytest.mark.usefixtures("without_pages")

CLASSES = ["a", "b"]
RATE = 4.0
LOCALISER = "localise/synthetic/actionformer_small"
SEGMENTER = "segment/synthetic/ms_tcn"
SMALL = [
    "--trainer.enable_progress_bar=false", "--device=cpu", "--trainer.precision=32", "--data.num_workers=0",
    "--data.epoch_windows=16", "--data.batch_size=2", "--model.optimizer.init_args.lr=0.005",
]  # fmt: skip
SIZES = {
    LOCALISER: ["--model.network.embedding_dim=16", "--model.network.levels=3", "--data.window=96"],
    SEGMENTER: ["--model.network.dim=16", "--model.network.stages=2", "--model.network.layers=4"],
}


def write_toy(root: Path, videos: int = 10, seconds: int = 30, dim: int = 6) -> Path:
    """Videos whose features say what happens: one value a class, in noise."""
    rng = np.random.default_rng(0)
    events, splits = [], {}
    (root / "features").mkdir(parents=True)
    for i in range(videos):
        name = f"v{i}"
        splits[name] = "test" if i >= videos - 2 else "val" if i >= videos - 4 else "train"
        starts = np.arange(2, seconds - 4, 5) + rng.uniform(0, 1)
        own = [Event(name, float(s), float(s + 2.5), CLASSES[k % 2]) for k, s in enumerate(starts)]
        events += own
        truth = rasterise(own, int(seconds * RATE), RATE, CLASSES).multi_hot
        features = rng.normal(0, 0.2, (len(truth), dim)).astype(np.float32)
        features[:, : truth.shape[1]] += truth
        np.save(root / "features" / f"{name}.npy", features)
    write_events_csv(root / "events.csv", events)
    write_videos_csv(root / "videos.csv", splits)
    write_classes(root / "classes.txt", CLASSES)
    (root / "features" / "features.json").write_text(json.dumps({"tokens_per_second": RATE, "dim": dim}))
    return root


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "data")


def trained(toy: Path, config: str, epochs: int) -> Path:
    run = toy.parent / config.split("/")[0]
    decoding = ["--model.decoding.sigma=0.6"] if config == LOCALISER else []
    options = [
        *SMALL,
        *SIZES[config],
        *decoding,
        f"--trainer.max_epochs={epochs}",
        "--trainer.check_val_every_n_epoch=4",
    ]
    return train(["--config", config, f"--data.root={toy}", f"--run={run}", *options])


@pytest.fixture(scope="module")
def localiser(toy: Path) -> Path:
    return trained(toy, LOCALISER, 8)


@pytest.fixture(scope="module")
def segmenter(toy: Path) -> Path:
    return trained(toy, SEGMENTER, 4)


def test_a_localiser_learns_and_is_scored(localiser: Path) -> None:
    figures = load_results(localiser)["test"]
    assert figures["kind"] == "localiser"
    assert figures["test_tiou_map"] >= figures["test_event_map"] > 0.6
    assert figures["test_event_map"] > 2 * figures["test_event_map_blind"] > 0
    assert [row["class"] for row in figures["test_tiou_classes"]] == CLASSES
    assert figures["test_event_f1"] > figures["test_event_f1_always_on"]
    assert sum(figures["test_diagnosis"]["events"].values()) == figures["test_events_true"]
    assert 0 < figures["min_score"] < 1
    assert "chosen on" in figures["thresholds"]["words"]
    assert not (localiser / "timelines.npz").exists()
    with (localiser / "events.csv").open() as file:
        rows = [*csv.DictReader(file)]
    read = [Detection(r["video"], float(r["start_s"]), float(r["end_s"]), r["label"], float(r["score"])) for r in rows]
    assert {row["video"] for row in rows} == {"v8", "v9"}
    shown = [event for event in read if event.score >= figures["min_score"]]
    assert abs(len(shown) - figures["test_events_found"]) <= 1  # scores are rounded in the table


def test_a_segmenter_learns_and_is_scored(segmenter: Path) -> None:
    figures = load_results(segmenter)["test"]
    assert figures["kind"] == "segmenter"
    assert figures["test_accuracy"] > 0.9
    assert figures["test_accuracy"] > figures["test_majority"]
    assert 1 >= figures["test_f1_10"] >= figures["test_f1_25"] >= figures["test_f1_50"] > 0.7
    assert 0 < figures["test_edit"] <= 1
    assert figures["test_f1_50_with_background"] > 0
    assert figures["test_map"] > 0.9
    assert figures["test_event_map"] > 0.5
    timelines = load_timelines(segmenter / "timelines.npz")
    assert [len(scores) for scores in timelines.scores] == [120, 120]
    truth = np.concatenate(timelines.targets).argmax(1)
    assert figures["test_accuracy"] == pytest.approx((np.concatenate(timelines.scores).argmax(1) == truth).mean())


@pytest.mark.parametrize("kind", ["localiser", "segmenter"])
def test_a_checkpoint_gives_the_scored_events(kind: str, toy: Path, request: pytest.FixtureRequest) -> None:
    """``vidact.load``, the network's events and the grid are all that is needed."""
    run: Path = request.getfixturevalue(kind)
    network = load(run / "checkpoints" / "best.ckpt")
    record = record_of(network)
    assert record.kind == kind
    assert record.classes == CLASSES
    assert record.tokens_per_second == RATE
    assert record.features == {"tokens_per_second": RATE, "dim": 6}
    assert record.min_score == load_results(run)["test"]["min_score"]
    assert extractor_state_of(network) == {}
    features = torch.from_numpy(np.load(toy / "features" / "v8.npy"))[None]
    with torch.no_grad():
        rows = network.events(network(features))[0]
    found = detections(rows, "v8", record.classes, Grid.of(RATE), 30.0)
    with (run / "events.csv").open() as file:
        saved = [row for row in csv.DictReader(file) if row["video"] == "v8"]
    found.sort(key=lambda event: (event.start_s, -event.score))
    assert [event.label for event in found] == [row["label"] for row in saved]
    np.testing.assert_allclose([event.start_s for event in found], [float(r["start_s"]) for r in saved], atol=2e-4)
    np.testing.assert_allclose([event.score for event in found], [float(r["score"]) for r in saved], atol=2e-5)


def test_no_stream_plays_it(localiser: Path) -> None:
    with pytest.raises(ValueError, match="is an offline network, whose answers depend on what comes later"):
        load_model(localiser / "checkpoints" / "best.ckpt")


def test_a_test_repeats_the_figures_of_training(localiser: Path, tmp_path: Path) -> None:
    before = load_results(localiser)["test"]
    options = [f"--run={tmp_path}", f"--ckpt={localiser / 'checkpoints/best.ckpt'}"]
    training.test(["--config", str(localiser / "config.yaml"), *options])
    after = load_results(tmp_path)["test"]
    for name in ("test_event_map", "test_tiou_map", "test_event_f1", "min_score"):
        assert after[name] == pytest.approx(before[name])


def test_the_decoding_of_a_run_is_in_its_checkpoint(localiser: Path) -> None:
    assert load(localiser / "checkpoints" / "best.ckpt").decoding == Decoding(sigma=0.6)


def test_wrong_kinds_and_sizes_are_said(localiser: Path, toy: Path, tmp_path: Path) -> None:
    base = [f"--data.root={toy}", f"--run={tmp_path / 'run'}", *SMALL]
    with pytest.raises(ValueError, match=r"num_classes is 3, but .* needs 2 for the 2 actions \(a, b\)"):
        train(["--config", LOCALISER, *base, *SIZES[LOCALISER], "--model.network.num_classes=3"])
    with pytest.raises(ValueError, match="needs 3 for the background and 2 actions"):
        train(["--config", SEGMENTER, *base, *SIZES[SEGMENTER], "--model.network.num_classes=4"])
    with pytest.raises(ValueError, match="are for online detectors"):
        train(["--config", LOCALISER, *base, *SIZES[LOCALISER], "--data.history=4"])
    with pytest.raises(ValueError, match="a detector learns from windows"):
        train(
            [
                "--config",
                "online/synthetic/miniroad",
                *base[:2],
                "--data.window=null",
                "--data.history=0",
                "--data.stride=null",
            ]
        )
    with pytest.raises(ValueError, match=r"model\.decoding is for localisers"):
        train(["--config", SEGMENTER, *base, "--model.decoding.sigma=0.3"])
    with pytest.raises(ValueError, match="least_inside is 0"):
        train(["--config", LOCALISER, *base, "--model.least_inside=0"])
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------------- truth


def one(truth: list[tuple[float, float, int]], tokens: int, multi_hot: np.ndarray | None = None) -> SequenceBatch:
    targets = torch.zeros(1, tokens, 3) if multi_hot is None else torch.from_numpy(multi_hot)[None]
    rows = torch.tensor(truth, dtype=torch.float32).reshape(-1, 3)
    ignore = torch.zeros(1, tokens, dtype=torch.bool)
    return SequenceBatch(torch.zeros(1, tokens, 4), targets, ignore, torch.tensor([0]), ["x"], truth=[rows])


def test_events_are_learned_in_seconds_on_the_grid() -> None:
    truth = localiser_truth(one([(1.0, 3.0, 1), (3.0, 3.1, 0)], 40), RATE, 0.5)
    torch.testing.assert_close(truth.events[0], torch.tensor([[3.5, 11.5, 1], [11.5, 11.9, 0]]))
    assert len(truth.ambiguous[0]) == 0


def test_what_a_crop_cuts_is_learned_or_counts_nowhere() -> None:
    rows = [(-1.0, 2.0, 0), (-3.0, 1.0, 1), (9.0, 10.5, 1), (4.0, 5.0, AMBIGUOUS_CLASS), (-50.0, 60.0, 0)]
    truth = localiser_truth(one(rows, 40), RATE, 0.5)  # a crop of 10 s
    torch.testing.assert_close(truth.events[0], torch.tensor([[-0.5, 7.5, 0], [35.5, 39.5, 1], [-0.5, 39.5, 0]]))
    torch.testing.assert_close(truth.ambiguous[0], torch.tensor([[-0.5, 3.5], [15.5, 19.5]]))


starts_s = st.floats(-50, 60, width=32, allow_subnormal=False)
times = st.tuples(starts_s, st.floats(0.015625, 80, width=32), st.integers(-1, 1))


@given(st.lists(times, max_size=6), st.integers(1, 80), st.floats(0.0625, 1, width=32))
def test_each_event_is_learned_or_counts_nowhere(rows: list, tokens: int, least: float) -> None:
    truth = localiser_truth(
        one([(start, start + length, action) for start, length, action in rows], tokens), RATE, least
    )
    assert truth.events is not None
    assert truth.ambiguous is not None
    learned, unclear = truth.events[0], truth.ambiguous[0]
    assert len(learned) + len(unclear) == len(rows)
    assert (learned[:, 2] >= 0).all()
    assert (learned[:, 0] < learned[:, 1]).all()
    for times in (learned[:, :2], unclear):
        assert ((times >= -0.5) & (times <= tokens - 0.5)).all()
    whole = sum(action >= 0 and start >= 0 and start + length <= tokens / RATE for start, length, action in rows)
    assert len(learned) >= whole


def test_a_token_of_two_actions_gets_that_of_the_shorter() -> None:
    events = [Event("x", 0.0, 2.0, "a"), Event("x", 1.9, 2.6, "b"), Event("x", 2.6, 4.0, "a")]
    multi_hot = rasterise(events, 20, RATE, CLASSES).multi_hot
    rows = [(e.start_s, e.end_s, CLASSES.index(e.label)) for e in events]
    truth = segmenter_truth(one(rows, 20, multi_hot), RATE)
    assert truth.targets is not None
    assert truth.targets.sum(2).eq(1).all()
    assert truth.targets[0].argmax(1).tolist() == [1] * 7 + [2] * 4 + [1] * 5 + [0] * 4


# ---------------------------------------------------------------------------------------------------------------- crops


def sequence(name: str, length: int) -> Sequence:
    multi_hot = np.eye(2, dtype=np.float32)[np.zeros(length, dtype=int)]
    features = np.arange(length, dtype=np.float32)[:, None]
    return Sequence(name, "train", features, multi_hot, np.zeros(length, dtype=bool), (Event(name, 1, 2, "a"),))


def test_crops_follow_from_seed_epoch_and_video() -> None:
    videos = [sequence("long", 100), sequence("short", 40)]
    options = {"window": 64, "least_crop": 0.9, "classes": ["a"], "tokens_per_second": RATE}
    dataset = SequenceDataset(videos, **options)
    lengths = set()
    for epoch in range(30):
        item, again = dataset[epoch, 1], SequenceDataset(videos, **options)[epoch, 1]
        torch.testing.assert_close(item.features, again.features)
        assert item.ids == ["short"]
        assert item.features[0, :, 0].diff().eq(1).all()  # a stretch of the video, nothing repeated
        assert 36 <= item.features.shape[1] <= 40
        first_s = float(item.features[0, 0, 0]) / RATE
        assert item.truth is not None
        torch.testing.assert_close(item.truth[0][:, 0], torch.tensor([1 - first_s])[: len(item.truth[0])])
        lengths.add(item.features.shape[1])
        assert dataset[epoch, 0].features.shape[1] == 64
    assert len(lengths) > 2
    both = collate([dataset[0, 0], dataset[0, 1]])
    assert both.end.tolist() == [min(64, 100 - int(both.features[0, 0, 0])), dataset[0, 1].features.shape[1]]


def test_without_crops_windows_are_what_they_were() -> None:
    videos = [sequence("long", 100), sequence("short", 40)]
    plain, whole = SequenceDataset(videos, window=64), SequenceDataset(videos, window=64, least_crop=1.0)
    for index in range(2):
        torch.testing.assert_close(plain[3, index].features, whole[3, index].features)
    assert plain[3, 1].features.shape[1] == 64


# -------------------------------------------------------------------------------------------------- what goes with them


def test_the_least_score_to_show_is_that_of_the_best_f1() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        truth = [Event(v, s, s + 2, str(rng.choice(CLASSES))) for v in "xy" for s in range(0, 20, 5)]
        found = [
            Detection(str(rng.choice([*"xyz"])), s, s + rng.uniform(1, 3), str(rng.choice([*CLASSES, "c"])), score)
            for s, score in zip(rng.uniform(0, 20, 30), rng.integers(1, 20, 30) / 20, strict=True)
        ]
        choice = choose_min_score(found, truth, 0.3)

        def f1_from(least: float, found: list[Detection] = found, truth: list[Event] = truth) -> float:
            return event_f1([event for event in found if event.score >= least], truth, 0.3).f1

        assert f1_from(choice.min_score) == pytest.approx(choice.f1)
        assert choice.f1 == pytest.approx(max(f1_from(event.score) for event in found))
    assert choose_min_score([], truth).f1 == 0


def test_a_blind_baseline_has_events_of_usual_length() -> None:
    training = [Event("t", 0, 2, "a"), Event("t", 3, 6, "a"), Event("t", 8, 10, "b"), Event("t", 11, 15, "a")]
    found = equal_events(training, [*CLASSES, "c"], {"v": 9.0, "w": 1.0})
    assert [(e.start_s, e.end_s) for e in found if (e.video, e.label) == ("v", "a")] == [(0, 3), (3, 6), (6, 9)]
    assert {(e.label, e.score) for e in found} == {("a", 0.75), ("b", 0.25)}
    assert [(e.end_s, e.label) for e in found if e.video == "w"] == [(1.0, "a"), (1.0, "b")]
    truth = [Event("v", 0.5, 3.0, "a")]
    assert localisation_figures(found, truth, [*CLASSES, "c"])["event_map"] > 0
    assert re.match("v|w", found[0].video)


# --------------------------------------------------------------------------------------------------------- side by side


def test_figures_of_events_stand_in_one_table() -> None:
    values = {"test_event": {"tIoU 0.5": 0.4}, "test_tiou_map": 0.5, "test_event_f1": 0.3, "test_map": 0.7}
    other = {"test_event": {"tIoU 0.5": 0.6}, "test_tiou_map": 0.7, "test_event_f1": 0.5, "kind": "localiser"}
    columns = event_columns([values, other], "test")
    assert columns == pytest.approx({"event mAP at tIoU 0.5": 0.5, "interpolated event mAP": 0.6, "event F1": 0.4})
    late = values | {"test_answers_late_s": 0.75}
    read = {"x": reads(values, "test"), "y": reads(other, "test"), "z": reads(late, "test")}
    assert read == {"x": "the past", "y": "whole videos", "z": "the past and the next 0.75 s"}
    assert note_on_looking_ahead(read) == (
        "y: each video was seen as a whole before it was answered; x: each moment was answered from the past alone; "
        "z: each moment was answered from the past and the next 0.75 s"
    )
    assert note_on_looking_ahead({"y": "whole videos"}) == "y: each video was seen as a whole before it was answered"


@pytest.mark.slow
def test_offline_and_online_networks_are_compared(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = [f"--data.root={toy}", f"--run={tmp_path}", *SMALL, "--trainer.max_epochs=2"]
    configs = [LOCALISER, SEGMENTER, "online/synthetic/miniroad"]
    cli.main(["compare", "--config", *configs, "--seeds", "0", "1", *options])
    results = load_results(tmp_path)
    assert [results[name]["reads"] for name in ("actionformer_small", "ms_tcn", "miniroad")] == [
        "whole videos", "whole videos", "the past",
    ]  # fmt: skip
    for name, row in results.items():
        if name not in ("command", "commands"):
            tests = [load_results(tmp_path / name / f"seed{seed}")["test"] for seed in (0, 1)]
            assert row["mean test_event_map"] == pytest.approx(np.mean([test["test_event_map"] for test in tests]))
            assert row["event mAP at tIoU 0.5"] == pytest.approx(
                np.mean([test["test_event"]["tIoU 0.5"] for test in tests])
            )
    assert "mAP of tokens" in results["ms_tcn"]
    assert "mAP of tokens" not in results["actionformer_small"]
    assert "miniroad: each moment was answered from the past alone" in capsys.readouterr().out


@pytest.mark.slow
def test_the_rate_of_a_localiser_is_tested(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = [f"--data.root={toy}", f"--run={tmp_path}", *SMALL, *SIZES[LOCALISER]]
    cli.main(["train", "--find_lr", "--config", LOCALISER, *options])
    assert "the range test leaves out model.ema" in capsys.readouterr().out
    assert (tmp_path / "learning_rate.csv").is_file()


def test_events_that_no_place_can_learn_are_counted() -> None:
    network = actionformer_small(2, 4, embedding_dim=8, levels=2, num_heads=2, max_tokens=32)
    network.ranges = [[0, 4], [4, 8]]
    rows = torch.tensor([[3.2, 3.8, 0], [3.2, 4.1, 0], [2.0, 30.0, 1], [0.0, 12.0, 1]])
    assert network.out_of_reach(rows, 40).tolist() == [True, False, True, False]
    levels = network(torch.zeros(1, 40, 4)).levels
    assert levels is not None
    for row, lost in zip(rows, network.out_of_reach(rows, 40), strict=True):
        assert bool(network.assign(levels, row[None])[0].any()) != lost


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ("OnlineNetwork", r"a\.b is no online detector.* localise/…"),
        ("OfflineNetwork", r"a\.b is no offline network.* online/…"),
    ],
)
def test_networks_of_the_other_kind_are_refused_in_words(expected: str, words: str) -> None:
    assert re.search(words, in_plain_words(f"Import path a.b does not correspond to a subclass of {expected}"))
