"""An online detector from features to figures: what is learned, what is scored, what is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

import vidact
from vidact.batch import SequenceBatch
from vidact.data.event_list import Event, load_events, rasterise
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.sequence_list import Sequence, load_sequences
from vidact.data.sequences import SequenceDataset
from vidact.data.tables import write_classes
from vidact.data.takes import Take, write_takes
from vidact.models import causal_ms_tcn, frame_classifier, idn, miniroad_small, oadtr, testra
from vidact.models.online import multi_hot_cross_entropy
from vidact.models.weights import load
from vidact.results.figures import load_results
from vidact.results.timelines import load_timelines
from vidact.tasks import OnlineDetection
from vidact.tasks.online_detection import overlap
from vidact.training import run as training
from vidact.training.run import train

pytestmark = pytest.mark.usefixtures("without_pages")

CLASSES = ["a", "b"]
RATE = 4.0
SMALL = [
    "--trainer.enable_progress_bar=false", "--device=cpu", "--trainer.precision=32", "--data.num_workers=0",
    "--data.batch_size=8",
]  # fmt: skip


def write_toy(root: Path, videos: int = 8, seconds: int = 30, dim: int = 6) -> Path:
    """Videos whose features say what happens: one value a class, in noise."""
    rng = np.random.default_rng(0)
    events, splits = [], {}
    (root / "features").mkdir(parents=True)
    for i in range(videos):
        name = f"v{i}"
        splits[name] = "test" if i >= videos - 2 else "train"
        starts = np.arange(2, seconds - 4, 7) + rng.uniform(0, 2)
        own = [Event(name, float(s), float(s + 2.5), CLASSES[k % 2]) for k, s in enumerate(starts)]
        events += own
        truth = rasterise(own, int(seconds * RATE), RATE, CLASSES).multi_hot
        features = rng.normal(0, 0.3, (len(truth), dim)).astype(np.float32)
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


@pytest.fixture(scope="module")
def trained(toy: Path) -> Path:
    run = toy.parent / "run"
    train(["--config", "online/synthetic/miniroad", f"--data.root={toy}", f"--run={run}", *SMALL])
    return run


def test_a_detector_learns_and_reports(trained: Path, toy: Path) -> None:
    figures = load_results(trained)["test"]
    assert figures["test_map"] > 0.9
    assert figures["test_tiou_map"] >= figures["test_event_map"] > 0.5
    assert 1 >= figures["test_f1_10"] >= figures["test_f1_50"] > 0.3
    assert 0 < figures["test_edit"] <= 1
    assert [row["class"] for row in figures["test_tiou_classes"]] == CLASSES
    assert sum(figures["test_diagnosis"]["events"].values()) == figures["test_events_true"]
    assert "Mistakes in events" in (trained / "report.html").read_text()
    assert figures["videos"] == 2
    assert figures["protocol"] == "lstr"
    assert [row["class"] for row in figures["test_classes"]] == CLASSES
    timelines = load_timelines(trained / "timelines.npz")
    assert timelines.ids == ["v6", "v7"]
    assert [len(scores) for scores in timelines.scores] == [120, 120]
    assert (trained / "report.html").stat().st_size > 10_000


def test_the_events_of_a_paused_video_are_found(trained: Path, toy: Path, tmp_path: Path) -> None:
    """Its takes are scored one by one: the figures are those of the same video without a pause."""
    before = load_results(trained)["test"]
    shutil.copytree(toy, tmp_path / "data")
    write_takes(tmp_path / "data" / "features" / "v6.npy", [Take(0, 0.0), Take(60, 100.0)])
    events = load_events(toy / "events.csv")
    times_s = [(e.start_s, e.end_s) for e in events if e.video == "v6"]
    assert all(not start_s < 15 < end_s for start_s, end_s in times_s)  # none reaches over the pause
    moved = [replace(e, start_s=e.start_s + 85, end_s=e.end_s + 85) if (e.video, e.start_s > 15) == ("v6", True) else e
             for e in events]  # fmt: skip
    write_events_csv(tmp_path / "data" / "events.csv", moved)
    options = [f"--run={tmp_path / 'run'}", f"--ckpt={trained / 'checkpoints/best.ckpt'}"]
    training.test(["--config", str(trained / "config.yaml"), *options, f"--data.root={tmp_path / 'data'}"])
    figures = load_results(tmp_path / "run")["test"]
    assert load_timelines(tmp_path / "run" / "timelines.npz").ids == ["v6@0s", "v6@100s", "v7"]
    assert figures["test_events_true"] == before["test_events_true"]
    assert figures["test_event_map"] > 0.5
    assert figures["test_event_f1"] > 0.5


def test_figures_stand_beside_those_of_answers_that_look_at_nothing(trained: Path) -> None:
    figures = load_results(trained)["test"]
    timelines = load_timelines(trained / "timelines.npz")
    scores, targets, _ = timelines.joined()
    names = ["background", *CLASSES]
    assert figures["test_token_accuracy"] == pytest.approx((scores.argmax(1) == targets.argmax(1)).mean())
    assert figures["test_chance"] == pytest.approx(1 / 3)
    assert figures["test_majority"] == pytest.approx(targets.mean(0).max())
    assert figures["test_majority_class"] == names[targets.mean(0).argmax()]
    assert figures["test_chance_map"] == pytest.approx(targets[:, 1:].mean())
    confusion = figures["test_confusion"]
    assert confusion["classes"] == names
    assert confusion["counts"] == confusion_matrix(targets.argmax(1), scores.argmax(1), labels=range(3)).tolist()
    assert figures["test_verdict"] == ""
    assert figures["test_event_f1"] > max(figures["test_event_f1_always_on"], 0.5)
    assert figures["test_event_f1_at_0.5"] <= 1


def test_a_detector_that_knows_nothing_is_called_so(toy: Path, tmp_path: Path) -> None:
    options = ["--config", "online/synthetic/miniroad", f"--data.root={toy}", f"--run={tmp_path}", *SMALL]
    train([*options, "--trainer.max_epochs=1", "--model.optimizer.init_args.lr=1e-30"])
    figures = load_results(tmp_path)["test"]
    assert figures["test_token_accuracy"] <= figures["test_majority"]
    assert re.search(r"no better than .*always answering '(background|a|b)'", figures["test_verdict"])


def test_thresholds_are_said_with_what_they_were_chosen_on(trained: Path) -> None:
    record = load(trained / "checkpoints/best.ckpt").record
    assert record["events"]["exclusive"] is True  # softmax: one class at a time
    chosen = record["thresholds"]
    assert chosen["videos"] == 1
    assert list(chosen["events"]) == CLASSES
    assert sum(chosen["events"].values()) == 4
    assert "chosen on 4 events of 1 validation video " in chosen["words"]
    assert load_results(trained)["test"]["thresholds"] == chosen


def test_label_smoothing_moves_the_default_threshold(toy: Path, tmp_path: Path) -> None:
    """To the middle between what the loss asks for where a class is there, 0.7 + 0.3 / 3, and where not, 0.3 / 3."""
    options = ["--config", "online/synthetic/miniroad", f"--data.root={toy}", f"--run={tmp_path}", *SMALL]
    train([*options, "--trainer.max_epochs=1", "--model.label_smoothing=0.3"])
    chosen = load(tmp_path / "checkpoints/best.ckpt").record["thresholds"]
    assert chosen["default"] == pytest.approx((0.8 + 0.1) / 2)


def test_the_checkpoint_scores_as_the_test_did(trained: Path, toy: Path) -> None:
    network = load(trained / "checkpoints/best.ckpt")
    assert network.record["classes"] == CLASSES
    assert network.record["features"] == {"tokens_per_second": RATE, "dim": 6}
    assert len(network.record["events"]["on"]) == 2  # tuned on the validation videos
    timelines = load_timelines(trained / "timelines.npz")
    features = torch.from_numpy(np.load(toy / "features/v6.npy"))[None]
    state, rows = network.initial_state(1), []
    with torch.no_grad():
        for token in features.unbind(1):
            output, state = network.step(token, state)
            rows.append(output.logits[0, 0].softmax(-1).numpy())
    np.testing.assert_allclose(np.stack(rows), timelines.scores[0], atol=1e-5)


def test_scoring_again_gives_the_same(trained: Path) -> None:
    before = load_results(trained)["test"]
    training.test(["--config", str(trained / "config.yaml"), "--run", str(trained), "--ckpt", "best"])
    again = load_results(trained)["test"]
    assert again["test_map"] == before["test_map"]
    assert again["test_event_map"] == before["test_event_map"]  # by the thresholds that the checkpoint carries
    assert again["events"] == load(trained / "checkpoints/best.ckpt").record["events"]


def test_a_test_may_make_events_otherwise(trained: Path, tmp_path: Path) -> None:
    """What is asked for holds, and the thresholds stay those that were tuned."""
    before = load_results(trained)["test"]
    checkpoint = trained / "checkpoints/best.ckpt"
    options = [f"--run={tmp_path / 'run'}", f"--ckpt={checkpoint}", "--model.event_min_seconds=20"]
    training.test(["--config", str(trained / "config.yaml"), *options])
    again = load_results(tmp_path / "run")["test"]
    assert again["events"] == {**load(checkpoint).record["events"], "min_seconds": 20.0}
    assert before["test_events_found"] > 0
    assert again["test_events_found"] == 0  # the actions last 2.5 s
    assert again["test_map"] == before["test_map"]


def test_a_checkpoint_says_what_its_logits_mean(toy: Path, tmp_path: Path) -> None:
    """Trained with sigmoid, it is scored with sigmoid, whatever loss the configuration has."""
    train, scored = tmp_path / "train", tmp_path / "scored"
    options = ["--config=online/synthetic/miniroad", f"--data.root={toy}", "--trainer.max_epochs=1", *SMALL]
    training.train([*options, f"--run={train}", "--model.loss=sigmoid"])
    training.test([*options, f"--run={scored}", f"--ckpt={train / 'checkpoints/best.ckpt'}"])
    first, second = (load_timelines(run / "timelines.npz").scores[0] for run in (train, scored))
    assert abs(first.sum(1) - 1).max() > 0.01
    np.testing.assert_array_equal(second, first)


def test_windows_longer_than_the_videos_are_told_before_training(tmp_path: Path, capsys) -> None:
    toy = write_toy(tmp_path / "toy")
    options = ["--config", "online/synthetic/miniroad", f"--data.root={toy}", "--data.bad_events=allow", *SMALL]
    options += ["--trainer.max_epochs=1", "--data.history=0"]
    advice = "set data.window to 1, data.history to 199 and loss_tokens to all"
    with pytest.raises(ValueError, match=rf"5 of 5 training videos are shorter than the window of 200 .*{advice}"):
        train([*options, f"--run={tmp_path / 'a'}", "--data.window=200", "--model.loss_tokens=last"])
    for video, length in (("v0", 90), ("v1", 90), ("v2", 110)):
        path = toy / "features" / f"{video}.npy"
        np.save(path, np.load(path)[:length])
    trained_on = [sequence.id for sequence in load_sequences(toy, bad_events="allow").split("train")]
    short, silent = (len({"v0", "v1", *more} & set(trained_on)) for more in (("v2",), ()))
    train([*options, f"--run={tmp_path / 'b'}", "--data.window=120", "--model.loss_tokens=30"])
    said = capsys.readouterr().out
    assert f"{short} of 5 training videos are shorter than the window of 120 tokens" in said
    teaches = "video teaches" if silent == 1 else "videos teach"
    assert f"{silent} {teaches} nothing at all (the first is v" in said
    assert "set data.window to 30, data.history to 90 and loss_tokens to all" in said
    train([*options, f"--run={tmp_path / 'c'}", "--data.window=30", "--data.history=90"])
    assert "teach nothing" not in capsys.readouterr().out


def test_every_token_of_a_short_video_teaches_with_history() -> None:
    """What the advice says: the loss of a video shorter than the window counts each of its tokens, once."""
    task = OnlineDetection(miniroad_small(num_classes=3, feature_dim=4, embedding_dim=8, hidden_dim=8))
    rng = np.random.default_rng(0)
    truth = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 9)]
    video = Sequence("v", "train", rng.normal(size=(9, 4)).astype(np.float32), truth, np.zeros(9, bool))
    whole = SequenceDataset([video])[0]
    window = SequenceDataset([video], window=20, history=15)[0]
    task.eval()
    torch.testing.assert_close(
        task.loss_now(task.outputs(window), window), task.loss_now(task.outputs(whole), whole)
    )  # fmt: skip


def test_few_validation_events_choose_no_epoch(toy: Path, tmp_path: Path, capsys) -> None:
    """The last epoch is the best where the validation videos have a handful of events."""
    options = ["--config", "online/synthetic/miniroad", f"--data.root={toy}", *SMALL, "--trainer.max_epochs=2"]
    train([*options, f"--run={tmp_path / 'few'}"])
    assert "4 events of 1 validation video are too few to choose an epoch by" in capsys.readouterr().out
    best, last = (
        torch.load(tmp_path / f"few/checkpoints/{name}.ckpt", weights_only=False) for name in ("best", "last")
    )
    for name, value in best["state_dict"].items():
        torch.testing.assert_close(value, last["state_dict"][name])
    train([*options, f"--run={tmp_path / 'many'}", "--data.val_fraction=0.9"])
    assert "too few" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spans", "share"), [([(0, 4), (4, 8)], 0), ([(0, 4), (2, 6)], 0.25), ([(0, 8), (2, 4)], 0.2), ([], 0)]
)
def test_overlap_is_the_share_of_labelled_time_that_lies_in_two_events(spans, share) -> None:
    events = [Event("v", start, end, "ab"[n]) for n, (start, end) in enumerate(spans)]
    assert overlap([events, [Event("w", 0, 9, "ambiguous")]]) == pytest.approx(share)


def batch(window: int = 6, history: int = 0, lookahead: int = 0, dim: int = 4) -> SequenceBatch:
    generator = torch.Generator().manual_seed(0)
    rows = window + lookahead
    columns = torch.randint(0, 3, (2, rows), generator=generator)
    return SequenceBatch(
        torch.randn(2, history + window, dim, generator=generator),
        torch.nn.functional.one_hot(columns, 3).float(),
        torch.rand(2, rows, generator=generator) < 0.2,
        torch.zeros(2, dtype=torch.int64),
        ["x", "y"],
        lookahead=lookahead,
    )


@pytest.mark.parametrize(("taught", "rows"), [("all", 6), ("last", 1), (4, 4)])
def test_the_asked_answers_teach(taught, rows: int) -> None:
    task = OnlineDetection(frame_classifier(3, 4), loss_tokens=taught).eval()
    given = batch(window=6, history=2)
    answers = task.outputs(given)
    expected = task.network(given.features).logits[:, -rows:]
    assert torch.equal(answers.logits, expected)
    loss = multi_hot_cross_entropy(expected, given.targets[:, 6 - rows : 6], given.ignore[:, 6 - rows : 6])
    assert torch.equal(task.loss_now(answers, given), loss)


@pytest.mark.parametrize("taught", ["all", "last", 2])
def test_late_answers_learn_the_labels_of_their_tokens(taught) -> None:
    """The last two tokens of a window have no answer in it; a video that ends inside its window has all of its own."""
    task = OnlineDetection(causal_ms_tcn(3, 4, dim=8, stages=2, layers=2, look_ahead=2), loss_tokens=taught).eval()
    given = batch(window=6, history=3)
    given.end[1] = 7
    given.features[1, 7:], given.ignore[1, 4:] = given.features[1, 6], True
    given.ignore[:, :4] = False
    answers = task.outputs(given)
    offline = task.network(given.features, lengths=given.end)
    rows = range({"all": 0, "last": 3, 2: 2}[taught], 4)
    by_hand = [
        -(given.targets[b, t] * offline.stages[-1, b, 3 + t].log_softmax(-1)).sum() for b in range(2) for t in rows
    ]
    torch.testing.assert_close(task.loss_now(answers, given), torch.stack(by_hand).mean())
    every = [
        -(given.targets[b, t] * offline.stages[0, b, 3 + t].log_softmax(-1)).sum() for b in range(2) for t in range(4)
    ]
    torch.testing.assert_close(answers.losses["earlier_stages"], torch.stack(every).mean())


@pytest.mark.slow
def test_a_network_that_looks_ahead_is_trained_scored_and_played(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its timelines are the answers of a stream, at their own tokens; the figures and the report state the delay."""
    options = ["stages=2", "layers=4", "look_ahead=2"]
    arguments = [f"--model.network.{option}" for option in options]
    config = ["--config", "online/synthetic/causal_ms_tcn", f"--data.root={toy}", f"--run={tmp_path / 'run'}"]
    train([*config, *SMALL, "--trainer.max_epochs=8", "--data.test_batch_size=2", *arguments])
    figures = load_results(tmp_path / "run")["test"]
    assert figures["test_map"] > 0.8
    assert figures["test_answers_late_s"] == 0.5
    assert figures["test_delay_s"] >= 0.5  # no event is known before the answers that show it
    assert "every answer waits for 2 later tokens: it comes 0.5 s after its moment" in capsys.readouterr().out
    network = load(tmp_path / "run/checkpoints/best.ckpt")
    timelines = load_timelines(tmp_path / "run/timelines.npz")
    for name, scores in zip(timelines.ids, timelines.scores, strict=True):
        features = torch.from_numpy(np.load(toy / "features" / f"{name}.npy"))
        state, late = network.initial_state(), []
        for feature in features:
            output, state = network.step(feature[None], state)
            late.append(output.logits[0])
        late = torch.cat([*late[2:], network.flush(state).logits[0]])
        np.testing.assert_allclose(scores, late.softmax(-1).detach().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match=r"data.window is 2, and the network answers .* Set data.window to 3 or more"):
        train([*config, *SMALL, *arguments, "--data.window=2", f"--run={tmp_path / 'other'}"])


def test_future_outputs_learn_the_labels_of_their_time() -> None:
    task = OnlineDetection(miniroad_small(3, 4, embedding_dim=8, hidden_dim=8, anticipation_steps=3)).eval()
    given = batch(window=5, lookahead=3)
    answers = task.outputs(given)
    by_hand = [
        -(given.targets[b, t + k] * answers.future[b, t, j].log_softmax(-1)).sum()
        for b in range(2)
        for t in range(5)
        for j, k in enumerate((1, 2, 3))
        if not given.ignore[b, t + k]
    ]
    torch.testing.assert_close(task.loss_future(answers, given), torch.stack(by_hand).mean())


def test_a_network_that_foresees_from_its_newest_token_alone_learns_the_labels_after_it() -> None:
    sizes = {"long": 2, "work": 3, "long_stride": 1, "width": 8, "num_heads": 2, "encoder_queries": [2, 2]}
    task = OnlineDetection(testra(3, 4, **sizes, anticipation_steps=2)).eval()
    given = batch(window=3, history=2, lookahead=2)
    given.ignore[:] = False
    answers = task.outputs(given)
    assert answers.logits.shape[:2] == (2, 3)
    assert answers.future.shape[:3] == (2, 1, 2)
    by_hand = [
        -(given.targets[b, 2 + k] * answers.future[b, 0, k - 1].log_softmax(-1)).sum() for b in range(2) for k in (1, 2)
    ]
    torch.testing.assert_close(task.loss_future(answers, given), torch.stack(by_hand).mean())


def test_only_the_newest_answer_of_a_window_network_teaches() -> None:
    task = OnlineDetection(oadtr(3, 4, window=6, width=8, num_heads=2, num_layers=1, decoder_layers=1, decoder_heads=2))
    given = batch(window=1, history=5, lookahead=8)
    answers = task.outputs(given)
    assert answers.logits.shape[:2] == (2, 1)
    assert answers.future.shape[:3] == (2, 1, 8)
    (task.loss_now(answers, given) + task.loss_future(answers, given)).backward()


def test_weighted_classes_are_those_of_cross_entropy() -> None:
    """With one label a token; a token of two labels counts by their mean weight, an ignored one not at all."""
    logits, weights = torch.randn(2, 6, 4), torch.tensor([0.2, 3.0, 0.0])
    given = batch()
    kept = ~given.ignore
    expected = torch.nn.functional.cross_entropy(
        logits[kept], given.targets[kept].argmax(-1), weight=torch.cat([weights, torch.ones(1)])
    )
    torch.testing.assert_close(multi_hot_cross_entropy(logits, given.targets, given.ignore, weights), expected)
    two, log_p = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), logits[0, :2].log_softmax(-1)
    total = -(0.2 * log_p[0, 0] + 3.0 * log_p[0, 1] + 0.2 * log_p[1, 0])
    torch.testing.assert_close(multi_hot_cross_entropy(logits[0, :2], two, weights=weights), total / (3.2 / 2 + 0.2))
    ones = multi_hot_cross_entropy(logits[0, :2], two, weights=torch.ones(3))
    torch.testing.assert_close(ones, multi_hot_cross_entropy(logits[0, :2], two))
    nothing = multi_hot_cross_entropy(logits[0, :1].requires_grad_(), torch.tensor([[0.0, 0.0, 1.0]]), weights=weights)
    nothing.backward()
    assert nothing == 0


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_detector_weighs_classes_by_their_training_tokens(toy: Path, tmp_path: Path, loss: str) -> None:
    """The background, too. Weights change what is learned and not what a checkpoint holds."""
    results = {}
    for weigh in ("true", "false"):
        run = tmp_path / weigh
        few = ["--trainer.max_epochs=1", f"--model.loss={loss}", f"--model.weigh_classes={weigh}"]
        train(["--config", "online/synthetic/miniroad", f"--data.root={toy}", f"--run={run}", *SMALL, *few])
        results[weigh] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert results["true"].keys() == results["false"].keys()
    assert not torch.equal(results["true"]["network.classifier.bias"], results["false"]["network.classifier.bias"])
    sequences = load_sequences(toy)
    labels = np.concatenate([sequence.multi_hot[~sequence.ignore] for sequence in sequences.split("train")])
    assert len(labels) < sum(len(sequence) for sequence in sequences)
    weights = sequences.class_weights()
    np.testing.assert_allclose(weights, labels.sum() / (3 * labels.sum(0)), rtol=1e-6)
    assert weights.dtype == np.float32
    task = OnlineDetection(frame_classifier(3, 4), loss=loss, weigh_classes=True)
    task.class_weights = torch.from_numpy(weights)
    given = batch()
    logits = torch.randn(2, 6, 3)
    if loss == "sigmoid":
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, given.targets, reduction="none")
        expected = (each * task.class_weights).sum(-1)[~given.ignore].mean()
    else:
        expected = multi_hot_cross_entropy(logits, given.targets, given.ignore, task.class_weights)
    torch.testing.assert_close(task.loss(logits, given.targets, given.ignore), expected)


def test_idn_adds_its_own_losses_and_history_has_no_labels() -> None:
    task = OnlineDetection(idn(3, 4, hidden_dim=8, window=3))
    given = batch(window=5, history=2)
    assert set(task.outputs(given).losses) == {"early", "contrastive"}


def test_an_ambiguous_output_is_no_score() -> None:
    task = OnlineDetection(frame_classifier(4, 4))
    task.classes = CLASSES
    scores = task.probabilities(torch.randn(2, 5, 4))
    assert scores.shape == (2, 5, 3)
    assert (scores.sum(-1) < 1).all()


def train_toy(toy: Path, tmp_path: Path, *options: str) -> None:
    train(
        ["--config", "online/synthetic/miniroad", f"--data.root={toy}", f"--run={tmp_path / 'run'}", *SMALL, *options]
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.network.num_classes=2"], r"num_classes is 2, but .* needs 3: the background and 2 actions \(a, b\)"),
        (["--model.network.feature_dim=7"], "feature_dim is 7, but the features of .* have 6 values"),
        (["--model.network.anticipation_steps=4"], "predicts 4 tokens ahead, and data.lookahead is 0"),
    ],
)
def test_what_disagrees_is_named(toy: Path, tmp_path: Path, options: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        train_toy(toy, tmp_path, *options)


def test_features_of_another_backbone_are_refused(trained: Path, tmp_path: Path) -> None:
    other = write_toy(tmp_path / "data")
    (other / "features" / "features.json").write_text(
        json.dumps({"tokens_per_second": RATE, "dim": 6, "weights_sha256": "0" * 64})
    )
    with pytest.raises(ValueError, match=r"was trained on other features .* weights_sha256 None and 0000"):
        training.test(["--config", str(trained / "config.yaml"), "--run", str(trained), f"--data.root={other}"])


def test_predict_says_that_a_detector_is_no_recogniser(trained: Path, tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"not read")
    with pytest.raises(ValueError, match="is an online detector, which answers every moment"):
        vidact.predict(video, trained / "checkpoints/best.ckpt")
