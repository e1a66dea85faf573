"""Scores live in a file, are joined by video id and never by position, and refuse what does not belong together."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vidact.metrics import topk_accuracy
from vidact.results.figures import load_results, save_results
from vidact.results.scores import Scores, fuse, fuse_files, load_scores, probabilities, search_weights, stack

CLASSES = ["jump", "run", "walk", "wave"]


def make(seed=0, videos=40, kind="logits", multi_label=False, skill=1.0, **changes):
    """Scores of a network that knows the truth as well as ``skill`` says; the truth does not depend on the seed."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, 4, videos)
    values = rng.normal(size=(videos, 4)) + skill * np.eye(4)[labels]
    if kind == "softmax":
        values = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    if multi_label:
        labels = np.random.default_rng(98).integers(0, 2, (videos, 4))
    arguments = {"ids": [f"a/clip {n}" for n in range(videos)], "labels": labels, "values": values} | changes
    return Scores(**({"classes": CLASSES, "kind": kind} | arguments))


def shuffled(scores, seed=5):
    order = np.random.default_rng(seed).permutation(len(scores))
    return Scores(
        [scores.ids[n] for n in order], scores.labels[order], scores.values[order], scores.classes, scores.kind
    )


# ---- the file


@pytest.mark.parametrize("multi_label", [False, True])
def test_file_returns_what_was_saved(tmp_path, multi_label):
    scores = make(multi_label=multi_label, views="10x3", paths=[f"/видео/клип {n}.mp4" for n in range(40)])
    again = load_scores(scores.save(tmp_path / "new" / "scores.npz"))
    assert (again.ids, again.classes, again.kind, again.views) == (scores.ids, CLASSES, "logits", "10x3")
    assert again.paths == scores.paths
    np.testing.assert_array_equal(again.values, scores.values)
    np.testing.assert_array_equal(again.labels, scores.labels)
    assert again.labels.dtype == (np.float32 if multi_label else np.int64)
    assert again.multi_label is multi_label


def test_file_is_read_without_pickle(tmp_path):
    path = make().save(tmp_path / "scores.npz")
    with np.load(path, allow_pickle=False) as file:
        assert {"ids", "labels", "values", "classes"} <= set(file.files)
        assert all(file[name].dtype != object for name in file.files)


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = make(seed=1).save(tmp_path / "scores.npz")
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="disk full"):
        make(seed=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz is not a file; `vidact test` writes"):
        load_scores(tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz \(5 bytes\) is not a scores file"):
        load_scores(text)
    other = tmp_path / "other.npz"
    np.savez(other, features=np.zeros(3))
    with pytest.raises(ValueError, match="holds the arrays features without the mark"):
        load_scores(other)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, format=np.array(["x", None], dtype=object))
    with pytest.raises(ValueError, match=r"pickled\.npz is damaged or not a scores file \(Object arrays"):
        load_scores(pickled)


@pytest.mark.parametrize("keep", [0, 10, 100, 0.5, 0.99])
def test_truncated_file_is_named(tmp_path, keep):
    path = make().save(tmp_path / "scores.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"scores\.npz"):
        load_scores(path)


def test_flipped_byte_is_noticed(tmp_path):
    path = make().save(tmp_path / "scores.npz")
    content = bytearray(path.read_bytes())
    at = content.index(b"values.npy") + 300
    content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_scores(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": ["a"] * 40}, "video 'a' has 40 rows"),
        ({"kind": "sigmoid"}, "kind is 'sigmoid'"),
        ({"values": np.zeros((40, 3))}, r"40 ids and 4 classes need \(40, 4\)"),
        ({"labels": np.zeros(39, int)}, r"labels have the shape \(39,\)"),
        ({"labels": np.full(40, 4)}, "labels reach from 4 to 4; with 4 classes"),
        ({"paths": ["a.mp4"]}, "1 paths for 40 ids"),
        ({"values": np.full((40, 4), np.nan)}, "40 of 40 videos have NaN scores, the first is 'a/clip 0'"),
    ],
)
def test_impossible_scores_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)


# ---- fusing


@pytest.mark.parametrize("kind", ["logits", "softmax", "log_softmax"])
def test_shuffled_files_fuse_identically(kind):
    """By id, never by position."""
    rgb, flow = make(seed=1), make(seed=2)
    straight = fuse([rgb, flow], [1, 1.5], kind)
    mixed = fuse([rgb, shuffled(flow)], [1, 1.5], kind)
    assert mixed.ids == straight.ids
    np.testing.assert_array_equal(mixed.values, straight.values)
    np.testing.assert_array_equal(mixed.labels, straight.labels)


def test_fused_logits_are_the_weighted_mean():
    rgb, flow = make(seed=1), make(seed=2)
    np.testing.assert_allclose(
        fuse([rgb, flow], [1, 1.5]).values, (rgb.values + 1.5 * flow.values) / 2.5, rtol=1e-6, atol=1e-6
    )


def test_only_the_ratio_of_weights_matters():
    parts = [make(seed=1), make(seed=2)]
    np.testing.assert_allclose(fuse(parts, [1, 3]).values, fuse(parts, [10, 30]).values, rtol=1e-6)
    np.testing.assert_array_equal(fuse(parts).values, fuse(parts, [2, 2]).values)


def test_fused_probabilities_are_probabilities():
    fused = fuse([make(seed=1), make(seed=2, kind="softmax")], [1, 1.5], "softmax")
    assert fused.kind == "softmax"
    np.testing.assert_allclose(fused.values.sum(1), 1, rtol=1e-6)


def test_log_softmax_multiplies_probabilities():
    rgb, flow = make(seed=1), make(seed=2)
    product = probabilities(rgb) * probabilities(flow)
    fused = fuse([rgb, flow], kind="log_softmax")
    assert fused.kind == "logits"
    np.testing.assert_array_equal(fused.values.argmax(1), product.argmax(1))


def test_a_probability_of_zero_stays_finite():
    sure = make(kind="softmax", values=np.eye(4)[np.zeros(40, int)])
    assert np.isfinite(fuse([sure, sure], kind="log_softmax").values).all()


def test_multi_label_parts_are_fused_by_sigmoid():
    parts = [make(seed=1, multi_label=True), make(seed=2, multi_label=True)]
    sigmoids = [1 / (1 + np.exp(-part.values)) for part in parts]
    np.testing.assert_allclose(fuse(parts, kind="softmax").values, sum(sigmoids) / 2, rtol=1e-5)


def test_one_part_alone_is_itself():
    part = make()
    np.testing.assert_array_equal(fuse([part], [3]).values, part.values)


def test_different_classes_are_refused_and_named():
    with pytest.raises(ValueError, match="class 1 is 'run' in rgb and 'sit' in flow"):
        fuse([make(), make(classes=["jump", "sit", "walk", "wave"])], names=["rgb", "flow"])
    with pytest.raises(ValueError, match="same in another order"):
        fuse([make(), make(classes=["run", "jump", "walk", "wave"])])
    five = make(classes=[*CLASSES, "sit"], values=np.zeros((40, 5)))
    with pytest.raises(ValueError, match=r"class 4 is None in part 1 and 'sit' in part 2.*has 4 classes, part 2 has 5"):
        fuse([make(), five])


def test_different_videos_are_refused_unless_asked():
    short = make(seed=2, videos=30)
    with pytest.raises(ValueError, match="10 of 40 videos of part 1 are not in part 2, such as 'a/clip 30'"):
        fuse([make(), short])
    with pytest.raises(ValueError, match=r"missing=intersect"):
        fuse([short, make()])
    assert fuse([make(), short], missing="intersect").ids == short.ids
    elsewhere = make(ids=[f"b/{n}" for n in range(40)])
    with pytest.raises(ValueError, match="no video is in every part"):
        fuse([make(), elsewhere], missing="intersect")


def test_different_labels_are_refused_and_named():
    other = make(seed=2)
    other.labels[3] = (other.labels[3] + 1) % 4
    with pytest.raises(ValueError, match="1 video has different labels: 'a/clip 3' is"):
        fuse([make(), other])


def test_softmax_scores_have_no_logits():
    with pytest.raises(ValueError, match="part 2 holds softmax scores, from which its logits cannot be known"):
        fuse([make(), make(kind="softmax")])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": [1]}, "1 weights for 2 parts"),
        ({"weights": [1, -1]}, "must be 0 or more"),
        ({"weights": [0, 0]}, "one of them more than 0"),
        ({"weights": [1, np.nan]}, "must be 0 or more"),
        ({"kind": "sum"}, "kind is 'sum'"),
        ({"missing": "ignore"}, "missing is 'ignore'"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        fuse([make(seed=1), make(seed=2)], **arguments)


def test_scores_stand_beside_answers_that_look_at_nothing():
    labels = np.array([0, 0, 0, 1, 2, 2])
    beside = Scores([str(n) for n in range(6)], labels, np.eye(3)[labels], ["walk", "run", "sit"]).beside_yardsticks()
    assert beside == {
        "chance": pytest.approx(1 / 3), "majority": 0.5, "majority_class": "walk",
        "verdict": "the accuracy (1.000) is not surely better than always answering 'walk' (0.500)",  # 3 of 3 tosses
    }  # fmt: skip
    many = np.tile(labels, 4)
    beside = Scores([str(n) for n in range(24)], many, np.eye(3)[many], ["walk", "run", "sit"]).beside_yardsticks()
    assert beside["verdict"] == ""


def test_scores_that_are_no_better_than_the_majority_are_called_so():
    labels = np.tile([0, 0, 0, 1], 10)
    constant = np.tile([0.9, 0.1], (40, 1))
    beside = Scores([str(n) for n in range(40)], labels, constant, ["sit", "run"]).beside_yardsticks()
    assert beside["verdict"] == "the accuracy (0.750) is no better than always answering 'sit' (0.750)"


def test_several_labels_have_the_map_of_a_guess():
    labels = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], float)
    beside = Scores(list("abcd"), labels, np.zeros((4, 2)), ["x", "y"]).beside_yardsticks()
    assert beside == {
        "chance_map": pytest.approx(0.625),
        "verdict": "the mAP (0.625) is no better than a guess's (0.625)",
    }


def test_folds_are_stacked():
    first = make(videos=10)
    second = make(videos=10, ids=[f"b/{n}" for n in range(10)])
    pooled = stack([first, second])
    assert pooled.ids == first.ids + second.ids
    assert topk_accuracy(pooled.values, pooled.labels) == topk_accuracy(first.values, first.labels)
    with pytest.raises(ValueError, match="has 2 rows"):
        stack([first, first])
    with pytest.raises(ValueError, match="class 1 is 'run'"):
        stack([first, make(videos=10, classes=["jump", "sit", "walk", "wave"])])


# ---- searching weights


def slow_search(parts, steps):
    best = (-1.0, 0.0, None)
    for first in range(steps + 1):
        for second in range(steps + 1 - first):
            weights = [first, second, steps - first - second]
            figure = topk_accuracy(fuse(parts, weights).values, parts[0].labels)
            best = max(best, (figure, -sum(w * w for w in weights), weights))
    return best


def test_search_finds_what_trying_all_finds():
    parts = [make(seed=seed, videos=120, skill=skill) for seed, skill in ((1, 0.5), (2, 1.5), (3, 1.0))]
    weights, figure = search_weights(parts, steps=6)
    best = slow_search(parts, 6)
    assert figure == best[0]
    assert sum(weights) == pytest.approx(1)
    assert sorted(np.round(np.array(weights) * 6)) == sorted(best[2])
    assert topk_accuracy(fuse(parts, weights).values, parts[0].labels) == pytest.approx(figure)


def test_search_prefers_even_weights():
    part = make()
    assert search_weights([part, shuffled(part)], steps=10)[0] == [0.5, 0.5]


def test_search_gives_noise_no_weight():
    good, noise = make(videos=400, skill=4.0), make(seed=3, videos=400, skill=0.0)
    noise.values *= 10
    assert search_weights([good, noise])[0] == [1.0, 0.0]


def test_search_refuses_a_grid_without_end():
    with pytest.raises(ValueError, match="weightings to try; use fewer steps"):
        search_weights([make()] * 8, steps=50)


# ---- files


@pytest.fixture
def files(tmp_path):
    rgb, flow = make(seed=1, videos=200), shuffled(make(seed=2, videos=200))
    return [rgb.save(tmp_path / "rgb" / "scores.npz"), flow.save(tmp_path / "flow" / "scores.npz")]


def test_fuse_files_prints_and_writes(files, tmp_path, capsys):
    figures = fuse_files(files, [1, 1.5], out=tmp_path / "both")
    printed = capsys.readouterr().out
    for words in ("rgb", "flow", "fused", "top1", "mean_class_accuracy", "wave", "change"):
        assert words in printed
    fused = load_scores(tmp_path / "both" / "scores.npz")
    assert figures["fused"]["top1"] == topk_accuracy(fused.values, fused.labels)
    assert figures["fused"]["top1"] > max(figures["rgb"]["top1"], figures["flow"]["top1"])
    section = load_results(tmp_path / "both")["fuse"]
    assert section["top1"] == figures["fused"]["top1"]
    assert section["parts"]["rgb"]["top1"] == figures["rgb"]["top1"]
    assert (section["weights"], section["fused_as"], section["videos"]) == ([1, 1.5], "logits", 200)
    assert load_results(tmp_path / "both")["command"]


def test_fuse_files_takes_run_folders(files, capsys):
    assert fuse_files([file.parent for file in files])["fused"] == fuse_files(files)["fused"]


def test_fuse_files_searches_on_validation_files(files, tmp_path, capsys):
    noise = make(seed=9, videos=200, skill=0.0)
    noise.values *= 10
    validation = [make(seed=7, videos=200, skill=4.0).save(tmp_path / "a.npz"), noise.save(tmp_path / "b.npz")]
    figures = fuse_files(files, search_on=validation)
    assert "weights 1, 0 reach" in capsys.readouterr().out
    assert figures["fused"] == figures["rgb"]
    with pytest.raises(ValueError, match="weights and search_on were both given"):
        fuse_files(files, [1, 1], search_on=validation)
    with pytest.raises(ValueError, match="search_on has 1 file for 2 parts"):
        fuse_files(files, search_on=validation[:1])


def test_fuse_files_compares_the_same_videos(files, tmp_path, capsys):
    few = make(seed=4, videos=50).save(tmp_path / "few.npz")
    figures = fuse_files([files[0], few], missing="intersect")
    assert "150 of 200 videos are not in every part" in capsys.readouterr().out
    rgb = load_scores(files[0])
    assert figures["rgb"]["top1"] == topk_accuracy(rgb.values[:50], rgb.labels[:50])


def test_fuse_files_of_multi_label_data(tmp_path, capsys):
    paths = [make(seed=n, multi_label=True).save(tmp_path / f"{n}.npz") for n in (1, 2)]
    assert set(fuse_files(paths)["fused"]) == {"map"}


def test_fuse_files_of_two_classes(tmp_path, capsys):
    """Top-5 of two classes, one of them without a video."""
    two = Scores(["a", "b"], np.array([0, 0]), np.eye(2), ["no", "yes"])
    paths = [two.save(tmp_path / "1.npz"), two.save(tmp_path / "2.npz")]
    assert fuse_files(paths)["fused"]["top5"] == 1.0
    assert "1 class has no video" in capsys.readouterr().out


def test_a_fusion_needs_two_files(files):
    with pytest.raises(ValueError, match="1 scores file was given"):
        fuse_files(files[:1])


# ---- results.json


def test_results_keep_what_other_commands_found(tmp_path):
    save_results(tmp_path, {"test": {"top1": 0.5, "stale": 1}, "epochs": 3}, "vidact train", views="1x1")
    save_results(tmp_path, {"ten": {"top1": np.float32(0.75), "loss": float("nan")}}, "vidact test --data.views 10x3")
    save_results(tmp_path, {"test": {"top1": np.int64(1)}}, "vidact test")
    assert load_results(tmp_path) == {
        "epochs": 3,
        "views": "1x1",
        "ten": {"top1": 0.75, "loss": None},
        "test": {"top1": 1},
        "command": "vidact test",
        "commands": {
            "vidact train": ["epochs", "views"],
            "vidact test --data.views 10x3": ["ten"],
            "vidact test": ["test"],
        },
    }


def test_results_are_valid_json_for_everyone(tmp_path):
    path = save_results(tmp_path, {"a": float("inf"), "b": np.arange(2), "c": tmp_path}, "x")
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_bad_results_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results\.json does not exist; `vidact test` writes it"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"test": ')
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no figures by name"):
        load_results(tmp_path)
    with pytest.raises(ValueError, match="no figure can be called 'command'"):
        save_results(tmp_path / "new", {"command": 1}, "vidact test")


def test_scores_need_no_heavy_package():
    """Level 0: reading a scores file loads neither torch, Lightning nor matplotlib."""
    heavy = ("torch", "lightning", "matplotlib")
    code = f"import sys, vidact.results.scores; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
