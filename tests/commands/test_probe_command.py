"""``vidact probe``: from a folder of clips to a checkpoint, once and again, and what it refuses."""

import functools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import commands
from support.commands import CLASSES, SMALL, write_probe_clips

import vidact
from vidact import cli
from vidact.data.clip_list import load_clips
from vidact.data.synthetic import write_clips
from vidact.export import export, load_onnx, open_onnx
from vidact.features.names import build_network
from vidact.models import clip_probe, frame_classifier, tsm_resnet_tiny, tsn_resnet_tiny
from vidact.models.probe import Probe
from vidact.models.weights import attach, load, recipe_of, save
from vidact.results.figures import load_results
from vidact.results.scores import Scores, load_scores
from vidact.stream import load_model, open_source
from vidact.stream import run as play
from vidact.tasks import probe as task
from vidact.training.shots import drawn
from vidact.video.decode import open_video
from vidact.video.numbered import write_numbered_video
from vidact.video.sample import SegmentSampler
from vidact.video.transform import test_transform as view_of_tests


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_probe_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    cli.main(["probe", f"--data={root}", f"--run={folder}", *SMALL])
    return folder


def fails(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    return commands.fails(["probe", *args], capsys)


def test_a_run_has_a_checkpoint_scores_and_figures_beside_chance(run, root):
    results, scores = load_results(run), load_scores(run / "scores.npz")
    assert set(results["heads"]) == {"linear", "knn", "prototype"}
    best = results["probe"]["head"]
    assert results["heads"][best]["validation_top1"] == max(
        head["validation_top1"] for head in results["heads"].values()
    )
    assert results["probe"]["validated_on"] == "6 validation clips"
    assert scores.ids == sorted(clip.id for clip in load_clips(root).split("test"))
    right = float((scores.values.argmax(1) == scores.labels).mean())
    assert results["test"]["test_top1"] == results["heads"][best]["test_top1"] == right
    assert results["test"]["test_chance"] == pytest.approx(1 / 3)
    assert results["test"]["test_majority"] == pytest.approx(1 / 3)
    assert (run / "report.html").is_file()


def by_hand(probe: Probe, clip: torch.Tensor) -> torch.Tensor:
    """The features (D,) of a clip (T, C, H, W) that the probe uses."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (probe.input.mean, probe.input.std))
    grey = ((clip * std + mean) * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)  # (T, H, W)
    pictures = {"frames": clip, "moments": (torch.stack([grey[:-2], grey[1:-1], grey[2:]], 1) - mean) / std}
    parts = []
    for name in probe.views:
        vectors = probe.trunk(pictures[name.removesuffix("_mean")])
        parts.append(vectors.mean(0))
        if not name.endswith("_mean"):
            parts += [vectors.std(0, correction=0), vectors.diff(dim=0).abs().mean(0)]
    return torch.cat(parts)


def test_the_checkpoint_predicts_features_by_hand_and_head(run, root):
    probe, scores = load(run / "probe.safetensors"), load_scores(run / "scores.npz")
    assert isinstance(probe, Probe)
    transform = view_of_tests(probe.input, 1)
    for id, path, row in zip(scores.ids, scores.paths, scores.values, strict=True):
        with open_video(Path(path)) as video:
            images = video.frames_at(SegmentSampler(4)(len(video))[0]).images
        clip = transform(images)[0][0]  # (T, C, H, W)
        with torch.no_grad():
            features = by_hand(probe, clip)
            logits = probe.head(features[None])[0]
        np.testing.assert_allclose(row, logits, atol=1e-5 * max(1.0, float(logits.abs().max())), err_msg=id)
        (prediction,) = vidact.predict(path, run / "probe.safetensors", top=3, device="cpu")
        assert [name for name, _ in prediction.labels] == [load_clips(root).classes[i] for i in (-row).argsort()]
        shares = logits.softmax(0).sort(descending=True).values
        np.testing.assert_allclose([score for _, score in prediction.labels], shares, atol=1e-5)


def test_a_second_call_encodes_nothing_and_a_changed_clip_is_encoded_again(run, root, tmp_path, capsys, monkeypatch):
    clips, again = tmp_path / "clips", tmp_path / "run"
    shutil.copytree(root, clips)
    shutil.copytree(run, again)  # the copies have the sizes and times of the clips
    before, encoded = load_scores(run / "scores.npz"), []
    features_of = task.features_of
    monkeypatch.setattr(task, "features_of", lambda *args: encoded.append(args[1]) or features_of(*args))
    arguments = ["probe", f"--data={clips}", f"--run={again}", *SMALL]
    cli.main(arguments)
    assert not encoded
    assert "0 clips to encode, 24 encoded before" in capsys.readouterr().out
    assert np.array_equal(load_scores(again / "scores.npz").values, before.values)

    shutil.copy(next((clips / "closing").glob("0000.mp4")), clips / "opening" / "0000.mp4")
    (clips / "opening" / "0000.mp4").touch()
    cli.main([*arguments, "--heads", "prototype"])
    assert sum(map(len, encoded)) == 1
    assert "1 clip to encode, 23 encoded before" in capsys.readouterr().out
    assert set(load_results(again)["heads"]) == {"prototype"}


def test_a_run_that_was_killed_goes_on(root, tmp_path, capsys, monkeypatch):
    class Killed(BaseException):
        pass

    features_of, batches = task.features_of, []

    def dies_at_the_third(*args):
        batches.append(len(args[1]))
        if len(batches) == 3:
            raise Killed
        return features_of(*args)

    arguments = ["probe", f"--data={root}", f"--run={tmp_path / 'run'}", *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(task, "features_of", dies_at_the_third)
        with pytest.raises(Killed):
            cli.main(arguments)
    capsys.readouterr()
    cli.main(arguments)
    stored = sum(batches[:2])
    assert f"{24 - stored} clips to encode, {stored} encoded before" in capsys.readouterr().out


def test_without_validation_clips_the_groups_of_the_training_clips_are_divided(run, root, tmp_path, capsys):
    clips = tmp_path / "clips"
    for name in CLASSES:
        shutil.copytree(root / name, clips / name)
    arguments = ["--group", r"(\d+)\.mp4", "--held_out", "0000", "0001", "--fractions", "1", "0", "0"]
    cli.main(["probe", f"--data={clips}", f"--run={tmp_path / 'run'}", *SMALL, *arguments, "--heads", "knn"])
    out = capsys.readouterr().out
    assert "heads, compared by 5-fold cross-validation by group inside 18 training clips:" in out
    assert load_results(tmp_path / "run")["test"]["videos"] == 6


def test_the_checkpoint_is_exported(root, run, tmp_path):
    shutil.copytree(run / "encodings", tmp_path / "run" / "encodings")
    cli.main(["probe", f"--data={root}", f"--run={tmp_path / 'run'}", *SMALL, "--heads", "knn"])
    checkpoint = tmp_path / "run" / "probe.safetensors"
    export(checkpoint, tmp_path / "a.onnx", runs=2)
    probe = load(checkpoint)
    with open_video(next((root / "opening").glob("*.mp4"))) as video:
        clip = view_of_tests(probe.input, 1)(video.frames_at(SegmentSampler(4)(len(video))[0]).images)[0]
    with torch.no_grad():
        expected = probe(clip)
    logits = open_onnx(tmp_path / "a.onnx")(clip)
    np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-4 * max(1.0, float(expected.abs().max())))


@pytest.mark.slow
def test_a_step_of_a_probe_on_moments_is_exported(tmp_path):
    """Its state has other parts than that of a probe on frames, in another order after the first step."""
    recipe = dict(recipe_of(build_network("resnet_tiny", None, 32)))
    probe = clip_probe(recipe, "linear", 3, window=4, views=["moments_mean"]).eval()
    attach(probe, record={"classes": CLASSES})
    export(probe, tmp_path / "step.onnx", what="step", runs=6)  # compares six steps with PyTorch's
    step = open_onnx(tmp_path / "step.onnx")
    state, expected_state = step.initial_state(1), probe.initial_state(1)
    for frame in torch.randn(6, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)):
        logits, state = step.step(frame, state)
        with torch.no_grad():
            expected, expected_state = probe.step(frame, expected_state)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_the_end_of_a_streamed_file_is_the_prediction_of_the_file(run, tmp_path):
    """A file of as many frames as a clip has, at the rate of the stream: predict reads all of them, as the stream does.
    Of a longer file the end of the stream is the prediction of its last frames."""
    checkpoint = run / "probe.safetensors"
    model = load_model(checkpoint, steps_per_second=25, device="cpu")
    short, long = tmp_path / "short.mp4", tmp_path / "long.mp4"
    write_numbered_video(short, 4, times_ms=[0, 40, 80, 120])
    write_numbered_video(long, 12, times_ms=list(range(0, 480, 40)))
    *_, last = play(open_source(short), model)
    (prediction,) = vidact.predict(short, checkpoint, top=3, device="cpu")
    names = load(checkpoint).record.classes
    expected = [dict(prediction.labels)[name] for name in names]
    np.testing.assert_allclose(last.scores[1:], expected, atol=1e-5)
    updates = list(play(open_source(long), model))
    assert len(updates) == 12
    with open_video(long) as video:
        images = video.frames_at(range(8, 12)).images
    probe = load(checkpoint)
    with torch.no_grad():
        shares = probe(view_of_tests(probe.input, 1)(images)[0]).softmax(1)[0]
    np.testing.assert_allclose(updates[-1].scores[1:], shares, atol=1e-5)
    assert np.abs(updates[-1].scores - updates[3].scores).max() > 1e-3
    with open_video(long) as video, torch.no_grad():
        shares = probe(view_of_tests(probe.input, 1)(video.frames_at(range(2, 12)).images)[0]).softmax(1)[0]
    *_, last = play(open_source(long), load_model(checkpoint, steps_per_second=25, horizon_s=10 / 25, device="cpu"))
    np.testing.assert_allclose(last.scores[1:], shares, atol=1e-5)
    with pytest.raises(ValueError, match=r"horizon_s is inf, and the state of \S+ holds the vectors of all frames"):
        load_model(checkpoint, horizon_s=math.inf, device="cpu")
    moments = clip_probe(probe.record.recipe["arguments"]["trunk"], "linear", 3, window=4, views=["moments"])
    attach(moments, record={"classes": CLASSES})
    with pytest.raises(ValueError, match=r"horizon_s is 0.1, .* 25 frames a second are 2; .* give 0.12 or more"):
        load_model(moments, steps_per_second=25, horizon_s=0.1, device="cpu")


def causal_trunk(kind: str, folder: Path) -> list[str]:
    """The options of a probe on a network that steps, of small random weights."""
    if kind == "movinet":
        return ["--network=movinet_tiny_stream", "--weights=none", "--size=32"]
    torch.manual_seed(0)
    build = {"tsn": tsn_resnet_tiny, "tsm": functools.partial(tsm_resnet_tiny, shift="causal")}[kind]
    path = save(build(3, size=32, width=8), folder / "trunk.safetensors", {"classes": CLASSES})
    return [f"--network={path}"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["movinet", "tsn", "tsm"])
def test_a_probe_on_a_causal_network_streams_what_it_predicts_and_is_exported(kind, root, tmp_path):
    """Streams in PyTorch and in ONNX end with the prediction of a file of as many frames as a training clip has."""
    options = ["--frames=4", "--device=cpu", "--heads", "prototype"]
    cli.main(["probe", f"--data={root}", f"--run={tmp_path / 'run'}", *causal_trunk(kind, tmp_path), *options])
    checkpoint, onnx, video = tmp_path / "run/probe.safetensors", tmp_path / "step.onnx", tmp_path / "short.mp4"
    write_numbered_video(video, 4, times_ms=[0, 40, 80, 120])
    export(checkpoint, onnx, what="step", runs=6)  # compares six steps with PyTorch's
    (prediction,) = vidact.predict(video, checkpoint, top=3, device="cpu")
    expected = [dict(prediction.labels)[name] for name in load(checkpoint).record.classes]
    for model in (load_model(checkpoint, steps_per_second=25, device="cpu"), load_onnx(onnx, steps_per_second=25)):
        updates = list(play(open_source(video), model))
        assert len(updates) == 4
        np.testing.assert_allclose(updates[-1].scores[1:], expected, atol=2e-5)
    assert load_model(checkpoint, device="cpu").fps == load_onnx(onnx).fps != 4.0
    twice = load_model(checkpoint, steps_per_second=25, horizon_s=8 / 25, device="cpu")
    longer = tmp_path / "longer.mp4"
    write_numbered_video(longer, 8, times_ms=list(range(0, 320, 40)))
    probe = load(checkpoint)
    with open_video(longer) as frames, torch.no_grad():
        clip = view_of_tests(probe.input, 1)(frames.frames_at(range(8)).images)[0]
        np.testing.assert_allclose(list(play(open_source(longer), twice))[-1].scores[1:], probe(clip).softmax(1)[0],
                                   atol=2e-5)  # fmt: skip


def test_a_stream_takes_frames_as_often_as_training_did(run, root):
    """Four frames of a clip, whatever it lasts: the median over the training clips."""
    seconds = []
    for clip in load_clips(root).split("train"):
        with open_video(clip.path) as video:
            seconds.append(video.end_s - video.times_s[0])
    assert load_model(run / "probe.safetensors", device="cpu").fps == pytest.approx(4 / np.median(seconds), abs=0.01)


# ------------------------------------------------------------------------------------------------ vidact test


def scored_again(run: Path, copy: Path, *options: str) -> tuple[Scores, dict[str, Any]]:
    """Run ``vidact test`` on a copy of a probe's folder; return its scores, sorted by id, and its results.json."""
    shutil.copytree(run, copy)
    for name in ("scores.npz", "report.html"):
        (copy / name).unlink(missing_ok=True)
    cli.main(["test", f"--config={copy / 'config.yaml'}", "--device=cpu", "--data.num_workers=0", *options])
    return load_scores(copy / "scores.npz"), load_results(copy)


def test_vidact_test_scores_a_probe_again_with_the_same_figures(run, tmp_path, capsys):
    before, figures = load_scores(run / "scores.npz"), load_results(run)["test"]
    after, results = scored_again(run, tmp_path / "moved")
    assert after.ids == before.ids
    assert after.paths == before.paths
    np.testing.assert_allclose(after.values, before.values, atol=1e-5 * max(1.0, float(np.abs(before.values).max())))
    again = results["test"]
    for name in ("test_top1", "test_top5", "test_mean_class_accuracy", "test_chance", "videos", "parameters"):
        assert again[name] == figures[name], name
    assert again["checkpoint"] == str(tmp_path / "moved" / "probe.safetensors")
    assert results["probe"] == load_results(run)["probe"]
    assert "the network is the checkpoint's" not in capsys.readouterr().out
    assert (tmp_path / "moved" / "report.html").is_file()


@pytest.mark.slow
def test_vidact_test_scores_a_probe_on_other_clips_and_in_several_views(run, root, tmp_path, capsys):
    other = tmp_path / "other"
    write_clips(other, splits={"train": 1, "val": 0, "test": 1}, classes=CLASSES, seed=5)
    scores, results = scored_again(run, tmp_path / "a", f"--data.root={other}", "--data.views=2x1")
    assert all(path.startswith(str(other)) for path in scores.paths)
    assert results["test 2x1"]["videos"] == len(scores) == 3
    assert results["test"] == load_results(run)["test"]
    table = (other / "clips.csv").read_text().splitlines()
    (other / "clips.csv").write_text("\n".join(line.rpartition(",")[0] for line in table))  # without a split
    everything = [f"--data.root={other}", "--data.test_split=train", "--data.fractions=[1,0,0]"]
    assert len(scored_again(run, tmp_path / "c", *everything)[0]) == 6
    (tmp_path / "few").mkdir()
    shutil.copytree(root / "opening", tmp_path / "few" / "opening")
    shutil.copytree(root / "closing", tmp_path / "few" / "closing")
    with pytest.raises(SystemExit) as stopped:
        scored_again(run, tmp_path / "b", f"--data.root={tmp_path / 'few'}")
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "was trained on 3 classes and" in message
    assert "they differ in blinking star" in message


@pytest.mark.slow
def test_an_attentive_probe_on_windows_of_a_clip_network_is_scored_again(root, tmp_path):
    options = ["--network=videomae_tiny", "--weights=none", "--heads", "attentive", "--device=cpu"]
    cli.main(["probe", f"--data={root}", f"--run={tmp_path / 'run'}", *options])
    before = load_scores(tmp_path / "run" / "scores.npz")
    after, _ = scored_again(tmp_path / "run", tmp_path / "again")
    np.testing.assert_allclose(after.values, before.values, atol=1e-4 * max(1.0, float(np.abs(before.values).max())))


@pytest.mark.slow
def test_a_probe_without_test_clips_is_scored_again_on_its_validation_clips(root, tmp_path):
    clips = tmp_path / "clips"
    shutil.copytree(root, clips)
    table = (clips / "clips.csv").read_text().splitlines()
    (clips / "clips.csv").write_text("\n".join(line for line in table if not line.endswith(",test")))
    cli.main(["probe", str(clips), f"--run={tmp_path / 'run'}", *SMALL, "--heads=knn"])
    before, figures = load_scores(tmp_path / "run" / "scores.npz"), load_results(tmp_path / "run")["test"]
    after, results = scored_again(tmp_path / "run", tmp_path / "again")
    assert after.ids == before.ids
    assert results["test"]["val_top1"] == figures["val_top1"]


@pytest.mark.slow
def test_each_fold_is_scored_again_and_the_folder_of_all_names_them(folds, tmp_path, capsys):
    before = load_scores(folds / "bob" / "scores.npz")
    after, results = scored_again(folds / "bob", tmp_path / "bob")
    assert after.ids == before.ids
    assert results["test"]["test_top1"] == load_results(folds / "bob")["test"]["test_top1"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["test", f"--config={folds / 'config.yaml'}"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert f"{folds} holds several runs, ann, bob, cat, dan" in message
    assert f"such as {folds / 'ann' / 'config.yaml'}" in message


def test_the_configuration_of_a_probe_is_not_trained_and_has_no_last_checkpoint(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", f"--config={run / 'config.yaml'}"])
    assert stopped.value.code == 2
    assert "is the configuration of a probe, whose head is fitted and not trained" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        cli.main(["test", f"--config={run / 'config.yaml'}", "--ckpt=last"])
    assert stopped.value.code == 2
    assert (
        "is the folder of a probe, whose one file, probe.safetensors, is used without --ckpt" in capsys.readouterr().err
    )


# ------------------------------------------------------------------------------------------------ folds, few clips


@pytest.fixture(scope="module")
def people(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of eight clips each, two of a person: ann_0.mp4, ann_1.mp4, …, in no split."""
    folder = tmp_path_factory.mktemp("people")
    for name in CLASSES:
        (folder / name).mkdir()
        for number, clip in enumerate(sorted((root / name).glob("*.mp4"))):
            shutil.copy(clip, folder / name / f"{('ann', 'bob', 'cat', 'dan')[number // 2]}_{number % 2}.mp4")
    return folder


BY_PERSON = [*SMALL, "--group=([^/_]+)_[^/]*$"]


@pytest.fixture(scope="module")
def folds(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds") / "a"
    cli.main(["probe", str(people), f"--run={folder}", *BY_PERSON, "--folds"])
    return folder


def test_folds_hold_out_each_group_once_and_pool_the_scores(folds, people):
    pooled, results = load_scores(folds / "scores.npz"), load_results(folds)
    clips = load_clips(people, group="([^/_]+)_[^/]*$")
    assert sorted(pooled.ids) == sorted(clip.id for clip in clips)
    assert [row["fold"] for row in results["rows"]] == ["ann", "bob", "cat", "dan"]
    wrong = int((pooled.values.argmax(1) != pooled.labels).sum())
    assert results["errors"] == wrong
    assert results["mean_top1"] == pytest.approx(1 - wrong / 24)
    assert results["majority"] == pytest.approx(1 / 3)
    assert "top-1 of a guess" in (folds / "report.html").read_text()
    for person in ("ann", "bob", "cat", "dan"):
        own = load_scores(folds / person / "scores.npz")
        assert {id.split("/")[1].split("_")[0] for id in own.ids} == {person}
        assert load_results(folds / person)["probe"]["validated_on"].endswith("by group inside 18 training clips")
        first = own.paths[0]
        (prediction,) = vidact.predict(first, folds / person / "probe.safetensors", top=1, device="cpu")
        assert prediction.labels[0][0] == CLASS_ORDER[own.values[0].argmax()]


CLASS_ORDER = sorted(CLASSES)


def test_a_fold_equals_the_same_group_held_out(folds, people, tmp_path):
    shutil.copytree(folds / "encodings", tmp_path / "run" / "encodings")
    arguments = [f"--run={tmp_path / 'run'}", *BY_PERSON, "--held_out", "bob", "--fractions", "1", "0", "0"]
    cli.main(["probe", f"--data={people}", *arguments])
    one, other = load_scores(tmp_path / "run" / "scores.npz"), load_scores(folds / "bob" / "scores.npz")
    assert one.ids == other.ids
    assert np.array_equal(one.values, other.values)


def test_the_clips_of_all_folds_are_encoded_once(folds, people, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(task, "features_of", lambda *args: pytest.fail("a clip was encoded again"))
    shutil.copytree(folds / "encodings", tmp_path / "run" / "encodings")
    cli.main(["probe", f"--data={people}", f"--run={tmp_path / 'run'}", *BY_PERSON, "--num_folds=2", "--heads=knn"])
    assert [row["fold"] for row in load_results(tmp_path / "run")["rows"]] == ["ann+bob", "cat+dan"]
    assert "errors of 24" in capsys.readouterr().out


@pytest.mark.slow
def test_a_learning_curve_has_a_row_for_each_number_of_clips_and_is_drawn(folds, people, tmp_path, capsys):
    shutil.copytree(folds / "encodings", tmp_path / "run" / "encodings")
    cli.main(
        [
            "probe",
            f"--data={people}",
            f"--run={tmp_path / 'run'}",
            *BY_PERSON,
            "--folds",
            "--shots",
            "2",
            "1",
            "--draws=3",
        ]
    )
    section = load_results(tmp_path / "run")["shots"]
    assert [row["clips a class"] for row in section["rows"]] == [1, 2, "all"]
    assert [row["draws"] for row in section["rows"]] == [3, 3, 1]
    assert [row["training clips"] for row in section["rows"]] == [3, 6, 18]
    assert section["rows"][2]["mean top1"] == pytest.approx(load_results(folds)["mean_top1"])
    assert all(0 <= row["least"] <= row["mean top1"] <= row["greatest"] <= 1 for row in section["rows"])
    assert (tmp_path / "run" / "plots" / "shots.png").stat().st_size > 1000
    assert "over 3 draws" in capsys.readouterr().out
    cli.main(["report", str(tmp_path / "run")])
    assert "Few clips a class" in (tmp_path / "run" / "report.html").read_text()


def test_a_smaller_draw_is_a_part_of_a_larger_one_and_draws_differ(people):
    clips = load_clips(people).clips
    one, two = drawn(clips, 1, 0, 0), drawn(clips, 2, 0, 0)
    assert [clip.label for clip in two] == [0, 0, 1, 1, 2, 2]
    assert {clip.id for clip in one} < {clip.id for clip in two}
    assert len({tuple(clip.id for clip in drawn(clips, 2, 0, draw)) for draw in range(5)}) > 1


# ------------------------------------------------------------------------------------------------ bad input


def test_folds_and_curves_that_cannot_be_made_are_refused(people, root, tmp_path, capsys):
    data, run = str(people), f"--run={tmp_path / 'run'}"
    assert "folds need --group" in fails([data, run, *SMALL, "--folds"], capsys)
    assert "matches no group in 24 of 24 paths" in fails([data, run, *SMALL, "--group=(x+)", "--folds"], capsys)
    assert "no group eve; " in fails([data, run, *BY_PERSON, "--folds=ann,eve"], capsys)
    assert "give one of the two" in fails([data, run, *BY_PERSON, "--folds=ann", "--num_folds=2"], capsys)
    assert "--held_out is one fold" in fails([data, run, *BY_PERSON, "--folds", "--held_out=ann"], capsys)
    message = fails([data, run, *BY_PERSON, "--folds", "--shots", "1", "9"], capsys)
    assert "--shots asks for 9 clips a class, and blinking star has 6 training clips; give numbers up to 6" in message
    assert "--shots has 0; a class needs one" in fails([data, run, *SMALL, "--shots", "0"], capsys)
    assert "--draws is 0" in fails([data, run, *SMALL, "--shots", "1", "--draws=0"], capsys)
    assert "both name the data" in fails([data, f"--data={root}", *SMALL], capsys)
    assert "no data: name a folder" in fails([*SMALL], capsys)
    assert not (tmp_path / "run").exists()


def test_one_clip_a_class_is_refused_without_validation_clips(people, tmp_path, capsys):
    for name in CLASSES:
        (tmp_path / "few" / name).mkdir(parents=True)
        shutil.copy(people / name / "ann_0.mp4", tmp_path / "few" / name)
    arguments = [str(tmp_path / "few"), f"--run={tmp_path / 'run'}", *SMALL, "--fractions", "1", "0", "0"]
    assert "every class has one training clip and there are no validation clips" in fails(arguments, capsys)


def test_data_that_no_head_can_be_fitted_to_are_refused(root, tmp_path, capsys):
    single = tmp_path / "single"
    shutil.copytree(root / "opening", single / "opening")
    assert "has only one class, 'opening'" in fails([f"--data={single}", *SMALL], capsys)

    table = (root / "clips.csv").read_text()
    several = tmp_path / "several"
    shutil.copytree(root, several)
    (several / "clips.csv").write_text(table.replace("label", "labels", 1))
    assert "is multi-label data" in fails([f"--data={several}", *SMALL], capsys)

    lines = [line.replace(",train", ",test") if line.startswith("closing/") else line for line in table.splitlines()]
    (several / "clips.csv").write_text("\n".join(lines))
    message = fails([f"--data={several}", f"--run={tmp_path / 'run'}", *SMALL], capsys)
    assert "no training clip shows closing, so a head could never answer that" in message


def test_networks_that_give_no_features_are_refused(root, tmp_path, capsys):
    network = frame_classifier(8, 3)
    path = save(network, tmp_path / "detector.safetensors", {"classes": ["a", "b", "c"], "features": {"dim": 8}})
    message = fails([f"--data={root}", f"--network={path}"], capsys)
    assert "FrameClassifier gives no features of images or clips" in message
    arguments = [f"--data={root}", "--network=trn_resnet_tiny", "--weights=none", "--size=32"]
    assert "gives no features of images or clips" in fails(arguments, capsys)


def test_unreadable_clips_are_named(root, run, tmp_path, capsys):
    clips = tmp_path / "clips"
    shutil.copytree(root, clips)
    (clips / "opening" / "0007.mp4").write_text("no video")  # of the split test
    message = fails([f"--data={clips}", f"--run={tmp_path / 'run'}", *SMALL], capsys)
    assert "1 clip of the split test cannot be read" in message
    assert "opening/0007" in message
    shutil.copy(root / "opening" / "0007.mp4", clips / "opening")
    (clips / "opening" / "0000.mp4").write_text("no video")  # one of twelve training clips
    message = fails([f"--data={clips}", f"--run={tmp_path / 'run'}", *SMALL], capsys)
    assert "1 of 12 training clips could not be read" in message
    assert "at most 5% may be skipped. The first is opening/0000" in message


def test_the_folder_of_a_training_is_not_written_to(root, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    message = fails([f"--data={root}", f"--run={tmp_path}", *SMALL], capsys)
    assert f"{tmp_path} is the folder of a training; choose another --run" in message
