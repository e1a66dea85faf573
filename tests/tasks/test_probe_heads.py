"""The heads of probes: what they minimise, how settings are chosen, and what is stored of the encodings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize
from torch import nn

from vidact.batch import ClipBatch
from vidact.features.choices import HEADS
from vidact.features.names import build_network
from vidact.models import tsn_resnet_tiny
from vidact.tasks.probe import (
    NEIGHBOURS,
    STRENGTHS,
    Encodings,
    Part,
    choices_of_views,
    choose_setting,
    columns_of,
    encode,
    fit,
    fit_heads,
    fit_views,
    folds_of,
    validation_parts,
)


def made(clips: int = 60, dim: int = 12, classes: int = 4, noise: float = 1.5, seed: int = 0):
    """Features of classes that overlap, with a feature that is constant and one on another scale."""
    random = np.random.default_rng(seed)
    labels = np.arange(clips) % classes
    centres = np.random.default_rng(9).normal(size=(classes, dim))
    features = centres[labels] + noise * random.normal(size=(clips, dim))
    features[:, 0], features[:, 1] = 3.0, 1000 * features[:, 1] + 500
    return features.astype(np.float32), labels


def logits_of(head: nn.Module, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return head(torch.from_numpy(features).double()).numpy()


@pytest.mark.parametrize("dim", [12, 100])  # fewer features than clips, and more
def test_linear_is_the_logistic_regression_of_scikit_learn(dim):
    (features, labels), (others, truth) = made(dim=dim), made(dim=dim, seed=1)
    strengths = [100.0, 1.0, 0.1]
    scaler = StandardScaler().fit(features.astype(np.float64))
    for strength, head in zip(strengths, fit("linear", features, labels, strengths), strict=True):
        reference = LogisticRegression(C=1 / strength, max_iter=5000, tol=1e-10)
        reference.fit(scaler.transform(features.astype(np.float64)), labels)
        expected = reference.predict_proba(scaler.transform(others.astype(np.float64)))
        computed = torch.from_numpy(logits_of(head, others)).softmax(1).numpy()
        np.testing.assert_allclose(computed, expected, atol=1e-4)
        assert (computed.argmax(1) == truth).sum() == (expected.argmax(1) == truth).sum()


def test_knn_votes_as_scikit_learn_does():
    (features, labels), (others, _) = made(), made(seed=1)
    scaler = StandardScaler().fit(features.astype(np.float64))
    near, far = (normalize(scaler.transform(part.astype(np.float64))) for part in (features, others))

    def weights(distances):  # cosine distances
        return np.exp((1 - distances) / 0.07)

    for neighbours, head in zip((1, 5), fit("knn", features, labels, [1, 5]), strict=True):
        reference = KNeighborsClassifier(neighbours, metric="cosine", weights=weights).fit(near, labels)
        votes = torch.from_numpy(logits_of(head, others)).softmax(1).numpy()
        np.testing.assert_allclose(votes, reference.predict_proba(far), atol=1e-5)


def test_a_prototype_is_the_mean_of_its_class():
    (features, labels), (others, _) = made(), made(seed=1)
    scaler = StandardScaler().fit(features.astype(np.float64))
    near, far = scaler.transform(features.astype(np.float64)), scaler.transform(others.astype(np.float64))
    means = np.stack([near[labels == label].mean(0) for label in range(4)])
    (head,) = fit("prototype", features, labels, [None])
    np.testing.assert_allclose(logits_of(head, others), normalize(far) @ normalize(means).T / 0.07, atol=1e-6)


def test_the_setting_is_the_best_one_on_the_validation_clips():
    (features, labels), (others, truth) = made(dim=40, noise=3), made(dim=40, noise=3, seed=1, clips=200)
    part = Part(features, labels, others, truth)
    setting, accuracy, _ = choose_setting("linear", STRENGTHS, [part])
    heads = fit("linear", features, labels, STRENGTHS)
    each = [float((logits_of(head, others).argmax(1) == truth).mean()) for head in heads]
    assert accuracy == pytest.approx(max(each))
    assert each[STRENGTHS.index(setting)] == max(each)
    assert min(each) < max(each)


def test_the_best_head_comes_first_and_every_kind_can_be_fitted():
    features, labels = made()
    parts, unit = validation_parts(features, labels, [None] * 60, None)
    assert unit == "5-fold cross-validation by clip inside 60 training clips"
    fitted = fit_heads(HEADS, features, labels, parts)
    assert {each.name for each in fitted} == set(HEADS)
    assert [each.accuracy for each in fitted] == sorted((each.accuracy for each in fitted), reverse=True)
    assert all(parameter.dtype == torch.float32 for each in fitted for parameter in each.head.state_dict().values())
    with pytest.raises(ValueError, match=r"heads are \['forest'\]; choose some of linear, knn, prototype"):
        fit_heads(["forest"], features, labels, parts)


def test_cross_validation_keeps_groups_together_and_deals_every_class():
    labels = np.array([0, 0, 0, 1, 1, 1] * 5)
    groups = [f"person {row // 3}" for row in range(30)]
    folds, unit = folds_of(labels, groups)
    assert unit == "group"
    assert all(len({fold for fold, each in zip(folds, groups, strict=True) if each == name}) == 1 for name in groups)
    assert sorted(np.bincount(folds)) == [6] * 5
    folds, unit = folds_of(labels, [None] * 30)
    assert unit == "clip"
    for fold in range(5):
        assert np.bincount(labels[folds == fold]).tolist() == [3, 3]


def test_a_class_that_a_fold_holds_out_whole_counts_as_wrong():
    features, labels = made(clips=12, noise=0.01)
    part = Part(features[labels < 3], labels[labels < 3], features, labels)
    for name, setting in (("linear", 1.0), ("knn", NEIGHBOURS[0]), ("prototype", None)):
        assert choose_setting(name, [setting], [part])[:2] == (setting, pytest.approx(9 / 12))


def test_one_clip_a_class_leaves_nothing_to_compare():
    features, labels = made(clips=4)
    with pytest.raises(ValueError, match="every class has one training clip and there are no validation clips"):
        validation_parts(features, labels, [None] * 4, None)
    (part,), unit = validation_parts(features, labels, [None] * 4, made(clips=8, seed=1))
    assert (len(part.labels), len(part.other_labels), unit) == (4, 8, "8 validation clips")


def test_the_views_that_tell_the_classes_apart_are_chosen():
    """Features of two views beside each other, three statistics each: only the mean of the second shows the class."""
    features, labels = made(dim=8, noise=1.0)
    features[:, :2] = 0
    noise = 20 * np.random.default_rng(3).normal(size=(60, 48)).astype(np.float32)
    noise[:, 24:32] = features
    parts, _ = validation_parts(noise, labels, [None] * 60, None)
    for fitted in fit_views(HEADS, ("frames", "moments"), noise, labels, parts):
        assert fitted.views == ("moments_mean",)
        assert len(fitted.head.mean) == 8
        assert fitted.accuracy > 0.5
    (alone,) = fit_views(["linear"], ("frames", "moments"), noise, labels, [])
    assert alone.views == ("frames", "moments")
    assert (alone.setting, len(alone.head.mean)) == (1.0, 48)
    (clips,) = fit_views(["knn"], (), noise, labels, parts)
    assert (clips.views, len(clips.head.mean)) == ((), 48)


def test_the_columns_of_views_are_theirs():
    views = ("frames", "moments")
    columns = {tuple(chosen): columns_of(chosen, views, 12) for chosen in choices_of_views(views)}
    assert columns == {
        ("frames", "moments"): slice(0, 12), ("frames",): slice(0, 6), ("moments",): slice(6, 12),
        ("frames_mean",): slice(0, 2), ("moments_mean",): slice(6, 8),
    }  # fmt: skip
    assert [columns_of(chosen, ("frames",), 6) for chosen in choices_of_views(("frames",))] == [
        slice(0, 6),
        slice(0, 2),
    ]


# ------------------------------------------------------------------------------------------------ encodings


def stored(run: Path, **changes) -> Encodings:
    options = {"seed": 0, "reading": {"frames": 2}} | changes
    trunk = build_network("resnet_tiny", None, 32)
    torch.manual_seed(options["seed"])
    nn.init.normal_(next(trunk.parameters()))
    return Encodings(run, trunk, options["reading"])


def test_encodings_are_kept_by_the_clip_the_weights_and_the_reading(tmp_path):
    store, state = stored(tmp_path), {"size": 3, "mtime_ns": 5}
    vector = np.arange(store.dim, dtype=np.float32)
    assert store.read("run/a", state) is None
    store.write("run/a", state, vector)
    assert np.array_equal(stored(tmp_path).read("run/a", state), vector)
    assert store.read("run/a", state | {"mtime_ns": 6}) is None  # the clip has changed
    assert stored(tmp_path, seed=1).read("run/a", state) is None  # other weights
    assert stored(tmp_path, reading={"frames": 4}).read("run/a", state) is None
    next(tmp_path.rglob("a.npy")).write_bytes(b"half")
    assert store.read("run/a", state) is None


def test_a_network_that_gives_nan_is_named_with_the_clip(tmp_path):
    trunk = build_network("resnet_tiny", None, 32)
    nn.init.constant_(next(trunk.parameters()), float("nan"))
    store = Encodings(tmp_path, trunk, {})
    batch = ClipBatch(torch.zeros(1, 1, 2, 3, 32, 32), torch.zeros(1, dtype=torch.long), ["run/a"])
    with pytest.raises(ValueError, match="ResNet gives NaN or infinity for the clip run/a, so no head can be fitted"):
        encode(trunk.eval(), [batch], store, {"run/a": {}}, torch.device("cpu"), print)
    assert not list(tmp_path.rglob("*.npy"))


def test_features_of_clips_outside_the_data_lie_in_the_folder_of_the_run(tmp_path: Path) -> None:
    """Their ids are absolute paths, beside which nothing may be written."""
    clips = tmp_path / "clips"
    clips.mkdir()
    state = {"size": 1, "mtime_ns": 2}
    store = Encodings(tmp_path / "run", tsn_resnet_tiny(3, weights=None, size=32, width=8), {})
    features = np.arange(store.dim, dtype=np.float32)
    for number, clip in enumerate((f"{clips}/a", "clips/a", "absolute/a")):
        assert store.read(clip, state) is None
        store.write(clip, state, features + number)
    for number, clip in enumerate((f"{clips}/a", "clips/a", "absolute/a")):
        np.testing.assert_array_equal(store.read(clip, state), features + number)
    assert list(clips.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"clips", "run"}
